//! Data transfer: from requests to the output, and from the input to replies.
//!
//! A connection's output is filled only up to a small window, because bytes on it cannot be taken
//! back. A connection is read one receive ahead of the requested bytes, so that its end is noticed.
//! After that it is paused until more bytes are requested, which bounds the unrequested bytes.

use super::{ClientSlot, ConnectionStage, Driver, Error, Fifo, Lane, NONE, OpKind, OpLink};
use crate::base::time::Time;
use crate::buffer::Lease;
use crate::service::{Answer, Connection};

/// Maximum number of output buffers of one client. More buffers in one system call bring no gain.
const WINDOW_LEASES: usize = 4;

impl Driver {
    /// Does all work that is possible on a connection now.
    pub(super) fn progress(&mut self, i: u32, connection: &mut Connection<'_>) -> Answer {
        self.now = self.now.max(connection.now());
        self.slot(i).stream.sent = connection.bytes_sent();
        self.complete_sent(i);
        if self.slot(i).stream.abort.is_none() {
            self.fill_output(i, connection);
            self.deliver_input(i, Some(connection));
        }
        if self.slot(i).stream.abort.is_some() {
            return Answer::Close;
        }
        self.complete_sent(i);
        match self.close_if_next(i) {
            Some(Answer::HalfClose) => {
                // Whether to read is decided by the next call.
                self.schedule_wake(i);
                Answer::HalfClose
            }
            Some(answer) => answer,
            None => self.pause_or_continue(i, connection),
        }
    }

    fn pause_or_continue(&mut self, i: u32, connection: &Connection<'_>) -> Answer {
        let slot = self.slot(i);
        if !connection.input.is_empty() || slot.stash.end().is_some() {
            slot.stream.paused = true;
            return Answer::WaitUntil(Time::MAX);
        }
        if slot.stream.paused {
            // Only a wake-up ends a pause.
            self.schedule_wake(i);
        }
        Answer::Continue
    }

    /// Executes a half-close or a close if it is next in the queue of sends.
    fn close_if_next(&mut self, i: u32) -> Option<Answer> {
        let slot = &mut self.slots[i as usize];
        if slot.dropped {
            slot.stage = ConnectionStage::Closing;
            return Some(Answer::CloseAfterSend);
        }
        let first = self.ops.get(slot.present.waiting.first)?.kind;
        if !matches!(first, OpKind::HalfClose | OpKind::Disconnect) {
            return None;
        }
        let index = self.ops.pop_front(&mut slot.present.waiting, OpLink::Sent)?;
        self.ops.at(index).lane = Lane::None;
        if first == OpKind::HalfClose {
            self.finish(index, Ok(()), 0);
            return Some(Answer::HalfClose);
        }
        slot.stage = ConnectionStage::Closing;
        self.ops.push_back(&mut slot.disconnect, OpLink::Sent, index);
        Some(Answer::CloseAfterSend)
    }

    /// Completes the sends that the kernel has accepted completely.
    pub(super) fn complete_sent(&mut self, i: u32) {
        loop {
            let slot = &mut self.slots[i as usize];
            let first = slot.in_flight.first;
            if first == NONE || self.ops.at(first).end > slot.stream.sent {
                return;
            }
            self.ops.pop_front(&mut slot.in_flight, OpLink::Sent);
            let put = self.ops.at(first).put;
            self.finish(first, Ok(()), put);
        }
    }

    /// Puts waiting data on the output, up to the window and the free buffers.
    fn fill_output(&mut self, i: u32, connection: &mut Connection<'_>) {
        let leases = if connection.pool.is_plentiful() { WINDOW_LEASES } else { 1 };
        let window = leases * connection.pool.buffer_size();
        let mut lease: Option<Lease> = None;
        while self.can_fill_more(i, window) {
            if lease.is_none() {
                lease = connection.take_lease();
            }
            // Without a free buffer, the connection waits for one and this method is called again.
            let Some(mut open) = lease.take() else { break };
            self.fill_lease(i, &mut open);
            match open.spare_mut().is_empty() {
                true => connection.output.push_back(open),
                false => lease = Some(open),
            }
        }
        if let Some(open) = lease {
            connection.output.push_back(open);
        }
    }

