//! Bytes from requests to the output, and from the input to replies.
//!
//! The output of a connection is filled as far as a small window only: what is on it cannot be
//! taken back. A connection is read one receive ahead of what is asked for, so that its end is
//! seen; then no more until somebody asks, so what nobody asks for is bounded.

use super::{Driver, Error, Fifo, Kind, Lane, Link, NONE, Slot, Stage};
use crate::base::time::Time;
use crate::buffer::Lease;
use crate::service::{Answer, Connection};

/// Buffers of output that one client may have with the engine at once: as many as one system call
/// takes with a gain.
const WINDOW_LEASES: usize = 4;

impl Driver {
    /// Does for a connection what can be done now.
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
                // Whether it is read on is another answer, given when it is called again.
                self.schedule_wake(i);
                Answer::HalfClose
            }
            Some(answer) => answer,
            None => self.pause_or_continue(i, connection),
        }
    }

    fn pause_or_continue(&mut self, i: u32, connection: &Connection<'_>) -> Answer {
        let slot = self.slot(i);
        if !connection.input.is_empty() || slot.stash.end.is_some() {
            slot.stream.paused = true;
            return Answer::WaitUntil(Time::MAX);
        }
        if slot.stream.paused {
            // Only being woken ends a pause.
            self.schedule_wake(i);
        }
        Answer::Continue
    }

    /// Carries out what is behind all that was to be sent: a half-close, or the end.
    fn close_if_next(&mut self, i: u32) -> Option<Answer> {
        let slot = &mut self.slots[i as usize];
        if slot.dropped {
            slot.stage = Stage::Closing;
            return Some(Answer::CloseAfterSend);
        }
        let first = self.ops.get(slot.present.waiting.first)?.kind;
        if !matches!(first, Kind::HalfClose | Kind::Disconnect) {
            return None;
        }
        let index = self.ops.pop_front(&mut slot.present.waiting, Link::Sent)?;
        self.ops.at(index).lane = Lane::None;
        if first == Kind::HalfClose {
            self.finish(index, Ok(()), 0);
            return Some(Answer::HalfClose);
        }
        slot.stage = Stage::Closing;
        self.ops.push_back(&mut slot.disconnect, Link::Sent, index);
        Some(Answer::CloseAfterSend)
    }

    /// Completes the sends that the kernel has completely.
    pub(super) fn complete_sent(&mut self, i: u32) {
        loop {
            let slot = &mut self.slots[i as usize];
            let first = slot.in_flight.first;
            if first == NONE || self.ops.at(first).end > slot.stream.sent {
                return;
            }
            self.ops.pop_front(&mut slot.in_flight, Link::Sent);
            let put = self.ops.at(first).put;
            self.finish(first, Ok(()), put);
        }
    }

    /// Puts what waits to be sent on the output, as far as the window and the buffers go.
    fn fill_output(&mut self, i: u32, connection: &mut Connection<'_>) {
        let leases = if connection.pool.is_plentiful() { WINDOW_LEASES } else { 1 };
        let window = leases * connection.pool.buffer_size();
        let mut lease: Option<Lease> = None;
        while self.can_fill_more(i, window) {
            if lease.is_none() {
                lease = connection.take_lease();
            }
            // Without a buffer the connection waits for one, and this is called again.
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

    /// Puts bytes of the first operation that waits into a lease.
    fn fill_lease(&mut self, i: u32, lease: &mut Lease) {
        let Slot { framing, present, in_flight, stream, .. } = &mut self.slots[i as usize];
        let index = present.waiting.first;
        let op = self.ops.at(index);
        let count = op.fill(*framing, lease.spare_mut());
        lease.commit(count);
        op.put += count;
        stream.put += count as u64;
        op.end = stream.put;
        let (kind, is_whole) = (op.kind, op.put == op.wire_len(*framing));
        if is_whole {
            self.ops.pop_front(&mut present.waiting, Link::Sent);
            self.ops.at(index).lane = Lane::None;
            if kind == Kind::Send {
                self.ops.at(index).lane = Lane::InFlight;
                self.ops.push_back(in_flight, Link::Sent, index);
            }
        }
    }

    /// Gives what has come to the operations that wait for it, in their order.
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

    /// Gives the next bytes to the first operation. Returns whether there may be more to do.
    fn deliver_to_first(&mut self, i: u32, connection: Option<&mut Connection<'_>>) -> bool {
        let index = self.slots[i as usize].present.receiving.first;
        let op = self.ops.at(index);
        if op.is_withdrawn() {
            self.withdraw_receive(i, index, Error::Cancelled);
            return true;
        }
        // Whatever comes now is no reply to it.
        if !op.has_begun() {
            return false;
        }
        let slot = &mut self.slots[i as usize];
        let framing = slot.framing;
        let has_input = connection.as_ref().is_some_and(|c| !c.input.is_empty());
        // A reply cannot be among what an earlier connection left.
        if op.kind == Kind::SendReceive && slot.stash.end.is_some() {
            slot.stash.clear();
        }
        let taken = if op.done {
            Ok(None)
        } else if !slot.stash.is_empty() {
            let taken = op.take(framing, slot.stash.bytes());
            taken.inspect(|taken| slot.stash.consume(taken.bytes)).map(Some)
        } else if let Some(why) = slot.stash.end.clone()
            && (op.kind != Kind::Receive || op.reply.is_empty())
        {
            return self.end_stashed_stream(i, why);
        } else if let Some(connection) = connection
            && has_input
            && slot.stash.end.is_none()
        {
            let taken = op.take(framing, connection.input.first_slice());
            taken.inspect(|taken| connection.input.consume(taken.bytes)).map(Some)
        } else {
            // What needs nothing, or takes what there is, is done without more.
            op.take(framing, &[]).map(|taken| {
                let some = op.kind == Kind::Receive && !op.reply.is_empty();
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

    /// Completes the first receive, unless its request is not completely out yet.
    fn complete_receive(&mut self, i: u32, index: u32) -> bool {
        let slot = &mut self.slots[i as usize];
        let framing = slot.framing;
        let op = self.ops.at(index);
        if op.lane != Lane::None {
            return false;
        }
        if matches!(op.kind, Kind::SendReceive | Kind::Message)
            && let Some(crate::protocol::framing::Framing::Delimiter { delimiter, .. }) = framing
        {
            op.reply.truncate(op.reply.len() - delimiter.bytes().len());
        }
        let put = op.put;
        self.ops.pop_front(&mut slot.present.receiving, Link::Received);
        self.finish(index, Ok(()), put);
        true
    }

    /// What has come is not what may come: nobody knows where the next message begins.
    fn fail_receive(&mut self, i: u32, index: u32, error: Error) {
        let slot = &mut self.slots[i as usize];
        self.ops.pop_front(&mut slot.present.receiving, Link::Received);
        let op = self.ops.at(index);
        op.receives = false;
        if op.lane == Lane::Waiting {
            op.lane = Lane::None;
            self.ops.unlink(&mut slot.present.waiting, Link::Sent, index);
        }
        if slot.stash.end.is_some() {
            // Of a connection that is gone; the present one is not to blame.
            slot.stash.clear();
        } else {
            slot.stream.abort = Some(error.clone());
            if let Error::FrameTooLarge(_) = error {
                slot.stream.unframed = true;
                slot.stash.clear();
            }
        }
        self.finish_at_end(index, &error);
        self.schedule_wake(i);
    }

    /// What an earlier connection has left is used up, and its end comes next.
    fn end_stashed_stream(&mut self, i: u32, why: Error) -> bool {
        let slot = &mut self.slots[i as usize];
        slot.stash.clear();
        if let Some(index) = self.ops.pop_front(&mut slot.present.receiving, Link::Received) {
            self.finish_at_end(index, &why);
        }
        self.schedule_wake(i);
        true
    }

    /// The peer has closed its side: what has come is given out, then the end is.
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
        // Nothing more goes out on this connection.
        let keep = self.keeps_unsent(i);
        self.settle_unsent(i, &why, keep);
        let slot = self.slot(i);
        slot.stage = Stage::Closing;
        slot.ended = why.clone();
        slot.stream.why = Some(why);
        Answer::CloseAfterSend
    }

    /// Keeps what a connection that ends has brought and nobody has asked for yet.
    pub(super) fn stash_input(&mut self, i: u32, connection: &mut Connection<'_>) {
        let slot = self.slot(i);
        if slot.stream.unframed {
            slot.stash.clear();
        } else {
            connection.input.slices().for_each(|slice| slot.stash.push_back(slice));
        }
        let bytes = connection.input.len();
        connection.input.consume(bytes);
    }

    /// The connection is at its end for those that receive.
    pub(super) fn end_receives(&mut self, i: u32, why: &Error) {
        // Requests that have not begun have no part in it.
        let slot = &mut self.slots[i as usize];
        let (mut here, mut others) = (Fifo::EMPTY, Fifo::EMPTY);
        while let Some(index) = self.ops.pop_front(&mut slot.present.receiving, Link::Received) {
            let line = if self.ops.at(index).has_begun() { &mut here } else { &mut others };
            self.ops.push_back(line, Link::Received, index);
        }
        slot.present.receiving = here;
        if !here.is_empty() && !slot.stash.is_empty() {
            slot.stash.end = Some(why.clone());
            self.deliver_input(i, None);
        }
        self.fail_receives(i, why);
        let slot = self.slot(i);
        slot.present.receiving = others;
        slot.stash.end = (!slot.stash.is_empty()).then(|| why.clone());
    }

    /// Ends all that wait for bytes of the present connection.
    fn fail_receives(&mut self, i: u32, error: &Error) {
        loop {
            let slot = &mut self.slots[i as usize];
            let first = self.ops.pop_front(&mut slot.present.receiving, Link::Received);
            let Some(index) = first else { return };
            let op = self.ops.at(index);
            op.receives = false;
            if op.lane == Lane::Waiting {
                op.lane = Lane::None;
                self.ops.unlink(&mut slot.present.waiting, Link::Sent, index);
            }
            self.finish_at_end(index, error);
        }
    }
}
