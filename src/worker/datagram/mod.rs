//! Serves datagrams: one thread for each UDP socket, and one socket for each worker and endpoint.
//!
//! ```text
//! recvmmsg ──► refuse? ──► source rate? ──► service ──► sendmmsg
//!    ▲                (a batch of buffers)                 │
//!    └─────────────────────────────────────────────────────┘
//! ```
//!
//! These threads run beside the workers. A datagram needs nothing of what a worker keeps for a
//! connection: no context, no timer, no place in a queue. So a thread that sleeps in the receive
//! itself is enough, without an event loop: two system calls for each batch. The workers' code does
//! not depend on them, and a flood of datagrams takes no turn from a connection.
//!
//! A batch is what has arrived when the thread wakes, at most [`BATCH`] datagrams, so a reply waits
//! for no later datagram. All memory is allocated before the thread's first receive.
//!
//! * here: start, stop, and the loop
//! * `segments`: when replies to one peer leave as one message
//! * `socket`: what a thread needs of the system, as a seam
//! * `guard`: which datagrams get no reply, so that nobody can use the server to attack another
//! * `failures`: which failed receives are logged
//! * `source_rate`: the limit of each source
//! * `wake`: ends the receives of sockets that another process goes on to use

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::base::time::Time;
use crate::error::Errno;
use crate::net::mmsg::{Arrived, Batch, Sent, Wait};
use crate::service::DatagramService;
use crate::shared::counters::Counters;
use failures::Failures;
use guard::Guard;
use segments::Segments;
pub(crate) use socket::Socket;
pub(crate) use source_rate::SourceRates;
use wake::Threads;

mod failures;
mod guard;
mod segments;
mod socket;
mod source_rate;
#[cfg(test)]
mod tests;
mod wake;

/// The most datagrams of one receive. A batch costs two system calls, so with this many the calls
/// themselves hardly count.
const BATCH: usize = 64;

/// Address space of a thread's stack, in bytes. Its buffers are on the heap.
pub(crate) const STACK_BYTES: usize = 256 << 10;

/// The pause after a receive that failed, so that a socket that always fails does not take a
/// processor.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// What a thread is made of.
pub(crate) struct Setup<S: Socket = OwnedFd> {
    pub(crate) socket: Arc<S>,
    /// Whether the socket was made by this process, so that all that is dropped at it counts.
    pub(crate) is_new: bool,
    /// The port of the socket.
    pub(crate) port: u16,
    /// The longest datagram that gets a reply, in bytes.
    pub(crate) longest: usize,
    /// Whether replies may leave as one message, where the system can.
    pub(crate) segmentation: bool,
    pub(crate) rates: Option<Arc<SourceRates<S::Hasher>>>,
    pub(crate) service: Box<dyn DatagramService + Send>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stopper: Arc<Stopper<S>>,
    pub(crate) busy_poll: bool,
}

/// Memory of a thread, in bytes, with its stack.
pub(crate) fn bytes_each(longest: usize) -> u64 {
    Batch::bytes(BATCH, longest) + STACK_BYTES as u64
}

/// Stops the threads.
pub(crate) struct Stopper<S = OwnedFd> {
    stopped: AtomicBool,
    /// Whether the sockets stay as they are.
    left: AtomicBool,
    /// Whether the threads receive. Before that, the sockets may be another process's.
    begun: Mutex<bool>,
    begins_or_stops: Condvar,
    threads: Threads,
    /// The threads own the sockets, so that these are closed when they end.
    sockets: Vec<Weak<S>>,
}

impl<S> Default for Stopper<S> {
    fn default() -> Stopper<S> {
        Stopper {
            stopped: AtomicBool::default(),
            left: AtomicBool::default(),
            begun: Mutex::default(),
            begins_or_stops: Condvar::default(),
            threads: Threads::default(),
            sockets: Vec::new(),
        }
    }
}

impl<S: Socket> Stopper<S> {
    /// A stopper of the threads that own these sockets. They receive nothing until they
    /// [begin](Stopper::begin).
    pub(crate) fn new(sockets: Vec<Weak<S>>) -> Stopper<S> {
        Stopper { sockets, ..Stopper::default() }
    }

    /// Makes the threads receive, unless they were stopped.
    pub(crate) fn begin(&self) {
        *self.begun() = true;
        self.begins_or_stops.notify_all();
    }

    /// Waits until the threads are to receive, or to end.
    fn wait_to_begin(&self) {
        let waits = |begun: &mut bool| !*begun && !self.has_stopped();
        drop(self.begins_or_stops.wait_while(self.begun(), waits));
    }

    fn begun(&self) -> MutexGuard<'_, bool> {
        // Each change is a single assignment.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all threads end. What waits in their sockets is not read. Threads that have not begun, or
    /// that were to leave the sockets to another process, leave them as they are.
    pub(crate) fn stop(&self) {
        let begun = self.begun();
        self.stopped.store(true, Ordering::Release);
        self.begins_or_stops.notify_all();
        // They are those of the process that these threads take over from, or were left to another.
        if !*begun || self.left.load(Ordering::Acquire) {
            return;
        }
        for socket in self.sockets.iter().filter_map(Weak::upgrade) {
            socket.shut_down();
        }
    }

    /// Makes all threads end, and waits for those that receive. The sockets stay as they are for the
    /// process that has taken them over, which receives what waits in them.
    #[cfg(any(test, feature = "daemon", feature = "sim"))]
    pub(crate) fn leave(&self) {
        let begun = self.begun();
        self.left.store(true, Ordering::Release);
        self.stopped.store(true, Ordering::Release);
        self.begins_or_stops.notify_all();
        drop(begun);
        if !self.threads.wake_until_ended() {
            log::warn!("a thread for datagrams has not ended");
        }
    }

    fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether a receive may have ended because the socket was shut down.
    fn has_shut_down(&self) -> bool {
        self.has_stopped() && !self.left.load(Ordering::Acquire)
    }
}

/// A thread's state.
pub(crate) struct Thread<S: Socket = OwnedFd> {
    setup: Setup<S>,
    batch: Batch,
    guard: Guard,
    /// The kernel's count of dropped datagrams when it was last seen.
    dropped: u32,
    segments: Segments,
    failures: Failures,
}

impl<S: Socket> Thread<S> {
    /// Allocates all that the thread needs.
    pub(crate) fn new(setup: Setup<S>) -> Thread<S> {
        let batch = Batch::new(BATCH, setup.longest);
        let guard = Guard { own_port: setup.port };
        let segments = Segments::new(setup.segmentation && setup.socket.knows_segments());
        Thread { setup, batch, guard, dropped: 0, segments, failures: Failures::default() }
    }

    /// Serves until it is stopped.
    pub(crate) fn run(mut self) {
        let stopper = self.setup.stopper.clone();
        stopper.wait_to_begin();
        let _listed = stopper.threads.enter();
        self.begin();
        while self.turn() {}
        self.end();
    }

    /// Leaves out what the kernel had dropped before, while the socket was another process's.
    pub(crate) fn begin(&mut self) {
        if self.setup.is_new {
            return;
        }
        self.dropped = self.setup.socket.dropped().unwrap_or(0);
    }

    /// Counts what the kernel has dropped since the last datagram.
    pub(crate) fn end(&mut self) {
        if let Some(dropped) = self.setup.socket.dropped() {
            count_dropped(&self.setup.counters, &mut self.dropped, dropped);
        }
    }

    /// Receives a batch and answers it. Returns whether the thread goes on.
    #[inline]
    pub(crate) fn turn(&mut self) -> bool {
        if self.setup.stopper.has_stopped() {
            return false;
        }
        let wait = if self.setup.busy_poll { Wait::No } else { Wait::ForOne };
        match self.batch.receive(&*self.setup.socket, wait) {
            Ok(_) if self.setup.stopper.has_shut_down() => return false,
            Ok(count) => {
                if self.serve(count) == 0 {
                    self.failed(&"another process has shut the socket down");
                    return true;
                }
                self.failures.recovered();
                if self.segments.are_tried() {
                    self.batch.join();
                }
                let sent = self.batch.send(&*self.setup.socket);
                self.segments.have_left(&sent);
                self.count_sent(&sent);
            }
            Err(Errno::AGAIN) if wait == Wait::No => std::hint::spin_loop(),
            Err(Errno::INTR) => {}
            Err(error) => self.failed(&error),
        }
        true
    }

    /// Handles the datagrams of a batch. Returns how many there are. A socket that is shut down fills
    /// the rest of a batch with nothing from nobody.
    fn serve(&mut self, count: usize) -> usize {
        let counters = &self.setup.counters;
        let now = self.setup.rates.as_ref().map_or(Time::ZERO, |_| self.setup.socket.now());
        let mut bytes = 0;
        let mut received = count;
        for at in 0..count {
            let arrived = self.batch.arrived(at);
            bytes += arrived.length as u64;
            if let Some(dropped) = arrived.dropped_before {
                count_dropped(counters, &mut self.dropped, dropped);
            }
            if arrived.is_truncated {
                counters.datagrams_truncated.add(1);
                continue;
            }
            let Some(arrival) = self.guard.accepted(&arrived) else {
                if arrived.source.is_none() && arrived.length == 0 {
                    received = at;
                    break;
                }
                counters.datagrams_refused.add(1);
                continue;
            };
            let rates = self.setup.rates.as_ref();
            if rates.is_some_and(|rates| !rates.take(arrival.source().ip(), now)) {
                counters.datagrams_limited.add(1);
                continue;
            }
            let Arrived { length, local, .. } = arrived;
            let datagram = &mut self.batch.buffer_mut(at)[..length];
            let service = &mut self.setup.service;
            // A panic is logged by its hook. It costs the reply to this datagram, and no more.
            let reply = catch_unwind(AssertUnwindSafe(|| service.reply(datagram, arrival)));
            if let Ok(Some(reply)) = reply {
                self.batch.reply(at, reply.min(length), local);
            }
        }
        if received > 0 {
            counters.receives.add(1);
            counters.datagrams_received.add(received as u64);
            counters.bytes_received.add(bytes);
        }
        received
    }

    fn count_sent(&self, sent: &Sent) {
        let counters = &self.setup.counters;
        counters.sends.add(sent.calls);
        counters.datagrams_sent.add(sent.datagrams);
        counters.bytes_sent.add(sent.bytes);
        counters.datagrams_unsent.add(sent.refused);
    }

    /// Errors of a receive concern earlier sends, or memory, or another process that has the socket
    /// too. The socket stays.
    #[cold]
    fn failed(&mut self, why: &dyn Display) {
        if self.failures.failed(self.setup.socket.now()) {
            log::warn!("cannot receive datagrams at port {}: {why}; trying on", self.setup.port);
        }
        self.setup.socket.pause(ERROR_PAUSE);
    }
}

/// Counts what was dropped since the kernel's count was last `seen`.
fn count_dropped(counters: &Counters, seen: &mut u32, dropped: u32) {
    let more = dropped.wrapping_sub(*seen);
    // A datagram that waited when the thread began knows of fewer.
    if more.cast_signed() > 0 {
        counters.datagrams_dropped.add(more.into());
        *seen = dropped;
    }
}
