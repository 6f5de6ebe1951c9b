//! `--search p99:1ms`: the highest rate of an open loop that meets an objective.
//!
//! * here: the runs, and what each of them shows
//! * `bracket`: which rates are tried; `report`: what is written

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use echopool::builtin::url::ServiceOptions;

use crate::cli::target;
use crate::cli::{Objective, OutputArgs, OutputFormat, ProgressForm, RunArgs, RunSpec};
use crate::command::{drive, run};
use crate::error::{Exit, Failure};
use crate::exec::local_server::LocalServer;
use crate::plan::machine::Machine;
use crate::plan::{Alternatives, Plan};
use crate::report::ending::{EndState, Ending, Objectives};
use crate::report::schema::Percentiles;
use crate::report::{Outputs, Report, Verdict, validity};
use crate::stats::slo::{Outcome, Slo};
use crate::traffic::rate::Rate;
use crate::view::terminal;

mod bracket;
mod report;
#[cfg(test)]
mod tests;

use bracket::Bracket;

/// How long each rate is tried by default. At the first rate this gives about 3,000 requests, 30 of
/// which are beyond the 99th percentile.
const STEP_DURATION: Duration = Duration::from_secs(3);
/// Warm-up of each run by default. Queues have filled by then.
const STEP_WARMUP: Duration = Duration::from_millis(500);
/// The first rate by default.
const FIRST_RATE: u64 = 1_000;
/// Requests that a run at a rate must have, at least. Fewer show nothing.
const REQUESTS_MIN: f64 = 10.0;
/// Attempts per rate, so that one disturbance does not end the search.
const TRIES: u32 = 3;

/// The result of a run at one rate. The histograms of all runs would need megabytes each.
pub struct Step {
    pub rate: u64,
    pub requests_per_second: f64,
    /// The result of the searched objective.
    pub outcome: Outcome,
    pub latency: Percentiles,
    pub own_lag_p99_ns: u64,
    pub never_sent: u64,
    pub verdict: Verdict,
    /// Why the rate was not kept.
    pub missed: Option<Missed>,
}

impl Step {
    fn of(report: &Report, missed: Option<Missed>) -> Step {
        Step {
            rate: rate_of(report),
            requests_per_second: report.requests_per_second(),
            // The first objective is the searched one.
            outcome: report.objectives().swap_remove(0),
            latency: Percentiles::new(&report.records.latency),
            own_lag_p99_ns: report.records.own_lag.value_at_quantile(0.99),
            never_sent: report.records.never_sent,
            verdict: report.verdict(),
            missed,
        }
    }
}

/// The rate of a run, which is whole.
pub fn rate_of(report: &Report) -> u64 {
    report.plan.rate.and_then(Rate::whole_per_second).unwrap_or_default()
}

/// Why a rate was not kept.
#[derive(Clone, PartialEq, Debug)]
pub enum Missed {
    /// Because of the server's latency or errors.
    Server(String),
    /// Because the generator could not sustain the rate. Nothing is known of the server.
    Generator(String),
}

/// The state of a search.
pub struct Search {
    pub objective: Slo,
    /// The plan of the first run. The others differ in their rate.
    pub plan: Plan,
    pub steps: Vec<Step>,
    /// The run at the highest rate that was kept.
    pub best: Option<Report>,
    /// The lowest rate that was not kept, and why.
    pub beyond: Option<(u64, Missed)>,
    pub interrupted: bool,
    /// A run that ended the search: a byte differed, or connections were missing.
    pub broken: Option<Report>,
    /// The rate of a run that had no report, which ended the search, and why it had none.
    pub failed: Option<(u64, String)>,
}

impl Search {
    /// What the exit code depends on.
    pub fn state(&self) -> EndState {
        if let Some(report) = &self.broken {
            return report.state();
        }
        let verdict = match self.beyond {
            Some((_, Missed::Generator(_))) => Verdict::GeneratorLimited,
            _ => Verdict::Valid,
        };
        let ending = if self.interrupted { Ending::Interrupted } else { Ending::Whole };
        // The rate found is met. Whether a higher one is, is not known if the generator was late or
        // the run had no report.
        let objectives = match (&self.best, verdict) {
            (_, Verdict::GeneratorLimited) => Objectives::Undecided,
            _ if self.failed.is_some() => Objectives::Undecided,
            (Some(_), _) => Objectives::Met,
            (None, _) => Objectives::Missed,
        };
        EndState { verdict, ending, objectives }
    }

