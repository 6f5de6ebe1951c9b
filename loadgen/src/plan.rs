//! From the command line and the machine's limits to a run that is possible: how many connections,
//! from which addresses, on how many threads, in how much memory, and when they send what. Nothing
//! is opened here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use echopool::internals::ClientLimits;
use echopool::spec::ServiceOptions;

use crate::args::{Args, CONNECTIONS_OWN_HUB, CONNECTIONS_OWN_SERVER, CONNECTIONS_TARGET};
use crate::dispatch::{Dispatch, OpenLoop};
use crate::failure::Failure;
use crate::hub::frames::BROADCAST_BYTES;
use crate::hub::hall::Hall;
use crate::hub::plan::{self as hub, HubPlan};
use crate::limits::Machine;
use crate::rude::RudeClients;
use crate::schedule::{self, Lane, Profile};
use crate::sizes::Sizes;
use crate::sources;
use crate::target;
use crate::units;
use crate::wire::Wire;

/// A run that this machine can make.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where connections go, in turn; at least one. The port is 0 until the server of our own has
    /// said its port.
    pub targets: Vec<SocketAddr>,
    pub service: ServiceOptions,
    /// The targets as they were written.
    pub target_name: String,
    pub own_server: bool,
    /// What was asked for, or the default.
    pub connections_asked: u64,
    /// Whether the number was given on the command line.
    pub connections_explicit: bool,
    /// What is possible, and so what is begun.
    pub connections: u64,
    pub shortfall: Option<Shortfall>,
    /// More connections are begun at once than a listening socket of this machine holds.
    pub backlog_short: Option<BacklogShort>,
    pub threads: usize,
    /// Processors that are left for a server of our own.
    pub server_workers: usize,
    pub duration: Option<Duration>,
    pub requests: Option<u64>,
    /// How long requests are sent before they are recorded.
    pub warmup: Duration,
    /// When requests are sent; `None` in a closed loop, when earlier ones have been answered.
    pub open_loop: Option<OpenLoop>,
    /// Requests in a second that were asked for on the whole; `None` in a closed loop, and where
    /// the rate changes.
    pub rate: Option<u64>,
    /// Bytes in a request; the largest, if they differ.
    pub size: u64,
    pub sizes: Sizes,
    /// The requests on the wire, except those of a hub.
    pub wire: Wire,
    /// What a hub's clients do.
    pub hub: Option<HubPlan>,
    pub pipeline: u64,
    /// Whether no thread ever sleeps, nor a worker of a server of our own.
    pub busy_poll: bool,
    /// In a second, by all threads.
    pub connect_rate: Option<u64>,
    pub timeout: Duration,
    /// After which a connection is closed and another one begun.
    pub lifetime: Option<Lifetime>,
    /// Whether it is the server that closes at the end of a lifetime.
    pub server_closes: bool,
    /// Rude clients beside the measured ones.
    pub rude: RudeClients,
    /// Local addresses to connect from, in turn. Empty: the system's choice.
    pub sources: Vec<IpAddr>,
    /// Further addresses of the networks given that are more than are ever used.
    pub sources_unused: u128,
    pub seed: u64,
}

/// How long a connection lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifetime {
    Requests(u64),
    Time(Duration),
}

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Lifetime, String> {
        // `m` is a million of requests, and a minute: the former without a unit of time is said in
        // digits.
        match units::positive(text) {
            Ok(count) if !text.ends_with(['m', 'M']) => Ok(Lifetime::Requests(count)),
            _ => units::duration(text).map(Lifetime::Time).map_err(|error| {
                format!("{error}; or a number of requests, with k (1,000): 500, 10k")
            }),
        }
    }
}

/// Fewer connections are possible than were asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortfall {
    pub asked: u64,
    pub possible: u64,
    pub limit: Limit,
}

/// What limits the number of connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Limit {
    /// The hard limit of open files of a process, and what it would have to be.
    OpenFiles { hard: u64, needed: u64 },
    /// Ports for each pair of a source address and a target, and how many of both there are.
    LocalPorts { each: u64, sources: u64, targets: u64 },
}

/// Connections that are begun at once, and how many of them can wait to be accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BacklogShort {
    pub begun: u64,
    pub held: u64,
}

