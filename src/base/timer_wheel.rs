//! A timing wheel: one timer per slot, set and cleared in constant time. A timer never fires early,
//! and at most one tick late.
//!
//! It is the hierarchical wheel of Varghese and Lauck ("Hashed and Hierarchical Timing Wheels",
//! 1987, scheme 7), with five levels of 64 places each. A place of the first level spans one tick,
//! and each further level is 64 times as coarse. A timer waits in the finest level that covers its
//! distance, and moves to a finer one when the wheel reaches its place. One word per level marks
//! the occupied places, so the next one is found without a search.

use std::time::Duration;

use super::time::Time;

const LEVELS: usize = 5;
const PLACES: usize = 64;
const NONE: u32 = u32::MAX;

/// Timers further away than this many ticks wait in the last place of the last level, and are put
/// back there until they are near enough.
const HORIZON: u64 = (PLACES as u64).pow(LEVELS as u32) - 1;

/// One timer for each of a fixed number of slots.
pub(crate) struct Wheel {
    tick: Duration,
    /// The tick up to which all timers have fired.
    now: u64,
    places: Box<[[u32; PLACES]; LEVELS]>,
    occupied: [u64; LEVELS],
    /// One node for each slot up to the highest that ever had a timer, so the memory of slots that
    /// are never used is never touched.
    nodes: Vec<Node>,
    /// Number of timers that are set.
    set: usize,
}

#[derive(Clone, Copy, Default)]
struct Node {
    /// The tick in which the timer fires. 0 if it is not set (no timer fires in tick 0).
    due: u64,
    previous: u32,
    next: u32,
    level: u8,
    place: u8,
}

impl Wheel {
    /// Memory per slot, in bytes.
    pub(crate) const BYTES_PER_SLOT: usize = size_of::<Node>();

    /// A wheel without timers for slots below `slots`, positioned at `now`.
    pub(crate) fn new(slots: usize, tick: Duration, now: Time) -> Wheel {
        assert!(!tick.is_zero(), "the tick of a wheel must not be zero");
        let mut wheel = Wheel {
            tick,
            now: 0,
            places: Box::new([[NONE; PLACES]; LEVELS]),
            occupied: [0; LEVELS],
            nodes: Vec::with_capacity(slots),
            set: 0,
        };
        wheel.now = wheel.ticks(now);
        wheel
    }

    /// The tick that contains `time`. It has passed entirely when the next one starts.
    fn ticks(&self, time: Time) -> u64 {
        time.as_nanos() / self.tick.as_nanos() as u64
    }

    /// Sets the slot's timer to `due`, unless it is already set to an earlier time. If `due` has
    /// passed, the timer fires in the next tick.
    pub(crate) fn set_earlier(&mut self, slot: u32, due: Time) {
        // Rounded up: a timer that fires within its own tick would be early.
        let tick = self.ticks(due).saturating_add(1).max(self.now + 1);
        if self.nodes.len() <= slot as usize {
            assert!((slot as usize) < self.nodes.capacity(), "no slot {slot}");
            self.nodes.resize(slot as usize + 1, Node::default());
        }
        let old = self.nodes[slot as usize].due;
        if old != 0 {
            if old <= tick {
                return;
            }
            self.unlink(slot);
        }
        self.link(slot, tick);
    }

    /// Clears the slot's timer, if it is set.
    pub(crate) fn clear(&mut self, slot: u32) {
        if self.nodes.get(slot as usize).is_some_and(|node| node.due != 0) {
            self.unlink(slot);
        }
    }

    /// When to call [`pop`](Wheel::pop) next: not later than the first timer is due, and sometimes
    /// earlier, when timers have to move to a finer level.
    #[inline]
    pub(crate) fn next(&self) -> Option<Time> {
        if self.set == 0 { None } else { self.next_set() }
    }

    fn next_set(&self) -> Option<Time> {
        let tick = (0..LEVELS).filter_map(|level| self.next_of(level)).min()?;
        Some(Time::from_nanos(tick.saturating_mul(self.tick.as_nanos() as u64)))
    }

    /// The first tick after the current one at which the wheel reaches an occupied place of this
    /// level.
    fn next_of(&self, level: usize) -> Option<u64> {
        if self.occupied[level] == 0 {
            return None;
        }
        let shift = 6 * level as u32;
        let at = self.now >> shift;
        // From the place after the current one, around to the current one itself.
        let ahead = self.occupied[level].rotate_right((at + 1) as u32);
        Some((at + 1 + u64::from(ahead.trailing_zeros())) << shift)
    }

