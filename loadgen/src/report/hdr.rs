//! Histograms in the formats of HdrHistogram's own tools: encoded (V2, deflated, base64), interval
//! log, and percentile distribution.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use super::schema::RunSummary;
use crate::stats::interval::Interval;
use crate::stats::records::percentile;

/// Lines of a distribution per halving of the distance to 100 %, as in HdrHistogram's tools.
pub const TICKS_PER_HALF: u32 = 5;
/// The tools show values in milliseconds if they were recorded in nanoseconds.
const NANOS_PER_SHOWN: f64 = 1e6;

const WRITTEN: &str = "a vector takes all bytes";

/// Encodes a histogram as text.
pub fn encode(values: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(values, &mut bytes)
        .expect("counts fit, and a vector takes all bytes");
    BASE64.encode(bytes)
}

/// Decodes a histogram from text.
///
/// # Errors
/// What is malformed.
pub fn decode(text: &str) -> Result<Histogram<u64>, String> {
    let bytes = BASE64.decode(text).map_err(|error| format!("not base64: {error}"))?;
    let values = Deserializer::new().deserialize(&mut bytes.as_slice());
    values.map_err(|error| format!("no histogram: {error:?}"))
}

/// Begins an interval log: comments with the format and the time, and the columns. `began`: the
/// start of the measured period, which is the origin of the times in the log.
///
/// # Errors
/// Writing failed.
pub fn begin_log(out: &mut dyn Write, target: &str, began: SystemTime) -> io::Result<()> {
    let since_epoch = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    write_head(out, env!("CARGO_PKG_VERSION"), target, since_epoch)
}

fn write_head(
    out: &mut dyn Write,
    version: &str,
    target: &str,
    since_epoch: Duration,
) -> io::Result<()> {
    let seconds = since_epoch.as_secs_f64();
    writeln!(out, "#[Logged with loadgen {version}, {target}]")?;
    writeln!(out, "#[Latency in nanoseconds; Interval_Max in milliseconds]")?;
    writeln!(out, "#[Histogram log format version 1.3]")?;
    writeln!(out, "#[StartTime: {seconds:.3} (seconds since epoch)]")?;
    writeln!(out, "#[BaseTime: {seconds:.3} (seconds since epoch)]")?;
    writeln!(
        out,
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
    )
}

/// Adds a second to an interval log.
///
/// # Errors
/// Writing failed.
pub fn log_second(out: &mut dyn Write, second: &Interval) -> io::Result<()> {
    let max = if second.latency.is_empty() { 0 } else { second.latency.max() };
    write_interval(out, second.start, second.length, max, &encode(&second.latency))
}

fn write_interval(
    out: &mut dyn Write,
    start: Duration,
    length: Duration,
    max_ns: u64,
    histogram: &str,
) -> io::Result<()> {
    let (start, length) = (start.as_secs_f64(), length.as_secs_f64());
    writeln!(out, "{start:.3},{length:.3},{:.3},{histogram}", max_ns as f64 / NANOS_PER_SHOWN)
}

/// Writes the interval log of a saved run. `None` if it does not have the histograms of its seconds,
/// as in files of earlier versions.
pub fn log_of_saved(run: &RunSummary) -> Option<Vec<u8>> {
    let began = Duration::from_nanos(run.began_unix_ns?);
    let mut out = Vec::new();
    write_head(&mut out, &run.loadgen_version, &run.target, began).expect(WRITTEN);
    for second in &run.intervals {
        let histogram = second.latency_histogram_v2_deflate_base64.as_str();
        if histogram.is_empty() {
            return None;
        }
        let [start, length] = [second.start_ns, second.length_ns].map(Duration::from_nanos);
        let max_ns = second.latency.max_ns.unwrap_or_default();
        write_interval(&mut out, start, length, max_ns, histogram).expect(WRITTEN);
    }
    (!run.intervals.is_empty()).then_some(out)
}

/// Writes the percentile distribution in the format of HistogramLogProcessor.
///
/// # Errors
/// Writing failed.
pub fn write_distribution(out: &mut dyn Write, values: &Histogram<u64>) -> io::Result<()> {
    let shown = |nanos: f64| nanos / NANOS_PER_SHOWN;
    let (title, columns) = ("Value", ["Percentile", "TotalCount", "1/(1-Percentile)"]);
    writeln!(out, "{title:>12} {:>14} {:>10} {:>14}\n", columns[0], columns[1], columns[2])?;
    let mut count = 0;
    for step in values.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let value = shown(step.value_iterated_to() as f64);
        let quantile = step.quantile_iterated_to();
        write!(out, "{value:>12.3} {quantile:>14.12} {count:>10}")?;
        if quantile < 1.0 {
            write!(out, " {:>14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    let (mean, stdev) = (shown(values.mean()), shown(values.stdev()));
    let max = if values.is_empty() { 0.0 } else { shown(values.max() as f64) };
    let sub_buckets = (2 * 10u64.pow(values.sigfig().into())).next_power_of_two();
    writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {stdev:>12.3}]")?;
    writeln!(out, "#[Max     = {max:>12.3}, Total count    = {:>12}]", values.len())?;
    writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {sub_buckets:>12}]", values.buckets())
}

/// Percentiles and their values in nanoseconds: at the lines of a percentile distribution, and at
/// those that JSON has.
pub fn percentiles(values: &Histogram<u64>) -> Vec<(f64, u64)> {
    let lines = values.iter_quantiles(TICKS_PER_HALF).map(|step| step.quantile_iterated_to());
    // With as many decimals as a percentile distribution shows.
    let mut ranks: Vec<f64> = lines.map(|quantile| (quantile * 1e12).round() / 1e10).collect();
    if !values.is_empty() {
        ranks.extend([75.0, 99.0, 99.9, 99.99]);
    }
    ranks.sort_by(f64::total_cmp);
    ranks.dedup();
    ranks.into_iter().map(|rank| (rank, percentile(values, rank))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::records::latency_histogram;

    fn values(micros: std::ops::RangeInclusive<u64>) -> Histogram<u64> {
        let mut values = latency_histogram();
        micros.for_each(|micros| values.record(micros * 1000).expect("in bounds"));
        values
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        let values = values(1..=1000);
        assert_eq!(decode(&encode(&values)), Ok(values));
        assert!(decode("?").expect_err("no base64").contains("not base64"));
        assert!(decode("AAAA").expect_err("no histogram").contains("no histogram"));
    }

    #[test]
    fn the_distribution_has_the_columns_of_the_tools() {
        let mut out = Vec::new();
        write_distribution(&mut out, &values(1..=1000)).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[2], "       0.001 0.000000000000          1           1.00");
        assert!(lines.contains(&"       0.500 0.500000000000        500           2.00"), "{text}");
        assert!(lines.contains(&"       1.000 1.000000000000       1000"), "{text}");
        let end = &lines[lines.len() - 3..];
        assert_eq!(end[0], "#[Mean    =        0.501, StdDeviation   =        0.289]");
        assert_eq!(end[1], "#[Max     =        1.000, Total count    =         1000]");
        assert_eq!(end[2], "#[Buckets =           32, SubBuckets     =         2048]");
    }
}
