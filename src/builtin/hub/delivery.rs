//! Delivery: puts frames into the queues of their recipients, and moves the queues to the outputs.

use std::ops::Range;

use super::local::{COST_OF_LIST, Held, Local, Payload};
use super::members::{Member, Reserved, Room};
use super::outbox::{RunKind, Workers};
use crate::buffer::{Chain, Lease};
use crate::builtin::Slow;
use crate::error::CloseReason;
use crate::protocol::framing::{LENGTH_BYTES, length};
use crate::protocol::hub::{
    CLIENTS_HEAD_BYTES, DROPPED, GONE, MESSAGE_HEAD_BYTES, QUEUE_FULL, WELCOME, clients_head,
    clients_ids_max, message_head, number_bytes, number_frame,
};
use crate::service::{Answer, Connection, ConnectionId, Message};
use crate::shared::receipt::SendError;

/// Carries out requests.
impl Local {
    /// Sends a message from a member to all members, on this worker and on the others.
    pub(super) fn broadcast(
        &mut self,
        from: ConnectionId,
        payload: Payload<'_>,
    ) -> Result<usize, Held> {
        let bytes = MESSAGE_HEAD_BYTES + payload.len;
        if let Some(held) = self.is_tight(bytes) {
            return Err(held);
        }
        let others = self.outbox.others();
        let copies = self.has_buffers(others, bytes)?;
        for worker in others {
            self.outbox.make_room(worker, bytes)?;
        }
        if !self.log.make_room(bytes) {
            return Err(Held::ForRoom);
        }
        let head = message_head(true, from.to_bits(), payload.len, self.order);
        let frame = || std::iter::once(&head[..]).chain(payload.pieces());
        for worker in others {
            self.outbox.stage(worker, RunKind::Broadcast, 0, frame());
        }
        let range = self.log.append(frame());
        self.has_taken(self.outbox.taken_at);
        self.reserved = Reserved { copies, newcomers: true };
        let cost = self.deliver_to_all(range);
        self.reserved = Reserved::default();
        Ok(cost)
    }

    /// Checks that there are enough buffers for a frame of `bytes` bytes on this worker and on all
    /// `others`, and for copies of it for members whose queues have many parts. Returns the number
    /// of copies. The caller takes all buffers or none: if workers took them one by one, and gave
    /// them back when there were too few, the same buffers would circulate among the workers.
    fn has_buffers(&mut self, others: Workers, bytes: usize) -> Result<usize, Held> {
        let copies = self.copies(bytes, true);
        let needed = others.filter(|&worker| !self.outbox.has_room(worker, bytes)).count()
            + usize::from(!self.log.has_room(bytes) && !self.log.is_alone());
        let free = self.pool.available();
        if free >= needed + copies {
            return Ok(copies);
        }
        if free >= needed && self.held_by_copies(bytes, true) == Held::ForTurn {
            return Err(Held::ForTurn);
        }
        self.outbox.waits_for(others);
        self.wait_for_more_than(free);
        Err(Held::ForRoom)
    }

    /// Sends a message from a member to one member.
    pub(super) fn send(
        &mut self,
        from: ConnectionId,
        to: u64,
        payload: Payload<'_>,
    ) -> Result<usize, Held> {
        let id = ConnectionId::from_bits(to);
        let bytes = MESSAGE_HEAD_BYTES + payload.len;
        let head = message_head(false, from.to_bits(), payload.len, self.order);
        let frame = std::iter::once(&head[..]).chain(payload.pieces());
        if id.worker() != self.worker {
            if !self.directory.has(id) || !self.outbox.is_present(id.worker()) {
                return self.put_not_sent(from, GONE, to);
            }
            self.outbox.make_room(id.worker(), bytes)?;
            self.outbox.stage(id.worker(), RunKind::Unicast, to, frame);
            return Ok(1);
        }
        let Some(place) = self.receiver(to) else { return self.put_not_sent(from, GONE, to) };
        let mut room = self.members.all()[place].room(bytes, &self.bounds, self.turns);
        if room == Room::Enough {
            if !self.log.make_room(bytes) {
                return Err(Held::ForRoom);
            }
            room = self.room_for_copy(place, bytes);
        }
        match room {
            Room::Soon => return Err(self.held_by(place)),
            Room::None => {
                self.put_not_sent(from, QUEUE_FULL, to)?;
                self.overflow(place);
            }
            Room::Enough => {
                let range = self.log.append(frame);
                self.has_taken(self.outbox.taken_at);
                self.deliver_singly(place, range);
            }
        }
        Ok(1)
    }

