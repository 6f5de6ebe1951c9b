//! Checks that worker threads allocate nothing while the clients of a hub do everything that they
//! can, from the moment the server is ready to the end of its drain.
//!
//! As in `allocations`, a deliberate allocation shows that the count works. Here the wrapper of the
//! hub makes it on request.

mod counting;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use echopool::buffer::Lease;
use echopool::builtin::Hub;
use echopool::builtin::hub::protocol::{self, Event, Request};
use echopool::builtin::url::{HubOptions, Slow};
use echopool::config::Limits;
use echopool::error::SettingError;
use echopool::framing::ByteOrder;
use echopool::service::{Answer, Connection, Message, ServiceFactory, ServicePlan, Turn};
use echopool::time::Time;
use echopool::{CloseReason, Config, Drained, Server, ServerHandle, Service};

use counting::{ALLOCATIONS, COUNTING, IS_MARKED};

const GUARD: Duration = Duration::from_secs(60);

/// Whether each turn makes a deliberate allocation.
static ON_PURPOSE: AtomicBool = AtomicBool::new(false);

/// Makes hubs and marks the workers' threads.
struct MarkedOptions(HubOptions);

impl ServiceFactory for MarkedOptions {
    type Service = Marked;

    fn check(&self, limits: &Limits) -> Result<(), SettingError> {
        self.0.check(limits)
    }

    fn plan(self, limits: &Limits) -> ServicePlan<Marked> {
        self.0.plan(limits).map(|hub| {
            IS_MARKED.set(true);
            Marked(hub)
        })
    }
}

/// A hub on a marked thread.
struct Marked(Hub);

impl Service for Marked {
    type Session = ();

    fn full_duplex(&self, tag: u64) -> bool {
        self.0.full_duplex(tag)
    }

    fn input_max(&self, tag: u64) -> usize {
        self.0.input_max(tag)
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut Self::Session) -> Answer {
        self.0.open(connection, session)
    }

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut Self::Session) -> Answer {
        self.0.data(connection, session)
    }

    fn sent(&mut self, connection: &mut Connection<'_>, session: &mut Self::Session) -> Answer {
        self.0.sent(connection, session)
    }

    fn peer_closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut Self::Session,
    ) -> Answer {
        self.0.peer_closed(connection, session)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut Self::Session) -> Answer {
        self.0.timer(connection, session)
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut Self::Session,
        message: &mut Message<'_>,
    ) -> Answer {
        self.0.message(connection, session, message)
    }

    fn closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut Self::Session,
        reason: CloseReason,
    ) {
        self.0.closed(connection, session, reason);
    }

    fn finishing(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut Self::Session,
    ) -> Option<CloseReason> {
        self.0.finishing(connection, session)
    }

    fn parcel(&mut self, listener: usize, lease: Lease, now: Time) {
        self.0.parcel(listener, lease, now);
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        if ON_PURPOSE.load(Ordering::Relaxed) {
            drop(std::hint::black_box(Vec::<u8>::with_capacity(100)));
        }
        self.0.turn(turn)
    }
}

fn start(options: HubOptions) -> (ServerHandle, SocketAddr) {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = Config::new().listen(anywhere).workers(3).max_connections(300).buffers(256);
    let config = config.buffer_size(4096).shed_after(Some(Duration::from_millis(100)));
    let server = Server::start(config, MarkedOptions(options)).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    ALLOCATIONS.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    (server, address)
}

fn request(request: Request, payload: &[u8]) -> Vec<u8> {
    let head = protocol::request_head(request, payload.len(), ByteOrder::Little);
    [head.bytes(), payload].concat()
}

/// Reads the next frame. Returns its type and its number (0 if it has none), or `None` at FIN.
fn told(client: &mut TcpStream) -> Option<(u8, u64)> {
    let mut length = [0; 4];
    match client.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
        done => done.unwrap(),
    }
    let mut frame = vec![0; u32::from_le_bytes(length) as usize];
    client.read_exact(&mut frame).unwrap();
    let number = match protocol::event(&frame, ByteOrder::Little).expect("a frame") {
        Event::Welcome(id) | Event::Joined(id) | Event::Left(id) | Event::NotSent { id, .. } => id,
        Event::Dropped(count) => count,
        _ => 0,
    };
    Some((frame[0], number))
}

