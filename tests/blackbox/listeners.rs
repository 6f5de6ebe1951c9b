//! Listeners that a reload adds to a running daemon, and those that it removes.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::admin::{connect, get, metric};
use crate::config::ConfigFile;
use crate::control::{authorized, start, start_under};
use crate::harness::{Client, Daemon, Fleet, NO_SANDBOX, eventually, have, own_port, skip};
use crate::startup::WITHOUT_IPV6;

/// An address that nothing else uses.
pub fn fresh() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let own = [127, 128 | high << 5 | middle >> 3, middle << 5 | low >> 3, number as u8];
    SocketAddr::from((own, 7000 + u16::from(low & 7)))
}

/// A line of the configuration file.
pub fn listen(urls: &[&str]) -> String {
    format!("listen = ['{}']\n", urls.join("', '"))
}

/// The number, the target, whether it accepts and the clients of each listener.
fn listeners(daemon: &Daemon) -> Vec<(u64, String, bool, u64)> {
    let page: Value =
        serde_json::from_str(&get(daemon, "/api/v1/listeners").1).expect("it is JSON");
    let row = |one: &Value| {
        let target = one["target"].as_str()?.to_owned();
        let accepting = one["accepting"].as_bool()?;
        Some((one["listener"].as_u64()?, target, accepting, one["connections"].as_u64()?))
    };
    let rows = page["listeners"].as_array().expect("a list");
    rows.iter().map(|one| row(one).unwrap_or_else(|| panic!("{one}"))).collect()
}

fn targets(daemon: &Daemon) -> Vec<String> {
    listeners(daemon).into_iter().map(|(_, target, ..)| target).collect()
}

