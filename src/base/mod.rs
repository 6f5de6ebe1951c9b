//! Values and containers without I/O, threads or neighbours.

pub mod endpoint;
pub mod errno;
pub mod key;
pub mod slot_queue;
pub mod time;
pub mod timer_wheel;
pub mod units;
