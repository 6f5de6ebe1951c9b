//! One connection: what it sends, and how received bytes are processed.

use echopool::service::{Answer, Connection};
use echopool::time::Time;

use super::Client;
use crate::exec::client::conversation::{ConnectionState, Conversation};
use crate::exec::lifecycle::{Lifecycle, Phase};
use crate::stats::loss::{Loss, Mismatch};
use crate::stats::parts::RoundTrip;
use crate::stats::records::GivenUp;
use crate::stats::tally;

impl Client {
    /// Begins the requests that may be begun, puts them on the output, and closes when all is done.
    #[inline]
    pub(super) fn resume(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        // Read again, so that the time for verification is added neither to the last request nor to
        // the next.
        let now = (self.clock)();
        if self.lifecycle.phase == Phase::Measuring {
            match self.lifecycle.dispatch {
                None => self.begin_requests(index, now),
                Some(_) => self.take_offered(index, now),
            }
        }
        self.put_output(connection, index, now);
        let draining = matches!(self.lifecycle.phase, Phase::Draining(_));
        let retires = self.retires(index, now);
        let conversation = &mut self.conversations[index];
        let done = conversation.outstanding() == 0
            && match self.lifecycle.plan.server_closes {
                // After a reply, the server has to close.
                true => draining && conversation.begun == 0,
                false => draining || retires,
            };
        if done && conversation.state == ConnectionState::Open {
            conversation.state = ConnectionState::Closing;
            if let Some(info) = connection.tcp_info() {
                self.lifecycle.records.tcp.record(&info);
            }
            return self.begin_close(connection, index);
        }
        match conversation.state {
            ConnectionState::Closing => self.go_on_closing(connection, index),
            _ => Answer::Continue,
        }
    }

    /// Begins to close a connection that has received everything.
    ///
    /// Bytes that arrive after that are too many. Over TLS, the end of the stream is bytes too, and
    /// only decrypted ones show the difference. So the connection is read until the server has
    /// closed its side, or the linger time is over.
    fn begin_close(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        if self.lifecycle.plan.tls.is_none() {
            return Answer::CloseAfterSend;
        }
        let until = connection.now() + self.lifecycle.share.limits.linger;
        self.places[index].retire_at = until;
        connection.set_timer(until);
        Answer::HalfClose
    }

    /// What to do with a connection that is closing, in another call for it.
    pub(super) fn go_on_closing(&self, connection: &Connection<'_>, index: usize) -> Answer {
        match self.lifecycle.plan.tls {
            None => Answer::CloseAfterSend,
            Some(_) if connection.now() >= self.places[index].retire_at => Answer::Close,
            Some(_) => Answer::Continue,
        }
    }

    /// Closed loop: begins one request for each reply.
    #[inline]
    fn begin_requests(&mut self, index: usize, now: Time) {
        let end = self.lifecycle.period.end;
        while self.has_room(index, now)
            && (now < end || self.conversations[index].begun == 0)
            && self.may_begin(now)
        {
            self.second.sent();
            self.begin(index, now, now);
        }
    }

    /// Open loop: takes waiting requests for this connection, unless another connection has waited
    /// longer.
    #[inline]
    fn take_offered(&mut self, index: usize, now: Time) {
        self.lifecycle.at_work(now);
        let last = self.lifecycle.period.last();
        while self.has_room(index, now) {
            let dispatch = self.lifecycle.dispatch.as_mut().expect("an open loop");
            if dispatch.others_wait() {
                return dispatch.room(index);
            }
            let Some(intended) = dispatch.take(index, now.min(last)) else {
                return dispatch.room(index);
            };
            self.begin(index, intended, now);
        }
    }

    #[inline]
    pub(super) fn has_room(&self, index: usize, now: Time) -> bool {
        let conversation = &self.conversations[index];
        conversation.state == ConnectionState::Open
            && conversation.outstanding() < self.lifecycle.plan.pipeline
            // However short its lifetime is, a connection may have one request.
            && (conversation.begun == 0 || !self.retires(index, now))
    }

    /// Closed loop: acquires the right to begin a request. During the warm-up it is always granted.
    #[inline]
    fn may_begin(&self, intended: Time) -> bool {
        intended < self.lifecycle.period.record_from || self.lifecycle.control.take_request()
    }

    /// Begins a request with this intended time.
    #[inline(always)]
    pub(super) fn begin(&mut self, index: usize, intended: Time, now: Time) {
        self.second.begun(now);
        let conversation = &mut self.conversations[index];
        let slot = slot(index, conversation.begun, self.lifecycle.plan.pipeline);
        self.intended_at[slot] = intended;
        if let Some(sent_at) = self.sent_at.get_mut(slot) {
            *sent_at = Time::ZERO;
        }
        conversation.begin(&self.lifecycle.plan.wire);
        if intended >= self.lifecycle.period.record_from {
            self.lifecycle.records.offered += 1;
            self.lifecycle.records.requests += 1;
        } else {
            self.lifecycle.records.warmup_requests += 1;
        }
    }

