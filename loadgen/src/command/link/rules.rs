//! What one direction of the link does with its packets, and the grammar of the flags about it.

use std::str::FromStr;
use std::time::Duration;

use echopool::units::parse_duration;

/// What one direction of the link does with its packets.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rules {
    pub delay: Duration,
    /// Each packet's delay is evenly distributed from `delay - jitter` to `delay + jitter`.
    pub jitter: Duration,
    /// Probabilities for each packet.
    pub loss: f64,
    pub duplicate: f64,
    pub reorder: f64,
    /// Bits per second; `None`: a packet takes no time on the line.
    pub rate: Option<u64>,
    /// Packets that wait for the line, at most.
    pub limit: usize,
    /// No packet overtakes another because of the jitter.
    pub in_order: bool,
}

/// A value for each direction: `A`, or `THERE/BACK`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct EachWay<T> {
    pub there: T,
    pub back: T,
}

impl<T: Copy> EachWay<T> {
    fn parse(text: &str, one: fn(&str) -> Result<T, String>) -> Result<EachWay<T>, String> {
        let (there, back) = text.split_once('/').unwrap_or((text, text));
        Ok(EachWay { there: one(there)?, back: one(back)? })
    }
}

/// A probability, as in `0.1%`.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Percent, String> {
        let number = text.strip_suffix('%').ok_or("needs a percent sign, as in 0.1%")?;
        match number.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Percent(percent / 100.0)),
            _ => Err("must be from 0% to 100%".into()),
        }
    }
}

/// Times: `10ms`, `10ms/30ms`.
pub fn times(text: &str) -> Result<EachWay<Duration>, String> {
    EachWay::parse(text, parse_duration)
}

/// Probabilities: `0.1%`, `0.1%/0%`.
pub fn percents(text: &str) -> Result<EachWay<Percent>, String> {
    EachWay::parse(text, str::parse)
}

/// Numbers of packets, at least 1: `1000`, `1k/50`.
pub fn packets(text: &str) -> Result<EachWay<u64>, String> {
    EachWay::parse(text, crate::units::positive)
}

/// Bits per second, in the units of `tc`: `100mbit`, `20mbit/1mbit`.
pub fn rates(text: &str) -> Result<EachWay<u64>, String> {
    EachWay::parse(text, rate)
}

fn rate(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 4] = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];
    let lower = text.to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|(unit, bits)| Some((lower.strip_suffix(unit)?, bits)));
    let (number, bits) = unit.ok_or("needs a unit: bit, kbit, mbit or gbit (per second)")?;
    match number.parse::<f64>().map(|number| (number * bits).round()) {
        Ok(rate) if (1e3..=1e12).contains(&rate) => Ok(rate as u64),
        _ => Err("must be a rate from 1kbit to 1000gbit".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_for_both_ways_or_for_each() {
        let ms = Duration::from_millis;
        assert_eq!(times("10ms"), Ok(EachWay { there: ms(10), back: ms(10) }));
        assert_eq!(times("10ms/30ms"), Ok(EachWay { there: ms(10), back: ms(30) }));
        assert_eq!(packets("1k/50"), Ok(EachWay { there: 1_000, back: 50 }));
        assert_eq!(rates("20mbit/1.5kbit"), Ok(EachWay { there: 20_000_000, back: 1_500 }));
        let loss = percents("0.1%/100%").expect("two");
        assert_eq!((loss.there, loss.back), (Percent(0.001), Percent(1.0)));
    }

    #[test]
    fn what_has_no_unit_or_is_out_of_range_is_refused() {
        assert!(percents("0.1").expect_err("no sign").contains("percent sign"));
        for text in ["101%", "-1%", "NaN%", "%"] {
            assert!(percents(text).expect_err(text).contains("from 0% to 100%"));
        }
        assert!(rates("100").expect_err("no unit").contains("needs a unit"));
        for text in ["0mbit", "1bit", "2000gbit", "xmbit"] {
            assert!(rates(text).expect_err(text).contains("from 1kbit"), "{text}");
        }
        assert!(times("10").is_err() && packets("0").is_err() && times("1ms/").is_err());
    }
}
