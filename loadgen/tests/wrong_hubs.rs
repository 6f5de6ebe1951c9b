//! Wrong hubs are detected: the client, the position in its stream, and the exit code. Each test
//! asserts that its fault has happened.

mod common;

use common::hub::{Fault, HubServer};
use common::loadgen;
use serde_json::{Value, json};

/// One thread connects in order, so the server numbers clients as the program does.
const FLAGS: &str = "-c 5 -t 1 -n 50 -l 100 --seed 1 --timeout 10s";
/// Size of a message in a client's stream, in bytes.
const MESSAGE: u64 = 4 + 1 + 1 + 8 + 100;

/// Runs against a hub with this fault, with both forms of the report. Returns the first mismatch of
/// the JSON report, and the text report.
#[track_caller]
fn first_mismatch(fault: Fault) -> (Value, String) {
    let server = HubServer::start(fault);
    let json =
        loadgen(&format!("hub://{} {FLAGS} --output-format json", server.address)).expect(3).json();
    assert_eq!(server.fired(), 1, "the fault has not happened");
    assert_eq!((&json["verdict"], &json["exit_code"]), (&"echo-differed".into(), &3.into()));

    let server = HubServer::start(fault);
    let text = loadgen(&format!("hub://{} {FLAGS}", server.address)).expect(3);
    assert_eq!(server.fired(), 1, "the fault has not happened");
    text.says("Verdict: echo-differed");
    (json["first_mismatches"][0].clone(), text.stdout)
}

/// Where message `nth` begins in the stream of client `to`: after the WELCOME and the notices of
/// later clients.
fn begin_of(to: u64, nth: u64) -> u64 {
    (1 + 4 - to) * 13 + nth * MESSAGE
}

#[track_caller]
fn assert_found(fault: Fault, connection: u64, offset: u64, note: &str) {
    let (found, text) = first_mismatch(fault);
    assert_eq!(found["connection"], connection, "{found}");
    assert_eq!(found["stream_offset"], offset, "{found}");
    assert_eq!(found["note"], note, "{found}");
    let line = format!("connection {connection}, stream offset {offset} (request ");
    assert!(text.contains(&line) && text.contains(note), "no {line:?} and {note:?} in\n{text}");
}

/// Bytes of a message up to its number.
const TO_NUMBER: u64 = 14 + 4;

#[test]
fn a_hub_that_does_nothing_wrong_is_right() {
    let server = HubServer::start(Fault::None);
    let json =
        loadgen(&format!("hub://{} {FLAGS} --output-format json", server.address)).expect(0).json();
    assert_eq!((server.broadcasts(), &json["replies"]), (50, &50.into()));
    assert_eq!(
        (&json["verdict"], &json["target"]),
        (&"valid".into(), &format!("hub://{}", server.address).into())
    );
    let hub = &json["hub"];
    assert_eq!((&hub["deliveries"], &hub["deliveries_missing"]), (&250.into(), &0.into()));
    assert_eq!((&json["latency"]["count"], &json["bytes_verified"]), (&250.into(), &25_000.into()));
    assert_eq!(hub["notices_joined"], 4 + 3 + 2 + 1);
}

#[test]
fn a_message_that_comes_twice() {
    let note = "a message that arrived before, or out of order";
    assert_found(Fault::Twice { to: 3, nth: 7 }, 3, begin_of(3, 8) + TO_NUMBER, note);
}

#[test]
fn a_message_that_is_missing() {
    let note = "a message is missing before this one";
    assert_found(Fault::Missing { to: 4, nth: 7 }, 4, begin_of(4, 7) + TO_NUMBER, note);
}

#[test]
fn messages_out_of_order() {
    let note = "a message is missing before this one";
    assert_found(Fault::Swapped { to: 2, nth: 10 }, 2, begin_of(2, 10) + TO_NUMBER, note);
}

