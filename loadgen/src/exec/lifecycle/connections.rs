//! The connections of a thread: begun at the requested rate, established, and lost.

use echopool::error::{CloseReason, Errno};
use echopool::service::{ConnectTo, Handshake, HandshakeError, Turn};
use echopool::time::Time;

use super::{Lifecycle, Phase, TICK};
use crate::exec::client::conversation::ConnectionState;
use crate::plan::addresses;
use crate::stats::loss::{Loss, Mismatch};
use crate::stats::tally;

/// Connections begun per turn. In between, the thread sees which earlier ones are established. If
/// all allowed ones were begun in one turn, connects of a few microseconds would appear to take as
/// long as beginning the other 511.
pub const CONNECTS_PER_TURN: usize = 8;

/// State of a connection: its index in the thread's tables.
#[derive(Default)]
pub struct ClientSession {
    pub index: Option<usize>,
}

/// A connection that is to be tried at another address of its target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    index: usize,
    /// Which address.
    nth: usize,
    /// The end of the time-out, which all attempts share.
    until: Time,
}

impl Lifecycle {
    /// The index of the connection with this tag.
    pub fn index(&self, tag: u64) -> usize {
        (addresses::of_tag(tag).0 - self.share.first_connection) as usize
    }

    /// The number in the whole run of the connection with this index.
    pub fn number(&self, index: usize) -> u64 {
        self.share.first_connection + index as u64
    }

    /// Begins connections that are due, and passes their indices to `begun`. Returns the time of
    /// the next call; `None` when all are established or have failed.
    pub fn connect_some(
        &mut self,
        turn: &mut Turn<'_>,
        mut begun: impl FnMut(usize),
    ) -> Option<Time> {
        let now = turn.now();
        if self.control.stopped() {
            return Some(now + TICK);
        }
        let began = *self.connect_began.get_or_insert(now);
        for _ in 0..CONNECTS_PER_TURN {
            let Some(attempt) = self.attempts.pop_front() else { break };
            self.attempt(turn, attempt);
        }
        let begun_before = self.connects_begun;
        while self.connects_begun < self.share.connections && self.may_connect(turn) {
            let due = began + self.plan.connect_due(&self.share, self.connects_begun);
            if due > now {
                return Some(due);
            }
            if self.connects_begun - begun_before == CONNECTS_PER_TURN {
                return Some(now);
            }
            begun(self.connects_begun);
            self.connect(turn, self.connects_begun);
            self.connects_begun += 1;
        }
        if !self.attempts.is_empty() {
            return Some(now);
        }
        let all = self.connects_begun == self.share.connections && self.connecting == 0;
        (!all).then_some(now + TICK)
    }

    /// Whether another connection may be begun before the earlier ones are established.
    #[inline]
    pub fn may_connect(&self, turn: &Turn<'_>) -> bool {
        self.connecting < self.plan.connects_in_flight_max() && turn.free_slots() > 0
    }

    /// Begins the connection with this index.
    pub fn connect(&mut self, turn: &mut Turn<'_>, index: usize) {
        let nth = self.plan.first_address(self.plan.target_index(self.number(index)));
        self.attempt(turn, Attempt { index, nth, until: turn.now() + self.plan.timeout });
    }

    fn attempt(&mut self, turn: &mut Turn<'_>, attempt: Attempt) {
        let Attempt { index, nth, until } = attempt;
        let number = self.number(index);
        let target_index = self.plan.target_index(number);
        let target = self.plan.address(target_index, nth);
        let time = self.plan.attempt_time(target_index, nth, until - turn.now());
        turn.connect(ConnectTo {
            target: *target,
            source: self.plan.source(number, target),
            tag: addresses::tag(number, nth),
            deadline: turn.now() + time,
        });
        if self.plan.next_address(target_index, nth).is_some() {
            self.untils.insert(index, until);
        }
        self.connecting += 1;
    }

    /// An address has accepted the connection with this tag. Returns its index.
    pub fn accepted(&mut self, tag: u64) -> usize {
        let index = self.index(tag);
        let target = self.plan.target_index(self.number(index));
        self.plan.accepted(target, addresses::of_tag(tag).1);
        index
    }

