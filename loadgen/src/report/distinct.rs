//! Tests that every number that is shown stands under its own name: a run in which no two figures
//! are equal, in each form of the report. Swapping any two makes a test fail.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use echopool::error::Errno;
use echopool::internals::ClockError;
use echopool::time::Time;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::rows::{csv_header, csv_row};
use super::schema::{Distribution, RunSummary, SecondSummary};
use super::tests::{plan, report};
use super::text::{TextOptions, render};
use super::{Report, hdr};
use crate::stats::counts::{RudeCount, TargetCount};
use crate::stats::cpu::ThreadUse;
use crate::stats::datagram::DatagramRecords;
use crate::stats::hub::HubRecords;
use crate::stats::interval::Interval;
use crate::stats::records::{Losses, latency_histogram};
use crate::stats::stamp::{Directions, StampRecords};
use crate::stats::tally::Snapshot;
use crate::stats::timeseries::Second;
use crate::traffic::rude::RudeKind;

/// Ten thousand values that grow by a thousandth each, so that all percentiles differ.
pub fn spread(unit_ns: u64) -> Histogram<u64> {
    let mut values = latency_histogram();
    for nth in 1..=10_000 {
        values.record((unit_ns as f64 * 1.001f64.powi(nth)) as u64).expect("in bounds");
    }
    values
}

/// A run of an open loop in which no two figures are equal. `nth`: another number gives a run in
/// which all figures are others.
pub fn distinct(nth: u64) -> Report {
    let more = nth * 1_000;
    let mut report = report();
    let flags = "127.0.0.1:7 -c 909 -R 910 -d 3s -t 2 --lifetime 911 --with idle:1,reset:1";
    report.plan = Arc::new(plan(flags));
    let targets = [7_001, 7_002].map(|port| SocketAddr::from(([127, 0, 0, 1], port)).into());
    Arc::make_mut(&mut report.plan).targets = targets.to_vec();
    let records = &mut report.records;
    let count = |value: u64| value + more;
    records.established = count(101);
    records.connect_errors = BTreeMap::from([(Errno::CONNREFUSED.raw_os_error(), count(102))]);
    records.losses = Losses {
        timed_out: count(103),
        closed_by_peer: count(104),
        reset: count(105),
        peer_lost: count(106),
        failed: count(107),
        ..Losses::default()
    };
    records.mismatches = count(108);
    (records.offered, records.requests, records.replies) = (count(109), count(110), count(111));
    (records.replies_late, records.timed_out) = (count(112), count(113));
    (records.unanswered, records.never_sent) = (count(114), count(115));
    (records.warmup_requests, records.bytes) = (count(116), count(117));
    (records.bytes_verified, records.reconnects) = (count(118), count(119));
    records.saturated_seconds = count(120);
    records.server_closes = count(121);
    records.longest_stall = Duration::from_micros(count(12_200));
    records.replies_each = vec![count(125), count(123), count(124), count(129)];
    records.latency = spread(count(1_000));
    records.service_time = spread(count(1_100));
    records.send_lag = spread(count(1_200));
    records.own_lag = spread(count(1_300));
    records.connect = spread(count(1_400));
    records.rates.reset();
    [450, 550, 560].into_iter().for_each(|rate| records.rate(count(rate), Duration::from_secs(1)));
    records.ended = records.began + Duration::from_millis(count(2_000));
    let thread = |part: u64| ThreadUse {
        running: Duration::from_millis(count(131 + part)),
        waiting: Duration::from_millis(count(333 + part)),
        waiting_unknown: false,
        polling: Duration::from_millis(count(335 + part)),
        switches_voluntary: count(137 + part),
        switches_involuntary: count(139 + part),
        span: Duration::from_millis(2_000),
    };
    records.thread_uses = vec![thread(0), thread(1)];
    records.targets = [141, 151].map(|first| target(count(first))).to_vec();
    records.target_latencies = [1_500, 1_510].map(|first| spread(count(first))).to_vec();
    records.rude = [(RudeKind::Idle, 161), (RudeKind::Reset, 171)]
        .map(|(kind, first)| rude(kind, count(first)))
        .to_vec();
    for part in [0, 10] {
        records.seconds.push(Second {
            threads: 1,
            span_ns: 1_000_000_000 + count(part),
            sent: count(181 + part),
            replies: count(182 + part),
            outstanding_ns: 1_000_000_000 * count(183 + part),
            service_ns: 1_000_000_000 * count(284 + part),
            running_ns: count(185 + part),
            waiting_ns: count(186 + part),
            polling_ns: count(187 + part),
        });
    }
    report.intervals = [0, 1]
        .map(|nth| {
            let start = Duration::from_secs(nth);
            SecondSummary::new(&Interval { start, number: nth, ..second(count(10 * nth)) })
        })
        .to_vec();
    report.server_cores = Some(count(1) as f64 + 0.25);
    report
}

