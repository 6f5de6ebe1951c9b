//! The limits of a server: as requested ([`Config`]), checked and completed ([`Limits`]), and the
//! memory that they add up to ([`MemorySum`]).
//!
//! Every limit of a server is a constant of this file, with its reason. Limits of a service are
//! beside the service. Checking has no side effects. Raising the soft limit of open files is a
//! function of its own.

use std::time::Duration;

use crate::base::endpoint::Endpoint;
use crate::error::{AddressError, StartError};
use crate::net::bind;

mod memory;
pub(crate) mod open_files;

pub use crate::net::bind::{ListenOn, ToEndpoints};
pub use crate::net::proxy::{Networks, ProxyHeaders, ProxyOptions};
pub use crate::net::transport::{
    Mode, Owner, SourceRate, TransportOptions, UdpOptions, UnixOptions,
};
#[cfg(feature = "tls")]
pub use crate::tls::options::{ClientAuth, Files, Protocols, TlsOptions, TlsVersion};
pub use memory::{MemorySum, Sizes, Term};

pub(crate) use crate::base::key::LISTENERS_ADDED_MAX;
pub use crate::base::key::{LISTENERS_MAX, WORKERS_MAX};

/// The most connections. A slot number has 24 bits in an event's key, and the last 4096 numbers are
/// reserved for listeners, the waker and other event sources that are not connections.
pub const CONNECTIONS_MAX: u32 = (1 << 24) - 4096;

/// The most connections by default. Many systems allow a process a million open files, but tables
/// for a million connections on each worker are too much for a server that did not request them.
/// From one address to one port, TCP has only 65,536 connections anyway.
pub const CONNECTIONS_DERIVED_MAX: u32 = 65_536;

/// The smallest buffer, in bytes. Below this, with 16 workers, the lists of buffers (16 bytes for
/// each buffer and worker) take as much memory as the buffers, and small messages take several
/// buffers.
pub const BUFFER_SIZE_MIN: usize = 256;

/// The largest buffer, in bytes. With [`LEASES_PER_CONNECTION_MAX`] of these, a call moves 4 MiB,
/// which is more than the kernel lets a socket buffer hold by default (tcp_wmem). A larger buffer
/// could never be filled well.
pub const BUFFER_SIZE_MAX: usize = 1 << 20;

/// The default size of a buffer, in bytes: most messages fit, and 10,000 slow clients hold 160 MB
/// instead of 640 MB.
pub const BUFFER_SIZE: usize = 16 << 10;

/// The most buffers that one connection may fill with one receive: 64 KiB with the default size. In
/// a measurement this had 1.6 to 1.9 times the streaming throughput of 16 KiB.
pub const LEASES_PER_CONNECTION_MAX: u8 = 4;

/// The most buffers with messages from other threads that may wait in one connection's output.
/// Further messages are refused. The kernel takes this many with a few system calls, and 10,000
/// slow clients hold at most all of the largest default number of buffers.
pub const MESSAGE_LEASES_MAX: usize = 16;

/// The most buffers: one for each of the most connections, in the 24 bits of a slot number.
pub const BUFFERS_MAX: u32 = 1 << 24;

/// The most buffers by default: 64 MiB at the default size. A buffer is held only while bytes are
/// in flight, so a server needs far fewer buffers than connections. With more than this in flight,
/// the processor is the bottleneck.
pub const BUFFERS_DERIVED_MAX: u32 = 4096;

/// The fewest buffers per worker by default. Workers fetch them from the reserve 16 at a time. With
/// fewer than a few batches each, workers would keep taking buffers from one another.
pub const BUFFERS_DERIVED_MIN_PER_WORKER: u32 = 64;

/// The default backlog: Linux's own limit (net.core.somaxconn) since 5.4. It holds a burst of
/// connects while a worker is busy. Connects that overflow it are dropped and retried a second
/// later.
pub const BACKLOG: u32 = 4096;

/// The largest backlog: some systems keep it in a 16-bit field.
pub const BACKLOG_MAX: u32 = 65_535;

