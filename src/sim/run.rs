//! One seed: what it draws, who runs when, and what is checked after every step.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::audit;
use super::ear::OUTSIDE_MIN;
use super::engine::SimEngine;
use super::marks::{Mark, Marks};
use super::outside::Outside;
use super::peer::{End, Manner, Peer, STUCK_AFTER};
use super::protocol::{Script, Served};
use super::service::{Clients, Seen, Sight, Watched, Whims};
use super::sys::{SimSys, Woken};
use super::world::{Handle, Happening, Rates, Shared, What, World};
use crate::buffer::{Pool, Reserve};
use crate::clients::Directory;
use crate::config::Limits;
use crate::crew::{Command, Mailboxes};
use crate::engine::{Engine, MioEngine};
use crate::error::CloseReason;
use crate::permits::Permits;
use crate::service::{ConnectionId, OfListener, Service};
use crate::stats::{Counters, Stats};
use crate::time::Time;
use crate::worker::{Rules, Setup, Worker};

/// Which seam the world stands under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seam {
    /// Under `Sys`: the real readiness engine runs in it.
    Readiness,
    /// Under `Engine`: completions, as io_uring gives them.
    Completion,
}

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    /// What was wrong, if anything was.
    pub failure: Option<String>,
    /// Of everything that happened, in order: the same for the same seed.
    pub hash: u64,
    /// What happened how often.
    pub marks: Marks,
    /// How long it was in the world.
    pub simulated: Duration,
    /// The story, if it was asked for.
    pub story: Vec<String>,
}

/// Faults end after this time; then everybody has to come to an end.
const HEALED_AFTER: Duration = Duration::from_secs(15);
/// Honest peers lose patience after this time: a service may hold their bytes for ever.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long a drain may take, if it is not given less than it needs.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a server may take to see that its clients have left: the longest linger, and more.
const FAREWELL: Duration = Duration::from_secs(10);
/// How much later than `shed_after` somebody is shed, at most: another worker is asked to, and
/// asked again.
const SHED_LATE_MAX: Duration = Duration::from_millis(100);
/// A client that is accepted has its first reply after this time, faults being over.
const TURN_TAKES: Duration = Duration::from_secs(1);
/// When a seed that has not come to its end has failed.
const END: Duration = Duration::from_secs(120);
/// More turns than any seed needs: one that goes past it spins.
const STEPS_MAX: u64 = 300_000;
/// The wheel's tick, and the tick that a timer is rounded up by.
const TIMER_LATE_MAX: Duration = Duration::from_millis(2);

/// Runs one seed.
pub fn run(seed: u64, seam: Seam, told: bool) -> Report {
    match seam {
        Seam::Readiness => run_with::<MioEngine<SimSys>>(seed, told),
        Seam::Completion => run_with::<SimEngine>(seed, told),
    }
}

fn run_with<E: Seat>(seed: u64, told: bool) -> Report {
    let world = World::drawn(seed, told);
    let begun = world.borrow().now;
    let result = catch_unwind(AssertUnwindSafe(|| Simulation::<E>::new(world.clone()).run()));
    let failure = match result {
        Ok(()) => None,
        Err(panic) => Some(text_of(&*panic)),
    };
    let Ok(mut world) = world.try_borrow_mut() else {
        unreachable!("a borrow ends with the panic that it was held in")
    };
    let story = world.story.lines.take().unwrap_or_default();
    Report {
        failure,
        hash: world.story.hash(),
        marks: std::mem::take(&mut world.marks),
        simulated: world.now - begun,
        story,
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()))
        .unwrap_or_else(|| "a panic without words".to_string())
}

/// An engine that can be seated in the world.
pub(crate) trait Seat: Engine<Socket = Handle> {
    fn seat(parts: SeatParts) -> Self;

    /// Whether a poll would do something.
    fn is_ready(&self) -> bool;
}

/// What an engine in the world is made of.
pub(crate) struct SeatParts {
    pub(crate) world: Shared,
    pub(crate) worker: usize,
    pub(crate) woken: Arc<Woken>,
    pub(crate) slots: usize,
    pub(crate) pool: Pool,
    pub(crate) permits: Option<Arc<Permits>>,
    pub(crate) listeners: Vec<Handle>,
}

impl Seat for MioEngine<SimSys> {
    fn seat(parts: SeatParts) -> Self {
        let sys = SimSys::new(parts.world, parts.worker, parts.woken);
        MioEngine::new(sys, parts.slots, parts.pool, parts.permits, parts.listeners)
            .expect("listeners can be registered")
    }

    fn is_ready(&self) -> bool {
        self.has_cancelled() || self.sys().is_ready()
    }
}

impl Seat for SimEngine {
    fn seat(parts: SeatParts) -> Self {
        let SeatParts { world, worker, woken, pool, permits, listeners, .. } = parts;
        SimEngine::new(world, worker, woken, pool, permits, listeners)
    }

