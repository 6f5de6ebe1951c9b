//! The phases of a run, a turn of the engine's loop at a time. Each answers when it wants to be
//! called again at the latest.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use echopool::service::Turn;
use echopool::time::Time;

use super::exchange::slot;
use super::{Client, Period, Phase};
use crate::cpu::ThreadUse;
use crate::flow::{Flow, Loss, State};
use crate::outcome::GivenUp;
use crate::plan::Lifetime;
use crate::seconds::Second;
use crate::verdict;

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
            let due = began + self.plan.connect_due(&self.share, self.connects_begun);
            if due > now {
                return due;
            }
            self.connect(turn, self.connects_begun);
            self.connects_begun += 1;
        }
        if self.connects_begun < self.share.connections || self.connecting > 0 {
            return now + TICK;
        }
        self.control.ready(now);
        self.phase = Phase::Ready;
        now + SHORT_TICK
    }

    pub(super) fn begin_when_all_are_ready(&mut self, now: Time) -> Time {
        let Some(start) = self.control.start_at() else { return now + SHORT_TICK };
        if now < start {
            return start;
        }
        let record_from = start + self.plan.warmup;
        let end = self.plan.duration.map_or(Time::MAX, |duration| record_from + duration);
        self.period = Period { record_from, end };
        self.phase = Phase::Measuring;
        self.pauses.rest_until(start);
        self.records.began = record_from;
        self.intervals.begin(record_from);
        self.outstanding_at = start;
        self.begin_schedule(start);
        now
    }

    fn begin_schedule(&mut self, start: Time) {
        let Some(dispatch) = &mut self.dispatch else { return };
        dispatch.begin(start);
        for (index, flow) in self.flows.iter().enumerate() {
            if flow.state == State::Open {
                dispatch.room(index);
            }
        }
    }

    pub(super) fn measure(&mut self, turn: &mut Turn<'_>) -> Time {
        let now = turn.now();
        if now >= self.period.record_from && self.sample_began == Time::ZERO {
            self.begin_recording();
        }
        let sent_all = match self.dispatch {
            None => self.begin_each(turn),
            Some(_) => self.dispatch_due(turn),
        };
        self.connect_again(turn);
        self.look_after(turn);
        self.sample(now);
        self.intervals.tick(now);
        let answered = self.control.requests_used_up() && self.outstanding == 0;
        if self.has_no_connections() && !self.others_go_on() {
            self.end_period(now, now.min(self.period.end));
        } else if sent_all && answered {
            self.end_period(now, self.records.last_reply);
        } else if sent_all && now >= self.period.end {
            self.end_period(now, self.period.end);
        } else if sent_all {
            return self.next_measure(now);
        }
        now
    }

    /// No connection is left, and none will be begun.
    fn has_no_connections(&self) -> bool {
        self.open == 0 && self.connecting == 0 && self.again.is_empty()
    }

    /// Whether a schedule that other threads go on with is to go on here too: its requests are
    /// offered, although there is no connection for them.
    fn others_go_on(&self) -> bool {
        self.dispatch.is_some() && self.control.snapshot().open > 0
    }

    /// Closed loop: each connection sends its first request, even if the period is too short for
    /// that: what was established is also tried. Those woken now send after this turn, so a period
    /// ends in a later one. Answers whether all have been woken before.
    fn begin_each(&mut self, turn: &mut Turn<'_>) -> bool {
        let begun_all = self.sweep == self.flows.len();
        self.wake_next(turn, |_| true);
        begun_all
    }

    /// Open loop: requests that are due go to connections that have room. Answers whether that is
    /// done; otherwise the next turn goes on, so that replies are read in between.
    fn dispatch_due(&mut self, turn: &mut Turn<'_>) -> bool {
        let due_until = turn.now().min(self.period.last());
        for _ in 0..WAKES_PER_TURN {
            let dispatch = self.dispatch.as_mut().expect("an open loop");
            let Some(index) = dispatch.due_connection(due_until) else { return true };
            if !self.has_room(index, turn.now()) {
                // It is gone, or its life is over, and it closes when it is woken.
                if let Some(id) = self.flows[index].id {
                    turn.wake(id);
                }
                continue;
            }
            let dispatch = self.dispatch.as_mut().expect("an open loop");
            let intended = dispatch.take(index, due_until).expect("it is due");
            if !self.may_begin(intended) {
                return true;
            }
            self.begin(index, intended, turn.now());
            // It may have room for another one: that is seen when it has sent this one.
            turn.wake(self.flows[index].id.expect("it is open"));
        }
        false
    }

    fn next_measure(&self, now: Time) -> Time {
        let mut next = self.next_look(now).min(self.period.end);
        if self.sample_began == Time::ZERO {
            next = next.min(self.period.record_from);
        } else {
            next = next.min(self.sample_began + SAMPLE);
        }
        if let Some(due) = self.dispatch.as_ref().and_then(|dispatch| dispatch.next())
            && due < self.period.end
        {
            next = next.min(due);
        }
        match self.again.front() {
            Some((due, _)) => next.min((*due).max(now)),
            None => next,
        }
    }

    /// The warm-up is over.
    fn begin_recording(&mut self) {
        let began = self.period.record_from;
        self.advance_outstanding(began);
        self.sample_began = began;
        self.second = Second::default();
        self.second_began = began;
        self.use_before = ThreadUse::now();
        self.second_use = self.use_before;
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
            Phase::Measuring => {
                self.end_period(turn.now(), turn.now().min(self.period.end));
            }
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
        if self.sample_began > Time::ZERO {
            self.records.thread_uses.push(ThreadUse::now().since(self.use_before));
            self.end_second(now);
        }
        if self.records.rates.is_empty() {
            self.records.rate(self.records.replies, self.records.elapsed());
        }
        self.abandon(self.records.ended);
        // What was not sent has been given up.
        self.tally().behind_ns.store(0, Relaxed);
        self.control.measured();
        self.sweep = 0;
        // Later than any reply is waited for, and any peer that does not close.
        let give_up = now + self.plan.timeout + self.share.limits.linger + Duration::from_secs(1);
        self.phase = Phase::Draining(give_up);
    }

    /// What was to be sent before the end, and found no connection with room, is given up.
    fn abandon(&mut self, ended: Time) {
        let Client { dispatch, control, records, intervals, period, .. } = self;
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
        if self.sample_began == Time::ZERO {
            return;
        }
        let span = now - self.sample_began;
        if span >= SAMPLE {
            self.records.rate(self.records.replies - self.sample_replies, span);
            self.sample_began = now;
            self.sample_replies = self.records.replies;
            self.tell_behind(now);
        }
        if now - self.second_began >= self.records.seconds.step() {
            self.end_second(now);
        }
    }

    fn end_second(&mut self, now: Time) {
        self.advance_outstanding(now);
        let span = now - self.second_began;
        if span.is_zero() {
            return;
        }
        let times = ThreadUse::times_now();
        let used = times.since(self.second_use);
        let second = std::mem::take(&mut self.second);
        self.records.seconds.push(Second {
            threads: 1,
            span_ns: span.as_nanos() as u64,
            running_ns: used.running.as_nanos() as u64,
            waiting_ns: used.waiting.as_nanos() as u64,
            polling_ns: used.polling.as_nanos() as u64,
            ..second
        });
        if self.behind(now) > verdict::BEHIND
            && used.busy().as_secs_f64() >= verdict::SATURATED * span.as_secs_f64()
        {
            self.records.saturated_seconds += 1;
        }
        self.second_began = now;
        self.second_use = times;
    }

    /// How late the oldest unsent request is.
    fn behind(&self, now: Time) -> Duration {
        let oldest = self.dispatch.as_ref().map_or(Time::MAX, |dispatch| dispatch.oldest());
        now.min(self.period.end) - oldest
    }

    fn tell_behind(&self, now: Time) {
        self.tally().behind_ns.store(self.behind(now).as_nanos() as u64, Relaxed);
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

    /// One pass over all connections for each eighth of the time-out, or of a connection's
    /// lifetime, is cheaper than a timer for each request, and late by an eighth at most.
    fn check_interval(&self) -> Duration {
        let shortest = match self.plan.lifetime {
            Some(Lifetime::Time(lifetime)) => self.plan.timeout.min(lifetime),
            _ => self.plan.timeout,
        };
        (shortest / 8).clamp(Duration::from_millis(10), Duration::from_millis(250))
    }

    /// Closes connections that owe a reply for too long, and wakes those whose life is over while
    /// they have nothing to do.
    fn close_late(&mut self, turn: &mut Turn<'_>) {
        let (now, timeout, pipeline) = (turn.now(), self.plan.timeout, self.plan.pipeline);
        for index in 0..self.flows.len() {
            let retires = self.retires(index, now);
            let flow = &mut self.flows[index];
            if flow.state != State::Open {
                continue;
            }
            if flow.outstanding() == 0 {
                let owes_its_end = self.plan.server_closes && flow.completed > 0;
                if owes_its_end && now - self.places[index].room_since > timeout {
                    flow.state = State::Lost(Loss::TimedOut);
                    turn.close(flow.id.expect("it is open"));
                } else if !owes_its_end && retires {
                    turn.wake(flow.id.expect("it is open"));
                }
                continue;
            }
            let oldest = slot(index, flow.completed, pipeline);
            let sent = self.sent_at.get(oldest).filter(|sent| **sent > Time::ZERO);
            if now - *sent.unwrap_or(&self.intended_at[oldest]) > timeout {
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
