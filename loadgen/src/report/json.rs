//! The report for machines: one object. Times are whole nanoseconds, rates are per second, and the
//! unit is in each key. The latency histogram is part of it (V2, deflated, base64: what the
//! HdrHistogram libraries read), so that the file alone can be merged with others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use serde::Serialize;

use super::{Report, hub, load};
use crate::flow::Mismatch;
use crate::target;

/// Goes up when a key changes its meaning or is taken away.
const FORMAT: u32 = 1;

/// The JSON form of a report.
#[derive(Serialize)]
pub struct Form {
    format: u32,
    loadgen_version: &'static str,
    target: String,
    config: Config,
    connections: Connections,
    elapsed_ns: u64,
    requests_begun: u64,
    replies: u64,
    replies_late: u64,
    requests_unanswered: u64,
    requests_per_second: f64,
    bytes_read: u64,
    bytes_read_per_second: f64,
    bytes_verified: u64,
    mismatched_connections: u64,
    first_mismatches: Vec<Difference>,
    #[serde(flatten)]
    latency: Latency,
    #[serde(flatten)]
    load: load::Form,
    /// For a hub: what its clients got.
    hub: Option<hub::Form>,
    errors: BTreeMap<String, u64>,
    generator_cores: f64,
    generator_busy_ratio: f64,
    generator_waiting_ratio: f64,
    server_cores: Option<f64>,
    interrupted: bool,
    verdict: &'static str,
    verdict_text: String,
    exit_code: u8,
}

#[derive(Serialize)]
struct Config {
    own_server: bool,
    connections: u64,
    connections_explicit: bool,
    threads: usize,
    duration_ns: Option<u64>,
    requests: Option<u64>,
    size_bytes: u64,
    sizes: String,
    warmup_ns: u64,
    rate_per_second: Option<u64>,
    open_loop: bool,
    strict: bool,
    pipeline: u64,
    connect_rate_per_second: Option<u64>,
    timeout_ns: u64,
    source_ips: Vec<IpAddr>,
    seed: u64,
}

#[derive(Serialize)]
struct Connections {
    asked: u64,
    possible: u64,
    shortfall: Option<String>,
    established: u64,
    served: u64,
    lost: u64,
    replies_min: u64,
    replies_median: u64,
    replies_max: u64,
}

#[derive(Serialize)]
struct Difference {
    connection: u64,
    stream_offset: u64,
    expected: Vec<u8>,
    actual: Vec<u8>,
    note: Option<String>,
}

#[derive(Serialize)]
struct Latency {
    latency_count: u64,
    latency_min_ns: u64,
    latency_mean_ns: u64,
    latency_stdev_ns: u64,
    latency_p50_ns: u64,
    latency_p75_ns: u64,
    latency_p90_ns: u64,
    latency_p99_ns: u64,
    latency_p99_9_ns: u64,
    latency_p99_99_ns: u64,
    latency_max_ns: u64,
    latency_histogram_v2_deflate_base64: String,
}

impl Form {
    pub fn new(report: &Report) -> Form {
        let records = &report.records;
        Form {
            format: FORMAT,
            loadgen_version: env!("CARGO_PKG_VERSION"),
            target: target::url(report.plan.service, report.plan.target),
            config: config(report),
            connections: connections(report),
            elapsed_ns: nanos(records.elapsed()),
            requests_begun: records.requests,
            replies: records.replies,
            replies_late: records.replies_late,
            requests_unanswered: records.unanswered,
            requests_per_second: report.requests_per_second(),
            bytes_read: records.bytes,
            bytes_read_per_second: report.bytes_per_second(),
            bytes_verified: records.bytes_verified,
            mismatched_connections: records.mismatches,
            first_mismatches: records.first_mismatches.iter().map(difference).collect(),
            latency: latency(&records.latency),
            load: load::Form::new(records),
            hub: hub::Form::new(report),
            errors: report.errors().into_iter().collect(),
            generator_cores: report.generator_cores(),
            generator_busy_ratio: report.generator_busy(),
            generator_waiting_ratio: report.generator_waiting(),
            server_cores: report.server_cores,
            interrupted: report.interrupted,
            verdict: report.verdict().word(),
            verdict_text: report.verdict_text(),
            exit_code: report.exit() as u8,
        }
    }
}

