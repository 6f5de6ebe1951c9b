//! An operation that is under way ([`Pending`]), and the loop's end of it ([`Completer`]).
//!
//! A `Completer` completes exactly once: completing consumes it, and one that is dropped (because
//! the loop ended) completes with [`Error::LoopEnded`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::error::{Error, Failed};
use super::submission::Shared;

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
    fn failed(self) -> Failed {
        let error = self.result.err().unwrap_or(Error::Failed);
        let buffer = if self.request.is_empty() { self.reply } else { self.request };
        Failed { error, bytes_sent: self.bytes_sent, buffer }
    }
}

/// What becomes of an outcome for the caller.
pub(super) type Convert<T> = fn(Outcome) -> T;

type Callback = Box<dyn FnOnce(Outcome) + Send>;

enum Stage {
    Waiting,
    WithCallback(Callback),
    Done(Outcome),
    Taken,
}

pub(super) struct Cell {
    stage: Mutex<Stage>,
    done: Condvar,
    /// The thread on which nobody may wait.
    loop_thread: ThreadId,
    /// The loop has been asked for its end.
    cancelled: AtomicBool,
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        // Nothing that panics is done while it is locked.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the loop for the end of the operation: once, and while that makes a difference, so that
    /// there is room for what it is asked for.
    fn cancel(&self, ticket: &Ticket) {
        let is_complete = matches!(&*self.lock(), Stage::Done(_) | Stage::Taken);
        if !is_complete && !self.cancelled.swap(true, Ordering::Relaxed) {
            ticket.shared.cancel(ticket.index, ticket.id);
        }
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
fn call(callback: Callback, outcome: Outcome) {
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

/// Which operation of the loop it is, to be cancelled.
#[derive(Clone)]
pub(super) struct Ticket {
    pub(super) shared: Arc<Shared>,
    pub(super) index: u32,
    pub(super) id: u64,
}

/// An operation that is under way. It completes exactly once, with a value or with a [`Failed`].
///
/// Dropped, the operation goes on and what comes of it is thrown away; [`cancel`](Pending::cancel)
/// it first to keep bytes that were received.
#[must_use = "the operation goes on, but nobody will know how it ends"]
pub struct Pending<T> {
    cell: Arc<Cell>,
    convert: Convert<Result<T, Failed>>,
    /// `None` if it never reached the loop.
    ticket: Option<Ticket>,
}

pub(super) fn value<T>(
    outcome: Outcome,
    take: impl FnOnce(Outcome) -> Option<T>,
) -> Result<T, Failed> {
    match outcome.result {
        Ok(()) => take(outcome).ok_or_else(|| Error::Failed.into()),
        Err(_) => Err(outcome.failed()),
    }
}

impl<T: 'static> Pending<T> {
    pub(super) fn new(
        cell: Arc<Cell>,
        ticket: Option<Ticket>,
        convert: Convert<Result<T, Failed>>,
    ) -> Pending<T> {
        Pending { cell, convert, ticket }
    }

    /// Whether it has completed: then [`wait`](Pending::wait) answers at once.
    pub fn is_complete(&self) -> bool {
        matches!(&*self.cell.lock(), Stage::Done(_))
    }

    /// Waits until it has completed.
    ///
    /// # Errors
    /// Those of the operation, and [`Error::OnLoopThread`] in a callback of the loop.
    pub fn wait(self) -> Result<T, Failed> {
        match self.wait_until(None) {
            Ok(result) => result,
            Err(_) => unreachable!("a wait without a limit ends with the operation"),
        }
    }

    /// Waits until it has completed, or for this time: then it comes back, and goes on.
    ///
    /// # Errors
    /// The operation itself, if it has not completed in time.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<T, Failed>, Pending<T>> {
        // A time so far away that it cannot be told is no limit.
        let limit = Instant::now().checked_add(timeout);
        self.wait_until(limit)
    }

    fn wait_until(self, limit: Option<Instant>) -> Result<Result<T, Failed>, Pending<T>> {
        let mut stage = self.cell.lock();
        loop {
            if matches!(&*stage, Stage::Done(_)) {
                let Stage::Done(outcome) = std::mem::replace(&mut *stage, Stage::Taken) else {
                    unreachable!("it was looked at");
                };
                return Ok((self.convert)(outcome));
            }
            if thread::current().id() == self.cell.loop_thread {
                return Ok(Err(Error::OnLoopThread.into()));
            }
            let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
            stage = match left {
                Some(Duration::ZERO) => {
                    drop(stage);
                    return Err(self);
                }
                Some(left) => match self.cell.done.wait_timeout(stage, left) {
                    Ok((stage, _)) => stage,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => self.cell.done.wait(stage).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Has `callback` called with the result: on the loop's thread when the operation completes, or
    /// on this one at once if it has completed already.
    ///
    /// The callback must not block: no client of the loop is served while it runs. It may begin
    /// operations. A panic in it is caught and logged.
    pub fn on_complete(self, callback: impl FnOnce(Result<T, Failed>) + Send + 'static) {
        let convert = self.convert;
        let callback: Callback = Box::new(move |outcome| callback(convert(outcome)));
        let mut stage = self.cell.lock();
        match std::mem::replace(&mut *stage, Stage::Taken) {
            Stage::Waiting => *stage = Stage::WithCallback(callback),
            Stage::Done(outcome) => {
                drop(stage);
                call(callback, outcome);
            }
            Stage::WithCallback(_) | Stage::Taken => unreachable!("a result is taken once"),
        }
    }

    /// Asks for the operation to end. It completes with [`Error::Cancelled`], or with what it has
    /// achieved by then. Nothing is lost: what an unfinished receive had got is there for the next
    /// one, and an unfinished send says how many bytes went out.
    ///
    /// A `send_receive` whose request has begun to go out, and a framed message that is cut short
    /// by this, close the connection: the next reply could be taken for another's, the next message
    /// for the rest of this one.
    pub fn cancel(&self) {
        if let Some(ticket) = &self.ticket {
            self.cell.cancel(ticket);
        }
    }

    /// What cancels the operation from elsewhere, also when the `Pending` has been given away.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.ticket.clone().map(|ticket| (ticket, self.cell.clone())))
    }
}

/// Cancels one operation; see [`Pending::cancel`].
#[derive(Clone)]
pub struct Canceller(Option<(Ticket, Arc<Cell>)>);

impl Canceller {
    /// Asks for the operation to end. Nothing happens if it has.
    pub fn cancel(&self) {
        if let Some((ticket, cell)) = &self.0 {
            cell.cancel(ticket);
        }
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}
