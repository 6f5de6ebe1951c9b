//! `echopool connect` as a program: in a pipe, on a pseudo-terminal, and against servers that each
//! do one thing wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Daemon, GUARD, binary, eventually, have, own_port};

pub fn connect(flags: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.arg("connect").args(flags);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("starting the client")
}

/// Runs the client with this input until it exits.
pub fn pipe(flags: &[&str], input: &[u8]) -> Output {
    let mut child = connect(flags);
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let pid = Pid::from_child(&child);
    thread::scope(|scope| {
        // A client that exits early breaks the pipe. Its exit code then shows why.
        scope.spawn(move || stdin.write_all(input));
        let output = scope.spawn(move || child.wait_with_output().expect("waiting for the client"));
        let begun = std::time::Instant::now();
        while !output.is_finished() {
            if begun.elapsed() > GUARD {
                let _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(std::time::Duration::from_millis(5));
        }
        output.join().expect("the thread does not panic")
    })
}

#[track_caller]
pub fn check(output: &Output, code: i32, stdout: &[u8], stderr: &str) {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{complaint}");
    assert!(output.stdout == stdout, "{:?}", String::from_utf8_lossy(&output.stdout));
    assert!(complaint.contains(stderr), "no {stderr:?} in {complaint:?}");
}

/// Starts a server on a thread that accepts one connection and calls `act`.
fn serve(act: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(GUARD)).expect("setting a time-out");
        act(stream);
    });
    address
}

#[test]
fn in_a_pipe_input_is_echoed_and_the_exit_code_is_0() {
    let daemon = Daemon::start(&[]);
    let target = daemon.address().to_string();
    check(&pipe(&[&target], b"hi\n"), 0, b"hi\n", &format!("connected to {target}"));
    check(&pipe(&[&target], b""), 0, b"", "");
    check(&pipe(&["-q", &target], b"\0\x1b\xff no newline"), 0, b"\0\x1b\xff no newline", "");
    let much: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    check(&pipe(&[&target], &much), 0, &much, "");
    daemon.finish();
}

#[test]
fn each_line_is_a_frame_or_a_message_and_waits_for_its_reply() {
    let daemon = Daemon::start(&[
        "--listen",
        "framed://127.0.0.1:0?order=big",
        "--listen",
        "message://127.0.0.1:0",
        "--listen",
        "message://127.0.0.1:0?delimiter=%0A&after=keep",
    ]);
    let targets = daemon.targets().to_vec();
    let [framed, closing, keeping] = targets.try_into().expect("three targets");
    check(&pipe(&[&framed], b"one\n\ntwo"), 0, b"one\n\ntwo\n", "");
    check(&pipe(&[&closing], b"one\n"), 0, b"one\n", "");
    let output = pipe(&[&closing], b"one\ntwo\n");
    check(&output, 1, b"one\n", "");
    // The client may read the second line before or after the server closes.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ways = ["1 of 2 lines without a reply", "not sent: the peer has closed the connection"];
    assert!(ways.iter().any(|way| said.contains(way)), "{said}");
    let lines: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    check(&pipe(&[&keeping], lines.as_bytes()), 0, lines.as_bytes(), "");
    let long = [&vec![b'x'; (1 << 20) + 5][..], b"\nshort\n"].concat();
    check(&pipe(&[&framed], &long), 1, b"short\n", "max-frame");
    daemon.finish();
}