    fn is_ready(&self) -> bool {
        SimEngine::is_ready(self)
    }
}

impl World {
    /// A world with the rates and sizes of a seed. Each kind of fault is in some seeds only.
    fn drawn(seed: u64, told: bool) -> Shared {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        let mut rate = |in_how_many: u32, most: u32| {
            if rng.u32(0..in_how_many) == 0 { rng.u32(1..=most) } else { 0 }
        };
        let rates = Rates {
            late_readiness: rate(3, 300_000),
            spurious: rate(3, 200_000),
            duplicate: rate(3, 300_000),
            partial_batch: rate(3, 500_000),
            accept_error: rate(4, 300_000),
            register_error: rate(8, 100_000),
            recv_error: rate(5, 20_000),
            send_error: rate(5, 20_000),
            shutdown_error: rate(6, 200_000),
            connect_error: rate(4, 400_000),
            late_buffer: rate(3, 200_000),
            delay_max: Duration::from_micros(rng.u64(1..=5_000)),
            window: *rng.choice(&[1, 2, 7, 64, 500, 4096]).expect("there are some"),
            descriptors: if rng.u8(0..6) == 0 { rng.usize(1..=4) } else { usize::MAX },
            backlog: if rng.u8(0..4) == 0 { rng.usize(1..=2) } else { 64 },
        };
        let workers = rng.usize(1..=3);
        Rc::new(RefCell::new(World::new(seed, rates, workers, told)))
    }
}

/// A world with servers and clients in it.
struct Simulation<E: Seat> {
    world: Shared,
    servers: Vec<Server<E>>,
    clients: Option<ClientSide<E>>,
    peers: Vec<Peer>,
    seen: Rc<RefCell<Seen>>,
    reserve: Arc<Reserve>,
    buffers: usize,
    buffer_size: usize,
    permits: Arc<Permits>,
    directory: Arc<Directory>,
    mailboxes: Arc<Mailboxes>,
    outside: Option<Outside>,
    /// Commands that had no room in an inbox yet.
    unsent: Vec<(usize, Command)>,
    served: Served,
    connections: u64,
    /// A receive may say that there is no buffer though there is one.
    late_buffers: bool,
    begun: Time,
    ending: Ending,
    /// When the drain or stop was ordered.
    ended_at: Option<Time>,
    healed: bool,
    suspended_at: Option<Time>,
    /// When all clients were gone.
    left_at: Option<Time>,
    rules: Rules,
    whims: Whims,
    timers_checked: usize,
    reconnects: usize,
    /// Whose bytes were held back by whim when patience ended.
    held_back: HashSet<usize>,
    moved: bool,
}

struct Server<E: Seat> {
    worker: Option<Worker<E, Watched>>,
    woken: Arc<Woken>,
    pool: Pool,
    counters: Arc<Counters>,
    cut: u64,
    /// The first in the queue for buffers, how many have entered it, and since when both are so.
    queue: (Option<u64>, u64, Time),
}

struct ClientSide<E: Seat> {
    worker: Option<Worker<E, Clients>>,
    woken: Arc<Woken>,
    done: Option<Clients>,
}

/// How the server is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// Drained when everybody has gone.
    Quiet,
    /// Drained at this time, whoever is there.
    Drain(Time),
    /// Stopped at this time.
    Stop(Time),
}

/// What is drawn for the servers.
#[derive(Debug)]
struct Draw {
    connections: usize,
    buffers: u32,
    buffer_size: usize,
    served: Served,
    rules: Rules,
    whims: Whims,
}

fn draw(rng: &mut fastrand::Rng, workers: usize) -> Draw {
    let maybe = |rng: &mut fastrand::Rng, from: u64, to: u64| {
        rng.bool().then(|| Duration::from_millis(rng.u64(from..=to)))
    };
    let whim = |rng: &mut fastrand::Rng, in_how_many: u8, most: u32| {
        if rng.u8(0..in_how_many) == 0 { rng.u32(1..=most) } else { 0 }
    };
    let served = Served::draw(rng);
    let (buffers, buffer_size) = served.pool(rng);
    let busy = matches!(served, Served::Chargen | Served::Hub(_));
    Draw {
        connections: rng.usize(1..=8),
        buffers,
        buffer_size,
        served,
        rules: Rules {
            leases_per_connection_max: rng.u8(1..=4),
            idle_timeout: maybe(rng, 30, 3000),
            send_timeout: maybe(rng, 50, 3000),
            // Senders that wait for room hold all buffers of a hub for ever where nobody is shed.
            shed_after: maybe(rng, 5, 500)
                .or(served.is_hub().then_some(Duration::from_millis(200))),
            linger: Duration::from_millis(rng.u64(1..=2000)),
            accept_pause: Duration::from_millis(100 * workers as u64),
        },
        whims: Whims {
            panics: whim(rng, 6, 20_000),
            // These have times of their own that they wait for.
            waits: if busy { 0 } else { whim(rng, 3, 300_000) },
            holds: whim(rng, 4, 300_000),
            hoards: whim(rng, 6, 200_000),
            closes: whim(rng, 5, 50_000),
            stale_ids: whim(rng, 5, 100_000),
        },
    }
}

