//! Limits the lines that clients can make the daemon log, per second.
//!
//! Each level has a limit of its own, so a flood of messages hides no warning. A line over the
//! limit is counted before it is formatted, so it costs its worker next to nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use log::{Level, Log, Metadata, Record};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::LogWriter;

/// How many levels there are.
pub(super) const LEVELS: usize = Level::Trace as usize + 1;

/// Targets whose lines no client can cause, each with all targets below it.
const OF_THE_DAEMON: [&str; 4] =
    ["echopool::admin", "echopool::daemon", "echopool::stats", "echopool::server"];

/// A limit of lines per second for each level.
pub(super) struct Limit {
    /// `u64::MAX` is no limit.
    per_second: AtomicU64,
    /// Whether a line is shown depends on its text, so that each has to be looked at.
    has_text_filter: AtomicBool,
    levels: [OfLevel; LEVELS],
}

#[derive(Default)]
struct OfLevel {
    /// The second in the upper 32 bits, the lines shown in it in the lower ones.
    shown: AtomicU64,
    /// Lines that were not shown and are not reported yet.
    hidden: AtomicU64,
}

/// What happens to a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Show,
    Hide,
    /// Not shown, and the first one to report.
    HideFirst,
}

impl Limit {
    pub(super) fn new(per_second: Option<u32>) -> Limit {
        let limit = Limit {
            per_second: AtomicU64::new(0),
            has_text_filter: AtomicBool::new(false),
            levels: Default::default(),
        };
        limit.set(per_second);
        limit
    }

    /// Changes the limit. `None` is no limit.
    pub(super) fn set(&self, per_second: Option<u32>) {
        self.per_second.store(per_second.map_or(u64::MAX, u64::from), Ordering::Relaxed);
    }

    pub(super) fn set_text_filter(&self, has_text_filter: bool) {
        self.has_text_filter.store(has_text_filter, Ordering::Relaxed);
    }

    pub(super) fn per_second(&self) -> u64 {
        self.per_second.load(Ordering::Relaxed)
    }

    /// Counts a line of this level.
    pub(super) fn admit(&self, level: Level) -> Verdict {
        if self.per_second() == u64::MAX {
            return Verdict::Show;
        }
        self.admit_in(level, now().tv_sec as u64)
    }

    /// Whether the next line of this level would not be shown, whatever its text is.
    pub(super) fn is_reached(&self, level: Level) -> bool {
        self.per_second() != u64::MAX
            && !self.has_text_filter.load(Ordering::Relaxed)
            && self.is_reached_in(level, now().tv_sec as u64)
    }

    fn is_reached_in(&self, level: Level, second: u64) -> bool {
        let shown = self.levels[level as usize].shown.load(Ordering::Relaxed);
        shown.checked_sub(second << 32).is_some_and(|shown| shown >= self.per_second())
    }

    /// Counts lines that were not shown. Returns whether they are the first ones to report.
    pub(super) fn count_hidden(&self, level: Level, lines: u64) -> bool {
        self.levels[level as usize].hidden.fetch_add(lines, Ordering::Relaxed) == 0
    }

    fn admit_in(&self, level: Level, second: u64) -> Verdict {
        let per_second = self.per_second();
        let of_level = &self.levels[level as usize];
        let second = second << 32;
        let more = |shown: u64| match shown.checked_sub(second) {
            // The clock of another thread may already be in the next second.
            Some(shown) if shown >= per_second => None,
            Some(_) => Some(shown + 1),
            None => Some(second + 1),
        };
        let shown = of_level.shown.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        match shown {
            Ok(_) => Verdict::Show,
            Err(_) if self.count_hidden(level, 1) => Verdict::HideFirst,
            Err(_) => Verdict::Hide,
        }
    }

    /// When the current second ends.
    pub(super) fn second_ends(&self) -> Instant {
        let passed = Duration::from_nanos(now().tv_nsec as u64);
        Instant::now() + Duration::from_secs(1).saturating_sub(passed)
    }

    /// Adds the lines that were not shown to `hidden`, for each level.
    pub(super) fn take_hidden(&self, hidden: &mut [u64; LEVELS]) {
        for (hidden, of_level) in hidden.iter_mut().zip(&self.levels) {
            *hidden += of_level.hidden.swap(0, Ordering::Relaxed);
        }
    }
}

/// The time of the system's last tick. Reading it takes a fifth of the time that the exact clock
/// takes, and a flood of messages reads it for every line that is not shown.
fn now() -> Timespec {
    clock_gettime(ClockId::MonotonicCoarse)
}

/// Applies the limit in front of a logger, which can be replaced.
#[derive(Clone)]
pub(crate) struct Limited {
    logger: Arc<RwLock<env_logger::Logger>>,
    writer: LogWriter,
}

