//! Many datagrams with one system call: recvmmsg and sendmmsg, with the control messages that tell
//! where a datagram was sent to and how many the kernel has dropped. rustix has no recvmmsg, and nix
//! sends the same control messages with all datagrams of a call.
//!
//! Replies to one peer can leave as one message (`segments`).
//!
//! Everything is allocated by [`Batch::new`]. Control messages and addresses are read and written as
//! bytes, without unsafe code; only the two calls (`message_calls`) and their headers need it.
#![allow(unsafe_code)]

use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr;

use super::message_calls::MessageCalls;
use crate::base::errno::Errno;
use segments::{are_refused_as_one, is_joined, replies};

mod segments;
#[cfg(test)]
mod tests;

/// Room for the control messages of a datagram: the destination of both families (32 and 40 bytes),
/// the count of dropped datagrams (24), its time (32), and its hop limit of both families (24 each).
const CONTROL_BYTES: usize = 192;

/// Buffers must not all begin at the same place of a page: the first bytes of all datagrams would
/// then share a few lines of the processor's cache.
const PAGE: usize = 4096;
const CACHE_LINE: usize = 64;

/// The control messages of a datagram, aligned as the kernel requires.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// A batch of datagrams: as many buffers, addresses and headers as one system call may fill.
///
/// The headers point into the other fields, which never move. So a batch stays on the thread that
/// made it.
pub struct Batch {
    incoming: Box<[libc::mmsghdr]>,
    outgoing: Box<[libc::mmsghdr]>,
    /// Headers of `outgoing` that are to be sent.
    queued: usize,
    /// The datagram that each of these is a reply to, until they are joined.
    replies: Box<[usize]>,
    /// Headers of `incoming` that the last call has filled.
    received: usize,
    names: Box<[libc::sockaddr_in6]>,
    controls: Box<[Control]>,
    /// One for each incoming header, then one for each outgoing header.
    vectors: Box<[libc::iovec]>,
    bytes: Box<[u8]>,
    stride: usize,
    longest: usize,
}

/// A datagram that has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arrived {
    /// Who has sent it. `None` if the kernel reports no address, as on a connected socket of some
    /// systems, or for a receive that was shut down.
    pub source: Option<SocketAddr>,
    /// The address of this machine that it was sent to, if the socket reports it.
    pub local: Option<IpAddr>,
    /// Whether it was sent to an address of several machines: broadcast or multicast.
    pub is_to_many: bool,
    /// Bytes of it that are in the buffer.
    pub length: usize,
    /// Whether it was longer than the buffer.
    pub is_truncated: bool,
    /// How many datagrams the kernel had dropped at this socket when this one was queued. `None` if
    /// it was none. The number wraps around.
    pub dropped_before: Option<u32>,
    /// When the kernel received it, in nanoseconds since 1970, if the socket reports it.
    pub at_unix_ns: Option<u64>,
    /// The hop limit (TTL) with which it arrived, if the socket reports it.
    pub hop_limit: Option<u8>,
}

/// What became of the datagrams of a [`Batch::send`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Datagrams that the kernel has taken.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// System calls that sent something.
    pub calls: u64,
    /// Messages that several of them have left as.
    pub joined: u64,
    /// Messages of several datagrams that the kernel has refused. They were then sent one by one.
    pub split: u64,
    /// Datagrams that the kernel has refused.
    pub refused: u64,
    /// Whether there was no room in the send buffer.
    pub is_full: bool,
}

/// Whether a receive waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// For the first datagram; then it takes what is there.
    ForOne,
    /// Not at all.
    No,
}

