//! Where the time went, against a timed server with a known delay behind a network with a known
//! latency: each part of each request is exact.

use std::time::Duration;

use echopool::builtin::TimedOptions;
use echopool::builtin::timed::{TIMES_BYTES, Timed};
use echopool::service::{Answer, Connection, Service};
use loadgen::report::{Report, Verdict};
use loadgen::stats::parts::{Part, Parts, slowest};

use crate::world::{NO_LATENCY, drive, drive_with_pause};

const MS: Duration = Duration::from_millis(1);

fn timed(flags: &str, latency: Duration, delay: Duration) -> Report {
    let options = TimedOptions { delay, ..TimedOptions::default() };
    let (report, _): (_, Timed) =
        drive(&format!("timed://world:7 -l 16 {flags}"), latency, options);
    let parts = parts(&report);
    assert_eq!((parts.count(), parts.cut), (report.records.completed(), 0));
    report
}

fn parts(report: &Report) -> &Parts {
    report.records.parts.as_deref().expect("a timed server")
}

/// The sum of a part over all requests, exactly.
fn sum(report: &Report, part: Part) -> Duration {
    let rows: Vec<_> = parts(report).rows().collect();
    Duration::from_nanos(slowest(rows.into_iter(), 1.0).0.sums[part as usize])
}

/// Each request has this value in a part.
#[track_caller]
fn always(report: &Report, part: Part, value: Duration) {
    let (values, nanos) = (&parts(report).each[part as usize], value.as_nanos() as u64);
    let count = report.records.completed() as u32;
    assert_eq!(sum(report, part), value * count, "{part:?}");
    assert!(values.equivalent(values.min(), nanos) && values.equivalent(values.max(), nanos));
}

#[test]
fn the_network_and_the_service_take_what_they_take() {
    let (way, delay) = (Duration::from_micros(5_300), Duration::from_micros(2_900));
    for flags in ["-c 1 -n 200", "-c 30 -t 2 -n 900", "-c 40 -R 500 -d 3s", "-c 9 -t 3 -R 99 -d 3s"]
    {
        let report = timed(flags, way, delay);
        assert_eq!(report.records.completed(), report.records.offered, "{flags}");
        always(&report, Part::Network, 2 * way);
        always(&report, Part::Service, delay);
        for part in [Part::Generator, Part::Connection, Part::Waiting, Part::Reading] {
            always(&report, part, Duration::ZERO);
        }
        let ways = &parts(&report).one_way;
        assert_eq!(ways.contradictions, 0);
        for values in [&ways.there, &ways.back] {
            assert_eq!(values.len(), report.records.completed());
            assert!(values.equivalent(values.min(), way.as_nanos() as u64));
            assert!(values.equivalent(values.max(), way.as_nanos() as u64));
        }
    }
}

/// The server works on one request of a connection after the other, so the last of four waits for
/// three.
#[test]
fn requests_that_follow_each_other_wait_at_the_server() {
    let delay = 2 * MS;
    let report = timed("-c 3 -p 4 -n 3000", NO_LATENCY, delay);
    always(&report, Part::Service, delay);
    always(&report, Part::Network, Duration::ZERO);
    let waiting = &parts(&report).each[Part::Waiting as usize];
    let longest = (3 * delay).as_nanos() as u64;
    assert!(waiting.equivalent(waiting.max(), longest));
    // The first four of each connection are sent together.
    assert_eq!(sum(&report, Part::Waiting), 3 * (delay * 6 + 3 * delay * 996));
}

/// One connection takes every third of the requests that are due.
#[test]
fn a_request_without_a_connection_waits_for_one() {
    let report = timed("-c 1 -R 1000 -d 300ms", NO_LATENCY, 3 * MS);
    always(&report, Part::Generator, Duration::ZERO);
    always(&report, Part::Service, 3 * MS);
    let waiting = &parts(&report).each[Part::Connection as usize];
    assert!(*waiting == report.records.send_lag, "all of the lag is for want of a connection");
    assert!(waiting.max() > 100_000_000, "{}", waiting.max());
}

#[test]
fn a_generator_that_pauses_blames_itself() {
    let options = TimedOptions { delay: MS, ..TimedOptions::default() };
    let pause = [Duration::from_millis(500), Duration::from_millis(600)];
    let flags = "timed://world:7 -l 16 -c 200 -R 1000 -d 1s";
    let (report, _): (_, Timed) = drive_with_pause(flags, NO_LATENCY, options, Some(pause));
    let lag = &parts(&report).each[Part::Generator as usize];
    assert_eq!(lag.len(), report.records.completed());
    assert!(*lag == report.records.own_lag, "what the report says of the generator");
    assert!(lag.max() > 95_000_000, "{}", lag.max());
    always(&report, Part::Service, MS);
    always(&report, Part::Connection, Duration::ZERO);
    let rows: Vec<_> = parts(&report).rows().collect();
    let shares = slowest(rows.into_iter(), 0.01).0.shares();
    let own = shares[Part::Generator as usize] + shares[Part::Reading as usize];
    assert!(own > 0.95, "{shares:?}");
    always(&report, Part::Network, Duration::ZERO);
}

/// A server of frames that knows nothing of times.
struct Framed;

impl Service for Framed {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.output.append(connection.input);
        Answer::Continue
    }
}

/// A server whose clock goes back.
struct Backward;

impl Service for Backward {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        let mut times = [0; TIMES_BYTES];
        times[TIMES_BYTES - 16] = 1;
        connection.input.write_at(4, &times);
        connection.output.append(connection.input);
        Answer::Continue
    }
}

#[test]
fn replies_whose_times_are_not_in_order_are_wrong() {
    let flags = "timed://world:7 -l 16 -c 2 -n 10";
    let (framed, _) = drive(flags, NO_LATENCY, || Framed);
    let (backward, _) = drive(flags, NO_LATENCY, || Backward);
    for report in [framed, backward] {
        assert_eq!(report.verdict(), Verdict::Differed);
        let mismatch = &report.records.first_mismatches[0];
        let note = mismatch.note.as_deref().unwrap_or_default();
        assert!(note.contains("times of the server are not in order"), "{note}");
        assert_eq!(report.records.completed(), 0);
    }
}
