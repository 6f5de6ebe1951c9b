//! Workers without threads or sockets, for tests that check every step: a turn runs when the test
//! calls for it, and a client reads when the test lets it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use super::*;
use crate::base::time::Time;
use crate::buffer::{Chain, Pool, Reserve};
use crate::service::messenger::Messenger;
use crate::service::{Attention, Requests};
use crate::shared::counters::Counters;
use crate::shared::directory::Directory;
use crate::shared::mailbox::{Mailboxes, WorkerCommand};

pub(super) const SLOTS: usize = 64;

/// Some workers with a hub.
pub(super) struct Still {
    pub(super) workers: Vec<StillWorker>,
    pub(super) clients: BTreeMap<u64, StillClient>,
    pub(super) directory: Arc<Directory>,
    pub(super) mailboxes: Arc<Mailboxes>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) now: Time,
    generation: u64,
}

pub(super) struct StillWorker {
    pub(super) hub: Hub,
    pub(super) pool: Pool,
    pub(super) counters: Arc<Counters>,
    requests: Requests,
    /// When the hub wants its next turn.
    pub(super) next: Option<Time>,
    /// Whether the hub reported in its last turn that it lacks a buffer.
    pub(super) starves: bool,
    /// Whether another worker has woken this one since its last turn.
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client, with both ends of its connection.
pub(super) struct StillClient {
    input: Chain,
    output: Chain,
    /// The time until which the server does not read it.
    pub(super) paused: Option<Time>,
    /// Whether it reads the bytes that it is sent.
    pub(super) reads: bool,
    /// The reason for which it is closed when its output is sent.
    pub(super) finishing: Option<CloseReason>,
    pub(super) closed: Option<CloseReason>,
    received: Vec<u8>,
    told: Vec<Told>,
    /// The clients that it takes to be connected, by the rule of the protocol document; and the set
    /// under construction.
    pub(super) picture: BTreeSet<u64>,
    list: Option<BTreeSet<u64>>,
}

impl StillClient {
    fn read(&mut self) {
        for slice in self.output.slices() {
            self.received.extend_from_slice(slice);
        }
        self.output.consume(self.output.len());
        let mut rest = &self.received[..];
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let len = u32::from_le_bytes(*length) as usize;
            let Some((frame, behind)) = behind.split_at_checked(len) else { break };
            let told = Told::of(frame);
            match &told {
                Told::Clients(more, ids) => {
                    let list = self.list.get_or_insert_default();
                    list.extend(ids);
                    if !more {
                        self.picture = self.list.take().unwrap();
                    }
                }
                Told::Joined(id) => {
                    self.picture.insert(*id);
                    self.list.iter_mut().for_each(|list| {
                        list.insert(*id);
                    });
                }
                Told::Left(id) => {
                    self.picture.remove(id);
                    self.list.iter_mut().for_each(|list| {
                        list.remove(id);
                    });
                }
                _ => {}
            }
            self.told.push(told);
            rest = behind;
        }
        self.received = rest.to_vec();
    }
}

impl Still {
    /// The most clients that are woken in one turn.
    pub(super) const WAKES_MAX: usize = 16;

    pub(super) fn new(workers: usize, buffers: u32, size: usize, options: HubOptions) -> Still {
        let (mailboxes, directory) =
            (Arc::new(Mailboxes::new(workers)), Directory::new(workers, SLOTS));
        let reserve = Reserve::new(size, buffers).unwrap();
        let bounds = Bounds::new(&options, size, buffers as usize);
        let shared = Arc::new(HubState::new(workers));
        let worker = |worker| {
            let references = SLOTS * bounds.references_per_client();
            let pool = Pool::with_references(reserve.clone(), worker, references);
            let counters = Arc::<Counters>::default();
            let context = WorkerContext {
                of_one_listener: true,
                worker,
                counters: counters.clone(),
                mailboxes: mailboxes.clone(),
                directory: Some(directory.clone()),
                ..WorkerContext::alone(pool.clone(), SLOTS)
            };
            let hub = Hub::new(&options, bounds, shared.clone(), &context);
            let requests = Requests::with_capacity(SLOTS);
            let woken = Arc::<Woken>::default();
            mailboxes.set_waker(worker, Waker::from(woken.clone()));
            reserve.board().set_waker(worker, Waker::from(woken.clone()));
            StillWorker { hub, pool, counters, requests, next: None, starves: false, woken }
        };
        let workers = (0..workers).map(worker).collect();
        let (clients, now, generation) = (BTreeMap::new(), Time::ZERO, 1);
        Still { workers, clients, directory, mailboxes, reserve, now, generation }
    }