/// The shortest idle time-out, send time-out and `shed_after`: the resolution of the timers.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// The longest time-out. To disable a time-out, use `None`.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The default send time-out. A peer that takes no byte for this long is gone or malicious, and
/// holds buffers all the while.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// By default, how long the pool must be empty with connections waiting before the slowest reader
/// is closed: long enough to send a lost segment again (200 ms and more), short enough that clients
/// hardly notice.
pub const SHED_AFTER: Duration = Duration::from_secs(1);

/// The default time for a TLS handshake, and for the header of the PROXY protocol: many round trips,
/// with segments lost, on a slow machine.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest [`Config::log_sample`].
pub(crate) const LOG_SAMPLE_MAX: u32 = 1_000_000;

/// The default linger: a round trip to anywhere, with one segment lost.
pub const LINGER: Duration = Duration::from_secs(2);

/// The longest linger. The peer decides how much of it is used, and holds a connection slot
/// meanwhile.
pub const LINGER_MAX: Duration = Duration::from_secs(600);

/// Address space of a worker's stack, in bytes. It is passed to the thread explicitly, so that the
/// sum of memory is right whatever RUST_MIN_STACK is. Only pages that are used become resident.
pub const WORKER_STACK_BYTES: usize = 2 << 20;

/// The configuration of a server. Settings that are left unset are derived from the machine.
///
/// All ranges are checked when the server starts, before anything is opened or allocated.
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
    pub(crate) listen: Vec<ListenOn>,
    /// How many endpoints each call of `listen` added. They share one free port if the port is 0.
    pub(crate) names: Vec<usize>,
    /// The first address that could not be parsed or found.
    wrong_address: Option<AddressError>,
    pub(crate) workers: Option<usize>,
    pub(crate) max_connections: Option<u32>,
    pub(crate) max_connections_per_address: Option<u32>,
    pub(crate) buffer_size: usize,
    pub(crate) buffers: Buffers,
    pub(crate) backlog: u32,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) shed_after: Option<Duration>,
    pub(crate) linger: Duration,
    pub(crate) log_sample: u32,
    pub(crate) handshake_timeout: Duration,
    pub(crate) share_port: bool,
    pub(crate) busy_poll: bool,
    reserved_files: u32,
    /// Whether another process can take over the listening sockets. The server then has a second
    /// descriptor of each.
    pub(crate) is_replaceable: bool,
    /// Whether listeners can be added while it runs.
    pub(crate) gains_listeners: bool,
    /// Whether each listener accepts nothing until it is started.
    pub(crate) starts_stopped: bool,
}