    fn can_fill_more(&mut self, i: u32, window: usize) -> bool {
        let slot = &self.slots[i as usize];
        let is_message = self.ops.get(slot.present.waiting.first).is_some_and(|op| op.kind.sends());
        is_message && ((slot.stream.put - slot.stream.sent) as usize) < window
    }

    /// Copies bytes of the first waiting operation into a lease.
    fn fill_lease(&mut self, i: u32, lease: &mut Lease) {
        let ClientSlot { framing, present, in_flight, stream, .. } = &mut self.slots[i as usize];
        let index = present.waiting.first;
        let op = self.ops.at(index);
        let count = op.fill(*framing, lease.spare_mut());
        lease.commit(count);
        op.put += count;
        stream.put += count as u64;
        op.end = stream.put;
        let (kind, is_whole) = (op.kind, op.put == op.wire_len(*framing));
        if is_whole {
            self.ops.pop_front(&mut present.waiting, OpLink::Sent);
            self.ops.at(index).lane = Lane::None;
            if kind == OpKind::Send {
                self.ops.at(index).lane = Lane::InFlight;
                self.ops.push_back(in_flight, OpLink::Sent, index);
            }
        }
    }

    /// Delivers received bytes to the waiting operations, in order.
    pub(super) fn deliver_input(&mut self, i: u32, mut connection: Option<&mut Connection<'_>>) {
        while self.slots[i as usize].present.receiving.first != NONE {
            let more = match connection.as_deref_mut() {
                Some(connection) => self.deliver_to_first(i, Some(connection)),
                None => self.deliver_to_first(i, None),
            };
            if !more {
                return;
            }
        }
    }

    /// Delivers the next bytes to the first operation. Returns whether to call this again.
    fn deliver_to_first(&mut self, i: u32, connection: Option<&mut Connection<'_>>) -> bool {
        let index = self.slots[i as usize].present.receiving.first;
        let op = self.ops.at(index);
        if op.is_withdrawn() {
            self.withdraw_receive(i, index, Error::Cancelled);
            return true;
        }
        // Bytes received now cannot be its reply.
        if !op.has_started() {
            return false;
        }
        let slot = &mut self.slots[i as usize];
        let framing = slot.framing;
        let has_input = connection.as_ref().is_some_and(|c| !c.input.is_empty());
        // Bytes of an earlier connection cannot be its reply.
        if op.kind == OpKind::SendReceive {
            slot.stash.clear_ended();
        }
        let taken = if op.done {
            Ok(None)
        } else if !slot.stash.is_empty() {
            let taken = op.take(framing, slot.stash.bytes());
            taken.inspect(|taken| slot.stash.consume(taken.bytes)).map(Some)
        } else if let Some(why) = slot.stash.end().cloned()
            && (op.kind != OpKind::Receive || op.reply.is_empty())
        {
            return self.end_stashed_stream(i, why);
        } else if let Some(connection) = connection
            && has_input
            && slot.stash.end().is_none()
        {
            let taken = op.take(framing, connection.input.first_slice());
            taken.inspect(|taken| connection.input.consume(taken.bytes)).map(Some)
        } else {
            // Completes an operation that needs no bytes, or a receive that already has some.
            op.take(framing, &[]).map(|taken| {
                let some = op.kind == OpKind::Receive && !op.reply.is_empty();
                (taken.done || some).then_some(super::super::ops::Taken { bytes: 0, done: true })
            })
        };
        match taken {
            Ok(Some(taken)) => {
                self.ops.at(index).done = taken.done;
                if taken.done { self.complete_receive(i, index) } else { true }
            }
            Ok(None) if self.ops.at(index).done => self.complete_receive(i, index),
            Ok(None) => false,
            Err(error) => {
                self.fail_receive(i, index, error);
                false
            }
        }
    }

    /// Completes the first receive, unless its request has not been sent completely.
    fn complete_receive(&mut self, i: u32, index: u32) -> bool {
        let slot = &mut self.slots[i as usize];
        let framing = slot.framing;
        let op = self.ops.at(index);
        if op.lane != Lane::None {
            return false;
        }
        if matches!(op.kind, OpKind::SendReceive | OpKind::Message)
            && let Some(crate::protocol::framing::Framing::Delimiter { delimiter, .. }) = framing
        {
            op.reply.truncate(op.reply.len() - delimiter.bytes().len());
        }
        let put = op.put;
        self.ops.pop_front(&mut slot.present.receiving, OpLink::Received);
        self.finish(index, Ok(()), put);
        true
    }

