//! Which connection to call next, and when: a heap of due times, one for each slot, allocated at
//! start.
//!
//! The worker's timing wheel has ticks of one millisecond. A wheel with finer ticks would wake the
//! worker each time a timer moves from level to level. A heap is exact, and its logarithmic cost is
//! small compared with the system calls of a reply.

use crate::base::time::Time;

/// Marks a slot without a time.
const NOWHERE: u32 = u32::MAX;

/// At most one time per slot, with the earliest available in constant time.
#[derive(Clone, Debug, Default)]
pub(in crate::builtin) struct Agenda {
    /// A binary heap: no entry is earlier than its parent.
    heap: Vec<(Time, u32)>,
    /// For each slot, the position of its entry in the heap.
    places: Vec<u32>,
}

impl Agenda {
    /// Memory per slot, in bytes.
    pub(in crate::builtin) const BYTES_PER_SLOT: usize =
        size_of::<(Time, u32)>() + size_of::<u32>();

    /// An empty agenda for slots below `slots`.
    pub(in crate::builtin) fn new(slots: usize) -> Agenda {
        Agenda { heap: Vec::with_capacity(slots), places: vec![NOWHERE; slots] }
    }

    /// Sets the slot's time. Replaces a time set before.
    pub(in crate::builtin) fn set(&mut self, slot: u32, due: Time) {
        let place = match self.places[slot as usize] {
            NOWHERE => {
                self.heap.push((due, slot));
                self.heap.len() - 1
            }
            place => {
                self.heap[place as usize].0 = due;
                place as usize
            }
        };
        let place = self.rise(place);
        self.sink(place);
    }

    /// Removes the slot's time, if it has one.
    pub(in crate::builtin) fn clear(&mut self, slot: u32) {
        let place = std::mem::replace(&mut self.places[slot as usize], NOWHERE);
        if place == NOWHERE {
            return;
        }
        let place = place as usize;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            let place = self.rise(place);
            self.sink(place);
        }
    }

    /// The earliest time.
    pub(in crate::builtin) fn next(&self) -> Option<Time> {
        self.heap.first().map(|&(due, _)| due)
    }

    /// Removes and returns the slot with the earliest time, if that time has come.
    pub(in crate::builtin) fn pop(&mut self, now: Time) -> Option<u32> {
        let &(due, slot) = self.heap.first()?;
        if due > now {
            return None;
        }
        self.clear(slot);
        Some(slot)
    }

    /// Moves the entry towards the front as far as it is earlier. Returns its position.
    fn rise(&mut self, mut place: usize) -> usize {
        let entry = self.heap[place];
        while place > 0 && entry.0 < self.heap[(place - 1) / 2].0 {
            self.put(place, self.heap[(place - 1) / 2]);
            place = (place - 1) / 2;
        }
        self.put(place, entry);
        place
    }

    /// Moves the entry towards the end as far as it is later.
    fn sink(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let children = 2 * place + 1..(2 * place + 3).min(self.heap.len());
            match children.min_by_key(|&child| self.heap[child].0) {
                Some(child) if self.heap[child].0 < entry.0 => {
                    self.put(place, self.heap[child]);
                    place = child;
                }
                _ => return self.put(place, entry),
            }
        }
    }

    fn put(&mut self, place: usize, entry: (Time, u32)) {
        self.heap[place] = entry;
        self.places[entry.1 as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOTS: usize = 12;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn nothing_is_popped_before_its_time() {
        let mut agenda = Agenda::new(2);
        agenda.set(1, at(10));
        assert_eq!((agenda.next(), agenda.pop(at(9))), (Some(at(10)), None));
        assert_eq!((agenda.pop(at(10)), agenda.pop(at(10))), (Some(1), None));
        assert_eq!(agenda.next(), None);
    }

    #[derive(Clone, Debug)]
    enum AgendaOperation {
        Set(u32, u64),
        Clear(u32),
        Pop(u64),
    }

    fn operation() -> impl Strategy<Value = AgendaOperation> {
        let slot = || 0..SLOTS as u32;
        prop_oneof![
            (slot(), 0u64..50).prop_map(|(slot, due)| AgendaOperation::Set(slot, due)),
            slot().prop_map(AgendaOperation::Clear),
            (0u64..50).prop_map(AgendaOperation::Pop),
        ]
    }

    proptest! {
        #![proptest_config(crate::base::property::config())]

        /// After any operations it agrees with a plain table that is searched, and it never grows.
        #[test]
        fn it_is_a_table_of_times(operations in prop::collection::vec(operation(), 0..200)) {
            let mut agenda = Agenda::new(SLOTS);
            let room = agenda.heap.capacity();
            let mut model = [None; SLOTS];
            for operation in operations {
                match operation {
                    AgendaOperation::Set(slot, due) => {
                        agenda.set(slot, at(due));
                        model[slot as usize] = Some(at(due));
                    }
                    AgendaOperation::Clear(slot) => {
                        agenda.clear(slot);
                        model[slot as usize] = None;
                    }
                    AgendaOperation::Pop(now) => {
                        let first = model.iter().flatten().min().copied();
                        let popped = agenda.pop(at(now));
                        prop_assert_eq!(popped.is_some(), first.is_some_and(|due| due <= at(now)));
                        if let Some(slot) = popped {
                            prop_assert_eq!(model[slot as usize].take(), first);
                        }
                    }
                }
                prop_assert_eq!(agenda.next(), model.iter().flatten().min().copied());
                prop_assert_eq!(agenda.heap.len(), model.iter().flatten().count());
                prop_assert_eq!(agenda.heap.capacity(), room);
            }
        }
    }
}
