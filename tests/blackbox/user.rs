//! `--user`: what needs root is opened first, and then the daemon is another user, in all of its threads
//! and for ever. The tests are root.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::harness::{Client, Daemon, binary, eventually, run_to_end, skip};

/// Of the user nobody on Debian. A user of a number needs no entry, but nobody has one.
pub const NOBODY: u32 = 65_534;

/// Whether the tests are root. If not, the test is skipped.
pub fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        skip("only root can become another user");
    }
    is_root
}

/// A folder that every user can look into, with a copy of the program. It is removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echopool-user-{}-{number}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        folder.make("", 0o755);
        folder.make("bin", 0o755);
        fs::copy(binary(), folder.path("bin/echopool")).expect("copying the program");
        folder
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    /// Makes a folder in it.
    pub fn make(&self, name: &str, mode: u32) -> String {
        let path = self.path(name);
        fs::create_dir(&path).expect("a folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        path
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, contents: &str) -> String {
        let path = self.path(name);
        fs::write(&path, contents).expect("writing a file");
        path
    }

    /// Starts the copy of the program after a shell command in the same process.
    pub fn start_under(&self, shell: &str, flags: &[&str]) -> Daemon {
        let program = self.path("bin/echopool");
        Daemon::start_under(&format!("{shell} && exec {program} \"$@\""), flags)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Processes that have taken over from a daemon. Dropping them kills them.
pub struct Successors<'a> {
    daemon: &'a Daemon,
    program: String,
}

impl<'a> Successors<'a> {
    pub fn of(daemon: &'a Daemon, folder: &Folder) -> Successors<'a> {
        Successors { daemon, program: folder.path("bin/echopool") }
    }

    fn all(&self) -> Vec<Pid> {
        let lines = self.daemon.lines_with("has taken over; ");
        let number = |line: &String| {
            let (_, rest) = line.split_once(": process ")?;
            Pid::from_raw(rest.split(' ').next()?.parse().ok()?)
        };
        lines.iter().filter_map(number).collect()
    }

    /// Upgrades the process that serves now. Returns the new one.
    pub fn upgrade(&self) -> Pid {
        let before = self.all();
        let running = before.last().copied().unwrap_or_else(|| self.daemon.pid());
        kill_process(running, Signal::USR2).expect("asking for an upgrade");
        eventually("the upgrade ends", || {
            let refused = self.daemon.lines_with("not upgraded");
            assert!(refused.is_empty(), "{refused:?}");
            self.all().len() > before.len()
        });
        self.all()[before.len()]
    }

    /// Drains the process that serves now, until it has removed the file of its socket.
    pub fn drain(&self, socket: &str) {
        let running = *self.all().last().expect("an upgrade");
        kill_process(running, Signal::TERM).expect("draining it");
        eventually("it has removed its file", || fs::metadata(socket).is_err());
    }
}

impl Drop for Successors<'_> {
    fn drop(&mut self) {
        for process in self.all() {
            let exe = fs::read_link(format!("/proc/{}/exe", process.as_raw_nonzero()));
            if exe.is_ok_and(|exe| exe.to_str() == Some(&self.program)) {
                let _ = kill_process(process, Signal::KILL);
            }
        }
    }
}

/// The values of a line of the status of each thread of a process.
pub fn of_threads(process: Pid, line: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero()));
    let status = tasks.expect("its threads").filter_map(|task| {
        let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let value = status.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(":"));
        Some(value.expect("the line").split_whitespace().collect::<Vec<_>>().join(" "))
    });
    status.collect()
}

/// Checks that each thread is this user and group, without other groups and rights.
fn assert_is(process: Pid, user: u32, group: u32) {
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
    for (line, expected) in [
        ("Uid", four(user)),
        ("Gid", four(group)),
        ("Groups", String::new()),
        ("NoNewPrivs", "1".to_owned()),
        ("CapPrm", "0000000000000000".to_owned()),
        ("CapEff", "0000000000000000".to_owned()),
        ("CapAmb", "0000000000000000".to_owned()),
    ] {
        let all = of_threads(process, line);
        assert!(all.len() > 3 && all.iter().all(|one| *one == expected), "{line}: {all:?}");
    }
}

