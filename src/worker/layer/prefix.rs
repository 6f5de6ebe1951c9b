//! A layer that sends bytes of its own before those of another layer, for connections that this side
//! starts: the header of the PROXY protocol, with which a client pretends to be a proxy.

use std::time::Duration;

use super::{Layer, Plain};
use crate::base::endpoint::Peer;
use crate::base::handshake::{Handshake, HandshakeError};
use crate::buffer::{Chain, Pool};
use crate::error::CloseReason;

/// Makes the bytes for the connection with this tag to this peer. They must fit into a buffer. There
/// may be none.
type Make = dyn Fn(u64, Peer) -> Vec<u8>;

/// How long a connection may wait for a buffer for its first bytes.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The layer. `L` is the layer of the bytes behind.
pub(crate) struct Prefix<L = Plain> {
    make: Box<Make>,
    inner: L,
}

/// What the layer keeps for one connection.
pub(crate) struct PrefixState<S = ()> {
    /// The bytes, until a buffer is free for them.
    bytes: Option<Vec<u8>>,
    /// The same bytes in a buffer, until the engine takes them.
    wire: Chain,
    /// How many of them are not sent yet.
    unsent: usize,
    /// What arrived before there was a buffer for them.
    kept: Chain,
    inner: S,
}

impl<L> Prefix<L> {
    pub(crate) fn new(make: impl Fn(u64, Peer) -> Vec<u8> + 'static, inner: L) -> Prefix<L> {
        Prefix { make: Box::new(make), inner }
    }
}

impl<S> PrefixState<S> {
    /// Puts the bytes into a buffer, if one is free.
    fn begin(&mut self, pool: &Pool) {
        let Some(bytes) = &self.bytes else { return };
        let Some(mut lease) = pool.lease_in_turn() else { return };
        assert_eq!(lease.extend_from_slice(bytes), bytes.len(), "they fit into a buffer");
        self.unsent = bytes.len();
        self.wire.push_back(lease);
        self.bytes = None;
    }
}

impl<L: Layer> Layer for Prefix<L> {
    type State = PrefixState<L::State>;

    fn state(&self, tag: u64, at: Peer, pool: &Pool) -> Self::State {
        PrefixState {
            bytes: Some((self.make)(tag, at)).filter(|bytes| !bytes.is_empty()),
            wire: Chain::new(pool),
            unsent: 0,
            kept: Chain::new(pool),
            inner: self.inner.state(tag, at, pool),
        }
    }

    fn bytes_each(&self) -> usize {
        self.inner.bytes_each()
    }

    fn begin(&mut self, state: &mut Self::State, pool: &Pool) -> Result<(), CloseReason> {
        state.begin(pool);
        self.inner.begin(&mut state.inner, pool)
    }

    fn peer(&self, state: &Self::State, at: Peer) -> Option<Peer> {
        state.bytes.is_none().then(|| self.inner.peer(&state.inner, at))?
    }

    fn handshake(&self, state: &Self::State) -> Option<Result<Handshake, HandshakeError>> {
        self.inner.handshake(&state.inner)
    }

    fn opening_timeout(&self, state: &Self::State) -> Duration {
        match state.bytes {
            Some(_) => TIMEOUT,
            None => self.inner.opening_timeout(&state.inner),
        }
    }

