//! A bounded inbox and a waker for each worker. Not used on the data path.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::examination::Examination;
use super::moved::{Moved, Passed, Successor};
use super::receipt::{Mail, Receipt};
use crate::base::key::ConnectionId;
use crate::base::sync::{ArrayQueue, AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use crate::base::time::Time;
use crate::buffer::{Lease, Parcel, Pool};
use crate::net::bind::Listening;

/// Capacity of an inbox. The commands are held back by their senders if the inbox is full (messages
/// and parcels), or sent again. An [`EndOrder`] does not go through the inbox.
const INBOX_SIZE: usize = 256;

/// A command for a worker.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum WorkerCommand {
    /// Return free buffers to the reserve: a thread without a pool needs one.
    GiveBuffers,
    /// Deliver a parcel to the service of a listener, from its copy on another worker.
    Parcel {
        /// The index of the listener.
        listener: usize,
        /// The parcel.
        parcel: Parcel,
    },
    /// Send a message to a client, or to all clients of the worker.
    Message(Mail),
    /// Deliver messages from the service of another worker to clients of this one.
    Messages {
        /// The other worker.
        from: usize,
        /// The messages, one after the other.
        parcel: Parcel,
    },
    /// Close a client's connection when its output is sent.
    Disconnect {
        /// The client's id.
        id: ConnectionId,
        /// Reports the result.
        receipt: Receipt,
    },
    /// Go on with a connection of another process.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for the daemon"))]
    GoOnWith(Box<Moved>),
    /// Watch further listeners. They are stopped, and accept nothing before they are started.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for the daemon"))]
    AddListeners {
        /// The listeners.
        listeners: Vec<Listening<Passed>>,
        /// Counts those that the worker watches.
        receipt: Receipt,
    },
    /// Accept what waits at the listeners with these numbers, and close them.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for the daemon"))]
    CloseListeners {
        /// Their numbers.
        numbers: Vec<usize>,
        /// Reports that all of them are closed, by counting once.
        receipt: Receipt,
    },
    /// Tell what the worker knows of some connections.
    #[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin address"))]
    Examine {
        /// The connections.
        examination: Arc<Examination>,
        /// Reports that it is done.
        receipt: Receipt,
    },
}

/// How a worker is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EndOrder {
    /// Accept the waiting connections, close the listeners, finish every connection. At the
    /// deadline, close the remaining ones.
    Drain {
        /// When to give up.
        deadline: Time,
    },
    /// Close everything now.
    Stop,
}

/// The times of a worker that can be changed while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WorkerTimes {
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) shed_after: Option<Duration>,
    pub(crate) linger: Duration,
}

/// The inboxes and wakers of all workers.
pub struct Mailboxes {
    mailboxes: Box<[Mailbox]>,
    /// Number of parcels with services' messages in transit, from each worker to each.
    messages_on_the_way: Box<[AtomicU32]>,
    /// The listeners that are to accept nothing, and how often that has changed.
    stopped: Mutex<BTreeSet<usize>>,
    stop_changes: AtomicU64,
    /// Whether another process has replaced this one.
    retires: AtomicBool,
    /// What takes over the connections of each worker that retires.
    successors: Mutex<Vec<Option<Box<dyn Successor>>>>,
}

/// Sends buffers from the service on one worker to its copies on the others. Each buffer is
/// delivered with [`Service::parcel`](crate::service::Service::parcel).
///
/// Other commands share the inboxes. A service should therefore have few buffers in transit to a
/// worker at once, and keep the buffers that come back.
#[derive(Clone)]
pub struct Parcels {
    listener: usize,
    pool: Pool,
    mailboxes: Arc<Mailboxes>,
}

impl Parcels {
    pub(crate) fn new(listener: usize, pool: &Pool, mailboxes: &Arc<Mailboxes>) -> Parcels {
        Parcels { listener, pool: pool.clone(), mailboxes: mailboxes.clone() }
    }

    /// Sends a buffer to the service on the worker with this number, without waiting. If that
    /// worker has ended, the buffer is dropped.
    ///
    /// # Errors
    /// The worker's inbox is full. The error contains the buffer.
    pub fn send(&self, worker: usize, lease: Lease) -> Result<(), Lease> {
        let command =
            WorkerCommand::Parcel { listener: self.listener, parcel: lease.into_parcel() };
        match self.mailboxes.send(worker, command) {
            Err(WorkerCommand::Parcel { parcel, .. }) => Err(parcel.into_lease(&self.pool)),
            _ => Ok(()),
        }
    }

