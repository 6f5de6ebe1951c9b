//! Converts bytes to messages and back, for servers and clients. Pure: no I/O, but for the
//! certificates that `tls` reads from files.

pub mod framing;
pub mod hub;
pub mod proxy;
#[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "for loadgen"))]
pub mod stamp;
#[cfg(feature = "tls")]
pub mod tls;
