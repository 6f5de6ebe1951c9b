//! The daemon as a process: started on a free port, watched through `/proc`, ended by its pid.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use super::log::{self, Closed};
use super::{GUARD, eventually};

/// A running daemon. Dropping it kills it. If the test failed, this prints the end of its log.
pub struct Daemon {
    child: Child,
    /// In a mutex only so that several threads of a test can share the daemon.
    stdout: Mutex<Receiver<String>>,
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    targets: Vec<String>,
    log: PathBuf,
    /// When SIGUSR1 was last repeated, if it was. Each may have a line.
    unanswered: Mutex<Option<Instant>>,
    status: Option<ExitStatus>,
}

/// The configuration file that these flags name.
fn file_of(flags: &[&str]) -> String {
    let path = flags.iter().skip_while(|flag| **flag != "--config").nth(1);
    path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
}

/// How many listeners the configuration file has, in a list in one line.
fn listeners_in(file: &str) -> usize {
    let line = file.lines().find(|line| line.starts_with("listen = ["));
    line.map_or(0, |line| line.matches('\'').count() / 2)
}

impl Daemon {
    /// Starts the daemon and waits for its ready lines. Without `--listen` in `flags` it listens
    /// on a free port of 127.0.0.1. Without `--log-limit` it shows every line, because many tests
    /// count them.
    pub fn start(flags: &[&str]) -> Daemon {
        Daemon::start_under("true", flags)
    }

    /// The same, after a shell command in the same process, for example `ulimit -Sn 256`.
    pub fn start_under(shell: &str, flags: &[&str]) -> Daemon {
        let log = log_path();
        let stderr = File::create(&log).expect("creating a file for the daemon's log");
        Daemon::launch(shell, flags, Stdio::null(), stderr.into(), log)
    }

    /// Starts the daemon with this stdin.
    pub fn start_with_stdin(flags: &[&str], stdin: impl Into<Stdio>) -> Daemon {
        Daemon::start_under_with_stdin("true", flags, stdin)
    }

    /// Starts the daemon after a shell command in the same process, with this stdin.
    pub fn start_under_with_stdin(shell: &str, flags: &[&str], stdin: impl Into<Stdio>) -> Daemon {
        let log = log_path();
        let stderr = File::create(&log).expect("creating a file for the daemon's log");
        Daemon::launch(shell, flags, stdin.into(), stderr.into(), log)
    }

    /// Starts the daemon with this stderr. [`log`](Self::log) is then empty.
    pub fn start_with_stderr(flags: &[&str], stderr: impl Into<Stdio>) -> Daemon {
        let log = log_path();
        File::create(&log).expect("creating an empty file");
        Daemon::launch("true", flags, Stdio::null(), stderr.into(), log)
    }

    fn launch(shell: &str, flags: &[&str], stdin: Stdio, stderr: Stdio, log: PathBuf) -> Daemon {
        super::files();
        let mut flags = flags.to_vec();
        let file = file_of(&flags);
        let of_file = listeners_in(&file);
        if !flags.contains(&"--listen") && of_file == 0 {
            flags.extend(["--listen", "127.0.0.1:0"]);
        }
        if !flags.contains(&"--log-limit") && !file.contains("log-limit") {
            flags.extend(["--log-limit", "off"]);
        }
        let mut child = command(shell, &flags)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("starting the daemon");
        let stdout = lines(child.stdout.take().expect("stdout is piped"));
        let stdout = Mutex::new(stdout);
        let (addresses, targets) = (Vec::new(), Vec::new());
        let unanswered = Mutex::new(None);
        let mut daemon = Daemon {
            child,
            stdout,
            addresses,
            admin: None,
            targets,
            log,
            unanswered,
            status: None,
        };
        let listeners = flags.iter().filter(|flag| **flag == "--listen").count();
        daemon.addresses = (0..listeners + of_file).filter_map(|_| daemon.ready_line()).collect();
        if flags.contains(&"--admin") {
            daemon.admin = daemon.admin_line();
        }
        daemon
    }

