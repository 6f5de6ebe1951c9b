//! Tests of the timed echo: what comes back at every point at which a stream can be split, the
//! times, refused frames, and pools without a free buffer.

use super::*;
use crate::protocol::framing;
use crate::testing::Rig;

const ORDERS: [ByteOrder; 2] = [ByteOrder::Little, ByteOrder::Big];
const MS: Duration = Duration::from_millis(1);

fn options(order: ByteOrder) -> TimedOptions {
    TimedOptions { order, max_frame: 1000, ..TimedOptions::default() }
}

/// A rig with 64 buffers of 64 bytes.
fn small(options: TimedOptions) -> Rig<Timed> {
    Rig::with_buffers(options, 64, 64)
}

fn frame(body: &[u8], order: ByteOrder) -> Vec<u8> {
    let len = (TIMES_BYTES + body.len()) as u32;
    [&framing::encode(len, order)[..], &[0xa5; TIMES_BYTES], body].concat()
}

/// Frames with bodies of these lengths, in which neighbouring bytes differ.
fn frames(lengths: &[usize], order: ByteOrder) -> Vec<Vec<u8>> {
    let body = |len: usize| (0..len).map(|at| (at * 7 + len) as u8).collect::<Vec<u8>>();
    lengths.iter().map(|&len| frame(&body(len), order)).collect()
}

/// Takes the times of replies to `frames`, of which the last one may be incomplete. Everything else
/// in them is as in the requests.
fn times(replies: &[u8], frames: &[Vec<u8>], order: ByteOrder) -> Vec<Times> {
    let (mut rest, mut times) = (replies, Vec::new());
    for frame in frames {
        if rest.is_empty() {
            break;
        }
        let (reply, behind) = rest.split_at(frame.len());
        let (head, body) = reply.split_at(LENGTH_BYTES + TIMES_BYTES);
        assert_eq!(head[..LENGTH_BYTES], frame[..LENGTH_BYTES]);
        assert!(body == &frame[LENGTH_BYTES + TIMES_BYTES..], "the body comes back");
        times.push(Times::decode(head[LENGTH_BYTES..].try_into().unwrap(), order));
        rest = behind;
    }
    assert!(rest.is_empty(), "no more replies than requests");
    times
}

#[test]
fn a_header_is_four_numbers_in_either_order() {
    let at = Time::from_nanos;
    let times =
        Times { clock: 0x0102_0304_0506_0708, received: at(9), taken_up: at(10), sent: at(11) };
    for order in ORDERS {
        assert_eq!(Times::decode(&times.encode(order), order), times);
    }
    assert_eq!(times.encode(ByteOrder::Big)[..9], [1, 2, 3, 4, 5, 6, 7, 8, 0]);
    assert_eq!(times.encode(ByteOrder::Big)[15], 9);
    assert_eq!(times.encode(ByteOrder::Little)[..9], [8, 7, 6, 5, 4, 3, 2, 1, 9]);
    assert!(times.are_in_order());
    assert!(!Times { taken_up: at(12), ..times }.are_in_order());
    assert!(!Times { received: at(11), ..times }.are_in_order());
}

#[test]
fn the_clock_of_a_machine_has_one_name() {
    assert_eq!(clock_id(), clock_id());
    assert_ne!(clock_id(), 0, "Linux tells it");
}

#[test]
fn frames_come_back_with_their_times_whatever_the_points_at_which_the_stream_is_split() {
    for order in ORDERS {
        let frames = frames(&[0, 1, 0, 60, 28, 150, 3], order);
        let stream = frames.concat();
        let mut rig = small(options(order));
        for first in 0..=stream.len() {
            let client = rig.connect();
            let (mut sent, mut replies, mut at) = (0, Vec::new(), Vec::new());
            for part in [&stream[..first], &stream[first..]] {
                rig.advance(MS);
                rig.send(client, part);
                sent += part.len();
                let before = replies.len();
                replies.extend(rig.received(client));
                let whole = times(&replies, &frames, order).len();
                let ends = frames.iter().scan(0, |end, frame| {
                    *end += frame.len();
                    Some(*end)
                });
                assert_eq!(whole, ends.filter(|end| *end <= sent).count(), "after {sent} bytes");
                at.resize(whole, rig.now());
                assert!(replies.len() == before || !part.is_empty());
            }
            for (times, now) in times(&replies, &frames, order).into_iter().zip(at) {
                let clock = clock_id();
                assert_eq!(times, Times { clock, received: now, taken_up: now, sent: now });
            }
            assert_eq!(rig.buffers_held(), 0);
            rig.finish(client);
            assert!(rig.is_closed(client));
        }
    }
}

