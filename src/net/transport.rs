//! The transports that carry connections, each with its options.
//!
//! A scheme in a URL names the transport (`tcp`, `unix`), or a service and its transport
//! (`framed+unix`). To add one: a variant of [`TransportOptions`], its name and its options.

use std::fmt;
use std::net::SocketAddr;

use crate::base::endpoint::Endpoint;
use crate::base::option::{About, Allowed, Options, Value, declare, options, utf8};
use crate::base::units;
use crate::net::proxy::ProxyOptions;
#[cfg(feature = "tls")]
use crate::tls::options::TlsOptions;

/// A transport, with its options.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum TransportOptions {
    /// `tcp`: TCP over IPv4 or IPv6. The default.
    #[default]
    Tcp,
    /// `unix`: Unix stream sockets.
    Unix(UnixOptions),
    /// `tls`: TLS over TCP.
    #[cfg(feature = "tls")]
    Tls(TlsOptions),
    /// `unix+tls`: TLS over Unix stream sockets.
    #[cfg(feature = "tls")]
    UnixTls(UnixOptions, TlsOptions),
    /// `udp`: datagrams over IPv4 or IPv6.
    Udp(UdpOptions),
}

/// Transports of the grammar that this build does not have.
const NOT_BUILT: &[&str] = if cfg!(feature = "tls") { &[] } else { &["tls", "unix+tls"] };

impl TransportOptions {
    /// Every transport, with its default options.
    pub(crate) fn all() -> Vec<TransportOptions> {
        vec![
            TransportOptions::Tcp,
            TransportOptions::Unix(UnixOptions::default()),
            #[cfg(feature = "tls")]
            TransportOptions::Tls(TlsOptions::default()),
            #[cfg(feature = "tls")]
            TransportOptions::UnixTls(UnixOptions::default(), TlsOptions::default()),
            TransportOptions::Udp(UdpOptions::default()),
        ]
    }

