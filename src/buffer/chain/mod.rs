//! Leases and references in a row, as one queue of bytes. Like a [`Lease`], a chain cannot be
//! cloned, and returns its buffers when dropped, on every path. `lease` describes what the owner of
//! one buffer may do, and `shared_buffer` a buffer that is in several chains.

use std::fmt;
use std::mem;

use super::lease::{Lease, dissolve};
use super::pool::{ChainLink, NONE, Pool};
use super::shared_buffer::Shared;

/// Leases in a row: a first-in, first-out queue of bytes, of any length that the pool has room for.
///
/// The links between the buffers are stored beside the arena. So a chain has the same small size at
/// any length, and appending to it allocates nothing.
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

    /// The number of bytes of data.
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

    /// Appends a lease. A lease without data returns to the pool instead.
    ///
    /// # Panics
    /// If the lease is from another worker's pool, or the chain would exceed 4 GiB.
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

    /// Appends a part of a shared buffer without copying it. Returns false if no reference is free.
    ///
    /// # Panics
    /// If the buffer is of another pool, or its data does not include `range`.
    pub fn push_shared(&mut self, shared: &Shared, range: std::ops::Range<usize>) -> bool {
        assert!(self.pool.is(shared.pool()), "a buffer of another pool");
        let data = shared.range();
        let is_data = data.start <= range.start && range.start < range.end && range.end <= data.end;
        assert!(is_data, "no data there");
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

    /// Extends the last reference if it ends where the new part begins. So messages that follow
    /// each other in a buffer are one range, and one slice for the kernel.
    fn extend_reference(&mut self, buffer: u32, start: u32, end: u32) -> bool {
        if self.leases == 0 || !self.pool.local().is_reference(self.last) {
            return false;
        }
        let last = self.link(self.last);
        let follows = last.buffer == buffer && last.end == start;
        if follows {
            self.pool.local().links[self.last as usize].set(ChainLink { end, ..last });
        }
        follows
    }

    /// Removes the first lease and returns it.
    ///
    /// # Panics
    /// If it is a part of a shared buffer, which has no lease.
    #[inline]
    pub fn pop_front(&mut self) -> Option<Lease> {
        if self.leases == 0 {
            return None;
        }
        assert!(!self.pool.local().is_reference(self.first), "a shared buffer is nobody's lease");
        let (id, link) = self.unlink_front();
        Some(Lease::with_data(self.pool.clone(), id, link.start, link.end))
    }

    /// Removes the first lease and returns it. Returns `None` if there is none or if it is a part
    /// of a shared buffer.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn pop_own(&mut self) -> Option<Lease> {
        if self.leases > 0 && self.pool.local().is_reference(self.first) {
            return None;
        }
        self.pop_front()
    }

    /// Returns the first buffer to the pool.
    #[inline]
    fn drop_front(&mut self) {
        let (id, link) = self.unlink_front();
        if cfg!(debug_assertions) || self.pool.local().is_reference(id) {
            self.drop_link(id, link);
        } else {
            self.pool.local().give_back(id);
        }
    }

    /// Returns the only buffer to the pool, without reading its link.
    #[inline(always)]
    fn drop_only(&mut self) {
        if cfg!(debug_assertions) || self.pool.local().is_reference(self.first) {
            return self.drop_front();
        }
        self.pool.local().give_back(self.first);
        self.forget();
    }

    #[cold]
    fn drop_link(&self, id: u32, link: ChainLink) {
        match self.pool.local().is_reference(id) {
            true => self.pool.local().end_reference(id),
            // In tests, dropping a lease overwrites its buffer.
            false => drop(Lease::with_data(self.pool.clone(), id, link.start, link.end)),
        }
    }

    #[inline]
    fn unlink_front(&mut self) -> (u32, ChainLink) {
        let id = self.first;
        let link = self.link(id);
        self.first = link.next;
        self.leases -= 1;
        self.len -= link.end - link.start;
        debug_assert!(self.leases > 0 || (self.first, self.len) == (NONE, 0));
        (id, link)
    }

    /// Moves all of `other` to the end of this chain, in constant time.
    ///
    /// # Panics
    /// If the other chain is of another pool, or this one would exceed 4 GiB.
    #[inline]
    pub fn append(&mut self, other: &mut Chain) {
        assert!(self.pool.is(&other.pool), "a chain of another pool");
        if self.leases == 0 {
            (self.first, self.last) = (other.first, other.last);
            (self.leases, self.len) = (other.leases, other.len);
        } else if other.leases > 0 {
            self.len = self.len.checked_add(other.len).expect("a chain of less than 4 GiB");
            self.set_next(self.last, other.first);
            self.last = other.last;
            self.leases += other.leases;
        }
        other.forget();
    }

    /// Makes the chain empty without returning its buffers, which have been moved elsewhere.
    #[inline]
    fn forget(&mut self) {
        (self.first, self.last, self.leases, self.len) = (NONE, NONE, 0, 0);
    }

    /// Like [`append`](Chain::append), but copies bytes that fit into the last buffer of this
    /// chain, so that a client that sends one byte at a time does not hold a buffer for each. A
    /// buffer that was shared counts as well, once this chain is all that refers to it.
    #[inline]
    pub fn absorb(&mut self, other: &mut Chain) {
        match self.leases {
            0 => self.append(other),
            _ => self.absorb_behind(other),
        }
    }

    #[cold]
    fn absorb_behind(&mut self, other: &mut Chain) {
        self.own_only_reference();
        if let Some(count) = other.first_len() {
            self.make_room_behind(count);
        }
        while other.leases > 0 && !self.pool.local().is_reference(self.last) {
            let (mine, theirs) = (self.link(self.last), other.link(other.first));
            let count = (theirs.end - theirs.start) as usize;
            if count > self.pool.buffer_size() - mine.end as usize {
                break;
            }
            let lease = other.pop_front().expect("it has a lease");
            self.copy_behind_last(lease.filled());
        }
        self.append(other);
    }

    /// If the chain is one reference, and nothing else refers to its buffer any more, then the
    /// chain owns the buffer from now on, and can use the free space after the data.
    fn own_only_reference(&mut self) {
        if self.leases == 1
            && let Some(id) = self.pool.local().own_reference(self.first)
        {
            (self.first, self.last) = (id, id);
        }
    }

    /// Moves the data of a chain of one lease to the beginning of its buffer if that makes room for
    /// `count` more bytes. Only data that fills at most half of the buffer is moved, so that moving
    /// costs no more than receiving what made it necessary.
    fn make_room_behind(&mut self, count: usize) {
        let len = self.len();
        let size = self.pool.buffer_size();
        let fits = self.leases == 1 && len <= size / 2 && len + count <= size;
        if fits && self.room_behind() < count && !self.pool.local().is_reference(self.first) {
            self.move_to_beginning();
        }
    }

    #[allow(unsafe_code)]
    fn move_to_beginning(&mut self) {
        let ChainLink { start, end, .. } = self.link(self.first);
        // SAFETY: the chain owns the numbers of its buffers, and is borrowed exclusively.
        let buffer = unsafe { self.pool.local().bytes_mut(self.first) };
        buffer.copy_within(start as usize..end as usize, 0);
        let link = ChainLink { start: 0, end: end - start, ..self.link(self.first) };
        self.pool.local().links[self.first as usize].set(link);
    }

    /// The number of bytes in the first lease.
    fn first_len(&self) -> Option<usize> {
        (self.leases > 0).then(|| self.first_slice().len())
    }

    /// Appends `bytes` to the data of the last lease. Returns false if there is no room, no
    /// lease, or if it is shared.
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

    /// The most bytes that [`extend_last`](Chain::extend_last) can append.
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
        // is not part of this buffer.
        let buffer = unsafe { self.pool.local().bytes_mut(self.last) };
        buffer[link.end as usize..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u32;
        self.pool.local().links[self.last as usize]
            .set(ChainLink { end: link.end + bytes.len() as u32, ..link });
    }

    #[cold]
    fn clear(&mut self) {
        while self.leases > 0 {
            self.drop_front();
        }
    }

    /// Takes all of the chain, leaving it empty.
    #[inline]
    pub fn take(&mut self) -> Chain {
        mem::replace(self, Chain::new(&self.pool))
    }

    /// Drops the first `count` bytes. Buffers that become empty return to the pool.
    ///
    /// # Panics
    /// If there are fewer than `count` bytes.
    #[inline(always)]
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "more bytes consumed than there are");
        if count == self.len() && self.leases == 1 {
            return self.drop_only();
        }
        self.consume_part(count);
    }

    #[inline(never)]
    fn consume_part(&mut self, count: usize) {
        let mut left = count as u32;
        while left > 0 {
            let link = self.link(self.first);
            let here = link.end - link.start;
            if left < here {
                self.pool.local().links[self.first as usize]
                    .set(ChainLink { start: link.start + left, ..link });
                self.len -= left;
                return;
            }
            left -= here;
            self.drop_front();
        }
    }

    /// Removes the first `count` bytes and returns them as a chain. If the cut is inside a buffer,
    /// the shorter part is copied into another buffer. Returns `None`, and changes nothing, if that
    /// takes a buffer and none is free.
    ///
    /// # Panics
    /// If there are fewer than `count` bytes, or the cut is inside a shared buffer.
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

    /// A lease with a copy of the shorter part of a buffer of this chain, cut at `at`.
    fn cut(&self, id: u32, at: usize) -> Option<(Lease, usize, bool)> {
        assert!(!self.pool.local().is_reference(id), "a shared buffer cannot be cut");
        let bytes = self.slice(id);
        let head_is_shorter = at <= bytes.len() / 2;
        let mut lease = self.pool.lease_and_count()?;
        let part = if head_is_shorter { &bytes[..at] } else { &bytes[at..] };
        let copied = lease.extend_from_slice(part);
        debug_assert_eq!(copied, part.len());
        Some((lease, at, head_is_shorter))
    }

    /// Puts the two parts of this chain's first buffer in place, one of them copied.
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

    /// Copies bytes from the front into `into`, until one of them ends. Returns how many.
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

    /// A copy of all bytes, for what takes them in one piece. It allocates, so a service that must
    /// not uses [`slices`](Chain::slices) or [`peek`](Chain::peek).
    ///
    /// ```
    /// # use echopool::service::{Answer, Connection, Service};
    /// # fn data(connection: &mut Connection<'_>) -> Answer {
    /// let text = String::from_utf8_lossy(&connection.input.to_vec()).into_owned();
    /// # Answer::Continue
    /// # }
    /// ```
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        self.slices().for_each(|slice| bytes.extend_from_slice(slice));
        bytes
    }

    /// Copies the bytes at this offset into `into`. Returns false, with `into` unspecified, if the
    /// chain ends before that many.
    #[inline]
    pub fn read_at(&self, mut offset: usize, into: &mut [u8]) -> bool {
        let mut copied = 0;
        for slice in self.slices() {
            if copied == into.len() {
                break;
            }
            let here = slice.get(offset..).unwrap_or_default();
            offset = offset.saturating_sub(slice.len());
            let count = here.len().min(into.len() - copied);
            into[copied..copied + count].copy_from_slice(&here[..count]);
            copied += count;
        }
        copied == into.len()
    }

    /// Overwrites the bytes at this offset.
    ///
    /// # Panics
    /// If the chain ends before that many, or one of them is in a shared buffer.
    #[allow(unsafe_code)]
    pub fn write_at(&mut self, mut offset: usize, mut bytes: &[u8]) {
        let mut next = self.first;
        while !bytes.is_empty() {
            assert!(next != NONE, "more bytes written than there are");
            let (id, link) = (next, self.link(next));
            next = link.next;
            let len = (link.end - link.start) as usize;
            if offset >= len {
                offset -= len;
                continue;
            }
            assert!(!self.pool.local().is_reference(id), "a shared buffer is not written to");
            let (here, rest) = bytes.split_at(bytes.len().min(len - offset));
            // SAFETY: the chain owns the numbers of its buffers, and is borrowed exclusively;
            // `bytes` is not part of this buffer.
            let buffer = unsafe { self.pool.local().bytes_mut(id) };
            buffer[link.start as usize + offset..][..here.len()].copy_from_slice(here);
            (bytes, offset) = (rest, 0);
        }
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
        // SAFETY: the chain owns the numbers of its buffers, or has a reference to them. The result
        // borrows the chain, so nothing can write to a buffer that it owns, and a shared one is
        // only written behind the data that it has.
        unsafe { self.pool.local().range(link.buffer, link.start, link.end) }
    }

    #[inline]
    fn link(&self, id: u32) -> ChainLink {
        self.pool.local().links[id as usize].get()
    }

    fn set_next(&self, id: u32, next: u32) {
        let link = &self.pool.local().links[id as usize];
        link.set(ChainLink { next, ..link.get() });
    }
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
mod tests;
