//! What another thread asks a worker about its connections, and what the worker replies.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::key::ConnectionId;

/// The most connections of one examination, so that a turn is not much longer for it: 60 us.
#[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin address"))]
pub(crate) const CONNECTIONS_MAX: usize = 256;

/// What a worker knows of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Detail {
    /// Bytes delivered to the service.
    pub(crate) bytes_received: u64,
    /// Bytes from the service that the kernel has accepted.
    pub(crate) bytes_sent: u64,
    /// Bytes on the output that the kernel has not accepted.
    pub(crate) output: u64,
    pub(crate) phase: Activity,
}

/// What happens on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Activity {
    /// Nothing is in the way: it is read, and its output is sent at once.
    Open,
    /// The kernel has not accepted all of its output.
    Sending,
    /// It waits for a buffer.
    WaitingForBuffer,
    /// The service does not want it to be read.
    Paused,
    /// This side closes it, and sends the rest of the output.
    Closing,
    /// This side has sent everything and FIN, and waits for the peer's.
    Lingering,
}

#[cfg(feature = "admin")]
impl Activity {
    /// The phase in one word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Activity::Open => "open",
            Activity::Sending => "sending",
            Activity::WaitingForBuffer => "waiting-for-buffer",
            Activity::Paused => "paused",
            Activity::Closing => "closing",
            Activity::Lingering => "lingering",
        }
    }
}

/// Connections of one worker, with what the worker knows of them once it has replied. The sender has
/// allocated it, so the worker allocates nothing.
#[derive(Debug)]
pub(crate) struct Examination(Mutex<Vec<(ConnectionId, Option<Detail>)>>);

impl Examination {
    #[cfg_attr(
        not(any(test, feature = "admin")),
        allow(dead_code, reason = "for the admin address")
    )]
    pub(crate) fn new(ids: &[ConnectionId]) -> Examination {
        Examination(Mutex::new(ids.iter().map(|id| (*id, None)).collect()))
    }

    /// The connections. Only one of the two threads needs them at a time: the worker until its receipt,
    /// the sender from then on. So neither ever waits.
    pub(crate) fn connections(&self) -> MutexGuard<'_, Vec<(ConnectionId, Option<Detail>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
