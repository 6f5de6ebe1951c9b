//! Where a server listens. While it runs, listeners can be added and removed.
//!
//! A listener has a number. Its connections have this number as their tag, and the services and
//! byte layers are found by it. So they are fixed at start, and a new listener gets a number with
//! the right service and layer.
//!
//! Listeners are added in two steps, so that several are added together or not at all.
//! [`ServerHandle::prepare`] does what can fail: it binds the sockets and gives one to each worker.
//! [`Prepared::begin`] then starts them.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "daemon")]
use std::cell::Cell;
#[cfg(feature = "daemon")]
use std::io;
#[cfg(feature = "daemon")]
use std::thread;
#[cfg(feature = "daemon")]
use std::time::{Duration, Instant};

#[cfg(feature = "daemon")]
use super::{ServerHandle, ServerState, transpose};
use crate::base::endpoint::Endpoint;
#[cfg(feature = "daemon")]
use crate::error::StartError;
#[cfg(feature = "daemon")]
use crate::net::bind::{self, ListenOn, Listening, Offer};
#[cfg(feature = "daemon")]
use crate::shared::mailbox::WorkerCommand;
#[cfg(feature = "daemon")]
use crate::shared::moved::Passed;
#[cfg(feature = "daemon")]
use crate::shared::receipt::{Answers, Receipt, Tally};

/// How long a change of the listeners still waits for workers. All of its waits share this time, so
/// that a worker that hangs delays the change once.
#[cfg(feature = "daemon")]
pub(crate) struct Patience(Cell<Duration>);

#[cfg(feature = "daemon")]
impl Patience {
    /// That of a reload.
    pub(crate) const OF_RELOAD: Duration = Duration::from_secs(5);

    pub(crate) fn new(time: Duration) -> Patience {
        Patience(Cell::new(time))
    }

    /// How much of it is left.
    pub(crate) fn left(&self) -> Duration {
        self.0.get()
    }

    /// Waits, at most as long as is left. The time that it takes is spent.
    fn spend<T>(&self, wait: impl FnOnce(&dyn Fn() -> bool) -> T) -> T {
        let (begun, left) = (Instant::now(), self.left());
        let done = wait(&|| begun.elapsed() >= left);
        self.0.set(left.saturating_sub(begun.elapsed()));
        done
    }
}

/// Where the listeners are, by their numbers. A number that no listener has had has none.
pub(super) struct Places(Mutex<Vec<Option<Place>>>);

/// A listener of the server.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin address"))]
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    pub(super) state: PlaceState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PlaceState {
    /// It listens.
    Open,
    /// It was removed. Some workers may not have closed it.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for the daemon"))]
    Closing,
    /// Every worker has closed it.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for the daemon"))]
    Closed,
}

impl Places {
    pub(super) fn new(endpoints: &[Endpoint]) -> Places {
        let place =
            |endpoint: &Endpoint| Some(Place { endpoint: *endpoint, state: PlaceState::Open });
        Places(Mutex::new(endpoints.iter().map(place).collect()))
    }

    #[cfg_attr(
        not(any(feature = "admin", feature = "tls")),
        allow(dead_code, reason = "for the admin address and TLS")
    )]
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Option<Place>>> {
        // Each change is a single assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(feature = "tls")]
    pub(super) fn is_open(&self, number: usize) -> bool {
        let place = self.lock().get(number).copied().flatten();
        place.is_some_and(|place| place.state == PlaceState::Open)
    }

    #[cfg(feature = "daemon")]
    fn set(&self, number: usize, place: Place) {
        let mut places = self.lock();
        let len = places.len().max(number + 1);
        places.resize(len, None);
        places[number] = Some(place);
    }

    #[cfg(feature = "daemon")]
    fn numbers_in(&self, state: PlaceState) -> Vec<usize> {
        let places = self.lock();
        let is_in = |place: &Option<Place>| place.is_some_and(|place| place.state == state);
        (0..places.len()).filter(|number| is_in(&places[*number])).collect()
    }

    #[cfg(feature = "daemon")]
    fn set_state(&self, number: usize, state: PlaceState) {
        if let Some(Some(place)) = self.lock().get_mut(number) {
            place.state = state;
        }
    }
}

/// Listeners that every worker has, and that accept nothing yet. Dropping it closes them.
#[cfg(feature = "daemon")]
pub(crate) struct Prepared<'a> {
    shared: &'a ServerState,
    /// Their numbers, and where they are, with the actual ports.
    places: Vec<(usize, Endpoint)>,
    offers: Vec<Offer>,
    patience: &'a Patience,
}

#[cfg(feature = "daemon")]
impl Prepared<'_> {
    #[cfg(test)]
    pub(super) fn places(&self) -> &[(usize, Endpoint)] {
        &self.places
    }

    /// Starts the listeners. Returns their numbers with where they are.
    pub(crate) fn begin(mut self) -> Vec<(usize, Endpoint)> {
        let places = std::mem::take(&mut self.places);
        let mut offers = self.shared.offers();
        // Whoever orders the end clears the offers after it.
        if self.shared.mailboxes.ordered_end(0).is_none() {
            offers.append(&mut self.offers);
        }
        drop(offers);
        for &(number, endpoint) in &places {
            self.shared.mailboxes.set_accepting(number, true);
            self.shared.places.set(number, Place { endpoint, state: PlaceState::Open });
        }
        places
    }
}

#[cfg(feature = "daemon")]
impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        self.offers.clear();
        for (number, endpoint) in std::mem::take(&mut self.places) {
            self.shared.places.set(number, Place { endpoint, state: PlaceState::Closing });
        }
        self.shared.finish_closing(self.patience);
    }
}

