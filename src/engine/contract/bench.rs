//! An engine on its testbed, with the operations of the tests. For every rule, the bench checks
//! that each operation completes exactly once, that Cancel completes last, and that all leases and
//! permits are returned at the end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Parts, Testbed};
use crate::base::endpoint::Peer;
use crate::base::key::{Key, OpKind};
use crate::base::time::Time;
use crate::buffer::{Chain, Pool, Reserve};
use crate::engine::{Completion, Detached, Engine, Op, Outcome, Sink, Submitted};
use crate::error::Errno;
use crate::shared::mailbox::Mailboxes;
use crate::shared::permits::{Permit, Permits};

/// Longer than any operation takes. Only keeps tests from hanging.
pub(super) const GUARD: Duration = Duration::from_secs(60);
/// More polls than any operation takes.
const POLLS_MAX: u32 = 200_000;
/// How long a poll waits before a condition is checked again.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) type SocketOf<S> = <<S as Testbed>::Engine as Engine>::Socket;
type LogOf<S> = Log<SocketOf<S>>;
pub(super) type OutcomeOf<S> = Outcome<SocketOf<S>>;

/// The sizes of a bench.
pub(super) struct Shape {
    pub(super) buffer_size: usize,
    pub(super) buffers: u32,
    pub(super) permits: usize,
    pub(super) window: usize,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { buffer_size: 64, buffers: 16, permits: 32, window: 4096 }
    }
}

/// The operations in flight, and the completions that the test has not taken yet.
pub(super) struct Log<Socket> {
    in_flight: HashSet<Key>,
    done: VecDeque<(Key, Outcome<Socket>)>,
    pub(super) turns: u32,
}

impl<Socket: std::fmt::Debug> Log<Socket> {
    /// Records the completion of an operation, which must be in flight.
    pub(super) fn note(&mut self, key: Key, outcome: &Outcome<Socket>) {
        assert!(self.in_flight.remove(&key), "{key:?} is not in flight: {outcome:?}");
        if key.op() == OpKind::Cancel {
            let left = self.in_flight.iter().find(|other| other.socket() == key.socket());
            assert_eq!(left, None, "Cancel completes last");
        }
    }
}

impl<E: Engine> Sink<E> for Log<E::Socket> {
    fn turn(&mut self, _: Time) {
        self.turns += 1;
    }

    fn complete(&mut self, _: &mut E, completion: Completion<E::Socket>) {
        self.note(completion.key, &completion.outcome);
        self.done.push_back((completion.key, completion.outcome));
    }
}

/// A sink with a hook that is called for each completion.
struct Hooked<'a, Socket, F> {
    log: &'a mut Log<Socket>,
    hook: F,
}

impl<E, F> Sink<E> for Hooked<'_, E::Socket, F>
where
    E: Engine,
    F: FnMut(&mut E, &mut Log<E::Socket>, Completion<E::Socket>),
{
    fn turn(&mut self, _: Time) {
        self.log.turns += 1;
    }

    fn complete(&mut self, engine: &mut E, completion: Completion<E::Socket>) {
        self.log.note(completion.key, &completion.outcome);
        (self.hook)(engine, self.log, completion);
    }
}

fn kind_of(op: &Op) -> OpKind {
    match op {
        Op::Accept => OpKind::Accept,
        Op::Connect(_) => OpKind::Connect,
        Op::Recv(_) | Op::Discard => OpKind::Recv,
        Op::Send(_) => OpKind::Send,
        Op::Shutdown => OpKind::Shutdown,
        Op::Cancel => OpKind::Cancel,
        Op::Close | Op::Reset => OpKind::Close,
    }
}

/// Submits an operation. Returns `None` if it is in flight afterwards.
pub(super) fn submit<E: Engine>(
    engine: &mut E,
    log: &mut Log<E::Socket>,
    key: Key,
    op: Op,
) -> Option<Outcome<E::Socket>> {
    let key = key.with(kind_of(&op));
    match engine.submit(key.socket(), op) {
        Submitted::Ready(outcome) => Some(outcome),
        Submitted::Pending => {
            assert!(log.in_flight.insert(key), "the test has {key:?} in flight twice");
            None
        }
    }
}

/// The result of a receive.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Got {
    Bytes(Vec<u8>),
    Ended,
    NoBuffer,
    Cancelled,
    Failed(Errno),
}

/// How a stream ended, as seen by the peer.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum End {
    Fin,
    Reset,
}

