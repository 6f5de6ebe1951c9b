//! Which buffers are free: a LIFO list for each worker and a reserve that all workers share.
//!
//! A worker takes buffers from its own list and returns them there. So it reuses the buffer that it
//! used last, which is still in the cache, and threads share nothing. When its list is empty, it
//! fetches a batch from the [`Reserve`].
//!
//! A worker that finds no buffer publishes a claim on the [`Board`]. While there is one, the other
//! workers put their free buffers into the reserve at the end of each turn, and take from it only
//! what is left for them. `worker/supply` has the policy.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::arena::Arena;
use super::board::{Board, Claim, NO_TICKET};
use super::free_list::FreeList;
use super::lease::Lease;
use super::parcel::Parcel;
use super::room;
use crate::base::key::WORKERS_MAX;
use crate::base::sync::{AtomicU32, Ordering};
use crate::base::units::show_size;
use bytemuck::Zeroable;
use bytemuck::allocation::try_zeroed_slice_box;

/// How many buffers a worker fetches from the reserve at once: enough to make fetching rare, few
/// enough that workers of a small pool do not hoard.
const BATCH: usize = 16;

/// Bytes of a buffer's place in the queue of the reserve: its number and the queue's stamp.
pub(crate) const RESERVE_BYTES_EACH: u64 = 16;

/// Stands for the absence of a link.
pub(super) const NONE: u32 = u32::MAX;

/// The buffers of the process, and the list of those that no worker holds.
pub struct Reserve {
    pub(super) arena: Arena,
    free: FreeList,
    board: Board,
    /// Buffers in transit from one thread to another.
    travelling: AtomicU32,
}

impl Reserve {
    /// Allocates `count` buffers of `buffer_size` bytes.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(buffer_size: usize, count: u32) -> io::Result<Arc<Reserve>> {
        let arena = Arena::new(buffer_size, count)?;
        room::check(u64::from(count) * RESERVE_BYTES_EACH)?;
        let free = FreeList::new(count as usize);
        for id in 0..count {
            free.push(id).expect("the queue has room for all buffers");
        }
        let travelling = AtomicU32::new(0);
        Ok(Arc::new(Reserve { arena, free, board: Board::new(), travelling }))
    }

    /// A buffer for a thread without a pool, to send to a thread with one. Returns `None` if the
    /// reserve has none beyond those that workers wait for, which can happen while workers have
    /// free buffers of their own.
    pub fn parcel(self: &Arc<Reserve>) -> Option<Parcel> {
        let free = self.available();
        if self.board.claiming() != 0 && self.board.owed(WORKERS_MAX, NO_TICKET, free) >= free {
            return None;
        }
        self.take_for_message()
    }

    /// Takes a buffer, whoever waits for one.
    pub(super) fn take_for_message(self: &Arc<Reserve>) -> Option<Parcel> {
        let id = self.free.pop()?;
        // As in `Pool::give`: the remaining buffers may be for other workers than before.
        self.board.wake_claimants(WORKERS_MAX, || self.available());
        Some(Parcel::depart(self.clone(), id, 0, 0))
    }

    /// The number of buffers in transit from one thread to another.
    #[cfg(any(test, feature = "sim"))]
    pub fn travelling(&self) -> usize {
        self.travelling.load(Ordering::Relaxed) as usize
    }

    /// The board on which the workers publish their claims.
    #[inline]
    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    pub(super) fn count_travelling(&self, parcels: i32) {
        self.travelling.fetch_add(parcels as u32, Ordering::Relaxed);
    }

    /// Puts a buffer into the reserve, and wakes those who wait for one.
    pub(super) fn put(&self, id: u32) {
        self.free.push(id).expect("the queue has room for all buffers");
        self.board.wake_claimants(WORKERS_MAX, || self.available());
    }

    /// The number of buffers in the reserve now.
    pub fn available(&self) -> usize {
        self.free.len()
    }
}

/// The buffers of one worker, which stay on its thread. Clones are handles of the same pool.
#[derive(Clone)]
pub struct Pool(Rc<Local>);

