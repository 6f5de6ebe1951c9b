//! The target of a run: which service, with which options, and where. The grammar is the daemon's;
//! here it gets a host that may have to be looked up, and a service that loadgen can drive.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use echopool::spec::{After, ServiceOptions, Spec};

use crate::failure::Failure;
use crate::protocol::Protocol;
use crate::sizes::Sizes;

/// A target that has not been looked up yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub service: ServiceOptions,
    /// `None`: a server of our own.
    pub address: Option<Address>,
}

/// Where a server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// A name or an address, without brackets.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

const GRAMMAR: &str = "use [service://]host:port[?options], service:// alone for a server of its \
                       own; the services are echo (tcp), delay, framed, message and hub";

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        if ["tls", "udp", "unix"].contains(&scheme) && text.parse::<std::net::IpAddr>().is_err() {
            return Err(format!("{scheme}: is not supported yet; {GRAMMAR}"));
        }
        let spec: Spec = text.parse().map_err(|error| format!("{error}; {GRAMMAR}"))?;
        if let ServiceOptions::Discard | ServiceOptions::Chargen = spec.service {
            let name = spec.service.name();
            return Err(format!("{name} sends nothing back that could be timed; {GRAMMAR}"));
        }
        let address = match (spec.address.as_str(), text.contains("://")) {
            ("", true) => None,
            (address, _) => Some(parse_address(address)?),
        };
        Ok(Target { service: spec.service, address })
    }
}

/// As it is written, with the options that are not the default ones.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match &self.address {
            None => String::new(),
            Some(Address { host, port }) if host.contains(':') => format!("[{host}]:{port}"),
            Some(Address { host, port }) => format!("{host}:{port}"),
        };
        Spec { service: self.service, address }.fmt(f)
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
    match port.parse() {
        Ok(port) if port != 0 => Ok(Address { host: host.into(), port }),
        _ => Err(format!("'{port}' is no port: use a number from 1 to 65535")),
    }
}

/// A service at an address, as it is shown.
pub fn url(service: ServiceOptions, address: SocketAddr) -> String {
    Spec { service, address: address.to_string() }.to_string()
}

/// How requests to a service are written. A hub's are written by `hub`.
pub fn protocol(service: &ServiceOptions) -> Protocol {
    match service {
        ServiceOptions::Framed(framed) => Protocol::Framed(framed.order),
        ServiceOptions::Message(message) => Protocol::Message(message.delimiter),
        _ => Protocol::Echo,
    }
}

/// Whether the server closes each connection when it has answered one request.
pub fn closes_after_one(service: &ServiceOptions) -> bool {
    matches!(service, ServiceOptions::Message(message) if message.after == After::Close)
}

/// Whether the service takes requests of these sizes.
///
/// # Errors
/// It does not, and what to do.
pub fn check_sizes(service: &ServiceOptions, sizes: &Sizes) -> Result<(), Failure> {
    let (option, max) = match service {
        ServiceOptions::Framed(framed) => ("max-frame", u64::from(framed.max_frame)),
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
        "-l {size} is more than the {max} bytes that {name} takes: give the target a larger limit, \
         {name}://...?{option}=SIZE, if its server has one"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (&'static str, Option<(String, u16)>);

    fn target(text: &str) -> Result<Parts, String> {
        let target: Target = text.parse()?;
        Ok((target.service.name(), target.address.map(|one| (one.host, one.port))))
    }

    #[test]
    fn targets() {
        let at = |service, host: &str, port| Ok((service, Some((host.to_string(), port))));
        assert_eq!(target("localhost:7777"), at("echo", "localhost", 7777));
        assert_eq!(target("tcp://10.0.0.1:7"), at("echo", "10.0.0.1", 7));
        assert_eq!(target("[::1]:7777"), at("echo", "::1", 7777));
        assert_eq!(target("tcp://[::1]:7777"), at("echo", "::1", 7777));
        assert_eq!(target("framed://[::1]:7?order=big"), at("framed", "::1", 7));
        assert_eq!(target("message://host:7?after=keep"), at("message", "host", 7));
        assert_eq!(target("hub://"), Ok(("hub", None)));
        assert_eq!(target("delay://h:7?fixed=1ms"), at("delay", "h", 7));
        for text in ["tcp://[::1]:7", "framed://host:7?order=big", "hub://"] {
            assert_eq!(text.parse::<Target>().expect("a target").to_string(), text);
        }
        assert_eq!(target("framed://?order=big&max-frame=2m"), Ok(("framed", None)));
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_reason() {
        let reasons = [
            ("tls://host:1", "not supported yet"),
            ("udp://host:1", "not supported yet"),
            ("unix:/tmp/socket", "not supported yet"),
            ("http://host:1", "no service"),
            ("discard://host:1", "nothing back"),
            ("chargen://", "nothing back"),
            ("framed://host:1?after=keep", "option of message"),
            ("localhost", "no port"),
            ("7777", "no port"),
            ("::1:7777", "no port"),
            ("[::1]", "no port"),
            (":7777", "host is missing"),
            ("host:0", "no port"),
            ("host:70000", "no port"),
            ("host:", "no port"),
        ];
        for (text, reason) in reasons {
            let error = target(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
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
        assert!(check("host:1", 1 << 30));
    }
}
