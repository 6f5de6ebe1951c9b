//! The rows of a run, one per second: one object per line (ndjson), or comma-separated values, and
//! the same rows in bounded memory for the summary. Times are whole nanoseconds, and the unit is in
//! each name.

use std::io::{self, Write};
use std::time::Duration;

use super::hdr;
use super::schema::{Percentiles, SecondSummary, SecondType, nanos};
use crate::plan::memory::{INTERVAL_BYTES, INTERVALS_MAX};
use crate::stats::interval::Interval;

impl SecondSummary {
    /// The same with the histogram of the latencies, from which percentiles of several seconds can
    /// be made.
    pub fn with_histogram(second: &Interval) -> SecondSummary {
        SecondSummary {
            latency_histogram_v2_deflate_base64: hdr::encode(&second.latency),
            ..SecondSummary::new(second)
        }
    }

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
            latency_histogram_v2_deflate_base64: String::new(),
            send_lag: Percentiles::new(&second.send_lag),
            connections_open: second.counts.open,
            errors: second.errors,
        }
    }
}

/// The rows for the summary. They are whole seconds, or several if there would be too many:
/// percentiles cannot be added afterwards.
pub struct Rows {
    /// So many rows before the next ones become longer.
    rows_max: u64,
    /// Seconds in a row.
    step: u64,
    rows: Vec<SecondSummary>,
    /// The row to come, and how many seconds it has.
    next: Option<(Interval, u64)>,
}

const _: () = assert!(size_of::<SecondSummary>() as u64 <= INTERVAL_BYTES);

impl Rows {
    /// For a measured period of this length, or of unknown length.
    pub fn new(duration: Option<Duration>) -> Rows {
        Rows::at_most(INTERVALS_MAX, duration)
    }

    fn at_most(rows_max: u64, duration: Option<Duration>) -> Rows {
        let seconds = duration.map_or(1, |time| time.as_secs());
        let step = seconds.div_ceil(rows_max).max(1);
        Rows { rows_max, step, rows: Vec::new(), next: None }
    }

    /// Adds the next second. One of length zero, which has what came after the period, is a row of
    /// its own.
    pub fn push(&mut self, second: &Interval) {
        if second.length.is_zero() {
            self.end_row();
        }
        let (row, seconds) = match self.next.take() {
            None => (second.clone(), 1),
            Some((mut row, seconds)) => {
                row.extend(second);
                (row, seconds + 1)
            }
        };
        self.next = Some((row, seconds));
        if seconds >= self.step {
            self.end_row();
        }
    }

    /// All rows.
    pub fn finish(mut self) -> Vec<SecondSummary> {
        self.end_row();
        self.rows
    }

    fn end_row(&mut self) {
        let Some((row, _)) = self.next.take() else { return };
        self.rows.push(SecondSummary::with_histogram(&row));
        if (self.rows.len() as u64).is_multiple_of(self.rows_max) {
            self.step *= 2;
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

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;
    use crate::stats::records::latency_histogram;
    use crate::stats::tally::Snapshot;

    fn values(values: &[u64]) -> Histogram<u64> {
        let mut histogram = latency_histogram();
        values.iter().for_each(|value| histogram.record(*value).expect("in bounds"));
        histogram
    }

    /// Second `nth`, in which all figures are others than in each other second.
    fn second(nth: u64) -> Interval {
        Interval {
            number: nth,
            start: Duration::from_secs(nth),
            length: Duration::from_secs(1),
            latency: values(&[nth + 1, 2 * nth + 1]),
            send_lag: values(&[3 * nth + 1]),
            replies: nth + 10,
            replies_late: nth + 20,
            bytes: nth + 30,
            counts: Snapshot { open: nth + 40, ..Snapshot::default() },
            errors: nth + 50,
        }
    }

    fn rows(duration: Option<u64>, seconds: u64) -> Vec<SecondSummary> {
        let mut rows = Rows::at_most(36, duration.map(Duration::from_secs));
        (0..seconds).for_each(|nth| rows.push(&second(nth)));
        rows.finish()
    }

    #[test]
    fn a_row_of_one_second_is_that_of_ndjson_and_has_a_histogram() {
        let expected: Vec<_> = (0..5)
            .map(|nth| SecondSummary {
                latency_histogram_v2_deflate_base64: hdr::encode(&second(nth).latency),
                ..SecondSummary::new(&second(nth))
            })
            .collect();
        assert_eq!(rows(Some(5), 5), expected);
        assert_eq!(rows(None, 5), expected);
    }

    #[test]
    fn rows_of_several_seconds_have_the_percentiles_of_all_of_their_values() {
        let rows = rows(Some(3 * 36), 7);
        assert_eq!(rows.iter().map(|row| row.second).collect::<Vec<_>>(), [1, 4, 7]);
        let whole = Interval {
            length: Duration::from_secs(3),
            latency: values(&[4, 7, 5, 9, 6, 11]),
            send_lag: values(&[10, 13, 16]),
            replies: 13 + 14 + 15,
            replies_late: 23 + 24 + 25,
            bytes: 33 + 34 + 35,
            errors: 53 + 54 + 55,
            counts: Snapshot { open: 45, ..Snapshot::default() },
            ..second(3)
        };
        assert_eq!(rows[1], SecondSummary::with_histogram(&whole));
        assert_eq!(rows[2], SecondSummary::with_histogram(&second(6)), "the last one is shorter");
    }

    #[test]
    fn what_came_after_the_end_is_a_row_of_its_own() {
        let mut rows = Rows::at_most(36, Some(Duration::from_secs(2 * 36)));
        (0..3).for_each(|nth| rows.push(&second(nth)));
        rows.push(&Interval { length: Duration::ZERO, ..second(3) });
        let lengths: Vec<_> = rows.finish().iter().map(|row| row.length_ns).collect();
        assert_eq!(lengths, [2_000_000_000, 1_000_000_000, 0]);
    }

    #[test]
    fn rows_of_an_unknown_duration_become_longer_and_lose_nothing() {
        let rows = rows(None, 100);
        let seconds = |row: &SecondSummary| row.length_ns / 1_000_000_000;
        assert_eq!((seconds(&rows[35]), seconds(&rows[36])), (1, 2));
        assert_eq!(rows.len() as u64, 36 + (100 - 36) / 2);
        assert_eq!(rows.iter().map(seconds).sum::<u64>(), 100);
        assert_eq!(rows.iter().map(|row| row.latency.count).sum::<u64>(), 200);
    }
}
