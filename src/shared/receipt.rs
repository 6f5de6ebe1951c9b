//! Messages for clients on their way to a worker, and the receipts that report the results to the
//! sender.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::key::ConnectionId;
use crate::buffer::Parcel;

/// Why a message was not sent to a client, or a client was not disconnected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// There is no such client: it has left, or it never existed. Or the server has ended its side
    /// of the connection, or the service panicked over the message, so that nothing more is sent.
    Gone,
    /// The queue of the client or of its worker is full, or no buffer is free. Try again later, or
    /// disconnect the client.
    QueueFull,
    /// The message is longer than the service of the client allows.
    TooLong,
    /// The call was made on a thread of the server, which would wait for itself. Nothing was done.
    OnWorkerThread,
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SendError::Gone => "the client is gone",
            SendError::QueueFull => "a queue is full, or no buffer is free; try again later",
            SendError::TooLong => {
                "the message is longer than a buffer (`buffer_size`) or than the service \
                 allows (`max_message`)"
            }
            SendError::OnWorkerThread => {
                "called on a worker thread, which would wait for itself; use another thread"
            }
        })
    }
}

impl std::error::Error for SendError {}

/// Those clients of a worker that get a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Recipients {
    Client(ConnectionId),
    All,
    /// All clients of the listener with this number.
    #[cfg_attr(
        not(any(test, feature = "admin")),
        allow(dead_code, reason = "for the admin address")
    )]
    OfListener(usize),
}

/// A message on its way to a worker.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) to: Recipients,
    pub(crate) parcel: Parcel,
    pub(crate) number: u64,
    pub(crate) receipt: Receipt,
}

/// The results so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) queued: u64,
    pub(crate) refused: u64,
    /// Why the last refused message was refused.
    pub(crate) why: Option<SendError>,
    /// Receipts that are still outstanding.
    pub(crate) open: usize,
}

#[derive(Default, Debug)]
struct Desk {
    tally: Mutex<Tally>,
    changed: Condvar,
}

/// Reports the result of a command when it is dropped. Without any result it reports that there was
/// no such client.
#[derive(Debug)]
pub(crate) struct Receipt {
    desk: Arc<Desk>,
    pub(crate) queued: u64,
    refused: u64,
    why: Option<SendError>,
}

impl Receipt {
    /// Records that one client does not get the message.
    pub(crate) fn refuse(&mut self, why: SendError) {
        self.refused += 1;
        self.why = Some(why);
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let mut tally = self.desk.lock();
        tally.queued += self.queued;
        tally.refused += self.refused;
        tally.why = self.why.or(tally.why);
        tally.open -= 1;
        drop(tally);
        self.desk.changed.notify_all();
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        // Safe after a panic: the lock protects only counts.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a sender waits for its receipts.
pub(crate) struct Answers(Arc<Desk>);

impl Answers {
    pub(crate) fn new() -> Answers {
        Answers(Arc::default())
    }

    /// Creates another receipt to wait for.
    pub(crate) fn receipt(&self) -> Receipt {
        self.0.lock().open += 1;
        Receipt { desk: self.0.clone(), queued: 0, refused: 0, why: None }
    }

    /// The results so far.
    pub(crate) fn so_far(&self) -> Tally {
        *self.0.lock()
    }

    /// Waits for all receipts, or until `ended` returns true because no worker is left to report.
    pub(crate) fn wait(&self, ended: impl Fn() -> bool) -> Tally {
        /// How often to check whether the workers have ended.
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let mut tally = self.0.lock();
        while tally.open > 0 && !ended() {
            let waited = self.0.changed.wait_timeout(tally, LOOK_EVERY);
            tally = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_add_up_and_a_receipt_that_is_lost_counts_for_nobody() {
        let answers = Answers::new();
        let (mut one, mut other, lost) = (answers.receipt(), answers.receipt(), answers.receipt());
        (one.queued, other.queued) = (3, 4);
        (0..5).for_each(|_| other.refuse(SendError::QueueFull));
        std::thread::scope(|scope| {
            scope.spawn(move || drop((one, other, lost)));
            let tally = answers.wait(|| false);
            assert_eq!((tally.queued, tally.refused, tally.open), (7, 5, 0));
        });
    }

    #[test]
    fn nobody_waits_for_workers_that_have_ended() {
        let answers = Answers::new();
        let receipt = answers.receipt();
        assert_eq!(answers.wait(|| true).open, 1);
        drop(receipt);
    }
}
