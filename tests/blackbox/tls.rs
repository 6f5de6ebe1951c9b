//! TLS: every service over it, clients that are not ours, whatever is cut, wrong or slow, and the
//! certificates from start to SIGHUP.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    Daemon, GUARD, alone, binary, eventually, have, lines, run_to_end, run_with_input,
};
use crate::systemd::passing;

const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);

/// A directory with certificates that is removed at the end.
pub struct Directory(PathBuf);

impl Directory {
    /// With a certificate and a key for localhost.
    pub fn new() -> Directory {
        let directory = Directory::empty();
        directory.certify("cert.pem", "key.pem");
        directory
    }

    pub fn empty() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echopool-certificates-{}-{number}", std::process::id());
        let directory = Directory(std::env::temp_dir().join(name));
        fs::create_dir(&directory.0).expect("creating a directory");
        directory
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Makes a certificate and its key.
    fn certify(&self, cert: &str, key: &str) {
        let (cert, key) = (self.file(cert), self.file(key));
        let output = Command::new(binary()).args(["cert", "--cert", &cert, "--key", &key]).output();
        let output = output.expect("running echopool cert");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The URL of a listener with the certificate.
    fn url(&self, scheme: &str, at: &str, more: &str) -> String {
        let (cert, key) = (self.file("cert.pem"), self.file("key.pem"));
        format!("{scheme}://{at}?{more}cert={cert}&key={key}")
    }

    fn daemon(&self, flags: &[&str]) -> Daemon {
        let url = self.url("tls", "127.0.0.1:0", "");
        Daemon::start(&[&["--listen", &url, "--log", "debug"], flags].concat())
    }

    /// Runs a Python program after [`CLIENT`], with these arguments and the file of the certificate.
    fn python(&self, program: &str, args: &[&str], input: &[u8]) -> String {
        let program = format!("{CLIENT}{program}");
        let mut command = Command::new("python3");
        command.args(["-c", &program, &self.file("cert.pem")]).args(args);
        String::from_utf8(run_with_input(&mut command, input)).expect("text")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The beginning of the Python programs. `connect` verifies the server. `talk` sends, ends its side
/// with close_notify, and returns what comes until the other side does.
const CLIENT: &str = r"
import os, socket, ssl, sys
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
ca, args = sys.argv[1], sys.argv[2:]
def context(version=None):
    made = ssl.create_default_context(cafile=ca)
    if version: made.minimum_version = made.maximum_version = version
    return made
def raw(address):
    unix = address.startswith('/')
    made = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    made.settimeout(60)
    made.connect(address if unix else ('127.0.0.1', int(address)))
    return made
def connect(address, version=None, made=None):
    made = made or context(version)
    return made.wrap_socket(raw(address), server_hostname='localhost', suppress_ragged_eofs=False)
class Half:
    'A connection whose sides end one after the other.'
    def __init__(self, address, version=None):
        self.socket, self.came, self.out = raw(address), ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context(version).wrap_bio(self.came, self.out, server_hostname='localhost')
        self.do(self.tls.do_handshake)
    def flush(self):
        if self.out.pending: self.socket.sendall(self.out.read())
    def do(self, step):
        while True:
            try:
                done = step()
                self.flush()
                return done
            except ssl.SSLWantReadError:
                self.flush()
                piece = self.socket.recv(65536)
                self.came.write(piece) if piece else self.came.write_eof()
    def send(self, data):
        self.do(lambda: self.tls.write(data))
    def end(self):
        try: self.tls.unwrap()
        except ssl.SSLWantReadError: pass
        self.flush()
    def receive(self):
        'Bytes, or nothing after close_notify.'
        try: return self.do(lambda: self.tls.read(65536))
        except ssl.SSLZeroReturnError: return b''
def talk(address, data, version=None):
    half = Half(address, version)
    half.send(data)
    half.end()
    got = b''
    while piece := half.receive(): got += piece
    assert half.socket.recv(1) == b'', 'no FIN behind close_notify'
    return got
def exactly(client, count):
    got = b''
    while len(got) < count:
        piece = client.recv(count - len(got))
        assert piece, 'the end'
        got += piece
    return got
def ping(client, data):
    client.sendall(data)
    assert exactly(client, len(data)) == data
";

/// Checks that an echo service with the certificate of the directory echoes.
pub fn assert_echoes(directory: &Directory, at: SocketAddr) {
    let echoes = "for size in 1, 1000, 40000: ping(connect(args[0]), os.urandom(size))";
    directory.python(echoes, &[&at.port().to_string()], b"");
}

fn port(daemon: &Daemon) -> String {
    daemon.address().port().to_string()
}

fn reasons(daemon: &Daemon) -> Vec<String> {
    let reason = |line: &String| {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix("reason="));
        word.unwrap_or_else(|| panic!("no reason= in {line:?}")).to_owned()
    };
    daemon.lines_with("disconnect id=").iter().map(reason).collect()
}

#[test]
fn every_service_runs_over_tls_as_its_ready_line_says() {
    if !have("python3") {
        return;
    }
    let directory = Directory::new();
    let services = ["", "framed+", "message+", "discard+", "chargen+", "delay+", "hub+"];
    let mut urls = Vec::new();
    for service in services {
        let more = if service == "hub+" { "notices=off&" } else { "" };
        urls.push(directory.url(&format!("{service}tls"), "127.0.0.1:0", more));
        let file = directory.file(&format!("{service}.sock"));
        urls.push(directory.url(&format!("{service}unix+tls"), &file, more));
    }
    let flags: Vec<&str> = urls.iter().flat_map(|url| ["--listen", url]).collect();
    let daemon = Daemon::start(&[&flags[..], &["--workers", "2"]].concat());
    let without_port = |url: &String| match url.split_once("127.0.0.1:") {
        Some((scheme, rest)) => format!("{scheme}{}", rest.split_once('?').expect("options").1),
        None => url.clone(),
    };
    let ready: Vec<_> = daemon.targets().iter().map(without_port).collect();
    assert_eq!(ready, urls.iter().map(without_port).collect::<Vec<_>>());
    let mut ports = daemon.addresses().iter();
    for service in services {
        let file = directory.file(&format!("{service}.sock"));
        let port = ports.next().expect("an address").port().to_string();
        for address in [port, file] {
            directory.python(
                r"
address, service = args
def check(got, wanted): assert got == wanted, (service, got[:100])
for version in V12, V13:
    if service == '':
        client = connect(address, version)
        for size in 1, 1000, 16384, 16385: ping(client, os.urandom(size))
        data = os.urandom(40000)
        check(talk(address, data, version), data)
    elif service == 'framed+':
        hello = b'\x05\0\0\0hello'
        check(talk(address, hello + b'\x09\0\0\0cut', version), hello)
    elif service == 'message+': check(talk(address, b'one<EOF>', version), b'one<EOF>')
    elif service == 'discard+': check(talk(address, bytes(100000), version), b'')
    elif service == 'delay+': check(talk(address, b'later', version), b'later')
    elif service == 'chargen+':
        line = exactly(connect(address, version), 74 * 1000)[:74]
        assert line.startswith(b' !\x22#$%') and line.endswith(b'abcdefg\r\n'), line
    elif service == 'hub+':
        member = connect(address, version)
        member.sendall(b'\x06\0\0\0\x03hello')
        welcome, message = exactly(member, 13), exactly(member, 4 + 1 + 1 + 8 + 5)
        assert (welcome[4], message[4], message[14:]) == (128, 130, b'hello'), (welcome, message)
",
                &[&address, service],
                b"",
            );
        }
    }
    daemon.finish();
}

#[test]
fn peers_that_are_not_ours_get_their_bytes_back() {
    let directory = Directory::new();
    let daemon = directory.daemon(&["--workers", "2"]);
    let data: Vec<u8> = (0..1_000_000_u32).map(|at| (at * 31 % 251) as u8).collect();
    let (ca, port) = (directory.file("cert.pem"), port(&daemon));
    let socat = format!("OPENSSL:127.0.0.1:{port},cafile={ca},commonname=localhost");
    let peers: [(&str, Vec<&str>); 3] = [
        ("socat", vec!["-t", "60", "-", &socat]),
        ("ncat", vec!["--ssl-verify", "--ssl-trustfile", &ca, "localhost", &port]),
        ("ncat", vec!["--ssl", "127.0.0.1", &port]),
    ];
    for (program, args) in peers {
        if have(program) {
            let got = run_with_input(Command::new(program).args(&args), &data);
            assert!(got == data, "{program}: {} bytes", got.len());
        }
    }
    if have("python3") {
        let program = r"
data = sys.stdin.buffer.read()
for version in V12, V13:
    half = Half(args[0], version)
    import threading
    got = b''
    for at in range(0, len(data), 100000):
        piece = data[at:at + 100000]
        half.send(piece)
        while len(got) < at + len(piece): got += half.receive()
    assert got == data
print('done')
";
        assert_eq!(directory.python(program, &[&port], &data), "done\n");
    }
    daemon.finish();
}

/// openssl with both versions, and with the ticket of an earlier session.
#[test]
fn openssl_verifies_the_server_and_resumes_its_session() {
    if !have("openssl") {
        return;
    }
    let directory = Directory::new();
    let daemon = directory.daemon(&[]);
    let (ca, session) = (directory.file("cert.pem"), directory.file("session"));
    let to = daemon.address().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        for (option, first_word) in [("-sess_out", "New, "), ("-sess_in", "Reused, ")] {
            let mut client = Command::new("openssl")
                .args(["s_client", "-connect", &to, "-servername", "localhost", version])
                .args(["-CAfile", &ca, "-verify_return_error", "-verify_hostname", "localhost"])
                .args([option, &session])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("starting openssl");
            let mut stdin = client.stdin.take().expect("stdin is piped");
            let mut stdout = client.stdout.take().expect("stdout is piped");
            stdin.write_all(b"hello, openssl\n").expect("typing");
            let (mut text, mut piece) = (String::new(), [0; 4096]);
            let begun = Instant::now();
            while !text.contains("hello, openssl") {
                assert!(begun.elapsed() < GUARD, "{text}");
                let count = stdout.read(&mut piece).expect("reading its output");
                assert_ne!(count, 0, "{version}: {text}");
                text += &String::from_utf8_lossy(&piece[..count]);
            }
            // At a line that begins with Q it ends, with close_notify.
            stdin.write_all(b"Q\n").expect("typing");
            assert!(client.wait().expect("waiting for openssl").success(), "{text}");
            assert!(text.contains(first_word), "{version}, {option}: {text}");
            assert!(text.contains("Verify return code: 0 (ok)"), "{version}, {option}: {text}");
        }
    }
    eventually("four connections are closed", || reasons(&daemon).len() == 4);
    assert_eq!(reasons(&daemon), ["peer-closed"; 4]);
    daemon.finish();
}

#[test]
fn a_client_that_has_ended_its_side_gets_what_it_is_owed() {
    if !have("python3") {
        return;
    }
    let directory = Directory::new();
    let url = directory.url("delay+tls", "127.0.0.1:0", "fixed=300ms&");
    let daemon = Daemon::start(&["--listen", &url, "--log", "debug"]);
    for version in ["V12", "V13"] {
        let program = format!("print(talk(args[0], b'in a while', {version}).decode())");
        assert_eq!(directory.python(&program, &[&port(&daemon)], b""), "in a while\n");
    }
    eventually("two are closed", || reasons(&daemon) == ["peer-closed"; 2]);
    daemon.finish();
}

/// Passes on what comes, one byte at a time, in both directions.
fn relay_bytes(to: SocketAddr) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(to).expect("connecting to the daemon");
            for (mut from, mut to) in [
                (client.try_clone().expect("a handle"), server.try_clone().expect("a handle")),
                (server, client),
            ] {
                to.set_nodelay(true).expect("no delay");
                thread::spawn(move || {
                    let mut byte = [0];
                    while from.read(&mut byte).is_ok_and(|count| count == 1) {
                        if to.write_all(&byte).is_err() {
                            return;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    port
}

#[test]
fn records_that_are_cut_at_every_byte_in_both_directions_come_back_whole() {
    if !have("python3") {
        return;
    }
    let directory = Directory::new();
    let daemon = directory.daemon(&["--buffer-size", "256"]);
    let port = relay_bytes(daemon.address()).to_string();
    let program = r"
for version in V12, V13:
    for size in 1, 255, 256, 257, 5000:
        data = os.urandom(size)
        assert talk(args[0], data, version) == data, (version, size)
print('done')
";
    assert_eq!(directory.python(program, &[&port], b""), "done\n");
    eventually("ten are closed", || reasons(&daemon).len() == 10);
    assert_eq!(reasons(&daemon), ["peer-closed"; 10]);
    daemon.finish();
}

#[test]
fn each_way_to_go_wrong_has_its_reason() {
    if !have("python3") {
        return;
    }
    let directory = Directory::new();
    let daemon = directory.daemon(&[]);
    let closed_for = |count: usize, reason: &str| {
        eventually(reason, || reasons(&daemon).len() == count);
        assert_eq!(reasons(&daemon)[count - 1], reason);
    };
    // Not TLS at all: an alert, and FIN.
    let mut client = TcpStream::connect(daemon.address()).expect("connecting");
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sending");
    let mut alert = Vec::new();
    client.read_to_end(&mut alert).expect("receiving to FIN");
    assert_eq!((alert.len(), alert[0], alert[5]), (7, 21, 2), "a fatal alert");
    closed_for(1, "tls-handshake");
    // Nobody is there: a check of the port.
    drop(TcpStream::connect(daemon.address()).expect("connecting"));
    closed_for(2, "peer-closed");
    let port = port(&daemon);
    directory.python("raw(args[0]).sendall(b'\\x16\\x03\\x01\\x02\\x00\\x01')", &[&port], b"");
    closed_for(3, "tls-handshake");
    // FIN without close_notify, after an echo.
    directory.python("c = connect(args[0]); ping(c, b'hello'); os._exit(0)", &[&port], b"");
    closed_for(4, "tls-truncated");
    // Garbage in place of a record.
    let program = r"
client = connect(args[0])
ping(client, b'hello')
bare = socket.socket(fileno=os.dup(client.fileno()))
bare.sendall(b'\x17\x03\x03\x00\x20' + bytes(32))
try: client.recv(1)
except ssl.SSLError as error: print(error.reason)
";
    let said = directory.python(program, &[&port], b"");
    assert!(said.contains("BAD_RECORD_MAC"), "{said}");
    closed_for(5, "tls-alert");
    // The client does not trust the certificate.
    let program = r"
strict = ssl.create_default_context()
try: connect(args[0], made=strict)
except ssl.SSLError as error: print(error.reason)
";
    assert_eq!(directory.python(program, &[&port], b""), "CERTIFICATE_VERIFY_FAILED\n");
    closed_for(6, "tls-handshake");
    // It speaks an old version only.
    let strict = directory.url("tls", "127.0.0.1:0", "tls-min=1.3&");
    let strict = Daemon::start(&["--listen", &strict, "--log", "debug"]);
    let program = r"
try: connect(args[0], V12)
except ssl.SSLError as error: print(error.reason)
connect(args[0], V13)
";
    let said = directory.python(program, &[&self::port(&strict)], b"");
    assert!(said.contains("PROTOCOL_VERSION"), "{said}");
    strict.finish();
    daemon.finish();
}

/// The last bytes of a client that breaks off do come back, as they do over TCP.
#[test]
fn what_came_before_the_cut_is_answered() {
    if !have("python3") {
        return;
    }
    let directory = Directory::new();
    let daemon = directory.daemon(&[]);
    let program = r"
half = Half(args[0])
half.send(b'before the cut')
half.socket.shutdown(socket.SHUT_WR)
print(half.receive().decode())
assert half.receive() == b'', 'no close_notify'
";
    assert_eq!(directory.python(program, &[&port(&daemon)], b""), "before the cut\n");
    eventually("it is closed", || reasons(&daemon) == ["tls-truncated"]);
    daemon.finish();
}

#[test]
fn clients_that_stop_in_the_handshake_keep_nobody_out() {
    if !have("python3") {
        return;
    }
    let _alone = alone();
    let directory = Directory::new();
    let daemon = directory.daemon(&["--max-connections", "1100", "--handshake-timeout", "3s"]);
    let files = daemon.open_files();
    let mut honest = Command::new("python3")
        .args(["-c", &format!("{CLIENT}{HONEST}"), &directory.file("cert.pem"), &port(&daemon)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting python3");
    // Python takes long to start on a busy machine.
    let said = lines(honest.stdout.take().expect("stdout is piped"));
    assert_eq!(said.recv_timeout(GUARD).as_deref(), Ok("ready"));
    let stalled: Vec<TcpStream> = (0..1000)
        .map(|at| {
            let mut client = TcpStream::connect(daemon.address()).expect("connecting");
            // The beginning of a hello, of another length for each.
            let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 400]].concat();
            client.write_all(&hello[..at % 400]).expect("sending");
            client
        })
        .collect();
    eventually("all are closed", || {
        reasons(&daemon).iter().filter(|reason| *reason == "tls-handshake").count() == 1000
    });
    drop(honest.stdin.take());
    let pings = said.recv_timeout(GUARD).expect("the client's last line");
    assert!(honest.wait().expect("waiting for the client").success());
    let pings: u32 = pings.parse().expect("a number");
    assert!(pings > 100, "{pings} echoes meanwhile");
    drop(stalled);
    eventually("all files are closed", || daemon.open_files() == files);
    daemon.finish();
}

/// Pings until standard input ends, and connects anew now and then. Says when it has begun.
const HONEST: &str = r"
import select
def connect_and_ping():
    client = connect(args[0])
    for _ in range(20):
        ping(client, os.urandom(100))
    client.unwrap()
connect_and_ping()
print('ready', flush=True)
pings = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    connect_and_ping()
    pings += 20
print(pings)
";

#[test]
fn thousands_of_clients_verify_the_server_and_every_byte() {
    if !have("python3") {
        return;
    }
    let _alone = alone();
    let directory = Directory::new();
    let daemon = Daemon::start(&[
        "--listen",
        &directory.url("tls", "127.0.0.1:0", ""),
        "--max-connections",
        "2100",
    ]);
    let program = r"
import asyncio
async def client(number):
    async with gate:
        reader, writer = await asyncio.open_connection(
            '127.0.0.1', int(args[0]), ssl=made, server_hostname='localhost')
    for size in 1, 64, 3000:
        data = os.urandom(size)
        writer.write(data)
        assert await reader.readexactly(size) == data
    return writer
async def main():
    global gate, made
    made, gate = context(), asyncio.Semaphore(50)
    writers = await asyncio.gather(*(client(number) for number in range(2000)))
    print(len(writers), flush=True)
    sys.stdin.read()
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
asyncio.run(main())
";
    let mut clients = Command::new("python3")
        .args(["-c", &format!("{CLIENT}{program}"), &directory.file("cert.pem"), &port(&daemon)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting python3");
    let mut line = [0; 5];
    clients.stdout.take().expect("piped").read_exact(&mut line).expect("all are served");
    assert_eq!(&line, b"2000\n");
    assert_eq!(daemon.stat("connections"), 2000);
    assert_eq!(daemon.stat("bytes_sent"), 2000 * 3065);
    drop(clients.stdin.take());
    clients.wait().expect("waiting for the clients");
    eventually("all are gone", || daemon.stat("connections") == 0);
    daemon.finish();
}

#[test]
fn sighup_reads_the_certificates_again_and_cuts_nobody() {
    if !have("python3") {
        return;
    }
    let directory = Directory::new();
    let daemon = directory.daemon(&[]);
    let mut client = Command::new("python3")
        .args([
            "-c",
            &format!(
                "{CLIENT}{}",
                r"
client = connect(args[0])
for line in sys.stdin:
    ping(client, line.encode())
    print(line, end='', flush=True)
"
            ),
        ])
        .args([&directory.file("cert.pem"), &port(&daemon)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting python3");
    let mut stdin = client.stdin.take().expect("piped");
    let mut stdout = client.stdout.take().expect("piped");
    let mut ping = |word: &str| {
        stdin.write_all(word.as_bytes()).expect("typing");
        let mut got = vec![0; word.len()];
        stdout.read_exact(&mut got).expect("its echo");
    };
    ping("before\n");
    let trusted = |file: &str| {
        let program = r"
ca = args[1]
try: ping(connect(args[0]), b'hello'); print('yes')
except ssl.SSLError as error: print(error.reason)
";
        directory.python(program, &[&port(&daemon), &directory.file(file)], b"")
    };
    // A key that does not belong to the certificate changes nothing.
    directory.certify("new.pem", "new.key");
    fs::copy(directory.file("cert.pem"), directory.file("old.pem")).expect("copying");
    fs::copy(directory.file("new.key"), directory.file("key.pem")).expect("copying");
    daemon.signal(Signal::HUP);
    eventually("it is logged", || daemon.lines_with("are unchanged").len() == 1);
    let line = &daemon.lines_with("are unchanged")[0];
    assert!(line.contains("ERROR") && line.contains("not the key of the certificate"), "{line}");
    assert_eq!(trusted("old.pem"), "yes\n");
    ping("between\n");
    fs::copy(directory.file("new.pem"), directory.file("cert.pem")).expect("copying");
    // Two lines for signals are at least 100 ms apart.
    thread::sleep(Duration::from_millis(200));
    daemon.signal(Signal::HUP);
    eventually("it is logged", || daemon.lines_with("use the current certificates").len() == 1);
    assert_eq!(
        (&trusted("new.pem")[..], &trusted("old.pem")[..]),
        ("yes\n", "CERTIFICATE_VERIFY_FAILED\n")
    );
    ping("after\n");
    drop(stdin);
    assert!(client.wait().expect("waiting for the client").success());
    daemon.finish();
}

#[test]
fn clients_show_their_certificates() {
    if !have("python3") {
        return;
    }
    let directory = Directory::new();
    directory.certify("client.pem", "client.key");
    directory.certify("stranger.pem", "stranger.key");
    let program = r"
for certificate in args[1:]:
    made = context()
    if certificate: made.load_cert_chain(certificate + '.pem', certificate + '.key')
    try: ping(connect(args[0], made=made), b'hello'); print('yes')
    except (ssl.SSLError, OSError): print('no')
";
    let (client, stranger) = (directory.file("client"), directory.file("stranger"));
    for (auth, results) in [("require", "yes\nno\nno\n"), ("optional", "yes\nno\nyes\n")] {
        let more = format!("client-ca={client}.pem&client-auth={auth}&");
        let url = directory.url("tls", "127.0.0.1:0", &more);
        let daemon = Daemon::start(&["--listen", &url]);
        let said = directory.python(program, &[&port(&daemon), &client, &stranger, ""], b"");
        assert_eq!(said, results, "{auth}");
        daemon.finish();
    }
}

#[test]
fn the_protocol_of_the_application_is_agreed_on() {
    if !have("python3") {
        return;
    }
    let directory = Directory::new();
    let daemon =
        Daemon::start(&["--listen", &directory.url("tls", "127.0.0.1:0", "alpn=echo,other&")]);
    let program = r"
for names in ['other', 'echo'], ['nothing', 'other'], [], ['nothing']:
    made = context()
    if names: made.set_alpn_protocols(names)
    try: print(connect(args[0], made=made).selected_alpn_protocol())
    except ssl.SSLError as error: print(error)
";
    let said = directory.python(program, &[&port(&daemon)], b"");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["echo", "other", "None"]);
    assert!(lines[3].contains("no application protocol"), "{said}");
    daemon.finish();
}

/// The header comes before the handshake, in the clear. Without it nothing begins.
#[test]
fn the_peer_behind_a_proxy_is_the_one_in_the_header_before_the_handshake() {
    let directory = Directory::new();
    let url = directory.url("framed+tls", "127.0.0.1:0", "proxy=require&");
    let daemon = Daemon::start(&["--listen", &url, "--log", "debug"]);
    let program = r"
class Proxied:
    def __init__(self, header, cut):
        self.inner = raw(args[0])
        self.inner.sendall(header[:cut])
        self.inner.sendall(header[cut:])
        self.tls = context().wrap_socket(self.inner, server_hostname='localhost')
v1 = b'PROXY TCP4 198.51.100.7 192.0.2.1 4711 7\r\n'
v2 = bytes.fromhex('0d0a0d0a000d0a515549540a2111000c') + bytes([198, 51, 100, 7, 192, 0, 2, 1])
v2 += (4711).to_bytes(2, 'big') + (7).to_bytes(2, 'big')
for header in v1, v2:
    for cut in 1, len(header) // 2, len(header):
        client = Proxied(header, cut).tls
        ping(client, b'\x05\0\0\0hello')
        client.close()
try:
    connect(args[0])
    raise SystemExit('a handshake without a header')
except OSError: pass
print('done')
";
    assert_eq!(directory.python(program, &[&port(&daemon)], b""), "done\n");
    eventually("all are closed", || daemon.lines_with("disconnect id=").len() == 7);
    assert_eq!(daemon.lines_with(" connect id=").len(), 6, "{}", daemon.tail());
    let of_peer = |line: &&String| line.contains("peer=198.51.100.7:4711 ");
    assert_eq!(daemon.lines_with(" connect id=").iter().filter(of_peer).count(), 6);
    let reasons = reasons(&daemon);
    assert_eq!(reasons.iter().filter(|reason| *reason == "proxy-header").count(), 1, "{reasons:?}");
    daemon.finish();
}

#[test]
fn a_passed_socket_has_tls_if_its_listener_says_so() {
    let directory = Directory::new();
    let url = directory.url("tls", "fd:web", "");
    let unix = directory.file("passed.sock");
    let of_unix = directory.url("tls", "fd:local", "");
    let shell = passing(&["web=tcp", &format!("local={unix}")]);
    let daemon = Daemon::start_under(&shell, &["--listen", &url, "--listen", &of_unix]);
    assert!(daemon.targets()[0].starts_with("tls://127.0.0.1:"), "{:?}", daemon.targets());
    let of_unix = format!("unix+tls://{unix}?");
    assert!(daemon.targets()[1].starts_with(&of_unix), "{:?}", daemon.targets());
    let program = "ping(connect(args[0]), b'over a passed socket')\nprint('done')";
    assert_eq!(directory.python(program, &[&port(&daemon)], b""), "done\n");
    daemon.finish();
}

#[test]
fn a_drain_ends_every_stream_with_close_notify() {
    if !have("python3") {
        return;
    }
    let directory = Directory::new();
    let mut daemon = directory.daemon(&[]);
    let mut client = Command::new("python3")
        .args([
            "-c",
            &format!(
                "{CLIENT}{}",
                r"
half = Half(args[0])
half.send(b'hello')
assert half.receive() == b'hello'
print('ready', flush=True)
assert half.receive() == b'', 'close_notify'
assert half.socket.recv(1) == b'', 'FIN'
"
            ),
        ])
        .args([&directory.file("cert.pem"), &port(&daemon)])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting python3");
    let mut ready = [0; 6];
    client.stdout.take().expect("piped").read_exact(&mut ready).expect("it is ready");
    daemon.signal(Signal::TERM);
    assert!(client.wait().expect("waiting for the client").success());
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    assert_eq!(reasons(&daemon), ["drained"]);
}

#[test]
fn files_that_cannot_be_used_are_errors_with_a_remedy() {
    let directory = Directory::new();
    directory.certify("other.pem", "other.key");
    let file = |name: &str| directory.file(name);
    let url = |cert: &str, key: &str| format!("tls://127.0.0.1:0?cert={cert}&key={key}");
    for (url, code, part) in [
        ("tls://127.0.0.1:0".into(), USAGE, "give cert=FILE and key=FILE"),
        (format!("tls://7?cert={}", file("cert.pem")), USAGE, "cert=FILE needs key=FILE"),
        (url(&file("none"), &file("key.pem")), FAILED, "none: no such file"),
        (url(&file("cert.pem"), &file("other.key")), FAILED, "not the key of the certificate in"),
        (url(&file("key.pem"), &file("key.pem")), FAILED, "it has no certificate"),
    ] {
        let (exit, stdout, stderr) = run_to_end("true", &["--listen", &url]);
        assert_eq!((exit, &stdout[..]), (code, ""), "{url}: {stderr}");
        assert!(stderr.contains(part), "{url}: {stderr}");
    }
}

#[test]
fn a_certificate_for_trying_is_made_once() {
    let directory = Directory::new();
    let mode = |name: &str| {
        fs::metadata(directory.file(name)).expect("the file").permissions().mode() & 0o777
    };
    assert_eq!(mode("key.pem"), 0o600);
    let before = fs::read(directory.file("key.pem")).expect("reading");
    let again = |args: &[&str]| {
        let output =
            Command::new(binary()).arg("cert").args(args).current_dir(&directory.0).output();
        let output = output.expect("running echopool cert");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    };
    let (code, text) = again(&[]);
    assert!(code == FAILED && text.contains("key.pem exists: remove it"), "{text}");
    // Nothing is left of a pair that cannot be written whole.
    let (code, text) = again(&["--key", "other.key"]);
    assert!(code == FAILED && text.contains("cert.pem exists: remove it"), "{text}");
    assert!(!directory.0.join("other.key").exists());
    assert_eq!(fs::read(directory.file("key.pem")).expect("reading"), before);
    let (code, text) = again(&["--days", "0"]);
    assert!(code == USAGE && text.contains("1..=36500"), "{text}");
    let (code, text) = again(&["echo.test", "--cert", "a.pem", "--key", "a.key", "--days", "3"]);
    assert!(code == Some(0) && text.contains("echo.test, valid for 3 days"), "{text}");
    if have("openssl") {
        let openssl = |check: [&str; 2]| {
            let mut openssl = Command::new("openssl");
            openssl.args(["x509", "-noout", "-in", &directory.file("a.pem")]).args(check);
            String::from_utf8(run_with_input(&mut openssl, b"")).expect("text")
        };
        let days = |days: u32| (days * 24 * 3600 - 600).to_string();
        assert!(openssl(["-checkend", &days(3)]).contains("will not expire"));
        assert!(openssl(["-checkhost", "echo.test"]).contains("does match"));
        assert!(openssl(["-checkhost", "localhost"]).contains("does NOT match"));
    }
}
