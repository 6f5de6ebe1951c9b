//! What peers of a listener with a byte layer add around the bytes of its service, and which layer
//! each listener of a seed has.
//!
//! * `header`: peers of the layer for tests, [`header`](crate::worker::layer::header).
//! * `proxy`: peers that begin with a header of the PROXY protocol, or should.
//! * `records`: peers of the stand-in for TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::world::address_of;
use crate::net::proxy::{Networks, ProxyHeaders, ProxyOptions};
use crate::worker::layer::header as test_layer;
use crate::worker::layer::tls::{Tls, stand_in};
use crate::worker::layer::{ByListener, LayerKind, Plain};

pub(super) mod header;
pub(super) mod proxy;
pub(super) mod records;

pub(super) use header::Header;
pub(super) use proxy::Proxy;
pub(super) use records::Records;

/// The byte layer of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// None.
    Plain,
    /// The layer for tests.
    Header,
    /// Headers of the PROXY protocol.
    Proxy { required: bool },
    /// The stand-in for TLS.
    Records,
}

impl Framing {
    /// Draws the byte layers of a seed's listeners, or none. All of it is drawn apart from what else
    /// a seed draws, so that seeds without a layer did not change when layers were added.
    pub(super) fn draw(seed: u64) -> Vec<Framing> {
        let drawn = |salt: u64| fastrand::Rng::with_seed(seed ^ salt);
        if drawn(0x001a_7e55).u8(0..8) == 0 {
            return vec![Framing::Header];
        }
        // With this number, none of the seeds listed in `scripts/seeds` has such listeners: they
        // mean what they meant.
        if drawn(0x6b69_6e64_0000_122f).u8(0..4) != 0 {
            return Vec::new();
        }
        let mut rng = drawn(0x006c_6973_7473);
        let others = rng.usize(0..=2);
        let mut layer = || match rng.u8(0..4) {
            0 | 1 => Framing::Records,
            which => Framing::Proxy { required: which == 2 },
        };
        let mut all = vec![layer()];
        all.extend((0..others).map(|_| layer()));
        if others == 2 {
            all[1] = Framing::Plain;
        }
        all
    }

    /// The layers of a server with these listeners. Its peers are known after `timeout`.
    pub(super) fn layers(framings: &[Framing], timeout: Duration) -> ByListener {
        let kind = |framing: &Framing| match *framing {
            Framing::Plain => LayerKind::Plain(Plain),
            Framing::Header => LayerKind::Header(test_layer::Header { timeout }),
            Framing::Proxy { required } => {
                let headers = if required { ProxyHeaders::Require } else { ProxyHeaders::Optional };
                let from = Networks::new(proxy::PROXIES).expect("it is written here");
                LayerKind::proxied(&ProxyOptions { headers, from }, timeout)
            }
            Framing::Records => LayerKind::StandIn(Tls::new(Arc::new(stand_in::Acceptor), timeout)),
        };
        ByListener::new(framings.iter().map(kind).collect())
    }

    pub(super) fn is_proxy_or_plain(self) -> bool {
        matches!(self, Framing::Plain | Framing::Proxy { .. })
    }

    /// The smallest buffers, and the fewest, that the layer can work with.
    pub(super) fn least_pool(self) -> (u32, usize) {
        match self {
            Framing::Plain | Framing::Records => (1, 1),
            // The layer's reply must fit into one buffer.
            Framing::Header => (1, test_layer::WELCOME.len()),
            // A header's first bytes are kept.
            Framing::Proxy { .. } => (2, 64),
        }
    }
}

/// What a peer adds around its bytes.
pub(super) enum Wire {
    Header(Header),
    Proxy(Proxy),
    Records(Records),
}

impl Wire {
    /// The address that the peer with this number connects from.
    pub(super) fn address(&self, number: usize) -> SocketAddr {
        match self {
            Wire::Header(_) => address_of(header::GATEWAY),
            Wire::Proxy(proxy) => proxy.introduction.from,
            Wire::Records(_) => address_of(number),
        }
    }

    /// Whether the service must never see the peer.
    pub(super) fn is_refused(&self) -> bool {
        match self {
            Wire::Header(header) => header.flaw.is_some(),
            Wire::Proxy(proxy) => proxy.introduction.known_as.is_none(),
            Wire::Records(records) => records.is_refused(),
        }
    }

    /// Whether the peer has sent what it says before the service's bytes.
    pub(super) fn is_introduced(&self) -> bool {
        match self {
            Wire::Header(_) => true,
            Wire::Proxy(proxy) => proxy.is_over(),
            Wire::Records(records) => records.is_open(),
        }
    }
}