/// An address with a free port that only root may listen on.
fn low_port() -> SocketAddr {
    // Each call begins elsewhere, also in another process: the port is not taken yet.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_add(NEXT.fetch_add(20, Ordering::Relaxed));
    let ports = (0..400).map(|step| 600 + (begin.wrapping_add(step)) % 400);
    let mut all = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port as u16)));
    all.find(|at| TcpListener::bind(at).is_ok()).expect("a free port below 1024")
}

fn is_open_to_all() -> bool {
    let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let first = fs::read_to_string(path).map_or(1024, |text| text.trim().parse().expect("a port"));
    if first < 1024 {
        skip("every user may listen on ports below 1024 here");
    }
    first < 1024
}

#[test]
fn after_a_low_port_is_bound_every_thread_is_the_other_user() {
    if !is_root() {
        return;
    }
    let at = low_port().to_string();
    let tls = crate::tls::Directory::new();
    for file in ["cert.pem", "key.pem"] {
        fs::set_permissions(tls.file(file), fs::Permissions::from_mode(0o600)).expect("its mode");
    }
    let url =
        format!("tls://127.0.0.1:0?cert={}&key={}", tls.file("cert.pem"), tls.file("key.pem"));
    let udp = format!("udp://{at}");
    let flags = ["--listen", &at, "--listen", &url, "--listen", &udp, "--user", "nobody"];
    let more = ["--admin", "127.0.0.1:0", "--stats-interval", "1h"];
    let in_groups = r#"exec setpriv --groups=4,24 "$0" "$@""#;
    let daemon = Daemon::start_under(in_groups, &[&flags[..], &more].concat());
    assert_eq!(daemon.address().to_string(), at);
    assert_is(daemon.pid(), NOBODY, NOBODY);
    daemon.wait_lines(1, "the process is the user nobody now: uid=65534 gid=65534");
    Client::connect(daemon.address()).ping(10_000);
    let (status, _) = crate::admin::get(&daemon, "/readyz");
    assert_eq!(status, 200);
    // A thread that starts later.
    daemon.signal(Signal::HUP);
    daemon.wait_lines(1, "SIGHUP: reloaded");
    assert_is(daemon.pid(), NOBODY, NOBODY);
    daemon.finish();
}

#[test]
fn numbers_need_no_entry_and_a_group_can_be_another() {
    if !is_root() {
        return;
    }
    for (text, user, group) in [("123456:7", 123_456, 7), ("nobody:daemon", NOBODY, 1)] {
        let daemon = Daemon::start_under(&format!("export ECHOPOOL_USER={text}"), &[]);
        assert_is(daemon.pid(), user, group);
        Client::connect(daemon.address()).ping(100);
        daemon.finish();
    }
}

#[test]
fn the_files_of_sockets_are_the_users_unless_a_listener_says_otherwise() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let (own, of_root) = (folder.make("own", 0o755), folder.make("root", 0o755));
    chown(&own, Some(NOBODY), Some(NOBODY)).expect("giving it away");
    let plain = format!("unix://{own}/plain");
    let owned = format!("unix://{own}/owned?owner=:daemon&mode=0660");
    let left = format!("unix://{of_root}/left");
    let flags = ["--listen", &plain, "--listen", &owned, "--listen", &left];
    let admin = format!("unix://{own}/admin");
    let mut daemon =
        Daemon::start(&[&flags[..], &["--admin", &admin, "--user", "nobody:nogroup"]].concat());
    let owner =
        |path: &str| fs::metadata(path).map(|file| (file.uid(), file.gid())).expect("a file");
    assert_eq!(owner(&format!("{own}/plain")), (NOBODY, NOBODY));
    assert_eq!(owner(&format!("{own}/admin")), (NOBODY, NOBODY));
    assert_eq!(owner(&format!("{own}/owned")), (NOBODY, 1));
    assert_eq!(owner(&format!("{of_root}/left")), (NOBODY, NOBODY));
    UnixStream::connect(format!("{of_root}/left")).expect("a client");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    let files = fs::read_dir(&own).expect("its files").count();
    assert_eq!(files, 0, "removed by their owner");
    // What root alone can remove stays, and the next start replaces it.
    let left_there = daemon.lines_with(&format!("cannot remove the socket file {of_root}/left: "));
    assert!(left_there[0].contains("the next start replaces it"), "{left_there:?}");
    Daemon::start(&["--listen", &left, "--user", "nobody"]).finish();
}

