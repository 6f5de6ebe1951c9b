//! Datagrams in the simulated world: the server's own threads, batches, limits and services on
//! simulated sockets. Datagrams are lost, duplicated, reordered and damaged on the way; receives
//! and sends fail, are interrupted, and do a part of their work; and a process is stopped, or
//! leaves its sockets to another one, at any moment.
//!
//! * this file: one seed, from the first process to the end of the last one
//! * `draw`: what a seed draws
//! * `world`: sources, the network, sockets, events, and clocks
//! * `calls`: what the system calls do, and the checks at each
//! * `socket`: headers and pointers of these calls; the only unsafe code
//! * `model`: what must become of each datagram
//! * `packets`: what services must reply, from the RFCs

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::marks::Mark;
use super::report::{Report, failure_of};
use crate::base::time::Time;
use crate::builtin::stamp::Stamp;
use crate::builtin::{Chargen, Discard, Echo, StampOptions};
use crate::service::{Arrival, DatagramService, ServiceFactory};
use crate::shared::counters::Counters;
use crate::worker::datagram::{Setup, SourceRates, Stopper, Thread};

mod calls;
mod draw;
mod model;
mod packets;
mod socket;
mod world;

use draw::{Serves, Upgrade};
use model::{Allowances, rude};
use socket::{InTurn, SimClock, SimSocket};
use world::{DatagramEvent, Order, Process, SharedWorld, World, lock};

/// More steps than any seed needs.
const STEPS_MAX: u64 = 300_000;
/// A stopped thread ends in the turn in which it hears of it, or in the next one.
const TURNS_AFTER_END_MAX: u32 = 2;
/// Within this time a process that is to be told in the middle of a send is told in any case.
const TOLD_WITHIN: Duration = Duration::from_millis(50);

/// Runs one seed.
pub(super) fn run(seed: u64, told: bool) -> Report {
    let world = Arc::new(Mutex::new(World::new(seed, told)));
    let failure = failure_of(|| Simulation::new(world.clone()).run());
    let mut world = lock(&world);
    let simulated = world.now - world.begun;
    let marks = std::mem::take(&mut world.marks);
    Report::new(failure, &mut world.trace, marks, simulated)
}

/// The threads of all processes, with the world around them.
struct Simulation {
    world: SharedWorld,
    threads: Vec<Option<Thread<SimSocket>>>,
    counters: Vec<Arc<Counters>>,
    /// The process that serves, or will when it begins.
    serves: usize,
}

impl Simulation {
    fn new(world: SharedWorld) -> Simulation {
        let mut simulation =
            Simulation { world, threads: Vec::new(), counters: Vec::new(), serves: 0 };
        simulation.add_process();
        simulation.begins(0);
        let mut world = lock(&simulation.world);
        let begun = world.begun;
        if world.draw.upgrade != Upgrade::No {
            let after = Duration::from_micros(world.rng.u64(0..1_000_000));
            world.at(begun + after, DatagramEvent::Upgrade);
        }
        if let Some(after) = world.draw.stops_after {
            // Of the process that serves then.
            world.at(begun + after, DatagramEvent::Ends(usize::MAX));
        }
        drop(world);
        simulation
    }

    /// Starts a process with a thread for each socket. It receives nothing until it begins.
    fn add_process(&mut self) -> usize {
        let mut world = lock(&self.world);
        let (number, draw) = (world.processes.len(), world.draw.clone());
        let handle = |socket| {
            let thread = world.add_thread(number, socket);
            Arc::new(SimSocket { world: self.world.clone(), thread })
        };
        let handles: Vec<_> = (0..draw.threads).map(handle).collect();
        let stopper = Arc::new(Stopper::new(handles.iter().map(Arc::downgrade).collect()));
        world.processes.push(Process {
            stopper: stopper.clone(),
            has_begun: false,
            leaves: false,
            is_told: false,
            allowances: Allowances::new(draw.rate),
        });
        drop(world);
        let hasher = InTurn::new(draw.has_one_set);
        let rates = draw.rate.map(|rate| Arc::new(SourceRates::with_hasher(rate, hasher)));
        for socket in handles {
            let counters = Arc::new(Counters::default());
            let setup = Setup {
                service: self.service(draw.serves, socket.thread, draw.has_one_set),
                socket,
                is_new: false,
                port: draw.port,
                longest: draw.longest,
                segmentation: true,
                rates: rates.clone(),
                counters: counters.clone(),
                stopper: stopper.clone(),
                busy_poll: draw.busy_poll,
            };
            self.threads.push(Some(Thread::new(setup)));
            self.counters.push(counters);
        }
        number
    }

