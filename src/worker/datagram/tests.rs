//! Tests of the threads for datagrams within a server of the library.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::builtin::loopback::{GUARD, until};
use crate::builtin::{Echo, OfListener, ServiceOptions};
use crate::config::Limits;
use crate::error::StartError;
use crate::net::sockopt::{datagrams_dropped, report_destinations_and_drops};
use crate::service::{
    Answer, Arrival, Connection, DatagramService, Service, ServiceFactory, ServicePlan,
};
use crate::shared::counters::Counters;
use crate::worker::datagram::{Setup, Stopper, Thread};
use crate::{Config, Drained, Server};

fn config() -> Config {
    Config::new().workers(2).max_connections(10)
}

fn client(to: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    client.connect(to).unwrap();
    client
}

fn ask(client: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    client.send(datagram).unwrap();
    let mut buffer = [0; 1_000];
    let count = client.recv(&mut buffer).unwrap();
    buffer[..count].to_vec()
}

/// A listener for datagrams has a number as the others have, but no worker accepts from it.
#[test]
fn each_listener_has_its_own_service_whatever_stands_between() {
    let texts = ["udp://127.0.0.1:0", "127.0.0.1:0", "udp://127.0.0.1:0", "127.0.0.1:0"];
    let config = texts.into_iter().fold(config(), |config, text| config.listen(text));
    let services = vec![
        ServiceOptions::Chargen,
        ServiceOptions::Echo,
        ServiceOptions::Echo,
        ServiceOptions::Chargen,
    ];
    let server = OfListener::new(services).start(config).unwrap();
    let kinds: Vec<bool> = server.local_endpoints().iter().map(|one| one.is_datagram()).collect();
    assert_eq!(kinds, [true, false, true, false]);
    let at = |number: usize| server.local_endpoints()[number].socket_addr().unwrap();
    assert_eq!(ask(&client(at(2)), b"hello"), b"hello");
    assert!(ask(&client(at(0)), b"hello").starts_with(b" !\"#$"));
    assert_eq!(crate::builtin::loopback::exchange(at(1), b"hello"), b"hello");
    let mut chargen = crate::builtin::loopback::connect(at(3));
    assert!(crate::builtin::loopback::read(&mut chargen, 5).starts_with(b" !\"#$"));
    drop(chargen);
    assert_eq!(server.drain(GUARD), Drained::Clean);
    let total = server.stats().total();
    assert_eq!((total.datagrams_received, total.datagrams_sent), (2, 2));
}

#[test]
fn a_service_without_datagrams_is_not_started_with_them() {
    struct Streams;
    impl Service for Streams {
        type Session = ();
        fn data(&mut self, _: &mut Connection<'_>, _: &mut ()) -> Answer {
            Answer::Close
        }
    }
    let config = config().listen("udp://127.0.0.1:7801");
    let result = Server::start(config.clone(), || Streams);
    assert!(matches!(result, Err(StartError::NoDatagrams(_))));
    let framed = OfListener::new(vec![ServiceOptions::Framed(Default::default())]);
    let config = config.max_connections(1_000).buffers(1_000);
    let result = framed.start(config);
    assert!(matches!(result, Err(StartError::NoDatagrams(_))), "{:?}", result.err());
}

/// Replies with more than it was given, and panics on request.
struct Rude;

impl DatagramService for Rude {
    fn reply(&mut self, datagram: &mut [u8], _: Arrival<'_>) -> Option<usize> {
        assert_ne!(datagram, b"panic", "as the test wants");
        Some(usize::MAX)
    }
}

impl ServiceFactory for Rude {
    type Service = Echo;

    fn datagrams(&self, _: usize) -> Option<Box<dyn DatagramService + Send>> {
        Some(Box::new(Rude))
    }

    fn plan(self, _: &Limits) -> ServicePlan<Echo> {
        ServicePlan::new(|_| Echo)
    }
}

#[test]
fn a_reply_is_never_longer_than_the_datagram_and_a_panic_costs_one_reply() {
    let server = Server::start(config().listen("udp://127.0.0.1:0"), Rude).unwrap();
    let client = client(server.local_endpoints()[0].socket_addr().unwrap());
    assert_eq!(ask(&client, b"four"), b"four");
    client.send(b"panic").unwrap();
    assert_eq!(ask(&client, b"after"), b"after");
    until(&server, "two are sent", |total| total.datagrams_sent == 2);
    assert_eq!(server.stats().total().datagrams_received, 3);
    assert_eq!(server.stop(), Drained::Clean);
}

/// Threads that wait for datagrams, or that poll, end when the handle is dropped.
#[test]
fn idle_threads_end_at_once() {
    for busy_poll in [false, true] {
        let config = config().listen("udp://127.0.0.1:0").busy_poll(busy_poll);
        let server = Server::start(config, Echo).unwrap();
        let address = server.local_endpoints()[0].socket_addr().unwrap();
        assert_eq!(ask(&client(address), b"hello"), b"hello");
        drop(server);
        UdpSocket::bind(address).expect("the port is free");
    }
}

