//! Tests of the character generator: the lines of RFC 864, and streams of any length against a
//! second implementation.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::*;
use crate::builtin::loopback::{GUARD, connect, read, start, until};
use crate::error::CloseReason;
use crate::net::mmsg::Arrived;
use crate::service::Arrival;
use crate::testing::Rig;
use crate::{Config, Drained, Server, ServerHandle};

/// The stream from its start, generated line by line.
fn lines() -> impl Iterator<Item = u8> {
    (0..).flat_map(|line| (b' '..=b'~').cycle().skip(line % 95).take(72).chain([b'\r', b'\n']))
}

fn check(client: &mut TcpStream, expected: &mut impl Iterator<Item = u8>, count: usize) {
    let received = read(client, count);
    let expected: Vec<u8> = expected.take(count).collect();
    assert!(received == expected, "the stream differs");
}

#[test]
fn the_first_lines_are_those_of_the_rfc() {
    let mut rig = Rig::new(Chargen);
    let client = rig.connect_reading(26 * 74);
    let text = String::from_utf8(rig.received(client)).unwrap();
    let lines: Vec<&str> = text.split("\r\n").collect();
    for (number, line) in [
        (0, r##" !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefg"##),
        (1, r##"!"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefgh"##),
        (2, r##""#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghi"##),
        (23, r##"789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxyz{|}~"##),
        (24, r##"89:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxyz{|}~ "##),
        (25, r##"9:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxyz{|}~ !"##),
    ] {
        assert_eq!(lines[number], line, "line {number}");
    }
}

#[test]
fn a_long_stream_stays_right_across_buffers_of_any_size() {
    for buffer_size in [256, 257, 1000, 7030, 16_384] {
        let mut rig = Rig::with_buffers(Chargen, 64, buffer_size);
        let client = rig.connect_reading(1 << 20);
        assert!(rig.received(client).into_iter().eq(lines().take(1 << 20)), "another stream");
    }
}

#[test]
fn each_client_has_a_stream_of_its_own_and_slow_ones_hold_few_buffers() {
    let mut rig = Rig::with_buffers(Chargen, 64, 1024);
    let mut streams: Vec<_> =
        (0..10).map(|turn| (rig.connect_reading(1000 * turn + 1), lines())).collect();
    for (turn, (client, expected)) in streams.iter_mut().enumerate() {
        let received = rig.received(*client);
        assert_eq!(received.len(), 1000 * turn + 1);
        assert!(received.into_iter().eq(expected.take(1000 * turn + 1)), "another stream");
    }
    for count in [20_000, 100_000] {
        for (client, expected) in &mut streams {
            rig.stop_reading_after(*client, count);
            let received = rig.received(*client);
            assert_eq!(received.len(), count);
            assert!(received.into_iter().eq(expected.take(count)), "another stream");
        }
        // No client reads now. Each holds at least one buffer and at most four.
        let held = rig.buffers_held();
        assert!((10..=40).contains(&held), "{held} buffers for 10 clients");
    }
}

#[test]
fn clients_without_a_buffer_are_served_when_there_is_one() {
    // 20 clients share 3 buffers: most have none at any time. No stream is damaged.
    let config = Config::new().buffer_size(256).buffers(3).shed_after(None);
    let (server, address) = start(config, Chargen);
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| check(&mut connect(address), &mut lines(), 20_000));
        }
    });
    until(&server, "the end", |total| total.connections == 0 && total.buffers_held == 0);
}

/// Clients read continuously until each of them has received enough.
fn all_are_served(config: Config, clients: usize) {
    let (_server, address) = start_on(config);
    let (served, begun) = (AtomicUsize::new(0), Instant::now());
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let (mut client, mut lines) = (connect(address), lines());
                check(&mut client, &mut lines, 20_000);
                served.fetch_add(1, Ordering::Relaxed);
                while served.load(Ordering::Relaxed) < clients {
                    assert!(begun.elapsed() < GUARD, "{served:?} of {clients} are served");
                    check(&mut client, &mut lines, 1000);
                }
            });
        }
    });
}

