//! Quantities on the command line that must not be zero, in the grammar of the daemon; and
//! quantities formatted for people. Lines that programs read, such as those of wrk, have the plural for
//! every count; sentences have [`counted`].

use std::time::Duration;

pub use echopool::internals::counted;
use echopool::units::{parse_count, parse_duration, parse_size};

/// A count or a rate of at least 1: `500`, `10k`, `1.5m`.
pub fn positive(text: &str) -> Result<u64, String> {
    match parse_count(text)? {
        0 => Err("must be at least 1".into()),
        count => Ok(count),
    }
}

/// A size of at least 1 byte: `64`, `4k`, `4Ki`, `1m`.
pub fn size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("must be at least 1 byte".into()),
        bytes => Ok(bytes),
    }
}

/// A time longer than zero: `250us`, `10ms`, `1.5s`, `2m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time.is_zero() { Err("must be longer than zero".into()) } else { Ok(time) }
}

/// Formats a time with two decimals.
pub fn time_text(time: Duration) -> String {
    time_us(time.as_secs_f64() * 1e6)
}

/// Formats a time in microseconds, in the unit and with the decimals that wrk uses.
pub fn time_us(micros: f64) -> String {
    match micros {
        _ if micros >= 3_600e6 => format!("{:.2}h", micros / 3_600e6),
        _ if micros >= 60e6 => format!("{:.2}m", micros / 60e6),
        _ if micros >= 1e6 => format!("{:.2}s", micros / 1e6),
        _ if micros >= 1e3 => format!("{:.2}ms", micros / 1e3),
        _ => format!("{micros:.2}us"),
    }
}

/// Formats a count or a rate, with k and M for powers of 1000.
pub fn metric(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T"])
}

/// A part of all with its noun: `1 of 2 requests`, `1 of 1 connection`. The noun goes with all.
pub fn counted_of(count: u64, all: u64, noun: &str) -> String {
    format!("{count} of {}", counted(all, noun))
}

/// The verb of a count.
pub fn was(count: u64) -> &'static str {
    if count == 1 { "was" } else { "were" }
}

/// Formats a number of bytes, with K and M for powers of 1024.
pub fn binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["", "K", "M", "G", "T"])
}

fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut nth = 0;
    while value >= base && nth + 1 < units.len() {
        value /= base;
        nth += 1;
    }
    format!("{value:.2}{}", units[nth])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noun_goes_with_all_and_the_verb_with_the_part() {
        assert_eq!(counted_of(1, 2, "connection"), "1 of 2 connections");
        assert_eq!(counted_of(1, 1, "reply"), "1 of 1 reply");
        assert_eq!([0, 1, 2].map(was), ["were", "was", "were"]);
    }

    #[test]
    fn nothing_of_something_is_refused() {
        assert_eq!(positive("10k"), Ok(10_000));
        assert_eq!(size("4Ki"), Ok(4096));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert!(positive("0").is_err());
        assert!(size("0").is_err());
        assert!(duration("0s").is_err());
    }
}
