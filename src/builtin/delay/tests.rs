//! Tests of the delay service on a server over loopback: under every law, every byte comes back in
//! order and no reply is early. No test limits how late a reply may be.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::*;
use crate::buffer::{Pool, Reserve};
use crate::builtin::OfListener;
use crate::builtin::url::{ServiceOptions, Spec};
use crate::config::Config;
use crate::engine::sys::monotonic_now;
use crate::server::{Drained, Server, ServerHandle};
use crate::service::Attention;
use crate::service::messenger::Messenger;

const GUARD: Duration = Duration::from_secs(60);

fn options(text: &str) -> DelayOptions {
    match format!("delay://7?{text}").parse::<Spec>() {
        Ok(Spec { service: ServiceOptions::Delay(options), .. }) => options,
        other => panic!("{text}: {other:?}"),
    }
}

fn start_with(config: Config, text: &str) -> (ServerHandle, SocketAddr) {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::start(config.listen(anywhere), options(text)).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    (server, address)
}

fn start(text: &str) -> (ServerHandle, SocketAddr) {
    start_with(Config::new().workers(1).max_connections(16), text)
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    client.set_write_timeout(Some(GUARD)).unwrap();
    client
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = monotonic_now() + GUARD;
    while !done() {
        assert!(monotonic_now() < deadline, "waited too long: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs three echo clients at once. If one of them fails, the error includes the server's counters.
fn echo_all(server: &ServerHandle, address: SocketAddr, count: usize, piece_max: usize) {
    thread::scope(|scope| {
        let client = |seed| scope.spawn(move || echo(address, count, piece_max, seed));
        for client in [0, 1, 2].map(client) {
            let done = client.join().expect("no panic");
            assert!(done.is_ok(), "{done:?}: {:?}", server.stats().total());
        }
    });
}

/// Sends `count` random bytes in pieces of random lengths and receives them at the same time. Then
/// closes the sending side, and expects end of stream after the last byte.
fn echo(address: SocketAddr, count: usize, piece_max: usize, seed: u64) -> io::Result<()> {
    let mut rng = Rng::with_seed(seed);
    let mut sent = vec![0; count];
    rng.fill(&mut sent);
    let mut client = connect(address);
    let mut sender = client.try_clone().unwrap();
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rng.usize(1..=piece_max.min(rest.len())));
                sender.write_all(piece)?;
                rest = after;
            }
            sender.shutdown(Shutdown::Write)
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received)?;
        assert_eq!(received.len(), sent.len());
        assert!(received == sent, "bytes came back changed");
        sending.join().expect("no panic")
    })
}

#[test]
fn every_byte_comes_back_in_its_place_under_every_law() {
    for text in [
        "",
        "fixed=1ms",
        "uniform=0ms-2ms",
        "bimodal=0ms:9,3ms:1",
        "exp=300us",
        "exp=100us&queue=1",
        "stall=3ms/7ms",
        "fixed=1ms&stall=3ms/7ms&queue=1&depth=1",
        "uniform=0ms-1ms&size=1000",
        "bimodal=0ms:1,1ms:1&size=777&depth=3",
        "exp=10us&size=64&depth=1000&hold=64",
    ] {
        let (server, address) = start(text);
        echo_all(&server, address, 150_000, 9_000);
        assert_eq!(server.drain(GUARD), Drained::Clean, "{text}");
        let total = server.stats().total();
        assert_eq!(total.closed(CloseReason::PeerClosed), 3, "{text}: {total:?}");
        assert_eq!((total.bytes_received, total.bytes_sent), (450_000, 450_000), "{text}");
    }
}

/// Replies end within buffers, and there are so few buffers that receives wait for one.
#[test]
fn with_few_buffers_replies_are_later_and_complete() {
    let config = Config::new().workers(1).max_connections(8).buffer_size(256).buffers(2);
    // With size 1, no part of a request waits for the rest, which would not get a buffer.
    let (server, address) = start_with(config.shed_after(None), "fixed=100ms&size=1&depth=1000");
    echo_all(&server, address, 1_000, 100);
    let total = server.stats().total();
    assert!(total.waits_for_buffer > 0, "there were enough buffers: {total:?}");
}