/// The service, once it has seen the limits.
fn service(drawn: &Draw) -> OfListener {
    let service = OfListener::new(vec![drawn.served.service()]);
    if drawn.served.is_hub() {
        let limits = Limits {
            listeners: 1,
            workers: 1,
            max_connections: drawn.connections as u32,
            buffer_size: drawn.buffer_size,
            buffers: drawn.buffers,
            leases_per_connection_max: drawn.rules.leases_per_connection_max,
            backlog: 1,
            idle_timeout: drawn.rules.idle_timeout,
            send_timeout: drawn.rules.send_timeout,
            shed_after: drawn.rules.shed_after,
            linger: drawn.rules.linger,
            share_port: false,
        };
        service.check(&limits).expect("the limits are drawn for it");
    }
    service
}

impl<E: Seat> Simulation<E> {
    fn new(world: Shared) -> Simulation<E> {
        let (workers, begun) = (world.borrow().workers, world.borrow().now);
        let drawn = draw(&mut world.borrow_mut().rng, workers);
        let inbox = *world.borrow_mut().rng.choice(&[1, 2, 4, 256]).expect("there are some");
        world
            .borrow_mut()
            .tell(52, inbox, 0, || format!("{workers} workers, inboxes of {inbox}, {drawn:?}"));
        let mailboxes = Arc::new(Mailboxes::with_room(workers, inbox));
        let permits = Permits::new(drawn.connections as u64, mailboxes.clone());
        let reserve = Reserve::new(drawn.buffer_size, drawn.buffers).expect("a few bytes");
        let seen = Rc::default();
        let late_buffers = world.borrow().rates.late_buffer > 0;
        world.borrow_mut().linger = drawn.rules.linger;
        let mut simulation = Simulation {
            servers: Vec::new(),
            clients: None,
            peers: Vec::new(),
            seen,
            reserve,
            buffers: drawn.buffers as usize,
            buffer_size: drawn.buffer_size,
            permits,
            directory: Directory::new(workers, drawn.connections),
            mailboxes,
            outside: None,
            unsent: Vec::new(),
            served: drawn.served,
            connections: drawn.connections as u64,
            late_buffers,
            begun,
            ending: Ending::Quiet,
            ended_at: None,
            healed: false,
            suspended_at: None,
            left_at: None,
            rules: drawn.rules.clone(),
            whims: drawn.whims,
            timers_checked: 0,
            reconnects: 0,
            held_back: HashSet::new(),
            moved: false,
            world,
        };
        let service = service(&drawn);
        for index in 0..workers {
            let server = simulation.server(index, &drawn, service.clone());
            simulation.servers.push(server);
        }
        simulation.people();
        simulation.clients = simulation.client_side(&drawn);
        simulation.outside = simulation.somebody_outside(&drawn);
        simulation.ending = simulation.draw_ending();
        simulation
    }

    fn server(&self, index: usize, drawn: &Draw, inner: OfListener) -> Server<E> {
        let woken = Arc::new(Woken::default());
        let references = inner.references_max(drawn.connections);
        let pool = Pool::with_references(self.reserve.clone(), index, references);
        let counters = Arc::new(Counters::default());
        let listener = self.world.borrow_mut().listen();
        let setup = Setup {
            index,
            connections_max: drawn.connections,
            listeners: 1,
            rules: drawn.rules.clone(),
            pool: pool.clone(),
            permits: Some(self.permits.clone()),
            mailboxes: self.mailboxes.clone(),
            counters: counters.clone(),
            directory: Some(self.directory.clone()),
        };
        let engine = E::seat(SeatParts {
            world: self.world.clone(),
            worker: index,
            woken: woken.clone(),
            slots: drawn.connections,
            pool: pool.clone(),
            permits: Some(self.permits.clone()),
            listeners: vec![Handle { world: self.world.clone(), what: What::Listener(listener) }],
        });
        let service = Watched {
            world: self.world.clone(),
            seen: self.seen.clone(),
            whims: drawn.whims,
            idle_timeout: drawn.rules.idle_timeout,
            gone: Vec::new(),
            wakes: drawn.served.is_hub() || drawn.served == Served::Chargen,
            inner,
        };
        let mut worker = Worker::new(engine, setup, service);
        worker.begin();
        let queue = (None, 0, self.begun);
        Server { worker: Some(worker), woken, pool, counters, cut: 0, queue }
    }

