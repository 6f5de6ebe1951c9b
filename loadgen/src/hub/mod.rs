//! The clients of a hub, those of one thread, as a [`Service`]: they join, some of them broadcast,
//! all of them check what they get, and at the end each sends a message to itself. What the hub had
//! for it comes before that one, so nothing that came twice is overlooked.
//!
//! * here: the tables, and what the engine calls
//! * `phases`: what a thread does from turn to turn; `plan`: who sends and who never reads
//! * `frames`: the wire protocol; `member`: what one client is told, and whether that is right;
//!   `hall`: what the threads share
//!
//! A sender's next message is sent when its own copy of an earlier one has come back.

use std::sync::Arc;
use std::time::Duration;

use echopool::buffer::Lease;
use echopool::error::{CloseReason, Errno};
use echopool::internals;
use echopool::service::{Answer, Connection, Service, Turn, Workplace};
use echopool::time::Time;

use crate::control::{self, Control, Tally};
use crate::cpu::ThreadUse;
use crate::dispatch::Dispatch;
use crate::flow::{Loss, Mismatch, State};
use crate::intervals::Recorder;
use crate::outcome::Records;
use crate::pauses::Pauses;
use crate::plan::{Plan, Share};

pub mod frames;
pub mod hall;
pub mod member;
mod phases;
pub mod plan;

use frames::Stamp;
use hall::{Hall, SentAt};
use member::{Member, News};
use phases::Phase;
use plan::HubPlan;

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
    pauses: Pauses,
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

/// What a hub run counts beside its messages.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HubRecords {
    /// Clients that never read.
    pub never_read: u64,
    /// Messages that clients received within the measured period, and after it.
    pub deliveries: u64,
    pub deliveries_late: u64,
    /// Messages that the hub said it dropped, and those that are missing without a word.
    pub dropped: u64,
    pub undelivered: u64,
    /// Messages whose sender may be without its own copy because the hub dropped it. They are among
    /// the unanswered.
    pub own_dropped: u64,
    /// Deliveries whose latency is only known to be at least what was recorded.
    pub beyond_ring: u64,
    /// Notices.
    pub joined: u64,
    pub left: u64,
}

impl HubRecords {
    pub fn plus(&self, other: &HubRecords) -> HubRecords {
        HubRecords {
            never_read: self.never_read + other.never_read,
            deliveries: self.deliveries + other.deliveries,
            deliveries_late: self.deliveries_late + other.deliveries_late,
            dropped: self.dropped + other.dropped,
            undelivered: self.undelivered + other.undelivered,
            own_dropped: self.own_dropped + other.own_dropped,
            beyond_ring: self.beyond_ring + other.beyond_ring,
            joined: self.joined + other.joined,
            left: self.left + other.left,
        }
    }
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
            pauses: Pauses::NONE,
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

    /// Does what there is to do for a member that reads.
    #[inline]
    fn go_on(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        match self.phase {
            Phase::Measuring(end) => self.send_messages(connection, index, end),
            Phase::Draining(_) => self.take_leave(connection, index),
            Phase::Connecting | Phase::Ready => {}
        }
        match self.members[index].state {
            State::Closing => Answer::CloseAfterSend,
            _ => Answer::Continue,
        }
    }

    /// Sends as many messages as the sender may have under way.
    #[inline]
    fn send_messages(&mut self, connection: &mut Connection<'_>, index: usize, end: Time) {
        let Some(sender) = self.members[index].sender else { return };
        let hall = self.hall.clone();
        while self.has_room(index, sender) {
            let now = internals::now();
            let number = hall.senders[sender as usize].begun();
            // A buffer comes first: a message whose time runs is on its way.
            let Some(mut lease) = self.take_lease(connection) else { return };
            let Some(intended) = self.next_message(index, sender, now, end) else { return };
            if !self.control.take_request() {
                return;
            }
            hall.senders[sender as usize].begin(intended);
            self.records.offered += 1;
            self.records.requests += 1;
            if self.dispatch.is_some() {
                self.pauses.at_work(now);
                let room_since = self.members[index].room_since;
                let own_since = self.pauses.own_since(now, intended, room_since);
                self.records.sent(now, intended, own_since);
            }
            hall.write(Stamp { sender, number }, &mut lease);
            self.put(connection, index, lease);
        }
    }

    /// The intended time of the sender's next message, if there is one by now: at once in a closed
    /// loop, else when the schedule says so.
    #[inline]
    fn next_message(&mut self, index: usize, sender: u32, now: Time, end: Time) -> Option<Time> {
        let Some(dispatch) = &mut self.dispatch else {
            let first = self.hall.senders[sender as usize].begun() == 0;
            return (now < end || first).then_some(now);
        };
        if let Some(intended) = self.members[index].offered.take() {
            return Some(intended);
        }
        let nth = self.members[index].sender_nth;
        let last = end.saturating_sub(Duration::from_nanos(1));
        let due = if dispatch.others_wait() { None } else { dispatch.take(nth, now.min(last)) };
        if due.is_none() {
            dispatch.room(nth);
        }
        due
    }

    /// Whether this sender may send another message.
    #[inline]
    fn has_room(&self, index: usize, sender: u32) -> bool {
        let due = self.next[index * self.hall.senders.len() + sender as usize];
        let due = due.max(self.members[index].released);
        let begun = self.hall.senders[sender as usize].begun();
        self.members[index].state == State::Open && begun.saturating_sub(due) < self.plan.pipeline
    }

