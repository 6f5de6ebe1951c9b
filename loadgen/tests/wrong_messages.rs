//! Wrong framing is detected: the connection, the position in its stream, and the exit code. Each
//! test asserts that its fault has happened.
//!
//! An echo server returns frames and messages as expected, so the wrong echoes are wrong here too.
//! The difference is what they hit: headers, delimiters and ends.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use common::loadgen;
use common::server::{EchoServer, Fault};
use serde_json::{Value, json};

/// One thread connects in order, so the server numbers connections as the program does. Only the
/// first message of each connection is certain: on a busy machine one connection may have all
/// others.
const FLAGS: &str = "-c 5 -t 1 -n 2k -l 60 --seed 1 --timeout 10s";

/// Runs against an echo server with this fault. Returns the description of the first mismatch.
#[track_caller]
fn first_mismatch(service: &str, options: &str, fault: Fault) -> Value {
    let server = EchoServer::start(fault);
    let target = format!("{service}://{}{options}", server.address);
    let json = loadgen(&format!("{target} {FLAGS} --output-format json")).expect(3).json();
    assert!(server.fired() > 0, "the fault has not happened");
    assert_eq!((&json["verdict"], &json["exit_code"]), (&"echo-differed".into(), &3.into()));
    json["first_mismatches"][0].clone()
}

#[track_caller]
fn assert_found_at(found: &Value, connection: u64, offset: u64) {
    assert_eq!(found["connection"], connection, "{found}");
    assert_eq!(found["stream_offset"], offset, "{found}");
}

#[test]
fn a_wrong_header_wherever_the_byte_is() {
    for (order, options) in [("little", ""), ("big", "?order=big")] {
        for within in 0..4 {
            let fault = Fault::Corrupt { connection: 3, offset: within };
            let found = first_mismatch("framed", options, fault);
            assert_found_at(&found, 3, within);
            let byte = |name: &str| found[name][0].as_u64().expect("a byte");
            assert_eq!(byte("expected") ^ byte("actual"), 0x10, "{order}, byte {within}");
        }
    }
}

#[test]
fn a_wrong_byte_in_a_frame() {
    let fault = Fault::Corrupt { connection: 2, offset: 40 };
    assert_found_at(&first_mismatch("framed", "", fault), 2, 40);
}

#[test]
fn a_frame_that_lacks_a_byte() {
    // The first byte of the second frame: its length is 60, then 0.
    let flags = "-c 1 -n 2 -l 60 --seed 1 --output-format json";
    let server = EchoServer::start(Fault::Lose { connection: 0, offset: 64 });
    let json = loadgen(&format!("framed://{} {flags}", server.address)).expect(3).json();
    assert_eq!(server.fired(), 1);
    assert_found_at(&json["first_mismatches"][0], 0, 64);
}

#[test]
fn frames_of_two_connections_swapped() {
    // Headers are equal, so the difference is after them.
    assert_eq!(first_mismatch("framed", "", Fault::Swap)["stream_offset"], 4);
}

#[test]
fn a_wrong_byte_in_a_message_or_its_delimiter() {
    for offset in [30, 60, 64] {
        let fault = Fault::Corrupt { connection: 1, offset };
        assert_found_at(&first_mismatch("message", "?after=keep", fault), 1, offset);
    }
}

#[test]
fn messages_of_two_connections_swapped() {
    let found = first_mismatch("message", "?after=keep", Fault::Swap);
    let offset = found["stream_offset"].as_u64().expect("a number");
    assert!(offset < 4, "one byte of 64 is equal by accident: {found}");
}

#[test]
fn bytes_behind_the_last_frame() {
    let found = first_mismatch("framed", "", Fault::Surplus { connection: 3 });
    assert_eq!((&found["connection"], &found["actual"]), (&3.into(), &json!([])));
}

#[test]
fn a_frame_that_is_cut_short_is_a_lost_connection() {
    let server = EchoServer::start(Fault::Close { connection: 2, offset: 2 });
    let flags = "-c 5 -t 1 -n 2k -l 60 --output-format json";
    let json = loadgen(&format!("framed://{} {flags}", server.address)).expect(4).json();
    assert_eq!((server.fired(), &json["errors"]), (1, &json!({ "closed-by-peer": 1 })));
}

#[test]
fn a_server_that_does_not_close_after_its_message_is_late() {
    let server = EchoServer::start(Fault::None);
    let flags = "-c 2 -t 1 -d 10s --timeout 3s --output-format json";
    let json = loadgen(&format!("message://{} {flags}", server.address)).expect(4).json();
    assert_eq!((&json["replies"], &json["errors"]), (&2.into(), &json!({ "timed-out": 2 })));
}

/// What a server that closes after each message does wrong on connection number 20.
#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Right,
    /// It closes before it has sent the whole delimiter.
    Early,
    /// It sends another byte before it closes.
    Late,
}

fn closing_server(ending: Ending) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (address, fired) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let count = fired.clone();
    thread::spawn(move || {
        for (nth, stream) in (0..).zip(listener.incoming()) {
            let mut stream = stream.expect("a connection");
            let (mut message, mut byte) = (Vec::new(), [0]);
            while !message.ends_with(b"<EOF>") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                message.extend(byte);
            }
            let fault = if nth == 20 { ending } else { Ending::Right };
            count.fetch_add(u64::from(fault != Ending::Right), Relaxed);
            match fault {
                Ending::Right => {}
                Ending::Early => message.truncate(message.len() - 5),
                Ending::Late => message.push(b'!'),
            }
            // An error means that the client has closed.
            let _ = stream.write_all(&message);
        }
    });
    (address, fired)
}

#[test]
fn a_server_that_closes_after_each_message_is_right() {
    let (address, _) = closing_server(Ending::Right);
    let json = loadgen(&format!("message://{address} -c 1 -n 50 --output-format json")).expect(0);
    assert_eq!(json.json()["replies"], 50);
}

#[test]
fn a_message_without_its_end_is_a_lost_connection() {
    let (address, fired) = closing_server(Ending::Early);
    let flags = "-c 1 -t 1 -n 50 --output-format json";
    let json = loadgen(&format!("message://{address} {flags}")).expect(4).json();
    assert_eq!(fired.load(Relaxed), 1);
    assert_eq!((&json["errors"], &json["replies"]), (&json!({ "closed-by-peer": 1 }), &20.into()));
}

#[test]
fn a_byte_behind_a_message_is_a_difference() {
    let (address, fired) = closing_server(Ending::Late);
    let flags = "-c 1 -t 1 -n 50 --output-format json";
    let json = loadgen(&format!("message://{address} {flags}")).expect(3).json();
    assert_eq!(fired.load(Relaxed), 1);
    assert_found_at(&json["first_mismatches"][0], 0, 64 + 5);
}
