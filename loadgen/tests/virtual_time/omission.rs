//! No coordinated omission: a stall of the server or a pause of the generator, at the start, in the
//! middle or across the end, makes requests late and leaves none out. The latency of each request
//! is computed from its intended time alone. It must not depend on how the run is limited (`-n` or
//! `-d`), on the number of threads, or on `--strict`.

use std::time::Duration;

use echopool::service::{Answer, Connection, ConnectionId, Service, Turn};
use echopool::time::Time;
use loadgen::report::Report;

use crate::world::{NO_LATENCY, drive, drive_with_pause, histogram_of, intended};

/// Requests per second, and in all: two seconds.
const RATE: u64 = 200;
const REQUESTS: u64 = 400;
/// From the start of a run, when it connects, to that of the measured period.
const START: Duration = Duration::from_millis(5);

/// A time in milliseconds of the measured period, with its beginning and without its end.
type Span = (u64, u64);

const STALLS: [Span; 3] = [(0, 300), (900, 1_300), (1_700, 2_600)];

/// Replies at once, except in a stall, at whose end it sends all that it owes.
struct Stalling {
    stall: Span,
    /// The connection that stalls, by the order of opening; all if there is none.
    only: Option<usize>,
    opened: usize,
    /// Connections that owe a reply.
    owing: Vec<ConnectionId>,
    /// The start of the measured period.
    start: Time,
}

impl Stalling {
    fn new(stall: Span, only: Option<usize>) -> Stalling {
        Stalling { stall, only, opened: 0, owing: Vec::new(), start: Time::ZERO }
    }
}

#[derive(Default)]
struct Owed {
    number: usize,
    bytes: Vec<u8>,
}

impl Service for Stalling {
    type Session = Owed;

    fn open(&mut self, connection: &mut Connection<'_>, owed: &mut Owed) -> Answer {
        if self.opened == 0 {
            self.start = connection.now() + START;
        }
        owed.number = self.opened;
        self.opened += 1;
        Answer::Continue
    }

    fn data(&mut self, connection: &mut Connection<'_>, owed: &mut Owed) -> Answer {
        owed.bytes.extend(connection.input.slices().collect::<Vec<_>>().concat());
        connection.input.consume(connection.input.len());
        let [from, until] = [self.stall.0, self.stall.1].map(|at| self.start + millis(at));
        let stalls = self.only.is_none_or(|only| only == owed.number);
        if stalls && (from..until).contains(&connection.now()) {
            self.owing.push(connection.id());
            return Answer::Continue;
        }
        self.timer(connection, owed)
    }

