//! The client library in the simulated world: the real loop and its clients on a simulated engine,
//! against servers that refuse, reply late, send partial messages, reset and fall silent.
//!
//! * this file: one seed, from the first turn to the end
//! * `caller`: the users of the clients: which operations they start, and how each ended
//! * `server`: the other end of a connection
//! * `checks`: what must hold

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::clock;
use super::engine::SimEngine;
use super::marks::Mark;
use super::report::{Report, report_of};
use super::seat::{Seat, SeatParts, wants_turn};
use super::sys::{SimSys, Woken};
use super::world::{
    FaultRates, Handle, HandleTarget, Route, SharedWorld, World, WorldEvent, peer_of,
};
use crate::base::time::Time;
use crate::buffer::Pool;
use crate::client::driver::Driver;
use crate::client::handle::setup;
use crate::client::resolve::Question;
use crate::client::submission::{Answer, Clock, LoopCommand, Submission};
use crate::client::{Error, LoopLimits};
use crate::engine::MioEngine;
use crate::shared::mailbox::Mailboxes;
use crate::worker::Worker;

mod caller;
mod checks;
mod server;

use caller::{ADDRESSES, Callers};
use server::Server;

/// After this time faults end, and callers start no more operations.
const HEALED_AFTER: Duration = Duration::from_secs(8);
/// Time after the faults in which every operation that can end must end.
const SETTLING: Duration = Duration::from_secs(40);
/// Maximum number of turns of the loop at one instant. If there are more, the loop spins.
const TURNS_AT_ONCE_MAX: u64 = 20_000;
/// Longest time after its linger time until a loop has released what its clients had.
const FAREWELL: Duration = Duration::from_millis(200);
/// The loop may run late, past the next event, if that event is at most this far away.
const LATE_MAX: Duration = Duration::from_micros(500);

/// Event numbers: below the first, a caller acts; below the second, a server; then a look-up ends.
const SERVERS_FROM: usize = 10_000;
const LOOK_UPS_FROM: usize = 20_000;

/// The clock of the loop and its callers.
const CLOCK: Clock = Clock { now: clock::now, instant: Instant::now };

/// Runs one seed. The seed draws which engine the clients run on.
pub(super) fn run(seed: u64, told: bool) -> Report {
    let world = drawn(seed, told);
    let completions = world.borrow_mut().rng.bool();
    report_of(&world.clone(), || match completions {
        // The bytes of a receive that completes although it was cancelled are lost.
        true => ClientWorld::<SimEngine>::new(seed, world, false).run(),
        false => ClientWorld::<MioEngine<SimSys>>::new(seed, world, true).run(),
    })
}

/// A world with the rates and sizes of a seed.
fn drawn(seed: u64, told: bool) -> SharedWorld {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0xc11e);
    let mut rate = |in_how_many: u32, most: u32| {
        if rng.u32(0..in_how_many) == 0 { rng.u32(1..=most) } else { 0 }
    };
    let mut rates = FaultRates {
        late_readiness: rate(3, 300_000),
        spurious: rate(3, 200_000),
        duplicate: rate(3, 300_000),
        partial_batch: rate(3, 500_000),
        accept_error: 0,
        register_error: rate(8, 100_000),
        recv_error: rate(5, 20_000),
        send_error: rate(5, 20_000),
        shutdown_error: rate(6, 200_000),
        connect_error: rate(3, 400_000),
        late_buffer: rate(3, 200_000),
        delay_max: Duration::from_micros(rng.u64(1..=5_000)),
        window: *rng.choice(&[1, 7, 64, 500, 4096]).expect("there are some"),
        descriptors: usize::MAX,
        backlog: if rng.u8(0..4) == 0 { rng.usize(1..=2) } else { 64 },
    };
    if rates.window < 64 {
        rates.delay_max = rates.delay_max.min(Duration::from_millis(1));
    }
    Rc::new(RefCell::new(World::new(seed, rates, 1, told)))
}

