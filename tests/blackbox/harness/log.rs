//! Parses what the daemon writes to stderr.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The `name=value` words of a line whose value is a number.
pub type Values = BTreeMap<String, u64>;

/// A disconnect line.
#[derive(Clone, Debug)]
pub struct Closed {
    pub peer: SocketAddr,
    pub reason: String,
    /// Bytes received (`in`), without those discarded while lingering, and bytes sent (`out`).
    pub received: u64,
    pub sent: u64,
}

impl Closed {
    pub fn parse(line: &str) -> Closed {
        let numbers = named_values(line);
        Closed {
            peer: word(line, "peer").parse().unwrap_or_else(|_| panic!("no peer in {line:?}")),
            reason: word(line, "reason").to_owned(),
            received: numbers["in"],
            sent: numbers["out"],
        }
    }
}

/// The numbers among the `name=value` words of a line.
pub fn named_values(line: &str) -> Values {
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

fn word<'a>(line: &'a str, name: &str) -> &'a str {
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .find_map(|(found, value)| (found == name).then_some(value))
        .unwrap_or_else(|| panic!("no {name}= in {line:?}"))
}

/// The lines that SIGUSR1 requests, oldest first. Lines of `--stats-interval` are not included.
pub fn stats_lines(log: &str) -> Vec<Values> {
    let is_one = |line: &&str| line.contains("stats]") && line.contains(" accepted=");
    log.lines().filter(is_one).map(named_values).collect()
}

/// The total of the memory sum, in bytes.
pub fn memory_sum(log: &str) -> Option<u64> {
    log.lines().find(|line| line.trim_start().starts_with("total ")).and_then(size)
}

/// The first size in a line, in bytes: a number, with or without a fraction, and its unit.
fn size(line: &str) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).find_map(|pair| {
        let unit = match pair[1].trim_end_matches(|c: char| !c.is_alphanumeric()) {
            "B" | "bytes" => 1.0,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            _ => return None,
        };
        Some((pair[0].parse::<f64>().ok()? * unit) as u64)
    })
}
