//! Processor use: that of a thread, and that of the local server.

use std::path::PathBuf;
use std::time::Duration;

use echopool::internals::polled_in_vain;
use rustix::time::{ClockId, clock_gettime};

/// A thread that is busy for more than this share of the time was almost never idle: replies had to
/// wait for the tool, and a faster server would not have received more requests.
///
/// Waiting for a processor counts as busy. If both ends share the processors, a thread that cannot
/// run is just as much the bottleneck.
pub const SATURATED: f64 = 0.95;

/// The names of the threads of measured clients begin with this.
pub const CLIENT_THREADS: &str = "clients-";

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

    /// The times of the threads of this process whose names begin with [`CLIENT_THREADS`], asked
    /// from another one: without polling in vain, which only a thread itself knows. Empty if the
    /// kernel does not tell.
    pub fn times_of_clients() -> Vec<ThreadUse> {
        let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let read = |path: PathBuf| std::fs::read_to_string(path).ok();
        let of_thread = |path: PathBuf| {
            let is_client = read(path.join("comm"))?.starts_with(CLIENT_THREADS);
            let schedstat = is_client.then(|| read(path.join("schedstat"))).flatten()?;
            let span = clock_gettime(ClockId::Monotonic);
            let running = schedstat.split_whitespace().next()?.parse().ok()?;
            Some(ThreadUse {
                span: Duration::new(span.tv_sec as u64, span.tv_nsec as u32),
                running: Duration::from_nanos(running),
                waiting: parse_waiting(&schedstat)?,
                ..ThreadUse::default()
            })
        };
        threads.filter_map(|thread| of_thread(thread.path())).collect()
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

    /// The same use in a longer time, of which this was a part.
    #[cfg_attr(not(feature = "live"), allow(dead_code, reason = "for the live view"))]
    pub fn over(self, span: Duration) -> ThreadUse {
        if self.span.is_zero() || self.span >= span {
            return self;
        }
        let times = span.as_secs_f64() / self.span.as_secs_f64();
        let [running, waiting, polling] =
            [self.running, self.waiting, self.polling].map(|time| time.mul_f64(times));
        ThreadUse { span, running, waiting, polling, ..self }
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

    /// A use in which no two numbers are equal. `times`: another number gives another one.
    fn distinct(times: u64) -> ThreadUse {
        let nanos = |count| Duration::from_nanos(times * count);
        ThreadUse {
            span: nanos(2),
            running: nanos(3),
            waiting: nanos(5),
            waiting_unknown: false,
            polling: nanos(7),
            switches_voluntary: times * 11,
            switches_involuntary: times * 13,
        }
    }

    #[test]
    fn each_number_is_added_and_taken_off_by_itself() {
        let (one, two, three) = (distinct(1), distinct(2), distinct(3));
        assert_eq!(one.plus(&two), three);
        assert_eq!(three.since(one), two);
        let unknown = ThreadUse { waiting_unknown: true, ..one };
        for sum in [one.plus(&unknown), unknown.plus(&one), two.since(unknown), unknown.since(one)]
        {
            assert!(sum.waiting_unknown);
        }
    }

    #[test]
    fn a_thread_is_as_busy_in_the_whole_time_as_in_the_part_in_which_it_was_seen() {
        let millis = Duration::from_millis;
        let seen = ThreadUse {
            span: millis(800),
            running: millis(600),
            waiting: millis(80),
            polling: millis(40),
            switches_voluntary: 7,
            ..ThreadUse::default()
        };
        let whole = seen.over(millis(1_000));
        assert_eq!((whole.span, whole.running), (millis(1_000), millis(750)));
        assert_eq!((whole.waiting, whole.polling), (millis(100), millis(50)));
        assert_eq!(whole.switches_voluntary, 7);
        assert_eq!(seen.over(millis(700)), seen);
        assert_eq!(ThreadUse::default().over(millis(1)), ThreadUse::default());
    }

    /// Two threads on one processor take it from each other, and wait for it.
    #[test]
    fn what_the_kernel_counts_is_read() {
        let mut allowed = rustix::thread::CpuSet::new();
        allowed.set(rustix::thread::sched_getcpu());
        let begun = std::time::Instant::now();
        let until = |done: &dyn Fn(&ThreadUse) -> bool| {
            rustix::thread::sched_setaffinity(None, &allowed).expect("one of its processors");
            while !done(&ThreadUse::now()) {
                assert!(begun.elapsed() < Duration::from_secs(60), "the kernel does not count");
            }
        };
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| until(&|_| done.load(std::sync::atomic::Ordering::Relaxed)));
            let both = scope.spawn(|| {
                let wanted = |used: &ThreadUse| {
                    (used.waiting_unknown || !used.waiting.is_zero())
                        && used.switches_involuntary > 0
                        && !used.span.is_zero()
                };
                until(&wanted);
                let before = ThreadUse::now();
                std::thread::sleep(Duration::from_millis(1));
                assert!(ThreadUse::now().since(before).switches_voluntary > 0);
            });
            let seen = both.join();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            seen.expect("it has seen all");
        });
    }

    /// The kernel tells the time of a process in ticks of its own clock.
    #[test]
    fn the_time_of_a_process_is_that_of_its_clock() {
        let clock = || {
            let time = clock_gettime(ClockId::ProcessCPUTime);
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        };
        while clock() < Duration::from_millis(300) {
            std::hint::black_box(());
        }
        let tick = Duration::from_millis(20);
        let (before, found) = (clock(), of_process(std::process::id()).expect("this process"));
        assert!(before <= found + tick && found <= clock() + tick, "{before:?} {found:?}");
        assert_eq!(of_process(u32::MAX), None);
    }

    #[test]
    fn the_work_of_clients_is_seen_from_another_thread() {
        if ThreadUse::times_now().waiting_unknown {
            println!("skipped: the kernel does not tell");
            return;
        }
        let (send, stop) = std::sync::mpsc::channel::<()>();
        let named = |name: String| std::thread::Builder::new().name(name);
        let client = named(format!("{CLIENT_THREADS}0"));
        let client = client.spawn(move || {
            while ThreadUse::times_now().running < Duration::from_millis(2) {}
            stop.recv()
        });
        // While other threads end, the kernel may leave one out of the list.
        let begun = std::time::Instant::now();
        let seen = || {
            let uses = ThreadUse::times_of_clients();
            uses.iter().map(|used| used.running).max() >= Some(Duration::from_millis(2))
        };
        while !seen() {
            assert!(begun.elapsed() < Duration::from_secs(60), "its work is not seen");
        }
        // One more thread that works than there are processors: somebody waits for one.
        let stop = std::sync::atomic::AtomicBool::new(false);
        let one_waits = || ThreadUse::times_of_clients().iter().any(|used| !used.waiting.is_zero());
        let mut waits = false;
        std::thread::scope(|scope| {
            for nth in 0..=std::thread::available_parallelism().map_or(1, usize::from) {
                let works = || {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                };
                let thread = named(format!("{CLIENT_THREADS}w{nth}"));
                thread.spawn_scoped(scope, works).expect("a thread");
            }
            while !waits && begun.elapsed() < Duration::from_secs(60) {
                waits = one_waits();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(waits, "nobody waits for a processor");
        // The time is that of the monotonic clock, which began before.
        let uses = ThreadUse::times_of_clients();
        assert!(uses.iter().all(|used| used.span > used.running), "{uses:?}");
        drop(send);
        let _ = client.expect("a thread").join();
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
