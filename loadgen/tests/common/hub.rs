//! A small hub on threads that can do one thing wrong, once. It counts how often it did, so that a
//! test can assert that its fault happened.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

/// The fault. `to` counts clients in the order of accepting, `nth` counts the broadcasts of the
/// whole run, both from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// None: a server to compare with.
    None,
    /// One client receives one broadcast twice.
    Twice { to: usize, nth: u64 },
    /// One client does not receive one broadcast.
    Missing { to: usize, nth: u64 },
    /// One client does not receive one broadcast, and the drop is reported.
    Dropped { to: usize, nth: u64 },
    /// One client receives one broadcast after the next one.
    Swapped { to: usize, nth: u64 },
    /// One client receives one broadcast under another id.
    WrongSender { to: usize, nth: u64 },
    /// One client receives one broadcast with a wrong byte. `at`: its offset in the payload.
    WrongByte { to: usize, nth: u64, at: usize },
    /// One client receives one broadcast with a length that is too large by one.
    WrongLength { to: usize, nth: u64 },
    /// One client receives one broadcast as a message to itself alone.
    ForOne { to: usize, nth: u64 },
    /// One client receives a notice that it has joined itself.
    Notice { to: usize, nth: u64 },
    /// One client receives the last broadcast again when it sends its farewell.
    AtTheEnd { to: usize },
    /// Two clients receive the same id.
    SameId { to: usize },
    /// One client receives nothing from this broadcast on.
    Silent { to: usize, nth: u64 },
}

/// The server. Its threads end with their connections.
pub struct HubServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    fired: AtomicU64,
    room: Mutex<Room>,
}

#[derive(Default)]
struct Room {
    clients: Vec<Client>,
    broadcasts: u64,
    /// The ids of those that have sent one.
    senders: BTreeSet<u64>,
}

struct Client {
    id: u64,
    stream: TcpStream,
    gone: bool,
    /// Bytes to send after the next broadcast.
    held: Vec<u8>,
    last: Vec<u8>,
}

impl HubServer {
    pub fn start(fault: Fault) -> HubServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let room = Mutex::default();
        let shared = Arc::new(Shared { fault, fired: AtomicU64::new(0), room });
        let server = HubServer { address, shared: shared.clone() };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.expect("a connection"), shared.clone());
                let nth = shared.join(stream.try_clone().expect("a second handle"));
                // An error means that the client has closed.
                thread::spawn(move || {
                    let _ = shared.serve(nth, stream);
                    shared.leave(nth);
                });
            }
        });
        server
    }

    /// How often the fault happened.
    pub fn fired(&self) -> u64 {
        self.shared.fired.load(Relaxed)
    }

    /// How many clients have sent a broadcast.
    pub fn senders(&self) -> usize {
        self.shared.room.lock().unwrap().senders.len()
    }

    /// Broadcasts in all.
    pub fn broadcasts(&self) -> u64 {
        self.shared.room.lock().unwrap().broadcasts
    }
}

impl Shared {
    fn join(&self, stream: TcpStream) -> usize {
        stream.set_nodelay(true).expect("an open socket");
        let mut room = self.room.lock().unwrap();
        let nth = room.clients.len();
        let mut id = 100 + nth as u64;
        if self.fault == (Fault::SameId { to: nth }) {
            self.fired.fetch_add(1, Relaxed);
            id -= 1;
        }
        let client = Client { id, stream, gone: false, held: vec![], last: vec![] };
        room.clients.push(client);
        room.send(nth, &notice(128, id));
        for other in 0..nth {
            room.send(other, &notice(131, 100 + nth as u64));
        }
        nth
    }

    fn leave(&self, nth: usize) {
        let mut room = self.room.lock().unwrap();
        room.clients[nth].gone = true;
        // After an error the client is gone.
        let _ = room.clients[nth].stream.shutdown(Shutdown::Both);
        let id = room.clients[nth].id;
        for other in 0..room.clients.len() {
            room.send(other, &notice(132, id));
        }
    }

    fn serve(&self, nth: usize, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut frame = vec![0; i32::from_le_bytes(length) as usize];
            stream.read_exact(&mut frame)?;
            let mut room = self.room.lock().unwrap();
            let from = room.clients[nth].id;
            match frame[0] {
                2 => {
                    assert_eq!(frame[1..9], from.to_le_bytes(), "farewells are to oneself");
                    if self.fault == (Fault::AtTheEnd { to: nth }) {
                        self.fired.fetch_add(1, Relaxed);
                        let again = room.clients[nth].last.clone();
                        room.send(nth, &again);
                    }
                    room.send(nth, &message(false, from, &frame[9..]));
                }
                3 => {
                    room.senders.insert(from);
                    let number = room.broadcasts;
                    room.broadcasts += 1;
                    for to in 0..room.clients.len() {
                        self.deliver(&mut room, to, number, from, &frame[1..]);
                    }
                }
                other => panic!("a frame of type {other}"),
            }
        }
    }

    fn deliver(&self, room: &mut Room, to: usize, number: u64, from: u64, payload: &[u8]) {
        let right = message(true, from, payload);
        let here = |at: (usize, u64)| at == (to, number);
        let fired = || self.fired.fetch_add(1, Relaxed);
        let bytes = match self.fault {
            Fault::Twice { to, nth } if here((to, nth)) => [&right[..], &right].concat(),
            Fault::Missing { to, nth } if here((to, nth)) => vec![],
            Fault::Dropped { to, nth } if here((to, nth)) => notice(134, 1),
            Fault::Swapped { to, nth } if here((to, nth)) => {
                room.clients[to].held = right;
                fired();
                return;
            }
            Fault::WrongSender { to, nth } if here((to, nth)) => message(true, from + 1, payload),
            Fault::WrongByte { to, nth, at } if here((to, nth)) => {
                let mut payload = payload.to_vec();
                payload[at] ^= 4;
                message(true, from, &payload)
            }
            Fault::WrongLength { to, nth } if here((to, nth)) => {
                message(true, from, &[payload, &[0]].concat())
            }
            Fault::ForOne { to, nth } if here((to, nth)) => message(false, from, payload),
            Fault::Notice { to, nth } if here((to, nth)) => notice(131, room.clients[to].id),
            Fault::Silent { to: silent, nth } if silent == to && number >= nth => vec![],
            _ => {
                room.send(to, &right);
                let held = std::mem::take(&mut room.clients[to].held);
                room.send(to, &held);
                room.clients[to].last = right;
                return;
            }
        };
        fired();
        room.send(to, &bytes);
    }
}

impl Room {
    fn send(&mut self, to: usize, bytes: &[u8]) {
        let client = &mut self.clients[to];
        if !client.gone && client.stream.write_all(bytes).is_err() {
            client.gone = true;
        }
    }
}

fn notice(kind: u8, number: u64) -> Vec<u8> {
    [&9i32.to_le_bytes()[..], &[kind], &number.to_le_bytes()].concat()
}

fn message(to_all: bool, from: u64, payload: &[u8]) -> Vec<u8> {
    let length = 10 + payload.len() as i32;
    [&length.to_le_bytes()[..], &[130, to_all.into()], &from.to_le_bytes(), payload].concat()
}
