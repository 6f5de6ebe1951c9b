//! A worker's part of the hub: carries out the clients' requests, wakes the members that output
//! waits for, and holds back senders whose messages find no room.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bounds::Bounds;
use super::log::Log;
use super::members::{Member, Members, Reserved};
use super::outbox::{NoRoom, NotSent, OWED_MAX, Outbox, PARCELS_MAX, Unpacking};
use crate::base::slot_queue::SlotQueue;
use crate::base::time::Time;
use crate::buffer::{Chain, Lease, Pool};
use crate::builtin::{HubOptions, Slow};
use crate::error::CloseReason;
use crate::protocol::framing::ByteOrder;
use crate::protocol::hub as protocol;
use crate::protocol::hub::{Head, JOINED, LEFT, Refusal, Request, SEND_HEAD_BYTES, number_frame};
use crate::service::{Answer, Connection, ConnectionId, Turn, WorkerContext};
use crate::shared::directory::Directory;
use crate::shared::histogram::Histogram;

/// The most that the requests of a round may cost before the members are sent the resulting
/// messages. The same limit holds for unpacking parcels. One unit is putting a message into a
/// queue, about 15 ns, so each limit is about half a millisecond.
pub(super) const COST_MAX: usize = 1 << 15;

/// Cost of a request in addition to the messages that it puts into queues. Also the cost of a run
/// of messages in a parcel.
pub(super) const COST_OF_REQUEST: usize = 16;

/// Cost of a frame of a list in addition to the clients in it, as the frame is sent to one member
/// only.
pub(super) const COST_OF_LIST: usize = 256;

/// The state of one worker's part of the hub.
pub(super) struct Local {
    pub(super) worker: usize,
    /// The listener whose clients are members. `None`: all listeners.
    pub(super) listener: Option<usize>,
    pub(super) order: ByteOrder,
    pub(super) slow: Slow,
    notices: bool,
    pub(super) bounds: Bounds,
    pub(super) pool: Pool,
    pub(super) directory: Arc<Directory>,
    pub(super) context: WorkerContext,
    pub(super) members: Members,
    pub(super) log: Log,
    pub(super) outbox: Outbox,
    /// Members to wake, by slot.
    pub(super) ready: SlotQueue,
    /// Members whose requests wait for a turn, by slot, in the order in which they are served. They
    /// wait because the other members have used up the turn's budget, or because a member has to
    /// have its turn first.
    senders: SlotQueue,
    /// What all requests may still cost in this round, and what those of each sender may cost. A
    /// round ends when all members that output waits for have been woken, which takes one turn or
    /// more.
    pub(super) budget: usize,
    share: usize,
    /// What unpacking parcels may still cost in this round.
    pub(super) parcel_budget: usize,
    /// Number of members woken in this round.
    woken: usize,
    /// When the first of the messages was taken that the members are sent in this round, and when the
    /// first of those that came later was. Time at their senders' workers counts too.
    round_since: Option<Time>,
    waits_since: Option<Time>,
    /// Members that wait for a buffer, for another worker, or because of a member that waits for
    /// one of these, by slot. They are woken when something has changed.
    blocked: SlotQueue,
    /// Something has changed for the blocked members, beside buffers.
    pub(super) has_moved: bool,
    /// Parcels that have arrived and are not unpacked yet.
    pub(super) arrived: VecDeque<Lease>,
    /// The parcel before those in `arrived`, if it is partly unpacked.
    pub(super) unpacking: Option<Unpacking>,
    /// Replies to members of other workers that are not passed on yet.
    pub(super) owed: VecDeque<NotSent>,
    /// A NOT_SENT reply from another worker that waits for a turn of its member or for a buffer.
    pub(super) not_sent: Option<NotSent>,
    /// Some member may have room for less than a buffer, because it has not had its turn yet.
    pub(super) tight: bool,
    /// Some member's queue may have reached the limit of its parts.
    pub(super) crowded: bool,
    pub(super) reserved: Reserved,
    /// A blocked member waits for a buffer.
    starves: bool,
    /// The fewest free buffers with which a blocked member could not continue.
    free_before: usize,
    /// The blocked members were woken because buffers were free.
    was_served: bool,
    /// How many of `ready` have to have their turn until all have tried again that waited for a buffer
    /// when something else had moved. Until then the service keeps its place among those that wait.
    retries: usize,
    /// Counts the turns of the worker's loop after which every connection has had its turn.
    pub(super) turns: u32,
}

