//! How runs end: each way has its verdict and its exit code.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use common::forms::TestFile;
use common::hub::{self, HubServer};
use common::server::{self, EchoServer, Fault};
use common::{Ended, loadgen, program, start, until};
use loadgen::report::Verdict;
use loadgen::report::ending::TABLE;
use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Echoes until the client closes. With `messages`, closes after each message, which ends with a
/// line feed.
fn serve(mut stream: TcpStream, messages: bool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut buffer = [0; 4096];
    loop {
        let count = server::read(&mut stream, &mut buffer)?;
        stream.write_all(&buffer[..count])?;
        if count == 0 || messages && buffer[..count].contains(&b'\n') {
            return Ok(());
        }
    }
}

/// A server that accepts this many connections, and then calls `then` with its listener.
fn accepts(
    count: usize,
    messages: bool,
    then: impl FnOnce(TcpListener) + Send + 'static,
) -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).and_then(|()| socket.listen(0)).expect("a free port");
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let mut streams = Vec::new();
        for _ in 0..count {
            streams.push(listener.accept().expect("a connection").0);
        }
        then(listener);
        for stream in streams {
            // An error means that the client has closed.
            thread::spawn(move || drop(serve(stream, messages)));
        }
    });
    address
}

fn count(json: &Value, key: &str) -> u64 {
    json[key].as_u64().unwrap_or_else(|| panic!("{key} in {json}"))
}

/// Connections of later lives that are refused are not the run that was asked for, whatever the
/// service and the loop.
#[test]
fn a_server_that_accepts_nothing_more_is_not_what_was_asked_for() {
    for (scheme, flags) in [
        ("message", ""),
        ("message", "-R 100"),
        ("tcp", "-R 100 --lifetime 3"),
        ("tcp", "-R 100 --lifetime 3 --strict"),
        ("tcp", "--lifetime 100"),
        ("framed", "-R 100 --lifetime 3"),
    ] {
        let address = accepts(2, scheme == "message", drop);
        let target = match scheme {
            "message" => format!("message://{address}?delimiter=%0a"),
            _ => format!("{scheme}://{address}"),
        };
        let run = format!("{target} -c 2 -t 1 -d 1500ms {flags} --output-format json");
        let json = loadgen(&run).expect(4).json();
        assert_eq!(json["verdict"], "under-connected", "{run}: {json}");
        assert!(count(&json, "reconnects_failed") > 0, "{json}");
        assert_eq!(count(&json, "reconnects_failed"), count(&json["errors"], "connect-refused"));
        let text = json["verdict_text"].as_str().expect("a text");
        assert!(text.contains("connects failed in place of"), "{text}");
        let never_sent = text.contains("requests were never sent");
        assert_eq!(never_sent, flags.contains("-R"), "{text}");
    }
}

/// A connect that never ends is waited for, like a reply, and judged by its time-out.
#[test]
fn a_connect_that_is_in_progress_at_the_end_is_judged_too() {
    let (fill, filled) = std::sync::mpsc::channel();
    let address = accepts(1, false, move |listener| {
        // The kernel holds one or two connections that are not accepted, and drops the others.
        let address = listener.local_addr().expect("it is bound");
        let hold = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            // It is in progress.
            let _ = socket.connect(&address.into());
            socket
        };
        let held: Vec<Socket> = (0..4).map(hold).collect();
        thread::sleep(Duration::from_millis(50));
        fill.send((listener, held)).expect("the test waits");
    });
    let run = format!("{address} -c 1 -R 100 -d 2s --timeout 3s --lifetime 5");
    let json = loadgen(&format!("{run} --output-format json")).expect(4).json();
    until("the queue was full", || filled.try_recv().ok());
    assert_eq!(
        (&json["verdict"], count(&json, "reconnects_failed")),
        (&"under-connected".into(), 1)
    );
    assert_eq!(count(&json["errors"], "connect-timed-out"), 1, "{json}");
}

/// How a program ended, and the row of the table that says so.
struct Case {
    row: &'static str,
    name: &'static str,
    run: fn() -> Ended,
}

const fn case(row: &'static str, name: &'static str, run: fn() -> Ended) -> Case {
    Case { row, name, run }
}

