//! For the load generator and the benchmarks of this repository. No part of the public API.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{Pool, Reserve};
use crate::crew::Mailboxes;
use crate::engine::MioEngine;
use crate::service::Service;
use crate::sys::Kernel;
use crate::worker::{Rules, Setup, Worker};

pub use crate::connection::Table;
pub use crate::key::Key;
pub use crate::sim::measured::{Network, now as simulated_now, simulate};
pub use crate::sys::{monotonic_now as now, polled_in_vain};

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
    pub linger: Duration,
    /// Whether the thread asks for events over and over when there are none, instead of sleeping.
    pub busy_poll: bool,
}

/// Runs `service` on this thread, on an engine of its own, until it calls
/// [`Turn::stop`](crate::service::Turn::stop); connections are begun with
/// [`Turn::connect`](crate::service::Turn::connect).
///
/// # Errors
/// Memory, or what the event loop is made of, could not be had; or waiting failed.
pub fn run_clients<S: Service>(limits: ClientLimits, service: S) -> io::Result<S> {
    let reserve = Reserve::new(limits.buffer_size, limits.buffers)?;
    let pool = Pool::new(reserve, 0);
    let setup = Setup {
        index: 0,
        connections_max: limits.connections_max,
        listeners: 0,
        rules: Rules {
            leases_per_connection_max: limits.leases_per_connection_max,
            idle_timeout: None,
            send_timeout: None,
            shed_after: None,
            linger: limits.linger,
            accept_pause: Duration::ZERO,
        },
        pool: pool.clone(),
        permits: None,
        mailboxes: Arc::new(Mailboxes::new(1)),
        counters: Arc::default(),
        directory: None,
    };
    let kernel = Kernel::new()?.busy_poll(limits.busy_poll);
    let engine = MioEngine::new(kernel, limits.connections_max, pool, None, Vec::new())?;
    let (service, _) = Worker::new(engine, setup, service).run()?;
    Ok(service)
}
