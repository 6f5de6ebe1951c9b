//! Waiting for buffers: the queue of connections that need one, and the queues of connections whose
//! bytes do not move and so keep buffers from others.
//!
//! Connections wait for an empty pool first come, first served. When a lease is returned, the first
//! in the queue is served before any other event. If that does not happen for `shed_after`, the
//! connection whose bytes have not moved for longest, on any worker, is closed. Its output may not
//! move because its client does not read, or its input because its service waits for the rest of a
//! message. So clients that do not read, or do not send what they announced, cannot starve the
//! others.
//!
//! Time-outs are in `timers`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::connection::machine::Event;
use super::layer::Layer;
use super::{Core, Work};
use crate::base::key::Key;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::error::CloseReason;
use crate::service::{Attention, Service};
use crate::shared::mailbox::Command;

/// The shortest time between two requests that another worker shed a connection.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// How long a worker that has given way waits for the others. Usually they wake it earlier, when
/// they have used a buffer or need none. A service that needs more buffers than are free does
/// neither.
pub(crate) const GIVE_WAY: Duration = Duration::from_millis(10);

/// Which worker goes first when connections of several workers wait for a buffer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Precedence {
    /// The connections of other workers come first.
    Behind,
    /// As `Behind`, until this turn of the loop has ended.
    GaveWay,
    /// This worker has given way since it last took a buffer, and goes first.
    Next,
}

impl<S: Service, L: Layer> Core<S, L> {
    /// Queues a connection whose Recv has found no buffer.
    #[cold]
    pub(super) fn wait_for_buffer(&mut self, key: Key) {
        self.context(key).machine.apply(Event::NoBuffer);
        self.enqueue(key);
    }

    /// Queues a connection whose service has found no buffer.
    fn wait_for_service(&mut self, key: Key) {
        let context = self.context(key);
        if context.machine.is_open() {
            context.attention.insert(Attention::WAITS);
            context.machine.apply(Event::WantBuffer);
            self.enqueue(key);
        }
    }

    /// Puts a connection into the queue for buffers, for its Recv, its service, its layer, or
    /// several of them.
    pub(super) fn enqueue(&mut self, key: Key) {
        if !self.waiters.contains(key.slot()) {
            self.waiters.push_back(key.slot());
            self.counters.waits_for_buffer.add(1);
            self.starve();
        }
    }

    /// Records that a connection waits for a buffer, and wakes the other workers so that they give
    /// theirs.
    fn starve(&mut self) {
        self.starving_since.get_or_insert(self.now);
        if self.pool.set_starving(true) {
            self.mailboxes.wake_others(self.index);
        }
    }

    /// Serves the queue for buffers while any are free. Returns whether any connection was served.
    #[inline]
    pub(super) fn serve_waiters<E: Engine>(&mut self, engine: &mut E) -> bool {
        !self.waiters.is_empty() && self.serve_waiters_now(engine)
    }

    #[cold]
    fn serve_waiters_now<E: Engine>(&mut self, engine: &mut E) -> bool {
        let mut served = false;
        let gives_way = self.gives_way();
        // Each at most once: a connection that has to wait again goes to the end.
        for _ in 0..self.waiters.len() {
            // There are fewer if serving one has closed another.
            let Some(slot) = self.waiters.front() else { break };
            let key = self.table.key_of(slot).expect("a queue holds live connections only");
            let at_once = self.takes_at_once(key);
            if self.pool.available() == 0 || (at_once && gives_way) {
                self.precedence = self.precedence.max(Precedence::GaveWay);
                return served;
            }
            served = true;
            self.waiters.remove(slot);
            self.pool.set_serving(true);
            self.serve_waiter(engine, key);
            self.pool.set_serving(false);
        }
        self.no_longer_starving();
        served
    }

    /// Whether a connection in the queue may take a buffer as soon as it is served, for its service
    /// or its layer. A Recv takes one only when there are bytes.
    fn takes_at_once(&mut self, key: Key) -> bool {
        let context = self.table.expect_mut(key);
        context.attention.has(Attention::WAITS) || self.layer.starves(&context.layer)
    }

