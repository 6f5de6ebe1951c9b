//! Tests of batches over loopback sockets, and of their control messages.

use std::net::UdpSocket;

use super::*;

fn sockets() -> (UdpSocket, UdpSocket) {
    let (one, other) = (UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
    let (one, other) = (one.unwrap(), other.unwrap());
    one.connect(other.local_addr().unwrap()).unwrap();
    (one, other)
}

#[test]
fn a_batch_receives_what_is_there_and_sends_it_back() {
    let (client, server) = sockets();
    let mut batch = Batch::new(4, 100);
    assert_eq!(batch.receive(&server, Wait::No), Err(Errno::AGAIN));
    let texts = [&b"one"[..], b"", &[7; 100], &[8; 101], b"five"];
    texts.iter().for_each(|text| assert_eq!(client.send(text).unwrap(), text.len()));
    assert_eq!(batch.receive(&server, Wait::ForOne), Ok(4));
    let arrived: Vec<Arrived> = (0..4).map(|at| batch.arrived(at)).collect();
    let source = Some(client.local_addr().unwrap());
    assert!(arrived.iter().all(|one| one.source == source && one.dropped_before.is_none()));
    assert_eq!(arrived.iter().map(|one| one.length).collect::<Vec<_>>(), [3, 0, 100, 100]);
    let truncated: Vec<bool> = arrived.iter().map(|one| one.is_truncated).collect();
    assert_eq!(truncated, [false, false, false, true]);
    for at in [2, 0] {
        let length = batch.datagram(at).len();
        batch.reply(at, length, None);
    }
    let sent = batch.send(&server);
    assert_eq!(sent, Sent { datagrams: 2, bytes: 103, calls: 1, ..Sent::default() });
    let mut buffer = [0; 200];
    for text in [texts[2], texts[0]] {
        let count = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], text, "in the order of the replies");
    }
    assert_eq!(batch.receive(&server, Wait::ForOne), Ok(1));
    assert_eq!(batch.datagram(0), b"five");
    assert_eq!(batch.send(&server), Sent::default(), "nothing is queued any more");
}

#[test]
fn a_datagram_that_is_refused_does_not_hold_up_the_others() {
    let (client, server) = sockets();
    let mut batch = Batch::new(3, 66_000);
    (0..3).for_each(|at| batch.buffer_mut(at).fill(at as u8));
    for (at, length) in [(0, 10), (1, 66_000), (2, 20)] {
        batch.push(at, length);
    }
    let sent = batch.send(&client);
    assert_eq!((sent.datagrams, sent.bytes, sent.refused), (2, 30, 1));
    let mut buffer = [9; 100];
    assert_eq!(server.recv(&mut buffer).unwrap(), 10);
    assert_eq!((server.recv(&mut buffer).unwrap(), buffer[0]), (20, 2));
}

#[test]
fn a_source_that_was_written_is_read_as_it_was() {
    for text in ["127.0.0.2", "2001:db8::7"] {
        let ip: IpAddr = text.parse().unwrap();
        let mut control = [1; CONTROL_BYTES];
        let length = write_source(&mut control, ip);
        let all: Vec<_> = messages(&control[..length]).collect();
        let [(level, kind, data)] = all[..] else { panic!("{all:?}") };
        let mut arrived = Arrived::default();
        arrived.take(level, kind, data);
        // The kernel fills in the destination of the header, and ignores it here.
        let expected = match ip {
            IpAddr::V4(_) => Arrived { local: Some(ip), is_to_many: true, ..arrived },
            IpAddr::V6(_) => Arrived { local: Some(ip), ..Arrived::default() },
        };
        assert_eq!(arrived, expected);
    }
}

#[test]
fn control_messages_that_are_cut_are_left_out() {
    let mut control = [0; CONTROL_BYTES];
    let length = write_source(&mut control, IpAddr::from([127, 0, 0, 1]));
    for cut in 0..length {
        let whole = messages(&control[..cut]).count();
        assert_eq!(whole, usize::from(cut >= HEADER_BYTES + 12), "{cut} bytes");
    }
    control[0] = 3;
    assert_eq!(messages(&control).count(), 0, "shorter than its header");
}

#[test]
fn buffers_do_not_begin_at_the_same_place_of_a_page() {
    for longest in [1, 63, 64, 4_032, 4_096, 65_527] {
        let stride = stride(longest);
        assert!(stride >= longest && stride.is_multiple_of(CACHE_LINE));
        assert!(!stride.is_multiple_of(PAGE), "{longest}");
        assert!(stride < longest + 2 * CACHE_LINE);
    }
}