fn until_told(client: &mut TcpStream, kind: u8) -> u64 {
    loop {
        let (told, number) = told(client).expect("a frame before FIN");
        if told == kind {
            return number;
        }
    }
}

fn connect(address: SocketAddr) -> (TcpStream, u64) {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    client.set_write_timeout(Some(GUARD)).unwrap();
    let id = until_told(&mut client, protocol::WELCOME);
    (client, id)
}

/// Clients that read everything, and use all requests.
fn polite_clients(address: SocketAddr, server: &ServerHandle) {
    let mut clients: Vec<_> = (0..40).map(|_| connect(address)).collect();
    let ids: Vec<u64> = clients.iter().map(|(_, id)| *id).collect();
    for (at, (client, _)) in clients.iter_mut().enumerate() {
        client.write_all(&request(Request::List, b"")).unwrap();
        client.write_all(&request(Request::Broadcast, &[1; 3000])).unwrap();
        client.write_all(&request(Request::Send { to: ids[39 - at] }, b"you")).unwrap();
        client.write_all(&request(Request::Send { to: 1 }, b"nobody")).unwrap();
        assert_eq!(until_told(client, protocol::NOT_SENT), 1);
    }
    server.broadcast(&[2; 2000]).unwrap();
    for client in server.clients() {
        server.send_to(client.id, b"one").unwrap();
    }
    for (client, _) in &mut clients {
        client.shutdown(Shutdown::Write).unwrap();
        while told(client).is_some() {}
    }
    for wrong in [&[0; 4][..], &[255, 255, 255, 127], &[1, 0, 0, 0, 99]] {
        let (mut client, _) = connect(address);
        client.write_all(wrong).unwrap();
        while told(&mut client).is_some() {}
    }
}

/// Clients that do not read while one client floods the hub, until `enough`.
fn slow_clients(address: SocketAddr, enough: impl Fn() -> bool) {
    let slow: Vec<_> = (0..20).map(|_| connect(address)).collect();
    let (mut sender, _) = connect(address);
    sender.set_nonblocking(true).unwrap();
    let (frame, begun) = (request(Request::Broadcast, &[3; 4000]), Instant::now());
    let (mut left, mut buffer) = (&frame[..], vec![0; 100_000]);
    while !enough() {
        assert!(begun.elapsed() < GUARD, "the hub dropped too little");
        match sender.write(left) {
            Ok(count) => left = &left[count..],
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        left = if left.is_empty() { &frame } else { left };
        while sender.read(&mut buffer).is_ok_and(|count| count > 0) {}
    }
    drop(slow);
}

#[test]
fn a_hub_allocates_nothing_from_ready_to_the_end_of_drain() {
    for slow in [Slow::Drop, Slow::Close] {
        let (server, address) = start(HubOptions { slow, ..HubOptions::default() });
        polite_clients(address, &server);
        let total = || server.stats().total();
        slow_clients(address, || {
            let total = total();
            match slow {
                Slow::Drop => total.messages_dropped > 1000,
                Slow::Close => total.closed(CloseReason::SlowReader) > 5,
                other => panic!("{other:?} is not tested here"),
            }
        });
        // Clients that join and leave immediately, while another client is notified of it.
        let (mut last, _) = connect(address);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..50).for_each(|_| drop(connect(address))));
            }
        });
        let mut left = HashSet::new();
        while left.len() < 100 {
            assert!(left.insert(until_told(&mut last, protocol::LEFT)), "a client left twice");
        }
        server.begin_drain(GUARD);
        while told(&mut last).is_some() {}
        drop(last);
        let drained = server.wait();
        COUNTING.store(false, Ordering::Relaxed);

        assert_eq!(drained, Drained::Clean);
        let total = server.stats().total();
        for reason in
            [CloseReason::PeerClosed, CloseReason::ProtocolError, CloseReason::MessageTooLong]
        {
            assert!(total.closed(reason) > 0, "no connection was closed for {reason}: {total:?}");
        }
        assert_eq!(total.buffers_held, 0, "{total:?}");
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 0, "allocations on worker threads");
    }

    ON_PURPOSE.store(true, Ordering::Relaxed);
    let (server, address) = start(HubOptions::default());
    drop(connect(address));
    server.drain(GUARD);
    COUNTING.store(false, Ordering::Relaxed);
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0, "a deliberate allocation is counted");
}
