//! One thread's loop. A turn waits for completions, drives connections, and then handles what is
//! pending: commands, connections that yielded, timers, listeners.
//!
//! * `drive`: from a completion to the connection's next operation, with the service in between.
//! * `lifecycle`: connections that are established, opened, finished, closed and freed.
//! * `accept`: the listeners, and the connects of a client service.
//! * `listening`: listeners that are added and removed meanwhile.
//! * `supply`: who waits for a buffer, who gives one, and who is shed.
//! * `timers`: time-outs, and the timers that services set.
//! * `layer`: the byte layer between a connection's socket and its service.
//! * `mail`: commands and messages from other workers and threads.
//! * `drain`: drain, stop, and the end of a process that was replaced.
//! * `handover`: connections that move to another process, and from another one.
//! * `launch`: makes a worker on this machine's engine.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[cfg(any(test, feature = "sim"))]
use crate::base::endpoint::Peer;
use crate::base::key::{ConnectionId, Key, LISTENERS_ADDED_MAX};
use crate::base::slot_queue::SlotQueue;
use crate::base::time::Time;
use crate::base::timer_wheel::Wheel;
use crate::buffer::{Chain, Pool};
use crate::engine::{Completion, ConnectTo, Engine, Sink};
#[cfg(any(test, feature = "sim"))]
use crate::error::CloseReason;
use crate::error::Errno;
#[cfg(any(test, feature = "sim"))]
use crate::service::Attention;
#[cfg(any(test, feature = "sim"))]
use crate::service::messenger::MessageHead;
use crate::service::messenger::Messenger;
use crate::service::{Requests, Service, Turn, WorkerContext};
use crate::shared::counters::Counters;
use crate::shared::directory::Directory;
use crate::shared::mailbox::Mailboxes;
use crate::shared::permits::Permits;
#[cfg(any(test, feature = "sim"))]
use connection::machine::Phase;
use connection::{Context, Table};

mod accept;
pub mod connection;
#[cfg(target_os = "linux")]
pub(crate) mod datagram;
mod drain;
mod drive;
mod handover;
pub(crate) mod launch;
pub(crate) mod layer;
mod lifecycle;
mod listening;
mod mail;
pub(crate) mod supply;
#[cfg(test)]
mod tests;
mod timers;

use accept::Listener;
pub(crate) use accept::ListenerOf;
use drain::Drain;
use handover::Handover;
use layer::{Layer, Plain};
use listening::Leaving;
use mail::Delivery;
use supply::Supply;
use timers::Retiming;

/// The resolution of connections' time-outs. These are usually seconds; a service's
/// [`Answer::WaitUntil`](crate::service::Answer::WaitUntil) is at most this much late.
const TICK: Duration = Duration::from_millis(1);

/// The most connections that a service can start in one turn, and wake without allocating.
const REQUESTS_PER_TURN: usize = 1024;

/// The most connections that a service is to wake in one turn, about half a millisecond: each may
/// send.
const WAKES_PER_TURN: usize = 64;

/// The times and limits that a worker follows.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) leases_per_connection_max: u8,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) shed_after: Option<Duration>,
    pub(crate) linger: Duration,
    /// Of how many connections one has lines in the log, at level debug. At least 1.
    pub(crate) log_sample: u32,
    /// After running out of descriptors or memory, accept is tried again after at most this time.
    pub(crate) accept_pause: Duration,
}

/// What a worker is made of, besides its engine and its service.
pub(crate) struct Setup {
    pub(crate) index: usize,
    pub(crate) connections_max: usize,
    pub(crate) listeners: usize,
    pub(crate) rules: Rules,
    pub(crate) pool: Pool,
    pub(crate) permits: Option<Arc<Permits>>,
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) counters: Arc<Counters>,
    /// Where accepted connections are listed.
    pub(crate) directory: Option<Arc<Directory>>,
}

/// A worker: an engine, and the [`Core`] that receives its completions.
pub(crate) struct Worker<E, S: Service, L: Layer = Plain> {
    engine: E,
    core: Core<S, L>,
}

