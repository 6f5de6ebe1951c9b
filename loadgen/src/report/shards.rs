//! The shards of one run, added up: whether all are there, whether they ran at the same time, and
//! the objectives of the whole.

use hdrhistogram::Histogram;

use super::Verdict;
use super::ending::Objectives;
use super::hdr;
use super::json::objective;
use super::saved::Saved;
use super::schema::{
    Distribution, ObjectiveResult, RunSummary, SecondSummary, ShardSummary, ShardsSummary,
};
use crate::error::Failure;
use crate::stats::records::latency_histogram;
use crate::stats::slo::{self, Observed, Outcome};

impl ShardsSummary {
    /// What these runs are as shards of one run; `None` if they are not shards. `latency`: that of
    /// all of them.
    ///
    /// # Errors
    /// They are not shards of the same run.
    pub fn new(runs: &[Saved], latency: &Histogram<u64>) -> Result<Option<ShardsSummary>, Failure> {
        let Some(first) = runs[0].run.config.shard else {
            return match runs.iter().find(|run| run.run.config.shard.is_some()) {
                None => Ok(None),
                Some(run) => refuse(format!(
                    "{} is a shard of a run, and {} is a whole run",
                    run.name, runs[0].name
                )),
            };
        };
        let mut found: Vec<(u64, &Saved)> = Vec::with_capacity(runs.len());
        for run in runs {
            let Some(shard) = run.run.config.shard else {
                return refuse(format!("{} is a whole run, and not a shard", run.name));
            };
            if shard.count != first.count {
                let (one, other) = (&runs[0].name, &run.name);
                return refuse(format!("{one} is shard {first}, and {other} shard {shard}"));
            }
            if run.run.config.seed != runs[0].run.config.seed {
                return refuse(format!(
                    "{} and {} have different seeds, so they are not shards of one run",
                    runs[0].name, run.name
                ));
            }
            if let Some((_, same)) = found.iter().find(|(index, _)| *index == shard.index) {
                return refuse(format!("{} and {} are both shard {shard}", same.name, run.name));
            }
            found.push((shard.index, run));
        }
        found.sort_by_key(|(index, _)| *index);
        let together = latency_together(runs)?;
        let missing = (0..first.count).filter(|index| found.iter().all(|(one, _)| one != index));
        Ok(Some(ShardsSummary {
            count: first.count,
            missing: missing.collect(),
            together_ns: Common::of(runs).map(|common| common.length_ns()),
            starts_apart_ns: starts_apart_ns(runs),
            requests_per_second_together: rate_together(runs),
            each: found.iter().map(|(_, run)| ShardSummary::new(run, runs)).collect(),
            objectives: objectives(runs, together.as_ref().ok(), latency),
            latency_note: match &together {
                Ok(together) => format!(
                    "{} of {} latencies are of the seconds in which all shards measured. Service \
                     time, lags and parts are those of the whole shards.",
                    together.latency.len(),
                    latency.len()
                ),
                Err(why) => format!("Latencies are those of the whole runs: {why}."),
            },
            latency_together: together.ok().map(|cut| Distribution::new(&cut.latency)),
        }))
    }

    /// The verdict that the whole cannot be better than.
    pub fn verdict(&self) -> Verdict {
        if self.missing.is_empty() { Verdict::Valid } else { Verdict::UnderConnected }
    }

    /// The result of the objectives of the whole.
    pub fn objectives(&self) -> Objectives {
        Objectives::of_all(self.objectives.iter().map(Objectives::of_result))
    }
}

fn refuse<T>(text: String) -> Result<T, Failure> {
    Err(Failure::Setup(text))
}

impl ShardSummary {
    /// `runs`: all of them.
    fn new(saved: &Saved, runs: &[Saved]) -> ShardSummary {
        let run = &saved.run;
        let first = begins(runs).and_then(|begins| begins.into_iter().min());
        ShardSummary {
            index: run.config.shard.map_or(0, |shard| shard.index),
            began_after_ns: first.and_then(|first| Some(begin(run)? - first)),
            elapsed_ns: run.elapsed_ns,
            connections_established: run.connections.established,
            connections_lost: run.connections.lost,
            requests_offered: run.requests_offered,
            replies: run.replies,
            requests_per_second: run.requests_per_second,
            latency: run.latency.percentiles,
            own_lag: run.own_lag.percentiles,
            verdict: run.verdict,
        }
    }
}

