//! Starting, draining and stopping a server.

use std::time::Duration;

use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::error::StartError;
use crate::service::Service;
use crate::stats::Stats;

/// A server: workers, each with its listeners.
pub struct Server;

/// A running server.
pub struct ServerHandle {}

/// How a drain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// Every connection was finished.
    Clean,
    /// The deadline came first, or the server was stopped: this many connections were closed at
    /// once.
    Cut(u64),
}

impl Server {
    /// Starts the workers and answers when all of them listen.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start<S: Service + Clone + Send>(
        _config: Config,
        _service: S,
    ) -> Result<ServerHandle, StartError> {
        unimplemented!()
    }
}

impl ServerHandle {
    /// Where the server listens, with the real ports, in the order of [`Config::listen`].
    pub fn local_endpoints(&self) -> &[Endpoint] {
        unimplemented!()
    }
    /// The counters now.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
    /// Begins a drain and comes back at once: accept what waits, close the listeners, finish each
    /// connection; after `deadline` the rest is closed at once.
    pub fn begin_drain(&self, _deadline: Duration) {
        unimplemented!()
    }
    /// Drains, and waits for the end.
    pub fn drain(&self, _deadline: Duration) -> Drained {
        unimplemented!()
    }
    /// Closes everything at once, and waits for the end.
    pub fn stop(&self) {
        unimplemented!()
    }
    /// Waits until the server has ended, by a drain or stop begun elsewhere.
    pub fn wait(&self) -> Drained {
        unimplemented!()
    }
}
