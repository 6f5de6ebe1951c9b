//! Messages from a service to clients of the server, in transit. They are written into buffers, one
//! for each worker that has recipients, and travel from worker to worker in parcels.
//!
//! A buffer holds frames, each a head and the bytes of a message. Buffers leave at the end of the
//! turn, or when they are full. At most [`BUFFERS_MAX`] are in transit from a worker to each other
//! one, and to itself. A message that finds no room is refused, and the service gets an error. So
//! no queue grows without a limit, and no worker waits for another.
//!
//! `worker/mail.rs` delivers the messages to the recipients.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::key::ConnectionId;
use crate::buffer::{Lease, Pool};
use crate::shared::counters::Counters;
use crate::shared::directory::Directory;
use crate::shared::mailbox::Mailboxes;
use crate::shared::receipt::SendError;

/// The most buffers with messages in transit from one worker to another, or to itself.
pub(crate) const BUFFERS_MAX: u32 = 4;

/// The recipients of a message that a service sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum To {
    /// One client.
    Client(ConnectionId),
    /// All clients of the server, those of all listeners.
    All,
    /// All clients except one, usually the sender.
    AllBut(ConnectionId),
    /// The clients with this [group](crate::service::Connection::set_group).
    Group(u64),
    /// The clients with this group, except one.
    GroupBut(u64, ConnectionId),
}

impl To {
    /// Kind, group or id, and the client that is left out.
    fn to_parts(self) -> (u8, u64, u64) {
        match self {
            To::Client(id) => (0, id.to_bits(), 0),
            To::All => (1, 0, 0),
            To::AllBut(id) => (1, 0, id.to_bits()),
            To::Group(group) => (2, group, 0),
            To::GroupBut(group, id) => (2, group, id.to_bits()),
        }
    }

    fn from_parts(kind: u8, number: u64, but: u64) -> To {
        let but = (but != 0).then_some(ConnectionId(but));
        match (kind, but) {
            (0, _) => To::Client(ConnectionId(number)),
            (1, None) => To::All,
            (1, Some(id)) => To::AllBut(id),
            (_, None) => To::Group(number),
            (_, Some(id)) => To::GroupBut(number, id),
        }
    }
}

/// What precedes a message in a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MessageHead {
    pub(crate) to: To,
    /// The connection in whose call it was sent; 0 if there is none.
    pub(crate) from: u64,
    pub(crate) number: u64,
    len: u32,
}

impl MessageHead {
    pub(crate) const BYTES: usize = 1 + 4 * size_of::<u64>() + size_of::<u32>();

    fn write(&self, into: &mut Lease) {
        let (kind, number, but) = self.to.to_parts();
        into.extend_from_slice(&[kind]);
        for word in [number, but, self.from, self.number] {
            into.extend_from_slice(&word.to_ne_bytes());
        }
        into.extend_from_slice(&self.len.to_ne_bytes());
    }

    /// Takes the first message from `frames`: its head and its bytes.
    pub(crate) fn take<'a>(frames: &mut &'a [u8]) -> Option<(MessageHead, &'a [u8])> {
        let (kind, rest) = frames.split_first()?;
        let mut rest = rest;
        let mut word = || {
            let (word, behind) = rest.split_first_chunk().expect("frames are whole");
            rest = behind;
            u64::from_ne_bytes(*word)
        };
        let (to, but, from, number) = (word(), word(), word(), word());
        let (len, rest) = rest.split_first_chunk().expect("frames are whole");
        let len = u32::from_ne_bytes(*len);
        let (bytes, behind) = rest.split_at(len as usize);
        *frames = behind;
        Some((MessageHead { to: To::from_parts(*kind, to, but), from, number, len }, bytes))
    }
}

/// The messages of one worker's service.
pub(crate) struct Messenger {
    worker: usize,
    pool: Pool,
    mailboxes: Arc<Mailboxes>,
    /// `None` where connections are started and not accepted.
    directory: Option<Arc<Directory>>,
    counters: Arc<Counters>,
    /// The number of the next message.
    next: Cell<u64>,
    /// The buffer being written for each worker.
    stages: RefCell<Box<[Option<Lease>]>>,
    /// Buffers for this worker itself, in the order in which they were filled.
    own: RefCell<VecDeque<Lease>>,
    /// Whether a buffer is being written that has not left yet.
    is_pending: Cell<bool>,
}

