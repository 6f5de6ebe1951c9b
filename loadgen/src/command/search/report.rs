//! The result of a search: a line per run, and the highest rate.

use std::fmt::Write as _;

use crate::cli::{OutputArgs, OutputFormat};
use crate::command::search::{Missed, Search, Step, rate_of};
use crate::error::{Exit, Failure};
use crate::report::Verdict;
use crate::report::outputs::Sink;
use crate::report::saved::SavedResult;
use crate::report::schema::{
    PROGRAM_VERSION, RunSummary, SCHEMA_VERSION, SearchSummary, SearchType, SearchVerdict,
    StepResult,
};
use crate::stats::slo::Slo;
use crate::units::{counted, time_text, time_us};

/// Where the result goes.
pub struct SearchOutput {
    format: OutputFormat,
    sink: Sink,
    html: Option<Sink>,
}

impl SearchOutput {
    /// Checks it before the first run, so that no run is wasted if it cannot be written.
    ///
    /// # Errors
    /// It cannot be written to, or two outputs are the same.
    pub fn open(flags: &OutputArgs) -> Result<SearchOutput, Failure> {
        flags.check()?;
        let sink = flags.output.as_deref().map(Sink::new).transpose()?;
        let html = flags.html.as_deref().map(Sink::new).transpose()?;
        Ok(SearchOutput { format: flags.output_format, sink: sink.unwrap_or(Sink::Stdout), html })
    }

    /// Writes the result.
    ///
    /// # Errors
    /// Writing failed.
    pub fn write(&mut self, search: &Search) -> Result<(), Failure> {
        match self.format {
            OutputFormat::Json => self.sink.write(|out| {
                serde_json::to_writer_pretty(&mut *out, &SearchSummary::new(search))?;
                out.write_all(b"\n")
            }),
            OutputFormat::Text => self.sink.write(|out| out.write_all(render(search).as_bytes())),
            OutputFormat::Quiet | OutputFormat::Csv | OutputFormat::Ndjson => Ok(()),
        }?;
        match &mut self.html {
            Some(html) => {
                html.write_page(SavedResult::Search(Box::new(SearchSummary::new(search))))
            }
            None => Ok(()),
        }
    }

    /// As [`Sink::verdict_to_stderr`].
    pub fn verdict_to_stderr(&self, exit: Exit) -> bool {
        self.sink.verdict_to_stderr(self.format, exit)
    }
}

/// Formats a step as one line.
pub fn step_line(step: &Step, objective: &Slo) -> String {
    let Step { rate, requests_per_second: sent, outcome, missed, .. } = step;
    let word = match missed {
        None => "kept".to_string(),
        Some(Missed::Server(why) | Missed::Generator(why)) => format!("not kept: {why}"),
    };
    let (metric, measured) = (objective.metric_text(), outcome.measured_text());
    format!("{rate}/s: {sent:.0}/s, {metric} {measured}, {word}")
}

fn render(search: &Search) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a string");
    let plan = &search.plan;
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
        line(format!(
            "  {:>10} {:>12.2} {:>10} {:>12}  {}",
            step.rate,
            step.requests_per_second,
            step.outcome.measured_text(),
            time_us(step.own_lag_p99_ns as f64 / 1e3),
            match &step.missed {
                None => "kept",
                Some(Missed::Server(_)) => "not kept",
                Some(Missed::Generator(_)) => "generator-limited",
            }
        ));
    }
    if let Some(best) = &search.best {
        line(format!("Requests/sec: {:>10.2}", best.requests_per_second()));
    }
    line(format!("Highest rate: {}", found_text(search)));
    line(format!("Verdict: {}", verdict_text(search)));
    out
}

fn found_text(search: &Search) -> String {
    let objective = &search.objective;
    let mut text = match &search.best {
        None => format!("no rate keeps {objective}"),
        Some(best) => {
            let at_least = if is_lower_bound(search) { "at least " } else { "" };
            let metric = objective.metric_text();
            let measured = best.objectives()[0].measured_text();
            format!("{at_least}{}/s ({metric} {measured})", rate_of(best))
        }
    };
    if let Some((rate, missed)) = &search.beyond {
        let beyond = match missed {
            Missed::Server(why) => format!("; not {rate}/s: {why}"),
            Missed::Generator(why) => {
                format!("; at {rate}/s loadgen itself was too late: {why}")
            }
        };
        text += &beyond;
    }
    if let Some((rate, why)) = &search.failed {
        write!(text, "; the run at {rate}/s failed: {why}").expect("writing to a string");
    }
    text
}

/// Whether the server may be able to take more.
pub fn is_lower_bound(search: &Search) -> bool {
    let ended_early = search.interrupted || search.failed.is_some();
    ended_early || !matches!(search.beyond, Some((_, Missed::Server(_))))
}

fn verdict(search: &Search) -> SearchVerdict {
    match (&search.broken, search.exit()) {
        (Some(report), _) => SearchVerdict::Run(report.verdict()),
        (_, Exit::Interrupted) => SearchVerdict::Interrupted,
        _ if search.failed.is_some() => SearchVerdict::RunFailed,
        (_, Exit::NotValid) => SearchVerdict::Run(Verdict::GeneratorLimited),
        (_, Exit::SloMissed) => SearchVerdict::NotKept,
        _ => SearchVerdict::Run(Verdict::Valid),
    }
}

/// The verdict with its reason, in one line.
pub fn verdict_text(search: &Search) -> String {
    let reason = match (&search.broken, &search.best) {
        (Some(report), _) => return report.verdict_text(),
        (None, Some(best)) => best.verdict_text(),
        (None, None) => "no run met the objective".into(),
    };
    let runs = counted(search.steps.len() as u64, "run");
    match verdict(search) {
        SearchVerdict::Run(Verdict::Valid) => reason,
        SearchVerdict::RunFailed => {
            let (rate, why) = search.failed.as_ref().expect("a run failed");
            format!("run-failed (at {rate}/s after {runs}: {why}; the best: {reason})")
        }
        verdict => format!("{} ({runs}; the best: {reason})", verdict.word()),
    }
}

impl SearchSummary {
    fn new(search: &Search) -> SearchSummary {
        let reason = |missed: &Missed| match missed {
            Missed::Server(why) | Missed::Generator(why) => why.clone(),
        };
        let step = |step: &Step| StepResult {
            rate_per_second: step.rate,
            requests_per_second: step.requests_per_second,
            measured_ns: step.outcome.measured.map(|nanos| nanos.round() as u64),
            latency: step.latency,
            own_lag_p99_ns: step.own_lag_p99_ns,
            requests_never_sent: step.never_sent,
            kept: step.missed.is_none(),
            not_kept_reason: step.missed.as_ref().map(reason),
            verdict: step.verdict,
        };
        SearchSummary {
            r#type: SearchType::Search,
            schema_version: SCHEMA_VERSION,
            loadgen_version: PROGRAM_VERSION.into(),
            objective: search.objective.to_string(),
            rate_per_second: search.best.as_ref().map(rate_of),
            not_kept_rate_per_second: search.beyond.as_ref().map(|(rate, _)| *rate),
            not_kept_reason: search.beyond.as_ref().map(|(_, missed)| reason(missed)),
            is_lower_bound: is_lower_bound(search),
            steps: search.steps.iter().map(step).collect(),
            verdict: verdict(search),
            verdict_text: verdict_text(search),
            exit_code: search.exit() as u8,
            best: search.best.as_ref().map(RunSummary::new),
        }
    }
}