/// A loop with its clients, their callers, and the servers.
struct ClientWorld<E: Seat> {
    world: SharedWorld,
    worker: Option<Worker<E, Driver>>,
    woken: Arc<Woken>,
    pool: Pool,
    submission: Arc<Submission>,
    questions: Receiver<Question>,
    /// All look-ups that started, by event number. Numbers are not reused: a reused number would
    /// replace a question that still waits, and its client would wait forever.
    asked: Vec<Option<Question>>,
    limits: LoopLimits,
    callers: Callers,
    servers: Vec<Server>,
    listener: Option<(usize, Handle)>,
    accept_pause: Duration,
    begun: Time,
    healed: bool,
    /// Whether everything that the engine receives is delivered.
    keeps_all: bool,
    /// When all clients were dropped, unless the loop is ended while they exist.
    left_at: Option<Time>,
    ended: bool,
    turns: (Time, u64),
    /// Number of ended operations whose end has been checked.
    ended_checked: usize,
    /// When a cancel last closed the connection of each caller.
    closed_by_cancel: Vec<Time>,
    /// How often bytes in transit have been destroyed, and when that was last noticed.
    destroyed: (u64, Time),
    /// A connection waited for a buffer when the last turn began, or found none in it, and was not
    /// read.
    waited: bool,
}

impl<E: Seat> ClientWorld<E> {
    fn new(seed: u64, world: SharedWorld, keeps_all: bool) -> ClientWorld<E> {
        let begun = world.borrow().now;
        clock::set_now(begun);
        let mut borrowed = world.borrow_mut();
        let rng = &mut borrowed.rng;
        let clients = rng.u32(1..=4);
        let limits = LoopLimits {
            clients,
            operations: *rng.choice(&[6, 16, 64]).expect("there are some"),
            buffers: clients * rng.u32(4..=8),
            buffer_size: *rng.choice(&[5, 16, 64, 1024]).expect("there are some"),
            send_timeout: rng.bool().then(|| Duration::from_millis(rng.u64(50..3_000))),
            linger: Duration::from_millis(rng.u64(1..=2_000)),
        };
        let accept_pause = Duration::from_millis(*rng.choice(&[1, 20, 1_500]).expect("some"));
        let listener = borrowed.listen();
        borrowed.trace(60, 0, u64::from(clients), || format!("{limits:?}"));
        borrowed.at(begun, WorldEvent::External);
        drop(borrowed);
        let mailboxes = Arc::new(Mailboxes::new(1));
        let submission = Submission::new(clients, limits.operations, mailboxes.clone(), CLOCK);
        let (asks, questions) = sync_channel(clients as usize);
        let random = fastrand::Rng::with_seed(seed);
        let (operations, linger) = (limits.operations, limits.linger);
        let driver = Driver::new(submission.clone(), asks, clients, operations, linger, random);
        let setup = setup(limits, mailboxes).expect("a few bytes");
        let (woken, pool) = (Arc::new(Woken::default()), setup.pool.clone());
        let engine = E::seat(SeatParts {
            world: world.clone(),
            worker: 0,
            woken: woken.clone(),
            slots: setup.connections_max,
            pool: pool.clone(),
            permits: None,
            listeners: Vec::new(),
        });
        submission.mark_loop_thread();
        let mut worker = Worker::new(engine, setup, |_| driver);
        worker.begin();
        let listener =
            (listener, Handle { world: world.clone(), what: HandleTarget::Listener(listener) });
        let callers = Callers::new(seed, submission.clone());
        let mut simulation = ClientWorld {
            world,
            worker: Some(worker),
            woken,
            pool,
            submission,
            questions,
            asked: Vec::new(),
            limits,
            callers,
            servers: Vec::new(),
            listener: Some(listener),
            accept_pause,
            begun,
            healed: false,
            keeps_all,
            left_at: None,
            ended: false,
            turns: (begun, 0),
            ended_checked: 0,
            closed_by_cancel: Vec::new(),
            destroyed: (0, Time::ZERO),
            waited: false,
        };
        for _ in 0..clients {
            simulation.add_caller();
        }
        simulation
    }

