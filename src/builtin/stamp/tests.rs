//! Tests of the reflector. `protocol::stamp` tests its packets, and `tests/blackbox/stamp.rs` its
//! sockets.

use std::net::Ipv4Addr;

use super::sessions::{IDLE_NS, Session, Sessions};
use super::*;
use crate::net::mmsg::Arrived;

fn session(number: u32) -> Session {
    let source = (Ipv4Addr::from(number), 5_000).into();
    Session { source, local: None, identifier: 0 }
}

/// Any time that is not at the beginning of 1970.
const NOW: u64 = 1_000 * IDLE_NS;

#[test]
fn each_session_has_numbers_of_its_own() {
    let mut sessions = Sessions::new(RandomState::new());
    let one = session(1);
    assert_eq!([NOW; 3].map(|now| sessions.next(&one, now)), [Some(0), Some(1), Some(2)]);
    let others = [
        session(2),
        Session { source: (Ipv4Addr::from(1), 5_001).into(), ..one },
        Session { local: Some(Ipv4Addr::LOCALHOST.into()), ..one },
        Session { identifier: 1, ..one },
    ];
    for other in &others {
        assert_eq!(sessions.next(other, NOW), Some(0), "{other:?}");
    }
    assert_eq!(sessions.next(&one, NOW + IDLE_NS - 1), Some(3));
    assert_eq!(sessions.next(&one, NOW + 2 * IDLE_NS - 2), Some(4), "counted from its last packet");
    assert_eq!(sessions.next(&one, NOW + 3 * IDLE_NS - 2), Some(0), "it was over");
}

#[test]
fn a_flood_of_sources_ends_no_session() {
    let mut sessions = Sessions::new(RandomState::new());
    assert_eq!(sessions.next(&session(0), NOW), Some(0));
    let begun = (1..=100_000).filter(|one| sessions.next(&session(*one), NOW).is_some()).count();
    assert!((8_000..8_192).contains(&begun), "{begun}");
    assert_eq!(sessions.next(&session(0), NOW), Some(1));
    let later = (200_000..200_100).filter(|one| sessions.next(&session(*one), NOW).is_some());
    assert_eq!(later.count(), 0, "no place is left");
    assert_eq!(sessions.next(&session(200_000), NOW + IDLE_NS), Some(0));
}

fn packet(number: u32) -> Vec<u8> {
    let mut packet = vec![0; 44];
    let error = ErrorEstimate { is_synchronized: false, format: Format::Ntp, error_ns: 9 };
    stamp::write_request(&mut packet, number, 1, error, 0);
    packet
}

fn new(options: StampOptions) -> Stamp {
    Stamp::new(options, WallClock, RandomState::new())
}

fn reflected(stamp: &mut Stamp, number: u32, arrived: &Arrived) -> Option<Reflection> {
    let mut packet = packet(number);
    let length = stamp.reply(&mut packet, Arrival::new(arrived)?)?;
    assert_eq!(length, packet.len());
    Reflection::read(&packet)
}

#[test]
fn a_stateless_reply_has_the_number_of_its_packet_and_a_stateful_one_its_own() {
    let source = Some("127.0.0.1:5000".parse().unwrap());
    let arrived = Arrived { source, hop_limit: Some(9), ..Arrived::default() };
    let mut stateless = new(StampOptions::default());
    let mut stateful = new(StampOptions { stateful: true });
    for (at, number) in [5, 5, 8].into_iter().enumerate() {
        let reply = reflected(&mut stateless, number, &arrived).unwrap();
        assert_eq!((reply.number, reply.hop_limit), (number, 9));
        assert_eq!(reflected(&mut stateful, number, &arrived).unwrap().number, at as u32);
    }
    assert_eq!((stateless.memory_bytes(), stateful.memory_bytes()), (0, Sessions::BYTES));
    let no_source = Arrived::default();
    assert!(reflected(&mut stateless, 1, &no_source).is_none());
    let mut short = packet(1);
    short.truncate(40);
    assert_eq!(stateless.reply(&mut short, Arrival::new(&arrived).unwrap()), None);
}

#[test]
fn times_are_those_of_the_kernel_and_never_after_the_reply() {
    let mut stamp = new(StampOptions::default());
    let before = unix_now_ns();
    let source = Some("127.0.0.1:5000".parse().unwrap());
    let arrived = Arrived { source, at_unix_ns: Some(before - 5_000), ..Arrived::default() };
    let reply = reflected(&mut stamp, 1, &arrived).unwrap();
    assert_eq!(reply.received_unix_ns, before - 5_000);
    assert!((before..=unix_now_ns()).contains(&reply.sent_unix_ns));
    let future = Arrived { at_unix_ns: Some(before + IDLE_NS), ..arrived };
    let reply = reflected(&mut stamp, 1, &future).unwrap();
    assert_eq!(reply.received_unix_ns, reply.sent_unix_ns);
    let clock = clock_error();
    assert_eq!(reply.error.is_synchronized, clock.is_synchronized);
    assert_eq!(reply.error.format, Format::Ntp);
}
