//! Headers that are right, wrong and cut, and a comparison with the crate `ppp`.

use ppp::v1::{Addresses as V1Addresses, Header as V1Header};
use ppp::v2::{Addresses as V2Addresses, Header as V2Header, Protocol};
use proptest::prelude::*;

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn is(bytes: &[u8], client: Option<&str>, length: u32) {
    assert_eq!(parse(bytes), Parsed::Header { client: client.map(address), length });
    for cut in 0..bytes.len().min(length as usize) {
        let parsed = parse(&bytes[..cut]);
        assert!(
            parsed == Parsed::Incomplete || parsed == parse(bytes),
            "{cut} of {bytes:x?}: {parsed:?}"
        );
    }
}

/// A header of version 2.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [V2_BEGIN, &[command, family], &length, rest].concat()
}

#[test]
fn headers_of_version_1() {
    let tcp4 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n";
    is(tcp4, Some("192.0.2.1:56324"), 45);
    is(&[&tcp4[..], b"PROXY TCP4 more"].concat(), Some("192.0.2.1:56324"), 45);
    is(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", Some("[2001:db8::1]:1"), 36);
    is(b"PROXY UNKNOWN\r\n", None, 15);
    let long = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(long.len(), V1_MAX);
    is(long.as_bytes(), None, 107);
    is(b"PROXY UNKNOWN any other thing that a later version may add\r\nx", None, 60);
    is(b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some("0.0.0.0:0"), 32);
}

#[test]
fn headers_of_version_2() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 7, 0xDC, 4, 1, 0xBB];
    is(&v2(0x21, 0x11, &v4), Some("192.0.2.1:56324"), 28);
    let mut v6 = [0; 36];
    (v6[0], v6[15], v6[33]) = (0xFD, 9, 80);
    is(&v2(0x21, 0x21, &v6), Some("[fd00::9]:80"), 52);
    // The proxy itself; no address; a datagram; a Unix socket.
    is(&v2(0x20, 0x00, &[]), None, 16);
    is(&v2(0x20, 0x11, &v4), None, 28);
    is(&v2(0x20, 0xFF, b"ignored"), None, 23);
    is(&v2(0x21, 0x00, b"ignored"), None, 23);
    is(&v2(0x21, 0x12, &v4), None, 28);
    is(&v2(0x21, 0x31, &[b'/'; 216]), None, 232);
    // What follows the addresses is passed over.
    let with_more = [&v4[..], &[3, 0, 4, 1, 2, 3, 4], &[0; 60_000]].concat();
    is(&v2(0x21, 0x11, &with_more), Some("192.0.2.1:56324"), 28 + 7 + 60_000);
    is(&v2(0x21, 0x11, &[&v4[..], &[0; 65_523]].concat()), Some("192.0.2.1:56324"), 65_551);
}