    /// The next line of its stdout.
    fn line(&mut self) -> String {
        self.stdout.get_mut().expect("not poisoned").recv_timeout(GUARD).unwrap_or_else(|error| {
            panic!("no ready line ({error}); the daemon said:\n{}", self.log());
        })
    }

    /// Reads the line of the admin address. Returns its address unless it is a Unix socket.
    fn admin_line(&mut self) -> Option<SocketAddr> {
        let line = self.line();
        if line.starts_with("echopool admin on unix:///") {
            return None;
        }
        let address = line.strip_prefix("echopool admin on http://");
        let address = address.and_then(|address| address.parse::<SocketAddr>().ok());
        Some(address.unwrap_or_else(|| panic!("not the line of an admin address: {line:?}")))
    }

    /// Reads a ready line. Returns its address if it is one of TCP.
    fn ready_line(&mut self) -> Option<SocketAddr> {
        let line = self.line();
        let target = line.strip_prefix("echopool listening on ");
        let parts = target.and_then(|target| target.split_once("://"));
        let (scheme, rest) = parts.unwrap_or_else(|| panic!("not a ready line: {line:?}"));
        self.targets.extend(target.map(str::to_owned));
        let address = rest.split('?').next().and_then(|address| address.parse().ok());
        let is_unix = scheme.split('+').any(|part| part == "unix");
        assert_eq!(address.is_none(), is_unix, "not a ready line: {line:?}");
        address
    }

    /// Reads one more ready line than there are `--listen`: a name may stand for several sockets.
    pub fn next_target(&mut self) -> String {
        let address = self.ready_line();
        self.addresses.extend(address);
        self.targets.last().expect("a ready line").clone()
    }

    /// Services, addresses and options from the ready lines, in the order of `--listen`.
    pub fn targets(&self) -> &[String] {
        &self.targets
    }

