//! How the daemon ends: the delay before a drain, the drain with its progress, the stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{report, spawn, systemd};
use crate::admin::Admin;
use crate::server::ServerHandle;

/// Drain time-out when the parent process is gone. Most likely its clients are gone too.
const ORPHAN_DRAIN: Duration = Duration::from_secs(1);

/// Time before the first line about the progress of a drain. That between two lines doubles.
const PROGRESS: Duration = Duration::from_secs(1);

/// The server, and whether it was told to stop.
pub(super) struct Ending {
    pub(super) server: ServerHandle,
    pub(super) admin: Option<Admin>,
    begun: AtomicBool,
    /// Locked from the moment at which another process is told to go until this one has left the
    /// sockets to it, which takes seconds at most. A drain in between would end what the other one
    /// has already.
    hands_over: Mutex<()>,
    times: Mutex<EndTimes>,
}

/// The times of a drain and of an upgrade.
#[derive(Clone, Copy)]
pub(super) struct EndTimes {
    pub(super) delay: Duration,
    pub(super) timeout: Duration,
    /// How long a process that is to replace this one has to become ready.
    pub(super) upgrade: Duration,
}

impl Ending {
    pub(super) fn new(server: ServerHandle, admin: Option<Admin>, times: EndTimes) -> Ending {
        let (begun, hands_over) = (AtomicBool::new(false), Mutex::default());
        Ending { server, admin, begun, hands_over, times: Mutex::new(times) }
    }

    /// Changes the times of a drain or an upgrade that has not begun.
    pub(super) fn set_times(&self, times: EndTimes) {
        *self.times() = times;
    }

    /// How long a process that is to replace this one has to become ready.
    pub(super) fn upgrade_timeout(&self) -> Duration {
        self.times().upgrade
    }

    /// Whether the server was told to stop.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Lets a server accept that was started to accept nothing, except these of its listeners.
    pub(super) fn begin_accepting(&self, except: &[usize]) {
        self.server.begin_accepting(except);
        if let Some(admin) = &self.admin {
            admin.begin_accepting();
        }
    }

    /// Keeps an end from beginning. `None` if it has begun.
    pub(super) fn postpone(&self) -> Option<MutexGuard<'_, ()>> {
        let guard = self.hands_over.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.has_begun()).then_some(guard)
    }

    /// Returns whether this is the first call.
    fn begin_once(&self) -> bool {
        let _guard = self.hands_over.lock().unwrap_or_else(PoisonError::into_inner);
        !self.begun.swap(true, Ordering::AcqRel)
    }

    fn times(&self) -> MutexGuard<'_, EndTimes> {
        // Each change is a single assignment.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drains soon, unless a drain has begun. After the time it stops in any case: a drain that a
    /// signal has begun may have a longer time-out.
    pub(super) fn orphaned(&self) {
        if self.begin_once() {
            systemd::stopping("standard input has ended: draining");
            log::info!("standard input has ended: draining, {ORPHAN_DRAIN:?} at most");
            self.server.begin_drain(ORPHAN_DRAIN);
        }
        thread::sleep(ORPHAN_DRAIN);
        self.server.stop();
    }

    /// The first call drains, after the delay. The second call stops at once.
    pub(super) fn next(self: &Arc<Ending>, why: &str) {
        if !self.begin(why) {
            log::warn!("{why}: stopping at once");
            self.server.stop();
        }
    }

    /// Drains, after the delay. Returns whether nothing has begun a drain before.
    pub(super) fn begin(self: &Arc<Ending>, why: &str) -> bool {
        let is_first = self.begin_once();
        if is_first {
            self.drain_after_delay(why);
        }
        is_first
    }

    fn drain_after_delay(self: &Arc<Ending>, why: &str) {
        let EndTimes { delay: drain_delay, timeout: drain_timeout, .. } = *self.times();
        systemd::stopping(&format!(
            "{why}: draining, {:?} at most",
            drain_delay.saturating_add(drain_timeout)
        ));
        if let Some(admin) = &self.admin {
            admin.withdraw();
        }
        if !drain_delay.is_zero() {
            log::info!("{why}: no longer ready, draining in {drain_delay:?}");
            let ending = Arc::clone(self);
            let drain = move || {
                thread::sleep(drain_delay);
                log::info!("draining, {drain_timeout:?} at most");
                ending.server.begin_drain(drain_timeout);
                ending.tell_progress();
            };
            match spawn("drain", drain) {
                Ok(()) => return,
                Err(failure) => log::warn!("{}; draining at once", failure.text),
            }
        }
        log::info!("{why}: draining, {drain_timeout:?} at most");
        self.server.begin_drain(drain_timeout);
        let ending = Arc::clone(self);
        if let Err(failure) = spawn("drain", move || ending.tell_progress()) {
            log::warn!("{}; the drain continues", failure.text);
        }
    }

    /// Logs now and then who is still there, until nobody is.
    fn tell_progress(&self) {
        let (begun, mut pause) = (Instant::now(), PROGRESS);
        thread::sleep(pause);
        while report::draining(&self.server, begun.elapsed()) {
            pause = pause.saturating_mul(2);
            thread::sleep(pause);
        }
    }
}