/// All of a worker except its engine.
pub(crate) struct Core<S: Service, L: Layer> {
    index: usize,
    rules: Rules,
    /// The timers are being set anew.
    retiming: Option<Retiming>,
    /// The time, read once per turn.
    now: Time,
    /// What had happened to the connections by this time has been handled. A time-out that is due
    /// later must not be carried out yet: what it waits for may have come.
    looked_at: Time,
    /// The next value of `looked_at`: when the polls began that have not reported everything yet.
    look_began: Time,
    service: S,
    layer: L,
    /// When the service wants its next turn.
    service_turn: Option<Time>,
    requests: Requests,
    table: Table<Context<S::Session, L::State>>,
    pool: Pool,
    permits: Option<Arc<Permits>>,
    mailboxes: Arc<Mailboxes>,
    counters: Arc<Counters>,
    directory: Option<Arc<Directory>>,
    /// Messages of the service in transit.
    messenger: Messenger,
    /// Messages that are being delivered: those that have arrived, and those of the service.
    incoming: Option<Delivery>,
    own: Option<Delivery>,
    /// What a turn may do of each kind of work, in units of [`Work`].
    work: u32,
    established: u64,
    listeners: Vec<Listener>,
    /// Listeners that are being removed.
    leaving: Vec<Leaving>,
    /// The listener that is served first in this turn.
    first_listener: usize,
    accept_warned_at: Option<Time>,
    refusal_warned_at: Option<Time>,
    /// How often the set of stopped listeners had changed when this worker followed it.
    stop_changes: u64,
    wheel: Wheel,
    supply: Supply,
    /// Connections that used up their share of a turn.
    yielded: SlotQueue,
    /// How many of them are still to be served before those that yielded later.
    yielded_left: usize,
    drain: Option<Drain>,
    /// To the process that has replaced this one.
    handover: Option<Handover>,
    stopping: bool,
    /// Connections that a stop closed at once, or that lost output during a drain.
    cut: u64,
}

impl<E: Engine, S: Service> Worker<E, S> {
    /// A worker without a byte layer. See [`with_layer`](Worker::with_layer).
    pub(crate) fn new(
        engine: E,
        setup: Setup,
        make: impl FnOnce(&WorkerContext) -> S,
    ) -> Worker<E, S> {
        Worker::with_layer(engine, setup, make, Plain)
    }
}

impl<E: Engine, S: Service, L: Layer> Worker<E, S, L> {
    /// Memory of a worker for each connection that it can have, in bytes, without the engine's
    /// part.
    pub(crate) const BYTES_PER_SLOT: usize = Table::<Context<S::Session, L::State>>::BYTES_PER_SLOT
        + Wheel::BYTES_PER_SLOT
        + Supply::BYTES_PER_SLOT
        + SlotQueue::BYTES_PER_SLOT;

    /// Memory of a worker that does not depend on the number of its connections, in bytes: the
    /// events and readiness of one turn, the slots of the timer wheel, the inbox, the space for
    /// bytes that are thrown away, the requests of one turn.
    pub(crate) const FIXED_BYTES: usize =
        80 * 1024 + REQUESTS_PER_TURN * (size_of::<ConnectTo>() + 2 * size_of::<ConnectionId>());

