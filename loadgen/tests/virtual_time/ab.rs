//! Comparisons of a server with itself, and with one that is 50 us slower: how often a difference is
//! claimed, and where its interval lies.
//!
//! Each slice is a run of its own, against a server with random service times, so its percentiles and
//! its rate are noisy. From round to round the network gets slower, as a busy machine does. The server
//! has no queue, which would take back a part of what is added to the round trip of a closed loop.
//! Seeds are fixed, so the counts are the same each time. They are drawn and not counted up: an
//! interval assumes that rounds are independent, and the delays of seeds in a row are not.

use std::ops::Range;
use std::time::Duration;

use loadgen::command::ab::Rounds;
use loadgen::command::ab::result::{Contest, Slice};
use loadgen::report::Verdict;
use loadgen::report::schema::{AbSummary, FigureDifference};
use loadgen::traffic::payload::Stream;

use crate::world::{drive_delay_over, plan};

const MORE: Duration = Duration::from_micros(50);
/// Four clients in a closed loop.
const FLAGS: &str = "-c 4 -t 1 -n 200 --timeout 1h";

/// A slice of a server behind a network with this latency, there and back.
fn slice(seed: u64, place: usize, latency: Duration) -> Slice {
    let law = format!("exp=100us&seed={seed}");
    let report = drive_delay_over(latency, &format!("{FLAGS} --seed {seed}"), &law);
    Slice { place, report }
}

/// A target's figures, compared with those of the first.
type Compared = Vec<FigureDifference>;

/// The comparison with this number: of a target with itself, and with one that is 50 us slower. Both
/// as they are after each of these numbers of rounds, which increase.
fn comparison(number: u64, counts: &[u64]) -> Vec<[Compared; 2]> {
    const SLOWER: [Duration; 3] = [Duration::ZERO, Duration::ZERO, MORE];
    let count = *counts.last().expect("some rounds");
    let rounds = Rounds {
        count,
        slice: Duration::from_millis(10),
        warmup: Duration::ZERO,
        together: false,
        seed: number,
    };
    let plan = plan(FLAGS);
    let mut contest = Contest::new(rounds, [&plan; 3].into_iter(), Vec::new());
    let mut compared = Vec::with_capacity(counts.len());
    for round in 0..count {
        let order = rounds.order(round, SLOWER.len());
        let drift = Duration::from_micros(200 + 10 * round);
        let seeds = Stream::new(number, round);
        let slices = (0..).zip(SLOWER).map(|(target, slower)| {
            let place = order.iter().position(|of| *of == target).expect("each has a place");
            // As large as a flag can be.
            let seed = seeds.draw(target as u64) >> 11;
            // There and back.
            slice(seed, place, drift + slower / 2)
        });
        contest.add(slices.collect());
        if counts.contains(&(round + 1)) {
            let of_both = AbSummary::new(&contest).comparisons.into_iter().map(|one| one.figures);
            let of_both: Vec<_> = of_both.collect();
            compared.push(of_both.try_into().expect("two targets beside the first"));
        }
    }
    assert_eq!(contest.verdict(), Verdict::Valid, "{}", contest.verdict_text());
    compared
}

fn shows_a_difference(figure: &FigureDifference) -> bool {
    !figure.times().may_be(1.0)
}

/// What comparisons of one number of rounds have shown.
#[derive(Clone, Copy, Default)]
struct Shown {
    comparisons: u64,
    /// Of the same: any of the five figures shows a difference.
    claimed: u64,
    /// Of 50 us more: the p50 shows it.
    found: u64,
    /// The interval contains 50 us: that of p50, p90, p99 and the mean.
    contained: [u64; 4],
}

impl Shown {
    fn add(&mut self, [same, slower]: &[Compared; 2]) {
        assert_eq!(same.len(), 5, "p50, p90, p99, mean and rate");
        self.comparisons += 1;
        self.claimed += u64::from(same.iter().any(shows_a_difference));
        let by = |figure: &FigureDifference| figure.by().expect("a time");
        self.found += u64::from(shows_a_difference(&slower[0]) && by(&slower[0]).value > 0.0);
        for (contained, figure) in self.contained.iter_mut().zip(slower) {
            *contained += u64::from(by(figure).may_be(MORE.as_nanos() as f64));
        }
    }

    /// In at most 5 % of the comparisons a difference of any figure is claimed that does not exist.
    /// One of 50 us is found in at least 95 %, and each interval contains it in at least 98 %: it
    /// promises 99 %.
    #[track_caller]
    fn check(&self, rounds: u64) {
        let Shown { comparisons, claimed, found, contained } = *self;
        println!(
            "{comparisons} comparisons of {rounds} rounds: of the same, {claimed} claim a \
             difference; of 50 us more, {found} find it; it is in the interval of the p50 in \
             {}, of the p90 in {}, of the p99 in {}, of the mean in {}",
            contained[0], contained[1], contained[2], contained[3]
        );
        assert!(claimed * 20 <= comparisons, "{claimed} of {comparisons} claim what is not there");
        assert!(found * 20 >= comparisons * 19, "{found} of {comparisons} find 50 us");
        let least = contained.into_iter().min().expect("four");
        assert!(least * 100 >= comparisons * 98, "{least} of {comparisons} contain 50 us");
    }
}

fn of_the_same_and_of_a_slower_one(numbers: Range<u64>, counts: &[u64]) {
    let mut shown = vec![Shown::default(); counts.len()];
    for number in numbers {
        for (shown, compared) in shown.iter_mut().zip(comparison(number, counts)) {
            shown.add(&compared);
        }
    }
    counts.iter().zip(shown).for_each(|(rounds, shown)| shown.check(*rounds));
}

/// Too few to find 5 %, so none may be wrong. Of those below 1,000, five claim a difference.
#[test]
fn a_difference_is_claimed_if_there_is_one() {
    of_the_same_and_of_a_slower_one(5..10, &[11]);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "four million requests: run with --release")]
fn a_difference_is_claimed_if_there_is_one_in_full() {
    of_the_same_and_of_a_slower_one(0..200, &[30]);
}

/// The table of `docs/measuring.md`.
#[test]
#[ignore = "30 million requests: run with --release"]
fn intervals_of_a_thousand_comparisons_at_several_numbers_of_rounds() {
    of_the_same_and_of_a_slower_one(0..1_000, &[8, 11, 20, 30, 50]);
}
