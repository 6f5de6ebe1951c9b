//! The threads that drive the connections, the local server, and the common start of several
//! processes.

pub mod barrier;
mod barrier_files;
pub mod client;
pub mod clocks;
pub mod control;
pub mod datagram;
pub mod hub;
pub mod lifecycle;
pub mod local_server;
pub mod rude;
