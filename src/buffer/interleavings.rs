//! Every interleaving of threads that wait for a buffer with others that return one. `scripts/loom`
//! runs these tests. A worker sleeps at the end of its turn, until its bell rings. The tests check,
//! when all threads have stopped, that a worker that could be served has been woken.

use std::sync::Arc;

use loom::thread;

use super::board::Claim;
use super::{Lease, Pool, Reserve};
use crate::base::sync::in_model::{Bell, check};
use crate::base::time::Time;

const SIZE: usize = 8;

/// A worker with a pool, on whatever thread it is made.
struct Worker {
    pool: Pool,
    bell: Arc<Bell>,
    claim: Option<Claim>,
    got: Option<Lease>,
}

impl Worker {
    fn new(reserve: &Arc<Reserve>, index: usize, bell: &Arc<Bell>) -> Worker {
        reserve.board().set_waker(index, bell.waker());
        let pool = Pool::new(reserve.clone(), index);
        Worker { pool, bell: bell.clone(), claim: None, got: None }
    }

    /// The end of a turn in which a waiter needs this many buffers: it claims, then looks.
    fn waits_for(&mut self, needs: u32) {
        let ticket = match self.claim {
            Some(claim) => claim.ticket,
            None => self.pool.reserve().board().ticket(),
        };
        self.claim = Some(Claim { ticket, since: Time::ZERO, needs });
        self.pool.claim(self.claim);
        self.look();
        self.pool.give(true);
    }

    fn look(&mut self) {
        let Some(Claim { ticket, needs, .. }) = self.claim else { return };
        if self.pool.available_for(ticket) < needs as usize {
            return;
        }
        self.pool.set_serving(Some(ticket));
        self.got = self.pool.lease();
        self.pool.set_serving(None);
        if self.got.is_some() {
            self.withdraw();
        }
    }

    fn withdraw(&mut self) {
        self.claim = None;
        self.pool.claim(None);
    }

    fn is_woken_or_served(&self) -> bool {
        self.got.is_some() || self.bell.take()
    }

    /// It has a claim, and sleeps beside what it has claimed.
    fn is_forgotten(&self) -> bool {
        self.claim.is_some_and(|claim| {
            self.pool.available_for(claim.ticket) >= claim.needs as usize && !self.bell.take()
        })
    }
}

#[test]
fn a_buffer_that_comes_back_serves_or_wakes_who_waits() {
    check(|| {
        let reserve = Reserve::new(SIZE, 1).unwrap();
        let parcel = reserve.parcel().unwrap();
        let mut worker = Worker::new(&reserve, 0, &Bell::new());
        let other = thread::spawn(move || drop(parcel));
        worker.waits_for(1);
        other.join().unwrap();
        assert!(worker.is_woken_or_served());
    });
}

#[test]
fn the_buffers_of_a_worker_that_ends_serve_or_wake_who_waits() {
    check(|| {
        let reserve = Reserve::new(SIZE, 1).unwrap();
        let mut worker = Worker::new(&reserve, 0, &Bell::new());
        let ending = Worker::new(&reserve, 1, &Bell::new());
        drop(ending.pool.lease());
        let other = thread::spawn(move || drop(ending));
        worker.waits_for(1);
        other.join().unwrap();
        assert!(worker.is_woken_or_served());
    });
}

#[test]
fn a_waiter_that_needs_fewer_than_before_misses_none() {
    check(|| {
        let reserve = Reserve::new(SIZE, 2).unwrap();
        let (parcel, _kept) = (reserve.parcel().unwrap(), reserve.parcel().unwrap());
        let mut worker = Worker::new(&reserve, 0, &Bell::new());
        worker.waits_for(2);
        let other = thread::spawn(move || drop(parcel));
        worker.waits_for(1);
        other.join().unwrap();
        assert!(worker.is_woken_or_served());
    });
}

/// The other worker reads without a fence whether there is a claim. It is enough, since it is woken
/// for the first claim.
#[test]
fn a_free_buffer_of_another_worker_is_given() {
    check(|| {
        let reserve = Reserve::new(SIZE, 1).unwrap();
        let mut poor = Worker::new(&reserve, 0, &Bell::new());
        let rich = Worker::new(&reserve, 1, &Bell::new());
        let kept = rich.pool.lease();
        let bell = rich.bell.clone();
        let other = thread::spawn(move || {
            drop(kept);
            for _ in 0..2 {
                let is_woken = rich.bell.take();
                if rich.pool.is_claimed() {
                    rich.pool.give(false);
                }
                if is_woken {
                    break;
                }
            }
            rich
        });
        poor.waits_for(1);
        bell.waker().wake();
        let rich = other.join().unwrap();
        assert!(poor.is_woken_or_served() || rich.bell.take(), "both sleep");
    });
}

#[test]
fn what_an_older_claim_leaves_wakes_the_next() {
    check(|| {
        let reserve = Reserve::new(SIZE, 1).unwrap();
        let mut older = Worker::new(&reserve, 0, &Bell::new());
        let mut younger = Worker::new(&reserve, 1, &Bell::new());
        let taken = reserve.parcel().unwrap();
        older.waits_for(1);
        drop(taken);
        let other = thread::spawn(move || {
            older.withdraw();
            older.pool.give(true);
        });
        younger.waits_for(1);
        other.join().unwrap();
        assert!(younger.is_woken_or_served());
    });
}

#[test]
fn a_message_that_takes_a_buffer_wakes_who_may_have_the_rest() {
    check(|| {
        let reserve = Reserve::new(SIZE, 2).unwrap();
        let mut older = Worker::new(&reserve, 0, &Bell::new());
        let mut younger = Worker::new(&reserve, 1, &Bell::new());
        let taken = reserve.parcel().unwrap();
        older.waits_for(2);
        drop(taken);
        // Both buffers are for the older claim until a thread without a pool, which had looked
        // before that, takes one of them.
        let taking = reserve.clone();
        let other = thread::spawn(move || taking.take_for_message());
        younger.waits_for(1);
        let _taken = other.join().unwrap();
        assert!(!younger.is_forgotten());
        drop(older);
    });
}

#[test]
fn two_workers_that_wait_do_not_both_sleep_beside_a_buffer() {
    check(|| {
        let reserve = Reserve::new(SIZE, 1).unwrap();
        let parcel = reserve.parcel().unwrap();
        let mut one = Worker::new(&reserve, 0, &Bell::new());
        let mut two = Worker::new(&reserve, 1, &Bell::new());
        let returning = thread::spawn(move || drop(parcel));
        let waiting = thread::spawn(move || {
            one.waits_for(1);
            one
        });
        two.waits_for(1);
        returning.join().unwrap();
        let one = waiting.join().unwrap();
        assert!(!one.is_forgotten() && !two.is_forgotten());
    });
}
