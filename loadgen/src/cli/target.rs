//! The target of a run: which service, with which options, and where. The grammar is that of the
//! daemon, with a host that may need a name lookup; only services that loadgen can drive are
//! allowed.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use echopool::builtin::timed::TIMES_BYTES;
use echopool::builtin::url::{After, ServiceOptions, Spec};
use echopool::config::TransportOptions;
use echopool::endpoint::{Endpoint, UnixAddress};
use echopool::internals::stamp;
use echopool::tls::options::TlsOptions;

use crate::error::Failure;
use crate::traffic::protocol::Protocol;
use crate::traffic::sizes::Sizes;

/// A target before its name is looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub service: ServiceOptions,
    /// `None`: connections without TLS.
    pub tls: Option<TlsOptions>,
    /// `None`: loadgen starts the server.
    pub address: Option<Address>,
}

/// The address of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// At TCP ports.
    Tcp {
        /// A name or an address without brackets.
        host: String,
        /// At least one port. None of them is 0.
        ports: RangeInclusive<u16>,
    },
    /// At a Unix socket.
    Unix(UnixAddress),
    /// At UDP ports.
    Udp {
        /// A name or an address without brackets.
        host: String,
        /// At least one port. None of them is 0.
        ports: RangeInclusive<u16>,
    },
}

impl Address {
    /// The same host and ports over UDP.
    fn over_udp(self) -> Address {
        match self {
            Address::Tcp { host, ports } => Address::Udp { host, ports },
            other => other,
        }
    }

    /// How many targets it is: one for each port.
    pub fn count(&self) -> usize {
        match self {
            Address::Tcp { ports, .. } | Address::Udp { ports, .. } => ports.len(),
            Address::Unix(_) => 1,
        }
    }

    /// The name or address of the host. Empty for a Unix socket.
    pub fn host(&self) -> &str {
        match self {
            Address::Tcp { host, .. } | Address::Udp { host, .. } => host,
            Address::Unix(_) => "",
        }
    }
}

const GRAMMAR: &str = "use [service://]host:port[?options], [service+]unix://path[?options], \
                       [service+]tls://host:port[?options], udp://host:port, stamp://host[:port], or service:// alone for a \
                       server that loadgen starts; the services are echo \
                       (tcp), delay, framed, message, timed and hub";

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let spec: Spec = text.parse().map_err(|error| format!("{error}; {GRAMMAR}"))?;
        if let ServiceOptions::Discard | ServiceOptions::Chargen = spec.service {
            let name = spec.service.name();
            return Err(format!("{name} returns nothing that can be timed; {GRAMMAR}"));
        }
        let tls = spec.transport.tls().cloned();
        let address = match (spec.address.as_str(), text.contains("://")) {
            (address, _) if spec.transport.is_unix() => Some(Address::Unix(address.parse()?)),
            ("", true) if tls.is_some() => {
                return Err(format!(
                    "the server that loadgen starts does not speak TLS: give an address; {GRAMMAR}"
                ));
            }
            ("", true) if spec.transport.is_datagram() => {
                return Err("loadgen starts no server for udp: give an address".into());
            }
            ("", true) => None,
            (address, _) if spec.transport.is_datagram() => {
                let has_port = address.rsplit_once(':').is_some() && !address.ends_with(']');
                let address = match spec.service {
                    ServiceOptions::Stamp(_) if !has_port => &format!("{address}:{}", stamp::PORT),
                    _ => address,
                };
                Some(parse_address(address)?.over_udp())
            }
            (address, _) => Some(parse_address(address)?),
        };
        Ok(Target { service: spec.service, tls, address })
    }
}

/// In the grammar of the command line, with the options that differ from the defaults.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.service;
        let address = match &self.address {
            None => String::new(),
            Some(Address::Unix(address)) => {
                return f.write_str(&url(service, self.tls.as_ref(), &Endpoint::Unix(*address)));
            }
            Some(Address::Tcp { host, ports } | Address::Udp { host, ports }) => {
                let (first, last) = (ports.start(), ports.end());
                let more = if first < last { format!("-{last}") } else { String::new() };
                match host.contains(':') {
                    true => format!("[{host}]:{first}{more}"),
                    false => format!("{host}:{first}{more}"),
                }
            }
        };
        let proxy = Default::default();
        let transport = match (&self.address, self.tls.clone()) {
            (Some(Address::Udp { .. }), _) => TransportOptions::Udp(Default::default()),
            (_, Some(tls)) => TransportOptions::Tls(tls),
            _ => TransportOptions::Tcp,
        };
        Spec { service, transport, proxy, address }.fmt(f)
    }
}

fn parse_address(address: &str) -> Result<Address, String> {
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
    Ok(Address::Tcp { host: host.into(), ports: parse_ports(port)? })
}

