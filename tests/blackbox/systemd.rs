//! The daemon under a service manager, played by the tests: notifications, the watchdog, and sockets
//! that are passed to it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::config::{ConfigFile, make_pipe, other_end, with_a_certificate};
use crate::harness::{Client, Daemon, GUARD, eventually, run_to_end, skip};

/// A path in the folder for temporary files, which this removes.
struct TempPath(PathBuf);

impl TempPath {
    fn new(what: &str) -> TempPath {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echopool-{what}-{}-{number}", std::process::id());
        TempPath(std::env::temp_dir().join(name))
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The socket that the daemon notifies.
struct Manager {
    socket: UnixDatagram,
    path: TempPath,
}

impl Manager {
    fn new() -> Manager {
        let path = TempPath::new("notify");
        let socket = UnixDatagram::bind(&path.0).expect("binding the socket of notifications");
        socket.set_read_timeout(Some(GUARD)).expect("setting a time-out");
        Manager { socket, path }
    }

    /// The shell command that tells the daemon of it.
    fn environment(&self) -> String {
        format!("export NOTIFY_SOCKET={}", self.path.0.display())
    }

    /// The lines of the next notification.
    fn next(&self) -> Vec<String> {
        let mut message = [0; 4096];
        // A wait with a time-out is interrupted when the machine was suspended.
        let received = std::iter::repeat_with(|| self.socket.recv(&mut message))
            .find(|received| !received.as_ref().is_err_and(|e| e.kind() == ErrorKind::Interrupted));
        let length = received.expect("there is no end").expect("a notification");
        let text = std::str::from_utf8(&message[..length]).expect("text");
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_service_manager_is_told_of_start_reload_and_end() {
    let manager = Manager::new();
    let file = ConfigFile::new("linger = '1s'\n");
    let flags = ["--config", file.path(), "--drain-timeout", "7s"];
    let mut daemon = Daemon::start_under(&manager.environment(), &flags);
    assert_eq!(manager.next(), ["READY=1", "STATUS=serving on 1 address"]);
    for (contents, status) in [
        ("linger = '2s'\n", "reloaded, generation=2: linger 1s -> 2s".to_owned()),
        (
            "linger = 2\n",
            format!(
                "nothing is changed: {}:1: linger: a time needs a unit: 2s or 2ms?",
                file.path()
            ),
        ),
    ] {
        file.write(contents);
        let before = monotonic_us();
        daemon.signal(Signal::HUP);
        let [reloading, since] = &manager.next()[..] else { panic!("two lines") };
        assert_eq!(reloading, "RELOADING=1");
        let since = since.strip_prefix("MONOTONIC_USEC=").expect("the time of the reload");
        let since: u64 = since.parse().expect("a number");
        assert!((before..=monotonic_us()).contains(&since), "{before} {since}");
        assert_eq!(manager.next(), ["READY=1".to_owned(), format!("STATUS={status}")]);
    }
    daemon.signal(Signal::TERM);
    assert_eq!(manager.next(), ["STOPPING=1", "STATUS=SIGTERM: draining, 7s at most"]);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
}

#[test]
fn the_service_manager_hears_no_more_of_a_reload_that_the_end_has_overtaken() {
    let manager = Manager::new();
    let (files, flags) = with_a_certificate();
    let flags = flags.each_ref().map(|flag| &flag[..]);
    let mut daemon = Daemon::start_under(&manager.environment(), &flags);
    assert_eq!(manager.next()[0], "READY=1");
    let mut client = Client::connect(daemon.address());
    client.ping(10);
    let cert = files.file("cert.pem");
    make_pipe(&cert);
    daemon.signal(Signal::HUP);
    let pipe = other_end(&cert);
    assert_eq!(manager.next()[0], "RELOADING=1");
    daemon.signal(Signal::TERM);
    assert_eq!(manager.next()[0], "STOPPING=1");
    drop(pipe);
    eventually("the reload ends", || daemon.log().contains("SIGHUP: reloaded, "));
    client.expect_fin();
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    manager.socket.set_nonblocking(true).expect("not to wait");
    let error = manager.socket.recv(&mut [0; 4096]).expect_err("READY=1 after STOPPING=1");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// That it is not fed when a worker's loop does not turn is tested in `src/daemon/systemd.rs`.
#[test]
fn the_watchdog_is_fed_in_half_of_its_time() {
    let manager = Manager::new();
    let environment = format!("{} WATCHDOG_USEC=400000", manager.environment());
    let daemon = Daemon::start_under(&environment, &["--workers", "3"]);
    while manager.next()[0] != "READY=1" {}
    // What has waited for this thread was sent earlier. The next eight are sent after this moment.
    let begun = monotonic_us();
    manager.socket.set_nonblocking(true).expect("not to wait");
    while manager.socket.recv(&mut [0; 4096]).is_ok() {}
    manager.socket.set_nonblocking(false).expect("to wait again");
    let mut fed = 0;
    while fed < 8 {
        fed += u64::from(manager.next() == ["WATCHDOG=1"]);
    }
    let mean = (monotonic_us() - begun) / 7;
    assert!(mean >= 100_000, "fed too often: each {mean} us");
    drop(daemon);
    // Another process's.
    let environment = format!("{} WATCHDOG_USEC=2000 WATCHDOG_PID=1", manager.environment());
    let daemon = Daemon::start_under(&environment, &[]);
    while manager.next()[0] != "READY=1" {}
    manager.socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let error = manager.socket.recv(&mut [0; 100]).expect_err("nothing comes");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    daemon.finish();
}

#[test]
fn a_service_manager_that_is_gone_is_survived() {
    let environment = "export NOTIFY_SOCKET=/no/such/socket WATCHDOG_USEC=20000";
    let daemon = Daemon::start_under(environment, &[]);
    Client::connect(daemon.address()).ping(100);
    std::thread::sleep(Duration::from_millis(100));
    let warnings = daemon.wait_lines(1, "cannot notify the service manager (NOTIFY_SOCKET)");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    daemon.finish();
}

/// Passes sockets as descriptors from 3 on, and then runs the daemon in the same process. Its
/// arguments are the number of sockets, and NAME=tcp, NAME=unbound, NAME=stdin or NAME=PATH for each.
const PASS: &str = r#"
import fcntl, os, socket, sys
count = int(sys.argv[1])
specs = [spec.split("=", 1) for spec in sys.argv[2:2 + count]]
sockets = []
for name, kind in specs:
    if kind == "stdin":
        made = socket.socket(fileno=0)
    elif kind.startswith("/"):
        made = socket.socket(socket.AF_UNIX)
        made.bind(kind)
        made.listen(16)
    else:
        made = socket.socket()
        made.bind(("127.0.0.1", 0))
        if kind == "tcp":
            made.listen(16)
    sockets.append(made)
kept = [fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, 50) for made in sockets]
for at, fd in enumerate(kept):
    os.dup2(fd, 3 + at)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(count)
os.environ["LISTEN_FDNAMES"] = ":".join(name for name, kind in specs)
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"#;

/// The shell command that starts a daemon with these sockets, each `NAME=KIND`.
pub fn passing(specs: &[&str]) -> String {
    format!("exec python3 -c '{PASS}' {} {} \"$0\" \"$@\"", specs.len(), specs.join(" "))
}

#[test]
fn passed_sockets_have_the_services_of_their_names() {
    let path = TempPath::new("passed");
    let unix = format!("local={}", path.0.display());
    let flags = ["--listen", "framed://fd:web", "--listen", "fd:local", "--listen", "fd:many"];
    let shell = passing(&["many=tcp", "web=tcp", &unix, "many=tcp", "spare=tcp"]);
    let flags = [&flags[..], &["--listen", "127.0.0.1:0", "--workers", "2"]].concat();
    // The harness waits for a line for each flag, and a name stands for two sockets.
    let mut daemon = Daemon::start_under(&shell, &flags);
    let last = daemon.next_target();
    let schemes: Vec<_> = daemon.targets().iter().map(|at| at.split(':').next().unwrap()).collect();
    assert_eq!(schemes, ["framed", "unix", "tcp", "tcp", "tcp"]);
    assert!(last.starts_with("tcp://127.0.0.1:"), "{last}");
    let [web, one, two, _] = daemon.addresses() else { panic!("{:?}", daemon.addresses()) };
    assert_ne!(one, two);
    for at in [one, two] {
        (0..20).for_each(|_| Client::connect(*at).ping(1_000));
    }
    Client::connect_unix(&path.0).ping(1_000);
    let mut framed = TcpStream::connect(web).expect("connecting");
    framed.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    framed.write_all(&[2, 0, 0, 0, 7, 8]).expect("sending a frame");
    let mut reply = [0; 6];
    framed.read_exact(&mut reply).expect("the frame comes back");
    assert_eq!(reply, [2, 0, 0, 0, 7, 8]);
    drop(framed);
    let spare = daemon.wait_lines(1, "nothing listens on the passed socket spare");
    assert_eq!(spare.len(), 1, "{}", daemon.log());
    assert!(daemon.lines_with("passed socket many").is_empty());
    daemon.finish();
    assert!(path.0.exists(), "the file belongs to the service manager");
}

/// What waits in the backlog of a passed socket is served by the next daemon.
#[test]
fn a_restart_with_a_passed_socket_loses_no_client() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let start = || {
        let stdin = std::os::fd::OwnedFd::from(listener.try_clone().expect("dup"));
        let flags = ["--listen", "fd:echo", "--max-connections", "1", "--workers", "1"];
        Daemon::start_under_with_stdin(&passing(&["echo=stdin"]), &flags, stdin)
    };
    let mut first = start();
    let mut served = Client::connect(first.address());
    served.ping(1_000);
    let mut waiting: Vec<Client> = (0..5).map(|_| Client::connect(first.address())).collect();
    waiting.iter_mut().for_each(|client| client.send(100));
    first.signal(Signal::TERM);
    served.expect_fin();
    drop(served);
    assert_eq!(first.wait().code(), Some(0), "{}", first.tail());
    let end = first.lines_with("ended, every connection finished: connections=0 accepted=1 ");
    assert_eq!(end.len(), 1, "{}", first.tail());
    let second = start();
    assert_eq!(second.address(), first.address());
    for mut client in waiting {
        client.expect(100);
        client.close();
    }
    second.finish();
}

#[test]
fn a_socket_that_was_not_passed_or_does_not_listen_is_an_error() {
    for (shell, listen, part) in [
        ("true".to_owned(), "fd:web", "cannot listen on fd:web: no socket was passed (LISTEN_FDS)"),
        (passing(&["a=tcp", "b=tcp"]), "fd:web", "no socket of this name was passed, only a, b"),
        (passing(&["web=unbound"]), "fd:web", "is a socket that does not listen"),
        (passing(&["web=tcp"]), "fd:", "write the name of a socket behind fd:"),
    ] {
        let (code, stdout, stderr) = run_to_end(&shell, &["--listen", listen]);
        let expected = if listen == "fd:" { 2 } else { 1 };
        assert_eq!((code, &stdout[..]), (Some(expected), ""), "{stderr}");
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

/// A file of scripts/package.
fn package(name: &str) -> String {
    format!("{}/scripts/package/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_packaged_configuration_is_right() {
    let flags = ["--check", "--config", &package("echopool.toml")];
    let (code, stdout, stderr) = run_to_end("true", &flags);
    assert_eq!((code, &stderr[..]), (Some(0), ""));
    assert!(stdout.contains("max-connections"), "{stdout}");
    let socket = fs::read_to_string(package("echopool-echo.socket")).expect("the socket unit");
    let name = socket.lines().find_map(|line| line.strip_prefix("FileDescriptorName="));
    let configuration = fs::read_to_string(package("echopool.toml")).expect("the configuration");
    assert!(configuration.contains(&format!("\"fd:{}\"", name.expect("a name"))));
}

/// The unit leaves out what the daemon may not do without: the network.
#[test]
fn the_unit_is_hardened() {
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=yes", "--threshold=15", &package("echopool.service")]);
    match analyze.output() {
        Err(error) => skip(&format!("systemd-analyze: {error}")),
        Ok(output) => {
            let shown = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "above 1.5:\n{shown}");
            assert!(shown.contains("Overall exposure level"), "{shown}");
        }
    }
}