    /// The first address that it listens on. Usually there is only one.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Its admin address. Needs `--admin`.
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("it has --admin")
    }

    /// The TCP addresses that it listens on, in the order of `--listen`.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        assert!(self.status.is_none(), "the daemon has ended");
        kill_process(self.pid(), signal).expect("signalling the daemon");
    }

    /// Stops the daemon with SIGSTOP, and waits until each of its threads stands still.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        eventually("every thread stands still", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
            tasks.expect("its threads").all(|task| {
                let path = task.expect("a thread").path().join("stat");
                let stat = fs::read_to_string(path).expect("the state of a thread");
                stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
            })
        });
    }

    /// The exit status, if the daemon has exited.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.status = self.child.try_wait().expect("asking for the daemon's status");
        self.status
    }

    /// Waits until the daemon exits by itself. Checks that its stdout had only ready lines.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the daemon ends", || self.try_wait().is_some());
        let more: Vec<String> = self.stdout.get_mut().expect("not poisoned").iter().collect();
        assert!(more.is_empty(), "on stdout after the ready lines: {more:?}");
        self.status.expect("it has ended")
    }

    /// Drains a daemon that has no clients left, and expects exit code 0.
    pub fn finish(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "the exit code after a drain; log:\n{}", self.tail());
    }

    /// The whole lines that the daemon has written to stderr. A read can see a part of a write.
    pub fn log(&self) -> String {
        let mut log = fs::read_to_string(&self.log).expect("reading the daemon's log");
        log.truncate(log.rfind('\n').map_or(0, |end| end + 1));
        log
    }

    /// The number of bytes that the daemon has written to stderr, with those of a cut line.
    pub fn log_bytes(&self) -> u64 {
        fs::metadata(&self.log).expect("the size of the daemon's log").len()
    }

    /// The last 30 lines of its stderr, for failure messages.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The lines of the log that contain `word`.
    pub fn lines_with(&self, word: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
    }

    /// Waits for `count` lines of the log that contain `word`, and returns all there are.
    /// The log has a thread of its own: a reply or a ready line can come before what is logged
    /// of it. [`lines_with`](Self::lines_with) is for a daemon that has ended, or for lines
    /// before one that has been seen.
    pub fn wait_lines(&self, count: usize, word: &str) -> Vec<String> {
        let what = format!("{count} lines of the log with {word:?}");
        eventually(&what, || self.lines_with(word).len() >= count);
        self.lines_with(word)
    }

    /// The closed connections, from the log. Needs `--log debug`.
    pub fn closed(&self) -> Vec<Closed> {
        self.lines_with("disconnect id=").iter().map(|line| Closed::parse(line)).collect()
    }

    /// Waits for `count` closed connections. Needs `--log debug`.
    pub fn wait_closed(&self, count: usize) -> Vec<Closed> {
        eventually(&format!("{count} disconnect lines"), || self.closed().len() >= count);
        self.closed()
    }

    /// Requests a stats line with SIGUSR1 and returns its `name=value` words.
    ///
    /// # Panics
    /// If none is logged.
    pub fn stats(&self) -> log::Values {
        let lines = || log::stats_lines(&self.log());
        let mut unanswered = self.unanswered.lock().expect("not poisoned");
        if let Some(asked) = unanswered.take() {
            // The line of a repeated signal may still come. It would be older than this call.
            std::thread::sleep(Duration::from_secs(1).saturating_sub(Instant::elapsed(&asked)));
        }
        let before = lines().len();
        let mut asked = Instant::now();
        self.signal(Signal::USR1);
        eventually("a stats line after SIGUSR1", || {
            // The daemon logs at most ten per second, so the signal may have to be repeated.
            if asked.elapsed() > Duration::from_millis(200) {
                self.signal(Signal::USR1);
                asked = Instant::now();
                *unanswered = Some(asked);
            }
            lines().len() > before
        });
        lines().pop().expect("there is one")
    }

    /// One counter of the stats line.
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.stats();
        *stats.get(name).unwrap_or_else(|| panic!("no {name} in the stats line: {stats:?}"))
    }

    /// The memory sum that it printed at start, in bytes.
    pub fn memory_sum(&self) -> u64 {
        let sum = || log::memory_sum(&self.log());
        eventually("the memory sum is logged", || sum().is_some());
        sum().expect("it is there")
    }

    /// Resident memory in bytes without the program itself, which the memory sum does not include:
    /// VmRSS minus the pages of files.
    pub fn rss_bytes(&self) -> u64 {
        let status = self.proc("status");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("its line");
            line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("KiB")
        };
        (kib("VmRSS:") - kib("RssFile:")) * 1024
    }

    /// Number of open files.
    pub fn open_files(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        fs::read_dir(path).expect("reading /proc/PID/fd").count()
    }

    /// Processor time used, user and system, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = self.proc("stat");
        let (_, after_name) = stat.rsplit_once(')').expect("a name in brackets");
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // utime and stime are fields 14 and 15; the state, field 3, is the first here.
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    }

    /// Number of voluntary context switches of each thread: how often it slept and was woken.
    pub fn wake_ups(&self) -> BTreeMap<String, u64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
        let count = |task: &str| {
            let status = self.proc(&format!("task/{task}/status"));
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:"));
            line?.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        tasks
            .filter_map(|task| task.ok()?.file_name().into_string().ok())
            .filter_map(|task| Some((task.clone(), count(&task)?)))
            .collect()
    }

    /// The names of its threads.
    pub fn thread_names(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.map(|name| name.trim_end().to_owned()).collect()
    }

    /// Whether all of its threads sleep. It then waits for a timer, for bytes or for room.
    pub fn is_asleep(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
        tasks.filter_map(|task| task.ok()?.file_name().into_string().ok()).all(|task| {
            let status = self.proc(&format!("task/{task}/status"));
            status.lines().any(|line| line.starts_with("State:\tS"))
        })
    }

    /// Number of its listening sockets on `port`.
    pub fn listeners_on(&self, port: u16) -> usize {
        let mine = self.socket_inodes();
        ["net/tcp", "net/tcp6"]
            .iter()
            .flat_map(|file| listening(&self.proc(file)))
            .filter(|(at, inode)| *at == port && mine.contains(inode))
            .count()
    }

    fn socket_inodes(&self) -> Vec<String> {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("reading its fds");
        fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
            .filter_map(|link| {
                let link = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                Some(link.to_owned())
            })
            .collect()
    }

    /// Sets its soft limit of open files while it runs. Returns the previous one.
    pub fn limit_files(&self, soft: u64) -> u64 {
        let now = prlimit_now(self.pid());
        let new = Rlimit { current: Some(soft), maximum: now.maximum };
        prlimit(Some(self.pid()), Resource::Nofile, new).expect("prlimit on the daemon");
        now.current.unwrap_or(u64::MAX)
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("reading /proc/PID")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log ends:\n{}", self.tail());
        }
        // Fails if it has already exited, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.log);
    }
}