#[cfg_attr(not(any(test, feature = "internals")), allow(dead_code, reason = "for loadgen"))]
impl Batch {
    /// A batch of `count` datagrams of at most `longest` bytes each.
    pub fn new(count: usize, longest: usize) -> Batch {
        let stride = stride(longest);
        // SAFETY: all of these consist of integers and pointers, for which zero is a valid value.
        let (header, name) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let empty = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let mut batch = Batch {
            incoming: vec![header; count].into(),
            outgoing: vec![header; count].into(),
            queued: 0,
            replies: vec![0; count].into(),
            received: count,
            names: vec![name; count].into(),
            controls: vec![Control([0; CONTROL_BYTES]); count].into(),
            vectors: vec![empty; 2 * count].into(),
            bytes: vec![0; count * stride].into(),
            stride,
            longest,
        };
        for at in 0..count {
            let buffer = &mut batch.bytes[at * stride..][..longest];
            let base = buffer.as_mut_ptr().cast();
            batch.vectors[at] = libc::iovec { iov_base: base, iov_len: longest };
            batch.vectors[count + at] = batch.vectors[at];
        }
        let vectors = batch.vectors.as_mut_ptr();
        for at in 0..count {
            let header = &mut batch.incoming[at].msg_hdr;
            header.msg_name = (&raw mut batch.names[at]).cast();
            // SAFETY: the index is below the length of the slice.
            header.msg_iov = unsafe { vectors.add(at) };
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut batch.controls[at]).cast();
            let header = &mut batch.outgoing[at].msg_hdr;
            // SAFETY: as above.
            header.msg_iov = unsafe { vectors.add(count + at) };
            header.msg_iovlen = 1;
        }
        batch
    }

    /// Memory of a batch, in bytes.
    pub const fn bytes(count: usize, longest: usize) -> u64 {
        let headers = 2 * (size_of::<libc::mmsghdr>() + size_of::<libc::iovec>());
        let addresses = size_of::<libc::sockaddr_in6>() + size_of::<Control>();
        (count * (stride(longest) + headers + addresses + size_of::<usize>())) as u64
    }

    /// Receives datagrams in place of those that it holds. Returns how many, at least one.
    ///
    /// # Errors
    /// EAGAIN if there is none and the call does not wait; EINTR if a signal has ended the wait; or
    /// what the system reports for the socket.
    #[inline]
    pub fn receive(&mut self, socket: &impl MessageCalls, wait: Wait) -> Result<usize, Errno> {
        // The kernel has written what it used of the room.
        for at in 0..self.received {
            let header = &mut self.incoming[at].msg_hdr;
            header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_controllen = CONTROL_BYTES as _;
        }
        self.received = 0;
        self.queued = 0;
        let flags = match wait {
            Wait::ForOne => libc::MSG_WAITFORONE,
            Wait::No => libc::MSG_DONTWAIT,
        };
        loop {
            // SAFETY: each header points to a name, an I/O vector and control messages of this
            // batch, with their lengths, and each vector to a buffer of its own. All of them live
            // as long as the batch, are not borrowed during the call, and take any bytes.
            match unsafe { socket.receive(&mut self.incoming, flags) } {
                Ok(count) => {
                    self.received = count;
                    return Ok(count);
                }
                Err(Errno::INTR) if wait == Wait::No => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What is known of datagram number `at`.
    ///
    /// # Panics
    /// There is no datagram of this number.
    #[inline]
    pub fn arrived(&self, at: usize) -> Arrived {
        assert!(at < self.received, "no datagram has this number");
        let libc::mmsghdr { msg_hdr, msg_len } = &self.incoming[at];
        let has_name = msg_hdr.msg_namelen > 0;
        let mut arrived = Arrived {
            source: if has_name { address_of(&self.names[at]) } else { None },
            local: None,
            is_to_many: false,
            length: *msg_len as usize,
            is_truncated: msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            dropped_before: None,
            at_unix_ns: None,
            hop_limit: None,
        };
        // Other C libraries have other types for it.
        let length: usize = msg_hdr.msg_controllen as _;
        for (level, kind, data) in messages(&self.controls[at].0[..length.min(CONTROL_BYTES)]) {
            arrived.take(level, kind, data);
        }
        arrived
    }

    /// The bytes of datagram number `at`.
    #[inline]
    pub fn datagram(&self, at: usize) -> &[u8] {
        let length = self.incoming[at].msg_len as usize;
        &self.buffer(at)[..length.min(self.longest)]
    }

    /// Buffer number `at`, whole.
    #[inline]
    pub fn buffer(&self, at: usize) -> &[u8] {
        &self.bytes[at * self.stride..][..self.longest]
    }

    /// Buffer number `at`, whole, for writing.
    #[inline]
    pub fn buffer_mut(&mut self, at: usize) -> &mut [u8] {
        &mut self.bytes[at * self.stride..][..self.longest]
    }

    /// Queues the first `length` bytes of buffer number `at`, to be sent back to where the datagram
    /// in it came from. They leave from `local`, if it is given.
    ///
    /// # Panics
    /// There is no datagram of this number.
    #[inline]
    pub fn reply(&mut self, at: usize, length: usize, local: Option<IpAddr>) {
        assert!(at < self.received, "no datagram has this number");
        let incoming = &self.incoming[at].msg_hdr;
        let (name, name_length) = (incoming.msg_name, incoming.msg_namelen);
        let control = incoming.msg_control;
        let control_length = local.map_or(0, |local| write_source(&mut self.controls[at].0, local));
        self.replies[self.queued] = at;
        let header = self.queue(at, length);
        (header.msg_name, header.msg_namelen) = (name, name_length);
        (header.msg_control, header.msg_controllen) = match control_length {
            0 => (ptr::null_mut(), 0),
            length => (control, length as _),
        };
    }

    /// Queues the first `length` bytes of buffer number `at`, to be sent to where the socket is
    /// connected.
    #[inline]
    pub fn push(&mut self, at: usize, length: usize) {
        let header = self.queue(at, length);
        (header.msg_name, header.msg_namelen) = (ptr::null_mut(), 0);
        (header.msg_control, header.msg_controllen) = (ptr::null_mut(), 0);
    }

    fn queue(&mut self, at: usize, length: usize) -> &mut libc::msghdr {
        assert!(length <= self.longest, "longer than the buffer");
        let vector = self.vectors.len() / 2 + self.queued;
        self.vectors[vector] = libc::iovec { iov_len: length, ..self.vectors[at] };
        let header = &mut self.outgoing[self.queued].msg_hdr;
        // It may have been that of other replies, which were joined.
        // SAFETY: the index is below the length of the slice.
        header.msg_iov = unsafe { self.vectors.as_mut_ptr().add(vector) };
        header.msg_iovlen = 1;
        self.queued += 1;
        header
    }

    /// Sends what is queued, in its order. A datagram that the kernel refuses is skipped, and when
    /// there is no room for one, all that follow are refused with it. Those that were
    /// [joined](Self::join), and that the kernel does not send as one, are sent one by one.
    #[inline]
    pub fn send(&mut self, socket: &impl MessageCalls) -> Sent {
        let mut sent = Sent::default();
        let mut at = 0;
        while at < self.queued {
            let queued = &mut self.outgoing[at..self.queued];
            // SAFETY: each header points to vectors, and to a name and control messages or nothing,
            // with their lengths. All of them live as long as the batch, and the call only reads
            // them. It writes to the headers, which are not borrowed elsewhere.
            match unsafe { socket.send(queued) } {
                Ok(count @ 1..) => {
                    let queued = &queued[..count];
                    sent.calls += 1;
                    sent.datagrams += replies(queued);
                    sent.joined += queued.iter().filter(|one| is_joined(one)).count() as u64;
                    let bytes = queued.iter().map(|one| u64::from(one.msg_len));
                    sent.bytes += bytes.sum::<u64>();
                    at += count;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    sent.is_full = true;
                    sent.refused += replies(queued);
                    break;
                }
                Err(error) if is_joined(&queued[0]) && are_refused_as_one(error) => {
                    sent.split += 1;
                    self.split(at);
                }
                Ok(0) | Err(_) => {
                    sent.refused += replies(&queued[..1]);
                    at += 1;
                }
            }
        }
        self.queued = 0;
        sent
    }
}

/// Bytes from the beginning of a buffer to that of the next one.
const fn stride(longest: usize) -> usize {
    match longest.next_multiple_of(CACHE_LINE) {
        whole if whole.is_multiple_of(PAGE) => whole + CACHE_LINE,
        other => other,
    }
}

/// The address in a name that the kernel has written. That of IPv4 (`sockaddr_in`) has its port in
/// the same place, and its address in the place of the flow.
fn address_of(name: &libc::sockaddr_in6) -> Option<SocketAddr> {
    let port = u16::from_be(name.sin6_port);
    match i32::from(name.sin6_family) {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(name.sin6_flowinfo.to_ne_bytes());
            Some(SocketAddr::from((ip, port)))
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let (flow, scope) = (name.sin6_flowinfo, name.sin6_scope_id);
            Some(SocketAddrV6::new(ip, port, flow, scope).into())
        }
        _ => None,
    }
}

/// The header of a control message, and what follows it, have this alignment.
const ALIGNMENT: usize = size_of::<usize>();
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>().next_multiple_of(ALIGNMENT);

/// The control messages in these bytes: level, type and data of each.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from_ne_bytes(at(bytes, 0)?);
        let level = i32::from_ne_bytes(at(bytes, offset_of!(libc::cmsghdr, cmsg_level))?);
        let kind = i32::from_ne_bytes(at(bytes, offset_of!(libc::cmsghdr, cmsg_type))?);
        let data = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((level, kind, data))
    })
}

