//! The PROXY protocol: connections that begin with a header, over TCP and Unix sockets, for every
//! service. The headers are written here by hand. Who the peer is then is read from the log.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::admin::{get, metric};
use crate::harness::{Client, Daemon, GUARD, Random, eventually, run_to_end};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0\0\x02\x01\xC6\x33\x64\x07\xDC\x04\x01\xBB";
const CLIENT: &str = "192.0.2.1:56324";
/// As V2, from 2001:db8::7, port 9, and with 300 bytes of what may follow.
fn v2_with_more() -> Vec<u8> {
    let mut addresses = vec![0; 36];
    addresses[..4].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
    (addresses[15], addresses[33]) = (7, 9);
    let fixed = [&V2[..12], &[0x21, 0x21, 1, 80]].concat();
    [&fixed[..], &addresses, &[4; 300]].concat()
}

fn start(options: &str, more: &[&str]) -> Daemon {
    let url = format!("127.0.0.1:0{options}");
    Daemon::start(&[&["--listen", &url, "--log", "debug", "--linger", "100ms"], more].concat())
}

fn connect(to: SocketAddr) -> TcpStream {
    let client = TcpStream::connect_timeout(&to, GUARD).expect("connecting");
    client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    client.set_nodelay(true).expect("setting TCP_NODELAY");
    client
}

/// Sends each piece by itself, and FIN. Returns everything received.
fn talk(mut client: TcpStream, pieces: &[&[u8]]) -> Vec<u8> {
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        if client.write_all(piece).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Write);
    let mut reply = Vec::new();
    if let Err(error) = client.read_to_end(&mut reply) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    reply
}

/// The bytes that the services received, and those that came from the network. Needs `--admin`.
fn received(daemon: &Daemon) -> (u64, u64) {
    let (_, page) = get(daemon, "/metrics");
    let bytes = |name| metric(&page, name, "") as u64;
    (bytes("echopool_received_bytes_total"), bytes("echopool_wire_received_bytes_total"))
}

/// Waits for a line of the log with all of these words, and counts such lines.
fn logged(daemon: &Daemon, words: &[&str]) -> usize {
    let count = || {
        let lines = daemon.lines_with(words[0]);
        lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    };
    eventually(&format!("a line with {words:?}"), || count() > 0);
    count()
}

#[test]
fn the_peer_is_the_one_in_the_header_whatever_pieces_it_comes_in() {
    let daemon = start("?proxy=require", &["--admin", "127.0.0.1:0"]);
    let more = v2_with_more();
    for (header, peer) in [(V1, CLIENT), (V2, CLIENT), (&more[..], "[2001:db8::7]:9")] {
        for cut in [0, 1, 5, header.len() / 2, header.len() - 1, header.len()] {
            let bytes = [header, b"hello"].concat();
            let reply = talk(connect(daemon.address()), &[&bytes[..cut], &bytes[cut..]]);
            assert_eq!(reply, b"hello", "{cut}");
        }
        let pieces: Vec<&[u8]> = header.chunks(1).chain([&b"hello"[..]]).collect();
        assert_eq!(talk(connect(daemon.address()), &pieces), b"hello");
        let peer = format!("peer={peer} ");
        eventually("all are closed", || {
            let lines = daemon.lines_with(" disconnect id=");
            let of_peer = lines.iter().filter(|line| line.contains(&peer));
            of_peer.filter(|line| line.contains("in=5 out=5 reason=peer-closed")).count() % 7 == 0
                && lines.iter().any(|line| line.contains(&peer))
        });
        logged(&daemon, &[" connect id=", &peer]);
    }
    assert!(!daemon.log().contains("peer=127.0.0.1"), "{}", daemon.log());
    let headers = 7 * (V1.len() + V2.len() + more.len()) as u64;
    assert_eq!(received(&daemon), (21 * 5, 21 * 5 + headers));
    daemon.finish();
}

