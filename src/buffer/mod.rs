//! The fixed memory for the bytes of connections: one arena, integer ids, and leases that return
//! their buffer when dropped.
//!
//! * `arena`: the one allocation, cut into buffers of equal size. All access to raw memory is here.
//! * `pool`: which buffers are free: a LIFO list for each worker and a reserve that all workers
//!   share.
//! * `free_list`: the reserve's list of free buffers.
//! * `board`: notes that workers publish about buffers: which workers wait for one, and which have
//!   one that does not move.
//! * `lease`: the right to use one buffer ([`Lease`]).
//! * `chain`: buffers in a row, used as a queue of bytes ([`Chain`]).
//! * `shared_buffer`: a buffer that is written once and sent to many ([`Shared`]).
//! * `room`: whether the system has memory for an allocation that is about to be made.
//! * `parcel`: a buffer in transit to another thread ([`Parcel`]).

mod arena;
pub(crate) mod board;
mod chain;
mod free_list;
#[cfg(all(test, loom))]
mod interleavings;
mod lease;
mod parcel;
pub(crate) mod pool;
pub(crate) mod room;
mod shared_buffer;

pub use chain::Chain;
pub use lease::Lease;
pub use parcel::Parcel;
pub use pool::Pool;
pub(crate) use pool::Reserve;
pub use shared_buffer::Shared;
