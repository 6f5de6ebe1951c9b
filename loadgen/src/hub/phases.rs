//! The phases of a hub run, a turn of the engine's loop at a time. Each answers when it wants to be
//! called again at the latest.

use std::time::Duration;

use echopool::service::{ConnectTo, Turn};
use echopool::time::Time;

use super::Members;
use super::member::Member;
use crate::cpu::ThreadUse;
use crate::flow::{Loss, State};

/// How often a thread looks at the common state when nothing else happens.
const TICK: Duration = Duration::from_millis(50);
/// The same while it waits for the other threads, or for a buffer.
const SHORT_TICK: Duration = Duration::from_millis(1);
/// Members looked at in one turn, so that messages are read in between.
const LOOKS_PER_TURN: usize = 256;
/// How long messages are waited for when the run was interrupted.
const INTERRUPTED_WAIT: Duration = Duration::from_secs(1);
/// The length of a sample of the message rate.
const SAMPLE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Connecting,
    /// All members have their ids, or are lost; other threads may not be so far.
    Ready,
    /// The measured period, which ends then.
    Measuring(Time),
    /// No message is begun any more; each member takes its leave when it has got everything, until
    /// then.
    Draining(Time),
}

impl Members {
    pub(super) fn connect_some(&mut self, turn: &mut Turn<'_>) -> Time {
        let now = turn.now();
        let began = *self.connect_began.get_or_insert(now);
        while self.connects_begun < self.share.connections
            && self.connecting < self.plan.connects_in_flight_max()
            && turn.free_slots() > 0
        {
            let due = began + self.plan.connect_due(&self.share, self.connects_begun);
            if due > now {
                return due;
            }
            let tag = self.share.first_connection + self.connects_begun as u64;
            turn.connect(ConnectTo {
                target: self.plan.target(tag),
                source: self.plan.source(tag),
                tag,
                deadline: now + self.plan.timeout,
            });
            self.connects_begun += 1;
            self.connecting += 1;
        }
        self.look_after(turn);
        if self.connects_begun < self.share.connections || self.connecting + self.unwelcomed > 0 {
            return now + TICK;
        }
        self.control.ready(now);
        self.phase = Phase::Ready;
        now + SHORT_TICK
    }

    pub(super) fn begin_when_all_are_ready(&mut self, now: Time) -> Time {
        let Some(start) = self.control.start_at() else { return now + SHORT_TICK };
        if now < start {
            return start;
        }
        let end = self.plan.duration.map_or(Time::MAX, |duration| start + duration);
        self.phase = Phase::Measuring(end);
        self.intervals.begin(start);
        if let Some(dispatch) = &mut self.dispatch {
            dispatch.begin(start);
        }
        self.records.began = start;
        self.sample_began = start;
        self.last_delivery = start;
        self.use_before = ThreadUse::now();
        now
    }

    pub(super) fn measure(&mut self, turn: &mut Turn<'_>, end: Time) -> Time {
        let now = turn.now();
        // Each sender sends its first message, even if the period is too short for that. Those
        // woken now send after this turn, so a period ends in a later one.
        let started_all = self.sweep == self.senders.len();
        self.wake_senders(turn);
        self.dispatch_due(turn, end);
        self.intervals.tick(now);
        self.look_after(turn);
        self.sample_rate(now);
        if started_all && self.control.requests_used_up() && self.all_is_there(now) {
            self.end_period(now, self.last_delivery);
        } else if started_all && (now >= end || self.nobody_sends()) {
            self.end_period(now, now.min(end));
        } else if !started_all {
            return now;
        } else {
            let tick = if self.starved { SHORT_TICK } else { TICK };
            let next = (now + tick).min(self.next_check).min(end).min(self.sample_began + SAMPLE);
            let due = self.dispatch.as_ref().and_then(|dispatch| dispatch.next());
            return due.filter(|due| *due < end).map_or(next, |due| next.min(due));
        }
        now
    }

    /// Open loop: messages that are due go to senders that have room.
    fn dispatch_due(&mut self, turn: &mut Turn<'_>, end: Time) {
        let due_until = turn.now().min(end.saturating_sub(Duration::from_nanos(1)));
        for _ in 0..LOOKS_PER_TURN {
            let Some(dispatch) = &mut self.dispatch else { return };
            let Some(nth) = dispatch.due_connection(due_until) else { return };
            let index = self.senders[nth];
            let sender = self.members[index].sender.expect("it is one of them");
            if !self.has_room(index, sender) {
                // It asks again when it has, unless it is gone.
                continue;
            }
            let dispatch = self.dispatch.as_mut().expect("an open loop");
            let member = &mut self.members[index];
            member.offered = dispatch.take(nth, due_until);
            turn.wake(member.connection.expect("it is open"));
        }
    }

    /// Whether each open member has everything that was sent, or nothing has come for so long that
    /// nothing will.
    fn all_is_there(&self, now: Time) -> bool {
        // All of those there are to be: another thread may be about to begin the last one.
        let messages = self.plan.requests.unwrap_or_else(|| self.hall.begun());
        let due = self.readers as u64 * messages;
        self.accounted >= due || now - self.last_delivery > self.plan.timeout
    }

