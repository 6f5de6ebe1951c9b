//! A queue of slots: first in, first out, with removal from the middle in constant time. It
//! allocates nothing after its creation.
//!
//! The worker has four: connections that wait for a buffer, connections that used up their budget
//! in this turn, and connections whose output, or input, does not move, the longest first.

const NONE: u32 = u32::MAX;

/// A doubly linked list in an array. Each slot is in it at most once.
pub(crate) struct SlotQueue {
    first: u32,
    last: u32,
    len: usize,
    /// One link for each slot up to the highest that was ever in the queue, so the memory of slots
    /// that are never used is never touched.
    links: Vec<SlotLink>,
}

#[derive(Clone, Copy)]
struct SlotLink {
    previous: u32,
    next: u32,
}

/// The links of a slot that is not in the queue. Otherwise `previous` is stored plus 1.
const UNUSED: SlotLink = SlotLink { previous: 0, next: 0 };

/// The `previous` of the first slot in the queue.
const AT_FRONT: u32 = NONE;

impl SlotQueue {
    /// Memory per slot, in bytes.
    pub(crate) const BYTES_PER_SLOT: usize = size_of::<SlotLink>();

    /// An empty queue for slots below `slots`.
    pub(crate) fn new(slots: usize) -> SlotQueue {
        SlotQueue { first: NONE, last: NONE, len: 0, links: Vec::with_capacity(slots) }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first == NONE
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.links.get(slot as usize).is_some_and(|link| link.previous != 0)
    }

    #[inline]
    pub(crate) fn front(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    #[inline]
    pub(crate) fn back(&self) -> Option<u32> {
        (self.last != NONE).then_some(self.last)
    }

    /// The slots, first to last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        let mut next = self.front();
        std::iter::from_fn(move || {
            let slot = next?;
            next = Some(self.links[slot as usize].next).filter(|&next| next != NONE);
            Some(slot)
        })
    }

    /// Adds a slot at the end.
    ///
    /// # Panics
    /// If the slot is already in the queue.
    pub(crate) fn push_back(&mut self, slot: u32) {
        assert!(!self.contains(slot), "slot {slot} is already in the queue");
        if self.links.len() <= slot as usize {
            assert!((slot as usize) < self.links.capacity(), "no slot {slot}");
            self.links.resize(slot as usize + 1, UNUSED);
        }
        let previous = if self.last == NONE { AT_FRONT } else { self.last + 1 };
        self.links[slot as usize] = SlotLink { previous, next: NONE };
        match self.last {
            NONE => self.first = slot,
            last => self.links[last as usize].next = slot,
        }
        self.last = slot;
        self.len += 1;
    }

    /// Adds a slot before another one, which must be in the queue.
    ///
    /// # Panics
    /// If the slot is already in the queue, or the other one is not.
    fn insert_before(&mut self, slot: u32, next: u32) {
        assert!(self.contains(next), "slot {next} is not in the queue");
        self.push_back(slot);
        let last = self.links[slot as usize].previous - 1;
        self.links[last as usize].next = NONE;
        self.last = last;
        let previous = self.links[next as usize].previous;
        self.links[slot as usize] = SlotLink { previous, next };
        self.links[next as usize].previous = slot + 1;
        match previous {
            AT_FRONT => self.first = slot,
            previous => self.links[previous as usize - 1].next = slot,
        }
    }

    /// Adds a slot to a queue that is ordered by `key`, behind those with the same key. That takes
    /// constant time if it belongs at the end.
    ///
    /// # Panics
    /// If the slot is already in the queue.
    pub(crate) fn insert_sorted<K: Ord>(&mut self, slot: u32, key: impl Fn(u32) -> K) {
        let mine = key(slot);
        let next = match self.back() {
            Some(last) if key(last) > mine => self.iter().find(|&other| key(other) > mine),
            _ => None,
        };
        match next {
            Some(next) => self.insert_before(slot, next),
            None => self.push_back(slot),
        }
    }

    /// Removes and returns the first slot.
    pub(crate) fn pop_front(&mut self) -> Option<u32> {
        let slot = self.front()?;
        self.remove(slot);
        Some(slot)
    }

    /// Removes a slot from any position. Returns whether it was in the queue.
    pub(crate) fn remove(&mut self, slot: u32) -> bool {
        if !self.contains(slot) {
            return false;
        }
        let SlotLink { previous, next } = std::mem::replace(&mut self.links[slot as usize], UNUSED);
        match previous {
            AT_FRONT => self.first = next,
            previous => self.links[previous as usize - 1].next = next,
        }
        match next {
            NONE => self.last = if previous == AT_FRONT { NONE } else { previous - 1 },
            next => self.links[next as usize].previous = previous,
        }
        self.len -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #![proptest_config(crate::base::property::config())]

        #[test]
        fn it_agrees_with_a_plain_queue(steps in prop::collection::vec((0u32..8, 0u8..5), 0..200)) {
            let (mut queue, mut model) = (SlotQueue::new(8), VecDeque::new());
            for (slot, step) in steps {
                match step {
                    0 if !model.contains(&slot) => {
                        queue.push_back(slot);
                        model.push_back(slot);
                    }
                    1 => prop_assert_eq!(queue.pop_front(), model.pop_front()),
                    // Whatever the order is, it comes before the first that is greater.
                    3 | 4 if !model.contains(&slot) => {
                        queue.insert_sorted(slot, |slot| slot / 2);
                        let last = model.back().is_none_or(|&last| last / 2 <= slot / 2);
                        let at = model.iter().position(|&other| other / 2 > slot / 2);
                        model.insert(at.filter(|_| !last).unwrap_or(model.len()), slot);
                    }
                    _ => {
                        prop_assert_eq!(queue.remove(slot), model.contains(&slot));
                        model.retain(|&other| other != slot);
                    }
                }
                prop_assert_eq!(queue.front(), model.front().copied());
                prop_assert_eq!(queue.back(), model.back().copied());
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(queue.iter().eq(model.iter().copied()), "iter: {:?}", model);
                for slot in 0..8 {
                    prop_assert_eq!(queue.contains(slot), model.contains(&slot));
                }
            }
        }
    }
}
