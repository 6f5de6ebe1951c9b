//! A run as the [object](RunSummary) of its JSON report. The object includes the latency histogram,
//! so that files can be merged.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use echopool::builtin::url::Spec;
use echopool::config::TransportOptions;

use super::Report;
use super::schema::{
    CeilingUse, ConnectionCounts, DatagramCounts, Distribution, HubConfig, HubCounts,
    ObjectiveResult, PROGRAM_VERSION, PartsSummary, RunConfig, RunSummary, SCHEMA_VERSION,
    StageConfig, StampDirection, StampSummary, StepSummary, SummaryType, TargetCounts,
    ThreadSummary, TlsSessions, TlsSummary, nanos, unix_nanos,
};
use crate::cli::Lifetime;
use crate::plan::Plan;
use crate::plan::calibration::{CalibrationUse, Generator, Standing};
use crate::stats::cpu::ThreadUse;
use crate::stats::datagram::DatagramRecords;
use crate::stats::slo::{Metric, Outcome};
use crate::stats::stamp::StampRecords;
use crate::stats::timeseries::Second;
use crate::stats::tls::TlsRecords;
use crate::traffic::schedule::{Spacing, Stage};

impl RunSummary {
    /// The summary of a run.
    pub fn new(report: &Report) -> RunSummary {
        let records = &report.records;
        RunSummary {
            r#type: SummaryType::Summary,
            schema_version: SCHEMA_VERSION,
            loadgen_version: PROGRAM_VERSION.into(),
            command: report.command.clone(),
            machine: report.machine.clone(),
            target: report.plan.target_addresses().join(","),
            targets: report.plan.target_addresses(),
            config: RunConfig::new(&report.plan),
            connections: connections(report),
            per_target: Some(TargetCounts::all(report)),
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
            first_mismatches: records.first_mismatches.clone(),
            latency: Distribution::new(&records.latency),
            requests_offered: records.offered,
            requests_completed: records.completed(),
            requests_timed_out: records.timed_out,
            requests_never_sent: records.never_sent,
            requests_warmup: records.warmup_requests,
            service_time: Distribution::new(&records.service_time),
            send_lag: Distribution::new(&records.send_lag),
            own_lag: Distribution::new(&records.own_lag),
            connect_latency: Distribution::new(&records.connect),
            tls: records.tls.as_ref().map(|tls| tls_summary(report, tls)),
            fairness_jain: records.fairness(),
            reconnects: records.reconnects,
            reconnects_failed: records.reconnects_failed,
            server_closes: records.server_closes,
            generator_threads: records.thread_uses.iter().map(thread).collect(),
            seconds_step_ns: nanos(records.seconds.step()),
            seconds: records.seconds.steps().iter().map(step).collect(),
            intervals: report.intervals.clone(),
            saturated_seconds: records.saturated_seconds,
            longest_pause_ns: nanos(records.longest_stall),
            rude_clients: records.rude.clone(),
            hub: hub(report),
            datagrams: report.records.datagrams.as_ref().map(datagrams),
            stamp: report.records.stamp.as_ref().map(|stamp| stamp_summary(report, stamp)),
            parts: records.parts.as_deref().map(PartsSummary::new),
            tcp: records.tcp,
            errors: report.errors_by_name(),
            generator_cores: report.generator_cores(),
            generator_busy_ratio: report.generator_busy(),
            generator_waiting_ratio: report.generator_waiting(),
            server_cores: report.server_cores,
            ceiling: ceiling(report),
            clock: report.clock,
            began_unix_ns: report.began_at.map(unix_nanos),
            interrupted: report.interrupted,
            aborted: report.aborted.as_ref().map(ToString::to_string),
            objectives: report.objectives().iter().map(objective).collect(),
            verdict: report.verdict(),
            verdict_text: report.verdict_text(),
            exit_code: report.exit() as u8,
        }
    }
}

