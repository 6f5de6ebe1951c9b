//! The command line: flags and their help. What they mean together is decided in `plan`.
//!
//! Here: the target, and what every run needs. `load`: what is sent and when. `output`: what is
//! shown and written.

use std::time::Duration;

use clap::Parser;

use crate::cli::target::Target;
use crate::units;

mod hub;
mod lifetime;
mod load;
mod objective;
mod output;
pub mod source_ip;
pub mod target;

pub use hub::HubArgs;
pub use lifetime::Lifetime;
pub use load::LoadArgs;
pub use objective::Objective;
pub use output::{OutputArgs, OutputFormat, ProgressForm};

/// Connections when no target is given.
pub const CONNECTIONS_OWN_SERVER: u64 = 10_000;
/// The same with a hub: each of its clients is told of each that comes after it.
pub const CONNECTIONS_OWN_HUB: u64 = 1_000;
/// Connections when a target is given: someone else's server is not flooded by default.
pub const CONNECTIONS_TARGET: u64 = 100;

/// Drives many connections against a TCP echo server, and verifies every byte.
///
/// The server may also echo frames (framed) or messages with a delimiter (message), or send each
/// message to all clients (hub). Without a target it starts an echopool server of its own on a free
/// port of 127.0.0.1 and drives that one with 10,000 connections.
#[derive(Parser, Debug, Clone)]
#[command(name = "loadgen", version, after_help = AFTER_HELP)]
pub struct Args {
    /// What to drive, and where: [service://]host:port[?options], as in framed://host:7777?order=big,
    /// or host:7001-7010 for a range of ports; connections are spread evenly over several
    /// [default: an echo server of its own; service:// alone: one with that service]
    #[arg(value_name = "TARGET")]
    pub targets: Vec<Target>,

    /// Connections at once [default: 10000 without a target, 100 with one]
    #[arg(short, long, value_name = "N", value_parser = units::positive)]
    pub connections: Option<u64>,

    /// Threads [default: half of the processors]
    #[arg(short, long, value_name = "N", value_parser = units::positive)]
    pub threads: Option<u64>,

    /// How long to measure [default: 10s, or no limit if -n is given]
    #[arg(short, long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,

    /// Requests to send in all, after which the run ends
    #[arg(short = 'n', long, value_name = "N", value_parser = units::positive)]
    pub requests: Option<u64>,

    /// How long to wait for a connection, and for a reply; a connection that is later is closed
    /// and counted
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub timeout: Duration,

    /// Seed of the payload, sizes and arrivals, to repeat a run byte for byte [default: a new one
    /// each time]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// What is sent, when, and over which connections.
    #[command(flatten)]
    pub load: LoadArgs,

    /// What the clients of a hub do.
    #[command(flatten)]
    pub hub: HubArgs,

    /// What is made of it.
    #[command(flatten)]
    pub output: OutputArgs,
}

const AFTER_HELP: &str = "\
Other commands: loadgen calibrate (what this machine can do at most), loadgen compare A.json B.json,
loadgen merge A.json B.json ... (reports written with --output-format json).

Units: counts and rates k, m (1000, 1000000); sizes k, m, g or Ki, Mi, Gi (powers of 1024);
times always with ns, us, ms, s, m or h.

Exit codes: 0 ok, 1 set-up or run failed, 2 usage, 3 an echo differed, 4 the measurement is not
valid (fewer connections than asked for, connections lost, or the schedule not kept), 99 an
objective (--slo) was missed, 130 interrupted by a signal or the key q (the report is written
nevertheless).";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }
}
