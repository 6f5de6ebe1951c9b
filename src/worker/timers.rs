//! Time-outs and the services' timers: what is due next for each connection, and when.
//!
//! A timer fires once the sockets have been looked at since the time it was set for. If the process
//! was stopped or the worker was late, what arrived meanwhile is handled first.

use std::time::Duration;

use super::connection::Context;
use super::connection::machine::{Event, Phase};
use super::layer::Layer;
use super::{Core, Work};
use crate::base::key::Key;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::error::{CloseReason, Errno};
use crate::service::Service;

/// Setting the timers anew after time-outs have changed, in steps.
pub(super) struct Retiming {
    /// The next slot.
    slot: u32,
    /// Whether sends have had no time-out so far: what the peers had acknowledged is not known.
    sends_anew: bool,
}

impl<S: Service, L: Layer> Core<S, L> {
    /// Takes over times that were changed, and sets the timers of connections that may now be due
    /// earlier, as far as the work of this turn allows. Those that are due later find out when they
    /// fire. Returns whether none are left.
    pub(super) fn adopt_times<E: Engine>(&mut self, engine: &E, work: &mut Work) -> bool {
        if let Some(times) = self.mailboxes.take_times(self.index) {
            let begins = self.rules.send_timeout.is_none() && times.send_timeout.is_some();
            let pending = self.retiming.take().is_some_and(|unfinished| unfinished.sends_anew);
            self.rules.set(&times);
            self.supply.set_shed_after(times.shed_after);
            self.retiming = Some(Retiming { slot: 0, sends_anew: begins || pending });
        }
        let Some(Retiming { mut slot, sends_anew }) = self.retiming.take() else { return true };
        while slot < self.table.used() {
            if work.is_spent() {
                self.retiming = Some(Retiming { slot, sends_anew });
                return false;
            }
            work.spend(Work::LOOK);
            if let Some(key) = self.table.key_of(slot) {
                work.spend(Work::LOOK);
                if sends_anew && self.supply.is_stalled(slot) {
                    work.spend(Work::CALL);
                    self.stall_again(engine, key);
                }
                self.schedule(key);
            }
            slot += 1;
        }
        true
    }

    /// Sets the connection's timer for what it now waits for.
    pub(super) fn schedule(&mut self, key: Key) {
        let (due, _) = self.due(key);
        self.schedule_at(key, due);
    }

    pub(super) fn schedule_at(&mut self, key: Key, due: Time) {
        if due != Time::MAX {
            self.wheel.set_earlier(key.slot(), due);
        }
    }

    /// What is due next for a connection, and when; [`Time::MAX`] if nothing.
    ///
    /// Timers are lazy: while bytes move, only `active_at` is updated. When a timer fires, this
    /// tells whether it is due or was postponed.
    fn due(&mut self, key: Key) -> (Time, Due) {
        let stalled = self.supply.is_stalled(key.slot());
        let yielded = self.yielded.contains(key.slot());
        let queued = self.supply.is_waiting(key.slot()) || yielded;
        let (now, send_timeout) = (self.now, self.rules.send_timeout);
        let idle_timeout = self.rules.idle_timeout;
        let context: &Context<S::Session, L::State> = self.context(key);
        let machine = &context.machine;
        let after = |since: Time, span: Option<Duration>| span.map_or(Time::MAX, |s| since + s);
        match machine.phase() {
            Phase::Open if machine.is_connecting() => (context.deadline, Due::Connect),
            Phase::Open => {
                let other = if stalled {
                    (after(context.stalled_since, send_timeout), Due::Send)
                } else if machine.is_paused() || !context.opened {
                    (Time::MAX, Due::Idle)
                } else {
                    // The peer of a queued connection has sent something that this side has not
                    // read yet.
                    let since = if queued { now } else { context.active_at };
                    (after(since, idle_timeout), Due::Idle)
                };
                let timer = if context.opened { Due::Timer } else { Due::Opening };
                // One that goes on in its turn is called then, and not before others for its timer.
                let comes_in_turn = yielded && machine.is_paused() && context.deadline <= now;
                let deadline = if comes_in_turn { Time::MAX } else { context.deadline };
                if deadline < other.0 { (deadline, timer) } else { other }
            }
            Phase::Finishing if stalled => (after(context.stalled_since, send_timeout), Due::Send),
            Phase::Lingering => (context.deadline, Due::Linger),
            Phase::Finishing | Phase::Aborting | Phase::Closing | Phase::Closed => {
                (Time::MAX, Due::Idle)
            }
        }
    }

