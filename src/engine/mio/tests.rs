//! Tests of the readiness engine with scripted system calls: which calls it makes, how many, and
//! that each operation completes exactly once.

use std::sync::Arc;

use super::*;
use crate::buffer::Reserve;
use crate::engine::sys::scripted::{Scripted, Socket};
use crate::shared::mailbox::Mailboxes;

const SIZE: usize = 8;

/// An engine and its completions.
struct World {
    engine: MioEngine<Scripted>,
    pool: Pool,
    permits: Arc<Permits>,
    completed: Completed,
}

#[derive(Default)]
struct Completed(Vec<(Key, Outcome<Socket>)>);

impl Sink<MioEngine<Scripted>> for Completed {
    fn turn(&mut self, _: Time) {}

    fn complete(&mut self, _: &mut MioEngine<Scripted>, completion: Completion<Socket>) {
        self.0.push((completion.key, completion.outcome));
    }
}

fn world(buffers: u32, permits: u64) -> World {
    let pool = Pool::new(Reserve::new(SIZE, buffers).unwrap(), 0);
    let permits = Permits::new(permits, Arc::new(Mailboxes::new(1)));
    let listeners = vec![Listening::tcp(99)];
    let (sys, for_engine) = (Scripted::default(), Some(permits.clone()));
    let engine = MioEngine::new(sys, 4, pool.clone(), for_engine, listeners).unwrap();
    World { engine, pool, permits, completed: Completed::default() }
}

fn readiness(key: Key, readable: bool, writable: bool, read_on: bool) -> Readiness {
    Readiness { token: key.to_bits(), readable, writable, read_on }
}

impl World {
    fn adopt(&mut self, slot: u32, generation: u32) -> Key {
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 9)).into();
        self.adopt_of(Key::new(slot, generation), peer)
    }

    fn adopt_of(&mut self, key: Key, peer: Peer) -> Key {
        self.engine.adopt(key, key.slot(), peer).unwrap();
        key
    }

    fn poll(&mut self, ready: &[Readiness]) -> Vec<(Key, Outcome<Socket>)> {
        self.engine.sys.waits.push_back(ready.to_vec());
        self.engine.poll(None, &mut self.completed).unwrap();
        std::mem::take(&mut self.completed.0)
    }

    fn will_receive(&mut self, key: Key, answers: &[Result<&'static [u8], Errno>]) {
        self.engine.sys.receives.entry(key.slot()).or_default().extend(answers.iter().cloned());
    }

    fn will_take(&mut self, key: Key, answers: &[Result<usize, Errno>]) {
        self.engine.sys.sends.entry(key.slot()).or_default().extend(answers.iter().cloned());
    }

    fn chain(&self, parts: &[&[u8]]) -> Chain {
        let mut chain = Chain::new(&self.pool);
        for part in parts {
            let mut lease = self.pool.lease().unwrap();
            assert_eq!(lease.extend_from_slice(part), part.len());
            chain.push_back(lease);
        }
        chain
    }
}

fn bytes(outcome: &Outcome<Socket>) -> Vec<u8> {
    match outcome {
        Outcome::Received(chain) => chain.slices().flatten().copied().collect(),
        other => panic!("{other:?} instead of bytes"),
    }
}

fn ready(submitted: Submitted<Socket>) -> Outcome<Socket> {
    match submitted {
        Submitted::Ready(outcome) => outcome,
        Submitted::Pending => panic!("pending"),
    }
}

fn assert_pending(submitted: Submitted<Socket>) {
    assert!(matches!(submitted, Submitted::Pending), "{submitted:?}");
}

#[test]
fn a_short_receive_drains_the_socket_and_no_call_is_spent_on_finding_that_out() {
    let mut world = world(4, 1);
    let key = world.adopt(0, 0);
    assert_pending(world.engine.submit(key, Op::Recv(1)));
    world.will_receive(key, &[Ok(b"abc")]);
    let completed = world.poll(&[readiness(key, true, true, false)]);
    assert_eq!(bytes(&completed[0].1), b"abc");
    // The script has no further result: another call would fail the test.
    assert_pending(world.engine.submit(key, Op::Recv(1)));
}

