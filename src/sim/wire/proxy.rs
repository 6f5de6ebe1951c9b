//! Peers that begin with a header of the PROXY protocol, in any pieces, or with one that is wrong or
//! incomplete, or without. The headers are written from the description of the protocol and not with
//! the server's own code.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::super::marks::Mark;
use super::super::world::{EndpointId, address_of};
use crate::base::time::Time;

/// The networks of the proxies.
pub(super) const PROXIES: &str = "fd02::/16";

/// How long a peer that is too late waits before it sends the rest of its header.
const LATE_BY: Duration = Duration::from_millis(3_500);

/// What a header is, or what is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sim) enum Sort {
    V1,
    V2,
    /// Of version 2, with more behind the addresses than all buffers hold.
    Long,
    /// It names no client: LOCAL, UNKNOWN, or a client that did not come by TCP.
    Unnamed,
    /// There is none.
    Absent,
    /// The service's bytes, which begin like a header.
    LooksAlike,
    /// A header that is required, but the peer is not a proxy.
    Stranger,
    /// A line of version 1 without an end.
    TooLong,
    /// A word or number that is not allowed.
    Wrong,
    /// FIN in the middle of it.
    CutShort,
    /// It stops in the middle.
    Stalls,
    /// It stops in the middle and goes on when it is too late.
    TooLate,
}

impl Sort {
    /// What it shows if the service has seen the peer, or has not.
    pub(in crate::sim) fn mark(self, was_seen: bool) -> Option<Mark> {
        Some(match (self, was_seen) {
            (Sort::V1, true) => Mark::ProxyV1,
            (Sort::V2, true) => Mark::ProxyV2,
            (Sort::Long, true) => Mark::ProxyLong,
            (Sort::Unnamed, true) => Mark::ProxyUnnamed,
            (Sort::Absent, true) => Mark::ProxyAbsent,
            (Sort::LooksAlike, true) => Mark::ProxyLookedAlike,
            (Sort::Stranger, true) => Mark::ProxyStrangerServed,
            (Sort::Absent, false) => Mark::ProxyMissing,
            (Sort::Stranger, false) => Mark::ProxyStranger,
            (Sort::TooLong, false) => Mark::ProxyTooLong,
            (Sort::Wrong, false) => Mark::ProxyWrong,
            (Sort::CutShort, false) => Mark::ProxyCutShort,
            (Sort::Stalls, false) => Mark::ProxyStalled,
            (Sort::TooLate, false) => Mark::ProxyTooLate,
            _ => return None,
        })
    }
}

/// What the server is to learn of a peer.
#[derive(Debug)]
pub(in crate::sim) struct Introduction {
    /// The address of its socket.
    pub(in crate::sim) from: SocketAddr,
    /// Who it is for the service. `None` if the service must not see it.
    pub(in crate::sim) known_as: Option<SocketAddr>,
    /// The length of its header in bytes, 0 if the service gets all of its bytes.
    pub(in crate::sim) header: usize,
    pub(in crate::sim) required: bool,
    /// Its end of the connection.
    pub(in crate::sim) endpoint: Cell<EndpointId>,
}

/// What a peer sends before its bytes.
pub(in crate::sim) struct Proxy {
    pub(in crate::sim) sort: Sort,
    pub(in crate::sim) introduction: Rc<Introduction>,
    header: Vec<u8>,
    said: usize,
    /// In how many pieces it was sent.
    pub(in crate::sim) pieces: usize,
    one_by_one: bool,
    /// Where it stops, for a while or for ever.
    stops_at: usize,
    goes_on_at: Option<Time>,
    /// How many of the service's bytes begin like a header.
    pub(in crate::sim) payload: usize,
    /// How many of the service's bytes leave open whether they are a header, at most.
    pub(in crate::sim) undecided_max: usize,
    /// The end of the header was sent with bytes of the service.
    pub(in crate::sim) together: bool,
}

/// What a peer does next about its header.
pub(in crate::sim) enum Next<'a> {
    /// It sends these bytes of it. `ends`: the header ends with them.
    Say { part: &'a [u8], ends: bool },
    /// It says nothing.
    Wait,
    /// It sends FIN.
    End,
    /// The header is over.
    Over,
}