/// Files a thread of clients opens beside its connections: epoll, timer, waker, with room to spare.
const FILES_PER_THREAD: u64 = 8;
/// Files the process opens beside that: the child's pipes, the report, signals.
const FILES_SPARE: u64 = 16;
/// Files the server of our own opens beside its connections: standard streams, pipes, and for each
/// worker a listener, epoll, timer and waker, with room to spare.
const SERVER_FILES: u64 = 64;
const SERVER_FILES_PER_WORKER: u64 = 16;
/// The server's own default for the size of its buffers, and the bytes that they are given at most.
const SERVER_BUFFER_SIZE: u64 = 16 << 10;
const SERVER_BYTES_MAX: u64 = 512 << 20;
/// Linux's fs.nr_open if nobody has changed it: no limit of open files can be larger.
const NR_OPEN_DEFAULT: u64 = 1 << 20;
/// Source addresses of 127.0.0.0/8 that are used at most: 7 million connections at the usual range
/// of ports.
const LOOPBACK_SOURCES_MAX: u64 = 254;
/// The share of a source address's ports that is used before another address is taken, in percent:
/// finding the last free ports of a nearly full range is slow, and others need some as well.
const PORTS_USED_PERCENT: u64 = 90;
/// More is a typing error.
const THREADS_MAX: u64 = 1024;
/// Ports of all targets together: with one source address some 28 million connections.
const TARGETS_MAX: usize = 1024;
/// Requests under way on one connection. Each costs a time stamp of 8 bytes, or two.
const PIPELINE_MAX: u64 = 65_536;

impl Plan {
    /// Decides, for one target. `target` is `None` for a server of our own.
    ///
    /// # Errors
    /// The flags contradict each other, or not even one connection is possible.
    pub fn new(
        args: &Args,
        machine: &Machine,
        target: Option<SocketAddr>,
        seed: u64,
    ) -> Result<Plan, Failure> {
        Plan::for_targets(args, machine, target.as_slice(), seed)
    }

    /// Decides, for any number of targets. There are none for a server of our own.
    ///
    /// # Errors
    /// The flags contradict each other, or not even one connection is possible.
    pub fn for_targets(
        args: &Args,
        machine: &Machine,
        targets: &[SocketAddr],
        seed: u64,
    ) -> Result<Plan, Failure> {
        check_ranges(args)?;
        let own_server = targets.is_empty();
        let targets = match own_server {
            true => vec![(Ipv4Addr::LOCALHOST, 0).into()],
            false => targets.to_vec(),
        };
        let (given, more) = sources::addresses(&args.load.source_ip);
        check_targets(&targets, &given)?;
        let service = target::service(&args.targets)?;
        let default = match (own_server, &service) {
            (true, ServiceOptions::Hub(_)) => CONNECTIONS_OWN_HUB,
            (true, _) => CONNECTIONS_OWN_SERVER,
            (false, _) => CONNECTIONS_TARGET,
        };
        let asked = args.connections.unwrap_or(default);
        let half = (machine.processors / 2).max(1);
        let threads = args.threads.map_or(half, |threads| threads as usize).min(asked as usize);
        let server_workers = machine.processors.saturating_sub(threads).max(1);
        let rude = args.load.rude.clone().unwrap_or_default();
        let room = Room {
            machine,
            given: &given,
            rude: rude.total(),
            targets: &targets,
            threads,
            server_workers,
            own_server,
        };
        let shortfall = room.shortfall(asked);
        let connections = shortfall.as_ref().map_or(asked, |shortfall| shortfall.possible);
        if let (0, Some(shortfall)) = (connections, &shortfall) {
            return Err(Failure::Setup(shortfall.to_string()));
        }
        let hub = match &service {
            ServiceOptions::Hub(options) => Some(HubPlan::new(args, options, connections)?),
            _ => hub::refuse_flags(args).map(|()| None)?,
        };
        target::check_sizes(&service, &args.load.size)?;
        let server_closes = target::closes_after_one(&service);
        if server_closes {
            check_one_request(args)?;
        }
        let one_thread = hub.is_some_and(|hub| hub.wants_one_thread(threads));
        let threads = if one_thread { 1 } else { threads };
        let threads = threads.min(connections as usize);
        if args.load.busy_poll {
            let workers = if own_server { server_workers } else { 0 };
            check_busy_poll(threads, workers, machine.processors)?;
        }
        let sources = room.sources(connections);
        let begun = (threads * connects_in_flight_max(threads)) as u64;
        let backlog_short = room.backlog_short(begun.min(connections));
        Ok(Plan {
            targets,
            service,
            target_name: target_name(args),
            hub,
            own_server,
            connections_asked: asked,
            connections_explicit: args.connections.is_some(),
            connections,
            shortfall,
            // Who begins them one after the other has no burst of them.
            backlog_short: backlog_short.filter(|_| args.load.connect_rate.is_none()),
            threads,
            server_workers,
            duration: args.duration.or_else(|| default_duration(args)),
            requests: args.requests,
            warmup: args.load.warmup.unwrap_or_default(),
            open_loop: open_loop(args)?,
            rate: args.load.rate,
            size: args.load.size.max(),
            sizes: args.load.size.clone(),
            wire: Wire::new(target::protocol(&service), args.load.size.clone()),
            pipeline: args.load.pipeline,
            busy_poll: args.load.busy_poll,
            connect_rate: args.load.connect_rate,
            timeout: args.timeout,
            lifetime: if server_closes { Some(Lifetime::Requests(1)) } else { args.load.lifetime },
            server_closes,
            rude,
            sources,
            sources_unused: more,
            seed,
        })
    }