pub(super) struct Local {
    reserve: Arc<Reserve>,
    worker: u32,
    /// Free buffers, the most recently used last. Its capacity is the number of buffers of the
    /// arena, so it never grows.
    free: RefCell<Vec<u32>>,
    /// Buffers in leases of this worker.
    held: Cell<u32>,
    /// The ticket of the waiter that is being served.
    serving: Cell<Option<u64>>,
    /// The ticket of the service, if it waits.
    service: Cell<u64>,
    /// How many buffers services and layers have taken, and whether one was refused since this was
    /// last read.
    taken: Cell<u32>,
    refused: Cell<bool>,
    /// Whether the worker has taken from the reserve while there was a claim.
    has_drawn: Cell<bool>,
    /// For each buffer of the arena, its place in a chain of this worker. After these, the
    /// references, by which a shared buffer is part of several chains. See `lease` and
    /// `shared_buffer`.
    pub(super) links: Box<[Cell<ChainLink>]>,
    /// For each shared buffer, how many references and handles it has. Empty in a pool without
    /// references.
    pub(super) shares: Box<[Cell<u32>]>,
    /// Free references: the first in a list through their links, and the first of those that were
    /// never used.
    free_reference: Cell<u32>,
    unused_reference: Cell<u32>,
}

/// The range and the successor of a buffer that is part of a chain, and which buffer it is.
#[derive(Clone, Copy)]
pub(super) struct ChainLink {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) next: u32,
    pub(super) buffer: u32,
}

// SAFETY: it is four numbers.
#[allow(unsafe_code)]
unsafe impl Zeroable for ChainLink {}

/// The error when there is no memory for lists of `count` values of type `T`.
fn no_memory<T>(count: usize) -> io::Error {
    let bytes = show_size((count * size_of::<T>()) as u64);
    let text = format!("no memory for {count} places of buffers in queues ({bytes})");
    io::Error::new(io::ErrorKind::OutOfMemory, text)
}

impl Pool {
    /// The pool of worker number `worker`, empty at first.
    ///
    /// # Panics
    /// If the number is not below `WORKERS_MAX`, 64.
    pub(crate) fn new(reserve: Arc<Reserve>, worker: usize) -> Pool {
        Pool::with_references(reserve, worker, 0)
    }

    /// Like [`new`](Pool::new), with `references` places in chains for parts of
    /// [shared](super::Shared) buffers.
    ///
    /// # Panics
    /// As [`new`](Pool::new), and if buffers and references together are 2^32 or more.
    pub(crate) fn with_references(reserve: Arc<Reserve>, worker: usize, references: usize) -> Pool {
        Pool::try_with_references(reserve, worker, references)
            .unwrap_or_else(|error| panic!("no pool: {error}"))
    }

    /// Like [`with_references`](Pool::with_references), but returns an error if there is not enough
    /// memory.
    ///
    /// # Errors
    /// There is not enough memory. The text says how much was requested, and for what.
    ///
    /// # Panics
    /// As [`with_references`](Pool::with_references), except for memory.
    pub(crate) fn try_with_references(
        reserve: Arc<Reserve>,
        worker: usize,
        references: usize,
    ) -> io::Result<Pool> {
        assert!(worker < WORKERS_MAX, "a worker's number is one of {WORKERS_MAX} bits");
        let count = reserve.arena.count() as usize;
        let places = count + references;
        assert!(places < NONE as usize, "links have numbers of 32 bits");
        let shared = if references == 0 { 0 } else { count };
        // Zeroed by the system: memory that is never used is never resident.
        let links = try_zeroed_slice_box(places).map_err(|()| no_memory::<ChainLink>(places))?;
        let shares = try_zeroed_slice_box(shared).map_err(|()| no_memory::<Cell<u32>>(shared))?;
        let mut free = Vec::new();
        free.try_reserve_exact(count).map_err(|_| no_memory::<u32>(count))?;
        Ok(Pool(Rc::new(Local {
            reserve,
            worker: worker as u32,
            free: RefCell::new(free),
            held: Cell::new(0),
            serving: Cell::new(None),
            service: Cell::new(NO_TICKET),
            taken: Cell::new(0),
            refused: Cell::new(false),
            has_drawn: Cell::new(false),
            links,
            shares,
            free_reference: Cell::new(NONE),
            unused_reference: Cell::new(count as u32),
        })))
    }

