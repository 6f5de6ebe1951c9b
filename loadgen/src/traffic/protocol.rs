//! The protocols of requests: what surrounds the body of a request, and which bytes the body may
//! contain. `wire` computes the positions of requests; a hub has its own protocol (`hub_frames`).
//!
//! * echo: the body alone
//! * framed: the length of the body in 4 bytes, then the body
//! * timed: the length of the rest in 4 bytes, 32 bytes into which the server writes times, then the
//!   body
//! * message: the body, then a delimiter. The body uses 64 printable bytes, none of which is the
//!   first byte of the delimiter, so no delimiter can begin before the end of the body. A wrong
//!   byte is equal to the right one by accident 1 time in 64, not in 256.

use echopool::builtin::timed::TIMES_BYTES;
use echopool::framing::{self, ByteOrder, Delimiter, LENGTH_BYTES};

use crate::traffic::message::Message;
use crate::traffic::payload::Stream;

/// How requests are written and replies recognised. A reply has the same bytes as its request,
/// except for the times of a timed one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// The body alone.
    Echo,
    /// The length of the body comes first.
    Framed(ByteOrder),
    /// The length of the rest comes first, and then the times.
    Timed(ByteOrder),
    /// A delimiter comes last.
    Message(Delimiter),
}

/// The bytes of messages: letters, digits, `-` and `_`.
const ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Replaces the byte of the alphabet that is the first byte of the delimiter.
const STAND_IN: u8 = b'.';
/// Bytes of a message that are generated at once for a comparison.
const STEP: usize = 256;

impl Protocol {
    /// Bytes of a request in addition to its body.
    #[inline]
    pub fn overhead(&self) -> u64 {
        match self {
            Protocol::Echo => 0,
            Protocol::Framed(_) => LENGTH_BYTES as u64,
            Protocol::Timed(_) => TIMED_HEAD as u64,
            Protocol::Message(delimiter) => delimiter.bytes().len() as u64,
        }
    }

    /// How many of `len` bytes from `within` are in front of a framed body.
    #[inline]
    fn head_len(&self, within: u64, len: usize) -> usize {
        self.overhead().saturating_sub(within).min(len as u64) as usize
    }

    /// Writes the bytes of a request from `within`. `out` does not extend beyond the end of the
    /// request.
    #[inline]
    pub fn fill(&self, stream: Stream, message: Message, within: u64, out: &mut [u8]) {
        match self {
            Protocol::Echo => stream.fill(message.begin + within, out),
            Protocol::Framed(order) | Protocol::Timed(order) => {
                let (head, body) = out.split_at_mut(self.head_len(within, out.len()));
                let length = length(message, *order);
                let from = within as usize;
                for (byte, at) in head.iter_mut().zip(from..) {
                    *byte = length.get(at).copied().unwrap_or_else(|| no_time(at));
                }
                stream.fill(message.begin + within + head.len() as u64, body);
            }
            Protocol::Message(delimiter) => {
                let (body, tail) =
                    out.split_at_mut(body_len(message, delimiter, within, out.len()));
                stream.fill(message.begin + within, body);
                body.iter_mut().for_each(|byte| *byte = harmless(*byte, delimiter));
                let end = message.len - delimiter.bytes().len() as u64;
                let from = (within + body.len() as u64).saturating_sub(end) as usize;
                tail.copy_from_slice(&delimiter.bytes()[from..from + tail.len()]);
            }
        }
    }

    /// Compares received bytes with those of a request from `within`. They do not extend beyond its
    /// end. Returns the index of the first byte that differs.
    #[inline]
    pub fn first_difference(
        &self,
        stream: Stream,
        message: Message,
        within: u64,
        bytes: &[u8],
    ) -> Option<usize> {
        match self {
            Protocol::Echo => stream.first_difference(message.begin + within, bytes),
            Protocol::Framed(order) | Protocol::Timed(order) => {
                // The times are behind the length, and not compared.
                let (head, body) = bytes.split_at(self.head_len(within, bytes.len()));
                let due = &length(message, *order)[(within as usize).min(LENGTH_BYTES)..];
                let at = head.iter().zip(due).position(|(actual, due)| actual != due);
                let begin = message.begin + within + head.len() as u64;
                at.or_else(|| Some(head.len() + stream.first_difference(begin, body)?))
            }
            Protocol::Message(_) => {
                let mut due = [0; STEP];
                let mut before = 0;
                for part in bytes.chunks(STEP) {
                    let due = &mut due[..part.len()];
                    self.fill(stream, message, within + before as u64, due);
                    if part != due {
                        let differs = |(actual, due)| actual != due;
                        let at = part.iter().zip(&*due).position(differs);
                        return at.map(|at| before + at);
                    }
                    before += part.len();
                }
                None
            }
        }
    }
}

/// Bytes in front of a timed body.
const TIMED_HEAD: usize = LENGTH_BYTES + TIMES_BYTES;

/// A byte of the times in a request. A server that sends them back as they are has received the
/// request after it has sent the reply, which shows that it does not write times.
fn no_time(at: usize) -> u8 {
    if at < LENGTH_BYTES + TIMES_BYTES / 2 { 0xff } else { 0 }
}

