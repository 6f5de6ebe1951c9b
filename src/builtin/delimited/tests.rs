//! Tests of the delimited messages: every point at which a stream can be split, both values of
//! `after`, what is logged, and how connections end.

use std::io::{Read, Write};

use proptest::prelude::*;

use super::*;
use crate::buffer::{Pool, Reserve};
use crate::builtin::testing::{Rig, connect, exchange, read, start, until_closed};
use crate::config::Config;
use crate::error::CloseReason;
use crate::protocol::framing::Delimiter;
use crate::shared::receipt::SendError;

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

/// Feeds the stream in these parts. After each part, exactly the complete messages have come back.
fn comes_back(delimiter: &[u8], parts: &[&[u8]]) {
    let mut rig = Rig::new(kept(delimiter), 32, 64);
    let mut stream = Vec::new();
    for part in parts {
        assert_eq!(rig.receive(part), Answer::Continue);
        stream.extend_from_slice(part);
        let answered = complete(&stream, delimiter);
        assert!(rig.replies == stream[..answered], "{} bytes: {parts:?}", stream.len());
    }
    assert_eq!(rig.close(), Answer::CloseAfterSend);
    assert_eq!(rig.replies, stream, "closing ends the last message");
    assert_eq!(rig.pool.held(), 0, "every buffer is back");
}

const STREAM: &[u8] =
    b"first<EOF><EOF>a longer one, over several buffers <EO <<EOF>x<EOF><E<EOF>rest<EO";

#[test]
fn messages_come_back_whatever_the_points_at_which_the_stream_is_split() {
    comes_back(b"<EOF>", &[STREAM]);
    comes_back(b"<EOF>", &STREAM.chunks(1).collect::<Vec<_>>());
    for first in 0..=STREAM.len() {
        let (a, rest) = STREAM.split_at(first);
        for second in 0..=rest.len() {
            let (b, c) = rest.split_at(second);
            comes_back(b"<EOF>", &[a, b, c]);
        }
    }
}

#[test]
fn the_first_message_closes_whatever_the_points_at_which_the_stream_is_split() {
    let stream = b"a message of two buffers, and more<EOF>ignored<EOF>";
    let end = complete(&stream[..40], b"<EOF>");
    for first in 0..end {
        for second in first..=stream.len() {
            let mut rig = Rig::new(closing(), 32, 4);
            assert_eq!(rig.receive(&stream[..first]), Answer::Continue);
            let answer = rig.receive(&stream[first..second]);
            if second < end {
                assert_eq!((answer, rig.replies.len()), (Answer::Continue, 0));
                continue;
            }
            assert_eq!(answer, Answer::CloseAfterSend);
            assert_eq!(rig.replies, stream[..end], "split at {first} and {second}");
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
        comes_back(&delimiter, &parts);
    }
}

#[test]
fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
    let too_long = Answer::CloseAfterSendFor(CloseReason::MessageTooLong);
    for after in [After::Close, After::Keep] {
        for len in 90..=110 {
            let stream = [&vec![b'x'; len - 5][..], b"<EOF>"].concat();
            for cut in 0..len {
                let mut rig = Rig::new(options(b"<EOF>", after, 100), 32, 16);
                let answers = [rig.receive(&stream[..cut]), rig.receive(&stream[cut..])];
                assert_eq!(answers.contains(&too_long), len > 100, "{len} bytes cut at {cut}");
                assert_eq!(rig.replies.len(), if len > 100 { 0 } else { len });
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
    let (server, address) = start(Config::new(), closing());
    assert_eq!(exchange(address, b"no end"), b"no end");
    assert_eq!(exchange(address, b""), b"");
    until_closed(&server, CloseReason::PeerClosed, 2);
}

#[test]
fn lines_come_back_on_one_connection() {
    let (server, address) = start(Config::new().buffer_size(256), kept(b"\n"));
    let mut client = connect(address);
    for number in 0..200 {
        let lines = format!("line {number}\n\n{}\nbegin ", "x".repeat(number));
        let answered = lines.len() - 6;
        client.write_all(lines.as_bytes()).unwrap();
        let expected = if number == 0 { lines.clone() } else { format!("begin {lines}") };
        let count = if number == 0 { answered } else { answered + 6 };
        assert_eq!(read(&mut client, count), expected.as_bytes()[..count]);
    }
    drop(client);
    until_closed(&server, CloseReason::PeerClosed, 1);
}

#[test]
fn a_message_from_another_thread_ends_with_the_delimiter() {
    let (server, address) = start(Config::new(), kept(b"\r\n"));
    let mut client = connect(address);
    client.write_all(b"x\r\n").unwrap();
    read(&mut client, 3);
    let id = server.clients()[0].id;
    server.send_to(id, b"hello").unwrap();
    assert_eq!(read(&mut client, 7), b"hello\r\n");
    assert_eq!(server.send_to(id, &[b'x'; 999]), Err(SendError::TooLong));
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
