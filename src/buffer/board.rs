//! The notes about buffers that the workers publish for each other: which workers wait for a
//! buffer, and since when; which workers have buffers that have not moved, and since when; and
//! which workers to wake. `worker/supply` has the policy.
//!
//! A *claim* is published by a worker whose connections or service wait for a buffer. It has a
//! *ticket*, which puts all waiters of the process into one order.
//!
//! Memory order: a worker that changes its claim then looks whether that can be served. A thread
//! that puts a buffer into the reserve, or takes one, reads the claims after that. Each has a fence
//! in between, so at least one of them sees what the other has written, and no waiter sleeps while
//! a buffer is free for it. The tests of `scripts/loom` prove it.

use std::sync::OnceLock;
use std::task::Waker;

use crate::base::key::WORKERS_MAX;
use crate::base::sync::{AtomicU32, AtomicU64, Ordering, fence};
use crate::base::time::Time;

/// The ticket that stands for no waiter. It comes after all others.
pub(crate) const NO_TICKET: u64 = u64::MAX;

/// The place of a waiter in the order of all waiters, and the number of buffers that it needs. A
/// worker publishes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    pub(crate) ticket: u64,
    /// The time since which it waits.
    pub(crate) since: Time,
    /// How many buffers have to be free before it is served. More than 1 if it has found fewer and
    /// could not use them.
    pub(crate) needs: u32,
}

/// Since when a connection that holds buffers has not moved. One that its service pauses comes after
/// all others, however long they have not moved: it is not its peer's fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Stall {
    pub(crate) is_paused: bool,
    pub(crate) since: Time,
}

impl Stall {
    /// 2^63 ns are 292 years.
    const PAUSED: u64 = 1 << 63;
    /// Stands for no connection. It comes after all others.
    const NONE: u64 = u64::MAX;

    fn pack(stall: Option<Stall>) -> u64 {
        stall.map_or(Stall::NONE, |Stall { is_paused, since }| {
            let nanos = since.as_nanos().min(Stall::PAUSED - 2);
            if is_paused { Stall::PAUSED | nanos } else { nanos }
        })
    }

    fn unpack(packed: u64) -> Option<Stall> {
        (packed != Stall::NONE).then(|| Stall {
            is_paused: packed & Stall::PAUSED != 0,
            since: Time::from_nanos(packed & !Stall::PAUSED),
        })
    }
}

/// A thread of loom has a small stack.
const NOTES: usize = if cfg!(all(test, loom)) { 2 } else { WORKERS_MAX };

/// The published notes of all workers.
pub(crate) struct Board {
    /// One bit for each worker with a claim.
    claiming: AtomicU64,
    next_ticket: AtomicU64,
    notes: [Note; NOTES],
}

/// What one worker has published. Except for `asked`, only that worker writes it.
struct Note {
    ticket: AtomicU64,
    needs: AtomicU32,
    /// How many buffers were free when others asked it to shed a connection, plus 1. 0 if none
    /// has asked.
    asked: AtomicU32,
    /// In nanoseconds.
    waits_since: AtomicU64,
    /// A [`Stall`], packed.
    stall: AtomicU64,
    waker: OnceLock<Waker>,
}

impl Board {
    pub(super) fn new() -> Board {
        let note = |_| Note {
            ticket: AtomicU64::new(NO_TICKET),
            needs: AtomicU32::new(1),
            asked: AtomicU32::new(0),
            waits_since: AtomicU64::new(u64::MAX),
            stall: AtomicU64::new(Stall::NONE),
            waker: OnceLock::new(),
        };
        Board {
            claiming: AtomicU64::new(0),
            next_ticket: AtomicU64::new(0),
            notes: std::array::from_fn(note),
        }
    }

    /// Sets the waker of a worker.
    pub(crate) fn set_waker(&self, worker: usize, waker: Waker) {
        let _ = self.notes[worker].waker.set(waker);
    }

    /// Draws a ticket that comes after all earlier ones.
    pub(crate) fn ticket(&self) -> u64 {
        self.next_ticket.fetch_add(1, Ordering::Relaxed)
    }

