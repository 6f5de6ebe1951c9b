//! How callers' threads submit work to the loop's thread ([`Submission`]): a bounded queue of
//! commands, the numbers that are free, and a way to wake the loop.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Instant;

use crossbeam_queue::ArrayQueue;

use super::completer;
use super::error::Error;
use super::ops::Op;
use super::options::Options;
use super::target::Target;
use crate::base::time::Time;
use crate::engine::sys::monotonic_now;
use crate::shared::mailbox::Mailboxes;

/// Where a loop and its callers read the time. The simulated world has a clock of its own.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    /// The time that the loop's engine counts in.
    pub(crate) now: fn() -> Time,
    /// The same moment as a time for users.
    pub(crate) instant: fn() -> Instant,
}

impl Clock {
    /// The system's monotonic clock.
    pub(super) const SYSTEM: Clock = Clock { now: monotonic_now, instant: Instant::now };
}

/// What the loop is told.
pub(crate) enum Command {
    /// A new client has this slot.
    New {
        slot: u32,
        target: Box<Target>,
        options: Box<Options>,
    },
    /// An operation, whose number is taken.
    Submit {
        index: u32,
        op: Box<Op>,
    },
    Cancel {
        index: u32,
        id: u64,
    },
    /// The client's handle is gone.
    Dropped {
        slot: u32,
    },
    /// Finish every connection, then end.
    End,
}

/// The names that a client asked for have been looked up: the addresses, in the order of the
/// system's resolver (RFC 6724).
pub(crate) struct Answer {
    pub(crate) slot: u32,
    /// Of which of the clients that had the slot.
    pub(crate) client: u32,
    pub(crate) addresses: Result<Vec<SocketAddr>, Error>,
}

pub(crate) struct Submission {
    commands: ArrayQueue<Command>,
    /// What found no room in the queue and cannot be refused. There is room for all that each
    /// operation can ask for; only cancels of several threads for what has just completed may be
    /// more.
    overflow: Mutex<Vec<Command>>,
    overflowed: AtomicBool,
    answers: ArrayQueue<Answer>,
    free_ops: ArrayQueue<u32>,
    free_slots: ArrayQueue<u32>,
    next_id: AtomicU64,
    mailboxes: Arc<Mailboxes>,
    clock: Clock,
    /// The loop has been woken and has not yet looked.
    notified: AtomicBool,
    ended: AtomicBool,
    loop_thread: OnceLock<ThreadId>,
}

impl Submission {
    pub(crate) fn new(
        clients: u32,
        operations: u32,
        mailboxes: Arc<Mailboxes>,
        clock: Clock,
    ) -> Arc<Submission> {
        let all = |count: u32| {
            let queue = ArrayQueue::new(count as usize);
            (0..count).for_each(|number| queue.push(number).expect("room for all"));
            queue
        };
        // One submit and two cancels for each operation; a begin and an end for each client.
        let commands = operations as usize * 3 + clients as usize * 2 + 1;
        Arc::new(Submission {
            commands: ArrayQueue::new(commands),
            overflow: Mutex::default(),
            overflowed: AtomicBool::new(false),
            answers: ArrayQueue::new(clients as usize),
            free_ops: all(operations),
            free_slots: all(clients),
            next_id: AtomicU64::new(1),
            mailboxes,
            clock,
            notified: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            loop_thread: OnceLock::new(),
        })
    }

    /// The time.
    pub(super) fn now(&self) -> Time {
        (self.clock.now)()
    }

    /// The time, for users.
    pub(super) fn instant(&self) -> Instant {
        (self.clock.instant)()
    }

    /// Says that this is the loop's thread.
    pub(crate) fn mark_loop_thread(&self) {
        let _ = self.loop_thread.set(thread::current().id());
        completer::enter_loop();
    }

    /// The loop's thread, which has begun before anybody has a handle.
    pub(super) fn loop_thread(&self) -> ThreadId {
        *self.loop_thread.get().expect("the loop has begun")
    }

    pub(super) fn take_slot(&self) -> Option<u32> {
        self.free_slots.pop()
    }

    pub(super) fn release_slot(&self, slot: u32) {
        let fits = self.free_slots.push(slot);
        assert!(fits.is_ok(), "a slot came back that was not out");
    }

    /// The right to one more operation: its number, and an id that no other ever has.
    pub(super) fn take_op(&self) -> Option<(u32, u64)> {
        let index = self.free_ops.pop()?;
        Some((index, self.next_id.fetch_add(1, Ordering::Relaxed)))
    }

    pub(super) fn release_op(&self, index: u32) {
        let fits = self.free_ops.push(index);
        assert!(fits.is_ok(), "an operation came back that was not out");
    }

    /// Tells the loop. A command for a loop that has ended is dropped, which completes what is in
    /// it.
    pub(crate) fn push(&self, command: Command) {
        if let Err(command) = self.commands.push(command) {
            let mut overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
            overflow.push(command);
            self.overflowed.store(true, Ordering::SeqCst);
        }
        self.notify();
        if self.ended.load(Ordering::SeqCst) {
            self.drop_commands();
        }
    }

    pub(super) fn cancel(&self, index: u32, id: u64) {
        self.push(Command::Cancel { index, id });
    }

    pub(crate) fn push_answer(&self, answer: Answer) {
        // There is room for one from each client, and each asks for one at a time.
        let _ = self.answers.push(answer);
        self.notify();
    }

    fn notify(&self) {
        if !self.notified.swap(true, Ordering::SeqCst) {
            self.mailboxes.wake(0);
        }
    }

    /// To be called by the loop before it looks at what it was told.
    pub(super) fn clear_notified(&self) {
        self.notified.store(false, Ordering::SeqCst);
    }

    pub(super) fn next_command(&self) -> Option<Command> {
        self.commands.pop().or_else(|| {
            if !self.overflowed.load(Ordering::SeqCst) {
                return None;
            }
            let mut overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
            let command = overflow.pop();
            self.overflowed.store(!overflow.is_empty(), Ordering::SeqCst);
            command
        })
    }

    pub(super) fn next_answer(&self) -> Option<Answer> {
        self.answers.pop()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// How many slots of clients and numbers of operations are free.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn free(&self) -> (usize, usize) {
        (self.free_slots.len(), self.free_ops.len())
    }

    /// The loop is over: nobody will ever look again.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.drop_commands();
        if self.loop_thread.get() == Some(&thread::current().id()) {
            completer::run_all_deferred();
        }
    }

    fn drop_commands(&self) {
        while self.next_command().is_some() {}
    }
}
