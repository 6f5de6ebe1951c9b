//! Unix sockets: the services over them, the socket file from start to end, and the peer as it is
//! shown and limited.

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::Signal;

use crate::connect::{check, pipe};
use crate::harness::{
    Client, Daemon, GUARD, alone, binary, eventually, have, lines, many_clients, payload,
    run_to_end, run_with_input, skip,
};

const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);

/// A directory for sockets that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echopool-sockets-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("creating a directory");
        Directory(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn url(&self, scheme: &str, name: &str) -> String {
        format!("{scheme}://{}", self.file(name).display())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A daemon with an echo service at `e.sock`.
fn echo_daemon(directory: &Directory, more: &[&str]) -> Daemon {
    let url = directory.url("unix", "e.sock");
    Daemon::start(&[&["--listen", &url, "--log", "debug"], more].concat())
}

fn connect(path: PathBuf) -> UnixStream {
    let client = UnixStream::connect(path).expect("connecting");
    client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    client.set_write_timeout(Some(GUARD)).expect("setting a time-out");
    client
}

/// Sends `bytes` and FIN. Returns everything received until FIN.
fn talk(mut client: UnixStream, bytes: &[u8]) -> Vec<u8> {
    client.write_all(bytes).expect("sending");
    client.shutdown(Shutdown::Write).expect("closing this side");
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).expect("receiving to the end");
    reply
}

/// The reasons of the closed connections, from the log.
fn reasons(daemon: &Daemon) -> Vec<String> {
    let reason = |line: &String| {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix("reason="));
        word.unwrap_or_else(|| panic!("no reason= in {line:?}")).to_owned()
    };
    daemon.lines_with("disconnect id=").iter().map(reason).collect()
}

#[test]
fn every_service_runs_over_a_unix_socket_as_its_ready_line_says() {
    let directory = Directory::new();
    let urls = [
        "unix",
        "framed+unix",
        "message+unix",
        "discard+unix",
        "chargen+unix",
        "delay+unix",
        "hub+unix",
    ]
    .map(|scheme| directory.url(scheme, scheme));
    let flags: Vec<&str> = urls.iter().flat_map(|url| ["--listen", url]).collect();
    let daemon = Daemon::start(&[&flags[..], &["--workers", "2"]].concat());
    assert_eq!(daemon.targets(), urls);

    let mut client = Client::connect_unix(&directory.file("unix"));
    for size in [1, 1_000, 100_000] {
        client.ping(size);
    }
    client.echo(30_000_000);
    client.close();
    let at = |scheme: &str| connect(directory.file(scheme));
    let hello = b"\x05\0\0\0hello";
    assert_eq!(talk(at("framed+unix"), &[&hello[..], b"\x09\0\0\0cut"].concat()), hello);
    assert_eq!(talk(at("message+unix"), b"one<EOF>"), b"one<EOF>");
    assert_eq!(talk(at("discard+unix"), &[7; 100_000]), b"");
    assert_eq!(talk(at("delay+unix"), b"later"), b"later");
    let mut line = [0; 74];
    at("chargen+unix").read_exact(&mut line).expect("a line");
    assert!(line.starts_with(b" !\"#$%&'()*+,-./0123") && line.ends_with(b"abcdefg\r\n"));
    // WELCOME, and its own broadcast.
    let mut member = at("hub+unix");
    member.write_all(b"\x06\0\0\0\x03hello").expect("sending");
    let (mut welcome, mut message) = ([0; 4 + 1 + 8], [0; 4 + 1 + 1 + 8 + 5]);
    member.read_exact(&mut welcome).expect("WELCOME");
    member.read_exact(&mut message).expect("MESSAGE");
    assert_eq!((welcome[4], message[4], &message[14..]), (128, 130, &b"hello"[..]));
    drop(member);
    daemon.finish();
    assert_eq!(fs::read_dir(&directory.0).expect("the directory").count(), 0, "files are left");
}

