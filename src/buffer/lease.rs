//! The right to use a buffer. A [`Lease`] is one buffer with the range of it that is filled; a
//! [`Chain`] is several in a row. Neither can be cloned, and both give their buffers back when
//! dropped, on every path.
//!
//! Only the filled range can be read. A lease starts empty, so the bytes that another client left
//! in the buffer cannot be reached.

use std::fmt;
use std::mem;

use super::parcel::Parcel;
use super::pool::{Link, NONE, Pool};
use super::shared::Shared;

/// One buffer of a [`Pool`] and the range of it that holds data.
pub struct Lease {
    pool: Pool,
    id: u32,
    start: u32,
    end: u32,
}

impl Lease {
    pub(super) fn new(pool: Pool, id: u32) -> Lease {
        Lease { pool, id, start: 0, end: 0 }
    }

    /// A lease of a buffer that holds data already.
    pub(super) fn with_data(pool: Pool, id: u32, start: u32, end: u32) -> Lease {
        Lease { pool, id, start, end }
    }

    /// Makes the buffer ready to be sent to another worker.
    pub fn into_parcel(self) -> Parcel {
        let (pool, id, link) = dissolve(self);
        pool.local().depart();
        Parcel::depart(pool.reserve().clone(), id, link.start, link.end)
    }

    /// The number of the buffer in its arena.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Bytes of data in it.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Bytes that there is room for behind the data.
    pub fn room(&self) -> usize {
        self.pool.buffer_size() - self.end as usize
    }

    /// Whether it holds no data.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The data.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        &self.bytes()[self.start as usize..self.end as usize]
    }

    /// The data, to be changed in place.
    #[inline]
    pub fn filled_mut(&mut self) -> &mut [u8] {
        let (start, end) = (self.start as usize, self.end as usize);
        &mut self.bytes_mut()[start..end]
    }

    /// The room behind the data, to be written to; [`commit`](Lease::commit) makes it data. What is
    /// in it before is unspecified.
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let end = self.end as usize;
        &mut self.bytes_mut()[end..]
    }

    /// Makes the first `count` bytes of the spare room part of the data.
    ///
    /// # Panics
    /// If the room is smaller.
    #[inline]
    pub fn commit(&mut self, count: usize) {
        assert!(
            count <= self.pool.buffer_size() - self.end as usize,
            "more bytes than the buffer has room for"
        );
        self.end += count as u32;
    }

    /// Drops the first `count` bytes of the data.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "more bytes consumed than there are");
        self.start += count as u32;
    }

    /// Copies as much of `bytes` as there is room for behind the data, and answers how much that
    /// was.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare_mut();
        let count = spare.len().min(bytes.len());
        spare[..count].copy_from_slice(&bytes[..count]);
        self.commit(count);
        count
    }

    #[allow(unsafe_code)]
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: a lease owns its number; it cannot be cloned, and it is in no free list while it
        // lives. The result borrows the lease, so nothing can write while it is in use.
        unsafe { self.pool.local().bytes(self.id) }
    }

    #[allow(unsafe_code)]
    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the result borrows the lease exclusively.
        unsafe { self.pool.local().bytes_mut(self.id) }
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        // In tests, what a client left behind must not look like anybody's data.
        if cfg!(debug_assertions) {
            self.filled_mut().fill(0xDB);
        }
        self.pool.local().give_back(self.id);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({}, {}..{})", self.id, self.start, self.end)
    }
}

/// Leases in a row: a first-in, first-out queue of bytes of any length that the pool has room for.
///
/// The links between the buffers lie beside the arena, so a chain is of the same small size however
/// long it is, and adding to it allocates nothing.
pub struct Chain {
    pool: Pool,
    first: u32,
    last: u32,
    leases: u32,
    len: u32,
}

impl Chain {
    /// An empty chain of buffers of `pool`.
    pub fn new(pool: &Pool) -> Chain {
        Chain { pool: pool.clone(), first: NONE, last: NONE, leases: 0, len: 0 }
    }

