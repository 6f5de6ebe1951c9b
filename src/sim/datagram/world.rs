//! The world of datagrams: sources, the network, the sockets, and the events of all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::draw::{Draw, Family, Serves};
use super::model::{Allowances, Model, Turn};
use super::packets;
use super::socket::SimSocket;
use crate::base::time::Time;
use crate::engine::sys::ClockError;
use crate::sim::marks::{Mark, Marks};
use crate::sim::world::Trace;
use crate::worker::datagram::Stopper;

pub(super) type SharedWorld = Arc<Mutex<World>>;

/// The world, also after a check has failed in it.
pub(super) fn lock(world: &SharedWorld) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 2025, in nanoseconds since 1970.
const UNIX_NS: u64 = 1_735_689_600_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum DatagramEvent {
    /// A source sends a burst.
    Source(usize),
    /// A datagram arrives at the machine.
    Arrival(usize),
    /// A process is stopped, or leaves its sockets: at any moment, or at this one.
    Ends(usize),
    EndsNow(usize),
    /// A process begins to receive.
    Begins(usize),
    /// Another process starts, with the sockets of this one.
    Upgrade,
}

/// A datagram on its way to the server, or in a socket.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    /// The order in which its source has sent it.
    pub(super) number: u64,
    pub(super) source: SocketAddr,
    /// The address of the machine that it reaches.
    pub(super) local: IpAddr,
    /// The broadcast or multicast address that it was sent to.
    pub(super) group: Option<IpAddr>,
    pub(super) bytes: Arc<[u8]>,
    pub(super) hop_limit: Option<u8>,
    /// The kernel says who has sent it.
    pub(super) has_name: bool,
    /// When it came into the socket, by both clocks.
    pub(super) at: Time,
    pub(super) unix_ns: Option<u64>,
    /// The socket's count of dropped datagrams at that time.
    pub(super) dropped: u32,
}

/// Who sends datagrams.
#[derive(Debug)]
struct Source {
    address: SocketAddr,
    session: u16,
    /// The datagrams that it has sent, and the last of them that arrived.
    sent: u64,
    arrived: u64,
    socket: usize,
    /// The length of the datagrams of a burst, if they have one.
    length: Option<usize>,
}

/// A socket of the kernel.
#[derive(Debug, Default)]
pub(super) struct KernelSocket {
    pub(super) queue: VecDeque<Datagram>,
    pub(super) dropped: u32,
    pub(super) is_shut: bool,
    descriptors: usize,
}

/// A thread, as the world sees it.
pub(super) struct ThreadState {
    pub(super) process: usize,
    pub(super) socket: usize,
    pub(super) turn: Turn,
    pub(super) model: Model,
    pub(super) paused_until: Time,
    /// Its time cannot go back.
    last_now: Time,
    pub(super) has_ended: bool,
    /// Turns since its process was told to end.
    pub(super) turns_after_end: u32,
}

/// A process of the server.
pub(super) struct Process {
    pub(super) stopper: Arc<Stopper<SimSocket>>,
    pub(super) has_begun: bool,
    /// How it is to end: its sockets are left to the next one.
    pub(super) leaves: bool,
    /// It was told to end.
    pub(super) is_told: bool,
    pub(super) allowances: Allowances,
}

/// An order to a process, which one of its threads gets in the middle of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Order {
    pub(super) process: usize,
}

