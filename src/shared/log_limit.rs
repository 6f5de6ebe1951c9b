//! Lets a service find out, once for many messages, that the log shows no more lines in this second.
//!
//! A line that is over the limit is not formatted, but to ask the log for each takes tens of
//! nanoseconds: three times as much as to find a short message and to send it back. The log counts
//! exactly what it does not show, so the service tells it how many those were.

use std::sync::OnceLock;

use log::Level;

/// What limits the lines of the process's log.
#[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "only the daemon limits its log"))]
pub(crate) trait LineLimit: Send + Sync {
    /// Whether a line of this level would not be shown now.
    fn is_reached(&self, level: Level) -> bool;

    /// Counts lines that were not shown.
    fn count_hidden(&self, level: Level, lines: u64);
}

static LIMIT: OnceLock<Box<dyn LineLimit>> = OnceLock::new();

/// Sets what limits the log. A second call does nothing.
#[cfg(feature = "daemon")]
pub(crate) fn install(limit: impl LineLimit + 'static) {
    let _ = LIMIT.set(Box::new(limit));
}

/// Whether a line of this level would not be shown now. A process without a limit shows all.
pub(crate) fn is_reached(level: Level) -> bool {
    LIMIT.get().is_some_and(|limit| limit.is_reached(level))
}

/// Counts lines that were not shown, and that the log was not told of.
pub(crate) fn count_hidden(level: Level, lines: u64) {
    if let Some(limit) = LIMIT.get().filter(|_| lines > 0) {
        limit.count_hidden(level, lines);
    }
}
