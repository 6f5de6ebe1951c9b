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