#[test]
fn a_message_under_a_wrong_id() {
    let note = "a message under the id of another client";
    let offset = begin_of(1, 5) + 6;
    assert_found(Fault::WrongSender { to: 1, nth: 5 }, 1, offset, note);
}

#[test]
fn a_wrong_byte() {
    let offset = begin_of(3, 20) + 14 + 77;
    let note = "bytes that differ from those sent";
    assert_found(Fault::WrongByte { to: 3, nth: 20, at: 77 }, 3, offset, note);
}

#[test]
fn a_wrong_length() {
    let note = "a message with a wrong length";
    assert_found(Fault::WrongLength { to: 2, nth: 3 }, 2, begin_of(2, 3), note);
}

#[test]
fn a_broadcast_that_says_it_is_for_one() {
    let note = "a broadcast marked as a message to one client";
    assert_found(Fault::ForOne { to: 2, nth: 3 }, 2, begin_of(2, 3) + 5, note);
}

#[test]
fn a_notice_about_the_client_itself() {
    let note = "a notice about no client, or about the client itself";
    assert_found(Fault::Notice { to: 2, nth: 3 }, 2, begin_of(2, 3) + 5, note);
}

#[test]
fn a_message_that_comes_again_at_the_very_end() {
    let (found, text) = first_mismatch(Fault::AtTheEnd { to: 1 });
    let note = "a message that arrived before, or out of order";
    assert_eq!((&found["connection"], &found["note"]), (&1.into(), &note.into()), "{found}");
    // Others may have left by then, with notices.
    let offset = found["stream_offset"].as_u64().expect("a number");
    let notices = (offset - begin_of(1, 50) - TO_NUMBER) / 13;
    assert!(notices < 5 && offset == begin_of(1, 50) + TO_NUMBER + notices * 13, "{found}");
    assert!(text.contains(note), "{text}");
}

#[test]
fn an_id_that_is_given_twice() {
    let note = "a WELCOME with the id of another client";
    assert_found(Fault::SameId { to: 3 }, 3, 5, note);
}

#[test]
fn dropped_messages_are_counted_and_not_valid_unless_allowed() {
    for (flag, code, verdict) in [("", 4, "not-delivered"), ("--allow-drops", 0, "valid")] {
        let server = HubServer::start(Fault::Dropped { to: 3, nth: 7 });
        let flags = format!("hub://{} {FLAGS} {flag} --output-format json", server.address);
        let json = loadgen(&flags).expect(code).json();
        assert_eq!((server.fired(), &json["verdict"]), (1, &verdict.into()));
        let hub = &json["hub"];
        assert_eq!((&hub["deliveries_dropped"], &hub["deliveries"]), (&1.into(), &249.into()));
        assert_eq!(hub["deliveries_missing"], 0);
    }
}

#[test]
fn a_sender_whose_own_copy_is_dropped_goes_on() {
    let server = HubServer::start(Fault::Dropped { to: 0, nth: 7 });
    let flags = format!("hub://{} {FLAGS} --allow-drops --output-format json", server.address);
    let json = loadgen(&flags).expect(0).json();
    assert_eq!((server.fired(), server.broadcasts()), (1, 50));
    assert_eq!((&json["requests_offered"], &json["requests_completed"]), (&50.into(), &49.into()));
    assert_eq!((&json["requests_unanswered"], &json["verdict"]), (&1.into(), &"valid".into()));
    assert_eq!(json["hub"]["deliveries"], 249);
}

#[test]
fn a_client_that_gets_nothing_any_more_is_late() {
    let server = HubServer::start(Fault::Silent { to: 2, nth: 30 });
    let flags = "-c 5 -t 1 -n 50 -l 100 --timeout 3s --output-format json";
    let json = loadgen(&format!("hub://{} {flags}", server.address)).expect(4).json();
    assert!(server.fired() > 0);
    assert_eq!(json["errors"], json!({ "timed-out": 1 }));
    assert_eq!(json["hub"]["deliveries"], 4 * 50 + 30);
    assert_eq!(json["hub"]["deliveries_missing"], 20);
}
