//! From a completion to the connection's next operation: the state machine is told what happened,
//! the service is asked where it has a say, and the machine says what comes next, until it rests.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Budget, Core, is_recv};
use crate::buffer::Chain;
use crate::connection::Context;
use crate::connection::machine::{Action, Event, Phase};
use crate::engine::{Engine, Op, Outcome, Submitted};
use crate::error::{CloseReason, Errno};
use crate::key::{Key, OpKind};
use crate::service::{Answer, Connection, Service};

impl<S: Service> Core<S> {
    /// Takes note of a completion, if there is one, and submits operations until the connection
    /// waits for something. Frees it when it is closed.
    ///
    /// It is a loop: an operation that is done at once does not call back into here, so no chain of
    /// such operations is deeper than this.
    #[inline]
    pub(super) fn drive<E: Engine>(
        &mut self,
        engine: &mut E,
        key: Key,
        completed: Option<(OpKind, Outcome<E::Socket>)>,
    ) {
        let mut budget = Budget::TURN;
        if let Some((op, outcome)) = completed {
            self.completed(engine, key, op, outcome, &mut budget);
        }
        while let Some((kind, op)) = self.next_op(key, &budget) {
            match engine.submit(key, op) {
                Submitted::Ready(outcome) => {
                    self.completed(engine, key, kind, outcome, &mut budget);
                }
                Submitted::Pending if kind == OpKind::Send => self.stall(key),
                Submitted::Pending => {}
            }
        }
        if self.context(key).machine.phase() == Phase::Closed {
            self.free(engine, key);
        }
    }

    /// The context of a connection that is known to be there: each completion belongs to one, since
    /// a slot is freed only when nothing is in flight.
    #[inline]
    pub(super) fn context(&mut self, key: Key) -> &mut Context<S::Session> {
        self.table.get_mut(key).expect("a connection with something in flight has its context")
    }

    /// The operation that the connection needs next.
    #[inline]
    fn next_op(&mut self, key: Key, budget: &Budget) -> Option<(OpKind, Op)> {
        loop {
            let context = self.table.get_mut(key).expect("a connection is driven while it lives");
            return Some(match context.machine.next(!context.output.is_empty()) {
                Action::Recv if budget.is_spent() => {
                    context.machine.apply(Event::Yield);
                    self.yielded.push_back(key.slot());
                    continue;
                }
                Action::Recv => (OpKind::Recv, Op::Recv(context.leases_wanted)),
                Action::Send => (OpKind::Send, Op::Send(context.output.take())),
                Action::Shutdown => (OpKind::Shutdown, Op::Shutdown),
                Action::Cancel => (OpKind::Cancel, Op::Cancel),
                Action::Close => (OpKind::Close, Op::Close),
                Action::Rest => return None,
            });
        }
    }

    #[inline]
    fn completed<E: Engine>(
        &mut self,
        engine: &mut E,
        key: Key,
        op: OpKind,
        outcome: Outcome<E::Socket>,
        budget: &mut Budget,
    ) {
        match outcome {
            Outcome::Received(chain) => {
                budget.spend(chain.len());
                self.received(engine, key, chain);
            }
            Outcome::Sent { bytes, rest } => self.sent(engine, key, bytes, rest),
            other => self.completed_rarely(engine, key, op, other),
        }
    }

    fn completed_rarely<E: Engine>(
        &mut self,
        engine: &mut E,
        key: Key,
        op: OpKind,
        outcome: Outcome<E::Socket>,
    ) {
        match (op, outcome) {
            (OpKind::Recv, Outcome::Ended) => self.peer_closed(engine, key),
            (OpKind::Recv, Outcome::NoBuffer) => self.wait_for_buffer(key),
            (OpKind::Connect, Outcome::Connected) => {
                self.context(key).machine.apply(Event::Connected);
                self.established(engine, key);
            }
            (OpKind::Shutdown, Outcome::Done) => {
                let deadline = self.now + self.rules.linger;
                let context = self.context(key);
                context.machine.apply(Event::ShutDown);
                context.deadline = deadline;
                self.schedule_at(key, deadline);
            }
            (OpKind::Cancel, Outcome::Done) => self.context(key).machine.apply(Event::CancelDone),
            (OpKind::Close, Outcome::Closed { .. }) => {
                self.context(key).machine.apply(Event::Closed);
            }
            (op, Outcome::Cancelled) => self.ended_early(key, op, None),
            (op, Outcome::Failed(error)) => self.ended_early(key, op, Some(error)),
            (op, other) => panic!("{op:?} completed with {other:?}"),
        }
    }

