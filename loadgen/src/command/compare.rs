//! `loadgen compare A.json B.json`: two runs side by side. `sets` compares several with several.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::command::sets;
use crate::error::{Exit, Failure};
use crate::report::ending::EndState;
use crate::report::outputs::{Sink, page_beside};
use crate::report::parts::side_by_side;
use crate::report::print;
use crate::report::saved::{self, Saved, SavedResult};
use crate::report::schema::RunSummary;
use crate::stats::fail_if::FailIf;
use crate::stats::records;
use crate::units::time_text;

/// Shows two runs side by side, with the ratios of their rates and percentiles, or compares several
/// runs with several others (--against).
///
/// The percentiles come from the histograms in the files. Two runs do not show how much the figures
/// vary by chance. With five of each, the differences have intervals.
#[derive(Parser, Debug)]
#[command(name = "loadgen compare", bin_name = "loadgen compare", version)]
pub struct CompareArgs {
    /// Two reports written with --output-format json or ndjson, or by loadgen merge; with --against,
    /// one or more
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// The reports to compare with the first ones: compare before*.json --against after*.json
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub against: Vec<PathBuf>,

    /// Fail if the second files differ from the first ones by more than this: 'p99>+200us',
    /// 'p50>1.2x' or 'rate<0.9x'; the exit code is 99 if they do, 0 if they do not, and 5 if the files
    /// do not decide it; can be repeated
    #[arg(long, value_name = "CONDITION")]
    pub fail_if: Vec<FailIf>,

    /// Format of the comparison
    #[arg(long, value_name = "FORM", value_enum, default_value = "text")]
    pub output_format: CompareFormat,

    /// Write a page with the differences, and with charts and tables of all files
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Compare runs of different services too, or of hubs with different clients; their figures are
    /// not of the same kind
    #[arg(long)]
    pub anyway: bool,
}

/// Format of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum CompareFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Reads the files, and writes the comparison to stdout.
///
/// # Errors
/// A file cannot be read, or the figures of the runs are not of the same kind.
pub fn run(args: &CompareArgs) -> Result<Exit, Failure> {
    let (first, second) = match (&args.files[..], &args.against[..]) {
        (first, [_, ..]) => return sets::run(args, first, &args.against),
        ([first, second], []) => (first, second),
        _ => {
            let text = "give two files, or those to compare them with after --against";
            return Err(Failure::Usage(text.into()));
        }
    };
    let has_merged = [first, second]
        .into_iter()
        .any(|path| matches!(SavedResult::read(path), Ok(SavedResult::Merged(_))));
    if has_merged || !args.fail_if.is_empty() || args.output_format == CompareFormat::Json {
        return sets::run(args, std::slice::from_ref(first), std::slice::from_ref(second));
    }
    let (first, second) = (Saved::read(first)?, Saved::read(second)?);
    let differing = first.differing_kind(&second);
    if !args.anyway && !differing.is_empty() {
        return Err(Failure::Setup(format!(
            "{} and {} are not of the same kind: {}; --anyway compares them nevertheless",
            first.name,
            second.name,
            differing.join(", ")
        )));
    }
    let mut page = args.page()?;
    print(&render(&first, &second))?;
    if let Some(page) = &mut page {
        page.write_results(args.results()?)?;
    }
    let states = [&first, &second].map(|saved| EndState::of_saved(&saved.run));
    Ok(EndState::worst(states.into_iter()).exit())
}

impl CompareArgs {
    /// Where the page goes, if there is to be one.
    ///
    /// # Errors
    /// It cannot be written to, would replace what it is made from, or goes to stdout.
    pub fn page(&self) -> Result<Option<Sink>, Failure> {
        page_beside(self.html.as_deref(), &[&self.files[..], &self.against[..]].concat())
    }

    /// All files, each with its name.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn results(&self) -> Result<Vec<(String, SavedResult)>, Failure> {
        let read = |path: &PathBuf| Ok((path.display().to_string(), SavedResult::read(path)?));
        self.files.iter().chain(&self.against).map(read).collect()
    }
}

