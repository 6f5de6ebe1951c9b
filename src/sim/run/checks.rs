//! What must hold in the world: after every step, when the world is idle, and at the end.
//! `../audit.rs` checks what members of a hub received. What one event alone shows is checked where
//! the event is handled.

use std::collections::HashSet;
use std::time::Duration;

use super::upgrade::{Process, ProcessStage};
use super::{Ending, HEALED_AFTER, PATIENCE, Server, Simulation};
use crate::base::key::ConnectionId;
use crate::base::time::Time;
use crate::error::CloseReason;
use crate::shared::counters::Stats;
use crate::sim::audit;
use crate::sim::marks::Mark;
use crate::sim::messages;
use crate::sim::peer::{Peer, PeerEnd, STUCK_AFTER};
use crate::sim::protocol::Served;
use crate::sim::seat::Seat;
use crate::sim::service::{Sight, Watched};
use crate::sim::wire::Framing;
use crate::sim::world::ListenerId;
use crate::worker::Worker;
use crate::worker::connection::machine::Phase;
use crate::worker::layer::Layer;
use crate::worker::supply::patience;

/// Longest delay of shedding beyond `shed_after`, because the request to another worker may have to
/// be repeated.
const SHED_LATE_MAX: Duration = Duration::from_millis(100);
/// Time from accept to the first reply, after the faults have ended.
const TURN_TAKES: Duration = Duration::from_secs(1);
/// Longest time until a worker that runs has seen what happened on a socket: readiness may be
/// reported 5 ms late.
const SEEN_AFTER_MAX: Duration = Duration::from_millis(10);
/// Longest delay of a timer: the tick of the wheel, and the tick that it is rounded up by.
const TIMER_LATE_MAX: Duration = Duration::from_millis(2);

impl<E: Seat, L: Layer> Simulation<E, L> {
    /// Checks that no connection is served before one that has waited longer and still waits.
    /// `before` is the queue before the turn. A connection that began to close, or was closed, left
    /// the queue without being served.
    pub(super) fn check_order(before: &[(u64, Option<Phase>)], worker: &Worker<E, Watched, L>) {
        let after = worker.waiting();
        let mut still_waiting = None;
        for &(key, phase) in before {
            if worker.buffers_needed(key) > 1 {
                continue;
            }
            if after.contains(&key) {
                still_waiting = still_waiting.or(Some(key));
            } else if let Some(first) = still_waiting {
                assert!(
                    worker.phase(key) != phase,
                    "connection {key:x} was served before {first:x}, which has waited longer"
                );
            }
        }
    }

    /// Checks that a worker did no more in one turn than it may: it took at most the `parcels` that
    /// were there, and passed at most `messages` on.
    pub(super) fn check_turn(&self, parcels: usize, messages: usize) {
        let mut seen = self.seen.borrow_mut();
        let took = std::mem::take(&mut seen.parcels_of_turn);
        assert!(took <= parcels, "{took} parcels in one turn, when {parcels} were there");
        let passed = std::mem::take(&mut seen.messages_of_turn);
        assert!(passed <= messages, "{passed} messages in one turn, and at most {messages} may be");
    }

    /// Checks that a connection waits for a buffer only if it has bytes to receive. That its client
    /// has left is noticed without one.
    fn check_real_bytes(&self) {
        if !L::IS_PLAIN {
            return;
        }
        let waiting: HashSet<(usize, ConnectionId)> = self
            .workers()
            .flat_map(|(of, worker)| worker.awaiting_bytes().map(move |id| (of, id)))
            .collect();
        let seen = self.seen.borrow();
        for peer in &self.peers {
            let Some(sight) = seen.of_peer.get(&peer.number) else { continue };
            let waits = |id| waiting.contains(&(sight.process, id));
            let waits = sight.open && sight.id.is_some_and(waits);
            assert!(
                !waits || peer.sent > sight.delivered,
                "peer {} waits for a buffer, and has sent nothing for it",
                peer.number
            );
        }
    }

