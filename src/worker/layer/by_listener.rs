//! The layer of a server whose listeners have different layers, or of a client loop whose clients
//! have. Dispatches by match to the kind of the connection.
//!
//! To add a kind: a variant of [`LayerKind`] and of [`Held`], a line in each of `dispatch` and
//! [`ByListener::state`], and in [`LayerKind::of`] how a listener asks for it.

use std::sync::Arc;
use std::time::Duration;

#[cfg(any(test, feature = "sim"))]
use super::header::{self, Header};
use super::proxy::{self, Proxied};
#[cfg(all(feature = "tls", any(test, feature = "sim")))]
use super::tls::stand_in;
#[cfg(feature = "tls")]
use super::tls::{self, Tls};
use super::{Layer, Plain};
use crate::base::endpoint::Peer;
use crate::base::handshake::{Handshake, HandshakeError};
use crate::buffer::{Chain, Pool};
use crate::config::Config;
use crate::error::{CloseReason, StartError};
use crate::net::bind::ListenOn;
use crate::net::proxy::{ProxyHeaders, ProxyOptions};
#[cfg(feature = "tls")]
use crate::tls::server::Acceptor;
#[cfg(feature = "tls")]
use crate::tls::session::Session;

/// The layer of one listener. Each worker has a clone.
#[derive(Clone)]
pub(crate) enum LayerKind {
    Plain(Plain),
    Proxy(Proxied<Plain>),
    #[cfg(feature = "tls")]
    Tls(Tls),
    #[cfg(feature = "tls")]
    ProxyTls(Proxied<Tls>),
    #[cfg(any(test, feature = "sim"))]
    Header(Header),
    #[cfg(all(feature = "tls", any(test, feature = "sim")))]
    StandIn(Tls<stand_in::Session>),
}

/// What the layer of a connection's listener keeps for the connection.
pub(crate) enum Held {
    Plain(()),
    Proxy(proxy::ProxyState<()>),
    #[cfg(feature = "tls")]
    Tls(tls::TlsState),
    #[cfg(feature = "tls")]
    ProxyTls(proxy::ProxyState<tls::TlsState>),
    #[cfg(any(test, feature = "sim"))]
    Header(header::HeaderState),
    #[cfg(all(feature = "tls", any(test, feature = "sim")))]
    StandIn(tls::TlsState<stand_in::Session>),
}

/// The state of a connection: the number of its kind, which is that of its listener, and what the
/// layer keeps.
pub(crate) struct ListenerLayerState {
    kind: u32,
    held: Held,
}

/// The layers of a server's listeners, in the order of the listeners.
#[derive(Clone)]
pub(crate) struct ByListener {
    kinds: Vec<LayerKind>,
    kind_of: Arc<KindOf>,
}

/// The number of the kind of a connection with this tag.
type KindOf = dyn Fn(u64) -> usize + Send + Sync;

impl LayerKind {
    /// The layer that a listener asks for.
    ///
    /// # Errors
    /// The files of its TLS cannot be used.
    fn of(listener: &ListenOn, config: &Config) -> Result<LayerKind, StartError> {
        let timeout = config.handshake_timeout;
        let proxied = listener.proxy.headers != ProxyHeaders::Off;
        #[cfg(feature = "tls")]
        if let Some(options) = listener.transport.tls() {
            let endpoint = listener.endpoint;
            let acceptor = Acceptor::new(options);
            let acceptor = acceptor.map_err(|error| StartError::Tls { endpoint, error })?;
            let tls = Tls::new(Arc::new(acceptor), timeout);
            return Ok(match proxied {
                false => LayerKind::Tls(tls),
                true => LayerKind::ProxyTls(Proxied::new(&listener.proxy, timeout, tls)),
            });
        }
        Ok(match proxied {
            false => LayerKind::Plain(Plain),
            true => LayerKind::proxied(&listener.proxy, timeout),
        })
    }

    /// The layer of a listener whose connections begin with a header of the PROXY protocol, and have
    /// no other layer behind it.
    pub(crate) fn proxied(options: &ProxyOptions, timeout: Duration) -> LayerKind {
        LayerKind::Proxy(Proxied::new(options, timeout, Plain))
    }
}