    /// Whether a connect that failed is tried at another address.
    fn tries_elsewhere(&mut self, tag: u64) -> bool {
        let index = self.index(tag);
        let target = self.plan.target_index(self.number(index));
        let next = self.plan.next_address(target, addresses::of_tag(tag).1);
        let (Some(nth), Some(until)) = (next, self.untils.remove(&index)) else { return false };
        let is_first = self.phase == Phase::Connecting;
        if is_first {
            self.attempts.push_back(Attempt { index, nth, until });
        }
        is_first
    }

    /// Counts an established connection. `first`: it does not replace another one.
    pub fn established(&mut self, index: usize, first: bool) {
        if first {
            self.records.established += 1;
            self.target_count(index).established += 1;
        }
        self.connecting -= 1;
        self.open += 1;
        tally::add(&self.tally().open, 1);
    }

    /// Counts a connect that ended without a connection. Returns whether it failed: the run may
    /// have stopped while it was in progress, or another address of the target may be left.
    pub fn connect_failed(&mut self, tag: u64, error: Errno) -> bool {
        self.connecting -= 1;
        let failed = error != Errno::CANCELED && !self.tries_elsewhere(tag);
        if failed {
            *self.records.connect_errors.entry(error.raw_os_error()).or_default() += 1;
            tally::add(&self.tally().connect_failed, 1);
        }
        failed
    }

    /// Records how a TLS handshake ended. Returns whether the connect failed by it: another address
    /// of the target may be left.
    pub fn handshake(&mut self, tag: u64, result: Result<Handshake, HandshakeError>) -> bool {
        let in_period = self.phase == Phase::Measuring;
        let failed = match &result {
            Ok(_) => false,
            Err(_) => {
                self.connecting -= 1;
                !self.tries_elsewhere(tag)
            }
        };
        let tls = self.records.tls.as_mut().expect("the run uses TLS");
        match result {
            Ok(handshake) => tls.done(&handshake, in_period),
            Err(error) if failed => {
                *tls.failed.entry(error).or_default() += 1;
                tally::add(&self.tally().connect_failed, 1);
            }
            Err(_) => {}
        }
        failed
    }

    /// Counts the close of an established connection.
    pub fn closed(&mut self) {
        self.open -= 1;
        tally::subtract_one(&self.tally().open);
    }

    /// Whether a connection in this state was lost when it was closed for this reason.
    pub fn loss(&self, state: ConnectionState, reason: CloseReason) -> Option<Loss> {
        match state {
            ConnectionState::Closing => None,
            ConnectionState::Lost(loss) => Some(loss),
            // An interrupted run does not wait for its connections.
            _ if self.control.stopped() && reason == CloseReason::Stopped => None,
            _ => Some(loss_of(reason)),
        }
    }

    /// Counts a lost connection.
    pub fn lost(&mut self, index: usize, loss: Loss) {
        self.records.loss(loss);
        // A mismatch was counted when it was found.
        if loss != Loss::Mismatch {
            self.target_count(index).lost += 1;
            tally::add(&self.tally().lost, 1);
        }
    }

    /// Counts a connection whose bytes differ. It becomes lost when it is closed.
    #[cold]
    pub fn differs(&mut self, index: usize, mut mismatch: Mismatch) {
        mismatch.connection = self.number(index);
        self.records.mismatch(mismatch);
        self.target_count(index).mismatches += 1;
        tally::add(&self.tally().mismatches, 1);
    }
}

/// The kind of loss of a connection that the client did not close.
fn loss_of(reason: CloseReason) -> Loss {
    match reason {
        CloseReason::PeerClosed => Loss::ClosedByPeer,
        CloseReason::Reset => Loss::Reset,
        CloseReason::PeerLost => Loss::PeerLost,
        CloseReason::TlsTruncated => Loss::TlsTruncated,
        CloseReason::TlsAlert => Loss::TlsAlert,
        _ => Loss::Failed,
    }
}
