//! The readiness engine: produces completions from edge-triggered readiness and plain system calls.
//!
//! Each socket is registered once, for all kinds of readiness. The engine remembers the readiness,
//! so that it tries an operation only when the operation can make progress:
//!
//! * A receive that fills less than the offered space has drained the socket, so no call is spent
//!   on getting EAGAIN. There are exceptions, after which the engine continues to read: the peer
//!   has closed its sending side (FIN causes no separate event if it arrives with the last bytes),
//!   there is urgent data (a receive stops at its mark), or the socket is a Unix socket (a receive
//!   stops after bytes that carry file descriptors).
//! * A send is tried at once. The engine waits for writability only after a send accepted less than
//!   it was offered.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::sys::{Listening, Readiness, Sys};
use super::{Completion, ConnectTo, Detached, Engine, Op, Outcome, Sink, Submitted};
use crate::base::endpoint::{Endpoint, Peer};
use crate::base::key::{Key, LISTENERS_ADDED_MAX, OpKind};
use crate::base::time::Time;
use crate::buffer::{Chain, Pool};
use crate::error::Errno;
use crate::net::sockopt::TcpInfo;
use crate::shared::moved::{Passed, Passing};
use crate::shared::permits::{Permit, Permits};

mod transfer;

use transfer::{NoBytes, offered, recv_one, recv_several, send_some};

/// Maximum number of operations that a Cancel ends on one socket, including itself: Connect or
/// Send, and Recv.
const CANCELS_PER_SLOT: usize = 3;

/// The number of buffers of a Recv that is a Discard.
const DISCARD: u8 = u8::MAX;

/// A Unix socket whose backlog is full refuses a connect, and nothing tells when there is room. So it
/// is tried again after this time.
const CONNECT_RETRY: Duration = Duration::from_millis(5);

/// Space for bytes that are thrown away.
const SCRATCH_BYTES: usize = 16 * 1024;

/// An engine that produces completions from readiness.
pub struct MioEngine<S: Sys> {
    sys: S,
    pool: Pool,
    permits: Option<Arc<Permits>>,
    sockets: Vec<SocketSlot<S::Socket>>,
    listeners: Vec<WatchedListener<S::Socket>>,
    /// Empty between calls of `poll`.
    ready: Vec<Readiness>,
    /// Operations ended by Cancel and not yet reported.
    cancelled: VecDeque<Key>,
    /// Connects to Unix sockets whose backlog was full.
    delayed: VecDeque<(Key, ConnectTo)>,
    scratch: Box<[u8]>,
}

/// A socket and its state.
struct SocketSlot<Socket> {
    socket: Option<Socket>,
    generation: u32,
    readable: bool,
    writable: bool,
    /// A short receive does not mean that the socket is drained.
    read_on: bool,
    /// Whether this is always so, as on a Unix socket.
    receives_short: bool,
    connecting: bool,
    /// Maximum number of buffers for the Recv in flight. 0 if there is none, [`DISCARD`] for a
    /// Discard.
    receiving: u8,
    /// The Send in flight.
    sending: Option<Chain>,
}

struct WatchedListener<Socket> {
    socket: Option<Listening<Socket>>,
    readable: bool,
    accepting: bool,
    /// An accepted connection that could not be watched.
    held: Option<(Socket, Peer, Permit)>,
}

impl<Socket> WatchedListener<Socket> {
    fn new(socket: Listening<Socket>) -> WatchedListener<Socket> {
        WatchedListener { socket: Some(socket), readable: false, accepting: false, held: None }
    }
}

impl<Socket> SocketSlot<Socket> {
    fn empty() -> SocketSlot<Socket> {
        SocketSlot {
            socket: None,
            generation: 0,
            readable: false,
            writable: false,
            read_on: false,
            receives_short: false,
            connecting: false,
            receiving: 0,
            sending: None,
        }
    }
}

