//! Datagrams: the services over UDP, replies from the address that was asked, and everything that
//! gets no reply.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::admin::{get, metric};
use crate::harness::{
    Client, Daemon, GUARD, eventually, have, have_ipv6, payload, run_to_end, run_with_input, skip,
};

const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);

/// The longest datagram over IPv4.
const LONGEST: usize = 65_507;

/// A socket that gets datagrams from `to` alone.
pub fn client(to: SocketAddr) -> UdpSocket {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => "::".parse().expect("an address"),
    };
    let client = UdpSocket::bind((any, 0)).expect("binding");
    client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    client.connect(to).expect("connecting");
    client
}

pub fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let count = client.recv(&mut buffer).expect("a reply");
    buffer.truncate(count);
    buffer
}

pub fn send(client: &UdpSocket, datagram: &[u8]) {
    assert_eq!(client.send(datagram).expect("sending"), datagram.len());
}

/// Sends a datagram, and returns the reply to it.
pub fn ask(client: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    send(client, datagram);
    receive(client)
}

/// Whether nothing has come before the reply to a datagram that is sent now.
fn hears_nothing_before(client: &UdpSocket, datagram: &[u8]) -> bool {
    ask(client, datagram) == datagram
}

pub fn counter(daemon: &Daemon, name: &str) -> u64 {
    daemon.stat(&format!("datagrams_{name}"))
}

/// Replies are counted after they were sent.
fn until_sent(daemon: &Daemon, count: u64) {
    eventually(&format!("{count} are sent"), || counter(daemon, "sent") == count);
}

