//! A buffer that is written once and sent to many. Parts of a [`Shared`] buffer may be in any
//! number of chains at once, each with its own range. The buffer returns to the pool with the last
//! of them.
//!
//! It grows only at its end: bytes that a chain refers to never change.

use std::fmt;

use super::lease::{Lease, dissolve};
use super::pool::Pool;

/// A handle of a shared buffer. It can append data, and its parts can be put into chains with
/// [`Chain::push_shared`](super::Chain::push_shared).
pub struct Shared {
    pool: Pool,
    id: u32,
    start: u32,
    end: u32,
}

impl Shared {
    /// The number of bytes that can still be appended.
    pub fn room(&self) -> usize {
        self.pool.buffer_size() - self.end as usize
    }

    /// Appends data. Returns its range in the buffer, or `None` if there is no room for all of it.
    #[allow(unsafe_code)]
    pub fn append(&mut self, bytes: &[u8]) -> Option<std::ops::Range<usize>> {
        if bytes.len() > self.room() {
            return None;
        }
        let start = self.end as usize;
        // SAFETY: only this handle writes to the buffer, and it cannot be cloned. Bytes behind
        // `end` are in no chain, and `filled` does not include them.
        unsafe { self.pool.local().reserve().arena.write(self.id, start, bytes) };
        self.end += bytes.len() as u32;
        Some(start..self.end as usize)
    }

    /// All data in the buffer.
    #[allow(unsafe_code)]
    pub fn filled(&self) -> &[u8] {
        // SAFETY: `append` writes behind `end` only.
        unsafe { self.pool.local().range(self.id, self.start, self.end) }
    }

    /// Whether no chain refers to it, so that dropping it returns the buffer.
    pub fn is_alone(&self) -> bool {
        self.pool.local().shares[self.id as usize].get() == 1
    }

    /// The range of its data in the buffer.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }
}