    /// Delivers a message of another thread to one member.
    pub(super) fn message(
        &mut self,
        connection: &mut Connection<'_>,
        message: &mut Message<'_>,
    ) -> Answer {
        // The member has its turn now: sending output first makes room in its queue.
        self.flush(connection);
        if let Err(why) = self.take_message(connection.id(), message) {
            message.refuse(why);
        }
        self.flush(connection);
        self.after_flush(connection)
    }

    fn take_message(&mut self, id: ConnectionId, message: &Message<'_>) -> Result<(), SendError> {
        let place = self.receiver(id.to_bits()).ok_or(SendError::Gone)?;
        let Local { members, log, bounds, crowded, .. } = self;
        let member = &mut members.all_mut()[place];
        let (len, bytes) = (message.bytes().len(), MESSAGE_HEAD_BYTES + message.bytes().len());
        if len > bounds.max_message {
            return Err(SendError::TooLong);
        }
        let room = member.room(bytes, bounds, self.turns);
        if room != Room::Enough {
            if room == Room::None || self.slow == Slow::Drop {
                self.overflow(place);
            }
            return Err(SendError::QueueFull);
        }
        let parts = member.parts_max(bounds);
        let queued = match log.put_cast(&mut member.queue, message.number(), parts) {
            Some(queued) => queued,
            None if !log.make_room(bytes) => false,
            None => {
                let head = message_head(message.is_broadcast(), 0, len, self.order);
                let range = log.append([&head[..], message.bytes()].into_iter());
                log.remember_cast(message.number(), range.clone());
                log.put(&mut member.queue, range, parts)
            }
        };
        *crowded |= member.is_crowded(bounds);
        if queued { Ok(()) } else { Err(SendError::QueueFull) }
    }
}

/// Puts frames into the queues.
impl Local {
    /// Whether a member has no room for `bytes` bytes only because it has not had its turn yet.
    /// Returns what has to be waited for then.
    pub(super) fn is_tight(&mut self, bytes: usize) -> Option<Held> {
        if !self.tight {
            return None;
        }
        let most = bytes.max(self.bounds.buffer_size);
        let soon = |member: &Member, bytes| {
            member.takes_messages() && member.room(bytes, &self.bounds, self.turns) == Room::Soon
        };
        self.tight = self.members.all().iter().any(|member| soon(member, most));
        if !self.tight {
            return None;
        }
        held_by_any(self.members.all().iter().filter(|member| soon(member, bytes)))
    }

    /// What has to be waited for if a member has no room before its turn.
    pub(super) fn held_by(&self, place: usize) -> Held {
        held_by_any(self.members.all().get(place)).expect("there is one")
    }

    /// What has to be waited for if there are too few buffers for the [`copies`](Local::copies) of
    /// `bytes` bytes.
    pub(super) fn held_by_copies(&self, bytes: usize, newcomers: bool) -> Held {
        held_by_any(self.need_copies(bytes, newcomers)).expect("a copy is needed")
    }

    /// Whether the free buffers allow `bytes` bytes to be put into a member's queue. If the queue
    /// has many parts, the bytes need a buffer of their own.
    pub(super) fn room_for_copy(&self, place: usize, bytes: usize) -> Room {
        let member = &self.members.all()[place];
        match member.needs_buffer(bytes, &self.bounds) && self.pool.available() == 0 {
            true if member.is_slow(self.turns) => Room::None,
            true => Room::Soon,
            false => Room::Enough,
        }
    }

