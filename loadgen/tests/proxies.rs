//! Real proxies between the load generator and a server: HAProxy, nginx, socat and ncat. Every byte
//! is verified, and the server must take its clients for those that the proxy says, or for the
//! proxy where it says nothing. Over TLS, they are also the peers of the load generator that are not
//! ours.
//!
//! A test whose proxy is not installed is skipped, unless CI is set.

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use common::tls::Certificates;
use common::{have, loadgen, own_port, until};
use echopool::endpoint::Peer;
use echopool::service::{Answer, Connection, Service};
use echopool::{CloseReason, Config, Server, ServerHandle};

/// The address that the load generator connects from. The proxies connect from 127.0.0.1.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

/// A directory for sockets and configurations that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!("loadgen-proxies-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        Directory(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let file = self.file(name);
        // HAProxy takes a file without a last line end for one that was cut off.
        std::fs::write(&file, format!("{}\n", text.trim_end())).expect("a file");
        file
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A proxy. It is killed at the end, with its children.
struct Proxy(Child);

impl Proxy {
    /// Starts a program, and waits until it listens at all of these addresses.
    fn start(program: &str, arguments: &[&str], listens: &[SocketAddr]) -> Proxy {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let mut proxy = Proxy(command.spawn().expect("the proxy starts"));
        for address in listens {
            until("the proxy listens", || {
                let ended = proxy.0.try_wait().expect("it is our child");
                assert!(ended.is_none(), "{program} ended: {ended:?}");
                listening(*address)
            });
        }
        proxy
    }
}

/// Whether a socket listens at this address. Does not connect: that would be a client.
fn listening(address: SocketAddr) -> Option<()> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
    let port = format!(":{:04X} 00000000:0000 0A", address.port());
    table.contains(&port).then_some(())
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Ports of 127.0.0.1 that nothing else gets.
fn own_ports<const N: usize>() -> [SocketAddr; N] {
    [(); N].map(|()| SocketAddr::from(([127, 0, 0, 1], own_port())))
}

/// Echoes, and records the peers of its connections.
#[derive(Clone, Default)]
struct Recording(Arc<Mutex<BTreeSet<String>>>);

impl Service for Recording {
    type Session = ();

    fn open(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
        let peer = match connection.peer() {
            Peer::Tcp(address) => address.ip().to_string(),
            other => other.to_string(),
        };
        self.0.lock().expect("no panic").insert(peer);
        Answer::Continue
    }

    fn data(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
        connection.output.append(connection.input);
        Answer::Continue
    }
}

/// A server, and the peers that it has seen.
struct Served {
    server: ServerHandle,
    recording: Recording,
}

impl Served {
    fn at(listen: &str) -> Served {
        let recording = Recording::default();
        let service = recording.clone();
        let config = Config::new().listen(listen).workers(2).max_connections(1_000);
        let server = Server::start(config, move || service.clone()).expect("a server");
        Served { server, recording }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_endpoints()[0].socket_addr().expect("a TCP address")
    }

    fn has_seen(&self, peer: &str) -> bool {
        self.recording.0.lock().expect("no panic").contains(peer)
    }

    /// Pretends to have seen this peer, which may or may not have connected.
    fn ignore(&self, peer: &str) {
        self.recording.0.lock().expect("no panic").insert(peer.to_owned());
    }

    /// Takes what was recorded, and checks that no connection began with a wrong header.
    #[track_caller]
    fn saw(&self, peers: &[String]) {
        let seen = std::mem::take(&mut *self.recording.0.lock().expect("no panic"));
        assert_eq!(seen, peers.iter().cloned().collect::<BTreeSet<_>>());
        let total = self.server.stats().total();
        assert_eq!(total.closed(CloseReason::ProxyHeader), 0, "{total:?}");
    }
}

/// A run in which every connection is served and every byte is right.
#[track_caller]
fn run(target: &str, connections: u32, flags: &str) {
    let flags = format!("{target} -c {connections} -n 1000 -l uniform:1-20k -p 3 {flags}");
    let json = loadgen(&format!("{flags} --output-format json")).expect(0).json();
    let served = &json["connections"];
    assert_eq!((&served["served"], &served["lost"]), (&connections.into(), &0.into()), "{flags}");
    assert_eq!(json["mismatched_connections"], 0, "{flags}");
}

