//! The payload and its verification. The stream of bytes of a connection is a function of the run's
//! seed, the connection's number and the position in the stream.
//!
//! Nothing that was sent is kept: any part of a reply can be checked in place, however it was split
//! on its way. A byte that was lost, repeated, moved or taken from another connection shifts or
//! replaces what follows it. For each following byte, the chance that a wrong byte is equal by
//! accident is 1 in 256.

/// The bytes that one connection sends and expects back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: u64,
}

const WORD: usize = 8;

impl Stream {
    /// The stream of connection number `connection` in a run with this seed.
    pub fn new(seed: u64, connection: u64) -> Stream {
        Stream { key: mix(mix(seed) ^ mix(!connection)) }
    }

    /// Writes the bytes of the stream from position `offset`.
    #[inline]
    pub fn fill(self, offset: u64, out: &mut [u8]) {
        let (head, rest) = out.split_at_mut(head_len(offset, out.len()));
        self.fill_part(offset, head);
        let mut index = (offset + head.len() as u64) / WORD as u64;
        let mut words = rest.chunks_exact_mut(WORD);
        for word in &mut words {
            word.copy_from_slice(&self.word(index));
            index += 1;
        }
        self.fill_part(index * WORD as u64, words.into_remainder());
    }

    /// Compares `bytes` with the stream from position `offset`. Returns the index of the first byte
    /// that differs.
    #[inline]
    pub fn first_difference(self, offset: u64, bytes: &[u8]) -> Option<usize> {
        let (head, rest) = bytes.split_at(head_len(offset, bytes.len()));
        if let Some(at) = self.difference_in_part(offset, head) {
            return Some(at);
        }
        let mut index = (offset + head.len() as u64) / WORD as u64;
        let words = rest.chunks_exact(WORD);
        let tail = words.remainder();
        for (nth, word) in words.enumerate() {
            if *word != self.word(index) {
                let within = self.difference_in_part(index * WORD as u64, word);
                return Some(head.len() + nth * WORD + within.expect("the words differ"));
            }
            index += 1;
        }
        let at = self.difference_in_part(index * WORD as u64, tail)?;
        Some(bytes.len() - tail.len() + at)
    }

    /// The `nth` uniformly distributed number of this stream. It is independent of the bytes.
    #[inline]
    pub fn draw(self, nth: u64) -> u64 {
        mix(mix(self.key ^ DRAW_SALT).wrapping_add(nth.wrapping_mul(GAMMA)))
    }

    /// Writes fewer bytes than a word, which do not cross the end of a word.
    fn fill_part(self, offset: u64, out: &mut [u8]) {
        if out.is_empty() {
            return;
        }
        let start = (offset % WORD as u64) as usize;
        out.copy_from_slice(&self.word(offset / WORD as u64)[start..start + out.len()]);
    }

    fn difference_in_part(self, offset: u64, bytes: &[u8]) -> Option<usize> {
        if bytes.is_empty() {
            return None;
        }
        let start = (offset % WORD as u64) as usize;
        let expected = self.word(offset / WORD as u64);
        bytes.iter().zip(&expected[start..]).position(|(actual, expected)| actual != expected)
    }

    /// Counter mode: word number `index` mixes the key and the index alone, so any position can be
    /// computed directly.
    #[inline]
    fn word(self, index: u64) -> [u8; WORD] {
        mix(self.key.wrapping_add(index.wrapping_mul(GAMMA))).to_le_bytes()
    }
}

/// Bytes up to the start of the next word, or up to the end if that comes first.
fn head_len(offset: u64, len: usize) -> usize {
    (offset.wrapping_neg() % WORD as u64).min(len as u64) as usize
}

/// An arbitrary number that separates what is drawn from the bytes.
const DRAW_SALT: u64 = 0x6472_6177_6e75_6d62;

/// The odd number nearest to 2^64 divided by the golden ratio; its multiples are evenly spread.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014): two multiplications, and each bit of the result depends on all bits of the
/// input.
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 100;

    fn bytes(stream: Stream, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        stream.fill(offset, &mut out);
        out
    }

    #[test]
    fn the_stream_is_the_same_however_it_is_split() {
        let stream = Stream::new(1, 2);
        for begin in [0, 3, 8, 1_000_003, u64::MAX - 200] {
            let whole = bytes(stream, begin, LEN);
            for split in 0..=LEN {
                let mut parts = bytes(stream, begin, split);
                parts.extend(bytes(stream, begin + split as u64, LEN - split));
                assert_eq!(parts, whole, "begin {begin}, split {split}");
            }
            for from in 0..LEN {
                for to in from..=LEN {
                    let part = &whole[from..to];
                    assert_eq!(stream.first_difference(begin + from as u64, part), None);
                }
            }
        }
    }

    #[test]
    fn a_single_wrong_bit_is_found_where_it_is() {
        let stream = Stream::new(7, 7);
        for offset in 0..2 * WORD as u64 {
            let good = bytes(stream, offset, LEN);
            for at in 0..LEN {
                for bit in 0..8 {
                    let mut bad = good.clone();
                    bad[at] ^= 1 << bit;
                    assert_eq!(stream.first_difference(offset, &bad), Some(at));
                }
            }
        }
    }

    #[test]
    fn a_lost_or_repeated_byte_is_found_within_a_few_bytes() {
        let stream = Stream::new(3, 4);
        let good = bytes(stream, 0, LEN);
        for at in 0..LEN - 2 * WORD {
            let mut lost = good.clone();
            lost.remove(at);
            let found = stream.first_difference(0, &lost).expect("a lost byte is found");
            assert!((at..at + WORD).contains(&found), "lost {at}, found {found}");
            let mut repeated = good.clone();
            repeated.insert(at, good[at]);
            let found = stream.first_difference(0, &repeated).expect("a repeated byte is found");
            assert!((at..at + WORD).contains(&found), "repeated {at}, found {found}");
        }
    }

    #[test]
    fn moved_and_foreign_bytes_are_found() {
        let stream = Stream::new(3, 4);
        for shift in 1..1_000u64 {
            let moved = bytes(stream, shift, 32);
            assert!(stream.first_difference(0, &moved).is_some(), "moved by {shift}");
        }
        for other in 0..1_000 {
            let foreign = bytes(Stream::new(3, other), 0, 32);
            assert_eq!(stream.first_difference(0, &foreign).is_some(), other != 4);
        }
        let other_run = bytes(Stream::new(4, 3), 0, 32);
        assert!(stream.first_difference(0, &other_run).is_some());
    }
}
