//! One connection: what it sends, and what is made of what comes back.

use echopool::service::{Answer, Connection};
use echopool::time::Time;

use super::Client;
use crate::exec::client::conversation::{Flow, State};
use crate::exec::lifecycle::{Course, Phase};
use crate::stats::loss::{Loss, Mismatch};
use crate::stats::records::GivenUp;
use crate::stats::tally;

impl Client {
    /// Begins what may be begun, puts it on the output, and closes when all is done.
    #[inline]
    pub(super) fn go_on(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        // Read again: the time that verifying took is neither the last request's nor the next's.
        let now = (self.clock)();
        if self.course.phase == Phase::Measuring {
            match self.course.dispatch {
                None => self.begin_requests(index, now),
                Some(_) => self.take_offered(index, now),
            }
        }
        self.put_output(connection, index, now);
        let draining = matches!(self.course.phase, Phase::Draining(_));
        let retires = self.retires(index, now);
        let flow = &mut self.flows[index];
        let done = flow.outstanding() == 0
            && match self.course.plan.server_closes {
                // What has been answered is the server's to close.
                true => draining && flow.begun == 0,
                false => draining || retires,
            };
        if done && flow.state == State::Open {
            flow.state = State::Closing;
        }
        match flow.state {
            State::Closing => Answer::CloseAfterSend,
            _ => Answer::Continue,
        }
    }

    /// Closed loop: a request for each that has been answered.
    #[inline]
    fn begin_requests(&mut self, index: usize, now: Time) {
        let end = self.course.period.end;
        while self.has_room(index, now)
            && (now < end || self.flows[index].begun == 0)
            && self.may_begin(now)
        {
            self.second.sent();
            self.begin(index, now, now);
        }
    }

    /// Open loop: what waits for a connection goes over this one, if no other has been waiting for
    /// a request for longer.
    #[inline]
    fn take_offered(&mut self, index: usize, now: Time) {
        self.course.at_work(now);
        let last = self.course.period.last();
        while self.has_room(index, now) {
            let dispatch = self.course.dispatch.as_mut().expect("an open loop");
            if dispatch.others_wait() {
                return dispatch.room(index);
            }
            let Some(intended) = dispatch.take(index, now.min(last)) else {
                return dispatch.room(index);
            };
            if !self.may_begin(intended) {
                return;
            }
            self.begin(index, intended, now);
        }
    }

    #[inline]
    pub(super) fn has_room(&self, index: usize, now: Time) -> bool {
        let flow = &self.flows[index];
        flow.state == State::Open
            && flow.outstanding() < self.course.plan.pipeline
            && !self.retires(index, now)
    }

    /// The right to begin a request: while warming up there always is one.
    #[inline]
    pub(super) fn may_begin(&self, intended: Time) -> bool {
        intended < self.course.period.record_from || self.course.control.take_request()
    }

    /// Begins a request that was intended then.
    #[inline(always)]
    pub(super) fn begin(&mut self, index: usize, intended: Time, now: Time) {
        self.second.begun(now);
        let flow = &mut self.flows[index];
        let slot = slot(index, flow.begun, self.course.plan.pipeline);
        self.intended_at[slot] = intended;
        if let Some(sent_at) = self.sent_at.get_mut(slot) {
            *sent_at = Time::ZERO;
        }
        flow.begin(&self.course.plan.wire);
        if intended >= self.course.period.record_from {
            self.course.records.offered += 1;
            self.course.records.requests += 1;
        } else {
            self.course.records.warmup_requests += 1;
        }
    }

