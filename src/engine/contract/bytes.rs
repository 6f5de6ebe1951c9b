//! The rules about bytes: every byte arrives once and in order, for any buffers, segments and pace
//! of the peer, and the end of the stream follows the last byte.

use super::Testbed;
use super::bench::{Bench, End, Got, Shape, pattern};
use crate::base::key::{Key, OpKind};
use crate::buffer::Chain;
use crate::engine::{Op, Outcome};
use crate::error::Errno;

/// Buffer sizes, and how many buffers one receive may fill.
const SHAPES: [(usize, u8); 6] = [(1, 1), (1, 8), (3, 1), (4, 2), (8, 8), (64, 1)];

fn sized(buffer_size: usize) -> Shape {
    Shape { buffer_size, ..Shape::default() }
}

pub(super) fn recv_at_every_split<S: Testbed>(seed: u64) {
    let message = pattern(17);
    for (size, most) in SHAPES {
        let mut bench = Bench::<S>::new(seed, sized(size));
        let (key, mut peer) = bench.pair();
        for split in 0..message.len() {
            let (first, second) = message.split_at(split);
            bench.write(&mut peer, first);
            assert_eq!(bench.recv_bytes(key, most, split), first);
            // This receive finds no bytes and waits, whatever the previous one assumed to be left.
            bench.submit_pending(key, Op::Recv(most));
            bench.idle();
            bench.write(&mut peer, second);
            assert_eq!(bench.recv_bytes(key, most, second.len()), second);
        }
        bench.close(key);
        bench.end();
    }
}

pub(super) fn recv_before_and_after_the_bytes<S: Testbed>(seed: u64) {
    let message = pattern(9);
    for (size, most) in SHAPES {
        let mut bench = Bench::<S>::new(seed, sized(size));
        let (key, mut peer) = bench.pair();
        for (written, waits) in (0..message.len()).flat_map(|at| [(at, false), (at, true)]) {
            // Some bytes arrive before a receive is submitted, the rest while one may be waiting.
            bench.write(&mut peer, &message[..written]);
            bench.idle();
            if waits && written == 0 {
                bench.submit_pending(key, Op::Recv(most));
            }
            bench.write(&mut peer, &message[written..]);
            assert_eq!(bench.recv_bytes(key, most, message.len()), message);
        }
        bench.close(key);
        bench.end();
    }
}

pub(super) fn recv_into_buffers_of_every_size<S: Testbed>(seed: u64) {
    for size in [1, 2, 7, 64, 1000] {
        for most in 1..=8 {
            let mut bench = Bench::<S>::new(seed, sized(size));
            let (key, mut peer) = bench.pair();
            // Exactly what the receive may fill, one byte less, one more, and sizes that are not
            // multiples.
            let room = size * usize::from(most);
            for count in [room, room - 1, room + 1, 3 * room + 2].into_iter().filter(|&n| n > 0) {
                let message = pattern(count);
                bench.write(&mut peer, &message[..count.min(4000)]);
                let mut all = Vec::new();
                while all.len() < count.min(4000) {
                    let outcome = bench.finish(key, Op::Recv(most));
                    let held = bench.pool.held();
                    assert!((1..=usize::from(most)).contains(&held), "{held} leases of {most}");
                    match bench.got(outcome) {
                        Got::Bytes(bytes) => all.extend(bytes),
                        other => panic!("{other:?}"),
                    }
                    assert_eq!(bench.pool.held(), 0);
                }
                assert_eq!(all, message[..count.min(4000)]);
            }
            bench.close(key);
            bench.end();
        }
    }
}

