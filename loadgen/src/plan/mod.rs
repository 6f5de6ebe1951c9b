//! From the description of a run and the limits of the machine to a feasible plan: how many
//! connections, from which addresses, on how many threads, with how much memory, and when they send
//! what. Nothing is opened here.
//!
//! * here: the plan, and what a connection or a thread reads from it
//! * `addresses`: names with several addresses
//! * `checks`: flags that are impossible or do not go together
//! * `capacity`: how many connections the machine allows, and what limits them
//! * `memory`: buffers and tables of each thread, and their sum
//! * `hub`: the part of a hub run; `shard`: the part of a run on several machines
//! * `machine`: the limits of the machine; `calibration`: its highest rates

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use echopool::Endpoint;
use echopool::builtin::url::ServiceOptions;

use crate::cli::source_ip;
use crate::cli::target;
use crate::cli::{
    CONNECTIONS_LOCAL_HUB, CONNECTIONS_LOCAL_SERVER, CONNECTIONS_TARGET, Lifetime, RunSpec,
};
use crate::error::Failure;
use crate::plan::machine::Machine;
use crate::stats::slo::Slo;
use crate::traffic::dispatch::{Dispatch, OpenLoop};
use crate::traffic::rate::Rate;
use crate::traffic::rude::RudeClients;
use crate::traffic::schedule::{self, Lane, Profile};
use crate::traffic::sizes::Sizes;
use crate::traffic::wire::Wire;
use hub::HubPlan;
use shard::Shard;

pub mod addresses;
pub mod calibration;
mod capacity;
mod checks;
pub mod hub;
pub mod machine;
pub mod memory;
mod proxy;
pub mod shard;
mod tls;

pub use addresses::Alternatives;
use capacity::Capacity;
pub use capacity::{BacklogShort, Limit, Shortfall};
pub use checks::busy_poll;
pub use memory::PROXY_BYTES_PER_CONNECTION;
pub use memory::TLS_BYTES_PER_CONNECTION;
pub use memory::{CONNECTION_BYTES, ENGINE_BYTES, ENGINE_BYTES_PER_CONNECTION, Share};
pub use memory::{DATAGRAM_BYTES, DATAGRAM_SOCKET_BYTES, STAMP_PACKET_BYTES, STAMP_SOCKET_BYTES};
pub use proxy::ProxyHeaders;
pub use tls::TlsPlan;

const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// A run that is possible on this machine.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Addresses that connections go to in turn; at least one. The port is 0 until the local server
    /// has reported its port.
    pub targets: Vec<Endpoint>,
    /// Further addresses of the targets.
    pub alternatives: Alternatives,
    pub service: ServiceOptions,
    /// The targets as given.
    pub target_name: String,
    pub local_server: bool,
    /// Whether datagrams are sent, over sockets in the place of connections.
    pub over_udp: bool,
    /// Which part of the run this process makes. Its threads have the numbers that follow those of
    /// the shards before it.
    pub shard: Shard,
    /// Connections of all shards. Without shards, those of this process.
    pub connections_all: u64,
    /// The number asked for, or the default. This and what follows is of this process.
    pub connections_asked: u64,
    /// Whether the number was given on the command line.
    pub connections_explicit: bool,
    /// The possible number, which is begun.
    pub connections: u64,
    pub shortfall: Option<Shortfall>,
    /// Set if more connections are begun at once than a listen backlog of this machine holds.
    pub backlog_short: Option<BacklogShort>,
    pub threads: usize,
    /// Processors that remain for the local server.
    pub server_workers: usize,
    pub duration: Option<Duration>,
    /// Requests of all shards.
    pub requests: Option<u64>,
    /// How long requests are sent before they are recorded.
    pub warmup: Duration,
    /// When requests are sent. `None` in a closed loop, in which a request follows an earlier
    /// reply.
    pub open_loop: Option<OpenLoop>,
    /// The rate asked for in all. `None` in a closed loop, and if the rate changes.
    pub rate: Option<Rate>,
    /// Bytes in a request; the largest if they differ.
    pub size: u64,
    pub sizes: Sizes,
    /// The requests on the wire, except those of a hub.
    pub wire: Wire,
    /// What the clients of a hub do.
    pub hub: Option<HubPlan>,
    pub pipeline: u64,
    /// Whether the threads, and the workers of the local server, never sleep.
    pub busy_poll: bool,
    /// Connections to begin per second, all threads together.
    pub connect_rate: Option<u64>,
    pub timeout: Duration,
    /// The lifetime after which a connection is closed and replaced.
    pub lifetime: Option<Lifetime>,
    /// Whether the server closes at the end of a lifetime.
    pub server_closes: bool,
    /// Whether a connection that the server closed is begun anew.
    pub reconnect: bool,
    /// The header of the PROXY protocol that each connection begins with.
    pub proxy: Option<ProxyHeaders>,
    /// `None`: connections without TLS.
    pub tls: Option<TlsPlan>,
    /// Rude clients beside the measured ones: those of this process, and those of all shards.
    pub rude: RudeClients,
    pub rude_all: RudeClients,
    /// Local addresses to connect from, in turn. Empty: the system chooses.
    pub sources: Vec<IpAddr>,
    /// Further addresses of the given networks that are not used.
    pub sources_unused: u128,
    pub seed: u64,
    /// The objectives.
    pub slos: Vec<Slo>,
    /// Whether the run ends as soon as it cannot pass.
    pub abort_on_fail: bool,
}

