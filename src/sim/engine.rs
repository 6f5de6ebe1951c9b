//! The world as an [`Engine`] with completions, as io_uring delivers them. They arrive late and in
//! any order. A receive may return less than is available or find no buffer although some are free,
//! and a cancelled operation may have completed.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::marks::Mark;
use super::sys::{
    CONNECT_ERRORS, RECV_ERRORS, SEND_ERRORS, SimSys, Woken, draw, endpoint, received,
};
use super::world::{EndpointId, Handle, HandleTarget, SharedWorld, World};
use crate::base::endpoint::Peer;
use crate::base::key::{Key, OpKind};
use crate::base::time::Time;
use crate::buffer::{Chain, Pool};
use crate::engine::sys::{Listening, Sys};
use crate::engine::{Completion, Detached, Engine, Op, Outcome, Sink, Submitted};
use crate::error::Errno;
use crate::shared::moved::{Passed, Passing};
use crate::shared::permits::{Permit, Permits};

/// The engine of one worker.
pub(crate) struct SimEngine {
    world: SharedWorld,
    worker: usize,
    woken: Arc<Woken>,
    pool: Pool,
    permits: Option<Arc<Permits>>,
    listeners: Vec<Option<Listening<Handle>>>,
    sockets: Vec<(Key, Handle)>,
    pending: Vec<Pending>,
    /// Taken out of `pending` by the current poll, and not yet reported.
    telling: VecDeque<Pending>,
}

/// An operation in flight.
struct Pending {
    key: Key,
    op: Operation,
    /// A cancel was submitted for it.
    cancelled: bool,
}

enum Operation {
    Accept,
    Connect,
    Recv(u8),
    Discard,
    Send(Chain),
    Shutdown,
    Cancel,
    Close,
    Reset,
}

impl Operation {
    fn kind(&self) -> OpKind {
        match self {
            Operation::Accept => OpKind::Accept,
            Operation::Connect => OpKind::Connect,
            Operation::Recv(_) | Operation::Discard => OpKind::Recv,
            Operation::Send(_) => OpKind::Send,
            Operation::Shutdown => OpKind::Shutdown,
            Operation::Cancel => OpKind::Cancel,
            Operation::Close | Operation::Reset => OpKind::Close,
        }
    }
}

impl SimEngine {
    pub(super) fn new(
        world: SharedWorld,
        worker: usize,
        woken: Arc<Woken>,
        pool: Pool,
        permits: Option<Arc<Permits>>,
        listeners: Vec<Listening<Handle>>,
    ) -> SimEngine {
        SimEngine {
            world,
            worker,
            woken,
            pool,
            permits,
            listeners: listeners.into_iter().map(Some).collect(),
            sockets: Vec::new(),
            pending: Vec::new(),
            telling: VecDeque::new(),
        }
    }

    /// Whether a poll would complete something.
    pub(super) fn is_ready(&self) -> bool {
        self.woken.is_set() || (0..self.pending.len()).any(|index| self.can_complete(index))
    }

    fn handle(&self, key: Key) -> Option<&Handle> {
        match key.listener_index() {
            Some(index) => self.listeners[index].as_ref().map(|listener| &listener.socket),
            None => self.sockets.iter().find(|(of, _)| *of == key).map(|(_, handle)| handle),
        }
    }

    fn id(&self, key: Key) -> EndpointId {
        endpoint(self.handle(key).expect("an operation on a socket that is open"))
    }

    fn can_complete(&self, index: usize) -> bool {
        let Pending { key, op, cancelled } = &self.pending[index];
        if *cancelled {
            return true;
        }
        let world = self.world.borrow();
        match op {
            Operation::Accept => match self.handle(*key).map(|handle| handle.what) {
                Some(HandleTarget::Listener(id)) => world.waiting(id) > 0,
                _ => false,
            },
            Operation::Connect => world.connect_outcome(self.id(*key)).is_some(),
            Operation::Recv(_) | Operation::Discard => world.can_recv(self.id(*key)),
            Operation::Send(_) => world.can_send(self.id(*key)),
            Operation::Shutdown | Operation::Close | Operation::Reset => true,
            // Completes last on its socket.
            Operation::Cancel => {
                let all = self.pending.iter().chain(&self.telling);
                all.filter(|other| other.key == *key).count() == 1
            }
        }
    }

