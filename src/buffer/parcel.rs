//! A buffer in transit from one thread to another. A lease belongs to one worker's pool. A parcel
//! belongs to none, and becomes a lease again on the thread where it arrives.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use super::lease::Lease;
use super::pool::{Pool, Reserve};

/// One buffer and the range of it that holds data. Returns to the reserve when dropped.
pub struct Parcel {
    reserve: Arc<Reserve>,
    id: u32,
    start: u32,
    end: u32,
}

impl Parcel {
    pub(super) fn depart(reserve: Arc<Reserve>, id: u32, start: u32, end: u32) -> Parcel {
        reserve.count_travelling(1);
        Parcel { reserve, id, start, end }
    }

    /// Converts the parcel into a lease of the worker that it has arrived at.
    ///
    /// # Panics
    /// If it is from another server's buffers.
    #[allow(unsafe_code)]
    pub(crate) fn into_lease(self, pool: &Pool) -> Lease {
        assert!(Arc::ptr_eq(&self.reserve, pool.reserve()), "a parcel of other buffers");
        let parcel = ManuallyDrop::new(self);
        // SAFETY: the parcel is neither used nor dropped after this, so no handle is duplicated.
        let reserve = unsafe { std::ptr::read(&parcel.reserve) };
        reserve.count_travelling(-1);
        pool.local().arrive();
        Lease::with_data(pool.clone(), parcel.id, parcel.start, parcel.end)
    }

    /// Appends as much of `bytes` as there is room for. Returns the number of bytes appended.
    #[allow(unsafe_code)]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> usize {
        let at = self.end as usize;
        let count = bytes.len().min(self.reserve.arena.buffer_size() - at);
        // SAFETY: the parcel owns the number of its buffer, and is borrowed exclusively.
        unsafe { self.reserve.arena.write(self.id, at, &bytes[..count]) };
        self.end += count as u32;
        count
    }

    /// The data.
    #[allow(unsafe_code)]
    pub fn filled(&self) -> &[u8] {
        // SAFETY: the parcel owns the number of its buffer; the result borrows it.
        unsafe { self.reserve.arena.range(self.id, self.start as usize..self.end as usize) }
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.reserve.count_travelling(-1);
        self.reserve.put(self.id);
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parcel({}, {}..{})", self.id, self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 8;

    #[test]
    fn a_buffer_goes_from_one_workers_pool_to_anothers() {
        let reserve = Reserve::new(SIZE, 1).unwrap();
        let (from, to) = (Pool::new(reserve.clone(), 0), Pool::new(reserve.clone(), 1));
        let mut lease = from.lease().unwrap();
        lease.extend_from_slice(b"xhello");
        lease.consume(1);
        let parcel = lease.into_parcel();
        assert_eq!((from.held(), reserve.travelling(), to.held()), (0, 1, 0));
        assert_eq!(parcel.filled(), b"hello");
        let lease = std::thread::scope(|scope| scope.spawn(|| parcel).join().unwrap());
        let lease = lease.into_lease(&to);
        assert_eq!((lease.filled(), reserve.travelling(), to.held()), (&b"hello"[..], 0, 1));
        drop(lease);
        assert_eq!((to.held(), to.available()), (0, 1));
    }

    #[test]
    fn a_thread_without_a_pool_takes_from_the_reserve_and_a_lost_parcel_goes_back_there() {
        let reserve = Reserve::new(SIZE, 1).unwrap();
        let mut parcel = reserve.parcel().unwrap();
        assert!(reserve.parcel().is_none());
        assert_eq!(parcel.extend_from_slice(&[1; 3]), 3);
        assert_eq!(parcel.extend_from_slice(&[1; SIZE]), SIZE - 3);
        assert_eq!(parcel.filled(), [1; SIZE]);
        drop(parcel);
        assert_eq!((reserve.available(), reserve.travelling()), (1, 0));
    }
}
