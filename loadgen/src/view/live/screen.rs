//! The screen of the live view: the terminal's alternate screen, so that the previous content
//! returns when the view ends, and the report follows it. Nothing is drawn while the job is
//! stopped or in the background.
//!
//! The state is static, because signals and panics leave the screen from other threads.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Write};
use std::panic;
use std::sync::{Mutex, MutexGuard, Once, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::getpgrp;
use rustix::termios::{tcgetpgrp, tcgetwinsize};

use crate::units::{counted, was};
use crate::view::terminal;

/// To the alternate screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// If the size is unknown.
const SIZE_DEFAULT: (u16, u16) = (80, 24);
/// The largest view. On a larger terminal the rest stays empty.
const SIZE_MAX: (u16, u16) = (400, 120);
/// Messages that are kept, at most. A server may log without end.
const KEPT_MAX: usize = 1_000;

static SCREEN: Mutex<Screen> = Mutex::new(Screen {
    state: ScreenState::Closed,
    is_stale: false,
    kept: VecDeque::new(),
    dropped: 0,
});

struct Screen {
    state: ScreenState,
    /// Whether somebody else may have written over the view.
    is_stale: bool,
    /// Messages for when the view is gone, and how many there was no room for.
    kept: VecDeque<String>,
    dropped: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ScreenState {
    /// There is no view.
    Closed,
    /// The next frame enters the alternate screen.
    Away,
    Shown,
    /// The job is being stopped, or ends.
    Suspended,
}

fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Allows frames to be drawn, until [`close`]. A panic restores the terminal before its message.
pub fn open() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            terminal::close();
            before(info);
        }));
    });
    screen().state = ScreenState::Away;
}

/// Whether a frame can be drawn now; if so, whether nothing of the frames before is there.
pub fn begin_frame() -> Option<bool> {
    let mut screen = screen();
    if is_in_background() {
        // Stopped by a signal that cannot be handled, the job left the alternate screen to others.
        if screen.state == ScreenState::Shown {
            screen.state = ScreenState::Away;
        }
        return None;
    }
    // A terminal that takes no bytes (Ctrl-S) must not hold up the end of the run, or a signal.
    if !takes_bytes() {
        return None;
    }
    match screen.state {
        ScreenState::Shown => Some(std::mem::take(&mut screen.is_stale)),
        ScreenState::Away => {
            terminal::resume_keys();
            write(ENTER.as_bytes());
            screen.state = ScreenState::Shown;
            screen.is_stale = false;
            Some(true)
        }
        ScreenState::Closed | ScreenState::Suspended => None,
    }
}

fn takes_bytes() -> bool {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
    // If it cannot be asked, the write tells.
    poll(&mut polled, Some(&Timespec::default())).is_err()
        || polled[0].revents().intersects(PollFlags::OUT)
}

/// Writes a frame, unless the screen has been left since it was begun.
pub fn end_frame(bytes: &[u8]) {
    let screen = screen();
    if screen.state == ScreenState::Shown {
        write(bytes);
    }
}

/// Leaves the screen until [`resume`].
pub fn suspend() {
    screen().leave(ScreenState::Suspended);
}

/// Draws again.
pub fn resume() {
    let mut screen = screen();
    screen.is_stale = true;
    if screen.state == ScreenState::Suspended {
        screen.state = ScreenState::Away;
    }
}

/// Leaves the screen for good.
pub fn close() {
    screen().leave(ScreenState::Closed);
}

/// The same for a process that ends now: without waiting for a terminal that takes no bytes.
pub fn close_at_once() {
    // A frame takes less. Whoever waits for the terminal takes longer.
    const FRAME_MAX: Duration = Duration::from_millis(100);
    let begun = Instant::now();
    let mut screen = loop {
        match SCREEN.try_lock() {
            Ok(screen) => break screen,
            Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if begun.elapsed() > FRAME_MAX => return,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    };
    if takes_bytes() {
        screen.leave(ScreenState::Closed);
    }
}

/// Keeps a message if the view would hide it.
pub fn keep(line: &impl Display) -> bool {
    let mut screen = screen();
    let is_shown = screen.state == ScreenState::Shown;
    if is_shown {
        screen.keep(line.to_string());
    }
    is_shown
}

/// The last message that is kept.
pub fn last_kept() -> Option<String> {
    screen().kept.back().cloned()
}

/// Columns and rows of the terminal that stderr is connected to, as far as they are drawn on.
pub fn size() -> (u16, u16) {
    let (columns, rows) = match tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => SIZE_DEFAULT,
    };
    (columns.min(SIZE_MAX.0), rows.min(SIZE_MAX.1))
}

/// Whether another job has the terminal. A terminal that does not control this process has no jobs.
fn is_in_background() -> bool {
    tcgetpgrp(io::stderr()).is_ok_and(|group| group != getpgrp())
}

/// An error is ignored, as for messages.
fn write(bytes: &[u8]) {
    let _ = io::stderr().write_all(bytes);
}

impl Screen {
    fn keep(&mut self, line: String) {
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
            self.dropped += 1;
        }
        self.kept.push_back(line);
    }

    /// Leaves the screen if it is shown, and writes the messages that were kept. A view that has
    /// ended stays so.
    fn leave(&mut self, next: ScreenState) {
        let before = self.state;
        if before != ScreenState::Closed {
            self.state = next;
        }
        if before == ScreenState::Shown {
            write(LEAVE.as_bytes());
            self.release().iter().for_each(|line| write(format!("{line}\n").as_bytes()));
        }
    }

    fn release(&mut self) -> Vec<String> {
        let dropped = match std::mem::take(&mut self.dropped) {
            0 => None,
            count => {
                let messages = counted(count, "earlier message");
                Some(format!("loadgen: {messages} {} left out", was(count)))
            }
        };
        dropped.into_iter().chain(self.kept.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_messages_are_kept_and_the_others_counted() {
        let state = ScreenState::Shown;
        let mut screen = Screen { state, is_stale: false, kept: VecDeque::new(), dropped: 0 };
        (0..KEPT_MAX + 2).for_each(|nth| screen.keep(format!("line {nth}")));
        let lines = screen.release();
        assert_eq!(lines[..2], ["loadgen: 2 earlier messages were left out", "line 2"]);
        assert_eq!(lines.len(), KEPT_MAX + 1);
        assert_eq!(lines.last().map(String::as_str), Some("line 1001"));
        assert!(screen.release().is_empty());
    }
}
