//! Messages that the services of the simulated servers send to clients, through
//! `Connection::send_message` and `Turn::send_message`, in some seeds. Each message must arrive
//! intact, at its recipients only, once, and in the order in which the worker sent it. An accepted
//! message must reach every recipient that stays. Refused messages are counted.
//!
//! All draws use a separate generator, so that seeds without messages do not change.

use std::collections::HashMap;
use std::time::Duration;

use super::external_message::{EXTERNAL_MIN, external_message};
use super::marks::Mark;
use super::service::Seen;
use super::world::{SharedWorld, World};
use crate::base::time::Time;
use crate::service::{Connection, ConnectionId, Message, To, Turn};
use crate::shared::directory::ClientInfo;
use crate::shared::receipt::SendError;

/// The bytes of a buffer that a message does not get, as documented at `Connection::send_message`.
const OVERHEAD: usize = 37;
/// The first number of a message of a service. `external` numbers its messages from 1.
pub(super) const FIRST: u64 = 500_000;
/// Messages that a worker's service tries to send.
const ATTEMPTS_MAX: u32 = 150;
/// Most messages that it tries to send in one call.
const BURST_MAX: u32 = 12;
/// Number of groups. Every client starts in group 0.
const GROUPS: u64 = 3;

/// Whether buffers of this size in bytes have room for messages.
pub(super) fn fit_into(buffer_size: usize) -> bool {
    buffer_size >= OVERHEAD + EXTERNAL_MIN
}

/// The messages that were sent, and which of them have arrived.
#[derive(Default)]
pub(super) struct MessageLog {
    sent: Vec<Sent>,
    /// All messages before this one have reached their recipients.
    settled: usize,
    /// The last message that each connection has received from each worker.
    last: HashMap<(ConnectionId, usize), u64>,
    /// What the services have set for connections: user data and group.
    set: HashMap<ConnectionId, (u64, u64)>,
    /// Messages that found no room in transit, or that the recipient's service refused.
    pub(super) dropped: u64,
}

/// One message, whether it was accepted or not.
struct Sent {
    worker: usize,
    from: Option<ConnectionId>,
    to: To,
    len: usize,
    result: Result<(), SendError>,
    /// Connections that it has to reach and has not reached yet.
    owed: Vec<ConnectionId>,
}

impl MessageLog {
    fn set_of(&self, id: ConnectionId) -> (u64, u64) {
        self.set.get(&id).copied().unwrap_or_default()
    }

    fn is_for(&self, to: To, id: ConnectionId) -> bool {
        match to {
            To::Client(one) => id == one,
            To::All => true,
            To::AllBut(one) => id != one,
            To::Group(group) => self.set_of(id).1 == group,
            To::GroupBut(group, one) => id != one && self.set_of(id).1 == group,
        }
    }

    /// Checks a message that arrived at the service for a connection. Returns what is wrong with
    /// it.
    fn take(
        &mut self,
        id: ConnectionId,
        message: &Message<'_>,
        number: u64,
    ) -> Result<&Sent, String> {
        let wrong = |what: &str| Err(format!("message {number} arrived at {id}: {what}"));
        let at = (number - FIRST) as usize;
        let Some(sent) = self.sent.get(at) else { return wrong("it was never sent") };
        let (worker, to) = (sent.worker, sent.to);
        if sent.result.is_err() {
            return wrong("it was refused when it was sent");
        } else if sent.len != message.bytes().len() {
            return wrong("its length is wrong");
        } else if sent.from != message.from() {
            return wrong("its sender is wrong");
        } else if message.is_broadcast() == matches!(to, To::Client(_)) {
            return wrong("it is marked as for one instead of many, or the reverse");
        } else if !self.is_for(to, id) {
            return wrong("it is for other recipients");
        } else if self.last.insert((id, worker), number).is_some_and(|last| last >= number) {
            return wrong("it arrived twice, or after a later one");
        }
        let sent = &mut self.sent[at];
        sent.owed.retain(|&owed| owed != id);
        Ok(sent)
    }

