//! The clock of services and clients that read the time themselves: that of the simulated world.

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
