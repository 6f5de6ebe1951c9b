//! When the bytes of connections that hold buffers last moved.
//!
//! * *Stalled* output waits for the peer to read. It moves when the peer acknowledges bytes. (The
//!   system reports room only when a third of its buffer is free.)
//! * *Held* input waits in its service or its layer for the rest of a message. It moves when bytes arrive.
//!
//! On a Unix socket the peer acknowledges bytes by reading them, and the system counts the memory
//! that they take. So the count rises by more than the bytes, the more the smaller the pieces in
//! which they were sent, and only when a whole piece of at most 36 KiB has been read.
//!
//! In both cases fewer than [`LEAST_RATE`] bytes a second do not count, so that nobody keeps
//! buffers from others by moving a byte now and then.
//!
//! Input that the service holds while it pauses the connection is not the peer's fault. Such a
//! connection counts only if no other of any worker holds buffers, and then as if it had moved later,
//! by twice the [`patience`].
//!
//! While a connection waits for a buffer, this side does not move its bytes. What the peer has
//! acknowledged and sent by then is noted when the wait begins. If it is the same when the
//! connection stalls after the wait, then it has not moved for as long.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::super::Core;
use super::super::layer::Layer;
use crate::base::key::Key;
use crate::base::slot_queue::SlotQueue;
use crate::base::time::Time;
use crate::buffer::board::Stall;
use crate::engine::Engine;
use crate::error::CloseReason;
use crate::service::{Attention, Service};

/// In bytes a second.
const LEAST_RATE: u64 = 1024;

/// How long a connection must not have moved before it is shed.
pub(crate) fn patience(shed_after: Duration) -> Duration {
    shed_after.min(Duration::from_secs(1))
}

/// The connections of a worker that hold buffers, by when they last moved.
pub(super) struct Moves {
    /// Connections whose output does not move, the longest first.
    stalled: SlotQueue,
    /// Connections whose service has left input unconsumed, the longest first.
    holding: SlotQueue,
    /// The same, for those that their service pauses.
    pausing: SlotQueue,
    /// How much longer these may hold it.
    grace: Duration,
    /// By slot.
    notes: Vec<Note>,
}

/// What was last known of a connection.
#[derive(Clone, Copy, Default)]
struct Note {
    output: Movement,
    input: Movement,
}

/// A count of bytes, and when it last rose. The count wraps around.
#[derive(Clone, Copy)]
struct Movement {
    count: u32,
    /// [`Time::ZERO`] if nothing is known.
    at: Time,
}

impl Default for Movement {
    fn default() -> Movement {
        Movement { count: 0, at: Time::ZERO }
    }
}

impl Movement {
    fn has_risen_by(&self, count: u32) -> u64 {
        u64::try_from(count.wrapping_sub(self.count) as i32).unwrap_or(0)
    }

    /// Notes a count. Returns whether it has risen, by at least the least rate.
    fn moves(&mut self, count: u32, now: Time) -> bool {
        let least = (now - self.at).as_millis() as u64 * LEAST_RATE / 1000;
        let moves = self.at == Time::ZERO || self.has_risen_by(count) >= least.max(1);
        if moves {
            *self = Movement { count, at: now };
        }
        moves
    }

    /// Begins to watch a count. Keeps the time at which it last rose, if that is known.
    fn begin(&mut self, count: u32, now: Time) {
        if self.at == Time::ZERO || self.has_risen_by(count) > 0 {
            *self = Movement { count, at: now };
        }
    }
}

impl Moves {
    /// Memory per slot, in bytes.
    pub(super) const BYTES_PER_SLOT: usize = 3 * SlotQueue::BYTES_PER_SLOT + size_of::<Note>();

    pub(super) fn new(slots: usize, shed_after: Option<Duration>) -> Moves {
        let mut moves = Moves {
            stalled: SlotQueue::new(slots),
            holding: SlotQueue::new(slots),
            pausing: SlotQueue::new(slots),
            grace: Duration::ZERO,
            notes: Vec::with_capacity(slots),
        };
        moves.set_grace(shed_after);
        moves
    }

    pub(super) fn set_grace(&mut self, shed_after: Option<Duration>) {
        self.grace = 2 * shed_after.map_or(Duration::ZERO, patience);
    }