impl Plan {
    /// Makes a plan for these targets. An empty list means the local server.
    ///
    /// # Errors
    /// The flags contradict each other, or not even one connection is possible.
    pub fn new(
        spec: &RunSpec,
        machine: &Machine,
        targets: &[Endpoint],
        seed: u64,
    ) -> Result<Plan, Failure> {
        checks::ranges(spec)?;
        let local_server = targets.is_empty();
        let targets = match local_server {
            true => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()],
            false => targets.to_vec(),
        };
        let (given, more) = source_ip::addresses(&spec.load.source_ip);
        checks::targets(&targets, &given)?;
        let service = target::service(&spec.targets)?;
        let over_udp = target::over_udp(&targets)?;
        if over_udp {
            checks::datagrams(spec, &service)?;
        }
        let shard = spec.machines.shard.unwrap_or_default();
        let default = match (local_server, &service) {
            (true, ServiceOptions::Hub(_)) => CONNECTIONS_LOCAL_HUB,
            (true, _) => CONNECTIONS_LOCAL_SERVER,
            (false, _) => CONNECTIONS_TARGET,
        };
        let all_asked = spec.connections.unwrap_or(default);
        checks::shard(spec, shard, local_server, &service, all_asked)?;
        let asked = shard.part(all_asked);
        let half = (machine.processors / 2).max(1);
        let threads = spec.threads.map_or(half, |threads| threads as usize).min(asked as usize);
        let server_workers = machine.processors.saturating_sub(threads).max(1);
        let rude_all = spec.load.rude.clone().unwrap_or_default();
        let rude = shard.part_of_rude(rude_all.clone());
        let capacity = Capacity {
            machine,
            given: &given,
            rude: rude.total(),
            targets: &targets,
            threads,
            server_workers,
            local_server,
        };
        let shortfall = capacity.shortfall(asked);
        let connections = shortfall.as_ref().map_or(asked, |shortfall| shortfall.possible);
        if let (0, Some(shortfall)) = (connections, &shortfall) {
            return Err(Failure::Setup(shortfall.to_string()));
        }
        if let (false, Some(shortfall)) = (shard.is_whole(), &shortfall) {
            // The other shards would not know of it.
            return Err(Failure::Setup(format!("shard {shard}: {shortfall}")));
        }
        let hub = match &service {
            ServiceOptions::Hub(options) => Some(HubPlan::new(spec, options, connections)?),
            _ => hub::refuse_flags(spec).map(|()| None)?,
        };
        target::check_sizes(&service, &spec.load.size)?;
        let server_closes = target::closes_after_one(&service);
        if server_closes {
            checks::one_request(spec)?;
        }
        let one_thread = hub.is_some_and(|hub| hub.wants_one_thread(threads));
        let threads = if one_thread { 1 } else { threads };
        let threads = threads.min(connections as usize);
        if spec.load.busy_poll {
            let workers = if local_server { server_workers } else { 0 };
            checks::busy_poll(threads, workers, machine.processors)?;
        }
        let sources = capacity.sources(connections);
        let begun = (threads * connects_in_flight_max(threads)) as u64;
        let backlog_short = capacity.backlog_short(begun.min(connections));
        let mut plan = Plan {
            targets,
            alternatives: Alternatives::default(),
            service,
            target_name: target_name(spec),
            hub,
            local_server,
            over_udp,
            shard,
            connections_all: if shard.is_whole() { connections } else { all_asked },
            connections_asked: asked,
            connections_explicit: spec.connections.is_some(),
            connections,
            shortfall,
            // Connections that are begun at a rate do not come in a burst.
            backlog_short: backlog_short.filter(|_| spec.load.connect_rate.is_none()),
            threads,
            server_workers,
            duration: spec.duration.or_else(|| default_duration(spec)),
            requests: spec.requests,
            warmup: spec.load.warmup.unwrap_or_default(),
            open_loop: open_loop(spec)?,
            rate: spec.load.rate,
            size: spec.load.size.max(),
            sizes: spec.load.size.clone(),
            wire: Wire::new(target::protocol(&service), spec.load.size.clone()),
            pipeline: spec.load.pipeline,
            busy_poll: spec.load.busy_poll,
            connect_rate: spec.load.connect_rate,
            timeout: spec.timeout,
            lifetime: if server_closes { Some(Lifetime::Requests(1)) } else { spec.load.lifetime },
            server_closes,
            reconnect: spec.load.reconnect,
            proxy: ProxyHeaders::new(spec),
            tls: TlsPlan::new(spec)?,
            rude,
            rude_all,
            sources,
            sources_unused: more,
            seed,
            slos: spec.slo.clone(),
            abort_on_fail: spec.abort_on_fail,
        };
        plan.end_schedule();
        Ok(plan)
    }

    /// With a number of requests, an open loop offers the first ones of its schedule.
    fn end_schedule(&mut self) {
        let (Some(requests), Some(open_loop)) = (self.requests, &self.open_loop) else { return };
        let lanes = (0..self.threads_all()).flat_map(|thread| match self.lane_of(thread) {
            (.., 0) => Vec::new(),
            (lane, first, count) => open_loop.arrivals(lane, first, count, self.seed),
        });
        let lanes = lanes.collect();
        let open_loop = self.open_loop.as_mut().expect("it is there");
        open_loop.profile.end_after(requests, lanes);
    }

    /// Threads of all shards, which have equally many.
    fn threads_all(&self) -> u64 {
        self.threads as u64 * self.shard.count
    }

    /// The number of a thread of this process among those of all shards.
    fn thread_of_all(&self, thread: usize) -> u64 {
        self.shard.index * self.threads as u64 + thread as u64
    }

    /// The number of the first connection of this process.
    pub fn first_connection(&self) -> u64 {
        self.shard.before(self.connections_all)
    }

    /// The number of the first rude client of this process, if they are numbered after all
    /// connections of all shards.
    pub fn first_rude(&self) -> u64 {
        self.connections_all + self.shard.before(self.rude_all.total())
    }

    /// The requests that this process may send, if there is a limit. For a closed loop: an open loop
    /// has the requests of its part of the schedule.
    pub fn own_requests(&self) -> Option<u64> {
        self.requests.map(|requests| self.shard.part(requests))
    }

    /// The share of thread number `thread`.
    pub fn share(&self, thread: usize) -> Share {
        let (thread, threads) = (self.thread_of_all(thread), self.threads_all());
        let first = self.connections_all * thread / threads;
        let connections = (self.connections_all * (thread + 1) / threads - first) as usize;
        let (limits, output_leases_max) = self.client_limits(connections);
        Share { first_connection: first, connections, limits, output_leases_max }
    }

    /// The schedule of a thread in an open loop: for its connections or, with a hub, for its
    /// senders.
    pub fn dispatch(&self, thread: usize) -> Option<Dispatch> {
        let open_loop = self.open_loop.as_ref()?;
        let (lane, first, count) = self.lane_of(self.thread_of_all(thread));
        (count > 0).then(|| Dispatch::new(open_loop, lane, first, count, self.seed))
    }

    /// The part of the schedule of a thread, by its number among those of all shards; the number of
    /// its first connection (with a hub: sender) in it, and how many these are.
    fn lane_of(&self, thread: u64) -> (Lane, u64, usize) {
        let threads = self.threads_all();
        let all = self.hub.map_or(self.connections_all, |hub| hub.senders);
        let first = all * thread / threads;
        let count = all * (thread + 1) / threads - first;
        (Lane::of_thread(thread, threads, count, all), first, count as usize)
    }

    /// The index of the target of connection number `connection`.
    pub fn target_index(&self, connection: u64) -> usize {
        (connection % self.targets.len() as u64) as usize
    }

    /// The source address of connection number `connection` to this address. It changes after all
    /// targets were used, so that every pair of source and target is used before one is used again.
    pub fn source(&self, connection: u64, to: &Endpoint) -> Option<IpAddr> {
        let count = self.sources.len() as u64;
        let nth = connection / self.targets.len() as u64 % count.max(1);
        let source = (count > 0).then(|| self.sources[nth as usize]);
        // The alternative to an address of 127.0.0.0/8 may be of the other family.
        source.filter(|source| to.socket_addr().is_some_and(|to| source.is_ipv4() == to.is_ipv4()))
    }

    /// The service at one of its addresses, as it is shown.
    pub fn url(&self, address: &Endpoint) -> String {
        target::url(self.service, self.tls.as_ref().map(|tls| &tls.options), address)
    }

    /// The targets' addresses, each with its scheme. One that has several has them all until one is
    /// chosen.
    pub fn target_addresses(&self) -> Vec<String> {
        let text = |target| {
            let possible = self.possible_addresses(target).into_iter();
            possible.map(|address| self.url(address)).collect::<Vec<_>>()
        };
        (0..self.targets.len()).map(|target| text(target).join(" or ")).collect()
    }

    /// The targets' addresses in one line of limited length.
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

    /// Connections of a thread that are being established at once, at most.
    pub fn connects_in_flight_max(&self) -> usize {
        connects_in_flight_max(self.threads)
    }

    /// How long after the thread's first connection its connection number `nth` is begun. A
    /// thread's share of the rate is its share of the connections.
    pub fn connect_due(&self, share: &Share, nth: usize) -> Duration {
        let Some(rate) = self.connect_rate else { return Duration::ZERO };
        let part = share.connections as f64 / self.connections_all as f64;
        Duration::from_secs_f64(nth as f64 / (rate as f64 * part))
    }
}