    /// Takes an empty buffer. Returns `None` if there is none on this worker or in the reserve.
    #[inline]
    pub fn lease(&self) -> Option<Lease> {
        let own = self.0.free.borrow_mut().pop();
        let id = match own {
            Some(id) => id,
            None => self.0.refill()?,
        };
        self.0.held.set(self.0.held.get() + 1);
        Some(Lease::new(self.clone(), id))
    }

    /// Like [`lease`](Pool::lease), for a service, which comes after all that wait for a buffer.
    /// Also returns `None` if any worker has a claim, unless a waiter of this worker is being
    /// served.
    pub(crate) fn lease_in_turn(&self) -> Option<Lease> {
        let others_wait = self.0.reserve.board.claiming() != 0 && self.0.serving.get().is_none();
        if others_wait { None } else { self.lease_and_count() }
    }

    /// Like [`lease`](Pool::lease), for a service or a layer.
    pub(crate) fn lease_and_count(&self) -> Option<Lease> {
        let lease = self.lease();
        match lease {
            Some(_) => self.0.taken.set(self.0.taken.get().wrapping_add(1)),
            None => self.0.refused.set(true),
        }
        lease
    }

    /// How many buffers services and layers have taken, and whether they were refused one since
    /// the last call.
    pub(crate) fn demand(&self) -> (u32, bool) {
        (self.0.taken.get(), self.0.refused.replace(false))
    }

    /// Sets the ticket of the waiter that is being served. It decides what is left for it.
    pub(crate) fn set_serving(&self, ticket: Option<u64>) {
        self.0.serving.set(ticket);
    }

    /// Sets the ticket of the service, if it waits for a buffer.
    pub(crate) fn set_service(&self, ticket: Option<u64>) {
        self.0.service.set(ticket.unwrap_or(NO_TICKET));
    }

    /// The number of buffers, over all workers.
    pub fn count(&self) -> usize {
        self.0.reserve.arena.count() as usize
    }

    /// The size of a buffer in bytes.
    pub fn buffer_size(&self) -> usize {
        self.0.reserve.arena.buffer_size()
    }

    /// The number of this worker's buffers that are in leases now.
    pub fn held(&self) -> usize {
        self.0.held.get() as usize
    }

    /// The number of buffers that [`lease`](Pool::lease) can return now. Buffers that are left for
    /// workers that have waited longer are not among them.
    pub fn available(&self) -> usize {
        self.available_for(self.0.serving.get().unwrap_or(self.0.service.get()))
    }

    /// The number of buffers that [`lease`](Pool::lease) can return to a waiter with this ticket.
    pub(crate) fn available_for(&self, ticket: u64) -> usize {
        self.0.left_for(ticket, self.free())
    }

    /// The number of free buffers, on this worker or in the reserve.
    pub(crate) fn free(&self) -> usize {
        self.0.free.borrow().len() + self.0.reserve.available()
    }

