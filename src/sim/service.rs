//! What the simulated servers serve: an echo that is watched, that at times waits, holds back,
//! closes and panics. And a client that is itself a service on the engine.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::marks::Mark;
use super::world::{Shared, address_of, canary, peer_of};
use crate::error::{CloseReason, Errno};
use crate::service::{Answer, ConnectTo, Connection, ConnectionId, Echo, Service, Turn};
use crate::time::Time;

/// What the server side has seen of each peer.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) of_peer: HashMap<usize, Sight>,
    /// When a timer was meant to fire, and when it did.
    pub(super) timers: Vec<(Time, Time)>,
}

/// One peer's connection.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Sight {
    /// Bytes that were handed to the service.
    pub(super) delivered: u64,
    /// Whether it has held back what came last.
    pub(super) holding: bool,
    pub(super) open: bool,
    pub(super) opened_at: Time,
    /// It was closed when the server could cut it.
    pub(super) cut: bool,
    pub(super) closed: Option<CloseReason>,
}

/// How often the service misbehaves, in a million.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whims {
    pub(super) panics: u32,
    pub(super) waits: u32,
    pub(super) holds: u32,
    pub(super) hoards: u32,
    pub(super) closes: u32,
    pub(super) stale_ids: u32,
}

/// An echo that is watched.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) world: Shared,
    pub(super) seen: Rc<RefCell<Seen>>,
    pub(super) whims: Whims,
    pub(super) idle_timeout: Option<Duration>,
    /// Connections of this worker that are closed.
    pub(super) gone: Vec<ConnectionId>,
}

/// What the service knows of one connection.
#[derive(Default)]
pub(super) struct Memory {
    /// Bytes at the front of the input that it has seen before.
    held: u64,
    hoards: bool,
    due: Option<Time>,
    /// When it was opened or last got bytes.
    active_at: Time,
    /// It has panicked on purpose.
    panicked: bool,
    /// It has asked for its end.
    closes: bool,
}

impl Watched {
    fn chance(&self, rate: u32) -> bool {
        self.world.borrow_mut().chance(rate)
    }

    /// Checks that the new bytes are those that this very peer sent, in their places.
    fn look(&self, connection: &Connection<'_>, held: u64) {
        let peer = peer_of(connection.peer());
        let mut seen = self.seen.borrow_mut();
        let sight = seen.of_peer.get_mut(&peer).expect("it was opened");
        let fresh = connection.input.slices().flatten().skip(held as usize);
        for &byte in fresh {
            let at = sight.delivered;
            // Not by a panic, which the worker would catch.
            if byte != canary(peer, at) {
                self.world
                    .borrow_mut()
                    .complain(|| format!("the service got a foreign byte for peer {peer} at {at}"));
            }
            sight.delivered += 1;
        }
    }

    fn panic_by_whim(&self, memory: &mut Memory) {
        if self.chance(self.whims.panics) {
            memory.panicked = true;
            self.world.borrow_mut().mark(Mark::ServicePanicked);
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
}

impl Service for Watched {
    type Session = Memory;

    fn open(&mut self, connection: &mut Connection<'_>, memory: &mut Memory) -> Answer {
        let opened_at = connection.now();
        let sight = Sight { open: true, opened_at, ..Sight::default() };
        self.seen.borrow_mut().of_peer.insert(peer_of(connection.peer()), sight);
        memory.hoards = self.chance(self.whims.hoards);
        memory.active_at = connection.now();
        self.panic_by_whim(memory);
        Answer::Continue
    }

    fn data(&mut self, connection: &mut Connection<'_>, memory: &mut Memory) -> Answer {
        self.look(connection, memory.held);
        memory.held = connection.input.len() as u64;
        memory.active_at = connection.now();
        self.panic_by_whim(memory);
        if memory.hoards || self.chance(self.whims.holds) {
            self.world.borrow_mut().mark(Mark::ServiceHeld);
            return Answer::Continue;
        }
        if self.chance(self.whims.waits) {
            let span = Duration::from_micros(self.world.borrow_mut().rng.u64(0..50_000));
            let due = connection.now() + span;
            memory.due = Some(due);
            self.world.borrow_mut().mark(Mark::ServiceWaited);
            return Answer::WaitUntil(due);
        }
        memory.held = 0;
        Echo.data(connection, &mut ());
        memory.closes = self.chance(self.whims.closes);
        if memory.closes { Answer::CloseAfterSend } else { Answer::Continue }
    }

    fn sent(&mut self, _: &mut Connection<'_>, memory: &mut Memory) -> Answer {
        self.panic_by_whim(memory);
        Answer::Continue
    }

    fn timer(&mut self, connection: &mut Connection<'_>, memory: &mut Memory) -> Answer {
        let due = memory.due.take().expect("it has asked for a time");
        self.seen.borrow_mut().timers.push((due, connection.now()));
        memory.held = 0;
        Echo.data(connection, &mut ())
    }

    fn peer_closed(&mut self, connection: &mut Connection<'_>, memory: &mut Memory) -> Answer {
        // What was held back goes out now, unless it hoards.
        if !memory.hoards {
            memory.held = 0;
            Echo.data(connection, &mut ());
        }
        Answer::CloseAfterSend
    }

    fn closed(
        &mut self,
        connection: &mut Connection<'_>,
        memory: &mut Memory,
        reason: CloseReason,
    ) {
        self.gone.push(connection.id());
        let mut world = self.world.borrow_mut();
        match Mark::closed(reason) {
            Some(mark) => world.mark(mark),
            None => world.complain(|| format!("closed without cause: {reason}")),
        }
        let idle_for = connection.now() - memory.active_at;
        let unfounded = match reason {
            CloseReason::ServicePanic => !memory.panicked,
            CloseReason::Service => !memory.closes,
            CloseReason::IdleTimeout => self.idle_timeout.is_none_or(|limit| idle_for < limit),
            _ => false,
        };
        if unfounded {
            let id = connection.id();
            world.complain(|| format!("connection {id} was closed without cause: {reason}"));
        }
        let peer = peer_of(connection.peer());
        world.tell(40, peer, reason as u64, || format!("peer {peer} is closed: {reason}"));
        let mut seen = self.seen.borrow_mut();
        let sight = seen.of_peer.get_mut(&peer).expect("it was opened");
        sight.open = false;
        sight.closed = Some(reason);
        sight.holding = memory.held > 0;
        sight.cut = world.now >= world.cut_from;
    }

    /// Names connections that are gone, which must do nothing to those that have their slots.
    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        if !self.gone.is_empty() && self.chance(self.whims.stale_ids) {
            let mut world = self.world.borrow_mut();
            world.mark(Mark::StaleId);
            let id = self.gone[world.rng.usize(0..self.gone.len())];
            if world.rng.bool() { turn.close(id) } else { turn.wake(id) }
        }
        None
    }
}

/// Clients on the engine: each connects, sends, has everything echoed, and closes.
pub(super) struct Clients {
    pub(super) world: Shared,
    pub(super) first_peer: usize,
    pub(super) count: usize,
    pub(super) begun: usize,
    pub(super) ended: usize,
    pub(super) satisfied: usize,
    pub(super) bytes: u64,
    pub(super) deadline: Duration,
}

/// One of them.
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
                let text = || format!("client {peer} got a foreign byte");
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
            let target: SocketAddr = address_of(peer);
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
