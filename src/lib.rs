//! A buffer-pooled echo server, and the library it is built on.

pub mod buffer;
#[cfg(feature = "daemon")]
mod cli;
pub mod config;
mod connection;
mod crew;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod endpoint;
mod engine;
pub mod error;
#[doc(hidden)]
pub mod internals;
mod key;
mod listener;
mod permits;
pub mod server;
pub mod service;
mod slots;
pub mod stats;
mod sys;
pub mod time;
mod timer;
#[doc(hidden)]
pub mod units;
mod worker;

pub use config::Config;
pub use endpoint::Endpoint;
pub use error::{CloseReason, StartError};
pub use server::{Drained, Server, ServerHandle};
pub use service::Service;
pub use stats::{Counts, Stats};
