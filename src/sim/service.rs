//! The service of the simulated servers: a wrapper around the daemon's services that observes them
//! and misbehaves at random: it waits, holds bytes back, closes connections and panics. Also a
//! client that is a service on the engine.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::external::External;
use super::external_message::read_external;
use super::marks::Mark;
use super::member::Asked;
use super::messages::{self, Sender};
use super::protocol::Script;
use super::run::OPENING_TIMEOUT;
use super::wire::proxy::Introduction;
use super::world::{SharedWorld, address_of, canary, peer_of};
use crate::base::time::Time;
use crate::buffer::Lease;
use crate::builtin::dispatch::{BuiltinSession, ListenerServices};
use crate::error::{CloseReason, Errno};
use crate::service::{Answer, ConnectTo, Connection, ConnectionId, Message, Service, Turn};

/// What the server side has seen of each peer.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) of_peer: HashMap<usize, Sight>,
    /// What each peer sends.
    pub(super) scripts: HashMap<usize, Rc<RefCell<Script>>>,
    /// Who the peers are, as far as a header names them.
    pub(super) introductions: HashMap<usize, Rc<Introduction>>,
    /// When each timer was due, and when it fired.
    pub(super) timers: Vec<(Time, Time)>,
    /// All ids ever assigned by the first process, and by the others.
    pub(super) ids: HashSet<ConnectionId>,
    pub(super) later_ids: HashSet<(usize, ConnectionId)>,
    /// For each external message, how many connections accepted it and how many refused it.
    pub(super) external: HashMap<u64, (u64, u64)>,
    /// Requests of members that the hub has accepted, in that order.
    pub(super) taken: Vec<Taken>,
    /// Connections that an external thread asked to disconnect.
    pub(super) disconnects: HashSet<ConnectionId>,
    /// The messages of the services.
    pub(super) log: messages::MessageLog,
    /// Messages and parcels that the services got in this turn.
    pub(super) messages_of_turn: usize,
    pub(super) parcels_of_turn: usize,
}

/// A request that the hub accepted from a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) peer: usize,
    pub(super) asked: Asked,
    pub(super) at: Time,
}

/// What the server side has seen of one peer's connection.
#[derive(Clone, Default, Debug)]
pub(super) struct Sight {
    pub(super) id: Option<ConnectionId>,
    /// The process that has its connection, or gets it.
    pub(super) process: usize,
    /// It is on its way from one process to another.
    pub(super) on_its_way: bool,
    /// How often it has moved.
    pub(super) moves: u32,
    /// Its process has retired, and it could not move at once.
    pub(super) kept_back: bool,
    /// It ended with a process that was killed, or that ended while it came.
    pub(super) lost: bool,
    /// When it was opened, or bytes were last delivered or all output sent.
    pub(super) active_at: Time,
    pub(super) address: Option<SocketAddr>,
    /// The server did not wait for the end of its header, so that it is the service's. The service
    /// closes the connection at once.
    pub(super) unintroduced: bool,
    /// Number of bytes handed to the service.
    pub(super) delivered: u64,
    /// Number of bytes that the service has consumed.
    pub(super) consumed: u64,
    /// Since when the service has held input without consuming any, and without more being
    /// delivered.
    pub(super) held_since: Option<Time>,
    /// The number of bytes delivered by then.
    held_from: u64,
    /// Number of its requests that the hub has accepted.
    pub(super) taken: usize,
    /// Number of requests that the hub had accepted from all members when this one joined.
    pub(super) came_at: usize,
    /// The same number, and the time, when an orderly close started.
    pub(super) finished: Option<(usize, Time)>,
    /// Messages from outside or from services that were refused.
    pub(super) refused: u64,
    /// Whether the newest input is deliberately held back from the inner service.
    pub(super) holding: bool,
    /// The service was told that the peer closed its side.
    pub(super) ended: bool,
    pub(super) open: bool,
    pub(super) opened_at: Time,
    /// It was closed at a time when the server was allowed to cut connections.
    pub(super) cut: bool,
    pub(super) closed: Option<CloseReason>,
    pub(super) closed_at: Time,
    /// It held input when it was closed.
    pub(super) held_at_close: bool,
    /// External messages, and messages of services, that the service accepted for it.
    pub(super) external: Vec<u64>,
}

impl Sight {
    /// Whether the first process has the connection: the one whose services send messages.
    pub(super) fn is_with_first(&self) -> bool {
        self.open && self.process == 0
    }
}

