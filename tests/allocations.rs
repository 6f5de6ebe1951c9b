//! Checks that worker threads allocate nothing from the moment a server is ready to the end of its
//! drain, whatever the clients do.
//!
//! A global allocator counts the allocations of threads that are marked as workers. A service that
//! allocates on purpose shows that the count works. The design does not limit what a logger
//! allocates, so the logger here only formats and discards: what the services do for a log line is
//! counted.

mod counting;

use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use echopool::builtin::url::{After, FramedOptions, MessageOptions, ServiceOptions, Spec};
use echopool::builtin::{Echo, OfListener, TimedOptions};
use echopool::config::Limits;
use echopool::error::SettingError;
use echopool::framing::{ByteOrder, Delimiter, encode};
use echopool::service::{Answer, Connection, ServiceFactory, ServicePlan};
use echopool::{CloseReason, Config, Drained, Server, ServerHandle, Service};

use counting::{ALLOCATIONS, COUNTING, IS_MARKED};

/// Serializes the tests, because they share the counter.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Wraps each service of the factory with `.1`, and marks the worker's thread just before. What the
/// factory allocates earlier is not counted.
struct Wrapped<F, W>(F, W);

impl<F, S, W> ServiceFactory for Wrapped<F, W>
where
    F: ServiceFactory,
    S: Service,
    W: Fn(F::Service) -> S + Send + Sync + 'static,
{
    type Service = S;

    fn check(&self, limits: &Limits) -> Result<(), SettingError> {
        self.0.check(limits)
    }

    fn plan(self, limits: &Limits) -> ServicePlan<S> {
        let Wrapped(factory, wrap) = self;
        factory.plan(limits).map(move |service| {
            IS_MARKED.set(true);
            wrap(service)
        })
    }
}

/// Echo that allocates on request.
struct Watched {
    allocates: bool,
}

impl Service for Watched {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        if self.allocates {
            drop(std::hint::black_box(Vec::<u8>::with_capacity(100)));
        }
        Echo.data(connection, session)
    }
}

fn start(config: Config, allocates: bool) -> (ServerHandle, SocketAddr) {
    start_service(config, Wrapped(Echo, move |_| Watched { allocates }))
}

fn start_service(config: Config, factory: impl ServiceFactory) -> (ServerHandle, SocketAddr) {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let server = Server::start(config.listen(anywhere), factory).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    ALLOCATIONS.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    (server, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    client
}

/// Sends and receives `count` bytes at the same time, so that any size works.
fn echo(client: &mut TcpStream, count: usize) {
    let sent: Vec<u8> = (0..count).map(|at| (at * 31 % 251) as u8).collect();
    let mut sender = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| sender.write_all(&sent).unwrap());
        let mut received = vec![0; count];
        client.read_exact(&mut received).unwrap();
        assert!(received == sent, "{count} bytes came back changed");
    });
}

/// All kinds of clients, polite and rude.
fn all_kinds_of_clients(address: SocketAddr) {
    let mut client = connect(address);
    (0..=20).for_each(|power| echo(&mut client, 1 << power));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "FIN follows the half-close");

    // Closing with unread input resets the connection.
    let mut rude = connect(address);
    rude.write_all(&[7; 1000]).unwrap();
    thread::sleep(Duration::from_millis(50));
    drop(rude);

    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..100 {
                    echo(&mut connect(address), 64);
                }
            });
        }
    });
}