fn is_refused(at: SocketAddr) -> bool {
    TcpStream::connect(at).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// A daemon whose file has these listeners, two workers and an admin address.
fn start_with(urls: &[&str]) -> (ConfigFile, Daemon) {
    let file = ConfigFile::new(&listen(urls));
    let daemon = start(&["--config", file.path(), "--workers", "2"]);
    (file, daemon)
}

#[test]
fn listeners_are_added_and_removed_under_load_and_nothing_is_lost() {
    const CLIENTS: usize = 100;
    let [first, second, third] = [(); 3].map(|()| fresh());
    let [a, b] = [first, second].map(|at| at.to_string());
    let c = format!("framed://{third}");
    let (file, mut daemon) = start_with(&[&a, &format!("framed://{}", fresh())]);
    let mut fleet = Fleet::connect(first, CLIENTS);
    let mut kept = Vec::new();
    let is_applied = |urls: &[&str]| {
        file.write(&listen(urls));
        let line = daemon.reload();
        assert!(line.starts_with("reloaded, ") && !line.contains("needs a restart"), "{line}");
    };
    // Several times in the same tables, so that numbers and places are used again.
    let mut reload = || {
        is_applied(&[&a, &b, &c]);
        let mut client = Client::connect(second);
        client.ping(1_000);
        kept.push(client);
        let mut framed = connect(third);
        framed.write_all(b"\x01\0\0\0x").expect("a frame");
        framed.read_exact(&mut [0; 5]).expect("the frame");
        is_applied(&[&a, &c]);
        assert!(is_refused(second));
        // Whoever was accepted goes on.
        kept.iter_mut().for_each(|client| client.ping(1_000));
    };
    thread::scope(|scope| {
        let reloads = scope.spawn(|| (0..10).for_each(|_| reload()));
        while !reloads.is_finished() {
            // Fails if a client was closed, or a byte is wrong.
            fleet.echo(20_000);
        }
    });
    // Also those of a listener of the start.
    file.write(&listen(&[&c]));
    daemon.reload();
    assert!(is_refused(first) && is_refused(second));
    assert_eq!(targets(&daemon), [c]);
    fleet.echo(20_000);
    kept.iter_mut().for_each(|client| client.ping(1_000));
    assert_eq!(daemon.listeners_on(first.port()), if first.port() == third.port() { 2 } else { 0 });
    let (_, clients) = get(&daemon, "/api/v1/clients?limit=1000");
    assert_eq!(clients.matches(&format!("\"endpoint\":\"tcp://{first}\"")).count(), CLIENTS);
    drop((fleet, kept));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    daemon.wait_lines(1, "ended, every connection finished: ");
}

#[test]
fn an_address_that_cannot_be_bound_changes_nothing() {
    let [first, second] = [(); 2].map(|()| fresh());
    let [a, b] = [first, second].map(|at| at.to_string());
    let (file, daemon) = start_with(&[&a]);
    let mut client = Client::connect(first);
    client.ping(1_000);
    let (files, before) = (daemon.open_files(), get(&daemon, "/api/v1/config").1);
    let taken = TcpListener::bind(fresh()).expect("an address");
    let t = taken.local_addr().expect("its address").to_string();
    file.write(&format!("linger = '9s'\n{}", listen(&[&b, &t])));
    let line = daemon.reload();
    let expected =
        format!("nothing is changed: cannot listen on tcp://{t}: the address is in use; stop the");
    assert!(line.starts_with(&expected), "{line}");
    assert_eq!(targets(&daemon), [format!("tcp://{a}")]);
    assert!(is_refused(second), "it was bound, and is closed again");
    let after = get(&daemon, "/api/v1/config").1;
    assert_eq!(after, before.replace("reload_successful\":true", "reload_successful\":false"));
    assert_eq!(get(&daemon, "/readyz").0, 200);
    eventually("no socket is left", || daemon.open_files() <= files);
    client.ping(1_000);
    Client::connect(first).ping(100);
    // A name that is not found is wrong as well.
    file.write(&listen(&[&a, "[fe80::1%no-such]:7"]));
    assert!(daemon.reload().starts_with("nothing is changed: "));
    drop(taken);
    file.write(&format!("linger = '9s'\n{}", listen(&[&b, &t])));
    let line = daemon.reload();
    let expected = format!("reloaded, generation=2: listen {a} -> {b} {t}, linger 2s -> 9s");
    assert_eq!(line, expected);
    assert!(is_refused(first));
    client.ping(1_000);
    Client::connect(second).ping(100);
    daemon.finish();
}

#[test]
fn a_port_without_the_right_to_it_is_refused_with_the_remedy() {
    let limit = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first: u16 = limit.map_or(1024, |text| text.trim().parse().expect("a number"));
    if first == 0 {
        return skip("every port can be bound here");
    }
    // Root has the right unless it is taken away.
    let shell = match rustix::process::geteuid().is_root() {
        true => "exec setpriv --bounding-set -net_bind_service \"$0\" \"$@\"",
        false => "true",
    };
    let file = ConfigFile::new(&listen(&["127.0.0.1:0"]));
    let daemon = Daemon::start_under(shell, &["--config", file.path()]);
    file.write(&listen(&["127.0.0.1:0", "127.0.0.1:7"]));
    let line = daemon.reload();
    assert!(line.contains("nothing is changed: cannot listen on tcp://127.0.0.1:7: bind: "));
    assert!(line.contains("echopool ctl upgrade") && line.contains("fd:NAME"), "{line}");
    // Of another machine (RFC 5737), which no right helps with.
    file.write(&listen(&["127.0.0.1:0", "192.0.2.1:7"]));
    let line = daemon.reload();
    assert!(line.contains("nothing is changed: cannot listen on tcp://192.0.2.1:7: bind: "));
    assert!(!line.contains("fd:NAME"), "{line}");
    daemon.finish();
}

#[test]
fn what_needs_an_upgrade_is_named_and_the_rest_is_applied() {
    let [first, second] = [(); 2].map(|()| fresh());
    let (a, framed, udp) =
        (first.to_string(), format!("framed://{second}"), format!("udp://{}", fresh()));
    let (file, daemon) = start_with(&[&a, &framed, &udp]);
    let at = fresh();
    let certificates = crate::tls::Directory::new();
    let tls = format!(
        "tls://{at}?cert={}&key={}",
        certificates.file("cert.pem"),
        certificates.file("key.pem")
    );
    let own = |scheme: &str, more: &str| format!("{scheme}://{at}{more}");
    let changes = [
        (own("udp", ""), "has datagrams"),
        (tls, "has TLS"),
        (own("tcp", "?proxy=require"), "has PROXY headers"),
        (own("hub", ""), "has its own memory, which is allocated at start"),
        (own("framed", "?order=big"), "has a service or options that no listener had at start"),
        (own("discard", ""), "has a service or options that no listener had at start"),
        ("fd:name".to_owned(), "fd:name is a socket of the service manager"),
    ];
    let before = targets(&daemon);
    for (nth, (url, why)) in changes.iter().enumerate() {
        file.write(&format!("linger = '{nth}m'\n{}", listen(&[&a, &framed, &udp, url])));
        let line = daemon.reload();
        assert!(line.contains(&format!("-> {nth}m; needs a restart: listen ")), "{line}");
        assert!(line.contains(why) && line.contains("only an upgrade or a restart"), "{line}");
        assert_eq!(targets(&daemon), before);
    }
    let refusals = [
        // One that has to stay, one that is in the way of another, and an option of all listeners.
        (listen(&[&a, &framed]), format!("({udp} has datagrams: ")),
        (
            listen(&[&a, &format!("{framed}?order=big"), &udp]),
            format!("(framed://{second}?order=big has a service or options that no listener had"),
        ),
        (
            listen(&[&a, &format!("tcp://{second}"), &udp]),
            format!("(tcp://{second} is in use by a listener that the same reload removes: "),
        ),
        (
            format!("max-frame = '1k'\n{}", listen(&[&a, &framed, &udp, &at.to_string()])),
            "(max-frame has changed as well, and applies to all listeners: ".to_owned(),
        ),
    ];
    for (text, why) in refusals {
        file.write(&text);
        let line = daemon.reload();
        assert!(line.contains("needs a restart: ") && line.contains(&why), "{why} in {line}");
        assert_eq!(targets(&daemon), before);
    }
    // As many as there is room for, and one more.
    let mut all = vec![a, framed, udp];
    all.extend((0..8).map(|_| fresh().to_string()));
    let urls = |all: &[String]| listen(&all.iter().map(String::as_str).collect::<Vec<_>>());
    file.write(&urls(&all));
    assert!(!daemon.reload().contains("needs a restart"));
    assert_eq!(targets(&daemon).len(), 11);
    all.push(format!("framed://{}", fresh()));
    file.write(&urls(&all));
    let line = daemon.reload();
    let expected = "there are 12 listeners, and a daemon that was started with 3 has room for 8";
    assert!(line.contains(expected), "{line}");
    assert_eq!(targets(&daemon).len(), 11);
    daemon.finish();
}

/// `[::]` has the clients of IPv4 as well, unless `0.0.0.0` is beside it when it is bound.
#[test]
fn a_wildcard_of_one_family_is_neither_added_to_nor_taken_from_that_of_the_other() {
    let port = own_port();
    let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
    let why = format!("([::]:{port} receives IPv4 clients only without 0.0.0.0:{port}: ");
    for (start, then) in [
        (vec![&v4[..], &v6], vec![&v6[..]]),
        (vec![&v4[..], &v6], vec![&v4[..]]),
        (vec![&v4[..]], vec![&v4[..], &v6]),
        (vec![&v6[..]], vec![&v4[..], &v6]),
        (vec![&v6[..]], vec![&v4[..]]),
    ] {
        let (file, daemon) = start_with(&start);
        let before = targets(&daemon);
        file.write(&format!("linger = '3m'\n{}", listen(&then)));
        let line = daemon.reload();
        assert!(line.contains("-> 3m; needs a restart: listen ") && line.contains(&why), "{line}");
        assert_eq!(targets(&daemon), before);
    }
    // Both together come and go.
    let first = fresh().to_string();
    let (file, daemon) = start_with(&[&first]);
    for (urls, count) in [(vec![&first[..], &v4, &v6], 3), (vec![&first[..]], 1)] {
        file.write(&listen(&urls));
        assert!(!daemon.reload().contains("needs a restart"));
        assert_eq!(targets(&daemon).len(), count);
    }
}

#[test]
fn without_ipv6_a_reload_leaves_out_the_same_wildcard_as_a_start() {
    if !have("python3") {
        return;
    }
    let (first, port) = (fresh().to_string(), own_port());
    let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
    let file = ConfigFile::new(&listen(&[&first]));
    let flags = ["--config", file.path(), "--admin", "127.0.0.1:0"];
    let daemon = Daemon::start_under(WITHOUT_IPV6, &flags);
    for (linger, then) in [("1m", [&first[..], &v6, &v4]), ("2m", [&first[..], &v4, &v6])] {
        file.write(&format!("linger = '{linger}'\n{}", listen(&then)));
        let line = daemon.reload();
        assert!(line.starts_with("reloaded, ") && !line.contains("needs a restart"), "{line}");
        assert_eq!(targets(&daemon).len(), 2, "{:?}", targets(&daemon));
        Client::connect((Ipv4Addr::LOCALHOST, port).into()).ping(1_000);
    }
    let left_out = "no IPv6 on this machine: not listening on";
    assert_eq!(daemon.lines_with(left_out).len(), 1, "{}", daemon.log());
    // Alone it has the clients of IPv4, for which it is too late.
    file.write(&listen(&[&first, &v6]));
    let line = daemon.reload();
    assert!(line.contains(&format!("{v6} receives IPv4 clients only without {v4}")), "{line}");
    assert_eq!(targets(&daemon).len(), 2, "{:?}", targets(&daemon));
    file.write(&listen(&[&first]));
    assert!(!daemon.reload().contains("needs a restart"));
    assert!(is_refused((Ipv4Addr::LOCALHOST, port).into()));
    daemon.finish();
}

#[test]
fn the_certificate_of_a_listener_that_was_removed_is_not_read_any_more() {
    let certificates = crate::tls::Directory::new();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| certificates.file(name));
    let (a, tls) = (fresh().to_string(), format!("tls://{}?cert={cert}&key={key}", fresh()));
    let (file, daemon) = start_with(&[&a, &tls]);
    std::fs::remove_file(&cert).expect("removing a file");
    // As long as it listens, its certificate is missed.
    file.write(&format!("linger = '3m'\n{}", listen(&[&a, &tls])));
    daemon.reload();
    assert_eq!(daemon.lines_with("are unchanged").len(), 1);
    file.write(&format!("linger = '3m'\n{}", listen(&[&a])));
    assert!(daemon.reload().starts_with("reloaded, "));
    assert_eq!(daemon.lines_with("are unchanged").len(), 1, "it is gone");
}

