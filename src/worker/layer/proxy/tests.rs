//! Headers in any pieces: who the peer is then, and what the service gets.

use std::net::SocketAddr;

use super::super::Plain;
use super::*;
use crate::buffer::Reserve;
use crate::protocol::proxy::{Version, header};

const TIMEOUT: Duration = Duration::from_secs(5);
const BUFFERS: u32 = 4;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The proxy.
fn proxy() -> Peer {
    address("127.0.0.1:5").into()
}

fn client() -> Peer {
    address("192.0.2.1:56324").into()
}

fn headers() -> [Vec<u8>; 3] {
    let (from, to) = (address("192.0.2.1:56324"), address("198.51.100.7:443"));
    let mut with_more = header(Version::V2, from, to);
    with_more[14..16].copy_from_slice(&612_u16.to_be_bytes());
    with_more.extend([0xEE; 600]);
    [header(Version::V1, from, to), header(Version::V2, from, to), with_more]
}

/// A connection of a listener.
struct Connection {
    layer: Proxied<Plain>,
    state: ProxyState<()>,
    pool: Pool,
    at: Peer,
    input: Chain,
}

impl Connection {
    fn new(headers: ProxyHeaders, at: Peer) -> Connection {
        let pool = Pool::new(Reserve::new(256, BUFFERS).unwrap(), 0);
        let options = ProxyOptions { headers, ..ProxyOptions::default() };
        let layer = Proxied::new(&options, TIMEOUT, Plain);
        let state = layer.state(0, at, &pool);
        let input = Chain::new(&pool);
        Connection { layer, state, pool, at, input }
    }

    /// Bytes arrive, in as many buffers as they take.
    fn gets(&mut self, bytes: &[u8]) -> Result<(), CloseReason> {
        for piece in bytes.chunks(256) {
            let mut lease = self.pool.lease().expect("a free buffer");
            lease.extend_from_slice(piece);
            let mut wire = Chain::from(lease);
            let before = self.input.len();
            let Connection { layer, state, input, pool, .. } = self;
            let count = layer.received(state, input, &mut wire, pool)?;
            assert!(wire.is_empty() && self.input.len() == before + count);
            assert!(count == 0 || self.peer().is_some(), "input before the peer is known");
        }
        Ok(())
    }

    fn peer(&self) -> Option<Peer> {
        self.layer.peer(&self.state, self.at)
    }

    fn input(&self) -> Vec<u8> {
        self.input.slices().flatten().copied().collect()
    }

    fn decide(&mut self) -> Result<usize, CloseReason> {
        self.layer.decide(&mut self.state, &mut self.input, &self.pool)
    }

    fn ended(&mut self) -> Result<usize, CloseReason> {
        self.layer.ended(&mut self.state, &mut self.input, &self.pool)
    }
}

const BOTH: [ProxyHeaders; 2] = [ProxyHeaders::Optional, ProxyHeaders::Require];

#[test]
fn a_header_may_be_cut_anywhere_and_the_rest_is_the_clients() {
    for headers_are in BOTH {
        for header in headers() {
            let bytes = [&header[..], b"hello"].concat();
            for cut in 0..=bytes.len() {
                let mut connection = Connection::new(headers_are, proxy());
                connection.gets(&bytes[..cut]).unwrap();
                assert_eq!(connection.peer(), (cut >= header.len()).then(client), "{cut}");
                assert!(connection.pool.held() <= 1, "{cut}");
                connection.gets(&bytes[cut..]).unwrap();
                assert_eq!(
                    (connection.peer(), connection.input()),
                    (Some(client()), b"hello".into())
                );
                assert_eq!(connection.ended(), Ok(0));
            }
        }
    }
}

#[test]
fn a_header_may_arrive_one_byte_at_a_time_and_takes_one_buffer() {
    for header in headers() {
        let mut connection = Connection::new(ProxyHeaders::Require, proxy());
        for byte in &header {
            assert_eq!(connection.peer(), None);
            connection.gets(&[*byte]).unwrap();
            assert!(connection.pool.held() <= 1);
        }
        assert_eq!((connection.peer(), connection.pool.held()), (Some(client()), 0));
    }
}

#[test]
fn a_header_without_a_client_leaves_the_peer_of_the_socket() {
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let unix = [&signature[..], &[0x21, 0x31, 0, 216], &[b'/'; 216]].concat();
    let local = [&signature[..], &[0x20, 0, 0, 3, 1, 2, 3]].concat();
    let unspecified = [&signature[..], &[0x21, 0, 0, 0]].concat();
    for header in [b"PROXY UNKNOWN 1 2 3\r\n".to_vec(), unix, local, unspecified] {
        for at in [proxy(), Peer::Unix { pid: 1, uid: 2, gid: 3 }] {
            let mut connection = Connection::new(ProxyHeaders::Require, at);
            connection.gets(&[&header[..], b"hello"].concat()).unwrap();
            assert_eq!((connection.peer(), connection.input()), (Some(at), b"hello".into()));
        }
    }
}

