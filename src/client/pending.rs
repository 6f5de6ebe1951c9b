//! An operation that is under way, as its caller has it ([`Pending`]). The loop's end of it is in
//! `completer`.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::completer::{Callback, Cell, Convert, Outcome, Stage, call};
use super::error::{Error, Failed};
use super::submission::Submission;

/// Which operation of the loop it is, to be cancelled.
#[derive(Clone)]
pub(super) struct Ticket {
    pub(super) submission: Arc<Submission>,
    pub(super) index: u32,
    pub(super) id: u64,
}

impl Ticket {
    /// Asks the loop for the end of the operation.
    fn cancel(&self, cell: &Cell) {
        if cell.begin_cancel() {
            self.submission.cancel(self.index, self.id);
        }
    }
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
    /// Those of the operation, and [`Error::OnLoopThread`] in a callback of the loop: the operation is
    /// cancelled then.
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

    /// Has `callback` called with the result: on the loop's thread when the operation completes, or
    /// on this one at once if it has completed already. No callback runs on the stack of another:
    /// one that is to be called while another is running is called after it.
    ///
    /// A callback that goes on for ever, by beginning an operation whose callback is the same, has
    /// to end when [`Failed::is_final`] says so. After the end of the loop at most 1,000 callbacks
    /// are called one out of the other; what comes behind them is dropped.
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
            ticket.cancel(&self.cell);
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
            ticket.cancel(cell);
        }
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}