    /// The number of free buffers of this worker's own list.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn own(&self) -> usize {
        self.0.free.borrow().len()
    }

    /// Whether parts of shared buffers can be put into chains of this pool.
    pub fn has_references(&self) -> bool {
        !self.0.shares.is_empty()
    }

    #[cfg(any(test, feature = "sim"))]
    /// References that are in chains now. For tests: it walks through all free references.
    pub(crate) fn references_in_use(&self) -> usize {
        let mut used =
            self.0.unused_reference.get() as usize - self.0.reserve.arena.count() as usize;
        let mut free = self.0.free_reference.get();
        while free != NONE {
            used -= 1;
            free = self.0.links[free as usize].get().next;
        }
        used
    }

    /// Whether less than half of the pool is in use, as far as this worker knows. Otherwise a
    /// connection gets one buffer at a time.
    #[inline]
    pub fn is_plentiful(&self) -> bool {
        let half = self.0.reserve.arena.count() as usize / 2;
        self.0.free.borrow().len() > half || self.available() > half
    }

    /// Publishes what this worker claims.
    pub(crate) fn claim(&self, claim: Option<Claim>) {
        self.0.reserve.board.publish(self.0.worker as usize, claim);
    }

    /// Whether any worker has a claim.
    #[inline]
    pub(crate) fn is_claimed(&self) -> bool {
        self.0.reserve.board.claiming() != 0
    }

    /// Puts this worker's free buffers into the reserve, and wakes the workers that have a claim.
    /// With nothing put there, wakes them only if `claim_changed`, or if it has taken from the
    /// reserve: what is left may be for others than before. Otherwise two workers that need more
    /// buffers than there are would wake each other for ever.
    pub(crate) fn give(&self, claim_changed: bool) {
        let has_drawn = self.0.has_drawn.replace(false);
        let gives = self.0.spill();
        if gives || claim_changed || has_drawn {
            let reserve = &self.0.reserve;
            reserve.board.wake_claimants(self.0.worker as usize, || reserve.available());
        }
    }

    /// The reserve, which all workers share.
    pub(crate) fn reserve(&self) -> &Arc<Reserve> {
        &self.0.reserve
    }

    /// Whether `other` is a handle of the same pool.
    #[inline]
    pub(super) fn is(&self, other: &Pool) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    #[inline]
    pub(super) fn local(&self) -> &Local {
        &self.0
    }
}

impl Local {
    #[cold]
    fn refill(&self) -> Option<u32> {
        let mut free = self.free.borrow_mut();
        let ticket = self.serving.get().unwrap_or(self.service.get());
        if self.left_for(ticket, self.reserve.available()) == 0 {
            return None;
        }
        let first = self.reserve.free.pop()?;
        let is_claimed = self.reserve.board.claiming() != 0;
        self.has_drawn.set(is_claimed);
        for _ in 1..if is_claimed { 1 } else { BATCH } {
            match self.reserve.free.pop() {
                Some(id) => free.push(id),
                None => break,
            }
        }
        // The lowest number goes last, so that it is used first, and again and again.
        free.reverse();
        Some(first)
    }

    /// How many of `free` buffers are left for this ticket, behind the older claims of other
    /// workers.
    #[inline]
    fn left_for(&self, ticket: u64, free: usize) -> usize {
        if self.reserve.board.claiming() == 0 {
            return free;
        }
        free.saturating_sub(self.reserve.board.owed(self.worker as usize, ticket, free))
    }

    /// Puts the free buffers into the reserve. Returns whether there were any.
    fn spill(&self) -> bool {
        let mut free = self.free.borrow_mut();
        let any = !free.is_empty();
        while let Some(id) = free.pop() {
            self.reserve.free.push(id).expect("the queue has room for all buffers");
        }
        any
    }

    /// Whether a link is a reference to a shared buffer instead of the buffer itself.
    #[inline]
    pub(super) fn is_reference(&self, link: u32) -> bool {
        link >= self.reserve.arena.count()
    }

    /// Takes a reference to a shared buffer; `None` if all are in use.
    pub(super) fn take_reference(&self, buffer: u32, start: u32, end: u32) -> Option<u32> {
        let id = match self.free_reference.get() {
            NONE if self.unused_reference.get() as usize == self.links.len() => return None,
            NONE => self.unused_reference.replace(self.unused_reference.get() + 1),
            id => {
                self.free_reference.set(self.links[id as usize].get().next);
                id
            }
        };
        self.links[id as usize].set(ChainLink { start, end, next: NONE, buffer });
        let shares = &self.shares[buffer as usize];
        shares.set(shares.get() + 1);
        Some(id)
    }

    /// Returns a reference, and the buffer if this was the last reference or handle.
    #[cold]
    pub(super) fn end_reference(&self, id: u32) {
        let buffer = self.links[id as usize].get().buffer;
        self.put_back_reference(id);
        self.end_share(buffer);
    }

    /// Turns the only reference to a buffer into the buffer itself. Returns its number, or `None`
    /// if it is no reference or if there are other references or handles.
    pub(super) fn own_reference(&self, id: u32) -> Option<u32> {
        if !self.is_reference(id) {
            return None;
        }
        let link = self.links[id as usize].get();
        let buffer = link.buffer;
        if self.shares[buffer as usize].get() != 1 {
            return None;
        }
        self.shares[buffer as usize].set(0);
        self.links[buffer as usize].set(link);
        self.put_back_reference(id);
        Some(buffer)
    }

