//! Where a server listens ([`Endpoint`]) and who is connected to it ([`Peer`]), as used in
//! configuration, statistics and logs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub use super::unix_address::UnixAddress;

/// An address of a socket. Written as a URL: `tcp://[::1]:7777`, `unix:///run/echopool.sock`.
///
/// ```
/// use echopool::Endpoint;
///
/// let address: std::net::SocketAddr = "[::1]:7777".parse().unwrap();
/// let endpoint = Endpoint::from(address);
/// assert_eq!(endpoint.to_string(), "tcp://[::1]:7777");
/// assert_eq!(endpoint.socket_addr(), Some(address));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Endpoint {
    /// TCP over IPv4 or IPv6. With port 0 the system chooses a free port.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(UnixAddress),
    /// UDP over IPv4 or IPv6. With port 0 the system chooses a free port.
    Udp(SocketAddr),
}

impl Endpoint {
    /// The socket address, if the endpoint has one.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Endpoint::Tcp(address) | Endpoint::Udp(address) => Some(*address),
            Endpoint::Unix(_) => None,
        }
    }

    /// Whether datagrams are sent to it, and not connections made.
    pub fn is_datagram(&self) -> bool {
        matches!(self, Endpoint::Udp(_))
    }

    /// The same endpoint with its address in [`canonical`] form.
    pub(crate) fn canonical(&self) -> Endpoint {
        match self {
            Endpoint::Tcp(address) => Endpoint::Tcp(canonical(*address)),
            Endpoint::Unix(address) => Endpoint::Unix(*address),
            Endpoint::Udp(address) => Endpoint::Udp(canonical(*address)),
        }
    }

    /// The address without its kind, as it stands in a URL: `[::1]:7777`, `/run/echopool.sock`.
    pub fn address(&self) -> String {
        match self {
            Endpoint::Tcp(address) | Endpoint::Udp(address) => address.to_string(),
            Endpoint::Unix(address) => address.to_string(),
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
            Endpoint::Unix(address) => write!(f, "unix://{address}"),
            Endpoint::Udp(address) => write!(f, "udp://{address}"),
        }
    }
}

/// The transport of a listening socket's connections: the kind of an [`Endpoint`] that can be
/// listened on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// A Unix stream socket.
    Unix,
}

/// The other end of a connection. Displayed in one word: the address `[::1]:50000`, or the process
/// `pid:4711,uid:1000,gid:1000`.
///
/// ```
/// use std::net::SocketAddr;
/// use echopool::endpoint::Peer;
///
/// let seen: SocketAddr = "[::ffff:192.0.2.1]:5000".parse().unwrap();
/// let peer = Peer::from(seen);
/// assert_eq!(peer.to_string(), "192.0.2.1:5000");
/// assert_eq!(peer.socket_addr().map(|address| address.port()), Some(5000));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Peer {
    /// A TCP client with this address. An accepted connection has it in [`canonical`] form.
    Tcp(SocketAddr),
    /// The process at the other end of a Unix socket, as it was when it connected (SO_PEERCRED).
    Unix {
        /// Its process id. 0 if the system does not tell, for instance because the process is in
        /// another PID namespace.
        pid: u32,
        /// Its effective user id. [`Peer::UNKNOWN_ID`] if unknown.
        uid: u32,
        /// Its effective group id. [`Peer::UNKNOWN_ID`] if unknown.
        gid: u32,
    },
}

impl Peer {
    /// Stands for a user or a group that is not known. No user and no group has this id.
    pub const UNKNOWN_ID: u32 = u32::MAX;

    /// A process of which nothing is known.
    pub(crate) const UNKNOWN_PROCESS: Peer =
        Peer::Unix { pid: 0, uid: Peer::UNKNOWN_ID, gid: Peer::UNKNOWN_ID };

    /// The socket address, if the peer has one.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Peer::Tcp(address) => Some(*address),
            Peer::Unix { .. } => None,
        }
    }
}

impl From<SocketAddr> for Peer {
    /// The peer with this address, in [`canonical`] form.
    fn from(address: SocketAddr) -> Peer {
        Peer::Tcp(canonical(address))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix { pid, uid, gid } => write!(f, "pid:{pid},uid:{uid},gid:{gid}"),
        }
    }
}

/// Converts an IPv4-mapped IPv6 address (`::ffff:127.0.0.1`) to its IPv4 address. Returns other
/// addresses unchanged.
///
/// A dual-stack listener sees IPv4 clients in the mapped form. The server converts each address
/// once, at accept, so that logs, limits and lists show a client under one name.
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

/// Whether this is an IPv6 link-local address (`fe80::/10`) without a zone. Each interface has its
/// own, so the system refuses it with EINVAL.
pub(crate) fn lacks_zone(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(v6) => v6.ip().is_unicast_link_local() && v6.scope_id() == 0,
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
        let unix = Endpoint::Unix("/run/e.sock".parse().unwrap());
        assert_eq!(
            (unix.to_string(), unix.address()),
            ("unix:///run/e.sock".into(), "/run/e.sock".into())
        );
    }
}