/// The header of a framed body.
#[inline]
fn length(message: Message, order: ByteOrder) -> [u8; LENGTH_BYTES] {
    framing::encode((message.len - LENGTH_BYTES as u64) as u32, order)
}

/// How many of `len` bytes from `within` come before the delimiter.
#[inline]
fn body_len(message: Message, delimiter: &Delimiter, within: u64, len: usize) -> usize {
    let end = message.len - delimiter.bytes().len() as u64;
    end.saturating_sub(within).min(len as u64) as usize
}

/// A byte of the alphabet that is not the first byte of the delimiter.
#[inline]
fn harmless(byte: u8, delimiter: &Delimiter) -> u8 {
    let letter = ALPHABET[usize::from(byte % ALPHABET.len() as u8)];
    if letter == delimiter.bytes()[0] { STAND_IN } else { letter }
}

#[cfg(test)]
mod tests {
    use echopool::builtin::timed::Times;

    use super::*;

    fn delimiter(bytes: &[u8]) -> Delimiter {
        Delimiter::new(bytes).expect("1 to 16 bytes")
    }

    fn protocols() -> Vec<Protocol> {
        let mut all = vec![
            Protocol::Echo,
            Protocol::Framed(ByteOrder::Little),
            Protocol::Framed(ByteOrder::Big),
            Protocol::Timed(ByteOrder::Little),
            Protocol::Timed(ByteOrder::Big),
        ];
        let delimiters: [&[u8]; 5] = [b"<EOF>", b"\n", b"\0\0", b"aab", b"A-------________"];
        all.extend(delimiters.map(|bytes| Protocol::Message(delimiter(bytes))));
        all
    }

    fn whole(protocol: Protocol, body: u64, begin: u64) -> (Stream, Message, Vec<u8>) {
        let stream = Stream::new(1, 2);
        let message = Message { number: 0, begin, len: body + protocol.overhead() };
        let mut bytes = vec![0; message.len as usize];
        protocol.fill(stream, message, 0, &mut bytes);
        (stream, message, bytes)
    }

    #[test]
    fn any_part_is_the_same_as_in_the_whole() {
        for protocol in protocols() {
            for body in [1, 2, 5, 30] {
                let (stream, message, whole) = whole(protocol, body, 1_003);
                for from in 0..whole.len() {
                    for to in from..=whole.len() {
                        let due = &whole[from..to];
                        let mut part = vec![0; due.len()];
                        protocol.fill(stream, message, from as u64, &mut part);
                        assert_eq!(part, due, "{protocol:?} {from}..{to}");
                        let differs = protocol.first_difference(stream, message, from as u64, due);
                        assert_eq!(differs, None, "{protocol:?} {from}..{to}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_wrong_byte_is_found_where_it_is() {
        for protocol in protocols() {
            let (stream, message, whole) = whole(protocol, 600, 77);
            let is_time = |at: &usize| match protocol {
                Protocol::Timed(_) => (LENGTH_BYTES..TIMED_HEAD).contains(at),
                _ => false,
            };
            for at in (0..whole.len()).filter(|at| !is_time(at)) {
                let mut wrong = whole.clone();
                wrong[at] ^= 0x80;
                for from in [0, at.saturating_sub(3), at] {
                    let part = &wrong[from..];
                    let found = protocol.first_difference(stream, message, from as u64, part);
                    assert_eq!(found, Some(at - from), "{protocol:?} {at} from {from}");
                }
            }
        }
    }

    #[test]
    fn a_frame_says_its_length_in_either_order() {
        for (order, head) in
            [(ByteOrder::Little, [0x58, 2, 0, 0]), (ByteOrder::Big, [0, 0, 2, 0x58])]
        {
            let (stream, _, whole) = whole(Protocol::Framed(order), 600, 8);
            assert_eq!(whole[..4], head);
            assert_eq!(stream.first_difference(12, &whole[4..]), None);
        }
    }

    #[test]
    fn the_times_of_a_reply_are_not_compared() {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let protocol = Protocol::Timed(order);
            let (stream, message, mut whole) = whole(protocol, 30, 77);
            assert_eq!(whole[..LENGTH_BYTES], framing::encode(32 + 30, order));
            let unwritten = whole[LENGTH_BYTES..TIMED_HEAD].try_into().expect("32 bytes");
            assert!(!Times::decode(&unwritten, order).are_in_order());
            whole[LENGTH_BYTES..TIMED_HEAD].fill(0xff);
            for from in 0..whole.len() {
                let part = &whole[from..];
                let found = protocol.first_difference(stream, message, from as u64, part);
                assert_eq!(found, None, "from {from}");
            }
        }
    }

    #[test]
    fn a_delimiter_is_at_the_end_of_a_message_and_nowhere_before() {
        for bytes in [&b"<EOF>"[..], b"\n", b"A", b"aa", b"-_-_", b"AAAAAAAAAAAAAAAA"] {
            let (_, _, whole) = whole(Protocol::Message(delimiter(bytes)), 100_000, 5);
            let first = whole.windows(bytes.len()).position(|window| window == bytes);
            assert_eq!(first, Some(100_000), "{bytes:?}");
            assert!(whole[..100_000].iter().all(u8::is_ascii_graphic));
        }
    }
}
