//! What a run measured: the records of one thread, and those of all threads together. Recording
//! allocates nothing, however long the run is.

use std::collections::BTreeMap;
use std::time::Duration;

use echopool::time::Time;
use hdrhistogram::Histogram;

use crate::cpu::ThreadUse;
use crate::flow::{Loss, Mismatch};

/// Mismatches that are described in the report; all are counted.
pub const MISMATCHES_SHOWN: usize = 8;
/// Latencies are recorded from 1 ns to here, with three significant digits.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
/// Of a thread, in a second.
const RATE_MAX: u64 = 1_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Connections that ended before their time, by kind.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Losses {
    pub timed_out: u64,
    pub closed_by_peer: u64,
    pub reset: u64,
    pub peer_lost: u64,
    pub failed: u64,
}

/// What was counted and timed, by one thread or by all.
pub struct Records {
    pub established: u64,
    /// By error number.
    pub connect_errors: BTreeMap<i32, u64>,
    pub losses: Losses,
    /// Connections on which a byte differed.
    pub mismatches: u64,
    pub first_mismatches: Vec<Mismatch>,
    /// Requests begun.
    pub requests: u64,
    /// Replies within the measured period.
    pub replies: u64,
    /// Replies to requests of the measured period that came after it.
    pub replies_late: u64,
    /// Requests that never had their reply.
    pub unanswered: u64,
    /// Bytes verified within the measured period.
    pub bytes: u64,
    /// Bytes verified in all.
    pub bytes_verified: u64,
    /// In nanoseconds; late replies included.
    pub latency: Histogram<u64>,
    /// Replies in a second of one thread, sampled.
    pub rates: Histogram<u64>,
    /// The last reply.
    pub last_reply: Time,
    /// Replies of each established connection.
    pub replies_each: Vec<u64>,
    /// When measuring began and ended; both zero if it never began.
    pub began: Time,
    pub ended: Time,
    /// Processor use of each thread while it measured.
    pub thread_uses: Vec<ThreadUse>,
}

/// An empty histogram of latencies in nanoseconds. All that are added up have the same bounds.
pub fn latency_histogram() -> Histogram<u64> {
    histogram(LATENCY_MAX_NS)
}

fn histogram(max: u64) -> Histogram<u64> {
    Histogram::new_with_bounds(1, max, SIGNIFICANT_DIGITS).expect("the bounds are valid")
}

impl Default for Records {
    fn default() -> Records {
        Records {
            established: 0,
            connect_errors: BTreeMap::new(),
            losses: Losses::default(),
            mismatches: 0,
            first_mismatches: Vec::with_capacity(MISMATCHES_SHOWN),
            requests: 0,
            replies: 0,
            replies_late: 0,
            unanswered: 0,
            bytes: 0,
            bytes_verified: 0,
            latency: latency_histogram(),
            rates: histogram(RATE_MAX),
            last_reply: Time::ZERO,
            replies_each: Vec::new(),
            began: Time::ZERO,
            ended: Time::ZERO,
            thread_uses: Vec::new(),
        }
    }
}

impl Records {
    /// Records one reply. `in_period` says whether it came within the measured period.
    #[inline]
    pub fn reply(&mut self, now: Time, latency: Duration, in_period: bool) {
        self.latency.saturating_record(latency.as_nanos() as u64);
        self.last_reply = now;
        if in_period {
            self.replies += 1;
        } else {
            self.replies_late += 1;
        }
    }

    /// Records the rate of a part of the measured period.
    pub fn rate(&mut self, replies: u64, span: Duration) {
        let nanos = span.as_nanos().max(1);
        self.rates.saturating_record((u128::from(replies) * 1_000_000_000 / nanos) as u64);
    }