#[test]
fn a_reload_does_what_the_user_may_and_says_what_only_root_can() {
    if !is_root() || is_open_to_all() {
        return;
    }
    let (folder, tls) = (Folder::new(), crate::tls::Directory::new());
    let mode = |bits| {
        let bits = fs::Permissions::from_mode(bits);
        fs::set_permissions(tls.file("key.pem"), bits).expect("its mode");
    };
    let key = format!("cert={}&key={}", tls.file("cert.pem"), tls.file("key.pem"));
    let settings = |more: &str, linger: u32| {
        let tls = format!("'tls://127.0.0.1:0?{key}'");
        format!("user = 'nobody'\nlinger = '{linger}s'\nlisten = ['127.0.0.1:0', {tls}{more}]\n")
    };
    let config = folder.write("echopool.toml", &settings("", 1));
    let daemon = Daemon::start(&["--config", &config]);
    let mut client = Client::connect(daemon.address());
    client.ping(100);

    // A key of root, and then one of everybody.
    mode(0o600);
    daemon.signal(Signal::HUP);
    let wrong = daemon.wait_lines(1, "are unchanged").remove(0);
    assert!(
        wrong.contains("Permission denied (os error 13); the daemon has become the user nobody"),
        "{wrong}"
    );
    mode(0o644);
    folder.write("echopool.toml", &settings("", 2));
    daemon.signal(Signal::HUP);
    daemon.wait_lines(1, "use the current certificates");
    daemon.wait_lines(1, "linger 1s -> 2s");

    // A listener that everybody may have, and then one that only root may have.
    folder.write("echopool.toml", &settings(", '127.0.0.2:0'", 2));
    daemon.signal(Signal::HUP);
    daemon.wait_lines(1, "SIGHUP: listening on tcp://127.0.0.2:");
    let low = low_port();
    folder.write("echopool.toml", &settings(&format!(", '127.0.0.2:0', '{low}'"), 2));
    daemon.signal(Signal::HUP);
    let wrong = daemon.wait_lines(1, "nothing is changed: ").remove(0);
    for part in [&format!("cannot listen on tcp://{low}"), "restart", "user nobody (--user)"] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
    assert!(TcpStream::connect(low).is_err());

    // A file of root. Then the user is another one, which needs a restart.
    fs::remove_file(&config).expect("removing it");
    symlink("/etc/shadow", &config).expect("linking");
    daemon.signal(Signal::HUP);
    let wrong = daemon.wait_lines(2, "nothing is changed: ").remove(1);
    assert!(
        wrong.contains("(--config): Permission denied") && wrong.contains("(--user)"),
        "{wrong}"
    );
    fs::remove_file(&config).expect("removing the link");
    folder.write("echopool.toml", &settings("", 2).replace("nobody", "daemon"));
    daemon.signal(Signal::HUP);
    let fixed = daemon.wait_lines(1, "needs a restart: ").remove(0);
    assert!(fixed.contains("user nobody -> daemon"), "{fixed}");
    client.ping(100);
    drop(client);
    daemon.finish();
}