#[test]
fn without_a_buffer_to_cut_a_reply_off_with_the_whole_ones_before_it_are_sent() {
    let pool = Pool::new(Reserve::new(256, 3).unwrap(), 0);
    let (mut input, mut output) = (Chain::new(&pool), Chain::new(&pool));
    for bytes in [b"abcd", b"efgh"] {
        let mut lease = pool.lease().unwrap();
        lease.extend_from_slice(bytes);
        input.push_back(lease);
    }
    let last_buffer = pool.lease();
    let mut connection = Connection {
        id: ConnectionId::from_bits(1),
        peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).into(),
        tag: 0,
        discarded: 0,
        sent: 0,
        now: Time::ZERO,
        around: &Time::ZERO,
        pool: &pool,
        messenger: &Messenger::alone(&pool),
        attention: &Attention::default(),
        timer: &mut Time::MAX.clone(),
        input: &mut input,
        output: &mut output,
    };
    let mut session = DelaySession { overdue: 6, ..DelaySession::default() };
    send_overdue(&mut connection, &mut session);
    assert_eq!((session.overdue, connection.output.len()), (2, 4));
    send_overdue(&mut connection, &mut session);
    assert_eq!((session.overdue, connection.output.len()), (2, 4), "it waits");
    drop(last_buffer);
    send_overdue(&mut connection, &mut session);
    assert_eq!((session.overdue, connection.output.len(), connection.input.len()), (0, 6, 2));
    assert_eq!(connection.output.slices().collect::<Vec<_>>().concat(), b"abcdef");
}

/// Servers with seeds in a row, and workers in a row, are compared as if they were independent: the
/// means of their delays must not follow each other.
#[test]
fn neither_seeds_in_a_row_nor_workers_have_delays_that_follow_each_other() {
    const COUNT: usize = 600;
    let excess = |mut rng: Rng| (0..200).filter(|_| rng.f64() > 0.5).count() as f64 - 100.0;
    let of_seeds: fn(usize) -> Rng = |nth| random(nth as u64, 0);
    for (what, of) in [("seeds", of_seeds), ("workers", |nth| random(1, nth))] {
        let seen: Vec<f64> = (0..COUNT).map(|nth| excess(of(nth))).collect();
        let product = |lag: usize| {
            let pairs = seen.iter().zip(&seen[lag..]);
            pairs.map(|(one, other)| one * other).sum::<f64>() / (COUNT - lag) as f64
        };
        for lag in 1..30 {
            let correlation = product(lag) / product(0);
            // Five standard deviations of that of independent ones.
            assert!(correlation.abs() < 0.2, "{what}, {lag} apart: {correlation}");
        }
    }
}

/// Sends the current time in requests of 8 bytes, and compares the arrival of each reply with the
/// earliest time that the law and the seed's draws allow. The server cannot have read a request
/// before it was sent, so a correct reply cannot arrive before that time. Returns how many requests
/// were sent during a stall.
fn assert_never_early(text: &str, count: usize) -> usize {
    let text = format!("{text}&size=8&seed=5");
    let law = options(&text).law;
    let (_server, address) = start(&text);
    let mut client = connect(address);
    let mut sender = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut gaps = Rng::with_seed(1);
            for _ in 0..count {
                sender.write_all(&monotonic_now().as_nanos().to_ne_bytes()).unwrap();
                thread::sleep(Duration::from_micros(gaps.u64(0..1_500)));
            }
        });
        let (mut rng, mut last, mut in_stall) = (random(5, 0), Time::ZERO, 0);
        for at in 0..count {
            let mut stamp = [0; 8];
            client.read_exact(&mut stamp).unwrap();
            let (sent, now) = (Time::from_nanos(u64::from_ne_bytes(stamp)), monotonic_now());
            let due = law.departure(sent, law.delay.draw(&mut rng), last);
            last = last.max(due);
            assert!(now >= last, "{text}: request {at} came back {:?} early", last - now);
            in_stall += usize::from(law.stall.is_some_and(|stall| stall.over(sent) > sent));
        }
        in_stall
    })
}