    fn serve_waiter<E: Engine>(&mut self, engine: &mut E, key: Key) {
        let (available, since, now) = (self.pool.available(), self.starving_since, self.now);
        let at_once = self.takes_at_once(key);
        // The time of waiting counts from when the queue last moved.
        self.starving_since = Some(now);
        let context = self.context(key);
        if context.machine.awaits_buffer() {
            context.machine.apply(Event::BufferCame);
            // It was not idle: its peer had sent something.
            context.active_at = now;
        }
        let for_service = context.attention.remove(Attention::WAITS);
        // The layer comes first: the service's output has to pass through it.
        let layer_starves = self.resume_layer(engine, key);
        let context = self.context(key);
        if for_service && context.is_open() && !context.attention.has(Attention::WAITS) {
            match layer_starves {
                true => self.wait_for_service(key),
                false => self.ask(engine, key, CloseReason::Service, S::buffer_available),
            }
        }
        if at_once {
            if self.waiters.contains(key.slot()) && self.pool.available() >= available {
                // It needs more buffers than there are, and has not moved.
                self.starving_since = since;
            } else {
                self.precedence = Precedence::Behind;
            }
        }
        self.drive(engine, key);
    }

    /// Whether connections of other workers get a buffer before those of this one. Without this, a
    /// worker that takes back at once the buffer that it has just sent would keep the last one for
    /// ever.
    fn gives_way(&self) -> bool {
        self.precedence != Precedence::Next && self.pool.starves_elsewhere()
    }

    /// Removes a closed connection from the queue for buffers.
    pub(super) fn wait_no_longer(&mut self, slot: u32) {
        if self.waiters.remove(slot) {
            self.no_longer_starving();
        }
    }

    /// Records that no connection waits for a buffer any more, if that is so.
    fn no_longer_starving(&mut self) {
        if self.waiters.is_empty() && !self.service_starves {
            self.starving_since = None;
            self.precedence = Precedence::Behind;
            if self.pool.set_starving(false) && self.pool.reserve().available() > 0 {
                // Others may have given way to this worker.
                self.mailboxes.wake_each(self.pool.reserve().starving());
            }
        }
    }

    /// The service has called `Turn::want_buffer` in this turn, or no longer does.
    #[cold]
    pub(super) fn service_wants_buffer(&mut self, wants: bool) {
        self.service_starves = wants;
        if !wants {
            return self.no_longer_starving();
        }
        self.starve();
    }

    /// Gives free buffers to workers that starve.
    #[inline]
    pub(super) fn share_buffers(&mut self) {
        let workers = self.pool.donate();
        if workers != 0 {
            self.mailboxes.wake_each(workers);
        }
        if self.precedence == Precedence::GaveWay {
            self.precedence = Precedence::Next;
        }
    }

    /// Continues with the connections that used up their share of an earlier turn, as far as the
    /// work of this turn allows.
    #[inline]
    pub(super) fn serve_yielded<E: Engine>(&mut self, engine: &mut E) {
        if !self.yielded.is_empty() {
            self.serve_yielded_now(engine);
        }
    }

    #[inline(never)]
    fn serve_yielded_now<E: Engine>(&mut self, engine: &mut E) {
        let mut work = self.work_of_turn();
        if self.yielded_left == 0 {
            self.yielded_left = self.yielded.len();
        }
        while self.yielded_left > 0 && !work.is_spent() {
            self.yielded_left -= 1;
            // There are fewer if serving one has closed another.
            let Some(slot) = self.yielded.pop_front() else { break };
            let key = self.table.key_of(slot).expect("a queue holds live connections only");
            work.spend(Work::SHARE);
            let now = self.now;
            let context = self.context(key);
            if context.machine.is_paused() && context.deadline <= now {
                self.timer_came(engine, key);
            }
            self.drive(engine, key);
            self.serve_waiters(engine);
        }
    }

    /// A Send has to wait for the peer.
    #[cold]
    pub(super) fn stall<E: Engine>(&mut self, engine: &E, key: Key) {
        let now = self.now;
        self.context(key).stalled_since = now;
        self.stalled.push_back(key.slot());
        self.publish_stall();
        if let Some(timeout) = self.rules.send_timeout {
            self.context(key).unacknowledged = engine.unacknowledged(key);
            self.schedule_at(key, now + timeout);
        }
    }

    /// A Send has moved.
    #[inline]
    pub(super) fn unstall(&mut self, key: Key) {
        if self.stalled.contains(key.slot()) {
            self.stalled.remove(key.slot());
            self.publish_stall();
            // The timer was set for the stall. What it is set for otherwise may be due earlier.
            self.schedule(key);
        }
    }

    /// Handles what a call of the service has left: input, a wanted buffer, or a set timer.
    /// `input_before` is the input before the call, in bytes.
    #[cold]
    pub(super) fn look_after(&mut self, key: Key, input_before: usize) {
        if self.context(key).attention.remove(Attention::WANTS_BUFFER) {
            self.wait_for_service(key);
        }
        if self.context(key).attention.remove(Attention::SET_TIMER) {
            self.schedule(key);
        }
        self.holds_back(key, input_before);
    }

