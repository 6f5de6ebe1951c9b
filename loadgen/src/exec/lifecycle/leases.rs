//! The buffers that a thread has on outputs, up to its share: the rest is for input, so that
//! reading goes on when writing cannot.

use echopool::buffer::Lease;
use echopool::service::Connection;

/// Counts them. Each client counts its own too, for what is with the kernel is only known for a
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

    /// One to be filled, if there is room for it and the pool has one.
    #[inline]
    pub fn take(&self, connection: &mut Connection<'_>) -> Option<Lease> {
        if self.room() == 0 { None } else { connection.take_lease() }
    }

    /// Puts it on the connection's output, of whose client `held` is the count.
    #[inline]
    pub fn put(&mut self, connection: &mut Connection<'_>, lease: Lease, held: &mut usize) {
        connection.output.push_back(lease);
        *held += 1;
        self.taken += 1;
    }

    /// The output is with the kernel, or gone with the connection.
    #[inline]
    pub fn forget(&mut self, held: &mut usize) {
        self.taken -= std::mem::take(held);
    }
}