fn start_on(config: Config) -> (ServerHandle, SocketAddr) {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = config.max_connections(100).buffer_size(256).shed_after(None).listen(anywhere);
    let server = Server::start(config, Chargen).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    (server, address)
}

#[test]
fn clients_that_read_for_ever_leave_buffers_to_those_that_wait_for_one() {
    all_are_served(Config::new().workers(1).buffers(3), 12);
}

#[test]
fn a_worker_that_sends_for_ever_leaves_the_last_buffer_to_the_clients_of_others() {
    for (workers, buffers, clients) in [(2, 2, 8), (3, 3, 12)] {
        all_are_served(Config::new().workers(workers).buffers(buffers), clients);
    }
}

#[test]
fn one_client_alone_keeps_the_only_buffer_until_another_waits() {
    let mut rig = Rig::unchecked(Chargen, &Limits::bare(2, 256, 1));
    let one = rig.connect_reading(100 * 256);
    assert_eq!((rig.received(one).len(), rig.buffers_held()), (100 * 256, 1));
    assert_eq!(rig.counts().waits_for_buffer, 0);
    let other = rig.connect_reading(256);
    assert_eq!((rig.received(other).len(), rig.counts().waits_for_buffer), (0, 1));
    // The first connection has sent its buffer and goes to the end of the queue. The other keeps
    // its next buffer.
    rig.read_on(one);
    assert_eq!((rig.received(one).len(), rig.received(other).len()), (256, 256));
    assert_eq!((rig.counts().waits_for_buffer, rig.buffers_held()), (2, 1));
}

/// After the last call: what another process would go on from, if it could, and how much was sent.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<(Option<u64>, u64)>>);

impl Noting {
    fn note(&self, connection: &Connection<'_>, position: &Position) {
        let from = Chargen.continuation(0, position, connection.output.len());
        *self.0.lock().unwrap() = (from, connection.bytes_sent());
    }

    fn last(&self) -> (Option<u64>, u64) {
        *self.0.lock().unwrap()
    }
}

impl Service for Noting {
    type Session = Position;

    fn open(&mut self, connection: &mut Connection<'_>, position: &mut Position) -> Answer {
        let answer = Chargen.open(connection, position);
        self.note(connection, position);
        answer
    }

    fn data(&mut self, _: &mut Connection<'_>, _: &mut Position) -> Answer {
        Answer::Continue
    }

    fn sent(&mut self, connection: &mut Connection<'_>, position: &mut Position) -> Answer {
        let answer = Chargen.sent(connection, position);
        self.note(connection, position);
        answer
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        position: &mut Position,
        message: &mut Message<'_>,
    ) -> Answer {
        let answer = Chargen.message(connection, position, message);
        self.note(connection, position);
        answer
    }
}

#[test]
fn another_process_makes_again_what_was_not_sent_unless_it_is_a_message() {
    let noting = Noting::default();
    let of_rig = noting.clone();
    let mut rig = Rig::with_buffers(move || of_rig.clone(), 64, 1000);
    let client = rig.connect_reading(0);
    assert_eq!(noting.last(), (Some(0), 0), "nothing is sent, and all of it is made again");
    rig.send_to(client, b"a message").unwrap();
    assert_eq!(noting.last().0, None, "the message would be lost");
    rig.stop_reading_after(client, 50_000);
    let received = rig.received(client);
    assert!(received.windows(9).any(|part| part == b"a message"));
    let (from, sent) = noting.last();
    let from = from.expect("the message is sent");
    // All that was sent, whether or not it is read, is of the pattern but for the message.
    let position = Chargen.resumed(0, from);
    assert_eq!((u64::from(position.next), position.has_message), (from, false));
    assert!(sent > 40_000, "{sent}");
    assert_eq!((sent - b"a message".len() as u64) % PATTERN.len() as u64, from);
}

