//! The flags of a run on several machines.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::Args;

use crate::plan::shard::Shard;
use crate::units;

/// How several processes make one run.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Several machines")]
pub struct MachinesArgs {
    /// Part I, counted from 0, of a run of N processes: -c, -n, -R, --stages, --connect-rate and
    /// --with are divided [default: the part that srun, a Slurm array, MPI or a Kubernetes Indexed
    /// Job sets; otherwise the whole run]
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,

    /// Start the measurement of all shards at the same time: shard 0 listens at HOST:PORT until all
    /// others have connected, and compares their clocks with its own; or all synchronize by files
    /// in an empty directory that they share (a path with a slash), which needs clocks that agree
    #[arg(long, value_name = "HOST:PORT|DIRECTORY")]
    pub barrier: Option<BarrierPlace>,

    /// How long a shard waits at the barrier for the others
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = units::duration)]
    pub barrier_timeout: Duration,

    /// Start to measure at this time: 2026-11-29T12:00:00Z, or @SECONDS since 1970 [default: when
    /// all connections are established]
    #[arg(long, value_name = "TIME", conflicts_with = "barrier")]
    pub start_at: Option<StartAt>,
}

/// Where the shards meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BarrierPlace {
    Address(BarrierAddress),
    /// A directory that all of them share.
    Directory(PathBuf),
}

impl FromStr for BarrierPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<BarrierPlace, String> {
        match text.strip_prefix("file://") {
            Some(path) => Ok(BarrierPlace::Directory(path.into())),
            None if text.contains('/') && !text.contains("://") => {
                Ok(BarrierPlace::Directory(text.into()))
            }
            None => text.parse().map(BarrierPlace::Address),
        }
    }
}

/// Where shard 0 waits for the others: a host and a port, with or without `tcp://`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BarrierAddress {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for BarrierAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for BarrierAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<BarrierAddress, String> {
        let help = || format!("'{text}' is not HOST:PORT, as in node0:7000 or [::1]:7000");
        let address = text.strip_prefix("tcp://").unwrap_or(text);
        let (host, port) = address.rsplit_once(':').ok_or_else(help)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(host) => host,
            None if host.contains(':') => return Err(help()),
            None => host,
        };
        match port.parse() {
            Ok(port) if port > 0 && !host.is_empty() => {
                Ok(BarrierAddress { host: host.into(), port })
            }
            _ => Err(help()),
        }
    }
}

/// A time of the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartAt(pub SystemTime);

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<StartAt, String> {
        let help = || {
            format!(
                "'{text}' is not a time with its zone, as in 2026-11-29T12:00:00Z or \
                 2026-11-29T13:00:00+01:00, and not @SECONDS"
            )
        };
        let time = match text.strip_prefix('@') {
            Some(seconds) => {
                let seconds = seconds.parse().map_err(|_| help())?;
                let since = Duration::try_from_secs_f64(seconds).map_err(|_| help())?;
                SystemTime::UNIX_EPOCH.checked_add(since).ok_or_else(help)?
            }
            None => text.parse::<jiff::Timestamp>().map_err(|_| help())?.into(),
        };
        Ok(StartAt(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_barrier() {
        for (text, host, port) in [
            ("node0:7000", "node0", 7000),
            ("tcp://10.0.0.1:1", "10.0.0.1", 1),
            ("tcp://[::1]:65535", "::1", 65535),
        ] {
            let address: BarrierAddress = text.parse().expect(text);
            assert_eq!((&address.host[..], address.port), (host, port));
            assert_eq!(address.to_string(), text.trim_start_matches("tcp://"));
        }
        for text in ["node0", "node0:0", ":7000", "::1:7000", "node0:70000", "udp://x:1"] {
            let error = text.parse::<BarrierAddress>().expect_err(text);
            assert!(error.contains("is not HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_place_with_a_slash_is_a_directory() {
        for (text, path) in [
            ("file:///shared/run", "/shared/run"),
            ("/shared/run", "/shared/run"),
            ("./x:1", "./x:1"),
        ] {
            assert_eq!(text.parse(), Ok(BarrierPlace::Directory(path.into())), "{text}");
        }
        let address = BarrierAddress { host: "node0".into(), port: 7000 };
        for text in ["node0:7000", "tcp://node0:7000"] {
            assert_eq!(text.parse(), Ok(BarrierPlace::Address(address.clone())));
        }
        assert!("udp://x:1".parse::<BarrierPlace>().is_err());
    }

    #[test]
    fn times_to_start_at() {
        let at = |seconds: f64| StartAt(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds));
        assert_eq!("@1700000000.5".parse(), Ok(at(1_700_000_000.5)));
        assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(at(1_700_000_000.0)));
        assert_eq!("2023-11-14T23:13:20+01:00".parse(), Ok(at(1_700_000_000.0)));
        for text in ["", "@", "@-1", "@1e300", "noon", "2023-11-14T22:13:20", "5s"] {
            let error = text.parse::<StartAt>().expect_err(text);
            assert!(error.contains("is not a time"), "{error}");
        }
    }
}
