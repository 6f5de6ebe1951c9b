//! The clients of one loop as a [`Service`]: the tables, what the engine calls, and what the
//! callers ask for.
//!
//! * here: slots, commands, time, and the end of operations
//! * `connecting`: from a name to a connection, and back to it when it is lost
//! * `exchange`: bytes from requests to the output, and from the input to replies

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::error::{Attempt, Error};
use super::ops::{Fifo, Kind, Lane, Link, NONE, Op, Ops};
use super::options::{OnState, Options, Reconnect, State, Unsent};
use super::resolve::Question;
use super::shared::{Command, Shared};
use super::target::Target;
use crate::error::{CloseReason, Errno};
use crate::framing::Framing;
use crate::service::{Answer, Connection, ConnectionId, Service, Turn, Workplace};
use crate::sys::monotonic_now;
use crate::time::Time;
use crate::timer::Wheel;

mod connecting;
mod exchange;

/// How finely deadlines are kept.
const TICK: Duration = Duration::from_millis(1);

/// Commands in one turn, so that callers who never stop do not keep the connections waiting.
const COMMANDS_PER_TURN: usize = 4096;

/// When a client that found no buffer to send with tries again.
const STARVED_TICK: Duration = Duration::from_millis(1);

/// How far a client's connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Idle,
    /// The name is being looked up, at most until then.
    Resolving(Time),
    Connecting,
    Open(ConnectionId),
    /// Either side has begun to close it.
    Closing,
    /// The next attempt is made then.
    BackOff(Time),
}

/// A client.
pub(super) struct Slot {
    in_use: bool,
    dropped: bool,
    stage: Stage,
    target: Option<Box<Target>>,
    framing: Option<Framing>,
    connect_timeout: Duration,
    reconnect: Option<Reconnect>,
    unsent: Unsent,
    on_state: Option<OnState>,

    /// Counts attempts to connect, over all clients that ever had the slot: what belongs to an
    /// earlier one is recognised.
    epoch: u32,
    /// A name is being looked up for this slot, perhaps for an earlier attempt.
    resolving: bool,
    addresses: Vec<SocketAddr>,
    next_address: usize,
    attempts: Vec<Attempt>,
    round_deadline: Time,
    /// Which attempt this is since the client was last connected.
    attempt: u32,
    last_failure: Option<Error>,
    opened_at: Time,
    got_bytes: bool,

    /// The operation that waits for a connection, and the first of those that wait for its end.
    connect: u32,
    disconnect: Fifo,
    /// To be sent; put on the output and not yet with the kernel; to receive.
    waiting: Fifo,
    flying: Fifo,
    receiving: Fifo,
    /// Bytes put on the present connection's output, and how many of them the kernel has.
    put: u64,
    sent: u64,
    half_closed: bool,
    paused: bool,
    /// In the queue of those that are to be woken.
    dirty: bool,
    /// Why this side is to reset the connection.
    abort: Option<Error>,
    /// Why the connection ends, where it is not what the engine will say.
    why: Option<Error>,
    /// What was received for an operation that ended before it had all: the begin of the rest.
    stash: Vec<u8>,
    /// The stash is of a connection that is gone, for this reason.
    stash_end: Option<Error>,
    /// Why there is no connection.
    ended: Error,
}

impl Slot {
    fn new() -> Slot {
        Slot {
            in_use: false,
            dropped: false,
            stage: Stage::Idle,
            target: None,
            framing: None,
            connect_timeout: Duration::ZERO,
            reconnect: None,
            unsent: Unsent::Report,
            on_state: None,
            epoch: 0,
            resolving: false,
            addresses: Vec::new(),
            next_address: 0,
            attempts: Vec::new(),
            round_deadline: Time::ZERO,
            attempt: 0,
            last_failure: None,
            opened_at: Time::ZERO,
            got_bytes: false,
            connect: NONE,
            disconnect: Fifo::EMPTY,
            waiting: Fifo::EMPTY,
            flying: Fifo::EMPTY,
            receiving: Fifo::EMPTY,
            put: 0,
            sent: 0,
            half_closed: false,
            paused: false,
            dirty: false,
            abort: None,
            why: None,
            stash: Vec::new(),
            stash_end: None,
            ended: Error::NotConnected,
        }
    }

