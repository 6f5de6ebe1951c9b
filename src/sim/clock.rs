//! The time of the simulated world, for services and clients that read a clock.

use std::cell::Cell;

use crate::base::time::Time;

thread_local! {
    static NOW: Cell<Time> = const { Cell::new(Time::ZERO) };
}

/// The time in the world that this thread simulates, for services that read a clock.
pub fn now() -> Time {
    NOW.get()
}

/// Sets the time that [`now`] returns.
pub(super) fn set_now(now: Time) {
    NOW.set(now);
}
