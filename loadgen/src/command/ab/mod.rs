//! `loadgen ab A B ...`: targets measured against each other, in rounds.
//!
//! In each round all targets are connected, and each is driven for a slice of time, one after the
//! other in random order, or all at once (`--together`). Changes on the machine from round to round
//! then affect all targets alike, and the order favours none. Each round makes new connections and
//! new threads: which worker of a server gets a connection, and on which processor a thread runs,
//! is random and lasts as long as they do. It therefore differs from round to round, and the
//! interval includes its effect.
//!
//! A slice is an ordinary run. Its requests are verified and accounted for as those of any run, and
//! its histogram is its own.
//!
//! * here: the flags, and the rounds
//! * `result`: what the rounds show; `report`: what is written

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use echopool::builtin::url::ServiceOptions;

use crate::cli::{CONNECTIONS_TARGET, OutputArgs, OutputFormat, ProgressForm, RunSpec, target};
use crate::command::{drive, run};
use crate::error::{Exit, Failure};
use crate::exec::control::Start;
use crate::exec::local_server::LocalServer;
use crate::plan::machine::Machine;
use crate::plan::{self, Alternatives, Plan};
use crate::report::{Outputs, Report};
use crate::stats::difference::PAIRS_MAX;
use crate::stats::fail_if::FailIf;
use crate::traffic::payload::Stream;
use crate::units;
use crate::view::terminal;

mod report;
pub mod result;
#[cfg(test)]
pub(crate) mod tests;

use report::AbOutput;
use result::{Contest, Slice};

/// Measures targets against each other: how much slower is B than A?
///
/// loadgen drives the targets in many short slices, in random order, so that other work on the
/// machine affects all of them alike. The result is the median of the differences in the rounds,
/// with an interval that contains the true one in at least 99 of 100 comparisons.
///
/// -c, -t and -R apply to each target. -d is the measured time of all targets together.
#[derive(Parser, Debug, Clone)]
#[command(name = "loadgen ab", bin_name = "loadgen ab", version)]
pub struct AbArgs {
    /// What a slice is.
    #[command(flatten)]
    pub run: RunSpec,

    /// Rounds; each measures every target once [default: 30]
    #[arg(long, value_name = "N", value_parser = units::positive, help_heading = "Rounds")]
    pub rounds: Option<u64>,

    /// How long each target is measured in each round [default: -d, divided by rounds and targets]
    #[arg(long, value_name = "TIME", value_parser = units::duration, help_heading = "Rounds")]
    pub slice: Option<Duration>,

    /// Drive all targets at the same time, instead of one after the other
    #[arg(long, help_heading = "Rounds")]
    pub together: bool,

    /// Fail if a target differs from the first one by more than this: 'p99>+200us', 'p50>1.2x' or
    /// 'rate<0.9x'; the exit code is 99 if it does, 0 if it does not, and 5 if the rounds do not
    /// decide it; can be repeated
    #[arg(long, value_name = "CONDITION", help_heading = "Results")]
    pub fail_if: Vec<FailIf>,

    /// Where the results go.
    #[command(flatten)]
    pub output: OutputArgs,
}

const ROUNDS: u64 = 30;
const DURATION: Duration = Duration::from_secs(10);
/// Part of a slice that its warm-up takes in addition by default, and at most this long.
const WARMUP_PART: u32 = 4;
const WARMUP_MAX: Duration = Duration::from_millis(100);
/// Time between slices, in which the replies of the last one arrive and its connections are closed.
const GAP: Duration = Duration::from_millis(20);
/// Interval of the progress on stderr.
const SHOWN_EACH: Duration = Duration::from_secs(1);
/// Targets are called A to Z.
const TARGETS_MAX: usize = 26;
/// Makes the order of the targets independent of the payload.
const ORDER_SALT: u64 = 0x6f72_6465_7221;

/// The rounds to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rounds {
    pub count: u64,
    /// How long each target is measured in each, and the warm-up before.
    pub slice: Duration,
    pub warmup: Duration,
    pub together: bool,
    pub seed: u64,
}

