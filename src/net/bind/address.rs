//! The values that [`Config::listen`](crate::Config::listen) takes, texts among them. Parses the
//! texts and converts all values to endpoints. Looks up names.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use super::has_ipv6;
use super::inherited::Inherited;
use crate::base::endpoint::{Endpoint, UnixAddress};
use crate::base::option::Options;
use crate::base::url::Url;
use crate::error::AddressError;
use crate::net::proxy::ProxyOptions;
use crate::net::transport::TransportOptions;

/// An endpoint to listen on, with the options of its transport.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ListenOn {
    /// Where to listen.
    pub endpoint: Endpoint,
    /// The transport of the connections.
    pub transport: TransportOptions,
    /// The socket, if another program has made it.
    pub(crate) inherited: Option<Inherited>,
    /// Whether a proxy names the clients.
    pub proxy: ProxyOptions,
}

/// With the default options.
impl<E: Into<Endpoint>> From<E> for ListenOn {
    fn from(endpoint: E) -> ListenOn {
        let endpoint = endpoint.into();
        let (transport, proxy) = (TransportOptions::from(&endpoint), ProxyOptions::default());
        ListenOn { endpoint, transport, inherited: None, proxy }
    }
}

/// An address to listen on: an [`Endpoint`], a [`SocketAddr`], a [`ListenOn`], or a text.
///
/// | text | listens on |
/// | --- | --- |
/// | `127.0.0.1:7777`, `[::1]:7777` | this address |
/// | `7777`, `:7777` | all addresses of the machine: `[::]:7777` |
/// | `[fe80::1%eth0]:7777` | this address of the interface, by its name or number |
/// | `localhost:7777` | each address of the name |
/// | `unix:///run/echo.sock?mode=0660` | a Unix socket |
/// | `unix://@echo` | a Unix socket with an abstract name |
/// | `127.0.0.1:7777?proxy=require` | this address; a proxy names the clients |
/// | `udp://192.0.2.1:7` | datagrams at this address |
/// | `udp://7`, `udp://:7` | datagrams of this machine alone: `[::1]:7` and `127.0.0.1:7` |
///
/// A text has the form `[transport://]address[?option=value...]`; without a transport it is `tcp`.
/// Port 0 means a free port: a different one for each text, and the same for all addresses of a
/// name.
///
/// ```
/// use echopool::config::ToEndpoints;
///
/// let endpoints = "tcp://[::1]:7777".to_endpoints()?;
/// assert_eq!(endpoints, ["[::1]:7777".parse::<std::net::SocketAddr>().unwrap().into()]);
/// let error = "localhost".to_endpoints().unwrap_err();
/// assert!(error.to_string().contains("'localhost'"));
/// # Ok::<(), echopool::error::AddressError>(())
/// ```
pub trait ToEndpoints {
    /// Returns the endpoints, at least one. The system's resolver looks up names, which may block
    /// for some seconds.
    ///
    /// # Errors
    /// The text is not understood, or the name has no address.
    fn to_endpoints(&self) -> Result<Vec<ListenOn>, AddressError>;
}

impl ToEndpoints for Endpoint {
    fn to_endpoints(&self) -> Result<Vec<ListenOn>, AddressError> {
        Ok(vec![(*self).into()])
    }
}

impl ToEndpoints for SocketAddr {
    fn to_endpoints(&self) -> Result<Vec<ListenOn>, AddressError> {
        Ok(vec![(*self).into()])
    }
}

impl ToEndpoints for ListenOn {
    fn to_endpoints(&self) -> Result<Vec<ListenOn>, AddressError> {
        Ok(vec![self.clone()])
    }
}

/// The endpoints of one name: with port 0, all of them get the same free port.
impl<E: Clone + Into<ListenOn>> ToEndpoints for Vec<E> {
    fn to_endpoints(&self) -> Result<Vec<ListenOn>, AddressError> {
        Ok(self.iter().cloned().map(Into::into).collect())
    }
}

impl ToEndpoints for str {
    fn to_endpoints(&self) -> Result<Vec<ListenOn>, AddressError> {
        let unclear = |reason| AddressError::NotUnderstood { text: self.to_owned(), reason };
        let (transport, proxy, address) = without_service(self).map_err(unclear)?;
        ListenAddress::parse(transport, proxy, address).map_err(unclear)?.resolve()
    }
}

impl ToEndpoints for String {
    fn to_endpoints(&self) -> Result<Vec<ListenOn>, AddressError> {
        (**self).to_endpoints()
    }
}

impl<T: ToEndpoints + ?Sized> ToEndpoints for &T {
    fn to_endpoints(&self) -> Result<Vec<ListenOn>, AddressError> {
        (**self).to_endpoints()
    }
}

