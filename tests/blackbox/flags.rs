//! What each flag does that no other file tests: sizes, the backlog, and the flags that set the
//! defaults of services' options.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Client, Daemon, GUARD, eventually};

fn connect(daemon: &Daemon) -> TcpStream {
    let client = TcpStream::connect_timeout(&daemon.address(), GUARD).expect("connecting");
    client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    client
}

#[test]
fn workers_are_that_many_threads() {
    for (workers, count) in [("1", 1), ("5", 5)] {
        let daemon = Daemon::start(&["--workers", workers]);
        let threads = daemon.thread_names();
        let found = threads.iter().filter(|name| name.starts_with("worker-")).count();
        assert_eq!(found, count, "{threads:?}");
        daemon.finish();
    }
}

/// One receive fills at most four buffers.
#[test]
fn buffer_size_limits_what_one_receive_moves() {
    const BYTES: u64 = 1 << 20;
    let receives = ["512", "16Ki"].map(|size| {
        let flags = ["--workers", "1", "--buffer-size", size, "--listen", "discard://127.0.0.1:0"];
        let daemon = Daemon::start(&flags);
        connect(&daemon).write_all(&vec![0; BYTES as usize]).expect("sending");
        eventually("all is received", || daemon.stat("bytes_received") == BYTES);
        let receives = daemon.stat("receives");
        daemon.finish();
        receives
    });
    assert!(receives[0] >= BYTES / (4 * 512), "{receives:?}");
    assert!(receives[1] < receives[0], "{receives:?}");
}

/// Both limit how many connections can hold input at once: the rest of a frame of 100 bytes.
#[test]
fn workers_that_never_sleep_are_warned_of_if_they_take_all_processors() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let all = processors.max(2).to_string();
    let warned = |flags: &[&str]| {
        let daemon = Daemon::start(flags);
        let line = format!("--busy-poll with {all} workers uses all {processors} processors");
        let is_warned = !daemon.lines_with(&line).is_empty();
        daemon.finish();
        is_warned
    };
    assert!(warned(&["--busy-poll", "--workers", &all]));
    assert!(!warned(&["--workers", &all]));
    assert!(!warned(&["--busy-poll", "--workers", "1"]));
}

#[test]
fn buffers_and_memory_are_that_many_buffers() {
    for flags in [["--buffers", "8"], ["--memory", "2Ki"]] {
        let more = ["--workers", "1", "--buffer-size", "256", "--max-frame", "200"];
        let listen = ["--shed-after", "off", "--listen", "framed://127.0.0.1:0"];
        let daemon = Daemon::start(&[&flags[..], &more, &listen].concat());
        let mut clients: Vec<_> = (0..12).map(|_| connect(&daemon)).collect();
        for client in &mut clients {
            client.write_all(&[100, 0, 0, 0, 1]).expect("sending");
        }
        eventually("each buffer is held", || daemon.stat("buffers_held") == 8);
        eventually("the others wait", || daemon.stat("waits_for_buffer") == 4);
        drop(clients);
        daemon.finish();
    }
}

/// Linux holds one connection more than the backlog.
#[test]
fn backlog_limits_the_connections_that_wait() {
    let mut daemon = Daemon::start(&["--workers", "1", "--backlog", "3"]);
    daemon.stop();
    let waiting: Vec<_> = (0..4).map(|_| connect(&daemon)).collect();
    let (to, time) = (daemon.address(), Duration::from_millis(300));
    let error = TcpStream::connect_timeout(&to, time).expect_err("no room in the backlog");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    daemon.signal(Signal::CONT);
    drop(waiting);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
}

#[test]
fn the_daemon_runs_until_its_standard_input_closes() {
    let (stdin, writer) = std::io::pipe().expect("a pipe");
    let mut daemon = Daemon::start_with_stdin(&["--until-stdin-closes"], stdin);
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    assert!(daemon.try_wait().is_none(), "{}", daemon.tail());
    drop(writer);
    client.expect_fin();
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    assert_eq!(daemon.lines_with("standard input has ended: draining").len(), 1);
}

