//! The simulated kernel: pairs of endpoints, listeners with backlogs, readiness, and a queue of
//! events. As far as the code above can tell, it behaves as Linux does. Faults are injected at
//! random, at the rates of the seed.
//!
//! * here: the types, random faults, the trace, and time
//! * `connections`: opens and closes connections
//! * `bytes`: transfers data over them
//! * `descriptors`: several descriptors of a socket, in several processes
//! * `readiness`: reports their readiness

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::marks::{Mark, Marks};
use super::wire::Framing;
use crate::base::endpoint::Peer;
use crate::base::time::Time;
use crate::error::Errno;

mod bytes;
mod connections;
mod descriptors;
mod readiness;

pub(crate) type SharedWorld = Rc<RefCell<World>>;
pub(crate) type EndpointId = usize;
pub(crate) type ListenerId = usize;

/// How often each fault is injected, in events per million, and sizes. Each seed draws its own
/// rates, most of them zero: too many faults at once hide bugs.
#[derive(Clone, Debug)]
pub(crate) struct FaultRates {
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
    /// Longest time that a segment is in transit.
    pub(crate) delay_max: Duration,
    /// Capacity of a receive buffer in bytes, including bytes in transit to it.
    pub(crate) window: usize,
    /// Most descriptors that the process may have open.
    pub(crate) descriptors: usize,
    pub(crate) backlog: usize,
}

impl FaultRates {
    /// No faults: only what a network without them is like.
    pub(crate) fn none(delay_max: Duration, window: usize) -> FaultRates {
        FaultRates {
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
            delay_max,
            window,
            descriptors: usize::MAX,
            backlog: usize::MAX,
        }
    }

    /// Stops all faults.
    pub(super) fn heal(&mut self) {
        let backlog = self.backlog;
        *self = FaultRates { backlog, ..FaultRates::none(self.delay_max, self.window) };
    }
}

/// What happens to a connect to an address with a route of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// Refused.
    Refused,
    /// Never completed.
    Silent,
    /// Completed after this time.
    Late(Duration),
}

/// An event in the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum WorldEvent {
    /// The first segment in transit to this endpoint arrives.
    Arrival(EndpointId),
    /// A peer acts.
    Peer(usize),
    /// A connect arrives at its listener.
    Connect(EndpointId),
    /// Delayed readiness can be reported.
    Readiness,
    /// An external thread makes a request.
    External,
}

/// What is in transit to an endpoint.
#[derive(Debug)]
enum Segment {
    Bytes(Vec<u8>, /** The last byte is urgent. */ bool),
    Fin,
}

/// Readiness that has not been reported yet.
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

/// The worker that watches an endpoint, and its token for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) worker: usize,
    pub(super) token: u64,
}

/// Since when there has been something on an endpoint that its owner has not tried to use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unseen {
    /// Bytes or FIN to receive.
    pub(super) input: Option<Time>,
    /// Room for bytes, after a send that found none.
    pub(super) room: Option<Time>,
    /// When the endpoint was closed.
    pub(super) closed_at: Option<Time>,
}

/// One side of a connection.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    pub(super) address: Option<SocketAddr>,
    other: EndpointId,
    /// The number of the listener that a connect is for. Each worker has one with this number.
    listener: usize,
    /// When the server had accepted it.
    accepted_at: Option<Time>,
    received: VecDeque<u8>,
    /// Number of bytes received so far.
    taken: u64,
    under_way: VecDeque<(Time, Segment)>,
    bytes_under_way: usize,
    /// Index of the urgent byte in `received`.
    mark: Option<usize>,
    pub(super) fin_received: bool,
    error: Option<Errno>,
    fin_sent: bool,
    /// The other side is gone: a send fails with EPIPE.
    broken: bool,
    /// It was reset: after the error was reported once, a receive returns the end of the stream.
    reset: bool,
    closed: bool,
    /// Bytes that receives have taken while they were being cancelled: who cancels has decided.
    taken_in_vain: u64,
    /// When this side's FIN went out, and how many bytes it had received by then, without these.
    fin_sent_at: Option<Time>,
    taken_at_fin: u64,
    /// When it last received bytes.
    taken_at: Option<Time>,
    /// What its owner has not seen yet; and what it had not seen when it sent FIN, and when it
    /// closed the endpoint.
    unseen: Unseen,
    unseen_at_fin: Option<Unseen>,
    unseen_at_close: Option<Unseen>,
    /// An error was injected into a call on it.
    failed: bool,
    /// A descriptor of the process under test.
    ours: bool,
    blocked: bool,
    connecting: bool,
    connected: Option<Result<(), Errno>>,
    watch: Option<Watch>,
    edge: Edge,
    /// It was watched, and then forgotten, to be registered again.
    forgotten: bool,
}

