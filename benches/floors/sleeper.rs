//! A thread that only sleeps until a time. Its lateness is caused by the machine, and is part of
//! the lateness of every program that sleeps.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// Sleeps `count` times, each time until the next multiple of `every` after the start. Returns the
/// lateness of each wake-up in nanoseconds.
///
/// # Errors
/// If the timer cannot be created or set.
pub fn lateness_ns(every: Duration, count: u32) -> io::Result<Histogram<u64>> {
    let mut lateness = Histogram::new_with_max(60_000_000_000, 3).expect("constant bounds");
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let mut due = now() + every;
    for _ in 0..count {
        let it_value = timespec(due);
        let it_interval = timespec(Duration::ZERO);
        let once = Itimerspec { it_interval, it_value };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &once)?;
        rustix::io::read(&timer, &mut [0; 8])?;
        let late = now().saturating_sub(due);
        lateness.saturating_record(late.as_nanos() as u64);
        // Skip times that have already passed.
        while due <= now() {
            due += every;
        }
    }
    Ok(lateness)
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}