    pub(super) fn is_stalled(&self, slot: u32) -> bool {
        self.stalled.contains(slot)
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn stalled(&self) -> impl Iterator<Item = u32> {
        self.stalled.iter()
    }

    fn note(&mut self, slot: u32) -> &mut Note {
        let index = slot as usize;
        if self.notes.len() <= index {
            self.notes.resize(index + 1, Note::default());
        }
        &mut self.notes[index]
    }

    /// Puts a slot into the queue of stalled connections.
    fn stall(&mut self, slot: u32) {
        self.stalled.insert_sorted(slot, |other| self.notes[other as usize].output.at);
    }

    /// Puts a slot into the queue of connections that hold input.
    fn hold(&mut self, slot: u32, is_paused: bool) {
        self.hold_no_longer(slot);
        let queue = if is_paused { &mut self.pausing } else { &mut self.holding };
        queue.insert_sorted(slot, |other| self.notes[other as usize].input.at);
    }

    fn hold_no_longer(&mut self, slot: u32) {
        self.holding.remove(slot);
        self.pausing.remove(slot);
    }

    /// The connection that is to be shed first, and since when it has not moved.
    fn longest(&self) -> Option<(u32, What, Stall)> {
        let of = |queue: &SlotQueue, what: What| {
            let slot = queue.front()?;
            let note = self.notes[slot as usize];
            let (is_paused, since) = match what {
                What::Output => (false, note.output.at),
                What::Input => (false, note.input.at),
                What::PausedInput => (true, note.input.at + self.grace),
            };
            Some((slot, what, Stall { is_paused, since }))
        };
        let all = [
            of(&self.stalled, What::Output),
            of(&self.holding, What::Input),
            of(&self.pausing, What::PausedInput),
        ];
        all.into_iter().flatten().min_by_key(|&(_, _, stall)| stall)
    }
}

/// What keeps the buffers of a connection.
#[derive(Clone, Copy)]
enum What {
    Output,
    Input,
    PausedInput,
}

impl<S: Service, L: Layer> Core<S, L> {
    /// The bytes of a connection's output that the peer has acknowledged. Those of a layer are not
    /// counted, which matters only across a wait.
    fn acknowledged<E: Engine>(&mut self, engine: &E, key: Key) -> Option<u32> {
        let left = engine.unacknowledged(key)?;
        Some((self.context(key).bytes_sent as u32).wrapping_sub(left))
    }

    /// The bytes that have arrived from the peer, read or not.
    fn arrived<E: Engine>(&mut self, engine: &E, key: Key) -> u32 {
        let unread = engine.unread(key).unwrap_or(0);
        (self.context(key).bytes_received as u32).wrapping_add(unread)
    }

    /// A Recv has found no buffer: notes what the peer has done so far.
    pub(super) fn note_before_waiting<E: Engine>(&mut self, engine: &E, key: Key) {
        let now = self.now;
        let left = engine.unacknowledged(key).filter(|&left| left > 0);
        let sent = self.context(key).bytes_sent as u32;
        let holds = self.context(key).attention.has(Attention::HOLDS);
        let arrived = self.arrived(engine, key);
        let note = self.supply.moves.note(key.slot());
        match left {
            Some(left) => note.output.begin(sent.wrapping_sub(left), now),
            // Nothing was left to acknowledge, so nothing is known of a peer that does not read.
            None => note.output = Movement::default(),
        }
        if !holds {
            note.input = Movement { count: arrived, at: now };
        } else if note.input.moves(arrived, now) {
            self.holds_anew(key);
        }
    }

    /// A Send has to wait for the peer.
    #[cold]
    pub(in super::super) fn stall<E: Engine>(&mut self, engine: &E, key: Key) {
        let (now, slot) = (self.now, key.slot());
        let acknowledged = self.acknowledged(engine, key);
        let note = self.supply.moves.note(slot);
        match acknowledged {
            Some(count) => note.output.begin(count, now),
            None => note.output = Movement { count: 0, at: now },
        }
        self.supply.moves.stall(slot);
        self.publish_stall();
        let context = self.context(key);
        context.stalled_since = now;
        if let Some(timeout) = self.rules.send_timeout {
            self.context(key).unacknowledged = engine.unacknowledged(key);
            self.schedule_at(key, now + timeout);
        }
    }

    /// A Send has moved.
    #[inline]
    pub(in super::super) fn unstall(&mut self, key: Key) {
        if self.supply.moves.stalled.contains(key.slot()) {
            self.supply.moves.stalled.remove(key.slot());
            self.publish_stall();
            // The timer was set for the stall. What it is set for otherwise may be due earlier.
            self.schedule(key);
        }
    }

    /// The peer has acknowledged bytes, although the Send still waits.
    pub(in super::super) fn stall_again<E: Engine>(&mut self, engine: &E, key: Key) {
        self.supply.moves.stalled.remove(key.slot());
        self.stall(engine, key);
    }

