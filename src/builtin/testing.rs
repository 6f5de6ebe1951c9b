//! Helpers for the tests of the services: a service without a server, which is fed bytes as they
//! might arrive, and clients of a real server.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::time::Time;
use crate::buffer::{Chain, Pool, Reserve};
use crate::config::Limits;
use crate::error::CloseReason;

use crate::service::messenger::Messenger;
use crate::service::{
    Answer, Attention, Connection, ConnectionId, Service, ServiceFactory, WorkerContext,
};
use crate::{Config, Counts, Server, ServerHandle};

/// Longer than any operation takes. Only keeps tests from hanging.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

/// One connection of a service.
pub(crate) struct Rig<S: Service> {
    service: S,
    session: S::Session,
    pub(crate) pool: Pool,
    pub(crate) input: Chain,
    attention: Attention,
    /// All output of the service.
    pub(crate) replies: Vec<u8>,
}

impl<S: Service> Rig<S> {
    pub(crate) fn new(
        factory: impl ServiceFactory<Service = S>,
        buffer_size: usize,
        buffers: u32,
    ) -> Rig<S> {
        let plan = factory.plan(&Limits::bare(1, buffer_size, buffers));
        let reserve = Reserve::new(buffer_size, buffers).unwrap();
        let pool = Pool::with_references(reserve, 0, plan.references_each());
        let service = plan.make(&WorkerContext::alone(pool.clone(), 1));
        Rig::with_pool(service, pool)
    }

    /// The same for an existing service, with this pool.
    pub(crate) fn with_pool(service: S, pool: Pool) -> Rig<S> {
        let (session, input) = (S::Session::default(), Chain::new(&pool));
        let attention = Attention::default();
        Rig { service, session, pool, input, attention, replies: Vec::new() }
    }

    /// Whether the service has asked for a buffer and got none since the last call.
    pub(crate) fn waits_for_buffer(&self) -> bool {
        self.attention.remove(Attention::WANTS_BUFFER)
    }

    /// Delivers these bytes in one receive.
    pub(crate) fn receive(&mut self, mut bytes: &[u8]) -> Answer {
        let mut arrived = Chain::new(&self.pool);
        while !bytes.is_empty() {
            let mut lease = self.pool.lease().expect("the test gives enough buffers");
            bytes = &bytes[lease.extend_from_slice(bytes)..];
            arrived.push_back(lease);
        }
        self.input.absorb(&mut arrived);
        self.call_data()
    }

    /// Adds these bytes to the free space of the last buffer.
    pub(crate) fn receive_into_last(&mut self, bytes: &[u8]) {
        let mut last = self.input.pop_front().expect("a buffer");
        assert_eq!(last.extend_from_slice(bytes), bytes.len());
        self.input.push_back(last);
    }

    /// Calls the service for its input once more.
    pub(crate) fn call_data(&mut self) -> Answer {
        self.call(|service, connection, session| service.data(connection, session))
    }

    /// The client closes its sending side.
    pub(crate) fn close(&mut self) -> Answer {
        self.call(|service, connection, session| service.peer_closed(connection, session))
    }

    pub(crate) fn call(
        &mut self,
        call: impl FnOnce(&mut S, &mut Connection<'_>, &mut S::Session) -> Answer,
    ) -> Answer {
        let mut output = Chain::new(&self.pool);
        let mut connection = Connection {
            id: ConnectionId(1),
            peer: SocketAddr::from((Ipv6Addr::LOCALHOST, 1)).into(),
            tag: 0,
            discarded: 0,
            sent: 0,
            now: Time::ZERO,
            pool: &self.pool,
            messenger: &Messenger::alone(&self.pool),
            attention: &self.attention,
            timer: &mut Time::MAX.clone(),
            input: &mut self.input,
            output: &mut output,
        };
        let answer = call(&mut self.service, &mut connection, &mut self.session);
        self.replies.extend(output.slices().flatten());
        answer
    }
}

/// Starts a server with one worker and this service.
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

/// Sends all bytes and then FIN, and receives to the end at the same time.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = connect(address);
    let mut sender = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            // The server may have closed before all bytes have arrived.
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

/// Waits until a condition on the server's counters is true.
pub(crate) fn until(server: &ServerHandle, what: &str, condition: impl Fn(&Counts) -> bool) {
    let begun = Instant::now();
    while !condition(&server.stats().total()) {
        assert!(begun.elapsed() < GUARD, "never: {what}: {:?}", server.stats().total());
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until this many connections were closed for this reason and every buffer has been
/// returned.
pub(crate) fn until_closed(server: &ServerHandle, reason: CloseReason, count: u64) {
    until(server, &format!("{count} closed for {reason}"), |total| {
        total.closed(reason) == count && total.connections == 0 && total.buffers_held == 0
    });
}
