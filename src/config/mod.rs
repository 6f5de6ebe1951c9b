//! The limits of a server: what is asked for ([`Config`]), checked and completed ([`Limits`]), and
//! what memory it comes to ([`MemorySum`]).
//!
//! Every limit of a server is a constant of this file, with its reason; those of a service stand
//! beside the service. Checking changes nothing; the one side effect, raising the soft limit of open
//! files, is a function of its own.

use std::time::Duration;

use crate::base::endpoint::Endpoint;
use crate::error::{AddressError, StartError};
use crate::net::bind;

mod memory;
pub(crate) mod open_files;

pub use crate::net::bind::ToEndpoints;
pub use memory::{MemorySum, Sizes, Term};

pub use crate::base::key::WORKERS_MAX;

/// Connections at most: a slot number has 24 bits in an event's key, and the last 4096 numbers are
/// those of listeners, the waker and what else has events without being a connection.
pub const CONNECTIONS_MAX: u32 = (1 << 24) - 4096;

/// Connections at most when none were asked for. Many systems allow a process a million open files,
/// and tables for a million connections on each worker are not what somebody who asked for nothing
/// should get; from one address to one port TCP has 65,536 connections anyway.
pub const CONNECTIONS_DERIVED_MAX: u32 = 65_536;

/// Bytes of a buffer at least: below, the lists of buffers (16 bytes for each buffer and worker)
/// weigh as much as the buffers themselves with 16 workers, and small messages take several.
pub const BUFFER_SIZE_MIN: usize = 256;

/// Bytes of a buffer at most: with [`LEASES_PER_CONNECTION_MAX`] of them a call moves 4 MiB, which
/// is more than the kernel lets a socket buffer hold by default (tcp_wmem), so a larger one could
/// never be used well.
pub const BUFFER_SIZE_MAX: usize = 1 << 20;

/// Bytes of a buffer by default: most messages fit, and 10,000 slow clients hold 160 MB and not
/// 640 MB.
pub const BUFFER_SIZE: usize = 16 << 10;

/// Buffers that one connection may fill with one receive: 64 KiB with the default buffers, which
/// was measured to be worth 1.6 to 1.9 times the streaming throughput of 16 KiB.
pub const LEASES_PER_CONNECTION_MAX: u8 = 4;

/// Buffers with messages from other threads that may wait in one connection's output; what comes
/// then is refused. As many as the kernel takes with a few system calls, and with 10,000 slow
/// clients still the whole of the buffers and not more.
pub const MESSAGE_LEASES_MAX: usize = 16;

/// Buffers at most: the most connections that there can be, with one each, in the 24 bits of a slot
/// number.
pub const BUFFERS_MAX: u32 = 1 << 24;

/// Buffers at most when none were asked for: 64 MiB of the default ones. A buffer is held only
/// while bytes are in flight, so that far fewer than connections are enough; with more in flight
/// than this the processor is what there is too little of.
pub const BUFFERS_DERIVED_MAX: u32 = 4096;

/// Buffers for each worker at least when none were asked for: they are fetched from the reserve 16
/// at a time, and with fewer than a few batches for each, workers would live on one another's.
pub const BUFFERS_DERIVED_MIN_PER_WORKER: u32 = 64;

/// Backlog by default: Linux's own limit (net.core.somaxconn) since 5.4. It holds a burst of
/// connects while a worker is busy; what overflows is dropped and tried again a second later.
pub const BACKLOG: u32 = 4096;

/// Backlog at most: what a 16-bit field holds, in which some systems keep it.
pub const BACKLOG_MAX: u32 = 65_535;

/// Idle and send time-outs and shedding at least: what the timers can tell apart.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Time-outs at most: who means never says so.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Send time-out by default: a peer that takes no byte for so long is gone or means harm, and holds
/// buffers all the while.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the pool is empty with others waiting before the slowest reader is closed, by default:
/// long enough for a lost segment to be sent again (200 ms and more), short enough that clients
/// hardly notice.
pub const SHED_AFTER: Duration = Duration::from_secs(1);

