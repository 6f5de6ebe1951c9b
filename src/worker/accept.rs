//! Where connections come from: the listeners of a server, and connects by a client service.
//!
//! A permit is taken before a connection is accepted. At the limit nothing is accepted, and the
//! backlog holds the rest. When the process runs out of descriptors or memory, accepting pauses. An
//! edge-triggered listener reports no new edge for connections that already wait, so accept is
//! tried again after a pause, or when any worker has closed a connection.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Core;
use super::connection::machine::Machine;
use super::connection::{Context, Origin};
use super::layer::Layer;
use crate::base::endpoint::{Endpoint, Peer};
use crate::base::key::{ConnectionId, Key, OpKind};
use crate::base::time::Time;
use crate::engine::{ConnectTo, Engine, Op, Outcome, Submitted};
use crate::error::{CloseReason, Errno};
use crate::net::bind::KeptOpen;
use crate::service::Service;
use crate::shared::permits::Permit;

/// The most connections accepted from one listener in one turn, so that a burst of connects does
/// not delay connected clients.
const ACCEPTS_PER_TURN: u32 = 64;

/// At most one warning of each kind is logged in this time.
const WARN_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Whether a warning may be logged now, given when the last one was.
fn is_due(last: &mut Option<Time>, now: Time) -> bool {
    let due = last.is_none_or(|at| now - at >= WARN_EVERY);
    if due {
        *last = Some(now);
    }
    due
}

/// What a worker knows of a listener that its engine accepts from.
#[derive(Clone, Debug)]
pub(crate) struct ListenerOf {
    /// Its number among all endpoints of the server.
    pub(crate) number: u32,
    /// Whether another process keeps its socket open.
    pub(crate) kept: KeptOpen,
}

/// A listener of this worker.
pub(super) struct Listener {
    state: ListenerState,
    /// The Accept in flight has had a turn to complete. Until then a client may be waiting.
    settled: bool,
    /// Whether another process keeps the socket open, and with it the connections in its backlog.
    kept: KeptOpen,
    /// It is to accept nothing until it is started again.
    is_stopped: bool,
    /// The tag of its connections: its number among all endpoints of the server.
    tag: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ListenerState {
    /// Nothing is in flight.
    Idle,
    /// An Accept is in flight.
    Accepting,
    /// Used up its share of this turn.
    Yielded,
    /// A connection waits, and there is no permit for it.
    AwaitingPermit,
    /// Out of descriptors or memory until this time.
    Paused(Time),
    /// It is to accept nothing. Clients wait in the backlog, as long as that has room.
    Stopped,
    /// A Cancel is in flight, after which the listener is stopped, or accepts again.
    Stopping,
    /// A Cancel is in flight, after which the listener is closed.
    Closing,
    Closed,
}

impl Listener {
    pub(super) fn new(tag: u64) -> Listener {
        Listener {
            state: ListenerState::Idle,
            settled: false,
            kept: KeptOpen::default(),
            is_stopped: false,
            tag,
        }
    }

    /// A listener that accepts nothing until it is started.
    pub(super) fn stopped(of: &ListenerOf) -> Listener {
        let mut listener = Listener::new(0);
        listener.describe(of);
        Listener { state: ListenerState::Stopped, is_stopped: true, ..listener }
    }

    /// Its number among all endpoints of the server.
    pub(super) fn number(&self) -> usize {
        self.tag as usize
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == ListenerState::Closed
    }

    /// Whether it has accepted as much as it may in a turn, and clients may be left.
    pub(super) fn has_yielded(&self) -> bool {
        self.state == ListenerState::Yielded
    }

    /// Whether an Accept has just begun.
    pub(super) fn is_settling(&self) -> bool {
        self.state == ListenerState::Accepting && !self.settled
    }

    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// Sets its number, and whether another process keeps its socket open.
    pub(super) fn describe(&mut self, of: &ListenerOf) {
        (self.tag, self.kept) = (of.number.into(), of.kept.clone());
    }

    pub(super) fn is_kept_open(&self) -> bool {
        self.kept.get()
    }