    /// Clears the next timer that is due at `now`, and returns its slot. `None` if no more are due.
    /// Timers may be set and cleared between calls. A timer that is set now fires in a later tick.
    #[inline]
    pub(crate) fn pop(&mut self, now: Time) -> Option<u32> {
        if self.set == 0 { None } else { self.pop_set(now) }
    }

    fn pop_set(&mut self, now: Time) -> Option<u32> {
        let end = self.ticks(now);
        loop {
            if let Some(slot) = self.pop_here() {
                return Some(slot);
            }
            let next = (0..LEVELS).filter_map(|level| self.next_of(level)).min();
            match next {
                Some(next) if next <= end => self.now = next,
                _ => {
                    self.now = self.now.max(end);
                    return None;
                }
            }
        }
    }

    /// Empties the places at the wheel's position, coarse levels first, up to the first timer that
    /// is due.
    fn pop_here(&mut self) -> Option<u32> {
        for level in (0..LEVELS).rev() {
            let shift = 6 * level as u32;
            if self.now & ((1 << shift) - 1) != 0 {
                continue;
            }
            let place = (self.now >> shift) as usize % PLACES;
            while self.places[level][place] != NONE {
                let slot = self.places[level][place];
                let due = self.nodes[slot as usize].due;
                self.unlink(slot);
                if due <= self.now {
                    return Some(slot);
                }
                self.link(slot, due);
            }
        }
        None
    }

    fn link(&mut self, slot: u32, due: u64) {
        self.set += 1;
        let distance = due - self.now;
        let near = distance.min(HORIZON);
        let level = (0..LEVELS).find(|&level| near < 1 << (6 * (level + 1))).expect("clamped");
        let place = ((self.now + near) >> (6 * level)) as usize % PLACES;
        let first = std::mem::replace(&mut self.places[level][place], slot);
        if first != NONE {
            self.nodes[first as usize].previous = slot;
        }
        self.occupied[level] |= 1 << place;
        let (level, place) = (level as u8, place as u8);
        self.nodes[slot as usize] = Node { due, previous: NONE, next: first, level, place };
    }

