//! Writes the log to standard error: a bounded queue, and a thread that empties it.
//!
//! Threads that log put lines into the queue. They never wait for standard error, which can be a
//! pipe that nobody reads. Lines that do not fit are dropped and counted, and so are lines that
//! standard error refuses. As soon as a line can be written, the log says how many were lost.
//! Lines over the limit of [`limit`] are counted too, and reported when their second has ended.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{mem, thread};

use log::Level;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::log_format::LineStyle;
use crate::shared::log_limit::LineLimit;
use limit::{LEVELS, Limit, Verdict};

pub(super) mod limit;
#[cfg(test)]
mod tests;

/// The log target of the lines that report lines which are not in the log.
const TARGET: &str = "echopool::log";

/// Capacity of the queue in bytes. The thread holds as many again while it writes.
const QUEUE_BYTES: usize = 1 << 20;

/// Bytes per write, unless one line is longer. Up to `PIPE_BUF` (4096 on Linux), the kernel does not
/// interleave a write with those of other processes on the same pipe.
const WRITE_BYTES: usize = 4096;

/// Address space of the thread's stack.
const STACK_BYTES: usize = 256 << 10;

/// Puts lines into the queue. Clones use the same queue.
#[derive(Clone)]
pub(super) struct LogWriter(Arc<Queue>);

struct Queue {
    limit: Limit,
    state: Mutex<LineQueue>,
    /// Signalled when the queue is no longer empty, or `report_at` is set.
    filled: Condvar,
    /// Signalled when everything is written.
    emptied: Condvar,
}

struct LineQueue {
    lines: Vec<u8>,
    /// Lines that did not fit since the thread last emptied the queue.
    dropped: u64,
    /// When to report lines that are over the limit. `None` if there are none.
    report_at: Option<Instant>,
    /// Everything is written, and the thread sleeps.
    idle: bool,
}

impl LogWriter {
    /// Starts the thread that writes to `out`. It runs until the process ends.
    ///
    /// `style` applies to the lines that report others. `per_second` is the limit of lines per
    /// second and level that [`admits`](Self::admits) applies.
    pub(super) fn start(
        out: impl AsFd + Send + 'static,
        style: LineStyle,
        per_second: Option<u32>,
    ) -> io::Result<LogWriter> {
        // Both here: a thread that finds no memory for its part would end the process.
        let (lines, for_write) = (empty_queue()?, empty_queue()?);
        let state = Mutex::new(LineQueue { lines, dropped: 0, report_at: None, idle: false });
        let (limit, filled, emptied) = (Limit::new(per_second), Condvar::new(), Condvar::new());
        let queue = Arc::new(Queue { limit, state, filled, emptied });
        let for_thread = Arc::clone(&queue);
        thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || for_thread.write_out(Output::new(out), for_write, style))?;
        Ok(LogWriter(queue))
    }

    /// Whether a line of this level is within the limit. If not, counts it.
    pub(super) fn admits(&self, level: Level) -> bool {
        match self.0.limit.admit(level) {
            Verdict::Show => return true,
            Verdict::Hide => {}
            Verdict::HideFirst => self.0.report_at(self.0.limit.second_ends()),
        }
        false
    }

    /// Changes the limit of lines per second and level.
    pub(super) fn set_limit(&self, per_second: Option<u32>) {
        self.0.limit.set(per_second);
    }

    /// Whether the logger shows only lines with a certain text.
    pub(super) fn set_text_filter(&self, has_text_filter: bool) {
        self.0.limit.set_text_filter(has_text_filter);
    }

    /// Waits until every line is written and every count reported, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let mut state = self.0.lock();
        if let Some(at) = &mut state.report_at {
            *at = Instant::now();
            self.0.filled.notify_one();
        }
        let pending = |state: &mut LineQueue| {
            !(state.idle && state.lines.is_empty() && state.report_at.is_none())
        };
        drop(self.0.emptied.wait_timeout_while(state, limit, pending));
    }
}

impl LineLimit for LogWriter {
    fn is_reached(&self, level: Level) -> bool {
        self.0.limit.is_reached(level)
    }

    fn count_hidden(&self, level: Level, lines: u64) {
        if self.0.limit.count_hidden(level, lines) {
            self.0.report_at(self.0.limit.second_ends());
        }
    }
}

