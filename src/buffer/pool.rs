//! Which buffers are free: a LIFO list for each worker and a reserve that all workers share.
//!
//! A worker takes buffers from its own list and returns them there. So it reuses the buffer that it
//! used last, which is still in the cache, and threads share nothing. When its list is empty, it
//! fetches a batch from the [`Reserve`]. If the reserve is empty too, the worker is *starving*, and
//! the other workers put their free buffers into the reserve. So no buffer is idle on one worker
//! while another waits for it.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::arena::Arena;
use super::free_list::FreeList;
use super::lease::Lease;
use super::parcel::Parcel;
use super::room;
use crate::base::key::WORKERS_MAX;
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
    /// One bit for each worker that needed a buffer and found none.
    starving: AtomicU64,
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
        let (starving, travelling) = (AtomicU64::new(0), AtomicU32::new(0));
        Ok(Arc::new(Reserve { arena, free, starving, travelling }))
    }

    /// A buffer for a thread without a pool, to send to a thread with one. Returns `None` if the
    /// reserve is empty, which can happen while workers have free buffers of their own.
    pub fn parcel(self: &Arc<Reserve>) -> Option<Parcel> {
        let id = self.free.pop()?;
        Some(Parcel::depart(self.clone(), id, 0, 0))
    }

    /// The number of buffers in transit from one thread to another.
    #[cfg(any(test, feature = "sim"))]
    pub fn travelling(&self) -> usize {
        self.travelling.load(Ordering::Relaxed) as usize
    }

    /// The workers that needed a buffer and found none, one bit each.
    #[inline]
    pub fn starving(&self) -> u64 {
        self.starving.load(Ordering::Relaxed)
    }

    pub(super) fn count_travelling(&self, parcels: i32) {
        self.travelling.fetch_add(parcels as u32, Ordering::Relaxed);
    }

    pub(super) fn put(&self, id: u32) {
        self.free.push(id).expect("the queue has room for all buffers");
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
    /// Whether a waiter is being served.
    serving: Cell<bool>,
    /// For each buffer of the arena, its place in a chain of this worker. After these, the
    /// references, by which a shared buffer is part of several chains. See `lease` and
    /// `shared_buffer`.
    pub(super) links: Box<[Cell<Link>]>,
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
pub(super) struct Link {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) next: u32,
    pub(super) buffer: u32,
}

