//! Closes connections that do not move, when others have waited too long for their buffers.

use std::time::Duration;

use super::super::Core;
use super::super::layer::Layer;
use super::moves::patience;
use crate::base::key::Key;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::error::CloseReason;
use crate::service::Service;

/// The time between two looks for a connection to shed, while none is found.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl<S: Service, L: Layer> Core<S, L> {
    /// When to look for a connection to shed.
    #[inline]
    pub(in super::super) fn next_look(&self) -> Option<Time> {
        let due = self.supply.waits_since()? + self.rules.shed_after?;
        let again = if self.supply.has_shed { self.now } else { self.now + LOOK_EVERY };
        Some(if due > self.looked_at { due } else { again })
    }

    /// Sheds a connection if a waiter of this worker has waited long enough.
    #[inline]
    pub(in super::super) fn shed_if_needed<E: Engine>(&mut self, engine: &mut E) {
        if let (Some(since), Some(after)) = (self.supply.waits_since(), self.rules.shed_after)
            && since + after <= self.looked_at
        {
            self.shed(engine, after);
        }
    }

    #[cold]
    fn shed<E: Engine>(&mut self, engine: &mut E, after: Duration) {
        self.supply.has_shed = false;
        if self.may_be_served() {
            // It has its chance first.
            return;
        }
        if self.first_is_gone(engine) {
            return;
        }
        match self.pool.reserve().board().longest_stalled() {
            Some((_, stall)) if stall.since + patience(after) > self.looked_at => {}
            Some((worker, _)) if worker == self.index => self.shed_one(engine, after),
            Some((worker, _)) => {
                let reserve = self.pool.reserve();
                reserve.board().ask_to_shed(worker, reserve.available());
            }
            None => {}
        }
    }

    /// Looks whether the first in the queue is still there. Nobody is shed for a client that has
    /// left.
    fn first_is_gone<E: Engine>(&mut self, engine: &mut E) -> bool {
        let Some(slot) = self.supply.waiters.front() else { return false };
        let key = self.table.key_of(slot).expect("a queue holds live connections only");
        if self.takes_at_once(key) {
            return false;
        }
        let (claim, waits) = (self.supply.wait(slot), self.counters.waits_for_buffer.get());
        self.supply.waiters.remove(slot);
        let is_gone = self.serve_waiter(engine, key, claim);
        if !is_gone {
            // It has not begun to wait anew.
            self.counters.waits_for_buffer.set(waits);
        }
        self.publish_claim();
        is_gone
    }

    /// Sheds a connection for a waiter of another worker, if one has asked for that and the need is
    /// still there.
    pub(super) fn shed_for_another<E: Engine>(&mut self, engine: &mut E) {
        let reserve = self.pool.reserve();
        let Some(free) = reserve.board().asked_to_shed(self.index) else { return };
        let is_needed = self.rules.shed_after.is_some_and(|after| {
            reserve.board().has_waited_since(self.looked_at.saturating_sub(after))
                && self.pool.free() <= free
        });
        if let Some(after) = self.rules.shed_after.filter(|_| is_needed) {
            self.shed_one(engine, after);
            // The service had its turn before. It has not seen yet what this has led to.
            self.service_turn = Some(self.now);
        }
        if self.supply.shedding.is_none() {
            self.pool.reserve().board().has_shed(self.index);
        }
    }

    /// Closes the connection of this worker that has not moved for longest. Does nothing while
    /// another one is being shed, as its buffers may be enough.
    fn shed_one<E: Engine>(&mut self, engine: &mut E, after: Duration) {
        if self.supply.shedding.is_some() {
            return;
        }
        let Some(key) = self.find_unmoved(engine, self.looked_at.saturating_sub(patience(after)))
        else {
            return;
        };
        self.supply.shedding = Some(key);
        self.supply.has_shed = true;
        // Remove it from the queue now: cancelling its Send may take until the next turn.
        self.unstall(key);
        self.no_longer_holds(key);
        self.close_now(key, CloseReason::Shed);
        self.drive(engine, key);
        self.serve_waiters(engine);
    }

    /// A closed connection has returned its buffers.
    pub(in super::super) fn end_shedding(&mut self, key: Key) {
        if self.supply.shedding == Some(key) {
            self.supply.shedding = None;
            self.pool.reserve().board().has_shed(self.index);
        }
    }
}