#[test]
fn frames_without_room_for_the_times_or_beyond_the_limit_are_refused_after_those_before() {
    let order = ByteOrder::Little;
    for (header, reason) in [
        (31u32, CloseReason::ProtocolError),
        (0, CloseReason::ProtocolError),
        (1001, CloseReason::MessageTooLong),
        (u32::MAX, CloseReason::ProtocolError),
    ] {
        for delay in [Duration::ZERO, MS] {
            let mut rig = small(TimedOptions { delay, ..options(order) });
            let client = rig.connect();
            let good = frames(&[5, 0], order);
            rig.send(client, &[good.concat(), header.to_le_bytes().to_vec()].concat());
            rig.advance(3 * MS);
            assert_eq!(times(&rig.received(client), &good, order).len(), 2);
            assert!(rig.has_ended(client), "{header}");
            assert_eq!((rig.counts().closed(reason), rig.buffers_held()), (0, 0));
            rig.finish(client);
            assert_eq!(rig.counts().closed(reason), 1, "{header} {delay:?}");
        }
    }
    let wrong = TimedOptions { max_frame: 31, ..options(order) };
    assert!(wrong.checked(&[]).is_err());
}

/// Requests of one connection follow each other; those of another one do not wait for them.
#[test]
fn with_a_delay_a_request_waits_until_the_one_before_it_is_sent() {
    let order = ByteOrder::Big;
    let delay = 10 * MS;
    let mut rig = small(TimedOptions { delay, ..options(order) });
    let requests = frames(&[0, 70, 3], order);
    let [one, other] = [rig.connect(), rig.connect()];
    let begin = rig.now();
    rig.send(one, &requests[..2].concat());
    rig.advance(4 * MS);
    rig.send(one, &requests[2]);
    rig.send(other, &requests[0]);
    rig.advance(6 * MS - Duration::from_nanos(1));
    assert_eq!(rig.received(one), b"", "not before its time");
    rig.finish(one);
    rig.advance(30 * MS);
    let found = times(&rig.received(one), &requests, order);
    for (nth, (times, received)) in found.iter().zip([0, 0, 4]).enumerate() {
        let taken_up = begin + delay * nth as u32;
        let expected = Times {
            clock: clock_id(),
            received: begin + received * MS,
            taken_up,
            sent: taken_up + delay,
        };
        assert_eq!(*times, expected, "{nth}");
    }
    assert_eq!(found.len(), 3);
    let [times] = times(&rig.received(other), &requests[..1], order).try_into().unwrap();
    assert_eq!((times.received, times.taken_up), (begin + 4 * MS, begin + 4 * MS));
    assert_eq!(times.sent, begin + 14 * MS);
    assert!(rig.is_closed(one), "all was sent before the end");
    assert_eq!(rig.counts().closed(CloseReason::PeerClosed), 1);
    assert_eq!(rig.buffers_held(), 0);
}

#[test]
fn a_drain_sends_back_what_was_received() {
    let order = ByteOrder::Little;
    let mut rig = small(TimedOptions { delay: 5 * MS, ..options(order) });
    let client = rig.connect();
    let requests = frames(&[1, 2], order);
    rig.send(client, &requests.concat());
    rig.drain(Duration::from_secs(1));
    rig.advance(20 * MS);
    assert_eq!(times(&rig.received(client), &requests, order).len(), 2);
    rig.finish(client);
    assert_eq!(rig.counts().closed(CloseReason::Drained), 1);
}

/// A client that sends more than may wait is not read until there is room.
#[test]
fn what_waits_for_the_delay_is_bounded() {
    let order = ByteOrder::Little;
    let options = TimedOptions { delay: MS, max_frame: 100, ..options(order) };
    let mut rig = Rig::with_buffers(options, 256, 64);
    let client = rig.connect();
    let requests = frames(&[60; 40], order);
    rig.send(client, &requests.concat());
    let bound = 104 + usize::from(LEASES_PER_CONNECTION_MAX) * 64;
    assert!(rig.buffers_held() <= bound.div_ceil(64) + 1, "{}", rig.buffers_held());
    rig.advance(41 * MS);
    assert_eq!(times(&rig.received(client), &requests, order).len(), 40);
    assert_eq!(rig.buffers_held(), 0);
}

/// A buffer that ends within a frame has to be split. The time received is kept.
#[test]
fn a_connection_that_finds_no_buffer_waits_for_one() {
    let order = ByteOrder::Little;
    let mut rig = small(options(order));
    let client = rig.connect();
    let requests = frames(&[0, 20], order);
    let stream = requests.concat();
    rig.take_buffers_but(1);
    let begin = rig.now();
    rig.send(client, &stream[..50]);
    assert_eq!(rig.received(client), b"", "the front of the buffer needs one of its own");
    rig.advance(3 * MS);
    rig.give_buffers();
    let [first] = times(&rig.received(client), &requests, order).try_into().unwrap();
    assert_eq!((first.received, first.taken_up), (begin, begin + 3 * MS));
    assert_eq!(first.sent, first.taken_up);
    rig.send(client, &stream[50..]);
    assert_eq!(times(&rig.received(client), &requests[1..], order).len(), 1);
    assert_eq!(rig.buffers_held(), 0);
}

#[test]
fn a_message_from_another_thread_has_no_times() {
    let order = ByteOrder::Big;
    let mut rig = small(options(order));
    let client = rig.connect();
    rig.send_to(client, b"news").unwrap();
    let reply = rig.received(client);
    let head = [&framing::encode(36, order)[..], &[0; TIMES_BYTES]].concat();
    assert_eq!(reply, [&head[..], b"news"].concat());
}