impl Proxy {
    /// Draws the header of a peer. `any_bytes`: the service takes any bytes as its own. `silent`:
    /// the peer will send nothing. `pool` is how many bytes all buffers hold.
    pub(in crate::sim) fn draw(
        rng: &mut fastrand::Rng,
        number: usize,
        required: bool,
        (any_bytes, silent): (bool, bool),
        pool: usize,
    ) -> Proxy {
        let sort = draw_sort(rng, required, any_bytes, silent);
        let (proxy, stranger) = (of_network(0xfd02, number), of_network(0xfd01, number));
        let from = if sort == Sort::Stranger { stranger } else { proxy };
        let client = client(rng, number);
        let header = match sort {
            Sort::Absent => Vec::new(),
            Sort::Stranger if !required => Vec::new(),
            _ => header(rng, sort, required, client, pool),
        };
        let known_as = match sort {
            // What is too late may be in time, if the connection was accepted late.
            Sort::V1 | Sort::V2 | Sort::Long | Sort::TooLate => Some(client),
            Sort::Unnamed | Sort::LooksAlike => Some(from),
            Sort::Absent | Sort::Stranger if !required => Some(from),
            _ => None,
        };
        let stops_at = match sort {
            // Where it is certain that it is a header, unless it must be one.
            Sort::CutShort | Sort::Stalls | Sort::TooLate => {
                rng.usize(if required { 1 } else { V2_ADDRESSES }..header.len())
            }
            _ => header.len(),
        };
        let introduction = Introduction {
            from,
            known_as,
            header: if sort == Sort::LooksAlike { 0 } else { header.len() },
            required,
            endpoint: Cell::new(EndpointId::MAX),
        };
        Proxy {
            sort,
            introduction: Rc::new(introduction),
            said: 0,
            pieces: 0,
            one_by_one: header.len() < 128 && rng.u8(0..6) == 0,
            header,
            stops_at,
            goes_on_at: None,
            payload: 0,
            undecided_max: 0,
            together: false,
        }
    }

    /// Bytes that are the service's, before those of the script.
    pub(in crate::sim) fn take_payload(&mut self) -> Vec<u8> {
        match self.sort {
            Sort::LooksAlike => {
                (self.stops_at, self.payload) = (0, self.header.len());
                std::mem::take(&mut self.header)
            }
            _ => Vec::new(),
        }
    }

    /// Whether it has said what it says before the service's bytes.
    pub(in crate::sim) fn is_over(&self) -> bool {
        self.said == self.header.len()
    }

    /// Whether it was sent one byte at a time.
    pub(in crate::sim) fn was_one_by_one(&self) -> bool {
        self.header.len() > 1 && self.pieces == self.header.len()
    }

    /// Whether a connection that was closed for its header shows what this header is for. `waited`:
    /// the deadline had passed.
    pub(in crate::sim) fn is_as_intended(&self, waited: bool) -> bool {
        match self.sort {
            Sort::TooLong | Sort::Wrong => self.is_over(),
            Sort::CutShort => self.said == self.stops_at,
            Sort::Stalls => self.said == self.stops_at && waited,
            Sort::TooLate => self.is_over() && waited,
            _ => true,
        }
    }

    pub(in crate::sim) fn next(&mut self, rng: &mut fastrand::Rng, now: Time) -> Next<'_> {
        let mut end = self.header.len();
        if self.said <= self.stops_at && self.stops_at < end {
            end = self.stops_at;
        }
        if self.said == end && end < self.header.len() {
            match self.sort {
                Sort::CutShort => return Next::End,
                Sort::TooLate if now >= *self.goes_on_at.get_or_insert(now + LATE_BY) => {
                    end = self.header.len();
                }
                _ => return Next::Wait,
            }
        }
        let rest = end - self.said;
        if rest == 0 {
            return Next::Over;
        }
        let count = match () {
            () if self.one_by_one => 1,
            () if rng.bool() => rest,
            () => rng.usize(1..=rest),
        };
        let until = self.said + count;
        Next::Say { part: &self.header[self.said..until], ends: until == self.header.len() }
    }

    /// Of the last part, this many bytes were sent.
    pub(in crate::sim) fn has_said(&mut self, count: usize) {
        self.said += count;
        self.pieces += usize::from(count > 0);
    }
}

fn draw_sort(rng: &mut fastrand::Rng, required: bool, any_bytes: bool, silent: bool) -> Sort {
    let drawn = rng.u8(0..16);
    match drawn {
        8 => Sort::Stranger,
        _ if silent => Sort::Absent,
        0..=2 => Sort::V1,
        3..=5 => Sort::V2,
        6 => Sort::Unnamed,
        7 => Sort::Long,
        9 => Sort::Absent,
        10 => Sort::CutShort,
        11 => Sort::Stalls,
        12 => Sort::TooLate,
        13 if required => Sort::TooLong,
        14 if required => Sort::Stranger,
        _ if required => Sort::Wrong,
        13 => Sort::Absent,
        _ if any_bytes => Sort::LooksAlike,
        _ => Sort::Absent,
    }
}

/// The address of a peer in a network of its own. The number can be read from it.
fn of_network(network: u16, number: usize) -> SocketAddr {
    let IpAddr::V6(ip) = address_of(number).ip() else { unreachable!("the world has IPv6") };
    let mut segments = ip.segments();
    segments[0] = network;
    SocketAddr::new(Ipv6Addr::from(segments).into(), 1)
}

/// The address of the client that a header names.
fn client(rng: &mut fastrand::Rng, number: usize) -> SocketAddr {
    let [.., high, low] = (number as u32).to_be_bytes();
    let ip = match rng.bool() {
        true => address_of(number).ip(),
        false => Ipv4Addr::new(10, 0, high, low).into(),
    };
    SocketAddr::new(ip, rng.u16(1..))
}