    pub(super) fn check(&mut self) {
        if let Some(external) = &mut *self.external.borrow_mut() {
            external.look(&mut self.world.borrow_mut(), &self.seen.borrow(), false);
        }
        if let Some(wrong) = self.world.borrow_mut().wrong.take() {
            panic!("{wrong}");
        }
        self.check_counts();
        self.check_timers();
    }

    /// Checks, in an idle world, that nothing waits for a resource that is available.
    pub(super) fn check_rest(&mut self) {
        if let Some(external) = &mut *self.external.borrow_mut() {
            external.look(&mut self.world.borrow_mut(), &self.seen.borrow(), true);
        }
        self.check_directory();
        self.check_messages();
        self.check_real_bytes();
        self.mark_starving_layers();
        self.check_owners();
        let tickets = |(of, worker): (usize, &Worker<E, Watched, L>)| {
            worker.tickets().map(move |ticket| (of, ticket)).collect::<Vec<_>>()
        };
        let tickets: HashSet<_> = self.workers().flat_map(tickets).collect();
        self.waits.retain(|ticket, _| tickets.contains(ticket));
        for process in 0..self.processes.len() {
            self.check_rest_of(process);
        }
    }

    /// The same for one process.
    fn check_rest_of(&mut self, process: usize) {
        if self.processes[process].stage == ProcessStage::Killed {
            return;
        }
        let (output, input) = self.longest_unmoved(process);
        let stalled = output.into_iter().chain(input).min();
        let Process { reserve, permits, .. } = &self.processes[process];
        let published = reserve.board().longest_stalled();
        let holds = |worker: &Worker<E, Watched, L>| {
            worker.inputs().any(|(_, bytes)| bytes > 0) || worker.kept_by_layers().next().is_some()
        };
        let any_held = self.workers_of(process).any(holds);
        assert_eq!(published.is_some(), output.is_some() || any_held, "stalls are published");
        let permits_left = permits.taken() < self.processes[process].limit;
        let reserve = reserve.available();
        let idle_buffers = |server: &Server<E, L>| server.pool.own();
        let free = self.servers_of(process).map(idle_buffers).sum::<usize>() + reserve;
        let waits_since = self.longest_wait(process);
        // When all processes end, one that has closed a listener does not close those of another.
        let ends_with_others = self.ended_at.is_some() && self.processes.len() > 1;
        let accepts = self.processes[process].stage == ProcessStage::Serving && !ends_with_others;
        let world = self.world.borrow();
        if let (Some(timeout), Some(output)) = (self.rules.send_timeout, output) {
            let due = output + timeout + SHED_LATE_MAX;
            assert!(world.now <= due, "a stalled send is not closed after its time-out");
        }
        for server in self.servers_of(process) {
            let (index, Some(worker)) = (server.index, &server.worker) else { continue };
            let number = Process::FIRST_WORKER * process + index;
            let waiting = |&id: &ListenerId| world.has_waiting(id, number);
            assert!(
                !(accepts && permits_left && server.listeners.iter().any(waiting))
                    || worker.accept_pauses(),
                "worker {index} sleeps while a client waits and a permit is free"
            );
            let paused = server.counters.read().listeners_paused > 0;
            assert_eq!(paused, worker.accept_pauses(), "worker {index} shows paused listeners");
            // One that could not use fewer waits for more.
            let can_be_served = |&key: &u64| worker.buffers_needed(key) <= free;
            assert!(
                self.late_buffers || !worker.waiting().iter().any(can_be_served),
                "worker {index} sleeps while a connection waits and {free} buffers are free, \
                 {reserve} of them in the reserve"
            );
        }
        if let (Some(since), Some(after), Some(stalled)) =
            (waits_since, self.rules.shed_after, stalled)
        {
            let resumed = self.suspended_at.unwrap_or(Time::ZERO);
            let due = (since.max(resumed) + after).max(stalled + patience(after)) + SHED_LATE_MAX;
            assert!(
                world.now <= due,
                "nothing is shed although a connection has waited for a buffer since {since:?}, \
                 and another one has not moved since {stalled:?}"
            );
        }
    }

