//! Who waits for a buffer, who gives one, and who is shed. The policy:
//!
//! 1. A connection whose Recv, service or layer finds no buffer enters its worker's queue and draws
//!    a *ticket*. A service that needs a buffer draws one too. The tickets put all waiters of the
//!    process in one order. Each worker publishes a *claim*: the ticket of its first waiter.
//! 2. A worker serves its queue first come, first served. It takes a buffer only if as many are
//!    free as older claims of other workers need, and one more. So the oldest waiter comes first,
//!    on whatever worker it is, even if that worker has not woken yet.
//! 3. A waiter that could not use the n buffers that were free keeps its place, and is passed over
//!    until n + 1 are free. A worker's claim is that of the first waiter among those that need
//!    least.
//! 4. While another worker has a claim, a worker puts its free buffers into the reserve at the end
//!    of each turn, and wakes those who can use them. It also wakes them when its own claim has
//!    changed, as what it leaves may be for them.
//! 5. When a waiter has waited for `shed_after`, the connection that has not moved for longest, on
//!    any worker, is closed, and then the next, until the waiter is served. It is not closed if it
//!    has moved in the last second (or `shed_after`, if that is shorter). So a waiter waits at most
//!    `shed_after` and a second because of clients that do not move.
//! 6. One connection at a time is shed on each worker, and the next only when its buffers are back.
//!    A worker that was asked by another to shed first checks that the need is still there.
//!
//! `moves` says what it means that a connection moves. `buffer/board` has what workers publish.

use std::time::Duration;

use super::Core;
use super::connection::machine::Event;
use super::layer::Layer;
use crate::base::key::Key;
use crate::base::slot_queue::SlotQueue;
use crate::base::time::Time;
use crate::buffer::Pool;
use crate::buffer::board::Claim;
use crate::engine::Engine;
use crate::error::CloseReason;
use crate::service::{Attention, Service};

mod moves;
mod shed;
#[cfg(test)]
mod tests;

use moves::Moves;
#[cfg(any(test, feature = "sim"))]
pub(crate) use moves::patience;

/// What a worker keeps about buffers that its connections wait for, or do not move.
pub(super) struct Supply {
    /// Connections that wait for a buffer, the longest first.
    waiters: SlotQueue,
    /// For each slot in the queue, its place and what it needs.
    waits: Vec<Claim>,
    /// Whether any in the queue may need more than one buffer.
    any_needs_more: bool,
    /// The claim of the service, if it waits for a buffer.
    service: Option<Claim>,
    published: Option<Claim>,
    /// Whether the claim has changed in this turn.
    claim_changed: bool,
    moves: Moves,
    /// The connection that is being shed.
    shedding: Option<Key>,
    /// Whether a connection was shed in this turn.
    has_shed: bool,
}

impl Supply {
    /// Memory per slot, in bytes.
    pub(super) const BYTES_PER_SLOT: usize =
        SlotQueue::BYTES_PER_SLOT + size_of::<Claim>() + Moves::BYTES_PER_SLOT;

    pub(super) fn new(slots: usize, shed_after: Option<Duration>) -> Supply {
        Supply {
            waiters: SlotQueue::new(slots),
            waits: Vec::with_capacity(slots),
            any_needs_more: false,
            service: None,
            published: None,
            claim_changed: false,
            moves: Moves::new(slots, shed_after),
            shedding: None,
            has_shed: false,
        }
    }

    pub(super) fn set_shed_after(&mut self, shed_after: Option<Duration>) {
        self.moves.set_grace(shed_after);
    }

    /// Whether the output of the connection in this slot is stalled.
    pub(super) fn is_stalled(&self, slot: u32) -> bool {
        self.moves.is_stalled(slot)
    }

    /// Whether the connection in this slot waits for a buffer.
    pub(super) fn is_waiting(&self, slot: u32) -> bool {
        self.waiters.contains(slot)
    }

