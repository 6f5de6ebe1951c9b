//! Bytes to messages and back, for both ends. Pure: nothing here does I/O.

pub mod framing;
pub mod hub;
