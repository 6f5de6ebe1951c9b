//! Socket options and two socket queries that neither rustix nor socket2 supports.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// What TCP has measured and done on a connection, for the bytes that this side has sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct TcpInfo {
    /// The smoothed round-trip time.
    pub rtt: Duration,
    /// Segments that were sent again, since the connection was established.
    pub resent: u32,
    /// The congestion window, in segments.
    pub congestion_window: u32,
}

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

/// How many datagrams the kernel has dropped at a UDP socket, in all its life (SO_MEMINFO, socket(7)).
/// The number wraps around. `None` if the system does not report it.
#[cfg(target_os = "linux")]
pub(crate) fn datagrams_dropped(socket: impl AsFd) -> Option<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut info = [0_u32; DROPS + 1];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the descriptor is open during the call, and the pointers and the length are those of
    // local variables, which take any bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    (result == 0 && len as usize == size_of_val(&info)).then_some(info[DROPS])
}

/// Whether the system knows UDP_SEGMENT at a UDP socket (Linux 4.18, udp(7)).
#[cfg(target_os = "linux")]
pub(crate) fn knows_segments(socket: impl AsFd) -> bool {
    let mut segment: libc::c_int = 0;
    let mut len = size_of_val(&segment) as libc::socklen_t;
    // SAFETY: the descriptor is open during the call, and the pointers and the length are those of
    // local variables, which take any bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw mut segment).cast(),
            &raw mut len,
        )
    };
    result == 0
}

/// Makes a UDP socket report with each datagram when the kernel received it, and with which hop
/// limit.
///
/// # Errors
/// The system does not know an option. The name of the call is with it.
#[cfg(target_os = "linux")]
pub fn report_times_and_hop_limits(
    socket: impl AsFd,
    is_ipv6: bool,
) -> Result<(), (&'static str, io::Error)> {
    set_on(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)
        .map_err(|error| ("setsockopt SO_TIMESTAMPNS", error))?;
    // Also on a socket of IPv6, for the datagrams of IPv4 that it gets.
    set_on(&socket, libc::IPPROTO_IP, libc::IP_RECVTTL)
        .map_err(|error| ("setsockopt IP_RECVTTL", error))?;
    if is_ipv6 {
        set_on(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT)
            .map_err(|error| ("setsockopt IPV6_RECVHOPLIMIT", error))?;
    }
    Ok(())
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

/// What TCP has measured and done (TCP_INFO, tcp(7)). `None` for a socket that is not TCP, or if the
/// system does not report it.
#[cfg(target_os = "linux")]
pub(crate) fn tcp_info(socket: impl AsFd) -> Option<TcpInfo> {
    // SAFETY: the structure consists of numbers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the descriptor is open during the call, and the pointers and the length are those of
    // local variables.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    (result == 0).then(|| TcpInfo {
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        resent: info.tcpi_total_retrans,
        congestion_window: info.tcpi_snd_cwnd,
    })
}

/// The same on systems that do not report it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn tcp_info(_: impl AsFd) -> Option<TcpInfo> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn tcp_tells_its_round_trip_and_a_unix_socket_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        let info = tcp_info(&client).expect("a TCP socket");
        assert!(info.rtt > Duration::ZERO && info.rtt < Duration::from_secs(10), "{info:?}");
        assert!(info.congestion_window > 0 && info.resent == 0, "{info:?}");
        assert_eq!(tcp_info(UnixStream::pair().unwrap().0), None);
    }
}