    /// What thread number `thread` has to do.
    pub fn share(&self, thread: usize) -> Share {
        let (thread, threads) = (thread as u64, self.threads as u64);
        let first = self.connections * thread / threads;
        let connections = (self.connections * (thread + 1) / threads - first) as usize;
        Share { first_connection: first, connections, limits: self.client_limits(connections) }
    }

    /// The schedule of a thread in an open loop: for its connections or, of a hub's, for those
    /// that send.
    pub fn dispatch(&self, thread: usize) -> Option<Dispatch> {
        let open_loop = self.open_loop.as_ref()?;
        let (thread, threads) = (thread as u64, self.threads as u64);
        let all = self.hub.map_or(self.connections, |hub| hub.senders);
        let first = all * thread / threads;
        let count = all * (thread + 1) / threads - first;
        let lane = Lane::of_thread(thread, threads, count, all);
        (count > 0).then(|| Dispatch::new(open_loop, lane, first, count as usize, self.seed))
    }

    /// What the threads of a hub run share.
    pub fn hall(&self) -> Option<Hall> {
        let hub = self.hub?;
        let firsts: Vec<_> =
            (0..self.threads).map(|nth| self.share(nth).first_connection).collect();
        Some(Hall::new(hub.order, self.size, self.seed, &hub.senders(&firsts)))
    }

    /// Buffers for a server of our own, where its default would be too few for requests that it has
    /// to see whole: of each connection a largest one, up to a budget of bytes.
    pub fn server_buffers(&self) -> Option<u64> {
        let longest = self.service.framing()?.wire_max() as u64;
        let each = |bytes: u64| bytes.div_ceil(SERVER_BUFFER_SIZE) + 1;
        let wanted = self.connections * each(self.wire.len_max());
        Some(wanted.min(SERVER_BYTES_MAX / SERVER_BUFFER_SIZE).max(2 * each(longest)).max(128))
    }

    /// Bytes of the largest request, all that the protocol adds included.
    fn request_bytes_max(&self) -> u64 {
        match self.hub {
            Some(_) => self.size + BROADCAST_BYTES as u64,
            None => self.wire.len_max(),
        }
    }

    /// Where connection number `connection` goes.
    pub fn target(&self, connection: u64) -> SocketAddr {
        self.targets[(connection % self.targets.len() as u64) as usize]
    }

    /// The address that connection number `connection` is made from: the next one when all targets
    /// have had theirs, so that every pair of both is used before one is used again.
    pub fn source(&self, connection: u64) -> Option<IpAddr> {
        let count = self.sources.len() as u64;
        let nth = connection / self.targets.len() as u64 % count.max(1);
        (count > 0).then(|| self.sources[nth as usize])
    }

