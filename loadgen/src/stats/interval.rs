//! What happened in each second of a running test. Each thread of clients records its part of an
//! interval and hands it over when the second ends; the main thread adds up the parts of all
//! threads. Showing and writing intervals is done elsewhere.
//!
//! Memory is constant: each thread has three parts. It hands over a full part and takes an empty
//! one, without a lock and without allocating. If the main thread is late and there is no empty
//! part, the thread continues with its current one. That part then covers more than its second;
//! nothing is lost or counted twice.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use echopool::time::Time;
use hdrhistogram::Histogram;

use crate::stats::records::{histogram_bytes, latency_histogram};
use crate::stats::tally::{Snapshot, Tallies};

/// Parts per thread: one to record into, one in transit, and one in reserve for a main thread that
/// is a second late.
const PARTS: usize = 3;
/// Length of an interval.
const SECOND: Duration = Duration::from_secs(1);
/// A thread reads the clock at least every 100 ms. The main thread does not wait for one that is
/// later than this after the end of a second; its part counts for a later second.
const GRACE: Duration = Duration::from_millis(250);

/// The number of the part with which a thread's measured period ends, and of the part after it.
const LAST: u64 = u64::MAX - 1;
const AFTER: u64 = u64::MAX;

/// What one thread recorded, usually in one second.
pub struct IntervalPart {
    /// The last second that it covers, from 0, or one of the numbers above.
    number: u64,
    /// In nanoseconds.
    latency: Histogram<u64>,
    send_lag: Histogram<u64>,
    replies: u64,
    replies_late: u64,
    bytes: u64,
}

impl IntervalPart {
    fn new() -> IntervalPart {
        IntervalPart {
            number: 0,
            latency: latency_histogram(),
            send_lag: latency_histogram(),
            replies: 0,
            replies_late: 0,
            bytes: 0,
        }
    }

    fn clear(&mut self) {
        self.latency.reset();
        self.send_lag.reset();
        (self.replies, self.replies_late, self.bytes) = (0, 0, 0);
    }
}

/// Passes the parts of one thread to the main thread and back.
pub struct Handover {
    full: ArrayQueue<Box<IntervalPart>>,
    empty: ArrayQueue<Box<IntervalPart>>,
}

impl Default for Handover {
    /// Allocates all parts.
    fn default() -> Handover {
        let handover = Handover { full: ArrayQueue::new(PARTS), empty: ArrayQueue::new(PARTS) };
        while handover.empty.push(Box::new(IntervalPart::new())).is_ok() {}
        handover
    }
}

impl Handover {
    /// Memory of its parts, in bytes.
    pub fn bytes() -> u64 {
        PARTS as u64 * Collector::bytes()
    }
}

/// The side of a thread of clients. Dropping it hands over the last part.
pub struct Recorder {
    handover: Arc<Handover>,
    /// Present until it is dropped.
    current: Option<Box<IntervalPart>>,
    began: Time,
    /// When the current second ends; never, outside the measured period.
    ends: Time,
}

impl Recorder {
    /// Each thread has one.
    pub fn new(handover: Arc<Handover>) -> Recorder {
        let current = handover.empty.pop();
        assert!(current.is_some(), "a thread has one recorder");
        Recorder { handover, current, began: Time::ZERO, ends: Time::MAX }
    }

    /// Starts the measured period.
    pub fn begin(&mut self, now: Time) {
        self.began = now;
        self.ends = now + SECOND;
    }

    /// Records a reply. `in_period`: whether it arrived within the measured period.
    #[inline]
    pub fn reply(&mut self, now: Time, latency: Duration, in_period: bool) {
        self.tick(now);
        let current = self.current.as_mut().expect("it is there until dropped");
        current.latency.saturating_record(latency.as_nanos() as u64);
        if in_period {
            current.replies += 1;
        } else {
            current.replies_late += 1;
        }
    }

    /// Records that a request was sent `lag` after its intended time.
    #[inline]
    pub fn sent(&mut self, now: Time, lag: Duration) {
        self.tick(now);
        let current = self.current.as_mut().expect("it is there until dropped");
        current.send_lag.saturating_record(lag.as_nanos() as u64);
    }

    /// Records a request that is given up after `age` without a reply.
    pub fn give_up(&mut self, now: Time, age: Duration) {
        self.tick(now);
        let current = self.current.as_mut().expect("it is there until dropped");
        current.latency.saturating_record(age.as_nanos() as u64);
    }

    /// Records bytes that arrived within the measured period.
    #[inline]
    pub fn bytes(&mut self, now: Time, bytes: u64) {
        self.tick(now);
        self.current.as_mut().expect("it is there until dropped").bytes += bytes;
    }

    /// Hands over the part if its second has ended.
    #[inline]
    pub fn tick(&mut self, now: Time) {
        if now >= self.ends {
            self.hand_over(now);
        }
    }

