//! The rules about how connections are established: accept, permits, connect, and many connections.

use std::collections::HashSet;

use super::Testbed;
use super::bench::{Bench, End, OutcomeOf, Shape, listener, pattern};
use crate::base::endpoint::Peer;
use crate::base::key::{Key, OpKind};
use crate::base::time::Time;
use crate::engine::{ConnectTo, Op, Outcome};
use crate::error::Errno;

pub(super) fn accept_takes_a_permit_and_tells_a_canonical_peer<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    for waits in [false, true] {
        if waits {
            bench.submit_pending(listener(), Op::Accept);
            bench.idle();
            assert_eq!(bench.permits.taken(), 0, "no permit is held while no connection waits");
        }
        let mut peer = bench.testbed.connect();
        let outcome = match waits {
            true => bench.result(listener(), OpKind::Accept),
            false => bench.finish(listener(), Op::Accept),
        };
        let Outcome::Accepted { socket, peer: Peer::Tcp(address), permit } = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(bench.permits.taken(), 1);
        assert!(address.is_ipv4(), "not canonical: {address}");
        assert_eq!(address, bench.testbed.address(&peer));
        let key = bench.free_key();
        bench.adopt(key, socket, permit);
        bench.write(&mut peer, b"hello");
        assert_eq!(bench.recv_bytes(key, 1, 5), b"hello");
        bench.close(key);
    }
    bench.end();
}

pub(super) fn accept_without_a_permit_leaves_the_connection_waiting<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape { permits: 1, ..Shape::default() });
    let (first, _first_peer) = bench.pair();
    // An engine without a permit may report that before it knows whether a connection waits.
    let at_once = bench.submit(listener(), Op::Accept);
    let mut second_peer = bench.testbed.connect();
    let outcome = at_once.unwrap_or_else(|| bench.result(listener(), OpKind::Accept));
    assert!(matches!(outcome, Outcome::NoPermit), "{outcome:?}");
    let outcome = bench.finish(listener(), Op::Accept);
    assert!(matches!(outcome, Outcome::NoPermit), "{outcome:?}");
    bench.close(first);
    let (socket, address, permit) = bench.accept();
    assert_eq!(address, bench.testbed.address(&second_peer));
    let second = bench.free_key();
    bench.adopt(second, socket, permit);
    bench.write(&mut second_peer, b"me too");
    assert_eq!(bench.recv_bytes(second, 1, 6), b"me too");
    bench.close(second);
    bench.end();
}

pub(super) fn accept_takes_all_who_wait_one_by_one<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    let peers: Vec<_> = (0..20).map(|_| bench.testbed.connect()).collect();
    let mut expected: HashSet<_> = peers.iter().map(|peer| bench.testbed.address(peer)).collect();
    while !expected.is_empty() {
        let (_, address, _) = bench.accept();
        assert!(expected.remove(&address), "{address} was accepted twice");
    }
    bench.submit_pending(listener(), Op::Accept);
    bench.idle();
    assert!(bench.is_in_flight(listener(), OpKind::Accept), "no connection is left");
    // A later connection is reported like the first.
    let late = bench.testbed.connect();
    match bench.result(listener(), OpKind::Accept) {
        Outcome::Accepted { peer: Peer::Tcp(address), .. } => {
            assert_eq!(address, bench.testbed.address(&late));
        }
        other => panic!("{other:?}"),
    }
    bench.end();
}

pub(super) fn an_accepted_connection_that_is_dropped_is_closed<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    let mut peer = bench.testbed.connect();
    drop(bench.accept());
    assert_eq!(bench.read_to_end(&mut peer), (vec![], End::Fin));
    bench.end();
}

fn to<S: Testbed>(bench: &Bench<S>) -> ConnectTo {
    ConnectTo { target: bench.testbed.listener().into(), source: None, tag: 0, deadline: Time::MAX }
}

pub(super) fn connect_joins_two_keys<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    for _ in 0..3 {
        let near = bench.free_key();
        let to = to(&bench);
        let outcome = bench.finish(near, Op::Connect(to));
        assert!(matches!(outcome, Outcome::Connected), "{outcome:?}");
        let (socket, _, permit) = bench.accept();
        let far = bench.free_key();
        bench.adopt(far, socket, permit);
        for (from, to) in [(near, far), (far, near)] {
            bench.send_all(from, b"over there");
            assert_eq!(bench.recv_bytes(to, 2, 10), b"over there");
        }
        bench.close(near);
        bench.close(far);
    }
    bench.end();
}