    /// The workers with a claim, one bit each.
    #[inline]
    pub(crate) fn claiming(&self) -> u64 {
        self.claiming.load(Ordering::Relaxed)
    }

    /// Publishes the claim of a worker, or that it has none.
    pub(crate) fn publish(&self, worker: usize, claim: Option<Claim>) {
        let (note, bit) = (&self.notes[worker], 1 << worker);
        match claim {
            Some(Claim { ticket, since, needs }) => {
                note.waits_since.store(since.as_nanos(), Ordering::Relaxed);
                note.needs.store(needs, Ordering::Relaxed);
                note.ticket.store(ticket, Ordering::Relaxed);
                self.claiming.fetch_or(bit, Ordering::Release);
            }
            None => {
                self.claiming.fetch_and(!bit, Ordering::Relaxed);
                note.ticket.store(NO_TICKET, Ordering::Relaxed);
                note.waits_since.store(u64::MAX, Ordering::Relaxed);
            }
        }
        fence(Ordering::SeqCst);
    }

    /// Returns how many of `free` buffers are for claims of workers other than this one that are
    /// older than `ticket`.
    pub(super) fn owed(&self, worker: usize, ticket: u64, free: usize) -> usize {
        let older = |note: &&Note| note.ticket.load(Ordering::Relaxed) < ticket;
        let usable = |needs: &usize| *needs <= free;
        self.claimants(worker).filter(older).map(Note::needs).filter(usable).sum()
    }

    fn claimants(&self, except: usize) -> impl Iterator<Item = &Note> {
        let mut left = self.claiming.load(Ordering::Acquire);
        if except < WORKERS_MAX {
            left &= !(1 << except);
        }
        std::iter::from_fn(move || {
            let worker = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(&self.notes[worker])
        })
    }

    /// Wakes the workers with a claim that the buffers that are `free` now can serve, except the one
    /// with this number.
    pub(super) fn wake_claimants(&self, except: usize, free: impl Fn() -> usize) {
        fence(Ordering::SeqCst);
        let free = free();
        for note in self.claimants(except).filter(|note| note.needs() <= free) {
            note.wake();
        }
    }

    /// Whether a connection or service of any worker has waited for at least as long as since
    /// `limit`.
    pub(crate) fn has_waited_since(&self, limit: Time) -> bool {
        let since = |note: &Note| note.waits_since.load(Ordering::Relaxed);
        self.claimants(WORKERS_MAX).any(|note| since(note) <= limit.as_nanos())
    }

    /// Publishes since when the connection of a worker that is to be shed first has not moved.
    pub(crate) fn publish_stall(&self, worker: usize, stall: Option<Stall>) {
        self.notes[worker].stall.store(Stall::pack(stall), Ordering::Relaxed);
    }

    /// The worker with the connection that is to be shed first, and since when that has not moved.
    pub(crate) fn longest_stalled(&self) -> Option<(usize, Stall)> {
        let packed = |note: &Note| note.stall.load(Ordering::Relaxed);
        let (worker, packed) =
            self.notes.iter().map(packed).enumerate().min_by_key(|&(_, packed)| packed)?;
        Some((worker, Stall::unpack(packed)?))
    }

    /// Asks a worker to shed a connection, because `free` buffers are not enough. Does nothing
    /// while an earlier request to this worker is still open.
    pub(crate) fn ask_to_shed(&self, worker: usize, free: usize) {
        let note = &self.notes[worker];
        let (none, asked) = (0, free as u32 + 1);
        if note.asked.compare_exchange(none, asked, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            note.wake();
        }
    }

    /// How many buffers were free when the worker was asked to shed a connection, if it was.
    pub(crate) fn asked_to_shed(&self, worker: usize) -> Option<usize> {
        let asked = self.notes[worker].asked.load(Ordering::Acquire);
        asked.checked_sub(1).map(|free| free as usize)
    }

    /// Records that the request has been carried out, or is no longer needed.
    pub(crate) fn has_shed(&self, worker: usize) {
        self.notes[worker].asked.store(0, Ordering::Release);
    }

