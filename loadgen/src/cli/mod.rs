//! The command line: flags and their help. `plan` checks how they go together.
//!
//! * here: the whole command line of a run
//! * `spec`: what a run is; `load`, `hub`, `machines`: parts of it
//! * `output`: where results go
//! * `target`, `source_ip`, `lifetime`, `objective`: the grammar of values

use clap::Parser;

mod hub;
mod lifetime;
mod load;
mod machines;
mod objective;
mod output;
pub mod source_ip;
mod spec;
pub mod target;
#[cfg(test)]
mod tests;

pub use hub::HubArgs;
pub use lifetime::Lifetime;
pub use load::LoadArgs;
pub use machines::{BarrierAddress, BarrierPlace, MachinesArgs, StartAt};
pub use objective::Objective;
pub use output::{OutputArgs, OutputFormat, ProgressForm, is_stdout};
pub use spec::RunSpec;

/// Connections when no target is given.
pub const CONNECTIONS_LOCAL_SERVER: u64 = 10_000;
/// Connections when a hub is started: each of its clients is notified of each later one.
pub const CONNECTIONS_LOCAL_HUB: u64 = 1_000;
/// Connections when a target is given, so that the server of somebody else is not flooded by
/// default.
pub const CONNECTIONS_TARGET: u64 = 100;

/// Drives many connections against a TCP echo server, and verifies every byte.
///
/// The server may also echo frames (framed) or messages with a delimiter (message), or send each
/// message to all clients (hub). Without a target, loadgen starts its own echopool server on a free
/// port of 127.0.0.1 and drives it with 10,000 connections.
#[derive(Parser, Debug, Clone)]
#[command(name = "loadgen", version, after_help = AFTER_HELP)]
pub struct RunArgs {
    /// What the run is.
    #[command(flatten)]
    pub run: RunSpec,

    /// Where the results go.
    #[command(flatten)]
    pub output: OutputArgs,
}

const AFTER_HELP: &str = "\
Other commands: loadgen ab A B (how much slower is B than A?), loadgen calibrate (the highest rates
of this machine), loadgen compare A.json B.json, loadgen merge A.json B.json ..., loadgen report
A.json ... -o FILE (from reports written with --output-format json), loadgen link (an emulated
link: delay, loss, a rate).

Units: counts and rates k, m (1000, 1000000); sizes k, m, g or Ki, Mi, Gi (powers of 1024);
times always with ns, us, ms, s, m or h.

Exit codes: 0 ok, 1 set-up or run failed, 2 usage, 3 an echo differed, 4 the measurement is not
valid (fewer connections than asked for, connections lost, or the schedule not kept) or does not
decide an objective, 5 loadgen ab or compare does not decide a condition (--fail-if), 99 an
objective (--slo) was missed or a condition is exceeded, 130 interrupted by a signal or the key q (the
report is written nevertheless).";