    /// Updates the queue of connections with unconsumed input, after the service has left or
    /// consumed some.
    fn holds_back(&mut self, key: Key, input_before: usize) {
        let (now, leases_max) = (self.now, usize::from(self.rules.leases_per_connection_max));
        let context = self.table.expect_mut(key);
        let (len, moved) = (context.input.len(), context.input.len() < input_before);
        if context.input.leases() > leases_max {
            let (service, tag) = (&self.service, context.tag);
            match catch_unwind(AssertUnwindSafe(|| service.input_max(tag))) {
                Ok(most) if len <= most => {}
                Ok(_) => return self.close_now(key, CloseReason::InputLimit),
                Err(_) => return self.close_now(key, CloseReason::ServicePanic),
            }
        }
        if context.attention.has(Attention::HOLDS) && !moved {
            return;
        }
        self.no_longer_holds(key);
        if len > 0 {
            let context = self.context(key);
            context.attention.insert(Attention::HOLDS);
            context.held_since = now;
            self.holding.push_back(key.slot());
            self.publish_stall();
        }
    }

    /// No input is left.
    pub(super) fn no_longer_holds(&mut self, key: Key) {
        if self.context(key).attention.remove(Attention::HOLDS) {
            self.holding.remove(key.slot());
            self.publish_stall();
        }
    }

    #[cold]
    fn publish_stall(&mut self) {
        let since = self.longest_stalled().map(|(_, since)| since);
        self.mailboxes.publish_stall(self.index, since);
    }

    /// The connection of this worker whose bytes have not moved for longest, and since when.
    fn longest_stalled(&mut self) -> Option<(Key, Time)> {
        let output = self.stalled.front().and_then(|slot| self.table.key_of(slot));
        let output = output.map(|key| (key, self.context(key).stalled_since));
        let input = self.holding.front().and_then(|slot| self.table.key_of(slot));
        let input = input.map(|key| (key, self.context(key).held_since));
        output.into_iter().chain(input).min_by_key(|&(_, since)| since)
    }

    /// When to look at the queue for buffers, and at shedding, again.
    #[inline]
    pub(super) fn next_look(&self) -> Option<Time> {
        let since = self.starving_since?;
        let shed = self.rules.shed_after.map(|after| match since + after {
            due if due > self.looked_at => due,
            _ => self.now + ASK_EVERY,
        });
        let gave_way = !self.waiters.is_empty() && self.pool.available() > 0;
        shed.into_iter().chain(gave_way.then(|| self.when_others_had_theirs())).min()
    }

    /// The time after which a worker that has given way serves its queue again.
    #[cold]
    fn when_others_had_theirs(&self) -> Time {
        if self.pool.starves_elsewhere() { self.now + GIVE_WAY } else { self.now }
    }

    /// Closes the connection that has stalled for longest, on any worker, if others have waited for
    /// its buffers long enough.
    #[inline]
    pub(super) fn shed_if_needed<E: Engine>(&mut self, engine: &mut E) {
        if let (Some(since), Some(after)) = (self.starving_since, self.rules.shed_after)
            && since + after <= self.looked_at
        {
            self.shed(engine, after);
        }
    }

    #[cold]
    fn shed<E: Engine>(&mut self, engine: &mut E, after: Duration) {
        // One may be enough for all, so check after each whether any still waits.
        while self.starving_since.is_some_and(|since| since + after <= self.looked_at) {
            match self.mailboxes.longest_stalled() {
                Some((_, since)) if since + after > self.looked_at => return,
                Some((worker, _)) if worker == self.index => self.shed_one(engine),
                Some((worker, _)) => return self.ask_to_shed(worker),
                None => return,
            }
        }
    }

    /// Another worker has the connection that has stalled for longest.
    fn ask_to_shed(&mut self, worker: usize) {
        if self.shed_asked_at + ASK_EVERY <= self.now {
            self.shed_asked_at = self.now;
            // A worker with a full inbox is busy; it is asked again later.
            let _ = self.mailboxes.send(worker, Command::Shed);
        }
    }

    /// Closes the connection of this worker that has stalled for longest, if that is at least
    /// `shed_after`.
    pub(super) fn shed_one<E: Engine>(&mut self, engine: &mut E) {
        let Some((key, since)) = self.longest_stalled() else { return };
        let long_enough =
            self.rules.shed_after.is_some_and(|after| since + after <= self.looked_at);
        if long_enough {
            // Remove it from the queue now: cancelling its Send may take until the next turn.
            self.unstall(key);
            self.no_longer_holds(key);
            self.close_now(key, CloseReason::Shed);
            self.drive(engine, key);
            self.serve_waiters(engine);
            if self.service_starves && self.pool.available() > 0 {
                // The service gets its chance before another connection is closed for it.
                self.starving_since = Some(self.now);
            }
        }
    }
}