impl ByListener {
    /// The layers of the listeners, or `None` if none of them has one.
    ///
    /// # Errors
    /// As [`LayerKind::of`].
    pub(crate) fn of(config: &Config) -> Result<Option<ByListener>, StartError> {
        let kinds = config.listen.iter().map(|listener| LayerKind::of(listener, config));
        let kinds = kinds.collect::<Result<Vec<LayerKind>, _>>()?;
        let layered = kinds.iter().any(|kind| !matches!(kind, LayerKind::Plain(_)));
        Ok(layered.then(|| ByListener::of_listeners(kinds)))
    }

    /// The listeners' numbers are the tags of their connections. Listeners that are added later, behind
    /// these, have no layer.
    fn of_listeners(mut kinds: Vec<LayerKind>) -> ByListener {
        let added = kinds.len();
        kinds.push(LayerKind::Plain(Plain));
        ByListener { kinds, kind_of: Arc::new(move |tag| added.min(tag as usize)) }
    }

    /// The layers of clients. `uses_tls` tells whether a connection with this tag does, and `begin`
    /// makes its session.
    #[cfg(feature = "tls")]
    pub(crate) fn of_clients(
        uses_tls: impl Fn(u64) -> bool + Send + Sync + 'static,
        begin: impl Fn(u64) -> Option<Box<Session>> + Send + Sync + 'static,
    ) -> ByListener {
        let kinds = vec![LayerKind::Plain(Plain), LayerKind::Tls(Tls::connecting(begin))];
        ByListener { kinds, kind_of: Arc::new(move |tag| uses_tls(tag).into()) }
    }

    /// The listeners with TLS, by their numbers.
    #[cfg(feature = "tls")]
    pub(crate) fn acceptors(&self) -> impl Iterator<Item = (usize, &Arc<Acceptor>)> {
        self.kinds.iter().enumerate().filter_map(|(listener, kind)| match kind {
            LayerKind::Tls(tls) => Some((listener, tls.acceptor()?)),
            LayerKind::ProxyTls(proxied) => Some((listener, proxied.inner().acceptor()?)),
            _ => None,
        })
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn new(kinds: Vec<LayerKind>) -> ByListener {
        ByListener::of_listeners(kinds)
    }

    fn kind(&self, tag: u64) -> &LayerKind {
        &self.kinds[(self.kind_of)(tag)]
    }
}

/// Calls a method of the layer that a state belongs to.
macro_rules! dispatch {
    ($layers:expr, $state:ident, $held:expr, $method:ident($($argument:expr),*)) => {
        match ($layers, $held) {
            (LayerKind::Plain(layer), Held::Plain(held)) => layer.$method(held $(, $argument)*),
            (LayerKind::Proxy(layer), Held::Proxy(held)) => layer.$method(held $(, $argument)*),
            #[cfg(feature = "tls")]
            (LayerKind::Tls(layer), Held::Tls(held)) => layer.$method(held $(, $argument)*),
            #[cfg(feature = "tls")]
            (LayerKind::ProxyTls(layer), Held::ProxyTls(held)) => layer.$method(held $(, $argument)*),
            #[cfg(any(test, feature = "sim"))]
            (LayerKind::Header(layer), Held::Header(held)) => layer.$method(held $(, $argument)*),
            #[cfg(all(feature = "tls", any(test, feature = "sim")))]
            (LayerKind::StandIn(layer), Held::StandIn(held)) => layer.$method(held $(, $argument)*),
            _ => unreachable!("layer {} has another state", $state.kind),
        }
    };
    (&$self:ident, $state:ident, $method:ident($($argument:expr),*)) => {
        dispatch!(
            &$self.kinds[$state.kind as usize], $state, &$state.held, $method($($argument),*)
        )
    };
    (&mut $self:ident, $state:ident, $method:ident($($argument:expr),*)) => {
        dispatch!(
            &mut $self.kinds[$state.kind as usize], $state, &mut $state.held,
            $method($($argument),*)
        )
    };
}

impl Layer for ByListener {
    type State = ListenerLayerState;

