//! Where a server listens. While it runs, listeners can be added and removed.
//!
//! A listener has a number. Its connections have this number as their tag, and the services and byte
//! layers are found by it. So they are fixed at start, and whoever adds a listener gives it a number
//! whose service and layer are right.
//!
//! Listeners are added in two steps, so that several are added together or not at all.
//! [`ServerHandle::prepare`] does what can fail: it binds the sockets and gives one to each worker.
//! [`Prepared::begin`] then starts them.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "daemon")]
use std::io;
#[cfg(feature = "daemon")]
use std::thread;
#[cfg(feature = "daemon")]
use std::time::{Duration, Instant};

#[cfg(feature = "daemon")]
use super::{ServerHandle, Shared, transpose};
use crate::base::endpoint::Endpoint;
#[cfg(feature = "daemon")]
use crate::error::StartError;
#[cfg(feature = "daemon")]
use crate::net::bind::{self, ListenOn, Listening, Offer};
#[cfg(feature = "daemon")]
use crate::shared::mailbox::Command;
#[cfg(feature = "daemon")]
use crate::shared::moved::Passed;
#[cfg(feature = "daemon")]
use crate::shared::receipt::{Answers, Receipt, Tally};

/// How long the workers have to add or close listeners.
#[cfg(feature = "daemon")]
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the listeners are, by their numbers. A number that no listener has had has none.
pub(super) struct Places(Mutex<Vec<Option<Place>>>);

/// A listener of the server.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin address"))]
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    pub(super) state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
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
        let place = |endpoint: &Endpoint| Some(Place { endpoint: *endpoint, state: State::Open });
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
        place.is_some_and(|place| place.state == State::Open)
    }

    #[cfg(feature = "daemon")]
    fn set(&self, number: usize, place: Place) {
        let mut places = self.lock();
        let len = places.len().max(number + 1);
        places.resize(len, None);
        places[number] = Some(place);
    }

    #[cfg(feature = "daemon")]
    fn set_state(&self, number: usize, state: State) {
        if let Some(Some(place)) = self.lock().get_mut(number) {
            place.state = state;
        }
    }
}

/// Listeners that every worker has, and that accept nothing yet. Dropping it closes them.
#[cfg(feature = "daemon")]
pub(crate) struct Prepared<'a> {
    shared: &'a Shared,
    /// Their numbers, and where they are, with the actual ports.
    places: Vec<(usize, Endpoint)>,
    offers: Vec<Offer>,
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
            self.shared.places.set(number, Place { endpoint, state: State::Open });
        }
        places
    }
}

#[cfg(feature = "daemon")]
impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        self.offers.clear();
        for (number, endpoint) in std::mem::take(&mut self.places) {
            self.shared.places.set(number, Place { endpoint, state: State::Closing });
            self.shared.has_closed(number);
        }
    }
}

#[cfg(feature = "daemon")]
impl Shared {
    /// Gives each worker a command, and waits until all have reported.
    fn ask_workers(&self, mut command: impl FnMut(usize, Receipt) -> Command) -> Tally {
        let begun = Instant::now();
        let is_over = || self.has_ended() || begun.elapsed() >= PATIENCE;
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

    /// Whether every worker has closed a listener. Asks them again if some may not have.
    fn has_closed(&self, number: usize) -> bool {
        let state = self.places.lock().get(number).copied().flatten().map(|place| place.state);
        match state {
            None | Some(State::Closed) => true,
            Some(State::Open) => false,
            Some(State::Closing) => {
                let close = |_, receipt| Command::CloseListeners { numbers: vec![number], receipt };
                let tally = self.ask_workers(close);
                let has_closed = tally.queued == self.counters.len() as u64;
                if has_closed {
                    self.mailboxes.set_accepting(number, true);
                    self.places.set_state(number, State::Closed);
                }
                has_closed
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
    pub(crate) fn prepare(
        &self,
        listeners: &[ListenOn],
        names: &[usize],
        numbers: &[usize],
    ) -> Result<Prepared<'_>, StartError> {
        let limits = self.limits();
        let (workers, share_port) = (limits.workers, limits.share_port);
        let mut prepared =
            Prepared { shared: &self.shared, places: Vec::new(), offers: Vec::new() };
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
            Command::AddListeners { listeners, receipt }
        };
        let tally = self.shared.ask_workers(add);
        match tally.queued == (workers * listeners.len()) as u64 {
            true => Ok(prepared),
            false => {
                let error = io::Error::other("the log says why");
                Err(StartError::Resource { what: "further listeners of each worker", error })
            }
        }
    }

    /// Removes the listener with this number. It accepts what waits in its backlog. Its connections go
    /// on. Returns whether every worker has closed it.
    pub(crate) fn remove(&self, number: usize) -> bool {
        // The sockets are open as long as they are offered.
        self.shared.offers().retain(|offer| offer.number != number);
        self.shared.places.set_state(number, State::Closing);
        self.shared.has_closed(number)
    }

    /// Whether a listener can get this number: every worker has closed the one that has had it.
    pub(crate) fn is_free(&self, number: usize) -> bool {
        self.shared.has_closed(number)
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
