//! The hub: clients see which other clients are connected, and send messages to one of them or to
//! all. The protocol is described in `docs/hub-protocol.md`.
//!
//! Each worker has a service of its own, with its own tables for the clients of the worker (its
//! *members*). A message is written once on each worker that has recipients: into the worker's log,
//! a buffer that contains one frame after the other. Each member has a bounded queue of its own,
//! which refers to parts of the log.
//!
//! * `protocol`: reads and writes the frames.
//! * `options`: the options of a hub.
//! * `bounds`: the limits that follow from the options.
//! * `members`: the clients of a worker, and whether there is room in their queues.
//! * `log`: the buffer into which each frame is written once.
//! * `outbox`: sends frames from worker to worker.
//! * `local`: a worker's part of the hub: carries out requests, and wakes members.
//! * `delivery`: puts frames into queues, and moves queues to outputs.
//! * `inbox`: unpacks parcels into queues.
//! * `not_sent`: tells a sender that its message was not delivered.

pub use crate::protocol::hub as protocol;

use std::sync::Arc;

use crate::base::time::Time;
use crate::buffer::Lease;
use crate::config::{LEASES_PER_CONNECTION_MAX, Limits};
use crate::error::{CloseReason, SettingError};
use crate::protocol::framing::LENGTH_BYTES;
use crate::service::{
    Answer, Connection, Message, Service, ServiceFactory, ServicePlan, Turn, WorkerContext,
};

mod bounds;
mod delivery;
mod inbox;
mod local;
mod log;
mod members;
mod not_sent;
pub(crate) mod options;
mod outbox;
#[cfg(test)]
mod tests;

use bounds::Bounds;
use local::Local;
pub use options::{HubOptions, Slow};
use outbox::{HubState, Outbox};

/// Sends messages between clients. The services of all workers form one hub. Each listener has its
/// own hub.
///
/// ```
/// use echopool::builtin::{HubOptions, Slow};
/// use echopool::{Config, Server};
///
/// let config = Config::new().listen("127.0.0.1:0").workers(2).max_connections(100);
/// let hub = HubOptions { slow: Slow::Close, ..HubOptions::default() };
/// let server = Server::start(config, hub)?;
/// # Ok::<(), echopool::StartError>(())
/// ```
pub struct Hub {
    local: Box<Local>,
}

impl Hub {
    fn new(options: &HubOptions, bounds: Bounds, shared: Arc<HubState>, on: &WorkerContext) -> Hub {
        let outbox = Outbox::new(on, shared);
        Hub { local: Box::new(Local::new(options, bounds, on, outbox)) }
    }
}

impl ServiceFactory for HubOptions {
    type Service = Hub;

    fn check(&self, limits: &Limits) -> Result<(), SettingError> {
        Bounds::check(self, limits).map(drop)
    }

    fn plan(self, limits: &Limits) -> ServicePlan<Hub> {
        let bounds = Bounds::new(&self, limits.buffer_size, limits.buffers as usize);
        let connections_max = limits.max_connections as usize;
        let tables = connections_max * Local::BYTES_PER_SLOT + Local::fixed_bytes(limits.workers);
        let shared = Arc::new(HubState::new(limits.workers));
        ServicePlan::new(move |worker| Hub::new(&self, bounds, shared.clone(), worker))
            .memory_bytes(tables as u64)
            .references(connections_max * bounds.references_per_client())
    }
}

impl Service for Hub {
    type Session = ();

    fn full_duplex(&self, _tag: u64) -> bool {
        true
    }

    fn input_max(&self, _tag: u64) -> usize {
        // An incomplete frame, and the bytes that one receive has added behind it.
        let size = self.local.bounds().buffer_size;
        let receive = usize::from(LEASES_PER_CONNECTION_MAX) * size;
        crate::protocol::hub::SEND_HEAD_BYTES + LENGTH_BYTES + size + receive
    }

    fn open(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.local.open(connection)
    }

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.local.data(connection)
    }

    fn sent(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.local.sent(connection)
    }

    fn peer_closed(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.local.peer_closed(connection)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.local.timer(connection)
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        _: &mut (),
        message: &mut Message<'_>,
    ) -> Answer {
        self.local.message(connection, message)
    }

    fn finishing(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Option<CloseReason> {
        self.local.finishing(connection)
    }

    fn closed(&mut self, connection: &mut Connection<'_>, _: &mut (), _: CloseReason) {
        self.local.closed(connection.id());
    }

    fn parcel(&mut self, _listener: usize, lease: Lease, _now: Time) {
        self.local.arrived.push_back(lease);
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        self.local.turn(turn)
    }
}
