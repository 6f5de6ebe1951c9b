//! Tests of the character generator: RFC 864's lines, and a stream of any length against another
//! way to make it.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::buffer::{Chain, Pool, Reserve};
use crate::builtin::testing::{GUARD, connect, read, start, until};
use crate::service::{ConnectionId, Requests};
use crate::shared::mailbox::Mailboxes;
use crate::{Config, Drained};

/// The stream from its begin, made line by line.
fn lines() -> impl Iterator<Item = u8> {
    (0..).flat_map(|line| (b' '..=b'~').cycle().skip(line % 95).take(72).chain([b'\r', b'\n']))
}

fn check(client: &mut TcpStream, expected: &mut impl Iterator<Item = u8>, count: usize) {
    let received = read(client, count);
    let expected: Vec<u8> = expected.take(count).collect();
    assert!(received == expected, "another stream");
}

#[test]
fn the_first_lines_are_those_of_the_rfc() {
    let (_server, address) = start(Config::new(), ChargenOptions);
    let received = read(&mut connect(address), 26 * 74);
    let text = String::from_utf8(received).unwrap();
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
        let (_server, address) = start(Config::new().buffer_size(buffer_size), ChargenOptions);
        check(&mut connect(address), &mut lines(), 1 << 20);
    }
}

#[test]
fn each_client_has_a_stream_of_its_own_and_slow_ones_hold_few_buffers() {
    let config = Config::new().buffer_size(1024).buffers(64);
    let (server, address) = start(config, ChargenOptions);
    let mut streams: Vec<_> = (0..10).map(|_| (connect(address), lines())).collect();
    for (turn, (client, expected)) in streams.iter_mut().enumerate() {
        check(client, expected, 1000 * turn + 1);
    }
    for (client, expected) in &mut streams {
        check(client, expected, 20_000);
    }
    // Nobody reads now. One buffer for each is the least, and four are the most.
    thread::sleep(Duration::from_millis(200));
    let held = server.stats().total().buffers_held;
    assert!((10..=40).contains(&held), "{held} buffers for 10 clients");
    for (client, expected) in &mut streams {
        check(client, expected, 100_000);
    }
}

#[test]
fn clients_without_a_buffer_are_served_when_there_is_one() {
    // 20 clients and 3 buffers: most are without one at any time. Nobody's stream suffers.
    let config = Config::new().buffer_size(256).buffers(3).shed_after(None);
    let (server, address) = start(config, ChargenOptions);
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| check(&mut connect(address), &mut lines(), 20_000));
        }
    });
    until(&server, "the end", |total| total.connections == 0 && total.buffers_held == 0);
}

/// Clients that read for ever, on workers without threads or sockets: a turn is taken when a test
/// says so, and the kernel takes what it is given at once.
struct Still {
    workers: Vec<(Chargen, Pool, Requests)>,
    clients: Vec<StillClient>,
    /// Those that have output, in the order in which they got it.
    sending: VecDeque<usize>,
}

struct StillClient {
    worker: usize,
    id: ConnectionId,
    next: Position,
    output: Chain,
    /// Buffers that it has been sent.
    served: u32,
}

impl Still {
    fn new(workers: usize, buffers: u32, clients: usize) -> Still {
        let reserve = Reserve::new(256, buffers).unwrap();
        let mailboxes = Arc::new(Mailboxes::new(workers));
        let worker = |worker| {
            let pool = Pool::new(reserve.clone(), worker);
            let alone = WorkerContext::alone(pool.clone(), clients);
            let mailboxes = mailboxes.clone();
            let chargen = Chargen::new(&WorkerContext { worker, mailboxes, ..alone });
            (chargen, pool, Requests::with_capacity(clients))
        };
        let workers: Vec<_> = (0..workers).map(worker).collect();
        let client = |at: usize| {
            let worker = at % workers.len();
            let id = ConnectionId(at as u64 | 1 << 30);
            let output = Chain::new(&workers[worker].1);
            StillClient { worker, id, next: Position::default(), output, served: 0 }
        };
        let clients = (0..clients).map(client).collect();
        let mut still = Still { workers, clients, sending: VecDeque::new() };
        for at in 0..still.clients.len() {
            still.call(at, |chargen, connection, next| chargen.open(connection, next));
        }
        still
    }

    fn call(
        &mut self,
        at: usize,
        call: impl FnOnce(&mut Chargen, &mut Connection<'_>, &mut Position) -> Answer,
    ) -> Answer {
        let client = &mut self.clients[at];
        let (chargen, pool, _) = &mut self.workers[client.worker];
        let mut connection = Connection {
            id: client.id,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)).into(),
            tag: 0,
            discarded: 0,
            sent: 0,
            now: Time::ZERO,
            pool,
            input: &mut Chain::new(pool),
            output: &mut client.output,
        };
        let answer = call(chargen, &mut connection, &mut client.next);
        if !client.output.is_empty() {
            self.sending.push_back(at);
        }
        answer
    }

    /// What a client has on its output is sent.
    fn send(&mut self, at: usize) -> Answer {
        self.sending.retain(|&client| client != at);
        let client = &mut self.clients[at];
        assert!(!client.output.is_empty());
        client.served += client.output.leases() as u32;
        client.output.consume(client.output.len());
        self.call(at, |chargen, connection, next| chargen.sent(connection, next))
    }

    /// A turn of a worker, as its loop has it.
    fn turn(&mut self, at: usize) {
        for client in std::mem::take(&mut self.sending) {
            match self.clients[client].worker == at {
                true => _ = self.send(client),
                false => self.sending.push_back(client),
            }
        }
        let (chargen, pool, requests) = &mut self.workers[at];
        let wakes_max = self.clients.len();
        let mut turn = Turn { now: Time::ZERO, open: 0, free_slots: 0, wakes_max, requests };
        let again = chargen.turn(&mut turn);
        pool.set_starving(std::mem::take(&mut requests.buffer));
        assert!(again.is_some() || chargen.waiting.is_empty(), "who waits is forgotten");
        for id in std::mem::take(&mut requests.wakes) {
            let client = (id.to_bits() & 0xFF_FFFF) as usize;
            self.call(client, |chargen, connection, next| chargen.timer(connection, next));
        }
        self.workers[at].1.donate();
    }
}

