//! Every byte is echoed: over each kind of address, to foreign clients, after a half-close, around
//! urgent data, and whatever other clients or signals do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use rustix::process::Signal;

use crate::harness::{
    Client, Daemon, PIECE, eventually, have, have_ipv6, meanwhile, payload, run_with_input,
};

/// From 1 byte to 1 MiB, including sizes one below and one above the ends of buffers.
const SIZES: [u64; 16] = [
    1,
    2,
    3,
    63,
    64,
    1_000,
    4_095,
    4_097,
    16_383,
    16_384,
    16_385,
    65_535,
    65_537,
    300_000,
    (1 << 20) - 1,
    1 << 20,
];

fn echo_sizes(to: SocketAddr) {
    let mut client = Client::connect(to);
    for size in SIZES {
        client.echo(size);
    }
    client.close();
}

#[test]
fn over_ipv4() {
    let daemon = Daemon::start(&[]);
    echo_sizes(daemon.address());
    daemon.finish();
}

#[test]
fn over_ipv6() {
    if have_ipv6() {
        let daemon = Daemon::start(&["--listen", "[::1]:0"]);
        echo_sizes(daemon.address());
        daemon.finish();
    }
}

#[test]
fn over_both_through_one_listener() {
    if !have_ipv6() {
        return;
    }
    let daemon = Daemon::start(&["--listen", "[::]:0", "--log", "debug"]);
    let port = daemon.address().port();
    for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"] {
        echo_sizes(format!("{host}:{port}").parse().expect("an address"));
    }
    daemon.wait_closed(3);
    daemon.finish();
}

/// Failure mode 21. The kernel reports such a peer as `::ffff:127.0.0.1`.
#[test]
fn an_ipv4_peer_of_a_dual_stack_listener_is_shown_as_ipv4() {
    if !have_ipv6() {
        return;
    }
    let daemon = Daemon::start(&["--listen", "[::]:0", "--log", "debug"]);
    let port = daemon.address().port();
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]"] {
        Client::connect(format!("{host}:{port}").parse().expect("an address")).close();
    }
    let closed = daemon.wait_closed(2);
    for closed in &closed {
        assert_eq!(closed.peer.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST), "{closed:?}");
    }
    let mapped = daemon.lines_with("::ffff:");
    assert!(mapped.is_empty(), "shown as mapped: {mapped:?}");
}

/// Slightly more than 1 MiB from `payload`, as input of a client program.
fn input() -> Vec<u8> {
    (0..17).flat_map(|piece| payload(99, piece * PIECE as u64)).copied().collect()
}

/// Runs a client program that copies stdin to the daemon, sends FIN, and copies the reply to
/// stdout.
fn pipe_through(program: &str, arguments: impl Fn(SocketAddr) -> Vec<String>) {
    if !have(program) {
        return;
    }
    let daemon = Daemon::start(&["--log", "debug"]);
    for bytes in [&input()[..], b"x", b""] {
        let mut command = Command::new(program);
        command.args(arguments(daemon.address()));
        let output = run_with_input(&mut command, bytes);
        assert_eq!(output.len(), bytes.len(), "{program}: bytes back for {}", bytes.len());
        assert!(output == bytes, "{program}: wrong bytes came back");
    }
    let closed = daemon.wait_closed(3);
    assert!(closed.iter().all(|closed| closed.reason == "peer-closed"), "{closed:?}");
    daemon.finish();
}

#[test]
fn ncat_gets_its_bytes_back() {
    pipe_through("ncat", |to| vec![to.ip().to_string(), to.port().to_string()]);
}

#[test]
fn socat_gets_its_bytes_back() {
    pipe_through("socat", |to| ["-t30", "-", &format!("TCP:{to}")].map(str::to_owned).to_vec());
}

#[test]
fn python_gets_its_bytes_back() {
    const SCRIPT: &str = r"
import socket, sys, threading
host, port = sys.argv[1:]
s = socket.create_connection((host, int(port)), timeout=30)
def send():
    s.sendall(sys.stdin.buffer.read())
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while data := s.recv(4096):
    sys.stdout.buffer.write(data)
";
    pipe_through("python3", |to| {
        ["-c", SCRIPT, &to.ip().to_string(), &to.port().to_string()].map(str::to_owned).to_vec()
    });
}