#[test]
fn a_listener_that_comes_back_has_its_number_and_its_clients_and_accepts() {
    let [first, second] = [(); 2].map(|()| fresh());
    let (a, hub) = (first.to_string(), format!("hub://{second}"));
    let (file, daemon) = start_with(&[&a, &hub]);
    let mut member = connect(second);
    member.read_exact(&mut [0; 13]).expect("WELCOME");
    assert_eq!(authorized(&daemon, "/api/v1/listeners/1/stop", b"").0, 200);
    assert_eq!(get(&daemon, "/readyz").0, 503);
    file.write(&listen(&[&a]));
    daemon.reload();
    assert_eq!(get(&daemon, "/readyz").0, 200, "the one that was stopped is not there any more");
    assert_eq!(authorized(&daemon, "/api/v1/listeners/1/start", b"").0, 404);
    assert_eq!(authorized(&daemon, "/api/v1/message?listener=1", b"text").0, 404);
    assert!(is_refused(second));
    // Another echo is another listener.
    let other = fresh();
    file.write(&listen(&[&a, &hub, &other.to_string()]));
    daemon.reload();
    let row = |number, target: String, clients| (number, target, true, clients);
    assert_eq!(
        listeners(&daemon),
        [row(0, format!("tcp://{a}"), 0), row(1, hub, 1), row(2, format!("tcp://{other}"), 0)]
    );
    // The hub is the same one.
    let mut another = connect(second);
    another.read_exact(&mut [0; 13]).expect("WELCOME");
    let (status, reply) = authorized(&daemon, "/api/v1/message?listener=1", b"text");
    assert!(status == 200 && reply.contains("\"queued\":2"), "{reply}");
    // Its number is free for another one when it is closed and its clients have left.
    let mut client = Client::connect(other);
    client.ping(10);
    let third = fresh();
    file.write(&listen(&[&a, &third.to_string()]));
    daemon.reload();
    assert_eq!(listeners(&daemon)[1], row(3, format!("tcp://{third}"), 0));
    client.close();
    eventually("it has left", || !get(&daemon, "/api/v1/clients").1.contains("\"listener\":2"));
    let fourth = fresh();
    file.write(&listen(&[&a, &fourth.to_string(), &third.to_string()]));
    daemon.reload();
    let rows = listeners(&daemon);
    assert_eq!(
        rows[1..],
        [row(2, format!("tcp://{fourth}"), 0), row(3, format!("tcp://{third}"), 0)]
    );
    for at in [first, third, fourth] {
        Client::connect(at).ping(100);
    }
    drop((member, another));
    daemon.finish();
}

