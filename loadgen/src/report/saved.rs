//! Reports that were written earlier (json, or the last line of ndjson), read back.

use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::Value;

use super::distribution::SCHEMA_VERSION;
use super::targets::LINES_MAX;
use super::{hdr, targets};
use crate::error::Failure;

/// The summary of a run, from a file.
pub struct Saved {
    /// The file.
    pub name: String,
    value: Value,
    pub latency: Histogram<u64>,
}

impl Saved {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no summary of this version.
    pub fn read(path: &Path) -> Result<Saved, Failure> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::Setup(format!("cannot read {name}: {error}")))?;
        let value = summary(&text).map_err(|why| Failure::Setup(format!("{name}: {why}")))?;
        Saved::new(name.clone(), value).map_err(|why| Failure::Setup(format!("{name}: {why}")))
    }

    fn new(name: String, value: Value) -> Result<Saved, String> {
        let latency = histogram(&value, "latency")?;
        Ok(Saved { name, value, latency })
    }

    /// The histogram of a distribution.
    ///
    /// # Errors
    /// It is not there, or broken.
    pub fn histogram(&self, key: &str) -> Result<Histogram<u64>, Failure> {
        let found = histogram(&self.value, key);
        found.map_err(|why| Failure::Setup(format!("{}: {why}", self.name)))
    }

    /// A part of it; keys of inner objects follow after dots.
    pub fn at(&self, key: &str) -> &Value {
        key.split('.').fold(&self.value, |value, key| &value[key])
    }

    /// A count; 0 if it is not there.
    pub fn count(&self, key: &str) -> u64 {
        self.at(key).as_u64().unwrap_or_default()
    }

    /// A number; 0 if it is not there.
    pub fn number(&self, key: &str) -> f64 {
        self.at(key).as_f64().unwrap_or_default()
    }

    /// A text; empty if it is not there.
    pub fn text(&self, key: &str) -> &str {
        self.at(key).as_str().unwrap_or_default()
    }

    /// Whether both are of the same run: no other has every nanosecond alike.
    pub fn is_the_run_of(&self, other: &Saved) -> bool {
        self.value == other.value
    }

    /// The settings that differ from another run's, where that makes it another measurement: not
    /// the seed, the source addresses, or the port of a server that was started for the run.
    pub fn differing_settings(&self, other: &Saved) -> Vec<String> {
        let mut keys = settings(&self.value);
        keys.extend(settings(&other.value));
        keys.sort_unstable();
        keys.dedup();
        let own_server = |saved: &Saved| saved.at("config.own_server") == &Value::Bool(true);
        if !(own_server(self) && own_server(other)) {
            keys.insert(0, "target".into());
        }
        let shown = |key: &String| {
            let (ours, theirs) = (self.at(key), other.at(key));
            (ours != theirs).then(|| {
                let name = key.strip_prefix("config.").unwrap_or(key);
                format!("{name} ({ours} and {theirs})")
            })
        };
        keys.iter().filter_map(shown).collect()
    }
}

fn histogram(value: &Value, key: &str) -> Result<Histogram<u64>, String> {
    let encoded = value[key]["histogram_v2_deflate_base64"].as_str();
    let encoded = encoded.ok_or_else(|| format!("the histogram of {key} is missing"))?;
    hdr::decode(encoded).map_err(|why| format!("{key}: {why}"))
}

/// The only object, or the last line of several.
fn summary(text: &str) -> Result<Value, String> {
    let last = || text.trim_end().lines().last().map(serde_json::from_str);
    let value: Value = match (serde_json::from_str(text), last()) {
        (Ok(value), _) | (Err(_), Some(Ok(value))) => value,
        (Err(error), _) => return Err(format!("no JSON: {error}")),
    };
    let version = &value["schema_version"];
    if value["type"] == "merged" {
        return Err("a sum already: give the files of the runs themselves".into());
    }
    if value["type"] != "summary" {
        return Err("no summary of a run: was it written with --output-format json?".into());
    }
    if version != SCHEMA_VERSION {
        let known = SCHEMA_VERSION;
        return Err(format!("its schema_version is {version}, and {known} is understood"));
    }
    Ok(value)
}

fn settings(value: &Value) -> Vec<String> {
    let config = value["config"].as_object();
    let keys = config.into_iter().flat_map(|config| config.keys());
    keys.filter(|key| !matches!(key.as_str(), "seed" | "source_ips"))
        .map(|key| format!("config.{key}"))
        .collect()
}

