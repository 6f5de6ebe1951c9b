//! Connections that move from one process of a server to another, without an interruption.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
#[cfg(any(test, feature = "sim"))]
use std::sync::Mutex;

use super::mailbox::Mailboxes;
use super::permits::{Permit, Permits};
use crate::base::endpoint::Peer;
use crate::base::time::Time;

/// What is known of a connection that moves. It has no input, and no output that its service cannot
/// make again. Times are those of the monotonic clock, which all processes have in common.
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
    /// What its service goes on from ([`Service::continuation`](crate::service::Service::continuation)).
    pub(crate) continuation: u64,
}

/// A connection of another process that this one continues.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) facts: Facts,
    pub(crate) socket: Passed,
    pub(crate) permit: Permit,
}

/// The socket of a connection that is offered. It stays open here.
#[derive(Debug)]
pub enum Passing<'a> {
    /// A descriptor of this process.
    Descriptor(BorrowedFd<'a>),
    /// A socket of the simulated world.
    #[cfg(any(test, feature = "sim"))]
    Simulated(Token),
}

impl<'a> Passing<'a> {
    /// The descriptor, which a simulated socket has not.
    #[cfg_attr(not(any(test, feature = "daemon")), allow(dead_code, reason = "for the daemon"))]
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'a>> {
        match self {
            Passing::Descriptor(descriptor) => Some(*descriptor),
            #[cfg(any(test, feature = "sim"))]
            Passing::Simulated(_) => None,
        }
    }
}

/// The socket of a connection that has come from another process. Dropping it closes it.
#[derive(Debug)]
pub enum Passed {
    /// A descriptor of this process.
    #[cfg_attr(not(any(test, feature = "daemon")), allow(dead_code, reason = "for the daemon"))]
    Descriptor(OwnedFd),
    /// A socket of the simulated world.
    #[cfg(any(test, feature = "sim"))]
    Simulated(Token),
}

/// A reference to a socket of the simulated world that no process has yet. The world closes the socket
/// when it has no other reference.
#[cfg(any(test, feature = "sim"))]
#[derive(Clone, Debug)]
pub struct Token(Arc<OneToken>);

#[cfg(any(test, feature = "sim"))]
#[derive(Debug)]
struct OneToken {
    number: usize,
    dropped: Arc<Mutex<Vec<usize>>>,
}

#[cfg(any(test, feature = "sim"))]
impl Token {
    /// A reference to the socket with this number. When it is dropped, `dropped` gets the number.
    pub(crate) fn new(number: usize, dropped: &Arc<Mutex<Vec<usize>>>) -> Token {
        Token(Arc::new(OneToken { number, dropped: dropped.clone() }))
    }

    pub(crate) fn number(&self) -> usize {
        self.0.number
    }
}

#[cfg(any(test, feature = "sim"))]
impl Drop for OneToken {
    fn drop(&mut self) {
        self.dropped.lock().expect("nobody panics with it").push(self.number);
    }
}

/// A place for a connection of this peer that comes from another process, if there is one: under the
/// limit of connections and that of its address. A process that ends has none, and one that was
/// replaced itself.
#[cfg_attr(not(any(test, feature = "daemon")), allow(dead_code, reason = "for the daemon"))]
pub(crate) fn place(mailboxes: &Mailboxes, permits: &Arc<Permits>, peer: Peer) -> Option<Permit> {
    if mailboxes.ordered_end(0).is_some() || mailboxes.retires() {
        return None;
    }
    let mut permit = permits.try_take()?;
    permit.mark_used();
    permit.count_address(peer).then_some(permit)
}

/// A process that takes over connections.
pub(crate) trait Successor: Send {
    /// Offers connections, which nothing happens to meanwhile. Returns for each whether the process
    /// continues it. The caller closes its descriptors of these, and continues the others.
    ///
    /// # Errors
    /// The process takes none of them, and no more.
    fn take(&mut self, connections: &[(Facts, Passing<'_>)]) -> Result<Vec<bool>, String>;
}

impl std::fmt::Debug for dyn Successor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Successor")
    }
}
