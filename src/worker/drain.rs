//! Drain and stop.
//!
//! A drain first accepts the connections in the backlog (closing a listener would reset them), then
//! closes the listeners, then finishes every connection: sends what it has read, sends FIN,
//! lingers. Bytes that a client sends after that are read and discarded, so that no reset overtakes
//! the FIN. A listener whose clients wait for a permit or a descriptor stays open until they are
//! accepted, as connections end, or until the deadline. A socket that another process keeps open is
//! closed at once: what waits in its backlog is for that process, or for the next one.
//!
//! A worker whose process was replaced *retires*: it closes the listeners as for a drain, and serves
//! its connections until they end. A drain may follow.

use super::Core;
use super::accept::Listener;
use super::handover::Handover;
use super::layer::Layer;
use crate::base::key::Key;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::error::CloseReason;
use crate::service::Service;
use crate::shared::mailbox::EndOrder;

/// The most turns in which a drain, or a listener that is removed, still accepts. Each accepts up to
/// 64 connections from each listener, so this covers any backlog. A flood of connects cannot extend it.
pub(super) const ACCEPTING_TURNS: u32 = 1100;

/// The most connections that a worker accepts while its drain finishes connections: as many as the
/// longest backlog holds. A flood of connects cannot extend the drain to its deadline.
const LATE_ACCEPTS_MAX: u32 = 1 << 16;

/// A drain in progress.
pub(super) struct Drain {
    /// When the remaining connections are closed. `Time::MAX` if the worker retires.
    pub(super) deadline: Time,
    /// When the next turn has to start for the drain.
    pub(super) wakes_at: Time,
    /// Whether the connections are served until they end, or move to another process.
    retires: bool,
    step: DrainStep,
    /// How many more connections may be accepted while connections are finished.
    late_accepts_left: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DrainStep {
    /// Accepting the backlog, for at most this many more turns.
    Accepting(u32),
    /// The connections are being finished, and the listeners closed once nobody waits for a permit.
    Finishing,
}

impl<S: Service, L: Layer> Core<S, L> {
    /// Begins to end if that was ordered.
    pub(super) fn begin_to_end<E: Engine>(&mut self, engine: &mut E) {
        match self.mailboxes.ordered_end(self.index) {
            None if self.mailboxes.retires() => self.begin_drain(engine, Time::MAX, true),
            None => {}
            Some(EndOrder::Stop) => self.stop(engine),
            Some(EndOrder::Drain { deadline }) => self.begin_drain(engine, deadline, false),
        }
    }

    /// Begins a drain, or to retire. A drain that has begun gets the deadline.
    fn begin_drain<E: Engine>(&mut self, engine: &mut E, deadline: Time, retires: bool) {
        match &mut self.drain {
            Some(drain) if drain.retires == retires => {
                if drain.deadline != deadline {
                    (drain.deadline, drain.wakes_at) = (deadline, deadline);
                }
            }
            _ => {
                let successor = self.mailboxes.take_successor(self.index).filter(|_| retires);
                self.handover = successor.map(Handover::to);
                self.close_kept_listeners(engine);
                let step = DrainStep::Accepting(ACCEPTING_TURNS);
                let late_accepts_left = LATE_ACCEPTS_MAX;
                let wakes_at = deadline;
                self.drain = Some(Drain { deadline, wakes_at, retires, step, late_accepts_left });
            }
        }
    }

    /// Leaves the connections in the backlogs of sockets that another process keeps open to it.
    fn close_kept_listeners<E: Engine>(&mut self, engine: &mut E) {
        for index in 0..self.listeners.len() {
            if self.listeners[index].is_kept_open() {
                self.close_listener(engine, index);
            }
        }
    }

    #[inline]
    pub(super) fn drain_wants_a_turn(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| {
            drain.step != DrainStep::Finishing || self.listeners.iter().any(Listener::is_settling)
        })
    }

    /// Advances the drain, if there is one.
    #[inline]
    pub(super) fn drain_step<E: Engine>(&mut self, engine: &mut E) {
        if let Some(Drain { deadline, step, .. }) = self.drain {
            self.drain_from(engine, deadline, step);
        }
    }

