//! Several runs as one: `loadgen merge A.json B.json ...`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Parser;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Exit, Failure};
use crate::report::distribution::{Distribution, SCHEMA_VERSION};
use crate::report::saved::{self, Saved};
use crate::report::{print, targets};

/// Adds up the counts and histograms of runs with the same settings, and writes them as JSON.
///
/// For the shards of one load that ran at the same time on several machines, and for repetitions
/// of one run. Percentiles are those of all latencies together, not means of percentiles.
#[derive(Parser, Debug)]
#[command(name = "loadgen merge", bin_name = "loadgen merge", version)]
pub struct Args {
    /// Reports written with --output-format json or ndjson
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Reads the files, and writes their sum to stdout.
///
/// # Errors
/// A file cannot be read, or its settings are others.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let runs = args.files.iter().map(|path| Saved::read(path)).collect::<Result<Vec<_>, _>>()?;
    let merged = merge(&runs)?;
    let text = serde_json::to_string_pretty(&merged).expect("it has a JSON form");
    print(&format!("{text}\n"))?;
    Ok(if merged.verdict == "valid" { Exit::Ok } else { Exit::NotValid })
}

/// The sum. docs/loadgen.schema.json describes it.
#[derive(Serialize)]
struct Merged {
    r#type: &'static str,
    schema_version: u32,
    runs: usize,
    config: Value,
    elapsed_ns_sum: u64,
    elapsed_ns_max: u64,
    requests_offered: u64,
    requests_begun: u64,
    replies: u64,
    replies_late: u64,
    requests_timed_out: u64,
    requests_unanswered: u64,
    requests_never_sent: u64,
    requests_per_second_sum: f64,
    requests_per_second_mean: f64,
    bytes_read: u64,
    bytes_verified: u64,
    connections_established: u64,
    connections_lost: u64,
    mismatched_connections: u64,
    /// `None` if a run says nothing of them.
    per_target: Option<Vec<targets::Form>>,
    latency: Distribution,
    service_time: Distribution,
    send_lag: Distribution,
    own_lag: Distribution,
    connect_latency: Distribution,
    errors: BTreeMap<String, u64>,
    verdict: String,
}

fn merge(runs: &[Saved]) -> Result<Merged, Failure> {
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
    let sum = |key: &str| runs.iter().map(|run| run.count(key)).sum();
    let rate_sum = runs.iter().map(|run| run.number("requests_per_second")).sum::<f64>();
    let max = |key: &str| runs.iter().map(|run| run.count(key)).max().unwrap_or_default();
    Ok(Merged {
        r#type: "merged",
        schema_version: SCHEMA_VERSION,
        runs: runs.len(),
        config: first.at("config").clone(),
        elapsed_ns_sum: sum("elapsed_ns"),
        elapsed_ns_max: max("elapsed_ns"),
        requests_offered: sum("requests_offered"),
        requests_begun: sum("requests_begun"),
        replies: sum("replies"),
        replies_late: sum("replies_late"),
        requests_timed_out: sum("requests_timed_out"),
        requests_unanswered: sum("requests_unanswered"),
        requests_never_sent: sum("requests_never_sent"),
        requests_per_second_sum: rate_sum,
        requests_per_second_mean: rate_sum / runs.len() as f64,
        bytes_read: sum("bytes_read"),
        bytes_verified: sum("bytes_verified"),
        connections_established: sum("connections.established"),
        connections_lost: sum("connections.lost"),
        mismatched_connections: sum("mismatched_connections"),
        per_target: saved::merge_targets(runs),
        latency: distribution(runs, "latency")?,
        service_time: distribution(runs, "service_time")?,
        send_lag: distribution(runs, "send_lag")?,
        own_lag: distribution(runs, "own_lag")?,
        connect_latency: distribution(runs, "connect_latency")?,
        errors: errors(runs),
        verdict: verdict(runs),
    })
}

fn distribution(runs: &[Saved], key: &str) -> Result<Distribution, Failure> {
    let mut sum = runs[0].histogram(key)?;
    for run in &runs[1..] {
        let added = sum.add(run.histogram(key)?);
        added.map_err(|error| Failure::Setup(format!("{}: {key}: {error}", run.name)))?;
    }
    Ok(Distribution::new(&sum))
}

fn errors(runs: &[Saved]) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    let each = runs.iter().filter_map(|run| run.at("errors").as_object()).flatten();
    for (name, count) in each {
        *sum.entry(name.clone()).or_default() += count.as_u64().unwrap_or_default();
    }
    sum
}

/// The first that is not valid, or that all are.
fn verdict(runs: &[Saved]) -> String {
    let verdicts = || runs.iter().map(|run| run.text("verdict"));
    verdicts().find(|verdict| *verdict != "valid").unwrap_or("valid").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::saved::tests::saved;
    use crate::report::tests::report;
    use crate::stats::loss::Loss;

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
            (&value["errors"]["reset"], merged.verdict.as_str()),
            (&1.into(), "connections-lost")
        );
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
        let error = merge(&runs).err().expect("refused");
        assert_eq!(error.to_string(), "a and copy are one run: give each once");
    }

    #[test]
    fn other_settings_are_refused_by_name() {
        let (first, mut second) = (report(), report());
        std::sync::Arc::make_mut(&mut second.plan).pipeline = 8;
        let error = merge(&[saved("a", &first), saved("b", &second)]).err().expect("refused");
        assert_eq!(error.to_string(), "a and b are not the same run: pipeline (1 and 8)");
    }
}
