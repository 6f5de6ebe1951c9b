//! The rounds, and what is made of their slices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::report::render;
use super::*;
use crate::report::Verdict;
use crate::report::ending::{Ending, Objectives};
use crate::report::schema::AbSummary;
use crate::report::tests::{mismatch, plan, report};
use crate::stats::records::Records;

#[test]
fn the_definition_is_consistent() {
    AbArgs::command().debug_assert();
}

fn args(flags: &str) -> AbArgs {
    let words = format!("ab {flags}");
    AbArgs::try_parse_from(words.split_whitespace()).expect(flags)
}

fn rounds(flags: &str) -> Result<Rounds, Failure> {
    Rounds::new(&args(&format!("h:1 h:2 {flags}")), 1)
}

#[test]
fn two_of_rounds_slice_and_duration_give_the_third() {
    let millis = Duration::from_millis;
    for (flags, count, slice) in [
        ("", 30, DURATION / 60),
        ("-d 6s", 30, millis(100)),
        ("-d 6s --together", 30, millis(200)),
        ("-d 6s h:3", 30, DURATION * 6 / 10 / 90),
        ("-d 6s --rounds 10", 10, millis(300)),
        ("-d 6s --slice 50ms", 60, millis(50)),
        ("--slice 50ms", 30, millis(50)),
        ("--slice 50ms --rounds 9", 9, millis(50)),
        ("-d 1ms --slice 50ms", 1, millis(50)),
    ] {
        let made = rounds(flags).expect(flags);
        assert_eq!((made.count, made.slice), (count, slice), "{flags}");
    }
    for flags in [
        "-d 6s --slice 50ms --rounds 9",
        "--rounds 1001",
        "-d 1h --slice 1ms",
        "-d 10ms",
        "--slice 10us",
    ] {
        assert!(matches!(rounds(flags), Err(Failure::Usage(_))), "{flags}");
    }
    let warmup = |flags| rounds(flags).expect(flags).warmup;
    assert_eq!((warmup("--slice 40ms"), warmup("--slice 1s")), (millis(10), WARMUP_MAX));
    assert_eq!(warmup("--slice 40ms -w 7ms"), millis(7));
    let hub = Rounds::new(&args("hub://h:1 hub://h:2"), 1).expect("rounds");
    assert_eq!(hub.warmup, Duration::ZERO, "a hub has none");
}

#[test]
fn what_makes_no_sense_with_rounds_is_refused_by_name() {
    for (flags, reason) in [
        ("h:1", "give 2 to 26"),
        ("h:1 h:2 -n 5", "--requests"),
        ("h:1 h:2 --stages 1s:5", "--stages"),
        ("h:1 h:2 --search p99:1ms", "--search"),
        ("h:1 h:2 --slo p99<1ms", "--slo"),
        ("h:1 h:2 --abort-on-fail", "--abort-on-fail"),
        ("h:1 h:2 -L", "--latency"),
        ("h:1 h:2 -U", "--uncorrected"),
        ("h:1 h:2 --hdr-log x", "--hdr-log"),
        ("h:1 h:2 --hgrm x", "--hgrm"),
        ("h:1 h:2 --calibration x", "--calibration"),
    ] {
        let error = check(&args(flags)).expect_err(flags);
        assert!(matches!(&error, Failure::Usage(text) if text.contains(reason)), "{error}");
    }
    assert_eq!(check(&args("h:1 h:2 -R 5 -c 3 --fail-if p99>2x")), Ok(()));
}

#[test]
fn each_order_is_as_frequent_as_any_other_and_follows_the_seed() {
    let of = |seed, round| Rounds { seed, ..rounds("").expect("rounds") }.order(round, 3);
    let mut counts = BTreeMap::new();
    for round in 0..6_000 {
        *counts.entry(of(1, round)).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 6, "{counts:?}");
    // Six standard deviations.
    assert!(counts.values().all(|count| (827..=1_173).contains(count)), "{counts:?}");
    let first = |seed| (0..50).map(|round| of(seed, round)).collect::<Vec<_>>();
    assert_eq!(first(7), first(7));
    assert_ne!(first(7), first(8));
}

#[test]
fn slices_follow_each_other_or_begin_together() {
    let one = rounds("--slice 40ms -w 7ms").expect("rounds");
    assert_eq!([0, 1, 2].map(|place| one.delay(place).as_millis()), [0, 67, 134]);
    let together = Rounds { together: true, ..one };
    assert_eq!(together.delay(2), Duration::ZERO);
}

/// The slice of a target that replies after this many microseconds.
fn slice(place: usize, micros: u64) -> Slice {
    let mut report = report();
    report.records.latency.reset();
    report.records.latency.record_n(micros * 1_000, 1_000).expect("in bounds");
    Slice { place, report }
}

