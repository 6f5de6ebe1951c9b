//! The rows written during a run, one per second: one object per line (ndjson), or comma-separated
//! values. Times are whole nanoseconds, and the unit is in each name.

use std::io::{self, Write};

use super::schema::{Percentiles, SecondSummary, SecondType, nanos};
use crate::stats::interval::Interval;

impl SecondSummary {
    /// The summary of one second of all threads.
    pub fn new(second: &Interval) -> SecondSummary {
        SecondSummary {
            r#type: SecondType::Second,
            second: second.number + 1,
            start_ns: nanos(second.start),
            length_ns: nanos(second.length),
            replies: second.replies,
            replies_late: second.replies_late,
            requests_per_second: second.rate(),
            bytes_read: second.bytes,
            latency: Percentiles::new(&second.latency),
            send_lag: Percentiles::new(&second.send_lag),
            connections_open: second.counts.open,
            errors: second.errors,
        }
    }
}

/// Writes the names of the columns.
///
/// # Errors
/// Writing failed.
pub fn csv_header(out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "second,start_ns,length_ns,replies,replies_late,requests_per_second,bytes_read,\
         latency_min_ns,latency_mean_ns,latency_p50_ns,latency_p90_ns,latency_p99_ns,\
         latency_p99_9_ns,latency_max_ns,connections_open,errors,\
         send_lag_p50_ns,send_lag_p99_ns,send_lag_max_ns"
    )
}

/// Writes the values of a second. Latencies are empty if there was no reply, send lags are empty in
/// a closed loop.
///
/// # Errors
/// Writing failed.
pub fn csv_row(out: &mut dyn Write, second: &Interval) -> io::Result<()> {
    let row = SecondSummary::new(second);
    let SecondSummary { second, start_ns, length_ns, replies, replies_late, bytes_read, .. } = row;
    let rate = row.requests_per_second;
    write!(out, "{second},{start_ns},{length_ns},{replies},{replies_late},{rate:.3},{bytes_read}")?;
    let Percentiles { min_ns, mean_ns, p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns, .. } = row.latency;
    write_values(out, &[min_ns, mean_ns, p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns])?;
    write!(out, ",{},{}", row.connections_open, row.errors)?;
    let Percentiles { p50_ns, p99_ns, max_ns, .. } = row.send_lag;
    write_values(out, &[p50_ns, p99_ns, max_ns])?;
    writeln!(out)
}

fn write_values(out: &mut dyn Write, values: &[Option<u64>]) -> io::Result<()> {
    values.iter().try_for_each(|value| match value {
        Some(nanos) => write!(out, ",{nanos}"),
        None => write!(out, ","),
    })
}
