//! Tests of the framed echo: every point at which a stream can be split, the limits of the length,
//! rejected frames, and pools that are too small for all clients.

use std::io::Write;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::builtin::loopback::{connect, exchange, read, start, until, until_closed};
use crate::config::Config;
use crate::error::CloseReason;
use crate::protocol::framing::{ByteOrder, encode};
use crate::shared::receipt::SendError;
use crate::testing::Rig;

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
    frames[..whole.count()].concat()
}

/// A rig with 64 buffers of 64 bytes, and frames of up to 1000.
fn small(order: ByteOrder) -> Rig<Framed> {
    Rig::with_buffers(framed(order, 1000), 64, 64)
}

/// A client sends the stream in these parts. After each part, exactly the complete frames have come
/// back.
fn comes_back(rig: &mut Rig<Framed>, frames: &[Vec<u8>], parts: &[&[u8]]) {
    let client = rig.connect();
    let (mut sent, mut received) = (0, Vec::new());
    for part in parts {
        rig.send(client, part);
        sent += part.len();
        received.extend(rig.received(client));
        assert!(received == complete(frames, sent), "after {sent} bytes: {parts:?}");
        assert!(!rig.has_ended(client));
        assert!(rig.buffers_held() <= 20, "one byte at a time takes a buffer for each");
    }
    assert_eq!(rig.buffers_held(), 0, "every buffer is back");
    closes(rig, client, CloseReason::PeerClosed);
}

/// The client closes its side, and the server closes the connection for this reason.
fn closes(rig: &mut Rig<Framed>, client: usize, reason: CloseReason) {
    let before = rig.counts().closed(reason);
    rig.finish(client);
    assert!(rig.is_closed(client));
    assert_eq!((rig.counts().closed(reason), rig.buffers_held()), (before + 1, 0), "{reason}");
}

