//! The phases of a run over UDP, from the first datagram to the last reply.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use echopool::time::Time;

use super::{Datagrams, Net};
use crate::exec::client::backlog::Windows;
use crate::exec::lifecycle::{PER_TURN, Phase, TICK};
use crate::stats::cpu::SATURATED;
use crate::stats::tally::BEHIND;

/// How long replies are read after every datagram has had its end: for those that come twice.
const AFTERWARDS: Duration = Duration::from_millis(200);
/// How long an interrupted run waits for replies.
const INTERRUPTED_WAIT: Duration = Duration::from_secs(1);

impl<N: Net> Datagrams<N> {
    /// Does what is due. Returns when to be called next, at the latest; `None` at the end.
    pub(super) fn step(&mut self, now: Time) -> Option<Time> {
        if self.lifecycle.control.stopped() {
            match self.lifecycle.phase {
                Phase::Connecting | Phase::Ready => return None,
                Phase::Measuring => self.end_period(now, now.min(self.lifecycle.period.end)),
                Phase::Draining(give_up) => {
                    let soon = now + self.lifecycle.plan.timeout.min(INTERRUPTED_WAIT);
                    self.lifecycle.phase = Phase::Draining(give_up.min(soon));
                }
            }
        }
        match self.lifecycle.phase {
            Phase::Connecting | Phase::Ready => Some(self.start(now)),
            Phase::Measuring => {
                self.lifecycle.at_work(now);
                let next = self.measure(now);
                self.lifecycle.stalls.idle_until(next, now);
                Some(next)
            }
            Phase::Draining(give_up) => self.drain(now, give_up),
        }
    }

    fn start(&mut self, now: Time) -> Time {
        let start = match self.lifecycle.begin_period(now) {
            Ok(start) => start,
            Err(later) => return later,
        };
        self.second.begin_counting(start);
        self.windows = Windows::of(self.lifecycle.period);
        if let Some(dispatch) = &mut self.lifecycle.dispatch {
            (0..self.clients.len()).for_each(|index| dispatch.room(index));
        }
        now
    }

    fn measure(&mut self, now: Time) -> Time {
        if self.lifecycle.begin_samples(now) {
            let used = self.lifecycle.samples.used_before();
            self.second.begin(self.lifecycle.period.record_from, used);
        }
        let sent_all = match self.lifecycle.dispatch {
            None => self.begin_each(now),
            Some(_) => self.dispatch_due(now),
        };
        self.expire(now);
        self.sample(now);
        self.lifecycle.intervals.tick(now);
        let all_ended = self.second.outstanding() == 0
            && self.lifecycle.all_is_begun(now, |index| index >= self.clients.len());
        if self.clients.is_empty() {
            self.end_period(now, now.min(self.lifecycle.period.end));
        } else if sent_all && all_ended {
            let last_end = self.lifecycle.records.last_end;
            self.end_period(now, last_end.max(self.lifecycle.period.until));
        } else if sent_all && now >= self.lifecycle.period.end {
            self.end_period(now, self.lifecycle.period.end);
        } else if sent_all {
            return self.lifecycle.next_due(now).min(now + TICK).min(self.next_expiry);
        }
        now
    }

    /// Closed loop: each socket begins once. After that, each reply and each loss lets it go on.
    fn begin_each(&mut self, now: Time) -> bool {
        if !self.have_begun {
            self.have_begun = true;
            (0..self.clients.len()).for_each(|index| self.resume(index, now));
        }
        true
    }

    /// Open loop: sends what is due over sockets that have room. Returns whether none is left;
    /// otherwise replies are read before it goes on.
    fn dispatch_due(&mut self, now: Time) -> bool {
        let due_until = now.min(self.lifecycle.period.last());
        for _ in 0..PER_TURN {
            let dispatch = self.lifecycle.dispatch.as_mut().expect("an open loop");
            let Some(index) = dispatch.due_connection(due_until) else { return true };
            if self.has_room(index) {
                let dispatch = self.lifecycle.dispatch.as_mut().expect("an open loop");
                let intended = dispatch.take(index, due_until).expect("it is due");
                self.begin(index, intended);
                self.resume(index, now);
            }
        }
        false
    }

    /// Gives up the datagrams whose time-out is over. Their sockets go on.
    fn expire(&mut self, now: Time) {
        if now < self.next_expiry {
            return;
        }
        let timeout = self.lifecycle.plan.timeout;
        let interval = timeout / 8;
        let (least, most) = (Duration::from_millis(1), Duration::from_millis(100));
        self.next_expiry = now + interval.clamp(least, most);
        for index in 0..self.clients.len() {
            let mut has_lost = false;
            while let Some((number, at)) = self.oldest(index)
                && self.looked_at - at > timeout
            {
                self.lose(index, number, now);
                has_lost = true;
            }
            if has_lost {
                self.resume(index, now);
            }
        }
    }

    /// Waits until each datagram has had its end, and a moment longer.
    fn drain(&mut self, now: Time, give_up: Time) -> Option<Time> {
        self.expire(now);
        if self.second.outstanding() > 0 && now >= give_up {
            for index in 0..self.clients.len() {
                while let Some((number, _)) = self.oldest(index) {
                    self.leave(index, number, now);
                }
            }
        }
        if self.second.outstanding() > 0 {
            return Some(self.next_expiry.min(give_up));
        }
        let until = *self.over_at.get_or_insert(now) + AFTERWARDS;
        (now < until).then_some(until)
    }

    fn end_period(&mut self, now: Time, ended: Time) {
        self.windows.pass(ended, || self.second.take_lowest());
        let lowest = self.second.take_lowest();
        self.lifecycle.records.backlog = self.windows.end(ended, self.lifecycle.period, lowest);
        self.lifecycle.end_period(ended);
        if self.lifecycle.samples.have_begun() {
            self.end_second(now);
        }
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
        let is_saturated = used.busy().as_secs_f64() >= SATURATED * span.as_secs_f64();
        if self.behind(now) > BEHIND && is_saturated {
            let records = &mut self.lifecycle.records;
            records.saturated_seconds += records.seconds.step().as_secs();
        }
    }

    /// How late the oldest unsent request is.
    fn behind(&self, now: Time) -> Duration {
        let dispatch = self.lifecycle.dispatch.as_ref();
        let oldest = dispatch.map_or(Time::MAX, |dispatch| dispatch.oldest());
        now.min(self.lifecycle.period.end) - oldest
    }
}
