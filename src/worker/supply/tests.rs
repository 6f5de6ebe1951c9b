//! A model of workers that share a few buffers, with the real queues, board and pools. The waiters
//! take the buffers they need, all at once, and keep them for a while. The workers run in any order,
//! and only when woken.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::*;
use crate::buffer::board::NO_TICKET;
use crate::buffer::{Lease, Pool, Reserve};

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A worker that serves its queue as [`Core`] does.
struct Model {
    index: usize,
    pool: Pool,
    supply: Supply,
    woken: Arc<Woken>,
    /// How many buffers each waiter needs.
    needs: HashMap<u32, usize>,
    held: Vec<Vec<Lease>>,
    next: u32,
}

/// One action of a schedule.
#[derive(Clone, Copy, Debug)]
enum PoolAction {
    /// A connection of a worker needs this many buffers.
    Want(usize, usize),
    /// A connection of a worker returns what it holds.
    Return(usize),
    /// A worker has a turn, if it was woken.
    Turn(usize),
    /// A worker keeps turning, as a busy one does, and takes a buffer for a new connection.
    Take(usize),
}

const WORKERS: usize = 3;
const SLOTS: usize = 400;

struct World {
    reserve: Arc<Reserve>,
    workers: Vec<Model>,
}

impl World {
    fn new(buffers: u32) -> World {
        let reserve = Reserve::new(8, buffers).unwrap();
        let worker = |index| {
            let woken = Arc::new(Woken::default());
            reserve.board().set_waker(index, Waker::from(woken.clone()));
            Model {
                index,
                pool: Pool::new(reserve.clone(), index),
                supply: Supply::new(SLOTS, None),
                woken,
                needs: HashMap::new(),
                held: Vec::new(),
                next: 0,
            }
        };
        World { workers: (0..WORKERS).map(worker).collect(), reserve }
    }

    fn apply(&mut self, action: PoolAction) {
        match action {
            PoolAction::Want(worker, count) => {
                let model = &mut self.workers[worker];
                let (slot, ticket) = (model.next, self.reserve.board().ticket());
                model.next += 1;
                model.needs.insert(slot, count);
                let since = Time::from_nanos(ticket);
                model.supply.insert(slot, Claim { ticket, since, needs: 1 });
                if model.supply.published.is_none() {
                    self.publish(worker);
                }
                self.turn(worker);
            }
            PoolAction::Return(worker) => {
                if self.workers[worker].held.pop().is_some() {
                    self.turn(worker);
                }
            }
            PoolAction::Turn(worker) => {
                if self.workers[worker].woken.0.swap(false, Ordering::Relaxed) {
                    self.turn(worker);
                }
            }
            PoolAction::Take(worker) => {
                let before = self.free();
                let model = &mut self.workers[worker];
                let own = model.pool.own();
                let taken = model.pool.lease();
                if taken.is_some() && own == 0 {
                    // Not in its own list: what is left is enough for all who wait.
                    self.assert_enough_for_older(worker, NO_TICKET, before - 1);
                }
                self.workers[worker].held.extend(taken.map(|lease| vec![lease]));
                self.turn(worker);
            }
        }
    }

    /// The buffers that no connection holds.
    fn free(&self) -> usize {
        self.reserve.available() + self.workers.iter().map(|model| model.pool.own()).sum::<usize>()
    }

    fn publish(&mut self, worker: usize) {
        let model = &mut self.workers[worker];
        let claim = model.supply.claim();
        let before = std::mem::replace(&mut model.supply.published, claim);
        if claim != before {
            model.supply.claim_changed = true;
            model.pool.claim(claim);
            if before.is_none() {
                let others = self.workers.iter().filter(|other| other.index != worker);
                others.for_each(|other| other.woken.0.store(true, Ordering::Relaxed));
            }
        }
    }

    fn turn(&mut self, worker: usize) {
        for _ in 0..self.workers[worker].supply.waiters.len() {
            let model = &mut self.workers[worker];
            let Some((slot, claim)) = model.supply.next(&model.pool) else { break };
            let (free, needs) = (model.pool.available_for(claim.ticket), model.needs[&slot]);
            if free < needs {
                model.supply.insert(slot, Claim { ticket: self.reserve.board().ticket(), ..claim });
                model.supply.pass_over(slot, claim, free);
                continue;
            }
            model.pool.set_serving(Some(claim.ticket));
            let leases: Vec<Lease> = (0..needs).filter_map(|_| model.pool.lease()).collect();
            model.pool.set_serving(None);
            assert_eq!(leases.len(), needs, "it was offered {free}");
            model.needs.remove(&slot);
            model.held.push(leases);
            let left = self.free();
            self.assert_enough_for_older(worker, claim.ticket, left);
        }
        self.publish(worker);
        let model = &mut self.workers[worker];
        let changed = std::mem::take(&mut model.supply.claim_changed);
        if model.pool.is_claimed() {
            model.pool.give(changed);
        }
    }

    /// A buffer was taken with this ticket: as many as are left are enough for each older claim of
    /// another worker that could be served before.
    fn assert_enough_for_older(&self, worker: usize, ticket: u64, left: usize) {
        let claims = self.workers.iter().filter(|model| model.index != worker);
        let older = claims
            .filter_map(|model| model.supply.published)
            .filter(|claim| claim.ticket < ticket && claim.needs as usize <= left);
        let owed: usize = older.map(|claim| claim.needs as usize).sum();
        assert!(owed <= left, "worker {worker} took a buffer of an older claim: {owed} of {left}");
    }

    /// Runs those who are woken until nobody is. A world that wakes itself for ever fails.
    fn settle(&mut self) {
        for _ in 0..100 {
            let woken = |model: &&Model| model.woken.0.load(Ordering::Relaxed);
            let Some(next) = self.workers.iter().find(woken).map(|model| model.index) else {
                return self.assert_nobody_waits_in_vain();
            };
            self.apply(PoolAction::Turn(next));
        }
        panic!("the workers wake each other for ever");
    }

    fn assert_nobody_waits_in_vain(&self) {
        let free = self.free();
        for model in &self.workers {
            let least = model.needs.values().min().copied().unwrap_or(usize::MAX);
            assert!(least > free, "worker {} sleeps beside {free} free buffers", model.index);
        }
    }
}

fn action() -> impl Strategy<Value = PoolAction> {
    let worker = || 0..WORKERS;
    prop_oneof![
        3 => (worker(), 1usize..=3).prop_map(|(worker, count)| PoolAction::Want(worker, count)),
        3 => worker().prop_map(PoolAction::Return),
        3 => worker().prop_map(PoolAction::Turn),
        1 => worker().prop_map(PoolAction::Take),
    ]
}

proptest! {
    #![proptest_config(crate::base::property::config())]

    /// No waiter sleeps beside buffers that are enough for it, nobody takes what is left for an
    /// older claim, and workers do not wake each other for ever.
    #[test]
    fn the_oldest_waiter_that_can_be_served_is_served(
        buffers in 1u32..6,
        actions in prop::collection::vec((action(), any::<bool>()), 0..120),
    ) {
        let mut world = World::new(buffers);
        for (action, settles) in actions {
            world.apply(action);
            if settles {
                world.settle();
            }
        }
        world.settle();
        // In the end everybody is served who can be.
        for _ in 0..SLOTS {
            for worker in 0..WORKERS {
                world.apply(PoolAction::Return(worker));
            }
            world.settle();
        }
        for model in &world.workers {
            prop_assert!(model.needs.values().all(|&needs| needs > buffers as usize));
        }
    }
}
