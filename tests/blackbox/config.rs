//! The configuration file, the environment and `--check`, as the daemon's users see them.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::admin::{get, metric};
use crate::harness::{Client, Daemon, Fleet, eventually, meanwhile, run_to_end};
use crate::tls::Directory;

/// A configuration file, which this removes.
pub struct ConfigFile(PathBuf);

impl ConfigFile {
    pub fn new(contents: &str) -> ConfigFile {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echopool-config-{}-{number}.toml", std::process::id());
        let file = ConfigFile(std::env::temp_dir().join(name));
        file.write(contents);
        file
    }

    pub fn write(&self, contents: &str) {
        fs::write(&self.0, contents).expect("writing a configuration file");
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_daemon_runs_with_the_settings_of_its_file_environment_and_flags() {
    let file = ConfigFile::new("workers = 3\nmax-connections = 70\nbacklog = 9\n");
    let environment = "export ECHOPOOL_BACKLOG=8 ECHOPOOL_MAX_CONNECTIONS=60 ECHOPOOL_BAKLOG=7";
    let flags = ["--config", file.path(), "--max-connections", "50"];
    let daemon = Daemon::start_under(environment, &flags);
    let limits = daemon.wait_lines(1, "limits: ").pop().expect("the line of the limits");
    for part in ["workers=3 ", "max_connections=50 ", "backlog=8"] {
        assert!(limits.contains(part), "{part} is not in {limits}");
    }
    let warnings = daemon.wait_lines(1, "ECHOPOOL_BAKLOG is not a setting and is ignored");
    assert_eq!(warnings.len(), 1, "{}", daemon.log());
    Client::connect(daemon.address()).ping(100);
    daemon.finish();
}

#[test]
fn a_wrong_file_is_exit_code_2_and_one_that_cannot_be_read_is_1() {
    let file = ConfigFile::new("# a comment\nlinger = 3\n");
    let (code, stdout, stderr) = run_to_end("true", &["--config", file.path()]);
    let expected =
        format!("echopool: {}:2: linger: a time needs a unit: 3s or 3ms?\n", file.path());
    assert_eq!((code, &stdout[..], stderr), (Some(2), "", expected));
    let (code, _, stderr) = run_to_end("true", &["--config", "/no/such/file"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.starts_with("echopool: cannot read /no/such/file (--config): "), "{stderr}");
}

#[test]
fn a_check_binds_nothing_and_has_the_exit_code_of_the_start() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("its address").to_string();
    let file = ConfigFile::new(&format!("listen = '{taken}'\nworkers = 2\n"));
    let (code, stdout, stderr) = run_to_end("true", &["--check", "--config", file.path()]);
    assert_eq!((code, &stderr[..]), (Some(0), ""));
    assert!(stdout.contains(&taken) && stdout.contains("kernel, estimated"), "{stdout}");
    file.write("workers = 65");
    let (code, stdout, stderr) = run_to_end("true", &["--check", "--config", file.path()]);
    let expected =
        format!("echopool: {}:1: workers is 65, but must be from 1 to 64\n", file.path());
    assert_eq!((code, &stdout[..], stderr), (Some(2), "", expected));
    let (code, _, stderr) = run_to_end("ulimit -n 50", &["--check", "--max-connections", "100"]);
    assert_eq!(code, Some(1), "{stderr}");
    let (code, _, stderr) = run_to_end("ulimit -v 100000", &["--check", "--memory", "1g"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("the sum of memory (buffers 1.0 GiB"), "{stderr}");
}

impl Daemon {
    /// Reloads, and returns what the log says about it.
    pub fn reload(&self) -> String {
        // Lines about listeners come before it.
        let is_result = |line: &String| {
            ["reloaded, ", "nothing is changed: "].iter().any(|it| line.contains(it))
        };
        let lines = || self.lines_with("SIGHUP: ").into_iter().filter(is_result);
        let before = lines().count();
        self.signal(Signal::HUP);
        eventually("a line for SIGHUP", || lines().count() > before);
        let line = lines().next_back().expect("there is one");
        line.split_once("SIGHUP: ").expect("it has this").1.to_owned()
    }

    /// `/api/v1/config`.
    fn config(&self) -> Value {
        serde_json::from_str(&get(self, "/api/v1/config").1).expect("JSON")
    }
}

/// Makes a file a pipe: who opens it waits until somebody writes into it.
pub fn make_pipe(path: &str) {
    fs::remove_file(path).expect("removing a file");
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
}

/// The other end of a pipe, once somebody waits for it.
pub fn other_end(path: &str) -> File {
    let mut pipe = None;
    eventually("somebody opens the pipe", || {
        let flags = OFlags::NONBLOCK.bits() as i32;
        pipe = OpenOptions::new().write(true).custom_flags(flags).open(path).ok();
        pipe.is_some()
    });
    pipe.expect("it was opened")
}

/// Flags of a daemon with a second listener, whose certificate is in the folder. A reload reads it
/// again.
pub fn with_a_certificate() -> (Directory, [String; 8]) {
    let files = Directory::new();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| files.file(name));
    let url = format!("tls://127.0.0.1:0?cert={cert}&key={key}");
    let long = "1m";
    let flags =
        ["--listen", "127.0.0.1:0", "--drain-timeout", long, "--linger", long, "--listen", &url];
    (files, flags.map(str::to_owned))
}

/// The settings of the file before and after a reload.
const BEFORE: &str = "max-connections = 40\nidle-timeout = '1h'\nlinger = '1s'\n\
                      max-connections-per-address = 30\n";

#[test]
fn a_reload_applies_what_can_change_and_names_what_needs_a_restart() {
    let file = ConfigFile::new(BEFORE);
    let daemon = Daemon::start(&["--config", file.path(), "--admin", "127.0.0.1:0"]);
    file.write(
        "max-connections = 20\nidle-timeout = '90m'\nsend-timeout = 'off'\nshed-after = '2s'\n\
         linger = '1000ms'\nmax-connections-per-address = 10\nworkers = 3\nadmin = 9\n\
         drain-timeout = '9s'\nbuffer-size = '4Ki'\n",
    );
    let line = daemon.reload();
    assert_eq!(
        line,
        "reloaded, generation=2: max-connections 40 -> 20, max-connections-per-address 30 -> 10, \
         idle-timeout 1h -> 90m, send-timeout 30s -> off, shed-after 1s -> 2s, \
         drain-timeout 10s -> 9s; needs a restart: workers default -> 3, buffer-size 16Ki -> 4Ki"
    );
    let limits = &daemon.config()["limits"];
    for (name, value) in [
        ("max_connections", json!(20)),
        ("max_connections_per_address", json!(10)),
        ("idle_timeout_ns", json!(5_400_000_000_000_u64)),
        ("send_timeout_ns", Value::Null),
        ("shed_after_ns", json!(2_000_000_000_u64)),
        ("linger_ns", json!(1_000_000_000_u64)),
        ("buffer_size_bytes", json!(16384)),
    ] {
        assert_eq!(limits[name], value, "{name}");
    }
    assert_eq!(metric(&get(&daemon, "/metrics").1, "echopool_connections_max", ""), 20.0);
    // Above the memory of the start.
    file.write("max-connections = 41\nidle-timeout = '1h'\nlinger = '1s'\n");
    let line = daemon.reload();
    assert_eq!(
        line,
        "reloaded, generation=3: max-connections-per-address 10 -> default, idle-timeout 90m -> 1h, \
         send-timeout off -> 30s, shed-after 2s -> 1s, drain-timeout 9s -> 10s; needs a restart: \
         max-connections 20 -> 41"
    );
    file.write(BEFORE);
    let line = daemon.reload();
    assert_eq!(
        line,
        "reloaded, generation=4: max-connections 20 -> 40, max-connections-per-address default -> 30"
    );
    assert_eq!(daemon.reload(), "reloaded, generation=5: nothing has changed");
    daemon.finish();
}

#[test]
fn a_reload_of_a_wrong_file_changes_nothing() {
    let file = ConfigFile::new(BEFORE);
    let daemon = Daemon::start(&["--config", file.path(), "--admin", "127.0.0.1:0"]);
    let of = |name: &str| metric(&get(&daemon, "/metrics").1, name, "");
    let (successful, generation) =
        ("echopool_config_last_reload_successful", "echopool_config_generation");
    let loaded_at = || of("echopool_config_last_reload_success_timestamp_seconds");
    let (config, started) = (daemon.config(), loaded_at());
    assert_eq!((of(successful), of(generation)), (1.0, 1.0));
    for (contents, text) in [
        ("linger = '2s'\nidle-timeout = 5", ":2: idle-timeout: a time needs a unit: 5s or 5ms?"),
        ("linger = '2s'\nworkers = 65", ":2: workers is 65, but must be from 1 to 64"),
        ("linger = '2s'\nsend-timeout = '9000h'", ":2: send-timeout is 32400000s, but must be"),
    ] {
        file.write(contents);
        let line = daemon.reload();
        let expected = format!("nothing is changed: {}{text}", file.path());
        assert!(line.starts_with(&expected), "{line}\nis not\n{expected}");
    }
    fs::remove_file(&file.0).expect("removing the file");
    let line = daemon.reload();
    assert!(line.starts_with("nothing is changed: cannot read "), "{line}");
    let mut expected = config;
    expected["last_reload_successful"] = json!(false);
    assert_eq!(daemon.config(), expected);
    assert_eq!((of(successful), of(generation), loaded_at()), (0.0, 1.0, started));
    file.write(BEFORE);
    assert_eq!(daemon.reload(), "reloaded, generation=2: nothing has changed");
    assert_eq!((of(successful), of(generation)), (1.0, 2.0));
    assert!(loaded_at() > started);
    daemon.finish();
}

#[test]
fn a_reload_is_refused_if_a_service_could_not_start_with_it() {
    let listen = "listen = ['framed://127.0.0.1:0']\n";
    let file = ConfigFile::new(listen);
    let daemon = Daemon::start(&["--config", file.path()]);
    file.write(&format!("{listen}max-frame = '900m'\n"));
    let line = daemon.reload();
    assert!(line.contains("nothing is changed: messages of 943718404 bytes need "), "{line}");
    daemon.finish();
}

#[test]
fn a_reload_that_hangs_holds_up_no_signal() {
    let (files, flags) = with_a_certificate();
    let mut daemon = Daemon::start(&flags.each_ref().map(|flag| &flag[..]));
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    let cert = files.file("cert.pem");
    make_pipe(&cert);
    daemon.signal(Signal::HUP);
    let _pipe = other_end(&cert);
    daemon.signal(Signal::USR1);
    eventually("totals", || !daemon.lines_with("accepted=1 ").is_empty());
    client.ping(1_000);
    daemon.signal(Signal::TERM);
    client.expect_fin();
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
}

#[test]
fn a_reload_changes_the_level_of_the_log_and_the_interval_of_the_rates() {
    let file = ConfigFile::new("log = 'warn'\n");
    let daemon = Daemon::start(&["--config", file.path()]);
    Client::connect(daemon.address()).close();
    file.write("log = 'debug'\nstats-interval = '100ms'\n");
    let line = daemon.reload();
    assert_eq!(line, "reloaded, generation=2: stats-interval default -> 100ms, log warn -> debug");
    let rates = || daemon.lines_with("accepted_per_s=").len();
    eventually("rates", || rates() >= 2);
    Client::connect(daemon.address()).close();
    assert_eq!(daemon.wait_closed(1).len(), 1, "the first client was not logged");
    file.write("log = 'info'\nstats-interval = '1h'\n");
    daemon.reload();
    Client::connect(daemon.address()).close();
    let before = rates();
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!((rates(), daemon.closed().len()), (before, 1));
    daemon.finish();
}

/// Reloads lower and raise every limit, and some are wrong, while clients verify every byte.
#[test]
fn a_reload_changes_the_limit_of_the_log_and_how_long_a_drain_may_take() {
    const CLIENTS: usize = 20;
    let contents = |limit| format!("log = 'debug'\nlog-limit = {limit}\nlinger = '10m'\n");
    let file = ConfigFile::new(&(contents("1") + "drain-timeout = '1h'\n"));
    let mut daemon = Daemon::start(&["--config", file.path()]);
    let connect_all = || {
        (0..CLIENTS).for_each(|_| Client::connect(daemon.address()).close());
        eventually("all have left", || daemon.stats()["connections"] == 0);
    };
    connect_all();
    assert!(daemon.closed().len() < CLIENTS, "one line in a second");
    file.write(&(contents("'off'") + "drain-timeout = '200ms'\n"));
    daemon.reload();
    let before = daemon.closed().len();
    connect_all();
    assert_eq!(daemon.wait_closed(before + CLIENTS).len(), before + CLIENTS);
    // One that does not leave.
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(daemon.lines_with("connections_cut=1").len(), 1, "{}", daemon.tail());
}

#[test]
fn reloads_under_load_lose_nothing() {
    const CLIENTS: usize = 200;
    let file = ConfigFile::new("max-connections = 300\n");
    let mut daemon =
        Daemon::start(&["--config", file.path(), "--workers", "2", "--admin", "127.0.0.1:0"]);
    let mut fleet = Fleet::connect(daemon.address(), CLIENTS);
    let contents = [
        "max-connections = 100\nidle-timeout = '30s'\nsend-timeout = 'off'\nlinger = '1s'\n",
        "max-connections = 'many'\n",
        "max-connections = 300\nshed-after = 'off'\nlog = 'debug'\n",
        "max-connections = 1\nidle-timeout = '1h'\nshed-after = '5s'\nstats-interval = '1s'\n",
    ];
    let reloads = AtomicU32::new(0);
    let reload = || {
        file.write(contents[reloads.load(Ordering::Relaxed) as usize % contents.len()]);
        daemon.reload();
        reloads.fetch_add(1, Ordering::Relaxed);
    };
    meanwhile(reload, || {
        while reloads.load(Ordering::Relaxed) < 9 {
            // Fails if a client was closed, or a byte is wrong.
            fleet.echo(20_000);
        }
    });
    drop(fleet);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    let end = daemon.lines_with("ended, every connection finished: ").pop().expect("its line");
    assert!(end.contains(&format!("accepted={CLIENTS} ")), "{end}");
}
