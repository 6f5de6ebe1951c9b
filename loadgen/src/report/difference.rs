//! The differences of figures, from the values of rounds or of files, and what conditions say about
//! them. `ab` and `compare` share this.

use std::fmt;

use hdrhistogram::Histogram;

use super::ending::Objectives;
use super::schema::{ConditionResult, FigureDifference};
use crate::stats::difference::{self, Difference, Estimate};
use crate::stats::fail_if::{Decision, FailIf, by_text, times_text};
use crate::stats::slo::Metric;

/// All metrics that are compared: the figures, and those of the conditions.
pub fn metrics(conditions: &[FailIf]) -> Vec<Metric> {
    let mut metrics = FIGURES.to_vec();
    for metric in conditions.iter().map(FailIf::metric) {
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
    }
    metrics
}

/// The answer in one line. `of`: the names of both.
pub fn short(of: &str, figures: &[FigureDifference]) -> String {
    let figure = |name: &str| figures.iter().find(|figure| figure.figure == name);
    let by = |name| figure(name).and_then(FigureDifference::by).map(|by| by_text(&by));
    let parts = ["p50", "p99"].into_iter().filter_map(|name| Some(format!("{name} {}", by(name)?)));
    let ratio = figure("p50").map(|figure| format!("p50 ratio {}", times_text(&figure.times())));
    format!("{of}: {}", parts.chain(ratio).collect::<Vec<_>>().join(", "))
}

/// The figures that are always compared.
pub const FIGURES: [Metric; 5] = [
    Metric::Percentile(50.0),
    Metric::Percentile(90.0),
    Metric::Percentile(99.0),
    Metric::Mean,
    Metric::Rate,
];

/// The values of several metrics, one of each for every round or file.
pub struct Values {
    all: Vec<(Metric, Vec<f64>)>,
}

impl Values {
    /// Without a value.
    pub fn new(metrics: &[Metric]) -> Values {
        Values { all: metrics.iter().map(|metric| (*metric, Vec::new())).collect() }
    }

    /// Adds a round or a file.
    ///
    /// # Panics
    /// The latency has no values.
    pub fn add(&mut self, latency: &Histogram<u64>, rate: f64) {
        for (metric, values) in &mut self.all {
            values.push(metric.measure(latency, Some(rate)).expect("it has values"));
        }
    }

    /// The metrics, in their order.
    pub fn metrics(&self) -> impl Iterator<Item = Metric> {
        self.all.iter().map(|(metric, _)| *metric)
    }

    fn of(&self, metric: Metric) -> &[f64] {
        let found = self.all.iter().find(|(one, _)| *one == metric);
        found.map_or(&[], |(_, values)| values)
    }

    /// How the other values of a metric differ from these, which were measured in the same rounds.
    pub fn paired_with(&self, other: &Values, metric: Metric) -> Option<Difference> {
        difference::of_pairs(self.of(metric), other.of(metric))
    }

    /// The same for values that are not paired.
    pub fn set_against(&self, other: &Values, metric: Metric) -> Option<Difference> {
        difference::of_sets(self.of(metric), other.of(metric))
    }
}

/// The difference of each metric of the values.
pub fn figures(
    first: &Values,
    second: &Values,
    difference: impl Fn(Metric) -> Option<Difference>,
) -> Vec<FigureDifference> {
    let figure = |metric: Metric| {
        let found = difference(metric)?;
        let median = |values: &Values| difference::median(values.of(metric));
        let nanos = |value: f64| Some(value.round() as i64).filter(|_| metric != Metric::Rate);
        Some(FigureDifference {
            figure: metric.to_string(),
            first: median(first)?,
            second: median(second)?,
            difference_ns: nanos(found.by.value),
            difference_low_ns: found.by.bounds.and_then(|(low, _)| nanos(low)),
            difference_high_ns: found.by.bounds.and_then(|(_, high)| nanos(high)),
            ratio: found.times.value,
            ratio_low: found.times.bounds.map(|(low, _)| low),
            ratio_high: found.times.bounds.map(|(_, high)| high),
        })
    };
    first.metrics().filter_map(figure).collect()
}

/// What the differences say about each condition. `name`: that of the target.
pub fn judge(
    conditions: &[FailIf],
    name: Option<&str>,
    difference: impl Fn(Metric) -> Option<Difference>,
) -> Vec<ConditionResult> {
    let result = |condition: &FailIf| {
        let found = difference(condition.metric());
        let decision = found.as_ref().map(|found| condition.decide(found));
        let decision = decision.unwrap_or(Decision::Undecided { more: None });
        ConditionResult {
            condition: condition.to_string(),
            name: name.map(str::to_string),
            exceeded: decision == Decision::Exceeded,
            undecided: matches!(decision, Decision::Undecided { .. }),
            more_needed: match decision {
                Decision::Undecided { more } => more,
                _ => None,
            },
            measured_text: found
                .map_or("nothing measured".into(), |found| condition.measured_text(&found)),
        }
    };
    conditions.iter().map(result).collect()
}