    /// Puts the bytes of begun requests into leases, as far as the connection's window and the
    /// thread's share of buffers go.
    #[inline]
    pub(super) fn put_output(&mut self, connection: &mut Connection<'_>, index: usize, now: Time) {
        let Client { course, flows, places, intended_at, sent_at, second, .. } = self;
        let Course { plan, period, leases, pauses, records, intervals, .. } = course;
        let window = plan.output_window();
        let flow = &mut flows[index];
        loop {
            let count = flow.unput().min(window - flow.unsent) as usize;
            if count == 0 {
                return;
            }
            let Some(mut lease) = leases.take(connection) else { break };
            let spare = lease.spare_mut();
            let count = count.min(spare.len());
            flow.fill(&plan.wire, &mut spare[..count], |request| {
                let slot = slot(index, request, plan.pipeline);
                // Only an open loop keeps it: in a closed one it is the intended time.
                let Some(sent_at) = sent_at.get_mut(slot) else { return };
                *sent_at = now;
                second.sent();
                let intended = intended_at[slot];
                let own_since = pauses.own_since(now, intended, places[index].room_since);
                if intended >= period.record_from {
                    records.sent(now, intended, own_since);
                    intervals.sent(now, now - intended);
                }
            });
            lease.commit(count);
            leases.put(connection, lease, &mut flow.held);
        }
        if !flow.starved {
            flow.starved = true;
            self.starved.push_back(index);
        }
    }

    /// The output is with the kernel, or gone with the connection.
    #[inline]
    pub(super) fn forget_output(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        self.course.leases.forget(&mut flow.held);
        flow.unsent = 0;
    }

    #[inline]
    pub(super) fn count_replies(&mut self, index: usize, now: Time, bytes: u64) {
        let in_period = self.course.phase == Phase::Measuring && self.course.period.contains(now);
        let pipeline = self.course.plan.pipeline;
        let flow = &mut self.flows[index];
        let (before, full) = (flow.completed, flow.outstanding() == pipeline);
        while flow.complete_one(&self.course.plan.wire) {
            let slot = slot(index, flow.completed - 1, pipeline);
            let intended = self.intended_at[slot];
            let sent = self.sent_at.get(slot).copied();
            let service = now - sent.unwrap_or(intended);
            self.second.served(service);
            if intended < self.course.period.record_from {
                self.places[index].unrecorded += 1;
                continue;
            }
            self.course.records.reply(now, now - intended, in_period);
            self.course.intervals.reply(now, now - intended, in_period);
            if sent.is_some() {
                self.course.records.service_time.saturating_record(service.as_nanos() as u64);
            }
        }
        let replies = flow.completed - before;
        if full && replies > 0 && (self.course.dispatch.is_some() || self.course.plan.server_closes)
        {
            self.places[index].room_since = now;
        }
        self.second.answered(now, replies);
        self.course.records.bytes_verified += bytes;
        if in_period {
            self.course.records.bytes += bytes;
            self.course.intervals.bytes(now, bytes);
        }
        tally::add(&self.course.tally().replies, replies);
    }

    /// The connection is gone: what it owed is given up.
    pub(super) fn give_up(&mut self, index: usize, now: Time, timed_out: bool) {
        let Flow { begun, completed, .. } = self.flows[index];
        self.second.given_up(now, begun - completed);
        for request in completed..begun {
            let slot = slot(index, request, self.course.plan.pipeline);
            let intended = self.intended_at[slot];
            if intended < self.course.period.record_from {
                continue;
            }
            let sent = self.sent_at.get(slot).copied().unwrap_or(intended);
            let end = match sent {
                Time::ZERO => GivenUp::NeverSent,
                _ if timed_out && now - sent > self.course.plan.timeout => {
                    GivenUp::TimedOut { sent }
                }
                _ => GivenUp::Unanswered { sent },
            };
            self.course.records.give_up(now, intended, end);
            self.course.intervals.give_up(now, now - intended);
        }
    }

    /// Bytes came after the last reply, when they were no longer looked at.
    #[cold]
    pub(super) fn surplus(&mut self, index: usize) {
        let mismatch = self.flows[index].surplus(&self.course.plan.wire);
        self.differs(index, mismatch);
    }

    #[cold]
    pub(super) fn differs(&mut self, index: usize, mismatch: Mismatch) -> Answer {
        self.course.differs(index, mismatch);
        self.flows[index].state = State::Lost(Loss::Mismatch);
        Answer::Close
    }
}

/// Where the times of a connection's request are kept.
#[inline]
pub(super) fn slot(index: usize, request: u64, pipeline: u64) -> usize {
    index * pipeline as usize + (request % pipeline) as usize
}