    /// Since when the longest waiter waits, if any does.
    #[inline]
    pub(super) fn waits_since(&self) -> Option<Time> {
        self.published.map(|claim| claim.since)
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn buffers_needed(&self, slot: u32) -> usize {
        if self.is_waiting(slot) { self.wait(slot).needs as usize } else { 0 }
    }

    /// The slots in the queue, and their tickets.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn waiting(&self) -> impl Iterator<Item = (u32, u64)> {
        self.waiters.iter().map(|slot| (slot, self.wait(slot).ticket))
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn stalled(&self) -> impl Iterator<Item = u32> {
        self.moves.stalled()
    }

    /// Puts a slot into the queue, at its place.
    fn insert(&mut self, slot: u32, claim: Claim) {
        let index = slot as usize;
        if self.waits.len() <= index {
            self.waits.resize(index + 1, claim);
        }
        self.waits[index] = claim;
        self.waiters.insert_sorted(slot, |other| self.waits[other as usize].ticket);
    }

    fn wait(&self, slot: u32) -> Claim {
        self.waits[slot as usize]
    }

    /// Takes the first waiter that the free buffers of a pool may help out of the queue.
    fn next(&mut self, pool: &Pool) -> Option<(u32, Claim)> {
        let claimed = |slot| (slot, self.wait(slot));
        let can_be_served =
            |&(_, claim): &(u32, Claim)| pool.available_for(claim.ticket) >= claim.needs as usize;
        let most = if self.any_needs_more { usize::MAX } else { 1 };
        let next = self.waiters.iter().take(most).map(claimed).find(can_be_served)?;
        self.waiters.remove(next.0);
        Some(next)
    }

    /// A waiter could not use `free` buffers: it returns to its place.
    fn pass_over(&mut self, slot: u32, claim: Claim, free: usize) {
        self.waiters.remove(slot);
        let needs = free as u32 + 1;
        self.any_needs_more |= needs > 1;
        self.insert(slot, Claim { needs, ..claim });
    }

    /// The claim of this worker's waiters.
    fn claim(&mut self) -> Option<Claim> {
        self.any_needs_more &= !self.waiters.is_empty();
        let most = if self.any_needs_more { usize::MAX } else { 1 };
        let waits = || self.waiters.iter().take(most).map(|slot| self.wait(slot));
        let all = || waits().chain(self.service);
        let least = all().map(|claim| claim.needs).min()?;
        let first = all().filter(|claim| claim.needs == least).min_by_key(|claim| claim.ticket)?;
        let since = all().map(|claim| claim.since).min()?;
        Some(Claim { since, ..first })
    }
}

impl<S: Service, L: Layer> Core<S, L> {
    /// Queues a connection whose Recv has found no buffer.
    #[cold]
    pub(super) fn wait_for_buffer<E: Engine>(&mut self, engine: &E, key: Key) {
        let machine = &mut self.context(key).machine;
        machine.apply(Event::NoBuffer);
        if !machine.delivers() {
            // What is thrown away needs no buffer.
            return machine.apply(Event::BufferCame);
        }
        self.note_before_waiting(engine, key);
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
        if self.supply.is_waiting(key.slot()) {
            return;
        }
        let claim = self.new_claim();
        self.supply.insert(key.slot(), claim);
        self.counters.waits_for_buffer.add(1);
        if self.supply.published.is_none() {
            self.publish_claim();
        }
    }

    fn new_claim(&self) -> Claim {
        Claim { ticket: self.pool.reserve().board().ticket(), since: self.now, needs: 1 }
    }

    /// Publishes what this worker claims, if that has changed. With its first claim it wakes the
    /// other workers, so that they give their free buffers.
    fn publish_claim(&mut self) {
        let claim = self.supply.claim();
        let before = std::mem::replace(&mut self.supply.published, claim);
        if claim == before {
            return;
        }
        self.supply.claim_changed = true;
        self.pool.claim(claim);
        if before.is_none() {
            self.mailboxes.wake_others(self.index);
        }
    }

    /// Serves the queue for buffers while any are free. Returns whether any connection was served.
    #[inline]
    pub(super) fn serve_waiters<E: Engine>(&mut self, engine: &mut E) -> bool {
        !self.supply.waiters.is_empty() && self.serve_waiters_now(engine)
    }

    #[cold]
    fn serve_waiters_now<E: Engine>(&mut self, engine: &mut E) -> bool {
        let mut served = false;
        // Each at most once: a connection that has to wait again goes to the end.
        for _ in 0..self.supply.waiters.len() {
            let Some((slot, claim)) = self.supply.next(&self.pool) else { break };
            let key = self.table.key_of(slot).expect("a queue holds live connections only");
            served |= self.serve_waiter(engine, key, claim);
        }
        self.publish_claim();
        served
    }

