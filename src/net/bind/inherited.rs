//! Listening sockets that another process has made and passed on: a service manager, or an earlier
//! process of this server.
//!
//! All workers accept from a socket of a service manager, as from a Unix socket. The manager keeps the
//! socket open. So nothing is lost that waits in its backlog when this process ends, and a drain
//! leaves those connections to the next process.
//!
//! An earlier process of this server hands over all sockets of an endpoint and closes its own, so
//! they are this server's in every respect. Each of them must be served, because the kernel
//! distributes the connections to all of them (SO_REUSEPORT). With fewer workers than sockets, some
//! workers accept from several; with more, sockets are added.

#[cfg(feature = "daemon")]
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use super::set_inherited_options;
use super::{Bound, BoundDatagram, Failure, ListenOn, SocketFile, SocketKind, failed, listen};
use crate::base::endpoint::{Endpoint, Transport, UnixAddress, canonical};
use crate::error::StartError;
use crate::net::transport::TransportOptions;

/// Sockets of another process, all with the same address.
#[derive(Clone, Debug)]
pub(crate) struct Inherited {
    /// Where they are bound.
    endpoint: Endpoint,
    sockets: Arc<Vec<Socket>>,
    file: Option<Arc<SocketFile>>,
    /// Whether the other process keeps them open.
    is_kept: bool,
}

/// The same sockets.
impl PartialEq for Inherited {
    fn eq(&self, other: &Inherited) -> bool {
        Arc::ptr_eq(&self.sockets, &other.sockets)
    }
}

impl Eq for Inherited {}

impl ListenOn {
    /// A stream socket, TCP or Unix, that already listens, for example one that a service manager
    /// has passed. Its address and its backlog stay as they are. It is made non-blocking, and gets
    /// the options that accepted TCP connections inherit, such as TCP_NODELAY.
    ///
    /// The connections in its backlog stay there when the server ends, because the other program
    /// keeps the socket open.
    ///
    /// # Errors
    /// It is not a socket, it does not listen, or it is not a stream socket of TCP or Unix.
    pub fn inherited(socket: OwnedFd) -> Result<ListenOn, String> {
        let socket = Socket::from(socket);
        let endpoint = endpoint_of(&socket, Type::STREAM)?;
        let transport = TransportOptions::from(&endpoint);
        let sockets = Arc::new(vec![socket]);
        let inherited = Some(Inherited { endpoint, sockets, file: None, is_kept: true });
        Ok(ListenOn { endpoint, transport, proxy: Default::default(), inherited })
    }

    /// Another descriptor of the inherited socket.
    ///
    /// # Errors
    /// The process is out of open files, or there is no such socket.
    #[cfg(feature = "daemon")]
    pub(crate) fn copy_of_inherited(&self) -> io::Result<OwnedFd> {
        let socket = self.inherited.as_ref().and_then(|inherited| inherited.sockets.first());
        Ok(socket.ok_or(io::ErrorKind::NotFound)?.try_clone()?.into())
    }

    /// Closes these descriptors of sockets that an earlier process has handed over. The server has its
    /// own, and the sockets are to be closed when it closes them.
    #[cfg(feature = "daemon")]
    pub(crate) fn forget_handed_over(&mut self) {
        self.inherited.take_if(|inherited| !inherited.is_kept);
    }

    /// Sets the sockets of this endpoint that an earlier process of this server hands over, at least
    /// one. With them comes the socket file of a Unix socket.
    ///
    /// # Errors
    /// They are not sockets of this kind, or do not listen.
    #[cfg(feature = "daemon")]
    pub(crate) fn take_over(
        &mut self,
        sockets: Vec<OwnedFd>,
        file: Option<Arc<SocketFile>>,
    ) -> Result<(), String> {
        let sockets: Vec<Socket> = sockets.into_iter().map(Socket::from).collect();
        let kind = if self.endpoint.is_datagram() { Type::DGRAM } else { Type::STREAM };
        let mut endpoint = self.endpoint;
        for socket in &sockets {
            endpoint = endpoint_of(socket, kind)?;
        }
        let sockets = Arc::new(sockets);
        self.inherited = Some(Inherited { endpoint, sockets, file, is_kept: false });
        Ok(())
    }
}

/// Where a socket of this kind is bound. A stream socket listens.
fn endpoint_of(socket: &Socket, kind: Type) -> Result<Endpoint, String> {
    let address = socket.local_addr().map_err(|error| format!("not a socket: {error}"))?;
    let endpoint = match (address.domain(), address.as_socket()) {
        (_, Some(address)) if kind == Type::DGRAM => Endpoint::Udp(canonical(address)),
        (_, Some(address)) => Endpoint::Tcp(canonical(address)),
        (Domain::UNIX, _) => {
            let path = address.as_pathname().map(|path| path.to_string_lossy().into_owned());
            let name = address.as_abstract_namespace();
            let name = name.map(|name| format!("@{}", String::from_utf8_lossy(name)));
            let text = path.or(name).ok_or("a Unix socket without an address")?;
            Endpoint::Unix(text.parse::<UnixAddress>()?)
        }
        _ => return Err("a socket that is neither TCP nor Unix".to_owned()),
    };
    if socket.r#type().ok() != Some(kind) {
        let expected = if kind == Type::DGRAM { "datagram" } else { "stream" };
        return Err(format!("{endpoint} is not a {expected} socket"));
    }
    if kind == Type::STREAM && !socket.is_listener().unwrap_or(false) {
        return Err(format!("{endpoint} is a socket that does not listen"));
    }
    Ok(endpoint)
}

