//! Assigns each request of an open loop to a connection. The `schedule` is on one side, the
//! connections that have room on the other. Pure: no I/O, no clock.
//!
//! A request that finds no connection with room waits; requests are served in order. They are not
//! stored: the waiting ones are the part of the schedule between its position and the present, so
//! the memory does not depend on their number.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};

use echopool::time::Time;

use crate::traffic::schedule::{Arrivals, Lane, Profile, Spacing};

/// How the requests of an open loop are spread over time and connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenLoop {
    pub profile: Profile,
    pub spacing: Spacing,
    /// Whether each connection has its own schedule.
    pub strict: bool,
}

impl OpenLoop {
    /// The schedules of a thread, at their first request: one, or one for each connection.
    /// `first`: the number of the thread's first connection.
    pub fn arrivals(&self, lane: Lane, first: u64, connections: usize, seed: u64) -> Vec<Arrivals> {
        let of = |lane, number| Arrivals::new(&self.profile, self.spacing, lane, seed, number);
        match self.strict {
            true => (0..connections as u64)
                .map(|nth| of(lane.of_connection(nth), first + nth))
                .collect(),
            false => vec![of(lane, first)],
        }
    }
}

/// The pending requests and the free connections of one thread.
pub struct Dispatch {
    profile: Profile,
    start: Time,
    /// For each connection, whether it is in `free`.
    queued: Vec<bool>,
    kind: Schedules,
}

enum Schedules {
    /// One schedule. Each request goes to the connection that has had room for the longest time.
    Shared { arrivals: Arrivals, free: VecDeque<u32> },
    /// One schedule per connection. A connection with room waits for the next time of its own
    /// schedule.
    Strict { arrivals: Vec<Arrivals>, free: BinaryHeap<Reverse<(u64, u32)>> },
}

impl Dispatch {
    /// `first`: the number of the thread's first connection.
    pub fn new(plan: &OpenLoop, lane: Lane, first: u64, connections: usize, seed: u64) -> Dispatch {
        let mut arrivals = plan.arrivals(lane, first, connections, seed);
        let kind = if plan.strict {
            Schedules::Strict { arrivals, free: BinaryHeap::with_capacity(connections) }
        } else {
            let free = VecDeque::with_capacity(connections);
            Schedules::Shared { arrivals: arrivals.swap_remove(0), free }
        };
        let queued = vec![false; connections];
        Dispatch { profile: plan.profile.clone(), start: Time::ZERO, queued, kind }
    }

    /// Size of the table per connection, in bytes, at most.
    pub const BYTES_PER_CONNECTION: usize = size_of::<Arrivals>() + 17;

    /// Starts the schedule at this time. Must be called first.
    pub fn begin(&mut self, start: Time) {
        self.start = start;
    }

    /// The connection has room for a request.
    #[inline]
    pub fn room(&mut self, index: usize) {
        if std::mem::replace(&mut self.queued[index], true) {
            return;
        }
        match &mut self.kind {
            Schedules::Shared { free, .. } => free.push_back(index as u32),
            Schedules::Strict { arrivals, free } => {
                free.push(Reverse((arrivals[index].next_ns(), index as u32)));
            }
        }
    }

    /// Returns a connection that had room when last checked, if a request is due for it. The
    /// connection no longer counts as free; the caller must [take](Self::take) its request.
    #[inline]
    pub fn due_connection(&mut self, now: Time) -> Option<usize> {
        let now_ns = self.nanos(now)?;
        let index = match &mut self.kind {
            Schedules::Shared { arrivals, free } if arrivals.next_ns() <= now_ns => {
                free.pop_front()?
            }
            Schedules::Shared { .. } => return None,
            Schedules::Strict { arrivals, free } => loop {
                let mut first = free.peek_mut()?;
                let Reverse((due, index)) = *first;
                if due > now_ns {
                    return None;
                }
                let due_now = arrivals[index as usize].next_ns();
                if due_now == due {
                    PeekMut::pop(first);
                    break index;
                }
                // It was queued with room for several requests and has taken one since.
                *first = Reverse((due_now, index));
            },
        };
        self.queued[index as usize] = false;
        Some(index as usize)
    }

    /// Takes the next request for this connection if one is due, and returns its intended time.
    #[inline]
    pub fn take(&mut self, index: usize, now: Time) -> Option<Time> {
        let now_ns = self.nanos(now)?;
        let arrivals = match &mut self.kind {
            Schedules::Shared { arrivals, .. } => arrivals,
            Schedules::Strict { arrivals, .. } => &mut arrivals[index],
        };
        let due = arrivals.next_ns();
        if due > now_ns {
            return None;
        }
        arrivals.advance(&self.profile);
        Some(time(self.start, due))
    }