    /// Fails the first receive because of invalid data. The start of the next message is unknown.
    fn fail_receive(&mut self, i: u32, index: u32, error: Error) {
        let slot = &mut self.slots[i as usize];
        self.ops.pop_front(&mut slot.present.receiving, OpLink::Received);
        let op = self.ops.at(index);
        op.receives = false;
        if op.lane == Lane::Waiting {
            op.lane = Lane::None;
            self.ops.unlink(&mut slot.present.waiting, OpLink::Sent, index);
        }
        if slot.stash.end().is_some() {
            // The data is from an earlier connection, so the present one continues.
            slot.stash.pop_ended();
        } else {
            slot.stream.abort = Some(error.clone());
            if let Error::FrameTooLarge(_) = error {
                slot.stream.out_of_sync = true;
                slot.stash.clear();
            }
        }
        self.finish_at_end(index, &error);
        self.schedule_wake(i);
    }

    /// Ends the first receive with the end of an earlier connection, after its last bytes.
    fn end_stashed_stream(&mut self, i: u32, why: Error) -> bool {
        let slot = &mut self.slots[i as usize];
        slot.stash.pop_ended();
        if let Some(index) = self.ops.pop_front(&mut slot.present.receiving, OpLink::Received) {
            self.finish_at_end(index, &why);
        }
        self.schedule_wake(i);
        true
    }

    /// Handles the peer's close: delivers the received bytes, then the end of the stream.
    pub(super) fn closed_by_peer(&mut self, i: u32, connection: &mut Connection<'_>) -> Answer {
        self.slot(i).stream.sent = connection.bytes_sent();
        self.complete_sent(i);
        if self.slot(i).stream.abort.is_none() {
            self.deliver_input(i, Some(connection));
        }
        if self.slot(i).stream.abort.is_some() {
            return Answer::Close;
        }
        let why = Error::ClosedByPeer;
        self.stash_input(i, connection);
        self.end_receives(i, &why);
        // Nothing more is sent on this connection.
        let keep = self.keeps_unsent(i);
        self.settle_unsent(i, &why, keep);
        let slot = self.slot(i);
        slot.stage = ConnectionStage::Closing;
        slot.ended = why.clone();
        slot.stream.why = Some(why);
        Answer::CloseAfterSend
    }

    /// Keeps the received bytes of a connection that ends, for later receives.
    pub(super) fn stash_input(&mut self, i: u32, connection: &mut Connection<'_>) {
        let slot = self.slot(i);
        if slot.stream.out_of_sync {
            slot.stash.clear();
        } else {
            connection.input.slices().for_each(|slice| slot.stash.push_back(slice));
        }
        let bytes = connection.input.len();
        connection.input.consume(bytes);
    }

    /// Ends all receives of a connection that has ended.
    pub(super) fn end_receives(&mut self, i: u32, why: &Error) {
        // Requests that have not been started are not affected.
        let slot = &mut self.slots[i as usize];
        let (mut here, mut others) = (Fifo::EMPTY, Fifo::EMPTY);
        while let Some(index) = self.ops.pop_front(&mut slot.present.receiving, OpLink::Received) {
            let line = if self.ops.at(index).has_started() { &mut here } else { &mut others };
            self.ops.push_back(line, OpLink::Received, index);
        }
        slot.present.receiving = here;
        slot.stash.seal(why);
        if !here.is_empty() && slot.stash.end().is_some() {
            self.deliver_input(i, None);
        }
        self.fail_receives(i, why);
        let slot = self.slot(i);
        slot.present.receiving = others;
        if slot.stash.is_empty() {
            // The operations that have just failed have reported this end.
            slot.stash.pop_ended();
        }
    }

    /// Fails all operations that wait for bytes of the present connection.
    fn fail_receives(&mut self, i: u32, error: &Error) {
        loop {
            let slot = &mut self.slots[i as usize];
            let first = self.ops.pop_front(&mut slot.present.receiving, OpLink::Received);
            let Some(index) = first else { return };
            let op = self.ops.at(index);
            op.receives = false;
            if op.lane == Lane::Waiting {
                op.lane = Lane::None;
                self.ops.unlink(&mut slot.present.waiting, OpLink::Sent, index);
            }
            self.finish_at_end(index, error);
        }
    }
}