#[test]
fn a_full_receive_is_followed_by_another_without_an_event() {
    let mut world = world(4, 1);
    let key = world.adopt(0, 0);
    assert_pending(world.engine.submit(key, Op::Recv(1)));
    world.will_receive(key, &[Ok(b"12345678"), Ok(b"9")]);
    let completed = world.poll(&[readiness(key, true, false, false)]);
    assert_eq!(bytes(&completed[0].1), b"12345678");
    assert_eq!(bytes(&ready(world.engine.submit(key, Op::Recv(1)))), b"9");
}

#[test]
fn a_fin_that_came_with_the_bytes_is_found_though_it_has_no_event_of_its_own() {
    let mut world = world(4, 1);
    let key = world.adopt(0, 0);
    assert_pending(world.engine.submit(key, Op::Recv(1)));
    world.will_receive(key, &[Ok(b"abc"), Ok(b"")]);
    let completed = world.poll(&[readiness(key, true, false, true)]);
    assert_eq!(bytes(&completed[0].1), b"abc");
    assert!(matches!(ready(world.engine.submit(key, Op::Recv(1))), Outcome::Ended));
}

#[test]
fn after_urgent_data_it_is_read_on_to_eagain_and_then_short_receives_count_again() {
    let mut world = world(4, 1);
    let key = world.adopt(0, 0);
    assert_pending(world.engine.submit(key, Op::Recv(1)));
    // A receive stops before the urgent byte.
    world.will_receive(key, &[Ok(b"ab"), Ok(b"!cd"), Err(Errno::AGAIN)]);
    world.poll(&[readiness(key, true, false, true)]);
    assert_eq!(bytes(&ready(world.engine.submit(key, Op::Recv(1)))), b"!cd");
    assert_pending(world.engine.submit(key, Op::Recv(1)));
    world.will_receive(key, &[Ok(b"e")]);
    let completed = world.poll(&[readiness(key, true, false, false)]);
    assert_eq!(bytes(&completed[0].1), b"e");
    assert_pending(world.engine.submit(key, Op::Recv(1)));
}

#[test]
fn a_unix_socket_is_always_read_on_to_eagain() {
    let mut world = world(4, 1);
    let key = world.adopt_of(Key::new(0, 0), Peer::UNKNOWN_PROCESS);
    assert_pending(world.engine.submit(key, Op::Recv(1)));
    // A receive stops after bytes that carry file descriptors.
    for _ in 0..2 {
        world.will_receive(key, &[Ok(b"with"), Ok(b"after"), Err(Errno::AGAIN)]);
        let completed = world.poll(&[readiness(key, true, false, false)]);
        assert_eq!(bytes(&completed[0].1), b"with");
        assert_eq!(bytes(&ready(world.engine.submit(key, Op::Recv(1)))), b"after");
        assert_pending(world.engine.submit(key, Op::Recv(1)));
    }
}

#[test]
fn one_receive_fills_several_buffers_and_those_left_over_go_back() {
    let mut world = world(6, 1);
    let key = world.adopt(0, 0);
    assert_pending(world.engine.submit(key, Op::Recv(4)));
    world.will_receive(key, &[Ok(b"0123456789abcdefX")]);
    let completed = world.poll(&[readiness(key, true, false, false)]);
    assert_eq!(bytes(&completed[0].1), b"0123456789abcdefX");
    assert_eq!(world.pool.held(), 3);
    drop(completed);
    assert_eq!(world.pool.held(), 0);
}

#[test]
fn without_a_buffer_the_receive_says_so_and_the_bytes_stay_where_they_are() {
    let mut world = world(1, 1);
    let key = world.adopt(0, 0);
    let lease = world.pool.lease().unwrap();
    assert_pending(world.engine.submit(key, Op::Recv(2)));
    world.will_receive(key, &[Ok(b"abc")]);
    let completed = world.poll(&[readiness(key, true, false, false)]);
    assert!(matches!(completed[..], [(_, Outcome::NoBuffer)]), "{completed:?}");
    drop(lease);
    assert_eq!(bytes(&ready(world.engine.submit(key, Op::Recv(2)))), b"abc");
}

