//! Whether each flag is possible, and whether they go together.

use std::net::IpAddr;

use echopool::Endpoint;
use echopool::builtin::url::ServiceOptions;
use echopool::internals::stamp::PACKET_BYTES;

use crate::cli::RunSpec;
use crate::error::Failure;
use crate::plan::shard::Shard;
use crate::traffic::datagram;

/// A larger number is a typing error.
const THREADS_MAX: u64 = 1024;
/// Connections, and any part of them. More than any machine allows, and sums cannot overflow.
const CONNECTIONS_MAX: u64 = 1 << 32;
/// Ports of all targets together. With one source address they allow about 28 million connections.
const TARGETS_MAX: usize = 1024;
/// Outstanding requests per connection. Each needs one or two time stamps of 8 bytes.
const PIPELINE_MAX: u64 = 65_536;

pub(super) fn ranges(spec: &RunSpec) -> Result<(), Failure> {
    let check = |name: &str, value: u64, max: u64| match value <= max {
        true => Ok(()),
        false => Err(Failure::Usage(format!("{name} is {value}, but must be at most {max}"))),
    };
    check("--connections", spec.connections.unwrap_or(1), CONNECTIONS_MAX)?;
    check("--senders", spec.hub.senders.unwrap_or(1), CONNECTIONS_MAX)?;
    check("--never-read", spec.hub.never_read.unwrap_or(1), CONNECTIONS_MAX)?;
    check("--threads", spec.threads.unwrap_or(1), THREADS_MAX)?;
    check("--pipeline", spec.load.pipeline, PIPELINE_MAX)
}

/// Threads that never sleep need a processor each; if there are fewer processors, they prevent each
/// other from running.
///
/// # Errors
/// There are fewer. The text has the remedy.
pub fn busy_poll(threads: usize, workers: usize, processors: usize) -> Result<(), Failure> {
    let needed = threads + workers;
    if needed <= processors {
        return Ok(());
    }
    let workers_text = match workers {
        0 => String::new(),
        _ => format!(" and {workers} of the server"),
    };
    Err(Failure::Usage(format!(
        "--busy-poll needs a processor for each thread: {threads} of loadgen{workers_text}; this \
         process may use {processors}: use fewer threads (-t), or omit the flag"
    )))
}

/// What a run on several machines needs, so that the shards are parts of one run.
pub(super) fn shard(
    spec: &RunSpec,
    shard: Shard,
    local_server: bool,
    service: &ServiceOptions,
    connections: u64,
) -> Result<(), Failure> {
    if shard.is_whole() {
        return match spec.machines.barrier {
            Some(_) => {
                Err(Failure::Usage("--barrier is for a run of several shards: give --shard".into()))
            }
            None => Ok(()),
        };
    }
    let usage = |text: &str| Err(Failure::Usage(format!("shard {shard}: {text}")));
    if local_server {
        return usage("give the target, which all shards drive");
    }
    if matches!(service, ServiceOptions::Hub(_)) {
        return usage("a hub's clients must be in one process, which knows what each has sent");
    }
    if spec.load.search.is_some() {
        return usage("--search needs one process, which decides on the next rate");
    }
    let Some(threads) = spec.threads else {
        return usage("give the number of threads (-t), the same in every shard");
    };
    let all = threads * shard.count;
    if connections < all {
        let text = format!("-c {connections} is too few for {all} threads in total");
        return usage(&text);
    }
    if spec.requests.is_some_and(|requests| requests < shard.count) {
        return usage("-n is less than the number of shards");
    }
    Ok(())
}

/// Flags for a server that accepts one request per connection.
pub(super) fn one_request(spec: &RunSpec) -> Result<(), Failure> {
    let flag = match &spec.load {
        load if load.pipeline > 1 => "--pipeline",
        load if load.lifetime.is_some() => "--lifetime",
        load if load.strict => "--strict",
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!(
        "{flag} does not work with a server that closes each connection after one message: use \
         message://...?after=keep if the server supports it"
    )))
}

/// What there is over UDP: requests of a size that a datagram can have, and no connections.
pub(super) fn datagrams(spec: &RunSpec, service: &ServiceOptions) -> Result<(), Failure> {
    let load = &spec.load;
    let (least, most) = (load.size.min(), load.size.max());
    let (needed, what) = match service {
        ServiceOptions::Stamp(_) => (PACKET_BYTES as u64, "a test packet has its fields"),
        _ => (datagram::HEADER_BYTES, "a datagram carries its number"),
    };
    if least < needed || most > datagram::SIZE_MAX {
        return Err(Failure::Usage(format!(
            "-l is {least} to {most} bytes, but over udp it must be from {needed} to {}: {what}, and \
             has at most that many bytes",
            datagram::SIZE_MAX
        )));
    }
    let flags = [
        (load.lifetime.is_some(), "--lifetime"),
        (load.reconnect, "--reconnect"),
        (load.connect_rate.is_some(), "--connect-rate"),
        (load.rude.is_some(), "--with"),
        (load.proxy_protocol.is_some(), "--proxy-protocol"),
    ];
    match flags.iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, flag)) => {
            Err(Failure::Usage(format!("{flag} applies to connections, and udp has none: omit it")))
        }
    }
}

pub(super) fn targets(targets: &[Endpoint], sources: &[IpAddr]) -> Result<(), Failure> {
    if targets.len() > TARGETS_MAX {
        let text = format!("{} target ports, but at most {TARGETS_MAX}", targets.len());
        return Err(Failure::Usage(text));
    }
    for target in targets {
        let Some(address) = target.socket_addr() else {
            match sources.is_empty() {
                true => continue,
                false => {
                    let text = format!("--source-ip does not work with {target}: omit it");
                    return Err(Failure::Usage(text));
                }
            }
        };
        let other = sources.iter().find(|source| source.is_ipv4() != address.is_ipv4());
        if let Some(source) = other {
            return Err(Failure::Usage(format!(
                "--source-ip {source} cannot reach {address}: one is IPv4, the other IPv6"
            )));
        }
    }
    Ok(())
}
