//! Parses counts, sizes and times from a command line, and formats sizes.
//!
//! One grammar for the daemon and the load generator: counts in thousands (`10k`), sizes in 1024s
//! (`16k`, `64MiB`), times always with a unit (`250us`). Decimals are allowed (`1.5s`) if the
//! result is whole. Every error names the accepted forms.

use std::time::Duration;

/// Parses a count or a rate: `250`, `10k` = 10,000, `2m` = 2,000,000.
///
/// # Errors
/// Text for the user, with the remedy.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let help = "a count is a number, with k (1,000) or m (1,000,000): 250, 10k, 2m";
    let (number, unit) = split(text, help)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        _ => return Err(format!("'{unit}' is not a unit of a count; {help}")),
    };
    scaled(number, factor)
}

/// Parses a size in bytes: `512`, `16k` = `16Ki` = `16KiB` = 16,384, also with m and g.
///
/// # Errors
/// Text for the user, with the remedy. `kB` and `MB` are rejected, because they mean 1000s to some
/// and 1024s to others.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let help = "a size is a number of bytes, with k, m or g (1024s; also Ki, KiB): 512, 16k";
    let (number, unit) = split(text, help)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        _ => return Err(format!("'{unit}' is not a unit of a size; {help}")),
    };
    scaled(number, factor)
}

/// Parses a time: `250us`, `10ms`, `2s`, `2m` (minutes), `1h`.
///
/// # Errors
/// Text for the user, with the remedy; also for a number without a unit.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let help = "a time is a number with ns, us, ms, s, m or h: 250us, 10ms, 2s, 2m, 1h";
    let (number, unit) = split(text, help)?;
    let nanos = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(format!("a time needs a unit: {number}s or {number}ms?")),
        _ => return Err(format!("'{unit}' is not a unit of a time; {help}")),
    };
    scaled(number, nanos).map(Duration::from_nanos)
}

/// Parses a time that may also be `off`, which is `None`.
///
/// # Errors
/// As [`parse_duration`].
pub fn parse_duration_or_off(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" => Ok(None),
        _ => parse_duration(text)
            .map(Some)
            .map_err(|error| format!("{error}; or 'off' for no limit")),
    }
}

/// Formats a size for people: `512 B`, `64.0 KiB`, `1.5 GiB`.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 and above would be rounded to "1024.0".
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Splits off the number at the front, as text. Returns it and the rest.
fn split<'a>(text: &'a str, help: &str) -> Result<(&'a str, &'a str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    match text.split_at(end) {
        ("", _) => Err(format!("'{text}' is not understood; {help}")),
        parts => Ok(parts),
    }
}

/// Multiplies a decimal number by `unit`. The result must be whole. Uses integer arithmetic, so
/// that nothing is rounded.
fn scaled(number: &str, unit: u64) -> Result<u64, String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
        return Err(format!("'{number}' is not a number"));
    }
    // A longer fraction has no whole product with any unit.
    if fraction.len() > 18 {
        return Err(format!("{number} has too many decimal places"));
    }
    let too_large = || format!("{number} times {unit} is too large");
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| too_large())?;
    let scaled = digits.checked_mul(u128::from(unit)).ok_or_else(too_large)?;
    let divisor = 10u128.pow(fraction.len() as u32);
    if scaled % divisor != 0 {
        return Err(format!("{number} times {unit} is not a whole number"));
    }
    u64::try_from(scaled / divisor).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_in_thousands() {
        for (text, count) in [
            ("0", 0),
            ("250", 250),
            ("10k", 10_000),
            ("1.5K", 1_500),
            ("2m", 2_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
        for bad in ["", "k", "-1", "1.5", "10ki", "1_000", "18446744073709551616", " 1", "1kk"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_in_1024s_however_they_are_written() {
        for text in ["16384", "16384b", "16k", "16K", "16Ki", "16KiB"] {
            assert_eq!(parse_size(text), Ok(16_384), "{text}");
        }
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        assert_eq!(parse_size("0.5k"), Ok(512));
        for bad in ["16kB", "16MB", "k", "1.0001k", "-1", "16 k", "99999999999g", "1.2.3k", "1.k"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        for (text, nanos) in [
            ("7ns", 7),
            ("250us", 250_000),
            ("10ms", 10_000_000),
            ("2s", 2_000_000_000),
            ("2m", 120_000_000_000),
            ("1h", 3_600_000_000_000),
            ("0s", 0),
            ("1.5s", 1_500_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for bad in ["", "s", "0.1ns", "-1s", "10 ms", "5d", "10S", "99999999999h", "1e3s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_without_a_unit_is_told_how_to_write_it() {
        let error = parse_duration("30").unwrap_err();
        assert!(error.contains("30s"), "{error}");
    }

    #[test]
    fn off_is_a_time_only_where_it_may_be() {
        assert_eq!(parse_duration_or_off("off"), Ok(None));
        assert_eq!(parse_duration_or_off("3s"), Ok(Some(Duration::from_secs(3))));
        assert!(parse_duration_or_off("3").unwrap_err().contains("off"));
        assert!(parse_duration("off").is_err());
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (64 << 20, "64.0 MiB"),
            (3 << 40, "3.0 TiB"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
    }
}
