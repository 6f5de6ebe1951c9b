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

/// What a socket is ready for. Edge-triggered: reported once, when it becomes ready.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// The key that the socket was registered with.
    pub token: u64,
    /// There may be something to receive or to accept; this includes the end of the stream and errors.
    pub readable: bool,
    /// There may be room to send, or an error to be read.
    pub writable: bool,
    /// The peer has closed its side, or there is urgent data or an error: a short receive does not mean
    /// that the socket is drained.
    pub read_on: bool,
}

/// The system calls. Only [`wait`](Sys::wait) blocks. A call that is interrupted (EINTR) is repeated.
pub trait Sys {
    /// A socket; dropping it closes it.
    type Socket: std::fmt::Debug;

    /// Reads the monotonic clock.
    fn now(&self) -> Time;

    /// A waker that ends the current or the next [`wait`](Sys::wait), from any thread.
    fn waker(&self) -> Waker;

    /// Waits until a socket is ready, the waker is used or `deadline` is reached, and puts what is ready
    /// into `ready`, which must be empty. Without a deadline it waits without limit; with one that has
    /// passed it does not wait. It may return early with nothing ready. On a machine with a free core it
    /// returns at most some tens of microseconds after the deadline.
    ///
    /// # Errors
    /// None that can be recovered from.
    fn wait(&mut self, deadline: Option<Time>, ready: &mut Vec<Readiness>) -> Result<(), Errno>;

    /// Registers a socket for all kinds of readiness, edge-triggered. The next [`wait`](Sys::wait)
    /// reports what it is ready for now.
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

    /// Makes a socket and begins to connect it. When the socket becomes writable,
    /// [`connect_error`](Sys::connect_error) returns the result.
    ///
    /// # Errors
    /// Those of socket, bind and connect; never EINPROGRESS.
    fn connect(
        &mut self,
        target: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<Self::Socket, Errno>;

    /// The result of connecting.
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

    /// Bytes that were sent and that the peer has not acknowledged; `None` if that is not known.
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
