//! Connecting: look up the name, try the addresses, wait for the next round. `ending` describes
//! what happens to a client's operations when its connection is lost.
//!
//! Addresses are raced as in RFC 8305. The next address is tried when one has failed or has not
//! replied for a while. The first address that replies is used, and the other attempts are
//! abandoned.

use std::time::Duration;

use super::slot::ConnectAttempt;
use super::{ConnectionStage, Driver, Ended, Error, NONE, Place, State, Stream};
use crate::base::endpoint::Endpoint;
use crate::base::time::Time;
use crate::client::error::Attempt;
use crate::client::resolve::Question;
use crate::client::submission::Answer;
use crate::error::Errno;
use crate::service::{ConnectTo, Connection, ConnectionId, HandshakeError, Turn};

/// Longest time before the next address is tried in parallel: the Connection Attempt Delay that
/// RFC 8305, section 8, recommends.
const RACE_DELAY: Duration = Duration::from_millis(250);

/// Shortest time before the next address is tried in parallel: the minimum of RFC 8305, section 8.
const RACE_DELAY_MIN: Duration = Duration::from_millis(10);

/// Maximum number of addresses tried in one round. The tag has 8 bits for the number of the
/// address.
const ADDRESSES_MAX: usize = 255;

/// Identifies an attempt: the slot (24 bits), the number of the address (8), and the round (32).
fn tag(slot: u32, nth: usize, epoch: u32) -> u64 {
    u64::from(epoch) << 32 | (nth as u64) << 24 | u64::from(slot)
}

/// The slot of a tag.
#[cfg(feature = "tls")]
pub(in crate::client) fn slot_of_tag(tag: u64) -> u32 {
    tag as u32 & 0xFF_FFFF
}

/// Divides the time left in the round among the addresses left, so that all of them can be tried.
fn race_delay(time_left: Duration, addresses_left: usize) -> Duration {
    (time_left / addresses_left as u32).clamp(RACE_DELAY_MIN, RACE_DELAY)
}

/// Alternates between the address families, starting with that of the first address, as RFC 8305,
/// section 4, recommends. Within a family, keeps the order of the resolver.
fn interleaved(addresses: &[Endpoint]) -> Vec<Endpoint> {
    let is_v4 = |at: &Endpoint| at.socket_addr().is_some_and(|address| address.is_ipv4());
    let first_is_v4 = addresses.first().is_some_and(is_v4);
    let family = |first: bool| {
        addresses.iter().filter(move |at| (is_v4(at) == first_is_v4) == first).cloned()
    };
    let (mut ours, mut others) = (family(true), family(false));
    let mut all = Vec::with_capacity(addresses.len());
    loop {
        let pair = (ours.next(), others.next());
        if let (None, None) = pair {
            all.truncate(ADDRESSES_MAX);
            return all;
        }
        all.extend(pair.0.into_iter().chain(pair.1));
    }
}

impl Driver {
    pub(super) fn submit_connect(&mut self, i: u32, index: u32) {
        let slot = &mut self.slots[i as usize];
        let is_open = matches!(slot.stage, ConnectionStage::Open(_)) && !slot.disconnecting;
        if slot.connect != NONE || is_open {
            return self.reject(index, Error::AlreadyConnected);
        }
        slot.connect = index;
        if slot.stage == ConnectionStage::Idle {
            self.start_connecting(i);
        }
    }

    pub(super) fn start_connecting(&mut self, i: u32) {
        let slot = self.slot(i);
        (slot.attempt, slot.failures) = (0, 0);
        self.start_round(i);
    }

