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
///
/// A socket that is not new belongs to another process too, which may go on with it, and which may
/// have had more rights. So its size never becomes smaller.
pub(crate) fn set_receive_buffer(
    socket: &impl AsFd,
    bytes: u32,
    is_new: bool,
) -> Result<(), Failure> {
    if let Some(size) = fit_receive_buffer(socket, bytes, is_new)? {
        log::warn!(
            "the receive buffer of a UDP socket has {size} bytes, not {bytes}: the system allows no \
             more (sysctl net.core.rmem_max={bytes})"
        );
    }
    Ok(())
}

/// The same. Returns the size that the socket has, if that is smaller than what it should have.
fn fit_receive_buffer(
    socket: &impl AsFd,
    bytes: u32,
    is_new: bool,
) -> Result<Option<usize>, Failure> {
    let (socket, bytes) = (SockRef::from(socket), bytes as usize);
    // Linux reports twice what it has taken, because it counts its own overhead.
    let size = || socket.recv_buffer_size().unwrap_or(0) / 2;
    if !is_new && size() >= bytes {
        return Ok(None);
    }
    #[cfg(target_os = "linux")]
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&*socket, bytes).is_ok() {
        return Ok(None);
    }
    if is_new || bytes.min(size_max()) > size() {
        socket.set_recv_buffer_size(bytes).map_err(|error| ("setsockopt SO_RCVBUF", error))?;
    }
    Ok((size() < bytes).then(size))
}

/// The largest size that the system allows a process without privileges; 0 if it does not say.
fn size_max() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max");
    limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    #[cfg(target_os = "linux")]
    use rustix::thread::CapabilitySet;

    use super::*;
    #[cfg(target_os = "linux")]
    use crate::net::without_capability;

    #[test]
    fn the_receive_buffer_of_a_socket_of_another_process_becomes_no_smaller() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let size = || SockRef::from(&socket).recv_buffer_size().unwrap() / 2;
        // Systems allow at least 200 KiB to everybody.
        let steps = [
            (64 << 10, true, 64 << 10),
            (16 << 10, false, 64 << 10),
            (128 << 10, false, 128 << 10),
            (128 << 10, false, 128 << 10),
            (16 << 10, true, 16 << 10),
        ];
        for (bytes, is_new, expected) in steps {
            set_receive_buffer(&socket, bytes, is_new).unwrap();
            assert_eq!(size(), expected, "{bytes} {is_new}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn without_rights_the_receive_buffer_becomes_as_large_as_the_system_allows() {
        let most = size_max();
        let steps = [
            (64 << 10, true, 64 << 10),
            (16 << 10, false, 64 << 10),
            (128 << 10, false, 128 << 10),
            (16 << 10, true, 16 << 10),
            (most, false, most),
            (2 * most, false, most),
            (64 << 10, false, most),
            (3 * most, true, most),
        ];
        without_capability(CapabilitySet::NET_ADMIN, move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let size = || SockRef::from(&socket).recv_buffer_size().unwrap() / 2;
            for (bytes, is_new, expected) in steps {
                let smaller = fit_receive_buffer(&socket, bytes as u32, is_new).unwrap();
                assert_eq!(size(), expected, "{bytes} {is_new}");
                assert_eq!(smaller, (bytes > most).then_some(most), "{bytes} {is_new}");
            }
        });
    }

    #[test]
    fn a_socket_sends_with_a_time_out() {
        let socket = Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        set_options(&socket, address).unwrap();
        assert_eq!(socket.write_timeout().unwrap(), Some(SEND_WAIT));
    }
}
