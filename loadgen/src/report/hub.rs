//! What the report says about a hub: deliveries in addition to messages.

use super::Report;
use crate::stats::records::Records;

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
        "{} deliveries dropped by the hub, {} missing without a report{remedy}",
        hub.dropped, hub.undelivered
    )
}

/// Lines of the text report.
pub fn lines(report: &Report) -> Vec<String> {
    let (Some(plan), Some(hub)) = (&report.plan.hub, &report.records.hub) else { return vec![] };
    let mut lines = vec![
        format!(
            "Hub: {} senders, {} clients that read, {} that never read",
            plan.senders,
            report.records.established - hub.never_read,
            hub.never_read
        ),
        format!(
            "Deliveries: {} in the period, {} after it, {} dropped, {} missing",
            hub.deliveries, hub.deliveries_late, hub.dropped, hub.undelivered
        ),
        format!("Deliveries/sec: {:.2}", report.per_second(hub.deliveries as f64)),
        format!("Notices: {} joined, {} left", hub.joined, hub.left),
    ];
    if hub.beyond_ring > 0 {
        lines.push(format!(
            "Latency of {} deliveries: a lower bound is recorded, because they were sent too long ago",
            hub.beyond_ring
        ));
    }
    lines
}
