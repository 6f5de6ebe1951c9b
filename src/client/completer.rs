//! The loop's end of an operation ([`Completer`]), and what it shares with the caller's end
//! ([`Cell`]). The caller's end is in `pending`.
//!
//! A `Completer` completes exactly once: completing consumes it, and one that is dropped (because
//! the loop ended) completes with [`Error::LoopEnded`].

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
}

impl Outcome {
    pub(super) fn failed(self) -> Failed {
        let error = self.result.err().unwrap_or(Error::Failed);
        let buffer = if self.request.is_empty() { self.reply } else { self.request };
        Failed { error, bytes_sent: self.bytes_sent, buffer }
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

/// A panic in a callback is the callback's own: the other clients of the loop go on.
pub(super) fn call(callback: Callback, outcome: Outcome) {
    if catch_unwind(AssertUnwindSafe(|| callback(outcome))).is_err() {
        log::error!("a completion callback of a client panicked");
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

    pub(super) fn complete(mut self, outcome: Outcome) {
        if let Some(cell) = self.0.take() {
            cell.complete(outcome);
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.complete(Outcome {
                result: Err(Error::LoopEnded),
                request: Vec::new(),
                reply: Vec::new(),
                bytes_sent: 0,
                address: None,
            });
        }
    }
}
