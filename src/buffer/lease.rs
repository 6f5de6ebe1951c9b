//! The right to use one buffer, with the range of it that is filled. A lease cannot be cloned, and
//! returns its buffer when dropped, on every path. Several leases in a row are a
//! [`Chain`](super::Chain), in `chain`.
//!
//! A lease starts empty and shows only the bytes that were put into it. The bytes that an earlier
//! client left in the buffer are not part of its data. There is one exception, for writing in
//! place: [`Lease::spare_mut`] shows the rest of the buffer as it is, and [`Lease::commit`] turns
//! it into data without a check. A caller that commits more than it has written reads, and may
//! send, bytes of an earlier client. The other methods of leases, chains and shared buffers never
//! show such bytes.

use std::fmt;
use std::mem;

use super::parcel::Parcel;
use super::pool::{ChainLink, NONE, Pool};

/// One buffer of a worker's pool and the range of it that holds data.
pub struct Lease {
    pub(super) pool: Pool,
    id: u32,
    start: u32,
    end: u32,
}

impl Lease {
    pub(super) fn new(pool: Pool, id: u32) -> Lease {
        Lease { pool, id, start: 0, end: 0 }
    }

    /// A lease of a buffer that already holds data.
    #[inline]
    pub(super) fn with_data(pool: Pool, id: u32, start: u32, end: u32) -> Lease {
        Lease { pool, id, start, end }
    }

    /// Converts the lease into a parcel, which can be sent to another worker.
    pub fn into_parcel(self) -> Parcel {
        let (pool, id, link) = dissolve(self);
        pool.local().depart();
        Parcel::depart(pool.reserve().clone(), id, link.start, link.end)
    }

    /// The number of the buffer in its arena.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The number of bytes of data.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// The number of bytes that can be appended to the data.
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

    /// The data, for changing in place.
    #[inline]
    pub fn filled_mut(&mut self) -> &mut [u8] {
        let (start, end) = (self.start as usize, self.end as usize);
        &mut self.bytes_mut()[start..end]
    }

    /// The free space after the data, for writing. [`commit`](Lease::commit) turns it into data. It
    /// still contains what earlier clients left there, which must not be read or committed: write
    /// every byte before committing it. [`extend_from_slice`](Lease::extend_from_slice) does both.
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let end = self.end as usize;
        &mut self.bytes_mut()[end..]
    }

    /// Appends the first `count` bytes of the spare room to the data. Each of them must have been
    /// written through [`spare_mut`](Lease::spare_mut): the others are those of an earlier client.
    ///
    /// # Panics
    /// If there is less room than `count` bytes.
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
    /// If there are fewer than `count` bytes.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "more bytes consumed than there are");
        self.start += count as u32;
    }

    /// Appends as much of `bytes` as there is room for. Returns the number of bytes appended.
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
        // SAFETY: a lease owns its number: it cannot be cloned, and the number is in no free list
        // while the lease lives. The result borrows the lease, so nothing can write while it is in
        // use.
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
        // In tests, data that a client left behind is overwritten, so that a read of it is noticed.
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

/// Takes a lease apart without returning its buffer.
#[allow(unsafe_code)]
#[inline]
pub(super) fn dissolve(lease: Lease) -> (Pool, u32, ChainLink) {
    let lease = mem::ManuallyDrop::new(lease);
    // SAFETY: the lease is neither used nor dropped after this, so the number of handles is
    // unchanged.
    let pool = unsafe { std::ptr::read(&lease.pool) };
    (pool, lease.id, ChainLink { start: lease.start, end: lease.end, next: NONE, buffer: lease.id })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::pool::Reserve;
    use super::*;

    pub(in crate::buffer) const SIZE: usize = 8;

    pub(in crate::buffer) fn pool(count: u32) -> Pool {
        Pool::new(Reserve::new(SIZE, count).unwrap(), 0)
    }

    pub(in crate::buffer) fn lease_of(pool: &Pool, bytes: &[u8]) -> Lease {
        let mut lease = pool.lease().unwrap();
        assert_eq!(lease.extend_from_slice(bytes), bytes.len());
        lease
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
            assert_eq!((lease.room(), lease.spare_mut().len()), (SIZE - 2, SIZE - 2));
        }
        assert_eq!(pool.lease().unwrap().spare_mut().len(), SIZE);
    }

    #[test]
    fn data_can_be_changed_in_place() {
        let pool = pool(1);
        let mut lease = lease_of(&pool, b"abcd");
        lease.consume(1);
        lease.filled_mut().make_ascii_uppercase();
        assert_eq!(lease.filled(), b"BCD");
    }
}