    /// Starts to look up the name and try its addresses.
    pub(super) fn start_round(&mut self, i: u32) {
        let now = self.now;
        self.abandon_attempts(i);
        let slot = &mut self.slots[i as usize];
        let asked = if slot.connect == NONE { None } else { self.ops.get(slot.connect) };
        let limit = asked.map_or(Time::MAX, |op| op.deadline);
        slot.epoch = slot.epoch.wrapping_add(1);
        slot.attempt = slot.attempt.saturating_add(1);
        slot.round_deadline = (now + slot.connect_timeout).min(limit);
        let literal = slot.target.as_ref().map_or(&[][..], |target| &target.literal);
        let known = if literal.is_empty() { slot.found.take() } else { Some(literal.to_vec()) };
        self.wheel.set_earlier(i, slot.round_deadline);
        match known {
            Some(addresses) => self.try_addresses(i, &addresses),
            None => {
                slot.stage = ConnectionStage::Resolving;
                self.request_lookup(i);
            }
        }
        self.report_state(i, State::Connecting);
    }

    fn request_lookup(&mut self, i: u32) {
        let slot = &mut self.slots[i as usize];
        let Some(target) = &slot.target else { return };
        // If a look-up of this client is still in progress, its result is used.
        if !slot.resolving {
            let (host, port) = (target.host.clone(), target.port);
            let question = Question { slot: i, client: slot.client, host, port };
            slot.resolving = self.resolver.try_send(question).is_ok();
        }
    }

    /// Handles the result of a look-up, which may arrive after the round that requested it.
    pub(super) fn resolved(&mut self, answer: Answer) {
        let Answer { slot: i, client, addresses } = answer;
        let slot = self.slot(i);
        if slot.client != client {
            return;
        }
        slot.resolving = false;
        let addresses =
            addresses.map(|all| all.into_iter().map(Endpoint::from).collect::<Vec<_>>());
        match (slot.stage, addresses) {
            (ConnectionStage::Resolving, Ok(addresses)) => self.try_addresses(i, &addresses),
            (ConnectionStage::Resolving, Err(error)) => self.round_failed(i, error),
            (ConnectionStage::BackOff(_), Ok(addresses)) => slot.found = Some(addresses),
            _ => {}
        }
    }

    fn try_addresses(&mut self, i: u32, addresses: &[Endpoint]) {
        let slot = self.slot(i);
        slot.addresses = interleaved(addresses);
        // A round may end before its first address has failed. If each round started with the same
        // address, one that never replies would hide all others.
        let first = slot.tried_earlier.checked_rem(slot.addresses.len()).unwrap_or(0);
        slot.addresses.rotate_left(first);
        slot.stage = ConnectionStage::Connecting;
        self.queue_connect(i);
    }

    /// Handles the timer of a client that is connecting: the end of the round, or the next address.
    pub(super) fn round_timer(&mut self, i: u32) {
        let looked_at = self.looked_at;
        let slot = self.slot(i);
        if slot.round_deadline <= looked_at {
            let error = self.connect_error(i);
            self.round_failed(i, error);
        } else if slot.race_at <= looked_at {
            slot.race_at = Time::MAX;
            self.queue_connect(i);
        }
    }

    /// Queues the attempt to connect to the next address.
    fn queue_connect(&mut self, i: u32) {
        let slot = self.slot(i);
        let tag = tag(i, slot.attempts.len(), slot.epoch);
        self.to_connect.push_back(tag);
    }

    /// Starts the queued attempts, as many as there are free places.
    pub(super) fn start_queued_connects(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..self.to_connect.len() {
            if turn.free_slots() == 0 {
                return;
            }
            let Some(tag) = self.to_connect.pop_front() else { return };
            if let Some((i, nth)) = self.slot_of(tag)
                && nth == self.slot(i).attempts.len()
            {
                self.start_connect(i, tag, turn);
            }
        }
    }

