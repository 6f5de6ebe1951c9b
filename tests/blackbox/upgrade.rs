//! Upgrades: a new process takes over, and no client notices. The program is started by a symbolic
//! link, which then leads to another program.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::admin::{connect, get};
use crate::config::{ConfigFile, make_pipe, other_end};
use crate::control::{TOKEN, TokenFile, authorized};
use crate::harness::{
    Client, Daemon, Fleet, GUARD, NO_SANDBOX, binary, eventually, have, meanwhile,
};
use crate::listeners::{fresh, listen};
use crate::systemd::passing;
use crate::tls::Directory;

/// A daemon that is upgraded. Dropping it kills the processes that have taken over.
struct Upgraded {
    daemon: Daemon,
    folder: PathBuf,
}

impl Upgraded {
    fn start(flags: &[&str]) -> Upgraded {
        Upgraded::start_under("true", flags)
    }

    /// Starts it after a shell command in the same process, which may start `"$0"` itself.
    fn start_under(shell: &str, flags: &[&str]) -> Upgraded {
        let folder = folder();
        symlink(binary(), folder.join("echopool")).expect("linking the program");
        let token = TokenFile::new(TOKEN);
        fs::copy(token.path(), folder.join("token")).expect("copying the token");
        let path = |name: &str| folder.join(name).to_str().expect("text").to_owned();
        let (token, program) = (path("token"), path("echopool"));
        let shell = match shell.contains("\"$0\"") {
            true => shell.replace("\"$0\"", &program),
            false => format!("{shell} && exec {program} \"$@\""),
        };
        let admin = ["--admin", "127.0.0.1:0", "--admin-token-file", &token];
        let daemon = Daemon::start_under(&shell, &[flags, &admin].concat());
        Upgraded { daemon, folder }
    }

    /// Makes the name of the program lead to a script.
    fn install(&self, script: &str) {
        let path = self.folder.join("script");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writing a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        self.lead_to(&path);
    }

    fn lead_to(&self, program: &Path) {
        let (new, name) = (self.folder.join("new"), self.folder.join("echopool"));
        symlink(program, &new).expect("linking the program");
        fs::rename(new, name).expect("replacing the link");
    }

    /// Upgrades. Returns the status and the text of the reply.
    fn ask(&self) -> (u16, String) {
        let (status, reply) = authorized(&self.daemon, "/api/v1/upgrade", b"");
        let reply: serde_json::Value = serde_json::from_str(&reply).expect("JSON");
        assert_eq!(reply["upgraded"], status == 200);
        (status, reply["text"].as_str().expect("a text").to_owned())
    }

    /// Upgrades, which succeeds. Returns the new process.
    fn upgrade(&self) -> Pid {
        let before = self.successors().len();
        let (status, text) = self.ask();
        assert_eq!(status, 200, "{text}");
        eventually("it is in the log", || self.successors().len() > before);
        self.successors()[before]
    }

    /// The processes that have taken over, one after the other.
    fn successors(&self) -> Vec<Pid> {
        let lines = self.daemon.lines_with("has taken over; ");
        let number = |line: &String| {
            let (_, rest) = line.split_once(": process ")?;
            Pid::from_raw(rest.split(' ').next()?.parse().ok()?)
        };
        lines.iter().filter_map(number).collect()
    }