/// The requested number of buffers.
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
    /// The default settings, with no address to listen on.
    pub fn new() -> Config {
        Config {
            listen: Vec::new(),
            names: Vec::new(),
            wrong_address: None,
            workers: None,
            max_connections: None,
            max_connections_per_address: None,
            buffer_size: BUFFER_SIZE,
            buffers: Buffers::Derived,
            backlog: BACKLOG,
            idle_timeout: None,
            send_timeout: Some(SEND_TIMEOUT),
            shed_after: Some(SHED_AFTER),
            linger: LINGER,
            log_sample: 1,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            share_port: false,
            busy_poll: false,
            reserved_files: 0,
            is_replaceable: false,
            gains_listeners: false,
            starts_stopped: false,
        }
    }

    /// Adds an address to listen on: a text such as `"127.0.0.1:7777"`, a
    /// [`SocketAddr`](std::net::SocketAddr) or an [`Endpoint`]. [`ToEndpoints`] lists all forms. At
    /// least one address is needed, and at most 4,096 are possible.
    ///
    /// `[::]` accepts IPv4 clients too, unless the server also listens on `0.0.0.0` at the same
    /// port. On a machine without IPv6, `[::]` becomes `0.0.0.0`. Port 0 takes a free port.
    ///
    /// A Unix socket's file is replaced if no program listens on it, and removed at the end. All
    /// workers accept from it, and the first to be awake gets the connection.
    ///
    /// A host name is looked up here, once, and each of its addresses becomes an endpoint. With port
    /// 0, all of them get the same free port. If the text cannot be parsed or the name is not found,
    /// [`check`](Config::check) and [`Server::start`](crate::Server::start) return the error.
    pub fn listen(mut self, at: impl ToEndpoints) -> Config {
        match at.to_endpoints() {
            Ok(endpoints) => {
                self.names.push(endpoints.len());
                self.listen.extend(endpoints);
            }
            Err(error) => self.wrong_address = self.wrong_address.or(Some(error)),
        }
        self
    }

    /// Sets the number of worker threads, 1 to 64. Default: the number of processors that the
    /// process may use, at most 64.
    pub fn workers(mut self, workers: usize) -> Config {
        self.workers = Some(workers);
        self
    }

    /// Sets the most connections at once over all workers, 1 to 16,773,120. Default: what the hard
    /// limit of open files allows, at most 65,536.
    pub fn max_connections(mut self, connections: u32) -> Config {
        self.max_connections = Some(connections);
        self
    }

    /// Sets the most connections at once of one client address, over all listeners, 1 to
    /// 16,773,120. Further ones are reset right after accept, with the reason
    /// [`AddressLimit`](crate::CloseReason::AddressLimit). Default: `None`, no limit.
    ///
    /// An IPv6 client is counted by its /64 network, because a host usually has all of it; a
    /// link-local one by its address and interface; the processes at Unix sockets by their user.
    /// Behind a proxy, it is the address of the proxy that counts, unless the proxy names the client
    /// in a header of the PROXY protocol ([`ProxyOptions`]).
    pub fn max_connections_per_address(mut self, connections: Option<u32>) -> Config {
        self.max_connections_per_address = connections;
        self
    }

    /// Sets the size of a buffer in bytes, 256 to 1,048,576. Default: 16,384.
    pub fn buffer_size(mut self, bytes: usize) -> Config {
        self.buffer_size = bytes;
        self
    }

    /// Sets the number of buffers over all workers, from one for each worker to 16,777,216.
    /// Default: one for each connection, but at most 4096 and at least 64 for each worker. Replaces
    /// [`memory`](Config::memory).
    pub fn buffers(mut self, count: u32) -> Config {
        self.buffers = Buffers::Count(count);
        self
    }

    /// Sets the number of buffers to as many as fit into this many bytes. Replaces
    /// [`buffers`](Config::buffers).
    pub fn memory(mut self, bytes: u64) -> Config {
        self.buffers = Buffers::Bytes(bytes);
        self
    }

    /// Sets how many connections may wait at each listening socket to be accepted, 1 to 65,535.
    /// Default:
    /// 4096. If the system's own limit is lower, a line is logged.
    pub fn backlog(mut self, connections: u32) -> Config {
        self.backlog = connections;
        self
    }

    /// Closes a connection that has neither received nor sent anything for this long, 1 ms to 365
    /// days. `None`, the default, disables this.
    pub fn idle_timeout(mut self, after: Option<Duration>) -> Config {
        self.idle_timeout = after;
        self
    }

    /// Closes a connection whose peer has taken no byte of the pending output for this long, 1 ms
    /// to 365 days. `None` disables this. Default: 30 s. Output that the kernel holds for the peer
    /// counts as pending: a peer that acknowledges some of it has taken bytes.
    pub fn send_timeout(mut self, after: Option<Duration>) -> Config {
        self.send_timeout = after;
        self
    }

    /// Once a connection has waited for a buffer for this long, closes the connections that have not
    /// moved for longest, one after the other, until it is served. Those that have moved within a
    /// second, or this time if it is shorter, stay. A connection moves if its peer acknowledges at
    /// least 1 KiB/s of pending output, or sends as much of a message that its service waits for.
    /// 1 ms to 365 days; `None` disables this. Default: 1 s.
    pub fn shed_after(mut self, after: Option<Duration>) -> Config {
        self.shed_after = after;
        self
    }

    /// Closes a connection whose TLS handshake, or whose header of the PROXY protocol, takes longer
    /// than this, 1 ms to 365 days.
    /// Default: 10 s.
    pub fn handshake_timeout(mut self, after: Duration) -> Config {
        self.handshake_timeout = after;
        self
    }

    /// Sets how long a connection that this side closed is still read, 0 to 10 minutes. This keeps
    /// a reset from destroying data that was sent before. Default: 2 s.
    pub fn linger(mut self, at_most: Duration) -> Config {
        self.linger = at_most;
        self
    }

    /// Logs the begin and the end, at level debug, of one in this many connections, 1 to 1,000,000.
    /// A connection has both lines or neither. Default: 1.
    pub fn log_sample(mut self, one_in: u32) -> Config {
        self.log_sample = one_in;
        self
    }

    /// Lets other processes of the same user listen on the same ports, each taking a share of the
    /// connections. Default: false; a port that is in use is an error. Unix sockets cannot be
    /// shared.
    pub fn share_port(mut self, share: bool) -> Config {
        self.share_port = share;
        self
    }

    /// Makes the workers poll for events without sleeping, so that wake-up latency does not affect
    /// measurements of the server. Each worker then takes a whole processor. Default: false.
    pub fn busy_poll(mut self, busy_poll: bool) -> Config {
        self.busy_poll = busy_poll;
        self
    }

    /// Leaves this many open files to the rest of the program, beside those that are open when the
    /// server starts. The limit of open files then allows fewer connections. Default: 0.
    pub fn reserve_files(mut self, files: u32) -> Config {
        self.reserved_files = files;
        self
    }

    /// The endpoints added so far.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.listen.iter().map(|on| on.endpoint).collect()
    }

    /// Checks all settings and fills in those that are unset. Has no side effects.
    ///
    /// # Errors
    /// A setting is outside its range, which the error names; or the endpoints cannot be listened
    /// on together.
    pub fn check(&self) -> Result<Limits, StartError> {
        self.check_with(open_files::hard_limit())
    }

    /// As [`check`](Config::check), whatever the limit of open files is.
    #[cfg(feature = "daemon")]
    pub(crate) fn check_without_files(&self) -> Result<Limits, StartError> {
        self.check_with(u64::MAX)
    }

    fn check_with(&self, files: u64) -> Result<Limits, StartError> {
        if let Some(error) = &self.wrong_address {
            return Err(StartError::Address(error.clone()));
        }
        if !self.listen.is_empty() {
            ranged("listen", self.listen.len() as u64, 1, LISTENERS_MAX as u64)?;
        }
        bind::check(&self.listen)?;
        let workers = self.checked_workers()?;
        self.check_times()?;
        ranged("backlog", self.backlog.into(), 1, BACKLOG_MAX.into())?;
        let buffer_size = self.buffer_size;
        ranged("buffer_size", buffer_size as u64, BUFFER_SIZE_MIN as u64, BUFFER_SIZE_MAX as u64)?;
        let max_connections = self.checked_connections(workers, files)?;
        let buffers = self.checked_buffers(workers, max_connections)?;
        Ok(Limits {
            listeners: self.listen.len(),
            workers,
            max_connections,
            max_connections_per_address: self.max_connections_per_address,
            buffer_size,
            buffers,
            leases_per_connection_max: leases_per_connection_max(buffers, workers),
            backlog: self.backlog,
            idle_timeout: self.idle_timeout,
            send_timeout: self.send_timeout,
            shed_after: self.shed_after,
            linger: self.linger,
            log_sample: self.log_sample,
            share_port: self.share_port,
            busy_poll: self.busy_poll,
            reserved_files: self.all_reserved_files(workers),
        })
    }

    /// The open files that are kept free, with those of the offers of the listening sockets, and of
    /// listeners that are added later with their offers.
    fn all_reserved_files(&self, workers: usize) -> u32 {
        let added = if self.gains_listeners { LISTENERS_ADDED_MAX } else { 0 };
        let offered = if self.is_replaceable { self.listen.len() + added } else { 0 };
        self.reserved_files.saturating_add((workers * (added + offered)) as u32)
    }

    /// The limits of a running server after its limits of connections and its time-outs were changed
    /// to those of this configuration.
    pub(crate) fn change(&self, running: &Limits, most: u32) -> Result<Limits, StartError> {
        self.check_times()?;
        let max_connections = self.max_connections.unwrap_or(running.max_connections);
        ranged("max_connections", max_connections.into(), 1, most.into())?;
        ranged("log_sample", self.log_sample.into(), 1, LOG_SAMPLE_MAX.into())?;
        self.check_per_address()?;
        Ok(Limits {
            max_connections,
            max_connections_per_address: self.max_connections_per_address,
            idle_timeout: self.idle_timeout,
            send_timeout: self.send_timeout,
            shed_after: self.shed_after,
            linger: self.linger,
            ..running.clone()
        })
    }

    fn check_per_address(&self) -> Result<(), StartError> {
        let Some(asked) = self.max_connections_per_address else { return Ok(()) };
        ranged("max_connections_per_address", asked.into(), 1, CONNECTIONS_MAX.into())
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

    fn checked_connections(&self, workers: usize, files: u64) -> Result<u32, StartError> {
        if let Some(asked) = self.max_connections {
            ranged("max_connections", asked.into(), 1, CONNECTIONS_MAX.into())?;
        }
        self.check_per_address()?;
        let fixed = open_files::fixed(workers, self.listen.len());
        let fixed = fixed + u64::from(self.all_reserved_files(workers));
        open_files::connections(self.max_connections, fixed, files)
    }

    fn checked_buffers(&self, workers: usize, max_connections: u32) -> Result<u32, StartError> {
        // Each worker can then have one that is not on loan from another, and continue.
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
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&self.handshake_timeout) {
            let (field, value) = ("handshake_timeout", self.handshake_timeout);
            return Err(StartError::Timeout {
                field,
                value,
                allowed: "from 1ms to 365 days (8760h)",
            });
        }
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

/// The limits of a server, all set and all within their ranges.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The number of endpoints to listen on.
    pub listeners: usize,
    /// The number of worker threads, 1 to 64.
    pub workers: usize,
    /// The most connections at once, over all workers.
    pub max_connections: u32,
    /// The most connections at once of one client address. `None`: no limit.
    pub max_connections_per_address: Option<u32>,
    /// The size of a buffer in bytes.
    pub buffer_size: usize,
    /// The number of buffers, over all workers.
    pub buffers: u32,
    /// The most buffers that one connection may fill with one receive.
    pub leases_per_connection_max: u8,
    /// The backlog of each listener.
    pub backlog: u32,
    /// See [`Config::idle_timeout`]. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// See [`Config::send_timeout`]. `None`: never.
    pub send_timeout: Option<Duration>,
    /// See [`Config::shed_after`]. `None`: never.
    pub shed_after: Option<Duration>,
    /// How long a connection that this side closed is still read.
    pub linger: Duration,
    /// See [`Config::log_sample`].
    pub log_sample: u32,
    /// Whether other processes may listen on the same port.
    pub share_port: bool,
    /// Whether workers poll for events without sleeping.
    pub busy_poll: bool,
    /// See [`Config::reserve_files`].
    pub reserved_files: u32,
}

