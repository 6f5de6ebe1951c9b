//! From a name to a connection: looking up, trying one address after the other, waiting for the
//! next round; and what becomes of a client's operations when its connection is lost.

use std::time::Duration;

use super::{
    Driver, Ended, Error, Fifo, Kind, Lane, Link, NONE, Place, Slot, Stage, State, Stream, Unsent,
};
use crate::client::error::Attempt;
use crate::client::resolve::Question;
use crate::client::submission::Answer;
use crate::error::{CloseReason, Errno};
use crate::service::{ConnectTo, Connection, Turn};

impl Driver {
    pub(super) fn submit_connect(&mut self, i: u32, index: u32) {
        let slot = &mut self.slots[i as usize];
        let is_open = matches!(slot.stage, Stage::Open(_)) && !slot.leaving;
        if slot.connect != NONE || is_open {
            return self.turn_away(index, Error::AlreadyConnected);
        }
        slot.connect = index;
        if slot.stage == Stage::Idle {
            slot.attempt = 0;
            self.begin_round(i);
        }
    }

    /// Begins to look the name up, and to try its addresses.
    pub(super) fn begin_round(&mut self, i: u32) {
        let now = self.now;
        let slot = &mut self.slots[i as usize];
        let asked = if slot.connect == NONE { None } else { self.ops.get(slot.connect) };
        let limit = asked.map_or(crate::base::time::Time::MAX, |op| op.deadline);
        slot.epoch = slot.epoch.wrapping_add(1);
        slot.attempt = slot.attempt.saturating_add(1);
        slot.attempts.clear();
        slot.round_deadline = (now + slot.connect_timeout).min(limit);
        slot.next_address = 0;
        slot.addresses.clear();
        let literal = slot.target.as_ref().map_or(&[][..], |target| &target.literal);
        slot.addresses.extend_from_slice(literal);
        if slot.addresses.is_empty() {
            let until = slot.round_deadline;
            slot.stage = Stage::Resolving;
            self.wheel.set_earlier(i, until);
            self.ask_resolver(i);
        } else {
            slot.stage = Stage::Connecting;
            self.queue_connect(i);
        }
        self.say(i, State::Connecting);
    }

    fn ask_resolver(&mut self, i: u32) {
        let slot = &mut self.slots[i as usize];
        let Some(target) = &slot.target else { return };
        // An answer to an earlier question is on its way: this one is asked then.
        if slot.resolving {
            return;
        }
        let (host, port) = (target.host.clone(), target.port);
        let question = Question { slot: i, epoch: slot.epoch, host, port };
        // There is room: each client has one question at most.
        slot.resolving = self.resolver.try_send(question).is_ok();
    }

    /// The resolver has answered.
    pub(super) fn answered(&mut self, answer: Answer) {
        let Answer { slot: i, epoch, addresses } = answer;
        let slot = self.slot(i);
        slot.resolving = false;
        match (slot.stage, addresses) {
            (Stage::Resolving, _) if slot.epoch != epoch => self.ask_resolver(i),
            (Stage::Resolving, Ok(addresses)) => {
                slot.addresses = addresses;
                slot.stage = Stage::Connecting;
                self.queue_connect(i);
            }
            (Stage::Resolving, Err(error)) => self.round_failed(i, error),
            _ => {}
        }
    }

    pub(super) fn resolved_too_late(&mut self, i: u32) {
        let error = self.connect_error(i);
        self.round_failed(i, error);
    }

    /// The next address is to be tried in this turn.
    fn queue_connect(&mut self, i: u32) {
        let tag = u64::from(self.slot(i).epoch) << 32 | u64::from(i);
        self.to_connect.push_back(tag);
    }

    /// Begins the connects that are due, as many as there is room for.
    pub(super) fn connect_some(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..self.to_connect.len() {
            if turn.free_slots() == 0 {
                return;
            }
            let Some(tag) = self.to_connect.pop_front() else { return };
            if let Some(i) = self.slot_of(tag) {
                self.connect_next(i, tag, turn);
            }
        }
    }

    /// Begins to connect to the next address. Each of those that are left has an equal share of the
    /// time that is left: one that does not answer does not use up that of the others.
    fn connect_next(&mut self, i: u32, tag: u64, turn: &mut Turn<'_>) {
        let now = self.now;
        let slot = self.slot(i);
        let Some(&target) = slot.addresses.get(slot.next_address) else { return };
        let left = slot.addresses.len() - slot.next_address;
        let share = (slot.round_deadline - now) / left as u32;
        let deadline = now + share.max(Duration::from_millis(1));
        turn.connect(ConnectTo { target, source: None, tag, deadline });
    }

