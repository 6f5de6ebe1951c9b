//! The live view: charts that are redrawn during the run, on their own thread. The main
//! thread only passes on what it has; no thread of clients takes part.
//!
//! * here: the thread
//! * `model`: what is known so far; `draw`: how it is laid out and drawn; `chart`: the axes
//! * `screen`: the alternate screen, and how it is left

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use ratatui::layout::Rect;
use ratatui::prelude::CrosstermBackend;
use ratatui::{Terminal, TerminalOptions, Viewport};

use crate::plan::Plan;
use crate::stats::interval::Interval;
use crate::stats::tally::Snapshot;
use crate::view::progress::RunStage;
use crate::view::terminal;
use draw::Look;
use model::Model;

mod chart;
mod draw;
mod model;
pub mod screen;
#[cfg(test)]
mod tests;

/// What the main thread knows.
enum Update {
    Now(RunStage, Snapshot),
    Second(Box<Interval>),
}

/// The view on the screen. Dropping it restores the screen.
pub struct LiveView {
    /// Present until it is dropped.
    updates: Option<Sender<Update>>,
    thread: Option<JoinHandle<()>>,
}

impl LiveView {
    /// `keys`: whether `q` ends the run. `None` if the system has no thread for it.
    pub fn start(plan: Arc<Plan>, keys: bool) -> Option<LiveView> {
        let (updates, received) = channel();
        let look = Look { utf8: terminal::has_utf8(), colours: has_colours() };
        screen::open();
        let draw = move || draw_all(received, Model::new(plan, keys), look);
        let thread = thread::Builder::new().name("view".into()).spawn(draw);
        if thread.is_err() {
            screen::close();
        }
        Some(LiveView { updates: Some(updates), thread: Some(thread.ok()?) })
    }

    /// Draws the state of the run. Returns false if the view has ended by a panic.
    pub fn update(&self, stage: RunStage, counts: &Snapshot) -> bool {
        self.send(Update::Now(stage, *counts))
    }

    /// Adds a second, which the next drawing shows. Returns false if the view has ended by a panic.
    pub fn second(&self, second: &Interval) -> bool {
        self.send(Update::Second(Box::new(second.clone())))
    }

    fn send(&self, update: Update) -> bool {
        self.updates.as_ref().is_some_and(|updates| updates.send(update).is_ok())
    }

    /// A view whose thread has panicked.
    #[cfg(test)]
    pub fn ended() -> LiveView {
        LiveView { updates: Some(channel().0), thread: None }
    }
}

impl Drop for LiveView {
    fn drop(&mut self) {
        self.updates = None;
        // What a panic of the thread had to say is on stderr.
        let _ = self.thread.take().map(JoinHandle::join);
        screen::close();
    }
}

/// As <https://no-color.org> has it.
fn has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The thread: a frame for each state of the run.
fn draw_all(updates: Receiver<Update>, mut model: Model, look: Look) {
    let mut canvas = Canvas::new();
    while let Ok(first) = updates.recv() {
        let mut is_due = false;
        for update in std::iter::once(first).chain(updates.try_iter()) {
            match update {
                Update::Second(second) => model.second(&second),
                Update::Now(stage, counts) => {
                    model.now(stage, &counts);
                    is_due = true;
                }
            }
        }
        if is_due {
            model.message = screen::last_kept();
            canvas.draw(&model, look);
        }
    }
}

/// Clears the screen.
const CLEAR: &[u8] = b"\x1b[2J\x1b[H";

/// Turns frames into the bytes that change the one before.
struct Canvas {
    terminal: Terminal<CrosstermBackend<Bytes>>,
    bytes: Bytes,
    size: (u16, u16),
}

impl Canvas {
    fn new() -> Canvas {
        Canvas::of(screen::size(), Bytes::default())
    }

    fn of(size: (u16, u16), bytes: Bytes) -> Canvas {
        let viewport = Viewport::Fixed(Rect::new(0, 0, size.0, size.1));
        let backend = CrosstermBackend::new(bytes.clone());
        let terminal = Terminal::with_options(backend, TerminalOptions { viewport });
        Canvas { terminal: terminal.expect("memory takes every byte"), bytes, size }
    }

    fn draw(&mut self, model: &Model, look: Look) {
        let Some(is_stale) = screen::begin_frame() else { return };
        let size = screen::size();
        self.bytes.take();
        if is_stale || size != self.size {
            // Not resized: that would ask other terminals than the one of stderr for a size.
            *self = Canvas::of(size, self.bytes.clone());
            // The one before has shown the cursor at its end.
            self.bytes.take();
            self.bytes.write_all(CLEAR).expect("memory takes every byte");
        }
        let drawn = self.terminal.draw(|frame| draw::draw(frame, model, look));
        drawn.expect("memory takes every byte");
        screen::end_frame(&self.bytes.take());
    }
}

/// A writer into memory, so that each frame is written at once, or not at all.
#[derive(Clone, Default)]
struct Bytes(Rc<RefCell<Vec<u8>>>);

impl Bytes {
    fn take(&self) -> Vec<u8> {
        self.0.take()
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