pub(super) fn connect_is_refused_where_nobody_listens<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    let to = to(&bench);
    assert!(matches!(bench.finish(listener(), Op::Close), Outcome::Closed { unaccepted: 0 }));
    for _ in 0..3 {
        let key = bench.free_key();
        let outcome = bench.finish(key, Op::Connect(to));
        assert!(matches!(outcome, Outcome::Failed(Errno::CONNREFUSED)), "{outcome:?}");
        bench.close(key);
    }
    bench.end();
}

pub(super) fn cancelled_connect_completes_once<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    for _ in 0..5 {
        let key = bench.free_key();
        let to = to(&bench);
        let connected = bench.submit(key, Op::Connect(to));
        let cancelled = bench.finish(key, Op::Cancel);
        assert!(matches!(cancelled, Outcome::Done), "{cancelled:?}");
        let outcome = connected.or_else(|| bench.take(key, OpKind::Connect));
        let ended = matches!(outcome, Some(Outcome::Cancelled | Outcome::Connected));
        assert!(ended, "{outcome:?}");
        bench.close(key);
    }
    bench.end();
}

pub(super) fn cancelled_accept_completes_once_and_loses_nobody<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    for comes_before in [false, true, false, true] {
        bench.submit_pending(listener(), Op::Accept);
        bench.idle();
        let before = comes_before.then(|| bench.testbed.connect());
        let cancelled = bench.finish(listener(), Op::Cancel);
        assert!(matches!(cancelled, Outcome::Done), "{cancelled:?}");
        let peer = before.unwrap_or_else(|| bench.testbed.connect());
        let accepted: OutcomeOf<S> = match bench.take(listener(), OpKind::Accept) {
            Some(Outcome::Cancelled) => bench.finish(listener(), Op::Accept),
            other => other.expect("Accept completes before Cancel"),
        };
        match accepted {
            Outcome::Accepted { peer: Peer::Tcp(address), .. } => {
                assert_eq!(address, bench.testbed.address(&peer));
            }
            other => panic!("{other:?}"),
        }
    }
    bench.end();
}

pub(super) fn closing_a_listener_tells_who_waited<S: Testbed>(seed: u64) {
    let mut bench = Bench::<S>::new(seed, Shape::default());
    let (key, mut accepted) = bench.pair();
    let mut waiting: Vec<_> = (0..3).map(|_| bench.testbed.connect()).collect();
    let closed = bench.finish(listener(), Op::Close);
    assert!(matches!(closed, Outcome::Closed { unaccepted: 3 }), "{closed:?}");
    for peer in &mut waiting {
        assert_eq!(bench.read_to_end(peer), (vec![], End::Reset));
    }
    // A connection that was accepted before stays open.
    bench.write(&mut accepted, b"still here");
    assert_eq!(bench.recv_bytes(key, 1, 10), b"still here");
    bench.close(key);
    bench.end();
}

pub(super) fn thousands_of_keys<S: Testbed>(seed: u64) {
    // One world of that size is enough.
    let many = if seed > 0 { 100 } else { S::MANY };
    let shape = Shape { permits: many, buffers: many as u32, buffer_size: 16, window: 64 };
    let mut bench = Bench::<S>::new(seed, shape);
    let mut all: Vec<(Key, S::Peer)> = (0..many).map(|_| bench.pair()).collect();
    for (key, _) in &all {
        bench.submit_pending(*key, Op::Recv(1));
    }
    let message = |number: usize| [&(number as u32).to_le_bytes()[..], &pattern(5)].concat();
    for (number, (_, peer)) in all.iter_mut().enumerate() {
        let bytes = message(number);
        assert_eq!(bench.testbed.write(peer, &bytes), bytes.len());
    }
    // In reverse order: completions may arrive and be taken in any order.
    for (number, (key, peer)) in all.iter_mut().enumerate().rev() {
        let bytes = bench.recv_bytes(*key, 1, 9);
        assert_eq!(bytes, message(number), "the bytes of another connection");
        bench.send_all(*key, &bytes);
        assert_eq!(bench.read(peer, 9), bytes);
    }
    for (key, _) in &all {
        bench.shutdown(*key);
        bench.close(*key);
    }
    bench.end();
}