    /// How the program ends.
    pub fn exit(&self) -> Exit {
        self.state().exit()
    }
}

/// Searches, and writes the result.
///
/// # Errors
/// A run failed, or the flags contradict each other.
pub fn run(args: &RunArgs, objective: &Objective) -> Result<Exit, Failure> {
    check(args)?;
    let mut out = report::SearchOutput::open(&args.output)?;
    let interrupted = drive::on_signals()?;
    let machine = Machine::read();
    let resolved = run::resolve(&args.run, &interrupted)?;
    let seed = args.run.seed.unwrap_or_else(crate::plan::new_seed);
    let (first, lowest) = rates(&args.run)?;
    let step = step_spec(&args.run, &objective.0);
    let plan = |rate| {
        let mut spec = step.clone();
        spec.load.rate = Some(Rate::per_second(rate));
        let mut plan = Plan::new(&spec, &machine, &resolved.targets, seed)?;
        plan.alternatives = Alternatives::new(resolved.others.clone());
        Ok(plan)
    };
    let mut first_plan = plan(first)?;
    run::print_limits(&first_plan, args.output.output_format);
    let server = first_plan
        .local_server
        .then(|| LocalServer::start(&first_plan, |line| terminal::message(line)))
        .transpose()?;
    if let Some(server) = &server {
        first_plan.targets = vec![server.address().into()];
    }
    let mut runs = Runs { args, server, interrupted: &interrupted };
    let search = Search::make(
        (first, lowest),
        first_plan,
        |rate| runs.step(plan(rate)?),
        |step| print_step(&args.output, step, &objective.0),
    )?;
    // Before the report, so that warnings of the server do not follow it.
    drop(runs);
    out.write(&search)?;
    let exit = search.exit();
    if out.verdict_to_stderr(exit) {
        terminal::message(format_args!("loadgen: {}", report::verdict_text(&search)));
    }
    Ok(exit)
}

/// The first rate, and the lowest that may be tried.
fn rates(run: &RunSpec) -> Result<(u64, u64), Failure> {
    let duration = run.duration.unwrap_or(STEP_DURATION);
    let lowest = (REQUESTS_MIN / duration.as_secs_f64()).ceil().max(1.0) as u64;
    let first = match run.load.rate {
        None => FIRST_RATE.max(lowest),
        Some(rate) => rate.whole_per_second().ok_or_else(|| {
            let text = "--search tries whole numbers of requests per second: start with one (-R)";
            Failure::Usage(text.into())
        })?,
    };
    if first < lowest {
        return Err(Failure::Usage(format!(
            "-R {first} gives fewer than {REQUESTS_MIN} requests in {duration:?}, which is too few: \
             start with a higher rate, or try each rate for longer (-d)"
        )));
    }
    Ok((first, lowest))
}

/// The description of a step's run, except its rate.
fn step_spec(run: &RunSpec, objective: &Slo) -> RunSpec {
    let mut step = run.clone();
    step.duration = Some(run.duration.unwrap_or(STEP_DURATION));
    // A hub's clients stay for the run, so it has no warm-up.
    let is_hub = matches!(target::service(&run.targets), Ok(ServiceOptions::Hub(_)));
    step.load.warmup = run.load.warmup.or((!is_hub).then_some(STEP_WARMUP));
    step.slo.insert(0, objective.clone());
    step
}

fn check(args: &RunArgs) -> Result<(), Failure> {
    let output = &args.output;
    let flag = match args {
        _ if args.run.requests.is_some() => "--requests",
        _ if output.hdr_log.is_some() => "--hdr-log",
        _ if output.hgrm.is_some() => "--hgrm",
        _ if args.run.abort_on_fail => "--abort-on-fail",
        _ if matches!(output.output_format, OutputFormat::Csv | OutputFormat::Ndjson) => {
            "--output-format csv or ndjson"
        }
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!(
        "{flag} applies to a single run, but --search makes many: search without it, then make a \
         run at the rate that was found (-R)"
    )))
}

