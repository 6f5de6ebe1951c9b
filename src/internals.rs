//! For the load generator and the benchmarks of this repository. Not part of the public API.

use std::io;
#[cfg(feature = "sim")]
use std::time::Duration;

use crate::buffer::{Pool, Reserve};
#[cfg(feature = "sim")]
use crate::builtin::delay::{self, Distribution};

use crate::service::Service;
#[cfg(feature = "tls")]
use crate::tls::session::Session;
use crate::worker::launch::{ENGINE_BYTES_PER_SLOT, SystemWorker};
use crate::worker::layer::prefix::Prefix;
#[cfg(feature = "tls")]
use crate::worker::layer::tls::Tls;

/// uPlot, which draws charts.
#[cfg(feature = "admin")]
pub mod uplot {
    pub use crate::admin::uplot::{LICENSE, SCRIPT, STYLE};
}

pub use crate::base::key::Key;
pub use crate::base::words::counted;
pub use crate::engine::sys::{
    ClockError, clock_error, monotonic_now as now, polled_in_vain, unix_now_ns,
};
pub use crate::net::mmsg::{Arrived, Batch, Sent, Wait};
pub use crate::net::sockopt::report_times_and_hop_limits;
pub use crate::protocol::proxy::{Version as ProxyVersion, header as proxy_header};
pub use crate::protocol::stamp;
#[cfg(feature = "sim")]
pub use crate::sim::clock::now as simulated_now;
#[cfg(feature = "sim")]
pub use crate::sim::ideal::{Network, Pause, simulate, simulate_with_pauses};
#[cfg(feature = "tls")]
pub use crate::tls::client::{Connector, Name as ServerName};
pub use crate::worker::connection::Table;
#[cfg(feature = "tls")]
pub use crate::worker::launch::run_clients_with_tls;
pub use crate::worker::launch::{ClientLimits, run_clients, run_clients_with_prefix};

/// Memory that [`run_clients`] needs for each connection of the limits, in bytes, beside the service's
/// own tables.
pub const fn client_slot_bytes<S: Service>() -> usize {
    SystemWorker::<S>::BYTES_PER_SLOT + ENGINE_BYTES_PER_SLOT
}

/// The same for [`run_clients_with_prefix`], without the prefix itself.
pub const fn prefixed_client_slot_bytes<S: Service>() -> usize {
    SystemWorker::<S, Prefix>::BYTES_PER_SLOT + ENGINE_BYTES_PER_SLOT
}

/// The same for [`run_clients_with_tls`], with what a session allocates.
#[cfg(feature = "tls")]
pub const fn tls_client_slot_bytes<S: Service>() -> usize {
    SystemWorker::<S, Prefix<Tls>>::BYTES_PER_SLOT + ENGINE_BYTES_PER_SLOT + Session::BYTES
}

/// Memory that [`run_clients`] needs for any number of connections, in bytes, without its stack.
pub const fn client_fixed_bytes<S: Service>() -> usize {
    SystemWorker::<S>::FIXED_BYTES
}

/// A pool of `count` buffers of `size` bytes each.
///
/// # Errors
/// Out of memory.
pub fn pool(size: usize, count: u32) -> io::Result<Pool> {
    Ok(Pool::new(Reserve::new(size, count)?, 0))
}

/// The random numbers of the first worker of a delay service with this seed.
#[cfg(feature = "sim")]
pub fn delay_numbers(seed: u64) -> fastrand::Rng {
    delay::random(seed, 0)
}

/// A delay of the delay service, drawn from its distribution.
#[cfg(feature = "sim")]
pub fn draw_delay(distribution: &Distribution, rng: &mut fastrand::Rng) -> Duration {
    distribution.draw(rng)
}