impl FigureDifference {
    /// The difference with its interval; `None` for a rate.
    pub fn by(&self) -> Option<Estimate> {
        let bounds = self.difference_low_ns.zip(self.difference_high_ns);
        let bounds = bounds.map(|(low, high)| (low as f64, high as f64));
        Some(Estimate { value: self.difference_ns? as f64, bounds })
    }

    /// The ratio with its interval.
    pub fn times(&self) -> Estimate {
        Estimate { value: self.ratio, bounds: self.ratio_low.zip(self.ratio_high) }
    }

    /// The difference and the ratio, and whether they show that there is one, in columns.
    pub fn line(&self) -> String {
        let by = self.by().map_or(String::new(), |by| by_text(&by));
        let times = times_text(&self.times());
        let word = match self.times() {
            Estimate { bounds: None, .. } => "too few for an interval",
            // Equal on both ends is a difference of nothing, which is certain.
            times if times.may_be(1.0) => "no difference shown",
            times if self.figure == "rate" && times.value > 1.0 => "higher",
            times if self.figure == "rate" && times.value < 1.0 => "lower",
            times if times.value > 1.0 => "slower",
            _ => "faster",
        };
        format!("{:<5} {by:<34} {times:<26} {word}", self.figure)
    }
}

impl fmt::Display for ConditionResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConditionResult { condition, measured_text, .. } = self;
        if let Some(name) = &self.name {
            write!(f, "{name}: ")?;
        }
        let what = if self.name.is_some() { "rounds" } else { "files of each" };
        match (self.exceeded, self.undecided, self.more_needed) {
            (true, ..) => write!(f, "{condition} exceeded ({measured_text})"),
            (_, false, _) => write!(f, "{condition} kept ({measured_text})"),
            (_, _, Some(more)) => write!(
                f,
                "{condition} not decided ({measured_text}); about {more} more {what} decide it if the \
                 difference is what it seems to be"
            ),
            (_, _, None) => write!(
                f,
                "{condition} not decided ({measured_text}); the difference seems to be the limit \
                 itself, which no number of {what} decides"
            ),
        }
    }
}

impl Objectives {
    /// The worst of the conditions of a comparison.
    pub fn of_conditions(conditions: &[ConditionResult]) -> Objectives {
        Objectives::of_all(conditions.iter().map(|condition| match condition {
            _ if condition.exceeded => Objectives::ConditionHolds,
            _ if condition.undecided => Objectives::ConditionUndecided,
            // Not `Met`: a late generator could have hidden the difference.
            _ => Objectives::NotGiven,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(figure: &str, by: Option<i64>, ratio: f64, spread: Option<f64>) -> FigureDifference {
        let bound = |nanos: i64| spread.map(|spread| nanos + (spread * 1e6) as i64);
        FigureDifference {
            figure: figure.into(),
            first: 1e6,
            second: 1e6 * ratio,
            difference_ns: by,
            difference_low_ns: by.and_then(|by| bound(by - 2_000)),
            difference_high_ns: by.and_then(bound),
            ratio,
            ratio_low: spread.map(|spread| ratio - spread),
            ratio_high: spread.map(|spread| ratio + spread),
        }
    }

    #[test]
    fn a_line_says_which_is_slower_or_higher_and_whether_that_is_shown() {
        let word = |name, ratio, spread| {
            let line = figure(name, None, ratio, spread).line();
            line.rsplit("  ").next().expect("a word").trim().to_string()
        };
        for (ratio, of_time, of_rate) in [(1.5, "slower", "higher"), (0.5, "faster", "lower")] {
            assert_eq!(word("p50", ratio, Some(0.1)), of_time);
            assert_eq!(word("rate", ratio, Some(0.1)), of_rate);
            for name in ["p50", "rate"] {
                assert_eq!(word(name, ratio, None), "too few for an interval");
                assert_eq!(word(name, ratio, Some(0.6)), "no difference shown");
            }
        }
        assert_eq!(word("rate", 1.0, Some(0.0)), "no difference shown");
    }

    #[test]
    fn the_short_answer_has_the_difference_at_p50_and_p99_and_the_ratio_of_p50() {
        let figures = [
            figure("p90", Some(90_000), 9.0, Some(0.1)),
            figure("p50", Some(50_000), 5.0, Some(0.1)),
            figure("p99", Some(99_000), 3.0, Some(0.1)),
            figure("rate", None, 7.0, Some(0.1)),
        ];
        let [p50, p99] = [1, 2].map(|nth: usize| by_text(&figures[nth].by().expect("a time")));
        let ratio = times_text(&figures[1].times());
        assert_eq!(
            short("B - A", &figures),
            format!("B - A: p50 {p50}, p99 {p99}, p50 ratio {ratio}")
        );
        assert!(
            p50.contains("50") && p99.contains("99") && ratio.contains('5'),
            "{p50} {p99} {ratio}"
        );
    }
}