    /// The targets' addresses, each with its scheme.
    pub fn target_addresses(&self) -> Vec<String> {
        self.targets.iter().map(|&target| target::url(self.service, target)).collect()
    }

    /// The same in one line that is not too long to be read.
    pub fn targets_text(&self) -> String {
        const TARGETS_SHOWN: usize = 4;
        let mut text = self.target_addresses();
        let more = text.len().saturating_sub(TARGETS_SHOWN);
        text.truncate(TARGETS_SHOWN);
        match more {
            0 => text.join(", "),
            _ => format!("{} and {more} more", text.join(", ")),
        }
    }

    /// Connections that a thread begins before one of the earlier ones is established.
    pub fn connects_in_flight_max(&self) -> usize {
        connects_in_flight_max(self.threads)
    }

    /// How long after a thread's first connection the one with this number in it is begun. Threads
    /// have their share of the rate, as they have of the connections.
    pub fn connect_due(&self, share: &Share, nth: usize) -> Duration {
        let Some(rate) = self.connect_rate else { return Duration::ZERO };
        let part = share.connections as f64 / self.connections as f64;
        Duration::from_secs_f64(nth as f64 / (rate as f64 * part))
    }

    /// Bytes that are put on a connection's output before the kernel has taken them all: what a
    /// connection can have under way, but no more than a socket's buffer usually takes at once.
    pub fn output_window(&self) -> u64 {
        (self.request_bytes_max() * self.pipeline).min(OUTPUT_WINDOW_MAX)
    }

    /// All memory of the clients in bytes, fixed before the first connection is begun.
    pub fn memory_bytes(&self) -> u64 {
        (0..self.threads)
            .map(|thread| self.share(thread))
            .map(|share| share.buffer_bytes() + self.table_bytes(share.connections as u64))
            .sum::<u64>()
            + self.hub.map_or(0, |hub| hub.memory_bytes())
    }

    /// What a thread's tables take: a flow and a place for each connection, its rings of times,
    /// its entries in the queues, and its schedule.
    fn table_bytes(&self, connections: u64) -> u64 {
        let flow = (size_of::<crate::flow::Flow>() + crate::client::BYTES_PER_PLACE) as u64;
        // Two queues of at most all connections.
        let queues = 2 * 16;
        let (times, schedule) = match self.open_loop {
            None => (1, 0),
            Some(_) => (2, Dispatch::BYTES_PER_CONNECTION as u64),
        };
        connections * (flow + queues + schedule + self.pipeline * times * size_of::<u64>() as u64)
    }

    /// The sum for the buffers of one thread. A buffer is in use while the kernel has no room for
    /// the bytes in it, and while received bytes are checked:
    ///
    /// * output: for each connection the buffers of its window, up to a budget of bytes. Where the
    ///   budget is smaller than that, connections wait for each other's buffers.
    /// * input: received bytes are checked and given back at once, one connection after the other,
    ///   so what one receive fills is enough; twice that, and never taken for output, so that
    ///   reading goes on when writing cannot.
    fn client_limits(&self, connections: usize) -> ClientLimits {
        let under_way = self.request_bytes_max() * self.pipeline;
        // One byte more than a reply: a receive that does not fill its buffer has emptied the
        // socket, and needs no second call to know it.
        let buffer_size = (under_way.min(BUFFER_SIZE_MAX) + 1)
            .next_power_of_two()
            .clamp(BUFFER_SIZE_MIN, BUFFER_SIZE_MAX);
        let leases = OUTPUT_WINDOW_MAX / buffer_size;
        let leases_per_connection_max = leases.clamp(1, 8) as u8;
        let wanted = connections as u64 * self.output_window().div_ceil(buffer_size);
        let affordable = OUTPUT_BYTES_MAX / self.threads as u64 / buffer_size;
        let output = wanted.min(affordable).max(1);
        let buffers =
            output + u64::from(INPUT_LEASES_FACTOR * u32::from(leases_per_connection_max));
        ClientLimits {
            connections_max: connections,
            buffers: buffers as u32,
            buffer_size: buffer_size as usize,
            leases_per_connection_max,
            linger: self.timeout.min(LINGER_MAX),
            busy_poll: self.busy_poll,
        }
    }
}

