//! The limits of this machine: open files, local ports and processors. They are read here and
//! evaluated in `plan`.

use std::ops::RangeInclusive;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limits of this machine and process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// The hard limit of open files of a process.
    pub open_files_max: u64,
    /// Files that this process has open now.
    pub open_files_now: u64,
    /// The range of local ports for outgoing connections.
    pub ports: RangeInclusive<u16>,
    /// Processors that this process may use.
    pub processors: usize,
    /// Largest listen backlog (net.core.somaxconn); `None` if unknown.
    pub backlog_max: Option<u64>,
}

/// Linux's default, if the setting cannot be read.
const PORTS_DEFAULT: RangeInclusive<u16> = 32_768..=60_999;

impl Machine {
    /// Reads the limits, and raises the soft limit of open files to the hard one.
    pub fn read() -> Machine {
        Machine {
            open_files_max: raise_open_files(),
            open_files_now: count_open_files(),
            ports: read_ports().unwrap_or(PORTS_DEFAULT),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            backlog_max: read_number("/proc/sys/net/core/somaxconn"),
        }
    }

    /// Local ports that one source address has for one target.
    pub fn ports_per_source(&self) -> u64 {
        u64::from(self.ports.end() - self.ports.start()) + 1
    }
}

/// Returns the limit that is now in effect.
fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(_) => current.unwrap_or(u64::MAX),
    }
}

fn count_open_files() -> u64 {
    // If the directory does not exist: stdin, stdout, stderr and a few more.
    std::fs::read_dir("/proc/self/fd").map_or(8, |entries| entries.count() as u64)
}

fn read_ports() -> Option<RangeInclusive<u16>> {
    parse_ports(&std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?)
}

fn read_number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (Some(Ok(first)), Some(Ok(last))) = (numbers.next(), numbers.next()) else { return None };
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_range_is_two_numbers() {
        assert_eq!(parse_ports("32768\t60999\n"), Some(32_768..=60_999));
        for bad in ["", "1", "a b", "5 4", "1 70000"] {
            assert_eq!(parse_ports(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read();
        assert!(machine.open_files_now < machine.open_files_max);
        assert!(machine.processors > 0 && machine.ports_per_source() > 0);
    }
}