    /// Allocates everything that the worker will ever use. `make` makes its service.
    pub(crate) fn with_layer(
        engine: E,
        setup: Setup,
        make: impl FnOnce(&WorkerContext) -> S,
        layer: L,
    ) -> Self {
        let slots = setup.connections_max;
        let service = make(&WorkerContext {
            listener: 0,
            of_one_listener: false,
            worker: setup.index,
            connections_max: slots,
            pool: setup.pool.clone(),
            counters: setup.counters.clone(),
            mailboxes: setup.mailboxes.clone(),
            directory: setup.directory.clone(),
        });
        setup.counters.counts_wire.store(!L::IS_PLAIN, Ordering::Relaxed);
        setup.mailboxes.set_waker(setup.index, engine.waker());
        setup.pool.reserve().board().set_waker(setup.index, engine.waker());
        let now = engine.now();
        let mut listeners = Vec::with_capacity(setup.listeners + LISTENERS_ADDED_MAX);
        listeners.extend((0..setup.listeners as u64).map(Listener::new));
        let messenger = Messenger::new(
            setup.index,
            &setup.pool,
            &setup.mailboxes,
            setup.directory.as_ref(),
            &setup.counters,
        );
        let core = Core {
            index: setup.index,
            supply: Supply::new(slots, setup.rules.shed_after),
            rules: setup.rules,
            retiming: None,
            now,
            looked_at: now,
            look_began: now,
            service,
            layer,
            service_turn: None,
            requests: Requests::with_capacity(REQUESTS_PER_TURN.min(slots)),
            table: Table::new(slots),
            pool: setup.pool,
            permits: setup.permits,
            mailboxes: setup.mailboxes,
            counters: setup.counters,
            directory: setup.directory,
            messenger,
            incoming: None,
            own: None,
            work: Work::TURN,
            established: 0,
            listeners,
            leaving: Vec::with_capacity(LISTENERS_ADDED_MAX),
            first_listener: 0,
            accept_warned_at: None,
            refusal_warned_at: None,
            stop_changes: 0,
            wheel: Wheel::new(slots, TICK, now),
            yielded: SlotQueue::new(slots),
            yielded_left: 0,
            drain: None,
            handover: None,
            stopping: false,
            cut: 0,
        };
        Worker { engine, core }
    }

    /// Says of each listener what its number is, and whether another program keeps its socket open.
    /// Otherwise they are numbered in their order.
    pub(crate) fn with_listeners(mut self, listeners: &[ListenerOf]) -> Self {
        let described = self.core.listeners.iter_mut().zip(listeners);
        described.for_each(|(listener, of)| listener.describe(of));
        self
    }

    /// Serves until drained or stopped, then ends.
    ///
    /// # Errors
    /// Waiting failed. The worker cannot continue.
    pub(crate) fn run<R>(mut self, keep: impl FnOnce(S) -> R) -> Result<(R, u64), Errno> {
        self.begin();
        while !self.is_finished() {
            self.turn()?;
        }
        Ok(self.end(keep))
    }

    /// Ends. Returns what `keep` keeps of the service, and how many connections were cut: closed at
    /// once by a stop, or closed with output lost during a drain. Buffers held by the service go to the other workers, whose connections
    /// may need them to finish.
    pub(crate) fn end<R>(self, keep: impl FnOnce(S) -> R) -> (R, u64) {
        let Core { index, service, mailboxes, counters, pool, cut, messenger, .. } = self.core;
        drop((self.core.incoming, self.core.own));
        mailboxes.close(index);
        pool.reserve().board().leave(index);
        let kept = keep(service);
        messenger.end();
        counters.buffers_held.set(pool.held() as u64);
        pool.give(false);
        (kept, cut)
    }

    /// Starts accepting, and gives the service its first turn. Call it once, before the first turn.
    pub(crate) fn begin(&mut self) {
        self.core.begin(&mut self.engine);
    }

    /// One turn of the loop: wait, handle completions, handle what is pending.
    ///
    /// # Errors
    /// See [`run`](Worker::run).
    pub(crate) fn turn(&mut self) -> Result<(), Errno> {
        let deadline = self.core.next_deadline();
        if self.engine.poll(deadline, &mut self.core)? {
            self.core.looked_at = self.core.look_began;
            self.core.look_began = self.core.now;
        }
        self.core.end_turn(&mut self.engine);
        self.core.time_turn(&self.engine);
        Ok(())
    }

    /// Whether the worker has nothing left to do, ever.
    pub(crate) fn is_finished(&self) -> bool {
        self.core.is_finished()
    }

    pub(crate) fn engine(&self) -> &E {
        &self.engine
    }

    /// When the worker wants its next turn if nothing completes earlier.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.core.next_deadline()
    }
}

/// For the simulation, which schedules the turns and inspects everything in between.
#[cfg(any(test, feature = "sim"))]
impl<E: Engine, S: Service, L: Layer> Worker<E, S, L> {
    /// Connections in the table.
    pub(crate) fn open(&self) -> usize {
        self.core.table.len()
    }

