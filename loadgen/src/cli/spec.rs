//! The description of a run: one value, from the command line or made by another command.

use std::time::Duration;

use clap::{Args, Parser};

use super::target::Target;
use super::{HubArgs, LoadArgs, MachinesArgs, RunArgs};
use crate::stats::slo::{self, Slo};
use crate::units;

/// The description of a run, without where its results go. `loadgen calibrate` and a search make
/// variants of it by setting fields.
#[derive(Args, Clone, Debug)]
pub struct RunSpec {
    /// What to drive, and where: [service://]host:port[?options], as in
    /// framed://host:7777?order=big, host:7001-7010 for a range of ports, or
    /// unix:///run/echo.sock; connections are spread evenly over all targets [default: loadgen
    /// starts an echo server; service:// alone: a server with that service]
    #[arg(value_name = "TARGET")]
    pub targets: Vec<Target>,

    /// Concurrent connections [default: 10000 without a target, 100 with one]
    #[arg(short, long, value_name = "N", value_parser = units::positive)]
    pub connections: Option<u64>,

    /// Threads [default: half of the processors]
    #[arg(short, long, value_name = "N", value_parser = units::positive)]
    pub threads: Option<u64>,

    /// How long to measure [default: 10s, or no limit if -n is given]
    #[arg(short, long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,

    /// Requests to send in total; then the run ends
    #[arg(short = 'n', long, value_name = "N", value_parser = units::positive)]
    pub requests: Option<u64>,

    /// Time-out of a connect and of a reply; loadgen closes a connection that exceeds it, and
    /// counts it as lost
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub timeout: Duration,

    /// Seed of the payload, sizes and arrivals; the same seed repeats a run byte for byte [default:
    /// a new one each time; 1 for a shard]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// What is sent, when, and over which connections.
    #[command(flatten)]
    pub load: LoadArgs,

    /// What the clients of a hub do.
    #[command(flatten)]
    pub hub: HubArgs,

    /// How several processes make the run.
    #[command(flatten)]
    pub machines: MachinesArgs,

    /// An objective, such as 'p99<2ms', 'max<50ms', 'mean<1ms', 'rate>10k' or 'errors<1'; the exit
    /// code is 99 if it is missed; can be repeated
    #[arg(long, value_name = "OBJECTIVE", value_parser = slo::parse, help_heading = "Results")]
    pub slo: Vec<Slo>,

    /// End the run as soon as it cannot pass: at the first second that misses an --slo, the first
    /// connection that fails or is lost, or the first byte that differs
    #[arg(long, help_heading = "Results")]
    pub abort_on_fail: bool,
}

impl Default for RunSpec {
    /// That of a command line without any flag.
    fn default() -> RunSpec {
        RunArgs::parse_from(["loadgen"]).run
    }
}