const V2_BEGIN: &[u8] = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A";
/// The bytes of a header of version 2, with the addresses of IPv6.
const V2_ADDRESSES: usize = 16 + 36;

fn header(
    rng: &mut fastrand::Rng,
    sort: Sort,
    required: bool,
    client: SocketAddr,
    pool: usize,
) -> Vec<u8> {
    match sort {
        Sort::V1 => v1(rng, client),
        Sort::V2 => v2(rng, client, 300),
        Sort::Long => {
            let mut header = v2(rng, client, 0);
            let more = (pool + rng.usize(1..2_000)).min(usize::from(u16::MAX) - header.len());
            lengthen(rng, &mut header, more);
            header
        }
        Sort::Unnamed => unnamed(rng),
        Sort::LooksAlike => looks_alike(rng),
        Sort::TooLong => {
            let begin: &[u8] = if rng.bool() { b"PROXY UNKNOWN " } else { b"PROXY TCP6 fd00::1 " };
            let mut line = begin.to_vec();
            line.resize(rng.usize(107..400), b'a');
            line
        }
        Sort::Wrong => wrong(rng),
        _ if required && rng.bool() => v1(rng, client),
        // Longer than its addresses, so that it can stop behind them.
        _ => {
            let mut header = v2(rng, client, 0);
            let more = rng.usize(V2_ADDRESSES..200);
            lengthen(rng, &mut header, more);
            header
        }
    }
}

fn v1(rng: &mut fastrand::Rng, client: SocketAddr) -> Vec<u8> {
    let (ip, port, to) = (client.ip(), client.port(), rng.u16(1..));
    match ip {
        IpAddr::V4(ip) => format!("PROXY TCP4 {ip} 192.0.2.7 {port} {to}\r\n"),
        IpAddr::V6(ip) => format!("PROXY TCP6 {ip} 2001:db8::7 {port} {to}\r\n"),
    }
    .into_bytes()
}

/// With at most `more_max` bytes behind the addresses.
fn v2(rng: &mut fastrand::Rng, client: SocketAddr, more_max: usize) -> Vec<u8> {
    let mut header = V2_BEGIN.to_vec();
    match client.ip() {
        IpAddr::V4(ip) => {
            header.extend([0x21, 0x11, 0, 12]);
            header.extend(ip.octets());
            header.extend([192, 0, 2, 7]);
        }
        IpAddr::V6(ip) => {
            header.extend([0x21, 0x21, 0, 36]);
            header.extend(ip.octets());
            header.extend([0x20; 16]);
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(rng.u16(..).to_be_bytes());
    if rng.bool() {
        let more = rng.usize(0..=more_max);
        lengthen(rng, &mut header, more);
    }
    header
}

/// Adds bytes behind the addresses of a header of version 2.
fn lengthen(rng: &mut fastrand::Rng, header: &mut Vec<u8>, count: usize) {
    header.extend((0..count).map(|_| rng.u8(..)));
    let length = (header.len() - 16) as u16;
    header[14..16].copy_from_slice(&length.to_be_bytes());
}

fn unnamed(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut header = V2_BEGIN.to_vec();
    match rng.u8(0..5) {
        0 => return b"PROXY UNKNOWN\r\n".to_vec(),
        1 => return b"PROXY UNKNOWN ffff:: 1 whatever\r\n".to_vec(),
        // LOCAL, with addresses that do not count.
        2 => {
            header.extend([0x20, 0x21, 0, 36]);
            header.extend([0xfd; 36]);
        }
        // Unix sockets.
        3 => {
            header.extend([0x21, 0x31, 0, 216]);
            header.extend([b'/'; 216]);
        }
        _ => header.extend([0x21, 0x00, 0, 0]),
    }
    let more = rng.usize(0..50);
    if rng.bool() {
        lengthen(rng, &mut header, more);
    }
    header
}

/// Bytes that begin like a header and are none, whatever follows. None has its highest bit set.
fn looks_alike(rng: &mut fastrand::Rng) -> Vec<u8> {
    const ALIKE: [&[u8]; 8] = [
        b"PROXY TCP6 fd00::1 fd00::2 1 70000\r\n",
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
        b"PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
        b"PROXY UNKNOWN \rx",
        b"PROXY UDP4 ",
        b"PROXX",
        b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0C",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0B",
    ];
    rng.choice(ALIKE).expect("some").to_vec()
}

/// Bytes that are not a header, which shows in the last of them at the latest.
fn wrong(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut header = match rng.u8(0..3) {
        0 => return looks_alike(rng),
        1 => b"PROXY TCP4 10.0.0.1 fd00::1 1 2\r\n".to_vec(),
        _ => {
            let mut header = V2_BEGIN.to_vec();
            header.extend([0x21, 0x11, 0, 12]);
            let at = rng.usize(12..14);
            header[at] = rng.choice([0x24, 0x41, 0x99, 0xff]).expect("some");
            header.extend([10; 12]);
            return header;
        }
    };
    if rng.bool() {
        let at = rng.usize(0..6);
        header[at] ^= 0x20;
    }
    header
}