    /// The connections in the queue for buffers, by their keys.
    pub(crate) fn waiting(&self) -> Vec<u64> {
        let key = |(slot, _)| self.core.table.key_of(slot).map(Key::to_bits);
        self.core.supply.waiting().filter_map(key).collect()
    }

    /// How often a connection has found no buffer and was put into the queue for one.
    pub(crate) fn waits_for_buffer(&self) -> u64 {
        self.core.counters.waits_for_buffer.get()
    }

    /// How many free buffers a connection in the queue waits for: more than were free when it could
    /// not use them. Zero if it is not in the queue.
    pub(crate) fn buffers_needed(&self, key: u64) -> usize {
        self.core.supply.buffers_needed(Key::from_bits(key).slot())
    }

    /// The number of connections that are being shed.
    pub(crate) fn being_shed(&self) -> usize {
        let shed = |reason| reason == Some(CloseReason::Shed);
        self.core.table.iter().filter(|context| shed(context.reason)).count()
    }

    /// The ids of the connections that wait for a buffer to receive into, and for nothing else.
    pub(crate) fn awaiting_bytes(&self) -> impl Iterator<Item = ConnectionId> {
        let context = |(slot, _)| self.core.table.at(slot);
        let contexts = self.core.supply.waiting().filter_map(context);
        let receives = contexts.filter(|context| !context.attention.has(Attention::WAITS));
        receives.filter(|context| context.is_open()).map(|context| context.id)
    }

    /// The tickets of the connections in the queue for buffers.
    pub(crate) fn tickets(&self) -> impl Iterator<Item = u64> {
        self.core.supply.waiting().map(|(_, ticket)| ticket)
    }

    /// The ids of the connections that are read and whose services hold input.
    pub(crate) fn holding(&self) -> impl Iterator<Item = ConnectionId> {
        let table = &self.core.table;
        let holds = table.iter().filter(|context| {
            context.opened && !context.input.is_empty() && !context.machine.is_paused()
        });
        holds.map(|context| context.id).filter(|&id| self.is_read(id))
    }

    /// Whether the connection waits neither for a buffer nor to send.
    pub(crate) fn is_read(&self, id: ConnectionId) -> bool {
        let supply = &self.core.supply;
        !supply.is_waiting(id.slot()) && !supply.is_stalled(id.slot())
    }

    /// The phase of the connection with this key, if it still exists.
    pub(crate) fn phase(&self, key: u64) -> Option<Phase> {
        let key = Key::from_bits(key);
        let exists = self.core.table.key_of(key.slot()) == Some(key);
        self.core.table.at(key.slot()).filter(|_| exists).map(|context| context.machine.phase())
    }

    /// Since when the longest pending send is waited for.
    pub(crate) fn stalled_since(&self) -> Option<Time> {
        let context = |slot| self.core.table.at(slot);
        self.core.supply.stalled().filter_map(context).map(|context| context.stalled_since).min()
    }

