//! The simulated socket, as the threads see it: headers with pointers in them, which become datagrams
//! of the world and come from them. What the calls do is in `calls`.
#![allow(unsafe_code)]

use std::hash::{BuildHasher, Hasher};
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::slice;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::world::{SharedWorld, lock};
use crate::base::time::Time;
use crate::builtin::stamp::Clock;
use crate::engine::sys::ClockError;
use crate::error::Errno;
use crate::net::message_calls::MessageCalls;
use crate::worker::datagram::Socket;

/// A descriptor of a simulated socket, of one thread.
pub(super) struct SimSocket {
    pub(super) world: SharedWorld,
    pub(super) thread: usize,
}

/// What a receive writes to a header.
#[derive(Clone, Debug, Default)]
pub(super) struct Incoming {
    pub(super) source: Option<SocketAddr>,
    pub(super) bytes: Arc<[u8]>,
    /// Level, type and data.
    pub(super) control: Vec<(i32, i32, Vec<u8>)>,
}

/// What a header says of a datagram that is to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outgoing {
    pub(super) to: SocketAddr,
    pub(super) from: Option<IpAddr>,
    pub(super) bytes: Vec<u8>,
}

/// What a header sends: a datagram, or with `segment` as many as bytes of this length make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Message {
    pub(super) segment: Option<u16>,
    pub(super) datagrams: Vec<Outgoing>,
}

/// The room that a header offers: its buffer, and the lengths of the buffer, the name and the control
/// messages.
pub(super) type Room = (usize, usize, usize, usize);

impl MessageCalls for SimSocket {
    // SAFETY: it asks for no more than the trait does.
    unsafe fn receive(
        &self,
        headers: &mut [libc::mmsghdr],
        flags: libc::c_int,
    ) -> Result<usize, Errno> {
        // SAFETY: the caller promises it.
        let rooms: Vec<Room> = headers.iter().map(|header| unsafe { room(header) }).collect();
        let waits = flags & libc::MSG_DONTWAIT == 0;
        let order = lock(&self.world).enters_receive(self.thread, &rooms, waits);
        if let Some(order) = order {
            order.carry_out(&self.world);
        }
        let received = lock(&self.world).receive(self.thread, rooms.len(), waits)?;
        for (header, one) in headers.iter_mut().zip(&received) {
            // SAFETY: the caller promises it.
            unsafe { fill(header, one) };
        }
        Ok(received.len())
    }

    // SAFETY: it asks for no more than the trait does.
    unsafe fn send(&self, headers: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
        // SAFETY: the caller promises it.
        let messages = headers.iter().map(|header| unsafe { read(header) }).collect();
        let order = lock(&self.world).enters_send(self.thread);
        if let Some(order) = order {
            order.carry_out(&self.world);
        }
        let count = lock(&self.world).send(self.thread, messages)?;
        for header in &mut headers[..count] {
            // SAFETY: the caller promises it.
            let vectors = unsafe { vectors(&header.msg_hdr) };
            header.msg_len = vectors.iter().map(|vector| vector.iov_len).sum::<usize>() as u32;
        }
        Ok(count)
    }
}

/// # Safety
/// The header points to a vector.
unsafe fn room(header: &libc::mmsghdr) -> Room {
    let header = &header.msg_hdr;
    assert_eq!(header.msg_iovlen, 1, "a buffer for each datagram");
    // SAFETY: the caller promises it.
    let vector = unsafe { *header.msg_iov };
    let buffer = vector.iov_base as usize;
    (buffer, vector.iov_len, header.msg_namelen as usize, header.msg_controllen as _)
}

/// # Safety
/// What the header points to can be written.
unsafe fn fill(header: &mut libc::mmsghdr, datagram: &Incoming) {
    let to = &mut header.msg_hdr;
    // SAFETY: the caller promises it.
    let (name, control, buffer) = unsafe {
        let vector = *to.msg_iov;
        (
            slice::from_raw_parts_mut(to.msg_name.cast::<u8>(), to.msg_namelen as usize),
            slice::from_raw_parts_mut(to.msg_control.cast::<u8>(), to.msg_controllen as _),
            slice::from_raw_parts_mut(vector.iov_base.cast::<u8>(), vector.iov_len),
        )
    };
    let written = datagram.source.map_or_else(Vec::new, name_of);
    name[..written.len()].copy_from_slice(&written);
    to.msg_namelen = written.len() as _;
    let length = datagram.bytes.len().min(buffer.len());
    buffer[..length].copy_from_slice(&datagram.bytes[..length]);
    to.msg_flags = if datagram.bytes.len() > length { libc::MSG_TRUNC } else { 0 };
    header.msg_len = length as u32;
    let mut at = 0;
    for (level, kind, data) in &datagram.control {
        let length = CONTROL_HEADER + data.len();
        let message = &mut control[at..at + length.next_multiple_of(8)];
        message[..8].copy_from_slice(&length.to_ne_bytes());
        message[8..12].copy_from_slice(&level.to_ne_bytes());
        message[12..16].copy_from_slice(&kind.to_ne_bytes());
        message[CONTROL_HEADER..length].copy_from_slice(data);
        at += message.len();
    }
    to.msg_controllen = at as _;
}