impl RunConfig {
    /// What a plan was made from.
    pub fn new(plan: &Plan) -> RunConfig {
        let (lifetime_requests, lifetime_ns) = match plan.lifetime {
            None => (None, None),
            Some(Lifetime::Requests(count)) => (Some(count), None),
            Some(Lifetime::Time(time)) => (None, Some(nanos(time))),
        };
        let arrivals = |spacing| match spacing {
            Spacing::Const => "const",
            Spacing::Poisson => "poisson",
        };
        RunConfig {
            service: Some(
                Spec {
                    service: plan.service,
                    transport: plan.targets.first().map_or(TransportOptions::Tcp, |first| {
                        TransportOptions::to(first, plan.tls.as_ref().map(|tls| &tls.options))
                    }),
                    proxy: Default::default(),
                    address: String::new(),
                }
                .to_string(),
            ),
            own_server: plan.local_server,
            own_server_workers: plan.local_server.then_some(plan.server_workers),
            optimized_build: Some(Generator::this().optimized),
            shard: Some(plan.shard).filter(|shard| !shard.is_whole()),
            connections: match plan.shard.is_whole() {
                true => plan.connections_asked,
                false => plan.connections_all,
            },
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
            arrivals: plan.open_loop.as_ref().map(|open_loop| arrivals(open_loop.spacing).into()),
            stages: stages(plan),
            lifetime_requests,
            lifetime_ns,
            reconnect: plan.reconnect,
            proxy_protocol: plan.proxy.map(|headers| headers.version_word().into()),
            proxy_source: plan.proxy.and_then(|headers| headers.source).map(|one| one.to_string()),
            rude_clients: plan
                .rude_all
                .0
                .iter()
                .map(|(kind, count)| (kind.word().into(), *count))
                .collect(),
            pipeline: plan.pipeline,
            busy_poll: plan.busy_poll,
            connect_rate_per_second: plan.connect_rate,
            timeout_ns: nanos(plan.timeout),
            hub: plan.hub.map(|hub| HubConfig {
                senders: hub.senders,
                never_read: hub.never_read,
                allow_drops: hub.allow_drops,
            }),
            abort_on_fail: plan.abort_on_fail,
            source_ips: plan.sources.clone(),
            seed: plan.seed,
        }
    }
}

/// `None` if the rate is the same for the whole run.
fn stages(plan: &Plan) -> Option<Vec<StageConfig>> {
    let (Some(open_loop), None) = (&plan.open_loop, plan.rate) else { return None };
    let stage = |stage: Stage| StageConfig {
        length_ns: nanos(stage.length),
        from_per_second: stage.from,
        to_per_second: stage.to,
    };
    Some(open_loop.profile.stages().map(stage).collect())
}

fn connections(report: &Report) -> ConnectionCounts {
    let (replies_min, replies_median, replies_max) = report.replies_each();
    ConnectionCounts {
        asked: report.plan.connections_asked,
        possible: report.plan.connections,
        shortfall: report.plan.shortfall.as_ref().map(ToString::to_string),
        established: report.records.established,
        served: report.records.served(),
        lost: report.records.losses.total(),
        replies_min,
        replies_median,
        replies_max,
        replies_at_percent: report.replies_at_percent(),
    }
}

fn thread(used: &ThreadUse) -> ThreadSummary {
    ThreadSummary {
        running_ns: nanos(used.running),
        waiting_ns: nanos(used.waiting),
        polling_ns: nanos(used.polling),
        switches_voluntary: used.switches_voluntary,
        switches_involuntary: used.switches_involuntary,
    }
}

fn step(second: &Second) -> StepSummary {
    StepSummary {
        length_ns: nanos(second.length()),
        sent: second.sent,
        replies: second.replies,
        outstanding_mean: second.outstanding_mean(),
        outstanding_expected: second.outstanding_expected(),
        running_ns: second.running_ns,
        waiting_ns: second.waiting_ns,
        polling_ns: second.polling_ns,
    }
}

fn tls_summary(report: &Report, tls: &TlsRecords) -> TlsSummary {
    let sessions = tls.sessions.iter().map(|((version, cipher_suite), count)| TlsSessions {
        version: (*version).into(),
        cipher_suite: (*cipher_suite).into(),
        count: *count,
    });
    TlsSummary {
        verified: report.plan.tls.as_ref().is_none_or(|tls| !tls.options.client.insecure),
        handshakes_full: tls.full.len(),
        handshakes_resumed: tls.resumed.len(),
        resumed_ratio: tls.resumed_ratio(),
        handshakes_per_second: report.per_second(tls.measured as f64),
        sessions: sessions.collect(),
        handshake_full: Distribution::new(&tls.full),
        handshake_resumed: Distribution::new(&tls.resumed),
    }
}

