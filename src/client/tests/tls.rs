//! Clients over TLS.

use std::io::Read;
use std::net::{Shutdown, TcpStream};

use super::*;
use crate::builtin::FramedOptions;
use crate::service::HandshakeError;
use crate::tls::testing::Directory;

/// The files of a server, and the options of a client that trusts it.
struct Files {
    directory: Directory,
}

impl Files {
    fn new() -> Files {
        Files { directory: Directory::new() }
    }

    fn path(&self, name: &str) -> String {
        self.directory.0.join(name).display().to_string()
    }

    /// A listener with the first certificate, which is for localhost.
    fn listener(&self) -> String {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!("tls://127.0.0.1:0?cert={cert}&key={key}")
    }

    /// The target of a client that trusts it.
    fn target(&self, scheme: &str, port: u16) -> String {
        format!("{scheme}://127.0.0.1:{port}?ca={}&sni=localhost", self.path("cert.pem"))
    }
}

fn port(server: &ServerHandle) -> u16 {
    server.local_endpoints()[0].socket_addr().unwrap().port()
}

fn serve_echo(listener: &str) -> ServerHandle {
    Server::start(Config::new().listen(listener).workers(2).max_connections(100), Echo).unwrap()
}

/// Why a client cannot connect.
fn refused(clients: &ClientLoop, target: &str, options: Options) -> Error {
    let client = clients.client(target, options).unwrap();
    done(client.connect(GUARD)).unwrap_err().error
}

#[test]
fn requests_and_messages_come_back_beside_clients_without_tls() {
    let files = Files::new();
    let server = serve_echo(&files.listener());
    let plain = serve_echo("127.0.0.1:0");
    let clients = start();
    let target = files.target("tls", port(&server));
    for version in ["1.2", "1.3"] {
        let target = format!("{target}&tls-max={version}");
        let over_tls = connected(&clients, &target, Options::new());
        let without = connected(&clients, &plain.local_endpoints()[0].to_string(), Options::new());
        for len in [1, 0, 255, 16 << 10, 3 << 20] {
            let request = pattern(len);
            for client in [&over_tls, &without] {
                let reply = done(client.send_receive(request.clone(), GUARD)).unwrap();
                assert!(reply == request, "{len}, {version}");
            }
        }
    }
    let mut blocking = Blocking::connect(&target).unwrap();
    assert_eq!(blocking.send_receive(b"Hello World", GUARD).unwrap(), b"Hello World");
    blocking.disconnect().unwrap();

    let config = Config::new().listen(files.listener()).workers(1).buffers(200);
    let server = Server::start(config.max_connections(10), FramedOptions::default()).unwrap();
    let target = files.target("framed+tls", port(&server));
    let framed = connected(&clients, &target, Options::new());
    assert_eq!(done(framed.send_receive(b"a message".to_vec(), GUARD)).unwrap(), b"a message");
    done(framed.half_close()).unwrap();
    let end = done(framed.receive(Vec::new())).unwrap_err();
    assert_eq!(end.error, Error::ClosedByPeer, "close_notify in both directions");
}

#[test]
fn a_certificate_that_is_not_trusted_is_a_final_error_and_ends_reconnecting() {
    let files = Files::new();
    files.directory.certify("other.pem", "other.key", "other.test");
    let server = serve_echo(&files.listener());
    let clients = start();
    let port = port(&server);
    let often = Reconnect::between(Duration::from_millis(1), Duration::from_millis(5));
    let other = format!("tls://127.0.0.1:{port}?ca={}", files.path("other.pem"));
    let name = format!("{}&sni=other.test", files.target("tls", port).split('&').next().unwrap());
    for (target, expected, remedy) in [
        (other, HandshakeError::UnknownAuthority, "ca=FILE"),
        (name, HandshakeError::WrongName, "sni=NAME"),
    ] {
        let error = refused(&clients, &target, Options::new().reconnect(often));
        let Error::Handshake(attempts) = &error else { panic!("{error}") };
        assert!(attempts.iter().any(|one| one.handshake == Some(expected)), "{error}");
        assert!(error.is_final() && error.to_string().contains(remedy), "{error}");
    }
    let insecure = format!("tls://127.0.0.1:{port}?insecure=on");
    let client = connected(&clients, &insecure, Options::new());
    assert_eq!(done(client.send_receive(b"yes".to_vec(), GUARD)).unwrap(), b"yes");
}

