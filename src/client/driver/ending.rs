//! The end of a connection: which of the client's operations fail, which wait for the next
//! connection, and whether there is one.

use super::{
    ClientSlot, ConnectionStage, Driver, Error, Fifo, Lane, NONE, OpKind, OpLink, State, Stream,
    Unsent,
};
use crate::error::CloseReason;
use crate::service::Connection;

impl Driver {
    /// Handles the end of a connection.
    pub(super) fn disconnected(
        &mut self,
        i: u32,
        connection: &mut Connection<'_>,
        reason: CloseReason,
    ) {
        self.now = self.now.max(connection.now());
        let slot = self.slot(i);
        slot.stream.sent = connection.bytes_sent();
        slot.stream.gone = true;
        slot.stage = ConnectionStage::Closing;
        let Stream { abort, why, .. } = &mut slot.stream;
        let why = why.take().or(abort.take()).unwrap_or_else(|| Error::of_close(reason));
        self.stash_input(i, connection);
        self.complete_sent(i);
        let left = self.slot(i).disconnecting;
        let why = if left && why == Error::Failed { Error::Cancelled } else { why };
        self.end_receives(i, &why);
        self.reconnect_or_idle(i, why);
    }

    /// Reconnects, connects, or becomes idle.
    fn reconnect_or_idle(&mut self, i: u32, why: Error) {
        let now = self.now;
        let keep = self.keeps_unsent(i);
        self.settle_in_flight(i, &why, keep);
        let slot = self.slot(i);
        let dropped = slot.dropped;
        let left = std::mem::take(&mut slot.disconnecting);
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
        slot.stage = ConnectionStage::Idle;
        if left {
            // Discard bytes that were not received before the disconnect.
            slot.stash.clear();
        }
        let ended = if left { Error::NotConnected } else { why.clone() };
        slot.ended = ended.clone();
        let connects = slot.connect != NONE;
        if !connects {
            self.fail_all(i, &ended);
        }
        let why = if left || dropped { Error::Cancelled } else { why };
        self.report_state(i, State::Closed { why });
        if dropped {
            self.release_slot(i);
        } else if connects {
            self.advance_queues(i);
            self.start_connecting(i);
        }
    }

    /// Whether unsent messages wait for the next connection.
    pub(super) fn keeps_unsent(&mut self, i: u32) -> bool {
        let slot = self.slot(i);
        let again = slot.reconnect.is_some() && !slot.disconnecting && !slot.dropped;
        again && slot.unsent == Unsent::Keep
    }

    /// Decides about the messages of a connection that has ended. The kernel may have accepted a
    /// part of them. Messages that it has accepted completely were completed before.
    fn settle_in_flight(&mut self, i: u32, why: &Error, keep: bool) {
        let slot = &mut self.slots[i as usize];
        let mut behind = std::mem::replace(&mut slot.next.waiting, Fifo::EMPTY);
        while let Some(index) = {
            let slot = &mut self.slots[i as usize];
            let next = self.ops.pop_front(&mut slot.in_flight, OpLink::Sent);
            next.or_else(|| self.ops.pop_front(&mut slot.present.waiting, OpLink::Sent))
        } {
            self.keep_or_fail(i, index, why, keep);
        }
        while let Some(index) = self.ops.pop_front(&mut behind, OpLink::Sent) {
            self.ops.push_back(&mut self.slots[i as usize].next.waiting, OpLink::Sent, index);
        }
    }

    /// Decides about the messages of which no byte was sent, on a connection that accepts no more.
    pub(super) fn settle_unsent(&mut self, i: u32, why: &Error, keep: bool) {
        let slot = &mut self.slots[i as usize];
        let mut waiting = std::mem::replace(&mut slot.present.waiting, Fifo::EMPTY);
        while let Some(index) = self.ops.pop_front(&mut waiting, OpLink::Sent) {
            let slot = &mut self.slots[i as usize];
            match self.ops.at(index) {
                op if op.put > 0 => {
                    self.ops.push_back(&mut slot.present.waiting, OpLink::Sent, index);
                }
                op if op.kind == OpKind::Disconnect => {
                    op.lane = Lane::None;
                    self.ops.push_back(&mut slot.disconnect, OpLink::Sent, index);
                }
                _ => self.keep_or_fail(i, index, why, keep),
            }
        }
    }

    /// Lets an operation wait for the next connection, or fails it. Its connection accepts no more,
    /// and it is not in a queue of the sending side.
    fn keep_or_fail(&mut self, i: u32, index: u32, why: &Error, keep: bool) {
        let sent = bytes_sent_of(&self.slots[i as usize], self.ops.at(index));
        let op = self.ops.at(index);
        let (kind, receives) = (op.kind, op.receives);
        op.lane = Lane::None;
        if receives {
            self.unlink_receive(i, index);
        }
        if kind.sends() && keep {
            let op = self.ops.at(index);
            (op.put, op.end) = (0, 0);
            (op.lane, op.next, op.receives) = (Lane::Waiting, true, receives);
            let next = &mut self.slots[i as usize].next;
            self.ops.push_back(&mut next.waiting, OpLink::Sent, index);
            if receives {
                self.ops.push_back(&mut next.receiving, OpLink::Received, index);
            }
            return;
        }
        let result = if kind == OpKind::Disconnect { Ok(()) } else { Err(why.clone()) };
        self.finish(index, result, sent);
    }
}

/// Number of bytes of an operation that the kernel has accepted.
pub(super) fn bytes_sent_of(slot: &ClientSlot, op: &super::Op) -> usize {
    let unsent = op.end.saturating_sub(slot.stream.sent) as usize;
    op.put.saturating_sub(unsent)
}
