//! A run from the command line to the report: read the limits of the machine, plan, start a server
//! if there is no target, drive the clients, and write the results. Functions that a search needs
//! too are public.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cli::{OutputFormat, RunArgs, RunSpec, source_ip};
use crate::command::drive::{drive, on_signals};
use crate::command::resolve::{self, Resolved};
use crate::error::{Exit, Failure};
use crate::exec::barrier::StartGate;
use crate::exec::local_server::LocalServer;
use crate::plan::machine::Machine;
use crate::plan::shard;
use crate::plan::{Alternatives, Plan, new_seed};
use crate::report::Outputs;
use crate::units::counted;
use crate::view::terminal::{self};

/// Takes the shard from the environment, if a launcher has set it and the command line does not.
///
/// # Errors
/// The environment does not tell the shard.
pub fn of_launcher(mut args: RunArgs) -> Result<RunArgs, Failure> {
    if args.run.machines.shard.is_none() {
        let found = shard::of_environment(|name| std::env::var(name).ok());
        if let Some((shard, variable)) = found.map_err(Failure::Usage)? {
            args.run.machines.shard = Some(shard);
            if args.output.output_format != OutputFormat::Quiet {
                terminal::message(format_args!("loadgen: shard {shard} ({variable})"));
            }
        }
    }
    Ok(args)
}

/// Makes the run that the command line describes, and writes its report.
///
/// # Errors
/// Why there is no report.
pub fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let interrupted = on_signals()?;
    let machine = Machine::read();
    let resolved = resolve(&args.run, &interrupted)?;
    let seed = args.run.seed.unwrap_or_else(|| seed_of(&args.run));
    let mut plan = Plan::new(&args.run, &machine, &resolved.targets, seed)?;
    plan.alternatives = Alternatives::new(resolved.others);
    let mut outputs = Outputs::open(&args.output)?;
    print_limits(&plan, args.output.output_format);
    let mut server = match plan.local_server {
        true => Some(LocalServer::start(&plan, |line| terminal::message(line))?),
        false => None,
    };
    if let Some(server) = &server {
        plan.targets = vec![server.address().into()];
    }
    if args.output.output_format != OutputFormat::Quiet {
        announce(&plan);
    }
    let gate = StartGate::new(&args.run.machines, plan.shard, plan.seed);
    let plan = Arc::new(plan);
    let report = drive(plan, gate, &args.output, server.as_mut(), &interrupted, &mut outputs)?;
    // Before the report, so that warnings of the server do not follow it.
    drop(server);
    outputs.finish(&report)?;
    let exit = report.exit();
    if outputs.verdict_to_stderr(exit) {
        terminal::message(format_args!("loadgen: {}", report.result_text()));
    }
    Ok(exit)
}

/// The addresses of a run's targets.
///
/// # Errors
/// See [`resolve::resolve`].
pub fn resolve(run: &RunSpec, interrupted: &AtomicBool) -> Result<Resolved, Failure> {
    let (sources, _) = source_ip::addresses(&run.load.source_ip);
    resolve::resolve(&run.targets, &sources, run.timeout, interrupted)
}

/// The same for all shards of a run, which cannot agree on another.
fn seed_of(run: &RunSpec) -> u64 {
    match run.machines.shard {
        Some(shard) if !shard.is_whole() => 1,
        _ => new_seed(),
    }
}

/// Prints what the machine does not allow, and what the run does instead, unless it is to be quiet.
pub fn print_limits(plan: &Plan, format: OutputFormat) {
    if format == OutputFormat::Quiet {
        return;
    }
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
        "loadgen: {} to {}, {}, up to {mib:.1} MiB for buffers, tables and histograms",
        counted(plan.connections, "connection"),
        plan.targets_text(),
        counted(plan.threads as u64, "thread")
    ));
}
