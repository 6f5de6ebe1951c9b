//! Creates the sockets that a server listens on. Checks which addresses can be used together, and
//! creates one socket per address and worker. The engine accepts from them. `unix` does so for Unix
//! sockets, and `udp` has the options of UDP sockets; the rest is about TCP and UDP.
//!
//! With one socket per worker, the kernel distributes the connections (SO_REUSEPORT). If that
//! option were set from the start, a second daemon could take half of the connections unnoticed. So
//! the first socket of an address binds and listens without it, and one of the two calls fails if
//! another process has the port: `bind` if that process listens already (SO_REUSEADDR lets two
//! sockets bind that do not listen yet), `listen` if both have bound at the same moment. After that
//! the option is set, and the sockets of the other workers are added.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::base::endpoint::{Endpoint, Transport, canonical};
use crate::error::{Errno, StartError};

mod address;
mod inherited;
mod udp;
pub(crate) mod unix;

pub(crate) use super::accept_queue::backlog_waiting;
#[cfg(feature = "daemon")]
pub(crate) use address::ListenAddress;
pub use address::{ListenOn, ToEndpoints};
pub(crate) use udp::set_receive_buffer;
pub use unix::SocketFile;

/// The first keepalive probe is sent to an idle peer after this time.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Further probes are sent at this interval.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The connection is lost after this many probes without a reply: two minutes after a cable is
/// pulled.
const KEEPALIVE_PROBES: u32 = 6;

/// The sockets of one endpoint.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Where it listens, with the real port.
    pub(crate) endpoint: Endpoint,
    /// Its number among all endpoints of the server.
    number: u32,
    transport: Transport,
    /// Its socket file. Before the sockets, because it is removed before they are closed.
    file: Option<Arc<SocketFile>>,
    kept: KeptOpen,
    /// One for each worker, listening and non-blocking; more if an earlier process of this server had
    /// more workers.
    pub(crate) sockets: Vec<Socket>,
}

/// A listening socket, and the transport of its connections.
#[derive(Debug)]
pub struct Listening<Socket> {
    /// Its socket file, shared by all workers. The last one that drops it removes the file. Before
    /// the socket, because the file is removed before the socket is closed.
    pub file: Option<Arc<SocketFile>>,
    /// The socket.
    pub socket: Socket,
    /// The transport of its connections.
    pub transport: Transport,
    /// Whether another process keeps it open.
    pub kept: KeptOpen,
    /// Its number among all endpoints of the server.
    pub number: u32,
}

/// Whether another process keeps the sockets of an endpoint open: the service manager that has passed
/// them, or a process that has taken them over. Closing them here then resets nothing in their
/// backlogs. All copies have the same value.
#[derive(Clone, Debug, Default)]
pub struct KeptOpen(Arc<AtomicBool>);

impl KeptOpen {
    pub(crate) fn set(&self, is_kept: bool) {
        self.0.store(is_kept, Ordering::Release);
    }

    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl<Socket> Listening<Socket> {
    /// The same with another form of the socket.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for the daemon"))]
    pub(crate) fn map<Other>(self, of: impl FnOnce(Socket) -> Other) -> Listening<Other> {
        let Listening { file, socket, transport, kept, number } = self;
        Listening { file, socket: of(socket), transport, kept, number }
    }

    /// A TCP socket.
    #[cfg_attr(not(any(test, feature = "internals")), allow(dead_code, reason = "for tests"))]
    pub(crate) fn tcp(socket: Socket) -> Listening<Socket> {
        Listening {
            file: None,
            socket,
            transport: Transport::Tcp,
            kept: KeptOpen::default(),
            number: 0,
        }
    }
}

/// The sockets of an endpoint, for a process that takes them over. While there is one, the sockets
/// stay open.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for the daemon"))]
pub(crate) struct Offer {
    /// The endpoint's number among all of its server.
    pub(crate) number: usize,
    /// The endpoint as it was configured, for example with port 0.
    pub(crate) endpoint: Endpoint,
    pub(crate) sockets: Vec<Arc<OwnedFd>>,
    pub(crate) file: Option<Arc<SocketFile>>,
    kept: KeptOpen,
}

impl Offer {
    /// Another process has taken the sockets over: it removes the socket file, and accepts what waits
    /// in the backlogs.
    #[cfg(feature = "daemon")]
    pub(crate) fn is_taken(&self) {
        self.kept.set(true);
        if let Some(file) = &self.file {
            file.set_own(false);
        }
    }