    /// The ids of the connections that the service knows, with the number of bytes that the service
    /// has left in the input of each.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (ConnectionId, usize)> {
        let opened = self.core.table.iter().filter(|context| context.opened);
        opened.map(|context| (context.id, context.input.len()))
    }

    /// The connections whose layer keeps input, and when bytes of each last moved.
    pub(crate) fn kept_by_layers(&self) -> impl Iterator<Item = (ConnectionId, Time)> {
        let kept =
            |context: &&Context<S::Session, L::State>| self.core.layer.keeps_input(&context.layer);
        self.core.table.iter().filter(kept).map(|context| (context.id, context.active_at))
    }

    /// Whether a connection's layer waits for a buffer.
    pub(crate) fn any_layer_starves(&self) -> bool {
        self.core.table.iter().any(|context| self.core.layer.starves(&context.layer))
    }

    /// The connections whose services are called for messages.
    pub(crate) fn recipients(&self) -> impl Iterator<Item = ConnectionId> {
        let open = self.core.table.iter().filter(|context| context.is_open());
        open.map(|context| context.id)
    }

    /// Which connections could not move to another process now.
    pub(crate) fn kept_back(&self) -> impl Iterator<Item = Peer> {
        let keys = (0..self.core.table.used()).filter_map(|slot| self.core.table.key_of(slot));
        let kept = keys.filter(|key| self.core.continuation(&self.engine, *key).is_none());
        kept.filter_map(|key| Some(self.core.table.at(key.slot())?.peer))
    }

    /// When bytes of a connection last moved, and how many were received and sent.
    pub(crate) fn activity(&self, id: ConnectionId) -> Option<(Time, u64, u64)> {
        let context = self.core.table.iter().find(|context| context.id == id)?;
        Some((context.active_at, context.bytes_received, context.bytes_sent))
    }

    /// Sets what a turn may do of each kind of work, in units of [`Work`].
    pub(crate) fn limit_work(&mut self, units: u32) {
        self.core.work = units;
    }

    /// The most messages that a turn passes to the service, with buffers of `buffer_size` bytes:
    /// those that have arrived and those of the service itself. The messages of one buffer that are
    /// for the same connection are not divided.
    pub(crate) fn messages_per_turn_max(&self, buffer_size: usize) -> usize {
        2 * ((self.core.work / Work::CALL) as usize + 1 + buffer_size / MessageHead::BYTES)
    }

    /// Whether messages are left that have to be delivered.
    pub(crate) fn delivers(&self) -> bool {
        self.core.incoming.is_some() || self.core.own.is_some()
    }

    /// Whether a listener pauses before it accepts again.
    pub(crate) fn accept_pauses(&self) -> bool {
        self.core.next_accept().is_some()
    }
}

impl<E: Engine, S: Service, L: Layer> Sink<E> for Core<S, L> {
    #[inline]
    fn turn(&mut self, now: Time) {
        self.now = now;
    }

    fn complete(&mut self, engine: &mut E, completion: Completion<E::Socket>) {
        let Completion { key, outcome } = completion;
        match key.listener_index() {
            Some(index) => self.listener_completed(engine, index, key.op(), outcome),
            None => self.drive_completed(engine, key.socket(), key.op(), outcome),
        }
        self.serve_waiters(engine);
    }

    #[inline(always)]
    fn received(&mut self, engine: &mut E, key: Key, chain: Chain) {
        self.drive_received(engine, key, chain);
        self.serve_waiters(engine);
    }
}

impl<S: Service, L: Layer> Core<S, L> {
    fn begin<E: Engine>(&mut self, engine: &mut E) {
        self.begin_accepting(engine);
        self.service_turn(engine);
        // Commands sent before this worker could be woken would otherwise wait until it wakes.
        self.commands(engine);
    }

    /// What to do between two turns, most urgent first.
    #[inline]
    fn end_turn<E: Engine>(&mut self, engine: &mut E) {
        self.commands(engine);
        self.serve_waiters(engine);
        self.serve_yielded(engine);
        self.serve_timers(engine);
        self.shed_if_needed(engine);
        self.serve_listeners(engine);
        self.service_turn(engine);
        self.drain_step(engine);
        // Last: buffers that any of these freed must not stay unused here until the next turn.
        self.share_buffers(engine);
        self.counters.buffers_held.set(self.pool.held() as u64);
    }

    /// Records how long the turn took, if somebody wants to know. The clock is read once more for it.
    #[inline]
    fn time_turn<E: Engine>(&mut self, engine: &E) {
        if self.counters.times_turns() {
            let end = engine.now();
            self.counters.turn_time.record(self.now, end);
            if let Some(since) = self.requests.delivered.take() {
                self.counters.hub_delivery_time.record(since, end);
            }
        }
    }

    /// When the next turn has to start if nothing completes.
    #[inline]
    fn next_deadline(&self) -> Option<Time> {
        if !self.yielded.is_empty() || self.listeners_want_a_turn() || self.drain_wants_a_turn() {
            return Some(Time::ZERO);
        }
        let drain = self.drain.as_ref().map(|drain| drain.wakes_at);
        let at = |time: Option<Time>| time.unwrap_or(Time::MAX);
        let first = at(self.wheel.next())
            .min(at(self.service_turn))
            .min(at(self.next_look()))
            .min(at(self.next_accept()))
            .min(at(drain));
        (first != Time::MAX).then_some(first)
    }

