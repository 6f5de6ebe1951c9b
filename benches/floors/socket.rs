//! Sockets for the floors and the client, and the limit of open files.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit};

/// Maximum number of connections that wait to be accepted. The figures contain a burst of 10,000
/// connects. The kernel lowers this to net.core.somaxconn.
const BACKLOG: i32 = 16_384;

fn stream_socket(address: SocketAddr, flags: SocketFlags) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

/// A listening socket and its actual address. Accepted sockets inherit TCP_NODELAY.
pub fn listen(address: SocketAddr, flags: SocketFlags) -> io::Result<(OwnedFd, SocketAddr)> {
    let listener = stream_socket(address, flags)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    rustix::net::bind(&listener, &address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    let local = SocketAddr::try_from(rustix::net::getsockname(&listener)?)?;
    Ok((listener, local))
}

/// A connected, nonblocking socket.
pub fn connect(target: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(target, SocketFlags::empty())?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::connect(&socket, &target)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Stops a floor: makes `accept` on its listener fail with EINVAL from now on.
pub fn stop_listening(listener: impl AsFd) {
    let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
}

/// Raises the soft limit of open files to the hard one.
pub fn raise_open_files() -> io::Result<()> {
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: hard, maximum: hard };
    Ok(rustix::process::setrlimit(Resource::Nofile, limit)?)
}
