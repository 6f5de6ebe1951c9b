//! Each kind of load against a server with a fixed delay: every request of the schedule is sent at
//! its time, and each latency is the delay plus twice the network latency.

use std::time::Duration;

use loadgen::report::{Report, Verdict};
use loadgen::stats::records::Records;

use crate::world::{assert_kept, drive_delay, drive_delay_over, intended};

const LATENCY: Duration = Duration::from_micros(25);

/// Two seconds with enough connections.
fn with_fixed_delay(flags: &str) -> Report {
    drive_delay_over(LATENCY, &format!("-c 12 -t 3 -d 2s {flags}"), "fixed=3ms")
}

#[test]
fn every_kind_of_schedule_is_kept_to_the_nanosecond() {
    for flags in [
        "-R 1000",
        "-R 1000 --strict",
        "-R 1000 --arrivals poisson -p 64",
        "-R 500 --arrivals poisson --strict -p 64",
        "-R 997 -w 300ms",
        "-R 1000 -l uniform:1-64 -p 4",
        "--stages 500ms:100-1000,1s:1000,500ms:1000-0",
        "-R 1000 --lifetime 50",
        "-R 1",
    ] {
        let report = with_fixed_delay(flags);
        assert_eq!(report.verdict(), Verdict::Valid, "{flags}: {}", report.verdict_text());
        assert_kept(&report);
        if !flags.contains("-w") {
            assert_eq!(report.records.offered, intended(&report).len() as u64, "{flags}");
        }
        let renewed = report.records.reconnects;
        assert_eq!(renewed >= 12, flags.contains("lifetime"), "{flags}: {renewed} begun anew");
        let latency = &report.records.latency;
        let expected = 3_050_000;
        assert!(latency.equivalent(latency.min(), expected), "{flags}: {}", latency.min());
        assert!(latency.equivalent(latency.max(), expected), "{flags}: {}", latency.max());
    }
}

/// Computed or sent, a constant schedule equals exact division: errors do not accumulate.
#[test]
fn a_constant_schedule_is_exact() {
    for flags in ["-R 997", "-R 997 --strict", "-R 7 --strict"] {
        let rate: u64 = if flags.contains("997") { 997 } else { 7 };
        let report = with_fixed_delay(flags);
        assert_kept(&report);
        let exact: Vec<u64> = (0..2 * rate).map(|nth| nth * 1_000_000_000 / rate).collect();
        assert_eq!(intended(&report), exact, "{flags}");
    }
}

#[test]
fn the_same_seed_is_the_same_run_and_no_other_is() {
    let run = |seed| {
        let flags = format!("-c 4 -t 2 -p 8 -R 3000 --arrivals poisson -d 1s --seed {seed}");
        drive_delay(&flags, "exp=1ms&queue=1&stall=20ms/300ms").records
    };
    let (one, same, other) = (run(1), run(1), run(2));
    assert!(one.latency == same.latency && one.send_lag == same.send_lag);
    assert_eq!((one.offered, one.replies_each), (same.offered, same.replies_each));
    assert!(one.latency != other.latency);
}

/// However many processes make a run together, they send the same requests at the same times.
#[test]
fn shards_with_as_many_threads_in_all_are_the_same_run() {
    for flags in [
        "-R 997 -d 2s",
        "-R 997 -n 1501",
        "-R 1000 -d 1s --strict",
        "-R 1000 -d 2s --arrivals poisson -p 64",
        "-R 1000 -n 1501 --arrivals poisson -p 64",
        "-R 1000 -d 1s --arrivals poisson --strict -p 64",
        "-R 997 -w 300ms -d 1s",
        "-R 1000 -d 1s -l uniform:1-64 -p 4",
        "--stages 500ms:100-1000,1s:1000-0",
        "-R 1000 -d 1s --lifetime 50",
        "-n 1501",
    ] {
        let drive = |more: &str| {
            drive_delay_over(LATENCY, &format!("-c 29 --seed 1 {more} {flags}"), "fixed=3ms")
        };
        let whole = drive("-t 8");
        let sent = |report: &Report| match report.plan.open_loop {
            Some(_) => intended(report),
            None => Vec::new(),
        };
        for shards in [2, 8] {
            let threads = 8 / shards;
            let mut records = Records::default();
            let mut times = Vec::new();
            for index in 0..shards {
                let part = drive(&format!("-t {threads} --shard {index}/{shards}"));
                assert_eq!(part.verdict(), whole.verdict(), "{flags}: {}", part.verdict_text());
                times.extend(sent(&part));
                records.merge(part.records);
            }
            times.sort_unstable();
            assert_eq!(times, sent(&whole), "{flags}: when requests are due");
            let whole = &whole.records;
            assert_eq!(records.offered, whole.offered, "{flags}");
            assert_eq!(records.bytes, whole.bytes, "{flags}: the sizes are the same");
            assert_eq!(records.reconnects, whole.reconnects, "{flags}");
            assert!(records.latency == whole.latency, "{flags}");
            assert!(records.send_lag == whole.send_lag, "{flags}");
        }
    }
}
