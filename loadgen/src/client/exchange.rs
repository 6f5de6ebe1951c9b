//! One connection: what it sends, and what is made of what comes back.

use echopool::internals;
use echopool::service::{Answer, Connection};
use echopool::time::Time;

use super::{Client, Phase};
use crate::control;
use crate::flow::{Loss, Mismatch, State};

impl Client {
    /// Begins what may be begun, puts it on the output, and closes when all is done.
    #[inline]
    pub(super) fn go_on(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        // Read again: the time that verifying took is neither the last request's nor the next's.
        let now = internals::now();
        if let Phase::Measuring(end) = self.phase {
            self.begin_requests(index, now, end);
        }
        self.put_output(connection, index);
        let draining = matches!(self.phase, Phase::Draining(_));
        let flow = &mut self.flows[index];
        if draining && flow.state == State::Open && flow.outstanding() == 0 {
            flow.state = State::Closing;
        }
        match flow.state {
            State::Closing => Answer::CloseAfterSend,
            _ => Answer::Continue,
        }
    }

    #[inline]
    fn begin_requests(&mut self, index: usize, now: Time, end: Time) {
        let pipeline = self.plan.pipeline;
        let flow = &mut self.flows[index];
        while flow.outstanding() < pipeline
            && (now < end || flow.begun == 0)
            && self.control.take_request()
        {
            self.begun_at[slot(index, flow.begun, pipeline)] = now;
            flow.begin(&self.plan.wire);
            self.outstanding += 1;
        }
    }

    /// Puts the bytes of begun requests into leases, as far as the connection's window and the
    /// thread's share of buffers go.
    #[inline]
    pub(super) fn put_output(&mut self, connection: &mut Connection<'_>, index: usize) {
        let window = self.plan.output_window();
        let leases_max = self.share.output_leases_max();
        let flow = &mut self.flows[index];
        loop {
            let count = flow.unput().min(window - flow.unsent) as usize;
            if count == 0 {
                return;
            }
            let lease = (self.output_leases < leases_max).then(|| connection.take_lease());
            let Some(mut lease) = lease.flatten() else { break };
            let spare = lease.spare_mut();
            let count = count.min(spare.len());
            flow.fill(&self.plan.wire, &mut spare[..count], |_| ());
            lease.commit(count);
            connection.output.push_back(lease);
            flow.held += 1;
            self.output_leases += 1;
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
        self.output_leases -= flow.held;
        flow.held = 0;
        flow.unsent = 0;
    }

    #[inline]
    pub(super) fn count_replies(&mut self, index: usize, now: Time, bytes: u64) {
        let in_period = matches!(self.phase, Phase::Measuring(end) if now < end);
        let pipeline = self.plan.pipeline;
        let flow = &mut self.flows[index];
        let before = flow.completed;
        while flow.complete_one(&self.plan.wire) {
            let begun_at = self.begun_at[slot(index, flow.completed - 1, pipeline)];
            self.records.reply(now, now - begun_at, in_period);
            self.intervals.reply(now, now - begun_at, in_period);
        }
        let replies = flow.completed - before;
        self.outstanding -= replies;
        self.records.bytes_verified += bytes;
        if in_period {
            self.records.bytes += bytes;
            self.intervals.bytes(now, bytes);
        }
        control::add(&self.tally().replies, replies);
    }

    /// Bytes came after the last reply, when they were no longer looked at.
    #[cold]
    pub(super) fn surplus(&mut self, index: usize) {
        let mismatch = self.flows[index].surplus(&self.plan.wire);
        self.differs(index, mismatch);
    }

    #[cold]
    pub(super) fn differs(&mut self, index: usize, mut mismatch: Mismatch) -> Answer {
        mismatch.connection = self.share.first_connection + index as u64;
        self.records.mismatch(mismatch);
        self.flows[index].state = State::Lost(Loss::Mismatch);
        control::add(&self.tally().mismatches, 1);
        Answer::Close
    }
}

/// Where the time of a connection's request is kept.
#[inline]
pub(super) fn slot(index: usize, request: u64, pipeline: u64) -> usize {
    index * pipeline as usize + (request % pipeline) as usize
}