/// Beside TCP, in one daemon.
#[test]
fn peers_that_are_not_ours_get_their_bytes_back() {
    const PYTHON: &str = "
import socket, sys, threading
data = sys.stdin.buffer.read()
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
def send():
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while piece := client.recv(65536):
    sys.stdout.buffer.write(piece)
";
    let directory = Directory::new();
    let daemon = echo_daemon(&directory, &["--listen", "127.0.0.1:0"]);
    let file = directory.file("e.sock").display().to_string();
    let to = format!("UNIX-CONNECT:{file}");
    let peers: [(&str, &[&str]); 3] = [
        ("socat", &["-t", "60", "-", &to]),
        ("ncat", &["-U", &file]),
        ("python3", &["-c", PYTHON, &file]),
    ];
    let input: Vec<u8> = (0..50).flat_map(|at| payload(7, at * 65_536)).copied().collect();
    for (program, arguments) in peers {
        if have(program) {
            let output = run_with_input(Command::new(program).args(arguments), &input);
            assert!(output == input, "{program}: {} bytes came back", output.len());
        }
    }
    let mut tcp = Client::connect(daemon.address());
    tcp.ping(1_000);
    tcp.close();
    daemon.finish();
}

#[test]
fn connect_talks_to_the_target_of_each_ready_line() {
    let directory = Directory::new();
    let url = |scheme| directory.url(scheme, scheme);
    let urls = [
        url("unix"),
        url("framed+unix"),
        format!("message+unix://@e{}?delimiter=%0A&after=keep", std::process::id()),
    ];
    let flags: Vec<&str> = urls.iter().flat_map(|url| ["--listen", url]).collect();
    let daemon = Daemon::start(&flags);
    let input: Vec<u8> = (0..50).flat_map(|at| payload(9, at * 65_536)).copied().collect();
    let [echo, framed, message] = daemon.targets() else { panic!("three targets") };
    check(&pipe(&[echo], &input), 0, &input, "");
    check(&pipe(&[framed], b"one\ntwo\n"), 0, b"one\ntwo\n", "");
    check(&pipe(&[message], b"one\ntwo\n"), 0, b"one\ntwo\n", "connected to @e");
    daemon.finish();
    check(&pipe(&[&urls[0]], b"x"), 1, b"", "no such file); start the server, or check the path");
}

#[test]
fn the_file_of_a_killed_daemon_is_replaced_and_that_of_a_live_one_is_not() {
    let directory = Directory::new();
    let killed = echo_daemon(&directory, &[]);
    drop(killed);
    assert!(UnixStream::connect(directory.file("e.sock")).is_err(), "the file is left, stale");
    assert!(directory.file("e.sock").exists());
    let first = echo_daemon(&directory, &[]);
    let mut client = Client::connect_unix(&directory.file("e.sock"));
    for more in [&[][..], &["--share-port"]] {
        let url = directory.url("unix", "e.sock");
        let (code, stdout, stderr) = run_to_end("true", &[&["--listen", &url], more].concat());
        assert_eq!((code, &stdout[..]), (FAILED, ""), "{stderr}");
        assert!(stderr.contains(&url) && stderr.contains("stop it, or give another"), "{stderr}");
        client.ping(1_000);
    }
    Client::connect_unix(&directory.file("e.sock")).close();
    client.close();
    first.finish();
    assert!(!directory.file("e.sock").exists(), "removed at the end");
}

#[test]
fn of_daemons_that_start_at_once_one_has_the_socket() {
    let directory = Directory::new();
    for round in 0..5 {
        if round % 2 == 0 {
            drop(UnixListener::bind(directory.file("e.sock")).expect("a stale file"));
        }
        let mut daemons: Vec<_> = (0..4)
            .map(|_| {
                let mut command = Command::new(binary());
                command.args(["--listen", &directory.url("unix", "e.sock"), "--log", "off"]);
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
                command.spawn().expect("starting a daemon")
            })
            .collect();
        let ready = |daemon: &mut std::process::Child| {
            lines(daemon.stdout.take().expect("stdout is piped")).recv_timeout(GUARD).is_ok()
        };
        let ready: Vec<bool> = daemons.iter_mut().map(ready).collect();
        assert_eq!(ready.iter().filter(|ready| **ready).count(), 1, "round {round}: {ready:?}");
        Client::connect_unix(&directory.file("e.sock")).close();
        for (daemon, ready) in daemons.iter_mut().zip(ready) {
            if ready {
                let pid = rustix::process::Pid::from_child(daemon);
                rustix::process::kill_process(pid, Signal::TERM).expect("signalling");
            }
            let status = daemon.wait().expect("waiting for a daemon");
            assert_eq!(status.code(), if ready { Some(0) } else { FAILED });
        }
        assert!(!directory.file("e.sock").exists(), "removed at the end");
    }
}

