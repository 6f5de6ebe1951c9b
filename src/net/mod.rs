//! Creates and queries sockets: transports, bind, accept queue, socket options.

pub mod accept_queue;
pub mod bind;
#[cfg(target_os = "linux")]
pub mod message_calls;
#[cfg(target_os = "linux")]
pub mod mmsg;
pub mod proxy;
#[cfg(target_os = "linux")]
pub mod sockopt;
pub mod transport;
