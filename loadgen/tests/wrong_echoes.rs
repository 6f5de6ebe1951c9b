//! Wrong echoes are detected: the connection, the position in its stream, and the exit code. Each
//! test asserts that its fault has happened.

mod common;

use common::loadgen;
use common::server::{EchoServer, Fault};
use serde_json::Value;

/// One thread connects in order, so the server numbers connections as the program does. Each
/// connection has requests of its own: otherwise others may have all that follow its first one, if
/// the server's thread does not run.
const FLAGS: &str = "-c 5 -t 1 -R 20k --strict -n 2k -l 64 --seed 1 --timeout 10s";

/// Runs against a server with this fault, with both forms of the report. Returns the first mismatch
/// of the JSON report, and the text report.
#[track_caller]
fn first_mismatch(fault: Fault, flags: &str) -> (Value, String) {
    let server = EchoServer::start(fault);
    let json =
        loadgen(&format!("{} {flags} --output-format json", server.address)).expect(3).json();
    assert!(server.fired() > 0, "the fault has not happened");
    assert_eq!((&json["verdict"], &json["exit_code"]), (&"echo-differed".into(), &3.into()));

    let server = EchoServer::start(fault);
    let text = loadgen(&format!("{} {flags}", server.address)).expect(3);
    assert!(server.fired() > 0, "the fault has not happened");
    text.says("Verdict: echo-differed");
    (json["first_mismatches"][0].clone(), text.stdout)
}

/// The first byte that differs may be a few bytes after the fault, because neighbouring bytes can
/// be equal.
#[track_caller]
fn assert_found_at(fault: Fault, connection: u64, offset: u64) {
    let (found, text) = first_mismatch(fault, FLAGS);
    assert_eq!(found["connection"], connection, "{found}");
    let found_offset = found["stream_offset"].as_u64().expect("a number");
    assert!((offset..offset + 8).contains(&found_offset), "{found}");
    let line = format!("connection {connection}, stream offset {found_offset} (request ");
    assert!(text.contains(&line), "no {line:?} in\n{text}");
}

#[test]
fn a_corrupted_byte() {
    let (found, text) = first_mismatch(Fault::Corrupt { connection: 3, offset: 1_000 }, FLAGS);
    assert_eq!((&found["connection"], &found["stream_offset"]), (&3.into(), &1_000.into()));
    let byte = |name: &str| found[name][0].as_u64().expect("a byte");
    assert_eq!(byte("expected") ^ byte("actual"), 0x10);
    assert!(text.contains("connection 3, stream offset 1000 (request 15, byte 40)"), "{text}");
    assert!(text.contains(" 1 mismatches"), "{text}");
}

#[test]
fn a_corrupted_byte_of_a_later_request_in_a_closed_loop() {
    // For as long as it takes: a number of requests may all be sent by other connections.
    let flags = "-c 5 -t 1 -d 1m --abort-on-fail -l 64 --seed 1 --timeout 30s";
    let (found, text) = first_mismatch(Fault::Corrupt { connection: 3, offset: 1_000 }, flags);
    assert_eq!((&found["connection"], &found["stream_offset"]), (&3.into(), &1_000.into()));
    assert!(text.contains("connection 3, stream offset 1000 (request 15, byte 40)"), "{text}");
}

#[test]
fn a_corrupted_byte_of_a_large_pipelined_request() {
    let flags = "-c 5 -t 1 -n 200 -l 100k -p 3 --seed 1";
    // In the first requests of each connection. Later ones may have been taken by other
    // connections.
    let offset = 234_567;
    let (found, _) = first_mismatch(Fault::Corrupt { connection: 2, offset }, flags);
    assert_eq!(found["stream_offset"], offset);
}

#[test]
fn a_lost_byte() {
    assert_found_at(Fault::Lose { connection: 4, offset: 100 }, 4, 100);
}

#[test]
fn a_repeated_byte() {
    assert_found_at(Fault::Repeat { connection: 0, offset: 100 }, 0, 101);
}

#[test]
fn a_repeated_last_byte_of_a_request() {
    // The surplus byte arrives before the first byte of the next request, or in its place.
    assert_found_at(Fault::Repeat { connection: 1, offset: 127 }, 1, 128);
}

#[test]
fn bytes_after_the_last_reply() {
    let (found, text) = first_mismatch(Fault::Surplus { connection: 3 }, FLAGS);
    assert_eq!((&found["connection"], &found["actual"]), (&3.into(), &serde_json::json!([])));
    assert!(text.contains("got bytes after the last reply"), "{text}");
}

#[test]
fn replies_of_two_connections_swapped() {
    let (found, text) = first_mismatch(Fault::Swap, FLAGS);
    assert_eq!(found["stream_offset"], 0);
    assert!(text.contains(" 2 mismatches"), "{text}");
}

#[test]
fn a_lost_last_byte_leaves_its_request_unanswered() {
    // Of the first request, because others may have all that follow.
    let server = EchoServer::start(Fault::Lose { connection: 2, offset: 63 });
    let flags = "-c 5 -t 1 -n 2k --timeout 3s --output-format json";
    let json = loadgen(&format!("{} {flags}", server.address)).expect(4).json();
    assert_eq!(server.fired(), 1);
    assert_eq!(json["errors"]["timed-out"], 1);
    assert_eq!((&json["requests_timed_out"], &json["replies"]), (&1.into(), &1_999.into()));
    assert_eq!(json["verdict"], "connections-lost");
}

#[test]
fn connections_that_are_cut_are_counted_by_kind() {
    // In the first request, because others may have all that follow.
    let at = (2, 640);
    let faults = [
        (Fault::Reset { connection: at.0, offset: at.1 }, "reset"),
        (Fault::Close { connection: at.0, offset: at.1 }, "closed-by-peer"),
        (Fault::Stall { connection: at.0, offset: at.1 }, "timed-out"),
    ];
    for (fault, kind) in faults {
        let server = EchoServer::start(fault);
        let flags = "-c 5 -t 1 -n 2k -l 1000 --timeout 3s --output-format json";
        let json = loadgen(&format!("{} {flags}", server.address)).expect(4).json();
        assert_eq!(server.fired(), 1, "{kind}");
        assert_eq!(json["errors"], serde_json::json!({ kind: 1 }));
        assert_eq!(json["connections"]["lost"], 1, "{kind}");
        assert_eq!(json["mismatched_connections"], 0, "{kind}");
        let answered = json["replies"].as_u64().expect("a number");
        let end = if kind == "timed-out" { "requests_timed_out" } else { "requests_unanswered" };
        let unanswered = json[end].as_u64().expect("a number");
        assert_eq!((answered + unanswered, unanswered), (2_000, 1), "{kind}");
    }
}

#[test]
fn replies_that_come_byte_by_byte_are_right() {
    let server = EchoServer::start(Fault::Trickle);
    let ended = loadgen(&format!("{} -c 3 -n 60 -l 50 -p 2", server.address)).expect(0);
    assert_eq!(server.bytes(), 3_000);
    assert!(server.fired() > 0);
    ended.says("Verified: 3000 bytes, 0 mismatches");
}
