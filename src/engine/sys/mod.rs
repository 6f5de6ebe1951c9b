//! The system calls that the readiness engine uses, as a trait, so that the same engine runs on a
//! real kernel ([`Kernel`]) and on a simulated one.

use std::io::{IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::task::Waker;

use crate::base::endpoint::{Endpoint, Peer};
use crate::base::time::Time;
use crate::error::Errno;
use crate::net::sockopt::TcpInfo;
use crate::shared::moved::{Passed, Passing};

#[cfg(test)]
pub(crate) mod faulty;
mod kernel;
#[cfg(test)]
pub(crate) mod scripted;
mod wall_clock;

#[cfg(feature = "internals")]
pub use kernel::polled_in_vain;
pub use kernel::{Kernel, monotonic_now};
pub use wall_clock::{ClockError, clock_error, unix_now_ns};

pub use crate::net::bind::Listening;

/// The readiness of a socket. Edge-triggered: reported once, when the socket becomes ready.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// The key that the socket was registered with.
    pub token: u64,
    /// There may be bytes to receive or a connection to accept. Includes the end of the stream and
    /// errors.
    pub readable: bool,
    /// There may be room to send, or an error to read.
    pub writable: bool,
    /// The peer has closed its sending side, or there is urgent data or an error. A short receive
    /// then does not mean that the socket is drained.
    pub read_on: bool,
}

/// The system calls. Only [`wait`](Sys::wait) blocks. A call that is interrupted (EINTR) is
/// repeated.
pub trait Sys {
    /// A socket. Dropping it closes it.
    type Socket: std::fmt::Debug;

    /// Reads the monotonic clock.
    fn now(&self) -> Time;

    /// Returns a waker that ends the current or the next [`wait`](Sys::wait), from any thread.
    fn waker(&self) -> Waker;

    /// Waits until a socket is ready, the waker is used or `deadline` is reached. Puts the ready
    /// sockets into `ready`, which must be empty. Without a deadline it waits without limit. With a
    /// deadline that has passed it does not wait. It may return early with nothing ready. On a
    /// machine with a free core it returns at most some tens of microseconds after the deadline.
    ///
    /// Returns whether the waits since the last one that returned `true` have reported every socket
    /// that was ready when the first of them began.
    ///
    /// # Errors
    /// All errors are unrecoverable.
    fn wait(&mut self, deadline: Option<Time>, ready: &mut Vec<Readiness>) -> Result<bool, Errno>;

    /// Registers a socket for all kinds of readiness, edge-triggered. The next [`wait`](Sys::wait)
    /// reports its current readiness.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC.
    fn register(&mut self, socket: &Self::Socket, token: u64) -> Result<(), Errno>;

    /// Accepts a connection.
    ///
    /// # Errors
    /// EAGAIN if no connection waits; EMFILE, ENFILE, ENOBUFS, ENOMEM; ECONNABORTED, EPROTO and
    /// other errors of the connection to be accepted.
    fn accept(&mut self, listener: &Listening<Self::Socket>)
    -> Result<(Self::Socket, Peer), Errno>;

    /// Returns the number of connections that wait in a listener's backlog, or 0 if the system does
    /// not report it.
    fn backlog(&self, listener: &Listening<Self::Socket>) -> u32;

    /// Creates a socket and starts to connect it. When the socket becomes writable,
    /// [`connect_error`](Sys::connect_error) returns the result.
    ///
    /// # Errors
    /// Those of socket, bind and connect; never EINPROGRESS. EAGAIN if the target is a Unix socket
    /// whose backlog is full.
    fn connect(&mut self, target: &Endpoint, source: Option<IpAddr>)
    -> Result<Self::Socket, Errno>;

    /// Returns the result of connecting.
    ///
    /// # Errors
    /// ECONNREFUSED, ETIMEDOUT, ENETUNREACH and so on.
    fn connect_error(&mut self, socket: &Self::Socket) -> Result<(), Errno>;

    /// Receives into the buffers, in order. Returns 0 at the end of the stream.
    ///
    /// # Errors
    /// EAGAIN if there are no bytes; ECONNRESET, ETIMEDOUT.
    fn recv(
        &mut self,
        socket: &Self::Socket,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Result<usize, Errno>;

    /// Returns 1 if there are bytes to receive, and 0 at the end of the stream. Receives nothing.
    ///
    /// # Errors
    /// As [`recv`](Sys::recv).
    fn peek(&mut self, socket: &Self::Socket) -> Result<usize, Errno>;

    /// Sends from the buffers, in order, as many bytes as there is room for.
    ///
    /// # Errors
    /// EAGAIN if there is no room; EPIPE (without a signal), ECONNRESET.
    fn send(&mut self, socket: &Self::Socket, buffers: &[IoSlice<'_>]) -> Result<usize, Errno>;

    /// Closes the sending side: FIN follows the bytes sent.
    ///
    /// # Errors
    /// ENOTCONN if the peer has reset the connection.
    fn shutdown(&mut self, socket: &Self::Socket) -> Result<(), Errno>;

    /// Returns the number of bytes that were sent but not acknowledged by the peer, or `None` if it
    /// is unknown.
    fn unacknowledged(&self, _socket: &Self::Socket) -> Option<u32> {
        None
    }

    /// What TCP has measured and done on a connection. `None` if it is not TCP, or unknown.
    fn tcp_info(&self, _socket: &Self::Socket) -> Option<TcpInfo> {
        None
    }

    /// Bytes that have arrived and were not received. `None` if unknown.
    fn unread(&self, _socket: &Self::Socket) -> Option<u32> {
        None
    }

    /// Closes a registered socket with RST (SO_LINGER of zero), so that the peer learns that data is
    /// missing.
    fn reset(&mut self, socket: Self::Socket);

    /// Closes a socket with RST that was accepted and not registered.
    fn refuse(&mut self, socket: Self::Socket) {
        self.reset(socket);
    }

    /// Closes a registered socket of which another descriptor may be open, here or in another process.
    fn close_shared(&mut self, socket: Self::Socket) {
        self.close(socket);
    }

    /// Reports nothing more of a registered socket, so that another process can register it. Returns
    /// false if the system cannot.
    fn forget(&mut self, _socket: &Self::Socket) -> bool {
        false
    }

    /// The descriptor of a socket, to pass it to another process.
    fn descriptor(_socket: &Self::Socket) -> Option<Passing<'_>> {
        None
    }

    /// The socket that another process has passed.
    fn of_descriptor(&self, _passed: Passed) -> Option<Self::Socket> {
        None
    }

    /// Closes a registered socket.
    fn close(&mut self, socket: Self::Socket) {
        drop(socket);
    }
}