    /// The peers, most of them there from the first moments.
    fn people(&mut self) {
        let mut world = self.world.borrow_mut();
        for number in 0..world.rng.usize(1..=14) {
            let total = world.rng.usize(0..=1500);
            let peer = person(&mut world, &self.seen, self.served, number, total);
            self.peers.push(peer);
            world.after_up_to(Duration::from_secs(2), Happening::Peer(number));
        }
        let pool = self.buffers * self.buffer_size;
        if self.peers.iter().any(|peer| peer.script.borrow().longest() > pool) {
            world.mark(Mark::MessageBeyondPool);
        }
    }

    fn somebody_outside(&self, drawn: &Draw) -> Option<Outside> {
        let mut world = self.world.borrow_mut();
        // The clients on the engine know nothing of messages from outside.
        let fits = drawn.buffer_size >= OUTSIDE_MIN && self.clients.is_none();
        if !fits || world.rng.bool() {
            return None;
        }
        let pause_max = Duration::from_millis(world.rng.u64(1..=300));
        world.after_up_to(pause_max, Happening::Outside);
        let (mailboxes, reserve) = (self.mailboxes.clone(), self.reserve.clone());
        Some(Outside::new(mailboxes, self.directory.clone(), reserve, pause_max))
    }

    fn client_side(&self, drawn: &Draw) -> Option<ClientSide<E>> {
        let mut world = self.world.borrow_mut();
        if drawn.served != Served::Echo || world.rng.u8(0..3) != 0 {
            return None;
        }
        // More than there are slots, so that some connect in a slot that was used before.
        let (count, bytes) = (world.rng.usize(1..=8), world.rng.u64(1..=600));
        // Some give up before an answer can be there.
        let most_micros = if world.rng.u8(0..3) == 0 { 3_000 } else { 3_000_000 };
        let deadline = Duration::from_micros(world.rng.u64(500..=most_micros));
        let worker = world.workers;
        drop(world);
        let woken = Arc::new(Woken::default());
        let pool = Pool::new(Reserve::new(drawn.buffer_size, 16).expect("a few bytes"), 0);
        let setup = Setup {
            index: 0,
            connections_max: 4,
            listeners: 0,
            rules: Rules {
                // Short: they keep places that others wait for, one after the other.
                idle_timeout: Some(PATIENCE / 8),
                send_timeout: Some(PATIENCE / 8),
                ..drawn.rules.clone()
            },
            pool: pool.clone(),
            permits: None,
            mailboxes: Arc::new(Mailboxes::new(1)),
            counters: Arc::default(),
            directory: None,
        };
        let engine = E::seat(SeatParts {
            world: self.world.clone(),
            worker,
            woken: woken.clone(),
            slots: 4,
            pool,
            permits: None,
            listeners: Vec::new(),
        });
        let service = Clients {
            world: self.world.clone(),
            first_peer: FIRST_CLIENT,
            count,
            begun: 0,
            ended: 0,
            satisfied: 0,
            bytes,
            deadline,
        };
        let mut worker = Worker::new(engine, setup, service);
        worker.begin();
        Some(ClientSide { worker: Some(worker), woken, done: None })
    }

    fn draw_ending(&self) -> Ending {
        let mut world = self.world.borrow_mut();
        let at = world.now + Duration::from_millis(world.rng.u64(0..8_000));
        match world.rng.u8(0..6) {
            0 | 1 => Ending::Drain(at),
            2 => Ending::Stop(at),
            _ => Ending::Quiet,
        }
    }

    // Who runs when.

    /// Runs to the end.
    ///
    /// # Panics
    /// If something is wrong: that is the answer of a simulation.
    fn run(mut self) {
        for step in 0.. {
            assert!(step < STEPS_MAX, "it spins: {}", self.who_wants());
            self.people_act();
            self.end_when_it_is_time();
            self.send_unsent();
            if self.is_over() {
                break;
            }
            match self.pick() {
                Some(Pick::Server(index)) => self.turn_server(index),
                Some(Pick::Clients) => self.turn_clients(),
                None => self.let_time_pass(),
            }
            self.check();
        }
        self.check_end();
    }