    /// Since when the longest-stalled output, and the longest-held input, of a process has not moved.
    fn longest_unmoved(&self, process: usize) -> (Option<Time>, Option<Time>) {
        let workers = || self.workers_of(process);
        let output = workers().filter_map(Worker::stalled_since).min();
        let of_layers = |worker: &Worker<E, Watched, L>| {
            let kept = worker.kept_by_layers().filter(|&(id, _)| worker.is_read(id));
            kept.map(|(_, since)| since).min()
        };
        let kept = workers().filter_map(of_layers).min();
        // As the service saw it. The service is not told when its input is released.
        let holding: Vec<ConnectionId> = workers().flat_map(Worker::holding).collect();
        if holding.is_empty() {
            return (output, kept);
        }
        let seen = self.seen.borrow();
        let holds = |sight: &&Sight| {
            sight.process == process && sight.id.is_some_and(|id| holding.contains(&id))
        };
        let input = seen.of_peer.values().filter(holds).filter_map(|sight| sight.held_since).min();
        (output, input.into_iter().chain(kept).min())
    }

    /// Since when the longest waiter in the queue of a worker of a process has been there. The tickets
    /// tell the waits of a connection apart.
    fn longest_wait(&mut self, process: usize) -> Option<Time> {
        let now = self.world.borrow().now;
        let tickets: Vec<u64> = self.workers_of(process).flat_map(Worker::tickets).collect();
        let since = |ticket| *self.waits.entry((process, ticket)).or_insert(now);
        tickets.into_iter().map(since).min()
    }

    /// Checks that the directories list exactly the open connections.
    fn check_directory(&self) {
        for (number, process) in self.processes.iter().enumerate() {
            if process.stage == ProcessStage::Killed {
                continue;
            }
            let inputs = self.workers_of(number).flat_map(Worker::inputs);
            let mut there: Vec<ConnectionId> = inputs.map(|(id, _)| id).collect();
            let mut listed: Vec<_> =
                process.directory.list().iter().map(|client| client.id).collect();
            there.sort();
            listed.sort();
            assert_eq!(listed, there, "the directory and the connections differ");
        }
    }

    /// Checks that each connection is in one process, or on its way to one.
    fn check_owners(&self) {
        let of = |(of, worker): (usize, &Worker<E, Watched, L>)| {
            worker.inputs().map(move |(id, _)| (of, id)).collect::<Vec<_>>()
        };
        let mut there: Vec<_> = self.workers().flat_map(of).collect();
        let seen = self.seen.borrow();
        let here = seen.of_peer.values().filter(|sight| sight.open && !sight.on_its_way);
        let mut known: Vec<_> = here.filter_map(|sight| Some((sight.process, sight.id?))).collect();
        there.sort();
        known.sort();
        assert_eq!(there, known, "a connection is in no process, or in two");
        if self.world.borrow().framings.is_empty() {
            return;
        }
        let address = |id| seen.of_peer.values().find(|sight| sight.id == Some(id))?.address;
        for client in self.processes[0].directory.list() {
            assert_eq!(client.peer.socket_addr(), address(client.id), "the peer in the directory");
        }
    }

    /// The workers that run, with their processes.
    pub(super) fn workers(&self) -> impl Iterator<Item = (usize, &Worker<E, Watched, L>)> {
        self.servers.iter().filter_map(|server| Some((server.process, server.worker.as_ref()?)))
    }

    /// The workers of a process that run.
    fn workers_of(&self, process: usize) -> impl Iterator<Item = &Worker<E, Watched, L>> {
        self.servers_of(process).filter_map(|server| server.worker.as_ref())
    }

    pub(super) fn servers_of(&self, process: usize) -> impl Iterator<Item = &Server<E, L>> {
        self.servers.iter().filter(move |server| server.process == process)
    }

