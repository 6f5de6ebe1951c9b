//! Writes the log to standard error: a bounded queue, and a thread that empties it.
//!
//! Threads that log put lines into the queue. They never wait for standard error, which can be a
//! pipe that nobody reads. Lines that do not fit are dropped and counted, and so are lines that
//! standard error refuses. As soon as a line can be written, the log says how many were lost.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{mem, thread};

use log::{Level, Log, Record};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

#[cfg(test)]
mod tests;

/// The log target of the line that reports lost lines.
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
    state: Mutex<State>,
    /// Signalled when the queue is no longer empty.
    filled: Condvar,
    /// Signalled when everything is written.
    emptied: Condvar,
}

struct State {
    lines: Vec<u8>,
    /// Lines that did not fit since the thread last emptied the queue.
    dropped: u64,
    /// Everything is written, and the thread sleeps.
    idle: bool,
}

impl LogWriter {
    /// Starts the thread that writes to `out`. It runs until the process ends.
    ///
    /// `style` applies to the line that reports lost lines.
    pub(super) fn start(
        out: impl AsFd + Send + 'static,
        style: env_logger::WriteStyle,
    ) -> io::Result<LogWriter> {
        let state = State { lines: Vec::with_capacity(QUEUE_BYTES), dropped: 0, idle: false };
        let (filled, emptied) = (Condvar::new(), Condvar::new());
        let queue = Arc::new(Queue { state: Mutex::new(state), filled, emptied });
        let for_thread = Arc::clone(&queue);
        thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || for_thread.write_out(Output::new(out), style))?;
        Ok(LogWriter(queue))
    }

    /// Waits until every line is written, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let state = self.0.lock();
        let pending = |state: &mut State| !(state.idle && state.lines.is_empty());
        drop(self.0.emptied.wait_timeout_while(state, limit, pending));
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
    fn lock(&self) -> MutexGuard<'_, State> {
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

    /// Waits for a line, then swaps the queue with `empty`. Returns the number of lines that were
    /// dropped since the last call.
    fn take(&self, empty: &mut Vec<u8>) -> u64 {
        let mut state = self.lock();
        while state.lines.is_empty() {
            state.idle = true;
            self.emptied.notify_all();
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        mem::swap(empty, &mut state.lines);
        mem::take(&mut state.dropped)
    }

    /// The body of the thread.
    fn write_out(&self, mut out: Output<impl AsFd>, style: env_logger::WriteStyle) {
        let mut lines = Vec::with_capacity(QUEUE_BYTES);
        loop {
            let dropped = self.take(&mut lines);
            let mut rest = &lines[..];
            while !rest.is_empty() {
                let (chunk, behind) = rest.split_at(chunk_len(rest));
                out.write_lines(chunk);
                rest = behind;
            }
            out.lost += dropped;
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
    /// Whether the last write succeeded.
    accepts: bool,
    /// Whether the last write ended within a line.
    torn: bool,
}

impl<F: AsFd> Output<F> {
    fn new(fd: F) -> Output<F> {
        Output { fd, lost: 0, accepts: true, torn: false }
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

    /// Writes how many lines were lost, if there are any and the last write succeeded.
    fn report_lost(&mut self, style: env_logger::WriteStyle) {
        if self.lost == 0 || !self.accepts {
            return;
        }
        let line = lost_line(self.lost, style);
        let lost = mem::take(&mut self.lost);
        self.write_lines(&line);
        if !self.accepts {
            self.lost = lost;
        }
    }
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

/// The line that reports lost lines, formatted as all others.
fn lost_line(lost: u64, style: env_logger::WriteStyle) -> Vec<u8> {
    let line = Arc::new(Mutex::new(Vec::new()));
    let logger = env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .write_style(style)
        .target(env_logger::Target::Pipe(Box::new(Captured(Arc::clone(&line)))))
        .build();
    logger.log(
        &Record::builder()
            .level(Level::Warn)
            .target(TARGET)
            .args(format_args!("lines_lost={lost}: standard error did not accept them"))
            .build(),
    );
    mem::take(&mut line.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Collects what a logger writes.
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
