//! The log when standard error does not accept it: nothing else waits for it, and lost lines are
//! counted. And the limit of what clients can make the daemon log.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, PipeReader, Read, Write, pipe};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::Signal;

use crate::harness::{Client, Daemon, GUARD, binary, eventually, named_values};

/// An echo, and a service that logs a line per message, on one worker: if it blocks, nothing works.
const FLAGS: [&str; 8] = [
    "--workers",
    "1",
    "--max-connections",
    "100",
    "--listen",
    "127.0.0.1:0",
    "--listen",
    "message://127.0.0.1:0?after=keep",
];

/// Sends this many messages, each of which the daemon logs, and receives the replies.
fn log_messages(to: SocketAddr, count: usize) {
    let mut client = TcpStream::connect_timeout(&to, GUARD).expect("connecting");
    client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    let message = [&[b'x'; 195][..], b"<EOF>"].concat();
    let batch = message.repeat(100);
    let mut replies = vec![0; batch.len()];
    for _ in 0..count / 100 {
        client.write_all(&batch).expect("sending");
        client.read_exact(&mut replies).expect("the replies");
        assert!(replies == batch);
    }
}

/// Starts the daemon with a pipe as stderr. Nobody reads it until the test does.
fn start(flags: OFlags) -> (Daemon, PipeReader) {
    let (reader, stderr) = pipe().expect("a pipe");
    fcntl_setfl(&stderr, flags).expect("setting the flags of the pipe");
    (Daemon::start_with_stderr(&FLAGS, stderr), reader)
}

#[test]
fn a_log_that_nobody_reads_stops_neither_the_workers_nor_the_end() {
    let (daemon, unread) = start(OFlags::empty());
    log_messages(daemon.addresses()[1], 2_000);
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    client.close();
    daemon.finish();
    drop(unread);
}

