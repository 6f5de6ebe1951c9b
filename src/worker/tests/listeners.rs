//! Listeners that are stopped and started while the worker runs.

use std::io::{Read, Write};

use super::stepped::{RULES, Stepped};
use super::*;
use crate::builtin::Echo;
use crate::engine::sys::Kernel;
use crate::net::bind::KeptOpen;
use crate::shared::mailbox::EndOrder;
use crate::worker::accept::ListenerOf;

/// A worker with a client that is served.
fn stepped() -> Stepped<Echo> {
    let mut stepped = Stepped::on(Kernel::new().unwrap(), RULES, 4, |_| Echo);
    stepped.turns_until("the first client is there", |worker| worker.open() == 1);
    stepped
}

fn order(stepped: &mut Stepped<Echo>, accepts: bool) {
    stepped.worker.core.mailboxes.set_accepting(0, accepts);
}

/// A further client, which is connected as soon as the kernel has it in the backlog.
fn another(stepped: &Stepped<Echo>) -> TcpStream {
    connect(stepped.client.peer_addr().unwrap())
}

fn is_served(stepped: &mut Stepped<Echo>, client: &mut TcpStream) {
    client.write_all(b"x").unwrap();
    client.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    while client.read(&mut [0; 1]).is_err() {
        assert!(begun.elapsed() < GUARD, "no echo");
        stepped.turn();
    }
}

#[test]
fn clients_of_a_stopped_listener_wait_and_are_served_when_it_starts_again() {
    let mut stepped = stepped();
    order(&mut stepped, false);
    (0..2).for_each(|_| stepped.turn());
    let mut waiting: Vec<_> = (0..3).map(|_| another(&stepped)).collect();
    (0..20).for_each(|_| stepped.turn());
    assert_eq!(stepped.worker.open(), 1, "it accepts nothing");
    assert_eq!(stepped.permits.taken(), 1, "and holds no permit");
    let mut first = stepped.client.try_clone().unwrap();
    is_served(&mut stepped, &mut first);
    order(&mut stepped, true);
    stepped.turns_until("all are there", |worker| worker.open() == 4);
    waiting.iter_mut().for_each(|client| is_served(&mut stepped, client));
    stepped.end();
}

#[test]
fn what_was_ordered_last_counts_however_fast_the_orders_come() {
    let mut stepped = stepped();
    for turns_between in [0, 1, 2] {
        for accepts in [false, true, false, true, false] {
            order(&mut stepped, accepts);
            (0..turns_between).for_each(|_| stepped.turn());
        }
        (0..3).for_each(|_| stepped.turn());
        let open = stepped.worker.open();
        let mut late = another(&stepped);
        (0..10).for_each(|_| stepped.turn());
        assert_eq!(stepped.worker.open(), open);
        order(&mut stepped, false);
        order(&mut stepped, true);
        is_served(&mut stepped, &mut late);
    }
    stepped.end();
}

#[test]
fn a_stopped_listener_or_one_that_is_being_stopped_is_closed_by_a_drain() {
    for turns_before in [0, 1, 3] {
        let mut stepped = stepped();
        order(&mut stepped, false);
        (0..turns_before).for_each(|_| stepped.turn());
        let mut waiting = another(&stepped);
        let deadline = stepped.worker.core.now + GUARD;
        stepped.worker.core.mailboxes.order_end(0, EndOrder::Drain { deadline });
        stepped.client.shutdown(std::net::Shutdown::Write).unwrap();
        let begun = Instant::now();
        while !stepped.worker.is_finished() {
            assert!(begun.elapsed() < GUARD, "it does not end");
            stepped.turn();
        }
        // A stop and a drain in one turn: the drain comes first, and accepts the backlog.
        let unaccepted = stepped.worker.core.counters.unaccepted.get();
        assert_eq!(unaccepted, u64::from(turns_before > 0));
        drop(stepped.worker);
        assert_eq!(waiting.read(&mut [0; 1]).unwrap_or(0), 0);
    }
}

/// A listener that another process keeps open is closed at once. At another one, what waits is
/// accepted. Either way the connections stay until they end, or until a drain.
#[test]
fn a_worker_that_retires_closes_its_listeners_and_serves_until_its_connections_have_ended() {
    for is_kept in [false, true] {
        for drains in [false, true] {
            let mut stepped = stepped();
            let open = stepped.worker.open();
            let (number, kept) = (0, KeptOpen::default());
            kept.set(is_kept);
            stepped.worker.core.listeners[0].describe(&ListenerOf { number, kept });
            let mut waiting = (!is_kept).then(|| another(&stepped));
            stepped.worker.core.mailboxes.retire(Vec::new());
            (0..10).for_each(|_| stepped.turn());
            assert_eq!(stepped.worker.open(), open + usize::from(!is_kept));
            assert!(stepped.worker.core.listeners_are_closed() && !stepped.worker.is_finished());
            if let Some(waiting) = &mut waiting {
                is_served(&mut stepped, waiting);
            }
            if drains {
                let deadline = stepped.worker.core.now + GUARD;
                stepped.worker.core.mailboxes.order_end(0, EndOrder::Drain { deadline });
            }
            drop(waiting);
            stepped.client.shutdown(std::net::Shutdown::Write).unwrap();
            stepped.turns_until("it has ended", Worker::is_finished);
            assert_eq!(stepped.worker.core.cut, 0);
        }
    }
}

/// The limit of connections is reached, so the listener waits for a permit.
#[test]
fn a_listener_that_waits_for_a_permit_can_be_stopped() {
    let mut stepped = stepped();
    let mut clients: Vec<_> = (0..8).map(|_| another(&stepped)).collect();
    stepped.turns_until("every permit is taken", |worker| worker.open() == 8);
    (0..3).for_each(|_| stepped.turn());
    order(&mut stepped, false);
    stepped.turn();
    drop(clients.remove(0));
    stepped.turns_until("one has left", |worker| worker.open() == 7);
    (0..10).for_each(|_| stepped.turn());
    assert_eq!(stepped.worker.open(), 7, "the permit is not taken");
    order(&mut stepped, true);
    stepped.turns_until("the last one is there", |worker| worker.open() == 8);
    is_served(&mut stepped, clients.last_mut().unwrap());
    stepped.end();
}