/// The header of a control message on systems of 64 bits (cmsg(3)).
const CONTROL_HEADER: usize = 16;

/// # Safety
/// The header points to vectors.
unsafe fn vectors(header: &libc::msghdr) -> &[libc::iovec] {
    // SAFETY: the caller promises it.
    unsafe { slice::from_raw_parts(header.msg_iov, header.msg_iovlen as _) }
}

/// The datagrams of a message: one, or several with UDP_SEGMENT.
///
/// # Safety
/// What the header points to can be read.
unsafe fn read(header: &libc::mmsghdr) -> Message {
    let from = &header.msg_hdr;
    // SAFETY: the caller promises it.
    let (name, vectors) = unsafe {
        (
            slice::from_raw_parts(from.msg_name.cast::<u8>(), from.msg_namelen as usize),
            vectors(from),
        )
    };
    let mut bytes = Vec::new();
    for vector in vectors {
        // SAFETY: the caller promises it.
        bytes
            .extend(unsafe { slice::from_raw_parts(vector.iov_base.cast::<u8>(), vector.iov_len) });
    }
    let control = match from.msg_control.is_null() {
        true => &[][..],
        // SAFETY: the caller promises it.
        false => unsafe {
            slice::from_raw_parts(from.msg_control.cast::<u8>(), from.msg_controllen as _)
        },
    };
    let control: Vec<(i32, i32, &[u8])> = messages_of(control);
    let (to, from) = (address_of(name), source_of(&control));
    let segment = segment_of(&control);
    let cut = segment.map_or(bytes.len(), usize::from).max(1);
    let parts = if bytes.is_empty() { vec![&[][..]] } else { bytes.chunks(cut).collect() };
    let datagram = |bytes: &[u8]| Outgoing { to, from, bytes: bytes.to_vec() };
    Message { segment, datagrams: parts.into_iter().map(datagram).collect() }
}

/// The bytes of a `sockaddr_in` or `sockaddr_in6`.
fn name_of(address: SocketAddr) -> Vec<u8> {
    let (family, port) = match address {
        SocketAddr::V4(_) => (libc::AF_INET, address.port()),
        SocketAddr::V6(_) => (libc::AF_INET6, address.port()),
    };
    let mut name = (family as u16).to_ne_bytes().to_vec();
    name.extend(port.to_be_bytes());
    match address {
        SocketAddr::V4(address) => {
            name.extend(address.ip().octets());
            name.extend([0; 8]);
        }
        SocketAddr::V6(address) => {
            name.extend(address.flowinfo().to_ne_bytes());
            name.extend(address.ip().octets());
            name.extend(address.scope_id().to_ne_bytes());
        }
    }
    name
}

fn address_of(name: &[u8]) -> SocketAddr {
    let number = |at: usize| u32::from_ne_bytes(name[at..at + 4].try_into().expect("4 bytes"));
    let port = u16::from_be_bytes([name[2], name[3]]);
    match (i32::from(u16::from_ne_bytes([name[0], name[1]])), name.len()) {
        (libc::AF_INET, 16..) => {
            let ip: [u8; 4] = name[4..8].try_into().expect("4 bytes");
            (Ipv4Addr::from(ip), port).into()
        }
        (libc::AF_INET6, 28..) => {
            let ip: [u8; 16] = name[8..24].try_into().expect("16 bytes");
            SocketAddrV6::new(Ipv6Addr::from(ip), port, number(4), number(24)).into()
        }
        (family, length) => panic!("a reply to a name of family {family} and {length} bytes"),
    }
}

