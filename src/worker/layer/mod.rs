//! The seam for one byte layer between a connection's socket and its service, for example a header
//! that names the real client, or encryption.
//!
//! The worker passes a [`Layer`] the bytes from the network, and sends what the layer has made of
//! the service's output. The layer decides when the connection is open. Until then, the service is
//! not called for it and it is not in the directory. The rules:
//!
//! 1. [`begin`](Layer::begin) is called once, when the socket is connected. After each call the
//!    worker calls [`peer`](Layer::peer), until it returns the peer. Then the connection is open.
//!    If that takes longer than [`opening_timeout`](Layer::opening_timeout), or if a drain begins,
//!    the layer must [`decide`](Layer::decide): the peer is known now, or the connection is closed.
//! 2. A layer may keep bytes of either direction in its state for as long as it needs. It puts
//!    nothing into the input before the call after which it returns the peer.
//! 3. A layer may send its own bytes at any time before the end of the output. They are sent in the
//!    order in which [`outgoing`](Layer::outgoing) has them.
//! 4. An error closes the connection with the reason that the layer returns. Output that the layer
//!    and the service have added before is still sent, followed by FIN. A layer that has told the
//!    peer of the error may drop the service's output.
//! 5. A layer takes buffers with [`Pool::lease_in_turn`]: waiting connections come first. A layer
//!    that needs a buffer and finds none returns true from [`starves`](Layer::starves). The
//!    connection then waits in the worker's queue for buffers, and the layer is called again before
//!    the service is.
//! 6. No call may block, or allocate after the connection has begun. TLS is an exception: see
//!    `tls::session`.
//!
//! [`Plain`] is the layer of a connection that has none. It is a layer like any other, but all of
//! it is inlined, and nothing of it is left in the machine code. It is the layer of a server whose
//! listeners have none. Another server's layer is [`ByListener`], which has a kind for each
//! listener.

use std::time::Duration;

use crate::base::endpoint::Peer;
use crate::base::handshake::{Handshake, HandshakeError};
use crate::buffer::{Chain, Pool};
use crate::error::CloseReason;

pub(crate) use by_listener::ByListener;
#[cfg(any(test, feature = "sim"))]
pub(crate) use by_listener::LayerKind;

mod by_listener;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod header;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod prefix;
mod proxy;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
pub(crate) mod tls;