/// Every row of the table happens, with each command and in each phase in which it can.
#[test]
fn each_way_to_end_has_its_exit_code() {
    let cases = cases();
    for row in TABLE {
        assert!(cases.iter().any(|case| case.row == row.when), "nothing ends with {}", row.when);
    }
    // Most of the time they wait.
    thread::scope(|scope| {
        for nth in 0..THREADS {
            let mine = cases.iter().skip(nth).step_by(THREADS);
            scope.spawn(move || mine.for_each(assert_ends));
        }
    });
}

const THREADS: usize = 4;

fn assert_ends(Case { row, name, run }: &Case) {
    let expected = TABLE.iter().find(|one| one.when == *row).expect(row).exit as i32;
    let ended = run();
    let output = format!("stdout:\n{}\nstderr:\n{}", ended.stdout, ended.stderr);
    assert_eq!(ended.code, Some(expected), "{row}: {name}\n{output}");
    let word = row.split('`').nth(1).unwrap_or_default();
    let is_verdict = Verdict::ALL.iter().any(|verdict| verdict.word() == word);
    let json = json_of(&ended);
    if is_verdict && json["type"] == "summary" {
        assert_eq!(json["verdict"], word, "{row}: {name}\n{output}");
    }
    if !json["exit_code"].is_null() {
        assert_eq!(json["exit_code"], expected, "{row}: {name}\n{output}");
    }
}

/// `compare` writes text, and a run that failed nothing.
fn json_of(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or(Value::Null)
}

const USAGE: &str = "the command line asks for something impossible";
const FAILED: &str = "the set-up or the run failed, or a result could not be written";
const PART: &str = "`merge`, `compare`: a run was ended early by a signal or `q`";
const LATE_MET: &str = "`generator-limited`, and every `--slo` is met nevertheless";
const LATE: &str = "`generator-limited`, otherwise";
const MISSED: &str = "`valid`, an objective was missed";
const UNDECIDED: &str = "`valid`, an objective is undecided, or the run was aborted";
const SIGNAL: &str = "ended early by a signal or `q`";
const EXCEEDED: &str = "`ab`, `compare`: `valid`, a `--fail-if` is exceeded";
const NOT_DECIDED: &str = "`ab`, `compare`: `valid`, a `--fail-if` is not decided";