/// The targets of several runs, each once; `None` where a run says nothing of them, as those of
/// earlier versions do.
pub fn merge_targets(runs: &[Saved]) -> Option<Vec<targets::Form>> {
    let mut all: Vec<targets::Form> = Vec::new();
    for run in runs {
        for (nth, form) in of_saved(run)?.into_iter().enumerate() {
            // One that was given twice is two, which have the same place in all runs.
            match all.iter_mut().skip(nth).find(|one| one.target == form.target) {
                Some(one) => one.add(&form),
                None => all.push(form),
            }
        }
    }
    Some(all)
}

/// For two runs of the same number of targets, more than one: for each the requests completed.
pub fn targets_side_by_side(first: &Saved, second: &Saved) -> Vec<[u64; 2]> {
    let (Some(first), Some(second)) = (of_saved(first), of_saved(second)) else { return vec![] };
    if first.len() != second.len() || !(2..=LINES_MAX).contains(&first.len()) {
        return Vec::new();
    }
    let completed = |form: &targets::Form| form.requests_completed;
    first.iter().map(completed).zip(second.iter().map(completed)).map(Into::into).collect()
}

fn of_saved(run: &Saved) -> Option<Vec<targets::Form>> {
    match run.at("per_target") {
        Value::Null => None,
        forms => serde_json::from_value(forms.clone()).ok(),
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use super::super::json;
    use super::super::targets::tests::report_of;
    use super::super::tests::report;
    use super::*;
    use crate::report::Report;

    pub fn saved(name: &str, report: &Report) -> Saved {
        let value = serde_json::to_value(json::Form::new(report)).expect("it has a JSON form");
        Saved::new(name.into(), value).expect("a summary")
    }

    #[test]
    fn what_was_written_is_read_back() {
        let report = report();
        let form = json::Form::new(&report);
        let line = serde_json::to_string(&form).expect("JSON");
        let pretty = serde_json::to_string_pretty(&form).expect("JSON");
        for text in [pretty, format!("{{\"type\":\"second\"}}\n{line}\n")] {
            let value = summary(&text).expect("a summary");
            let saved = Saved::new("name".into(), value).expect("a summary");
            assert_eq!(saved.latency, report.records.latency);
            assert_eq!((saved.count("replies"), saved.text("verdict")), (1000, "valid"));
            assert_eq!(saved.count("config.size_bytes"), 64);
        }
    }

    #[test]
    fn what_is_no_summary_is_refused_with_the_reason() {
        let reasons = [
            ("", "no JSON"),
            ("Running 10s test", "no JSON"),
            ("{\"type\":\"second\"}", "--output-format json"),
            ("{\"type\":\"merged\"}", "the files of the runs themselves"),
            ("{\"type\":\"summary\",\"schema_version\":99}", "its schema_version is 99"),
        ];
        for (text, reason) in reasons {
            let error = summary(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(Saved::read(Path::new("/no/such/file")).is_err());
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

    #[test]
    fn targets_of_several_runs_are_added_up_by_their_address() {
        let (two, three) = (report_of(2), report_of(3));
        let merged = merge_targets(&[saved("a", &two), saved("b", &three), saved("c", &two)]);
        let merged = merged.expect("all of them say it");
        let completed: Vec<_> = merged.iter().map(|form| form.requests_completed).collect();
        assert_eq!(completed, [500 + 400 + 500, 500 + 300 + 500, 300]);
        let mut twice = report_of(2);
        Arc::make_mut(&mut twice.plan).targets[1].set_port(7000);
        twice.records.targets[1].completed = 7;
        let merged = merge_targets(&[saved("a", &twice), saved("b", &twice)]).expect("both say it");
        let completed: Vec<_> = merged.iter().map(|form| form.requests_completed).collect();
        assert_eq!(completed, [1000, 14], "one that was given twice is two");
    }

    #[test]
    fn runs_of_as_many_targets_are_set_targets_side_by_side() {
        let [one, two, three] = [1, 2, 3].map(|count| saved("a", &report_of(count)));
        assert_eq!(targets_side_by_side(&two, &two), [[500, 500], [500, 500]]);
        assert!(targets_side_by_side(&two, &three).is_empty());
        assert!(targets_side_by_side(&one, &one).is_empty());
    }
}
