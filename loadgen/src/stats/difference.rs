//! How far two targets lie apart, with an interval, from values that were measured repeatedly.
//!
//! Both methods use ranks only. They assume no distribution of the noise, and nothing about its
//! size.
//!
//! * [`of_pairs`]: for rounds in each of which both were measured. It is the median of the paired
//!   differences. Its interval, that of the sign test, is right for independent rounds, whatever
//!   the distribution of each is.
//! * [`of_sets`]: for runs that are not paired. It is the median of the differences of all pairs
//!   (Hodges and Lehmann). Its interval, that of the test of Mann and Whitney, is right for
//!   independent runs of two distributions that differ by a shift. If they do not differ at all, it
//!   shows a difference no more often than it may, whatever the distribution is.

/// The intervals contain the true value with at least this probability.
pub const CONFIDENCE: f64 = 0.99;
/// The probability that one end of an interval may be wrong with.
const TAIL: f64 = (1.0 - CONFIDENCE) / 2.0;
/// Rounds of a comparison by pairs, at most: the probabilities of more are too small for a number.
pub const PAIRS_MAX: u64 = 1_000;
/// The fewest pairs that have an interval.
pub const PAIRS_MIN: u64 = 8;
/// The fewest runs in each of two equal sets that have an interval.
pub const SET_MIN: u64 = 5;
/// Runs in a set, at most. The test takes time and memory that grow with the product of both.
pub const SET_MAX: usize = 100;

/// A value with its interval.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    pub value: f64,
    /// `None` if there are too few values for one.
    pub bounds: Option<(f64, f64)>,
}

/// A difference and a ratio, each with its own interval.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Difference {
    pub by: Estimate,
    pub times: Estimate,
    /// How many rounds, or files of the smaller set, it was found from.
    pub count: u64,
    /// How many of them have an interval at least.
    pub fewest: u64,
}

/// The second values compared with the first ones of the same rounds. `None` if there are none.
///
/// # Panics
/// There are not equally many, or more than [`PAIRS_MAX`].
pub fn of_pairs(first: &[f64], second: &[f64]) -> Option<Difference> {
    assert_eq!(first.len(), second.len(), "a round measures both");
    assert!(first.len() as u64 <= PAIRS_MAX, "not more than have an interval");
    let pairs = || first.iter().zip(second);
    Some(Difference {
        by: median_of_pairs(pairs().map(|(first, second)| second - first).collect())?,
        times: median_of_pairs(pairs().map(|(first, second)| ratio(*second, *first)).collect())?,
        count: first.len() as u64,
        fewest: PAIRS_MIN,
    })
}

/// The second values compared with the first ones, in no order. `None` if there are none.
///
/// # Panics
/// There are more than [`SET_MAX`] of one.
pub fn of_sets(first: &[f64], second: &[f64]) -> Option<Difference> {
    let all = |combine: fn(f64, f64) -> f64| -> Vec<f64> {
        let with = |first: f64| second.iter().map(move |second| combine(*second, first));
        first.iter().flat_map(|first| with(*first)).collect()
    };
    let outside = outside_of_sets(first.len(), second.len());
    Some(Difference {
        by: estimate(all(|second, first| second - first), outside)?,
        times: estimate(all(ratio), outside)?,
        count: first.len().min(second.len()) as u64,
        fewest: SET_MIN,
    })
}

/// A finite number: what is compared with nothing is the largest, unless it is nothing too.
fn ratio(second: f64, first: f64) -> f64 {
    match first == 0.0 {
        true if second == 0.0 => 1.0,
        true => f64::MAX,
        false => second / first,
    }
}

/// The median. `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    Some(estimate(values.to_vec(), None)?.value)
}

fn median_of_pairs(values: Vec<f64>) -> Option<Estimate> {
    let outside = outside_of_pairs(values.len());
    estimate(values, outside)
}

/// The median of the values. The interval omits `outside` values at each end.
fn estimate(mut values: Vec<f64>, outside: Option<usize>) -> Option<Estimate> {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let value = match count {
        0 => return None,
        _ if count % 2 == 1 => values[count / 2],
        _ => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    };
    let bounds = outside.map(|outside| (values[outside], values[count - 1 - outside]));
    Some(Estimate { value, bounds })
}

/// How many of `count` sorted values may be omitted at each end, so that the rest has the median of
/// their distribution between its ends. `None` if not even all of them do.
fn outside_of_pairs(count: usize) -> Option<usize> {
    // That exactly this many values are below the median.
    let mut exactly = 0.5f64.powi(count as i32);
    let mut at_most = 0.0;
    for below in 0..=count {
        at_most += exactly;
        if at_most > TAIL {
            return below.checked_sub(1);
        }
        exactly *= (count - below) as f64 / (below + 1) as f64;
    }
    unreachable!("all probabilities together are 1")
}