    /// Puts the bytes of begun requests into leases, within the connection's window and the
    /// thread's budget.
    #[inline]
    pub(super) fn put_output(&mut self, connection: &mut Connection<'_>, index: usize, now: Time) {
        let Client {
            lifecycle, conversations, places, intended_at, sent_at, timing, second, ..
        } = self;
        let Lifecycle { plan, period, leases, stalls, records, intervals, .. } = lifecycle;
        let window = plan.output_window();
        let conversation = &mut conversations[index];
        loop {
            let count = conversation.unput().min(window - conversation.unsent) as usize;
            if count == 0 {
                return;
            }
            let Some(mut lease) = leases.take(connection) else { break };
            let spare = lease.spare_mut();
            let count = count.min(spare.len());
            conversation.fill(&plan.wire, &mut spare[..count], |request| {
                let slot = slot(index, request, plan.pipeline);
                // Present in an open loop only. In a closed loop the intended time is the time of
                // the send.
                let Some(sent_at) = sent_at.get_mut(slot) else { return };
                *sent_at = now;
                second.sent();
                let intended = intended_at[slot];
                let own_since = stalls.own_since(now, intended, places[index].room_since);
                if let Some(timing) = timing {
                    timing.own_lags[slot] = now - intended.max(own_since);
                }
                if intended >= period.record_from {
                    records.sent(now, intended, own_since);
                    intervals.sent(now, now - intended);
                }
            });
            lease.commit(count);
            leases.put(connection, lease, &mut conversation.held);
        }
        if !conversation.starved {
            conversation.starved = true;
            self.starved.push_back(index);
        }
    }

    /// The kernel has the output, or the connection is gone.
    #[inline]
    pub(super) fn forget_output(&mut self, index: usize) {
        let conversation = &mut self.conversations[index];
        self.lifecycle.leases.forget(&mut conversation.held);
        conversation.unsent = 0;
    }

    #[inline]
    pub(super) fn count_replies(&mut self, index: usize, now: Time, bytes: u64) {
        let in_period =
            self.lifecycle.phase == Phase::Measuring && self.lifecycle.period.contains(now);
        let pipeline = self.lifecycle.plan.pipeline;
        let conversation = &mut self.conversations[index];
        let (before, full) = (conversation.completed, conversation.outstanding() == pipeline);
        let target = self.lifecycle.target(index);
        while conversation.complete_one(&self.lifecycle.plan.wire) {
            let slot = slot(index, conversation.completed - 1, pipeline);
            let intended = self.intended_at[slot];
            let sent = self.sent_at.get(slot).copied();
            let service = now - sent.unwrap_or(intended);
            self.second.served(service);
            if intended < self.lifecycle.period.record_from {
                self.places[index].unrecorded += 1;
                continue;
            }
            self.lifecycle.records.reply(now, target, now - intended, in_period);
            if let (Some(timing), Some(parts)) = (&self.timing, &mut self.lifecycle.records.parts) {
                let (times, same_clock) = timing.of(conversation.completed - 1 - before);
                let own_lag = timing.own_lags.get(slot).copied().unwrap_or_default();
                let sent = sent.unwrap_or(intended);
                let told = timing.told();
                let trip = RoundTrip { intended, own_lag, sent, told, arrived: now };
                parts.record(&trip, &times, same_clock);
            }
            self.lifecycle.intervals.reply(now, now - intended, in_period);
            if sent.is_some() {
                self.lifecycle.records.service_time.saturating_record(service.as_nanos() as u64);
            }
        }
        let replies = conversation.completed - before;
        if full
            && replies > 0
            && (self.lifecycle.dispatch.is_some() || self.lifecycle.plan.server_closes)
        {
            self.places[index].room_since = now;
        }
        self.second.answered(now, replies);
        self.lifecycle.records.bytes_verified += bytes;
        if in_period {
            self.lifecycle.records.bytes += bytes;
            self.lifecycle.intervals.bytes(now, bytes);
        }
        tally::add(&self.lifecycle.tally().replies, replies);
    }

    /// The connection is gone: gives up its outstanding requests.
    pub(super) fn give_up(&mut self, index: usize, now: Time, timed_out: bool) {
        let Conversation { begun, completed, .. } = self.conversations[index];
        self.second.given_up(now, begun - completed);
        let target = Some(self.lifecycle.target(index));
        for request in completed..begun {
            let slot = slot(index, request, self.lifecycle.plan.pipeline);
            let intended = self.intended_at[slot];
            if intended < self.lifecycle.period.record_from {
                continue;
            }
            let sent = self.sent_at.get(slot).copied().unwrap_or(intended);
            let end = match sent {
                Time::ZERO => GivenUp::NeverSent,
                _ if timed_out && now - sent > self.lifecycle.plan.timeout => {
                    GivenUp::TimedOut { sent }
                }
                _ => GivenUp::Unanswered { sent },
            };
            self.lifecycle.records.give_up(now, target, intended, end);
            self.lifecycle.intervals.give_up(now, now - intended);
        }
    }

    /// Bytes arrived after the last reply, when they were no longer inspected.
    #[cold]
    pub(super) fn surplus(&mut self, index: usize) {
        let mismatch = self.conversations[index].surplus(&self.lifecycle.plan.wire);
        self.differs(index, mismatch);
    }

    #[cold]
    pub(super) fn differs(&mut self, index: usize, mismatch: Mismatch) -> Answer {
        self.lifecycle.differs(index, mismatch);
        self.conversations[index].state = ConnectionState::Lost(Loss::Mismatch);
        Answer::Close
    }
}

/// Index of the times of a connection's request.
#[inline]
pub(super) fn slot(index: usize, request: u64, pipeline: u64) -> usize {
    index * pipeline as usize + (request % pipeline) as usize
}
