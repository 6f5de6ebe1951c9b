//! The addresses of targets. A name can have several: the connections of the run itself try them in
//! their order, and the first one that accepts a connection becomes the address of the target for
//! all threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use echopool::Endpoint;

use super::Plan;

/// No address has accepted a connection yet.
const NONE: usize = usize::MAX;

/// Bits of a tag for the number of a connection. The bits above say which address is tried.
const NUMBER_BITS: u32 = 48;

/// The tag of a connect of this connection to the address number `nth` of its target.
pub fn tag(number: u64, nth: usize) -> u64 {
    number | (nth as u64) << NUMBER_BITS
}

/// The number and the address of a tag.
pub fn of_tag(tag: u64) -> (u64, usize) {
    (tag & ((1 << NUMBER_BITS) - 1), (tag >> NUMBER_BITS) as usize)
}

/// The further addresses of each target, and which one was chosen. Empty if no target has any.
#[derive(Clone, Debug, Default)]
pub struct Alternatives {
    others: Vec<Vec<Endpoint>>,
    /// Shared by all threads.
    chosen: Arc<Vec<AtomicUsize>>,
}

impl Alternatives {
    /// `others`: for each target, the addresses after its first one.
    pub fn new(others: Vec<Vec<Endpoint>>) -> Alternatives {
        let chosen = others.iter().map(|_| AtomicUsize::new(NONE)).collect();
        Alternatives { others, chosen: Arc::new(chosen) }
    }

    fn count(&self, target: usize) -> usize {
        1 + self.others.get(target).map_or(0, Vec::len)
    }

    fn chosen(&self, target: usize) -> Option<usize> {
        match self.chosen.get(target)?.load(Relaxed) {
            NONE => None,
            nth => Some(nth),
        }
    }
}

impl Plan {
    /// An address of a target, counted from 0.
    pub fn address(&self, target: usize, nth: usize) -> &Endpoint {
        match nth.checked_sub(1) {
            None => &self.targets[target],
            Some(nth) => &self.alternatives.others[target][nth],
        }
    }

    /// Which of a target's addresses is tried first: the chosen one, if there is one.
    pub fn first_address(&self, target: usize) -> usize {
        self.alternatives.chosen(target).unwrap_or(0)
    }

    /// Which address is tried when a connect to another one has failed; `None` if all were tried.
    pub fn next_address(&self, target: usize, tried: usize) -> Option<usize> {
        match self.alternatives.chosen(target) {
            Some(chosen) => (chosen != tried).then_some(chosen),
            None => (tried + 1 < self.alternatives.count(target)).then_some(tried + 1),
        }
    }

    /// The part of the remaining time that an attempt may take, so that the other addresses have
    /// their part of the time-out too.
    pub fn attempt_time(&self, target: usize, nth: usize, left: Duration) -> Duration {
        match self.alternatives.chosen(target) {
            Some(_) => left,
            None => left / (self.alternatives.count(target) - nth) as u32,
        }
    }

    /// An address has accepted a connection. The first one is chosen.
    pub fn accepted(&self, target: usize, nth: usize) {
        if let Some(chosen) = self.alternatives.chosen.get(target) {
            // If this fails, another thread has chosen.
            let _ = chosen.compare_exchange(NONE, nth, Relaxed, Relaxed);
        }
    }

    /// The addresses of a target that may still be used: one, as soon as it is chosen.
    pub(super) fn possible_addresses(&self, target: usize) -> Vec<&Endpoint> {
        match self.alternatives.chosen(target) {
            Some(chosen) => vec![self.address(target, chosen)],
            None => {
                (0..self.alternatives.count(target)).map(|nth| self.address(target, nth)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::plan;

    #[test]
    fn the_addresses_are_tried_in_turn_until_one_is_chosen() {
        let mut plan = plan("127.0.0.1:7777");
        let others =
            ["[::1]:1", "[::1]:2"].map(|text| Endpoint::Tcp(text.parse().expect("an address")));
        plan.alternatives = Alternatives::new(vec![others.to_vec()]);
        let second = Duration::from_secs(1);
        assert_eq!((plan.first_address(0), plan.next_address(0, 0)), (0, Some(1)));
        assert_eq!((plan.next_address(0, 1), plan.next_address(0, 2)), (Some(2), None));
        let parts = [0, 1, 2].map(|nth| plan.attempt_time(0, nth, second));
        assert_eq!(parts, [second / 3, second / 2, second]);
        let all = "tcp://127.0.0.1:7777 or tcp://[::1]:1 or tcp://[::1]:2";
        assert_eq!(plan.target_addresses(), [all]);
        plan.clone().accepted(0, 1);
        plan.accepted(0, 2);
        assert_eq!(plan.target_addresses(), ["tcp://[::1]:1"], "the first one, for all threads");
        assert_eq!((plan.first_address(0), plan.address(0, 1)), (1, &others[0]));
        assert_eq!((plan.next_address(0, 0), plan.next_address(0, 1)), (Some(1), None));
        assert_eq!(plan.attempt_time(0, 1, second), second);
    }

    #[test]
    fn a_target_with_one_address_has_no_other() {
        let plan = plan("127.0.0.1:7777");
        plan.accepted(0, 0);
        assert_eq!((plan.first_address(0), plan.next_address(0, 0)), (0, None));
        assert_eq!(plan.attempt_time(0, 0, Duration::from_secs(1)), Duration::from_secs(1));
    }

    #[test]
    fn a_tag_has_both_parts() {
        for (number, nth) in [(0, 0), (5, 1), ((1 << 32) - 1, 255)] {
            assert_eq!(of_tag(tag(number, nth)), (number, nth));
        }
    }
}
