//! The clients of one thread as a [`Service`]: they connect, send, verify what they receive, and
//! close, in phases that all threads pass through together.
//!
//! In a closed loop a connection sends its next request when an earlier one has its reply. In an
//! open loop requests are scheduled, and use any connection that has room (`dispatch`).
//!
//! * here: the tables, and the callbacks of the engine
//! * `phases`: what a thread does in each turn, from the first connect to the last close
//! * `exchange`: what a connection sends, and how replies are processed
//! * `conversation`: the state of one connection
//! * `churn`: connections that are established, and replaced at the end of their lifetime
//! * `timing`: the times that the replies of `timed://` carry
//! * `second`: the current second of the measured period; `backlog`: whether requests pile up

use std::collections::VecDeque;
use std::sync::Arc;

use echopool::error::{CloseReason, Errno};
use echopool::internals::{client_fixed_bytes, client_slot_bytes};
use echopool::internals::{prefixed_client_slot_bytes, tls_client_slot_bytes};
use echopool::service::{Answer, Connection, Handshake, HandshakeError, Service, Turn};
use echopool::time::Time;

use crate::exec::client::conversation::{ConnectionState, Conversation};
use crate::exec::control::Control;
use crate::exec::lifecycle::{ClientSession, Lifecycle, Phase, Sweep};
use crate::plan::{CONNECTION_BYTES, ENGINE_BYTES, ENGINE_BYTES_PER_CONNECTION};
use crate::plan::{PROXY_BYTES_PER_CONNECTION, Plan, TLS_BYTES_PER_CONNECTION};
use crate::stats::loss::Loss;
use crate::stats::records::Records;
use crate::traffic::payload::Stream;

pub(in crate::exec) mod backlog;
mod churn;
pub mod conversation;
mod exchange;
mod phases;
pub(in crate::exec) mod second;
mod timing;

use backlog::Windows;
use churn::Place;
use second::PresentSecond;
use timing::Timing;

// The plan relies on it.
const _: () = assert!(size_of::<Conversation>() + size_of::<Place>() == CONNECTION_BYTES as usize);
const _: () = assert!(client_slot_bytes::<Client>() <= ENGINE_BYTES_PER_CONNECTION);
const _: () = assert!(
    prefixed_client_slot_bytes::<Client>() + 128
        <= ENGINE_BYTES_PER_CONNECTION + PROXY_BYTES_PER_CONNECTION
);
const _: () = assert!(
    tls_client_slot_bytes::<Client>() <= ENGINE_BYTES_PER_CONNECTION + TLS_BYTES_PER_CONNECTION
);
const _: () = assert!(client_fixed_bytes::<Client>() <= ENGINE_BYTES);

/// The clock. It has the engine's origin.
pub type Clock = fn() -> Time;

/// The clients of one thread.
pub struct Client {
    lifecycle: Lifecycle,
    clock: Clock,
    conversations: Vec<Conversation>,
    places: Vec<Place>,
    /// A ring of `pipeline` times per connection: the intended times of its outstanding requests.
    intended_at: Vec<Time>,
    /// The same for the times of the sends, zero if not sent yet. Empty in a closed loop, where
    /// both are equal.
    sent_at: Vec<Time>,
    /// Of a server whose replies carry its times.
    timing: Option<Timing>,
    /// Places whose connection must be replaced, and when.
    again: VecDeque<(Time, usize)>,
    /// Connections that could not put their output in leases.
    starved: VecDeque<usize>,
    second: PresentSecond,
    /// The pass in search of overdue replies, and the time that it compares with.
    late: Sweep,
    late_at: Time,
    /// When a connection was open.
    reached_at: Time,
    windows: Windows,
}

impl Client {
    /// The clients of thread number `thread`. `clock`: the time of the engine that runs them.
    pub fn new(plan: Arc<Plan>, control: Arc<Control>, thread: usize, clock: Clock) -> Client {
        let mut lifecycle = Lifecycle::new(plan, control, thread);
        let count = lifecycle.share.connections;
        assert!(lifecycle.share.limits.connections_max >= count, "room for all connections");
        let times = count * lifecycle.plan.pipeline as usize;
        let sends = if lifecycle.dispatch.is_some() { times } else { 0 };
        let timing = Timing::new(&lifecycle.plan, count, sends);
        lifecycle.records.parts = timing.is_some().then(Box::default);
        let stream = |index| Stream::new(lifecycle.plan.seed, lifecycle.number(index));
        Client {
            clock,
            conversations: (0..count).map(|index| Conversation::new(stream(index))).collect(),
            places: vec![Place::NEW; count],
            intended_at: vec![Time::ZERO; times],
            sent_at: vec![Time::ZERO; sends],
            timing,
            again: VecDeque::with_capacity(count),
            starved: VecDeque::with_capacity(count),
            second: PresentSecond::default(),
            late: Sweep::complete(count),
            late_at: Time::ZERO,
            reached_at: Time::ZERO,
            windows: Windows::default(),
            lifecycle,
        }
    }

