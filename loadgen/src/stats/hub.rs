//! Counts of a hub run in addition to its messages.

use echopool::time::Time;

/// Counts of a hub run in addition to its messages.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HubRecords {
    /// Clients that never read.
    pub never_read: u64,
    /// Messages that clients received within the measured period, and after it.
    pub deliveries: u64,
    pub deliveries_late: u64,
    /// Messages that the hub reported as dropped, and messages that are missing without a report.
    pub dropped: u64,
    pub undelivered: u64,
    /// Messages whose sender may not have received its own copy because the hub dropped it. They
    /// are among the unanswered ones.
    pub own_dropped: u64,
    /// Deliveries for which only a lower bound of the latency is known, which was recorded.
    pub beyond_ring: u64,
    /// Notices of clients that joined, and of clients that left.
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
}

/// When a message was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SentAt {
    Known(Time),
    /// Its slot was reused: the message was sent before this time.
    Before(Time),
}