fn datagrams(counts: &DatagramRecords) -> DatagramCounts {
    DatagramCounts {
        sent: counts.sent,
        lost: counts.lost,
        lost_ratio: counts.lost_ratio(),
        late: counts.late,
        duplicated: counts.duplicated,
        out_of_order: counts.out_of_order,
        corrupted: counts.corrupted,
        truncated: counts.truncated,
        socket_errors: counts.errors,
        jitter_ns: counts.jitter_ns(),
        jitter_max_ns: counts.jitter_max_ns,
        jitter_sockets: counts.jitter_sockets,
    }
}

fn stamp_summary(report: &Report, stamp: &StampRecords) -> StampSummary {
    let reason = stamp.disagreement();
    let directions = super::stamp::directions(report, stamp);
    let direction = |at: usize| StampDirection {
        lost: directions.map(|directions| directions.lost[at]),
        duplicated: directions.map(|directions| directions.doubled[at]),
        delay: reason.is_none().then(|| Distribution::new(&stamp.delay[at])),
        variation: Distribution::new(&stamp.variation[at]),
        jitter_ns: stamp.jitter(at),
        jitter_max_ns: stamp.jitter_max[at],
    };
    StampSummary {
        round_trip: Distribution::new(&stamp.round_trip),
        residence: Distribution::new(&stamp.residence),
        there: direction(0),
        back: direction(1),
        lost_unknown: directions.map(|directions| directions.lost_unknown),
        clocks_agree: reason.is_none(),
        clocks_reason: reason.map(str::to_owned),
        clock_error_ns: stamp.error_ns,
        jitter_sockets: stamp.jitter_sockets,
    }
}

/// `None` unless the target is a hub.
fn hub(report: &Report) -> Option<HubCounts> {
    let (plan, hub) = (report.plan.hub.as_ref()?, report.records.hub.as_ref()?);
    Some(HubCounts {
        senders: plan.senders,
        never_read: hub.never_read,
        deliveries: hub.deliveries,
        deliveries_late: hub.deliveries_late,
        deliveries_dropped: hub.dropped,
        deliveries_missing: hub.undelivered,
        deliveries_per_second: report.per_second(hub.deliveries as f64),
        latencies_at_least: hub.beyond_ring,
        notices_joined: hub.joined,
        notices_left: hub.left,
    })
}

impl Report {
    /// The errors of connections, as JSON has them.
    pub fn errors_by_name(&self) -> BTreeMap<String, NonZeroU64> {
        let not_zero = |(name, count)| Some((name, NonZeroU64::new(count)?));
        self.errors().into_iter().filter_map(not_zero).collect()
    }
}

fn ceiling(report: &Report) -> CeilingUse {
    match &report.calibration {
        Standing::None => CeilingUse::default(),
        Standing::Unused(unused) => CeilingUse {
            calibration: unused.why,
            unused_reason: Some(unused.text.clone()),
            ..CeilingUse::default()
        },
        Standing::Used(calibration) => {
            let ceiling = calibration.ceiling(report.plan.open_loop.is_some());
            let rate = ceiling.map(|ceiling| ceiling.requests_per_second);
            CeilingUse {
                calibration: CalibrationUse::Used,
                unused_reason: None,
                calibrated_unix_ns: Some(calibration.calibrated_unix_ns),
                requests_per_second: rate,
                used_ratio: rate.map(|rate| report.requests_per_second() / rate),
                floor_latency_p50_ns: Some(calibration.floor_latency.p50_ns),
            }
        }
    }
}