#[test]
fn each_service_treats_datagrams_as_its_rfc_says_and_as_its_ready_line_says() {
    let urls = ["udp", "discard+udp", "chargen+udp"].map(|it| format!("{it}://127.0.0.1:0"));
    let flags: Vec<&str> = urls.iter().flat_map(|url| ["--listen", url]).collect();
    let daemon = Daemon::start(&[&flags[..], &["--listen", "127.0.0.1:0"]].concat());
    for (target, url) in daemon.targets().iter().zip(&urls) {
        assert!(target.starts_with(url.trim_end_matches('0')), "{target}");
    }
    let [echo, discard, chargen, tcp] = *daemon.addresses() else { panic!("four addresses") };
    let to = client(echo);
    for size in [0, 1, 2, 100, 1_472, 1_473, 9_000, 65_506, LONGEST] {
        let datagram = &payload(size as u64, 0)[..size];
        assert!(ask(&to, datagram) == datagram, "{size} bytes");
    }
    // Many at once, in their order, because one thread serves one socket.
    (0..200_u32).for_each(|at| assert_eq!(to.send(&at.to_le_bytes()).expect("sending"), 4));
    (0..200_u32).for_each(|at| assert_eq!(receive(&to), at.to_le_bytes()));

    let discarded = client(discard);
    (0..5).for_each(|_| send(&discarded, &[7; 1_000]));
    let lines = client(chargen);
    for size in [0, 1, 73, 74, 511, 512, 513, 20_000] {
        let reply = ask(&lines, &vec![0; size]);
        assert_eq!(reply.len(), size.min(512), "never more than came, and at most 512");
        assert!(reply.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n')));
    }
    Client::connect(tcp).ping(1_000);
    eventually("all are received", || counter(&daemon, "received") == 9 + 200 + 5 + 8);
    // None of discard.
    until_sent(&daemon, 9 + 200 + 8);
    discarded.set_nonblocking(true).expect("setting an option");
    assert!(discarded.recv(&mut [0]).is_err());
    daemon.finish();
}

/// Sends datagrams of these lengths while the daemon stands still, so that it receives them together.
/// Returns what they were.
fn burst(daemon: &Daemon, to: &[&UdpSocket], lengths: &[usize]) -> Vec<Vec<u8>> {
    daemon.stop();
    let datagrams = (0..).zip(lengths).map(|(seed, length)| payload(seed, 0)[..*length].to_vec());
    let datagrams: Vec<Vec<u8>> = datagrams.collect();
    for (nth, datagram) in datagrams.iter().enumerate() {
        send(to[nth % to.len()], datagram);
    }
    daemon.signal(Signal::CONT);
    datagrams
}

/// The replies to datagrams of one peer that came together leave as one message where that pays. Each
/// is a datagram of its own nevertheless.
#[test]
fn a_burst_comes_back_datagram_by_datagram() {
    let daemon = Daemon::start(&["--listen", "udp://0.0.0.0:0", "--workers", "1"]);
    let at = |ip: [u8; 4]| SocketAddr::from((ip, daemon.address().port()));
    let [one, other] = [(); 2].map(|_| client(at([127, 0, 0, 1])));
    // The socket of another address of the daemon.
    let third = client(at([127, 0, 0, 2]));
    let mixed: Vec<usize> =
        (0..100).map(|nth| [0, 1, 64, 64, 64, 64, 64, 63, 1_000][nth % 9]).collect();
    let mut sent = 0;
    for lengths in [
        &[64; 100][..],
        &[1_200; 64],
        &[1_200, 1_200, 1_200, 1_200, 7],
        &[0; 20],
        &[20_000; 7],
        &mixed,
    ] {
        for datagram in burst(&daemon, &[&one], lengths) {
            assert!(receive(&one) == datagram, "{lengths:?}");
        }
        let peers = [&one, &one, &one, &one, &one, &other, &third];
        let datagrams = burst(&daemon, &peers, lengths);
        for (nth, datagram) in datagrams.iter().enumerate() {
            assert!(receive(peers[nth % peers.len()]) == *datagram, "{lengths:?}");
        }
        sent += 2 * lengths.len() as u64;
    }
    until_sent(&daemon, sent);
    assert_eq!(counter(&daemon, "unsent"), 0);
    // Nothing comes twice.
    for socket in [&one, &other, &third] {
        assert!(hears_nothing_before(socket, b"last"));
    }
    daemon.finish();
}

/// A socket with UDP_GRO gets as one what has left as one (udp(7)).
#[test]
fn the_replies_to_a_burst_leave_together_unless_that_is_turned_off() {
    const PYTHON: &str = "
import os, signal, socket, struct, sys, time
at, daemon = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
SOL_UDP, UDP_GRO = 17, 104
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.setsockopt(SOL_UDP, UDP_GRO, 1)
client.settimeout(60)
client.connect(at)
def burst(count, length):
    os.kill(daemon, signal.SIGSTOP)
    while open('/proc/%d/stat' % daemon).read().rsplit(') ', 1)[1][0] != 'T':
        time.sleep(0.01)
    for number in range(count):
        client.send(bytes([number]) * length)
    os.kill(daemon, signal.SIGCONT)
    whole, messages = b'', 0
    while len(whole) < count * length:
        data, control, flags, source = client.recvmsg(65536, 64)
        whole, messages = whole + data, messages + 1
        sizes = [struct.unpack('i', text)[0] for level, kind, text in control
                 if (level, kind) == (SOL_UDP, UDP_GRO)]
        assert sizes in ([length], []) and (sizes or len(data) == length), (sizes, len(data))
    assert whole == b''.join(bytes([number]) * length for number in range(count))
    return messages
if sys.argv[4] == 'off':
    assert burst(40, 100) == 40
    sys.exit()
for attempt in range(1000):
    if burst(40, 100) == 1:
        break
else:
    sys.exit('40 replies never leave together')
assert burst(3, 100) == 3, 'three are too few'
";
    if !have("python3") {
        return;
    }
    for segmentation in ["on", "off"] {
        let url = format!("udp://127.0.0.1:0?segmentation={segmentation}");
        let daemon = Daemon::start(&["--listen", &url, "--workers", "1"]);
        let (at, id) = (daemon.address(), daemon.pid().as_raw_nonzero().to_string());
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        let mut python = Command::new("python3");
        python.args(["-c", PYTHON, &ip, &port, &id, segmentation]);
        assert!(run_with_input(&mut python, b"").is_empty());
        daemon.finish();
    }
}

#[test]
fn peers_that_are_not_ours_get_their_datagrams_back() {
    const PYTHON: &str = "
import socket, sys
at = (sys.argv[1], int(sys.argv[2]))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(60)
for size in [0, 1, 1000, 65507]:
    data = bytes(number * 7 % 256 for number in range(size))
    client.sendto(data, at)
    reply, source = client.recvfrom(65536)
    assert reply == data and source == at, (size, source)
print('done')
";
    let daemon = Daemon::start(&["--listen", "udp://127.0.0.1:0"]);
    let at = daemon.address();
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    if have("python3") {
        let output = run_with_input(Command::new("python3").args(["-c", PYTHON, &ip, &port]), b"");
        assert_eq!(String::from_utf8_lossy(&output), "done\n");
    }
    let to = format!("UDP:{at}");
    for (program, arguments) in [("socat", &["-", &to[..]][..]), ("ncat", &["-u", &ip, &port])] {
        if have(program) {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("starting a client");
            // Its stdin stays open until the reply is there: ncat may end before it otherwise.
            let (stdin, stdout) = (child.stdin.as_mut(), child.stdout.as_mut());
            stdin.expect("a pipe").write_all(b"one datagram\n").expect("sending");
            let mut reply = [0; 13];
            stdout.expect("a pipe").read_exact(&mut reply).expect("a reply");
            assert_eq!(&reply, b"one datagram\n", "{program}");
            child.kill().expect("ending the client");
            child.wait().expect("the client's end");
        }
    }
    daemon.finish();
}

/// The clients are connected, so they get only what comes from the address that they asked.
#[test]
fn a_reply_leaves_from_the_address_that_was_asked() {
    let daemon = Daemon::start(&["--listen", "udp://0.0.0.0:0"]);
    let port = daemon.address().port();
    for ip in ["127.0.0.1", "127.0.0.2", "127.1.2.3"] {
        let to = client(SocketAddr::new(ip.parse().expect("an address"), port));
        assert_eq!(ask(&to, b"hello"), b"hello", "{ip}");
    }
    daemon.finish();
    if !have_ipv6() {
        return;
    }
    let daemon = Daemon::start(&["--listen", "udp://[::]:0", "--workers", "2"]);
    let port = daemon.address().port();
    for ip in ["::1", "127.0.0.1", "127.0.0.2"] {
        let to = client(SocketAddr::new(ip.parse().expect("an address"), port));
        assert_eq!(ask(&to, b"hello"), b"hello", "{ip}");
        assert_eq!(ask(&to, &[9; LONGEST]), [9; LONGEST], "{ip}");
    }
    let to = client(SocketAddr::new("::1".parse().expect("an address"), port));
    assert_eq!(ask(&to, &[9; 65_527]), [9; 65_527], "the longest over IPv6");
    daemon.finish();
}

#[test]
fn a_port_alone_is_open_to_this_machine_only() {
    let mut daemon = Daemon::start(&["--listen", "udp://:0", "--listen", "udp://0.0.0.0:0"]);
    if have_ipv6() {
        daemon.next_target();
    }
    let addresses = daemon.addresses();
    let (all, own) = addresses.split_last().expect("several addresses");
    assert!(own.iter().all(|address| address.ip().is_loopback()), "{addresses:?}");
    assert!(own.iter().all(|address| address.port() == own[0].port()), "one port: {addresses:?}");
    assert!(all.ip().is_unspecified());
    for &address in own {
        assert_eq!(ask(&client(address), b"hello"), b"hello", "{address}");
    }
    daemon.finish();
}

#[test]
fn a_datagram_that_is_too_long_is_counted_and_gets_no_reply() {
    let daemon = Daemon::start(&["--listen", "udp://127.0.0.1:0?max-datagram=100"]);
    assert!(daemon.targets()[0].ends_with("?max-datagram=100"));
    let to = client(daemon.address());
    assert_eq!(ask(&to, &[1; 100]), [1; 100]);
    for size in [101, 1_000, LONGEST] {
        to.send(&vec![2; size]).expect("sending");
    }
    assert!(hears_nothing_before(&to, b"x"));
    until_sent(&daemon, 2);
    assert_eq!(counter(&daemon, "truncated"), 3);
    daemon.finish();
}

/// Ports of services that would reply in turn, for ever.
#[test]
fn a_port_of_a_service_gets_no_reply() {
    let daemon = Daemon::start(&["--listen", "udp://0.0.0.0:0"]);
    let port = daemon.address().port();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let from = |ip: [u8; 4], port: u16| UdpSocket::bind((Ipv4Addr::from(ip), port));
    let own = from([127, 0, 0, 9], port);
    assert!(own.is_err(), "the daemon has the port at every address");
    let mut refused = 0;
    // Below 1024 only with a privilege. An address that nothing else uses.
    for source in [7, 19, 53, 123, 1023, 2049].map(|port| from([127, 0, 0, 77], port)) {
        let Ok(source) = source else { continue };
        refused += 1;
        source.send_to(b"to a service", to).expect("sending");
        eventually("it is counted", || counter(&daemon, "refused") == refused);
        source.set_nonblocking(true).expect("setting an option");
        assert!(source.recv(&mut [0; 100]).is_err(), "it got a reply");
    }
    if refused < 6 {
        skip("the ports below 1024 need a privilege");
    }
    assert_eq!(ask(&client(to), b"hello"), b"hello");
    until_sent(&daemon, 1);
    daemon.finish();
    // Two daemons at the same port of two addresses.
    let first = Daemon::start(&["--listen", "udp://127.0.0.1:0"]);
    let port = first.address().port();
    let own = from([127, 0, 0, 77], port).expect("binding");
    own.send_to(b"to my own kind", first.address()).expect("sending");
    eventually("it is counted", || counter(&first, "refused") == 1);
    first.finish();
}

#[test]
fn a_datagram_to_many_gets_no_reply() {
    let daemon = Daemon::start(&["--listen", "udp://0.0.0.0:0"]);
    let port = daemon.address().port();
    let sender = UdpSocket::bind("127.0.0.1:0").expect("binding");
    sender.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    sender.set_broadcast(true).expect("setting an option");
    sender.send_to(b"to all", ("127.255.255.255", port)).expect("sending");
    // The loopback interface loops it back twice.
    eventually("it is counted", || counter(&daemon, "refused") >= 1);
    let before = counter(&daemon, "refused");
    // The kernel passes on what is for a group that any socket of the machine has joined.
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let member = UdpSocket::bind("0.0.0.0:0").expect("binding");
    member.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).expect("joining");
    sender.send_to(b"to a group", (group, port)).expect("sending");
    eventually("it is counted", || counter(&daemon, "refused") > before);
    sender.send_to(b"to one", ("127.0.0.1", port)).expect("sending");
    let mut buffer = [0; 100];
    let count = sender.recv(&mut buffer).expect("a reply");
    assert_eq!(&buffer[..count], b"to one", "nothing else came before");
    daemon.finish();
}