    /// Returns how many buffers are needed to put `bytes` bytes into the queue of each member that
    /// reads. With `newcomers`, includes members that have not been welcomed: they need a buffer
    /// before they can read.
    pub(super) fn copies(&mut self, bytes: usize, newcomers: bool) -> usize {
        if !self.crowded {
            return 0;
        }
        let mut members = self.members.all().iter().filter(|member| member.takes_messages());
        self.crowded = members.any(|member| member.is_crowded(&self.bounds));
        self.need_copies(bytes, newcomers).count()
    }

    /// The members for which [`copies`](Local::copies) counts a buffer.
    fn need_copies(&self, bytes: usize, newcomers: bool) -> impl Iterator<Item = &Member> {
        let reserved = Reserved { copies: 0, newcomers };
        self.members.all().iter().filter(move |member| {
            member.takes_messages()
                && reserved.is_for(member, self.turns)
                && member.needs_buffer(bytes, &self.bounds)
        })
    }

    /// Puts frames of the log into the queue of each member. Returns the cost.
    pub(super) fn deliver_to_all(&mut self, range: Range<usize>) -> usize {
        let mut cost = self.members.len();
        for place in 0..self.members.len() {
            if !self.deliver(place, range.clone()) {
                cost += self.deliver_singly(place, range.clone());
            }
        }
        cost
    }

    /// Puts frames one by one into the queue of a member, as far as there is room. Returns the
    /// number of frames in `range`.
    pub(super) fn deliver_singly(&mut self, place: usize, range: Range<usize>) -> usize {
        let (mut at, mut frames) = (range.start, 0);
        while at < range.end {
            let frame = self.frame_at(at);
            at = frame.end;
            frames += 1;
            if !self.deliver(place, frame) {
                self.overflow(place);
            }
        }
        frames
    }

    /// Puts frames of the log into the queue of a member. Returns whether there was room; always
    /// true for a member that takes no more messages.
    pub(super) fn deliver(&mut self, place: usize, range: Range<usize>) -> bool {
        let Local { members, log, bounds, turns, pool, reserved, crowded, .. } = self;
        let member = &mut members.all_mut()[place];
        if !member.takes_messages() {
            return true;
        }
        let parts = member.parts_max(bounds);
        if member.room(range.len(), bounds, *turns) != Room::Enough {
            return false;
        }
        if reserved.copies > 0 && member.needs_buffer(range.len(), bounds) {
            match reserved.is_for(member, *turns) {
                true => reserved.copies -= 1,
                false if pool.available() <= reserved.copies => return false,
                false => {}
            }
        }
        if !log.put(&mut member.queue, range, parts) {
            return false;
        }
        *crowded |= member.is_crowded(bounds);
        self.tight |= member.room(bounds.buffer_size, bounds, *turns) == Room::Soon;
        if !member.is_sending() {
            let slot = member.id.slot();
            self.wake_slot(slot);
        }
        true
    }

    /// Handles a message that is not delivered because the member reads too slowly.
    pub(super) fn overflow(&mut self, place: usize) {
        let member = &mut self.members.all_mut()[place];
        match self.slow {
            Slow::Drop => self.drop_message(place),
            Slow::Close => {
                member.doomed = true;
                drop(member.queue.take());
                let slot = member.id.slot();
                self.wake_slot(slot);
                self.has_moved = true;
            }
        }
    }

    /// A message is not delivered; the member will be told.
    pub(super) fn drop_message(&mut self, place: usize) {
        let member = &mut self.members.all_mut()[place];
        member.dropped += 1;
        self.context.count_dropped_messages(1);
        let slot = member.id.slot();
        self.wake_slot(slot);
    }

    /// Puts notices of members who joined or left, which are in the log, into each member's queue.
    /// Returns the cost.
    pub(super) fn deliver_notices(&mut self, range: Range<usize>) -> usize {
        for place in 0..self.members.len() {
            if self.members.all()[place].stale || self.deliver(place, range.clone()) {
                continue;
            }
            let (bounds, turns) = (&self.bounds, self.turns);
            let member = &mut self.members.all_mut()[place];
            let slow = member.room(range.len(), bounds, turns) == Room::None;
            if slow && self.slow == Slow::Close {
                self.overflow(place);
            } else {
                self.make_stale(place);
            }
        }
        self.members.len()
    }

