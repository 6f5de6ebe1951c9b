//! Counts of a run over UDP in addition to its requests.

/// What became of the datagrams of a run, and how evenly their replies came.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DatagramRecords {
    /// Datagrams sent, with those of the warm-up.
    pub sent: u64,
    /// Datagrams without a reply within the time-out, with those of the warm-up.
    pub lost: u64,
    /// Replies that came after the time-out. Their datagrams are among the lost ones.
    pub late: u64,
    /// Further replies to a datagram that had one.
    pub duplicated: u64,
    /// Replies that came after the reply to a later datagram of the same socket.
    pub out_of_order: u64,
    /// Replies whose bytes differ, which are longer, or which belong to no datagram of the run.
    pub corrupted: u64,
    /// Replies that are shorter than their datagram, and right as far as they go.
    pub truncated: u64,
    /// Times that a socket reported an error, such as that no server has the port.
    pub errors: u64,
    /// The sum over the sockets of the jitter at the end, its largest value, in nanoseconds, and the
    /// sockets that had two replies.
    pub jitter_sum_ns: u64,
    pub jitter_max_ns: u64,
    pub jitter_sockets: u64,
}

impl DatagramRecords {
    /// Adds those of another thread.
    pub fn plus(&self, other: &DatagramRecords) -> DatagramRecords {
        DatagramRecords {
            sent: self.sent + other.sent,
            lost: self.lost + other.lost,
            late: self.late + other.late,
            duplicated: self.duplicated + other.duplicated,
            out_of_order: self.out_of_order + other.out_of_order,
            corrupted: self.corrupted + other.corrupted,
            truncated: self.truncated + other.truncated,
            errors: self.errors + other.errors,
            jitter_sum_ns: self.jitter_sum_ns + other.jitter_sum_ns,
            jitter_max_ns: self.jitter_max_ns.max(other.jitter_max_ns),
            jitter_sockets: self.jitter_sockets + other.jitter_sockets,
        }
    }

    /// The part of the datagrams that were lost, from 0 to 1.
    pub fn lost_ratio(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    /// The mean over the sockets of the jitter, in nanoseconds.
    pub fn jitter_ns(&self) -> u64 {
        self.jitter_sum_ns / self.jitter_sockets.max(1)
    }
}

/// The jitter of the replies to one socket: the estimator of RFC 3550, section 6.4.1. The transit
/// time is here that of the way there and back.
#[derive(Clone, Copy, Default, Debug)]
pub struct Jitter {
    last_ns: Option<u64>,
    /// Sixteen times the jitter, so that nothing is lost by rounding. `None` before two replies.
    scaled: Option<u64>,
}

impl Jitter {
    /// A reply has come after this time.
    #[inline]
    pub fn reply(&mut self, transit_ns: u64) {
        if let Some(last) = self.last_ns.replace(transit_ns) {
            let scaled = self.scaled.unwrap_or(0);
            self.scaled = Some(scaled + transit_ns.abs_diff(last) - (scaled + 8) / 16);
        }
    }

    /// The jitter in nanoseconds, after two replies.
    pub fn nanos(&self) -> Option<u64> {
        self.scaled.map(|scaled| scaled / 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_is_added_to_its_own() {
        let of = |first| DatagramRecords {
            sent: first,
            lost: first + 1,
            late: first + 2,
            duplicated: first + 3,
            out_of_order: first + 4,
            corrupted: first + 5,
            truncated: first + 6,
            errors: first + 7,
            jitter_sum_ns: first + 8,
            jitter_max_ns: first + 9,
            jitter_sockets: first + 10,
        };
        let sum = DatagramRecords {
            sent: 1_010,
            lost: 1_012,
            late: 1_014,
            duplicated: 1_016,
            out_of_order: 1_018,
            corrupted: 1_020,
            truncated: 1_022,
            errors: 1_024,
            jitter_sum_ns: 1_026,
            jitter_max_ns: 1_009,
            jitter_sockets: 1_030,
        };
        assert_eq!(of(10).plus(&of(1_000)), sum);
        assert_eq!((of(10).jitter_ns(), DatagramRecords::default().jitter_ns()), (0, 0));
        assert_eq!(DatagramRecords { sent: 8, lost: 2, ..of(0) }.lost_ratio(), 0.25);
    }

    #[test]
    fn jitter_is_that_of_the_rfc() {
        let mut jitter = Jitter::default();
        jitter.reply(1_000_000);
        assert_eq!(jitter.nanos(), None);
        jitter.reply(2_600_000);
        // (1.6 ms - 0) / 16
        assert_eq!(jitter.nanos(), Some(100_000));
        jitter.reply(2_600_000);
        // 100 µs + (0 - 100 µs) / 16
        assert_eq!(jitter.nanos(), Some(93_750));
        let mut exact = 93_750.0;
        for nth in 0..1_000_u64 {
            let transit = if nth % 2 == 0 { 1_000_000 } else { 3_000_000 };
            let difference = if nth == 0 { 1_600_000.0 } else { 2_000_000.0 };
            exact += (difference - exact) / 16.0;
            jitter.reply(transit);
        }
        let found = jitter.nanos().expect("a jitter") as f64;
        assert!((found - exact).abs() <= 2.0, "{found}, not {exact}");
    }
}
