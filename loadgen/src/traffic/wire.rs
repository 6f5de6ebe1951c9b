//! Requests on the wire: their lengths and their bytes, and whether received bytes are right. This
//! file does not decide when a request is sent, or by which connection.
//!
//! The requests of a connection lie one after the other in its stream of bytes; a [`Message`] is
//! the position of one. Replies have the same positions in the received stream.

use echopool::framing::ByteOrder;

use crate::traffic::message::Message;
use crate::traffic::payload::Stream;
pub use crate::traffic::protocol::Protocol;
use crate::traffic::sizes::Sizes;

/// The requests of a run, on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wire {
    protocol: Protocol,
    /// Sizes of the bodies.
    sizes: Sizes,
}

impl Wire {
    /// `sizes`: sizes of the bodies.
    pub fn new(protocol: Protocol, sizes: Sizes) -> Wire {
        Wire { protocol, sizes }
    }

    /// The byte order of the times in replies; `None` if there are no times.
    pub fn order_of_times(&self) -> Option<ByteOrder> {
        match self.protocol {
            Protocol::Timed(order) => Some(order),
            _ => None,
        }
    }

    /// Length of the largest request in bytes.
    pub fn len_max(&self) -> u64 {
        self.sizes.max() + self.protocol.overhead()
    }

    /// The request that follows this one.
    #[inline]
    pub fn after(&self, stream: Stream, message: Message) -> Message {
        self.message(stream, message.number + 1, message.end())
    }

    /// The request with this number, which begins at this offset.
    #[inline]
    pub fn message(&self, stream: Stream, number: u64, begin: u64) -> Message {
        let body = match &self.sizes {
            Sizes::Fixed(size) => *size,
            sizes => sizes.at(stream.draw(number)),
        };
        Message { number, begin, len: body + self.protocol.overhead() }
    }

    /// Writes the bytes of a request from `within`. `out` does not extend beyond the end of the
    /// request.
    #[inline]
    pub fn fill(&self, stream: Stream, message: Message, within: u64, out: &mut [u8]) {
        debug_assert!(within + out.len() as u64 <= message.len);
        self.protocol.fill(stream, message, within, out);
    }

    /// Compares received bytes with the expected ones. The first byte is at `offset` of the stream.
    /// `reply` is the reply that the first byte belongs to, or an earlier one; the last byte may
    /// belong to a later reply. Returns the index of the first byte that differs.
    #[inline]
    pub fn first_difference(
        &self,
        stream: Stream,
        reply: Message,
        offset: u64,
        bytes: &[u8],
    ) -> Option<usize> {
        debug_assert!(reply.begin <= offset);
        if self.protocol == Protocol::Echo {
            // The ends of replies do not matter: the stream is the same however it is split.
            return stream.first_difference(offset, bytes);
        }
        self.difference_in_replies(stream, reply, offset, bytes)
    }

    /// The comparison for protocols in which each reply is written separately.
    fn difference_in_replies(
        &self,
        stream: Stream,
        mut reply: Message,
        offset: u64,
        bytes: &[u8],
    ) -> Option<usize> {
        let mut before = 0;
        while reply.end() <= offset {
            reply = self.after(stream, reply);
        }
        loop {
            let within = offset + before as u64 - reply.begin;
            let len = (reply.len - within).min((bytes.len() - before) as u64) as usize;
            let part = &bytes[before..before + len];
            if let Some(at) = self.protocol.first_difference(stream, reply, within, part) {
                return Some(before + at);
            }
            before += len;
            if before == bytes.len() {
                return None;
            }
            reply = self.after(stream, reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_lie_one_after_the_other() {
        for sizes in ["100", "uniform:1-300", "list:1:5,64:1"] {
            let wire = Wire::new(Protocol::Echo, sizes.parse().expect("sizes"));
            let stream = Stream::new(1, 2);
            let mut whole = vec![0; 4_000];
            stream.fill(0, &mut whole);
            let mut message = wire.message(stream, 0, 0);
            for number in 0..10 {
                assert_eq!(message.number, number);
                assert!((1..=wire.len_max()).contains(&message.len), "{sizes}");
                for within in [0, message.len / 2, message.len - 1] {
                    let mut bytes = vec![0; (message.len - within) as usize];
                    wire.fill(stream, message, within, &mut bytes);
                    let offset = message.begin + within;
                    assert_eq!(bytes, whole[offset as usize..message.end() as usize]);
                    let rest = &whole[offset as usize..];
                    assert_eq!(wire.first_difference(stream, message, offset, rest), None);
                }
                let next = wire.after(stream, message);
                assert_eq!(next.begin, message.end());
                message = next;
            }
        }
    }
}
