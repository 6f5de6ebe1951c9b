//! The preallocated contexts of a worker, found by key.
//!
//! `slab` keeps the entries and the list of free slots. It keeps nothing of an entry that was
//! removed, so the table stores how often each slot was used. A key of an earlier use finds
//! nothing.

use slab::Slab;

use crate::base::key::{Key, RESERVED_SLOTS};

/// A fixed number of entries, each found by a [`Key`] that is valid until the entry is removed.
pub struct Table<T> {
    entries: Slab<T>,
    generations: Box<[u32]>,
    /// One past the highest slot that was ever used.
    used: u32,
}

impl<T> Table<T> {
    /// Memory of the table per slot, in bytes.
    pub const BYTES_PER_SLOT: usize = size_of::<T>() + size_of::<usize>() + size_of::<u32>();

    /// An empty table with room for `capacity` entries. The memory of slots that are never used is
    /// never touched.
    ///
    /// # Panics
    /// If `capacity` is more than the number of slots that a key can name.
    pub fn new(capacity: usize) -> Table<T> {
        assert!(capacity <= RESERVED_SLOTS as usize, "more slots than keys have room for");
        Table {
            entries: Slab::with_capacity(capacity),
            generations: vec![0; capacity].into_boxed_slice(),
            used: 0,
        }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The maximum number of entries.
    pub fn capacity(&self) -> usize {
        self.generations.len()
    }

    /// One past the highest slot that was ever used: all entries are below it.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// The key that the next entry will get, or `None` if the table is full.
    pub fn next_key(&self) -> Option<Key> {
        let slot = self.entries.vacant_key();
        (slot < self.capacity()).then(|| Key::new(slot as u32, self.generations[slot]))
    }

    /// Inserts an entry and returns its key.
    ///
    /// # Panics
    /// If the table is full.
    pub fn insert(&mut self, entry: T) -> Key {
        let key = self.next_key().expect("the table has a free slot");
        let slot = self.entries.insert(entry);
        debug_assert_eq!(slot, key.slot() as usize);
        self.used = self.used.max(key.slot() + 1);
        key
    }

    /// Removes an entry and returns it. Its key is never valid again.
    ///
    /// # Panics
    /// If the key is not valid.
    pub fn remove(&mut self, key: Key) -> T {
        let slot = key.slot() as usize;
        assert_eq!(self.generations[slot], key.generation(), "a key of an earlier use");
        self.generations[slot] = key.generation().wrapping_add(1);
        self.entries.remove(slot)
    }

    #[cfg(any(test, feature = "internals"))]
    /// The entry with this key.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = key.slot() as usize;
        if self.generations.get(slot) != Some(&key.generation()) {
            return None;
        }
        self.entries.get_mut(slot)
    }

    /// The entry with this key, which must exist: only the slot is looked up.
    ///
    /// # Panics
    /// If the slot has no entry.
    #[inline]
    pub fn expect_mut(&mut self, key: Key) -> &mut T {
        let slot = key.slot() as usize;
        debug_assert_eq!(self.generations[slot], key.generation(), "a key of an earlier use");
        &mut self.entries[slot]
    }

    #[cfg(any(test, feature = "sim"))]
    /// All entries, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// The entry in a slot.
    pub fn at(&self, slot: u32) -> Option<&T> {
        self.entries.get(slot as usize)
    }

    /// The key of the entry in a slot.
    pub fn key_of(&self, slot: u32) -> Option<Key> {
        self.entries.get(slot as usize)?;
        Some(Key::new(slot, self.generations[slot as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_earlier_use_of_its_slot_finds_nothing() {
        let mut table = Table::new(1);
        let old = table.insert('a');
        assert_eq!(table.remove(old), 'a');
        let new = table.insert('b');
        assert_eq!(new.slot(), old.slot());
        assert_eq!(table.get_mut(old), None);
        assert_eq!(table.get_mut(new), Some(&mut 'b'));
        assert_eq!(table.key_of(0), Some(new));
    }

    #[test]
    fn it_has_room_for_its_capacity_and_no_more() {
        let mut table = Table::new(3);
        let keys: Vec<_> = (0..3).map(|entry| table.insert(entry)).collect();
        assert_eq!(table.next_key(), None);
        table.remove(keys[1]);
        assert_eq!(table.next_key().unwrap().slot(), keys[1].slot());
        assert_eq!((table.len(), table.capacity()), (2, 3));
    }

    #[test]
    #[should_panic(expected = "earlier use")]
    fn an_entry_cannot_be_removed_twice() {
        let mut table = Table::new(1);
        let key = table.insert(());
        table.remove(key);
        table.insert(());
        table.remove(key);
    }

    #[test]
    fn a_table_is_empty_before_the_first_and_after_the_last() {
        let mut table = Table::new(2);
        assert!(table.is_empty());
        let key = table.insert('a');
        assert!(!table.is_empty());
        *table.expect_mut(key) = 'b';
        assert_eq!(table.remove(key), 'b');
        assert!(table.is_empty());
        assert_eq!(table.key_of(0), None);
    }

    #[test]
    fn all_entries_are_below_the_highest_slot_that_was_ever_used() {
        let mut table = Table::new(3);
        assert_eq!(table.used(), 0);
        let keys = ['a', 'b'].map(|entry| {
            let key = table.insert(entry);
            assert_eq!(table.used(), key.slot() + 1);
            key
        });
        assert_eq!([0, 1, 2].map(|slot| table.at(slot).copied()), [Some('a'), Some('b'), None]);
        for key in keys {
            table.remove(key);
        }
        assert_eq!((table.used(), table.at(0)), (2, None));
        table.insert('c');
        assert_eq!(table.used(), 2);
    }

    /// The memory announced at start is computed from this constant.
    #[test]
    fn the_memory_of_a_slot_is_its_entry_its_place_in_the_free_list_and_its_generation() {
        assert_eq!(Table::<[u64; 5]>::BYTES_PER_SLOT, 40 + 8 + 4);
    }
}
