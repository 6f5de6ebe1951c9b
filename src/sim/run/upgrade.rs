//! Upgrades: at a time that the seed draws, a new process of the same server starts, on the same
//! listeners. It is told to start, the old process retires, and the old workers hand over their
//! connections, as in `daemon/upgrade`. Either of the two may end at any of these steps, and a
//! second upgrade may follow. The workers' code is the real one; the line between the processes is
//! that of `line.rs`.

use std::sync::Arc;
use std::time::Duration;

use super::{Draw, END, Server, Simulation};
use crate::base::time::Time;
use crate::buffer::Reserve;
use crate::net::bind::KeptOpen;
use crate::shared::directory::Directory;
use crate::shared::mailbox::{EndOrder, Mailboxes, WorkerCommand};
use crate::shared::moved::{Facts, Moved, Passed};
use crate::shared::permits::Permits;
use crate::sim::line::{Failures, Line};
use crate::sim::marks::Mark;
use crate::sim::protocol::Served;
use crate::sim::seat::Seat;
use crate::sim::world::{EndpointId, HandleTarget, ListenerId, World, peer_of};
use crate::worker::layer::Layer;

/// Selects the seeds with upgrades. None of those that `scripts/seeds` listed before there were any is
/// among them, so that these are still what they were.
const SELECTION: u64 = 0x4_3aba;
/// The first upgrade begins within one of these times. Most clients come in the first two seconds.
const BEGINS_WITHIN: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(2_000), Duration::from_secs(6)];
/// Longest pause between two of them.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long a new process takes at most from one step to the next.
const START_MAX: Duration = Duration::from_millis(300);
const GO_MAX: Duration = Duration::from_millis(20);
/// How long a process that has taken over lives at most if it is killed.
const LIFE_MAX: Duration = Duration::from_secs(2);
/// How long a connection is at most on its way to its new worker.
const WAY_MAX: Duration = Duration::from_millis(500);
/// When a full inbox is tried again.
const AGAIN: Duration = Duration::from_micros(200);

/// What the workers of one process have in common.
pub(super) struct Process {
    pub(super) reserve: Arc<Reserve>,
    pub(super) permits: Arc<Permits>,
    /// The most connections.
    pub(super) limit: u64,
    pub(super) directory: Arc<Directory>,
    pub(super) mailboxes: Arc<Mailboxes>,
    /// Whether another process keeps its listeners open.
    pub(super) kept: KeptOpen,
    pub(super) stage: ProcessStage,
    /// It was told to end alone, before the end of the seed.
    pub(super) ends_early: bool,
    /// The number of the process that it is to replace. That of the first one means nothing.
    replaces: usize,
    /// From each of its workers to the process that has replaced it, and the number of that.
    lines: Vec<Line>,
    heir: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ProcessStage {
    /// It has started, and accepts nothing yet.
    Starting,
    /// It accepts.
    Serving,
    /// Another one has taken over.
    Retired,
    /// It is gone, with everything that it had.
    Killed,
}

impl Process {
    /// The world's number of the first worker of the second process, and so on.
    pub(super) const FIRST_WORKER: usize = 8;

    pub(super) fn new(
        drawn: &Draw,
        mailboxes: Arc<Mailboxes>,
        limit: u64,
        stage: ProcessStage,
    ) -> Process {
        Process {
            reserve: Reserve::new(drawn.buffer_size, drawn.buffers).expect("a few bytes"),
            permits: Permits::new(limit, mailboxes.clone()),
            limit,
            directory: Directory::new(mailboxes.workers(), drawn.connections),
            mailboxes,
            kept: KeptOpen::default(),
            stage,
            ends_early: false,
            replaces: 0,
            lines: Vec::new(),
            heir: 0,
        }
    }
}

/// The upgrades of a seed.
pub(super) struct Upgrades {
    /// A generator of their own, so that seeds without an upgrade do not change.
    rng: fastrand::Rng,
    /// How many are still to begin.
    left: u8,
    /// How many commands the inboxes hold.
    inbox: usize,
    acts: Vec<(Time, Act)>,
    deliveries: Vec<Delivery>,
    on_the_way: Vec<OnTheWay>,
}

/// A step of an upgrade, of the process with this number.
#[derive(Clone, Copy, Debug)]
enum Act {
    Start,
    /// It accepts.
    Go(usize),
    /// The old process knows that.
    Serve(usize),
    /// It is told to end, and nobody else is.
    End(usize),
    Kill(usize),
}

/// A connection that a process has taken, and not passed to its worker yet.
struct Delivery {
    at: Time,
    process: usize,
    worker: usize,
    moved: Box<Moved>,
}

/// A connection that no worker has.
struct OnTheWay {
    endpoint: EndpointId,
    peer: usize,
    to: usize,
    facts: Facts,
}

impl Upgrades {
    pub(super) fn draw(world: &World, served: Served, inbox: usize) -> Upgrades {
        let mut rng = fastrand::Rng::with_seed(world.seed ^ SELECTION);
        // The members of a hub stay, and those of two hubs would not hear each other. Connections
        // that a byte layer has changed stay, too.
        let moves = !served.is_hub() && world.framings.is_empty();
        let any = rng.u64(..).is_multiple_of(4) && moves;
        let left = if any { rng.u8(1..=4) } else { 0 };
        let mut upgrades = Upgrades {
            rng,
            left,
            inbox,
            acts: Vec::new(),
            deliveries: Vec::new(),
            on_the_way: Vec::new(),
        };
        if any {
            let within = *upgrades.rng.choice(&BEGINS_WITHIN).expect("there are some");
            upgrades.after(world.now, within, Act::Start);
        }
        upgrades
    }

