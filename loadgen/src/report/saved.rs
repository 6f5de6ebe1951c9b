//! Summaries of earlier runs, read from files (json, or the last line of ndjson).

use std::path::Path;

use hdrhistogram::Histogram;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ending::EndState;
use super::schema::{
    AbSummary, ComparisonSummary, DatagramCounts, Distribution, LinkSummary, MergedSummary,
    PartsSummary, RunConfig, RunSummary, SCHEMA_VERSION, SearchSummary, StampSummary, StepResult,
    TargetCounts,
};
use super::targets::LINES_MAX;
use crate::error::Failure;
use crate::files;
use crate::plan::calibration::{self, Calibration};

/// The summary of a run from a file.
pub struct Saved {
    /// The name of the file.
    pub name: String,
    /// Its content.
    pub run: RunSummary,
    /// Its latency in nanoseconds.
    pub latency: Histogram<u64>,
}

/// The keys that identify an object.
#[derive(Deserialize)]
struct ObjectKeys {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    schema_version: Value,
}

impl Saved {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or it is not a summary of this version.
    pub fn read(path: &Path) -> Result<Saved, Failure> {
        let name = path.display().to_string();
        let run =
            summary(&text_of(path)?).map_err(|why| Failure::Setup(format!("{name}: {why}")))?;
        Saved::new(name, run)
    }

    fn new(name: String, run: RunSummary) -> Result<Saved, Failure> {
        let latency = histogram(&name, "latency", &run.latency)?;
        Ok(Saved { name, run, latency })
    }

    /// Decodes the histogram of a distribution of this run. `key`: its name, for error messages.
    ///
    /// # Errors
    /// It is missing or malformed.
    pub fn histogram(
        &self,
        key: &str,
        part: fn(&RunSummary) -> &Distribution,
    ) -> Result<Histogram<u64>, Failure> {
        histogram(&self.name, key, part(&self.run))
    }

    /// Whether both are of the same run: no two runs agree in every nanosecond.
    pub fn is_the_run_of(&self, other: &Saved) -> bool {
        self.run == other.run
    }

    /// The settings that differ from another run's and make it another measurement: not the seed,
    /// the source addresses, or the port of a server that was started for the run.
    pub fn differing_settings(&self, other: &Saved) -> Vec<String> {
        self.differing(other, is_measured_with)
    }

    /// The settings that differ and without which the figures of both runs are not of the same
    /// kind: the service, and who sends and reads in a hub.
    pub fn differing_kind(&self, other: &Saved) -> Vec<String> {
        self.differing(other, is_kind)
    }

    fn differing(&self, other: &Saved, wanted: fn(&str) -> bool) -> Vec<String> {
        Settings::of_run(&self.run).differing(&Settings::of_run(&other.run), wanted)
    }
}

/// What a result was measured with and of.
#[derive(Clone)]
struct Settings {
    /// `None` if the file does not say it.
    target: Option<String>,
    version: Option<String>,
    config: RunConfig,
}

impl Settings {
    fn of_run(run: &RunSummary) -> Settings {
        Settings {
            target: Some(run.target.clone()),
            version: Some(run.loadgen_version.clone()),
            config: run.config.clone(),
        }
    }

    fn differing(&self, other: &Settings, wanted: fn(&str) -> bool) -> Vec<String> {
        let (ours, theirs) = (&self.config, &other.config);
        let mut pairs = Vec::new();
        let mut both = |key, ours: &Option<String>, theirs: &Option<String>| {
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                pairs.push((key, value(ours), value(theirs)));
            }
        };
        if !(ours.own_server && theirs.own_server) {
            both("target", &self.target, &other.target);
        }
        both("loadgen_version", &self.version, &other.version);
        let (ours, theirs) = (fields(ours), fields(theirs));
        let none = |value: &Value| value.is_null() || value == "";
        let known = |key: &str, value: &Value| !(MAY_BE_UNKNOWN.contains(&key) && none(value));
        for (key, ours) in &ours {
            let theirs = &theirs[key];
            if known(key, ours) && known(key, theirs) {
                pairs.push((key, ours.clone(), theirs.clone()));
            }
        }
        let differing =
            pairs.into_iter().filter(|(key, ours, theirs)| wanted(key) && ours != theirs);
        differing.map(|(key, ours, theirs)| format!("{key} ({ours} and {theirs})")).collect()
    }
}

