//! Which failed receives are logged: the first of several in a row, and one a second at most. A socket
//! that another process has shut down fails again after each datagram that comes. Pure: no clock.

use std::time::Duration;

use crate::base::time::Time;

/// From one line to the next one, at least.
const QUIET: Duration = Duration::from_secs(1);

/// What was logged of a thread's receives.
#[derive(Default)]
pub(super) struct Failures {
    /// Whether the failure that goes on was logged.
    is_known: bool,
    /// When the next line may be written.
    next: Time,
}

impl Failures {
    /// A receive has failed. Returns whether that is to be logged.
    pub(super) fn failed(&mut self, now: Time) -> bool {
        let is_logged = !self.is_known && now >= self.next;
        if is_logged {
            (self.is_known, self.next) = (true, now + QUIET);
        }
        is_logged
    }

    /// A receive has brought something.
    #[inline]
    pub(super) fn recovered(&mut self) {
        self.is_known = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_failure_that_goes_on_is_logged_once() {
        let mut failures = Failures::default();
        let logged = (0..1_000).filter(|nth| failures.failed(at(5_000 + 10 * nth)));
        assert_eq!(logged.collect::<Vec<_>>(), [0]);
        failures.recovered();
        assert!(failures.failed(at(20_000)), "this is another one");
    }

    /// As at a socket that was shut down, while datagrams come.
    #[test]
    fn failures_between_datagrams_are_logged_once_a_second() {
        let mut failures = Failures::default();
        let mut logged = Vec::new();
        for millis in (5_000..8_000).step_by(10) {
            if failures.failed(at(millis)) {
                logged.push(millis);
            }
            failures.recovered();
        }
        assert_eq!(logged, [5_000, 6_000, 7_000]);
    }

    #[test]
    fn a_failure_that_begins_while_nothing_may_be_logged_is_logged_if_it_goes_on() {
        let mut failures = Failures::default();
        assert!(failures.failed(at(5_000)));
        failures.recovered();
        assert!(!failures.failed(at(5_010)));
        assert!(!failures.failed(at(5_990)));
        assert!(failures.failed(at(6_000)));
    }
}