    /// The sockets of an endpoint for datagrams.
    pub(crate) fn of_datagrams(
        number: usize,
        endpoint: Endpoint,
        sockets: &[Arc<OwnedFd>],
    ) -> Offer {
        let sockets = sockets.to_vec();
        Offer { number, endpoint, sockets, file: None, kept: KeptOpen::default() }
    }
}

impl Bound {
    /// An endpoint without sockets.
    fn new(endpoint: Endpoint, transport: Transport) -> Bound {
        let (file, kept, sockets) = (None, KeptOpen::default(), Vec::new());
        Bound { endpoint, number: 0, transport, file, kept, sockets }
    }

    /// Its number among all endpoints of the server.
    pub(crate) fn number(&self) -> usize {
        self.number as usize
    }

    /// Sets its number among all endpoints of the server.
    #[cfg(feature = "daemon")]
    pub(crate) fn set_number(&mut self, number: usize) {
        self.number = u32::try_from(number).expect("few listeners");
    }

    /// Other descriptors of its sockets, for a process that takes the endpoint over. `None` if
    /// another process keeps them open anyway.
    ///
    /// # Errors
    /// The process is out of open files.
    pub(crate) fn offer(&self, endpoint: Endpoint) -> io::Result<Option<Offer>> {
        if self.kept.get() {
            return Ok(None);
        }
        // All workers have the same Unix socket.
        let count = if self.transport == Transport::Unix { 1 } else { self.sockets.len() };
        let copy = |socket: &Socket| Ok(Arc::new(OwnedFd::from(socket.try_clone()?)));
        let sockets = self.sockets[..count].iter().map(copy).collect::<io::Result<_>>()?;
        let (number, file, kept) = (self.number as usize, self.file.clone(), self.kept.clone());
        Ok(Some(Offer { number, endpoint, sockets, file, kept }))
    }

