//! The rows that are written while a run goes on, one a second: an object a line (ndjson), or
//! comma-separated values. Times are whole nanoseconds, and the unit is in each name.

use std::io::{self, Write};

use serde::Serialize;

use super::distribution::{Summary, nanos};
use crate::stats::interval::Interval;

/// A second as an object. docs/loadgen.schema.json describes it.
#[derive(Serialize)]
pub struct Row {
    r#type: &'static str,
    second: u64,
    start_ns: u64,
    length_ns: u64,
    replies: u64,
    replies_late: u64,
    requests_per_second: f64,
    bytes_read: u64,
    latency: Summary,
    send_lag: Summary,
    connections_open: u64,
    errors: u64,
}

impl Row {
    pub fn new(second: &Interval) -> Row {
        Row {
            r#type: "second",
            second: second.number + 1,
            start_ns: nanos(second.start),
            length_ns: nanos(second.length),
            replies: second.replies,
            replies_late: second.replies_late,
            requests_per_second: second.rate(),
            bytes_read: second.bytes,
            latency: Summary::new(&second.latency),
            send_lag: Summary::new(&second.send_lag),
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

/// Writes a second's values. Latencies are empty if there was no reply, and send lags in a closed
/// loop.
///
/// # Errors
/// Writing failed.
pub fn csv_row(out: &mut dyn Write, second: &Interval) -> io::Result<()> {
    let row = Row::new(second);
    let Row { second, start_ns, length_ns, replies, replies_late, bytes_read, .. } = row;
    let rate = row.requests_per_second;
    write!(out, "{second},{start_ns},{length_ns},{replies},{replies_late},{rate:.3},{bytes_read}")?;
    let Summary { min_ns, mean_ns, p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns, .. } = row.latency;
    write_values(out, &[min_ns, mean_ns, p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns])?;
    write!(out, ",{},{}", row.connections_open, row.errors)?;
    let Summary { p50_ns, p99_ns, max_ns, .. } = row.send_lag;
    write_values(out, &[p50_ns, p99_ns, max_ns])?;
    writeln!(out)
}

fn write_values(out: &mut dyn Write, values: &[Option<u64>]) -> io::Result<()> {
    values.iter().try_for_each(|value| match value {
        Some(nanos) => write!(out, ",{nanos}"),
        None => write!(out, ","),
    })
}
