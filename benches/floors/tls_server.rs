//! The floor of TLS: the epoll echo loop of `epoll_server` with a rustls session for each
//! connection. One thread and one buffer. A receive that does not fill the buffer has drained the
//! socket, and what is encrypted is sent immediately.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::socket;

/// Events taken with one `epoll_wait`.
const EVENTS_MAX: usize = 1024;

/// A TLS echo server. It runs on the thread that starts it.
pub struct TlsServer {
    address: SocketAddr,
    listener: OwnedFd,
    epoll: OwnedFd,
    config: Arc<ServerConfig>,
    /// Indexed by descriptor.
    connections: Vec<Option<Connection>>,
    received: Box<[u8]>,
    plaintext: Box<[u8]>,
}

struct Connection {
    socket: TcpStream,
    session: ServerConnection,
    /// FIN was reported: read to the end, because there may be no further event.
    peer_closed: bool,
}

impl TlsServer {
    /// Listens, with this certificate and its key (PEM).
    ///
    /// # Errors
    /// A file cannot be used, or the system cannot listen.
    pub fn bind(
        listen: SocketAddr,
        buffer_size: usize,
        cert: &str,
        key: &str,
    ) -> io::Result<TlsServer> {
        let certs = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
        let certs = certs.map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let config = builder.with_no_client_auth().with_single_cert(certs, key);
        let (listener, address) = socket::listen(listen, SocketFlags::NONBLOCK)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        add(&epoll, &listener, EventFlags::IN | EventFlags::ET)?;
        Ok(TlsServer {
            address,
            listener,
            epoll,
            config: Arc::new(config.map_err(io::Error::other)?),
            connections: Vec::new(),
            received: vec![0; buffer_size].into_boxed_slice(),
            plaintext: vec![0; buffer_size].into_boxed_slice(),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Echoes until the process is killed.
    pub fn run(&mut self) -> io::Result<()> {
        let listener_fd = self.listener.as_raw_fd() as usize;
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            for event in events.drain(..) {
                let fd = event.data.u64() as usize;
                if fd == listener_fd {
                    self.accept()?;
                    continue;
                }
                let Some(connection) = self.connections[fd].as_mut() else { continue };
                let flags = event.flags;
                connection.peer_closed |= flags.contains(EventFlags::RDHUP);
                if !connection.echo(&mut self.received, &mut self.plaintext).unwrap_or(false) {
                    self.connections[fd] = None;
                }
            }
        }
    }

    /// Accepts all waiting connections.
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match acceptfrom_with(&self.listener, flags) {
                Ok((socket, _peer)) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error.into()),
            };
            let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            add(&self.epoll, &socket, interest)?;
            let fd = socket.as_raw_fd() as usize;
            if self.connections.len() <= fd {
                self.connections.resize_with(fd + 1, || None);
            }
            let session = ServerConnection::new(self.config.clone()).map_err(io::Error::other)?;
            let socket = TcpStream::from(socket);
            self.connections[fd] = Some(Connection { socket, session, peer_closed: false });
        }
    }
}

impl Connection {
    /// Echoes until a receive is short or a send is. Returns whether to keep the connection.
    fn echo(&mut self, received: &mut [u8], plaintext: &mut [u8]) -> io::Result<bool> {
        if !self.send()? {
            return Ok(true);
        }
        loop {
            let count = match self.socket.read(received) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let mut rest = &received[..count];
            while !rest.is_empty() {
                self.session.read_tls(&mut rest)?;
                let state = self.session.process_new_packets().map_err(io::Error::other)?;
                let (mut left, ended) = (state.plaintext_bytes_to_read(), state.peer_has_closed());
                while left > 0 {
                    let count = self.session.reader().read(plaintext)?;
                    self.session.writer().write_all(&plaintext[..count])?;
                    left -= count;
                }
                if ended {
                    self.session.send_close_notify();
                }
            }
            if !self.send()? || count < received.len() && !self.peer_closed {
                return Ok(true);
            }
        }
    }

    /// Sends what is encrypted. Returns whether nothing is left.
    fn send(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn add(epoll: &OwnedFd, socket: &impl AsFd, interest: EventFlags) -> io::Result<()> {
    let socket = socket.as_fd();
    let fd = EventData::new_u64(socket.as_raw_fd() as u64);
    Ok(epoll::add(epoll, socket, fd, interest)?)
}