    /// The sockets, in the order of the workers.
    pub(crate) fn into_listening(self) -> impl Iterator<Item = Listening<OwnedFd>> {
        let Bound { number, transport, file, kept, sockets, .. } = self;
        let listening = move |socket: Socket| Listening {
            file: file.clone(),
            socket: socket.into(),
            transport,
            kept: kept.clone(),
            number,
        };
        sockets.into_iter().map(listening)
    }
}

/// The most attempts to find a port that is free for all addresses of a name.
const PORT_ATTEMPTS: usize = 16;

/// Binds each endpoint that has connections once for each worker, and listens. Returns the sockets
/// in the order of `endpoints`. [`bind_datagrams`] binds the others.
///
/// `names` says how many of the endpoints, in order, belong to one name. With port 0, these get the
/// same free port.
///
/// Before the first TCP socket listens, all are bound and the Unix sockets listen, so that a failed
/// start has rarely accepted a client.
pub(crate) fn bind_names(
    endpoints: &[ListenOn],
    names: &[usize],
    workers: usize,
    backlog: u32,
    share_port: bool,
) -> Result<Vec<Bound>, StartError> {
    check(endpoints)?;
    log_clipped_backlog(backlog);
    let tcp = SocketKind::Tcp.bind_names(endpoints, names, share_port)?;
    let bind_unix = |on: &ListenOn| match (&on.endpoint, on.transport.unix()) {
        (Endpoint::Unix(address), Some(options)) => {
            Some(unix::bind(address, options, workers, backlog))
        }
        (Endpoint::Unix(address), None) => {
            Some(unix::bind(address, &Default::default(), workers, backlog))
        }
        (Endpoint::Tcp(_) | Endpoint::Udp(_), _) => None,
    };
    let own = endpoints.iter().filter(|on| on.inherited.is_none());
    let unix: Vec<Bound> = own.filter_map(bind_unix).collect::<Result<_, _>>()?;
    let (mut tcp, mut unix) = (tcp.into_iter(), unix.into_iter());
    let mut bound = |on: &ListenOn| match on.endpoint {
        Endpoint::Udp(_) => None,
        _ if on.inherited.is_some() => on.inherited.as_ref().map(|one| one.bound(workers, backlog)),
        Endpoint::Tcp(_) => tcp.next().map(|first| first.listen(workers, backlog)),
        Endpoint::Unix(_) => unix.next().map(Ok),
    };
    let numbered = |(number, on)| {
        let bound: Result<Bound, StartError> = bound(on)?;
        Some(bound.map(|bound| Bound { number, ..bound }))
    };
    (0..).zip(endpoints).filter_map(numbered).collect()
}

/// The sockets of one endpoint for datagrams.
#[derive(Debug)]
pub(crate) struct BoundDatagram {
    /// Where they are bound, with the real port.
    pub(crate) endpoint: Endpoint,
    /// One for each worker. They block.
    pub(crate) sockets: Vec<Socket>,
}

/// Binds each endpoint for datagrams once for each worker, in the order of `endpoints`. As for TCP, a
/// second daemon at the port fails, unless both share it.
pub(crate) fn bind_datagrams(
    endpoints: &[ListenOn],
    names: &[usize],
    workers: usize,
    share_port: bool,
) -> Result<Vec<BoundDatagram>, StartError> {
    let bound = |first: First| {
        let (kind, address) = (first.kind, first.address);
        let sockets = first.for_each_worker(workers, |_| Ok(()));
        let sockets = sockets.map_err(|failure| kind.failed(address, failure))?;
        Ok(BoundDatagram { endpoint: kind.endpoint(address), sockets })
    };
    let mut own = SocketKind::Udp.bind_names(endpoints, names, share_port)?.into_iter();
    let datagrams = endpoints.iter().filter(|on| on.endpoint.is_datagram());
    let next = |on: &ListenOn| match &on.inherited {
        Some(inherited) => Some(inherited.bound_datagram(workers)),
        None => own.next().map(bound),
    };
    datagrams.filter_map(next).collect()
}

/// Like [`bind_names`], for endpoints without names.
#[cfg(test)]
pub(crate) fn bind_all(
    endpoints: &[ListenOn],
    workers: usize,
    backlog: u32,
    share_port: bool,
) -> Result<Vec<Bound>, StartError> {
    bind_names(endpoints, &vec![1; endpoints.len()], workers, backlog, share_port)
}

/// Checks that the endpoints can be listened on together, each with its options.
pub(crate) fn check(endpoints: &[ListenOn]) -> Result<(), StartError> {
    if endpoints.is_empty() {
        return Err(StartError::NothingToListenOn);
    }
    // Each request for port 0 gets a different free port, so these never clash.
    let is_any = |endpoint: &Endpoint| endpoint.socket_addr().is_some_and(|at| at.port() == 0);
    let mut seen: Vec<Endpoint> = Vec::with_capacity(endpoints.len());
    for ListenOn { endpoint, transport, .. } in endpoints {
        let one = endpoint.canonical();
        if !is_any(endpoint) && seen.contains(&one) {
            return Err(StartError::ListenedTwice(*endpoint));
        }
        if let (Endpoint::Unix(address), Some(options)) = (endpoint, transport.unix())
            && address.path().is_none()
            && *options != Default::default()
        {
            return Err(StartError::NoFile(*endpoint));
        }
        seen.push(one);
    }
    for kind in [SocketKind::Tcp, SocketKind::Udp] {
        let addresses = kind.addresses(endpoints);
        for address in &addresses {
            if let Some(wider) = addresses.iter().find(|other| covers(other, address, &addresses)) {
                let (endpoint, by) = (kind.endpoint(*address), kind.endpoint(*wider));
                return Err(StartError::Covered { endpoint, by });
            }
        }
    }
    Ok(())
}

/// The kinds of sockets at socket addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SocketKind {
    Tcp,
    Udp,
}

