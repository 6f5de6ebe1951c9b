//! The discard service (RFC 863): discards its input and never sends anything.

use crate::config::Limits;
use crate::service::{Answer, Connection, Service, ServiceFactory, ServicePlan};

/// Reads and discards. Closes when the client has closed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl Service for Discard {
    type Session = ();

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.input.consume(connection.input.len());
        Answer::Continue
    }
}

impl ServiceFactory for Discard {
    type Service = Discard;

    fn plan(self, _: &Limits) -> ServicePlan<Discard> {
        ServicePlan::new(|_| Discard)
    }
}
