//! `--sandbox`: the daemon serves, reloads, upgrades and ends with the files and system calls that are
//! left, and everything else is refused. With `BLACKBOX_SANDBOX=1` all other tests run in it too.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Signal};

use crate::admin::get;
use crate::harness::{Client, Daemon, GUARD, eventually, skip};
use crate::tls::Directory;
use crate::user::{Folder, NOBODY, Successors, is_root, of_threads};

/// Whether the kernel has what a sandbox is made of. If not, the test is skipped.
fn can_restrict() -> bool {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let can = actions.contains("errno");
    if !can {
        skip("this kernel has no filter of system calls");
    }
    can
}

/// Checks that each thread is in two filters, of which one is for `clone3` only.
fn assert_is_in_filter(process: Pid) {
    for (line, expected) in [("Seccomp", "2"), ("Seccomp_filters", "2"), ("NoNewPrivs", "1")] {
        let all = of_threads(process, line);
        assert!(all.len() > 3 && all.iter().all(|one| one == expected), "{line}: {all:?}");
    }
}

/// Sends and closes this side. Returns what comes until the other side is closed.
fn talk(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = TcpStream::connect_timeout(&address, GUARD).expect("connecting");
    client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    client.write_all(bytes).expect("sending");
    client.shutdown(Shutdown::Write).expect("closing this side");
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).expect("receiving to the end");
    reply
}

#[test]
fn every_service_is_served_in_the_sandbox() {
    if !can_restrict() {
        return;
    }
    let (folder, tls) = (Folder::new(), Directory::new());
    let socket = format!("{}/socket", folder.make("run", 0o755));
    let urls = [
        "127.0.0.1:0".to_owned(),
        "framed://127.0.0.1:0?order=big".to_owned(),
        "message://127.0.0.1:0?delimiter=\\n&after=keep".to_owned(),
        "discard://127.0.0.1:0".to_owned(),
        "chargen://127.0.0.1:0".to_owned(),
        "timed://127.0.0.1:0".to_owned(),
        "delay://127.0.0.1:0?fixed=1ms".to_owned(),
        "hub://127.0.0.1:0".to_owned(),
        format!("tls://127.0.0.1:0?cert={}&key={}", tls.file("cert.pem"), tls.file("key.pem")),
        "udp://127.0.0.1:0".to_owned(),
        "stamp+udp://127.0.0.1:0".to_owned(),
        format!("unix://{socket}?mode=0666"),
    ];
    let mut flags: Vec<&str> = urls.iter().flat_map(|url| ["--listen", url]).collect();
    flags.extend(["--admin", "127.0.0.1:0", "--sandbox", "--stats-interval", "100ms"]);
    let mut daemon = Daemon::start(&flags);
    daemon.wait_lines(1, "sandbox: Landlock is ");
    daemon.wait_lines(1, "others fail with EPERM");
    assert_is_in_filter(daemon.pid());
    let at = daemon.addresses().to_vec();
    let [echo, framed, message, discard, chargen, ..] = at[..] else { panic!("{at:?}") };
    Client::connect(echo).ping(100_000);
    assert_eq!(talk(framed, &[0, 0, 0, 2, 7, 8]), [0, 0, 0, 2, 7, 8]);
    assert_eq!(talk(message, b"one\ntwo\n"), b"one\ntwo\n");
    assert_eq!(talk(discard, b"nothing"), b"");
    let mut endless = TcpStream::connect(chargen).expect("connecting");
    endless.read_exact(&mut [0; 1_000]).expect("characters");
    drop(endless);
    assert!(!talk(at[6], b"later").is_empty());
    let mut member = TcpStream::connect(at[7]).expect("connecting");
    member.read_exact(&mut [0; 13]).expect("WELCOME");
    drop(member);
    crate::tls::assert_echoes(&tls, at[8]);
    for address in &at[9..10] {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
        client.send_to(b"datagram", address).expect("sending");
        let mut reply = [0; 100];
        assert_eq!(client.recv(&mut reply).expect("the echo"), 8);
    }
    let mut unix = UnixStream::connect(&socket).expect("connecting");
    unix.write_all(b"unix").expect("sending");
    unix.read_exact(&mut [0; 4]).expect("the echo");
    drop(unix);
    for path in ["/", "/metrics", "/healthz", "/readyz", "/api/v1/clients"] {
        assert_eq!(get(&daemon, path).0, 200, "{path}");
    }
    daemon.wait_lines(2, " accepted_per_s=");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    assert!(fs::metadata(&socket).is_err(), "the file is removed");
    assert!(!daemon.log().contains("(os error 1)"), "{}", daemon.log());
}

#[test]
fn a_reload_reads_what_the_settings_named_at_start_and_nothing_else() {
    if !can_restrict() {
        return;
    }
    let folder = Folder::new();
    let (etc, run, other) =
        (folder.make("etc", 0o755), folder.make("run", 0o755), folder.make("other", 0o755));
    // As an editor does it: a new file takes the place of the old one.
    let settings = |linger: u32, more: &str| {
        let text = format!(
            "sandbox = true\nlinger = '{linger}s'\nlisten = ['127.0.0.1:0', 'unix://{run}/one'{more}]\n"
        );
        fs::write(format!("{etc}/new"), &text).expect("writing");
        fs::rename(format!("{etc}/new"), format!("{etc}/echopool.toml")).expect("renaming");
        text
    };
    settings(1, "");
    let config = format!("{etc}/echopool.toml");
    let daemon = Daemon::start(&["--config", &config]);
    settings(2, &format!(", 'unix://{run}/two'"));
    daemon.signal(Signal::HUP);
    daemon.wait_lines(1, "linger 1s -> 2s");
    UnixStream::connect(format!("{run}/two")).expect("the new listener");
    settings(3, &format!(", 'unix://{run}/two', 'unix://{other}/three'"));
    daemon.signal(Signal::HUP);
    let wrong = daemon.wait_lines(1, "nothing is changed: ").remove(0);
    let named = "the daemon may use only files that its log names (--sandbox)";
    assert!(wrong.contains("Permission denied (os error 13)") && wrong.contains(named), "{wrong}");
    // The name is where it was, and leads out of the sandbox.
    let text = settings(4, &format!(", 'unix://{run}/two'"));
    fs::write(format!("{other}/echopool.toml"), text).expect("writing");
    fs::remove_file(&config).expect("removing");
    symlink(format!("{other}/echopool.toml"), &config).expect("linking");
    daemon.signal(Signal::HUP);
    let wrong = daemon.wait_lines(2, "nothing is changed: ").remove(1);
    assert!(wrong.contains("(--config): Permission denied") && wrong.contains(named), "{wrong}");
    Client::connect(daemon.address()).ping(100);
    daemon.finish();
}