/// Why a request has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Held {
    /// A member has to have its turn first.
    ForTurn,
    /// There is no free buffer, another worker has not caught up, or a member has to have its turn
    /// first that waits for a buffer.
    ForRoom,
    /// The client does not read the messages that it is sent.
    BySelf,
}

/// Why a parcel is not unpacked yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// The budget of the round is used up.
    Budget,
    /// Too many replies wait to be passed on.
    Owes,
    /// Members have no room for it yet.
    Held(Held),
}

impl From<NoRoom> for Held {
    fn from(_: NoRoom) -> Held {
        Held::ForRoom
    }
}

/// The payload of a request, in its client's input.
#[derive(Clone, Copy)]
pub(super) struct Payload<'a> {
    pub(super) input: &'a Chain,
    pub(super) skip: usize,
    pub(super) len: usize,
}

impl<'a> Payload<'a> {
    /// Returns the payload as one slice per buffer.
    pub(super) fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        let (mut skip, mut left) = (self.skip, self.len);
        self.input.slices().map_while(move |slice| {
            let from = skip.min(slice.len());
            skip -= from;
            let count = left.min(slice.len() - from);
            let more = left > 0;
            left -= count;
            more.then_some(&slice[from..from + count])
        })
    }
}

/// The earlier of two times, where there are any.
fn earlier(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    one.into_iter().chain(other).min()
}

/// How far the requests in a client's input were carried out.
enum Progress {
    /// To the end of the input, or to an incomplete frame.
    Done,
    /// To the end of the sender's share: the others come first.
    Yield,
    /// To a request that has to wait.
    Held(Held),
    /// To a request that is not allowed.
    Refused(CloseReason),
}

impl Local {
    /// Bytes of memory per slot.
    pub(super) const BYTES_PER_SLOT: usize =
        Members::BYTES_PER_SLOT + 3 * SlotQueue::BYTES_PER_SLOT;

    /// Bytes of memory that do not depend on the number of connections.
    pub(super) fn fixed_bytes(workers: usize) -> usize {
        size_of::<Local>()
            + workers * PARCELS_MAX as usize * size_of::<Lease>()
            + OWED_MAX * size_of::<NotSent>()
            + Outbox::bytes(workers)
    }

    pub(super) fn new(
        options: &HubOptions,
        bounds: Bounds,
        context: &WorkerContext,
        outbox: Outbox,
    ) -> Local {
        let (slots, pool) = (context.connections_max(), context.pool());
        let directory = context.directory().expect("a hub is the service of a server");
        Local {
            worker: context.worker(),
            listener: context.only_listener(),
            order: options.order,
            slow: options.slow,
            notices: options.notices,
            bounds,
            pool: pool.clone(),
            directory: directory.clone(),
            context: context.clone(),
            members: Members::new(slots),
            log: Log::new(pool),
            outbox,
            ready: SlotQueue::new(slots),
            senders: SlotQueue::new(slots),
            budget: COST_MAX,
            share: COST_MAX,
            parcel_budget: COST_MAX,
            woken: 0,
            round_since: None,
            waits_since: None,
            blocked: SlotQueue::new(slots),
            has_moved: false,
            arrived: VecDeque::with_capacity(context.workers() * PARCELS_MAX as usize),
            unpacking: None,
            owed: VecDeque::with_capacity(OWED_MAX),
            not_sent: None,
            tight: false,
            crowded: false,
            reserved: Reserved::default(),
            starves: false,
            free_before: usize::MAX,
            was_served: false,
            retries: 0,
            turns: 0,
        }
    }

    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    pub(super) fn open(&mut self, connection: &mut Connection<'_>) -> Answer {
        let id = connection.id();
        if self.members.is_empty() {
            self.outbox.set_present(true);
        }
        if self.notices {
            self.notify(JOINED, id);
        }
        self.members.insert(id, &self.pool);
        // The welcome is sent after all members that join in this turn have joined. Their notices
        // are then contiguous in the log, and take one part of a buffer in each queue.
        self.wake(id);
        Answer::Continue
    }