/// The same for the sorted differences of all pairs of two sets.
fn outside_of_sets(first: usize, second: usize) -> Option<usize> {
    assert!(first.max(second) <= SET_MAX, "not more than can be computed");
    // Of how many pairs the second value is below the first one, if both have the same distribution:
    // the probability of each number, for one size of the first set after another. The largest
    // value of both sets belongs to one of them.
    let mut rows: Vec<Vec<f64>> = vec![vec![1.0]; second + 1];
    for of_first in 1..=first {
        let mut next: Vec<Vec<f64>> = vec![vec![1.0]];
        for of_second in 1..=second {
            let all = (of_first + of_second) as f64;
            let (top_first, top_second) = (of_first as f64 / all, of_second as f64 / all);
            let with = |row: &[f64], at: Option<usize>| {
                at.and_then(|at| row.get(at)).copied().unwrap_or_default()
            };
            let probability = |below: usize| {
                top_first * with(&rows[of_second], below.checked_sub(of_second))
                    + top_second * with(&next[of_second - 1], Some(below))
            };
            let row = (0..=of_first * of_second).map(probability).collect();
            next.push(row);
        }
        rows = next;
    }
    let mut at_most = 0.0;
    for (below, exactly) in rows[second].iter().enumerate() {
        at_most += exactly;
        if at_most > TAIL {
            return below.checked_sub(1);
        }
    }
    None
}

impl Estimate {
    /// Whether the interval has this value, so that a difference from it is not shown.
    pub fn may_be(&self, value: f64) -> bool {
        self.bounds.is_none_or(|(low, high)| low <= value && value <= high)
    }

