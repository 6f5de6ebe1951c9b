//! The fixed memory that bytes live in: one arena, integer ids, leases that go back by themselves.
//!
//! * `arena`: the one allocation, cut into buffers of equal size. The only unsafe code of the
//!   module.
//! * `pool`: which buffers are free: a LIFO list for each worker over a reserve that all workers
//!   share.
//! * `lease`: the right to use one buffer ([`Lease`]) or several in a row ([`Chain`]).

mod arena;
mod lease;
mod pool;

pub use lease::{Chain, Lease};
#[doc(hidden)]
pub use pool::{Pool, Reserve};