impl Limits {
    /// The limits of one worker and one listener without a network. There may be fewer and smaller
    /// buffers than a server can have, and nothing times out.
    pub(crate) fn bare(max_connections: u32, buffer_size: usize, buffers: u32) -> Limits {
        Limits {
            listeners: 1,
            workers: 1,
            max_connections,
            max_connections_per_address: None,
            buffer_size,
            buffers,
            leases_per_connection_max: leases_per_connection_max(buffers, 1),
            backlog: 1,
            idle_timeout: None,
            send_timeout: None,
            shed_after: None,
            linger: LINGER,
            log_sample: 1,
            share_port: false,
            busy_poll: false,
            reserved_files: 0,
        }
    }

    /// Raises the soft limit of open files, if it is lower, to what these limits and this number of
    /// `endpoints` need. Call it before sockets are made.
    ///
    /// # Errors
    /// The hard limit has become lower, or the system refuses.
    pub(crate) fn raise_open_files(&self, endpoints: usize) -> Result<(), StartError> {
        let fixed = open_files::fixed(self.workers, endpoints) + u64::from(self.reserved_files);
        open_files::raise_soft_limit(fixed + u64::from(self.max_connections))
    }
}

/// One connection's full share must leave buffers for the others, so it is smaller if there are
/// few.
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