pub(super) struct Bench<S: Testbed> {
    pub(super) log: Log<SocketOf<S>>,
    pub(super) engine: S::Engine,
    pub(super) testbed: S,
    pub(super) pool: Pool,
    pub(super) permits: Arc<Permits>,
    /// The permit of each accepted connection.
    held: HashMap<Key, Permit>,
    slots_used: u32,
}

/// Bytes that identify their position, as far as one byte can.
pub(super) fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 7 + at / 251 + 1) as u8).collect()
}

/// The key of the listener.
pub(super) fn listener() -> Key {
    Key::listener(0)
}

impl<S: Testbed> Bench<S> {
    pub(super) fn new(seed: u64, shape: Shape) -> Bench<S> {
        let pool = Pool::new(Reserve::new(shape.buffer_size, shape.buffers).unwrap(), 0);
        let permits = Permits::new(shape.permits as u64, Arc::new(Mailboxes::new(1)));
        let (testbed, engine) = S::set(
            seed,
            Parts {
                slots: shape.permits + 8,
                pool: pool.clone(),
                permits: permits.clone(),
                window: shape.window,
            },
        );
        let log = Log { in_flight: HashSet::new(), done: VecDeque::new(), turns: 0 };
        Bench { log, engine, testbed, pool, permits, held: HashMap::new(), slots_used: 0 }
    }

    // Polling.

    pub(super) fn poll(&mut self, deadline: Option<Time>) {
        self.testbed.poll(&mut self.engine, deadline, &mut self.log);
    }

    /// Polls until `hook` returns true. It is called for each completion.
    pub(super) fn until_with(
        &mut self,
        what: &str,
        mut hook: impl FnMut(&mut S::Engine, &mut LogOf<S>, Completion<SocketOf<S>>) -> bool,
    ) {
        let begun = self.engine.now();
        let mut done = false;
        for _ in 0..POLLS_MAX {
            if done {
                return;
            }
            let now = self.engine.now();
            assert!(now.since(begun) < GUARD, "never: {what}; in flight: {:?}", self.log.in_flight);
            let hook = |engine: &mut S::Engine, log: &mut LogOf<S>, completion| {
                done |= hook(engine, log, completion);
            };
            let mut sink = Hooked { log: &mut self.log, hook };
            self.testbed.poll(&mut self.engine, Some(now + PAUSE), &mut sink);
        }
        panic!("busy loop while waiting for: {what}");
    }

    /// Polls several times, so that events which need no further action have usually happened.
    pub(super) fn idle(&mut self) {
        for _ in 0..3 {
            self.poll(Some(self.engine.now() + PAUSE));
        }
    }

