//! The report for machines: one object. Times are whole nanoseconds, rates are per second, and the
//! unit is in each key. The latency histogram is part of it (V2, deflated, base64: what the
//! HdrHistogram libraries read), so that the file alone can be merged with others.
//! docs/loadgen.schema.json describes every key.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::distribution::{Distribution, SCHEMA_VERSION, nanos, unix_nanos};
use super::{Report, hub, load, targets};
use crate::cli::Lifetime;
use crate::plan::calibration::Standing;
use crate::stats::loss::Mismatch;
use crate::stats::slo::{Metric, Outcome};
use crate::traffic::schedule::{Spacing, Stage};

/// The JSON form of a report.
#[derive(Serialize)]
pub struct Form {
    r#type: &'static str,
    schema_version: u32,
    loadgen_version: &'static str,
    target: String,
    targets: Vec<String>,
    config: Config,
    connections: Connections,
    per_target: Vec<targets::Form>,
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
    latency: Distribution,
    #[serde(flatten)]
    load: load::Form,
    /// For a hub: what its clients got.
    hub: Option<hub::Form>,
    errors: BTreeMap<String, u64>,
    generator_cores: f64,
    generator_busy_ratio: f64,
    generator_waiting_ratio: f64,
    server_cores: Option<f64>,
    ceiling: CeilingForm,
    began_unix_ns: Option<u64>,
    interrupted: bool,
    aborted: Option<String>,
    objectives: Vec<Objective>,
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
    arrivals: Option<&'static str>,
    stages: Option<Vec<StageForm>>,
    lifetime_requests: Option<u64>,
    lifetime_ns: Option<u64>,
    rude_clients: BTreeMap<&'static str, u64>,
    pipeline: u64,
    busy_poll: bool,
    connect_rate_per_second: Option<u64>,
    timeout_ns: u64,
    source_ips: Vec<IpAddr>,
    seed: u64,
}

#[derive(Serialize)]
struct StageForm {
    length_ns: u64,
    from_per_second: u64,
    to_per_second: u64,
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

/// How much of the generator's ceiling was used.
#[derive(Serialize)]
struct CeilingForm {
    calibration: &'static str,
    unused_reason: Option<String>,
    calibrated_unix_ns: Option<u64>,
    requests_per_second: Option<f64>,
    used_ratio: Option<f64>,
    floor_latency_p50_ns: Option<u64>,
}

#[derive(Serialize)]
struct Difference {
    connection: u64,
    stream_offset: u64,
    expected: Vec<u8>,
    actual: Vec<u8>,
    note: Option<String>,
}

/// An objective, what was measured, and whether that meets it. A latency is in nanoseconds.
#[derive(Serialize)]
struct Objective {
    objective: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<f64>,
    met: bool,
}

impl Form {
    pub fn new(report: &Report) -> Form {
        let records = &report.records;
        Form {
            r#type: "summary",
            schema_version: SCHEMA_VERSION,
            loadgen_version: env!("CARGO_PKG_VERSION"),
            target: report.plan.target_addresses().join(","),
            targets: report.plan.target_addresses(),
            config: config(report),
            connections: connections(report),
            per_target: targets::Form::all(report),
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
            latency: Distribution::new(&records.latency),
            load: load::Form::new(records),
            hub: hub::Form::new(report),
            errors: report.errors().into_iter().collect(),
            generator_cores: report.generator_cores(),
            generator_busy_ratio: report.generator_busy(),
            generator_waiting_ratio: report.generator_waiting(),
            server_cores: report.server_cores,
            ceiling: ceiling(report),
            began_unix_ns: report.began_at.map(unix_nanos),
            interrupted: report.interrupted,
            aborted: report.aborted.as_ref().map(ToString::to_string),
            objectives: report.objectives().iter().map(objective).collect(),
            verdict: report.verdict().word(),
            verdict_text: report.verdict_text(),
            exit_code: report.exit() as u8,
        }
    }
}

fn config(report: &Report) -> Config {
    let plan = &report.plan;
    let (lifetime_requests, lifetime_ns) = match plan.lifetime {
        None => (None, None),
        Some(Lifetime::Requests(count)) => (Some(count), None),
        Some(Lifetime::Time(time)) => (None, Some(nanos(time))),
    };
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
        arrivals: plan.open_loop.as_ref().map(|open_loop| match open_loop.spacing {
            Spacing::Const => "const",
            Spacing::Poisson => "poisson",
        }),
        stages: stages(report),
        lifetime_requests,
        lifetime_ns,
        rude_clients: plan.rude.0.iter().map(|(kind, count)| (kind.word(), *count)).collect(),
        pipeline: plan.pipeline,
        busy_poll: plan.busy_poll,
        connect_rate_per_second: plan.connect_rate,
        timeout_ns: nanos(plan.timeout),
        source_ips: plan.sources.clone(),
        seed: plan.seed,
    }
}