/// Level, type and data of each control message (cmsg(3)).
fn messages_of(mut control: &[u8]) -> Vec<(i32, i32, &[u8])> {
    let mut messages = Vec::new();
    while !control.is_empty() {
        let word = |at: usize| i32::from_ne_bytes(control[at..at + 4].try_into().expect("4 bytes"));
        let length = usize::from_ne_bytes(control[..8].try_into().expect("8 bytes"));
        messages.push((word(8), word(12), &control[CONTROL_HEADER..length]));
        control = &control[length.next_multiple_of(8)..];
    }
    assert!(messages.len() <= 2, "a source, and the length of a segment: {messages:?}");
    messages
}

/// The length of a segment (udp(7)).
fn segment_of(messages: &[(i32, i32, &[u8])]) -> Option<u16> {
    let is_segment = |(level, kind, _): &&(i32, i32, &[u8])| {
        (*level, *kind) == (libc::SOL_UDP, libc::UDP_SEGMENT)
    };
    let (_, _, data) = messages.iter().find(is_segment)?;
    Some(u16::from_ne_bytes((*data).try_into().expect("2 bytes")))
}

/// The address that a datagram is to leave from (ip(7), ipv6(7)).
fn source_of(messages: &[(i32, i32, &[u8])]) -> Option<IpAddr> {
    let (level, kind, data) = messages.iter().find(|(level, _, _)| *level != libc::SOL_UDP)?;
    match (*level, *kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            assert_eq!(data.len(), size_of::<libc::in_pktinfo>());
            let at = offset_of!(libc::in_pktinfo, ipi_spec_dst);
            let ip: [u8; 4] = data[at..at + 4].try_into().expect("4 bytes");
            Some(Ipv4Addr::from(ip).into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            assert_eq!(data.len(), size_of::<libc::in6_pktinfo>());
            let ip: [u8; 16] = data[..16].try_into().expect("16 bytes");
            Some(Ipv6Addr::from(ip).into())
        }
        other => panic!("a control message {other:?} for a reply"),
    }
}

impl Socket for SimSocket {
    type Hasher = InTurn;

    fn shut_down(&self) {
        lock(&self.world).shut_down(self.thread);
    }

    fn dropped(&self) -> Option<u32> {
        Some(lock(&self.world).dropped_at(self.thread))
    }

    fn knows_segments(&self) -> bool {
        lock(&self.world).draw.knows_segments
    }

    fn now(&self) -> Time {
        lock(&self.world).now_of(self.thread)
    }

    fn pause(&self, time: Duration) {
        lock(&self.world).pauses(self.thread, time);
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        lock(&self.world).close(self.thread);
    }
}

/// The wall clock of the world, for a thread's service.
pub(super) struct SimClock {
    pub(super) world: SharedWorld,
    pub(super) thread: usize,
}

impl Clock for SimClock {
    fn unix_now_ns(&self) -> u64 {
        lock(&self.world).read_wall_clock(self.thread)
    }

    fn error(&self) -> ClockError {
        lock(&self.world).read_clock_error(self.thread)
    }
}

/// Hashes that never collide: each value has the next number. So the world knows who shares a set of
/// a table: all, or nobody.
#[derive(Clone, Default)]
pub(super) struct InTurn {
    pub(super) has_one_set: bool,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// The bits that select a set, in either table.
const SET_BITS: u32 = 12;
/// The bits from here on tell sources apart in `source_rate`.
const TAG_AT: u32 = 44;

impl InTurn {
    pub(super) fn new(has_one_set: bool) -> InTurn {
        InTurn { has_one_set, seen: Arc::default() }
    }
}

impl BuildHasher for InTurn {
    type Hasher = HashedValue;

    fn build_hasher(&self) -> HashedValue {
        HashedValue { of: self.clone(), bytes: Vec::new() }
    }
}

/// A value that is hashed.
pub(super) struct HashedValue {
    of: InTurn,
    bytes: Vec<u8>,
}

impl Hasher for HashedValue {
    fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    fn finish(&self) -> u64 {
        let mut seen = self.of.seen.lock().expect("nothing panics with it");
        let known = seen.iter().position(|one| *one == self.bytes);
        let number = known.unwrap_or_else(|| {
            seen.push(self.bytes.clone());
            seen.len() - 1
        }) as u64;
        let set = if self.of.has_one_set { 0 } else { number & ((1 << SET_BITS) - 1) };
        // Never 0, as the hash of a place that was never used.
        (number + 1) << TAG_AT | set
    }
}