    fn put_back_reference(&self, id: u32) {
        let link = self.links[id as usize].get();
        self.links[id as usize].set(ChainLink { next: self.free_reference.get(), ..link });
        self.free_reference.set(id);
    }

    /// A handle of a shared buffer, or a reference to it, was dropped.
    pub(super) fn end_share(&self, buffer: u32) {
        let shares = &self.shares[buffer as usize];
        assert!(shares.get() > 0, "a buffer is shared no more that was not shared");
        shares.set(shares.get() - 1);
        if shares.get() == 0 {
            self.overwrite_in_tests(buffer);
            self.give_back(buffer);
        }
    }

    /// Overwrites data that a client left behind, so that a read of it is noticed.
    #[allow(unsafe_code)]
    fn overwrite_in_tests(&self, buffer: u32) {
        if cfg!(debug_assertions) {
            // SAFETY: no handle of the buffer and no reference to it is left.
            unsafe { self.bytes_mut(buffer) }.fill(0xDB);
        }
    }

    /// Records that a buffer leaves for another thread.
    pub(super) fn depart(&self) {
        self.held.set(self.held.get() - 1);
    }

    /// Records that a buffer has arrived from another thread.
    pub(super) fn arrive(&self) {
        self.held.set(self.held.get() + 1);
    }

    pub(super) fn reserve(&self) -> &Arc<Reserve> {
        &self.reserve
    }

    /// Returns a buffer to the free list.
    #[inline]
    pub(super) fn give_back(&self, id: u32) {
        let held = self.held.get();
        assert!(held > 0, "a buffer came back that was not out");
        self.held.set(held - 1);
        let mut free = self.free.borrow_mut();
        debug_assert!(!free.contains(&id), "buffer {id} came back twice");
        free.push(id);
    }

    /// The bytes of a buffer, for reading.
    ///
    /// # Safety
    /// As for [`Arena::bytes`].
    #[allow(unsafe_code)]
    #[inline]
    pub(super) unsafe fn bytes(&self, id: u32) -> &[u8] {
        // SAFETY: this function requires the same of its caller.
        unsafe { self.reserve.arena.bytes(id) }
    }

    /// A range of the bytes of a buffer, for reading.
    ///
    /// # Safety
    /// As for [`Arena::range`].
    #[allow(unsafe_code)]
    #[inline]
    pub(super) unsafe fn range(&self, id: u32, start: u32, end: u32) -> &[u8] {
        // SAFETY: this function requires the same of its caller.
        unsafe { self.reserve.arena.range(id, start as usize..end as usize) }
    }

    /// The bytes of a buffer, for writing.
    ///
    /// # Safety
    /// As for [`Arena::bytes_mut`].
    #[allow(unsafe_code, clippy::mut_from_ref)]
    #[inline]
    pub(super) unsafe fn bytes_mut(&self, id: u32) -> &mut [u8] {
        // SAFETY: this function requires the same of its caller.
        unsafe { self.reserve.arena.bytes_mut(id) }
    }
}