#[test]
fn a_unix_socket_is_added_with_its_file_and_removed_with_it() {
    let path: PathBuf = std::env::temp_dir().join(format!("echopool-l-{}", std::process::id()));
    let (at, unix) = (fresh(), format!("unix://{}?mode=600", path.display()));
    let file = ConfigFile::new(&listen(&[&at.to_string()]));
    let daemon = start_under(NO_SANDBOX, &["--config", file.path(), "--workers", "2"]);
    let mut clients: Vec<UnixStream> = Vec::new();
    for _ in 0..3 {
        file.write(&listen(&[&at.to_string(), &unix]));
        let line = daemon.reload();
        assert!(!line.contains("needs a restart"), "{line}");
        clients.push(UnixStream::connect(&path).expect("connecting"));
        for client in &mut clients {
            client.write_all(b"text").expect("sending");
            client.read_exact(&mut [0; 4]).expect("the echo");
        }
        file.write(&listen(&[&at.to_string()]));
        daemon.reload();
        assert!(!path.exists());
    }
    drop(clients);
    daemon.finish();
}

/// The daemon sleeps while they connect, so that all of them wait when it is told.
#[test]
fn clients_that_wait_at_a_listener_that_is_removed_are_served() {
    const CLIENTS: usize = 400;
    let [first, second] = [(); 2].map(|()| fresh());
    let [a, b] = [first, second].map(|at| at.to_string());
    let (file, daemon) = start_with(&[&a, &b]);
    file.write(&listen(&[&a]));
    daemon.signal(Signal::STOP);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(second)).collect();
    clients.iter_mut().for_each(|client| client.send(100));
    daemon.signal(Signal::HUP);
    daemon.signal(Signal::CONT);
    clients.iter_mut().for_each(|client| client.expect(100));
    eventually("it is removed", || targets(&daemon).len() == 1);
    clients.iter_mut().for_each(|client| client.ping(100));
    eventually("it is closed", || is_refused(second));
    let page = get(&daemon, "/metrics").1;
    let of = |worker: &str| metric(&page, "echopool_connections_unaccepted_total", worker);
    assert_eq!(of("worker=\"0\"") + of("worker=\"1\""), 0.0);
    drop(clients);
    daemon.finish();
}