#[cfg(feature = "daemon")]
impl ServerState {
    /// Gives each worker a command, and waits until all have reported, unless the server is to end.
    fn ask_workers(
        &self,
        patience: &Patience,
        command: impl FnMut(usize, Receipt) -> WorkerCommand,
    ) -> Tally {
        patience.spend(|is_spent| {
            let is_over = || self.mailboxes.ordered_end(0).is_some() || is_spent();
            self.ask_workers_until(is_over, command)
        })
    }

    fn ask_workers_until(
        &self,
        is_over: impl Fn() -> bool,
        mut command: impl FnMut(usize, Receipt) -> WorkerCommand,
    ) -> Tally {
        let answers = Answers::new();
        for worker in 0..self.counters.len() {
            let mut one = command(worker, answers.receipt());
            while let Err(full) = self.mailboxes.send(worker, one) {
                if is_over() {
                    break;
                }
                one = full;
                thread::sleep(Duration::from_micros(200));
            }
        }
        answers.wait(is_over)
    }

    /// Waits until every worker has closed the listeners that were removed. Asks them again if some
    /// may not have.
    fn finish_closing(&self, patience: &Patience) {
        let numbers = self.places.numbers_in(PlaceState::Closing);
        if numbers.is_empty() {
            return;
        }
        let close =
            |_, receipt| WorkerCommand::CloseListeners { numbers: numbers.clone(), receipt };
        let tally = self.ask_workers(patience, close);
        if tally.queued == self.counters.len() as u64 {
            for number in numbers {
                self.mailboxes.set_accepting(number, true);
                self.places.set_state(number, PlaceState::Closed);
            }
        }
    }
}

#[cfg(feature = "daemon")]
impl ServerHandle {
    /// Binds listeners, which get these numbers, and gives them to the workers. They accept nothing
    /// before [`Prepared::begin`]. `names` says how many of them, in order, belong to one name.
    ///
    /// The listeners are neither for datagrams nor inherited. The numbers are free.
    ///
    /// # Errors
    /// One of them cannot be bound, or a worker cannot watch it. Then none of them is left.
    pub(crate) fn prepare<'a>(
        &'a self,
        listeners: &[ListenOn],
        names: &[usize],
        numbers: &[usize],
        patience: &'a Patience,
    ) -> Result<Prepared<'a>, StartError> {
        let limits = self.limits();
        let (workers, share_port) = (limits.workers, limits.share_port);
        let mut prepared =
            Prepared { shared: &self.shared, places: Vec::new(), offers: Vec::new(), patience };
        if listeners.is_empty() {
            return Ok(prepared);
        }
        let mut bound = bind::bind_names(listeners, names, workers, limits.backlog, share_port)?;
        for one in &mut bound {
            let at = one.number();
            one.set_number(numbers[at]);
            let offer = one.offer(listeners[at].endpoint).map_err(|error| {
                StartError::Resource { what: "copies of the listening sockets", error }
            })?;
            prepared.offers.extend(offer);
            prepared.places.push((numbers[at], one.endpoint));
        }
        for number in numbers {
            self.shared.mailboxes.set_accepting(*number, false);
        }
        let mut of_workers = transpose(bound, workers);
        let add = |worker: usize, receipt| {
            let sockets = std::mem::take(&mut of_workers[worker]).into_iter();
            let listeners = sockets.map(|one| Listening::map(one, Passed::Descriptor)).collect();
            WorkerCommand::AddListeners { listeners, receipt }
        };
        let tally = self.shared.ask_workers(patience, add);
        if tally.queued == (workers * listeners.len()) as u64 {
            return Ok(prepared);
        }
        let error = if self.shared.mailboxes.ordered_end(0).is_some() {
            io::Error::other("the server is to end")
        } else if tally.open > 0 || patience.left().is_zero() {
            io::Error::new(io::ErrorKind::TimedOut, "a worker has not replied in time")
        } else {
            io::Error::other("the log says why")
        };
        Err(StartError::Resource { what: "further listeners of each worker", error })
    }

    /// Removes the listeners with these numbers. They accept what waits in their backlogs. Their
    /// connections go on. Returns those that some worker has not closed when the patience is spent, or
    /// when the server is to end.
    pub(crate) fn remove(&self, numbers: &[usize], patience: &Patience) -> Vec<usize> {
        // The sockets are open as long as they are offered.
        self.shared.offers().retain(|offer| !numbers.contains(&offer.number));
        numbers
            .iter()
            .for_each(|number| self.shared.places.set_state(*number, PlaceState::Closing));
        self.shared.finish_closing(patience);
        let left = self.shared.places.numbers_in(PlaceState::Closing);
        left.into_iter().filter(|number| numbers.contains(number)).collect()
    }

    /// Asks the workers again to close what [`remove`](ServerHandle::remove) has left, and waits for
    /// them as it does.
    pub(crate) fn finish_removals(&self, patience: &Patience) {
        self.shared.finish_closing(patience);
    }

    /// Whether a listener can get this number: every worker has closed the one that has had it.
    pub(crate) fn is_free(&self, number: usize) -> bool {
        let state = self.shared.places.lock().get(number).copied().flatten();
        state.is_none_or(|place| place.state == PlaceState::Closed)
    }

    /// How many clients of a listener are connected now.
    pub(crate) fn clients_of(&self, listener: usize) -> u64 {
        self.shared.clients_of(listener)
    }

    /// Sets the order in which the listening sockets are offered to a process that takes them over:
    /// that of these numbers. It takes the first one of those with the same address, such as port 0.
    pub(crate) fn order_offers(&self, numbers: &[usize]) {
        let place = |number| numbers.iter().position(|one| *one == number);
        self.shared.offers().sort_by_key(|offer| place(offer.number));
    }
}
