//! A whole run (`type`: `summary`), and one second of it (`type`: `second`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Distribution, PartsSummary, Percentiles, SecondType, SummaryType};
use crate::plan::calibration::{CalibrationUse, MachineName};
use crate::plan::shard::Shard;
use crate::report::Verdict;
use crate::stats::counts::RudeCount;
use crate::stats::loss::Mismatch;
use crate::stats::tcp::TcpCounts;
use crate::traffic::rate::Rate;

/// A whole run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "summary_object")]
pub struct RunSummary {
    /// Marks the object of a whole run.
    pub r#type: SummaryType,
    /// The version of this schema. It increases when a key changes its meaning or is removed; a new
    /// key does not change it.
    #[schemars(extend("const" = super::SCHEMA_VERSION))]
    pub schema_version: u32,
    /// The version of the program.
    pub loadgen_version: String,
    /// The words of the command line. Empty in files of earlier versions.
    #[serde(default)]
    pub command: Vec<String>,
    /// The machine of the generator; null in files of earlier versions.
    #[serde(default)]
    pub machine: Option<MachineName>,
    /// The target: service://address:port, with the options that differ from the defaults. Several
    /// are separated by commas.
    pub target: String,
    /// The same targets, one by one. Connections go to them in turn.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub targets: Vec<String>,
    /// What was asked for, with defaults filled in.
    pub config: RunConfig,
    /// What became of the connections.
    pub connections: ConnectionCounts,
    /// The counts of each target, in the order of `targets`. Their sums are those of the run. Null
    /// or absent in files of earlier versions.
    #[serde(default)]
    #[schemars(with = "Vec<TargetCounts>", length(min = 1))]
    pub per_target: Option<Vec<TargetCounts>>,
    /// Length of the measured period.
    pub elapsed_ns: u64,
    /// Requests that were given to a connection.
    pub requests_begun: u64,
    /// Complete, verified replies within the measured period.
    pub replies: u64,
    /// Replies to requests of the measured period that arrived after it.
    pub replies_late: u64,
    /// Requests without a reply when their connection, or the run, ended.
    pub requests_unanswered: u64,
    /// Replies within the measured period, divided by its length.
    pub requests_per_second: f64,
    /// Bytes verified within the measured period.
    pub bytes_read: u64,
    /// Bytes verified within the measured period, divided by its length.
    pub bytes_read_per_second: f64,
    /// Bytes verified in all.
    pub bytes_verified: u64,
    /// Connections on which a byte differed from what was sent.
    pub mismatched_connections: u64,
    /// The first of these.
    pub first_mismatches: Vec<Mismatch>,
    /// From the time at which a request was to be sent to its complete reply. For a request that
    /// was given up: its age at that time. One value for each request offered.
    pub latency: Distribution,
    /// Requests that were to be sent in the measured period. Each of them is completed, timed out,
    /// unanswered or never sent.
    #[serde(default)]
    pub requests_offered: u64,
    /// Offered requests that had their reply, in the measured period or after it.
    #[serde(default)]
    pub requests_completed: u64,
    /// Offered requests whose reply did not arrive within the time-out.
    #[serde(default)]
    pub requests_timed_out: u64,
    /// Offered requests for which no connection had room before the end (open loop).
    #[serde(default)]
    pub requests_never_sent: u64,
    /// Requests sent during the warm-up. They are not among the offered ones.
    #[serde(default)]
    pub requests_warmup: u64,
    /// From the actual send to the complete reply, or to the time at which the request was given
    /// up. Equal to the latency in a closed loop.
    #[serde(default)]
    pub service_time: Distribution,
    /// From the time at which a request was to be sent to the actual send. Empty in a closed loop.
    #[serde(default)]
    pub send_lag: Distribution,
    /// The part of the send lag that the generator causes: from the time at which a request was to
    /// be sent, or at which its connection had room if that was later, to the actual send. After a
    /// stall of the thread it is at least the length of the stall, up to the whole send lag. Empty
    /// in a closed loop.
    #[serde(default)]
    pub own_lag: Distribution,
    /// From the start of a connect to the established connection. Over TLS it includes the
    /// handshake.
    #[serde(default)]
    pub connect_latency: Distribution,
    /// The TLS handshakes; null without TLS.
    #[serde(default)]
    pub tls: Option<TlsSummary>,
    /// Jain's fairness index of the replies per connection: 1 if all had the same number, 1/n if
    /// one of n had all.
    #[serde(default)]
    #[schemars(range(max = 1))]
    pub fairness_jain: f64,
    /// Connections that replaced one whose lifetime had ended, one that timed out (open loop), or
    /// one that the server closed (--reconnect), and were established.
    #[serde(default)]
    pub reconnects: u64,
    /// Failed connects in place of a connection that had ended. They are among the errors too.
    #[serde(default)]
    pub reconnects_failed: u64,
    /// With --reconnect: connections that the server closed when it owed no reply. They are not
    /// lost.
    #[serde(default)]
    pub server_closes: u64,
    /// What each thread of clients used in the measured period.
    #[serde(default)]
    pub generator_threads: Vec<ThreadSummary>,
    /// Length of a step in `seconds`: one second, or more in a run of many hours.
    #[serde(default)]
    pub seconds_step_ns: u64,
    /// The measured period step by step, all threads together.
    #[serde(default)]
    pub seconds: Vec<StepSummary>,
    /// The same objects as in ndjson, one for each second. Beyond 3,600 objects they are longer: as
    /// many seconds each as the duration needs, or without a duration twice as long after every
    /// 3,600 objects. Empty in files of earlier versions.
    #[serde(default)]
    pub intervals: Vec<SecondSummary>,
    /// Seconds in which a thread, the worst, was almost never idle while it was behind its schedule.
    #[serde(default)]
    pub saturated_seconds: u64,
    /// The longest time in which a thread of the generator should have worked and did not: it had
    /// no processor, was stopped, or took long for one task. 0 if no such time reached 1 ms.
    #[serde(default)]
    pub longest_pause_ns: u64,
    /// What became of the rude clients.
    #[serde(default)]
    pub rude_clients: Vec<RudeCount>,
    /// What the clients of a hub received; null for another target. With a hub, latencies are those
    /// of deliveries.
    #[serde(default)]
    pub hub: Option<HubCounts>,
    /// What became of the datagrams; null unless the run was over UDP.
    #[serde(default)]
    pub datagrams: Option<DatagramCounts>,
    /// What the replies of a reflector tell about each direction (stamp://); null otherwise.
    #[serde(default)]
    pub stamp: Option<StampSummary>,
    /// Where the time went, if the replies carry the server's times (timed://); null otherwise.
    #[serde(default)]
    pub parts: Option<PartsSummary>,
    /// What TCP did on the generator's side; all zero in files of earlier versions.
    #[serde(default)]
    pub tcp: TcpCounts,
    /// What went wrong with connections and how often, by name. What did not happen is absent.
    pub errors: BTreeMap<String, NonZeroU64>,
    /// Processors that the clients used, on average.
    pub generator_cores: f64,
    /// Share of the measured period in which the busiest thread ran or waited for a processor,
    /// without the time in which it polled and found nothing (busy_poll).
    #[schemars(range(max = 1))]
    pub generator_busy_ratio: f64,
    /// Share of the measured period in which the busiest thread waited for a processor.
    #[schemars(range(max = 1))]
    pub generator_waiting_ratio: f64,
    /// Processors that the server used, on average; null if loadgen did not start it.
    pub server_cores: Option<f64>,
    /// How much was used of the generator's highest rate on this machine, as loadgen calibrate
    /// measured it.
    #[serde(default)]
    pub ceiling: CeilingUse,
    /// For a shard that has waited at a barrier: how its clock stands to that of shard 0; null
    /// otherwise.
    #[serde(default)]
    pub clock: Option<ClockComparison>,
    /// When the measured period began, in nanoseconds since 1970-01-01 UTC; null if it did not.
    pub began_unix_ns: Option<u64>,
    /// Whether a signal or a key ended the run early.
    pub interrupted: bool,
    /// Why --abort-on-fail ended the run early; null if it did not.
    pub aborted: Option<String>,
    /// The result of each --slo.
    pub objectives: Vec<ObjectiveResult>,
    /// Whether the figures are what was asked for.
    pub verdict: Verdict,
    /// The verdict with its reasons, for people.
    pub verdict_text: String,
    /// The exit code of the program: 0 ok, 3 an echo differed, 4 not valid or an objective
    /// undecided, 99 an objective was missed, 130 interrupted.
    #[schemars(extend("enum" = [0, 3, 4, 99, 130]))]
    pub exit_code: u8,
}

