//! Connections that move to another process, which has replaced this one.
//!
//! A worker that retires offers its connections to its *successor*, each at a moment at which it
//! waits for nothing but its peer: no input is held, the service has set no timer, and no output is
//! unsent but such as the service of the other process can make again. At that moment this process holds
//! nothing of the connection but its descriptor and a number ([`Service::continuation`]). What the
//! client sends meanwhile waits in the socket, and the other process receives it. Each connection
//! has one owner at any time:
//!
//! 1. It is taken out of the engine, so that this process receives and sends nothing more.
//! 2. The successor gets copies of the descriptors, and says which connections it can continue.
//! 3. The successor is told to continue. From here on they are its connections, and this process closes
//!    its descriptors. If it could not be told, it forgets them, and this process continues them.
//!
//! The worker waits for the reply of step 2, so a batch is small.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Core;
use super::connection::Context;
use super::connection::Origin;
use super::connection::machine::Machine;
use super::layer::Layer;
use crate::base::key::{Key, OpKind};
use crate::base::time::Time;
use crate::engine::{Detached, Engine, Outcome};
use crate::error::CloseReason;
use crate::service::{Attention, Service};
use crate::shared::moved::{Facts, Moved, Successor};

/// The most connections that are offered at once. The others of the worker wait for the reply.
const AT_ONCE: usize = 32;

/// The most slots that are looked at in a turn.
const LOOKS: u32 = 4096;

/// When all connections have been looked at, those that are left are looked at again after this time,
/// and after twice as long each time that none has moved.
const AGAIN_MIN: Duration = Duration::from_millis(5);
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// A connection that is taken out of the engine. Its unsent output is in its context.
struct Offered<Socket> {
    key: Key,
    socket: Socket,
    /// What the service of the other process goes on from.
    continuation: u64,
}

/// The moves of a worker that retires.
pub(super) struct Handover {
    successor: Box<dyn Successor>,
    /// The slot that is looked at next.
    slot: u32,
    /// Whether a connection has moved since the first slot was looked at.
    any: bool,
    pause: Duration,
}

impl Handover {
    pub(super) fn to(successor: Box<dyn Successor>) -> Handover {
        Handover { successor, slot: 0, any: false, pause: AGAIN_MIN }
    }

    /// When to look again, now that all slots were looked at.
    fn again(&mut self, now: Time) -> Time {
        self.pause = if self.any { AGAIN_MIN } else { (self.pause * 2).min(AGAIN_MAX) };
        (self.slot, self.any) = (0, false);
        now + self.pause
    }
}

impl<S: Service, L: Layer> Core<S, L> {
    /// Offers some connections to the successor. Returns when to call this again; `Time::MAX` if there
    /// is no successor.
    #[cold]
    pub(super) fn hand_over_some<E: Engine>(&mut self, engine: &mut E) -> Time {
        let Some(mut handover) = self.handover.take() else { return Time::MAX };
        let mut offered: Vec<Offered<E::Socket>> = Vec::with_capacity(AT_ONCE);
        let end = self.table.used().min(handover.slot + LOOKS);
        while handover.slot < end && offered.len() < AT_ONCE {
            let key = self.table.key_of(handover.slot);
            handover.slot += 1;
            offered.extend(key.and_then(|key| self.take_out(engine, key)));
        }
        let taken = match self.offer::<E>(&mut handover, &offered) {
            Ok(taken) => taken,
            Err(error) => {
                log::warn!("worker {} keeps its connections: {error}", self.index);
                offered.into_iter().for_each(|one| self.take_back(engine, one));
                return Time::MAX;
            }
        };
        for (at, one) in offered.into_iter().enumerate() {
            match taken.get(at) {
                Some(true) => self.handed_over(one),
                _ => self.take_back(engine, one),
            }
        }
        handover.any |= taken.contains(&true);
        let again = match handover.slot < self.table.used() {
            true => Time::ZERO,
            false => handover.again(self.now),
        };
        self.handover = Some(handover);
        again
    }

    /// What the service of another process goes on from, if the connection is at a moment at which it
    /// can.
    pub(super) fn continuation<E: Engine>(&self, engine: &E, key: Key) -> Option<u64> {
        let context = self.table.at(key.slot()).expect("a key of the table");
        let can_move = context.opened
            && context.machine.is_interruptible()
            && context.input.is_empty()
            && !context.ended
            && !context.attention.has(Attention::WAITS)
            && context.deadline == Time::MAX
            && context.reason.is_none()
            && context.was_accepted()
            && self.layer.can_move(&context.layer);
        let unsent = engine.sending(key) + context.output.len();
        let of_service = || self.service.continuation(context.tag, &context.session, unsent);
        can_move.then(of_service).flatten()
    }

    /// Takes a connection out of the engine, if another process can continue it.
    fn take_out<E: Engine>(&mut self, engine: &mut E, key: Key) -> Option<Offered<E::Socket>> {
        let continuation = self.continuation(engine, key)?;
        let Detached { socket, unsent } = engine.detach(key)?;
        if let Some(mut unsent) = unsent {
            let output = &mut self.context(key).output;
            // It goes before what was added since the Send began.
            unsent.append(output);
            *output = unsent;
        }
        Some(Offered { key, socket, continuation })
    }