impl SocketKind {
    fn endpoint(self, address: SocketAddr) -> Endpoint {
        match self {
            SocketKind::Tcp => Endpoint::Tcp(address),
            SocketKind::Udp => Endpoint::Udp(address),
        }
    }

    /// The addresses to bind, in order, with IPv4-mapped addresses converted to IPv4.
    fn addresses(self, endpoints: &[ListenOn]) -> Vec<SocketAddr> {
        let own = endpoints.iter().filter(|on| on.inherited.is_none());
        let of_kind = own.filter_map(|on| {
            let address = canonical(on.endpoint.socket_addr()?);
            (self.endpoint(address) == on.endpoint.canonical()).then_some(address)
        });
        of_kind.collect()
    }

    /// Binds the first socket of each address, in order.
    fn bind_names(
        self,
        endpoints: &[ListenOn],
        names: &[usize],
        share_port: bool,
    ) -> Result<Vec<First>, StartError> {
        let addresses = self.addresses(endpoints);
        let (mut bound, mut rest) = (Vec::with_capacity(addresses.len()), endpoints);
        for count in names {
            let (name, others) = rest.split_at(*count);
            bound.extend(First::bind_name(self, &self.addresses(name), &addresses, share_port)?);
            rest = others;
        }
        Ok(bound)
    }

    fn failed(self, address: SocketAddr, failure: Failure) -> StartError {
        failed(self.endpoint(address), failure)
    }
}

/// Whether the wildcard address `wide` also accepts the connections to `address`.
fn covers(wide: &SocketAddr, address: &SocketAddr, all: &[SocketAddr]) -> bool {
    let same_port = wide.port() == address.port() && wide.port() != 0;
    let narrower = wide.ip().is_unspecified() && !address.ip().is_unspecified();
    let same_family = wide.is_ipv4() == address.is_ipv4();
    same_port && narrower && (same_family || (wide.is_ipv6() && !ipv4_beside(wide, all)))
}

/// Whether the server also listens on `0.0.0.0` at the port of `wide`, which is `[::]`: IPv4
/// clients connect there.
fn ipv4_beside(wide: &SocketAddr, all: &[SocketAddr]) -> bool {
    let ipv4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), wide.port());
    wide.port() != 0 && all.contains(&ipv4)
}

/// Without IPv6, leaves out each `[::]` that has `0.0.0.0` beside it at its port. An `[::]` alone
/// becomes `0.0.0.0` when it is bound. Returns those that are left out, each with its place.
#[cfg(feature = "daemon")]
pub(crate) fn leave_out_ipv6_wildcards(listeners: &mut [Vec<ListenOn>]) -> Vec<(usize, Endpoint)> {
    let all: Vec<ListenOn> = listeners.iter().flatten().cloned().collect();
    let is_spare = |on: &ListenOn| {
        let kind = if on.endpoint.is_datagram() { SocketKind::Udp } else { SocketKind::Tcp };
        let address = on.endpoint.socket_addr().filter(|_| on.inherited.is_none());
        address.is_some_and(|at| is_wildcard_v6(&at) && ipv4_beside(&at, &kind.addresses(&all)))
    };
    if !all.iter().any(is_spare) || has_ipv6() {
        return Vec::new();
    }
    let of_listener = |(at, listener): (usize, &mut Vec<ListenOn>)| {
        let left_out = listener.extract_if(.., |on| is_spare(on));
        left_out.map(|one| (at, one.endpoint)).collect::<Vec<_>>()
    };
    listeners.iter_mut().enumerate().flat_map(of_listener).collect()
}

/// Says that an `[::]` was left out.
#[cfg(feature = "daemon")]
pub(crate) fn log_left_out(endpoint: Endpoint) {
    log::warn!("no IPv6 on this machine: not listening on {endpoint}");
}