/// Two hundred clients on Python's event loop, each with its own bytes.
#[test]
fn python_asyncio_clients_get_their_own_bytes() {
    const SCRIPT: &str = r"
import asyncio, random, sys
host, port = sys.argv[1:]
async def client(number):
    reader, writer = await asyncio.open_connection(host, int(port))
    for round in range(5):
        data = random.Random(number * 10 + round).randbytes(20_000)
        writer.write(data)
        await writer.drain()
        if await reader.readexactly(len(data)) != data:
            sys.exit(f'client {number}: other bytes came back')
    writer.write_eof()
    if await reader.read() != b'':
        sys.exit(f'client {number}: bytes after the end')
    writer.close()
async def main():
    await asyncio.gather(*(client(number) for number in range(200)))
    print('ok')
asyncio.run(asyncio.wait_for(main(), 45))
";
    if !have("python3") {
        return;
    }
    let daemon = Daemon::start(&["--log", "debug"]);
    let (host, port) = (daemon.address().ip().to_string(), daemon.address().port().to_string());
    let mut command = Command::new("python3");
    assert_eq!(run_with_input(command.args(["-c", SCRIPT, &host, &port]), b""), b"ok\n");
    let closed = daemon.wait_closed(200);
    assert!(closed.iter().all(|closed| (closed.received, closed.sent) == (100_000, 100_000)));
    daemon.finish();
}

/// Failure mode 7: a client that reads slowly sends 100 MB and FIN.
#[test]
fn a_slow_reader_gets_everything_after_its_half_close_and_then_fin() {
    const TOTAL: u64 = 100_000_000;
    let daemon = Daemon::start(&["--log", "debug"]);
    let mut client = Client::connect_with_small_window(daemon.address(), 64 * 1024);
    let (mut sent, mut stalls) = (0, 0);
    while sent < TOTAL {
        let taken = client.send_without_waiting(TOTAL - sent);
        sent += taken;
        stalls += u64::from(sent < TOTAL);
        // Slower than the server: it reads only when nothing more can be sent, and then too little
        // to empty the path.
        for _ in 0..8 {
            if sent < TOTAL && client.received() < sent {
                client.receive(PIECE).expect("bytes");
            }
        }
    }
    client.half_close();
    assert!(stalls > 0, "the path was never full");
    assert!(client.received() < TOTAL, "everything was received before the half-close");
    let mut reads: u64 = 0;
    while client.receive(PIECE).expect("bytes or FIN, not an error") > 0 {
        reads += 1;
        if reads.is_multiple_of(16) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(client.received(), TOTAL, "FIN came before the last byte");
    let closed = daemon.wait_closed(1);
    assert_eq!((closed[0].received, closed[0].sent), (TOTAL, TOTAL));
    assert_eq!(closed[0].reason, "peer-closed");
    daemon.finish();
}

/// Failure mode 7a: `MSG_MORE` holds the bytes back, so that one segment carries them and FIN.
#[test]
fn bytes_that_arrive_together_with_fin_are_echoed() {
    let daemon = Daemon::start(&[]);
    for size in [1, 5, 1_000, 16_383, 16_384, 16_385, 32_768, 50_000] {
        for _ in 0..20 {
            let mut client = Client::connect(daemon.address());
            client.send_flagged(size, SendFlags::MORE);
            client.half_close();
            client.expect(size);
            client.expect_fin();
        }
    }
    daemon.finish();
}

/// The same after a first exchange, when the server waits for a readiness edge.
#[test]
fn fin_with_the_last_bytes_is_noticed_after_an_exchange() {
    let daemon = Daemon::start(&[]);
    for size in [1, 100, 16_384, 30_000] {
        for _ in 0..20 {
            let mut client = Client::connect(daemon.address());
            client.ping(10);
            client.send_flagged(size, SendFlags::MORE);
            client.half_close();
            client.expect(size);
            client.expect_fin();
        }
    }
    daemon.finish();
}

#[test]
fn fin_alone_is_answered_with_fin() {
    let daemon = Daemon::start(&["--log", "debug"]);
    for _ in 0..50 {
        Client::connect(daemon.address()).close();
    }
    let closed = daemon.wait_closed(50);
    assert!(closed.iter().all(|closed| closed.reason == "peer-closed" && closed.sent == 0));
    daemon.finish();
}

/// Failure mode 7a: `recv` stops at the mark of an urgent byte, so later bytes could be missed.
#[test]
fn urgent_bytes_are_echoed_in_line_and_nothing_after_them_is_lost() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::connect(daemon.address());
    for round in 0..200 {
        client.send(round % 7 * 1_000);
        client.send_flagged(1 + round % 5, SendFlags::OOB);
        client.send(round % 3 * 20_000);
        client.expect(round % 7 * 1_000 + 1 + round % 5 + round % 3 * 20_000);
    }
    // Two marks in a row, and one right before FIN.
    client.send_flagged(1, SendFlags::OOB);
    client.send_flagged(1, SendFlags::OOB);
    client.half_close();
    client.expect(2);
    client.expect_fin();
    daemon.finish();
}