impl Order {
    pub(super) fn carry_out(self, world: &SharedWorld) {
        let mut held = lock(world);
        let process = &mut held.processes[self.process];
        if process.is_told {
            return;
        }
        process.is_told = true;
        let (stopper, leaves) = (process.stopper.clone(), process.leaves);
        let (has_begun, number) = (process.has_begun, self.process);
        held.event(3, number, leaves.into(), || {
            format!("process {number} {}", if leaves { "leaves its sockets" } else { "is stopped" })
        });
        drop(held);
        if leaves {
            stopper.leave();
            return;
        }
        stopper.stop();
        let held = lock(world);
        let own = held.threads.iter().filter(|one| one.process == number && !one.has_ended);
        for thread in own {
            let wakes = held.sockets[thread.socket].is_shut || !has_begun;
            assert!(wakes, "a process is stopped, and a thread waits on");
        }
    }
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) now: Time,
    pub(super) begun: Time,
    pub(super) draw: Draw,
    pub(super) marks: Marks,
    pub(super) trace: Trace,
    events: BinaryHeap<Reverse<(Time, u64, DatagramEvent)>>,
    queued: u64,
    sources: Vec<Source>,
    unsent: usize,
    under_way: Vec<Option<Datagram>>,
    pub(super) sockets: Vec<KernelSocket>,
    pub(super) threads: Vec<ThreadState>,
    pub(super) processes: Vec<Process>,
    /// An order that the next call of its kind carries out.
    pub(super) order_in_receive: Option<Order>,
    pub(super) order_in_send: Option<Order>,
    /// How far the wall clock is ahead of where it began.
    wall_offset: i64,
    last_wall: u64,
    clock_error: ClockError,
    /// When the machine last stood still.
    pub(super) resumed_at: Time,
    /// Datagrams that reached the sockets, that threads received, and that were in closed sockets.
    pub(super) arrived: u64,
    pub(super) received: u64,
    pub(super) unread: u64,
    pub(super) dropped: u64,
}