    /// Bytes of data.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it has no leases.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.leases == 0
    }

    /// The number of leases.
    #[inline]
    pub fn leases(&self) -> usize {
        self.leases as usize
    }

    /// Puts a lease at the end. One without data goes back to the pool instead.
    ///
    /// # Panics
    /// If the lease is from another worker's pool, or the chain would pass 4 GiB.
    #[inline]
    pub fn push_back(&mut self, lease: Lease) {
        if lease.is_empty() {
            return;
        }
        assert!(self.pool.is(&lease.pool), "a lease of another pool");
        self.len = self.len.checked_add(lease.len() as u32).expect("a chain of less than 4 GiB");
        let (_, id, link) = dissolve(lease);
        self.pool.local().links[id as usize].set(link);
        match self.leases {
            0 => self.first = id,
            _ => self.set_next(self.last, id),
        }
        self.last = id;
        self.leases += 1;
    }

    /// Puts a part of a shared buffer at the end, without copying it. Answers whether it did: there
    /// may be no reference left.
    ///
    /// # Panics
    /// If the buffer is of another pool, or has less data than `range` says.
    pub fn push_shared(&mut self, shared: &Shared, range: std::ops::Range<usize>) -> bool {
        assert!(self.pool.is(shared.pool()), "a buffer of another pool");
        assert!(range.start < range.end && range.end <= shared.end(), "no data there");
        let (start, end) = (range.start as u32, range.end as u32);
        let len = self.len.checked_add(end - start).expect("a chain of less than 4 GiB");
        if !self.extend_reference(shared.id(), start, end) {
            let Some(id) = self.pool.local().take_reference(shared.id(), start, end) else {
                return false;
            };
            match self.leases {
                0 => self.first = id,
                _ => self.set_next(self.last, id),
            }
            self.last = id;
            self.leases += 1;
        }
        self.len = len;
        true
    }

    /// Makes the last reference longer, if it ends where the new part begins: messages that follow
    /// each other in a buffer are one range, and one slice for the kernel.
    fn extend_reference(&mut self, buffer: u32, start: u32, end: u32) -> bool {
        if self.leases == 0 || !self.pool.local().is_reference(self.last) {
            return false;
        }
        let last = self.link(self.last);
        let follows = last.buffer == buffer && last.end == start;
        if follows {
            self.pool.local().links[self.last as usize].set(Link { end, ..last });
        }
        follows
    }

    /// Takes the first lease out.
    ///
    /// # Panics
    /// If it is a part of a shared buffer, of which nobody has a lease.
    #[inline]
    pub fn pop_front(&mut self) -> Option<Lease> {
        if self.leases == 0 {
            return None;
        }
        assert!(!self.pool.local().is_reference(self.first), "a shared buffer is nobody's lease");
        let (id, link) = self.unlink_front();
        Some(Lease { pool: self.pool.clone(), id, start: link.start, end: link.end })
    }

    /// Gives the first buffer back.
    #[inline]
    fn drop_front(&mut self) {
        let (id, link) = self.unlink_front();
        if cfg!(debug_assertions) || self.pool.local().is_reference(id) {
            self.drop_link(id, link);
        } else {
            self.pool.local().give_back(id);
        }
    }

    #[cold]
    fn drop_link(&self, id: u32, link: Link) {
        match self.pool.local().is_reference(id) {
            true => self.pool.local().end_reference(id),
            // A lease that is dropped is overwritten in tests.
            false => drop(Lease::with_data(self.pool.clone(), id, link.start, link.end)),
        }
    }

    #[inline]
    fn unlink_front(&mut self) -> (u32, Link) {
        let id = self.first;
        let link = self.link(id);
        self.first = link.next;
        self.leases -= 1;
        self.len -= link.end - link.start;
        debug_assert!(self.leases > 0 || (self.first, self.len) == (NONE, 0));
        (id, link)
    }

    /// Moves all of `other` to the end of this chain, whatever their lengths in the same time.
    ///
    /// # Panics
    /// If the other chain is of another pool, or this one would pass 4 GiB.
    #[inline]
    pub fn append(&mut self, other: &mut Chain) {
        assert!(self.pool.is(&other.pool), "a chain of another pool");
        if self.leases == 0 {
            mem::swap(self, other);
            return;
        }
        if other.leases == 0 {
            return;
        }
        self.len = self.len.checked_add(other.len).expect("a chain of less than 4 GiB");
        self.set_next(self.last, other.first);
        self.last = other.last;
        self.leases += other.leases;
        (other.first, other.last, other.leases, other.len) = (NONE, NONE, 0, 0);
    }

    /// Like [`append`](Chain::append), but bytes that fit behind the last of this chain are copied
    /// there, so that a client that sends one byte at a time does not hold a buffer for each.
    #[inline]
    pub fn absorb(&mut self, other: &mut Chain) {
        if self.leases > 0 {
            self.copy_what_fits(other);
        }
        self.append(other);
    }

    #[cold]
    fn copy_what_fits(&mut self, other: &mut Chain) {
        while self.leases > 0 && other.leases > 0 && !self.pool.local().is_reference(self.last) {
            let (mine, theirs) = (self.link(self.last), other.link(other.first));
            let count = (theirs.end - theirs.start) as usize;
            if count > self.pool.buffer_size() - mine.end as usize {
                break;
            }
            let lease = other.pop_front().expect("it has a lease");
            self.copy_behind_last(lease.filled());
        }
    }

    /// Copies `bytes` behind the data of the last lease. Answers whether it did: there may be no
    /// room there, or no lease, or it is shared.
    pub fn extend_last(&mut self, bytes: &[u8]) -> bool {
        if self.leases == 0 || self.pool.local().is_reference(self.last) {
            return false;
        }
        let fits = bytes.len() <= self.pool.buffer_size() - self.link(self.last).end as usize;
        if fits {
            self.copy_behind_last(bytes);
        }
        fits
    }

    /// How many bytes [`extend_last`](Chain::extend_last) has room for.
    pub fn room_behind(&self) -> usize {
        if self.leases == 0 || self.pool.local().is_reference(self.last) {
            return 0;
        }
        self.pool.buffer_size() - self.link(self.last).end as usize
    }

    #[allow(unsafe_code)]
    fn copy_behind_last(&mut self, bytes: &[u8]) {
        let link = self.link(self.last);
        // SAFETY: the chain owns the numbers of its buffers, and is borrowed exclusively; `bytes`
        // is of another lease.
        let buffer = unsafe { self.pool.local().bytes_mut(self.last) };
        buffer[link.end as usize..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u32;
        self.pool.local().links[self.last as usize]
            .set(Link { end: link.end + bytes.len() as u32, ..link });
    }

    #[cold]
    fn clear(&mut self) {
        while self.leases > 0 {
            self.drop_front();
        }
    }

    /// All of it, leaving an empty chain.
    #[inline]
    pub fn take(&mut self) -> Chain {
        mem::replace(self, Chain::new(&self.pool))
    }

    /// Drops the first `count` bytes; buffers that become empty go back to the pool.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "more bytes consumed than there are");
        let mut left = count as u32;
        while left > 0 {
            let link = self.link(self.first);
            let here = link.end - link.start;
            if left < here {
                self.pool.local().links[self.first as usize]
                    .set(Link { start: link.start + left, ..link });
                self.len -= left;
                return;
            }
            left -= here;
            self.drop_front();
        }
    }

    /// Takes the first `count` bytes out as a chain of their own. Where that cuts a lease in two,
    /// the shorter part is copied into a lease of its own; `None` if there is none to be had, and
    /// then nothing has changed.
    ///
    /// # Panics
    /// If there are fewer bytes, or the cut is in a shared buffer.
    pub fn split_to(&mut self, count: usize) -> Option<Chain> {
        assert!(count <= self.len(), "more bytes split off than there are");
        let (mut whole, mut leases, mut last, mut next) = (0, 0, NONE, self.first);
        while next != NONE {
            let link = self.link(next);
            let len = (link.end - link.start) as usize;
            if whole + len > count {
                break;
            }
            (whole, leases, last, next) = (whole + len, leases + 1, next, link.next);
        }
        let cut = count - whole;
        let part = if cut == 0 { None } else { Some(self.cut(next, cut)?) };
        let mut front = Chain::new(&self.pool);
        if leases > 0 {
            (front.first, front.last) = (self.first, last);
            (front.leases, front.len) = (leases, whole as u32);
            self.set_next(last, NONE);
        }
        self.first = next;
        self.leases -= leases;
        self.len -= whole as u32;
        if self.leases == 0 {
            self.last = NONE;
        }
        if let Some(part) = part {
            self.swap_front(part, &mut front);
        }
        Some(front)
    }

    /// A lease with a copy of the shorter part of a buffer of this chain, which is cut at `at`.
    fn cut(&self, id: u32, at: usize) -> Option<(Lease, usize, bool)> {
        assert!(!self.pool.local().is_reference(id), "a shared buffer cannot be cut");
        let bytes = self.slice(id);
        let head_is_shorter = at <= bytes.len() / 2;
        let mut lease = self.pool.lease()?;
        let part = if head_is_shorter { &bytes[..at] } else { &bytes[at..] };
        let copied = lease.extend_from_slice(part);
        debug_assert_eq!(copied, part.len());
        Some((lease, at, head_is_shorter))
    }

    /// Puts the two parts of this chain's first buffer where they belong, one of them copied.
    fn swap_front(&mut self, (copy, at, copy_is_head): (Lease, usize, bool), front: &mut Chain) {
        if copy_is_head {
            self.consume(at);
            front.push_back(copy);
            return;
        }
        let (id, link) = self.unlink_front();
        let end = link.start + at as u32;
        front.push_back(Lease::with_data(self.pool.clone(), id, link.start, end));
        let mut rest = Chain::from(copy);
        rest.append(self);
        *self = rest;
    }

    /// Copies the first bytes into `into`, as many as there are and as have room. Answers how many.
    #[inline]
    pub fn peek(&self, into: &mut [u8]) -> usize {
        let mut copied = 0;
        for slice in self.slices() {
            if copied == into.len() {
                break;
            }
            let count = slice.len().min(into.len() - copied);
            into[copied..copied + count].copy_from_slice(&slice[..count]);
            copied += count;
        }
        copied
    }

    /// The data of the first lease.
    ///
    /// # Panics
    /// If the chain is empty.
    #[inline]
    pub fn first_slice(&self) -> &[u8] {
        assert!(self.leases > 0, "a chain without leases");
        self.slice(self.first)
    }

    /// The data, one slice for each lease, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut next = self.first;
        std::iter::from_fn(move || {
            if next == NONE {
                return None;
            }
            let slice = self.slice(next);
            next = self.link(next).next;
            Some(slice)
        })
    }

    #[allow(unsafe_code)]
    #[inline]
    fn slice(&self, id: u32) -> &[u8] {
        let link = self.link(id);
        // SAFETY: the chain owns the numbers of its buffers, or has a reference to them; the result
        // borrows the chain, so nothing can write to an own one, and a shared one is only ever
        // written to behind the data that it has.
        unsafe { self.pool.local().range(link.buffer, link.start, link.end) }
    }

    #[inline]
    fn link(&self, id: u32) -> Link {
        self.pool.local().links[id as usize].get()
    }

    fn set_next(&self, id: u32, next: u32) {
        let link = &self.pool.local().links[id as usize];
        link.set(Link { next, ..link.get() });
    }
}