/// One result of a set: a run, or several that were added up.
pub struct Part {
    /// The name of the file.
    pub name: String,
    /// Of shards, while all of them measured, if that is known.
    pub latency: Histogram<u64>,
    /// Replies per second; of repetitions the mean, and of shards the rate of all.
    pub rate: f64,
    pub state: EndState,
    settings: Settings,
    time: PartTime,
}

/// Which time the figures of a part are of.
enum PartTime {
    /// That of each run.
    Runs,
    /// That of each shard, because the time in which all measured is not known.
    Shards,
    /// That in which all shards measured. Beside it, the figures of the whole shards.
    Together(Box<(Histogram<u64>, f64)>),
}

impl Part {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, it is neither a run nor a merged one, or no request was measured.
    pub fn read(path: &Path) -> Result<Part, Failure> {
        let name = path.display().to_string();
        let failed = |why: String| Failure::Setup(format!("{}: {why}", path.display()));
        let part = match SavedResult::parse(&text_of(path)?).map_err(failed)? {
            SavedResult::Run(run) => Part {
                latency: histogram(&name, "latency", &run.latency)?,
                rate: run.requests_per_second,
                state: EndState::of_saved(&run),
                settings: Settings::of_run(&run),
                time: PartTime::Runs,
                name,
            },
            SavedResult::Merged(merged) => Part::of_merged(name, *merged)?,
            _ => return Err(failed("neither a run nor a result of loadgen merge".into())),
        };
        match part.latency.is_empty() {
            true => Err(failed("no request was measured".into())),
            false => Ok(part),
        }
    }

    fn of_merged(name: String, merged: MergedSummary) -> Result<Part, Failure> {
        let whole = histogram(&name, "latency", &merged.latency)?;
        let sum = merged.requests_per_second_sum;
        let (latency, rate, time) = match (&merged.shards, merged.latency_together()) {
            (None, _) => (whole, merged.requests_per_second_mean, PartTime::Runs),
            (Some(_), None) => (whole, sum, PartTime::Shards),
            (Some(shards), Some(together)) => {
                let latency = histogram(&name, "latency_together", together)?;
                let rate = shards.requests_per_second_together.unwrap_or(sum);
                (latency, rate, PartTime::Together(Box::new((whole, sum))))
            }
        };
        let state = EndState::of_merged(&merged);
        let settings = Settings { target: None, version: None, config: merged.config };
        Ok(Part { name, latency, rate, state, settings, time })
    }

    /// Makes the figures of all parts those of the same time: if one of shards does not have those of
    /// the time in which all measured, as in a file of an earlier version, none has. Returns a line
    /// about that, or nothing.
    pub fn of_same_time<'a>(parts: impl Iterator<Item = &'a mut Part>) -> String {
        let parts: Vec<&mut Part> = parts.collect();
        let Some(without) = parts.iter().find(|part| matches!(part.time, PartTime::Shards)) else {
            return String::new();
        };
        let name = without.name.clone();
        let mut has_other = false;
        for part in parts {
            if let PartTime::Together(whole) = &mut part.time {
                (part.latency, part.rate) = (whole.0.clone(), whole.1);
                (part.time, has_other) = (PartTime::Shards, true);
            }
        }
        match has_other {
            true => format!(
                "Latencies and rates are those of whole shards: {name} does not have those of the \
                 time in which all measured"
            ),
            false => String::new(),
        }
    }

    /// As [`Saved::differing_settings`].
    pub fn differing_settings(&self, other: &Part) -> Vec<String> {
        self.settings.differing(&other.settings, is_measured_with)
    }

    /// As [`Saved::differing_kind`].
    pub fn differing_kind(&self, other: &Part) -> Vec<String> {
        self.settings.differing(&other.settings, is_kind)
    }

    /// Whether both are the same result: no two agree in every value.
    pub fn is_the_result_of(&self, other: &Part) -> bool {
        self.latency == other.latency && self.rate == other.rate
    }
}

