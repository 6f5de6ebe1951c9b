//! Clients in other languages, from `peers/`: C# with `SocketAsyncEventArgs`, as the original's own
//! client was, and Java with Netty. Each verifies every byte. And a TLS server that is not ours.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::connect::{check, connect, pipe};
use crate::harness::{Daemon, eventually, have, own_port, run_with_input, skip};
use crate::tls::Directory;

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/blackbox/peers").join(name)
}

/// Runs a client with host, port and service as its last arguments, over each service.
fn over_each_service(client: &dyn Fn() -> Command) {
    let services = [("echo", "127.0.0.1:0"), ("framed", "framed://127.0.0.1:0?max-frame=2m")];
    for (service, listen) in services.into_iter().chain([("message", "message://127.0.0.1:0")]) {
        let daemon = Daemon::start(&["--listen", listen, "--show", "0", "--workers", "2"]);
        let (host, port) = (daemon.address().ip().to_string(), daemon.address().port().to_string());
        let output = run_with_input(client().args([&host, &port, service]), b"");
        assert_eq!(String::from_utf8_lossy(&output), "done\n", "{service}");
        eventually("every buffer is released", || {
            daemon.stat("buffers_held") == 0 && daemon.stat("connections") == 0
        });
        daemon.finish();
    }
}

#[test]
fn clients_in_c_sharp_with_socket_async_event_args() {
    if !have("mcs") || !have("mono") {
        return;
    }
    let directory = Directory::empty();
    let program = directory.file("Clients.exe");
    let mut compiler = Command::new("mcs");
    let compiled = compiler.arg(format!("-out:{program}")).arg(source("Clients.cs")).status();
    assert!(compiled.expect("running mcs").success());
    over_each_service(&|| {
        let mut command = Command::new("mono");
        command.arg(&program);
        command
    });
}

/// The jars of Netty that the clients need, as Debian's libnetty-java has them.
fn netty() -> Option<String> {
    let jar = |part| format!("/usr/share/java/netty-{part}.jar");
    let jars = ["common", "buffer", "transport", "resolver", "codec"].map(jar);
    if let Some(missing) = jars.iter().find(|jar| !Path::new(jar).exists()) {
        skip(&format!("{missing} is not installed"));
        return None;
    }
    Some(jars.join(":"))
}

#[test]
fn clients_in_java_with_netty() {
    if !have("java") || !have("javac") {
        return;
    }
    let Some(jars) = netty() else { return };
    let directory = Directory::empty();
    let classes = directory.file("classes");
    let mut compiler = Command::new("javac");
    compiler.args(["-encoding", "UTF-8", "-cp", &jars, "-d", &classes]);
    let compiled = compiler.arg(source("Clients.java")).status();
    assert!(compiled.expect("running javac").success());
    let class_path = format!("{jars}:{classes}");
    over_each_service(&|| {
        let mut command = Command::new("java");
        command.args(["-cp", &class_path, "Clients"]);
        command
    });
}

/// `openssl s_server`, which writes what clients send to its stdout, and sends them its stdin. Both
/// are one pipe here, so it echoes as much as fits into a pipe. Dropping this kills it.
struct OpensslEcho {
    child: Child,
    address: SocketAddr,
}

impl OpensslEcho {
    fn start(directory: &Directory, version: &str) -> OpensslEcho {
        let (cert, key) = (directory.file("cert.pem"), directory.file("key.pem"));
        let address = SocketAddr::from(([127, 0, 0, 1], own_port()));
        let (stdin, stdout) = std::io::pipe().expect("a pipe");
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-accept", &address.to_string(), version]);
        command.args(["-cert", &cert, "-key", &key, "-alpn", "echo"]);
        let child = command.stdin(stdin).stdout(stdout).spawn().expect("starting openssl");
        let server = OpensslEcho { child, address };
        // Does not connect: that would be a client.
        let socket = format!(":{:04X} 00000000:0000 0A", address.port());
        let table = || std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
        eventually("openssl listens", || table().contains(&socket));
        server
    }
}

impl Drop for OpensslEcho {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn connect_verifies_an_openssl_server_and_gets_its_bytes_back() {
    if !have("openssl") {
        return;
    }
    let directory = Directory::new();
    let ca = directory.file("cert.pem");
    let data: Vec<u8> = (0..15_000_u32).flat_map(|at| (at * 31).to_le_bytes()).collect();
    for version in ["-tls1_2", "-tls1_3"] {
        let server = OpensslEcho::start(&directory, version);
        let to = server.address;
        for data in [&data[..], b"again\n"] {
            let url = format!("tls://{to}?ca={ca}&sni=localhost&alpn=echo");
            let mut client = connect(&[&url]);
            let mut stdin = client.stdin.take().expect("stdin is piped");
            stdin.write_all(data).expect("writing");
            // The server has no half-close: it ends when the client does.
            let mut back = vec![0; data.len()];
            let stdout = client.stdout.as_mut().expect("stdout is piped");
            stdout.read_exact(&mut back).expect("reading");
            assert!(back == data, "{version}: other bytes came back");
            drop(stdin);
            check(&client.wait_with_output().expect("waiting for the client"), 0, b"", "");
        }
        // A certificate for another name, and one that is not trusted.
        for options in [format!("ca={ca}&sni=example.org"), "sni=localhost".to_owned()] {
            let url = format!("tls://{to}?{options}");
            check(&pipe(&[&url], b"hello\n"), 1, b"", "certificate");
        }
    }
}
