//! What the generator's kernel knows about TCP on its connections. It distinguishes a tail due to
//! lost packets from one due to a slow server. It does not include segments that the server
//! retransmitted.

use echopool::service::TcpInfo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What TCP did on the generator's side of connections that were asked when they ended. Connections
/// that were reset or timed out are not among them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "tcp_counts")]
pub struct TcpCounts {
    /// Connections that were asked.
    pub connections: u64,
    /// Segments that were sent again.
    pub segments_resent: u64,
    /// Connections on which a segment was sent again.
    pub connections_resent: u64,
    /// The smallest smoothed round-trip time of a connection at its end.
    pub rtt_min_ns: u64,
    /// The sum of these times. Divided by the number of connections it is their mean.
    pub rtt_sum_ns: u64,
    /// The largest one.
    pub rtt_max_ns: u64,
    /// The smallest congestion window of a connection at its end, in segments.
    pub congestion_window_min: u64,
}

impl TcpCounts {
    /// Adds a connection.
    pub fn record(&mut self, info: &TcpInfo) {
        let rtt = info.rtt.as_nanos() as u64;
        *self = self.plus(&TcpCounts {
            connections: 1,
            segments_resent: info.resent.into(),
            connections_resent: u64::from(info.resent > 0),
            rtt_min_ns: rtt,
            rtt_sum_ns: rtt,
            rtt_max_ns: rtt,
            congestion_window_min: info.congestion_window.into(),
        });
    }

    /// Both together.
    pub fn plus(&self, other: &TcpCounts) -> TcpCounts {
        let least = |of: fn(&TcpCounts) -> u64| {
            let both = [self, other].into_iter().filter(|one| one.connections > 0);
            both.map(of).min().unwrap_or_default()
        };
        TcpCounts {
            connections: self.connections + other.connections,
            segments_resent: self.segments_resent + other.segments_resent,
            connections_resent: self.connections_resent + other.connections_resent,
            rtt_min_ns: least(|one| one.rtt_min_ns),
            rtt_sum_ns: self.rtt_sum_ns + other.rtt_sum_ns,
            rtt_max_ns: self.rtt_max_ns.max(other.rtt_max_ns),
            congestion_window_min: least(|one| one.congestion_window_min),
        }
    }

    /// The mean round-trip time in nanoseconds; 0 if no connection was asked.
    pub fn rtt_mean_ns(&self) -> u64 {
        self.rtt_sum_ns / self.connections.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(first: u64) -> TcpCounts {
        TcpCounts {
            connections: first,
            segments_resent: first + 1,
            connections_resent: first + 2,
            rtt_min_ns: first + 3,
            rtt_sum_ns: first + 4,
            rtt_max_ns: first + 5,
            congestion_window_min: first + 6,
        }
    }

    #[test]
    fn each_connection_that_is_asked_counts_once() {
        let mut counts = TcpCounts::default();
        for (resent, rtt_us, congestion_window) in [(0, 30, 10), (5, 20, 4), (1, 40, 6)] {
            let mut info = TcpInfo::default();
            info.rtt = std::time::Duration::from_micros(rtt_us);
            (info.resent, info.congestion_window) = (resent, congestion_window);
            counts.record(&info);
        }
        let expected = TcpCounts {
            connections: 3,
            segments_resent: 6,
            connections_resent: 2,
            rtt_min_ns: 20_000,
            rtt_sum_ns: 90_000,
            rtt_max_ns: 40_000,
            congestion_window_min: 4,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn sums_are_sums_and_ends_are_ends() {
        let sum = counts(10).plus(&counts(100));
        let expected = TcpCounts {
            connections: 110,
            segments_resent: 112,
            connections_resent: 114,
            rtt_min_ns: 13,
            rtt_sum_ns: 118,
            rtt_max_ns: 105,
            congestion_window_min: 16,
        };
        assert_eq!(sum, expected);
        for none in [TcpCounts::default().plus(&counts(7)), counts(7).plus(&TcpCounts::default())] {
            assert_eq!(none, counts(7), "nothing adds nothing");
        }
        assert_eq!((counts(10).rtt_mean_ns(), TcpCounts::default().rtt_mean_ns()), (1, 0));
    }
}
