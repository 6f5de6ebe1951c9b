//! What a service can do once per turn of its worker's loop.

use super::messenger::Messenger;
use super::{ConnectTo, ConnectionId, To};
use crate::base::slot_queue::SlotQueue;
use crate::base::time::Time;
use crate::shared::receipt::SendError;

#[cfg(doc)]
use super::{Connection, Service};
#[cfg(doc)]
use crate::error::CloseReason;

/// What a service can do once per turn of its worker's loop.
pub struct Turn<'a> {
    pub(crate) now: Time,
    pub(crate) looked_at: Time,
    pub(crate) open: usize,
    pub(crate) free_slots: usize,
    pub(crate) wakes_max: usize,
    /// Whether all connections that used up their share of an earlier turn have been served since.
    pub(crate) all_served: bool,
    /// The connections that have used up their share and are to continue, by their slots.
    pub(crate) yielded: &'a SlotQueue,
    pub(crate) requests: &'a mut Requests,
    pub(crate) messenger: &'a Messenger,
}

impl Turn<'_> {
    /// The time, read at the start of the turn.
    pub fn now(&self) -> Time {
        self.now
    }

    /// A time before [`now`](Turn::now). Whatever had arrived from a peer by this time has been
    /// handled. A service that gives up at a deadline compares it with this time: after the deadline
    /// has passed, what the service waits for may have arrived and not been seen yet. If the service
    /// returns the deadline from [`Service::turn`], its next turn follows at once.
    pub fn looked_at(&self) -> Time {
        self.looked_at
    }

    /// Whether the connection used up its share of the turn, so that it may have more to send or to
    /// read. [`looked_at`](Turn::looked_at) does not hold for it.
    pub(crate) fn has_yielded(&self, id: ConnectionId) -> bool {
        self.yielded.contains(id.slot())
    }

    /// The connections that this worker has now, including those that are still connecting.
    pub fn open(&self) -> usize {
        self.open
    }

    /// How many more connections can be started in this turn.
    pub fn free_slots(&self) -> usize {
        self.free_slots - self.requests.connects.len()
    }

    /// Starts a connection. The result is a call of [`Service::open`] or
    /// [`Service::connect_failed`].
    ///
    /// # Panics
    /// If there is no [free slot](Turn::free_slots).
    pub fn connect(&mut self, to: ConnectTo) {
        assert!(self.free_slots() > 0, "no free slot to connect with");
        self.requests.connects.push(to);
    }

    /// How many more connections the service should wake in this turn, so that the other
    /// connections of the worker do not wait for long. Up to this number, waking allocates no
    /// memory.
    pub fn wakes_left(&self) -> usize {
        self.wakes_max.saturating_sub(self.requests.wakes.len())
    }

    /// Sends a message to clients of the server, as [`Connection::send_message`] does.
    ///
    /// # Errors
    /// As [`Connection::send_message`].
    pub fn send_message(&mut self, to: To, bytes: &[u8]) -> Result<(), SendError> {
        self.messenger.send(None, to, &[bytes])
    }

    /// Causes a call of [`Service::timer`] for the connection. Does nothing if it is closed.
    pub fn wake(&mut self, id: ConnectionId) {
        self.requests.wakes.push(id);
    }

    /// Closes the connection at once. Does nothing if it is closed already.
    pub fn close(&mut self, id: ConnectionId) {
        self.requests.closes.push(id);
    }

    /// Reports that the service has found no free buffer and cannot continue. Other workers then
    /// give buffers, and if that does not help, connections are [shed](CloseReason::Shed). Call
    /// this in each turn while the service needs a buffer.
    pub fn want_buffer(&mut self) {
        self.requests.buffer = true;
    }

    /// The messages that the service has taken since then reach the last of their clients in this
    /// turn. The worker, which reads the clock at its end, records how long that took.
    pub(crate) fn delivers(&mut self, since: Time) {
        let first = self.requests.delivered.get_or_insert(since);
        *first = since.min(*first);
    }

    /// Ends the worker. Open connections are closed at once.
    pub fn stop(&mut self) {
        self.requests.stop = true;
    }
}

/// What services request in [`Service::turn`]; carried out right after it.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) connects: Vec<ConnectTo>,
    pub(crate) wakes: Vec<ConnectionId>,
    pub(crate) closes: Vec<ConnectionId>,
    pub(crate) stop: bool,
    pub(crate) buffer: bool,
    /// See [`Turn::delivers`].
    pub(crate) delivered: Option<Time>,
}

impl Requests {
    pub(crate) fn with_capacity(each: usize) -> Requests {
        Requests {
            connects: Vec::with_capacity(each),
            wakes: Vec::with_capacity(each),
            closes: Vec::with_capacity(each),
            stop: false,
            buffer: false,
            delivered: None,
        }
    }

    #[inline]
    pub(crate) fn any(&self) -> bool {
        let Requests { connects, wakes, closes, stop, buffer: _, delivered: _ } = self;
        *stop || !connects.is_empty() || !wakes.is_empty() || !closes.is_empty()
    }
}
