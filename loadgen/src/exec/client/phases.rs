//! The phases of a run, one turn of the engine's loop at a time. Each function returns the latest
//! time of the next call.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use echopool::service::Turn;
use echopool::time::Time;

use super::Client;
use super::exchange::slot;
use crate::cli::Lifetime;
use crate::exec::client::conversation::{ConnectionState, Conversation};
use crate::exec::lifecycle::{Lifecycle, PER_TURN};
use crate::stats::cpu::SATURATED;
use crate::stats::loss::Loss;
use crate::stats::records::GivenUp;
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
        self.look_after(turn);
        self.sample(now);
        self.lifecycle.intervals.tick(now);
        let answered = self.lifecycle.control.requests_used_up() && self.second.outstanding() == 0;
        if self.has_no_connections() && !self.other_threads_continue() {
            self.end_period(now, now.min(self.lifecycle.period.end));
        } else if sent_all && answered {
            self.end_period(now, self.lifecycle.records.last_reply);
        } else if sent_all && now >= self.lifecycle.period.end {
            self.end_period(now, self.lifecycle.period.end);
        } else if sent_all {
            return self.next_measure(now);
        }
        now
    }

    /// No connection is left, and none will be begun.
    fn has_no_connections(&self) -> bool {
        self.lifecycle.open == 0 && self.lifecycle.connecting == 0 && self.again.is_empty()
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
    fn dispatch_due(&mut self, turn: &mut Turn<'_>) -> bool {
        let due_until = turn.now().min(self.lifecycle.period.last());
        for _ in 0..PER_TURN {
            let dispatch = self.lifecycle.dispatch.as_mut().expect("an open loop");
            let Some(index) = dispatch.due_connection(due_until) else { return true };
            if !self.has_room(index, turn.now()) {
                // It is gone, or its lifetime is over and it closes when it is woken.
                if let Some(id) = self.conversations[index].id {
                    turn.wake(id);
                }
                continue;
            }
            let dispatch = self.lifecycle.dispatch.as_mut().expect("an open loop");
            let intended = dispatch.take(index, due_until).expect("it is due");
            if !self.may_begin(intended) {
                return true;
            }
            self.begin(index, intended, turn.now());
            // It may have room for another request, which is seen after this send.
            turn.wake(self.conversations[index].id.expect("it is open"));
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
        self.look_after(turn);
        if self.lifecycle.open == 0 || now >= give_up {
            turn.stop();
        }
        if woken_all { self.lifecycle.next_look(now, !self.starved.is_empty()) } else { now }
    }

    pub(super) fn end_period(&mut self, now: Time, ended: Time) {
        self.lifecycle.end_period(ended);
        if self.lifecycle.samples.have_begun() {
            self.end_second(now);
        }
        self.abandon(self.lifecycle.records.ended);
        // The unsent requests were given up.
        self.lifecycle.tally().behind_ns.store(0, Relaxed);
        self.lifecycle.drain(now);
    }

    /// Gives up the requests that were due before the end and found no connection with room.
    fn abandon(&mut self, ended: Time) {
        let Lifecycle { dispatch, control, records, intervals, period, .. } = &mut self.lifecycle;
        let Some(dispatch) = dispatch else { return };
        dispatch.abandon(ended, |intended| {
            if intended < period.record_from {
                return true;
            }
            let offered = control.take_request();
            if offered {
                records.offered += 1;
                records.give_up(ended, intended, GivenUp::NeverSent);
                intervals.give_up(ended, ended - intended);
            }
            offered
        });
    }

    fn sample(&mut self, now: Time) {
        if self.lifecycle.sample(now) {
            self.lifecycle.tally().behind_ns.store(self.behind(now).as_nanos() as u64, Relaxed);
        }
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
            self.lifecycle.records.saturated_seconds += 1;
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

    /// Periodic work of every phase.
    fn look_after(&mut self, turn: &mut Turn<'_>) {
        self.wake_starved(turn);
        let plan = &self.lifecycle.plan;
        let patience = match plan.lifetime {
            Some(Lifetime::Time(lifetime)) => plan.timeout.min(lifetime),
            _ => plan.timeout,
        };
        if self.lifecycle.check_is_due(turn.now(), patience) {
            self.close_late(turn);
        }
    }

    /// Closes connections whose reply is overdue, and wakes idle ones whose lifetime is over.
    fn close_late(&mut self, turn: &mut Turn<'_>) {
        let (now, timeout, pipeline) =
            (turn.now(), self.lifecycle.plan.timeout, self.lifecycle.plan.pipeline);
        for index in 0..self.conversations.len() {
            let retires = self.retires(index, now);
            let conversation = &mut self.conversations[index];
            if conversation.state != ConnectionState::Open {
                continue;
            }
            if conversation.outstanding() == 0 {
                let owes_its_end = self.lifecycle.plan.server_closes && conversation.completed > 0;
                if owes_its_end && now - self.places[index].room_since > timeout {
                    conversation.state = ConnectionState::Lost(Loss::TimedOut);
                    turn.close(conversation.id.expect("it is open"));
                } else if !owes_its_end && retires {
                    turn.wake(conversation.id.expect("it is open"));
                }
                continue;
            }
            let oldest = slot(index, conversation.completed, pipeline);
            let sent = self.sent_at.get(oldest).filter(|sent| **sent > Time::ZERO);
            if now - *sent.unwrap_or(&self.intended_at[oldest]) > timeout {
                conversation.state = ConnectionState::Lost(Loss::TimedOut);
                turn.close(conversation.id.expect("it is open"));
            }
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