impl<S: Sys> MioEngine<S> {
    /// Memory per slot, in bytes.
    pub const BYTES_PER_SLOT: usize =
        size_of::<SocketSlot<S::Socket>>() + CANCELS_PER_SLOT * size_of::<Key>();

    /// An engine for sockets in slots below `slots` and for the listeners, whose keys are
    /// [`Key::listener`] in the order given. Without permits it accepts without limit.
    ///
    /// # Errors
    /// The system could not watch a listener.
    pub fn new(
        mut sys: S,
        slots: usize,
        pool: Pool,
        permits: Option<Arc<Permits>>,
        listeners: Vec<Listening<S::Socket>>,
    ) -> Result<MioEngine<S>, Errno> {
        for (index, listening) in listeners.iter().enumerate() {
            sys.register(&listening.socket, Key::listener(index).to_bits())?;
        }
        let mut watched = Vec::with_capacity(listeners.len() + LISTENERS_ADDED_MAX);
        watched.extend(listeners.into_iter().map(WatchedListener::new));
        Ok(MioEngine {
            sys,
            pool,
            permits,
            // Filled as slots are used, within this capacity.
            sockets: Vec::with_capacity(slots),
            listeners: watched,
            ready: Vec::with_capacity(1024),
            cancelled: VecDeque::with_capacity(slots * CANCELS_PER_SLOT),
            delayed: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES].into(),
        })
    }

    #[cfg(any(test, feature = "sim"))]
    /// The system calls, for the simulation to inspect.
    pub(crate) fn sys(&self) -> &S {
        &self.sys
    }

    #[cfg(test)]
    pub(crate) fn sys_mut(&mut self) -> &mut S {
        &mut self.sys
    }

    /// Number of accepted connections that could not be watched yet.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn held(&self) -> usize {
        self.listeners.iter().filter(|listener| listener.held.is_some()).count()
    }

    /// Whether the next poll has completions to report without a system call.
    pub(crate) fn has_cancelled(&self) -> bool {
        !self.cancelled.is_empty()
    }

    fn install(
        &mut self,
        key: Key,
        socket: S::Socket,
        connecting: bool,
        receives_short: bool,
    ) -> Result<(), (Errno, S::Socket)> {
        if let Err(error) = self.sys.register(&socket, key.socket().to_bits()) {
            return Err((error, socket));
        }
        let index = key.slot() as usize;
        assert!(index < self.sockets.capacity(), "no slot {index}");
        while self.sockets.len() <= index {
            self.sockets.push(SocketSlot::empty());
        }
        let slot = &mut self.sockets[index];
        assert!(slot.socket.is_none(), "slot {index} is in use");
        *slot = SocketSlot {
            socket: Some(socket),
            generation: key.generation(),
            // A connected socket has room to send. An event reports when there are bytes to read.
            writable: !connecting,
            connecting,
            receives_short,
            read_on: receives_short,
            ..SocketSlot::empty()
        };
        Ok(())
    }

    /// Tries the Recv in flight.
    #[inline(always)]
    fn try_recv(
        sys: &mut S,
        pool: &Pool,
        slot: &mut SocketSlot<S::Socket>,
    ) -> Result<Chain, NoBytes> {
        let most = slot.receiving;
        if !slot.readable || most == 0 {
            return Err(NoBytes::Yet);
        }
        let Some(socket) = &slot.socket else { return Err(NoBytes::Yet) };
        let Some(lease) = pool.lease() else {
            return Err(Self::look(sys, slot));
        };
        let received = match most {
            1 => recv_one(sys, socket, lease),
            _ => recv_several(sys, socket, pool, lease, most),
        };
        match received {
            Ok((chain, room)) => {
                slot.receiving = 0;
                slot.readable = chain.len() == room || slot.read_on;
                Ok(chain)
            }
            Err(NoBytes::Yet) => {
                slot.readable = false;
                slot.read_on = slot.receives_short;
                Err(NoBytes::Yet)
            }
            Err(why) => {
                slot.receiving = 0;
                Err(why)
            }
        }
    }

    /// Finds out what the Recv in flight waits for when no buffer is free: only bytes need one.
    #[cold]
    fn look(sys: &mut S, slot: &mut SocketSlot<S::Socket>) -> NoBytes {
        let Some(socket) = &slot.socket else { return NoBytes::Yet };
        let why = match sys.peek(socket) {
            Ok(0) => NoBytes::Ended,
            Ok(_) => NoBytes::NoBuffer,
            Err(error) => NoBytes::from(error),
        };
        match why {
            NoBytes::Yet => (slot.readable, slot.read_on) = (false, slot.receives_short),
            _ => slot.receiving = 0,
        }
        why
    }

    /// Tries the Discard in flight.
    #[cold]
    fn try_discard(&mut self, key: Key) -> Option<Outcome<S::Socket>> {
        let slot = expect_slot(&mut self.sockets, key);
        if !slot.readable {
            return None;
        }
        match self.sys.recv(slot.socket.as_ref()?, &mut [IoSliceMut::new(&mut self.scratch)]) {
            Err(Errno::AGAIN) => {
                (slot.readable, slot.read_on) = (false, slot.receives_short);
                None
            }
            result => {
                slot.receiving = 0;
                Some(match result {
                    Ok(0) => Outcome::Ended,
                    Ok(count) => {
                        slot.readable = count == SCRATCH_BYTES || slot.read_on;
                        Outcome::Discarded(count)
                    }
                    Err(error) => Outcome::Failed(error),
                })
            }
        }
    }

    /// Tries to send, and removes the sent bytes from the chain. Returns `None` if the send has to
    /// wait. The engine then keeps the whole chain.
    #[inline(always)]
    fn try_send(
        sys: &mut S,
        slot: &mut SocketSlot<S::Socket>,
        chain: &mut Chain,
    ) -> Result<Option<usize>, Errno> {
        if slot.writable
            && let Some(socket) = &slot.socket
        {
            let offered = offered(chain);
            match send_some(sys, socket, chain) {
                Ok(count) => {
                    slot.writable = count == offered;
                    chain.consume(count);
                    return Ok(Some(count));
                }
                Err(Errno::AGAIN) => slot.writable = false,
                Err(error) => {
                    drop(chain.take());
                    return Err(error);
                }
            }
        }
        slot.sending = Some(chain.take());
        Ok(None)
    }

    /// Tries to complete the Connect in flight after an event.
    fn try_connect(&mut self, key: Key) -> Option<Outcome<S::Socket>> {
        let slot = &mut self.sockets[key.slot() as usize];
        if !slot.connecting || !slot.writable {
            return None;
        }
        slot.connecting = false;
        match self.sys.connect_error(slot.socket.as_ref()?) {
            Ok(()) => Some(Outcome::Connected),
            Err(error) => Some(Outcome::Failed(error)),
        }
    }

    fn try_accept(&mut self, index: usize) -> Option<Outcome<S::Socket>> {
        let listener = &mut self.listeners[index];
        let socket = listener.socket.as_ref()?;
        if let Some((socket, peer, permit)) = listener.held.take_if(|_| listener.accepting) {
            listener.accepting = false;
            return Some(Outcome::Accepted { socket, peer, permit });
        }
        if !listener.readable || !listener.accepting {
            return None;
        }
        let Some(mut permit) = self.permits.as_ref().expect("permits to accept with").try_take()
        else {
            listener.accepting = false;
            return Some(Outcome::NoPermit);
        };
        let outcome = match self.sys.accept(socket) {
            Ok((socket, peer)) => {
                permit.mark_used();
                Outcome::Accepted { socket, peer, permit }
            }
            Err(Errno::AGAIN) => {
                listener.readable = false;
                return None;
            }
            // The listener stays readable: no edge will come for the connection that still waits.
            Err(error) => Outcome::Failed(error),
        };
        listener.accepting = false;
        Some(outcome)
    }

    #[inline(never)]
    fn submit_rarely(&mut self, key: Key, op: Op) -> Submitted<S::Socket> {
        if let Some(index) = key.listener_index() {
            return self.submit_to_listener(index, op);
        }
        match op {
            Op::Shutdown => {
                let socket = expect_slot(&mut self.sockets, key).socket.as_ref();
                let shut = self.sys.shutdown(socket.expect("a socket that is open"));
                Submitted::Ready(match shut {
                    Ok(()) => Outcome::Done,
                    Err(error) => Outcome::Failed(error),
                })
            }
            Op::Discard => {
                let slot = expect_slot(&mut self.sockets, key);
                assert!(slot.receiving == 0, "two receives at once");
                slot.receiving = DISCARD;
                Submitted::from(self.try_discard(key))
            }
            Op::Cancel => self.cancel(key),
            Op::Close => self.close(key, S::close),
            Op::Reset => self.close(key, S::reset),
            Op::Connect(to) => self.connect(key, to),
            other => panic!("{other:?} on a connection"),
        }
    }

    fn submit_to_listener(&mut self, index: usize, op: Op) -> Submitted<S::Socket> {
        let listener = &mut self.listeners[index];
        match op {
            Op::Accept => {
                assert!(!listener.accepting, "two accepts at once");
                listener.accepting = true;
                Submitted::from(self.try_accept(index))
            }
            Op::Cancel => {
                if std::mem::take(&mut listener.accepting) {
                    let key = Key::listener(index);
                    self.cancelled.push_back(key.with(OpKind::Accept));
                    self.cancelled.push_back(key.with(OpKind::Cancel));
                    return Submitted::Pending;
                }
                Submitted::Ready(Outcome::Done)
            }
            Op::Close => {
                assert!(!listener.accepting, "closing with an accept in flight");
                let unaccepted = listener.socket.take().map_or(0, |listening| {
                    let waiting = self.sys.backlog(&listening);
                    let Listening { file, socket, .. } = listening;
                    drop(file);
                    self.sys.close_shared(socket);
                    waiting
                });
                let unaccepted = unaccepted + u32::from(listener.held.take().is_some());
                Submitted::Ready(Outcome::Closed { unaccepted })
            }
            other => panic!("{other:?} on a listener"),
        }
    }

    /// Ends everything in flight on a socket.
    fn cancel(&mut self, key: Key) -> Submitted<S::Socket> {
        if let Some(at) = self.delayed.iter().position(|(other, _)| other.socket() == key.socket())
        {
            self.delayed.remove(at);
            self.cancelled.push_back(key.with(OpKind::Connect));
            self.cancelled.push_back(key.with(OpKind::Cancel));
            return Submitted::Pending;
        }
        let slot = expect_slot(&mut self.sockets, key);
        let receiving = std::mem::take(&mut slot.receiving) != 0;
        let sending = slot.sending.take().is_some();
        let connecting = std::mem::take(&mut slot.connecting);
        let ended =
            [(receiving, OpKind::Recv), (sending, OpKind::Send), (connecting, OpKind::Connect)];
        let before = self.cancelled.len();
        for (_, op) in ended.into_iter().filter(|&(was, _)| was) {
            self.cancelled.push_back(key.with(op));
        }
        if self.cancelled.len() == before {
            return Submitted::Ready(Outcome::Done);
        }
        self.cancelled.push_back(key.with(OpKind::Cancel));
        Submitted::Pending
    }

    fn close(&mut self, key: Key, how: fn(&mut S, S::Socket)) -> Submitted<S::Socket> {
        // A connection whose Connect failed at once has no socket.
        let Some(slot) = find(&mut self.sockets, key) else {
            return Submitted::Ready(Outcome::Closed { unaccepted: 0 });
        };
        let idle = slot.receiving == 0 && slot.sending.is_none() && !slot.connecting;
        assert!(idle, "closing with an operation in flight");
        let socket = slot.socket.take().expect("it was found");
        how(&mut self.sys, socket);
        Submitted::Ready(Outcome::Closed { unaccepted: 0 })
    }

    fn connect(&mut self, key: Key, to: ConnectTo) -> Submitted<S::Socket> {
        match self.begin_connect(key, to) {
            Ok(()) => Submitted::Pending,
            Err(error) => Submitted::Ready(Outcome::Failed(error)),
        }
    }

    /// Begins to connect, or leaves it to a later turn.
    fn begin_connect(&mut self, key: Key, to: ConnectTo) -> Result<(), Errno> {
        let is_unix = matches!(to.target, Endpoint::Unix(_));
        match self.sys.connect(&to.target, to.source) {
            Ok(socket) => self.install(key, socket, true, is_unix).map_err(|(error, _)| error),
            Err(Errno::AGAIN) if is_unix => {
                self.delayed.push_back((key, to));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The deadline, or when to report what Cancel has ended or to try the delayed connects again.
    #[cold]
    fn unfinished_by(&self, deadline: Option<Time>) -> Option<Time> {
        if !self.cancelled.is_empty() {
            return Some(Time::ZERO);
        }
        let retry = self.sys.now() + CONNECT_RETRY;
        Some(deadline.map_or(retry, |deadline| deadline.min(retry)))
    }

    /// Tries the delayed connects again, until one is still refused.
    #[cold]
    fn connect_delayed(&mut self, sink: &mut impl Sink<Self>) {
        for _ in 0..self.delayed.len() {
            let Some((key, to)) = self.delayed.pop_front() else { return };
            let waiting = self.delayed.len();
            if let Err(error) = self.begin_connect(key, to) {
                self.report(key.with(OpKind::Connect), Outcome::Failed(error), sink);
            } else if self.delayed.len() > waiting {
                return;
            }
        }
    }

    #[cold]
    fn report_cancelled(&mut self, sink: &mut impl Sink<Self>) {
        while let Some(key) = self.cancelled.pop_front() {
            let outcome = match key.op() {
                OpKind::Cancel => Outcome::Done,
                _ => Outcome::Cancelled,
            };
            self.report(key, outcome, sink);
        }
    }

    /// Completes the operations that the readiness of one socket makes possible.
    #[inline(always)]
    fn on_ready(&mut self, readiness: Readiness, sink: &mut impl Sink<Self>) {
        let key = Key::from_bits(readiness.token);
        if let Some(index) = key.listener_index() {
            return self.listener_ready(index, readiness.readable, sink);
        }
        let Some(slot) = find(&mut self.sockets, key) else {
            return; // The connection is gone, and its slot is free or used by another.
        };
        slot.readable |= readiness.readable;
        slot.writable |= readiness.writable;
        slot.read_on |= readiness.read_on;
        // A Recv into one buffer with nothing else in flight, as at the start of an echo, has a
        // short path of its own.
        if slot.connecting || slot.sending.is_some() || slot.receiving > 1 {
            return self.resume(key, sink);
        }
        match Self::try_recv(&mut self.sys, &self.pool, slot) {
            Ok(chain) => sink.received(self, key, chain),
            Err(why) => self.not_received(key, why, sink),
        }
    }

    #[inline]
    fn not_received(&mut self, key: Key, why: NoBytes, sink: &mut impl Sink<Self>) {
        if let Some(outcome) = why.outcome() {
            self.report(key.with(OpKind::Recv), outcome, sink);
        }
    }

    #[inline(never)]
    fn listener_ready(&mut self, index: usize, readable: bool, sink: &mut impl Sink<Self>) {
        self.listeners[index].readable |= readable;
        if let Some(outcome) = self.try_accept(index) {
            self.report(Key::listener(index).with(OpKind::Accept), outcome, sink);
        }
    }

    /// Resumes all waiting operations. The Send comes first: it returns leases, and it sends bytes
    /// that were received earlier.
    #[inline(never)]
    fn resume(&mut self, key: Key, sink: &mut impl Sink<Self>) {
        let slot = expect_slot(&mut self.sockets, key);
        if slot.connecting {
            if let Some(outcome) = self.try_connect(key) {
                self.report(key.with(OpKind::Connect), outcome, sink);
            }
            return;
        }
        if let Some(mut chain) = slot.sending.take() {
            let sent = Self::try_send(&mut self.sys, slot, &mut chain);
            if let Some(outcome) = sent_outcome(sent, chain) {
                self.report(key.with(OpKind::Send), outcome, sink);
            }
        }
        // The sink may have closed the connection, and another may use its slot.
        if let Some(slot) = find(&mut self.sockets, key) {
            if slot.receiving == DISCARD {
                if let Some(outcome) = self.try_discard(key) {
                    self.report(key.with(OpKind::Recv), outcome, sink);
                }
                return;
            }
            match Self::try_recv(&mut self.sys, &self.pool, slot) {
                Ok(chain) => self.report(key.with(OpKind::Recv), Outcome::Received(chain), sink),
                Err(why) => self.not_received(key, why, sink),
            }
        }
    }

    /// Reports a completion.
    #[inline(never)]
    fn report(&mut self, key: Key, outcome: Outcome<S::Socket>, sink: &mut impl Sink<Self>) {
        sink.complete(self, Completion { key, outcome });
    }
}

/// The outcome of a Send that left `rest`.
fn sent_outcome<Socket>(
    sent: Result<Option<usize>, Errno>,
    rest: Chain,
) -> Option<Outcome<Socket>> {
    match sent {
        Ok(sent) => sent.map(|bytes| Outcome::Sent { bytes, rest }),
        Err(error) => Some(Outcome::Failed(error)),
    }
}

impl<Socket> From<Option<Outcome<Socket>>> for Submitted<Socket> {
    #[inline]
    fn from(outcome: Option<Outcome<Socket>>) -> Submitted<Socket> {
        match outcome {
            Some(outcome) => Submitted::Ready(outcome),
            None => Submitted::Pending,
        }
    }
}

/// The socket with this key, if it still has its slot.
#[inline]
fn find<Socket>(sockets: &mut [SocketSlot<Socket>], key: Key) -> Option<&mut SocketSlot<Socket>> {
    let slot = sockets.get_mut(key.slot() as usize)?;
    (slot.generation == key.generation() && slot.socket.is_some()).then_some(slot)
}

/// The socket with this key, which must exist.
#[inline]
fn expect_slot<Socket>(sockets: &mut [SocketSlot<Socket>], key: Key) -> &mut SocketSlot<Socket> {
    let slot = &mut sockets[key.slot() as usize];
    debug_assert_eq!(slot.generation, key.generation(), "a key of an earlier generation");
    slot
}

impl<S: Sys> Engine for MioEngine<S> {
    type Socket = S::Socket;

    #[inline]
    fn now(&self) -> Time {
        self.sys.now()
    }

    fn waker(&self) -> Waker {
        self.sys.waker()
    }

    fn adopt(&mut self, key: Key, socket: S::Socket, peer: Peer) -> Result<(), (Errno, S::Socket)> {
        self.install(key, socket, false, matches!(peer, Peer::Unix { .. }))
    }

    fn detach(&mut self, key: Key) -> Option<Detached<S::Socket>> {
        let slot = find(&mut self.sockets, key)?;
        if slot.connecting || slot.receiving == DISCARD {
            return None;
        }
        // The socket stays if the system cannot.
        if !self.sys.forget(slot.socket.as_ref()?) {
            return None;
        }
        slot.receiving = 0;
        let unsent = slot.sending.take();
        Some(Detached { socket: slot.socket.take()?, unsent })
    }

    fn descriptor(socket: &S::Socket) -> Option<Passing<'_>> {
        S::descriptor(socket)
    }

    fn of_descriptor(&self, passed: Passed) -> Option<S::Socket> {
        self.sys.of_descriptor(passed)
    }

    fn listen(&mut self, index: usize, listening: Listening<Passed>) -> Result<(), Errno> {
        let Listening { file, socket, transport, kept, number } = listening;
        let socket = self.sys.of_descriptor(socket).ok_or(Errno::BADF)?;
        let listening = Listening { file, socket, transport, kept, number };
        self.sys.register(&listening.socket, Key::listener(index).to_bits())?;
        let listener = WatchedListener::new(listening);
        match self.listeners.get_mut(index) {
            None => self.listeners.push(listener),
            Some(closed) => *closed = listener,
        }
        Ok(())
    }

    fn refuse(&mut self, socket: S::Socket) {
        self.sys.refuse(socket);
    }

    fn give_back(&mut self, listener: usize, socket: S::Socket, peer: Peer, permit: Permit) {
        let held = self.listeners[listener].held.replace((socket, peer, permit));
        assert!(held.is_none(), "an accept while another connection was held");
    }

    fn unacknowledged(&self, key: Key) -> Option<u32> {
        let socket = self.sockets[key.slot() as usize].socket.as_ref()?;
        self.sys.unacknowledged(socket)
    }

    fn tcp_info(&self, key: Key) -> Option<TcpInfo> {
        let socket = self.sockets[key.slot() as usize].socket.as_ref()?;
        self.sys.tcp_info(socket)
    }

    fn sending(&self, key: Key) -> usize {
        let slot = self.sockets.get(key.slot() as usize);
        slot.and_then(|slot| slot.sending.as_ref()).map_or(0, Chain::len)
    }

    fn unread(&self, key: Key) -> Option<u32> {
        let socket = self.sockets[key.slot() as usize].socket.as_ref()?;
        self.sys.unread(socket)
    }

    // Inlined where the operation is known at compile time, so that only its branch remains.
    #[inline(always)]
    fn submit(&mut self, key: Key, op: Op) -> Submitted<S::Socket> {
        match op {
            Op::Recv(most) => {
                let slot = expect_slot(&mut self.sockets, key);
                assert!(most > 0 && slot.receiving == 0, "two receives at once");
                slot.receiving = most;
                match Self::try_recv(&mut self.sys, &self.pool, slot) {
                    Ok(chain) => Submitted::Ready(Outcome::Received(chain)),
                    Err(why) => Submitted::from(why.outcome()),
                }
            }
            Op::Send(mut chain) => {
                let sent = self.send(key, &mut chain);
                Submitted::from(sent_outcome(sent, chain))
            }
            rare => self.submit_rarely(key, rare),
        }
    }

    #[inline(always)]
    fn send(&mut self, key: Key, chain: &mut Chain) -> Result<Option<usize>, Errno> {
        let slot = expect_slot(&mut self.sockets, key);
        assert!(slot.sending.is_none(), "two sends at once");
        assert!(!chain.is_empty(), "a send of no bytes");
        Self::try_send(&mut self.sys, slot, chain)
    }

    fn poll(&mut self, deadline: Option<Time>, sink: &mut impl Sink<Self>) -> Result<bool, Errno> {
        let quiet = self.cancelled.is_empty() && self.delayed.is_empty();
        let deadline = if quiet { deadline } else { self.unfinished_by(deadline) };
        let mut ready = std::mem::take(&mut self.ready);
        let waited = self.sys.wait(deadline, &mut ready);
        sink.turn(self.sys.now());
        if !quiet {
            self.report_cancelled(sink);
            self.connect_delayed(sink);
        }
        for readiness in ready.drain(..) {
            self.on_ready(readiness, sink);
        }
        self.ready = ready;
        waited
    }
}

#[cfg(test)]
mod tests;