    /// Whether clients may wait in its backlog, for a turn, a permit or a descriptor.
    pub(super) fn has_clients_waiting(&self) -> bool {
        matches!(
            self.state,
            ListenerState::Yielded | ListenerState::AwaitingPermit | ListenerState::Paused(_)
        )
    }
}

/// How to handle an error of accept.
enum Remedy {
    /// The error concerns one connection only: accept the next.
    Next,
    /// A resource ran out.
    Pause,
}

fn remedy(error: Errno) -> Remedy {
    match error {
        Errno::CONNABORTED
        | Errno::PROTO
        | Errno::PERM
        | Errno::NETDOWN
        | Errno::NOPROTOOPT
        | Errno::HOSTDOWN
        | Errno::NONET
        | Errno::HOSTUNREACH
        | Errno::OPNOTSUPP
        | Errno::NETUNREACH
        | Errno::TIMEDOUT => Remedy::Next,
        _ => Remedy::Pause,
    }
}

impl<S: Service, L: Layer> Core<S, L> {
    /// Accepts until no connection waits, or the turn's share is used up.
    pub(super) fn accept<E: Engine>(
        &mut self,
        engine: &mut E,
        index: usize,
        mut completed: Option<Outcome<E::Socket>>,
    ) {
        let mut asked_for_permit = false;
        // A wake-up that this listener does not use is passed on. Its clients may be gone: another
        // process that has the same socket may have accepted them.
        let mut is_woken = self.listeners[index].state == ListenerState::AwaitingPermit;
        let mut failures = 0;
        for _ in 0..ACCEPTS_PER_TURN {
            let outcome = match completed.take() {
                Some(outcome) => outcome,
                None => match engine.submit(Key::listener(index), Op::Accept) {
                    Submitted::Ready(outcome) => outcome,
                    Submitted::Pending => {
                        let listener = &mut self.listeners[index];
                        (listener.state, listener.settled) = (ListenerState::Accepting, false);
                        return self.unwant_permit(is_woken);
                    }
                },
            };
            match outcome {
                Outcome::Accepted { socket, peer, permit } => {
                    if let Err(error) = self.accepted(engine, index, socket, peer, permit) {
                        self.pause_accepting(index, error);
                        return self.unwant_permit(is_woken);
                    }
                }
                Outcome::NoPermit if asked_for_permit => {
                    self.counters.waits_for_slot.add(1);
                    self.listeners[index].state = ListenerState::AwaitingPermit;
                    return;
                }
                // Request a permit first, then try again, so that a permit returned in between is
                // not missed.
                Outcome::NoPermit => {
                    self.permits().want_permit(self.index);
                    (asked_for_permit, is_woken) = (true, true);
                }
                Outcome::Failed(error) => {
                    self.counters.accept_errors.add(1);
                    failures += 1;
                    // If it happens again and again, it does not concern one connection only.
                    if failures == ACCEPTS_PER_TURN || matches!(remedy(error), Remedy::Pause) {
                        self.pause_accepting(index, error);
                        return self.unwant_permit(is_woken);
                    }
                }
                other => panic!("Accept completed with {other:?}"),
            }
        }
        self.listeners[index].state = ListenerState::Yielded;
        self.unwant_permit(is_woken);
    }

    /// Begins to accept at each listener, except at those that are to accept nothing yet.
    pub(super) fn begin_accepting<E: Engine>(&mut self, engine: &mut E) {
        self.stop_changes = self.mailboxes.stop_changes();
        let stopped = self.mailboxes.stopped().clone();
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if stopped.contains(&listener.number()) {
                (listener.is_stopped, listener.state) = (true, ListenerState::Stopped);
            } else {
                self.accept(engine, index, None);
            }
        }
    }

    /// Stops or starts the listeners for which that was ordered. Nothing is lost: connections that
    /// were accepted stay, and those in the backlog wait.
    pub(super) fn stop_or_start_listeners<E: Engine>(&mut self, engine: &mut E) {
        let changes = self.mailboxes.stop_changes();
        if std::mem::replace(&mut self.stop_changes, changes) != changes {
            for index in 0..self.listeners.len() {
                let number = self.listeners[index].number();
                let stop = self.mailboxes.stopped().contains(&number);
                self.stop_or_start(engine, index, stop);
            }
        }
    }