#[test]
fn lines_are_commands_of_a_hub() {
    let daemon = Daemon::start(&["--listen", "hub://127.0.0.1:0"]);
    let target = daemon.targets()[0].clone();
    let mut other = connect(&["-q", &target]);
    let mut lines = BufReader::new(other.stdout.take().expect("stdout is piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    let id = next().strip_prefix("you are ").expect("its id").to_owned();
    let input = format!("/list\nto \x07 all\n/to {id} for you\n/to 1 nobody\n");
    let output = pipe(&[&target], input.as_bytes());
    let said = String::from_utf8(output.stdout).expect("text");
    let own = said.lines().next().expect("a line").strip_prefix("you are ").expect("its id");
    for line in
        [format!("{own} to all: to \\u{{7}} all"), "not sent to 1: it has disconnected".to_owned()]
    {
        assert!(said.lines().any(|said| said == line), "no {line:?} in {said}");
    }
    assert!(said.lines().any(|line| line.starts_with("clients: ") && line.contains(&id)), "{said}");
    assert_eq!(output.status.code(), Some(0));
    let heard: Vec<String> = (0..4).map(|_| next()).collect();
    for line in [
        format!("joined: {own}"),
        format!("{own} to all: to \\u{{7}} all"),
        format!("{own} to you: for you"),
        format!("left: {own}"),
    ] {
        assert!(heard.contains(&line), "no {line:?} in {heard:?}");
    }
    other.stdin.take().expect("stdin is piped").write_all(b"/quit\nignored\n").expect("it reads");
    assert_eq!(other.wait().expect("it ends").code(), Some(0));
    let output = pipe(&["-q", &target], b"/who\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/to ID TEXT"));
    daemon.finish();
}

#[test]
fn each_failure_has_an_exit_code_and_a_reason() {
    // No server.
    check(&pipe(&[&format!("127.0.0.1:{}", own_port())], b"x"), 1, b"", "refused");
    // A server that never replies and never closes.
    for scheme in ["", "framed://"] {
        let silent = serve(|mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
            thread::sleep(GUARD);
        });
        let target = format!("{scheme}{silent}");
        check(&pipe(&["--timeout", "300ms", &target], b"x\n"), 1, b"", "timed out");
    }
    // A server that replies and never closes. On a busy machine its reply may come too late.
    let half = |timeout| {
        let endless = serve(|mut stream| {
            let _ = stream.write_all(b"half");
            let _ = stream.read_to_end(&mut Vec::new());
            thread::sleep(GUARD);
        });
        pipe(&["--timeout", timeout, &endless], b"x")
    };
    let mut outputs = ["300ms", "3s", "20s"].into_iter().map(half);
    let output = outputs.find(|output| !output.stdout.is_empty()).expect("its reply");
    check(&output, 1, b"half", "timed out");
    // A server that closes in the middle of a frame.
    let cut = serve(|mut stream| {
        stream.read_exact(&mut [0; 5]).expect("a frame");
        stream.write_all(&[9, 0, 0, 0, b'c', b'u']).expect("sending");
    });
    check(&pipe(&[&format!("framed://{cut}")], b"x\n"), 1, b"", "closed the connection");
    // A server that sends an invalid frame.
    let garbage = serve(|mut stream| {
        stream.write_all(&[0xFF; 9]).expect("sending");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    check(&pipe(&[&format!("framed://{garbage}")], b"x\n"), 1, b"", "a message of -1 bytes");
    for wrong in ["nope://127.0.0.1:7", "127.0.0.1", "127.0.0.1:0", "echo://h:7?order=big"] {
        assert_eq!(pipe(&[wrong], b"").status.code(), Some(2), "{wrong}");
    }
    assert_eq!(pipe(&[], b"").status.code(), Some(2));
    assert_eq!(pipe(&["--reconnect", "--no-reconnect", "7"], b"").status.code(), Some(2));
    let help = pipe(&["--help"], b"");
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for text in ["echo hi | echopool connect", "Usage: echopool connect [OPTIONS] <TARGET>"] {
        assert!(help.contains(text), "no {text:?} in {help}");
    }
}

/// A server that reads this many bytes, sends this and closes.
fn reply(read: usize, bytes: &'static [u8]) -> String {
    serve(move |mut stream| {
        stream.read_exact(&mut vec![0; read]).expect("what was sent");
        stream.write_all(bytes).expect("sending");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

#[test]
fn a_reply_that_is_not_what_was_sent_is_no_success() {
    let bytes = |reply_bytes| pipe(&[&reply(6, reply_bytes)], b"hello\n");
    let whole = bytes(b"hello\n");
    check(&whole, 0, b"hello\n", "");
    let said = String::from_utf8_lossy(&whole.stderr);
    assert!(!said.contains("has closed"), "what was waited for is not told: {said}");
    check(&bytes(b"hel"), 1, b"hel", "3 of 6 bytes came back");
    check(&bytes(b"hullo\n"), 1, b"hullo\n", "the reply is wrong");
    check(&bytes(b"hello\n!"), 1, b"hello\n!", "7 bytes came back for 6");
    let frame = |frame| pipe(&[&format!("framed://{}", reply(6, frame))], b"hi\n");
    check(&frame(b"\x02\0\0\0hi"), 0, b"hi\n", "");
    check(&frame(b"\x02\0\0\0ho"), 1, b"ho\n", "the reply is wrong");
    // The first failure only.
    let target = format!("framed://{}?max-frame=4", reply(6, b"\x02\0\0\0ho"));
    let failed = pipe(&[&target], b"too long\nhi\n");
    check(&failed, 1, b"ho\n", "not sent: a message of 8 bytes or more");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!said.contains("wrong") && !said.contains("without a reply"), "{said}");
    let message = |message| pipe(&[&format!("message://{}", reply(7, message))], b"hi\n");
    check(&message(b"hi<EOF>"), 0, b"hi\n", "");
    check(&message(b"ho<EOF>"), 1, b"ho\n", "the reply is wrong");
    // Discard sends nothing back, so there is nothing to compare.
    check(&pipe(&[&format!("discard://{}", reply(6, b"bye"))], b"hello\n"), 0, b"bye", "");
}

/// Writes this line and leaves the input open. Returns standard error up to the line with this text,
/// and the client.
fn line_and_no_end(target: &str, line: &[u8], until: &str) -> (String, Child) {
    let mut client = connect(&[target]);
    client.stdin.as_mut().expect("stdin is piped").write_all(line).expect("it reads");
    let mut said = String::new();
    for line in BufReader::new(client.stderr.take().expect("stderr is piped")).lines() {
        said += &(line.expect("text") + "\n");
        if said.contains(until) {
            break;
        }
    }
    assert!(said.contains(until), "no {until:?} in {said:?}");
    (said, client)
}

/// Waits for a client, whose input stays open until then if it is kept.
fn code(mut client: Child, keep: Option<std::process::ChildStdin>) -> Option<i32> {
    let mut code = None;
    eventually("the client exits", || {
        code = client.try_wait().expect("asking for its status");
        code.is_some()
    });
    drop(keep);
    code.and_then(|code| code.code())
}

#[test]
fn a_server_that_ends_before_the_input_does_is_told_and_is_a_failure_if_something_is_missing() {
    // All that was sent has its reply: the input decides.
    let target = format!("framed://{}", reply(6, b"\x02\0\0\0hi"));
    let (_, mut client) = line_and_no_end(&target, b"hi\n", "the peer has closed the connection");
    let mut shown = [0; 3];
    client.stdout.as_mut().expect("stdout is piped").read_exact(&mut shown).expect("the reply");
    assert_eq!(&shown, b"hi\n");
    drop(client.stdin.take());
    assert_eq!(code(client, None), Some(0));
    // A reply is missing, or the connection was reset.
    let target = format!("framed://{}", reply(6, b""));
    let (_, mut client) = line_and_no_end(&target, b"hi\n", "(1 of 1 lines without a reply)");
    let input = client.stdin.take();
    assert_eq!(code(client, input), Some(1));
    let resets = serve(|mut stream| {
        stream.read_exact(&mut [0]).expect("the first of what is sent");
    });
    let (_, mut client) = line_and_no_end(&resets, b"hello\n", "reset");
    let input = client.stdin.take();
    assert_eq!(code(client, input), Some(1));
}

#[test]
fn a_line_that_contains_delimiters_is_several_messages_that_each_wait_for_a_reply() {
    let daemon = Daemon::start(&["--listen", "message://127.0.0.1:0?delimiter=%3B&after=keep"]);
    let target = daemon.targets()[0].clone();
    check(&pipe(&[&target], b"a;b\nc\nd\n"), 0, b"a\nb\nc\nd\n", "");
    daemon.finish();
}

#[test]
fn unreadable_input_and_unwritable_output_are_failures() {
    let daemon = Daemon::start(&[]);
    let run = |stdin: Stdio, stdout: Stdio| {
        let mut command = Command::new(binary());
        command.arg("connect").arg(daemon.address().to_string());
        let command = command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        let output = command.spawn().expect("starting the client").wait_with_output();
        output.expect("waiting for the client")
    };
    let open = |path: &str| std::fs::File::options().read(true).open(path).expect("it is there");
    let full = std::fs::File::options().write(true).open("/dev/full").expect("it is there");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    check(&run(open(manifest).into(), full.into()), 1, b"", "cannot write to standard output");
    // A directory can be opened but not read.
    check(&run(open("/").into(), Stdio::piped()), 1, b"", "cannot read standard input");
    daemon.finish();
}

#[test]
fn too_few_open_files_are_reported_with_the_remedy() {
    // Each limit makes another step fail: catching signals, or creating the loop.
    for files in 4..=7 {
        let mut command = Command::new("sh");
        let run = format!("ulimit -n {files}; exec \"$0\" connect 127.0.0.1:7");
        command.args(["-c", &run]).arg(binary());
        let output = command.stdin(Stdio::null()).output().expect("running the client");
        check(&output, 1, b"", "(ulimit -n)");
    }
}

#[test]
fn the_client_exits_on_closed_output_and_on_signals() {
    let daemon = Daemon::start(&["--listen", "127.0.0.1:0", "--listen", "chargen://127.0.0.1:0"]);
    let [_, chargen] = daemon.targets().to_vec().try_into().expect("two targets");
    let mut client = connect(&[&chargen]);
    let mut some = [0; 1000];
    client.stdout.take().expect("stdout is piped").read_exact(&mut some).expect("characters");
    // Output is closed now. Input is still open.
    let mut code = None;
    eventually("the client exits because its output is closed", || {
        code = client.try_wait().expect("asking for its status");
        code.is_some()
    });
    assert_eq!(code.and_then(|code| code.code()), Some(0));
    for signal in [Signal::INT, Signal::TERM] {
        let mut client = connect(&[&daemon.address().to_string()]);
        // A reply shows that the client runs.
        client.stdin.as_mut().expect("stdin is piped").write_all(b"x").expect("it reads");
        let mut byte = [0];
        client.stdout.as_mut().expect("stdout is piped").read_exact(&mut byte).expect("a reply");
        // Kept open, because `wait` would close it, which also makes the client exit.
        let stdin = client.stdin.take();
        kill_process(Pid::from_child(&client), signal).expect("signalling the client");
        assert_eq!(client.wait().expect("it ends").code(), Some(130));
        drop(stdin);
    }
    daemon.finish();
}

#[test]
fn a_client_whose_output_is_not_read_exits_at_the_second_signal() {
    const TRIES: usize = 20;
    let daemon = Daemon::start(&["--listen", "chargen://127.0.0.1:0"]);
    // Whether it was still there after the first signal. If it is late, its output only seems full.
    let waits_after_the_first = || {
        let mut client = connect(&[&daemon.targets()[0]]);
        let stdout = client.stdout.take().expect("stdout is piped");
        let mut filled = 0;
        eventually("its output is full", || {
            let before = filled;
            filled = rustix::io::ioctl_fionread(&stdout).expect("bytes in the pipe");
            thread::sleep(std::time::Duration::from_millis(100));
            filled > 0 && filled == before
        });
        let pid = Pid::from_child(&client);
        kill_process(pid, Signal::TERM).expect("signalling");
        thread::sleep(std::time::Duration::from_millis(300));
        let waits = client.try_wait().expect("asking for its status").is_none();
        if waits {
            kill_process(pid, Signal::TERM).expect("signalling");
        }
        assert_eq!(client.wait().expect("it ends").code(), Some(130));
        waits
    };
    assert!((0..TRIES).any(|_| waits_after_the_first()), "it has ended at the first signal");
    daemon.finish();
}

#[test]
fn with_reconnect_the_client_reconnects_and_keeps_unsent_input() {
    let address = SocketAddr::from(([127, 0, 0, 1], own_port()));
    let mut client = connect(&["--reconnect", &address.to_string()]);
    let stderr = BufReader::new(client.stderr.take().expect("stderr is piped"));
    let mut said = stderr.lines().map_while(Result::ok);
    let mut stdin = client.stdin.take().expect("stdin is piped");
    let mut stdout = client.stdout.take().expect("stdout is piped");
    stdin.write_all(b"kept\n").expect("it reads");
    assert!(said.any(|line| line.contains("attempt 2 in")), "no server listens yet");
    let listen = address.to_string();
    let mut reply = [0; 5];
    let daemon = Daemon::start(&["--listen", &listen]);
    assert!(said.any(|line| line.contains("connected to")), "a server listens now");
    stdout.read_exact(&mut reply).expect("a reply");
    assert_eq!(&reply, b"kept\n");
    daemon.signal(Signal::KILL);
    assert!(said.any(|line| line.contains("attempt 1 in")), "the connection is lost");
    drop(daemon);
    let daemon = Daemon::start(&["--listen", &listen]);
    assert!(said.any(|line| line.contains("connected to")), "the server is back");
    stdin.write_all(b"again").expect("it reads");
    stdout.read_exact(&mut reply).expect("a reply");
    assert_eq!(&reply, b"again");
    drop(stdin);
    assert_eq!(client.wait().expect("it ends").code(), Some(0));
    daemon.finish();
}

/// Runs the client on a pseudo-terminal, types, and prints the exit code and what the terminal
/// showed.
const TERMINAL: &str = r#"
import os, pty, select, sys, time
typed = [part.encode().decode('unicode_escape').encode('latin-1') for part in sys.argv[3:]]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], 'connect', sys.argv[2]])
shown, deadline = b'', time.time() + 50
def until(text):
    global shown
    while text not in shown and time.time() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                return
until(b'connected to')
for part in typed:
    before = len(shown)
    os.write(terminal, part)
    if part.endswith(b'\n'):
        # The terminal's own echo and the server's.
        word = part.strip()
        while shown[before:].count(word) < 2 and time.time() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536)
