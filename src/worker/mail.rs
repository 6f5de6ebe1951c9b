//! The commands in a worker's inbox, and what they bring for its service and its clients: parcels
//! from the services of other workers, messages from other workers and threads, requests to
//! disconnect a client.
//!
//! A turn carries out at most the commands that were there when it began, and no more than its
//! [`Work`] allows. What is left of a message to many clients continues in the next turn, before
//! anything that came later.

use std::ops::Range;

use super::connection::machine;
use super::layer::Layer;
use super::{Core, Work};
use crate::base::key::{ConnectionId, Key};
use crate::buffer::{Lease, Parcel, Pool, Shared};
use crate::engine::Engine;
use crate::error::CloseReason;
use crate::service::messenger::{BUFFERS_MAX, MessageHead};
use crate::service::{Attention, Message, Service, To};
use crate::shared::directory::GROUP;
use crate::shared::examination::{self, Detail, Examination};
use crate::shared::mailbox::WorkerCommand;
use crate::shared::receipt::{Mail, Receipt, Recipients, SendError};

/// A buffer with messages that are being passed to the service.
pub(super) struct Delivery {
    buffer: Buffer,
    /// Reports the results to a thread outside.
    receipt: Option<Receipt>,
    /// The other worker whose service has sent the messages.
    from: Option<usize>,
    /// Messages for the same recipients, as a part of the buffer's data.
    run: Range<usize>,
    /// The slot of the next recipient of these.
    slot: u32,
}

/// A buffer with messages.
enum Buffer {
    /// One message from another thread, for one client or for all.
    OfThread { parcel: Parcel, to: Recipients, number: u64 },
    /// Messages from a service, each behind a [`MessageHead`].
    OfService(Result<Shared, Lease>),
}

impl Delivery {
    fn of_thread(mail: Mail) -> Delivery {
        let Mail { to, parcel, number, receipt } = mail;
        Delivery::new(Buffer::OfThread { parcel, to, number }, Some(receipt), None)
    }

    /// `from` is `None` for the service of this worker.
    fn of_service(lease: Lease, pool: &Pool, from: Option<usize>) -> Delivery {
        let buffer = match pool.has_references() {
            true => Ok(Shared::from(lease)),
            false => Err(lease),
        };
        Delivery::new(Buffer::OfService(buffer), None, from)
    }

    fn new(buffer: Buffer, receipt: Option<Receipt>, from: Option<usize>) -> Delivery {
        let run = buffer.run_at(0);
        Delivery { buffer, receipt, from, run, slot: 0 }
    }

    fn next_run(&mut self) {
        (self.run, self.slot) = (self.buffer.run_at(self.run.end), 0);
    }
}

impl Buffer {
    /// The message at a place in the data: its recipients, the message, and where it ends. `None`
    /// at the end of the data.
    fn message_at(&self, at: usize) -> Option<(To, Message<'_>, usize)> {
        let message = |bytes, number, from: u64, to, shared| Message {
            bytes,
            number,
            from: (from != 0).then(|| ConnectionId::from_bits(from)),
            to_all: !matches!(to, To::Client(_)),
            shared,
            refused: None,
        };
        match self {
            Buffer::OfThread { parcel, to, number } => {
                let bytes = parcel.filled();
                let to = match to {
                    Recipients::Client(id) => To::Client(*id),
                    Recipients::All | Recipients::OfListener(_) => To::All,
                };
                (at == 0).then(|| (to, message(bytes, *number, 0, to, None), bytes.len().max(1)))
            }
            Buffer::OfService(buffer) => {
                let (data, start) = match buffer {
                    Ok(shared) => (shared.filled(), shared.range().start),
                    Err(lease) => (lease.filled(), 0),
                };
                let mut rest = &data[at..];
                let (MessageHead { to, from, number, .. }, bytes) = MessageHead::take(&mut rest)?;
                let end = data.len() - rest.len();
                let place = start + end - bytes.len()..start + end;
                let shared = buffer.as_ref().ok().map(|shared| (shared, place));
                Some((to, message(bytes, number, from, to, shared), end))
            }
        }
    }

    /// The run that starts there: one message for one client, or as many as there are for several
    /// clients each. Empty at the end of the data.
    fn run_at(&self, start: usize) -> Range<usize> {
        let mut run = start..start;
        while let Some((to, _, end)) = self.message_at(run.end) {
            let one = matches!(to, To::Client(_));
            if one && !run.is_empty() {
                break;
            }
            run.end = end;
            if one {
                break;
            }
        }
        run
    }
}

