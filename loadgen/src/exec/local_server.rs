//! The server that loadgen starts if it has no target: the same program as the daemon, in its own
//! process, because one process cannot open enough files for both ends of 10,000 connections.
//!
//! The child is this executable with a hidden command. It ends when its stdin closes, so it does
//! not outlive this process, however this process ends.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use echopool::builtin::url::Spec;

use crate::cli::target;
use crate::error::Failure;
use crate::plan::Plan;

/// The hidden command. The daemon's command line follows it.
pub const COMMAND: &str = "__serve";

/// What the daemon writes before the address that it listens on.
const READY: &str = "echopool listening on ";
/// Time-outs of the child: until it listens, and until it has ended.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that the server accepts in addition to the clients, so that none waits for a slot.
const CONNECTIONS_SPARE: u64 = 16;

/// Runs the daemon in the child.
pub fn serve(args: impl Iterator<Item = OsString>) -> ExitCode {
    echopool::daemon::run(args)
}

/// A running server. Dropping it ends the process and waits for it.
pub struct LocalServer {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Passes on what the server writes to stderr, until it ends.
    messages: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl LocalServer {
    /// Starts the server for this plan, and waits until it listens. `message` is called with each
    /// line that it writes to stderr, where a view may be that the line would destroy.
    ///
    /// # Errors
    /// It could not be started, or it ended or stayed silent before it listened.
    pub fn start(plan: &Plan, message: fn(&str)) -> Result<LocalServer, Failure> {
        let connections = plan.connections + plan.rude.total() + CONNECTIONS_SPARE;
        let failed = |text: String| Failure::Setup(format!("the server did not start: {text}"));
        let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let buffers = plan.server_buffers().map(|count| format!("--buffers={count}"));
        let mut command = Command::new(program);
        // The environment of the load generator says nothing about this server.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"ECHOPOOL_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args([COMMAND, "--log=warn", "--until-stdin-closes", "--listen"])
            .arg(target::url(plan.service, None, &SocketAddr::from(([127, 0, 0, 1], 0)).into()))
            .arg(format!("--max-connections={connections}"))
            .arg(format!("--workers={}", plan.server_workers))
            .args(buffers)
            .args(plan.busy_poll.then_some("--busy-poll"))
            .args(plan.proxy.map(|_| "--proxy=require"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // An interrupt from the terminal must not reach the server, which is needed until the
            // end.
            .process_group(0)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("it is a pipe");
        let stderr = child.stderr.take().expect("it is a pipe");
        let messages = Some(thread::spawn(move || pass_on(stderr, message)));
        let address = ([127, 0, 0, 1], 0).into();
        let mut server = LocalServer { child, stdin, messages, address };
        server.address = server.wait_until_ready(stdout).map_err(failed)?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self, stdout: ChildStdout) -> Result<SocketAddr, String> {
        let (send, ready) = mpsc::channel();
        // Reads to the end, so that the server never blocks on its stdout.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // After the first line nobody receives.
                let _ = send.send(parse_ready(&line));
            }
        });
        match ready.recv_timeout(START_TIMEOUT) {
            Ok(address) => address,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("it printed nothing for {} s", START_TIMEOUT.as_secs()))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(match self.wait(END_TIMEOUT) {
                Some(status) => format!("it ended before it listened ({status})"),
                None => "it closed its stdout before it listened".into(),
            }),
        }
    }

    /// Waits for the end of the process, at most for `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.child.try_wait().ok().flatten() {
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                ended => return ended,
            }
        }
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.stdin = None;
        if self.wait(END_TIMEOUT).is_none() {
            // An error here cannot be reported to anybody.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // Its last words come before what follows.
        let _ = self.messages.take().map(JoinHandle::join);
    }
}

fn pass_on(stderr: impl Read, message: fn(&str)) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        message(&String::from_utf8_lossy(&line));
    }
}

fn parse_ready(line: &str) -> Result<SocketAddr, String> {
    line.strip_prefix(READY)
        .and_then(|target| target.trim_end().parse().ok())
        .and_then(|spec: Spec| spec.address.parse().ok())
        .ok_or_else(|| format!("'{line}' does not name the address that it listens on"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn each_line_is_passed_on() {
        static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
        pass_on(&b"one\n\xfftwo\nthree"[..], |line| LINES.lock().unwrap().push(line.into()));
        assert_eq!(*LINES.lock().unwrap(), ["one", "\u{fffd}two", "three"]);
    }

    #[test]
    fn the_ready_line_names_the_address() {
        let address = parse_ready("echopool listening on tcp://127.0.0.1:4711");
        assert_eq!(address, Ok(([127, 0, 0, 1], 4711).into()));
        assert!(parse_ready("echopool listening on tcp://[::1]:1").is_ok());
        assert!(parse_ready("echopool listening on framed://127.0.0.1:1?order=big").is_ok());
        assert!(parse_ready("something else").is_err());
        assert!(parse_ready("echopool listening on tcp://nowhere").is_err());
    }
}
