//! TLS, with rustls. Only this room names rustls, so that a new version of it changes nothing else.
//!
//! * `options`: the options in a URL.
//! * `session`: one connection's records, from and to chains of buffers.
//! * `server`: the files of a listener, and the setup of its sessions.
//!
//! `worker/layer/tls` puts a session between a connection's socket and its service. A session that
//! the kernel encrypts for (kTLS) would begin in `session` too: rustls gives out the secrets of a
//! session after the handshake.

pub mod options;
pub(crate) mod server;
pub(crate) mod session;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use server::TlsError;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

/// The cryptography of all sessions.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
