//! Runs over UDP: against a server that loses, doubles, delays, reorders, damages and shortens known
//! datagrams, each of which must be found; and against servers that do nothing of that.

mod common;

use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::forms::{assert_valid, count, schema};
use common::{loadgen, own_port};
use echopool::builtin::Echo;
use echopool::{Config, Server};
use serde_json::Value;

/// What the server does with a datagram, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Echo,
    Lose,
    Double,
    /// Reply after the time-out.
    Delay,
    /// Reply after the reply to the next one.
    Swap,
    /// Change a byte of the payload.
    Corrupt,
    /// Change a byte of the header.
    CorruptHeader,
    /// Reply with a byte more.
    Lengthen,
    Shorten,
}

const TIMEOUT: Duration = Duration::from_secs(2);
/// More than a second after the time-out and before the end of the run, because either end may stand
/// still for a while.
const DELAY: Duration = Duration::from_millis(3_400);

/// The fates of the first numbers; delayed ones only here, so that their replies come during the
/// run.
const EARLY: u64 = 40;

fn fate(number: u64) -> Fate {
    match number % 10 {
        1 => Fate::Lose,
        2 => Fate::Double,
        3 if number < EARLY => Fate::Delay,
        4 => Fate::Swap,
        6 => Fate::Corrupt,
        7 => Fate::Shorten,
        8 => Fate::CorruptHeader,
        9 => Fate::Lengthen,
        _ => Fate::Echo,
    }
}

/// How many of the first `count` numbers have this fate.
fn with(fate_of: Fate, count: u64) -> u64 {
    (0..count).filter(|&number| fate(number) == fate_of).count() as u64
}

/// A server on a thread of its own, until it is dropped.
struct UnreliableServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UnreliableServer {
    fn start(fate: impl Fn(u64) -> Fate + Send + 'static) -> UnreliableServer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        common::room_for_datagrams(&socket);
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a time-out");
        let address = socket.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || serve(&socket, &stopped, fate));
        UnreliableServer { address, stop, thread: Some(thread) }
    }
}

impl Drop for UnreliableServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(socket: &UdpSocket, stop: &AtomicBool, fate: impl Fn(u64) -> Fate) {
    let mut buffer = vec![0; 65_536];
    let mut later: BinaryHeap<std::cmp::Reverse<(Instant, Vec<u8>, SocketAddr)>> =
        BinaryHeap::new();
    let mut swapped: Option<(Vec<u8>, SocketAddr)> = None;
    let send =
        |reply: &[u8], to| assert_eq!(socket.send_to(reply, to).expect("sending"), reply.len());
    while !stop.load(Ordering::Relaxed) {
        while let Some(std::cmp::Reverse((due, ..))) = later.peek()
            && *due <= Instant::now()
        {
            let std::cmp::Reverse((_, reply, to)) = later.pop().expect("it was there");
            send(&reply, to);
        }
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let mut reply = buffer[..length].to_vec();
        let number = u64::from_le_bytes(reply[4..12].try_into().expect("8 bytes"));
        match fate(number) {
            Fate::Echo => send(&reply, from),
            Fate::Lose => {}
            Fate::Double => (0..2).for_each(|_| send(&reply, from)),
            Fate::Delay => later.push(std::cmp::Reverse((Instant::now() + DELAY, reply, from))),
            Fate::Swap => {
                swapped = Some((reply, from));
                continue;
            }
            Fate::Corrupt => {
                reply[20] ^= 1;
                send(&reply, from);
            }
            Fate::CorruptHeader => {
                reply[0] ^= 1;
                send(&reply, from);
            }
            Fate::Lengthen => {
                reply.push(0);
                send(&reply, from);
            }
            Fate::Shorten => send(&reply[..20], from),
        }
        if let Some((reply, from)) = swapped.take() {
            send(&reply, from);
        }
    }
}

