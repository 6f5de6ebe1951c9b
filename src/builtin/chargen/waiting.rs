//! Who waits for a buffer: clients of one worker, first come, first served, and not more than their
//! share where the clients of other workers wait too. What they are sent is not here.

use std::time::Duration;

use crate::base::slot_queue::SlotQueue;
use crate::base::time::Time;
use crate::buffer::Pool;
use crate::service::{ConnectionId, Turn, WorkerContext};

/// Clients that are served in one turn of the worker's loop at most, so that those of other
/// services have their turn: each is sent a buffer, which takes about 10 us.
const SERVED_PER_TURN: usize = 64;

/// When no buffer was free, when the next is looked for if nobody tells of one, which somebody
/// does.
const RETRY: Duration = Duration::from_millis(10);

/// The queue of one worker.
pub(super) struct Waiting {
    pool: Pool,
    queue: SlotQueue,
    /// Who has the slot, for those in the queue.
    ids: Vec<ConnectionId>,
    /// This worker has gone without since it took a buffer last. Those who wait elsewhere are
    /// before it otherwise: a worker that took back at once what it has just sent would have the
    /// last buffer for ever.
    is_next: bool,
}

impl Waiting {
    /// What it takes of memory for each slot.
    pub(super) const BYTES_PER_SLOT: usize = SlotQueue::BYTES_PER_SLOT + size_of::<ConnectionId>();

    pub(super) fn new(worker: &WorkerContext) -> Waiting {
        let slots = worker.connections_max();
        Waiting {
            pool: worker.pool().clone(),
            queue: SlotQueue::new(slots),
            ids: Vec::with_capacity(slots),
            is_next: false,
        }
    }

    /// Whether somebody waits, here or elsewhere, for whatever service: a buffer that comes free is
    /// not for one that has just had one.
    pub(super) fn anybody(&self) -> bool {
        !self.queue.is_empty() || self.pool.reserve().starving() != 0
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn contains(&self, id: ConnectionId) -> bool {
        self.queue.contains(id.slot())
    }

    /// Puts a client at the end, if it does not wait already.
    pub(super) fn push(&mut self, id: ConnectionId) {
        let slot = id.slot() as usize;
        if self.queue.contains(id.slot()) {
            return;
        }
        self.queue.push_back(id.slot());
        if self.ids.len() <= slot {
            self.ids.resize(slot + 1, ConnectionId(0));
        }
        self.ids[slot] = id;
    }

    /// A client waits no longer.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        self.queue.remove(id.slot());
    }

    /// Wakes the first, as many as there are buffers. Answers when it is to be called again.
    pub(super) fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        if self.queue.is_empty() {
            self.is_next = false;
            return None;
        }
        let free = self.pool.available();
        if free == 0 || (self.pool.starves_elsewhere() && !self.is_next) {
            self.is_next = true;
            turn.want_buffer();
            return Some(turn.now() + RETRY);
        }
        self.is_next = false;
        for _ in 0..free.min(SERVED_PER_TURN).min(turn.wakes_left()) {
            let Some(slot) = self.queue.pop_front() else { break };
            turn.wake(self.ids[slot as usize]);
        }
        (!self.queue.is_empty()).then_some(turn.now())
    }
}