fn target(first: u64) -> TargetCount {
    TargetCount {
        established: first,
        served: first + 1,
        lost: first + 2,
        mismatches: first + 3,
        completed: first + 4,
    }
}

fn rude(kind: RudeKind, first: u64) -> RudeCount {
    RudeCount {
        kind,
        asked: first,
        established: first + 1,
        connect_failed: first + 2,
        finished: first + 3,
        closed_by_server: first + 4,
        reset_by_server: first + 5,
        bytes_sent: first + 6,
        bytes_received: first + 7,
    }
}

fn hub() -> HubRecords {
    HubRecords {
        never_read: 201,
        deliveries: 202,
        deliveries_late: 203,
        dropped: 204,
        undelivered: 205,
        own_dropped: 206,
        beyond_ring: 207,
        joined: 208,
        left: 209,
    }
}

/// A hub run with the counts of `hub`.
fn hub_report() -> Report {
    let mut report = distinct(0);
    report.plan = Arc::new(plan("hub://127.0.0.1:7 -c 500 --senders 210 -d 3s"));
    report.records.established = 700;
    report.records.hub = Some(hub());
    report
}

#[test]
fn text() {
    let shown =
        render(&distinct(0), TextOptions { spectrum: false, uncorrected: true, details: true });
    assert_eq!(shown, TEXT, "\n{shown}");
}

const DETAILS: TextOptions = TextOptions { spectrum: false, uncorrected: false, details: true };

const TEXT: &str = "\
Running 3s test @ tcp://127.0.0.1:7
  2 threads and 101 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.19ms    4.39ms  21.92ms   87.95%
    Req/Sec   520.00     49.67   560.00     66.67%
  Latency Distribution
     50%  148.09us
     75%    1.80ms
     90%    8.07ms
     99%   19.84ms
   99.9%   21.71ms
  99.99%   21.91ms
  Uncorrected Latency Distribution (service time)
     50%  162.94us
     75%    1.98ms
     90%    8.88ms
     99%   21.82ms
   99.9%   23.87ms
  99.99%   24.08ms
  111 requests in 2.00s, 117.00B read
  Socket errors: connect 102, read 422, write 0, timeout 103
Requests/sec:     55.50
Transfer/sec:      58.50B
Connections: 909 asked, 101 established, 4 served, 525 lost
  tcp://127.0.0.1:7001: 455 asked, 141 established, 142 served, 143 lost, 144 differed, 145 \
requests completed, latency p50 222.08us, p99 29.75ms, max 32.88ms
  tcp://127.0.0.1:7002: 454 asked, 151 established, 152 served, 153 lost, 154 differed, 155 \
requests completed, latency p50 223.62us, p99 29.95ms, max 33.10ms
Errors: connect-refused 102, timed-out 103, closed-by-peer 104, reset 105, peer-lost 106, \
failed 107
Verified: 118 bytes, 108 mismatches
Offered: 109 requests: 111 answered in time, 112 answered after the end, 113 timed out, 114 \
unanswered, 115 never sent
Longest pause: 12.20ms, in which a thread of loadgen should have worked and did not
Verdict: echo-differed: on 108 of 101 connections

Connections
  Replies each: min 123, median 125, max 129
  Fairness: 0.9997 (Jain)
  Connect: p50 207.36us, p99 27.77ms, p99.9 30.39ms, max 30.69ms
  Reopened: 119 connections
  With idle 161: 162 established, 163 not, 164 finished, 165 closed by the server, 166 reset, \
167 bytes out, 168 back
  With reset 171: 172 established, 173 not, 174 finished, 175 closed by the server, 176 reset, \
177 bytes out, 178 back

Requests
  Warm-up: 116 requests, not recorded
  Service time: p50 162.94us, p99 21.82ms, p99.9 23.87ms, max 24.12ms
  Send lag: p50 177.66us, p99 23.81ms, p99.9 26.05ms, max 26.31ms
  Own lag: p50 192.51us, p99 25.79ms, p99.9 28.21ms, max 28.49ms
  Little's law: 188.00 outstanding, rate x time 289.00; a second differs by at most 55.2 %