#[test]
fn a_server_that_stops_in_the_handshake_is_given_up_in_time_and_may_be_tried_again() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let clients = start();
    let target = format!("tls://{}?insecure=on", silent.local_addr().unwrap());
    let client = clients.client(&target, Options::new()).unwrap();
    let begun = Instant::now();
    let error = done(client.connect(Duration::from_millis(300))).unwrap_err().error;
    assert!(begun.elapsed() < GUARD / 2 && begun.elapsed() >= Duration::from_millis(300));
    assert!(!error.is_final(), "{error}");
}

#[test]
fn what_is_not_tls_is_told() {
    let plain = serve_echo("127.0.0.1:0");
    let clients = start();
    let target = format!("tls://127.0.0.1:{}?insecure=on", port(&plain));
    let error = refused(&clients, &target, Options::new());
    assert!(error.is_final() && error.to_string().contains("does not speak TLS"), "{error}");
    for (query, part) in [
        ("ca=/no/such/file", "no such file"),
        ("client-ca=a.pem", "a client takes ca=FILE"),
        ("cert=a.pem", "needs key=FILE"),
    ] {
        let error = clients.client(&format!("tls://h:7?{query}"), Options::new()).map(drop);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Target(_)) && error.to_string().contains(part), "{error}");
    }
}

/// Passes on what a client sends, and of what its server sends this many bytes, then FIN.
fn cutting(server: u16, after: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", server)).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        assert_eq!(std::io::copy(&mut (&server).take(after), &mut client).unwrap(), after);
        let _ = client.shutdown(Shutdown::Write);
        // Until the client has closed.
        let _ = std::io::copy(&mut server, &mut std::io::sink());
    });
    port
}

#[test]
fn a_stream_that_is_cut_is_told_from_one_that_has_ended() {
    let files = Files::new();
    let server = serve_echo(&files.listener());
    let clients = start();
    let target = files.target("tls", cutting(port(&server), 5_000));
    let client = connected(&clients, &target, Options::new());
    let sent = client.send(pattern(10_000));
    let got = done(client.receive_to_end(Vec::new(), 20_000)).unwrap_err();
    assert_eq!(got.error, Error::TlsTruncated);
    assert!(got.buffer == pattern(10_000)[..got.buffer.len()]);
    let _ = done(sent);
}

#[test]
fn a_server_can_refuse_the_certificate_of_a_client() {
    let files = Files::new();
    files.directory.certify("client.pem", "client.key", "client");
    let listener = format!("{}&client-ca={}", files.listener(), files.path("client.pem"));
    let server = serve_echo(&listener);
    let clients = start();
    let target = files.target("tls", port(&server));
    let (cert, key) = (files.path("client.pem"), files.path("client.key"));
    let client = connected(&clients, &format!("{target}&cert={cert}&key={key}"), Options::new());
    assert_eq!(done(client.send_receive(b"yes".to_vec(), GUARD)).unwrap(), b"yes");
    let error = refused(&clients, &format!("{target}&tls-max=1.2"), Options::new());
    assert!(error.is_final() && error.to_string().contains("cert="), "{error}");
    // In TLS 1.3 the client learns of it after its own handshake.
    let client = connected(&clients, &target, Options::new());
    let error = done(client.receive(Vec::new())).unwrap_err().error;
    assert_eq!(error, Error::TlsAlert);
}

#[test]
fn a_client_reconnects_over_tls() {
    let files = Files::new();
    let server = serve_echo(&files.listener());
    let port = port(&server);
    let clients = start();
    let often = Reconnect::between(Duration::from_millis(1), Duration::from_millis(5));
    let target = files.target("tls", port);
    let client = connected(&clients, &target, Options::new().reconnect(often));
    assert_eq!(done(client.send_receive(b"one".to_vec(), GUARD)).unwrap(), b"one");
    drop(server);
    let _server = serve_echo(&files.listener().replace(":0?", &format!(":{port}?")));
    let again = || done(client.send_receive(b"two".to_vec(), GUARD));
    let begun = Instant::now();
    while again().map_or(true, |reply| reply != b"two") {
        assert!(begun.elapsed() < GUARD);
    }
}
