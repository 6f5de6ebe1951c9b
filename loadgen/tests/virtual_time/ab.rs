//! Comparisons of a server with itself, and with one that is 50 us slower: how often a difference is
//! claimed, and where its interval lies.
//!
//! Each slice is a run of its own, against a server with random service times, so its percentiles and
//! its rate are noisy. From round to round the network gets slower, as a busy machine does. The server
//! has no queue, which would take back a part of what is added to the round trip of a closed loop.
//! Seeds are fixed, so the counts are the same each time.

use std::time::Duration;

use loadgen::command::ab::Rounds;
use loadgen::command::ab::result::{Contest, Slice};
use loadgen::report::Verdict;
use loadgen::report::schema::{AbSummary, FigureDifference};

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

/// The comparison with this number: of a target with itself, and with one that is 50 us slower.
fn comparison(number: u64, count: u64) -> [Vec<FigureDifference>; 2] {
    const SLOWER: [Duration; 3] = [Duration::ZERO, Duration::ZERO, MORE];
    let rounds = Rounds {
        count,
        slice: Duration::from_millis(10),
        warmup: Duration::ZERO,
        together: false,
        seed: number,
    };
    let plan = plan(FLAGS);
    let mut contest = Contest::new(rounds, [&plan; 3].into_iter(), Vec::new());
    for round in 0..count {
        let order = rounds.order(round, SLOWER.len());
        let drift = Duration::from_micros(200 + 10 * round);
        let slices = (0..).zip(SLOWER).map(|(target, slower)| {
            let place = order.iter().position(|of| *of == target).expect("each has a place");
            let seed = (number * count + round) * SLOWER.len() as u64 + target as u64;
            // There and back.
            slice(seed, place, drift + slower / 2)
        });
        contest.add(slices.collect());
    }
    assert_eq!(contest.verdict(), Verdict::Valid, "{}", contest.verdict_text());
    let comparisons = AbSummary::new(&contest).comparisons;
    let figures: Vec<_> = comparisons.into_iter().map(|comparison| comparison.figures).collect();
    figures.try_into().expect("two targets beside the first")
}

fn shows_a_difference(figure: &FigureDifference) -> bool {
    !figure.times().may_be(1.0)
}

/// In at most 5 % of the comparisons a difference of any figure is claimed that does not exist. One
/// of 50 us is found, and the interval contains it, in at least 95 %.
fn of_the_same_and_of_a_slower_one(comparisons: u64, rounds: u64) {
    let (mut claimed, mut found, mut contained) = (0, 0, 0);
    for number in 0..comparisons {
        let [same, slower] = comparison(number, rounds);
        assert_eq!(same.len(), 5, "p50, p90, p99, mean and rate");
        claimed += u64::from(same.iter().any(shows_a_difference));
        let by = slower[0].by().expect("a time");
        found += u64::from(shows_a_difference(&slower[0]) && by.value > 0.0);
        contained += u64::from(by.may_be(MORE.as_nanos() as f64));
    }
    println!(
        "{comparisons} comparisons of {rounds} rounds: of the same, {claimed} claim a difference; \
         of 50 us more, {found} find it, and the interval of {contained} contains it"
    );
    assert!(claimed * 20 <= comparisons, "{claimed} of {comparisons} claim what is not there");
    assert!(found * 20 >= comparisons * 19, "{found} of {comparisons} find 50 us");
    assert!(contained * 20 >= comparisons * 19, "{contained} of {comparisons} contain 50 us");
}

/// Too few to find 5 %, so none may be wrong: an interval of 11 rounds is right in 99.9 %.
#[test]
fn a_difference_is_claimed_if_there_is_one() {
    of_the_same_and_of_a_slower_one(5, 11);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "four million requests: run with --release")]
fn a_difference_is_claimed_if_there_is_one_in_full() {
    of_the_same_and_of_a_slower_one(200, 30);
}
