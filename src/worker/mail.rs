//! What arrives for a worker's service or its clients: parcels from the other workers' services,
//! messages from other threads, and requests to disconnect a client.

use super::Core;
use super::layer::Layer;
use crate::base::key::{ConnectionId, Key};
use crate::buffer::{Lease, Parcel, Shared};
use crate::engine::Engine;
use crate::error::CloseReason;
use crate::service::messenger::{BUFFERS_MAX, Head};
use crate::service::{Attention, Message, Service, To};
use crate::shared::directory::GROUP;
use crate::shared::receipt::{Mail, Receipt, SendError};

impl<S: Service, L: Layer> Core<S, L> {
    #[cold]
    pub(super) fn parcel_came(&mut self, listener: usize, parcel: Parcel) {
        self.service.parcel(listener, parcel.into_lease(&self.pool), self.now);
    }

    /// Passes another thread's message to the service, for each client that it is for.
    #[cold]
    pub(super) fn mail_came<E: Engine>(&mut self, engine: &mut E, mail: Mail) {
        let Mail { to, parcel, number, mut receipt } = mail;
        let (bytes, to_all) = (parcel.filled(), to.is_none());
        let message = || Message { bytes, number, from: None, to_all, shared: None, refused: None };
        let to = to.map_or(To::All, To::Client);
        self.each_recipient(engine, to, |core, engine, key| {
            match core.hand_in(engine, key, message()) {
                None => receipt.queued += 1,
                Some(why) => receipt.refuse(why),
            }
            core.drive(engine, key);
        });
        // The buffer goes back to the reserve, which the next message takes it from. Otherwise this
        // worker's own list would in the end have all buffers, and the senders none.
        drop(parcel);
        self.mailboxes.wake_each(self.pool.reserve().starving());
        self.serve_waiters(engine);
    }

    /// Messages from another worker's service have arrived.
    #[cold]
    pub(super) fn messages_came<E: Engine>(&mut self, engine: &mut E, from: usize, parcel: Parcel) {
        self.deliver(engine, parcel.into_lease(&self.pool));
        self.mailboxes.messages_delivered(from, self.index, BUFFERS_MAX);
    }

    /// Sends what the service has written for clients of other workers, and delivers what it has
    /// written for those of this one. What is written meanwhile is sent in the next turn.
    #[cold]
    pub(super) fn deliver_messages<E: Engine>(&mut self, engine: &mut E) {
        for _ in 0..self.messenger.turn() {
            let Some(lease) = self.messenger.next_own() else { break };
            self.deliver(engine, lease);
        }
        if self.messenger.is_pending() {
            self.service_turn = Some(self.now);
        }
    }

    /// Passes messages to the service, for each client of this worker that they are for. While
    /// buffers are plentiful, each of these clients is sent to once, in the next turn, however many
    /// messages it gets.
    fn deliver<E: Engine>(&mut self, engine: &mut E, lease: Lease) {
        let buffer = match self.pool.has_references() {
            true => Ok(Shared::from(lease)),
            false => Err(lease),
        };
        let (mut frames, end) = match &buffer {
            Ok(shared) => (shared.filled(), shared.range().end),
            Err(lease) => (lease.filled(), lease.len()),
        };
        while let Some((Head { to, from, number, .. }, bytes)) = Head::take(&mut frames) {
            let from = (from != 0).then(|| ConnectionId::from_bits(from));
            let behind = end - frames.len();
            let place = || behind - bytes.len()..behind;
            let message = || Message {
                bytes,
                number,
                from,
                to_all: !matches!(to, To::Client(_)),
                shared: buffer.as_ref().ok().map(|shared| (shared, place())),
                refused: None,
            };
            self.each_recipient(engine, to, |core, engine, key| {
                if core.hand_in(engine, key, message()).is_some() {
                    core.counters.messages_dropped.add(1);
                }
                // Each recipient holds a buffer until its message is sent.
                match core.pool.is_plentiful() {
                    true => core.yield_turn(key),
                    false => core.drive(engine, key),
                }
            });
        }
    }

    fn each_recipient<E: Engine>(
        &mut self,
        engine: &mut E,
        to: To,
        mut act: impl FnMut(&mut Self, &mut E, Key),
    ) {
        if let To::Client(id) = to {
            if let Some(key) = self.open_key_of(id) {
                act(self, engine, key);
            }
            return;
        }
        self.each_connection(engine, |core, engine, key| {
            let context = core.context(key);
            let (id, is_open) = (context.id, context.is_open());
            if is_open && core.is_among(id, to) {
                act(core, engine, key);
            }
        });
    }

    /// Whether a connection of this worker is one of several recipients.
    fn is_among(&self, id: ConnectionId, to: To) -> bool {
        let has = |group| {
            self.directory.as_ref().is_some_and(|directory| directory.value(id, GROUP) == group)
        };
        match to {
            To::Client(one) => id == one,
            To::All => true,
            To::AllBut(one) => id != one,
            To::Group(group) => has(group),
            To::GroupBut(group, one) => id != one && has(group),
        }
    }

    /// Passes a message to the service. Returns why it was refused, if it was.
    fn hand_in<E: Engine>(
        &mut self,
        engine: &mut E,
        key: Key,
        mut message: Message<'_>,
    ) -> Option<SendError> {
        self.ask(engine, key, CloseReason::Service, |service, connection, session| {
            let answer = service.message(connection, session, &mut message);
            if message.refused.is_some() {
                // The message is not kept, so there is nothing to wait for.
                connection.attention.remove(Attention::WANTS_BUFFER);
            }
            answer
        });
        message.refused
    }

    /// Closes a client's connection once its output is sent.
    #[cold]
    pub(super) fn disconnect<E: Engine>(
        &mut self,
        engine: &mut E,
        id: ConnectionId,
        mut receipt: Receipt,
    ) {
        if let Some(key) = self.open_key_of(id) {
            receipt.queued += 1;
            self.finish(key, CloseReason::Disconnected);
            self.drive(engine, key);
        }
    }

    fn open_key_of(&mut self, id: ConnectionId) -> Option<Key> {
        let key = self.key_of(id)?;
        self.context(key).is_open().then_some(key)
    }
}
