//! Values and containers. No I/O, no threads, no dependency on other modules.

pub mod endpoint;
pub mod errno;
pub mod handshake;
pub mod key;
pub(crate) mod option;
#[cfg(test)]
pub mod property;
pub mod slot_queue;
pub(crate) mod sync;
pub mod time;
pub mod timer_wheel;
pub mod unix_address;
// The programs use more of this module than the library does.
#[cfg(not(feature = "internals"))]
#[cfg_attr(not(feature = "daemon"), allow(dead_code))]
pub mod units;
#[cfg(feature = "internals")]
pub mod units;
pub(crate) mod url;
pub mod words;