/// Linger by default: a round trip to anywhere, with a segment lost on the way.
pub const LINGER: Duration = Duration::from_secs(2);

/// Linger at most: the peer decides how much of it is used, and a connection slot is held so long.
pub const LINGER_MAX: Duration = Duration::from_secs(600);

/// Address space of a worker's stack, given to the thread by this number so that the sum of memory
/// is right whatever RUST_MIN_STACK says. Only the pages that are used become resident.
pub const WORKER_STACK_BYTES: usize = 2 << 20;

/// What a server is asked to be. What is left unset is derived from the machine.
///
/// The ranges are checked when the server starts, all of them before anything is opened or
/// allocated.
///
/// ```
/// use std::time::Duration;
/// use echopool::Config;
///
/// let config = Config::new()
///     .listen("127.0.0.1:7777")
///     .workers(2)
///     .max_connections(10_000)
///     .idle_timeout(Some(Duration::from_secs(60)));
/// assert_eq!(config.endpoints()[0].to_string(), "tcp://127.0.0.1:7777");
/// assert!(config.check().is_ok());
/// assert!(config.listen("localhost").check().is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) listen: Vec<Endpoint>,
    /// The first that could not be understood or found.
    wrong_address: Option<AddressError>,
    pub(crate) workers: Option<usize>,
    pub(crate) max_connections: Option<u32>,
    pub(crate) buffer_size: usize,
    pub(crate) buffers: Buffers,
    pub(crate) backlog: u32,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) shed_after: Option<Duration>,
    pub(crate) linger: Duration,
    pub(crate) share_port: bool,
    pub(crate) busy_poll: bool,
}

/// How many buffers are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Buffers {
    Derived,
    Count(u32),
    /// As many as fit into this many bytes.
    Bytes(u64),
}

impl Default for Config {
    fn default() -> Config {
        Config::new()
    }
}

impl Config {
    /// The defaults, with nothing to listen on yet.
    pub fn new() -> Config {
        Config {
            listen: Vec::new(),
            wrong_address: None,
            workers: None,
            max_connections: None,
            buffer_size: BUFFER_SIZE,
            buffers: Buffers::Derived,
            backlog: BACKLOG,
            idle_timeout: None,
            send_timeout: Some(SEND_TIMEOUT),
            shed_after: Some(SHED_AFTER),
            linger: LINGER,
            share_port: false,
            busy_poll: false,
        }
    }

    /// Adds an address to listen on: a text such as `"127.0.0.1:7777"`, a
    /// [`SocketAddr`](std::net::SocketAddr) or an [`Endpoint`]. [`ToEndpoints`] has all forms. At
    /// least one address is needed.
    ///
    /// `[::]` takes IPv4 clients too, unless `0.0.0.0` is listened on at the same port. Where the
    /// machine has no IPv6, `[::]` becomes `0.0.0.0`. Port 0 takes a free port.
    ///
    /// A name is looked up here, once, and each of its addresses is an endpoint of its own. If the
    /// text is not understood or the name is not found, [`check`](Config::check) and
    /// [`Server::start`](crate::Server::start) return the error.
    pub fn listen(mut self, at: impl ToEndpoints) -> Config {
        match at.to_endpoints() {
            Ok(endpoints) => self.listen.extend(endpoints),
            Err(error) => self.wrong_address = self.wrong_address.or(Some(error)),
        }
        self
    }

    /// Worker threads, 1 to 64. Unset: as many as the process may use processors, at most 64.
    pub fn workers(mut self, workers: usize) -> Config {
        self.workers = Some(workers);
        self
    }

    /// Connections at once over all workers, 1 to 16,773,120. Unset: what the hard limit of open
    /// files allows, at most 65,536.
    pub fn max_connections(mut self, connections: u32) -> Config {
        self.max_connections = Some(connections);
        self
    }