/// What the kernel drops is counted when the next datagram comes: exactly what was sent and did not
/// arrive.
#[test]
fn what_a_full_queue_drops_is_counted() {
    let daemon = Daemon::start(&["--listen", "discard+udp://127.0.0.1:0", "--workers", "1"]);
    let to = client(daemon.address());
    // What is dropped before its thread has begun is not counted.
    to.send(b"x").expect("sending");
    eventually("its thread has begun", || daemon.stats()["datagrams_received"] == 1);
    daemon.stop();
    const SENT: u64 = 500;
    // More than the receive buffer that the daemon asks for.
    (0..SENT).for_each(|_| send(&to, &[3; LONGEST]));
    daemon.signal(Signal::CONT);
    let mut more = 1;
    eventually("each is received or dropped", || {
        to.send(b"x").expect("sending");
        more += 1;
        std::thread::sleep(Duration::from_millis(20));
        let stats = daemon.stats();
        let (received, dropped) = (stats["datagrams_received"], stats["datagrams_dropped"]);
        dropped > 0 && received + dropped == SENT + more
    });
    daemon.finish();
}

/// A system allows at least these sizes to everybody.
#[test]
fn the_receive_buffer_has_room_for_what_comes_while_the_thread_does_not_run() {
    for (size, drops) in [("16Ki", true), ("192Ki", false)] {
        let url = format!("discard+udp://127.0.0.1:0?receive-buffer={size}");
        let daemon = Daemon::start(&["--listen", &url, "--workers", "1"]);
        let to = client(daemon.address());
        to.send(b"x").expect("sending");
        eventually("its thread has begun", || daemon.stats()["datagrams_received"] == 1);
        daemon.stop();
        const SENT: u64 = 20;
        (0..SENT).for_each(|_| send(&to, &[3; 8_000]));
        daemon.signal(Signal::CONT);
        let (mut more, mut dropped) = (1, 0);
        eventually("each is received or dropped", || {
            to.send(b"x").expect("sending");
            more += 1;
            std::thread::sleep(Duration::from_millis(20));
            let stats = daemon.stats();
            dropped = stats["datagrams_dropped"];
            stats["datagrams_received"] + dropped == SENT + more
        });
        assert_eq!(dropped > 0, drops, "{size}: {dropped} dropped");
        daemon.finish();
    }
}

