//! The contract between a worker and the engine that does its I/O: the worker submits operations,
//! and the engine returns completions.
//!
//! The interface resembles .NET's `SocketAsyncEventArgs`. An operation that completes at once
//! returns [`Submitted::Ready`] (where `XxxAsync` returns false). Any other operation completes
//! later through the [`Sink`]. The contract of an engine:
//!
//! 1. Every operation completes exactly once, either in the return value of `submit` or in the
//!    sink.
//! 2. At most one operation of each kind is outstanding on a socket. Shutdown and Close are
//!    submitted only when no Send is outstanding.
//! 3. A Recv carries no buffer. The engine takes leases when there are bytes, and completes with
//!    [`Outcome::NoBuffer`] if no buffer is free. The worker decides which connections wait. The end
//!    of the stream and errors need no buffer, and neither does a Discard. In the same way, an
//!    Accept takes a permit when a connection waits, or completes with
//!    [`Outcome::NoPermit`].
//! 4. A Send completes when the kernel has accepted at least one byte. It returns the bytes that
//!    were not accepted.
//! 5. After Cancel, every other outstanding operation of the socket completes, with its result or
//!    with [`Outcome::Cancelled`]. Then Cancel itself completes. By then, the leases of the
//!    cancelled operations are back in the pool.
//! 6. Close is submitted when nothing else is outstanding. The engine never reports the key again,
//!    and its slot may be reused with another generation at once.
//! 7. Each call of the sink passes the engine, and the sink may submit to it.

use std::net::IpAddr;
use std::task::Waker;

use crate::base::endpoint::{Endpoint, Peer};
use crate::base::key::{Key, OpKind};
use crate::base::time::Time;
use crate::buffer::Chain;
use crate::error::Errno;
use crate::net::bind::Listening;
use crate::net::sockopt::TcpInfo;
use crate::shared::moved::{Passed, Passing};
use crate::shared::permits::Permit;

#[cfg(test)]
mod contract;
pub mod mio;
pub mod sys;

pub use self::mio::MioEngine;

/// Maximum number of buffers that one receive fills: 128 KiB with the default size. Measurements
/// showed no gain above half of that.
pub const LEASES_PER_RECV_MAX: usize = 8;

/// The target and the source address of a connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectTo {
    /// The address to connect to.
    pub target: Endpoint,
    /// The local address to connect from, or `None` for the system's choice. The system always
    /// chooses the port, at connect time (IP_BIND_ADDRESS_NO_PORT), so that each source address can
    /// use all its ports for each target. Ignored for Unix sockets.
    pub source: Option<IpAddr>,
    /// Returned by [`Connection::tag`](crate::service::Connection::tag) and
    /// [`Service::connect_failed`](crate::service::Service::connect_failed).
    pub tag: u64,
    /// When to give up with ETIMEDOUT.
    pub deadline: Time,
}

/// An operation to submit.
#[derive(Debug)]
pub enum Op {
    /// Take one connection from a listener.
    Accept,
    /// Connect. The key is that of the new connection.
    Connect(ConnectTo),
    /// Receive into at most this many buffers. At least 1.
    Recv(u8),
    /// Receive bytes and throw them away. Needs no buffer. Counts as the socket's Recv.
    Discard,
    /// Send the chain, and return its leases as they become empty. The chain must not be empty.
    Send(Chain),
    /// Close the sending side.
    Shutdown,
    /// End the other operations of this socket.
    Cancel,
    /// Close the socket.
    Close,
    /// Close the socket with RST, because data for the peer is lost. Completes as Close.
    Reset,
}

/// The result of an operation.
#[derive(Debug)]
pub enum Outcome<Socket> {
    /// A connection was accepted. [Adopt](Engine::adopt) it, or drop it to close it.
    Accepted {
        /// The connection.
        socket: Socket,
        /// The peer.
        peer: Peer,
        /// The permit that was taken for it.
        permit: Permit,
    },
    /// A connection may be waiting, but no permit is free.
    NoPermit,
    /// The connection is established.
    Connected,
    /// At least one byte was received.
    Received(Chain),
    /// The peer has closed its sending side. There are no more bytes.
    Ended,
    /// This number of bytes, at least 1, was received and thrown away.
    Discarded(usize),
    /// There are bytes, but no buffer is free.
    NoBuffer,
    /// Bytes were sent.
    Sent {
        /// The number of bytes, at least 1.
        bytes: usize,
        /// What was not sent.
        rest: Chain,
    },
    /// Shutdown or Cancel has completed.
    Done,
    /// Close has completed.
    Closed {
        /// For a listener, the number of connections that waited to be accepted and are now reset.
        unaccepted: u32,
    },
    /// Cancel ended the operation before it had any result.
    Cancelled,
    /// The system call failed.
    Failed(Errno),
}

/// A completed operation.
#[derive(Debug)]
pub struct Completion<Socket> {
    /// The socket and the operation.
    pub key: Key,
    /// The result.
    pub outcome: Outcome<Socket>,
}

/// What [`Engine::detach`] returns.
#[derive(Debug)]
pub struct Detached<Socket> {
    /// The socket, which is as before.
    pub socket: Socket,
    /// What was left of the Send in flight, if there was one.
    pub unsent: Option<Chain>,
}

