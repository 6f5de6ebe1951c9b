//! Every interleaving of threads that send commands with the worker that receives them, and of
//! workers that wait for a permit with those that return one. `scripts/loom` runs these tests. As in
//! `buffer/interleavings`, a worker sleeps at the end of its turn until its bell rings.

use std::sync::Arc;

use loom::thread;

use super::mailbox::{EndOrder, Mailboxes, WorkerCommand};
use super::permits::{Permit, Permits};
use crate::base::sync::in_model::{Bell, check};
use crate::buffer::{Pool, Reserve};

fn mailboxes<const N: usize>() -> (Arc<Mailboxes>, [Arc<Bell>; N]) {
    let mailboxes = Arc::new(Mailboxes::with_room(N, 2));
    let bells: [Arc<Bell>; N] = std::array::from_fn(|_| Bell::new());
    for (worker, bell) in bells.iter().enumerate() {
        mailboxes.set_waker(worker, bell.waker());
    }
    (mailboxes, bells)
}

/// Accepts as a worker does: without a permit it requests a wake-up and tries again.
fn accept(permits: &Arc<Permits>, worker: usize) -> Option<Permit> {
    permits.try_take().or_else(|| {
        permits.want_permit(worker);
        let permit = permits.try_take()?;
        permits.unwant_permit(worker);
        Some(permit)
    })
}

#[test]
fn a_permit_that_comes_back_is_taken_or_wakes_who_waits() {
    check(|| {
        let (mailboxes, [bell]) = mailboxes();
        let permits = Permits::new(1, mailboxes);
        let permit = permits.try_take();
        let other = thread::spawn(move || drop(permit));
        let taken = accept(&permits, 0);
        other.join().unwrap();
        assert!(taken.is_some() || (bell.take() && permits.permit_came(0)));
    });
}

#[test]
fn two_workers_that_wait_do_not_both_sleep_beside_a_permit() {
    check(|| {
        let (mailboxes, bells) = mailboxes::<2>();
        let permits = Permits::new(1, mailboxes);
        let permit = permits.try_take();
        let returning = thread::spawn(move || drop(permit));
        let other = permits.clone();
        let waiting = thread::spawn(move || accept(&other, 0));
        let taken = accept(&permits, 1);
        returning.join().unwrap();
        let taken = [taken, waiting.join().unwrap()];
        let is_woken = bells.iter().any(|bell| bell.take());
        assert!(taken.iter().any(Option::is_some) || is_woken);
    });
}

#[test]
fn a_wake_up_that_is_not_needed_goes_to_another_worker() {
    check(|| {
        let (mailboxes, [_, bell]) = mailboxes();
        let permits = Permits::new(2, mailboxes);
        let (mine, other) = (permits.try_take(), permits.try_take());
        // Worker 0 is woken for a permit, while one of its own has come back, and worker 1 begins
        // to wait.
        permits.want_permit(0);
        drop(mine);
        let elsewhere = permits.clone();
        let waiting =
            thread::spawn(move || (elsewhere.try_take().is_none(), accept(&elsewhere, 1)));
        permits.unwant_permit(0);
        let (waited, taken) = waiting.join().unwrap();
        assert!(taken.is_some() || !waited || bell.take());
        drop(other);
    });
}

#[test]
fn a_closed_connection_wakes_who_waits_for_a_descriptor() {
    check(|| {
        use crate::base::sync::{AtomicBool, Ordering};
        let (mailboxes, [bell]) = mailboxes();
        let permits = Permits::new(1, mailboxes);
        let mut permit = permits.try_take().unwrap();
        permit.mark_used();
        // The kernel's table of descriptors, without its locks.
        let closed = Arc::new(AtomicBool::new(false));
        let closing = closed.clone();
        let other = thread::spawn(move || {
            closing.store(true, Ordering::Relaxed);
            drop(permit);
        });
        permits.want_descriptor(0);
        let accepts = closed.load(Ordering::Relaxed);
        other.join().unwrap();
        assert!(accepts || (bell.take() && permits.descriptor_came(0)));
    });
}

#[test]
fn no_command_stays_in_a_mailbox_that_closes() {
    check(|| {
        let (mailboxes, [_]) = mailboxes();
        let sender = mailboxes.clone();
        let sending = thread::spawn(move || sender.send(0, WorkerCommand::GiveBuffers));
        mailboxes.close(0);
        sending.join().unwrap().unwrap();
        assert!(mailboxes.receive(0).is_none());
    });
}

/// Takes turns as a worker does, as long as its bell rings. Returns how many commands it has
/// received, and whether it was ordered to end.
fn turns(mailboxes: &Mailboxes, bell: &Bell) -> (usize, bool) {
    let (mut received, mut ends) = (0, false);
    loop {
        if mailboxes.has_mail(0) {
            let there = mailboxes.open(0);
            ends |= mailboxes.ordered_end(0).is_some();
            received += (0..there).filter_map(|_| mailboxes.receive(0)).count();
        }
        if !bell.take() {
            return (received, ends);
        }
    }
}

#[test]
fn a_command_is_received_or_wakes_the_worker() {
    check(|| {
        let (mailboxes, [bell]) = mailboxes();
        let senders = [(); 2].map(|()| {
            let sender = mailboxes.clone();
            thread::spawn(move || sender.send(0, WorkerCommand::GiveBuffers).unwrap())
        });
        let (early, _) = turns(&mailboxes, &bell);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        // It wakes up only if it is woken.
        let late = if bell.take() { turns(&mailboxes, &bell).0 } else { 0 };
        assert_eq!(early + late, 2);
    });
}

#[test]
fn an_order_to_end_is_seen_or_wakes_the_worker() {
    check(|| {
        let (mailboxes, [bell]) = mailboxes();
        let sender = mailboxes.clone();
        let sending = thread::spawn(move || sender.send(0, WorkerCommand::GiveBuffers));
        let ordering = mailboxes.clone();
        let order = thread::spawn(move || ordering.order_end(0, EndOrder::Stop));
        let (_, early) = turns(&mailboxes, &bell);
        sending.join().unwrap().unwrap();
        order.join().unwrap();
        let late = bell.take() && turns(&mailboxes, &bell).1;
        assert!(early || late);
    });
}

#[test]
fn messages_in_transit_are_bounded_and_who_is_held_back_is_woken() {
    check(|| {
        let (mailboxes, [bell, _]) = mailboxes();
        let reserve = Reserve::new(8, 2).unwrap();
        let pool = Pool::new(reserve, 0);
        let send = || mailboxes.send_messages(0, 1, pool.lease().unwrap(), &pool, 1).is_ok();
        assert!(send());
        let receiver = mailboxes.clone();
        let receiving = thread::spawn(move || {
            drop(receiver.receive(1).expect("it was sent before"));
            receiver.messages_delivered(0, 1, 1);
            receiver.receive(1)
        });
        let sent = send();
        assert!(!send() || !sent, "two are in transit, and one may be");
        let next = receiving.join().unwrap();
        assert!(sent || bell.take());
        drop(next);
        mailboxes.close(1);
    });
}