    fn unlink(&mut self, slot: u32) {
        self.set -= 1;
        let node = std::mem::take(&mut self.nodes[slot as usize]);
        let (level, place) = (node.level as usize, node.place as usize);
        if node.next != NONE {
            self.nodes[node.next as usize].previous = node.previous;
        }
        if node.previous != NONE {
            self.nodes[node.previous as usize].next = node.next;
            return;
        }
        self.places[level][place] = node.next;
        if node.next == NONE {
            self.occupied[level] &= !(1 << place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK: Duration = Duration::from_millis(1);

    fn ms(count: u64) -> Time {
        Time::from_nanos(count * 1_000_000)
    }

    fn drain(wheel: &mut Wheel, now: Time) -> Vec<u32> {
        let timers = wheel.nodes.len();
        let mut fired: Vec<u32> = std::iter::from_fn(|| wheel.pop(now)).take(timers + 1).collect();
        assert!(fired.len() <= timers, "a timer fired twice");
        fired.sort();
        fired
    }

    #[test]
    fn the_earlier_of_two_times_counts() {
        let mut wheel = Wheel::new(1, TICK, ms(7));
        wheel.set_earlier(0, ms(100));
        wheel.set_earlier(0, ms(50));
        wheel.set_earlier(0, ms(80));
        assert!(
            drain(&mut wheel, ms(50)).is_empty(),
            "a timer for 50 ms fires when 50 ms have passed"
        );
        assert_eq!(drain(&mut wheel, ms(51)), [0]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_time_that_has_passed_means_the_next_tick() {
        let mut wheel = Wheel::new(1, TICK, ms(7));
        for (due, now) in [(0, 7), (7, 8)] {
            wheel.set_earlier(0, ms(due));
            assert_eq!(wheel.pop(ms(now)), None, "otherwise a turn that sets timers never ends");
            assert_eq!(wheel.next(), Some(ms(now + 1)));
            assert_eq!(wheel.pop(ms(now + 1)), Some(0));
        }
    }

    #[test]
    fn at_each_distance_that_changes_the_level_it_fires_in_its_tick() {
        for start in [0, 1, 63, 64, 4095, 4096, 5000] {
            for power in 1..LEVELS as u32 {
                for distance in (64u64.pow(power) - 2)..=(64u64.pow(power) + 2) {
                    let mut wheel = Wheel::new(1, TICK, ms(start));
                    wheel.set_earlier(0, ms(start + distance));
                    assert_eq!(wheel.pop(ms(start)), None);
                    assert_eq!(wheel.pop(ms(start + distance)), None, "{start} {distance}");
                    assert_eq!(wheel.pop(ms(start + distance + 1)), Some(0));
                }
            }
        }
    }

    /// 50 days after the origin, at a tick of a millisecond.
    #[test]
    fn ticks_may_have_more_than_32_bits() {
        let start = u64::from(u32::MAX) - 1;
        let mut wheel = Wheel::new(1, TICK, ms(start));
        for now in start..start + 5 {
            wheel.set_earlier(0, ms(now));
            assert_eq!(wheel.next(), Some(ms(now + 1)));
            assert_eq!(drain(&mut wheel, ms(now + 1)), [0]);
        }
    }

    #[test]
    fn nothing_is_waited_for_where_a_timer_was_cleared() {
        let mut wheel = Wheel::new(2, TICK, ms(0));
        wheel.set_earlier(0, ms(5));
        wheel.set_earlier(1, ms(50));
        assert_eq!(wheel.next(), Some(ms(6)));
        wheel.clear(0);
        assert_eq!(wheel.next(), Some(ms(51)), "otherwise the worker wakes for nothing");
    }

    #[test]
    fn a_cleared_timer_does_not_fire_even_when_its_time_has_come() {
        let mut wheel = Wheel::new(3, TICK, ms(0));
        (0..3).for_each(|slot| wheel.set_earlier(slot, ms(5)));
        let first = wheel.pop(ms(9)).unwrap();
        wheel.clear((first + 1) % 3);
        assert_eq!(drain(&mut wheel, ms(9)), [(first + 2) % 3]);
    }

    #[test]
    fn a_timer_beyond_the_horizon_fires_all_the_same() {
        let mut wheel = Wheel::new(1, TICK, ms(3));
        let due = ms(3 * HORIZON);
        wheel.set_earlier(0, due);
        let mut now = ms(3);
        while let Some(next) = wheel.next() {
            assert!(next > now, "time advances with each wait");
            now = next;
            if wheel.pop(now).is_some() {
                break;
            }
        }
        assert!(now >= due && now <= due + 2 * TICK, "{now:?}");
    }

    proptest! {
        #![proptest_config(crate::base::property::config())]

        /// Compares the wheel with a plain list of times: never early, at most one tick late, none
        /// lost, for any steps of time.
        #[test]
        fn it_agrees_with_a_list_of_times(
            start in 0u64..100_000,
            steps in prop::collection::vec(
                (0u32..20, 0u64..400_000, 0u64..200_000, any::<bool>()),
                1..80,
            ),
        ) {
            let mut now = start * 1000;
            let mut wheel = Wheel::new(20, TICK, Time::from_nanos(now * 1000));
            let mut model = [None::<u64>; 20];
            for (slot, distance, step, clear) in steps {
                if clear {
                    wheel.clear(slot);
                    model[slot as usize] = None;
                } else {
                    let due = now + distance * 100;
                    wheel.set_earlier(slot, Time::from_nanos(due * 1000));
                    let earlier = model[slot as usize].map_or(due, |old| old.min(due));
                    model[slot as usize] = Some(earlier);
                }
                now += step * 50;
                for slot in drain(&mut wheel, Time::from_nanos(now * 1000)) {
                    let due = model[slot as usize].take();
                    prop_assert!(due.is_some_and(|due| due <= now), "early or not set");
                }
                for due in model.iter().flatten() {
                    prop_assert!(now < due + 2000, "late: due {} now {}", due, now);
                }
                if let (Some(next), Some(first)) = (wheel.next(), model.iter().flatten().min()) {
                    prop_assert!(next.as_nanos() <= (first + 2000) * 1000);
                }
                prop_assert_eq!(wheel.next().is_some(), model.iter().any(Option::is_some));
                // A wrong count would only cost time: an empty wheel is not searched.
                prop_assert_eq!(wheel.set, model.iter().flatten().count());
            }
        }
    }
}
