//! Data transfer over connections: segments in transit, windows, urgent bytes, receive and send.
//! `connections` opens and closes connections.

use std::time::Duration;

use super::{Edge, EndpointId, Segment, World, WorldEvent};
use crate::error::Errno;
use crate::sim::marks::Mark;

impl World {
    pub(super) fn room_to(&self, to: EndpointId) -> usize {
        let endpoint = &self.endpoints[to];
        self.rates.window.saturating_sub(endpoint.received.len() + endpoint.bytes_under_way)
    }

    /// Sends as many bytes as the window has room for. Returns how many.
    pub(crate) fn send(
        &mut self,
        id: EndpointId,
        bytes: &[u8],
        urgent: bool,
    ) -> Result<usize, Errno> {
        let endpoint = &mut self.endpoints[id];
        endpoint.unseen.room = None;
        if let Some(error) = endpoint.error.take() {
            endpoint.broken = true;
            return Err(error);
        }
        if endpoint.broken || endpoint.fin_sent {
            return Err(Errno::PIPE);
        }
        let to = endpoint.other;
        let count = self.room_to(to).min(bytes.len());
        if count < bytes.len() {
            self.endpoints[id].blocked = true;
        }
        if count == 0 {
            return Err(Errno::AGAIN);
        }
        let urgent = urgent && count == bytes.len();
        self.post(to, Segment::Bytes(bytes[..count].to_vec(), urgent));
        Ok(count)
    }

    /// Draws how long a segment is in transit.
    pub(super) fn delay(&mut self) -> Duration {
        match self.delay_is_fixed {
            true => self.rates.delay_max,
            false => Duration::from_nanos(self.rng.u64(0..=self.rates.delay_max.as_nanos() as u64)),
        }
    }

    pub(super) fn post(&mut self, to: EndpointId, segment: Segment) {
        if let Segment::Bytes(bytes, _) = &segment {
            self.endpoints[to].bytes_under_way += bytes.len();
        }
        let mut at = self.now + self.delay();
        // Segments arrive in order.
        if let Some((last, _)) = self.endpoints[to].under_way.back() {
            at = at.max(*last);
        }
        self.endpoints[to].under_way.push_back((at, segment));
        self.at(at, WorldEvent::Arrival(to));
    }

    pub(super) fn arrive(&mut self, id: EndpointId) {
        let mut edge = Edge::default();
        let mut bytes_came = false;
        while let Some((at, _)) = self.endpoints[id].under_way.front() {
            if *at > self.now {
                break;
            }
            let (_, segment) = self.endpoints[id].under_way.pop_front().expect("it is there");
            edge.readable = true;
            match segment {
                Segment::Bytes(bytes, urgent) => {
                    let endpoint = &mut self.endpoints[id];
                    endpoint.bytes_under_way -= bytes.len();
                    if endpoint.closed {
                        // Nobody will read the bytes, so the sender gets a reset.
                        self.reset_other(id);
                        return;
                    }
                    endpoint.received.extend(bytes);
                    bytes_came = true;
                    if urgent {
                        endpoint.mark = Some(endpoint.received.len() - 1);
                        edge.read_on = true;
                        self.mark(Mark::Urgent);
                    }
                }
                Segment::Fin => {
                    self.endpoints[id].fin_received = true;
                    edge.read_on = true;
                    if bytes_came {
                        self.mark(Mark::DataWithFin);
                    }
                }
            }
        }
        if edge.readable {
            self.endpoints[id].unseen.input.get_or_insert(self.now);
            if self.suspended && self.endpoints[id].ours {
                self.mark(Mark::ArrivedWhileSuspended);
            }
            self.raise(id, edge);
        }
    }

    /// Receives up to `most` bytes.
    pub(crate) fn recv(&mut self, id: EndpointId, most: usize) -> Result<Vec<u8>, Errno> {
        let endpoint = &mut self.endpoints[id];
        endpoint.unseen.input = None;
        if endpoint.received.is_empty() {
            if let Some(error) = endpoint.error.take() {
                endpoint.broken = true;
                return Err(error);
            }
            let ended = endpoint.fin_received || endpoint.reset;
            return if ended { Ok(Vec::new()) } else { Err(Errno::AGAIN) };
        }
        let mut count = most.min(endpoint.received.len());
        match endpoint.mark {
            Some(mark) if mark > 0 && mark < count => {
                count = mark;
                endpoint.mark = Some(0);
                self.mark(Mark::StoppedAtMark);
            }
            Some(mark) if mark < count => endpoint.mark = None,
            Some(mark) => endpoint.mark = Some(mark - count),
            None => {}
        }
        let bytes: Vec<u8> = self.endpoints[id].received.drain(..count).collect();
        self.endpoints[id].taken += count as u64;
        self.endpoints[id].taken_at = Some(self.now);
        let sender = self.endpoints[id].other;
        if self.endpoints[sender].blocked && self.room_to(id) > 0 {
            self.endpoints[sender].blocked = false;
            self.endpoints[sender].unseen.room = Some(self.now);
            self.raise(sender, Edge { writable: true, ..Edge::default() });
        }
        Ok(bytes)
    }

    /// Bytes that were sent from this side and that the peer has not read. (A real system counts
    /// those that the peer's system has not acknowledged. The window is small here.)
    pub(in crate::sim) fn unacknowledged(&self, id: EndpointId) -> u32 {
        let other = &self.endpoints[self.endpoints[id].other];
        (other.received.len() + other.bytes_under_way) as u32
    }

    /// Bytes that have arrived and were not received.
    pub(in crate::sim) fn unread(&self, id: EndpointId) -> u32 {
        self.endpoints[id].received.len() as u32
    }

    /// What a receive would find: 1 if there are bytes, 0 at the end of the stream.
    pub(crate) fn peek(&mut self, id: EndpointId) -> Result<usize, Errno> {
        match self.endpoints[id].received.is_empty() {
            true => self.recv(id, 1).map(|bytes| bytes.len()),
            false => Ok(1),
        }
    }

    /// Whether a receive would do something.
    pub(in crate::sim) fn can_recv(&self, id: EndpointId) -> bool {
        let endpoint = &self.endpoints[id];
        !endpoint.received.is_empty()
            || endpoint.error.is_some()
            || endpoint.fin_received
            || endpoint.reset
    }

    /// Whether a send would do something.
    pub(in crate::sim) fn can_send(&self, id: EndpointId) -> bool {
        let endpoint = &self.endpoints[id];
        endpoint.error.is_some() || endpoint.broken || self.room_to(endpoint.other) > 0
    }
}