/// As [`run`], from [`CLIENT`].
#[track_caller]
fn run_from_client(target: SocketAddr) {
    run(&target.to_string(), 50, &format!("--source-ip {CLIENT}"));
}

/// The clients that the load generator pretends to be.
fn pretended(count: u32) -> Vec<String> {
    (1..=count).map(|nth| format!("198.18.0.{nth}")).collect()
}

fn proxy_itself() -> Vec<String> {
    vec!["127.0.0.1".to_owned()]
}

#[test]
fn haproxy_names_the_client_in_both_versions() {
    if !have("haproxy") {
        return;
    }
    let directory = Directory::new();
    let socket = directory.file("echo.sock");
    let required = Served::at("127.0.0.1:0?proxy=require");
    let plain = Served::at("127.0.0.1:0");
    let unix = Served::at(&format!("unix://{socket}?proxy=require"));
    let (server, without) = (required.address(), plain.address());
    let [v1, v2, more, through, to_unix, chained] = own_ports();
    let config = format!(
        "global
            maxconn 2000
        defaults
            mode tcp
            timeout connect 10s
            timeout client 60s
            timeout server 60s
        listen v1
            bind {v1}
            server s {server} send-proxy
        listen v2
            bind {v2}
            server s {server} send-proxy-v2 check check-send-proxy inter 50ms
        listen more
            bind {more}
            unique-id-format id-%{{+X}}o%ci_%cp
            server s {server} send-proxy-v2 proxy-v2-options crc32c,unique-id
        listen through
            bind {through}
            server s {without}
        listen to_unix
            bind {to_unix}
            server s unix@{socket} send-proxy-v2
        listen chained
            bind {chained} accept-proxy
            server s {server} send-proxy-v2
        "
    );
    let config = directory.write("haproxy.cfg", &config);
    let all = [v1, v2, more, through, to_unix, chained];
    let _haproxy = Proxy::start("haproxy", &["-q", "-db", "-f", &config], &all);
    // Its own health checks come from itself (LOCAL).
    until("a health check", || required.has_seen("127.0.0.1").then_some(()));
    let client_and_checks = [proxy_itself(), vec![CLIENT.to_string()]].concat();
    for entry in [v1, v2, more] {
        run_from_client(entry);
        // There may have been no check meanwhile.
        required.ignore("127.0.0.1");
        required.saw(&client_and_checks);
    }
    run_from_client(through);
    plain.saw(&proxy_itself());
    run_from_client(to_unix);
    unix.saw(&[CLIENT.to_string()]);
    for version in ["v1", "v2"] {
        run(&chained.to_string(), 50, &format!("--proxy-protocol {version}"));
        required.ignore("127.0.0.1");
        required.saw(&[pretended(50), proxy_itself()].concat());
    }
}

/// Starts nginx with these servers of streams.
fn start_nginx(directory: &Directory, servers: &str, listens: &[SocketAddr]) -> Proxy {
    const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
    // Debian builds it as a module, others into the program.
    let module = match Path::new(MODULE).exists() {
        true => format!("load_module {MODULE};"),
        false => String::new(),
    };
    let config = format!(
        "{module}
        daemon off;
        master_process off;
        error_log stderr warn;
        pid {pid};
        events {{ worker_connections 1000; }}
        stream {{ {servers} }}
        ",
        pid = directory.file("nginx.pid"),
    );
    let config = directory.write("nginx.conf", &config);
    Proxy::start("nginx", &["-c", &config], listens)
}

#[test]
fn nginx_names_the_client() {
    if !have("nginx") {
        return;
    }
    let directory = Directory::new();
    let socket = directory.file("echo.sock");
    let required = Served::at("127.0.0.1:0?proxy=require");
    let optional = Served::at("127.0.0.1:0?proxy=optional");
    let unix = Served::at(&format!("unix://{socket}?proxy=require"));
    let (server, maybe) = (required.address(), optional.address());
    let [v1, through, to_unix] = own_ports();
    let servers = format!(
        "server {{ listen {v1}; proxy_pass {server}; proxy_protocol on; }}
        server {{ listen {through}; proxy_pass {maybe}; }}
        server {{ listen {to_unix}; proxy_pass unix:{socket}; proxy_protocol on; }}"
    );
    let _nginx = start_nginx(&directory, &servers, &[v1, through, to_unix]);
    run_from_client(v1);
    required.saw(&[CLIENT.to_string()]);
    run_from_client(through);
    optional.saw(&proxy_itself());
    run_from_client(to_unix);
    unix.saw(&[CLIENT.to_string()]);
}