/// Together fewer than a usual listen backlog of 4096.
fn connects_in_flight_max(threads: usize) -> usize {
    (1024 / threads).clamp(1, 512)
}

fn target_name(spec: &RunSpec) -> String {
    spec.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn default_duration(spec: &RunSpec) -> Option<Duration> {
    match &spec.load.stages {
        Some(stages) => Some(schedule::length(&stages.0)),
        None => spec.requests.is_none().then_some(DURATION_DEFAULT),
    }
}

fn open_loop(spec: &RunSpec) -> Result<Option<OpenLoop>, Failure> {
    let load = &spec.load;
    let stages = match (&load.stages, load.rate) {
        (Some(stages), _) => stages.0.clone(),
        (None, Some(rate)) => vec![schedule::steady(rate)],
        (None, None) if load.strict || load.arrivals.is_some() => {
            return Err(Failure::Usage(
                "--strict and --arrivals need an open loop: set a rate with -R".into(),
            ));
        }
        (None, None) => return Ok(None),
    };
    let profile = Profile::new(load.warmup.unwrap_or_default(), &stages);
    let spacing = load.arrivals.unwrap_or_default();
    Ok(Some(OpenLoop { profile, spacing, strict: load.strict }))
}

/// Different for each run, so that bytes of an earlier run are detected. No larger than what every
/// JSON reader represents exactly.
pub fn new_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() >> 11
}

#[cfg(test)]
mod tests;