const DURATION_DEFAULT: Duration = Duration::from_secs(10);
const BUFFER_SIZE_MIN: u64 = 4 << 10;
const BUFFER_SIZE_MAX: u64 = 64 << 10;
const OUTPUT_WINDOW_MAX: u64 = 128 << 10;
/// For all threads together.
const OUTPUT_BYTES_MAX: u64 = 128 << 20;
const INPUT_LEASES_FACTOR: u32 = 2;
const LINGER_MAX: Duration = Duration::from_secs(5);

/// One thread's part of the work.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The number of its first connection.
    pub first_connection: u64,
    pub connections: usize,
    pub limits: ClientLimits,
}

impl Share {
    /// Leases that may be on outputs at once; the rest is for input.
    pub fn output_leases_max(&self) -> usize {
        let input = INPUT_LEASES_FACTOR * u32::from(self.limits.leases_per_connection_max);
        (self.limits.buffers - input) as usize
    }

    fn buffer_bytes(&self) -> u64 {
        u64::from(self.limits.buffers) * self.limits.buffer_size as u64
    }
}

/// What limits the number of connections of this run.
struct Room<'a> {
    machine: &'a Machine,
    /// Source addresses on the command line.
    given: &'a [IpAddr],
    /// Rude clients: they need what the measured ones need.
    rude: u64,
    targets: &'a [SocketAddr],
    threads: usize,
    server_workers: usize,
    own_server: bool,
}