    fn call(
        &mut self,
        id: u64,
        call: impl FnOnce(&mut Hub, &mut Connection<'_>) -> Answer,
    ) -> Option<()> {
        let client = self.clients.get_mut(&id)?;
        let id = ConnectionId::from_bits(id);
        let worker = &mut self.workers[id.worker()];
        let mut connection = Connection {
            id,
            peer: SocketAddr::from((Ipv6Addr::LOCALHOST, 1)).into(),
            tag: 0,
            discarded: 0,
            sent: 0,
            now: self.now,
            around: &self.now,
            pool: &worker.pool,
            messenger: &Messenger::alone(&worker.pool),
            attention: &Attention::default(),
            timer: &mut Time::MAX.clone(),
            input: &mut client.input,
            output: &mut client.output,
        };
        let answer = call(&mut worker.hub, &mut connection);
        match answer {
            Answer::Continue => {}
            Answer::WaitUntil(time) => client.paused = Some(time),
            Answer::CloseAfterSendFor(reason) => self.finish(id.to_bits(), reason),
            Answer::CloseFor(reason) => self.close(id.to_bits(), reason),
            other => panic!("{other:?}"),
        }
        Some(())
    }

    /// Connects a client to a worker.
    pub(super) fn open(&mut self, worker: usize) -> u64 {
        let open = self.clients.keys().filter(|id| *id >> 63 == 0);
        let here = open.filter(|id| *id >> 24 & 0x3F == worker as u64);
        let used: BTreeSet<u64> = here.map(|id| id & 0xFF_FFFF).collect();
        let slot = (0..SLOTS as u64).find(|slot| !used.contains(slot)).expect("a free slot");
        let id = slot | (worker as u64) << 24 | self.generation << 30;
        self.generation += 1;
        let peer = SocketAddr::from((Ipv6Addr::LOCALHOST, 1));
        self.directory.enter(ConnectionId::from_bits(id), peer.into(), 0, Time::ZERO);
        let pool = &self.workers[worker].pool;
        let client = StillClient {
            input: Chain::new(pool),
            output: Chain::new(pool),
            paused: None,
            reads: true,
            finishing: None,
            closed: None,
            received: Vec::new(),
            told: Vec::new(),
            picture: BTreeSet::new(),
            list: None,
        };
        self.clients.insert(id, client);
        self.call(id, |hub, connection| hub.open(connection, &mut ()));
        id
    }

    /// Tells the service that the connection is finishing. The rest is the kernel's work, unless the
    /// service has lost something.
    pub(super) fn finish(&mut self, id: u64, reason: CloseReason) {
        let mut lost = None;
        self.call(id, |hub, connection| {
            lost = hub.finishing(connection, &mut ());
            Answer::Continue
        });
        if let Some(lost) = lost {
            return self.close(id, lost);
        }
        let client = self.clients.get_mut(&id).unwrap();
        client.input.consume(client.input.len());
        client.finishing = Some(reason);
    }

    /// Closes a connection.
    pub(super) fn close(&mut self, id: u64, reason: CloseReason) {
        self.directory.leave(ConnectionId::from_bits(id));
        self.call(id, |hub, connection| {
            hub.closed(connection, &mut (), reason);
            Answer::Continue
        });
        let mut client = self.clients.remove(&id).unwrap();
        client.closed = Some(reason);
        client.input.consume(client.input.len());
        client.output.consume(client.output.len());
        // Kept under a number that no client has.
        self.clients.insert(id | 1 << 63, client);
    }

    pub(super) fn closed(&self, id: u64) -> Option<CloseReason> {
        self.clients.get(&(id | 1 << 63))?.closed
    }

    /// Delivers bytes from a client while there are buffers. The rest stays in its socket. Returns
    /// how many bytes were taken.
    pub(super) fn says(&mut self, id: u64, bytes: &[u8]) -> usize {
        let client = self.clients.get_mut(&id).unwrap();
        let pool = &self.workers[ConnectionId::from_bits(id).worker()].pool;
        if client.paused.is_some() || client.finishing.is_some() {
            return 0;
        }
        let Some(mut lease) = pool.lease() else { return 0 };
        let taken = lease.extend_from_slice(bytes);
        client.input.absorb(&mut Chain::from(lease));
        self.call(id, |hub, connection| hub.data(connection, &mut ()));
        taken
    }

    /// Delivers all the bytes, with turns in between if necessary.
    pub(super) fn says_all(&mut self, id: u64, mut bytes: &[u8]) {
        let mut turns = 0;
        while !bytes.is_empty() {
            bytes = &bytes[self.says(id, bytes)..];
            if !bytes.is_empty() {
                self.turn();
            }
            turns += 1;
            assert!(turns < 100_000, "{id} is never read again");
        }
    }

    /// Runs one turn of each worker, in order, and advances the clock by 1 ms.
    pub(super) fn turn(&mut self) {
        (0..self.workers.len()).for_each(|worker| self.turn_of(worker));
        self.pass();
    }

    pub(super) fn turn_of(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        worker.woken.0.store(false, Ordering::Relaxed);
        while let Some(command) = self.mailboxes.receive(at) {
            if let WorkerCommand::Parcel { listener, parcel } = command {
                worker.hub.parcel(listener, parcel.into_lease(&worker.pool), self.now);
            }
        }
        let messenger = Messenger::alone(&worker.pool);
        let mut turn = crate::service::Turn {
            messenger: &messenger,
            now: self.now,
            looked_at: self.now,
            open: 0,
            free_slots: 0,
            wakes_max: Still::WAKES_MAX,
            all_served: true,
            yielded: &crate::base::slot_queue::SlotQueue::new(0),
            requests: &mut worker.requests,
        };
        worker.next = worker.hub.turn(&mut turn);
        worker.starves = std::mem::take(&mut worker.requests.buffer);
        let mut woken: Vec<u64> = worker.requests.wakes.drain(..).map(|id| id.to_bits()).collect();
        if !woken.is_empty() {
            // As the worker does: the hub has not seen the results of these wakes.
            worker.next = Some(self.now);
        }
        let due = |client: &StillClient| client.paused.is_some_and(|until| until <= self.now);
        let here = |id: &u64| *id >> 63 == 0 && (*id >> 24) as usize & 0x3F == at;
        woken.extend(self.clients.iter().filter(|(id, c)| here(id) && due(c)).map(|(id, _)| *id));
        for id in woken {
            if self.clients.get(&id).is_some_and(|client| client.finishing.is_none()) {
                self.clients.get_mut(&id).unwrap().paused = None;
                self.call(id, |hub, connection| hub.timer(connection, &mut ()));
            }
        }
        let all: Vec<u64> = self.clients.keys().copied().filter(here).collect();
        all.into_iter().for_each(|id| self.send(id));
        // Gives free buffers to the other workers.
        self.workers[at].pool.give(false);
    }

    /// Lets the kernel take the output of a client that reads.
    fn send(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.reads) else { return };
        let (sent, finishing) = (!client.output.is_empty(), client.finishing);
        client.read();
        match finishing {
            Some(reason) => self.close(id, reason),
            None if sent => {
                self.call(id, |hub, connection| hub.sent(connection, &mut ()));
            }
            None => {}
        }
    }

