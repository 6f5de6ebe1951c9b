//! What is said on stderr, and the terminal there: its width, and keys that are read one by one while a run goes on. What the mode
//! of the terminal was comes back however the program ends, SIGKILL excepted.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp,
    tcgetwinsize, tcsetattr,
};

/// Where the width is not known.
const COLUMNS_DEFAULT: usize = 80;

/// How the terminal was, while it is not so. In a static, because a second signal ends the program
/// from another thread.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Says a line on stderr. If that is full or closed there is nobody to complain to, and what is
/// measured is no worse for it.
pub fn message(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Columns of the terminal that stderr is.
pub fn columns() -> usize {
    match tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => COLUMNS_DEFAULT,
    }
}

/// Whether stderr is a terminal on which lines can be drawn again.
pub fn can_redraw() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    isatty(io::stderr()) && !dumb
}

/// Keys typed at the terminal, without a line's end and without an echo. Ctrl-C and Ctrl-Z go on
/// working. Dropping it gives the terminal back.
pub struct Keys {
    _private: (),
}

impl Keys {
    /// `None` if stdin is not a terminal, or belongs to another job: then nobody types for us.
    pub fn open() -> Option<Keys> {
        if !is_ours() {
            return None;
        }
        enter().ok()?;
        Some(Keys { _private: () })
    }

    /// Whether `q` has been typed since the last time. Does not wait.
    pub fn quit(&mut self) -> bool {
        let mut typed = [0; 64];
        // Reading from a terminal that another job has would stop us.
        let read = is_ours().then(|| rustix::io::read(io::stdin(), &mut typed[..]).ok()).flatten();
        typed[..read.unwrap_or(0)].iter().any(|key| matches!(key, b'q' | b'Q'))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether stdin is a terminal that is ours to read from.
fn is_ours() -> bool {
    isatty(io::stdin()) && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

fn enter() -> io::Result<()> {
    let before = tcgetattr(io::stdin())?;
    let mut mode = before.clone();
    mode.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    // A read answers at once, with what there is.
    mode.special_codes[SpecialCodeIndex::VMIN] = 0;
    mode.special_codes[SpecialCodeIndex::VTIME] = 0;
    let mut saved = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    tcsetattr(io::stdin(), OptionalActions::Now, &mode)?;
    *saved = Some(before);
    Ok(())
}

/// Gives the terminal its mode back, if it was changed. Answers whether it was.
pub fn restore() -> bool {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let changed = before.is_some();
    if let Some(before) = before
        && is_ours()
    {
        // If this fails there is nothing else to try.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
    changed
}

/// After the job was stopped and goes on: the keys are read one by one again.
pub fn resume() {
    if is_ours() {
        // If this fails, `q` needs the enter key.
        let _ = enter();
    }
}
