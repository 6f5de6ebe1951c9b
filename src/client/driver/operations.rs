//! Operations from start to end: where each is queued, when it is due, and how it ends early.
//! `exchange` transfers data, and `connecting` makes connections.

use super::{
    ConnectionStage, Driver, Ended, Error, Fifo, Lane, NONE, OpKind, OpLink, Place, ending,
};
use crate::base::time::Time;

impl Driver {
    /// Queues an operation according to its kind.
    pub(super) fn submit(&mut self, i: u32, index: u32) {
        let op = self.ops.at(index);
        let (kind, deadline) = (op.kind, op.deadline);
        if op.completer.is_cancelled() && kind != OpKind::Disconnect {
            return self.finish(index, Err(Error::Cancelled), 0);
        }
        if deadline != Time::MAX {
            self.deadlines.set_earlier(index, deadline);
        }
        if self.ending.is_some() {
            return self.finish(index, Err(Error::LoopEnded), 0);
        }
        match kind {
            OpKind::Connect => self.submit_connect(i, index),
            OpKind::Disconnect => self.submit_disconnect(i, index),
            _ => self.submit_transfer(i, index, kind),
        }
    }

    /// Queues a transfer, for the connection that is current at its place in the queue.
    fn submit_transfer(&mut self, i: u32, index: u32, kind: OpKind) {
        let slot = &mut self.slots[i as usize];
        let place = slot.place();
        let only_receives = kind.receives() && !kind.sends();
        // Bytes of an earlier connection can be received without a connection.
        let has_left = slot.stash.end().is_some() && !slot.disconnecting;
        let next = match place {
            Place::Nowhere | Place::Next if only_receives && has_left => false,
            Place::Nowhere => {
                let why = if slot.disconnecting { Error::NotConnected } else { slot.ended.clone() };
                return self.reject(index, why);
            }
            Place::Present => false,
            Place::Next => true,
        };
        let queues = slot.queues(next);
        if queues.fin && !only_receives {
            return self.reject(index, Error::HalfClosed);
        }
        let op = self.ops.at(index);
        op.next = next;
        if !only_receives {
            op.lane = Lane::Waiting;
            queues.fin = kind == OpKind::HalfClose;
            self.ops.push_back(&mut queues.waiting, OpLink::Sent, index);
        }
        if kind.receives() {
            self.ops.at(index).receives = true;
            self.ops.push_back(&mut queues.receiving, OpLink::Received, index);
            self.deliver_input(i, None);
        }
        self.schedule_wake(i);
    }

    fn submit_disconnect(&mut self, i: u32, index: u32) {
        let slot = &mut self.slots[i as usize];
        match slot.stage {
            ConnectionStage::Open(_) if !slot.disconnecting => {
                slot.disconnecting = true;
                self.ops.at(index).lane = Lane::Waiting;
                self.ops.push_back(&mut slot.present.waiting, OpLink::Sent, index);
                self.schedule_wake(i);
            }
            // The connection is already ending, and no other is to follow.
            ConnectionStage::Open(_) | ConnectionStage::Closing => {
                slot.disconnecting = true;
                self.ops.push_back(&mut slot.disconnect, OpLink::Sent, index);
                self.fail_connect(i, Error::Cancelled);
                self.fail_queues(i, true, &Error::Cancelled);
            }
            ConnectionStage::Idle => self.finish(index, Ok(()), 0),
            _ => {
                self.stop_connecting(i, Error::Cancelled, Error::Cancelled);
                self.finish(index, Ok(()), 0);
            }
        }
    }

    /// Ends an operation that is in no queue.
    pub(super) fn finish(&mut self, index: u32, result: Result<(), Error>, bytes_sent: usize) {
        self.end(index, Ended { result, bytes_sent, address: None });
    }

    /// Ends an operation with a complete result.
    pub(super) fn end(&mut self, index: u32, ended: Ended) {
        self.deadlines.clear(index);
        self.ops.at(index).ended = Some(ended);
        self.ops.push_back(&mut self.ended, OpLink::Sent, index);
    }

