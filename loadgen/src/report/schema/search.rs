//! A search for the highest rate (`type`: `search`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Percentiles, RunSummary, SearchType};
use crate::report::Verdict;

/// A search for the highest rate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "search_object")]
pub struct SearchSummary {
    /// Marks the object of a search.
    pub r#type: SearchType,
    /// The version of this schema.
    #[schemars(extend("const" = super::SCHEMA_VERSION))]
    pub schema_version: u32,
    /// The version of the program.
    pub loadgen_version: String,
    /// What the rate has to meet, as in p99<1ms.
    pub objective: String,
    /// The highest rate that met the objective; null if none did.
    #[schemars(range(min = 1))]
    pub rate_per_second: Option<u64>,
    /// The lowest rate that did not meet it; null if all did.
    #[schemars(range(min = 1))]
    pub not_kept_rate_per_second: Option<u64>,
    /// Why it did not.
    pub not_kept_reason: Option<String>,
    /// Whether the server may be able to take more: the generator was too late to tell, the search
    /// was ended early, or no higher rate was tried.
    pub is_lower_bound: bool,
    /// All runs, in order. A rate that does not meet the objective is tried up to three times.
    #[schemars(length(min = 1))]
    pub steps: Vec<StepResult>,
    /// valid, not-kept (no rate met the objective), generator-limited (the rate is a lower bound),
    /// interrupted, run-failed (a run had no report, and what was found before it is a lower
    /// bound), or the verdict of the run that ended the search.
    pub verdict: SearchVerdict,
    /// The verdict with its reason, for people.
    pub verdict_text: String,
    /// The exit code of the program: 0 found, 3 an echo differed, 4 not valid, 99 no rate met the
    /// objective, 130 interrupted.
    #[schemars(extend("enum" = [0, 3, 4, 99, 130]))]
    pub exit_code: u8,
    /// The run at the highest rate that met the objective; null if none did.
    pub best: Option<RunSummary>,
}

/// A run at one rate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StepResult {
    /// The rate that was tried.
    #[schemars(range(min = 1))]
    pub rate_per_second: u64,
    /// Replies per second.
    pub requests_per_second: f64,
    /// The value that the objective limits; null if nothing was measured.
    pub measured_ns: Option<u64>,
    /// The latency. Without values in files of earlier versions.
    #[serde(default)]
    pub latency: Percentiles,
    /// The 99th percentile of the send lag that the generator caused. It is part of the latency.
    pub own_lag_p99_ns: u64,
    /// Requests for which no connection had room.
    pub requests_never_sent: u64,
    /// Whether this run met the objective.
    pub kept: bool,
    /// Why it did not.
    pub not_kept_reason: Option<String>,
    /// The verdict of the run.
    pub verdict: Verdict,
}

/// The verdict on a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SearchVerdict {
    /// No rate met the objective.
    NotKept,
    /// A signal or a key ended the search.
    Interrupted,
    /// A run had no report, because the server could not be reached or the run could not be made.
    /// What was found before is in the result.
    RunFailed,
    /// That of a run.
    #[serde(untagged)]
    Run(Verdict),
}

impl SearchVerdict {
    /// The word for it in JSON and in text.
    pub fn word(self) -> &'static str {
        match self {
            SearchVerdict::NotKept => "not-kept",
            SearchVerdict::Interrupted => "interrupted",
            SearchVerdict::RunFailed => "run-failed",
            SearchVerdict::Run(verdict) => verdict.word(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_that_of_the_json() {
        let of_runs = Verdict::ALL.map(SearchVerdict::Run);
        let others = [SearchVerdict::NotKept, SearchVerdict::Interrupted, SearchVerdict::RunFailed];
        for verdict in of_runs.into_iter().chain(others) {
            let json = serde_json::to_value(verdict).expect("it has a JSON form");
            assert_eq!(json, verdict.word());
        }
        assert_eq!(SearchVerdict::RunFailed.word(), "run-failed");
    }
}