impl World {
    pub(super) fn new(seed: u64, told: bool) -> World {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x0064_6772_616d);
        let mut own = fastrand::Rng::with_seed(seed ^ 0x7365_676d_656e_7473);
        let draw = Draw::new(&mut rng, &mut own);
        let now = Time::from_nanos(draw.begun_ns);
        let mut world = World {
            now,
            begun: now,
            marks: Marks::default(),
            trace: Trace::new(told),
            events: BinaryHeap::new(),
            queued: 0,
            sources: Vec::new(),
            unsent: draw.datagrams,
            under_way: Vec::new(),
            sockets: Vec::new(),
            threads: Vec::new(),
            processes: Vec::new(),
            order_in_receive: None,
            order_in_send: None,
            wall_offset: rng.i64(0..1_000_000_000_000),
            last_wall: 0,
            clock_error: ClockError { is_synchronized: false, error_ns: 16_000_000_000 },
            resumed_at: now,
            arrived: 0,
            received: 0,
            unread: 0,
            dropped: 0,
            rng,
            draw,
        };
        let text = format!("{:?}", world.draw);
        world.event(1, 0, 0, || text);
        for _ in 0..world.draw.threads {
            let dropped = world.draw.dropped_before;
            world.sockets.push(KernelSocket { dropped, ..KernelSocket::default() });
        }
        for number in 0..world.draw.sources {
            world.add_source(number);
        }
        world
    }

    /// A thread begins, and counts from here on what its socket drops.
    pub(super) fn begins(&mut self, thread: usize) {
        self.threads[thread].model.dropped = self.dropped_at(thread);
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        self.marks.hit(mark);
    }

    pub(super) fn chance(&mut self, rate: u32) -> bool {
        rate > 0 && self.rng.u32(0..1_000_000) < rate
    }

    pub(super) fn one_in(&mut self, count: u32) -> bool {
        self.rng.u32(0..count) == 0
    }

    /// Adds an event to the hash, and to the trace if one is recorded.
    pub(super) fn event(
        &mut self,
        code: u64,
        who: usize,
        what: u64,
        text: impl FnOnce() -> String,
    ) {
        let since = self.now - self.begun;
        self.trace.event(self.now, since, [code, who as u64, what], text);
    }

    pub(super) fn at(&mut self, time: Time, event: DatagramEvent) {
        self.queued += 1;
        self.events.push(Reverse((time, self.queued, event)));
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.events.peek().map(|Reverse((time, _, _))| *time)
    }

    /// The next event that is due.
    pub(super) fn pop(&mut self) -> Option<DatagramEvent> {
        if self.next()? > self.now {
            return None;
        }
        self.events.pop().map(|Reverse((_, _, event))| event)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.rng.u64(0..=most.as_nanos() as u64))
    }

    fn add_source(&mut self, number: usize) {
        let address = self.draw_address(number);
        let socket = self.rng.usize(0..self.sockets.len());
        let session = self.rng.u16(0..3);
        self.sources.push(Source { address, session, sent: 0, arrived: 0, socket, length: None });
        let begins = self.now + self.up_to(self.draw.pause_max.min(Duration::from_secs(1)));
        self.at(begins, DatagramEvent::Source(number));
    }

    /// The address of a source. Several have the same, or are in the same network.
    fn draw_address(&mut self, number: usize) -> SocketAddr {
        let port = match self.rng.u8(0..12) {
            0 => self.rng.u16(0..1024),
            1 => *self.rng.choice(&[7, 1_023, 2_049, self.draw.port]).expect("some"),
            2 => *self.rng.choice(&[1_024, 2_048, 2_050, 65_535]).expect("some"),
            _ => self.rng.u16(1_024..),
        };
        let host = self.rng.usize(0..=number) as u16;
        if self.is_v4() {
            let ip = Ipv4Addr::new(198, 51, (100 + host / 256) as u8, host as u8);
            return match self.draw.family {
                Family::V4 => (ip, port).into(),
                _ => (ip.to_ipv6_mapped(), port).into(),
            };
        }
        let net = self.rng.u16(0..=host);
        match self.rng.u8(0..6) {
            0 => {
                let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host);
                SocketAddrV6::new(ip, port, 0, 3).into()
            }
            _ => (Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, host), port).into(),
        }
    }

    fn is_v4(&mut self) -> bool {
        match self.draw.family {
            Family::V4 => true,
            Family::V6 => false,
            Family::Both => self.rng.bool(),
        }
    }

    /// A source sends a burst, and later the next one.
    pub(super) fn source_sends(&mut self, number: usize) {
        let burst = self.rng.usize(1..=self.draw.burst_max).min(self.unsent);
        self.unsent -= burst;
        if self.draw.has_one_length {
            self.sources[number].length = Some(self.draw_length());
        }
        for nth in 0..burst {
            if nth + 1 == burst
                && let Some(length) = &mut self.sources[number].length
            {
                *length = self.rng.usize(0..=*length);
            }
            self.send_from(number);
        }
        if self.unsent > 0 {
            let later = self.now + self.up_to(self.draw.pause_max);
            self.at(later, DatagramEvent::Source(number));
        }
    }

    fn send_from(&mut self, number: usize) {
        let datagram = self.draw_datagram(number);
        let (length, rates) = (datagram.bytes.len(), self.draw.rates);
        self.event(2, number, length as u64, || format!("source {number} sends {length} bytes"));
        if self.chance(rates.lost) {
            return self.mark(Mark::DatagramLost);
        }
        let copies = if self.chance(rates.doubled) { 2 } else { 1 };
        if copies > 1 {
            self.mark(Mark::DatagramDoubled);
        }
        for _ in 0..copies {
            let arrives = self.now + self.up_to(self.draw.delay_max);
            self.under_way.push(Some(datagram.clone()));
            self.at(arrives, DatagramEvent::Arrival(self.under_way.len() - 1));
        }
    }

    fn draw_datagram(&mut self, number: usize) -> Datagram {
        let bytes = self.draw_bytes(number);
        let source = &mut self.sources[number];
        source.sent += 1;
        let (sent, address) = (source.sent, source.address);
        let is_v4 = address.ip().to_canonical().is_ipv4();
        let host = self.rng.u8(1..=2);
        let local = match is_v4 {
            true => Ipv4Addr::new(192, 0, 2, host).into(),
            false => Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, host.into()).into(),
        };
        let to_many = self.one_in(12);
        let group = to_many.then(|| match (is_v4, self.rng.bool()) {
            (true, true) => Ipv4Addr::new(192, 0, 2, 255).into(),
            (true, false) => Ipv4Addr::new(224, 0, 0, 1).into(),
            (false, _) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        });
        let hop_limit = if self.one_in(20) { None } else { Some(self.rng.u8(..)) };
        Datagram {
            number: sent,
            source: address,
            local,
            group,
            bytes,
            hop_limit,
            has_name: true,
            at: self.now,
            unix_ns: None,
            dropped: 0,
        }
    }

    fn draw_bytes(&mut self, number: usize) -> Arc<[u8]> {
        let longest = self.draw.longest;
        if matches!(self.draw.serves, Serves::Stamp { .. }) {
            let session = self.sources[number].session;
            return packets::request(&mut self.rng, longest, session).into();
        }
        let length = self.sources[number].length.unwrap_or_else(|| self.draw_length());
        let mut bytes = vec![0; length];
        self.rng.fill(&mut bytes);
        bytes.into()
    }

    fn draw_length(&mut self) -> usize {
        let longest = self.draw.longest;
        let length = match self.rng.u8(0..8) {
            0 => 0,
            1 => 1,
            2 => longest,
            3 => longest + 1,
            4 => self.rng.usize(0..=longest),
            5 if longest > 10_000 => 65_507,
            _ => self.rng.usize(0..=100),
        };
        // A datagram of the largest size has no room for more, except over IPv6.
        length.min(65_527)
    }

    /// A datagram arrives at the machine, and goes to a socket if the kernel takes it.
    pub(super) fn arrives(&mut self, at: usize) {
        let Some(mut datagram) = self.under_way[at].take() else { return };
        let source = self.sources.iter_mut().find(|one| one.address == datagram.source);
        let source = source.expect("who sends it is there");
        let (socket, is_late) = (source.socket, datagram.number < source.arrived);
        source.arrived = source.arrived.max(datagram.number);
        if is_late {
            self.mark(Mark::DatagramReordered);
        }
        self.arrived += 1;
        if self.sockets[socket].descriptors == 0 {
            self.unread += 1;
            return;
        }
        if self.chance(self.draw.rates.corrupted) {
            self.mark(Mark::DatagramCorrupted);
            return self.drops(socket);
        }
        if self.sockets[socket].queue.len() >= self.draw.room {
            self.mark(Mark::DatagramOverflow);
            return self.drops(socket);
        }
        datagram.at = self.now;
        // Nothing from nobody is what a socket that is shut down receives.
        let is_empty = datagram.bytes.is_empty();
        datagram.has_name = is_empty || !self.chance(self.draw.rates.nameless);
        if matches!(self.draw.serves, Serves::Stamp { .. }) && !self.one_in(20) {
            datagram.unix_ns = Some(self.wall());
        }
        datagram.dropped = self.sockets[socket].dropped;
        self.sockets[socket].queue.push_back(datagram);
    }

    fn drops(&mut self, socket: usize) {
        self.dropped += 1;
        let dropped = &mut self.sockets[socket].dropped;
        *dropped = dropped.wrapping_add(1);
        let dropped = *dropped;
        self.event(4, socket, dropped.into(), || format!("socket {socket} drops a datagram"));
    }

    /// The wall clock.
    pub(super) fn wall(&mut self) -> u64 {
        let time = (UNIX_NS + (self.now - self.begun).as_nanos() as u64)
            .wrapping_add_signed(self.wall_offset);
        if time < self.last_wall {
            self.mark(Mark::DatagramClockBack);
        }
        self.last_wall = time;
        time
    }

    /// A service reads the wall clock, which takes a moment and may be set meanwhile.
    pub(super) fn read_wall_clock(&mut self, thread: usize) -> u64 {
        self.wall_offset += self.rng.i64(0..1_000);
        if self.chance(self.draw.rates.clock_set) {
            // With one set, which session's place a new one gets would depend on which are over.
            let least = if self.draw.has_one_set { 0 } else { -100_000_000_000 };
            self.wall_offset += self.rng.i64(least..=100_000_000_000);
            self.clock_error = ClockError {
                is_synchronized: self.rng.bool(),
                error_ns: *self
                    .rng
                    .choice(&[0, 1, 999, 123_456_789, 16_000_000_000])
                    .expect("some"),
            };
        }
        let time = self.wall();
        self.threads[thread].turn.wall.push_back(time);
        time
    }

    pub(super) fn read_clock_error(&mut self, thread: usize) -> ClockError {
        self.threads[thread].turn.errors.push_back(self.clock_error);
        self.mark(Mark::DatagramClockError);
        self.clock_error
    }

    /// The time, as a thread that was interrupted between two instructions has read it.
    pub(super) fn now_of(&mut self, thread: usize) -> Time {
        let behind = self.up_to(self.draw.behind_max);
        let state = &mut self.threads[thread];
        let time = self.now.saturating_sub(behind).max(state.last_now).max(self.begun);
        state.last_now = time;
        state.turn.now = Some(time);
        time
    }

    pub(super) fn pauses(&mut self, thread: usize, time: Duration) {
        let state = &mut self.threads[thread];
        state.turn.paused += time;
        state.paused_until = self.now + time;
    }

    /// A thread opens its socket.
    pub(super) fn add_thread(&mut self, process: usize, socket: usize) -> usize {
        self.sockets[socket].descriptors += 1;
        let model = Model::new(self.draw.serves);
        self.threads.push(ThreadState {
            process,
            socket,
            turn: Turn::default(),
            model,
            paused_until: self.now,
            last_now: Time::ZERO,
            has_ended: false,
            turns_after_end: 0,
        });
        self.threads.len() - 1
    }

    pub(super) fn shut_down(&mut self, thread: usize) {
        let state = &self.threads[thread];
        let process = &self.processes[state.process];
        assert!(process.has_begun && !process.leaves, "the socket is another process's");
        let socket = state.socket;
        self.sockets[socket].is_shut = true;
    }

    /// What a socket has dropped in its life.
    pub(super) fn dropped_at(&self, thread: usize) -> u32 {
        self.sockets[self.threads[thread].socket].dropped
    }

    /// A thread closes its descriptor. What waits in a socket without descriptors is lost.
    pub(super) fn close(&mut self, thread: usize) {
        let socket = &mut self.sockets[self.threads[thread].socket];
        socket.descriptors -= 1;
        if socket.descriptors == 0 {
            let left = socket.queue.len() as u64;
            socket.queue.clear();
            self.unread += left;
            if left > 0 {
                self.mark(Mark::DatagramUnread);
            }
        }
    }

    pub(super) fn are_closed(&self) -> bool {
        self.sockets.iter().all(|socket| socket.descriptors == 0)
    }

    /// Whether a thread has something to do.
    pub(super) fn is_runnable(&self, thread: usize) -> bool {
        let state = &self.threads[thread];
        let process = &self.processes[state.process];
        if state.has_ended || state.paused_until > self.now {
            return false;
        }
        let socket = &self.sockets[state.socket];
        let is_to_hear = self.order_in_receive.is_some_and(|one| one.process == state.process);
        let has_cause = !socket.queue.is_empty() || socket.is_shut || is_to_hear;
        process.is_told || process.has_begun && has_cause
    }

    /// Whether a thread polls.
    pub(super) fn may_poll(&self, thread: usize) -> bool {
        let state = &self.threads[thread];
        let has_begun = self.processes[state.process].has_begun;
        has_begun && !state.has_ended && state.paused_until <= self.now
    }

    /// The machine stands still, now and then.
    pub(super) fn suspend(&mut self) -> Option<Time> {
        if !self.chance(self.draw.rates.suspended) {
            return None;
        }
        self.mark(Mark::DatagramSuspended);
        let span = match self.rng.u8(0..3) {
            0 => Duration::from_millis(self.rng.u64(1..100)),
            1 => Duration::from_secs(self.rng.u64(1..10)),
            _ => Duration::from_secs(self.rng.u64(55..90)),
        };
        Some(self.now + span)
    }
}