/// The life of the server's side of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerEnd {
    /// When it was accepted and registered.
    pub(super) accepted_at: Option<Time>,
    /// When it was accepted or last received bytes.
    pub(super) active_at: Option<Time>,
    /// When it sent FIN or was closed, whichever came first.
    pub(super) ended_at: Option<Time>,
    /// Whether it sent FIN, and was not reset.
    pub(super) sent_fin: bool,
    /// Bytes that it has received; and those that it had received by then, without what came while
    /// the receive was being cancelled.
    pub(super) taken: u64,
    pub(super) taken_at_end: u64,
    pub(super) fin_received: bool,
    /// An error was injected into a call on it.
    pub(super) failed: bool,
}

#[derive(Debug)]
struct SimulatedListener {
    /// Its number among those of its worker.
    number: usize,
    backlog: VecDeque<EndpointId>,
    open: bool,
    /// Who watches it: workers of several processes, if one has taken over from another.
    watches: Vec<(Watch, Edge)>,
}

/// The simulated kernel, its clock, and its random faults.
pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) now: Time,
    pub(crate) rates: FaultRates,
    pub(super) routes: HashMap<SocketAddr, Route>,
    /// Each segment is in transit for exactly `delay_max`.
    pub(super) delay_is_fixed: bool,
    pub(super) marks: Marks,
    pub(super) trace: Trace,
    pub(super) workers: usize,
    /// The byte layers of the servers' listeners. Empty if there is one listener without a layer.
    pub(super) framings: Vec<Framing>,
    /// The seed, for draws that must not change the others.
    pub(crate) seed: u64,
    /// The services send messages, drawn from this seed.
    pub(super) messages: Option<u64>,
    endpoints: Vec<Endpoint>,
    listeners: Vec<SimulatedListener>,
    /// How many descriptors each socket has beside the first one.
    copies: HashMap<HandleTarget, usize>,
    /// Sockets that are on their way between processes, and those whose reference was dropped.
    tokens: usize,
    dropped: Arc<Mutex<Vec<EndpointId>>>,
    /// A process is killed: its connections are reset.
    pub(super) kills: bool,
    queue: BinaryHeap<Reverse<(Time, u64, WorldEvent)>>,
    queued: u64,
    pub(super) descriptors_open: usize,
    /// How long a server waits for the peer's FIN after its own.
    pub(super) linger: Duration,
    /// From this time on a server may cut any connection.
    pub(super) cut_from: Time,
    /// The process under test stands still.
    suspended: bool,
    /// Workers whose next wait is interrupted, one bit each.
    interrupted: u64,
    /// First failed check of code that cannot panic because the worker catches a service's panics.
    pub(super) wrong: Option<String>,
}

/// The events as a hash, which is the same for the same seed, and as text if requested.
pub(super) struct Trace {
    hash: u64,
    pub(super) lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(told: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, lines: told.then(Vec::new) }
    }

    /// Adds an event, with its time and that since the beginning.
    pub(super) fn event(
        &mut self,
        now: Time,
        since: Duration,
        [code, who, what]: [u64; 3],
        text: impl FnOnce() -> String,
    ) {
        self.note([now.as_nanos() ^ code << 56, who, what]);
        if let Some(lines) = &mut self.lines {
            let micros = since.as_micros();
            lines.push(format!("{:>10}.{:03} ms  {}", micros / 1000, micros % 1000, text()));
        }
    }

    /// FNV-1a over 64-bit words. It only has to differ when the events differ.
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

/// A descriptor of a process under test. Dropping it closes it.
pub(crate) struct Handle {
    pub(crate) world: SharedWorld,
    pub(crate) what: HandleTarget,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum HandleTarget {
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
        self.world.borrow_mut().close_descriptor(self.what);
    }
}

impl World {
    pub(crate) fn new(seed: u64, rates: FaultRates, workers: usize, told: bool) -> World {
        World {
            rng: fastrand::Rng::with_seed(seed),
            seed,
            now: Time::from_nanos(1_000_000_000),
            rates,
            routes: HashMap::new(),
            delay_is_fixed: false,
            marks: Marks::default(),
            trace: Trace::new(told),
            workers,
            framings: Vec::new(),
            messages: None,
            endpoints: Vec::new(),
            listeners: Vec::new(),
            copies: HashMap::new(),
            tokens: 0,
            dropped: Arc::default(),
            kills: false,
            queue: BinaryHeap::new(),
            queued: 0,
            descriptors_open: 0,
            linger: Duration::ZERO,
            cut_from: Time::MAX,
            suspended: false,
            interrupted: 0,
            wrong: None,
        }
    }