    /// The transport's name in a URL.
    pub fn name(&self) -> &'static str {
        match self {
            TransportOptions::Tcp => "tcp",
            TransportOptions::Unix(_) => "unix",
            #[cfg(feature = "tls")]
            TransportOptions::Tls(_) => "tls",
            #[cfg(feature = "tls")]
            TransportOptions::UnixTls(..) => "unix+tls",
            TransportOptions::Udp(_) => "udp",
        }
    }

    /// What the transport is, in a few words.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for help"))]
    pub(crate) fn what(&self) -> &'static str {
        match self {
            TransportOptions::Tcp => "TCP, the default",
            TransportOptions::Unix(_) => "a Unix socket: unix:///run/echo.sock, or unix://@name",
            #[cfg(feature = "tls")]
            TransportOptions::Tls(_) => "TLS 1.2 or 1.3 over TCP",
            #[cfg(feature = "tls")]
            TransportOptions::UnixTls(..) => "TLS over a Unix socket",
            TransportOptions::Udp(_) => "datagrams; a port alone is on loopback: udp://:7",
        }
    }

    /// Whether the address is that of a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.unix().is_some()
    }

    /// The options of the Unix socket, if the address is that of one.
    pub fn unix(&self) -> Option<&UnixOptions> {
        match self {
            TransportOptions::Tcp | TransportOptions::Udp(_) => None,
            TransportOptions::Unix(unix) => Some(unix),
            #[cfg(feature = "tls")]
            TransportOptions::Tls(_) => None,
            #[cfg(feature = "tls")]
            TransportOptions::UnixTls(unix, _) => Some(unix),
        }
    }

    /// The options of UDP, if it carries datagrams.
    pub fn udp(&self) -> Option<&UdpOptions> {
        match self {
            TransportOptions::Udp(udp) => Some(udp),
            _ => None,
        }
    }

    /// Whether it carries datagrams, and not connections.
    pub fn is_datagram(&self) -> bool {
        self.udp().is_some()
    }

    /// Sets an option of its connections for proxies. Returns `None` if there is no option of this
    /// name, or there are no connections.
    pub(crate) fn set_proxy(
        &self,
        proxy: &mut ProxyOptions,
        name: &str,
        value: &[u8],
    ) -> Option<Result<(), String>> {
        if self.is_datagram() { None } else { proxy.set(name, value) }
    }

    /// The endpoint of this transport at a socket address.
    pub(crate) fn endpoint(&self, address: SocketAddr) -> Endpoint {
        match self {
            TransportOptions::Udp(_) => Endpoint::Udp(address),
            _ => Endpoint::Tcp(address),
        }
    }

    /// The options of TLS, if the connections use it.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&TlsOptions> {
        match self {
            TransportOptions::Tcp | TransportOptions::Unix(_) | TransportOptions::Udp(_) => None,
            TransportOptions::Tls(tls) | TransportOptions::UnixTls(_, tls) => Some(tls),
        }
    }

    /// TLS with these options over the transport to an endpoint, or that transport itself.
    #[cfg(feature = "tls")]
    pub fn to(endpoint: &Endpoint, tls: Option<&TlsOptions>) -> TransportOptions {
        match (TransportOptions::from(endpoint), tls) {
            (plain, None) => plain,
            (TransportOptions::Unix(unix), Some(tls)) => {
                TransportOptions::UnixTls(unix, tls.clone())
            }
            (_, Some(tls)) => TransportOptions::Tls(tls.clone()),
        }
    }

    /// The options, in groups: a transport over another has the options of both.
    pub(crate) fn options(&self) -> Vec<&dyn Options> {
        match self {
            TransportOptions::Tcp => Vec::new(),
            TransportOptions::Unix(unix) => vec![unix],
            #[cfg(feature = "tls")]
            TransportOptions::Tls(tls) => vec![tls, &tls.client],
            #[cfg(feature = "tls")]
            TransportOptions::UnixTls(unix, tls) => vec![unix, tls, &tls.client],
            TransportOptions::Udp(udp) => vec![udp],
        }
    }

    /// The names of the options.
    pub(crate) fn option_names(&self) -> Vec<&'static str> {
        self.options().iter().flat_map(|group| group.about()).map(|about| about.name).collect()
    }

    /// Sets an option. Returns `None` if the transport has no option of this name.
    pub(crate) fn set(&mut self, name: &str, value: &[u8]) -> Option<Result<(), String>> {
        match self {
            TransportOptions::Tcp => None,
            TransportOptions::Unix(unix) => unix.set(name, value),
            #[cfg(feature = "tls")]
            TransportOptions::Tls(tls) => set_tls(tls, name, value),
            #[cfg(feature = "tls")]
            TransportOptions::UnixTls(unix, tls) => {
                unix.set(name, value).or_else(|| set_tls(tls, name, value))
            }
            TransportOptions::Udp(udp) => udp.set(name, value),
        }
    }

    /// The service (empty for echo) and the transport that a scheme names.
    ///
    /// # Errors
    /// The transport does not exist or is not built. The text names those that are.
    pub(crate) fn of_scheme(scheme: &str) -> Result<(&str, TransportOptions), String> {
        if let Some(transport) = TransportOptions::named(scheme)? {
            return Ok(("", transport));
        }
        let Some((service, name)) = scheme.split_once('+') else {
            return Ok((scheme, TransportOptions::Tcp));
        };
        match TransportOptions::named(name)? {
            Some(transport) => Ok((service, transport)),
            None => Err(format!("'{name}' is not a transport; {}", TransportOptions::names())),
        }
    }

    fn named(name: &str) -> Result<Option<TransportOptions>, String> {
        if name.split('+').any(|part| part == "udp") && name.contains("tls") {
            return Err("TLS runs over tcp and unix, and not over udp".to_owned());
        }
        if NOT_BUILT.contains(&name) {
            return Err(format!(
                "the transport {name} is not supported yet; {}",
                TransportOptions::names()
            ));
        }
        Ok(TransportOptions::all().into_iter().find(|one| one.name() == name))
    }

    fn names() -> String {
        let all = TransportOptions::all();
        let names: Vec<&str> = all.iter().map(TransportOptions::name).collect();
        format!("the transports are {}", names.join(", "))
    }
}

/// Sets an option of TLS, of either side.
#[cfg(feature = "tls")]
fn set_tls(tls: &mut TlsOptions, name: &str, value: &[u8]) -> Option<Result<(), String>> {
    tls.set(name, value).or_else(|| tls.client.set(name, value))
}

