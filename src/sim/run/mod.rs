//! Runs one seed, from the first turn to the end, and decides what runs when.
//!
//! * `draw`: what the seed draws, and the servers, peers and clients made from it
//! * `checks`: what must hold after every step, when idle, and at the end
//! * `upgrade`: other processes, which take over from the first one at any step
//! * `records`: what must hold for peers of the stand-in for TLS
//! * `introductions`: what must hold for peers that begin with a header of the PROXY protocol

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::client;
use super::datagram;
use super::engine::SimEngine;
use super::external::External;
use super::marks::{Mark, Seam};
use super::peer::Peer;
use super::protocol::Served;
use super::report::{Report, report_of};
use super::seat::{Seat, wants_turn};
use super::service::{Clients, Seen, Watched, Whims};
use super::sys::{SimSys, Woken};
use super::wire::Framing;
use super::world::{ListenerId, SharedWorld, World, WorldEvent};
use crate::base::time::Time;
use crate::buffer::Pool;
use crate::engine::MioEngine;
use crate::shared::counters::Counters;
use crate::shared::mailbox::EndOrder;
use crate::worker::layer::{ByListener, Layer, Plain};
use crate::worker::supply::patience;
use crate::worker::{Rules, Worker};

mod checks;
mod draw;
mod introductions;
mod records;
mod upgrade;

use draw::Draw;
use upgrade::{Process, Upgrades};

/// Faults end after this time. Then all peers have to finish.
const HEALED_AFTER: Duration = Duration::from_secs(15);
/// Honest peers give up this long after the faults end: a service may hold their bytes forever.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long a server with a byte layer waits for a header.
pub(super) const OPENING_TIMEOUT: Duration = Duration::from_secs(3);
/// Time given to a drain, unless the seed draws a time that is too short.
const DRAIN: Duration = Duration::from_secs(10);
/// Longest time until a server that receives nothing notices that its clients have left: more than
/// the longest linger.
const FAREWELL: Duration = Duration::from_secs(10);
/// A seed that runs longer than this has failed.
const END: Duration = Duration::from_secs(120);
/// More steps than any seed needs. A seed that takes more spins.
const STEPS_MAX: u64 = 300_000;

/// Runs one seed on a seam. Records a trace if `told`.
pub fn run(seed: u64, seam: Seam, told: bool) -> Report {
    match seam {
        Seam::Readiness => run_on::<MioEngine<SimSys>>(seed, told),
        Seam::Completion => run_on::<SimEngine>(seed, told),
        Seam::Client => client::run(seed, told),
        Seam::Datagram => datagram::run(seed, told),
    }
}

fn run_on<E: Seat>(seed: u64, told: bool) -> Report {
    let framings = Framing::draw(seed);
    match framings.is_empty() {
        true => run_with::<E, _>(seed, told, framings, |_| Plain),
        false => run_with::<E, _>(seed, told, framings, layers),
    }
}

/// The byte layers of the servers in some seeds.
fn layers(framings: &[Framing]) -> ByListener {
    Framing::layers(framings, OPENING_TIMEOUT)
}

fn run_with<E: Seat, L: Layer>(
    seed: u64,
    told: bool,
    framings: Vec<Framing>,
    layer: impl Fn(&[Framing]) -> L + 'static,
) -> Report {
    let world = World::drawn(seed, told);
    world.borrow_mut().framings = framings;
    // Drawn separately, as the layer is.
    let with_messages = fastrand::Rng::with_seed(seed ^ 0x006d_7367).u8(0..4) == 0;
    world.borrow_mut().messages = with_messages.then_some(seed);
    report_of(&world.clone(), || Simulation::<E, L>::new(world, layer).run())
}

/// A world with servers and clients in it.
struct Simulation<E: Seat, L: Layer> {
    world: SharedWorld,
    drawn: Rc<Draw>,
    /// Makes the byte layer of a worker.
    layer: Box<dyn Fn() -> L>,
    /// The workers of all processes.
    servers: Vec<Server<E, L>>,
    /// The first one, and those that took over, or were to.
    processes: Vec<Process>,
    upgrades: Upgrades,
    clients: Option<ClientSide<E>>,
    peers: Vec<Peer>,
    seen: Rc<RefCell<Seen>>,
    buffers: usize,
    buffer_size: usize,
    external: Rc<RefCell<Option<External>>>,
    served: Served,
    /// A receive may report that no buffer is free although one is.
    late_buffers: bool,
    begun: Time,
    ending: Ending,
    /// When the drain or stop was ordered.
    ended_at: Option<Time>,
    healed: bool,
    suspended_at: Option<Time>,
    /// From when until when the process was suspended, each time.
    suspensions: Vec<(Time, Time)>,
    /// Those of them at whose begin a connection might be shed. It still may be right after, if the
    /// worker has not looked at the sockets again.
    shed_across: Vec<(Time, Time)>,
    /// When all clients had left, or bytes that they had left behind were last received.
    left_at: Option<Time>,
    /// How many bytes were received by then.
    received: u64,
    rules: Rules,
    whims: Whims,
    timers_checked: usize,
    reconnects: usize,
    /// Since when each connection waits for a buffer, by its process and ticket.
    waits: HashMap<(usize, u64), Time>,
    /// Peers whose bytes were deliberately held back when honest peers gave up.
    held_back: HashSet<usize>,
    moved: bool,
}

