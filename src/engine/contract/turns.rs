//! The rules about polling: when a poll ends, what it reports, that the sink may submit, and that
//! violations of the contract panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use super::Testbed;
use super::bench::{Bench, End, GUARD, Shape, listener, pattern, submit};
use crate::base::key::{Key, OpKind};
use crate::base::time::Time;
use crate::engine::{Engine, LEASES_PER_RECV_MAX, Op, Outcome};

pub(super) fn a_deadline_ends_a_poll<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    bench.idle();
    for millis in [1, 20] {
        let deadline = bench.engine.now() + Duration::from_millis(millis);
        let mut polls = 0;
        // A poll may return early without events, but only a few times.
        while bench.engine.now() < deadline {
            bench.poll(Some(deadline));
            polls += 1;
            assert!(polls <= 5, "it does not wait");
        }
        let now = bench.engine.now();
        assert!(now.since(deadline) < GUARD, "it does not return");
        if S::EXACT_TIME {
            assert_eq!((polls, now), (1, deadline));
        }
    }
    bench.end();
}

pub(super) fn a_poll_without_waiting<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    let (key, mut peer) = bench.pair();
    bench.submit_pending(key, Op::Recv(1));
    bench.idle();
    let before = (bench.engine.now(), bench.log.turns);
    for _ in 0..10 {
        bench.poll(Some(Time::ZERO));
    }
    assert!(bench.is_in_flight(key, OpKind::Recv), "there was nothing to receive");
    assert_eq!(bench.log.turns, before.1 + 10, "each poll is one turn");
    assert!(bench.engine.now().since(before.0) < GUARD);
    if S::EXACT_TIME {
        assert_eq!(bench.engine.now(), before.0);
    }
    bench.write(&mut peer, b"x");
    assert_eq!(bench.recv_bytes(key, 1, 1), b"x");
    bench.close(key);
    bench.end();
}

pub(super) fn the_waker_ends_one_poll<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    bench.idle();
    for times in [1, 1, 3] {
        let far = bench.engine.now() + GUARD;
        let waker = bench.engine.waker();
        thread::spawn(move || (0..times).for_each(|_| waker.wake_by_ref())).join().unwrap();
        bench.poll(Some(far));
        assert!(bench.engine.now() < far, "it was not woken");
        // Regardless of how often it was woken, the next poll waits again.
        let soon = bench.engine.now() + Duration::from_millis(5);
        let turns = bench.log.turns;
        while bench.engine.now() < soon {
            bench.poll(Some(soon));
        }
        assert!(bench.log.turns - turns <= 5, "it does not wait");
    }
    bench.end();
}

pub(super) fn cancelled_operations_are_told_without_waiting<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    let (key, _peer) = bench.pair();
    bench.submit_pending(key, Op::Recv(1));
    bench.idle();
    let far = bench.engine.now() + GUARD;
    let at_once = bench.submit(key, Op::Cancel);
    let mut done = at_once.is_some();
    while !done {
        bench.poll(Some(far));
        done = bench.take(key, OpKind::Cancel).is_some();
    }
    assert!(bench.engine.now() < far, "it waited with something to report");
    let ended = bench.take(key, OpKind::Recv);
    assert!(matches!(ended, Some(Outcome::Cancelled)), "{ended:?}");
    bench.close(key);
    bench.end();
}

/// An echo that runs only in the sink.
pub(super) fn the_sink_may_submit<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape { buffer_size: 8, ..Shape::default() });
    let mut all: Vec<(Key, S::Peer)> = (0..4).map(|_| bench.pair()).collect();
    let message = pattern(100);
    for (key, peer) in &mut all {
        bench.submit_pending(*key, Op::Recv(2));
        assert_eq!(bench.testbed.write(peer, &message), message.len());
        bench.testbed.shutdown(peer);
    }
    let mut closed = 0;
    bench.until_with("all connections are done", |engine, log, completion| {
        let key = completion.key.socket();
        let mut done = Some(completion.outcome);
        while let Some(outcome) = done.take() {
            let next = match outcome {
                Outcome::Received(chain) => Op::Send(chain),
                Outcome::Sent { rest, .. } if !rest.is_empty() => Op::Send(rest),
                Outcome::Sent { .. } => Op::Recv(2),
                Outcome::Ended => Op::Shutdown,
                Outcome::Done => Op::Close,
                Outcome::Closed { .. } => {
                    closed += 1;
                    break;
                }
                other => panic!("{other:?}"),
            };
            done = submit(engine, log, key, next);
        }
        closed == all.len()
    });
    for (key, peer) in &mut all {
        assert_eq!(bench.read_to_end(peer), (message.clone(), End::Fin));
        bench.forget(*key);
    }
    bench.end();
}

/// Asserts that the engine panics.
fn assert_forbidden<S: Testbed>(bench: &mut Bench<S>, key: Key, op: Op) {
    let submitted = catch_unwind(AssertUnwindSafe(|| drop(bench.engine.submit(key, op))));
    assert!(submitted.is_err(), "it did not panic");
}

pub(super) fn two_receives_at_once_panic<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    let (key, _peer) = bench.pair();
    bench.submit_pending(key, Op::Recv(1));
    assert_forbidden(&mut bench, key, Op::Recv(LEASES_PER_RECV_MAX as u8));
}

pub(super) fn two_sends_at_once_panic<S: Testbed>(seed: u64) {
    let buffer_size = if S::EXACT_TIME { 64 } else { 65_536 };
    let mut bench = Bench::<S>::new(seed, Shape { buffer_size, ..Shape::default() });
    let stream = pattern(if S::EXACT_TIME { 20_000 } else { 32 << 20 });
    let (key, mut peer) = bench.pair();
    // Keeps one lease for the forbidden send.
    let chain = bench.chain(b"x");
    bench.send_until_it_waits(key, &stream);
    assert_forbidden(&mut bench, key, Op::Send(chain));
    drop(bench.read_now(&mut peer));
}

pub(super) fn two_accepts_at_once_panic<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    bench.submit_pending(listener(), Op::Accept);
    assert_forbidden(&mut bench, listener(), Op::Accept);
}

pub(super) fn closing_with_a_receive_in_flight_panics<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    let (key, _peer) = bench.pair();
    bench.submit_pending(key, Op::Recv(1));
    assert_forbidden(&mut bench, key, Op::Close);
}
