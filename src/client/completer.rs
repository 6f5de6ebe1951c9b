//! The loop's end of an operation ([`Completer`]), and what it shares with the caller's end
//! ([`Cell`]). The caller's end is in `pending`.
//!
//! A `Completer` completes exactly once: completing consumes it, and one that is dropped (because
//! the loop ended) completes with [`Error::LoopEnded`].

use std::cell::{Cell as LocalCell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use super::error::{Error, Failed};

/// How an operation ended, whatever its kind.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) result: Result<(), Error>,
    /// What was to be sent.
    pub(super) request: Vec<u8>,
    /// What was received.
    pub(super) reply: Vec<u8>,
    pub(super) bytes_sent: usize,
    pub(super) address: Option<std::net::SocketAddr>,
    /// The client has no connection, and makes none by itself.
    pub(super) at_rest: bool,
}

impl Outcome {
    /// That of an operation which had and achieved nothing yet.
    pub(super) fn new(result: Result<(), Error>) -> Outcome {
        let (request, reply) = (Vec::new(), Vec::new());
        Outcome { result, request, reply, bytes_sent: 0, address: None, at_rest: false }
    }
}

impl Outcome {
    pub(super) fn failed(self) -> Failed {
        let error = self.result.err().unwrap_or(Error::Failed);
        let buffer = if self.request.is_empty() { self.reply } else { self.request };
        Failed { error, bytes_sent: self.bytes_sent, buffer, at_rest: self.at_rest }
    }
}

/// What becomes of an outcome for the caller.
pub(super) type Convert<T> = fn(Outcome) -> T;

pub(super) type Callback = Box<dyn FnOnce(Outcome) + Send>;

pub(super) enum Stage {
    Waiting,
    WithCallback(Callback),
    Done(Outcome),
    Taken,
}

pub(super) struct Cell {
    stage: Mutex<Stage>,
    pub(super) done: Condvar,
    /// The thread on which nobody may wait.
    pub(super) loop_thread: ThreadId,
    /// The loop has been asked for its end.
    cancelled: AtomicBool,
}

impl Cell {
    pub(super) fn lock(&self) -> MutexGuard<'_, Stage> {
        // Nothing that panics is done while it is locked.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the loop is to be asked for the end of the operation: once, and only while that makes
    /// a difference, so that the loop's queue has room for all that can be asked.
    pub(super) fn begin_cancel(&self) -> bool {
        let is_complete = matches!(&*self.lock(), Stage::Done(_) | Stage::Taken);
        !is_complete && !self.cancelled.swap(true, Ordering::Relaxed)
    }

    fn complete(&self, outcome: Outcome) {
        let mut stage = self.lock();
        match std::mem::replace(&mut *stage, Stage::Taken) {
            Stage::Waiting => {
                *stage = Stage::Done(outcome);
                drop(stage);
                self.done.notify_all();
            }
            Stage::WithCallback(callback) => {
                drop(stage);
                call(callback, outcome);
            }
            Stage::Done(_) | Stage::Taken => unreachable!("an operation completes once"),
        }
    }
}

/// Callbacks in a row, each given in the one before, that hear of the end of the loop. One that goes
/// on for ever would otherwise keep the thread for ever.
const CALLBACKS_AT_THE_END_MAX: usize = 1_000;

thread_local! {
    /// A callback is running on this thread.
    static RUNNING: LocalCell<bool> = const { LocalCell::new(false) };
    /// A loop completes operations on this thread, and runs what is deferred in its next turn.
    static IN_TURN: LocalCell<bool> = const { LocalCell::new(false) };
    /// Callbacks that were to be called while another one was running.
    static DEFERRED: RefCell<VecDeque<(Callback, Outcome)>> = const { RefCell::new(VecDeque::new()) };
}

/// Calls a callback, or defers it if another one is running on this thread: none runs on the stack
/// of another.
pub(super) fn call(callback: Callback, outcome: Outcome) {
    if RUNNING.get() {
        return DEFERRED.with_borrow_mut(|all| all.push_back((callback, outcome)));
    }
    run(callback, outcome);
    if !IN_TURN.get() {
        run_all_deferred();
    }
}

/// A panic in a callback is the callback's own: the other clients of the loop go on.
fn run(callback: Callback, outcome: Outcome) {
    if !catch_panic(|| callback(outcome)) {
        log::error!("a completion callback of a client panicked");
    }
}

/// Runs the code of a user. Returns whether it did not panic.
pub(super) fn catch_panic(code: impl FnOnce()) -> bool {
    let outer = RUNNING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(code));
    RUNNING.set(outer);
    result.is_ok()
}

/// This thread runs a loop from now on.
pub(super) fn enter_loop() {
    RUNNING.set(false);
    IN_TURN.set(false);
    drop(DEFERRED.take());
}

/// Runs the callbacks that are deferred now.
pub(super) fn run_deferred() {
    for _ in 0..DEFERRED.with_borrow(VecDeque::len) {
        let next = DEFERRED.with_borrow_mut(VecDeque::pop_front);
        next.into_iter().for_each(|(callback, outcome)| run(callback, outcome));
    }
}

/// Whether callbacks wait to be run.
pub(super) fn has_deferred() -> bool {
    DEFERRED.with_borrow(|all| !all.is_empty())
}

/// Completes operations in a turn of a loop. What their callbacks would have called is left to its
/// next turn, so that the loop goes on whatever they do.
pub(super) fn in_turn(complete: impl FnOnce()) {
    IN_TURN.set(true);
    complete();
    IN_TURN.set(false);
}

/// Runs all callbacks that are deferred, and those that they leave.
pub(super) fn run_all_deferred() {
    let mut at_the_end = 0;
    while let Some((callback, outcome)) = DEFERRED.with_borrow_mut(VecDeque::pop_front) {
        at_the_end += usize::from(outcome.result == Err(Error::LoopEnded));
        if at_the_end > CALLBACKS_AT_THE_END_MAX {
            log::error!("callbacks of clients go on without end after the end of their loop");
            return drop(DEFERRED.take());
        }
        run(callback, outcome);
    }
}

/// The right and the duty to complete an operation.
pub(super) struct Completer(Option<Arc<Cell>>);

impl Completer {
    pub(super) fn new(loop_thread: ThreadId) -> (Completer, Arc<Cell>) {
        let stage = Mutex::new(Stage::Waiting);
        let cell = Arc::new(Cell {
            stage,
            done: Condvar::new(),
            loop_thread,
            cancelled: AtomicBool::new(false),
        });
        (Completer(Some(cell.clone())), cell)
    }

    /// Whether the caller has asked for the end of the operation.
    pub(super) fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|cell| cell.cancelled.load(Ordering::Relaxed))
    }

    pub(super) fn complete(mut self, outcome: Outcome) {
        if let Some(cell) = self.0.take() {
            cell.complete(outcome);
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.complete(Outcome::new(Err(Error::LoopEnded)));
        }
    }
}