/// How often the service misbehaves, in events per million.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whims {
    pub(super) panics: u32,
    pub(super) waits: u32,
    pub(super) holds: u32,
    pub(super) hoards: u32,
    pub(super) closes: u32,
    pub(super) stale_ids: u32,
}

/// Wraps the services of a listener, observes them, and misbehaves.
pub(super) struct Watched {
    pub(super) world: SharedWorld,
    pub(super) seen: Rc<RefCell<Seen>>,
    pub(super) whims: Whims,
    pub(super) idle_timeout: Option<Duration>,
    /// The process of its worker.
    pub(super) process: usize,
    /// Closed connections of this worker.
    pub(super) gone: Vec<ConnectionId>,
    /// Whether the service wakes connections before the time that it asked for.
    pub(super) wakes: bool,
    /// Sends messages to clients, in some seeds.
    pub(super) sender: Option<Sender>,
    /// Another thread, in some seeds.
    pub(super) external: Rc<RefCell<Option<External>>>,
    /// The services that do the work.
    pub(super) inner: ListenerServices,
}

/// State of one connection.
#[derive(Default)]
pub(super) struct Memory {
    /// Number of bytes at the front of the input that were there at the previous call.
    left: u64,
    /// The input is held back from the inner service until more arrives.
    holds: bool,
    hoards: bool,
    /// When it asked to be called again, and whether this wrapper asked rather than the service.
    due: Option<(Time, bool)>,
    /// When it was opened, or last received bytes or sent all of its output.
    active_at: Time,
    /// This wrapper panicked on purpose.
    panicked: bool,
    /// This wrapper closed it on purpose.
    closes: bool,
    /// The inner service was not told of it.
    is_unknown: bool,
    /// The close reason that the inner service returned.
    asked: Option<CloseReason>,
    session: BuiltinSession,
}

impl Memory {
    fn note(&mut self, answer: Answer) {
        match answer {
            Answer::Continue | Answer::HalfClose => {}
            Answer::WaitUntil(due) => self.due = Some((due, false)),
            Answer::CloseAfterSend | Answer::Close => self.asked = Some(CloseReason::Service),
            Answer::CloseAfterSendFor(reason) | Answer::CloseFor(reason) => {
                self.asked = Some(reason);
            }
        }
    }
}

impl Watched {
    fn chance(&self, rate: u32) -> bool {
        self.world.borrow_mut().chance(rate)
    }

    /// Checks that the new bytes are those that this peer sent, in order.
    fn look(&self, connection: &Connection<'_>, left: u64) {
        let peer = peer_of(connection.peer());
        let mut seen = self.seen.borrow_mut();
        let Seen { of_peer, scripts, .. } = &mut *seen;
        let script = scripts.get(&peer).map(|script| script.borrow());
        let sight = of_peer.get_mut(&peer).expect("it was opened");
        let fresh = connection.input.slices().flatten().skip(left as usize);
        for &byte in fresh {
            let at = sight.delivered;
            let said = match &script {
                Some(script) => script.said.get(at as usize).copied(),
                None => Some(canary(peer, at)),
            };
            // No panic here: the worker would catch it.
            if said != Some(byte) {
                self.world
                    .borrow_mut()
                    .complain(|| format!("the service got a wrong byte for peer {peer} at {at}"));
            }
            sight.delivered += 1;
        }
    }

