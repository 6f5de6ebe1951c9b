//! The sockets of a thread, its clocks, and its waits, as a seam: the tests have a simulated network
//! with its own time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use echopool::error::Errno;
use echopool::internals::{
    self, Batch, ClockError, Sent, Wait, clock_error, report_times_and_hop_limits, unix_now_ns,
};
use echopool::time::Time;
use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::wait::Sockets;
use crate::traffic::datagram::BATCH;

/// What a wait has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    /// So many sockets have something to read.
    Found(usize),
    /// None had anything at this time or later. It is not after the look, as the present may be: the
    /// process can be stopped between the two.
    Nothing(Time),
}

/// Sockets that are numbered in the order in which they were opened, one batch of datagrams that
/// were received, and one of those that are to be sent.
pub trait Net {
    /// The present, on the clock of the waits.
    fn now(&self) -> Time;

    /// The same on the clock of the day, in nanoseconds since 1970.
    fn unix_now_ns(&self) -> u64;

    /// How far the clock of the day may be wrong.
    fn clock_error(&self) -> ClockError;

    /// Opens a socket that receives from this address alone. `is_timed`: whether it reports when a
    /// datagram has arrived.
    ///
    /// # Errors
    /// There is none. It has no number then.
    fn open(&mut self, to: SocketAddr, source: Option<IpAddr>, is_timed: bool) -> io::Result<()>;

    /// How many sockets have something to read now.
    ///
    /// # Errors
    /// What the system says.
    fn look(&mut self) -> io::Result<usize>;

    /// Waits until a socket has something to read, or until this time. It may return earlier with
    /// nothing.
    ///
    /// # Errors
    /// What the system says.
    fn wait(&mut self, until: Time) -> io::Result<Waited>;

    /// The number of a socket that the last look or wait has found.
    fn ready(&self, nth: usize) -> usize;

    /// Receives at most one batch at a socket, in place of the one before. Returns how many.
    ///
    /// # Errors
    /// EAGAIN if there is nothing; or what the system reports for the socket.
    fn receive(&mut self, socket: usize) -> Result<usize, Errno>;

    /// The bytes of datagram number `at` of the batch.
    fn datagram(&self, at: usize) -> &[u8];

    /// When it arrived, in nanoseconds since 1970, if the socket reports it.
    fn arrived_unix_ns(&self, at: usize) -> Option<u64>;

    /// A buffer of an outgoing datagram, which [`push`](Self::push) queues.
    fn buffer_mut(&mut self, at: usize) -> &mut [u8];

    /// Queues the first bytes of a buffer.
    fn push(&mut self, at: usize, length: usize);

    /// Sends what is queued.
    fn send(&mut self, socket: usize) -> Sent;
}

/// The system's.
pub struct System {
    incoming: Batch,
    outgoing: Batch,
    opened: Vec<UdpSocket>,
    sockets: Sockets,
}

impl System {
    /// No sockets yet. `longest`: bytes of a datagram, at most.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn new(longest: usize) -> io::Result<System> {
        Ok(System {
            // A byte more, so that a reply that is too long shows.
            incoming: Batch::new(BATCH, longest + 1),
            outgoing: Batch::new(BATCH, longest),
            opened: Vec::new(),
            sockets: Sockets::new()?,
        })
    }
}

impl Net for System {
    #[inline]
    fn now(&self) -> Time {
        internals::now()
    }

    #[inline]
    fn unix_now_ns(&self) -> u64 {
        unix_now_ns()
    }

    fn clock_error(&self) -> ClockError {
        clock_error()
    }

    fn open(&mut self, to: SocketAddr, source: Option<IpAddr>, is_timed: bool) -> io::Result<()> {
        let socket = open(to, source)?;
        if is_timed {
            let is_ipv6 = socket.local_addr()?.is_ipv6();
            report_times_and_hop_limits(&socket, is_ipv6).map_err(|(_, error)| error)?;
        }
        self.sockets.add(&socket, self.opened.len())?;
        self.opened.push(socket);
        Ok(())
    }

    #[inline]
    fn look(&mut self) -> io::Result<usize> {
        self.sockets.look()
    }

    #[inline]
    fn wait(&mut self, until: Time) -> io::Result<Waited> {
        self.sockets.wait(until)
    }

    #[inline]
    fn ready(&self, nth: usize) -> usize {
        self.sockets.ready(nth)
    }

    #[inline]
    fn receive(&mut self, socket: usize) -> Result<usize, Errno> {
        self.incoming.receive(&self.opened[socket], Wait::No)
    }

    #[inline]
    fn datagram(&self, at: usize) -> &[u8] {
        self.incoming.datagram(at)
    }

    #[inline]
    fn arrived_unix_ns(&self, at: usize) -> Option<u64> {
        self.incoming.arrived(at).at_unix_ns
    }

    #[inline]
    fn buffer_mut(&mut self, at: usize) -> &mut [u8] {
        self.outgoing.buffer_mut(at)
    }

    #[inline]
    fn push(&mut self, at: usize, length: usize) {
        self.outgoing.push(at, length);
    }

    #[inline]
    fn send(&mut self, socket: usize) -> Sent {
        self.outgoing.send(&self.opened[socket])
    }
}

/// Bytes of a socket's receive buffer, if the system allows as much (net.core.rmem_max).
const RECEIVE_BUFFER: usize = 4 << 20;

/// A socket that receives from this address alone.
fn open(to: SocketAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((source.unwrap_or(any), 0))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    // As much as the system allows: replies that lie here in a pause are not lost.
    let _ = set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
    Ok(socket)
}
