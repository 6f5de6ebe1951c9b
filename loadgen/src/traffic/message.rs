//! One request of a connection, by its place in the stream of bytes.

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
