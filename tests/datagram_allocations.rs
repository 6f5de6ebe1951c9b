//! Checks that the threads for datagrams allocate nothing while they serve, whatever arrives.

#![cfg(target_os = "linux")]

mod counting;

use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use echopool::builtin::{Echo, OfListener, ServiceOptions, StampOptions};
use echopool::config::Limits;
use echopool::service::{Arrival, DatagramService, ServiceFactory, ServicePlan};
use echopool::{Config, Counts, Server, ServerHandle};

use counting::{ALLOCATIONS, COUNTING, IS_MARKED};

const GUARD: Duration = Duration::from_secs(60);

/// Datagrams of one length that are sent without a wait for their replies.
const BURST: u64 = 16;

/// A service that marks its thread with the first datagram, and allocates on request.
struct Watched {
    service: Box<dyn DatagramService + Send>,
    allocates: bool,
}

impl DatagramService for Watched {
    fn reply(&mut self, datagram: &mut [u8], arrival: Arrival<'_>) -> Option<usize> {
        IS_MARKED.set(true);
        if self.allocates {
            drop(std::hint::black_box(Vec::<u8>::with_capacity(100)));
        }
        self.service.reply(datagram, arrival)
    }

    fn needs_times(&self) -> bool {
        self.service.needs_times()
    }
}

struct Factory {
    service: ServiceOptions,
    allocates: bool,
}

impl ServiceFactory for Factory {
    type Service = Echo;

    fn datagrams(&self, listener: usize) -> Option<Box<dyn DatagramService + Send>> {
        let service = OfListener::new(vec![self.service]).datagrams(listener)?;
        Some(Box::new(Watched { service, allocates: self.allocates }))
    }

    fn plan(self, _: &Limits) -> ServicePlan<Echo> {
        ServicePlan::new(|_| Echo)
    }
}

fn until(server: &ServerHandle, what: &str, condition: impl Fn(&Counts) -> bool) {
    let begun = Instant::now();
    while !condition(&server.stats().total()) {
        assert!(begun.elapsed() < GUARD, "never: {what}: {:?}", server.stats().total());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A server with this service, and a socket that is connected to it.
fn start(service: ServiceOptions, allocates: bool) -> (ServerHandle, UdpSocket) {
    let config = Config::new()
        .listen("udp://127.0.0.1:0?max-datagram=2000&source-rate=1000000/s")
        .workers(1)
        .max_connections(10);
    let server = Server::start(config, Factory { service, allocates }).expect("a server");
    let address = server.local_endpoints()[0].socket_addr().expect("an address");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(GUARD)).expect("a time-out");
    client.connect(address).expect("an address");
    (server, client)
}

/// Serves datagrams of every fate. Returns how often the thread allocated.
fn allocations(allocates: bool) -> u64 {
    let (server, client) = start(ServiceOptions::Echo, allocates);
    let address = client.peer_addr().expect("it is connected");
    // Its own port is refused.
    let refused = UdpSocket::bind(("127.0.0.88", address.port())).expect("a socket");
    let mut buffer = vec![0; 4_000];
    client.send(b"first").expect("sending");
    client.recv(&mut buffer).expect("a reply");

    let before = ALLOCATIONS.load(Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    for round in 0..500 {
        for size in [0, 1, 64, 2_000] {
            client.send(&buffer[..size]).expect("sending");
        }
        client.send(&buffer[..2_001]).expect("sending");
        refused.send_to(b"x", address).expect("sending");
        // As many as may leave as one message.
        for _ in 0..BURST {
            client.send(&buffer[..100]).expect("sending");
        }
        for _ in 0..4 + BURST {
            client.recv(&mut buffer).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
    }
    until(&server, "all are received", |total| total.datagrams_received == 1 + 500 * (6 + BURST));
    until(&server, "all are sent", |total| total.datagrams_sent == 1 + 500 * (4 + BURST));
    let total = server.stats().total();
    assert_eq!((total.datagrams_refused, total.datagrams_truncated), (500, 500));
    assert_eq!((total.datagrams_limited, total.datagrams_dropped), (0, 0));
    server.drain(GUARD);
    COUNTING.store(false, Ordering::Relaxed);
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// With and without state, and with more sessions than one.
fn test_packets_are_reflected_without_an_allocation() {
    for stateful in [false, true] {
        let (server, client) = start(ServiceOptions::Stamp(StampOptions { stateful }), false);
        let mut packet = [0; 100];
        // An error estimate.
        packet[13] = 1;
        let mut ask = |session: u16| {
            packet[14..16].copy_from_slice(&session.to_be_bytes());
            client.send(&packet).expect("sending");
            let mut reply = [0; 200];
            assert_eq!(client.recv(&mut reply).expect("a reply"), packet.len());
        };
        ask(0);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        COUNTING.store(true, Ordering::Relaxed);
        (0..2_000).for_each(|at| ask(at % 500));
        server.drain(GUARD);
        COUNTING.store(false, Ordering::Relaxed);
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
    }
}

#[test]
fn datagrams_are_served_without_an_allocation() {
    assert_eq!(allocations(false), 0);
    // The thread is watched indeed.
    assert_eq!(allocations(true), 500 * (4 + BURST));
    // In the same test, because the counters are those of the process.
    test_packets_are_reflected_without_an_allocation();
}