#[test]
fn no_reply_is_early() {
    for law in
        ["fixed=2ms", "uniform=0ms-4ms", "bimodal=0ms:9,20ms:1", "exp=1ms", "exp=800us&queue=1"]
    {
        assert_never_early(law, 300);
    }
}

#[test]
fn nothing_is_answered_in_a_stall() {
    let in_stall = assert_never_early("stall=20ms/40ms", 400);
    assert!(in_stall > 0, "no request was sent in a stall");
    assert_never_early("exp=300us&queue=1&stall=5ms/20ms", 300);
}

/// Records the lateness of each reply when it is put on the output.
struct Watched {
    delay: Delay,
    late: Arc<Mutex<Vec<Duration>>>,
}

impl Service for Watched {
    type Session = DelaySession;
    const FRESH_CLOCK: bool = true;

    fn input_max(&self, tag: u64) -> usize {
        self.delay.input_max(tag)
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut DelaySession) -> Answer {
        self.delay.open(connection, session)
    }

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut DelaySession) -> Answer {
        self.delay.data(connection, session)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut DelaySession) -> Answer {
        let now = connection.now();
        if let Some(due) = self.delay.waiting.first_due(connection.id().slot(), session) {
            assert!(now >= due, "woken before its time");
            self.late.lock().unwrap().push(now - due);
        }
        self.delay.timer(connection, session)
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        self.delay.turn(turn)
    }
}

/// Prints the table in `docs/delay.md`: `cargo test --release how_late -- --ignored --nocapture`.
#[test]
#[ignore = "prints a figure of this machine, and asserts only that no reply is early"]
fn how_late_replies_leave() {
    const COUNT: usize = 5_000;
    let late = Arc::new(Mutex::new(Vec::with_capacity(COUNT)));
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = Config::new().listen(anywhere).workers(1).max_connections(1);
    let plan = options("exp=1ms").plan(&config.check().unwrap());
    let for_workers = late.clone();
    let watched = move |delay| Watched { delay, late: for_workers.clone() };
    let server = Server::start(config, plan.map(watched)).unwrap();
    let mut client = connect(server.local_endpoints()[0].socket_addr().unwrap());
    for _ in 0..COUNT {
        client.write_all(&[7; 64]).unwrap();
        client.read_exact(&mut [0; 64]).unwrap();
    }
    let mut late = late.lock().unwrap();
    late.sort_unstable();
    let quantile = |p: f64| late[(p * late.len() as f64) as usize];
    let [median, p90, p99] = [0.5, 0.9, 0.99].map(quantile);
    println!("{} replies: p50 {median:?}, p90 {p90:?}, p99 {p99:?}", late.len());
}

/// Requests that arrive at once through several workers wait in one queue.
#[test]
fn the_queue_is_one_for_all_workers() {
    const CLIENTS: u32 = 24;
    let config = Config::new().workers(4).max_connections(CLIENTS);
    let (server, address) = start_with(config, "fixed=10ms&queue=1");
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(address)).collect();
    let begin = monotonic_now();
    clients.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
    for client in &mut clients {
        client.read_exact(&mut [0]).unwrap();
    }
    assert!(monotonic_now() - begin >= CLIENTS * Duration::from_millis(10));
    let used = server.stats().workers().iter().filter(|worker| worker.accepted > 0).count();
    assert!(used > 1, "all {CLIENTS} connections came to one worker");
}

#[test]
fn a_half_close_is_answered_with_all_that_is_due_and_then_fin() {
    let (server, address) = start("fixed=30ms&size=10");
    let mut client = connect(address);
    let begin = monotonic_now();
    client.write_all(&[7; 25]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, [7; 25], "a part of a request counts as one at the end");
    assert!(monotonic_now() - begin >= Duration::from_millis(30));
    until("it is closed", || server.stats().total().closed(CloseReason::PeerClosed) == 1);
}

#[test]
fn a_drain_sends_what_is_held_back_at_its_time() {
    let (server, address) = start("fixed=300ms&size=10");
    let mut client = connect(address);
    let begin = monotonic_now();
    client.write_all(&[7; 25]).unwrap();
    until("it is held back", || server.stats().total().bytes_received == 25);
    let reading = thread::spawn(move || {
        let mut received = Vec::new();
        client.read_to_end(&mut received).map(|_| (received, monotonic_now()))
    });
    assert_eq!(server.drain(GUARD), Drained::Clean);
    let (received, end) = reading.join().unwrap().unwrap();
    assert_eq!(received, [7; 25]);
    // An incomplete request counts as a request from the start of the drain, which came before its
    // arrival.
    assert!(end - begin >= Duration::from_millis(300));
    assert_eq!(server.stats().total().closed(CloseReason::Drained), 1);
}

