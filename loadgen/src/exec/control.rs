//! State shared by the threads of a run: the common start, the end, the budget of requests, and the
//! counters for the progress line. Several runs can have their start in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use echopool::time::Time;

use crate::stats::interval::Handover;
use crate::stats::tally::{Tallies, Tally};

/// The measured period begins this long after the last thread is ready, so that all threads learn
/// the time before.
pub const START_DELAY: Duration = Duration::from_millis(5);

/// The start of one run, or of several that begin together, and their early end.
pub struct Start {
    /// Threads, including those of rude clients, whose connections are not all established or
    /// failed yet.
    unready: AtomicUsize,
    /// When the first run begins, in nanoseconds; 0 until it is known.
    at: AtomicU64,
    /// Whether the start is set from outside.
    is_held: bool,
    stop: AtomicBool,
}

impl Start {
    /// `threads`: all threads that become [ready](Control::ready).
    pub fn new(threads: usize) -> Start {
        let unready = AtomicUsize::new(threads);
        Start { unready, at: AtomicU64::new(0), is_held: false, stop: AtomicBool::new(false) }
    }

    /// The runs do not begin until [`Control::start`] is called.
    pub fn held(self, is_held: bool) -> Start {
        Start { is_held, ..self }
    }
}

/// Shared by all threads of a run.
pub struct Control {
    start: Arc<Start>,
    /// How long after the common start this run begins.
    delay: Duration,
    /// Threads that have finished measuring.
    ended: AtomicUsize,
    /// Requests that a closed loop may still begin, if there is a limit.
    budget: Option<AtomicU64>,
    tallies: Arc<Tallies>,
    handovers: Vec<Arc<Handover>>,
}

impl Control {
    /// `threads`: threads of measured clients. `others`: further threads that become
    /// [ready](Control::ready).
    pub fn new(threads: usize, others: usize, requests: Option<u64>) -> Control {
        let start = Arc::new(Start::new(threads + others));
        Control::of_several(start, Duration::ZERO, threads, requests)
    }

    /// The control of one of several runs that connect together. It begins `delay` after their
    /// common start. If one of them is stopped, all are. `threads`: threads of measured clients.
    pub fn of_several(
        start: Arc<Start>,
        delay: Duration,
        threads: usize,
        requests: Option<u64>,
    ) -> Control {
        Control {
            start,
            delay,
            ended: AtomicUsize::new(0),
            budget: requests.map(AtomicU64::new),
            tallies: Arc::new(Tallies::new(threads)),
            handovers: (0..threads).map(|_| Arc::default()).collect(),
        }
    }

    /// Called once by each thread when all its connections are established or have failed. The last
    /// call sets the common start.
    pub fn ready(&self, now: Time) {
        if self.start.unready.fetch_sub(1, Relaxed) == 1 && !self.start.is_held {
            self.start(now + START_DELAY);
        }
    }

    /// Whether all threads are ready, and the start is not set.
    pub fn waits_for_start(&self) -> bool {
        self.start.unready.load(Relaxed) == 0 && self.start_at().is_none()
    }

    /// Sets the common start.
    pub fn start(&self, at: Time) {
        self.start.at.store(at.as_nanos(), Relaxed);
    }

    /// When the measured period begins; `None` until it is known.
    pub fn start_at(&self) -> Option<Time> {
        match self.start.at.load(Relaxed) {
            0 => None,
            nanos => Some(Time::from_nanos(nanos) + self.delay),
        }
    }

    /// Called once by each thread when it has finished measuring.
    pub fn measured(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    /// Whether all threads have finished measuring.
    pub fn all_measured(&self) -> bool {
        self.ended.load(Relaxed) == self.tallies.threads()
    }

    /// Ends the run early.
    pub fn stop(&self) {
        self.start.stop.store(true, Relaxed);
    }

    /// Whether the run should end early.
    pub fn stopped(&self) -> bool {
        self.start.stop.load(Relaxed)
    }

    /// Acquires the right to begin one more request of a closed loop. In an open loop the schedule
    /// says who begins which. Without a limit it is always granted. With a
    /// limit it is granted exactly that many times in all, whichever threads ask.
    #[inline]
    pub fn take_request(&self) -> bool {
        let Some(budget) = &self.budget else { return true };
        budget.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Whether there is a limit and it was reached.
    pub fn requests_used_up(&self) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.load(Relaxed) == 0)
    }

    /// Passes a thread's parts of intervals to the main thread.
    pub fn handover(&self, thread: usize) -> &Arc<Handover> {
        &self.handovers[thread]
    }

    /// The handovers of all threads, in their order.
    pub fn handovers(&self) -> &[Arc<Handover>] {
        &self.handovers
    }

    /// The counters of one thread.
    #[inline]
    pub fn tally(&self, thread: usize) -> &Tally {
        self.tallies.of(thread)
    }

    /// The counters of all threads.
    pub fn tallies(&self) -> &Arc<Tallies> {
        &self.tallies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_thread_sets_the_start() {
        let control = Control::new(1, 1, None);
        control.ready(Time::from_nanos(10));
        assert_eq!(control.start_at(), None);
        control.ready(Time::from_nanos(20));
        assert_eq!(control.start_at(), Some(Time::from_nanos(20) + START_DELAY));
    }

    #[test]
    fn several_runs_wait_for_each_other_and_begin_one_after_the_other() {
        let start = Arc::new(Start::new(2));
        let delay = Duration::from_millis(7);
        let [first, second] =
            [Duration::ZERO, delay].map(|delay| Control::of_several(start.clone(), delay, 1, None));
        first.ready(Time::from_nanos(10));
        assert_eq!((first.start_at(), second.start_at()), (None, None));
        second.ready(Time::from_nanos(20));
        let began = Time::from_nanos(20) + START_DELAY;
        assert_eq!((first.start_at(), second.start_at()), (Some(began), Some(began + delay)));
        first.measured();
        assert!(first.all_measured() && !second.all_measured());
        second.stop();
        assert!(first.stopped());
    }

    #[test]
    fn a_budget_is_given_out_exactly_whoever_asks() {
        let control = Control::new(4, 0, Some(10_000));
        let take_all = || (0..20_000).filter(|_| control.take_request()).count();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take_all)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(taken, 10_000);
        assert!(control.requests_used_up());
    }

    #[test]
    fn without_a_budget_there_is_no_end() {
        let control = Control::new(1, 0, None);
        assert!(control.take_request());
        assert!(!control.requests_used_up());
    }
}
