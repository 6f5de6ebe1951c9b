//! The rules about how operations and connections end: reset, cancel, shutdown, close, and the
//! reuse of keys.

use super::Testbed;
use super::bench::{Bench, End, Got, Shape, listener, pattern, submit};
use crate::base::key::{Key, OpKind};
use crate::base::time::Time;
use crate::buffer::Chain;
use crate::engine::{ConnectTo, Detached, Op, Outcome};
use crate::error::Errno;

/// More bytes than any window holds.
fn endless<S: Testbed>() -> (Shape, Vec<u8>) {
    let (buffer_size, count) = if S::EXACT_TIME { (64, 20_000) } else { (65_536, 32 << 20) };
    (Shape { buffer_size, ..Shape::default() }, pattern(count))
}

fn assert_reset<Socket: std::fmt::Debug>(outcome: &Outcome<Socket>) {
    let reset = matches!(outcome, Outcome::Failed(Errno::CONNRESET | Errno::PIPE));
    assert!(reset, "{outcome:?} instead of a reset");
}

pub(super) fn reset_while_a_receive_waits<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    for count in 0..5 {
        let (key, mut peer) = bench.pair();
        bench.write(&mut peer, &pattern(count));
        assert_eq!(bench.recv_bytes(key, 1, count), pattern(count));
        bench.submit_pending(key, Op::Recv(1));
        bench.idle();
        bench.testbed.reset(peer);
        assert_reset(&bench.result(key, OpKind::Recv));
        bench.close(key);
    }
    bench.end();
}

pub(super) fn reset_while_a_send_waits<S: Testbed>(seed: u64) {
    let (shape, stream) = endless::<S>();
    let mut bench = Bench::<S>::new(seed, shape);
    let (key, peer) = bench.pair();
    bench.send_until_it_waits(key, &stream);
    bench.testbed.reset(peer);
    assert_reset(&bench.result(key, OpKind::Send));
    assert_eq!(bench.pool.held(), 0, "a send that failed gives its leases back");
    bench.close(key);
    bench.end();
}

pub(super) fn reset_while_both_wait<S: Testbed>(seed: u64) {
    let (shape, stream) = endless::<S>();
    let mut bench = Bench::<S>::new(seed, shape);
    let (key, peer) = bench.pair();
    bench.submit_pending(key, Op::Recv(1));
    bench.send_until_it_waits(key, &stream);
    bench.testbed.reset(peer);
    assert_eq!(bench.pool.available() + bench.pool.held(), 16);
    let outcome = bench.result(key, OpKind::Send);
    assert_reset(&outcome);
    // The kernel reports the error once, and then the end of the stream.
    let outcome = bench.result(key, OpKind::Recv);
    let got = bench.got(outcome);
    let ended = matches!(got, Got::Ended | Got::Failed(Errno::CONNRESET | Errno::PIPE));
    assert!(ended, "{got:?}");
    bench.close(key);
    bench.end();
}

pub(super) fn reset_between_operations<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    for (unread, idle) in (0..4).flat_map(|count| [(count, false), (count, true)]) {
        let (key, mut peer) = bench.pair();
        bench.write(&mut peer, &pattern(unread));
        bench.testbed.reset(peer);
        if idle {
            bench.idle();
        }
        // Bytes that arrived before the reset may be lost, but nothing else is reported.
        let mut before = Vec::new();
        let error = loop {
            match bench.recv(key, 1) {
                Got::Bytes(bytes) => before.extend(bytes),
                other => break other,
            }
        };
        assert_eq!(error, Got::Failed(Errno::CONNRESET));
        assert_eq!(before, pattern(unread)[..before.len()]);
        let chain = bench.chain(b"too late");
        assert_reset(&bench.finish(key, Op::Send(chain)));
        let shut = bench.finish(key, Op::Shutdown);
        assert!(matches!(shut, Outcome::Done | Outcome::Failed(Errno::NOTCONN)), "{shut:?}");
        bench.close(key);
    }
    bench.end();
}

/// When an event arrives that races with a Cancel.
const RACES: [(bool, bool); 3] = [(true, false), (false, true), (false, false)];

pub(super) fn cancel_against_bytes<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    let (key, mut peer) = bench.pair();
    for round in 0..30 {
        let (before, between) = RACES[round % RACES.len()];
        let message = pattern(1 + round);
        bench.submit_pending(key, Op::Recv(2));
        bench.idle();
        if before {
            assert_eq!(bench.testbed.write(&mut peer, &message), message.len());
        }
        let at_once = bench.submit(key, Op::Cancel);
        if between {
            assert_eq!(bench.testbed.write(&mut peer, &message), message.len());
        }
        let done = at_once.unwrap_or_else(|| bench.result(key, OpKind::Cancel));
        assert!(matches!(done, Outcome::Done), "{done:?}");
        let ended = bench.take(key, OpKind::Recv).expect("Recv completes before Cancel");
        let mut received = match bench.got(ended) {
            Got::Cancelled => Vec::new(),
            Got::Bytes(bytes) => bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(bench.pool.held(), 0, "a lease is missing after a cancel");
        if !before && !between {
            bench.write(&mut peer, &message);
        }
        // No byte was lost.
        let left = message.len() - received.len();
        received.extend(bench.recv_bytes(key, 2, left));
        assert_eq!(received, message);
    }
    bench.close(key);
    bench.end();
}