    /// Whether a connection that just got room would have to wait behind another one for the next
    /// request.
    #[inline]
    pub fn others_wait(&self) -> bool {
        matches!(&self.kind, Schedules::Shared { free, .. } if !free.is_empty())
    }

    /// When there will be both a request and a connection for it; `None` if one of them is missing.
    #[inline]
    pub fn next(&self) -> Option<Time> {
        let due = match &self.kind {
            Schedules::Shared { free, .. } if free.is_empty() => return None,
            Schedules::Shared { arrivals, .. } => arrivals.next_ns(),
            Schedules::Strict { free, .. } => free.peek()?.0.0,
        };
        (due != u64::MAX).then(|| time(self.start, due))
    }

    /// The intended time of the oldest request that has not been taken.
    pub fn oldest(&self) -> Time {
        let due = match &self.kind {
            Schedules::Shared { arrivals, .. } => arrivals.next_ns(),
            Schedules::Strict { arrivals, .. } => {
                arrivals.iter().map(Arrivals::next_ns).min().unwrap_or(u64::MAX)
            }
        };
        time(self.start, due)
    }

    /// Whether all requests were taken, or can no longer be. `is_gone`: whether a connection has
    /// ended for good.
    pub fn is_exhausted(&self, is_gone: impl Fn(usize) -> bool) -> bool {
        let is_over = |arrivals: &Arrivals| arrivals.next_ns() == u64::MAX;
        match &self.kind {
            Schedules::Shared { arrivals, .. } => is_over(arrivals),
            Schedules::Strict { arrivals, .. } => {
                arrivals.iter().enumerate().all(|(index, own)| is_over(own) || is_gone(index))
            }
        }
    }

    /// Passes the intended time of each request before `end` that was not taken to `each`.
    pub fn abandon(&mut self, end: Time, mut each: impl FnMut(Time)) {
        let Dispatch { profile, start, kind, .. } = self;
        let schedules = match kind {
            Schedules::Shared { arrivals, .. } => std::slice::from_mut(arrivals),
            Schedules::Strict { arrivals, .. } => arrivals.as_mut_slice(),
        };
        for arrivals in schedules {
            while arrivals.next_ns() != u64::MAX && time(*start, arrivals.next_ns()) < end {
                each(time(*start, arrivals.next_ns()));
                arrivals.advance(profile);
            }
        }
    }

    /// Nanoseconds since the start; `None` before it.
    #[inline]
    fn nanos(&self, now: Time) -> Option<u64> {
        now.as_nanos().checked_sub(self.start.as_nanos())
    }
}

