//! The only state that several workers share: mailboxes, receipts, permits, the directory of
//! connections, and the counters.

pub mod counters;
pub mod directory;
pub mod mailbox;
pub mod permits;
pub mod receipt;
