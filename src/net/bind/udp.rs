//! The options of UDP sockets that are served.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, Socket};

use super::Failure;

/// How long a send waits for room in the send buffer. Then the datagram is dropped and counted.
const SEND_WAIT: Duration = Duration::from_millis(100);

/// Sets the options. The socket says with each datagram where it was sent to, so that the reply
/// leaves from there, and how many datagrams the kernel has dropped.
pub(super) fn set_options(socket: &Socket, address: SocketAddr) -> Result<(), Failure> {
    socket.set_write_timeout(Some(SEND_WAIT)).map_err(|error| ("setsockopt SO_SNDTIMEO", error))?;
    #[cfg(target_os = "linux")]
    crate::net::sockopt::report_destinations_and_drops(socket, address.is_ipv6())?;
    #[cfg(not(target_os = "linux"))]
    let _ = address;
    Ok(())
}

/// Sets how many bytes the kernel keeps until they are received. The system limits the size
/// (net.core.rmem_max), except for a process with CAP_NET_ADMIN.
pub(crate) fn set_receive_buffer(socket: &impl AsFd, bytes: u32) -> Result<(), Failure> {
    let (socket, bytes) = (SockRef::from(socket), bytes as usize);
    #[cfg(target_os = "linux")]
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&*socket, bytes).is_ok() {
        return Ok(());
    }
    socket.set_recv_buffer_size(bytes).map_err(|error| ("setsockopt SO_RCVBUF", error))?;
    // Linux reports twice what it has taken, because it counts its own overhead.
    let size = socket.recv_buffer_size().unwrap_or(0) / 2;
    if size < bytes {
        log::warn!(
            "the receive buffer of a UDP socket has {size} bytes, not {bytes}: the system allows no \
             more (sysctl net.core.rmem_max={bytes})"
        );
    }
    Ok(())
}
