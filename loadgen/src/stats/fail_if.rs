//! Conditions on a difference, such as `p99>+200us` and `p50>1.2x`: parsed from the command line,
//! and decided by the interval of the difference, never by its estimate alone.

use std::fmt;
use std::str::FromStr;

use echopool::units::parse_duration;

use super::difference::{Difference, Estimate};
use super::slo::Metric;

/// A condition with which a comparison fails.
#[derive(Clone, PartialEq, Debug)]
pub struct FailIf {
    /// As it was written, without spaces.
    text: String,
    metric: Metric,
    /// Whether it fails above the limit, or below it.
    above: bool,
    limit: Limit,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Limit {
    /// Nanoseconds that are added, or taken away if negative.
    By(f64),
    /// A ratio.
    Times(f64),
}

/// What an interval says about a condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The condition holds, so the comparison fails: the whole interval is beyond the limit.
    Exceeded,
    /// It does not: no part of the interval is beyond the limit.
    Kept,
    /// The limit is within the interval. `more`: how many more rounds or runs would decide it if the
    /// difference is what it seems to be. `None` if none can, because it seems to be the limit.
    Undecided { more: Option<u64> },
}

const GRAMMAR: &str = "write it like 'p99>+200us' (slower by more than that) or 'p50>1.2x' (more \
                       than 1.2 times as slow), or 'rate<0.9x'";

impl FromStr for FailIf {
    type Err = String;

    fn from_str(text: &str) -> Result<FailIf, String> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let at = text.find(['<', '>']).ok_or_else(|| format!("'{text}': {GRAMMAR}"))?;
        let (name, limit) = (&text[..at], &text[at + 1..]);
        let metric = Metric::parse(name)?;
        if metric == Metric::Errors {
            return Err("errors cannot be compared: any error makes the comparison invalid".into());
        }
        let by = |sign: f64, time: &str| match metric {
            Metric::Rate => Err(format!("'{text}': a rate is compared as a ratio, like rate<0.9x")),
            _ => Ok(Limit::By(sign * parse_duration(time)?.as_nanos() as f64)),
        };
        let limit = if let Some(time) = limit.strip_prefix('+') {
            by(1.0, time)?
        } else if let Some(time) = limit.strip_prefix('-') {
            by(-1.0, time)?
        } else {
            let ratio = limit.strip_suffix('x').and_then(|ratio| ratio.parse().ok());
            let ratio = ratio.filter(|ratio: &f64| ratio.is_finite() && *ratio > 0.0);
            Limit::Times(ratio.ok_or_else(|| format!("'{text}': {GRAMMAR}"))?)
        };
        let above = text.as_bytes()[at] == b'>';
        Ok(FailIf { text, metric, above, limit })
    }
}

impl fmt::Display for FailIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FailIf {
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Decides it for a difference of its metric.
    pub fn decide(&self, found: &Difference) -> Decision {
        let Difference { count, fewest, .. } = *found;
        let (estimate, limit) = match self.limit {
            Limit::By(nanos) => (found.by, nanos),
            Limit::Times(ratio) => (found.times, ratio),
        };
        let decision = estimate.bounds.and_then(|(low, high)| {
            let (beyond, within) = match self.above {
                true => (low > limit, high <= limit),
                false => (high < limit, low >= limit),
            };
            match (beyond, within) {
                (true, _) => Some(Decision::Exceeded),
                (_, true) => Some(Decision::Kept),
                _ => None,
            }
        });
        let needed = || estimate.values_needed(limit, count, fewest);
        let more = || needed().map(|needed| needed - count);
        decision.unwrap_or_else(|| Decision::Undecided { more: more() })
    }

    /// The value that it limits, with the interval.
    pub fn measured_text(&self, found: &Difference) -> String {
        match self.limit {
            Limit::By(_) => by_text(&found.by),
            Limit::Times(_) => times_text(&found.times),
        }
    }
}

