//! Makes a worker that runs on this machine: its rules, its system layer and its engine.
//!
//! The server, the client loop and the load generator all make their workers here, so this is the
//! only place that knows which engine there is. The simulation uses the parts that do not depend on
//! the engine.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::layer::Layer;
#[cfg(all(feature = "internals", feature = "tls"))]
use super::layer::tls::Tls;
#[cfg(feature = "internals")]
use super::layer::{Plain, prefix::Prefix};
use super::{ListenerOf, Rules, Setup, Worker};
#[cfg(feature = "internals")]
use crate::base::endpoint::Peer;
use crate::buffer::{Pool, Reserve, room};
use crate::config::Limits;
use crate::engine::MioEngine;
use crate::engine::sys::{Kernel, Listening};
use crate::service::{Service, WorkerContext};
use crate::shared::mailbox::{Mailboxes, WorkerTimes};
#[cfg(all(feature = "internals", feature = "tls"))]
use crate::tls::client::{Connector, Name};

/// The engine of this machine.
type SystemEngine = MioEngine<Kernel>;

/// A worker on the engine of this machine.
pub(crate) type SystemWorker<S, L = super::layer::Plain> = Worker<SystemEngine, S, L>;

/// Memory of this machine's engine per slot, in bytes.
pub(crate) const ENGINE_BYTES_PER_SLOT: usize = SystemEngine::BYTES_PER_SLOT;

/// The longest pause in accepting on one worker, divided by the number of workers. The whole
/// process thus makes at most ten attempts per second, which is not visible in its CPU time.
const ACCEPT_PAUSE_PER_WORKER: Duration = Duration::from_millis(100);

impl Rules {
    /// The rules of a server's workers.
    pub(crate) fn of(limits: &Limits) -> Rules {
        Rules {
            leases_per_connection_max: limits.leases_per_connection_max,
            idle_timeout: limits.idle_timeout,
            send_timeout: limits.send_timeout,
            shed_after: limits.shed_after,
            linger: limits.linger,
            log_sample: limits.log_sample,
            accept_pause: ACCEPT_PAUSE_PER_WORKER * limits.workers as u32,
        }
    }

    /// Takes over times that were changed.
    pub(crate) fn set(&mut self, times: &WorkerTimes) {
        let WorkerTimes { idle_timeout, send_timeout, shed_after, linger } = *times;
        *self = Rules { idle_timeout, send_timeout, shed_after, linger, ..*self };
    }
}

/// Makes a worker with these listeners, in the order of the server's endpoints. Call it on the
/// worker's own thread, because nothing of a worker may leave it.
///
/// `service_bytes` is what `service` allocates. `layer` is the byte layer of the connections.
///
/// # Errors
/// The system refused memory, to make the event loop, or to watch a listener.
pub(crate) fn make_worker<S: Service, L: Layer>(
    mut setup: Setup,
    listeners: Vec<Listening<OwnedFd>>,
    busy_poll: bool,
    service_bytes: u64,
    service: impl FnOnce(&WorkerContext) -> S,
    layer: L,
) -> io::Result<SystemWorker<S, L>> {
    let each = SystemWorker::<S, L>::BYTES_PER_SLOT + ENGINE_BYTES_PER_SLOT;
    let slots = (setup.connections_max as u64).saturating_mul(each as u64);
    room::check(slots.saturating_add(SystemWorker::<S, L>::FIXED_BYTES as u64 + service_bytes))?;
    setup.listeners = listeners.len();
    let of = |one: &Listening<_>| ListenerOf { number: one.number, kept: one.kept.clone() };
    let described: Vec<ListenerOf> = listeners.iter().map(of).collect();
    let kernel = Kernel::new()?.busy_poll(busy_poll);
    let (slots, pool, permits) = (setup.connections_max, setup.pool.clone(), setup.permits.clone());
    let engine = MioEngine::new(kernel, slots, pool, permits, listeners)?;
    Ok(Worker::with_layer(engine, setup, service, layer).with_listeners(&described))
}

/// Limits of a thread that starts connections and accepts none.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Connections at once.
    pub connections_max: usize,
    /// Buffers, all of them allocated at start.
    pub buffers: u32,
    /// Bytes of each buffer.
    pub buffer_size: usize,
    /// Buffers that one receive may fill.
    pub leases_per_connection_max: u8,
    /// How long a closed connection waits for the other side's FIN.
    pub linger: Duration,
    /// Whether the thread polls for events without sleeping.
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "for run_clients"))]
    pub busy_poll: bool,
}

impl ClientLimits {
    /// The parts of a worker that only starts connections. `mailboxes` has only its inbox.
    ///
    /// # Errors
    /// The memory of the buffers could not be allocated.
    pub(crate) fn setup(&self, mailboxes: Arc<Mailboxes>) -> io::Result<Setup> {
        Ok(Setup {
            index: 0,
            connections_max: self.connections_max,
            listeners: 0,
            rules: Rules {
                leases_per_connection_max: self.leases_per_connection_max,
                idle_timeout: None,
                send_timeout: None,
                shed_after: None,
                linger: self.linger,
                log_sample: 1,
                accept_pause: Duration::ZERO,
            },
            pool: Pool::new(Reserve::new(self.buffer_size, self.buffers)?, 0),
            permits: None,
            mailboxes,
            counters: Arc::default(),
            directory: None,
        })
    }
}

/// Runs `service` on this thread, on its own engine, until it calls
/// [`Turn::stop`](crate::service::Turn::stop). Returns the service, which starts connections with
/// [`Turn::connect`](crate::service::Turn::connect).
///
/// # Errors
/// Memory or the parts of the event loop could not be allocated, or waiting failed.
#[cfg(feature = "internals")]
pub fn run_clients<S: Service>(limits: ClientLimits, service: S) -> io::Result<S> {
    run_layered_clients(limits, service, Plain)
}

/// Like [`run_clients`]. Each connection first sends the bytes that `prefix` makes for its tag and
/// its peer. These are at most a buffer, and are not counted as the service's.
///
/// # Errors
/// As [`run_clients`].
#[cfg(feature = "internals")]
pub fn run_clients_with_prefix<S: Service>(
    limits: ClientLimits,
    service: S,
    prefix: impl Fn(u64, Peer) -> Vec<u8> + 'static,
) -> io::Result<S> {
    run_layered_clients(limits, service, Prefix::new(prefix, Plain))
}

/// Like [`run_clients_with_prefix`], with TLS behind the prefix, which may be empty. `server` returns
/// the name of the server of the connection with a tag, and the connector that has its tickets.
///
/// # Errors
/// As [`run_clients`].
#[cfg(all(feature = "internals", feature = "tls"))]
pub fn run_clients_with_tls<S: Service>(
    limits: ClientLimits,
    service: S,
    prefix: impl Fn(u64, Peer) -> Vec<u8> + 'static,
    server: impl Fn(u64) -> (Connector, Name) + Send + Sync + 'static,
) -> io::Result<S> {
    let tls = Tls::connecting(move |tag| {
        let (connector, name) = server(tag);
        connector.session(&name)
    });
    run_layered_clients(limits, service, Prefix::new(prefix, tls))
}

#[cfg(feature = "internals")]
fn run_layered_clients<S: Service, L: Layer>(
    limits: ClientLimits,
    service: S,
    layer: L,
) -> io::Result<S> {
    let setup = limits.setup(Arc::new(Mailboxes::new(1)))?;
    let (service, _) = make_worker(setup, Vec::new(), limits.busy_poll, 0, |_| service, layer)?
        .run(|service| service)?;
    Ok(service)
}