#[test]
fn the_file_has_its_mode_and_is_removed_only_if_it_is_the_daemons() {
    let directory = Directory::new();
    let url = directory.url("unix", "e.sock") + "?mode=0620";
    let daemon = Daemon::start(&["--mode", "0600", "--listen", &url]);
    assert_eq!(daemon.targets(), [url]);
    let file = fs::metadata(directory.file("e.sock")).expect("the file");
    assert_eq!(file.mode() & 0o7777, 0o620);
    fs::remove_file(directory.file("e.sock")).expect("removing it");
    let other = UnixListener::bind(directory.file("e.sock")).expect("another server");
    daemon.finish();
    drop(UnixStream::connect(directory.file("e.sock")).expect("connecting to the other server"));
    drop(other);
}

#[test]
fn what_cannot_be_listened_on_is_refused_with_the_remedy() {
    let directory = Directory::new();
    fs::write(directory.file("precious"), "").expect("writing a file");
    let long = directory.url("unix", &"x".repeat(108));
    let cases: [(String, Option<i32>, &str); 6] = [
        (long, USAGE, "at most 107"),
        (directory.url("unix", "precious"), FAILED, "not a socket; remove it"),
        (directory.url("unix", "no/e.sock"), FAILED, "create the directory"),
        ("unix://@name?mode=0600".into(), USAGE, "no file"),
        (directory.url("unix", "e.sock") + "?owner=no-such-user", FAILED, "no user 'no-such-user'"),
        (directory.url("unix", "e.sock") + "?mode=999", USAGE, "octal"),
    ];
    for (url, expected, part) in cases {
        let (code, stdout, stderr) = run_to_end("true", &["--listen", &url]);
        assert_eq!((code, &stdout[..]), (expected, ""), "{url}: {stderr}");
        assert!(stderr.contains(part), "{url}: {stderr}");
    }
    assert!(directory.file("precious").exists());
}

#[test]
fn an_abstract_name_is_served_and_taken_once() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("echopool-blackbox-{}", std::process::id());
    let url = format!("unix://@{name}");
    let daemon = Daemon::start(&["--listen", &url]);
    assert_eq!(daemon.targets(), [&url[..]]);
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let client = UnixStream::connect_addr(&address).expect("connecting");
    assert_eq!(talk(client, b"hello"), b"hello");
    let (code, _, stderr) = run_to_end("true", &["--listen", &url]);
    assert_eq!(code, FAILED);
    assert!(stderr.contains("a program listens there"), "{stderr}");
    daemon.finish();
    assert!(UnixStream::connect_addr(&address).is_err());
}

#[test]
fn the_peer_is_shown_as_its_process_and_limited_by_its_user() {
    let directory = Directory::new();
    let more = ["--workers", "2", "--max-connections-per-address", "3"];
    let daemon = echo_daemon(&directory, &more);
    let mut clients: Vec<Client> =
        (0..3).map(|_| Client::connect_unix(&directory.file("e.sock"))).collect();
    clients.iter_mut().for_each(|client| client.ping(100));
    let mut refused = connect(directory.file("e.sock"));
    assert_eq!(refused.read(&mut [0]).expect("FIN"), 0);
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let peer = format!("peer=pid:{},uid:{uid},gid:{gid}", std::process::id());
    eventually("it is logged", || daemon.lines_with("reason=address-limit").len() == 1);
    assert_eq!(daemon.lines_with("refuse ").iter().filter(|line| line.contains(&peer)).count(), 1);
    assert_eq!(daemon.lines_with(" connect id=").len(), 3);
    assert!(daemon.lines_with(" connect id=").iter().all(|line| line.contains(&peer)));
    clients.pop().expect("a client").close();
    eventually("its place is free", || {
        connect(directory.file("e.sock")).write(b"x").is_ok() && reasons(&daemon).len() >= 2
    });
    drop(clients);
    daemon.finish();
}