    /// An operation failed or was cancelled.
    fn ended_early(&mut self, key: Key, op: OpKind, error: Option<Errno>) {
        let context = self.context(key);
        if let Some(error) = error {
            context.reason.get_or_insert(CloseReason::of(error));
        }
        if op == OpKind::Connect {
            context.connect_error.get_or_insert(error.unwrap_or(Errno::CANCELED));
        }
        context.machine.apply(match (is_recv(op), error.is_some()) {
            (true, true) => Event::RecvFailed,
            (true, false) => Event::RecvCancelled,
            (false, true) => Event::SendFailed,
            (false, false) => Event::SendCancelled,
        });
    }

    #[inline]
    fn received<E: Engine>(&mut self, engine: &mut E, key: Key, mut chain: Chain) {
        let bytes = chain.len();
        let leases = self.leases_wanted_after(key, bytes);
        let now = self.now;
        let context = self.context(key);
        context.leases_wanted = leases;
        context.active_at = now;
        context.machine.apply(Event::Received);
        if !context.machine.delivers() {
            self.counters.bytes_discarded.add(bytes as u64);
            return;
        }
        context.bytes_received += bytes as u64;
        context.input.absorb(&mut chain);
        self.counters.receives.add(1);
        self.counters.bytes_received.add(bytes as u64);
        self.ask(engine, key, CloseReason::Service, |service, connection, session| {
            service.data(connection, session)
        });
        let most = usize::from(self.rules.leases_per_connection_max);
        if self.context(key).input.leases() > most {
            self.close_now(key, CloseReason::InputLimit);
        }
    }

    /// How many buffers the next receive of a connection may fill: more after a receive that filled
    /// all it was given, fewer after one that needed a quarter of it, and one when buffers are
    /// getting few.
    #[inline]
    fn leases_wanted_after(&mut self, key: Key, bytes: usize) -> u8 {
        let size = self.pool.buffer_size();
        let most = self.rules.leases_per_connection_max;
        let wanted = self.context(key).leases_wanted;
        let room = usize::from(wanted) * size;
        let next = if bytes == room {
            wanted.saturating_mul(2).min(most)
        } else if bytes <= room / 4 {
            (wanted / 2).max(1)
        } else {
            wanted
        };
        if next > 1 && !self.pool.is_plentiful() { 1 } else { next }
    }

    #[inline]
    fn sent<E: Engine>(&mut self, engine: &mut E, key: Key, bytes: usize, mut rest: Chain) {
        let now = self.now;
        self.counters.sends.add(1);
        self.counters.bytes_sent.add(bytes as u64);
        self.unstall(key);
        let context = self.context(key);
        context.active_at = now;
        context.bytes_sent += bytes as u64;
        context.machine.apply(Event::Sent);
        if !rest.is_empty() {
            rest.append(&mut context.output);
            context.output = rest;
        } else if context.output.is_empty() && context.machine.delivers() {
            self.ask(engine, key, CloseReason::Service, |service, connection, session| {
                service.sent(connection, session)
            });
        }
    }

    fn peer_closed<E: Engine>(&mut self, engine: &mut E, key: Key) {
        let context = self.context(key);
        context.machine.apply(Event::Ended);
        if context.machine.delivers() {
            self.ask(engine, key, CloseReason::PeerClosed, |service, connection, session| {
                service.peer_closed(connection, session)
            });
        }
    }