fn cases() -> Vec<Case> {
    vec![
        case(USAGE, "flags that do not go together", || loadgen("--strict")),
        case(USAGE, "a search with a flag of a single run", || json("--search p99:1ms -n 5")),
        case(USAGE, "one file to merge", || loadgen("merge one.json")),
        case(USAGE, "one target and no other", || against("", 1)),
        case(FAILED, "no server", || json("127.0.0.1:1 -c 2 -d 1s")),
        case(FAILED, "no server to compare with", || json("ab 127.0.0.1:1 127.0.0.1:1 -c 2 -d 1s")),
        case(FAILED, "no server to search", || json("127.0.0.1:1 -c 2 --search p99:1ms")),
        case(FAILED, "an output that cannot be written", || json("-o /no/such/directory/file")),
        case(FAILED, "a file that is not there", || loadgen("compare /no/such /no/such")),
        case(FAILED, "its own server ends during the run", || {
            let run = start(program("-c 5 -d 10m --output-format json"));
            let server = run.server_process();
            until("clients are connected", || (run.sockets() >= 5).then_some(()));
            rustix::process::kill_process(server, Signal::KILL).expect("it is there");
            run.wait()
        }),
        case("`echo-differed`", "whole", || faulty(CORRUPT, "-c 3 -t 1 -n 30")),
        case("`echo-differed`", "aborted", || faulty(CORRUPT, "-c 3 -d 10m --abort-on-fail")),
        case("`echo-differed`", "interrupted", || {
            let server = EchoServer::start(CORRUPT);
            interrupted(&server, "-c 3 -d 10m", || server.fired() > 0)
        }),
        case("`echo-differed`", "merged and compared", || {
            part_of(3, &faulty(CORRUPT, "-c 3 -t 1 -n 30"))
        }),
        case("`echo-differed`", "searched", || {
            faulty(CORRUPT, "-c 3 -R 100 -d 300ms -w 1ms --search p99:10s")
        }),
        case("`echo-differed`", "against another", || {
            let server = EchoServer::start(CORRUPT);
            json(&format!("ab {0} {0} -c 3 --rounds 8 --slice 50ms", server.address))
        }),
        case(SIGNAL, "while targets are compared", || {
            let server = EchoServer::start(Fault::None);
            let flags = format!("{} -c 2 --rounds 1000 --slice 10ms", server.address);
            let run = format!("ab {} {flags} --output-format json", server.address);
            let run = start(program(&run));
            until("a round is made", || (server.peers().len() > 4).then_some(()));
            run.signal(Signal::INT);
            run.wait()
        }),
        case(SIGNAL, "while measuring", || {
            let server = EchoServer::start(Fault::None);
            interrupted(&server, "-c 3 -d 10m", || server.bytes() > 0)
        }),
        case(SIGNAL, "a missed objective, and lost connections", || {
            let server = EchoServer::start(Fault::Close { connection: 1, offset: 0 });
            interrupted(&server, "-c 3 -d 10m --slo max<1ns", || server.fired() > 0)
        }),
        case(SIGNAL, "while the last replies are waited for", || {
            let server = EchoServer::start(Fault::Stall { connection: 0, offset: 0 });
            interrupted(&server, "-c 3 -t 1 -n 30 --timeout 10m", || server.bytes() >= 29 * 64)
        }),
        case(SIGNAL, "while searching", || {
            let server = EchoServer::start(Fault::None);
            interrupted(&server, "-c 3 -d 10m --search p99:1s", || server.bytes() > 0)
        }),
        case("`nothing-served`", "no reply", || faulty(Fault::Mute, "-c 2 -n 4 --timeout 300ms")),
        case("`nothing-served`", "gone before the first reply", || {
            faulty(Fault::Reset { connection: 0, offset: 0 }, "-c 1 -d 1s -w 100ms")
        }),
        case("`nothing-served`", "aborted at the first connect that fails", || {
            let address = accepts(1, false, drop);
            json(&format!("{address} -c 9 -t 1 -d 10m --connect-rate 1 --abort-on-fail"))
        }),
        case("`connections-lost`", "gone while measuring", || {
            // In the first request, because others may have all that follow.
            faulty(Fault::Reset { connection: 1, offset: 640 }, "-c 3 -t 1 -n 3000 -l 1000")
        }),
        case("`connections-lost`", "gone in an open loop", || {
            faulty(Fault::Close { connection: 1, offset: 64 }, "-c 3 -R 300 -d 1s")
        }),
        case("`connections-lost`", "silent until the end", || {
            let stall = Fault::Stall { connection: 1, offset: 0 };
            faulty(stall, "-c 3 -d 300ms --timeout 600ms")
        }),
        case("`connections-lost`", "aborted", || {
            let close = Fault::Close { connection: 1, offset: 64 };
            faulty(close, "-c 3 -d 10m --abort-on-fail")
        }),
        case("`connections-lost`", "merged and compared", || {
            part_of(4, &faulty(Fault::Close { connection: 1, offset: 0 }, "-c 3 -t 1 -n 30"))
        }),
        case("`under-connected`", "at first", || {
            let address = accepts(1, false, drop);
            json(&format!("{address} -c 2 -t 1 -n 20 --connect-rate 1"))
        }),
        case("`under-connected`", "later", || {
            json(&format!("{} -c 2 -t 1 -d 1500ms --lifetime 50", accepts(2, false, drop)))
        }),
        case("`under-connected`", "later, aborted", || {
            let run = "-c 2 -t 1 -d 10m --lifetime 50 --abort-on-fail";
            json(&format!("{} {run}", accepts(2, false, drop)))
        }),
        case("`under-connected`", "nobody is there any more, and requests are left", || {
            let target = format!("message://{}?delimiter=%0a", accepts(2, true, drop));
            json(&format!("{target} -c 2 -t 1 -n 100 --timeout 2s"))
        }),
        case("`under-connected`", "the same in an open loop", || {
            let target = format!("message://{}?delimiter=%0a", accepts(2, true, drop));
            json(&format!("{target} -c 2 -t 2 -n 100 -R 500 --timeout 2s"))
        }),
        case("`under-connected`", "searched", || {
            let run = "-c 2 -t 1 -R 100 -d 300ms --connect-rate 1 --search p99:10s";
            json(&format!("{} {run}", accepts(1, false, drop)))
        }),
        case("`not-delivered`", "a hub that drops", || {
            let server = HubServer::start(hub::Fault::Dropped { to: 1, nth: 5 });
            json(&format!("hub://{} -c 5 -n 50", server.address))
        }),
        case(PART, "merged and compared", || {
            let server = EchoServer::start(Fault::None);
            part_of(4, &interrupted(&server, "-c 3 -n 30m", || server.bytes() > 0))
        }),
        case(LATE_MET, "paused", || late("--slo max<1h --slo errors<1")),
        case(LATE_MET, "merged and compared", || part_of(0, &late("--slo max<1h"))),
        case(LATE, "without an objective", || late("")),
        case(LATE, "an objective that is not met", || late("--slo p99<1us")),
        case(LATE, "one of several objectives is not met", || late("--slo max<1h --slo p99<1us")),
        case(LATE, "merged and compared", || part_of(4, &late(""))),
        case(MISSED, "the whole run", || faulty(Fault::None, "-c 2 -n 20 --slo max<1ns")),
        case(MISSED, "a second that ended the run", || {
            faulty(Fault::None, "-c 2 -d 10m --slo max<1ns --abort-on-fail")
        }),
        case(MISSED, "merged and compared", || {
            part_of(99, &faulty(Fault::None, "-c 2 -n 20 --slo max<1ns"))
        }),
        case(MISSED, "merged and compared, ended by a second", || {
            part_of(99, &faulty(Fault::None, "-c 2 -d 10m --slo max<1ns --abort-on-fail"))
        }),
        case(MISSED, "searched", || {
            undisturbed(99, || {
                let slow = Fault::Slow { wait: Duration::from_millis(200) };
                faulty(slow, "-c 24 -R 68 -d 300ms -w 1ms --search p50:150ms")
            })
        }),
        case(UNDECIDED, "most requests are never sent", || never_sent("--slo p90<1h")),
        case(UNDECIDED, "an upper limit of all", || never_sent("--slo max<1h --slo mean<1h")),
        case(UNDECIDED, "merged and compared", || part_of(4, &never_sent("--slo p90<1h"))),
        case(EXCEEDED, "by the rounds", || against("--fail-if p50>0.000001x", 2)),
        case(NOT_DECIDED, "too few rounds", || {
            json("ab echo:// echo:// -c 2 --rounds 3 --slice 20ms --fail-if p50>1x")
        }),
        case(NOT_DECIDED, "two files", || {
            let file = TestFile::new("ends-condition.json");
            std::fs::write(&file.0, faulty(Fault::None, "-c 2 -n 20").stdout).expect("a file");
            loadgen(&format!("compare {file} {file} --fail-if p50>1x --output-format json"))
        }),
        case("`valid`", "targets, without a condition", || against("", 2)),
        case("`valid`", "targets, with a condition that is kept", || {
            against("--fail-if p50>1000000x --fail-if p50>+1h", 2)
        }),
        case("`valid`", "a closed loop", || faulty(Fault::None, "-c 3 -n 30")),
        case("`valid`", "objectives that are met", || {
            faulty(Fault::None, "-c 3 -n 30 --slo max<1h --slo rate>=1 --slo errors<1")
        }),
        case("`valid`", "an open loop", || {
            let slow = Fault::Slow { wait: Duration::from_millis(500) };
            undisturbed(0, || faulty(slow, "-c 30 -R 20 -d 1s"))
        }),
        case("`valid`", "what is never sent decides no objective", || never_sent("--slo p1<1h")),
        case("`valid`", "merged and compared", || part_of(0, &faulty(Fault::None, "-c 3 -n 30"))),
        case("`valid`", "searched", || {
            undisturbed(0, || {
                let slow = Fault::Slow { wait: Duration::from_millis(5) };
                faulty(slow, "-c 1 -R 50 -d 500ms -w 1ms --search p99:1s")
            })
        }),
    ]
}