/// Takes a lease apart without giving its buffer back.
#[allow(unsafe_code)]
#[inline]
pub(super) fn dissolve(lease: Lease) -> (Pool, u32, Link) {
    let lease = mem::ManuallyDrop::new(lease);
    // SAFETY: the lease is neither used nor dropped after this, so there is one handle as before.
    let pool = unsafe { std::ptr::read(&lease.pool) };
    (pool, lease.id, Link { start: lease.start, end: lease.end, next: NONE, buffer: lease.id })
}

/// A chain of one lease, or an empty one if the lease has no data.
impl From<Lease> for Chain {
    #[inline]
    fn from(lease: Lease) -> Chain {
        if lease.is_empty() {
            return Chain::new(&lease.pool);
        }
        let (pool, id, link) = dissolve(lease);
        pool.local().links[id as usize].set(link);
        Chain { pool, first: id, last: id, leases: 1, len: link.end - link.start }
    }
}

impl Drop for Chain {
    #[inline(always)]
    fn drop(&mut self) {
        if self.leases > 0 {
            self.clear();
        }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({} bytes in {} leases)", self.len, self.leases)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::Reserve;
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 8;

    fn pool(count: u32) -> Pool {
        Pool::new(Reserve::new(SIZE, count).unwrap(), 0)
    }

    fn lease_of(pool: &Pool, bytes: &[u8]) -> Lease {
        let mut lease = pool.lease().unwrap();
        assert_eq!(lease.extend_from_slice(bytes), bytes.len());
        lease
    }

    fn bytes_of(chain: &Chain) -> Vec<u8> {
        chain.slices().flatten().copied().collect()
    }

    #[test]
    fn bytes_are_copied_behind_the_last_lease_if_there_is_room() {
        let pool = pool(1);
        let mut chain = Chain::new(&pool);
        assert!(!chain.extend_last(b"x"));
        let mut lease = pool.lease().unwrap();
        lease.extend_from_slice(b"abcde");
        chain.push_back(lease);
        assert!(!chain.extend_last(b"four") && chain.extend_last(b"fgh"));
        assert_eq!((chain.first_slice(), chain.len()), (&b"abcdefgh"[..], 8));
    }

    #[test]
    fn a_new_lease_is_empty_whatever_the_buffer_held_before() {
        let pool = pool(1);
        drop(lease_of(&pool, b"secret"));
        let lease = pool.lease().unwrap();
        assert!(lease.is_empty());
        assert_eq!(lease.filled(), b"");
    }

    #[test]
    fn the_room_of_a_lease_does_not_shrink_from_use_to_use() {
        let pool = pool(1);
        for _ in 0..3 {
            let mut lease = lease_of(&pool, b"ab");
            lease.consume(1);
            assert_eq!(lease.filled(), b"b");
            assert_eq!(lease.spare_mut().len(), SIZE - 2);
        }
        assert_eq!(pool.lease().unwrap().spare_mut().len(), SIZE);
    }

    #[test]
    fn a_chain_gives_its_buffers_back_when_dropped() {
        let pool = pool(3);
        let mut chain = Chain::new(&pool);
        chain.push_back(lease_of(&pool, b"one"));
        chain.push_back(lease_of(&pool, b"two"));
        chain.push_back(pool.lease().unwrap());
        assert_eq!(
            (chain.leases(), chain.len(), pool.held()),
            (2, 6, 2),
            "an empty lease is no part of a chain"
        );
        drop(chain);
        assert_eq!(pool.held(), 0);
    }

    #[test]
    fn absorbing_single_bytes_fills_buffers_instead_of_holding_one_for_each() {
        let pool = pool(4);
        let mut chain = Chain::new(&pool);
        for byte in 0..21u8 {
            let mut arrived = Chain::new(&pool);
            let mut lease = lease_of(&pool, &[0xFF, byte]);
            lease.consume(1);
            arrived.push_back(lease);
            chain.absorb(&mut arrived);
        }
        assert_eq!(bytes_of(&chain), (0..21).collect::<Vec<_>>());
        assert_eq!(chain.leases(), 3, "full but for the first byte");
    }

    proptest! {
        #[test]
        fn splitting_keeps_all_bytes_in_order(
            lengths in proptest::collection::vec(1..=SIZE, 1..6), consumed in 0..SIZE, at in 0..=5 * SIZE,
        ) {
            let pool = pool(12);
            let mut chain = Chain::new(&pool);
            let all: Vec<u8> = (0..lengths.iter().sum::<usize>() as u8).collect();
            let mut rest = all.as_slice();
            for &length in &lengths {
                let (bytes, more) = rest.split_at(length);
                chain.push_back(lease_of(&pool, bytes));
                rest = more;
            }
            let consumed = consumed.min(all.len());
            chain.consume(consumed);
            let all = &all[consumed..];
            let at = at.min(all.len());
            let mut front = chain.split_to(at).unwrap();
            prop_assert_eq!((front.len(), chain.len()), (at, all.len() - at));
            prop_assert_eq!(bytes_of(&front), &all[..at]);
            prop_assert_eq!(bytes_of(&chain), &all[at..]);
            // Both are whole: more can be put behind, and everything goes back.
            front.push_back(lease_of(&pool, b"f"));
            chain.push_back(lease_of(&pool, b"c"));
            prop_assert_eq!(*bytes_of(&front).last().unwrap(), b'f');
            front.append(&mut chain);
            let joined: Vec<u8> = [&all[..at], b"f", &all[at..], b"c"].concat();
            prop_assert_eq!(bytes_of(&front), joined);
            drop((front, chain));
            prop_assert_eq!(pool.held(), 0);
        }
    }

    #[test]
    fn splitting_a_buffer_needs_a_lease_and_changes_nothing_without_one() {
        let pool = pool(2);
        let mut chain = Chain::from(lease_of(&pool, b"one"));
        chain.push_back(lease_of(&pool, b"two"));
        assert!(chain.split_to(4).is_none());
        assert_eq!(bytes_of(&chain), b"onetwo");
        assert_eq!(bytes_of(&chain.split_to(3).unwrap()), b"one", "between two it needs none");
    }

    #[test]
    fn peeking_copies_across_buffers_and_takes_nothing() {
        let pool = pool(2);
        let mut chain = Chain::from(lease_of(&pool, b"abc"));
        chain.push_back(lease_of(&pool, b"defg"));
        let mut header = [0; 5];
        assert_eq!((chain.peek(&mut header), &header), (5, b"abcde"));
        assert_eq!(chain.peek(&mut [0; 9]), 7);
        assert_eq!(chain.len(), 7);
    }

    #[test]
    fn data_can_be_changed_in_place() {
        let pool = pool(1);
        let mut lease = lease_of(&pool, b"abcd");
        lease.consume(1);
        lease.filled_mut().make_ascii_uppercase();
        assert_eq!(lease.filled(), b"BCD");
    }

    /// In tests only, where it shows bytes that are read after their buffer was given back.
    #[test]
    fn what_was_in_a_buffer_is_overwritten_when_it_is_given_back() {
        let pool = pool(1);
        drop(lease_of(&pool, b"secret"));
        assert_eq!(pool.lease().unwrap().spare_mut()[..6], [0xDB; 6]);
        let mut chain = Chain::from(lease_of(&pool, b"secret"));
        chain.consume(6);
        assert_eq!(pool.lease().unwrap().spare_mut()[..6], [0xDB; 6]);
    }

    #[test]
    fn a_lease_with_data_is_a_chain_of_one() {
        let pool = pool(2);
        let mut lease = lease_of(&pool, b"abcd");
        lease.consume(1);
        let mut chain = Chain::from(lease);
        assert_eq!((chain.leases(), chain.len(), chain.first_slice()), (1, 3, &b"bcd"[..]));
        chain.push_back(lease_of(&pool, b"e"));
        assert_eq!(bytes_of(&chain), b"bcde");
        drop(chain);
        assert!(Chain::from(pool.lease().unwrap()).is_empty(), "no data, no chain");
        assert_eq!(pool.held(), 0);
    }

    #[test]
    #[should_panic(expected = "a lease of another pool")]
    fn a_lease_of_another_pool_is_refused() {
        let (one, other) = (pool(1), pool(1));
        Chain::new(&one).push_back(lease_of(&other, b"a"));
    }

    /// It would be in a log.
    #[test]
    fn debug_output_tells_the_range_and_not_the_data() {
        let pool = pool(2);
        drop(pool.lease());
        let (_first, lease) = (pool.lease(), lease_of(&pool, b"secret"));
        assert_eq!(format!("{lease:?}"), "Lease(1, 0..6)");
        assert_eq!(format!("{:?}", Chain::from(lease)), "Chain(6 bytes in 1 leases)");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(Vec<u8>),
        Pop,
        Consume(usize),
        Append(Vec<Vec<u8>>),
        Absorb(Vec<Vec<u8>>),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..=SIZE);
        let several = move || prop::collection::vec(bytes(), 0..3);
        prop_oneof![
            bytes().prop_map(Step::Push),
            Just(Step::Pop),
            (0usize..20).prop_map(Step::Consume),
            several().prop_map(Step::Append),
            several().prop_map(Step::Absorb),
            Just(Step::Take),
        ]
    }