pub(super) fn objective(outcome: &Outcome) -> ObjectiveResult {
    let (limit, measured) = (outcome.slo.limit(), outcome.measured);
    let is_time = !matches!(outcome.slo.metric(), Metric::Rate | Metric::Errors);
    ObjectiveResult {
        objective: outcome.slo.to_string(),
        limit_ns: is_time.then_some(limit),
        limit: (!is_time).then_some(limit),
        measured_ns: measured.filter(|_| is_time).map(|nanos| nanos.round() as u64),
        measured: measured.filter(|_| !is_time),
        met: outcome.is_met(),
        undecided: outcome.is_undecided(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::hdr;
    use super::super::tests::{mismatch, report};
    use super::*;
    use crate::stats::records::{self, Losses};
    use echopool::error::Errno;
    use serde_json::Value;

    fn form(report: &Report) -> Value {
        serde_json::to_value(RunSummary::new(report)).expect("it has a JSON form")
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
    fn each_figure_is_under_its_own_key() {
        let mut report = report();
        let records = &mut report.records;
        records.established = 101;
        records.connect_errors.insert(Errno::CONNREFUSED.raw_os_error(), 102);
        records.losses = Losses {
            timed_out: 103,
            closed_by_peer: 104,
            reset: 105,
            peer_lost: 106,
            failed: 107,
            ..Losses::default()
        };
        records.mismatches = 108;
        (records.offered, records.requests, records.replies) = (109, 110, 111);
        (records.replies_late, records.timed_out, records.unanswered) = (112, 113, 114);
        (records.never_sent, records.warmup_requests) = (115, 116);
        (records.bytes, records.bytes_verified, records.reconnects) = (117, 118, 119);
        records.reconnects_failed = 125;
        records.server_closes = 126;
        (records.saturated_seconds, records.longest_stall) = (120, Duration::from_nanos(121));
        records.replies_each = vec![122, 0, 123, 124];
        let histograms = [
            &mut records.latency,
            &mut records.service_time,
            &mut records.send_lag,
            &mut records.own_lag,
            &mut records.connect,
        ];
        for (value, histogram) in (131..).zip(histograms) {
            histogram.reset();
            histogram.record(value).expect("in bounds");
        }
        let form = form(&report);
        let expected = [
            ("/connections/established", 101),
            ("/connections/served", 3),
            ("/connections/lost", 103 + 104 + 105 + 106 + 107),
            ("/connections/replies_min", 0),
            ("/connections/replies_median", 123),
            ("/connections/replies_max", 124),
            ("/errors/connect-refused", 102),
            ("/errors/timed-out", 103),
            ("/errors/closed-by-peer", 104),
            ("/errors/reset", 105),
            ("/errors/peer-lost", 106),
            ("/errors/failed", 107),
            ("/mismatched_connections", 108),
            ("/requests_offered", 109),
            ("/requests_begun", 110),
            ("/replies", 111),
            ("/replies_late", 112),
            ("/requests_completed", 111 + 112),
            ("/requests_timed_out", 113),
            ("/requests_unanswered", 114),
            ("/requests_never_sent", 115),
            ("/requests_warmup", 116),
            ("/bytes_read", 117),
            ("/bytes_verified", 118),
            ("/reconnects", 119),
            ("/reconnects_failed", 125),
            ("/server_closes", 126),
            ("/saturated_seconds", 120),
            ("/longest_pause_ns", 121),
            ("/latency/max_ns", 131),
            ("/service_time/max_ns", 132),
            ("/send_lag/max_ns", 133),
            ("/own_lag/max_ns", 134),
            ("/connect_latency/max_ns", 135),
            ("/generator_threads/1/running_ns", 500_000_000),
            ("/generator_threads/1/waiting_ns", 250_000_000),
            ("/generator_threads/1/switches_voluntary", 10),
            ("/generator_threads/1/switches_involuntary", 1),
        ];
        for (key, value) in expected {
            assert_eq!(form.pointer(key).and_then(Value::as_u64), Some(value), "{key}");
        }
        assert_eq!(form["requests_per_second"], 111.0);
        assert_eq!(form["bytes_read_per_second"], 117.0);
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

    #[test]
    fn an_objective_has_its_limit_and_value_under_the_key_of_its_unit() {
        let mut report = report();
        let slo = |text| crate::stats::slo::parse(text).expect(text);
        std::sync::Arc::make_mut(&mut report.plan).slos =
            vec![slo("max<2ms"), slo("rate>=900"), slo("errors<3")];
        let form = form(&report);
        let expect = |nth: usize, expected: [Value; 4]| {
            let objective = &form["objectives"][nth];
            let keys = ["limit_ns", "limit", "measured_ns", "measured"];
            assert_eq!(keys.map(|key| objective[key].clone()), expected, "{objective}");
        };
        let max = report.records.latency.max();
        expect(0, [2_000_000.into(), Value::Null, max.into(), Value::Null]);
        expect(1, [Value::Null, 900.into(), Value::Null, 1_000.0.into()]);
        expect(2, [Value::Null, 3.into(), Value::Null, 0.0.into()]);
    }
}
