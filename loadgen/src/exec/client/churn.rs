//! A connection's life: it is established, closed when its lifetime is over, and begun anew. So is,
//! in an open loop, one whose reply did not come in time.

use std::time::Duration;

use echopool::service::{Answer, Connection, Turn};
use echopool::time::Time;

use super::Client;
use crate::cli::Lifetime;
use crate::exec::client::conversation::ConnectionState;
use crate::exec::lifecycle::{CONNECTS_PER_TURN, Phase};
use crate::stats::loss::Loss;
use crate::traffic::payload::Stream;

/// How long after a failed connect the next one is tried, when it is one of many in a
/// connection's lives; a first connect is not tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What is known of a connection's place beside its present [conversation](crate::exec::client::conversation::Conversation):
/// what a reply in a closed loop does not need.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// How often it has been established.
    pub(super) established: u64,
    /// Replies recorded in earlier lives.
    served_before: u64,
    /// Replies of this life that were not recorded, as they were those of the warm-up.
    pub(super) unrecorded: u64,
    /// When its connect was begun.
    pub(super) connect_began: Time,
    /// Since when it has had room for a request; known in an open loop.
    pub(super) room_since: Time,
    /// The connection is closed after so many requests, or at that time.
    retire_after: u64,
    retire_at: Time,
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
    /// Replies that were recorded, in all lives of this place.
    pub(super) fn served(&self, index: usize) -> u64 {
        let place = &self.places[index];
        place.served_before + self.conversations[index].completed - place.unrecorded
    }

    /// Whether the connection's life is over: no request is to be begun any more.
    #[inline]
    pub(super) fn retires(&self, index: usize, now: Time) -> bool {
        self.lifecycle.plan.lifetime.is_some() && {
            let place = &self.places[index];
            self.conversations[index].begun >= place.retire_after || now >= place.retire_at
        }
    }

    pub(super) fn established(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        let now = connection.now();
        let conversation = &mut self.conversations[index];
        assert_eq!(
            conversation.state,
            ConnectionState::Absent,
            "a connection is established once in a life"
        );
        conversation.state = ConnectionState::Open;
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
            // It takes the place of one whose life was over.
            Phase::Measuring | Phase::Draining(_) => self.resume(connection, index),
        }
    }

    /// The first life is a random part of the whole, so that connections that were begun together
    /// do not end together.
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

    /// Whether another connection takes the place of one that has ended: of one whose life was
    /// over, and, in an open loop, of one that was closed because a reply was late. Its users do
    /// not go away, and with fewer and fewer connections a slow server would be spared.
    pub(super) fn has_successor(&self, loss: Option<Loss>) -> bool {
        match loss {
            None => true,
            Some(Loss::TimedOut) => self.lifecycle.dispatch.is_some(),
            Some(_) => false,
        }
    }

    /// A connection has ended: its place is taken by a new one.
    pub(super) fn reconnect(&mut self, index: usize, now: Time) {
        let served_before = self.served(index);
        let established = self.places[index].established;
        let plan = &self.lifecycle.plan;
        let number = self.lifecycle.number(index) + established * plan.connections;
        let stream = Stream::new(plan.seed, number);
        self.conversations[index].renew(stream);
        self.places[index] = Place { established, served_before, ..Place::NEW };
        self.again.push_front((now, index));
    }

    /// A connect has failed. The first of a place is not tried again: the run has a connection
    /// less.
    pub(super) fn not_established(&mut self, index: usize, now: Time) {
        if self.places[index].established > 0 && self.lifecycle.phase == Phase::Measuring {
            self.again.push_back((now + RETRY_AFTER, index));
        }
    }

    /// Begins the connections that are due in the places of earlier ones.
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
