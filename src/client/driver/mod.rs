//! The clients of one loop, as a [`Service`]: the tables, the callbacks of the engine, and the
//! callers' commands.
//!
//! * this file: commands, timers, and the service's callbacks
//! * `slot`: the state of a client
//! * `operations`: operations from start to end
//! * `connecting`: look-up and connect
//! * `ending`: what happens to operations when a connection ends
//! * `exchange`: data transfer

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::completer;
use super::error::Error;
use super::ops::{Ended, Fifo, Lane, NONE, Op, OpKind, OpLink, Ops};
use super::options::{Options, State, Unsent};
use super::resolve::Question;
use super::submission::{LoopCommand, Submission};
use super::target::Target;
use crate::base::time::Time;
use crate::base::timer_wheel::Wheel;
use crate::error::{CloseReason, Errno};
use crate::service::{Answer, Connection, ConnectionId, Handshake, HandshakeError, Service, Turn};

mod connecting;
mod ending;
mod exchange;
mod operations;
mod slot;

#[cfg(feature = "tls")]
pub(super) use connecting::slot_of_tag;
use slot::{ClientSlot, ConnectionStage, Place, Stream};

/// Resolution of deadlines.
const TICK: Duration = Duration::from_millis(1);

/// Maximum number of commands executed in one turn, so that busy callers do not delay connections.
const COMMANDS_PER_TURN: usize = 4096;

/// How many times a deadline is postponed by a tick because its connection has used up its share of
/// the turn. In these turns it moves 8 MiB, and no kernel holds more that had arrived by the
/// deadline: the usual net.ipv4.tcp_rmem allows 6 MiB.
const POSTPONED_MAX: u8 = 128;

/// Maximum number of operations completed, and of deadlines handled, in one turn, for the same
/// reason.
const COMPLETIONS_PER_TURN: usize = 4096;

/// Longest time from [`LoopCommand::End`] to the end of the loop, whatever the linger time is.
const END_MAX: Duration = Duration::from_secs(10);

/// The clients of one loop.
pub(crate) struct Driver {
    submission: Arc<Submission>,
    resolver: SyncSender<Question>,
    linger: Duration,
    slots: Vec<ClientSlot>,
    ops: Ops,
    /// Timers of clients, and deadlines of operations.
    wheel: Wheel,
    deadlines: Wheel,
    /// Operations that have ended and whose callers have not been notified.
    ended: Fifo,
    /// Rejected operations, oldest first. Each has a timer in `deadlines`.
    rejected: Fifo,
    /// Clients to wake, and attempts to start.
    dirty: VecDeque<u32>,
    to_connect: VecDeque<u64>,
    /// Abandoned attempts to connect.
    to_close: Vec<ConnectionId>,
    /// For the wait before an attempt to connect.
    random: fastrand::Rng,
    /// When the loop ends at the latest, once it is ending.
    ending: Option<Time>,
    now: Time,
    /// What had arrived by this time has been handled. Deadlines are compared with it.
    looked_at: Time,
}

/// The state of a connection: its client's slot.
#[derive(Default)]
pub(crate) struct Session(Option<u32>);

impl Driver {
    pub(crate) fn new(
        submission: Arc<Submission>,
        resolver: SyncSender<Question>,
        clients: u32,
        operations: u32,
        linger: Duration,
        random: fastrand::Rng,
    ) -> Driver {
        let count = clients as usize;
        let now = submission.now();
        Driver {
            submission,
            resolver,
            linger,
            slots: (0..clients).map(|_| ClientSlot::new()).collect(),
            ops: Ops::new(operations as usize),
            wheel: Wheel::new(count, TICK, now),
            deadlines: Wheel::new(operations as usize, TICK, now),
            ended: Fifo::EMPTY,
            rejected: Fifo::EMPTY,
            dirty: VecDeque::with_capacity(count),
            to_connect: VecDeque::with_capacity(count),
            to_close: Vec::new(),
            random,
            ending: None,
            now,
            looked_at: now,
        }
    }

    fn slot(&mut self, slot: u32) -> &mut ClientSlot {
        &mut self.slots[slot as usize]
    }

    /// Executes commands, up to the limit of one turn. Returns whether there may be more.
    fn execute_commands(&mut self) -> bool {
        for _ in 0..COMMANDS_PER_TURN {
            match self.submission.next_command() {
                Some(command) => self.execute(command),
                None => return false,
            }
        }
        true
    }

