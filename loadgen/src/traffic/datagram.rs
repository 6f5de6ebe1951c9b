//! The form of a datagram: its header, and then bytes of the stream of its socket.

use crate::traffic::payload::Stream;

/// Bytes of a datagram before its payload: the tag of its socket, and its number.
pub const HEADER_BYTES: u64 = 12;
/// The longest datagram, over IPv4.
pub const SIZE_MAX: u64 = 65_507;

/// Datagrams of one system call, at most.
pub const BATCH: usize = 32;
/// The fewest datagrams whose fate a socket remembers.
const REMEMBERED_MIN: u64 = 64;

/// How many datagrams a socket remembers, of which this many may be outstanding.
pub fn remembered(outstanding: u64) -> u64 {
    (4 * outstanding).max(REMEMBERED_MIN).next_power_of_two()
}

const TAG_BYTES: usize = 4;

/// How the bytes of a reply compare with those that were sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bytes {
    /// They are the same.
    Right,
    /// They are too few, and right as far as they go.
    Short,
    /// They differ, from this byte on.
    Wrong(usize),
}

/// The datagrams of one socket.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    stream: Stream,
    /// Different for each run and each socket, so that a stray datagram is none of this one.
    tag: u32,
}

impl Datagrams {
    /// The datagrams of the socket with this stream.
    pub fn new(stream: Stream) -> Datagrams {
        Datagrams { stream, tag: stream.draw(u64::MAX) as u32 }
    }

    /// Writes datagram number `number`, which fills `out`: at least the header.
    pub fn write(self, number: u64, out: &mut [u8]) {
        let (header, payload) = out.split_at_mut(HEADER_BYTES as usize);
        header[..TAG_BYTES].copy_from_slice(&self.tag.to_le_bytes());
        header[TAG_BYTES..].copy_from_slice(&number.to_le_bytes());
        self.stream.fill(payload_at(number), payload);
    }

    /// The number in a reply, if the reply belongs to this socket as far as it can be read.
    pub fn number(self, reply: &[u8]) -> Option<u64> {
        let header = reply.first_chunk::<{ HEADER_BYTES as usize }>()?;
        let (tag, number) = header.split_at(TAG_BYTES);
        let number = u64::from_le_bytes(number.try_into().ok()?);
        (tag == self.tag.to_le_bytes()).then_some(number)
    }

    /// Compares a reply that has this number with the datagram, which has `length` bytes.
    pub fn compare(self, number: u64, length: usize, reply: &[u8]) -> Bytes {
        let header = HEADER_BYTES as usize;
        let payload = &reply[header..reply.len().min(length)];
        match self.stream.first_difference(payload_at(number), payload) {
            Some(place) => Bytes::Wrong(header + place),
            None if reply.len() > length => Bytes::Wrong(length),
            None if reply.len() < length => Bytes::Short,
            None => Bytes::Right,
        }
    }
}

/// Where the payload of a datagram lies in the stream of its socket. No two of them overlap.
fn payload_at(number: u64) -> u64 {
    number << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_right_short_or_wrong_at_a_byte() {
        let datagrams = Datagrams::new(Stream::new(1, 2));
        for length in [12, 13, 64, 65_507] {
            let mut sent = vec![0; length];
            datagrams.write(7, &mut sent);
            assert_eq!(datagrams.number(&sent), Some(7));
            assert_eq!(datagrams.compare(7, length, &sent), Bytes::Right);
            let longer = [&sent[..], &[0]].concat();
            assert_eq!(datagrams.compare(7, length, &longer), Bytes::Wrong(length));
            for cut in [12, length / 2 + 6].into_iter().filter(|cut| *cut < length) {
                assert_eq!(datagrams.compare(7, length, &sent[..cut]), Bytes::Short);
            }
            for place in (12..length).step_by(length / 5) {
                let mut wrong = sent.clone();
                wrong[place] ^= 1;
                assert_eq!(datagrams.compare(7, length, &wrong), Bytes::Wrong(place));
            }
        }
    }

    #[test]
    fn what_belongs_to_another_socket_has_no_number() {
        let datagrams = |connection| Datagrams::new(Stream::new(1, connection));
        let mut sent = vec![0; 64];
        datagrams(2).write(7, &mut sent);
        assert_eq!(datagrams(3).number(&sent), None);
        assert_eq!(datagrams(2).number(&sent[..11]), None);
        assert_eq!(datagrams(2).number(&[]), None);
    }
}
