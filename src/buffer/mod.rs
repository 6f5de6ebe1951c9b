//! The fixed memory that bytes live in: one arena, integer ids, leases that go back by themselves.
//!
//! * `arena`: the one allocation, cut into buffers of equal size. The only unsafe code of the
//!   module.
//! * `pool`: which buffers are free: a LIFO list for each worker over a reserve that all workers
//!   share.
//! * `lease`: the right to use one buffer ([`Lease`]) or several in a row ([`Chain`]).
//! * `shared`: a buffer that is written once and sent to many ([`Shared`]).
//! * `parcel`: a buffer on its way to another thread ([`Parcel`]).

mod arena;
mod lease;
mod parcel;
mod pool;
mod shared;

pub use lease::{Chain, Lease};
pub use parcel::Parcel;
#[doc(hidden)]
pub use pool::{Pool, Reserve};
pub use shared::Shared;