#[test]
fn all_are_served_as_often_with_fewer_buffers_than_clients() {
    for (buffers, clients) in [(1, 2), (1, 12), (3, 12), (16, 60)] {
        let mut still = Still::new(1, buffers, clients);
        const TURNS: u32 = 1200;
        (0..TURNS).for_each(|_| still.turn(0));
        let served: Vec<u32> = still.clients.iter().map(|client| client.served).collect();
        let (least, most) = (*served.iter().min().unwrap(), *served.iter().max().unwrap());
        // The first were sent more while nobody waited.
        assert!(most - least <= LEASES_AHEAD as u32, "{buffers} buffers: {served:?}");
        // Each buffer is sent once in each turn.
        let all: u32 = served.iter().sum();
        assert!(all + 2 * buffers >= TURNS * buffers, "{all} of {}", TURNS * buffers);
    }
}

#[test]
fn the_clients_of_all_workers_are_served() {
    for (workers, buffers, clients) in [(2, 1, 2), (2, 1, 8), (3, 2, 12), (2, 16, 60)] {
        let mut still = Still::new(workers, buffers, clients);
        for _ in 0..1000 {
            (0..workers).for_each(|worker| still.turn(worker));
        }
        let served: Vec<u32> = still.clients.iter().map(|client| client.served).collect();
        let fair = 1000 * buffers / clients as u32;
        assert!(served.iter().all(|&count| count >= fair / 4), "{fair}: {served:?}");
    }
}

#[test]
fn one_client_alone_keeps_the_only_buffer() {
    let mut still = Still::new(1, 1, 1);
    for _ in 0..100 {
        assert_eq!(still.send(0), Answer::Continue);
    }
    assert_eq!((still.clients[0].served, still.workers[0].1.available()), (100, 0));
    // Another one comes: from now on it is by turns.
    let pool = still.workers[0].1.clone();
    assert!(pool.set_starving(true));
    assert!(matches!(still.send(0), Answer::WaitUntil(_)));
    assert_eq!(pool.available(), 1);
    pool.set_starving(false);
    still.turn(0);
    assert_eq!(still.send(0), Answer::Continue);
}

#[test]
fn who_leaves_while_it_waits_is_not_waited_for() {
    let mut still = Still::new(1, 1, 3);
    still.call(1, |chargen, connection, next| {
        chargen.closed(connection, next, CloseReason::Reset);
        Answer::Continue
    });
    (0..10).for_each(|_| still.turn(0));
    assert!(still.clients[0].served >= 5 && still.clients[2].served >= 4);
    assert_eq!(still.clients[1].served, 0);
}

#[test]
fn no_buffer_is_wanted_for_who_is_being_closed_while_it_waits() {
    let mut still = Still::new(1, 1, 2);
    still.call(1, |chargen, connection, next| {
        chargen.finishing(connection, next);
        Answer::Continue
    });
    let (chargen, pool, requests) = &mut still.workers[0];
    assert_eq!(pool.available(), 0);
    let mut turn = Turn { now: Time::ZERO, open: 0, free_slots: 0, wakes_max: 2, requests };
    assert_eq!((chargen.turn(&mut turn), requests.buffer), (None, false));
}

#[test]
fn clients_that_read_for_ever_leave_buffers_to_those_that_wait_for_one() {
    const CLIENTS: usize = 12;
    let config = Config::new().buffer_size(256).buffers(3).shed_after(None);
    let (_server, address) = start(config, ChargenOptions);
    let (served, begun) = (AtomicUsize::new(0), Instant::now());
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let (mut client, mut lines) = (connect(address), lines());
                check(&mut client, &mut lines, 20_000);
                served.fetch_add(1, Ordering::Relaxed);
                while served.load(Ordering::Relaxed) < CLIENTS {
                    assert!(begun.elapsed() < GUARD, "{served:?} of {CLIENTS} are served");
                    check(&mut client, &mut lines, 1000);
                }
            });
        }
    });
}

#[test]
fn what_the_client_sends_is_thrown_away_while_it_reads() {
    let (server, address) = start(Config::new().buffers(64), ChargenOptions);
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
    let (server, address) = start(Config::new().buffers(64), ChargenOptions);
    let mut client = connect(address);
    client.write_all(&vec![0; 8 << 20]).unwrap();
    until(&server, "all of it is received", |total| total.bytes_received == 8 << 20);
}

#[test]
fn a_half_closed_client_is_sent_to_until_it_closes() {
    let (server, address) = start(Config::new(), ChargenOptions);
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
    let (server, address) = start(Config::new(), ChargenOptions);
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

/// What was sent after the first 100,000 bytes.
fn rest_len(server: &crate::ServerHandle) -> usize {
    server.stats().total().bytes_sent as usize - 100_000
}