pub(super) fn recv_without_a_buffer_resumes<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape { buffers: 1, ..sized(8) });
    let (one, mut peer) = bench.pair();
    let (other, mut other_peer) = bench.pair();
    for waits in [false, true] {
        if waits {
            bench.submit_pending(one, Op::Recv(4));
        }
        let lease = bench.pool.lease().unwrap();
        bench.write(&mut peer, b"one");
        bench.write(&mut other_peer, b"other");
        let first = match waits {
            true => bench.result(one, OpKind::Recv),
            false => bench.finish(one, Op::Recv(4)),
        };
        assert_eq!(bench.got(first), Got::NoBuffer);
        // For every receive and every connection.
        assert_eq!(bench.recv(one, 4), Got::NoBuffer);
        assert_eq!(bench.recv(other, 1), Got::NoBuffer);
        drop(lease);
        assert_eq!(bench.recv_bytes(other, 1, 5), b"other");
        assert_eq!(bench.recv_bytes(one, 4, 3), b"one");
    }
    bench.close(one);
    bench.close(other);
    bench.end();
}

pub(super) fn end_needs_no_buffer<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape { buffers: 1, ..sized(8) });
    let (key, mut peer) = bench.pair();
    let lease = bench.pool.lease().unwrap();
    bench.testbed.write_and_shutdown(&mut peer, b"last");
    assert_eq!(bench.recv(key, 1), Got::NoBuffer);
    drop(lease);
    assert_eq!(bench.recv_bytes(key, 1, 4), b"last");
    let lease = bench.pool.lease().unwrap();
    assert_eq!(bench.recv(key, 1), Got::Ended);
    drop(lease);
    bench.close(key);
    bench.end();
}

pub(super) fn a_receive_waits_for_the_end_without_a_buffer<S: Testbed>(seed: u64) {
    for resets in [false, true] {
        let mut bench = Bench::<S>::new(seed, Shape { buffers: 1, ..sized(8) });
        let (key, mut peer) = bench.pair();
        let lease = bench.pool.lease().unwrap();
        bench.submit_pending(key, Op::Recv(1));
        match resets {
            true => bench.testbed.reset(peer),
            false => bench.testbed.shutdown(&mut peer),
        }
        let outcome = bench.result(key, OpKind::Recv);
        match bench.got(outcome) {
            Got::Ended if !resets => {}
            Got::Failed(Errno::CONNRESET) if resets => {}
            other => panic!("{other:?}, resets: {resets}"),
        }
        drop(lease);
        bench.close(key);
        bench.end();
    }
}

pub(super) fn what_is_thrown_away_needs_no_buffer<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape { buffers: 1, ..sized(8) });
    let (key, mut peer) = bench.pair();
    let lease = bench.pool.lease().unwrap();
    bench.submit_pending(key, Op::Discard);
    bench.testbed.write_and_shutdown(&mut peer, &pattern(300));
    let mut outcome = bench.result(key, OpKind::Recv);
    let mut bytes = 0;
    while let Outcome::Discarded(count) = outcome {
        assert!(count > 0, "a Discard of no bytes");
        bytes += count;
        outcome = bench.finish(key, Op::Discard);
    }
    assert!(matches!(outcome, Outcome::Ended), "{outcome:?}");
    assert_eq!(bytes, 300);
    drop(lease);
    bench.close(key);
    bench.end();
}

pub(super) fn short_sends<S: Testbed>(seed: u64) {
    for (size, buffers, window) in [(1, 3, 1), (7, 20, 50), (4096, 40, 10_000)] {
        // The kernel's own window is larger than any of these sizes.
        let (size, stream) = if S::EXACT_TIME { (size, 200_000) } else { (65_536, 32 << 20) };
        let stream = pattern(stream);
        let mut bench =
            Bench::<S>::new(seed, Shape { buffer_size: size, buffers, window, ..Shape::default() });
        let (key, mut peer) = bench.pair();
        let mut read = 0;
        let mut sent = 0;
        for _ in 0..3 {
            let (more, offered) = send_until_it_keeps_waiting(&mut bench, key, &stream[sent..]);
            sent += more;
            assert!(bench.is_in_flight(key, OpKind::Send));
            // Only reading makes room for more.
            let rest = bench.until("a send that waited for room", |bench| {
                read += read_some(bench, &mut peer, &stream[read..]);
                let outcome = bench.take(key, OpKind::Send)?;
                let (count, rest) = bench.sent(outcome, offered);
                sent += count;
                Some(rest)
            });
            let left: Vec<u8> = rest.slices().flatten().copied().collect();
            assert_eq!(left, stream[sent..][..left.len()], "the rest is what was not sent");
            drop(rest);
        }
        let rest = bench.read(&mut peer, sent - read);
        assert!(rest == stream[read..sent], "not the bytes that were sent");
        bench.close(key);
        assert_eq!(bench.read_to_end(&mut peer), (vec![], End::Fin));
        bench.end();
    }
}