    /// How many values it would take in all to tell it from `limit`, if it is where it seems to be:
    /// the interval shrinks with the square root of their number. `count`: how many there are, and
    /// `fewest`: how many have an interval at least. `None` if it lies on the limit.
    pub fn values_needed(&self, limit: f64, count: u64, fewest: u64) -> Option<u64> {
        let Some((low, high)) = self.bounds else { return Some(fewest) };
        let wide = if self.value > limit { self.value - low } else { high - self.value };
        // Infinite, or no number, on the limit.
        let factor = (wide / (self.value - limit)).powi(2);
        let needed = (count as f64 * factor).ceil();
        (needed < 1e9).then(|| (needed as u64).max(count + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::payload::Stream;

    /// Tables of the sign test and of the test of Mann and Whitney, two-sided at 1 %: one more is
    /// the rank of the interval's lower end.
    #[test]
    fn as_many_values_are_outside_as_the_tables_say() {
        let pairs = [(7, None), (8, Some(0)), (11, Some(0)), (12, Some(1)), (20, Some(3))];
        let more = [(30, Some(7)), (50, Some(15)), (100, Some(36)), (1_000, Some(458))];
        for (count, outside) in pairs.into_iter().chain(more) {
            assert_eq!(outside_of_pairs(count), outside, "{count}");
        }
        assert_eq!(outside_of_pairs(0), None);
        for (first, second, outside) in [
            (1, 1, None),
            (4, 4, None),
            (3, 9, Some(0)),
            (4, 5, None),
            (4, 6, Some(0)),
            (5, 5, Some(0)),
            (5, 8, Some(2)),
            (8, 5, Some(2)),
            (10, 10, Some(16)),
            (20, 20, Some(105)),
        ] {
            assert_eq!(outside_of_sets(first, second), outside, "{first} and {second}");
        }
    }

    /// The same from all orders in which two sets can be: each as the set of places of the first.
    #[test]
    fn the_probabilities_of_two_sets_are_those_of_all_orders() {
        for (first, second) in [(3, 4), (3, 9), (5, 5), (5, 7), (7, 5)] {
            let mut counts = vec![0u32; (first * second + 1) as usize];
            let all = 0u32..1 << (first + second);
            for places in all.filter(|places| places.count_ones() == first) {
                let below = |at: u32| (0..at).filter(|place| places & (1 << place) == 0).count();
                let pairs = (0..first + second).filter(|at| places & (1 << at) != 0).map(below);
                counts[pairs.sum::<usize>()] += 1;
            }
            let orders = f64::from(counts.iter().sum::<u32>());
            let mut at_most = 0;
            let is_within = |count: &&u32| {
                at_most += **count;
                f64::from(at_most) / orders <= TAIL
            };
            let expected = counts.iter().take_while(is_within).count().checked_sub(1);
            assert_eq!(outside_of_sets(first as usize, second as usize), expected);
        }
    }

    #[test]
    fn a_difference_is_the_median_of_the_pairs() {
        let first: Vec<f64> = (1..=9).map(|nth| f64::from(nth) * 100.0).collect();
        let second: Vec<f64> = first.iter().map(|value| value * 2.0).collect();
        let found = of_pairs(&first, &second).expect("there are some");
        assert_eq!(found.by, Estimate { value: 500.0, bounds: Some((100.0, 900.0)) });
        assert_eq!(found.times, Estimate { value: 2.0, bounds: Some((2.0, 2.0)) });
        let few = of_pairs(&first[..4], &second[..4]).expect("there are some");
        assert_eq!(few.by, Estimate { value: 250.0, bounds: None });
        let none = of_pairs(&[0.0, 0.0, 1.0], &[0.0, 1.0, 0.0]).expect("there are some");
        assert_eq!(none.times.value, 1.0, "of 1, the largest and 0");
        assert!(of_pairs(&[], &[]).is_none() && of_sets(&[], &[1.0]).is_none());
        let shifted: Vec<f64> = first.iter().map(|value| value + 50.0).collect();
        let found = of_sets(&first, &shifted).expect("there are some");
        assert_eq!(found.by.value, 50.0);
        assert!(found.by.may_be(0.0) && found.by.may_be(50.0) && !found.by.may_be(1_000.0));
    }

    #[test]
    fn a_ratio_to_nothing_is_the_largest_unless_both_are_nothing() {
        let ratios = [(3.0, 2.0), (0.0, 2.0), (0.0, 0.0), (3.0, 0.0)];
        assert_eq!(ratios.map(|(second, first)| ratio(second, first)), [1.5, 0.0, 1.0, f64::MAX]);
    }

    /// Noise that is as unlike a normal distribution as latencies are: a heavy tail, outliers, and a
    /// drift that all rounds share.
    fn noisy(random: Stream, round: u64, which: u64) -> f64 {
        let unit = |nth| (random.draw(3 * round + nth) >> 11) as f64 / (1u64 << 53) as f64;
        let own = Stream::new(random.draw(which), round);
        let own_unit = |nth| (own.draw(nth) >> 11) as f64 / (1u64 << 53) as f64;
        let drift = 1.0 + round as f64 / 30.0 + unit(0);
        let outlier = if own_unit(0) < 0.1 { 50.0 } else { 0.0 };
        100.0 * drift + 3.0 / (own_unit(1) + 1e-3) + outlier
    }

    /// The same against itself, and against itself and 50 more, in 200 comparisons of 30 rounds.
    #[test]
    fn of_the_same_a_difference_is_claimed_in_at_most_5_percent_and_a_real_one_is_found() {
        const RUNS: u64 = 200;
        let (mut claimed, mut contained, mut found) = (0, 0, 0);
        for seed in 0..RUNS {
            let random = Stream::new(0x61_62, seed);
            let of = |which, more| -> Vec<f64> {
                (0..30).map(|round| noisy(random, round, which) + more).collect()
            };
            let same = of_pairs(&of(101, 0.0), &of(102, 0.0)).expect("there are some");
            claimed += u64::from(!same.by.may_be(0.0) || !same.times.may_be(1.0));
            let more = of_pairs(&of(101, 0.0), &of(102, 50.0)).expect("there are some").by;
            contained += u64::from(more.may_be(50.0));
            found += u64::from(!more.may_be(0.0));
        }
        assert!(claimed * 20 <= RUNS, "{claimed} of {RUNS}");
        assert!(contained * 20 >= RUNS * 19 && found == RUNS, "{contained}, {found} of {RUNS}");
    }

    #[test]
    fn two_sets_of_the_same_differ_in_at_most_5_percent() {
        const RUNS: u64 = 200;
        let (mut claimed, mut contained) = (0, 0);
        for seed in 0..RUNS {
            let random = Stream::new(0x73_65, seed);
            // Every round by itself: sets have no common drift.
            let of = |which: u64, more| -> Vec<f64> {
                (0..10).map(|nth| noisy(random, 30 * which + nth, which) % 97.0 + more).collect()
            };
            let same = of_sets(&of(1, 0.0), &of(2, 0.0)).expect("there are some").by;
            claimed += u64::from(!same.may_be(0.0));
            let more = of_sets(&of(1, 0.0), &of(2, 50.0)).expect("there are some").by;
            contained += u64::from(more.may_be(50.0));
        }
        assert!(claimed * 20 <= RUNS, "{claimed} of {RUNS}");
        assert!(contained * 20 >= RUNS * 19, "{contained} of {RUNS}");
    }

    #[test]
    fn more_values_are_needed_the_nearer_the_limit_is() {
        let found = Estimate { value: 100.0, bounds: Some((80.0, 130.0)) };
        assert_eq!(found.values_needed(90.0, 30, 8), Some(120), "20 on that side, and 10 away");
        assert_eq!(found.values_needed(110.0, 30, 8), Some(270), "30 on the other");
        assert_eq!(found.values_needed(100.0, 30, 8), None);
        assert_eq!(found.values_needed(100.0 - 1e-9, 30, 8), None, "more than anybody makes");
        let none = Estimate { value: 100.0, bounds: None };
        assert_eq!(none.values_needed(90.0, 3, 8), Some(8));
        let exact = Estimate { value: 100.0, bounds: Some((100.0, 100.0)) };
        assert_eq!(exact.values_needed(100.0, 30, 8), None);
        let far = Estimate { value: 2e4, bounds: Some((1e4, 3e4)) };
        assert_eq!(far.values_needed(2e4 - 1.0, 10, 8), None, "10 times 10,000 squared");
        assert_eq!(far.values_needed(2e4 - 1.0, 9, 8), Some(900_000_000));
    }
}
