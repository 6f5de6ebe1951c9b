//! Service level objectives such as `p99<2ms`, `rate>=10k` and `errors<1`: parsed from the command
//! line, and evaluated for a whole run or for one second.

use std::fmt;
use std::time::Duration;

use echopool::units::{parse_count, parse_duration};
use hdrhistogram::Histogram;

use crate::stats::records;

/// An objective.
#[derive(Clone, PartialEq, Debug)]
pub struct Slo {
    /// As it was written, without spaces.
    text: String,
    metric: Metric,
    comparison: Comparison,
    /// Nanoseconds for a latency, replies per second for a rate, a count for errors.
    limit: u64,
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Metric {
    /// A percentile of the latency, above 0 and below 100.
    Percentile(f64),
    Max,
    Mean,
    /// Replies per second, all threads together.
    Rate,
    /// Connections that were not established, were lost, or had a byte that differed.
    Errors,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// The values that an objective is evaluated with.
pub struct Observed<'a> {
    /// In nanoseconds.
    pub latency: &'a Histogram<u64>,
    /// Replies per second; `None` if the time was too short.
    pub rate: Option<f64>,
    pub errors: u64,
}

/// The result of an objective.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub slo: Slo,
    /// In the unit of the limit; `None` if nothing was observed, in which case the objective is
    /// missed.
    pub measured: Option<f64>,
    pub met: bool,
}

/// In the order in which they are tried: longer ones first.
const COMPARISONS: [(&str, Comparison); 4] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

/// Parses an objective.
pub fn parse(text: &str) -> Result<Slo, String> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let found = COMPARISONS.iter().find_map(|(sign, comparison)| {
        text.split_once(sign).map(|(metric, limit)| (metric, *comparison, limit))
    });
    let (metric, comparison, limit) =
        found.ok_or_else(|| format!("'{text}' has no comparison: write it like p99<2ms"))?;
    let metric = Metric::parse(metric)?;
    let limit = match metric {
        Metric::Rate | Metric::Errors => parse_count(limit)?,
        _ => parse_duration(limit)?.as_nanos() as u64,
    };
    let upper = matches!(comparison, Comparison::Less | Comparison::AtMost);
    match metric {
        Metric::Rate if upper => Err("a rate has a lower limit: write it like rate>10k".into()),
        Metric::Rate => Ok(Slo { text, metric, comparison, limit }),
        _ if !upper => Err(format!("'{text}' needs an upper limit: use < or <=")),
        _ if comparison == Comparison::Less && limit == 0 => {
            Err(format!("'{text}' cannot be met: nothing is below zero"))
        }
        _ => Ok(Slo { text, metric, comparison, limit }),
    }
}

impl Metric {
    fn parse(text: &str) -> Result<Metric, String> {
        let unknown = || {
            format!(
                "'{text}' is not known: use p50, p99, p99.9 and the like, max, mean, rate or errors"
            )
        };
        match text {
            "max" => Ok(Metric::Max),
            "mean" => Ok(Metric::Mean),
            "rate" => Ok(Metric::Rate),
            "errors" => Ok(Metric::Errors),
            _ => {
                let number = text.strip_prefix('p').ok_or_else(unknown)?;
                let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
                match number.parse() {
                    Ok(number) if plain && number > 0.0 && number < 100.0 => {
                        Ok(Metric::Percentile(number))
                    }
                    Ok(_) if plain => Err(format!("'{text}' is not between p0 and p100")),
                    _ => Err(unknown()),
                }
            }
        }
    }
}

impl Slo {
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// What is compared, as it was written.
    pub fn metric_text(&self) -> &str {
        self.text.split(['<', '>']).next().unwrap_or_default()
    }

    /// Nanoseconds for a latency, replies per second for a rate, a count for errors.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Evaluates it for a whole run.
    pub fn judge(&self, observed: &Observed<'_>) -> Outcome {
        let measured = self.measure(observed);
        Outcome {
            slo: self.clone(),
            measured,
            met: measured.is_some_and(|value| self.holds(value)),
        }
    }

    /// Evaluates it for one second: `Some` if the second misses it. A second without a reply is no
    /// evidence about latency, and an incomplete second none about the rate.
    pub fn missed_by(&self, second: &Observed<'_>) -> Option<Outcome> {
        let measured = self.measure(second);
        let missed = measured.is_some_and(|value| !self.holds(value));
        missed.then(|| Outcome { slo: self.clone(), measured, met: false })
    }

