//! Why a connection was lost, and a byte that differed.

/// Why a connection ended before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// A byte differed from what was sent. Counted as a mismatch, not as an error of the network.
    Mismatch,
    /// A reply did not come in time.
    TimedOut,
    /// The other side closed while it owed replies or the run went on.
    ClosedByPeer,
    /// Reset.
    Reset,
    /// The kernel gave up on the other side.
    PeerLost,
    /// Another error of a system call, or an end that has no better name.
    Failed,
}

/// The first byte of a connection that was not as it had been sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// The connection's number, from 0.
    pub connection: u64,
    /// Position in the connection's stream.
    pub stream_offset: u64,
    /// The request whose reply it is in, from 0, and the position in that reply.
    pub request: u64,
    pub request_offset: u64,
    /// What was sent there; empty if nothing had been sent yet.
    pub expected: Vec<u8>,
    /// What came back instead; empty if it came after the last reply, when nobody looked at it.
    pub actual: Vec<u8>,
    /// What is wrong with it, where the bytes alone do not say it.
    pub note: Option<String>,
}
