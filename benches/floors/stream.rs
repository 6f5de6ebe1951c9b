//! The bytes that a connection sends. They are determined by the connection's number and the stream
//! offset, so that a lost, repeated, reordered or foreign byte is detected in the echo.

/// The period of the stream in bytes. A prime, so that no message size or buffer size divides it,
/// and a repeated or missing message is always detected.
const PERIOD: usize = 65_521;

/// Longest contiguous piece of the stream in bytes, from any offset.
pub const PIECE_MAX: usize = 64 * 1024;

/// Size in bytes of the length in front of a framed message.
pub const LENGTH_BYTES: usize = 4;

/// One period of pseudo-random bytes plus [`PIECE_MAX`], so that every piece is contiguous: sending
/// copies nothing, and checking is one comparison of memory.
pub struct Pattern {
    bytes: Box<[u8]>,
    period: usize,
    /// Distance between the start offsets of consecutive connections.
    step: u64,
    /// Size of a message, and which of its bytes the server may change.
    size: usize,
    free: std::ops::Range<usize>,
}

impl Pattern {
    pub fn new() -> Pattern {
        Pattern::of(random(PERIOD), 7_919)
    }

    /// Messages of `size` bytes each, whose first 4 bytes are the number of bytes that follow, in
    /// little-endian order. Each connection starts with a whole message. `size` is from 5 bytes to
    /// 32 KiB.
    pub fn framed(size: usize) -> Pattern {
        let mut bytes = random(PERIOD / size * size);
        let length = ((size - LENGTH_BYTES) as u32).to_le_bytes();
        for message in bytes.chunks_exact_mut(size) {
            message[..LENGTH_BYTES].copy_from_slice(&length);
        }
        Pattern { size, ..Pattern::of(bytes, 7_919 * size as u64) }
    }

    /// The same for a server that writes times into the first `bytes` bytes behind the length.
    pub fn timed(size: usize, bytes: usize) -> Pattern {
        Pattern { free: LENGTH_BYTES..LENGTH_BYTES + bytes, ..Pattern::framed(size) }
    }

    /// Whether these bytes are those of the stream of `connection` from `offset` on.
    pub fn is(&self, connection: usize, offset: u64, bytes: &[u8]) -> bool {
        let expected = self.piece(connection, offset, bytes.len());
        if self.free.is_empty() {
            return bytes == expected;
        }
        let first = (offset % self.size as u64) as usize;
        let is_same = |at: usize, from: usize, to: usize| {
            let [from, to] =
                [from, to].map(|end| (at + end).clamp(first, first + bytes.len()) - first);
            bytes[from..to] == expected[from..to]
        };
        (0..first + bytes.len())
            .step_by(self.size)
            .all(|at| is_same(at, 0, self.free.start) && is_same(at, self.free.end, self.size))
    }

    fn of(mut bytes: Vec<u8>, step: u64) -> Pattern {
        let period = bytes.len();
        for index in 0..PIECE_MAX {
            bytes.push(bytes[index]);
        }
        Pattern { bytes: bytes.into_boxed_slice(), period, step, size: 1, free: 0..0 }
    }

    /// `len` bytes (at most [`PIECE_MAX`]) of the stream of `connection`, from `offset` on.
    pub fn piece(&self, connection: usize, offset: u64, len: usize) -> &[u8] {
        let begin = (connection as u64 * self.step + offset) % self.period as u64;
        &self.bytes[begin as usize..][..len]
    }
}

fn random(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..len).map(|_| next_byte(&mut state)).collect()
}

/// Returns the top byte of Marsaglia's xorshift64.
fn next_byte(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 56) as u8
}
