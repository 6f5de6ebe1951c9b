//! What the text report says about each target, if there are several.

use std::fmt;

use super::Report;
use super::line::Line;
use super::schema::{Distribution, TargetCounts};
use crate::units::{counted, time_us};

/// Lines of the text report, at most. Up to 1024 targets are possible.
pub const LINES_MAX: usize = 16;

impl TargetCounts {
    /// The counts of all targets, in the order in which connections went to them.
    pub fn all(report: &Report) -> Vec<TargetCounts> {
        let plan = &report.plan;
        let targets = plan.targets.len() as u64;
        let form = |(nth, target): (u64, String)| {
            // The numbers of its connections have this remainder.
            let up_to = |number: u64| (number + targets - 1 - nth) / targets;
            let first = plan.first_connection();
            let count = report.records.targets.get(nth as usize).copied().unwrap_or_default();
            TargetCounts {
                target,
                connections_asked: up_to(first + plan.connections_asked) - up_to(first),
                connections_established: count.established,
                connections_served: count.served,
                connections_lost: count.lost,
                mismatched_connections: count.mismatches,
                requests_completed: count.completed,
                latency: report.records.target_latencies.get(nth as usize).map(Distribution::new),
            }
        };
        (0..).zip(plan.target_addresses()).map(form).collect()
    }

    /// Whether nothing went wrong with it.
    fn is_well(&self) -> bool {
        self.connections_served == self.connections_asked
            && self.connections_lost + self.mismatched_connections == 0
    }

    /// Adds the same target of another run, or the counts of another target.
    ///
    /// # Errors
    /// A histogram is malformed.
    pub fn add(&mut self, other: &TargetCounts) -> Result<(), String> {
        self.connections_asked += other.connections_asked;
        self.connections_established += other.connections_established;
        self.connections_served += other.connections_served;
        self.connections_lost += other.connections_lost;
        self.mismatched_connections += other.mismatched_connections;
        self.requests_completed += other.requests_completed;
        self.latency = match (&self.latency, &other.latency) {
            (Some(own), Some(other)) => Some(own.plus(other)?),
            _ => None,
        };
        Ok(())
    }
}

impl fmt::Display for TargetCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} asked, {} established, {} served, {} lost, {} differed, \
             {} completed",
            self.target,
            self.connections_asked,
            self.connections_established,
            self.connections_served,
            self.connections_lost,
            self.mismatched_connections,
            counted(self.requests_completed, "request")
        )?;
        let values = self.latency.as_ref().map(|latency| &latency.percentiles);
        let Some((values, max)) = values.and_then(|values| Some((values, values.max_ns?))) else {
            return Ok(());
        };
        let [p50, p99] = [values.p50_ns, values.p99_ns].map(Option::unwrap_or_default);
        let [p50, p99, max] = [p50, p99, max].map(|nanos| time_us(nanos as f64 / 1e3));
        write!(f, ", latency p50 {p50}, p99 {p99}, max {max}")
    }
}

/// Lines of the text report. There are none for a single target, because the whole report is about
/// it. If there are too many targets, those with errors come first, and the last line is the sum of
/// the rest. The short form has those with errors.
pub fn lines(report: &Report) -> Vec<Line> {
    let mut forms = TargetCounts::all(report);
    if forms.len() < 2 {
        return Vec::new();
    }
    if forms.len() > LINES_MAX {
        forms.sort_by_key(TargetCounts::is_well);
        let rest = forms.split_off(LINES_MAX - 1);
        forms.extend(sum(&rest));
    }
    forms.iter().map(|form| Line::always_if(!form.is_well(), format!("  {form}"))).collect()
}

