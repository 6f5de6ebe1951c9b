//! What other threads may look at while a server runs, without waiting for a worker.

use std::sync::Arc;

use super::{ServerHandle, Shared};
use crate::config::{Limits, MemorySum};
use crate::shared::counters::Stats;

/// A view of a server. It does not keep the server running.
pub(crate) struct View {
    shared: Arc<Shared>,
    pub(crate) limits: Limits,
    pub(crate) memory: MemorySum,
}

impl ServerHandle {
    /// A view of this server.
    pub(crate) fn view(&self) -> View {
        View {
            shared: self.shared.clone(),
            limits: self.limits.clone(),
            memory: self.memory.clone(),
        }
    }
}

impl View {
    /// The current counters.
    pub(crate) fn stats(&self) -> Stats {
        self.shared.stats()
    }
}