    /// Removes the member of a connection that is gone.
    pub(super) fn closed(&mut self, id: ConnectionId) {
        if !self.members.remove(id) {
            return;
        }
        self.forget(id);
        self.has_moved = true;
        if self.notices {
            self.notify(LEFT, id);
        }
        if self.members.is_empty() {
            self.outbox.set_present(false);
        }
    }

    /// Tells all members, on this worker and on the others, of a member that has joined or left.
    fn notify(&mut self, kind: u8, id: ConnectionId) {
        let frame = number_frame(kind, id.to_bits(), self.order);
        if !self.members.is_empty() {
            if self.log.make_room(frame.len()) {
                let range = self.log.append(std::iter::once(&frame[..]));
                let cost = self.deliver_notices(range);
                self.budget = self.budget.saturating_sub(cost);
            } else {
                self.refresh();
            }
        }
        self.outbox.notify(&frame);
    }

    pub(super) fn data(&mut self, connection: &mut Connection<'_>) -> Answer {
        match self.members.get_mut(connection.id()) {
            // This input was being received when the member was paused. It is handled in the
            // member's turn.
            Some(member) if member.paused => Answer::Continue,
            _ => self.serve(connection),
        }
    }

    pub(super) fn peer_closed(&mut self, connection: &mut Connection<'_>) -> Answer {
        if let Some(member) = self.members.get_mut(connection.id()) {
            member.ended = true;
        }
        self.data(connection)
    }

    /// Serves a member that was woken, or whose pause has ended.
    pub(super) fn timer(&mut self, connection: &mut Connection<'_>) -> Answer {
        let id = connection.id();
        self.flush(connection);
        let Some(member) = self.members.get_mut(id) else { return Answer::Continue };
        let waits = self.senders.contains(id.slot()) && !std::mem::take(&mut member.called);
        if waits && !member.doomed {
            // The member was woken so that output is sent to it. Its requests have their turn in
            // another round.
            return Answer::WaitUntil(Time::MAX);
        }
        member.paused = false;
        self.serve(connection)
    }

    pub(super) fn sent(&mut self, connection: &mut Connection<'_>) -> Answer {
        let id = connection.id();
        let Some(member) = self.members.get_mut(id) else { return Answer::Continue };
        member.end_sending();
        if member.listing.is_some() {
            // The rest of the list waits for a turn, because building it is expensive.
            self.wake(id);
            return Answer::Continue;
        }
        self.flush(connection);
        match self.members.get_mut(id) {
            // Only a wake ends a pause.
            Some(member) if member.paused => {
                self.wake(id);
                Answer::Continue
            }
            _ => self.after_flush(connection),
        }
    }

    /// Carries out the client's requests, and sends the messages that wait for it.
    fn serve(&mut self, connection: &mut Connection<'_>) -> Answer {
        let id = connection.id();
        if self.is_doomed(id) {
            return Answer::CloseFor(CloseReason::SlowReader);
        }
        let before = connection.input.len();
        let progress = self.requests(connection);
        self.flush(connection);
        // A member that was served in this turn goes behind the others.
        let waits = matches!(progress, Progress::Yield | Progress::Held(Held::ForTurn));
        if !waits || connection.input.len() < before {
            self.senders.remove(id.slot());
        }
        match progress {
            // The member's own messages may have overflowed its queue. It must not assume that it
            // got them all.
            _ if self.is_doomed(id) => return Answer::CloseFor(CloseReason::SlowReader),
            Progress::Done => return self.after_flush(connection),
            Progress::Refused(reason) => return Answer::CloseAfterSendFor(reason),
            Progress::Yield | Progress::Held(Held::ForTurn) => self.wait_for_turn(id),
            Progress::Held(Held::ForRoom) => self.block(id),
            // The member is woken when output is sent.
            Progress::Held(Held::BySelf) => {}
        }
        let Some(member) = self.members.get_mut(id) else { return Answer::Continue };
        member.paused = true;
        // Only a wake ends this.
        Answer::WaitUntil(Time::MAX)
    }

    /// Queues a member's requests behind those of the members that already wait.
    fn wait_for_turn(&mut self, id: ConnectionId) {
        if !self.senders.contains(id.slot()) {
            self.senders.push_back(id.slot());
        }
    }

    fn is_doomed(&mut self, id: ConnectionId) -> bool {
        self.members.get_mut(id).is_some_and(|member| member.doomed)
    }

