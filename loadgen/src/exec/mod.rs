//! The threads that drive the connections, and the local server.

pub mod client;
pub mod control;
pub mod hub;
pub mod lifecycle;
pub mod local_server;
pub mod rude;
