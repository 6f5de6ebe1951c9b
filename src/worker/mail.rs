//! What comes to a worker for its service or its clients: parcels of the service's other copies,
//! messages of other threads, and requests to disconnect a client.

use super::Core;
use crate::base::key::{ConnectionId, Key};
use crate::buffer::Parcel;
use crate::engine::Engine;
use crate::error::CloseReason;
use crate::service::{Attention, Message, Service};
use crate::shared::receipt::{Mail, Receipt};

impl<S: Service> Core<S> {
    #[cold]
    pub(super) fn parcel_came(&mut self, listener: usize, parcel: Parcel) {
        self.service.parcel(listener, parcel.into_lease(&self.pool), self.now);
    }

    /// Hands a message to the service, for each client that it is for.
    #[cold]
    pub(super) fn mail_came<E: Engine>(&mut self, engine: &mut E, mail: Mail) {
        let Mail { to, parcel, number, mut receipt } = mail;
        match to {
            Some(id) => {
                if let Some(key) = self.open_key_of(id) {
                    let message =
                        Message { bytes: parcel.filled(), number, to_all: false, refused: None };
                    self.hand_in(engine, key, message, &mut receipt);
                }
            }
            None => self.each_connection(engine, |core, engine, key| {
                if core.context(key).machine.is_open() {
                    let message =
                        Message { bytes: parcel.filled(), number, to_all: true, refused: None };
                    core.hand_in(engine, key, message, &mut receipt);
                }
            }),
        }
        // Into the reserve, where the next message is taken from: this worker's own list would in
        // the end have all buffers, and the senders none.
        drop(parcel);
        self.mailboxes.wake_each(self.pool.reserve().starving());
        self.serve_waiters(engine);
    }

    fn hand_in<E: Engine>(
        &mut self,
        engine: &mut E,
        key: Key,
        mut message: Message<'_>,
        receipt: &mut Receipt,
    ) {
        self.ask(engine, key, CloseReason::Service, |service, connection, session| {
            let answer = service.message(connection, session, &mut message);
            if message.refused.is_some() {
                // The message is not kept, so there is nothing to wait for.
                connection.attention.remove(Attention::WANTS_BUFFER);
            }
            answer
        });
        match message.refused {
            None => receipt.queued += 1,
            Some(why) => receipt.refuse(why),
        }
        self.drive(engine, key);
    }

    /// Closes a client's connection when its output is sent.
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
        self.context(key).machine.is_open().then_some(key)
    }
}