/// The time in which all shards measured, by the clock of shard 0.
struct Common {
    begin: u64,
    end: u64,
}

impl Common {
    /// `None` if one has no begin.
    fn of(runs: &[Saved]) -> Option<Common> {
        let begins = begins(runs)?;
        let end = |(run, begin): (&Saved, &u64)| begin + run.run.elapsed_ns;
        let end = runs.iter().zip(&begins).map(end).min()?;
        Some(Common { begin: *begins.iter().max()?, end })
    }

    fn length_ns(&self) -> u64 {
        self.end.saturating_sub(self.begin)
    }

    /// The part of a time that is in this one.
    fn part_of(&self, begin: u64, length: u64) -> f64 {
        let within = (begin + length).min(self.end).saturating_sub(begin.max(self.begin));
        within as f64 / length.max(1) as f64
    }
}

/// The rate of all in the time in which all measured. `None` if there is no such time, or a file
/// does not have the seconds of its run.
fn rate_together(runs: &[Saved]) -> Option<f64> {
    let common = Common::of(runs).filter(|common| common.length_ns() > 0)?;
    let mut replies = 0.0;
    for (Saved { run, .. }, began) in runs.iter().zip(begins(runs)?) {
        if run.intervals.iter().map(|second| second.replies).sum::<u64>() != run.replies {
            return None;
        }
        let part = |second: &SecondSummary| {
            second.replies as f64 * common.part_of(began + second.start_ns, second.length_ns)
        };
        replies += run.intervals.iter().map(part).sum::<f64>();
    }
    Some(replies * 1e9 / common.length_ns() as f64)
}

/// What is known, or why it is not.
type Known<T> = Result<T, String>;

/// A second counts for the common time if at most this part of it is outside. So the first and the
/// last second of shards that began some milliseconds apart are not lost.
const OUTSIDE_MAX: f64 = 0.1;

/// The latencies of all in the time in which all measured.
struct Together {
    latency: Histogram<u64>,
    /// And those of the last seconds that are not within that time but have requests that were late at
    /// the end of a shard: most of these were due when all measured.
    with_late: Histogram<u64>,
}

/// The latencies of all in the time in which all measured, by whole seconds because a histogram
/// cannot be divided; or why they are not known.
///
/// # Errors
/// A histogram is malformed.
fn latency_together(runs: &[Saved]) -> Result<Known<Together>, Failure> {
    let (Some(common), Some(begins)) = (Common::of(runs), begins(runs)) else {
        return Ok(Err("a file does not say when its shard measured".into()));
    };
    if common.length_ns() == 0 {
        return Ok(Err("the shards never measured at the same time".into()));
    }
    let mut together = Together { latency: latency_histogram(), with_late: latency_histogram() };
    for (saved, began) in runs.iter().zip(begins) {
        let (mut found, mut is_within, mut has_any) = (0, false, false);
        for second in &saved.run.intervals {
            let text = &second.latency_histogram_v2_deflate_base64;
            if text.is_empty() {
                break;
            }
            let failed = |why| Failure::Setup(format!("{}: intervals: {why}", saved.name));
            let values = hdr::decode(text).map_err(failed)?;
            found += values.len();
            // What arrived after the measured period belongs to its last second.
            if second.length_ns > 0 {
                let part = common.part_of(began + second.start_ns, second.length_ns);
                is_within = part >= 1.0 - OUTSIDE_MAX;
            }
            let has_late = values.len() > second.replies || second.length_ns == 0;
            let Together { latency, with_late } = &mut together;
            for (all, belongs) in [(latency, is_within), (with_late, is_within || has_late)] {
                if belongs {
                    all.add(&values).map_err(|error| failed(error.to_string()))?;
                }
            }
            has_any |= is_within;
        }
        if found != saved.latency.len() {
            return Ok(Err(format!("{} does not have the histogram of each second", saved.name)));
        }
        if !has_any && found > 0 {
            let name = &saved.name;
            return Ok(Err(format!(
                "the time in which all shards measured has no whole second of {name}"
            )));
        }
    }
    match together.latency.is_empty() {
        true => Ok(Err("there are none of the time in which all shards measured".into())),
        false => Ok(Ok(together)),
    }
}

