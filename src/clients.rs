//! A server's clients as other threads see them: who is there, and what is sent to them.
//!
//! Each worker writes into the [`Directory`] which connections it has; anyone may read it without
//! waiting. What is to be sent goes to the worker that has the client, in a buffer, through its
//! bounded inbox, and a [`Receipt`] tells how it went.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytemuck::allocation::zeroed_slice_box;

use crate::buffer::{Parcel, Reserve};
use crate::crew::{Command, Mailboxes};
use crate::endpoint::canonical;
use crate::service::ConnectionId;

/// A connected client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ClientInfo {
    /// Its id: never 0, and never given to another client.
    pub id: ConnectionId,
    /// Its address, with IPv4-mapped addresses shown as IPv4.
    pub peer: SocketAddr,
    /// The index of its listener in [`Config::listen`](crate::Config::listen).
    pub listener: usize,
}

/// Why something was not sent to a client, or a client not disconnected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// There is no such client: it has left, or never was.
    Gone,
    /// Too much waits for the client already, or for its worker, or no buffer is free: try again
    /// later, or give the client up.
    QueueFull,
    /// The message is longer than a message to this service's clients may be.
    TooLong,
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SendError::Gone => "the client is gone",
            SendError::QueueFull => "too much waits to be sent already; try again later",
            SendError::TooLong => {
                "the message is longer than a buffer (--buffer-size) or than the listener's service \
                 allows (--max-message)"
            }
        })
    }
}

impl std::error::Error for SendError {}

/// What became of a message to all clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Broadcast {
    /// Clients that it was queued for.
    pub queued: u64,
    /// Clients that have too much queued already, and do not get it.
    pub refused: u64,
}

/// One place of the directory: the id, the address in 16 bytes, and port (16 bits), listener (16)
/// and scope (32). All 0 while nobody is there.
type Entry = [AtomicU64; 4];

/// Which connections a server has. Written by the workers, each its own part; read by anyone.
pub(crate) struct Directory {
    parts: Box<[Part]>,
}

struct Part {
    entries: Box<[Entry]>,
    /// Behind the last entry that was ever used.
    used: AtomicU32,
}

impl Directory {
    /// What it takes of memory for each slot of each worker.
    pub(crate) const BYTES_PER_SLOT: usize = size_of::<Entry>();

    pub(crate) fn new(workers: usize, slots: usize) -> Arc<Directory> {
        // Zeros from the system: what is never used is never resident.
        let part = |_| Part { entries: zeroed_slice_box(slots), used: AtomicU32::new(0) };
        Arc::new(Directory { parts: (0..workers).map(part).collect() })
    }

    /// A connection is there. Only its worker may say so.
    pub(crate) fn enter(&self, id: ConnectionId, peer: SocketAddr, listener: u64) {
        let part = &self.parts[id.worker()];
        let [number, high, low, rest] = &part.entries[id.slot() as usize];
        number.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        let (ip, scope) = match peer {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        let bits = ip.to_bits();
        high.store((bits >> 64) as u64, Ordering::Relaxed);
        low.store(bits as u64, Ordering::Relaxed);
        let port_and_listener = u64::from(peer.port()) | (listener & 0xFFFF) << 16;
        rest.store(port_and_listener | u64::from(scope) << 32, Ordering::Relaxed);
        number.store(id.to_bits(), Ordering::Release);
        part.used.fetch_max(id.slot() + 1, Ordering::Release);
    }

    /// A connection is gone. Only its worker may say so.
    pub(crate) fn leave(&self, id: ConnectionId) {
        self.parts[id.worker()].entries[id.slot() as usize][0].store(0, Ordering::Release);
    }

    /// Whether the connection is there.
    pub(crate) fn has(&self, id: ConnectionId) -> bool {
        let entry = self.parts.get(id.worker()).and_then(|p| p.entries.get(id.slot() as usize));
        entry.is_some_and(|entry| entry[0].load(Ordering::Acquire) == id.to_bits() && id.0 != 0)
    }

    /// The next connection at or behind the place `from`, with its place; all of them, one after
    /// the other, in the order of workers and slots. Places begin with 0.
    pub(crate) fn next(&self, from: u64) -> Option<(u64, ClientInfo)> {
        let (first, mut slot) = ((from >> 32) as usize, from as u32);
        for worker in first..self.parts.len() {
            let part = &self.parts[worker];
            let used = part.used.load(Ordering::Acquire);
            while slot < used {
                if let Some(client) = read(&part.entries[slot as usize]) {
                    return Some(((worker as u64) << 32 | u64::from(slot), client));
                }
                slot += 1;
            }
            slot = 0;
        }
        None
    }

    /// How many connections a worker has.
    fn count(&self, worker: usize) -> u64 {
        let part = &self.parts[worker];
        let used = part.used.load(Ordering::Acquire) as usize;
        let there = |entry: &&Entry| entry[0].load(Ordering::Relaxed) != 0;
        part.entries[..used].iter().filter(there).count() as u64
    }

    /// All connections.
    pub(crate) fn list(&self) -> Vec<ClientInfo> {
        let mut from = 0;
        std::iter::from_fn(|| {
            let (place, client) = self.next(from)?;
            from = place + 1;
            Some(client)
        })
        .collect()
    }
}

/// What an entry says, unless it is being written.
fn read([number, high, low, rest]: &Entry) -> Option<ClientInfo> {
    let id = number.load(Ordering::Acquire);
    let bits =
        u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed));
    let rest = rest.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    // No id comes twice, so the same one means that nothing was written in between.
    if id == 0 || number.load(Ordering::Relaxed) != id {
        return None;
    }
    let (port, listener) = (rest as u16, (rest >> 16) as u16);
    let address = SocketAddrV6::new(Ipv6Addr::from_bits(bits), port, 0, (rest >> 32) as u32);
    let peer = match canonical(address.into()) {
        SocketAddr::V4(v4) => SocketAddr::new(IpAddr::V4(*v4.ip()), port),
        v6 => v6,
    };
    Some(ClientInfo { id: ConnectionId(id), peer, listener: listener.into() })
}