#[test]
fn a_send_is_tried_at_once_and_what_was_not_taken_comes_back() {
    let mut world = world(4, 1);
    let key = world.adopt(0, 0);
    world.will_take(key, &[Ok(5)]);
    let chain = world.chain(&[b"abcd", b"efgh"]);
    let rest = match ready(world.engine.submit(key, Op::Send(chain))) {
        Outcome::Sent { bytes: 5, rest } => rest,
        other => panic!("{other:?}"),
    };
    assert_eq!(world.pool.held(), 1, "the buffer that is empty went back");
    // There is no room, so no call is made until the kernel reports room.
    assert_pending(world.engine.submit(key, Op::Send(rest)));
    world.will_take(key, &[Ok(100)]);
    let completed = world.poll(&[readiness(key, false, true, false)]);
    assert!(matches!(completed[..], [(_, Outcome::Sent { bytes: 3, .. })]), "{completed:?}");
    assert_eq!(world.engine.sys.sent[&0], b"abcdefgh");
}

#[test]
fn a_chain_longer_than_one_call_takes_several() {
    let mut world = world(20, 1);
    let key = world.adopt(0, 0);
    let mut chain = world.chain(&[b"x".as_slice(); 20]);
    let mut sent = 0;
    while !chain.is_empty() {
        world.will_take(key, &[Ok(100)]);
        match ready(world.engine.submit(key, Op::Send(chain))) {
            Outcome::Sent { bytes, rest } => (sent, chain) = (sent + bytes, rest),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sent, 20);
}

#[test]
fn events_for_a_connection_that_is_gone_do_not_reach_the_one_in_its_slot() {
    let mut world = world(4, 1);
    let old = world.adopt(0, 0);
    assert!(matches!(ready(world.engine.submit(old, Op::Close)), Outcome::Closed { .. }));
    let new = world.adopt(0, 1);
    assert_pending(world.engine.submit(new, Op::Recv(1)));
    assert!(world.poll(&[readiness(old, true, true, true)]).is_empty());
    world.will_receive(new, &[Ok(b"mine")]);
    let completed =
        world.poll(&[readiness(old, true, true, true), readiness(new, true, true, false)]);
    assert_eq!(completed.len(), 1);
    assert_eq!(
        (completed[0].0, bytes(&completed[0].1)),
        (new.with(OpKind::Recv), b"mine".to_vec())
    );
}

#[test]
fn cancel_ends_every_operation_once_gives_the_leases_back_and_completes_last() {
    let mut world = world(4, 1);
    let key = world.adopt(0, 0);
    assert_pending(world.engine.submit(key, Op::Recv(1)));
    world.will_take(key, &[Err(Errno::AGAIN)]);
    let chain = world.chain(&[b"abc"]);
    assert_pending(world.engine.submit(key, Op::Send(chain)));
    assert_pending(world.engine.submit(key, Op::Cancel));
    assert_eq!(world.pool.held(), 0);
    // Ready for both, but both operations have ended.
    let completed = world.poll(&[readiness(key, true, true, false)]);
    let ops: Vec<_> = completed.iter().map(|(key, _)| key.op()).collect();
    assert_eq!(ops, [OpKind::Recv, OpKind::Send, OpKind::Cancel]);
    assert!(matches!(completed[0].1, Outcome::Cancelled));
    assert!(matches!(completed[1].1, Outcome::Cancelled));
    assert!(matches!(completed[2].1, Outcome::Done));
    assert_eq!(world.engine.sys.deadlines, [Some(Time::ZERO)], "it does not wait");
    assert!(matches!(ready(world.engine.submit(key, Op::Cancel)), Outcome::Done));
    assert!(matches!(ready(world.engine.submit(key, Op::Close)), Outcome::Closed { .. }));
    assert_eq!(world.engine.sys.closed, [0]);
}

#[test]
fn a_connection_is_accepted_with_a_permit_and_its_peer_is_canonical() {
    let mut world = world(1, 1);
    assert_pending(world.engine.submit(Key::listener(0), Op::Accept));
    world.engine.sys.accepts.push_back(Ok(7));
    let completed = world.poll(&[readiness(Key::listener(0), true, false, false)]);
    match &completed[..] {
        [(key, Outcome::Accepted { socket: 7, peer, .. })] => {
            assert_eq!(key.op(), OpKind::Accept);
            assert_eq!(peer.to_string(), "127.0.0.1:9");
        }
        other => panic!("{other:?}"),
    }
    // The permit is in the completion: no accept is tried without one.
    assert!(matches!(ready(world.engine.submit(Key::listener(0), Op::Accept)), Outcome::NoPermit));
    drop(completed);
    world.engine.sys.accepts.push_back(Err(Errno::AGAIN));
    assert_pending(world.engine.submit(Key::listener(0), Op::Accept));
    assert_eq!(world.permits.taken(), 0, "none is held while nothing waits");
}

#[test]
fn a_listener_stays_ready_after_an_error_because_no_edge_will_come() {
    let mut world = world(1, 1);
    assert_pending(world.engine.submit(Key::listener(0), Op::Accept));
    world.engine.sys.accepts.push_back(Err(Errno::MFILE));
    let completed = world.poll(&[readiness(Key::listener(0), true, false, false)]);
    assert!(matches!(completed[..], [(_, Outcome::Failed(Errno::MFILE))]), "{completed:?}");
    world.engine.sys.accepts.push_back(Ok(7));
    assert!(matches!(
        ready(world.engine.submit(Key::listener(0), Op::Accept)),
        Outcome::Accepted { socket: 7, .. }
    ));
}

#[test]
fn closing_a_listener_tells_how_many_were_left_waiting() {
    let mut world = world(1, 1);
    world.engine.sys.accepts.extend([Ok(1), Ok(2)]);
    assert!(matches!(
        ready(world.engine.submit(Key::listener(0), Op::Close)),
        Outcome::Closed { unaccepted: 2 }
    ));
}

fn connect_to(target: Endpoint) -> Op {
    Op::Connect(ConnectTo { target, source: None, tag: 0, deadline: Time::MAX })
}

fn unix_target() -> Endpoint {
    Endpoint::Unix("/e.sock".parse().unwrap())
}

#[test]
fn a_connect_to_a_full_backlog_is_tried_again_until_it_has_a_result() {
    let mut world = world(1, 1);
    let keys = [0, 1, 2].map(|slot| Key::new(slot, 3));
    world.engine.sys.connects.extend([Err(Errno::AGAIN); 3]);
    keys.iter()
        .for_each(|&key| assert_pending(world.engine.submit(key, connect_to(unix_target()))));
    // The first that is refused ends the turn's tries.
    world.engine.sys.connects.push_back(Err(Errno::AGAIN));
    assert!(world.poll(&[]).is_empty());
    assert!(world.engine.sys.connects.is_empty());
    let retry = world.engine.sys.now() + CONNECT_RETRY;
    assert_eq!(world.engine.sys.deadlines.pop().unwrap(), Some(retry));
    // It is the last one now. One is refused for good, one begins.
    world.engine.sys.connects.extend([Err(Errno::CONNREFUSED), Ok(7), Err(Errno::AGAIN)]);
    let completed = world.poll(&[]);
    let [(failed, Outcome::Failed(Errno::CONNREFUSED))] = completed[..] else {
        panic!("{completed:?}")
    };
    assert_eq!(failed, keys[1].with(OpKind::Connect));
    assert_eq!(world.engine.sys.registered.last(), Some(&(7, keys[2].to_bits())));
    // One is cancelled while it waits.
    assert_pending(world.engine.submit(keys[0], Op::Cancel));
    let completed = world.poll(&[]);
    assert!(
        matches!(completed[..], [(_, Outcome::Cancelled), (_, Outcome::Done)]),
        "{completed:?}"
    );
    assert_eq!(world.engine.sys.deadlines.pop().unwrap(), Some(Time::ZERO));
    assert!(matches!(
        ready(world.engine.submit(keys[0], Op::Close)),
        Outcome::Closed { unaccepted: 0 }
    ));
    world.engine.sys.connect_errors.push_back(Ok(()));
    let completed = world.poll(&[readiness(keys[2], true, true, false)]);
    assert!(matches!(completed[..], [(_, Outcome::Connected)]), "{completed:?}");
    assert_eq!(world.engine.sys.deadlines.pop().unwrap(), None, "nothing is left to try");
}

#[test]
fn a_connect_completes_when_the_socket_becomes_writable_with_what_the_system_says() {
    let target = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    for (answer, slot) in [(Ok(()), 0), (Err(Errno::CONNREFUSED), 1)] {
        let mut world = world(1, 1);
        let key = Key::new(slot, 3);
        assert_pending(world.engine.submit(key, connect_to(target.into())));
        assert!(world.poll(&[readiness(key, true, false, false)]).is_empty());
        world.engine.sys.connect_errors.push_back(answer);
        let completed = world.poll(&[readiness(key, true, true, false)]);
        match (&completed[..], answer) {
            ([(_, Outcome::Connected)], Ok(())) => {}
            ([(_, Outcome::Failed(Errno::CONNREFUSED))], Err(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
