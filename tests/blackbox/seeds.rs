//! The five programs that this project started from. For each one, a Python client in `seeds/`,
//! written from the program's text, runs against the daemon. Then the questions that readers asked,
//! each as a test.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use rustix::process::Signal;

use crate::harness::{Daemon, GUARD, alone, eventually, have, have_ipv6, lines, run_with_input};

/// A Python client with its arguments, or `None` without Python.
fn python(script: &str, arguments: &[&str]) -> Option<Command> {
    if !have("python3") {
        return None;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/blackbox/seeds");
    let mut command = Command::new("python3");
    // `-B`: no compiled files, because tests leave nothing behind.
    command.arg("-B").arg(folder.join(script)).args(arguments);
    Some(command)
}

/// Runs a client, which must succeed.
fn run(script: &str, arguments: &[&str]) {
    if let Some(mut command) = python(script, arguments) {
        run_with_input(&mut command, b"");
    }
}

/// Runs a client whose first arguments are a host and a port.
fn run_against(script: &str, to: SocketAddr, more: &[&str]) {
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    run(script, &[&[host.as_str(), port.as_str()], more].concat());
}

/// Checks that the clients are gone and have released everything, and ends the daemon.
fn finish_clean(daemon: Daemon) {
    eventually("every buffer is released", || {
        daemon.stat("buffers_held") == 0 && daemon.stat("connections") == 0
    });
    daemon.finish();
}

#[test]
fn a_echo_with_a_pool_of_contexts() {
    let hosts: &[&str] = if have_ipv6() { &["127.0.0.1", "::1"] } else { &["127.0.0.1"] };
    let listen = if have_ipv6() { "[::]:0" } else { "127.0.0.1:0" };
    let daemon = Daemon::start(&["--listen", listen, "--log", "debug"]);
    let port = daemon.address().port().to_string();
    run("a_echo.py", &[&[port.as_str()], hosts].concat());
    // "There are {0} clients connected": each line has the count, which goes down again.
    if have("python3") {
        eventually("the count goes up to 200", || {
            daemon.lines_with(" connect id=").iter().any(|l| l.ends_with("connections=200"))
        });
        eventually("the count goes down to 0", || {
            daemon.lines_with("disconnect id=").iter().any(|l| l.ends_with("connections=0"))
        });
    }
    finish_clean(daemon);
}

#[test]
fn a_the_most_clients_at_once() {
    // Like the original's semaphore: more clients than the 8 permits, and no client is refused.
    let daemon = Daemon::start(&["--max-connections", "8", "--workers", "2"]);
    run_against("questions.py", daemon.address(), &["echo_many_clients_at_once"]);
    finish_clean(daemon);
}

#[test]
fn b_message_to_a_mark() {
    let daemon = Daemon::start(&["--listen", "message://127.0.0.1:0"]);
    run_against("b_message.py", daemon.address(), &[]);
    if have("python3") {
        daemon.wait_lines(1, "This is a test<EOF>");
    }
    finish_clean(daemon);
}

#[test]
fn b_lines_and_the_connection_kept() {
    let listen = "message://127.0.0.1:0?delimiter=%0A&after=keep";
    let daemon = Daemon::start(&["--listen", listen, "--log", "warn"]);
    run_against("b_keep.py", daemon.address(), &[]);
    daemon.finish();
}

#[test]
fn c_callbacks_until_the_server_closes() {
    let daemon = Daemon::start(&["--listen", "message://127.0.0.1:0", "--show", "0"]);
    run_against("c_client.py", daemon.address(), &[]);
    finish_clean(daemon);
}

#[test]
fn d_a_length_and_that_many_bytes() {
    let little = "framed://127.0.0.1:0?max-frame=2m";
    let big = "framed://127.0.0.1:0?order=big&max-frame=2m";
    let daemon = Daemon::start(&["--listen", little, "--listen", big]);
    run_against("d_frames.py", daemon.addresses()[0], &["<"]);
    run_against("d_frames.py", daemon.addresses()[1], &[">"]);
    if have("python3") {
        assert_eq!(daemon.stat("protocol-error"), 4, "negative lengths");
        assert_eq!(daemon.stat("message-too-long"), 4, "lengths above the limit");
    }
    finish_clean(daemon);
}

/// A Python client that reports its progress on stdout. Dropping this kills it.
struct Talking {
    child: Child,
    lines: Receiver<String>,
}

impl Talking {
    fn next(&self) -> String {
        self.lines.recv_timeout(GUARD).expect("a line from the client")
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn d_the_client_retries_until_the_server_is_there() {
    // A port that was free a moment ago, without a server yet.
    let first = Daemon::start(&["--listen", "framed://127.0.0.1:0"]);
    let to = first.address();
    first.finish();
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    let Some(mut command) = python("d_retry.py", &[&host, &port, "3"]) else { return };
    let mut child = command.stdout(Stdio::piped()).spawn().expect("starting the client");
    let lines = lines(child.stdout.take().expect("stdout is piped"));
    let mut client = Talking { child, lines };
    let listen = format!("framed://{to}");
    for round in 0..3 {
        let daemon = Daemon::start(&["--listen", &listen]);
        assert_eq!(client.next(), "up", "round {round}");
        // Kill it abruptly. The last time, drain it.
        if round < 2 {
            daemon.signal(Signal::KILL);
        } else {
            daemon.finish();
        }
    }
    eventually("the client ends", || {
        client.child.try_wait().expect("asking for its status").is_some_and(|s| s.success())
    });
}

#[test]
fn d_ids_and_a_message_to_one_client() {
    let daemon = Daemon::start(&["--listen", "hub://127.0.0.1:0", "--workers", "3"]);
    run_against("d_ids.py", daemon.address(), &[]);
    finish_clean(daemon);
}

#[test]
fn e_broadcast_to_all_clients_and_slots_used_again() {
    let daemon = Daemon::start(&[
        "--listen",
        "hub://127.0.0.1:0",
        "--max-connections",
        "40",
        "--workers",
        "2",
    ]);
    run_against("e_broadcast.py", daemon.address(), &["40"]);
    if have("python3") {
        assert_eq!(daemon.stat("accepted"), 200, "five times the connection limit");
    }
    finish_clean(daemon);
}

fn question(flags: &[&str], name: &str) {
    let daemon = Daemon::start(flags);
    run_against("questions.py", daemon.address(), &[name]);
    finish_clean(daemon);
}

#[test]
fn question_packets_that_arrive_split() {
    question(&[], "packets_that_arrive_split");
}

#[test]
fn question_data_larger_than_the_buffer() {
    question(&[], "data_larger_than_the_buffer");
}

#[test]
fn question_time_outs() {
    // Longer than the client may stand still on a busy machine.
    question(&["--idle-timeout", "3s"], "time_outs");
}

#[test]
fn question_a_crash_after_1300_connections() {
    let _alone = alone();
    question(&[], "more_than_1300_connections");
}

#[test]
fn question_sending_without_receiving() {
    question(&["--buffers", "64"], "sending_without_receiving");
}

#[test]
fn question_answering_each_client() {
    question(&[], "answering_each_client");
}

#[test]
fn question_many_clients_at_once() {
    question(&[], "echo_many_clients_at_once");
}
