//! The only state that several workers share: mailboxes, receipts, permits, the directory of
//! connections, the counts of addresses, and the counters.

pub(crate) mod addresses;
pub mod counters;
pub mod directory;
pub(crate) mod examination;
pub(crate) mod histogram;
#[cfg(all(test, loom))]
mod interleavings;
pub mod mailbox;
pub(crate) mod moved;
pub mod permits;
pub mod receipt;
