//! One member's connection: the messages it sends, what comes of what it receives, and its leave.

use std::time::Duration;

use echopool::buffer::Lease;
use echopool::internals;
use echopool::service::{Answer, Connection};
use echopool::time::Time;

use super::Members;
use super::member::News;
use crate::exec::client::conversation::State;
use crate::exec::lifecycle::{Course, Phase};
use crate::stats::hub::{HubRecords, SentAt};
use crate::stats::loss::{Loss, Mismatch};
use crate::stats::records::Records;
use crate::stats::tally;
use crate::traffic::hub_frames::{self as frames, Stamp};

impl Members {
    /// Does what there is to do for a member that reads.
    #[inline]
    pub(super) fn go_on(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        match self.course.phase {
            Phase::Measuring => self.send_messages(connection, index),
            Phase::Draining(_) => self.take_leave(connection, index),
            Phase::Connecting | Phase::Ready => {}
        }
        match self.members[index].state {
            State::Closing => Answer::CloseAfterSend,
            _ => Answer::Continue,
        }
    }

    /// Sends as many messages as the sender may have under way.
    #[inline]
    fn send_messages(&mut self, connection: &mut Connection<'_>, index: usize) {
        let Some(sender) = self.members[index].sender else { return };
        let hall = self.hall.clone();
        while self.has_room(index, sender) {
            let now = internals::now();
            let number = hall.senders[sender as usize].begun();
            // A buffer comes first: a message whose time runs is on its way.
            let Some(mut lease) = self.take_lease(connection) else { return };
            let Some(intended) = self.next_message(index, sender, now) else { return };
            if !self.course.control.take_request() {
                return;
            }
            hall.senders[sender as usize].begin(intended);
            self.course.records.offered += 1;
            self.course.records.requests += 1;
            if self.course.dispatch.is_some() {
                self.course.at_work(now);
                let Course { pauses, records, .. } = &mut self.course;
                let room_since = self.members[index].room_since;
                records.sent(now, intended, pauses.own_since(now, intended, room_since));
            }
            hall.write(Stamp { sender, number }, &mut lease);
            self.put(connection, index, lease);
        }
    }

    /// The intended time of the sender's next message, if there is one by now: at once in a closed
    /// loop, else when the schedule says so.
    #[inline]
    fn next_message(&mut self, index: usize, sender: u32, now: Time) -> Option<Time> {
        let Course { dispatch, period, .. } = &mut self.course;
        let Some(dispatch) = dispatch else {
            let first = self.hall.senders[sender as usize].begun() == 0;
            return (now < period.end || first).then_some(now);
        };
        if let Some(intended) = self.members[index].offered.take() {
            return Some(intended);
        }
        let nth = self.members[index].sender_nth;
        let until = now.min(period.last());
        let due = if dispatch.others_wait() { None } else { dispatch.take(nth, until) };
        if due.is_none() {
            dispatch.room(nth);
        }
        due
    }

    /// Whether this sender may send another message.
    #[inline]
    pub(super) fn has_room(&self, index: usize, sender: u32) -> bool {
        let due = self.next[index * self.hall.senders.len() + sender as usize];
        let due = due.max(self.members[index].released);
        let begun = self.hall.senders[sender as usize].begun();
        self.members[index].state == State::Open
            && begun.saturating_sub(due) < self.course.plan.pipeline
    }

    /// Sends the farewell when everything is there, and closes when that has come back.
    fn take_leave(&mut self, connection: &mut Connection<'_>, index: usize) {
        let everything_is_sent = self.course.control.all_measured();
        let begun = self.hall.begun();
        let member = &self.members[index];
        if member.farewell_came {
            self.members[index].state = State::Closing;
        } else if everything_is_sent && !member.farewell_sent && member.missing(begun) == 0 {
            let frame = frames::farewell(member.id, self.hall.order);
            let Some(mut lease) = self.take_lease(connection) else { return };
            lease.extend_from_slice(&frame);
            self.members[index].farewell_sent = true;
            self.put(connection, index, lease);
        }
    }

    /// A buffer for output, if this thread has one left; otherwise the member is looked at again
    /// soon.
    fn take_lease(&mut self, connection: &mut Connection<'_>) -> Option<Lease> {
        let lease = self.course.leases.take(connection);
        self.starved |= lease.is_none();
        lease
    }

