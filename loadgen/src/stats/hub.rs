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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_is_added_to_its_own() {
        let of = |first| HubRecords {
            never_read: first,
            deliveries: first + 1,
            deliveries_late: first + 2,
            dropped: first + 3,
            undelivered: first + 4,
            own_dropped: first + 5,
            beyond_ring: first + 6,
            joined: first + 7,
            left: first + 8,
        };
        let sum = HubRecords {
            never_read: 1_010,
            deliveries: 1_012,
            deliveries_late: 1_014,
            dropped: 1_016,
            undelivered: 1_018,
            own_dropped: 1_020,
            beyond_ring: 1_022,
            joined: 1_024,
            left: 1_026,
        };
        assert_eq!(of(10).plus(&of(1_000)), sum);
    }
}
