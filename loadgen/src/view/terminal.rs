//! Messages on stderr, and the terminal there: its width, and keys that are read one by one during
//! a run. The mode of the terminal is restored however the program ends, except by SIGKILL.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp,
    tcgetwinsize, tcsetattr,
};

/// If the width is unknown.
const COLUMNS_DEFAULT: usize = 80;

/// The mode before it was changed. Static, because a second signal ends the program from another
/// thread.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Writes a line to stderr. An error is ignored: there is nowhere to report it, and the measurement
/// is not affected.
pub fn message(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Columns of the terminal that stderr is connected to.
pub fn columns() -> usize {
    match tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => COLUMNS_DEFAULT,
    }
}

/// Whether stderr is a terminal on which lines can be redrawn.
pub fn can_redraw() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    isatty(io::stderr()) && !dumb
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
        // Reading from a terminal that belongs to another job would stop the process.
        let read = is_ours().then(|| rustix::io::read(io::stdin(), &mut typed[..]).ok()).flatten();
        typed[..read.unwrap_or(0)].iter().any(|key| matches!(key, b'q' | b'Q'))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether stdin is a terminal and this process is in its foreground.
fn is_ours() -> bool {
    isatty(io::stdin()) && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

fn enter() -> io::Result<()> {
    let before = tcgetattr(io::stdin())?;
    let mut mode = before.clone();
    mode.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    // A read returns at once with the available bytes.
    mode.special_codes[SpecialCodeIndex::VMIN] = 0;
    mode.special_codes[SpecialCodeIndex::VTIME] = 0;
    let mut saved = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    tcsetattr(io::stdin(), OptionalActions::Now, &mode)?;
    *saved = Some(before);
    Ok(())
}

/// Restores the mode of the terminal if it was changed. Returns whether it was.
pub fn restore() -> bool {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let changed = before.is_some();
    if let Some(before) = before
        && is_ours()
    {
        // If this fails there is no other way.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
    changed
}

/// Reads keys one by one again, after the job was stopped and continued.
pub fn resume() {
    if is_ours() {
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
    fn an_ignored_signal_is_known_from_the_mask() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\tff\n";
        assert_eq!(
            [1, 2, 13, 14].map(|signal| ignores(status, signal)),
            [true, false, true, false]
        );
        assert!(!ignores("", 1));
    }
}
