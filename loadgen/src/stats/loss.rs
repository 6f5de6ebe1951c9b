//! Why a connection was lost, and a byte that differed.

/// Why a connection ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// A byte differed from what was sent. Counted as a mismatch, not as a network error.
    Mismatch,
    /// A reply did not arrive in time.
    TimedOut,
    /// The peer closed while it owed replies or the run continued.
    ClosedByPeer,
    /// Reset.
    Reset,
    /// The kernel gave up on the peer.
    PeerLost,
    /// Another error of a system call, or another reason.
    Failed,
}

/// The first byte of a connection that differed from what was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// The connection's number, from 0.
    pub connection: u64,
    /// Position in the connection's stream.
    pub stream_offset: u64,
    /// The request whose reply it is in, from 0, and the position in that reply.
    pub request: u64,
    pub request_offset: u64,
    /// What was sent there; empty if nothing was sent yet.
    pub expected: Vec<u8>,
    /// What arrived instead; empty if it arrived after the last reply, when bytes were no longer
    /// inspected.
    pub actual: Vec<u8>,
    /// What is wrong, if the bytes alone do not show it.
    pub note: Option<String>,
}
