//! What the report says about the replies of a STAMP reflector.

use echopool::builtin::url::ServiceOptions;
use hdrhistogram::Histogram;

use super::Report;
use super::line::Line;
use crate::stats::stamp::{Directions, StampRecords};
use crate::units::time_us;

/// Whether the reflector has numbers of its own, as the target says.
fn is_stateful(report: &Report) -> bool {
    matches!(report.plan.service, ServiceOptions::Stamp(options) if options.stateful)
}

/// Losses by direction. `None` if the reflector's numbers do not tell them.
pub fn directions<'a>(report: &Report, stamp: &'a StampRecords) -> Option<&'a Directions> {
    (is_stateful(report) && !stamp.numbers_began_anew).then_some(&stamp.directions)
}

/// Lines of the text report.
pub fn lines(report: &Report) -> Vec<Line> {
    let Some(stamp) = &report.records.stamp else { return Vec::new() };
    let network = "without the time in the reflector";
    let mut lines = Vec::new();
    lines.extend(distribution("Round trip", network, &stamp.round_trip).map(Line::always));
    lines.extend(distribution("Reflector", "time in it", &stamp.residence).map(Line::detail));
    lines.push(Line::always(losses(report, stamp)));
    for (at, name) in ["there", "back"].into_iter().enumerate() {
        let jitter = [stamp.jitter(at), stamp.jitter_max[at]].map(text);
        let of = format!("jitter {} mean, {} at most (RFC 3550)", jitter[0], jitter[1]);
        let variation = distribution(&format!("Variation {name}"), &of, &stamp.variation[at]);
        lines.extend(variation.map(Line::detail));
    }
    if let Some(why) = stamp.disagreement() {
        lines.push(Line::always(format!("One-way delays: unknown; {why}")));
        return lines;
    }
    for (at, name) in ["there", "back"].into_iter().enumerate() {
        let error = format!("the clocks may be {} apart", text(stamp.error_ns));
        let delay = distribution(&format!("Delay {name}"), &error, &stamp.delay[at]);
        lines.extend(delay.map(Line::always));
    }
    lines
}

fn losses(report: &Report, stamp: &StampRecords) -> String {
    if !is_stateful(report) {
        let hint = if stamp.has_own_numbers { " (its numbers look like those of one)" } else { "" };
        return format!(
            "Directions of losses: unknown; if the reflector is stateful{hint}, specify it in the \
             target: stateful=on"
        );
    }
    let Some(directions) = directions(report, stamp) else {
        return "Directions: unknown; the reflector restarted its numbers".into();
    };
    let [there, back] = directions.lost;
    let [doubled_there, doubled_back] = directions.doubled;
    let doubt = match !stamp.has_own_numbers && there == 0 && back > 0 {
        true => "; no number shows that the reflector is stateful",
        false => "",
    };
    format!(
        "Directions: lost {there} there, {back} back, {} at the end in either; duplicated \
         {doubled_there} there, {doubled_back} back{doubt}",
        directions.lost_unknown
    )
}

fn text(nanos: u64) -> String {
    time_us(nanos as f64 / 1e3)
}

/// `None` if there are no times.
fn distribution(name: &str, what: &str, times: &Histogram<u64>) -> Option<String> {
    if times.is_empty() {
        return None;
    }
    let at = |percentile| text(times.value_at_percentile(percentile));
    let (least, most) = (text(times.min()), text(times.max()));
    Some(format!(
        "{name}: min {least}, p50 {}, p90 {}, p99 {}, max {most}; {what}",
        at(50.0),
        at(90.0),
        at(99.0)
    ))
}

#[cfg(test)]
mod tests {
    use echopool::internals::ClockError;

    use super::*;
    use crate::report::tests::{plan, report};
    use crate::report::text::{TextOptions, render};

    /// The report of a run against a stateful reflector.
    fn shown(change: impl FnOnce(&mut StampRecords)) -> String {
        shown_of("stamp://127.0.0.1:7?stateful=on -c 2", change)
    }

    fn shown_of(flags: &str, change: impl FnOnce(&mut StampRecords)) -> String {
        let mut report = report();
        report.plan = std::sync::Arc::new(plan(flags));
        let mut stamp = StampRecords::new(ClockError { is_synchronized: true, error_ns: 0 });
        change(&mut stamp);
        report.records.stamp = Some(Box::new(stamp));
        render(&report, TextOptions { details: true, ..TextOptions::default() })
    }

    #[test]
    fn without_a_reply_there_are_no_times() {
        let text = shown(|_| ());
        for part in ["Round trip:", "Reflector:", "Variation", "Delay "] {
            assert!(!text.contains(part), "{part} in\n{text}");
        }
        assert!(text.contains("One-way delays: unknown; there was no reply"), "{text}");
        let text = shown(|stamp| stamp.round_trip.record(5_000).expect("in bounds"));
        assert!(text.contains("Round trip: min 5.00us"), "{text}");
        assert!(!text.contains("Variation"), "one reply does not vary:\n{text}");
    }

    #[test]
    fn numbers_that_began_anew_tell_no_direction() {
        assert!(shown(|_| ()).contains("Directions: lost 0 there"));
        let text = shown(|stamp| stamp.numbers_began_anew = true);
        assert!(
            text.contains("Directions: unknown; the reflector restarted its numbers"),
            "{text}"
        );
    }

    #[test]
    fn a_stateless_reflector_tells_no_direction_unless_its_numbers_differ() {
        let text = shown_of("stamp://127.0.0.1:7 -c 2", |_| ());
        let hint = "; if the reflector is stateful, specify it in the target: stateful=on";
        assert!(text.contains(&format!("Directions of losses: unknown{hint}")), "{text}");
        let text = shown_of("stamp://127.0.0.1:7 -c 2", |stamp| stamp.has_own_numbers = true);
        assert!(text.contains("(its numbers look like those of one)"), "{text}");
    }

    /// A stateless reflector repeats the sender's numbers: every loss would be one on the way back.
    #[test]
    fn losses_that_are_all_on_the_way_back_are_doubted_until_a_number_differs() {
        let is_doubted = |lost, has_own_numbers| {
            let text = shown(|stamp| {
                stamp.directions.lost = lost;
                stamp.has_own_numbers = has_own_numbers;
            });
            text.contains("; no number shows that the reflector is stateful")
        };
        assert!(is_doubted([0, 3], false));
        for (lost, has_own_numbers) in [([0, 3], true), ([0, 0], false), ([2, 3], false)] {
            assert!(!is_doubted(lost, has_own_numbers), "{lost:?} {has_own_numbers}");
        }
    }
}
