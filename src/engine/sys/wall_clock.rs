//! The wall clock, and how far it may be wrong.
#![allow(unsafe_code)]

/// What the system knows about the error of its wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockError {
    /// Whether a program such as chrony sets the clock by an external source.
    pub is_synchronized: bool,
    /// An upper bound of the error, in nanoseconds.
    pub error_ns: u64,
}

/// What the kernel gives for a clock that nobody sets: 16 seconds.
const UNKNOWN: ClockError = ClockError { is_synchronized: false, error_ns: 16_000_000_000 };

/// Nanoseconds since 1970.
pub fn unix_now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Asks the system for the error of the wall clock (adjtimex(2)), without changing anything.
#[cfg(target_os = "linux")]
pub fn clock_error() -> ClockError {
    // SAFETY: the structure consists of numbers, for which zero is a value. `modes` of zero means
    // that nothing is set.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is that of a local variable.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return UNKNOWN;
    }
    let is_synchronized = state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    ClockError { is_synchronized, error_ns: timex.maxerror.max(0) as u64 * 1_000 }
}

/// The same on systems that do not tell.
#[cfg(not(target_os = "linux"))]
pub fn clock_error() -> ClockError {
    UNKNOWN
}