impl Limited {
    pub(crate) fn new(logger: env_logger::Logger, writer: LogWriter) -> Limited {
        Limited { logger: Arc::new(RwLock::new(logger)), writer }
    }

    /// Replaces the logger.
    pub(crate) fn replace(&self, logger: env_logger::Logger) {
        *self.logger.write().unwrap_or_else(PoisonError::into_inner) = logger;
    }

    fn logger(&self) -> RwLockReadGuard<'_, env_logger::Logger> {
        // A logger that panicked in a line is as good as before for the next.
        self.logger.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Limited {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let of_daemon = || OF_THE_DAEMON.iter().any(|&target| is_below(record.target(), target));
        let logger = self.logger();
        if logger.matches(record) && (of_daemon() || self.writer.admits(record.level())) {
            logger.log(record);
        }
    }

    fn flush(&self) {}
}

fn is_below(target: &str, root: &str) -> bool {
    target.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_and_level_has_the_limit_for_itself() {
        let limit = Limit::new(Some(2));
        let verdicts = |level, second, lines: usize| -> Vec<Verdict> {
            (0..lines).map(|_| limit.admit_in(level, second)).collect()
        };
        use Verdict::{Hide, HideFirst, Show};
        let reached = |second| limit.is_reached_in(Level::Info, second);
        assert!(!reached(0));
        assert_eq!(verdicts(Level::Info, 0, 1), [Show]);
        assert!(!reached(0));
        assert_eq!(verdicts(Level::Info, 0, 3), [Show, HideFirst, Hide]);
        assert!(reached(0) && !reached(1));
        assert!(!limit.is_reached_in(Level::Warn, 0));
        assert_eq!(verdicts(Level::Warn, 0, 2), [Show, Show]);
        assert_eq!(verdicts(Level::Info, 7, 3), [Show, Show, Hide]);
        let mut hidden = [0; LEVELS];
        limit.take_hidden(&mut hidden);
        assert_eq!((hidden[Level::Info as usize], hidden.iter().sum::<u64>()), (3, 3));
        limit.take_hidden(&mut hidden);
        assert_eq!(hidden.iter().sum::<u64>(), 3);
        assert_eq!(verdicts(Level::Info, 7, 1), [HideFirst]);
        assert!(!limit.count_hidden(Level::Info, 4) && limit.count_hidden(Level::Warn, 2));
        let mut hidden = [0; LEVELS];
        limit.take_hidden(&mut hidden);
        assert_eq!((hidden[Level::Info as usize], hidden[Level::Warn as usize]), (5, 2));
    }

    #[test]
    fn a_second_ends_within_a_second_by_the_clock_of_the_system() {
        let begun = Instant::now();
        let ends = Limit::new(None).second_ends();
        assert!(ends >= begun && ends <= Instant::now() + Duration::from_secs(1));
        let (before, coarse) = (clock_gettime(ClockId::Monotonic), now());
        let after = clock_gettime(ClockId::Monotonic);
        // It is behind by a tick at most.
        assert!((before.tv_sec - 1..=after.tv_sec).contains(&coarse.tv_sec), "{coarse:?}");
    }

    #[test]
    fn a_limit_can_be_changed() {
        let limit = Limit::new(Some(1));
        let shown = |lines| (0..lines).filter(|_| limit.admit_in(Level::Info, 0) == Verdict::Show);
        assert_eq!(shown(5).count(), 1);
        limit.set(Some(3));
        assert_eq!(shown(5).count(), 2);
        limit.set(None);
        assert_eq!(limit.admit(Level::Info), Verdict::Show);
    }

    #[test]
    fn with_a_filter_of_texts_each_line_is_looked_at() {
        let limit = Limit::new(Some(1));
        // Reached in every second.
        limit.levels[Level::Info as usize].shown.store(u64::MAX, Ordering::Relaxed);
        assert!(limit.is_reached(Level::Info));
        limit.set_text_filter(true);
        assert!(!limit.is_reached(Level::Info));
        limit.set_text_filter(false);
        assert!(limit.is_reached(Level::Info));
    }

    #[test]
    fn no_limit_shows_everything() {
        let limit = Limit::new(None);
        assert!((0..10_000).all(|_| limit.admit(Level::Info) == Verdict::Show));
        assert!(!limit.is_reached(Level::Info));
    }

    #[test]
    fn targets_are_compared_by_whole_names() {
        assert!(is_below("echopool::daemon", "echopool::daemon"));
        assert!(is_below("echopool::daemon::report", "echopool::daemon"));
        assert!(!is_below("echopool::daemons", "echopool::daemon"));
        assert!(!is_below("echopool::message", "echopool::daemon"));
    }
}