fn is_measured_with(key: &str) -> bool {
    !matches!(key, "seed" | "source_ips" | "shard")
}

fn is_kind(key: &str) -> bool {
    matches!(key, "service" | "hub")
}

/// Settings that files of earlier versions do not have. Without a value they are unknown, or follow
/// from another setting.
const MAY_BE_UNKNOWN: [&str; 5] =
    ["service", "own_server_workers", "optimized_build", "hub", "sizes"];

fn text_of(path: &Path) -> Result<String, Failure> {
    let cannot = |error| Failure::Setup(format!("cannot read {}: {error}", path.display()));
    files::read_text(path).map_err(cannot)
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).expect("it has a JSON form")
}

/// The fields of a struct by their names, in alphabetical order.
fn fields(of: &impl Serialize) -> Map<String, Value> {
    match value(of) {
        Value::Object(fields) => fields,
        other => unreachable!("{other} is not a struct"),
    }
}

fn histogram(
    name: &str,
    key: &str,
    distribution: &Distribution,
) -> Result<Histogram<u64>, Failure> {
    let found = distribution.histogram();
    found.map_err(|why| Failure::Setup(format!("{name}: {key}: {why}")))
}

/// Finds the only object, or the last line of several.
fn object(text: &str) -> Result<(ObjectKeys, &str), String> {
    let last = text.trim_end().lines().last().unwrap_or_default();
    match (serde_json::from_str(text), serde_json::from_str(last)) {
        (Ok(head), _) => Ok((head, text)),
        (Err(_), Ok(head)) => Ok((head, last)),
        (Err(error), _) => Err(format!("not JSON: {error}")),
    }
}

fn summary(text: &str) -> Result<RunSummary, String> {
    let (head, text) = object(text)?;
    match head.r#type.as_str() {
        "summary" => {}
        "merged" => return Err("a merged file: give the files of the single runs".into()),
        "search" => {
            let text = "the result of a search: make a run at the rate that it found (-R), or take \
                        the run in its key best";
            return Err(text.into());
        }
        "ab" => {
            let text = "the result of loadgen ab, which has compared its targets: give files of \
                        single runs";
            return Err(text.into());
        }
        "comparison" => return Err("the result of loadgen compare, and not that of a run".into()),
        "link" => return Err("what a link did, and not the summary of a run".into()),
        "calibration" => return Err("a calibration, and not the summary of a run".into()),
        _ => return Err("not the summary of a run: write it with --output-format json".into()),
    }
    head.parse(text, SCHEMA_VERSION, "the summary of a run")
}

impl ObjectKeys {
    /// Parses an object that is `what`, if its version is this one.
    fn parse<T: DeserializeOwned>(
        &self,
        text: &str,
        version: u32,
        what: &str,
    ) -> Result<T, String> {
        if self.schema_version != version {
            let found = &self.schema_version;
            return Err(format!("its schema_version is {found}, but only {version} is supported"));
        }
        serde_json::from_str(text).map_err(|error| format!("not {what}: {error}"))
    }
}

/// A result from a file, of any kind that can be shown.
pub enum SavedResult {
    Run(Box<RunSummary>),
    Search(Box<SearchSummary>),
    Merged(Box<MergedSummary>),
    Ab(Box<AbSummary>),
    Comparison(Box<ComparisonSummary>),
    Calibration(Box<Calibration>),
    Link(Box<LinkSummary>),
}

impl SavedResult {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or it is not a result of this version.
    pub fn read(path: &Path) -> Result<SavedResult, Failure> {
        SavedResult::parse(&text_of(path)?)
            .map_err(|why| Failure::Setup(format!("{}: {why}", path.display())))
    }