    /// Asks the service, and does what it answers. `reason` is what a close is put down to.
    #[inline]
    pub(super) fn ask<E: Engine>(
        &mut self,
        engine: &E,
        key: Key,
        reason: CloseReason,
        call: impl FnOnce(&mut S, &mut Connection<'_>, &mut S::Session) -> Answer,
    ) {
        let now = if S::FRESH_CLOCK { engine.now() } else { self.now };
        let context = self.table.get_mut(key).expect("a connection is asked about while it lives");
        let mut connection = Connection {
            id: context.id,
            peer: context.peer,
            tag: context.tag,
            now,
            pool: &self.pool,
            input: &mut context.input,
            output: &mut context.output,
        };
        let (service, session) = (&mut self.service, &mut context.session);
        // What the service has half done to its own state is its own business; the connection that
        // it panicked for is closed.
        let answer = catch_unwind(AssertUnwindSafe(|| call(service, &mut connection, session)));
        match answer {
            Ok(Answer::Continue) => {}
            Ok(Answer::WaitUntil(time)) => {
                context.machine.apply(Event::Pause);
                context.deadline = time;
                self.schedule_at(key, time);
            }
            Ok(Answer::CloseAfterSend) => self.finish(key, reason),
            Ok(Answer::Close) => self.close_now(key, reason),
            Err(_) => self.close_now(key, CloseReason::ServicePanic),
        }
    }

    /// Has the connection closed when its output is sent. The connection has to be driven.
    pub(super) fn finish(&mut self, key: Key, reason: CloseReason) {
        let context = self.context(key);
        context.reason.get_or_insert(reason);
        context.machine.apply(Event::Finish);
    }

    /// Has the connection closed at once. The connection has to be driven.
    pub(super) fn close_now(&mut self, key: Key, reason: CloseReason) {
        let context = self.context(key);
        context.reason.get_or_insert(reason);
        context.machine.apply(Event::Abort);
    }

    /// A connection is there, accepted or connected.
    pub(super) fn established<E: Engine>(&mut self, engine: &mut E, key: Key) {
        self.established += 1;
        self.counters.connections.set(self.established);
        if log::log_enabled!(log::Level::Debug) {
            let connections = self.connections();
            let context = self.context(key);
            let (id, peer) = (context.id, context.peer);
            log::debug!("connect id={id} peer={peer} connections={connections}");
        }
        self.schedule(key);
        self.ask(engine, key, CloseReason::Service, |service, connection, session| {
            service.open(connection, session)
        });
    }

    /// Gives a closed connection's slot, buffers and permit back.
    fn free<E: Engine>(&mut self, engine: &E, key: Key) {
        let slot = key.slot();
        self.waiters.remove(slot);
        self.yielded.remove(slot);
        self.unstall(key);
        self.wheel.clear(slot);
        let mut context = self.table.remove(key);
        let now = if S::FRESH_CLOCK { engine.now() } else { self.now };
        let reason = context.reason.unwrap_or(CloseReason::Stopped);
        if context.was_established() {
            self.established -= 1;
            self.counters.connections.set(self.established);
            self.counters.closed[reason as usize].add(1);
        }
        tell_closed(&mut self.service, &self.pool, &mut context, reason, now);
        let closed = context.summary();
        // The permit goes back here: the line below counts without this connection.
        drop(context);
        if let Some(closed) = closed
            && log::log_enabled!(log::Level::Debug)
        {
            log::debug!("disconnect {closed} reason={reason} connections={}", self.connections());
        }
    }

    /// Connections of the whole process, as far as this worker knows.
    fn connections(&self) -> u64 {
        self.permits.as_ref().map_or(self.established, |permits| permits.taken())
    }
}

/// The service's last word on a connection.
fn tell_closed<S: Service>(
    service: &mut S,
    pool: &crate::buffer::Pool,
    context: &mut Context<S::Session>,
    reason: CloseReason,
    now: crate::time::Time,
) {
    let established = context.was_established();
    let (tag, error) = (context.tag, context.connect_error.unwrap_or(Errno::CANCELED));
    let mut connection = Connection {
        id: context.id,
        peer: context.peer,
        tag,
        now,
        pool,
        input: &mut context.input,
        output: &mut context.output,
    };
    let session = &mut context.session;
    // A panic here has nothing left to close.
    let _ = catch_unwind(AssertUnwindSafe(|| match established {
        true => service.closed(&mut connection, session, reason),
        false => service.connect_failed(tag, error, now),
    }));
}
