//! Converts bytes to messages and back, for servers and clients. Pure: no I/O.

pub mod framing;
pub mod hub;
pub mod proxy;