// SAFETY: it is four numbers.
#[allow(unsafe_code)]
unsafe impl Zeroable for Link {}

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
        assert!(count + references < NONE as usize, "links have numbers of 32 bits");
        let shared = if references == 0 { 0 } else { count };
        // Zeroed by the system: memory that is never used is never resident.
        let links = try_zeroed_slice_box(count + references)
            .map_err(|()| no_memory::<Link>(count + references))?;
        let shares = try_zeroed_slice_box(shared).map_err(|()| no_memory::<Cell<u32>>(shared))?;
        let mut free = Vec::new();
        free.try_reserve_exact(count).map_err(|_| no_memory::<u32>(count))?;
        Ok(Pool(Rc::new(Local {
            reserve,
            worker: worker as u32,
            free: RefCell::new(free),
            held: Cell::new(0),
            serving: Cell::new(false),
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
    /// Also returns `None` if any worker starves, unless a waiter of this worker is being served.
    pub(crate) fn lease_in_turn(&self) -> Option<Lease> {
        let others_wait = self.0.reserve.starving() != 0 && !self.0.serving.get();
        if others_wait { None } else { self.lease() }
    }

    /// Sets whether a waiter is being served.
    pub(crate) fn set_serving(&self, serving: bool) {
        self.0.serving.set(serving);
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

    /// The number of buffers that [`lease`](Pool::lease) can return now.
    pub fn available(&self) -> usize {
        self.0.free.borrow().len() + self.0.reserve.available()
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

    /// Sets whether this worker starves. Returns whether that is a change.
    pub(crate) fn set_starving(&self, starving: bool) -> bool {
        let bit = 1u64 << self.0.worker;
        let flags = &self.0.reserve.starving;
        match starving {
            // SeqCst here and in `spill`: a worker that finds no buffer and then marks itself, and
            // one that puts buffers back and then reads the marks, must not both miss the other's
            // write.
            true => flags.fetch_or(bit, Ordering::SeqCst) & bit == 0,
            false => {
                let was = flags.load(Ordering::Relaxed) & bit != 0;
                if was {
                    flags.fetch_and(!bit, Ordering::SeqCst);
                }
                was
            }
        }
    }

    /// Whether another worker starves.
    pub(crate) fn starves_elsewhere(&self) -> bool {
        self.0.reserve.starving() & !(1u64 << self.0.worker) != 0
    }

    /// Puts this worker's free buffers into the reserve if another worker starves. Returns the
    /// workers to wake, one bit each.
    #[inline]
    pub(crate) fn donate(&self) -> u64 {
        let others = self.0.reserve.starving() & !(1u64 << self.0.worker);
        // Without buffers to give, wake nobody: two workers that need more buffers than there are
        // would wake each other for ever.
        if others == 0 || self.0.free.borrow().is_empty() { 0 } else { self.0.spill() }
    }

    /// Puts this worker's free buffers into the reserve, because it needs them no more. Returns the
    /// workers to wake, one bit each.
    pub(crate) fn give_up(&self) -> u64 {
        self.0.spill()
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
        let first = self.reserve.free.pop()?;
        for _ in 1..BATCH {
            match self.reserve.free.pop() {
                Some(id) => free.push(id),
                None => break,
            }
        }
        // The lowest number goes last, so that it is used first, and again and again.
        free.reverse();
        Some(first)
    }

    #[cold]
    fn spill(&self) -> u64 {
        let mut free = self.free.borrow_mut();
        while let Some(id) = free.pop() {
            self.reserve.put(id);
        }
        // A worker that has begun to starve since may have looked before the buffers were there.
        let others = self.reserve.starving.load(Ordering::SeqCst) & !(1u64 << self.worker);
        if self.reserve.available() == 0 { 0 } else { others }
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
        self.links[id as usize].set(Link { start, end, next: NONE, buffer });
        let shares = &self.shares[buffer as usize];
        shares.set(shares.get() + 1);
        Some(id)
    }

    /// Returns a reference, and the buffer if this was the last reference or handle.
    #[cold]
    pub(super) fn end_reference(&self, id: u32) {
        let link = self.links[id as usize].get();
        self.links[id as usize].set(Link { next: self.free_reference.get(), ..link });
        self.free_reference.set(id);
        self.end_share(link.buffer);
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
        for id in self.free.get_mut().drain(..) {
            let _ = self.reserve.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!((pool.held(), pool.available()), (0, 40));
    }

    #[test]
    fn a_starving_worker_is_given_what_another_has_free() {
        let reserve = Reserve::new(64, 16).unwrap();
        let (rich, poor) = (Pool::new(reserve.clone(), 0), Pool::new(reserve.clone(), 1));
        drop(rich.lease());
        assert!(poor.lease().is_none(), "the batch is on the other worker");
        assert_eq!(rich.donate(), 0, "nobody has asked yet");
        assert!(poor.set_starving(true));
        assert!(!poor.set_starving(true), "it was starving already");
        assert_eq!(rich.donate(), 0b10, "worker 1 is to be woken");
        assert!(poor.lease().is_some());
        poor.set_starving(false);
        assert_eq!(reserve.starving(), 0);
    }

    #[test]
    fn a_worker_that_gives_up_its_buffers_names_those_who_starve() {
        let reserve = Reserve::new(64, 16).unwrap();
        let (done, poor) = (Pool::new(reserve.clone(), 0), Pool::new(reserve.clone(), 2));
        drop(done.lease());
        assert_eq!(done.give_up(), 0, "nobody starves");
        assert_eq!(reserve.available(), 16);
        drop(done.lease());
        assert!(poor.lease().is_none());
        poor.set_starving(true);
        assert_eq!(done.give_up(), 0b100, "worker 2 is to be woken");
        assert!(poor.lease().is_some());
    }

    #[test]
    fn a_pool_that_ends_leaves_its_buffers_in_the_reserve() {
        let reserve = Reserve::new(64, 16).unwrap();
        drop(Pool::new(reserve.clone(), 0).lease());
        assert_eq!(reserve.available(), 16);
    }

    #[test]
    fn a_worker_keeps_its_free_buffers_while_no_other_starves() {
        let reserve = Reserve::new(64, 16).unwrap();
        let pools = [0, 1].map(|worker| Pool::new(reserve.clone(), worker));
        for pool in pools {
            drop(pool.lease());
            assert_eq!(pool.donate(), 0);
            pool.set_starving(true);
            assert_eq!(pool.donate(), 0, "it does not give to itself");
            assert_eq!(reserve.available(), 0);
            pool.set_starving(false);
        }
    }

    #[test]
    fn whoever_donates_is_not_among_those_to_be_woken() {
        let reserve = Reserve::new(64, 16).unwrap();
        let (poor, rich) = (Pool::new(reserve.clone(), 0), Pool::new(reserve.clone(), 1));
        drop(rich.lease());
        rich.set_starving(true);
        poor.set_starving(true);
        assert_eq!((rich.donate(), reserve.available()), (0b01, 16));
        drop(poor.lease());
        assert_eq!(rich.donate(), 0, "nothing to give, nobody to be woken");
        rich.set_starving(false);
        assert_eq!(reserve.starving(), 0b01, "the other goes on starving");
    }

    #[test]
    fn nobody_is_woken_by_who_has_nothing_to_give_though_the_reserve_has_some() {
        let reserve = Reserve::new(64, 2).unwrap();
        let (one, other) = (Pool::new(reserve.clone(), 0), Pool::new(reserve.clone(), 1));
        assert!(one.set_starving(true) && other.set_starving(true));
        assert_eq!((one.donate(), other.donate(), reserve.available()), (0, 0, 2));
        drop(one.lease());
        assert_eq!((one.donate(), reserve.available()), (0b10, 2));
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
