//! Stalls of a thread: times in which it should have worked and did not, because it had no
//! processor, was stopped, or took long for one task. Pure: no clock.
//!
//! Requests that were due in a stall are sent after it and find the connections busy with each
//! other, so only the first few show by their connections that the generator was late. Therefore
//! everything that was due before the end of a stall, and everything queued behind that, counts as
//! late by up to the length of the stall because of the generator.

use std::time::Duration;

use echopool::time::Time;

/// Shorter delays are the work of a turn or the delay of a timer, which the own lag includes
/// anyway.
const STALL_MIN: Duration = Duration::from_millis(1);

/// The stalls of one thread. The last one may still have an effect.
#[derive(Debug)]
pub struct Stalls {
    /// When it should work again. It is stalled if it does not.
    due: Time,
    /// When the last stall ended, and its length.
    ended: Time,
    length: Duration,
    /// Requests due before this time are queued behind those that the stall delayed, by `left`.
    queued_until: Time,
    left: Duration,
    longest: Duration,
}

impl Stalls {
    /// Before anything is due.
    pub const NONE: Stalls = Stalls {
        due: Time::MAX,
        ended: Time::ZERO,
        length: Duration::ZERO,
        queued_until: Time::ZERO,
        left: Duration::ZERO,
        longest: Duration::ZERO,
    };

    /// The thread has nothing to do until this time, unless an event occurs. If the time has passed,
    /// work has been due since now: the thread was not late before.
    pub fn idle_until(&mut self, due: Time, now: Time) {
        self.due = due.max(now);
    }

    /// The thread works. `oldest`: the intended time of the oldest unsent request.
    #[inline]
    pub fn at_work(&mut self, now: Time, oldest: impl FnOnce() -> Time) {
        if now < self.due {
            return;
        }
        let late = now - self.due;
        if late >= STALL_MIN {
            // Requests that an earlier stall delayed may still be waiting for a slow server.
            let is_queued = self.due <= self.queued_until || oldest() < self.queued_until;
            let before = if is_queued { self.left } else { Duration::ZERO };
            (self.ended, self.length) = (now, before + late);
            (self.queued_until, self.left) = (now, self.length);
            self.longest = self.longest.max(late);
        }
        // A long time between two readings of the clock without idling is a stall too.
        self.due = now;
    }

    /// By how much a turn that begins now is late, if the thread was stalled before it. To be asked
    /// before the thread works in that turn.
    #[inline]
    pub fn late(&self, now: Time) -> Duration {
        let late = now - self.due;
        if late >= STALL_MIN { late } else { Duration::ZERO }
    }

    /// The longest stall since the last call; zero if there was none.
    pub fn take_longest(&mut self) -> Duration {
        std::mem::take(&mut self.longest)
    }

    /// The time since which only the generator has delayed a request that is sent now, over a
    /// connection that has had room since `room_since`.
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

    /// Idle until 10 ms, and back at 310 ms.
    fn stalled() -> Stalls {
        let mut stalls = Stalls::NONE;
        stalls.idle_until(at(10_000), Time::ZERO);
        at_work(&mut stalls, 310_000);
        stalls
    }

    /// Works, with no unsent request.
    fn at_work(stalls: &mut Stalls, now: u64) {
        stalls.at_work(at(now), || Time::MAX);
    }

    /// The generator's part of a request's lag, in microseconds, over a connection that just got
    /// room.
    fn own(stalls: &mut Stalls, now: u64, intended: u64) -> u128 {
        (at(now) - stalls.own_since(at(now), at(intended), at(now - 50)).max(at(intended)))
            .as_micros()
    }

    #[test]
    fn what_was_due_in_a_stall_is_late_by_it_whichever_connection_it_waited_for() {
        let mut stalls = stalled();
        assert_eq!(own(&mut stalls, 310_100, 10_000), 300_000);
        assert_eq!(own(&mut stalls, 312_000, 110_000), 202_000, "its whole lag");
        assert_eq!(own(&mut stalls, 312_000, 2_000), 300_000, "the rest was so before");
        assert_eq!(own(&mut stalls, 320_000, 309_000), 11_000);
    }