    /// Ends the measured period: everything recorded from now on is late.
    pub fn end(&mut self, ended: Time) {
        self.tick(ended);
        self.exchange(LAST);
        self.ends = Time::MAX;
    }

    #[cold]
    fn hand_over(&mut self, now: Time) {
        let seconds = (now - self.began).as_secs();
        self.exchange(seconds - 1);
        self.ends = self.began + SECOND * (seconds as u32 + 1);
    }

    /// Without an empty part, the current one continues.
    fn exchange(&mut self, number: u64) {
        if let Some(empty) = self.handover.empty.pop() {
            let full = self.current.replace(empty);
            push(&self.handover, full.expect("it is there until dropped"), number);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(last) = self.current.take() {
            push(&self.handover, last, AFTER);
        }
    }
}

fn push(handover: &Handover, mut part: Box<IntervalPart>, number: u64) {
    part.number = number;
    let pushed = handover.full.push(part);
    assert!(pushed.is_ok(), "there is room for all parts of a thread");
}

/// One second of all threads.
#[derive(Clone)]
pub struct Interval {
    /// From 0.
    pub number: u64,
    /// From the start of the measured period to the start of this second.
    pub start: Duration,
    /// One second, except for the last interval.
    pub length: Duration,
    /// In nanoseconds, including late replies.
    pub latency: Histogram<u64>,
    /// From the intended time to the actual send of the requests sent, in nanoseconds. Empty in a
    /// closed loop.
    pub send_lag: Histogram<u64>,
    /// Replies within the measured period, and after it.
    pub replies: u64,
    pub replies_late: u64,
    /// Bytes verified in the measured period.
    pub bytes: u64,
    /// Counts of the whole run so far.
    pub counts: Snapshot,
    /// Errors in this second.
    pub errors: u64,
}

impl Interval {
    /// Replies per second, within the measured period.
    pub fn rate(&self) -> f64 {
        match self.length.as_secs_f64() {
            length if length > 0.0 => self.replies as f64 / length,
            _ => 0.0,
        }
    }

    /// Whether it is a full second.
    pub fn is_whole(&self) -> bool {
        self.length == SECOND
    }

    /// Adds the interval that follows this one.
    pub fn extend(&mut self, next: &Interval) {
        self.latency.add(&next.latency).expect("the bounds are equal");
        self.send_lag.add(&next.send_lag).expect("the bounds are equal");
        self.length += next.length;
        self.replies += next.replies;
        self.replies_late += next.replies_late;
        self.bytes += next.bytes;
        self.counts = next.counts;
        self.errors += next.errors;
    }

    fn add(&mut self, part: &IntervalPart) {
        self.latency.add(&part.latency).expect("the bounds are equal");
        self.send_lag.add(&part.send_lag).expect("the bounds are equal");
        self.replies += part.replies;
        self.replies_late += part.replies_late;
        self.bytes += part.bytes;
    }

    fn begin_next(&mut self) {
        self.number += 1;
        self.start += self.length;
        self.latency.reset();
        self.send_lag.reset();
        (self.replies, self.replies_late, self.bytes) = (0, 0, 0);
    }
}

/// The side of the main thread.
pub struct Collector {
    tallies: Arc<Tallies>,
    threads: Vec<ThreadState>,
    second: Interval,
    /// Whether the second was returned, so that the next one must begin.
    given: bool,
    errors_before: u64,
    /// Open connections when it was last asked within the measured period.
    open: u64,
}

/// What is known of a thread.
struct ThreadState {
    handover: Arc<Handover>,
    /// A part that belongs to a later second.
    held: Option<Box<IntervalPart>>,
    /// Number of seconds that are complete.
    through: u64,
}

impl Collector {
    /// Memory of the latencies and send lags of one second, in bytes.
    pub fn bytes() -> u64 {
        2 * histogram_bytes(&latency_histogram())
    }

    /// Collects what these threads hand over. `tallies`: their counters.
    pub fn new(handovers: &[Arc<Handover>], tallies: Arc<Tallies>) -> Collector {
        let thread = |handover: &Arc<Handover>| ThreadState {
            handover: handover.clone(),
            held: None,
            through: 0,
        };
        let threads = handovers.iter().map(thread).collect();
        let second = Interval {
            number: 0,
            start: Duration::ZERO,
            length: SECOND,
            latency: latency_histogram(),
            send_lag: latency_histogram(),
            replies: 0,
            replies_late: 0,
            bytes: 0,
            counts: Snapshot::default(),
            errors: 0,
        };
        Collector { tallies, threads, second, given: false, errors_before: 0, open: 0 }
    }