    #[cold]
    fn drain_from<E: Engine>(&mut self, engine: &mut E, deadline: Time, step: DrainStep) {
        match step {
            // The first turn has not waited since the command arrived: connections may have arrived
            // with it.
            DrainStep::Accepting(left)
                if left == ACCEPTING_TURNS
                    || (left > 0 && deadline > self.now && self.listeners_want_a_turn()) =>
            {
                self.set_step(DrainStep::Accepting(left - 1));
            }
            DrainStep::Accepting(_) => {
                self.set_step(DrainStep::Finishing);
                self.close_listeners_without_clients(engine);
                if self.drains() {
                    self.each_connection(engine, |core, engine, key| {
                        core.finish_draining(engine, key);
                        core.drive(engine, key);
                    });
                } else {
                    self.set_wakes_at(Time::ZERO);
                }
                // It may want its next turn earlier than it said in this one.
                self.service_turn = Some(self.now);
            }
            DrainStep::Finishing if deadline <= self.looked_at && !self.stopping => {
                self.stop(engine);
            }
            DrainStep::Finishing => {
                self.close_listeners_without_clients(engine);
                let moves = |drain: &Drain| drain.retires && drain.wakes_at <= self.now;
                if self.drain.as_ref().is_some_and(moves) {
                    let again = self.hand_over_some(engine);
                    self.serve_waiters(engine);
                    self.set_wakes_at(again);
                    // It may have been called since its turn, for connections that stay.
                    self.service_turn = Some(self.now);
                }
            }
        }
    }

    fn set_wakes_at(&mut self, at: Time) {
        if let Some(drain) = &mut self.drain {
            drain.wakes_at = at;
        }
    }

    /// Closes the listeners at which no client waits for a permit or a descriptor.
    fn close_listeners_without_clients<E: Engine>(&mut self, engine: &mut E) {
        let enough = self.drain.as_ref().is_none_or(|drain| drain.late_accepts_left == 0);
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if enough || !(listener.has_clients_waiting() || listener.is_settling()) {
                self.close_listener(engine, index);
            } else {
                listener.settle();
            }
        }
    }

    /// Counts a connection that was accepted while the drain finishes connections.
    pub(super) fn accepted_late(&mut self) {
        if let Some(drain) = &mut self.drain {
            drain.late_accepts_left = drain.late_accepts_left.saturating_sub(1);
        }
    }

    /// Closes the connection once its service owes the client nothing more.
    fn finish_draining<E: Engine>(&mut self, engine: &mut E, key: Key) {
        let context = self.table.expect_mut(key);
        if !L::IS_PLAIN
            && !context.opened
            && context.machine.delivers()
            && !context.machine.is_connecting()
            && let Ok(bytes) = self.layer.decide(&mut context.layer, &mut context.input, &self.pool)
        {
            // What was read is served before the end.
            self.layer_was_called(engine, key, Ok(bytes));
        }
        if self.context(key).is_open() {
            self.ask(engine, key, CloseReason::Drained, |service, connection, session| {
                service.draining(connection, session)
            });
        } else {
            self.finish(key, CloseReason::Drained);
        }
    }

    /// Why a connection that is accepted now is closed: the worker stops, or its drain has begun to
    /// finish connections. `None` otherwise.
    pub(super) fn ending(&self) -> Option<CloseReason> {
        match &self.drain {
            _ if self.stopping => Some(CloseReason::Stopped),
            Some(drain) if drain.step == DrainStep::Finishing && !drain.retires => {
                Some(CloseReason::Drained)
            }
            _ => None,
        }
    }

    /// Whether a drain finishes the connections, or will.
    pub(super) fn drains(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| !drain.retires)
    }

    fn set_step(&mut self, step: DrainStep) {
        if let Some(drain) = &mut self.drain {
            drain.step = step;
        }
    }

    /// Closes everything at once.
    #[cold]
    pub(super) fn stop<E: Engine>(&mut self, engine: &mut E) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        for index in 0..self.listeners.len() {
            self.close_listener(engine, index);
        }
        self.each_connection(engine, |core, engine, key| {
            core.close_now(key, CloseReason::Stopped);
            core.drive(engine, key);
        });
    }

    pub(super) fn each_connection<E: Engine>(
        &mut self,
        engine: &mut E,
        mut act: impl FnMut(&mut Core<S, L>, &mut E, Key),
    ) {
        for slot in 0..self.table.used() {
            if let Some(key) = self.table.key_of(slot) {
                act(self, engine, key);
            }
        }
        self.serve_waiters(engine);
    }

    /// Whether the worker has nothing left to do, ever.
    pub(super) fn is_finished(&self) -> bool {
        let finishes = |drain: &Drain| drain.step == DrainStep::Finishing;
        (self.stopping || self.drain.as_ref().is_some_and(finishes))
            && self.table.is_empty()
            && self.listeners_are_closed()
    }
}