    /// Polls until `condition` returns a value.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        mut answer: impl FnMut(&mut Bench<S>) -> Option<T>,
    ) -> T {
        let begun = self.engine.now();
        for _ in 0..POLLS_MAX {
            if let Some(answer) = answer(self) {
                return answer;
            }
            let now = self.engine.now();
            assert!(now.since(begun) < GUARD, "never: {what}; in flight: {:?}", self.log.in_flight);
            self.poll(Some(now + PAUSE));
        }
        panic!("busy loop while waiting for: {what}");
    }

    // Operations.

    pub(super) fn submit(&mut self, key: Key, op: Op) -> Option<OutcomeOf<S>> {
        submit(&mut self.engine, &mut self.log, key, op)
    }

    /// Submits an operation that cannot complete yet.
    pub(super) fn submit_pending(&mut self, key: Key, op: Op) {
        let done = self.submit(key, op);
        assert!(done.is_none(), "{key:?}: {done:?} although there was nothing to do");
    }

    /// The outcome of an operation, if it has completed.
    pub(super) fn take(&mut self, key: Key, op: OpKind) -> Option<OutcomeOf<S>> {
        let key = key.with(op);
        let at = self.log.done.iter().position(|(of, _)| *of == key)?;
        self.log.done.remove(at).map(|(_, outcome)| outcome)
    }

    /// Waits for an operation in flight.
    pub(super) fn result(&mut self, key: Key, op: OpKind) -> OutcomeOf<S> {
        self.until(&format!("{:?}", key.with(op)), |bench| bench.take(key, op))
    }

    pub(super) fn is_in_flight(&self, key: Key, op: OpKind) -> bool {
        self.log.in_flight.contains(&key.with(op))
    }

    /// Submits, and waits for the outcome.
    pub(super) fn finish(&mut self, key: Key, op: Op) -> OutcomeOf<S> {
        let kind = kind_of(&op);
        match self.submit(key, op) {
            Some(outcome) => outcome,
            None => self.result(key, kind),
        }
    }

    // Connections.

    pub(super) fn accept(&mut self) -> (SocketOf<S>, SocketAddr, Permit) {
        match self.finish(listener(), Op::Accept) {
            Outcome::Accepted { socket, peer: Peer::Tcp(address), permit } => {
                (socket, address, permit)
            }
            other => panic!("Accept: {other:?}"),
        }
    }

    pub(super) fn adopt(&mut self, key: Key, socket: SocketOf<S>, permit: Permit) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 9)).into();
        self.engine.adopt(key, socket, peer).unwrap();
        self.held.insert(key, permit);
    }

    /// Takes a connection out of the engine. Returns its permit too.
    pub(super) fn detach(&mut self, key: Key) -> Option<(Detached<SocketOf<S>>, Permit)> {
        let detached = self.engine.detach(key)?;
        self.log.in_flight.retain(|other| other.socket() != key.socket());
        Some((detached, self.held.remove(&key).expect("it was adopted")))
    }

    pub(super) fn free_key(&mut self) -> Key {
        self.slots_used += 1;
        Key::new(self.slots_used - 1, 7)
    }

    /// A peer, and the key of its connection.
    pub(super) fn pair(&mut self) -> (Key, S::Peer) {
        let key = self.free_key();
        (key, self.pair_at(key))
    }

    pub(super) fn pair_at(&mut self, key: Key) -> S::Peer {
        let peer = self.testbed.connect();
        let (socket, _, permit) = self.accept();
        self.adopt(key, socket, permit);
        peer
    }

    pub(super) fn close_by(&mut self, key: Key, op: Op) {
        let outcome = self.finish(key, op);
        assert!(matches!(outcome, Outcome::Closed { unaccepted: 0 }), "{key:?}: {outcome:?}");
        self.held.remove(&key);
    }

    /// Returns the permit of a key that was closed in a sink.
    pub(super) fn forget(&mut self, key: Key) {
        self.held.remove(&key);
    }

    pub(super) fn close(&mut self, key: Key) {
        self.close_by(key, Op::Close);
    }

    pub(super) fn shutdown(&mut self, key: Key) {
        let outcome = self.finish(key, Op::Shutdown);
        assert!(matches!(outcome, Outcome::Done), "{key:?}: {outcome:?}");
    }

    // Bytes from the peer.

    /// The result of a receive. Returns the leases.
    pub(super) fn got(&self, outcome: OutcomeOf<S>) -> Got {
        match outcome {
            Outcome::Received(chain) => {
                assert!(!chain.is_empty(), "received an empty chain");
                assert!(chain.slices().all(|slice| !slice.is_empty()), "an empty lease");
                Got::Bytes(chain.slices().flatten().copied().collect())
            }
            Outcome::Ended => Got::Ended,
            Outcome::NoBuffer => Got::NoBuffer,
            Outcome::Cancelled => Got::Cancelled,
            Outcome::Failed(error) => Got::Failed(error),
            other => panic!("Recv: {other:?}"),
        }
    }

    pub(super) fn recv(&mut self, key: Key, most: u8) -> Got {
        let outcome = self.finish(key, Op::Recv(most));
        self.got(outcome)
    }

    /// The result of the receive that has completed or is in flight, or otherwise of a new one.
    pub(super) fn next_got(&mut self, key: Key, most: u8) -> Got {
        let outcome = match self.take(key, OpKind::Recv) {
            Some(outcome) => outcome,
            None if self.is_in_flight(key, OpKind::Recv) => self.result(key, OpKind::Recv),
            None => self.finish(key, Op::Recv(most)),
        };
        self.got(outcome)
    }

    /// Receives until there are `count` bytes, starting with the receive in flight, if there is
    /// one.
    pub(super) fn recv_bytes(&mut self, key: Key, most: u8, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            let got = self.next_got(key, most);
            match got {
                Got::Bytes(bytes) => all.extend(bytes),
                other => panic!("{other:?} after {} bytes of {count}", all.len()),
            }
        }
        all
    }

    /// Writes all bytes while the engine polls.
    pub(super) fn write(&mut self, peer: &mut S::Peer, bytes: &[u8]) {
        let mut written = 0;
        self.until("room for a peer's bytes", |bench| {
            if written < bytes.len() {
                written += bench.testbed.write(peer, &bytes[written..]);
            }
            (written == bytes.len()).then_some(())
        });
    }

    // Bytes to the peer.

    /// A chain with these bytes, with as many leases as needed.
    pub(super) fn chain(&self, bytes: &[u8]) -> Chain {
        let mut chain = Chain::new(&self.pool);
        for part in bytes.chunks(self.pool.buffer_size()) {
            let mut lease = self.pool.lease().expect("a buffer for the test");
            lease.extend_from_slice(part);
            chain.push_back(lease);
        }
        chain
    }

    /// How much of `offered` bytes was sent, and the rest.
    pub(super) fn sent(&self, outcome: OutcomeOf<S>, offered: usize) -> (usize, Chain) {
        match outcome {
            Outcome::Sent { bytes, rest } => {
                assert!(bytes > 0, "a send of no bytes");
                assert_eq!(bytes + rest.len(), offered, "unsent bytes are returned");
                (bytes, rest)
            }
            other => panic!("Send: {other:?}"),
        }
    }

    pub(super) fn send_all(&mut self, key: Key, bytes: &[u8]) {
        let mut chain = self.chain(bytes);
        while !chain.is_empty() {
            let offered = chain.len();
            let outcome = self.finish(key, Op::Send(chain));
            (_, chain) = self.sent(outcome, offered);
        }
    }

    /// Sends until a send has to wait. Returns the number of sent and of waiting bytes.
    pub(super) fn send_until_it_waits(&mut self, key: Key, stream: &[u8]) -> (usize, usize) {
        let mut sent = 0;
        loop {
            // Leaves some buffers for receives.
            let room = self.pool.available().div_ceil(2) * self.pool.buffer_size();
            let room = room.min(stream.len() - sent);
            assert!(room > 0, "all {sent} bytes were sent although the peer does not read");
            let chain = self.chain(&stream[sent..][..room]);
            match self.submit(key, Op::Send(chain)) {
                Some(outcome) => sent += self.sent(outcome, room).0,
                None => {
                    // An engine may take some time even if there is room.
                    self.idle();
                    match self.take(key, OpKind::Send) {
                        Some(outcome) => sent += self.sent(outcome, room).0,
                        None => return (sent, room),
                    }
                }
            }
        }
    }

    /// Reads `count` bytes.
    pub(super) fn read(&mut self, peer: &mut S::Peer, count: usize) -> Vec<u8> {
        let mut all = vec![0; count];
        let mut have = 0;
        self.until("bytes for a peer", |bench| {
            match bench.testbed.read(peer, &mut all[have..]) {
                Some(Ok(0)) => panic!("the end of the stream after {have} bytes of {count}"),
                Some(Ok(more)) => have += more,
                Some(Err(error)) => panic!("{error:?} after {have} bytes of {count}"),
                None => {}
            }
            (have == count).then_some(())
        });
        all
    }

    /// Reads the bytes that are available now, without polling the engine.
    pub(super) fn read_now(&mut self, peer: &mut S::Peer) -> Vec<u8> {
        let mut all = Vec::new();
        let mut room = vec![0; 1 << 16];
        while let Some(count) = self.testbed.read(peer, &mut room) {
            all.extend_from_slice(&room[..count.unwrap()]);
        }
        all
    }

    /// Reads to the end of the stream.
    pub(super) fn read_to_end(&mut self, peer: &mut S::Peer) -> (Vec<u8>, End) {
        let mut all = Vec::new();
        let mut room = vec![0; 1 << 16];
        let end = self.until("the end of a peer's stream", |bench| {
            match bench.testbed.read(peer, &mut room)? {
                Ok(0) => return Some(End::Fin),
                Ok(count) => all.extend_from_slice(&room[..count]),
                Err(Errno::CONNRESET) => return Some(End::Reset),
                Err(error) => panic!("{error:?} after {} bytes", all.len()),
            }
            None
        });
        (all, end)
    }

    /// Ends a rule: checks that nothing is in flight, nothing more arrives, and everything has been
    /// returned.
    pub(super) fn end(mut self) {
        assert!(self.log.in_flight.is_empty(), "in flight: {:?}", self.log.in_flight);
        self.idle();
        assert!(self.log.done.is_empty(), "not taken: {:?}", self.log.done);
        assert_eq!(self.pool.held(), 0, "leases are missing");
        self.held.clear();
        assert_eq!(self.permits.taken(), 0, "permits are missing");
    }
}