#[test]
fn a_wrong_header_and_one_from_elsewhere_are_closed_for_it() {
    let daemon = start("?proxy=require&proxy-from=127.0.0.1,10.0.0.0/8", &[]);
    let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    let wrong: [&[u8]; 6] = [
        b"hello",
        b"PROXY TCP4 1.2.3.4 x 1 2\r\n",
        &long,
        &V2[..27],
        &V1[..44],
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
    ];
    for bytes in wrong {
        assert_eq!(talk(connect(daemon.address()), &[bytes]), b"");
    }
    // A balancer that only looks whether the server is there does nothing wrong.
    assert_eq!(talk(connect(daemon.address()), &[]), b"");
    let mut elsewhere =
        Client::connect_from(IpAddr::from([127, 0, 0, 2]), daemon.address()).expect("connecting");
    elsewhere.expect_fin();
    drop(elsewhere);
    eventually("all are closed", || daemon.lines_with(" disconnect id=").len() == 8);
    assert_eq!(daemon.lines_with("reason=proxy-header").len(), 7, "{}", daemon.log());
    assert_eq!(daemon.lines_with("reason=peer-closed").len(), 1, "{}", daemon.log());
    assert_eq!(talk(connect(daemon.address()), &[V1, b"hello"]), b"hello");
    daemon.finish();
}

#[test]
fn without_a_header_the_bytes_are_the_services_where_one_is_optional() {
    let daemon = start("?proxy=optional", &[]);
    for bytes in
        [&b"hello"[..], b"PROXY", b"PROXY TCP4 1.2.3.4 x 1 2\r\n", &V2[..20], &V1[..44], b"\r"]
    {
        for cut in [0, 1, bytes.len() / 2] {
            let client = connect(daemon.address());
            let peer = format!("peer={} ", client.local_addr().expect("an address"));
            assert_eq!(talk(client, &[&bytes[..cut], &bytes[cut..]]), bytes);
            logged(&daemon, &["reason=peer-closed", &peer]);
        }
    }
    assert_eq!(talk(connect(daemon.address()), &[V2, V1]), V1);
    logged(&daemon, &["reason=peer-closed", &format!("peer={CLIENT} ")]);
    daemon.finish();
}

/// A client that only listens, or has sent what may begin a header, is opened when the time for
/// headers is over; one that is not from a proxy at once.
#[test]
fn a_silent_client_is_opened_late_where_a_header_is_optional() {
    let daemon =
        start("?proxy=optional&proxy-from=127.0.0.1", &["--listen", "127.0.0.1:0?proxy=require"]);
    let begun = Instant::now();
    let mut silent = connect(daemon.address());
    let mut undecided = connect(daemon.address());
    undecided.write_all(b"PROX").expect("sending");
    let mut late = connect(daemon.addresses()[1]);
    let direct = Client::connect_from(IpAddr::from([127, 0, 0, 2]), daemon.address());
    logged(&daemon, &[" connect id=", "peer=127.0.0.2:"]);
    assert_eq!(daemon.lines_with(" connect id=").len(), 1, "{}", daemon.log());
    let mut reply = [0; 4];
    undecided.read_exact(&mut reply).expect("an echo");
    assert_eq!(&reply, b"PROX");
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
    let peer = format!("peer={} ", silent.local_addr().expect("an address"));
    logged(&daemon, &[" connect id=", &peer]);
    silent.write_all(b"PROX").expect("sending");
    silent.read_exact(&mut reply).expect("an echo");
    assert_eq!(late.read(&mut reply).expect("FIN"), 0);
    logged(&daemon, &[" disconnect id=", "reason=proxy-header"]);
    drop((direct, silent, undecided, late));
    daemon.finish();
}

/// What was read before a drain is echoed, even if it looked like a header so far.
#[test]
fn a_drain_does_not_lose_bytes_that_looked_like_a_header() {
    let mut daemon = start("?proxy=optional", &["--admin", "127.0.0.1:0"]);
    let mut client = connect(daemon.address());
    client.write_all(b"PROXY TC").expect("sending");
    eventually("it is read", || received(&daemon) == (0, 8));
    daemon.signal(Signal::TERM);
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).expect("all of it");
    assert_eq!(reply, b"PROXY TC");
    drop(client);
    assert!(daemon.wait().success());
}