    /// A turn is on time to the nanosecond, a connection's timer is not.
    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        let end = self.start + millis(self.stall.1);
        if turn.now() < end {
            return Some(end);
        }
        self.owing.drain(..).for_each(|id| turn.wake(id));
        None
    }

    fn timer(&mut self, connection: &mut Connection<'_>, owed: &mut Owed) -> Answer {
        if owed.bytes.is_empty() {
            // Woken for several requests, it has sent all replies.
            return Answer::Continue;
        }
        assert!(connection.send(&owed.bytes), "a buffer for each request");
        owed.bytes.clear();
        Answer::Continue
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn run(flags: &str, stall: Span, only: Option<usize>, pause: Option<Span>) -> Report {
    let flags = format!("-l 16 -R {RATE} --timeout 1h {flags}");
    let server = move || Stalling::new(stall, only);
    let pause = pause.map(|(from, until)| [from, until].map(|at| START + millis(at)));
    let (report, server) = drive_with_pause(&flags, NO_LATENCY, server, pause);
    assert_eq!(report.records.began, server.start, "{flags}");
    assert_eq!(report.records.completed(), report.records.offered, "{flags}");
    report
}

/// When something is over that happens at this time, in nanoseconds: at once, or at the end of the
/// span.
fn after((from, until): Span, at: u64) -> u64 {
    let [from, until] = [from, until].map(|at| at * 1_000_000);
    if (from..until).contains(&at) { until } else { at }
}

/// The latency of a request that is due at this time, in nanoseconds.
fn latency(due: u64, stall: Span, pause: Option<Span>) -> u64 {
    let running = |at| pause.map_or(at, |pause| after(pause, at));
    running(after(stall, running(due))) - due
}

#[test]
fn a_stall_or_a_pause_leaves_nothing_out_however_the_run_is_limited() {
    let limits = [format!("-n {REQUESTS}"), "-d 2s".into()];
    let shares = ["-t 1", "-t 4", "-t 1 --strict", "-t 4 --strict"];
    let pauses = [None, Some((500, 1_000)), Some((1_900, 2_300))];
    for (stall, pause) in STALLS.iter().flat_map(|stall| pauses.map(|pause| (*stall, pause))) {
        let due = (0..REQUESTS).map(|nth| nth * 1_000_000_000 / RATE);
        let expected = histogram_of(due.map(|due| latency(due, stall, pause)));
        for (limit, share) in limits.iter().flat_map(|limit| shares.map(|share| (limit, share))) {
            let flags = format!("-c 4 -p 2048 {limit} {share}");
            let report = run(&flags, stall, None, pause);
            assert!(report.records.latency == expected, "{flags}, {stall:?}, {pause:?}");
        }
    }
}

#[test]
fn random_arrivals_are_the_first_of_their_schedule_too() {
    for share in ["-t 1", "-t 4", "-t 4 --strict"] {
        for (stall, pause) in STALLS.iter().zip([None, Some((500, 1_000)), Some((1_900, 2_300))]) {
            let flags = format!("-c 4 -p 2048 --arrivals poisson {share}");
            let whole = run(&format!("{flags} -d 3s"), *stall, None, pause);
            let expected = |count: usize| {
                let due = intended(&whole).into_iter().take(count);
                histogram_of(due.map(|due| latency(due, *stall, pause)))
            };
            assert!(whole.records.latency == expected(usize::MAX), "{flags}");
            for requests in [1, 2, 60, REQUESTS] {
                let first = run(&format!("{flags} -n {requests}"), *stall, None, pause);
                let expected = expected(requests as usize);
                assert!(first.records.latency == expected, "{flags} -n {requests}");
            }
        }
    }
}

/// One connection of four stalls, and what is due on it meanwhile waits for it. With `-d` there is
/// room for all of it, so that it is sent before the period ends.
#[test]
fn what_one_connection_holds_up_is_not_left_to_the_others() {
    for (stall, only) in STALLS.iter().flat_map(|stall| [0, 3].map(|only| (*stall, only))) {
        // Each connection has every fourth request, in an order that the world decides.
        let of_lane = |lane: u64| {
            histogram_of((0..REQUESTS).map(|nth| match nth % 4 == lane {
                true => latency(nth * 1_000_000_000 / RATE, stall, None),
                false => 0,
            }))
        };
        let expected: Vec<_> = (0..4).map(of_lane).collect();
        for share in ["-t 4", "-t 1 --strict", "-t 4 --strict"] {
            for limit in [format!("-n {REQUESTS}"), "-d 2s -p 2048".into()] {
                let flags = format!("-c 4 {limit} {share}");
                let report = run(&flags, stall, Some(only), None);
                assert_eq!(report.records.offered, REQUESTS, "{flags}, {stall:?}");
                assert!(expected.contains(&report.records.latency), "{flags}, {stall:?}");
            }
        }
    }
}

/// The measured requests follow those of the warm-up.
#[test]
fn a_number_of_requests_counts_from_the_end_of_the_warm_up() {
    for share in ["-t 1", "-t 4", "-t 4 --strict", "-t 4 --arrivals poisson"] {
        let flags = format!("-l 16 -c 4 -R 1000 -n 500 -w 333ms {share}");
        let server = || Stalling::new((0, 0), None);
        let records = drive(&flags, NO_LATENCY, server).0.records;
        assert_eq!((records.offered, records.replies), (500, 500), "{flags}");
        let warmup = records.warmup_requests;
        assert!(share.contains("poisson") || warmup == 333, "{flags}: {warmup}");
    }
}

/// As with the same length of time: a request has its part of the time until the next one.
#[test]
fn the_period_of_a_number_of_requests_is_as_long_as_their_schedule() {
    for (flags, millis) in [
        ("-c 1 -n 2 -R 1", 2_000),
        ("-c 4 -t 3 -n 100 -R 1000", 100),
        ("-c 4 --strict -n 100 -R 1000", 100),
        ("-c 2 -n 150 --stages 100ms:1000,1s:100", 600),
        // None follows.
        ("-c 2 -n 100 --stages 100ms:1000,900ms:0", 100),
        ("-c 2 -n 1000 -R 1000 -d 300ms", 300),
    ] {
        let server = || Stalling::new((0, 0), None);
        let report = drive(&format!("-l 16 {flags}"), NO_LATENCY, server).0;
        assert_eq!(report.records.elapsed(), Duration::from_millis(millis), "{flags}");
    }
}

/// It ends with the last request, whether that has a reply or not.
#[test]
fn the_period_lasts_until_the_last_request_has_ended() {
    for rate in ["", "-R 1000", "-R 1000 --strict"] {
        // The first replies come at once, and no others.
        let server = || Stalling::new((1, 3_600_000), None);
        let flags = format!("-l 16 -c 5 -t 2 -n 28 --timeout 500ms {rate}");
        let report = drive(&flags, Duration::from_micros(100), server).0;
        let records = &report.records;
        assert!(records.timed_out > 0 && records.completed() > 0, "{flags}");
        assert!(
            records.elapsed() >= Duration::from_millis(500),
            "{flags}: {:?}",
            records.elapsed()
        );
        assert!(report.requests_per_second() < 1_000.0, "{flags}");
    }
}

/// After a pause that is longer than the time-out, replies are in their sockets, and what was due
/// meanwhile has not been sent: nothing is overdue.
#[test]
fn a_pause_longer_than_the_time_out_times_nothing_out() {
    let pause = |at: u64| Some([millis(at), millis(at + 1_500)]);
    for load in ["-R 100", "-R 100 --strict", "-R 100 --lifetime 5", "-R 2000 -p 8", ""] {
        // In the period, and while the last replies are waited for.
        for at in [1_000, 2_990] {
            let flags = format!("-l 16 -c 20 -t 2 -d 3s --timeout 500ms {load}");
            let text = "delay://world?depth=1024&size=16&fixed=30ms";
            let spec: echopool::builtin::url::Spec = text.parse().expect("a law");
            let echopool::builtin::url::ServiceOptions::Delay(delay) = spec.service else {
                panic!("no delay service")
            };
            let (report, _) = drive_with_pause(&flags, Duration::from_micros(5), delay, pause(at));
            let records = &report.records;
            assert_eq!(records.losses.total(), 0, "{flags}: {:?}", records.losses);
            assert_eq!((records.timed_out, records.unanswered), (0, 0), "{flags}");
            assert!(
                records.latency.max() >= 1_400_000_000,
                "{flags}: the pause is in the latencies"
            );
        }
    }
}
