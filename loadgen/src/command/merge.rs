//! `loadgen merge A.json B.json ...`: several runs as one.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Parser;
use hdrhistogram::Histogram;

use crate::error::{Exit, Failure};
use crate::report::ending::{EndState, Ending};
use crate::report::outputs::page_beside;
use crate::report::print;
use crate::report::saved::{self, Saved, SavedResult};
use crate::report::schema::{
    DatagramCounts, Distribution, MergedSummary, MergedType, PartsSummary, RunConfig, RunSummary,
    SCHEMA_VERSION, ShardsSummary, StampSummary,
};
use crate::stats::tcp::TcpCounts;
use crate::view::terminal;

/// Adds up the counts and histograms of runs with the same settings, and writes the sum as JSON.
///
/// Use it for shards of one load that ran at the same time on several machines, and for repetitions
/// of one run. Percentiles are those of all latencies together, not means of percentiles.
#[derive(Parser, Debug)]
#[command(name = "loadgen merge", bin_name = "loadgen merge", version)]
pub struct MergeArgs {
    /// Reports written with --output-format json or ndjson
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Write a page with charts and tables
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Reads the files, and writes their sum to stdout.
///
/// # Errors
/// A file cannot be read, or settings differ.
pub fn run(args: &MergeArgs) -> Result<Exit, Failure> {
    let runs = args.files.iter().map(|path| Saved::read(path)).collect::<Result<Vec<_>, _>>()?;
    let merged = merge(&runs)?;
    let mut page = page_beside(args.html.as_deref(), &args.files)?;
    let text = serde_json::to_string_pretty(&merged).expect("it has a JSON form");
    print(&format!("{text}\n"))?;
    if let Some(shards) = merged.shards.as_ref().filter(|one| one.latency_together.is_none()) {
        terminal::message(format_args!("loadgen: {}", shards.latency_note));
    }
    let exit = state(&runs, merged.shards.as_ref()).exit();
    if let Some(page) = &mut page {
        page.write_page(SavedResult::Merged(Box::new(merged)))?;
    }
    Ok(exit)
}

fn merge(runs: &[Saved]) -> Result<MergedSummary, Failure> {
    let first = &runs[0];
    for other in &runs[1..] {
        let differing = first.differing_settings(other);
        if !differing.is_empty() {
            let (ours, theirs) = (&first.name, &other.name);
            let text =
                format!("{ours} and {theirs} are not the same run: {}", differing.join(", "));
            return Err(Failure::Setup(text));
        }
    }
    for (nth, run) in runs.iter().enumerate() {
        if let Some(same) = runs[..nth].iter().find(|other| run.is_the_run_of(other)) {
            let text = format!("{} and {} are one run: give each once", same.name, run.name);
            return Err(Failure::Setup(text));
        }
    }
    let all_latency = histogram(runs, "latency", |run| &run.latency)?;
    let shards = ShardsSummary::new(runs, &all_latency)?;
    let state = state(runs, shards.as_ref());
    let counts = |of: fn(&RunSummary) -> u64| runs.iter().map(move |saved| of(&saved.run));
    let sum = |of| counts(of).sum();
    let rates = runs.iter().map(|saved| saved.run.requests_per_second).sum::<f64>();
    Ok(MergedSummary {
        r#type: MergedType::Merged,
        schema_version: SCHEMA_VERSION,
        runs: runs.len(),
        config: RunConfig { shard: None, ..first.run.config.clone() },
        shards,
        elapsed_ns_sum: sum(|run| run.elapsed_ns),
        elapsed_ns_max: counts(|run| run.elapsed_ns).max().unwrap_or_default(),
        requests_offered: sum(|run| run.requests_offered),
        requests_begun: sum(|run| run.requests_begun),
        replies: sum(|run| run.replies),
        replies_late: sum(|run| run.replies_late),
        requests_timed_out: sum(|run| run.requests_timed_out),
        requests_unanswered: sum(|run| run.requests_unanswered),
        requests_never_sent: sum(|run| run.requests_never_sent),
        requests_per_second_sum: rates,
        requests_per_second_mean: rates / runs.len() as f64,
        bytes_read: sum(|run| run.bytes_read),
        bytes_verified: sum(|run| run.bytes_verified),
        connections_established: sum(|run| run.connections.established),
        connections_lost: sum(|run| run.connections.lost),
        reconnects: sum(|run| run.reconnects),
        server_closes: sum(|run| run.server_closes),
        mismatched_connections: sum(|run| run.mismatched_connections),
        per_target: saved::merge_targets(runs)?,
        latency: Distribution::new(&all_latency),
        service_time: distribution(runs, "service_time", |run| &run.service_time)?,
        send_lag: distribution(runs, "send_lag", |run| &run.send_lag)?,
        own_lag: distribution(runs, "own_lag", |run| &run.own_lag)?,
        connect_latency: distribution(runs, "connect_latency", |run| &run.connect_latency)?,
        parts: parts(runs)?,
        datagrams: datagrams(runs),
        stamp: stamp(runs)?,
        tcp: runs.iter().fold(TcpCounts::default(), |sum, one| sum.plus(&one.run.tcp)),
        errors: errors(runs),
        runs_interrupted: count_of(runs, |run| run.interrupted),
        runs_aborted: count_of(runs, |run| run.aborted.is_some()),
        objectives: state.objectives.word().into(),
        verdict: state.verdict,
        exit_code: state.exit() as u8,
    })
}

fn distribution(
    runs: &[Saved],
    key: &str,
    part: fn(&RunSummary) -> &Distribution,
) -> Result<Distribution, Failure> {
    histogram(runs, key, part).map(|sum| Distribution::new(&sum))
}

fn histogram(
    runs: &[Saved],
    key: &str,
    part: fn(&RunSummary) -> &Distribution,
) -> Result<Histogram<u64>, Failure> {
    let mut sum = runs[0].histogram(key, part)?;
    for run in &runs[1..] {
        let added = sum.add(run.histogram(key, part)?);
        added.map_err(|error| Failure::Setup(format!("{}: {key}: {error}", run.name)))?;
    }
    Ok(sum)
}

fn parts(runs: &[Saved]) -> Result<Option<PartsSummary>, Failure> {
    sum_if_all_have_it(runs, "parts", |run| run.parts.as_ref(), PartsSummary::plus)
}

fn datagrams(runs: &[Saved]) -> Option<DatagramCounts> {
    let each = runs.iter().map(|saved| saved.run.datagrams.clone());
    each.reduce(|sum, one| Some(sum?.plus(&one?)))?
}

fn stamp(runs: &[Saved]) -> Result<Option<StampSummary>, Failure> {
    sum_if_all_have_it(runs, "stamp", |run| run.stamp.as_ref(), StampSummary::plus)
}

/// The sum of what every run has; `None` if one of them does not have it.
fn sum_if_all_have_it<T: Clone>(
    runs: &[Saved],
    key: &str,
    of: fn(&RunSummary) -> Option<&T>,
    plus: fn(&T, &T) -> Result<T, String>,
) -> Result<Option<T>, Failure> {
    let (first, others) = runs.split_first().expect("at least two");
    let Some(mut sum) = of(&first.run).cloned() else { return Ok(None) };
    for other in others {
        let Some(one) = of(&other.run) else { return Ok(None) };
        let failed = |why| Failure::Setup(format!("{}: {key}: {why}", other.name));
        sum = plus(&sum, one).map_err(failed)?;
    }
    Ok(Some(sum))
}

fn errors(runs: &[Saved]) -> BTreeMap<String, NonZeroU64> {
    let mut sum: BTreeMap<String, NonZeroU64> = BTreeMap::new();
    for (name, count) in runs.iter().flat_map(|saved| &saved.run.errors) {
        let added = |so_far: &mut NonZeroU64| *so_far = so_far.saturating_add(count.get());
        sum.entry(name.clone()).and_modify(added).or_insert(*count);
    }
    sum
}

fn count_of(runs: &[Saved], is: fn(&RunSummary) -> bool) -> usize {
    runs.iter().filter(|saved| is(&saved.run)).count()
}

/// The worst of all runs in each respect. The objectives of shards are those of the whole, unless a
/// second of one has ended the run.
fn state(runs: &[Saved], shards: Option<&ShardsSummary>) -> EndState {
    let worst = EndState::worst(runs.iter().map(|saved| EndState::of_saved(&saved.run)));
    match shards {
        None => worst,
        Some(shards) => EndState {
            verdict: worst.verdict.max(shards.verdict()),
            objectives: match worst.ending {
                Ending::Whole => shards.objectives(),
                _ => worst.objectives,
            },
            ..worst
        },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use echopool::internals::ClockError;

    use super::*;
    use crate::plan::shard::Shard;
    use crate::report::distinct::{distinct, spread, stamp_report};
    use crate::report::ending::Objectives;
    use crate::report::saved::tests::saved;
    use crate::report::schema::distinct_parts as parts_of;
    use crate::report::tests::report;
    use crate::report::{Abort, Verdict};
    use crate::stats::loss::Loss;
    use crate::stats::stamp::StampRecords;

    /// Of two runs in which no two figures are equal.
    pub(crate) fn merged() -> MergedSummary {
        let runs = [0, 1].map(|nth| saved(["a", "b"][nth as usize], &distinct(nth)));
        merge(&runs).expect("the same settings")
    }

    /// Of two runs against a reflector in which no two figures are equal.
    pub(crate) fn merged_stamp() -> MergedSummary {
        let runs = [0, 1].map(|nth| saved(["a", "b"][nth as usize], &stamp_report(nth)));
        merge(&runs).expect("the same settings")
    }

    #[test]
    fn each_figure_of_datagrams_is_added_to_its_own() {
        let value = serde_json::to_value(merged_stamp()).expect("it has a JSON form");
        let datagrams = serde_json::json!({
            "sent": 3_000,
            "lost": 1_602,
            "lost_ratio": 0.534,
            "late": 1_604,
            "duplicated": 1_606,
            "out_of_order": 1_608,
            "corrupted": 1_610,
            "truncated": 1_612,
            "socket_errors": 1_614,
            // Two sockets of the first run, and three of the second.
            "jitter_ns": 308_600,
            "jitter_max_ns": 310_000,
            "jitter_sockets": 5,
        });
        assert_eq!(value["datagrams"], datagrams);
        let stamp = &value["stamp"];
        for (pointer, expected) in [
            ("/there/lost", 1_824),
            ("/back/lost", 1_826),
            ("/lost_unknown", 1_828),
            ("/there/duplicated", 1_830),
            ("/back/duplicated", 1_832),
            ("/there/jitter_ns", 408_600),
            ("/back/jitter_ns", 409_600),
            ("/there/jitter_max_ns", 411_000),
            ("/back/jitter_max_ns", 412_000),
            ("/clock_error_ns", 402_000),
            ("/jitter_sockets", 5),
        ] {
            assert_eq!(stamp.pointer(pointer), Some(&expected.into()), "{pointer}");
        }
        for (pointer, first) in [
            ("/round_trip", 402_000),
            ("/residence", 403_000),
            ("/there/delay", 404_000),
            ("/back/delay", 405_000),
            ("/there/variation", 406_000),
            ("/back/variation", 407_000),
        ] {
            let mut both = crate::stats::records::latency_histogram();
            both.record(first).expect("in bounds");
            both.record(first + 100_000).expect("in bounds");
            let expected = serde_json::to_value(Distribution::new(&both)).expect("a JSON form");
            assert_eq!(stamp.pointer(pointer), Some(&expected), "{pointer}");
        }
        let clocks = (&stamp["clocks_agree"], &stamp["clocks_reason"]);
        assert_eq!(clocks, (&true.into(), &serde_json::Value::Null));
    }

    /// What one run does not know travels with the sum, in whichever file it is.
    #[test]
    fn what_one_run_does_not_know_of_a_reflector_is_not_known_of_all() {
        let stamp = |change: fn(&mut StampRecords), is_first: bool| {
            let mut reports = [stamp_report(0), stamp_report(1)];
            let nth = usize::from(!is_first);
            change(reports[nth].records.stamp.as_mut().expect("it is there"));
            let runs = [0, 1].map(|nth| saved(["a", "b"][nth], &reports[nth]));
            merge(&runs).expect("the same settings").stamp.expect("both have it")
        };
        for is_first in [true, false] {
            let forgot = stamp(|stamp| stamp.numbers_began_anew = true, is_first);
            assert_eq!((forgot.there.lost, forgot.back.lost), (None, None));
            assert_eq!((forgot.there.duplicated, forgot.lost_unknown), (None, None));
            assert!(forgot.clocks_agree && forgot.there.delay.is_some());
            let apart = stamp(|stamp| stamp.is_utc = false, is_first);
            assert!(!apart.clocks_agree && apart.there.delay.is_none());
            assert!(apart.clocks_reason.is_some_and(|why| why.contains("PTP")));
            assert_eq!(apart.there.lost, Some(1_824));
            let silent = stamp(
                |stamp| {
                    let error = ClockError { is_synchronized: true, error_ns: 0 };
                    *stamp = StampRecords::new(error);
                },
                is_first,
            );
            assert!(silent.clocks_agree && silent.clocks_reason.is_none(), "no reply says so");
            let delay = silent.back.delay.expect("that of the other run");
            assert_eq!((delay.percentiles.count, silent.round_trip.percentiles.count), (1, 1));
        }
    }

    #[test]
    fn the_parts_of_round_trips_add_up_if_every_run_has_them() {
        let run = |name: &str, parts: Option<u64>| {
            let mut report = report();
            report.records.parts = parts.map(parts_of).map(Box::new);
            saved(name, &report)
        };
        let parts = |runs: &[Saved]| merge(runs).expect("the same settings").parts;
        let mut both = parts_of(1_000);
        both.merge(&parts_of(700));
        let runs = [run("a", Some(1_000)), run("b", Some(700))];
        assert_eq!(parts(&runs), Some(PartsSummary::new(&both)));
        for without in [[Some(1_000), None], [None, Some(700)]] {
            let [a, b] = without;
            assert_eq!(parts(&[run("a", a), run("b", b)]), None, "{without:?}");
        }
    }

    /// Of two runs in which no two figures are equal.
    #[test]
    fn each_sum_is_that_of_its_own_figure() {
        let runs = [0, 1].map(|nth| saved(["a", "b"][nth as usize], &distinct(nth)));
        let merged = merge(&runs).expect("the same settings");
        let value = serde_json::to_value(&merged).expect("it has a JSON form");
        // In distinct(0), and in distinct(1) a thousand more.
        let sums = [
            ("requests_offered", 109),
            ("requests_begun", 110),
            ("replies", 111),
            ("replies_late", 112),
            ("requests_timed_out", 113),
            ("requests_unanswered", 114),
            ("requests_never_sent", 115),
            ("bytes_read", 117),
            ("bytes_verified", 118),
            ("connections_established", 101),
            ("reconnects", 119),
            ("server_closes", 121),
            ("mismatched_connections", 108),
        ];
        for (key, first) in sums {
            assert_eq!(value[key], 2 * first + 1_000, "{key}");
        }
        assert_eq!(value["connections_lost"], 2 * (103 + 104 + 105 + 106 + 107) + 5_000);
        let errors = [
            ("connect-refused", 102),
            ("timed-out", 103),
            ("closed-by-peer", 104),
            ("reset", 105),
            ("peer-lost", 106),
            ("failed", 107),
        ];
        for (key, first) in errors {
            assert_eq!(value["errors"][key], 2 * first + 1_000, "{key}");
        }
        assert_eq!(
            (&value["elapsed_ns_sum"], &value["elapsed_ns_max"]),
            (&5_000_000_000u64.into(), &3_000_000_000u64.into())
        );
        let rates = [111.0 / 2.0, 1_111.0 / 3.0];
        assert_eq!(value["requests_per_second_sum"], rates[0] + rates[1]);
        assert_eq!(value["requests_per_second_mean"], (rates[0] + rates[1]) / 2.0);
        for (nth, first) in [141, 151].into_iter().enumerate() {
            let target = &value["per_target"][nth];
            let keys = [
                "connections_established",
                "connections_served",
                "connections_lost",
                "mismatched_connections",
                "requests_completed",
            ];
            for (more, key) in (0..).zip(keys) {
                assert_eq!(target[key], 2 * (first + more) + 1_000, "{key} of {nth}");
            }
            assert_eq!(target["connections_asked"], 2 * (455 - nth));
            let mut both = spread(1_500 + 10 * nth as u64);
            both.add(spread(2_500 + 10 * nth as u64)).expect("the bounds are equal");
            assert_eq!(target["latency"], serde_json::to_value(Distribution::new(&both)).unwrap());
        }
        for (key, unit) in [
            ("latency", 1_000),
            ("service_time", 1_100),
            ("send_lag", 1_200),
            ("own_lag", 1_300),
            ("connect_latency", 1_400),
        ] {
            let mut both = spread(unit);
            both.add(spread(unit + 1_000)).expect("the bounds are equal");
            assert_eq!(
                value[key],
                serde_json::to_value(Distribution::new(&both)).unwrap(),
                "{key}"
            );
        }
        let shown: usize = sums.len() + 1 + 4;
        let numbers = value.as_object().expect("an object").values();
        // Beside those: the version, the number of runs, those that were ended early, the exit code.
        assert_eq!(numbers.filter(|value| value.is_number()).count(), shown + 5, "all are checked");
    }

    #[test]
    fn counts_and_histograms_add_up() {
        let first = report();
        let mut second = report();
        second.records.latency.reset();
        second.records.latency.record_n(5_000_000, 1000).expect("in bounds");
        second.records.loss(Loss::Reset);
        let merged = merge(&[saved("a", &first), saved("b", &second)]).expect("the same settings");
        let value = serde_json::to_value(&merged).expect("it has a JSON form");
        assert_eq!((&value["replies"], &value["latency"]["count"]), (&2000.into(), &2000.into()));
        assert_eq!(value["latency"]["p50_ns"], 1_000_447, "half of all are of the first");
        assert_eq!(value["latency"]["p75_ns"], 5_001_215);
        assert_eq!(value["requests_per_second_sum"], 2000.0);
        assert_eq!(value["requests_per_second_mean"], 1000.0);
        assert_eq!(
            (&value["errors"]["reset"], &value["verdict"]),
            (&1.into(), &"connections-lost".into())
        );
    }

    /// What a run is not travels with it, whichever file it is in.
    #[test]
    fn the_sum_is_as_good_as_its_worst_part() {
        let slo = |text| crate::stats::slo::parse(text).expect(text);
        let with_slo = |text| {
            let mut report = report();
            std::sync::Arc::make_mut(&mut report.plan).slos = vec![slo(text)];
            report
        };
        let mut lost = report();
        lost.records.loss(Loss::Reset);
        let mut under = report();
        under.records.established = 1;
        let mut differed = report();
        differed.records.mismatch(crate::report::tests::mismatch());
        let mut interrupted = report();
        interrupted.interrupted = true;
        let mut aborted = report();
        aborted.aborted = Some(Abort::Errors(1));
        let parts = [
            (report(), "valid", "none", 0),
            (with_slo("p50<1s"), "valid", "none", 0),
            (with_slo("p50<1us"), "valid", "missed", 99),
            (interrupted, "valid", "none", 4),
            (aborted, "valid", "none", 4),
            (under, "under-connected", "none", 4),
            (lost, "connections-lost", "none", 4),
            (differed, "echo-differed", "none", 3),
        ];
        let mut whole = report();
        whole.records.offered += 1;
        for (part, verdict, objectives, exit) in &parts {
            for runs in [[part, &whole], [&whole, part]] {
                let runs = runs.map(|run| saved("run", run));
                let merged = merge(&runs).expect("the same settings");
                assert_eq!((merged.verdict.word(), merged.exit_code), (*verdict, *exit));
                assert_eq!(merged.objectives, *objectives);
                assert_eq!(merged.runs_interrupted, usize::from(part.interrupted));
                assert_eq!(merged.runs_aborted, usize::from(part.aborted.is_some()));
            }
        }
        let all = parts.each_ref().map(|(part, ..)| part);
        let [.., under, lost, _] = all;
        let merged = merge(&[saved("a", under), saved("b", lost)]).expect("the same settings");
        assert_eq!(merged.verdict, Verdict::ConnectionsLost, "the worst, not the first");
    }

    /// The objectives of shards are those of the whole, unless one was ended before its time.
    #[test]
    fn shards_are_judged_as_one_run() {
        let slo = crate::stats::slo::parse("rate>=1500").expect("an objective");
        let shard = |index, aborted: bool| {
            let mut report = report();
            let plan = std::sync::Arc::make_mut(&mut report.plan);
            plan.shard = Shard { index, count: 3 };
            plan.slos = vec![slo.clone()];
            report.records.offered += index;
            if aborted {
                report.aborted = Some(Abort::Missed(1, report.objectives().remove(0)));
            }
            saved(&format!("{index}.json"), &report)
        };
        let merged = |runs: &[Saved]| {
            let merged = merge(runs).expect("shards of one run");
            assert_eq!(merged.config.shard, None, "the whole is no shard");
            (merged.verdict, merged.objectives, merged.exit_code)
        };
        let [zero, one, two] = [0, 1, 2].map(|index| shard(index, false));
        assert_eq!(EndState::of_saved(&zero.run).objectives, Objectives::Missed, "1000/s alone");
        assert_eq!(merged(&[zero, one, two]), (Verdict::Valid, "met".into(), 0));
        let two_of_three = [0, 2].map(|index| shard(index, false));
        assert_eq!(merged(&two_of_three), (Verdict::UnderConnected, "met".into(), 4));
        let aborted = [0, 1, 2].map(|index| shard(index, index == 1));
        assert_eq!(merged(&aborted), (Verdict::Valid, "missed".into(), 99));
    }

    #[test]
    fn a_run_is_not_added_to_itself() {
        let (first, mut second) = (report(), report());
        second.records.offered += 1;
        let runs = ["a", "b", "copy"].map(|name| match name {
            "b" => saved(name, &second),
            _ => saved(name, &first),
        });
        assert!(merge(&runs[..2]).is_ok());
        let error = merge(&runs).expect_err("refused");
        assert_eq!(error.to_string(), "a and copy are one run: give each once");
    }

    #[test]
    fn other_settings_are_refused_by_name() {
        let (first, mut second) = (report(), report());
        std::sync::Arc::make_mut(&mut second.plan).pipeline = 8;
        let error = merge(&[saved("a", &first), saved("b", &second)]).expect_err("refused");
        assert_eq!(error.to_string(), "a and b are not the same run: pipeline (1 and 8)");
    }
}
