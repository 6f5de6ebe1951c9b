//! The thread of `--stats-interval`: logs the rates at an interval that can be changed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ending::Ending;
use super::failure::Failure;
use super::{report, spawn};
use crate::server::ServerHandle;

/// The interval, and whether the thread has started.
#[derive(Default)]
pub(super) struct Rates {
    state: Mutex<IntervalState>,
    changed: Condvar,
}

#[derive(Default)]
struct IntervalState {
    interval: Option<Duration>,
    started: bool,
}

impl Rates {
    /// Starts the thread if an interval needs it. It then runs until the process ends.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub(super) fn start(
        self: &Arc<Rates>,
        interval: Option<Duration>,
        ending: &Arc<Ending>,
    ) -> Result<(), Failure> {
        let mut state = self.lock();
        if interval.is_some() && !state.started {
            let (rates, ending) = (Arc::clone(self), Arc::clone(ending));
            spawn("stats", move || rates.run(&ending.server))?;
            state.started = true;
        }
        Ok(())
    }

    /// Changes the interval. `None` logs nothing. The thread must have started.
    pub(super) fn set(&self, interval: Option<Duration>) {
        let mut state = self.lock();
        if state.interval != interval {
            state.interval = interval;
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, IntervalState> {
        // Each change is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, server: &ServerHandle) {
        loop {
            let waiting = self.changed.wait_while(self.lock(), |state| state.interval.is_none());
            let interval = waiting.unwrap_or_else(PoisonError::into_inner).interval;
            if let Some(interval) = interval {
                self.report(server, interval);
            }
        }
    }

    /// Logs the rates once per interval, counted from the start so that the lines do not drift.
    /// Returns when the interval is changed.
    fn report(&self, server: &ServerHandle, interval: Duration) {
        let mut last = (Instant::now(), server.stats().total());
        let mut next = last.0;
        loop {
            next += interval;
            let left = next.saturating_duration_since(Instant::now());
            let is_same = |state: &mut IntervalState| state.interval == Some(interval);
            let waited = self.changed.wait_timeout_while(self.lock(), left, is_same);
            let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            drop(state);
            if !waited.timed_out() {
                return;
            }
            let now = (Instant::now(), server.stats().total());
            report::rates(&last.1, &now.1, now.0 - last.0);
            // After a suspension, logs one line for the whole time instead of one for each interval.
            next = next.max(now.0.checked_sub(interval).unwrap_or(now.0));
            last = now;
        }
    }
}