#[test]
fn each_end_of_a_connection_has_its_reason() {
    let directory = Directory::new();
    let times = ["--idle-timeout", "off", "--send-timeout", "1s"];
    let daemon = echo_daemon(&directory, &times);
    let at = || Client::connect_unix(&directory.file("e.sock"));
    let ended = |count: usize, reason: &str| {
        eventually("a disconnect line", || reasons(&daemon).len() == count);
        assert_eq!(reasons(&daemon)[count - 1], reason);
    };
    let mut client = at();
    client.ping(1_000);
    client.close();
    ended(1, "peer-closed");
    // It leaves with bytes unread.
    let mut client = at();
    client.send(1_000);
    assert!(client.readable_within(GUARD));
    drop(client);
    ended(2, "reset");
    // It reads nothing.
    let mut stalled = at();
    eventually("it is closed", || {
        let _ = stalled.try_send_without_waiting(1 << 20);
        reasons(&daemon).len() == 3
    });
    ended(3, "send-timeout");
    daemon.finish();

    let daemon = echo_daemon(&directory, &["--idle-timeout", "300ms"]);
    at().expect_fin();
    eventually("a disconnect line", || reasons(&daemon) == ["idle-timeout"]);
    daemon.finish();
}

/// The system counts what is not read in whole messages of up to 36 KiB. A client that reads one of
/// these in the time-out moves.
#[test]
fn a_client_that_reads_slowly_is_not_closed() {
    const TRIES: u32 = 10;
    let directory = Directory::new();
    let daemon = echo_daemon(&directory, &["--send-timeout", "2s", "--idle-timeout", "off"]);
    let is_staged = (0..TRIES).any(|_| {
        let before = reasons(&daemon).len();
        let taken = take_little_at_a_time(Client::connect_unix(&directory.file("e.sock")));
        eventually("it is closed", || reasons(&daemon).len() > before);
        assert!(!taken || reasons(&daemon)[before] == "peer-closed", "{:?}", reasons(&daemon));
        taken
    });
    assert!(is_staged, "in each try this test did not run for half of the time-out");
    daemon.finish();
}

