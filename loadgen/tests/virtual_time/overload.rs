//! Twice the rate that the server can sustain: a request every half millisecond for a server that
//! needs a whole one. Request n arrives at n/2 ms and departs at n + 1 ms, so the latency grows
//! without bound. All of it can be calculated, to the last request that is never sent.

use std::time::Duration;

use loadgen::report::Verdict;

use crate::world::{drive_delay, histogram_of};

const HALF_MS: u64 = 500_000;
const SERVER: &str = "fixed=1ms&queue=1";

/// The period ends between two departures.
fn grows_as_it_must(seconds: u64) {
    let connections_times_pipeline = 4 * 64;
    let end = seconds * 2_000 * HALF_MS + HALF_MS;
    let flags = format!("-c 4 -p 64 -t 1 -R 2000 -d {end}ns --timeout 1h");
    let report = drive_delay(&flags, SERVER);
    let records = &report.records;
    // At n/2 ms; the last one half a millisecond before the end.
    let offered = seconds * 2_000 + 1;
    let replies = seconds * 1_000;
    assert_eq!((records.offered, records.replies), (offered, replies), "offered and achieved");
    // At the end of the period each connection has its maximum of outstanding requests.
    let completed = replies + connections_times_pipeline;
    assert_eq!((records.completed(), records.requests), (completed, completed));
    assert_eq!(records.never_sent, offered - completed);
    assert_eq!((records.timed_out, records.unanswered), (0, 0));
    let latency = |n: u64| match n < completed {
        true => (n + 1) * 2 * HALF_MS - n * HALF_MS,
        false => end - n * HALF_MS,
    };
    assert!(records.latency == histogram_of((0..offered).map(latency)), "each latency");
    // A request is sent when the request one window before it departs.
    let window = connections_times_pipeline;
    let lag = |n: u64| match n.checked_sub(window) {
        Some(before) => ((before + 1) * 2 * HALF_MS).saturating_sub(n * HALF_MS),
        None => 0,
    };
    assert!(records.send_lag == histogram_of((0..completed).map(lag)), "each send lag");
    assert_eq!(records.own_lag.max(), 0, "none of it is the generator's own");
    println!(
        "overload: {offered} offered, {completed} completed, {} never sent",
        offered - completed
    );
}

#[test]
fn twice_the_rate_adds_up_and_grows_as_it_must() {
    grows_as_it_must(5);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "two million requests: run with --release")]
fn twice_the_rate_adds_up_and_grows_as_it_must_in_full() {
    grows_as_it_must(1_000);
}

/// The same with a time-out: a request that was sent is completed, timed out, or unanswered because
/// its connection was closed for another request. The rest is never sent.
#[test]
fn with_a_time_out_each_request_has_one_end() {
    let report = drive_delay("-c 4 -p 4096 -t 1 -R 2000 -d 30s --timeout 2s", SERVER);
    let records = &report.records;
    assert_eq!(report.verdict(), Verdict::ConnectionsLost);
    // A connection that timed out is replaced, so the whole rate is offered: 2000/s for 30 s.
    assert_eq!((records.elapsed(), records.offered), (Duration::from_secs(30), 60_000));
    let given_up = records.timed_out + records.unanswered + records.never_sent;
    assert_eq!(records.completed() + given_up, records.offered);
    // From then on the queue is about two seconds long: each of the four times out repeatedly.
    assert!((4..=4 * 15).contains(&records.losses.timed_out), "{:?}", records.losses);
    assert!(records.timed_out >= records.losses.timed_out && records.unanswered > 0);
    // The first ones had replies: request n after n/2 + 1 ms, which is 2 s for number 3998.
    assert!(records.completed() >= 3_998, "{} completed", records.completed());
}
