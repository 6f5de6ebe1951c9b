//! Connections that move from one worker to another, as from one process to another.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use super::stepped::{RULES, Stepped};
use super::*;
use crate::builtin::Chargen;
use crate::builtin::framed::{Framed, FramedOptions};
use crate::shared::mailbox::WorkerCommand;
use crate::shared::moved::{Facts, Moved, Passed, Passing, Successor};

/// What a successor says to an offer of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Says {
    Takes,
    Refuses,
    Fails,
}

/// What was offered, with copies of the descriptors.
type Offered = Arc<Mutex<Vec<(Facts, OwnedFd)>>>;

struct Scripted {
    says: Vec<Says>,
    offered: Offered,
}

impl Successor for Scripted {
    fn take(&mut self, connections: &[(Facts, Passing<'_>)]) -> Result<Vec<bool>, String> {
        let says = if self.says.len() > 1 { self.says.remove(0) } else { self.says[0] };
        let copy = |(facts, socket): &(Facts, Passing<'_>)| {
            (*facts, socket.descriptor().unwrap().try_clone_to_owned().unwrap())
        };
        match says {
            Says::Takes => self.offered.lock().unwrap().extend(connections.iter().map(copy)),
            Says::Refuses => {}
            Says::Fails => return Err("a test".to_owned()),
        }
        Ok(connections.iter().map(|_| says == Says::Takes).collect())
    }
}

/// A worker with a client that is served, and one that retires.
fn retiring(says: &[Says], half: &[u8]) -> (Stepped<Framed>, Offered) {
    let mut stepped = framed();
    stepped.client.write_all(b"\x01\0\0\0x").unwrap();
    stepped.turns_until("a reply", |worker| worker.core.counters.bytes_sent.get() == 5);
    stepped.client.read_exact(&mut [0; 5]).unwrap();
    if !half.is_empty() {
        let there = 5 + half.len() as u64;
        stepped.client.write_all(half).unwrap();
        let arrived = |worker: &Worker<_, Framed>| worker.core.counters.bytes_received.get();
        stepped.turns_until("the half", |worker| arrived(worker) == there);
    }
    let offered = Offered::default();
    let successor = Scripted { says: says.to_vec(), offered: offered.clone() };
    stepped.worker.core.mailboxes.retire(vec![Box::new(successor)]);
    (stepped, offered)
}

fn framed() -> Stepped<Framed> {
    let make = |_: &Pool| Framed::new(FramedOptions::default());
    let mut stepped = Stepped::on(Kernel::new().unwrap(), RULES, 4, make);
    stepped.turns_until("the client is there", |worker| worker.open() == 1);
    stepped
}

fn is_served(stepped: &mut Stepped<Framed>, client: &mut TcpStream, frame: &[u8]) {
    let before = stepped.worker.core.counters.bytes_sent.get();
    client.write_all(frame).unwrap();
    let there = before + frame.len() as u64;
    stepped.turns_until("an echo", |worker| worker.core.counters.bytes_sent.get() == there);
    let mut reply = vec![0; frame.len()];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(reply, frame);
}

#[test]
fn a_connection_at_rest_moves_and_the_other_worker_goes_on_where_it_was() {
    let (mut old, offered) = retiring(&[Says::Refuses, Says::Takes], b"");
    old.turns_until("it has ended", Worker::is_finished);
    assert_eq!(old.permits.taken(), 0);
    assert_eq!(old.worker.core.counters.handed_over.get(), 1);
    assert_eq!(old.worker.core.counters.connections.get(), 0);
    let (facts, socket) = offered.lock().unwrap().pop().unwrap();
    assert_eq!((facts.bytes_received, facts.bytes_sent, facts.listener), (5, 5, 0));
    let mut client = old.client;
    // What was sent between the processes is not lost.
    client.write_all(b"\x03\0\0\0on ").unwrap();
    drop(old.worker);
    let mut new = framed();
    let mut permit = new.permits.try_take().unwrap();
    permit.mark_used();
    let moved = Box::new(Moved { facts, socket: Passed::Descriptor(socket), permit });
    new.worker.core.mailboxes.send(0, WorkerCommand::GoOnWith(moved)).unwrap();
    new.turns_until("it is there", |worker| worker.open() == 2);
    new.turns_until("an echo", |worker| worker.core.counters.bytes_sent.get() == 7);
    client.read_exact(&mut [0; 7]).unwrap();
    is_served(&mut new, &mut client, b"\x02\0\0\0go");
    assert_eq!(new.worker.core.counters.taken_over.get(), 1);
    let context = new.worker.core.table.iter().find(|one| one.bytes_received > 9).unwrap();
    assert_eq!((context.bytes_received, context.bytes_sent), (18, 18), "with those before");
    drop(client);
    new.turns_until("it has left", |worker| worker.open() == 1);
    new.end();
}

#[test]
fn a_connection_that_does_not_move_is_served_on() {
    for says in [Says::Refuses, Says::Fails] {
        let (mut stepped, _) = retiring(&[says], b"");
        (0..20).for_each(|_| stepped.turn());
        let mut client = stepped.client.try_clone().unwrap();
        for _ in 0..3 {
            is_served(&mut stepped, &mut client, b"\x02\0\0\0go");
            (0..20).for_each(|_| stepped.turn());
        }
        client.shutdown(std::net::Shutdown::Write).unwrap();
        stepped.turns_until("it has ended", Worker::is_finished);
        assert_eq!(stepped.worker.core.counters.read().closed_total(), 1, "{says:?}");
    }
}

#[test]
fn a_connection_with_input_moves_when_that_is_served() {
    let (mut stepped, offered) = retiring(&[Says::Takes], b"\x02\0\0\0g");
    (0..20).for_each(|_| stepped.turn());
    assert!(offered.lock().unwrap().is_empty());
    stepped.client.write_all(b"o").unwrap();
    stepped.turns_until("it has ended", Worker::is_finished);
    stepped.client.read_exact(&mut [0; 6]).unwrap();
    assert_eq!(offered.lock().unwrap()[0].0.bytes_sent, 11);
}

/// The look at the sockets may take several turns, and the connection is in the last of them.
#[test]
fn a_connection_that_was_long_on_its_way_is_not_idle_before_its_socket_was_looked_at() {
    let (mut old, offered) = retiring(&[Says::Takes], b"");
    old.turns_until("it has ended", Worker::is_finished);
    let (facts, socket) = offered.lock().unwrap().pop().unwrap();
    let idle = Duration::from_millis(20);
    let rules = Rules { idle_timeout: Some(idle), ..RULES };
    let make = |_: &Pool| Framed::new(FramedOptions::default());
    let mut new = Stepped::on(Kernel::new().unwrap(), rules, 4, make);
    new.turn();
    let permit = new.permits.try_take().unwrap();
    let facts = Facts { active_at: Time::from_nanos(1), ..facts };
    let Worker { engine, core } = &mut new.worker;
    core.go_on_with(engine, Moved { facts, socket: Passed::Descriptor(socket), permit });
    let context = core.table.iter().find(|one| one.bytes_received == 5).unwrap();
    let due = context.active_at + idle;
    assert!(due > core.looked_at && due > core.now, "{due:?}, at {:?}", core.now);
    assert!(due <= core.now + Duration::from_millis(1), "its idle time begins anew");
    new.turns_until("it is idle", |worker| worker.open() == 0);
    new.end();
}

/// A worker whose client, of the generator, does not read.
fn generating() -> Stepped<Chargen> {
    let mut stepped = Stepped::on(Kernel::new().unwrap(), RULES, 8, |_| Chargen);
    stepped.turns_until("the client has enough", |worker| worker.stalled_since().is_some());
    stepped
}

/// A byte of the generator's stream.
fn generated(at: u64) -> u8 {
    let (line, column) = (at / 74, at % 74);
    match column {
        72 => b'\r',
        73 => b'\n',
        _ => b' ' + ((line + column) % 95) as u8,
    }
}

/// Its output is made again. A client that has closed its sending side reads on.
#[test]
fn a_generator_goes_on_with_the_byte_after_the_last_one_that_the_kernel_has_taken() {
    for half_closes in [false, true] {
        let mut old = generating();
        if half_closes {
            old.client.shutdown(Shutdown::Write).unwrap();
        }
        (0..20).for_each(|_| old.turn());
        let offered = Offered::default();
        let successor = Scripted { says: vec![Says::Refuses, Says::Takes], offered };
        let offered = successor.offered.clone();
        old.worker.core.mailboxes.retire(vec![Box::new(successor)]);
        old.turns_until("it has ended", Worker::is_finished);
        assert_eq!((old.permits.taken(), old.worker.core.pool.held()), (0, 0));
        let (facts, socket) = offered.lock().unwrap().pop().unwrap();
        let mut client = old.client;
        drop(old.worker);
        let mut new = generating();
        let mut permit = new.permits.try_take().unwrap();
        permit.mark_used();
        let sent = facts.bytes_sent;
        let moved = Box::new(Moved { facts, socket: Passed::Descriptor(socket), permit });
        new.worker.core.mailboxes.send(0, WorkerCommand::GoOnWith(moved)).unwrap();
        new.turns_until("it is there", |worker| worker.open() == 2);
        client.set_nonblocking(true).unwrap();
        let (mut at, mut room, begun) = (0, vec![0; 100_000], Instant::now());
        while at < sent + 1_000_000 {
            assert!(begun.elapsed() < GUARD, "{at} bytes, {sent} of them by the old worker");
            new.turn();
            let Ok(count) = client.read(&mut room) else { continue };
            assert!(count > 0, "the end");
            let expected = (at..).map(generated);
            assert!(room[..count].iter().copied().eq(expected.take(count)), "behind {at}, {sent}");
            at += count as u64;
        }
        drop(client);
        new.turns_until("it has left", |worker| worker.open() == 1);
        new.end();
    }
}

/// Refuses everything, and counts how often it was asked.
struct Refusing(Arc<AtomicU32>);

impl Successor for Refusing {
    fn take(&mut self, connections: &[(Facts, Passing<'_>)]) -> Result<Vec<bool>, String> {
        self.0.fetch_add(connections.len() as u32, Ordering::Relaxed);
        Ok(vec![false; connections.len()])
    }
}

#[test]
fn a_client_that_does_not_read_has_no_more_time_for_being_offered() {
    let mut stepped = generating();
    let asked = Arc::new(AtomicU32::new(0));
    stepped.worker.core.mailboxes.retire(vec![Box::new(Refusing(asked.clone()))]);
    // The kernel may take more at first.
    let mut before = None;
    loop {
        let asked_before = asked.load(Ordering::Relaxed);
        stepped.turns_until("an offer", |_| asked.load(Ordering::Relaxed) > asked_before);
        let sent = stepped.worker.core.counters.bytes_sent.get();
        match (before, stepped.worker.stalled_since()) {
            (Some((sent_before, before)), Some(since)) if sent_before == sent => {
                assert_eq!(since, before);
                break;
            }
            (_, since) => before = since.map(|since| (sent, since)),
        }
    }
    // It is served on when it reads.
    stepped.client.set_nonblocking(true).unwrap();
    let (mut at, mut room, begun) = (0, vec![0; 100_000], Instant::now());
    while at < 20_000_000 {
        assert!(begun.elapsed() < GUARD, "{at} bytes");
        stepped.turn();
        let Ok(count) = stepped.client.read(&mut room) else { continue };
        let expected = (at..).map(generated);
        assert!(room[..count].iter().copied().eq(expected.take(count)), "behind {at}");
        at += count as u64;
    }
    stepped.end();
}

/// Its turn to receive comes later than the offer, while a Send is in flight.
#[test]
fn a_client_that_floods_and_does_not_read_is_served_on_when_it_is_refused() {
    let mut stepped = generating();
    let asked = Arc::new(AtomicU32::new(0));
    stepped.worker.core.mailboxes.retire(vec![Box::new(Refusing(asked.clone()))]);
    stepped.client.set_nonblocking(true).unwrap();
    let (much, begun) = (vec![0; 1 << 20], Instant::now());
    loop {
        assert!(begun.elapsed() < GUARD, "it was never offered at such a moment");
        while stepped.client.write(&much).is_ok_and(|count| count > 0) {}
        let (before, is_stalled) = (asked.load(Ordering::Relaxed), stepped.worker.stalled_since());
        stepped.turn();
        let is_offered = asked.load(Ordering::Relaxed) > before;
        if is_offered && is_stalled.is_some() && !stepped.worker.core.yielded.is_empty() {
            break;
        }
    }
    // A further offer would begin the Send anew.
    stepped.worker.core.handover = None;
    let sent = stepped.worker.core.counters.bytes_sent.get();
    let (mut at, mut room) = (0, vec![0; 100_000]);
    while at < sent + 1_000_000 {
        assert!(begun.elapsed() < GUARD, "{at} bytes, {sent} of them before the offer");
        stepped.turn();
        let Ok(count) = stepped.client.read(&mut room) else { continue };
        let expected = (at..).map(generated);
        assert!(room[..count].iter().copied().eq(expected.take(count)), "behind {at}");
        at += count as u64;
    }
    stepped.end();
}
