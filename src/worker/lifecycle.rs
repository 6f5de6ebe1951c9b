//! A connection's life: established, opened, finished or closed at once, freed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Core;
use super::connection::Context;
use super::connection::machine::Event;
use super::layer::Layer;
use crate::base::handshake::{Handshake, HandshakeError};
use crate::base::key::{ConnectionId, Key};
use crate::base::time::Time;
use crate::buffer::Pool;
use crate::engine::Engine;
use crate::error::{CloseReason, Errno};
use crate::service::messenger::Messenger;
use crate::service::{Attention, Service};
use crate::shared::histogram::Histogram;

impl<S: Service, L: Layer> Core<S, L> {
    /// A connection was accepted, or its connect succeeded.
    pub(super) fn established<E: Engine>(&mut self, engine: &mut E, key: Key) {
        self.established += 1;
        self.counters.connections.set(self.established);
        let begun = self.layer.begin(&mut self.table.expect_mut(key).layer, &self.pool);
        self.layer_was_called(engine, key, begun.map(|()| 0));
        if !self.context(key).opened {
            let context = self.table.expect_mut(key);
            let mut deadline = self.now + self.layer.opening_timeout(&context.layer);
            if !context.was_accepted() {
                // The time-out of a connect includes that of its layer.
                deadline = deadline.min(context.deadline);
            }
            context.deadline = deadline;
            self.schedule_at(key, deadline);
        }
    }

    /// The peer is known. The service sees the connection from now on.
    pub(super) fn opened<E: Engine>(&mut self, engine: &mut E, key: Key) {
        let context = self.table.expect_mut(key);
        context.opened = true;
        if let Some(directory) = self.directory.as_ref().filter(|_| context.was_accepted()) {
            directory.enter(context.id, context.peer, context.tag, self.now);
            // One that has moved here may have sent bytes to the process before.
            if Histogram::EXISTS && context.bytes_received == 0 {
                context.attention.insert(Attention::FIRST_BYTE);
            }
        }
        let (id, peer) = (context.id, context.peer);
        if log::log_enabled!(log::Level::Debug) && self.is_sampled(id) {
            log::debug!("connect id={id} peer={peer} connections={}", self.connections());
        }
        let context = self.table.expect_mut(key);
        let tag = context.tag;
        if let Some(handshake) = self.layer.handshake(&context.layer) {
            self.notify_handshake(engine, tag, handshake);
        }
        // From here on, the deadline is the service's timer.
        self.context(key).deadline = Time::MAX;
        self.schedule(key);
        self.ask(engine, key, CloseReason::Service, S::open);
    }

    /// Records how long a client took to send its first bytes, if they have just come.
    pub(super) fn time_first_bytes(&mut self, key: Key) {
        let context = self.table.expect_mut(key);
        if context.bytes_received > 0
            && context.attention.remove(Attention::FIRST_BYTE)
            && let Some(directory) = &self.directory
        {
            self.counters.first_byte_time.record(directory.since(context.id), self.now);
        }
    }

    /// Tells the service that the handshake of a connect has ended.
    #[cold]
    fn notify_handshake<E: Engine>(
        &mut self,
        engine: &E,
        tag: u64,
        result: Result<Handshake, HandshakeError>,
    ) {
        let now = if S::FRESH_CLOCK { engine.now() } else { self.now };
        let service = &mut self.service;
        // A service that panics here may do so again when the connection is opened, which closes it.
        let _ = catch_unwind(AssertUnwindSafe(|| service.handshake(tag, result, now)));
    }

    /// Closes the connection once its output is sent, or at once if its service has lost output. The
    /// caller must then drive it.
    pub(super) fn finish(&mut self, key: Key, reason: CloseReason) {
        if self.context(key).is_open()
            && let Some(lost) = self.last_output(key)
        {
            // Also if it has been sent all of its output.
            self.context(key).machine.lose_output();
            return self.close_now(key, lost);
        }
        let context = self.table.expect_mut(key);
        self.layer.finish(&mut context.layer);
        context.reason.get_or_insert(reason);
        // After a half-close there is no FIN left to send, so lingering begins here.
        let lingers = context.machine.is_open() && context.machine.is_shut();
        context.machine.apply(Event::Finish);
        if lingers {
            self.begin_linger(key);
        }
        self.forget_input(key);
    }

    /// Lets the service put what it has kept for the connection on the output. Returns why it has lost
    /// some of it.
    fn last_output(&mut self, key: Key) -> Option<CloseReason> {
        let now = self.now;
        let context = self.table.expect_mut(key);
        let (mut connection, session) = context.for_service(&self.pool, &self.messenger, now, &now);
        let service = &mut self.service;
        // The connection is ending anyway, so a panic changes nothing.
        catch_unwind(AssertUnwindSafe(|| service.finishing(&mut connection, session)))
            .unwrap_or_default()
    }

    /// Everything has been sent. Limits how long the peer may take to close its side.
    pub(super) fn begin_linger(&mut self, key: Key) {
        let deadline = self.now + self.rules.linger;
        self.context(key).deadline = deadline;
        self.schedule_at(key, deadline);
    }