/// Shares the buffer of a lease.
///
/// # Panics
/// If the pool was made without references.
impl From<Lease> for Shared {
    fn from(lease: Lease) -> Shared {
        // Before the lease is taken apart, so that a panic returns its buffer.
        assert!(lease.pool.has_references(), "a pool without references");
        let (pool, id, link) = dissolve(lease);
        pool.local().shares[id as usize].set(1);
        Shared { pool, id, start: link.start, end: link.end }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.pool.local().end_share(self.id);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({}, {}..{})", self.id, self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::{Chain, Reserve};
    use super::*;

    const SIZE: usize = 16;

    fn pool(buffers: u32, references: usize) -> Pool {
        Pool::with_references(Reserve::new(SIZE, buffers).unwrap(), 0, references)
    }

    fn shared(pool: &Pool) -> Shared {
        Shared::from(pool.lease().unwrap())
    }

    fn bytes_of(chain: &Chain) -> Vec<u8> {
        chain.slices().flatten().copied().collect()
    }

    #[test]
    fn one_buffer_stands_in_many_chains_and_goes_back_with_the_last() {
        let pool = pool(2, 3);
        let mut log = shared(&pool);
        let message = log.append(b"hello").unwrap();
        let mut chains: Vec<Chain> = (0..3).map(|_| Chain::new(&pool)).collect();
        for chain in &mut chains {
            assert!(chain.push_shared(&log, message.clone()));
        }
        drop(log);
        assert_eq!(pool.held(), 1, "one buffer for all of them");
        chains[0].consume(2);
        assert_eq!(bytes_of(&chains[0]), b"llo");
        assert_eq!(bytes_of(&chains[1]), b"hello", "each has a range of its own");
        for chain in &mut chains {
            assert_eq!(pool.held(), 1);
            chain.consume(chain.len());
        }
        assert_eq!((pool.held(), pool.available()), (0, 2));
    }

    #[test]
    fn a_handle_is_alone_until_a_chain_refers_to_its_buffer_and_after_the_last() {
        let pool = pool(1, 2);
        let mut log = shared(&pool);
        let message = log.append(b"hello").unwrap();
        assert!(log.is_alone());
        let (mut one, mut other) = (Chain::new(&pool), Chain::new(&pool));
        for chain in [&mut one, &mut other] {
            assert!(chain.push_shared(&log, message.clone()) && !log.is_alone());
        }
        assert_eq!(pool.references_in_use(), 2);
        drop(one);
        assert!(!log.is_alone());
        drop(other);
        assert!(log.is_alone());
        assert_eq!(pool.references_in_use(), 0);
    }

    #[test]
    fn what_does_not_follow_in_the_same_buffer_is_another_range() {
        let pool = pool(2, 4);
        let (mut one, mut other) = (shared(&pool), shared(&pool));
        one.append(b"abcd");
        other.append(b"efghij");
        let mut chain = Chain::new(&pool);
        assert!(chain.push_shared(&one, 0..1) && chain.push_shared(&one, 2..4));
        assert_eq!((chain.leases(), bytes_of(&chain).as_slice()), (2, &b"acd"[..]), "a gap");
        assert!(chain.push_shared(&other, 4..6));
        assert_eq!((chain.leases(), bytes_of(&chain).as_slice()), (3, &b"acdij"[..]));
    }

    #[test]
    fn messages_that_follow_each_other_are_one_range() {
        let pool = pool(1, 1);
        let mut log = shared(&pool);
        let mut chain = Chain::new(&pool);
        for message in [b"one", b"two"] {
            let range = log.append(message).unwrap();
            assert!(chain.push_shared(&log, range));
        }
        assert_eq!((chain.leases(), bytes_of(&chain).as_slice()), (1, &b"onetwo"[..]));
        chain.consume(4);
        let range = log.append(b"!").unwrap();
        assert!(chain.push_shared(&log, range));
        assert_eq!(bytes_of(&chain), b"wo!", "also when part of it is sent");
    }

    #[test]
    fn without_a_free_reference_nothing_changes_and_one_that_came_back_is_used_again() {
        let pool = pool(1, 1);
        let mut log = shared(&pool);
        let (first, second) = (log.append(b"a").unwrap(), log.append(b"b").unwrap());
        let (mut one, mut other) = (Chain::new(&pool), Chain::new(&pool));
        assert!(one.push_shared(&log, first));
        assert!(!other.push_shared(&log, second.clone()));
        assert!(other.is_empty());
        one.consume(1);
        assert!(other.push_shared(&log, second));
        assert_eq!(bytes_of(&other), b"b");
    }

    #[test]
    fn a_chain_mixes_leases_and_shared_buffers_in_order() {
        let pool = pool(3, 2);
        let mut log = shared(&pool);
        let range = log.append(b"shared").unwrap();
        let lease = |bytes: &[u8]| {
            let mut lease = pool.lease().unwrap();
            lease.extend_from_slice(bytes);
            lease
        };
        let mut chain = Chain::from(lease(b"<"));
        assert!(chain.push_shared(&log, range.clone()));
        // This must not be copied behind the shared bytes.
        chain.absorb(&mut Chain::from(lease(b">")));
        assert_eq!(bytes_of(&chain), b"<shared>");
        assert_eq!(log.filled(), b"shared");
        chain.consume(3);
        assert_eq!(bytes_of(&chain), b"ared>");
        drop((chain, log));
        assert_eq!(pool.held(), 0);
    }

    #[test]
    fn data_that_does_not_fit_is_refused_whole() {
        let pool = pool(1, 1);
        let mut log = shared(&pool);
        assert_eq!(log.append(&[7; SIZE + 1]), None);
        assert_eq!((log.append(&[7; SIZE]), log.room()), (Some(0..SIZE), 0));
    }

    #[test]
    fn a_pool_without_references_keeps_no_buffer_of_a_lease_that_cannot_be_shared() {
        let pool = pool(1, 0);
        let share = || drop(Shared::from(pool.lease().unwrap()));
        assert!(catch_unwind(AssertUnwindSafe(share)).is_err());
        assert_eq!((pool.held(), pool.available()), (0, 1));
    }

    #[test]
    #[should_panic(expected = "no data there")]
    fn consumed_bytes_in_front_of_the_data_are_not_shared() {
        let pool = pool(1, 1);
        let mut lease = pool.lease().unwrap();
        lease.extend_from_slice(b"secret, and data");
        lease.consume(8);
        let shared = Shared::from(lease);
        Chain::new(&pool).push_shared(&shared, 0..16);
    }

    #[test]
    #[should_panic(expected = "no data there")]
    fn nothing_is_not_a_part_of_a_shared_buffer() {
        let pool = pool(1, 1);
        let mut log = shared(&pool);
        log.append(b"x");
        Chain::new(&pool).push_shared(&log, 1..1);
    }

    #[test]
    #[should_panic(expected = "nobody's lease")]
    fn nobody_gets_a_lease_of_a_shared_buffer() {
        let pool = pool(1, 1);
        let mut log = shared(&pool);
        let range = log.append(b"x").unwrap();
        let mut chain = Chain::new(&pool);
        assert!(chain.push_shared(&log, range));
        chain.pop_front();
    }
}