    /// Updates the queue of connections with unconsumed input, after the service has left or
    /// consumed some. `input_before` is the input before the call, in bytes.
    pub(super) fn holds_back(&mut self, key: Key, input_before: usize) {
        let (now, leases_max) = (self.now, usize::from(self.rules.leases_per_connection_max));
        let context = self.table.expect_mut(key);
        let (len, consumed) = (context.input.len(), context.input.len() < input_before);
        if context.input.leases() > leases_max {
            let (service, tag) = (&self.service, context.tag);
            match catch_unwind(AssertUnwindSafe(|| service.input_max(tag))) {
                Ok(most) if len <= most => {}
                Ok(_) => return self.close_now(key, CloseReason::InputLimit),
                Err(_) => return self.close_now(key, CloseReason::ServicePanic),
            }
        }
        if len == 0 && !self.layer.keeps_input(&context.layer) {
            return self.no_longer_holds(key);
        }
        let (holds, count) =
            (context.attention.has(Attention::HOLDS), context.bytes_received as u32);
        let is_paused = context.machine.is_paused();
        let input = &mut self.supply.moves.note(key.slot()).input;
        if !holds {
            input.begin(count, now);
        } else if input.moves(count, now) || consumed {
            input.at = now;
        } else if self.supply.moves.pausing.contains(key.slot()) == is_paused {
            return;
        }
        self.context(key).attention.insert(Attention::HOLDS);
        self.holds_anew(key);
    }

    /// Held input has moved.
    fn holds_anew(&mut self, key: Key) {
        let is_paused = self.context(key).machine.is_paused();
        self.supply.moves.hold(key.slot(), is_paused);
        self.publish_stall();
    }

    /// No input is left.
    pub(in super::super) fn no_longer_holds(&mut self, key: Key) {
        if self.context(key).attention.remove(Attention::HOLDS) {
            self.supply.moves.hold_no_longer(key.slot());
            self.publish_stall();
        }
    }

    /// Forgets a closed connection.
    pub(in super::super) fn forget_moves(&mut self, key: Key) {
        self.unstall(key);
        self.no_longer_holds(key);
        *self.supply.moves.note(key.slot()) = Note::default();
    }

    #[cold]
    fn publish_stall(&mut self) {
        let stall = self.supply.moves.longest().map(|(_, _, stall)| stall);
        self.pool.reserve().board().publish_stall(self.index, stall);
    }

    /// The connection of this worker that is to be shed first, if it has not moved since `limit`.
    /// Looks at each that seems so.
    pub(super) fn find_unmoved<E: Engine>(&mut self, engine: &E, limit: Time) -> Option<Key> {
        loop {
            let (slot, what, stall) = self.supply.moves.longest()?;
            if stall.since > limit || (stall.is_paused && self.others_hold()) {
                return None;
            }
            let key = self.table.key_of(slot).expect("a queue holds live connections only");
            let count = match what {
                What::Output => self.acknowledged(engine, key),
                What::Input | What::PausedInput => Some(self.arrived(engine, key)),
            };
            let now = self.now;
            let note = self.supply.moves.note(slot);
            let movement = match what {
                What::Output => &mut note.output,
                What::Input | What::PausedInput => &mut note.input,
            };
            if !count.is_some_and(|count| movement.moves(count, now)) {
                return Some(key);
            }
            match what {
                What::Output => self.stall_again(engine, key),
                What::Input | What::PausedInput => self.holds_anew(key),
            }
        }
    }

    /// Whether a connection of any worker that is not paused holds buffers.
    fn others_hold(&self) -> bool {
        let first = self.pool.reserve().board().longest_stalled();
        first.is_some_and(|(_, stall)| !stall.is_paused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_nanos(1_000_000 * millis)
    }

    #[test]
    fn a_count_moves_if_it_rises_by_the_least_rate() {
        let mut movement = Movement { count: 10, at: at(1000) };
        assert!(!movement.moves(10, at(1000)), "it has not risen");
        assert!(!movement.moves(9, at(1001)), "it has fallen");
        assert!(movement.moves(11, at(1000)) && movement.at == at(1000), "at once, one is enough");
        let second = 11 + LEAST_RATE as u32;
        assert!(!movement.moves(second - 1, at(2000)) && movement.at == at(1000), "a trickle");
        assert!(movement.moves(second, at(2000)) && movement.at == at(2000));
    }

    #[test]
    fn a_count_may_wrap_around() {
        let mut movement = Movement { count: u32::MAX, at: at(1) };
        assert!(movement.moves(0, at(1)));
    }

    #[test]
    fn what_has_not_risen_since_the_wait_began_has_not_moved_for_as_long() {
        let mut movement = Movement::default();
        movement.begin(5, at(1));
        movement.begin(5, at(900));
        assert_eq!(movement.at, at(1));
        movement.begin(6, at(1000));
        assert_eq!(movement.at, at(1000));
    }
}
