//! A buffer-pooled echo server, and the library it is built on.

pub mod buffer;
pub mod config;
pub mod endpoint;
pub mod error;
#[doc(hidden)]
pub mod internals;
mod listener;
pub mod server;
pub mod service;
pub mod stats;
pub mod time;
#[doc(hidden)]
pub mod units;

pub use config::Config;
pub use endpoint::Endpoint;
pub use error::{CloseReason, StartError};
pub use server::{Drained, Server, ServerHandle};
pub use service::Service;
pub use stats::{Counts, Stats};