impl Rounds {
    fn new(args: &AbArgs, seed: u64) -> Result<Rounds, Failure> {
        let targets = args.run.targets.len() as u32;
        let at_once = if args.together { 1 } else { targets };
        let (count, slice) = match (args.rounds, args.slice, args.run.duration) {
            (Some(_), Some(_), Some(_)) => {
                let text = "of --rounds, --slice and -d, two determine the third: omit one";
                return Err(Failure::Usage(text.into()));
            }
            (None, Some(slice), Some(all)) => {
                let count = all.as_nanos() / (slice * at_once).as_nanos();
                (u64::try_from(count).unwrap_or(u64::MAX).max(1), slice)
            }
            (count, Some(slice), None) => (count.unwrap_or(ROUNDS), slice),
            (count, None, all) => {
                let count = count.unwrap_or(ROUNDS);
                let parts = u32::try_from(count).unwrap_or(u32::MAX).saturating_mul(at_once);
                (count, all.unwrap_or(DURATION) / parts)
            }
        };
        if count > PAIRS_MAX {
            return Err(Failure::Usage(format!("{count} rounds, but at most {PAIRS_MAX}")));
        }
        if slice < Duration::from_millis(1) {
            let text =
                format!("a slice of {slice:?} is too short: use fewer rounds, or a longer -d");
            return Err(Failure::Usage(text));
        }
        // A hub's clients stay for the run, so it has no warm-up.
        let is_hub = |target: &target::Target| matches!(target.service, ServiceOptions::Hub(_));
        let any_hub = args.run.targets.iter().any(is_hub);
        let default = if any_hub { Duration::ZERO } else { (slice / WARMUP_PART).min(WARMUP_MAX) };
        let warmup = args.run.load.warmup.unwrap_or(default);
        Ok(Rounds { count, slice, warmup, together: args.together, seed })
    }

    /// The targets in the order of this round, a permutation of 0 to `targets`.
    pub fn order(&self, round: u64, targets: usize) -> Vec<usize> {
        let random = Stream::new(self.seed ^ ORDER_SALT, round);
        let mut order: Vec<usize> = (0..targets).collect();
        for last in (1..targets).rev() {
            order.swap(last, (random.draw(last as u64) % (last as u64 + 1)) as usize);
        }
        order
    }

    /// How long after the start of its round a slice begins.
    fn delay(&self, place: usize) -> Duration {
        match self.together {
            true => Duration::ZERO,
            false => (self.warmup + self.slice + GAP) * place as u32,
        }
    }
}

/// Measures the targets, and writes the result.
///
/// # Errors
/// The flags contradict each other, or a run failed.
pub fn run(args: &AbArgs) -> Result<Exit, Failure> {
    check(args)?;
    let seed = args.run.seed.unwrap_or_else(crate::plan::new_seed);
    let rounds = Rounds::new(args, seed)?;
    let mut out = AbOutput::open(&args.output)?;
    let interrupted = drive::on_signals()?;
    let mut targets = Targets::start(args, rounds, &interrupted)?;
    let mut contest = Contest::new(rounds, targets.plans(), args.fail_if.clone());
    let mut shown = Instant::now();
    while contest.rounds_made() < rounds.count {
        let slices = targets.round(contest.rounds_made())?;
        if interrupted.load(Relaxed) {
            contest.interrupted = true;
            break;
        }
        out.slices(&contest.add(slices))?;
        if shown.elapsed() >= SHOWN_EACH {
            shown = Instant::now();
            print_round(&args.output, &contest);
        }
        if contest.is_broken() {
            break;
        }
    }
    // Before the report, so that warnings of the servers do not follow it.
    drop(targets);
    if contest.rounds_made() == 0 {
        return Err(Failure::Interrupted);
    }
    out.finish(&contest)?;
    let exit = contest.exit();
    if out.verdict_to_stderr(exit) {
        terminal::message(format_args!("loadgen: {}", contest.result_text()));
    }
    Ok(exit)
}

fn check(args: &AbArgs) -> Result<(), Failure> {
    let (run, output) = (&args.run, &args.output);
    let refused = match args {
        _ if !(2..=TARGETS_MAX).contains(&run.targets.len()) => {
            let text =
                format!("loadgen ab compares targets: give 2 to {TARGETS_MAX}, the baseline first");
            return Err(Failure::Usage(text));
        }
        _ if run.requests.is_some() => "--requests",
        _ if run.load.stages.is_some() => "--stages",
        _ if run.load.search.is_some() => "--search",
        _ if run.machines.shard.is_some_and(|shard| !shard.is_whole()) => "--shard",
        _ if run.machines.barrier.is_some() => "--barrier",
        _ if run.machines.start_at.is_some() => "--start-at",
        _ if !run.slo.is_empty() => "--slo",
        _ if run.abort_on_fail => "--abort-on-fail",
        _ if output.latency => "--latency",
        _ if output.uncorrected => "--uncorrected",
        _ if output.hdr_log.is_some() => "--hdr-log",
        _ if output.hgrm.is_some() => "--hgrm",
        _ if output.calibration.is_some() => "--calibration",
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!(
        "{refused} applies to a single run, but loadgen ab makes many short ones: omit it, or make \
         a run of each target"
    )))
}

/// The targets, each with the plan of its slices and the server that was started for it.
struct Targets<'a> {
    all: Vec<(Plan, Option<LocalServer>)>,
    rounds: Rounds,
    interrupted: &'a AtomicBool,
}