/// Runs the daemon until it exits by itself. Returns its exit code, stdout and stderr.
pub fn run_to_end(shell: &str, flags: &[&str]) -> (Option<i32>, String, String) {
    super::files();
    let log = log_path();
    let mut child = command(shell, flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).expect("creating a file for the daemon's log"))
        .spawn()
        .expect("starting the daemon");
    let stdout = lines(child.stdout.take().expect("stdout is piped"));
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("asking for the daemon's status") {
            Some(status) => break status,
            None if start.elapsed() > GUARD => {
                child.kill().expect("killing the daemon");
                child.wait().expect("waiting for the daemon");
                panic!("{flags:?}: still runs; it should have refused");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let stderr = fs::read_to_string(&log).expect("reading the daemon's log");
    let _ = fs::remove_file(&log);
    (status.code(), stdout.iter().collect(), stderr)
}

/// The daemon's binary, or the one in `BLACKBOX_DAEMON`.
pub fn binary() -> OsString {
    let named = std::env::var_os("BLACKBOX_DAEMON");
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_echopool").into())
}

/// A shell command with which a daemon is in no sandbox although `BLACKBOX_SANDBOX` is set: for tests that
/// let it start other programs, or listen in directories that it did not know at start.
pub const NO_SANDBOX: &str = "unset ECHOPOOL_SANDBOX";

/// The command that runs the daemon through `exec` of a shell.
fn command(shell: &str, flags: &[&str]) -> Command {
    obey_ignored_signals();
    let mut command = Command::new("sh");
    if std::env::var_os("BLACKBOX_SANDBOX").is_some() {
        command.env("ECHOPOOL_SANDBOX", "true");
    }
    command.arg("-c").arg(format!("{shell} && exec \"$0\" \"$@\"")).arg(binary()).args(flags);
    command
}

/// Lets SIGINT and SIGHUP have their defaults in programs that this process starts. A program under
/// `nohup`, or in the background of a script, ignores one of them, and so would the daemon. A signal
/// that has a handler has its default in a new program.
fn obey_ignored_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").expect("the status of this process");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let mask = mask.expect("a mask of signals");
        for signal in [Signal::HUP, Signal::INT].map(Signal::as_raw) {
            if mask & 1 << (signal - 1) != 0 {
                signal_hook::flag::register(signal, Arc::default()).expect("a handler");
            }
        }
    });
}

fn log_path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("echopool-{}-{number}.log", std::process::id()))
}

/// The lines of a process's stdout, read on a thread so that waiting for a line can time out.
pub fn lines(stdout: std::process::ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn prlimit_now(pid: Pid) -> Rlimit {
    // The daemon raises its soft limit itself. It inherits the hard limit from this process.
    let own = getrlimit(Resource::Nofile);
    let path = format!("/proc/{}/limits", pid.as_raw_nonzero());
    let limits = fs::read_to_string(path).expect("reading /proc/PID/limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let mut numbers = line.split_whitespace().skip(3).map(|word| word.parse::<u64>().ok());
    let current = numbers.next().flatten();
    Rlimit { current, maximum: numbers.next().flatten().or(own.maximum) }
}

/// Ports and inodes of the listening sockets in `/proc/net/tcp` or `tcp6`.
fn listening(table: &str) -> Vec<(u16, String)> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[3] == LISTEN)
        .map(|fields| {
            let (_, port) = fields[1].rsplit_once(':').expect("address:port");
            (u16::from_str_radix(port, 16).expect("a hexadecimal port"), fields[9].to_owned())
        })
        .collect()
}