    fn parse(text: &str) -> Result<SavedResult, String> {
        let (head, text) = object(text)?;
        match head.r#type.as_str() {
            "summary" => {
                head.parse(text, SCHEMA_VERSION, "the summary of a run").map(SavedResult::Run)
            }
            "search" => {
                head.parse(text, SCHEMA_VERSION, "the result of a search").map(SavedResult::Search)
            }
            "merged" => {
                head.parse(text, SCHEMA_VERSION, "the result of a merge").map(SavedResult::Merged)
            }
            "ab" => {
                head.parse(text, SCHEMA_VERSION, "the result of loadgen ab").map(SavedResult::Ab)
            }
            "comparison" => head
                .parse(text, SCHEMA_VERSION, "the result of loadgen compare")
                .map(SavedResult::Comparison),
            "calibration" => head
                .parse(text, calibration::SCHEMA_VERSION, "a calibration")
                .map(SavedResult::Calibration),
            "link" => {
                head.parse(text, SCHEMA_VERSION, "the result of loadgen link").map(SavedResult::Link)
            }
            _ => Err(
                "not the result of a run, a search, loadgen ab, compare, merge, calibrate or link: \
                      write it with --output-format json, or with loadgen merge, calibrate or link"
                    .into(),
            ),
        }
    }

    /// The run; of a search the best one. `None` if no run met the objective, and for several runs
    /// that were added up or compared, and for a calibration.
    pub fn run(&self) -> Option<&RunSummary> {
        match self {
            SavedResult::Run(run) => Some(run),
            SavedResult::Search(search) => search.best.as_ref(),
            SavedResult::Merged(_)
            | SavedResult::Ab(_)
            | SavedResult::Comparison(_)
            | SavedResult::Calibration(_)
            | SavedResult::Link(_) => None,
        }
    }

    /// The runs of a search.
    pub fn steps(&self) -> &[StepResult] {
        match self {
            SavedResult::Search(search) => &search.steps,
            _ => &[],
        }
    }

    /// Where the time went, if it has that.
    pub fn parts(&self) -> Option<&PartsSummary> {
        match (self, self.run()) {
            (SavedResult::Merged(all), _) => all.parts.as_ref(),
            (_, run) => run?.parts.as_ref(),
        }
    }

    /// What became of the datagrams, if it was over UDP.
    pub fn datagrams(&self) -> Option<&DatagramCounts> {
        match (self, self.run()) {
            (SavedResult::Merged(all), _) => all.datagrams.as_ref(),
            (_, run) => run?.datagrams.as_ref(),
        }
    }

    /// What the replies of a reflector tell, if it was against one.
    pub fn stamp(&self) -> Option<&StampSummary> {
        match (self, self.run()) {
            (SavedResult::Merged(all), _) => all.stamp.as_ref(),
            (_, run) => run?.stamp.as_ref(),
        }
    }

    /// The latency with its key; of shards, that of the time in which all measured, if it is known.
    pub fn latency(&self) -> Option<(&'static str, &Distribution)> {
        let first = self.distributions().into_iter().next();
        first.filter(|(key, _)| matches!(*key, "latency_together" | "latency"))
    }

    /// The distributions that have values, each with its key. The latency is the first one; of
    /// shards, that of the time in which all of them measured, if it is known.
    pub fn distributions(&self) -> Vec<(&'static str, &Distribution)> {
        let together = match self {
            SavedResult::Merged(all) => all.latency_together(),
            _ => None,
        };
        let all = match (self, self.run()) {
            (SavedResult::Merged(all), _) => [
                ("latency", &all.latency),
                ("service_time", &all.service_time),
                ("send_lag", &all.send_lag),
                ("own_lag", &all.own_lag),
                ("connect_latency", &all.connect_latency),
            ],
            (_, Some(run)) => [
                ("latency", &run.latency),
                ("service_time", &run.service_time),
                ("send_lag", &run.send_lag),
                ("own_lag", &run.own_lag),
                ("connect_latency", &run.connect_latency),
            ],
            (SavedResult::Link(link), _) => {
                return vec![("late_there", &link.there.late), ("late_back", &link.back.late)];
            }
            (_, None) => return Vec::new(),
        };
        let together = together.map(|latency| ("latency_together", latency));
        let all = together.into_iter().chain(all);
        all.filter(|(_, distribution)| distribution.percentiles.count > 0).collect()
    }
}