#[inline]
fn time(start: Time, nanos: u64) -> Time {
    start + std::time::Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::rate::Rate;
    use crate::traffic::schedule::steady;
    use std::time::Duration;

    const START: Time = Time::from_nanos(1_000_000);

    fn dispatch(rate: u64, connections: u64, strict: bool) -> Dispatch {
        let profile = Profile::new(Duration::ZERO, &[steady(Rate::per_second(rate))]);
        let plan = OpenLoop { profile, spacing: Spacing::Const, strict };
        let lane = Lane::of_thread(0, 1, connections, connections);
        let mut dispatch = Dispatch::new(&plan, lane, 0, connections as usize, 1);
        dispatch.begin(START);
        dispatch
    }

    #[test]
    fn the_tables_take_what_is_said_of_them() {
        let Dispatch { queued, kind, .. } = dispatch(1_000, 10, true);
        let Schedules::Strict { arrivals, free } = kind else {
            panic!("each has its own schedule")
        };
        assert!(free.capacity() >= 10, "room for each of them");
        let entry = size_of::<Reverse<(u64, u32)>>();
        let each = size_of_val(&arrivals[0]) + entry + size_of_val(&queued[0]);
        assert_eq!(Dispatch::BYTES_PER_CONNECTION, each);
    }

    fn at_ms(millis: u64) -> Time {
        START + Duration::from_millis(millis)
    }

    fn next(dispatch: &mut Dispatch, now: Time) -> Option<(usize, Time)> {
        let index = dispatch.due_connection(now)?;
        Some((index, dispatch.take(index, now).expect("it is due")))
    }

    #[test]
    fn requests_go_to_the_connection_that_has_waited_longest() {
        let mut dispatch = dispatch(1000, 3, false);
        [2, 0, 1, 2].into_iter().for_each(|index| dispatch.room(index));
        assert_eq!(dispatch.next(), Some(at_ms(0)));
        assert_eq!(next(&mut dispatch, at_ms(0)), Some((2, at_ms(0))));
        assert_eq!(next(&mut dispatch, at_ms(0)), None, "the next one is not due");
        assert_eq!(dispatch.next(), Some(at_ms(1)));
        assert_eq!(next(&mut dispatch, at_ms(5)), Some((0, at_ms(1))));
        assert_eq!(next(&mut dispatch, at_ms(5)), Some((1, at_ms(2))));
        assert_eq!(next(&mut dispatch, at_ms(5)), None, "no connection has room");
        assert_eq!((dispatch.next(), dispatch.others_wait()), (None, false));
        assert_eq!(dispatch.oldest(), at_ms(3));
        assert_eq!(dispatch.take(2, at_ms(5)), Some(at_ms(3)), "it keeps its intended time");
    }

    #[test]
    fn a_strict_schedule_waits_for_its_own_connection() {
        let mut dispatch = dispatch(2000, 2, true);
        dispatch.room(1);
        assert_eq!(dispatch.next(), Some(START + Duration::from_micros(500)));
        assert_eq!(next(&mut dispatch, at_ms(0)), None);
        assert!(matches!(next(&mut dispatch, at_ms(3)), Some((1, _))));
        assert_eq!(next(&mut dispatch, at_ms(3)), None, "connection 0 has no room");
        assert_eq!(dispatch.oldest(), at_ms(0));
        dispatch.room(1);
        dispatch.room(0);
        assert_eq!(next(&mut dispatch, at_ms(3)), Some((0, at_ms(0))));
        assert_eq!(dispatch.take(0, at_ms(3)), Some(at_ms(1)));
        assert!(matches!(next(&mut dispatch, at_ms(3)), Some((1, _))));
        assert_eq!(next(&mut dispatch, at_ms(3)), None);
    }

    #[test]
    fn a_connection_that_took_a_request_while_it_was_queued_is_due_at_its_next_one() {
        let mut dispatch = dispatch(2000, 2, true);
        dispatch.room(0);
        assert_eq!(dispatch.take(0, at_ms(0)), Some(at_ms(0)), "on a reply, with room for more");
        dispatch.room(0);
        assert_eq!(
            next(&mut dispatch, START + Duration::from_micros(999)),
            None,
            "it has taken it"
        );
        assert_eq!(dispatch.next(), Some(at_ms(1)));
        assert_eq!(next(&mut dispatch, at_ms(1)), Some((0, at_ms(1))));
        assert_eq!(next(&mut dispatch, at_ms(9)), None, "once each time that it has room");
    }

    #[test]
    fn what_was_never_taken_is_counted_whole() {
        for strict in [false, true] {
            let mut dispatch = dispatch(1000, 4, strict);
            (0..4).for_each(|index| dispatch.room(index));
            for _ in 0..4 {
                next(&mut dispatch, at_ms(10)).expect("due, and a free connection");
            }
            let mut left = Vec::new();
            dispatch.abandon(at_ms(100), |intended| left.push(intended));
            left.sort();
            assert_eq!(left.len(), 96, "strict {strict}");
            assert_eq!((left[0], left[95]), (at_ms(4), at_ms(99)));
            dispatch.abandon(at_ms(100), |_| panic!("nothing is left"));
        }
    }

    #[test]
    fn before_the_start_nothing_is_due() {
        let mut dispatch = dispatch(1000, 1, false);
        dispatch.room(0);
        assert_eq!(next(&mut dispatch, Time::from_nanos(10)), None);
    }

    #[test]
    fn all_is_taken_when_the_schedule_has_ended_for_each_connection_that_is_left() {
        for strict in [false, true] {
            let mut dispatch = dispatch(1000, 2, strict);
            let none_gone = |_| false;
            assert!(!dispatch.is_exhausted(none_gone), "strict {strict}");
            assert_eq!(dispatch.is_exhausted(|_| true), strict, "one schedule serves others too");
            dispatch.profile.end_after(2, Vec::new());
            for index in 0..2 {
                assert!(dispatch.take(index, at_ms(5)).is_some());
            }
            assert!(dispatch.is_exhausted(none_gone), "strict {strict}");
        }
    }

    #[test]
    fn a_connection_waits_behind_others_that_are_free_unless_it_has_its_own_schedule() {
        for strict in [false, true] {
            let mut dispatch = dispatch(1000, 2, strict);
            assert!(!dispatch.others_wait());
            dispatch.room(1);
            assert_eq!(dispatch.others_wait(), !strict);
        }
    }
}