#[test]
fn a_stream_goes_on_at_any_byte() {
    for unsent in [0, 1, 73, 7029, 7030, 7031, 65_536] {
        for next in [0, 1, 7029] {
            let from = Chargen.continuation(0, &Position { next, has_message: false }, unsent);
            let from = from.unwrap();
            assert_eq!((from as usize + unsent) % PATTERN.len(), usize::from(next));
            assert_eq!(u64::from(Chargen.resumed(0, from).next), from);
        }
    }
    // Another version may have another pattern.
    assert!(usize::from(Chargen.resumed(0, u64::MAX).next) < PATTERN.len());
}

#[test]
fn what_the_client_sends_is_thrown_away_while_it_reads() {
    let (server, address) = start(Config::new().buffers(64), Chargen);
    let mut client = connect(address);
    let mut sender = client.try_clone().unwrap();
    let bytes = 4 << 20;
    thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&vec![0; bytes]).unwrap());
        check(&mut client, &mut lines(), bytes);
    });
    until(&server, "all of it is received", |t| t.bytes_received == bytes as u64);
    assert_eq!(server.stats().total().closed_total(), 0);
}

#[test]
fn a_client_that_does_not_read_can_still_send() {
    let (server, address) = start(Config::new().buffers(64), Chargen);
    let mut client = connect(address);
    client.write_all(&vec![0; 8 << 20]).unwrap();
    until(&server, "all of it is received", |total| total.bytes_received == 8 << 20);
}

#[test]
fn a_half_closed_client_is_sent_to_until_it_closes() {
    let (server, address) = start(Config::new(), Chargen);
    let mut client = connect(address);
    client.shutdown(Shutdown::Write).unwrap();
    check(&mut client, &mut lines(), 4 << 20);
    assert_eq!(server.stats().total().closed_total(), 0);
    drop(client);
    until(&server, "the end", |total| total.closed(CloseReason::Reset) == 1);
    until(&server, "its buffers are back", |total| total.buffers_held == 0);
}

#[test]
fn a_drain_ends_the_stream_with_fin() {
    let (server, address) = start(Config::new(), Chargen);
    let mut client = connect(address);
    check(&mut client, &mut lines(), 100_000);
    let reader = thread::spawn(move || {
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).map(|_| rest)
    });
    assert_eq!(server.drain(GUARD), Drained::Clean);
    let rest = reader.join().unwrap().expect("FIN, not a reset");
    assert!(rest.into_iter().eq(lines().skip(100_000).take(rest_len(&server))));
}

/// Bytes that were sent after the first 100,000.
fn rest_len(server: &crate::ServerHandle) -> usize {
    server.stats().total().bytes_sent as usize - 100_000
}

#[test]
fn a_datagram_is_answered_with_as_many_characters_as_it_has() {
    let mut lines = Chargen.datagrams(0).unwrap();
    let arrived = Arrived { source: Some(([127, 0, 0, 1], 1).into()), ..Arrived::default() };
    let mut reply = |length: usize| {
        let mut datagram = vec![0; length];
        let length = lines.reply(&mut datagram, Arrival::new(&arrived).unwrap()).unwrap();
        datagram.truncate(length);
        String::from_utf8(datagram).unwrap()
    };
    assert_eq!(reply(0), "");
    let second = reply(74);
    assert!(second.starts_with("!\"#$") && second.ends_with("\r\n"), "{second}");
    assert_eq!(reply(3), "\"#$");
    let long = reply(65_507);
    assert_eq!(long.len(), 512);
    let each: Vec<&str> = long.lines().collect();
    assert!(each[0].starts_with("#$%") && each[1].starts_with("$%&"), "{long}");
    (0..200).for_each(|_| assert_eq!(reply(512).len(), 512));
}
