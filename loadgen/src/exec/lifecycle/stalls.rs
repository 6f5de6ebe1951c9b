//! Pauses of a thread: times in which it was to work and did not, because it had no processor, was
//! stopped, or was at something else for long. Pure: no clock.
//!
//! What was due in a pause is sent behind it, and finds the connections busy with each other: only
//! the first few show by their connections that the generator was late. So all that was due before
//! the end of a pause, and all that is queued behind that, is late by up to its length on the
//! generator's account.

use std::time::Duration;

use echopool::time::Time;

/// Shorter ones are a turn's work and a timer's delay, which the own lag sees by itself.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The pauses of one thread, the last one of which may still have consequences.
#[derive(Debug)]
pub struct Pauses {
    /// It wants to be at work again by then, and is paused if it is not.
    due: Time,
    /// When the last pause ended, and how long it was.
    ended: Time,
    length: Duration,
    /// What is due before this time is queued behind what the pause has delayed, by so much.
    queued_until: Time,
    left: Duration,
    longest: Duration,
}

impl Pauses {
    /// Before anything is due.
    pub const NONE: Pauses = Pauses {
        due: Time::MAX,
        ended: Time::ZERO,
        length: Duration::ZERO,
        queued_until: Time::ZERO,
        left: Duration::ZERO,
        longest: Duration::ZERO,
    };

    /// The thread has nothing to do until then, unless something happens.
    pub fn rest_until(&mut self, due: Time) {
        self.due = due;
    }

    /// It is at work. `oldest` tells when the oldest request was intended that is not sent yet.
    #[inline]
    pub fn at_work(&mut self, now: Time, oldest: impl FnOnce() -> Time) {
        if now < self.due {
            return;
        }
        let late = now - self.due;
        if late >= PAUSE_MIN {
            // What an earlier one has delayed may be waiting still, for a server that is slow.
            let is_queued = self.due <= self.queued_until || oldest() < self.queued_until;
            let before = if is_queued { self.left } else { Duration::ZERO };
            (self.ended, self.length) = (now, before + late);
            (self.queued_until, self.left) = (now, self.length);
            self.longest = self.longest.max(late);
        }
        // What lies between two looks at the clock without a rest is one too, if it is long.
        self.due = now;
    }

    /// The longest one since this was asked for last; zero if none was long enough to be one.
    pub fn take_longest(&mut self) -> Duration {
        std::mem::take(&mut self.longest)
    }

    /// Since when the generator alone is what keeps a request from being sent that is sent now, over
    /// a connection that has had room since `room_since`.
    #[inline]
    pub fn own_since(&mut self, now: Time, intended: Time, room_since: Time) -> Time {
        let lag = now - intended;
        let part = if intended < self.ended {
            self.length.min(lag)
        } else if intended < self.queued_until {
            self.left.min(lag)
        } else {
            return room_since;
        };
        (self.queued_until, self.left) = (self.queued_until.max(now), part);
        room_since.min(now.saturating_sub(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time::from_nanos(micros * 1_000)
    }

    /// At rest until 10 ms, and back at 310 ms.
    fn paused() -> Pauses {
        let mut pauses = Pauses::NONE;
        pauses.rest_until(at(10_000));
        at_work(&mut pauses, 310_000);
        pauses
    }

    /// At work with nothing that is not sent.
    fn at_work(pauses: &mut Pauses, now: u64) {
        pauses.at_work(at(now), || Time::MAX);
    }

    /// The own part of a request's lag, in microseconds, over a connection that had room just now.
    fn own(pauses: &mut Pauses, now: u64, intended: u64) -> u128 {
        (at(now) - pauses.own_since(at(now), at(intended), at(now - 50)).max(at(intended)))
            .as_micros()
    }

    #[test]
    fn what_was_due_in_a_pause_is_late_by_it_whichever_connection_it_waited_for() {
        let mut pauses = paused();
        assert_eq!(own(&mut pauses, 310_100, 10_000), 300_000);
        assert_eq!(own(&mut pauses, 312_000, 110_000), 202_000, "its whole lag");
        assert_eq!(own(&mut pauses, 312_000, 2_000), 300_000, "the rest was so before");
        assert_eq!(own(&mut pauses, 320_000, 309_000), 11_000);
    }

    #[test]
    fn what_is_queued_behind_it_is_late_by_what_is_left_of_it() {
        let mut pauses = paused();
        assert_eq!(own(&mut pauses, 330_000, 309_000), 21_000);
        assert_eq!(own(&mut pauses, 335_000, 320_000), 15_000, "due before the one in front went");
        assert_eq!(own(&mut pauses, 400_000, 334_000), 15_000, "the server is slow now");
        assert_eq!(own(&mut pauses, 400_100, 400_080), 20, "nothing is queued any more");
        assert_eq!(own(&mut pauses, 700_000, 500_000), 50, "the server alone");
    }

    #[test]
    fn the_longest_one_is_told_once() {
        let mut pauses = paused();
        at_work(&mut pauses, 311_500);
        assert_eq!(pauses.take_longest(), Duration::from_millis(300));
        at_work(&mut pauses, 311_900);
        assert_eq!(pauses.take_longest(), Duration::ZERO);
    }

    #[test]
    fn what_comes_in_time_is_no_pause() {
        let mut pauses = Pauses::NONE;
        at_work(&mut pauses, 1);
        for now in (1_000..50_000).step_by(500) {
            pauses.rest_until(at(now + 400));
            at_work(&mut pauses, now + 300);
            at_work(&mut pauses, now + 500);
            assert_eq!(own(&mut pauses, now + 500, now + 1), 50);
        }
    }

    #[test]
    fn pauses_that_follow_each_other_add_up_until_the_queue_is_empty() {
        let mut pauses = paused();
        assert_eq!(own(&mut pauses, 310_100, 20_000), 290_100);
        at_work(&mut pauses, 310_100);
        at_work(&mut pauses, 410_100);
        assert_eq!(own(&mut pauses, 410_200, 21_000), 389_200);
        assert_eq!(own(&mut pauses, 410_300, 410_000), 300);
        pauses.rest_until(at(600_000));
        at_work(&mut pauses, 620_000);
        assert_eq!(own(&mut pauses, 620_100, 100_000), 20_000, "the earlier ones are over");
    }

    #[test]
    fn a_short_one_does_not_end_what_an_earlier_one_has_delayed() {
        for (oldest, expected) in [(110_000, 303_000), (380_000, 3_000)] {
            let mut pauses = paused();
            assert_eq!(own(&mut pauses, 310_100, 10_000), 300_000);
            // The server is slow, and the thread rests until it looks after its connections.
            pauses.rest_until(at(360_000));
            pauses.at_work(at(363_000), || at(oldest));
            assert_eq!(own(&mut pauses, 420_000, 50_000), expected);
        }
    }
}
