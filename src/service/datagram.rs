//! Services of datagrams.

use std::net::{IpAddr, SocketAddr};

use crate::net::mmsg::Arrived;

/// What a server does with datagrams. Each thread that receives datagrams has a service of its own.
///
/// [`ServiceFactory::datagrams`](super::ServiceFactory::datagrams) makes it. Like a
/// [`Service`](super::Service), it does no I/O, does not block, and should not allocate.
///
/// ```
/// use echopool::service::{Arrival, DatagramService};
///
/// /// Replies with the sum of the bytes.
/// struct Sum;
///
/// impl DatagramService for Sum {
///     fn reply(&mut self, datagram: &mut [u8], _: Arrival<'_>) -> Option<usize> {
///         let sum = datagram.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
///         *datagram.first_mut()? = sum;
///         Some(1)
///     }
/// }
/// ```
pub trait DatagramService {
    /// Handles a datagram. Writes the reply in its place, and returns the length of the reply. `None`:
    /// there is no reply.
    ///
    /// The source of a datagram can be forged, so a reply is never longer than the datagram: a
    /// greater length means the whole.
    fn reply(&mut self, datagram: &mut [u8], arrival: Arrival<'_>) -> Option<usize>;

    /// Whether the system reports the time and the hop limit of each datagram. Default: no.
    fn needs_times(&self) -> bool {
        false
    }

    /// Memory that the service has allocated, in bytes, for the sum at start. Default: 0.
    fn memory_bytes(&self) -> u64 {
        0
    }
}

/// What the system reports about a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    source: SocketAddr,
    arrived: &'a Arrived,
}

impl<'a> Arrival<'a> {
    /// `None` if the source is not known.
    #[inline]
    pub(crate) fn new(arrived: &'a Arrived) -> Option<Arrival<'a>> {
        Some(Arrival { source: arrived.source?, arrived })
    }

    /// The source address in the datagram. It can be forged.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// The address of this machine that it was sent to.
    pub fn local(&self) -> Option<IpAddr> {
        self.arrived.local
    }

    /// When the kernel received it, in nanoseconds since 1970. `None` unless the service
    /// [needs times](DatagramService::needs_times).
    pub fn received_unix_ns(&self) -> Option<u64> {
        self.arrived.at_unix_ns
    }

    /// Its hop limit (TTL) when it arrived. `None` unless the service
    /// [needs times](DatagramService::needs_times).
    pub fn hop_limit(&self) -> Option<u8> {
        self.arrived.hop_limit
    }
}
