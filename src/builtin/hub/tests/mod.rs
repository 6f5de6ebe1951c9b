//! The hub on real sockets, driven by plain clients: which clients are listed, which client gets
//! which messages in which order, and what happens to clients that do not read.

use std::collections::{BTreeSet, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::builtin::OfListener;
use crate::builtin::url::ServiceOptions;
use crate::protocol::framing::{ByteOrder, encode};
use crate::protocol::hub as protocol;
use crate::protocol::hub::{Event, GONE, Request};
use crate::service::ConnectionId;
use crate::{Broadcast, Config, Drained, SendError, Server, ServerHandle};

/// Longer than any step takes. Only guards against a hang.
const GUARD: Duration = Duration::from_secs(120);

mod crowd;
mod scarce;
mod still;
#[cfg(feature = "admin")]
mod times;
mod world;

const ORDER: ByteOrder = ByteOrder::Little;

/// A frame that a client was sent, with its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    Welcome(u64),
    Clients(bool, Vec<u64>),
    Message { to_all: bool, from: u64, payload: Vec<u8> },
    Joined(u64),
    Left(u64),
    NotSent(u8, u64),
    Dropped(u64),
}

impl Told {
    fn of(frame: &[u8]) -> Told {
        match protocol::event(frame, ORDER).unwrap_or_else(|| panic!("no frame: {frame:?}")) {
            Event::Welcome(id) => Told::Welcome(id),
            Event::Clients { more, ids } => Told::Clients(more, ids.iter().collect()),
            Event::Message { to_all, from, payload } => {
                Told::Message { to_all, from, payload: payload.to_vec() }
            }
            Event::Joined(id) => Told::Joined(id),
            Event::Left(id) => Told::Left(id),
            Event::NotSent { reason, id } => Told::NotSent(reason, id),
            Event::Dropped(count) => Told::Dropped(count),
            Event::Unknown(kind) => panic!("type {kind}"),
        }
    }
}

fn to_all(from: u64, payload: &[u8]) -> Told {
    Told::Message { to_all: true, from, payload: payload.to_vec() }
}

fn to_one(from: u64, payload: &[u8]) -> Told {
    Told::Message { to_all: false, from, payload: payload.to_vec() }
}

fn request(request: Request, payload: &[u8]) -> Vec<u8> {
    [protocol::request_head(request, payload.len(), ORDER).bytes(), payload].concat()
}

/// A client that knows its id.
struct Client {
    stream: TcpStream,
    id: u64,
}

impl Client {
    fn new(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream.set_write_timeout(Some(GUARD)).unwrap();
        let mut client = Client { stream, id: 0 };
        let Told::Welcome(id) = client.told() else { panic!("no welcome") };
        assert_ne!(id, 0);
        client.id = id;
        client
    }

    /// Returns the next frame, or `None` at the end of the stream.
    fn next(&mut self) -> Option<Told> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            done => done.unwrap(),
        }
        let mut frame = vec![0; u32::from_le_bytes(length) as usize];
        self.stream.read_exact(&mut frame).unwrap();
        Some(Told::of(&frame))
    }

    fn told(&mut self) -> Told {
        self.next().expect("the server has closed the connection")
    }

    /// Returns the next frame that is neither JOINED nor LEFT.
    fn told_of_messages(&mut self) -> Told {
        loop {
            match self.told() {
                Told::Joined(_) | Told::Left(_) => {}
                told => return told,
            }
        }
    }

    fn says(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn asks(&mut self, what: Request, payload: &[u8]) {
        self.says(&request(what, payload));
    }

    fn list(&mut self) -> BTreeSet<u64> {
        self.asks(Request::List, b"");
        let mut all = BTreeSet::new();
        loop {
            let Told::Clients(more, ids) = self.told_of_messages() else { panic!("no list") };
            for id in ids {
                assert!(all.insert(id), "{id} is listed twice");
            }
            if !more {
                return all;
            }
        }
    }
}

fn config(workers: usize) -> Config {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    Config::new().listen(anywhere).workers(workers).max_connections(200)
}

fn start_with(config: Config, options: HubOptions) -> (ServerHandle, SocketAddr) {
    let server = Server::start(config, options).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    (server, address)
}