    /// The processes that were not killed, with their numbers.
    pub(super) fn living(&self) -> impl Iterator<Item = (usize, &Process)> {
        (0..).zip(&self.processes).filter(|(_, process)| process.stage != ProcessStage::Killed)
    }

    /// How many connections there are, and places for those that come.
    pub(super) fn permits_taken(&self) -> u64 {
        self.living().map(|(_, process)| process.permits.taken()).sum()
    }

    /// Every message of a service has reached the recipients that were there and still are. While
    /// the servers end, what is on its way may be dropped.
    fn check_messages(&self) {
        let mut seen = self.seen.borrow_mut();
        // The same if a worker has nothing left because its process was replaced.
        if self.ended_at.is_some() || self.processes[0].stage == ProcessStage::Retired {
            return seen.log.forgive();
        }
        let recipients: Vec<_> = self.workers_of(0).flat_map(Worker::recipients).collect();
        seen.log.check_rest(&recipients);
    }

    fn check_counts(&mut self) {
        let of_worker = |worker: &Worker<E, Watched, L>| worker.open() + worker.engine().held();
        let (mut sockets, mut moved) = (0, false);
        for (number, process) in self.living() {
            let reserve = process.reserve.available();
            let of = |server: &Server<E, L>| server.pool.held() + server.pool.own();
            let buffers = self.servers_of(number).map(of).sum::<usize>() + reserve;
            assert_eq!(
                buffers + process.reserve.travelling(),
                self.buffers,
                "free, held and travelling buffers do not add up to all buffers"
            );
            let contexts: usize = self.workers_of(number).map(of_worker).sum();
            let taken = (contexts + self.upgrades.on_the_way_to(number)) as u64;
            assert_eq!(process.permits.taken(), taken, "permits taken and connections differ");
            sockets += contexts;
            moved |= process.reserve.board().claiming() != 0 && reserve > 0;
        }
        let of_clients =
            self.clients.as_ref().and_then(|side| side.worker.as_ref()).map_or(0, Worker::open);
        let mut world = self.world.borrow_mut();
        let (open, on_the_way) = (world.open(), world.tokens());
        assert_eq!(
            open,
            sockets + of_clients + on_the_way,
            "open sockets and live contexts differ"
        );
        if !self.moved && moved {
            self.moved = true;
            world.mark(Mark::BufferMoved);
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

    pub(super) fn check_end(&mut self) {
        assert_eq!(self.world.borrow().open(), 0, "a descriptor was lost");
        for (number, process) in self.living() {
            assert_eq!(process.permits.taken(), 0, "a permit was lost");
            let held = self.servers_of(number).map(|server| server.pool.held());
            assert_eq!(held.sum::<usize>(), 0, "a lease was lost");
            let references = self.servers_of(number).map(|server| server.pool.references_in_use());
            assert_eq!(references.sum::<usize>(), 0, "a reference was lost");
            assert_eq!(process.reserve.travelling(), 0, "a parcel was lost");
        }
        self.check_directory();
        self.check_owners();
        if let Some(external) = &mut *self.external.borrow_mut() {
            external.look(&mut self.world.borrow_mut(), &self.seen.borrow(), true);
            assert_eq!(self.world.borrow_mut().wrong.take(), None);
        }
        self.mark_counters();
        for peer in &self.peers {
            self.check_peer(peer);
        }
        self.check_introductions();
        self.check_records();
        let in_time = |server: &&Server<E, L>| !self.processes[server.process].ends_early;
        let cut: u64 = self.servers.iter().filter(in_time).map(|server| server.cut).sum();
        self.check_cut(cut);
        match self.ending {
            // A layer that waits for a buffer does not notice that its client has left.
            Ending::Quiet if !L::IS_PLAIN && self.may_wait_for_ever() => {}
            Ending::Quiet => {
                let failed = self.failed_at_end();
                assert!(
                    cut <= failed,
                    "{cut} connections were cut although all clients had left, and only {failed} \
                     had failed"
                );
            }
            Ending::Drain(_) if cut > 0 => self.world.borrow_mut().mark(Mark::DrainCut),
            _ => {}
        }
    }

    /// Number of connections that a failed system call, a panic of the service, or a hub that had lost
    /// messages for them, closed after the end had begun. A reset by the peer is not among them. A
    /// client that has left may still be in the backlog then, and the send of what it was owed may
    /// fail.
    fn failed_at_end(&self) -> u64 {
        const FAILED: [CloseReason; 4] = [
            CloseReason::Failed,
            CloseReason::PeerLost,
            CloseReason::ServicePanic,
            CloseReason::SlowReader,
        ];
        let (seen, ended_at) = (self.seen.borrow(), self.ended_at.unwrap_or(Time::MAX));
        let late = seen.of_peer.values().filter(|sight| sight.closed_at >= ended_at);
        late.filter(|sight| sight.closed.is_some_and(|why| FAILED.contains(&why))).count() as u64
    }

    /// Checks that the number of connections that the end of the server cut agrees with what the
    /// clients received.
    fn check_cut(&self, cut: u64) {
        let (seen, ended_at) = (self.seen.borrow(), self.ended_at.unwrap_or(Time::MAX));
        let lost: Vec<usize> = { self.peers.iter() }
            .filter(|peer| {
                let sight = seen.of_peer.get(&peer.number);
                sight.is_some_and(|sight| sight.closed_at >= ended_at && self.is_owed(peer, sight))
            })
            .map(|peer| peer.number)
            .collect();
        assert!(lost.len() as u64 <= cut, "{cut} connections were cut, but also peers {lost:?}");
        let orderly = [CloseReason::Drained, CloseReason::PeerClosed];
        let untrue = { lost.iter() }
            .find(|number| seen.of_peer[number].closed.is_some_and(|why| orderly.contains(&why)));
        assert_eq!(untrue, None, "a peer lost output, and its connection ended in order");
        if !lost.is_empty() {
            self.world.borrow_mut().mark(Mark::OutputLostAtEnd);
        }
        if !L::IS_PLAIN {
            return; // Connections that were never opened may be cut too.
        }
        // Those that saw FIN before the server was allowed to cut were finished.
        let finished = |number: usize| {
            self.peers.get(number).is_some_and(|peer| peer.end == Some(PeerEnd::Fin))
        };
        // One that is shed has not been finished, also if it was sent all that it was owed so far.
        let may_be_cut = |(number, sight): &(&usize, &Sight)| {
            let shed = sight.closed == Some(CloseReason::Shed);
            sight.closed_at >= ended_at && (sight.cut || shed || !finished(**number))
        };
        let most = seen.of_peer.iter().filter(may_be_cut).count() as u64;
        assert!(cut <= most, "{cut} connections were cut, but only {most} were not finished");
    }

    /// Whether a peer that reads to the end was reset by the server before it had received all of
    /// the reply to what the service had received.
    fn is_owed(&self, peer: &Peer, sight: &Sight) -> bool {
        let excused = [CloseReason::Reset, CloseReason::ServicePanic];
        let is_known = self.served != Served::Chargen && !self.served.is_hub() && !sight.holding;
        is_known
            && !sight.lost
            && !self.processes[sight.process].ends_early
            && peer.end == Some(PeerEnd::Reset)
            && peer.reads_to_the_end()
            && !peer.gave_up()
            && !sight.closed.is_some_and(|reason| excused.contains(&reason))
            && peer.gets_no_fin(&self.world.borrow())
            && peer.reader.reply < peer.owed_for(sight.delivered, sight.ended)
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
        for (number, _) in self.living() {
            let of = Stats::read(self.servers_of(number).map(|server| &*server.counters)).total();
            let (came, left) = (of.accepted + of.taken_over, of.closed_total() + of.handed_over);
            assert_eq!(came, left, "accepted and closed differ, with those that moved");
        }
        let dropped = self.seen.borrow().log.dropped;
        // A hub counts those of its own members too.
        let agrees = total.messages_dropped == dropped
            || self.served.is_hub() && total.messages_dropped > dropped;
        assert!(agrees, "{} messages dropped, and {dropped} were", total.messages_dropped);
        let wire = (total.wire_bytes_received, total.wire_bytes_sent);
        let of_service = (total.bytes_received, total.bytes_sent);
        if L::IS_PLAIN {
            assert_eq!(wire, of_service, "bytes on the wire and of the service differ");
        } else {
            assert!(wire.0 >= of_service.0 && wire.1 >= of_service.1, "{wire:?} {of_service:?}");
        }
    }

    /// Checks that what the peer saw agrees with what the service saw.
    fn check_peer(&self, peer: &Peer) {
        assert!(
            !peer.was_stuck()
                || self.is_held_back(peer)
                || self.may_wait_for_ever()
                || self.may_be_behind_others(peer),
            "peer {} gave up after it had sent {} bytes and received {}",
            peer.number,
            peer.sent,
            peer.reader.reply
        );
        let seen = self.seen.borrow();
        let Some(sight) = seen.of_peer.get(&peer.number) else {
            assert_eq!(
                peer.reader.reply + peer.reader.external.len(),
                0,
                "a reply although the service never saw the peer"
            );
            return;
        };
        assert!(
            !peer.is_refused() || sight.unintroduced,
            "the service saw peer {} although its header was wrong",
            peer.number
        );
        assert!(!sight.open, "peer {}: its connection was never closed", peer.number);
        assert!(sight.delivered <= peer.sent);
        self.check_reply(peer, sight);
        self.check_reason(peer, sight);
        self.check_time_out(peer, sight);
        self.check_external(peer, sight);
        if let Some(member) = &peer.member {
            audit::member(&mut self.world.borrow_mut(), &seen, peer, member, sight);
        }
    }

    fn check_reply(&self, peer: &Peer, sight: &Sight) {
        if self.served == Served::Chargen || self.served.is_hub() {
            return;
        }
        let (number, reply) = (peer.number, peer.reader.reply);
        let owed = peer.owed_for(sight.delivered, sight.ended);
        assert!(reply <= owed, "peer {number} got more than its reply: {sight:?}");
        // A layer may drop what is owed when the peer's stream is broken.
        let broken =
            matches!(sight.closed, Some(CloseReason::TlsAlert | CloseReason::TlsTruncated));
        let is_whole = peer.end == Some(PeerEnd::Fin) && peer.reads_to_the_end() && !broken;
        if is_whole && !sight.holding && !sight.lost {
            assert_eq!(reply, owed, "peer {number}: FIN came before the whole reply: {sight:?}");
        }
        // The send time-out may cut the last bytes, but the reason stays `PeerClosed`.
        let timed_out = peer.end == Some(PeerEnd::Reset) && self.rules.send_timeout.is_some();
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

    /// Checks that a forbidden message, or the last one, closes the connection with its reason, and
    /// that no other event gives this reason.
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
            // Input held back until the peer's FIN is handled then, and closes for that reason.
            let overlooked =
                sight.closed == Some(CloseReason::PeerClosed) && reason != CloseReason::Service;
            assert!(!overlooked, "peer {number} had to be closed for {reason}: {sight:?}");
        }
    }

    /// Checks that what would have prevented a time-out was not there when the connection was
    /// closed for it.
    fn check_time_out(&self, peer: &Peer, sight: &Sight) {
        let (at_fin, at_close) = peer.unseen(&self.world.borrow());
        let (since, decided_at) = match sight.closed {
            Some(CloseReason::IdleTimeout) => (
                at_fin.unwrap_or(at_close).input,
                sight.finished.map_or(sight.closed_at, |(_, at)| at),
            ),
            // One that holds input may be shed for that.
            Some(CloseReason::Shed) if sight.held_at_close => return,
            Some(CloseReason::SendTimeout) => (at_close.room, sight.closed_at),
            Some(CloseReason::Shed) => {
                let across = self.shed_across.iter().find(|(_, until)| *until == sight.closed_at);
                (at_close.room, across.map_or(sight.closed_at, |&(from, _)| from))
            }
            _ => return,
        };
        assert!(
            since.is_none_or(|since| since + SEEN_AFTER_MAX >= decided_at),
            "peer {} was closed at {decided_at:?} for {:?}, but it had moved at {since:?}",
            peer.number,
            sight.closed
        );
    }

    fn check_external(&self, peer: &Peer, sight: &Sight) {
        let heard = peer.member.as_ref().map_or(&peer.reader.external, |member| &member.external);
        let (taken, number) = (&sight.external, peer.number);
        // A hub sends what it has queued for a client only on an orderly close.
        let in_order = (peer.member.is_none() || sight.finished.is_some()) && !sight.lost;
        // A layer that has sent an alert drops what was queued.
        let has_sent_wrong = peer.records().is_some_and(|records| records.went_wrong);
        let in_order = in_order && sight.closed != Some(CloseReason::TlsAlert) && !has_sent_wrong;
        if peer.end == Some(PeerEnd::Fin) && peer.reads_to_the_end() && in_order {
            assert_eq!(heard, taken, "peer {number}: external messages and those of services");
            for &message in heard {
                let of_service = message >= messages::FIRST;
                let mark = if of_service { Mark::MessageReceived } else { Mark::ExternalArrived };
                self.world.borrow_mut().mark(mark);
            }
        } else {
            assert!(taken.starts_with(heard), "peer {number}: {heard:?} of {taken:?}");
        }
    }

    /// Whether a connection may wait for a buffer forever. A service that holds input keeps
    /// buffers, and without shedding nothing takes them back. Time-outs do not help, because a
    /// connection in the queue for a buffer is not idle.
    pub(super) fn may_wait_for_ever(&self) -> bool {
        let holds = self.whims.holds > 0 || self.whims.hoards > 0 || self.served.keeps_input();
        // Output that a layer has not taken keeps buffers too, of which the layer needs one.
        let holds = holds || self.world.borrow().framings.contains(&Framing::Records);
        self.rules.shed_after.is_none() && holds
    }

    /// Whether its bytes are deliberately held back, or it was not accepted because connections
    /// with held-back bytes take the permits. No time-out ends that while no connection needs a
    /// buffer.
    fn is_held_back(&self, peer: &Peer) -> bool {
        let seen = self.seen.borrow();
        let patience_ends = self.begun + HEALED_AFTER + PATIENCE;
        match seen.of_peer.get(&peer.number) {
            Some(sight) if sight.opened_at < patience_ends => self.held_back.contains(&peer.number),
            _ => !self.held_back.is_empty(),
        }
    }

    /// Whether slow peers may have taken all permits or buffers until the end, while bytes moved.
    fn may_be_behind_others(&self, peer: &Peer) -> bool {
        let patience_ends = self.begun + HEALED_AFTER + PATIENCE;
        let seen = self.seen.borrow();
        let opened_at = seen.of_peer.get(&peer.number).map(|sight| sight.opened_at);
        // It was accepted so late that its reply was in transit.
        if opened_at.is_some_and(|at| at < patience_ends && at + TURN_TAKES >= patience_ends) {
            return true;
        }
        let accepted = opened_at.is_some_and(|at| at < patience_ends);
        // Others had the permits and were being served. (`check_rest` checks that no client waits
        // while a permit is free.)
        let was_served =
            |other: &Peer| other.moved_since(patience_ends.saturating_sub(STUCK_AFTER));
        if !accepted && self.peers.iter().any(was_served) {
            return true;
        }
        let queued = |server: &Server<E, L>| server.counters.read().waits_for_buffer > 0;
        (!accepted || self.servers.iter().any(queued))
            && self.peers.iter().any(|other| other.gave_up() && !other.was_stuck())
    }
}