fn config(report: &Report) -> Config {
    let plan = &report.plan;
    Config {
        own_server: plan.own_server,
        connections: plan.connections_asked,
        connections_explicit: plan.connections_explicit,
        threads: plan.threads,
        duration_ns: plan.duration.map(nanos),
        requests: plan.requests,
        size_bytes: plan.size,
        sizes: plan.sizes.to_string(),
        warmup_ns: nanos(plan.warmup),
        rate_per_second: plan.rate,
        open_loop: plan.open_loop.is_some(),
        strict: plan.open_loop.as_ref().is_some_and(|open_loop| open_loop.strict),
        pipeline: plan.pipeline,
        connect_rate_per_second: plan.connect_rate,
        timeout_ns: nanos(plan.timeout),
        source_ips: plan.sources.clone(),
        seed: plan.seed,
    }
}

fn connections(report: &Report) -> Connections {
    let (replies_min, replies_median, replies_max) = report.replies_each();
    Connections {
        asked: report.plan.connections_asked,
        possible: report.plan.connections,
        shortfall: report.plan.shortfall.as_ref().map(ToString::to_string),
        established: report.records.established,
        served: report.records.served(),
        lost: report.records.losses.total(),
        replies_min,
        replies_median,
        replies_max,
    }
}

fn difference(mismatch: &Mismatch) -> Difference {
    Difference {
        connection: mismatch.connection,
        stream_offset: mismatch.stream_offset,
        expected: mismatch.expected.clone(),
        actual: mismatch.actual.clone(),
        note: mismatch.note.clone(),
    }
}

fn latency(values: &Histogram<u64>) -> Latency {
    let at = |percentile| values.value_at_percentile(percentile);
    Latency {
        latency_count: values.len(),
        latency_min_ns: values.min(),
        latency_mean_ns: values.mean().round() as u64,
        latency_stdev_ns: values.stdev().round() as u64,
        latency_p50_ns: at(50.0),
        latency_p75_ns: at(75.0),
        latency_p90_ns: at(90.0),
        latency_p99_ns: at(99.0),
        latency_p99_9_ns: at(99.9),
        latency_p99_99_ns: at(99.99),
        latency_max_ns: values.max(),
        latency_histogram_v2_deflate_base64: encoded(values),
    }
}

fn encoded(values: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(values, &mut bytes)
        .expect("counts fit, and a vector takes all bytes");
    BASE64.encode(bytes)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{mismatch, report};
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use serde_json::Value;

    fn form(report: &Report) -> Value {
        serde_json::to_value(Form::new(report)).expect("it has a JSON form")
    }

    #[test]
    fn the_histogram_in_it_has_the_same_percentiles() {
        let form = form(&report());
        let text = form["latency_histogram_v2_deflate_base64"].as_str().expect("text");
        let bytes = BASE64.decode(text).expect("base64");
        let values: Histogram<u64> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram");
        let keys =
            [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99_9", 99.9), ("p99_99", 99.99)];
        for (key, percentile) in keys {
            let value = values.value_at_percentile(percentile);
            assert_eq!(form[format!("latency_{key}_ns")].as_u64(), Some(value), "{key}");
        }
        assert_eq!(form["latency_count"].as_u64(), Some(values.len()));
        assert_eq!(form["latency_max_ns"].as_u64(), Some(values.max()));
    }

    #[test]
    fn counts_units_and_verdict() {
        let mut report = report();
        report.records.mismatch(mismatch());
        let form = form(&report);
        assert_eq!(form["elapsed_ns"], 1_000_000_000u64);
        assert_eq!(form["config"]["duration_ns"], 1_000_000_000u64);
        assert_eq!(form["config"]["size_bytes"], 64);
        assert_eq!(form["connections"]["established"], 2);
        assert_eq!(form["first_mismatches"][0]["stream_offset"], 130);
        assert_eq!((&form["verdict"], &form["exit_code"]), (&"echo-differed".into(), &3.into()));
        assert_eq!(form["server_cores"], Value::Null);
    }
}
