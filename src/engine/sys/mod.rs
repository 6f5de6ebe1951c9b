//! The system calls that the readiness engine is made of, as a trait, so that the same engine runs
//! on a real kernel ([`Kernel`]) and on a simulated one.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use crate::base::endpoint::Peer;
use crate::base::time::Time;
use crate::error::Errno;

#[cfg(test)]
pub(crate) mod faulty;
mod kernel;
#[cfg(test)]
pub(crate) mod scripted;

#[cfg(feature = "internals")]
pub use kernel::polled_in_vain;
pub use kernel::{Kernel, monotonic_now};

pub use crate::net::bind::Listening;

/// What the system says of a socket. Edge-triggered: said once when it begins to be true.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// The key that the socket was registered with.
    pub token: u64,
    /// There may be something to receive or to accept, the end of the stream and errors included.
    pub readable: bool,
    /// There may be room to send, or an error to be told.
    pub writable: bool,
    /// The peer has closed its side, or there is urgent data, or an error: a short receive does
    /// not mean that the socket is drained.
    pub read_on: bool,
}

/// The system calls. None of them blocks but [`wait`](Sys::wait). A call that was interrupted
/// (EINTR) is repeated inside.
pub trait Sys {
    /// A socket; dropping it closes it.
    type Socket: std::fmt::Debug;

    /// Reads the monotonic clock.
    fn now(&self) -> Time;

    /// Something that ends the current or the next [`wait`](Sys::wait), from any thread.
    fn waker(&self) -> Waker;

    /// Waits until a socket is ready, the waker is used or `deadline` is reached (`None`: without
    /// limit; a time that has passed: not at all), and puts what is ready into `ready`, which is
    /// empty. May come back early with nothing, but never later than the deadline by more than some
    /// tens of microseconds on a machine that has a core to spare.
    ///
    /// # Errors
    /// None that can be recovered from.
    fn wait(&mut self, deadline: Option<Time>, ready: &mut Vec<Readiness>) -> Result<(), Errno>;

    /// Registers a socket for all kinds of readiness, edge-triggered, once and for all. What is
    /// ready now is told by the next [`wait`](Sys::wait).
    ///
    /// # Errors
    /// ENOMEM, ENOSPC.
    fn register(&mut self, socket: &Self::Socket, token: u64) -> Result<(), Errno>;

    /// Accepts a connection.
    ///
    /// # Errors
    /// EAGAIN if none waits; EMFILE, ENFILE, ENOBUFS, ENOMEM; ECONNABORTED, EPROTO and other errors
    /// of the connection that was to be accepted.
    fn accept(&mut self, listener: &Listening<Self::Socket>)
    -> Result<(Self::Socket, Peer), Errno>;

    /// The number of connections that wait in a listener's backlog, as far as the system tells.
    fn backlog(&self, listener: &Listening<Self::Socket>) -> u32;

    /// Makes a socket and begins to connect it. The outcome is told by
    /// [`connect_error`](Sys::connect_error) when the socket becomes writable.
    ///
    /// # Errors
    /// Those of socket, bind and connect; never EINPROGRESS.
    fn connect(
        &mut self,
        target: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<Self::Socket, Errno>;

    /// How connecting went.
    ///
    /// # Errors
    /// ECONNREFUSED, ETIMEDOUT, ENETUNREACH and so on.
    fn connect_error(&mut self, socket: &Self::Socket) -> Result<(), Errno>;

    /// Receives into the buffers, in order; 0 is the end of the stream.
    ///
    /// # Errors
    /// EAGAIN if nothing is there; ECONNRESET, ETIMEDOUT.
    fn recv(
        &mut self,
        socket: &Self::Socket,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Result<usize, Errno>;

    /// Sends from the buffers, in order, as much as there is room for.
    ///
    /// # Errors
    /// EAGAIN if there is none; EPIPE (without a signal), ECONNRESET.
    fn send(&mut self, socket: &Self::Socket, buffers: &[IoSlice<'_>]) -> Result<usize, Errno>;

    /// Closes the sending side: FIN behind what was sent.
    ///
    /// # Errors
    /// ENOTCONN if the peer has reset the connection.
    fn shutdown(&mut self, socket: &Self::Socket) -> Result<(), Errno>;

    /// Bytes that were sent and that the peer has not acknowledged; `None` where that is not known.
    fn unacknowledged(&self, _socket: &Self::Socket) -> Option<u32> {
        None
    }

    /// Closes a socket with RST (SO_LINGER of zero): the peer learns that it did not get all.
    fn reset(&mut self, socket: Self::Socket);

    /// Closes a socket.
    fn close(&mut self, socket: Self::Socket) {
        drop(socket);
    }
}
