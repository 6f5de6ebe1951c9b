//! What a seed draws, and the servers, peers and clients made from it. `mod.rs` runs them. Random
//! choices during the run are drawn where they are needed.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::upgrade::{Process, ProcessStage, Upgrades};
use super::{ClientSide, Ending, HEALED_AFTER, PATIENCE, Server, Simulation};
use crate::buffer::{Pool, Reserve};
use crate::builtin::OfListener;
use crate::builtin::dispatch::ListenerServices;
use crate::config::Limits;
use crate::engine::sys::Listening;
use crate::service::{ServiceFactory, ServicePlan, WorkerContext};
use crate::shared::counters::Counters;
use crate::shared::mailbox::Mailboxes;
use crate::sim::external::External;
use crate::sim::external_message::EXTERNAL_MIN;
use crate::sim::marks::Mark;
use crate::sim::messages::{Sender, fit_into};
use crate::sim::peer::{Manner, Peer};
use crate::sim::protocol::{Script, Served};
use crate::sim::seat::{Seat, SeatParts};
use crate::sim::service::{Clients, Watched, Whims};
use crate::sim::sys::Woken;
use crate::sim::wire::Framing;
use crate::sim::world::{
    FaultRates, Handle, HandleTarget, ListenerId, SharedWorld, World, WorldEvent,
};
use crate::worker::layer::Layer;
use crate::worker::{ListenerOf, Rules, Setup, Worker};

impl World {
    /// A world with the rates and sizes of a seed. Each kind of fault occurs in some seeds only.
    pub(super) fn drawn(seed: u64, told: bool) -> SharedWorld {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
        let mut rate = |in_how_many: u32, most: u32| {
            if rng.u32(0..in_how_many) == 0 { rng.u32(1..=most) } else { 0 }
        };
        let rates = FaultRates {
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

/// The parameters drawn for the servers.
#[derive(Debug)]
pub(super) struct Draw {
    pub(super) connections: usize,
    pub(super) buffers: u32,
    pub(super) buffer_size: usize,
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
            // Without shedding, senders that wait for room would hold all buffers of a hub forever.
            shed_after: maybe(rng, 5, 500)
                .or(served.is_hub().then_some(Duration::from_millis(200))),
            linger: Duration::from_millis(rng.u64(1..=2000)),
            log_sample: 1,
            accept_pause: Duration::from_millis(100 * workers as u64),
        },
        whims: Whims {
            panics: whim(rng, 6, 20_000),
            // These services set timers of their own.
            waits: if busy { 0 } else { whim(rng, 3, 300_000) },
            holds: whim(rng, 4, 300_000),
            hoards: whim(rng, 6, 200_000),
            closes: whim(rng, 5, 50_000),
            stale_ids: whim(rng, 5, 100_000),
        },
    }
}

/// Plans the services of so many listeners.
fn plan(drawn: &Draw, workers: usize, listeners: usize) -> ServicePlan<ListenerServices> {
    let limits = Limits {
        workers,
        leases_per_connection_max: drawn.rules.leases_per_connection_max,
        idle_timeout: drawn.rules.idle_timeout,
        send_timeout: drawn.rules.send_timeout,
        shed_after: drawn.rules.shed_after,
        linger: drawn.rules.linger,
        ..Limits::bare(drawn.connections as u32, drawn.buffer_size, drawn.buffers)
    };
    let services = OfListener::new(vec![drawn.served.options(); listeners]);
    if drawn.served.is_hub() {
        // Checked as for one worker: with several, a seed may have fewer buffers than a real hub.
        let limits = Limits { workers: 1, ..limits.clone() };
        services.check(&limits).expect("the limits are drawn for it");
    }
    services.plan(&limits)
}

impl<E: Seat, L: Layer> Simulation<E, L> {
    pub(super) fn new(
        world: SharedWorld,
        layer: impl Fn(&[Framing]) -> L + 'static,
    ) -> Simulation<E, L> {
        let (workers, begun) = (world.borrow().workers, world.borrow().now);
        let mut drawn = draw(&mut world.borrow_mut().rng, workers);
        if drawn.served.is_hub() {
            // Each listener would have a hub of its own.
            world.borrow_mut().framings.truncate(1);
        }
        if drawn.served == Served::Chargen {
            // Not resolved: its output may take all buffers of a tiny pool, of which the layer needs
            // one to encrypt it.
            for framing in &mut world.borrow_mut().framings {
                if *framing == Framing::Records {
                    *framing = Framing::Plain;
                }
            }
        }
        for framing in world.borrow().framings.iter().filter(|_| !drawn.served.is_hub()) {
            let (buffers, buffer_size) = framing.least_pool();
            drawn.buffers = drawn.buffers.max(buffers);
            drawn.buffer_size = drawn.buffer_size.max(buffer_size);
        }
        let inbox = *world.borrow_mut().rng.choice(&[1, 2, 4, 256]).expect("there are some");
        world
            .borrow_mut()
            .trace(52, inbox, 0, || format!("{workers} workers, inboxes of {inbox}, {drawn:?}"));
        let mailboxes = Arc::new(Mailboxes::with_room(workers, inbox));
        let limit = drawn.connections as u64;
        let first = Process::new(&drawn, mailboxes, limit, ProcessStage::Serving);
        let drawn = Rc::new(drawn);
        let seen = Rc::default();
        let late_buffers = world.borrow().rates.late_buffer > 0;
        world.borrow_mut().linger = drawn.rules.linger;
        let upgrades = Upgrades::draw(&world.borrow(), drawn.served, inbox);
        let framings = world.borrow().framings.clone();
        let mut simulation = Simulation {
            drawn: drawn.clone(),
            layer: Box::new(move || layer(&framings)),
            servers: Vec::new(),
            processes: vec![first],
            upgrades,
            clients: None,
            peers: Vec::new(),
            seen,
            buffers: drawn.buffers as usize,
            buffer_size: drawn.buffer_size,
            external: Rc::default(),
            served: drawn.served,
            late_buffers,
            begun,
            ending: Ending::Quiet,
            ended_at: None,
            healed: false,
            suspended_at: None,
            shed_across: Vec::new(),
            suspensions: Vec::new(),
            left_at: None,
            received: 0,
            rules: drawn.rules.clone(),
            whims: drawn.whims,
            timers_checked: 0,
            reconnects: 0,
            waits: HashMap::new(),
            held_back: HashSet::new(),
            moved: false,
            world,
        };
        let listeners = (0..workers).map(|_| simulation.listen()).collect();
        simulation.add_servers(listeners);
        simulation.add_peers();
        simulation.clients = simulation.client_side(&drawn);
        let external = simulation.external_thread(&drawn);
        *simulation.external.borrow_mut() = external;
        simulation.ending = simulation.draw_ending();
        simulation
    }