    /// What has come about, some of it or all.
    fn people_act(&mut self) {
        loop {
            let happening = self.world.borrow_mut().pop();
            match happening {
                None => return,
                Some(Happening::Peer(number)) => self.peer_acts(number),
                Some(Happening::Outside) => self.outside_acts(),
                Some(other) => self.world.borrow_mut().happen(other),
            }
            // The rest after a worker's turn.
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
        // After the faults those who are there come to their end.
        if again && !self.healed && world.rng.u8(0..3) == 0 {
            self.reconnects += 1;
            world.mark(Mark::Reconnected);
            let (number, total) = (self.peers.len(), world.rng.usize(0..=300));
            let peer = person(&mut world, &self.seen, self.served, number, total);
            self.peers.push(peer);
            world.after_up_to(Duration::from_millis(50), Happening::Peer(number));
        }
    }

    fn outside_acts(&mut self) {
        let Some(outside) = &mut self.outside else { return };
        if self.healed || self.ended_at.is_some() {
            return;
        }
        let mut world = self.world.borrow_mut();
        outside.act(&mut world, &self.seen, self.buffer_size);
        world.after_up_to(outside.pause_max, Happening::Outside);
    }

    /// What had no room in an inbox is said again.
    fn send_unsent(&mut self) {
        for (worker, command) in std::mem::take(&mut self.unsent) {
            if let Err(command) = self.mailboxes.send(worker, command) {
                self.world.borrow_mut().mark(Mark::InboxFull);
                self.unsent.push((worker, command));
            }
        }
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
        let worker = server.worker.as_mut().expect("it was picked");
        let before = (worker.waiting(), server.counters.read().waits_for_buffer);
        worker.turn().expect("the world's waits do not fail");
        let enqueued = server.counters.read().waits_for_buffer - before.1;
        if enqueued == 0 {
            check_order(&before.0, worker);
        }
        if worker.is_finished() {
            let worker = server.worker.take().expect("it has just run");
            server.cut = worker.into_parts().1;
        }
    }

    fn turn_clients(&mut self) {
        let side = self.clients.as_mut().expect("they were picked");
        let worker = side.worker.as_mut().expect("they were picked");
        worker.turn().expect("the world's waits do not fail");
        if worker.is_finished() {
            let worker = side.worker.take().expect("it has just run");
            side.done = Some(worker.into_parts().0);
        }
    }

    /// Nothing can be done now: on to the next time at which something can.
    fn let_time_pass(&mut self) {
        self.check_rest();
        let mut world = self.world.borrow_mut();
        let servers = self.servers.iter().filter_map(|server| server.worker.as_ref()?.deadline());
        let clients =
            self.clients.as_ref().and_then(|side| side.worker.as_ref()).and_then(Worker::deadline);
        let own = [self.next_ending(world.now), Some(self.begun + END)].into_iter().flatten();
        let next = servers.chain(clients).chain(world.next()).chain(own).min();
        let next = next.expect("the end is always to come").max(world.now);
        assert!(next < self.begun + END, "not over after {END:?}: {}", self.who_is_left());
        world.now = next;
        // The machine sleeps, or the process is stopped for a while.
        if !self.healed && world.rng.u16(0..2000) == 0 {
            let span = Duration::from_millis(world.rng.u64(1..4000));
            world.mark(Mark::TimeSuspended);
            world.now = world.now + span;
            self.suspended_at = Some(world.now);
            world.tell(50, 0, span.as_nanos() as u64, || format!("suspended for {span:?}"));
        }
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
        let loaded = self.permits.taken() > 0;
        if loaded {
            let mark = if stop { Mark::StopUnderLoad } else { Mark::DrainUnderLoad };
            self.world.borrow_mut().mark(mark);
        }
        self.world.borrow_mut().tell(51, 0, u64::from(stop), || {
            if stop { "the server is stopped".into() } else { "the server is drained".into() }
        });
        self.world.borrow_mut().cut_from = now;
        let hurried = self.ending != Ending::Quiet && self.world.borrow_mut().rng.u8(0..4) == 0;
        let deadline = now + if hurried { DRAIN / 1000 } else { DRAIN };
        if !stop {
            self.world.borrow_mut().cut_from = deadline;
        }
        for worker in 0..self.servers.len() {
            let command = if stop { Command::Stop } else { Command::Drain { deadline } };
            self.unsent.push((worker, command));
        }
    }

    /// All clients have left, and the server has seen it.
    fn farewell_is_over(&mut self, now: Time) -> bool {
        if !self.everybody_left() {
            return false;
        }
        let left_at = *self.left_at.get_or_insert(now);
        let still_there = self.permits.taken();
        let over = still_there == 0 || now >= left_at + FAREWELL;
        assert!(
            !over || still_there == 0 || self.may_wait_for_ever(),
            "{still_there} connections are open though their clients left {FAREWELL:?} ago"
        );
        over
    }

    /// A service that holds input keeps buffers, and where nobody is shed, who needs one waits for as
    /// long, whatever the time-outs: who is in the queue for a buffer is not idle.
    fn may_wait_for_ever(&self) -> bool {
        let holds = self.whims.holds > 0 || self.whims.hoards > 0 || self.served.keeps_input();
        self.rules.shed_after.is_none() && holds
    }

    /// Its bytes are held back by whim, or it was not accepted, and others whose bytes are have the
    /// places: no time-out ends that while nobody wants a buffer.
    fn is_held_back(&self, peer: &Peer) -> bool {
        let seen = self.seen.borrow();
        let patience_ends = self.begun + HEALED_AFTER + PATIENCE;
        match seen.of_peer.get(&peer.number) {
            Some(sight) if sight.opened_at < patience_ends => self.held_back.contains(&peer.number),
            _ => !self.held_back.is_empty(),
        }
    }

    /// Slow ones may have all places or buffers until the end, as long as something moves.
    fn may_be_behind_others(&self, peer: &Peer) -> bool {
        let patience_ends = self.begun + HEALED_AFTER + PATIENCE;
        let seen = self.seen.borrow();
        let opened_at = seen.of_peer.get(&peer.number).map(|sight| sight.opened_at);
        // Its turn came so late that its reply was on the way.
        if opened_at.is_some_and(|at| at < patience_ends && at + TURN_TAKES >= patience_ends) {
            return true;
        }
        let accepted = opened_at.is_some_and(|at| at < patience_ends);
        // Others had the places, and were being served. (That nobody waits for a place that is free
        // is checked whenever nothing else can be done.)
        let was_served =
            |other: &Peer| other.moved_since(patience_ends.saturating_sub(STUCK_AFTER));
        if !accepted && self.peers.iter().any(was_served) {
            return true;
        }
        let queued = |server: &Server<E>| server.counters.read().waits_for_buffer > 0;
        (!accepted || self.servers.iter().any(queued))
            && self.peers.iter().any(|other| other.gave_up() && !other.was_stuck())
    }

    fn everybody_left(&self) -> bool {
        self.peers.iter().all(|peer| peer.end.is_some())
            && self.clients.as_ref().is_none_or(|side| side.worker.is_none())
    }

    fn is_over(&self) -> bool {
        self.servers.iter().all(|server| server.worker.is_none()) && self.everybody_left()
    }

    fn who_wants(&self) -> String {
        let now = self.world.borrow().now;
        let of = |server: &Server<E>| {
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
        let left = self.who_is_left();
        format!("woken, ready, late by, connections: {wants:?}; clients {clients:?}; {left}")
    }

    fn who_is_left(&self) -> String {
        let peers: Vec<_> = self
            .peers
            .iter()
            .filter(|peer| peer.end.is_none())
            .map(|peer| (peer.number, peer.manner, peer.sent, peer.ear.reply))
            .collect();
        let servers = self.servers.iter().filter(|server| server.worker.is_some()).count();
        format!("{servers} servers, peers {peers:?}")
    }

    // What must hold.

    fn check(&mut self) {
        if let Some(outside) = &mut self.outside {
            outside.look(&mut self.world.borrow_mut(), &self.seen.borrow(), false);
        }
        if let Some(wrong) = self.world.borrow_mut().wrong.take() {
            panic!("{wrong}");
        }
        self.check_counts();
        self.check_timers();
    }

    /// When nobody has anything to do, nobody may wait for what is there.
    fn check_rest(&mut self) {
        if let Some(outside) = &mut self.outside {
            outside.look(&mut self.world.borrow_mut(), &self.seen.borrow(), true);
        }
        self.check_directory();
        let (output, input) = self.longest_unmoved();
        let stalled = output.into_iter().chain(input).min();
        let published = self.mailboxes.longest_stalled().map(|(_, since)| since);
        assert_eq!(published, stalled, "what has not moved for longest, as told and as it is");
        let world = self.world.borrow();
        let permits_left = self.permits.taken() < self.connections;
        let reserve = self.reserve.available();
        let idle_buffers = |server: &Server<E>| server.pool.available() - reserve;
        let free = self.servers.iter().map(idle_buffers).sum::<usize>() + reserve;
        if let (Some(timeout), Some(output)) = (self.rules.send_timeout, output) {
            let due = output + timeout + SHED_LATE_MAX;
            assert!(world.now <= due, "a send that does not move is not given up");
        }
        for (index, server) in self.servers.iter_mut().enumerate() {
            let Some(worker) = &server.worker else { continue };
            assert!(
                !permits_left || !world.has_waiting(index) || worker.accept_pauses(),
                "worker {index} sleeps while a client waits and a permit is free"
            );
            let waiting = worker.waiting();
            assert!(
                waiting.is_empty() || free == 0 || self.late_buffers,
                "worker {index} sleeps while a connection waits and {free} buffers are free, \
                 {reserve} of them in the reserve"
            );
            let (first, entered) =
                (waiting.first().copied(), server.counters.read().waits_for_buffer);
            if (first, entered) != (server.queue.0, server.queue.1) {
                server.queue = (first, entered, world.now);
            }
            if let (Some(_), Some(after), Some(stalled)) = (first, self.rules.shed_after, stalled) {
                // After a suspension everything is due at once, and one shed at a time is enough.
                let resumed = self.suspended_at.unwrap_or(Time::ZERO);
                let due = stalled.max(server.queue.2).max(resumed) + after + SHED_LATE_MAX;
                assert!(world.now <= due, "nobody is shed, though {first:x?} waits for a buffer");
            }
        }
    }

    /// Since when the output, and the input, has not moved that has not for longest.
    fn longest_unmoved(&self) -> (Option<Time>, Option<Time>) {
        let workers = || self.servers.iter().filter_map(|server| server.worker.as_ref());
        let output = workers().filter_map(Worker::stalled_since).min();
        // As the service saw it; what it is not told is when its input was given up.
        let holding: Vec<ConnectionId> = workers()
            .flat_map(|worker| worker.inputs().filter(|&(_, bytes)| bytes > 0))
            .map(|(id, _)| id)
            .collect();
        if holding.is_empty() {
            return (output, None);
        }
        let seen = self.seen.borrow();
        let holds = |sight: &&Sight| sight.id.is_some_and(|id| holding.contains(&id));
        let input = seen.of_peer.values().filter(holds).filter_map(|sight| sight.held_since).min();
        (output, input)
    }

    /// Everybody finds in the directory who is there, and nobody else.
    fn check_directory(&self) {
        let mut there: Vec<ConnectionId> = Vec::new();
        for server in &self.servers {
            there.extend(server.worker.iter().flat_map(|worker| worker.inputs()).map(|(id, _)| id));
        }
        let mut listed: Vec<_> = self.directory.list().iter().map(|client| client.id).collect();
        there.sort();
        listed.sort();
        assert_eq!(listed, there, "the directory and the connections differ");
    }

    fn check_counts(&mut self) {
        let reserve = self.reserve.available();
        let of = |server: &Server<E>| server.pool.held() + server.pool.available() - reserve;
        let buffers = self.servers.iter().map(of).sum::<usize>() + reserve;
        assert_eq!(
            buffers + self.reserve.travelling(),
            self.buffers,
            "buffers free, held and travelling are not all buffers"
        );
        let contexts: usize =
            self.servers.iter().filter_map(|s| s.worker.as_ref()).map(Worker::open).sum();
        assert_eq!(self.permits.taken(), contexts as u64, "permits taken and connections differ");
        let of_clients =
            self.clients.as_ref().and_then(|side| side.worker.as_ref()).map_or(0, Worker::open);
        let open = self.world.borrow().open();
        assert_eq!(open, contexts + of_clients, "open sockets and live contexts differ");
        if !self.moved && self.reserve.starving() != 0 && reserve > 0 {
            self.moved = true;
            self.world.borrow_mut().mark(Mark::BufferMoved);
        }
    }

    fn check_timers(&mut self) {
        let seen = self.seen.borrow();
        for &(due, fired) in &seen.timers[self.timers_checked..] {
            assert!(fired >= due, "a timer fired {:?} early", due - fired);
            let suspended = self.suspended_at.is_some_and(|at| at >= due);
            assert!(
                suspended || fired <= due + TIMER_LATE_MAX,
                "a timer fired {:?} late",
                fired - due
            );
        }
        self.timers_checked = seen.timers.len();
    }

    fn check_end(&mut self) {
        assert_eq!(self.permits.taken(), 0, "a permit was lost");
        assert_eq!(self.world.borrow().open(), 0, "a descriptor was lost");
        assert!(self.servers.iter().all(|server| server.pool.held() == 0), "a lease was lost");
        let references = |server: &Server<E>| server.pool.references_in_use();
        assert_eq!(self.servers.iter().map(references).sum::<usize>(), 0, "a reference was lost");
        assert_eq!(self.reserve.travelling(), 0, "a parcel was lost");
        self.check_directory();
        if let Some(outside) = &mut self.outside {
            outside.look(&mut self.world.borrow_mut(), &self.seen.borrow(), true);
            assert_eq!(self.world.borrow_mut().wrong.take(), None);
        }
        self.mark_counters();
        for peer in &self.peers {
            self.check_peer(peer);
        }
        let cut: u64 = self.servers.iter().map(|server| server.cut).sum();
        match self.ending {
            Ending::Quiet => assert_eq!(cut, 0, "nobody was there to be cut"),
            Ending::Drain(_) if cut > 0 => self.world.borrow_mut().mark(Mark::DrainCut),
            _ => {}
        }
    }

    fn mark_counters(&self) {
        let total = Stats::read(self.servers.iter().map(|server| &*server.counters)).total();
        let mut world = self.world.borrow_mut();
        for (count, mark) in [
            (total.waits_for_buffer, Mark::PoolEmpty),
            (total.waits_for_slot, Mark::NoPermit),
            (total.accept_pauses, Mark::AcceptPaused),
            (total.accepted.saturating_sub(8 * self.servers.len() as u64), Mark::SlotReused),
        ] {
            if count > 0 {
                world.mark(mark);
            }
        }
        assert_eq!(total.accepted, total.closed_total(), "accepted and closed differ");
    }

    /// What the peer saw and what the service saw must fit together.
    fn check_peer(&self, peer: &Peer) {
        assert!(
            !peer.was_stuck()
                || self.is_held_back(peer)
                || self.may_wait_for_ever()
                || self.may_be_behind_others(peer),
            "peer {} gave up after it had said {} bytes and heard {}",
            peer.number,
            peer.sent,
            peer.ear.reply
        );
        let seen = self.seen.borrow();
        let Some(sight) = seen.of_peer.get(&peer.number) else {
            assert_eq!(peer.ear.reply + peer.ear.outside.len(), 0, "an answer from nowhere");
            return;
        };
        assert!(!sight.open, "peer {}: its connection was never closed", peer.number);
        assert!(sight.delivered <= peer.sent);
        self.check_reply(peer, sight);
        self.check_reason(peer, sight);
        self.check_outside(peer, sight);
        if let Some(member) = &peer.member {
            audit::member(&mut self.world.borrow_mut(), &seen, peer, member, sight);
        }
    }

    fn check_reply(&self, peer: &Peer, sight: &Sight) {
        if self.served == Served::Chargen || self.served.is_hub() {
            return;
        }
        let (number, reply) = (peer.number, peer.ear.reply);
        let owed = peer.script.borrow().owed(sight.delivered as usize, sight.ended);
        assert!(reply <= owed, "peer {number} got more than it was owed: {sight:?}");
        if peer.end == Some(End::Fin) && peer.reads_to_the_end() && !sight.holding {
            assert_eq!(
                reply, owed,
                "peer {number}: FIN came before bytes that the service had answered: {sight:?}"
            );
        }
        // The reason stays when the last bytes are then given too little time.
        let timed_out = peer.end == Some(End::Reset) && self.rules.send_timeout.is_some();
        if sight.closed == Some(CloseReason::PeerClosed)
            && peer.reads_to_the_end()
            && !sight.holding
            && !sight.cut
            && !timed_out
            && !peer.gave_up()
        {
            assert_eq!(
                reply,
                peer.owed(peer.sent),
                "peer {number}: the end of the reply was lost: {sight:?}"
            );
        }
    }

    /// A message that is not allowed, or is the last one, ends the connection, and nothing else is
    /// put down to it.
    fn check_reason(&self, peer: &Peer, sight: &Sight) {
        let script = peer.script.borrow();
        let reached = script.closes.filter(|&(at, _)| sight.delivered >= at as u64);
        let number = peer.number;
        let of_message = [CloseReason::MessageTooLong, CloseReason::ProtocolError];
        if let Some(closed) = sight.closed.filter(|closed| of_message.contains(closed)) {
            let expected = reached.map(|(_, reason)| reason);
            assert_eq!(Some(closed), expected, "peer {number}: {sight:?}");
        }
        if let Some((_, reason)) = reached
            && !sight.holding
        {
            // What was held back until the peer's FIN is answered then, and put down to that.
            let overlooked =
                sight.closed == Some(CloseReason::PeerClosed) && reason != CloseReason::Service;
            assert!(!overlooked, "peer {number} was to be closed for {reason}: {sight:?}");
        }
    }

    fn check_outside(&self, peer: &Peer, sight: &Sight) {
        let heard = peer.member.as_ref().map_or(&peer.ear.outside, |member| &member.outside);
        let (taken, number) = (&sight.outside, peer.number);
        // What a hub keeps for a client goes out when it is closed in order.
        let in_order = peer.member.is_none() || sight.finished.is_some();
        if peer.end == Some(End::Fin) && peer.reads_to_the_end() && in_order {
            assert_eq!(heard, taken, "peer {number}: messages from outside");
            if !heard.is_empty() {
                self.world.borrow_mut().mark(Mark::OutsideArrived);
            }
        } else {
            assert!(taken.starts_with(heard), "peer {number}: {heard:?} of {taken:?}");
        }
    }
}

/// A peer of any kind.
fn person(
    world: &mut World,
    seen: &Rc<RefCell<Seen>>,
    served: Served,
    number: usize,
    total: usize,
) -> Peer {
    let manner = *world.rng.choice(&Manner::ALL).expect("there are some");
    let total = if manner == Manner::Silent { 0 } else { total };
    let script = Script::draw(served, &mut world.rng, number, total);
    let peer = Peer::new(world, number, manner, script);
    seen.borrow_mut().scripts.insert(number, peer.script.clone());
    peer
}

/// The numbers of the clients on the engine, beyond those of any peer.
const FIRST_CLIENT: usize = 10_000;

#[derive(Clone, Copy, Debug)]
enum Pick {
    Server(usize),
    Clients,
}

pub(super) fn wants_turn<E: Seat, S: Service>(
    worker: &Worker<E, S>,
    woken: &Woken,
    now: Time,
) -> bool {
    woken.is_set()
        || worker.engine().is_ready()
        || worker.deadline().is_some_and(|deadline| deadline <= now)
}

/// Nobody may be served before one who has waited longer and still waits.
fn check_order<E: Seat>(before: &[u64], worker: &Worker<E, Watched>) {
    let after = worker.waiting();
    let mut still_waiting = None;
    for &key in before {
        if after.contains(&key) {
            still_waiting = still_waiting.or(Some(key));
        } else if let Some(first) = still_waiting {
            assert!(
                !worker.is_open(key),
                "connection {key:x} was served before {first:x}, which has waited longer"
            );
        }
    }
}