    /// Starts an attempt to connect to the next address.
    fn start_connect(&mut self, i: u32, tag: u64, turn: &mut Turn<'_>) {
        let now = self.now;
        let places = self.slots.len();
        let slot = self.slot(i);
        let Some(target) = slot.addresses.get(slot.attempts.len()).cloned() else { return };
        let races = slot.attempts.iter().any(|of| of.error.is_none());
        let addresses_left = slot.addresses.len() - slot.attempts.len();
        let delay = race_delay(slot.round_deadline - now, addresses_left);
        slot.race_at = if addresses_left == 1 { Time::MAX } else { now + delay };
        if races && turn.open() >= places {
            // Each client has a place for one attempt. Parallel attempts must not use other
            // clients' places.
            slot.race_at = now + delay;
        } else {
            slot.attempts.push(ConnectAttempt {
                address: target,
                id: None,
                error: None,
                handshake: None,
            });
            let deadline = slot.round_deadline;
            turn.connect(ConnectTo { target, source: None, tag, deadline });
        }
        let race_at = self.slot(i).race_at;
        if race_at != Time::MAX {
            self.wheel.set_earlier(i, race_at);
        }
    }

    /// The slot and the address number of an attempt, unless the attempt is obsolete.
    fn slot_of(&mut self, tag: u64) -> Option<(u32, usize)> {
        let (i, nth, epoch) = (tag as u32 & 0xFF_FFFF, (tag >> 24) as usize & 0xFF, tag >> 32);
        let slot = self.slot(i);
        let waits = u64::from(slot.epoch) == epoch && slot.stage == ConnectionStage::Connecting;
        waits.then_some((i, nth))
    }

    /// Records the connection of an attempt that has started.
    pub(super) fn attempt_started(&mut self, tag: u64, id: ConnectionId) {
        if let Some((i, nth)) = self.slot_of(tag) {
            self.slot(i).attempts[nth].id = Some(id);
        }
    }

    /// The TLS handshake of an attempt has failed.
    pub(super) fn handshake_failed(&mut self, tag: u64, error: HandshakeError) {
        if let Some((i, nth)) = self.slot_of(tag) {
            self.slot(i).attempts[nth].handshake = Some(error);
            self.attempt_failed(tag, Errno::PROTO);
        }
    }

    pub(super) fn attempt_failed(&mut self, tag: u64, error: Errno) {
        let Some((i, nth)) = self.slot_of(tag) else { return };
        let slot = self.slot(i);
        slot.attempts[nth].error = Some(error);
        if slot.attempts.len() < slot.addresses.len() {
            self.queue_connect(i);
        } else if slot.attempts.iter().all(|of| of.error.is_some()) {
            let error = self.connect_error(i);
            self.round_failed(i, error);
        }
    }

    /// Abandons the attempts in progress, which frees their places.
    pub(super) fn abandon_attempts(&mut self, i: u32) {
        let slot = self.slot(i);
        let attempts = std::mem::take(&mut slot.attempts);
        if attempts.len() < slot.addresses.len() {
            slot.tried_earlier += attempts.len();
        }
        let under_way = attempts.iter().filter(|of| of.error.is_none());
        self.to_close.extend(under_way.filter_map(|of| of.id));
    }

    /// The error of a connect that ends now.
    pub(super) fn connect_error(&mut self, i: u32) -> Error {
        let slot = self.slot(i);
        // Addresses that were not tried, because the loop had no room, are not reported.
        if slot.stage == ConnectionStage::Connecting && !slot.attempts.is_empty() {
            let attempt = |of: &ConnectAttempt| Attempt {
                address: of.address,
                error: of.error.unwrap_or(Errno::TIMEDOUT),
                handshake: of.handshake,
            };
            let attempts: Vec<_> = slot.attempts.iter().map(attempt).collect();
            return Error::of_attempts(&attempts);
        }
        if let (ConnectionStage::Resolving, Some(target)) = (slot.stage, &slot.target) {
            let reason = "no reply in time".to_owned();
            return Error::Resolve { host: target.host.clone(), reason };
        }
        slot.last_failure.clone().unwrap_or(Error::TimedOut)
    }

