//! What an echoing service owes its client: the bytes that were sent, all of them and unchanged.

use crate::builtin::url::ServiceOptions;
use crate::protocol::framing::Framing;

/// A stream of bytes, remembered by its length and a hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Digest {
    bytes: u64,
    /// FNV-1a, 64 bits.
    hash: u64,
}

impl Digest {
    const EMPTY: Digest = Digest { bytes: 0, hash: 0xcbf2_9ce4_8422_2325 };

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What was sent to an echoing service, and what came back.
#[derive(Debug)]
pub(super) struct Owed {
    sent: Digest,
    received: Digest,
    /// Follows each message in both streams. Empty if there are no messages. A line of input
    /// contains no newline, so two streams with the same number of messages are equal only if the
    /// messages are.
    end: Vec<u8>,
}

impl Owed {
    /// `None` for a service that does not send back what it receives.
    pub(super) fn by(service: &ServiceOptions, framing: Option<Framing>) -> Option<Owed> {
        let end = match (service, framing) {
            (ServiceOptions::Discard | ServiceOptions::Chargen, _) => return None,
            (ServiceOptions::Hub(_) | ServiceOptions::Timed(_) | ServiceOptions::Stamp(_), _) => {
                return None;
            }
            (_, Some(Framing::Delimiter { delimiter, .. })) => delimiter.bytes().to_vec(),
            (_, Some(Framing::Length { .. })) => b"\n".to_vec(),
            (_, None) => Vec::new(),
        };
        Some(Owed { sent: Digest::EMPTY, received: Digest::EMPTY, end })
    }

    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.sent.add(bytes);
        self.sent.add(&self.end);
    }

    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.received.add(bytes);
        self.received.add(&self.end);
    }

    /// Returns what is wrong with the reply, once it has ended.
    pub(super) fn complaint(&self) -> Option<String> {
        let (sent, received) = (self.sent.bytes, self.received.bytes);
        if self.sent == self.received {
            None
        } else if received < sent {
            Some(format!("the reply is truncated: {received} of {sent} bytes came back"))
        } else if received > sent {
            Some(format!("the reply is too long: {received} bytes came back for {sent}"))
        } else {
            Some("the reply is wrong: other bytes came back than were sent".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(sent: &[&[u8]], received: &[&[u8]]) -> String {
        let mut owed = Owed::by(&ServiceOptions::Echo, None).unwrap();
        sent.iter().for_each(|bytes| owed.sent(bytes));
        received.iter().for_each(|bytes| owed.received(bytes));
        owed.complaint().unwrap_or_default()
    }

    #[test]
    fn only_the_same_bytes_in_whatever_parts_are_right() {
        assert_eq!(complaint(&[b"ab", b"c"], &[b"a", b"bc"]), "");
        assert_eq!(complaint(&[], &[]), "");
        assert!(complaint(&[b"abc"], &[b"ab"]).contains("2 of 3 bytes"));
        assert!(complaint(&[b"abc"], &[b"abcd"]).contains("4 bytes came back for 3"));
        assert!(complaint(&[b"abc"], &[b"acb"]).contains("wrong"));
        assert!(Owed::by(&ServiceOptions::Discard, None).is_none());
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Of the test vectors at http://www.isthe.com/chongo/tech/comp/fnv/.
        for (text, hash) in [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c)] {
            let mut digest = Digest::EMPTY;
            digest.add(text.as_bytes());
            assert_eq!((digest.bytes, digest.hash), (text.len() as u64, hash));
        }
        let mut digest = Digest::EMPTY;
        [&b"foo"[..], b"bar"].iter().for_each(|part| digest.add(part));
        assert_eq!((digest.bytes, digest.hash), (6, 0x8594_4171_f739_67e8));
    }
}