impl Targets<'_> {
    fn start<'a>(
        args: &AbArgs,
        rounds: Rounds,
        interrupted: &'a AtomicBool,
    ) -> Result<Targets<'a>, Failure> {
        let mut machine = Machine::read();
        let count = args.run.targets.len();
        // The open files are for all of them.
        let free = machine.open_files_max.saturating_sub(machine.open_files_now);
        machine.open_files_max = machine.open_files_now + free / count as u64;
        let mut plans = Vec::with_capacity(count);
        for target in &args.run.targets {
            let spec = slice_spec(args, rounds, target.clone(), &machine);
            let resolved = run::resolve(&spec, interrupted)?;
            let mut plan = Plan::new(&spec, &machine, &resolved.targets, rounds.seed)?;
            plan.alternatives = Alternatives::new(resolved.others);
            run::print_limits(&plan, args.output.output_format);
            plans.push(plan);
        }
        if args.run.load.busy_poll {
            let threads = plans.iter().map(|plan| plan.threads).sum();
            let workers = |plan: &Plan| if plan.local_server { plan.server_workers } else { 0 };
            plan::busy_poll(threads, plans.iter().map(workers).sum(), machine.processors)?;
        }
        let all = plans.into_iter().map(with_server).collect::<Result<_, _>>()?;
        Ok(Targets { all, rounds, interrupted })
    }

    fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.all.iter().map(|(plan, _)| plan)
    }

    /// Makes a round: all targets are connected, and each is driven in its slice. Returns the
    /// slices in the order of the targets.
    fn round(&mut self, round: u64) -> Result<Vec<Slice>, Failure> {
        let Targets { all, rounds, interrupted } = self;
        let count = all.len();
        let order = rounds.order(round, count);
        let start = Arc::new(Start::new(all.iter().map(|(plan, _)| drive::threads(plan)).sum()));
        let made: Vec<Result<Slice, Failure>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..)
                .zip(all)
                .map(|(nth, (plan, server))| {
                    let place = order.iter().position(|of| *of == nth).expect("each has a place");
                    let mut plan = plan.clone();
                    // Other bytes in each slice. No larger than what JSON represents exactly.
                    let number = round * count as u64 + nth as u64;
                    plan.seed = plan.seed.wrapping_add(number) & ((1 << 53) - 1);
                    let (start, delay) = (start.clone(), rounds.delay(place));
                    let interrupted: &AtomicBool = interrupted;
                    scope.spawn(move || {
                        let report = slice(start, delay, plan, server.as_mut(), interrupted)?;
                        Ok(Slice { place, report })
                    })
                })
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|made| made.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        made.into_iter().collect()
    }
}

fn slice(
    start: Arc<Start>,
    delay: Duration,
    plan: Plan,
    server: Option<&mut LocalServer>,
    interrupted: &AtomicBool,
) -> Result<Report, Failure> {
    let output = OutputArgs { progress: ProgressForm::None, ..OutputArgs::default().quiet() };
    let mut outputs = Outputs::open(&output)?;
    let when = drive::When { start, delay, gate: None };
    drive::drive_after(when, Arc::new(plan), &output, server, interrupted, &mut outputs)
}

/// The description of one target's slice.
fn slice_spec(args: &AbArgs, rounds: Rounds, target: target::Target, machine: &Machine) -> RunSpec {
    let mut spec = args.run.clone();
    let at_once = if rounds.together { args.run.targets.len() } else { 1 };
    let threads = (machine.processors / 2 / at_once).max(1) as u64;
    spec.targets = vec![target];
    spec.duration = Some(rounds.slice);
    spec.load.warmup = Some(rounds.warmup).filter(|warmup| !warmup.is_zero());
    spec.connections = Some(spec.connections.unwrap_or(CONNECTIONS_TARGET));
    spec.threads = Some(spec.threads.unwrap_or(threads));
    spec
}

/// Starts the server of a target without an address.
fn with_server(mut plan: Plan) -> Result<(Plan, Option<LocalServer>), Failure> {
    if !plan.local_server {
        return Ok((plan, None));
    }
    let connections = plan.connections;
    // Those of one round may still be closing when the next one begins.
    plan.connections = 2 * connections;
    let server = LocalServer::start(&plan, |line| terminal::message(line))?;
    plan.connections = connections;
    plan.targets = vec![server.address().into()];
    Ok((plan, Some(server)))
}

/// Reports the rounds so far on stderr.
fn print_round(output: &OutputArgs, contest: &Contest) {
    if output.progress != ProgressForm::None && output.output_format != OutputFormat::Quiet {
        terminal::message(format_args!("ab: {}", contest.progress_text()));
    }
}
