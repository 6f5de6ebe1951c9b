//! The discard service (RFC 863): discards its input and never sends anything.

use crate::config::Limits;
use crate::service::{
    Answer, Arrival, Connection, DatagramService, Service, ServiceFactory, ServicePlan,
};

/// Reads and discards. Closes when the client has closed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl Service for Discard {
    type Session = ();

    fn can_move(&self, _: u64, _: &()) -> bool {
        true
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.input.consume(connection.input.len());
        Answer::Continue
    }
}

/// Sends nothing back.
impl DatagramService for Discard {
    fn reply(&mut self, _: &mut [u8], _: Arrival<'_>) -> Option<usize> {
        None
    }
}

impl ServiceFactory for Discard {
    type Service = Discard;

    fn datagrams(&self, _: usize) -> Option<Box<dyn DatagramService + Send>> {
        Some(Box::new(Discard))
    }

    fn plan(self, _: &Limits) -> ServicePlan<Discard> {
        ServicePlan::new(|_| Discard)
    }
}
