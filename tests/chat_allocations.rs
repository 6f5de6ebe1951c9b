//! Checks that worker threads allocate nothing while 1,000 clients talk in the chat room of the
//! examples, from the moment the server is ready to the end of its drain. As in `allocations`, a
//! deliberate allocation shows that the count works.

mod counting;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use echopool::service::{Answer, Connection, Message, ServicePlan, Turn};
use echopool::time::Time;
use echopool::{CloseReason, Config, Drained, Server, ServerHandle, Service};

use counting::{ALLOCATIONS, COUNTING, IS_MARKED};

/// In a folder that is a link to `docs/examples`.
mod examples {
    pub mod chat;
}

use examples::chat;

const GUARD: Duration = Duration::from_secs(60);
const CLIENTS: usize = 1000;

/// Whether each turn makes a deliberate allocation.
static ON_PURPOSE: AtomicBool = AtomicBool::new(false);

/// The chat room, which marks its worker's thread.
struct Marked(chat::Chat);

impl Service for Marked {
    type Session = <chat::Chat as Service>::Session;

    fn data(&mut self, connection: &mut Connection<'_>, guest: &mut Self::Session) -> Answer {
        self.0.data(connection, guest)
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        guest: &mut Self::Session,
        message: &mut Message<'_>,
    ) -> Answer {
        self.0.message(connection, guest, message)
    }

    fn closed(
        &mut self,
        connection: &mut Connection<'_>,
        guest: &mut Self::Session,
        reason: CloseReason,
    ) {
        self.0.closed(connection, guest, reason);
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        if ON_PURPOSE.load(Ordering::Relaxed) {
            drop(std::hint::black_box(Vec::<u8>::with_capacity(100)));
        }
        self.0.turn(turn)
    }
}

fn start() -> (ServerHandle, SocketAddr) {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = Config::new().listen(anywhere).workers(3).max_connections(CLIENTS as u32 + 10);
    let mark = |_: &_| {
        IS_MARKED.set(true);
        Marked(chat::Chat)
    };
    let plan = ServicePlan::new(mark).references(4 * (CLIENTS + 10));
    let server = Server::start(config, plan).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    ALLOCATIONS.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    (server, address)
}

fn enter(address: SocketAddr, name: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    client.set_write_timeout(Some(GUARD)).unwrap();
    client.write_all(name.as_bytes()).unwrap();
    client
}

/// Reads until a line ends with `end`.
fn lines_to(client: &mut TcpStream, end: &[u8]) {
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = client.read(&mut buffer).unwrap();
        assert!(count > 0, "FIN before {end:?}");
        heard.extend_from_slice(&buffer[..count]);
        while let Some(at) = heard.iter().position(|&byte| byte == b'\n') {
            if heard[..=at].ends_with(end) {
                return;
            }
            heard.drain(..=at);
        }
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < GUARD, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_chat_room_with_a_thousand_clients_allocates_nothing() {
    let (server, address) = start();
    let mut clients: Vec<TcpStream> =
        (0..CLIENTS).map(|number| enter(address, &format!("{number}\n"))).collect();
    until("all are in the room", || {
        let listed = server.clients();
        listed.len() == CLIENTS && listed.iter().all(|client| client.group == 1)
    });
    for number in 0..20 {
        clients[number].write_all(format!("line {number}\n").as_bytes()).unwrap();
        let end = format!(": line {number}\n");
        lines_to(&mut clients[CLIENTS - 1], end.as_bytes());
    }
    for client in &mut clients[20..CLIENTS - 1] {
        lines_to(client, b": line 19\n");
    }
    // The sender does not read, until messages to it are dropped.
    let mut sender = enter(address, "sender\n");
    let begun = Instant::now();
    let line = [[b'x'; 390].as_slice(), b"\n"].concat();
    while server.stats().total().messages_dropped == 0 {
        assert!(begun.elapsed() < GUARD, "no message was dropped");
        sender.write_all(&line.repeat(40)).unwrap();
    }
    // Half of the clients close with FIN, the others abruptly. The service closes the sender.
    sender.write_all(&[b'y'; 1000]).unwrap();
    for client in &clients[..CLIENTS / 2] {
        client.shutdown(Shutdown::Write).unwrap();
    }
    clients.truncate(CLIENTS / 2);
    until("half of them are gone", || {
        server.stats().total().connections == 0 || { server.clients().len() <= CLIENTS / 2 }
    });
    server.begin_drain(Duration::from_secs(5));
    drop((clients, sender));
    let drained = server.wait();
    COUNTING.store(false, Ordering::Relaxed);

    assert_eq!(drained, Drained::Clean);
    let total = server.stats().total();
    assert_eq!((total.connections, total.buffers_held), (0, 0), "{total:?}");
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), 0, "allocations on worker threads");

    ON_PURPOSE.store(true, Ordering::Relaxed);
    let (server, address) = start();
    drop(enter(address, "somebody\n"));
    server.drain(GUARD);
    COUNTING.store(false, Ordering::Relaxed);
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0, "a deliberate allocation is counted");
}