    /// Returns the next second if it is over at `since`, the time since the measured period began.
    pub fn next(&mut self, since: Duration) -> Option<&Interval> {
        self.begin_next();
        self.open = self.tallies.snapshot().open;
        let end = self.second.start + SECOND;
        if since < end {
            return None;
        }
        let number = self.second.number;
        self.take(number);
        let complete = self.threads.iter().all(|handover| handover.through > number);
        (complete || since >= end + GRACE).then(|| self.complete(SECOND))
    }

    /// Returns the remaining seconds, one per call, when all threads have ended; then `None`.
    /// `elapsed` is the length of the measured period. What arrived after the period is in a last
    /// interval of length zero.
    pub fn rest(&mut self, elapsed: Duration) -> Option<&Interval> {
        self.begin_next();
        let left = elapsed.saturating_sub(self.second.start);
        if left > SECOND {
            self.take(self.second.number);
            return Some(self.complete(SECOND));
        }
        self.take(if left.is_zero() { AFTER } else { LAST });
        let errors = self.tallies.snapshot().errors() > self.errors_before;
        let something = errors || !self.second.latency.is_empty() || self.second.bytes > 0;
        (!left.is_zero() || something).then(|| self.complete(left))
    }

    fn begin_next(&mut self) {
        if std::mem::take(&mut self.given) {
            self.second.begin_next();
        }
    }

    fn complete(&mut self, length: Duration) -> &Interval {
        let mut counts = self.tallies.snapshot();
        // After the end there are no open connections.
        counts.open = if length.is_zero() { counts.open } else { self.open };
        self.second.length = length;
        self.second.counts = counts;
        self.second.errors = counts.errors() - self.errors_before;
        self.errors_before = counts.errors();
        self.given = true;
        &self.second
    }