    fn state(&self, tag: u64, at: Peer, pool: &Pool) -> ListenerLayerState {
        let kind = (self.kind_of)(tag);
        let held = match &self.kinds[kind] {
            LayerKind::Plain(layer) => {
                layer.state(tag, at, pool);
                Held::Plain(())
            }
            LayerKind::Proxy(layer) => Held::Proxy(layer.state(tag, at, pool)),
            #[cfg(feature = "tls")]
            LayerKind::Tls(layer) => Held::Tls(layer.state(tag, at, pool)),
            #[cfg(feature = "tls")]
            LayerKind::ProxyTls(layer) => Held::ProxyTls(layer.state(tag, at, pool)),
            #[cfg(any(test, feature = "sim"))]
            LayerKind::Header(layer) => Held::Header(layer.state(tag, at, pool)),
            #[cfg(all(feature = "tls", any(test, feature = "sim")))]
            LayerKind::StandIn(layer) => Held::StandIn(layer.state(tag, at, pool)),
        };
        ListenerLayerState { kind: kind as u32, held }
    }

    fn bytes_each(&self) -> usize {
        let bytes = |kind: &LayerKind| match kind {
            #[cfg(feature = "tls")]
            LayerKind::Tls(layer) => layer.bytes_each(),
            #[cfg(feature = "tls")]
            LayerKind::ProxyTls(layer) => layer.bytes_each(),
            _ => 0,
        };
        self.kinds.iter().map(bytes).max().unwrap_or(0)
    }

    fn can_move(&self, state: &ListenerLayerState) -> bool {
        matches!(state.held, Held::Plain(()))
    }

    fn names_peer(&self, tag: u64, at: Peer) -> bool {
        match self.kind(tag) {
            LayerKind::Plain(layer) => layer.names_peer(tag, at),
            LayerKind::Proxy(layer) => layer.names_peer(tag, at),
            #[cfg(feature = "tls")]
            LayerKind::Tls(layer) => layer.names_peer(tag, at),
            #[cfg(feature = "tls")]
            LayerKind::ProxyTls(layer) => layer.names_peer(tag, at),
            #[cfg(any(test, feature = "sim"))]
            LayerKind::Header(layer) => layer.names_peer(tag, at),
            #[cfg(all(feature = "tls", any(test, feature = "sim")))]
            LayerKind::StandIn(layer) => layer.names_peer(tag, at),
        }
    }

    fn begin(&mut self, state: &mut ListenerLayerState, pool: &Pool) -> Result<(), CloseReason> {
        dispatch!(&mut self, state, begin(pool))
    }

    fn peer(&self, state: &ListenerLayerState, at: Peer) -> Option<Peer> {
        dispatch!(&self, state, peer(at))
    }

    fn handshake(&self, state: &ListenerLayerState) -> Option<Result<Handshake, HandshakeError>> {
        dispatch!(&self, state, handshake())
    }

    fn opening_timeout(&self, state: &ListenerLayerState) -> Duration {
        dispatch!(&self, state, opening_timeout())
    }

    fn decide(
        &mut self,
        state: &mut ListenerLayerState,
        input: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason> {
        dispatch!(&mut self, state, decide(input, pool))
    }

    fn received(
        &mut self,
        state: &mut ListenerLayerState,
        input: &mut Chain,
        wire: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason> {
        dispatch!(&mut self, state, received(input, wire, pool))
    }

    fn has_ended(&self, state: &ListenerLayerState) -> bool {
        dispatch!(&self, state, has_ended())
    }

    fn ended(
        &mut self,
        state: &mut ListenerLayerState,
        input: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason> {
        dispatch!(&mut self, state, ended(input, pool))
    }

    fn outgoing<'a>(
        &mut self,
        state: &'a mut ListenerLayerState,
        output: &'a mut Chain,
        pool: &Pool,
    ) -> &'a mut Chain {
        dispatch!(&mut self, state, outgoing(output, pool))
    }

    fn sent(&mut self, state: &mut ListenerLayerState, wire_bytes: usize) -> usize {
        dispatch!(&mut self, state, sent(wire_bytes))
    }

    fn finish(&mut self, state: &mut ListenerLayerState) {
        dispatch!(&mut self, state, finish());
    }

    fn forget_input(&mut self, state: &mut ListenerLayerState) {
        dispatch!(&mut self, state, forget_input());
    }

    fn starves(&self, state: &ListenerLayerState) -> bool {
        dispatch!(&self, state, starves())
    }

    fn keeps_output(&self, state: &ListenerLayerState) -> bool {
        dispatch!(&self, state, keeps_output())
    }

    fn keeps_input(&self, state: &ListenerLayerState) -> bool {
        dispatch!(&self, state, keeps_input())
    }
}
