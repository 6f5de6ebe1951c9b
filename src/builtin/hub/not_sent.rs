//! NOT_SENT: the reply to a client whose message to another client was not delivered.
//!
//! If the two clients are on different workers, the reply goes through a ring of the sender's
//! worker instead of a parcel. With parcels, two workers that refuse each other's messages would
//! wait for each other: a parcel is unpacked only when there is room for the replies that it
//! causes, and the number of parcels in transit is bounded.

use super::local::{Held, Local};
use super::members::Room;
use super::outbox::{NotSent, OWED_MAX, UNICASTS_MAX};
use crate::protocol::hub::{NOT_SENT_BYTES, not_sent};
use crate::service::ConnectionId;

impl Local {
    /// Tells a member that its message was not delivered.
    pub(super) fn put_not_sent(
        &mut self,
        to: ConnectionId,
        reason: u8,
        about: u64,
    ) -> Result<usize, Held> {
        let Some(place) = self.members.place(to) else { return Ok(0) };
        match self.members.all()[place].room(NOT_SENT_BYTES, &self.bounds, self.turns) {
            Room::Soon => return Err(self.held_by(place)),
            Room::None => return Err(Held::BySelf),
            Room::Enough => {}
        }
        if !self.log.make_room(NOT_SENT_BYTES) {
            return Err(Held::ForRoom);
        }
        match self.room_for_copy(place, NOT_SENT_BYTES) {
            Room::Soon => return Err(self.held_by(place)),
            Room::None => return Err(Held::BySelf),
            Room::Enough => {}
        }
        let frame = not_sent(reason, about, self.order);
        let range = self.log.append(std::iter::once(&frame[..]));
        self.deliver_singly(place, range);
        Ok(1)
    }

    /// Whether too many replies wait to be passed on. No parcel is unpacked then, because each
    /// message in it may cause a NOT_SENT reply.
    pub(super) fn owes_much(&self) -> bool {
        self.owed.len() + UNICASTS_MAX > OWED_MAX
    }

    /// Passes on the replies to members of other workers, as far as there is room.
    pub(super) fn forward_not_sent(&mut self) {
        while let Some(&owed) = self.owed.front() {
            if self.directory.has(owed.to) && !self.outbox.forward(owed) {
                return;
            }
            self.owed.pop_front();
        }
    }

    /// Delivers the replies that have come from other workers. Returns why the first one that is
    /// left has to wait.
    pub(super) fn take_not_sent(&mut self) -> Option<Held> {
        while let Some(owed) = self.not_sent.take().or_else(|| self.outbox.next_not_sent()) {
            if let Err(held) = self.take_one_not_sent(owed) {
                self.not_sent = Some(owed);
                return Some(held);
            }
        }
        None
    }

    /// Delivers one reply. Fails if the reply has to wait for the member's turn or for a buffer.
    fn take_one_not_sent(&mut self, NotSent { to, reason, about }: NotSent) -> Result<(), Held> {
        let Some(place) = self.receiver(to.to_bits()) else { return Ok(()) };
        match self.put_not_sent(to, reason, about) {
            Ok(_) => {}
            Err(Held::BySelf) => self.overflow(place),
            Err(Held::ForTurn) => return Err(Held::ForTurn),
            // All buffers may be in parcels that are not unpacked until there is room for replies.
            Err(Held::ForRoom) if self.outbox.not_sent_is_full() => self.drop_message(place),
            Err(Held::ForRoom) => return Err(Held::ForRoom),
        }
        Ok(())
    }
}
