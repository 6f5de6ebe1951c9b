//! What a request is on the wire: how many bytes it takes, which bytes they are, and whether what
//! came back is right. When it is sent, and by which connection, is nothing of this file's.
//!
//! A connection's requests lie one after the other in its stream of bytes; a [`Message`] says
//! where. Replies lie in the same places of the stream that comes back.

use crate::payload::Stream;
use crate::sizes::Sizes;

/// How requests are written, and how replies are recognised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// The bytes alone; the reply is the same bytes.
    Echo,
}

/// Where one request, and its reply, lie in their connection's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// From 0, in the order of sending.
    pub number: u64,
    /// The offset of its first byte in the stream.
    pub begin: u64,
    /// Its bytes on the wire, all that the protocol adds included. At least 1.
    pub len: u64,
}

impl Message {
    /// The offset of the byte behind its last one.
    #[inline]
    pub fn end(self) -> u64 {
        self.begin + self.len
    }
}

/// The requests of a run, on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wire {
    protocol: Protocol,
    /// Of the requests' bodies.
    sizes: Sizes,
}

impl Wire {
    /// `sizes`: of the requests' bodies.
    pub fn new(protocol: Protocol, sizes: Sizes) -> Wire {
        Wire { protocol, sizes }
    }

    /// Bytes that the largest request takes.
    pub fn len_max(&self) -> u64 {
        match self.protocol {
            Protocol::Echo => self.sizes.max(),
        }
    }

    /// The request that follows this one.
    #[inline]
    pub fn after(&self, stream: Stream, message: Message) -> Message {
        self.message(stream, message.number + 1, message.end())
    }

    /// The request with this number, which begins there.
    #[inline]
    pub fn message(&self, stream: Stream, number: u64, begin: u64) -> Message {
        let body = match &self.sizes {
            Sizes::Fixed(size) => *size,
            sizes => sizes.at(stream.draw(number)),
        };
        match self.protocol {
            Protocol::Echo => Message { number, begin, len: body },
        }
    }

    /// Writes the bytes of a request from `within` on. They do not go beyond its end.
    #[inline]
    pub fn fill(&self, stream: Stream, message: Message, within: u64, out: &mut [u8]) {
        debug_assert!(within + out.len() as u64 <= message.len);
        match self.protocol {
            Protocol::Echo => stream.fill(message.begin + within, out),
        }
    }

    /// Compares received bytes, the first of which is at `offset` of the stream, with what is due
    /// there. `reply` is the one that the first of them belongs to or one before that; the last
    /// may be of one that follows. Answers the index of the first byte that differs.
    #[inline]
    pub fn first_difference(
        &self,
        stream: Stream,
        reply: Message,
        offset: u64,
        bytes: &[u8],
    ) -> Option<usize> {
        debug_assert!(reply.begin <= offset);
        match self.protocol {
            // Where replies end does not matter: one stream, however it is cut.
            Protocol::Echo => stream.first_difference(offset, bytes),
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