    /// The slot that a connect belongs to, if it is still waited for.
    fn slot_of(&mut self, tag: u64) -> Option<u32> {
        let (i, epoch) = (tag as u32, (tag >> 32) as u32);
        let slot = self.slot(i);
        (slot.epoch == epoch && slot.stage == Stage::Connecting).then_some(i)
    }

    pub(super) fn attempt_failed(&mut self, tag: u64, error: Errno) {
        let Some(i) = self.slot_of(tag) else { return };
        let slot = self.slot(i);
        let address = slot.addresses[slot.next_address];
        slot.attempts.push(Attempt { address, error });
        slot.next_address += 1;
        if slot.next_address < slot.addresses.len() {
            self.queue_connect(i);
        } else {
            let error = Error::of_attempts(&slot.attempts);
            self.round_failed(i, error);
        }
    }

    /// What a connect that is given up now has come to.
    pub(super) fn connect_error(&mut self, i: u32) -> Error {
        let slot = self.slot(i);
        if let Stage::Connecting = slot.stage {
            let mut attempts = slot.attempts.clone();
            if let Some(&address) = slot.addresses.get(slot.next_address) {
                attempts.push(Attempt { address, error: Errno::TIMEDOUT });
            }
            return Error::of_attempts(&attempts);
        }
        if let (Stage::Resolving, Some(target)) = (slot.stage, &slot.target) {
            let reason = "no answer in time".to_owned();
            return Error::Resolve { host: target.host.clone(), reason };
        }
        slot.last_failure.clone().unwrap_or(Error::TimedOut)
    }

    /// No address could be connected to.
    fn round_failed(&mut self, i: u32, error: Error) {
        self.slot(i).last_failure = Some(error.clone());
        if !self.back_off(i, &error) {
            self.stop_trying(i, error.clone(), error);
        }
    }

    /// Waits for the next attempt, if there is to be one.
    fn back_off(&mut self, i: u32, why: &Error) -> bool {
        let now = self.now;
        let random = self.random.f64();
        let slot = self.slot(i);
        let attempt = slot.attempt.saturating_add(1);
        let wait = slot.reconnect.and_then(|policy| policy.wait(attempt, random));
        let Some(wait) = wait else { return false };
        slot.stage = Stage::BackOff(now + wait);
        self.wheel.set_earlier(i, now + wait);
        let until = self.submission.instant() + wait;
        self.say(i, State::Waiting { until, attempt, why: why.clone() });
        true
    }

    /// Makes no further attempt. `asked` is for who waits for the connection, `others` for what was
    /// to go over it.
    pub(super) fn stop_trying(&mut self, i: u32, asked: Error, others: Error) {
        self.fail_connect(i, asked);
        let slot = self.slot(i);
        if !slot.is_trying() && slot.stage != Stage::Idle {
            // It waited for the end of an earlier connection.
            if slot.place() == Place::Nowhere {
                self.fail_queues(i, true, &others);
            }
            return;
        }
        slot.stage = Stage::Idle;
        slot.epoch = slot.epoch.wrapping_add(1);
        slot.ended = Error::NotConnected;
        self.fail_all(i, &others);
        self.say(i, State::Closed { why: others });
    }

    /// A connection is there. `None` if nobody wants it any more.
    pub(super) fn opened(&mut self, connection: &Connection<'_>) -> Option<u32> {
        let i = self.slot_of(connection.tag())?;
        let now = connection.now();
        let slot = self.slot(i);
        slot.stage = Stage::Open(connection.id());
        slot.stream = Stream { opened_at: now, ..Stream::default() };
        slot.last_failure = None;
        let connect = std::mem::replace(&mut slot.connect, NONE);
        let address = connection.peer().socket_addr().expect("it was connected to an address");
        // Before the operation: who waits for it may look at what the callback has noted.
        self.say(i, State::Connected { address });
        if connect != NONE {
            self.end(connect, Ended { result: Ok(()), bytes_sent: 0, address: Some(address) });
        }
        Some(i)
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self, i: u32, connection: &mut Connection<'_>, reason: CloseReason) {
        self.now = self.now.max(connection.now());
        let slot = self.slot(i);
        slot.stream.sent = connection.bytes_sent();
        slot.stream.gone = true;
        slot.stage = Stage::Closing;
        let Stream { abort, why, .. } = &mut slot.stream;
        let why = why.take().or(abort.take()).unwrap_or_else(|| Error::of_close(reason));
        self.keep_input(i, connection);
        self.land(i);
        let left = self.slot(i).leaving;
        let why = if left && why == Error::Failed { Error::Cancelled } else { why };
        self.end_receives(i, &why);
        self.renew_or_rest(i, why);
    }