/// Fills the path, and reads for longer than the time-out of two seconds. Returns false if the
/// client itself did not run for so long that it may look stalled.
fn take_little_at_a_time(mut client: Client) -> bool {
    const PIECE: usize = 8 * 1024;
    // 5 seconds, at 80 KiB a second.
    const SLOWLY: u32 = 50;
    const PAUSE_MAX: Duration = Duration::from_secs(1);
    let mut last = Instant::now();
    loop {
        let begun = Instant::now();
        let taken = client.try_send_without_waiting(1 << 20);
        if last.elapsed() > PAUSE_MAX {
            return false;
        }
        if taken.expect("sending") == 0 {
            break;
        }
        last = begun;
        std::thread::sleep(Duration::from_millis(50));
    }
    for step in 0.. {
        if client.in_transit() == 0 {
            break;
        }
        let count = client.receive(PIECE);
        if last.elapsed() > PAUSE_MAX {
            return false;
        }
        last = Instant::now();
        assert_ne!(count.expect("receiving"), 0, "FIN after {}", client.received());
        if step < SLOWLY {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    client.close();
    true
}

/// With every buffer held by clients that do not read, these are shed, and another is served.
#[test]
fn the_stalled_are_shed_when_buffers_run_out() {
    let directory = Directory::new();
    let pool = ["--workers", "1", "--buffers", "8", "--shed-after", "100ms"];
    let off = ["--idle-timeout", "off", "--send-timeout", "off"];
    let daemon = echo_daemon(&directory, &[&pool[..], &off].concat());
    let file = directory.file("e.sock");
    let mut stalled: Vec<Client> = (0..20).map(|_| Client::connect_unix(&file)).collect();
    eventually("several are shed", || {
        for client in &mut stalled {
            let _ = client.try_send_without_waiting(1 << 18);
        }
        reasons(&daemon).iter().filter(|reason| *reason == "shed").count() >= 5
    });
    let mut honest = Client::connect_unix(&file);
    (0..100).for_each(|_| honest.ping(1_000));
    honest.close();
    let is_honest = |reason: &String| reason == "peer-closed";
    eventually("it has closed", || reasons(&daemon).iter().any(is_honest));
    drop(stalled);
    daemon.finish();
}

/// A receive ends at bytes that carry file descriptors, although more bytes follow. The daemon
/// receives these too, and closes the descriptors. (Not with echo: the system reports that a client
/// has read its echo, and then the daemon would look again anyway.)
#[test]
fn bytes_after_file_descriptors_are_received_and_the_descriptors_are_closed() {
    let directory = Directory::new();
    let url = directory.url("message+unix", "e.sock");
    let daemon = Daemon::start(&["--workers", "1", "--listen", &url]);
    assert_eq!(talk(connect(directory.file("e.sock")), b"<EOF>"), b"<EOF>");
    let files = daemon.open_files();
    for round in 1..=20u32 {
        let mut client = connect(directory.file("e.sock"));
        // All arrive before the daemon receives.
        daemon.stop();
        client.write_all(b"before ").expect("sending");
        let file = std::io::stderr();
        let (files, mut space) = ([file.as_fd()], [std::mem::MaybeUninit::uninit(); 64]);
        let mut with = SendAncillaryBuffer::new(&mut space);
        assert!(with.push(SendAncillaryMessage::ScmRights(&files)));
        let bytes = [IoSlice::new(b"with ")];
        let sent = rustix::net::sendmsg(&client, &bytes, &mut with, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(5));
        client.write_all(b"after<EOF>").expect("sending");
        daemon.signal(Signal::CONT);
        let mut echo = [0; 22];
        client.read_exact(&mut echo).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(&echo, b"before with after<EOF>");
    }
    eventually("no descriptor is left", || daemon.open_files() == files);
    daemon.finish();
}

#[test]
fn urgent_bytes_are_echoed_in_line() {
    let directory = Directory::new();
    let daemon = echo_daemon(&directory, &[]);
    let mut client = Client::connect_unix(&directory.file("e.sock"));
    client.ping(100);
    let (one, _other) = UnixStream::pair().expect("a pair of sockets");
    if rustix::net::send(&one, b"!", SendFlags::OOB) == Err(rustix::io::Errno::OPNOTSUPP) {
        return skip("this kernel has no urgent bytes on Unix sockets");
    }
    for size in 0..200 {
        client.send_flagged(1 + size, SendFlags::OOB);
        client.send(10);
        client.expect(11 + size);
    }
    client.close();
    daemon.finish();
}

#[test]
fn a_drain_sends_what_was_read_and_removes_the_file() {
    let directory = Directory::new();
    let daemon = echo_daemon(&directory, &["--workers", "2"]);
    let mut idle = Client::connect_unix(&directory.file("e.sock"));
    let mut slow = Client::connect_unix(&directory.file("e.sock"));
    idle.ping(1_000);
    let mut quiet = 0;
    eventually("the path is full", || {
        let taken = slow.send_without_waiting(1 << 20);
        // The daemon may also just be late.
        quiet = if taken == 0 && daemon.is_asleep() { quiet + 1 } else { 0 };
        quiet >= 10
    });
    slow.half_close();
    daemon.signal(Signal::TERM);
    idle.expect_fin();
    drop(idle);
    eventually("the file is removed", || !directory.file("e.sock").exists());
    // The new daemon takes the place of the one that still drains.
    let next = echo_daemon(&directory, &[]);
    Client::connect_unix(&directory.file("e.sock")).close();
    let mut draining = daemon;
    let echoed = slow.read_to_fin();
    drop(slow);
    assert_eq!(draining.wait().code(), Some(0));
    let of_slow = format!("in={echoed} out={echoed} reason=drained");
    assert_eq!(draining.lines_with(&of_slow).len(), 1, "{}", draining.tail());
    Client::connect_unix(&directory.file("e.sock")).close();
    next.finish();
}

/// All clients are accepted by one of the workers and served, and leave nothing behind.
#[test]
fn thousands_of_clients_are_served_at_once() {
    let _alone = alone();
    let clients = many_clients().min(8_000);
    let directory = Directory::new();
    let most = (clients + 10).to_string();
    let url = directory.url("unix", "e.sock");
    let daemon = Daemon::start(&["--max-connections", &most, "--workers", "2", "--listen", &url]);
    let files = daemon.open_files();
    let file = directory.file("e.sock");
    let mut all: Vec<Client> = (0..clients).map(|_| Client::connect_unix(&file)).collect();
    for size in [64, 1_000] {
        all.iter_mut().for_each(|client| client.send(size));
        all.iter_mut().for_each(|client| client.expect(size));
    }
    assert_eq!(daemon.stat("connections"), clients as u64);
    drop(all);
    eventually("all files are closed", || daemon.open_files() == files);
    daemon.finish();
}