    /// True with a probability of `rate` in a million.
    pub(super) fn chance(&mut self, rate: u32) -> bool {
        rate > 0 && self.rng.u32(0..1_000_000) < rate
    }

    /// Records a failed check. Only the first one is kept.
    pub(super) fn complain(&mut self, text: impl FnOnce() -> String) {
        self.wrong.get_or_insert_with(text);
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        self.marks.hit(mark);
    }

    /// Adds an event to the hash, and to the trace if one is recorded.
    pub(super) fn trace(
        &mut self,
        code: u64,
        who: usize,
        what: u64,
        text: impl FnOnce() -> String,
    ) {
        let since = self.now - Time::from_nanos(1_000_000_000);
        self.trace.event(self.now, since, [code, who as u64, what], text);
    }

    pub(super) fn at(&mut self, time: Time, event: WorldEvent) {
        self.queued += 1;
        self.queue.push(Reverse((time, self.queued, event)));
    }

    pub(super) fn after_up_to(&mut self, most: Duration, event: WorldEvent) {
        let wait = Duration::from_nanos(self.rng.u64(0..=most.as_nanos() as u64));
        self.at(self.now + wait, event);
    }

    /// Time of the next event.
    pub(crate) fn next(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse((time, _, _))| *time)
    }

    /// Takes the next event that is due.
    pub(crate) fn pop(&mut self) -> Option<WorldEvent> {
        let Reverse((time, _, _)) = self.queue.peek()?;
        if *time > self.now {
            return None;
        }
        self.queue.pop().map(|Reverse((_, _, event))| event)
    }

    /// The process is stopped for this time. Returns until when.
    pub(super) fn suspend(&mut self, span: Duration) -> Time {
        self.mark(Mark::TimeSuspended);
        self.trace(50, 0, span.as_nanos() as u64, || format!("suspended for {span:?}"));
        self.suspended = true;
        self.now + span
    }

    /// Takes the next event before `until`, and advances the clock to it.
    pub(super) fn pop_until(&mut self, until: Time) -> Option<WorldEvent> {
        let Reverse((time, _, event)) = self.queue.peek()?;
        if *time >= until {
            return None;
        }
        let (time, event) = (*time, *event);
        self.queue.pop();
        self.now = self.now.max(time);
        Some(event)
    }

    /// The process goes on. The first wait of each worker is interrupted.
    pub(super) fn resume(&mut self, until: Time) {
        self.now = until;
        self.suspended = false;
        self.interrupted = u64::MAX;
    }

    /// Whether a worker's wait is interrupted because the process was stopped.
    pub(super) fn take_interrupt(&mut self, worker: usize) -> bool {
        let bit = 1 << worker;
        let interrupted = self.interrupted & bit != 0;
        self.interrupted &= !bit;
        interrupted
    }

    /// Handles one event. The caller handles the turns of peers and external threads.
    pub(crate) fn handle_event(&mut self, event: WorldEvent) {
        match event {
            WorldEvent::Arrival(id) => self.arrive(id),
            WorldEvent::Connect(id) => self.connect_arrives(id),
            WorldEvent::Peer(_) | WorldEvent::Readiness | WorldEvent::External => {}
        }
    }
}

/// The address of peer number `peer`. Each peer has its own, which identifies it everywhere.
pub(super) fn address_of(peer: usize) -> SocketAddr {
    let peer = peer as u32;
    let ip = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, (peer >> 16) as u16, peer as u16);
    SocketAddr::new(IpAddr::V6(ip), 1)
}

/// The number of a peer.
pub(super) fn peer_of(peer: Peer) -> usize {
    match peer.socket_addr().map(|address| address.ip()) {
        Some(IpAddr::V6(ip)) => {
            let segments = ip.segments();
            (segments[6] as usize) << 16 | segments[7] as usize
        }
        // Only the header of a proxy names such a client.
        Some(IpAddr::V4(ip)) => {
            let [_, _, high, low] = ip.octets();
            (high as usize) << 8 | low as usize
        }
        None => panic!("not an address of this world: {peer}"),
    }
}

/// The byte that a peer sends at an offset, which reveals bytes of other peers or other offsets.
/// Its highest bit is 0: it is reserved for external messages.
pub(super) fn canary(peer: usize, offset: u64) -> u8 {
    let mixed = (peer as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ offset.wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed >> 32 ^ mixed >> 17) as u8 & 0x7F
}
