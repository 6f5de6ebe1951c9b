//! The command line: flags and their help. What they mean together is decided in `plan`.
//!
//! Here: the target, and what every run needs. `load`: what is sent and when. `output`: what is
//! shown and written.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Parser;

use crate::units;

mod load;
mod output;

pub use load::LoadArgs;
pub use output::{OutputArgs, OutputFormat, ProgressForm};

/// Connections when no target is given.
pub const CONNECTIONS_OWN_SERVER: u64 = 10_000;
/// Connections when a target is given: someone else's server is not flooded by default.
pub const CONNECTIONS_TARGET: u64 = 100;

/// Drives many connections against a TCP echo server, and verifies every byte.
///
/// Without a target it starts an echopool server of its own on a free port of 127.0.0.1 and drives
/// that one with 10,000 connections.
#[derive(Parser, Debug, Clone)]
#[command(name = "loadgen", version, after_help = AFTER_HELP)]
pub struct Args {
    /// Where to connect to: host:port, tcp://host:port, or host:7001-7010 for a range of ports;
    /// connections are spread evenly over several [default: a server of its own]
    #[arg(value_name = "TARGET", value_parser = target)]
    pub targets: Vec<Target>,

    /// Connections at once [default: 10000 without a target, 100 with one]
    #[arg(short, long, value_name = "N", value_parser = units::positive)]
    pub connections: Option<u64>,

    /// Threads [default: half of the processors]
    #[arg(short, long, value_name = "N", value_parser = units::positive)]
    pub threads: Option<u64>,

    /// How long to measure [default: 10s, or no limit if -n is given]
    #[arg(short, long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,

    /// Requests to send in all, after which the run ends
    #[arg(short = 'n', long, value_name = "N", value_parser = units::positive)]
    pub requests: Option<u64>,

    /// How long to wait for a connection, and for a reply; a connection that is later is closed
    /// and counted
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub timeout: Duration,

    /// Seed of the payload, sizes and arrivals, to repeat a run byte for byte [default: a new one
    /// each time]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// What is sent, when, and over which connections.
    #[command(flatten)]
    pub load: LoadArgs,

    /// What is made of it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A target that has not been looked up yet: one port of a host, or several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// A name or an address, without brackets.
    pub host: String,
    /// At least one, and none of them 0.
    pub ports: RangeInclusive<u16>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.ports.start(), self.ports.end());
        match self.host.contains(':') {
            true => write!(f, "tcp://[{}]:{first}", self.host)?,
            false => write!(f, "tcp://{}:{first}", self.host)?,
        }
        if first < last { write!(f, "-{last}") } else { Ok(()) }
    }
}

const AFTER_HELP: &str = "\
Other commands: loadgen calibrate (what this machine can do at most), loadgen compare A.json B.json,
loadgen merge A.json B.json ... (reports written with --output-format json).

Units: counts and rates k, m (1000, 1000000); sizes k, m, g or Ki, Mi, Gi (powers of 1024);
times always with ns, us, ms, s, m or h.

Exit codes: 0 ok, 1 set-up or run failed, 2 usage, 3 an echo differed, 4 the measurement is not
valid (fewer connections than asked for, connections lost, or the schedule not kept), 99 an
objective (--slo) was missed, 130 interrupted by a signal or the key q (the report is written
nevertheless).";

/// Parses `host:port`, `tcp://host:port`, or either with a range of ports, `first-last`.
fn target(text: &str) -> Result<Target, String> {
    let address = match text.split_once(':') {
        Some(("tcp", rest)) if rest.starts_with("//") => &rest[2..],
        Some((scheme @ ("tls" | "udp" | "unix"), _)) => {
            return Err(format!(
                "{scheme}: is not supported yet, only host:port or tcp://host:port"
            ));
        }
        _ => text,
    };
    if let Some((scheme, _)) = address.split_once("://") {
        return Err(format!("'{scheme}://' is no known scheme: use host:port or tcp://host:port"));
    }
    let no_port = || format!("'{address}' has no port: use host:port, or [address]:port for IPv6");
    let (host, port) = address.rsplit_once(':').ok_or_else(no_port)?;
    let host = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
        Some(Some(inner)) => inner,
        Some(None) => return Err(no_port()),
        None if host.contains(':') => return Err(no_port()),
        None => host,
    };
    if host.is_empty() {
        return Err("the host is missing: use host:port".into());
    }
    Ok(Target { host: host.into(), ports: ports(port)? })
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("'{text}' is no port: use a number from 1 to 65535")),
    };
    let (first, last): (u16, u16) = (port(first)?, port(last)?);
    match first <= last {
        true => Ok(first..=last),
        false => Err(format!("'{text}' ends before it begins: write it like 7001-7010")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn targets() {
        let parsed = |text| target(text).map(|target| (target.host, target.ports));
        assert_eq!(parsed("localhost:7777"), Ok(("localhost".into(), 7777..=7777)));
        assert_eq!(parsed("tcp://10.0.0.1:7"), Ok(("10.0.0.1".into(), 7..=7)));
        assert_eq!(parsed("[::1]:7777"), Ok(("::1".into(), 7777..=7777)));
        assert_eq!(parsed("tcp://[::1]:7777"), Ok(("::1".into(), 7777..=7777)));
        assert_eq!(parsed("a-host:7001-7010"), Ok(("a-host".into(), 7001..=7010)));
        assert_eq!(parsed("[::1]:7-9"), Ok(("::1".into(), 7..=9)));
    }

    #[test]
    fn targets_are_shown_as_they_can_be_given() {
        for text in ["tcp://[::1]:7-9", "tcp://host:7777", "tcp://10.0.0.1:7001-7010"] {
            assert_eq!(target(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_reason() {
        let reasons = [
            ("tls://host:1", "not supported yet"),
            ("udp://host:1", "not supported yet"),
            ("unix:/tmp/socket", "not supported yet"),
            ("http://host:1", "no known scheme"),
            ("localhost", "no port"),
            ("7777", "no port"),
            ("::1:7777", "no port"),
            ("[::1]", "no port"),
            (":7777", "host is missing"),
            ("host:0", "no port"),
            ("host:70000", "no port"),
            ("host:", "no port"),
            ("host:7-", "no port"),
            ("host:0-7", "no port"),
            ("host:9-7", "ends before it begins"),
        ];
        for (text, reason) in reasons {
            let error = target(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