    fn offer<E: Engine>(
        &self,
        handover: &mut Handover,
        offered: &[Offered<E::Socket>],
    ) -> Result<Vec<bool>, String> {
        if offered.is_empty() {
            return Ok(Vec::new());
        }
        let facts = |&Offered { key, continuation, .. }: &Offered<E::Socket>| {
            let context = self.table.at(key.slot()).expect("a key of the table");
            let directory = self.directory.as_ref();
            Facts {
                listener: context.tag,
                peer: context.peer,
                since: directory.map_or(self.now, |directory| directory.since(context.id)),
                active_at: context.active_at,
                bytes_received: context.bytes_received,
                bytes_sent: context.bytes_sent,
                continuation,
            }
        };
        let mut all = Vec::with_capacity(offered.len());
        for one in offered {
            let socket = E::descriptor(&one.socket).ok_or("the engine has no descriptors")?;
            all.push((facts(one), socket));
        }
        handover.successor.take(&all)
    }

    /// Another process continues the connection. Its socket is closed here.
    fn handed_over<Socket>(&mut self, Offered { key, socket, .. }: Offered<Socket>) {
        self.forget_moves(key);
        self.yielded.remove(key.slot());
        self.wheel.clear(key.slot());
        let context = self.table.remove(key);
        if let Some(directory) = &self.directory {
            directory.leave(context.id);
        }
        self.established -= 1;
        self.counters.connections.set(self.established);
        self.counters.handed_over.add(1);
        if let Some(summary) = context.summary()
            && log::log_enabled!(log::Level::Debug)
            && self.is_sampled(context.id)
        {
            log::debug!("hand over {summary}");
        }
        drop(socket);
    }

    /// Goes on with a connection that has not moved.
    fn take_back<E: Engine>(&mut self, engine: &mut E, offered: Offered<E::Socket>) {
        let Offered { key, socket, .. } = offered;
        let peer = self.context(key).peer;
        if let Err((error, socket)) = engine.adopt(key, socket, peer) {
            log::error!("a connection is closed, because it cannot be watched any more: {error}");
            self.context(key).reason = Some(CloseReason::Failed);
            // First: who is woken by the permit may need its descriptor. With RST: output may be lost.
            engine.refuse(socket);
            self.free(engine, key);
            return;
        }
        let context = self.table.expect_mut(key);
        context.machine.forget_recv();
        // One that has used up its share goes on when its turn comes.
        let goes_on = !self.yielded.contains(key.slot());
        if !context.machine.is_sending() {
            if goes_on {
                self.drive(engine, key);
            }
            return;
        }
        // The Send was not interrupted for the peer, whose time for it runs on.
        let output = self.layer.outgoing(&mut context.layer, &mut context.output, &self.pool);
        let outcome = match engine.send(key, output) {
            Ok(None) if goes_on => return self.drive(engine, key),
            Ok(None) => return,
            Ok(Some(bytes)) => Outcome::Sent { bytes, rest: output.take() },
            Err(error) => Outcome::Failed(error),
        };
        self.drive_completed(engine, key, OpKind::Send, outcome);
    }

    /// The time of the last activity of a connection that was on its way. If it would be idle for too
    /// long by now, it is so only after the next look at its socket: its client may have sent
    /// something meanwhile.
    fn not_overdue(&self, active_at: Time) -> Time {
        match self.rules.idle_timeout {
            // Due when a look that begins after this moment has ended.
            Some(idle) if active_at + idle <= self.now => {
                (self.now + Duration::from_nanos(1)).saturating_sub(idle)
            }
            _ => active_at,
        }
    }

    /// Goes on with a connection of another process.
    #[cold]
    pub(super) fn go_on_with<E: Engine>(&mut self, engine: &mut E, moved: Moved) {
        let Moved { facts, socket, permit } = moved;
        let Facts { listener, peer, since, active_at, bytes_received, bytes_sent, .. } = facts;
        let Some(socket) = engine.of_descriptor(socket) else { return };
        let key = self.table.next_key().expect("a slot for each permit");
        if let Err((error, socket)) = engine.adopt(key, socket, peer) {
            log::error!("a connection is lost, because it cannot be watched: {error}");
            engine.refuse(socket);
            return;
        }
        let duplex = self.full_duplex(listener);
        let resumed = || self.service.resumed(listener, facts.continuation);
        let session = catch_unwind(AssertUnwindSafe(resumed)).ok();
        let layer = self.layer.state(listener, peer, &self.pool);
        let origin = Origin { id: self.id_of(key), peer, tag: listener, permit: Some(permit) };
        let id = origin.id;
        let machine = Machine::accepted(duplex.unwrap_or_default());
        let mut context =
            Context::new(machine, origin, layer, &self.pool, self.not_overdue(active_at));
        (context.bytes_received, context.bytes_sent) = (bytes_received, bytes_sent);
        let panicked = duplex.is_none() || session.is_none();
        context.session = session.unwrap_or_default();
        self.table.insert(context);
        self.counters.taken_over.add(1);
        self.established(engine, key);
        if let Some(directory) = &self.directory {
            directory.set_since(id, since);
        }
        if panicked {
            self.close_now(key, CloseReason::ServicePanic);
        } else if let Some(reason) = self.ending() {
            self.finish(key, reason);
        }
        self.drive(engine, key);
    }
}
