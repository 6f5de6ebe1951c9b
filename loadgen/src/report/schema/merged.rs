//! Several runs added up (`type`: `merged`).

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    DatagramCounts, Distribution, MergedType, ObjectiveResult, PartsSummary, Percentiles,
    RunConfig, StampSummary, TargetCounts,
};
use crate::report::Verdict;
use crate::stats::tcp::TcpCounts;

/// Several runs as one. Counts are sums over all runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "merged_object")]
pub struct MergedSummary {
    /// Marks the sum of several runs.
    pub r#type: MergedType,
    /// The version of this schema.
    #[schemars(extend("const" = super::SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Runs that were added up.
    #[schemars(range(min = 2))]
    pub runs: usize,
    /// The config of the first run, without its shard. The others differ from it at most in seed and
    /// source_ips.
    pub config: RunConfig,
    /// If they are shards of one run: whether all are there, and the objectives of the whole; null
    /// for repetitions.
    #[serde(default)]
    pub shards: Option<ShardsSummary>,
    /// Lengths of the measured periods, added up.
    pub elapsed_ns_sum: u64,
    /// The longest of them.
    pub elapsed_ns_max: u64,
    /// Requests that were to be sent.
    pub requests_offered: u64,
    /// Requests that were given to a connection.
    pub requests_begun: u64,
    /// Complete, verified replies within the measured periods.
    pub replies: u64,
    /// Replies that arrived after them.
    pub replies_late: u64,
    /// Requests whose reply did not arrive within the time-out.
    pub requests_timed_out: u64,
    /// Requests without a reply when their connection, or the run, ended.
    pub requests_unanswered: u64,
    /// Requests for which no connection had room before the end.
    pub requests_never_sent: u64,
    /// The rates of the runs, added up: the rate of all if they ran at the same time.
    pub requests_per_second_sum: f64,
    /// The mean of the rates: that of repetitions.
    pub requests_per_second_mean: f64,
    /// Bytes verified within the measured periods.
    pub bytes_read: u64,
    /// Bytes verified in all.
    pub bytes_verified: u64,
    /// Connections established.
    pub connections_established: u64,
    /// Connections that ended early.
    pub connections_lost: u64,
    /// Sum of the connections that replaced others.
    pub reconnects: u64,
    /// Sum of the connections that the server closed when it owed no reply (--reconnect).
    pub server_closes: u64,
    /// Connections on which a byte differed.
    pub mismatched_connections: u64,
    /// The counts of each target; null if a run does not have them, as in files of earlier versions.
    pub per_target: Option<Vec<TargetCounts>>,
    /// As in a summary, all runs together.
    pub latency: Distribution,
    /// As in a summary, all runs together. Of shards too it is that of the whole runs, as are the lags
    /// and the parts.
    pub service_time: Distribution,
    /// As in a summary, all runs together.
    pub send_lag: Distribution,
    /// As in a summary, all runs together.
    pub own_lag: Distribution,
    /// As in a summary, all runs together.
    pub connect_latency: Distribution,
    /// As in a summary, all runs together; null unless all runs have it.
    #[serde(default)]
    pub parts: Option<PartsSummary>,
    /// What became of the datagrams of all runs; null unless they were over UDP. The mean of the
    /// jitter is that over the sockets of all runs.
    #[serde(default)]
    pub datagrams: Option<DatagramCounts>,
    /// What the replies of a reflector tell, all runs together; null unless all runs have it. What one
    /// of them does not know is null.
    #[serde(default)]
    pub stamp: Option<StampSummary>,
    /// What TCP did on the generator's side; all zero in files of earlier versions.
    #[serde(default)]
    pub tcp: TcpCounts,
    /// What went wrong with connections and how often, by name. What did not happen is absent.
    pub errors: BTreeMap<String, NonZeroU64>,
    /// Runs that a signal or a key ended early.
    #[serde(default)]
    pub runs_interrupted: usize,
    /// Runs that --abort-on-fail ended early.
    #[serde(default)]
    pub runs_aborted: usize,
    /// The worst result of their objectives; of shards, that of the objectives of the whole.
    #[serde(default)]
    #[schemars(extend("enum" = ["none", "met", "undecided", "missed"]))]
    pub objectives: String,
    /// The worst of their verdicts; at best under-connected if shards are missing.
    pub verdict: Verdict,
    /// The exit code of the program: 0 ok, 3 an echo differed, 4 not valid, 99 an objective was
    /// missed.
    #[serde(default)]
    #[schemars(extend("enum" = [0, 3, 4, 99]))]
    pub exit_code: u8,
}

impl MergedSummary {
    /// Of shards, the latencies while all of them measured, if they are known.
    pub fn latency_together(&self) -> Option<&Distribution> {
        self.shards.as_ref()?.latency_together.as_ref()
    }
}

/// The shards of one run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShardsSummary {
    /// How many the run had.
    #[schemars(range(min = 2))]
    pub count: u64,
    /// The numbers, from 0, of those that are not among the files.
    pub missing: Vec<u64>,
    /// The time in which all of them measured, as far as their clocks agree; null if one did not
    /// begin.
    pub together_ns: Option<u64>,
    /// How long after the first one the last one began to measure.
    pub starts_apart_ns: Option<u64>,
    /// Replies of all shards per second, in the time in which all of them measured. A second that is
    /// partly in it counts by that part. Null if there is no such time.
    #[serde(default)]
    pub requests_per_second_together: Option<f64>,
    /// The latencies while all of them measured: those of the seconds of each shard that are in that
    /// time. Null if there is no such second, or a file does not have the histograms of its seconds.
    /// The objectives are judged by it, or else by `latency`.
    #[serde(default)]
    pub latency_together: Option<Distribution>,
    /// A line for people about that: how many of the latencies they are, or why there are none.
    #[serde(default)]
    pub latency_note: String,
    /// Each shard that is among the files, in the order of their numbers.
    #[serde(default)]
    pub each: Vec<ShardSummary>,
    /// The objectives, judged by the latencies and rates of all shards while all of them measured, and
    /// by all of their errors.
    pub objectives: Vec<ObjectiveResult>,
}

/// One shard of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShardSummary {
    /// Its number, from 0.
    pub index: u64,
    /// How long after the first one it began to measure; null if one did not begin.
    pub began_after_ns: Option<u64>,
    /// Length of its measured period.
    pub elapsed_ns: u64,
    /// Connections established.
    pub connections_established: u64,
    /// Connections that ended early.
    pub connections_lost: u64,
    /// Requests that were to be sent.
    pub requests_offered: u64,
    /// Complete, verified replies within its measured period.
    pub replies: u64,
    /// Replies divided by the length of its measured period.
    pub requests_per_second: f64,
    /// As in a summary.
    pub latency: Percentiles,
    /// As in a summary.
    pub own_lag: Percentiles,
    /// Its verdict.
    pub verdict: Verdict,
}
