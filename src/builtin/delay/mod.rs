//! The delay service: an echo whose replies are late by a known [`Law`], so that what a load
//! generator measures can be checked against what is calculated.
//!
//! Input is held where it arrived until it is due. Beside it stands, for each connection, a ring of
//! the times at which its parts are due, allocated at start; the connection whose first part is due
//! next is found by an agenda over all of the worker's connections, and woken through
//! [`Turn::wake`]. A connection with as many requests or bytes waiting as it may have is not read
//! until some of them have left.
//!
//! * `law`: when a request departs. Pure.
//! * `agenda`: which connection is due next. Pure.
//! * `options`: how a law is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;

use super::option::Options;
use crate::base::time::Time;
use crate::buffer::Chain;
use crate::config::{LEASES_PER_CONNECTION_MAX, Limits};
use crate::error::{CloseReason, SettingError};
use crate::service::{
    Answer, Connection, ConnectionId, Service, ServiceFactory, ServicePlan, Turn, WorkerContext,
};

mod agenda;
pub mod law;
mod options;
#[cfg(test)]
mod tests;

use agenda::Agenda;
pub use law::{Distribution, Law, Stall};
pub use options::DelayOptions;

/// An echo that is late by a law.
///
/// The services of all workers share the queue, so that with [`Law::queue`] there is one server
/// whatever the number of workers.
#[derive(Debug)]
pub struct Delay {
    options: DelayOptions,
    /// When the last request leaves that has come to any worker, in nanoseconds.
    last_departure: Arc<AtomicU64>,
    rng: Rng,
    waiting: Waiting,
    agenda: Agenda,
    /// Who has each slot.
    ids: Vec<u64>,
    /// The most bytes of one receive.
    receive_max: usize,
}

/// What the service remembers of a connection.
#[derive(Default)]
pub struct DelaySession {
    /// The place in its ring of the request that is due first.
    first: u32,
    /// Requests that wait.
    count: u32,
    /// Bytes of these. They stand in the input behind those that are overdue.
    bytes: u32,
    /// Bytes at the front of the input that are due, and not sent for want of a buffer.
    overdue: u32,
    /// When bytes last arrived.
    arrived: Time,
    /// The peer has closed its side.
    ended: bool,
    /// The server drains.
    drains: bool,
}

/// The requests that wait: for each slot a ring of when each is due, and of how many bytes. One that
/// is due before those in front of it leaves with them.
#[derive(Debug)]
struct Waiting {
    depth: usize,
    /// In nanoseconds. Plain numbers, so that the memory of slots never used is never touched.
    dues: Vec<u64>,
    bytes: Vec<u32>,
}

impl Delay {
    fn new(options: DelayOptions, last_departure: Arc<AtomicU64>, worker: &WorkerContext) -> Delay {
        let slots = worker.connections_max();
        Delay {
            options,
            last_departure,
            // Each worker draws for itself, and not the same as the others.
            rng: Rng::with_seed(options.seed.wrapping_add(worker.worker() as u64)),
            waiting: Waiting::new(slots, options.depth as usize),
            agenda: Agenda::new(slots),
            ids: vec![0; slots],
            receive_max: usize::from(LEASES_PER_CONNECTION_MAX) * worker.buffer_size(),
        }
    }

    /// Takes note of what has arrived, sends what is due, and says what comes next.
    fn serve(&mut self, connection: &mut Connection<'_>, session: &mut DelaySession) -> Answer {
        let slot = connection.id().slot();
        // What leaves makes room for what has arrived, which may be due at once.
        loop {
            self.enter(connection.input, slot, session);
            if !self.waiting.pop(slot, session, connection.now()) {
                break;
            }
        }
        send_overdue(connection, session);
        self.next(connection, session)
    }

    /// Has what is in the input wait as requests, as far as there is room.
    fn enter(&mut self, input: &Chain, slot: u32, session: &mut DelaySession) {
        while session.count < self.options.depth {
            let fresh = input.len() as u32 - session.bytes - session.overdue;
            let bytes = match self.options.size {
                0 => fresh,
                size if size <= fresh => size,
                // Nothing that would complete it can come any more.
                _ if session.ended || session.drains => fresh,
                _ => 0,
            };
            if bytes == 0 {
                return;
            }
            let due = self.departure(session.arrived);
            self.waiting.push(slot, session, due, bytes);
        }
    }

    /// When the next request leaves the server, by the law.
    fn departure(&mut self, arrival: Time) -> Time {
        let law = self.options.law;
        let delay = law.delay.draw(&mut self.rng);
        if !law.queue {
            return law.departure(arrival, delay, Time::ZERO);
        }
        let after = |last| law.departure(arrival, delay, Time::from_nanos(last));
        // One number, and nothing that it would have to be seen together with.
        let order = Ordering::Relaxed;
        let update = |last| Some(after(last).as_nanos());
        match self.last_departure.fetch_update(order, order, update) {
            Ok(last) | Err(last) => after(last),
        }
    }

    /// Enters the connection in the agenda, and decides whether it is read.
    fn next(&mut self, connection: &Connection<'_>, session: &DelaySession) -> Answer {
        let slot = connection.id().slot();
        match self.waiting.first_due(slot, session) {
            Some(due) => self.agenda.set(slot, due),
            None => self.agenda.clear(slot),
        }
        if session.count == 0 && session.overdue == 0 {
            if session.ended {
                return Answer::CloseAfterSendFor(CloseReason::PeerClosed);
            } else if session.drains {
                return Answer::CloseAfterSendFor(CloseReason::Drained);
            }
        }
        let is_full = session.count == self.options.depth
            || connection.input.len() >= self.options.hold as usize;
        // The agenda wakes it.
        if is_full || session.drains { Answer::WaitUntil(Time::MAX) } else { Answer::Continue }
    }
}

