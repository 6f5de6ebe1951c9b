//! The result of a comparison of targets: text, JSON, a row for each slice, and a page.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::Contest;
use super::result::Side;
use crate::cli::{OutputArgs, OutputFormat};
use crate::error::{Exit, Failure};
use crate::report::difference::{self, short};
use crate::report::outputs::{Sink, json_line};
use crate::report::parts::side_by_side;
use crate::report::saved::SavedResult;
use crate::report::schema::{
    AbSummary, AbTarget, AbType, Distribution, PROGRAM_VERSION, PartsSummary, Percentiles,
    RunConfig, SCHEMA_VERSION, SliceSummary, SliceType, TargetComparison, nanos, unix_nanos,
};
use crate::report::{Report, Verdict};
use crate::stats::difference::{CONFIDENCE, PAIRS_MIN};
use crate::units::{counted, time_text, time_us, was};

/// Where the result goes.
pub struct AbOutput {
    format: OutputFormat,
    sink: Sink,
    html: Option<Sink>,
    /// Whether the header of csv is written.
    begun: bool,
}

impl AbOutput {
    /// Checks it before the first round, so that no round is wasted if it cannot be written.
    ///
    /// # Errors
    /// It cannot be written to, or two outputs are the same.
    pub fn open(flags: &OutputArgs) -> Result<AbOutput, Failure> {
        flags.check()?;
        let sink = flags.output.as_deref().map(Sink::new).transpose()?.unwrap_or(Sink::Stdout);
        let html = flags.html.as_deref().map(Sink::new).transpose()?;
        Ok(AbOutput { format: flags.output_format, sink, html, begun: false })
    }

    /// Writes the slices of a round.
    ///
    /// # Errors
    /// Writing failed.
    pub fn slices(&mut self, slices: &[SliceSummary]) -> Result<(), Failure> {
        let begun = std::mem::replace(&mut self.begun, true);
        match self.format {
            OutputFormat::Ndjson => {
                self.sink.write(|out| slices.iter().try_for_each(|slice| json_line(out, slice)))
            }
            OutputFormat::Csv => self.sink.write(|out| {
                if !begun {
                    writeln!(out, "{}", COLUMNS.map(|(name, _)| name).join(","))?;
                }
                slices.iter().try_for_each(|slice| csv_row(out, slice))
            }),
            OutputFormat::Text | OutputFormat::Json | OutputFormat::Quiet => Ok(()),
        }
    }

    /// Writes the result.
    ///
    /// # Errors
    /// Writing failed.
    pub fn finish(&mut self, contest: &Contest) -> Result<(), Failure> {
        match self.format {
            OutputFormat::Json => self.sink.write(|out| {
                serde_json::to_writer_pretty(&mut *out, &AbSummary::new(contest))?;
                out.write_all(b"\n")
            }),
            OutputFormat::Ndjson => self.sink.write(|out| json_line(out, &AbSummary::new(contest))),
            OutputFormat::Text => self.sink.write(|out| out.write_all(render(contest).as_bytes())),
            OutputFormat::Csv | OutputFormat::Quiet => Ok(()),
        }?;
        match &mut self.html {
            Some(html) => html.write_page(SavedResult::Ab(Box::new(AbSummary::new(contest)))),
            None => Ok(()),
        }
    }

    /// As [`Sink::verdict_to_stderr`].
    pub fn verdict_to_stderr(&self, exit: Exit) -> bool {
        self.sink.verdict_to_stderr(self.format, exit)
    }
}