/// The default options for the kind of the endpoint.
impl From<&Endpoint> for TransportOptions {
    fn from(endpoint: &Endpoint) -> TransportOptions {
        match endpoint {
            Endpoint::Tcp(_) => TransportOptions::Tcp,
            Endpoint::Unix(_) => TransportOptions::Unix(UnixOptions::default()),
            Endpoint::Udp(_) => TransportOptions::Udp(UdpOptions::default()),
        }
    }
}

options! {
    /// Options of a Unix socket that is listened on. A client ignores them. An abstract name has no
    /// file, so it takes none of them.
    pub struct UnixOptions {
        /// The permissions of the socket file. A client needs write permission. Default: `None`,
        /// what the process's umask leaves of 0777.
        pub mode: Option<Mode> = None, "mode" = "MODE", Described("octal, 0 to 0777"),
            "permissions of the socket file; a client needs write permission",
            "what the umask leaves";
        /// The owner of the socket file. Default: `None`, the user and the group of the process.
        pub owner: Option<Owner> = None, "owner" = "USER[:GROUP]", Described("names or numbers"),
            "owner of the socket file", "what runs the server";
    }
}

options! {
    /// Options of a UDP socket that is served. A client ignores them.
    pub struct UdpOptions {
        /// The longest datagram in bytes, 1 to 65,527. A longer one is counted and not answered.
        /// Each socket has 64 buffers of this size. Default: 65,527, the longest over IPv6; over
        /// IPv4 it is 65,507.
        pub max_datagram: u32 = DATAGRAM_BYTES_MAX,
            "max-datagram" = "SIZE", Size(1, DATAGRAM_BYTES_MAX),
            "longest datagram that gets a reply";
        /// How many datagrams from one address are served, on average; over IPv6 from one /64
        /// network. Others are counted and thrown away. Default: `None`, no limit.
        pub source_rate: Option<SourceRate> = None, "source-rate" = "RATE",
            Described("1/s to 1000000/s"),
            "datagrams from one address (IPv6: one /64) that are served", "no limit";
        /// Whether replies that wait together for one client port are given to the kernel as one
        /// message (UDP_SEGMENT). They leave as datagrams of their own either way, but what they
        /// pass on this machine, such as a bridge or a packet filter, sees them as one. Default:
        /// true.
        pub segmentation: bool = true, "segmentation" = "WHETHER", Words(&["on", "off"]),
            "whether replies to one client port may pass through the kernel as one message";
        /// How many bytes of datagrams the kernel keeps for each socket until its thread takes them
        /// (SO_RCVBUF), 4 KiB to 1 GiB. Each counts with some hundred bytes of the kernel's own. A
        /// system allows less to a process without privileges (`net.core.rmem_max`). Default: 8 MiB,
        /// which has room for 128 of the longest datagrams or some 20,000 short ones: what arrives in
        /// tens of milliseconds in which the thread does not run.
        pub receive_buffer: u32 = 8 << 20, "receive-buffer" = "SIZE", Size(4 << 10, 1 << 30),
            "bytes that the kernel keeps for a socket until they are received";
    }
}

/// The longest datagram: over IPv6, without jumbograms. The length in its header has 16 bits, and
/// counts the 8 bytes of the header too.
pub const DATAGRAM_BYTES_MAX: u32 = 65_527;

/// Datagrams per second, 1 to 1,000,000. Written as `100/s`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SourceRate(u32);

impl SourceRate {
    /// This many datagrams per second. Returns `None` if it is not from 1 to 1,000,000.
    pub fn new(per_second: u32) -> Option<SourceRate> {
        (1..=1_000_000).contains(&per_second).then_some(SourceRate(per_second))
    }

    /// Datagrams per second.
    pub fn per_second(&self) -> u32 {
        self.0
    }
}

impl Value for SourceRate {
    fn read(&self, _: &About, text: &[u8]) -> Result<SourceRate, String> {
        let text = utf8(text)?;
        let count = text.strip_suffix("/s").and_then(|count| units::parse_count(count).ok());
        let rate = count.and_then(|count| SourceRate::new(u32::try_from(count).ok()?));
        rate.ok_or_else(|| format!("'{text}' must be a rate from 1/s to 1000000/s"))
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        Some(format!("{}/s", self.0).into())
    }
}

