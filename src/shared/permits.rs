//! The limit of connections: one count of permits for all workers.
//!
//! SO_REUSEPORT spreads clients unevenly. With a limit per worker, clients would wait in the
//! backlog of a full worker while another worker has room. A worker takes a permit before it
//! accepts a connection and keeps it in the connection's context. Dropping a permit wakes a worker
//! that had to leave a connection waiting. A permit also holds the place of its connection in the
//! counts of connections per address, if these are limited.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::addresses::Addresses;
use super::mailbox::Mailboxes;
use crate::base::endpoint::Peer;
use crate::base::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// The permits of all workers.
pub struct Permits {
    limit: AtomicU64,
    taken: AtomicU64,
    /// Workers that had no permit for a waiting connection, one bit each.
    want_permit: AtomicU64,
    /// Workers that ran out of open files or memory while accepting, one bit each.
    want_descriptor: AtomicU64,
    /// The worker that was woken last. The search for the next one starts after it, so that workers
    /// take turns.
    woken_last: AtomicU32,
    mailboxes: Arc<Mailboxes>,
    /// Only with a limit of connections per address.
    addresses: Option<Addresses>,
}

/// Allows one connection.
pub struct Permit {
    permits: Arc<Permits>,
    used: bool,
    /// The connection's place in the counts of connections per address.
    address: Option<NonZeroU32>,
}

impl Permits {
    pub(crate) fn new(limit: u64, mailboxes: Arc<Mailboxes>) -> Arc<Permits> {
        Permits::with_addresses(limit, mailboxes, None)
    }

    /// Permits that also limit the connections per address.
    pub(crate) fn with_addresses(
        limit: u64,
        mailboxes: Arc<Mailboxes>,
        addresses: Option<Addresses>,
    ) -> Arc<Permits> {
        Arc::new(Permits {
            limit: AtomicU64::new(limit),
            taken: AtomicU64::new(0),
            want_permit: AtomicU64::new(0),
            want_descriptor: AtomicU64::new(0),
            woken_last: AtomicU32::new(u64::BITS - 1),
            mailboxes,
            addresses,
        })
    }