#[test]
fn what_is_not_a_header_is_known_as_soon_as_it_can_be() {
    let not_before = |bytes: &[u8], at: usize| {
        assert_eq!(parse(&bytes[..at]), Parsed::Incomplete, "{}", bytes.escape_ascii());
        assert_eq!(parse(&bytes[..=at]), Parsed::NotAHeader, "{}", bytes.escape_ascii());
        assert_eq!(parse(bytes), Parsed::NotAHeader, "{}", bytes.escape_ascii());
    };
    not_before(b"hello", 0);
    not_before(b"PROXYING", 5);
    not_before(b"PROXY TCP5 ", 9);
    not_before(b"PROXY TCP44", 10);
    not_before(b"PROXY UNKNOWNS", 13);
    not_before(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rx", 31);
    not_before(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", 32);
    for line in [
        "1.2.3.4 5.6.7.8 1",
        "1.2.3.4 5.6.7.8 1 2 3",
        "1.2.3.4  5.6.7.8 1 2",
        "1.2.3.256 5.6.7.8 1 2",
        "1.2.3.4 ::1 1 2",
        "1.2.3.4 5.6.7.8 01 2",
        "1.2.3.4 5.6.7.8 1 65536",
        "1.2.3.4 5.6.7.8 +1 2",
        "1.2.3.4 5.6.7.8 -1 2",
        "1.2.3.4 5.6.7.8 1 ",
        "",
    ] {
        let header = format!("PROXY TCP4 {line}\r\n");
        not_before(header.as_bytes(), header.len() - 1);
    }
    // Nothing ends the line in time.
    let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    not_before(&long, V1_MAX - 1);
    let late = [&long[..V1_MAX - 1], b"\r\n"].concat();
    not_before(&late, V1_MAX - 1);
    not_before(b"\r\n\r\n\0\r\nQUIT\r", 11);
    for (command, family, rest, at) in [
        (0x11, 0x11, 12, 12),
        (0x22, 0x11, 12, 12),
        (0x21, 0x41, 12, 15),
        (0x21, 0x13, 12, 15),
        (0x21, 0x11, 11, 15),
        (0x21, 0x21, 35, 15),
        (0x21, 0x31, 215, 15),
    ] {
        not_before(&v2(command, family, &vec![0; rest]), at);
    }
}

#[test]
fn what_is_written_is_read() {
    let (four, six) = (address("192.0.2.1:5"), address("[2001:db8::1]:65535"));
    for version in [Version::V1, Version::V2] {
        for (client, server) in [(four, four), (six, six), (six, four)] {
            let bytes = header(version, client, server);
            is(&bytes, Some(&client.to_string()), bytes.len() as u32);
        }
        let mixed = header(version, four, six);
        is(&mixed, Some("[::ffff:192.0.2.1]:5"), mixed.len() as u32);
    }
}

/// What `ppp` makes of a header that is complete.
fn ppp(bytes: &[u8]) -> Option<(Option<SocketAddr>, usize)> {
    if let Ok(header) = V2Header::try_from(bytes) {
        let used = header.command == ppp::v2::Command::Proxy && header.protocol == Protocol::Stream;
        let client = match header.addresses {
            V2Addresses::IPv4(ip) => Some((ip.source_address, ip.source_port).into()),
            V2Addresses::IPv6(ip) => Some((ip.source_address, ip.source_port).into()),
            _ => None,
        };
        return Some((client.filter(|_| used), header.len()));
    }
    let header = V1Header::try_from(bytes).ok()?;
    let client = match header.addresses {
        V1Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        V1Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        V1Addresses::Unknown => None,
    };
    Some((client, header.header.len()))
}

/// Where the two may differ: `ppp` takes a plus before a port, does not ignore the family of LOCAL,
/// and does not see the end of a line with more than four words behind UNKNOWN.
fn is_disputed(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let many = line.starts_with(b"PROXY UNKNOWN ")
        && line.iter().filter(|&&byte| byte == b' ').count() > 5;
    many || line.contains(&b'+') || bytes.get(12) == Some(&0x20)
}

/// Both come to the same result, and the first bytes never contradict it.
fn compare(bytes: &[u8]) {
    let ours = parse(bytes);
    let whole = match ours {
        Parsed::Header { client, length } if length as usize <= bytes.len() => {
            Some((client, length as usize))
        }
        _ => None,
    };
    if !is_disputed(bytes) {
        assert_eq!(whole, ppp(bytes), "{}", bytes.escape_ascii());
    }
    for cut in 0..bytes.len().min(300) {
        match parse(&bytes[..cut]) {
            Parsed::Incomplete => assert!(cut < DECIDING),
            decided => assert_eq!(decided, ours, "{cut} of {}", bytes.escape_ascii()),
        }
    }
}

/// Right headers, with bytes behind them.
fn headers() -> impl Strategy<Value = Vec<u8>> {
    let pair = prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
    ];
    let version = prop_oneof![Just(Version::V1), Just(Version::V2)];
    let written = (version, pair, any::<(u16, u16)>()).prop_map(|(version, (a, b), (p, q))| {
        header(version, SocketAddr::new(a, p), SocketAddr::new(b, q))
    });
    let family =
        prop_oneof![Just(0x00), Just(0x11), Just(0x12), Just(0x21), Just(0x31), 0..=0xFF_u8];
    let command = prop_oneof![Just(0x21), Just(0x20), 0..=0xFF_u8];
    let rest = prop::collection::vec(any::<u8>(), 0..260);
    let made =
        (command, family, rest).prop_map(|(command, family, rest)| v2(command, family, &rest));
    let unknown = "[ -~]{0,100}".prop_map(|rest| format!("PROXY UNKNOWN{rest}\r\n").into_bytes());
    let line = "PROXY (TCP4|TCP6) [0-9.: ]{0,60}\r\n".prop_map(String::into_bytes);
    let behind = prop::collection::vec(any::<u8>(), 0..20);
    (prop_oneof![written, made, unknown, line], behind).prop_map(|(a, b)| [a, b].concat())
}

proptest! {
    #![proptest_config(crate::base::property::config())]

    #[test]
    fn ours_and_ppp_agree_on_headers(bytes in headers()) {
        compare(&bytes);
    }

    #[test]
    fn ours_and_ppp_agree_on_changed_headers(
        bytes in headers(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..4),
    ) {
        let mut bytes = bytes;
        for (at, byte, kind) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        compare(&bytes);
    }

    #[test]
    fn ours_and_ppp_agree_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        compare(&bytes);
    }
}