    /// Whether a connection is being made, or will be.
    fn is_trying(&self) -> bool {
        matches!(self.stage, Stage::Resolving(_) | Stage::Connecting | Stage::BackOff(_))
    }
}

/// The clients of one loop.
pub(super) struct Driver {
    shared: Arc<Shared>,
    resolver: SyncSender<Question>,
    linger: Duration,
    slots: Vec<Slot>,
    ops: Ops,
    wheel: Wheel,
    /// To be woken; to be connected; without a buffer to send with.
    dirty: VecDeque<u32>,
    to_connect: VecDeque<u64>,
    starved: VecDeque<u32>,
    /// When those without a buffer try again.
    retry_at: Option<Time>,
    /// Ends then, if not before.
    ending: Option<Time>,
    now: Time,
}

/// What a connection remembers: its client's slot.
#[derive(Default)]
pub(super) struct Session(Option<u32>);

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        resolver: SyncSender<Question>,
        clients: u32,
        operations: u32,
        linger: Duration,
    ) -> Driver {
        let count = clients as usize;
        Driver {
            shared,
            resolver,
            linger,
            slots: (0..clients).map(|_| Slot::new()).collect(),
            ops: Ops::new(operations as usize),
            wheel: Wheel::new(count, TICK, monotonic_now()),
            dirty: VecDeque::with_capacity(count),
            to_connect: VecDeque::with_capacity(count),
            starved: VecDeque::with_capacity(count),
            retry_at: None,
            ending: None,
            now: monotonic_now(),
        }
    }

    fn slot(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    /// Does what was asked for, so much of it as one turn is to take. Answers whether there may be
    /// more.
    fn carry_out_some(&mut self) -> bool {
        for _ in 0..COMMANDS_PER_TURN {
            match self.shared.next_command() {
                Some(command) => self.carry_out(command),
                None => return false,
            }
        }
        true
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::New { slot, target, options } => self.new_client(slot, target, *options),
            Command::Submit { index, op } => {
                let slot = op.slot;
                self.ops.insert(index, *op);
                self.submit(slot, index);
            }
            Command::Cancel { index, id } => {
                if self.ops.get(index).is_some_and(|op| op.id == id) {
                    self.end_early(index, Error::Cancelled);
                }
            }
            Command::Dropped { slot } => self.drop_client(slot, Error::Cancelled),
            Command::End => {
                let later = self.linger + Duration::from_secs(1);
                self.ending = Some(self.now + later);
                (0..self.slots.len() as u32).for_each(|i| self.drop_client(i, Error::LoopEnded));
            }
        }
    }

    fn new_client(&mut self, i: u32, target: Box<Target>, options: Options) {
        let slot = self.slot(i);
        slot.in_use = true;
        slot.framing = options.framing;
        slot.connect_timeout = options.connect_timeout.unwrap_or(super::CONNECT_TIMEOUT);
        slot.reconnect = options.reconnect;
        slot.unsent = options.unsent;
        slot.on_state = options.on_state;
        slot.target = Some(target);
    }

    /// Puts an operation where it waits for what it needs.
    fn submit(&mut self, i: u32, index: u32) {
        let op = self.ops.at(index);
        let (kind, deadline) = (op.kind, op.deadline);
        if deadline != Time::MAX {
            self.wheel.set_earlier(i, deadline);
        }
        if self.ending.is_some() {
            return self.finish(index, Err(Error::LoopEnded), 0);
        }
        match kind {
            Kind::Connect => self.submit_connect(i, index),
            Kind::Disconnect => self.submit_disconnect(i, index),
            _ => self.submit_transfer(i, index, kind),
        }
    }

    fn submit_transfer(&mut self, i: u32, index: u32, kind: Kind) {
        let slot = &mut self.slots[i as usize];
        let is_open = matches!(slot.stage, Stage::Open(_));
        let reconnects = slot.reconnect.is_some() && slot.stage == Stage::Closing;
        let can_wait = slot.is_trying() || reconnects;
        let has_stash = !slot.stash.is_empty() || slot.stash_end.is_some();
        if slot.half_closed && (kind.sends() || kind == Kind::HalfClose) {
            return self.finish(index, Err(Error::HalfClosed), 0);
        }
        let receives = !kind.sends() && kind != Kind::HalfClose;
        if !(is_open || can_wait || (receives && has_stash)) {
            let why = slot.ended.clone();
            return self.finish_ended(index, &why);
        }
        if receives {
            self.ops.at(index).receives = true;
            self.ops.push_back(&mut slot.receiving, Link::Received, index);
            self.feed(i, None);
        } else {
            self.ops.at(index).lane = Lane::Waiting;
            self.ops.push_back(&mut slot.waiting, Link::Sent, index);
        }
        self.touch(i);
    }

    fn submit_disconnect(&mut self, i: u32, index: u32) {
        match self.slot(i).stage {
            Stage::Open(_) => {
                let slot = &mut self.slots[i as usize];
                self.ops.at(index).lane = Lane::Waiting;
                self.ops.push_back(&mut slot.waiting, Link::Sent, index);
                self.touch(i);
            }
            Stage::Closing => {
                let slot = &mut self.slots[i as usize];
                self.ops.push_back(&mut slot.disconnect, Link::Sent, index);
            }
            Stage::Idle => self.finish(index, Ok(()), 0),
            _ => {
                self.stop_trying(i, Error::Cancelled, Error::Cancelled);
                self.finish(index, Ok(()), 0);
            }
        }
    }

    /// Has the client's connection looked at in this turn, if it is open.
    fn touch(&mut self, i: u32) {
        let slot = &mut self.slots[i as usize];
        if !slot.dirty && matches!(slot.stage, Stage::Open(_)) {
            slot.dirty = true;
            self.dirty.push_back(i);
        }
    }

    /// Completes an operation that is in no queue any more.
    fn finish(&mut self, index: u32, result: Result<(), Error>, bytes_sent: usize) {
        let op = self.ops.remove(index);
        self.shared.give_op(index);
        op.complete(result, bytes_sent);
    }

    /// Ends an operation before it is done: it was cancelled, or its time is up.
    fn end_early(&mut self, index: u32, error: Error) {
        let op = self.ops.at(index);
        let i = op.slot;
        match op.kind {
            Kind::Connect => {
                let why = match error {
                    Error::TimedOut => self.connect_error(i),
                    other => other,
                };
                self.stop_trying(i, why.clone(), why);
            }
            // It ends when the connection does, which is not up to this side alone.
            Kind::Disconnect => {}
            Kind::Send | Kind::SendReceive | Kind::HalfClose => self.end_send(i, index, error),
            Kind::Receive | Kind::Message | Kind::ToEnd { .. } => {
                let slot = &mut self.slots[i as usize];
                self.ops.unlink(&mut slot.receiving, Link::Received, index);
                let mut bytes = self.ops.at(index).give_up_reply();
                bytes.append(&mut slot.stash);
                slot.stash = bytes;
                self.finish(index, Err(error), 0);
            }
        }
    }

    fn end_send(&mut self, i: u32, index: u32, error: Error) {
        let slot = &mut self.slots[i as usize];
        let framing = slot.framing;
        let op = self.ops.at(index);
        let (put, kind, lane, receives) = (op.put, op.kind, op.lane, op.receives);
        let is_whole = put == op.wire_len(framing);
        match lane {
            Lane::Waiting => self.ops.unlink(&mut slot.waiting, Link::Sent, index),
            Lane::Flying => self.ops.unlink(&mut slot.flying, Link::Sent, index),
            Lane::None => {}
        }
        if receives {
            self.ops.unlink(&mut slot.receiving, Link::Received, index);
        }
        let cut = kind == Kind::Send && framing.is_some() && put > 0 && !is_whole;
        if (kind == Kind::SendReceive && put > 0) || cut {
            slot.abort = Some(error.clone());
            self.touch(i);
        }
        self.finish(index, Err(error), put);
    }

    /// Ends everything that a client has under way.
    fn fail_all(&mut self, i: u32, error: &Error) {
        let slot = &mut self.slots[i as usize];
        let connect = std::mem::replace(&mut slot.connect, NONE);
        if connect != NONE {
            self.finish(connect, Err(error.clone()), 0);
        }
        self.fail_sends(i, error);
        self.fail_receives(i, error);
        while let Some(index) = {
            let slot = &mut self.slots[i as usize];
            self.ops.pop_front(&mut slot.disconnect, Link::Sent)
        } {
            self.finish(index, Ok(()), 0);
        }
    }

    fn fail_sends(&mut self, i: u32, error: &Error) {
        loop {
            let slot = &mut self.slots[i as usize];
            let next = self.ops.pop_front(&mut slot.flying, Link::Sent);
            let next = next.or_else(|| self.ops.pop_front(&mut slot.waiting, Link::Sent));
            let Some(index) = next else { return };
            if self.ops.at(index).receives {
                self.ops.unlink(&mut slot.receiving, Link::Received, index);
            }
            let result = match self.ops.at(index).kind {
                Kind::Disconnect => Ok(()),
                _ => Err(error.clone()),
            };
            let put = self.ops.at(index).put;
            self.finish(index, result, put);
        }
    }

    /// Ends all that wait for bytes. The end of the stream is what one kind of them waits for.
    fn fail_receives(&mut self, i: u32, error: &Error) {
        loop {
            let slot = &mut self.slots[i as usize];
            if let Some(index) = self.ops.pop_front(&mut slot.receiving, Link::Received) {
                let op = self.ops.at(index);
                op.receives = false;
                if op.lane == Lane::Waiting {
                    op.lane = Lane::None;
                    self.ops.unlink(&mut slot.waiting, Link::Sent, index);
                }
                self.finish_ended(index, error);
            } else {
                return;
            }
        }
    }

    /// Completes a receive at the end of its connection.
    fn finish_ended(&mut self, index: u32, error: &Error) {
        let op = self.ops.at(index);
        let put = connecting::bytes_sent_of(&self.slots[op.slot as usize], op);
        if matches!(op.kind, Kind::ToEnd { .. }) && *error == Error::ClosedByPeer {
            return self.finish(index, Ok(()), put);
        }
        let bytes = op.give_up_reply();
        op.reply = bytes;
        self.finish(index, Err(error.clone()), put);
    }

    /// The handle is gone: the connection is closed in order, what was put on its output goes out.
    fn drop_client(&mut self, i: u32, error: Error) {
        if !self.slot(i).in_use || self.slot(i).dropped {
            return;
        }
        self.fail_all(i, &error);
        self.slot(i).dropped = true;
        match self.slot(i).stage {
            Stage::Open(_) => self.touch(i),
            Stage::Closing => {}
            _ => {
                self.say(i, State::Closed { why: error });
                self.free(i);
            }
        }
    }

    /// Makes the slot ready for another client.
    fn free(&mut self, i: u32) {
        self.wheel.clear(i);
        let old = std::mem::replace(self.slot(i), Slot::new());
        let slot = self.slot(i);
        // Attempts of the old client may still come to an end.
        slot.epoch = old.epoch.wrapping_add(1);
        slot.resolving = old.resolving;
        slot.dirty = old.dirty;
        self.shared.give_slot(i);
    }

    /// Tells the client's callback of its state.
    fn say(&mut self, i: u32, state: State) {
        let slot = self.slot(i);
        if let Some(callback) = &mut slot.on_state
            && catch_unwind(AssertUnwindSafe(|| callback(&state))).is_err()
        {
            slot.on_state = None;
            log::error!("the state callback of a client panicked, and is not called any more");
        }
    }

    /// Something of the client is due, or was once.
    fn time_came(&mut self, i: u32) {
        let now = self.now;
        while let Some(index) = self.first_overdue(i) {
            self.end_early(index, Error::TimedOut);
        }
        match self.slot(i).stage {
            Stage::BackOff(until) if until <= now => self.begin_round(i),
            Stage::Resolving(until) if until <= now => self.resolved_too_late(i),
            _ => {}
        }
        let due = self.next_due(i);
        if due != Time::MAX {
            self.wheel.set_earlier(i, due);
        }
    }

    /// All operations of a client that can have a deadline.
    fn each_op(&mut self, i: u32, mut see: impl FnMut(u32, &Op)) {
        let slot = &self.slots[i as usize];
        let (connect, waiting, receiving) = (slot.connect, slot.waiting, slot.receiving);
        if connect != NONE {
            see(connect, self.ops.at(connect));
        }
        for (fifo, link) in [(waiting, Link::Sent), (receiving, Link::Received)] {
            let mut index = fifo.first;
            while index != NONE {
                see(index, self.ops.at(index));
                index = self.ops.after(link, index);
            }
        }
    }

    fn first_overdue(&mut self, i: u32) -> Option<u32> {
        let (now, mut found) = (self.now, None);
        self.each_op(i, |index, op| {
            if op.deadline <= now && found.is_none() {
                found = Some(index);
            }
        });
        found
    }

    fn next_due(&mut self, i: u32) -> Time {
        let mut due = match self.slot(i).stage {
            Stage::BackOff(until) | Stage::Resolving(until) => until,
            _ => Time::MAX,
        };
        self.each_op(i, |_, op| due = due.min(op.deadline));
        due
    }

    /// Has those tried again that found no buffer, when some time has passed.
    fn retry_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        let at = *self.retry_at.get_or_insert(self.now + STARVED_TICK);
        if at <= self.now {
            self.retry_at = None;
            while let Some(i) = self.starved.pop_front() {
                self.touch(i);
            }
        }
    }

    fn wake_dirty(&mut self, turn: &mut Turn<'_>) {
        while turn.wakes_left() > 0 {
            let Some(i) = self.dirty.pop_front() else { return };
            let slot = self.slot(i);
            slot.dirty = false;
            if let Stage::Open(id) = slot.stage {
                turn.wake(id);
            }
        }
    }

    /// The end of the loop, when all connections are closed or have had their time.
    fn end_if_done(&mut self, turn: &mut Turn<'_>) {
        if let Some(at_last) = self.ending
            && (turn.open() == 0 || at_last <= self.now)
        {
            turn.stop();
        }
    }
}

