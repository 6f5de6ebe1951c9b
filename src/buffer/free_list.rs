//! The numbers of free buffers that all workers share. The few buffers that were returned last are
//! taken first. So messages that come and go one by one use the same few buffers, and the memory of
//! the others is not touched.

use crate::base::sync::ArrayQueue;

/// The number of recently returned buffers that are taken before others.
const RECENT: usize = 16;

pub(super) struct FreeList {
    recent: ArrayQueue<u32>,
    others: ArrayQueue<u32>,
}

impl FreeList {
    /// An empty list with room for `count` buffers.
    pub(super) fn new(count: usize) -> FreeList {
        FreeList { recent: ArrayQueue::new(RECENT), others: ArrayQueue::new(count) }
    }

    /// Adds a buffer. Returns it as the error if there is no room.
    pub(super) fn push(&self, id: u32) -> Result<(), u32> {
        self.recent.push(id).or_else(|id| self.others.push(id))
    }

    /// Takes a buffer.
    pub(super) fn pop(&self) -> Option<u32> {
        self.recent.pop().or_else(|| self.others.pop())
    }

    /// How many buffers there are.
    pub(super) fn len(&self) -> usize {
        self.recent.len() + self.others.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Pool, Reserve};
    use super::*;

    #[test]
    fn messages_that_come_and_go_use_the_same_few_buffers() {
        let reserve = Reserve::new(8, 4000).unwrap();
        let before = reserve.available();
        for number in 0..10_000u32 {
            let mut parcels = [reserve.parcel().unwrap(), reserve.parcel().unwrap()];
            for parcel in &mut parcels {
                parcel.extend_from_slice(&number.to_le_bytes());
            }
        }
        assert_eq!(reserve.available(), before);
        let pool = Pool::new(reserve, 0);
        let mut all: Vec<_> = std::iter::from_fn(|| pool.lease()).collect();
        // Buffers that were never used are zero.
        let used =
            all.iter_mut().filter_map(|lease| lease.spare_mut().iter().max()).filter(|&&m| m > 0);
        assert!(used.count() <= RECENT + 2);
    }

    #[test]
    fn every_buffer_is_taken_once_and_all_fit_again() {
        let list = FreeList::new(100);
        (0..100).for_each(|id| list.push(id).unwrap());
        assert_eq!(list.len(), 100);
        let mut all: Vec<u32> = std::iter::from_fn(|| list.pop()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        all.into_iter().for_each(|id| list.push(id).unwrap());
    }
}