    fn measure(&self, observed: &Observed<'_>) -> Option<f64> {
        let latency = |value: fn(&Histogram<u64>, f64) -> f64, at| {
            (!observed.latency.is_empty()).then(|| value(observed.latency, at))
        };
        match self.metric {
            Metric::Percentile(at) => {
                latency(|values, at| records::percentile(values, at) as f64, at)
            }
            Metric::Max => latency(|values, _| values.max() as f64, 0.0),
            Metric::Mean => latency(|values, _| values.mean(), 0.0),
            Metric::Rate => observed.rate,
            Metric::Errors => Some(observed.errors as f64),
        }
    }

    fn holds(&self, value: f64) -> bool {
        let limit = self.limit as f64;
        match self.comparison {
            Comparison::Less => value < limit,
            Comparison::AtMost => value <= limit,
            Comparison::Greater => value > limit,
            Comparison::AtLeast => value >= limit,
        }
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Outcome {
    /// What was measured, with its unit.
    pub fn measured_text(&self) -> String {
        match (self.measured, self.slo.metric) {
            (None, _) => "nothing measured".into(),
            (Some(value), Metric::Rate) => format!("{value:.0}/s"),
            (Some(value), Metric::Errors) => format!("{value:.0}"),
            (Some(nanos), _) => crate::units::time_text(Duration::from_nanos(nanos as u64)),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.met { "met" } else { "missed" };
        write!(f, "{} {word} ({})", self.slo, self.measured_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::records::latency_histogram;

    /// 1 to 1000 us.
    fn values() -> Histogram<u64> {
        let mut values = latency_histogram();
        (1..=1000).for_each(|micros| values.record(micros * 1000).expect("in bounds"));
        values
    }

    fn outcome(text: &str) -> Outcome {
        let latency = values();
        let observed = Observed { latency: &latency, rate: Some(1000.0), errors: 2 };
        parse(text).expect(text).judge(&observed)
    }

    #[test]
    fn objectives_are_held_against_what_was_observed() {
        let cases = [
            ("p50<1ms", true),
            ("p50<500us", false),
            ("p99 < 2ms", true),
            ("p99<900us", false),
            ("p99.9<=1.1ms", true),
            ("p99.99<999us", false),
            ("p95<960us", true),
            ("max<1.1ms", true),
            ("max<1ms", false),
            ("mean<501us", true),
            ("mean<500us", false),
            ("rate>=1k", true),
            ("rate>1k", false),
            ("errors<3", true),
            ("errors<2", false),
            ("errors<=2", true),
            ("errors<1", false),
            ("errors<=0", false),
        ];
        for (text, met) in cases {
            let outcome = outcome(text);
            assert_eq!(outcome.met, met, "{outcome}");
        }
        assert_eq!(outcome("p50<500us").to_string(), "p50<500us missed (500.22us)");
        assert_eq!(outcome("rate > 1k").to_string(), "rate>1k missed (1000/s)");
        assert_eq!(outcome("errors<3").to_string(), "errors<3 met (2)");
    }

    #[test]
    fn what_was_not_observed_misses_for_a_run_and_says_nothing_for_a_second() {
        let latency = latency_histogram();
        let observed = Observed { latency: &latency, rate: None, errors: 0 };
        for text in ["p50<1s", "max<1s", "mean<1s", "rate>1"] {
            let slo = parse(text).expect(text);
            assert!(!slo.judge(&observed).met, "{text}");
            assert_eq!(slo.missed_by(&observed), None, "{text}");
        }
        assert!(parse("errors<1").expect("an objective").judge(&observed).met);
    }

    #[test]
    fn what_is_no_objective_is_refused_with_the_reason() {
        let reasons = [
            ("p99", "has no comparison"),
            ("", "has no comparison"),
            ("p99=2ms", "has no comparison"),
            ("latency<2ms", "not known"),
            ("pmax<2ms", "not known"),
            ("p1e1<2ms", "not known"),
            ("p-1<2ms", "not known"),
            ("p100<2ms", "not between"),
            ("p0<2ms", "not between"),
            ("p99<2", "unit"),
            ("p99<0ms", "cannot be met"),
            ("p99>2ms", "use < or <="),
            ("errors>2", "use < or <="),
            ("errors<0", "cannot be met"),
            ("rate<10k", "lower limit"),
            ("rate>10ms", "not a unit"),
        ];
        for (text, reason) in reasons {
            let error = parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
