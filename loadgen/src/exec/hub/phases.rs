//! The phases of a hub run, one turn of the engine's loop at a time. Each function returns the
//! latest time of the next call.

use std::sync::atomic::Ordering::Relaxed;

use echopool::service::Turn;
use echopool::time::Time;

use super::Members;
use super::member::Member;
use crate::exec::client::conversation::ConnectionState;
use crate::exec::lifecycle::{Lifecycle, PER_TURN, SHORT_TICK, TICK};
use crate::stats::loss::Loss;

impl Members {
    /// All members must have their ids, or be lost, before the first message is sent.
    pub(super) fn connect_some(&mut self, turn: &mut Turn<'_>) -> Time {
        let next = self.lifecycle.connect_some(turn, |_| ());
        self.look_after(turn);
        match next {
            Some(next) => next,
            None if self.unwelcomed > 0 => turn.now() + TICK,
            None => self.lifecycle.become_ready(turn.now()),
        }
    }

    pub(super) fn start_when_all_are_ready(&mut self, now: Time) -> Time {
        match self.lifecycle.begin_period(now) {
            Ok(start) => self.last_delivery = start,
            Err(later) => return later,
        }
        now
    }

    pub(super) fn measure(&mut self, turn: &mut Turn<'_>) -> Time {
        let (now, end) = (turn.now(), self.lifecycle.period.end);
        self.lifecycle.begin_samples(now);
        // Each sender sends its first message, even if the period is too short. A woken sender
        // sends after this turn, so the period ends in a later one.
        let started_all = self.lifecycle.sweep.is_complete(self.senders.len());
        self.wake_senders(turn);
        self.dispatch_due(turn);
        self.lifecycle.intervals.tick(now);
        self.look_after(turn);
        self.lifecycle.sample(now);
        if started_all && self.all_is_begun(now) && self.all_is_there() {
            self.end_period(now, self.last_delivery.max(self.lifecycle.period.until));
        } else if started_all && (now >= end || self.nobody_sends()) {
            self.end_period(now, now.min(end));
        } else if !started_all {
            return now;
        } else {
            return self.lifecycle.next_measure(now, self.starved);
        }
        now
    }

    /// Open loop: assigns due messages to senders that have room.
    fn dispatch_due(&mut self, turn: &mut Turn<'_>) {
        let due_until = turn.now().min(self.lifecycle.period.last());
        for _ in 0..PER_TURN {
            let Some(dispatch) = &mut self.lifecycle.dispatch else { return };
            let Some(nth) = dispatch.due_connection(due_until) else { return };
            let index = self.senders[nth];
            let sender = self.members[index].sender.expect("it is one of them");
            if !self.has_room(index, sender) {
                // It asks again when it has room, unless it is gone.
                continue;
            }
            let dispatch = self.lifecycle.dispatch.as_mut().expect("an open loop");
            let member = &mut self.members[index];
            member.offered = dispatch.take(nth, due_until);
            turn.wake(member.connection.expect("it is open"));
        }
    }

    /// Whether a number of requests was given, and each of this thread's was begun or has lost its
    /// sender.
    fn all_is_begun(&self, now: Time) -> bool {
        let senders = &self.shared.senders;
        let is_lost = |nth: usize| {
            let sender = self.members[self.senders[nth]].sender.expect("it is one of them");
            senders[sender as usize].is_lost()
        };
        let all_lost = || (0..self.senders.len()).all(is_lost);
        self.lifecycle.all_is_begun(now, is_lost)
            || self.lifecycle.schedule_is_over(now) && all_lost()
    }

    /// Whether each open member has received everything, or nothing has arrived for so long that
    /// nothing will.
    fn all_is_there(&self) -> bool {
        // All messages of the run: another thread may be about to begin the last one.
        let messages = self.lifecycle.plan.requests.unwrap_or_else(|| self.shared.begun());
        let due = self.readers as u64 * messages;
        let waited = self.lifecycle.looked_at() - self.last_delivery;
        self.accounted >= due || waited > self.lifecycle.plan.timeout
    }