    #[cold]
    fn stop_or_start<E: Engine>(&mut self, engine: &mut E, index: usize, stop: bool) {
        let listener = &mut self.listeners[index];
        if std::mem::replace(&mut listener.is_stopped, stop) == stop {
            return;
        }
        match listener.state {
            // When its Cancel is done, it does what was ordered last.
            ListenerState::Stopping | ListenerState::Closing | ListenerState::Closed => {}
            ListenerState::Stopped => self.accept(engine, index, None),
            was => {
                listener.state = ListenerState::Stopping;
                self.wants_nothing(was);
                match engine.submit(Key::listener(index), Op::Cancel) {
                    Submitted::Ready(_) => self.stopped_listener(engine, index),
                    Submitted::Pending => {}
                }
            }
        }
    }

    /// No accept is in flight on a listener that was being stopped.
    fn stopped_listener<E: Engine>(&mut self, engine: &mut E, index: usize) {
        self.listeners[index].state = ListenerState::Stopped;
        if !self.listeners[index].is_stopped {
            self.accept(engine, index, None);
        }
    }

    /// A listener in this state no longer accepts. Its requests are withdrawn.
    fn wants_nothing(&self, was: ListenerState) {
        match was {
            // The Accept of a listener that was woken may not have taken the permit.
            ListenerState::AwaitingPermit | ListenerState::Accepting => self.unwant_permit(true),
            ListenerState::Paused(_) => self.unwant_descriptor(),
            _ => {}
        }
    }

    /// A listener that requested a permit no longer needs it. Its request is withdrawn, unless
    /// another listener has made it too: an unneeded wake-up would be lost to a worker that needs
    /// it.
    fn unwant_permit(&self, asked: bool) {
        let waits = |listener: &Listener| listener.state == ListenerState::AwaitingPermit;
        if asked && !self.listeners.iter().any(waits) {
            self.permits().unwant_permit(self.index);
        }
    }

    /// A listener that waited for a descriptor no longer does. The same for its request.
    fn unwant_descriptor(&self) {
        if self.count_paused() == 0 {
            self.permits().unwant_descriptor(self.index);
        }
    }

    /// Counts the listeners that wait for a descriptor, and shows their number.
    fn count_paused(&self) -> usize {
        let waits = |listener: &&Listener| matches!(listener.state, ListenerState::Paused(_));
        let paused = self.listeners.iter().filter(waits).count();
        self.counters.listeners_paused.set(paused as u64);
        paused
    }

    fn permits(&self) -> &crate::shared::permits::Permits {
        self.permits.as_ref().expect("a worker that accepts has permits")
    }

    /// Begins a connection.
    ///
    /// # Errors
    /// The system could not watch the socket. The engine has taken it back.
    fn accepted<E: Engine>(
        &mut self,
        engine: &mut E,
        index: usize,
        socket: E::Socket,
        peer: Peer,
        mut permit: Permit,
    ) -> Result<(), Errno> {
        let tag = self.listeners[index].tag;
        if !self.layer.names_peer(tag, peer) && !permit.count_address(peer) {
            engine.refuse(socket);
            self.refused(peer);
            return Ok(());
        }
        let key = self.table.next_key().expect("a slot for each permit");
        if let Err((error, socket)) = engine.adopt(key, socket, peer) {
            self.counters.accept_errors.add(1);
            // A reset would be no answer to a client that only has to wait.
            engine.give_back(index, socket, peer, permit);
            return Err(error);
        }
        let duplex = self.full_duplex(tag);
        let machine = Machine::accepted(duplex.unwrap_or_default());
        let id = self.id_of(key);
        let layer = self.layer.state(tag, peer, &self.pool);
        let origin = Origin { id, peer, tag, permit: Some(permit) };
        self.table.insert(Context::new(machine, origin, layer, &self.pool, self.now));
        self.counters.accepted.add(1);
        self.established(engine, key);
        if duplex.is_none() {
            self.close_now(key, CloseReason::ServicePanic);
        } else if let Some(reason) = self.ending() {
            self.accepted_late();
            self.finish(key, reason);
        }
        self.drive(engine, key);
        Ok(())
    }

    /// A connection was closed because its address has as many as it may have.
    #[cold]
    fn refused(&mut self, peer: Peer) {
        const REASON: CloseReason = CloseReason::AddressLimit;
        self.counters.accepted.add(1);
        self.counters.closed[REASON as usize].add(1);
        log::debug!("refuse peer={peer} reason={REASON}");
        self.warn_of_refusal(peer);
    }