    /// Calls the inner service and records what it did with the input.
    fn call(
        &mut self,
        connection: &mut Connection<'_>,
        memory: &mut Memory,
        call: impl FnOnce(&mut ListenerServices, &mut Connection<'_>, &mut BuiltinSession) -> Answer,
    ) -> Answer {
        let answer = call(&mut self.inner, connection, &mut memory.session);
        memory.note(answer);
        memory.holds = false;
        self.note_input(connection, memory);
        answer
    }

    fn note_input(&self, connection: &Connection<'_>, memory: &mut Memory) {
        let peer = peer_of(connection.peer());
        let mut seen = self.seen.borrow_mut();
        let seen = &mut *seen;
        let sight = seen.of_peer.get_mut(&peer).expect("it was opened");
        memory.left = connection.input.len() as u64;
        let consumed = sight.delivered - memory.left;
        if memory.left == 0 {
            sight.held_since = None;
        } else if consumed > sight.consumed
            || sight.delivered > sight.held_from
            || sight.held_since.is_none()
        {
            sight.held_since = Some(connection.now());
            sight.held_from = sight.delivered;
        }
        sight.consumed = consumed;
        if let Some(script) = seen.scripts.get(&peer) {
            let asked = &script.borrow().asked;
            let sight = seen.of_peer.get_mut(&peer).expect("it was opened");
            while let Some(&(end, asked)) = asked.get(sight.taken)
                && end as u64 <= consumed
            {
                sight.taken += 1;
                seen.taken.push(Taken { peer, asked, at: connection.now() });
            }
        }
        let sight = seen.of_peer.get_mut(&peer).expect("it was opened");
        sight.holding = memory.holds || memory.due.is_some_and(|(_, whim)| whim);
    }

    /// Sends messages now and then.
    fn send_messages(&mut self, connection: &mut Connection<'_>) {
        if let Some(sender) = &mut self.sender {
            sender.act(connection, &mut self.seen.borrow_mut());
        }
    }

    /// Records that bytes have moved.
    fn is_active(&self, connection: &Connection<'_>, memory: &mut Memory) {
        memory.active_at = connection.now();
        let mut seen = self.seen.borrow_mut();
        let sight = seen.of_peer.get_mut(&peer_of(connection.peer())).expect("it was opened");
        sight.active_at = memory.active_at;
    }

    /// Takes note of a connection that is opened: a new one, or one that has come from another process.
    /// `unintroduced`: the server did not wait for the end of its header.
    fn note_opened(&self, connection: &Connection<'_>, memory: &mut Memory, unintroduced: bool) {
        let (id, opened_at) = (connection.id(), connection.now());
        let peer = peer_of(connection.peer());
        let mut seen = self.seen.borrow_mut();
        let Seen { of_peer, ids, later_ids, taken, .. } = &mut *seen;
        let is_new = match self.process {
            0 => ids.insert(id),
            process => later_ids.insert((process, id)),
        };
        if !is_new || id.to_bits() == 0 {
            self.world.borrow_mut().complain(|| format!("the id {id} was assigned twice"));
        }
        match of_peer.get_mut(&peer).filter(|sight| sight.open) {
            Some(sight) => {
                if !sight.on_its_way || sight.process != self.process {
                    let text = || format!("two processes have the connection of peer {peer}");
                    self.world.borrow_mut().complain(text);
                }
                (sight.id, sight.on_its_way) = (Some(id), false);
                sight.moves += 1;
                memory.active_at = sight.active_at;
            }
            None => {
                let (came_at, process) = (taken.len(), self.process);
                let sight = Sight {
                    id: Some(id),
                    process,
                    address: connection.peer().socket_addr(),
                    unintroduced,
                    open: true,
                    opened_at,
                    came_at,
                    ..Sight::default()
                };
                of_peer.insert(peer, Sight { active_at: opened_at, ..sight });
                memory.active_at = opened_at;
            }
        }
    }

    /// Checks that the peer of a new connection is the one that its header names. Returns whether
    /// the server did not wait for the end of the header.
    fn is_unintroduced(&self, connection: &Connection<'_>) -> bool {
        let (seen, mut world) = (self.seen.borrow(), self.world.borrow_mut());
        let (is_layered, number) = (!world.framings.is_empty(), peer_of(connection.peer()));
        let Some(introduction) = seen.introductions.get(&number) else {
            if is_layered && connection.peer() != address_of(number).into() {
                world.complain(|| format!("the service got the peer {}", connection.peer()));
            }
            return false;
        };
        let end = world.server_end(introduction.endpoint.get());
        let is_complete = end.taken >= introduction.header as u64;
        let at_socket = (!introduction.required).then_some(introduction.from);
        let expected = if is_complete { introduction.known_as } else { at_socket };
        if connection.peer().socket_addr() != expected {
            let got = connection.peer();
            world.complain(|| format!("peer {number} is {got} for the service: {introduction:?}"));
        }
        let waited = end.accepted_at.is_some_and(|at| at + OPENING_TIMEOUT <= world.now);
        let is_over = waited || end.fin_received || world.cut_from != Time::MAX;
        if !is_complete && !is_over {
            world.complain(|| format!("peer {number} was opened in the middle of its header"));
        }
        !is_complete
    }

    /// When bytes last moved, if the peer begins with a header.
    fn active_at(&self, connection: &Connection<'_>) -> Option<Time> {
        let seen = self.seen.borrow();
        let introduction = seen.introductions.get(&peer_of(connection.peer()))?;
        self.world.borrow().server_end(introduction.endpoint.get()).active_at
    }

    fn panic_by_whim(&self, memory: &mut Memory) {
        if self.chance(self.whims.panics) {
            memory.panicked = true;
            self.world.borrow_mut().mark(Mark::ServicePanicked);
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }

    /// Whether there was a cause for this close reason.
    fn is_founded(
        &self,
        connection: &Connection<'_>,
        memory: &Memory,
        reason: CloseReason,
    ) -> bool {
        let idle_for = connection.now() - memory.active_at;
        match reason {
            CloseReason::ServicePanic => memory.panicked,
            CloseReason::Service => memory.closes || memory.asked == Some(reason),
            CloseReason::IdleTimeout => self.idle_timeout.is_some_and(|limit| idle_for >= limit),
            CloseReason::MessageTooLong | CloseReason::ProtocolError | CloseReason::SlowReader => {
                memory.asked == Some(reason)
            }
            CloseReason::Disconnected => {
                self.process == 0 && self.seen.borrow().disconnects.contains(&connection.id())
            }
            _ => true,
        }
    }
}

impl Service for Watched {
    // Boxed because it is larger than a session may be.
    type Session = Box<Memory>;

    fn full_duplex(&self, tag: u64) -> bool {
        self.inner.full_duplex(tag)
    }

    fn can_move(&self, tag: u64, memory: &Box<Memory>) -> bool {
        self.inner.can_move(tag, &memory.session)
    }

    fn continuation(&self, tag: u64, memory: &Box<Memory>, unsent: usize) -> Option<u64> {
        self.inner.continuation(tag, &memory.session, unsent)
    }

    fn resumed(&self, tag: u64, continuation: u64) -> Box<Memory> {
        let session = self.inner.resumed(tag, continuation);
        Box::new(Memory { session, ..Memory::default() })
    }

    fn input_max(&self, tag: u64) -> usize {
        self.inner.input_max(tag)
    }

    fn open(&mut self, connection: &mut Connection<'_>, memory: &mut Box<Memory>) -> Answer {
        let unintroduced = self.is_unintroduced(connection);
        self.note_opened(connection, memory, unintroduced);
        if let Some(sender) = &mut self.sender {
            sender.opened(connection, &mut self.seen.borrow_mut().log);
        }
        if unintroduced {
            (memory.is_unknown, memory.closes) = (true, true);
            return Answer::Close;
        }
        self.send_messages(connection);
        memory.hoards = self.chance(self.whims.hoards);
        // A connection may be idle while the server waits for a header.
        if let Some(at) = self.active_at(connection) {
            memory.active_at = at;
        }
        let answer = self
            .call(connection, memory, |inner, connection, session| inner.open(connection, session));
        self.panic_by_whim(memory);
        answer
    }

    fn data(&mut self, connection: &mut Connection<'_>, memory: &mut Box<Memory>) -> Answer {
        self.look(connection, memory.left);
        self.send_messages(connection);
        self.is_active(connection, memory);
        memory.holds = true;
        self.note_input(connection, memory);
        self.panic_by_whim(memory);
        if memory.hoards || self.chance(self.whims.holds) {
            self.world.borrow_mut().mark(Mark::ServiceHeld);
            return Answer::Continue;
        }
        if self.chance(self.whims.waits) {
            let span = Duration::from_micros(self.world.borrow_mut().rng.u64(0..50_000));
            let due = connection.now() + span;
            memory.due = Some((due, true));
            memory.holds = false;
            self.world.borrow_mut().mark(Mark::ServiceWaited);
            return Answer::WaitUntil(due);
        }
        let answer = self
            .call(connection, memory, |inner, connection, session| inner.data(connection, session));
        if answer == Answer::Continue && self.chance(self.whims.closes) {
            memory.closes = true;
            return Answer::CloseAfterSend;
        }
        answer
    }

    fn sent(&mut self, connection: &mut Connection<'_>, memory: &mut Box<Memory>) -> Answer {
        self.is_active(connection, memory);
        self.send_messages(connection);
        self.panic_by_whim(memory);
        // No service consumes input in `sent`.
        let holds = memory.holds;
        let answer = self
            .call(connection, memory, |inner, connection, session| inner.sent(connection, session));
        memory.holds = holds && !connection.input.is_empty();
        self.note_input(connection, memory);
        answer
    }

    fn timer(&mut self, connection: &mut Connection<'_>, memory: &mut Box<Memory>) -> Answer {
        let due = memory.due.take();
        let woken = self.wakes && due.is_some_and(|(due, _)| due > connection.now());
        if let Some((due, _)) = due.filter(|_| !woken) {
            self.seen.borrow_mut().timers.push((due, connection.now()));
        }
        let by_whim = due.is_some_and(|(_, whim)| whim);
        self.call(connection, memory, |inner, connection, session| {
            if by_whim { inner.data(connection, session) } else { inner.timer(connection, session) }
        })
    }

    fn buffer_available(
        &mut self,
        connection: &mut Connection<'_>,
        memory: &mut Box<Memory>,
    ) -> Answer {
        // Input that is deliberately held back stays held back.
        let holds = memory.holds;
        let answer = self.call(connection, memory, |inner, connection, session| {
            inner.buffer_available(connection, session)
        });
        memory.holds = holds && !connection.input.is_empty();
        self.note_input(connection, memory);
        answer
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        memory: &mut Box<Memory>,
        message: &mut Message<'_>,
    ) -> Answer {
        let number = read_external(message.bytes());
        let answer = self.inner.message(connection, &mut memory.session, message);
        memory.note(answer);
        self.note_input(connection, memory);
        let Some(number) = number else {
            self.world.borrow_mut().complain(|| "a message that was never sent".into());
            return answer;
        };
        if number >= messages::FIRST {
            let (mut world, mut seen) = (self.world.borrow_mut(), self.seen.borrow_mut());
            messages::arrived(&mut world, &mut seen.log, connection, message, number);
            drop((world, seen));
            // A message may be the cause of the next.
            self.send_messages(connection);
        }
        if let Some(external) = &mut *self.external.borrow_mut() {
            external.act_meanwhile(&mut self.world.borrow_mut());
        }
        let mut seen = self.seen.borrow_mut();
        seen.messages_of_turn += 1;
        let count = seen.external.entry(number).or_default();
        if message.refused.is_some() {
            count.1 += 1;
            let sight = seen.of_peer.get_mut(&peer_of(connection.peer())).expect("it was opened");
            sight.refused += 1;
        } else {
            count.0 += 1;
            let sight = seen.of_peer.get_mut(&peer_of(connection.peer())).expect("it was opened");
            sight.external.push(number);
        }
        answer
    }

    fn parcel(&mut self, listener: usize, lease: Lease, now: Time) {
        self.seen.borrow_mut().parcels_of_turn += 1;
        self.inner.parcel(listener, lease, now);
    }

    fn peer_closed(&mut self, connection: &mut Connection<'_>, memory: &mut Box<Memory>) -> Answer {
        let peer = peer_of(connection.peer());
        self.seen.borrow_mut().of_peer.get_mut(&peer).expect("it was opened").ended = true;
        if memory.hoards {
            return Answer::CloseAfterSend;
        }
        // Pass held-back input to the service now.
        if memory.holds || memory.due.is_some_and(|(_, whim)| whim) {
            let answer = self.call(connection, memory, |inner, connection, session| {
                inner.data(connection, session)
            });
            if !matches!(answer, Answer::Continue | Answer::WaitUntil(_)) {
                return answer;
            }
        }
        self.call(connection, memory, |inner, connection, session| {
            inner.peer_closed(connection, session)
        })
    }

    fn finishing(
        &mut self,
        connection: &mut Connection<'_>,
        memory: &mut Box<Memory>,
    ) -> Option<CloseReason> {
        let mut seen = self.seen.borrow_mut();
        let taken = seen.taken.len();
        let sight = seen.of_peer.get_mut(&peer_of(connection.peer())).expect("it was opened");
        sight.finished = Some((taken, connection.now()));
        drop(seen);
        let lost = self.inner.finishing(connection, &mut memory.session);
        if lost.is_some() {
            // It is closed at once, so its client may miss anything.
            let mut seen = self.seen.borrow_mut();
            let sight = seen.of_peer.get_mut(&peer_of(connection.peer())).expect("it was opened");
            (sight.finished, memory.asked) = (None, lost);
        }
        lost
    }

    fn closed(
        &mut self,
        connection: &mut Connection<'_>,
        memory: &mut Box<Memory>,
        reason: CloseReason,
    ) {
        if !memory.is_unknown {
            self.inner.closed(connection, &mut memory.session, reason);
        }
        self.gone.push(connection.id());
        let founded = self.is_founded(connection, memory, reason);
        let mut world = self.world.borrow_mut();
        world.mark(Mark::closed(reason));
        if !founded {
            let id = connection.id();
            world.complain(|| format!("connection {id} was closed without cause: {reason}"));
        }
        let peer = peer_of(connection.peer());
        world.trace(40, peer, reason as u64, || format!("peer {peer} is closed: {reason}"));
        let mut seen = self.seen.borrow_mut();
        let sight = seen.of_peer.get_mut(&peer).expect("it was opened");
        if reason == CloseReason::Shed && sight.held_since.is_some() {
            world.mark(Mark::HolderShed);
        }
        sight.open = false;
        sight.held_at_close = sight.held_since.is_some();
        sight.held_since = None;
        sight.closed = Some(reason);
        sight.closed_at = world.now;
        sight.cut = world.now >= world.cut_from;
    }

    /// Uses ids of closed connections, which must not affect the new connections in their slots.
    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        if !self.gone.is_empty() && self.chance(self.whims.stale_ids) {
            let mut world = self.world.borrow_mut();
            world.mark(Mark::StaleId);
            let id = self.gone[world.rng.usize(0..self.gone.len())];
            if world.rng.bool() { turn.close(id) } else { turn.wake(id) }
        }
        if let Some(sender) = &mut self.sender {
            sender.act_in_turn(turn, &mut self.seen.borrow_mut());
        }
        self.inner.turn(turn)
    }
}

/// Clients on the engine: each connects, sends, receives its echo, and closes.
pub(super) struct Clients {
    pub(super) world: SharedWorld,
    pub(super) first_peer: usize,
    pub(super) count: usize,
    pub(super) begun: usize,
    pub(super) ended: usize,
    pub(super) satisfied: usize,
    pub(super) bytes: u64,
    pub(super) deadline: Duration,
}

/// Session of one client.
#[derive(Default)]
pub(super) struct Progress {
    sent: u64,
    received: u64,
}

impl Clients {
    fn send(&self, connection: &mut Connection<'_>, progress: &mut Progress) {
        let peer = connection.tag() as usize;
        while progress.sent < self.bytes && connection.output.leases() < 2 {
            let Some(mut lease) = connection.take_lease() else { return };
            let room = lease.spare_mut().len().min((self.bytes - progress.sent) as usize);
            let bytes: Vec<u8> =
                (0..room as u64).map(|at| canary(peer, progress.sent + at)).collect();
            lease.extend_from_slice(&bytes);
            progress.sent += room as u64;
            connection.output.push_back(lease);
        }
    }
}

impl Service for Clients {
    type Session = Progress;

    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    fn open(&mut self, connection: &mut Connection<'_>, progress: &mut Progress) -> Answer {
        self.send(connection, progress);
        Answer::Continue
    }

