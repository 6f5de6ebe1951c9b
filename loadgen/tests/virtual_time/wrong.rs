//! Servers that send one wrong byte: it is detected, the report names the connection and the
//! offset, and the exit code shows it.

use std::time::Duration;

use echopool::service::{Answer, Connection, ConnectionId, Service, Turn};
use loadgen::error::Exit;
use loadgen::report::Report;

use crate::world::drive;

/// A closed loop needs time to pass.
const LATENCY: Duration = Duration::from_micros(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    Corrupt,
    Drop,
    Repeat,
    /// The reply goes to the next connection that asks, which receives this one instead of its own.
    Swap,
}

/// An echo with a fault at one byte: the one with this many before it, over all connections.
struct Wrong {
    fault: Fault,
    at: u64,
    /// Over all connections.
    echoed: u64,
    /// Bytes of each connection, in the order of opening, which is the order of the program's
    /// numbers.
    streams: Vec<u64>,
    /// Where it happened: connections and offsets.
    fired: Vec<(u64, u64)>,
    /// Bytes to send over another connection; then those that this connection receives instead.
    held: Option<(usize, ConnectionId, Vec<u8>)>,
    owed: Option<(usize, ConnectionId, Vec<u8>)>,
}

impl Wrong {
    fn new(fault: Fault, at: u64) -> Wrong {
        let (held, owed) = (None, None);
        Wrong { fault, at, echoed: 0, streams: Vec::new(), fired: Vec::new(), held, owed }
    }

    /// The bytes with the fault at this index. Without any if they are held back.
    fn spoil(&mut self, mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        match self.fault {
            Fault::None | Fault::Swap => {}
            Fault::Corrupt => bytes[at] ^= 0x10,
            Fault::Drop => drop(bytes.remove(at)),
            Fault::Repeat => bytes.insert(at, bytes[at]),
        }
        bytes
    }
}

fn take_input(connection: &mut Connection<'_>) -> Vec<u8> {
    let bytes = connection.input.slices().collect::<Vec<_>>().concat();
    connection.input.consume(bytes.len());
    bytes
}

#[track_caller]
fn send(connection: &mut Connection<'_>, bytes: &[u8]) -> Answer {
    assert!(connection.send(bytes), "a buffer for each request");
    Answer::Continue
}

impl Service for Wrong {
    type Session = Option<usize>;