fn run(flags: &str, code: i32) -> Value {
    let json = loadgen(&format!("{flags} --output-format json")).expect(code).json();
    assert_valid(&schema("summary"), &json);
    json
}

/// The counts of the datagrams: sent, lost, late, duplicated, out of order, corrupted, truncated.
fn datagrams(json: &Value) -> [u64; 7] {
    let keys = ["sent", "lost", "late", "duplicated", "out_of_order", "corrupted", "truncated"];
    keys.map(|key| count(&json["datagrams"][key]))
}

#[test]
fn each_fate_is_counted_exactly() {
    // Most of the time they wait.
    thread::scope(|scope| {
        for loop_flags in ["", "--arrivals poisson -l uniform:40-1400"] {
            scope.spawn(move || assert_counts_each_fate(loop_flags));
        }
    });
}

fn assert_counts_each_fate(loop_flags: &str) {
    const COUNT: u64 = 600;
    let of = |fate| with(fate, COUNT);
    let server = UnreliableServer::start(fate);
    let flags = format!(
        "udp://{} -c 1 -t 1 -n {COUNT} --pipeline 2000 --timeout {}s -R 200 {loop_flags}",
        server.address,
        TIMEOUT.as_secs()
    );
    // Bytes that differ are the worst verdict.
    let json = run(&flags, 3);
    assert_eq!(json["verdict"], "echo-differed");
    let damaged = of(Fate::Corrupt) + of(Fate::Lengthen);
    let lost = of(Fate::Lose) + of(Fate::Delay) + of(Fate::CorruptHeader);
    assert_eq!(
        datagrams(&json),
        [
            COUNT,
            lost,
            of(Fate::Delay),
            of(Fate::Double),
            of(Fate::Swap),
            damaged + of(Fate::CorruptHeader),
            of(Fate::Shorten),
        ],
        "{json:#}"
    );
    assert_eq!(json["datagrams"]["lost_ratio"], lost as f64 / COUNT as f64);
    assert!(count(&json["datagrams"]["jitter_ns"]) > 0);
    assert_eq!(count(&json["mismatched_connections"]), damaged + of(Fate::CorruptHeader));
    // Every request is accounted for.
    assert_eq!(count(&json["requests_offered"]), COUNT);
    assert_eq!(count(&json["requests_timed_out"]), lost);
    assert_eq!(count(&json["requests_unanswered"]), damaged + of(Fate::Shorten));
    let completed = COUNT - lost - damaged - of(Fate::Shorten);
    assert_eq!(count(&json["requests_completed"]), completed);
}

#[test]
fn loss_is_a_result_and_no_error() {
    let lose = |number: u64| if number % 4 == 1 { Fate::Lose } else { Fate::Echo };
    let server = UnreliableServer::start(lose);
    // All requests that a socket loses are under way at once, so they time out together.
    let flags = format!("udp://{} -c 2 -t 1 -n 400 --timeout 2s --pipeline 64", server.address);
    let json = run(&flags, 0);
    assert_eq!(json["verdict"], "valid");
    let [sent, lost, ..] = datagrams(&json);
    assert_eq!(sent, 400);
    // Of each socket a quarter of its datagrams, whichever sent how many.
    assert!((99..=101).contains(&lost), "{lost}");
    assert_eq!(count(&json["requests_timed_out"]), lost);
    assert!(json["verdict_text"].as_str().is_none_or(|text| text.contains("lost")));
    let text = loadgen(&format!("{flags} --details")).expect(0);
    text.says(" % of the datagrams lost").says("Datagrams: 400 sent").says("Jitter: ");
}