impl Search {
    /// Searches from the rate `first` on, and tries no rate below `lowest`. `plan` is that of the
    /// first run. `run` makes a run at a rate, whose first objective is the searched one. `each` is
    /// called after each run.
    ///
    /// # Errors
    /// The first run failed.
    pub fn make(
        (first, lowest): (u64, u64),
        plan: Plan,
        mut run: impl FnMut(u64) -> Result<Report, Failure>,
        each: impl Fn(&Step),
    ) -> Result<Search, Failure> {
        let mut bracket = Bracket::new(first, lowest);
        let mut search = Search {
            objective: plan.slos[0].clone(),
            plan,
            steps: Vec::new(),
            best: None,
            beyond: None,
            interrupted: false,
            broken: None,
            failed: None,
        };
        'rates: while let Some(rate) = bracket.next() {
            let mut missed = None;
            for _ in 0..TRIES {
                let report = match run(rate) {
                    Ok(report) => report,
                    Err(failure) if search.steps.is_empty() => return Err(failure),
                    Err(failure) => {
                        search.failed = Some((rate, failure.to_string()));
                        break 'rates;
                    }
                };
                let why = why_missed(&report);
                let step = Step::of(&report, why.clone());
                each(&step);
                search.steps.push(step);
                search.interrupted = report.interrupted;
                if is_broken(&report) {
                    search.broken = Some(report);
                    break 'rates;
                }
                if search.interrupted {
                    break 'rates;
                }
                missed = of_both(missed, why);
                if missed.is_none() {
                    search.best = Some(report);
                    break;
                }
            }
            bracket.tried(rate, missed.is_none());
            search.beyond = missed.map(|why| (rate, why)).or(search.beyond);
        }
        Ok(search)
    }
}

/// Makes the runs of a search.
struct Runs<'a> {
    args: &'a RunArgs,
    server: Option<LocalServer>,
    interrupted: &'a AtomicBool,
}

impl Runs<'_> {
    fn step(&mut self, mut plan: Plan) -> Result<Report, Failure> {
        if let Some(server) = &self.server {
            plan.targets = vec![server.address().into()];
        }
        let output = self.args.output.quiet();
        let mut outputs = Outputs::open(&output)?;
        let server = self.server.as_mut();
        drive::drive(Arc::new(plan), None, &output, server, self.interrupted, &mut outputs)
    }
}

/// Reports a step on stderr.
fn print_step(output: &OutputArgs, step: &Step, objective: &Slo) {
    if output.progress != ProgressForm::None && output.output_format != OutputFormat::Quiet {
        let line = report::step_line(step, objective);
        terminal::message(format_args!("searching: {line}"));
    }
}

/// Whether further runs are pointless. For an interrupted run only its bytes can show that.
fn is_broken(report: &Report) -> bool {
    match report.verdict() {
        Verdict::Differed => true,
        Verdict::NothingServed | Verdict::UnderConnected => !report.interrupted,
        _ => false,
    }
}

/// Combines attempts at the same rate. One that kept the rate is enough; of the others, one that
/// shows something about the server counts.
fn of_both(before: Option<Missed>, now: Option<Missed>) -> Option<Missed> {
    match (before, now) {
        (Some(Missed::Server(why)), Some(Missed::Generator(_))) => Some(Missed::Server(why)),
        (_, now) => now,
    }
}

/// The generator's own lag is part of every latency. A run that meets the objective in spite of it
/// has met it. A run that misses it shows nothing about the server if the generator was late. A
/// queue that grows is not kept up with, however low the latency still is when the run ends.
fn why_missed(report: &Report) -> Option<Missed> {
    let outcomes = report.objectives();
    let missed = outcomes.iter().find(|outcome| !outcome.is_met());
    let never_sent = report.records.never_sent;
    let beyond = validity::beyond_capacity(&report.plan, &report.records);
    let why = match (report.verdict(), missed) {
        (Verdict::Valid | Verdict::GeneratorLimited, None)
            if never_sent == 0 && beyond.is_none() =>
        {
            return None;
        }
        (Verdict::GeneratorLimited, _) => return Some(Missed::Generator(report.verdict_text())),
        (Verdict::Valid, Some(outcome)) => outcome.to_string(),
        (Verdict::Valid, None) => beyond.unwrap_or_else(|| {
            format!("{never_sent} requests were never sent, because no connection had room")
        }),
        _ => report.verdict_text(),
    };
    Some(Missed::Server(why))
}