impl Write for LogWriter {
    /// Takes whole lines. Never waits, and never fails.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.push(lines);
        Ok(lines.len())
    }

    /// Does nothing: the thread writes lines as they come.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, LineQueue> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, lines: &[u8]) {
        let mut state = self.lock();
        if state.lines.len() + lines.len() > QUEUE_BYTES {
            state.dropped += count(lines);
            return;
        }
        state.lines.extend_from_slice(lines);
        // One wake-up is enough until the thread sleeps again.
        if mem::take(&mut state.idle) {
            self.filled.notify_one();
        }
    }

    /// Makes the thread report lines over the limit at this time, or earlier if that was set.
    fn report_at(&self, at: Instant) {
        let mut state = self.lock();
        state.report_at.get_or_insert(at);
        if mem::take(&mut state.idle) {
            self.filled.notify_one();
        }
    }

    /// Waits for a line, or until it is time to report. Then swaps the queue with `empty`. Returns
    /// the number of lines that were dropped since the last call.
    fn take(&self, empty: &mut Vec<u8>, hidden: &mut [u64; LEVELS]) -> u64 {
        let mut state = self.lock();
        loop {
            let left = state.report_at.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                state.report_at = None;
                self.limit.take_hidden(hidden);
                break;
            }
            if !state.lines.is_empty() {
                break;
            }
            state.idle = true;
            self.emptied.notify_all();
            state = match left {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = self.filled.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.idle = false;
        mem::swap(empty, &mut state.lines);
        mem::take(&mut state.dropped)
    }

    /// The body of the thread.
    fn write_out(&self, mut out: Output<impl AsFd>, mut lines: Vec<u8>, style: LineStyle) {
        loop {
            let dropped = self.take(&mut lines, &mut out.hidden);
            let mut rest = &lines[..];
            while !rest.is_empty() {
                let (chunk, behind) = rest.split_at(chunk_len(rest));
                out.write_lines(chunk);
                rest = behind;
            }
            out.lost += dropped;
            out.report_hidden(style, self.limit.per_second());
            out.report_lost(style);
            lines.clear();
        }
    }
}

/// Where lines are written, and how many were lost.
struct Output<F> {
    fd: F,
    /// Lines that were lost and are not reported yet.
    lost: u64,
    /// Lines over the limit that are not reported yet, for each level.
    hidden: [u64; LEVELS],
    /// Whether the last write succeeded.
    accepts: bool,
    /// Whether the last write ended within a line.
    torn: bool,
}

impl<F: AsFd> Output<F> {
    fn new(fd: F) -> Output<F> {
        Output { fd, lost: 0, hidden: [0; LEVELS], accepts: true, torn: false }
    }

    /// Writes whole lines. Lines that are not written to their end count as lost.
    fn write_lines(&mut self, lines: &[u8]) {
        if self.torn {
            self.torn = self.write(b"\n").is_err();
        }
        let written = if self.torn { Err(0) } else { self.write(lines) };
        self.accepts = written.is_ok();
        if let Err(written) = written {
            self.lost += count(&lines[written..]);
            self.torn |= lines[..written].last().is_some_and(|&last| last != b'\n');
        }
    }

    /// Writes all bytes, and waits as long as that takes. The error is the number of bytes that were
    /// written before the failure.
    fn write(&self, bytes: &[u8]) -> Result<(), usize> {
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::write(&self.fd, &bytes[written..]) {
                Ok(0) => return Err(written),
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                // Another process that shares the descriptor may have set O_NONBLOCK.
                Err(Errno::AGAIN) => self.wait_writable().map_err(|_| written)?,
                Err(_) => return Err(written),
            }
        }
        Ok(())
    }

    fn wait_writable(&self) -> Result<(), Errno> {
        match poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes how many lines were over the limit, if there are any.
    fn report_hidden(&mut self, style: LineStyle, per_second: u64) {
        for level in Level::iter() {
            let hidden = self.hidden[level as usize];
            if hidden == 0 {
                continue;
            }
            let text = format_args!(
                "lines_not_shown={hidden} of level {level}: --log-limit allows {per_second} in a \
                 second"
            );
            if self.report(style, text) {
                self.hidden[level as usize] = 0;
            }
        }
    }

    /// Writes how many lines were lost, if there are any and the last write succeeded.
    fn report_lost(&mut self, style: LineStyle) {
        let lost = self.lost;
        if lost > 0
            && self.accepts
            && self.report(
                style,
                format_args!("lines_lost={lost}: standard error did not accept them"),
            )
        {
            self.lost = 0;
        }
    }

    /// Writes a line about other lines. Returns whether it was written to its end.
    fn report(&mut self, style: LineStyle, text: fmt::Arguments<'_>) -> bool {
        let lost = self.lost;
        self.write_lines(&style.line(Level::Warn, TARGET, text));
        // The line is written again later.
        self.lost = lost;
        self.accepts
    }
}

/// Memory for a full queue.
fn empty_queue() -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    lines.try_reserve_exact(QUEUE_BYTES).map_err(|_| io::ErrorKind::OutOfMemory)?;
    Ok(lines)
}

/// The length of the next write: whole lines, at least one.
fn chunk_len(lines: &[u8]) -> usize {
    let front = &lines[..lines.len().min(WRITE_BYTES)];
    memchr::memrchr(b'\n', front)
        .or_else(|| memchr::memchr(b'\n', lines))
        .map_or(lines.len(), |end| end + 1)
}

/// The number of lines. Each ends with a newline.
fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}
