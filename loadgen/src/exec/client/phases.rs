//! The phases of a run, one turn of the engine's loop at a time. Each function returns the latest
//! time of the next call.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use echopool::service::Turn;
use echopool::time::Time;

use super::Client;
use super::backlog::Windows;
use super::exchange::slot;
use crate::cli::Lifetime;
use crate::exec::client::conversation::{ConnectionState, Conversation};
use crate::exec::lifecycle::PER_TURN;
use crate::stats::cpu::SATURATED;
use crate::stats::loss::Loss;
use crate::stats::tally::BEHIND;

impl Client {
    pub(super) fn connect_some(&mut self, turn: &mut Turn<'_>) -> Time {
        let now = turn.now();
        let begun = |index: usize| self.places[index].connect_began = now;
        let next = self.lifecycle.connect_some(turn, begun);
        next.unwrap_or_else(|| self.lifecycle.become_ready(now))
    }

    pub(super) fn start_when_all_are_ready(&mut self, now: Time) -> Time {
        let start = match self.lifecycle.begin_period(now) {
            Ok(start) => start,
            Err(later) => return later,
        };
        self.second.begin_counting(start);
        self.reached_at = start;
        self.windows = Windows::of(self.lifecycle.period);
        self.offer_all();
        now
    }

    /// Open loop: all connections have room.
    fn offer_all(&mut self) {
        let Some(dispatch) = &mut self.lifecycle.dispatch else { return };
        for (index, conversation) in self.conversations.iter().enumerate() {
            if conversation.state == ConnectionState::Open {
                dispatch.room(index);
            }
        }
    }

    pub(super) fn measure(&mut self, turn: &mut Turn<'_>) -> Time {
        let now = turn.now();
        if self.lifecycle.begin_samples(now) {
            self.second
                .begin(self.lifecycle.period.record_from, self.lifecycle.samples.used_before());
        }
        let sent_all = match self.lifecycle.dispatch {
            None => self.begin_each(turn),
            Some(_) => self.dispatch_due(turn),
        };
        self.reconnect_due(turn);
        let looked_after = self.look_after(turn);
        self.sample(now);
        self.lifecycle.intervals.tick(now);
        let all_ended = self.second.outstanding() == 0
            && self.lifecycle.all_is_begun(now, |index| self.is_gone(index));
        let nobody = self.has_no_connections() || self.is_unreachable(now);
        if nobody && !self.other_threads_continue() {
            self.end_period(now, now.min(self.lifecycle.period.end));
        } else if sent_all && all_ended {
            let last_end = self.lifecycle.records.last_end;
            self.end_period(now, last_end.max(self.lifecycle.period.until));
        } else if sent_all && now >= self.lifecycle.period.end {
            self.end_period(now, self.lifecycle.period.end);
        } else if sent_all && looked_after {
            return self.next_measure(now);
        }
        now
    }

    /// No connection is left, and none will be begun.
    fn has_no_connections(&self) -> bool {
        self.lifecycle.open == 0 && self.lifecycle.connecting == 0 && self.again.is_empty()
    }

    /// Whether a run without a time limit has tried to connect for longer than the time-out, and had
    /// no connection meanwhile.
    fn is_unreachable(&mut self, now: Time) -> bool {
        if self.lifecycle.open > 0 {
            self.reached_at = now;
        }
        let tried = self.lifecycle.looked_at() - self.reached_at;
        self.lifecycle.period.end == Time::MAX && tried > self.lifecycle.plan.timeout
    }

    /// Whether a place has no connection and will have none.
    fn is_gone(&self, index: usize) -> bool {
        match self.conversations[index].state {
            ConnectionState::Closed => true,
            // The first connect failed.
            ConnectionState::Absent => self.places[index].established == 0,
            _ => false,
        }
    }

    /// Whether this thread must continue because others do: in an open loop its requests are
    /// offered although it has no connection for them.
    fn other_threads_continue(&self) -> bool {
        self.lifecycle.dispatch.is_some() && self.lifecycle.control.tallies().snapshot().open > 0
    }

    /// Closed loop: each connection sends its first request, even if the period is too short, so
    /// that every established connection is tried. A woken connection sends after this turn, so the
    /// period ends in a later one. Returns whether all were woken before.
    fn begin_each(&mut self, turn: &mut Turn<'_>) -> bool {
        let begun_all = self.lifecycle.sweep.is_complete(self.conversations.len());
        self.wake_next(turn, |_| true);
        begun_all
    }

    /// Open loop: assigns due requests to connections that have room. Returns whether none is left;
    /// otherwise the next turn continues, so that replies are read in between.
    ///
    /// A woken connection takes more than one request if it has room. After a late end of the
    /// period it does so before the period is ended.
    fn dispatch_due(&mut self, turn: &mut Turn<'_>) -> bool {
        let now = turn.now();
        let due_until = now.min(self.lifecycle.period.last());
        for nth in 0..PER_TURN {
            let dispatch = self.lifecycle.dispatch.as_mut().expect("an open loop");
            let Some(index) = dispatch.due_connection(due_until) else {
                return nth == 0 || now < self.lifecycle.period.end;
            };
            // If it has no room it is gone, or its lifetime is over and it closes when it is woken.
            if self.has_room(index, now) {
                let dispatch = self.lifecycle.dispatch.as_mut().expect("an open loop");
                let intended = dispatch.take(index, due_until).expect("it is due");
                self.begin(index, intended, now);
            }
            if let Some(id) = self.conversations[index].id {
                turn.wake(id);
            }
        }
        false
    }

