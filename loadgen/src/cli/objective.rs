//! The grammar of `--search`.

use std::str::FromStr;

use crate::stats::slo::{self, Slo};

/// What the rate must meet: a latency below a limit, written `p99:1ms`.
#[derive(Clone, PartialEq, Debug)]
pub struct Objective(pub Slo);

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Objective, String> {
        let help = || format!("'{text}': write it like p99:1ms");
        let (metric, limit) = text.split_once(':').ok_or_else(help)?;
        match metric.trim() {
            "rate" | "errors" => {
                Err(format!("{}: the search varies the rate, so use a latency", help()))
            }
            metric => slo::parse(&format!("{metric}<{limit}")).map(Objective),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_is_a_latency_and_its_limit() {
        let objective: Objective = "p99.9:250us".parse().expect("one");
        assert_eq!(objective.0.to_string(), "p99.9<250us");
        assert!("max:1ms".parse::<Objective>().is_ok());
        let reasons = [
            ("p99", "write it like p99:1ms"),
            ("p99<1ms", "write it like p99:1ms"),
            ("rate:10k", "the search varies the rate"),
            ("p99:1", "unit"),
            ("p101:1ms", "not between"),
            ("p99:0ms", "cannot be met"),
        ];
        for (text, reason) in reasons {
            let error = text.parse::<Objective>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