/// A difference of nanoseconds, in the unit of the largest of its numbers:
/// `+72.10us (68.00 to 77.20)`.
pub fn by_text(estimate: &Estimate) -> String {
    let Estimate { value, bounds } = *estimate;
    let (low, high) = bounds.unwrap_or((value, value));
    let (unit, nanos) = match [value, low, high].map(f64::abs).into_iter().fold(0.0, f64::max) {
        largest if largest >= 1e9 => ("s", 1e9),
        largest if largest >= 1e6 => ("ms", 1e6),
        _ => ("us", 1e3),
    };
    let interval =
        bounds.map(|(low, high)| format!(" ({:.2} to {:.2})", low / nanos, high / nanos));
    format!("{:+.2}{unit}{}", value / nanos, interval.unwrap_or_default())
}

/// A ratio: `1.802 (1.750 to 1.861)`.
pub fn times_text(estimate: &Estimate) -> String {
    let interval = estimate.bounds.map(|(low, high)| format!(" ({low:.3} to {high:.3})"));
    format!("{:.3}{}", estimate.value, interval.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(value: f64, low: f64, high: f64) -> Difference {
        let by = Estimate { value, bounds: Some((low, high)) };
        let times = |nanos: f64| 1.0 + nanos / 1e6;
        let times = Estimate { value: times(value), bounds: Some((times(low), times(high))) };
        Difference { by, times, count: 30, fewest: 8 }
    }

    #[test]
    fn what_is_no_condition_is_refused_with_the_reason() {
        let reasons = [
            ("p99", "write it like"),
            ("p99>200us", "write it like"),
            ("p99>=+200us", "write it like"),
            ("p99>+200", "unit"),
            ("p50>0x", "write it like"),
            ("p50>-1x", "unit"),
            ("p50>infx", "write it like"),
            ("p101>1x", "not between"),
            ("fast>1x", "not known"),
            ("rate<-1ms", "as a ratio"),
            ("errors>1x", "cannot be compared"),
        ];
        for (text, reason) in reasons {
            let error = text.parse::<FailIf>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
        let condition: FailIf = "p99 > +200us".parse().expect("one");
        assert_eq!(
            (condition.to_string().as_str(), condition.metric()),
            ("p99>+200us", Metric::Percentile(99.0))
        );
    }

    #[test]
    fn the_interval_decides() {
        use Decision::{Exceeded, Kept, Undecided};
        // 72 us (68 to 77), which is 1.072 (1.068 to 1.077) times.
        let measured = found(72e3, 68e3, 77e3);
        for (text, expected) in [
            ("p50>+67.9us", Exceeded),
            ("p50>+68us", Undecided { more: Some(1) }),
            ("p50>+76us", Undecided { more: Some(17) }),
            ("p50>+77us", Kept),
            ("p50<+77us", Undecided { more: Some(1) }),
            ("p50<+78us", Exceeded),
            ("p50<+68us", Kept),
            ("p50>-10us", Exceeded),
            ("mean>1.06x", Exceeded),
            ("max>1.08x", Kept),
            ("p50>+72us", Undecided { more: None }),
            ("p50<0.9x", Kept),
        ] {
            let condition: FailIf = text.parse().expect(text);
            assert_eq!(condition.decide(&measured), expected, "{text}");
        }
        let none = found(0.0, -5e3, 5e3);
        for (text, expected) in [("p50>-10us", Exceeded), ("p50>+10us", Kept)] {
            assert_eq!(text.parse::<FailIf>().expect(text).decide(&none), expected, "{text}");
        }
        let mut few = measured;
        (few.by.bounds, few.count) = (None, 3);
        let condition: FailIf = "p50>+10us".parse().expect("one");
        assert_eq!(condition.decide(&few), Undecided { more: Some(5) });
    }

    #[test]
    fn differences_are_written_with_their_sign_and_interval() {
        let shown = by_text(&Estimate { value: 72_100.0, bounds: Some((-68.0, 77_200.0)) });
        assert_eq!(shown, "+72.10us (-0.07 to 77.20)");
        let shown = by_text(&Estimate { value: 400e3, bounds: Some((100e3, 1.2e6)) });
        assert_eq!(shown, "+0.40ms (0.10 to 1.20)");
        assert_eq!(by_text(&Estimate { value: -1e9, bounds: None }), "-1.00s");
        let shown = times_text(&Estimate { value: 1.8019, bounds: Some((1.75, 1.861)) });
        assert_eq!(shown, "1.802 (1.750 to 1.861)");
    }
}
