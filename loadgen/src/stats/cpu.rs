//! Processor use: that of a thread, and that of the local server.

use std::time::Duration;

use echopool::internals::polled_in_vain;
use rustix::time::{ClockId, clock_gettime};

/// A thread that is busy for more than this share of the time was almost never idle: replies had to
/// wait for the tool, and a faster server would not have received more requests.
///
/// Waiting for a processor counts as busy. If both ends share the processors, a thread that cannot
/// run is just as much the bottleneck.
pub const SATURATED: f64 = 0.95;

/// What a thread has used since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ThreadUse {
    /// The time in which it used all this.
    pub span: Duration,
    /// Time on a processor.
    pub running: Duration,
    /// Time in which it was ready to run and all processors were taken.
    pub waiting: Duration,
    /// The kernel does not count waiting, so `waiting` is zero.
    pub waiting_unknown: bool,
    /// Wall-clock time in which it polled for events and found none (`--busy-poll`). During it the
    /// thread ran or waited for a processor.
    pub polling: Duration,
    /// How often it gave up its processor to wait for something.
    pub switches_voluntary: u64,
    /// How often its processor was given to another thread.
    pub switches_involuntary: u64,
}

impl ThreadUse {
    /// The use of the calling thread so far.
    pub fn now() -> ThreadUse {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let switches = |name| parse_status(&status, name).unwrap_or_default();
        ThreadUse {
            switches_voluntary: switches("voluntary_ctxt_switches:"),
            switches_involuntary: switches("nonvoluntary_ctxt_switches:"),
            ..ThreadUse::times_now()
        }
    }

    /// Only the times, which are cheaper to read.
    pub fn times_now() -> ThreadUse {
        let [span, running] = [ClockId::Monotonic, ClockId::ThreadCPUTime].map(|clock| {
            let time = clock_gettime(clock);
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        });
        let waiting = std::fs::read_to_string("/proc/thread-self/schedstat")
            .ok()
            .and_then(|text| parse_waiting(&text));
        let (waiting, waiting_unknown) = (waiting.unwrap_or_default(), waiting.is_none());
        let polling = polled_in_vain();
        ThreadUse { span, running, waiting, waiting_unknown, polling, ..ThreadUse::default() }
    }

    /// What it has used since `earlier`.
    pub fn since(self, earlier: ThreadUse) -> ThreadUse {
        ThreadUse {
            span: self.span.saturating_sub(earlier.span),
            running: self.running.saturating_sub(earlier.running),
            waiting: self.waiting.saturating_sub(earlier.waiting),
            waiting_unknown: self.waiting_unknown || earlier.waiting_unknown,
            polling: self.polling.saturating_sub(earlier.polling),
            switches_voluntary: self.switches_voluntary.saturating_sub(earlier.switches_voluntary),
            switches_involuntary: self
                .switches_involuntary
                .saturating_sub(earlier.switches_involuntary),
        }
    }

    /// Both together.
    pub fn plus(self, other: &ThreadUse) -> ThreadUse {
        ThreadUse {
            span: self.span + other.span,
            running: self.running + other.running,
            waiting: self.waiting + other.waiting,
            waiting_unknown: self.waiting_unknown || other.waiting_unknown,
            polling: self.polling + other.polling,
            switches_voluntary: self.switches_voluntary + other.switches_voluntary,
            switches_involuntary: self.switches_involuntary + other.switches_involuntary,
        }
    }

    /// Time in which it neither slept nor polled in vain: it worked, or could have. What a thread
    /// did when it lost its processor is unknown; all of that time counts as waiting work, so a
    /// thread is never reported as less busy than it was.
    pub fn busy(&self) -> Duration {
        let idle = self.polling.saturating_sub(self.waiting);
        (self.running + self.waiting).saturating_sub(idle)
    }
}

/// A number of a status file, by the name in front of it.
fn parse_status(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// The second number of a schedstat file: nanoseconds spent waiting for a processor.
fn parse_waiting(text: &str) -> Option<Duration> {
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// The processor time of another process, at the resolution of the kernel (usually 10 ms); `None`
/// if it cannot be read.
pub fn of_process(id: u32) -> Option<Duration> {
    let ticks = parse_stat(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(ticks * 1000 / per_second))
}

/// User and system time are fields 14 and 15 of a process's stat file. The second field, the name,
/// may contain spaces and parentheses, so fields are counted after its end.
fn parse_stat(text: &str) -> Option<u64> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 140 15 0 0 20 0 1";
        assert_eq!(parse_stat(stat), Some(155));
        assert_eq!(parse_stat("7 (short) R 1"), None);
        assert_eq!(parse_waiting("1000 2000 3\n"), Some(Duration::from_nanos(2000)));
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(parse_status(status, "voluntary_ctxt_switches:"), Some(5));
        assert_eq!(parse_status(status, "nonvoluntary_ctxt_switches:"), Some(7));
        assert_eq!(parse_status(status, "missing:"), None);
    }

    #[test]
    fn who_asks_in_vain_is_idle_but_not_while_it_waits_for_a_processor() {
        let millis = Duration::from_millis;
        let used = |waiting, polling| {
            let (running, waiting, polling) = (millis(600), millis(waiting), millis(polling));
            ThreadUse { running, waiting, polling, ..ThreadUse::default() }.busy()
        };
        assert_eq!(used(0, 0), millis(600));
        assert_eq!(used(0, 500), millis(100));
        assert_eq!(used(300, 500), millis(700), "300 of the 500 may have been the waiting");
        assert_eq!(used(300, 200), millis(900));
    }

    #[test]
    fn work_takes_time() {
        let before = ThreadUse::now();
        let mut sum = 0u64;
        while ThreadUse::now().since(before).running < Duration::from_millis(1) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(ThreadUse::now().since(before).running >= Duration::from_millis(1));
    }
}
