//! Delays without a queue. The histogram must equal that of the delays that the server drew, bucket
//! for bucket, and these must have their distribution. An open loop with enough connections.

use std::time::Duration;

use echopool::builtin::delay::Distribution;
use echopool::internals::{delay_numbers, draw_delay};
use loadgen::report::Report;

use crate::world::{
    MS, RESOLUTION, assert_kept, deviation, drive_delay, histogram_of, quantile_ms,
};

/// The server's seed, so that its draws can be repeated.
const SEED: u64 = 7;

/// One request at a time on each of many connections, so that the order delays nothing. Returns the
/// report if its histogram equals that of the delays drawn.
fn exact(options: &str, law: Distribution, seconds: u64) -> Report {
    let flags = format!("-c 40 -t 2 -R 2000 --arrivals poisson -d {seconds}s");
    let report = drive_delay(&flags, &format!("{options}&seed={SEED}"));
    assert_kept(&report);
    let mut rng = delay_numbers(SEED);
    let drawn = (0..report.records.offered).map(|_| draw_delay(&law, &mut rng).as_nanos() as u64);
    assert!(report.records.latency == histogram_of(drawn), "{options}: not what was drawn");
    assert!(report.records.latency == report.records.service_time);
    report
}

fn fixed(seconds: u64) {
    let report = exact("fixed=3ms", Distribution::Fixed(Duration::from_millis(3)), seconds);
    let latency = &report.records.latency;
    assert!(latency.equivalent(latency.min(), latency.max()), "all the same");
    let off = deviation(quantile_ms(latency, 0.5), 3.0);
    println!("fixed, {} requests: off by {:.4} %", report.records.offered, off * 100.0);
    assert!(off <= RESOLUTION);
}

/// The quantiles of a sample deviate by its sampling error: four standard errors.
fn uniform(seconds: u64) {
    let (min, max) = (Duration::from_millis(1), Duration::from_millis(5));
    let report = exact("uniform=1ms-5ms", Distribution::Uniform(min, max), seconds);
    let latency = &report.records.latency;
    let mut worst = 0.0;
    for percent in 1..=99 {
        let quantile = f64::from(percent) / 100.0;
        let (seen, theory) = (quantile_ms(latency, quantile), 1.0 + 4.0 * quantile);
        let spread = (quantile * (1.0 - quantile) / report.records.offered as f64).sqrt();
        let allowed = 4.0 * 4.0 * spread + RESOLUTION * theory;
        assert!((seen - theory).abs() <= allowed, "p{percent}: {seen}, not {theory}");
        worst = f64::max(worst, deviation(seen, theory));
    }
    let requests = report.records.offered;
    println!("uniform, {requests} requests: off by at most {:.3} %", worst * 100.0);
}

fn bimodal(seconds: u64) {
    let (one, other) = (Duration::from_millis(1), Duration::from_millis(20));
    let law = Distribution::Bimodal([(one, 90), (other, 10)]);
    let report = exact("bimodal=1ms:90,20ms:10", law, seconds);
    let latency = &report.records.latency;
    let count = report.records.offered as f64;
    let slow = (latency.len() - latency.count_between(0, (10.0 * MS) as u64)) as f64 / count;
    println!("bimodal, {count} requests: {:.3} % of 20 ms, 10 in theory", slow * 100.0);
    assert!((slow - 0.1).abs() < 4.0 * (0.1f64 * 0.9 / count).sqrt());
    for (quantile, theory) in [(0.5, 1.0), (0.89, 1.0), (0.91, 20.0), (0.999, 20.0)] {
        assert!(deviation(quantile_ms(latency, quantile), theory) <= RESOLUTION, "{quantile}");
    }
}

#[test]
fn a_fixed_delay() {
    fixed(3);
}

#[test]
fn a_uniform_delay() {
    uniform(5);
}

#[test]
fn a_bimodal_delay() {
    bimodal(5);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "millions of requests: run with --release")]
fn delays_in_full() {
    fixed(500);
    uniform(500);
    bimodal(500);
}