impl Messenger {
    pub(crate) fn new(
        worker: usize,
        pool: &Pool,
        mailboxes: &Arc<Mailboxes>,
        directory: Option<&Arc<Directory>>,
        counters: &Arc<Counters>,
    ) -> Messenger {
        Messenger {
            worker,
            pool: pool.clone(),
            mailboxes: mailboxes.clone(),
            directory: directory.cloned(),
            counters: counters.clone(),
            // Distinct from the numbers that the server's handle assigns, and from those of other
            // workers.
            next: Cell::new(1 << 63 | (worker as u64) << 56),
            stages: RefCell::new((0..mailboxes.workers()).map(|_| None).collect()),
            own: RefCell::new(VecDeque::with_capacity(BUFFERS_MAX as usize)),
            is_pending: Cell::new(false),
        }
    }

    /// For tests of services, without other workers or clients.
    #[cfg(test)]
    pub(crate) fn alone(pool: &Pool) -> Messenger {
        Messenger::new(0, pool, &Arc::new(Mailboxes::new(1)), None, &Arc::default())
    }

    pub(crate) fn directory(&self) -> Option<&Directory> {
        self.directory.as_deref()
    }

    /// Whether there are messages to deliver here or to send to other workers.
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.is_pending.get()
    }

    /// Makes the next turn deliver the messages that are left for this worker.
    pub(crate) fn set_pending(&self) {
        self.is_pending.set(true);
    }

    /// Sends a message. If no client gets it, returns the reason.
    pub(crate) fn send(
        &self,
        from: Option<ConnectionId>,
        to: To,
        parts: &[&[u8]],
    ) -> Result<(), SendError> {
        let sent = self.try_send(from, to, parts);
        if sent == Err(SendError::QueueFull) {
            self.counters.messages_dropped.add(1);
        }
        sent
    }

    fn try_send(
        &self,
        from: Option<ConnectionId>,
        to: To,
        parts: &[&[u8]],
    ) -> Result<(), SendError> {
        let directory = self.directory().ok_or(SendError::Gone)?;
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if MessageHead::BYTES + len > self.pool.buffer_size() {
            return Err(SendError::TooLong);
        }
        let workers = match to {
            To::Client(id) if !directory.has(id) => return Err(SendError::Gone),
            To::Client(id) => id.worker()..id.worker() + 1,
            _ => 0..self.mailboxes.workers(),
        };
        let has_recipients = |&worker: &usize| matches!(to, To::Client(_)) || directory.any(worker);
        let workers = || workers.clone().filter(has_recipients);
        // First make room for the message on all workers: either all recipients get it, or none
        // does.
        for worker in workers() {
            self.make_room(worker, MessageHead::BYTES + len)?;
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let from = from.map_or(0, ConnectionId::to_bits);
        let mut stages = self.stages.borrow_mut();
        for worker in workers() {
            let lease = stages[worker].as_mut().expect("room was made");
            MessageHead { to, from, number, len: len as u32 }.write(lease);
            for part in parts {
                lease.extend_from_slice(part);
            }
        }
        Ok(())
    }

    fn make_room(&self, worker: usize, bytes: usize) -> Result<(), SendError> {
        let has_room = |stage: &Option<Lease>| stage.as_ref().is_some_and(|l| l.room() >= bytes);
        if has_room(&self.stages.borrow()[worker]) {
            return Ok(());
        }
        if !self.leave(worker) {
            return Err(SendError::QueueFull);
        }
        let lease = self.pool.lease_in_turn().ok_or(SendError::QueueFull)?;
        self.stages.borrow_mut()[worker] = Some(lease);
        // Also if another worker has no room then: the turn gives an empty buffer back.
        self.is_pending.set(true);
        Ok(())
    }

    /// Sends the buffer that is being written for a worker. Returns false if too many buffers are
    /// in transit to the worker.
    fn leave(&self, worker: usize) -> bool {
        let Some(lease) = self.stages.borrow_mut()[worker].take() else { return true };
        if lease.is_empty() {
            return true;
        }
        let refused = if worker != self.worker {
            self.mailboxes.send_messages(self.worker, worker, lease, &self.pool, BUFFERS_MAX).err()
        } else if self.own.borrow().len() < BUFFERS_MAX as usize {
            self.own.borrow_mut().push_back(lease);
            None
        } else {
            Some(lease)
        };
        let left = refused.is_none();
        self.stages.borrow_mut()[worker] = refused;
        left
    }

    /// Between two turns: sends everything off. Returns how many buffers are for this worker.
    pub(crate) fn turn(&self) -> usize {
        let mut all_left = true;
        for worker in 0..self.mailboxes.workers() {
            all_left &= self.leave(worker);
        }
        self.is_pending.set(!all_left);
        self.own.borrow().len()
    }

    /// The next buffer for this worker.
    pub(crate) fn next_own(&self) -> Option<Lease> {
        self.own.borrow_mut().pop_front()
    }

    /// The worker has ended: returns the buffers that have not left.
    pub(crate) fn end(&self) {
        self.stages.borrow_mut().iter_mut().for_each(|stage| *stage = None);
        self.own.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::endpoint::Peer;
    use crate::buffer::Reserve;

    const SIZE: usize = 256;

    fn id(worker: u64, slot: u64) -> ConnectionId {
        ConnectionId(slot | worker << 24 | 1 << 30)
    }

    /// Two workers with one client each.
    fn two(buffers: u32) -> ([Messenger; 2], Arc<Mailboxes>, Pool) {
        let reserve = Reserve::new(SIZE, buffers).unwrap();
        let mailboxes = Arc::new(Mailboxes::new(2));
        let directory = Directory::new(2, 4);
        let peer = Peer::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        (0..2).for_each(|worker| {
            directory.enter(id(worker, 3), peer, 0, crate::base::time::Time::ZERO)
        });
        let pools = [0, 1].map(|worker| Pool::new(reserve.clone(), worker));
        let messengers = [0, 1].map(|worker| {
            let counters = Arc::default();
            Messenger::new(worker, &pools[worker], &mailboxes, Some(&directory), &counters)
        });
        let [_, pool] = pools;
        (messengers, mailboxes, pool)
    }

    #[test]
    fn a_message_is_read_as_it_was_written_by_whomever_it_is_for() {
        let ([messenger, _], ..) = two(2);
        let (one, group) = (id(0, 3), u64::MAX);
        let all = [
            To::Client(one),
            To::All,
            To::AllBut(one),
            To::Group(group),
            To::GroupBut(group, id(1, 3)),
        ];
        for to in all {
            messenger.send(Some(one), to, &[b"a", b"", b"bc"]).unwrap();
        }
        assert_eq!(messenger.turn(), 1);
        let lease = messenger.next_own().unwrap();
        let mut frames = lease.filled();
        let mut last = 0;
        for to in all {
            let (head, bytes) = MessageHead::take(&mut frames).unwrap();
            assert_eq!((head.to, head.from, bytes), (to, one.to_bits(), &b"abc"[..]));
            assert!(head.number > last, "each has a number of its own");
            last = head.number;
        }
        assert_eq!(MessageHead::take(&mut frames), None);
    }

    #[test]
    fn a_worker_that_does_not_catch_up_has_messages_refused_and_what_is_queued_is_bounded() {
        let ([messenger, _], mailboxes, pool) = two(100);
        let text = [7; SIZE - MessageHead::BYTES];
        let mut sent = 0;
        while messenger.send(None, To::Client(id(1, 3)), &[&text]).is_ok() {
            sent += 1;
            assert!(sent < 20, "there is no end");
        }
        assert_eq!(sent, BUFFERS_MAX + 1, "on their way, and being written");
        assert_eq!(messenger.counters.messages_dropped.get(), 1);
        assert_eq!(messenger.send(None, To::All, &[b"x"]), Err(SendError::QueueFull));
        assert_eq!(messenger.turn(), 0, "nobody gets what some cannot get");
        assert!(messenger.is_pending(), "the last has to wait");
        let mut delivered = 0;
        while let Some(crate::shared::mailbox::WorkerCommand::Messages { from, parcel }) =
            mailboxes.receive(1)
        {
            drop(parcel.into_lease(&pool));
            mailboxes.messages_delivered(from, 1, BUFFERS_MAX);
            messenger.turn();
            delivered += 1;
        }
        assert_eq!((delivered, messenger.is_pending()), (BUFFERS_MAX + 1, false));
    }

    #[test]
    fn too_long_gone_and_without_a_buffer_are_told_apart() {
        let ([messenger, _], ..) = two(1);
        let long = [0; SIZE - MessageHead::BYTES + 1];
        assert_eq!(messenger.send(None, To::All, &[&long]), Err(SendError::TooLong));
        assert_eq!(messenger.send(None, To::Client(id(1, 2)), &[b"x"]), Err(SendError::Gone));
        assert_eq!(messenger.send(None, To::All, &[b"x"]), Err(SendError::QueueFull));
        assert!(messenger.is_pending(), "the turn is to give the buffer back");
        assert_eq!(messenger.turn(), 0);
        assert_eq!(messenger.pool.available(), 1, "an empty buffer is not kept");
        messenger.send(None, To::Client(id(1, 3)), &[b"x"]).unwrap();
        messenger.end();
        assert_eq!(messenger.pool.held(), 0);
    }
}
