//! Clients of Unix sockets.

use std::os::unix::net::UnixListener;

use socket2::{Domain, SockAddr, Socket, Type};

use super::*;
use crate::builtin::FramedOptions;
use crate::endpoint::{Endpoint, UnixAddress};

/// A name that no other test uses.
fn name() -> UnixAddress {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, SeqCst);
    format!("@echopool-client-{}-{number}", std::process::id()).parse().unwrap()
}

fn serve_echo(at: &UnixAddress) -> ServerHandle {
    let config = Config::new().listen(Endpoint::Unix(*at)).workers(2);
    Server::start(config.max_connections(100), Echo).unwrap()
}

/// A listening socket that holds this many connections for accept.
fn listener(at: &UnixAddress, backlog: i32) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(at.sun_path()).unwrap()).unwrap();
    socket.listen(backlog).unwrap();
    socket
}

#[test]
fn requests_and_messages_come_back() {
    let at = name();
    let _server = serve_echo(&at);
    let clients = start();
    let client = clients.client(&format!("unix://{at}"), Options::new()).unwrap();
    assert_eq!(done(client.connect(GUARD)).unwrap(), Endpoint::Unix(at));
    for len in [1, 0, 255, 16 << 10, 3 << 20] {
        let request = pattern(len);
        assert!(done(client.send_receive(request.clone(), GUARD)).unwrap() == request, "{len}");
    }
    let mut blocking = Blocking::connect(&format!("unix://{at}")).unwrap();
    assert_eq!(blocking.address(), &Endpoint::Unix(at));
    assert_eq!(blocking.send_receive(b"Hello World", GUARD).unwrap(), b"Hello World");

    let at = name();
    let config = Config::new().listen(format!("unix://{at}")).workers(1).buffers(200);
    let _server = Server::start(config.max_connections(10), FramedOptions::default()).unwrap();
    let framed = connected(&clients, &format!("framed+unix://{at}"), Options::new());
    assert_eq!(done(framed.send_receive(b"a message".to_vec(), GUARD)).unwrap(), b"a message");
}

#[test]
fn a_client_reconnects_to_the_next_server_at_the_same_place() {
    let at = name();
    let clients = start();
    let often = Reconnect::between(Duration::from_millis(1), Duration::from_millis(5));
    let options = Options::new().reconnect(often);
    let client = clients.client(&format!("unix://{at}"), options).unwrap();
    let connect = client.connect(GUARD);
    let server = serve_echo(&at);
    done(connect).unwrap();
    assert_eq!(done(client.send_receive(b"one".to_vec(), GUARD)).unwrap(), b"one");
    drop(server);
    let _server = serve_echo(&at);
    let again = || done(client.send_receive(b"two".to_vec(), GUARD));
    let begun = Instant::now();
    while again().map_or(true, |reply| reply != b"two") {
        assert!(begun.elapsed() < GUARD);
    }
}

#[test]
fn where_no_server_listens_the_error_has_the_remedy() {
    let clients = start();
    let path = std::env::temp_dir().join(format!("echopool-none-{}", std::process::id()));
    let target = format!("unix://{}", path.display());
    let refused = || {
        let client = clients.client(&target, Options::new()).unwrap();
        done(client.connect(GUARD)).unwrap_err().to_string()
    };
    let text = refused();
    assert!(text.contains("no such file") && text.contains("check the path"), "{text}");
    drop(UnixListener::bind(&path).unwrap());
    let text = refused();
    std::fs::remove_file(&path).unwrap();
    assert!(text.contains("refused") && text.contains("start the server"), "{text}");
    let error = clients.client(&format!("unix:///{}", "x".repeat(108)), Options::new());
    assert!(error.unwrap_err().to_string().contains("at most 107"));
}

#[test]
fn a_connect_waits_for_room_in_the_backlog() {
    let at = name();
    let server = listener(&at, 0);
    let clients = start();
    let client = || clients.client(&format!("unix://{at}"), Options::new()).unwrap();
    let first = client();
    done(first.connect(GUARD)).unwrap();
    let (second, third) = (client(), client());
    let text = done(second.connect(EXPIRES)).unwrap_err().to_string();
    assert!(text.contains("no reply in time") && text.contains("backlog is full"), "{text}");
    let waiting = third.connect(GUARD);
    let _accepted = server.accept().unwrap();
    done(waiting).unwrap();
}