    /// Adds a client and its caller.
    fn add_caller(&mut self) {
        let number = self.callers.len();
        self.closed_by_cancel.resize(number + 1, Time::ZERO);
        let mut world = self.world.borrow_mut();
        if self.callers.add(&mut world) {
            world.after_up_to(Duration::from_secs(1), WorldEvent::Peer(number));
        }
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// If a check fails.
    fn run(mut self) {
        while self.worker.is_some() {
            self.handle_due_events();
            self.end_when_it_is_time();
            let now = self.world.borrow().now;
            let wants = |worker: &Worker<E, Driver>| wants_turn(worker, &self.woken, now);
            match self.late(now) {
                _ if !self.worker.as_ref().is_some_and(wants) => self.advance_time(),
                Some(later) => self.advance_to(later),
                None => self.turn(now),
            }
            self.check();
        }
        self.check_end();
    }

    /// Sometimes lets the loop run late, after the next event, so that it finds more at once.
    fn late(&self, now: Time) -> Option<Time> {
        let mut world = self.world.borrow_mut();
        let soon = world.next().filter(|&next| next <= now + LATE_MAX)?;
        (!self.healed && world.rng.u8(0..8) == 0).then_some(soon.max(now))
    }

    fn advance_to(&self, now: Time) {
        self.world.borrow_mut().now = now;
        clock::set_now(now);
    }

    fn turn(&mut self, now: Time) {
        self.turns = if self.turns.0 == now { (now, self.turns.1 + 1) } else { (now, 0) };
        assert!(
            self.turns.1 < TURNS_AT_ONCE_MAX,
            "the loop spins: {}",
            self.callers.describe_waiting()
        );
        let worker = self.worker.as_mut().expect("the loop runs");
        let waits = worker.waits_for_buffer();
        self.waited = !worker.waiting().is_empty();
        worker.turn().expect("waits in the world do not fail");
        self.waited |= worker.waits_for_buffer() != waits;
        while let Ok(question) = self.questions.try_recv() {
            let number = LOOK_UPS_FROM + self.asked.len();
            let caller: usize = question.host[1..].parse().expect("the name of a caller");
            let takes = self.callers.all[caller].look_up_takes;
            self.world.borrow_mut().at(now + takes, WorldEvent::Peer(number));
            self.asked.push(Some(question));
        }
        if worker.is_finished() {
            let ended = self.worker.take().expect("it was there above");
            ended.end(drop);
            self.submission.end();
        }
    }

    fn handle_due_events(&mut self) {
        loop {
            let event = self.world.borrow_mut().pop();
            match event {
                None => return,
                Some(WorldEvent::External) => self.accept(),
                Some(WorldEvent::Peer(number)) if number >= LOOK_UPS_FROM => self.look_up(number),
                Some(WorldEvent::Peer(number)) if number >= SERVERS_FROM => {
                    self.serve(number - SERVERS_FROM);
                }
                Some(WorldEvent::Peer(number)) => self.call(number),
                Some(other) => self.world.borrow_mut().handle_event(other),
            }
            if self.world.borrow_mut().rng.u8(0..4) == 0 {
                return;
            }
        }
    }

    /// Accepts waiting connections. Sometimes closes the listener and opens it again.
    fn accept(&mut self) {
        let mut world = self.world.borrow_mut();
        let pause = if self.healed { Duration::from_millis(1) } else { self.accept_pause };
        world.after_up_to(pause, WorldEvent::External);
        let closes = !self.healed && world.rng.u16(0..400) == 0;
        let opens = self.healed || world.rng.u8(0..8) == 0;
        match &self.listener {
            Some(_) if closes => {
                let handle = self.listener.take();
                drop(world);
                drop(handle);
            }
            Some((id, _)) => {
                while let Some(end) = world.accept_externally(*id) {
                    let caller = peer_of(world.address(end).into()) / ADDRESSES;
                    let served = &self.callers.all[caller];
                    let server = Server::draw(&mut world, end, caller, served);
                    let number = SERVERS_FROM + self.servers.len();
                    world.after_up_to(Duration::from_millis(5), WorldEvent::Peer(number));
                    self.servers.push(server);
                }
            }
            None if opens => {
                let id = world.listen();
                drop(world);
                let what = HandleTarget::Listener(id);
                self.listener = Some((id, Handle { world: self.world.clone(), what }));
            }
            None => {}
        }
    }

    fn serve(&mut self, number: usize) {
        let mut world = self.world.borrow_mut();
        if let Some(pause) = self.servers[number].act(&mut world, self.healed) {
            world.after_up_to(pause, WorldEvent::Peer(number + SERVERS_FROM));
        }
    }

    fn look_up(&mut self, number: usize) {
        let asked = self.asked[number - LOOK_UPS_FROM].take();
        let Question { slot, client, host, .. } = asked.expect("a look-up ends once");
        let caller: usize = host[1..].parse().expect("the name of a caller");
        let mut world = self.world.borrow_mut();
        let fails = !self.healed && world.rng.u8(0..4) == 0;
        let addresses = match fails {
            true => Err(Error::Resolve { host, reason: "no such name".into() }),
            false => Ok(self.callers.all[caller].addresses.clone()),
        };
        world.mark(if fails { Mark::NameUnknown } else { Mark::NameFound });
        drop(world);
        self.submission.push_answer(Answer { slot, client, addresses });
    }

    fn call(&mut self, number: usize) {
        if self.healed || self.ended {
            return;
        }
        let mut world = self.world.borrow_mut();
        let pause = self.callers.act(number, &mut world);
        match pause {
            Some(pause) => world.after_up_to(pause, WorldEvent::Peer(number)),
            None => {
                drop(world);
                self.add_caller();
            }
        }
    }

    fn advance_time(&mut self) {
        self.check_dropped();
        let world = self.world.borrow();
        let own = [HEALED_AFTER, HEALED_AFTER + SETTLING].map(|after| self.begun + after);
        let farewell = self.left_at.map(|at| at + self.farewell());
        let own = own.into_iter().chain(farewell).filter(|&at| at > world.now);
        let worker = self.worker.as_ref().and_then(Worker::deadline);
        let next = worker.into_iter().chain(world.next()).chain(own).min();
        let next = next.expect("there is always a next event").max(world.now);
        assert!(
            next < self.begun + HEALED_AFTER + SETTLING * 2,
            "the loop does not end: {}",
            self.callers.describe_waiting()
        );
        drop(world);
        self.advance_to(next);
        if !self.healed && self.world.borrow_mut().rng.u16(0..2000) == 0 {
            self.suspend();
        }
    }

    /// The process stands still, with its callers and look-ups, while the servers go on.
    fn suspend(&mut self) {
        let span = Duration::from_millis(self.world.borrow_mut().rng.u64(1..2000));
        let from = self.world.borrow().now;
        let until = self.world.borrow_mut().suspend(span);
        loop {
            let event = self.world.borrow_mut().pop_until(until);
            let Some(event) = event else { break };
            match event {
                WorldEvent::External => self.accept(),
                WorldEvent::Peer(number) if (SERVERS_FROM..LOOK_UPS_FROM).contains(&number) => {
                    self.serve(number - SERVERS_FROM);
                }
                WorldEvent::Peer(_) => self.world.borrow_mut().at(until, event),
                other => self.world.borrow_mut().handle_event(other),
            }
        }
        self.world.borrow_mut().resume(until);
        self.callers.shared.log().suspended = (from, until);
        clock::set_now(until);
    }

    /// Longest time until the loop has released what a dropped client had.
    fn farewell(&self) -> Duration {
        self.limits.linger + FAREWELL
    }

    fn end_when_it_is_time(&mut self) {
        let now = self.world.borrow().now;
        if !self.healed && now >= self.begun + HEALED_AFTER {
            self.healed = true;
            let mut world = self.world.borrow_mut();
            world.rates.heal();
            world.routes.retain(|_, route| *route == Route::Silent);
            self.callers.rest();
        }
        if self.ended {
            return;
        }
        if let Some(left_at) = self.left_at {
            if now >= left_at + self.farewell() {
                self.check_left();
                self.end();
            }
        } else if now >= self.begun + HEALED_AFTER + SETTLING {
            self.check_settled();
            if self.world.borrow_mut().rng.bool() {
                self.callers.leave();
                self.left_at = Some(now);
            } else {
                if self.callers.under_way() > 0 {
                    self.world.borrow_mut().mark(Mark::LoopEndedUnderLoad);
                }
                self.end();
            }
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.submission.push(LoopCommand::End);
    }
}
