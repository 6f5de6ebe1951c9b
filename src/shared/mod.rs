//! The only state that several workers share: mailboxes, receipts, permits, the directory of
//! connections, the counts of addresses, the counters, and whether the log shows more lines.

pub(crate) mod addresses;
pub mod counters;
pub mod directory;
pub(crate) mod examination;
pub(crate) mod histogram;
#[cfg(all(test, loom))]
mod interleavings;
pub(crate) mod log_limit;
pub mod mailbox;
pub(crate) mod moved;
pub mod permits;
pub mod receipt;
