//! What the report says about datagrams: their fates, in addition to the account of the requests.

use super::Report;
use super::line::Line;
use crate::stats::records::Records;
use crate::units::time_us;

/// Lines of the text report.
pub fn lines(report: &Report) -> Vec<Line> {
    let Some(counts) = &report.records.datagrams else { return Vec::new() };
    let answered = counts.sent - counts.lost;
    let mut lines = vec![Line::always(format!(
        "Datagrams: {} sent, {answered} not lost, {} lost ({:.3} %), {} late, {} duplicated, \
         {} out of order, {} corrupted, {} truncated",
        counts.sent,
        counts.lost,
        counts.lost_ratio() * 100.0,
        counts.late,
        counts.duplicated,
        counts.out_of_order,
        counts.corrupted,
        counts.truncated
    ))];
    if counts.jitter_sockets > 0 {
        let text = |nanos| time_us(nanos as f64 / 1e3);
        lines.push(Line::detail(format!(
            "Jitter: {} mean over the sockets, {} at most (RFC 3550)",
            text(counts.jitter_ns()),
            text(counts.jitter_max_ns)
        )));
    }
    if counts.errors > 0 {
        lines.push(Line::always(format!(
            "Socket errors: {}; a packet filter, or nobody at the port",
            counts.errors
        )));
    }
    lines
}

/// What the verdict says about loss, if there was any.
pub fn note(records: &Records) -> Option<String> {
    let counts = records.datagrams.filter(|counts| counts.lost > 0)?;
    Some(format!("{:.3} % of the datagrams lost", counts.lost_ratio() * 100.0))
}
