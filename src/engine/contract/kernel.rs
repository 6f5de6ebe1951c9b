//! The readiness engine on the real kernel: loopback sockets, and peers of the standard library.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::SendFlags;
use socket2::SockRef;

use super::{Parts, Testbed};
use crate::base::time::Time;
use crate::engine::sys::Kernel;
use crate::engine::{Engine, MioEngine, Sink};
use crate::error::Errno;

pub(super) struct OnKernel {
    port: u16,
}

/// Dual-stack if there is IPv6, so that peers have addresses that must be made canonical.
fn any() -> SocketAddr {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    }
}

fn outcome(done: io::Result<usize>) -> Option<Result<usize, Errno>> {
    match done {
        Ok(count) => Some(Ok(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => Some(Err(Errno::from_io_error(&error).unwrap())),
    }
}

impl Testbed for OnKernel {
    type Engine = MioEngine<Kernel>;
    type Peer = TcpStream;

    const SEEDS: u64 = 1;
    const MANY: usize = 300;
    const EXACT_TIME: bool = false;

    fn set(_: u64, parts: Parts) -> (OnKernel, MioEngine<Kernel>) {
        let mut bound = crate::net::bind::bind_all(&[any().into()], 1, 1024, false).unwrap();
        let one = bound.pop().unwrap();
        let port = one.endpoint.socket_addr().unwrap().port();
        let listeners = one.into_listening().collect();
        let Parts { slots, pool, permits, .. } = parts;
        let kernel = Kernel::new().unwrap();
        let engine = MioEngine::new(kernel, slots, pool, Some(permits), listeners).unwrap();
        (OnKernel { port }, engine)
    }

    fn poll(
        &mut self,
        engine: &mut Self::Engine,
        deadline: Option<Time>,
        sink: &mut impl Sink<Self::Engine>,
    ) {
        engine.poll(deadline, sink).unwrap();
    }

    fn listener(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn connect(&mut self) -> TcpStream {
        let peer = TcpStream::connect(self.listener()).unwrap();
        peer.set_nodelay(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        peer
    }

    fn address(&self, peer: &TcpStream) -> SocketAddr {
        peer.local_addr().unwrap()
    }

    fn write(&mut self, peer: &mut TcpStream, bytes: &[u8]) -> usize {
        outcome(peer.write(bytes)).map_or(0, Result::unwrap)
    }

    fn write_urgent(&mut self, peer: &mut TcpStream, byte: u8) {
        assert_eq!(rustix::net::send(&*peer, &[byte], SendFlags::OOB), Ok(1));
    }

    fn write_and_shutdown(&mut self, peer: &mut TcpStream, bytes: &[u8]) {
        // Holds the bytes back until they can be sent with the FIN.
        #[cfg(target_os = "linux")]
        SockRef::from(&*peer).set_tcp_cork(true).unwrap();
        peer.write_all(bytes).unwrap();
        self.shutdown(peer);
    }

    fn shutdown(&mut self, peer: &mut TcpStream) {
        peer.shutdown(Shutdown::Write).unwrap();
    }

    fn read(&mut self, peer: &mut TcpStream, room: &mut [u8]) -> Option<Result<usize, Errno>> {
        outcome(peer.read(room))
    }

    fn reset(&mut self, peer: TcpStream) {
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn close(&mut self, _: TcpStream) {}
}