/// `N` bytes from this place on, if there are as many.
fn at<const N: usize>(bytes: &[u8], place: usize) -> Option<[u8; N]> {
    bytes.get(place..place + N)?.try_into().ok()
}

/// `in_pktinfo`: interface, address of this machine, destination in the header.
const IPV4_LOCAL: usize = offset_of!(libc::in_pktinfo, ipi_spec_dst);
const IPV4_DESTINATION: usize = offset_of!(libc::in_pktinfo, ipi_addr);
/// `in6_pktinfo`: destination, interface.
const IPV6_DESTINATION: usize = offset_of!(libc::in6_pktinfo, ipi6_addr);

impl Arrived {
    /// Takes what a control message tells.
    fn take(&mut self, level: i32, kind: i32, data: &[u8]) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let local: Option<[u8; 4]> = at(data, IPV4_LOCAL);
                let destination: Option<[u8; 4]> = at(data, IPV4_DESTINATION);
                self.local = local.map(|local| Ipv4Addr::from(local).into());
                // The kernel gives an own address of the machine beside that of the broadcast.
                self.is_to_many = local != destination;
            }
            // An IPv4 datagram at a socket of both families has both, and the one above tells more.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if self.local.is_none() => {
                let destination: Option<[u8; 16]> = at(data, IPV6_DESTINATION);
                let destination = destination.map(Ipv6Addr::from);
                let mapped = destination.is_some_and(|ip| ip.to_ipv4_mapped().is_some());
                if !mapped {
                    self.local = destination.map(IpAddr::from);
                    self.is_to_many = destination.is_some_and(|ip| ip.is_multicast());
                }
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                self.dropped_before = at(data, 0).map(u32::from_ne_bytes);
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                let seconds = at(data, 0).map(u64::from_ne_bytes);
                let nanos = at(data, size_of::<u64>()).map(u64::from_ne_bytes);
                self.at_unix_ns = seconds.zip(nanos).map(|(s, ns)| s * 1_000_000_000 + ns);
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                let limit = at(data, 0).map(i32::from_ne_bytes);
                self.hop_limit = limit.and_then(|limit| u8::try_from(limit).ok());
            }
            _ => {}
        }
    }
}

