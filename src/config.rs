//! The limits of a server: what is asked for ([`Config`]), checked and completed ([`Limits`]), and
//! what memory it comes to.

use std::time::Duration;

use crate::endpoint::Endpoint;

/// What a server is asked to be. What is left unset is derived from the machine.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) listen: Vec<Endpoint>,
    pub(crate) workers: Option<usize>,
    pub(crate) max_connections: Option<u32>,
    pub(crate) buffer_size: usize,
    pub(crate) buffers: Option<u32>,
    pub(crate) backlog: u32,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) shed_after: Option<Duration>,
    pub(crate) linger: Duration,
    pub(crate) share_port: bool,
}

/// The limits of a server, all known and all within their ranges.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Worker threads, 1 to 64.
    pub workers: usize,
    /// Connections at once, over all workers.
    pub max_connections: u32,
    /// Bytes of a buffer.
    pub buffer_size: usize,
    /// Buffers, over all workers.
    pub buffers: u32,
    /// Buffers that one connection may fill with one receive.
    pub leases_per_connection_max: u8,
    /// Backlog of each listener.
    pub backlog: u32,
    /// `None`: never.
    pub idle_timeout: Option<Duration>,
    /// `None`: never.
    pub send_timeout: Option<Duration>,
    /// `None`: never.
    pub shed_after: Option<Duration>,
    /// How long a connection that this side closed is read on for.
    pub linger: Duration,
    /// Whether other processes may listen on the same port.
    pub share_port: bool,
}