/// One port, or the first and the last of several.
fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("'{text}' is not a port: use a number from 1 to 65535")),
    };
    let (first, last): (u16, u16) = (port(first)?, port(last)?);
    match first <= last {
        true => Ok(first..=last),
        false => Err(format!("'{text}' is in the wrong order: write it like 7001-7010")),
    }
}

/// The service of all targets.
///
/// # Errors
/// The targets have different services, or one of several has no address.
pub fn service(targets: &[Target]) -> Result<ServiceOptions, Failure> {
    let Some(first) = targets.first() else { return Ok(ServiceOptions::Echo) };
    if let Some(other) = targets.iter().find(|other| other.service != first.service) {
        return Err(Failure::Usage(format!(
            "{first} and {other} are different services: all targets must have the same service and \
             options"
        )));
    }
    if let Some(other) = targets.iter().find(|other| other.tls != first.tls) {
        return Err(Failure::Usage(format!(
            "{first} and {other} differ in TLS: all targets must have the same options of TLS, or \
             none must use it"
        )));
    }
    if targets.len() > 1 && targets.iter().any(|target| target.address.is_none()) {
        return Err(Failure::Usage(format!(
            "a server that loadgen starts must be the only target: use {}:// alone, or only addresses",
            first.service.name()
        )));
    }
    let one = |target: &Target| target.address.as_ref().is_none_or(|at| at.count() == 1);
    if matches!(first.service, ServiceOptions::Hub(_)) && (targets.len() > 1 || !one(first)) {
        return Err(Failure::Usage(
            "all clients of a hub must connect to one address: use one target with one port".into(),
        ));
    }
    Ok(first.service)
}

/// A service at an address, as it is shown.
pub fn url(service: ServiceOptions, tls: Option<&TlsOptions>, endpoint: &Endpoint) -> String {
    let transport = TransportOptions::to(endpoint, tls);
    let (proxy, address) = (Default::default(), endpoint.address());
    Spec { service, transport, proxy, address }.to_string()
}

/// Checks that all targets are over UDP or none is. Returns whether they are.
///
/// # Errors
/// Some are, and others are not.
pub fn over_udp(targets: &[Endpoint]) -> Result<bool, Failure> {
    let count = targets.iter().filter(|target| target.is_datagram()).count();
    if count > 0 && count < targets.len() {
        return Err(Failure::Usage(
            "some targets are over udp and others are not: drive them in two runs".into(),
        ));
    }
    Ok(count > 0)
}

/// How requests to a service are written. A hub has its own protocol.
pub fn protocol(service: &ServiceOptions) -> Protocol {
    match service {
        ServiceOptions::Framed(framed) => Protocol::Framed(framed.order),
        ServiceOptions::Timed(timed) => Protocol::Timed(timed.order),
        ServiceOptions::Message(message) => Protocol::Message(message.delimiter),
        _ => Protocol::Echo,
    }
}

/// Whether the server closes each connection after its reply to one request.
pub fn closes_after_one(service: &ServiceOptions) -> bool {
    matches!(service, ServiceOptions::Message(message) if message.after == After::Close)
}

