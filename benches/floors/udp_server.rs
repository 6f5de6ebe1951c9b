//! A bare UDP echo on Linux: recvmmsg, sendmmsg, and nothing else. It says neither where a datagram
//! was sent to nor what was dropped, and answers everything.
#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

/// Datagrams of one call, and the longest: as in echopool.
const BATCH: usize = 64;
const BYTES: usize = 65_600;

/// A server that is bound.
pub struct UdpServer {
    socket: UdpSocket,
}

impl UdpServer {
    /// Binds the address, with a receive buffer as large as echopool's if the system allows it.
    pub fn bind(address: SocketAddr) -> io::Result<UdpServer> {
        let socket = UdpSocket::bind(address)?;
        let buffer = 8 << 20;
        let forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, buffer);
        forced.or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, buffer))?;
        Ok(UdpServer { socket })
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("it is bound")
    }

    /// Echoes until an error.
    pub fn run(&self) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        // SAFETY: zeros are valid for these types of integers and pointers.
        let (header, name): (libc::mmsghdr, libc::sockaddr_in6) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let (mut headers, mut names) = (vec![header; BATCH], vec![name; BATCH]);
        let mut bytes = vec![0_u8; BATCH * BYTES];
        let mut vectors: Vec<libc::iovec> = bytes
            .chunks_exact_mut(BYTES)
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BYTES })
            .collect();
        let parts = headers.iter_mut().zip(&mut names).zip(&mut vectors);
        for ((header, name), vector) in parts {
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        let mut used = BATCH;
        loop {
            for (header, vector) in headers.iter_mut().zip(&mut vectors).take(used) {
                header.msg_hdr.msg_namelen = length;
                vector.iov_len = BYTES;
            }
            // SAFETY: the headers point to the names, vectors and buffers above, with their
            // lengths, and nothing else uses these meanwhile.
            let count = unsafe {
                libc::recvmmsg(
                    fd,
                    headers.as_mut_ptr(),
                    BATCH as u32,
                    libc::MSG_WAITFORONE as _,
                    null_mut(),
                )
            };
            used = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            for (header, vector) in headers.iter().zip(&mut vectors).take(used) {
                vector.iov_len = header.msg_len as usize;
            }
            let mut sent = 0;
            while sent < used {
                // SAFETY: as above.
                let count = unsafe {
                    libc::sendmmsg(fd, headers[sent..].as_mut_ptr(), (used - sent) as u32, 0)
                };
                sent += usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            }
        }
    }
}