    /// Decides what comes after a connection.
    fn renew_or_rest(&mut self, i: u32, why: Error) {
        let now = self.now;
        let keep = self.keeps_unsent(i);
        self.settle_flying(i, &why, keep);
        let slot = self.slot(i);
        let dropped = slot.dropped;
        let left = std::mem::take(&mut slot.leaving);
        let stream = std::mem::take(&mut slot.stream);
        slot.present.fin = false;
        let again = slot.reconnect.filter(|_| !left && !dropped);
        if let Some(policy) = again
            && (stream.got_bytes || now - stream.opened_at >= policy.longest())
        {
            slot.attempt = 0;
        }
        self.finish_disconnects(i);
        if again.is_some() && self.back_off(i, &why) {
            return self.advance_queues(i);
        }
        let slot = self.slot(i);
        slot.stage = Stage::Idle;
        if left {
            // What was not received by then.
            slot.stash.clear();
        }
        let ended = if left { Error::NotConnected } else { why.clone() };
        slot.ended = ended.clone();
        let connects = slot.connect != NONE;
        if !connects {
            self.fail_all(i, &ended);
        }
        let why = if left || dropped { Error::Cancelled } else { why };
        self.say(i, State::Closed { why });
        if dropped {
            self.free(i);
        } else if connects {
            self.advance_queues(i);
            self.slot(i).attempt = 0;
            self.begin_round(i);
        }
    }

    /// Whether messages that were not sent wait for the next connection.
    pub(super) fn keeps_unsent(&mut self, i: u32) -> bool {
        let slot = self.slot(i);
        let again = slot.reconnect.is_some() && !slot.leaving && !slot.dropped;
        again && slot.unsent == Unsent::Keep
    }

    /// What becomes of the messages of a connection that is gone: those that the kernel had were
    /// sent; of the others a part may have been.
    fn settle_flying(&mut self, i: u32, why: &Error, keep: bool) {
        let slot = &mut self.slots[i as usize];
        let mut behind = std::mem::replace(&mut slot.next.waiting, Fifo::EMPTY);
        while let Some(index) = {
            let slot = &mut self.slots[i as usize];
            let next = self.ops.pop_front(&mut slot.flying, Link::Sent);
            next.or_else(|| self.ops.pop_front(&mut slot.present.waiting, Link::Sent))
        } {
            self.settle(i, index, why, keep);
        }
        while let Some(index) = self.ops.pop_front(&mut behind, Link::Sent) {
            self.ops.push_back(&mut self.slots[i as usize].next.waiting, Link::Sent, index);
        }
    }

    /// The same of those of which nothing was sent, on a connection that takes no more.
    pub(super) fn settle_waiting(&mut self, i: u32, why: &Error, keep: bool) {
        let slot = &mut self.slots[i as usize];
        let mut waiting = std::mem::replace(&mut slot.present.waiting, Fifo::EMPTY);
        while let Some(index) = self.ops.pop_front(&mut waiting, Link::Sent) {
            let slot = &mut self.slots[i as usize];
            match self.ops.at(index) {
                op if op.put > 0 => {
                    self.ops.push_back(&mut slot.present.waiting, Link::Sent, index);
                }
                op if op.kind == Kind::Disconnect => {
                    op.lane = Lane::None;
                    self.ops.push_back(&mut slot.disconnect, Link::Sent, index);
                }
                _ => self.settle(i, index, why, keep),
            }
        }
    }

    /// An operation whose connection takes nothing more, and that is in no queue of those to be sent:
    /// it waits for the next connection, or fails.
    fn settle(&mut self, i: u32, index: u32, why: &Error, keep: bool) {
        let sent = bytes_sent_of(&self.slots[i as usize], self.ops.at(index));
        let op = self.ops.at(index);
        let (kind, receives) = (op.kind, op.receives);
        op.lane = Lane::None;
        if receives {
            self.leave_receiving(i, index);
        }
        if kind.sends() && keep {
            let op = self.ops.at(index);
            (op.put, op.end) = (0, 0);
            (op.lane, op.next, op.receives) = (Lane::Waiting, true, receives);
            let next = &mut self.slots[i as usize].next;
            self.ops.push_back(&mut next.waiting, Link::Sent, index);
            if receives {
                self.ops.push_back(&mut next.receiving, Link::Received, index);
            }
            return;
        }
        let result = if kind == Kind::Disconnect { Ok(()) } else { Err(why.clone()) };
        self.finish(index, result, sent);
    }
}

/// How many bytes of an operation the kernel has, or had when the connection was lost.
pub(super) fn bytes_sent_of(slot: &Slot, op: &super::Op) -> usize {
    let unsent = op.end.saturating_sub(slot.stream.sent) as usize;
    op.put.saturating_sub(unsent)
}
