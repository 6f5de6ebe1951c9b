//! The simulated kernel: endpoints joined in pairs, listeners with backlogs, readiness, and a queue
//! of what happens when. It behaves as Linux does, as far as the code above can tell; the faults
//! are drawn by lot at the rates of the seed.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::marks::{Mark, Marks};
use crate::error::Errno;
use crate::time::Time;

pub(crate) type Shared = Rc<RefCell<World>>;
pub(crate) type EndpointId = usize;
pub(crate) type ListenerId = usize;

/// How often each fault is drawn, in a million, and the sizes of things. A seed draws its own, most
/// of them zero: faults that never leave room for anything else hide bugs.
#[derive(Clone, Debug)]
pub(crate) struct Rates {
    pub(crate) late_readiness: u32,
    pub(crate) spurious: u32,
    pub(crate) duplicate: u32,
    pub(crate) partial_batch: u32,
    pub(crate) accept_error: u32,
    pub(crate) register_error: u32,
    pub(crate) recv_error: u32,
    pub(crate) send_error: u32,
    pub(crate) shutdown_error: u32,
    pub(crate) connect_error: u32,
    pub(crate) late_buffer: u32,
    /// How long a segment is under way, at most.
    pub(crate) delay_max: Duration,
    /// Bytes that a receive buffer and what is under way to it hold together.
    pub(crate) window: usize,
    /// Descriptors that the process may have.
    pub(crate) descriptors: usize,
    pub(crate) backlog: usize,
}

impl Rates {
    /// No faults any more: what is under way gets through.
    pub(super) fn heal(&mut self) {
        *self = Rates {
            late_readiness: 0,
            spurious: 0,
            duplicate: 0,
            partial_batch: 0,
            accept_error: 0,
            register_error: 0,
            recv_error: 0,
            send_error: 0,
            shutdown_error: 0,
            connect_error: 0,
            late_buffer: 0,
            descriptors: usize::MAX,
            ..self.clone()
        };
    }
}

/// Something that will happen at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Happening {
    /// The first segment under way to this endpoint arrives.
    Arrival(EndpointId),
    /// A peer acts.
    Peer(usize),
    /// A connect arrives at its listener.
    Connect(EndpointId),
    /// Readiness that was held back can be told.
    Readiness,
    /// Another thread wants something of the server.
    Outside,
}

/// What is under way to an endpoint.
#[derive(Debug)]
enum Segment {
    Bytes(Vec<u8>, /** The last is urgent. */ bool),
    Fin,
}

/// What readiness has not been told yet.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Edge {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) read_on: bool,
    pub(super) at: Time,
}

impl Edge {
    fn any(self) -> bool {
        self.readable || self.writable
    }
}

/// Who watches an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) worker: usize,
    pub(super) token: u64,
}

/// One side of a connection.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    pub(super) address: Option<SocketAddr>,
    other: EndpointId,
    received: VecDeque<u8>,
    under_way: VecDeque<(Time, Segment)>,
    bytes_under_way: usize,
    /// Where in `received` the urgent byte is.
    mark: Option<usize>,
    pub(super) fin_received: bool,
    error: Option<Errno>,
    fin_sent: bool,
    /// The other side is gone: sending gets EPIPE.
    broken: bool,
    /// By a reset: once the error has been told, receiving answers the end of the stream.
    reset: bool,
    closed: bool,
    /// When this side's FIN went out.
    fin_sent_at: Option<Time>,
    /// A call on it was made to fail by lot.
    failed: bool,
    /// A descriptor of the process under test.
    ours: bool,
    blocked: bool,
    connecting: bool,
    connected: Option<Result<(), Errno>>,
    watch: Option<Watch>,
    edge: Edge,
}

#[derive(Debug)]
struct Listener {
    backlog: VecDeque<EndpointId>,
    open: bool,
    watch: Option<Watch>,
    edge: Edge,
}