    /// Handles a round in which no address could be connected to.
    fn round_failed(&mut self, i: u32, error: Error) {
        self.abandon_attempts(i);
        let slot = self.slot(i);
        slot.failures = slot.failures.saturating_add(1);
        slot.last_failure = Some(error.clone());
        if error.is_final() || !self.back_off(i, &error) {
            self.stop_connecting(i, error.clone(), error);
        }
    }

    /// Schedules the next attempt. Returns false if there is to be none.
    pub(super) fn back_off(&mut self, i: u32, why: &Error) -> bool {
        let now = self.now;
        let random = self.random.f64();
        let slot = self.slot(i);
        let attempt = slot.attempt.saturating_add(1);
        let failures = slot.failures;
        let policy = slot.reconnect.filter(|policy| !policy.gives_up(failures));
        let Some(wait) = policy.map(|policy| policy.wait(attempt, random)) else { return false };
        slot.stage = ConnectionStage::BackOff(now + wait);
        self.wheel.set_earlier(i, now + wait);
        let until = self.submission.instant() + wait;
        self.report_state(i, State::Waiting { until, attempt, why: why.clone() });
        true
    }

    /// Stops connecting. The connect operation fails with `asked`, all other operations with
    /// `others`.
    pub(super) fn stop_connecting(&mut self, i: u32, asked: Error, others: Error) {
        self.fail_connect(i, asked);
        let slot = self.slot(i);
        if !slot.is_trying() && slot.stage != ConnectionStage::Idle {
            // The connect was waiting for the end of an earlier connection.
            if slot.place() == Place::Nowhere {
                self.fail_queues(i, true, &others);
            }
            return;
        }
        slot.stage = ConnectionStage::Idle;
        slot.epoch = slot.epoch.wrapping_add(1);
        slot.ended = Error::NotConnected;
        self.abandon_attempts(i);
        self.fail_all(i, &others);
        self.report_state(i, State::Closed { why: others });
    }

    /// Handles an established connection. Returns `None` if it is no longer wanted.
    pub(super) fn connected(&mut self, connection: &Connection<'_>) -> Option<u32> {
        let (i, nth) = self.slot_of(connection.tag())?;
        let now = connection.now();
        let slot = self.slot(i);
        slot.stage = ConnectionStage::Open(connection.id());
        slot.stream = Stream { opened_at: now, ..Stream::default() };
        (slot.last_failure, slot.failures) = (None, 0);
        slot.attempts[nth].id = None;
        let address = slot.attempts[nth].address;
        let connect = std::mem::replace(&mut slot.connect, NONE);
        self.abandon_attempts(i);
        self.slot(i).tried_earlier = 0;
        // Called before the operation completes, so that its caller sees the effects of the
        // callback.
        self.report_state(i, State::Connected { address });
        if connect != NONE {
            self.end(connect, Ended { result: Ok(()), bytes_sent: 0, address: Some(address) });
        }
        Some(i)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn the_race_delay_gives_each_address_its_share_within_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(race_delay(ms(100), 2), ms(50));
        assert_eq!(race_delay(ms(5_000), 20), ms(250));
        assert_eq!(race_delay(Duration::MAX, 1), ms(250));
        assert_eq!(race_delay(ms(100), 255), ms(10));
        assert_eq!(race_delay(ms(0), 3), ms(10));
    }

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap().into();
        let parse = |text: &str| -> Vec<Endpoint> { text.split(' ').map(address).collect() };
        let all = "[::1]:1 [::2]:1 [::3]:1 10.0.0.1:1 10.0.0.2:1";
        let turns = "[::1]:1 10.0.0.1:1 [::2]:1 10.0.0.2:1 [::3]:1";
        assert_eq!(interleaved(&parse(all)), parse(turns));
        assert_eq!(interleaved(&[]), []);
        let one = parse("10.0.0.1:1");
        assert_eq!(interleaved(&vec![one[0]; 300]).len(), ADDRESSES_MAX);
    }
}