/// In the first request, because a connection may have no other.
const CORRUPT: Fault = Fault::Corrupt { connection: 1, offset: 10 };

/// With a report in JSON.
fn json(flags: &str) -> Ended {
    loadgen(&format!("{flags} --output-format json --progress none"))
}

/// A server against itself, `targets` times.
fn against(flags: &str, targets: usize) -> Ended {
    let server = EchoServer::start(Fault::None);
    let targets = format!("{} ", server.address).repeat(targets);
    json(&format!("ab {targets} -c 2 --rounds 12 --slice 50ms {flags}"))
}

fn faulty(fault: Fault, flags: &str) -> Ended {
    json(&format!("{} {flags}", EchoServer::start(fault).address))
}

/// Interrupted when `now` holds.
fn interrupted(server: &EchoServer, flags: &str, now: impl Fn() -> bool) -> Ended {
    let run = start(program(&format!("{} {flags} --output-format json", server.address)));
    until("it is time", || now().then_some(()));
    run.signal(Signal::INT);
    run.wait()
}

/// Paused for so long that every tenth request is late because of that.
fn late(flags: &str) -> Ended {
    let server = EchoServer::start(Fault::None);
    let run = format!("{} -c 20 -t 1 -R 500 -d 2s {flags}", server.address);
    let run = start(program(&format!("{run} --output-format json")));
    until("it measures", || (server.bytes() > 64 * 100).then_some(()));
    run.signal(Signal::STOP);
    thread::sleep(Duration::from_millis(500));
    run.signal(Signal::CONT);
    run.wait()
}

