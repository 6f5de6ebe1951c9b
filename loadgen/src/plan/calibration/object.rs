//! The JSON object of a calibration (`type`: `calibration`). The documentation of a field is its
//! description in `docs/loadgen.schema.json`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of the object. It increases when a key changes its meaning or is removed.
pub const SCHEMA_VERSION: u32 = 1;

/// What loadgen calibrate found: the highest rates and the lowest latency of one machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "calibration_object")]
pub struct Calibration {
    /// Marks the object of a calibration.
    pub r#type: CalibrationType,
    /// The version of this schema.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: u32,
    /// When it was measured, in nanoseconds since 1970-01-01 UTC. A run does not use a calibration
    /// that is older than 30 days.
    pub calibrated_unix_ns: u64,
    /// The machine. A run on another one, or with another kernel, does not use it.
    pub machine: MachineName,
    /// The program that was measured. Another one does not use it.
    pub generator: Generator,
    /// What it was measured with: an echo over connections that last. A run with other threads,
    /// sizes or pipelining, of another protocol or with a lifetime does not use it.
    pub load: CalibratedLoad,
    /// Workers of the server.
    #[schemars(range(min = 1))]
    pub sink_workers: usize,
    /// Load average of the minute before; null if it could not be read.
    pub load_average: Option<f64>,
    /// The highest rate of a closed loop.
    pub closed_loop: Ceiling,
    /// The highest rate of an open loop with a valid verdict; null if no rate had one.
    pub open_loop: Option<Ceiling>,
    /// Latency of one request at a time on one connection.
    pub floor_latency: FloorLatency,
    /// Bytes verified in all.
    pub bytes_verified: u64,
}

/// The `type` of a calibration.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum CalibrationType {
    #[default]
    Calibration,
}

/// A machine. It counts as another one if any of these differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MachineName {
    /// Its name.
    pub hostname: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processors.
    pub cpu: String,
    /// Processors that the process could use.
    #[schemars(range(min = 1))]
    pub processors: usize,
}

/// A build of loadgen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Generator {
    /// Its version.
    pub version: String,
    /// Whether it was built with optimisation.
    pub optimized: bool,
}

/// The load that it was measured with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CalibratedLoad {
    /// Threads of clients.
    #[schemars(range(min = 1))]
    pub threads: usize,
    /// Connections.
    #[schemars(range(min = 1))]
    pub connections: u64,
    /// Sizes of requests.
    pub sizes: String,
    /// Outstanding requests per connection, at most.
    #[schemars(range(min = 1))]
    pub pipeline: u64,
    /// Whether threads polled all the time instead of sleeping.
    #[serde(default)]
    pub busy_poll: bool,
}

/// The highest rate of one kind of loop.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ceiling")]
pub struct Ceiling {
    /// Complete, verified replies per second.
    pub requests_per_second: f64,
    /// Share of the time in which the busiest thread ran or waited for a processor.
    pub generator_busy_ratio: f64,
    /// Share of the time in which it waited.
    pub generator_waiting_ratio: f64,
    /// Processors that the server used; null if that could not be read.
    pub sink_cores: Option<f64>,
}

/// Latency of one request at a time on one connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FloorLatency {
    /// Smallest.
    pub min_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
}

/// Whether a run can be compared with a calibration.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CalibrationUse {
    /// It can.
    Used,
    /// This machine was never calibrated.
    #[default]
    None,
    /// It is from another machine, or from another kernel.
    OtherMachine,
    /// It is from another build of loadgen.
    OtherGenerator,
    /// It is older than 30 days.
    TooOld,
    /// It is for other threads, sizes or pipelining; or the run is not of an echo over connections
    /// that last.
    OtherLoad,
    /// The file cannot be read.
    Unreadable,
}