    /// Bytes of a buffer, 256 to 1,048,576. Unset: 16,384.
    pub fn buffer_size(mut self, bytes: usize) -> Config {
        self.buffer_size = bytes;
        self
    }

    /// Buffers over all workers, from one for each worker to 16,777,216. Unset: one for each
    /// connection, but at most 4096 and at least 64 for each worker. Replaces
    /// [`memory`](Config::memory).
    pub fn buffers(mut self, count: u32) -> Config {
        self.buffers = Buffers::Count(count);
        self
    }

    /// As many buffers as fit into this many bytes. Replaces [`buffers`](Config::buffers).
    pub fn memory(mut self, bytes: u64) -> Config {
        self.buffers = Buffers::Bytes(bytes);
        self
    }

    /// Connections that may wait at each listening socket to be accepted, 1 to 65,535. Unset: 4096.
    /// The system may have a lower limit of its own: a line is logged then.
    pub fn backlog(mut self, connections: u32) -> Config {
        self.backlog = connections;
        self
    }

    /// Closes a connection that has neither received nor sent anything for so long, 1 ms to 365
    /// days. `None`, the default: never.
    pub fn idle_timeout(mut self, after: Option<Duration>) -> Config {
        self.idle_timeout = after;
        self
    }

    /// Closes a connection whose peer has taken no byte of the pending output for so long, 1 ms to
    /// 365 days, or never. Unset: 30 s. What the kernel has for the peer is part of it: a peer
    /// that acknowledges some of that has read.
    pub fn send_timeout(mut self, after: Option<Duration>) -> Config {
        self.send_timeout = after;
        self
    }

    /// When connections have waited for a buffer for so long, closes the one that has sent nothing
    /// for longest, and at least that long. 1 ms to 365 days, or never. Unset: 1 s.
    pub fn shed_after(mut self, after: Option<Duration>) -> Config {
        self.shed_after = after;
        self
    }

    /// How long a connection that this side closed is read on for, so that what was sent before is
    /// not destroyed by a reset; 0 to 10 minutes. Unset: 2 s.
    pub fn linger(mut self, at_most: Duration) -> Config {
        self.linger = at_most;
        self
    }

    /// Lets other processes of the same user listen on the same ports, each taking a share of the
    /// connections. Unset: a port that is in use is an error.
    pub fn share_port(mut self, share: bool) -> Config {
        self.share_port = share;
        self
    }

    /// Has the workers ask for events over and over when there are none, instead of sleeping: what
    /// is measured of the server then has no time in it that a thread takes to wake up. Each worker
    /// takes a whole processor. Unset: they sleep.
    pub fn busy_poll(mut self, busy_poll: bool) -> Config {
        self.busy_poll = busy_poll;
        self
    }