const PERCENTILES: [(&str, f64); 7] = [
    ("p50", 50.0),
    ("p75", 75.0),
    ("p90", 90.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
    ("p99.99", 99.99),
    ("max", 100.0),
];

/// Rows of times in nanoseconds that an open loop has in addition to its latency.
const OPEN_LOOP_TIMES: [(&str, Figure<Option<u64>>); 4] = [
    ("Service p50", |run| run.service_time.percentiles.p50_ns),
    ("Service p99", |run| run.service_time.percentiles.p99_ns),
    ("Send lag p99", |run| run.send_lag.percentiles.p99_ns),
    ("Own lag p99", |run| run.own_lag.percentiles.p99_ns),
];

/// Rows of counts.
const COUNTS: [(&str, Figure<u64>); 8] = [
    ("Offered", |run| run.requests_offered),
    ("Replies", |run| run.replies),
    ("Timed out", |run| run.requests_timed_out),
    ("Unanswered", |run| run.requests_unanswered),
    ("Never sent", |run| run.requests_never_sent),
    ("Connections", |run| run.connections.established),
    ("Lost", |run| run.connections.lost),
    ("Differed", |run| run.mismatched_connections),
];

/// A figure of a run.
type Figure<T> = fn(&RunSummary) -> T;

fn render(first: &Saved, second: &Saved) -> String {
    let mut out = String::new();
    let (both, runs) = ([first, second], [&first.run, &second.run]);
    let mut line = |name: &str, [a, b]: [String; 2], ratio: Option<f64>| {
        let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.3}"));
        let text = format!("{name:<16}{a:>16} {b:>15}{ratio:>10}");
        writeln!(out, "{}", text.trim_end()).expect("writing to a string");
    };
    line("", ["first".into(), "second".into()], None);
    let rates = runs.map(|run| run.requests_per_second);
    line("Requests/sec", rates.map(|rate| format!("{rate:.2}")), ratio(rates));
    let bytes = runs.map(|run| run.bytes_read_per_second);
    line("Bytes/sec", bytes.map(|rate| format!("{rate:.0}")), ratio(bytes));
    let means = both.map(|saved| saved.latency.mean());
    line("Latency mean", means.map(nanos_text), ratio(means));
    for (name, percentile) in PERCENTILES {
        let values = both.map(|saved| records::percentile(&saved.latency, percentile) as f64);
        line(&format!("Latency {name}"), values.map(nanos_text), ratio(values));
    }
    if runs.iter().any(|run| run.config.open_loop) {
        for (name, figure) in OPEN_LOOP_TIMES {
            let values = runs.map(|run| figure(run).unwrap_or_default() as f64);
            line(name, values.map(nanos_text), ratio(values));
        }
    }
    for (name, values) in side_by_side(&runs.map(|run| run.parts.as_ref())) {
        let values = [values[0], values[1]].map(|nanos| nanos.unwrap_or_default() as f64);
        line(&name, values.map(nanos_text), ratio(values));
    }
    for (name, figure) in COUNTS {
        line(name, runs.map(|run| figure(run).to_string()), None);
    }
    for (nth, completed) in (1..).zip(saved::targets_side_by_side(first, second)) {
        line(&format!("Target {nth}"), completed.map(|count| count.to_string()), None);
    }
    let states = runs.map(EndState::of_saved);
    line("Ended", states.map(|state| state.ending.word().into()), None);
    line("Objectives", states.map(|state| state.objectives.word().into()), None);
    line("Verdict", states.map(|state| state.verdict.word().into()), None);
    for (name, saved) in ["First", "Second"].iter().zip(both) {
        writeln!(out, "{name}: {}, {}", saved.name, saved.run.target).expect("a string");
    }
    let differing = first.differing_settings(second);
    if !differing.is_empty() {
        writeln!(out, "Settings differ: {}", differing.join(", ")).expect("writing to a string");
    }
    let chance = "One run each: compare two runs of the same thing to see how much is chance";
    writeln!(out, "{chance}").expect("writing to a string");
    out
}

fn ratio([first, second]: [f64; 2]) -> Option<f64> {
    (first > 0.0).then(|| second / first)
}