    fn nobody_sends(&self) -> bool {
        self.shared.senders.iter().all(|sender| sender.is_lost())
    }

    pub(super) fn drain(&mut self, turn: &mut Turn<'_>, give_up: Time) -> Time {
        let now = turn.now();
        let all_measured = self.lifecycle.control.all_measured();
        // Not before the other threads' members have read everything: a thread that has stopped
        // counts its unsent messages, which would take the CPU from those who still read.
        let is_over = all_measured && self.shared.readers.load(Relaxed) == 0;
        if is_over || self.lifecycle.looked_at() >= give_up {
            turn.stop();
        }
        self.look_after(turn);
        if !all_measured || now < self.next_sweep {
            return now + SHORT_TICK;
        }
        let count = self.members.len();
        for member in &self.members[self.lifecycle.sweep.step(count)] {
            if member.state == ConnectionState::Open && member.reads && !member.farewell_sent {
                turn.wake(member.connection.expect("it is open"));
            }
        }
        if self.lifecycle.sweep.is_complete(count) {
            self.lifecycle.sweep.restart();
            self.next_sweep = now + SHORT_TICK;
        }
        now
    }

    pub(super) fn end_period(&mut self, now: Time, ended: Time) {
        self.lifecycle.end_period(ended);
        self.lifecycle.drain(now);
    }

    /// Gives up the messages that were due before the end and not sent. Each counts as late for
    /// every client. There may be millions of them, so this is done when nothing is waited for.
    pub(super) fn abandon(&mut self) {
        let ended = self.lifecycle.records.ended;
        let Members { lifecycle, hub, members, .. } = self;
        let Lifecycle { dispatch, records, .. } = lifecycle;
        let Some(dispatch) = dispatch else { return };
        let clients = hub.connections - hub.never_read;
        let mut give_up = |intended| {
            records.offered += 1;
            records.never_sent += 1;
            records.at_least(None, ended - intended, clients);
        };
        for member in members {
            member.offered.take().map(&mut give_up);
        }
        dispatch.abandon(ended, give_up);
    }

    /// Wakes the next few senders, each once; again if there was no buffer.
    fn wake_senders(&mut self, turn: &mut Turn<'_>) {
        let Lifecycle { sweep, leases, .. } = &mut self.lifecycle;
        if sweep.is_complete(self.senders.len()) && self.starved && leases.room() > 0 {
            self.starved = false;
            sweep.restart();
        }
        for &index in &self.senders[sweep.step(self.senders.len())] {
            if let (ConnectionState::Open, Some(id)) =
                (self.members[index].state, self.members[index].connection)
            {
                turn.wake(id);
            }
        }
    }

    /// Closes members that wait too long.
    fn look_after(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now();
        if !self.lifecycle.check_is_due(now, self.lifecycle.plan.timeout) {
            return;
        }
        let (begun, at) = (self.shared.begun(), self.lifecycle.looked_at());
        for index in 0..self.members.len() {
            let member = &self.members[index];
            if member.state == ConnectionState::Open
                && member.reads
                && self.is_late(member, index, begun, at)
            {
                let member = &mut self.members[index];
                member.state = ConnectionState::Lost(Loss::TimedOut);
                turn.close(member.connection.expect("it is open"));
            }
        }
    }

    /// `at`: everything that had arrived by then has been read.
    fn is_late(&self, member: &Member, index: usize, begun: u64, at: Time) -> bool {
        let timeout = self.lifecycle.plan.timeout;
        if member.id == 0 {
            return at - member.opened > timeout;
        }
        if member.missing(begun) == 0 {
            return false;
        }
        let senders = &self.shared.senders;
        let due = &self.next[index * senders.len()..][..senders.len()];
        // The hub reported drops, which may be these messages; and the last messages of a lost
        // sender may not have reached the hub.
        let excused = member.dropped > 0;
        senders.iter().zip(due).any(|(sender, due)| {
            *due < sender.begun() && !excused && !sender.is_lost() && sender.age(*due, at) > timeout
        })
    }
}