impl Waiting {
    fn new(slots: usize, depth: usize) -> Waiting {
        Waiting { depth, dues: vec![0; slots * depth], bytes: vec![0; slots * depth] }
    }

    const BYTES_EACH: usize = size_of::<u64>() + size_of::<u32>();

    /// The place in the tables of the request that many behind the first.
    fn place(&self, slot: u32, session: &DelaySession, behind: u32) -> usize {
        slot as usize * self.depth + (session.first + behind) as usize % self.depth
    }

    fn push(&mut self, slot: u32, session: &mut DelaySession, due: Time, bytes: u32) {
        let place = self.place(slot, session, session.count);
        (self.dues[place], self.bytes[place]) = (due.as_nanos(), bytes);
        session.count += 1;
        session.bytes += bytes;
    }

    fn first_due(&self, slot: u32, session: &DelaySession) -> Option<Time> {
        let due = || Time::from_nanos(self.dues[self.place(slot, session, 0)]);
        (session.count > 0).then(due)
    }

    /// Makes the requests whose time has come overdue. Answers whether there were any.
    fn pop(&mut self, slot: u32, session: &mut DelaySession, now: Time) -> bool {
        let before = session.count;
        while self.first_due(slot, session).is_some_and(|due| due <= now) {
            let bytes = self.bytes[self.place(slot, session, 0)];
            session.first = (session.first + 1) % self.depth as u32;
            session.count -= 1;
            session.bytes -= bytes;
            session.overdue += bytes;
        }
        session.count < before
    }
}

/// Puts what is overdue on the output. Where that ends within a buffer, the reply needs one of its
/// own. If none is free, the whole buffers before it are sent, and the rest waits for one.
fn send_overdue(connection: &mut Connection<'_>, session: &mut DelaySession) {
    let overdue = session.overdue as usize;
    if overdue == 0 {
        return;
    }
    let mut part = match connection.take_input(overdue) {
        Some(part) => part,
        None => {
            let whole = whole_buffers(connection.input, overdue);
            connection.input.split_to(whole).expect("between two buffers it needs none")
        }
    };
    session.overdue -= part.len() as u32;
    connection.output.append(&mut part);
}

/// The bytes of the first buffers that have no more than `limit` together.
fn whole_buffers(chain: &Chain, limit: usize) -> usize {
    let ends = chain.slices().scan(0, |end, slice| {
        *end += slice.len();
        Some(*end)
    });
    ends.take_while(|&end| end <= limit).last().unwrap_or(0)
}

impl ServiceFactory for DelayOptions {
    type Service = Delay;

    fn check(&self, limits: &Limits) -> Result<(), SettingError> {
        let wrong = |text: String| SettingError::new("delay", format_args!("{self:?}"), text);
        self.checked(&[]).map_err(wrong)?;
        match (limits.idle_timeout, self.law.longest()) {
            (Some(idle), Some(longest)) if idle <= longest => {
                let text = format!(
                    "replies are up to {longest:?} late, but connections are closed when nothing moves \
                 for {idle:?}: raise `idle_timeout`, or turn it off"
                );
                Err(SettingError::new("idle_timeout", format_args!("{idle:?}"), text))
            }
            _ => Ok(()),
        }
    }

    fn plan(self, limits: &Limits) -> ServicePlan<Delay> {
        let last_departure = Arc::default();
        let ring = self.depth as usize * Waiting::BYTES_EACH;
        let each = (ring + Agenda::BYTES_PER_SLOT + size_of::<u64>()) as u64;
        ServicePlan::new(move |worker| Delay::new(self, Arc::clone(&last_departure), worker))
            .memory_bytes(u64::from(limits.max_connections) * each)
    }
}

impl Service for Delay {
    type Session = DelaySession;
    // A request's time counts from when it is read; the begin of the turn is before that, and the
    // reply would be early.
    const FRESH_CLOCK: bool = true;
    const HEARS_SENT: bool = false;

    /// What may be there before a receive, and the receive.
    fn input_max(&self, _: u64) -> usize {
        self.options.hold as usize + self.receive_max
    }

    fn open(&mut self, connection: &mut Connection<'_>, _: &mut DelaySession) -> Answer {
        self.ids[connection.id().slot() as usize] = connection.id().to_bits();
        Answer::Continue
    }

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut DelaySession) -> Answer {
        session.arrived = connection.now();
        self.serve(connection, session)
    }

    fn peer_closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut DelaySession,
    ) -> Answer {
        session.ended = true;
        self.serve(connection, session)
    }

    fn draining(&mut self, connection: &mut Connection<'_>, session: &mut DelaySession) -> Answer {
        session.drains = true;
        self.serve(connection, session)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut DelaySession) -> Answer {
        self.serve(connection, session)
    }

    fn buffer_available(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut DelaySession,
    ) -> Answer {
        self.serve(connection, session)
    }

    fn closed(&mut self, connection: &mut Connection<'_>, _: &mut DelaySession, _: CloseReason) {
        self.agenda.clear(connection.id().slot());
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        while turn.wakes_left() > 0
            && let Some(slot) = self.agenda.pop(turn.now())
        {
            turn.wake(ConnectionId::from_bits(self.ids[slot as usize]));
        }
        self.agenda.next()
    }
}
