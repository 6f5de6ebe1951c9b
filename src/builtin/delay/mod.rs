//! The delay service: an echo that delays replies by a known [`Law`], so that the measurements of a
//! load generator can be checked against calculated values.
//!
//! Input stays in the buffers it arrived in until it is due. Each connection has a ring of the
//! times at which parts of its input are due, allocated at start. An agenda over all connections of
//! the worker finds the connection that is due next, and [`Turn::wake`] wakes it. A connection that
//! has reached its limit of waiting requests or bytes is not read until some of them have left.
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

pub(super) mod agenda;
pub mod law;
mod options;
#[cfg(test)]
mod tests;

use agenda::Agenda;
pub use law::{Distribution, Law, Stall};
pub use options::DelayOptions;

/// An echo that is delayed by a law.
///
/// The services of all workers share one queue: with [`Law::queue`] there is a single server,
/// regardless of the number of workers.
#[derive(Debug)]
pub struct Delay {
    options: DelayOptions,
    /// Departure time of the last request that arrived at any worker, in nanoseconds.
    last_departure: Arc<AtomicU64>,
    rng: Rng,
    waiting: Waiting,
    agenda: Agenda,
    /// The id of the connection in each slot.
    ids: Vec<u64>,
    /// Maximum number of bytes per receive.
    receive_max: usize,
}

/// The session state of a connection.
#[derive(Default)]
pub struct DelaySession {
    /// The position in its ring of the first request.
    first: u32,
    /// Number of waiting requests.
    count: u32,
    /// Bytes of the waiting requests. In the input they follow the overdue bytes.
    bytes: u32,
    /// Bytes at the front of the input that are due but were not sent because no buffer was free.
    overdue: u32,
    /// When bytes last arrived.
    arrived: Time,
    /// The peer has closed its sending side.
    ended: bool,
    /// The server is draining.
    drains: bool,
}

/// The waiting requests: for each slot, a ring of their due times and sizes. A request that is due
/// before those in front of it leaves with them.
#[derive(Debug)]
struct Waiting {
    depth: usize,
    /// In nanoseconds. Plain numbers, so that the memory of slots that are never used is never
    /// touched.
    dues: Vec<u64>,
    bytes: Vec<u32>,
}

/// The random numbers of a worker, by its index. Those of other seeds and workers are independent of
/// them, because the generator's seeds are what SplitMix64 makes of them (Steele, Lea and Flood,
/// 2014). With seeds in a row, the generator's own sequences correlate: the numbers of below 0.5
/// among 200, by -0.43 for neighbours.
pub(crate) fn random(seed: u64, worker: usize) -> Rng {
    const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut mixed = seed.wrapping_add(GAMMA.wrapping_mul(worker as u64 + 1));
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    Rng::with_seed(mixed ^ mixed >> 31)
}

impl Delay {
    fn new(options: DelayOptions, last_departure: Arc<AtomicU64>, worker: &WorkerContext) -> Delay {
        let slots = worker.connections_max();
        Delay {
            options,
            last_departure,
            rng: random(options.seed, worker.worker()),
            waiting: Waiting::new(slots, options.depth as usize),
            agenda: Agenda::new(slots),
            ids: vec![0; slots],
            receive_max: usize::from(LEASES_PER_CONNECTION_MAX) * worker.buffer_size(),
        }
    }

    /// Records arrived input, sends what is due, and returns what the connection does next.
    fn serve(&mut self, connection: &mut Connection<'_>, session: &mut DelaySession) -> Answer {
        let slot = connection.id().slot();
        // Requests that leave make room for input that has arrived, which may be due at once.
        loop {
            self.enter(connection.input, slot, session);
            if !self.waiting.pop(slot, session, connection.now()) {
                break;
            }
        }
        send_overdue(connection, session);
        self.next(connection, session)
    }

    /// Queues the input as requests, as far as there is room.
    fn enter(&mut self, input: &Chain, slot: u32, session: &mut DelaySession) {
        while session.count < self.options.depth {
            let fresh = input.len() as u32 - session.bytes - session.overdue;
            let bytes = match self.options.size {
                0 => fresh,
                size if size <= fresh => size,
                // No more input can complete the request.
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

    /// When the next request leaves, according to the law.
    fn departure(&mut self, arrival: Time) -> Time {
        let law = self.options.law;
        let delay = law.delay.draw(&mut self.rng);
        if !law.queue {
            return law.departure(arrival, delay, Time::ZERO);
        }
        let after = |last| law.departure(arrival, delay, Time::from_nanos(last));
        // A single number, with no other memory to order.
        let order = Ordering::Relaxed;
        let update = |last| Some(after(last).as_nanos());
        match self.last_departure.fetch_update(order, order, update) {
            Ok(last) | Err(last) => after(last),
        }
    }

    /// Updates the connection's time in the agenda, and decides whether to read from it.
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

    /// The index in the tables of the request `behind` places after the first.
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

    /// Makes the requests that are due overdue. Returns whether there were any.
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

/// Moves overdue bytes to the output. If they end within a buffer, that part of the reply needs a
/// buffer of its own. If none is free, only the whole buffers before it are sent, and the rest
/// waits.
fn send_overdue(connection: &mut Connection<'_>, session: &mut DelaySession) {
    let overdue = session.overdue as usize;
    if overdue == 0 {
        return;
    }
    let mut part = match connection.take_input(overdue) {
        Some(part) => part,
        None => {
            let whole = whole_buffers(connection.input, overdue);
            connection.input.split_to(whole).expect("a split between two buffers needs no buffer")
        }
    };
    session.overdue -= part.len() as u32;
    connection.output.append(&mut part);
}

/// Bytes in as many of the first buffers as hold at most `limit` together.
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
                    "replies are delayed by up to {longest:?}, but connections are closed when \
                     idle for {idle:?}: raise `idle_timeout`, or turn it off"
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
    // A request's delay counts from when it is read. The turn started before that, so its clock
    // would make the reply early.
    const FRESH_CLOCK: bool = true;
    const HEARS_SENT: bool = false;

    /// The bytes that may wait before a receive, plus one receive.
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