#[test]
fn socat_relays_every_byte_between_tcp_and_unix_sockets() {
    if !have("socat") {
        return;
    }
    let directory = Directory::new();
    let (backend, front) = (directory.file("echo.sock"), directory.file("front.sock"));
    let optional = Served::at("127.0.0.1:0?proxy=optional");
    let unix = Served::at(&format!("unix://{backend}?proxy=require"));
    let [to_tcp, to_unix] = own_ports();
    let listen =
        |at: SocketAddr| format!("TCP-LISTEN:{},bind=127.0.0.1,fork,backlog=100", at.port());
    let server = format!("TCP:{}", optional.address());
    let _a = Proxy::start("socat", &[&listen(to_tcp), &server], &[to_tcp]);
    run_from_client(to_tcp);
    optional.saw(&proxy_itself());
    // The header of the load generator passes through it.
    run(&to_tcp.to_string(), 20, "--proxy-protocol v2");
    optional.saw(&pretended(20));
    let _b = Proxy::start("socat", &[&listen(to_unix), &format!("UNIX:{backend}")], &[to_unix]);
    run(&to_unix.to_string(), 20, "--proxy-protocol v1");
    unix.saw(&pretended(20));
    let listen = format!("UNIX-LISTEN:{front},fork,backlog=100");
    let _c = Proxy::start("socat", &[&listen, &server], &[]);
    until("socat listens", || UnixStream::connect(&front).ok());
    run(&format!("unix://{front}"), 20, "--proxy-protocol v2");
    // The look whether it listens was a connection too, of socat itself.
    optional.ignore("127.0.0.1");
    optional.saw(&[pretended(20), proxy_itself()].concat());
}

#[test]
fn ncat_relays_every_byte() {
    if !have("ncat") {
        return;
    }
    let optional = Served::at("127.0.0.1:0?proxy=optional");
    let [entry] = own_ports();
    let relay = format!("ncat 127.0.0.1 {}", optional.address().port());
    let port = entry.port().to_string();
    let arguments = ["-4", "-l", "-k", "-m", "100", "127.0.0.1", &port, "--sh-exec", &relay];
    let _ncat = Proxy::start("ncat", &arguments, &[entry]);
    run(&entry.to_string(), 10, "");
    optional.saw(&proxy_itself());
    run(&entry.to_string(), 10, "--proxy-protocol v1");
    optional.saw(&pretended(10));
}

/// Runs over TLS, with either version, that resume sessions, and with connections that are replaced.
#[track_caller]
fn run_over_tls(entry: SocketAddr, certificates: &Certificates, connections: u32) {
    let url = format!("tls://{entry}?{}", certificates.ca());
    for version in ["1.2", "1.3"] {
        run(&format!("{url}&tls-max={version}"), connections, "");
        let flags = format!("{url}&tls-max={version} -c 1 -n 20 --lifetime 1");
        let json = loadgen(&format!("{flags} --output-format json")).expect(0).json();
        let tls = &json["tls"];
        assert_eq!(tls["sessions"][0]["version"], version, "{tls}");
        assert!(tls["handshakes_full"].as_u64() >= Some(1), "{tls}");
    }
}

