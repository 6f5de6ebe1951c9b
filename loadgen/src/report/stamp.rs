//! What the report says about the replies of a STAMP reflector.

use echopool::builtin::url::ServiceOptions;
use hdrhistogram::Histogram;

use super::Report;
use super::line::Line;
use crate::stats::stamp::StampRecords;
use crate::units::time_us;

/// Whether losses are counted for each direction, as the target says.
pub fn is_stateful(report: &Report) -> bool {
    matches!(report.plan.service, ServiceOptions::Stamp(options) if options.stateful)
}

/// Lines of the text report.
pub fn lines(report: &Report) -> Vec<Line> {
    let Some(stamp) = &report.records.stamp else { return Vec::new() };
    let network = "without the time in the reflector";
    let mut lines = vec![
        Line::always(distribution("Round trip", network, &stamp.round_trip)),
        Line::detail(distribution("Reflector", "time in it", &stamp.residence)),
        Line::always(losses(report, stamp)),
    ];
    for (at, name) in ["there", "back"].into_iter().enumerate() {
        let jitter = [stamp.jitter(at), stamp.jitter_max[at]].map(text);
        let of = format!("jitter {} mean, {} at most (RFC 3550)", jitter[0], jitter[1]);
        let variation = distribution(&format!("Variation {name}"), &of, &stamp.variation[at]);
        lines.push(Line::detail(variation));
    }
    if let Some(why) = stamp.disagreement() {
        lines.push(Line::always(format!("One-way delays: unknown; {why}")));
        return lines;
    }
    for (at, name) in ["there", "back"].into_iter().enumerate() {
        let error = format!("the clocks may be {} apart", text(stamp.error_ns));
        let delay = distribution(&format!("Delay {name}"), &error, &stamp.delay[at]);
        lines.push(Line::always(delay));
    }
    lines
}

fn losses(report: &Report, stamp: &StampRecords) -> String {
    if !is_stateful(report) {
        let hint = if stamp.has_own_numbers { " (its numbers look like those of one)" } else { "" };
        return format!(
            "Directions of losses: unknown; if the reflector is stateful{hint}, say so in the target: \
             stateful=on"
        );
    }
    let directions = &stamp.directions;
    let [there, back] = directions.lost;
    let [doubled_there, doubled_back] = directions.doubled;
    let doubt = match !stamp.has_own_numbers && there == 0 && back > 0 {
        true => "; no number shows that the reflector is stateful",
        false => "",
    };
    format!(
        "Directions: lost {there} there, {back} back, {} at the end in either; doubled \
         {doubled_there} there, {doubled_back} back{doubt}",
        directions.lost_unknown
    )
}

fn text(nanos: u64) -> String {
    time_us(nanos as f64 / 1e3)
}

fn distribution(name: &str, what: &str, times: &Histogram<u64>) -> String {
    let at = |percentile| text(times.value_at_percentile(percentile));
    let (least, most) = (text(times.min()), text(times.max()));
    format!(
        "{name}: min {least}, p50 {}, p90 {}, p99 {}, max {most}; {what}",
        at(50.0),
        at(90.0),
        at(99.0)
    )
}