impl Room<'_> {
    fn shortfall(&self, asked: u64) -> Option<Shortfall> {
        let (overhead, files) = self.files();
        let each = self.machine.ports_per_source();
        let (sources, targets) = (self.sources_max(), self.targets.len() as u64);
        // Connections are spread evenly over the pairs of both, so none has more than its ports.
        let ports = (each * sources * targets).saturating_sub(self.rude);
        let possible = files.min(ports);
        if asked <= possible {
            return None;
        }
        let limit = if files <= ports {
            Limit::OpenFiles { hard: self.machine.open_files_max, needed: asked + overhead }
        } else {
            Limit::LocalPorts { each, sources, targets }
        };
        Some(Shortfall { asked, possible, limit })
    }

    /// Open files that a process needs beside one for each connection, and how many connections
    /// there are files for: in this process, and in that of a server of our own.
    fn files(&self) -> (u64, u64) {
        let client = self.machine.open_files_now
            + FILES_SPARE
            + FILES_PER_THREAD * (self.threads as u64 + 1);
        let client = client + self.rude;
        let server =
            SERVER_FILES + SERVER_FILES_PER_WORKER * self.server_workers as u64 + self.rude;
        let overhead = if self.own_server { client.max(server) } else { client };
        (overhead, self.machine.open_files_max.saturating_sub(overhead))
    }

    fn sources_max(&self) -> u64 {
        match self.given.len() as u64 {
            0 if self.can_vary_source() => LOOPBACK_SOURCES_MAX,
            0 => 1,
            given => given,
        }
    }

    /// Of connections begun at once. What other machines' sockets hold is not known.
    fn backlog_short(&self, begun: u64) -> Option<BacklogShort> {
        let held = self.machine.backlog_max?;
        let local = self.targets.iter().all(|target| target.ip().is_loopback());
        (local && begun > held).then_some(BacklogShort { begun, held })
    }

    /// On Linux all of 127.0.0.0/8 is local; elsewhere only 127.0.0.1 is, unless configured.
    fn can_vary_source(&self) -> bool {
        let loopback = |target: &SocketAddr| target.is_ipv4() && target.ip().is_loopback();
        self.targets.iter().all(loopback) && cfg!(target_os = "linux")
    }

    fn sources(&self, connections: u64) -> Vec<IpAddr> {
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

/// Together fewer than a usual listen backlog of 4096 holds.
fn connects_in_flight_max(threads: usize) -> usize {
    (1024 / threads).clamp(1, 512)
}

fn target_name(args: &Args) -> String {
    args.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn check_ranges(args: &Args) -> Result<(), Failure> {
    let check = |name: &str, value: u64, max: u64| match value <= max {
        true => Ok(()),
        false => Err(Failure::Usage(format!("{name} is {value}, but must be at most {max}"))),
    };
    check("--threads", args.threads.unwrap_or(1), THREADS_MAX)?;
    check("--pipeline", args.load.pipeline, PIPELINE_MAX)
}

/// Threads that never sleep keep each other from running if there are more of them than processors.
fn check_busy_poll(threads: usize, workers: usize, processors: usize) -> Result<(), Failure> {
    let needed = threads + workers;
    if needed <= processors {
        return Ok(());
    }
    let workers_text = match workers {
        0 => String::new(),
        _ => format!(" and {workers} of the server"),
    };
    Err(Failure::Usage(format!(
        "--busy-poll takes a processor for each thread: {threads} of loadgen{workers_text}, and \
         this process may use {processors}; give fewer (-t), or leave it out"
    )))
}

/// Where a connection has one request only.
fn check_one_request(args: &Args) -> Result<(), Failure> {
    let flag = match &args.load {
        load if load.pipeline > 1 => "--pipeline",
        load if load.lifetime.is_some() => "--lifetime",
        load if load.strict => "--strict",
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!(
        "{flag} is not for a server that closes each connection after one message: \
         message://...?after=keep, if it can"
    )))
}

fn default_duration(args: &Args) -> Option<Duration> {
    match &args.load.stages {
        Some(stages) => Some(schedule::length(&stages.0)),
        None => args.requests.is_none().then_some(DURATION_DEFAULT),
    }
}

fn open_loop(args: &Args) -> Result<Option<OpenLoop>, Failure> {
    let load = &args.load;
    let stages = match (&load.stages, load.rate) {
        (Some(stages), _) => stages.0.clone(),
        (None, Some(rate)) => vec![schedule::steady(rate)],
        (None, None) if load.strict || load.arrivals.is_some() => {
            return Err(Failure::Usage(
                "--strict and --arrivals are for an open loop: give it a rate with -R".into(),
            ));
        }
        (None, None) => return Ok(None),
    };
    let profile = Profile::new(load.warmup.unwrap_or_default(), &stages);
    let spacing = load.arrivals.unwrap_or_default();
    Ok(Some(OpenLoop { profile, spacing, strict: load.strict }))
}

fn check_targets(targets: &[SocketAddr], sources: &[IpAddr]) -> Result<(), Failure> {
    if targets.len() > TARGETS_MAX {
        let text = format!("{} target ports, but at most {TARGETS_MAX}", targets.len());
        return Err(Failure::Usage(text));
    }
    for target in targets {
        let other = sources.iter().find(|source| source.is_ipv4() != target.is_ipv4());
        if let Some(source) = other {
            return Err(Failure::Usage(format!(
                "--source-ip {source} cannot reach {target}: one is IPv4, the other IPv6"
            )));
        }
    }
    Ok(())
}

impl fmt::Display for BacklogShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BacklogShort { begun, held } = self;
        write!(
            f,
            "up to {begun} connections are begun at once, and a listening socket of this machine \
             lets at most {held} wait to be accepted (net.core.somaxconn); those beyond are tried \
             again after a second: raise it (sysctl -w net.core.somaxconn=4096, before the server \
             starts), or begin fewer at a time (--connect-rate)"
        )
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortfall { asked, possible, limit } = self;
        match limit {
            Limit::OpenFiles { hard, needed } => {
                write!(
                    f,
                    "{asked} connections asked for, {possible} possible: they need {needed} open \
                     files in a process, and the hard limit is {hard}; raise it \
                     (ulimit -Hn {needed} as root, LimitNOFILE={needed} in a systemd unit"
                )?;
                match *needed > NR_OPEN_DEFAULT {
                    true => write!(f, "; before that, sysctl -w fs.nr_open={needed})"),
                    false => f.write_str(")"),
                }
            }
            Limit::LocalPorts { each, sources, targets } => write!(
                f,
                "{asked} connections asked for, {possible} possible: {sources} source \
                 address(es) with {each} ports each for each of {targets} target(s); widen \
                 net.ipv4.ip_local_port_range, give more addresses of this machine (--source-ip, \
                 repeated), or more ports of the server (host:7001-7010)"
            ),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