    /// Records that a connection was lost.
    pub fn loss(&mut self, loss: Loss) {
        match loss {
            // Counted where it was found.
            Loss::Mismatch => {}
            Loss::TimedOut => self.losses.timed_out += 1,
            Loss::ClosedByPeer => self.losses.closed_by_peer += 1,
            Loss::Reset => self.losses.reset += 1,
            Loss::PeerLost => self.losses.peer_lost += 1,
            Loss::Failed => self.losses.failed += 1,
        }
    }

    /// Records that a connection's bytes differed.
    pub fn mismatch(&mut self, mismatch: Mismatch) {
        self.mismatches += 1;
        if self.first_mismatches.len() < MISMATCHES_SHOWN {
            self.first_mismatches.push(mismatch);
        }
    }

    /// Adds the records of another thread.
    pub fn merge(&mut self, other: Records) {
        self.established += other.established;
        for (error, count) in other.connect_errors {
            *self.connect_errors.entry(error).or_default() += count;
        }
        self.losses = self.losses.plus(other.losses);
        self.mismatches += other.mismatches;
        self.first_mismatches.extend(other.first_mismatches);
        self.first_mismatches.truncate(MISMATCHES_SHOWN);
        self.requests += other.requests;
        self.replies += other.replies;
        self.replies_late += other.replies_late;
        self.unanswered += other.unanswered;
        self.bytes += other.bytes;
        self.bytes_verified += other.bytes_verified;
        self.latency.add(other.latency).expect("the bounds are equal");
        self.rates.add(other.rates).expect("the bounds are equal");
        self.last_reply = self.last_reply.max(other.last_reply);
        self.replies_each.extend(other.replies_each);
        // All threads begin at the same time; one that never began says zero.
        self.began = self.began.max(other.began);
        self.ended = self.ended.max(other.ended);
        self.thread_uses.extend(other.thread_uses);
    }

    /// The length of the measured period.
    pub fn elapsed(&self) -> Duration {
        self.ended - self.began
    }

    /// Connections that had at least one verified reply.
    pub fn served(&self) -> u64 {
        self.replies_each.iter().filter(|replies| **replies > 0).count() as u64
    }

    /// Connections that were not established.
    pub fn connect_failed(&self) -> u64 {
        self.connect_errors.values().sum()
    }
}

impl Losses {
    /// All kinds together.
    pub fn total(self) -> u64 {
        self.timed_out + self.closed_by_peer + self.reset + self.peer_lost + self.failed
    }

    fn plus(self, other: Losses) -> Losses {
        Losses {
            timed_out: self.timed_out + other.timed_out,
            closed_by_peer: self.closed_by_peer + other.closed_by_peer,
            reset: self.reset + other.reset,
            peer_lost: self.peer_lost + other.peer_lost,
            failed: self.failed + other.failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn merging_adds_everything_up() {
        let thread = |offset: u64| {
            let mut records = Records { established: 2, began: at(100), ..Records::default() };
            records.reply(at(200 + offset), Duration::from_micros(5), true);
            records.reply(at(300 + offset), Duration::from_micros(7), false);
            records.loss(Loss::Reset);
            records.loss(Loss::Mismatch);
            *records.connect_errors.entry(7).or_default() += 1;
            records.ended = at(250 + offset);
            records.replies_each = vec![2, 0];
            records
        };
        let mut all = thread(0);
        all.merge(thread(50));
        assert_eq!((all.established, all.replies, all.replies_late), (4, 2, 2));
        assert_eq!((all.losses.reset, all.losses.total()), (2, 2));
        assert_eq!((all.connect_failed(), all.served()), (2, 2));
        assert_eq!((all.latency.len(), all.last_reply), (4, at(350)));
        assert_eq!(all.elapsed(), Duration::from_nanos(200));
    }

    #[test]
    fn a_latency_beyond_the_bounds_is_recorded_as_the_largest() {
        let mut records = Records::default();
        records.reply(at(1), Duration::from_secs(100_000), true);
        assert!(records.latency.max() >= LATENCY_MAX_NS);
    }
}
