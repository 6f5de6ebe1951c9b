//! The clients of one thread as a [`Service`]: they connect, send, verify what comes back, and
//! close, in phases that all threads go through together. Closed loop: a connection sends its next
//! request when an earlier one has been answered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use echopool::error::{CloseReason, Errno};
use echopool::internals;
use echopool::service::{Answer, ConnectTo, Connection, Service, Turn};
use echopool::time::Time;

use crate::control::{self, Control, Tally};
use crate::cpu::ThreadUse;
use crate::flow::{Flow, Loss, Mismatch, State};
use crate::outcome::Records;
use crate::payload::Stream;
use crate::plan::{Plan, Share};

/// How often a thread looks at the common state when nothing else happens.
const TICK: Duration = Duration::from_millis(50);
/// The same while it waits for the other threads, or for a buffer.
const SHORT_TICK: Duration = Duration::from_millis(1);
/// Connections woken in one turn, so that replies are read in between.
const WAKES_PER_TURN: usize = 256;
/// The length of a sample of the request rate.
const SAMPLE: Duration = Duration::from_millis(100);

/// The clients of one thread.
pub struct Client {
    plan: Arc<Plan>,
    control: Arc<Control>,
    share: Share,
    thread: usize,
    phase: Phase,
    flows: Vec<Flow>,
    /// For each connection a ring of `pipeline` times: when its outstanding requests were begun.
    begun_at: Vec<Time>,
    /// Connections that could not put their output in leases.
    starved: VecDeque<usize>,
    /// The first connection is begun then.
    connect_began: Option<Time>,
    connects_begun: usize,
    connecting: usize,
    open: usize,
    outstanding: u64,
    /// Leases that are on outputs, as far as we know.
    output_leases: usize,
    /// How far a pass over all connections, a few in each turn, has come.
    sweep: usize,
    next_check: Time,
    sample_began: Time,
    sample_replies: u64,
    use_before: ThreadUse,
    records: Records,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    /// All connections are established or have failed; other threads may not be so far.
    Ready,
    /// The measured period, which ends then.
    Measuring(Time),
    /// No request is begun any more; each connection closes when it has all its replies, until
    /// then.
    Draining(Time),
}

/// What a connection remembers: its place in the thread's tables.
#[derive(Default)]
pub struct Session {
    index: Option<usize>,
}