    /// The listeners of a worker: one for each byte layer.
    fn listen(&self) -> Vec<ListenerId> {
        let mut world = self.world.borrow_mut();
        (0..world.framings.len().max(1)).map(|number| world.listen_as(number)).collect()
    }

    /// Adds the workers of the last process, with the listeners of each.
    pub(super) fn add_servers(&mut self, listeners: Vec<Vec<ListenerId>>) {
        let each = listeners.first().map_or(1, Vec::len);
        let plan = plan(&self.drawn, listeners.len(), each);
        for (index, listeners) in listeners.into_iter().enumerate() {
            let server = self.server(index, listeners, &plan);
            self.servers.push(server);
        }
    }

    fn server(
        &self,
        index: usize,
        listeners: Vec<ListenerId>,
        plan: &ServicePlan<ListenerServices>,
    ) -> Server<E, L> {
        let (drawn, number) = (&*self.drawn, self.processes.len() - 1);
        let process = &self.processes[number];
        let kept = |&id: &ListenerId| Listening {
            kept: process.kept.clone(),
            ..Listening::tcp(Handle { world: self.world.clone(), what: HandleTarget::Listener(id) })
        };
        let woken = Arc::new(Woken::default());
        let pool = Pool::with_references(process.reserve.clone(), index, plan.references_each());
        let counters = Arc::new(Counters::default());
        let setup = Setup {
            index,
            connections_max: drawn.connections,
            listeners: listeners.len(),
            rules: drawn.rules.clone(),
            pool: pool.clone(),
            permits: Some(process.permits.clone()),
            mailboxes: process.mailboxes.clone(),
            counters: counters.clone(),
            directory: Some(process.directory.clone()),
        };
        let engine = E::seat(SeatParts {
            world: self.world.clone(),
            worker: Process::FIRST_WORKER * number + index,
            woken: woken.clone(),
            slots: drawn.connections,
            pool: pool.clone(),
            permits: Some(process.permits.clone()),
            listeners: listeners.iter().map(kept).collect(),
        });
        let make = |context: &WorkerContext| Watched {
            world: self.world.clone(),
            seen: self.seen.clone(),
            whims: drawn.whims,
            idle_timeout: drawn.rules.idle_timeout,
            process: number,
            gone: Vec::new(),
            wakes: drawn.served.is_hub() || drawn.served == Served::Chargen,
            sender: self.sender(index, drawn).filter(|_| number == 0),
            external: if number == 0 { self.external.clone() } else { Rc::default() },
            inner: plan.make(context),
        };
        // Without byte layers, all are copies of one.
        let is_layered = !self.world.borrow().framings.is_empty();
        let of = |(nth, _)| ListenerOf {
            number: if is_layered { nth } else { 0 },
            kept: process.kept.clone(),
        };
        let of: Vec<_> = (0..).zip(&listeners).map(of).collect();
        let worker = Worker::with_layer(engine, setup, make, (self.layer)());
        let mut worker = worker.with_listeners(&of);
        // Drawn separately, so that the other draws do not change. In most seeds it is so little
        // that a turn ends in the middle of what there is to do.
        let mut rng = fastrand::Rng::with_seed(self.world.borrow().seed ^ 0x776f_726b);
        worker.limit_work(*rng.choice(&[1, 300, 2_000, 1 << 14]).expect("there are some"));
        worker.begin();
        let worker = Some(worker);
        Server { process: number, index, listeners, worker, woken, pool, counters, cut: 0 }
    }

