//! The clients behind a proxy that a run simulates: `--proxy-protocol`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use echopool::endpoint::Peer;
use echopool::internals::{ProxyVersion, proxy_header};

use crate::cli::RunSpec;
use crate::cli::source_ip::Source;

/// The networks for benchmarks (RFC 2544) and for documentation (RFC 3849), which no real client
/// has.
const IPV4: &str = "198.18.0.0/15";
const IPV6: &str = "2001:db8::/32";

/// The first port of a client. An address has all ports from here on.
const FIRST_PORT: u16 = 1024;

/// The headers of the PROXY protocol that the connections of a run begin with.
#[derive(Clone, Copy, Debug)]
pub struct ProxyHeaders {
    pub version: ProxyVersion,
    /// The addresses of the clients, if they were given.
    pub source: Option<Source>,
}

impl ProxyHeaders {
    /// Those that the command line asks for.
    pub(super) fn new(spec: &RunSpec) -> Option<ProxyHeaders> {
        let (version, source) = (spec.load.proxy_protocol?, spec.load.proxy_source);
        Some(ProxyHeaders { version, source })
    }

    /// The header of connection number `number` to this peer.
    pub fn header(self, number: u64, target: Peer) -> Vec<u8> {
        let target = target.socket_addr();
        let client = self.client(number, target);
        // A Unix socket has no address.
        let none = match client {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        proxy_header(self.version, client, target.unwrap_or(SocketAddr::new(none, 0)))
    }

    /// The client that connection number `number` pretends to be: each has another address, in
    /// order. When all addresses are used, they follow again with the next port.
    fn client(self, number: u64, target: Option<SocketAddr>) -> SocketAddr {
        let network = match target {
            Some(SocketAddr::V6(_)) => IPV6,
            _ => IPV4,
        };
        let source = self.source.unwrap_or_else(|| network.parse().expect("a network"));
        let number = u128::from(number);
        let (round, nth) = (number / source.count(), number % source.count());
        let ports = u128::from(u16::MAX - FIRST_PORT) + 1;
        SocketAddr::new(source.address(nth), FIRST_PORT + (round % ports) as u16)
    }

    /// The word for the version, as it is given.
    pub fn version_word(self) -> &'static str {
        match self.version {
            ProxyVersion::V1 => "v1",
            ProxyVersion::V2 => "v2",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(source: Option<&str>) -> ProxyHeaders {
        let source = source.map(|text| text.parse().expect(text));
        ProxyHeaders { version: ProxyVersion::V1, source }
    }

    #[test]
    fn each_connection_is_another_client_until_all_addresses_are_used() {
        let client = |source, number, target: Option<&str>| {
            let target = target.map(|text| text.parse().expect(text));
            headers(source).client(number, target).to_string()
        };
        let v4 = Some("127.0.0.1:7");
        assert_eq!(client(None, 0, v4), "198.18.0.1:1024");
        assert_eq!(client(None, 131_069, None), "198.19.255.254:1024");
        assert_eq!(client(None, 131_070, v4), "198.18.0.1:1025");
        assert_eq!(client(None, 9, Some("[::1]:7")), "[2001:db8::a]:1024");
        assert_eq!(client(Some("10.1.2.3"), 5, v4), "10.1.2.3:1029");
        assert_eq!(client(Some("10.1.2.3"), 64_512, v4), "10.1.2.3:1024");
        assert_eq!(client(Some("fd00::/126"), 4, v4), "[fd00::2]:1025");
    }

    #[test]
    fn a_header_names_the_client_and_the_target() {
        let text = |source, target: Peer| {
            String::from_utf8(headers(source).header(1, target)).expect("text")
        };
        let target = SocketAddr::from(([127, 0, 0, 1], 7)).into();
        assert_eq!(text(None, target), "PROXY TCP4 198.18.0.2 127.0.0.1 1024 7\r\n");
        let unix = Peer::Unix { pid: 1, uid: 2, gid: 3 };
        assert_eq!(text(None, unix), "PROXY TCP4 198.18.0.2 0.0.0.0 1024 0\r\n");
        assert_eq!(text(Some("::9"), unix), "PROXY TCP6 ::9 :: 1025 0\r\n");
    }
}
