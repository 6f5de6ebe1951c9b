//! What a socket sends, and how a reply is judged.

use echopool::time::Time;

use super::stamp::Stamp;
use super::{Datagrams, Fate, Net, Sent};
use crate::exec::lifecycle::Phase;
use crate::stats::loss::Mismatch;
use crate::stats::records::GivenUp;
use crate::stats::tally;
use crate::traffic::datagram::{BATCH, Bytes};

/// Bytes of a mismatch that are shown.
const SHOWN: usize = 16;

impl<N: Net> Datagrams<N> {
    /// Sends what the socket may send.
    #[inline]
    pub(super) fn resume(&mut self, index: usize, now: Time) {
        if self.lifecycle.phase != Phase::Measuring {
            return;
        }
        match self.lifecycle.dispatch {
            None => {
                let period = self.lifecycle.period;
                while self.has_room(index) && now < period.end && self.may_begin(now) {
                    self.begin(index, now);
                }
            }
            Some(_) => self.take_offered(index, now),
        }
        self.flush(index);
    }

    /// Closed loop: acquires the right to begin a request. During the warm-up it is always granted.
    fn may_begin(&self, now: Time) -> bool {
        now < self.lifecycle.period.record_from || self.lifecycle.control.take_request()
    }

    /// Open loop: takes waiting requests for this socket, unless another one has waited longer.
    fn take_offered(&mut self, index: usize, now: Time) {
        let last = self.lifecycle.period.last();
        while self.has_room(index) {
            let dispatch = self.lifecycle.dispatch.as_mut().expect("an open loop");
            if dispatch.others_wait() {
                return dispatch.room(index);
            }
            let Some(intended) = dispatch.take(index, now.min(last)) else {
                return dispatch.room(index);
            };
            self.begin(index, intended);
        }
    }

    pub(super) fn has_room(&self, index: usize) -> bool {
        let client = &self.clients[index];
        // The ring may still have an old datagram whose time-out is not over.
        client.outstanding < self.lifecycle.plan.pipeline
            && self.ring[self.slot(index, client.next)].fate != Fate::Outstanding
    }

    fn slot(&self, index: usize, number: u64) -> usize {
        index * self.remembered as usize + (number % self.remembered) as usize
    }

    /// The length of a datagram.
    fn length(&self, index: usize, number: u64) -> usize {
        self.lifecycle.plan.sizes.at(self.clients[index].stream.draw(number)) as usize
    }

    /// Queues a datagram with this intended time.
    pub(super) fn begin(&mut self, index: usize, intended: Time) {
        if self.queued == BATCH {
            self.flush(index);
        }
        let now = self.net.now();
        let number = self.clients[index].next;
        let length = self.length(index, number);
        let slot = self.slot(index, number);
        let client = &mut self.clients[index];
        client.next += 1;
        client.outstanding += 1;
        let wall_clock = self.stamp.is_some().then(|| self.net.unix_now_ns());
        let out = &mut self.net.buffer_mut(self.queued)[..length];
        match (&mut self.stamp, wall_clock) {
            (Some(stamp), Some(sent)) => stamp.write(slot, number, sent, out),
            _ => client.datagrams.write(number, out),
        }
        let room_since = client.room_since;
        self.net.push(self.queued, length);
        self.queued += 1;
        self.ring[slot] = Sent { intended, at: now, fate: Fate::Outstanding };
        self.second.begun(now);
        self.second.sent();
        self.counts.sent += 1;
        let is_open_loop = self.lifecycle.dispatch.is_some();
        let lifecycle = &mut self.lifecycle;
        if intended < lifecycle.period.record_from {
            lifecycle.records.warmup_requests += 1;
            return;
        }
        lifecycle.records.offered += 1;
        lifecycle.records.requests += 1;
        if is_open_loop {
            let own_since = lifecycle.stalls.own_since(now, intended, room_since);
            lifecycle.records.sent(now, intended, own_since);
            lifecycle.intervals.sent(now, now - intended);
        }
    }

    /// Sends what is queued for this socket. What the kernel refuses is lost in its time.
    pub(super) fn flush(&mut self, index: usize) {
        if self.queued > 0 {
            self.queued = 0;
            let sent = self.net.send(index);
            self.counts.errors += sent.refused;
        }
    }

