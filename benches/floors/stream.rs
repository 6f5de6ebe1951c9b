//! The bytes that a connection sends: known from the connection's number and the stream offset, so
//! that a lost, repeated, reordered or foreign byte is found when it comes back.

/// The stream repeats after so many bytes. A prime, so that no message size or buffer size divides
/// it and a message repeated or left out is never taken for its neighbour.
const PERIOD: usize = 65_521;

/// Bytes that can be looked at in one piece, wherever they begin.
pub const PIECE_MAX: usize = 64 * 1024;

/// One period of pseudo-random bytes and a bit more, so that every piece is contiguous: sending
/// copies nothing and checking is one comparison of memory.
pub struct Pattern {
    bytes: Box<[u8]>,
}

impl Pattern {
    pub fn new() -> Pattern {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bytes: Vec<u8> = (0..PERIOD).map(|_| next_byte(&mut state)).collect();
        for index in 0..PIECE_MAX {
            bytes.push(bytes[index]);
        }
        Pattern { bytes: bytes.into_boxed_slice() }
    }

    /// `len` bytes (at most [`PIECE_MAX`]) of the stream of `connection`, from `offset` on.
    pub fn piece(&self, connection: usize, offset: u64, len: usize) -> &[u8] {
        // Neighbouring connections begin far apart in the period.
        let begin = (connection as u64 * 7_919 + offset) % PERIOD as u64;
        &self.bytes[begin as usize..][..len]
    }
}

/// Marsaglia's xorshift64, of which the top byte is taken.
fn next_byte(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 56) as u8
}
