//! What other threads may look at while a server runs, without waiting for a worker.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::listening::{Place, PlaceState};
use super::messaging::{Broadcast, ClientAccess};
use super::{ServerHandle, ServerState};
use crate::base::endpoint::Endpoint;
use crate::base::key::ConnectionId;
use crate::config::{Limits, MemorySum};
#[cfg(feature = "daemon")]
use crate::shared::counters::TIMES;
use crate::shared::counters::{Counters, Stats};
use crate::shared::directory::ClientInfo;
use crate::shared::examination::{self, Detail, Examination};
#[cfg(feature = "daemon")]
use crate::shared::histogram::Recorded;
use crate::shared::mailbox::WorkerCommand;
use crate::shared::receipt::{Answers, SendError, Tally};

/// The most examinations that are on their way to the workers at once, so that the inboxes keep room
/// for other commands.
const EXAMINATIONS_AT_ONCE: usize = 16;

/// Why something was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotDone {
    Refused(SendError),
    /// The worker has not replied in time. It may still do it.
    NoReply,
}

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotDone::Refused(error) => error.fmt(f),
            NotDone::NoReply => {
                f.write_str("the worker has not replied in time, and may still carry it out")
            }
        }
    }
}

/// A view of a server. It does not keep the server running.
pub(crate) struct View {
    shared: Arc<ServerState>,
    pub(crate) memory: MemorySum,
}

impl ServerHandle {
    /// The times that all workers have recorded, in the order of the table.
    #[cfg(feature = "daemon")]
    pub(crate) fn times(&self) -> Vec<Recorded> {
        TIMES.iter().map(|times| times.sum(&self.shared.counters)).collect()
    }

    /// A view of this server.
    pub(crate) fn view(&self) -> View {
        View { shared: self.shared.clone(), memory: self.memory.clone() }
    }
}

impl View {
    /// The current limits.
    pub(crate) fn limits(&self) -> Limits {
        self.shared.limits().clone()
    }

    /// The current counters.
    pub(crate) fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// The counters of each worker, without those of the threads for datagrams.
    pub(crate) fn counters(&self) -> &[Arc<Counters>] {
        &self.shared.counters
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.shared.counters.len()
    }

    /// Wakes a worker. Returns a number for [`has_turned`](View::has_turned).
    pub(crate) fn ask_to_turn(&self, worker: usize) -> u64 {
        let looks = self.shared.mailboxes.looks(worker);
        self.shared.mailboxes.notify(worker);
        looks
    }

    /// Whether a worker's loop has turned since it was asked to, or has ended.
    pub(crate) fn has_turned(&self, worker: usize, asked: u64) -> bool {
        let mailboxes = &self.shared.mailboxes;
        mailboxes.looks(worker) != asked || mailboxes.is_closed(worker)
    }

    /// Whether a drain or stop has begun.
    pub(crate) fn is_ending(&self) -> bool {
        let mailboxes = &self.shared.mailboxes;
        let is_to_end = |worker| mailboxes.ordered_end(worker).is_some();
        mailboxes.retires() || (0..self.workers()).any(is_to_end)
    }

    /// The clients that are connected now.
    pub(crate) fn clients(&self) -> Vec<ClientInfo> {
        self.shared.clients.directory.list()
    }

    /// How many clients of a listener are connected now.
    pub(crate) fn clients_of(&self, listener: usize) -> u64 {
        self.shared.clients_of(listener)
    }

    /// The listeners, with their numbers, in the order of these.
    pub(crate) fn listeners(&self) -> Vec<(usize, Endpoint)> {
        let places = self.shared.places.lock();
        let open = |place: &Place| (place.state == PlaceState::Open).then_some(place.endpoint);
        let listeners = places.iter().enumerate();
        listeners.filter_map(|(number, place)| Some((number, open(&(*place)?)?))).collect()
    }

    /// Where the listener with this number is.
    pub(crate) fn listener(&self, number: usize) -> Option<Endpoint> {
        let of_number = |(at, _): &(usize, _)| *at == number;
        self.listeners().into_iter().find(of_number).map(|(_, endpoint)| endpoint)
    }

    /// Where the listener with this number is, or was until it was removed.
    pub(crate) fn place(&self, number: usize) -> Option<Endpoint> {
        let place = self.shared.places.lock().get(number).copied().flatten();
        place.map(|place| place.endpoint)
    }

