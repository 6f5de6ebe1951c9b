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
    /// The values of `latency` that are only lower bounds, because their requests had no reply.
    pub unfinished: &'a Histogram<u64>,
    /// Whether the generator was late on its own account. Its lag is part of each latency.
    pub generator_late: bool,
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
    pub decision: Decision,
}

/// Whether an objective is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It is, whatever is not known.
    Met,
    /// It is not known: requests without a reply would decide it, and of these only lower bounds
    /// are known.
    Unfinished,
    /// It is not known: it was missed, but the generator was late.
    GeneratorLate,
    /// It is not.
    Missed,
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

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::Percentile(at) => write!(f, "p{at}"),
            Metric::Max => f.write_str("max"),
            Metric::Mean => f.write_str("mean"),
            Metric::Rate => f.write_str("rate"),
            Metric::Errors => f.write_str("errors"),
        }
    }
}

impl Metric {
    /// Parses its name.
    ///
    /// # Errors
    /// It is not known.
    pub fn parse(text: &str) -> Result<Metric, String> {
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

    /// Its value: nanoseconds for a latency, `rate` for a rate. `None` if there is none, and for
    /// errors, which are counted elsewhere.
    pub fn measure(self, latency: &Histogram<u64>, rate: Option<f64>) -> Option<f64> {
        let latencies = Some(latency).filter(|latency| !latency.is_empty());
        match self {
            Metric::Percentile(at) => latencies.map(|all| records::percentile(all, at) as f64),
            Metric::Max => latencies.map(|all| all.max() as f64),
            Metric::Mean => latencies.map(Histogram::mean),
            Metric::Rate => rate,
            Metric::Errors => None,
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
        let decision = match measured {
            Some(value) if !self.holds(value) => match self.metric {
                Metric::Errors => Decision::Missed,
                _ if observed.generator_late => Decision::GeneratorLate,
                _ => Decision::Missed,
            },
            Some(_) if self.holds(self.upper_bound(observed)) => Decision::Met,
            Some(_) => Decision::Unfinished,
            None => Decision::Missed,
        };
        Outcome { slo: self.clone(), measured, decision }
    }

    /// Evaluates it for one second: `Some` if the second misses it. A second without a reply is no
    /// evidence about latency, and an incomplete second none about the rate.
    pub fn missed_by(&self, second: &Observed<'_>) -> Option<Outcome> {
        let outcome = self.judge(second);
        (outcome.measured.is_some() && outcome.decision == Decision::Missed).then_some(outcome)
    }

    /// The value that it would have if no request without a reply ever had one. A lower limit is
    /// about what was finished.
    fn upper_bound(&self, observed: &Observed<'_>) -> f64 {
        let (all, unfinished) = (observed.latency.len(), observed.unfinished.len());
        let measured = self.measure(observed).unwrap_or(f64::INFINITY);
        match self.metric {
            Metric::Rate | Metric::Errors => measured,
            _ if unfinished == 0 => measured,
            Metric::Max | Metric::Mean => f64::INFINITY,
            Metric::Percentile(at) => {
                let finished = all - unfinished;
                // As many values are at or below the percentile.
                let below = ((at / 100.0).next_down() * all as f64).ceil().max(1.0) as u64;
                if below > finished {
                    return f64::INFINITY;
                }
                let mut values = observed.latency.clone();
                values.subtract(observed.unfinished).expect("they are among the latencies");
                let quantile = (below as f64 / finished as f64).next_down();
                values.value_at_quantile(quantile) as f64
            }
        }
    }

    fn measure(&self, observed: &Observed<'_>) -> Option<f64> {
        match self.metric {
            Metric::Errors => Some(observed.errors as f64),
            metric => metric.measure(observed.latency, observed.rate),
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
    pub fn is_met(&self) -> bool {
        self.decision == Decision::Met
    }

    pub fn is_undecided(&self) -> bool {
        matches!(self.decision, Decision::Unfinished | Decision::GeneratorLate)
    }

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
        let (slo, measured) = (&self.slo, self.measured_text());
        match self.decision {
            Decision::Met => write!(f, "{slo} met ({measured})"),
            Decision::Missed => write!(f, "{slo} missed ({measured})"),
            Decision::Unfinished => write!(
                f,
                "{slo} undecided (at least {measured}; it depends on requests without a reply)"
            ),
            Decision::GeneratorLate => {
                write!(f, "{slo} undecided ({measured}; loadgen itself was late)")
            }
        }
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

    fn observed<'a>(latency: &'a Histogram<u64>, unfinished: &'a Histogram<u64>) -> Observed<'a> {
        Observed { latency, unfinished, generator_late: false, rate: Some(1000.0), errors: 2 }
    }

    fn outcome(text: &str) -> Outcome {
        let latency = values();
        parse(text).expect(text).judge(&observed(&latency, &latency_histogram()))
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
            assert_eq!(outcome.is_met(), met, "{outcome}");
        }
        assert_eq!(outcome("p50<500us").to_string(), "p50<500us missed (500.22us)");
        assert_eq!(outcome("rate > 1k").to_string(), "rate>1k missed (1000/s)");
        assert_eq!(outcome("errors<3").to_string(), "errors<3 met (2)");
    }

    /// Of the thousand, those of 101 to 200 us had no reply: at 90 % and below the others decide.
    #[test]
    fn what_has_no_reply_is_as_late_as_it_is_old_at_least() {
        let (latency, mut unfinished) = (values(), latency_histogram());
        (101..=200).for_each(|micros| unfinished.record(micros * 1000).expect("in bounds"));
        let decisions = [
            // At least 500 us, and at most 600: the values above it are 100 fewer.
            ("p50<600us", Decision::Unfinished),
            ("p50<600.2us", Decision::Met),
            ("p50<500us", Decision::Missed),
            ("p90<1001us", Decision::Met),
            ("p90<1000us", Decision::Unfinished),
            ("p90<900us", Decision::Missed),
            ("p90.1<1h", Decision::Unfinished),
            ("p90.1<901us", Decision::Missed),
            ("p5<51us", Decision::Met),
            ("p10<101us", Decision::Met),
            ("p10.1<102us", Decision::Unfinished),
            ("max<1h", Decision::Unfinished),
            ("max<1ms", Decision::Missed),
            ("mean<1h", Decision::Unfinished),
            ("mean<500us", Decision::Missed),
            ("rate>=1k", Decision::Met),
            ("errors<3", Decision::Met),
        ];
        for (text, decision) in decisions {
            let outcome = parse(text).expect(text).judge(&observed(&latency, &unfinished));
            assert_eq!(outcome.decision, decision, "{outcome}");
        }
        let outcome = parse("p50<600us").expect("an objective");
        let text = outcome.judge(&observed(&latency, &unfinished)).to_string();
        assert!(
            text.starts_with("p50<600us undecided (at least 500.22us; it depends on"),
            "{text}"
        );
    }

    #[test]
    fn a_late_generator_leaves_only_what_is_missed_undecided() {
        let (latency, none) = (values(), latency_histogram());
        let late = Observed { generator_late: true, ..observed(&latency, &none) };
        let decisions = [
            ("p50<501us", Decision::Met),
            ("p50<500us", Decision::GeneratorLate),
            ("max<1ms", Decision::GeneratorLate),
            ("rate>=1k", Decision::Met),
            ("rate>1k", Decision::GeneratorLate),
            ("errors<3", Decision::Met),
            ("errors<2", Decision::Missed),
        ];
        for (text, decision) in decisions {
            let outcome = parse(text).expect(text).judge(&late);
            assert_eq!(outcome.decision, decision, "{outcome}");
        }
    }

    #[test]
    fn what_was_not_observed_misses_for_a_run_and_says_nothing_for_a_second() {
        let latency = latency_histogram();
        let observed = Observed { rate: None, errors: 0, ..observed(&latency, &latency) };
        for text in ["p50<1s", "max<1s", "mean<1s", "rate>1"] {
            let slo = parse(text).expect(text);
            assert!(!slo.judge(&observed).is_met(), "{text}");
            assert_eq!(slo.missed_by(&observed), None, "{text}");
        }
        assert!(parse("errors<1").expect("an objective").judge(&observed).is_met());
    }

    #[test]
    fn a_second_that_misses_an_objective_is_told() {
        let (latency, none) = (values(), latency_histogram());
        let observed = observed(&latency, &none);
        for (text, misses) in [("p50<501us", false), ("p50<500us", true), ("rate>999", false)] {
            let slo = parse(text).expect(text);
            assert_eq!(slo.missed_by(&observed), misses.then(|| slo.judge(&observed)), "{text}");
        }
    }

    #[test]
    fn an_objective_has_the_words_and_the_limit_that_it_was_written_with() {
        for (text, metric, limit) in [
            ("p99.9 <= 2ms", "p99.9", 2_000_000),
            ("rate>10k", "rate", 10_000),
            ("errors<3", "errors", 3),
        ] {
            let slo = parse(text).expect(text);
            assert_eq!((slo.metric_text(), slo.limit()), (metric, limit), "{text}");
        }
        let of = |decision| {
            let slo = parse("max<1s").expect("an objective");
            Outcome { slo, measured: None, decision }.is_undecided()
        };
        let all = [Decision::Met, Decision::Unfinished, Decision::GeneratorLate, Decision::Missed];
        assert_eq!(all.map(of), [false, true, true, false]);
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