    /// The endpoints given so far.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.listen
    }

    /// Checks everything and fills in what was left unset. Changes nothing.
    ///
    /// # Errors
    /// What is out of its range, with the range; endpoints that cannot be listened on together.
    pub fn check(&self) -> Result<Limits, StartError> {
        if let Some(error) = &self.wrong_address {
            return Err(StartError::Address(error.clone()));
        }
        bind::check(&self.listen)?;
        let workers = self.checked_workers()?;
        self.check_times()?;
        ranged("backlog", self.backlog.into(), 1, BACKLOG_MAX.into())?;
        let buffer_size = self.buffer_size;
        ranged("buffer_size", buffer_size as u64, BUFFER_SIZE_MIN as u64, BUFFER_SIZE_MAX as u64)?;
        let max_connections = self.checked_connections(workers)?;
        let buffers = self.checked_buffers(workers, max_connections)?;
        Ok(Limits {
            listeners: self.listen.len(),
            workers,
            max_connections,
            buffer_size,
            buffers,
            leases_per_connection_max: leases_per_connection_max(buffers, workers),
            backlog: self.backlog,
            idle_timeout: self.idle_timeout,
            send_timeout: self.send_timeout,
            shed_after: self.shed_after,
            linger: self.linger,
            share_port: self.share_port,
            busy_poll: self.busy_poll,
        })
    }

    fn checked_workers(&self) -> Result<usize, StartError> {
        let derived = || {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            processors.min(WORKERS_MAX)
        };
        let workers = self.workers.unwrap_or_else(derived);
        ranged("workers", workers as u64, 1, WORKERS_MAX as u64)?;
        Ok(workers)
    }

    fn checked_connections(&self, workers: usize) -> Result<u32, StartError> {
        if let Some(asked) = self.max_connections {
            ranged("max_connections", asked.into(), 1, CONNECTIONS_MAX.into())?;
        }
        let fixed = open_files::fixed(workers, self.listen.len());
        open_files::connections(self.max_connections, fixed, open_files::hard_limit())
    }

    fn checked_buffers(&self, workers: usize, max_connections: u32) -> Result<u32, StartError> {
        // Each worker can then have one that is not on loan from another, and go on.
        let min = workers as u64;
        let max = u64::from(BUFFERS_MAX);
        let size = self.buffer_size as u64;
        match self.buffers {
            Buffers::Derived => {
                let floor = BUFFERS_DERIVED_MIN_PER_WORKER * workers as u32;
                Ok(max_connections.min(BUFFERS_DERIVED_MAX).max(floor))
            }
            Buffers::Count(count) => ranged("buffers", count.into(), min, max).map(|()| count),
            Buffers::Bytes(bytes) => {
                ranged("memory", bytes, min * size, max * size)?;
                Ok((bytes / size) as u32)
            }
        }
    }

    fn check_times(&self) -> Result<(), StartError> {
        let times = [
            ("idle_timeout", self.idle_timeout),
            ("send_timeout", self.send_timeout),
            ("shed_after", self.shed_after),
        ];
        for (field, value) in times {
            match value {
                Some(value) if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&value) => {
                    let allowed = "from 1ms to 365 days (8760h), or off";
                    return Err(StartError::Timeout { field, value, allowed });
                }
                _ => {}
            }
        }
        if self.linger > LINGER_MAX {
            let (field, value) = ("linger", self.linger);
            return Err(StartError::Timeout { field, value, allowed: "at most 10m" });
        }
        Ok(())
    }
}

/// The limits of a server, all known and all within their ranges.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Endpoints that are listened on.
    pub listeners: usize,
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
    /// Whether workers ask for events over and over instead of sleeping.
    pub busy_poll: bool,
}

impl Limits {
    /// Those of one worker and one listener that nobody connects to over a network. The buffers may
    /// be fewer and smaller than a server's can be, and nothing times out.
    pub(crate) fn bare(max_connections: u32, buffer_size: usize, buffers: u32) -> Limits {
        Limits {
            listeners: 1,
            workers: 1,
            max_connections,
            buffer_size,
            buffers,
            leases_per_connection_max: leases_per_connection_max(buffers, 1),
            backlog: 1,
            idle_timeout: None,
            send_timeout: None,
            shed_after: None,
            linger: LINGER,
            share_port: false,
            busy_poll: false,
        }
    }

    /// Raises the soft limit of open files to what these limits and `endpoints` listened on need,
    /// if it is lower. To be called before sockets are made.
    ///
    /// # Errors
    /// The hard limit has become lower, or the system refuses.
    pub(crate) fn raise_open_files(&self, endpoints: usize) -> Result<(), StartError> {
        let fixed = open_files::fixed(self.workers, endpoints);
        open_files::raise_soft_limit(fixed + u64::from(self.max_connections))
    }
}

/// A full share for one connection must leave something for the others: with few buffers it is
/// smaller.
fn leases_per_connection_max(buffers: u32, workers: usize) -> u8 {
    let share = buffers / workers as u32;
    share.clamp(1, u32::from(LEASES_PER_CONNECTION_MAX)) as u8
}

fn ranged(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), StartError> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(StartError::Limit { field, value, min, max }),
    }
}

#[cfg(test)]
mod tests;
