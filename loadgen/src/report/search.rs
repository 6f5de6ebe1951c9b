//! What is written of a search for the highest rate: a line for each run, and what was found.

use std::fmt::Write as _;
use std::io;

use serde::Serialize;

use super::json::{self, SCHEMA_VERSION};
use super::outputs::Sink;
use super::{time_text, time_us};
use crate::args::{OutputArgs, OutputFormat};
use crate::failure::{Exit, Failure};
use crate::search::{Missed, Search, Step};
use crate::slo::Slo;

/// Where it goes.
pub struct Output {
    format: OutputFormat,
    sink: Sink,
}

impl Output {
    /// Opens it, before the first run, which would be in vain if it could not be.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn open(flags: &OutputArgs) -> Result<Output, Failure> {
        let sink = flags.output.as_deref().map(Sink::create).transpose()?;
        Ok(Output { format: flags.output_format, sink: sink.unwrap_or_else(Sink::stdout) })
    }

    /// Writes what was found.
    ///
    /// # Errors
    /// Writing failed.
    pub fn write(&mut self, search: &Search) -> Result<(), Failure> {
        self.sink.write(|out| match self.format {
            OutputFormat::Json => {
                serde_json::to_writer_pretty(&mut *out, &Form::new(search))?;
                out.write_all(b"\n")
            }
            OutputFormat::Text => out.write_all(render(search).as_bytes()),
            OutputFormat::Quiet | OutputFormat::Csv | OutputFormat::Ndjson => io::Result::Ok(()),
        })
    }
}

/// A run in one line.
pub fn step_line(step: &Step, objective: &Slo) -> String {
    let Step { rate, report, missed } = step;
    let word = match missed {
        None => "kept".to_string(),
        Some(Missed::Server(why) | Missed::Generator(why)) => format!("not kept: {why}"),
    };
    let sent = report.requests_per_second();
    format!("{rate}/s: {sent:.0}/s, {} {}, {word}", objective.metric_text(), measured(step))
}

/// What the objective is about, as the run had it.
fn measured(step: &Step) -> String {
    step.report.objectives()[0].measured_text()
}

fn render(search: &Search) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a string");
    let plan = &search.steps[0].report.plan;
    line(format!(
        "Search for the highest rate with {} @ {}",
        search.objective,
        plan.targets_text()
    ));
    line(format!(
        "  {} threads and {} connections, {} for each rate",
        plan.threads,
        plan.connections,
        time_text(plan.duration.unwrap_or_default())
    ));
    let metric = search.objective.metric_text();
    line(format!("  {:>10} {:>12} {metric:>10} {:>12}", "Rate", "Requests/sec", "Own lag p99"));
    for step in &search.steps {
        let own_lag = step.report.records.own_lag.value_at_quantile(0.99);
        line(format!(
            "  {:>10} {:>12.2} {:>10} {:>12}  {}",
            step.rate,
            step.report.requests_per_second(),
            measured(step),
            time_us(own_lag as f64 / 1e3),
            match &step.missed {
                None => "kept",
                Some(Missed::Server(_)) => "not kept",
                Some(Missed::Generator(_)) => "generator-limited",
            }
        ));
    }
    if let Some(best) = best(search) {
        line(format!("Requests/sec: {:>10.2}", best.report.requests_per_second()));
    }
    line(format!("Highest rate: {}", found_text(search)));
    line(format!("Verdict: {}", verdict_text(search)));
    out
}

fn best(search: &Search) -> Option<&Step> {
    search.best.map(|index| &search.steps[index])
}

fn found_text(search: &Search) -> String {
    let objective = &search.objective;
    let mut text = match best(search) {
        None => format!("none was found that keeps {objective}"),
        Some(best) => {
            let at_least = match &search.beyond {
                Some((_, Missed::Server(_))) if !search.interrupted => "",
                _ => "at least ",
            };
            let metric = objective.metric_text();
            format!("{at_least}{}/s ({metric} {})", best.rate, measured(best))
        }
    };
    if let Some((rate, missed)) = &search.beyond {
        let beyond = match missed {
            Missed::Server(why) => format!("; not {rate}/s: {why}"),
            Missed::Generator(why) => {
                format!("; at {rate}/s loadgen itself was too late to tell: {why}")
            }
        };
        text += &beyond;
    }
    text
}

/// One word, as of a run.
fn verdict(search: &Search) -> &'static str {
    match (search.broken, search.exit()) {
        (Some(step), _) => search.steps[step].report.verdict().word(),
        (_, Exit::Interrupted) => "interrupted",
        (_, Exit::NotValid) => "generator-limited",
        (_, Exit::SloMissed) => "not-kept",
        _ => "valid",
    }
}

fn verdict_text(search: &Search) -> String {
    let reason = match search.broken {
        Some(step) => return search.steps[step].report.verdict_text(),
        None => match best(search) {
            Some(best) => best.report.verdict_text(),
            None => "no run kept the objective".into(),
        },
    };
    match verdict(search) {
        "valid" => reason,
        word => format!("{word} ({} runs; the best: {reason})", search.steps.len()),
    }
}

/// The JSON form. docs/loadgen.schema.json describes it.
#[derive(Serialize)]
struct Form {
    r#type: &'static str,
    schema_version: u32,
    loadgen_version: &'static str,
    objective: String,
    rate_per_second: Option<u64>,
    not_kept_rate_per_second: Option<u64>,
    not_kept_reason: Option<String>,
    is_lower_bound: bool,
    steps: Vec<StepForm>,
    verdict: &'static str,
    verdict_text: String,
    exit_code: u8,
    best: Option<json::Form>,
}

#[derive(Serialize)]
struct StepForm {
    rate_per_second: u64,
    requests_per_second: f64,
    measured_ns: Option<u64>,
    own_lag_p99_ns: u64,
    requests_never_sent: u64,
    kept: bool,
    not_kept_reason: Option<String>,
    verdict: &'static str,
}

impl Form {
    fn new(search: &Search) -> Form {
        let reason = |missed: &Missed| match missed {
            Missed::Server(why) | Missed::Generator(why) => why.clone(),
        };
        let step = |step: &Step| StepForm {
            rate_per_second: step.rate,
            requests_per_second: step.report.requests_per_second(),
            measured_ns: step.report.objectives()[0].measured.map(|nanos| nanos.round() as u64),
            own_lag_p99_ns: step.report.records.own_lag.value_at_quantile(0.99),
            requests_never_sent: step.report.records.never_sent,
            kept: step.missed.is_none(),
            not_kept_reason: step.missed.as_ref().map(reason),
            verdict: step.report.verdict().word(),
        };
        Form {
            r#type: "search",
            schema_version: SCHEMA_VERSION,
            loadgen_version: env!("CARGO_PKG_VERSION"),
            objective: search.objective.to_string(),
            rate_per_second: best(search).map(|best| best.rate),
            not_kept_rate_per_second: search.beyond.as_ref().map(|(rate, _)| *rate),
            not_kept_reason: search.beyond.as_ref().map(|(_, missed)| reason(missed)),
            is_lower_bound: !matches!(search.beyond, Some((_, Missed::Server(_))))
                || search.interrupted,
            steps: search.steps.iter().map(step).collect(),
            verdict: verdict(search),
            verdict_text: verdict_text(search),
            exit_code: search.exit() as u8,
            best: best(search).map(|best| json::Form::new(&best.report)),
        }
    }
}