fn starts_apart_ns(runs: &[Saved]) -> Option<u64> {
    let begins = begins(runs)?;
    Some(begins.iter().max()? - begins.iter().min()?)
}

/// When each began, by the clock of shard 0 if they have compared their clocks.
fn begins(runs: &[Saved]) -> Option<Vec<u64>> {
    runs.iter().map(|saved| begin(&saved.run)).collect()
}

fn begin(run: &RunSummary) -> Option<u64> {
    let ahead = run.clock.map_or(0, |clock| clock.ahead_ns);
    run.began_unix_ns?.checked_add_signed(-ahead)
}

/// The objectives, judged by the latencies, rates and errors of all shards. The rate is that of the
/// time in which all measured: there is none if they never measured at the same time. If that time or
/// the replies in it are unknown, it is the sum of the shards' own rates.
///
/// The latencies are those of that time, too, and an objective is met only if it also is with those of
/// requests that were late at the end of a shard.
fn objectives(
    runs: &[Saved],
    together: Option<&Together>,
    whole: &Histogram<u64>,
) -> Vec<ObjectiveResult> {
    let Some(Together { latency, with_late }) = together else {
        return judged(runs, whole).iter().map(objective).collect();
    };
    let both = judged(runs, latency).into_iter().zip(judged(runs, with_late));
    both.map(|(cut, late)| objective(if cut.is_met() { &late } else { &cut })).collect()
}

/// By these latencies.
fn judged(runs: &[Saved], latency: &Histogram<u64>) -> Vec<Outcome> {
    let sum = |of: fn(&RunSummary) -> u64| runs.iter().map(|saved| of(&saved.run)).sum::<u64>();
    let unfinished =
        sum(|run| run.requests_timed_out + run.requests_unanswered + run.requests_never_sent);
    let errors = |run: &RunSummary| run.errors.values().map(|count| count.get()).sum::<u64>();
    let observed = Observed {
        latency,
        unfinished: &lowest(latency, unfinished),
        generator_late: runs.iter().any(|saved| saved.run.verdict == Verdict::GeneratorLimited),
        rate: match Common::of(runs) {
            Some(common) if common.length_ns() == 0 => None,
            _ => rate_together(runs)
                .or_else(|| Some(runs.iter().map(|saved| saved.run.requests_per_second).sum())),
        },
        errors: sum(|run| run.mismatched_connections)
            + runs.iter().map(|saved| errors(&saved.run)).sum::<u64>(),
    };
    let texts = runs[0].run.objectives.iter().map(|one| one.objective.as_str());
    let parsed = texts.filter_map(|text| slo::parse(text).ok());
    parsed.map(|slo| slo.judge(&observed)).collect()
}

