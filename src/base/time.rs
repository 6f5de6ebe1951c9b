//! Monotonic time as the engines count it.
//!
//! A [`Time`] is a number of nanoseconds since an origin that the system (or the simulation) chose.
//! It never goes back and is unrelated to the wall clock. Nothing in this file reads a clock,
//! because the clock belongs to the engine.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in monotonic time.
///
/// ```
/// use std::time::Duration;
/// use echopool::time::Time;
///
/// let now = Time::from_nanos(5_000);
/// assert_eq!((now + Duration::from_micros(2)) - now, Duration::from_micros(2));
/// assert_eq!(now + Duration::MAX, Time::MAX);
/// ```
///
/// In nanoseconds since an origin that is the same for all threads of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(u64);

impl Time {
    /// The origin.
    pub const ZERO: Time = Time(0);
    /// Later than any time that is ever reached: 584 years after the origin.
    pub const MAX: Time = Time(u64::MAX);

    /// The time `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The duration from `earlier` to `self`. Zero if `earlier` is later than `self`.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// `self` moved back by `span`, but not before the origin.
    pub fn saturating_sub(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(nanos(span)))
    }
}

/// Saturates at [`Time::MAX`], so that now plus a very long time-out means never.
impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(nanos(span)))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let t = Time::from_nanos(5);
        assert_eq!(t + Duration::MAX, Time::MAX);
        assert_eq!(Time::ZERO - t, Duration::ZERO);
        assert_eq!(t.saturating_sub(Duration::from_secs(1)), Time::ZERO);
        assert_eq!((t + Duration::from_nanos(7)) - t, Duration::from_nanos(7));
    }
}