    /// Decides how a connection continues after its waiting messages were sent. It does not end
    /// while requests of it wait, nor before it is told what it has missed.
    pub(super) fn after_flush(&mut self, connection: &Connection<'_>) -> Answer {
        match self.members.get_mut(connection.id()) {
            Some(member) if member.doomed => Answer::CloseFor(CloseReason::SlowReader),
            Some(Member {
                ended: true,
                paused: false,
                listing: None,
                stale: false,
                dropped: 0,
                ..
            }) => Answer::CloseAfterSendFor(CloseReason::PeerClosed),
            _ => Answer::Continue,
        }
    }

    /// Carries out requests until none is left, one has to wait, or they have used up their share
    /// of this round.
    fn requests(&mut self, connection: &mut Connection<'_>) -> Progress {
        let mut share = self.share.min(self.budget);
        self.outbox.taken_at = connection.now();
        loop {
            let mut first = [0; SEND_HEAD_BYTES];
            let count = connection.input.peek(&mut first);
            let head = protocol::request(&first[..count], self.order, self.bounds.max_message);
            let head = match head {
                Ok(Some(head)) => head,
                Ok(None) => return Progress::Done,
                Err(Refusal::TooLong) => return Progress::Refused(CloseReason::MessageTooLong),
                Err(Refusal::Malformed) => return Progress::Refused(CloseReason::ProtocolError),
            };
            if connection.input.len() < head.bytes + head.payload {
                return Progress::Done;
            }
            if share == 0 {
                return Progress::Yield;
            }
            match self.carry_out(connection.id(), connection.input, &head) {
                Ok(messages) => {
                    let cost = COST_OF_REQUEST + messages;
                    share = share.saturating_sub(cost);
                    self.budget = self.budget.saturating_sub(cost);
                }
                Err(held) => return Progress::Held(held),
            }
            connection.input.consume(head.bytes + head.payload);
        }
    }

    /// Carries out a request. Returns the number of queues that it put something into. If the
    /// request has to wait, returns the reason; nothing has changed then.
    fn carry_out(&mut self, from: ConnectionId, input: &Chain, head: &Head) -> Result<usize, Held> {
        let payload = Payload { input, skip: head.bytes, len: head.payload };
        match head.request {
            Request::List => {
                let Some(member) = self.members.get_mut(from) else { return Ok(0) };
                if member.listing.is_some() {
                    return Err(Held::BySelf);
                }
                member.listing = Some(0);
                Ok(1)
            }
            Request::Broadcast => self.broadcast(from, payload),
            Request::Send { to } => self.send(from, to, payload),
        }
    }