pub(super) fn cancel_against_room_to_send<S: Testbed>(seed: u64) {
    let (shape, stream) = endless::<S>();
    let mut bench = Bench::<S>::new(seed, shape);
    for reads in [false, true] {
        let (key, mut peer) = bench.pair();
        let (mut sent, offered) = bench.send_until_it_waits(key, &stream);
        let mut read = Vec::new();
        if reads {
            read = bench.read_now(&mut peer);
        }
        let done = bench.finish(key, Op::Cancel);
        assert!(matches!(done, Outcome::Done), "{done:?}");
        match bench.take(key, OpKind::Send).expect("Send completes before Cancel") {
            Outcome::Cancelled => {}
            outcome => sent += bench.sent(outcome, offered).0,
        }
        assert_eq!(bench.pool.held(), 0, "a lease is missing after a cancel");
        // Exactly the bytes reported as sent were sent.
        bench.shutdown(key);
        let (rest, end) = bench.read_to_end(&mut peer);
        read.extend(rest);
        assert_eq!((read.len(), end), (sent, End::Fin));
        assert!(read == stream[..sent], "not the bytes that were sent");
        bench.close(key);
    }
    bench.end();
}

/// Another process may go on with it.
pub(super) fn a_socket_that_is_given_up_goes_on_where_it_was<S: Testbed>(seed: u64) {
    let (shape, stream) = endless::<S>();
    let mut bench = Bench::<S>::new(seed, shape);
    for (receives, sends) in [(true, true), (true, false), (false, true), (false, false)] {
        let (key, mut peer) = bench.pair();
        if receives {
            bench.submit_pending(key, Op::Recv(1));
        }
        let (sent, waiting) = if sends { bench.send_until_it_waits(key, &stream) } else { (0, 0) };
        let (detached, permit) = bench.detach(key).expect("nothing else is in flight");
        let Detached { socket, unsent } = detached;
        assert_eq!(unsent.is_some(), sends);
        let bytes = |chain: Chain| chain.slices().flatten().copied().collect::<Vec<u8>>();
        let unsent = unsent.map(bytes).unwrap_or_default();
        assert!(unsent == stream[sent..][..waiting], "not the bytes that were not sent");
        assert_eq!(bench.pool.held(), 0, "a lease is missing");
        // What comes meanwhile is received later, and nothing is told of the old key.
        bench.write(&mut peer, b"input");
        bench.idle();
        assert!(bench.read(&mut peer, sent) == stream[..sent], "not the bytes that were sent");
        let key = bench.free_key();
        bench.adopt(key, socket, permit);
        assert_eq!(bench.recv_bytes(key, 1, 5), b"input");
        bench.send_all(key, b"output");
        assert_eq!(bench.read(&mut peer, 6), b"output");
        bench.shutdown(key);
        assert_eq!(bench.read_to_end(&mut peer), (Vec::new(), End::Fin));
        bench.close(key);
    }
    bench.end();
}

pub(super) fn cancel_of_everything<S: Testbed>(seed: u64) {
    let (shape, stream) = endless::<S>();
    let mut bench = Bench::<S>::new(seed, shape);
    let (other, mut other_peer) = bench.pair();
    bench.submit_pending(other, Op::Recv(1));
    for fin in [false, true] {
        let (key, mut peer) = bench.pair();
        bench.submit_pending(key, Op::Recv(1));
        bench.send_until_it_waits(key, &stream);
        if fin {
            bench.testbed.shutdown(&mut peer);
        }
        let done = bench.finish(key, Op::Cancel);
        assert!(matches!(done, Outcome::Done), "{done:?}");
        let received = bench.take(key, OpKind::Recv).expect("Recv completes before Cancel");
        assert!(matches!(received, Outcome::Cancelled | Outcome::Ended), "{received:?}");
        let sent = bench.take(key, OpKind::Send).expect("Send completes before Cancel");
        assert!(matches!(sent, Outcome::Cancelled | Outcome::Sent { .. }), "{sent:?}");
        drop(sent);
        assert_eq!(bench.pool.held(), 0, "a lease is missing after a cancel");
        bench.close(key);
    }
    assert!(bench.is_in_flight(other, OpKind::Recv), "another key's operation goes on");
    bench.write(&mut other_peer, b"x");
    assert_eq!(bench.recv_bytes(other, 1, 1), b"x");
    bench.close(other);
    bench.end();
}