/// The TLS handshakes of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TlsSummary {
    /// Whether the certificates of the servers were verified. They were not with insecure=on.
    pub verified: bool,
    /// Full handshakes, of all connections.
    pub handshakes_full: u64,
    /// Handshakes that resumed a session.
    pub handshakes_resumed: u64,
    /// The part of the handshakes that resumed a session.
    #[schemars(range(max = 1))]
    pub resumed_ratio: f64,
    /// Handshakes within the measured period, divided by its length.
    pub handshakes_per_second: f64,
    /// Handshakes by version and cipher suite.
    pub sessions: Vec<TlsSessions>,
    /// From the established connection to the end of a full handshake.
    pub handshake_full: Distribution,
    /// From the established connection to the end of a handshake that resumed a session.
    pub handshake_resumed: Distribution,
}

/// Handshakes with the same result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TlsSessions {
    /// The version of TLS, such as 1.3.
    pub version: String,
    /// The cipher suite, by its name in the registry of IANA.
    pub cipher_suite: String,
    /// How many these are.
    pub count: u64,
}

/// What was asked for, with defaults filled in.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunConfig {
    /// The service of the targets with its options, without an address; null in files of earlier
    /// versions.
    pub service: Option<String>,
    /// Whether loadgen started the server.
    pub own_server: bool,
    /// Workers of the server that loadgen started; null if it did not.
    pub own_server_workers: Option<usize>,
    /// Whether loadgen was built with optimization; null in files of earlier versions.
    pub optimized_build: Option<bool>,
    /// Which of several processes that made the run together this was; null if it was the only one.
    /// Connections, requests, rates and rude clients in this object are of all shards together.
    #[serde(default)]
    pub shard: Option<Shard>,
    /// Connections asked for.
    pub connections: u64,
    /// Whether the number was given on the command line. If it was not, fewer are no failure.
    pub connections_explicit: bool,
    /// Threads of clients.
    #[schemars(range(min = 1))]
    pub threads: usize,
    /// Length of the measured period; null if the number of requests ends the run.
    pub duration_ns: Option<u64>,
    /// Requests in all; null if there is no limit.
    pub requests: Option<u64>,
    /// Bytes in a request, and in its reply; the largest if they differ.
    pub size_bytes: u64,
    /// Sizes of requests, as they were given.
    pub sizes: String,
    /// How long requests were sent before they were recorded.
    pub warmup_ns: u64,
    /// Requests to send per second, in all; null in a closed loop, and if the rate changes. It need
    /// not be a whole number.
    pub rate_per_second: Option<Rate>,
    /// Whether requests were sent at scheduled times (open loop), or each when an earlier one had
    /// its reply.
    pub open_loop: bool,
    /// Whether each connection has its own schedule.
    pub strict: bool,
    /// How the requests of an open loop follow each other: const (evenly) or poisson; null in a
    /// closed loop.
    #[schemars(extend("enum" = ["const", "poisson", null]))]
    pub arrivals: Option<String>,
    /// How the rate changes; null if it does not, and in a closed loop.
    pub stages: Option<Vec<StageConfig>>,
    /// Requests after which a connection is closed and replaced; null if there is no such limit.
    pub lifetime_requests: Option<u64>,
    /// Time after which a connection is closed and replaced; null if there is no such limit.
    pub lifetime_ns: Option<u64>,
    /// Whether a connection that the server closed was reopened.
    pub reconnect: bool,
    /// Version of the PROXY protocol with whose header each connection began, v1 or v2; null if
    /// none did.
    pub proxy_protocol: Option<String>,
    /// Addresses of the clients in these headers; null for the default ones.
    pub proxy_source: Option<String>,
    /// Rude clients beside the measured ones: the number of each kind.
    pub rude_clients: BTreeMap<String, u64>,
    /// Outstanding requests per connection, at most.
    #[schemars(range(min = 1))]
    pub pipeline: u64,
    /// Whether threads polled all the time instead of sleeping.
    pub busy_poll: bool,
    /// Connections begun per second; null if there is no limit.
    pub connect_rate_per_second: Option<u64>,
    /// Time-out of a connect, and of a reply.
    pub timeout_ns: u64,
    /// What the clients of a hub did; null for another service.
    pub hub: Option<HubConfig>,
    /// Whether the run was to end as soon as it could not pass.
    pub abort_on_fail: bool,
    /// Local addresses, used in turn; empty if the system chose.
    pub source_ips: Vec<IpAddr>,
    /// Seed of the payload: --seed repeats it.
    pub seed: u64,
}