#[test]
fn a_source_gets_its_rate_and_others_theirs() {
    let url = "udp://127.0.0.1:0?source-rate=10/s";
    let daemon = Daemon::start(&["--listen", url, "--workers", "2"]);
    let flood = client(daemon.address());
    const SENT: u64 = 2_000;
    (0..SENT).for_each(|_| send(&flood, b"flood"));
    eventually("all are received", || counter(&daemon, "received") == SENT);
    let limited = counter(&daemon, "limited");
    assert!((SENT / 2..SENT).contains(&limited), "{limited} limited");
    until_sent(&daemon, SENT - limited);
    let other = UdpSocket::bind("127.0.0.55:0").expect("binding");
    other.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    other.connect(daemon.address()).expect("connecting");
    assert_eq!(ask(&other, b"hello"), b"hello");
    daemon.finish();
}

#[test]
fn several_workers_share_the_sources_and_the_metrics_tell() {
    let flags = ["--listen", "udp://127.0.0.1:0", "--workers", "2", "--admin", "127.0.0.1:0"];
    let daemon = Daemon::start(&flags);
    let clients: Vec<UdpSocket> = (0..64).map(|_| client(daemon.address())).collect();
    for (number, one) in clients.iter().enumerate() {
        for at in 0..10 {
            let text = format!("{number} {at}");
            assert_eq!(ask(one, text.as_bytes()), text.as_bytes());
        }
    }
    until_sent(&daemon, 640);
    let (_, page) = get(&daemon, "/metrics");
    let of = |name: &str, labels: &str| metric(&page, name, labels);
    assert_eq!(of("echopool_datagrams_received_total", ""), 640.0);
    assert_eq!(of("echopool_datagrams_sent_total", ""), 640.0);
    for worker in ["worker=\"0\"", "worker=\"1\""] {
        let part = of("echopool_datagrams_received_total", worker);
        assert!((1.0..640.0).contains(&part), "{worker} has {part}");
    }
    let bytes = of("echopool_received_bytes_total", "");
    assert_eq!(bytes, of("echopool_sent_bytes_total", ""));
    let part = of("echopool_memory_bytes", "part=\"datagrams\"");
    assert!(part > 2.0 * 64.0 * 65_527.0, "{part} bytes");
    let (_, listeners) = get(&daemon, "/api/v1/listeners");
    assert!(listeners.contains(&daemon.targets()[0]), "{listeners}");
    daemon.finish();
}