Generator
  Generator threads: 7 % running, 17 % waiting, switches 137 voluntary, 139 involuntary; 7 % \
running, 17 % waiting, switches 138 voluntary, 140 involuntary
  CPU: generator 0.13 cores in 2 threads (busiest 23 % busy: 7 % running, 17 % waiting for a \
processor), server 1.25 cores

Verdict
  echo-differed (on 108 of 101 connections)
";

/// What became of the datagrams of a run over UDP. Each count has another value, and in run `nth` a
/// thousand more.
fn distinct_datagrams(nth: u64) -> DatagramRecords {
    let more = 1_000 * nth;
    DatagramRecords {
        sent: 1_000 + more,
        lost: 301 + more,
        late: 302 + more,
        duplicated: 303 + more,
        out_of_order: 304 + more,
        corrupted: 305 + more,
        truncated: 306 + more,
        errors: 307 + more,
        jitter_sum_ns: (2 + nth) * (308_000 + more),
        jitter_max_ns: 309_000 + more,
        jitter_sockets: 2 + nth,
    }
}

/// A run over UDP.
fn datagram_report() -> Report {
    let mut report = report();
    report.plan = Arc::new(plan("udp://127.0.0.1:7 -c 500 -d 3s"));
    report.records.datagrams = Some(distinct_datagrams(0));
    report
}

#[test]
fn text_of_datagrams() {
    let shown = render(&datagram_report(), DETAILS);
    for line in [
        "Datagrams: 1000 sent, 699 not lost, 301 lost (30.100 %), 302 late, 303 duplicated, \
         304 out of order, 305 corrupted, 306 truncated",
        "Jitter: 308.00us mean over the sockets, 309.00us at most (RFC 3550)",
        "Socket errors: 307; a packet filter, or no server at the port",
    ] {
        assert!(shown.contains(line), "no {line:?} in\n{shown}");
    }
}

#[test]
fn json_of_datagrams() {
    let summary = RunSummary::new(&datagram_report());
    let value = serde_json::to_value(summary).expect("it has a JSON form");
    let expected = serde_json::json!({
        "sent": 1_000,
        "lost": 301,
        "lost_ratio": 0.301,
        "late": 302,
        "duplicated": 303,
        "out_of_order": 304,
        "corrupted": 305,
        "truncated": 306,
        "socket_errors": 307,
        "jitter_ns": 308_000,
        "jitter_max_ns": 309_000,
        "jitter_sockets": 2,
    });
    assert_eq!(value["datagrams"], expected);
}

/// A run against a stateful reflector whose clock agrees. Each count has another value, and in run
/// `nth` a thousand more.
pub fn stamp_report(nth: u64) -> Report {
    let mut report = report();
    let more = 1_000 * nth;
    report.records.offered += nth;
    report.records.datagrams = Some(distinct_datagrams(nth));
    report.plan = Arc::new(plan("stamp://127.0.0.1?stateful=on -c 500 -d 3s"));
    let clock = ClockError { is_synchronized: true, error_ns: 401_000 + more };
    let mut stamp = StampRecords::new(clock);
    let ([delay_there, delay_back], [variation_there, variation_back]) =
        (&mut stamp.delay, &mut stamp.variation);
    for (histogram, value) in [
        (&mut stamp.round_trip, 402_000),
        (&mut stamp.residence, 403_000),
        (delay_there, 404_000),
        (delay_back, 405_000),
        (variation_there, 406_000),
        (variation_back, 407_000),
    ] {
        histogram.record(value + 100_000 * nth).expect("it is in the range");
    }
    stamp.jitter_sum = [408_000, 409_000].map(|jitter| (2 + nth) * (jitter + more));
    stamp.jitter_max = [410_000, 411_000].map(|jitter| jitter + more);
    stamp.jitter_sockets = 2 + nth;
    stamp.directions = Directions {
        lost: [412 + more, 413 + more],
        lost_unknown: 414 + more,
        doubled: [415 + more, 416 + more],
    };
    report.records.stamp = Some(Box::new(stamp));
    report
}

