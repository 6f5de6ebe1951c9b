//! The clients of one thread as a [`Service`]: they connect, send, verify what comes back, and
//! close, in phases that all threads go through together.
//!
//! In a closed loop a connection sends its next request when an earlier one has been answered. In
//! an open loop requests have their times, and go over whichever connection has room (`dispatch`).
//!
//! * here: the tables, and what the engine calls
//! * `phases`: what a thread does from turn to turn, from the first connect to the last close
//! * `exchange`: what a connection sends, and what is made of its replies
//! * `lives`: connections that are established, and begun anew at the end of their lifetime

use std::collections::VecDeque;
use std::sync::Arc;

use echopool::error::{CloseReason, Errno};
use echopool::service::{Answer, Connection, Service, Turn, Workplace};
use echopool::time::Time;

use crate::control::{self, Control, Tally};
use crate::cpu::ThreadUse;
use crate::dispatch::Dispatch;
use crate::flow::{Flow, Loss, State};
use crate::intervals::Recorder;
use crate::outcome::Records;
use crate::pauses::Pauses;
use crate::payload::Stream;
use crate::plan::{Plan, Share};
use crate::seconds::Second;

mod exchange;
mod lives;
mod phases;

use lives::Place;

/// Memory for each connection beside its flow.
pub const BYTES_PER_PLACE: usize = size_of::<Place>();

/// Where the time is read. It has the engine's origin.
pub type Clock = fn() -> Time;

/// The clients of one thread.
pub struct Client {
    plan: Arc<Plan>,
    control: Arc<Control>,
    share: Share,
    thread: usize,
    phase: Phase,
    clock: Clock,
    period: Period,
    /// The schedule of an open loop.
    dispatch: Option<Dispatch>,
    pauses: Pauses,
    flows: Vec<Flow>,
    places: Vec<Place>,
    /// For each connection a ring of `pipeline` times: when its outstanding requests were intended.
    intended_at: Vec<Time>,
    /// The same for when they were sent, zero if they have not been; empty in a closed loop, where
    /// both are one.
    sent_at: Vec<Time>,
    /// Places whose connection is to be begun anew, and when.
    again: VecDeque<(Time, usize)>,
    /// Connections that could not put their output in leases.
    starved: VecDeque<usize>,
    /// The first connection is begun then.
    connect_began: Option<Time>,
    connects_begun: usize,
    connecting: usize,
    open: usize,
    outstanding: u64,
    /// When that last changed.
    outstanding_at: Time,
    /// The present second of the measured period.
    second: Second,
    second_began: Time,
    second_use: ThreadUse,
    /// Leases that are on outputs, as far as we know.
    output_leases: usize,
    /// How far a pass over all connections, a few in each turn, has come.
    sweep: usize,
    next_check: Time,
    sample_began: Time,
    sample_replies: u64,
    use_before: ThreadUse,
    records: Records,
    intervals: Recorder,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    /// All connections are established or have failed; other threads may not be so far.
    Ready,
    /// The [period](Period), warm-up included.
    Measuring,
    /// No request is begun any more; each connection closes when it has all its replies, until
    /// then.
    Draining(Time),
}

/// When the run measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Period {
    /// Requests intended before are those of the warm-up.
    record_from: Time,
    end: Time,
}

impl Period {
    /// Not known yet.
    const UNKNOWN: Period = Period { record_from: Time::MAX, end: Time::MAX };

    #[inline]
    fn contains(self, now: Time) -> bool {
        (self.record_from..self.end).contains(&now)
    }

    /// The last time within it.
    #[inline]
    fn last(self) -> Time {
        self.end.saturating_sub(std::time::Duration::from_nanos(1))
    }
}

/// What a connection remembers: its place in the thread's tables.
#[derive(Default)]
pub struct Session {
    index: Option<usize>,
}

impl Client {
    /// The clients of thread number `thread`. `clock` is the time of the engine that they will be
    /// run on.
    pub fn new(plan: Arc<Plan>, control: Arc<Control>, thread: usize, clock: Clock) -> Client {
        Client {
            share: plan.share(thread),
            intervals: Recorder::new(control.clone(), thread),
            dispatch: plan.dispatch(thread),
            pauses: Pauses::NONE,
            clock,
            period: Period::UNKNOWN,
            plan,
            control,
            thread,
            phase: Phase::Connecting,
            flows: Vec::new(),
            places: Vec::new(),
            intended_at: Vec::new(),
            sent_at: Vec::new(),
            again: VecDeque::new(),
            starved: VecDeque::new(),
            connect_began: None,
            connects_begun: 0,
            connecting: 0,
            open: 0,
            outstanding: 0,
            outstanding_at: Time::ZERO,
            second: Second::default(),
            second_began: Time::ZERO,
            second_use: ThreadUse::default(),
            output_leases: 0,
            sweep: 0,
            next_check: Time::ZERO,
            sample_began: Time::ZERO,
            sample_replies: 0,
            use_before: ThreadUse::default(),
            records: Records::default(),
        }
    }