    /// Whether the time-out of a datagram sent at this time had passed when all sockets were last
    /// found empty. What lies in them since a pause of this process came in time.
    fn is_overdue(&self, sent: Time) -> bool {
        self.looked_at - sent > self.lifecycle.plan.timeout
    }

    /// Judges datagram number `at` of the batch, which has arrived at a socket.
    pub(super) fn judge(&mut self, index: usize, at: usize, now: Time) {
        let Some(number) = self.number(index, at) else {
            // Not one of ours, as far as it can be read.
            return self.corrupted(index, at, None, 0);
        };
        let is_forgotten = number + self.remembered < self.clients[index].next;
        let sent = self.ring[self.slot(index, number)];
        if !is_forgotten && sent.fate == Fate::Outstanding && self.is_overdue(sent.at) {
            self.lose(index, number, now);
        }
        match self.compare(index, at, number, is_forgotten) {
            Bytes::Right if is_forgotten => {
                // It was sent long ago. It was lost, or this is another reply to it.
                self.counts.late += 1;
                return self.reflected(index, at, number, false);
            }
            Bytes::Right => return self.right(index, at, number, now),
            Bytes::Short => self.counts.truncated += 1,
            Bytes::Wrong(place) => self.corrupted(index, at, Some(number), place),
        }
        if !is_forgotten {
            self.damaged(index, number, now);
        }
    }

    /// Compares a reply with its datagram. What is not in the datagram's number is forgotten with it:
    /// the time in a packet of STAMP.
    fn compare(&self, index: usize, at: usize, number: u64, is_forgotten: bool) -> Bytes {
        let reply = self.net.datagram(at);
        match &self.stamp {
            None => {
                let length = self.length(index, number);
                self.clients[index].datagrams.compare(number, length, reply)
            }
            Some(_) if is_forgotten => Bytes::Right,
            Some(stamp) => stamp.compare(self.slot(index, number), number, reply),
        }
    }

    /// A reply is that to a datagram which is remembered.
    fn right(&mut self, index: usize, at: usize, number: u64, now: Time) {
        let slot = self.slot(index, number);
        let fate = self.ring[slot].fate;
        self.reflected(index, at, number, fate == Fate::Outstanding);
        match fate {
            Fate::Outstanding => self.answered(index, number, now),
            Fate::Lost => {
                self.counts.late += 1;
                self.ring[slot].fate = Fate::Answered;
            }
            _ => self.counts.duplicated += 1,
        }
    }

    /// What a right reply of a reflector tells. `is_first`: whether it is the first one to its packet,
    /// and came in time.
    fn reflected(&mut self, index: usize, at: usize, number: u64, is_first: bool) {
        let slot = self.slot(index, number);
        let is_remembered = number + self.remembered >= self.clients[index].next;
        let is_recorded = self.ring[slot].intended >= self.lifecycle.period.record_from;
        if let Some(stamp) = &mut self.stamp {
            let returned = self.net.arrived_unix_ns(at);
            let returned = returned.unwrap_or_else(|| self.net.unix_now_ns());
            let is_timed = is_first && is_recorded;
            let slot = is_remembered.then_some(slot);
            let reply = self.net.datagram(at);
            stamp.reply(index, (number, slot), reply, (is_timed, returned));
        }
    }

    /// The number of the datagram that this is a reply to.
    fn number(&self, index: usize, at: usize) -> Option<u64> {
        let client = &self.clients[index];
        let reply = self.net.datagram(at);
        let number = match &self.stamp {
            None => client.datagrams.number(reply),
            Some(_) => Stamp::number(reply, client.next),
        };
        number.filter(|number| *number < client.next)
    }

    fn answered(&mut self, index: usize, number: u64, now: Time) {
        let sent = self.end(index, number, Fate::Answered, now);
        let in_period =
            self.lifecycle.phase == Phase::Measuring && self.lifecycle.period.contains(now);
        let length = self.length(index, number) as u64;
        let target = self.lifecycle.target(self.places[index]);
        let client = &mut self.clients[index];
        client.replies += 1;
        if number < client.answered_to {
            self.counts.out_of_order += 1;
        }
        client.answered_to = client.answered_to.max(number + 1);
        let service = now - sent.at;
        client.jitter.reply(service.as_nanos() as u64);
        self.second.served(service);
        self.second.answered(now, 1);
        let lifecycle = &mut self.lifecycle;
        lifecycle.records.bytes_verified += length;
        if in_period {
            lifecycle.records.bytes += length;
            lifecycle.intervals.bytes(now, length);
        }
        tally::add(&lifecycle.tally().replies, 1);
        if sent.intended < lifecycle.period.record_from {
            client.unrecorded += 1;
            return;
        }
        let latency = now - sent.intended;
        lifecycle.records.reply(now, target, latency, in_period);
        lifecycle.intervals.reply(now, latency, in_period);
        if lifecycle.dispatch.is_some() {
            lifecycle.records.service_time.saturating_record(service.as_nanos() as u64);
        }
    }

