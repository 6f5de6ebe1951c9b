//! Which bytes are sent, and when. Nothing here does I/O or reads a clock.

pub mod datagram;
pub mod dispatch;
pub mod hub_frames;
pub mod message;
pub mod payload;
pub mod protocol;
pub mod rate;
pub mod rude;
pub mod schedule;
pub mod sizes;
pub mod wire;