fn nanos_text(nanos: f64) -> String {
    time_text(Duration::from_nanos(nanos as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::distinct::{distinct, spread};
    use crate::report::saved::tests::saved;
    use crate::report::schema::{PartsSummary, distinct_parts};
    use crate::report::tests::report;
    use crate::stats::slo;

    /// Of two runs in which no two figures are equal.
    #[test]
    fn each_row_has_its_own_figure_of_both_runs() {
        let runs = [0, 1].map(distinct);
        let text = render(&saved("a.json", &runs[0]), &saved("b.json", &runs[1]));
        let row = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line[..line.len().min(16)].trim() == name);
            line.expect(name)[16..].split_whitespace().map(str::to_string).collect()
        };
        assert_eq!(row("Requests/sec"), ["55.50", "370.33", "6.673"]);
        assert_eq!(row("Bytes/sec"), ["58", "372", "6.365"]);
        let counts = [
            ("Offered", 109),
            ("Replies", 111),
            ("Timed out", 113),
            ("Unanswered", 114),
            ("Never sent", 115),
            ("Connections", 101),
            ("Differed", 108),
            ("Target 1", 145),
            ("Target 2", 155),
        ];
        for (name, first) in counts {
            assert_eq!(row(name), [first.to_string(), (first + 1_000).to_string()], "{name}");
        }
        assert_eq!(row("Lost"), ["525", "5525"]);
        let time = |nanos: u64| nanos_text(nanos as f64);
        let times = [
            ("Latency p50", 1_000, 0.5),
            ("Latency p75", 1_000, 0.75),
            ("Latency p90", 1_000, 0.9),
            ("Latency p99", 1_000, 0.99),
            ("Latency p99.9", 1_000, 0.999),
            ("Latency p99.99", 1_000, 0.9999),
            ("Latency max", 1_000, 1.0),
            ("Service p50", 1_100, 0.5),
            ("Service p99", 1_100, 0.99),
            ("Send lag p99", 1_200, 0.99),
            ("Own lag p99", 1_300, 0.99),
        ];
        for (name, unit, quantile) in times {
            let at = |unit| spread(unit).value_at_quantile(f64::next_down(quantile));
            let expected = [time(at(unit)), time(at(unit + 1_000))];
            assert_eq!(row(name)[..2], expected, "{name}");
        }
        let means = [1_000, 2_000].map(|unit| nanos_text(spread(unit).mean()));
        assert_eq!(row("Latency mean")[..2], means);
        // The heading, Ended, Objectives, Verdict, both files, and the advice.
        assert_eq!(text.lines().count(), 2 + counts.len() + 1 + times.len() + 1 + 7, "\n{text}");
    }

    #[test]
    fn the_parts_of_both_are_compared_if_there_are_any() {
        let [mut a, mut b] = ["a", "b"].map(|name| saved(name, &distinct(0)));
        let shown = |a: &Saved, b: &Saved| {
            let text = render(a, b);
            let row =
                |name: &str| text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
            [row("Waiting p50"), row("Reading p99")]
        };
        assert_eq!(shown(&a, &b), [None, None]);
        b.run.parts = Some(PartsSummary::new(&distinct_parts(2_000)));
        assert!(shown(&a, &b)[0].as_ref().is_some_and(|row| row.contains(" 0.00us ")));
        a.run.parts = Some(PartsSummary::new(&distinct_parts(1_000)));
        // Six units of 1 us, of the 50th of 100 requests; five, of the 99th.
        let expected = [
            "Waiting p50             300.03us        600.06us     2.000",
            "Reading p99             495.10us        990.21us     2.000",
        ];
        assert_eq!(shown(&a, &b), expected.map(|row| Some(row.into())));
    }

    #[test]
    fn ratios_come_from_the_histograms() {
        let first = report();
        let mut second = report();
        second.records.latency.reset();
        for micros in 1..=1000 {
            second.records.latency.record(micros * 2_000).expect("in bounds");
        }
        second.records.replies = 500;
        std::sync::Arc::make_mut(&mut second.plan).size = 128;
        let text = render(&saved("a.json", &first), &saved("b.json", &second));
        let line = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(name)).expect(name);
            line[16..].split_whitespace().map(str::to_string).collect()
        };
        assert_eq!(line("Requests/sec"), ["1000.00", "500.00", "0.500"]);
        assert_eq!(line("Latency p50"), ["500.22us", "1.00ms", "2.000"]);
        assert_eq!(line("Latency max"), ["1.00ms", "2.00ms", "2.000"]);
        assert_eq!(line("Verdict"), ["valid", "valid"]);
        assert_eq!((line("Ended")[1].as_str(), line("Objectives")[0].as_str()), ("whole", "none"));
        second.interrupted = true;
        std::sync::Arc::make_mut(&mut second.plan).slos = vec![slo::parse("p50<1us").unwrap()];
        let text = render(&saved("a.json", &first), &saved("b.json", &second));
        assert!(text.contains("whole     interrupted\n"), "{text}");
        assert!(text.contains("none          missed\n"), "{text}");
        assert!(text.contains("Settings differ: size_bytes (64 and 128)\n"), "{text}");
        assert!(text.ends_with(
            "\nOne run each: compare two runs of the same thing to see how much is chance\n"
        ));
    }

    #[test]
    fn the_longest_values_stay_apart() {
        let mut limited = report();
        limited.plan = std::sync::Arc::new(crate::report::tests::plan("127.0.0.1:7777 -c 2 -R 1k"));
        limited.records.saturated_seconds = 1;
        let saved = saved("a.json", &limited);
        let text = render(&saved, &saved);
        assert!(text.contains("generator-limited generator-limited"), "{text}");
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        let mut empty = report();
        empty.records = crate::stats::records::Records::default();
        let text = render(&saved("a.json", &empty), &saved("b.json", &report()));
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