/// The others are still being drained when the port is free.
#[test]
fn a_drain_ends_datagrams_at_once_and_connections_in_order() {
    let flags = ["--listen", "udp://127.0.0.1:0", "--listen", "127.0.0.1:0", "--linger", "600s"];
    let mut daemon = Daemon::start(&[&flags[..], &["--drain-timeout", "60s"]].concat());
    let [udp, tcp] = *daemon.addresses() else { panic!("two addresses") };
    let mut stream = Client::connect(tcp);
    stream.ping(100);
    let to = client(udp);
    assert_eq!(ask(&to, b"hello"), b"hello");
    daemon.signal(Signal::TERM);
    stream.expect_fin();
    eventually("the port is free", || UdpSocket::bind(udp).is_ok());
    assert!(daemon.try_wait().is_none(), "the connection is still open");
    drop(stream);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    let end = daemon.lines_with("ended, ").pop().expect("the last line");
    assert!(end.contains(" datagrams_received=1 datagrams_sent=1 "), "{end}");
}

#[test]
fn a_port_belongs_to_one_daemon_unless_both_share_it() {
    let first = Daemon::start(&["--listen", "udp://127.0.0.1:0", "--workers", "2"]);
    let url = format!("udp://{}", first.address());
    let (code, _, stderr) = run_to_end("true", &["--listen", &url]);
    assert_eq!(code, FAILED, "{stderr}");
    assert!(stderr.contains(&format!("{url}: the address is in use")), "{stderr}");
    first.finish();
    // The same number over TCP is another port.
    let both = || {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp.local_addr().expect("its address");
        UdpSocket::bind(address).ok().map(|_| (tcp, address))
    };
    let (_tcp, address) = (0..100).find_map(|_| both()).expect("a number that is free for both");
    Daemon::start(&["--listen", &format!("udp://{address}")]).finish();
    let first = Daemon::start(&["--listen", "udp://127.0.0.1:0", "--share-port"]);
    let second =
        Daemon::start(&["--listen", &format!("udp://{}", first.address()), "--share-port"]);
    assert_eq!(first.address(), second.address());
    second.finish();
    first.finish();
}

