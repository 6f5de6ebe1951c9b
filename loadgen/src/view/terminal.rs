//! Messages on stderr, and the terminal there: its size, and keys that are read one by one during
//! a run. The terminal is restored however the program ends, except by SIGKILL.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
};

#[cfg(feature = "live")]
use crate::view::live::screen;

/// The mode of the terminal during a run. Static, because a second signal ends the program from
/// another thread.
static MODE: Mutex<Option<Mode>> = Mutex::new(None);

struct Mode {
    /// Before it was changed.
    before: Termios,
    /// Whether it is changed now. Not while the job is stopped.
    is_changed: bool,
}

/// Writes a line to stderr, or keeps it until the live view is gone. An error is ignored: there is
/// nowhere to report it, and the measurement is not affected.
pub fn message(line: impl Display) {
    #[cfg(feature = "live")]
    if screen::keep(&line) {
        return;
    }
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether stderr is a terminal on which a view can be redrawn.
pub fn can_redraw() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    cfg!(feature = "live") && isatty(io::stderr()) && !dumb
}

/// Whether what is written there may appear on this terminal at once: on a terminal, or through a
/// pipe, behind which there may be any program.
pub fn may_show(output: impl AsFd) -> bool {
    let kind = fstat(&output).map(|found| FileType::from_raw_mode(found.st_mode));
    isatty(output) || kind.is_ok_and(|kind| matches!(kind, FileType::Fifo | FileType::Socket))
}

/// Whether the parent of this process, or the process itself, ignores a signal. Unknown where the
/// system does not tell, which counts as not ignored.
pub fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, signal)
}

fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or_default() >> (signal - 1) & 1 == 1
}

/// Whether the user's locale has UTF-8, as the C library decides it.
pub fn has_utf8() -> bool {
    is_utf8(|name| std::env::var(name).ok())
}

fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name| variable(name).filter(|locale| !locale.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Keys typed at the terminal, read without a newline and without echo. Ctrl-C and Ctrl-Z keep
/// their meaning. Dropping it restores the terminal.
pub struct Keys {
    _private: (),
}

impl Keys {
    /// `None` if stdin is not a terminal, or belongs to another job, so that no key can be meant
    /// for this program.
    pub fn open() -> Option<Keys> {
        if !is_ours() {
            return None;
        }
        enter().ok()?;
        Some(Keys { _private: () })
    }

    /// Whether `q` was typed since the last call. Does not wait.
    pub fn quit(&mut self) -> bool {
        let mut typed = [0; 64];
        // Held, so that the mode does not become one in which a read waits for a line.
        let mode = mode();
        let is_changed = mode.as_ref().is_some_and(|mode| mode.is_changed);
        // Reading from a terminal that belongs to another job would stop the process.
        let can_read = is_changed && is_ours() && has_input();
        let read = can_read.then(|| rustix::io::read(io::stdin(), &mut typed[..]).ok()).flatten();
        typed[..read.unwrap_or(0)].iter().any(|key| matches!(key, b'q' | b'Q'))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        restore_mode();
        *mode() = None;
    }
}

/// Whether a read of stdin would not wait, whatever mode another job has left.
fn has_input() -> bool {
    let stdin = io::stdin();
    let mut stdin = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut stdin, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Whether stdin is a terminal and this process is in its foreground.
fn is_ours() -> bool {
    isatty(io::stdin()) && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

fn mode() -> MutexGuard<'static, Option<Mode>> {
    MODE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads keys one by one. What the mode was before is what it is now, unless it is changed already.
fn enter() -> io::Result<()> {
    let mut mode = mode();
    let before = match mode.take() {
        Some(Mode { before, is_changed: true }) => before,
        _ => tcgetattr(io::stdin())?,
    };
    let mut keys = before.clone();
    keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    // A read returns at once with the available bytes.
    keys.special_codes[SpecialCodeIndex::VMIN] = 0;
    keys.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(io::stdin(), OptionalActions::Now, &keys)?;
    *mode = Some(Mode { before, is_changed: true });
    Ok(())
}

fn restore_mode() {
    if let Some(mode) = &mut *mode()
        && std::mem::take(&mut mode.is_changed)
        && is_ours()
    {
        // If this fails there is no other way.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &mode.before);
    }
}

/// Restores the terminal until [`resume`], because the job is stopped or ends.
pub fn suspend() {
    #[cfg(feature = "live")]
    screen::suspend();
    restore_mode();
}

/// Restores the terminal of a process that ends now.
pub fn close() {
    restore_mode();
    #[cfg(feature = "live")]
    screen::close_at_once();
}

/// Goes on with the view and the keys, after the job was stopped and continued. Whoever had the
/// terminal meanwhile may have changed its mode and what it shows.
pub fn resume() {
    resume_keys();
    #[cfg(feature = "live")]
    screen::resume();
}

/// Reads keys one by one again, if they were before and this process is in the foreground.
pub fn resume_keys() {
    if mode().is_some() && is_ours() {
        // If this fails, `q` needs the enter key.
        let _ = enter();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_decides_on_the_locale() {
        let of = |all: &str, ctype: &str, lang: &str| {
            let values = [("LC_ALL", all), ("LC_CTYPE", ctype), ("LANG", lang)];
            let values = values.map(|(name, value)| (name, value.to_string()));
            is_utf8(|name| Some(values.iter().find(|(one, _)| *one == name)?.1.clone()))
        };
        assert!(of("C.UTF-8", "C", "C") && of("", "en_US.utf8", "C") && of("", "", "de_DE.UTF-8"));
        assert!(!of("C", "C.UTF-8", "C.UTF-8") && !of("", "POSIX", "C.UTF-8") && !of("", "", ""));
        assert!(!of("", "", "de_DE@euro") && !is_utf8(|_| None));
    }

    #[test]
    fn what_goes_through_a_pipe_may_be_shown_and_what_goes_to_a_file_is_not() {
        let (_reader, writer) = io::pipe().expect("a pipe");
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        assert!(may_show(&writer) && may_show(&socket));
        let open = |path| std::fs::File::open(path).expect(path);
        assert!(
            !may_show(open("/dev/null")) && !may_show(open(file!().split_once('/').unwrap().1))
        );
    }

    #[test]
    fn an_ignored_signal_is_known_from_the_mask() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\tff\n";
        assert_eq!(
            [1, 2, 13, 14].map(|signal| ignores(status, signal)),
            [true, false, true, false]
        );
        assert!(!ignores("", 1));
    }
}
