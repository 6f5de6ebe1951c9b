//! Sends messages to a server's clients from other threads. A message travels in a buffer through
//! the bounded inbox of the client's worker. A `Receipt` tells the sender the result.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::key::ConnectionId;
use crate::buffer::Reserve;
use crate::shared::directory::Directory;
use crate::shared::mailbox::{Mailboxes, WorkerCommand};
use crate::shared::receipt::{Answers, Mail, Receipt, Recipients, SendError, Tally};

/// The result of a message to all clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Broadcast {
    /// The number of clients for which it was queued.
    pub queued: u64,
    /// The number of clients that do not get it: too much is queued for them or for their worker,
    /// or no more data is sent to them. The sum with `queued` is the number of clients that were
    /// connected.
    pub refused: u64,
}

/// A message to all clients that some workers did not take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotTaken {
    pub(crate) error: SendError,
    /// The last of these workers.
    #[cfg_attr(not(any(test, feature = "sim")), allow(dead_code, reason = "for the simulation"))]
    pub(crate) worker: usize,
    /// The number of clients of all of these workers.
    pub(crate) clients: u64,
}

/// What a server's handle needs to reach the clients.
pub(crate) struct ClientAccess {
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) reserve: Arc<Reserve>,
    /// The number of the next message.
    pub(crate) next: AtomicU64,
}

impl ClientAccess {
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

    /// The first half of [`send_to`](Clients::send_to). Returns the replies to wait for.
    pub(crate) fn begin_send_to(
        &self,
        id: ConnectionId,
        bytes: &[u8],
    ) -> Result<Answers, SendError> {
        if !self.directory.has(id) {
            return Err(SendError::Gone);
        }
        let answers = Answers::new();
        let to = Recipients::Client(id);
        self.post(id.worker(), to, bytes, self.number(), answers.receipt())?;
        Ok(answers)
    }

    /// Sends to all clients, and waits until the workers have taken the message.
    pub(crate) fn broadcast(
        &self,
        bytes: &[u8],
        ended: impl Fn() -> bool,
    ) -> Result<Broadcast, SendError> {
        self.collect_buffers(self.mailboxes.workers());
        let (answers, failed) = self.begin_broadcast(bytes, None);
        ClientAccess::sum(&answers.wait(ended), failed)
    }

    pub(crate) fn sum(tally: &Tally, failed: Option<NotTaken>) -> Result<Broadcast, SendError> {
        let reached = tally.queued + tally.refused > 0;
        match failed {
            None => Ok(Broadcast { queued: tally.queued, refused: tally.refused }),
            // Some clients get it, so the whole message must not be sent again.
            Some(NotTaken { error: SendError::QueueFull, clients, .. }) if reached => {
                Ok(Broadcast { queued: tally.queued, refused: tally.refused + clients })
            }
            Some(NotTaken { error, .. }) => Err(error),
        }
    }

    /// The first half of [`broadcast`](Clients::broadcast), for the clients of one listener or of
    /// all. Returns the replies to wait for and, if some workers could not be reached, the failure
    /// that results.
    pub(crate) fn begin_broadcast(
        &self,
        bytes: &[u8],
        listener: Option<usize>,
    ) -> (Answers, Option<NotTaken>) {
        let to = listener.map_or(Recipients::All, Recipients::OfListener);
        let (answers, number) = (Answers::new(), self.number());
        let mut failed = None::<NotTaken>;
        for worker in 0..self.mailboxes.workers() {
            let clients = self.directory.count(worker, listener);
            if clients > 0
                && let Err(error) = self.post(worker, to, bytes, number, answers.receipt())
            {
                let before = failed.map_or(0, |failed| failed.clients);
                failed = Some(NotTaken { error, worker, clients: before + clients });
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

    /// The first half of [`disconnect`](Clients::disconnect). Returns the replies to wait for.
    pub(crate) fn begin_disconnect(&self, id: ConnectionId) -> Result<Answers, SendError> {
        if !self.directory.has(id) {
            return Err(SendError::Gone);
        }
        let answers = Answers::new();
        let command = WorkerCommand::Disconnect { id, receipt: answers.receipt() };
        self.mailboxes.send(id.worker(), command).map_err(|_| SendError::QueueFull)?;
        Ok(answers)
    }

    /// If the reserve has fewer than `count` buffers, makes the workers put their free ones into
    /// it: a worker keeps buffers that it has used. Waits for them, but not long, because all may
    /// be in use.
    pub(crate) fn collect_buffers(&self, count: usize) {
        /// How often to look. The looks are a millisecond apart, which is longer than a turn takes.
        const LOOKS: u32 = 10;
        if self.reserve.available() >= count {
            return;
        }
        for worker in 0..self.mailboxes.workers() {
            // A worker with a full inbox is too busy to give buffers.
            let _ = self.mailboxes.send(worker, WorkerCommand::GiveBuffers);
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
        to: Recipients,
        bytes: &[u8],
        number: u64,
        receipt: Receipt,
    ) -> Result<(), SendError> {
        let mut parcel = self.reserve.parcel().ok_or(SendError::QueueFull)?;
        let copied = parcel.extend_from_slice(bytes);
        let mail = WorkerCommand::Message(Mail { to, parcel, number, receipt });
        match copied == bytes.len() {
            true => self.mailboxes.send(worker, mail).map_err(|_| SendError::QueueFull),
            false => Err(SendError::TooLong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::endpoint::Peer;
    use crate::base::time::Time;

    /// Three workers with 1, 2 and 4 clients, and inboxes for one command.
    fn clients() -> ClientAccess {
        let directory = Directory::new(3, 4);
        let peer = Peer::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        for (worker, count) in [(0, 1), (1, 2), (2, 4)] {
            for slot in 0..count {
                let id = ConnectionId(slot | worker << 24 | 1 << 30);
                directory.enter(id, peer, slot % 2, Time::ZERO);
            }
        }
        ClientAccess {
            mailboxes: Arc::new(Mailboxes::with_room(3, 1)),
            directory,
            reserve: Reserve::new(64, 8).unwrap(),
            next: AtomicU64::new(1),
        }
    }

    fn fill(clients: &ClientAccess, worker: usize) {
        clients.mailboxes.send(worker, WorkerCommand::GiveBuffers).unwrap();
    }

    #[test]
    fn the_clients_of_all_workers_that_have_no_room_count_as_refused() {
        let clients = clients();
        (1..3).for_each(|worker| fill(&clients, worker));
        let (answers, failed) = clients.begin_broadcast(b"x", None);
        let Some(WorkerCommand::Message(mut mail)) = clients.mailboxes.receive(0) else {
            panic!("the one worker that has room takes it");
        };
        mail.receipt.queued = 1;
        drop(mail);
        let broadcast = ClientAccess::sum(&answers.wait(|| false), failed).unwrap();
        assert_eq!((broadcast.queued, broadcast.refused), (1, 6));
    }

    #[test]
    fn a_message_that_no_worker_has_room_for_is_an_error() {
        let clients = clients();
        (0..3).for_each(|worker| fill(&clients, worker));
        assert_eq!(clients.broadcast(b"x", || false).unwrap_err(), SendError::QueueFull);
        assert_eq!(clients.broadcast(&[0; 65], || false).unwrap_err(), SendError::TooLong);
        assert_eq!(clients.reserve.available(), 8);
    }
}