/// Whether both threads of the listener for datagrams with this number wait for something.
#[cfg(feature = "daemon")]
fn both_wait(number: usize) -> bool {
    let of = |task: std::path::PathBuf| {
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        let stat = std::fs::read_to_string(task.join("stat")).ok()?;
        let is_one = name.starts_with(&format!("udp-{number}-"));
        Some(is_one && stat.rsplit_once(") ")?.1.starts_with('S'))
    };
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks.filter(|task| of(task.as_ref().unwrap().path()) == Some(true)).count() == 2
}

#[cfg(feature = "daemon")]
#[test]
fn threads_that_have_not_begun_end_when_their_sockets_are_left_to_another_process() {
    // No other test of this process has so many.
    const BEFORE: usize = 7;
    let mut config = (0..=BEFORE).fold(config(), |config, _| config.listen("udp://127.0.0.1:0"));
    config.starts_stopped = true;
    let services = vec![ServiceOptions::Echo; BEFORE + 1];
    let server = OfListener::new(services).start(config).unwrap();
    until(&server, "they wait to begin", |_| both_wait(BEFORE));
    server.retire(&[], Vec::new());
    let (ended, ends) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(server.wait()));
    assert_eq!(ends.recv_timeout(GUARD), Ok(Drained::Clean));
}

/// A thread of an echo at a socket of its own, which another process has made, and which nobody has
/// started.
fn thread(socket: UdpSocket) -> (Thread, Arc<Counters>) {
    thread_at(socket, false)
}

/// The same at a socket that this process has made, or not.
fn thread_at(socket: UdpSocket, is_new: bool) -> (Thread, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    let port = socket.local_addr().unwrap().port();
    let socket = Arc::new(OwnedFd::from(socket));
    let stopper = Arc::new(Stopper::new(vec![Arc::downgrade(&socket)]));
    let setup = Setup {
        socket,
        is_new,
        port,
        longest: 100,
        segmentation: true,
        rates: None,
        service: Box::new(Echo),
        counters: counters.clone(),
        stopper,
        busy_poll: false,
    };
    (Thread::new(setup), counters)
}

/// In an upgrade two processes have a socket, and the new one may be stopped at once.
#[test]
fn a_socket_that_another_process_shuts_down_receives_nothing() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let other = socket.try_clone().unwrap();
    let client = client(socket.local_addr().unwrap());
    let (mut thread, counters) = thread(socket);
    client.send(b"before").unwrap();
    assert!(thread.turn());
    assert_eq!(client.recv(&mut [0; 100]).unwrap(), 6);
    let _ = rustix::net::shutdown(&other, rustix::net::Shutdown::Both);
    for _ in 0..3 {
        assert!(thread.turn(), "it was not told to end");
    }
    let counts = [&counters.receives, &counters.datagrams_received, &counters.datagrams_refused];
    assert_eq!(counts.map(|count| count.get()), [1, 1, 0]);
}

/// Sends until the kernel has dropped something. Returns how much it has dropped in all.
fn overflow(client: &UdpSocket, server: &UdpSocket) -> u64 {
    let now = || datagrams_dropped(server).expect("Linux tells");
    let before = now();
    while now() == before {
        (0..100).for_each(|_| assert_eq!(client.send(&[7; 100]).unwrap(), 100));
    }
    // A busy kernel may deliver the last of them, or drop them, later.
    let mut dropped = before;
    while dropped != now() {
        dropped = now();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    dropped.into()
}

/// A server's sockets receive before its threads have begun.
#[test]
fn drops_at_a_new_socket_count_from_its_beginning() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(4_000).unwrap();
    report_destinations_and_drops(&socket, false).unwrap();
    let kernel = socket.try_clone().unwrap();
    let client = client(socket.local_addr().unwrap());
    let (mut thread, counters) = thread_at(socket, true);
    let before = overflow(&client, &kernel);
    thread.begin();
    thread.end();
    assert_eq!(counters.datagrams_dropped.get(), before);
    assert!(before > 0);
}

/// As in an upgrade: what the old process had dropped is not the new one's.
#[test]
fn drops_count_from_the_beginning_to_the_end_of_a_thread() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(4_000).unwrap();
    report_destinations_and_drops(&socket, false).unwrap();
    let kernel = socket.try_clone().unwrap();
    let client = client(socket.local_addr().unwrap());
    let (mut thread, counters) = thread(socket);
    let dropped = || counters.datagrams_dropped.get();
    let of_others = overflow(&client, &kernel);
    thread.begin();
    // Those that waited know of no drop, or of fewer.
    assert!(thread.turn());
    assert_eq!(dropped(), 0);
    let first = overflow(&client, &kernel) - of_others;
    assert!(thread.turn());
    assert!(dropped() <= first);
    let all = overflow(&client, &kernel) - of_others;
    thread.end();
    assert_eq!(dropped(), all);
    thread.end();
    assert_eq!(dropped(), all, "nothing is counted twice");
}
