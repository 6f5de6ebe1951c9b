//! A pass over a table, a few entries per turn, so that replies are read in between.

use std::ops::Range;

/// Entries visited per turn.
pub const PER_TURN: usize = 256;

/// Position of the pass.
#[derive(Default)]
pub struct Sweep {
    next: usize,
}

impl Sweep {
    /// A pass over a table of this length that is complete.
    pub fn complete(len: usize) -> Sweep {
        Sweep { next: len }
    }

    /// The next few entries of a table of this length; none when the pass is complete.
    #[inline]
    pub fn step(&mut self, len: usize) -> Range<usize> {
        let begin = self.next;
        self.next = len.min(begin + PER_TURN);
        begin..self.next
    }

    /// Whether the pass is complete.
    #[inline]
    pub fn is_complete(&self, len: usize) -> bool {
        self.next == len
    }

    pub fn restart(&mut self) {
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_looked_at_once_in_a_pass() {
        for len in [0, 1, PER_TURN, PER_TURN + 1, 10 * PER_TURN] {
            let mut sweep = Sweep::default();
            for _ in 0..2 {
                let mut seen = Vec::new();
                while !sweep.is_complete(len) {
                    seen.extend(sweep.step(len));
                }
                assert_eq!(seen, (0..len).collect::<Vec<_>>());
                assert!(sweep.step(len).is_empty(), "it has been through");
                sweep.restart();
            }
        }
    }
}