#[test]
fn a_start_that_fails_does_not_wait_for_an_unread_log() {
    let (reader, mut stderr) = pipe().expect("a pipe");
    fcntl_setfl(&stderr, OFlags::NONBLOCK).expect("setting the flags of the pipe");
    while stderr.write(&[b'\n'; 4096]).is_ok() {}
    fcntl_setfl(&stderr, OFlags::empty()).expect("setting the flags of the pipe");
    let first = Daemon::start(&[]);
    let mut second = std::process::Command::new(binary())
        .args(["--listen", &first.address().to_string()])
        .stderr(stderr)
        .spawn()
        .expect("starting the daemon");
    let mut status = None;
    eventually("it has failed", || {
        status = second.try_wait().expect("asking for its status");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    drop(reader);
    first.finish();
}

/// Each message is a line of the log or is counted by a `lines_lost=` line.
#[test]
fn lines_that_an_unread_log_loses_are_counted() {
    const MESSAGES: usize = 20_000;
    for flags in [OFlags::empty(), OFlags::NONBLOCK] {
        let (daemon, reader) = start(flags);
        log_messages(daemon.addresses()[1], MESSAGES);
        let (shown, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let total = || shown.load(Relaxed) + lost.load(Relaxed);
        thread::scope(|scope| {
            scope.spawn(|| {
                for line in BufReader::new(reader).lines().map(|line| line.expect("text")) {
                    shown.fetch_add(usize::from(line.contains(" message id=")), Relaxed);
                    if line.contains("lines_lost=") {
                        let values = named_values(&line.replace(':', " "));
                        lost.fetch_add(values["lines_lost"] as usize, Relaxed);
                    }
                }
            });
            eventually("every message is shown or counted", || total() == MESSAGES);
            daemon.finish();
        });
        assert_eq!(total(), MESSAGES, "{shown:?} shown, {lost:?} lost; {flags:?}");
        assert!(shown.into_inner() > 0 && lost.into_inner() > 0);
    }
}

#[test]
fn a_limit_of_the_size_of_files_ends_the_log_and_not_the_daemon() {
    let mut daemon = Daemon::start_under("ulimit -f 16", &FLAGS);
    log_messages(daemon.addresses()[1], 1_000);
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    client.close();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "the log has a size limit; see its end");
    let size = daemon.log_bytes();
    assert!(size == 16 * 512 || size == 16 * 1024, "{size} bytes: the limit was not reached");
}

/// Each message is a line of the log, or is counted when the second has ended. Lines of other levels
/// and those of the daemon itself are still shown.
#[test]
fn messages_over_the_limit_of_the_log_are_counted_and_hide_nothing_else() {
    const MESSAGES: u64 = 3_000;
    let flags = [&FLAGS[..], &["--log", "debug", "--log-limit", "10"]].concat();
    let mut daemon = Daemon::start(&flags);
    let begun = Instant::now();
    log_messages(daemon.addresses()[1], MESSAGES as usize);
    let not_shown = |daemon: &Daemon, level| -> u64 {
        let lines = daemon.lines_with(&format!(" of level {level}: --log-limit allows 10 "));
        lines.iter().map(|line| named_values(line)["lines_not_shown"]).sum()
    };
    let shown = |daemon: &Daemon| daemon.lines_with(" message id=").len() as u64;
    // Although nothing is logged any more.
    eventually("each message is shown or counted", || {
        shown(&daemon) + not_shown(&daemon, "INFO") == MESSAGES
    });
    let most = 10 * (begun.elapsed().as_secs() + 2);
    assert!((10..=most).contains(&shown(&daemon)), "{} shown, of {most}", shown(&daemon));
    assert!(!daemon.lines_with(" connect id=").is_empty(), "a line of another level");

    // The end waits for no second to end, and the daemon's own lines have no limit.
    for _ in 0..100 {
        Client::connect(daemon.address()).close();
    }
    eventually("all have left", || daemon.stat("closed") == 101);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    let lines = |word| daemon.lines_with(word).len() as u64;
    let events = lines(" connect id=") + lines(" disconnect id=") + not_shown(&daemon, "DEBUG");
    assert_eq!(events, 2 * 101, "{}", daemon.tail());
    assert_eq!((lines("SIGTERM: draining"), lines("ended, every")), (1, 1), "{}", daemon.tail());
}

/// Also lines about other lines, and the daemon's last word.
#[test]
fn every_line_has_the_form_that_is_asked_for() {
    let flags = [&FLAGS[..], &["--log", "debug", "--log-limit", "10"]].concat();
    for format in ["json", "journal"] {
        let mut daemon = Daemon::start(&[&flags[..], &["--log-format", format]].concat());
        log_messages(daemon.addresses()[1], 100);
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
        let lines = daemon.lines_with("");
        let with = |word: &str| lines.iter().filter(|line| line.contains(word)).count();
        for word in ["limits: workers=1", "lines_not_shown=", "ended, every connection finished"] {
            assert!(with(word) > 0, "{word}: {lines:?}");
        }
        for line in &lines {
            if format == "journal" {
                let is_right = ["<4>", "<6>", "<7>"].iter().any(|prefix| line.starts_with(prefix));
                assert!(is_right && line[3..].starts_with("echopool"), "{line}");
                continue;
            }
            let object: serde_json::Value = serde_json::from_str(line).expect(line);
            let message = object["message"].as_str().expect("text");
            if message.starts_with("connect id=") {
                assert!(object["fields"]["connections"].is_u64(), "{line}");
                assert_eq!(
                    (&object["level"], &object["fields"]["id"].is_u64()),
                    (&"debug".into(), &true)
                );
            }
        }
    }
    for (format, begin) in [("json", "{"), ("journal", "<3>echopool::daemon: ")] {
        let mut command = std::process::Command::new(binary());
        command.args(["--listen", "192.0.2.1:1", "--log-format", format, "--log", "off"]);
        let failed = command.output().expect("it starts");
        let text = String::from_utf8_lossy(&failed.stderr);
        assert!(text.starts_with(begin) && text.contains("cannot listen"), "{text}");
    }
}

#[test]
fn a_sample_of_the_connections_has_lines_for_both_ends() {
    const CLIENTS: usize = 400;
    let daemon = Daemon::start(&[&FLAGS[..], &["--log", "debug", "--log-sample", "1/10"]].concat());
    for _ in 0..CLIENTS {
        Client::connect(daemon.address()).close();
    }
    eventually("all are closed", || daemon.stats()["closed"] == CLIENTS as u64);
    let ids = |word: &str| -> BTreeSet<String> {
        let lines = daemon.lines_with(&format!(" {word} id="));
        let id = |line: &String| line.split(" id=").nth(1)?.split(' ').next().map(str::to_owned);
        lines.iter().map(|line| id(line).expect("an id")).collect()
    };
    let mut begun = BTreeSet::new();
    eventually("each has both lines", || {
        begun = ids("connect");
        begun == ids("disconnect")
    });
    // With 400 independent ones, fewer than 10 or more than 100 have a probability below 1e-8.
    assert!((10..=100).contains(&begun.len()), "{} of {CLIENTS}", begun.len());
    daemon.finish();
}
