//! The number of connections that wait in a listening socket to be accepted.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

/// Number of connections that are established and wait to be accepted from this listening socket.
/// `None` if the system does not report it.
///
/// Linux reports it in TCP_INFO: for a listening socket, `tcpi_unacked` is the length of the accept
/// queue (`tcp_get_info` in net/ipv4/tcp.c).
#[cfg(target_os = "linux")]
pub(crate) fn backlog_waiting(listener: BorrowedFd<'_>) -> Option<u32> {
    use std::mem::{MaybeUninit, offset_of, size_of};
    use std::os::fd::AsRawFd;

    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has that size, and the
    // number of bytes written to `length`. Both are borrowed only for the call.
    let result = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if result != 0 || (length as usize) < offset_of!(libc::tcp_info, tcpi_unacked) + 4 {
        return None;
    }
    // SAFETY: all fields are integers, for which zero is a valid value. Bytes that the kernel did
    // not write are still zero.
    let info = unsafe { info.assume_init() };
    /// TCP_LISTEN in the kernel's include/net/tcp_states.h.
    const LISTEN: u8 = 10;
    (info.tcpi_state == LISTEN).then_some(info.tcpi_unacked)
}

/// Number of connections that wait to be accepted. This system does not report it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn backlog_waiting(_listener: BorrowedFd<'_>) -> Option<u32> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn connections_are_counted_until_they_are_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(backlog_waiting(listener.as_fd()), Some(0));
        // On loopback a connection is in the queue when connect returns, or a moment later.
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        wait_for(&listener, 3);
        drop(listener.accept().unwrap());
        wait_for(&listener, 2);
        drop(clients);
    }

    fn wait_for(listener: &TcpListener, waiting: u32) {
        let begin = std::time::Instant::now();
        while backlog_waiting(listener.as_fd()) != Some(waiting) {
            assert!(begin.elapsed().as_secs() < 20, "never {waiting} connections waiting");
            std::thread::yield_now();
        }
    }

    #[test]
    fn other_sockets_have_no_backlog() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(backlog_waiting(client.as_fd()), None);
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(backlog_waiting(udp.as_fd()), None);
    }
}