    /// Fails an operation that is invalid in the client's state. Its caller is notified at the next
    /// tick and not in this turn, so that a caller that retries in a tight loop does not occupy the
    /// loop.
    pub(super) fn reject(&mut self, index: u32, error: Error) {
        let op = self.ops.at(index);
        let result = op.kind.result_at_end(error);
        op.ended = Some(Ended { result, bytes_sent: 0, address: None });
        self.deadlines.clear(index);
        self.deadlines.set_earlier(index, self.now);
        self.ops.push_back(&mut self.rejected, OpLink::Sent, index);
    }

    /// Ends rejected operations, up to and including this one. Timers of the same tick fire in any
    /// order, but operations complete in the order of submission.
    pub(super) fn end_rejected(&mut self, last: u32) {
        while let Some(index) = self.ops.pop_front(&mut self.rejected, OpLink::Sent) {
            self.deadlines.clear(index);
            self.ops.push_back(&mut self.ended, OpLink::Sent, index);
            if index == last {
                return;
            }
        }
    }

    /// Ends an operation before it is done, because it was cancelled or its deadline has passed.
    pub(super) fn end_early(&mut self, index: u32, error: Error) {
        let op = self.ops.at(index);
        let i = op.slot;
        match op.kind {
            OpKind::Connect => {
                let why = match error {
                    Error::TimedOut => self.connect_error(i),
                    other => other,
                };
                self.stop_connecting(i, why.clone(), why);
            }
            // It ends with the connection, which the peer also decides.
            OpKind::Disconnect => {}
            OpKind::Send | OpKind::SendReceive | OpKind::HalfClose => {
                self.end_send(i, index, error)
            }
            OpKind::Receive | OpKind::Message | OpKind::ToEnd { .. } => {
                self.end_receive(i, index, error)
            }
        }
    }

    /// Cancels a receive. The bytes that it has received go to the next one.
    fn end_receive(&mut self, i: u32, index: u32, error: Error) {
        self.withdraw_receive(i, index, error);
        self.deliver_input(i, None);
        self.schedule_wake(i);
    }

    pub(super) fn withdraw_receive(&mut self, i: u32, index: u32, error: Error) {
        let bytes = self.ops.at(index).take_wire_reply();
        self.unlink_receive(i, index);
        self.slot(i).stash.give_back(bytes);
        self.finish(index, Err(error), 0);
    }

    fn end_send(&mut self, i: u32, index: u32, error: Error) {
        let slot = &mut self.slots[i as usize];
        let framing = slot.framing;
        let op = self.ops.at(index);
        let (put, kind, lane, receives, next) = (op.put, op.kind, op.lane, op.receives, op.next);
        let is_whole = put == op.wire_len(framing);
        match lane {
            Lane::Waiting => {
                let queues = slot.queues(next);
                queues.fin &= kind != OpKind::HalfClose;
                self.ops.unlink(&mut queues.waiting, OpLink::Sent, index);
            }
            Lane::InFlight => self.ops.unlink(&mut slot.in_flight, OpLink::Sent, index),
            Lane::None => {}
        }
        if receives {
            self.unlink_receive(i, index);
        }
        let slot = self.slot(i);
        let unanswered = kind == OpKind::SendReceive && put > 0;
        if unanswered || (kind == OpKind::Send && framing.is_some() && put > 0 && !is_whole) {
            slot.stream.abort = Some(error.clone());
        }
        if unanswered {
            // The received bytes may contain a part of the reply, which no other receive may get.
            slot.stream.out_of_sync = true;
            slot.stash.clear();
        }
        self.finish(index, Err(error), put);
        // Receives behind it may now proceed.
        self.deliver_input(i, None);
        self.schedule_wake(i);
    }

    pub(super) fn unlink_receive(&mut self, i: u32, index: u32) {
        let op = self.ops.at(index);
        let next = op.next;
        op.receives = false;
        let queues = self.slots[i as usize].queues(next);
        self.ops.unlink(&mut queues.receiving, OpLink::Received, index);
    }

