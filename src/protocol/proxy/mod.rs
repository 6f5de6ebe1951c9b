//! The header of the PROXY protocol, versions 1 and 2: a proxy sends it before the bytes of a
//! connection, to identify the client.
//!
//! The format is described in <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. The
//! parser needs at most [`DECIDING`] bytes in a row: it reads nothing behind the addresses, and
//! returns how many bytes of the header follow. It does not allocate. Headers of both versions are
//! also written here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which bytes a header begins with in version 1.
const V1_BEGIN: &[u8] = b"PROXY ";
/// Which bytes a header begins with in version 2.
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The bytes of a version 2 header before the addresses.
const V2_FIXED: usize = 16;
/// The most bytes of a version 1 header, with its line end.
const V1_MAX: usize = 107;

/// With this many bytes it is always clear whether they begin with a header.
pub(crate) const DECIDING: usize = V1_MAX;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parsed {
    /// They may be the beginning of a header. Not returned for [`DECIDING`] bytes or more.
    Incomplete,
    /// They are not a header, whatever follows.
    NotAHeader,
    /// They are a header, or the part of one that says who the client is.
    Header {
        /// The address of the client. `None` if the header names none that is usable: the proxy
        /// speaks for itself (LOCAL), or the client did not come by TCP.
        client: Option<SocketAddr>,
        /// The length of the header in bytes, at most 65,551. It may be more than was given.
        length: u32,
    },
}

/// Parses the first bytes of a connection.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let begins = |with: &[u8]| {
        let count = with.len().min(bytes.len());
        bytes[..count] == with[..count]
    };
    if begins(V2_BEGIN) {
        parse_v2(bytes)
    } else if begins(V1_BEGIN) {
        parse_v1(bytes)
    } else {
        Parsed::NotAHeader
    }
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let bytes = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = bytes.iter().position(|&byte| byte == b'\r') else {
        return match bytes.len() {
            V1_MAX => Parsed::NotAHeader,
            _ => may_be_v1(bytes),
        };
    };
    match bytes.get(end + 1) {
        Some(b'\n') => {}
        None if bytes.len() < V1_MAX => return may_be_v1(&bytes[..end]),
        _ => return Parsed::NotAHeader,
    }
    match std::str::from_utf8(&bytes[..end]).ok().and_then(v1_client) {
        Some(client) => Parsed::Header { client, length: end as u32 + 2 },
        None => Parsed::NotAHeader,
    }
}

/// Whether a line that has not ended may become a header of version 1: its second word is right as
/// far as it goes.
fn may_be_v1(line: &[u8]) -> Parsed {
    let rest = line.get(V1_BEGIN.len()..).unwrap_or_default();
    let right = |protocol: &[u8]| match rest.get(..protocol.len()) {
        Some(word) => word == protocol && rest.get(protocol.len()).is_none_or(|&next| next == b' '),
        None => protocol.starts_with(rest),
    };
    match right(b"TCP4") || right(b"TCP6") || right(b"UNKNOWN") {
        true => Parsed::Incomplete,
        false => Parsed::NotAHeader,
    }
}

/// The client that the line of a version 1 header names, if the line is one.
fn v1_client(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.split(' ').skip(1);
    let protocol = words.next()?;
    if protocol == "UNKNOWN" {
        // What follows is to be ignored.
        return Some(None);
    }
    let address = |text: Option<&str>| -> Option<IpAddr> {
        match protocol {
            "TCP4" => Some(text?.parse::<Ipv4Addr>().ok()?.into()),
            "TCP6" => Some(text?.parse::<Ipv6Addr>().ok()?.into()),
            _ => None,
        }
    };
    let (source, _) = (address(words.next())?, address(words.next())?);
    let (port, _) = (v1_port(words.next()?)?, v1_port(words.next()?)?);
    words.next().is_none().then_some(Some(SocketAddr::new(source, port)))
}

/// A port in decimal digits, without a sign or leading zeros.
fn v1_port(text: &str) -> Option<u16> {
    let only_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| only_digits && !leading_zero)
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let Some(fixed) = bytes.get(V2_BEGIN.len()..V2_FIXED) else {
        // What is there of the fixed part may already be wrong.
        return match bytes.get(V2_BEGIN.len()) {
            Some(command) if !matches!(command, 0x20 | 0x21) => Parsed::NotAHeader,
            _ => Parsed::Incomplete,
        };
    };
    let [command, family, high, low] = *fixed else { unreachable!("four bytes") };
    let rest = u16::from_be_bytes([high, low]);
    let length = V2_FIXED as u32 + u32::from(rest);
    let is_proxy = match command {
        // The proxy's own connection, for example a health check. The family is to be ignored.
        0x20 => return Parsed::Header { client: None, length },
        0x21 => true,
        _ => false,
    };
    let addresses = match family >> 4 {
        0 => 0,
        1 => 2 * (4 + 2),
        2 => 2 * (16 + 2),
        3 => 2 * 108,
        _ => usize::MAX,
    };
    if !is_proxy || usize::from(rest) < addresses || family & 15 > 2 {
        return Parsed::NotAHeader;
    }
    let addresses = &bytes[V2_FIXED..];
    let client = match family {
        0x11 => v2_client::<4>(addresses),
        0x21 => v2_client::<16>(addresses),
        _ => return Parsed::Header { client: None, length },
    };
    match client {
        None => Parsed::Incomplete,
        client => Parsed::Header { client, length },
    }
}

/// The source of addresses of `N` bytes each, followed by two ports. `None` if they are not
/// complete.
fn v2_client<const N: usize>(addresses: &[u8]) -> Option<SocketAddr>
where
    [u8; N]: Into<IpAddr>,
{
    let ip: [u8; N] = *addresses.first_chunk()?;
    let port = *addresses.get(2 * N..)?.first_chunk()?;
    addresses.get(..2 * (N + 2))?;
    Some(SocketAddr::new(ip.into(), u16::from_be_bytes(port)))
}

/// A version of the header.
#[cfg(any(test, feature = "internals"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The header that a proxy sends for a client at `client` that has connected to `server`. If these
/// are not of the same family, both are written as IPv6 addresses.
#[cfg(any(test, feature = "internals"))]
pub fn header(version: Version, client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let both_v4 = client.is_ipv4() && server.is_ipv4();
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) if !both_v4 => IpAddr::V6(ip.to_ipv6_mapped()),
        ip => ip,
    };
    let (from, to) = (mapped(client), mapped(server));
    match version {
        Version::V1 => {
            let protocol = if both_v4 { "TCP4" } else { "TCP6" };
            let ports = format!("{} {}", client.port(), server.port());
            format!("PROXY {protocol} {from} {to} {ports}\r\n").into_bytes()
        }
        Version::V2 => {
            let mut addresses = Vec::new();
            for ip in [from, to] {
                match ip {
                    IpAddr::V4(ip) => addresses.extend(ip.octets()),
                    IpAddr::V6(ip) => addresses.extend(ip.octets()),
                }
            }
            for port in [client.port(), server.port()] {
                addresses.extend(port.to_be_bytes());
            }
            let mut bytes = V2_BEGIN.to_vec();
            bytes.extend([0x21, if both_v4 { 0x11 } else { 0x21 }, 0, addresses.len() as u8]);
            bytes.extend(addresses);
            bytes
        }
    }
}

#[cfg(test)]
mod tests;
