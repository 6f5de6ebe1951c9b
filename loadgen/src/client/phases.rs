//! The phases of a run, a turn of the engine's loop at a time. Each answers when it wants to be
//! called again at the latest.

use std::time::Duration;

use echopool::service::{ConnectTo, Turn};
use echopool::time::Time;

use super::exchange::slot;
use super::{Client, Phase};
use crate::cpu::ThreadUse;
use crate::flow::{Flow, Loss, State};

/// How often a thread looks at the common state when nothing else happens.
const TICK: Duration = Duration::from_millis(50);
/// The same while it waits for the other threads, or for a buffer.
const SHORT_TICK: Duration = Duration::from_millis(1);
/// Connections woken in one turn, so that replies are read in between.
const WAKES_PER_TURN: usize = 256;
/// How long replies are waited for when the run was interrupted.
const INTERRUPTED_WAIT: Duration = Duration::from_secs(1);
/// The length of a sample of the request rate.
const SAMPLE: Duration = Duration::from_millis(100);

impl Client {
    pub(super) fn connect_some(&mut self, turn: &mut Turn<'_>) -> Time {
        let now = turn.now();
        if self.control.stopped() {
            return now + TICK;
        }
        let began = *self.connect_began.get_or_insert(now);
        let in_flight_max = self.plan.connects_in_flight_max();
        while self.connects_begun < self.share.connections
            && self.connecting < in_flight_max
            && turn.free_slots() > 0
        {
            let due = began + self.connect_due(self.connects_begun);
            if due > now {
                return due;
            }
            let tag = self.share.first_connection + self.connects_begun as u64;
            turn.connect(ConnectTo {
                target: self.plan.target,
                source: self.plan.source(tag),
                tag,
                deadline: now + self.plan.timeout,
            });
            self.connects_begun += 1;
            self.connecting += 1;
        }
        if self.connects_begun < self.share.connections || self.connecting > 0 {
            return now + TICK;
        }
        self.control.ready(now);
        self.phase = Phase::Ready;
        now + SHORT_TICK
    }

    /// How long after the first the connection with this number is begun. Threads have their share
    /// of the rate, as they have of the connections.
    fn connect_due(&self, nth: usize) -> Duration {
        let Some(rate) = self.plan.connect_rate else { return Duration::ZERO };
        let share = self.share.connections as f64 / self.plan.connections as f64;
        Duration::from_secs_f64(nth as f64 / (rate as f64 * share))
    }

    pub(super) fn begin_when_all_are_ready(&mut self, now: Time) -> Time {
        let Some(start) = self.control.start_at() else { return now + SHORT_TICK };
        if now < start {
            return start;
        }
        let end = self.plan.duration.map_or(Time::MAX, |duration| start + duration);
        self.phase = Phase::Measuring(end);
        self.records.began = start;
        self.intervals.begin(start);
        self.sample_began = start;
        self.use_before = ThreadUse::now();
        now
    }

    pub(super) fn measure(&mut self, turn: &mut Turn<'_>, end: Time) -> Time {
        let now = turn.now();
        // Each connection sends its first request, even if the period is too short for that: what
        // was established is also tried. Those woken now send after this turn, so a period ends in
        // a later one.
        let started_all = self.sweep == self.flows.len();
        self.wake_next(turn, |_| true);
        self.look_after(turn);
        self.sample_rate(now);
        self.intervals.tick(now);
        let answered = self.control.requests_used_up() && self.outstanding == 0;
        if self.open == 0 {
            self.end_period(now, now);
        } else if started_all && answered {
            self.end_period(now, self.records.last_reply);
        } else if started_all && now >= end {
            self.end_period(now, end);
        } else if !started_all {
            return now;
        } else {
            return self.next_look(now).min(end).min(self.sample_began + SAMPLE);
        }
        now
    }

    pub(super) fn drain(&mut self, turn: &mut Turn<'_>, give_up: Time) -> Time {
        let now = turn.now();
        let woken_all = self.wake_next(turn, |flow| flow.outstanding() == 0);
        self.look_after(turn);
        if self.open == 0 || now >= give_up {
            turn.stop();
        }
        if woken_all { self.next_look(now) } else { now }
    }

