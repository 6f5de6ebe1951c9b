//! The caller's half of an operation ([`Pending`]). The loop's half is in `completer`.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::completer::{Callback, Cell, CompletionStage, Convert, Outcome, call};
use super::error::{Error, Failed};
use super::submission::Submission;

/// Identifies an operation of the loop, in order to cancel it.
#[derive(Clone)]
pub(super) struct Ticket {
    pub(super) submission: Arc<Submission>,
    pub(super) index: u32,
    pub(super) id: u64,
}

impl Ticket {
    /// Asks the loop to cancel the operation.
    fn cancel(&self, cell: &Cell) {
        if cell.request_cancel() {
            self.submission.cancel(self.index, self.id);
        }
    }
}

/// An operation in progress. It completes exactly once, with a value or a [`Failed`].
///
/// Dropping it does not stop the operation, but discards the result. To keep received bytes,
/// [`cancel`](Pending::cancel) the operation first.
#[must_use = "dropping this discards the result of the operation"]
pub struct Pending<T> {
    cell: Arc<Cell>,
    convert: Convert<Result<T, Failed>>,
    /// `None` if the operation never reached the loop.
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

    /// Whether the operation has completed. [`wait`](Pending::wait) then returns at once.
    pub fn is_complete(&self) -> bool {
        matches!(&*self.cell.lock(), CompletionStage::Done(_))
    }

    /// Waits until the operation has completed.
    ///
    /// # Errors
    /// Returns the operation's error. Returns [`Error::OnLoopThread`], and cancels the operation,
    /// if called in a callback of the loop.
    pub fn wait(self) -> Result<T, Failed> {
        match self.wait_until(None) {
            Ok(result) => result,
            Err(_) => unreachable!("a wait without a limit ends with the operation"),
        }
    }

    /// Waits until the operation has completed, at most for this time.
    ///
    /// # Errors
    /// Returns the `Pending`, if the operation has not completed in time. The operation continues.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<T, Failed>, Pending<T>> {
        // A time beyond the range of `Instant` means no limit.
        let limit = Instant::now().checked_add(timeout);
        self.wait_until(limit)
    }

    fn wait_until(self, limit: Option<Instant>) -> Result<Result<T, Failed>, Pending<T>> {
        let mut stage = self.cell.lock();
        loop {
            if matches!(&*stage, CompletionStage::Done(_)) {
                let CompletionStage::Done(outcome) =
                    std::mem::replace(&mut *stage, CompletionStage::Taken)
                else {
                    unreachable!("it was looked at");
                };
                return Ok((self.convert)(outcome));
            }
            if thread::current().id() == self.cell.loop_thread {
                drop(stage);
                self.cancel();
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

    /// Calls `callback` with the result: on the loop's thread when the operation completes, or on
    /// this thread at once if it has already completed. No callback runs on the stack of another. A
    /// callback that becomes due while another is running is called after it.
    ///
    /// A callback that starts another operation with the same callback must stop when
    /// [`Failed::is_final`] returns true. After the end of the loop, at most 1,000 such callbacks
    /// are called in a chain; the rest are dropped.
    ///
    /// The callback must not block, because no client of the loop is served while it runs. It may
    /// start operations. A panic in it is caught and logged.
    pub fn on_complete(self, callback: impl FnOnce(Result<T, Failed>) + Send + 'static) {
        let convert = self.convert;
        let callback: Callback = Box::new(move |outcome| callback(convert(outcome)));
        let mut stage = self.cell.lock();
        match std::mem::replace(&mut *stage, CompletionStage::Taken) {
            CompletionStage::Waiting => *stage = CompletionStage::WithCallback(callback),
            CompletionStage::Done(outcome) => {
                drop(stage);
                call(callback, outcome);
            }
            CompletionStage::WithCallback(_) | CompletionStage::Taken => {
                unreachable!("a result is taken once")
            }
        }
    }

    /// Requests cancellation. The operation completes with [`Error::Cancelled`], or with its result
    /// if it finishes first. No bytes are lost: what an unfinished receive has received goes to the
    /// next one, and an unfinished send reports how many bytes were sent.
    ///
    /// Cancelling a `send_receive` whose request has been sent in part or whole, or a framed
    /// message that has been sent in part, closes the connection. Otherwise the next reply could be
    /// matched to the wrong request, and the next message could be read as the rest of this one.
    pub fn cancel(&self) {
        if let Some(ticket) = &self.ticket {
            ticket.cancel(&self.cell);
        }
    }

    /// Returns a handle that cancels the operation, even after the `Pending` has been moved away.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.ticket.clone().map(|ticket| (ticket, self.cell.clone())))
    }
}

/// Cancels one operation; see [`Pending::cancel`].
#[derive(Clone)]
pub struct Canceller(Option<(Ticket, Arc<Cell>)>);

impl Canceller {
    /// Requests cancellation. Does nothing if the operation has completed.
    pub fn cancel(&self) {
        if let Some((ticket, cell)) = &self.0 {
            ticket.cancel(cell);
        }
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}
