//! The fixed memory that bytes live in: one arena, integer ids, leases that go back by themselves.
//!
//! * `arena`: the one allocation, cut into buffers of equal size. The only unsafe code of the
//!   module.
//! * `pool`: which buffers are free: a LIFO list for each worker over a reserve that all workers
//!   share.
//! * `lease`: the right to use one buffer ([`Lease`]).
//! * `chain`: buffers in a row, as a queue of bytes ([`Chain`]).
//! * `shared`: a buffer that is written once and sent to many ([`Shared`]).
//! * `parcel`: a buffer on its way to another thread ([`Parcel`]).

mod arena;
mod chain;
mod lease;
mod parcel;
pub(crate) mod pool;
mod shared_buffer;

pub use chain::Chain;
pub use lease::Lease;
pub use parcel::Parcel;
pub use pool::Pool;
pub(crate) use pool::Reserve;
pub use shared_buffer::Shared;