/// What the clients of a hub did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HubConfig {
    /// Clients that sent.
    #[schemars(range(min = 1))]
    pub senders: u64,
    /// Clients that never read.
    pub never_read: u64,
    /// Whether a run was valid although the hub dropped messages.
    pub allow_drops: bool,
}

/// A stage of an open loop. Its rate changes linearly.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StageConfig {
    /// Its length.
    pub length_ns: u64,
    /// Rate at its beginning.
    pub from_per_second: Rate,
    /// Rate at its end.
    pub to_per_second: Rate,
}

/// What became of the connections.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionCounts {
    /// Asked for.
    pub asked: u64,
    /// Begun: as many as the limits of the machine allow.
    pub possible: u64,
    /// Which limit allowed no more, and the remedy; null if all were possible.
    pub shortfall: Option<String>,
    /// Established.
    pub established: u64,
    /// Established with at least one verified reply.
    pub served: u64,
    /// Ended early, except because a byte differed.
    pub lost: u64,
    /// Fewest replies on a connection.
    pub replies_min: u64,
    /// Median number of replies on a connection.
    pub replies_median: u64,
    /// Most replies on a connection.
    pub replies_max: u64,
    /// The numbers of replies on a connection, from the fewest to the most, at each percent of the
    /// connections: 101 numbers. Empty without a connection, and in files of earlier versions.
    #[serde(default)]
    pub replies_at_percent: Vec<u64>,
}