impl Inherited {
    /// The listening sockets, at least one for each worker.
    pub(super) fn bound(&self, workers: usize, backlog: u32) -> Result<Bound, StartError> {
        let prepare = || {
            let mut sockets = self.copies(self.sockets.len())?;
            for socket in &sockets {
                let nonblocking = socket.set_nonblocking(true);
                nonblocking.map_err(|error| ("fcntl O_NONBLOCK", error))?;
                if !self.is_kept {
                    listen(socket, backlog)?;
                }
            }
            let transport = match self.endpoint {
                Endpoint::Tcp(_) => {
                    sockets.iter().try_for_each(set_inherited_options)?;
                    Transport::Tcp
                }
                Endpoint::Unix(_) | Endpoint::Udp(_) => Transport::Unix,
            };
            match transport {
                Transport::Tcp if !self.is_kept => {
                    self.add(SocketKind::Tcp, &mut sockets, workers, |one| listen(one, backlog))?;
                }
                _ => sockets = self.copies(workers.max(sockets.len()))?,
            }
            let bound = Bound::new(self.endpoint, transport);
            bound.kept.set(self.is_kept);
            Ok(Bound { file: self.file.clone(), sockets, ..bound })
        };
        prepare().map_err(|failure| failed(self.endpoint, failure))
    }

    /// The sockets for datagrams, one for each worker. If there are more, the others are closed.
    pub(super) fn bound_datagram(&self, workers: usize) -> Result<BoundDatagram, StartError> {
        let prepare = || {
            let mut sockets = self.copies(self.sockets.len().min(workers))?;
            self.add(SocketKind::Udp, &mut sockets, workers, |_| Ok(()))?;
            Ok(BoundDatagram { endpoint: self.endpoint, sockets })
        };
        prepare().map_err(|failure| failed(self.endpoint, failure))
    }

    /// This many descriptors of the sockets, each socket as often as the others.
    fn copies(&self, count: usize) -> Result<Vec<Socket>, Failure> {
        let copy = |socket: &Socket| socket.try_clone().map_err(|error| ("dup", error));
        self.sockets.iter().cycle().take(count).map(copy).collect()
    }

    /// Adds sockets with the same address until there is one for each worker.
    fn add(
        &self,
        kind: SocketKind,
        sockets: &mut Vec<Socket>,
        workers: usize,
        make_ready: impl Fn(&Socket) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (Some(address), true) = (self.endpoint.socket_addr(), sockets.len() < workers) else {
            return Ok(());
        };
        for socket in sockets.iter() {
            socket.set_reuse_port(true).map_err(|error| ("setsockopt SO_REUSEPORT", error))?;
        }
        let only_v6 = address.is_ipv6() && sockets[0].only_v6().unwrap_or(false);
        while sockets.len() < workers {
            let socket = kind.bound_socket(address, only_v6, true)?;
            make_ready(&socket)?;
            sockets.push(socket);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::net::bind::bind_all;

    #[test]
    fn a_listening_socket_has_its_endpoint_and_is_bound_for_each_worker() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let on = ListenOn::inherited(listener.into()).unwrap();
        assert_eq!(on.endpoint, Endpoint::Tcp(address));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = bind_all(&[any.into(), on.clone(), any.into()], 3, 16, false).unwrap();
        assert_eq!(bound[1].endpoint, Endpoint::Tcp(address));
        for socket in &bound[1].sockets {
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some(address));
            assert!(socket.tcp_nodelay().unwrap() && socket.nonblocking().unwrap());
        }
        assert_eq!(bound[1].sockets.len(), 3);
        assert_ne!(bound[0].endpoint, bound[2].endpoint);
        let twice = bind_all(&[on.clone(), on], 1, 16, false);
        assert!(matches!(twice, Err(StartError::ListenedTwice(_))));
    }

    #[test]
    fn a_unix_socket_keeps_its_file() {
        let path = std::env::temp_dir().join(format!("echopool-inherited-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let on = ListenOn::inherited(listener.try_clone().unwrap().into()).unwrap();
        drop(bind_all(&[on], 2, 16, false).unwrap());
        let connected = UnixStream::connect(&path);
        std::fs::remove_file(&path).unwrap();
        assert!(connected.is_ok());
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let error = |socket: OwnedFd| ListenOn::inherited(socket).unwrap_err();
        assert!(error(client.into()).ends_with("does not listen"));
        assert!(error(UdpSocket::bind("127.0.0.1:0").unwrap().into()).contains("not a stream"));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(error(file.into()).starts_with("not a socket: "));
        let (one, _) = UnixStream::pair().unwrap();
        assert!(error(one.into()).contains("without an address"));
    }
}