    /// Gives each member a new list in place of lost notices. Returns the cost.
    pub(super) fn refresh(&mut self) -> usize {
        (0..self.members.len()).for_each(|place| self.make_stale(place));
        self.members.len()
    }

    fn make_stale(&mut self, place: usize) {
        let member = &mut self.members.all_mut()[place];
        member.stale = true;
        if !member.is_sending() {
            let slot = member.id.slot();
            self.wake_slot(slot);
        }
    }

    /// Returns the place of a member, if it takes messages.
    pub(super) fn receiver(&self, id: u64) -> Option<usize> {
        let place = self.members.place(ConnectionId::from_bits(id))?;
        self.members.all()[place].takes_messages().then_some(place)
    }

    /// Returns the range of the frame that begins at `at` in the log.
    pub(super) fn frame_at(&self, at: usize) -> Range<usize> {
        let prefix = self.log.bytes(at..at + LENGTH_BYTES);
        let prefix = prefix.try_into().expect("so many were asked for");
        let len = length(prefix, self.order, u32::MAX).expect("the hub writes frames");
        at..at + LENGTH_BYTES + len
    }
}

/// Moves the queues to the outputs.
impl Local {
    /// Moves waiting frames to a member's output, unless output is already being sent to it.
    pub(super) fn flush(&mut self, connection: &mut Connection<'_>) {
        let Some(place) = self.members.place(connection.id()) else { return };
        let member = &mut self.members.all_mut()[place];
        if member.is_sending() || !member.takes_messages() {
            return;
        }
        let complete = self.fill(place, connection.output, self.bounds.send);
        let (bounds, turns) = (&self.bounds, self.turns);
        let member = &mut self.members.all_mut()[place];
        let starves = connection.output.is_empty() && !complete;
        // Those that were held back because of it wait for its turn now.
        self.has_moved |= member.starves && !starves;
        member.starves = starves;
        if !connection.output.is_empty() {
            member.begin_sending(connection.output, turns);
            self.crowded |= member.is_crowded(bounds);
            self.tight |= member.room(bounds.buffer_size, bounds, turns) == Room::Soon;
        } else if starves {
            self.block(connection.id());
        }
    }

    /// Puts waiting frames on a member's output, in order, up to `most` bytes or one buffer.
    /// Returns false if a buffer is needed for this and none is free. The rest follows when there
    /// is one.
    fn fill(&mut self, place: usize, output: &mut Chain, most: usize) -> bool {
        let member = &mut self.members.all_mut()[place];
        if member.owes_welcome {
            let welcome = number_frame(WELCOME, member.id.to_bits(), self.order);
            if !self.put_own(output, &welcome) {
                return false;
            }
        }
        let member = &mut self.members.all_mut()[place];
        member.owes_welcome = false;
        let mut queue = member.queue.take();
        // Waits until half of the queue is free: the count and the list are then sent less often,
        // and there is room behind them.
        let complete = queue.len() > most.max(self.bounds.queue / 2)
            || (self.put_dropped_count(place, &mut queue) && self.put_list(place, &mut queue));
        let part = leases_up_to(&queue, most);
        output.append(&mut queue.split_to(part).expect("no buffer is cut"));
        self.members.all_mut()[place].queue = queue;
        complete
    }

    /// Appends the count of dropped messages to a member's queue. Returns the same as `fill`.
    fn put_dropped_count(&mut self, place: usize, queue: &mut Chain) -> bool {
        let dropped = self.members.all()[place].dropped;
        let frame = number_frame(DROPPED, dropped, self.order);
        if dropped > 0 && !self.put_own(queue, &frame) {
            return false;
        }
        self.members.all_mut()[place].dropped = 0;
        true
    }