/// A message on its way to a worker.
#[derive(Debug)]
pub(crate) struct Mail {
    /// To whom; `None`: to all clients of the worker.
    pub(crate) to: Option<ConnectionId>,
    pub(crate) parcel: Parcel,
    pub(crate) number: u64,
    pub(crate) receipt: Receipt,
}

/// What came of it, so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) queued: u64,
    pub(crate) refused: u64,
    /// Why the last one was refused.
    why: Option<SendError>,
    /// Receipts that have not been answered yet.
    pub(crate) open: usize,
}

#[derive(Default, Debug)]
struct Desk {
    tally: Mutex<Tally>,
    changed: Condvar,
}

/// The right to say how something went; saying nothing says that nobody was there.
#[derive(Debug)]
pub(crate) struct Receipt {
    desk: Arc<Desk>,
    pub(crate) queued: u64,
    refused: u64,
    why: Option<SendError>,
}

impl Receipt {
    /// One of the clients does not get it.
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
        // It is only counted in there.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a sender waits for its receipts.
pub(crate) struct Answers(Arc<Desk>);

impl Answers {
    pub(crate) fn new() -> Answers {
        Answers(Arc::default())
    }

    /// One more to be waited for.
    pub(crate) fn receipt(&self) -> Receipt {
        self.0.lock().open += 1;
        Receipt { desk: self.0.clone(), queued: 0, refused: 0, why: None }
    }

    /// What came of it so far.
    pub(crate) fn so_far(&self) -> Tally {
        *self.0.lock()
    }

    /// Waits for all receipts, or until `ended` says that nobody will answer any more.
    pub(crate) fn wait(&self, ended: impl Fn() -> bool) -> Tally {
        /// How often it is looked whether the workers have ended.
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let mut tally = self.0.lock();
        while tally.open > 0 && !ended() {
            let waited = self.0.changed.wait_timeout(tally, LOOK_EVERY);
            tally = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *tally
    }
}

/// What a server's handle needs to reach the clients.
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

    /// The first half: what is waited for then.
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
                // Some have it, so it must not be sent again as a whole.
                let missed = self.directory.count(worker);
                Ok(Broadcast { queued: tally.queued, refused: tally.refused + missed })
            }
            Some((error, _)) => Err(error),
        }
    }

    /// The first half: what is waited for then, and the first worker that it could not be posted
    /// to, with the reason.
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

    /// Closes a client's connection when its output is sent.
    pub(crate) fn disconnect(
        &self,
        id: ConnectionId,
        ended: impl Fn() -> bool,
    ) -> Result<(), SendError> {
        let tally = self.begin_disconnect(id)?.wait(ended);
        if tally.queued == 1 { Ok(()) } else { Err(SendError::Gone) }
    }

    /// The first half: what is waited for then.
    pub(crate) fn begin_disconnect(&self, id: ConnectionId) -> Result<Answers, SendError> {
        if !self.directory.has(id) {
            return Err(SendError::Gone);
        }
        let answers = Answers::new();
        let command = Command::Disconnect { id, receipt: answers.receipt() };
        self.mailboxes.send(id.worker(), command).map_err(|_| SendError::QueueFull)?;
        Ok(answers)
    }

    /// Has the workers put their free buffers into the reserve if it has fewer than `count`: they
    /// keep what they have used once. Waits for them, but not long: all may be in use.
    fn collect_buffers(&self, count: usize) {
        /// Each a millisecond apart, which is more than a turn takes.
        const LOOKS: u32 = 10;
        if self.reserve.available() >= count {
            return;
        }
        for worker in 0..self.mailboxes.workers() {
            // With its inbox full that worker has no time for it.
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
        // The buffer is back in the reserve then, where a worker may be waiting for one.
        refused.inspect_err(|_| self.mailboxes.wake_each(self.reserve.starving()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(worker: u64, slot: u64, generation: u64) -> ConnectionId {
        ConnectionId(slot | worker << 24 | generation << 30)
    }

    #[test]
    fn who_is_entered_is_listed_with_its_address_until_it_leaves() {
        let directory = Directory::new(2, 8);
        let peers = ["127.0.0.1:9", "[::1]:65535", "[fe80::1%7]:1"].map(|a| a.parse().unwrap());
        let ids = [id(0, 3, 1), id(1, 0, 1), id(1, 7, 9)];
        for (&id, &peer) in ids.iter().zip(&peers) {
            directory.enter(id, peer, 2);
        }
        let listed: Vec<_> =
            directory.list().iter().map(|client| (client.id, client.peer)).collect();
        assert_eq!(listed, ids.into_iter().zip(peers).collect::<Vec<_>>());
        assert!(directory.list().iter().all(|client| client.listener == 2));
        directory.leave(ids[1]);
        assert!(!directory.has(ids[1]) && directory.has(ids[0]) && directory.has(ids[2]));
        assert_eq!(directory.list().len(), 2);
    }

    #[test]
    fn an_id_of_an_earlier_use_of_a_slot_or_of_nowhere_is_nobodys() {
        let directory = Directory::new(1, 2);
        directory.enter(id(0, 1, 2), "127.0.0.1:9".parse().unwrap(), 0);
        assert!(directory.has(id(0, 1, 2)));
        for stranger in [id(0, 1, 1), id(0, 0, 1), id(0, 9, 1), id(5, 1, 2), ConnectionId(0)] {
            assert!(!directory.has(stranger), "{stranger}");
        }
    }

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
