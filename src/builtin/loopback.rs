//! A server and its clients on the loopback interface, for tests that need real sockets. Other
//! tests use [`testing::Rig`](crate::testing::Rig).

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::CloseReason;
use crate::service::ServiceFactory;
use crate::{Config, Counts, Server, ServerHandle};

/// Longer than any operation takes: a test that hangs fails after this time.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

/// A server of one worker with this service.
pub(crate) fn start(config: Config, factory: impl ServiceFactory) -> (ServerHandle, SocketAddr) {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = config.workers(1).max_connections(100).listen(anywhere);
    let server = Server::start(config, factory).unwrap_or_else(|error| panic!("{error}"));
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    (server, address)
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    client.set_write_timeout(Some(GUARD)).unwrap();
    client
}

/// Sends `bytes` and FIN, and receives to the end at the same time.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = connect(address);
    let mut sender = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            // The server may close before all bytes have arrived.
            let _ = sender.write_all(bytes);
            let _ = sender.shutdown(Shutdown::Write);
        });
        let mut replies = Vec::new();
        client.read_to_end(&mut replies).unwrap();
        replies
    })
}

pub(crate) fn read(client: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

/// Waits until `condition` is true of the server's counters.
pub(crate) fn until(server: &ServerHandle, what: &str, condition: impl Fn(&Counts) -> bool) {
    let begun = Instant::now();
    while !condition(&server.stats().total()) {
        assert!(begun.elapsed() < GUARD, "never: {what}: {:?}", server.stats().total());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `count` connections were closed for this reason, and every buffer is free.
pub(crate) fn until_closed(server: &ServerHandle, reason: CloseReason, count: u64) {
    until(server, &format!("{count} closed for {reason}"), |total| {
        total.closed(reason) == count && total.connections == 0 && total.buffers_held == 0
    });
}
