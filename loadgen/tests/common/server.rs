//! A small echo server on threads that can do one thing wrong. It counts how often it did, so that
//! a test can assert that its fault happened.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

/// The fault. `connection` counts in the order of accepting, `offset` counts the bytes of that
/// connection's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// None: a server to compare with.
    None,
    /// One bit of one byte is flipped.
    Corrupt { connection: u64, offset: u64 },
    /// One byte is omitted.
    Lose { connection: u64, offset: u64 },
    /// One byte is sent twice.
    Repeat { connection: u64, offset: u64 },
    /// Connections 0 and 1 receive each other's bytes, from the first ones that both have sent.
    Swap,
    /// The connection is reset instead of echoing this byte.
    Reset { connection: u64, offset: u64 },
    /// Each connection is closed when it has had this many bytes and nothing is owed.
    CloseEach { after: u64 },
    /// The same, and each connection after the first one has the replies of the first.
    ReplayFirst { after: u64 },
    /// The connection is closed instead of echoing this byte.
    Close { connection: u64, offset: u64 },
    /// From this byte on nothing is echoed.
    Stall { connection: u64, offset: u64 },
    /// A few bytes follow after this connection's client has closed its side.
    Surplus { connection: u64 },
    /// Each byte is sent separately.
    Trickle,
    /// Nothing is echoed on any connection.
    Mute,
    /// Each read waits this long before it is echoed.
    Slow { wait: Duration },
}

/// The server. Its threads end with their connections.
pub struct EchoServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    fired: AtomicU64,
    bytes: AtomicU64,
    peers: Mutex<Vec<IpAddr>>,
    dead: AtomicBool,
    /// For replaying: what the first connection was sent.
    first: Mutex<Vec<u8>>,
    /// For swapping: both connections put their bytes here, and then both take the other's.
    swap: [Mutex<Vec<u8>>; 2],
    both: Barrier,
}

/// Time-out of a read, so that no thread outlives its test for long.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

impl EchoServer {
    pub fn start(fault: Fault) -> EchoServer {
        EchoServer::start_at(0, fault)
    }

    /// One that will die listens at a port of its own, which no other test gets afterwards.
    pub fn start_at(port: u16, fault: Fault) -> EchoServer {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            fault,
            fired: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            peers: Mutex::default(),
            dead: AtomicBool::new(false),
            first: Mutex::default(),
            swap: Default::default(),
            both: Barrier::new(2),
        });
        let server = EchoServer { address, shared: shared.clone() };
        thread::spawn(move || {
            for connection in 0.. {
                // The address comes from accept: a client that has already reset has none.
                let (stream, peer) = listener.accept().expect("a connection");
                if shared.dead.load(Relaxed) {
                    return;
                }
                let shared = shared.clone();
                shared.peers.lock().unwrap().push(peer.ip());
                // An error means that the client has closed.
                thread::spawn(move || drop(serve(stream, connection, &shared)));
            }
        });
        server
    }

    /// Ends it: no connection is accepted any more, and each one is closed at its next bytes.
    pub fn die(&self) {
        self.shared.dead.store(true, Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        while TcpStream::connect(self.address).is_ok() {}
    }

    /// How often the fault happened.
    pub fn fired(&self) -> u64 {
        self.shared.fired.load(Relaxed)
    }

    /// What the first connection sent, for a server that replays it.
    pub fn first(&self) -> Vec<u8> {
        self.shared.first.lock().unwrap().clone()
    }

    /// Bytes received in all.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Relaxed)
    }

    /// Source addresses of the connections.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.shared.peers.lock().unwrap().clone()
    }
}

/// Reads on if the machine was suspended meanwhile, which interrupts a read with a time-out.
pub fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn serve(mut stream: TcpStream, connection: u64, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut buffer = [0; 16 << 10];
    let mut offset = 0;
    loop {
        let count = read(&mut stream, &mut buffer)?;
        if shared.dead.load(Relaxed) {
            return Ok(());
        }
        if count == 0 {
            if matches!(shared.fault, Fault::Surplus { connection: of } if of == connection) {
                shared.fired.fetch_add(1, Relaxed);
                stream.write_all(b"more")?;
            }
            return Ok(());
        }
        shared.bytes.fetch_add(count as u64, Relaxed);
        let reply = Reply { connection, offset, bytes: &mut buffer[..count] };
        if !reply.send(&mut stream, shared)? {
            return Ok(());
        }
        offset += count as u64;
        match shared.fault {
            Fault::CloseEach { after } | Fault::ReplayFirst { after } if offset >= after => {
                shared.fired.fetch_add(1, Relaxed);
                return Ok(());
            }
            _ => {}
        }
    }
}

/// The bytes of one read.
struct Reply<'a> {
    connection: u64,
    offset: u64,
    bytes: &'a mut [u8],
}

impl Reply<'_> {
    /// Sends them back, or applies the fault. Returns whether the connection continues.
    fn send(self, stream: &mut TcpStream, shared: &Shared) -> std::io::Result<bool> {
        let here = |connection, offset: u64| {
            let within = offset.checked_sub(self.offset).map(|at| at as usize);
            within.filter(|&at| self.connection == connection && at < self.bytes.len())
        };
        let fired = || shared.fired.fetch_add(1, Relaxed);
        match shared.fault {
            Fault::Corrupt { connection, offset } if let Some(at) = here(connection, offset) => {
                fired();
                self.bytes[at] ^= 0x10;
                stream.write_all(self.bytes)?;
            }
            Fault::Lose { connection, offset } if let Some(at) = here(connection, offset) => {
                fired();
                stream.write_all(&[&self.bytes[..at], &self.bytes[at + 1..]].concat())?;
            }
            Fault::Repeat { connection, offset } if let Some(at) = here(connection, offset) => {
                fired();
                stream.write_all(&[&self.bytes[..=at], &self.bytes[at..]].concat())?;
            }
            Fault::Swap if self.connection < 2 && self.offset == 0 => {
                fired();
                stream.write_all(&self.exchange(shared))?;
            }
            Fault::Reset { connection, offset } if here(connection, offset).is_some() => {
                fired();
                socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
                return Ok(false);
            }
            Fault::Close { connection, offset } if here(connection, offset).is_some() => {
                fired();
                stream.shutdown(Shutdown::Both)?;
                return Ok(false);
            }
            Fault::Stall { connection, offset } if here(connection, offset).is_some() => {
                fired();
                // Until the client closes.
                let mut rest = [0; 1024];
                while read(stream, &mut rest)? > 0 {}
                return Ok(false);
            }
            Fault::ReplayFirst { .. } => {
                let mut first = shared.first.lock().unwrap();
                match self.connection {
                    0 => first.extend_from_slice(self.bytes),
                    _ => self.bytes.copy_from_slice(&first[..self.bytes.len()]),
                }
                stream.write_all(self.bytes)?;
            }
            Fault::Mute => {
                fired();
            }
            Fault::Slow { wait } => {
                fired();
                thread::sleep(wait);
                stream.write_all(self.bytes)?;
            }
            Fault::Trickle => {
                fired();
                for byte in &*self.bytes {
                    stream.write_all(&[*byte])?;
                }
            }
            _ => stream.write_all(self.bytes)?,
        }
        Ok(true)
    }

    /// Exchanges this connection's bytes for those of the other one.
    fn exchange(&self, shared: &Shared) -> Vec<u8> {
        let own = self.connection as usize;
        *shared.swap[own].lock().unwrap() = self.bytes.to_vec();
        shared.both.wait();
        std::mem::take(&mut shared.swap[1 - own].lock().unwrap())
    }
}