/// Starts an admin address and asks for its pages all the time. The returned function ends this and
/// returns how many pages came.
#[cfg(feature = "admin")]
fn ask_for_pages(server: &ServerHandle) -> impl FnOnce() -> u64 {
    use std::sync::{Arc, atomic::AtomicBool};

    let any_port = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let listener = echopool::admin::AdminListener::bind(&[any_port]).unwrap();
    let token = echopool::admin::Token::new("0123456789abcdef").unwrap();
    let admin = listener.token(token).serve(server).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let (address, is_over) = (admin.addresses()[0], over.clone());
    let asking = thread::spawn(move || {
        let mut pages = 0;
        while !is_over.load(Ordering::Relaxed) {
            for request in [
                "GET /metrics",
                "GET /healthz",
                "GET /readyz",
                "GET /api/v1/workers",
                "GET /api/v1/status",
                "GET /api/v1/clients?sort=bytes_sent&limit=10000",
                "POST /api/v1/listeners/0/stop",
                "POST /api/v1/listeners/0/start",
                "POST /api/v1/clients/12345/disconnect",
            ] {
                let mut client = connect(address);
                let head = "Authorization: Bearer 0123456789abcdef\r\nConnection: close";
                write!(client, "{request} HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
                let mut page = String::new();
                client.read_to_string(&mut page).unwrap();
                assert!(page.starts_with("HTTP/1.1 "), "{page}");
                pages += 1;
            }
        }
        pages
    });
    move || {
        over.store(true, Ordering::Relaxed);
        let pages = asking.join().unwrap();
        drop(admin);
        pages
    }
}

#[cfg(not(feature = "admin"))]
fn ask_for_pages(_: &ServerHandle) -> impl FnOnce() -> u64 {
    || 1
}

#[test]
fn workers_allocate_nothing_from_ready_to_the_end_of_drain() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let config = Config::new()
        .workers(2)
        .max_connections(64)
        .buffers(32)
        .idle_timeout(Some(Duration::from_secs(3)))
        .shed_after(Some(Duration::from_millis(100)));
    let (server, address) = start(config, false);
    let end_of_pages = ask_for_pages(&server);
    all_kinds_of_clients(address);

    // More than twice as many clients as buffers, and none reads: even if each holds only one
    // buffer, some wait for one and some are shed. They also exceed the connection limit, so some
    // wait in the backlog.
    let stuck: Vec<TcpStream> = (0..80)
        .map(|_| {
            let client = connect(address);
            client.set_nonblocking(true).unwrap();
            client
        })
        .collect();
    // The kernel buffers megabytes for each client before it stalls. How many is up to the kernel.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        for mut client in &stuck {
            let _ = client.write(&[1; 65536]);
        }
        thread::sleep(Duration::from_millis(10));
        let total = server.stats().total();
        if total.closed(CloseReason::Shed) > 0 && total.waits_for_slot > 0 {
            break;
        }
    }
    drop(stuck);
    let idle = connect(address);
    let begun = Instant::now();
    while server.stats().total().closed(CloseReason::IdleTimeout) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is never closed");
        thread::sleep(Duration::from_millis(10));
    }
    drop(idle);
    let mut last = connect(address);
    echo(&mut last, 1);
    let drained = server.drain(Duration::from_secs(60));
    COUNTING.store(false, Ordering::Relaxed);
    assert!(end_of_pages() > 0);

    let total = server.stats().total();
    assert!(matches!(drained, Drained::Clean | Drained::Cut(_)), "{drained:?}");
    for reason in [
        CloseReason::PeerClosed,
        CloseReason::Reset,
        CloseReason::IdleTimeout,
        CloseReason::Shed,
        CloseReason::Drained,
    ] {
        assert!(total.closed(reason) > 0, "no connection was closed for {reason}: {total:?}");
    }
    assert!(total.waits_for_buffer > 0 && total.waits_for_slot > 0, "{total:?}");
    assert!(total.accepted > 1000);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 0, "allocations on worker threads");
}

#[test]
fn replies_that_are_held_back_allocate_nothing() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for options in ["exp=200us&queue=1&size=1000", "uniform=0ms-1ms&depth=3", "stall=5ms/10ms"] {
        let spec: Spec = format!("delay://0?{options}").parse().unwrap();
        let ServiceOptions::Delay(options) = spec.service else { panic!("{spec}") };
        let config = Config::new()
            .workers(2)
            .max_connections(64)
            .buffer_size(1024)
            .buffers(64)
            .linger(Duration::from_millis(200));
        let (server, address) = start_service(config, Wrapped(options, |delay| delay));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = connect(address);
                    // Whole requests, so that none stays incomplete.
                    (0..10).for_each(|step| echo(&mut client, 1000 * (1 + 5 * step)));
                    client.write_all(&[7; 500]).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                    client.read_exact(&mut [0; 500]).unwrap();
                    assert_eq!(client.read(&mut [0]).unwrap(), 0);
                });
            }
        });
        let mut last = connect(address);
        last.write_all(&[7; 10]).unwrap();
        let drained = server.drain(Duration::from_secs(60));
        COUNTING.store(false, Ordering::Relaxed);
        assert_eq!(drained, Drained::Clean, "{spec}");
        assert!(server.stats().total().bytes_sent >= 4 * 235_500, "{spec}");
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 0, "{spec}: on worker threads");
    }
}

#[test]
fn a_deliberate_allocation_is_counted() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (server, address) = start(Config::new().workers(1).max_connections(10), true);
    echo(&mut connect(address), 1);
    server.drain(Duration::from_secs(60));
    COUNTING.store(false, Ordering::Relaxed);
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0);
}

/// A logger at level info, the daemon's default. It formats each line, which calls code of the
/// services, discards the text, and counts the lines of messages.
struct Formats;

static MESSAGES_SHOWN: AtomicU64 = AtomicU64::new(0);

struct Nowhere(usize);