type Column = (&'static str, fn(&SliceSummary) -> String);

/// The columns of csv.
const COLUMNS: [Column; 13] = [
    ("round", |slice| slice.round.to_string()),
    ("name", |slice| slice.name.clone()),
    ("place", |slice| slice.place.to_string()),
    ("replies", |slice| slice.replies.to_string()),
    ("requests_per_second", |slice| format!("{:.3}", slice.requests_per_second)),
    ("latency_min_ns", |slice| optional(slice.latency.min_ns)),
    ("latency_mean_ns", |slice| optional(slice.latency.mean_ns)),
    ("latency_p50_ns", |slice| optional(slice.latency.p50_ns)),
    ("latency_p75_ns", |slice| optional(slice.latency.p75_ns)),
    ("latency_p90_ns", |slice| optional(slice.latency.p90_ns)),
    ("latency_p99_ns", |slice| optional(slice.latency.p99_ns)),
    ("latency_p99_9_ns", |slice| optional(slice.latency.p99_9_ns)),
    ("latency_max_ns", |slice| optional(slice.latency.max_ns)),
];

fn optional(value: Option<u64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

fn csv_row(out: &mut dyn Write, slice: &SliceSummary) -> io::Result<()> {
    writeln!(out, "{}", COLUMNS.map(|(_, of)| of(slice)).join(","))
}

/// A row of the table of all rounds.
type Row = (&'static str, fn(&Report) -> String);

const ROWS: [Row; 8] = [
    ("Requests/sec", |whole| format!("{:.2}", whole.requests_per_second())),
    ("Latency mean", |whole| time_us(whole.records.latency.mean() / 1e3)),
    ("Latency p50", |whole| time_of(Percentiles::new(&whole.records.latency).p50_ns)),
    ("Latency p90", |whole| time_of(Percentiles::new(&whole.records.latency).p90_ns)),
    ("Latency p99", |whole| time_of(Percentiles::new(&whole.records.latency).p99_ns)),
    ("Latency p99.9", |whole| time_of(Percentiles::new(&whole.records.latency).p99_9_ns)),
    ("Latency max", |whole| time_of(Percentiles::new(&whole.records.latency).max_ns)),
    ("Requests", |whole| whole.records.offered.to_string()),
];

fn time_of(nanos: Option<u64>) -> String {
    time_us(nanos.unwrap_or_default() as f64 / 1e3)
}

/// The text report.
pub fn render(contest: &Contest) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{}", text.trim_end()).expect("a string");
    let rounds = &contest.rounds;
    let how = if rounds.together { "all at once" } else { "in random order" };
    line(format!(
        "{}, each with {} of each target, {how}",
        counted(contest.rounds_made(), "round"),
        time_text(rounds.slice)
    ));
    for side in &contest.sides {
        let plan = &side.plan;
        let targets = plan.targets_text();
        line(format!(
            "  {}: {targets}, {} and {}",
            side.name,
            counted(plan.threads as u64, "thread"),
            counted(plan.connections_asked, "connection")
        ));
    }
    let names: String = contest.sides.iter().map(|side| format!("{:>16}", side.name)).collect();
    line(format!("{:<14}{names}", "All rounds"));
    for (name, of) in ROWS {
        let value = |side: &Side| side.whole.as_ref().map_or(String::new(), of);
        let values: String =
            contest.sides.iter().map(|side| format!("{:>16}", value(side))).collect();
        line(format!("{name:<14}{values}"));
    }
    let parts = |side: &Side| side.whole.as_ref()?.records.parts.as_deref().map(PartsSummary::new);
    let parts: Vec<_> = contest.sides.iter().map(parts).collect();
    let parts: Vec<_> = parts.iter().map(Option::as_ref).collect();
    for (name, values) in side_by_side(&parts) {
        let text = |nanos: Option<u64>| nanos.map_or(String::new(), |nanos| time_of(Some(nanos)));
        let values: String =
            values.into_iter().map(|nanos| format!("{:>16}", text(nanos))).collect();
        line(format!("{name:<14}{values}"));
    }
    let summary = AbSummary::new(contest);
    for comparison in &summary.comparisons {
        let TargetComparison { name, against, figures } = comparison;
        line(format!(
            "{name} against {against}, median of the differences in a round ({} % interval)",
            CONFIDENCE * 100.0
        ));
        figures.iter().for_each(|figure| line(format!("  {}", figure.line())));
        line(short(&format!("{name} - {against}"), figures));
    }
    if contest.left_out > 0 {
        line(format!(
            "{} {} left out, because no request started in one of the slices: make slices longer \
             than the replies take (--slice)",
            counted(contest.left_out, "round"),
            was(contest.left_out)
        ));
    }
    if contest.rounds_made() - contest.left_out < PAIRS_MIN {
        line(format!("An interval needs at least {PAIRS_MIN} rounds"));
    }
    summary.conditions.iter().for_each(|condition| line(format!("Fail if: {condition}")));
    for side in contest.sides.iter().filter(|_| contest.verdict() > Verdict::Valid) {
        line(format!("{}: {}", side.name, side.verdict_text()));
    }
    line(format!("Verdict: {}", contest.verdict_text()));
    out
}

impl AbSummary {
    /// The summary of a comparison.
    pub fn new(contest: &Contest) -> AbSummary {
        let rounds = &contest.rounds;
        let (first, others) = contest.against();
        let wholes = || contest.sides.iter().filter_map(|side| side.whole.as_ref());
        let compare = |side: &Side| TargetComparison {
            name: side.name.clone(),
            against: first.name.clone(),
            figures: difference::figures(&first.values, &side.values, |metric| {
                first.values.paired_with(&side.values, metric)
            }),
        };
        AbSummary {
            r#type: AbType::Ab,
            schema_version: SCHEMA_VERSION,
            loadgen_version: PROGRAM_VERSION.into(),
            command: wholes().next().map_or(Vec::new(), |whole| whole.command.clone()),
            machine: wholes().next().and_then(|whole| whole.machine.clone()),
            began_unix_ns: wholes().filter_map(|whole| whole.began_at).min().map_or(0, unix_nanos),
            rounds_asked: rounds.count,
            rounds: contest.rounds_made(),
            rounds_left_out: contest.left_out,
            slice_ns: nanos(rounds.slice),
            warmup_ns: nanos(rounds.warmup),
            together: rounds.together,
            seed: rounds.seed,
            confidence_ratio: CONFIDENCE,
            targets: contest.sides.iter().filter_map(AbTarget::new).collect(),
            comparisons: others.iter().map(compare).collect(),
            conditions: contest.judged(),
            slices: contest.slices.clone(),
            interrupted: contest.interrupted,
            verdict: contest.verdict(),
            verdict_text: contest.verdict_text(),
            exit_code: contest.exit() as u8,
        }
    }
}

impl AbTarget {
    /// `None` before the first round.
    fn new(side: &Side) -> Option<AbTarget> {
        let whole = side.whole.as_ref()?;
        let records = &whole.records;
        Some(AbTarget {
            name: side.name.clone(),
            target: side.plan.target_addresses().join(","),
            config: RunConfig::new(&side.plan),
            elapsed_ns: nanos(records.elapsed()),
            connections_established: records.established,
            connections_lost: records.losses.total(),
            mismatched_connections: records.mismatches,
            requests_offered: records.offered,
            replies: records.replies,
            replies_late: records.replies_late,
            requests_timed_out: records.timed_out,
            requests_unanswered: records.unanswered,
            requests_never_sent: records.never_sent,
            requests_per_second: whole.requests_per_second(),
            bytes_verified: records.bytes_verified,
            latency: Distribution::new(&records.latency),
            service_time: Distribution::new(&records.service_time),
            send_lag: Distribution::new(&records.send_lag),
            own_lag: Distribution::new(&records.own_lag),
            connect_latency: Distribution::new(&records.connect),
            parts: records.parts.as_deref().map(PartsSummary::new),
            errors: whole.errors_by_name(),
            verdict: side.verdict(),
            verdict_text: side.verdict_text(),
        })
    }
}

impl SliceSummary {
    /// `place`: from 0.
    pub fn new(round: u64, name: &str, place: usize, report: &Report) -> SliceSummary {
        SliceSummary {
            r#type: SliceType::Slice,
            schema_version: SCHEMA_VERSION,
            round,
            name: name.into(),
            place: place as u64 + 1,
            replies: report.records.replies,
            requests_per_second: report.requests_per_second(),
            latency: Percentiles::new(&report.records.latency),
        }
    }
}