#[test]
fn the_connections_of_an_address_are_those_of_the_client_in_the_header() {
    let more = ["--max-connections-per-address", "2", "--workers", "2"];
    let daemon = start("?proxy=require", &more);
    let from = |ip: &str| {
        let mut client = connect(daemon.address());
        client.write_all(format!("PROXY TCP4 {ip} 1.2.3.4 5 6\r\nhi").as_bytes()).expect("sending");
        client
    };
    let served = |client: &mut TcpStream| {
        let mut reply = [0; 2];
        client.read_exact(&mut reply).is_ok_and(|()| &reply == b"hi")
    };
    // All of them come from one address, that of the proxy.
    let mut clients: Vec<_> =
        ["1.1.1.1", "1.1.1.1", "2.2.2.2", "2.2.2.2", "3.3.3.3"].map(from).into();
    assert!(clients.iter_mut().all(served));
    assert!(!served(&mut from("1.1.1.1")));
    assert!(!served(&mut from("2.2.2.2")));
    logged(&daemon, &["reason=address-limit", "peer=1.1.1.1:5"]);
    logged(&daemon, &["reason=address-limit", "peer=2.2.2.2:5"]);
    logged(&daemon, &["WARN", "refused a connection of 1.1.1.1:5"]);
    assert!(served(&mut from("3.3.3.3")));
    drop(clients.remove(0));
    eventually("a place is free", || served(&mut from("1.1.1.1")));
    drop(clients);
    daemon.finish();
}

#[test]
fn a_unix_socket_has_headers_too() {
    let path = std::env::temp_dir().join(format!("echopool-proxy-{}.sock", std::process::id()));
    let url = format!("unix://{}?proxy=require", path.display());
    let daemon = Daemon::start(&["--listen", &url, "--log", "debug"]);
    assert_eq!(daemon.targets(), [url]);
    let mut client = UnixStream::connect(&path).expect("connecting");
    client.write_all(&[V2, b"hello"].concat()).expect("sending");
    let mut reply = [0; 5];
    client.read_exact(&mut reply).expect("an echo");
    logged(&daemon, &[" connect id=", &format!("peer={CLIENT} ")]);
    // The proxy itself, and a client of a Unix socket: the peer of the socket.
    let local = [&V2[..12], b"\x20\0\0\0hello"].concat();
    let mut check = UnixStream::connect(&path).expect("connecting");
    check.write_all(&local).expect("sending");
    check.read_exact(&mut reply).expect("an echo");
    logged(&daemon, &[" connect id=", &format!("peer=pid:{},", std::process::id())]);
    drop((client, check));
    daemon.finish();
}

#[test]
fn every_service_has_clients_behind_a_proxy() {
    let frame = b"\x05\0\0\0hello";
    let services: [(&str, &[u8], &[u8]); 6] = [
        ("echo", b"hello", b"hello"),
        ("discard", b"hello", b""),
        ("framed", frame, frame),
        ("message", b"hello<EOF>", b"hello<EOF>"),
        ("delay", b"hello", b"hello"),
        ("chargen", b"", b" !\"#$%&'()"),
    ];
    for (service, sent, expected) in services {
        let url = format!("{service}://127.0.0.1:0?proxy=require");
        let daemon = Daemon::start(&["--listen", &url, "--log", "debug"]);
        let mut client = connect(daemon.address());
        client.write_all(&[V1, sent].concat()).expect("sending");
        let mut reply = vec![0; expected.len()];
        client.read_exact(&mut reply).expect("a reply");
        assert_eq!(reply, expected, "{service}");
        logged(&daemon, &[" connect id=", &format!("peer={CLIENT} ")]);
        drop(client);
        daemon.finish();
    }
    // Two members of a hub: the one that joined first is told of the other.
    let daemon = Daemon::start(&["--listen", "hub://127.0.0.1:0?proxy=require", "--log", "debug"]);
    let mut members = [V1, V2].map(|header| {
        let mut member = connect(daemon.address());
        member.write_all(header).expect("sending");
        let mut welcome = [0; 4];
        member.read_exact(&mut welcome).expect("a frame");
        member
    });
    let of_client = format!("peer={CLIENT} ");
    eventually("both are members", || logged(&daemon, &[" connect id=", &of_client]) == 2);
    assert!(members[0].read(&mut [0; 64]).expect("a frame") > 0);
    drop(members);
    daemon.finish();
}