    /// The reply to a datagram was damaged. The datagram has no other end.
    fn damaged(&mut self, index: usize, number: u64, now: Time) {
        if self.ring[self.slot(index, number)].fate == Fate::Outstanding {
            let sent = self.end(index, number, Fate::Answered, now);
            self.give_up(index, &sent, now, GivenUp::Unanswered { sent: sent.at });
        }
    }

    /// The time-out of a datagram is over.
    pub(super) fn lose(&mut self, index: usize, number: u64, now: Time) {
        let sent = self.end(index, number, Fate::Lost, now);
        self.counts.lost += 1;
        self.give_up(index, &sent, now, GivenUp::TimedOut { sent: sent.at });
    }

    /// The run is over before the time-out of a datagram is.
    pub(super) fn leave(&mut self, index: usize, number: u64, now: Time) {
        let sent = self.end(index, number, Fate::Lost, now);
        self.give_up(index, &sent, now, GivenUp::Unanswered { sent: sent.at });
    }

    /// A datagram is not outstanding any more.
    fn end(&mut self, index: usize, number: u64, fate: Fate, now: Time) -> Sent {
        let slot = self.slot(index, number);
        let client = &mut self.clients[index];
        if client.outstanding == self.lifecycle.plan.pipeline {
            client.room_since = now;
        }
        client.outstanding -= 1;
        let sent = self.ring[slot];
        self.ring[slot].fate = fate;
        sent
    }

    fn give_up(&mut self, index: usize, sent: &Sent, now: Time, end: GivenUp) {
        self.second.given_up(now, 1);
        if sent.intended >= self.lifecycle.period.record_from {
            let target = Some(self.lifecycle.target(self.places[index]));
            self.lifecycle.records.give_up(now, target, sent.intended, end);
            self.lifecycle.intervals.give_up(now, now - sent.intended);
        }
    }

    /// The oldest datagram of a socket that is outstanding.
    pub(super) fn oldest(&mut self, index: usize) -> Option<(u64, Time)> {
        let client = &self.clients[index];
        let first = client.oldest.max(client.next.saturating_sub(self.remembered));
        let is_outstanding =
            |number: &u64| self.ring[self.slot(index, *number)].fate == Fate::Outstanding;
        let found = (first..client.next).find(is_outstanding);
        self.clients[index].oldest = found.unwrap_or(client.next);
        found.map(|number| (number, self.ring[self.slot(index, number)].at))
    }

    /// A reply differs, from this byte on. `number`: of its datagram, if that can be read.
    #[cold]
    fn corrupted(&mut self, index: usize, at: usize, number: Option<u64>, place: usize) {
        self.counts.corrupted += 1;
        let actual = self.net.datagram(at);
        let end = actual.len().min(place + SHOWN);
        let actual = actual[place.min(end)..end].to_vec();
        let expected = number.map(|number| self.expected(index, number, place));
        let note = match number {
            None => "a reply to no datagram of this socket".to_owned(),
            Some(number) => format!("in the reply to datagram {number} of this socket"),
        };
        self.lifecycle.differs(
            self.places[index],
            Mismatch {
                connection: 0,
                stream_offset: place as u64,
                request: number.unwrap_or(0),
                request_offset: place as u64,
                expected: expected.unwrap_or_default(),
                actual,
                note: Some(note),
            },
        );
    }

    /// What a reply should have from this byte on, as far as it is shown.
    #[cold]
    fn expected(&self, index: usize, number: u64, place: usize) -> Vec<u8> {
        if let Some(stamp) = &self.stamp {
            return stamp.expected(self.slot(index, number), number, place);
        }
        let length = self.length(index, number);
        let mut whole = vec![0; length];
        self.clients[index].datagrams.write(number, &mut whole);
        whole[place.min(length)..length.min(place + SHOWN)].to_vec()
    }
}