fn sum(forms: &[TargetCounts]) -> Option<TargetCounts> {
    let (first, others) = forms.split_first()?;
    let mut sum = first.clone();
    others.iter().for_each(|other| sum.add(other).expect("so many have no histograms"));
    sum.target = format!("{} more targets", forms.len());
    Some(sum)
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use super::super::line::Line;
    use super::super::tests::report;
    use super::*;

    fn lines(report: &Report) -> Vec<String> {
        super::lines(report).into_iter().map(|line| line.text).collect()
    }
    use crate::stats::counts::TargetCount;

    /// A run of ten connections and this many targets, all without errors and with the same number
    /// of requests per connection.
    pub fn report_of(count: u16) -> Report {
        let mut report = report();
        let plan = Arc::make_mut(&mut report.plan);
        let address = |nth| std::net::SocketAddr::from(([127, 0, 0, 1], 7000 + nth)).into();
        plan.targets = (0..count).map(address).collect();
        plan.connections_asked = 10;
        let well = |asked| TargetCount {
            established: asked,
            served: asked,
            completed: 100 * asked,
            ..TargetCount::default()
        };
        let asked = TargetCounts::all(&report).into_iter().map(|form| form.connections_asked);
        report.records.targets = asked.map(well).collect();
        report
    }

    #[test]
    fn each_target_is_asked_for_the_connections_that_go_to_it() {
        for count in [1, 2, 3, 7, 10, 11, 30] {
            let report = report_of(count);
            let forms = TargetCounts::all(&report);
            let mut expected = vec![0; usize::from(count)];
            (0..10).for_each(|number| expected[report.plan.target_index(number)] += 1);
            let asked: Vec<_> = forms.iter().map(|form| form.connections_asked).collect();
            assert_eq!(asked, expected, "{count} targets");
        }
    }

    #[test]
    fn a_shard_is_asked_for_its_own_connections() {
        for index in 0..3 {
            let mut report = report_of(4);
            let plan = Arc::make_mut(&mut report.plan);
            plan.shard = crate::plan::shard::Shard { index, count: 3 };
            plan.connections_all = 10;
            plan.connections_asked = plan.shard.part(10);
            let first = report.plan.first_connection();
            let mut expected = vec![0; 4];
            (first..first + report.plan.connections_asked)
                .for_each(|number| expected[report.plan.target_index(number)] += 1);
            let forms = TargetCounts::all(&report).into_iter();
            assert_eq!(forms.map(|form| form.connections_asked).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn one_target_has_no_line_and_each_of_several_has_one() {
        assert!(lines(&report_of(1)).is_empty());
        let mut report = report_of(3);
        report.records.targets[1] = TargetCount { established: 2, lost: 1, ..Default::default() };
        report.records.targets[2].mismatches = 4;
        assert_eq!(
            lines(&report),
            [
                "  tcp://127.0.0.1:7000: 4 asked, 4 established, 4 served, 0 lost, 0 differed, \
                 400 requests completed",
                "  tcp://127.0.0.1:7001: 3 asked, 2 established, 0 served, 1 lost, 0 differed, \
                 0 requests completed",
                "  tcp://127.0.0.1:7002: 3 asked, 3 established, 3 served, 0 lost, 4 differed, \
                 300 requests completed",
            ]
        );
    }

    #[test]
    fn the_short_form_has_those_with_errors() {
        let mut report = report_of(3);
        report.records.targets[1].lost = 1;
        let short = super::lines(&report).into_iter().map(|Line { always, .. }| always);
        assert_eq!(short.collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn as_many_targets_as_there_may_be_lines_have_one_each() {
        let last = |count| lines(&report_of(count)).pop().expect("a line");
        assert!(last(16).contains("tcp://127.0.0.1:7015: "));
        assert!(last(17).contains("2 more targets: "));
    }

    #[test]
    fn of_very_many_those_that_something_is_wrong_with_are_seen_and_the_rest_added_up() {
        let mut report = report_of(100);
        report.records.targets[3].lost = 1;
        report.records.targets[70].mismatches = 1;
        let lines = lines(&report);
        assert_eq!(lines.len(), LINES_MAX);
        assert!(lines[0].contains(":7003: ") && lines[1].contains(":7070: "), "{lines:#?}");
        assert!(lines[2].contains(":7000: ") && lines[3].contains(":7001: "), "{lines:#?}");
        // Ten targets had a connection, and nine of them have a line.
        let expected = "  85 more targets: 0 asked, 0 established, 0 served, 0 lost, 0 differed, \
                        0 requests completed";
        assert_eq!(lines[LINES_MAX - 1], expected);
    }
}