pub(super) fn cancel_of_nothing<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    let (key, mut peer) = bench.pair();
    for key in [key, listener(), key] {
        let done = bench.finish(key, Op::Cancel);
        assert!(matches!(done, Outcome::Done), "{done:?}");
    }
    bench.write(&mut peer, b"after");
    assert_eq!(bench.recv_bytes(key, 1, 5), b"after");
    bench.close(key);
    bench.end();
}

pub(super) fn shutdown_follows_every_byte<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    for count in [0, 1, 63, 64, 65, 1000] {
        let (key, mut peer) = bench.pair();
        bench.send_all(key, &pattern(count));
        bench.shutdown(key);
        assert_eq!(bench.read_to_end(&mut peer), (pattern(count), End::Fin));
        // Only the sending side is closed.
        bench.write(&mut peer, b"reply");
        bench.testbed.shutdown(&mut peer);
        assert_eq!(bench.recv_bytes(key, 1, 5), b"reply");
        assert_eq!(bench.recv(key, 1), Got::Ended);
        bench.close(key);
    }
    bench.end();
}

pub(super) fn close_gives_fin_and_reset_gives_a_reset<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    for shut_before in [false, true] {
        let (key, mut peer) = bench.pair();
        bench.send_all(key, b"all of it");
        if shut_before {
            bench.shutdown(key);
        }
        bench.close_by(key, Op::Close);
        assert_eq!(bench.read_to_end(&mut peer), (b"all of it".to_vec(), End::Fin));

        // Without a shutdown, after which the stream would already have ended.
        let (key, mut peer) = bench.pair();
        bench.send_all(key, b"all of it");
        bench.close_by(key, Op::Reset);
        let (bytes, end) = bench.read_to_end(&mut peer);
        assert_eq!((&b"all of it"[..bytes.len()], end), (&bytes[..], End::Reset));
    }
    bench.end();
}

pub(super) fn reuse_of_a_key<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    for generation in 0..300 {
        let key = Key::new(3, generation);
        let mut peer = bench.pair_at(key);
        let mine = generation.to_le_bytes();
        bench.submit_pending(key, Op::Recv(1));
        bench.write(&mut peer, &mine);
        assert_eq!(bench.recv_bytes(key, 1, 4), mine, "the bytes of another generation");
        bench.send_all(key, &mine);
        assert_eq!(bench.read(&mut peer, 4), mine);
        // Leaves events for the next generation: bytes, the end of the stream, a reset.
        match generation % 4 {
            0 => bench.write(&mut peer, b"unread"),
            1 => bench.testbed.shutdown(&mut peer),
            2 => bench.testbed.reset(peer),
            _ => bench.testbed.close(peer),
        }
        match generation % 3 {
            0 => bench.close_by(key, Op::Reset),
            _ => bench.close(key),
        }
    }
    bench.end();
}

/// A slot is reused while an event for its previous use has not been reported yet.
pub(super) fn reuse_within_a_batch<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape { permits: 40, ..Shape::default() });
    let to = ConnectTo {
        target: bench.testbed.listener().into(),
        source: None,
        tag: 0,
        deadline: Time::MAX,
    };
    for generation in 0..20 {
        let (first, second) = (Key::new(1, 2 * generation), Key::new(2, 2 * generation));
        let mut first_peer = bench.pair_at(first);
        let mut second_peer = bench.pair_at(second);
        bench.submit_pending(first, Op::Recv(1));
        bench.idle();
        // Both sockets are ready. Nothing is in flight on the second, so it can be closed at once.
        assert_eq!(bench.testbed.write(&mut first_peer, b"now"), 3);
        assert_eq!(bench.testbed.write(&mut second_peer, b"for nobody"), 10);
        bench.testbed.shutdown(&mut second_peer);
        let anew = Key::new(2, 2 * generation + 1);
        let mut connected = None;
        bench.until_with("the slot is reused", |engine, log, completion| {
            let mut done = completion.key;
            if done == first.with(OpKind::Recv) && submit(engine, log, second, Op::Close).is_some()
            {
                done = second.with(OpKind::Close);
            }
            if done == second.with(OpKind::Close) {
                connected = Some(submit(engine, log, anew, Op::Connect(to)));
            } else if done == anew.with(OpKind::Connect) {
                connected = Some(Some(completion.outcome));
            } else {
                assert_eq!(done, first.with(OpKind::Recv));
            }
            connected.is_some()
        });
        bench.forget(second);
        let outcome = connected.flatten().unwrap_or_else(|| bench.result(anew, OpKind::Connect));
        assert!(matches!(outcome, Outcome::Connected), "{outcome:?}");
        let (socket, _, permit) = bench.accept();
        let far = Key::new(4, generation);
        bench.adopt(far, socket, permit);
        bench.send_all(far, b"for me");
        assert_eq!(bench.recv_bytes(anew, 1, 6), b"for me");
        for key in [first, anew, far] {
            bench.close(key);
        }
    }
    bench.end();
}