    /// Sends the farewell when everything is there, and closes when that has come back.
    fn take_leave(&mut self, connection: &mut Connection<'_>, index: usize) {
        let everything_is_sent = self.control.all_measured();
        let begun = self.hall.begun();
        let member = &self.members[index];
        if member.farewell_came {
            self.members[index].state = State::Closing;
        } else if everything_is_sent && !member.farewell_sent && member.missing(begun) == 0 {
            let frame = frames::farewell(member.id, self.hall.order);
            let Some(mut lease) = self.take_lease(connection) else { return };
            lease.extend_from_slice(&frame);
            self.members[index].farewell_sent = true;
            self.put(connection, index, lease);
        }
    }

    /// A buffer for output, if this thread has one left; otherwise the member is looked at again
    /// soon.
    fn take_lease(&mut self, connection: &mut Connection<'_>) -> Option<Lease> {
        let room = self.output_leases < self.share.output_leases_max();
        let lease = room.then(|| connection.take_lease()).flatten();
        self.starved |= lease.is_none();
        lease
    }

    fn put(&mut self, connection: &mut Connection<'_>, index: usize, lease: Lease) {
        connection.output.push_back(lease);
        self.members[index].held += 1;
        self.output_leases += 1;
    }

    /// The output is with the kernel, or gone with the connection.
    fn forget_output(&mut self, index: usize) {
        self.output_leases -= self.members[index].held;
        self.members[index].held = 0;
    }

    /// Checks what has come for a member, and records it.
    #[inline]
    fn receive(&mut self, connection: &Connection<'_>, index: usize) -> Result<(), Box<Mismatch>> {
        let now = connection.now();
        let in_period = match self.phase {
            Phase::Measuring(end) => now < end,
            // Another thread has begun already.
            Phase::Ready => true,
            Phase::Connecting | Phase::Draining(_) => false,
        };
        let Members { members, next, hall, records, intervals, outcome, accounted, .. } = self;
        let member = &mut members[index];
        let next = &mut next[index * hall.senders.len()..][..hall.senders.len()];
        let own = member.sender;
        let (mut own_copies, mut welcomed) = (0, 0);
        let mut checked = Ok(());
        for slice in connection.input.slices() {
            checked = member.receive(hall, next, slice, |news| match news {
                News::Welcome => welcomed += 1,
                News::Dropped(count) => {
                    outcome.dropped += count;
                    *accounted += count;
                }
                News::Delivered(stamp) => {
                    *accounted += 1;
                    let sent = hall.senders[stamp.sender as usize].sent_at(stamp.number);
                    let latency = outcome.deliver(records, hall.size, now, sent, in_period);
                    intervals.reply(now, latency, in_period);
                    if in_period {
                        intervals.bytes(now, hall.size);
                    }
                    own_copies += u64::from(Some(stamp.sender) == own);
                }
            });
            if checked.is_err() {
                break;
            }
        }
        self.unwelcomed -= welcomed;
        if own_copies > 0 {
            self.members[index].room_since = now;
            self.members[index].own_received += own_copies;
            self.count_own_copies(now, own_copies, in_period);
        }
        self.last_delivery = now;
        checked
    }

    #[inline]
    fn count_own_copies(&mut self, now: Time, count: u64, in_period: bool) {
        let records = &mut self.records;
        match in_period {
            true => records.replies += count,
            false => records.replies_late += count,
        }
        records.last_reply = now;
        control::add(&self.tally().replies, count);
    }

    #[cold]
    fn differs(&mut self, index: usize, mut mismatch: Mismatch) -> Answer {
        mismatch.connection = self.share.first_connection + index as u64;
        self.records.mismatch(mismatch);
        self.members[index].state = State::Lost(Loss::Mismatch);
        control::add(&self.tally().mismatches, 1);
        Answer::Close
    }

    /// What is said of an open member is not true of it any more.
    fn leave(&mut self, index: usize, lost: bool) {
        let begun = self.hall.begun();
        let member = &mut self.members[index];
        member.connection = None;
        self.open -= 1;
        control::subtract_one(&self.control.tally(self.thread).open);
        if !member.reads {
            return;
        }
        self.readers -= 1;
        self.accounted -= member.received + member.dropped;
        self.unwelcomed -= usize::from(member.id == 0);
        self.outcome.joined += member.joined;
        self.outcome.left += member.left;
        self.outcome.undelivered += member.missing(begun);
        if let Some(sender) = member.sender {
            let begun = self.hall.senders[sender as usize].begun();
            let unanswered = begun - member.own_received;
            self.records.unanswered += unanswered;
            self.outcome.own_dropped += unanswered.min(member.dropped);
            if lost {
                // It may be sending no more long before the end.
                self.hall.senders[sender as usize].lose();
            }
        }
    }
}

impl HubRecords {
    /// Records one delivery. Answers its latency.
    #[inline]
    fn deliver(
        &mut self,
        records: &mut Records,
        size: u64,
        now: Time,
        sent: SentAt,
        in_period: bool,
    ) -> Duration {
        let (SentAt::Known(time) | SentAt::Before(time)) = sent;
        self.beyond_ring += u64::from(matches!(sent, SentAt::Before(_)));
        let latency = now - time;
        records.latency.saturating_record(latency.as_nanos() as u64);
        records.bytes_verified += size;
        if in_period {
            self.deliveries += 1;
            records.bytes += size;
        } else {
            self.deliveries_late += 1;
        }
        latency
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
            Phase::Measuring(end) => {
                self.pauses.at_work(turn.now());
                let next = self.measure(turn, end);
                self.pauses.rest_until(next);
                next
            }
            Phase::Draining(give_up) => self.drain(turn, give_up),
        })
    }
}
