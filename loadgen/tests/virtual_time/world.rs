//! One run in the simulated world, from the flags to the report, as the program makes it except for
//! the main thread; and comparisons of histograms with theory.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use echopool::Endpoint;
use echopool::builtin::url::{ServiceOptions, Spec};
use echopool::internals::{ClientLimits, Network, Pause, simulate_with_pauses, simulated_now};
use echopool::service::ServiceFactory;
use echopool::time::Time;
use hdrhistogram::Histogram;

use loadgen::cli::RunArgs;
use loadgen::exec::client::Client;
use loadgen::exec::control::Control;
use loadgen::plan::Plan;
use loadgen::plan::machine::Machine;
use loadgen::report::Report;
use loadgen::stats::interval::Collector;
use loadgen::stats::records::{Records, latency_histogram};

/// Bytes that a socket accepts: as many as a usual kernel allows.
const WINDOW: usize = 4 << 20;

/// Nanoseconds per millisecond, the unit of the formulas here.
pub const MS: f64 = 1e6;

/// A network without latency.
pub const NO_LATENCY: Duration = Duration::ZERO;

/// Drives a server with the program's flags, with a target if the protocol is not that of an echo.
/// Returns the report and the server.
pub fn drive<F>(flags: &str, latency: Duration, server: F) -> (Report, F::Service)
where
    F: ServiceFactory,
{
    drive_with_pause(flags, latency, server, None)
}

/// The same. All threads of the program pause between these two times, as if it was stopped; they
/// are counted from the start of the run.
pub fn drive_with_pause<F>(
    flags: &str,
    latency: Duration,
    server: F,
    pause: Option<[Duration; 2]>,
) -> (Report, F::Service)
where
    F: ServiceFactory,
{
    let plan = Arc::new(plan(flags));
    let control = Arc::new(Control::new(plan.threads, 0, plan.own_requests()));
    let clients = (0..plan.threads).map(|thread| {
        let client = Client::new(plan.clone(), control.clone(), thread, simulated_now);
        (plan.share(thread).limits, client)
    });
    let network = Network { latency, window: WINDOW, seed: plan.seed };
    let of_thread = |[from, until]: [Duration; 2]| {
        (0..plan.threads).map(move |client| Pause { client, from, until })
    };
    let pauses: Vec<_> = pause.into_iter().flat_map(of_thread).collect();
    let server = (server_limits(&plan), server);
    let (server, clients) = simulate_with_pauses(network, server, clients.collect(), &pauses)
        .expect("memory for buffers");
    let collector = Collector::new(control.handovers(), control.tallies().clone());
    let mut records = Records::default();
    clients.into_iter().for_each(|client| records.merge(client.into_records()));
    assert_intervals(collector, &records);
    // Processor time is that of the simulation, not of the simulated program.
    records.thread_uses.clear();
    records.saturated_seconds = 0;
    (Report::so_far(plan, records), server)
}

/// All seconds together have what the whole run has.
#[track_caller]
pub fn assert_intervals(mut collector: Collector, records: &Records) {
    let mut latency = latency_histogram();
    let (mut replies, mut bytes) = (0, 0);
    while let Some(second) = collector.rest(records.elapsed()) {
        latency.add(&second.latency).expect("the bounds are equal");
        replies += second.replies;
        bytes += second.bytes;
    }
    assert!(latency == records.latency, "the latencies of all seconds are those of the run");
    assert_eq!((replies, bytes), (records.replies, records.bytes));
}

/// The intended times of all requests, in nanoseconds from the start, in order, computed from the
/// schedule alone.
pub fn intended(report: &Report) -> Vec<u64> {
    let (plan, end) = (&report.plan, Time::ZERO + report.records.elapsed());
    let mut times = Vec::with_capacity(report.records.offered as usize);
    for thread in 0..plan.threads {
        let mut schedule = plan.dispatch(thread).expect("an open loop");
        schedule.begin(Time::ZERO);
        schedule.abandon(end, |time| times.push(time.as_nanos()));
    }
    times.sort_unstable();
    times
}

/// The same against the delay service, without network latency.
pub fn drive_delay(flags: &str, options: &str) -> Report {
    drive_delay_over(NO_LATENCY, flags, options)
}

/// The same with network latency.
pub fn drive_delay_over(latency: Duration, flags: &str, options: &str) -> Report {
    // If requests differ in size, one receive counts as one request.
    let (size, length) = if flags.contains("-l ") { (0, "") } else { (16, "-l 16") };
    // As deep as the pipelines of the clients. More takes longer to make than a short run.
    let depth = if flags.contains("-p ") { 16_384 } else { 64 };
    let text = format!("delay://world?depth={depth}&size={size}&{options}");
    let spec: Spec = text.parse().expect("a law");
    let ServiceOptions::Delay(options) = spec.service else { panic!("no delay service: {text}") };
    drive(&format!("{length} {flags}"), latency, options).0
}

pub fn plan(flags: &str) -> Plan {
    plan_for(flags, 1)
}

/// The plan of these flags, for this many targets.
pub fn plan_for(flags: &str, targets: usize) -> Plan {
    let machine = Machine {
        open_files_max: 1 << 20,
        open_files_now: 4,
        ports: 32_768..=60_999,
        processors: 2,
        backlog_max: None,
    };
    let target = if flags.contains("://") { "" } else { "world:7" };
    let line = format!("loadgen {target} {flags}");
    let spec = RunArgs::parse_from(line.split_whitespace()).run;
    let target = |nth: usize| match flags.contains("udp://") || flags.contains("stamp://") {
        true => Endpoint::Udp(([10, 0, 0, nth as u8], 7).into()),
        false => std::net::SocketAddr::from(([10, 0, 0, nth as u8], 7)).into(),
    };
    let targets: Vec<Endpoint> = (1..=targets).map(target).collect();
    Plan::new(&spec, &machine, &targets, spec.seed.unwrap_or(1)).expect("a possible run")
}

/// A buffer for each request that can be outstanding, and a few more.
fn server_limits(plan: &Plan) -> ClientLimits {
    let buffer_size = plan.size.next_power_of_two().clamp(64, 64 << 10);
    ClientLimits {
        connections_max: plan.connections as usize,
        buffers: (plan.connections * plan.pipeline + 64) as u32,
        buffer_size: buffer_size as usize,
        leases_per_connection_max: 4,
        linger: Duration::from_secs(1),
        busy_poll: false,
    }
}

/// The value at a quantile, in milliseconds.
pub fn quantile_ms(values: &Histogram<u64>, quantile: f64) -> f64 {
    values.value_at_quantile(quantile) as f64 / MS
}

/// A histogram of these latencies in nanoseconds, with the program's bounds.
pub fn histogram_of(latencies_ns: impl IntoIterator<Item = u64>) -> Histogram<u64> {
    let mut histogram = latency_histogram();
    latencies_ns.into_iter().for_each(|latency| histogram.saturating_record(latency));
    histogram
}

/// The relative deviation of a figure from theory.
pub fn deviation(seen: f64, theory: f64) -> f64 {
    if seen == theory { 0.0 } else { (seen - theory).abs() / theory }
}

/// The relative error of a histogram with three significant digits.
pub const RESOLUTION: f64 = 0.001;

/// Each request was sent at its intended time, to the nanosecond, and had its reply.
#[track_caller]
pub fn assert_kept(report: &Report) {
    let records = &report.records;
    assert_eq!(records.completed(), records.offered, "{}", report.verdict_text());
    assert_eq!(records.send_lag.len(), records.offered, "an open loop");
    assert_eq!(records.send_lag.max(), 0, "nothing keeps a request from being sent in time");
}
