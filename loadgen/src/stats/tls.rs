//! The handshakes of a run over TLS.

use std::collections::BTreeMap;

use echopool::service::{Handshake, HandshakeError};
use hdrhistogram::Histogram;

use super::records::{histogram_bytes, latency_histogram};

/// Counts and times of the handshakes of one thread or of all threads.
pub struct TlsRecords {
    /// From the established connection to the end of a full handshake, in nanoseconds.
    pub full: Histogram<u64>,
    /// The same for handshakes that resumed a session.
    pub resumed: Histogram<u64>,
    /// Handshakes that were done within the measured period.
    pub measured: u64,
    /// Handshakes by version and cipher suite.
    pub sessions: BTreeMap<(&'static str, &'static str), u64>,
    /// Connects whose handshake failed, by the reason.
    pub failed: BTreeMap<HandshakeError, u64>,
}

impl Default for TlsRecords {
    fn default() -> TlsRecords {
        TlsRecords {
            full: latency_histogram(),
            resumed: latency_histogram(),
            measured: 0,
            sessions: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }
}

impl TlsRecords {
    /// Memory of the histograms, in bytes.
    pub fn bytes() -> u64 {
        2 * histogram_bytes(&latency_histogram())
    }

    /// Records a handshake. `in_period`: whether it was done within the measured period.
    pub fn done(&mut self, handshake: &Handshake, in_period: bool) {
        let times = if handshake.is_resumed { &mut self.resumed } else { &mut self.full };
        times.saturating_record(handshake.time.as_nanos() as u64);
        self.measured += u64::from(in_period);
        *self.sessions.entry((handshake.version, handshake.cipher_suite)).or_default() += 1;
    }

    /// Handshakes that were done.
    pub fn count(&self) -> u64 {
        self.full.len() + self.resumed.len()
    }

    /// The part of the handshakes that resumed a session; 0 if there were none.
    pub fn resumed_ratio(&self) -> f64 {
        self.resumed.len() as f64 / self.count().max(1) as f64
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, other: TlsRecords) {
        self.full.add(other.full).expect("the bounds are equal");
        self.resumed.add(other.resumed).expect("the bounds are equal");
        self.measured += other.measured;
        for (session, count) in other.sessions {
            *self.sessions.entry(session).or_default() += count;
        }
        for (error, count) in other.failed {
            *self.failed.entry(error).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn done(records: &mut TlsRecords, version: &'static str, resumed: bool, in_period: bool) {
        let mut handshake = Handshake::default();
        (handshake.version, handshake.cipher_suite) = (version, "TLS_AES_256_GCM_SHA384");
        handshake.is_resumed = resumed;
        handshake.time = Duration::from_nanos(if resumed { 100 } else { 300 });
        records.done(&handshake, in_period);
    }

    #[test]
    fn handshakes_are_counted_by_kind_session_and_period() {
        let mut records = TlsRecords::default();
        assert_eq!((records.count(), records.resumed_ratio()), (0, 0.0));
        for (version, resumed, in_period) in
            [("1.3", false, true), ("1.3", true, true), ("1.2", false, false), ("1.3", false, true)]
        {
            done(&mut records, version, resumed, in_period);
        }
        assert_eq!((records.full.len(), records.resumed.len(), records.measured), (3, 1, 3));
        assert_eq!((records.full.min(), records.resumed.min()), (300, 100));
        assert_eq!((records.count(), records.resumed_ratio()), (4, 0.25));
        assert_eq!(records.sessions.values().collect::<Vec<_>>(), [&1, &3], "of 1.2 and 1.3");
    }

    #[test]
    fn those_of_another_thread_are_added() {
        let (mut one, mut other) = (TlsRecords::default(), TlsRecords::default());
        done(&mut one, "1.3", false, true);
        for resumed in [true, true, false] {
            done(&mut other, "1.3", resumed, true);
        }
        done(&mut other, "1.2", false, false);
        for (records, count) in [(&mut one, 2), (&mut other, 5)] {
            records.failed.insert(HandshakeError::NotTls, count);
        }
        one.merge(other);
        assert_eq!((one.full.len(), one.resumed.len(), one.measured), (3, 2, 4));
        assert_eq!(one.sessions.values().collect::<Vec<_>>(), [&1, &4], "of 1.2 and 1.3");
        assert_eq!(one.failed, BTreeMap::from([(HandshakeError::NotTls, 7)]));
    }

    #[test]
    fn the_memory_is_that_of_the_histograms() {
        let TlsRecords { full, resumed, .. } = TlsRecords::default();
        assert_eq!(TlsRecords::bytes(), histogram_bytes(&full) + histogram_bytes(&resumed));
    }
}