struct Server<E: Seat, L: Layer> {
    process: usize,
    /// Its number in its process.
    index: usize,
    listeners: Vec<ListenerId>,
    worker: Option<Worker<E, Watched, L>>,
    woken: Arc<Woken>,
    pool: Pool,
    counters: Arc<Counters>,
    cut: u64,
}

struct ClientSide<E: Seat> {
    worker: Option<Worker<E, Clients>>,
    woken: Arc<Woken>,
    done: Option<Clients>,
}

/// How the server is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// Drained after all clients have left.
    Quiet,
    /// Drained at this time, even if clients are connected.
    Drain(Time),
    /// Stopped at this time.
    Stop(Time),
}

impl<E: Seat, L: Layer> Simulation<E, L> {
    /// Runs to the end.
    ///
    /// # Panics
    /// If a check fails. The caller turns the panic into a [`Report`].
    fn run(mut self) {
        for step in 0.. {
            assert!(step < STEPS_MAX, "the seed spins: {}", self.describe_workers());
            self.handle_due_events();
            self.upgrade_when_it_is_time();
            self.end_when_it_is_time();
            if self.is_over() {
                break;
            }
            match self.pick() {
                Some(Pick::Server(index)) => self.turn_server(index),
                Some(Pick::Clients) => self.turn_clients(),
                None => self.advance_time(),
            }
            self.settle_moves();
            self.check();
        }
        self.check_end();
    }

    /// Handles events that are due: some of them, or all.
    fn handle_due_events(&mut self) {
        loop {
            let event = self.world.borrow_mut().pop();
            match event {
                None => return,
                Some(WorldEvent::Peer(number)) => self.peer_acts(number),
                Some(WorldEvent::External) => self.external_acts(),
                Some(other) => self.world.borrow_mut().handle_event(other),
            }
            // Sometimes leave the rest until after a worker's turn.
            if self.world.borrow_mut().rng.u8(0..4) == 0 {
                return;
            }
        }
    }

    fn peer_acts(&mut self, number: usize) {
        let mut world = self.world.borrow_mut();
        self.peers[number].act(&mut world);
        let peer = &self.peers[number];
        let again = peer.end.is_some() && peer.is_satisfied() && self.reconnects < 6;
        // No new peers after the faults end.
        if again && !self.healed && world.rng.u8(0..3) == 0 {
            self.reconnects += 1;
            world.mark(Mark::Reconnected);
            let (number, total) = (self.peers.len(), world.rng.usize(0..=300));
            let peer = self.new_peer(&mut world, number, total);
            self.peers.push(peer);
            world.after_up_to(Duration::from_millis(50), WorldEvent::Peer(number));
        }
    }

    fn external_acts(&mut self) {
        let mut external = self.external.borrow_mut();
        let Some(external) = &mut *external else { return };
        if self.healed || self.ended_at.is_some() {
            return;
        }
        let mut world = self.world.borrow_mut();
        external.act(&mut world, &self.seen, self.buffer_size);
        world.after_up_to(external.pause_max, WorldEvent::External);
    }

    fn pick(&mut self) -> Option<Pick> {
        let now = self.world.borrow().now;
        let mut runnable = Vec::new();
        for (index, server) in self.servers.iter().enumerate() {
            if server.worker.as_ref().is_some_and(|worker| wants_turn(worker, &server.woken, now)) {
                runnable.push(Pick::Server(index));
            }
        }
        if let Some(side) = &self.clients
            && side.worker.as_ref().is_some_and(|worker| wants_turn(worker, &side.woken, now))
        {
            runnable.push(Pick::Clients);
        }
        self.world.borrow_mut().rng.choice(runnable)
    }

