//! Sends messages to a server's clients from other threads. A message travels in a buffer through
//! the bounded inbox of the client's worker. A `Receipt` tells the sender the result.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::key::ConnectionId;
use crate::buffer::Reserve;
use crate::shared::directory::Directory;
use crate::shared::mailbox::{Command, Mailboxes};
use crate::shared::receipt::{Answers, Mail, Receipt, SendError, Tally};

/// The result of a message to all clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Broadcast {
    /// The number of clients for which it was queued.
    pub queued: u64,
    /// The number of clients that do not get it because too much is queued for them.
    pub refused: u64,
}

/// What a server's handle needs for reaching the clients.
pub(crate) struct Clients {
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) reserve: Arc<Reserve>,
    /// The number of the next message.
    pub(crate) next: AtomicU64,
}

impl Clients {
    /// Sends to one client, and waits until its worker has taken the message.
    pub(crate) fn send_to(
        &self,
        id: ConnectionId,
        bytes: &[u8],
        ended: impl Fn() -> bool,
    ) -> Result<(), SendError> {
        self.collect_buffers(1);
        match self.begin_send_to(id, bytes)?.wait(ended) {
            Tally { queued: 1, .. } => Ok(()),
            Tally { why, .. } => Err(why.unwrap_or(SendError::Gone)),
        }
    }

    /// The first half of [`send_to`](Clients::send_to). Returns the answers to wait for.
    pub(crate) fn begin_send_to(
        &self,
        id: ConnectionId,
        bytes: &[u8],
    ) -> Result<Answers, SendError> {
        if !self.directory.has(id) {
            return Err(SendError::Gone);
        }
        let answers = Answers::new();
        self.post(id.worker(), Some(id), bytes, self.number(), answers.receipt())?;
        Ok(answers)
    }

    /// Sends to all clients, and waits until the workers have taken the message.
    pub(crate) fn broadcast(
        &self,
        bytes: &[u8],
        ended: impl Fn() -> bool,
    ) -> Result<Broadcast, SendError> {
        self.collect_buffers(self.mailboxes.workers());
        let (answers, failed) = self.begin_broadcast(bytes);
        let tally = answers.wait(ended);
        match failed {
            None => Ok(Broadcast { queued: tally.queued, refused: tally.refused }),
            Some((SendError::QueueFull, worker)) if tally.queued + tally.refused > 0 => {
                // Some clients get it, so the whole message must not be sent again.
                let missed = self.directory.count(worker);
                Ok(Broadcast { queued: tally.queued, refused: tally.refused + missed })
            }
            Some((error, _)) => Err(error),
        }
    }

    /// The first half of [`broadcast`](Clients::broadcast). Returns the answers to wait for and, if
    /// a worker could not be reached, the error and the first such worker.
    pub(crate) fn begin_broadcast(&self, bytes: &[u8]) -> (Answers, Option<(SendError, usize)>) {
        let (answers, number) = (Answers::new(), self.number());
        let mut failed = None;
        for worker in 0..self.mailboxes.workers() {
            if self.directory.count(worker) > 0 {
                let posted = self.post(worker, None, bytes, number, answers.receipt());
                failed = failed.or(posted.err().map(|error| (error, worker)));
            }
        }
        (answers, failed)
    }

    /// Closes a client's connection once its output is sent.
    pub(crate) fn disconnect(
        &self,
        id: ConnectionId,
        ended: impl Fn() -> bool,
    ) -> Result<(), SendError> {
        let tally = self.begin_disconnect(id)?.wait(ended);
        if tally.queued == 1 { Ok(()) } else { Err(SendError::Gone) }
    }

    /// The first half of [`disconnect`](Clients::disconnect). Returns the answers to wait for.
    pub(crate) fn begin_disconnect(&self, id: ConnectionId) -> Result<Answers, SendError> {
        if !self.directory.has(id) {
            return Err(SendError::Gone);
        }
        let answers = Answers::new();
        let command = Command::Disconnect { id, receipt: answers.receipt() };
        self.mailboxes.send(id.worker(), command).map_err(|_| SendError::QueueFull)?;
        Ok(answers)
    }

    /// If the reserve has fewer than `count` buffers, makes the workers put their free ones into
    /// it: a worker keeps buffers that it has used. Waits for them, but not long, because all may
    /// be in use.
    fn collect_buffers(&self, count: usize) {
        /// They are a millisecond apart, which is longer than a turn takes.
        const LOOKS: u32 = 10;
        if self.reserve.available() >= count {
            return;
        }
        for worker in 0..self.mailboxes.workers() {
            // A worker with a full inbox is too busy to give buffers.
            let _ = self.mailboxes.send(worker, Command::GiveBuffers);
        }
        for _ in 0..LOOKS {
            if self.reserve.available() >= count {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn post(
        &self,
        worker: usize,
        to: Option<ConnectionId>,
        bytes: &[u8],
        number: u64,
        receipt: Receipt,
    ) -> Result<(), SendError> {
        let mut parcel = self.reserve.parcel().ok_or(SendError::QueueFull)?;
        let copied = parcel.extend_from_slice(bytes);
        let mail = Command::Message(Mail { to, parcel, number, receipt });
        let refused = match copied == bytes.len() {
            true => self.mailboxes.send(worker, mail).map_err(|_| SendError::QueueFull),
            false => Err(SendError::TooLong),
        };
        // The buffer is back in the reserve, and a worker may be waiting for one.
        refused.inspect_err(|_| self.mailboxes.wake_each(self.reserve.starving()))
    }
}
