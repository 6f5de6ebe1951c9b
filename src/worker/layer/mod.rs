//! The seam for one byte layer between a connection's socket and its service: a header that names
//! the real client, for example, or encryption.
//!
//! The worker gives a [`Layer`] what has arrived from the network, and sends what the layer has made
//! of the service's output. The layer decides when the connection is open: until then the service
//! hears nothing of it and it is not in the directory. The rules:
//!
//! 1. [`begin`](Layer::begin) is called once, when the socket is connected. After each call the
//!    worker asks [`peer`](Layer::peer), until it says who the peer is; then it opens the connection.
//!    If that takes longer than [`opening_timeout`](Layer::opening_timeout), the connection is closed.
//! 2. A layer may keep bytes of either direction in its state for as long as it needs. It puts
//!    nothing into the input before the call after which it says who the peer is.
//! 3. A layer may send bytes of its own at any time before the end of the output. They go out in the
//!    order in which [`outgoing`](Layer::outgoing) has them.
//! 4. An error closes the connection for the reason that the layer returns. What the layer and the
//!    service have put on the output before is still sent, with FIN behind it.
//! 5. A layer takes buffers with [`Pool::lease_in_turn`]: connections that wait come first. A layer
//!    that needs a buffer and gets none says so in [`starves`](Layer::starves). The connection then
//!    waits in the worker's queue for buffers, and the layer is called again before the service is.
//! 6. Neither call may block, or allocate once the connection has begun.
//!
//! [`Plain`] is the layer of a connection that has none. It is a layer like any other, but all of it
//! is inlined, and nothing of it is left in the machine code.

use std::time::Duration;

use crate::base::endpoint::Peer;
use crate::buffer::{Chain, Pool};
use crate::error::CloseReason;

#[cfg(any(test, feature = "sim"))]
pub(crate) mod header;
#[cfg(test)]
mod tests;

/// A byte layer. One value serves all connections of a worker; what belongs to one connection is in
/// its [`State`](Layer::State).
pub(crate) trait Layer: 'static {
    /// What the layer keeps for one connection. It lies in the connection's preallocated context.
    type State;

    /// Whether the bytes on the wire are the service's, unchanged. They are counted once then.
    const IS_PLAIN: bool = false;

    /// The state of a new connection. `tag` is that of
    /// [`Connection::tag`](crate::service::Connection::tag).
    fn state(&self, tag: u64, pool: &Pool) -> Self::State;

    /// The socket is connected.
    ///
    /// # Errors
    /// Why the connection is to be closed.
    fn begin(&mut self, state: &mut Self::State, pool: &Pool) -> Result<(), CloseReason>;

    /// Who the peer is, or `None` as long as that is not known. `at` is the peer as the socket has
    /// it. Asked until it is known.
    fn peer(&self, state: &Self::State, at: Peer) -> Option<Peer>;

    /// How long the peer may take to become known, and why the connection is closed if it takes
    /// longer.
    fn opening_timeout(&self) -> (Duration, CloseReason);

    /// Takes all that has arrived and puts what is for the service behind `input`. Returns how many
    /// bytes these are. `wire` is empty when the layer is called again because there is a buffer for it.
    ///
    /// # Errors
    /// Why the connection is to be closed.
    fn received(
        &mut self,
        state: &mut Self::State,
        input: &mut Chain,
        wire: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason>;

    /// The peer has sent FIN, and the layer does not starve.
    ///
    /// # Errors
    /// Why the connection is to be closed: the stream must not end here.
    fn ended(&mut self, state: &mut Self::State) -> Result<(), CloseReason>;

    /// Takes as much as it can of the service's output, and returns what is to be sent next.
    fn outgoing<'a>(
        &mut self,
        state: &'a mut Self::State,
        output: &'a mut Chain,
        pool: &Pool,
    ) -> &'a mut Chain;

    /// The kernel has taken the first `wire_bytes` of what was to be sent. Returns how many bytes of
    /// the service's output are sent with them.
    fn sent(&mut self, state: &mut Self::State, wire_bytes: usize) -> usize;

    /// The service puts nothing more on the output, which ends with FIN: the layer may put bytes of
    /// its own behind it. May be called more than once.
    fn finish(&mut self, state: &mut Self::State);

    /// Nothing is received any more: input that the layer keeps is to be given back.
    fn forget_input(&mut self, state: &mut Self::State);

    /// Whether the layer cannot go on without a buffer.
    fn starves(&self, state: &Self::State) -> bool;
}

/// No layer: bytes pass unchanged, and the peer is who the socket says.
pub(crate) struct Plain;

impl Layer for Plain {
    type State = ();

    const IS_PLAIN: bool = true;

    fn state(&self, _: u64, _: &Pool) {}

    #[inline(always)]
    fn begin(&mut self, (): &mut (), _: &Pool) -> Result<(), CloseReason> {
        Ok(())
    }

    #[inline(always)]
    fn peer(&self, (): &(), at: Peer) -> Option<Peer> {
        Some(at)
    }

    fn opening_timeout(&self) -> (Duration, CloseReason) {
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
    fn ended(&mut self, (): &mut ()) -> Result<(), CloseReason> {
        Ok(())
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