#[test]
fn what_datagrams_cannot_do_is_refused_with_the_reason() {
    for (flags, reason) in [
        (
            &["--listen", "framed+udp://:7801"][..],
            "framed needs a stream, and udp carries datagrams",
        ),
        (&["--listen", "hub+udp://:7801"], "only echo, discard, chargen, stamp run over it"),
        (&["--listen", "udp+tls://:7801"], "TLS runs over tcp and unix, and not over udp"),
        (&["--listen", "udp://:7801?proxy=require"], "'proxy' is not an option"),
        (&["--listen", "udp://:7801?max-datagram=65528"], "must be from 1 to 65527"),
        (&["--listen", "udp://:7801?source-rate=0/s"], "a rate from 1/s to 1000000/s"),
        (&["--listen", "udp://:7801?source-rate=5"], "a rate from 1/s to 1000000/s"),
        (&["--listen", "udp://:7801", "--listen", "udp://127.0.0.1:7801"], "is given twice"),
        (&["--listen", "udp://0.0.0.0:7801", "--listen", "udp://127.0.0.1:7801"], "takes its"),
    ] {
        let (code, stdout, stderr) = run_to_end("true", flags);
        assert_eq!((code, &stdout[..]), (USAGE, ""), "{flags:?}: {stderr}");
        assert!(stderr.contains(reason), "{flags:?}: {stderr}");
    }
    // A flag for the proxies of connections is none of the datagrams beside them.
    let both = ["--listen", "udp://127.0.0.1:0", "--listen", "127.0.0.1:0", "--proxy", "require"];
    let daemon = Daemon::start(&both);
    assert_eq!(ask(&client(daemon.address()), b"hello"), b"hello");
    daemon.finish();
    let check = ["--check", "--listen", "udp://:7801", "--workers", "2", "--max-datagram", "1k"];
    let (code, stdout, stderr) = run_to_end("true", &check);
    assert_eq!(code, Some(0), "{stderr}");
    let threads = if have_ipv6() { "4 threads: stacks" } else { "2 threads: stacks" };
    assert!(stdout.contains("  datagrams   ") && stdout.contains(threads), "{stdout}");
}

/// Datagrams, and errors that others send about them, wake it; otherwise it sleeps.
#[test]
fn a_client_that_has_gone_costs_nothing() {
    let daemon = Daemon::start(&["--listen", "udp://127.0.0.1:0"]);
    for _ in 0..100 {
        // Its reply finds no socket, and ICMP says so.
        client(daemon.address()).send(b"and away").expect("sending");
    }
    let to = client(daemon.address());
    assert_eq!(ask(&to, b"hello"), b"hello");
    eventually("all are received", || counter(&daemon, "received") == 101);
    eventually("it sleeps", || daemon.is_asleep());
    let before = daemon.cpu_ticks();
    std::thread::sleep(Duration::from_millis(300));
    assert!(daemon.cpu_ticks() <= before + 2, "it spins");
    // A system may allow less for the receive buffer, which is said at start.
    let warned = daemon.lines_with("WARN").into_iter().filter(|line| !line.contains("rmem_max"));
    assert_eq!(warned.count(), 0, "{}", daemon.tail());
    daemon.finish();
}
