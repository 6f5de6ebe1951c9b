//! What the report says about a hub: deliveries in addition to messages.

use super::Report;
use super::line::Line;
use crate::stats::records::Records;
use crate::units::counted;

/// Whether clients did not receive everything that was sent. A hub may drop messages if it reports
/// them and the run allows it. An interrupted run does not wait for the rest.
pub fn not_delivered(report: &Report) -> bool {
    let (Some(plan), Some(hub)) = (&report.plan.hub, &report.records.hub) else { return false };
    let dropped = hub.dropped > 0 && !plan.allow_drops;
    let undelivered = hub.undelivered > 0 && !report.interrupted;
    dropped || undelivered
}

/// What is missing, for the text of the verdict.
pub fn losses(records: &Records) -> String {
    let hub = records.hub.unwrap_or_default();
    let remedy = match hub.dropped {
        0 => "",
        _ => {
            "; a hub drops what its clients read too slowly: send less (-R), give the hub more \
             (--queue, --buffers), or accept it (--allow-drops)"
        }
    };
    format!(
        "{} dropped by the hub, {} missing without a report{remedy}",
        counted(hub.dropped, "delivery"),
        hub.undelivered
    )
}

/// Lines of the text report.
pub fn lines(report: &Report) -> Vec<Line> {
    let (Some(plan), Some(hub)) = (&report.plan.hub, &report.records.hub) else { return vec![] };
    let mut lines = vec![
        Line::detail(format!(
            "Hub: {}, {} that read, {} that never read",
            counted(plan.senders, "sender"),
            counted(report.records.established - hub.never_read, "client"),
            hub.never_read
        )),
        Line::always(format!(
            "Deliveries: {} in the period, {} after it, {} dropped, {} missing",
            hub.deliveries, hub.deliveries_late, hub.dropped, hub.undelivered
        )),
        Line::always(format!("Deliveries/sec: {:.2}", report.per_second(hub.deliveries as f64))),
        Line::detail(format!("Notices: {} joined, {} left", hub.joined, hub.left)),
    ];
    if hub.beyond_ring > 0 {
        lines.push(Line::always(format!(
            "Latency of {}: a lower bound is recorded, because they were sent too long ago",
            counted(hub.beyond_ring, "delivery")
        )));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::report::tests::{plan, report};
    use crate::stats::hub::HubRecords;

    fn of(flags: &str, hub: HubRecords) -> Report {
        let mut report = report();
        report.plan = Arc::new(plan(&format!("hub://127.0.0.1:7 -c 2 -d 1s {flags}")));
        report.records.hub = Some(hub);
        report
    }

    #[test]
    fn all_is_delivered_unless_something_was_dropped_or_is_missing() {
        let dropped = HubRecords { dropped: 1, ..HubRecords::default() };
        let undelivered = HubRecords { undelivered: 1, ..HubRecords::default() };
        for (flags, hub, interrupted, expected) in [
            ("", HubRecords::default(), false, false),
            ("--allow-drops", HubRecords::default(), true, false),
            ("", dropped, false, true),
            ("", dropped, true, true),
            ("--allow-drops", dropped, false, false),
            ("", undelivered, false, true),
            ("--allow-drops", undelivered, false, true),
            ("", undelivered, true, false),
        ] {
            let report = Report { interrupted, ..of(flags, hub) };
            let case = format!("'{flags}' {hub:?} interrupted {interrupted}");
            assert_eq!(not_delivered(&report), expected, "{case}");
        }
        assert!(!not_delivered(&report()), "an echo delivers nothing");
    }

    #[test]
    fn what_may_be_done_is_said_if_the_hub_dropped_something() {
        let text = |dropped| {
            let hub = Some(HubRecords { dropped, undelivered: 5, ..HubRecords::default() });
            losses(&Records { hub, ..Records::default() })
        };
        assert_eq!(text(0), "0 deliveries dropped by the hub, 5 missing without a report");
        let dropped = text(3);
        assert!(dropped.starts_with("3 deliveries dropped by the hub, 5 missing"), "{dropped}");
        assert!(dropped.ends_with("or accept it (--allow-drops)"), "{dropped}");
    }

    #[test]
    fn lower_bounds_of_latencies_have_a_line_if_there_are_any() {
        let lines = |beyond_ring| lines(&of("", HubRecords { beyond_ring, ..Default::default() }));
        assert_eq!(lines(0).len(), 4);
        assert!(lines(7)[4].text.starts_with("Latency of 7 deliveries: a lower bound"));
    }
}
