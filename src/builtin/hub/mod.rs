//! The hub: clients see who is there, and send messages to one of them or to all. The protocol is
//! in `docs/hub-protocol.md`.
//!
//! Each worker has a copy of the service, with tables of its own for the clients that the worker
//! has (its *members*). A message is written once on each worker that has recipients: into the
//! worker's log, a buffer with one frame behind the other. What a member gets are references to
//! parts of the log in the member's own bounded queue.
//!
//! * `protocol`: the frames, written and read.
//! * `options`: the limits that follow from what is chosen.
//! * `members`: the clients of a worker, and whether there is room for more in their queues.
//! * `log`: the buffer that is written once.
//! * `post`: from worker to worker.
//! * `local`: a worker's copy at work: requests carried out, members woken.
//! * `delivery`: from a frame to the queues, and from a queue to the output.
//! * `unpack`: from a parcel to the queues.
//! * `answers`: what a sender is told whose message was not delivered.

pub use crate::protocol::hub as protocol;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use send_wrapper::SendWrapper;

use super::url::HubOptions;
use crate::base::time::Time;
use crate::buffer::Lease;
use crate::config::{BUFFER_SIZE, LEASES_PER_CONNECTION_MAX, Limits, WORKERS_MAX};
use crate::error::CloseReason;
use crate::protocol::framing::LENGTH_BYTES;
use crate::service::{Answer, Connection, Message, Service, Turn, Workplace};

mod bounds;
mod delivery;
mod inbox;
mod local;
mod log;
mod members;
mod not_sent;
mod outbox;
#[cfg(test)]
mod tests;

use bounds::Bounds;
use local::Local;
use outbox::{Post, Registry};

/// Messages between clients. The workers' clones find each other; those of another listener are
/// another hub.
///
/// ```
/// use echopool::builtin::Hub;
/// use echopool::builtin::url::{HubOptions, Slow};
///
/// let hub = Hub::new(HubOptions { slow: Slow::Close, ..HubOptions::default() });
/// ```
pub struct Hub {
    options: HubOptions,
    registry: Arc<Registry>,
    /// Places in buffers for one client: known when the limits are.
    references: Arc<AtomicUsize>,
    /// The tables of this worker's copy, which stay on its thread. Made in `prepare`.
    local: Option<SendWrapper<Box<Local>>>,
}

impl Hub {
    /// A hub with these options.
    pub fn new(options: HubOptions) -> Hub {
        Hub { options, registry: Arc::default(), references: Arc::default(), local: None }
    }

    fn local(&mut self) -> &mut Local {
        self.local.as_mut().expect("a worker prepares its service first")
    }
}

impl Default for Hub {
    fn default() -> Hub {
        Hub::new(HubOptions::default())
    }
}

/// A hub that works with the others of the same origin, on another worker.
impl Clone for Hub {
    fn clone(&self) -> Hub {
        let Hub { options, registry, references, local: _ } = self;
        let (registry, references) = (registry.clone(), references.clone());
        Hub { options: *options, registry, references, local: None }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Service for Hub {
    type Session = ();

    fn check(&self, limits: &Limits) -> Result<(), String> {
        let bounds = Bounds::check(&self.options, limits)?;
        self.references.store(bounds.references_per_client(), Ordering::Relaxed);
        Ok(())
    }

    fn prepare(&mut self, workplace: &Workplace) {
        let bounds = Bounds::of_pool(&self.options, workplace.pool());
        let post = Post::new(workplace, &self.registry);
        let local = Local::new(&self.options, bounds, workplace, post);
        self.local = Some(SendWrapper::new(Box::new(local)));
    }

    fn memory_bytes(&self, connections_max: usize) -> u64 {
        (connections_max * Local::BYTES_PER_SLOT + Local::fixed_bytes(WORKERS_MAX)) as u64
    }

    fn references_max(&self, connections_max: usize) -> usize {
        connections_max * self.references.load(Ordering::Relaxed).max(1)
    }

    fn full_duplex(&self, _tag: u64) -> bool {
        true
    }

    fn input_max(&self, _tag: u64) -> usize {
        // A frame that is not complete, and what one receive has brought behind it.
        let size = self.local.as_ref().map_or(BUFFER_SIZE, |local| local.bounds().buffer_size);
        let receive = usize::from(LEASES_PER_CONNECTION_MAX) * size;
        crate::protocol::hub::SEND_HEAD_BYTES + LENGTH_BYTES + size + receive
    }

    fn open(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.local().open(connection)
    }

    fn ended(&mut self) {
        self.local = None;
    }

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.local().data(connection)
    }

    fn sent(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.local().sent(connection)
    }

    fn peer_closed(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.local().peer_closed(connection)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.local().timer(connection)
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        _: &mut (),
        message: &mut Message<'_>,
    ) -> Answer {
        self.local().message(connection, message)
    }

    fn finishing(&mut self, connection: &mut Connection<'_>, _: &mut ()) {
        self.local().finishing(connection);
    }

    fn closed(&mut self, connection: &mut Connection<'_>, _: &mut (), _: CloseReason) {
        self.local().closed(connection.id());
    }

    fn parcel(&mut self, _listener: usize, lease: Lease, _now: Time) {
        self.local().parcel(lease);
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        self.local().turn(turn)
    }
}
