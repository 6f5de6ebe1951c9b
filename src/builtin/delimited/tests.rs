//! Tests of the delimited messages: every point at which a stream can be split, both values of
//! `after`, what is logged, and how connections end.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::buffer::{Pool, Reserve};
use crate::builtin::loopback::{connect, exchange, start, until_closed};
use crate::config::Config;
use crate::error::CloseReason;
use crate::protocol::framing::Delimiter;
use crate::shared::receipt::SendError;
use crate::testing::Rig;

fn options(delimiter: &[u8], after: After, max_message: u32) -> MessageOptions {
    let delimiter = Delimiter::new(delimiter).unwrap();
    MessageOptions { delimiter, after, max_message, ..MessageOptions::default() }
}

fn kept(delimiter: &[u8]) -> MessageOptions {
    options(delimiter, After::Keep, 1000)
}

fn closing() -> MessageOptions {
    options(b"<EOF>", After::Close, 1000)
}

/// How much of the stream consists of complete messages.
fn complete(stream: &[u8], delimiter: &[u8]) -> usize {
    let mut end = 0;
    while let Some(at) = stream[end..].windows(delimiter.len()).position(|w| w == delimiter) {
        end += at + delimiter.len();
    }
    end
}

/// A rig with 64 buffers of 32 bytes.
fn small(options: MessageOptions) -> Rig<Delimited> {
    Rig::unchecked(options, &Limits::bare(64, 32, 64))
}

/// A client sends the stream in these parts. After each part, exactly the complete messages have
/// come back.
fn comes_back(rig: &mut Rig<Delimited>, delimiter: &[u8], parts: &[&[u8]]) {
    let client = rig.connect();
    let (mut stream, mut received) = (Vec::new(), Vec::new());
    for part in parts {
        rig.send(client, part);
        stream.extend_from_slice(part);
        received.extend(rig.received(client));
        let answered = complete(&stream, delimiter);
        assert!(received == stream[..answered], "{} bytes: {parts:?}", stream.len());
        assert!(!rig.has_ended(client));
    }
    closes(rig, client, CloseReason::PeerClosed);
    received.extend(rig.received(client));
    assert_eq!(received, stream, "closing ends the last message");
}

/// The client closes its side, and the server closes the connection for this reason.
fn closes(rig: &mut Rig<Delimited>, client: usize, reason: CloseReason) {
    let before = rig.counts().closed(reason);
    rig.finish(client);
    assert!(rig.is_closed(client));
    assert_eq!((rig.counts().closed(reason), rig.buffers_held()), (before + 1, 0), "{reason}");
}

const STREAM: &[u8] =
    b"first<EOF><EOF>a longer one, over several buffers <EO <<EOF>x<EOF><E<EOF>rest<EO";

#[test]
fn messages_come_back_whatever_the_points_at_which_the_stream_is_split() {
    const END: &[u8] = b"<EOF>";
    comes_back(&mut small(kept(END)), END, &[STREAM]);
    comes_back(&mut small(kept(END)), END, &STREAM.chunks(1).collect::<Vec<_>>());
    for first in 0..=STREAM.len() {
        let mut rig = small(kept(END));
        let (a, rest) = STREAM.split_at(first);
        for second in 0..=rest.len() {
            let (b, c) = rest.split_at(second);
            comes_back(&mut rig, END, &[a, b, c]);
        }
    }
}

#[test]
fn the_first_message_closes_whatever_the_points_at_which_the_stream_is_split() {
    let stream = b"a message of two buffers, and more<EOF>ignored<EOF>";
    let end = complete(&stream[..40], b"<EOF>");
    let mut rig = Rig::unchecked(closing(), &Limits::bare(64, 32, 4));
    for first in 0..end {
        for second in first..=stream.len() {
            let client = rig.connect();
            rig.send(client, &stream[..first]);
            assert!(!rig.has_ended(client));
            rig.send(client, &stream[first..second]);
            assert_eq!(rig.has_ended(client), second >= end, "split at {first} and {second}");
            let expected: &[u8] = if second < end { b"" } else { &stream[..end] };
            assert_eq!(rig.received(client), expected, "split at {first} and {second}");
            let begun = second < end;
            let reason = if begun { CloseReason::PeerClosed } else { CloseReason::Service };
            closes(&mut rig, client, reason);
        }
    }
}

proptest! {
    #![proptest_config(crate::base::property::config())]

    /// Uses few different bytes, so that partial matches of the delimiter are common.
    #[test]
    fn any_messages_come_back_in_any_parts(
        delimiter in proptest::collection::vec(0..3u8, 1..=4),
        parts in proptest::collection::vec(proptest::collection::vec(0..3u8, 1..80), 1..10),
    ) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        comes_back(&mut small(kept(&delimiter)), &delimiter, &parts);
    }
}

#[test]
fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
    for after in [After::Close, After::Keep] {
        let mut rig = Rig::with_buffers(options(b"<EOF>", after, 100), 16, 32);
        for len in 90..=110 {
            let stream = [&vec![b'x'; len - 5][..], b"<EOF>"].concat();
            for cut in 0..len {
                let client = rig.connect();
                rig.send(client, &stream[..cut]);
                rig.send(client, &stream[cut..]);
                assert_eq!(rig.received(client).len(), if len > 100 { 0 } else { len });
                let reason = match after {
                    _ if len > 100 => CloseReason::MessageTooLong,
                    After::Close => CloseReason::Service,
                    After::Keep => CloseReason::PeerClosed,
                };
                let ends = reason != CloseReason::PeerClosed;
                assert_eq!(rig.has_ended(client), ends, "{len} bytes cut at {cut}");
                closes(&mut rig, client, reason);
            }
        }
    }
}