    fn open(&mut self, _: &mut Connection<'_>, session: &mut Option<usize>) -> Answer {
        *session = Some(self.streams.len());
        self.streams.push(0);
        Answer::Continue
    }

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut Option<usize>) -> Answer {
        let number = session.expect("it was opened");
        let (offset, count) = (self.streams[number], connection.input.len() as u64);
        let within = self.at.checked_sub(self.echoed).filter(|within| *within < count);
        self.echoed += count;
        self.streams[number] += count;
        if let Some((other, id, bytes)) = self.held.take_if(|(other, ..)| *other != number) {
            self.fired.push((number as u64, offset));
            self.owed = Some((other, id, take_input(connection)));
            return send(connection, &bytes);
        }
        let Some(within) = within.filter(|_| self.fault != Fault::None) else {
            connection.output.append(connection.input);
            return Answer::Continue;
        };
        let bytes = take_input(connection);
        if self.fault == Fault::Swap {
            self.fired.push((number as u64, offset));
            self.held = Some((number, connection.id(), bytes));
            return Answer::Continue;
        }
        self.fired.push((number as u64, offset + within));
        let bytes = self.spoil(bytes, within as usize);
        send(connection, &bytes)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut Option<usize>) -> Answer {
        let owed = self.owed.take_if(|(number, ..)| Some(*number) == *session);
        match owed {
            Some((.., bytes)) => send(connection, &bytes),
            None => Answer::Continue,
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<echopool::time::Time> {
        if let Some((_, id, _)) = &self.owed {
            turn.wake(*id);
        }
        None
    }
}

/// Returns the report and the position of the fault, after asserting that the report names it.
#[track_caller]
fn found(fault: Fault, at: u64, flags: &str) -> (Report, Vec<(u64, u64)>) {
    let (report, server) = drive(flags, LATENCY, move || Wrong::new(fault, at));
    assert!(!server.fired.is_empty(), "the fault has not happened");
    assert!(server.echoed > at);
    assert_eq!(report.exit(), Exit::Differed, "{}", report.verdict_text());
    assert_eq!(report.records.mismatches, server.fired.len() as u64);
    (report, server.fired)
}

fn named(report: &Report) -> Vec<(u64, u64)> {
    let places = report.records.first_mismatches.iter();
    let mut places: Vec<_> = places.map(|at| (at.connection, at.stream_offset)).collect();
    places.sort_unstable();
    places
}

const FLAGS: &str = "-c 5 -t 2 -n 4k -l 64 -p 3";

#[test]
fn an_echo_that_does_right_passes() {
    let (report, server) = drive(FLAGS, LATENCY, || Wrong::new(Fault::None, 0));
    assert_eq!(report.exit(), Exit::Ok, "{}", report.verdict_text());
    assert_eq!((report.records.replies, report.records.bytes), (4_000, 256_000));
    assert_eq!(server.echoed, 256_000);
}

#[test]
fn a_corrupted_byte_is_named() {
    for at in [0, 1, 99_999, 200_001] {
        let (report, fired) = found(Fault::Corrupt, at, FLAGS);
        assert_eq!(named(&report), fired, "byte {at}");
        let mismatch = &report.records.first_mismatches[0];
        assert_eq!(mismatch.expected[0] ^ mismatch.actual[0], 0x10);
    }
}

/// After a byte that is missing or repeated, neighbouring bytes may be equal by accident.
#[test]
fn a_dropped_or_repeated_byte_is_named() {
    for (fault, behind) in [(Fault::Drop, 0), (Fault::Repeat, 1)] {
        for at in [100_004, 200_017] {
            let (report, fired) = found(fault, at, FLAGS);
            let ((connection, offset), (in_fact, from)) = (named(&report)[0], fired[0]);
            assert_eq!(connection, in_fact, "{fault:?}, byte {at}");
            let from = from + behind;
            assert!((from..from + 4).contains(&offset), "{fault:?}: {offset}, not {from}");
        }
    }
}

/// The last byte of a reply, repeated, arrives in place of the first byte of the next reply, whose
/// request was not even sent.
#[test]
fn a_repeated_last_byte_is_named() {
    let (report, fired) = found(Fault::Repeat, 64 * 1_000 + 63, "-c 5 -t 2 -n 4k -l 64");
    let (connection, offset) = fired[0];
    assert_eq!(named(&report), [(connection, offset + 1)]);
    let mismatch = &report.records.first_mismatches[0];
    assert!(mismatch.expected.is_empty() && mismatch.actual.len() == 1, "{mismatch:?}");
}

/// Nothing wrong has arrived, and nothing else will.
#[test]
fn without_its_last_byte_a_request_is_timed_out() {
    let server = || Wrong::new(Fault::Drop, 64 * 1_000 + 63);
    let (report, server) = drive("-c 5 -t 2 -n 4k -l 64 --timeout 1s", LATENCY, server);
    assert_eq!((server.fired.len(), report.exit()), (1, Exit::NotValid));
    let records = &report.records;
    assert_eq!((records.timed_out, records.completed(), records.mismatches), (1, 3_999, 0));
    assert_eq!(records.latency.max() / 1_000_000_000, 1, "its age is in the latencies");
}

#[test]
fn replies_of_two_connections_swapped_are_named_both() {
    let (report, mut fired) = found(Fault::Swap, 100_000, FLAGS);
    fired.sort_unstable();
    assert_eq!(fired.len(), 2);
    assert_eq!(named(&report), fired);
}

/// More than 10^9 bytes in large requests, one of them wrong.
#[test]
#[cfg_attr(debug_assertions, ignore = "more than a gigabyte: run with --release")]
fn one_byte_in_a_billion_is_named() {
    let flags = "-c 8 -t 2 -n 16500 -l 64k";
    let (report, server) = drive(flags, LATENCY, || Wrong::new(Fault::None, 0));
    assert_eq!(report.exit(), Exit::Ok, "{}", report.verdict_text());
    assert!(server.echoed > 1_000_000_000 && report.records.bytes == server.echoed);
    let (report, fired) = found(Fault::Corrupt, 1_000_000_000, flags);
    assert_eq!(named(&report), fired);
    println!(
        "one byte wrong behind 10^9: {fired:?}, {} bytes right",
        report.records.bytes_verified
    );
}