    /// Removes a member from all queues of waiting members.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        self.ready.remove(id.slot());
        self.senders.remove(id.slot());
        self.blocked.remove(id.slot());
    }

    /// Wakes a member in the next turn.
    pub(super) fn wake(&mut self, id: ConnectionId) {
        self.wake_slot(id.slot());
    }

    /// Wakes a member when there may be room.
    pub(super) fn block(&mut self, id: ConnectionId) {
        if !self.blocked.contains(id.slot()) {
            self.blocked.push_back(id.slot());
        }
    }

    /// A member is about to be blocked that could not use the buffers that are free now.
    pub(super) fn wait_for_more_than(&mut self, free: usize) {
        self.starves = true;
        self.free_before = self.free_before.min(free);
    }

    /// Wakes the blocked members if there may be room for one of them. They continue in the order in
    /// which they were blocked. Tells the worker if they wait for a buffer: the service then has its
    /// place in the order of all that wait for one, and a turn when it is served. Returns whether
    /// another turn is needed.
    fn serve_blocked(&mut self, turn: &mut Turn<'_>) -> bool {
        if std::mem::take(&mut self.log.starves) | std::mem::take(&mut self.outbox.starves) {
            self.wait_for_more_than(0);
        }
        let has_moved = std::mem::take(&mut self.has_moved) | std::mem::take(&mut self.log.is_new)
            || !self.blocked.is_empty() && self.outbox.may_have_room();
        let starves = self.starves && !self.blocked.is_empty();
        self.retries = self.retries.min(self.ready.len());
        // After it was served, the service goes behind all others that wait.
        let was_served = std::mem::take(&mut self.was_served);
        if (starves || self.retries > 0) && !was_served {
            turn.want_buffer();
            self.was_served = starves && self.pool.available() > self.free_before;
        }
        if self.was_served || has_moved || self.blocked.is_empty() {
            let keeps_place = starves && !self.was_served;
            while let Some(slot) = self.blocked.pop_front() {
                self.wake_slot(slot);
            }
            if keeps_place {
                self.retries = self.ready.len();
            }
            (self.starves, self.free_before) = (false, usize::MAX);
        }
        starves && was_served
    }

    /// Does the work that is due between two turns of the worker's loop. Returns the time of the
    /// next turn that it needs.
    pub(super) fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        // Output that yielded in an earlier turn may not have had its turn yet.
        self.turns = self.turns.wrapping_add(u32::from(turn.all_served));
        let stop = self.unpack();
        // After unpacking, which may leave the log with no part in any queue.
        self.log.turn();
        let unsaid = self.take_not_sent();
        self.forward_not_sent();
        let lacks_buffer = self.outbox.turn();
        if lacks_buffer || unsaid == Some(Held::ForRoom) {
            turn.want_buffer();
        }
        let is_due = self.serve_blocked(turn);
        // Wakes at most as many members as there are, so that a round ends even if others get
        // messages meanwhile.
        if self.ready.is_empty() || self.woken >= self.members.len() {
            self.begin_round(turn);
        }
        self.wake_ready(turn);
        self.tell_what_is_delivered(turn);
        let unpacks = match stop {
            None | Some(Stop::Held(Held::ForRoom | Held::BySelf)) => false,
            Some(Stop::Owes) => !self.owes_much(),
            Some(Stop::Budget | Stop::Held(Held::ForTurn)) => true,
        };
        let waits_for_turn = !self.ready.is_empty() || !self.senders.is_empty() || unpacks;
        (is_due || waits_for_turn || unsaid == Some(Held::ForTurn)).then(|| turn.now())
    }

    pub(super) fn wake_slot(&mut self, slot: u32) {
        if !self.ready.contains(slot) {
            self.ready.push_back(slot);
        }
    }

    /// Begins a round: wakes the senders whose turn it is. They share the budget of the round, and
    /// it wakes as many as can send one broadcast each within it. They stay in the queue until they
    /// have been served.
    fn begin_round(&mut self, turn: &mut Turn<'_>) {
        let most = COST_MAX / (COST_OF_REQUEST + self.members.len()) + 1;
        // Wakes are also needed to send the messages of these senders to the other members.
        let most = most.min(turn.wakes_left().div_ceil(2));
        let mut called = 0;
        for slot in self.senders.iter().take(most) {
            let Some(id) = self.members.id_in(slot) else { continue };
            let Some(member) = self.members.get_mut(id) else { continue };
            member.called = true;
            // This wake also sends the messages that wait for the member.
            self.ready.remove(slot);
            turn.wake(id);
            called += 1;
        }
        self.budget = COST_MAX;
        self.share = COST_MAX / (called + 1);
        self.parcel_budget = COST_MAX;
        self.woken = 0;
        self.round_since = self.waits_since.take();
    }

    /// Records that messages are put into queues that were taken from their senders at this time.
    pub(super) fn has_taken(&mut self, at: Time) {
        if Histogram::EXISTS {
            self.waits_since = earlier(self.waits_since, Some(at));
        }
    }

    /// Tells the worker since when the messages were on their way that have been passed on to the last
    /// of their members with this turn: all, or those that were there when the round began.
    fn tell_what_is_delivered(&mut self, turn: &mut Turn<'_>) {
        let all = self.ready.is_empty();
        if !all && self.woken < self.members.len() {
            return;
        }
        let mut since = self.round_since.take();
        if all {
            since = earlier(since, self.waits_since.take());
        }
        if let Some(since) = since.filter(|_| self.context.times_turns()) {
            turn.delivers(since);
        }
    }

    fn wake_ready(&mut self, turn: &mut Turn<'_>) {
        while turn.wakes_left() > 0
            && let Some(slot) = self.ready.pop_front()
        {
            self.retries = self.retries.saturating_sub(1);
            if let Some(id) = self.members.id_in(slot) {
                turn.wake(id);
                self.woken += 1;
            }
        }
    }
}
