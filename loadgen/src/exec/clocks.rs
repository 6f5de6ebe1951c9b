//! Reads the monotonic clock and the wall clock at the same moment.

use std::time::{Duration, SystemTime};

use echopool::internals;
use echopool::time::Time;

/// How often both clocks are read, at most.
const TRIES: usize = 8;
/// So close together, two readings are of the same moment.
const CLOSE: Duration = Duration::from_micros(20);

/// The time of the clock of [`internals::now`], and that of the wall clock at the same moment. A
/// thread that is suspended between two readings tries again, so the error is that of the best of
/// a few tries: below 20 us, unless each of them is interrupted.
pub fn together() -> (Time, SystemTime) {
    closest(|| (internals::now(), SystemTime::now(), internals::now()))
}

/// `read` returns the time before and after the other clock was read, and what that showed.
fn closest<T>(mut read: impl FnMut() -> (Time, T, Time)) -> (Time, T) {
    let (mut before, mut other, mut after) = read();
    for _ in 1..TRIES {
        if after - before <= CLOSE {
            break;
        }
        let again = read();
        if again.2 - again.0 < after - before {
            (before, other, after) = again;
        }
    }
    (before + (after - before) / 2, other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(us: u64) -> Time {
        Time::ZERO + Duration::from_micros(us)
    }

    /// What is used of these times before and after each reading of the other clock, which shows
    /// the number of the reading, and how many readings there were.
    fn used(pairs: &[(u64, u64)]) -> ((Time, usize), usize) {
        let mut read = 0;
        let used = closest(|| {
            let (before, after) = pairs[read.min(pairs.len() - 1)];
            read += 1;
            (us(before), read, us(after))
        });
        (used, read)
    }

    #[test]
    fn the_first_reading_is_used_if_nothing_came_between() {
        assert_eq!(used(&[(100, 120), (200, 200)]), ((us(110), 1), 1));
    }

    #[test]
    fn a_pause_between_the_clocks_is_tried_again() {
        assert_eq!(used(&[(100, 5_000), (6_000, 6_004)]), ((us(6_002), 2), 2));
    }

    #[test]
    fn the_shortest_of_a_few_long_pauses_is_used() {
        let pauses = [(0, 100), (200, 290), (300, 500), (600, 700)];
        assert_eq!(used(&pauses), ((us(245), 2), TRIES));
    }

    #[test]
    fn both_clocks_are_those_of_the_system() {
        let (now, wall) = together();
        assert!(now <= internals::now() && wall <= SystemTime::now());
    }
}