fn start(workers: usize) -> (ServerHandle, SocketAddr) {
    start_with(config(workers), HubOptions { notices: false, ..HubOptions::default() })
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < GUARD, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Ends a server whose clients are gone, and checks that all of its buffers were given back.
fn ends_clean(server: &ServerHandle) {
    until("all clients are gone", || server.clients().is_empty());
    until("all buffers are back", || server.stats().total().buffers_held == 0);
    assert_eq!(server.drain(GUARD), Drained::Clean);
}

#[test]
fn clients_are_welcomed_listed_and_told_of_each_other() {
    for workers in [1, 3] {
        let (server, address) = start_with(config(workers), HubOptions::default());
        let mut first = Client::new(address);
        assert_eq!(first.list(), BTreeSet::from([first.id]));
        let mut others: Vec<Client> = Vec::new();
        for _ in 0..8 {
            let mut client = Client::new(address);
            assert_eq!(first.told(), Told::Joined(client.id));
            let mut all = BTreeSet::from([first.id, client.id]);
            all.extend(others.iter().map(|other| other.id));
            assert_eq!(client.list(), all);
            others.push(client);
        }
        let mut ids: HashSet<u64> = others.iter().map(|other| other.id).collect();
        assert_eq!(ids.len(), 8);
        while let Some(client) = others.pop() {
            let id = client.id;
            drop(client);
            assert_eq!(first.told(), Told::Left(id));
            assert!(!first.list().contains(&id));
        }
        let again = Client::new(address);
        assert!(ids.insert(again.id), "an id was used again");
        drop((first, again));
        ends_clean(&server);
    }
}

#[test]
fn a_message_to_one_reaches_that_one_and_is_answered_if_it_cannot() {
    for workers in [1, 3] {
        let (server, address) = start(workers);
        let mut clients: Vec<Client> = (0..6).map(|_| Client::new(address)).collect();
        let ids: Vec<u64> = clients.iter().map(|client| client.id).collect();
        for (from, client) in clients.iter_mut().enumerate() {
            for (to, &id) in ids.iter().enumerate() {
                client.asks(Request::Send { to: id }, &[from as u8, to as u8]);
            }
        }
        for (to, client) in clients.iter_mut().enumerate() {
            let mut heard = HashSet::new();
            for _ in 0..6 {
                let Told::Message { to_all: false, from, payload } = client.told() else {
                    panic!()
                };
                let at = ids.iter().position(|&id| id == from).unwrap();
                assert_eq!(payload, [at as u8, to as u8]);
                assert!(heard.insert(at));
            }
        }
        let left = clients.pop().unwrap().id;
        until("it has left", || server.clients().len() == 5);
        for nobody in [left, 0, 1, u64::MAX, ids[0] ^ 1 << 40] {
            clients[0].asks(Request::Send { to: nobody }, b"?");
            assert_eq!(clients[0].told(), Told::NotSent(GONE, nobody));
        }
        drop(clients);
        ends_clean(&server);
    }
}

#[test]
fn a_broadcast_reaches_all_once_and_in_the_order_of_each_sender() {
    for workers in [1, 3] {
        let (server, address) = start(workers);
        let clients: Vec<Client> = (0..20).map(|_| Client::new(address)).collect();
        const EACH: u32 = 200;
        const SENDERS: usize = 5;
        let ids: Vec<u64> = clients.iter().map(|client| client.id).collect();
        thread::scope(|scope| {
            for (at, client) in clients.into_iter().enumerate() {
                let ids = &ids;
                scope.spawn(move || {
                    let mut client = client;
                    let mut next = [0u32; SENDERS];
                    if at < SENDERS {
                        for number in 0..EACH {
                            let text = [&number.to_le_bytes()[..], &[7; 90]].concat();
                            client.asks(Request::Broadcast, &text);
                        }
                    }
                    for _ in 0..SENDERS as u32 * EACH {
                        let Told::Message { to_all: true, from, payload } = client.told() else {
                            panic!("no broadcast")
                        };
                        let sender = ids.iter().position(|&id| id == from).unwrap();
                        let number = u32::from_le_bytes(payload[..4].try_into().unwrap());
                        assert_eq!((number, payload.len()), (next[sender], 94));
                        next[sender] += 1;
                    }
                });
            }
        });
        assert_eq!(server.stats().total().messages_dropped, 0);
        ends_clean(&server);
    }
}

#[test]
fn frames_may_be_cut_anywhere_and_come_in_any_order_of_bytes() {
    let (server, address) = start(1);
    let mut client = Client::new(address);
    let id = client.id;
    let long = vec![9; 16_356];
    let stream = [
        request(Request::Broadcast, b""),
        request(Request::Send { to: id }, b"one"),
        request(Request::List, b""),
        request(Request::Broadcast, &long),
    ]
    .concat();
    let expected =
        [to_all(id, b""), to_one(id, b"one"), Told::Clients(false, vec![id]), to_all(id, &long)];
    for cut in (1..60).chain([16_000, stream.len() - 1]) {
        client.says(&stream[..cut]);
        thread::sleep(Duration::from_millis(1));
        client.says(&stream[cut..]);
        let told: Vec<Told> = (0..4).map(|_| client.told()).collect();
        // A list goes behind the waiting messages, so it may come after a message that was sent
        // later than the request.
        assert!(expected.iter().all(|one| told.contains(one)), "cut at {cut}");
    }
    drop(client);
    ends_clean(&server);
}

#[test]
fn what_is_no_request_closes_the_connection_with_its_reason() {
    let (server, address) = start(1);
    let max = 16_356u32;
    let malformed = [
        encode(0, ORDER).to_vec(),
        encode(u32::MAX, ORDER).to_vec(),
        [&encode(2, ORDER)[..], &[1, 0]].concat(),
        [&encode(1, ORDER)[..], &[0]].concat(),
        [&encode(1, ORDER)[..], &[128]].concat(),
        [&encode(8, ORDER)[..], &[2]].concat(),
    ];
    let long = [
        encode(max + 10, ORDER).to_vec(),
        [&encode(max + 2, ORDER)[..], &[3]].concat(),
        encode(i32::MAX as u32, ORDER).to_vec(),
    ];
    for (frames, reason) in
        [(&malformed[..], CloseReason::ProtocolError), (&long, CloseReason::MessageTooLong)]
    {
        for (count, frame) in (1..).zip(frames) {
            let mut client = Client::new(address);
            client.asks(Request::Broadcast, b"before");
            client.says(frame);
            assert_eq!(client.told(), to_all(client.id, b"before"));
            assert_eq!(client.next(), None, "{frame:?}");
            drop(client);
            until("it is counted", || server.stats().total().closed(reason) == count);
        }
    }
    ends_clean(&server);
}

#[test]
fn who_closes_its_side_is_sent_what_it_asked_for() {
    let (server, address) = start(2);
    let mut client = Client::new(address);
    client.asks(Request::Broadcast, b"last");
    client.asks(Request::List, b"");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.told(), to_all(client.id, b"last"));
    assert_eq!(client.told(), Told::Clients(false, vec![client.id]));
    assert_eq!(client.next(), None);
    drop(client);
    until("it is counted", || server.stats().total().closed(CloseReason::PeerClosed) == 1);
    ends_clean(&server);
}