    /// Takes a permit, if one is free.
    pub fn try_take(self: &Arc<Permits>) -> Option<Permit> {
        let limit = self.limit.load(Ordering::Relaxed);
        let take_one = |taken: u64| (taken < limit).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one)
            .ok()
            .map(|_| Permit { permits: self.clone(), used: false, address: None })
    }

    /// Number of permits in use.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Changes the limit. Permits above a lower limit stay until they are returned.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        // As after a permit was returned, see `want_permit`.
        fence(Ordering::SeqCst);
        while self.wake_one(&self.want_permit) {}
    }

    /// Changes the limit of connections per address. `None` is no limit. Returns whether that is
    /// possible: without a limit from the start, nothing is counted.
    pub(crate) fn set_limit_per_address(&self, most: Option<u32>) -> bool {
        match &self.addresses {
            Some(addresses) => addresses.set_most(most.unwrap_or(u32::MAX)),
            None => return most.is_none(),
        }
        true
    }

    fn has_free(&self) -> bool {
        self.taken.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed)
    }

    /// Requests that `worker` be woken when a permit is returned. The worker must try again after
    /// this call.
    pub fn want_permit(&self, worker: usize) {
        self.want_permit.fetch_or(1 << worker, Ordering::Relaxed);
        // One thread finds no permit, requests a wake-up and tries again. Another returns a permit
        // and then wakes who has requested it. With a fence on both sides, at least one of them
        // sees what the other has done.
        fence(Ordering::SeqCst);
    }

    /// Withdraws the request. If `worker` has been woken in the meantime, wakes another worker
    /// instead.
    pub fn unwant_permit(&self, worker: usize) {
        let bit = 1 << worker;
        let wanted = self.want_permit.fetch_and(!bit, Ordering::Relaxed) & bit != 0;
        fence(Ordering::SeqCst);
        if !wanted && self.has_free() {
            self.wake_one(&self.want_permit);
        }
    }

    /// Requests that `worker` be woken when a connection has been closed on any worker.
    pub fn want_descriptor(&self, worker: usize) {
        self.want_descriptor.fetch_or(1 << worker, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Withdraws the request. If `worker` has been woken in the meantime, wakes another worker too,
    /// because the descriptor may not have been used.
    pub fn unwant_descriptor(&self, worker: usize) {
        let bit = 1 << worker;
        if self.want_descriptor.fetch_and(!bit, Ordering::Relaxed) & bit == 0 {
            self.wake_one(&self.want_descriptor);
        }
    }

    /// Whether `worker` has no open request: it has been woken since its last call of
    /// `want_permit`, or has not called it.
    pub fn permit_came(&self, worker: usize) -> bool {
        self.want_permit.load(Ordering::Relaxed) & (1 << worker) == 0
    }

    /// The same for `want_descriptor`.
    pub fn descriptor_came(&self, worker: usize) -> bool {
        self.want_descriptor.load(Ordering::Relaxed) & (1 << worker) == 0
    }

    /// Wakes the next of the workers in `asking` and removes it. Returns whether there was one.
    fn wake_one(&self, asking: &AtomicU64) -> bool {
        let last = self.woken_last.load(Ordering::Relaxed);
        // After this rotation the bit of the last woken worker is the highest.
        let next =
            |bits: u64| (bits.rotate_right(last + 1).trailing_zeros() + last + 1) % u64::BITS;
        let take = |bits: u64| (bits != 0).then(|| bits & !(1 << next(bits)));
        let Ok(bits) = asking.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else {
            return false;
        };
        self.woken_last.store(next(bits), Ordering::Relaxed);
        self.mailboxes.wake(next(bits) as usize);
        true
    }
}

impl Permit {
    /// Records that a connection was accepted with this permit: when the permit is returned, a
    /// descriptor has been closed.
    pub(crate) fn mark_used(&mut self) {
        self.used = true;
    }

    /// Counts the connection for its address, until the permit is returned. Returns false if the
    /// address has as many connections as it may have. Counts it once, however often it is called.
    pub(crate) fn count_address(&mut self, peer: Peer) -> bool {
        let Some(addresses) = &self.permits.addresses else { return true };
        self.address = self.address.or_else(|| addresses.enter(peer));
        self.address.is_some()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let permits = &self.permits;
        if let (Some(addresses), Some(place)) = (&permits.addresses, self.address) {
            addresses.leave(place);
        }
        let taken = permits.taken.fetch_sub(1, Ordering::Relaxed);
        assert!(taken > 0, "a permit came back that was not out");
        fence(Ordering::SeqCst);
        permits.wake_one(&permits.want_permit);
        // Not if the accept failed: two workers without descriptors would wake each other for ever.
        if self.used {
            permits.wake_one(&permits.want_descriptor);
        }
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(limit: u64) -> Arc<Permits> {
        Permits::new(limit, Arc::new(Mailboxes::new(2)))
    }

    #[test]
    fn no_more_permits_than_the_limit_and_all_of_them_come_back() {
        let permits = permits(2);
        let (a, b) = (permits.try_take().unwrap(), permits.try_take().unwrap());
        assert!(permits.try_take().is_none());
        assert_eq!(permits.taken(), 2);
        drop(a);
        assert!(permits.try_take().is_some());
        drop(b);
        assert_eq!(permits.taken(), 0);
    }

    #[test]
    fn a_permit_that_comes_back_wakes_one_worker_that_waits() {
        let permits = permits(1);
        let permit = permits.try_take().unwrap();
        permits.want_permit(0);
        permits.want_permit(1);
        drop(permit);
        assert!(permits.permit_came(0), "the first was woken");
        assert!(!permits.permit_came(1), "the second still waits");
        drop(permits.try_take());
        assert!(permits.permit_came(1));
    }

    #[test]
    fn a_limit_that_is_lowered_lets_permits_come_back_first() {
        let permits = permits(3);
        let taken: Vec<_> = (0..3).map(|_| permits.try_take().unwrap()).collect();
        permits.set_limit(1);
        assert_eq!(permits.taken(), 3);
        for permit in taken {
            assert!(permits.try_take().is_none());
            drop(permit);
        }
        let permit = permits.try_take().unwrap();
        assert!(permits.try_take().is_none());
        permits.want_permit(0);
        permits.want_permit(1);
        permits.set_limit(3);
        assert!(permits.permit_came(0) && permits.permit_came(1), "there is room for both");
        drop(permit);
    }

    #[test]
    fn workers_that_wait_have_their_turns() {
        let permits = permits(1);
        let mut woken = Vec::new();
        for _ in 0..4 {
            permits.want_permit(0);
            permits.want_permit(1);
            let before = [permits.permit_came(0), permits.permit_came(1)];
            drop(permits.try_take());
            woken.extend((0..2).filter(|&worker| permits.permit_came(worker) != before[worker]));
        }
        assert_eq!(woken, [0, 1, 0, 1]);
    }

    #[test]
    fn a_wake_up_that_is_not_needed_any_more_goes_to_another_worker() {
        let permits = permits(1);
        let permit = permits.try_take().unwrap();
        permits.want_permit(0);
        drop(permit);
        permits.want_permit(1);
        assert!(permits.permit_came(0), "worker 0 was woken, but has found another permit");
        permits.unwant_permit(0);
        assert!(permits.permit_came(1), "so worker 1 gets the free permit");
    }

    #[test]
    fn only_a_closed_connection_wakes_who_waits_for_a_descriptor() {
        let permits = permits(1);
        permits.want_descriptor(1);
        drop(permits.try_take());
        assert!(!permits.descriptor_came(1), "no descriptor was closed");
        let mut permit = permits.try_take().unwrap();
        permit.mark_used();
        drop(permit);
        assert!(permits.descriptor_came(1));
    }
}