    fn data(&mut self, connection: &mut Connection<'_>, progress: &mut Progress) -> Answer {
        let peer = connection.tag() as usize;
        for &byte in connection.input.slices().flatten() {
            if byte != canary(peer, progress.received) {
                let text = || format!("client {peer} got a wrong byte");
                self.world.borrow_mut().complain(text);
            }
            progress.received += 1;
        }
        connection.input.consume(connection.input.len());
        if progress.received == self.bytes {
            self.satisfied += 1;
            self.world.borrow_mut().mark(Mark::EngineClientDone);
            return Answer::CloseAfterSend;
        }
        self.send(connection, progress);
        Answer::Continue
    }

    fn sent(&mut self, connection: &mut Connection<'_>, progress: &mut Progress) -> Answer {
        self.send(connection, progress);
        Answer::Continue
    }

    fn closed(&mut self, _: &mut Connection<'_>, _: &mut Progress, _: CloseReason) {
        self.ended += 1;
    }

    fn connect_failed(&mut self, _: u64, error: Errno, _: Time) {
        self.ended += 1;
        if error == Errno::TIMEDOUT {
            self.world.borrow_mut().mark(Mark::ConnectTimedOut);
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        while self.begun < self.count && turn.free_slots() > 0 {
            let peer = self.first_peer + self.begun;
            let target = address_of(peer).into();
            let deadline = turn.now() + self.deadline;
            turn.connect(ConnectTo { target, source: None, tag: peer as u64, deadline });
            self.begun += 1;
        }
        if self.ended == self.count {
            turn.stop();
        }
        None
    }
}
