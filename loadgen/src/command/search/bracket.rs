//! Which rates a search tries. Pure.

use crate::traffic::rate::Rate;

/// The highest rate, per second.
const RATE_MAX: u64 = Rate::MAX.units() / Rate::PER_SECOND;

/// The search ends when the ratio of the lowest rate that was not kept to the highest that was is
/// at most this.
const NEAR: f64 = 1.05;

/// Selects the next rate: doubled until one is not kept, or halved until one is, then the geometric
/// mean of both. Pure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bracket {
    first: u64,
    /// No lower rate is tried.
    lowest: u64,
    /// The highest rate that was kept, and the lowest that was not.
    pub kept: Option<u64>,
    pub not_kept: Option<u64>,
}

impl Bracket {
    pub fn new(first: u64, lowest: u64) -> Bracket {
        Bracket { first, lowest, kept: None, not_kept: None }
    }

    /// `None`: the search is over.
    pub fn next(&self) -> Option<u64> {
        match (self.kept, self.not_kept) {
            (None, None) => Some(self.first),
            (Some(RATE_MAX), None) => None,
            (Some(kept), None) => Some((2 * kept).min(RATE_MAX)),
            (None, Some(not_kept)) if not_kept <= self.lowest => None,
            (None, Some(not_kept)) => Some((not_kept / 2).max(self.lowest)),
            (Some(kept), Some(not_kept)) if not_kept as f64 <= kept as f64 * NEAR => None,
            (Some(kept), Some(not_kept)) => {
                let middle = (kept as f64 * not_kept as f64).sqrt().round();
                let middle = rounded(middle as u64);
                // Small numbers have none in between: it is then the lower one.
                (kept < middle).then_some(middle)
            }
        }
    }

    pub fn tried(&mut self, rate: u64, is_kept: bool) {
        match is_kept {
            true => self.kept = Some(rate),
            false => self.not_kept = Some(rate),
        }
    }
}

/// Rounds to three digits, which suffice for steps of 5 %.
fn rounded(rate: u64) -> u64 {
    let unit = 10u64.pow(rate.max(1).ilog10().saturating_sub(2));
    (rate + unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that keeps any rate up to `capacity`. Returns the final bracket and the
    /// rates that were tried.
    fn found(first: u64, capacity: u64) -> (Bracket, Vec<u64>) {
        let (mut bracket, mut tried) = (Bracket::new(first, 1), Vec::new());
        while let Some(rate) = bracket.next() {
            tried.push(rate);
            assert!(tried.len() < 60, "{tried:?}");
            bracket.tried(rate, rate <= capacity);
        }
        (bracket, tried)
    }

    #[test]
    fn a_rate_is_rounded_to_the_nearest_of_three_digits() {
        let rates = [0, 7, 999, 1_004, 1_005, 12_349, 12_350, 99_950];
        let rounded = rates.map(rounded);
        assert_eq!(rounded, [0, 7, 999, 1_000, 1_010, 12_300, 12_400, 100_000]);
    }

    #[test]
    fn the_search_is_over_when_both_rates_are_within_five_percent() {
        let next = |kept, not_kept| {
            let bracket =
                Bracket { kept: Some(kept), not_kept: Some(not_kept), ..Bracket::new(1, 1) };
            bracket.next()
        };
        assert_eq!([1_002, 1_050].map(|not_kept| next(1_000, not_kept)), [None; 2]);
        assert_eq!(next(1_000, 1_060), Some(1_030));
    }

    #[test]
    fn the_rate_is_found_to_five_percent_from_above_and_from_below() {
        for capacity in [1, 2, 3, 17, 450, 999, 1_000, 1_001, 41_234, 250_000, 9_000_000] {
            for first in [1, 1_000, 10_000_000] {
                let (bracket, tried) = found(first, capacity);
                let kept = bracket.kept.expect("1 is kept") as f64;
                let not_kept = bracket.not_kept.expect("10 million is not") as f64;
                assert!(kept <= capacity as f64 && not_kept > capacity as f64);
                // Small numbers have no rate in between.
                assert!(not_kept <= (kept * NEAR).max(kept + 1.0), "{capacity} {first}: {tried:?}");
            }
        }
    }

    #[test]
    fn no_rate_and_every_rate_end_the_search_too() {
        let (bracket, tried) = found(1_000, 0);
        assert_eq!((bracket.kept, bracket.not_kept), (None, Some(1)));
        assert_eq!(tried, [1_000, 500, 250, 125, 62, 31, 15, 7, 3, 1]);
        let mut low = Bracket::new(1_000, 300);
        let mut tried = Vec::new();
        while let Some(rate) = low.next() {
            low.tried(rate, false);
            tried.push(rate);
        }
        assert_eq!(tried, [1_000, 500, 300], "fewer requests say nothing");
        let (bracket, _) = found(1_000, u64::MAX);
        assert_eq!((bracket.kept, bracket.not_kept), (Some(RATE_MAX), None));
    }
}
