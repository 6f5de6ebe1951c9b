//! The channel from callers' threads to the loop's thread ([`Submission`]): a bounded queue of
//! commands, the free operation and slot numbers, and a way to wake the loop.

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
#[cfg(feature = "tls")]
use super::tls::Servers;
use crate::base::time::Time;
use crate::engine::sys::monotonic_now;
use crate::shared::mailbox::Mailboxes;

/// The source of time for a loop and its callers. The simulated world has its own.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    /// The time of the loop's engine.
    pub(crate) now: fn() -> Time,
    /// The same time as an `Instant`, for users.
    pub(crate) instant: fn() -> Instant,
}

impl Clock {
    /// The system's monotonic clock.
    pub(super) const SYSTEM: Clock = Clock { now: monotonic_now, instant: Instant::now };
}

/// A command for the loop.
pub(crate) enum LoopCommand {
    /// A new client occupies this slot.
    New {
        slot: u32,
        target: Box<Target>,
        options: Box<Options>,
    },
    /// A new operation with a reserved number.
    Submit {
        index: u32,
        op: Box<Op>,
    },
    Cancel {
        index: u32,
        id: u64,
    },
    /// The client's handle was dropped.
    Dropped {
        slot: u32,
    },
    /// Close every connection gracefully, then end.
    End,
}

/// The result of a look-up for a client: addresses in the order of the system's resolver (RFC
/// 6724).
pub(crate) struct Answer {
    pub(crate) slot: u32,
    /// The generation of the client in this slot.
    pub(crate) client: u32,
    pub(crate) addresses: Result<Vec<SocketAddr>, Error>,
}

pub(crate) struct Submission {
    commands: ArrayQueue<LoopCommand>,
    /// Commands that did not fit into the queue and cannot be refused. The queue has room for all
    /// commands that operations can cause. Only cancels from several threads, for operations that
    /// have just completed, can exceed it.
    overflow: Mutex<Vec<LoopCommand>>,
    overflowed: AtomicBool,
    answers: ArrayQueue<Answer>,
    free_ops: ArrayQueue<u32>,
    free_slots: ArrayQueue<u32>,
    next_id: AtomicU64,
    mailboxes: Arc<Mailboxes>,
    clock: Clock,
    /// Whether the loop has been woken and has not yet read its queues.
    notified: AtomicBool,
    ended: AtomicBool,
    loop_thread: OnceLock<ThreadId>,
    /// The servers of the clients that use TLS.
    #[cfg(feature = "tls")]
    pub(super) servers: Servers,
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
        // A submit and two cancels for each operation, and a start and an end for each client.
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
            #[cfg(feature = "tls")]
            servers: Servers::new(clients),
        })
    }

    /// The current time.
    pub(super) fn now(&self) -> Time {
        (self.clock.now)()
    }

    /// The current time, as an `Instant` for users.
    pub(super) fn instant(&self) -> Instant {
        (self.clock.instant)()
    }

    /// Marks the current thread as the loop's thread.
    pub(crate) fn mark_loop_thread(&self) {
        let _ = self.loop_thread.set(thread::current().id());
        completer::enter_loop();
    }

    /// The loop's thread. It is set before any caller has a handle.
    pub(super) fn loop_thread(&self) -> ThreadId {
        *self.loop_thread.get().expect("the loop has started")
    }

    pub(super) fn take_slot(&self) -> Option<u32> {
        self.free_slots.pop()
    }

    pub(super) fn release_slot(&self, slot: u32) {
        let fits = self.free_slots.push(slot);
        assert!(fits.is_ok(), "released a slot that was not taken");
    }

    /// Reserves an operation: its number, and an id that is never used again.
    pub(super) fn take_op(&self) -> Option<(u32, u64)> {
        let index = self.free_ops.pop()?;
        Some((index, self.next_id.fetch_add(1, Ordering::Relaxed)))
    }

    pub(super) fn release_op(&self, index: u32) {
        let fits = self.free_ops.push(index);
        assert!(fits.is_ok(), "released an operation that was not taken");
    }

    /// Queues a command and wakes the loop. If the loop has ended, drops the command, which
    /// completes the operation in it.
    pub(crate) fn push(&self, command: LoopCommand) {
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
        self.push(LoopCommand::Cancel { index, id });
    }

    pub(crate) fn push_answer(&self, answer: Answer) {
        // There is room: each client has at most one look-up in progress.
        let _ = self.answers.push(answer);
        self.notify();
    }

    fn notify(&self) {
        if !self.notified.swap(true, Ordering::SeqCst) {
            self.mailboxes.wake(0);
        }
    }

    /// The loop must call this before it reads its queues.
    pub(super) fn clear_notified(&self) {
        self.notified.store(false, Ordering::SeqCst);
    }

    pub(super) fn next_command(&self) -> Option<LoopCommand> {
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

    /// Number of free slots and of free operations.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn free(&self) -> (usize, usize) {
        (self.free_slots.len(), self.free_ops.len())
    }

    /// Marks the loop as ended: it will not read its queues again.
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
