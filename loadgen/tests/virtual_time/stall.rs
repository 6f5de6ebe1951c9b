//! A server that stalls for S every T, otherwise late by d: whoever comes in a stall waits for its
//! end. The times at which requests are done lie evenly in T, so that the latency L has
//!
//! ```text
//! P(L <= d + x) = 1 - (S - x) / T                     for 0 <= x <= S
//! quantile(q)   = d                                   for q <= 1 - S/T
//!               = d + S - (1 - q) T                   above
//! ```

use hdrhistogram::Histogram;

use crate::world::{assert_kept, deviation, drive_delay, quantile_ms};

/// In milliseconds.
#[derive(Clone, Copy)]
struct Stall {
    delay: f64,
    lasts: f64,
    every: f64,
}

/// The time between stalls is not a multiple of the time between requests, so that the requests in
/// each stall have other phases than those in the others.
const STALL: Stall = Stall { delay: 20.0, lasts: 400.0, every: 1013.0 };

impl Stall {
    fn options(self) -> String {
        format!("fixed={}ms&stall={}ms/{}ms", self.delay, self.lasts, self.every)
    }

    fn quantile(self, quantile: f64) -> f64 {
        let waits = self.lasts - (1.0 - quantile) * self.every;
        self.delay + waits.max(0.0)
    }

    /// The percentile from `first` (in permille) to 99.9 with the largest deviation from theory,
    /// and the deviation.
    fn worst(self, latency: &Histogram<u64>, first: u32) -> (f64, f64) {
        let each = (first..=999).map(|permille| {
            let quantile = f64::from(permille) / 1000.0;
            let theory = self.quantile(quantile);
            (quantile * 100.0, deviation(quantile_ms(latency, quantile), theory))
        });
        each.max_by(|one, other| one.1.total_cmp(&other.1)).expect("some percentiles")
    }

    /// An open loop over this many whole rounds, so that all phases are equally frequent.
    fn open_loop(self, rate: u64, rounds: u64, flags: &str) -> loadgen::report::Report {
        let flags = format!("-R {rate} -d {}ms {flags}", self.every as u64 * rounds);
        drive_delay(&flags, &self.options())
    }
}

fn every_percentile(rate: u64, rounds: u64) {
    let report = STALL.open_loop(rate, rounds, "-c 8 -p 1024 -t 2");
    assert_kept(&report);
    let (percentile, worst) = STALL.worst(&report.records.latency, 500);
    println!(
        "stall, {} requests: off by at most {:.3} %, at p{percentile:.1}",
        report.records.offered,
        worst * 100.0
    );
    assert!(worst < 0.01, "p{percentile} is off by {:.2} %", worst * 100.0);
}

#[test]
fn every_percentile_of_a_stall_is_that_of_theory() {
    every_percentile(1_009, 13);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "two million requests: run with --release")]
fn every_percentile_of_a_stall_is_that_of_theory_in_full() {
    every_percentile(9_973, 200);
}

/// Why latency counts from the intended time: from the actual send, the stall almost disappears.
/// With too few connections for the stall, requests due meanwhile wait for a connection.
#[test]
fn the_check_finds_latencies_that_count_from_the_actual_send() {
    let stall = Stall { delay: 0.0, ..STALL };
    let report = stall.open_loop(1_009, 13, "-c 4 -t 1");
    // Without a delay, the value just above the step, at 60.5 %, is a fraction of a millisecond,
    // and one request more or less changes it much.
    let (_, of_latency) = stall.worst(&report.records.latency, 650);
    let (_, of_service_time) = stall.worst(&report.records.service_time, 650);
    println!("stall: latency off by {of_latency:.4}, service time by {of_service_time:.4}");
    assert_eq!(report.records.service_time.len(), report.records.offered);
    assert!(of_latency < 0.01);
    assert_eq!(quantile_ms(&report.records.latency, 0.6), 0.0, "before the step nobody waits");
    assert!(of_service_time > 0.99, "it does not show the stall");
}

/// What a closed loop shows of a stall of 100 ms per second: one slow request each.
#[test]
fn a_closed_loop_omits_the_stall() {
    let stall = Stall { delay: 1.0, lasts: 100.0, every: 1013.0 };
    let closed = drive_delay("-c 1 -t 1 -d 20260ms", &stall.options()).records;
    let open = stall.open_loop(997, 20, "-c 8 -p 64 -t 1").records;
    for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
        println!(
            "p{}: closed {:.3} ms, open {:.3} ms, theory {:.3} ms",
            quantile * 100.0,
            quantile_ms(&closed.latency, quantile),
            quantile_ms(&open.latency, quantile),
            stall.quantile(quantile)
        );
    }
    // 913 requests of a millisecond between two stalls, and one that waits.
    let slow = |latency: &Histogram<u64>| latency.len() - latency.count_between(0, 2_000_000);
    assert_eq!(slow(&closed.latency), 20, "one for each stall, of {}", closed.offered);
    assert!(deviation(quantile_ms(&closed.latency, 0.99), stall.delay) < 0.01);
    assert!(deviation(quantile_ms(&open.latency, 0.99), stall.quantile(0.99)) < 0.01);
    let waited = slow(&open.latency) as f64 / open.offered as f64;
    println!("waited: {waited:.4}, closed {} of {}", slow(&closed.latency), closed.offered);
    assert!((waited - 0.098).abs() < 0.001, "a tenth of those who come, wait: {waited}");
}
