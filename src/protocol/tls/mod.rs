//! TLS, with rustls. Only this module uses rustls, so a new version of rustls changes nothing else.
//!
//! * `options`: the options in a URL.
//! * `session`: one connection's records, from and to chains of buffers.
//! * `files`: certificates, keys and authorities of either side.
//! * `server`: the sessions of a listener; `client`: those of connections that this side starts.
//!
//! `worker/layer/tls` puts a session between a connection's socket and its service. A session that
//! the kernel encrypts for (kTLS) would begin in `session` too: rustls gives out the secrets of a
//! session after the handshake.

pub(crate) mod client;
mod files;
pub mod options;
pub(crate) mod server;
pub(crate) mod session;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use files::TlsError;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

/// The cryptography of all sessions.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
