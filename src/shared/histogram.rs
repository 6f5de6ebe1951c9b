//! A histogram of times with one writer: one of the worker's, beside its counters.
//!
//! It has a fixed number of buckets, each twice as wide as the one before, so recording a time is a
//! few instructions and two stores, and allocates nothing. The admin address and the log read it. Without
//! the feature `admin` it is empty, and recording does nothing.

use crate::base::time::Time;
#[cfg(feature = "admin")]
use crate::shared::counters::Counter;

/// The first bound is 2 to the power of this in nanoseconds: 4.096 us.
#[cfg(feature = "admin")]
const FIRST: u32 = 12;

/// The last bound is 2 to the power of this in nanoseconds: 17.2 s.
#[cfg(feature = "admin")]
const LAST: u32 = 34;

/// The number of bounds. There is a bucket for each, and one for what is longer.
#[cfg(feature = "admin")]
pub(crate) const BOUNDS: usize = (LAST - FIRST) as usize + 1;

/// A histogram of times. Only the worker that owns it may record.
#[derive(Default)]
pub(crate) struct Histogram {
    #[cfg(feature = "admin")]
    buckets: [Counter; BOUNDS + 1],
    #[cfg(feature = "admin")]
    sum_nanos: Counter,
}

/// What a histogram has recorded so far, of one worker or of several together.
#[cfg(feature = "admin")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Recorded {
    /// How many times were longer than one bound and not longer than the next. The last: those longer
    /// than all.
    pub(crate) buckets: [u64; BOUNDS + 1],
    pub(crate) sum_nanos: u64,
}

impl Histogram {
    /// Whether there are histograms at all.
    pub(crate) const EXISTS: bool = cfg!(feature = "admin");

    /// Records the time between two.
    #[inline]
    pub(crate) fn record(&self, from: Time, to: Time) {
        #[cfg(feature = "admin")]
        {
            let nanos = to.as_nanos().saturating_sub(from.as_nanos());
            self.buckets[bucket(nanos)].add(1);
            self.sum_nanos.add(nanos);
        }
        #[cfg(not(feature = "admin"))]
        let _ = (from, to);
    }

    #[cfg(feature = "admin")]
    pub(crate) fn read(&self) -> Recorded {
        let mut recorded = Recorded { sum_nanos: self.sum_nanos.get(), ..Recorded::default() };
        for (to, from) in recorded.buckets.iter_mut().zip(&self.buckets) {
            *to = from.get();
        }
        recorded
    }
}

/// The bucket of a time.
#[cfg(feature = "admin")]
#[inline]
fn bucket(nanos: u64) -> usize {
    // The exponent of the smallest power of two that is not less.
    let exponent = u64::BITS - nanos.saturating_sub(1).leading_zeros();
    (exponent.clamp(FIRST, LAST + 1) - FIRST) as usize
}

/// The bounds, in nanoseconds. A time that is equal to a bound is in its bucket.
#[cfg(feature = "admin")]
pub(crate) fn bounds_nanos() -> impl Iterator<Item = u64> {
    (FIRST..=LAST).map(|exponent| 1 << exponent)
}

#[cfg(feature = "admin")]
impl Recorded {
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many times were not longer than each bound.
    pub(crate) fn cumulated(&self) -> impl Iterator<Item = u64> {
        self.buckets[..BOUNDS].iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        })
    }

    /// The time in nanoseconds that this share of the times does not exceed. `None` if there are none.
    /// Within a bucket they count as spread evenly; those above the last bound count as this bound.
    #[cfg(feature = "daemon")]
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let mut left = share * self.count() as f64;
        let mut from = 0.0;
        let bounds = bounds_nanos().map(|bound| bound as f64);
        for (count, bound) in self.buckets.iter().map(|count| *count as f64).zip(bounds) {
            if count > 0.0 && left <= count {
                return Some(from + (bound - from) * left / count);
            }
            (left, from) = (left - count, bound);
        }
        (self.count() > 0).then_some(from)
    }

    pub(crate) fn add(&mut self, other: &Recorded) {
        for (to, from) in self.buckets.iter_mut().zip(other.buckets) {
            *to += from;
        }
        self.sum_nanos += other.sum_nanos;
    }
}

#[cfg(all(test, feature = "admin"))]
mod tests {
    use super::*;

    fn recorded(all: &[u64]) -> Recorded {
        let histogram = Histogram::default();
        let begin = Time::from_nanos(1000);
        let end = |nanos: &u64| Time::from_nanos(1000 + nanos);
        all.iter().for_each(|nanos| histogram.record(begin, end(nanos)));
        histogram.read()
    }

    #[test]
    fn a_time_is_in_the_bucket_of_the_first_bound_that_is_not_less() {
        for (nth, bound) in bounds_nanos().enumerate() {
            for (nanos, expected) in [(bound - 1, nth), (bound, nth), (bound + 1, nth + 1)] {
                let buckets = recorded(&[nanos]).buckets;
                let at = buckets.iter().position(|&count| count == 1);
                assert_eq!(at, Some(expected), "{nanos} ns, {buckets:?}");
            }
        }
        assert_eq!(recorded(&[0]).buckets[0], 1);
        assert_eq!(recorded(&[u64::MAX - 1000]).buckets[BOUNDS], 1);
    }

    #[test]
    fn the_sum_and_what_is_not_longer_are_of_all_times() {
        let mut both = recorded(&[4096, 4097]);
        both.add(&recorded(&[1 << 13, 1 << 40]));
        assert_eq!(both.sum_nanos, 4096 + 4097 + (1 << 13) + (1 << 40));
        assert_eq!(both.count(), 4);
        let cumulated: Vec<u64> = both.cumulated().collect();
        assert_eq!((cumulated[0], cumulated[1], cumulated.len()), (1, 3, BOUNDS));
        assert_eq!(cumulated.last(), Some(&3), "one was longer than every bound");
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_huge_time() {
        let histogram = Histogram::default();
        histogram.record(Time::from_nanos(7), Time::from_nanos(5));
        assert_eq!((histogram.read().buckets[0], histogram.read().sum_nanos), (1, 0));
    }

    #[cfg(feature = "daemon")]
    #[test]
    fn a_quantile_lies_in_its_bucket_in_proportion() {
        let of = |times: &[u64], share| recorded(times).quantile(share);
        assert_eq!(of(&[], 0.5), None);
        // Three of (4096, 8192], and one of (16384, 32768].
        let times = [5_000, 6_000, 7_000, 20_000];
        assert_eq!(of(&times, 0.75), Some(8192.0));
        assert_eq!(of(&times, 0.375), Some(4096.0 + 4096.0 / 2.0));
        assert_eq!(of(&times, 1.0), Some(32768.0));
        assert_eq!(of(&[u64::MAX / 2], 0.5), Some((1u64 << LAST) as f64), "above all bounds");
    }
}
