//! Tests of the framed echo: every point at which a stream can be split, the limits of the length,
//! rejected frames, and pools that are too small for all clients.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::builtin::testing::{Rig, connect, exchange, read, start, until, until_closed};
use crate::config::Config;
use crate::error::CloseReason;
use crate::protocol::framing::{ByteOrder, encode};
use crate::shared::receipt::SendError;

const LITTLE: ByteOrder = ByteOrder::Little;

fn framed(order: ByteOrder, max_frame: u32) -> FramedOptions {
    FramedOptions { order, max_frame }
}

fn frame(payload: &[u8], order: ByteOrder) -> Vec<u8> {
    [&encode(payload.len() as u32, order)[..], payload].concat()
}

/// Frames of these lengths, with payloads in which neighbouring bytes differ.
fn frames(lengths: &[usize], order: ByteOrder) -> Vec<Vec<u8>> {
    let payload = |len: usize| (0..len).map(|at| (at * 7 + len) as u8).collect::<Vec<u8>>();
    lengths.iter().map(|&len| frame(&payload(len), order)).collect()
}

/// The frames that are complete in the first `bytes` bytes of the stream.
fn complete(frames: &[Vec<u8>], bytes: usize) -> Vec<u8> {
    let mut end = 0;
    let whole = frames.iter().take_while(|frame| {
        end += frame.len();
        end <= bytes
    });
    whole.flatten().copied().collect()
}

/// Feeds the stream in these parts. After each part, exactly the complete frames have come back.
fn comes_back(frames: &[Vec<u8>], parts: &[&[u8]], order: ByteOrder) {
    let mut rig = Rig::new(framed(order, 1000), 64, 64);
    let mut received = 0;
    for part in parts {
        assert_eq!(rig.receive(part), Answer::Continue);
        received += part.len();
        assert!(rig.replies == complete(frames, received), "after {received} bytes: {parts:?}");
        assert!(rig.input.leases() <= 20, "one byte at a time takes a buffer for each");
    }
    assert!(rig.input.is_empty());
    assert_eq!(rig.pool.held(), 0, "every buffer is back");
}

#[test]
fn frames_come_back_whatever_the_points_at_which_the_stream_is_split() {
    for order in [LITTLE, ByteOrder::Big] {
        let frames = frames(&[0, 1, 5, 0, 0, 60, 61, 150, 3], order);
        let stream = frames.concat();
        comes_back(&frames, &[&stream], order);
        comes_back(&frames, &stream.chunks(1).collect::<Vec<_>>(), order);
        for first in 0..=stream.len() {
            let (a, rest) = stream.split_at(first);
            for second in 0..=rest.len() {
                let (b, c) = rest.split_at(second);
                comes_back(&frames, &[a, b, c], order);
            }
        }
    }
}

proptest! {
    #![proptest_config(crate::base::property::config())]

    #[test]
    fn any_frames_come_back_in_any_parts(
        lengths in proptest::collection::vec(0..300usize, 1..20),
        cuts in proptest::collection::vec(1..200usize, 1..30),
    ) {
        let frames = frames(&lengths, LITTLE);
        let stream = frames.concat();
        let (mut parts, mut rest) = (Vec::new(), &stream[..]);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break }
            let (part, more) = rest.split_at((*cut).min(rest.len()));
            parts.push(part);
            rest = more;
        }
        comes_back(&frames, &parts, LITTLE);
    }
}

#[test]
fn the_limit_of_the_length_is_kept_to_the_byte() {
    for order in [LITTLE, ByteOrder::Big] {
        for max in [1, 2, 127, 128, 255, 256, 257, 1000] {
            for len in 0..=max + 2 {
                let mut rig = Rig::new(framed(order, max), 64, 40);
                let header = encode(len, order);
                assert_eq!(rig.receive(&header[..3]), Answer::Continue);
                let answer = rig.receive(&header[3..]);
                if len > max {
                    let refused = Answer::CloseAfterSendFor(CloseReason::MessageTooLong);
                    assert_eq!(answer, refused, "{len} of {max}");
                    continue;
                }
                assert_eq!(answer, Answer::Continue, "{len} of {max}");
                assert_eq!(rig.receive(&vec![9; len as usize]), Answer::Continue);
                assert_eq!(rig.replies, frame(&vec![9; len as usize], order));
            }
        }
        for number in [i32::MIN, i32::MIN + 1, -65_536, -256, -2, -1] {
            let mut rig = Rig::new(framed(order, 1000), 64, 4);
            let refused = Answer::CloseAfterSendFor(CloseReason::ProtocolError);
            assert_eq!(rig.receive(&encode(number as u32, order)), refused, "{number}");
        }
        for number in [1001, 65_536, 1 << 24, i32::MAX as u32] {
            let mut rig = Rig::new(framed(order, 1000), 64, 4);
            let refused = Answer::CloseAfterSendFor(CloseReason::MessageTooLong);
            assert_eq!(rig.receive(&encode(number, order)), refused, "{number}");
        }
    }
}

