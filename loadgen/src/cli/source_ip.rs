//! An address, or all of a network: local addresses to connect from (`--source-ip`), and those that
//! PROXY headers name (`--proxy-source`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses used from all networks given, at most. Each has about 28,000 ports per target, so
/// these allow more connections than a process can have open files; and the list is kept in memory.
pub const SOURCES_MAX: usize = 1024;

/// An address or a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    first: IpAddr,
    count: u128,
}

impl Source {
    /// Its addresses, in order.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        (0..self.count).map(move |nth| self.address(nth))
    }

    /// How many addresses it has.
    pub fn count(self) -> u128 {
        self.count
    }

    /// Its address number `nth`, less than [`count`](Source::count).
    pub fn address(self, nth: u128) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(u32::from(first) + nth as u32)),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from(u128::from(first) + nth)),
        }
    }
}

/// The addresses of all sources, in order, and how many further ones there are.
pub fn addresses(sources: &[Source]) -> (Vec<IpAddr>, u128) {
    let all = sources.iter().flat_map(|source| source.addresses());
    let taken: Vec<_> = all.take(SOURCES_MAX).collect();
    let total = sources.iter().fold(0u128, |sum, source| sum.saturating_add(source.count));
    let more = total - taken.len() as u128;
    (taken, more)
}

/// The address, or the first and the last one.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{}", self.first),
            count => write!(f, "{}-{}", self.first, self.address(count - 1)),
        }
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Source, String> {
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let no_address = || format!("'{address}' is not an address: use 10.0.0.1 or 10.0.0.0/24");
        if let Some((ip, _)) = address.split_once('%') {
            return Err(format!("the zone is that of the target: use {ip}"));
        }
        let address: IpAddr = address.parse().map_err(|_| no_address())?;
        let Some(prefix) = prefix else { return Ok(Source { first: address, count: 1 }) };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits: u32 = match prefix.parse::<u32>() {
            Ok(bits) if bits <= width => width - bits,
            _ => return Err(format!("'/{prefix}' is not a prefix length: use /0 to /{width}")),
        };
        Ok(network(address, bits))
    }
}

/// The hosts of a network whose last `bits` bits identify the host. The first and the last address
/// of an IPv4 network (network and broadcast address) are not hosts; nor is the first one of IPv6
/// (the routers' address).
fn network(address: IpAddr, bits: u32) -> Source {
    let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
    let mask = size.wrapping_sub(1);
    match address {
        IpAddr::V4(address) => {
            let base = u32::from(address) & !(mask as u32);
            let (skip, count) = if bits >= 2 { (1, size - 2) } else { (0, size) };
            Source { first: Ipv4Addr::from(base + skip).into(), count }
        }
        IpAddr::V6(address) => {
            let base = u128::from(address) & !if bits == 128 { u128::MAX } else { mask };
            let (skip, count) = if bits >= 2 { (1, size - 1) } else { (0, size) };
            Source { first: Ipv6Addr::from(base + skip).into(), count }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let source: Source = text.parse().expect(text);
        addresses(&[source]).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_is_one_and_a_network_is_its_hosts_in_order() {
        assert_eq!(of("10.0.0.7"), ["10.0.0.7"]);
        assert_eq!(of("10.0.0.7/32"), ["10.0.0.7"]);
        assert_eq!(of("10.0.0.7/31"), ["10.0.0.6", "10.0.0.7"]);
        assert_eq!(of("10.0.0.6/30"), ["10.0.0.5", "10.0.0.6"]);
        let network = of("127.0.1.99/24");
        assert_eq!((network.len(), network[0].as_str()), (254, "127.0.1.1"));
        assert_eq!(network[253], "127.0.1.254");
        assert_eq!(of("fd00::9/126"), ["fd00::9", "fd00::a", "fd00::b"]);
    }

    #[test]
    fn a_large_network_is_cut() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "fd00::/64", "::/0"] {
            let source: Source = text.parse().expect(text);
            let (taken, more) = addresses(&[source, "10.0.0.1".parse().unwrap()]);
            assert_eq!(taken.len(), SOURCES_MAX);
            assert!(more > 1_000_000, "{text}");
        }
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for (text, reason) in [
            ("localhost", "not an address"),
            ("10.0.0.1/33", "/32"),
            ("fd00::/x", "/128"),
            ("fe80::1%lo", "use fe80::1"),
        ] {
            let error = text.parse::<Source>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