    fn decide(
        &mut self,
        state: &mut Self::State,
        input: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason> {
        match state.bytes {
            Some(_) => Err(CloseReason::Failed),
            None => self.inner.decide(&mut state.inner, input, pool),
        }
    }

    fn received(
        &mut self,
        state: &mut Self::State,
        input: &mut Chain,
        wire: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason> {
        state.begin(pool);
        state.kept.absorb(wire);
        match state.bytes {
            Some(_) => Ok(0),
            None => self.inner.received(&mut state.inner, input, &mut state.kept, pool),
        }
    }

    fn has_ended(&self, state: &Self::State) -> bool {
        self.inner.has_ended(&state.inner)
    }

    fn ended(
        &mut self,
        state: &mut Self::State,
        input: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason> {
        self.inner.ended(&mut state.inner, input, pool)
    }

    fn outgoing<'a>(
        &mut self,
        state: &'a mut Self::State,
        output: &'a mut Chain,
        pool: &Pool,
    ) -> &'a mut Chain {
        if !state.wire.is_empty() {
            return &mut state.wire;
        }
        match state.bytes {
            // It is empty: nothing may be sent before the prefix.
            Some(_) => &mut state.wire,
            None => self.inner.outgoing(&mut state.inner, output, pool),
        }
    }

    fn sent(&mut self, state: &mut Self::State, wire_bytes: usize) -> usize {
        let own = state.unsent.min(wire_bytes);
        state.unsent -= own;
        self.inner.sent(&mut state.inner, wire_bytes - own)
    }

    fn finish(&mut self, state: &mut Self::State) {
        self.inner.finish(&mut state.inner);
    }

    fn forget_input(&mut self, state: &mut Self::State) {
        drop(state.kept.take());
        self.inner.forget_input(&mut state.inner);
    }

    fn starves(&self, state: &Self::State) -> bool {
        state.bytes.is_some() || self.inner.starves(&state.inner)
    }

    fn keeps_output(&self, state: &Self::State) -> bool {
        self.inner.keeps_output(&state.inner)
    }

    fn keeps_input(&self, state: &Self::State) -> bool {
        self.inner.keeps_input(&state.inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::buffer::Reserve;

    fn peer() -> Peer {
        SocketAddr::from(([192, 0, 2, 1], 7)).into()
    }

    fn bytes(chain: &Chain) -> Vec<u8> {
        chain.slices().flatten().copied().collect()
    }

    fn chain(pool: &Pool, bytes: &[u8]) -> Chain {
        let mut lease = pool.lease().unwrap();
        lease.extend_from_slice(bytes);
        lease.into()
    }

    #[test]
    fn its_bytes_come_first_and_do_not_count_as_the_services() {
        let pool = Pool::new(Reserve::new(256, 4).unwrap(), 0);
        let mut layer = Prefix::new(|tag, at| format!("{tag} to {at};").into_bytes(), Plain);
        let mut state = layer.state(5, peer(), &pool);
        assert_eq!(layer.peer(&state, peer()), None);
        layer.begin(&mut state, &pool).unwrap();
        assert_eq!(layer.peer(&state, peer()), Some(peer()));
        let mut output = chain(&pool, b"hello");
        let first = layer.outgoing(&mut state, &mut output, &pool);
        assert_eq!(bytes(first), b"5 to 192.0.2.1:7;");
        // The engine has sent a part, and the rest comes back in front of the output.
        let mut rest = first.take();
        rest.consume(4);
        assert_eq!(layer.sent(&mut state, 4), 0);
        rest.append(layer.outgoing(&mut state, &mut output, &pool));
        assert_eq!(bytes(&rest), b" 192.0.2.1:7;hello");
        assert_eq!((layer.sent(&mut state, 15), layer.sent(&mut state, 3)), (2, 3));
    }

    #[test]
    fn without_a_buffer_everything_waits_for_its_bytes() {
        let pool = Pool::new(Reserve::new(256, 2).unwrap(), 0);
        let mut layer = Prefix::new(|_, _| b"first".to_vec(), Plain);
        let mut state = layer.state(5, peer(), &pool);
        let (taken, mut wire) = (pool.lease().unwrap(), chain(&pool, b"early"));
        let mut input = Chain::new(&pool);
        layer.begin(&mut state, &pool).unwrap();
        assert_eq!(layer.received(&mut state, &mut input, &mut wire, &pool), Ok(0));
        assert!(layer.starves(&state) && layer.peer(&state, peer()).is_none());
        drop(taken);
        assert_eq!(layer.received(&mut state, &mut input, &mut wire, &pool), Ok(5));
        assert!(!layer.starves(&state) && layer.peer(&state, peer()).is_some());
        assert_eq!(bytes(&input), b"early");
        let mut output = Chain::new(&pool);
        assert_eq!(bytes(layer.outgoing(&mut state, &mut output, &pool)), b"first");
    }
}
