//! Targets against each other (`type`: `ab`), and the differences that `compare` finds as well
//! (`type`: `comparison`).

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AbType, ComparisonType, Distribution, PartsSummary, Percentiles, RunConfig, SliceType,
};
use crate::plan::calibration::MachineName;
use crate::report::Verdict;

/// Several targets that were measured against each other (loadgen ab).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ab_object")]
pub struct AbSummary {
    /// Marks the object of targets against each other.
    pub r#type: AbType,
    /// The version of this schema.
    #[schemars(extend("const" = super::SCHEMA_VERSION))]
    pub schema_version: u32,
    /// The version of the program.
    pub loadgen_version: String,
    /// The words of the command line.
    pub command: Vec<String>,
    /// The machine of the generator.
    pub machine: Option<MachineName>,
    /// When the first round began, in nanoseconds since 1970-01-01 UTC.
    pub began_unix_ns: u64,
    /// Rounds that were asked for.
    pub rounds_asked: u64,
    /// Rounds in which every target was measured.
    pub rounds: u64,
    /// Rounds of these that compare nothing, because no request was begun in one of their slices.
    pub rounds_left_out: u64,
    /// How long each target was measured in each round.
    pub slice_ns: u64,
    /// How long requests were sent before that, without being recorded.
    pub warmup_ns: u64,
    /// Whether all targets were driven at the same time, instead of one after the other.
    pub together: bool,
    /// The seed of the order, and of everything else that is random. It repeats the bytes and the
    /// order.
    pub seed: u64,
    /// Each interval contains the true value with at least this probability.
    #[schemars(range(max = 1))]
    pub confidence_ratio: f64,
    /// The targets in the order of the command line.
    #[schemars(length(min = 2))]
    pub targets: Vec<AbTarget>,
    /// Each target after the first one, compared with the first one.
    #[schemars(length(min = 1))]
    pub comparisons: Vec<TargetComparison>,
    /// The conditions (--fail-if), for each comparison.
    pub conditions: Vec<ConditionResult>,
    /// Each slice, in the order in which they were made.
    pub slices: Vec<SliceSummary>,
    /// Whether a signal or a key ended it early.
    pub interrupted: bool,
    /// The worst verdict of the targets.
    pub verdict: Verdict,
    /// The verdict with its reason, for people.
    pub verdict_text: String,
    /// The exit code of the program: 0 ok, 3 an echo differed, 4 not valid, 5 a condition is not
    /// decided, 99 a condition holds, 130 interrupted.
    #[schemars(extend("enum" = [0, 3, 4, 5, 99, 130]))]
    pub exit_code: u8,
}

/// A target in all rounds together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AbTarget {
    /// A for the first one, B for the second.
    pub name: String,
    /// Its address.
    pub target: String,
    /// What was asked for in each slice.
    pub config: RunConfig,
    /// Lengths of its slices, added up.
    pub elapsed_ns: u64,
    /// Connections established in all slices.
    pub connections_established: u64,
    /// Connections that ended early.
    pub connections_lost: u64,
    /// Connections on which a byte differed.
    pub mismatched_connections: u64,
    /// Requests that were to be sent.
    pub requests_offered: u64,
    /// Complete, verified replies within the slices.
    pub replies: u64,
    /// Replies that arrived after the slice of their request.
    pub replies_late: u64,
    /// Requests whose reply did not arrive within the time-out.
    pub requests_timed_out: u64,
    /// Requests without a reply when their connection ended.
    pub requests_unanswered: u64,
    /// Requests for which no connection had room before the end of their slice.
    pub requests_never_sent: u64,
    /// Replies within the slices, divided by their length.
    pub requests_per_second: f64,
    /// Bytes verified in all.
    pub bytes_verified: u64,
    /// As in a summary, all slices together.
    pub latency: Distribution,
    /// As in a summary, all slices together.
    pub service_time: Distribution,
    /// As in a summary, all slices together.
    pub send_lag: Distribution,
    /// As in a summary, all slices together.
    pub own_lag: Distribution,
    /// As in a summary, all slices together.
    pub connect_latency: Distribution,
    /// As in a summary, all slices together; null unless its replies carry times.
    #[serde(default)]
    pub parts: Option<PartsSummary>,
    /// What went wrong with connections and how often, by name. What did not happen is absent.
    pub errors: BTreeMap<String, NonZeroU64>,
    /// Its verdict: the worst of its slices, and whether the generator kept the schedule of all of
    /// them together.
    pub verdict: Verdict,
    /// The verdict with its reason, for people.
    pub verdict_text: String,
}