    fn execute(&mut self, command: LoopCommand) {
        match command {
            LoopCommand::New { slot, target, options } => self.new_client(slot, target, *options),
            LoopCommand::Submit { index, op } => {
                let slot = op.slot;
                self.ops.insert(index, *op);
                self.submit(slot, index);
            }
            LoopCommand::Cancel { index, id } => {
                if self.ops.get(index).is_some_and(|op| op.id == id && op.ended.is_none()) {
                    self.end_early(index, Error::Cancelled);
                }
            }
            LoopCommand::Dropped { slot } => self.drop_client(slot, Error::Cancelled),
            LoopCommand::End => {
                let later = self.linger.saturating_add(Duration::from_secs(1));
                self.ending = Some(self.now + later.min(END_MAX));
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

    /// Schedules a wake-up of the client's connection in this turn, if it is open.
    fn schedule_wake(&mut self, i: u32) {
        let slot = &mut self.slots[i as usize];
        if !slot.dirty && matches!(slot.stage, ConnectionStage::Open(_)) {
            slot.dirty = true;
            self.dirty.push_back(i);
        }
    }

    /// Closes the connection of a dropped client gracefully: what is on its output is sent.
    fn drop_client(&mut self, i: u32, error: Error) {
        if !self.slot(i).in_use || self.slot(i).dropped {
            return;
        }
        self.fail_all(i, &error);
        self.slot(i).dropped = true;
        match self.slot(i).stage {
            ConnectionStage::Open(_) => self.schedule_wake(i),
            ConnectionStage::Closing => {}
            _ => {
                self.report_state(i, State::Closed { why: error });
                self.release_slot(i);
            }
        }
    }

    /// Makes the slot available for another client.
    fn release_slot(&mut self, i: u32) {
        self.wheel.clear(i);
        self.abandon_attempts(i);
        let old = std::mem::replace(self.slot(i), ClientSlot::new());
        let slot = self.slot(i);
        // Attempts of the old client may still end later.
        slot.epoch = old.epoch.wrapping_add(1);
        slot.client = old.client.wrapping_add(1);
        slot.dirty = old.dirty;
        self.submission.release_slot(i);
    }

    /// Calls the client's state callback.
    fn report_state(&mut self, i: u32, state: State) {
        let slot = self.slot(i);
        if let Some(callback) = &mut slot.on_state
            && !completer::catch_panic(|| callback(&state))
        {
            slot.on_state = None;
            log::error!("the state callback of a client panicked and is disabled");
        }
    }

    /// Handles the timer of a client. It may be out of date.
    fn client_timer(&mut self, i: u32) {
        let looked_at = self.looked_at;
        let slot = self.slot(i);
        match slot.stage {
            ConnectionStage::BackOff(until) if until <= looked_at => self.start_round(i),
            ConnectionStage::Resolving | ConnectionStage::Connecting => self.round_timer(i),
            _ => {}
        }
        let due = self.next_due(i);
        if due != Time::MAX {
            self.wheel.set_earlier(i, due);
        }
    }

    /// Ends the operations that are due, up to the limit of one turn. Returns whether there may be
    /// more.
    fn expire_operations(&mut self, turn: &Turn<'_>) -> bool {
        for _ in 0..COMPLETIONS_PER_TURN {
            match self.deadlines.pop(self.looked_at) {
                Some(index) => self.operation_timer(index, turn),
                None => return false,
            }
        }
        true
    }

    /// Handles an operation's deadline, or the delayed notification of a rejected one.
    fn operation_timer(&mut self, index: u32, turn: &Turn<'_>) {
        let &mut Op { ref ended, postponed, slot, .. } = self.ops.at(index);
        if ended.is_some() {
            self.end_rejected(index);
        } else if postponed < POSTPONED_MAX && self.is_behind(slot, turn) {
            self.ops.at(index).postponed += 1;
            self.deadlines.set_earlier(index, self.now + TICK);
        } else {
            self.end_early(index, Error::TimedOut);
        }
    }

    /// Whether bytes that arrived for the client before `looked_at` may still be unread.
    fn is_behind(&self, i: u32, turn: &Turn<'_>) -> bool {
        matches!(self.slots[i as usize].stage, ConnectionStage::Open(id) if turn.has_yielded(id))
    }

    /// Notifies callers of operations that have ended, up to the limit of one turn.
    fn complete_ended(&mut self) {
        for _ in 0..COMPLETIONS_PER_TURN {
            let Some(index) = self.ops.pop_front(&mut self.ended, OpLink::Sent) else { return };
            let op = self.ops.remove(index);
            let at_rest = self.slot(op.slot).stage == ConnectionStage::Idle;
            // Released first, so that a callback can start another operation with this number.
            self.submission.release_op(index);
            op.complete(at_rest);
        }
    }

    fn wake_dirty(&mut self, turn: &mut Turn<'_>) {
        while turn.wakes_left() > 0 {
            let Some(i) = self.dirty.pop_front() else { return };
            let slot = self.slot(i);
            slot.dirty = false;
            if let ConnectionStage::Open(id) = slot.stage {
                turn.wake(id);
            }
        }
    }

    /// Ends the loop when all connections are closed or the time limit has passed.
    fn end_if_done(&mut self, turn: &mut Turn<'_>) {
        if let Some(at_last) = self.ending
            && (turn.open() == 0 || at_last <= self.looked_at)
        {
            turn.stop();
        }
    }
}

impl Service for Driver {
    type Session = Session;

    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    /// The input is bounded by pausing the connection instead.
    fn input_max(&self, _: u64) -> usize {
        usize::MAX
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(i) = self.connected(connection) else { return Answer::Close };
        session.0 = Some(i);
        self.progress(i, connection)
    }

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(i) = session.0 else { return Answer::Close };
        self.slot(i).stream.got_bytes = true;
        self.progress(i, connection)
    }

    fn sent(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        match session.0 {
            Some(i) => self.progress(i, connection),
            None => Answer::Close,
        }
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(i) = session.0 else { return Answer::Close };
        self.slot(i).stream.paused = false;
        self.progress(i, connection)
    }

    fn peer_closed(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        match session.0 {
            Some(i) => self.closed_by_peer(i, connection),
            None => Answer::Close,
        }
    }

    fn cut_off(&mut self, connection: &mut Connection<'_>, session: &mut Session) {
        if let Some(i) = session.0 {
            self.stash_input(i, connection);
        }
    }

    fn closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut Session,
        reason: CloseReason,
    ) {
        if let Some(i) = session.0 {
            self.disconnected(i, connection, reason);
        }
    }

    fn connecting(&mut self, tag: u64, id: ConnectionId) {
        self.attempt_started(tag, id);
    }

    fn connect_failed(&mut self, tag: u64, error: Errno, _: Time) {
        self.attempt_failed(tag, error);
    }

    fn handshake(&mut self, tag: u64, result: Result<Handshake, HandshakeError>, _: Time) {
        if let Err(error) = result {
            self.handshake_failed(tag, error);
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        self.submission.clear_notified();
        (self.now, self.looked_at) = (turn.now(), turn.looked_at());
        let more = self.execute_commands();
        while let Some(answer) = self.submission.next_answer() {
            self.resolved(answer);
        }
        while let Some(i) = self.wheel.pop(self.looked_at) {
            self.client_timer(i);
        }
        let more = self.expire_operations(turn) || more;
        self.to_close.drain(..).for_each(|id| turn.close(id));
        self.start_queued_connects(turn);
        self.wake_dirty(turn);
        completer::run_deferred();
        completer::in_turn(|| self.complete_ended());
        // Callbacks that restart a rejected operation wait for the next tick, so that they do not
        // occupy the loop.
        let deferred = completer::has_deferred().then_some(self.now + TICK);
        self.end_if_done(turn);
        let more = more || !self.dirty.is_empty() || !self.ended.is_empty();
        let soon = more.then_some(self.now);
        [self.wheel.next(), self.deadlines.next(), soon, deferred, self.ending]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Notifies the callers of operations that ended in the last turn.
impl Drop for Driver {
    fn drop(&mut self) {
        while !self.ended.is_empty() {
            self.complete_ended();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::client::submission::Clock;
    use crate::shared::mailbox::Mailboxes;

    #[test]
    fn a_loop_ends_a_second_after_its_linger_time_but_within_ten() {
        for (linger, most) in [
            (Duration::ZERO, Duration::from_secs(1)),
            (Duration::from_secs(2), Duration::from_secs(3)),
            (Duration::from_secs(60), Duration::from_secs(10)),
            (Duration::MAX, Duration::from_secs(10)),
        ] {
            let mailboxes = Arc::new(Mailboxes::new(1));
            let submission = Submission::new(1, 1, mailboxes, Clock::SYSTEM);
            let (resolver, _requests) = sync_channel(1);
            let random = fastrand::Rng::with_seed(0);
            let mut driver = Driver::new(submission, resolver, 1, 1, linger, random);
            driver.execute(LoopCommand::End);
            assert_eq!(driver.ending, Some(driver.now + most), "{linger:?}");
        }
    }
}
