//! A rate of requests, and its grammar: `10k`, `0.2`, `6/m`, `90/h`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A rate in thousandths of a request per hour: exact for decimal rates per second, per minute and
/// per hour.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Rate(u64);

impl Rate {
    /// Units of a rate of one request per second.
    pub const PER_SECOND: u64 = 3_600_000;
    /// Ten million requests per second. A schedule is computed faster than this, so counting the
    /// requests that were never sent takes less time than the run; and no machine sends as many.
    pub const MAX: Rate = Rate(10_000_000 * Rate::PER_SECOND);
    pub const ZERO: Rate = Rate(0);

    /// A whole number of requests per second, at most [`Rate::MAX`].
    pub const fn per_second(count: u64) -> Rate {
        match count <= Rate::MAX.0 / Rate::PER_SECOND {
            true => Rate(count * Rate::PER_SECOND),
            false => Rate::MAX,
        }
    }

    /// Of thousandths of a request per hour.
    pub fn of_units(units: u64) -> Rate {
        Rate(units)
    }

    /// In thousandths of a request per hour.
    pub const fn units(self) -> u64 {
        self.0
    }

    /// In requests per second.
    pub fn as_per_second(self) -> f64 {
        self.0 as f64 / Rate::PER_SECOND as f64
    }

    /// In requests per second, if that is a whole number.
    pub fn whole_per_second(self) -> Option<u64> {
        self.0.is_multiple_of(Rate::PER_SECOND).then_some(self.0 / Rate::PER_SECOND)
    }
}

/// In requests per second.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_per_second().fmt(f)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let help = || {
            format!(
                "'{text}' is not a rate: use requests per second, with k or m (10k, 0.2), or per \
                 minute or hour (6/m, 90/h)"
            )
        };
        let (count, per) = text.split_once('/').unwrap_or((text, "s"));
        let seconds = match per {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3_600,
            _ => return Err(help()),
        };
        let (number, factor) = match count.char_indices().last() {
            Some((at, 'k' | 'K')) => (&count[..at], 1_000),
            Some((at, 'm' | 'M')) => (&count[..at], 1_000_000),
            _ => (count, 1),
        };
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let is_number =
            |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty();
        // More digits are an error of a script. These cannot overflow.
        if !is_number(whole) || !is_number(decimals) || whole.len() + decimals.len() > 20 {
            return Err(help());
        }
        let digits: u128 = format!("{whole}{decimals}").parse().map_err(|_| help())?;
        let units = digits * factor * u128::from(Rate::PER_SECOND);
        let divisor = seconds * 10u128.pow(decimals.len() as u32);
        match (units + divisor / 2) / divisor {
            0 if digits > 0 => Err(format!("'{text}' is too low: a rate is at least 0.001/h")),
            units if units > u128::from(Rate::MAX.0) => {
                Err(format!("a rate is at most {} in a second", Rate::MAX))
            }
            units => Ok(Rate(units as u64)),
        }
    }
}

/// Parses a rate of at least something.
pub fn positive(text: &str) -> Result<Rate, String> {
    match text.parse()? {
        Rate::ZERO => Err("must be more than zero".into()),
        rate => Ok(rate),
    }
}

/// Whole numbers stay whole.
impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.whole_per_second() {
            Some(count) => serializer.serialize_u64(count),
            None => serializer.serialize_f64(self.as_per_second()),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        let units = (f64::deserialize(deserializer)? * Rate::PER_SECOND as f64).round();
        Ok(Rate(units as u64).min(Rate::MAX))
    }
}

impl JsonSchema for Rate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "rate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        f64::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_exact_in_each_unit_of_time() {
        for (text, thousandths_per_hour) in [
            ("0", 0),
            ("1", 3_600_000),
            ("0.2", 720_000),
            ("1.5k", 5_400_000_000),
            ("0.001m", 3_600_000_000),
            ("10m", 36_000_000_000_000),
            ("6/m", 360_000),
            ("6/min", 360_000),
            ("0.5k/m", 30_000_000),
            ("2/s", 7_200_000),
            ("1/h", 1_000),
            ("90/h", 90_000),
            ("0.001/h", 1),
            // Rounded half up.
            ("0.0005/h", 1),
            ("0.0014/h", 1),
            // As many digits as there may be, in both parts.
            ("0000000000000000001.5", 5_400_000),
            ("00001.00000", 3_600_000),
        ] {
            assert_eq!(text.parse(), Ok(Rate(thousandths_per_hour)), "{text}");
        }
        assert_eq!(Rate::per_second(7), "7".parse().unwrap());
        assert_eq!(Rate::per_second(u64::MAX), Rate::MAX);
    }

    #[test]
    fn what_is_no_rate_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "is not a rate"),
            ("k", "is not a rate"),
            ("-1", "is not a rate"),
            ("1.", "is not a rate"),
            (".5", "is not a rate"),
            ("1.2.3", "is not a rate"),
            ("1e3", "is not a rate"),
            ("5/", "is not a rate"),
            ("5/d", "is not a rate"),
            ("5ms", "is not a rate"),
            ("999999999999999999999", "is not a rate"),
            ("00000000000000000001.5", "is not a rate"),
            ("10000001", "at most 10000000 in a second"),
            ("20m", "at most"),
            ("0.0001/h", "too low"),
            ("0.00000001", "too low"),
        ] {
            let error = text.parse::<Rate>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(positive("0").expect_err("nothing").contains("more than zero"));
        assert!(positive("0.1").is_ok());
    }

    #[test]
    fn a_rate_is_shown_and_written_as_short_as_it_is() {
        for (text, shown) in [("2k", "2000"), ("0.2", "0.2"), ("6/m", "0.1"), ("0.25/s", "0.25")] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(
                (rate.to_string(), serde_json::to_string(&rate).unwrap()),
                (shown.into(), shown.into())
            );
            assert_eq!(serde_json::from_str::<Rate>(shown).unwrap(), rate);
        }
        let third: Rate = "20/m".parse().unwrap();
        let text = serde_json::to_string(&third).unwrap();
        assert_eq!(serde_json::from_str::<Rate>(&text).unwrap(), third);
    }
}
