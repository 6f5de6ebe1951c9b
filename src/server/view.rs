//! What other threads may look at while a server runs, without waiting for a worker.

use std::sync::Arc;

use super::{ServerHandle, Shared};
use crate::base::endpoint::Endpoint;
use crate::config::{Limits, MemorySum};
use crate::shared::counters::Stats;

/// A view of a server. It does not keep the server running.
pub(crate) struct View {
    shared: Arc<Shared>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) memory: MemorySum,
}

impl ServerHandle {
    /// A view of this server.
    pub(crate) fn view(&self) -> View {
        View {
            shared: self.shared.clone(),
            endpoints: self.endpoints.clone(),
            memory: self.memory.clone(),
        }
    }
}

impl View {
    /// The current limits.
    pub(crate) fn limits(&self) -> Limits {
        self.shared.limits().clone()
    }

    /// The current counters.
    pub(crate) fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.shared.counters.len()
    }

    /// Wakes a worker. Returns a number for [`has_turned`](View::has_turned).
    pub(crate) fn ask_to_turn(&self, worker: usize) -> u64 {
        let looks = self.shared.mailboxes.looks(worker);
        self.shared.mailboxes.notify(worker);
        looks
    }

    /// Whether a worker's loop has turned since it was asked to, or has ended.
    pub(crate) fn has_turned(&self, worker: usize, asked: u64) -> bool {
        let mailboxes = &self.shared.mailboxes;
        mailboxes.looks(worker) != asked || mailboxes.is_closed(worker)
    }

    /// Whether a drain or stop has begun.
    pub(crate) fn is_ending(&self) -> bool {
        (0..self.workers()).any(|worker| self.shared.mailboxes.ordered_end(worker).is_some())
    }
}
