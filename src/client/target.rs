//! The target of a client: where the server is, and the framing of the service.

use std::net::{IpAddr, SocketAddr};

use super::error::Error;
use crate::base::endpoint::Endpoint;
use crate::builtin::url::{ServiceOptions, Spec};
use crate::protocol::framing::Framing;
#[cfg(feature = "tls")]
use crate::tls::options::TlsOptions;

/// Maximum frame length accepted from a hub. Each of its messages and lists of clients fits into
/// one of its buffers, which are at most 1 MiB.
const HUB_FRAME_BYTES_MAX: u32 = 1 << 20;

/// A parsed target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// The name to look up, if `literal` is empty.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The address, if the host is an address or the target is a Unix socket. It then needs no
    /// look-up.
    pub(crate) literal: Vec<Endpoint>,
    pub(crate) framing: Option<Framing>,
    pub(crate) service: ServiceOptions,
    /// `None`: a connection without TLS.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsOptions>,
}

impl Target {
    /// Parses `[service://]host:port[?options]`, only a port, which means this machine,
    /// `[service+]unix://path[?options]`, or the same over TLS.
    pub(crate) fn parse(text: &str) -> Result<Target, Error> {
        let spec: Spec = text.parse().map_err(|error| Error::Target(format!("{error}")))?;
        if spec.transport.is_datagram() {
            return Err(Error::Target(
                "a client over udp is not supported; use loadgen, or nc -u, or a server over tcp"
                    .to_owned(),
            ));
        }
        let (host, port, literal) = match spec.transport.is_unix() {
            true => {
                let address = spec.address.parse().map_err(Error::Target)?;
                (String::new(), 0, vec![Endpoint::Unix(address)])
            }
            false => Target::parse_tcp(&spec.address)?,
        };
        let framing = match spec.service {
            ServiceOptions::Hub(hub) => {
                Some(Framing::Length { order: hub.order, max: HUB_FRAME_BYTES_MAX })
            }
            other => other.framing(),
        };
        Ok(Target {
            host,
            port,
            literal,
            framing,
            service: spec.service,
            #[cfg(feature = "tls")]
            tls: spec.transport.tls().cloned(),
        })
    }

    /// The host, the port, and the address if the host is one.
    fn parse_tcp(address: &str) -> Result<(String, u16, Vec<Endpoint>), Error> {
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => (host, port),
            None => ("localhost", address),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|&port: &u16| port != 0);
        let unclear = bare.is_empty() || (bare == host && host.contains(':'));
        let (Some(port), false) = (port, unclear) else {
            return Err(Error::Target(format!(
                "'{address}' is not a valid target; use host:port, such as localhost:7777, \
                 192.0.2.1:7777 or [::1]:7777, or unix:///path"
            )));
        };
        let literal = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port).into());
        Ok((bare.to_owned(), port, literal.into_iter().collect()))
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
        assert_eq!(literal("127.0.0.1:7"), Some("tcp://127.0.0.1:7".into()));
        assert_eq!(literal("tcp://[::1]:7"), Some("tcp://[::1]:7".into()));
        assert_eq!(literal("localhost:7"), None);
        assert_eq!(literal("hub+unix:///run/h.sock"), Some("unix:///run/h.sock".into()));
        assert_eq!(literal("unix://@name"), Some("unix://@name".into()));
        assert_eq!(literal("[fe80::1%lo]:7"), None, "a zone is looked up");
        assert_eq!((parse("7").host, parse("7").port), ("localhost".into(), 7));
        assert_eq!(parse("[fe80::1%lo]:7").host, "fe80::1%lo");
        assert_eq!(parse("h:7").framing, None);
        let big = Framing::Length { order: ByteOrder::Big, max: 9 };
        assert_eq!(parse("framed://h:7?order=big&max-frame=9").framing, Some(big));
        assert!(matches!(parse("hub://h:7").framing, Some(Framing::Length { .. })));
    }

    #[test]
    #[cfg(feature = "tls")]
    fn a_target_over_tls_has_its_options() {
        let target = Target::parse("framed+tls://h:7?sni=other.test").unwrap();
        let options = target.tls.unwrap();
        assert_eq!((&target.host[..], target.port, options.client.insecure), ("h", 7, false));
        assert_eq!(options.client.sni.unwrap().as_str(), "other.test");
        assert!(Target::parse("unix+tls:///e?insecure=on").unwrap().tls.unwrap().client.insecure);
        assert_eq!(Target::parse("h:7").unwrap().tls, None);
    }

    #[test]
    fn what_is_no_target_is_told_what_would_be() {
        for text in ["", "host", "host:", ":7", "host:0", "host:65536", "::1", "::1:7", "[]:7"] {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.contains("localhost:7777"), "{text}: {error}");
        }
        let error = Target::parse("echo+udp://h:7").unwrap_err().to_string();
        assert!(error.contains("over udp is not supported"), "{error}");
        let error = Target::parse("http://h:7").unwrap_err().to_string();
        assert!(error.contains("framed"), "{error}");
    }
}