fn contest(conditions: &[&str]) -> Contest {
    let plans = ["127.0.0.1:7001 -c 2 -t 2", "127.0.0.1:7002 -c 2 -t 2"].map(plan);
    let conditions = conditions.iter().map(|text| text.parse().expect(text)).collect();
    Contest::new(rounds("").expect("rounds"), plans.iter(), conditions)
}

/// A machine that slows down tenfold from the first round to the last.
fn drifting(contest: &mut Contest, rounds: u64) {
    for round in 0..rounds {
        let drift = 100 + 30 * round;
        contest.add(vec![slice((round % 2) as usize, drift), slice(1, drift + 50)]);
    }
}

/// Of three rounds.
pub(crate) fn summary() -> AbSummary {
    let mut contest = contest(&["p50>+40us", "p99>1.9x"]);
    drifting(&mut contest, 3);
    AbSummary { began_unix_ns: 1_700_000_000_000_000_000, ..AbSummary::new(&contest) }
}

#[test]
fn what_changes_from_round_to_round_is_in_both() {
    let mut contest = contest(&["p50>+40us", "p50>+60us", "p99>1.9x", "max<0.1x"]);
    drifting(&mut contest, 30);
    let summary = AbSummary::new(&contest);
    let [comparison] = summary.comparisons.as_slice() else { panic!("two targets") };
    assert_eq!((comparison.name.as_str(), comparison.against.as_str()), ("B", "A"));
    let names: Vec<_> = comparison.figures.iter().map(|figure| figure.figure.as_str()).collect();
    assert_eq!(names, ["p50", "p90", "p99", "mean", "rate", "max"], "those of conditions too");
    for figure in comparison.figures.iter().filter(|figure| figure.figure != "rate") {
        // Up to the resolution of the histogram.
        let near =
            |nanos: Option<i64>| nanos.is_some_and(|nanos| (49_000..=51_500).contains(&nanos));
        assert!(near(figure.difference_ns), "{figure:?}");
        assert!(near(figure.difference_low_ns) && near(figure.difference_high_ns), "{figure:?}");
        assert!(figure.ratio_low.is_some_and(|low| low > 1.0), "{figure:?}");
    }
    assert_eq!(comparison.figures[4].difference_ns, None);
    assert_eq!((comparison.figures[4].ratio, comparison.figures[4].ratio_low), (1.0, Some(1.0)));
    let decided: Vec<_> =
        summary.conditions.iter().map(|one| (one.exceeded, one.undecided)).collect();
    assert_eq!(decided, [(true, false), (false, false), (false, false), (false, false)]);
    assert_eq!((contest.exit(), summary.exit_code), (Exit::SloMissed, 99));
    assert_eq!(summary.targets[1].latency.percentiles.count, 30_000);
    assert_eq!(summary.targets[0].elapsed_ns, 30_000_000_000);
    assert_eq!(summary.targets[0].requests_per_second, 1_000.0);
    assert_eq!((summary.rounds, summary.slices.len()), (30, 60));
    let places = summary.slices.chunks(2).map(|round| (round[0].place, round[1].place));
    assert!(places.collect::<BTreeSet<_>>().is_subset(&[(1, 2), (2, 2)].into()));
}

#[test]
fn too_few_rounds_decide_nothing() {
    let mut contest = contest(&["p50>+40us"]);
    drifting(&mut contest, 7);
    assert_eq!(contest.exit(), Exit::NotDecided);
    let judged = contest.judged();
    assert_eq!((judged[0].undecided, judged[0].more_needed), (true, Some(1)));
    let text = render(&contest);
    assert!(text.contains("\nAn interval needs at least 8 rounds\n"), "{text}");
    assert!(text.contains("B: p50>+40us not decided (+50."), "{text}");
    assert!(text.contains("; about 1 more rounds decide it"), "{text}");
    drifting(&mut contest, 1);
    assert_eq!(contest.exit(), Exit::SloMissed);
}

#[test]
fn one_slice_that_is_not_what_was_asked_for_makes_the_whole_so() {
    let broken = |change: &dyn Fn(&mut Report)| {
        let mut contest = contest(&["p50>+40us"]);
        drifting(&mut contest, 10);
        assert!(!contest.is_broken());
        let mut last = slice(1, 100);
        change(&mut last.report);
        contest.add(vec![slice(0, 100), last]);
        assert!(contest.is_broken());
        (contest.verdict(), contest.exit(), contest.verdict_text())
    };
    let (verdict, exit, text) = broken(&|report| report.records.mismatch(mismatch()));
    assert_eq!((verdict, exit), (Verdict::Differed, Exit::Differed));
    assert_eq!(text, "B: echo-differed (on 1 of 2 connections), in round 11");
    let (verdict, exit, _) = broken(&|report| report.records.established = 1);
    assert_eq!((verdict, exit), (Verdict::UnderConnected, Exit::NotValid));
    let (verdict, ..) = broken(&|report| {
        report.records.replies_each = vec![0, 0];
    });
    assert_eq!(verdict, Verdict::NothingServed);
}