    /// Runs turns of those workers that ask for one or that were woken, until there are none. No
    /// time passes.
    pub(super) fn run(&mut self) {
        for _ in 0..1000 {
            let wants = |worker: &StillWorker| {
                worker.next.is_some_and(|next| next <= self.now)
                    || worker.woken.0.load(Ordering::Relaxed)
            };
            let Some(next) = self.workers.iter().position(wants) else { return };
            self.turn_of(next);
        }
        panic!("it never comes to rest");
    }

    /// Runs turns until no worker asks for another one.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.turn();
            let idle = |worker: &StillWorker| {
                worker.next.is_none() && !worker.woken.0.load(Ordering::Relaxed)
            };
            let sent = |client: &StillClient| {
                client.closed.is_some() || !client.reads || client.output.is_empty()
            };
            if self.workers.iter().all(idle)
                && self.clients.values().all(sent)
                && self.reserve.travelling() == 0
            {
                // Buffers that the last sends have freed are given back in the turn after them.
                return self.turn();
            }
        }
        panic!("it never comes to rest");
    }

    /// Returns the frames that a client was sent since the last call.
    pub(super) fn told(&mut self, id: u64) -> Vec<Told> {
        let key = if self.clients.contains_key(&id) { id } else { id | 1 << 63 };
        std::mem::take(&mut self.clients.get_mut(&key).unwrap().told)
    }

    /// Returns the number of bytes that a client has sent and that the hub has not processed.
    pub(super) fn input_len(&self, id: u64) -> usize {
        self.clients[&id].input.len()
    }

    pub(super) fn reads(&mut self, id: u64, reads: bool) {
        self.clients.get_mut(&id).unwrap().reads = reads;
    }

    /// Closes the sending side of a client.
    pub(super) fn half_close(&mut self, id: u64) {
        self.call(id, |hub, connection| hub.peer_closed(connection, &mut ()));
    }

    pub(super) fn message_to(&mut self, id: u64, bytes: &[u8], number: u64) -> Option<SendError> {
        let mut message =
            Message { bytes, number, from: None, to_all: true, shared: None, refused: None };
        self.call(id, |hub, connection| hub.message(connection, &mut (), &mut message));
        message.refused
    }

    /// Makes the workers time their turns.
    #[cfg(feature = "admin")]
    pub(super) fn time_turns(&self) {
        self.workers.iter().for_each(|worker| worker.counters.time_turns());
    }

    #[cfg(feature = "admin")]
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// Lets a millisecond pass.
    pub(super) fn pass(&mut self) {
        self.now = self.now + Duration::from_millis(1);
    }

    /// Since when the messages were on their way that a worker has passed on since the last call.
    #[cfg(feature = "admin")]
    pub(super) fn delivered(&mut self, worker: usize) -> Option<Time> {
        self.workers[worker].requests.delivered.take()
    }

    pub(super) fn held(&self) -> usize {
        self.workers.iter().map(|worker| worker.pool.held()).sum()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.workers.iter().map(|worker| worker.counters.messages_dropped.get()).sum()
    }
}