until(b'\xff never shown')
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status))
sys.stdout.flush()
sys.stdout.buffer.write(shown)
"#;

fn on_a_terminal(target: &str, typed: &[&str]) -> (i32, String) {
    let mut python = Command::new("python3");
    python.arg("-c").arg(TERMINAL).arg(binary()).arg(target).args(typed);
    let shown = crate::harness::run_with_input(&mut python, b"");
    let shown = String::from_utf8_lossy(&shown).into_owned();
    let (code, shown) = shown.split_once('\n').expect("a code and what was shown");
    (code.parse().expect("a code"), shown.to_owned())
}

#[test]
fn on_a_terminal_ctrl_d_ends_the_client_and_ctrl_c_interrupts_it() {
    if !have("python3") {
        return;
    }
    let daemon = Daemon::start(&["--listen", "127.0.0.1:0", "--listen", "framed://127.0.0.1:0"]);
    for target in daemon.targets().to_vec() {
        for (end, expected) in [("\\x04", 0), ("\\x03", 130)] {
            let (code, shown) = on_a_terminal(&target, &["hello\\n", "again\\n", end]);
            assert_eq!(code, expected, "{shown}");
            assert!(shown.matches("hello").count() >= 2 && shown.matches("again").count() >= 2);
        }
    }
    daemon.finish();
}

