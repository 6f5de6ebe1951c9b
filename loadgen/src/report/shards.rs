//! The shards of one run, added up: whether all are there, whether they ran at the same time, and
//! the objectives of the whole.

use hdrhistogram::Histogram;

use super::Verdict;
use super::ending::Objectives;
use super::json::objective;
use super::saved::Saved;
use super::schema::{ObjectiveResult, RunSummary, ShardsSummary};
use crate::error::Failure;
use crate::stats::records::latency_histogram;
use crate::stats::slo::{self, Observed};

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
        let missing = (0..first.count).filter(|index| found.iter().all(|(one, _)| one != index));
        Ok(Some(ShardsSummary {
            count: first.count,
            missing: missing.collect(),
            together_ns: together_ns(runs),
            starts_apart_ns: starts_apart_ns(runs),
            objectives: objectives(runs, latency),
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

/// The time in which all shards measured; `None` if one has no begin.
fn together_ns(runs: &[Saved]) -> Option<u64> {
    let begins = begins(runs)?;
    let end = |(run, begin): (&Saved, &u64)| begin + run.run.elapsed_ns;
    let ends = runs.iter().zip(&begins).map(end);
    Some(ends.min()?.saturating_sub(*begins.iter().max()?))
}

fn starts_apart_ns(runs: &[Saved]) -> Option<u64> {
    let begins = begins(runs)?;
    Some(begins.iter().max()? - begins.iter().min()?)
}

/// When each began, by the clock of shard 0 if they have compared their clocks.
fn begins(runs: &[Saved]) -> Option<Vec<u64>> {
    let begin = |run: &RunSummary| {
        let ahead = run.clock.map_or(0, |clock| clock.ahead_ns);
        run.began_unix_ns?.checked_add_signed(-ahead)
    };
    runs.iter().map(|saved| begin(&saved.run)).collect()
}

/// The objectives, judged by the latencies, rates and errors of all shards.
fn objectives(runs: &[Saved], latency: &Histogram<u64>) -> Vec<ObjectiveResult> {
    let sum = |of: fn(&RunSummary) -> u64| runs.iter().map(|saved| of(&saved.run)).sum::<u64>();
    let unfinished =
        sum(|run| run.requests_timed_out + run.requests_unanswered + run.requests_never_sent);
    let errors = |run: &RunSummary| run.errors.values().map(|count| count.get()).sum::<u64>();
    let observed = Observed {
        latency,
        unfinished: &lowest(latency, unfinished),
        generator_late: runs.iter().any(|saved| saved.run.verdict == Verdict::GeneratorLimited),
        rate: Some(runs.iter().map(|saved| saved.run.requests_per_second).sum()),
        errors: sum(|run| run.mismatched_connections)
            + runs.iter().map(|saved| errors(&saved.run)).sum::<u64>(),
    };
    let texts = runs[0].run.objectives.iter().map(|one| one.objective.as_str());
    let parsed = texts.filter_map(|text| slo::parse(text).ok());
    parsed.map(|slo| objective(&slo.judge(&observed))).collect()
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
mod tests {
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