#[test]
fn a_slice_without_a_request_is_left_out_and_nothing_else_is() {
    let mut contest = contest(&[]);
    let empty = || {
        let mut slice = slice(1, 1);
        slice.report.records = Records { established: 2, ..Records::default() };
        slice.report.records.replies_each = vec![0, 0];
        slice
    };
    contest.add(vec![slice(0, 100), empty()]);
    assert_eq!((contest.left_out, contest.is_broken()), (1, false));
    assert_eq!(contest.verdict(), Verdict::NothingServed, "so far");
    drifting(&mut contest, 8);
    assert_eq!((contest.verdict(), contest.rounds_made()), (Verdict::Valid, 9));
    let text = render(&contest);
    assert!(text.contains("\n1 round was left out, because no request started"), "{text}");
    assert!(text.contains("p50   +50."), "{text}");
}

/// Of two late generators, that of one slice in many is part of the noise, and that of all of them
/// is not.
#[test]
fn a_late_generator_is_judged_for_all_slices_together() {
    let late = |rounds: u64| {
        let plans = ["127.0.0.1:7001 -c 2 -R 1k", "127.0.0.1:7002 -c 2 -R 1k"].map(plan);
        let mut contest = Contest::new(self::rounds("").expect("rounds"), plans.iter(), Vec::new());
        for round in 0..200 {
            let mut slices = vec![slice(0, 1_000), slice(1, 1_000)];
            for one in &mut slices {
                one.report.plan = Arc::new(plans[0].clone());
                let lag = if round < rounds { 900_000 } else { 1_000 };
                one.report.records.own_lag.record_n(lag, 1_000).expect("in bounds");
            }
            contest.add(slices);
        }
        (contest.verdict(), contest.is_broken(), contest.exit())
    };
    assert_eq!(late(1), (Verdict::Valid, false, Exit::Ok));
    assert_eq!(late(100), (Verdict::GeneratorLimited, false, Exit::NotValid));
}

#[test]
fn an_end_by_a_signal_is_said() {
    let mut contest = contest(&[]);
    drifting(&mut contest, 9);
    contest.interrupted = true;
    let state = contest.state();
    assert_eq!((state.ending, state.objectives), (Ending::Interrupted, Objectives::NotGiven));
    assert_eq!(contest.verdict_text(), "valid (9 rounds); interrupted after 9 of 30 rounds");
    assert_eq!(AbSummary::new(&contest).exit_code, 130);
}

#[test]
fn the_text_has_both_targets_the_differences_and_the_answer_in_a_line() {
    let mut contest = contest(&["p50>+40us", "p50>1.9x"]);
    drifting(&mut contest, 30);
    let text = render(&contest);
    let expected = "\
30 rounds, each with 166.67ms of each target, in random order
  A: tcp://127.0.0.1:7777, 2 threads and 2 connections
  B: tcp://127.0.0.1:7777, 2 threads and 2 connections
All rounds                   A               B
Requests/sec           1000.00         1000.00
Latency mean          535.00us        585.02us
Latency p50           520.19us        570.37us
Latency p90           880.13us        930.30us
Latency p99           970.24us          1.02ms
Latency p99.9         970.24us          1.02ms
Latency max           970.24us          1.02ms
Requests                 30000           30000
B against A, median of the differences in a round (99 % interval)
  p50   +50.18us (49.92 to 50.18)          1.093 (1.066 to 1.162)     slower
  p90   +50.18us (49.92 to 50.18)          1.093 (1.066 to 1.162)     slower
  p99   +50.18us (49.92 to 50.18)          1.093 (1.066 to 1.162)     slower
  mean  +50.11us (49.92 to 50.18)          1.093 (1.066 to 1.162)     slower
  rate                                     1.000 (1.000 to 1.000)     no difference shown
B - A: p50 +50.18us (49.92 to 50.18), p99 +50.18us (49.92 to 50.18), p50 ratio 1.093 (1.066 to 1.162)
Fail if: B: p50>+40us exceeded (+50.18us (49.92 to 50.18))
Fail if: B: p50>1.9x kept (1.093 (1.066 to 1.162))
Verdict: valid (30 rounds)
";
    assert_eq!(text, expected, "\n{text}");
}
