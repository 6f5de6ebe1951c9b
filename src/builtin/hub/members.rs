//! The clients of one worker: the messages that wait for each, and whether there is room for more.

use super::bounds::Bounds;
use crate::buffer::{Chain, Pool};
use crate::service::ConnectionId;

/// Number of turns of the worker's loop after which unsent output is the client's fault. In the
/// first turn it is handed to the kernel. In the second it may have had to yield to other output.
const TURNS_TO_SEND: u32 = 2;

/// A client.
pub(super) struct Member {
    pub(super) id: ConnectionId,
    /// Frames that wait to be sent, in order.
    pub(super) queue: Chain,
    /// Size of the output that is being sent: bytes, and parts of buffers.
    sending_bytes: u32,
    sending_parts: u32,
    /// The turn in which this output began to be sent.
    sending_since: u32,
    /// Number of dropped messages that the client has not been told of.
    pub(super) dropped: u64,
    /// The place in the directory at which the client's list continues, if a list is being sent to
    /// it.
    pub(super) listing: Option<u64>,
    /// The client has not been told its own id yet.
    pub(super) owes_welcome: bool,
    /// The client has missed a notice, so it needs a new list.
    pub(super) stale: bool,
    /// The client is to be closed because it reads too slowly.
    pub(super) doomed: bool,
    /// The client is being closed. It gets no more messages than those already on its output.
    pub(super) leaving: bool,
    /// The client has closed its sending side.
    pub(super) ended: bool,
    /// The client is not read until it is woken.
    pub(super) paused: bool,
    /// There was no free buffer for the output that waits for the client.
    pub(super) starves: bool,
    /// The client's requests are to be carried out in this round.
    pub(super) called: bool,
}

/// Whether there is room for something in a member's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// There is room.
    Enough,
    /// Not yet, because the member has not had its turn.
    Soon,
    /// There is no room, because the client does not read.
    None,
}

impl Member {
    fn new(id: ConnectionId, pool: &Pool) -> Member {
        Member {
            id,
            queue: Chain::new(pool),
            sending_bytes: 0,
            sending_parts: 0,
            sending_since: 0,
            dropped: 0,
            listing: None,
            owes_welcome: true,
            stale: false,
            doomed: false,
            leaving: false,
            ended: false,
            paused: false,
            starves: false,
            called: false,
        }
    }

    /// Whether messages are delivered to the member.
    pub(super) fn takes_messages(&self) -> bool {
        !self.doomed && !self.leaving
    }

    /// Whether output is being sent to the member.
    pub(super) fn is_sending(&self) -> bool {
        self.sending_bytes > 0
    }

    /// Records that this output is being sent as of this turn.
    pub(super) fn begin_sending(&mut self, output: &Chain, turn: u32) {
        (self.sending_bytes, self.sending_parts) = (output.len() as u32, output.leases() as u32);
        self.sending_since = turn;
    }

    /// Records that all output is sent.
    pub(super) fn end_sending(&mut self) {
        (self.sending_bytes, self.sending_parts) = (0, 0);
    }

    /// Returns the most parts of buffers that the queue may have: those that it has, and those that
    /// it may still get.
    pub(super) fn parts_max(&self, bounds: &Bounds) -> usize {
        bounds.parts.saturating_sub(self.sending_parts as usize)
    }

    /// Returns whether there is room for `bytes` bytes. An empty queue has room for any number of
    /// bytes.
    pub(super) fn room(&self, bytes: usize, bounds: &Bounds, turn: u32) -> Room {
        let waiting = self.sending_bytes as usize + self.queue.len();
        if self.dropped == 0 && (waiting == 0 || waiting + bytes <= bounds.queue) {
            return Room::Enough;
        }
        if self.is_slow(turn) { Room::None } else { Room::Soon }
    }

    /// Whether the client was offered the output that is being sent, and does not take it.
    pub(super) fn is_slow(&self, turn: u32) -> bool {
        self.is_sending() && turn.wrapping_sub(self.sending_since) >= TURNS_TO_SEND
    }

    /// Whether the queue has as many parts as it may have.
    pub(super) fn is_crowded(&self, bounds: &Bounds) -> bool {
        self.queue.leases() >= self.parts_max(bounds)
    }

    /// Whether `bytes` more bytes need a buffer of their own, into which they are copied.
    pub(super) fn needs_buffer(&self, bytes: usize, bounds: &Bounds) -> bool {
        self.is_crowded(bounds) && self.queue.room_behind() < bytes
    }
}

/// Free buffers that are reserved for copies for members that read, while messages are delivered to
/// all.
#[derive(Clone, Copy, Default)]
pub(super) struct Reserved {
    pub(super) copies: usize,
    /// Whether they are also for members that have not been welcomed.
    pub(super) newcomers: bool,
}

impl Reserved {
    pub(super) fn is_for(self, member: &Member, turn: u32) -> bool {
        !member.is_slow(turn) && (self.newcomers || !member.owes_welcome)
    }
}

