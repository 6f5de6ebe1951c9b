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
//! * `second`: the present second of the measured period

use std::collections::VecDeque;
use std::sync::Arc;

use echopool::error::{CloseReason, Errno};
use echopool::service::{Answer, Connection, Service, Turn};
use echopool::time::Time;

use crate::exec::client::conversation::{Flow, State};
use crate::exec::control::Control;
use crate::exec::lifecycle::{Course, Phase, Session};
use crate::plan::{CONNECTION_BYTES, Plan};
use crate::stats::loss::Loss;
use crate::stats::records::Records;
use crate::traffic::payload::Stream;

mod churn;
pub mod conversation;
mod exchange;
mod phases;
mod second;

use churn::Place;
use second::PresentSecond;

// The plan counts with it.
const _: () = assert!(size_of::<Flow>() + size_of::<Place>() == CONNECTION_BYTES as usize);

/// Where the time is read. It has the engine's origin.
pub type Clock = fn() -> Time;

/// The clients of one thread.
pub struct Client {
    course: Course,
    clock: Clock,
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
    second: PresentSecond,
}

impl Client {
    /// The clients of thread number `thread`. `clock` is the time of the engine that they will be
    /// run on.
    pub fn new(plan: Arc<Plan>, control: Arc<Control>, thread: usize, clock: Clock) -> Client {
        let course = Course::new(plan, control, thread);
        let (plan, count) = (&course.plan, course.share.connections);
        assert!(course.share.limits.connections_max >= count, "room for all connections");
        let stream = |index| Stream::new(plan.seed, course.number(index));
        let times = count * plan.pipeline as usize;
        Client {
            clock,
            flows: (0..count).map(|index| Flow::new(stream(index))).collect(),
            places: vec![Place::NEW; count],
            intended_at: vec![Time::ZERO; times],
            sent_at: vec![Time::ZERO; if course.dispatch.is_some() { times } else { 0 }],
            again: VecDeque::with_capacity(count),
            starved: VecDeque::with_capacity(count),
            second: PresentSecond::default(),
            course,
        }
    }

    /// What was measured, after the end.
    ///
    /// # Panics
    /// A request was not accounted for.
    pub fn into_records(mut self) -> Records {
        let outstanding = self.second.outstanding();
        assert_eq!(outstanding, 0, "no request is under way without a connection");
        for index in (0..self.places.len()).filter(|index| self.places[*index].lives > 0) {
            let replies = self.served(index);
            self.course.served(index, replies, replies);
        }
        let closed_loop = self.course.dispatch.is_none();
        let mut records = self.course.into_records();
        if closed_loop {
            records.service_time = records.latency.clone();
        }
        records.assert_balanced();
        records
    }
}

impl Service for Client {
    type Session = Session;
    const FRESH_CLOCK: bool = true;

    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let index = self.course.index(connection.tag());
        session.index = Some(index);
        self.established(connection, index)
    }

    fn connect_failed(&mut self, tag: u64, error: Errno, now: Time) {
        if self.course.connect_failed(error) {
            self.not_established(self.course.index(tag), now);
        }
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        let arrived = connection.now();
        let flow = &mut self.flows[index];
        let before = flow.received;
        for slice in connection.input.slices() {
            if let Err(mismatch) = flow.receive(&self.course.plan.wire, slice) {
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
        if self.course.plan.server_closes && flow.completed > 0 && flow.outstanding() == 0 {
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
        let flow = &mut self.flows[index];
        let loss = self.course.loss(flow.state, reason);
        flow.state = State::Closed;
        flow.id = None;
        self.course.closed();
        self.give_up(index, connection.now(), loss == Some(Loss::TimedOut));
        if let Some(loss) = loss {
            self.course.lost(index, loss);
        }
        if self.course.phase == Phase::Measuring && self.has_successor(loss) {
            self.begin_anew(index, connection.now());
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        if self.course.control.stopped() && self.course.ends_early(turn) {
            self.end_period(turn.now(), turn.now().min(self.course.period.end));
        }
        Some(match self.course.phase {
            Phase::Connecting => self.connect_some(turn),
            Phase::Ready => self.begin_when_all_are_ready(turn.now()),
            Phase::Measuring => {
                self.course.at_work(turn.now());
                let next = self.measure(turn);
                self.course.pauses.rest_until(next);
                next
            }
            Phase::Draining(give_up) => self.drain(turn, give_up),
        })
    }
}
