//! The connection of one member: the messages it sends, the processing of what it receives, and its
//! farewell.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use echopool::buffer::Lease;
use echopool::internals;
use echopool::service::{Answer, Connection};
use echopool::time::Time;

use super::Members;
use super::member::News;
use crate::exec::client::conversation::ConnectionState;
use crate::exec::lifecycle::{Lifecycle, Phase};
use crate::stats::hub::{HubRecords, SentAt};
use crate::stats::loss::{Loss, Mismatch};
use crate::stats::records::Records;
use crate::stats::tally;
use crate::traffic::hub_frames::{self as frames, Stamp};

impl Members {
    /// Does the pending work of a member that reads.
    #[inline]
    pub(super) fn resume(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        match self.lifecycle.phase {
            Phase::Measuring => self.send_messages(connection, index),
            Phase::Draining(_) => self.take_leave(connection, index),
            Phase::Connecting | Phase::Ready => {}
        }
        match self.members[index].state {
            ConnectionState::Closing => Answer::CloseAfterSend,
            _ => Answer::Continue,
        }
    }

    /// Sends as many messages as the sender may have outstanding.
    #[inline]
    fn send_messages(&mut self, connection: &mut Connection<'_>, index: usize) {
        let Some(sender) = self.members[index].sender else { return };
        let shared = self.shared.clone();
        while self.has_room(index, sender) {
            let now = internals::now();
            let number = shared.senders[sender as usize].begun();
            // The buffer is acquired first, because a begun message must be sent.
            let Some(mut lease) = self.take_lease(connection) else { return };
            let Some(intended) = self.next_message(index, sender, now) else { return };
            if self.lifecycle.dispatch.is_none() && !self.lifecycle.control.take_request() {
                return;
            }
            shared.senders[sender as usize].begin(intended, now);
            self.lifecycle.records.offered += 1;
            self.lifecycle.records.requests += 1;
            if self.lifecycle.dispatch.is_some() {
                self.lifecycle.at_work(now);
                let Lifecycle { stalls, records, .. } = &mut self.lifecycle;
                let room_since = self.members[index].room_since;
                records.sent(now, intended, stalls.own_since(now, intended, room_since));
            }
            shared.write(Stamp { sender, number }, &mut lease);
            self.put(connection, index, lease);
        }
    }