    /// Logs that an address has as many connections as it may have.
    pub(super) fn warn_of_refusal(&mut self, peer: Peer) {
        const REASON: CloseReason = CloseReason::AddressLimit;
        if is_due(&mut self.refusal_warned_at, self.now) {
            log::warn!(
                "refused a connection of {peer}: its address has reached its limit \
                 (max_connections_per_address); the totals count these as {REASON}"
            );
        }
    }

    /// Whether the connections with this tag are read while they are sent to. `None` if the service
    /// panics.
    pub(super) fn full_duplex(&self, tag: u64) -> Option<bool> {
        catch_unwind(AssertUnwindSafe(|| self.service.full_duplex(tag))).ok()
    }

    /// Tells the service that a connect was not even begun.
    fn refuse_connect(&mut self, tag: u64) {
        let (service, now) = (&mut self.service, self.now);
        // There is no connection to close after a panic.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            service.connect_failed(tag, Errno::CANCELED, now);
        }));
    }

    pub(super) fn id_of(&self, key: Key) -> ConnectionId {
        ConnectionId::new(self.index, key)
    }

    pub(super) fn key_of(&self, id: ConnectionId) -> Option<Key> {
        self.table.key_of(id.slot()).filter(|&key| self.id_of(key) == id)
    }

    fn pause_accepting(&mut self, index: usize, error: Errno) {
        let pause = self.rules.accept_pause;
        self.listeners[index].state = ListenerState::Paused(self.now + pause);
        self.permits().want_descriptor(self.index);
        self.counters.accept_pauses.add(1);
        self.count_paused();
        if is_due(&mut self.accept_warned_at, self.now) {
            log::warn!(
                "accept paused: {error}; tried again in {pause:?} or when a connection is closed{}",
                match error {
                    Errno::MFILE => " (the process is out of open files: ulimit -n)",
                    Errno::NFILE => " (the system is out of open files: fs.file-max)",
                    _ => "",
                }
            );
        }
    }

    /// An operation that was in flight on a listener has ended.
    pub(super) fn listener_completed<E: Engine>(
        &mut self,
        engine: &mut E,
        index: usize,
        op: OpKind,
        outcome: Outcome<E::Socket>,
    ) {
        let closing = self.listeners[index].state == ListenerState::Closing;
        let stopping = self.listeners[index].state == ListenerState::Stopping;
        match (op, outcome) {
            (OpKind::Accept, Outcome::Cancelled) => {}
            // The accept completed before the cancel.
            (OpKind::Accept, Outcome::Accepted { socket, peer, permit }) if closing || stopping => {
                // If it is refused, it ends with the listener, or is the first when it starts again.
                let _ = self.accepted(engine, index, socket, peer, permit);
            }
            (OpKind::Accept, _) if closing || stopping => {}
            (OpKind::Cancel, Outcome::Done) if closing => self.cancelled_listener(engine, index),
            (OpKind::Cancel, Outcome::Done) if stopping => self.stopped_listener(engine, index),
            (OpKind::Close, Outcome::Closed { unaccepted }) => {
                self.closed_listener(index, unaccepted);
            }
            (OpKind::Accept, outcome) => self.accept(engine, index, Some(outcome)),
            (op, other) => panic!("{op:?} on a listener completed with {other:?}"),
        }
    }

    /// Begins to close a listener. The kernel resets the connections in its backlog; they are
    /// counted.
    pub(super) fn close_listener<E: Engine>(&mut self, engine: &mut E, index: usize) {
        match std::mem::replace(&mut self.listeners[index].state, ListenerState::Closing) {
            state @ (ListenerState::Closing | ListenerState::Closed) => {
                self.listeners[index].state = state;
                return;
            }
            // Its Cancel is in flight.
            ListenerState::Stopping => return,
            was => self.wants_nothing(was),
        }
        match engine.submit(Key::listener(index), Op::Cancel) {
            Submitted::Ready(_) => self.cancelled_listener(engine, index),
            Submitted::Pending => {}
        }
    }

    /// No accept is in flight on the listener any more.
    fn cancelled_listener<E: Engine>(&mut self, engine: &mut E, index: usize) {
        match engine.submit(Key::listener(index), Op::Close) {
            Submitted::Ready(Outcome::Closed { unaccepted }) => {
                self.closed_listener(index, unaccepted);
            }
            Submitted::Ready(other) => panic!("Close of a listener completed with {other:?}"),
            Submitted::Pending => {}
        }
    }

    fn closed_listener(&mut self, index: usize, unaccepted: u32) {
        self.counters.unaccepted.add(u64::from(unaccepted));
        if unaccepted > 0 {
            log::warn!(
                "a listener was closed with unaccepted={unaccepted}: the system resets them"
            );
        }
        self.listeners[index].state = ListenerState::Closed;
    }

    /// Continues accepting on listeners whose share of a turn was used up, or for which a permit or
    /// descriptor came free or the pause is over.
    #[inline]
    pub(super) fn serve_listeners<E: Engine>(&mut self, engine: &mut E) {
        if self.listeners.iter().any(Listener::has_clients_waiting) {
            self.serve_waiting_listeners(engine);
        }
    }

    #[cold]
    fn serve_waiting_listeners<E: Engine>(&mut self, engine: &mut E) {
        // Read once for all listeners: one that requests a permit again must not hide from the next
        // one that a permit came. The order of the listeners changes with each turn.
        let permit_came = self.permits().permit_came(self.index);
        let descriptor_came = self.permits().descriptor_came(self.index);
        let count = self.listeners.len();
        self.first_listener = (self.first_listener + 1) % count;
        for index in (self.first_listener..count).chain(0..self.first_listener) {
            let again = match self.listeners[index].state {
                ListenerState::Yielded => true,
                ListenerState::AwaitingPermit => permit_came,
                ListenerState::Paused(until) => until <= self.now || descriptor_came,
                ListenerState::Idle
                | ListenerState::Accepting
                | ListenerState::Stopped
                | ListenerState::Stopping
                | ListenerState::Closing
                | ListenerState::Closed => false,
            };
            if again {
                let paused = matches!(self.listeners[index].state, ListenerState::Paused(_));
                self.accept(engine, index, None);
                if paused {
                    self.unwant_descriptor();
                }
            }
        }
    }

    #[inline]
    pub(super) fn listeners_want_a_turn(&self) -> bool {
        self.listeners.iter().any(Listener::has_yielded)
    }

    /// When to try accepting again.
    pub(super) fn next_accept(&self) -> Option<Time> {
        let paused = |listener: &Listener| match listener.state {
            ListenerState::Paused(until) => Some(until),
            _ => None,
        };
        self.listeners.iter().filter_map(paused).min()
    }

    pub(super) fn listeners_are_closed(&self) -> bool {
        self.listeners.iter().all(Listener::is_closed)
    }

    /// Starts a connection that the service requested.
    pub(super) fn connect<E: Engine>(&mut self, engine: &mut E, to: ConnectTo) {
        if self.stopping {
            return self.refuse_connect(to.tag);
        }
        let Some(duplex) = self.full_duplex(to.tag) else { return self.refuse_connect(to.tag) };
        let key = self.table.next_key().expect("the service was told how many slots are free");
        let machine = Machine::connecting(duplex);
        let id = self.id_of(key);
        let peer = match to.target {
            Endpoint::Tcp(target) | Endpoint::Udp(target) => Peer::Tcp(target),
            Endpoint::Unix(_) => Peer::UNKNOWN_PROCESS,
        };
        let layer = self.layer.state(to.tag, peer, &self.pool);
        let origin = Origin { id, peer, tag: to.tag, permit: None };
        let mut context = Context::new(machine, origin, layer, &self.pool, self.now);
        context.deadline = to.deadline;
        self.table.insert(context);
        self.schedule_at(key, to.deadline);
        let service = &mut self.service;
        let told = catch_unwind(AssertUnwindSafe(|| service.connecting(to.tag, id)));
        if let Submitted::Ready(outcome) = engine.submit(key, Op::Connect(to)) {
            self.drive_completed(engine, key, OpKind::Connect, outcome);
        } else if told.is_err() {
            self.close_now(key, CloseReason::ServicePanic);
            self.drive(engine, key);
        }
    }

    pub(super) fn close_by_id<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        if let Some(key) = self.key_of(id) {
            self.close_now(key, CloseReason::Service);
            self.drive(engine, key);
        }
    }

    pub(super) fn wake_by_id<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        if let Some(key) = self.key_of(id)
            && self.context(key).is_open()
        {
            self.timer_came(engine, key);
            self.drive(engine, key);
        }
    }
}