    /// Checks, in an idle world, that every message has reached those of its recipients that still
    /// accept messages.
    ///
    /// # Panics
    /// If one has not.
    pub(super) fn check_rest(&mut self, recipients: &[ConnectionId]) {
        for (at, sent) in self.sent.iter_mut().enumerate().skip(self.settled) {
            let lost = sent.owed.drain(..).find(|id| recipients.contains(id));
            let number = FIRST + at as u64;
            assert_eq!(lost, None, "message {number} to {:?} did not arrive", sent.to);
        }
        self.settled = self.sent.len();
    }

    /// Stops checking arrivals, because the servers are ending.
    pub(super) fn forgive(&mut self) {
        self.sent.iter_mut().for_each(|sent| sent.owed.clear());
    }
}

/// Sends the messages of one worker's service.
pub(super) struct Sender {
    world: SharedWorld,
    worker: usize,
    rng: fastrand::Rng,
    /// How often it sends, in calls per million.
    rate: u32,
    /// Length in bytes of the longest message that fits.
    len_max: usize,
    /// Number of messages that it still tries to send.
    left: u32,
    /// When it stops sending.
    until: Time,
}

impl Sender {
    /// The sender of a worker, in a seed with messages.
    pub(super) fn draw(
        world: &SharedWorld,
        seed: u64,
        worker: usize,
        buffer_size: usize,
        lasts: Duration,
    ) -> Sender {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x006d_6573 ^ (worker as u64) << 32);
        let rate = rng.u32(1_000..=200_000);
        let until = world.borrow().now + lasts;
        let (len_max, left) = (buffer_size - OVERHEAD, ATTEMPTS_MAX);
        Sender { world: world.clone(), worker, rng, rate, len_max, left, until }
    }

    /// A connection was opened: the service may set what others see of it.
    pub(super) fn opened(&mut self, connection: &mut Connection<'_>, log: &mut MessageLog) {
        if self.rng.bool() {
            self.set(connection, log);
        }
    }

    fn set(&mut self, connection: &mut Connection<'_>, log: &mut MessageLog) {
        let (user_data, group) = (self.rng.u64(..), self.rng.u64(0..GROUPS));
        connection.set_user_data(user_data);
        connection.set_group(group);
        let id = connection.id();
        log.set.insert(id, (user_data, group));
        // A message to a group goes to those that are in it when it arrives.
        for sent in &mut log.sent[log.settled..] {
            if matches!(sent.to, To::Group(_) | To::GroupBut(..)) {
                sent.owed.retain(|&owed| owed != id);
            }
        }
    }

    /// In a call of the service for a connection.
    pub(super) fn act(&mut self, connection: &mut Connection<'_>, seen: &mut Seen) {
        if !self.is_due(connection.now()) {
            return;
        }
        if self.rng.u8(0..8) == 0 {
            self.set(connection, &mut seen.log);
        }
        if let Some(wrong) = connection.clients().find_map(|client| misread(&seen.log, &client)) {
            self.world.borrow_mut().complain(|| wrong);
        }
        let id = connection.id();
        self.burst(Some(id), seen, |to, bytes| connection.send_message(to, bytes));
    }

    /// In a turn of the service.
    pub(super) fn act_in_turn(&mut self, turn: &mut Turn<'_>, seen: &mut Seen) {
        if self.is_due(turn.now()) {
            self.world.borrow_mut().mark(Mark::MessageOfTurn);
            self.burst(None, seen, |to, bytes| turn.send_message(to, bytes));
        }
    }

    fn is_due(&mut self, now: Time) -> bool {
        self.left > 0 && now < self.until && self.rng.u32(0..1_000_000) < self.rate
    }

    fn burst(
        &mut self,
        from: Option<ConnectionId>,
        seen: &mut Seen,
        mut send: impl FnMut(To, &[u8]) -> Result<(), SendError>,
    ) {
        let most = if self.rng.u8(0..4) == 0 { BURST_MAX } else { 1 };
        for _ in 0..self.rng.u32(1..=most).min(self.left) {
            self.left -= 1;
            let Some(to) = self.someone(from, seen) else { return };
            let len = self.len();
            let number = FIRST + seen.log.sent.len() as u64;
            let result = send(to, &external_message(number, len));
            self.note(number, len, to, result);
            let mut owed = Vec::new();
            if result.is_ok() {
                let open = seen.of_peer.values().filter(|sight| sight.is_with_first());
                owed.extend(open.filter_map(|sight| sight.id));
                owed.retain(|&id| seen.log.is_for(to, id));
            }
            seen.log.dropped += u64::from(result == Err(SendError::QueueFull));
            seen.log.sent.push(Sent { worker: self.worker, from, to, len, result, owed });
        }
    }

    /// Draws a length: mostly short, and one in 32 too long.
    fn len(&mut self) -> usize {
        let short = self.len_max.min(EXTERNAL_MIN + 10);
        match self.rng.u8(0..32) {
            0 => self.len_max + 1,
            1..=8 => self.len_max,
            _ => self.rng.usize(EXTERNAL_MIN..=short),
        }
    }

    /// Draws recipients: connected clients, and now and then one that has left.
    fn someone(&mut self, from: Option<ConnectionId>, seen: &Seen) -> Option<To> {
        let mut ids: Vec<ConnectionId> = match self.rng.u8(0..8) {
            0 => seen.ids.iter().copied().collect(),
            _ => seen.of_peer.values().filter(|s| s.is_with_first()).filter_map(|s| s.id).collect(),
        };
        // The iteration order of a map differs from run to run.
        ids.sort();
        let one = self.rng.choice(ids)?;
        let but = if self.rng.bool() { from.unwrap_or(one) } else { one };
        let group = self.rng.u64(0..GROUPS);
        Some(match self.rng.u8(0..8) {
            0 => To::All,
            1 => To::AllBut(but),
            2 => To::Group(group),
            3 => To::GroupBut(group, but),
            _ => To::Client(one),
        })
    }

    /// Marks the result, and checks that exactly the messages that do not fit are too long.
    fn note(&self, number: u64, len: usize, to: To, result: Result<(), SendError>) {
        let mut world = self.world.borrow_mut();
        let worker = self.worker;
        world.trace(63, number as usize, len as u64, || {
            format!("worker {worker} sends message {number} to {to:?}: {result:?}")
        });
        if (len > self.len_max) != (result == Err(SendError::TooLong)) {
            world.complain(|| format!("message {number} of {len} bytes: {result:?}"));
        }
        world.mark(match result {
            Ok(()) => Mark::MessageSent,
            Err(SendError::QueueFull) => Mark::MessageRefused,
            Err(SendError::TooLong) => Mark::MessageTooLong,
            Err(SendError::Gone) => Mark::MessageGone,
            Err(SendError::OnWorkerThread) => {
                unreachable!("a service does not wait for the result")
            }
        });
    }
}

/// Checks a message of a service that arrived at a connection.
pub(super) fn arrived(
    world: &mut World,
    log: &mut MessageLog,
    connection: &Connection<'_>,
    message: &Message<'_>,
    number: u64,
) {
    let id = connection.id();
    match log.take(id, message, number) {
        Err(wrong) => return world.complain(|| wrong),
        Ok(sent) => {
            if sent.worker != id.worker() {
                world.mark(Mark::MessageCrossed);
            }
            if matches!(sent.to, To::Group(_) | To::GroupBut(..)) {
                world.mark(Mark::MessageToGroup);
            }
        }
    }
    if message.refused.is_some() {
        log.dropped += 1;
        world.mark(Mark::MessageNotTaken);
    }
}

/// Returns what the list of clients shows wrongly for one of them.
fn misread(log: &MessageLog, client: &ClientInfo) -> Option<String> {
    let (listed, set) = ((client.user_data, client.group), log.set_of(client.id));
    (listed != set).then(|| format!("{} is listed with {listed:?}, and has {set:?}", client.id))
}