/// One target in one round; also a line of ndjson while the rounds are made.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "slice_object")]
pub struct SliceSummary {
    /// Marks the object of a slice.
    pub r#type: SliceType,
    /// The version of this schema.
    #[schemars(extend("const" = super::SCHEMA_VERSION))]
    pub schema_version: u32,
    /// The round, from 1.
    pub round: u64,
    /// The name of the target.
    pub name: String,
    /// Its place in the order of the round, from 1.
    pub place: u64,
    /// Replies within the slice.
    pub replies: u64,
    /// Replies within the slice, divided by its length.
    pub requests_per_second: f64,
    /// The latency of its requests.
    pub latency: Percentiles,
}

/// Results of one file or of several compared with those of others (loadgen compare --against).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "comparison_object")]
pub struct ComparisonSummary {
    /// Marks the object of a comparison.
    pub r#type: ComparisonType,
    /// The version of this schema.
    #[schemars(extend("const" = super::SCHEMA_VERSION))]
    pub schema_version: u32,
    /// The version of the program.
    pub loadgen_version: String,
    /// The files that are compared with.
    #[schemars(length(min = 1))]
    pub first: Vec<String>,
    /// The files that are compared with them.
    #[schemars(length(min = 1))]
    pub second: Vec<String>,
    /// Settings that differ between the files, with the values.
    pub settings_differ: Vec<String>,
    /// A line for people if figures of shards are those of the whole shards, because a file does not
    /// have those of the time in which all measured; else empty.
    #[serde(default)]
    pub time_note: String,
    /// Each interval contains the true value with at least this probability.
    #[schemars(range(max = 1))]
    pub confidence_ratio: f64,
    /// The differences of the second files from the first ones.
    pub figures: Vec<FigureDifference>,
    /// The conditions (--fail-if).
    pub conditions: Vec<ConditionResult>,
    /// The worst verdict of the files.
    pub verdict: Verdict,
    /// The exit code of the program: 0 ok, 3 an echo differed, 4 not valid, 5 a condition is not
    /// decided, 99 an objective of a file was missed or a condition holds.
    #[schemars(extend("enum" = [0, 3, 4, 5, 99]))]
    pub exit_code: u8,
}

/// One target compared with the first one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TargetComparison {
    /// The name of the target.
    pub name: String,
    /// The name of the target that it is compared with.
    pub against: String,
    /// The differences, one for each figure.
    pub figures: Vec<FigureDifference>,
}

/// The difference of a figure, and its ratio, each with an interval. An interval is null if there
/// are too few rounds or runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FigureDifference {
    /// A percentile of the latency (p50, p99 and so on), mean, max, or rate.
    pub figure: String,
    /// The median of the first values: nanoseconds, or replies per second for a rate.
    pub first: f64,
    /// The median of the second values.
    pub second: f64,
    /// The second minus the first, in nanoseconds; null for a rate.
    pub difference_ns: Option<i64>,
    /// The lower end of its interval.
    pub difference_low_ns: Option<i64>,
    /// The upper end of its interval.
    pub difference_high_ns: Option<i64>,
    /// The second divided by the first.
    pub ratio: f64,
    /// The lower end of its interval.
    pub ratio_low: Option<f64>,
    /// The upper end of its interval.
    pub ratio_high: Option<f64>,
}

/// A condition, and what the interval says about it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConditionResult {
    /// As it was written, such as p99>+200us.
    pub condition: String,
    /// The name of the target that it is about; null in a comparison of files.
    pub name: Option<String>,
    /// Whether it holds, so that the comparison fails.
    pub exceeded: bool,
    /// Whether these rounds or runs do not decide it.
    pub undecided: bool,
    /// If so, how many more it would take if the difference is what it seems to be; null if it seems
    /// to lie on the limit.
    pub more_needed: Option<u64>,
    /// The difference or ratio with its interval, for people.
    pub measured_text: String,
}