#[test]
fn text_of_a_reflector() {
    let shown = render(&stamp_report(0), DETAILS);
    for (name, parts) in [
        ("Round trip", ["p50 402.", "without the time in the reflector"]),
        ("Reflector", ["p50 403.", "time in it"]),
        (
            "Directions",
            ["lost 412 there, 413 back, 414 at the end", "duplicated 415 there, 416 back"],
        ),
        ("Variation there", ["p50 406.", "jitter 408.00us mean, 410.00us at most (RFC 3550)"]),
        ("Variation back", ["p50 407.", "jitter 409.00us mean, 411.00us at most (RFC 3550)"]),
        ("Delay there", ["p50 404.", "the clocks may be 401.00us apart"]),
        ("Delay back", ["p50 405.", "the clocks may be 401.00us apart"]),
    ] {
        let line = shown.lines().find(|line| line.trim_start().starts_with(&format!("{name}: ")));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{shown}"));
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?}: {line}");
    }
}

#[test]
fn json_of_a_reflector() {
    let summary = RunSummary::new(&stamp_report(0));
    let value = serde_json::to_value(summary).expect("it has a JSON form");
    let stamp = &value["stamp"];
    let near = |pointer: &str, expected: u64| {
        let found = stamp.pointer(pointer).and_then(Value::as_u64);
        assert!(
            found.is_some_and(|found| found.abs_diff(expected) < 1_000),
            "{pointer}: {found:?}"
        );
    };
    near("/round_trip/p50_ns", 402_000);
    near("/residence/p50_ns", 403_000);
    for (direction, delay, variation, jitter, jitter_max) in [
        ("there", 404_000, 406_000, 408_000, 410_000),
        ("back", 405_000, 407_000, 409_000, 411_000),
    ] {
        near(&format!("/{direction}/delay/p50_ns"), delay);
        near(&format!("/{direction}/variation/p50_ns"), variation);
        near(&format!("/{direction}/jitter_ns"), jitter);
        near(&format!("/{direction}/jitter_max_ns"), jitter_max);
    }
    let counts = ["/there/lost", "/back/lost", "/lost_unknown", "/there/duplicated"];
    let counts = counts.map(|pointer| stamp.pointer(pointer).and_then(Value::as_u64));
    assert_eq!(counts, [412, 413, 414, 415].map(Some));
    assert_eq!(stamp["back"]["duplicated"], 416);
    assert_eq!((&stamp["clocks_agree"], &stamp["clocks_reason"]), (&true.into(), &Value::Null));
    assert_eq!((&stamp["clock_error_ns"], &stamp["jitter_sockets"]), (&401_000.into(), &2.into()));
}

#[test]
fn text_of_a_hub() {
    let shown = render(&hub_report(), DETAILS);
    for line in [
        "Hub: 210 senders, 499 clients that read, 201 that never read\n",
        "Deliveries: 202 in the period, 203 after it, 204 dropped, 205 missing\n",
        "Deliveries/sec: 101.00\n",
        "Notices: 208 joined, 209 left\n",
        "Latency of 207 deliveries: a lower bound",
    ] {
        assert!(shown.contains(line), "no {line:?} in\n{shown}");
    }
    let text = super::hub::losses(&hub_report().records);
    assert!(text.starts_with("204 deliveries dropped by the hub, 205 missing without a"), "{text}");
}

#[test]
fn json_of_a_hub() {
    let value = serde_json::to_value(RunSummary::new(&hub_report())).expect("it has a JSON form");
    let expected = json!({
        "senders": 210, "never_read": 201, "deliveries": 202, "deliveries_late": 203,
        "deliveries_dropped": 204, "deliveries_missing": 205, "deliveries_per_second": 101.0,
        "latencies_at_least": 207, "notices_joined": 208, "notices_left": 209,
    });
    assert_eq!(value["hub"], expected);
}