    #[test]
    fn what_is_queued_behind_it_is_late_by_what_is_left_of_it() {
        let mut stalls = stalled();
        assert_eq!(own(&mut stalls, 330_000, 309_000), 21_000);
        assert_eq!(own(&mut stalls, 335_000, 320_000), 15_000, "due before the one in front went");
        assert_eq!(own(&mut stalls, 400_000, 334_000), 15_000, "the server is slow now");
        assert_eq!(own(&mut stalls, 400_100, 400_080), 20, "nothing is queued any more");
        assert_eq!(own(&mut stalls, 700_000, 500_000), 50, "the server alone");
    }

    #[test]
    fn a_turn_is_late_by_the_stall_before_it() {
        let mut stalls = Stalls::NONE;
        assert_eq!(stalls.late(at(500)), Duration::ZERO);
        stalls.idle_until(at(10_000), Time::ZERO);
        let late = [9_000, 10_000, 10_999, 11_000, 310_000].map(|now| stalls.late(at(now)));
        assert_eq!(late.map(|late| late.as_micros()), [0, 0, 0, 1_000, 300_000]);
        at_work(&mut stalls, 310_000);
        assert_eq!(stalls.late(at(310_500)), Duration::ZERO);
    }

    /// A check of all clients stays due for many turns, each of which works.
    #[test]
    fn work_that_has_been_due_for_long_is_no_stall_while_turns_follow_each_other() {
        let mut stalls = Stalls::NONE;
        for now in (10_000..300_000).step_by(800) {
            at_work(&mut stalls, now);
            stalls.idle_until(at(10_000), at(now));
        }
        assert_eq!(stalls.take_longest(), Duration::ZERO);
        at_work(&mut stalls, 305_000);
        assert!(stalls.take_longest() >= Duration::from_millis(5), "this one was late");
    }

    #[test]
    fn the_longest_one_is_told_once() {
        let mut stalls = stalled();
        at_work(&mut stalls, 311_500);
        assert_eq!(stalls.take_longest(), Duration::from_millis(300));
        at_work(&mut stalls, 311_900);
        assert_eq!(stalls.take_longest(), Duration::ZERO);
    }

    #[test]
    fn what_comes_in_time_is_no_stall() {
        let mut stalls = Stalls::NONE;
        at_work(&mut stalls, 1);
        for now in (1_000..50_000).step_by(500) {
            stalls.idle_until(at(now + 400), at(now));
            at_work(&mut stalls, now + 300);
            at_work(&mut stalls, now + 500);
            assert_eq!(own(&mut stalls, now + 500, now + 1), 50);
        }
    }

    #[test]
    fn stalls_that_follow_each_other_add_up_until_the_queue_is_empty() {
        let mut stalls = stalled();
        assert_eq!(own(&mut stalls, 310_100, 20_000), 290_100);
        at_work(&mut stalls, 310_100);
        at_work(&mut stalls, 410_100);
        assert_eq!(own(&mut stalls, 410_200, 21_000), 389_200);
        assert_eq!(own(&mut stalls, 410_300, 410_000), 300);
        stalls.idle_until(at(600_000), Time::ZERO);
        at_work(&mut stalls, 620_000);
        assert_eq!(own(&mut stalls, 620_100, 100_000), 20_000, "the earlier ones are over");
    }

    #[test]
    fn a_short_one_does_not_end_what_an_earlier_one_has_delayed() {
        for (oldest, expected) in [(110_000, 303_000), (380_000, 3_000)] {
            let mut stalls = stalled();
            assert_eq!(own(&mut stalls, 310_100, 10_000), 300_000);
            // The server is slow, and the thread is idle until it checks its connections.
            stalls.idle_until(at(360_000), Time::ZERO);
            stalls.at_work(at(363_000), || at(oldest));
            assert_eq!(own(&mut stalls, 420_000, 50_000), expected);
        }
    }
}
