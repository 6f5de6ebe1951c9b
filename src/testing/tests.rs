//! Tests of the rig with services of known behaviour.

use super::*;
use crate::builtin::{Chargen, Echo, Framed};
use crate::error::CloseReason;
use crate::service::{Answer, Connection, To};

#[test]
fn an_echo_sends_back_what_comes_and_closes_behind_its_client() {
    let mut rig = Rig::with_buffers(Echo, 4, 16);
    let (one, other) = (rig.connect(), rig.connect());
    assert_ne!(rig.id(one), rig.id(other));
    rig.send(one, &[7; 100]);
    rig.send(other, b"hello");
    assert_eq!((rig.received(one), rig.received(other)), (vec![7; 100], b"hello".to_vec()));
    assert_eq!((rig.received(one), rig.buffers_held()), (Vec::new(), 0));
    rig.finish(one);
    assert!(rig.has_ended(one) && rig.is_closed(one) && rig.id(one).is_none());
    assert!(!rig.is_closed(other));
    rig.reset(other);
    let counts = rig.counts();
    assert_eq!(counts.closed(CloseReason::PeerClosed), 1);
    assert_eq!(counts.closed(CloseReason::Reset), 1);
    assert_eq!((counts.accepted, counts.bytes_sent), (2, 105));
}

#[test]
fn what_a_client_does_not_take_waits_and_is_not_read_beyond() {
    let mut rig = Rig::with_buffers(Echo, 8, 16);
    let client = rig.connect();
    rig.stop_reading_after(client, 10);
    for _ in 0..20 {
        rig.send(client, &[1; 16]);
    }
    assert_eq!(rig.received(client).len(), 10);
    assert!((1..=4).contains(&rig.buffers_held()), "an echo reads on when its output is sent");
    rig.read_on(client);
    assert_eq!((rig.received(client).len(), rig.buffers_held()), (310, 0));
}

#[test]
fn a_stream_without_end_is_bounded_by_its_client() {
    let mut rig = Rig::new(Chargen);
    let client = rig.connect_reading(1000);
    assert_eq!(rig.received(client).len(), 1000);
    rig.stop_reading_after(client, 500);
    assert_eq!(rig.received(client).len(), 500);
}

/// Replies with the time since the connection was opened, in milliseconds: at once, on a timer that
/// stops reading, and on one that does not.
struct Clock;

impl Clock {
    fn tell(connection: &mut Connection<'_>, opened: Time) {
        let text = format!("{};", (connection.now() - opened).as_millis());
        assert!(connection.send(text.as_bytes()));
    }
}

impl Service for Clock {
    type Session = Time;

    fn open(&mut self, connection: &mut Connection<'_>, opened: &mut Time) -> Answer {
        *opened = connection.now();
        Answer::Continue
    }

    fn data(&mut self, connection: &mut Connection<'_>, opened: &mut Time) -> Answer {
        let stops = connection.input.slices().flatten().any(|byte| *byte == b's');
        connection.input.consume(connection.input.len());
        Clock::tell(connection, *opened);
        let later = connection.now() + Duration::from_millis(50);
        if stops {
            return Answer::WaitUntil(later);
        }
        connection.set_timer(later);
        Answer::Continue
    }

    fn timer(&mut self, connection: &mut Connection<'_>, opened: &mut Time) -> Answer {
        Clock::tell(connection, *opened);
        Answer::Continue
    }
}

#[test]
fn timers_fire_at_their_times_and_no_earlier() {
    let mut rig = Rig::new(|| Clock);
    let (reads_on, stops) = (rig.connect(), rig.connect());
    let begun = rig.now();
    rig.send(reads_on, b"r");
    rig.send(stops, b"s");
    rig.advance(Duration::from_millis(20));
    rig.send(reads_on, b"r");
    rig.send(stops, b"s");
    assert_eq!(rig.received(reads_on), b"0;20;");
    assert_eq!(rig.received(stops), b"0;", "it is not read until its timer fires");
    rig.advance(Duration::from_millis(29));
    assert_eq!((rig.received(reads_on), rig.received(stops)), (Vec::new(), Vec::new()));
    rig.advance(Duration::from_millis(60));
    assert_eq!(rig.now() - begun, Duration::from_millis(109));
    // A timer may be late by a tick of 1 ms, and is never early.
    let times = |bytes: Vec<u8>| -> Vec<u32> {
        let text = String::from_utf8(bytes).unwrap();
        text.split_terminator(';').map(|time| time.parse().unwrap()).collect()
    };
    let (one, other) = (times(rig.received(reads_on)), times(rig.received(stops)));
    assert!(matches!(one[..], [70..=71]), "{one:?}");
    assert!(matches!(other[..], [50..=51, 50..=51, 100..=102]), "{other:?}");
}

/// Panics on request, and sends everything else to all others.
struct Shout;

impl Service for Shout {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        let text: Vec<u8> = connection.input.slices().flatten().copied().collect();
        connection.input.consume(text.len());
        assert!(!text.contains(&b'!'), "on purpose");
        let to = To::AllBut(connection.id());
        assert!(connection.send_message(to, &text).is_ok());
        Answer::Continue
    }

    fn draining(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.send(b"bye");
        Answer::CloseAfterSend
    }
}

#[test]
fn clients_of_a_service_reach_each_other_and_other_threads_reach_them() {
    let mut rig = Rig::new(|| Shout);
    let clients = [rig.connect(), rig.connect(), rig.connect()];
    rig.send(clients[0], b"hello");
    assert_eq!(clients.map(|client| rig.received(client).len()), [0, 5, 5]);
    rig.send_to(clients[1], b"you").unwrap();
    assert_eq!(rig.received(clients[1]), b"you");
    rig.send(clients[2], b"!");
    assert!(rig.is_closed(clients[2]));
    assert_eq!(rig.send_to(clients[2], b"?"), Err(SendError::Gone));
    assert_eq!(rig.counts().closed(CloseReason::ServicePanic), 1);
    rig.drain(Duration::from_secs(1));
    assert_eq!(rig.received(clients[0]), b"bye");
    rig.finish(clients[0]);
    assert!(rig.is_closed(clients[0]) && !rig.is_closed(clients[1]));
    rig.advance(Duration::from_secs(2));
    assert!(rig.is_closed(clients[1]), "the deadline of the drain");
}

#[test]
#[should_panic(expected = "max_frame")]
fn limits_that_a_service_cannot_work_with_are_told() {
    Rig::<Framed>::with_buffers(crate::builtin::framed::FramedOptions::default(), 4, 64);
}
