//! NOT_SENT: what a client is told whose message to another was not delivered.
//!
//! Where the two are on different workers the answer comes through a ring of the sender's worker,
//! and not in a parcel. Two workers that refuse each other's messages would wait for each other
//! then: a parcel is unpacked only when there is room for the answers that it causes, and parcels
//! are on their way in bounded number.

use super::local::{Held, Local};
use super::members::Room;
use super::outbox::{Owed, UNICASTS_MAX};
use crate::protocol::hub::{NOT_SENT_BYTES, not_sent};
use crate::service::ConnectionId;

/// Answers that may wait to be passed on to other workers: those of two parcels.
pub(super) const OWED_MAX: usize = 2 * UNICASTS_MAX;

impl Local {
    /// Tells a member that its message was not delivered.
    pub(super) fn answer(
        &mut self,
        to: ConnectionId,
        reason: u8,
        about: u64,
    ) -> Result<usize, Held> {
        let Some(place) = self.members.place(to) else { return Ok(0) };
        match self.members.all()[place].room(NOT_SENT_BYTES, &self.bounds, self.turns) {
            Room::Soon => return Err(Held::ForTurn),
            Room::None => return Err(Held::BySelf),
            Room::Enough => {}
        }
        if !self.log.make_room(NOT_SENT_BYTES) {
            return Err(Held::ForRoom);
        }
        match self.room_for_copy(place, NOT_SENT_BYTES) {
            Room::Soon => return Err(Held::ForTurn),
            Room::None => return Err(Held::BySelf),
            Room::Enough => {}
        }
        let frame = not_sent(reason, about, self.order);
        let range = self.log.append(std::iter::once(&frame[..]));
        self.deliver_singly(place, range);
        Ok(1)
    }

    /// Whether so many answers wait to be passed on that no parcel can be unpacked, each message of
    /// which may have to be answered.
    pub(super) fn owes_much(&self) -> bool {
        self.owed.len() + UNICASTS_MAX > OWED_MAX
    }

    /// Passes the answers on that are owed to members of other workers, as far as there is room.
    pub(super) fn pass_answers_on(&mut self) {
        while let Some(&owed) = self.owed.front() {
            if self.directory.has(owed.to) && !self.post.pass_on(owed) {
                return;
            }
            self.owed.pop_front();
        }
    }

    /// Tells members of the answers that have come from other workers.
    pub(super) fn take_answers(&mut self) {
        while let Some(owed) = self.answer.take().or_else(|| self.post.next_answer()) {
            if !self.take_answer(owed) {
                self.answer = Some(owed);
                return;
            }
        }
    }

    /// Answers whether that is done: it may have to wait for the member's turn or for a buffer.
    fn take_answer(&mut self, Owed { to, reason, about }: Owed) -> bool {
        let Some(place) = self.receiver(to.to_bits()) else { return true };
        match self.answer(to, reason, about) {
            Ok(_) => true,
            Err(Held::BySelf) => {
                self.overflow(place);
                true
            }
            Err(Held::ForTurn) => false,
            // All buffers may be in parcels that are not unpacked before there is room for answers.
            Err(Held::ForRoom) if self.post.answers_are_full() => {
                self.drop_message(place);
                true
            }
            Err(Held::ForRoom) => false,
        }
    }
}