    /// The run is to end: a period that has begun is ended and drained, anything before is dropped.
    pub(super) fn end_early(&mut self, turn: &mut Turn<'_>) {
        match self.phase {
            Phase::Connecting | Phase::Ready => turn.stop(),
            Phase::Measuring(end) => self.end_period(turn.now(), turn.now().min(end)),
            Phase::Draining(give_up) => {
                let soon = turn.now() + self.plan.timeout.min(INTERRUPTED_WAIT);
                self.phase = Phase::Draining(give_up.min(soon));
            }
        }
    }

    fn end_period(&mut self, now: Time, ended: Time) {
        // A reply may have been read after the begin of this turn, and a thread may have had none.
        self.records.ended = ended.max(self.records.began);
        self.intervals.end(self.records.ended);
        self.records.thread_uses.push(ThreadUse::now().since(self.use_before));
        if self.records.rates.is_empty() {
            self.records.rate(self.records.replies, self.records.ended - self.records.began);
        }
        self.control.measured();
        self.sweep = 0;
        // Later than any reply is waited for, and any peer that does not close.
        let give_up = now + self.plan.timeout + self.share.limits.linger + Duration::from_secs(1);
        self.phase = Phase::Draining(give_up);
    }

    fn sample_rate(&mut self, now: Time) {
        let span = now - self.sample_began;
        if span >= SAMPLE {
            self.records.rate(self.records.replies - self.sample_replies, span);
            self.sample_began = now;
            self.sample_replies = self.records.replies;
        }
    }

    /// Wakes the next few open connections that `wanted` holds for, each once in a phase. Answers
    /// whether all have been looked at.
    fn wake_next(&mut self, turn: &mut Turn<'_>, wanted: fn(&Flow) -> bool) -> bool {
        let end = self.flows.len().min(self.sweep + WAKES_PER_TURN);
        for flow in &self.flows[self.sweep..end] {
            if let (State::Open, Some(id)) = (flow.state, flow.id)
                && wanted(flow)
            {
                turn.wake(id);
            }
        }
        self.sweep = end;
        end == self.flows.len()
    }

    /// What is to be done from time to time, whatever the phase.
    fn look_after(&mut self, turn: &mut Turn<'_>) {
        self.wake_starved(turn);
        if turn.now() >= self.next_check {
            self.close_late(turn);
            self.next_check = turn.now() + self.check_interval();
        }
    }

    fn next_look(&self, now: Time) -> Time {
        let tick = if self.starved.is_empty() { TICK } else { SHORT_TICK };
        (now + tick).min(self.next_check)
    }

    /// One pass over all connections for each eighth of the time-out is cheaper than a timer for
    /// each request, and late by an eighth at most.
    fn check_interval(&self) -> Duration {
        (self.plan.timeout / 8).clamp(Duration::from_millis(10), Duration::from_millis(250))
    }

    fn close_late(&mut self, turn: &mut Turn<'_>) {
        let (now, timeout, pipeline) = (turn.now(), self.plan.timeout, self.plan.pipeline);
        for (index, flow) in self.flows.iter_mut().enumerate() {
            if flow.state != State::Open || flow.outstanding() == 0 {
                continue;
            }
            let oldest = self.begun_at[slot(index, flow.completed, pipeline)];
            if now - oldest > timeout {
                flow.state = State::Lost(Loss::TimedOut);
                turn.close(flow.id.expect("it is open"));
            }
        }
    }

    fn wake_starved(&mut self, turn: &mut Turn<'_>) {
        let room = self.share.output_leases_max().saturating_sub(self.output_leases);
        for _ in 0..room.min(WAKES_PER_TURN) {
            let Some(index) = self.starved.pop_front() else { return };
            let flow = &mut self.flows[index];
            flow.starved = false;
            if let Some(id) = flow.id {
                turn.wake(id);
            }
        }
    }
}