/// The lowest values. Which latencies are lower bounds is not in a file; that the lowest are is the
/// worst case for an upper limit.
fn lowest(latency: &Histogram<u64>, count: u64) -> Histogram<u64> {
    let (mut lowest, mut left) = (latency_histogram(), count);
    for step in latency.iter_recorded() {
        let taken = step.count_at_value().min(left);
        lowest.record_n(step.value_iterated_to(), taken).expect("within the bounds");
        left -= taken;
    }
    lowest
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::plan::shard::Shard;
    use crate::report::Report;
    use crate::report::saved::tests::saved;
    use crate::report::schema::ClockComparison;
    use crate::report::tests::{mismatch, report};
    use crate::stats::loss::Loss;

    fn shard(index: u64, count: u64, change: impl FnOnce(&mut Report)) -> Saved {
        let mut report = report();
        let plan = Arc::make_mut(&mut report.plan);
        plan.shard = Shard { index, count };
        plan.connections_all = plan.connections * count;
        report.began_at =
            Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + 200 * index));
        change(&mut report);
        saved(&format!("{index}.json"), &report)
    }

    /// Both shards of a run, of which the second began 200 ms later.
    pub fn two_shards() -> ShardsSummary {
        of(&[0, 1].map(|index| shard(index, 2, |_| ()))).expect("one run").expect("shards")
    }

    fn of(runs: &[Saved]) -> Result<Option<ShardsSummary>, String> {
        let mut latency = latency_histogram();
        for run in runs {
            latency.add(&run.latency).expect("the bounds are equal");
        }
        ShardsSummary::new(runs, &latency).map_err(|error| error.to_string())
    }

    #[test]
    fn who_is_missing_and_how_long_all_ran_is_said() {
        let runs = [2, 0].map(|index| shard(index, 4, |_| ()));
        let shards = of(&runs).expect("shards of one run").expect("shards");
        assert_eq!((shards.count, &shards.missing[..]), (4, &[1, 3][..]));
        assert_eq!(shards.verdict(), Verdict::UnderConnected);
        assert_eq!(runs[0].run.elapsed_ns, 1_000_000_000);
        assert_eq!(shards.starts_apart_ns, Some(400_000_000));
        assert_eq!(shards.together_ns, Some(600_000_000));
        let whole = of(&[0, 1].map(|index| shard(index, 2, |_| ()))).unwrap().expect("shards");
        assert_eq!((whole.missing.len(), whole.verdict()), (0, Verdict::Valid));
        assert_eq!(of(&[saved("a", &report()), saved("b", &report())]), Ok(None));
    }

    #[test]
    fn begins_are_compared_by_the_clock_of_shard_0() {
        let with = |index, ahead_ns| {
            shard(index, 2, |report| {
                report.clock = Some(ClockComparison { ahead_ns, error_max_ns: 0 });
            })
        };
        // It began 200 ms later by a clock that is 150 ms ahead.
        let shards = of(&[with(0, 0), with(1, 150_000_000)]).unwrap().expect("shards");
        assert_eq!(shards.starts_apart_ns, Some(50_000_000));
        assert_eq!(shards.together_ns, Some(950_000_000));
        let unknown = of(&[with(0, 0), shard(1, 2, |report| report.began_at = None)]);
        assert_eq!(unknown.unwrap().expect("shards").together_ns, None);
    }

    /// Shard 1 begins half a second later than shard 0, and both measure two seconds.
    #[test]
    fn the_rate_is_that_of_the_time_in_which_all_measured() {
        let with = |index: u64, replies: [u64; 2]| {
            let mut saved = shard(index, 2, |report| {
                let begin = Duration::from_millis(1_000_000 + 500 * index);
                report.began_at = Some(SystemTime::UNIX_EPOCH + begin);
                report.records.ended = report.records.began + Duration::from_secs(2);
            });
            saved.run.replies = replies.iter().sum();
            let intervals = [0, 1].map(|nth| SecondSummary {
                second: nth + 1,
                start_ns: nth * 1_000_000_000,
                length_ns: 1_000_000_000,
                replies: replies[nth as usize],
                ..SecondSummary::new(&crate::report::distinct::second(0))
            });
            saved.run.intervals = intervals.to_vec();
            saved
        };
        // 50 of the first and 300 of the second second, and 20 and half of 200, in 1.5 seconds.
        let runs = [with(0, [100, 300]), with(1, [20, 200])];
        let shards = of(&runs).unwrap().expect("shards");
        assert_eq!(shards.together_ns, Some(1_500_000_000));
        assert_eq!(shards.requests_per_second_together, Some((50 + 300 + 20 + 100) as f64 / 1.5));
        let each: Vec<_> =
            shards.each.iter().map(|one| (one.index, one.began_after_ns, one.replies)).collect();
        assert_eq!(each, [(0, Some(0), 400), (1, Some(500_000_000), 220)]);
        // A file without its seconds, and shards that did not run at the same time.
        let mut without = with(1, [20, 200]);
        without.run.intervals.clear();
        let rate = |runs: &[Saved]| of(runs).unwrap().expect("shards").requests_per_second_together;
        assert_eq!(rate(&[with(0, [100, 300]), without]), None);
        let mut later = with(1, [20, 200]);
        later.run.began_unix_ns = Some(2_000_000_000_000);
        assert_eq!(rate(&[with(0, [100, 300]), later]), None);
    }

    /// A shard of three seconds that began so many milliseconds after shard 0. Ten replies arrive in
    /// each second, and one afterwards; each takes as many milliseconds as `latencies` says.
    fn with_seconds(index: u64, after_millis: u64, latencies: [u64; 4]) -> Saved {
        let rows = (0..).zip(latencies).map(|(nth, millis)| {
            let mut row = crate::report::distinct::second(0);
            row.start = Duration::from_secs(nth);
            row.length = Duration::from_secs(u64::from(nth < 3));
            row.latency.reset();
            let times = if nth < 3 { 10 } else { 1 };
            row.latency.record_n(millis * 1_000_000, times).expect("in bounds");
            row.replies = if nth < 3 { times } else { 0 };
            row
        });
        let rows: Vec<_> = rows.collect();
        shard(index, 2, |report| {
            let begin = Duration::from_millis(1_000_000 + after_millis);
            report.began_at = Some(SystemTime::UNIX_EPOCH + begin);
            report.records.ended = report.records.began + Duration::from_secs(3);
            report.records.latency.reset();
            for row in &rows {
                report.records.latency.add(&row.latency).expect("the bounds are equal");
            }
            report.intervals = rows.iter().map(SecondSummary::with_histogram).collect();
        })
    }

    /// The counts of each latency in milliseconds, and the line about it.
    fn together(runs: &[Saved]) -> (Vec<(u64, u64)>, String) {
        let shards = of(runs).expect("shards of one run").expect("shards");
        let latency = shards.latency_together.map(|latency| latency.histogram().expect("encoded"));
        let counts = latency.iter().flat_map(Histogram::iter_recorded);
        let counts = counts
            .map(|step| (step.value_iterated_to() / 1_000_000, step.count_at_value()))
            .collect();
        (counts, shards.latency_note)
    }

    #[test]
    fn latencies_are_those_of_the_seconds_in_which_all_measured() {
        let first = || with_seconds(0, 0, [1, 2, 3, 4]);
        let second = |after_millis| with_seconds(1, after_millis, [10, 20, 30, 40]);
        let all = [1, 2, 3, 10, 20, 30].map(|millis| (millis, 10));
        let (mut whole, note) = together(&[first(), second(100)]);
        whole.retain(|(_, count)| *count == 10);
        assert_eq!(whole, all, "a tenth of a second may be outside");
        let others = "Service time, lags and parts are those of the whole shards.";
        let first_words = "latencies are of the seconds in which all shards measured.";
        assert_eq!(note, format!("62 of 62 {first_words} {others}"));
        let (counts, note) = together(&[first(), second(500)]);
        assert_eq!(counts, [(2, 10), (3, 10), (4, 1), (10, 10), (20, 10)]);
        assert_eq!(note, format!("41 of 62 {first_words} {others}"));
    }

    #[test]
    fn latencies_that_cannot_be_cut_are_those_of_the_whole_runs_and_it_is_said() {
        let first = || with_seconds(0, 0, [1, 2, 3, 4]);
        let second = |change: fn(&mut Saved)| {
            let mut saved = with_seconds(1, 100, [10, 20, 30, 40]);
            change(&mut saved);
            saved
        };
        for (changed, why) in [
            (second(|saved| saved.run.began_unix_ns = None), "a file does not say when its shard"),
            (second(|saved| saved.run.began_unix_ns = Some(1)), "never measured at the same time"),
            (second(|saved| saved.run.intervals.clear()), "1.json does not have the histogram of"),
            (
                second(|saved| drop(saved.run.intervals.pop())),
                "1.json does not have the histogram of",
            ),
            (
                second(|saved| {
                    saved.run.intervals[1].latency_histogram_v2_deflate_base64.clear();
                }),
                "1.json does not have the histogram of each second",
            ),
            (with_seconds(1, 2_500, [10, 20, 30, 40]), "measured has no whole second of 0.json"),
        ] {
            let (counts, note) = together(&[first(), changed]);
            assert_eq!(counts, [], "{why}");
            assert!(note.starts_with("Latencies are those of the whole runs: "), "{note}");
            assert!(note.contains(why), "{note}");
        }
        let malformed = second(|saved| {
            saved.run.intervals[1].latency_histogram_v2_deflate_base64 = "?".into();
        });
        let error = of(&[first(), malformed]).expect_err("malformed");
        assert!(error.starts_with("1.json: intervals: not base64"), "{error}");
    }

    /// Shard 0 is slow while it is alone, and so is shard 1.
    #[test]
    fn objectives_are_judged_by_the_latencies_of_the_common_time() {
        let judged_with = |cut: bool, last: [u64; 2], late: u64| {
            let shards = [(0, 0, [900, 2, 3, last[0]]), (1, 900, [10, 20, 900, last[1]])];
            let runs = shards.map(|(index, after_millis, latencies)| {
                let mut saved = with_seconds(index, after_millis, latencies);
                saved.run.intervals[0].replies -= late;
                let slo = slo::parse("p99<100ms").expect("an objective");
                saved.run.objectives = vec![objective(&slo.judge(&Observed {
                    latency: &saved.latency,
                    unfinished: &latency_histogram(),
                    generator_late: false,
                    rate: None,
                    errors: 0,
                }))];
                if !cut {
                    saved.run.intervals.clear();
                }
                saved
            });
            of(&runs).unwrap().expect("shards").objectives[0].met
        };
        let judged = |cut, last| judged_with(cut, last, 0);
        assert!(judged(true, [4, 40]) && !judged(false, [4, 40]));
        // A row of several seconds can be the last one, with replies that came after the end.
        assert!(!judged_with(true, [4, 40], 1));
        // What shard 0 had under way at its end counts, and what shard 1 had, which ended later.
        assert!(!judged(true, [900, 40]) && !judged(true, [4, 900]));
    }

    /// Shard 1 ends later, so that the common time has no whole second of it.
    #[test]
    fn a_shard_without_a_whole_second_in_the_common_time_is_not_left_out() {
        let short = |index, millis: u64| {
            let mut saved = with_seconds(index, 0, [10, 20, 30, 40]);
            saved.run.intervals.truncate(1);
            saved.run.intervals[0].length_ns = millis * 1_000_000;
            saved.run.elapsed_ns = millis * 1_000_000;
            let encoded = &saved.run.intervals[0].latency_histogram_v2_deflate_base64;
            saved.latency = hdr::decode(encoded).expect("encoded");
            saved
        };
        let (counts, note) = together(&[short(0, 400), short(1, 420)]);
        assert_eq!(counts, [(10, 20)], "{note}");
        let (counts, note) = together(&[short(0, 400), short(1, 900)]);
        assert_eq!(counts, []);
        assert!(note.ends_with("measured has no whole second of 1.json."), "{note}");
    }

    /// It has no latency that could be left out.
    #[test]
    fn a_shard_without_a_reply_takes_nothing_from_the_others() {
        let mut mute = with_seconds(1, 2_500, [10, 20, 30, 40]);
        mute.run.intervals.clear();
        mute.latency.reset();
        let (counts, note) = together(&[with_seconds(0, 2_000, [1, 2, 3, 4]), mute]);
        assert_eq!(counts, [(2, 10), (3, 10), (4, 1)], "{note}");
    }

    #[test]
    fn what_are_not_shards_of_one_run_is_refused() {
        let first = || shard(0, 2, |_| ());
        let whole = || saved("whole.json", &report());
        let other_seed = shard(1, 2, |report| Arc::make_mut(&mut report.plan).seed += 1);
        for (runs, reason) in [
            ([first(), first()], "0.json and 0.json are both shard 0/2"),
            ([first(), shard(1, 3, |_| ())], "0.json is shard 0/2, and 1.json shard 1/3"),
            ([first(), whole()], "whole.json is a whole run, and not a shard"),
            ([whole(), first()], "0.json is a shard of a run, and whole.json is a whole run"),
            ([first(), other_seed], "0.json and 1.json have different seeds"),
        ] {
            let error = of(&runs).expect_err(reason);
            assert!(error.starts_with(reason), "{error}");
        }
    }

    /// A shard alone may miss an objective that the whole meets, and the other way round.
    #[test]
    fn objectives_are_those_of_the_whole() {
        let with = |index, latency_ns: u64, never_sent| {
            shard(index, 2, |report| {
                let slos = ["p50<3ms", "rate>=1500", "errors<1"];
                let plan = Arc::make_mut(&mut report.plan);
                plan.slos = slos.map(|text| slo::parse(text).expect(text)).to_vec();
                report.records.latency.reset();
                report.records.latency.record_n(latency_ns, 1_000).expect("in bounds");
                report.records.never_sent = never_sent;
            })
        };
        let met = |runs: &[Saved]| {
            let results = of(runs).unwrap().expect("shards").objectives;
            let word = |one: &ObjectiveResult| (one.objective.clone(), one.met, one.undecided);
            results.iter().map(word).collect::<Vec<_>>()
        };
        let expected = |p50: (bool, bool)| {
            let [p50, rate, errors] =
                [("p50<3ms", p50), ("rate>=1500", (true, false)), ("errors<1", (true, false))]
                    .map(|(text, (met, undecided))| (text.to_owned(), met, undecided));
            vec![p50, rate, errors]
        };
        assert_eq!(met(&[with(0, 1_000_000, 0), with(1, 5_000_000, 0)]), expected((true, false)));
        assert_eq!(
            met(&[with(0, 1_000_000, 100), with(1, 5_000_000, 0)]),
            expected((false, true)),
            "a hundred of the faster half may have been slower"
        );
        assert_eq!(met(&[with(0, 4_000_000, 0), with(1, 5_000_000, 0)]), expected((false, false)));

        let rate_is_met = |began_unix_ns| {
            let mut second = with(1, 5_000_000, 0);
            second.run.began_unix_ns = began_unix_ns;
            met(&[with(0, 1_000_000, 0), second])[1].1
        };
        assert!(rate_is_met(None), "when it ran is unknown");
        assert!(!rate_is_met(Some(2_000_000_000_000)), "they did not run at the same time");
    }

    #[test]
    fn requests_without_a_reply_and_errors_of_each_kind_count() {
        let measured = |change: fn(&mut Report), text: &str| {
            let slo = slo::parse(text).expect("an objective");
            let part = |index| {
                shard(index, 2, |report| {
                    Arc::make_mut(&mut report.plan).slos = vec![slo.clone()];
                    change(report);
                })
            };
            let shards = of(&[part(0), part(1)]).unwrap().expect("shards");
            let one = shards.objectives[0].clone();
            (one.measured, one.met, one.undecided)
        };
        let errors = |report: &mut Report| {
            (0..3).for_each(|_| report.records.loss(Loss::Reset));
            (0..2).for_each(|_| report.records.mismatch(mismatch()));
        };
        assert_eq!(measured(errors, "errors<10"), (Some(10.0), false, false));
        assert_eq!(measured(errors, "errors<11"), (Some(10.0), true, false));
        // Each shard has the values 1 to 1000 us, and 175 of them are lower bounds. If these are the
        // lowest, the median is up to 675 us.
        let unfinished = |report: &mut Report| {
            let records = &mut report.records;
            (records.timed_out, records.unanswered, records.never_sent) = (100, 50, 25);
        };
        for (text, met) in [("p50<690us", true), ("p50<660us", false)] {
            assert_eq!(measured(unfinished, text).1, met, "{text}");
        }
    }
}
