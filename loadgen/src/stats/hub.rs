//! What a hub run counts beside its messages.

use std::time::Duration;

use echopool::time::Time;

use crate::exec::hub::senders::SentAt;
use crate::stats::records::Records;

/// What a hub run counts beside its messages.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HubRecords {
    /// Clients that never read.
    pub never_read: u64,
    /// Messages that clients received within the measured period, and after it.
    pub deliveries: u64,
    pub deliveries_late: u64,
    /// Messages that the hub said it dropped, and those that are missing without a word.
    pub dropped: u64,
    pub undelivered: u64,
    /// Messages whose sender may be without its own copy because the hub dropped it. They are among
    /// the unanswered.
    pub own_dropped: u64,
    /// Deliveries whose latency is only known to be at least what was recorded.
    pub beyond_ring: u64,
    /// Notices.
    pub joined: u64,
    pub left: u64,
}

impl HubRecords {
    pub fn plus(&self, other: &HubRecords) -> HubRecords {
        HubRecords {
            never_read: self.never_read + other.never_read,
            deliveries: self.deliveries + other.deliveries,
            deliveries_late: self.deliveries_late + other.deliveries_late,
            dropped: self.dropped + other.dropped,
            undelivered: self.undelivered + other.undelivered,
            own_dropped: self.own_dropped + other.own_dropped,
            beyond_ring: self.beyond_ring + other.beyond_ring,
            joined: self.joined + other.joined,
            left: self.left + other.left,
        }
    }

    /// Records one delivery. Answers its latency.
    #[inline]
    pub fn deliver(
        &mut self,
        records: &mut Records,
        size: u64,
        now: Time,
        sent: SentAt,
        in_period: bool,
    ) -> Duration {
        let (SentAt::Known(time) | SentAt::Before(time)) = sent;
        self.beyond_ring += u64::from(matches!(sent, SentAt::Before(_)));
        let latency = now - time;
        records.latency.saturating_record(latency.as_nanos() as u64);
        records.bytes_verified += size;
        if in_period {
            self.deliveries += 1;
            records.bytes += size;
        } else {
            self.deliveries_late += 1;
        }
        latency
    }
}