    /// Whether the worker has ended: its clients are gone, and it receives nothing more.
    pub fn has_ended(&self, worker: usize) -> bool {
        self.mailboxes.is_closed(worker)
    }

    /// Wakes the worker, which then calls [`Service::turn`](crate::service::Service::turn).
    pub fn wake(&self, worker: usize) {
        self.mailboxes.wake(worker);
    }
}

struct Mailbox {
    inbox: ArrayQueue<WorkerCommand>,
    /// Whether there may be a command in the inbox, or an order to end that the worker has not seen.
    mail: AtomicBool,
    /// The earliest end that was ordered: the deadline of a drain in nanoseconds, [`STOP`] or
    /// [`NO_END`]. It is not in the inbox, where it would wait behind all earlier commands.
    end: AtomicU64,
    /// Times that the worker has not taken over yet. They are not in the inbox either, so that they
    /// never have to wait for room in it.
    times: Mutex<Option<WorkerTimes>>,
    has_times: AtomicBool,
    waker: OnceLock<Waker>,
    /// How often the worker has looked into its inbox. It does so once in each turn of its loop that
    /// begins with a notice.
    looks: AtomicU64,
    /// The worker has ended and no longer empties the inbox.
    closed: AtomicBool,
}

const STOP: u64 = 0;
const NO_END: u64 = u64::MAX;

impl Mailboxes {
    pub(crate) fn new(workers: usize) -> Mailboxes {
        Mailboxes::with_room(workers, INBOX_SIZE)
    }

    /// The same with an inbox capacity of `room` commands.
    pub(crate) fn with_room(workers: usize, room: usize) -> Mailboxes {
        let mailbox = || Mailbox {
            inbox: ArrayQueue::new(room),
            mail: AtomicBool::new(false),
            end: AtomicU64::new(NO_END),
            times: Mutex::new(None),
            has_times: AtomicBool::new(false),
            waker: OnceLock::new(),
            looks: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        };
        Mailboxes {
            mailboxes: (0..workers).map(|_| mailbox()).collect(),
            messages_on_the_way: (0..workers * workers).map(|_| AtomicU32::new(0)).collect(),
            stopped: Mutex::default(),
            stop_changes: AtomicU64::new(0),
            retires: AtomicBool::new(false),
            successors: Mutex::default(),
        }
    }

    /// Sets the waker of `worker`.
    pub(crate) fn set_waker(&self, worker: usize, waker: Waker) {
        let fresh = self.mailboxes[worker].waker.set(waker);
        assert!(fresh.is_ok(), "a worker has one waker");
    }