    fn work_of_turn(&self) -> Work {
        Work(self.work)
    }

    /// Lets the service act on its own, without an event.
    #[inline]
    fn service_turn<E: Engine>(&mut self, engine: &mut E) {
        let free = self.table.capacity() - self.table.len();
        let mut turn = Turn {
            now: if S::FRESH_CLOCK { engine.now() } else { self.now },
            looked_at: self.looked_at,
            open: self.table.len(),
            free_slots: free.min(REQUESTS_PER_TURN),
            wakes_max: WAKES_PER_TURN.min(self.table.capacity()),
            all_served: self.yielded_left == 0 || self.yielded.is_empty(),
            yielded: &self.yielded,
            requests: &mut self.requests,
            messenger: &self.messenger,
        };
        self.service_turn = self.service.turn(&mut turn);
        let wants_buffer = std::mem::take(&mut self.requests.buffer);
        if wants_buffer || self.service_starves() {
            self.service_wants_buffer(wants_buffer);
        }
        if self.requests.any() {
            self.carry_out_requests(engine);
            // The service has not yet seen the immediate results of its requests, such as a failed
            // connect.
            self.service_turn = Some(self.now);
        }
        if self.messenger.is_pending() {
            self.deliver_messages(engine);
        }
        // The service may have returned buffers. It has not yet seen what serving the waiting
        // connections led to.
        if self.serve_waiters(engine) {
            self.service_turn = Some(self.now);
        }
    }

    /// Takes the lists out, works through them and puts them back empty, so that they keep their
    /// memory.
    #[cold]
    fn carry_out_requests<E: Engine>(&mut self, engine: &mut E) {
        let mut requests = std::mem::take(&mut self.requests);
        for id in requests.closes.drain(..) {
            self.close_by_id(engine, id);
        }
        for id in requests.wakes.drain(..) {
            self.wake_by_id(engine, id);
        }
        for to in requests.connects.drain(..) {
            self.connect(engine, to);
        }
        if std::mem::take(&mut requests.stop) {
            self.stop(engine);
        }
        self.requests = requests;
        self.serve_waiters(engine);
    }
}

/// How much of a turn one connection may use, so that others are served too, in bytes.
struct Budget(isize);

impl Budget {
    /// One full receive of the largest size, or four short ones. Reading until nothing is left let
    /// streams starve each other when measured (99th percentile 15 to 20 ms for a median of 31 us).
    const TURN: Budget = Budget(64 * 1024);

    /// The minimum cost of an operation, however few bytes it moves.
    const OPERATION: isize = Budget::TURN.0 / 4;

    #[inline]
    fn spend(&mut self, bytes: usize) {
        self.0 -= (bytes as isize).max(Budget::OPERATION);
    }

    #[inline]
    fn is_spent(&self) -> bool {
        self.0 <= 0
    }
}

/// What is left of the work that a turn may do for one purpose beside its completions: delivering
/// messages, serving connections that yielded. The next turn continues. So a completion that comes
/// meanwhile waits for a bounded time, whatever the others ask for.
///
/// A unit is about 15 ns.
struct Work(u32);

impl Work {
    const UNIT_NANOS: u128 = 15;
    /// A quarter of a millisecond.
    const TURN: u32 = 1 << 14;
    /// To look at a slot, or at a message that is for others.
    const LOOK: u32 = 1;
    /// To carry out a command, or to call the service.
    const CALL: u32 = 16;
    /// To send one connection's output.
    const SEND: u32 = 256;
    /// What a connection may use of a turn: a few system calls, 64 KiB.
    const SHARE: u32 = 512;

    fn spend(&mut self, units: u32) {
        self.0 = self.0.saturating_sub(units);
    }

    /// Spends the share of a connection, or the time that it took if that is more.
    fn spend_share(&mut self, took: Duration) {
        let units = u32::try_from(took.as_nanos() / Work::UNIT_NANOS).unwrap_or(u32::MAX);
        self.spend(units.max(Work::SHARE));
    }

    fn is_spent(&self) -> bool {
        self.0 == 0
    }
}