/// What became of the connections to one target.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "target_counts")]
pub struct TargetCounts {
    /// Its address, as in `targets`.
    pub target: String,
    /// Connections to it that were asked for.
    pub connections_asked: u64,
    /// Established. A connection that replaced another one is not counted again.
    pub connections_established: u64,
    /// Established with at least one reply.
    pub connections_served: u64,
    /// Connections that ended early.
    pub connections_lost: u64,
    /// Connections on which a byte differed from what was sent.
    pub mismatched_connections: u64,
    /// Requests that had their complete, verified reply, late ones included.
    pub requests_completed: u64,
    /// As `latency` of the summary, of the requests that were given to its connections. Null for a
    /// single target, of which it is that of the summary, for more than 16 targets, and in files of
    /// earlier versions.
    #[serde(default)]
    pub latency: Option<Distribution>,
}

/// A clock compared with that of shard 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ClockComparison {
    /// By how much it is ahead; negative if it is behind.
    pub ahead_ns: i64,
    /// Half of the shortest round trip in which they were compared: the greatest possible error.
    pub error_max_ns: u64,
}

/// What one thread of clients used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ThreadSummary {
    /// Time on a processor.
    pub running_ns: u64,
    /// Time in which it was ready to run and all processors were taken.
    pub waiting_ns: u64,
    /// The part of both in which it polled and found nothing (busy_poll).
    #[serde(default)]
    pub polling_ns: u64,
    /// How often it gave up the processor.
    pub switches_voluntary: u64,
    /// How often the processor was taken from it.
    pub switches_involuntary: u64,
}