/// Checks whether the service accepts requests of these sizes.
///
/// # Errors
/// It does not. The text has the remedy.
pub fn check_sizes(service: &ServiceOptions, sizes: &Sizes) -> Result<(), Failure> {
    let (option, max) = match service {
        ServiceOptions::Framed(framed) => ("max-frame", u64::from(framed.max_frame)),
        ServiceOptions::Timed(timed) => {
            ("max-frame", u64::from(timed.max_frame) - TIMES_BYTES as u64)
        }
        ServiceOptions::Message(message) => {
            let delimiter = message.delimiter.bytes().len() as u64;
            ("max-message", u64::from(message.max_message) - delimiter)
        }
        _ => return Ok(()),
    };
    let size = sizes.max();
    if size <= max {
        return Ok(());
    }
    let name = service.name();
    Err(Failure::Usage(format!(
        "-l {size} is more than the {max} bytes that {name} allows: set the limit of the target, \
         {name}://...?{option}=SIZE, if its server allows more"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (&'static str, Option<(String, RangeInclusive<u16>)>);

    fn target(text: &str) -> Result<Parts, String> {
        let target: Target = text.parse()?;
        let tcp = |address| match address {
            Address::Tcp { host, ports } => (host, ports),
            other => panic!("{other:?}"),
        };
        Ok((target.service.name(), target.address.map(tcp)))
    }

    #[test]
    fn targets() {
        let over = |service, host: &str, ports| Ok((service, Some((host.to_string(), ports))));
        let at = |service, host: &str, port| over(service, host, port..=port);
        assert_eq!(target("localhost:7777"), at("echo", "localhost", 7777));
        assert_eq!(target("tcp://10.0.0.1:7"), at("echo", "10.0.0.1", 7));
        assert_eq!(target("[::1]:7777"), at("echo", "::1", 7777));
        assert_eq!(target("tcp://[::1]:7777"), at("echo", "::1", 7777));
        assert_eq!(target("framed://[::1]:7?order=big"), at("framed", "::1", 7));
        assert_eq!(target("message://host:7?after=keep"), at("message", "host", 7));
        assert_eq!(target("a-host:7001-7010"), over("echo", "a-host", 7001..=7010));
        assert_eq!(target("framed://[::1]:7-9?order=big"), over("framed", "::1", 7..=9));
        assert_eq!(target("hub://"), Ok(("hub", None)));
        assert_eq!(target("delay://h:7?fixed=1ms"), at("delay", "h", 7));
        for text in [
            "tcp://[::1]:7",
            "tcp://[::1]:7-9",
            "framed://host:7-8?order=big",
            "hub://",
            "unix:///run/e.sock",
            "framed+unix://@name?order=big",
            "tls://h:7?insecure=on",
            "framed+tls://h:7-9?order=big&ca=a.pem&sni=b.test&resume=off&tls-max=1.2",
            "unix+tls:///run/e.sock?insecure=on",
            "hub+unix+tls://@name",
            "udp://host:7-8",
            "udp://[::1]:7",
        ] {
            assert_eq!(text.parse::<Target>().expect("a target").to_string(), text);
        }
        assert_eq!(target("framed://?order=big&max-frame=2m"), Ok(("framed", None)));
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_reason() {
        let reasons = [
            ("tls://", "does not speak TLS: give an address"),
            ("tls://host:1?mode=0600", "not of echo"),
            ("udp://", "starts no server for udp"),
            ("udp://host", "no port"),
            ("framed+udp://host:1", "framed needs a stream"),
            ("discard+udp://host:1", "returns nothing"),
            ("unix://", "path of the Unix socket is missing"),
            ("discard+unix:///e", "returns nothing"),
            ("unix:/tmp/socket", "not a port"),
            ("http://host:1", "not a service"),
            ("discard://host:1", "returns nothing"),
            ("chargen://", "returns nothing"),
            ("framed://host:1?after=keep", "option of message"),
            ("localhost", "no port"),
            ("7777", "no port"),
            ("::1:7777", "no port"),
            ("[::1]", "no port"),
            (":7777", "host is missing"),
            ("host:0", "not a port"),
            ("host:70000", "not a port"),
            ("host:", "not a port"),
            ("host:7-", "not a port"),
            ("host:0-7", "not a port"),
            ("host:9-7", "wrong order"),
        ];
        for (text, reason) in reasons {
            let error = target(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn several_targets_are_of_one_service_and_elsewhere() {
        let service = |texts: &[&str]| {
            let targets: Vec<Target> = texts.iter().map(|text| text.parse().unwrap()).collect();
            service(&targets).map(|service| service.name()).map_err(|failure| failure.to_string())
        };
        assert_eq!(service(&[]), Ok("echo"));
        assert_eq!(service(&["hub://"]), Ok("hub"));
        assert_eq!(service(&["framed://a:1", "framed://b:1-3"]), Ok("framed"));
        assert!(service(&["a:1", "framed://b:1"]).unwrap_err().contains("different services"));
        assert!(service(&["framed://", "framed://b:1"]).unwrap_err().contains("alone"));
        for hubs in [&["hub://a:1-2"][..], &["hub://a:1", "hub://a:2"]] {
            assert!(service(hubs).unwrap_err().contains("one address"));
        }
        assert_eq!(service(&["a:1", "unix:///e"]), Ok("echo"));
        assert_eq!(service(&["tls://a:1", "unix+tls:///e"]), Ok("echo"));
        for other in ["b:1", "tls://b:1?insecure=on"] {
            assert!(service(&["tls://a:1", other]).unwrap_err().contains("differ in TLS"));
        }
    }

    #[test]
    fn a_request_larger_than_the_service_takes_is_refused() {
        let check = |text: &str, size| {
            let target: Target = text.parse().expect("a target");
            check_sizes(&target.service, &Sizes::Fixed(size)).is_ok()
        };
        assert!(check("framed://", 1 << 20) && !check("framed://", (1 << 20) + 1));
        assert!(
            check("message://?max-message=100", 95) && !check("message://?max-message=100", 96)
        );
        assert!(check("timed://", (1 << 20) - 32) && !check("timed://", (1 << 20) - 31));
        assert!(check("host:1", 1 << 30));
    }
}