    /// Records that the worker has ended.
    pub(crate) fn leave(&self, worker: usize) {
        self.publish(worker, None);
        self.publish_stall(worker, None);
    }
}

impl Note {
    fn needs(&self) -> usize {
        self.needs.load(Ordering::Relaxed) as usize
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    fn claim(ticket: u64, needs: u32) -> Option<Claim> {
        Some(Claim { ticket, since: at(7), needs })
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A board with four workers, and whether each was woken since the last call.
    fn board() -> (Board, impl Fn() -> [bool; 4]) {
        let (board, woken) = (Board::new(), <[Arc<Woken>; 4]>::default());
        for (worker, woken) in woken.iter().enumerate() {
            board.set_waker(worker, Waker::from(woken.clone()));
        }
        let take = move || woken.each_ref().map(|woken| woken.0.swap(false, Ordering::Relaxed));
        (board, take)
    }

    #[test]
    fn a_claim_is_owed_what_it_needs_by_other_workers_that_come_later() {
        let (board, _) = board();
        board.publish(1, claim(5, 2));
        assert_eq!(board.owed(0, 6, 3), 2);
        assert_eq!(board.owed(0, 5, 3), 0, "not behind itself");
        assert_eq!(board.owed(1, 6, 3), 0, "not by the worker itself");
        assert_eq!(board.owed(0, 6, 1), 0, "one is of no use to it");
        board.publish(1, None);
        assert_eq!((board.owed(0, NO_TICKET, 3), board.claiming()), (0, 0));
    }

    #[test]
    fn those_whose_claim_can_be_served_are_woken_and_nobody_else() {
        let (board, woken) = board();
        board.publish(0, claim(1, 1));
        board.publish(1, claim(2, 1));
        board.publish(3, claim(3, 3));
        board.wake_claimants(1, || 2);
        assert_eq!(woken(), [true, false, false, false], "not the worker that gives");
        board.wake_claimants(WORKERS_MAX, || 2);
        assert_eq!(woken(), [true, true, false, false]);
        board.wake_claimants(1, || 3);
        assert_eq!(woken(), [true, false, false, true]);
    }

    #[test]
    fn a_claim_waits_from_its_time_on_until_it_is_withdrawn() {
        let (board, _) = board();
        assert!(!board.has_waited_since(Time::MAX));
        board.publish(2, claim(1, 1));
        assert_eq!([6, 7, 8].map(|time| board.has_waited_since(at(time))), [false, true, true]);
        board.leave(2);
        assert!(!board.has_waited_since(at(8)));
    }

    #[test]
    fn the_longest_stalled_of_all_workers_is_found_and_a_paused_one_after_all_others() {
        let (board, _) = board();
        let [paused, stalled] =
            [true, false].map(|is_paused| move |nanos| Stall { is_paused, since: at(nanos) });
        assert_eq!(board.longest_stalled(), None);
        board.publish_stall(1, Some(stalled(9)));
        board.publish_stall(3, Some(stalled(7)));
        board.publish_stall(2, Some(paused(1)));
        assert_eq!(board.longest_stalled(), Some((3, stalled(7))));
        board.publish_stall(3, None);
        assert_eq!(board.longest_stalled(), Some((1, stalled(9))));
        board.leave(1);
        assert_eq!(board.longest_stalled(), Some((2, paused(1))));
        board.publish_stall(0, Some(stalled(u64::MAX)));
        assert_eq!(board.longest_stalled().map(|(worker, _)| worker), Some(0));
        board.leave(0);
        board.leave(2);
        assert_eq!(board.longest_stalled(), None);
    }

    #[test]
    fn a_worker_is_asked_to_shed_once_until_it_has() {
        let (board, woken) = board();
        for free in [4, 0] {
            assert_eq!(board.asked_to_shed(2), None);
            board.ask_to_shed(2, free);
            assert_eq!(woken(), [false, false, true, false]);
            board.ask_to_shed(2, free + 1);
            assert_eq!(woken(), [false; 4], "it knows");
            assert_eq!((board.asked_to_shed(2), board.asked_to_shed(0)), (Some(free), None));
            board.has_shed(2);
        }
    }
}
