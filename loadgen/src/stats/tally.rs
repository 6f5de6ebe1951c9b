//! Counters that the threads update during a run, and their sums.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A schedule is behind if its oldest unsent request is older than this.
pub const BEHIND: Duration = Duration::from_millis(10);

/// Counters of one thread. Only that thread writes them; they have their own cache lines.
#[repr(align(128))]
#[derive(Default)]
pub struct Tally {
    pub open: AtomicU64,
    pub connect_failed: AtomicU64,
    pub lost: AtomicU64,
    pub replies: AtomicU64,
    pub mismatches: AtomicU64,
    /// How late the oldest unsent request of an open loop is, in nanoseconds; 0 if there is none.
    pub behind_ns: AtomicU64,
}

/// The counters of all threads.
pub struct Tallies(Box<[Tally]>);

/// Sums of the counters, and the largest delay.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Connections that are established now.
    pub open: u64,
    pub connect_failed: u64,
    pub lost: u64,
    pub replies: u64,
    pub mismatches: u64,
    /// How late the oldest unsent request of all threads is.
    pub behind: Duration,
}

impl Tallies {
    /// Counters for this many threads, all zero.
    pub fn new(threads: usize) -> Tallies {
        Tallies((0..threads).map(|_| Tally::default()).collect())
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.0.len()
    }

    /// The counters of one thread.
    pub fn of(&self, thread: usize) -> &Tally {
        &self.0[thread]
    }

    /// The current sums of all counters.
    pub fn snapshot(&self) -> Snapshot {
        let sum = |counter: fn(&Tally) -> &AtomicU64| {
            self.0.iter().map(|tally| counter(tally).load(Relaxed)).sum()
        };
        let behind_ns = self.0.iter().map(|tally| tally.behind_ns.load(Relaxed)).max();
        Snapshot {
            open: sum(|tally| &tally.open),
            connect_failed: sum(|tally| &tally.connect_failed),
            lost: sum(|tally| &tally.lost),
            replies: sum(|tally| &tally.replies),
            mismatches: sum(|tally| &tally.mismatches),
            behind: Duration::from_nanos(behind_ns.unwrap_or_default()),
        }
    }
}

impl Snapshot {
    /// Connections that were not established, were lost, or had a byte that differed.
    pub fn errors(&self) -> u64 {
        self.connect_failed + self.lost + self.mismatches
    }
}

/// Adds to a counter that only this thread writes, so no locked instruction is needed.
#[inline]
pub fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed) + count, Relaxed);
}

/// Subtracts one from a counter that only this thread writes.
pub fn subtract_one(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) - 1, Relaxed);
}