/// What `json.rs` does not check one by one.
#[test]
fn json() {
    let report = distinct(0);
    let value = serde_json::to_value(RunSummary::new(&report)).expect("it has a JSON form");
    assert_eq!(value["elapsed_ns"], 2_000_000_000u64);
    assert_eq!(
        (&value["requests_per_second"], &value["bytes_read_per_second"]),
        (&55.5.into(), &58.5.into())
    );
    assert_eq!(value["generator_cores"], (0.131 + 0.132) / 2.0);
    assert_eq!(value["server_cores"], 1.25);
    let ratio = |key: &str| (value[key].as_f64().expect("a number") * 1e6).round();
    // Polling is longer than waiting by 2 ms, in which the thread was idle.
    assert_eq!(ratio("generator_busy_ratio"), ((132.0 + 334.0 - 2.0) / 2_000.0 * 1e6f64).round());
    assert_eq!(ratio("generator_waiting_ratio"), (334.0 / 2_000.0 * 1e6f64).round());
    let threads = [0, 1].map(|part| {
        json!({
            "running_ns": (131 + part) * 1_000_000, "waiting_ns": (333 + part) * 1_000_000,
            "polling_ns": (335 + part) * 1_000_000, "switches_voluntary": 137 + part,
            "switches_involuntary": 139 + part,
        })
    });
    assert_eq!(value["generator_threads"], json!(threads));
    let targets = [(141, 7_001, 455, 1_500), (151, 7_002, 454, 1_510)];
    let targets = targets.map(|(first, port, asked, unit)| {
        json!({
            "latency": serde_json::to_value(Distribution::new(&spread(unit))).unwrap(),
            "target": format!("tcp://127.0.0.1:{port}"), "connections_asked": asked,
            "connections_established": first, "connections_served": first + 1,
            "connections_lost": first + 2, "mismatched_connections": first + 3,
            "requests_completed": first + 4,
        })
    });
    assert_eq!(value["per_target"], json!(targets));
    let rude = [("idle", 161), ("reset", 171)].map(|(kind, first)| {
        json!({
            "kind": kind, "asked": first, "established": first + 1, "connect_failed": first + 2,
            "finished": first + 3, "closed_by_server": first + 4, "reset_by_server": first + 5,
            "bytes_sent": first + 6, "bytes_received": first + 7,
        })
    });
    assert_eq!(value["rude_clients"], json!(rude));
    let second = &value["seconds"][1];
    let expected = [
        ("length_ns", 1_000_000_010),
        ("sent", 191),
        ("replies", 192),
        ("running_ns", 195),
        ("waiting_ns", 196),
        ("polling_ns", 197),
    ];
    for (key, value) in expected {
        assert_eq!(second[key], json!(value), "{key}");
    }
    let rounded = |key: &str| (second[key].as_f64().expect("a number") * 1e3).round();
    let both = (rounded("outstanding_mean"), rounded("outstanding_expected"));
    assert_eq!(both, (193_000.0, 294_000.0));
    for (key, unit) in [
        ("latency", 1_000),
        ("service_time", 1_100),
        ("send_lag", 1_200),
        ("own_lag", 1_300),
        ("connect_latency", 1_400),
    ] {
        assert_distribution(&value[key], &spread(unit));
    }
}

/// Each percentile under its own name, computed here by rank.
#[track_caller]
fn assert_distribution(value: &Value, values: &Histogram<u64>) {
    let at = |rank: u64| {
        let mut seen = 0;
        let found = values.iter_recorded().find(|step| {
            seen += step.count_at_value();
            seen >= rank
        });
        json!(values.highest_equivalent(found.expect("a value").value_iterated_to()))
    };
    let ranks = [
        ("p50_ns", 5_000),
        ("p75_ns", 7_500),
        ("p90_ns", 9_000),
        ("p99_ns", 9_900),
        ("p99_9_ns", 9_990),
        ("p99_99_ns", 9_999),
        ("max_ns", 10_000),
    ];
    for (key, rank) in ranks {
        assert_eq!(value[key], at(rank), "{key}");
    }
    assert_eq!(value["min_ns"], values.min());
    assert_eq!(value["mean_ns"], values.mean().round() as u64);
    assert_eq!(value["stdev_ns"], values.stdev().round() as u64);
    assert_eq!(value["count"], 10_000);
    let text = value["histogram_v2_deflate_base64"].as_str().expect("text");
    assert_eq!(&hdr::decode(text).expect("a histogram"), values);
}

pub fn second(more: u64) -> Interval {
    let counts = Snapshot {
        open: 310 + more,
        connect_failed: 311 + more,
        lost: 312 + more,
        mismatches: 313 + more,
        ..Default::default()
    };
    Interval {
        number: 300 + more,
        start: Duration::from_nanos(302 + more),
        length: Duration::from_millis(500),
        latency: spread(1_000 + more),
        send_lag: spread(2_000 + more),
        replies: 303 + more,
        replies_late: 304 + more,
        bytes: 305 + more,
        counts,
        errors: 306 + more,
    }
}