#[test]
fn the_server_speaks_to_one_and_to_all_and_disconnects() {
    for workers in [1, 3] {
        let (server, address) = start(workers);
        let mut clients: Vec<Client> = (0..6).map(|_| Client::new(address)).collect();
        let id = |client: &Client| ConnectionId::from_bits(client.id);
        assert_eq!(server.clients().len(), 6);
        server.send_to(id(&clients[2]), b"you").unwrap();
        assert_eq!(clients[2].told(), to_one(0, b"you"));
        let Broadcast { queued, refused, .. } = server.broadcast(b"all").unwrap();
        assert_eq!((queued, refused), (6, 0));
        for client in &mut clients {
            assert_eq!(client.told(), to_all(0, b"all"));
        }
        let long = vec![0; 16_357];
        assert_eq!(server.send_to(id(&clients[0]), &long), Err(SendError::TooLong));
        let mut last = clients.pop().unwrap();
        last.asks(Request::Broadcast, b"goodbye");
        assert_eq!(last.told(), to_all(last.id, b"goodbye"));
        server.disconnect(id(&last)).unwrap();
        assert_eq!(last.next(), None);
        let gone = id(&last);
        drop(last);
        until("it is gone", || server.clients().len() == 5);
        assert_eq!(server.send_to(gone, b"?"), Err(SendError::Gone));
        assert_eq!(server.disconnect(gone), Err(SendError::Gone));
        drop(clients);
        ends_clean(&server);
    }
}

#[test]
fn a_hub_has_the_clients_of_its_listener_only() {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = config(2).listen(anywhere).listen(anywhere);
    let hub = ServiceOptions::Hub(HubOptions::default());
    let services = vec![hub, ServiceOptions::Echo, hub];
    let server = Server::start(config, OfListener::new(services)).unwrap();
    let address = |at: usize| server.local_endpoints()[at].socket_addr().unwrap();
    let echo = TcpStream::connect(address(1)).unwrap();
    until("it is there", || server.clients().len() == 1);
    let echo_id = server.clients()[0].id.to_bits();
    let (mut one, mut other) = (Client::new(address(0)), Client::new(address(2)));
    assert_eq!(one.list(), BTreeSet::from([one.id]));
    for (stranger, payload) in [(echo_id, b"?"), (other.id, b"?")] {
        one.asks(Request::Send { to: stranger }, payload);
        assert_eq!(one.told(), Told::NotSent(GONE, stranger));
    }
    one.asks(Request::Broadcast, b"here");
    assert_eq!(one.told(), to_all(one.id, b"here"));
    other.asks(Request::Broadcast, b"there");
    assert_eq!(other.told(), to_all(other.id, b"there"));
    drop((one, other, echo));
    ends_clean(&server);
}

#[test]
fn hubs_that_have_room_for_their_queues_each_but_not_together_are_refused() {
    let hub = ServiceOptions::Hub(HubOptions { queue: 1 << 30, ..HubOptions::default() });
    let config = Config::new().workers(1).buffer_size(256).buffers(1 << 24).max_connections(500);
    let listen = |config: Config| config.listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
    let one = listen(config);
    OfListener::new(vec![hub]).check(&one.check().unwrap()).unwrap();
    let three = listen(listen(one));
    let services = OfListener::new(vec![hub; 3]);
    let text = services.check(&three.check().unwrap()).unwrap_err().to_string();
    assert!(text.contains("`max_connections`"), "{text}");
}