impl Drop for Local {
    /// A worker that ends leaves its buffers to the others.
    fn drop(&mut self) {
        assert_eq!(self.held.get(), 0, "a lease outlived its pool");
        self.spill();
        self.reserve.board.wake_claimants(self.worker as usize, || self.reserve.available());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::{Wake, Waker};

    use super::*;
    use crate::base::time::Time;

    #[test]
    fn the_buffer_used_last_is_used_next() {
        let pool = Pool::new(Reserve::new(64, 40).unwrap(), 0);
        let (a, b) = (pool.lease().unwrap(), pool.lease().unwrap());
        let (a_id, b_id) = (a.id(), b.id());
        assert_eq!((a_id, b_id), (0, 1), "low numbers first: memory never used stays untouched");
        drop(a);
        drop(b);
        assert_eq!(pool.lease().unwrap().id(), b_id);
    }

    #[test]
    fn every_buffer_can_be_leased_once_and_none_beyond() {
        let pool = Pool::new(Reserve::new(64, 40).unwrap(), 0);
        let leases: Vec<_> = std::iter::from_fn(|| pool.lease()).collect();
        let mut ids: Vec<_> = leases.iter().map(Lease::id).collect();
        ids.sort();
        assert_eq!(ids, (0..40).collect::<Vec<_>>());
        assert_eq!((pool.held(), pool.available()), (40, 0));
        drop(leases);
        assert_eq!((pool.held(), pool.available(), pool.count()), (0, 40, 40));
    }

    #[test]
    fn a_pool_that_ends_leaves_its_buffers_in_the_reserve() {
        let reserve = Reserve::new(64, 16).unwrap();
        drop(Pool::new(reserve.clone(), 0).lease());
        assert_eq!(reserve.available(), 16);
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn take(&self) -> bool {
            self.0.swap(false, Ordering::Relaxed)
        }
    }

    /// Pools of one reserve, and whether each of their workers was woken.
    fn pools<const N: usize>(reserve: &Arc<Reserve>) -> ([Pool; N], [Arc<Woken>; N]) {
        let woken: [Arc<Woken>; N] = std::array::from_fn(|_| Arc::default());
        let pool = |worker| {
            reserve.board().set_waker(worker, Waker::from(woken[worker].clone()));
            Pool::new(reserve.clone(), worker)
        };
        (std::array::from_fn(pool), woken)
    }

    fn claim(reserve: &Reserve, needs: u32) -> Option<Claim> {
        Some(Claim { ticket: reserve.board().ticket(), since: Time::ZERO, needs })
    }

    #[test]
    fn a_buffer_that_another_thread_returns_wakes_a_worker_that_waits_for_one() {
        let reserve = Reserve::new(64, 1).unwrap();
        let ([poor], [woken]) = pools(&reserve);
        let parcel = reserve.parcel().expect("the only buffer");
        poor.claim(claim(&reserve, 1));
        assert!(!woken.take(), "no buffer is free");
        drop(parcel);
        assert!(woken.take());
    }

    #[test]
    fn a_worker_with_a_claim_gets_what_another_has_free() {
        let reserve = Reserve::new(64, 16).unwrap();
        let ([rich, poor], woken) = pools(&reserve);
        drop(rich.lease());
        assert!(poor.lease().is_none(), "the batch is on the other worker");
        assert!(!rich.is_claimed());
        poor.claim(claim(&reserve, 1));
        assert!(rich.is_claimed());
        rich.give(false);
        assert!(woken[1].take() && !woken[0].take());
        assert!(poor.lease().is_some());
        poor.claim(None);
        assert!(!rich.is_claimed());
    }

    #[test]
    fn nobody_takes_what_is_left_for_an_older_claim() {
        let reserve = Reserve::new(64, 3).unwrap();
        let ([first, second, third], _) = pools(&reserve);
        for pool in [&first, &second] {
            let claim = claim(&reserve, 1);
            pool.claim(claim);
            pool.set_serving(claim.map(|claim| claim.ticket));
        }
        assert_eq!([&first, &second, &third].map(Pool::available), [3, 2, 1]);
        let _taken = third.lease().expect("there is one beyond those that are claimed");
        assert!(third.lease().is_none());
        let _taken = second.lease().expect("there is one beyond that of the older claim");
        assert!(second.lease().is_none());
        assert!(first.lease().is_some());
    }

    #[test]
    fn a_thread_without_a_pool_gets_what_is_there_beyond_the_claims() {
        let reserve = Reserve::new(64, 3).unwrap();
        let ([waiting], _) = pools(&reserve);
        waiting.claim(claim(&reserve, 2));
        let _taken = reserve.parcel().expect("there is one beyond the two that are claimed");
        assert!(reserve.parcel().is_none(), "both are claimed");
        waiting.claim(claim(&reserve, 3));
        assert!(reserve.parcel().is_some(), "two are of no use to who needs three");
    }

    #[test]
    fn a_service_comes_after_all_that_wait_unless_one_of_them_is_being_served() {
        let reserve = Reserve::new(64, 3).unwrap();
        let ([one, other], _) = pools(&reserve);
        let _taken = one.lease_in_turn().expect("nobody waits");
        other.claim(claim(&reserve, 1));
        assert!(one.lease_in_turn().is_none());
        one.set_serving(Some(reserve.board().ticket()));
        assert!(one.lease_in_turn().is_some());
    }

    #[test]
    fn what_is_left_for_a_service_that_waits_depends_on_who_waits_longer() {
        let reserve = Reserve::new(64, 3).unwrap();
        let ([one, other], _) = pools(&reserve);
        let earlier = reserve.board().ticket();
        other.claim(claim(&reserve, 1));
        assert_eq!(one.available(), 2, "it does not wait");
        one.set_service(Some(earlier));
        assert_eq!(one.available(), 3);
        one.set_service(Some(reserve.board().ticket()));
        assert_eq!(one.available(), 2);
        one.set_service(None);
        assert_eq!(one.available(), 2);
    }

    #[test]
    fn what_services_take_is_counted_and_that_they_were_refused_one_is_told_once() {
        let pool = Pool::new(Reserve::new(64, 2).unwrap(), 0);
        assert_eq!(pool.demand(), (0, false));
        let _taken = (pool.lease(), pool.lease_and_count());
        assert_eq!(pool.demand(), (1, false), "the other one is for a receive");
        assert!(pool.lease_and_count().is_none());
        assert_eq!([pool.demand(), pool.demand()], [(1, true), (1, false)]);
    }

    #[test]
    fn memory_that_is_refused_is_named_with_its_sum() {
        let error = no_memory::<ChainLink>(1024);
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        let text = "no memory for 1024 places of buffers in queues (16.0 KiB)";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_claim_that_needs_more_than_are_free_leaves_them_to_others() {
        let reserve = Reserve::new(64, 2).unwrap();
        let ([needy, other], woken) = pools(&reserve);
        needy.claim(claim(&reserve, 3));
        assert_eq!(other.available(), 2);
        other.give(true);
        assert!(!woken[0].take(), "it has no use for two");
        needy.claim(claim(&reserve, 2));
        assert!(other.lease().is_none());
        other.give(true);
        assert!(woken[0].take());
    }

    #[test]
    fn whoever_gives_nothing_wakes_others_only_if_its_claim_has_changed() {
        let reserve = Reserve::new(64, 2).unwrap();
        let ([one, other], woken) = pools(&reserve);
        other.claim(claim(&reserve, 1));
        one.give(false);
        assert!(!woken[1].take());
        one.give(true);
        assert!(woken[1].take());
    }

    #[test]
    fn a_buffer_that_arrives_in_the_reserve_wakes_who_waits_for_it() {
        let reserve = Reserve::new(64, 16).unwrap();
        let ([poor, done], woken) = pools(&reserve);
        let parcel = done.lease().unwrap().into_parcel();
        poor.claim(claim(&reserve, 1));
        drop(parcel);
        assert!(woken[0].take(), "a parcel that is dropped");
        drop(done);
        assert!(woken[0].take(), "a pool that ends");
        poor.claim(claim(&reserve, 17));
        drop(reserve.parcel());
        assert!(!woken[0].take(), "sixteen do not help it");
    }

    #[test]
    fn a_pool_is_plentiful_while_more_than_half_of_it_is_free() {
        let pool = Pool::new(Reserve::new(64, 40).unwrap(), 0);
        assert!(pool.is_plentiful(), "all of it in the reserve");
        let mut leases: Vec<_> = (0..19).map(|_| pool.lease().unwrap()).collect();
        assert!(pool.is_plentiful(), "21 free, on the worker and in the reserve together");
        leases.push(pool.lease().unwrap());
        assert!(!pool.is_plentiful(), "20 free, on the worker and in the reserve together");
        leases.extend(std::iter::from_fn(|| pool.lease()));
        assert!(!pool.is_plentiful(), "none free");
        leases.truncate(20);
        assert!(!pool.is_plentiful(), "20 free, all on the worker");
        leases.pop();
        assert!(pool.is_plentiful(), "21 free, all on the worker");
    }
}
