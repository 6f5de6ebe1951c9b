//! Quantities as they are written on the command line: counts, sizes and times. No defaults and no
//! limits of single flags here.
//!
//! Counts and rates: `k`, `m` are 1000 and 1000². Sizes: `k`, `m`, `g` (also written `Ki`, `KiB`)
//! are powers of 1024. A time always carries its unit.

use std::time::Duration;

/// A count or a rate: `500`, `10k`, `1.5m`.
pub fn count(text: &str) -> Result<u64, String> {
    let (number, suffix) = split(text)?;
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        _ => return Err(format!("'{suffix}' is no unit of a count: use k (1000) or m (1000000)")),
    };
    scaled(number, unit)
}

/// A count that cannot be zero.
pub fn positive(text: &str) -> Result<u64, String> {
    match count(text)? {
        0 => Err("must be at least 1".into()),
        count => Ok(count),
    }
}

/// A size in bytes: `64`, `4k`, `4Ki`, `1m`; at least 1.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, suffix) = split(text)?;
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        _ => return Err(format!("'{suffix}' is no unit of size: use k, m or g (powers of 1024)")),
    };
    match scaled(number, unit)? {
        0 => Err("must be at least 1 byte".into()),
        bytes => Ok(bytes),
    }
}

/// A time longer than zero: `250us`, `10ms`, `1.5s`, `2m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, suffix) = split(text)?;
    let unit = match suffix {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        "" => return Err(format!("a time needs its unit: '{text}s', '{text}ms', ...")),
        _ => return Err(format!("'{suffix}' is no unit of time: use ns, us, ms, s, m or h")),
    };
    match scaled(number, unit)? {
        0 => Err("must be longer than zero".into()),
        nanos => Ok(Duration::from_nanos(nanos)),
    }
}

/// The number and what follows it.
fn split(text: &str) -> Result<(&str, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    match text.split_at(end) {
        ("", _) => Err("does not begin with a number".into()),
        parts => Ok(parts),
    }
}

/// A decimal number times `unit`, which must be whole. Digits only: no float rounds what was
/// written.
fn scaled(number: &str, unit: u64) -> Result<u64, String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
        return Err(format!("'{number}' is no number"));
    }
    // Longer fractions than any unit resolves are not whole anyway.
    if fraction.len() > 18 {
        return Err("has too many decimal places".into());
    }
    let too_large = || "is too large".to_string();
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| too_large())?;
    let scaled = digits.checked_mul(u128::from(unit)).ok_or_else(too_large)?;
    let divisor = 10u128.pow(fraction.len() as u32);
    if scaled % divisor != 0 {
        return Err("is not a whole number".into());
    }
    u64::try_from(scaled / divisor).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_powers_of_1000() {
        assert_eq!(count("0"), Ok(0));
        assert_eq!(count("10k"), Ok(10_000));
        assert_eq!(count("1.5K"), Ok(1_500));
        assert_eq!(count("2m"), Ok(2_000_000));
        assert_eq!(count("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("64B"), Ok(64));
        assert_eq!(size("4k"), Ok(4096));
        assert_eq!(size("4Ki"), Ok(4096));
        assert_eq!(size("4KiB"), Ok(4096));
        assert_eq!(size("0.5k"), Ok(512));
        assert_eq!(size("1m"), Ok(1 << 20));
    }

    #[test]
    fn times_carry_a_unit() {
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("10").unwrap_err().contains("10s"), "the remedy is named");
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in ["", "k", "-1", "+1", "1kk", "1.2.3", "1.", ".5k", "1 k", "1e3", "0x10", "१"] {
            assert!(count(bad).is_err(), "count {bad:?}");
            assert!(size(bad).is_err(), "size {bad:?}");
            assert!(duration(&format!("{bad}s")).is_err(), "duration {bad:?}s");
        }
        assert!(count("1.5").is_err(), "half a connection");
        assert!(count("18446744073709551616").is_err());
        assert!(count("99999999999999999999k").is_err());
        assert!(count(&format!("1{}", "0".repeat(60))).is_err());
        assert!(count("4Ki").is_err(), "a binary unit is for sizes");
        assert!(size("4s").is_err());
        assert!(size("0").is_err());
        assert!(positive("0").is_err());
        assert!(duration("0s").is_err());
        assert!(duration("0.1ns").is_err());
        assert!(duration("10S").is_err());
        assert!(duration("1d").is_err());
    }
}
