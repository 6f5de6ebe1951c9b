//! The clients of a hub, those of one thread, as a [`Service`]: they join, some of them broadcast,
//! all of them check what they get, and at the end each sends a message to itself. What the hub had
//! for it comes before that one, so nothing that came twice is overlooked.
//!
//! * here: the tables, and what the engine calls
//! * `phases`: what a thread does from turn to turn; `plan`: who sends and who never reads
//! * `exchange`: what a member sends, and what is made of what it gets; `records`: what is counted
//! * `frames`: the wire protocol; `member`: what one client is told, and whether that is right;
//!   `hall`: what the threads share
//!
//! A sender's next message is sent when its own copy of an earlier one has come back.

use std::sync::Arc;

use echopool::error::{CloseReason, Errno};
use echopool::service::{Answer, Connection, Service, Turn, Workplace};
use echopool::time::Time;

use crate::control::{self, Control, Tally};
use crate::cpu::ThreadUse;
use crate::dispatch::Dispatch;
use crate::flow::{Loss, State};
use crate::intervals::Recorder;
use crate::outcome::Records;
use crate::plan::{Plan, Share};

mod exchange;
pub mod frames;
pub mod hall;
pub mod member;
mod phases;
pub mod plan;
mod records;

use hall::Hall;
use member::Member;
use phases::Phase;
use plan::HubPlan;
pub use records::HubRecords;

/// The clients of one thread.
pub struct Members {
    plan: Arc<Plan>,
    hub: HubPlan,
    control: Arc<Control>,
    hall: Arc<Hall>,
    share: Share,
    thread: usize,
    phase: Phase,
    members: Vec<Member>,
    /// For each member and each sender the number of the message that is due.
    next: Vec<u64>,
    /// The members that send.
    senders: Vec<usize>,
    /// Their schedule, in an open loop.
    dispatch: Option<Dispatch>,
    /// Buffers that are on outputs.
    output_leases: usize,
    /// Whether a member had to go without one.
    starved: bool,
    connects_begun: usize,
    connect_began: Option<Time>,
    connecting: usize,
    /// Members that read, are open and have no id yet.
    unwelcomed: usize,
    /// Connections that are open, and those of them that read.
    open: usize,
    readers: usize,
    /// Of the open members that read: messages received, and dropped by the hub.
    accounted: u64,
    last_delivery: Time,
    sweep: usize,
    /// When the members are looked at again: who is late, who waits for a buffer.
    next_check: Time,
    next_sweep: Time,
    sample_began: Time,
    sample_replies: u64,
    use_before: ThreadUse,
    records: Records,
    /// Each second's deliveries, while the run goes on.
    intervals: Recorder,
    outcome: HubRecords,
}

/// What a connection remembers.
#[derive(Default)]
pub struct Session {
    /// Its place in the thread's tables.
    index: Option<usize>,
}

impl Members {
    /// # Panics
    /// The plan is not one for a hub.
    pub fn new(plan: Arc<Plan>, control: Arc<Control>, hall: Arc<Hall>, thread: usize) -> Members {
        Members {
            share: plan.share(thread),
            dispatch: plan.dispatch(thread),
            hub: plan.hub.expect("a hub is planned"),
            intervals: Recorder::new(control.clone(), thread),
            plan,
            control,
            hall,
            thread,
            phase: Phase::Connecting,
            members: Vec::new(),
            next: Vec::new(),
            senders: Vec::new(),
            output_leases: 0,
            starved: false,
            connects_begun: 0,
            connect_began: None,
            connecting: 0,
            unwelcomed: 0,
            open: 0,
            readers: 0,
            accounted: 0,
            last_delivery: Time::ZERO,
            sweep: 0,
            next_check: Time::ZERO,
            next_sweep: Time::ZERO,
            sample_began: Time::ZERO,
            sample_replies: 0,
            use_before: ThreadUse::default(),
            records: Records::default(),
            outcome: HubRecords::default(),
        }
    }