    /// Wakes a worker, if it has started.
    pub(crate) fn wake(&self, worker: usize) {
        if let Some(waker) = self.mailboxes[worker].waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Wakes all workers but one.
    pub(crate) fn wake_others(&self, worker: usize) {
        (0..self.mailboxes.len()).filter(|&other| other != worker).for_each(|w| self.wake(w));
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    /// Puts a command into a worker's inbox and wakes the worker. Returns the command as the error
    /// if the inbox is full. Drops it if the worker has ended.
    pub(crate) fn send(&self, worker: usize, command: WorkerCommand) -> Result<(), WorkerCommand> {
        let mailbox = &self.mailboxes[worker];
        if mailbox.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        mailbox.inbox.push(command)?;
        // The worker may have ended in between. Either `close` sees the command, or this thread
        // sees that it has closed.
        fence(Ordering::SeqCst);
        if mailbox.closed.load(Ordering::Relaxed) {
            while mailbox.inbox.pop().is_some() {}
            return Ok(());
        }
        self.notify(worker);
        Ok(())
    }

    /// Orders a worker to end. If several ends are ordered, the earliest counts.
    pub(crate) fn order_end(&self, worker: usize, order: EndOrder) {
        let nanos = match order {
            EndOrder::Drain { deadline } => deadline.as_nanos().clamp(STOP + 1, NO_END - 1),
            EndOrder::Stop => STOP,
        };
        self.mailboxes[worker].end.fetch_min(nanos, Ordering::Relaxed);
        self.notify(worker);
    }

    /// Returns how the worker is to end, if an end was ordered.
    pub(crate) fn ordered_end(&self, worker: usize) -> Option<EndOrder> {
        match self.mailboxes[worker].end.load(Ordering::Relaxed) {
            NO_END => None,
            STOP => Some(EndOrder::Stop),
            nanos => Some(EndOrder::Drain { deadline: Time::from_nanos(nanos) }),
        }
    }

    /// Orders each worker to retire: to close its listeners, and to end when its connections have
    /// ended. An [`EndOrder`] precedes. The workers, in their order, first offer their connections to
    /// these successors.
    #[cfg_attr(not(any(test, feature = "daemon")), allow(dead_code, reason = "for the daemon"))]
    pub(crate) fn retire(&self, successors: Vec<Box<dyn Successor>>) {
        let successors = successors.into_iter().map(Some).collect();
        *self.successors.lock().unwrap_or_else(PoisonError::into_inner) = successors;
        self.retires.store(true, Ordering::Relaxed);
        (0..self.workers()).for_each(|worker| self.notify(worker));
    }

    /// What takes over the connections of this worker. The first call returns it.
    pub(crate) fn take_successor(&self, worker: usize) -> Option<Box<dyn Successor>> {
        let mut successors = self.successors.lock().unwrap_or_else(PoisonError::into_inner);
        successors.get_mut(worker)?.take()
    }

    /// Whether the workers are to retire.
    pub(crate) fn retires(&self) -> bool {
        self.retires.load(Ordering::Relaxed)
    }

    /// Sets the times of each worker. Of several, the last ones count.
    pub(crate) fn set_times(&self, times: WorkerTimes) {
        for (worker, mailbox) in self.mailboxes.iter().enumerate() {
            *mailbox.times.lock().unwrap_or_else(PoisonError::into_inner) = Some(times);
            mailbox.has_times.store(true, Ordering::Release);
            self.notify(worker);
        }
    }

    /// Takes the times that were set since the last call.
    pub(crate) fn take_times(&self, worker: usize) -> Option<WorkerTimes> {
        let mailbox = &self.mailboxes[worker];
        if !mailbox.has_times.load(Ordering::Relaxed) {
            return None;
        }
        // Before the times: those that are set after this are announced again.
        mailbox.has_times.swap(false, Ordering::AcqRel);
        mailbox.times.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sets whether the listener with this number accepts connections, on every worker.
    #[cfg_attr(
        not(any(test, feature = "admin")),
        allow(dead_code, reason = "for the admin address")
    )]
    pub(crate) fn set_accepting(&self, listener: usize, accepts: bool) {
        let mut stopped = self.stopped();
        let changes = match accepts {
            true => stopped.remove(&listener),
            false => stopped.insert(listener),
        };
        drop(stopped);
        if changes {
            self.stop_changes.fetch_add(1, Ordering::Release);
        }
        (0..self.workers()).for_each(|worker| self.notify(worker));
    }

    /// The listeners that are to accept nothing.
    pub(crate) fn stopped(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the set of [`stopped`](Mailboxes::stopped) listeners has changed.
    pub(crate) fn stop_changes(&self) -> u64 {
        self.stop_changes.load(Ordering::Acquire)
    }

    /// Makes the worker look into its inbox in its next turn, which begins at once.
    pub(crate) fn notify(&self, worker: usize) {
        // Not a store, which would hide what another sender has released before it: the worker
        // takes back the notices of all senders at once.
        self.mailboxes[worker].mail.swap(true, Ordering::Release);
        self.wake(worker);
    }

    /// Sends a buffer with messages to a worker. Returns the buffer as the error if `most` are
    /// already in transit, or the inbox is full. Drops it if the worker has ended.
    pub(crate) fn send_messages(
        &self,
        from: usize,
        to: usize,
        lease: Lease,
        pool: &Pool,
        most: u32,
    ) -> Result<(), Lease> {
        let on_the_way = self.messages_on_the_way(from, to);
        if self.is_closed(to) {
            return Ok(());
        }
        if on_the_way.load(Ordering::Acquire) >= most {
            return Err(lease);
        }
        on_the_way.fetch_add(1, Ordering::AcqRel);
        match self.send(to, WorkerCommand::Messages { from, parcel: lease.into_parcel() }) {
            Err(WorkerCommand::Messages { parcel, .. }) => {
                on_the_way.fetch_sub(1, Ordering::AcqRel);
                Err(parcel.into_lease(pool))
            }
            _ => Ok(()),
        }
    }

    /// Records that messages have been delivered, so that the worker `from` may send more.
    pub(crate) fn messages_delivered(&self, from: usize, to: usize, most: u32) {
        if self.messages_on_the_way(from, to).fetch_sub(1, Ordering::AcqRel) == most {
            self.wake(from);
        }
    }

    fn messages_on_the_way(&self, from: usize, to: usize) -> &AtomicU32 {
        &self.messages_on_the_way[from * self.mailboxes.len() + to]
    }

    /// Marks a worker as ended, drops the commands in its inbox, and wakes the other workers, which
    /// may wait for room in it.
    pub(crate) fn close(&self, worker: usize) {
        self.mailboxes[worker].closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while self.receive(worker).is_some() {}
        self.wake_others(worker);
    }

    /// Whether a worker has ended.
    pub(crate) fn is_closed(&self, worker: usize) -> bool {
        self.mailboxes[worker].closed.load(Ordering::Relaxed)
    }

    /// Whether there may be a command for a worker, or an order to end that it has not seen.
    #[inline]
    pub(crate) fn has_mail(&self, worker: usize) -> bool {
        self.mailboxes[worker].mail.load(Ordering::Relaxed)
    }

    /// How many commands there are for a worker.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn count(&self, worker: usize) -> usize {
        self.mailboxes[worker].inbox.len()
    }

    /// Whether a worker's inbox has no room.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_full(&self, worker: usize) -> bool {
        self.mailboxes[worker].inbox.is_full()
    }

