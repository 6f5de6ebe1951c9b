//! M/M/1: Poisson arrivals and one server with a queue and exponential service times of mean m. At
//! the load rho, the time from arrival to departure is exponential with mean m / (1 - rho).
//!
//! Even a sample of five million deviates by itself, because requests that arrive in a busy time
//! wait together. So the same arrivals and service times are also evaluated with Lindley's
//! recursion, and that histogram must be the same, bucket for bucket.

use std::time::Duration;

use echopool::builtin::delay::Distribution;
use echopool::internals::{delay_numbers, draw_delay};
use hdrhistogram::Histogram;
use loadgen::report::Report;

use crate::world::{MS, assert_kept, deviation, drive_delay, histogram_of, intended, quantile_ms};

const SEED: u64 = 3;

/// Lindley's recursion over the same arrivals and service times: the latencies, and the number of
/// outstanding requests, integrated over the period in nanoseconds.
///
/// departure = max(arrival, departure of the previous request) + service time
fn by_recursion(report: &Report) -> (Histogram<u64>, u64) {
    let service = Distribution::Exponential(Duration::from_millis(1));
    let end = report.records.elapsed().as_nanos() as u64;
    let (mut rng, mut last, mut outstanding) = (delay_numbers(SEED), 0, 0);
    let latencies = intended(report).into_iter().map(|arrival| {
        last = arrival.max(last) + draw_delay(&service, &mut rng).as_nanos() as u64;
        outstanding += last.min(end) - arrival;
        last - arrival
    });
    (histogram_of(latencies), outstanding)
}

/// Returns the deviations of the mean and of the 99th percentile.
fn m_m_1(percent: u64, requests: u64) -> (f64, f64) {
    // The mean service time is 1 ms, so the load is a thousandth of the rate.
    let rate = percent * 10;
    // Almost always longer than this many requests take.
    let seconds = (requests + 4 * requests.isqrt()).div_ceil(rate);
    let flags = format!("-c 8 -p 512 -t 2 -R {rate} --arrivals poisson -d {seconds}s --timeout 1h");
    let report = drive_delay(&flags, &format!("exp=1ms&queue=1&seed={SEED}"));
    assert_kept(&report);
    let asked = (rate * seconds) as f64;
    let spread = (report.records.offered as f64 - asked) / asked.sqrt();
    assert!(spread.abs() < 4.0, "{} requests at {rate} per second", report.records.offered);
    assert!(report.records.offered >= requests);
    let (latency, outstanding) = by_recursion(&report);
    assert!(report.records.latency == latency, "not what the recursion says");
    assert_little(&report, outstanding, percent as f64 / 100.0);
    let mean = 1.0 / (1.0 - percent as f64 / 100.0);
    let p99 = mean * f64::ln(100.0);
    let latency = &report.records.latency;
    let seen = (latency.mean() / MS, quantile_ms(latency, 0.99));
    let off = (deviation(seen.0, mean), deviation(seen.1, p99));
    println!(
        "M/M/1 at {percent} %, {} requests: mean {:.4} ms of {mean:.4}, off by {:.2} %; \
         p99 {:.3} ms of {p99:.3}, off by {:.2} %",
        report.records.offered,
        seen.0,
        off.0 * 100.0,
        seen.1,
        off.1 * 100.0
    );
    off
}

/// Little's law, and the program's own count of it in each second: the mean number outstanding is
/// rho / (1 - rho).
#[track_caller]
fn assert_little(report: &Report, outstanding: u64, load: f64) {
    let steps = report.records.seconds.steps();
    let counted: u64 = steps.iter().map(|second| second.outstanding_ns).sum();
    assert_eq!(counted, outstanding, "outstanding at each time");
    let replies: u64 = steps.iter().map(|second| second.replies).sum();
    assert_eq!(replies, report.records.replies);
    let mean = counted as f64 / report.records.elapsed().as_nanos() as f64;
    let theory = load / (1.0 - load);
    let off = deviation(mean, theory);
    println!("outstanding: {mean:.4} of {theory:.4}, off by {:.2} %", off * 100.0);
    assert!(off < if report.records.offered < 1_000_000 { 0.1 } else { 0.02 });
}

#[test]
fn m_m_1_at_half_load() {
    // 20,000 requests have standard errors of 2 % and 3 %.
    let (mean, p99) = m_m_1(50, 20_000);
    assert!(mean < 0.06 && p99 < 0.1, "mean off by {mean}, p99 by {p99}");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "five million requests: run with --release")]
fn m_m_1_at_half_load_in_full() {
    let (mean, p99) = m_m_1(50, 5_000_000);
    assert!(mean < 0.02 && p99 < 0.02, "mean off by {mean}, p99 by {p99}");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "five million requests: run with --release")]
fn m_m_1_at_four_fifths_in_full() {
    let (mean, p99) = m_m_1(80, 5_000_000);
    assert!(mean < 0.02 && p99 < 0.02, "mean off by {mean}, p99 by {p99}");
}