/// The connection has no other waiting request: the due time is known only when the drain starts.
#[test]
fn a_drain_sends_a_part_of_a_request_at_its_time_too() {
    let (server, address) = start("fixed=100ms&size=10");
    let mut client = connect(address);
    let begin = monotonic_now();
    client.write_all(&[7; 5]).unwrap();
    until("it has arrived", || server.stats().total().bytes_received == 5);
    assert_eq!(server.drain(GUARD), Drained::Clean);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, [7; 5]);
    assert!(monotonic_now() - begin >= Duration::from_millis(100));
}

#[test]
fn a_drain_cuts_what_is_due_after_its_deadline() {
    let (server, address) = start("fixed=1h");
    let mut client = connect(address);
    client.write_all(b"too late").unwrap();
    until("it is held back", || server.stats().total().bytes_received == 8);
    assert_eq!(server.drain(Duration::from_millis(50)), Drained::Cut(1));
    let end = client.read(&mut [0]);
    assert!(matches!(&end, Ok(0)) || end.is_err(), "nothing was due: {end:?}");
}

/// Checks that held input is limited, and that the connection is not closed at the limit.
fn assert_held(text: &str, most: u64) {
    let config = Config::new().workers(1).max_connections(1).buffer_size(1024);
    let (server, address) = start_with(config, text);
    let mut client = connect(address);
    client.set_nonblocking(true).unwrap();
    let (mut written, mut full) = (0, 0);
    until("the kernel takes no more", || {
        match client.write(&[7; 4096]) {
            Ok(count) => (written, full) = (written + count as u64, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => full += 1,
            Err(error) => panic!("{error}"),
        }
        full > 100
    });
    let total = server.stats().total();
    assert!(total.bytes_received <= most, "{text}: {} bytes are held", total.bytes_received);
    assert!(written > most, "{text}: the client sent no more than that");
    assert_eq!((total.connections, total.bytes_sent), (1, 0), "{text}: {total:?}");
}

#[test]
fn a_connection_with_as_much_waiting_as_it_may_is_not_read() {
    const RECEIVE_MAX: u64 = 4 * 1024;
    assert_held("fixed=1h&hold=20k&depth=1000", (20 << 10) + RECEIVE_MAX);
    assert_held("fixed=1h&depth=3", 3 * RECEIVE_MAX);
    assert_held("fixed=1h&depth=3&size=100", 300 + RECEIVE_MAX);
}

/// Uses an echo for comparison, whose clock is read once per turn.
#[test]
fn the_clock_is_fresh_for_this_service_alone() {
    let delay = ServiceOptions::Delay(DelayOptions::default());
    let services = OfListener::new(vec![ServiceOptions::Echo, delay]);
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = Config::new().listen(anywhere).listen(anywhere).max_connections(1);
    let plan = services.plan(&config.check().unwrap());
    let services = plan.make(&WorkerContext::alone(Pool::new(Reserve::new(256, 4).unwrap(), 0), 1));
    assert!(!services.fresh_clock(0) && services.fresh_clock(1));
}

#[test]
fn what_waits_too_long_for_the_idle_timeout_is_told_at_start() {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let start = |text: &str| {
        let idle = Some(Duration::from_secs(1));
        let config = Config::new().listen(anywhere).max_connections(1).idle_timeout(idle);
        Server::start(config, options(text)).map(drop)
    };
    let error = start("fixed=900ms&stall=100ms/1s").unwrap_err().to_string();
    assert!(error.contains("raise `idle_timeout`"), "{error}");
    start("fixed=900ms").unwrap();
    let wrong = DelayOptions { depth: 0, ..DelayOptions::default() };
    let config = Config::new().listen(anywhere).max_connections(1);
    assert!(Server::start(config, wrong).is_err());
}
