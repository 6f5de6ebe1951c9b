//! Segmentation offload: consecutive replies to one peer become one message, which passes through the
//! kernel once and leaves as the datagrams that it consists of (UDP_SEGMENT, udp(7)).
//!
//! The I/O vectors of a batch's replies lie side by side, so a message is the header of its first reply
//! with the vectors of all, and a control message with the length of a segment.

use super::{ALIGNMENT, Batch, CONTROL_BYTES, HEADER_BYTES, put_header};
use crate::base::errno::Errno;

/// Fewer replies than this gain nothing (`docs/transports.md`).
pub(super) const RUN_MIN: usize = 4;

/// The most segments of a message: UDP_MAX_SEGMENTS of Linux before 6.9, which has 128. Linux before
/// 5.16 counts the bytes of the headers too, and refuses as many of them as that (EINVAL).
const SEGMENTS_MAX: usize = 64;

/// The most bytes of a message: what a datagram of IPv4 can have, also over IPv6.
const BYTES_MAX: usize = 65_507;

/// Room of the control message.
const CONTROL_LENGTH: usize = HEADER_BYTES + size_of::<u16>();
const CONTROL_SPACE: usize = CONTROL_LENGTH.next_multiple_of(ALIGNMENT);

impl Batch {
    /// Makes one message of each run of [replies](Self::reply) that may leave as one. All that is
    /// queued must be replies. The kernel must know
    /// UDP_SEGMENT: one that does not sends them as one long datagram.
    #[inline]
    pub fn join(&mut self) {
        if self.queued >= RUN_MIN {
            self.join_runs();
        }
    }

    fn join_runs(&mut self) {
        let (mut from, mut to) = (0, 0);
        while from < self.queued {
            let run = self.run(from);
            let count = if run >= RUN_MIN { run } else { 1 };
            self.outgoing[to].msg_hdr = match count {
                1 => self.outgoing[from].msg_hdr,
                _ => self.joined(from, count),
            };
            from += count;
            to += 1;
        }
        self.queued = to;
    }

    /// How many replies from this one on may leave as one message: those of its length, and at the end
    /// one that is shorter.
    fn run(&self, first: usize) -> usize {
        let segment = self.length_queued(first);
        let (mut bytes, mut next) = (segment, first + 1);
        while next < self.queued && next - first < SEGMENTS_MAX {
            let length = self.length_queued(next);
            bytes += length;
            // A segment without bytes would be none.
            let fits = length > 0 && length <= segment && bytes <= BYTES_MAX;
            if !fits || !self.have_one_way(first, next) {
                break;
            }
            next += 1;
            if length < segment {
                break;
            }
        }
        next - first
    }

    fn length_queued(&self, nth: usize) -> usize {
        self.vectors[self.incoming.len() + nth].iov_len
    }

    /// Whether two replies go to the same peer, from the same address.
    fn have_one_way(&self, one: usize, other: usize) -> bool {
        let [one, other] = [one, other].map(|nth| (self.replies[nth], &self.outgoing[nth].msg_hdr));
        let (name, other_name) = (&self.names[one.0], &self.names[other.0]);
        // What differs for most comes first.
        if name.sin6_port != other_name.sin6_port
            || name.sin6_flowinfo != other_name.sin6_flowinfo
            || one.1.msg_namelen != other.1.msg_namelen
            || one.1.msg_controllen != other.1.msg_controllen
        {
            return false;
        }
        let has_more = one.1.msg_namelen as usize >= size_of::<libc::sockaddr_in6>();
        let is_same_host = !has_more
            || name.sin6_addr.s6_addr == other_name.sin6_addr.s6_addr
                && name.sin6_scope_id == other_name.sin6_scope_id;
        let control = ..control_length(one.1);
        name.sin6_family == other_name.sin6_family
            && is_same_host
            && self.controls[one.0].0[control] == self.controls[other.0].0[control]
    }

    /// The header of a message of so many replies.
    fn joined(&mut self, first: usize, count: usize) -> libc::msghdr {
        let mut header = self.outgoing[first].msg_hdr;
        let control = &mut self.controls[self.replies[first]];
        let used = control_length(&header);
        let segment = self.vectors[self.incoming.len() + first].iov_len as u16;
        write_segment(&mut control.0, used, segment);
        header.msg_control = (&raw mut *control).cast();
        header.msg_controllen = (used + CONTROL_SPACE) as _;
        header.msg_iovlen = count as _;
        header
    }

    /// Makes the replies of a message messages of their own again.
    #[cold]
    pub(super) fn split(&mut self, at: usize) {
        let whole = self.outgoing[at].msg_hdr;
        let count = vectors(&whole);
        // There is room, because there was before they were joined.
        self.outgoing.copy_within(at + 1..self.queued, at + count);
        self.queued += count - 1;
        for (nth, header) in self.outgoing[at..at + count].iter_mut().enumerate() {
            let header = &mut header.msg_hdr;
            *header = whole;
            // SAFETY: the vectors of the message lie side by side, and there are as many.
            header.msg_iov = unsafe { whole.msg_iov.add(nth) };
            header.msg_iovlen = 1;
            header.msg_controllen = (control_length(&whole) - CONTROL_SPACE) as _;
        }
    }
}

/// The vectors of a message. C libraries have different types for their number, and for the next one.
fn vectors(header: &libc::msghdr) -> usize {
    header.msg_iovlen as _
}

/// Bytes of a message's control messages.
pub(super) fn control_length(header: &libc::msghdr) -> usize {
    header.msg_controllen as _
}

/// Whether a message consists of several replies.
pub(super) fn is_joined(header: &libc::mmsghdr) -> bool {
    vectors(&header.msg_hdr) > 1
}

/// The replies of these messages.
pub(super) fn replies(headers: &[libc::mmsghdr]) -> u64 {
    headers.iter().map(|header| vectors(&header.msg_hdr) as u64).sum()
}

/// Whether a message of several replies was refused for what it is, or for want of memory, before
/// anything of it has left. One by one its replies may leave: no segment may be longer than the path
/// allows (EMSGSIZE), where a datagram is fragmented; and not every way out has segments (EIO, EINVAL).
/// All other errors concern the peer or the network, and each of the replies.
pub(super) fn are_refused_as_one(error: Errno) -> bool {
    const FORM: [i32; 4] = [libc::EMSGSIZE, libc::EIO, libc::EINVAL, libc::EOPNOTSUPP];
    const MEMORY: [i32; 2] = [libc::ENOMEM, libc::ENOBUFS];
    let error = error.raw_os_error();
    FORM.contains(&error) || MEMORY.contains(&error)
}

/// Writes the control message that gives the length of a segment, behind `used` bytes of others.
fn write_segment(control: &mut [u8; CONTROL_BYTES], used: usize, segment: u16) {
    let message = &mut control[used..used + CONTROL_SPACE];
    message.fill(0);
    put_header(message, CONTROL_LENGTH, libc::SOL_UDP, libc::UDP_SEGMENT);
    message[HEADER_BYTES..CONTROL_LENGTH].copy_from_slice(&segment.to_ne_bytes());
}
