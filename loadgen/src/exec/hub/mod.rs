//! The clients of a hub on one thread, as a [`Service`]: they join, some of them broadcast, all of
//! them verify what they receive, and at the end each sends a message to itself. What the hub holds
//! for it comes before that message, so duplicates are found too.
//!
//! * here: the tables, and the callbacks of the engine
//! * `phases`: what a thread does in each turn
//! * `exchange`: what a member sends, and how received bytes are processed
//! * `member`: the state of one client, and whether what it received is right
//! * `senders`: state shared by the threads
//!
//! A sender sends its next message when its own copy of an earlier one has come back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use echopool::error::{CloseReason, Errno};
use echopool::service::{Answer, Connection, Handshake, HandshakeError, Service, Turn};
use echopool::time::Time;

use crate::exec::client::conversation::ConnectionState;
use crate::exec::control::Control;
use crate::exec::lifecycle::{ClientSession, Lifecycle, Phase};
use crate::plan::Plan;
use crate::plan::hub::HubPlan;
use crate::stats::hub::HubRecords;
use crate::stats::loss::Loss;
use crate::stats::records::Records;

mod exchange;
pub mod member;
mod phases;
pub mod senders;

use member::Member;
use senders::SharedSenders;

/// The clients of one thread.
pub struct Members {
    /// Its schedule is that of the senders.
    lifecycle: Lifecycle,
    hub: HubPlan,
    shared: Arc<SharedSenders>,
    members: Vec<Member>,
    /// The number of the next expected message, for each member and each sender.
    next: Vec<u64>,
    /// Indices of the members that send.
    senders: Vec<usize>,
    /// Whether a member could not get a buffer.
    starved: bool,
    /// Members that read, are open and have no id yet.
    unwelcomed: usize,
    /// Open connections that read.
    readers: usize,
    /// Over the open members that read: messages received, and messages reported as dropped.
    accounted: u64,
    last_delivery: Time,
    /// When the members that are still open are woken again for their farewell.
    next_sweep: Time,
    counts: HubRecords,
}

impl Members {
    /// # Panics
    /// The plan is not for a hub.
    pub fn new(
        plan: Arc<Plan>,
        control: Arc<Control>,
        shared: Arc<SharedSenders>,
        thread: usize,
    ) -> Members {
        let hub = plan.hub.expect("a hub is planned");
        let lifecycle = Lifecycle::new(plan, control, thread);
        let connections = lifecycle.share.connections;
        assert!(lifecycle.share.limits.connections_max >= connections, "room for all connections");
        let sending: Vec<u64> = shared.senders.iter().map(|one| one.connection).collect();
        let mut senders = Vec::new();
        let member = |index| {
            let number = lifecycle.number(index);
            let sender = sending.iter().position(|sender| *sender == number);
            let mut member = Member::new(&shared, sender.map(|nth| nth as u32));
            member.reads = hub.reads(number);
            member.sender_nth = senders.len();
            senders.extend(sender.map(|_| index));
            member
        };
        Members {
            hub,
            members: (0..connections).map(member).collect(),
            next: vec![0; connections * sending.len()],
            senders,
            lifecycle,
            shared,
            starved: false,
            unwelcomed: 0,
            readers: 0,
            accounted: 0,
            last_delivery: Time::ZERO,
            next_sweep: Time::ZERO,
            counts: HubRecords::default(),
        }
    }

    /// The records, after the end.
    ///
    /// # Panics
    /// A message was not accounted for.
    pub fn into_records(mut self) -> Records {
        self.abandon();
        let Members { mut lifecycle, members, counts, .. } = self;
        let readers = members.iter().enumerate().filter(|(_, member)| member.reads);
        for (index, member) in readers.filter(|(_, member)| member.state != ConnectionState::Absent)
        {
            lifecycle.served(index, member.received, member.own_received);
        }
        let mut records = lifecycle.into_records();
        records.hub = Some(counts);
        let Records { offered, unanswered, never_sent, .. } = records;
        let ended = records.completed() + unanswered + never_sent;
        assert_eq!(offered, ended, "each message offered has one end");
        records
    }
}

impl Members {
    /// The connect of a member has failed, and no other address is left.
    fn never_established(&mut self, tag: u64) {
        if let Some(sender) = self.members[self.lifecycle.index(tag)].sender {
            self.shared.senders[sender as usize].mark_lost();
        }
    }
}

impl Service for Members {
    type Session = ClientSession;
    const FRESH_CLOCK: bool = true;

    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut ClientSession) -> Answer {
        let index = self.lifecycle.accepted(connection.tag());
        session.index = Some(index);
        let member = &mut self.members[index];
        assert_eq!(member.state, ConnectionState::Absent, "a connection is established once");
        member.state = ConnectionState::Open;
        member.connection = Some(connection.id());
        member.opened = connection.now();
        self.lifecycle.established(index, true);
        if !member.reads {
            self.counts.never_read += 1;
            return Answer::WaitUntil(Time::MAX);
        }
        self.readers += 1;
        self.shared.readers.fetch_add(1, Relaxed);
        self.unwelcomed += 1;
        Answer::Continue
    }

    fn connect_failed(&mut self, tag: u64, error: Errno, _now: Time) {
        let failed = self.lifecycle.connect_failed(tag, error);
        if failed || error == Errno::CANCELED {
            self.never_established(tag);
        }
    }

    fn handshake(&mut self, tag: u64, result: Result<Handshake, HandshakeError>, _now: Time) {
        if self.lifecycle.handshake(tag, result) {
            self.never_established(tag);
        }
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ClientSession) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        let bytes = connection.input.len();
        if self.members[index].reads
            && let Err(mismatch) = self.receive(connection, index)
        {
            return self.differs(index, *mismatch);
        }
        connection.input.consume(bytes);
        self.resume(connection, index)
    }

    #[inline]
    fn sent(&mut self, connection: &mut Connection<'_>, session: &mut ClientSession) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        self.forget_output(index);
        self.resume(connection, index)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut ClientSession) -> Answer {
        match session.index {
            Some(index) => self.resume(connection, index),
            None => Answer::Close,
        }
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, session: &mut ClientSession) -> Answer {
        let Some(index) = session.index else { return Answer::Close };
        let member = &mut self.members[index];
        if member.state == ConnectionState::Closing {
            return Answer::CloseAfterSend;
        }
        member.state = ConnectionState::Lost(Loss::ClosedByPeer);
        Answer::Close
    }

    fn closed(&mut self, _: &mut Connection<'_>, session: &mut ClientSession, reason: CloseReason) {
        let Some(index) = session.index else { return };
        self.forget_output(index);
        let member = &mut self.members[index];
        // A hub may do what it likes with clients that never read.
        let loss = self.lifecycle.loss(member.state, reason).filter(|_| member.reads);
        member.state = ConnectionState::Closed;
        self.leave(index, loss.is_some());
        if let Some(loss) = loss {
            self.lifecycle.lost(index, loss);
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