/// The world.
pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) now: Time,
    pub(crate) rates: Rates,
    /// Each segment is under way for the longest time that there is.
    pub(super) delay_is_fixed: bool,
    pub(super) marks: Marks,
    pub(super) story: Story,
    pub(super) workers: usize,
    endpoints: Vec<Endpoint>,
    listeners: Vec<Listener>,
    queue: BinaryHeap<Reverse<(Time, u64, Happening)>>,
    queued: u64,
    pub(super) descriptors_open: usize,
    /// How long a server waits for the peer's FIN after its own.
    pub(super) linger: Duration,
    /// From when on a server may close whatever it has.
    pub(super) cut_from: Time,
    /// What somebody found wrong who cannot panic: a service's panics are caught.
    pub(super) wrong: Option<String>,
}

/// What happened, as a hash that is the same for the same seed, and as text if it is wanted.
pub(super) struct Story {
    hash: u64,
    pub(super) lines: Option<Vec<String>>,
}

impl Story {
    pub(super) fn new(told: bool) -> Story {
        Story { hash: 0xcbf2_9ce4_8422_2325, lines: told.then(Vec::new) }
    }

    /// FNV-1a over 64-bit words: it is to differ when the story does, no more.
    fn note(&mut self, words: [u64; 3]) {
        for word in words {
            self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3);
            self.hash ^= self.hash >> 29;
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

/// A descriptor of the process under test. Dropping it closes it.
pub(crate) struct Handle {
    pub(crate) world: Shared,
    pub(crate) what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Endpoint(EndpointId),
    Listener(ListenerId),
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        match self.what {
            What::Endpoint(id) => world.close(id),
            What::Listener(id) => world.close_listener(id),
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64, rates: Rates, workers: usize, told: bool) -> World {
        World {
            rng: fastrand::Rng::with_seed(seed),
            now: Time::from_nanos(1_000_000_000),
            rates,
            delay_is_fixed: false,
            marks: Marks::default(),
            story: Story::new(told),
            workers,
            endpoints: Vec::new(),
            listeners: Vec::new(),
            queue: BinaryHeap::new(),
            queued: 0,
            descriptors_open: 0,
            linger: Duration::ZERO,
            cut_from: Time::MAX,
            wrong: None,
        }
    }

    /// True as often as `rate` says, in a million.
    pub(super) fn chance(&mut self, rate: u32) -> bool {
        rate > 0 && self.rng.u32(0..1_000_000) < rate
    }

    /// Says that something is wrong; the first word counts.
    pub(super) fn complain(&mut self, text: impl FnOnce() -> String) {
        self.wrong.get_or_insert_with(text);
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        self.marks.hit(mark);
    }

    /// Notes something for the hash, and for the story if one is told.
    pub(super) fn tell(&mut self, code: u64, who: usize, what: u64, text: impl FnOnce() -> String) {
        self.story.note([self.now.as_nanos() ^ code << 56, who as u64, what]);
        let now = self.now;
        if let Some(lines) = &mut self.story.lines {
            let micros = (now.as_nanos() - 1_000_000_000) / 1000;
            lines.push(format!("{:>10}.{:03} ms  {}", micros / 1000, micros % 1000, text()));
        }
    }

    pub(super) fn at(&mut self, time: Time, happening: Happening) {
        self.queued += 1;
        self.queue.push(Reverse((time, self.queued, happening)));
    }

    pub(super) fn after_up_to(&mut self, most: Duration, happening: Happening) {
        let wait = Duration::from_nanos(self.rng.u64(0..=most.as_nanos() as u64));
        self.at(self.now + wait, happening);
    }

    /// When the next thing happens.
    pub(crate) fn next(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse((time, _, _))| *time)
    }

    /// Takes the next thing that has come about by now.
    pub(crate) fn pop(&mut self) -> Option<Happening> {
        let Reverse((time, _, _)) = self.queue.peek()?;
        if *time > self.now {
            return None;
        }
        self.queue.pop().map(|Reverse((_, _, happening))| happening)
    }

    /// Lets one thing happen. Peers' turns are the caller's business.
    pub(crate) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(id) => self.arrive(id),
            Happening::Connect(id) => self.connect_arrives(id),
            Happening::Peer(_) | Happening::Readiness | Happening::Outside => {}
        }
    }

    // Connections.

    fn pair(&mut self, address: SocketAddr) -> (EndpointId, EndpointId) {
        let (near, far) = (self.endpoints.len(), self.endpoints.len() + 1);
        self.endpoints.push(Endpoint { other: far, ..Endpoint::default() });
        self.endpoints.push(Endpoint {
            other: near,
            address: Some(address),
            ..Endpoint::default()
        });
        (near, far)
    }

    /// Begins a connect; the outcome is told by `connect_outcome`, and by readiness if it is
    /// watched.
    pub(crate) fn connect(&mut self, address: SocketAddr, ours: bool) -> EndpointId {
        let (near, _) = self.pair(address);
        self.endpoints[near].connecting = true;
        self.endpoints[near].ours = ours;
        if ours {
            self.descriptors_open += 1;
        }
        let delay = self.delay();
        self.at(self.now + delay, Happening::Connect(near));
        near
    }

    fn connect_arrives(&mut self, near: EndpointId) {
        if self.endpoints[near].closed {
            return;
        }
        let open: Vec<ListenerId> =
            (0..self.listeners.len()).filter(|&id| self.listeners[id].open).collect();
        if open.is_empty() || (self.endpoints[near].ours && self.chance(self.rates.connect_error)) {
            self.mark(Mark::ConnectRefused);
            self.connect_ends(near, Err(Errno::CONNREFUSED));
            return;
        }
        let id = open[self.rng.usize(0..open.len())];
        if self.listeners[id].backlog.len() >= self.rates.backlog {
            self.mark(Mark::BacklogFull);
            self.at(self.now + Duration::from_secs(1), Happening::Connect(near));
            return;
        }
        let far = self.endpoints[near].other;
        self.listeners[id].backlog.push_back(far);
        self.tell(1, near, id as u64, || format!("connection {near} is in backlog {id}"));
        self.raise_listener(id);
        self.connect_ends(near, Ok(()));
    }

    fn connect_ends(&mut self, near: EndpointId, outcome: Result<(), Errno>) {
        let endpoint = &mut self.endpoints[near];
        endpoint.connecting = false;
        endpoint.connected = Some(outcome);
        endpoint.broken |= outcome.is_err();
        self.raise(near, Edge { readable: outcome.is_err(), writable: true, ..Edge::default() });
    }

    pub(crate) fn connect_outcome(&self, id: EndpointId) -> Option<Result<(), Errno>> {
        self.endpoints[id].connected
    }

    /// A connection that the listener has, with its peer's address.
    pub(super) fn accept(&mut self, id: ListenerId) -> Result<(EndpointId, SocketAddr), Errno> {
        if self.listeners[id].backlog.is_empty() {
            return Err(Errno::AGAIN);
        }
        if self.descriptors_open >= self.rates.descriptors {
            self.mark(Mark::DescriptorsUsedUp);
            return Err(Errno::MFILE);
        }
        if self.chance(self.rates.accept_error) {
            return Err(self.accept_error(id));
        }
        let far = self.listeners[id].backlog.pop_front().expect("it is not empty");
        self.endpoints[far].ours = true;
        self.descriptors_open += 1;
        let address = self.endpoints[far].address.expect("a far end has its peer's address");
        self.tell(2, far, id as u64, || format!("accept on {id}: connection {far} from {address}"));
        Ok((far, address))
    }

    fn accept_error(&mut self, id: ListenerId) -> Errno {
        const ERRORS: [(Errno, Mark); 15] = [
            (Errno::CONNABORTED, Mark::AcceptAborted),
            (Errno::PROTO, Mark::AcceptProto),
            (Errno::PERM, Mark::AcceptPerm),
            (Errno::MFILE, Mark::AcceptMfile),
            (Errno::NFILE, Mark::AcceptNfile),
            (Errno::NOBUFS, Mark::AcceptNobufs),
            (Errno::NOMEM, Mark::AcceptNomem),
            // Errors of the network that Linux passes on from the new connection: accept(2).
            (Errno::NETDOWN, Mark::AcceptNetdown),
            (Errno::NOPROTOOPT, Mark::AcceptNoprotoopt),
            (Errno::HOSTDOWN, Mark::AcceptHostdown),
            (Errno::NONET, Mark::AcceptNonet),
            (Errno::HOSTUNREACH, Mark::AcceptHostunreach),
            (Errno::OPNOTSUPP, Mark::AcceptOpnotsupp),
            (Errno::NETUNREACH, Mark::AcceptNetunreach),
            (Errno::TIMEDOUT, Mark::AcceptTimedout),
        ];
        let (error, mark) = ERRORS[self.rng.usize(0..ERRORS.len())];
        self.mark(mark);
        // After these the connection still waits; the others take it with them.
        if !matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) {
            let gone = self.listeners[id].backlog.pop_front().expect("it is not empty");
            self.reset_other(gone);
            self.endpoints[gone].closed = true;
        }
        self.tell(3, id, error.raw_os_error() as u64, || format!("accept on {id}: {error:?}"));
        error
    }

    pub(super) fn waiting(&self, id: ListenerId) -> usize {
        self.listeners[id].backlog.len()
    }

    pub(crate) fn listen(&mut self) -> ListenerId {
        self.listeners.push(Listener {
            backlog: VecDeque::new(),
            open: true,
            watch: None,
            edge: Edge::default(),
        });
        self.listeners.len() - 1
    }

    fn close_listener(&mut self, id: ListenerId) {
        self.listeners[id].open = false;
        self.listeners[id].watch = None;
        while let Some(far) = self.listeners[id].backlog.pop_front() {
            self.mark(Mark::BacklogReset);
            self.reset_other(far);
            self.endpoints[far].closed = true;
        }
    }

    // Bytes.

    fn room_to(&self, to: EndpointId) -> usize {
        let endpoint = &self.endpoints[to];
        self.rates.window.saturating_sub(endpoint.received.len() + endpoint.bytes_under_way)
    }

    /// Sends as much as there is room for.
    pub(crate) fn send(
        &mut self,
        id: EndpointId,
        bytes: &[u8],
        urgent: bool,
    ) -> Result<usize, Errno> {
        let endpoint = &self.endpoints[id];
        if let Some(error) = endpoint.error {
            self.endpoints[id].error = None;
            self.endpoints[id].broken = true;
            return Err(error);
        }
        if endpoint.broken || endpoint.fin_sent {
            return Err(Errno::PIPE);
        }
        let to = endpoint.other;
        let count = self.room_to(to).min(bytes.len());
        if count < bytes.len() {
            self.endpoints[id].blocked = true;
        }
        if count == 0 {
            return Err(Errno::AGAIN);
        }
        let urgent = urgent && count == bytes.len();
        self.post(to, Segment::Bytes(bytes[..count].to_vec(), urgent));
        Ok(count)
    }

    /// How long a segment is under way.
    fn delay(&mut self) -> Duration {
        match self.delay_is_fixed {
            true => self.rates.delay_max,
            false => Duration::from_nanos(self.rng.u64(0..=self.rates.delay_max.as_nanos() as u64)),
        }
    }

    fn post(&mut self, to: EndpointId, segment: Segment) {
        if let Segment::Bytes(bytes, _) = &segment {
            self.endpoints[to].bytes_under_way += bytes.len();
        }
        let mut at = self.now + self.delay();
        // In order: not before what was sent before.
        if let Some((last, _)) = self.endpoints[to].under_way.back() {
            at = at.max(*last);
        }
        self.endpoints[to].under_way.push_back((at, segment));
        self.at(at, Happening::Arrival(to));
    }

    fn arrive(&mut self, id: EndpointId) {
        let mut edge = Edge::default();
        let mut bytes_came = false;
        while let Some((at, _)) = self.endpoints[id].under_way.front() {
            if *at > self.now {
                break;
            }
            let (_, segment) = self.endpoints[id].under_way.pop_front().expect("it is there");
            edge.readable = true;
            match segment {
                Segment::Bytes(bytes, urgent) => {
                    let endpoint = &mut self.endpoints[id];
                    endpoint.bytes_under_way -= bytes.len();
                    if endpoint.closed {
                        // Nobody will read it: the sender is told.
                        self.reset_other(id);
                        return;
                    }
                    endpoint.received.extend(bytes);
                    bytes_came = true;
                    if urgent {
                        endpoint.mark = Some(endpoint.received.len() - 1);
                        edge.read_on = true;
                        self.mark(Mark::Urgent);
                    }
                }
                Segment::Fin => {
                    self.endpoints[id].fin_received = true;
                    edge.read_on = true;
                    if bytes_came {
                        self.mark(Mark::DataWithFin);
                    }
                }
            }
        }
        if edge.readable {
            self.raise(id, edge);
        }
    }

    /// Receives up to `most` bytes.
    pub(crate) fn recv(&mut self, id: EndpointId, most: usize) -> Result<Vec<u8>, Errno> {
        let endpoint = &mut self.endpoints[id];
        if endpoint.received.is_empty() {
            if let Some(error) = endpoint.error.take() {
                endpoint.broken = true;
                return Err(error);
            }
            let ended = endpoint.fin_received || endpoint.reset;
            return if ended { Ok(Vec::new()) } else { Err(Errno::AGAIN) };
        }
        let mut count = most.min(endpoint.received.len());
        match endpoint.mark {
            Some(mark) if mark > 0 && mark < count => {
                count = mark;
                endpoint.mark = Some(0);
                self.mark(Mark::StoppedAtMark);
            }
            Some(mark) if mark < count => endpoint.mark = None,
            Some(mark) => endpoint.mark = Some(mark - count),
            None => {}
        }
        let bytes: Vec<u8> = self.endpoints[id].received.drain(..count).collect();
        let sender = self.endpoints[id].other;
        if self.endpoints[sender].blocked && self.room_to(id) > 0 {
            self.endpoints[sender].blocked = false;
            self.raise(sender, Edge { writable: true, ..Edge::default() });
        }
        Ok(bytes)
    }

    /// Whether a receive would do something.
    pub(super) fn can_recv(&self, id: EndpointId) -> bool {
        let endpoint = &self.endpoints[id];
        !endpoint.received.is_empty()
            || endpoint.error.is_some()
            || endpoint.fin_received
            || endpoint.reset
    }

    /// Whether a send would do something.
    pub(super) fn can_send(&self, id: EndpointId) -> bool {
        let endpoint = &self.endpoints[id];
        endpoint.error.is_some() || endpoint.broken || self.room_to(endpoint.other) > 0
    }

    pub(crate) fn shutdown(&mut self, id: EndpointId) -> Result<(), Errno> {
        let endpoint = &mut self.endpoints[id];
        if endpoint.broken || endpoint.error.is_some() {
            return Err(Errno::NOTCONN);
        }
        if !std::mem::replace(&mut endpoint.fin_sent, true) {
            endpoint.fin_sent_at = Some(self.now);
            let to = endpoint.other;
            self.post(to, Segment::Fin);
        }
        Ok(())
    }

    /// Closes: FIN, or RST if there is something unread.
    pub(crate) fn close(&mut self, id: EndpointId) {
        let endpoint = &mut self.endpoints[id];
        if std::mem::replace(&mut endpoint.closed, true) {
            return;
        }
        endpoint.watch = None;
        let ours = std::mem::take(&mut endpoint.ours);
        self.descriptors_open -= usize::from(ours);
        if ours {
            self.check_linger(id);
        }
        let endpoint = &self.endpoints[id];
        let (unread, broken, shut) =
            (!endpoint.received.is_empty(), endpoint.broken, endpoint.fin_sent);
        self.tell(4, id, u64::from(unread), || {
            format!("close {id}{}", if unread { ", with unread bytes" } else { "" })
        });
        if self.endpoints[id].connected.is_some_and(|outcome| outcome.is_err()) {
            return;
        }
        if unread {
            self.reset_other(id);
        } else if !broken && !shut {
            self.endpoints[id].fin_sent = true;
            let to = self.endpoints[id].other;
            self.post(to, Segment::Fin);
        }
    }

    /// A server that has sent FIN waits for the peer's: a socket closed before that answers what
    /// comes late with RST, which destroys what the peer has not read yet.
    fn check_linger(&mut self, id: EndpointId) {
        let end = &self.endpoints[id];
        let Some(shut) = end.fin_sent_at.filter(|_| end.address.is_some()) else { return };
        let gone = end.fin_received || end.broken || end.error.is_some() || end.failed;
        if !gone && self.now < (shut + self.linger).min(self.cut_from) {
            let waited = self.now - shut;
            self.complain(|| format!("connection {id} was closed {waited:?} after its FIN"));
        }
    }

    /// A call on this endpoint fails by lot.
    pub(super) fn fail(&mut self, id: EndpointId) {
        self.endpoints[id].failed = true;
    }

    /// Whether clients wait at a listener that is open and has told of them.
    pub(super) fn has_waiting(&self, id: ListenerId) -> bool {
        let listener = &self.listeners[id];
        let untold = listener.edge.any() && listener.edge.at > self.now;
        listener.open && !listener.backlog.is_empty() && !untold
    }

    /// A RST goes out from `id`: what is under way to the other side is lost.
    pub(super) fn reset_other(&mut self, id: EndpointId) {
        let to = self.endpoints[id].other;
        self.endpoints[id].broken = true;
        let other = &mut self.endpoints[to];
        if other.closed {
            return;
        }
        other.under_way.clear();
        other.bytes_under_way = 0;
        other.error = Some(Errno::CONNRESET);
        other.reset = true;
        self.tell(5, id, to as u64, || format!("reset from {id} to {to}"));
        self.raise(to, Edge { readable: true, writable: true, read_on: true, at: Time::ZERO });
    }

    /// An abortive close: RST, whatever is unread.
    pub(crate) fn abort(&mut self, id: EndpointId) {
        let endpoint = &mut self.endpoints[id];
        if !std::mem::replace(&mut endpoint.closed, true) {
            endpoint.watch = None;
            if std::mem::take(&mut endpoint.ours) {
                self.descriptors_open -= 1;
            }
            self.reset_other(id);
        }
    }

    // Readiness.

    fn raise(&mut self, id: EndpointId, edge: Edge) {
        if self.endpoints[id].watch.is_none() {
            return;
        }
        let at = self.told_at();
        let pending = &mut self.endpoints[id].edge;
        // What is told already is not taken back: the earlier of two times counts.
        pending.at = if pending.any() { pending.at.min(at) } else { at };
        pending.readable |= edge.readable;
        pending.writable |= edge.writable;
        pending.read_on |= edge.read_on;
    }

    fn raise_listener(&mut self, id: ListenerId) {
        let at = self.told_at();
        self.listeners[id].edge = Edge { readable: true, at, ..Edge::default() };
    }

    fn told_at(&mut self) -> Time {
        if !self.chance(self.rates.late_readiness) {
            return self.now;
        }
        self.mark(Mark::LateReadiness);
        let late = self.now + Duration::from_micros(self.rng.u64(1..5_000));
        self.at(late, Happening::Readiness);
        late
    }

    pub(super) fn watch(&mut self, what: What, watch: Watch) {
        match what {
            What::Listener(id) => {
                self.listeners[id].watch = Some(watch);
                if !self.listeners[id].backlog.is_empty() {
                    self.raise_listener(id);
                }
            }
            What::Endpoint(id) => {
                self.endpoints[id].watch = Some(watch);
                self.endpoints[id].edge = Edge::default();
                let edge = Edge {
                    readable: self.can_recv(id),
                    writable: !self.endpoints[id].connecting && self.can_send(id),
                    read_on: self.endpoints[id].fin_received
                        || self.endpoints[id].error.is_some()
                        || self.endpoints[id].mark.is_some(),
                    at: Time::ZERO,
                };
                if edge.any() {
                    self.raise(id, edge);
                }
            }
        }
    }

    /// Whether a wait of this worker would come back with something.
    pub(super) fn is_ready(&self, worker: usize) -> bool {
        let of_worker = |watch: Option<Watch>| watch.is_some_and(|watch| watch.worker == worker);
        let due = |edge: Edge| edge.any() && edge.at <= self.now;
        self.endpoints.iter().any(|end| of_worker(end.watch) && due(end.edge))
            || self.listeners.iter().any(|end| of_worker(end.watch) && due(end.edge))
    }

    /// Takes what is ready for a worker, in any order.
    pub(super) fn take_ready(&mut self, worker: usize) -> Vec<(u64, Edge)> {
        let now = self.now;
        let mut ready = Vec::new();
        let ends = self.endpoints.iter_mut().map(|end| (end.watch, &mut end.edge));
        let listeners = self.listeners.iter_mut().map(|end| (end.watch, &mut end.edge));
        for (watch, edge) in ends.chain(listeners) {
            let Some(watch) = watch.filter(|watch| watch.worker == worker) else { continue };
            if edge.any() && edge.at <= now {
                ready.push((watch.token, std::mem::take(edge)));
            }
        }
        self.rng.shuffle(&mut ready);
        ready
    }

    /// Puts back what was taken and not told.
    pub(super) fn put_back(&mut self, worker: usize, token: u64, edge: Edge) {
        let matches = |watch: Option<Watch>| {
            watch.is_some_and(|watch| watch.worker == worker && watch.token == token)
        };
        let ends = self.endpoints.iter_mut().map(|end| (end.watch, &mut end.edge));
        let listeners = self.listeners.iter_mut().map(|end| (end.watch, &mut end.edge));
        for (watch, pending) in ends.chain(listeners) {
            if matches(watch) {
                *pending = edge;
            }
        }
    }

    /// A watched connection of the worker, by lot.
    pub(super) fn any_watched(&mut self, worker: usize) -> Option<u64> {
        let tokens: Vec<u64> = self
            .endpoints
            .iter()
            .filter(|end| !end.connecting)
            .filter_map(|end| end.watch)
            .filter(|watch| watch.worker == worker)
            .map(|watch| watch.token)
            .collect();
        (!tokens.is_empty()).then(|| tokens[self.rng.usize(0..tokens.len())])
    }

    /// Whether some connection of this worker is still watched by this token.
    pub(super) fn is_watched(&self, worker: usize, token: u64) -> bool {
        let matches = |watch: Watch| watch.worker == worker && watch.token == token;
        self.endpoints.iter().any(|end| end.watch.is_some_and(matches))
    }
}

/// The address of peer number `peer`. One for each, so that it is known by it everywhere.
pub(super) fn address_of(peer: usize) -> SocketAddr {
    let peer = peer as u32;
    let ip = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, (peer >> 16) as u16, peer as u16);
    SocketAddr::new(IpAddr::V6(ip), 1)
}

/// The peer with this address.
pub(super) fn peer_of(address: SocketAddr) -> usize {
    let IpAddr::V6(ip) = address.ip() else { panic!("not an address of this world: {address}") };
    let segments = ip.segments();
    (segments[6] as usize) << 16 | segments[7] as usize
}

/// The byte that a peer sends at an offset: whose it is and where it belongs can be told. Its highest
/// bit is left to bytes from outside.
pub(super) fn canary(peer: usize, offset: u64) -> u8 {
    let mixed = (peer as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ offset.wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed >> 32 ^ mixed >> 17) as u8 & 0x7F
}