/// The permission bits of a file, 0 to 0o777.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mode(u32);

impl Mode {
    /// These permission bits. Returns `None` if `bits` is more than 0o777.
    pub fn new(bits: u32) -> Option<Mode> {
        (bits <= 0o777).then_some(Mode(bits))
    }

    /// The permission bits.
    pub fn bits(&self) -> u32 {
        self.0
    }
}

impl Value for Mode {
    fn read(&self, _: &About, text: &[u8]) -> Result<Mode, String> {
        let text = utf8(text)?;
        let is_octal = text.bytes().all(|digit| digit.is_ascii_digit());
        let bits = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
        bits.and_then(Mode::new).ok_or_else(|| {
            format!("'{text}' must be the octal number of permissions, such as 0660; at most 0777")
        })
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        Some(format!("{:04o}", self.0).into())
    }
}

/// A user, a group, or both, each by name or number: `user`, `user:group`, `:group`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owner(String);

impl Owner {
    /// The owner that is written like this. Whether the names exist is not checked here.
    ///
    /// # Errors
    /// There is neither a user nor a group, or a name contains a colon.
    pub fn new(text: &str) -> Result<Owner, String> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        match user.len() + group.len() {
            0 => Err(format!("'{text}' must be a user, user:group or :group")),
            _ if group.contains(':') => Err(format!("'{text}' has more than one colon")),
            _ => Ok(Owner(text.to_owned())),
        }
    }

    /// The user, if one is given.
    pub fn user(&self) -> Option<&str> {
        Some(self.0.split(':').next()?).filter(|user| !user.is_empty())
    }

    /// The group, if one is given.
    pub fn group(&self) -> Option<&str> {
        self.0.split_once(':').map(|(_, group)| group).filter(|group| !group.is_empty())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for Owner {
    fn read(&self, _: &About, text: &[u8]) -> Result<Owner, String> {
        Owner::new(utf8(text)?)
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        Some(self.0.clone().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_names_a_service_and_a_transport() {
        let of = |scheme| {
            let of = TransportOptions::of_scheme(scheme);
            of.map(|(service, transport)| (service, transport.name()))
        };
        for (scheme, service, transport) in [
            ("tcp", "", "tcp"),
            ("unix", "", "unix"),
            ("framed", "framed", "tcp"),
            ("framed+tcp", "framed", "tcp"),
            ("hub+unix", "hub", "unix"),
            ("http", "http", "tcp"),
            ("udp", "", "udp"),
            ("discard+udp", "discard", "udp"),
            #[cfg(feature = "tls")]
            ("tls", "", "tls"),
            #[cfg(feature = "tls")]
            ("framed+unix+tls", "framed", "unix+tls"),
        ] {
            assert_eq!(of(scheme), Ok((service, transport)), "{scheme}");
        }
        for (scheme, part) in [
            #[cfg(not(feature = "tls"))]
            ("tls", "the transport tls is not supported yet; the transports are tcp, unix"),
            #[cfg(not(feature = "tls"))]
            ("framed+unix+tls", "the transport unix+tls is not supported yet"),
            ("udp+tls", "TLS runs over tcp and unix, and not over udp"),
            ("echo+udp+tls", "TLS runs over tcp and unix, and not over udp"),
            ("tls+udp", "TLS runs over tcp and unix, and not over udp"),
            ("framed+http", "'http' is not a transport; the transports are tcp, unix"),
            ("framed+", "'' is not a transport"),
        ] {
            let error = of(scheme).unwrap_err();
            assert!(error.contains(part), "{scheme}: {error}");
        }
    }

    #[test]
    fn owners_have_a_user_or_a_group_or_both() {
        let parts = |text| {
            let owner = Owner::new(text).unwrap();
            (owner.user().map(str::to_owned), owner.group().map(str::to_owned))
        };
        assert_eq!(parts("www"), (Some("www".into()), None));
        assert_eq!(parts("www:"), (Some("www".into()), None));
        assert_eq!(parts("33:www"), (Some("33".into()), Some("www".into())));
        assert_eq!(parts(":www"), (None, Some("www".into())));
        for text in ["", ":", "a:b:c"] {
            assert!(Owner::new(text).is_err(), "{text}");
        }
    }
}
