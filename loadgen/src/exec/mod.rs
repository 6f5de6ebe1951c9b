//! The threads that drive the connections, and the server that they drive if none is named.

pub mod client;
pub mod control;
pub mod hub;
pub mod lifecycle;
pub mod local_server;
pub mod rude;