/// Sends until a send keeps waiting while the engine polls. Returns the same as
/// `send_until_it_waits`.
fn send_until_it_keeps_waiting<S: Testbed>(
    bench: &mut Bench<S>,
    key: Key,
    stream: &[u8],
) -> (usize, usize) {
    let mut sent = 0;
    loop {
        let (more, offered) = bench.send_until_it_waits(key, &stream[sent..]);
        sent += more;
        bench.idle();
        let Some(outcome) = bench.take(key, OpKind::Send) else { return (sent, offered) };
        // A busy kernel may be late in moving bytes from one side's buffer to the other's. That
        // makes room too, but only to a limit.
        assert!(!S::EXACT_TIME, "sent although there was no room: {outcome:?}");
        sent += bench.sent(outcome, offered).0;
    }
}

/// Reads some bytes at the peer, which must be the next ones of the stream.
fn read_some<S: Testbed>(bench: &mut Bench<S>, peer: &mut S::Peer, stream: &[u8]) -> usize {
    let mut room = vec![0; 100_000];
    match bench.testbed.read(peer, &mut room) {
        Some(count) => {
            let count = count.unwrap();
            assert!(count > 0, "an unexpected end of the stream");
            assert!(room[..count] == stream[..count], "not the bytes that were sent");
            count
        }
        None => 0,
    }
}

/// When the FIN arrives.
#[derive(Clone, Copy)]
enum Fin {
    WithTheBytes,
    BeforeTheReceive,
    WhileAReceiveWaits,
}

pub(super) fn half_close_at_every_offset<S: Testbed>(seed: u64) {
    for (size, most) in SHAPES {
        for fin in [Fin::WithTheBytes, Fin::BeforeTheReceive, Fin::WhileAReceiveWaits] {
            let mut bench = Bench::<S>::new(seed, sized(size));
            for offset in 0..=10 {
                half_close::<S>(&mut bench, &pattern(offset), most, fin);
            }
            bench.end();
        }
    }
}

fn half_close<S: Testbed>(bench: &mut Bench<S>, message: &[u8], most: u8, fin: Fin) {
    let (key, mut peer) = bench.pair();
    match fin {
        Fin::WithTheBytes => {
            bench.submit_pending(key, Op::Recv(most));
            bench.idle();
            bench.testbed.write_and_shutdown(&mut peer, message);
        }
        Fin::BeforeTheReceive => {
            bench.write(&mut peer, message);
            bench.idle();
            bench.testbed.shutdown(&mut peer);
            bench.idle();
        }
        Fin::WhileAReceiveWaits => {
            bench.write(&mut peer, message);
            assert_eq!(bench.recv_bytes(key, most, message.len()), message);
            bench.submit_pending(key, Op::Recv(most));
            bench.idle();
            bench.testbed.shutdown(&mut peer);
        }
    }
    let left = if matches!(fin, Fin::WhileAReceiveWaits) { &[] } else { message };
    assert_eq!(bench.recv_bytes(key, most, left.len()), left);
    let ended = bench.next_got(key, most);
    assert_eq!(ended, Got::Ended, "after {} bytes", message.len());
    // The other direction is still open.
    bench.send_all(key, b"answer");
    assert_eq!(bench.read(&mut peer, 6), b"answer");
    bench.shutdown(key);
    assert_eq!(bench.read_to_end(&mut peer), (vec![], End::Fin));
    bench.close(key);
}

