//! Checks that the thread of a client loop allocates nothing while clients make requests, sends and
//! receives.
//!
//! A global allocator counts the allocations of the loop's thread. A callback that allocates on
//! purpose shows that the count works.

mod counting;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use echopool::builtin::OfListener;
use echopool::builtin::url::{FramedOptions, ServiceOptions};
use echopool::client::{Client, ClientLoop, LoopLimits, Options};
use echopool::{Config, Server};

use counting::{ALLOCATIONS, COUNTING, IS_MARKED};

/// Longer than any step takes, so that a hang fails the test.
const GUARD: Duration = Duration::from_secs(60);

/// Makes requests, sends, both kinds of receives, and a receive that is cancelled while it is
/// empty.
fn talk(clients: &[Client], rounds: usize) {
    for round in 0..rounds {
        for client in clients {
            let request = vec![round as u8; 5_000];
            assert_eq!(client.send_receive(request.clone(), GUARD).wait().unwrap(), request);
            drop(client.send(request.clone()).wait().unwrap());
            let reply = Vec::with_capacity(6_000);
            if client.framing().is_some() {
                assert_eq!(client.receive_message(reply).wait().unwrap(), request);
            } else {
                let mut left = request.len();
                while left > 0 {
                    left -= client.receive(Vec::with_capacity(left)).wait().unwrap().len();
                }
            }
            let pending = client.receive(Vec::with_capacity(10));
            pending.cancel();
            assert!(pending.wait().is_err());
        }
    }
}

#[test]
fn the_thread_of_a_connected_loop_allocates_nothing() {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let services = vec![ServiceOptions::Echo, ServiceOptions::Framed(FramedOptions::default())];
    let config = Config::new().listen(anywhere).listen(anywhere).workers(1).max_connections(1_000);
    let server = Server::start(config, OfListener::new(services)).unwrap();
    let [echo, framed] = [0, 1].map(|nth| server.local_endpoints()[nth].socket_addr().unwrap());
    let own_loop = ClientLoop::start(LoopLimits::for_clients(4)).unwrap();
    let targets = [format!("tcp://{echo}"), format!("framed://{framed}")];
    let clients: Vec<Client> = targets
        .iter()
        .map(|target| {
            // The callback runs on the loop's thread, before the connect completes.
            let options = Options::new().on_state(|_| IS_MARKED.set(true));
            let client = own_loop.client(target, options).unwrap();
            client.connect(GUARD).wait().unwrap();
            client
        })
        .collect();
    talk(&clients, 3);
    COUNTING.store(true, Ordering::Relaxed);
    talk(&clients, 200);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 0, "allocations on the loop's thread");
    let (send, done) = std::sync::mpsc::sync_channel(1);
    let pending = clients[0].receive(Vec::with_capacity(10));
    pending.on_complete(move |_| {
        drop(std::hint::black_box(vec![1_u8; 100]));
        send.send(()).unwrap();
    });
    clients[0].send(vec![1]).wait().unwrap();
    done.recv_timeout(GUARD).unwrap();
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0, "a deliberate allocation is counted");
}