#[test]
fn what_came_before_a_frame_that_is_refused_is_answered_wherever_it_was_split() {
    for bad in [encode(1001, LITTLE), encode(-1i32 as u32, LITTLE)] {
        let good = frames(&[3, 0, 70], LITTLE).concat();
        let stream = [&good[..], &bad, b"behind"].concat();
        for at in 0..good.len() + 4 {
            let mut rig = Rig::new(framed(LITTLE, 1000), 64, 10);
            assert_eq!(rig.receive(&stream[..at]), Answer::Continue);
            assert!(matches!(rig.receive(&stream[at..]), Answer::CloseAfterSendFor(_)));
            assert_eq!(rig.replies, good, "split at {at}");
        }
    }
}

#[test]
fn no_buffer_is_needed_to_answer_a_frame_with_the_begin_of_another_behind_it() {
    let mut rig = Rig::new(framed(LITTLE, 1000), 64, 1);
    let [a, b] = [frame(b"first", LITTLE), frame(b"second", LITTLE)];
    rig.receive(&[&a[..], &b[..7]].concat());
    assert_eq!((rig.replies.clone(), rig.pool.available()), (a, 0));
}

#[test]
fn a_client_that_closes_in_the_middle_of_a_frame_gets_those_before() {
    let (server, address) = start(Config::new(), framed(LITTLE, 1000));
    let [a, b] = [frame(&[1; 10], LITTLE), frame(&[2; 500], LITTLE)];
    for rest in [1, 3, 4, 5, b.len() - 1] {
        assert_eq!(exchange(address, &[&a[..], &b[..rest]].concat()), a);
    }
    assert_eq!(exchange(address, &[]), b"");
    until_closed(&server, CloseReason::PeerClosed, 6);
}

#[test]
fn refused_frames_close_with_their_reason_after_the_replies() {
    let (server, address) = start(Config::new(), framed(ByteOrder::Big, 1000));
    let good = frames(&[5, 0, 1000], ByteOrder::Big).concat();
    for bad in [encode(1001, ByteOrder::Big), encode(u32::MAX, ByteOrder::Big)] {
        // Many more bytes than the server reads before it closes the connection.
        let stream = [&good[..], &bad, &vec![0; 300_000]].concat();
        assert_eq!(exchange(address, &stream), good);
    }
    until(&server, "both are closed", |total| total.connections == 0);
    until_closed(&server, CloseReason::MessageTooLong, 1);
    until_closed(&server, CloseReason::ProtocolError, 1);
}

#[test]
fn one_byte_at_a_time_over_a_socket() {
    let (server, address) = start(Config::new().buffer_size(256), framed(LITTLE, 1000));
    let mut client = connect(address);
    for frame in frames(&[0, 1, 13, 300, 0], LITTLE) {
        for byte in &frame {
            client.write_all(&[*byte]).unwrap();
        }
        assert_eq!(read(&mut client, frame.len()), frame);
    }
    drop(client);
    until_closed(&server, CloseReason::PeerClosed, 1);
}

#[test]
fn many_frames_at_once_come_back_without_waiting_for_the_one_behind_them() {
    let (server, address) = start(Config::new().buffers(64), framed(LITTLE, 1 << 16));
    let mut client = connect(address);
    let burst = frames(&[100; 50], LITTLE).concat();
    let late = frame(&[7; 60_000], LITTLE);
    for cut in [1, 4, 100, 40_000] {
        client.write_all(&[&burst[..], &late[..cut]].concat()).unwrap();
        assert_eq!(read(&mut client, burst.len()), burst);
        client.write_all(&late[cut..]).unwrap();
        assert_eq!(read(&mut client, late.len()), late);
    }
    drop(client);
    until_closed(&server, CloseReason::PeerClosed, 1);
}

