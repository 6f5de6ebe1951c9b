//! Foreign programs, used as clients and for observation.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{GUARD, skip};

/// Whether a program is installed. If not, the test is skipped.
pub fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let have = std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).exists());
    if !have {
        skip(&format!("{program} is not installed"));
    }
    have
}

/// Runs a command with these bytes on its stdin and returns its stdout. It must succeed within
/// [`GUARD`].
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut output = Vec::new();
    let status = std::thread::scope(|scope| {
        // A client that exits early breaks the pipe. Its output then shows why.
        scope.spawn(move || stdin.write_all(input));
        scope.spawn(|| stdout.read_to_end(&mut output).expect("reading the client's output"));
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("asking for the client's status") {
                break status;
            }
            if start.elapsed() > GUARD {
                child.kill().expect("killing the client");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert!(status.success(), "{command:?}: {status}");
    output
}

/// The accept calls of a process that strace saw, and for how long it watched.
pub struct Traced {
    pub calls: Vec<String>,
    pub time: Duration,
}

/// Traces the accept calls of a process. `None` if strace is missing or not permitted.
pub fn trace_accepts(pid: Pid, time: Duration) -> Option<Traced> {
    let output = std::env::temp_dir().join(format!("echopool-strace-{}", pid.as_raw_nonzero()));
    let start = Instant::now();
    let mut child = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=accept,accept4", "-o"])
        .arg(&output)
        .args(["-p", &pid.as_raw_nonzero().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    std::thread::sleep(time);
    let refused = child.try_wait().ok()?.is_some();
    if !refused {
        kill_process(Pid::from_child(&child), Signal::INT).ok()?;
        child.wait().ok()?;
    }
    let text = std::fs::read_to_string(&output).unwrap_or_default();
    let _ = std::fs::remove_file(&output);
    let calls = text.lines().filter(|line| line.contains("accept")).map(str::to_owned).collect();
    (!refused).then(|| Traced { calls, time: start.elapsed() })
}
