//! Tests of a server's handle used by the server's own services: no call waits for itself.

use std::cell::RefCell;
use std::io::{Read, Write};
#[cfg(feature = "daemon")]
use std::net::UdpSocket;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
#[cfg(feature = "daemon")]
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::builtin::Echo;
use crate::error::CloseReason;
use crate::service::{Answer, Connection, Message, WorkerContext};
use crate::shared::mailbox::WorkerCommand;
use crate::worker::layer::LayerKind;
use crate::worker::layer::header::{self, Header, WELCOME};

/// Longer than any test takes; guards against hanging.
const GUARD: Duration = Duration::from_secs(60);

type Handle = Arc<OnceLock<ServerHandle>>;

/// What a service does with a handle when data arrives.
type Call = fn(&ServerHandle, ConnectionId) -> Vec<String>;

/// Calls a handle, and sends back the result.
struct Caller(Handle, Call);

impl Service for Caller {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.input.consume(connection.input.len());
        let handle = self.0.get().expect("the server has started");
        let lines = (self.1)(handle, connection.id());
        assert!(connection.send(lines.join(",").as_bytes()), "a free buffer");
        Answer::CloseAfterSend
    }
}

fn start(handle: &Handle, call: Call) -> ServerHandle {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = Config::new().listen(anywhere).workers(2).max_connections(10);
    let handle = handle.clone();
    Server::start(config, move || Caller(handle.clone(), call)).unwrap()
}

#[test]
fn the_sizes_of_the_parts_are_what_each_says() {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = Config::new().listen(anywhere).workers(3).max_connections(10).buffers(16);
    let limits = config.check().unwrap();
    let plan = ServicePlan::new(|_| Echo).memory_bytes(1000).references(10);
    let plain = sizes(&limits, &plan, &Plain);
    let expected = Sizes {
        context_bytes: SystemWorker::<Echo, Plain>::BYTES_PER_SLOT,
        slot_bytes: launch::ENGINE_BYTES_PER_SLOT,
        worker_bytes: SystemWorker::<Echo, Plain>::FIXED_BYTES,
        service_bytes: 3 * (1000 + limits.reference_bytes(10)),
        directory_bytes: Directory::BYTES_PER_SLOT,
        ..Sizes::default()
    };
    assert_eq!(plain, expected);
    assert!(plain.context_bytes > 0 && plain.slot_bytes > 0 && plain.worker_bytes > 0);
    let limits = config.max_connections_per_address(Some(5)).check().unwrap();
    let address_bytes = Addresses::bytes(limits.max_connections);
    assert!(address_bytes > 0);
    assert_eq!(sizes(&limits, &plan, &Plain), Sizes { address_bytes, ..expected });
}

/// The reply to one byte.
fn ask(server: &ServerHandle) -> String {
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    client.write_all(b"?").unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    reply
}

#[test]
fn what_would_wait_for_its_own_worker_is_refused() {
    let handle = Handle::default();
    let call: Call = |server, id| {
        let errors = [
            server.broadcast(b"to all").unwrap_err(),
            server.send_to(id, b"to one").unwrap_err(),
            server.disconnect(id).unwrap_err(),
        ];
        assert!(errors[0].to_string().contains("use another thread"));
        errors
            .iter()
            .map(|error| format!("{error:?}"))
            .chain([format!("{:?}", server.wait())])
            .collect()
    };
    let server = start(&handle, call);
    assert!(handle.set(server).is_ok());
    let server = handle.get().unwrap();
    assert_eq!(ask(server), ["OnWorkerThread"; 4].join(","));
    // From this thread it works as usual.
    assert_eq!(server.broadcast(b"to all").unwrap(), Broadcast::default());
    assert_eq!(server.drain(GUARD), Drained::Clean);
}

#[test]
fn a_service_can_end_its_server() {
    for (call, ended) in [
        ((|server, _| vec![format!("{:?}", server.drain(GUARD))]) as Call, Drained::Clean),
        // More commands than there is room for in its own inbox, which no other thread empties.
        (
            |server, _| {
                (0..1000).for_each(|_| server.begin_drain(GUARD));
                vec!["OnWorkerThread".to_owned()]
            },
            Drained::Clean,
        ),
        (|server, _| vec![format!("{:?}", server.stop())], Drained::Cut(1)),
    ] {
        let handle = Handle::default();
        let server = start(&handle, call);
        assert!(handle.set(server).is_ok());
        let server = handle.get().unwrap();
        if ended == Drained::Clean {
            assert_eq!(ask(server), "OnWorkerThread");
        } else {
            let address = server.local_endpoints()[0].socket_addr().unwrap();
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"?").unwrap();
            let _ = client.read(&mut [0; 100]);
        }
        assert_eq!(server.wait(), ended);
    }
}