    /// Asks the workers what they know of these clients. Waits for them as long as `patience`. Clients
    /// that have left meanwhile, or whose worker does not reply, are not in the result.
    pub(crate) fn examine(
        &self,
        ids: impl Iterator<Item = ConnectionId>,
        patience: Duration,
    ) -> HashMap<ConnectionId, Detail> {
        let mut of_worker = vec![Vec::new(); self.workers()];
        for id in ids {
            of_worker[id.worker()].push(id);
        }
        let parts = |ids: &Vec<ConnectionId>| ids.len().div_ceil(examination::CONNECTIONS_MAX);
        let rounds = of_worker.iter().map(parts).max().unwrap_or(0);
        // Part by part of each worker, so that all of them work at the same time.
        let all: Vec<Arc<Examination>> = (0..rounds)
            .flat_map(|round| {
                of_worker
                    .iter()
                    .filter_map(move |ids| ids.chunks(examination::CONNECTIONS_MAX).nth(round))
            })
            .map(|ids| Arc::new(Examination::new(ids)))
            .collect();
        let begun = Instant::now();
        let mut details = HashMap::new();
        for some in all.chunks(EXAMINATIONS_AT_ONCE) {
            let answers = Answers::new();
            for examination in some {
                let worker = examination.connections()[0].0.worker();
                let receipt = answers.receipt();
                let command = WorkerCommand::Examine { examination: examination.clone(), receipt };
                // A worker whose inbox is full is too busy to reply in time.
                let _ = self.shared.mailboxes.send(worker, command);
            }
            if self.wait(&answers, begun, patience).is_err() {
                break;
            }
            for examination in some {
                let known = examination.connections();
                details.extend(known.iter().filter_map(|(id, detail)| Some((*id, (*detail)?))));
            }
        }
        details
    }

    /// As [`ServerHandle::send_to`], but does not wait for ever.
    pub(crate) fn send_to(
        &self,
        id: ConnectionId,
        bytes: &[u8],
        patience: Duration,
    ) -> Result<(), NotDone> {
        let begun = Instant::now();
        self.shared.clients.collect_buffers(1);
        let answers = self.shared.clients.begin_send_to(id, bytes).map_err(NotDone::Refused)?;
        one(&self.wait(&answers, begun, patience)?)
    }

    /// As [`ServerHandle::broadcast`], but for the clients of one listener, and does not wait for ever.
    pub(crate) fn broadcast(
        &self,
        listener: usize,
        bytes: &[u8],
        patience: Duration,
    ) -> Result<Broadcast, NotDone> {
        let begun = Instant::now();
        self.shared.clients.collect_buffers(self.workers());
        let (answers, failed) = self.shared.clients.begin_broadcast(bytes, Some(listener));
        let tally = self.wait(&answers, begun, patience)?;
        ClientAccess::sum(&tally, failed).map_err(NotDone::Refused)
    }

    /// As [`ServerHandle::disconnect`], but does not wait for ever.
    pub(crate) fn disconnect(&self, id: ConnectionId, patience: Duration) -> Result<(), NotDone> {
        let begun = Instant::now();
        let answers = self.shared.clients.begin_disconnect(id).map_err(NotDone::Refused)?;
        one(&self.wait(&answers, begun, patience)?)
    }

    /// Waits until everything is reported or every worker has ended.
    fn wait(
        &self,
        answers: &Answers,
        begun: Instant,
        patience: Duration,
    ) -> Result<Tally, NotDone> {
        let over = || begun.elapsed() >= patience;
        let tally = answers.wait(|| self.shared.has_ended() || over());
        match tally.open > 0 && !self.shared.has_ended() {
            true => Err(NotDone::NoReply),
            false => Ok(tally),
        }
    }

    /// Makes a listener accept connections or not. Clients that connect to one that does not wait in
    /// its backlog, as long as that has room. Returns when every worker has followed.
    pub(crate) fn set_accepting(
        &self,
        listener: usize,
        accepts: bool,
        patience: Duration,
    ) -> Result<(), NotDone> {
        const PAUSE: Duration = Duration::from_millis(1);
        let begun = Instant::now();
        self.shared.mailboxes.set_accepting(listener, accepts);
        // When a worker begins a turn for the second time, the turn in which it followed is over.
        for _ in 0..2 {
            let asked: Vec<u64> = (0..self.workers()).map(|at| self.ask_to_turn(at)).collect();
            for (worker, asked) in asked.into_iter().enumerate() {
                while !self.has_turned(worker, asked) {
                    if begun.elapsed() >= patience {
                        return Err(NotDone::NoReply);
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
        Ok(())
    }

    /// Whether a listener is to accept connections.
    pub(crate) fn accepts(&self, listener: usize) -> bool {
        !self.shared.mailboxes.stopped().contains(&listener)
    }

    /// Whether a listener was told to stop accepting.
    pub(crate) fn any_stopped(&self) -> bool {
        self.listeners().into_iter().any(|(number, _)| !self.accepts(number))
    }
}

/// The result for one client.
fn one(tally: &Tally) -> Result<(), NotDone> {
    match tally {
        Tally { queued: 1, .. } => Ok(()),
        Tally { why, .. } => Err(NotDone::Refused(why.unwrap_or(SendError::Gone))),
    }
}