    /// Closes the connection at once. The caller must then drive it.
    pub(super) fn close_now(&mut self, key: Key, reason: CloseReason) {
        let now = self.now;
        let context = self.table.expect_mut(key);
        if context.is_open() && !context.input.is_empty() {
            let (mut connection, session) =
                context.for_service(&self.pool, &self.messenger, now, &now);
            let service = &mut self.service;
            // The connection is ending anyway, so a panic changes nothing.
            let _ = catch_unwind(AssertUnwindSafe(|| service.cut_off(&mut connection, session)));
        }
        let context = self.context(key);
        if context.machine.sends() {
            // Output may be lost now, so an earlier reason for an orderly close no longer holds.
            context.reason = Some(reason);
            if reason == CloseReason::SlowReader {
                // What the service kept for it is lost, also if it has been sent all the rest.
                context.machine.lose_output();
            }
        }
        context.reason.get_or_insert(reason);
        context.machine.apply(Event::Abort);
        self.forget_input(key);
    }

    /// Drops the rest of the input: the service will not be called for it again, and others may
    /// need the buffers while this connection lingers.
    #[cold]
    fn forget_input(&mut self, key: Key) {
        let context = self.table.expect_mut(key);
        drop(context.input.take());
        context.attention.remove(Attention::WAITS);
        self.layer.forget_input(&mut context.layer);
        if context.machine.awaits_buffer() {
            // What is thrown away needs no buffer.
            context.machine.apply(Event::BufferCame);
        }
        let waits = context.machine.sends() && self.layer.starves(&context.layer);
        self.no_longer_holds(key);
        if !waits {
            self.wait_no_longer(key.slot());
        }
    }

    /// Returns the slot, buffers and permit of a closed connection.
    pub(super) fn free<E: Engine>(&mut self, engine: &E, key: Key) {
        let slot = key.slot();
        self.wait_no_longer(slot);
        self.yielded.remove(slot);
        self.forget_moves(key);
        self.wheel.clear(slot);
        let mut context = self.table.remove(key);
        if let Some(directory) = &self.directory {
            directory.leave(context.id);
        }
        let now = if S::FRESH_CLOCK { engine.now() } else { self.now };
        // Without a reason, both sides have closed, and the service has not.
        let reason = context.reason.unwrap_or(CloseReason::PeerClosed);
        if context.was_established() {
            self.established -= 1;
            self.counters.connections.set(self.established);
            self.counters.closed[reason as usize].add(1);
            // Output that the peer itself refused with a reset is not lost by this side. A connection
            // that is shed waits for input that it was owed a reply for, or for output to be sent.
            let unfinished = reason == CloseReason::Shed
                || (context.machine.has_lost_output() && reason != CloseReason::Reset);
            self.cut += u64::from(self.stopping || (unfinished && self.drains()));
            if self.ending().is_some() && context.bytes_discarded > 0 {
                self.counters.unanswered.add(1);
            }
        }
        let handshake = self.layer.handshake(&context.layer);
        match handshake {
            Some(failed @ Err(_)) if !context.opened => {
                self.notify_handshake(engine, context.tag, failed);
            }
            _ => {
                let (service, pool) = (&mut self.service, &self.pool);
                notify_closed(service, pool, &self.messenger, &mut context, reason, now);
            }
        }
        let (id, closed) = (context.id, context.summary());
        // This returns the permit, so that the line below does not count this connection.
        drop(context);
        self.end_shedding(key);
        if let Some(closed) = closed
            && log::log_enabled!(log::Level::Debug)
            && self.is_sampled(id)
        {
            log::debug!("disconnect {closed} reason={reason} connections={}", self.connections());
        }
    }

    /// Whether the log has the lines of this connection: those of its begin and of its end, or
    /// neither. Ids are mixed, because those of one worker differ in few bits.
    pub(super) fn is_sampled(&self, id: ConnectionId) -> bool {
        let mixed = id.to_bits().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        mixed.is_multiple_of(self.rules.log_sample.into())
    }

    /// Connections of the whole process, or of this worker if it has no permits.
    fn connections(&self) -> u64 {
        self.permits.as_ref().map_or(self.established, |permits| permits.taken())
    }
}

/// Calls the service for a connection for the last time.
fn notify_closed<S: Service, LayerState>(
    service: &mut S,
    pool: &Pool,
    messenger: &Messenger,
    context: &mut Context<S::Session, LayerState>,
    reason: CloseReason,
    now: Time,
) {
    if !context.opened && context.was_accepted() {
        return;
    }
    // A layer closed a connection of this side before it was opened.
    let refused = match (context.was_established(), reason) {
        (false, _) => Errno::CANCELED,
        (true, CloseReason::Reset) => Errno::CONNRESET,
        // This side has given it up.
        (true, CloseReason::Stopped | CloseReason::Service) => Errno::CANCELED,
        (true, _) => Errno::PROTO,
    };
    let (opened, tag) = (context.opened, context.tag);
    let error = context.connect_error.unwrap_or(refused);
    let (mut connection, session) = context.for_service(pool, messenger, now, &now);
    // There is nothing left to close after a panic.
    let _ = catch_unwind(AssertUnwindSafe(|| match opened {
        true => service.closed(&mut connection, session, reason),
        false => service.connect_failed(tag, error, now),
    }));
}
