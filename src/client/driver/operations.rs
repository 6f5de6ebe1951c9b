//! Operations from their begin to their end: where each waits for what it needs, which is due when,
//! and how it ends early. How bytes get it done is in `exchange`, how a connection does in
//! `connecting`.

use super::{Driver, Ended, Error, Kind, Lane, Link, NONE, Op, Stage, connecting};
use crate::base::time::Time;

impl Driver {
    /// Puts an operation where it waits for what it needs.
    pub(super) fn submit(&mut self, i: u32, index: u32) {
        let op = self.ops.at(index);
        let (kind, deadline) = (op.kind, op.deadline);
        if deadline != Time::MAX {
            self.deadlines.set_earlier(index, deadline);
        }
        if self.ending.is_some() {
            return self.finish(index, Err(Error::LoopEnded), 0);
        }
        match kind {
            Kind::Connect => self.submit_connect(i, index),
            Kind::Disconnect => self.submit_disconnect(i, index),
            _ => self.submit_transfer(i, index, kind),
        }
    }

    pub(super) fn submit_transfer(&mut self, i: u32, index: u32, kind: Kind) {
        let slot = &mut self.slots[i as usize];
        let is_open = matches!(slot.stage, Stage::Open(_));
        let reconnects = slot.reconnect.is_some() && slot.stage == Stage::Closing;
        let can_wait = slot.is_trying() || reconnects;
        let has_stash = !slot.stash.is_empty() || slot.stash_end.is_some();
        if slot.half_closed && (kind.sends() || kind == Kind::HalfClose) {
            return self.turn_away(index, Error::HalfClosed);
        }
        let receives = !kind.sends() && kind != Kind::HalfClose;
        if !(is_open || can_wait || (receives && has_stash)) {
            let why = slot.ended.clone();
            return self.turn_away(index, why);
        }
        if receives {
            self.ops.at(index).receives = true;
            self.ops.push_back(&mut slot.receiving, Link::Received, index);
            self.feed(i, None);
        } else {
            self.ops.at(index).lane = Lane::Waiting;
            self.ops.push_back(&mut slot.waiting, Link::Sent, index);
        }
        self.touch(i);
    }

    pub(super) fn submit_disconnect(&mut self, i: u32, index: u32) {
        match self.slot(i).stage {
            Stage::Open(_) => {
                let slot = &mut self.slots[i as usize];
                self.ops.at(index).lane = Lane::Waiting;
                self.ops.push_back(&mut slot.waiting, Link::Sent, index);
                self.touch(i);
            }
            Stage::Closing => {
                let slot = &mut self.slots[i as usize];
                self.ops.push_back(&mut slot.disconnect, Link::Sent, index);
            }
            Stage::Idle => self.finish(index, Ok(()), 0),
            _ => {
                self.stop_trying(i, Error::Cancelled, Error::Cancelled);
                self.finish(index, Ok(()), 0);
            }
        }
    }

    /// Completes an operation that is in no queue any more.
    pub(super) fn finish(&mut self, index: u32, result: Result<(), Error>, bytes_sent: usize) {
        self.end(index, Ended { result, bytes_sent, address: None });
    }

    /// The same with all that is to be told of it.
    pub(super) fn end(&mut self, index: u32, ended: Ended) {
        self.deadlines.clear(index);
        self.ops.at(index).ended = Some(ended);
        self.ops.push_back(&mut self.ended, Link::Sent, index);
    }

    /// Fails an operation that the client is not in the state for. Its caller is told at the next
    /// tick and not in this turn: one that tries again and again does not keep the loop busy.
    fn turn_away(&mut self, index: u32, error: Error) {
        let op = self.ops.at(index);
        let result = op.kind.ending(error);
        op.ended = Some(Ended { result, bytes_sent: 0, address: None });
        self.deadlines.clear(index);
        self.deadlines.set_earlier(index, self.now);
    }

    /// Ends an operation before it is done: it was cancelled, or its time is up.
    pub(super) fn end_early(&mut self, index: u32, error: Error) {
        let op = self.ops.at(index);
        let i = op.slot;
        match op.kind {
            Kind::Connect => {
                let why = match error {
                    Error::TimedOut => self.connect_error(i),
                    other => other,
                };
                self.stop_trying(i, why.clone(), why);
            }
            // It ends when the connection does, which is not up to this side alone.
            Kind::Disconnect => {}
            Kind::Send | Kind::SendReceive | Kind::HalfClose => self.end_send(i, index, error),
            Kind::Receive | Kind::Message | Kind::ToEnd { .. } => {
                let slot = &mut self.slots[i as usize];
                self.ops.unlink(&mut slot.receiving, Link::Received, index);
                let mut bytes = self.ops.at(index).give_up_reply();
                bytes.append(&mut slot.stash);
                slot.stash = bytes;
                self.finish(index, Err(error), 0);
            }
        }
    }