#[test]
fn what_came_before_a_message_that_is_too_long_is_answered() {
    let (server, address) = start(Config::new(), options(b"\n", After::Keep, 100));
    let stream = [b"one\ntwo\n".as_slice(), &[b'x'; 300_000]].concat();
    assert_eq!(exchange(address, &stream), b"one\ntwo\n");
    until_closed(&server, CloseReason::MessageTooLong, 1);
}

#[test]
fn a_message_is_answered_and_the_connection_closed() {
    let (server, address) = start(Config::new(), closing());
    let mut client = connect(address);
    for byte in b"This is a test<EOF>" {
        client.write_all(&[*byte]).unwrap();
    }
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).unwrap();
    assert_eq!(reply, b"This is a test<EOF>");
    drop(client);
    until_closed(&server, CloseReason::Service, 1);
    let long = [&[b'm'; 800][..], b"<EOF>", &[b'z'; 100_000]].concat();
    assert_eq!(exchange(address, &long), long[..805], "bytes after it are ignored");
    until_closed(&server, CloseReason::Service, 2);
}

#[test]
fn a_client_that_closes_has_ended_its_message() {
    let mut rig = small(closing());
    for text in [b"no end".as_slice(), b""] {
        let client = rig.connect();
        rig.send(client, text);
        closes(&mut rig, client, CloseReason::PeerClosed);
        assert_eq!(rig.received(client), text);
    }
}

#[test]
fn lines_come_back_on_one_connection() {
    let mut rig = Rig::with_buffers(kept(b"\n"), 64, 256);
    let client = rig.connect();
    let mut before = "";
    for number in 0..200 {
        let lines = format!("line {number}\n\n{}\n", "x".repeat(number));
        rig.send(client, format!("{lines}begin ").as_bytes());
        assert_eq!(rig.received(client), format!("{before}{lines}").as_bytes());
        before = "begin ";
    }
    closes(&mut rig, client, CloseReason::PeerClosed);
    assert_eq!(rig.received(client), b"begin ");
}

#[test]
fn a_message_from_another_thread_ends_with_the_delimiter() {
    let mut rig = Rig::new(kept(b"\r\n"));
    let client = rig.connect();
    rig.send_to(client, b"hello").unwrap();
    assert_eq!(rig.received(client), b"hello\r\n");
    assert_eq!(rig.send_to(client, &[b'x'; 999]), Err(SendError::TooLong));
    assert_eq!(rig.received(client), b"");
}

/// Records what the service returns when data arrives.
struct Recording(Delimited, Arc<Mutex<Vec<String>>>);

impl Service for Recording {
    type Session = Scan;

    fn data(&mut self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
        let answer = self.0.data(connection, scan);
        let waits = matches!(answer, Answer::WaitUntil(time) if time == connection.now());
        self.1.lock().unwrap().push(if waits { "next turn".into() } else { format!("{answer:?}") });
        answer
    }
}

#[test]
fn many_messages_for_the_log_leave_the_rest_of_the_turn_to_others() {
    // Nothing in the process writes it.
    log::set_max_level(LevelFilter::Info);
    let answers = Arc::<Mutex<Vec<String>>>::default();
    for (show, messages, then) in [
        (200, LOGGED_PER_TURN - 1, "Continue"),
        (200, LOGGED_PER_TURN, "next turn"),
        (200, 1000, "next turn"),
        (0, 1000, "Continue"),
    ] {
        let service = Delimited::new(MessageOptions { show, ..kept(b"\n") });
        let made = Recording(service, answers.clone());
        let mut rig = Rig::new(move || Recording(made.0, made.1.clone()));
        let client = rig.connect();
        for _ in 0..2 {
            rig.send(client, &vec![b'\n'; messages]);
            assert_eq!(rig.received(client).len(), messages);
            assert_eq!(std::mem::take(&mut *answers.lock().unwrap()), [then], "{show} {messages}");
        }
    }
}

#[test]
fn a_message_is_shown_escaped_and_cut() {
    let pool = Pool::new(Reserve::new(4, 16).unwrap(), 0);
    let mut chain = Chain::new(&pool);
    for part in [b"behi".as_slice(), b"a\"b\\", b"\n\x1b[2", b"\xc3\xa9", b"J~"] {
        let mut lease = pool.lease().unwrap();
        lease.extend_from_slice(part);
        chain.push_back(lease);
    }
    let bytes: Vec<u8> = chain.slices().flatten().copied().collect();
    for start in 0..=bytes.len() {
        for end in start..=bytes.len() {
            let shown = Escaped { chain: &chain, place: start..end }.to_string();
            assert_eq!(shown, bytes[start..end].escape_ascii().to_string());
        }
    }
    let all = Escaped { chain: &chain, place: 4..bytes.len() }.to_string();
    assert_eq!(all, r#"a\"b\\\n\x1b[2\xc3\xa9J~"#, "no control character reaches a terminal");
}
