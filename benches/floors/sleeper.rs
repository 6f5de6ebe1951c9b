//! A thread that sleeps until a time, and does nothing else: how late it wakes up is the machine's
//! doing, and part of what every program is late that sleeps.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// Sleeps `count` times until a multiple of `every` (a millisecond, say) is reached. Answers how
/// late it was each time, in nanoseconds.
///
/// # Errors
/// There is no timer to be had.
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
        // What was slept over is not caught up with.
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
