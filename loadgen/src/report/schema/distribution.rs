//! A histogram of times, and the values that are read from it.

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::report::hdr;
use crate::stats::records::percentile;

/// A histogram of nanoseconds with its percentiles. Values have three significant digits
/// (HdrHistogram's buckets). All keys except `count` are null if there is no value.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "distribution")]
pub struct Distribution {
    /// What is read from the histogram.
    #[serde(flatten)]
    pub percentiles: Percentiles,
    /// The whole histogram in the format that the HdrHistogram libraries read: V2, deflated, in
    /// base64. Histograms of several runs can be added.
    pub histogram_v2_deflate_base64: String,
}

/// Percentiles of a histogram of nanoseconds. Values have three significant digits (HdrHistogram's
/// buckets). All keys except `count` are null if there is no value.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "summary")]
pub struct Percentiles {
    /// Number of values.
    pub count: u64,
    /// Smallest value.
    pub min_ns: Option<u64>,
    /// Mean, rounded.
    pub mean_ns: Option<u64>,
    /// Standard deviation, rounded.
    pub stdev_ns: Option<u64>,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 75th percentile.
    pub p75_ns: Option<u64>,
    /// 90th percentile.
    pub p90_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub p99_9_ns: Option<u64>,
    /// 99.99th percentile.
    pub p99_99_ns: Option<u64>,
    /// Largest value.
    pub max_ns: Option<u64>,
}

impl Distribution {
    /// That of a histogram of nanoseconds.
    pub fn new(values: &Histogram<u64>) -> Distribution {
        Distribution {
            percentiles: Percentiles::new(values),
            histogram_v2_deflate_base64: hdr::encode(values),
        }
    }

    /// Both together.
    ///
    /// # Errors
    /// A histogram is missing or malformed.
    pub fn plus(&self, other: &Distribution) -> Result<Distribution, String> {
        let mut sum = self.histogram()?;
        sum.add(other.histogram()?).map_err(|error| error.to_string())?;
        Ok(Distribution::new(&sum))
    }

    /// Decodes the histogram.
    ///
    /// # Errors
    /// The histogram is missing or malformed.
    pub fn histogram(&self) -> Result<Histogram<u64>, String> {
        match self.histogram_v2_deflate_base64.as_str() {
            "" => Err("the histogram is missing".into()),
            text => hdr::decode(text),
        }
    }
}

impl Percentiles {
    /// Those of a histogram of nanoseconds.
    pub fn new(values: &Histogram<u64>) -> Percentiles {
        let some = |value: u64| (!values.is_empty()).then_some(value);
        let at = |rank| some(percentile(values, rank));
        Percentiles {
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
