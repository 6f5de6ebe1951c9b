//! The echo service (RFC 862): sends its input back from the same buffers.

use crate::config::Limits;
use crate::service::{
    Answer, Arrival, Connection, DatagramService, Service, ServiceFactory, ServicePlan,
};

/// Sends every byte back in the buffer it arrived in. Closes when the client has closed and
/// everything is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Service for Echo {
    type Session = ();

    const HEARS_SENT: bool = false;

    fn can_move(&self, _: u64, _: &()) -> bool {
        true
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.output.append(connection.input);
        Answer::Continue
    }
}

/// Sends every datagram back.
impl DatagramService for Echo {
    fn reply(&mut self, datagram: &mut [u8], _: Arrival<'_>) -> Option<usize> {
        Some(datagram.len())
    }
}

impl ServiceFactory for Echo {
    type Service = Echo;

    fn datagrams(&self, _: usize) -> Option<Box<dyn DatagramService + Send>> {
        Some(Box::new(Echo))
    }

    fn plan(self, _: &Limits) -> ServicePlan<Echo> {
        ServicePlan::new(|_| Echo)
    }
}
