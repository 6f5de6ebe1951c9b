//! For the load generator and the benchmarks of this repository. No part of the public API.

pub use crate::base::key::Key;
pub use crate::engine::sys::{monotonic_now as now, polled_in_vain};
pub use crate::sim::ideal::{Network, now as simulated_now, simulate};
pub use crate::worker::connection::Table;
pub use crate::worker::launch::{ClientLimits, run_clients};
