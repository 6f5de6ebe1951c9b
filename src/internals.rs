//! For the load generator and the benchmarks of this repository. No part of the public API.

use std::io;

use crate::service::Service;
use crate::time::Time;

/// What one thread of clients may use.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Connections at once.
    pub connections_max: usize,
    /// Buffers, all of them allocated at start.
    pub buffers: u32,
    /// Bytes of each.
    pub buffer_size: usize,
    /// Buffers that one receive may fill.
    pub leases_per_connection_max: u8,
    /// How long a closed connection waits for the other side's FIN.
    pub linger: std::time::Duration,
}

/// Runs `service` on this thread, on an engine of its own, until it calls
/// [`Turn::stop`](crate::service::Turn::stop); connections are begun with
/// [`Turn::connect`](crate::service::Turn::connect).
///
/// # Errors
/// Memory, or what the event loop is made of, could not be had; or waiting failed.
pub fn run_clients<S: Service>(_limits: ClientLimits, _service: S) -> io::Result<S> {
    unimplemented!()
}

/// The clock that the engines read: the same origin on all threads.
pub fn now() -> Time {
    unimplemented!()
}
