//! A histogram, with what is read off it, and times, as JSON has them.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::hdr;
use crate::stats::records;

/// Goes up when a key changes its meaning or is taken away; new keys leave it as it is.
pub const SCHEMA_VERSION: u32 = 1;

/// A histogram with what is read off it.
#[derive(Serialize)]
pub struct Distribution {
    #[serde(flatten)]
    summary: Summary,
    histogram_v2_deflate_base64: String,
}

/// What is read off a histogram of nanoseconds; nothing, if it is empty.
#[derive(Serialize)]
pub struct Summary {
    pub count: u64,
    pub min_ns: Option<u64>,
    pub mean_ns: Option<u64>,
    pub stdev_ns: Option<u64>,
    pub p50_ns: Option<u64>,
    pub p75_ns: Option<u64>,
    pub p90_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub p99_9_ns: Option<u64>,
    pub p99_99_ns: Option<u64>,
    pub max_ns: Option<u64>,
}

impl Distribution {
    pub fn new(values: &Histogram<u64>) -> Distribution {
        Distribution {
            summary: Summary::new(values),
            histogram_v2_deflate_base64: hdr::encode(values),
        }
    }
}

impl Summary {
    pub fn new(values: &Histogram<u64>) -> Summary {
        let some = |value: u64| (!values.is_empty()).then_some(value);
        let at = |percentile| some(records::percentile(values, percentile));
        Summary {
            count: values.len(),
            min_ns: some(values.min()),
            mean_ns: some(values.mean().round() as u64),
            stdev_ns: some(values.stdev().round() as u64),
            p50_ns: at(50.0),
            p75_ns: at(75.0),
            p90_ns: at(90.0),
            p99_ns: at(99.0),
            p99_9_ns: at(99.9),
            p99_99_ns: at(99.99),
            max_ns: some(values.max()),
        }
    }
}

/// Nanoseconds since 1970-01-01 UTC.
pub fn unix_nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanos)
}

/// In whole nanoseconds, of which 584 years fit.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
