//! What the daemon inherits from its parent process: blocked and ignored signals, closed
//! descriptors.

use std::net::TcpStream;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Client, Daemon, binary, eventually, have, own_port};

/// Blocks SIGTERM, SIGINT, SIGHUP and SIGUSR1, as a supervisor does that uses `sigwait`, and then
/// runs the daemon in the same process. A shell cannot block signals.
const BLOCKED: &str = "exec python3 -c 'import os, signal as s, sys; \
                       s.pthread_sigmask(s.SIG_BLOCK, [s.SIGTERM, s.SIGINT, s.SIGHUP, s.SIGUSR1]); \
                       os.execv(sys.argv[1], sys.argv[1:])' \"$0\" \"$@\"";

#[test]
fn signals_that_the_parent_had_blocked_are_obeyed() {
    if !have("python3") {
        return;
    }
    for end in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start_under(BLOCKED, &[]);
        assert_eq!(daemon.stats()["accepted"], 0, "SIGUSR1 is obeyed");
        daemon.signal(end);
        assert_eq!(daemon.wait().code(), Some(0), "{end:?}");
    }
}

#[test]
fn sigint_and_sighup_that_the_parent_ignored_stay_ignored_and_sigterm_does_not() {
    let daemon = Daemon::start_under("trap '' INT HUP TERM", &[]);
    daemon.signal(Signal::INT);
    daemon.signal(Signal::HUP);
    // Signals are handled in the order of their numbers: these two before SIGUSR1.
    daemon.stats();
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    client.close();
    assert_eq!(daemon.lines_with("SIGINT"), [""; 0]);
    assert_eq!(daemon.lines_with("SIGHUP"), [""; 0]);
    daemon.finish();
}

#[test]
fn a_connect_that_a_parent_started_with_signals_blocked_can_be_interrupted() {
    if !have("python3") {
        return;
    }
    let daemon = Daemon::start(&["--log", "debug"]);
    let mut client = Command::new("sh")
        .arg("-c")
        .arg(BLOCKED)
        .arg(binary())
        .args(["connect", &daemon.address().to_string()])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starting the client");
    eventually("the client is connected", || daemon.stats()["connections"] == 1);
    kill_process(Pid::from_child(&client), Signal::TERM).expect("signalling the client");
    eventually("the client ends", || client.try_wait().expect("its status").is_some());
    assert_eq!(client.wait().expect("its status").code(), Some(130));
    daemon.finish();
}

/// Descriptors 0 to 2 are opened. Otherwise a socket could become descriptor 2 and receive the log.
#[test]
fn closed_standard_descriptors_are_opened_on_dev_null() {
    let address = format!("127.0.0.1:{}", own_port());
    let mut daemon = Command::new("sh")
        .args(["-c", "exec 0<&- 1>&- 2>&-; exec \"$0\" \"$@\""])
        .arg(binary())
        .args(["--listen", &address, "--max-connections", "10", "--log", "debug"])
        .spawn()
        .expect("starting the daemon");
    eventually("it listens", || TcpStream::connect(&address).is_ok());
    for descriptor in 0..3 {
        let path = format!("/proc/{}/fd/{descriptor}", daemon.id());
        let file = std::fs::read_link(path).expect("what the descriptor is");
        assert_eq!(file.to_str(), Some("/dev/null"), "descriptor {descriptor}");
    }
    let mut client = Client::connect(address.parse().expect("an address"));
    client.ping(1_000);
    client.close();
    kill_process(Pid::from_child(&daemon), Signal::TERM).expect("signalling the daemon");
    eventually("it ends", || daemon.try_wait().expect("its status").is_some());
    assert_eq!(daemon.wait().expect("its status").code(), Some(0));
}