impl Service for Driver {
    type Session = Session;

    fn prepare(&mut self, _: &Workplace) {
        self.shared.enter();
    }

    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    /// What is received and not wanted yet is bounded by reading no more until it is.
    fn input_max(&self, _: u64) -> usize {
        usize::MAX
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(i) = self.opened(connection) else { return Answer::Close };
        session.0 = Some(i);
        self.act(i, connection)
    }

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(i) = session.0 else { return Answer::Close };
        self.slot(i).got_bytes = true;
        self.act(i, connection)
    }

    fn sent(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        match session.0 {
            Some(i) => self.act(i, connection),
            None => Answer::Close,
        }
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(i) = session.0 else { return Answer::Close };
        self.slot(i).paused = false;
        self.act(i, connection)
    }

    fn peer_closed(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        match session.0 {
            Some(i) => self.ended_by_peer(i, connection),
            None => Answer::Close,
        }
    }

    fn closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut Session,
        reason: CloseReason,
    ) {
        if let Some(i) = session.0 {
            self.lost(i, connection, reason);
        }
    }

    fn connect_failed(&mut self, tag: u64, error: Errno, _: Time) {
        self.attempt_failed(tag, error);
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        self.shared.look();
        self.now = turn.now();
        let more = self.carry_out_some();
        while let Some(answer) = self.shared.next_answer() {
            self.answered(answer);
        }
        while let Some(i) = self.wheel.pop(self.now) {
            self.time_came(i);
        }
        self.retry_starved();
        self.connect_some(turn);
        self.wake_dirty(turn);
        self.end_if_done(turn);
        let soon = (more || !self.dirty.is_empty()).then_some(self.now);
        [self.wheel.next(), soon, self.retry_at, self.ending].into_iter().flatten().min()
    }
}