#[test]
fn a_service_can_use_another_servers_handle() {
    let other = Handle::default();
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = Config::new().listen(anywhere).workers(1).max_connections(10);
    assert!(other.set(Server::start(config, Echo).unwrap()).is_ok());
    let server = start(&other, |other, _| {
        vec![format!("{:?}", other.broadcast(b"to all").map(|sent| sent.queued))]
    });
    assert_eq!(ask(&server), "Ok(0)");
    let other = other.get().unwrap();
    assert_eq!((other.drain(GUARD), server.drain(GUARD)), (Drained::Clean, Drained::Clean));
}

/// The last handle is dropped with the last service, on a worker's thread.
#[test]
fn a_handle_dropped_by_its_own_service_stops_the_server_and_waits_for_nobody() {
    let handle = Handle::default();
    let server = start(&handle, |_, _| Vec::new());
    let shared = Arc::downgrade(&server.shared);
    assert!(handle.set(server).is_ok());
    handle.get().unwrap().begin_drain(GUARD);
    drop(handle);
    let begun = std::time::Instant::now();
    while shared.strong_count() > 0 {
        assert!(begun.elapsed() < GUARD, "a worker waits for itself");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Counts the threads that have ended, a while after their services.
struct LastOfThread(Arc<AtomicUsize>);

impl Drop for LastOfThread {
    fn drop(&mut self) {
        thread::sleep(Duration::from_millis(50));
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Makes services of which each counts the end of its thread. That of the worker `panics` panics.
fn counted_ends(
    ended: &Arc<AtomicUsize>,
    panics: Option<usize>,
) -> impl Fn(&WorkerContext) -> Echo + Send + Sync + 'static {
    thread_local! {
        static LAST: RefCell<Option<LastOfThread>> = const { RefCell::new(None) };
    }
    let ended = ended.clone();
    move |context| {
        LAST.set(Some(LastOfThread(ended.clone())));
        assert_ne!(Some(context.worker()), panics, "as the test wants it");
        Echo
    }
}

#[test]
fn no_thread_is_left_of_a_server_that_was_dropped_or_that_failed_to_start() {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = || Config::new().listen(anywhere).workers(3).max_connections(10);
    let ended = Arc::new(AtomicUsize::new(0));
    let make = counted_ends(&ended, None);
    drop(Server::start(config(), ServicePlan::new(make)).unwrap());
    assert_eq!(ended.load(Ordering::SeqCst), 3);
    let make = counted_ends(&ended, Some(2));
    assert!(Server::start(config(), ServicePlan::new(make)).is_err());
    assert_eq!(ended.load(Ordering::SeqCst), 3 + 3);
}

#[test]
fn memory_that_is_refused_is_told_with_the_sum_and_other_errors_are_not() {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let (_, memory) = Server::check(&Config::new().listen(anywhere), || Echo).unwrap();
    let resource =
        |kind: io::ErrorKind| StartError::Resource { what: "a thread", error: kind.into() };
    let told = with_sum(resource(io::ErrorKind::OutOfMemory), &memory);
    assert!(matches!(told, StartError::Memory { needed, .. } if needed == memory.total()));
    let other = with_sum(resource(io::ErrorKind::WouldBlock), &memory);
    assert!(matches!(other, StartError::Resource { what: "a thread", .. }), "{other:?}");
}

#[test]
fn sockets_are_dealt_out_to_the_workers() {
    let anywhere = Endpoint::Tcp(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
    let bound = bind::bind_all(&[anywhere.into(), anywhere.into()], 3, 16, false).unwrap();
    let numbers: Vec<Vec<i32>> = { bound.iter() }
        .map(|one| one.sockets.iter().map(|socket| socket.as_raw_fd()).collect())
        .collect();
    let of_workers = transpose(bound, 2)
        .into_iter()
        .map(|sockets| sockets.into_iter().map(|one| one.socket.as_raw_fd()).collect::<Vec<_>>());
    let expected = [
        vec![numbers[0][0], numbers[0][2], numbers[1][0], numbers[1][2]],
        vec![numbers[0][1], numbers[1][1]],
    ];
    assert_eq!(of_workers.collect::<Vec<_>>(), expected);
}

/// Ends its side of a connection when it gets `h`, or panics over each message when it gets `p`.
struct Deaf;

impl Service for Deaf {
    type Session = bool;

    fn data(&mut self, connection: &mut Connection<'_>, panics: &mut bool) -> Answer {
        let lease = connection.input.pop_front().expect("a byte");
        *panics = lease.filled() == b"p";
        let answer = if *panics { Answer::Continue } else { Answer::HalfClose };
        connection.output.push_back(lease);
        answer
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, _: &mut bool) -> Answer {
        Answer::CloseAfterSend
    }

    fn message(
        &mut self,
        _: &mut Connection<'_>,
        panics: &mut bool,
        _: &mut Message<'_>,
    ) -> Answer {
        assert!(*panics, "called although nothing more is sent");
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

#[test]
fn a_message_that_will_not_be_sent_is_an_error_and_holds_no_buffer() {
    for (byte, reason) in [(b"h", CloseReason::PeerClosed), (b"p", CloseReason::ServicePanic)] {
        let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        let config = Config::new().listen(anywhere).workers(1).max_connections(10);
        let server = Server::start(config, || Deaf).unwrap();
        let address = server.local_endpoints()[0].socket_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(GUARD)).unwrap();
        client.write_all(byte).unwrap();
        client.read_exact(&mut [0]).unwrap();
        let id = server.clients()[0].id;
        if byte == b"h" {
            let refused = server.broadcast(b"to all").unwrap();
            assert_eq!((refused.queued, refused.refused), (0, 1), "it counts as a client");
        }
        assert_eq!(server.send_to(id, b"to one"), Err(SendError::Gone));
        assert_eq!(server.stats().total().buffers_held, 0);
        drop(client);
        let begun = std::time::Instant::now();
        while server.stats().total().closed_total() == 0 {
            assert!(begun.elapsed() < GUARD, "it is never closed");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(server.stats().total().closed(reason), 1);
    }
}

/// The server whose worker [`Failing`] ends.
static FAILS: OnceLock<ServerHandle> = OnceLock::new();

/// A session whose worker fails as soon as its inbox is full.
struct Failing;

impl Default for Failing {
    fn default() -> Failing {
        let begun = std::time::Instant::now();
        let mailboxes = &FAILS.wait().shared.mailboxes;
        // The worker is inside this call, so nothing empties its inbox.
        while mailboxes.send(0, WorkerCommand::GiveBuffers).is_ok() {
            assert!(begun.elapsed() < GUARD, "the inbox never fills");
        }
        panic!("on purpose");
    }
}

struct Fails;

impl Service for Fails {
    type Session = Failing;

    fn data(&mut self, _: &mut Connection<'_>, _: &mut Failing) -> Answer {
        Answer::Continue
    }
}

#[test]
fn a_worker_that_fails_with_a_full_inbox_ends_the_server() {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = Config::new().listen(anywhere).workers(2).max_connections(10);
    let server = Server::start(config, || Fails).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    let server = FAILS.get_or_init(|| server);
    // The kernel chooses the worker of a client, so there are enough clients that one is the first
    // worker's. Later ones are refused once the worker has failed.
    let first = TcpStream::connect(address).unwrap();
    let _clients: Vec<_> = (0..63).map_while(|_| TcpStream::connect(address).ok()).collect();
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(server.wait()));
    assert_eq!(end.recv_timeout(GUARD / 4), Ok(Drained::Failed));
    drop(first);
}

/// Connects, and waits for the reply to one byte.
fn served(server: &ServerHandle) -> TcpStream {
    let mut client = asking(server);
    client.read_exact(&mut [0]).unwrap();
    client
}

/// A client that has sent one byte.
fn asking(server: &ServerHandle) -> TcpStream {
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    // Fails if the server has reset the connection already. The test then sees no reply.
    let _ = client.write_all(b"?");
    client
}

/// Two workers that echo, for at most four connections.
fn reconfigurable(config: Config) -> ServerHandle {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    Server::start(config.listen(anywhere).workers(2).max_connections(4), Echo).unwrap()
}

#[test]
fn the_limit_of_connections_can_be_lowered_and_raised() {
    let server = reconfigurable(Config::new());
    let mut clients: Vec<_> = (0..3).map(|_| served(&server)).collect();
    server.reconfigure(&Config::new().max_connections(1)).unwrap();
    let mut waiting = asking(&server);
    clients.truncate(1);
    while server.stats().total().connections != 1 {
        thread::yield_now();
    }
    waiting.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(waiting.read(&mut [0]).is_err(), "one is served, which is the limit");
    server.reconfigure(&Config::new().max_connections(4)).unwrap();
    waiting.set_read_timeout(Some(GUARD)).unwrap();
    waiting.read_exact(&mut [0]).unwrap();
    assert_eq!(server.limits().max_connections, 4);
    server.reconfigure(&Config::new()).unwrap();
    assert_eq!(server.limits().max_connections, 4, "it is not set, so it stays");
}

#[test]
fn a_reconfiguration_that_is_not_possible_changes_nothing() {
    let server = reconfigurable(Config::new());
    let before = format!("{:?}", server.limits());
    let second = Some(Duration::from_secs(1));
    for (wrong, text) in [
        (Config::new().max_connections(5), "`max_connections` is 5, but must be from 1 to 4"),
        (Config::new().idle_timeout(Some(Duration::ZERO)), "`idle_timeout` is 0ns"),
        (
            Config::new().idle_timeout(second).max_connections_per_address(Some(1)),
            "`max_connections_per_address` cannot be set while the server runs",
        ),
    ] {
        let error = server.reconfigure(&wrong).unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
        assert_eq!(format!("{:?}", server.limits()), before);
    }
}

#[test]
fn the_limit_per_address_can_be_changed_if_there_is_one() {
    let server = reconfigurable(Config::new().max_connections_per_address(Some(1)));
    let first = served(&server);
    assert!(asking(&server).read_exact(&mut [0]).is_err(), "it is reset");
    server.reconfigure(&Config::new().max_connections_per_address(Some(2))).unwrap();
    let second = served(&server);
    server.reconfigure(&Config::new().max_connections_per_address(None)).unwrap();
    let third = served(&server);
    server.reconfigure(&Config::new().max_connections_per_address(Some(1))).unwrap();
    assert!(asking(&server).read_exact(&mut [0]).is_err(), "it is reset");
    assert_eq!(server.stats().total().connections, 3, "those that there are stay");
    drop((first, second, third));
}

#[test]
fn time_outs_can_be_changed_for_connections_that_there_are() {
    let server = reconfigurable(Config::new());
    let mut clients: Vec<_> = (0..3).map(|_| served(&server)).collect();
    let soon = Some(Duration::from_millis(20));
    server.reconfigure(&Config::new().idle_timeout(soon)).unwrap();
    assert_eq!(server.limits().idle_timeout, soon);
    for client in &mut clients {
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is idle");
    }
    drop(clients);
    while server.stats().total().closed_total() < 3 {
        thread::yield_now();
    }
    assert_eq!(server.stats().total().closed(CloseReason::IdleTimeout), 3);
}

/// A server with a plain listener and one whose clients begin with a header that names them.
fn layered(config: Config) -> ServerHandle {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = config.listen(anywhere).listen(anywhere).workers(2).max_connections(10);
    let layers = ByListener::new(vec![
        LayerKind::Plain(Plain),
        LayerKind::Header(Header { timeout: GUARD }),
    ]);
    Server::start_with(config, Echo, layers).unwrap()
}

fn connect(server: &ServerHandle, listener: usize) -> TcpStream {
    let address = server.local_endpoints()[listener].socket_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    client
}

fn expect(mut client: &TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}

/// Waits until one connection was closed for this reason.
fn wait_for_closed(server: &ServerHandle, reason: CloseReason) {
    let begun = std::time::Instant::now();
    while server.stats().total().closed(reason) < 1 {
        assert!(begun.elapsed() < GUARD, "no connection was closed for {reason}");
        thread::yield_now();
    }
}

#[test]
fn each_listener_has_its_own_layer() {
    let server = layered(Config::new());
    let (mut plain, mut with_header) = (connect(&server, 0), connect(&server, 1));
    plain.write_all(b"hello").unwrap();
    expect(&plain, b"hello");
    with_header.write_all(&header::header(7, 0, 0)).unwrap();
    with_header.write_all(b"hello").unwrap();
    expect(&with_header, &[WELCOME, b"hello"].concat());
    let peers: Vec<_> =
        server.clients().iter().map(|client| (client.listener, client.peer)).collect();
    assert!(peers.contains(&(0, plain.local_addr().unwrap().into())), "{peers:?}");
    assert!(peers.contains(&(1, header::peer(7))), "{peers:?}");
    drop((plain, with_header));
    assert_eq!(server.drain(GUARD), Drained::Clean);
    assert_eq!(server.stats().total().bytes_sent, 10);
}

#[test]
fn listeners_without_a_layer_need_none() {
    let config = Config::new().listen("127.0.0.1:0").listen("unix://@echopool-no-layer");
    assert!(ByListener::of(&config).unwrap().is_none());
}

#[test]
fn the_connections_of_an_address_that_a_layer_names_are_counted_once_it_is_known() {
    let server = layered(Config::new().max_connections_per_address(Some(1)));
    let mut plain = connect(&server, 0);
    plain.write_all(b"x").unwrap();
    expect(&plain, b"x");
    let named = |number: u16| {
        let mut client = connect(&server, 1);
        client.write_all(&header::header(number, 0, 0)).unwrap();
        client
    };
    // The test layer's clients are in networks of 64 bits, which are counted as one address.
    let first = named(1);
    expect(&first, WELCOME);
    let mut second = named(2);
    let end = second.read(&mut [0; 8]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{end:?}");
    wait_for_closed(&server, CloseReason::AddressLimit);
    assert_eq!(server.stats().total().accepted, 3);
    // Its place comes free with the connection, which may be counted a little earlier.
    drop(first);
    wait_for_closed(&server, CloseReason::PeerClosed);
    let begun = std::time::Instant::now();
    let mut got = [0; WELCOME.len()];
    while named(3).read_exact(&mut got).is_err() {
        assert!(begun.elapsed() < GUARD, "its place does not come free");
    }
    assert_eq!(got, WELCOME);
}

/// Another descriptor of each socket that a server listens on, for one that takes over.
#[cfg(feature = "daemon")]
fn taking_over(config: &Config, from: &ServerHandle) -> ServerHandle {
    let mut config = config.clone();
    config.starts_stopped = true;
    for (on, offer) in config.listen.iter_mut().zip(from.offers()) {
        let copy = |socket: &Arc<OwnedFd>| socket.try_clone().unwrap();
        on.take_over(offer.sockets.iter().map(copy).collect(), None).unwrap();
    }
    Server::start(config, Echo).unwrap()
}

#[cfg(feature = "daemon")]
#[test]
fn a_server_that_takes_over_receives_no_datagram_before_it_begins_and_may_end_before() {
    let anywhere = Endpoint::Udp(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
    let mut config = Config::new().listen(anywhere).workers(1).max_connections(1);
    config.is_replaceable = true;
    let old = Server::start(config.clone(), Echo).unwrap();
    let client = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    client.connect(old.local_endpoints()[0].socket_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    let echo = || {
        client.send(b"text").unwrap();
        assert_eq!(client.recv(&mut [0; 8]).unwrap(), 4);
    };
    let received = |server: &ServerHandle| server.stats().total().datagrams_received;
    let new = taking_over(&config, &old);
    (0..100).for_each(|_| echo());
    assert_eq!((received(&old), received(&new)), (100, 0));
    // It ends, and the socket is still the old one's.
    drop(new);
    echo();
    let new = taking_over(&config, &old);
    new.begin_accepting(&[]);
    old.retire(&[], Vec::new());
    echo();
    assert!(received(&new) > 0);
}

/// One that is given up, one that begins, and the first one removed.
#[cfg(feature = "daemon")]
#[test]
fn listeners_that_are_prepared_accept_nothing_before_they_begin_and_are_gone_if_they_do_not() {
    let [first, second] = [0, 0].map(|port| SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    let config = Config::new().listen(first).workers(2).max_connections(10);
    let server = Server::start(config, Echo).unwrap();
    let ping = |mut client: &TcpStream| {
        client.set_read_timeout(Some(GUARD)).unwrap();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    };
    let patience = Patience::new(GUARD);
    let prepared = server.prepare(&[second.into()], &[1], &[1], &patience).unwrap();
    let at = prepared.places()[0].1.socket_addr().unwrap();
    let mut waiting = TcpStream::connect(at).unwrap();
    waiting.write_all(b"x").unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!((server.stats().total().accepted, server.is_free(1)), (0, true));
    drop(prepared);
    waiting.set_read_timeout(Some(GUARD)).unwrap();
    assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let refused = TcpStream::connect(at).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    // The number and the address are free again.
    let prepared = server.prepare(&[at.into()], &[1], &[1], &patience).unwrap();
    let waiting = TcpStream::connect(at).unwrap();
    assert_eq!(prepared.begin(), [(1, at.into())]);
    ping(&waiting);
    assert!(!server.is_free(1) && server.clients_of(1) == 1);
    assert!(server.remove(&[0], &patience).is_empty() && server.is_free(0));
    let refused = TcpStream::connect(server.local_endpoints()[0].socket_addr().unwrap());
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    ping(&waiting);
    // A server that ends adds none.
    server.begin_drain(GUARD);
    assert!(server.prepare(&[second.into()], &[1], &[2], &patience).is_err());
    drop(waiting);
    assert_eq!(server.wait(), Drained::Clean);
}

/// Blocks its worker's loop when data arrives, until it is let go or nobody can do that any more.
#[cfg(feature = "daemon")]
#[derive(Clone)]
struct Blocks {
    blocked: mpsc::Sender<()>,
    let_go: Arc<Mutex<mpsc::Receiver<()>>>,
}

#[cfg(feature = "daemon")]
impl Service for Blocks {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.input.consume(connection.input.len());
        let _ = self.blocked.send(());
        let _ = self.let_go.lock().unwrap().recv();
        Answer::Continue
    }
}

#[cfg(feature = "daemon")]
#[test]
fn a_worker_that_hangs_is_asked_once_to_close_several_listeners_and_holds_up_no_end() {
    let ((blocked, is_blocked), (opener, let_go)) = (mpsc::channel(), mpsc::channel());
    let service = Blocks { blocked, let_go: Arc::new(Mutex::new(let_go)) };
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = (0..3).fold(Config::new(), |config, _| config.listen(anywhere));
    let config = config.workers(1).max_connections(1);
    let server = Arc::new(Server::start(config, move || service.clone()).unwrap());
    // Dropped before the server, which waits for its worker.
    let go = opener;
    let (view, mailboxes) = (server.view(), &server.shared.mailboxes);
    let mut client = connect(&server, 0);
    client.write_all(b"x").unwrap();
    is_blocked.recv_timeout(GUARD).unwrap();
    mailboxes.set_accepting(1, false);
    assert!(view.any_stopped());
    // All waits of a change together take no longer than it has patience.
    let patience = Patience::new(Duration::from_millis(50));
    assert_eq!(server.remove(&[1, 2], &patience), [1, 2]);
    assert_eq!(patience.left(), Duration::ZERO);
    assert_eq!(mailboxes.count(0), 1, "one command for both");
    assert!(!view.any_stopped(), "the stopped one is not closed yet, but was removed");
    assert!(!server.is_free(1) && !server.is_free(2));
    assert_eq!(mailboxes.count(0), 1, "asked by who only looks");
    server.finish_removals(&patience);
    assert_eq!(mailboxes.count(0), 2);
    let refused = server.prepare(&[anywhere.into()], &[1], &[3], &patience).err().unwrap();
    assert!(refused.to_string().contains("a worker has not replied in time"), "{refused}");
    go.send(()).unwrap();
    server.finish_removals(&Patience::new(GUARD));
    assert!(server.is_free(1) && server.is_free(2) && mailboxes.stopped().is_empty());
    // Again, and the end comes while it is waited for.
    client.write_all(b"x").unwrap();
    is_blocked.recv_timeout(GUARD).unwrap();
    let (removed, removal) = mpsc::channel();
    let of_removal = server.clone();
    thread::spawn(move || removed.send(of_removal.remove(&[0], &Patience::new(GUARD * 10))));
    let begun = std::time::Instant::now();
    while mailboxes.count(0) == 0 {
        assert!(begun.elapsed() < GUARD, "it is never asked");
        thread::yield_now();
    }
    server.begin_drain(GUARD);
    assert_eq!(removal.recv_timeout(GUARD), Ok(vec![0]), "the end waits for the removal");
    go.send(()).unwrap();
    drop(client);
    assert_eq!(server.wait(), Drained::Clean);
}