    fn nobody_sends(&self) -> bool {
        self.hall.senders.iter().all(|sender| sender.is_lost())
    }

    pub(super) fn drain(&mut self, turn: &mut Turn<'_>, give_up: Time) -> Time {
        let now = turn.now();
        let all_measured = self.control.all_measured();
        if (self.readers == 0 && all_measured) || now >= give_up {
            turn.stop();
        }
        self.look_after(turn);
        if !all_measured || now < self.next_sweep {
            return now + SHORT_TICK;
        }
        let end = self.members.len().min(self.sweep + LOOKS_PER_TURN);
        for member in &self.members[self.sweep..end] {
            if member.state == State::Open && member.reads && !member.farewell_sent {
                turn.wake(member.connection.expect("it is open"));
            }
        }
        self.sweep = end;
        if end == self.members.len() {
            self.sweep = 0;
            self.next_sweep = now + SHORT_TICK;
        }
        now
    }

    /// The run is to end: a period that has begun is ended and drained, anything before is dropped.
    pub(super) fn end_early(&mut self, turn: &mut Turn<'_>) {
        match self.phase {
            Phase::Connecting | Phase::Ready => turn.stop(),
            Phase::Measuring(end) => self.end_period(turn.now(), turn.now().min(end)),
            Phase::Draining(give_up) => {
                let soon = turn.now() + self.plan.timeout.min(INTERRUPTED_WAIT);
                self.phase = Phase::Draining(give_up.min(soon));
            }
        }
    }

    fn end_period(&mut self, now: Time, ended: Time) {
        // A message may have been read after the begin of this turn.
        self.records.ended = ended.max(self.records.began);
        self.records.thread_uses.push(ThreadUse::now().since(self.use_before));
        if self.records.rates.is_empty() {
            self.records.rate(self.records.replies, self.records.elapsed());
        }
        self.abandon(self.records.ended);
        self.intervals.end(self.records.ended);
        self.control.measured();
        self.sweep = 0;
        // Later than any message is waited for, and any peer that does not close.
        let give_up = now + self.plan.timeout + self.share.limits.linger + Duration::from_secs(1);
        self.phase = Phase::Draining(give_up);
    }

    /// What was to be sent before the end and was not is given up: it would have been late for each
    /// client.
    fn abandon(&mut self, ended: Time) {
        let Members { dispatch, control, records, hub, members, .. } = self;
        let Some(dispatch) = dispatch else { return };
        let clients = hub.connections - hub.never_read;
        let mut give_up = |intended| {
            let offered = control.take_request();
            if offered {
                records.offered += 1;
                records.never_sent += 1;
                let late = (ended - intended).as_nanos() as u64;
                records.latency.saturating_record_n(late, clients);
            }
            offered
        };
        for member in members {
            member.offered.take().map(&mut give_up);
        }
        dispatch.abandon(ended, give_up);
    }

    fn sample_rate(&mut self, now: Time) {
        let span = now - self.sample_began;
        if span >= SAMPLE {
            self.records.rate(self.records.replies - self.sample_replies, span);
            self.sample_began = now;
            self.sample_replies = self.records.replies;
        }
    }

    /// Wakes the next few senders, each once; and again if there was no buffer for one.
    fn wake_senders(&mut self, turn: &mut Turn<'_>) {
        let started_all = self.sweep == self.senders.len();
        if started_all && self.starved && self.output_leases < self.share.output_leases_max() {
            self.starved = false;
            self.sweep = 0;
        }
        let end = self.senders.len().min(self.sweep + LOOKS_PER_TURN);
        for &index in &self.senders[self.sweep..end] {
            if let (State::Open, Some(id)) =
                (self.members[index].state, self.members[index].connection)
            {
                turn.wake(id);
            }
        }
        self.sweep = end;
    }

    /// Closes members that wait for something for too long.
    fn look_after(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now();
        if now < self.next_check {
            return;
        }
        self.next_check = now
            + (self.plan.timeout / 8).clamp(Duration::from_millis(10), Duration::from_millis(250));
        let begun = self.hall.begun();
        for index in 0..self.members.len() {
            let member = &self.members[index];
            if member.state == State::Open
                && member.reads
                && self.is_late(member, index, begun, now)
            {
                let member = &mut self.members[index];
                member.state = State::Lost(Loss::TimedOut);
                turn.close(member.connection.expect("it is open"));
            }
        }
    }

    fn is_late(&self, member: &Member, index: usize, begun: u64, now: Time) -> bool {
        let timeout = self.plan.timeout;
        if member.id == 0 {
            return now - member.opened > timeout;
        }
        if member.missing(begun) == 0 {
            return false;
        }
        let senders = &self.hall.senders;
        let due = &self.next[index * senders.len()..][..senders.len()];
        // What the hub has dropped, it has said: it may be these. And the last messages of a sender
        // that is gone may never have reached the hub.
        let excused = member.dropped > 0;
        senders.iter().zip(due).any(|(sender, due)| {
            *due < sender.begun()
                && !excused
                && !sender.is_lost()
                && sender.age(*due, now) > timeout
        })
    }
}