    /// Appends a frame of a list to a member's queue, if a list is being sent to the member. The
    /// frame goes behind the waiting messages: only the list tells of clients that joined before it
    /// and have left since. Returns the same as `fill`.
    fn put_list(&mut self, place: usize, queue: &mut Chain) -> bool {
        let member = &mut self.members.all_mut()[place];
        if member.stale && member.listing.is_none() {
            (member.listing, member.stale) = (Some(0), false);
        }
        let Some(from) = member.listing else { return true };
        let Some((frame, next)) = self.list(from) else { return false };
        queue.push_back(frame);
        self.members.all_mut()[place].listing = next;
        true
    }

    /// Puts a frame that is for one member alone on its output. Returns whether there was a buffer
    /// to write it into.
    fn put_own(&mut self, output: &mut Chain, frame: &[u8]) -> bool {
        if !self.log.make_room(frame.len()) {
            return false;
        }
        let range = self.log.append(std::iter::once(frame));
        self.log.put(output, range, self.bounds.references_per_client())
    }

    /// Builds a frame with the clients from place `from` of the directory on, as many as fit. Also
    /// returns the place at which the next frame begins, if there is one. Returns `None` if there
    /// is no free buffer.
    fn list(&mut self, from: u64) -> Option<(Lease, Option<u64>)> {
        let Some(mut lease) = self.pool.lease() else {
            self.log.starves = true;
            return None;
        };
        lease.extend_from_slice(&[0; CLIENTS_HEAD_BYTES]);
        let (mut ids, mut at) = (0, from);
        let ids_max = clients_ids_max(self.bounds.max_message);
        let next = loop {
            let Some((place, client)) = self.directory.next(at) else { break None };
            if self.listener.is_none_or(|listener| listener == client.listener) {
                if ids == ids_max {
                    break Some(place);
                }
                lease.extend_from_slice(&number_bytes(client.id.to_bits(), self.order));
                ids += 1;
            }
            at = place + 1;
        };
        self.budget = self.budget.saturating_sub(COST_OF_LIST + ids);
        let head = clients_head(next.is_some(), ids, self.order);
        lease.filled_mut()[..CLIENTS_HEAD_BYTES].copy_from_slice(&head);
        Some((lease, next))
    }

    /// Puts everything that waits for a connection on its output, because the connection is being
    /// closed. Returns the reason to close it at once if it has missed messages and cannot be told,
    /// because its queue has overflowed in this turn or no buffer is free: it must not take what it
    /// gets for everything.
    pub(super) fn finishing(&mut self, connection: &mut Connection<'_>) -> Option<CloseReason> {
        let place = self.members.place(connection.id())?;
        let member = &mut self.members.all_mut()[place];
        if !member.takes_messages() {
            return member.doomed.then_some(CloseReason::SlowReader);
        }
        (member.listing, member.stale) = (None, false);
        // A list does not matter any more. Other frames that lack a buffer now cannot be sent later.
        let _ = self.fill(place, connection.output, usize::MAX);
        let member = &mut self.members.all_mut()[place];
        member.leaving = true;
        let has_all = member.dropped == 0 && member.queue.is_empty();
        self.forget(connection.id());
        self.has_moved = true;
        (!has_all).then_some(CloseReason::SlowReader)
    }
}

/// What has to be waited for if these members have no room before their turn: if all of them wait
/// for buffers, more turns do not help. `None` if there are none.
fn held_by_any<'a>(members: impl IntoIterator<Item = &'a Member>) -> Option<Held> {
    let mut held = None;
    for member in members {
        held = Some(Held::ForRoom);
        if !member.starves {
            return Some(Held::ForTurn);
        }
    }
    held
}

/// Returns the number of bytes in the first leases of a chain: as many leases as have at most
/// `most` bytes together, and at least one.
fn leases_up_to(chain: &Chain, most: usize) -> usize {
    let mut bytes = 0;
    for slice in chain.slices() {
        if bytes > 0 && bytes + slice.len() > most {
            break;
        }
        bytes += slice.len();
    }
    bytes
}