/// A run in which all but 8 of a hundred requests are never sent. Repeated while the machine is too
/// busy for a verdict on the server.
fn never_sent(flags: &str) -> Ended {
    let slow = Fault::Slow { wait: Duration::from_millis(50) };
    for _ in 0..TRIES {
        let ended = faulty(slow, &format!("-c 2 -t 1 -R 500 -d 200ms {flags}"));
        if json_of(&ended)["verdict"] == "valid" {
            return ended;
        }
    }
    panic!("{TRIES} runs, and each of them disturbed");
}

const TRIES: u32 = 20;

/// Repeats a run as long as the machine was too busy for it.
fn undisturbed(code: i32, run: impl Fn() -> Ended) -> Ended {
    let mut ended = run();
    for _ in 0..TRIES {
        if ended.code == Some(code) {
            break;
        }
        ended = run();
    }
    ended
}

/// Merges and compares a run with one that is the same but for its result, in both orders. Returns
/// what merge said last.
fn part_of(code: i32, part: &Ended) -> Ended {
    let part = part.json();
    // A whole and valid run with the same settings.
    let mut whole = part.clone();
    for (key, value) in [
        ("verdict", "valid".into()),
        ("interrupted", false.into()),
        ("aborted", Value::Null),
        ("objectives", Value::Array(Vec::new())),
        ("exit_code", 0.into()),
        ("requests_warmup", 1.into()),
    ] {
        whole[key] = value;
    }
    // Without a result that is met, the late generator would count.
    if code == 0 {
        whole["objectives"] = part["objectives"].clone();
    }
    static FILES: AtomicU64 = AtomicU64::new(0);
    let files = [&part, &whole].map(|json| {
        let file = TestFile::new(&format!("ends-{}.json", FILES.fetch_add(1, Relaxed)));
        std::fs::write(&file.0, json.to_string()).expect("it can be written");
        file
    });
    let [one, other] = &files;
    for (one, other) in [(one, other), (other, one)] {
        let compared = loadgen(&format!("compare {one} {other}"));
        assert_eq!(compared.code, Some(code), "{}{}", compared.stdout, compared.stderr);
    }
    loadgen(&format!("merge {other} {one}")).expect(code);
    loadgen(&format!("merge {one} {other}"))
}

/// The documentation has the same table, row by row.
#[test]
fn the_documentation_has_the_table() {
    let documentation = include_str!("../../docs/loadgen.md");
    let section = documentation.split("| how it ended | exit code |").nth(1).expect("a table");
    let rows = section.lines().skip(2).take_while(|line| line.starts_with('|'));
    let expected: Vec<_> =
        TABLE.iter().map(|row| format!("| {} | {} |", row.when, row.exit as u8)).collect();
    assert_eq!(rows.collect::<Vec<_>>(), expected);
}
