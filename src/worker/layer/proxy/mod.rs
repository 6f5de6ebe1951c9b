//! Takes the header of the PROXY protocol from the beginning of a connection, and gives the rest to
//! another layer.
//!
//! A header may arrive in any pieces. While it is not complete, its first bytes stay in the buffer
//! that they arrived in, at most [`DECIDING`] of them. What follows the addresses in a header is
//! thrown away as it arrives, so a header of 64 KiB takes no more memory than one of 16 bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Layer;
use crate::base::endpoint::Peer;
use crate::buffer::{Chain, Pool};
use crate::error::CloseReason;
use crate::net::proxy::{ProxyHeaders, ProxyOptions};
use crate::protocol::proxy::{DECIDING, Parsed, parse};

/// The layer of a listener whose connections begin with a header. `L` is the layer of the bytes
/// behind it.
#[derive(Clone)]
pub(crate) struct Proxied<L> {
    options: Arc<ProxyOptions>,
    timeout: Duration,
    inner: L,
}

/// What the layer keeps for one connection.
pub(crate) struct ProxyState<S> {
    head: HeaderProgress,
    inner: S,
}

/// How far the header is read.
enum HeaderProgress {
    /// Its first bytes, which do not tell yet whether it is one.
    Begun(Chain),
    /// It is one, and this many bytes of it are still to come.
    Rest { bytes: u32, client: Option<SocketAddr> },
    /// It has ended, or there is none. The client that it names.
    Over(Option<SocketAddr>),
    /// The peer is not a proxy, and the listener has clients of proxies only.
    NotAProxy,
}

impl<L> Proxied<L> {
    /// Headers must be complete after `timeout`.
    pub(crate) fn new(options: &ProxyOptions, timeout: Duration, inner: L) -> Proxied<L> {
        Proxied { options: Arc::new(options.clone()), timeout, inner }
    }

    /// The layer of the bytes behind the header.
    #[cfg(feature = "tls")]
    pub(crate) fn inner(&self) -> &L {
        &self.inner
    }

    fn is_required(&self) -> bool {
        self.options.headers == ProxyHeaders::Require
    }
}

impl HeaderProgress {
    /// Takes the header from the front of `wire`. Returns whether it is over; then the rest of
    /// `wire` is the client's.
    fn take_from(&mut self, wire: &mut Chain, required: bool) -> Result<bool, CloseReason> {
        if let HeaderProgress::Begun(kept) = self {
            kept.absorb(wire);
            let mut begin = [0; DECIDING];
            let count = kept.peek(&mut begin);
            match parse(&begin[..count]) {
                Parsed::Incomplete => return Ok(false),
                Parsed::NotAHeader if required => return Err(CloseReason::ProxyHeader),
                Parsed::NotAHeader => {
                    *wire = kept.take();
                    *self = HeaderProgress::Over(None);
                }
                Parsed::Header { client, length } => {
                    *wire = kept.take();
                    *self = HeaderProgress::Rest { bytes: length, client };
                }
            }
        }
        if let HeaderProgress::Rest { bytes, client } = self {
            let taken = wire.len().min(*bytes as usize);
            wire.consume(taken);
            *bytes -= taken as u32;
            if *bytes == 0 {
                *self = HeaderProgress::Over(*client);
            }
        }
        Ok(matches!(self, HeaderProgress::Over(_)))
    }

    /// No more bytes come that could make it a header. Returns the bytes that are the client's
    /// instead, if these are allowed.
    fn give_up(&mut self, required: bool) -> Result<Option<Chain>, CloseReason> {
        match self {
            HeaderProgress::Over(_) => Ok(None),
            HeaderProgress::Begun(kept) if !required => {
                let kept = kept.take();
                *self = HeaderProgress::Over(None);
                Ok(Some(kept))
            }
            _ => Err(CloseReason::ProxyHeader),
        }
    }
}

impl<L: Layer> Layer for Proxied<L> {
    type State = ProxyState<L::State>;

