//! Runs the built program with a guard against hanging, and echo servers with deliberate faults.

#![allow(dead_code)] // Each test file uses its part.

pub mod forms;
pub mod hub;
pub mod server;
pub mod tls;

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Every run of a test takes less than a tenth of this. A run that hangs fails instead.
pub const GUARD: Duration = Duration::from_secs(120);

/// The result of a run.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Asserts the exit code. Shows the output if it differs.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ended {
        let Ended { stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "\nstdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }

    /// The JSON report.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("{error}\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr)
        })
    }

    /// Asserts that stdout contains this text.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Ended {
        assert!(self.stdout.contains(text), "no {text:?} in\n{}", self.stdout);
        self
    }

    /// Asserts that stderr contains this text.
    #[track_caller]
    pub fn complains(&self, text: &str) -> &Ended {
        assert!(self.stderr.contains(text), "no {text:?} in\n{}", self.stderr);
        self
    }
}

/// A running program. Dropping it kills the process.
pub struct Running {
    pub child: Child,
    stdout: Option<thread::JoinHandle<String>>,
    stderr: Option<thread::JoinHandle<String>>,
}

/// The built program, with flags separated by spaces.
pub fn program(flags: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(flags.split_whitespace());
    command
}

/// Runs the program to its end.
#[track_caller]
pub fn loadgen(flags: &str) -> Ended {
    start(program(flags)).wait()
}

/// Starts a command and collects its output.
pub fn start(mut command: Command) -> Running {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    Running { child, stdout, stderr }
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Running {
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let status = until("the program ends", || self.child.try_wait().expect("it is our child"));
        self.ended(status)
    }

    fn ended(&mut self, status: ExitStatus) -> Ended {
        let text = |thread: Option<thread::JoinHandle<String>>| {
            thread.expect("asked once").join().expect("the reader does not panic")
        };
        Ended {
            code: status.code(),
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, signal).expect("it is there");
    }

    /// Number of sockets that the program has open. Other files say nothing: how many there are
    /// depends on what the program inherits.
    pub fn sockets(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        let target = |file: std::fs::DirEntry| std::fs::read_link(file.path()).ok();
        let targets = files.into_iter().flatten().flatten().filter_map(target);
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    /// The process id of the server that the program started.
    #[track_caller]
    pub fn server_process(&self) -> rustix::process::Pid {
        let id = self.child.id();
        until("the server is started", || {
            let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
            let first = children.ok()?.split_whitespace().next()?.parse().ok()?;
            rustix::process::Pid::from_raw(first)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended, as intended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition to be met. Fails after the guard time.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < GUARD, "waited too long: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A port of 127.0.0.1 for programs that have to be told one. Port 0 would not do: what the system has
/// chosen once, it may choose again for another test. It chooses none of these by default
/// (`ip_local_port_range`), and each call returns another one.
pub fn own_port() -> u16 {
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 22_000;
    const OF_PROCESS: u32 = 16;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = || {
        let number = std::process::id().wrapping_mul(OF_PROCESS);
        let number = number.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        (FIRST + number % PORTS) as u16
    };
    let is_free = |port: &u16| {
        let at = ("127.0.0.1", *port);
        TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
    };
    std::iter::repeat_with(next).take(PORTS as usize).find(is_free).expect("a free port")
}

/// Asks for room for all datagrams that come while the thread that reads them stands still. By
/// default there is room for about a hundred, and others are dropped. The system may grant less.
pub fn room_for_datagrams(socket: &UdpSocket) {
    socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20).expect("an open socket");
}

/// Whether a program is installed.
pub fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
        println!("skipped: {program} is not installed");
    }
    found
}
