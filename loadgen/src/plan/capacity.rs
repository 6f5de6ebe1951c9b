//! How many connections this machine allows: open files, and local ports for each pair of a source
//! address and a target; and whether a listen backlog holds the connections begun at once. Each
//! limit is reported with its remedy.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use echopool::Endpoint;

use crate::plan::machine::Machine;
use crate::units::counted;

/// Fewer connections are possible than were asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortfall {
    pub asked: u64,
    pub possible: u64,
    pub limit: Limit,
}

/// The resource that limits the number of connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Limit {
    /// The hard limit of open files of a process, and the value that is needed. `rude`: rude
    /// clients among them.
    OpenFiles { hard: u64, needed: u64, rude: u64 },
    /// Ports for each pair of a source address and a target, and the numbers of both.
    LocalPorts { each: u64, sources: u64, targets: u64 },
}

/// Connections that are begun at once, and how many of them the backlog holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BacklogShort {
    pub begun: u64,
    pub held: u64,
}

/// Files that a thread of clients opens in addition to its connections: epoll, timer and waker,
/// with a margin.
const FILES_PER_THREAD: u64 = 8;
/// Further files of the process: the pipes of the child, the report, signals.
const FILES_SPARE: u64 = 16;
/// Files that the local server opens in addition to its connections: standard streams, pipes, and
/// for each worker a listener, epoll, timer and waker, with a margin.
const SERVER_FILES: u64 = 64;
const SERVER_FILES_PER_WORKER: u64 = 16;
/// Linux's fs.nr_open unless it was changed: no limit of open files can be larger.
const NR_OPEN_DEFAULT: u64 = 1 << 20;
/// Source addresses of 127.0.0.0/8 in use, at most. They allow 7 million connections with the usual
/// port range.
const LOOPBACK_SOURCES_MAX: u64 = 254;
/// Percentage of a source address's ports that is used before the next address is taken. Finding
/// the last free ports of a nearly full range is slow, and other programs need some too.
const PORTS_USED_PERCENT: u64 = 90;

/// What limits the number of connections of this run.
pub(super) struct Capacity<'a> {
    pub(super) machine: &'a Machine,
    /// Source addresses on the command line.
    pub(super) given: &'a [IpAddr],
    /// Rude clients. They need the same resources as the measured ones.
    pub(super) rude: u64,
    pub(super) targets: &'a [Endpoint],
    pub(super) threads: usize,
    pub(super) server_workers: usize,
    pub(super) local_server: bool,
}

impl Capacity<'_> {
    pub(super) fn shortfall(&self, asked: u64) -> Option<Shortfall> {
        let (overhead, files) = self.files();
        let each = self.machine.ports_per_source();
        let (sources, targets) = (self.sources_max(), self.targets.len() as u64);
        // Connections are spread evenly over the pairs, so no pair exceeds its ports.
        let ports = match self.tcp().next() {
            Some(_) => (each * sources * targets).saturating_sub(self.rude),
            None => u64::MAX,
        };
        let possible = files.min(ports);
        if asked <= possible {
            return None;
        }
        let limit = if files <= ports {
            let (hard, rude) = (self.machine.open_files_max, self.rude);
            Limit::OpenFiles { hard, needed: asked + overhead, rude }
        } else {
            Limit::LocalPorts { each, sources, targets }
        };
        Some(Shortfall { asked, possible, limit })
    }

    /// Open files that a process needs in addition to one per connection, and how many connections
    /// the limit allows: the minimum of this process and of the local server.
    fn files(&self) -> (u64, u64) {
        let client = self.machine.open_files_now
            + FILES_SPARE
            + FILES_PER_THREAD * (self.threads as u64 + 1);
        let client = client + self.rude;
        let server =
            SERVER_FILES + SERVER_FILES_PER_WORKER * self.server_workers as u64 + self.rude;
        let overhead = if self.local_server { client.max(server) } else { client };
        (overhead, self.machine.open_files_max.saturating_sub(overhead))
    }

    /// The targets that take a local port for each connection.
    fn tcp(&self) -> impl Iterator<Item = SocketAddr> {
        self.targets.iter().filter_map(Endpoint::socket_addr)
    }

    fn sources_max(&self) -> u64 {
        match self.given.len() as u64 {
            0 if self.can_vary_source() => LOOPBACK_SOURCES_MAX,
            0 => 1,
            given => given,
        }
    }

    /// For connections begun at once. The backlogs of other machines are unknown, and a connect to a
    /// Unix socket is retried soon.
    pub(super) fn backlog_short(&self, begun: u64) -> Option<BacklogShort> {
        let held = self.machine.backlog_max?;
        let is_local = |target: &Endpoint| {
            target.socket_addr().is_some_and(|address| address.ip().is_loopback())
        };
        (self.targets.iter().all(is_local) && begun > held).then_some(BacklogShort { begun, held })
    }

    /// On Linux all of 127.0.0.0/8 is local. Elsewhere only 127.0.0.1 is, unless configured.
    fn can_vary_source(&self) -> bool {
        let loopback = |target: SocketAddr| target.is_ipv4() && target.ip().is_loopback();
        self.tcp().next().is_some() && self.tcp().all(loopback) && cfg!(target_os = "linux")
    }

    pub(super) fn sources(&self, connections: u64) -> Vec<IpAddr> {
        let comfortable = (self.machine.ports_per_source() * PORTS_USED_PERCENT / 100).max(1);
        let comfortable = comfortable * self.targets.len() as u64;
        let needed = (connections + self.rude).div_ceil(comfortable).min(LOOPBACK_SOURCES_MAX);
        match self.given {
            [] if needed > 1 && self.can_vary_source() => {
                (1..=needed as u8).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect()
            }
            given => given.to_vec(),
        }
    }
}

impl fmt::Display for BacklogShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BacklogShort { begun, held } = self;
        write!(
            f,
            "up to {begun} connections start at once, and a listen backlog of this machine \
             holds at most {held} (net.core.somaxconn); the others are retried after a second: \
             raise it (sysctl -w net.core.somaxconn=4096, before the server starts), or begin \
             fewer at a time (--connect-rate)"
        )
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortfall { asked, possible, limit } = self;
        let asked = counted(*asked, "connection");
        match limit {
            Limit::OpenFiles { hard, needed, rude } => {
                let beside = match rude {
                    0 => String::new(),
                    _ => format!(", including {rude} for --with"),
                };
                write!(
                    f,
                    "{asked} requested, {possible} possible: they need {needed} open \
                     files in a process{beside}, and the hard limit is {hard}; raise it \
                     (ulimit -Hn {needed} as root, LimitNOFILE={needed} in a systemd unit"
                )?;
                match *needed > NR_OPEN_DEFAULT {
                    true => write!(f, "; before that, sysctl -w fs.nr_open={needed})"),
                    false => f.write_str(")"),
                }
            }
            Limit::LocalPorts { each, sources, targets } => write!(
                f,
                "{asked} requested, {possible} possible: {sources} source \
                 address(es) with {each} ports each for each of {targets} target(s); widen \
                 net.ipv4.ip_local_port_range, give more addresses of this machine (--source-ip, \
                 repeated), or more ports of the server (host:7001-7010)"
            ),
        }
    }
}
