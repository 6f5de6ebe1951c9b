//! For the load generator and the benchmarks of this repository. No part of the public API.

pub use crate::connection::Table;
pub use crate::key::Key;
pub use crate::sim::measured::{Network, now as simulated_now, simulate};
pub use crate::sys::{monotonic_now as now, polled_in_vain};
pub use crate::worker::launch::{ClientLimits, run_clients};