#[test]
fn frames_come_back_whatever_the_points_at_which_the_stream_is_split() {
    for order in [LITTLE, ByteOrder::Big] {
        let frames = frames(&[0, 1, 5, 0, 0, 60, 61, 150, 3], order);
        let stream = frames.concat();
        comes_back(&mut small(order), &frames, &[&stream]);
        comes_back(&mut small(order), &frames, &stream.chunks(1).collect::<Vec<_>>());
        for first in 0..=stream.len() {
            let mut rig = small(order);
            let (a, rest) = stream.split_at(first);
            for second in 0..=rest.len() {
                let (b, c) = rest.split_at(second);
                comes_back(&mut rig, &frames, &[a, b, c]);
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
        comes_back(&mut small(LITTLE), &frames, &parts);
    }
}

/// Checks that a header is refused at its last byte, for this reason and without a reply.
fn is_refused(rig: &mut Rig<Framed>, header: [u8; 4], reason: CloseReason) {
    let client = rig.connect();
    rig.send(client, &header[..3]);
    assert!(!rig.has_ended(client));
    rig.send(client, &header[3..]);
    assert!(rig.has_ended(client), "{header:?}");
    assert_eq!(rig.received(client), b"");
    closes(rig, client, reason);
}

#[test]
fn the_limit_of_the_length_is_kept_to_the_byte() {
    for order in [LITTLE, ByteOrder::Big] {
        for max in [1, 2, 127, 128, 255, 256, 257, 1000] {
            let mut rig = Rig::with_buffers(framed(order, max), 40, 64);
            for len in 0..=max {
                let client = rig.connect();
                let header = encode(len, order);
                rig.send(client, &header[..3]);
                rig.send(client, &header[3..]);
                rig.send(client, &vec![9; len as usize]);
                assert!(!rig.has_ended(client), "{len} of {max}");
                assert_eq!(rig.received(client), frame(&vec![9; len as usize], order));
                rig.finish(client);
            }
            for len in [max + 1, max + 2] {
                is_refused(&mut rig, encode(len, order), CloseReason::MessageTooLong);
            }
        }
        let mut rig = small(order);
        for number in [i32::MIN, i32::MIN + 1, -65_536, -256, -2, -1] {
            is_refused(&mut rig, encode(number as u32, order), CloseReason::ProtocolError);
        }
        for number in [1001, 65_536, 1 << 24, i32::MAX as u32] {
            is_refused(&mut rig, encode(number, order), CloseReason::MessageTooLong);
        }
    }
}

#[test]
fn what_came_before_a_frame_that_is_refused_is_answered_wherever_it_was_split() {
    let too_long = (encode(1001, LITTLE), CloseReason::MessageTooLong);
    let negative = (encode(-1i32 as u32, LITTLE), CloseReason::ProtocolError);
    for (bad, reason) in [too_long, negative] {
        let mut rig = small(LITTLE);
        let good = frames(&[3, 0, 70], LITTLE).concat();
        let stream = [&good[..], &bad, b"behind"].concat();
        for at in 0..good.len() + 4 {
            let client = rig.connect();
            rig.send(client, &stream[..at]);
            assert!(!rig.has_ended(client));
            rig.send(client, &stream[at..]);
            assert!(rig.has_ended(client));
            assert_eq!(rig.received(client), good, "split at {at}");
            closes(&mut rig, client, reason);
        }
    }
}

#[test]
fn no_buffer_is_needed_to_answer_a_frame_with_the_begin_of_another_behind_it() {
    let mut rig = Rig::unchecked(framed(LITTLE, 1000), &Limits::bare(1, 64, 1));
    let [a, b] = [frame(b"first", LITTLE), frame(b"second", LITTLE)];
    let client = rig.connect();
    rig.send(client, &[&a[..], &b[..7]].concat());
    assert_eq!((rig.received(client), rig.buffers_held()), (a, 1));
}

#[test]
fn a_client_that_closes_in_the_middle_of_a_frame_gets_those_before() {
    let mut rig = small(LITTLE);
    let [a, b] = [frame(&[1; 10], LITTLE), frame(&[2; 500], LITTLE)];
    for rest in [0, 1, 3, 4, 5, b.len() - 1] {
        let client = rig.connect();
        rig.send(client, &[&a[..], &b[..rest]].concat());
        closes(&mut rig, client, CloseReason::PeerClosed);
        assert_eq!(rig.received(client), a);
    }
    let silent = rig.connect();
    closes(&mut rig, silent, CloseReason::PeerClosed);
    assert_eq!(rig.received(silent), b"");
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
    let mut rig = Rig::with_buffers(framed(LITTLE, 1 << 16), 64, 16_384);
    let client = rig.connect();
    let burst = frames(&[100; 50], LITTLE).concat();
    let late = frame(&[7; 60_000], LITTLE);
    for cut in [1, 4, 100, 40_000] {
        rig.send(client, &[&burst[..], &late[..cut]].concat());
        assert!(rig.received(client) == burst);
        rig.send(client, &late[cut..]);
        assert!(rig.received(client) == late);
    }
    closes(&mut rig, client, CloseReason::PeerClosed);
}

/// A rig with these buffers of 256 bytes, which sheds.
fn shedding(max_frame: u32, buffers: u32, shed_after: Duration) -> Rig<Framed> {
    let limits = Limits { shed_after: Some(shed_after), ..Limits::bare(8, 256, buffers) };
    let options = framed(LITTLE, max_frame);
    options.check(&limits).unwrap();
    Rig::unchecked(options, &limits)
}

#[test]
fn clients_with_the_begin_of_a_frame_in_every_buffer_are_answered_all_the_same() {
    // Four buffers for four clients.
    let mut rig = shedding(100, 4, Duration::from_millis(100));
    let [a, b] = [frame(&[1; 20], LITTLE), frame(&[2; 50], LITTLE)];
    let clients = [(); 4].map(|()| rig.connect());
    for client in clients {
        rig.send(client, &[&a[..], &b[..30]].concat());
        assert_eq!(rig.received(client), a);
    }
    assert_eq!(rig.buffers_held(), 4, "each holds the start of a frame");
    clients.iter().for_each(|&client| rig.finish(client));
    // Noticing that a client has closed takes a buffer, so the first connection may be shed for the
    // others.
    rig.advance(Duration::from_secs(1));
    assert_eq!((rig.counts().closed_total(), rig.buffers_held()), (4, 0));
}

#[test]
fn frames_larger_than_the_pool_has_room_for_all_of_do_not_hang_anybody() {
    // There are 10 buffers, and a frame takes 4. Six clients that have each sent half a frame need
    // more than that. Some are shed, and then the others finish.
    let mut rig = shedding(1000, 10, Duration::from_millis(50));
    let large = frame(&[5; 1000], LITTLE);
    let clients = [(); 6].map(|()| rig.connect());
    clients.iter().for_each(|&client| rig.send(client, &large[..600]));
    assert!(rig.counts().waits_for_buffer > 0, "a connection waits for a buffer");
    let mut answered = 0;
    for client in clients {
        rig.send(client, &large[600..]);
        rig.advance(Duration::from_secs(1));
        let reply = rig.received(client);
        assert!(reply.is_empty() || reply == large, "a part of a frame came back");
        answered += u64::from(!reply.is_empty());
    }
    let shed = rig.counts().closed(CloseReason::Shed);
    assert!(shed > 0 && answered > 0, "{shed} shed, {answered} answered");
    assert_eq!(answered + shed, 6, "every client is answered or shed");
    let last = rig.connect();
    rig.send(last, &large);
    assert!(rig.received(last) == large, "and the pool is complete again");
    clients.iter().for_each(|&client| rig.finish(client));
    closes(&mut rig, last, CloseReason::PeerClosed);
    assert_eq!(rig.counts().closed_total(), 7);
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
    let mut rig = Rig::with_buffers(framed(ByteOrder::Big, 250), 64, 256);
    let client = rig.connect();
    // With its length, a message of 250 bytes is close to the buffer size, and the service's limit
    // is lower than what fits.
    for len in [0, 1, 249, 250] {
        rig.send_to(client, &vec![b'm'; len]).unwrap();
        assert_eq!(rig.received(client), frame(&vec![b'm'; len], ByteOrder::Big));
    }
    assert_eq!(rig.send_to(client, &[0; 251]), Err(SendError::TooLong));
    closes(&mut rig, client, CloseReason::PeerClosed);
    assert_eq!(rig.received(client), b"", "nothing of it was sent");
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
