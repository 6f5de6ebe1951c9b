//! Tests of what a connection offers its service.

use std::net::{Ipv6Addr, SocketAddr};

use super::messenger::Messenger;
use super::*;
use crate::buffer::{Chain, Pool, Reserve, Shared};

const SIZE: usize = 8;

/// Calls `act` with a connection whose output is empty.
fn with_connection(buffers: u32, act: impl FnOnce(&mut Connection<'_>)) {
    let pool = Pool::with_references(Reserve::new(SIZE, buffers).unwrap(), 0, 1);
    act(&mut Connection {
        id: ConnectionId(1),
        peer: SocketAddr::from((Ipv6Addr::LOCALHOST, 1)).into(),
        tag: 0,
        discarded: 0,
        sent: 0,
        now: Time::ZERO,
        around: &Time::ZERO,
        pool: &pool,
        messenger: &Messenger::alone(&pool),
        attention: &Attention::default(),
        timer: &mut Time::MAX.clone(),
        input: &mut Chain::new(&pool),
        output: &mut Chain::new(&pool),
    });
    assert_eq!(pool.held(), 0);
}

fn output(connection: &Connection<'_>) -> Vec<u8> {
    connection.output.slices().flatten().copied().collect()
}

#[test]
fn small_replies_share_a_buffer() {
    with_connection(4, |connection| {
        for _ in 0..10 {
            assert!(connection.send(b"OK\n"));
        }
        assert_eq!(output(connection), b"OK\n".repeat(10));
        assert_eq!(connection.output.leases(), 4, "30 bytes in buffers of 8");
    });
}

#[test]
fn a_reply_follows_the_bytes_that_are_there_in_their_own_buffer() {
    with_connection(1, |connection| {
        let mut lease = connection.take_lease().unwrap();
        lease.extend_from_slice(b"xecho");
        lease.consume(1);
        connection.output.push_back(lease);
        assert!(connection.send_parts(&[b"a", b"", b"b"]));
        assert_eq!(
            (output(connection).as_slice(), connection.output.leases()),
            (&b"echoab"[..], 1)
        );
    });
}

#[test]
fn nothing_is_written_behind_a_part_of_a_shared_buffer() {
    with_connection(2, |connection| {
        let mut shared = Shared::from(connection.take_lease().unwrap());
        let range = shared.append(b"all").unwrap();
        assert!(connection.output.push_shared(&shared, range));
        assert!(connection.send(b"one"));
        assert_eq!(output(connection), b"allone");
        assert_eq!(shared.filled(), b"all");
    });
}

#[test]
fn what_there_are_too_few_buffers_for_is_not_sent_in_part() {
    with_connection(2, |connection| {
        assert!(connection.send(b"12345"));
        assert!(!connection.send(b"678901234567"), "12 bytes, 11 have room");
        assert!(!connection.send_parts(&[b"678", b"901", b"234567"]));
        assert_eq!(output(connection), b"12345");
        assert!(connection.send_parts(&[b"678", b"90123", b"456"]));
        assert_eq!(output(connection), b"1234567890123456");
    });
}

#[test]
fn a_message_to_many_is_not_copied_for_each_as_long_as_there_are_places_and_few_wait() {
    with_connection(3, |connection| {
        let mut shared = Shared::from(connection.take_lease().unwrap());
        let place = shared.append(b"abc").unwrap();
        let message = Message {
            bytes: b"abc",
            number: 1,
            from: None,
            to_all: true,
            shared: Some((&shared, place)),
            refused: None,
        };
        assert!(connection.forward(&message));
        assert_eq!((connection.output.leases(), connection.pool.held()), (1, 1), "no copy");
        // The pool has one place for a reference.
        assert!(connection.forward(&message));
        assert_eq!((connection.output.leases(), connection.pool.held()), (2, 2), "a copy");
        assert!(connection.forward(&message));
        assert_eq!((connection.output.leases(), connection.pool.held()), (2, 2), "behind the copy");
        assert_eq!(output(connection), b"abcabcabc");
    });
}