#[test]
fn haproxy_ends_tls_in_front_of_a_plain_server() {
    if !have("haproxy") {
        return;
    }
    let (directory, certificates) = (Directory::new(), Certificates::new());
    let plain = Served::at("127.0.0.1:0");
    let [entry, mutual] = own_ports();
    let read = |name| std::fs::read_to_string(certificates.file(name)).expect("a file");
    let pair = directory.write("pair.pem", &(read("cert.pem") + &read("key.pem")));
    certificates.certify("client.pem", "client.key", &["client"]);
    let config = format!(
        "global
            maxconn 2000
        defaults
            mode tcp
            timeout connect 10s
            timeout client 60s
            timeout server 60s
        listen entry
            bind {entry} ssl crt {pair} ssl-min-ver TLSv1.2
            server s {server}
        listen mutual
            bind {mutual} ssl crt {pair} ca-file {ca} verify required
            server s {server}
        ",
        server = plain.address(),
        ca = certificates.file("client.pem"),
    );
    let config = directory.write("haproxy.cfg", &config);
    let _haproxy = Proxy::start("haproxy", &["-q", "-db", "-f", &config], &[entry, mutual]);
    run_over_tls(entry, &certificates, 50);
    let url = format!("tls://{entry}?{}", certificates.ca());
    let flags = "-c 1 -n 20 --lifetime 1 --output-format json";
    let tls = &loadgen(&format!("{url} {flags}")).expect(0).json()["tls"];
    assert!(tls["handshakes_resumed"].as_u64() >= Some(15), "{tls}");
    let (cert, key) = (certificates.file("client.pem"), certificates.file("client.key"));
    run(&format!("tls://{mutual}?{}&cert={cert}&key={key}", certificates.ca()), 20, "");
    let refused = format!("tls://{mutual}?{}&tls-max=1.2 -c 2 -d 1s", certificates.ca());
    loadgen(&refused).expect(1).complains("the server has rejected the TLS handshake");
}

#[test]
fn socat_echoes_over_tls() {
    if !have("socat") {
        return;
    }
    let certificates = Certificates::new();
    let [entry] = own_ports();
    let (cert, key) = (certificates.file("cert.pem"), certificates.file("key.pem"));
    let listen = format!(
        "OPENSSL-LISTEN:{},bind=127.0.0.1,fork,backlog=100,cert={cert},key={key},verify=0",
        entry.port()
    );
    let _socat = Proxy::start("socat", &[&listen, "EXEC:cat"], &[entry]);
    run_over_tls(entry, &certificates, 10);
}

#[test]
fn ncat_echoes_over_tls() {
    if !have("ncat") {
        return;
    }
    let certificates = Certificates::new();
    let [entry] = own_ports();
    let port = entry.port().to_string();
    let (cert, key) = (certificates.file("cert.pem"), certificates.file("key.pem"));
    let pair = ["--ssl", "--ssl-cert", &cert, "--ssl-key", &key];
    let arguments = ["-4", "-l", "-k", "-m", "100", "127.0.0.1", &port, "--exec", "/bin/cat"];
    let _ncat = Proxy::start("ncat", &[&pair[..], &arguments].concat(), &[entry]);
    run_over_tls(entry, &certificates, 10);
}

/// Its stdin and stdout are one pipe, so it echoes. It serves one connection after the other.
#[test]
fn openssl_echoes_over_tls() {
    if !have("openssl") {
        return;
    }
    let (directory, certificates) = (Directory::new(), Certificates::new());
    let [entry] = own_ports();
    let server = format!(
        "mkfifo {pipe} && exec openssl s_server -quiet -accept {entry} -cert {cert} -key {key} \
         <>{pipe} >&0",
        pipe = directory.file("pipe"),
        cert = certificates.file("cert.pem"),
        key = certificates.file("key.pem"),
    );
    let _openssl = Proxy::start("sh", &["-c", &server], &[entry]);
    run_over_tls(entry, &certificates, 1);
}

/// nginx in front of a plain server, with the protocol of the application that the client asks for.
#[test]
fn nginx_ends_tls_in_front_of_a_plain_server() {
    if !have("nginx") {
        return;
    }
    let (directory, certificates) = (Directory::new(), Certificates::new());
    let plain = Served::at("127.0.0.1:0");
    let [entry] = own_ports();
    let server = format!(
        "server {{
            listen {entry} ssl; proxy_pass {server};
            ssl_certificate {cert}; ssl_certificate_key {key}; ssl_alpn echo;
            ssl_protocols TLSv1.2 TLSv1.3;
        }}",
        server = plain.address(),
        cert = certificates.file("cert.pem"),
        key = certificates.file("key.pem"),
    );
    let _nginx = start_nginx(&directory, &server, &[entry]);
    run_over_tls(entry, &certificates, 50);
    let url = |alpn| format!("tls://{entry}?{}&alpn={alpn}", certificates.ca());
    run(&url("other,echo"), 5, "");
    plain.saw(&proxy_itself());
    let refused = format!("{} -c 2 -d 1s", url("other"));
    loadgen(&refused).expect(1).complains("the server has rejected the TLS handshake");
}