/// The members of one worker. They are close together in memory, because a broadcast visits all of
/// them.
pub(super) struct Members {
    all: Vec<Member>,
    /// For each slot, the member's place in `all`, plus 1. 0 if the slot has no member.
    places: Vec<u32>,
}

impl Members {
    /// Bytes of memory per slot.
    pub(super) const BYTES_PER_SLOT: usize = size_of::<Member>() + size_of::<u32>();

    pub(super) fn new(slots: usize) -> Members {
        Members { all: Vec::with_capacity(slots), places: Vec::with_capacity(slots) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn all(&self) -> &[Member] {
        &self.all
    }

    pub(super) fn all_mut(&mut self) -> &mut [Member] {
        &mut self.all
    }

    pub(super) fn insert(&mut self, id: ConnectionId, pool: &Pool) {
        let slot = id.slot() as usize;
        if self.places.len() <= slot {
            assert!(slot < self.places.capacity(), "no slot {slot}");
            self.places.resize(slot + 1, 0);
        }
        assert!(self.places[slot] == 0 && self.all.len() < self.all.capacity(), "one in a slot");
        self.all.push(Member::new(id, pool));
        self.places[slot] = self.all.len() as u32;
    }

    /// Removes a member, and gives the buffers of its queue back. Returns whether the member was
    /// there.
    pub(super) fn remove(&mut self, id: ConnectionId) -> bool {
        let Some(place) = self.place(id) else { return false };
        self.places[id.slot() as usize] = 0;
        self.all.swap_remove(place);
        if let Some(moved) = self.all.get(place) {
            self.places[moved.id.slot() as usize] = place as u32 + 1;
        }
        true
    }

    /// Returns the index of a member in [`all`](Members::all).
    pub(super) fn place(&self, id: ConnectionId) -> Option<usize> {
        let place = (*self.places.get(id.slot() as usize)? as usize).checked_sub(1)?;
        (self.all[place].id == id).then_some(place)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Member> {
        let place = self.place(id)?;
        Some(&mut self.all[place])
    }

    /// Returns the id of the member in a slot.
    pub(super) fn id_in(&self, slot: u32) -> Option<ConnectionId> {
        let place = (*self.places.get(slot as usize)? as usize).checked_sub(1)?;
        Some(self.all[place].id)
    }
}

// A cache line and a half.
const _: () = assert!(size_of::<Member>() <= 96);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Reserve;

    fn id(slot: u64, generation: u64) -> ConnectionId {
        ConnectionId(slot | generation << 30)
    }

    #[test]
    fn members_are_found_by_their_ids_until_they_leave() {
        let pool = Pool::with_references(Reserve::new(16, 1).unwrap(), 0, 1);
        let mut members = Members::new(8);
        for slot in [3, 0, 7] {
            members.insert(id(slot, 1), &pool);
        }
        assert!(members.remove(id(3, 1)) && !members.remove(id(3, 1)));
        for slot in [0, 7] {
            assert_eq!(members.get_mut(id(slot, 1)).unwrap().id, id(slot, 1));
            assert_eq!(members.id_in(slot as u32), Some(id(slot, 1)));
        }
        for stranger in [id(3, 1), id(0, 2), id(5, 1), id(900, 1), ConnectionId(0)] {
            assert!(members.get_mut(stranger).is_none(), "{stranger}");
        }
        members.insert(id(3, 2), &pool);
        assert_eq!(members.len(), 3);
        assert_eq!((members.id_in(3), members.id_in(9)), (Some(id(3, 2)), None));
    }

    #[test]
    fn there_is_no_room_for_a_client_that_does_not_read_and_soon_for_one_that_waits_for_its_turn() {
        let pool = Pool::with_references(Reserve::new(16, 4).unwrap(), 0, 1);
        let bounds = Bounds { buffer_size: 16, max_message: 1, queue: 32, send: 8, parts: 8 };
        let mut member = Member::new(id(1, 1), &pool);
        assert_eq!(member.room(40, &bounds, 5), Room::Enough, "it has nothing yet");
        let mut lease = pool.lease().unwrap();
        lease.extend_from_slice(&[0; 16]);
        member.queue.push_back(lease);
        assert_eq!(member.room(16, &bounds, 5), Room::Enough);
        assert_eq!(member.room(17, &bounds, 5), Room::Soon);
        let output = member.queue.take();
        member.begin_sending(&output, 5);
        assert_eq!(member.room(16, &bounds, 9), Room::Enough);
        for (turn, room) in [(5, Room::Soon), (6, Room::Soon), (7, Room::None)] {
            assert_eq!(member.room(17, &bounds, turn), room);
        }
        member.dropped = 1;
        assert_eq!(member.room(1, &bounds, 9), Room::None, "it has to be told first");
        member.end_sending();
        assert_eq!(member.room(1, &bounds, 9), Room::Soon);
    }
}