    pub(super) fn end_send(&mut self, i: u32, index: u32, error: Error) {
        let slot = &mut self.slots[i as usize];
        let framing = slot.framing;
        let op = self.ops.at(index);
        let (put, kind, lane, receives) = (op.put, op.kind, op.lane, op.receives);
        let is_whole = put == op.wire_len(framing);
        match lane {
            Lane::Waiting => self.ops.unlink(&mut slot.waiting, Link::Sent, index),
            Lane::Flying => self.ops.unlink(&mut slot.flying, Link::Sent, index),
            Lane::None => {}
        }
        if receives {
            self.ops.unlink(&mut slot.receiving, Link::Received, index);
        }
        let cut = kind == Kind::Send && framing.is_some() && put > 0 && !is_whole;
        if (kind == Kind::SendReceive && put > 0) || cut {
            slot.abort = Some(error.clone());
            self.touch(i);
        }
        self.finish(index, Err(error), put);
    }

    /// Ends everything that a client has under way.
    pub(super) fn fail_all(&mut self, i: u32, error: &Error) {
        let slot = &mut self.slots[i as usize];
        let connect = std::mem::replace(&mut slot.connect, NONE);
        if connect != NONE {
            self.finish(connect, Err(error.clone()), 0);
        }
        self.fail_sends(i, error);
        self.fail_receives(i, error);
        while let Some(index) = {
            let slot = &mut self.slots[i as usize];
            self.ops.pop_front(&mut slot.disconnect, Link::Sent)
        } {
            self.finish(index, Ok(()), 0);
        }
    }

    pub(super) fn fail_sends(&mut self, i: u32, error: &Error) {
        loop {
            let slot = &mut self.slots[i as usize];
            let next = self.ops.pop_front(&mut slot.flying, Link::Sent);
            let next = next.or_else(|| self.ops.pop_front(&mut slot.waiting, Link::Sent));
            let Some(index) = next else { return };
            if self.ops.at(index).receives {
                self.ops.unlink(&mut slot.receiving, Link::Received, index);
            }
            let result = match self.ops.at(index).kind {
                Kind::Disconnect => Ok(()),
                _ => Err(error.clone()),
            };
            let put = self.ops.at(index).put;
            self.finish(index, result, put);
        }
    }

    /// Ends all that wait for bytes. The end of the stream is what one kind of them waits for.
    pub(super) fn fail_receives(&mut self, i: u32, error: &Error) {
        loop {
            let slot = &mut self.slots[i as usize];
            if let Some(index) = self.ops.pop_front(&mut slot.receiving, Link::Received) {
                let op = self.ops.at(index);
                op.receives = false;
                if op.lane == Lane::Waiting {
                    op.lane = Lane::None;
                    self.ops.unlink(&mut slot.waiting, Link::Sent, index);
                }
                self.finish_ended(index, error);
            } else {
                return;
            }
        }
    }

    /// Completes a receive at the end of its connection.
    pub(super) fn finish_ended(&mut self, index: u32, error: &Error) {
        let op = self.ops.at(index);
        let put = connecting::bytes_sent_of(&self.slots[op.slot as usize], op);
        let result = op.kind.ending(error.clone());
        if result.is_err() {
            op.reply = op.give_up_reply();
        }
        self.finish(index, result, put);
    }

    /// All operations of a client that can have a deadline.
    pub(super) fn each_op(&mut self, i: u32, mut see: impl FnMut(u32, &Op)) {
        let slot = &self.slots[i as usize];
        let (connect, waiting, receiving) = (slot.connect, slot.waiting, slot.receiving);
        if connect != NONE {
            see(connect, self.ops.at(connect));
        }
        for (fifo, link) in [(waiting, Link::Sent), (receiving, Link::Received)] {
            let mut index = fifo.first;
            while index != NONE {
                see(index, self.ops.at(index));
                index = self.ops.after(link, index);
            }
        }
    }

    /// What time brings for a client next; [`Time::MAX`] if nothing.
    pub(super) fn next_due(&mut self, i: u32) -> Time {
        match self.slot(i).stage {
            Stage::BackOff(until) | Stage::Resolving(until) => until,
            _ => Time::MAX,
        }
    }
}