    fn metric(&self, name: &str) -> u64 {
        let (_, page) = get(&self.daemon, "/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
    }

    fn first_has_ended(&mut self) {
        eventually("the first process ends", || self.daemon.try_wait().is_some());
        assert_eq!(
            self.daemon.try_wait().expect("ended").code(),
            Some(0),
            "{}",
            self.daemon.tail()
        );
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        for process in self.successors() {
            let exe = fs::read_link(format!("/proc/{}/exe", process.as_raw_nonzero()));
            if exe.is_ok_and(|exe| exe == fs::canonicalize(binary()).expect("the program")) {
                let _ = kill_process(process, Signal::KILL);
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("echopool-up-{}-{number}", std::process::id()));
    fs::create_dir(&path).expect("a folder");
    path
}

fn runs(process: Pid) -> bool {
    // One that has ended and that nobody has waited for is a zombie.
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.rsplit_once(") ").expect("a state").1.starts_with('Z'))
}

fn ping(stream: &mut (impl Read + Write), text: &[u8]) {
    stream.write_all(text).expect("sending");
    let mut reply = vec![0; text.len()];
    stream.read_exact(&mut reply).expect("the echo");
    assert_eq!(reply, text);
}

/// The address of a ready line that begins like this.
fn target(daemon: &Daemon, scheme: &str) -> SocketAddr {
    let of = |target: &String| target.strip_prefix(scheme)?.split('?').next()?.parse().ok();
    daemon.targets().iter().find_map(of).expect("its ready line")
}

#[test]
fn clients_of_every_kind_of_address_notice_nothing_of_upgrades() {
    let folder = folder();
    let (file, name) = (folder.join("e.sock"), format!("echopool-{}", std::process::id()));
    let (file_url, name_url) = (format!("unix://{}", file.display()), format!("unix://@{name}"));
    let listen = ["127.0.0.1:0", "udp://127.0.0.1:0", &file_url, &name_url];
    let flags: Vec<&str> = listen.iter().flat_map(|on| ["--listen", *on]).collect();
    let mut upgraded = Upgraded::start(&[&flags[..], &["--workers", "2"]].concat());
    let daemon = &upgraded.daemon;
    let (tcp, udp) = (daemon.address(), target(daemon, "udp://"));
    let abstract_name = UnixSocketAddr::from_abstract_name(&name).expect("a name");
    let (mut early, mut early_unix) =
        (Client::connect(tcp), UnixStream::connect(&file).expect("connecting"));
    early.ping(1_000);
    ping(&mut early_unix, b"early");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(GUARD)).expect("a time-out");
    let mut rounds = 0;
    let connect_and_ping = || {
        // Without a pause, so that some wait in a backlog when the process changes.
        ping(&mut TcpStream::connect(tcp).expect("connecting"), b"tcp");
        ping(&mut UnixStream::connect(&file).expect("connecting"), b"file");
        ping(&mut UnixStream::connect_addr(&abstract_name).expect("connecting"), b"abstract");
        client.send_to(b"datagram", udp).expect("sending");
        assert_eq!(client.recv(&mut [0; 100]).expect("the echo"), 8);
        rounds += 1;
    };
    meanwhile(connect_and_ping, || {
        for done in 1..=5 {
            let process = upgraded.upgrade();
            assert!(runs(process));
            assert_eq!(upgraded.metric("echopool_upgrades_total"), done);
            early.ping(1_000);
        }
    });
    assert!(rounds >= 5, "{rounds} rounds");
    assert_eq!(upgraded.metric("echopool_upgrades_failed_total"), 0);
    // The connections have moved, too.
    upgraded.first_has_ended();
    let all = upgraded.successors();
    let (last, others) = all.split_last().expect("five");
    eventually("only the last one runs", || !others.iter().any(|process| runs(*process)));
    ping(&mut early_unix, b"still there");
    early.ping(1_000);
    drop((early, early_unix));
    // Its drain closes what it has taken over, and it removes the file.
    kill_process(*last, Signal::TERM).expect("ending it");
    eventually("it ends", || !runs(*last));
    assert!(!file.exists() && TcpStream::connect(tcp).is_err());
    fs::remove_dir_all(folder).expect("removing the folder");
}

#[test]
fn what_is_no_new_version_changes_nothing() {
    let config = crate::config::ConfigFile::new("linger = '1s'\n");
    // Longer than a program takes to start on a busy machine.
    let flags = ["--upgrade-timeout", "5s", "--config", config.path()];
    let upgraded = Upgraded::start_under(NO_SANDBOX, &flags);
    let mut client = Client::connect(upgraded.daemon.address());
    let real = fs::canonicalize(binary()).expect("the program");
    let older = format!("first=$1; shift; exec {} \"$@\" \"$first\"", real.display());
    let taken = TcpListener::bind("127.0.0.1:0").expect("an address");
    let taken = taken.local_addr().expect("its address");
    let missing = upgraded.folder.join("missing");
    type Step<'a> = Box<dyn Fn() + 'a>;
    let steps: [(Step<'_>, String); 8] = [
        (Box::new(|| upgraded.install("exit 3")), "has ended (exit status: 3)".into()),
        (Box::new(|| upgraded.install("kill -SEGV $$")), "has ended (signal: 11 (SIGSEGV)".into()),
        (Box::new(|| upgraded.install("exec sleep 60")), "not ready after 5s (--upgrade-t".into()),
        (Box::new(|| upgraded.install(&older)), "has ended (exit status: 2)".into()),
        (Box::new(|| upgraded.lead_to(&missing)), "No such file".into()),
        (
            Box::new(|| {
                upgraded.lead_to(&real);
                config.write("linger = 2\n");
            }),
            format!("{}:1: linger: a time needs a unit", config.path()),
        ),
        (
            Box::new(|| config.write("workers = 0\n")),
            ":1: workers is 0, but must be from 1 to 64".into(),
        ),
        (
            Box::new(|| config.write(&format!("listen = ['{taken}']\n"))),
            "the address is in use".into(),
        ),
    ];
    for (at, (step, text)) in (1..).zip(&steps) {
        step();
        // The flag of the harness takes precedence over the file, except in a copy of the flags.
        if text == "the address is in use" {
            let line = format!("exec {} \"$@\" --listen {taken}", real.display());
            config.write("");
            upgraded.install(&line);
        }
        let (status, said) = upgraded.ask();
        assert!(status == 409 && said.contains(&text[..]), "{text}: {status} {said}");
        let line = format!("admin: not upgraded: {said}");
        upgraded.daemon.wait_lines(1, &line);
        assert_eq!(upgraded.metric("echopool_upgrades_failed_total"), at);
        client.ping(1_000);
        Client::connect(upgraded.daemon.address()).ping(10);
    }
    // The next one succeeds, and knows of the others.
    upgraded.lead_to(&real);
    config.write("");
    upgraded.upgrade();
    assert_eq!(upgraded.metric("echopool_upgrades_failed_total"), 8);
    Client::connect(upgraded.daemon.address()).ping(10);
}

#[test]
fn a_second_upgrade_and_one_of_an_ending_daemon_are_refused() {
    let mut upgraded =
        Upgraded::start_under(NO_SANDBOX, &["--upgrade-timeout", "1m", "--drain-timeout", "1m"]);
    let mut client = Client::connect(upgraded.daemon.address());
    client.ping(10);
    upgraded.install("exec sleep 61");
    thread::scope(|scope| {
        let first = scope.spawn(|| upgraded.ask());
        eventually("it starts", || upgraded.daemon.log().contains("admin: starting "));
        assert_eq!(upgraded.ask(), (409, "another upgrade is under way".to_owned()));
        upgraded.daemon.signal(Signal::USR2);
        let line = "SIGUSR2: another upgrade is under way";
        eventually("a line", || upgraded.daemon.log().contains(line));
        upgraded.daemon.signal(Signal::TERM);
        assert_eq!(first.join().expect("a reply"), (409, "the daemon is ending".to_owned()));
    });
    drop(client);
    upgraded.first_has_ended();
}

#[test]
fn what_a_new_process_would_not_know_is_not_changed_while_it_starts() {
    let upgraded = Upgraded::start_under(NO_SANDBOX, &["--upgrade-timeout", "1m"]);
    let fail = upgraded.folder.join("fail");
    let until = format!("until test -e {}; do sleep 0.01; done; exit 1", fail.display());
    upgraded.install(&until);
    let changes = ["/api/v1/reload", "/api/v1/listeners/0/stop", "/api/v1/listeners/0/start"];
    let wrong = "an upgrade is under way: try again when it has ended";
    thread::scope(|scope| {
        let first = scope.spawn(|| upgraded.ask());
        eventually("it starts", || upgraded.daemon.log().contains("admin: starting "));
        for change in changes {
            let (status, reply) = authorized(&upgraded.daemon, change, b"");
            assert!(status == 409 && reply.contains(wrong), "{change}: {status} {reply}");
        }
        upgraded.daemon.signal(Signal::HUP);
        let line = format!("SIGHUP: nothing is changed: {wrong}");
        eventually("a line", || upgraded.daemon.log().contains(&line));
        fs::write(&fail, "").expect("writing a file");
        assert_eq!(first.join().expect("a reply").0, 409);
    });
    // The process that goes on can be changed again.
    for change in changes {
        let (status, reply) = authorized(&upgraded.daemon, change, b"");
        assert_eq!(status, 200, "{change}: {reply}");
    }
    upgraded.daemon.signal(Signal::HUP);
    eventually("a reload", || upgraded.daemon.log().contains("SIGHUP: reloaded"));
}

#[test]
fn an_upgrade_gives_up_its_wait_for_a_reload_that_hangs() {
    let files = Directory::new();
    let [settings, cert, key] = ["settings", "cert.pem", "key.pem"].map(|name| files.file(name));
    fs::write(&settings, "upgrade-timeout = '1s'").expect("writing a file");
    let url = format!("tls://127.0.0.1:0?cert={cert}&key={key}");
    let upgraded = Upgraded::start(&["--config", &settings, "--listen", &url]);
    let certificate = fs::read(&cert).expect("reading a file");
    make_pipe(&cert);
    upgraded.daemon.signal(Signal::HUP);
    let mut pipe = other_end(&cert);
    let wrong = "a reload, or a stop or start of a listener, has not ended after 1s";
    assert_eq!(upgraded.ask(), (409, wrong.to_owned()));
    // Other changes are possible again.
    for change in ["/api/v1/listeners/0/stop", "/api/v1/listeners/0/start"] {
        assert_eq!(authorized(&upgraded.daemon, change, b"").0, 200, "{change}");
    }
    pipe.write_all(&certificate).expect("writing into the pipe");
    drop(pipe);
    eventually("the reload ends", || {
        upgraded.daemon.log().contains("SIGHUP: reloaded, generation=2")
    });
    fs::remove_file(&cert).expect("removing the pipe");
    fs::write(&cert, certificate).expect("writing a file");
    fs::write(&settings, "upgrade-timeout = '1m'").expect("writing a file");
    upgraded.daemon.signal(Signal::HUP);
    eventually("a reload", || upgraded.daemon.log().contains("SIGHUP: reloaded, generation=3"));
    upgraded.upgrade();
}

#[test]
fn sigusr2_upgrades_and_a_drain_of_the_old_process_ends_its_connections() {
    let listen = ["--listen", "127.0.0.1:0", "--listen", "hub://127.0.0.1:0"];
    let mut upgraded = Upgraded::start(&listen);
    let address = upgraded.daemon.address();
    // A member of a hub stays.
    let mut old = connect(upgraded.daemon.addresses()[1]);
    old.read_exact(&mut [0; 13]).expect("WELCOME");
    upgraded.daemon.signal(Signal::USR2);
    eventually("it takes over", || upgraded.successors().len() == 1);
    let successor = upgraded.successors()[0];
    let mut new = Client::connect(address);
    new.ping(10);
    // Only once.
    upgraded.daemon.signal(Signal::USR2);
    let line = "SIGUSR2: not upgraded: another process has taken over";
    eventually("a line", || upgraded.daemon.log().contains(line));
    upgraded.daemon.signal(Signal::HUP);
    let line = "SIGHUP: nothing is changed: another process has taken over";
    eventually("a line", || upgraded.daemon.log().contains(line));
    assert!(upgraded.daemon.try_wait().is_none(), "it has a connection");
    upgraded.daemon.signal(Signal::TERM);
    assert_eq!(old.read(&mut [0; 1]).expect("FIN"), 0);
    drop(old);
    upgraded.first_has_ended();
    new.ping(1_000);
    assert!(runs(successor));
}

/// The new process's part of an upgrade, up to the moves. It waits for a file before it says that it
/// serves.
const SLOW_TO_SERVE: &str = r#"
import json, os, socket, sys, time
folder = os.path.dirname(sys.argv[0])
channel = socket.socket(fileno=int(sys.argv[1].split("=")[1]))
opening = json.loads(channel.recv(65536))
for _ in range(opening["groups"]):
    socket.recv_fds(channel, 65536, 128)
channel.send(b'{"Ready":{"taken":[0]}}')
assert channel.recv(65536) == b"null"
open(folder + "/told", "w").close()
while not os.path.exists(folder + "/serve"):
    time.sleep(0.001)
channel.send(b'"Serving"')
channel.recv(65536)
"#;

#[test]
fn an_end_between_go_and_the_new_process_serving_waits_until_the_sockets_are_left_to_it() {
    if !have("python3") {
        return;
    }
    let mut upgraded = Upgraded::start_under(NO_SANDBOX, &["--drain-timeout", "1m"]);
    let mut client = Client::connect(upgraded.daemon.address());
    client.ping(10);
    let program = upgraded.folder.join("slow.py");
    fs::write(&program, SLOW_TO_SERVE).expect("writing a program");
    upgraded.install(&format!("exec python3 {} \"$@\"", program.display()));
    thread::scope(|scope| {
        let asked = scope.spawn(|| upgraded.ask());
        let told = upgraded.folder.join("told");
        eventually("the new process is told to go", || told.exists());
        upgraded.daemon.signal(Signal::TERM);
        // Nobody is drained: the new process may serve already, and its sockets are the same.
        (0..200).for_each(|_| client.ping(1_000));
        assert!(!upgraded.daemon.log().contains("draining"), "{}", upgraded.daemon.tail());
        fs::write(upgraded.folder.join("serve"), "").expect("writing a file");
        let (status, text) = asked.join().expect("a reply");
        assert!(status == 200 && text.contains("has taken over"), "{status} {text}");
    });
    let line = "SIGTERM: draining";
    eventually("then it drains", || upgraded.daemon.log().contains(line));
    drop(client);
    upgraded.first_has_ended();
    let log = upgraded.daemon.log();
    assert!(log.find("has taken over") < log.find(line), "{log}");
}

/// The running process's part of an upgrade, beside a new process that this starts. It changes the
/// file of the settings between SIGHUP and the message to go, when the new process has done with the
/// signal what it does with it.
const SLOW_TO_LEAVE: &str = r#"
import json, os, signal, socket, sys, time
own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
program, args = sys.argv[1], sys.argv[2:]
if os.fork():
    own.close()
    other.set_inheritable(True)
    os.execv(program, [program, f"--upgrade-from={other.fileno()}"] + args)
other.close()
upgrades = {"done": 1, "failed": 0}
opening = {"version": 1, "process": os.getpid(), "upgrades": upgrades, "groups": 0}
own.send(json.dumps(opening).encode())
assert "Ready" in json.loads(own.recv(65536))
new = os.getppid()
os.kill(new, signal.SIGHUP)
def settled():
    # No thread has anything to do, and the signal has arrived.
    try:
        for task in os.listdir(f"/proc/{new}/task"):
            with open(f"/proc/{new}/task/{task}/status") as file:
                status = file.read()
            if "State:\tS" not in status or "ShdPnd:\t0000000000000000" not in status:
                return False
        return True
    except OSError:
        return False
looks, end = 0, time.monotonic() + 60
while looks < 10:
    assert time.monotonic() < end, "it is never asleep"
    looks = looks + 1 if settled() else 0
    time.sleep(0.002)
with open(args[args.index("--config") + 1], "w") as file:
    file.write("send-timeout = \"7s\"")
own.send(b"null")
assert json.loads(own.recv(65536)) == "Serving"
own.send(b"null")
"#;

#[test]
fn sighup_before_the_takeover_is_obeyed_after_it() {
    if !have("python3") {
        return;
    }
    let file = ConfigFile::new("");
    let shell = format!("exec python3 -c '{SLOW_TO_LEAVE}' \"$0\" \"$@\"");
    let daemon = Daemon::start_under(&shell, &["--config", file.path()]);
    eventually("a reload", || daemon.log().contains("SIGHUP: "));
    let line = "SIGHUP: reloaded, generation=2: send-timeout 30s -> 7s";
    assert!(daemon.log().contains(line), "{}", daemon.tail());
    Client::connect(daemon.address()).ping(1_000);
    daemon.finish();
}

/// A client of the generator, which checks each byte.
struct Lines<S> {
    socket: S,
    /// How many bytes it has read.
    count: usize,
}

impl<S: Read> Lines<S> {
    fn of(socket: S) -> Lines<S> {
        Lines { socket, count: 0 }
    }

    fn read(&mut self, count: usize) {
        /// The lines repeat after this many bytes.
        const PERIOD: usize = 74 * 95;
        static STREAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let line = |first: usize| {
                let characters = (b' '..=b'~').cycle().skip(first % 95).take(72);
                characters.chain(*b"\r\n").collect::<Vec<u8>>()
            };
            (0..3 * 95).flat_map(line).collect()
        });
        let mut room = [0; PERIOD];
        let end = self.count + count;
        while self.count < end {
            let room = &mut room[..PERIOD.min(end - self.count)];
            self.socket.read_exact(room).expect("more of the stream");
            let expected = &STREAM[self.count % PERIOD..][..room.len()];
            assert!(room == expected, "a wrong byte behind {}", self.count);
            self.count += room.len();
        }
    }
}