/// The transport, the options for proxies and the address of a text that names no service.
fn without_service(text: &str) -> Result<(TransportOptions, ProxyOptions, &str), String> {
    let url = Url::split(text)?;
    let (service, mut transport) = TransportOptions::of_scheme(url.scheme.unwrap_or("tcp"))?;
    if !service.is_empty() {
        return Err(format!("'{service}' is not a transport; {FORMS}"));
    }
    let mut proxy = ProxyOptions::default();
    for (name, value) in &url.options {
        let done =
            transport.set(name, value).or_else(|| transport.set_proxy(&mut proxy, name, value));
        done.ok_or_else(|| format!("'{name}' is not an option of {}", transport.name()))?
            .map_err(|error| format!("{name}: {error}"))?;
    }
    let given: Vec<&str> = url.options.iter().map(|(name, _)| *name).collect();
    proxy.check_together(&given)?;
    Ok((transport, proxy, url.address))
}

/// Where to listen, parsed but not looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ListenAddress {
    at: At,
    transport: TransportOptions,
    proxy: ProxyOptions,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum At {
    Unix(UnixAddress),
    Address(SocketAddr),
    /// A port without an address.
    Port(u16),
    Name(String, u16),
}

const FORMS: &str = "write 7777, 127.0.0.1:7777, [::1]:7777 or localhost:7777";

impl ListenAddress {
    /// Parses the address of a URL with this transport.
    ///
    /// # Errors
    /// It is not an address of the transport; the text has the forms.
    pub(crate) fn parse(
        transport: TransportOptions,
        proxy: ProxyOptions,
        text: &str,
    ) -> Result<ListenAddress, String> {
        let at = match transport.is_unix() {
            true => At::Unix(text.parse()?),
            false => At::parse(text)?,
        };
        Ok(ListenAddress { at, transport, proxy })
    }

    /// The transport of the connections.
    #[cfg(feature = "daemon")]
    pub(crate) fn transport(&self) -> &TransportOptions {
        &self.transport
    }

    /// The path of the socket file, if there is one.
    #[cfg(feature = "daemon")]
    pub(crate) fn socket_file(&self) -> Option<&std::path::Path> {
        match &self.at {
            At::Unix(address) => address.path(),
            At::Address(_) | At::Port(_) | At::Name(..) => None,
        }
    }
}

impl At {
    fn parse(text: &str) -> Result<At, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(At::Address(address));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let Ok(port) = port.parse::<u16>() else {
            return Err(format!("'{port}' is not a port (0 to 65535); {FORMS}"));
        };
        match host {
            "" => Ok(At::Port(port)),
            _ if is_zoned(host) => Ok(At::Name(host[1..host.len() - 1].to_owned(), port)),
            _ if host.contains([':', '/', '[', ']']) => {
                Err(format!("'{host}' is not a host; {FORMS}"))
            }
            _ => Ok(At::Name(host.to_owned(), port)),
        }
    }
}

/// Whether this is an IPv6 address in brackets with the zone of an interface by its name, such as
/// `[fe80::1%eth0]`. The resolver knows the interface's number.
fn is_zoned(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let parts = inner.and_then(|inner| inner.split_once('%'));
    parts.is_some_and(|(ip, zone)| ip.parse::<Ipv6Addr>().is_ok() && !zone.is_empty())
}

impl ListenAddress {
    /// Returns all endpoints that the text stands for. Looks up a name.
    pub(crate) fn resolve(&self) -> Result<Vec<ListenOn>, AddressError> {
        let on = |endpoint| ListenOn {
            endpoint,
            transport: self.transport.clone(),
            inherited: None,
            proxy: self.proxy.clone(),
        };
        let at = |address| on(self.transport.endpoint(address));
        let (host, port) = match &self.at {
            At::Unix(address) => return Ok(vec![on(Endpoint::Unix(*address))]),
            At::Address(address) => return Ok(vec![at(*address)]),
            At::Port(port) => return Ok(self.of_port(*port).into_iter().map(at).collect()),
            At::Name(host, port) => (host, *port),
        };
        let fail = |reason| AddressError::NotFound { host: host.clone(), reason };
        let found = (host.as_str(), port).to_socket_addrs();
        let addresses = usable(found.map_err(|error| fail(error.to_string()))?, has_ipv6());
        if addresses.is_empty() {
            return Err(fail("the name has no address".to_owned()));
        }
        Ok(addresses.into_iter().map(at).collect())
    }

    /// The addresses that a port alone stands for: all of the machine, but for datagrams those of
    /// loopback. Whoever can send a datagram can write any source into it, so an echo of datagrams
    /// is open to the network only if its address says so.
    fn of_port(&self, port: u16) -> Vec<SocketAddr> {
        if !self.transport.is_datagram() {
            return vec![(Ipv6Addr::UNSPECIFIED, port).into()];
        }
        let ipv6 = has_ipv6().then(|| (Ipv6Addr::LOCALHOST, port).into());
        ipv6.into_iter().chain([(Ipv4Addr::LOCALHOST, port).into()]).collect()
    }
}