#[test]
fn flags_for_messages_set_the_delimiter_the_limits_and_what_follows() {
    let flags = ["--delimiter", r"\n", "--after", "keep", "--max-message", "10", "--show", "3"];
    let daemon = Daemon::start(&[&flags[..], &["--listen", "message://127.0.0.1:0"]].concat());
    let mut client = connect(&daemon);
    client.write_all(b"first\nsecond\nmuch too long\n").expect("sending");
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).expect("FIN");
    assert_eq!(replies, b"first\nsecond\n");
    drop(client);
    eventually("the reason", || daemon.stats().get("message-too-long") == Some(&1));
    for text in [r#" bytes=6 shown=3 text="fir""#, r#" bytes=7 shown=3 text="sec""#] {
        eventually(text, || daemon.lines_with(text).len() == 1);
    }
    daemon.finish();
    let daemon = Daemon::start(&["--after", "close", "--listen", "message://127.0.0.1:0"]);
    let mut client = connect(&daemon);
    client.write_all(b"one<EOF>").expect("sending");
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).expect("FIN after one message");
    assert_eq!(replies, b"one<EOF>");
    client.shutdown(Shutdown::Both).expect("closing");
    daemon.finish();
}

/// A frame of a hub to all members, in big endian.
fn to_all(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32 + 1).to_be_bytes()[..], &[3], text].concat()
}

/// Receives one frame of a hub: its type and the rest.
fn frame(client: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut length = [0; 4];
    client.read_exact(&mut length).expect("a length");
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    client.read_exact(&mut frame).expect("a frame");
    (frame.remove(0), frame)
}

#[test]
fn flags_for_hubs_set_notices_and_what_happens_to_slow_members() {
    const WELCOME: u8 = 128;
    const MESSAGE: u8 = 130;
    for (slow, notices, counted) in
        [("close", "off", "slow-reader"), ("drop", "on", "messages_dropped")]
    {
        let flags = ["--slow", slow, "--notices", notices, "--queue", "64Ki", "--order", "big"];
        let more = ["--workers", "1", "--max-message", "8Ki", "--listen", "hub://127.0.0.1:0"];
        let daemon = Daemon::start(&[&flags[..], &more].concat());
        let mut sender = connect(&daemon);
        assert_eq!(frame(&mut sender).0, WELCOME);
        let mut silent = connect(&daemon);
        assert_eq!(frame(&mut silent).0, WELCOME);
        let message = to_all(&[7; 8 << 10]);
        let is_counted = || daemon.stats().get(counted).is_some_and(|&count| count > 0);
        let mut others = Vec::new();
        eventually("the silent member's queue is full", || {
            for _ in 0..100 {
                sender.write_all(&message).expect("sending");
                loop {
                    match frame(&mut sender) {
                        (MESSAGE, _) => break,
                        (other, _) => others.push(other),
                    }
                }
            }
            is_counted()
        });
        // Who joins and leaves is told with notices only.
        assert_eq!(others.is_empty(), notices == "off", "{others:?}");
        drop((sender, silent));
        daemon.finish();
    }
}

/// Without the flag, messages may be longer.
#[test]
fn max_message_limits_the_messages_of_a_hub() {
    for (flags, reason) in [(&["--max-message", "100"][..], Some(&1)), (&[], None)] {
        let daemon = Daemon::start(&[flags, &["--listen", "hub://127.0.0.1:0?order=big"]].concat());
        let mut client = connect(&daemon);
        assert_eq!(frame(&mut client).0, 128);
        client.write_all(&to_all(&[7; 200])).expect("sending");
        client.shutdown(Shutdown::Write).expect("closing this side");
        client.read_to_end(&mut Vec::new()).expect("FIN");
        drop(client);
        eventually("it is closed", || daemon.stat("closed") == 1);
        assert_eq!(daemon.stats().get("message-too-long"), reason);
        daemon.finish();
    }
}
