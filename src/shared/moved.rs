//! Connections that move from one process of a server to another, without an interruption.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::permits::Permit;
use crate::base::endpoint::Peer;
use crate::base::time::Time;

/// What is known of a connection that moves. It has no input and no output. Times are those of the
/// monotonic clock, which all processes have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    /// The number of its listener.
    pub(crate) listener: u64,
    pub(crate) peer: Peer,
    /// When it was accepted.
    pub(crate) since: Time,
    /// When bytes last moved.
    pub(crate) active_at: Time,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

/// A connection of another process that this one goes on with.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) facts: Facts,
    pub(crate) socket: OwnedFd,
    pub(crate) permit: Permit,
}

/// A process that takes over connections.
pub(crate) trait Successor: Send {
    /// Offers connections, which nothing happens to meanwhile. Returns for each whether the process
    /// goes on with it. The caller closes its descriptors of these, and goes on with the others.
    ///
    /// # Errors
    /// The process takes none of them, and no more.
    fn take(&mut self, connections: &[(Facts, BorrowedFd<'_>)]) -> Result<Vec<bool>, String>;
}

impl std::fmt::Debug for dyn Successor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Successor")
    }
}