    fn time(&mut self, now: Time, most: Duration) -> Time {
        now + Duration::from_nanos(self.rng.u64(0..=most.as_nanos() as u64))
    }

    fn after(&mut self, now: Time, most: Duration, act: Act) {
        let at = self.time(now, most);
        self.acts.push((at, act));
    }

    fn one_in(&mut self, many: u8) -> bool {
        self.rng.u8(0..many) == 0
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> Option<Time> {
        let acts = self.acts.iter().map(|(at, _)| *at);
        acts.chain(self.deliveries.iter().map(|delivery| delivery.at)).min()
    }

    /// Whether nothing is on its way.
    pub(super) fn have_arrived(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// How many places of a process are taken for connections that are on their way.
    pub(super) fn on_the_way_to(&self, process: usize) -> usize {
        self.on_the_way.iter().filter(|one| one.to == process).count()
    }

    fn failures(&mut self) -> Failures {
        let mut rate = |in_how_many: u8, most: u32| {
            if self.rng.u8(0..in_how_many) == 0 { self.rng.u32(1..=most) } else { 0 }
        };
        Failures { refuses: rate(4, 500_000), short: rate(8, 500_000), breaks: rate(8, 500_000) }
    }
}

impl<E: Seat, L: Layer> Simulation<E, L> {
    /// Carries out what is due.
    pub(super) fn upgrade_when_it_is_time(&mut self) {
        let now = self.world.borrow().now;
        while let Some(at) = self.upgrades.acts.iter().position(|(at, _)| *at <= now) {
            let (_, act) = self.upgrades.acts.remove(at);
            self.world.borrow_mut().trace(70, 0, 0, || format!("upgrade: {act:?}"));
            match act {
                Act::Start => self.start_process(now),
                Act::Go(process) => self.go(process, now),
                Act::Serve(process) => self.serve(process, now),
                Act::End(process) => self.end_alone(process),
                Act::Kill(process) => self.kill(process),
            }
        }
        self.deliver(now);
    }

    /// The process that serves starts a new one.
    fn start_process(&mut self, now: Time) {
        if self.ended_at.is_some() {
            return;
        }
        let serves = |process: &Process| process.stage == ProcessStage::Serving;
        let Some(old) = self.processes.iter().position(serves) else { return };
        let mut listeners: Vec<ListenerId> =
            self.servers_of(old).flat_map(|server| server.listeners.iter().copied()).collect();
        let upgrades = &mut self.upgrades;
        let (workers, full) = (upgrades.rng.usize(1..=3), self.drawn.connections as u64);
        let limit = if upgrades.one_in(4) { upgrades.rng.u64(1..=full) } else { full };
        let mailboxes = Arc::new(Mailboxes::with_room(workers, upgrades.inbox));
        // It starts everything, and accepts when it is told to.
        mailboxes.set_accepting(0, false);
        let process = Process::new(&self.drawn, mailboxes, limit, ProcessStage::Starting);
        self.processes.push(Process { replaces: old, ..process });
        let mut of_workers = vec![Vec::new(); workers];
        listeners.sort_unstable();
        for (number, listener) in listeners.into_iter().enumerate() {
            self.world.borrow_mut().share(HandleTarget::Listener(listener));
            of_workers[number % workers].push(listener);
        }
        self.add_servers(of_workers);
        let (new, upgrades) = (self.processes.len() - 1, &mut self.upgrades);
        let act = if upgrades.one_in(6) { Act::Kill(new) } else { Act::Go(new) };
        upgrades.after(now, START_MAX, act);
    }

    /// A new process begins.
    fn go(&mut self, process: usize, now: Time) {
        self.processes[process].stage = ProcessStage::Serving;
        self.processes[process].mailboxes.set_accepting(0, true);
        let upgrades = &mut self.upgrades;
        let act = if upgrades.one_in(8) { Act::Kill(process) } else { Act::Serve(process) };
        upgrades.after(now, GO_MAX, act);
    }

    /// The old process retires, because the new one serves.
    fn serve(&mut self, process: usize, now: Time) {
        let old = self.processes[process].replaces;
        // What the process before has not moved yet stays there.
        let before = self.processes[..old].iter().flat_map(|process| &process.lines);
        before.for_each(Line::close);
        if self.upgrades.deliveries.iter().any(|delivery| delivery.process == old) {
            // First it passes on what it has taken.
            self.upgrades.deliveries.iter_mut().for_each(|delivery| delivery.at = now);
            self.upgrades.acts.push((now + AGAIN, Act::Serve(process)));
            return;
        }
        let upgrades = &mut self.upgrades;
        let failures = upgrades.failures();
        let Process { mailboxes, permits, .. } = &self.processes[process];
        let workers = self.processes[old].mailboxes.workers();
        let lines =
            (0..workers).map(|_| Line::to(mailboxes, permits, failures, upgrades.rng.fork()));
        let lines: Vec<Line> = lines.collect();
        let retires = &mut self.processes[old];
        retires.kept.set(true);
        retires.stage = ProcessStage::Retired;
        let successors = lines.iter().map(|line| Box::new(line.clone()) as _).collect();
        (retires.lines, retires.heir) = (lines, process);
        retires.mailboxes.retire(successors);
        let mut world = self.world.borrow_mut();
        world.mark(Mark::Upgraded);
        if old > 0 {
            world.mark(Mark::UpgradedTwice);
        }
        upgrades.left -= 1;
        if upgrades.one_in(8) {
            upgrades.after(now, LIFE_MAX, Act::Kill(process));
        } else if upgrades.one_in(8) {
            upgrades.after(now, LIFE_MAX, Act::End(process));
        } else if upgrades.left > 0 {
            let most = if upgrades.one_in(2) { GO_MAX } else { PAUSE_MAX };
            upgrades.after(now, most, Act::Start);
        }
    }

    /// A process that has taken over is drained, and the one before is not.
    fn end_alone(&mut self, process: usize) {
        if self.ended_at.is_some() {
            return;
        }
        let Process { ends_early, mailboxes, .. } = &mut self.processes[process];
        *ends_early = true;
        // So late that nothing is cut.
        let order = EndOrder::Drain { deadline: self.begun + END };
        (0..mailboxes.workers()).for_each(|worker| mailboxes.order_end(worker, order));
        self.world.borrow_mut().mark(Mark::HeirDrained);
    }

    /// A process ends without any order. The system closes what it had.
    fn kill(&mut self, process: usize) {
        let old = self.processes[process].replaces;
        let loses = match self.processes[process].stage {
            ProcessStage::Starting if self.ended_at.is_some() => Mark::EndedBeforeGo,
            ProcessStage::Starting => Mark::HeirGoneBeforeGo,
            ProcessStage::Serving if self.processes[old].stage == ProcessStage::Serving => {
                Mark::HeirGoneAfterGo
            }
            ProcessStage::Serving => Mark::HeirKilled,
            ProcessStage::Retired | ProcessStage::Killed => return,
        };
        if self.ended_at.is_some() && loses != Mark::EndedBeforeGo {
            return;
        }
        self.processes[process].stage = ProcessStage::Killed;
        if self.processes[old].heir == process {
            self.processes[old].lines.iter().for_each(Line::close);
        }
        self.upgrades.deliveries.retain(|delivery| delivery.process != process);
        let is_its = |act: Act| matches!(act, Act::Go(its) | Act::Serve(its) if its == process);
        self.upgrades.acts.retain(|(_, act)| !is_its(*act));
        {
            let mut world = self.world.borrow_mut();
            world.mark(loses);
            world.kills = true;
        }
        for server in self.servers.iter_mut().filter(|server| server.process == process) {
            drop(server.worker.take());
        }
        let mailboxes = &self.processes[process].mailboxes;
        (0..mailboxes.workers()).for_each(|worker| mailboxes.close(worker));
        self.settle_moves();
        let mut world = self.world.borrow_mut();
        world.kills = false;
        let mut seen = self.seen.borrow_mut();
        let its = seen.of_peer.values_mut().filter(|sight| sight.open && sight.process == process);
        for sight in its {
            (sight.open, sight.lost) = (false, true);
            (sight.closed_at, sight.cut) = (world.now, world.now >= world.cut_from);
            world.mark(Mark::LostWithHeir);
        }
        // After an upgrade that failed, the old process may try again.
        self.upgrades.left = self.upgrades.left.saturating_sub(1);
        if self.upgrades.left > 0 {
            self.upgrades.after(world.now, PAUSE_MAX, Act::Start);
        }
    }

    /// Orders all processes to end. One that has not begun is killed.
    pub(super) fn end_processes(&mut self, order: EndOrder) {
        let starting = |process: &Process| process.stage == ProcessStage::Starting;
        while let Some(process) = self.processes.iter().position(starting) {
            self.kill(process);
        }
        let is_open = |process: &Process| process.lines.iter().any(Line::is_open);
        let moves =
            self.living().any(|(_, process)| is_open(process) && process.permits.taken() > 0);
        if moves {
            self.world.borrow_mut().mark(Mark::EndedWhileMoving);
        }
        for (_, process) in self.living() {
            let workers = 0..process.mailboxes.workers();
            workers.for_each(|worker| process.mailboxes.order_end(worker, order));
        }
    }

    /// Passes connections to their new workers.
    fn deliver(&mut self, now: Time) {
        while let Some(at) = self.upgrades.deliveries.iter().position(|one| one.at <= now) {
            let Delivery { process, worker, moved, .. } = self.upgrades.deliveries.remove(at);
            let waits = match &moved.socket {
                Passed::Simulated(token) => self.world.borrow().unread(token.number()) > 0,
                Passed::Descriptor(_) => false,
            };
            let mailboxes = &self.processes[process].mailboxes;
            let worker = worker % mailboxes.workers();
            let full = mailboxes.send(worker, WorkerCommand::GoOnWith(moved)).err();
            let mut world = self.world.borrow_mut();
            match full {
                Some(WorkerCommand::GoOnWith(moved)) => {
                    world.mark(Mark::MoveWaited);
                    let delivery = Delivery { at: now + AGAIN, process, worker, moved };
                    self.upgrades.deliveries.insert(at, delivery);
                }
                _ if waits => world.mark(Mark::MovedWithInput),
                _ => {}
            }
        }
        self.settle_moves();
    }

    /// Takes what has come through the lines, and notes what has arrived.
    pub(super) fn settle_moves(&mut self) {
        for old in 0..self.processes.len() {
            for worker in 0..self.processes[old].lines.len() {
                let (moved, marks) = self.processes[old].lines[worker].take();
                marks.into_iter().for_each(|mark| self.world.borrow_mut().mark(mark));
                moved.into_iter().for_each(|moved| self.leaves(moved, old, worker));
            }
            self.note_kept_back(old);
        }
        let dropped = self.world.borrow_mut().settle_tokens();
        for id in dropped {
            let here = self.upgrades.on_the_way.iter().position(|one| one.endpoint == id);
            if let Some(here) = here {
                let one = self.upgrades.on_the_way.swap_remove(here);
                self.has_arrived(&one);
            }
        }
    }

    /// A connection has left its old process. Checks what is said of it.
    fn leaves(&mut self, moved: Moved, old: usize, worker: usize) {
        let Moved { facts, socket: Passed::Simulated(token), .. } = &moved else {
            unreachable!("the world has no other sockets")
        };
        let (endpoint, peer) = (token.number(), peer_of(facts.peer));
        let to = self.processes[old].heir;
        let mut world = self.world.borrow_mut();
        let now = world.now;
        world
            .trace(71, peer, to as u64, || format!("peer {peer} moves to process {to}: {facts:?}"));
        assert_eq!(
            Some(world.address(endpoint)),
            facts.peer.socket_addr(),
            "the socket of another"
        );
        let takes = &self.processes[to];
        let ends =
            takes.ends_early || takes.stage != ProcessStage::Serving || self.ended_at.is_some();
        assert!(!ends, "a process that ends takes peer {peer}");
        world.mark(Mark::Moved);
        if facts.continuation > 0 {
            world.mark(Mark::MovedGenerating);
        }
        let mut seen = self.seen.borrow_mut();
        let sight = seen.of_peer.get_mut(&peer).expect("a connection that moves was opened");
        assert!(sight.open && sight.process == old, "peer {peer} moves, but was not there");
        assert_eq!((facts.listener, facts.since), (0, sight.opened_at), "peer {peer}");
        assert_eq!(facts.bytes_received, sight.delivered, "peer {peer} moves with input");
        assert!((sight.active_at..=now).contains(&facts.active_at), "peer {peer}: {facts:?}");
        (sight.process, sight.id, sight.on_its_way) = (to, None, true);
        if sight.moves > 0 {
            world.mark(Mark::MovedTwice);
        }
        if std::mem::take(&mut sight.kept_back) {
            world.mark(Mark::MovedLater);
        }
        let upgrades = &mut self.upgrades;
        upgrades.on_the_way.push(OnTheWay { endpoint, peer, to, facts: *facts });
        // Those of a line arrive in order.
        let most = if upgrades.one_in(4) { WAY_MAX } else { Duration::ZERO };
        let of_line = upgrades.deliveries.iter().filter(|one| one.process == to);
        let last = of_line.map(|one| one.at).max().unwrap_or(Time::ZERO);
        let at = upgrades.time(now, most).max(last);
        upgrades.deliveries.push(Delivery { at, process: to, worker, moved: Box::new(moved) });
    }

    /// Its new process has a connection, or it is lost. Checks that it goes on as it was.
    fn has_arrived(&self, one: &OnTheWay) {
        let mut seen = self.seen.borrow_mut();
        let &OnTheWay { peer, to, ref facts, .. } = one;
        let sight = seen.of_peer.get_mut(&peer).expect("a connection that moves was opened");
        if sight.on_its_way {
            let mut world = self.world.borrow_mut();
            let may_be_lost = self.processes[to].stage == ProcessStage::Killed
                || self.processes[to].ends_early
                || self.ended_at.is_some()
                || world.rates.register_error > 0;
            assert!(may_be_lost, "the connection of peer {peer} is lost on its way");
            (sight.open, sight.on_its_way, sight.lost) = (false, false, true);
            (sight.closed_at, sight.cut) = (world.now, world.now >= world.cut_from);
            world.mark(Mark::LostWithHeir);
            return;
        }
        let Some(id) = sight.id.filter(|_| sight.open) else { return };
        let of = |server: &Server<E, L>| server.worker.as_ref()?.activity(id);
        let found = self.servers_of(to).find_map(of);
        let Some((active_at, received, sent)) = found else { return };
        assert_eq!(received, sight.delivered, "peer {peer}: the count of bytes does not go on");
        assert!(sent >= facts.bytes_sent, "peer {peer}: the count of bytes does not go on");
        let moved = (received, sent) != (facts.bytes_received, facts.bytes_sent);
        // A connection that has waited for a buffer, or whose service has waited, was not idle.
        let mut servers = self.servers_of(to);
        let waited = servers.any(|server| server.counters.read().waits_for_buffer > 0);
        // What one that ends still receives is thrown away.
        let moved = moved || waited || self.whims.waits > 0 || sight.finished.is_some();
        // It was due before its new process could look at it.
        let now = self.world.borrow().now;
        let overdue = self.rules.idle_timeout.is_some_and(|idle| facts.active_at + idle <= now);
        let same = match overdue {
            true => active_at >= facts.active_at,
            false => active_at == facts.active_at,
        };
        assert!(moved || same, "peer {peer}: its idle time begins anew");
        let since = self.processes[to].directory.since(id);
        assert_eq!(since, sight.opened_at, "peer {peer}: since when it has been connected");
    }

    /// Notes which connections of a process that retires cannot move now.
    fn note_kept_back(&self, process: usize) {
        if self.processes[process].stage != ProcessStage::Retired || self.ended_at.is_some() {
            return;
        }
        let workers = self.servers_of(process).filter_map(|server| server.worker.as_ref());
        let peers: Vec<usize> =
            workers.flat_map(|worker| worker.kept_back()).map(peer_of).collect();
        let mut seen = self.seen.borrow_mut();
        for peer in peers {
            if let Some(sight) = seen.of_peer.get_mut(&peer).filter(|sight| sight.open)
                && !std::mem::replace(&mut sight.kept_back, true)
            {
                self.world.borrow_mut().mark(Mark::StayedOwing);
            }
        }
    }
}
