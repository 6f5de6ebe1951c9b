//! Socket options and a socket query that neither rustix nor socket2 supports.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets IP_BIND_ADDRESS_NO_PORT: bind takes only the address, and connect chooses the port when the
/// whole four-tuple is known.
///
/// # Errors
/// The system does not know the option.
pub(crate) fn set_bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    set_on(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

/// Turns on an option.
fn set_on(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open during the call, and the pointer and the length are those of a
    // local variable.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a UDP socket report with each datagram which address it was sent to, and how many datagrams
/// the kernel has dropped. Fails with the name of the call.
#[cfg(target_os = "linux")]
pub(crate) fn report_destinations_and_drops(
    socket: impl AsFd,
    is_ipv6: bool,
) -> Result<(), (&'static str, io::Error)> {
    // Also on a socket of IPv6, for the datagrams of IPv4 that it gets.
    set_on(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO)
        .map_err(|error| ("setsockopt IP_PKTINFO", error))?;
    if is_ipv6 {
        set_on(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
            .map_err(|error| ("setsockopt IPV6_RECVPKTINFO", error))?;
    }
    set_on(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL)
        .map_err(|error| ("setsockopt SO_RXQ_OVFL", error))
}

/// Bytes in the send queue that the peer has not acknowledged (SIOCOUTQ, tcp(7)). `None` if the
/// system does not report it.
///
/// On a Unix socket these are the bytes of memory that hold what the peer has not read, which is
/// more than the bytes sent. They are freed when the peer has read all that one system call has
/// sent, or a piece of at most 36 KiB of it.
#[cfg(target_os = "linux")]
pub(crate) fn unacknowledged(socket: impl AsFd) -> Option<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open during the call, and the kernel writes an int to the pointer,
    // which is that of a local variable. SIOCOUTQ is the same number as TIOCOUTQ.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    (result == 0).then(|| bytes.unsigned_abs())
}

/// The same on systems that do not report it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn unacknowledged(_: impl AsFd) -> Option<u32> {
    None
}