/// The columns by their names.
#[test]
fn csv() {
    let mut out = Vec::new();
    csv_header(&mut out).expect("a vector takes all");
    csv_row(&mut out, &second(0)).expect("a vector takes all");
    let text = String::from_utf8(out).expect("text");
    let (header, row) = text.trim_end().split_once('\n').expect("two lines");
    let columns: BTreeMap<_, _> = header.split(',').zip(row.split(',')).collect();
    assert_eq!((columns.len(), row.split(',').count()), (19, 19));
    let value = serde_json::to_value(SecondSummary::new(&second(0))).expect("it has a JSON form");
    for (name, expected) in [
        ("second", "301"),
        ("start_ns", "302"),
        ("length_ns", "500000000"),
        ("replies", "303"),
        ("replies_late", "304"),
        ("requests_per_second", "606.000"),
        ("bytes_read", "305"),
        ("connections_open", "310"),
        ("errors", "306"),
    ] {
        assert_eq!(columns[name], expected, "{name}");
        let number: f64 = expected.parse().expect("a number");
        assert_eq!(value[name].as_f64(), Some(number), "{name}");
    }
    for (prefix, unit) in [("latency", 1_000), ("send_lag", 2_000)] {
        let values = spread(unit);
        let of = |rank: f64| values.value_at_quantile(rank.next_down());
        let expected = [
            ("min_ns", values.min()),
            ("mean_ns", values.mean().round() as u64),
            ("p50_ns", of(0.5)),
            ("p90_ns", of(0.9)),
            ("p99_ns", of(0.99)),
            ("p99_9_ns", of(0.999)),
            ("max_ns", values.max()),
        ];
        let mut shown = 0;
        for (name, expected) in expected {
            assert_eq!(value[prefix][name], expected, "{prefix}_{name}");
            if let Some(column) = columns.get(format!("{prefix}_{name}").as_str()) {
                assert_eq!(*column, expected.to_string(), "{prefix}_{name}");
                shown += 1;
            }
        }
        assert_eq!(shown, if prefix == "latency" { 7 } else { 3 });
    }
}

#[test]
fn interval_log_and_distribution() {
    let mut out = Vec::new();
    let interval = Interval { start: Duration::from_millis(7_250), ..second(0) };
    hdr::log_second(&mut out, &interval).expect("a vector takes all");
    let line = String::from_utf8(out).expect("text");
    let parts: Vec<_> = line.trim_end().split(',').collect();
    let max = spread(1_000).max() as f64 / 1e6;
    assert_eq!(parts[..3], ["7.250", "0.500", format!("{max:.3}").as_str()]);
    assert_eq!(hdr::decode(parts[3]).expect("a histogram"), spread(1_000), "not the send lag");
    let mut out = Vec::new();
    let began = std::time::UNIX_EPOCH + Duration::from_millis(1_234_567);
    hdr::begin_log(&mut out, "tcp://target", began).expect("a vector takes all");
    let text = String::from_utf8(out).expect("text");
    assert!(text.contains("#[StartTime: 1234.567 (") && text.contains("#[BaseTime: 1234.567 ("));
}

#[test]
fn replies_each_and_fairness() {
    let mut report = distinct(0);
    assert_eq!(report.replies_each(), (123, 125, 129));
    let at_percent = report.replies_at_percent();
    // Of four connections, each stands for the percents that are nearest to its own.
    for (percents, replies) in [(0..17, 123), (17..50, 124), (50..84, 125), (84..101, 129)] {
        assert!(at_percent[percents.clone()].iter().all(|one| *one == replies), "{percents:?}");
    }
    assert_eq!(at_percent.len(), 101);
    report.records.replies_each = Vec::new();
    assert!(report.replies_at_percent().is_empty());
    report.records.replies_each = vec![7];
    assert_eq!(report.replies_at_percent(), [7; 101]);
    report.records.replies_each = (0..1_000).rev().collect();
    let expected = (0..=100).map(|percent| (percent * 999 + 50) / 100).collect::<Vec<u64>>();
    assert_eq!(report.replies_at_percent(), expected);
    report.records.replies_each = vec![1, 3];
    assert!(render(&report, DETAILS).contains("\n  Fairness: 0.8000 (Jain)\n"));
}

/// Times are measured from zero here.
#[test]
fn no_two_runs_are_equal() {
    let (one, other) = (RunSummary::new(&distinct(0)), RunSummary::new(&distinct(1)));
    assert_ne!(one.elapsed_ns, other.elapsed_ns);
    assert!(distinct(0).records.began > Time::ZERO);
}
