//! Figures computed from a run's records. They are the same in all forms of the report.

use echopool::error::Errno;

use super::Report;
use crate::stats::cpu::ThreadUse;

impl Report {
    /// Share of the measured period in which the busiest thread ran or waited for a processor.
    pub fn generator_busy(&self) -> f64 {
        let used = self.busiest_thread();
        self.records.share(&used, used.busy()).min(1.0)
    }

    /// Share of the measured period in which the busiest thread waited because all processors were
    /// taken.
    pub fn generator_waiting(&self) -> f64 {
        let used = self.busiest_thread();
        self.records.share(&used, used.waiting).min(1.0)
    }

    fn busiest_thread(&self) -> ThreadUse {
        let uses = self.records.thread_uses.iter().copied();
        uses.max_by_key(|used| used.busy()).unwrap_or_default()
    }

    /// Processors that the clients used, on average.
    pub fn generator_cores(&self) -> f64 {
        let records = &self.records;
        records.thread_uses.iter().map(|used| records.share(used, used.running)).sum()
    }

    /// Replies per second, within the measured period.
    pub fn requests_per_second(&self) -> f64 {
        self.per_second(self.records.replies as f64)
    }

    /// How much of the generator's ceiling was used, or why that is unknown.
    pub fn ceiling_text(&self) -> Option<String> {
        self.calibration.text(self.plan.open_loop.is_some(), self.requests_per_second())
    }

    /// Verified bytes per second, within the measured period.
    pub fn bytes_per_second(&self) -> f64 {
        self.per_second(self.records.bytes as f64)
    }

    pub(super) fn per_second(&self, amount: f64) -> f64 {
        let elapsed = self.records.elapsed().as_secs_f64();
        if elapsed > 0.0 { amount / elapsed } else { 0.0 }
    }

    /// Fewest, median and most replies on a connection.
    pub fn replies_each(&self) -> (u64, u64, u64) {
        let mut replies = self.records.replies_each.clone();
        replies.sort_unstable();
        match replies.as_slice() {
            [] => (0, 0, 0),
            [least, .., most] => (*least, replies[replies.len() / 2], *most),
            [only] => (*only, *only, *only),
        }
    }

    /// The numbers of replies on a connection, in ascending order, at each percent of the
    /// connections from 0 to 100. Empty without a connection.
    pub fn replies_at_percent(&self) -> Vec<u64> {
        let mut replies = self.records.replies_each.clone();
        replies.sort_unstable();
        let Some(last) = replies.len().checked_sub(1) else { return Vec::new() };
        (0..=100).map(|percent| replies[(percent * last + 50) / 100]).collect()
    }

    /// What went wrong with connections and how often, by name. What did not happen is left out.
    pub fn errors(&self) -> Vec<(String, u64)> {
        let records = &self.records;
        let connect = records.connect_errors.iter();
        let mut errors: Vec<_> =
            connect.map(|(errno, count)| (connect_error_name(*errno), *count)).collect();
        for (error, count) in records.tls.iter().flat_map(|tls| &tls.failed) {
            match errors.iter_mut().find(|(name, _)| name == error.name()) {
                Some((_, sum)) => *sum += count,
                None => errors.push((error.name().into(), *count)),
            }
        }
        errors.extend([
            ("timed-out".to_string(), records.losses.timed_out),
            ("closed-by-peer".to_string(), records.losses.closed_by_peer),
            ("reset".to_string(), records.losses.reset),
            ("peer-lost".to_string(), records.losses.peer_lost),
            ("tls-truncated".to_string(), records.losses.tls_truncated),
            ("tls-alert".to_string(), records.losses.tls_alert),
            ("failed".to_string(), records.losses.failed),
        ]);
        errors.retain(|(_, count)| *count > 0);
        errors
    }
}

/// The name of a failed connect's error.
fn connect_error_name(errno: i32) -> String {
    match Errno::from_raw_os_error(errno) {
        Errno::CONNREFUSED => "connect-refused".into(),
        Errno::TIMEDOUT => "connect-timed-out".into(),
        Errno::CONNRESET => "connect-reset".into(),
        Errno::ADDRNOTAVAIL => "connect-no-local-port".into(),
        Errno::MFILE | Errno::NFILE => "connect-no-open-file".into(),
        Errno::HOSTUNREACH | Errno::NETUNREACH => "connect-unreachable".into(),
        _ => format!("connect-errno-{errno}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_a_connect_has_its_name() {
        for (errno, name) in [
            (Errno::CONNREFUSED, "connect-refused"),
            (Errno::TIMEDOUT, "connect-timed-out"),
            (Errno::CONNRESET, "connect-reset"),
            (Errno::ADDRNOTAVAIL, "connect-no-local-port"),
            (Errno::MFILE, "connect-no-open-file"),
            (Errno::NFILE, "connect-no-open-file"),
            (Errno::HOSTUNREACH, "connect-unreachable"),
            (Errno::NETUNREACH, "connect-unreachable"),
        ] {
            assert_eq!(connect_error_name(errno.raw_os_error()), name);
        }
        assert_eq!(connect_error_name(9_999), "connect-errno-9999");
    }
}