/// Writes the control message that makes a datagram leave from `local`. The kernel chooses the
/// interface, except for a link-local address, where the name has it. Returns the length.
fn write_source(control: &mut [u8; CONTROL_BYTES], local: IpAddr) -> usize {
    let (level, kind, data_length) = match local {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>()),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>()),
    };
    let length = HEADER_BYTES + data_length;
    let space = length.next_multiple_of(ALIGNMENT);
    control[..space].fill(0);
    put_header(control, length, level, kind);
    match local {
        IpAddr::V4(ip) => put(control, HEADER_BYTES + IPV4_LOCAL, &ip.octets()),
        IpAddr::V6(ip) => put(control, HEADER_BYTES + IPV6_DESTINATION, &ip.octets()),
    }
    space
}

/// Writes the header of a control message. `length`: with the header.
fn put_header(message: &mut [u8], length: usize, level: i32, kind: i32) {
    put(message, 0, &length.to_ne_bytes());
    put(message, offset_of!(libc::cmsghdr, cmsg_level), &level.to_ne_bytes());
    put(message, offset_of!(libc::cmsghdr, cmsg_type), &kind.to_ne_bytes());
}

fn put(message: &mut [u8], place: usize, bytes: &[u8]) {
    message[place..place + bytes.len()].copy_from_slice(bytes);
}