    /// Records that the worker looks into its inbox now. Returns how many commands there are.
    /// Commands that come later [notify](Mailboxes::notify) the worker again.
    pub(crate) fn open(&self, worker: usize) -> usize {
        let mailbox = &self.mailboxes[worker];
        // Acquire: the worker sees each command or order whose notice this call takes back.
        mailbox.mail.swap(false, Ordering::Acquire);
        mailbox.looks.fetch_add(1, Ordering::Relaxed);
        mailbox.inbox.len()
    }

    /// How often a worker has looked into its inbox. After [`notify`](Mailboxes::notify) the number
    /// grows as soon as the worker's loop turns.
    #[cfg(feature = "admin")]
    pub(crate) fn looks(&self, worker: usize) -> u64 {
        self.mailboxes[worker].looks.load(Ordering::Relaxed)
    }

    /// The next command for a worker.
    pub(crate) fn receive(&self, worker: usize) -> Option<WorkerCommand> {
        self.mailboxes[worker].inbox.pop()
    }
}

#[cfg(test)]
mod tests {
    use std::hint;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    #[test]
    fn no_command_stays_in_a_mailbox_that_closes_while_it_is_sent() {
        const ROUNDS: usize = 2_000;
        let all: Vec<_> = (0..ROUNDS).map(|_| Mailboxes::with_room(1, 1)).collect();
        let arrived = AtomicUsize::new(0);
        // Both threads begin each round at the same moment, as nearly as possible.
        let meet = |round: usize| {
            arrived.fetch_add(1, Ordering::SeqCst);
            let mut spins = 0;
            while arrived.load(Ordering::SeqCst) < 2 * (round + 1) {
                spins += 1;
                if spins < 1000 { hint::spin_loop() } else { thread::yield_now() }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                for (round, mailboxes) in all.iter().enumerate() {
                    meet(round);
                    while !mailboxes.is_closed(0) {
                        // A full inbox returns it.
                        let _ = mailboxes.send(0, WorkerCommand::GiveBuffers);
                    }
                }
            });
            for (round, mailboxes) in all.iter().enumerate() {
                meet(round);
                (0..round % 32).for_each(|_| hint::spin_loop());
                mailboxes.close(0);
            }
        });
        let left = all.iter().filter(|mailboxes| mailboxes.receive(0).is_some()).count();
        assert_eq!(left, 0, "commands that nobody will ever receive");
    }
}