/// Whether they read all the time, now and then or not at all, and whether or not they still send.
#[test]
fn clients_of_the_generator_move_and_get_each_byte_once() {
    let folder = folder();
    let file = folder.join("c.sock");
    let unix = format!("chargen+unix://{}", file.display());
    let listen = ["--listen", "chargen://127.0.0.1:0", "--listen", &unix, "--workers", "2"];
    let mut upgraded = Upgraded::start(&listen);
    let address = upgraded.daemon.address();
    let lines = || Lines::of(connect(address));
    let (mut now_and_then, mut later, mut half_closed, mut sends) =
        (lines(), lines(), lines(), lines());
    let mut at_file = Lines::of(UnixStream::connect(&file).expect("connecting"));
    at_file.socket.set_read_timeout(Some(GUARD)).expect("a time-out");
    half_closed.socket.shutdown(Shutdown::Write).expect("FIN");
    let mut busy: Vec<_> = (0..4).map(|_| lines()).collect();
    let mut processes = vec![upgraded.daemon.pid()];
    let read_on = || busy.iter_mut().for_each(|client| client.read(100_000));
    meanwhile(read_on, || {
        for _ in 0..4 {
            now_and_then.read(10_000);
            at_file.read(10_000);
            sends.socket.write_all(b"what it says is discarded").expect("sending");
            let old = *processes.last().expect("one");
            processes.push(upgraded.upgrade());
            eventually("all have moved, so that the old process ends", || !runs(old));
        }
    });
    let taken_over = "echopool_connections_taken_over_total";
    let of = |worker| upgraded.metric(&format!("{taken_over}{{worker=\"{worker}\"}}"));
    // The new process counts them a little later than the old one ends.
    eventually("all are counted", || of(0) + of(1) == 9);
    for client in [&mut now_and_then, &mut later, &mut half_closed, &mut sends] {
        client.read(10_000_000);
    }
    at_file.read(1_000_000);
    busy.iter_mut().for_each(|client| client.read(1_000_000));
    upgraded.first_has_ended();
    fs::remove_dir_all(folder).expect("removing the folder");
}