#[test]
fn lines_go_over_tls_and_a_wrong_certificate_ends_at_once() {
    let directory = std::env::temp_dir().join(format!("echopool-connect-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = |name: &str| directory.join(name).display().to_string();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let made = Command::new(binary()).args(["cert", "--cert", &cert, "--key", &key]).output();
    assert!(made.expect("the program runs").status.success());
    let listen = |service: &str| format!("{service}tls://127.0.0.1:0?cert={cert}&key={key}");
    let listens = ["--listen", &listen(""), "--listen", &(listen("message+") + "&after=keep")];
    let mut daemon = Daemon::start(&[&listens[..], &["--log", "debug"]].concat());
    let [echo, message] = [0, 1].map(|nth| daemon.addresses()[nth].port());
    let ca = format!("ca={cert}");
    let echo = format!("tls://localhost:{echo}");
    let verified = pipe(&[&format!("{echo}?{ca}")], b"hello\n");
    check(&verified, 0, b"hello\n", "connected to ");
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(said.contains("looking up localhost:") && !said.contains("not verified"), "{said}");
    let message = format!("message+tls://127.0.0.1:{message}?{ca}");
    check(&pipe(&[&message], b"one\n"), 0, b"one\n", "");
    let insecure = pipe(&[&format!("{echo}?insecure=on")], b"hello\n");
    check(&insecure, 0, b"hello\n", "not verified (insecure=on)");
    let quiet = pipe(&["--quiet", &format!("{echo}?insecure=on")], b"hello\n");
    assert_eq!((quiet.status.code(), &quiet.stderr[..]), (Some(0), &b""[..]));
    for more in [&[][..], &["--reconnect"]] {
        let refused = pipe(&[&[&echo[..]][..], more].concat(), b"hello\n");
        check(&refused, 1, b"", "name the authority with ca=FILE");
    }
    let wrong = pipe(&[&format!("{echo}?ca=/no/such/file")], b"");
    check(&wrong, 1, b"", "no such file");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    let reasons = daemon.closed().into_iter().map(|closed| closed.reason).collect::<Vec<_>>();
    assert_eq!(reasons.iter().filter(|reason| *reason == "peer-closed").count(), 4, "{reasons:?}");
    assert!(!reasons.iter().any(|reason| reason == "tls-truncated"), "{reasons:?}");
    std::fs::remove_dir_all(&directory).expect("it is there");
}