    /// The sender of messages for a worker's service, if this seed has any.
    fn sender(&self, worker: usize, drawn: &Draw) -> Option<Sender> {
        let seed = self.world.borrow().messages.filter(|_| fit_into(drawn.buffer_size))?;
        Some(Sender::draw(&self.world, seed, worker, drawn.buffer_size, HEALED_AFTER))
    }

    /// Adds the peers, which connect within the first two seconds.
    fn add_peers(&mut self) {
        let mut world = self.world.borrow_mut();
        for number in 0..world.rng.usize(1..=14) {
            let total = world.rng.usize(0..=1500);
            let peer = self.new_peer(&mut world, number, total);
            self.peers.push(peer);
            world.after_up_to(Duration::from_secs(2), WorldEvent::Peer(number));
        }
        let pool = self.buffers * self.buffer_size;
        if self.peers.iter().any(|peer| peer.script.borrow().longest() > pool) {
            world.mark(Mark::MessageBeyondPool);
        }
    }

    /// Draws a peer.
    pub(super) fn new_peer(&self, world: &mut World, number: usize, total: usize) -> Peer {
        let manner = *world.rng.choice(&Manner::ALL).expect("there are some");
        let total = if manner == Manner::Silent { 0 } else { total };
        let script = Script::draw(self.served, &mut world.rng, number, total);
        let peer = Peer::new(world, number, manner, script, self.buffers * self.buffer_size);
        let mut seen = self.seen.borrow_mut();
        seen.scripts.insert(number, peer.script.clone());
        let introduction = peer.proxy().map(|proxy| (number, proxy.introduction.clone()));
        seen.introductions.extend(introduction);
        peer
    }

    fn external_thread(&self, drawn: &Draw) -> Option<External> {
        let mut world = self.world.borrow_mut();
        // The clients on the engine do not expect external messages.
        let fits = drawn.buffer_size >= EXTERNAL_MIN && self.clients.is_none();
        if !fits || world.rng.bool() {
            return None;
        }
        let pause_max = Duration::from_millis(world.rng.u64(1..=300));
        world.after_up_to(pause_max, WorldEvent::External);
        let Process { mailboxes, reserve, directory, .. } = &self.processes[0];
        let (mailboxes, reserve) = (mailboxes.clone(), reserve.clone());
        let rng = fastrand::Rng::with_seed(world.seed ^ 0x0066_6c6f_6f64);
        Some(External::new(mailboxes, directory.clone(), reserve, pause_max, rng))
    }

    fn client_side(&self, drawn: &Draw) -> Option<ClientSide<E>> {
        let mut world = self.world.borrow_mut();
        // These clients send no header, and do not read messages.
        let simple = world.framings.is_empty() && world.messages.is_none();
        if drawn.served != Served::Echo || !simple || world.rng.u8(0..3) != 0 {
            return None;
        }
        // May exceed the number of slots, so that some connections reuse a slot.
        let (count, bytes) = (world.rng.usize(1..=8), world.rng.u64(1..=600));
        // Some give up before the connect can complete.
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
                // Short, because they hold permits, one after the other, that others wait for.
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
        let mut worker = Worker::new(engine, setup, |_| Clients {
            world: self.world.clone(),
            first_peer: FIRST_CLIENT,
            count,
            begun: 0,
            ended: 0,
            satisfied: 0,
            bytes,
            deadline,
        });
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
}

/// First number of the clients on the engine, above the numbers of all peers.
const FIRST_CLIENT: usize = 10_000;