    proptest! {
        /// A chain is a queue of bytes: whatever is done to it, it agrees with a plain vector, and
        /// no buffer is lost.
        #[test]
        fn a_chain_is_a_queue_of_bytes(steps in prop::collection::vec(step(), 0..60)) {
            let pool = pool(400);
            let mut chain = Chain::new(&pool);
            let mut model = Vec::new();
            let chain_of = |parts: &[Vec<u8>]| {
                let mut chain = Chain::new(&pool);
                parts.iter().for_each(|part| chain.push_back(lease_of(&pool, part)));
                chain
            };
            for step in steps {
                match step {
                    Step::Push(bytes) => {
                        chain.push_back(lease_of(&pool, &bytes));
                        model.extend(bytes);
                    }
                    Step::Pop => {
                        let front = chain.pop_front();
                        let count = front.as_ref().map_or(0, Lease::len);
                        let expected: Vec<u8> = model.drain(..count).collect();
                        prop_assert_eq!(front.as_ref().map_or(&[][..], |lease| lease.filled()), &expected[..]);
                    }
                    Step::Consume(count) => {
                        let count = count.min(chain.len());
                        chain.consume(count);
                        model.drain(..count);
                    }
                    Step::Append(parts) => {
                        chain.append(&mut chain_of(&parts));
                        model.extend(parts.concat());
                    }
                    Step::Absorb(parts) => {
                        chain.absorb(&mut chain_of(&parts));
                        model.extend(parts.concat());
                    }
                    Step::Take => {
                        prop_assert_eq!(bytes_of(&chain.take()), &model[..]);
                        model.clear();
                    }
                }
                prop_assert_eq!(bytes_of(&chain), &model[..]);
                prop_assert_eq!((chain.len(), chain.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(chain.slices().all(|slice| !slice.is_empty()), "a lease without data");
                if !chain.is_empty() {
                    prop_assert_eq!(Some(chain.first_slice()), chain.slices().next());
                }
                prop_assert_eq!(pool.held(), chain.leases());
            }
        }
    }
}
