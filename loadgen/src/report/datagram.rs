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
            "Socket errors: {}; a packet filter, or no server at the port",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;
    use crate::stats::datagram::DatagramRecords;

    fn of(records: DatagramRecords) -> Report {
        let mut report = report();
        report.records.datagrams = Some(records);
        report
    }

    #[test]
    fn jitter_and_errors_have_lines_where_there_are_any() {
        let sent = DatagramRecords { sent: 400, ..DatagramRecords::default() };
        assert_eq!(lines(&of(sent)).len(), 1);
        let one = DatagramRecords {
            jitter_sockets: 2,
            jitter_sum_ns: 8_000,
            jitter_max_ns: 5_000,
            ..sent
        };
        assert_eq!(
            lines(&of(one))[1..],
            [Line::detail("Jitter: 4.00us mean over the sockets, 5.00us at most (RFC 3550)")]
        );
        assert_eq!(
            lines(&of(DatagramRecords { errors: 3, ..sent }))[1..],
            [Line::always("Socket errors: 3; a packet filter, or no server at the port")]
        );
    }

    #[test]
    fn the_verdict_names_loss_only_where_there_was_some() {
        let sent = DatagramRecords { sent: 400, ..DatagramRecords::default() };
        assert_eq!(note(&of(sent).records), None);
        let lost = of(DatagramRecords { lost: 3, ..sent });
        assert_eq!(note(&lost.records).as_deref(), Some("0.750 % of the datagrams lost"));
        assert_eq!(note(&report().records), None);
    }
}