impl fmt::Write for Nowhere {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

impl log::Log for Formats {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut written = Nowhere(0);
        fmt::write(&mut written, *record.args()).expect("writing to nowhere does not fail");
        if record.target() == "echopool::message" && written.0 > 0 {
            MESSAGES_SHOWN.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

/// Sends `stream` in parts of the sizes `sizes`, then FIN. Expects the bytes `reply`, then FIN.
fn talk(address: SocketAddr, stream: &[u8], sizes: &[usize], reply: &[u8]) {
    let mut client = connect(address);
    let mut sender = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut rest = stream;
            for size in sizes.iter().cycle() {
                let (part, more) = rest.split_at((*size).min(rest.len()));
                if sender.write_all(part).is_err() || more.is_empty() {
                    break;
                }
                rest = more;
            }
            let _ = sender.shutdown(Shutdown::Write);
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert!(received == reply, "{} bytes came back, not {}", received.len(), reply.len());
    });
}

fn framed_clients(address: SocketAddr) {
    let frame = |len: u32| [&encode(len, ByteOrder::Little)[..], &vec![5; len as usize]].concat();
    let good: Vec<u8> = [0, 1, 64, 3000, 0, 200_000, 7].into_iter().flat_map(frame).collect();
    for sizes in [&[1_000_000][..], &[1, 2, 3, 500], &[70_000, 13]] {
        talk(address, &good, sizes, &good);
        // FIN in the middle of a frame, a frame that is too long, and a negative length.
        talk(address, &[&good[..], &frame(900)[..300]].concat(), sizes, &good);
        talk(address, &[&good[..], &encode(1 << 20, ByteOrder::Little)].concat(), sizes, &good);
        talk(address, &[&good[..], &[255; 4]].concat(), sizes, &good);
    }
}

/// Replies have times in them, so only their length is compared.
fn timed_clients(address: SocketAddr) {
    let frame = |len: u32| [&encode(len, ByteOrder::Little)[..], &vec![5; len as usize]].concat();
    let good: Vec<u8> = [32, 33, 64, 3000, 32, 100_000, 40].into_iter().flat_map(frame).collect();
    for end in [vec![], frame(900)[..300].to_vec(), vec![31, 0, 0, 0], vec![255; 4]] {
        let mut client = connect(address);
        client.write_all(&[&good[..], &end].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), good.len());
    }
}

fn message_clients(closing: SocketAddr, keeping: SocketAddr) {
    let long = "y".repeat(20_000);
    let lines = format!("one\ntwo \u{1}\u{e9}\n\n{long}\nlast");
    for sizes in [&[1_000_000][..], &[1, 2, 3], &[900, 13]] {
        talk(keeping, lines.as_bytes(), sizes, lines.as_bytes());
        talk(closing, b"a message<EOF>and more", sizes, b"a message<EOF>");
        talk(closing, b"no end", sizes, b"no end");
        talk(closing, &[b'x'; 70_000], sizes, b"");
    }
}

fn stream_clients(chargen: SocketAddr, discard: SocketAddr) {
    for bytes in [1, 1000, 3_000_000] {
        let mut client = connect(chargen);
        client.write_all(b"ignored").unwrap();
        client.read_exact(&mut vec![0; bytes]).unwrap();
    }
    talk(discard, &vec![1; 3_000_000], &[100_000, 1], b"");
}

#[test]
fn the_other_services_allocate_nothing_while_messages_are_logged() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    log::set_logger(&Formats).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let max_frame = 200_000;
    let lines = MessageOptions {
        delimiter: Delimiter::new(b"\n").unwrap(),
        after: After::Keep,
        ..MessageOptions::default()
    };
    let services = vec![
        ServiceOptions::Framed(FramedOptions { max_frame, ..FramedOptions::default() }),
        ServiceOptions::Message(MessageOptions::default()),
        ServiceOptions::Message(lines),
        ServiceOptions::Chargen,
        ServiceOptions::Discard,
        ServiceOptions::Timed(TimedOptions { max_frame, ..TimedOptions::default() }),
        ServiceOptions::Timed(TimedOptions {
            max_frame,
            delay: Duration::from_millis(1),
            ..TimedOptions::default()
        }),
    ];
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = services.iter().fold(Config::new(), |config, _| config.listen(anywhere));
    let config = config.workers(2).max_connections(64).buffers(512).buffer_size(1024);
    let server =
        Server::start(config, Wrapped(OfListener::new(services), |services| services)).unwrap();
    let address: Vec<_> =
        server.local_endpoints().iter().map(|at| at.socket_addr().unwrap()).collect();
    ALLOCATIONS.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);

    framed_clients(address[0]);
    message_clients(address[1], address[2]);
    stream_clients(address[3], address[4]);
    timed_clients(address[5]);
    timed_clients(address[6]);
    let mut client = connect(address[2]);
    client.write_all(b"who?\n").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    let broadcast = server.broadcast(b"you!").unwrap();
    assert!(broadcast.queued > 0, "{broadcast:?}");
    client.read_exact(&mut [0; 5]).unwrap();
    drop(client);
    let drained = server.drain(Duration::from_secs(60));
    COUNTING.store(false, Ordering::Relaxed);

    assert_eq!(drained, Drained::Clean);
    let total = server.stats().total();
    for reason in [
        CloseReason::PeerClosed,
        CloseReason::Reset,
        CloseReason::Service,
        CloseReason::MessageTooLong,
        CloseReason::ProtocolError,
    ] {
        assert!(total.closed(reason) > 0, "no connection was closed for {reason}: {total:?}");
    }
    assert_eq!(total.buffers_held, 0, "{total:?}");
    // Three rounds of 5 (one ended by FIN), 1, and 1 (ended by FIN) messages, and then one more.
    assert_eq!(MESSAGES_SHOWN.load(Ordering::Relaxed), 3 * 7 + 1);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 0, "allocations on worker threads");
}