    /// Performs an operation. Returns `None` if it has to wait longer.
    fn complete(&mut self, key: Key, op: Operation, cancelled: bool) -> Option<Outcome<Handle>> {
        if cancelled && !matches!(op, Operation::Cancel) {
            let mut world = self.world.borrow_mut();
            // Otherwise it completes before the cancel arrives, as far as possible.
            if world.rng.bool() || matches!(op, Operation::Accept | Operation::Connect) {
                world.mark(Mark::Cancelled);
                return Some(Outcome::Cancelled);
            }
            world.mark(Mark::CancelRace);
        }
        let outcome = match op {
            Operation::Accept => self.accept(key),
            Operation::Connect => {
                let outcome = self.world.borrow().connect_outcome(self.id(key));
                Some(match outcome.expect("the connect has an outcome") {
                    Ok(()) => Outcome::Connected,
                    Err(error) => Outcome::Failed(error),
                })
            }
            Operation::Recv(most) => self.recv(key, most),
            Operation::Discard => self.discard(key),
            Operation::Send(chain) => return self.send(key, chain, cancelled),
            Operation::Shutdown => {
                let id = self.id(key);
                let mut world = self.world.borrow_mut();
                let rate = world.rates.shutdown_error;
                let shut = draw(&mut world, rate, &[(Errno::NOTCONN, Mark::ShutdownNotconn)])
                    .inspect_err(|_| world.fail(id));
                Some(match shut.and_then(|()| world.shutdown(id)) {
                    Ok(()) => Outcome::Done,
                    Err(error) => Outcome::Failed(error),
                })
            }
            Operation::Cancel => Some(Outcome::Done),
            Operation::Close => Some(self.close(key)),
            Operation::Reset => {
                let id = self.id(key);
                self.world.borrow_mut().abort(id);
                Some(self.close(key))
            }
        };
        if let (true, Some(Outcome::Received(chain))) = (cancelled, &outcome) {
            let id = self.id(key);
            self.world.borrow_mut().took_in_vain(id, chain.len());
        }
        if outcome.is_none() && cancelled { Some(Outcome::Cancelled) } else { outcome }
    }

    fn accept(&mut self, key: Key) -> Option<Outcome<Handle>> {
        let Some(HandleTarget::Listener(id)) = self.handle(key).map(|handle| handle.what) else {
            panic!("accept on a closed listener")
        };
        let permits = self.permits.as_ref().expect("permits to accept with");
        let Some(mut permit) = permits.try_take() else { return Some(Outcome::NoPermit) };
        let accepted = self.world.borrow_mut().accept(id);
        match accepted {
            Ok((far, peer)) => {
                permit.mark_used();
                let socket =
                    Handle { world: Rc::clone(&self.world), what: HandleTarget::Endpoint(far) };
                Some(Outcome::Accepted { socket, peer: peer.into(), permit })
            }
            Err(Errno::AGAIN) => None,
            Err(error) => Some(Outcome::Failed(error)),
        }
    }

    fn recv(&mut self, key: Key, most: u8) -> Option<Outcome<Handle>> {
        let id = self.id(key);
        let mut chain = Chain::new(&self.pool);
        let mut world = self.world.borrow_mut();
        let rate = world.rates.recv_error;
        if let Err(error) = draw(&mut world, rate, &RECV_ERRORS) {
            world.fail(id);
            return Some(Outcome::Failed(error));
        }
        let late = world.rates.late_buffer;
        // Only while another lease is held: its return wakes the queue.
        if self.pool.held() > 0 && world.unread(id) > 0 && world.chance(late) {
            world.mark(Mark::LateBuffer);
            return Some(Outcome::NoBuffer);
        }
        for _ in 0..most {
            let Some(mut lease) = self.pool.lease() else {
                match world.peek(id) {
                    _ if !chain.is_empty() => break,
                    Ok(0) => return Some(Outcome::Ended),
                    Ok(_) => return Some(Outcome::NoBuffer),
                    Err(Errno::AGAIN) => return None,
                    Err(error) => return Some(Outcome::Failed(error)),
                }
            };
            let room = lease.spare_mut().len();
            let wanted = world.rng.usize(1..=room);
            match world.recv(id, wanted) {
                Ok(bytes) => {
                    lease.extend_from_slice(&bytes);
                    chain.push_back(lease);
                    if bytes.len() < room {
                        break;
                    }
                }
                Err(_) if !chain.is_empty() => break,
                Err(Errno::AGAIN) => return None,
                Err(error) => return Some(Outcome::Failed(error)),
            }
        }
        world.trace(21, id, chain.len() as u64, || format!("recv {id}: {} bytes", chain.len()));
        Some(if chain.is_empty() { Outcome::Ended } else { Outcome::Received(chain) })
    }