/// A step of the measured period.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StepSummary {
    /// Its length.
    pub length_ns: u64,
    /// Requests sent.
    pub sent: u64,
    /// Complete replies, including those to requests of the warm-up and those that the last step
    /// read after the end.
    pub replies: u64,
    /// Outstanding requests on average, as counted.
    pub outstanding_mean: f64,
    /// Outstanding requests on average by Little's law: the rate of replies times their mean
    /// service time.
    pub outstanding_expected: f64,
    /// Time of all threads on a processor.
    pub running_ns: u64,
    /// Time in which threads waited for a processor.
    pub waiting_ns: u64,
    /// The part of both in which threads polled and found nothing (busy_poll).
    #[serde(default)]
    pub polling_ns: u64,
}

/// What the clients of a hub received.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HubCounts {
    /// Clients that send.
    pub senders: u64,
    /// Clients that never read.
    pub never_read: u64,
    /// Messages that clients received within the measured period.
    pub deliveries: u64,
    /// Messages that clients received after it.
    pub deliveries_late: u64,
    /// Messages that the hub reported as dropped for clients that read.
    pub deliveries_dropped: u64,
    /// Messages that clients did not receive and that the hub did not report.
    pub deliveries_missing: u64,
    /// Deliveries within the measured period, divided by its length.
    pub deliveries_per_second: f64,
    /// Deliveries so late that only a lower bound of their latency is known, which was recorded.
    pub latencies_at_least: u64,
    /// Notices of clients that joined.
    pub notices_joined: u64,
    /// Notices of clients that left.
    pub notices_left: u64,
}

/// What became of the datagrams of a run over UDP, with those of the warm-up. Loss is a result, and no
/// error.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DatagramCounts {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that had no reply within the time-out.
    pub lost: u64,
    /// The part of the datagrams that were lost, from 0 to 1.
    #[schemars(range(max = 1))]
    pub lost_ratio: f64,
    /// Replies that came after the time-out. Their datagrams are among the lost ones.
    pub late: u64,
    /// Further replies to a datagram that had one.
    pub duplicated: u64,
    /// Replies that came after the reply to a later datagram of the same socket.
    pub out_of_order: u64,
    /// Replies whose bytes differ, which are longer, or which belong to no datagram of the run.
    pub corrupted: u64,
    /// Replies that are shorter than their datagram, and right as far as they go.
    pub truncated: u64,
    /// Times that a socket reported an error, such as that no server has the port.
    pub socket_errors: u64,
    /// The jitter of the round-trip times at the end (RFC 3550), as the mean over the sockets.
    pub jitter_ns: u64,
    /// The largest jitter of a socket.
    pub jitter_max_ns: u64,
    /// Sockets with a jitter: those that had two replies.
    pub jitter_sockets: u64,
}

/// What the replies of a STAMP reflector tell.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StampSummary {
    /// The round trip without the time in the reflector.
    pub round_trip: Distribution,
    /// The time in the reflector.
    pub residence: Distribution,
    /// The way to the reflector.
    pub there: StampDirection,
    /// The way back.
    pub back: StampDirection,
    /// Packets after the last one with a reply, which may have been lost in either direction; null
    /// unless the reflector is stateful, and also if it restarted its numbers.
    pub lost_unknown: Option<u64>,
    /// Whether both clocks report that they are synchronized, and no delay contradicts it.
    pub clocks_agree: bool,
    /// Why they do not; null if they agree.
    pub clocks_reason: Option<String>,
    /// The sum of the errors that both clocks report.
    pub clock_error_ns: u64,
    /// Sockets with a jitter: those that had two replies.
    pub jitter_sockets: u64,
}