impl<S: Service, L: Layer> Core<S, L> {
    /// Carries out commands that have arrived.
    #[inline]
    pub(super) fn commands<E: Engine>(&mut self, engine: &mut E) {
        if self.mailboxes.has_mail(self.index) {
            self.carry_out_commands(engine);
        }
    }

    #[inline(never)]
    fn carry_out_commands<E: Engine>(&mut self, engine: &mut E) {
        let there = self.mailboxes.open(self.index);
        self.begin_to_end(engine);
        self.stop_or_start_listeners(engine);
        let is_leaving = self.close_leaving(engine);
        let mut work = self.work_of_turn();
        let is_timed = self.adopt_times(engine, &mut work);
        let mut left = there;
        let mut delivery = self.incoming.take();
        while self.deliver(engine, &mut delivery, &mut work)
            && left > 0
            && !work.is_spent()
            && let Some(command) = self.mailboxes.receive(self.index)
        {
            left -= 1;
            delivery = self.carry_out_command(engine, command, &mut work);
        }
        if left > 0 || delivery.is_some() || !is_timed || is_leaving {
            // The rest is for the next turn.
            self.mailboxes.notify(self.index);
        }
        self.incoming = delivery;
    }

    /// Carries out a command. Returns the messages that it has brought.
    fn carry_out_command<E: Engine>(
        &mut self,
        engine: &mut E,
        command: WorkerCommand,
        work: &mut Work,
    ) -> Option<Delivery> {
        work.spend(Work::CALL);
        match command {
            WorkerCommand::GiveBuffers => self.pool.give(false),
            WorkerCommand::Parcel { listener, parcel } => {
                self.service.parcel(listener, parcel.into_lease(&self.pool), self.now);
            }
            WorkerCommand::Message(mail) => return Some(Delivery::of_thread(mail)),
            WorkerCommand::Messages { from, parcel } => {
                let lease = parcel.into_lease(&self.pool);
                return Some(Delivery::of_service(lease, &self.pool, Some(from)));
            }
            WorkerCommand::Disconnect { id, receipt } => {
                work.spend(Work::SEND);
                self.disconnect(engine, id, receipt);
            }
            WorkerCommand::GoOnWith(moved) => {
                work.spend(Work::SEND);
                self.go_on_with(engine, *moved);
            }
            WorkerCommand::AddListeners { listeners, mut receipt } => {
                receipt.queued = self.add_listeners(engine, listeners);
            }
            WorkerCommand::CloseListeners { numbers, receipt } => {
                self.begin_to_leave(numbers, receipt)
            }
            WorkerCommand::Examine { examination, receipt } => {
                self.examine(engine, &examination, work);
                drop(examination);
                drop(receipt);
            }
        }
        None
    }

    /// Sends what the service has written for clients of other workers, and delivers what it has
    /// written for those of this one. What is written meanwhile is sent in the next turn.
    #[cold]
    pub(super) fn deliver_messages<E: Engine>(&mut self, engine: &mut E) {
        let mut left = self.messenger.turn();
        let mut work = self.work_of_turn();
        let mut delivery = self.own.take();
        while self.deliver(engine, &mut delivery, &mut work)
            && left > 0
            && !work.is_spent()
            && let Some(lease) = self.messenger.next_own()
        {
            left -= 1;
            delivery = Some(Delivery::of_service(lease, &self.pool, None));
        }
        if left > 0 || delivery.is_some() {
            self.messenger.set_pending();
        }
        self.own = delivery;
        if self.messenger.is_pending() {
            self.service_turn = Some(self.now);
        }
    }

    /// Delivers messages, as far as the work of this turn allows. Takes the delivery when it is
    /// complete; returns whether none is left.
    fn deliver<E: Engine>(
        &mut self,
        engine: &mut E,
        delivery: &mut Option<Delivery>,
        work: &mut Work,
    ) -> bool {
        let Some(unfinished) = delivery else { return true };
        let done = self.deliver_some(engine, unfinished, work);
        if done {
            let finished = delivery.take().expect("it was just delivered");
            let from = finished.from;
            // The buffer of a thread's message goes back to the reserve, which the next message
            // takes it from. Otherwise this worker's own list would in the end have all buffers,
            // and the senders none.
            drop(finished);
            if let Some(from) = from {
                self.mailboxes.messages_delivered(from, self.index, BUFFERS_MAX);
            }
        }
        self.serve_waiters(engine);
        done
    }