#[test]
fn an_ipv4_mapped_client_is_an_ipv4_client() {
    let (from, to) = (address("[::ffff:192.0.2.1]:56324"), address("[::1]:443"));
    let mut connection = Connection::new(ProxyHeaders::Require, proxy());
    connection.gets(&header(Version::V2, from, to)).unwrap();
    assert_eq!(connection.peer(), Some(client()));
}

#[test]
fn what_is_not_a_header_closes_where_one_is_required() {
    for bytes in
        [&b"hello"[..], b"PROXY TCP4 1.2.3.4 5.6.7.8 1 x\r\n", &[b'\r'; 300], b"PROXY UNKNOWN\rx"]
    {
        let mut connection = Connection::new(ProxyHeaders::Require, proxy());
        assert_eq!(connection.gets(bytes), Err(CloseReason::ProxyHeader));
        assert_eq!((connection.peer(), connection.input.len()), (None, 0));
    }
    let long = [b"PROXY UNKNOWN ", &[b'x'; 300][..]].concat();
    let mut connection = Connection::new(ProxyHeaders::Require, proxy());
    connection.gets(&long[..106]).unwrap();
    assert_eq!(connection.gets(&long[106..107]), Err(CloseReason::ProxyHeader));
}

/// Bytes of clients that look more or less like a header.
const NOT_HEADERS: [&[u8]; 7] = [
    b"hello",
    b"P",
    b"PROXY",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 x\r\nhello",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x99",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x99\0\0hello",
];

#[test]
fn what_is_not_a_header_is_the_services_where_one_is_optional() {
    for bytes in NOT_HEADERS {
        for cut in 0..=bytes.len() {
            for by_end in [true, false] {
                let mut connection = Connection::new(ProxyHeaders::Optional, proxy());
                connection.gets(&bytes[..cut]).unwrap();
                connection.gets(&bytes[cut..]).unwrap();
                let before = connection.input.len();
                let more = match by_end {
                    true => connection.ended(),
                    false if connection.peer().is_some() => Ok(0),
                    false => connection.decide(),
                };
                assert_eq!(more, Ok(bytes.len() - before));
                assert_eq!((connection.peer(), connection.input()), (Some(proxy()), bytes.into()));
                assert_eq!(connection.ended(), Ok(0));
            }
        }
    }
}

#[test]
fn a_client_that_is_silent_is_opened_late_where_a_header_is_optional() {
    let mut connection = Connection::new(ProxyHeaders::Optional, proxy());
    assert_eq!(connection.layer.opening_timeout(&connection.state), TIMEOUT);
    assert_eq!((connection.decide(), connection.peer()), (Ok(0), Some(proxy())));
    let mut connection = Connection::new(ProxyHeaders::Require, proxy());
    assert_eq!(connection.decide(), Err(CloseReason::ProxyHeader));
}

#[test]
fn the_end_before_a_header_is_an_end_and_in_it_an_error() {
    let mut connection = Connection::new(ProxyHeaders::Require, proxy());
    assert_eq!((connection.ended(), connection.peer()), (Ok(0), None));
    for headers_are in BOTH {
        for header in headers() {
            for cut in 1..header.len() {
                let mut connection = Connection::new(headers_are, proxy());
                connection.gets(&header[..cut]).unwrap();
                // Once it is a header, it must be complete.
                let may_be = headers_are == ProxyHeaders::Optional && connection.pool.held() > 0;
                let expected = if may_be { Ok(cut) } else { Err(CloseReason::ProxyHeader) };
                assert_eq!(connection.ended(), expected, "{cut} of {}", header.len());
            }
        }
    }
}

#[test]
fn only_a_proxy_is_believed() {
    let far = Peer::from(address("192.0.2.9:1"));
    let mut connection = Connection::new(ProxyHeaders::Optional, far);
    assert!(!connection.layer.names_peer(0, far) && connection.layer.names_peer(0, proxy()));
    assert_eq!(connection.peer(), Some(far), "at once");
    connection.gets(&headers()[0]).unwrap();
    assert_eq!((connection.peer(), connection.input()), (Some(far), headers()[0].clone()));
    let mut connection = Connection::new(ProxyHeaders::Require, far);
    let begun = connection.layer.begin(&mut connection.state, &connection.pool);
    assert_eq!((begun, connection.peer()), (Err(CloseReason::ProxyHeader), None));
}

#[test]
fn bytes_that_are_kept_are_known_and_dropped_with_the_input() {
    let mut connection = Connection::new(ProxyHeaders::Require, proxy());
    assert!(!connection.layer.keeps_input(&connection.state));
    connection.gets(b"PROXY ").unwrap();
    assert!(connection.layer.keeps_input(&connection.state));
    connection.layer.forget_input(&mut connection.state);
    assert!(!connection.layer.keeps_input(&connection.state));
    assert_eq!(connection.pool.held(), 0);
}