/// Each client sends as soon as it has its bytes back, so the processes change in the middle of that.
#[test]
fn a_thousand_clients_in_use_move_five_times_and_get_every_byte() {
    const CLIENTS: usize = 1_000;
    let upgraded = Upgraded::start(&["--workers", "2"]);
    let mut fleet = Fleet::connect(upgraded.daemon.address(), CLIENTS);
    fleet.set_window(100);
    thread::scope(|scope| {
        let upgrades = scope.spawn(|| {
            for _ in 0..5 {
                let last = upgraded.successors().last().copied();
                upgraded.upgrade();
                eventually("all have moved", || !runs(last.unwrap_or(upgraded.daemon.pid())));
            }
        });
        while !upgrades.is_finished() {
            // Checks each byte, and that nobody was closed.
            fleet.echo(1_000);
        }
    });
    fleet.echo(1_000);
    let moved = "echopool_connections_taken_over_total";
    let of = |worker| upgraded.metric(&format!("{moved}{{worker=\"{worker}\"}}"));
    eventually("all have moved", || of(0) + of(1) == CLIENTS as u64);
}

/// Each of them goes on at the process that has it, and moves when it waits for bytes.
#[test]
fn what_has_output_input_or_a_service_that_stays_is_served_by_the_old_process() {
    let listen = ["127.0.0.1:0", "framed://127.0.0.1:0", "hub://127.0.0.1:0"];
    let more = ["message://127.0.0.1:0?delimiter=%0A&after=keep", "discard://127.0.0.1:0"];
    let flags: Vec<&str> = listen.iter().chain(&more).flat_map(|on| ["--listen", *on]).collect();
    let mut upgraded = Upgraded::start(&flags);
    let at = upgraded.daemon.addresses().to_vec();
    let mut slow = Client::connect_with_small_window(at[0], 4096);
    let sent = slow.send_without_waiting(64 << 20);
    let [mut framed, mut member, mut message, mut discard] =
        [1, 2, 3, 4].map(|at_| connect(at[at_]));
    framed.write_all(b"\x05\0\0\0he").expect("half a frame");
    message.write_all(b"hal").expect("half a message");
    discard.write_all(b"nothing").expect("bytes");
    member.read_exact(&mut [0; 13]).expect("WELCOME");
    eventually("all are there", || upgraded.metric("echopool_ready") == 1);
    let connections = || {
        let (_, page) = get(&upgraded.daemon, "/metrics");
        let lines = page.lines().filter(|line| line.starts_with("echopool_connections{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    eventually("five are there", || connections() == 5);
    upgraded.upgrade();
    eventually("discard has moved", || connections() == 1);
    discard.write_all(b"more").expect("bytes");
    framed.write_all(b"llo").expect("the rest");
    let mut reply = [0; 9];
    framed.read_exact(&mut reply).expect("the frame");
    assert_eq!(&reply, b"\x05\0\0\0hello");
    message.write_all(b"f\n").expect("the rest");
    message.read_exact(&mut reply[..5]).expect("the message");
    assert_eq!(&reply[..5], b"half\n");
    eventually("framed and message have moved", || connections() == 3);
    ping(&mut framed, b"\x01\0\0\0x");
    ping(&mut message, b"again\n");
    slow.expect(sent);
    eventually("the slow one has moved", || connections() == 4);
    slow.ping(100_000);
    assert!(upgraded.daemon.try_wait().is_none(), "it has the member of the hub");
    drop(member);
    upgraded.first_has_ended();
}

#[test]
fn a_connection_stays_if_the_new_process_has_no_place_or_another_service_for_it() {
    let config = crate::config::ConfigFile::new("max-connections = 10\nmax-frame = '1k'\n");
    let listen = ["--config", config.path(), "--listen", "framed://127.0.0.1:0"];
    let mut upgraded = Upgraded::start(&listen);
    let address = upgraded.daemon.address();
    let mut clients: Vec<TcpStream> = (0..10).map(|_| connect(address)).collect();
    let mut all_are_served = || clients.iter_mut().for_each(|it| ping(it, b"\x01\0\0\0x"));
    all_are_served();
    config.write("max-connections = 4\nmax-frame = '1k'\n");
    upgraded.upgrade();
    let connections = || {
        let (_, page) = get(&upgraded.daemon, "/metrics");
        let lines = page.lines().filter(|line| line.starts_with("echopool_connections{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    eventually("four have moved", || connections() == 4);
    all_are_served();
    // Another limit of frames is another service.
    config.write("max-connections = 10\nmax-frame = '10k'\n");
    upgraded.upgrade();
    let _new = connect(address);
    eventually("none has moved", || connections() == 1);
    all_are_served();
    drop(clients);
    upgraded.first_has_ended();
}

/// With fewer workers than before, some accept from several sockets.
#[test]
fn the_new_process_has_its_own_settings() {
    let config = crate::config::ConfigFile::new("workers = 1\n");
    let flags = ["--config", config.path(), "--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"];
    let upgraded = Upgraded::start(&[&flags[..], &["--listen", "udp://127.0.0.1:0"]].concat());
    let udp = target(&upgraded.daemon, "udp://");
    let stopped = authorized(&upgraded.daemon, "/api/v1/listeners/1/stop", b"");
    assert_eq!(stopped.0, 200);
    for workers in [4, 2, 1, 3] {
        config.write(&format!("workers = {workers}\nidle-timeout = '1h'\n"));
        upgraded.upgrade();
        let (_, page) = get(&upgraded.daemon, "/api/v1/config");
        assert!(page.contains(&format!("\"workers\":{workers}")), "{page}");
        // Each connection goes to one of the sockets, by the hash of its addresses.
        let clients: Vec<Client> = (0..64)
            .map(|_| {
                let mut client = Client::connect(upgraded.daemon.address());
                client.ping(100);
                client
            })
            .collect();
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.set_read_timeout(Some(GUARD)).expect("a time-out");
        client.send_to(b"datagram", udp).expect("sending");
        assert_eq!(client.recv(&mut [0; 100]).expect("the echo"), 8);
        drop(clients);
        let (_, page) = get(&upgraded.daemon, "/api/v1/listeners");
        assert_eq!(page.matches("\"accepting\":false").count(), 1, "{page}");
    }
    assert_eq!(authorized(&upgraded.daemon, "/api/v1/listeners/1/start", b"").0, 200);
    Client::connect(upgraded.daemon.addresses()[1]).ping(100);
}

#[test]
fn the_service_manager_follows_the_new_process() {
    let folder = folder();
    let path = folder.join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let next = |deadline: Instant| {
        // Not 0, which would be no time-out.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
        manager.set_read_timeout(Some(left)).expect("a time-out");
        let mut message = [0; 4096];
        let length = manager.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).expect("text"))
    };
    // The shell that starts the daemon has its process id.
    let shell = format!(
        "export NOTIFY_SOCKET={} WATCHDOG_PID=$$ WATCHDOG_USEC=100000000 && {}",
        path.display(),
        passing(&["web=tcp"])
    );
    let mut upgraded =
        Upgraded::start_under(&format!("{NO_SANDBOX}; {shell}"), &["--listen", "framed://fd:web"]);
    let address = upgraded.daemon.address();
    let ready = |process: &str| {
        // For all of them: the watchdog is fed meanwhile.
        let (mut seen, deadline) = (Vec::new(), Instant::now() + GUARD);
        while seen.last().is_none_or(|last: &String| !last.starts_with(process)) {
            let message = next(deadline);
            seen.push(message.unwrap_or_else(|| panic!("no {process:?} after {seen:?}")));
        }
        seen
    };
    ready("READY=1\nSTATUS=serving on 1 address");
    // A reload that is refused has an end, too: the manager waits for it.
    let fail = folder.join("fail");
    upgraded.install(&format!("until test -e {}; do sleep 0.01; done; exit 1", fail.display()));
    thread::scope(|scope| {
        let first = scope.spawn(|| upgraded.ask());
        eventually("it starts", || upgraded.daemon.log().contains("admin: starting "));
        upgraded.daemon.signal(Signal::HUP);
        let seen = ready("READY=1\nSTATUS=nothing is changed: an upgrade is under way");
        assert!(seen.iter().any(|message| message.starts_with("RELOADING=1\n")), "{seen:?}");
        fs::write(&fail, "").expect("writing a file");
        assert_eq!(first.join().expect("a reply").0, 409);
    });
    ready("STATUS=not upgraded: the new process has ended (exit status: 1)");
    upgraded.install("exit 2");
    assert_eq!(upgraded.ask().0, 409);
    ready("STATUS=upgrading");
    ready("STATUS=not upgraded: the new process has ended (exit status: 2)");
    upgraded.lead_to(&fs::canonicalize(binary()).expect("the program"));
    let process = upgraded.upgrade();
    let main = format!("MAINPID={}", process.as_raw_nonzero());
    let told = ready("READY=1\nSTATUS=serving on 1 address");
    assert!(told.iter().any(|text| text.trim_end() == main), "{main} in {told:?}");
    upgraded.first_has_ended();
    // The socket of the manager went along, and the new process feeds the watchdog and says its end.
    let mut client = TcpStream::connect(address).expect("connecting");
    ping(&mut client, b"\x01\0\0\0x");
    upgraded.upgrade();
    let told = ready("READY=1\nSTATUS=serving on 1 address");
    assert!(told.iter().all(|text| !text.contains("STOPPING")), "{told:?}");
    let last = *upgraded.successors().last().expect("two");
    kill_process(last, Signal::TERM).expect("ending it");
    ready("STOPPING=1");
    eventually("it ends", || !runs(last));
    drop(client);
    fs::remove_dir_all(folder).expect("removing the folder");
}

/// What is handed over are the listeners of the moment, not those of the start.
#[test]
fn an_upgrade_after_a_reload_hands_over_what_was_added_and_not_what_was_removed() {
    let [first, second, third] = [(); 3].map(|()| fresh());
    let [a, b, c] = [first, second, third].map(|at| at.to_string());
    let framed = "framed://127.0.0.1:0";
    let config = crate::config::ConfigFile::new(&listen(&[&a, &b, framed]));
    let mut upgraded = Upgraded::start(&["--config", config.path(), "--workers", "2"]);
    let [mut of_removed, mut of_kept] = [first, second].map(Client::connect);
    // Of two at port 0 each keeps its service and its port, whatever their numbers are.
    config.write(&listen(&[&c, "127.0.0.1:0", &b, framed]));
    let line = upgraded.daemon.reload();
    assert!(!line.contains("needs a restart"), "{line}");
    let targets = || {
        let (_, page) = get(&upgraded.daemon, "/api/v1/listeners");
        let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
        let rows = page["listeners"].as_array().expect("a list").clone();
        let target = |row: &serde_json::Value| row["target"].as_str().expect("text").to_owned();
        let mut targets: Vec<String> = rows.iter().map(target).collect();
        targets.sort();
        targets
    };
    let before = targets();
    assert_eq!(before.len(), 4);
    let mut of_added = Client::connect(third);
    for client in [&mut of_removed, &mut of_kept, &mut of_added] {
        client.ping(1_000);
    }
    let connect_and_ping = || Client::connect(third).ping(10);
    meanwhile(connect_and_ping, || upgraded.upgrade());
    assert_eq!(targets(), before);
    assert!(TcpStream::connect(first).is_err());
    let taken_over = "echopool_connections_taken_over_total";
    let of = |worker| upgraded.metric(&format!("{taken_over}{{worker=\"{worker}\"}}"));
    eventually("those of listeners that are there have moved", || of(0) + of(1) >= 2);
    for client in [&mut of_removed, &mut of_kept, &mut of_added] {
        client.ping(1_000);
    }
    assert!(upgraded.daemon.try_wait().is_none(), "it has the client of what was removed");
    drop(of_removed);
    upgraded.first_has_ended();
    for client in [&mut of_kept, &mut of_added] {
        client.ping(1_000);
    }
    for at in [second, third] {
        Client::connect(at).ping(1_000);
    }
    // The new process can be reloaded as well, and the old listener comes back.
    config.write(&listen(&[&a, &b]));
    let process = upgraded.successors()[0];
    kill_process(process, Signal::HUP).expect("reloading it");
    eventually("it listens", || TcpStream::connect(first).is_ok());
    eventually("it has closed it", || TcpStream::connect(third).is_err());
    for client in [&mut of_kept, &mut of_added] {
        client.ping(1_000);
    }
}