/// 1,000 clients that stop in the header, with fewer buffers than that, beside an honest one.
#[test]
fn clients_that_stop_in_the_header_do_not_keep_an_honest_one_waiting() {
    let more = ["--buffers", "64", "--workers", "1", "--shed-after", "20ms"];
    let daemon = start("?proxy=require", &more);
    let mut random = Random::new(7);
    let mut honest = connect(daemon.address());
    honest.write_all(V2).expect("sending");
    let mut stopped = Vec::new();
    for number in 0..1_000 {
        let header = if number % 2 == 0 { V1 } else { V2 };
        let mut client = connect(daemon.address());
        let part = &header[..random.below(header.len() as u64 - 1) as usize + 1];
        // It may have been shed already.
        let _ = client.write_all(part);
        stopped.push(client);
        if number % 50 == 0 {
            let mut reply = [0; 5];
            honest.write_all(b"hello").expect("sending");
            honest.read_exact(&mut reply).expect("an echo");
            assert_eq!(&reply, b"hello");
        }
    }
    eventually("the last of them has a buffer or is served", || {
        let closed = daemon.lines_with(" disconnect id=");
        closed.iter().filter(|line| line.contains("reason=shed")).count() >= 900
    });
    drop((stopped, honest));
    daemon.finish();
}

#[test]
fn garbage_is_closed_and_changes_nothing_for_others() {
    let daemon = start("?proxy=require", &["--listen", "127.0.0.1:0?proxy=optional"]);
    let (mut random, seed) = Random::from_environment();
    for number in 0..200 {
        let count = random.below(400) as usize + 1;
        let mut bytes: Vec<u8> = (0..count).map(|_| random.number() as u8).collect();
        // Half of them begin like a header.
        if number % 2 == 0 {
            let header = if number % 4 == 0 { V1 } else { V2 };
            let begin = random.below(header.len() as u64 - 1) as usize;
            bytes.splice(0..0, header[..begin].iter().copied());
        }
        let optional = talk(connect(daemon.addresses()[1]), &[&bytes]);
        let required = talk(connect(daemon.address()), &[&bytes]);
        assert!(bytes.ends_with(&optional), "seed {seed}, {number}");
        // Some of them are a header, and both listeners find the same behind it, or that it is cut.
        let is_header = optional.len() < bytes.len();
        let expected = if is_header { &optional[..] } else { &[] };
        assert_eq!(required, expected, "seed {seed}, {number}");
    }
    assert_eq!(talk(connect(daemon.address()), &[V1, b"hello"]), b"hello");
    daemon.finish();
}

#[test]
fn options_that_make_no_sense_are_refused_with_the_remedy() {
    for (url, part) in [
        ("7?proxy=yes", "must be off or optional or require"),
        ("7?proxy-from=10.0.0.0/8", "proxy-from needs proxy=require or proxy=optional"),
        ("7?proxy=require&proxy-from=lan", "'lan' is not an address or a network"),
        ("unix:///tmp/e?proxy=require&proxy-from=1.2.3.4/40", "'1.2.3.4/40' is not an address"),
    ] {
        let (code, _, stderr) = run_to_end("true", &["--listen", url]);
        assert_eq!(code, Some(2), "{url}: {stderr}");
        assert!(stderr.contains(part), "{url}: {stderr}");
    }
}