/// What [`Engine::submit`] returns.
#[derive(Debug)]
pub enum Submitted<Socket> {
    /// The operation has completed. The sink is not called for it.
    Ready(Outcome<Socket>),
    /// The operation completes later, through the sink.
    Pending,
}

/// Where completions go.
pub trait Sink<E: Engine> {
    /// A turn of the loop starts. The time is `now`.
    fn turn(&mut self, now: Time);

    /// A pending operation has completed.
    fn complete(&mut self, engine: &mut E, completion: Completion<E::Socket>);

    /// Handles a Recv that has received bytes, by far the most frequent completion. It avoids an
    /// [`Outcome`], which is as large as its largest variant. The key is the socket's.
    #[inline]
    fn received(&mut self, engine: &mut E, key: Key, chain: Chain) {
        let (key, outcome) = (key.with(OpKind::Recv), Outcome::Received(chain));
        self.complete(engine, Completion { key, outcome });
    }
}

/// Does the I/O of one worker.
pub trait Engine: Sized {
    /// A socket that has no key yet.
    type Socket: std::fmt::Debug;

    /// Reads the clock.
    fn now(&self) -> Time;

    /// Returns a waker that ends the current or the next [`poll`](Engine::poll), from any thread.
    fn waker(&self) -> Waker;

    /// Gives an accepted socket its key. The peer is that of [`Outcome::Accepted`].
    ///
    /// # Errors
    /// The system could not watch the socket. The error contains the socket.
    fn adopt(
        &mut self,
        key: Key,
        socket: Self::Socket,
        peer: Peer,
    ) -> Result<(), (Errno, Self::Socket)>;

    /// Takes an accepted connection back that could not be adopted. The next Accept on this
    /// listener completes with it.
    fn give_back(&mut self, listener: usize, socket: Self::Socket, peer: Peer, permit: Permit);

    /// Gives up a socket for which nothing but a Recv and a Send is in flight, and reports nothing more
    /// for it: the Recv is forgotten, and the Send ends with the bytes that it has not sent. `None` if
    /// more is in flight, or the engine cannot. To take it back, [`adopt`](Engine::adopt) it.
    fn detach(&mut self, _key: Key) -> Option<Detached<Self::Socket>> {
        None
    }

    /// The descriptor of a socket, to pass it to another process.
    fn descriptor(_socket: &Self::Socket) -> Option<Passing<'_>> {
        None
    }

    /// The socket that another process has passed. It can be adopted.
    fn of_descriptor(&self, _passed: Passed) -> Option<Self::Socket> {
        None
    }

    /// Watches another listener, whose key is [`Key::listener`] of `index`: the next index, or that of a
    /// listener that is closed.
    ///
    /// # Errors
    /// The system could not watch it, or the engine cannot. It is closed.
    fn listen(&mut self, _index: usize, _listening: Listening<Passed>) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// Closes an accepted socket instead of adopting it. With RST where the engine can, because FIN
    /// would leave the kernel a socket in TIME-WAIT for each client that is refused.
    fn refuse(&mut self, socket: Self::Socket) {
        drop(socket);
    }

    /// Returns the number of bytes of a connection that were sent but not acknowledged by the peer,
    /// or `None` if it is unknown. A pending Send does not show whether the peer reads, because
    /// Linux reports room only when a third of its buffer is free.
    fn unacknowledged(&self, _key: Key) -> Option<u32> {
        None
    }

    /// Bytes of the Send in flight of a connection, if there is one.
    fn sending(&self, key: Key) -> usize;

    /// What TCP has measured and done on a connection. `None` if it is not TCP, or unknown.
    fn tcp_info(&self, _key: Key) -> Option<TcpInfo> {
        None
    }

    /// Bytes of a connection that have arrived and were not received. `None` if unknown.
    fn unread(&self, _key: Key) -> Option<u32> {
        None
    }

    /// Starts the operation `op`. The operation in the key is ignored.
    fn submit(&mut self, key: Key, op: Op) -> Submitted<Self::Socket>;

    /// Submits a Send without an [`Op`] and an [`Outcome`]. Removes the bytes that are sent at once
    /// from the chain and returns their number. Otherwise takes the whole chain and returns `None`,
    /// and the Send completes through the sink.
    ///
    /// # Errors
    /// Those of the system call, as in [`Outcome::Failed`]. The chain is empty then.
    #[inline]
    fn send(&mut self, key: Key, chain: &mut Chain) -> Result<Option<usize>, Errno> {
        match self.submit(key, Op::Send(chain.take())) {
            Submitted::Pending => Ok(None),
            Submitted::Ready(Outcome::Sent { bytes, rest }) => {
                *chain = rest;
                Ok(Some(bytes))
            }
            Submitted::Ready(Outcome::Failed(error)) => Err(error),
            Submitted::Ready(other) => panic!("a Send ended at once with {other:?}"),
        }
    }

    /// Waits until an operation completes, the waker is used or the deadline is reached, and passes
    /// the completions to the sink. With `None` it waits without limit, and with [`Time::ZERO`] it
    /// does not wait.
    ///
    /// Returns whether the polls since the last one that returned `true` have reported every
    /// completion that was possible when the first of them began. Only then can the sink tell what
    /// has not happened by that time.
    ///
    /// # Errors
    /// All errors are unrecoverable.
    fn poll(&mut self, deadline: Option<Time>, sink: &mut impl Sink<Self>) -> Result<bool, Errno>;
}