    fn next_measure(&self, now: Time) -> Time {
        let next = self.lifecycle.next_measure(now, !self.starved.is_empty());
        match self.again.front() {
            Some((due, _)) => next.min((*due).max(now)),
            None => next,
        }
    }

    pub(super) fn drain(&mut self, turn: &mut Turn<'_>, give_up: Time) -> Time {
        let now = turn.now();
        let woken_all = self.wake_next(turn, |conversation| conversation.outstanding() == 0);
        let looked_after = self.look_after(turn);
        if self.lifecycle.all_is_over(give_up) {
            turn.stop();
        }
        match woken_all && looked_after {
            true => self.lifecycle.next_drain(now, !self.starved.is_empty()),
            false => now,
        }
    }

    pub(super) fn end_period(&mut self, now: Time, ended: Time) {
        self.windows.pass(ended, || self.second.take_lowest());
        let lowest = self.second.take_lowest();
        self.lifecycle.records.backlog = self.windows.end(ended, self.lifecycle.period, lowest);
        self.lifecycle.end_period(ended);
        if self.lifecycle.samples.have_begun() {
            self.end_second(now);
        }
        // The unsent requests are given up.
        self.lifecycle.tally().behind_ns.store(0, Relaxed);
        self.lifecycle.drain(now);
    }

    fn sample(&mut self, now: Time) {
        if self.lifecycle.sample(now) {
            self.lifecycle.tally().behind_ns.store(self.behind(now).as_nanos() as u64, Relaxed);
        }
        self.windows.pass(now, || self.second.take_lowest());
        let step = self.lifecycle.records.seconds.step();
        if self.lifecycle.samples.have_begun() && self.second.length(now) >= step {
            self.end_second(now);
        }
    }

    fn end_second(&mut self, now: Time) {
        let span = self.second.length(now);
        let Some((second, used)) = self.second.end(now) else { return };
        self.lifecycle.records.seconds.push(second);
        if self.behind(now) > BEHIND && used.busy().as_secs_f64() >= SATURATED * span.as_secs_f64()
        {
            let records = &mut self.lifecycle.records;
            records.saturated_seconds += records.seconds.step().as_secs();
        }
    }

    /// How late the oldest unsent request is.
    fn behind(&self, now: Time) -> Duration {
        let oldest =
            self.lifecycle.dispatch.as_ref().map_or(Time::MAX, |dispatch| dispatch.oldest());
        now.min(self.lifecycle.period.end) - oldest
    }

    /// Wakes the next few open connections for which `wanted` holds, each once per phase. Returns
    /// whether all were visited.
    fn wake_next(&mut self, turn: &mut Turn<'_>, wanted: fn(&Conversation) -> bool) -> bool {
        for conversation in &self.conversations[self.lifecycle.sweep.step(self.conversations.len())]
        {
            if let (ConnectionState::Open, Some(id)) = (conversation.state, conversation.id)
                && wanted(conversation)
            {
                turn.wake(id);
            }
        }
        self.lifecycle.sweep.is_complete(self.conversations.len())
    }

    /// Periodic work of every phase. Returns whether all of it is done; otherwise the next turn
    /// continues.
    fn look_after(&mut self, turn: &mut Turn<'_>) -> bool {
        self.wake_starved(turn);
        let plan = &self.lifecycle.plan;
        let patience = match plan.lifetime {
            Some(Lifetime::Time(lifetime)) => plan.timeout.min(lifetime),
            _ => plan.timeout,
        };
        let count = self.conversations.len();
        if self.late.is_complete(count) && self.lifecycle.check_is_due(turn.now(), patience) {
            self.late.restart();
            self.late_at = self.lifecycle.looked_at();
        }
        for index in self.late.step(count) {
            self.close_if_late(turn, index);
        }
        self.late.is_complete(count)
    }

    /// Closes a connection whose reply is overdue, and wakes an idle one whose lifetime is over. A
    /// request that was not sent has no reply that could be overdue.
    fn close_if_late(&mut self, turn: &mut Turn<'_>, index: usize) {
        let (timeout, at) = (self.lifecycle.plan.timeout, self.late_at);
        let conversation = &self.conversations[index];
        let (ConnectionState::Open, Some(id)) = (conversation.state, conversation.id) else {
            return;
        };
        let since = if conversation.outstanding() > 0 {
            let oldest = slot(index, conversation.completed, self.lifecycle.plan.pipeline);
            let sent = self.sent_at.get(oldest).unwrap_or(&self.intended_at[oldest]);
            conversation.oldest_is_sent().then_some(*sent)
        } else if self.lifecycle.plan.server_closes && conversation.completed > 0 {
            // The server owes the end of the connection.
            Some(self.places[index].room_since)
        } else {
            if self.retires(index, turn.now()) {
                turn.wake(id);
            }
            None
        };
        if since.is_some_and(|since| at - since > timeout) {
            self.conversations[index].state = ConnectionState::Lost(Loss::TimedOut);
            turn.close(id);
        }
    }

    fn wake_starved(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..self.lifecycle.leases.room().min(PER_TURN) {
            let Some(index) = self.starved.pop_front() else { return };
            let conversation = &mut self.conversations[index];
            conversation.starved = false;
            if let Some(id) = conversation.id {
                turn.wake(id);
            }
        }
    }
}