fn is_wildcard_v6(address: &SocketAddr) -> bool {
    address.ip() == Ipv6Addr::UNSPECIFIED
}

/// The first socket of an address: bound, not listening yet.
struct First {
    kind: SocketKind,
    /// With the real port.
    address: SocketAddr,
    only_v6: bool,
    socket: Socket,
}

impl First {
    /// Binds all addresses of a name. If they have port 0, they get the same free port.
    fn bind_name(
        kind: SocketKind,
        name: &[SocketAddr],
        all: &[SocketAddr],
        share: bool,
    ) -> Result<Vec<First>, StartError> {
        let is_any_port = name.first().is_some_and(|address| address.port() == 0);
        with_some_port(is_any_port, || First::bind_once(kind, name, all, share))
    }

    fn bind_once(
        kind: SocketKind,
        name: &[SocketAddr],
        all: &[SocketAddr],
        share: bool,
    ) -> Result<Vec<First>, StartError> {
        let mut firsts: Vec<First> = Vec::with_capacity(name.len());
        for address in name {
            let mut address = *address;
            if let (0, Some(first)) = (address.port(), firsts.first()) {
                address.set_port(first.address.port());
            }
            firsts.push(First::bind(kind, address, all, share)?);
        }
        Ok(firsts)
    }

    /// Binds the address, or `0.0.0.0` instead of `[::]` if there is no IPv6.
    fn bind(
        kind: SocketKind,
        address: SocketAddr,
        all: &[SocketAddr],
        share: bool,
    ) -> Result<First, StartError> {
        let only_v6 = is_wildcard_v6(&address) && ipv4_beside(&address, all);
        match First::bind_address(kind, address, only_v6, share) {
            Err((_, error)) if is_wildcard_v6(&address) && !only_v6 && no_ipv6(&error) => {
                let ipv4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
                log::warn!("no IPv6 on this machine ({error}): listening on {ipv4}, not {address}");
                First::bind_address(kind, ipv4, false, share)
                    .map_err(|failure| kind.failed(ipv4, failure))
            }
            result => result.map_err(|failure| kind.failed(address, failure)),
        }
    }

    fn bind_address(
        kind: SocketKind,
        address: SocketAddr,
        only_v6: bool,
        share: bool,
    ) -> Result<First, Failure> {
        let socket = kind.bound_socket(address, only_v6, share)?;
        // Port 0 is resolved here, for all workers.
        let real = socket.local_addr().map_err(|error| ("getsockname", error))?;
        Ok(First { kind, address: real.as_socket().unwrap_or(address), only_v6, socket })
    }

    /// Listens without SO_REUSEPORT, and then adds the sockets of the other workers.
    fn listen(self, workers: usize, backlog: u32) -> Result<Bound, StartError> {
        let address = self.address;
        let endpoint = Endpoint::Tcp(address);
        let sockets = self.for_each_worker(workers, |socket| listen(socket, backlog));
        let sockets = sockets.map_err(|failure| failed(endpoint, failure))?;
        Ok(Bound { sockets, ..Bound::new(endpoint, Transport::Tcp) })
    }

    /// Makes this socket ready, and then adds those of the other workers, with SO_REUSEPORT.
    fn for_each_worker(
        self,
        workers: usize,
        make_ready: impl Fn(&Socket) -> Result<(), Failure>,
    ) -> Result<Vec<Socket>, Failure> {
        let First { kind, address, only_v6, socket } = self;
        make_ready(&socket)?;
        if workers > 1 {
            socket.set_reuse_port(true).map_err(|error| ("setsockopt SO_REUSEPORT", error))?;
        }
        let mut sockets = Vec::with_capacity(workers);
        sockets.push(socket);
        for _ in 1..workers {
            let socket = kind.bound_socket(address, only_v6, true)?;
            make_ready(&socket)?;
            sockets.push(socket);
        }
        Ok(sockets)
    }
}

