//! Unpacks parcels from other workers into the queues of the recipients. `outbox` fills and sends
//! parcels; `delivery` puts frames into queues.

use std::ops::Range;

use super::local::{COST_OF_REQUEST, Local, Stop};
use super::members::{Reserved, Room};
use super::outbox::{NotSent, RUN_HEAD_BYTES, Run, RunKind, Unpacking};
use crate::base::time::Time;
use crate::buffer::Lease;
use crate::protocol::hub::{GONE, QUEUE_FULL, sender};
use crate::service::ConnectionId;

impl Local {
    /// Unpacks parcels while there is room for their contents and the round's budget for parcels is
    /// not used up. Returns why it stops before the end of the last one.
    pub(super) fn unpack(&mut self) -> Option<Stop> {
        loop {
            let rest = self.unpacking.as_ref().map(|parcel| parcel.left.len());
            let bytes = rest.or_else(|| self.arrived.front().map(Lease::len))?;
            if self.parcel_budget == 0 {
                return Some(Stop::Budget);
            }
            if self.owes_much() {
                return Some(Stop::Owes);
            }
            if let Some(held) = self.is_tight(bytes) {
                return Some(Stop::Held(held));
            }
            if let Err(stop) = self.unpack_one() {
                return Some(stop);
            }
        }
    }

    /// Unpacks one parcel. Copies its frames into the log if there is room for all of them.
    /// Otherwise the frames are sent from the parcel's own buffer, so no other buffer is needed.
    /// Fails if it has to stop before the end of the parcel.
    fn unpack_one(&mut self) -> Result<(), Stop> {
        if let Some(parcel) = self.unpacking.take() {
            return self.unpack_in_place(parcel);
        }
        let mut lease = self.arrived.pop_front().expect("it was looked at");
        let from = usize::from(lease.filled()[0]);
        lease.consume(1);
        let taken_at = self.outbox.next_taken_at(from);
        if !self.log.has_room(lease.len()) {
            return self.unpack_in_place(Unpacking::new(from, taken_at, lease));
        }
        while !lease.is_empty() {
            let run = Run::read(lease.filled());
            if let Err(stop) = self.may_deliver(&run) {
                self.unpacking = Some(Unpacking::new(from, taken_at, lease));
                return Err(stop);
            }
            lease.consume(RUN_HEAD_BYTES);
            let range = self.log.append(std::iter::once(&lease.filled()[..run.len]));
            lease.consume(run.len);
            self.deliver_run(&run, range, taken_at);
        }
        self.outbox.unpacked(from);
        Ok(())
    }

    fn unpack_in_place(&mut self, parcel: Unpacking) -> Result<(), Stop> {
        let Unpacking { from, taken_at, buffer, mut left } = parcel;
        let log = self.log.lay_aside_for(buffer);
        while !left.is_empty() {
            let run = Run::read(self.log.bytes(left.clone()));
            if let Err(stop) = self.may_deliver(&run) {
                let buffer = self.log.take_up_again(log);
                self.unpacking = Some(Unpacking { from, taken_at, buffer, left });
                return Err(stop);
            }
            let start = left.start + RUN_HEAD_BYTES;
            left.start = start + run.len;
            self.deliver_run(&run, start..left.start, taken_at);
        }
        self.log.keep_roomier(log);
        self.outbox.unpacked(from);
        Ok(())
    }

    /// Checks that the budget is not used up, and that there are enough buffers for the copies that
    /// a run needs for members that read, and reserves them. Members that have not been welcomed do
    /// not count: all buffers may be in parcels that wait for them.
    fn may_deliver(&mut self, run: &Run) -> Result<(), Stop> {
        if self.parcel_budget == 0 {
            return Err(Stop::Budget);
        }
        match run.kind {
            RunKind::Refresh => {}
            RunKind::Unicast => {
                if let Some(place) = self.receiver(run.to)
                    && !self.members.all()[place].owes_welcome
                    && self.room_for_copy(place, run.len) == Room::Soon
                {
                    return Err(Stop::Held(self.held_by(place)));
                }
            }
            RunKind::Broadcast | RunKind::Notices => {
                let copies = self.copies(run.len, false);
                if copies > self.pool.available() {
                    return Err(Stop::Held(self.held_by_copies(run.len, false)));
                }
                self.reserved = Reserved { copies, newcomers: false };
            }
        }
        Ok(())
    }

    fn deliver_run(&mut self, run: &Run, range: Range<usize>, taken_at: Time) {
        if run.kind.has_messages() {
            self.has_taken(taken_at);
        }
        let cost = match run.kind {
            RunKind::Broadcast => self.deliver_to_all(range),
            RunKind::Notices => self.deliver_notices(range),
            RunKind::Refresh => self.refresh(),
            RunKind::Unicast => self.deliver_unicasts(run.to, range),
        };
        self.reserved = Reserved::default();
        self.parcel_budget = self.parcel_budget.saturating_sub(COST_OF_REQUEST + cost);
    }

    fn deliver_unicasts(&mut self, to: u64, range: Range<usize>) -> usize {
        let (mut at, mut frames) = (range.start, 0);
        while at < range.end {
            let frame = self.frame_at(at);
            at = frame.end;
            frames += 1;
            let reason = match self.receiver(to) {
                None => GONE,
                Some(place) if self.deliver(place, frame.clone()) => continue,
                Some(place) => {
                    self.overflow(place);
                    QUEUE_FULL
                }
            };
            let head = self.log.bytes(frame).first_chunk().expect("a message has a head");
            let from = ConnectionId::from_bits(sender(head, self.order));
            self.owed.push_back(NotSent { to: from, reason, about: to });
        }
        frames
    }
}