    fn service(
        &self,
        serves: Serves,
        thread: usize,
        has_one_set: bool,
    ) -> Box<dyn DatagramService + Send> {
        let service = match serves {
            Serves::Echo => Echo.datagrams(0),
            Serves::Discard => Discard.datagrams(0),
            Serves::Chargen => Chargen.datagrams(0),
            Serves::Stamp { stateful } => {
                let clock = SimClock { world: self.world.clone(), thread };
                let options = StampOptions { stateful };
                return Box::new(Stamp::new(options, clock, InTurn::new(has_one_set)));
            }
            Serves::Rude => return Box::new(Rude),
        };
        service.expect("it has datagrams")
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// If a check fails.
    fn run(mut self) {
        for step in 0.. {
            assert!(step < STEPS_MAX, "the seed spins");
            self.handle_due_events();
            match self.pick() {
                Some(thread) => self.turn(thread),
                None if self.advance_time() => {}
                None if !self.is_over() => self.ends_now(self.serves),
                None => break,
            }
        }
        self.check_end();
    }

    /// Handles events that are due: some of them, or all.
    fn handle_due_events(&mut self) {
        loop {
            let event = lock(&self.world).pop();
            match event {
                None => return,
                Some(DatagramEvent::Source(number)) => lock(&self.world).source_sends(number),
                Some(DatagramEvent::Arrival(at)) => lock(&self.world).arrives(at),
                Some(DatagramEvent::Ends(usize::MAX)) => self.ends(self.serves),
                Some(DatagramEvent::Ends(process)) => self.ends(process),
                Some(DatagramEvent::EndsNow(process)) => self.ends_now(process),
                Some(DatagramEvent::Begins(process)) => self.begins(process),
                Some(DatagramEvent::Upgrade) => self.upgrade(),
            }
            if lock(&self.world).one_in(4) {
                return;
            }
        }
    }

    /// Another process starts with the sockets of the one that serves, which goes on until it is told.
    fn upgrade(&mut self) {
        if lock(&self.world).processes[self.serves].is_told {
            return;
        }
        let old = self.serves;
        let new = self.add_process();
        let mut world = lock(&self.world);
        world.event(7, new, 0, || format!("process {new} has the sockets of process {old}"));
        let (now, later) = (world.now, Duration::from_micros(world.rng.u64(0..500_000)));
        if world.draw.upgrade == Upgrade::Fails {
            world.at(now + later, DatagramEvent::EndsNow(new));
            return;
        }
        // The new one may begin before the old one has left.
        let left = Duration::from_micros(world.rng.u64(0..500_000));
        world.at(now + left, DatagramEvent::Ends(old));
        world.at(now + later, DatagramEvent::Begins(new));
        world.processes[old].leaves = true;
        self.serves = new;
    }

    fn begins(&mut self, process: usize) {
        let mut world = lock(&self.world);
        let state = &mut world.processes[process];
        if state.is_told {
            return;
        }
        state.has_begun = true;
        let stopper = state.stopper.clone();
        if process > 0 && world.sockets.iter().any(|socket| !socket.queue.is_empty()) {
            world.mark(Mark::DatagramTakenOver);
        }
        let own = (0..self.threads.len()).filter(|one| world.threads[*one].process == process);
        let own: Vec<usize> = own.collect();
        own.iter().for_each(|thread| world.begins(*thread));
        drop(world);
        stopper.begin();
        for thread in own {
            self.threads[thread].as_mut().expect("it has not ended").begin();
        }
    }

    /// A process is told to end: now, or in the middle of a call of one of its threads.
    fn ends(&self, process: usize) {
        let mut world = lock(&self.world);
        if !world.processes[process].has_begun {
            drop(world);
            return self.ends_now(process);
        }
        let order = Some(Order { process });
        match world.rng.u8(0..3) {
            0 => world.order_in_receive = order,
            1 => world.order_in_send = order,
            _ => {}
        }
        let has_call = world.order_in_receive.is_some() || world.order_in_send.is_some();
        let after = if has_call { TOLD_WITHIN } else { Duration::ZERO };
        let at = world.now + after;
        world.at(at, DatagramEvent::EndsNow(process));
    }

    fn ends_now(&self, process: usize) {
        let mut world = lock(&self.world);
        let state = &world.processes[process];
        if !state.is_told {
            let mark = match (state.has_begun, state.leaves) {
                (false, _) => Mark::DatagramNeverBegun,
                (true, false) => Mark::DatagramStopped,
                (true, true) => Mark::DatagramLeft,
            };
            world.mark(mark);
        }
        let order = Order { process };
        world.order_in_receive.take_if(|one| *one == order);
        world.order_in_send.take_if(|one| *one == order);
        drop(world);
        order.carry_out(&self.world);
    }

    /// A thread that has something to do, or sometimes one that polls for nothing.
    fn pick(&self) -> Option<usize> {
        let mut world = lock(&self.world);
        let all = 0..self.threads.len();
        let runnable: Vec<usize> = all.clone().filter(|one| world.is_runnable(*one)).collect();
        if runnable.is_empty() && world.draw.busy_poll && world.one_in(3) {
            let polling: Vec<usize> = all.filter(|one| world.may_poll(*one)).collect();
            return world.rng.choice(polling);
        }
        world.rng.choice(runnable)
    }

    fn turn(&mut self, number: usize) {
        let thread = self.threads[number].as_mut().expect("it was picked because it is there");
        let goes_on = thread.turn();
        let mut world = lock(&self.world);
        world.ends_turn(number, &self.counters[number]);
        let is_told = world.processes[world.threads[number].process].is_told;
        assert!(goes_on || is_told, "a thread ends, and nobody has told it");
        let state = &mut world.threads[number];
        state.turns_after_end += u32::from(is_told);
        assert!(state.turns_after_end <= TURNS_AFTER_END_MAX, "a thread goes on after its end");
        let has_begun = world.processes[world.threads[number].process].has_begun;
        drop(world);
        if !goes_on {
            self.ends_thread(number, has_begun);
        }
    }

    /// A thread ends as `Thread::run` does, and closes its socket.
    fn ends_thread(&mut self, number: usize, has_begun: bool) {
        let thread = self.threads[number].as_mut().expect("it had a turn");
        if !has_begun {
            thread.begin();
            lock(&self.world).begins(number);
        }
        thread.end();
        lock(&self.world).ends_thread(number, &self.counters[number]);
        self.threads[number] = None;
    }

    /// Goes to the next event, or the end of a thread's pause. Returns whether there is one.
    fn advance_time(&self) -> bool {
        let mut world = lock(&self.world);
        let now = world.now;
        let threads = world.threads.iter().filter(|thread| !thread.has_ended);
        let pauses = threads.map(|thread| thread.paused_until).filter(|until| *until > now);
        let next: Option<Time> = pauses.chain(world.next()).min();
        let Some(next) = next else { return false };
        world.now = next.max(now);
        if let Some(later) = world.suspend() {
            world.now = later;
            world.resumed_at = later;
        }
        true
    }

    fn is_over(&self) -> bool {
        self.threads.iter().all(Option::is_none)
    }

    fn check_end(&self) {
        let world = lock(&self.world);
        assert!(world.are_closed(), "a socket stays open");
        let (arrived, received) = (world.arrived, world.received);
        let others = world.dropped + world.unread;
        assert_eq!(
            arrived,
            received + others,
            "datagrams that arrived, and those received or lost"
        );
        let (mut total, mut dropped) = (0, 0);
        for thread in &world.threads {
            let counts = &thread.model.counts;
            total += counts.received;
            dropped += counts.dropped;
            let without = counts.truncated + counts.refused + counts.limited;
            let ended = counts.sent + counts.unsent + without + thread.model.unanswered;
            assert_eq!(counts.received, ended, "what became of the datagrams: {counts:?}");
        }
        assert_eq!(total, received, "datagrams that were received, and those counted");
        // With two processes, either counts them, or both, or neither.
        if world.draw.upgrade == Upgrade::No {
            assert_eq!(dropped, world.dropped, "datagrams that were dropped, and those counted");
        }
    }
}

/// A service that replies with less or more than it was given, with nothing, and panics.
struct Rude;

impl DatagramService for Rude {
    fn reply(&mut self, datagram: &mut [u8], _: Arrival<'_>) -> Option<usize> {
        rude(datagram)
    }
}
