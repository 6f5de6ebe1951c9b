//! Why a connection was lost, and a byte that differed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// The stream ended without the end that TLS has (close_notify): it may have been cut.
    TlsTruncated,
    /// Either side found an error in the other's TLS, and said so with an alert.
    TlsAlert,
    /// Another error of a system call, or another reason.
    Failed,
}

/// The first byte of a connection that differed from what was sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Mismatch {
    /// Number of the connection, from 0.
    pub connection: u64,
    /// Position of the byte in the connection's stream.
    pub stream_offset: u64,
    /// The request whose reply it is in, from 0.
    #[serde(skip)]
    pub request: u64,
    /// Its position in that reply.
    #[serde(skip)]
    pub request_offset: u64,
    /// Bytes that were sent there; empty if none were.
    pub expected: Vec<u8>,
    /// Bytes that arrived instead; empty if they arrived after the last reply, when they were no
    /// longer inspected.
    pub actual: Vec<u8>,
    /// What is wrong, if the bytes alone do not show it; otherwise null.
    pub note: Option<String>,
}