    /// The intended time of the sender's next message, if one is due: now in a closed loop,
    /// otherwise as scheduled.
    #[inline]
    fn next_message(&mut self, index: usize, sender: u32, now: Time) -> Option<Time> {
        let Lifecycle { dispatch, period, .. } = &mut self.lifecycle;
        let Some(dispatch) = dispatch else {
            let first = self.shared.senders[sender as usize].begun() == 0;
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
        let due = self.next[index * self.shared.senders.len() + sender as usize];
        let due = due.max(self.members[index].released);
        let begun = self.shared.senders[sender as usize].begun();
        self.members[index].state == ConnectionState::Open
            && begun.saturating_sub(due) < self.lifecycle.plan.pipeline
    }

    /// Sends the farewell when everything has arrived, and closes when the farewell has come back.
    fn take_leave(&mut self, connection: &mut Connection<'_>, index: usize) {
        let everything_is_sent = self.lifecycle.control.all_measured();
        let begun = self.shared.begun();
        let member = &self.members[index];
        if member.farewell_came {
            self.members[index].state = ConnectionState::Closing;
        } else if everything_is_sent && !member.farewell_sent && member.missing(begun) == 0 {
            let frame = frames::farewell(member.id, self.shared.order);
            let Some(mut lease) = self.take_lease(connection) else { return };
            lease.extend_from_slice(&frame);
            self.members[index].farewell_sent = true;
            self.put(connection, index, lease);
        }
    }

    /// A buffer for output, if the thread has one left. Otherwise the member is retried soon.
    fn take_lease(&mut self, connection: &mut Connection<'_>) -> Option<Lease> {
        let lease = self.lifecycle.leases.take(connection);
        self.starved |= lease.is_none();
        lease
    }

    fn put(&mut self, connection: &mut Connection<'_>, index: usize, lease: Lease) {
        self.lifecycle.leases.put(connection, lease, &mut self.members[index].held);
    }

    /// The kernel has the output, or the connection is gone.
    pub(super) fn forget_output(&mut self, index: usize) {
        self.lifecycle.leases.forget(&mut self.members[index].held);
    }

    /// Verifies and records what a member has received.
    #[inline]
    pub(super) fn receive(
        &mut self,
        connection: &Connection<'_>,
        index: usize,
    ) -> Result<(), Box<Mismatch>> {
        let now = connection.now();
        let in_period = match self.lifecycle.phase {
            Phase::Measuring => now < self.lifecycle.period.end,
            // Another thread has already begun.
            Phase::Ready => true,
            Phase::Connecting | Phase::Draining(_) => false,
        };
        let Members { lifecycle, members, next, shared, counts, accounted, .. } = self;
        let Lifecycle { records, intervals, .. } = lifecycle;
        let member = &mut members[index];
        let next = &mut next[index * shared.senders.len()..][..shared.senders.len()];
        let own = member.sender;
        let (mut own_copies, mut welcomed) = (0, 0);
        let mut checked = Ok(());
        for slice in connection.input.slices() {
            checked = member.receive(shared, next, slice, |news| match news {
                News::Welcome => welcomed += 1,
                News::Dropped(count) => {
                    counts.dropped += count;
                    *accounted += count;
                }
                News::Delivered(stamp) => {
                    *accounted += 1;
                    let sent = shared.senders[stamp.sender as usize].sent_at(stamp.number);
                    let latency = deliver(counts, records, shared.size, now, sent, in_period);
                    intervals.reply(now, latency, in_period);
                    if in_period {
                        intervals.bytes(now, shared.size);
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
        let records = &mut self.lifecycle.records;
        match in_period {
            true => records.replies += count,
            false => records.replies_late += count,
        }
        records.last_end = now;
        tally::add(&self.lifecycle.tally().replies, count);
    }

    #[cold]
    pub(super) fn differs(&mut self, index: usize, mismatch: Mismatch) -> Answer {
        self.lifecycle.differs(index, mismatch);
        self.members[index].state = ConnectionState::Lost(Loss::Mismatch);
        Answer::Close
    }

    /// Removes an open member from the counts.
    pub(super) fn leave(&mut self, index: usize, lost: bool) {
        let begun = self.shared.begun();
        let member = &mut self.members[index];
        member.connection = None;
        self.lifecycle.closed();
        if !member.reads {
            return;
        }
        self.readers -= 1;
        self.shared.readers.fetch_sub(1, Relaxed);
        self.accounted -= member.received + member.dropped;
        self.unwelcomed -= usize::from(member.id == 0);
        self.counts.joined += member.joined;
        self.counts.left += member.left;
        self.counts.undelivered += member.missing(begun);
        if let Some(sender) = member.sender {
            let begun = self.shared.senders[sender as usize].begun();
            let unanswered = begun - member.own_received;
            self.lifecycle.records.unanswered += unanswered;
            self.counts.own_dropped += unanswered.min(member.dropped);
            if lost {
                // A sender may stop long before the end.
                self.shared.senders[sender as usize].mark_lost();
            }
        }
    }
}

/// Records one delivery, and returns its latency.
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
    let latency = now - time;
    if let SentAt::Before(_) = sent {
        counts.beyond_ring += 1;
        records.at_least(None, latency, 1);
    } else {
        records.latency.saturating_record(latency.as_nanos() as u64);
    }
    records.bytes_verified += size;
    if in_period {
        counts.deliveries += 1;
        records.bytes += size;
    } else {
        counts.deliveries_late += 1;
    }
    latency
}