/// The addresses of a name, without duplicates. Without IPv6, leaves out the IPv6 addresses of a
/// name that also has IPv4 addresses: /etc/hosts often lists ::1 regardless.
fn usable(found: impl Iterator<Item = SocketAddr>, has_ipv6: bool) -> Vec<SocketAddr> {
    let found: Vec<SocketAddr> = found.collect();
    let skip_ipv6 = !has_ipv6 && found.iter().any(SocketAddr::is_ipv4);
    let mut addresses = Vec::new();
    for address in found {
        if skip_ipv6 && address.is_ipv6() {
            log::warn!("no IPv6 on this machine: not listening on {address}");
        } else if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_texts_and_values_are_endpoints() {
        let of = |at: &dyn ToEndpoints| at.to_endpoints().unwrap()[0].endpoint.to_string();
        let address: SocketAddr = "127.0.0.1:7801".parse().unwrap();
        assert_eq!(of(&"127.0.0.1:7801"), "tcp://127.0.0.1:7801");
        assert_eq!(of(&String::from("tcp://[::1]:0")), "tcp://[::1]:0");
        assert_eq!(of(&"7801"), "tcp://[::]:7801");
        assert_eq!(of(&"unix:///run/e.sock?mode=600"), "unix:///run/e.sock");
        assert_eq!(of(&address), of(&Endpoint::Tcp(address)));
        let name = "localhost:0".to_endpoints().unwrap();
        assert!(
            name.iter().all(|at| at.endpoint.socket_addr().unwrap().ip().is_loopback()),
            "{name:?}"
        );
        assert_eq!(At::parse("host:7"), Ok(At::Name("host".to_owned(), 7)));
    }

    #[test]
    fn a_port_alone_is_every_address_over_tcp_and_loopback_over_udp() {
        let of = |text: &str| -> Vec<String> {
            let all = text.to_endpoints().unwrap();
            all.iter().map(|on| on.endpoint.to_string()).collect()
        };
        assert_eq!(of(":7801"), ["tcp://[::]:7801"]);
        for text in ["udp://7801", "udp://:7801"] {
            let all = of(text);
            assert!(all.ends_with(&["udp://127.0.0.1:7801".to_owned()]), "{all:?}");
            assert_eq!(all.len() == 2, has_ipv6(), "{all:?}");
        }
        assert_eq!(of("udp://0.0.0.0:7?source-rate=5/s"), ["udp://0.0.0.0:7"]);
        let proxied = "udp://127.0.0.1:7?proxy=require".to_endpoints().unwrap_err().to_string();
        assert!(proxied.contains("'proxy' is not an option of udp"), "{proxied}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn zones_are_interfaces_by_name_or_number() {
        let number: u32 = std::fs::read_to_string("/sys/class/net/lo/ifindex")
            .map_or(1, |text| text.trim().parse().unwrap());
        for text in ["[fe80::1%lo]:7".to_owned(), format!("[fe80::1%{number}]:7")] {
            let endpoints = text.to_endpoints().unwrap();
            let Some(SocketAddr::V6(address)) = endpoints[0].endpoint.socket_addr() else {
                panic!("{text}")
            };
            assert_eq!((address.scope_id(), address.port()), (number, 7), "{text}");
        }
        let error = "[fe80::1%no-such]:7".to_endpoints().unwrap_err().to_string();
        assert!(error.contains("fe80::1%no-such"), "{error}");
    }

    #[test]
    fn texts_that_are_no_addresses_are_named() {
        for text in [
            "",
            "localhost",
            "70000",
            "framed://7",
            "::1:7",
            "tcp://tcp://7",
            "[x%lo]:7",
            "unix:/a",
        ] {
            let error = text.to_endpoints().unwrap_err();
            assert!(matches!(error, AddressError::NotUnderstood { .. }));
            let error = error.to_string();
            assert!(
                error.contains(&format!("'{text}'")) && error.contains("write 7777"),
                "{error}"
            );
        }
        let error = "no-such-host.invalid:7".to_endpoints().unwrap_err();
        assert!(
            matches!(&error, AddressError::NotFound { host, .. } if host == "no-such-host.invalid")
        );
    }

    #[test]
    fn options_are_those_of_the_transport() {
        for (text, part) in [
            ("unix://", "unix:///run/echo.sock"),
            ("unix:///e?mode=888", "mode: '888' must be the octal number"),
            ("unix:///e?order=big", "'order' is not an option of unix"),
            ("7?mode=600", "'mode' is not an option of tcp"),
            ("7?proxy=yes", "proxy: 'yes' must be off or optional or require"),
            ("7?proxy=require&proxy-from=host", "proxy-from: 'host' is not an address"),
            ("7?proxy-from=10.0.0.0/8", "proxy-from needs proxy=require"),
            ("udp://7?mode=600", "'mode' is not an option of udp"),
            ("echo+udp://7", "'echo' is not a transport"),
        ] {
            let error = text.to_endpoints().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn ipv6_addresses_of_a_name_are_left_out_where_there_is_no_ipv6() {
        let (v6, v4) = ("[::1]:7".parse().unwrap(), "127.0.0.1:7".parse().unwrap());
        let usable = |found: &[SocketAddr], has| usable(found.iter().copied(), has);
        assert_eq!(usable(&[v6, v4, v6, v4], true), [v6, v4]);
        assert_eq!(usable(&[v6, v4], false), [v4]);
        assert_eq!(usable(&[v6], false), [v6], "so that binding it names the error");
    }
}