#[test]
fn clients_with_the_begin_of_a_frame_in_every_buffer_are_answered_all_the_same() {
    // Four buffers for four clients.
    let config = Config::new().buffer_size(256).buffers(4);
    let config = config.shed_after(Some(Duration::from_millis(100)));
    let (server, address) = start(config, framed(LITTLE, 100));
    let [a, b] = [frame(&[1; 20], LITTLE), frame(&[2; 50], LITTLE)];
    let mut clients: Vec<_> = (0..4).map(|_| connect(address)).collect();
    for client in &mut clients {
        client.write_all(&[&a[..], &b[..30]].concat()).unwrap();
        assert_eq!(read(client, a.len()), a);
    }
    until(&server, "each holds the start of a frame", |total| total.buffers_held == 4);
    drop(clients);
    // Noticing that a client has closed takes a buffer, so the first connection may be shed for the
    // others.
    until(&server, "the end", |total| total.closed_total() == 4 && total.buffers_held == 0);
}

#[test]
fn frames_larger_than_the_pool_has_room_for_all_of_do_not_hang_anybody() {
    // There are 10 buffers, and a frame takes 4. Six clients that have each sent half a frame need
    // more than that. Some are shed, and then the others finish.
    let config =
        Config::new().buffer_size(256).buffers(10).shed_after(Some(Duration::from_millis(50)));
    let (server, address) = start(config, framed(LITTLE, 1000));
    let large = frame(&[5; 1000], LITTLE);
    let mut clients: Vec<_> = (0..6).map(|_| connect(address)).collect();
    for client in &mut clients {
        client.write_all(&large[..600]).unwrap();
    }
    until(&server, "a connection waits for a buffer", |total| total.waits_for_buffer > 0);
    let mut answered = 0;
    for client in &mut clients {
        let mut reply = vec![0; large.len()];
        // A client that was shed gets a reset.
        if client.write_all(&large[600..]).and_then(|()| client.read_exact(&mut reply)).is_ok() {
            assert!(reply == large);
            answered += 1;
        }
    }
    let shed = server.stats().total().closed(CloseReason::Shed);
    assert!(shed > 0 && answered > 0, "{shed} shed, {answered} answered");
    assert_eq!(answered + shed, 6, "every client is answered or shed");
    assert_eq!(exchange(address, &large), large, "and the pool is complete again");
    drop(clients);
    until(&server, "the end", |total| total.connections == 0 && total.buffers_held == 0);
}

#[test]
fn a_frame_of_megabytes_is_a_chain_of_buffers() {
    let max = 8 << 20;
    let (server, address) = start(Config::new().buffers(1100), framed(LITTLE, max));
    let stream = frames(&[max as usize, 0, 3 << 20], LITTLE).concat();
    assert!(exchange(address, &stream) == stream, "changed on the way");
    until_closed(&server, CloseReason::PeerClosed, 1);
}

#[test]
fn a_message_from_another_thread_is_a_frame() {
    let (server, address) = start(Config::new().buffer_size(256), framed(ByteOrder::Big, 250));
    let mut client = connect(address);
    client.write_all(&frame(b"x", ByteOrder::Big)).unwrap();
    read(&mut client, 5);
    let id = server.clients()[0].id;
    // With its length, a message of 250 bytes is close to the buffer size, and the service's limit
    // is lower than what fits.
    for len in [0, 1, 249, 250] {
        server.send_to(id, &vec![b'm'; len]).unwrap();
        let expected = frame(&vec![b'm'; len], ByteOrder::Big);
        assert_eq!(read(&mut client, len + 4), expected);
    }
    assert_eq!(server.send_to(id, &[0; 251]), Err(SendError::TooLong));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "nothing of it was sent");
    until_closed(&server, CloseReason::PeerClosed, 1);
}

#[test]
fn a_pool_that_a_frame_does_not_fit_into_is_an_error_with_its_remedy() {
    let limits = |buffers| {
        let anywhere: std::net::SocketAddr = "[::1]:0".parse().unwrap();
        Config::new().listen(anywhere).workers(1).max_connections(9).buffers(buffers).check()
    };
    // 65536 + 4 bytes take 5 buffers, and one more if the frame starts in the middle of a buffer.
    let options = framed(LITTLE, 65_536);
    assert!(options.check(&limits(12).unwrap()).is_ok());
    let error = options.check(&limits(11).unwrap()).unwrap_err();
    assert_eq!((error.field(), error.value()), ("max_frame", "65536"));
    let error = error.to_string();
    for part in ["`buffers` 12", "`memory` 196608", "`max_frame`", "there are 11"] {
        assert!(error.contains(part), "{error}: does not say {part}");
    }
    assert!(framed(LITTLE, i32::MAX as u32).check(&limits(12).unwrap()).is_err());
}