    /// Fails all operations of a client.
    pub(super) fn fail_all(&mut self, i: u32, error: &Error) {
        self.fail_connect(i, error.clone());
        while let Some(index) = {
            let slot = &mut self.slots[i as usize];
            self.ops.pop_front(&mut slot.in_flight, OpLink::Sent)
        } {
            self.fail_sent(i, index, error);
        }
        self.fail_queues(i, false, error);
        self.fail_queues(i, true, error);
        self.finish_disconnects(i);
    }

    pub(super) fn fail_connect(&mut self, i: u32, error: Error) {
        let connect = std::mem::replace(&mut self.slot(i).connect, NONE);
        if connect != NONE {
            self.finish(connect, Err(error), 0);
        }
    }

    pub(super) fn finish_disconnects(&mut self, i: u32) {
        while let Some(index) = {
            let slot = &mut self.slots[i as usize];
            self.ops.pop_front(&mut slot.disconnect, OpLink::Sent)
        } {
            self.finish(index, Ok(()), 0);
        }
    }

    /// Fails all operations that wait for one connection.
    pub(super) fn fail_queues(&mut self, i: u32, next: bool, error: &Error) {
        while let Some(index) = {
            let queues = self.slots[i as usize].queues(next);
            self.ops.pop_front(&mut queues.waiting, OpLink::Sent)
        } {
            self.fail_sent(i, index, error);
        }
        while let Some(index) = {
            let queues = self.slots[i as usize].queues(next);
            self.ops.pop_front(&mut queues.receiving, OpLink::Received)
        } {
            self.finish_at_end(index, error);
        }
        self.slot(i).queues(next).fin = false;
    }

    /// Fails an operation that was removed from a queue of the sending side.
    fn fail_sent(&mut self, i: u32, index: u32, error: &Error) {
        let op = self.ops.at(index);
        let (put, kind, receives) = (op.put, op.kind, op.receives);
        if receives {
            self.unlink_receive(i, index);
        }
        let result = if kind == OpKind::Disconnect { Ok(()) } else { Err(error.clone()) };
        self.finish(index, result, put);
    }

    /// Ends a receive at the end of its connection.
    pub(super) fn finish_at_end(&mut self, index: u32, error: &Error) {
        let op = self.ops.at(index);
        let slot = &self.slots[op.slot as usize];
        // If the connection still exists, bytes on its output will be sent.
        let put = match slot.stream.gone {
            true => ending::bytes_sent_of(slot, op),
            false => op.put,
        };
        let result = op.kind.result_at_end(error.clone());
        if result.is_err() {
            op.reply = op.take_wire_reply();
        }
        self.finish(index, result, put);
    }

    /// Moves the operations for the next connection to the present one.
    pub(super) fn advance_queues(&mut self, i: u32) {
        let slot = &mut self.slots[i as usize];
        let mut moved: Fifo = std::mem::replace(&mut slot.next.waiting, Fifo::EMPTY);
        while let Some(index) = self.ops.pop_front(&mut moved, OpLink::Sent) {
            self.ops.at(index).next = false;
            self.ops.push_back(&mut slot.present.waiting, OpLink::Sent, index);
        }
        let mut moved = std::mem::replace(&mut slot.next.receiving, Fifo::EMPTY);
        while let Some(index) = self.ops.pop_front(&mut moved, OpLink::Received) {
            self.ops.at(index).next = false;
            self.ops.push_back(&mut slot.present.receiving, OpLink::Received, index);
        }
        slot.present.fin = std::mem::take(&mut slot.next.fin);
    }

    /// The time of the client's next timer, or [`Time::MAX`].
    pub(super) fn next_due(&mut self, i: u32) -> Time {
        let slot = self.slot(i);
        match slot.stage {
            ConnectionStage::BackOff(until) => until,
            ConnectionStage::Resolving => slot.round_deadline,
            ConnectionStage::Connecting => slot.round_deadline.min(slot.race_at),
            _ => Time::MAX,
        }
    }
}