    /// Adds all parts up to this number and returns them empty.
    fn take(&mut self, number: u64) {
        for state in &mut self.threads {
            while let Some(mut part) = state.held.take().or_else(|| state.handover.full.pop()) {
                state.through = part.number.saturating_add(1);
                if part.number > number {
                    state.held = Some(part);
                    break;
                }
                self.second.add(&part);
                part.clear();
                let pushed = state.handover.empty.push(part);
                assert!(pushed.is_ok(), "there is room for all parts of a thread");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::tally;

    const BEGAN: Time = Time::from_nanos(1_000);

    fn at(millis: u64) -> Time {
        BEGAN + Duration::from_millis(millis)
    }

    fn since(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The recorders of this many threads, their collector and their counters.
    fn recording(threads: usize) -> (Vec<Recorder>, Collector, Arc<Tallies>) {
        let handovers: Vec<_> = (0..threads).map(|_| Arc::<Handover>::default()).collect();
        let recorder = |handover: &Arc<Handover>| {
            let mut recorder = Recorder::new(handover.clone());
            recorder.begin(BEGAN);
            recorder
        };
        let recorders = handovers.iter().map(recorder).collect();
        let tallies = Arc::new(Tallies::new(threads));
        (recorders, Collector::new(&handovers, tallies.clone()), tallies)
    }

    fn reply(recorder: &mut Recorder, millis: u64) {
        recorder.reply(at(millis), Duration::from_micros(millis), true);
    }

    #[test]
    fn replies_of_all_threads_are_in_the_second_that_they_came_in() {
        let (mut recorders, mut collector, _) = recording(2);
        for millis in [1, 999, 1_000, 1_500, 2_400] {
            reply(&mut recorders[0], millis);
        }
        reply(&mut recorders[1], 500);
        assert!(collector.next(since(999)).is_none(), "it is not over");
        assert!(collector.next(since(1_001)).is_none(), "one thread has not said all");
        recorders[1].tick(at(1_050));
        let first = collector.next(since(1_060)).expect("both threads are past it");
        assert_eq!((first.number, first.replies, first.latency.len()), (0, 3, 3));
        recorders[1].tick(at(2_050));
        let second = collector.next(since(2_060)).expect("both threads are past it");
        assert_eq!((second.number, second.replies, second.start), (1, 2, SECOND));
        for recorder in &mut recorders {
            recorder.end(at(2_500));
        }
        recorders[0].reply(at(2_600), Duration::from_micros(9), false);
        drop(recorders);
        let last = collector.rest(since(2_500)).expect("half a second");
        assert_eq!((last.replies, last.length, last.rate()), (1, since(500), 2.0));
        let late = collector.rest(since(2_500)).expect("a late reply");
        assert_eq!((late.replies, late.replies_late, late.length), (0, 1, Duration::ZERO));
        assert!(collector.rest(since(2_500)).is_none());
    }

    #[test]
    fn send_lags_are_in_the_second_of_the_send() {
        let (mut recorders, mut collector, _) = recording(1);
        let mut recorder = recorders.remove(0);
        for (millis, lag) in [(100, 7), (900, 9), (1_100, 11)] {
            recorder.sent(at(millis), Duration::from_nanos(lag));
        }
        recorder.tick(at(2_000));
        let mut next = |millis| {
            let second = collector.next(since(millis)).expect("it is over");
            (second.send_lag.len(), second.send_lag.max(), second.latency.len())
        };
        assert_eq!((next(1_500), next(2_001)), ((2, 9, 0), (1, 11, 0)));
    }

    #[test]
    fn what_waited_for_room_is_in_the_last_second_and_not_after_the_period() {
        let (mut recorders, mut collector, _) = recording(1);
        for millis in (0..20_000).step_by(100) {
            reply(&mut recorders[0], millis);
        }
        // Room for the last part, which has the replies of all seconds but the first two.
        assert_eq!(collector.next(since(20_000)).map(|second| second.replies), Some(10));
        recorders[0].end(at(20_000));
        drop(recorders);
        let mut last = (0, Duration::ZERO);
        while let Some(second) = collector.rest(since(20_000)) {
            last = (second.replies, second.length);
        }
        assert_eq!(last, (180, since(1_000)));
    }

    #[test]
    fn nothing_is_lost_when_the_main_thread_is_late() {
        let (mut recorders, mut collector, _) = recording(1);
        for millis in (0..20_000).step_by(100) {
            reply(&mut recorders[0], millis);
        }
        recorders[0].end(at(20_000));
        drop(recorders);
        let mut replies = Vec::new();
        while let Some(second) = collector.rest(since(20_000)) {
            replies.push(second.replies);
            assert_eq!(second.replies, second.latency.len());
        }
        assert_eq!(replies.iter().sum::<u64>(), 200, "{replies:?}");
        assert_eq!(replies[..2], [10, 10], "what there was room for is in its second");
        assert!(replies.len() >= 20, "{replies:?}");
    }

    #[test]
    fn a_thread_that_says_nothing_is_not_waited_for_long() {
        let (mut recorders, mut collector, _) = recording(2);
        reply(&mut recorders[0], 1_000);
        reply(&mut recorders[1], 10);
        assert!(collector.next(since(1_200)).is_none());
        assert_eq!(collector.next(since(1_300)).map(|second| second.replies), Some(0));
        recorders[1].tick(at(1_900));
        recorders[0].tick(at(2_000));
        recorders[1].tick(at(2_000));
        assert_eq!(collector.next(since(2_001)).map(|second| second.replies), Some(2));
    }

    #[test]
    fn errors_count_in_the_second_in_which_they_are_seen() {
        let (recorders, mut collector, tallies) = recording(1);
        tally::add(&tallies.of(0).lost, 2);
        assert_eq!(collector.next(since(1_500)).map(|second| second.errors), Some(2));
        assert_eq!(collector.next(since(2_500)).map(|second| second.errors), Some(0));
        tally::add(&tallies.of(0).connect_failed, 1);
        drop(recorders);
        assert_eq!(collector.rest(since(2_000)).map(|second| second.errors), Some(1));
        assert!(collector.rest(since(2_000)).is_none());
    }

    #[test]
    fn a_second_is_over_at_its_end_and_an_interval_without_a_length_has_no_rate() {
        let (mut recorders, mut collector, _) = recording(1);
        reply(&mut recorders[0], 500);
        reply(&mut recorders[0], 1_000);
        let first = collector.next(since(1_000)).expect("it is over");
        assert_eq!((first.number, first.replies, first.is_whole()), (0, 1, true));
        recorders[0].end(at(2_000));
        recorders[0].reply(at(2_001), Duration::from_micros(9), false);
        drop(recorders);
        let last = collector.rest(since(2_000)).expect("a whole second, which is the last one");
        assert_eq!((last.replies, last.replies_late, last.is_whole()), (1, 0, true));
        let late = collector.rest(since(2_000)).expect("a late reply");
        assert_eq!((late.replies_late, late.rate(), late.is_whole()), (1, 0.0, false));
    }

    #[test]
    fn a_period_that_ends_with_a_second_has_no_interval_after_it_unless_something_came() {
        let (mut recorders, mut collector, _) = recording(1);
        recorders[0].bytes(at(999), 7);
        recorders[0].end(at(1_000));
        recorders[0].bytes(at(1_001), 5);
        drop(recorders);
        assert_eq!(collector.rest(since(1_000)).map(|second| second.bytes), Some(7));
        assert_eq!(collector.rest(since(1_000)).map(|second| second.bytes), Some(5));
        assert!(collector.rest(since(1_000)).is_none());
    }

    #[test]
    fn the_memory_is_that_of_the_two_histograms_of_each_part() {
        let histogram = histogram_bytes(&latency_histogram());
        assert_eq!(Collector::bytes(), histogram + histogram);
        assert_eq!(Handover::bytes(), 6 * histogram);
    }
}