    /// The records, after the end.
    ///
    /// # Panics
    /// A request was not accounted for.
    pub fn into_records(mut self) -> Records {
        self.lifecycle.abandon();
        let outstanding = self.second.outstanding();
        assert_eq!(outstanding, 0, "no request is under way without a connection");
        for index in (0..self.places.len()).filter(|index| self.places[*index].established > 0) {
            let replies = self.served(index);
            self.lifecycle.served(index, replies, replies);
        }
        let closed_loop = self.lifecycle.dispatch.is_none();
        let mut records = self.lifecycle.into_records();
        if closed_loop {
            records.service_time = records.latency.clone();
        }
        records.assert_balanced();
        records
    }
}

impl Service for Client {
    type Session = ClientSession;

    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut ClientSession) -> Answer {
        let index = self.lifecycle.accepted(connection.tag());
        session.index = Some(index);
        self.established(connection, index)
    }

    fn connect_failed(&mut self, tag: u64, error: Errno, now: Time) {
        if self.lifecycle.connect_failed(tag, error) {
            self.not_established(self.lifecycle.index(tag), now);
        }
    }

    fn handshake(&mut self, tag: u64, result: Result<Handshake, HandshakeError>, now: Time) {
        if self.lifecycle.handshake(tag, result) {
            self.not_established(self.lifecycle.index(tag), now);
        }
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ClientSession) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        let arrived = connection.read_clock();
        let conversation = &mut self.conversations[index];
        let before = conversation.received;
        for slice in connection.input.slices() {
            if let Err(mismatch) = conversation.receive(&self.lifecycle.plan.wire, slice) {
                return self.differs(index, *mismatch);
            }
        }
        let bytes = conversation.received - before;
        if let Some(timing) = &mut self.timing {
            timing.begin_turn(connection.now(), &self.lifecycle);
            let (wire, input) = (&self.lifecycle.plan.wire, &*connection.input);
            if let Err(mismatch) = timing.read(index, conversation, wire, before, input) {
                return self.differs(index, *mismatch);
            }
        }
        connection.input.consume(bytes as usize);
        self.count_replies(index, arrived, bytes);
        self.resume(connection, index)
    }

    #[inline]
    fn sent(&mut self, connection: &mut Connection<'_>, session: &mut ClientSession) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        self.forget_output(index);
        let conversation = &self.conversations[index];
        if conversation.state == ConnectionState::Closing {
            return self.go_on_closing(connection, index);
        }
        if conversation.unput() > 0 {
            self.put_output(connection, index, connection.read_clock());
        }
        Answer::Continue
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut ClientSession) -> Answer {
        match session.index {
            Some(index) => self.resume(connection, index),
            None => Answer::Close,
        }
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, session: &mut ClientSession) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        let conversation = &mut self.conversations[index];
        if conversation.state == ConnectionState::Closing {
            return Answer::CloseAfterSend;
        }
        if self.lifecycle.plan.server_closes
            && conversation.completed > 0
            && conversation.outstanding() == 0
        {
            // The close that is due after the reply.
            conversation.state = ConnectionState::Closing;
            return Answer::CloseAfterSend;
        }
        if self.lifecycle.plan.reconnect && conversation.outstanding() == 0 {
            self.lifecycle.records.server_closes += 1;
            conversation.state = ConnectionState::Closing;
            return Answer::CloseAfterSend;
        }
        // Nothing more will arrive, so there is nothing to measure.
        conversation.state = ConnectionState::Lost(Loss::ClosedByPeer);
        Answer::Close
    }

    fn closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut ClientSession,
        reason: CloseReason,
    ) {
        let Some(index) = session.index else { return };
        self.forget_output(index);
        if self.conversations[index].state == ConnectionState::Closing
            && connection.bytes_discarded() > 0
        {
            self.surplus(index);
        }
        let conversation = &mut self.conversations[index];
        let loss = self.lifecycle.loss(conversation.state, reason);
        conversation.state = ConnectionState::Closed;
        conversation.id = None;
        self.lifecycle.closed();
        self.give_up(index, connection.now(), loss == Some(Loss::TimedOut));
        if let Some(loss) = loss {
            self.lifecycle.lost(index, loss);
        }
        if self.has_successor(loss) {
            self.reconnect(index, connection.now());
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        self.lifecycle.begin_turn(turn.now());
        if self.lifecycle.control.stopped() && self.lifecycle.ends_early(turn) {
            self.end_period(turn.now(), turn.now().min(self.lifecycle.period.end));
        }
        Some(match self.lifecycle.phase {
            Phase::Connecting => self.connect_some(turn),
            Phase::Ready => self.start_when_all_are_ready(turn.now()),
            Phase::Measuring => {
                self.lifecycle.at_work(turn.now());
                let next = self.measure(turn);
                self.lifecycle.stalls.idle_until(next, turn.now());
                next
            }
            Phase::Draining(give_up) => self.drain(turn, give_up),
        })
    }
}