    fn turn_server(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let process = &self.processes[server.process];
        let worker = server.worker.as_mut().expect("it was picked because it is there");
        let queue = |worker: &Worker<E, Watched, L>| {
            let waiting = worker.waiting().into_iter();
            waiting.map(|key| (key, worker.phase(key))).collect::<Vec<_>>()
        };
        let before = (queue(worker), server.counters.read().waits_for_buffer);
        let parcels = process.mailboxes.count(server.index);
        let (shed, now) = (worker.being_shed(), self.world.borrow().now);
        // Whether anybody has waited for long enough that a connection may be shed.
        let is_needed = self.rules.shed_after.is_some_and(|after| {
            process.reserve.board().has_waited_since(now.saturating_sub(after))
        });
        worker.turn().expect("the world's waits do not fail");
        let sheds = worker.being_shed();
        assert!(sheds <= 1, "worker {index} sheds {sheds} connections at once");
        assert!(sheds <= shed || is_needed, "worker {index} sheds a connection for nobody");
        if worker.delivers() {
            self.world.borrow_mut().mark(Mark::DeliveryInterrupted);
        }
        let messages = worker.messages_per_turn_max(self.buffer_size);
        let enqueued = server.counters.read().waits_for_buffer - before.1;
        if enqueued == 0 {
            Self::check_order(&before.0, worker);
        }
        if worker.is_finished() {
            let worker = server.worker.take().expect("it has just run");
            server.cut = worker.end(drop).1;
        }
        self.check_turn(parcels, messages);
    }

    fn turn_clients(&mut self) {
        let side = self.clients.as_mut().expect("they were picked");
        let worker = side.worker.as_mut().expect("they were picked");
        worker.turn().expect("the world's waits do not fail");
        if worker.is_finished() {
            let worker = side.worker.take().expect("it has just run");
            side.done = Some(worker.end(|clients| clients).0);
        }
    }

    /// Nothing can run now: advances the clock to the next event or deadline.
    fn advance_time(&mut self) {
        self.check_rest();
        let mut world = self.world.borrow_mut();
        let servers = self.servers.iter().filter_map(|server| server.worker.as_ref()?.deadline());
        let clients =
            self.clients.as_ref().and_then(|side| side.worker.as_ref()).and_then(Worker::deadline);
        let own = [self.next_ending(world.now), Some(self.begun + END)].into_iter().flatten();
        let own = own.chain(self.upgrades.next());
        let next = servers.chain(clients).chain(world.next()).chain(own).min();
        let next = next.expect("the end of the seed is always ahead").max(world.now);
        assert!(next < self.begun + END, "not over after {END:?}: {}", self.describe_rest());
        world.now = next;
        // Sometimes the process is stopped for a while.
        if !self.healed && world.rng.u16(0..2000) == 0 {
            let span = Duration::from_millis(world.rng.u64(1..4000));
            drop(world);
            self.suspend(span);
        }
    }

    /// No other thread sends anything more.
    fn calm_down(&mut self) {
        if let Some(external) = &mut *self.external.borrow_mut() {
            external.calm_down();
        }
    }

    /// Whether a connection has not moved for long enough that it may be shed.
    fn may_shed(&self, now: Time) -> bool {
        let Some(after) = self.rules.shed_after else { return false };
        self.living().any(|(_, process)| {
            let longest = process.reserve.board().longest_stalled();
            longest.is_some_and(|(_, stall)| stall.since + patience(after) <= now)
        })
    }

    /// The process stands still, while its peers go on.
    fn suspend(&mut self, span: Duration) {
        let from = self.world.borrow().now;
        let until = self.world.borrow_mut().suspend(span);
        self.suspensions.push((from, until));
        self.suspended_at = Some(until);
        if self.may_shed(from) {
            self.shed_across.push((from, until));
        }
        loop {
            let event = self.world.borrow_mut().pop_until(until);
            let Some(event) = event else { break };
            match event {
                WorldEvent::Peer(number) => self.peer_acts(number),
                WorldEvent::External => self.world.borrow_mut().at(until, event),
                other => self.world.borrow_mut().handle_event(other),
            }
        }
        self.world.borrow_mut().resume(until);
    }

    fn next_ending(&self, now: Time) -> Option<Time> {
        let heals = (!self.healed).then(|| self.begun + HEALED_AFTER);
        let ends = match self.ending {
            _ if self.ended_at.is_some() => None,
            Ending::Drain(at) | Ending::Stop(at) => Some(at),
            Ending::Quiet => self.left_at.map(|at| at + FAREWELL),
        };
        let patience = (!self.everybody_left()).then(|| self.begun + HEALED_AFTER + PATIENCE);
        [heals, ends, patience].into_iter().flatten().filter(|&at| at > now).min()
    }

