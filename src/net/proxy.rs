//! How a listener asks for headers of the PROXY protocol. The options are the same for every stream
//! transport.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::base::endpoint::Peer;
use crate::base::option::{About, Allowed, Options, Value, Word, declare, options, utf8};

options! {
    /// Whether clients come through a proxy that names them in a header of the PROXY protocol
    /// (versions 1 and 2). The peer of a connection is then the client in the header. A client
    /// ignores these options.
    pub struct ProxyOptions {
        /// Whether connections begin with a header. Default: off.
        pub headers: ProxyHeaders = ProxyHeaders::Off,
            "proxy" = "HEADERS", Words(&["off", "optional", "require"]),
            "whether connections begin with a PROXY protocol header that names the client";
        /// The proxies. A Unix socket has no addresses and ignores them: there, whoever may connect
        /// is a proxy. Default: this machine, 127.0.0.0/8 and ::1.
        pub from: Networks = Networks::loopback(),
            "proxy-from" = "NETWORKS", Described("addresses and networks"),
            "proxies that may send headers";
    }
    impl {
        fn check_together(&self, given: &[&str]) -> Result<(), String> {
            match self.headers {
                ProxyHeaders::Off if given.contains(&"proxy-from") => Err(
                    "proxy-from needs proxy=require or proxy=optional".to_owned(),
                ),
                _ => Ok(()),
            }
        }
    }
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ProxyHeaders {
    /// No header: all bytes are the service's.
    #[default]
    Off,
    /// A connection from a proxy may begin with a header. Bytes that are not a header are the
    /// service's.
    Optional,
    /// Every connection must come from a proxy and begin with a header.
    Require,
}

impl Word for ProxyHeaders {
    const VALUES: &'static [ProxyHeaders] =
        &[ProxyHeaders::Off, ProxyHeaders::Optional, ProxyHeaders::Require];
}

impl ProxyOptions {
    /// Whether this peer may send a header.
    pub(crate) fn may_send(&self, peer: Peer) -> bool {
        match (self.headers, peer) {
            (ProxyHeaders::Off, _) => false,
            (_, Peer::Tcp(address)) => self.from.contains(address.ip()),
            (_, Peer::Unix { .. }) => true,
        }
    }
}

/// Addresses of IPv4 and IPv6, as networks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Networks(Vec<Network>);

/// A network, for example 10.0.0.0/8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Network {
    /// Its lowest address.
    first: IpAddr,
    /// How many bits all of its addresses share.
    prefix: u8,
}

impl Networks {
    /// 127.0.0.0/8 and ::1.
    pub fn loopback() -> Networks {
        let first = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0));
        let v6 = Network { first: Ipv6Addr::LOCALHOST.into(), prefix: 128 };
        Networks(vec![Network { first, prefix: 8 }, v6])
    }

    /// The networks in a text: addresses and networks, separated by commas.
    ///
    /// # Errors
    /// A part is neither an address nor a network.
    ///
    /// ```
    /// use echopool::config::Networks;
    ///
    /// let proxies = Networks::new("10.0.0.0/8,2001:db8::7")?;
    /// assert!(proxies.contains("10.1.2.3".parse().unwrap()));
    /// assert!(!proxies.contains("2001:db8::8".parse().unwrap()));
    /// # Ok::<(), String>(())
    /// ```
    pub fn new(text: &str) -> Result<Networks, String> {
        text.split(',').map(Network::new).collect::<Result<_, _>>().map(Networks)
    }

    /// Whether the address is in one of the networks. An IPv4-mapped IPv6 address is its IPv4
    /// address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(ip))
    }
}

impl Network {
    fn new(text: &str) -> Result<Network, String> {
        let wrong = || {
            format!("'{text}' is not an address or a network: write 10.1.2.3, 10.0.0.0/8 or ::1")
        };
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(wrong());
        }
        match ip.to_canonical() {
            IpAddr::V4(v4) if ip.is_ipv6() && prefix >= 96 => {
                Ok(Network { first: v4.into(), prefix: prefix - 96 }.masked())
            }
            _ => Ok(Network { first: ip, prefix }.masked()),
        }
    }

    fn masked(self) -> Network {
        Network { first: mask(self.first, self.prefix), ..self }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && mask(ip, self.prefix) == self.first
    }
}

/// The address with only its first bits.
fn mask(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Network { first, prefix }) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match (first, prefix) {
                (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}/{prefix}")?,
            }
        }
        Ok(())
    }
}

impl Value for Networks {
    fn read(&self, _: &About, text: &[u8]) -> Result<Networks, String> {
        Networks::new(utf8(text)?)
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        Some(self.to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_the_addresses_with_their_prefix() {
        for (networks, inside, outside) in [
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.255.255", "::ffff:10.1.1.1"][..],
                &["11.0.0.0", "::a00:0"][..],
            ),
            ("10.1.2.3", &["10.1.2.3"], &["10.1.2.2", "10.1.2.4"]),
            ("10.1.2.3/31", &["10.1.2.2", "10.1.2.3"], &["10.1.2.4"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::", "::1"]),
            ("::/0", &["::", "ffff::"], &["1.2.3.4"]),
            ("::ffff:10.0.0.0/104", &["10.9.9.9"], &["11.0.0.0"]),
            ("fd00::/8,::1", &["fdff::1", "::1"], &["fc00::", "::2"]),
            ("2001:db8::/33", &["2001:db8:7fff::"], &["2001:db8:8000::"]),
        ] {
            let networks = Networks::new(networks).unwrap();
            for ip in inside {
                assert!(networks.contains(ip.parse().unwrap()), "{ip} in {networks}");
            }
            for ip in outside {
                assert!(!networks.contains(ip.parse().unwrap()), "{ip} in {networks}");
            }
        }
    }

    #[test]
    fn networks_are_written_as_they_are_read() {
        let written = |text| Networks::new(text).unwrap().to_string();
        assert_eq!(written("10.1.2.3/8,10.1.2.3/32,FD00::/8"), "10.0.0.0/8,10.1.2.3,fd00::/8");
        assert_eq!(written("::ffff:10.0.0.0/104"), "10.0.0.0/8");
        assert_eq!(Networks::loopback().to_string(), "127.0.0.0/8,::1");
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "host",
            "10.0.0.0/8,",
            "1.2.3.4/",
            "1.2.3.4/-1",
        ] {
            let error = Networks::new(text).unwrap_err();
            assert!(error.contains("10.0.0.0/8"), "{text}: {error}");
        }
    }

    #[test]
    fn only_proxies_may_send_headers() {
        let mut options = ProxyOptions::default();
        let (near, far) = (peer("127.1.2.3:4"), peer("192.0.2.1:5"));
        assert!(!options.may_send(near), "off");
        for headers in [ProxyHeaders::Optional, ProxyHeaders::Require] {
            options.headers = headers;
            assert!(options.may_send(near) && !options.may_send(far));
            assert!(options.may_send(Peer::UNKNOWN_PROCESS));
        }
    }

    fn peer(text: &str) -> Peer {
        text.parse::<std::net::SocketAddr>().unwrap().into()
    }
}