    fn discard(&mut self, key: Key) -> Option<Outcome<Handle>> {
        let id = self.id(key);
        let mut world = self.world.borrow_mut();
        let rate = world.rates.recv_error;
        if let Err(error) = draw(&mut world, rate, &RECV_ERRORS) {
            world.fail(id);
            return Some(Outcome::Failed(error));
        }
        let wanted = world.rng.usize(1..=1000);
        let bytes = world.recv(id, wanted);
        world.trace(23, id, 0, || format!("discard {id}: {bytes:?}"));
        match bytes {
            Ok(bytes) if bytes.is_empty() => Some(Outcome::Ended),
            Ok(bytes) => Some(Outcome::Discarded(bytes.len())),
            Err(Errno::AGAIN) => None,
            Err(error) => Some(Outcome::Failed(error)),
        }
    }

    fn send(&mut self, key: Key, mut chain: Chain, cancelled: bool) -> Option<Outcome<Handle>> {
        let id = self.id(key);
        let mut world = self.world.borrow_mut();
        let rate = world.rates.send_error;
        if let Err(error) = draw(&mut world, rate, &SEND_ERRORS) {
            world.fail(id);
            return Some(Outcome::Failed(error));
        }
        let bytes: Vec<u8> = chain.slices().flatten().copied().collect();
        let sent = world.send(id, &bytes, false);
        let told = sent.map_or_else(|error| u64::MAX - error.raw_os_error() as u64, |c| c as u64);
        world.trace(22, id, told, || format!("send {id}: {sent:?} of {}", bytes.len()));
        match sent {
            Ok(count) => {
                if count < bytes.len() {
                    world.mark(Mark::ShortSend);
                }
                chain.consume(count);
                Some(Outcome::Sent { bytes: count, rest: chain })
            }
            Err(Errno::AGAIN) if cancelled => Some(Outcome::Cancelled),
            Err(Errno::AGAIN) => {
                world.mark(Mark::SendBlocked);
                drop(world);
                self.pending.push(Pending { key, op: Operation::Send(chain), cancelled });
                None
            }
            Err(error) => Some(Outcome::Failed(error)),
        }
    }

    fn close(&mut self, key: Key) -> Outcome<Handle> {
        if let Some(index) = key.listener_index() {
            let listener = self.listeners[index].take();
            let unaccepted = match listener.as_ref().filter(|one| !one.kept.get()) {
                Some(Listening {
                    socket: Handle { what: HandleTarget::Listener(id), .. }, ..
                }) => self.world.borrow().waiting(*id) as u32,
                _ => 0,
            };
            drop(listener);
            return Outcome::Closed { unaccepted };
        }
        let at = self.sockets.iter().position(|(of, _)| *of == key);
        drop(at.map(|at| self.sockets.swap_remove(at)));
        Outcome::Closed { unaccepted: 0 }
    }

    /// Takes the operations that can complete, in any order.
    fn take_completable(&mut self) {
        let mut taken: Vec<Pending> = Vec::new();
        let mut index = 0;
        while index < self.pending.len() {
            // A cancel does not complete before the operations that it cancels.
            let key = self.pending[index].key;
            let first = !taken.iter().any(|other| other.key == key)
                || self.pending[index].op.kind() != OpKind::Cancel;
            if first && self.can_complete(index) {
                taken.push(self.pending.swap_remove(index));
            } else {
                index += 1;
            }
        }
        let mut world = self.world.borrow_mut();
        if taken.len() > 1 {
            world.mark(Mark::Reordered);
            world.rng.shuffle(&mut taken);
        }
        drop(world);
        self.telling = taken.into();
    }
}

impl Engine for SimEngine {
    type Socket = Handle;

    fn now(&self) -> Time {
        self.world.borrow().now
    }

    fn waker(&self) -> Waker {
        Waker::from(self.woken.clone())
    }

    fn adopt(&mut self, key: Key, socket: Handle, _: Peer) -> Result<(), (Errno, Handle)> {
        self.sockets.push((key, socket));
        Ok(())
    }

    fn give_back(&mut self, _: usize, _: Handle, _: Peer, _: Permit) {
        unreachable!("every socket is adopted");
    }

    fn detach(&mut self, key: Key) -> Option<Detached<Handle>> {
        let its = |of: Key| of.socket() == key.socket();
        let told = self.telling.iter().any(|one| its(one.key));
        let is_possible = |one: &Pending| {
            matches!(one.op, Operation::Recv(_) | Operation::Send(_)) && !one.cancelled
        };
        let ends = self.pending.iter().filter(|one| its(one.key)).all(is_possible);
        let socket =
            self.sockets.iter().position(|(of, _)| *of == key).filter(|_| !told && ends)?;
        let mut unsent = None;
        while let Some(at) = self.pending.iter().position(|one| its(one.key)) {
            if let Operation::Send(chain) = self.pending.swap_remove(at).op {
                unsent = Some(chain);
            }
        }
        Some(Detached { socket: self.sockets.swap_remove(socket).1, unsent })
    }

