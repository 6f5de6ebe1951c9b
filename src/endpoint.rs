//! Where a server listens or a client connects to: the one type for it in configuration, statistics
//! and logs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// An address of a transport. Written as a URL: `tcp://[::1]:7777`, `unix:/run/echopool.sock`.
///
/// ```
/// use echopool::Endpoint;
///
/// let address: std::net::SocketAddr = "[::1]:7777".parse().unwrap();
/// let endpoint = Endpoint::from(address);
/// assert_eq!(endpoint.to_string(), "tcp://[::1]:7777");
/// assert_eq!(endpoint.socket_addr(), Some(address));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Endpoint {
    /// TCP over IPv4 or IPv6. Port 0 asks the system for a free one.
    Tcp(SocketAddr),
    /// A Unix stream socket. It can be named but not listened on yet:
    /// [`Server::start`](crate::Server::start) answers
    /// [`StartError::Unsupported`](crate::StartError::Unsupported).
    Unix(PathBuf),
}

impl Endpoint {
    /// The socket address, where the endpoint has one.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Endpoint::Tcp(address) => Some(*address),
            Endpoint::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        Endpoint::Tcp(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The address with an IPv4-mapped IPv6 address (`::ffff:127.0.0.1`) turned into the IPv4 address
/// that it is.
///
/// A dual-stack listener sees IPv4 clients in the mapped form. This is done once, at accept, so
/// that logs, limits and lists know a client by one name.
///
/// ```
/// use echopool::endpoint::canonical;
///
/// let seen: std::net::SocketAddr = "[::ffff:192.0.2.1]:5000".parse().unwrap();
/// assert_eq!(canonical(seen).to_string(), "192.0.2.1:5000");
/// ```
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_ipv4_and_others_stay() {
        let case = |from: &str| canonical(from.parse().unwrap()).to_string();
        assert_eq!(case("[::ffff:127.0.0.1]:80"), "127.0.0.1:80");
        assert_eq!(case("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(case("[::1]:80"), "[::1]:80");
        assert_eq!(case("[fe80::1%3]:80"), "[fe80::1%3]:80");
    }

    #[test]
    fn endpoints_are_written_as_urls() {
        let tcp: Endpoint = "[::]:7777".parse::<SocketAddr>().unwrap().into();
        assert_eq!(tcp.to_string(), "tcp://[::]:7777");
        assert_eq!(Endpoint::Unix("/run/e.sock".into()).to_string(), "unix:/run/e.sock");
    }
}
