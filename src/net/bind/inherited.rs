//! Listening sockets that another program has made and passed on, such as a service manager.
//!
//! All workers accept from a socket that was passed once, as from a Unix socket. The other program
//! keeps the socket open. So nothing is lost that waits in its backlog when this process ends, and a
//! drain leaves those connections to the next process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use super::{Bound, ListenOn, failed, set_inherited_options};
use crate::base::endpoint::{Endpoint, Transport, UnixAddress, canonical};
use crate::error::StartError;
use crate::net::transport::TransportOptions;

/// A listening socket of another program.
#[derive(Clone, Debug)]
pub(crate) struct Inherited {
    endpoint: Endpoint,
    socket: Arc<Socket>,
}

/// The same socket.
impl PartialEq for Inherited {
    fn eq(&self, other: &Inherited) -> bool {
        Arc::ptr_eq(&self.socket, &other.socket)
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
        let address = socket.local_addr().map_err(|error| format!("not a socket: {error}"))?;
        let endpoint = match (address.domain(), address.as_socket()) {
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
        if socket.r#type().ok() != Some(Type::STREAM) {
            return Err(format!("{endpoint} is not a stream socket"));
        }
        if !socket.is_listener().unwrap_or(false) {
            return Err(format!("{endpoint} is a socket that does not listen"));
        }
        let transport = TransportOptions::from(&endpoint);
        let inherited = Some(Inherited { endpoint, socket: Arc::new(socket) });
        Ok(ListenOn { endpoint, transport, proxy: Default::default(), inherited })
    }
}

impl Inherited {
    /// The socket, once for each worker.
    pub(super) fn bound(&self, workers: usize) -> Result<Bound, StartError> {
        let endpoint = self.endpoint;
        let prepare = || {
            let nonblocking = self.socket.set_nonblocking(true);
            nonblocking.map_err(|error| ("fcntl O_NONBLOCK", error))?;
            let transport = match endpoint {
                Endpoint::Tcp(_) => {
                    set_inherited_options(&self.socket)?;
                    Transport::Tcp
                }
                // One for datagrams is none that was passed.
                Endpoint::Unix(_) | Endpoint::Udp(_) => Transport::Unix,
            };
            let copy = |_| self.socket.try_clone().map_err(|error| ("dup", error));
            let sockets = (0..workers).map(copy).collect::<Result<_, _>>()?;
            Ok(Bound { is_inherited: true, sockets, ..Bound::new(endpoint, transport) })
        };
        prepare().map_err(|failure| failed(endpoint, failure))
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