    /// What was measured, after the end.
    ///
    /// # Panics
    /// A message was not accounted for.
    pub fn into_records(mut self) -> Records {
        let readers = self.members.iter().filter(|member| member.reads);
        let established = readers.filter(|member| member.state != State::Absent);
        self.records.replies_each = established.map(|member| member.received).collect();
        self.records.hub = Some(self.outcome);
        let Records { offered, unanswered, never_sent, .. } = self.records;
        let ended = self.records.completed() + unanswered + never_sent;
        assert_eq!(offered, ended, "each message offered has one end");
        self.records
    }

    fn tally(&self) -> &Tally {
        self.control.tally(self.thread)
    }
}

impl Service for Members {
    type Session = Session;
    const FRESH_CLOCK: bool = true;

    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    fn prepare(&mut self, workplace: &Workplace) {
        assert!(workplace.connections_max() >= self.share.connections, "room for all connections");
        let senders: Vec<u64> = self.hall.senders.iter().map(|one| one.connection).collect();
        for index in 0..self.share.connections {
            let number = self.share.first_connection + index as u64;
            let sender = senders.iter().position(|sender| *sender == number);
            let mut member = Member::new(&self.hall, sender.map(|nth| nth as u32));
            member.reads = self.hub.reads(number);
            member.sender_nth = self.senders.len();
            self.senders.extend(sender.map(|_| index));
            self.members.push(member);
        }
        self.next = vec![0; self.share.connections * senders.len()];
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let index = (connection.tag() - self.share.first_connection) as usize;
        session.index = Some(index);
        let member = &mut self.members[index];
        assert_eq!(member.state, State::Absent, "a connection is established once");
        member.state = State::Open;
        member.connection = Some(connection.id());
        member.opened = connection.now();
        self.connecting -= 1;
        self.open += 1;
        self.records.established += 1;
        control::add(&self.control.tally(self.thread).open, 1);
        if !member.reads {
            self.outcome.never_read += 1;
            return Answer::WaitUntil(Time::MAX);
        }
        self.readers += 1;
        self.unwelcomed += 1;
        Answer::Continue
    }

    fn connect_failed(&mut self, tag: u64, error: Errno, _now: Time) {
        self.connecting -= 1;
        let member = &self.members[(tag - self.share.first_connection) as usize];
        if let Some(sender) = member.sender {
            self.hall.senders[sender as usize].lose();
        }
        if error == Errno::CANCELED {
            // We stopped while it was under way.
            return;
        }
        *self.records.connect_errors.entry(error.raw_os_error()).or_default() += 1;
        control::add(&self.tally().connect_failed, 1);
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        let bytes = connection.input.len();
        if self.members[index].reads
            && let Err(mismatch) = self.receive(connection, index)
        {
            return self.differs(index, *mismatch);
        }
        connection.input.consume(bytes);
        self.go_on(connection, index)
    }

    #[inline]
    fn sent(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        self.forget_output(index);
        self.go_on(connection, index)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut Session) -> Answer {
        match session.index {
            Some(index) => self.go_on(connection, index),
            None => Answer::Close,
        }
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, session: &mut Session) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        let member = &mut self.members[index];
        if member.state == State::Closing {
            return Answer::CloseAfterSend;
        }
        member.state = State::Lost(Loss::ClosedByPeer);
        Answer::Close
    }

    fn closed(&mut self, _: &mut Connection<'_>, session: &mut Session, reason: CloseReason) {
        let Some(index) = session.index else { return };
        self.forget_output(index);
        let stopped = self.control.stopped();
        let member = &mut self.members[index];
        let loss = match std::mem::replace(&mut member.state, State::Closed) {
            State::Closing => None,
            State::Lost(loss) => Some(loss),
            // An interrupted run does not wait for its connections.
            _ if stopped && reason == CloseReason::Stopped => None,
            _ => Some(crate::client::loss_of(reason)),
        };
        // What a hub does with those that never read is its own business.
        let loss = loss.filter(|_| member.reads);
        self.leave(index, loss.is_some());
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