impl Client {
    pub fn new(plan: Arc<Plan>, control: Arc<Control>, thread: usize) -> Client {
        Client {
            share: plan.share(thread),
            plan,
            control,
            thread,
            phase: Phase::Connecting,
            flows: Vec::new(),
            begun_at: Vec::new(),
            starved: VecDeque::new(),
            connect_began: None,
            connects_begun: 0,
            connecting: 0,
            open: 0,
            outstanding: 0,
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
    pub fn into_records(mut self) -> Records {
        let begun = self.flows.iter().map(|flow| flow.begun).sum();
        let established = self.flows.iter().filter(|flow| flow.state != State::Absent);
        self.records.replies_each = established.map(|flow| flow.completed).collect();
        self.records.requests = begun;
        self.records
    }

    fn tally(&self) -> &Tally {
        self.control.tally(self.thread)
    }
}

impl Service for Client {
    type Session = Session;
    const FRESH_CLOCK: bool = true;
    const FULL_DUPLEX: bool = true;

    fn prepare(&mut self, connections_max: usize) {
        assert!(connections_max >= self.share.connections, "room for all connections");
        let (first, count) = (self.share.first_connection, self.share.connections);
        let flow = |local| Flow::new(Stream::new(self.plan.seed, first + local as u64));
        self.flows = (0..count).map(flow).collect();
        self.begun_at = vec![Time::ZERO; count * self.plan.pipeline as usize];
        self.starved = VecDeque::with_capacity(count);
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let index = (connection.tag() - self.share.first_connection) as usize;
        session.index = Some(index);
        let flow = &mut self.flows[index];
        assert_eq!(flow.state, State::Absent, "a connection is established once");
        flow.state = State::Open;
        flow.id = Some(connection.id());
        self.connecting -= 1;
        self.open += 1;
        self.records.established += 1;
        control::add(&self.tally().open, 1);
        Answer::Continue
    }

    fn connect_failed(&mut self, _tag: u64, error: Errno, _now: Time) {
        self.connecting -= 1;
        *self.records.connect_errors.entry(error.raw_os_error()).or_default() += 1;
        control::add(&self.tally().connect_failed, 1);
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        let arrived = connection.now();
        let flow = &mut self.flows[index];
        let before = flow.received;
        for slice in connection.input.slices() {
            if let Err(mismatch) = flow.receive(slice) {
                return self.differs(index, mismatch);
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
        if flow.unput(self.plan.size) > 0 {
            self.put_output(connection, index);
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
        // Nothing will come back any more, so there is nothing to measure.
        flow.state = State::Lost(Loss::ClosedByPeer);
        Answer::Close
    }

    fn closed(&mut self, _: &mut Connection<'_>, session: &mut Session, reason: CloseReason) {
        let Some(index) = session.index else { return };
        self.forget_output(index);
        let stopped = self.control.stopped();
        let flow = &mut self.flows[index];
        let loss = match flow.state {
            State::Closing => None,
            State::Lost(loss) => Some(loss),
            // An interrupted run does not wait for its connections.
            _ if stopped && reason == CloseReason::Stopped => None,
            _ => Some(loss_of(reason)),
        };
        let outstanding = flow.outstanding();
        flow.state = State::Closed;
        flow.id = None;
        self.open -= 1;
        self.outstanding -= outstanding;
        self.records.unanswered += outstanding;
        control::subtract_one(&self.tally().open);
        if let Some(loss) = loss {
            self.records.loss(loss);
            if loss != Loss::Mismatch {
                control::add(&self.tally().lost, 1);
            }
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        if self.control.stopped() {
            self.end_early(turn);
        }
        Some(match self.phase {
            Phase::Connecting => self.connect_some(turn),
            Phase::Ready => self.begin_when_all_are_ready(turn.now()),
            Phase::Measuring(end) => self.measure(turn, end),
            Phase::Draining(give_up) => self.drain(turn, give_up),
        })
    }
}

/// The phases, a turn at a time. Each answers when it wants to be called again at the latest.
impl Client {
    fn connect_some(&mut self, turn: &mut Turn<'_>) -> Time {
        let now = turn.now();
        let began = *self.connect_began.get_or_insert(now);
        let in_flight_max = self.plan.connects_in_flight_max();
        while self.connects_begun < self.share.connections
            && self.connecting < in_flight_max
            && turn.free_slots() > 0
        {
            let due = began + self.connect_due(self.connects_begun);
            if due > now {
                return due;
            }
            let tag = self.share.first_connection + self.connects_begun as u64;
            turn.connect(ConnectTo {
                target: self.plan.target,
                source: self.plan.source(tag),
                tag,
                deadline: now + self.plan.timeout,
            });
            self.connects_begun += 1;
            self.connecting += 1;
        }
        if self.connects_begun < self.share.connections || self.connecting > 0 {
            return now + TICK;
        }
        self.control.ready(now);
        self.phase = Phase::Ready;
        now + SHORT_TICK
    }

    /// How long after the first the connection with this number is begun. Threads have their share
    /// of the rate, as they have of the connections.
    fn connect_due(&self, nth: usize) -> Duration {
        let Some(rate) = self.plan.connect_rate else { return Duration::ZERO };
        let share = self.share.connections as f64 / self.plan.connections as f64;
        Duration::from_secs_f64(nth as f64 / (rate as f64 * share))
    }

    fn begin_when_all_are_ready(&mut self, now: Time) -> Time {
        let Some(start) = self.control.start_at() else { return now + SHORT_TICK };
        if now < start {
            return start;
        }
        let end = self.plan.duration.map_or(Time::MAX, |duration| start + duration);
        self.phase = Phase::Measuring(end);
        self.records.began = start;
        self.sample_began = start;
        self.use_before = ThreadUse::now();
        now
    }

    fn measure(&mut self, turn: &mut Turn<'_>, end: Time) -> Time {
        let now = turn.now();
        // Each connection sends its first request, even if the period is too short for that: what
        // was established is also tried.
        let started_all = self.wake_next(turn, |_| true);
        self.look_after(turn);
        self.sample_rate(now);
        let answered = self.control.requests_used_up() && self.outstanding == 0;
        if self.open == 0 {
            self.end_period(now, now);
        } else if started_all && answered {
            self.end_period(now, self.records.last_reply);
        } else if started_all && now >= end {
            self.end_period(now, end);
        } else if !started_all {
            return now;
        } else {
            return self.next_look(now).min(end).min(self.sample_began + SAMPLE);
        }
        now
    }

    fn drain(&mut self, turn: &mut Turn<'_>, give_up: Time) -> Time {
        let now = turn.now();
        let woken_all = self.wake_next(turn, |flow| flow.outstanding() == 0);
        self.look_after(turn);
        if self.open == 0 || now >= give_up {
            turn.stop();
        }
        if woken_all { self.next_look(now) } else { now }
    }

    /// The run is to end: a period that has begun is ended and drained, anything before is dropped.
    fn end_early(&mut self, turn: &mut Turn<'_>) {
        match self.phase {
            Phase::Connecting | Phase::Ready => turn.stop(),
            Phase::Measuring(end) => self.end_period(turn.now(), turn.now().min(end)),
            Phase::Draining(_) => {}
        }
    }

    fn end_period(&mut self, now: Time, ended: Time) {
        // A reply may have been read after the begin of this turn, and a thread may have had none.
        self.records.ended = ended.max(self.records.began);
        self.records.thread_uses.push(ThreadUse::now().since(self.use_before));
        if self.records.rates.is_empty() {
            self.records.rate(self.records.replies, self.records.ended - self.records.began);
        }
        self.control.measured();
        self.sweep = 0;
        // Later than any reply is waited for, and any peer that does not close.
        let give_up = now + self.plan.timeout + self.share.limits.linger + Duration::from_secs(1);
        self.phase = Phase::Draining(give_up);
    }

    fn sample_rate(&mut self, now: Time) {
        let span = now - self.sample_began;
        if span >= SAMPLE {
            self.records.rate(self.records.replies - self.sample_replies, span);
            self.sample_began = now;
            self.sample_replies = self.records.replies;
        }
    }

    /// Wakes the next few open connections that `wanted` holds for, each once in a phase. Answers
    /// whether all have been looked at.
    fn wake_next(&mut self, turn: &mut Turn<'_>, wanted: fn(&Flow) -> bool) -> bool {
        let end = self.flows.len().min(self.sweep + WAKES_PER_TURN);
        for flow in &self.flows[self.sweep..end] {
            if let (State::Open, Some(id)) = (flow.state, flow.id)
                && wanted(flow)
            {
                turn.wake(id);
            }
        }
        self.sweep = end;
        end == self.flows.len()
    }

    /// What is to be done from time to time, whatever the phase.
    fn look_after(&mut self, turn: &mut Turn<'_>) {
        self.wake_starved(turn);
        if turn.now() >= self.next_check {
            self.close_late(turn);
            self.next_check = turn.now() + self.check_interval();
        }
    }

    fn next_look(&self, now: Time) -> Time {
        let tick = if self.starved.is_empty() { TICK } else { SHORT_TICK };
        (now + tick).min(self.next_check)
    }

    /// One pass over all connections for each eighth of the time-out is cheaper than a timer for
    /// each request, and late by an eighth at most.
    fn check_interval(&self) -> Duration {
        (self.plan.timeout / 8).clamp(Duration::from_millis(10), Duration::from_millis(250))
    }

    fn close_late(&mut self, turn: &mut Turn<'_>) {
        let (now, timeout, pipeline) = (turn.now(), self.plan.timeout, self.plan.pipeline);
        for (index, flow) in self.flows.iter_mut().enumerate() {
            if flow.state != State::Open || flow.outstanding() == 0 {
                continue;
            }
            let oldest = self.begun_at[slot(index, flow.completed, pipeline)];
            if now - oldest > timeout {
                flow.state = State::Lost(Loss::TimedOut);
                turn.close(flow.id.expect("it is open"));
            }
        }
    }

    fn wake_starved(&mut self, turn: &mut Turn<'_>) {
        let room = self.share.output_leases_max().saturating_sub(self.output_leases);
        for _ in 0..room.min(WAKES_PER_TURN) {
            let Some(index) = self.starved.pop_front() else { return };
            let flow = &mut self.flows[index];
            flow.starved = false;
            if let Some(id) = flow.id {
                turn.wake(id);
            }
        }
    }
}

/// One connection.
impl Client {
    /// Begins what may be begun, puts it on the output, and closes when all is done.
    #[inline]
    fn go_on(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        // Read again: the time that verifying took is neither the last request's nor the next's.
        let now = internals::now();
        if let Phase::Measuring(end) = self.phase {
            self.begin_requests(index, now, end);
        }
        self.put_output(connection, index);
        let draining = matches!(self.phase, Phase::Draining(_));
        let flow = &mut self.flows[index];
        if draining && flow.state == State::Open && flow.outstanding() == 0 {
            flow.state = State::Closing;
        }
        match flow.state {
            State::Closing => Answer::CloseAfterSend,
            _ => Answer::Continue,
        }
    }

    #[inline]
    fn begin_requests(&mut self, index: usize, now: Time, end: Time) {
        let pipeline = self.plan.pipeline;
        let flow = &mut self.flows[index];
        while flow.outstanding() < pipeline
            && (now < end || flow.begun == 0)
            && self.control.take_request()
        {
            self.begun_at[slot(index, flow.begun, pipeline)] = now;
            flow.begun += 1;
            self.outstanding += 1;
        }
    }

    /// Puts the bytes of begun requests into leases, as far as the connection's window and the
    /// thread's share of buffers go.
    #[inline]
    fn put_output(&mut self, connection: &mut Connection<'_>, index: usize) {
        let window = self.plan.output_window();
        let leases_max = self.share.output_leases_max();
        let flow = &mut self.flows[index];
        loop {
            let count = flow.unput(self.plan.size).min(window - flow.unsent) as usize;
            if count == 0 {
                return;
            }
            let lease = (self.output_leases < leases_max).then(|| connection.take_lease());
            let Some(mut lease) = lease.flatten() else { break };
            let spare = lease.spare_mut();
            let count = count.min(spare.len());
            flow.stream.fill(flow.put, &mut spare[..count]);
            lease.commit(count);
            connection.output.push_back(lease);
            flow.put += count as u64;
            flow.unsent += count as u64;
            flow.held += 1;
            self.output_leases += 1;
        }
        if !flow.starved {
            flow.starved = true;
            self.starved.push_back(index);
        }
    }

    /// The output is with the kernel, or gone with the connection.
    #[inline]
    fn forget_output(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        self.output_leases -= flow.held;
        flow.held = 0;
        flow.unsent = 0;
    }

    #[inline]
    fn count_replies(&mut self, index: usize, now: Time, bytes: u64) {
        let in_period = matches!(self.phase, Phase::Measuring(end) if now < end);
        let (size, pipeline) = (self.plan.size, self.plan.pipeline);
        let flow = &mut self.flows[index];
        let before = flow.completed;
        while flow.complete_one(size) {
            let begun_at = self.begun_at[slot(index, flow.completed - 1, pipeline)];
            self.records.reply(now, now - begun_at, in_period);
        }
        let replies = flow.completed - before;
        self.outstanding -= replies;
        self.records.bytes_verified += bytes;
        self.records.bytes += if in_period { bytes } else { 0 };
        control::add(&self.tally().replies, replies);
    }

    #[cold]
    fn differs(&mut self, index: usize, mut mismatch: Box<Mismatch>) -> Answer {
        mismatch.connection = self.share.first_connection + index as u64;
        self.records.mismatch(*mismatch);
        self.flows[index].state = State::Lost(Loss::Mismatch);
        control::add(&self.tally().mismatches, 1);
        Answer::Close
    }
}

/// Where the time of a connection's request is kept.
#[inline]
fn slot(index: usize, request: u64, pipeline: u64) -> usize {
    index * pipeline as usize + (request % pipeline) as usize
}

fn loss_of(reason: CloseReason) -> Loss {
    match reason {
        CloseReason::PeerClosed => Loss::ClosedByPeer,
        CloseReason::Reset => Loss::Reset,
        CloseReason::PeerLost => Loss::PeerLost,
        _ => Loss::Failed,
    }
}
