//! What became of the connections to each target, and of the clients of each rude kind.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::traffic::rude::RudeKind;

/// Counts of one target. A connection that replaced another one counts as that one.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TargetCount {
    /// Connections that were established.
    pub established: u64,
    /// Established connections that had at least one reply.
    pub served: u64,
    /// Connections that ended early. A place counts again if a later connection in it ended early
    /// too.
    pub lost: u64,
    /// Connections on which a byte differed.
    pub mismatches: u64,
    /// Requests that had their reply, including late ones.
    pub completed: u64,
}

impl TargetCount {
    pub fn plus(&self, other: &TargetCount) -> TargetCount {
        TargetCount {
            established: self.established + other.established,
            served: self.served + other.served,
            lost: self.lost + other.lost,
            mismatches: self.mismatches + other.mismatches,
            completed: self.completed + other.completed,
        }
    }
}

/// What became of the clients of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RudeCount {
    /// What they do.
    pub kind: RudeKind,
    /// Clients at once.
    pub asked: u64,
    /// Connections established, including those that followed others.
    pub established: u64,
    /// Connects that failed.
    pub connect_failed: u64,
    /// Connections that ended as the client intended.
    pub finished: u64,
    /// Connections that the server closed.
    pub closed_by_server: u64,
    /// Connections that the server reset, or that failed otherwise.
    pub reset_by_server: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
}

impl fmt::Display for RudeCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RudeCount { kind, asked, established, connect_failed, finished, .. } = self;
        let RudeCount { closed_by_server, reset_by_server, bytes_sent, bytes_received, .. } = self;
        write!(
            f,
            "{} {asked}: {established} established, {connect_failed} not, {finished} finished, \
             {closed_by_server} closed by the server, {reset_by_server} reset, \
             {bytes_sent} bytes out, {bytes_received} back",
            kind.word()
        )
    }
}
