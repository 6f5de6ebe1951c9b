//! The current second of the measured period: requests sent and replies, and the number of
//! outstanding requests, integrated over time. This is one side of Little's law; the sum of the
//! service times is the other.

use std::time::Duration;

use echopool::time::Time;

use crate::stats::cpu::ThreadUse;
use crate::stats::timeseries::Second;

/// Counts of one thread. Outstanding requests are counted from the start of the run.
#[derive(Default)]
pub(in crate::exec) struct PresentSecond {
    outstanding: u64,
    /// The fewest since they were last taken.
    lowest: u64,
    /// The integral covers the time up to this.
    counted_until: Time,
    began: Time,
    /// What the thread had used at its start.
    used_before: ThreadUse,
    counts: Second,
}

impl PresentSecond {
    /// Starts counting, with the warm-up if there is one.
    pub(in crate::exec) fn begin_counting(&mut self, start: Time) {
        self.counted_until = start;
    }

    /// Starts the first second.
    pub(in crate::exec) fn begin(&mut self, began: Time, used_before: ThreadUse) {
        self.advance(began);
        self.counts = Second::default();
        self.began = began;
        self.used_before = used_before;
    }

    /// Requests that were begun and have not ended.
    #[inline]
    pub(in crate::exec) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Counts a begun request.
    #[inline]
    pub(in crate::exec) fn begun(&mut self, now: Time) {
        self.advance(now);
        self.outstanding += 1;
    }

    /// Counts a sent request.
    #[inline]
    pub(in crate::exec) fn sent(&mut self) {
        self.counts.sent += 1;
    }

    /// Adds the service time of a reply. The caller counts the reply with
    /// [`answered`](Self::answered).
    #[inline]
    pub(in crate::exec) fn served(&mut self, service: Duration) {
        self.counts.service_ns += service.as_nanos() as u64;
    }

    /// Counts replies, which end their requests.
    #[inline]
    pub(in crate::exec) fn answered(&mut self, now: Time, replies: u64) {
        self.counts.replies += replies;
        self.given_up(now, replies);
    }

    /// Counts requests that ended without a reply.
    #[inline]
    pub(in crate::exec) fn given_up(&mut self, now: Time, count: u64) {
        self.advance(now);
        self.outstanding -= count;
        self.lowest = self.lowest.min(self.outstanding);
    }

    /// The fewest outstanding requests at any time since the last call.
    pub(in crate::exec) fn take_lowest(&mut self) -> u64 {
        std::mem::replace(&mut self.lowest, self.outstanding)
    }

    /// Its length so far.
    pub(in crate::exec) fn length(&self, now: Time) -> Duration {
        now - self.began
    }

    /// Ends the second and begins the next one. Returns the second and all that the thread used in
    /// it; `None` if its length is zero.
    pub(in crate::exec) fn end(&mut self, now: Time) -> Option<(Second, ThreadUse)> {
        self.advance(now);
        let span = self.length(now);
        if span.is_zero() {
            return None;
        }
        let times = ThreadUse::times_now();
        let used = times.since(self.used_before);
        self.began = now;
        self.used_before = times;
        let counts = std::mem::take(&mut self.counts);
        let second = Second {
            threads: 1,
            span_ns: span.as_nanos() as u64,
            running_ns: used.running.as_nanos() as u64,
            waiting_ns: used.waiting.as_nanos() as u64,
            polling_ns: used.polling.as_nanos() as u64,
            ..counts
        };
        Some((second, used))
    }

    /// Adds the time since the last call to the integral.
    #[inline]
    fn advance(&mut self, now: Time) {
        self.counts.outstanding_ns +=
            self.outstanding * (now - self.counted_until).as_nanos() as u64;
        self.counted_until = self.counted_until.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn outstanding_requests_are_integrated_from_the_begin_to_the_end_of_a_second() {
        let mut present = PresentSecond::default();
        present.begin_counting(at(100));
        present.begun(at(200));
        // The warm-up is in no second, but its requests can still be outstanding.
        present.begin(at(1_000), ThreadUse::default());
        present.begun(at(1_500));
        present.sent();
        present.served(Duration::from_millis(1_600));
        present.answered(at(1_800), 1);
        let (second, _) = present.end(at(2_000)).expect("it has a length");
        assert_eq!((second.sent, second.replies, second.service_ns), (1, 1, 1_600_000_000));
        assert_eq!(second.outstanding_ns, (500 + 2 * 300 + 200) * 1_000_000);
        assert_eq!((second.threads, second.length()), (1, Duration::from_secs(1)));
        assert!(present.end(at(2_000)).is_none(), "no time has passed");
        present.given_up(at(2_250), 1);
        let (second, _) = present.end(at(3_000)).expect("it has a length");
        assert_eq!((second.replies, second.outstanding_ns), (0, 250_000_000));
        assert_eq!(present.outstanding(), 0);
    }

    #[test]
    fn the_fewest_outstanding_are_those_since_they_were_taken() {
        let mut present = PresentSecond::default();
        (0..5).for_each(|_| present.begun(at(1)));
        assert_eq!((present.take_lowest(), present.take_lowest()), (0, 5));
        present.answered(at(2), 3);
        (0..4).for_each(|_| present.begun(at(3)));
        assert_eq!((present.take_lowest(), present.take_lowest()), (2, 6));
    }
}