/// A byte layer. One value serves all connections of a worker. The data of one connection is in its
/// [`State`](Layer::State).
pub(crate) trait Layer: 'static {
    /// What the layer keeps for one connection. It is stored in the connection's preallocated
    /// context.
    type State;

    /// Whether the bytes on the wire are the service's, unchanged. They are then counted once.
    const IS_PLAIN: bool = false;

    /// The state of a new connection. `tag` is
    /// [`Connection::tag`](crate::service::Connection::tag), for an accepted connection the number
    /// of its listener. `at` is the peer as the socket reports it.
    fn state(&self, tag: u64, at: Peer, pool: &Pool) -> Self::State;

    /// Whether the layer of another process can continue the connection from a new state.
    fn can_move(&self, _: &Self::State) -> bool {
        false
    }

    /// What the layer allocates for a connection while it is open, in bytes at most, beside its
    /// state.
    fn bytes_each(&self) -> usize {
        0
    }

    /// Whether the peer of a connection with this tag may be another than `at`, the one that the
    /// socket reports. Then the limit of connections per address applies once the peer is known,
    /// otherwise at accept.
    fn names_peer(&self, _tag: u64, _at: Peer) -> bool {
        false
    }

    /// The socket is connected.
    ///
    /// # Errors
    /// The reason to close the connection.
    fn begin(&mut self, state: &mut Self::State, pool: &Pool) -> Result<(), CloseReason>;

    /// The peer, or `None` while it is not known. `at` is the peer as the socket reports it. Called
    /// until the peer is known.
    fn peer(&self, state: &Self::State, at: Peer) -> Option<Peer>;

    /// How the handshake of a connection that this side has started has ended, once it has. `None`
    /// if the layer has none.
    fn handshake(&self, _: &Self::State) -> Option<Result<Handshake, HandshakeError>> {
        None
    }

    /// How long it may take until the peer is known.
    fn opening_timeout(&self, state: &Self::State) -> Duration;

    /// The time for learning the peer is over. If there is no error, the peer must be known from
    /// now on. Appends bytes for the service to `input`, and returns how many these are.
    ///
    /// # Errors
    /// The reason to close the connection.
    fn decide(
        &mut self,
        state: &mut Self::State,
        input: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason>;

    /// Takes all bytes of `wire` and appends those for the service to `input`. Returns how many
    /// these are. `wire` is empty when the layer is called again because a buffer is free for it.
    ///
    /// # Errors
    /// The reason to close the connection.
    fn received(
        &mut self,
        state: &mut Self::State,
        input: &mut Chain,
        wire: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason>;

    /// Whether the peer has ended its stream inside the layer, and all of its bytes were put into
    /// the input. Then nothing more is received, and the connection continues as after FIN.
    fn has_ended(&self, _: &Self::State) -> bool {
        false
    }

    /// The peer has sent FIN, and the layer does not starve. Appends the last bytes for the service
    /// to `input`, and returns how many these are. It is called again until there are none.
    ///
    /// # Errors
    /// The reason to close the connection, if the stream must not end here.
    fn ended(
        &mut self,
        state: &mut Self::State,
        input: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason>;

    /// Takes as much of the service's output as it can, and returns the bytes to send next.
    fn outgoing<'a>(
        &mut self,
        state: &'a mut Self::State,
        output: &'a mut Chain,
        pool: &Pool,
    ) -> &'a mut Chain;

    /// The kernel has taken the first `wire_bytes` of the outgoing bytes. Returns how many bytes of
    /// the service's output were sent with them.
    fn sent(&mut self, state: &mut Self::State, wire_bytes: usize) -> usize;

    /// The service adds nothing more to the output, which ends with FIN. The layer may append its
    /// own bytes. May be called more than once.
    fn finish(&mut self, state: &mut Self::State);

    /// Nothing more is received: the layer drops the input that it keeps.
    fn forget_input(&mut self, state: &mut Self::State);

    /// Whether the layer cannot continue without a buffer.
    fn starves(&self, state: &Self::State) -> bool;

    /// Whether the layer keeps output that is not among the outgoing bytes, because it has found no
    /// buffer for it. If the connection is closed at once, that output is lost too.
    fn keeps_output(&self, _: &Self::State) -> bool {
        false
    }

    /// Whether the layer keeps input until more arrives. If others wait for a buffer, the connection
    /// may be shed, like one whose service does.
    fn keeps_input(&self, _: &Self::State) -> bool {
        false
    }
}

/// No layer: bytes pass unchanged, and the peer is the one that the socket reports.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl Layer for Plain {
    type State = ();

    const IS_PLAIN: bool = true;

    fn state(&self, _: u64, _: Peer, _: &Pool) {}

    fn can_move(&self, _: &()) -> bool {
        true
    }

    #[inline(always)]
    fn begin(&mut self, (): &mut (), _: &Pool) -> Result<(), CloseReason> {
        Ok(())
    }

    #[inline(always)]
    fn peer(&self, (): &(), at: Peer) -> Option<Peer> {
        Some(at)
    }

    fn opening_timeout(&self, (): &()) -> Duration {
        unreachable!("the peer is known at once")
    }

    fn decide(&mut self, (): &mut (), _: &mut Chain, _: &Pool) -> Result<usize, CloseReason> {
        unreachable!("the peer is known at once")
    }

    #[inline(always)]
    fn received(
        &mut self,
        (): &mut (),
        input: &mut Chain,
        wire: &mut Chain,
        _: &Pool,
    ) -> Result<usize, CloseReason> {
        let bytes = wire.len();
        input.absorb(wire);
        Ok(bytes)
    }

    #[inline(always)]
    fn ended(&mut self, (): &mut (), _: &mut Chain, _: &Pool) -> Result<usize, CloseReason> {
        Ok(0)
    }

    #[inline(always)]
    fn outgoing<'a>(&mut self, (): &'a mut (), output: &'a mut Chain, _: &Pool) -> &'a mut Chain {
        output
    }

    #[inline(always)]
    fn sent(&mut self, (): &mut (), wire_bytes: usize) -> usize {
        wire_bytes
    }

    #[inline(always)]
    fn finish(&mut self, (): &mut ()) {}

    #[inline(always)]
    fn forget_input(&mut self, (): &mut ()) {}

    #[inline(always)]
    fn starves(&self, (): &()) -> bool {
        false
    }
}