#[test]
fn a_process_that_takes_over_is_the_user_already() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let own = folder.make("own", 0o755);
    chown(&own, Some(NOBODY), Some(NOBODY)).expect("giving it away");
    let (at, socket) = (low_port().to_string(), format!("{own}/socket"));
    let listen = ["--listen", &at, "--listen", &format!("unix://{socket}")];
    let mut daemon = folder.start_under("true", &[&listen[..], &["--user", "nobody"]].concat());
    let mut client = Client::connect(daemon.address());
    {
        let successors = Successors::of(&daemon, &folder);
        for round in 1..=2 {
            let new = successors.upgrade();
            assert_is(new, NOBODY, NOBODY);
            client.ping(10_000);
            Client::connect(daemon.address()).ping(100);
            assert_eq!(fs::metadata(&socket).expect("the file").uid(), NOBODY, "round {round}");
            UnixStream::connect(&socket).expect("a client");
        }
        drop(client);
        successors.drain(&socket);
    }
    eventually("the first process ends", || daemon.try_wait().is_some());
    assert_eq!(daemon.try_wait().expect("ended").code(), Some(0));
}

#[test]
fn a_program_that_the_user_may_not_start_is_no_upgrade() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let daemon = folder.start_under("true", &["--user", "nobody"]);
    let bits = fs::Permissions::from_mode(0o700);
    fs::set_permissions(folder.path("bin/echopool"), bits).expect("its mode");
    daemon.signal(Signal::USR2);
    let wrong = daemon.wait_lines(1, "not upgraded: cannot start ").remove(0);
    assert!(wrong.contains("the daemon has become the user nobody (--user)"), "{wrong}");
    Client::connect(daemon.address()).ping(100);
    daemon.finish();
}

#[test]
fn who_is_not_root_can_only_stay_who_it_is() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let become_it = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let shell = format!("exec {become_it} {} \"$@\"", folder.path("bin/echopool"));
    let as_nobody = |flags: &[&str]| run_to_end(&shell, flags);
    for flags in [&["--user", "daemon"][..], &["--user", "daemon", "--check"]] {
        let (code, _, err) = as_nobody(flags);
        let wrong =
            "--user daemon: only root can become another user, and this process is user 65534";
        assert!(code == Some(1) && err.contains(wrong), "{code:?} {err}");
    }
    assert_eq!(as_nobody(&["--user", "nobody", "--check"]).0, Some(0));
    let daemon = Daemon::start_under(&shell, &["--user", "nobody:nogroup"]);
    assert_is(daemon.pid(), NOBODY, NOBODY);
    Client::connect(daemon.address()).ping(100);
    daemon.finish();
}

#[test]
fn a_user_that_is_none_ends_the_start_with_what_to_do() {
    for (user, code, expected) in [
        ("no-such-user", 1, "--user no-such-user: there is no user no-such-user; make it (useradd"),
        ("root", 1, "--user root: this is root, which keeps its rights"),
        ("4000000", 1, "it needs a group: 4000000:GROUP"),
        (":daemon", 2, "':daemon' has no user; write USER or USER:GROUP"),
        ("a:b:c", 2, "has more than one colon"),
    ] {
        let (found, out, err) = run_to_end("true", &["--user", user, "--listen", "127.0.0.1:0"]);
        assert!(found == Some(code) && err.contains(expected), "{user}: {found:?} {err}");
        assert_eq!(out, "");
    }
    if !is_root() {
        return;
    }
    // Root without the rights that it takes, and root that keeps its rights whoever it becomes.
    for (setpriv, expected) in [
        ("--bounding-set=-setuid,-setgid", "CAP_SETUID and CAP_SETGID"),
        ("--securebits=+no_setuid_fixup", "it could become root again"),
    ] {
        let shell = format!("exec setpriv {setpriv} \"$0\" \"$@\"");
        let (code, out, err) = run_to_end(&shell, &["--user", "nobody", "--listen", "127.0.0.1:0"]);
        assert!(code == Some(1) && err.contains(expected), "{setpriv}: {code:?} {err}");
        assert_eq!(out, "");
    }
}