    #[inline]
    pub(super) fn serve_timers<E: Engine>(&mut self, engine: &mut E) {
        while let Some(slot) = self.wheel.pop(self.looked_at) {
            self.timer_fired(engine, slot);
        }
    }

    #[inline(never)]
    fn timer_fired<E: Engine>(&mut self, engine: &mut E, slot: u32) {
        let key = self.table.key_of(slot).expect("a free slot has no timer");
        let (due, what) = self.due(key);
        if due > self.looked_at {
            self.schedule_at(key, due);
            return;
        }
        match what {
            Due::Connect => {
                self.context(key).connect_error = Some(Errno::TIMEDOUT);
                self.close_now(key, CloseReason::PeerLost);
            }
            Due::Opening => {
                let context = self.table.expect_mut(key);
                let decided = self.layer.decide(&mut context.layer, &mut context.input, &self.pool);
                match decided {
                    // What this side has started and given up is not waited for.
                    Err(reason) if !context.was_accepted() => self.close_now(key, reason),
                    decided => {
                        self.layer_was_called(engine, key, decided);
                        // The timer that has fired may have stood for a later one, of a send.
                        self.schedule(key);
                    }
                }
            }
            Due::Send => self.give_up_sending(engine, key),
            Due::Idle => self.finish(key, CloseReason::IdleTimeout),
            Due::Linger => self.close_now(key, CloseReason::PeerLost),
            Due::Timer => self.timer_came(engine, key),
        }
        // Buffers that it has given up are for those who wait, not for what it still discards.
        self.serve_waiters(engine);
        if self.table.key_of(slot) == Some(key) {
            self.drive(engine, key);
        }
        self.serve_waiters(engine);
    }

    /// A Send has timed out. The timer starts again if the peer has acknowledged bytes since then:
    /// it reads, but not enough for the kernel to accept more.
    pub(super) fn give_up_sending<E: Engine>(&mut self, engine: &E, key: Key) {
        let left = engine.unacknowledged(key);
        let before = std::mem::replace(&mut self.context(key).unacknowledged, left);
        match (before, left) {
            (Some(before), Some(left)) if left < before => {
                self.stall_again(engine, key);
                // The timer that has fired may have stood for a later one, of the service.
                self.schedule(key);
            }
            _ => self.close_now(key, CloseReason::SendTimeout),
        }
    }

    /// The service's timer is due, or the service has requested an earlier call.
    pub(super) fn timer_came<E: Engine>(&mut self, engine: &mut E, key: Key) {
        let now = self.now;
        let context = self.context(key);
        if context.machine.is_paused() {
            // It was not idle: what its peer has sent was not read.
            context.active_at = now;
        }
        // An earlier call ends a pause, but does not use up the timer of a connection that is read.
        if context.machine.is_paused() || context.deadline <= now {
            context.deadline = Time::MAX;
        }
        context.machine.apply(Event::Unpause);
        self.ask(engine, key, CloseReason::Service, |service, connection, session| {
            service.timer(connection, session)
        });
        self.schedule(key);
    }
}

/// What a connection's timer is set for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    /// The connect took too long.
    Connect,
    /// The layer did not find out in time who the peer is.
    Opening,
    /// The peer did not take the output in time.
    Send,
    /// No byte moved for the idle time-out.
    Idle,
    /// The end of lingering.
    Linger,
    /// The service's own timer.
    Timer,
}