    fn state(&self, tag: u64, at: Peer, pool: &Pool) -> Self::State {
        let head = match self.options.may_send(at) {
            true => HeaderProgress::Begun(Chain::new(pool)),
            false if self.is_required() => HeaderProgress::NotAProxy,
            false => HeaderProgress::Over(None),
        };
        ProxyState { head, inner: self.inner.state(tag, at, pool) }
    }

    fn bytes_each(&self) -> usize {
        self.inner.bytes_each()
    }

    fn names_peer(&self, tag: u64, at: Peer) -> bool {
        self.options.may_send(at) || self.inner.names_peer(tag, at)
    }

    fn begin(&mut self, state: &mut Self::State, pool: &Pool) -> Result<(), CloseReason> {
        match state.head {
            HeaderProgress::NotAProxy => Err(CloseReason::ProxyHeader),
            _ => self.inner.begin(&mut state.inner, pool),
        }
    }

    fn peer(&self, state: &Self::State, at: Peer) -> Option<Peer> {
        match state.head {
            HeaderProgress::Over(client) => {
                self.inner.peer(&state.inner, client.map_or(at, Peer::from))
            }
            _ => None,
        }
    }

    fn opening_timeout(&self, state: &Self::State) -> Duration {
        match state.head {
            HeaderProgress::Over(_) => self.inner.opening_timeout(&state.inner),
            _ => self.timeout,
        }
    }

    fn decide(
        &mut self,
        state: &mut Self::State,
        input: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason> {
        let mut bytes = 0;
        if let Some(mut kept) = state.head.give_up(self.is_required())? {
            bytes = self.inner.received(&mut state.inner, input, &mut kept, pool)?;
        }
        // The peer as the socket reports it makes no difference to whether it is known.
        match self.inner.peer(&state.inner, Peer::UNKNOWN_PROCESS) {
            Some(_) => Ok(bytes),
            None => Ok(bytes + self.inner.decide(&mut state.inner, input, pool)?),
        }
    }

    fn received(
        &mut self,
        state: &mut Self::State,
        input: &mut Chain,
        wire: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason> {
        match state.head.take_from(wire, self.is_required())? {
            true => self.inner.received(&mut state.inner, input, wire, pool),
            false => Ok(0),
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
        match &state.head {
            // A connection without a byte is no error: that is how balancers look whether a server
            // is there.
            HeaderProgress::Begun(kept) if self.is_required() && kept.is_empty() => return Ok(0),
            HeaderProgress::Over(_) => {}
            _ => {
                if let Some(mut kept) = state.head.give_up(self.is_required())? {
                    let bytes = self.inner.received(&mut state.inner, input, &mut kept, pool)?;
                    if bytes > 0 {
                        return Ok(bytes);
                    }
                }
            }
        }
        self.inner.ended(&mut state.inner, input, pool)
    }

    fn outgoing<'a>(
        &mut self,
        state: &'a mut Self::State,
        output: &'a mut Chain,
        pool: &Pool,
    ) -> &'a mut Chain {
        self.inner.outgoing(&mut state.inner, output, pool)
    }

    fn sent(&mut self, state: &mut Self::State, wire_bytes: usize) -> usize {
        self.inner.sent(&mut state.inner, wire_bytes)
    }

    fn finish(&mut self, state: &mut Self::State) {
        self.inner.finish(&mut state.inner);
    }

    fn forget_input(&mut self, state: &mut Self::State) {
        if let HeaderProgress::Begun(kept) = &mut state.head {
            drop(kept.take());
        }
        self.inner.forget_input(&mut state.inner);
    }

    fn starves(&self, state: &Self::State) -> bool {
        self.inner.starves(&state.inner)
    }

    fn keeps_output(&self, state: &Self::State) -> bool {
        self.inner.keeps_output(&state.inner)
    }

    fn keeps_input(&self, state: &Self::State) -> bool {
        match &state.head {
            HeaderProgress::Begun(kept) => !kept.is_empty(),
            HeaderProgress::Over(_) => self.inner.keeps_input(&state.inner),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
