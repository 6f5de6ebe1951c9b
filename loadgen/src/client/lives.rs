//! A connection's life: it is established, closed when its lifetime is over, and begun anew.

use std::time::Duration;

use echopool::service::{Answer, ConnectTo, Connection, Turn};
use echopool::time::Time;

use super::{Client, Phase};
use crate::control;
use crate::flow::State;
use crate::payload::Stream;
use crate::plan::Lifetime;

/// How long after a failed connect the next one is tried, when it is one of many in a
/// connection's lives; a first connect is not tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

impl Client {
    /// Begins the connect of a connection.
    pub(super) fn connect(&mut self, turn: &mut Turn<'_>, index: usize) {
        let tag = self.share.first_connection + index as u64;
        self.flows[index].connect_began = turn.now();
        turn.connect(ConnectTo {
            target: self.plan.target,
            source: self.plan.source(tag),
            tag,
            deadline: turn.now() + self.plan.timeout,
        });
        self.connecting += 1;
    }

    pub(super) fn established(&mut self, connection: &mut Connection<'_>, index: usize) -> Answer {
        let now = connection.now();
        let flow = &mut self.flows[index];
        assert_eq!(flow.state, State::Absent, "a connection is established once in a life");
        flow.state = State::Open;
        flow.id = Some(connection.id());
        flow.room_since = now;
        flow.lives += 1;
        self.records.connect.saturating_record((now - flow.connect_began).as_nanos() as u64);
        match flow.lives {
            1 => self.records.established += 1,
            _ => self.records.reconnects += 1,
        }
        self.set_lifetime(index, now);
        self.connecting -= 1;
        self.open += 1;
        control::add(&self.tally().open, 1);
        match self.phase {
            Phase::Connecting | Phase::Ready => Answer::Continue,
            // It takes the place of one whose life was over.
            Phase::Measuring | Phase::Draining(_) => self.go_on(connection, index),
        }
    }

    /// The first life is a random part of the whole, so that connections that were begun together
    /// do not end together.
    fn set_lifetime(&mut self, index: usize, now: Time) {
        let Some(lifetime) = self.plan.lifetime else { return };
        let flow = &mut self.flows[index];
        let part = |whole: u64| match flow.lives {
            1 => 1 + ((u128::from(flow.stream.draw(u64::MAX)) * u128::from(whole)) >> 64) as u64,
            _ => whole,
        };
        match lifetime {
            Lifetime::Requests(count) => flow.retire_after = part(count),
            Lifetime::Time(time) => {
                flow.retire_at = now + Duration::from_nanos(part(time.as_nanos() as u64));
            }
        }
    }

    /// A connection whose life was over is closed: its place is taken by a new one.
    pub(super) fn begin_anew(&mut self, index: usize, now: Time) {
        let number = self.share.first_connection + index as u64;
        let flow = &mut self.flows[index];
        let stream = Stream::new(self.plan.seed, number + flow.lives * self.plan.connections);
        flow.renew(stream, &self.plan.wire);
        self.again.push_front((now, index));
    }

    /// A connect has failed. The first of a place is not tried again: the run has a connection
    /// less.
    pub(super) fn not_established(&mut self, index: usize, now: Time) {
        if self.flows[index].lives > 0 && self.phase == Phase::Measuring {
            self.again.push_back((now + RETRY_AFTER, index));
        }
    }

    /// Begins the connections that are due in the places of earlier ones.
    pub(super) fn connect_again(&mut self, turn: &mut Turn<'_>) {
        let in_flight_max = self.plan.connects_in_flight_max();
        while self.connecting < in_flight_max
            && turn.free_slots() > 0
            && let Some((_, index)) = self.again.pop_front_if(|(due, _)| *due <= turn.now())
        {
            self.connect(turn, index);
        }
    }
}