/// Failure mode 8. A reset arrives while the server has much left to send. The next send gives
/// EPIPE.
#[test]
fn a_reset_in_mid_stream_ends_that_connection_only() {
    const RESETS: usize = 200;
    let daemon = Daemon::start(&["--workers", "1", "--log", "debug"]);
    let mut bystander = Client::connect(daemon.address());
    for round in 0..RESETS as u64 {
        let mut client = Client::connect(daemon.address());
        client.send_without_waiting(round % 10 * 300_000 + 1);
        if round.is_multiple_of(2) {
            client.receive(1).expect("the first byte");
        }
        client.reset();
        bystander.ping(1_000);
    }
    let closed = daemon.wait_closed(RESETS);
    let resets = closed.iter().filter(|closed| closed.reason == "reset").count();
    assert!(resets > 0, "no connection was closed as reset");
    assert!(closed.iter().all(|closed| ["reset", "peer-closed"].contains(&&closed.reason[..])));
    bystander.echo(1 << 20);
    bystander.close();
    daemon.finish();
}

/// A client closes before its echo arrives, and its kernel replies to the server's bytes with RST.
#[test]
fn a_client_that_leaves_without_reading_does_not_affect_others() {
    let daemon = Daemon::start(&["--workers", "1", "--log", "debug"]);
    let mut bystander = Client::connect(daemon.address());
    for _ in 0..200 {
        let mut client = Client::connect(daemon.address());
        assert!(client.send_without_waiting(200_000) > 0);
        drop(client);
        bystander.ping(100);
    }
    daemon.wait_closed(200);
    bystander.close();
    daemon.finish();
}

/// Failure mode 20.
#[test]
fn a_storm_of_signals_changes_no_byte() {
    const PERIOD: Duration = Duration::from_millis(1);
    let daemon = Daemon::start(&["--workers", "2", "--log", "info"]);
    let address = daemon.address();
    let (start, mut signals) = (Instant::now(), 0);
    let storm = || {
        daemon.signal(Signal::USR1);
        signals += 1;
        std::thread::sleep(PERIOD);
    };
    let echoed = meanwhile(storm, || {
        let clients = [(); 4].map(|()| std::thread::spawn(move || echo_for(address, start)));
        clients.map(|client| client.join().expect("a client that gets its bytes back"))
    });
    assert!(echoed.iter().all(|rounds| *rounds > 0), "rounds per client: {echoed:?}");
    assert!(signals > 100, "only {signals} signals were sent");
    let lines = daemon.lines_with(" closed=").len() as u64;
    let most = 10 * (start.elapsed().as_secs() + 1) + 10;
    assert!(lines > 0 && lines <= most, "{lines} stats lines, at most {most} expected");
    daemon.finish();
}

/// Echoes until two seconds after `start`. Returns the number of rounds.
fn echo_for(to: SocketAddr, start: Instant) -> u64 {
    let mut client = Client::connect(to);
    let mut rounds = 0;
    while start.elapsed() < Duration::from_secs(2) {
        client.ping(1 + rounds * 37 % 3_000);
        client.echo(100_000);
        rounds += 1;
    }
    client.close();
    rounds
}

/// Failure mode 22: a stream that is sent byte by byte.
#[test]
fn a_stream_in_pieces_of_a_byte_comes_back_whole() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::connect(daemon.address());
    for size in 1..=200 {
        for _ in 0..size {
            client.send(1);
        }
        client.expect(size);
    }
    client.close();
    daemon.finish();
}

/// Failure mode 23: many clients, each with its own stream, share few buffers.
#[test]
fn no_client_sees_the_bytes_of_another() {
    let daemon = Daemon::start(&["--workers", "2", "--buffers", "16", "--max-connections", "200"]);
    let mut fleet = crate::harness::Fleet::connect(daemon.address(), 100);
    for round in 0..40 {
        fleet.echo(1 + round * 997);
    }
    drop(fleet);
    eventually("all clients are gone", || daemon.stat("connections") == 0);
    daemon.finish();
}
