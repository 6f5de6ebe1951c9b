//! The target of a client: host, port, and the framing of the service.

use std::net::{IpAddr, SocketAddr};

use super::error::Error;
use crate::builtin::url::{ServiceOptions, Spec};
use crate::protocol::framing::Framing;

/// Maximum frame length accepted from a hub. Each of its messages and lists of clients fits into
/// one of its buffers, which are at most 1 MiB.
const HUB_FRAME_BYTES_MAX: u32 = 1 << 20;

/// A parsed target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The address, if the host is an address. It then needs no look-up.
    pub(crate) literal: Vec<SocketAddr>,
    pub(crate) framing: Option<Framing>,
    pub(crate) service: ServiceOptions,
}

impl Target {
    /// Parses `[service://]host:port[?options]`, or only a port, which means this machine.
    pub(crate) fn parse(text: &str) -> Result<Target, Error> {
        let spec: Spec = text.parse().map_err(|error| Error::Target(format!("{error}")))?;
        if spec.transport.is_unix() {
            return Err(Error::Target(format!("{}: unix is not supported yet", spec)));
        }
        let (host, port) = match spec.address.rsplit_once(':') {
            Some((host, port)) => (host, port),
            None => ("localhost", &spec.address[..]),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|&port: &u16| port != 0);
        let unclear = bare.is_empty() || (bare == host && host.contains(':'));
        let (Some(port), false) = (port, unclear) else {
            return Err(Error::Target(format!(
                "'{}' is not a valid target; use host:port, such as localhost:7777, \
                 192.0.2.1:7777 or [::1]:7777",
                spec.address
            )));
        };
        let literal = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        let literal = literal.into_iter().collect();
        let framing = match spec.service {
            ServiceOptions::Hub(hub) => {
                Some(Framing::Length { order: hub.order, max: HUB_FRAME_BYTES_MAX })
            }
            other => other.framing(),
        };
        Ok(Target { host: bare.to_owned(), port, literal, framing, service: spec.service })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::framing::ByteOrder;

    #[test]
    fn hosts_ports_and_framings_are_understood() {
        let parse = |text: &str| Target::parse(text).unwrap();
        let literal = |text: &str| parse(text).literal.first().map(|address| address.to_string());
        assert_eq!(literal("127.0.0.1:7"), Some("127.0.0.1:7".into()));
        assert_eq!(literal("tcp://[::1]:7"), Some("[::1]:7".into()));
        assert_eq!(literal("localhost:7"), None);
        assert_eq!(literal("[fe80::1%lo]:7"), None, "a zone is looked up");
        assert_eq!((parse("7").host, parse("7").port), ("localhost".into(), 7));
        assert_eq!(parse("[fe80::1%lo]:7").host, "fe80::1%lo");
        assert_eq!(parse("h:7").framing, None);
        let big = Framing::Length { order: ByteOrder::Big, max: 9 };
        assert_eq!(parse("framed://h:7?order=big&max-frame=9").framing, Some(big));
        assert!(matches!(parse("hub://h:7").framing, Some(Framing::Length { .. })));
    }

    #[test]
    fn what_is_no_target_is_told_what_would_be() {
        for text in ["", "host", "host:", ":7", "host:0", "host:65536", "::1", "::1:7", "[]:7"] {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.contains("localhost:7777"), "{text}: {error}");
        }
        let error = Target::parse("http://h:7").unwrap_err().to_string();
        assert!(error.contains("framed"), "{error}");
    }
}
