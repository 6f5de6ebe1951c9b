//! The contract between a worker and what does its I/O: operations are submitted, completions come
//! back.
//!
//! It is the shape of .NET's `SocketAsyncEventArgs`: an operation that is done at once says so
//! ([`Submitted::Ready`], where `XxxAsync` returns false), any other completes later through the
//! [`Sink`]. What the contract demands of an engine:
//!
//! 1. Every operation completes exactly once, either in the return value of `submit` or in the sink.
//! 2. At most one operation of each kind is outstanding on a socket; Shutdown and Close only when
//!    no Send is.
//! 3. A Recv carries no buffer. The engine takes leases when there are bytes, and completes with
//!    [`Outcome::NoBuffer`] if no buffer is free; the worker decides who waits. In the same way an
//!    Accept takes a permit when a connection waits, or completes with [`Outcome::NoPermit`].
//! 4. A Send completes when the kernel took at least one byte; what it did not take comes back.
//! 5. After Cancel every other outstanding operation of the socket completes, with what it achieved
//!    or with [`Outcome::Cancelled`]; then Cancel itself does. Leases that an engine had in a
//!    cancelled operation are back in the pool by then.
//! 6. Close is submitted when nothing else is outstanding. The engine never reports the
//!    key again, and its slot may be used with another generation at once.
//! 7. The sink is given the engine, and may submit to it, in each call.

use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use crate::base::endpoint::Peer;
use crate::base::key::{Key, OpKind};
use crate::base::time::Time;
use crate::buffer::Chain;
use crate::error::Errno;
use crate::shared::permits::Permit;

#[cfg(test)]
mod contract;
pub mod mio;
pub mod sys;

pub use self::mio::MioEngine;

/// The largest number of buffers that one receive fills: 128 KiB with the default size. More than half
/// of that showed no gain when measured.
pub const LEASES_PER_RECV_MAX: usize = 8;

/// Where a client connects to, and from where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectTo {
    /// The address to connect to.
    pub target: SocketAddr,
    /// The local address to connect from, or `None` for the system's choice. The port is always the
    /// system's choice, made at connect time (IP_BIND_ADDRESS_NO_PORT), so that each source address
    /// has all its ports for each target.
    pub source: Option<IpAddr>,
    /// Given back by [`Connection::tag`](crate::service::Connection::tag) and
    /// [`Service::connect_failed`](crate::service::Service::connect_failed).
    pub tag: u64,
    /// When to give up with ETIMEDOUT.
    pub deadline: Time,
}

/// An operation to be submitted.
#[derive(Debug)]
pub enum Op {
    /// Take one connection from a listener.
    Accept,
    /// Connect; the key is that of the connection to be.
    Connect(ConnectTo),
    /// Receive into at most this many buffers, at least one.
    Recv(u8),
    /// Send, and give the leases back as they become empty. Not empty.
    Send(Chain),
    /// Close the sending side.
    Shutdown,
    /// End the other operations of this socket.
    Cancel,
    /// Close the socket.
    Close,
    /// Close it with RST, because what the peer was to get is lost. Completes as Close does.
    Reset,
}

/// How an operation went.
#[derive(Debug)]
pub enum Outcome<Socket> {
    /// A connection was accepted. It is to be [adopted](Engine::adopt), or dropped to close it.
    Accepted {
        /// The connection.
        socket: Socket,
        /// Its other end.
        peer: Peer,
        /// The permit that was taken for it.
        permit: Permit,
    },
    /// A connection may wait, but there is no permit for it.
    NoPermit,
    /// The connection is established.
    Connected,
    /// Bytes were received, at least one.
    Received(Chain),
    /// The peer has closed its side; there are no more bytes.
    Ended,
    /// There may be bytes, but there is no buffer for them.
    NoBuffer,
    /// Bytes were sent.
    Sent {
        /// How many, at least one.
        bytes: usize,
        /// What was not sent.
        rest: Chain,
    },
    /// Shutdown or Cancel is done.
    Done,
    /// Close is done.
    Closed {
        /// For a listener, the connections that waited to be accepted and are reset now.
        unaccepted: u32,
    },
    /// The operation was ended by Cancel before it achieved anything.
    Cancelled,
    /// The system call failed.
    Failed(Errno),
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion<Socket> {
    /// The socket and the operation.
    pub key: Key,
    /// How it went.
    pub outcome: Outcome<Socket>,
}

/// What [`Engine::submit`] returns.
#[derive(Debug)]
pub enum Submitted<Socket> {
    /// Completed already. The sink is not called for it.
    Ready(Outcome<Socket>),
    /// Completes later, through the sink.
    Pending,
}

/// Where completions go.
pub trait Sink<E: Engine> {
    /// A turn of the loop begins. The time is `now`.
    fn turn(&mut self, now: Time);

    /// An operation that was pending has ended.
    fn complete(&mut self, engine: &mut E, completion: Completion<E::Socket>);

    /// The same for a Recv that has received bytes, by far the most frequent completion: without an
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

    /// A waker that ends the current or the next [`poll`](Engine::poll), from any thread.
    fn waker(&self) -> Waker;

    /// Gives an accepted socket its key.
    ///
    /// # Errors
    /// The system refused to watch the socket, which is closed then.
    fn adopt(&mut self, key: Key, socket: Self::Socket) -> Result<(), Errno>;

    /// Bytes of a connection that were sent and that the peer has not acknowledged; `None` if that is
    /// not known. A pending Send does not show whether the peer reads: Linux reports room only when a
    /// third of its buffer is free.
    fn unacknowledged(&self, _key: Key) -> Option<u32> {
        None
    }

    /// Begins the operation `op`. The operation in the key is ignored.
    fn submit(&mut self, key: Key, op: Op) -> Submitted<Self::Socket>;

    /// The same for a Send, without an [`Op`] and an [`Outcome`]: removes from the chain what is sent at
    /// once and returns how many bytes that were; or takes the whole chain and returns `None`, and the
    /// Send completes through the sink.
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

    /// Waits until an operation completes, the waker is used or the deadline is reached, and passes the
    /// completions to the sink. `None` waits without limit; [`Time::ZERO`] does not wait.
    ///
    /// # Errors
    /// None that can be recovered from.
    fn poll(&mut self, deadline: Option<Time>, sink: &mut impl Sink<Self>) -> Result<(), Errno>;
}