fn listen(socket: &Socket, backlog: u32) -> Result<(), Failure> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    socket.listen(backlog).map_err(|error| ("listen", error))
}

fn no_ipv6(error: &io::Error) -> bool {
    let none = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| none.contains(&errno))
}

/// Whether IPv6 is available. `::1` is missing both in a kernel without IPv6 and in a container
/// with IPv6 disabled.
fn has_ipv6() -> bool {
    match std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => true,
        Err(error) => !no_ipv6(&error),
    }
}

/// Binds all addresses of a name. The port that was free for the first one may not be free for
/// another: then all are tried again with another port, if any will do.
fn with_some_port<T>(
    is_any_port: bool,
    mut bind: impl FnMut() -> Result<T, StartError>,
) -> Result<T, StartError> {
    for _ in 1..PORT_ATTEMPTS {
        match bind() {
            Err(StartError::AddressInUse(_)) if is_any_port => {}
            result => return result,
        }
    }
    bind()
}

/// The name of a failed call, and its error.
type Failure = (&'static str, io::Error);

impl SocketKind {
    /// Creates a socket bound to the address, with all options except the backlog.
    fn bound_socket(
        self,
        address: SocketAddr,
        only_v6: bool,
        share: bool,
    ) -> Result<Socket, Failure> {
        let (socket_type, protocol) = match self {
            SocketKind::Tcp => (Type::STREAM, Protocol::TCP),
            SocketKind::Udp => (Type::DGRAM, Protocol::UDP),
        };
        let socket = Socket::new(Domain::for_address(address), socket_type, Some(protocol))
            .map_err(|error| ("socket", error))?;
        if address.is_ipv6() {
            // Always set: the system's default (net.ipv6.bindv6only) may be either.
            socket.set_only_v6(only_v6).map_err(|error| ("setsockopt IPV6_V6ONLY", error))?;
        }
        if share {
            socket.set_reuse_port(true).map_err(|error| ("setsockopt SO_REUSEPORT", error))?;
        }
        match self {
            SocketKind::Tcp => {
                socket.set_nonblocking(true).map_err(|error| ("fcntl O_NONBLOCK", error))?;
                // A restart must not wait for the connections of the last run to leave TIME_WAIT.
                // Over UDP the option would let a second daemon bind the port.
                socket
                    .set_reuse_address(true)
                    .map_err(|error| ("setsockopt SO_REUSEADDR", error))?;
                set_inherited_options(&socket)?;
            }
            SocketKind::Udp => udp::set_options(&socket, address)?,
        }
        socket.bind(&address.into()).map_err(|error| ("bind", error))?;
        Ok(socket)
    }
}

/// Sets options that accepted sockets inherit. This saves a system call per option and connection.
fn set_inherited_options(socket: &Socket) -> Result<(), Failure> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_nodelay(true).map_err(|error| ("setsockopt TCP_NODELAY", error))?;
    socket.set_tcp_keepalive(&keepalive).map_err(|error| ("setsockopt SO_KEEPALIVE", error))?;
    // An urgent byte is echoed in its place like any other byte.
    socket.set_out_of_band_inline(true).map_err(|error| ("setsockopt SO_OOBINLINE", error))
}

fn failed(endpoint: impl Into<Endpoint>, (call, error): Failure) -> StartError {
    let endpoint = endpoint.into();
    match error.kind() {
        // From bind or listen, see the module's description.
        io::ErrorKind::AddrInUse => StartError::AddressInUse(endpoint),
        _ => StartError::Listen { endpoint, call, error },
    }
}

/// Linux reduces a backlog to its own limit without an error.
fn log_clipped_backlog(backlog: u32) {
    let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    let limit = limit.ok().and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(limit) = limit.filter(|limit| *limit < backlog) {
        log::warn!(
            "backlog is {limit}, not {backlog}: the system allows no more \
             (sysctl net.core.somaxconn={backlog})"
        );
    }
}

#[cfg(test)]
mod tests;