/// One direction of the packets of a STAMP session.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StampDirection {
    /// Packets that were lost in this direction; null unless the reflector is stateful, and also if
    /// it restarted its numbers.
    pub lost: Option<u64>,
    /// Packets that were duplicated in this direction; null unless the reflector is stateful, and
    /// also if it restarted its numbers.
    pub duplicated: Option<u64>,
    /// The delay; null unless the clocks agree.
    pub delay: Option<Distribution>,
    /// How much the delays of two packets that follow each other differ. The clocks need not agree.
    pub variation: Distribution,
    /// The jitter of the delays at the end (RFC 3550), as the mean over the sockets.
    pub jitter_ns: u64,
    /// The largest jitter of a socket.
    pub jitter_max_ns: u64,
}

/// How much of the generator's ceiling was used.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CeilingUse {
    /// Whether there is a calibration that this run can be compared with: used, none, or why it was
    /// not used.
    pub calibration: CalibrationUse,
    /// The reason in words; null if the calibration was used or there is none.
    pub unused_reason: Option<String>,
    /// When it was measured, in nanoseconds since 1970-01-01 UTC; null if it was not used.
    pub calibrated_unix_ns: Option<u64>,
    /// Its highest rate of this kind of loop; null if it was not used, or if it has no rate of an
    /// open loop.
    pub requests_per_second: Option<f64>,
    /// Replies per second of this run, divided by that rate.
    pub used_ratio: Option<f64>,
    /// Median latency of one request at a time on one connection; null if it was not used.
    pub floor_latency_p50_ns: Option<u64>,
}

/// An objective, and whether it was met. A latency is in keys with _ns; a rate (replies per second)
/// or a number of errors is in keys without. If nothing was measured there is no measured value,
/// and the objective is missed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "objective")]
pub struct ObjectiveResult {
    /// The objective, as it was given.
    pub objective: String,
    /// Limit of a latency.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub limit_ns: Option<u64>,
    /// Limit of a rate or of errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub limit: Option<u64>,
    /// Latency measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub measured_ns: Option<u64>,
    /// Rate or errors measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64")]
    pub measured: Option<f64>,
    /// Whether it was met.
    pub met: bool,
    /// Whether it is not known if it was met: it depends on requests without a reply, or it was not
    /// met while the generator itself was late.
    #[serde(default)]
    pub undecided: bool,
}

/// One second of a run, all threads together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "second_object")]
pub struct SecondSummary {
    /// Marks the object of one second.
    pub r#type: SecondType,
    /// The number of the second, from 1; of the first one if there are several.
    #[schemars(range(min = 1))]
    pub second: u64,
    /// From the start of the measured period to the start of this second.
    pub start_ns: u64,
    /// Its length: one second, except the last one, and more in `intervals` of a run of more than an
    /// hour. A last object of length 0 has what arrived after the measured period.
    pub length_ns: u64,
    /// Complete, verified replies within the measured period.
    pub replies: u64,
    /// Replies that arrived after the measured period.
    pub replies_late: u64,
    /// Replies divided by the length.
    pub requests_per_second: f64,
    /// Bytes verified within the measured period.
    pub bytes_read: u64,
    /// From the time at which a request was to be sent to its complete reply; late replies and
    /// requests that were given up included.
    pub latency: Percentiles,
    /// The histogram of these latencies, in the format of `histogram_v2_deflate_base64`. Only in
    /// `intervals` of a run: absent in the objects of `ndjson`, and in files of earlier versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub latency_histogram_v2_deflate_base64: String,
    /// From the time at which a request was to be sent to the actual send, for the requests sent in
    /// this second. Without values in a closed loop.
    pub send_lag: Percentiles,
    /// Connections open at its end, as last seen (every 20 ms).
    pub connections_open: u64,
    /// Connections that failed, were lost, or had a byte that differed.
    pub errors: u64,
}