    fn end_when_it_is_time(&mut self) {
        let now = self.world.borrow().now;
        if !self.healed && now >= self.begun + HEALED_AFTER {
            self.healed = true;
            self.calm_down();
            self.world.borrow_mut().rates.heal();
        }
        if now >= self.begun + HEALED_AFTER + PATIENCE {
            let seen = self.seen.borrow();
            let holding = seen.of_peer.iter().filter(|(_, sight)| sight.open && sight.holding);
            self.held_back.extend(holding.map(|(&number, _)| number));
            drop(seen);
            for peer in &mut self.peers {
                peer.give_up(&mut self.world.borrow_mut());
            }
        }
        if self.ended_at.is_some() {
            return;
        }
        let (due, stop) = match self.ending {
            Ending::Drain(at) => (now >= at, false),
            Ending::Stop(at) => (now >= at, true),
            Ending::Quiet => (self.farewell_is_over(now), false),
        };
        if !due {
            return;
        }
        self.ended_at = Some(now);
        self.calm_down();
        let loaded = self.permits_taken() > 0;
        if loaded {
            let mark = if stop { Mark::StopUnderLoad } else { Mark::DrainUnderLoad };
            self.world.borrow_mut().mark(mark);
        }
        self.world.borrow_mut().trace(51, 0, u64::from(stop), || {
            if stop { "the server is stopped".into() } else { "the server is drained".into() }
        });
        self.world.borrow_mut().cut_from = now;
        let hurried = self.ending != Ending::Quiet && self.world.borrow_mut().rng.u8(0..4) == 0;
        let deadline = now + if hurried { DRAIN / 1000 } else { DRAIN };
        if !stop {
            self.world.borrow_mut().cut_from = deadline;
        }
        self.end_processes(if stop { EndOrder::Stop } else { EndOrder::Drain { deadline } });
    }

    /// Whether all clients have left and the server has noticed it.
    fn farewell_is_over(&mut self, now: Time) -> bool {
        if !self.everybody_left() {
            return false;
        }
        // A service that pauses may take long for what its clients have left behind, but it goes on.
        let received = self.servers.iter().map(|server| {
            let counts = server.counters.read();
            counts.bytes_received + counts.bytes_discarded
        });
        let received = received.sum();
        if self.left_at.is_none() || received > self.received {
            (self.left_at, self.received) = (Some(now), received);
        }
        let left_at = self.left_at.expect("it was set");
        let still_there = self.permits_taken();
        let over = still_there == 0 || now >= left_at + FAREWELL;
        assert!(
            !over || still_there == 0 || self.may_wait_for_ever(),
            "{still_there} connections are open although their clients have left, and nothing was \
             received for {FAREWELL:?}"
        );
        over
    }

    fn everybody_left(&self) -> bool {
        self.peers.iter().all(|peer| peer.end.is_some())
            && self.clients.as_ref().is_none_or(|side| side.worker.is_none())
    }

    fn is_over(&self) -> bool {
        self.servers.iter().all(|server| server.worker.is_none())
            && self.upgrades.have_arrived()
            && self.everybody_left()
    }

    fn describe_workers(&self) -> String {
        let now = self.world.borrow().now;
        let of = |server: &Server<E, L>| {
            let worker = server.worker.as_ref()?;
            let deadline = worker.deadline().map(|deadline| deadline.as_nanos() as i128);
            let late = deadline.map(|deadline| now.as_nanos() as i128 - deadline);
            Some((server.woken.is_set(), worker.engine().is_ready(), late, worker.open()))
        };
        let wants: Vec<_> = self.servers.iter().map(of).collect();
        let clients = self.clients.as_ref().and_then(|side| side.worker.as_ref()).map(|worker| {
            let late = worker.deadline().map(|at| now.as_nanos() as i128 - at.as_nanos() as i128);
            (worker.engine().is_ready(), late, worker.open(), worker.is_finished())
        });
        let left = self.describe_rest();
        format!("woken, ready, late by, connections: {wants:?}; clients {clients:?}; {left}")
    }

    fn describe_rest(&self) -> String {
        let peers: Vec<_> = self
            .peers
            .iter()
            .filter(|peer| peer.end.is_none())
            .map(|peer| (peer.number, peer.manner, peer.sent, peer.reader.reply))
            .collect();
        let servers = self.servers.iter().filter(|server| server.worker.is_some()).count();
        format!("{servers} servers, peers {peers:?}")
    }
}

#[derive(Clone, Copy, Debug)]
enum Pick {
    Server(usize),
    Clients,
}