    /// Passes messages to the service, run by run, and those of a run recipient by recipient.
    /// Returns whether all are passed on.
    fn deliver_some<E: Engine>(
        &mut self,
        engine: &mut E,
        delivery: &mut Delivery,
        work: &mut Work,
    ) -> bool {
        while let Some((to, ..)) = delivery.buffer.message_at(delivery.run.start) {
            if let To::Client(id) = to {
                if work.is_spent() {
                    return false;
                }
                work.spend(Work::LOOK);
                if let Some(key) = self.open_key_of(id) {
                    self.hand_in_run(engine, key, delivery, work);
                }
            } else {
                while delivery.slot < self.table.used() {
                    if work.is_spent() {
                        return false;
                    }
                    work.spend(Work::LOOK);
                    let key = self.table.key_of(delivery.slot);
                    delivery.slot += 1;
                    if let Some(key) = key {
                        self.hand_in_run(engine, key, delivery, work);
                    }
                }
            }
            delivery.next_run();
        }
        true
    }

    /// Passes the messages of a run to the service for one connection, if they are for it. While
    /// buffers are plentiful, the connection sends once, in this turn or the next, however many
    /// messages it gets.
    fn hand_in_run<E: Engine>(
        &mut self,
        engine: &mut E,
        key: Key,
        delivery: &mut Delivery,
        work: &mut Work,
    ) {
        let Delivery { buffer, receipt, run, .. } = delivery;
        if let Buffer::OfThread { to: Recipients::OfListener(listener), .. } = buffer {
            let context = self.context(key);
            if !context.was_accepted() || context.tag != *listener as u64 {
                return;
            }
        }
        let mut at = run.start;
        while at < run.end
            && let Some((to, message, end)) = buffer.message_at(at)
        {
            at = end;
            // The call before may have ended the connection.
            if self.table.key_of(key.slot()) != Some(key) || !self.context(key).is_open() {
                return;
            }
            work.spend(Work::LOOK);
            let id = self.context(key).id;
            if !self.is_among(id, to) {
                continue;
            }
            work.spend(Work::CALL);
            match (self.hand_in(engine, key, message), receipt.as_mut()) {
                (None, Some(receipt)) => receipt.queued += 1,
                (Some(why), Some(receipt)) => receipt.refuse(why),
                (None, None) => {}
                (Some(_), None) => self.counters.messages_dropped.add(1),
            }
            // Each recipient holds a buffer until its message is sent.
            match self.pool.is_plentiful() {
                true if self.yielded.contains(key.slot()) => {}
                true => {
                    self.yield_turn(key);
                    work.spend(Work::SEND);
                }
                false => {
                    self.drive(engine, key);
                    work.spend(Work::SEND);
                }
            }
        }
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

    /// Passes a message to the service. Returns why it was refused, if it was: otherwise it will be
    /// sent, or the connection closed for a reason.
    fn hand_in<E: Engine>(
        &mut self,
        engine: &mut E,
        key: Key,
        mut message: Message<'_>,
    ) -> Option<SendError> {
        if self.context(key).machine.half_closes() {
            // Nothing can be sent behind FIN.
            return Some(SendError::Gone);
        }
        let mut panicked = true;
        self.ask(engine, key, CloseReason::Service, |service, connection, session| {
            let answer = service.message(connection, session, &mut message);
            panicked = false;
            if message.refused.is_some() {
                // The message is not kept, so there is nothing to wait for.
                connection.attention.remove(Attention::WANTS_BUFFER);
            }
            answer
        });
        if panicked {
            message.refuse(SendError::Gone);
        }
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

    /// Writes down what this worker knows of some connections.
    #[cold]
    fn examine<E: Engine>(&mut self, engine: &E, examination: &Examination, work: &mut Work) {
        for (id, detail) in examination.connections().iter_mut() {
            work.spend(Work::CALL);
            *detail = self.key_of(*id).map(|key| self.detail(engine, key));
        }
    }

    fn detail<E: Engine>(&mut self, engine: &E, key: Key) -> Detail {
        use examination::Activity;
        let waits = self.supply.is_waiting(key.slot());
        let context = self.context(key);
        let (machine, in_flight) = (&context.machine, engine.sending(key));
        let output = (context.output.len() + in_flight) as u64;
        let phase = match machine.phase() {
            machine::Phase::Open if waits => Activity::WaitingForBuffer,
            machine::Phase::Open if machine.is_sending() => Activity::Sending,
            machine::Phase::Open if machine.is_paused() => Activity::Paused,
            machine::Phase::Open => Activity::Open,
            machine::Phase::Lingering => Activity::Lingering,
            _ => Activity::Closing,
        };
        let (bytes_received, bytes_sent) = (context.bytes_received, context.bytes_sent);
        Detail { bytes_received, bytes_sent, output, phase }
    }

    fn open_key_of(&mut self, id: ConnectionId) -> Option<Key> {
        let key = self.key_of(id)?;
        self.context(key).is_open().then_some(key)
    }
}
