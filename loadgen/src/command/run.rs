//! A run from the command line to the report: read the limits of the machine, plan, start a server
//! if there is no target, drive the clients, and write the results. Functions that a search needs
//! too are public.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::target::{Address, Target};
use crate::cli::{OutputFormat, RunArgs};
use crate::command::drive::{drive, on_signals};
use crate::error::{Exit, Failure};
use crate::exec::local_server::LocalServer;
use crate::plan::Plan;
use crate::plan::machine::Machine;
use crate::report::Outputs;
use crate::view::terminal::{self};

/// Makes the run that the command line describes, and writes its report.
///
/// # Errors
/// Why there is no report.
pub fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let interrupted = on_signals()?;
    let machine = Machine::read();
    let targets = resolve_all(&args.run.targets)?;
    let seed = args.run.seed.unwrap_or_else(new_seed);
    let mut plan = Plan::new(&args.run, &machine, &targets, seed)?;
    let mut outputs = Outputs::open(&args.output)?;
    let quiet = args.output.output_format == OutputFormat::Quiet;
    if !quiet {
        print_limits(&plan);
    }
    let mut server = match plan.local_server {
        true => Some(LocalServer::start(&plan)?),
        false => None,
    };
    if let Some(server) = &server {
        plan.targets = vec![server.address()];
    }
    if !quiet {
        announce(&plan);
    }
    let report = drive(Arc::new(plan), &args.output, server.as_mut(), &interrupted, &mut outputs)?;
    // Before the report, so that warnings of the server do not follow it.
    drop(server);
    outputs.finish(&report)?;
    let exit = report.exit();
    if exit != Exit::Ok && !outputs.shows_verdict() {
        terminal::message(format_args!("loadgen: {}", report.result_text()));
    }
    Ok(exit)
}

/// The addresses of all targets, in order.
pub fn resolve_all(targets: &[Target]) -> Result<Vec<SocketAddr>, Failure> {
    let mut addresses = Vec::new();
    for address in targets.iter().filter_map(|target| target.address.as_ref()) {
        let first = resolve(address)?;
        // With its zone, which is no part of the IP address.
        addresses.extend(address.ports.clone().map(|port| {
            let mut address = first;
            address.set_port(port);
            address
        }));
    }
    Ok(addresses)
}

/// Looks up the address of a target's first port. If a name has several addresses, the first one
/// that accepts a connection is used.
fn resolve(address: &Address) -> Result<SocketAddr, Failure> {
    let Address { host, ports } = address;
    let addresses: Vec<_> = (host.as_str(), *ports.start())
        .to_socket_addrs()
        .map_err(|error| Failure::Setup(format!("cannot look up {host}: {error}")))?
        .collect();
    let answers =
        |address: &&SocketAddr| TcpStream::connect_timeout(address, Duration::from_secs(3)).is_ok();
    match addresses.as_slice() {
        [] => Err(Failure::Setup(format!("{host} has no address"))),
        [only] => Ok(*only),
        [first, ..] => Ok(*addresses.iter().find(answers).unwrap_or(first)),
    }
}

/// Different for each run, so that bytes of an earlier run are detected. No larger than what every
/// JSON reader represents exactly.
pub fn new_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() >> 11
}

/// Prints what the machine does not allow, and what the run does instead.
pub fn print_limits(plan: &Plan) {
    if let Some(shortfall) = &plan.shortfall {
        let going_on = plan.connections;
        terminal::message(format_args!("loadgen: {shortfall}; continuing with {going_on}"));
    }
    if let Some(short) = &plan.backlog_short {
        terminal::message(format_args!("loadgen: {short}"));
    }
    if plan.sources_unused > 0 {
        terminal::message(format_args!(
            "loadgen: the first {} source addresses are used; there are {} more",
            plan.sources.len(),
            plan.sources_unused
        ));
    }
}

fn announce(plan: &Plan) {
    let mib = plan.memory_bytes() as f64 / f64::from(1 << 20);
    terminal::message(format_args!(
        "loadgen: {} connections to {}, {} threads, up to {mib:.1} MiB for buffers, tables and histograms",
        plan.connections,
        plan.targets_text(),
        plan.threads
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_keeps_its_zone() {
        let target: Target = "[fe80::1%1]:7001-7002".parse().expect("a target");
        let addresses = resolve_all(&[target]).expect("addresses need no looking up");
        let shown: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        assert_eq!(shown, ["[fe80::1%1]:7001", "[fe80::1%1]:7002"]);
    }

    #[test]
    fn a_range_of_ports_is_one_address_for_each_in_the_order_given() {
        let target = |host: &str, ports: std::ops::RangeInclusive<u16>| {
            let (first, last) = (ports.start(), ports.end());
            format!("{host}:{first}-{last}").parse::<Target>().expect("a target")
        };
        let targets = [target("127.0.0.1", 7001..=7003), target("[::1]", 9..=9)];
        let addresses = resolve_all(&targets).expect("addresses need no looking up");
        let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003", "[::1]:9"]);
        let last = resolve_all(&[target("127.0.0.1", 65_535..=65_535)]).expect("an address");
        assert_eq!(last[0].port(), 65_535);
    }
}