    /// Serves a connection that was in the queue. Returns whether that has helped it.
    fn serve_waiter<E: Engine>(&mut self, engine: &mut E, key: Key, claim: Claim) -> bool {
        let free = self.pool.available_for(claim.ticket);
        let at_once = self.takes_at_once(key);
        let (sends, (taken, _)) = (self.counters.sends.get(), self.pool.demand());
        let received = self.counters.bytes_received.get();
        self.pool.set_serving(Some(claim.ticket));
        self.resume_waiter(engine, key);
        self.pool.set_serving(None);
        let (taken_since, refused) = self.pool.demand();
        // It may have used a buffer that is free again. Who takes some and is refused one gives
        // them back.
        let has_used = self.counters.sends.get() != sends || taken_since != taken && !refused;
        // What a layer has given to the service may have needed more buffers than there are, and
        // the next bytes use the same again.
        let has_used = has_used || !L::IS_PLAIN && self.counters.bytes_received.get() != received;
        let waits = self.supply.is_waiting(key.slot());
        if !waits || has_used || self.pool.available_for(claim.ticket) < free {
            return true;
        }
        // A Recv uses any number. That it has found none is a coincidence.
        let useless = if at_once { free } else { 0 };
        self.supply.pass_over(key.slot(), claim, useless);
        false
    }

    /// Whether a connection in the queue may take a buffer as soon as it is served, for its service
    /// or its layer. A Recv takes one only when there are bytes.
    fn takes_at_once(&mut self, key: Key) -> bool {
        let context = self.table.expect_mut(key);
        context.attention.has(Attention::WAITS) || self.layer.starves(&context.layer)
    }

    fn resume_waiter<E: Engine>(&mut self, engine: &mut E, key: Key) {
        let now = self.now;
        let context = self.context(key);
        // It was not idle: its peer, its layer or its service had bytes that needed the buffer.
        context.active_at = now;
        if context.machine.awaits_buffer() {
            context.machine.apply(Event::BufferCame);
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
        self.drive(engine, key);
    }

    /// Removes a connection that needs no buffer any more from the queue.
    pub(super) fn wait_no_longer(&mut self, slot: u32) {
        if self.supply.waiters.remove(slot) {
            self.publish_claim();
        }
    }

    /// Handles what a call of the service has left: input, a wanted buffer, or a set timer. Times the
    /// first bytes of a connection.
    /// `input_before` is the input before the call, in bytes.
    #[cold]
    pub(super) fn look_after(&mut self, key: Key, input_before: usize) {
        if self.context(key).attention.remove(Attention::WANTS_BUFFER) {
            self.wait_for_service(key);
        }
        if self.context(key).attention.remove(Attention::SET_TIMER) {
            self.schedule(key);
        }
        self.time_first_bytes(key);
        self.holds_back(key, input_before);
    }

    /// The service has called `Turn::want_buffer` in this turn, or no longer does.
    #[cold]
    pub(super) fn service_wants_buffer(&mut self, wants: bool) {
        let claim = self.supply.service.or_else(|| wants.then(|| self.new_claim()));
        let claim = claim.filter(|_| wants);
        self.pool.set_service(claim.map(|claim| claim.ticket));
        // It has not used those that are free now.
        let needs = self.pool.available() as u32 + 1;
        self.supply.service = claim.map(|claim| Claim { needs, ..claim });
        self.publish_claim();
    }

    /// Whether the service waits for a buffer.
    #[inline]
    pub(super) fn service_starves(&self) -> bool {
        self.supply.service.is_some()
    }

    /// Gives free buffers to workers with a claim, and sheds a connection if one of them has asked
    /// for that.
    #[inline]
    pub(super) fn share_buffers<E: Engine>(&mut self, engine: &mut E) {
        if self.supply.claim_changed || self.pool.is_claimed() {
            self.share_now(engine);
        }
    }

    #[cold]
    fn share_now<E: Engine>(&mut self, engine: &mut E) {
        self.shed_for_another(engine);
        let changed = std::mem::take(&mut self.supply.claim_changed);
        // Also what this worker's own waiters cannot use: all then see how many are free.
        if self.pool.is_claimed() {
            self.pool.give(changed);
        }
        // A buffer that came before the change was known may have woken nobody, and so may one that
        // came behind the service's turn.
        if changed && self.may_be_served() || self.service_may_be_served() {
            self.service_turn = Some(self.now);
        }
    }

    /// Whether more buffers are free for the service than when it asked for one.
    fn service_may_be_served(&self) -> bool {
        let claim = self.supply.service;
        claim.is_some_and(|claim| self.pool.available_for(claim.ticket) >= claim.needs as usize)
    }

    /// Whether enough buffers are free for this worker's claim.
    fn may_be_served(&self) -> bool {
        let claim = self.supply.published;
        claim.is_some_and(|claim| self.pool.available_for(claim.ticket) >= claim.needs as usize)
    }
}