    fn put(&mut self, connection: &mut Connection<'_>, index: usize, lease: Lease) {
        self.course.leases.put(connection, lease, &mut self.members[index].held);
    }

    /// The output is with the kernel, or gone with the connection.
    pub(super) fn forget_output(&mut self, index: usize) {
        self.course.leases.forget(&mut self.members[index].held);
    }

    /// Checks what has come for a member, and records it.
    #[inline]
    pub(super) fn receive(
        &mut self,
        connection: &Connection<'_>,
        index: usize,
    ) -> Result<(), Box<Mismatch>> {
        let now = connection.now();
        let in_period = match self.course.phase {
            Phase::Measuring => now < self.course.period.end,
            // Another thread has begun already.
            Phase::Ready => true,
            Phase::Connecting | Phase::Draining(_) => false,
        };
        let Members { course, members, next, hall, outcome, accounted, .. } = self;
        let Course { records, intervals, .. } = course;
        let member = &mut members[index];
        let next = &mut next[index * hall.senders.len()..][..hall.senders.len()];
        let own = member.sender;
        let (mut own_copies, mut welcomed) = (0, 0);
        let mut checked = Ok(());
        for slice in connection.input.slices() {
            checked = member.receive(hall, next, slice, |news| match news {
                News::Welcome => welcomed += 1,
                News::Dropped(count) => {
                    outcome.dropped += count;
                    *accounted += count;
                }
                News::Delivered(stamp) => {
                    *accounted += 1;
                    let sent = hall.senders[stamp.sender as usize].sent_at(stamp.number);
                    let latency = deliver(outcome, records, hall.size, now, sent, in_period);
                    intervals.reply(now, latency, in_period);
                    if in_period {
                        intervals.bytes(now, hall.size);
                    }
                    own_copies += u64::from(Some(stamp.sender) == own);
                }
            });
            if checked.is_err() {
                break;
            }
        }
        self.unwelcomed -= welcomed;
        if own_copies > 0 {
            self.members[index].room_since = now;
            self.members[index].own_received += own_copies;
            self.count_own_copies(now, own_copies, in_period);
        }
        self.last_delivery = now;
        checked
    }

    #[inline]
    fn count_own_copies(&mut self, now: Time, count: u64, in_period: bool) {
        let records = &mut self.course.records;
        match in_period {
            true => records.replies += count,
            false => records.replies_late += count,
        }
        records.last_reply = now;
        tally::add(&self.course.tally().replies, count);
    }

    #[cold]
    pub(super) fn differs(&mut self, index: usize, mismatch: Mismatch) -> Answer {
        self.course.differs(index, mismatch);
        self.members[index].state = State::Lost(Loss::Mismatch);
        Answer::Close
    }

    /// What is said of an open member is not true of it any more.
    pub(super) fn leave(&mut self, index: usize, lost: bool) {
        let begun = self.hall.begun();
        let member = &mut self.members[index];
        member.connection = None;
        self.course.closed();
        if !member.reads {
            return;
        }
        self.readers -= 1;
        self.accounted -= member.received + member.dropped;
        self.unwelcomed -= usize::from(member.id == 0);
        self.outcome.joined += member.joined;
        self.outcome.left += member.left;
        self.outcome.undelivered += member.missing(begun);
        if let Some(sender) = member.sender {
            let begun = self.hall.senders[sender as usize].begun();
            let unanswered = begun - member.own_received;
            self.course.records.unanswered += unanswered;
            self.outcome.own_dropped += unanswered.min(member.dropped);
            if lost {
                // It may be sending no more long before the end.
                self.hall.senders[sender as usize].lose();
            }
        }
    }
}

/// Records one delivery. Answers its latency.
#[inline]
fn deliver(
    counts: &mut HubRecords,
    records: &mut Records,
    size: u64,
    now: Time,
    sent: SentAt,
    in_period: bool,
) -> Duration {
    let (SentAt::Known(time) | SentAt::Before(time)) = sent;
    counts.beyond_ring += u64::from(matches!(sent, SentAt::Before(_)));
    let latency = now - time;
    records.latency.saturating_record(latency.as_nanos() as u64);
    records.bytes_verified += size;
    if in_period {
        counts.deliveries += 1;
        records.bytes += size;
    } else {
        counts.deliveries_late += 1;
    }
    latency
}
