//! Tests of listening on real loopback sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::*;

const HANG: Duration = Duration::from_secs(60);

fn endpoints(addresses: &[&str]) -> Vec<ListenOn> {
    addresses.iter().map(|text| Endpoint::Tcp(text.parse().unwrap()).into()).collect()
}

fn bind_one(address: &str, workers: usize, share_port: bool) -> Result<Bound, StartError> {
    bind_all(&endpoints(&[address]), workers, 64, share_port).map(|mut all| all.remove(0))
}

#[test]
fn the_addresses_of_a_name_get_one_free_port() {
    let all = endpoints(&["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0", "127.0.0.1:0"]);
    let bound = bind_names(&all, &[3, 1], 2, 64, false).unwrap();
    let ports: Vec<u16> = bound.iter().map(port).collect();
    assert!(ports[0] != 0 && ports[1] == ports[0] && ports[2] == ports[0], "{ports:?}");
    assert_ne!(ports[3], ports[0], "another name");
}

fn port(bound: &Bound) -> u16 {
    bound.endpoint.socket_addr().unwrap().port()
}

fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        assert!(std::env::var_os("CI").is_none(), "would be skipped, but this is CI: no IPv6");
        eprintln!("skipped in part: no IPv6 on this machine");
    }
    has
}

/// Accepts the connection that waits at one of the sockets. Returns the socket's index too.
fn accept(bound: &Bound) -> (usize, Socket) {
    let begin = Instant::now();
    loop {
        for (number, socket) in bound.sockets.iter().enumerate() {
            match socket.accept() {
                Ok((accepted, _)) => return (number, accepted),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(begin.elapsed() < HANG, "no connection was accepted");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn port_0_is_the_same_port_for_all_workers() {
    let bound = bind_one("127.0.0.1:0", 3, false).unwrap();
    assert_eq!(bound.sockets.len(), 3);
    assert_ne!(port(&bound), 0);
    for socket in &bound.sockets {
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(Endpoint::Tcp(address), bound.endpoint);
    }
}

#[test]
fn connections_are_spread_over_all_workers() {
    let bound = bind_one("127.0.0.1:0", 2, false).unwrap();
    let address = bound.endpoint.socket_addr().unwrap();
    let mut seen = [0; 2];
    // The kernel hashes the client's port: the probability that all 64 go to one worker is 2 in
    // 2^64.
    let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
    for _ in &clients {
        seen[accept(&bound).0] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

#[test]
fn a_second_server_on_the_port_is_refused() {
    for workers in [1, 2] {
        let first = bind_one("127.0.0.1:0", workers, false).unwrap();
        let address = format!("127.0.0.1:{}", port(&first));
        match bind_one(&address, workers, false) {
            Err(StartError::AddressInUse(endpoint)) => assert_eq!(endpoint, first.endpoint),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn of_two_servers_that_start_at_the_same_moment_one_is_refused() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let one = First::bind(SocketKind::Tcp, any, &[any], false).unwrap();
    let address = one.address;
    let other =
        First::bind(SocketKind::Tcp, address, &[address], false).expect("no socket listens yet");
    let _one = one.listen(2, 64).unwrap();
    let refused = other.listen(2, 64);
    assert!(matches!(refused, Err(StartError::AddressInUse(_))), "{refused:?}");
}

#[test]
fn a_port_is_shared_when_that_is_asked_for() {
    let first = bind_one("127.0.0.1:0", 2, true).unwrap();
    let second = bind_one(&format!("127.0.0.1:{}", port(&first)), 2, true).unwrap();
    assert_eq!(first.endpoint, second.endpoint);
}

#[test]
fn a_port_that_is_not_shared_by_its_owner_is_not_had_by_asking() {
    // One worker: SO_REUSEPORT is never set on its socket.
    let first = bind_one("127.0.0.1:0", 1, false).unwrap();
    let second = bind_one(&format!("127.0.0.1:{}", port(&first)), 1, true);
    assert!(matches!(second, Err(StartError::AddressInUse(_))), "{second:?}");
}

#[test]
fn the_ipv6_wildcard_takes_ipv4_too() {
    if !has_ipv6() {
        return;
    }
    let bound = bind_one("[::]:0", 2, false).unwrap();
    for host in ["127.0.0.1", "[::1]"] {
        let client = TcpStream::connect(format!("{host}:{}", port(&bound))).unwrap();
        let (_, accepted) = accept(&bound);
        let peer = canonical(accepted.peer_addr().unwrap().as_socket().unwrap());
        assert_eq!(peer, client.local_addr().unwrap());
    }
}

#[test]
fn beside_the_ipv4_wildcard_the_ipv6_one_takes_only_ipv6() {
    if !has_ipv6() {
        return;
    }
    // A port that is probably free in both families.
    let both = bind_free_pair(|port| [format!("[::]:{port}"), format!("0.0.0.0:{port}")]);
    let [v6, v4] = &both[..] else { panic!("two endpoints") };
    assert!(v6.sockets.iter().all(|socket| socket.only_v6().unwrap()));
    assert!(v6.endpoint.to_string().starts_with("tcp://[::]:"), "in the order given");
    for (host, at, other) in [("127.0.0.1", v4, v6), ("[::1]", v6, v4)] {
        let _client = TcpStream::connect(format!("{host}:{}", port(at))).unwrap();
        accept(at);
        for socket in &other.sockets {
            assert_eq!(socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }
}

/// Binds two endpoints to a port that the system has just assigned and released. Another process
/// may take it first, so several ports are tried.
fn bind_free_pair(addresses: impl Fn(u16) -> [String; 2]) -> Vec<Bound> {
    for _ in 0..20 {
        let free = port(&bind_one("127.0.0.1:0", 1, false).unwrap());
        let [a, b] = addresses(free);
        match bind_all(&endpoints(&[&a, &b]), 2, 64, false) {
            Ok(bound) => return bound,
            Err(StartError::AddressInUse(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no port is free in both families");
}

#[test]
fn accepted_sockets_inherit_their_options() {
    let bound = bind_one("127.0.0.1:0", 2, false).unwrap();
    let _client = TcpStream::connect(bound.endpoint.socket_addr().unwrap()).unwrap();
    let (_, accepted) = accept(&bound);
    assert!(accepted.tcp_nodelay().unwrap());
    assert!(accepted.keepalive().unwrap());
    assert!(accepted.out_of_band_inline().unwrap());
    if cfg!(target_os = "linux") {
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
    }
}

#[test]
fn an_urgent_byte_stays_in_its_place() {
    let bound = bind_one("127.0.0.1:0", 1, false).unwrap();
    let mut client = TcpStream::connect(bound.endpoint.socket_addr().unwrap()).unwrap();
    client.write_all(b"ab").unwrap();
    SockRef::from(&client).send_out_of_band(b"!").unwrap();
    client.write_all(b"cd").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let (_, mut accepted) = accept(&bound);
    accepted.set_nonblocking(false).unwrap();
    accepted.set_read_timeout(Some(HANG)).unwrap();
    let mut received = Vec::new();
    accepted.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"ab!cd");
}

#[test]
fn an_address_of_another_machine_is_an_error_with_the_call() {
    // TEST-NET-1 of RFC 5737: no machine has this address.
    match bind_one("192.0.2.1:0", 1, false) {
        Err(StartError::Listen { call: "bind", error, .. }) => {
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_several_endpoints_the_one_in_use_is_named() {
    let taken = bind_one("127.0.0.1:0", 1, false).unwrap();
    let both = ["127.0.0.1:0", &format!("127.0.0.1:{}", port(&taken))];
    let result = bind_all(&endpoints(&both), 1, 64, false);
    assert!(matches!(result, Err(StartError::AddressInUse(e)) if e == taken.endpoint));
}

fn check_error(addresses: &[&str]) -> String {
    check(&endpoints(addresses)).expect_err("an error").to_string()
}

#[test]
fn what_cannot_go_together_is_found_before_anything_is_opened() {
    assert!(matches!(check(&[]), Err(StartError::NothingToListenOn)));
    for twice in [
        ["127.0.0.1:7", "127.0.0.1:7"],
        ["127.0.0.1:7", "[::ffff:127.0.0.1]:7"],
        ["[::]:7", "[::]:7"],
    ] {
        assert!(check_error(&twice).contains("given twice"), "{twice:?}");
    }
    for covered in [
        ["[::]:7", "127.0.0.1:7"],
        ["127.0.0.1:7", "[::]:7"],
        ["[::]:7", "[::1]:7"],
        ["0.0.0.0:7", "127.0.0.1:7"],
    ] {
        assert!(check_error(&covered).contains("takes its connections"), "{covered:?}");
    }
    let error = check_error(&["[::]:7", "0.0.0.0:7", "127.0.0.1:7"]);
    assert!(error.contains("tcp://0.0.0.0:7"), "the IPv6 endpoint is not the cause: {error}");
}

#[test]
fn what_can_go_together_is_let_through() {
    for together in [
        ["[::]:7", "0.0.0.0:7"],
        ["[::]:7", "127.0.0.1:8"],
        ["127.0.0.1:7", "[::1]:7"],
        ["0.0.0.0:7", "[::1]:7"],
        ["127.0.0.1:0", "127.0.0.1:0"],
        ["[::]:0", "127.0.0.1:0"],
    ] {
        assert!(check(&endpoints(&together)).is_ok(), "{together:?}");
    }
}

#[test]
fn a_port_that_is_not_free_at_each_address_is_tried_again_if_any_will_do() {
    let of_name = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    // How often it is tried, and whether that is successful in the end.
    let tried = |is_any_port, successful_after: usize, other_error: bool| {
        let mut tries = 0;
        let bound = with_some_port(is_any_port, || {
            tries += 1;
            match tries > successful_after {
                true => Ok(()),
                false if other_error => Err(StartError::NotASocket(of_name)),
                false => Err(StartError::AddressInUse(of_name)),
            }
        });
        (tries, bound.is_ok())
    };
    assert_eq!(tried(true, 0, false), (1, true));
    assert_eq!(tried(true, 3, false), (4, true));
    assert_eq!(tried(true, PORT_ATTEMPTS - 1, false), (PORT_ATTEMPTS, true));
    assert_eq!(tried(true, PORT_ATTEMPTS, false), (PORT_ATTEMPTS, false));
    assert_eq!(tried(false, 1, false), (1, false));
    assert_eq!(tried(true, 1, true), (1, false));
}

#[test]
fn no_ipv6_is_told_from_other_errors() {
    assert!(no_ipv6(&Errno::AFNOSUPPORT.into()));
    assert!(no_ipv6(&Errno::ADDRNOTAVAIL.into()));
    assert!(!no_ipv6(&Errno::ADDRINUSE.into()));
    assert!(!no_ipv6(&io::Error::other("text")));
}