    fn descriptor(socket: &Handle) -> Option<Passing<'_>> {
        SimSys::descriptor(socket)
    }

    fn of_descriptor(&self, passed: Passed) -> Option<Handle> {
        received(&self.world, passed)
    }

    fn unacknowledged(&self, key: Key) -> Option<u32> {
        Some(self.world.borrow().unacknowledged(endpoint(self.handle(key)?)))
    }

    fn sending(&self, key: Key) -> usize {
        let in_flight = self.pending.iter().filter(|one| one.key.socket() == key.socket());
        let bytes = in_flight.map(|one| match &one.op {
            Operation::Send(chain) => chain.len(),
            _ => 0,
        });
        bytes.sum()
    }

    fn unread(&self, key: Key) -> Option<u32> {
        Some(self.world.borrow().unread(endpoint(self.handle(key)?)))
    }

    fn submit(&mut self, key: Key, op: Op) -> Submitted<Handle> {
        let op = match op {
            Op::Accept => Operation::Accept,
            Op::Connect(to) => {
                let target = to.target.socket_addr().expect("the simulated network has TCP only");
                let mut world = self.world.borrow_mut();
                let rate = world.rates.connect_error;
                if let Err(error) = draw(&mut world, rate, &CONNECT_ERRORS) {
                    return Submitted::Ready(Outcome::Failed(error));
                }
                let near = world.connect(target, true);
                let what = HandleTarget::Endpoint(near);
                drop(world);
                self.sockets.push((key, Handle { world: Rc::clone(&self.world), what }));
                Operation::Connect
            }
            Op::Recv(most) => Operation::Recv(most),
            Op::Discard => Operation::Discard,
            Op::Send(chain) => Operation::Send(chain),
            Op::Shutdown => Operation::Shutdown,
            Op::Cancel => {
                let all = self.pending.iter_mut().chain(&mut self.telling);
                all.filter(|pending| pending.key == key)
                    .for_each(|pending| pending.cancelled = true);
                Operation::Cancel
            }
            // Its connect failed immediately, so there is nothing to close.
            Op::Close | Op::Reset if self.handle(key).is_none() => {
                return Submitted::Ready(Outcome::Closed { unaccepted: 0 });
            }
            Op::Close => Operation::Close,
            Op::Reset => Operation::Reset,
        };
        let all = self.pending.iter().chain(&self.telling);
        let twice = { all }.any(|pending| pending.key == key && pending.op.kind() == op.kind());
        assert!(!twice, "two {:?} operations in flight", op.kind());
        if op.kind() == OpKind::Close {
            let mut all = self.pending.iter().chain(&self.telling);
            let idle = all.all(|pending| pending.key != key);
            assert!(idle, "closing with an operation in flight");
        }
        // Sometimes complete immediately, as an engine may.
        let at_once = self.world.borrow_mut().rng.bool();
        self.pending.push(Pending { key, op, cancelled: false });
        let index = self.pending.len() - 1;
        if at_once && self.can_complete(index) {
            let Pending { key, op, .. } = self.pending.remove(index);
            let again = match &op {
                Operation::Accept => Some(Operation::Accept),
                Operation::Recv(most) => Some(Operation::Recv(*most)),
                Operation::Discard => Some(Operation::Discard),
                _ => None,
            };
            if let Some(outcome) = self.complete(key, op, false) {
                return Submitted::Ready(outcome);
            }
            self.pending.extend(again.map(|op| Pending { key, op, cancelled: false }));
        }
        Submitted::Pending
    }

    fn poll(&mut self, _: Option<Time>, sink: &mut impl Sink<Self>) -> Result<bool, Errno> {
        self.woken.clear();
        let now = self.now();
        sink.turn(now);
        if self.world.borrow_mut().take_interrupt(self.worker) {
            return Ok(false);
        }
        self.take_completable();
        while let Some(Pending { key, op, cancelled }) = self.telling.pop_front() {
            let kind = op.kind();
            let again = match &op {
                Operation::Accept => Some(Operation::Accept),
                Operation::Recv(most) => Some(Operation::Recv(*most)),
                Operation::Discard => Some(Operation::Discard),
                _ => None,
            };
            let worker = self.worker;
            self.world.borrow_mut().trace(20, worker, key.to_bits() ^ kind as u64, || {
                format!("worker {worker}: {:?} can complete", key.with(kind))
            });
            match self.complete(key, op, cancelled) {
                Some(outcome) => {
                    sink.complete(self, Completion { key: key.with(kind), outcome });
                }
                None => self.pending.extend(again.map(|op| Pending { key, op, cancelled })),
            }
        }
        Ok(true)
    }
}

impl World {
    /// Number of open descriptors of workers, to compare with the number of connections.
    pub(super) fn open(&self) -> usize {
        self.descriptors_open
    }
}