#[test]
fn an_honest_server_loses_nothing_in_either_loop() {
    let config = Config::new().listen("udp://127.0.0.1:0").workers(2).max_connections(10);
    let server = Server::start(config, Echo).expect("a server");
    let address = server.local_endpoints()[0].socket_addr().expect("an address");
    for flags in [
        "-c 10 -n 5000",
        "-c 10 -n 5000 --pipeline 16 -l uniform:12-2000",
        "-c 1 -n 50 -l 65507",
        "-c 10 -d 1s -R 2k --timeout 5s -w 200ms",
        "-c 3 -t 2 -d 1s -R 1k --strict",
    ] {
        let json = loadgen(&format!("udp://{address} {flags} --output-format json")).json();
        assert_valid(&schema("summary"), &json);
        // A busy machine may make an open loop late.
        let verdict = json["verdict"].as_str().expect("a word");
        assert!(["valid", "generator-limited"].contains(&verdict), "{flags}: {json:#}");
        let [sent, lost, late, duplicated, _, corrupted, truncated] = datagrams(&json);
        assert_eq!([lost, late, duplicated, corrupted, truncated], [0; 5], "{flags}: {json:#}");
        let (offered, warmup) = (count(&json["requests_offered"]), count(&json["requests_warmup"]));
        assert_eq!(offered + warmup, sent + count(&json["requests_never_sent"]), "{flags}");
        assert_eq!(json["config"]["service"], "udp://", "{flags}");
    }
}

/// A schedule of its own that nobody can keep does not hold up the end.
#[test]
fn a_run_ends_without_the_sockets_that_cannot_be_opened() {
    let config = Config::new().listen("udp://127.0.0.1:0").workers(1).max_connections(10);
    let server = Server::start(config, Echo).expect("a server");
    let address = server.local_endpoints()[0].socket_addr().expect("an address");
    // Of networks for documentation: no machine has the other one (RFC 5737).
    let sources = "--source-ip 127.0.0.1 --source-ip 192.0.2.1";
    for loop_flags in ["", "-R 1000", "-R 1000 --strict", "-R 1000 --strict --arrivals poisson"] {
        let flags = format!("udp://{address} -c 4 -t 1 -n 100 {sources} {loop_flags}");
        let json = loadgen(&format!("{flags} --output-format json")).json();
        assert_eq!(count(&json["connections"]["established"]), 2, "{flags}: {json:#}");
        let unsent = count(&json["requests_never_sent"]);
        let is_right = match loop_flags {
            "" | "-R 1000" => unsent == 0,
            "-R 1000 --strict" => unsent == 50,
            // Of the first 100 requests, as many as fell to two of the four sockets.
            _ => (1..100).contains(&unsent),
        };
        assert!(is_right, "{unsent}, {flags}: {json:#}");
        assert_eq!(count(&json["requests_offered"]), 100, "{json:#}");
        assert_eq!(datagrams(&json)[..2], [100 - unsent, 0], "{json:#}");
    }
}

#[test]
fn nobody_at_the_port_ends_nothing_and_serves_nothing() {
    let port = own_port();
    let json = run(&format!("udp://127.0.0.1:{port} -c 3 -d 500ms --timeout 100ms"), 4);
    assert_eq!(json["verdict"], "nothing-served");
    let [sent, lost, ..] = datagrams(&json);
    assert!(sent >= 3 && sent == lost, "{sent} sent, {lost} lost");
    assert!(count(&json["datagrams"]["socket_errors"]) > 0);
}

#[test]
fn a_server_that_is_not_ours_echoes_too() {
    const SERVER: &str = "
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
while True:
    data, source = server.recvfrom(65536)
    server.sendto(data, source)
";
    let mut python = Command::new("python3")
        .args(["-c", SERVER])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut port = String::new();
    let stdout = python.stdout.take().expect("it is piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut port).expect("a port");
    let flags = format!("udp://127.0.0.1:{} -c 4 -n 1000 -l uniform:12-9000", port.trim());
    let result = std::panic::catch_unwind(|| run(&flags, 0));
    let _ = python.kill();
    let _ = python.wait();
    let json = result.expect("a run");
    assert_eq!(datagrams(&json), [1_000, 0, 0, 0, 0, 0, 0]);
}
