//! The leases that a thread has on outputs, up to its share. The rest is for input, so that reading
//! continues when writing cannot.

use echopool::buffer::Lease;
use echopool::service::Connection;

/// Counts them. Each client counts its own too, because the engine reports sent output only for a
/// whole connection.
pub struct LeaseBudget {
    taken: usize,
    max: usize,
}

impl LeaseBudget {
    pub(super) fn new(max: usize) -> LeaseBudget {
        LeaseBudget { taken: 0, max }
    }

    /// How many more may be on outputs.
    #[inline]
    pub fn room(&self) -> usize {
        self.max.saturating_sub(self.taken)
    }

    /// A lease to fill, if the budget and the pool have one.
    #[inline]
    pub fn take(&self, connection: &mut Connection<'_>) -> Option<Lease> {
        if self.room() == 0 { None } else { connection.take_lease() }
    }

    /// Puts a lease on the connection's output. `held`: the count of its client.
    #[inline]
    pub fn put(&mut self, connection: &mut Connection<'_>, lease: Lease, held: &mut usize) {
        connection.output.push_back(lease);
        *held += 1;
        self.taken += 1;
    }

    /// The kernel has the output, or the connection is gone.
    #[inline]
    pub fn forget(&mut self, held: &mut usize) {
        self.taken -= std::mem::take(held);
    }
}
