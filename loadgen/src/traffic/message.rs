//! One request of a connection: its position in the stream of bytes.

/// Position of a request, and of its reply, in the stream of its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// From 0, in the order of sending.
    pub number: u64,
    /// The offset of its first byte in the stream.
    pub begin: u64,
    /// Its bytes on the wire, including those that the protocol adds. At least 1.
    pub len: u64,
}

impl Message {
    /// The offset of the byte after its last one.
    #[inline]
    pub fn end(self) -> u64 {
        self.begin + self.len
    }
}