pub(super) fn urgent_byte_at_every_offset<S: Testbed>(seed: u64) {
    let message = pattern(12);
    for (size, most) in SHAPES {
        let mut bench = Bench::<S>::new(seed, sized(size));
        let (key, mut peer) = bench.pair();
        for (offset, waits) in (0..message.len()).flat_map(|at| [(at, false), (at, true)]) {
            if waits {
                bench.submit_pending(key, Op::Recv(most));
                bench.idle();
            }
            bench.write(&mut peer, &message[..offset]);
            bench.testbed.write_urgent(&mut peer, message[offset]);
            bench.write(&mut peer, &message[offset + 1..]);
            assert_eq!(bench.recv_bytes(key, most, message.len()), message, "at {offset}");
            // Later bytes are reported as usual.
            bench.submit_pending(key, Op::Recv(most));
            bench.idle();
            bench.write(&mut peer, b"later");
            assert_eq!(bench.recv_bytes(key, most, 5), b"later", "after {offset}");
        }
        bench.write(&mut peer, b"ab");
        bench.testbed.write_urgent(&mut peer, b'!');
        bench.testbed.shutdown(&mut peer);
        assert_eq!(bench.recv_bytes(key, most, 3), b"ab!");
        assert_eq!(bench.recv(key, most), Got::Ended);
        bench.close(key);
        bench.end();
    }
}

pub(super) fn both_ways_at_once<S: Testbed>(seed: u64) {
    let (to, from) = (pattern(700), pattern(1000));
    let mut bench = Bench::<S>::new(seed, Shape { window: 300, buffers: 32, ..Shape::default() });
    let (key, mut peer) = bench.pair();
    let mut unsent = bench.chain(&from);
    let (mut written, mut read, mut received) = (0, Vec::new(), Vec::new());
    bench.until("every byte of both directions", |bench| {
        receive_more(bench, key, &mut received, to.len());
        send_more(bench, key, &mut unsent);
        if written < to.len() {
            written += bench.testbed.write(&mut peer, &to[written..]);
        }
        let mut room = [0; 90];
        if read.len() < from.len()
            && let Some(count) = bench.testbed.read(&mut peer, &mut room)
        {
            read.extend_from_slice(&room[..count.unwrap()]);
        }
        let sent = unsent.is_empty() && !bench.is_in_flight(key, OpKind::Send);
        (sent && received.len() == to.len() && read.len() == from.len()).then_some(())
    });
    assert_eq!((received, read), (to, from));
    bench.close(key);
    bench.end();
}

/// Keeps a receive in flight until all bytes have arrived.
fn receive_more<S: Testbed>(bench: &mut Bench<S>, key: Key, received: &mut Vec<u8>, count: usize) {
    let mut done = bench.take(key, OpKind::Recv);
    loop {
        match done.map(|outcome| bench.got(outcome)) {
            Some(Got::Bytes(bytes)) => received.extend(bytes),
            Some(other) => panic!("{other:?}"),
            None if bench.is_in_flight(key, OpKind::Recv) => return,
            None => {}
        }
        if received.len() == count {
            return;
        }
        done = bench.submit(key, Op::Recv(1));
        if done.is_none() {
            return;
        }
    }
}

/// Keeps a send in flight until everything is sent.
fn send_more<S: Testbed>(bench: &mut Bench<S>, key: Key, unsent: &mut Chain) {
    let mut done = bench.take(key, OpKind::Send);
    loop {
        match done {
            Some(Outcome::Sent { rest, .. }) => *unsent = rest,
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        if unsent.is_empty() {
            return;
        }
        done = bench.submit(key, Op::Send(unsent.take()));
        if done.is_none() {
            return;
        }
    }
}
