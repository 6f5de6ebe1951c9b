//! Counts allocations on worker threads between the moment a server is ready and the end of its
//! drain: there must be none, whatever the clients do.
//!
//! A global allocator counts what threads allocate that have been marked as workers; a service that
//! allocates on purpose shows that the count works.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use echopool::service::{Answer, Connection, Echo, Workplace};
use echopool::{CloseReason, Config, Drained, Server, ServerHandle, Service};

/// Whether allocations on worker threads are counted now.
static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// The two tests share the counter.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn note() {
    if COUNTING.load(Ordering::Relaxed) && IS_WORKER.get() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is passed on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Echo that marks the worker's thread, and allocates if it is told to.
#[derive(Clone)]
struct Watched {
    allocates: bool,
}

impl Service for Watched {
    type Session = ();

    fn prepare(&mut self, _: &Workplace) {
        IS_WORKER.set(true);
    }

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        if self.allocates {
            drop(std::hint::black_box(Vec::<u8>::with_capacity(100)));
        }
        Echo.data(connection, session)
    }
}

fn start(config: Config, allocates: bool) -> (ServerHandle, SocketAddr) {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let server = Server::start(config.listen(anywhere), Watched { allocates }).unwrap();
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

/// Sends `count` bytes and receives them, at the same time, so that no size is too large.
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

/// Everything that clients do, politely and otherwise.
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

#[test]
fn workers_allocate_nothing_from_ready_to_the_end_of_drain() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let config = Config::new()
        .workers(2)
        .max_connections(64)
        .buffers(64)
        .idle_timeout(Some(Duration::from_millis(700)))
        .shed_after(Some(Duration::from_millis(100)));
    let (server, address) = start(config, false);
    all_kinds_of_clients(address);

    // More than there are buffers, from clients that do not read: some wait, some are shed. And
    // more clients than may be connected: the rest wait in the backlog.
    let stuck: Vec<TcpStream> = (0..80)
        .map(|_| {
            let client = connect(address);
            client.set_nonblocking(true).unwrap();
            client
        })
        .collect();
    for _ in 0..100 {
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
    thread::sleep(Duration::from_millis(1500));
    drop(idle);
    let mut last = connect(address);
    echo(&mut last, 1);
    let drained = server.drain(Duration::from_secs(20));
    COUNTING.store(false, Ordering::Relaxed);

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
fn an_allocation_that_is_put_in_on_purpose_is_counted() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (server, address) = start(Config::new().workers(1).max_connections(10), true);
    echo(&mut connect(address), 1);
    server.drain(Duration::from_secs(10));
    COUNTING.store(false, Ordering::Relaxed);
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0);
}
