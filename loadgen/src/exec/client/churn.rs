//! Lifetimes of connections: a connection is established, closed at the end of its lifetime, and
//! replaced. In an open loop, a connection whose reply was late is replaced too.

use std::time::Duration;

use echopool::service::{Answer, Connection, Turn};
use echopool::time::Time;

use super::Client;
use crate::cli::Lifetime;
use crate::exec::client::conversation::ConnectionState;
use crate::exec::lifecycle::{CONNECTS_PER_TURN, Phase};
use crate::stats::loss::Loss;
use crate::traffic::payload::Stream;

/// Delay before a failed connect is retried, if its place had a connection before. A first connect
/// is not retried.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// State of a connection's place in addition to its
/// [conversation](crate::exec::client::conversation::Conversation): what a reply in a closed loop
/// does not need.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// How many connections were established in this place.
    pub(super) established: u64,
    /// Replies recorded on earlier connections.
    served_before: u64,
    /// Replies on this connection that were not recorded because they belong to the warm-up.
    pub(super) unrecorded: u64,
    /// When its connect was begun.
    pub(super) connect_began: Time,
    /// Since when it has room for a request. Maintained in an open loop only.
    pub(super) room_since: Time,
    /// The connection is closed after this many requests, or at this time.
    retire_after: u64,
    pub(super) retire_at: Time,
}

impl Place {
    /// Never connected.
    pub(super) const NEW: Place = Place {
        established: 0,
        served_before: 0,
        unrecorded: 0,
        connect_began: Time::ZERO,
        room_since: Time::ZERO,
        retire_after: u64::MAX,
        retire_at: Time::MAX,
    };
}

impl Client {
    /// Recorded replies on all connections of this place.
    pub(super) fn served(&self, index: usize) -> u64 {
        let place = &self.places[index];
        place.served_before + self.conversations[index].completed - place.unrecorded
    }

    /// Whether the lifetime of the connection is over, so that no request may be begun.
    #[inline]
    pub(super) fn retires(&self, index: usize, now: Time) -> bool {
        self.lifecycle.plan.lifetime.is_some() && {
            let place = &self.places[index];
            self.conversations[index].begun >= place.retire_after || now >= place.retire_at
        }
    }

    pub(super) fn established(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        let now = connection.read_clock();
        let conversation = &mut self.conversations[index];
        assert_eq!(
            conversation.state,
            ConnectionState::Absent,
            "a connection is established once in a life"
        );
        conversation.state = ConnectionState::Open;
        self.reached_at = now;
        conversation.id = Some(connection.id());
        let place = &mut self.places[index];
        place.room_since = now;
        place.established += 1;
        let records = &mut self.lifecycle.records;
        records.connect.saturating_record((now - place.connect_began).as_nanos() as u64);
        let first = place.established == 1;
        records.reconnects += u64::from(!first);
        self.set_lifetime(index, now);
        self.lifecycle.established(index, first);
        match self.lifecycle.phase {
            Phase::Connecting | Phase::Ready => Answer::Continue,
            // It replaces a connection whose lifetime was over.
            Phase::Measuring | Phase::Draining(_) => self.resume(connection, index),
        }
    }

    /// The first lifetime in a place is a random part of the whole, so that connections that were
    /// begun together do not end together.
    fn set_lifetime(&mut self, index: usize, now: Time) {
        let Some(lifetime) = self.lifecycle.plan.lifetime else { return };
        let place = &mut self.places[index];
        let random = u128::from(self.conversations[index].stream.draw(u64::MAX));
        let part = |whole: u64| match place.established {
            1 => 1 + ((random * u128::from(whole)) >> 64) as u64,
            _ => whole,
        };
        match lifetime {
            Lifetime::Requests(count) => place.retire_after = part(count),
            Lifetime::Time(time) => {
                place.retire_at = now + Duration::from_nanos(part(time.as_nanos() as u64));
            }
        }
    }

    /// Whether a connection that ended is replaced: if its lifetime was over, in an open loop if a
    /// reply was late, and if asked for when the server has closed it. Real users do not go away
    /// when a reply is late, and fewer connections would relieve a slow server.
    pub(super) fn has_successor(&self, loss: Option<Loss>) -> bool {
        let may_be_replaced = match self.lifecycle.phase {
            Phase::Connecting | Phase::Ready => self.lifecycle.plan.reconnect,
            Phase::Measuring => true,
            Phase::Draining(_) => false,
        };
        may_be_replaced
            && match loss {
                None => true,
                Some(Loss::TimedOut) => self.lifecycle.dispatch.is_some(),
                Some(Loss::ClosedByPeer | Loss::Reset) => self.lifecycle.plan.reconnect,
                Some(_) => false,
            }
    }

    /// Replaces a connection that has ended.
    pub(super) fn reconnect(&mut self, index: usize, now: Time) {
        let served_before = self.served(index);
        // A server that closes connections before it serves them is not asked all the time.
        let is_useless = self.conversations[index].completed == 0;
        let established = self.places[index].established;
        let plan = &self.lifecycle.plan;
        let number = self.lifecycle.number(index) + established * plan.connections_all;
        let stream = Stream::new(plan.seed, number);
        self.conversations[index].renew(stream);
        self.places[index] = Place { established, served_before, ..Place::NEW };
        match is_useless && self.lifecycle.plan.reconnect {
            true => self.again.push_back((now + RETRY_AFTER, index)),
            false => self.again.push_front((now, index)),
        }
    }

    /// A connect failed. The first one of a place is not retried; the run has one connection less.
    pub(super) fn not_established(&mut self, index: usize, now: Time) {
        if self.places[index].established == 0 {
            return;
        }
        self.lifecycle.records.reconnects_failed += 1;
        if self.lifecycle.phase == Phase::Measuring {
            self.again.push_back((now + RETRY_AFTER, index));
        }
    }

    /// Begins the replacements that are due.
    pub(super) fn reconnect_due(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..CONNECTS_PER_TURN {
            if !self.lifecycle.may_connect(turn) {
                return;
            }
            let due = self.again.pop_front_if(|(due, _)| *due <= turn.now());
            let Some((_, index)) = due else { return };
            self.places[index].connect_began = turn.now();
            self.lifecycle.connect(turn, index);
        }
    }
}