    /// What was measured, after the end.
    ///
    /// # Panics
    /// A request was not accounted for.
    pub fn into_records(mut self) -> Records {
        let established = (0..self.places.len()).filter(|index| self.places[*index].lives > 0);
        self.records.replies_each = established.map(|index| self.served(index)).collect();
        if self.dispatch.is_none() {
            self.records.service_time = self.records.latency.clone();
        }
        assert_eq!(self.outstanding, 0, "no request is under way without a connection");
        self.records.assert_balanced();
        self.records
    }

    fn tally(&self) -> &Tally {
        self.control.tally(self.thread)
    }

    fn lost(&mut self, loss: Loss) {
        self.records.loss(loss);
        if loss != Loss::Mismatch {
            control::add(&self.tally().lost, 1);
        }
    }
}

impl Service for Client {
    type Session = Session;
    const FRESH_CLOCK: bool = true;

    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    fn prepare(&mut self, workplace: &Workplace) {
        assert!(workplace.connections_max() >= self.share.connections, "room for all connections");
        let (first, count) = (self.share.first_connection, self.share.connections);
        let stream = |local| Stream::new(self.plan.seed, first + local as u64);
        self.flows = (0..count).map(|local| Flow::new(stream(local))).collect();
        self.places = vec![Place::NEW; count];
        let times = count * self.plan.pipeline as usize;
        self.intended_at = vec![Time::ZERO; times];
        self.sent_at = vec![Time::ZERO; if self.dispatch.is_some() { times } else { 0 }];
        self.starved = VecDeque::with_capacity(count);
        self.again = VecDeque::with_capacity(count);
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let index = (connection.tag() - self.share.first_connection) as usize;
        session.index = Some(index);
        self.established(connection, index)
    }

    fn connect_failed(&mut self, tag: u64, error: Errno, now: Time) {
        self.connecting -= 1;
        if error == Errno::CANCELED {
            // We stopped while it was under way.
            return;
        }
        *self.records.connect_errors.entry(error.raw_os_error()).or_default() += 1;
        control::add(&self.tally().connect_failed, 1);
        self.not_established((tag - self.share.first_connection) as usize, now);
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        let arrived = connection.now();
        let flow = &mut self.flows[index];
        let before = flow.received;
        for slice in connection.input.slices() {
            if let Err(mismatch) = flow.receive(&self.plan.wire, slice) {
                return self.differs(index, *mismatch);
            }
        }
        let bytes = flow.received - before;
        connection.input.consume(bytes as usize);
        self.count_replies(index, arrived, bytes);
        self.go_on(connection, index)
    }

    #[inline]
    fn sent(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        self.forget_output(index);
        let flow = &self.flows[index];
        if flow.state == State::Closing {
            return Answer::CloseAfterSend;
        }
        if flow.unput() > 0 {
            self.put_output(connection, index, connection.now());
        }
        Answer::Continue
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        match session.index {
            Some(index) => self.go_on(connection, index),
            None => Answer::Close,
        }
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        let flow = &mut self.flows[index];
        if flow.state == State::Closing {
            return Answer::CloseAfterSend;
        }
        if self.plan.server_closes && flow.completed > 0 && flow.outstanding() == 0 {
            // The end that is due behind the reply.
            flow.state = State::Closing;
            return Answer::CloseAfterSend;
        }
        // Nothing will come back any more, so there is nothing to measure.
        flow.state = State::Lost(Loss::ClosedByPeer);
        Answer::Close
    }

    fn closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut Session,
        reason: CloseReason,
    ) {
        let Some(index) = session.index else { return };
        self.forget_output(index);
        if self.flows[index].state == State::Closing && connection.bytes_discarded() > 0 {
            self.surplus(index);
        }
        let stopped = self.control.stopped();
        let flow = &mut self.flows[index];
        let state = std::mem::replace(&mut flow.state, State::Closed);
        flow.id = None;
        let loss = match state {
            State::Closing => None,
            State::Lost(loss) => Some(loss),
            // An interrupted run does not wait for its connections.
            _ if stopped && reason == CloseReason::Stopped => None,
            _ => Some(loss_of(reason)),
        };
        self.open -= 1;
        self.give_up(index, connection.now(), loss == Some(Loss::TimedOut));
        control::subtract_one(&self.tally().open);
        if let Some(loss) = loss {
            self.lost(loss);
        }
        if self.phase == Phase::Measuring && self.has_successor(loss) {
            self.begin_anew(index, connection.now());
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        if self.control.stopped() {
            self.end_early(turn);
        }
        Some(match self.phase {
            Phase::Connecting => self.connect_some(turn),
            Phase::Ready => self.begin_when_all_are_ready(turn.now()),
            Phase::Measuring => {
                self.pauses.at_work(turn.now());
                let next = self.measure(turn);
                self.pauses.rest_until(next);
                next
            }
            Phase::Draining(give_up) => self.drain(turn, give_up),
        })
    }
}

/// Why a connection is lost whose end was not ours.
pub fn loss_of(reason: CloseReason) -> Loss {
    match reason {
        CloseReason::PeerClosed => Loss::ClosedByPeer,
        CloseReason::Reset => Loss::Reset,
        CloseReason::PeerLost => Loss::PeerLost,
        _ => Loss::Failed,
    }
}
