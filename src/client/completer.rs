//! The loop's half of an operation ([`Completer`]), and the state that it shares with the caller's
//! half ([`Cell`]). The caller's half is in `pending`.
//!
//! A `Completer` completes exactly once. Completing consumes it, and dropping it (because the loop
//! ended) completes with [`Error::LoopEnded`].

use std::cell::{Cell as LocalCell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use super::error::{Error, Failed};

/// The result of an operation of any kind.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) result: Result<(), Error>,
    /// The data to send.
    pub(super) request: Vec<u8>,
    /// The data received.
    pub(super) reply: Vec<u8>,
    pub(super) bytes_sent: usize,
    pub(super) address: Option<crate::base::endpoint::Endpoint>,
    /// Whether the client has no connection and does not reconnect by itself.
    pub(super) at_rest: bool,
}

impl Outcome {
    /// The outcome of an operation that has sent and received nothing.
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

/// Converts an outcome into the caller's result.
pub(super) type Convert<T> = fn(Outcome) -> T;

pub(super) type Callback = Box<dyn FnOnce(Outcome) + Send>;

pub(super) enum CompletionStage {
    Waiting,
    WithCallback(Callback),
    Done(Outcome),
    Taken,
}

pub(super) struct Cell {
    stage: Mutex<CompletionStage>,
    pub(super) done: Condvar,
    /// The loop's thread, which must not wait for the operation.
    pub(super) loop_thread: ThreadId,
    /// Whether the caller has asked the loop to cancel the operation.
    cancelled: AtomicBool,
}

impl Cell {
    pub(super) fn lock(&self) -> MutexGuard<'_, CompletionStage> {
        // No code panics while holding the lock.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether to send a cancel to the loop. It is sent once, and not after the operation
    /// has completed. This bounds the number of cancels in the loop's queue.
    pub(super) fn request_cancel(&self) -> bool {
        let is_complete =
            matches!(&*self.lock(), CompletionStage::Done(_) | CompletionStage::Taken);
        !is_complete && !self.cancelled.swap(true, Ordering::Relaxed)
    }

    fn complete(&self, outcome: Outcome) {
        let mut stage = self.lock();
        match std::mem::replace(&mut *stage, CompletionStage::Taken) {
            CompletionStage::Waiting => {
                *stage = CompletionStage::Done(outcome);
                drop(stage);
                self.done.notify_all();
            }
            CompletionStage::WithCallback(callback) => {
                drop(stage);
                call(callback, outcome);
            }
            CompletionStage::Done(_) | CompletionStage::Taken => {
                unreachable!("an operation completes once")
            }
        }
    }
}

/// Maximum length of a chain of callbacks, each started from the one before, that are called with
/// the end of the loop. Without a limit, an endless chain would never release the thread.
const CALLBACKS_AFTER_END_MAX: usize = 1_000;

thread_local! {
    /// A callback is running on this thread.
    static RUNNING: LocalCell<bool> = const { LocalCell::new(false) };
    /// This thread's loop is completing operations, and runs deferred callbacks in its next turn.
    static IN_TURN: LocalCell<bool> = const { LocalCell::new(false) };
    /// Callbacks that became due while another one was running.
    static DEFERRED: RefCell<VecDeque<(Callback, Outcome)>> = const { RefCell::new(VecDeque::new()) };
}

/// Calls a callback. If another one is running on this thread, defers it, so that no callback runs
/// on the stack of another.
pub(super) fn call(callback: Callback, outcome: Outcome) {
    if RUNNING.get() {
        return DEFERRED.with_borrow_mut(|all| all.push_back((callback, outcome)));
    }
    run(callback, outcome);
    if !IN_TURN.get() {
        run_all_deferred();
    }
}

/// Catches a panic of the callback, so that the other clients of the loop are not affected.
fn run(callback: Callback, outcome: Outcome) {
    if !catch_panic(|| callback(outcome)) {
        log::error!("a completion callback of a client panicked");
    }
}

/// Runs user code. Returns false if it panicked.
pub(super) fn catch_panic(code: impl FnOnce()) -> bool {
    let outer = RUNNING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(code));
    RUNNING.set(outer);
    result.is_ok()
}

/// Resets the state of this thread for a new loop.
pub(super) fn enter_loop() {
    RUNNING.set(false);
    IN_TURN.set(false);
    drop(DEFERRED.take());
}

/// Runs the callbacks that are deferred now, but not those that they defer.
pub(super) fn run_deferred() {
    for _ in 0..DEFERRED.with_borrow(VecDeque::len) {
        let next = DEFERRED.with_borrow_mut(VecDeque::pop_front);
        next.into_iter().for_each(|(callback, outcome)| run(callback, outcome));
    }
}

/// Whether any callback is deferred.
pub(super) fn has_deferred() -> bool {
    DEFERRED.with_borrow(|all| !all.is_empty())
}

/// Completes operations in a turn of a loop. Callbacks that this defers run in the loop's next
/// turn, so that they cannot hold up this one.
pub(super) fn in_turn(complete: impl FnOnce()) {
    IN_TURN.set(true);
    complete();
    IN_TURN.set(false);
}

/// Runs all deferred callbacks, and those that they defer.
pub(super) fn run_all_deferred() {
    let mut after_end = 0;
    while let Some((callback, outcome)) = DEFERRED.with_borrow_mut(VecDeque::pop_front) {
        after_end += usize::from(outcome.result == Err(Error::LoopEnded));
        if after_end > CALLBACKS_AFTER_END_MAX {
            log::error!("dropped a client's chain of callbacks that did not end with its loop");
            return drop(DEFERRED.take());
        }
        run(callback, outcome);
    }
}

/// The right and the obligation to complete an operation.
pub(super) struct Completer(Option<Arc<Cell>>);

impl Completer {
    pub(super) fn new(loop_thread: ThreadId) -> (Completer, Arc<Cell>) {
        let stage = Mutex::new(CompletionStage::Waiting);
        let cell = Arc::new(Cell {
            stage,
            done: Condvar::new(),
            loop_thread,
            cancelled: AtomicBool::new(false),
        });
        (Completer(Some(cell.clone())), cell)
    }

    /// Whether the caller has cancelled the operation.
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