/// What a program finds that has taken the place of the daemon's, and is started for an upgrade.
#[test]
fn what_the_daemon_does_not_need_is_refused() {
    if !can_restrict() {
        return;
    }
    let folder = Folder::new();
    let daemon = folder.start_under("true", &["--sandbox"]);
    fs::copy("/bin/sh", folder.path("bin/shell")).expect("copying a shell");
    let secret = folder.write("secret", "read me");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).expect("its mode");
    // Programs of the shell itself: `cd` is a system call that the daemon does not make.
    let script = format!(
        "#!{}\n\
         echo begun >&2\n\
         read text < {secret} && echo read >&2\n\
         echo more > {secret} && echo written >&2\n\
         echo more > {} && echo made >&2\n\
         /bin/true && echo started >&2\n\
         cd /proc && echo changed >&2\n\
         kill -0 {} && echo signalled >&2\n\
         read text < /proc/self/status && echo allowed >&2\n\
         exit 7\n",
        folder.path("bin/shell"),
        folder.path("bin/made"),
        std::process::id(),
    );
    let old = folder.path("bin/old");
    fs::rename(folder.path("bin/echopool"), &old).expect("renaming");
    fs::write(folder.path("bin/echopool"), script).expect("writing a script");
    fs::set_permissions(folder.path("bin/echopool"), fs::Permissions::from_mode(0o755))
        .expect("its mode");
    daemon.signal(Signal::USR2);
    let ended = daemon.wait_lines(1, "not upgraded: ").remove(0);
    assert!(ended.contains("exit status: 7"), "{ended}\n{}", daemon.log());
    let log = daemon.log();
    let said = |word: &str| log.lines().any(|line| line == word);
    assert!(said("begun") && said("allowed"), "{log}");
    for word in ["read", "written", "made", "started", "changed", "signalled"] {
        assert!(!said(word), "{word}: {log}");
    }
    // A program elsewhere.
    fs::remove_file(folder.path("bin/echopool")).expect("removing the script");
    symlink("/bin/true", folder.path("bin/echopool")).expect("linking");
    daemon.signal(Signal::USR2);
    let refused = daemon.wait_lines(2, "not upgraded: ").remove(1);
    assert!(refused.contains("cannot start ") && refused.contains("(--sandbox)"), "{refused}");
    Client::connect(daemon.address()).ping(100);
    daemon.finish();
}

/// More often than Landlock lets a sandbox begin in another: an upgrade must not begin a further one.
#[test]
fn twenty_upgrades_stay_in_one_sandbox_of_one_user() {
    if !can_restrict() || !is_root() {
        return;
    }
    let folder = Folder::new();
    let run = folder.make("run", 0o755);
    chown(&run, Some(NOBODY), Some(NOBODY)).expect("giving it away");
    let (socket, unix) = (format!("{run}/socket"), format!("unix://{run}/socket"));
    let listen = ["--listen", "127.0.0.1:0", "--listen", &unix];
    let flags = ["--user", "nobody", "--sandbox", "--workers", "2", "--max-connections", "100"];
    let mut daemon = folder.start_under("true", &[&listen[..], &flags].concat());
    let mut client = Client::connect(daemon.address());
    client.ping(100);
    {
        let successors = Successors::of(&daemon, &folder);
        let mut last = daemon.pid();
        for _ in 0..20 {
            last = successors.upgrade();
            client.ping(1_000);
        }
        assert_is_in_filter(last);
        assert!(of_threads(last, "Uid").iter().all(|ids| ids.starts_with("65534 ")));
        UnixStream::connect(&socket).expect("a client");
        drop(client);
        successors.drain(&socket);
    }
    eventually("the first process ends", || daemon.try_wait().is_some());
    assert_eq!(daemon.try_wait().expect("ended").code(), Some(0));
}

#[test]
fn an_upgrade_begins_a_sandbox_and_cannot_end_one() {
    if !can_restrict() {
        return;
    }
    let folder = Folder::new();
    let settings = |sandbox: bool| {
        folder.write("echopool.toml", &format!("sandbox = {sandbox}\nlisten = ['127.0.0.1:0']\n"))
    };
    let config = settings(false);
    let daemon = folder.start_under("true", &["--config", &config]);
    settings(true);
    daemon.signal(Signal::HUP);
    let fixed = daemon.wait_lines(1, "needs a restart: ").remove(0);
    assert!(fixed.contains("sandbox false -> true"), "{fixed}");
    let successors = Successors::of(&daemon, &folder);
    assert_is_in_filter(successors.upgrade());
    settings(false);
    assert_is_in_filter(successors.upgrade());
    daemon.wait_lines(1, "stays, although sandbox is off now");
    Client::connect(daemon.address()).ping(100);
}