/// Where the rate is one for the whole run there are none.
fn stages(report: &Report) -> Option<Vec<StageForm>> {
    let (Some(open_loop), None) = (&report.plan.open_loop, report.plan.rate) else { return None };
    let form = |stage: Stage| StageForm {
        length_ns: nanos(stage.length),
        from_per_second: stage.from,
        to_per_second: stage.to,
    };
    Some(open_loop.profile.stages().map(form).collect())
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

fn ceiling(report: &Report) -> CeilingForm {
    let mut form = CeilingForm {
        calibration: "none",
        unused_reason: None,
        calibrated_unix_ns: None,
        requests_per_second: None,
        used_ratio: None,
        floor_latency_p50_ns: None,
    };
    match &report.calibration {
        Standing::None => {}
        Standing::Unused(unused) => {
            form.calibration = unused.why;
            form.unused_reason = Some(unused.text.clone());
        }
        Standing::Used(calibration) => {
            let ceiling = calibration.ceiling(report.plan.open_loop.is_some());
            let rate = ceiling.map(|ceiling| ceiling.requests_per_second);
            form.calibration = "used";
            form.calibrated_unix_ns = Some(calibration.calibrated_unix_ns);
            form.requests_per_second = rate;
            form.used_ratio = rate.map(|rate| report.requests_per_second() / rate);
            form.floor_latency_p50_ns = Some(calibration.floor_latency.p50_ns);
        }
    }
    form
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

fn objective(outcome: &Outcome) -> Objective {
    let (limit, measured) = (outcome.slo.limit(), outcome.measured);
    let is_time = !matches!(outcome.slo.metric(), Metric::Rate | Metric::Errors);
    Objective {
        objective: outcome.slo.to_string(),
        limit_ns: is_time.then_some(limit),
        limit: (!is_time).then_some(limit),
        measured_ns: measured.filter(|_| is_time).map(|nanos| nanos.round() as u64),
        measured: measured.filter(|_| !is_time),
        met: outcome.met,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::hdr;
    use super::super::tests::{mismatch, report};
    use super::*;
    use crate::stats::records;
    use serde_json::Value;

    fn form(report: &Report) -> Value {
        serde_json::to_value(Form::new(report)).expect("it has a JSON form")
    }

    #[test]
    fn the_histogram_in_it_has_the_same_percentiles() {
        let form = form(&report());
        let latency = &form["latency"];
        let text = latency["histogram_v2_deflate_base64"].as_str().expect("text");
        let values = hdr::decode(text).expect("a histogram");
        let keys =
            [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99_9", 99.9), ("p99_99", 99.99)];
        for (key, percentile) in keys {
            let value = records::percentile(&values, percentile);
            assert_eq!(latency[format!("{key}_ns")].as_u64(), Some(value), "{key}");
        }
        assert_eq!(latency["count"].as_u64(), Some(values.len()));
        assert_eq!(latency["max_ns"].as_u64(), Some(values.max()));
    }

    #[test]
    fn the_histogram_in_it_has_the_percentiles_of_the_text_form() {
        let report = report();
        let form = form(&report);
        let text = form["latency"]["histogram_v2_deflate_base64"].as_str().expect("text");
        let values = hdr::decode(text).expect("a histogram");
        let shown = crate::report::text::render(&report, Default::default());
        for (name, percentile) in [("50%", 50.0), ("99%", 99.0), ("99.99%", 99.99)] {
            let line = shown.lines().find(|line| line.trim_start().starts_with(name));
            let nanos = records::percentile(&values, percentile);
            let expected = crate::units::time_text(Duration::from_nanos(nanos));
            assert!(line.expect(name).trim_end().ends_with(&expected), "{name}: {expected}");
        }
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