/// The targets of several runs, each once. `None` if a run does not have them, as in files of
/// earlier versions.
///
/// # Errors
/// A histogram is malformed.
pub fn merge_targets(runs: &[Saved]) -> Result<Option<Vec<TargetCounts>>, Failure> {
    let mut all: Vec<TargetCounts> = Vec::new();
    for run in runs {
        for (nth, target) in run.run.per_target.iter().flatten().enumerate() {
            // A target that was given twice counts as two, which have the same index in all runs.
            match all.iter_mut().skip(nth).find(|one| one.target == target.target) {
                Some(one) => one.add(target).map_err(|why| {
                    Failure::Setup(format!("{}: {}: {why}", run.name, target.target))
                })?,
                None => all.push(target.clone()),
            }
        }
        if run.run.per_target.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(all))
}

/// For two runs with the same number of targets, more than one: the requests completed of each.
pub fn targets_side_by_side(first: &Saved, second: &Saved) -> Vec<[u64; 2]> {
    let (first, second) = match (&first.run.per_target, &second.run.per_target) {
        (Some(first), Some(second)) if first.len() == second.len() => (first, second),
        _ => return Vec::new(),
    };
    if !(2..=LINES_MAX).contains(&first.len()) {
        return Vec::new();
    }
    let completed = |(one, other): (&TargetCounts, &TargetCounts)| {
        [one.requests_completed, other.requests_completed]
    };
    first.iter().zip(second).map(completed).collect()
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use super::super::targets::tests::report_of;
    use super::super::tests::report;
    use super::*;
    use crate::report::{Report, Verdict};

    pub fn saved(name: &str, report: &Report) -> Saved {
        Saved::new(name.into(), RunSummary::new(report)).expect("it has its histograms")
    }

    /// A part of a set.
    pub fn part(name: &str, report: &Report) -> Part {
        let run = RunSummary::new(report);
        Part {
            name: name.into(),
            latency: report.records.latency.clone(),
            rate: run.requests_per_second,
            state: EndState::of_saved(&run),
            settings: Settings::of_run(&run),
            time: PartTime::Runs,
        }
    }

    /// A part that was added up.
    pub fn part_of_merged(name: &str, merged: MergedSummary) -> Part {
        Part::of_merged(name.into(), merged).expect("it has its histograms")
    }

    #[test]
    fn two_results_are_one_if_every_value_is_the_same() {
        let one = part("a", &report());
        assert!(one.is_the_result_of(&part("b", &report())));
        let mut other = report();
        other.records.replies += 1;
        assert!(!one.is_the_result_of(&part("b", &other)), "another rate");
        let mut other = report();
        other.records.latency.record(7).expect("in bounds");
        assert!(!one.is_the_result_of(&part("b", &other)), "another latency");
    }

    /// The port of a server of the generator's own is another in every run.
    #[test]
    fn targets_are_not_compared_only_where_both_servers_were_the_generators_own() {
        let settings = |own_server, target: &str| {
            let mut settings = part("a", &report()).settings;
            settings.config.own_server = own_server;
            settings.target = Some(target.into());
            settings
        };
        let names =
            |ours, theirs| settings(ours, "a:1").differing(&settings(theirs, "a:2"), |_| true);
        assert!(names(true, true).is_empty());
        assert_eq!(names(false, false), ["target (\"a:1\" and \"a:2\")"]);
        for (ours, theirs) in [(true, false), (false, true)] {
            assert!(names(ours, theirs)[0].starts_with("target "), "{:?}", names(ours, theirs));
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let report = report();
        let written = RunSummary::new(&report);
        let line = serde_json::to_string(&written).expect("JSON");
        let pretty = serde_json::to_string_pretty(&written).expect("JSON");
        for text in [pretty, format!("{{\"type\":\"second\"}}\n{line}\n")] {
            let read = summary(&text).expect("a summary");
            assert_eq!(read, written);
            let saved = Saved::new("name".into(), read).expect("a summary");
            assert_eq!(saved.latency, report.records.latency);
            assert_eq!((saved.run.replies, saved.run.verdict), (1000, Verdict::Valid));
            assert_eq!(saved.run.config.size_bytes, 64);
        }
    }

    #[test]
    fn a_comparison_of_files_is_not_taken_for_a_run() {
        let comparison = crate::command::sets::tests::summary();
        let text = serde_json::to_string(&comparison).expect("JSON");
        let error = summary(&text).expect_err("it is no run");
        assert_eq!(error, "the result of loadgen compare, and not that of a run");
        let Ok(SavedResult::Comparison(read)) = SavedResult::parse(&text) else {
            panic!("it is not read as a comparison");
        };
        assert_eq!(*read, comparison);
    }

    #[test]
    fn what_a_link_did_is_not_taken_for_a_run() {
        let link = crate::report::html::tests::link();
        let text = serde_json::to_string(&link).expect("JSON");
        let error = summary(&text).expect_err("it is no run");
        assert_eq!(error, "what a link did, and not the summary of a run");
        let Ok(SavedResult::Link(read)) = SavedResult::parse(&text) else {
            panic!("it is not read as what a link did");
        };
        assert_eq!(*read, link);
    }

    /// The keys that the first version did not have.
    const ADDED: [&str; 29] = [
        "stamp",
        "tls",
        "datagrams",
        "command",
        "machine",
        "intervals",
        "server_closes",
        "targets",
        "per_target",
        "requests_offered",
        "requests_completed",
        "requests_timed_out",
        "requests_never_sent",
        "requests_warmup",
        "service_time",
        "send_lag",
        "own_lag",
        "connect_latency",
        "fairness_jain",
        "reconnects",
        "reconnects_failed",
        "generator_threads",
        "seconds_step_ns",
        "seconds",
        "saturated_seconds",
        "longest_pause_ns",
        "rude_clients",
        "hub",
        "ceiling",
    ];
    const ADDED_TO_CONFIG: [&str; 19] = [
        "reconnect",
        "proxy_protocol",
        "proxy_source",
        "service",
        "own_server_workers",
        "optimized_build",
        "hub",
        "abort_on_fail",
        "sizes",
        "warmup_ns",
        "rate_per_second",
        "open_loop",
        "strict",
        "arrivals",
        "stages",
        "lifetime_requests",
        "lifetime_ns",
        "rude_clients",
        "busy_poll",
    ];

    #[test]
    fn a_file_of_the_first_version_is_read() {
        let mut written = value(&RunSummary::new(&report()));
        let object = written.as_object_mut().expect("an object");
        ADDED.iter().for_each(|key| drop(object.remove(*key)));
        let config = object["config"].as_object_mut().expect("an object");
        ADDED_TO_CONFIG.iter().for_each(|key| drop(config.remove(*key)));
        let saved = Saved::new("old".into(), summary(&written.to_string()).expect("a summary"));
        let saved = saved.expect("its latency has a histogram");
        assert_eq!((saved.run.replies, &saved.run.per_target), (1000, &None));
        let error = saved.histogram("service_time", |run| &run.service_time).expect_err("missing");
        assert_eq!(error.to_string(), "old: service_time: the histogram is missing");
        let new = self::saved("new", &report());
        assert_eq!(saved.differing_settings(&new), Vec::<String>::new(), "unknown is not other");
        assert_eq!(merge_targets(&[saved]), Ok(None));
    }

    #[test]
    fn the_kind_is_the_service_and_who_sends_in_a_hub() {
        use crate::report::tests::plan;
        let of = |flags: &str| {
            let mut report = report();
            report.plan = std::sync::Arc::new(plan(flags));
            saved("a.json", &report)
        };
        let echo = of("127.0.0.1:7 -c 2 -d 1s");
        assert_eq!(echo.differing_kind(&of("127.0.0.1:8 -c 3 -d 2s")), [""; 0]);
        let differing = echo.differing_kind(&of("framed://127.0.0.1:7 -c 2 -d 1s"));
        assert_eq!(differing.len(), 1, "{differing:?}");
        assert!(differing[0].starts_with("service ("), "{differing:?}");
    }

    #[test]
    fn what_is_no_summary_is_refused_with_the_reason() {
        let reasons = [
            ("", "not JSON"),
            ("Running 10s test", "not JSON"),
            ("{\"type\":\"second\"}", "--output-format json"),
            ("{\"type\":\"merged\"}", "the files of the single runs"),
            ("{\n\"type\":\"search\"\n}", "the result of a search: make a run at"),
            ("{\"type\":\"ab\"}", "the result of loadgen ab, which has compared its targets"),
            ("{\"type\":\"calibration\"}", "a calibration, and not the summary of a run"),
            ("{\"type\":\"summary\",\"schema_version\":99}", "its schema_version is 99"),
        ];
        for (text, reason) in reasons {
            let error = summary(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
        let Err(Failure::Setup(error)) = Saved::read(Path::new("/no/such/file")) else {
            panic!("there is no such file")
        };
        assert!(error.starts_with("cannot read /no/such/file: No such file"), "{error}");
    }

    #[test]
    fn what_cannot_be_shown_is_refused_with_what_is_expected() {
        let reasons = [
            ("", "not JSON"),
            ("[1, 2]", "not JSON"),
            (
                "{}",
                "not the result of a run, a search, loadgen ab, compare, merge, calibrate or link",
            ),
            ("{\"type\":\"second\"}", "not the result of a run, a search, loadgen ab, c"),
            ("{\"type\":\"calibration\",\"schema_version\":1}", "not a calibration: missing"),
            (
                "{\"type\":\"summary\",\"schema_version\":99}",
                "its schema_version is 99, but only 1",
            ),
            ("{\"type\":\"search\",\"schema_version\":\"1\"}", "its schema_version is \"1\""),
            ("{\"type\":\"merged\",\"schema_version\":1}", "not the result of a merge: missing"),
            ("{\"type\":\"search\",\"schema_version\":1}", "not the result of a search: missing"),
            ("{\"type\":\"ab\",\"schema_version\":1}", "not the result of loadgen ab: missing"),
            ("{\"type\":\"summary\",\"schema_version\":1}", "not the summary of a run: missing"),
            (
                "{\"type\":\"comparison\",\"schema_version\":1}",
                "not the result of loadgen compare: m",
            ),
        ];
        for (text, reason) in reasons {
            let error = SavedResult::parse(text).map(drop).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn settings_that_make_another_measurement_are_named() {
        let (first, mut second) = (report(), report());
        Arc::make_mut(&mut second.plan).seed = 7;
        let differing =
            |second: &Report| saved("a", &first).differing_settings(&saved("b", second));
        assert_eq!(differing(&second), Vec::<String>::new());
        Arc::make_mut(&mut second.plan).size = 128;
        assert_eq!(differing(&second), ["size_bytes (64 and 128)"]);
    }

    /// Each flag that makes another run, and the setting that says so.
    #[test]
    fn every_flag_that_makes_another_run_is_a_setting() {
        let run = |flags: &str| {
            let mut report = report();
            report.plan = Arc::new(crate::report::tests::plan(flags));
            saved("a", &report)
        };
        let own = |flags: &str| {
            let mut saved = run(flags);
            (saved.run.config.own_server, saved.run.config.own_server_workers) = (true, Some(2));
            saved
        };
        let hub = "hub://h:1 -c 9 -d 1s --senders 2 --never-read 1";
        let flags = [
            ("h:1", "delay://h:1?fixed=1ms", "service"),
            ("delay://h:1?fixed=1ms", "delay://h:1?fixed=2ms", "service"),
            ("framed://h:1", "framed://h:1?order=big", "service"),
            (hub, "hub://h:1 -c 9 -d 1s --senders 3 --never-read 1", "hub"),
            (hub, "hub://h:1 -c 9 -d 1s --senders 2 --never-read 2", "hub"),
            (hub, "hub://h:1 -c 9 -d 1s --senders 2 --never-read 1 --allow-drops", "hub"),
            ("h:1", "h:1 -c 7", "connections"),
            ("h:1 -t 1", "h:1 -t 2", "threads"),
            ("h:1", "h:1 -d 7s", "duration_ns"),
            ("h:1 -n 5", "h:1 -n 6", "requests"),
            ("h:1", "h:1 -l 7", "sizes"),
            ("h:1", "h:1 -w 7s", "warmup_ns"),
            ("h:1 -R 5", "h:1 -R 6", "rate_per_second"),
            ("h:1", "h:1 -R 6", "open_loop"),
            ("h:1 -R 5", "h:1 -R 5 --strict", "strict"),
            ("h:1 -R 5", "h:1 -R 5 --arrivals poisson", "arrivals"),
            ("h:1 --stages 1s:1", "h:1 --stages 1s:2", "stages"),
            ("h:1", "h:1 --lifetime 7", "lifetime_requests"),
            ("h:1", "h:1 --lifetime 7s", "lifetime_ns"),
            ("h:1 --with idle:1", "h:1 --with idle:2", "rude_clients"),
            ("h:1", "h:1 -p 7", "pipeline"),
            ("h:1 -t 1", "h:1 -t 1 --busy-poll", "busy_poll"),
            ("h:1", "h:1 --connect-rate 7", "connect_rate_per_second"),
            ("h:1", "h:1 --timeout 7s", "timeout_ns"),
            ("h:1", "h:1 --abort-on-fail", "abort_on_fail"),
            ("h:1", "h:1 --reconnect", "reconnect"),
            ("h:1", "tls://h:1?insecure=on", "service"),
            ("tls://h:1?insecure=on", "tls://h:1?insecure=on&resume=off", "service"),
            ("h:1", "h:1 --proxy-protocol v1", "proxy_protocol"),
            ("h:1 --proxy-protocol v1", "h:1 --proxy-protocol v2", "proxy_protocol"),
            (
                "h:1 --proxy-protocol v1 --proxy-source ::1",
                "h:1 --proxy-protocol v1 --proxy-source ::2",
                "proxy_source",
            ),
        ];
        for (first, second, setting) in flags {
            for run in [&run as &dyn Fn(&str) -> Saved, &own] {
                let found = run(first).differing_settings(&run(second));
                let named = format!("{setting} (");
                assert!(found.iter().any(|one| one.starts_with(&named)), "{second}: {found:?}");
                assert_eq!(run(first).differing_settings(&run(first)), Vec::<String>::new());
            }
        }
        let mut other = own("h:1");
        other.run.config.own_server_workers = Some(3);
        assert_eq!(own("h:1").differing_settings(&other), ["own_server_workers (2 and 3)"]);
        let mut other = run("h:1");
        other.run.config.optimized_build = Some(!cfg!(not(debug_assertions)));
        assert_eq!(run("h:1").differing_settings(&other).len(), 1);
        let mut other = run("h:1");
        other.run.loadgen_version = "0.0.9".into();
        assert!(run("h:1").differing_settings(&other)[0].starts_with("loadgen_version ("));
        let mut other = run("h:1");
        other.run.target = "tcp://h:2".into();
        assert!(run("h:1").differing_settings(&other)[0].starts_with("target ("));
    }

    #[test]
    fn targets_of_several_runs_are_added_up_by_their_address() {
        let (two, three) = (report_of(2), report_of(3));
        let merged = merge_targets(&[saved("a", &two), saved("b", &three), saved("c", &two)]);
        let merged = merged.expect("no histogram").expect("all of them say it");
        let completed: Vec<_> = merged.iter().map(|form| form.requests_completed).collect();
        assert_eq!(completed, [500 + 400 + 500, 500 + 300 + 500, 300]);
        let mut twice = report_of(2);
        let targets = &mut Arc::make_mut(&mut twice.plan).targets;
        targets[1] = targets[0];
        twice.records.targets[1].completed = 7;
        let merged = merge_targets(&[saved("a", &twice), saved("b", &twice)]);
        let merged = merged.expect("no histogram").expect("both say it");
        let completed: Vec<_> = merged.iter().map(|form| form.requests_completed).collect();
        assert_eq!(completed, [1000, 14], "one that was given twice is two");
    }

    #[test]
    fn runs_of_as_many_targets_are_set_side_by_side() {
        let [one, two, three] = [1, 2, 3].map(|count| saved("a", &report_of(count)));
        assert_eq!(targets_side_by_side(&two, &two), [[500, 500], [500, 500]]);
        assert!(targets_side_by_side(&two, &three).is_empty());
        assert!(targets_side_by_side(&one, &one).is_empty());
    }
}
