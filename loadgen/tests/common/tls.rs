//! Certificates, and a relay that cuts, slows or changes what a server sends.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;

/// A directory with certificates, which is removed at the end.
pub struct Certificates(PathBuf);

impl Certificates {
    /// `cert.pem` and `key.pem` are for `localhost` and 127.0.0.1.
    pub fn new() -> Certificates {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!("loadgen-tls-{}-{number}", std::process::id());
        let directory = Certificates(std::env::temp_dir().join(name));
        std::fs::create_dir(&directory.0).expect("a new directory");
        directory.certify("cert.pem", "key.pem", &["localhost", "127.0.0.1"]);
        directory
    }

    /// Makes a self-signed certificate for these names.
    pub fn certify(&self, cert: &str, key: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        std::fs::write(self.0.join(cert), made.cert.pem()).expect("a file");
        std::fs::write(self.0.join(key), made.signing_key.serialize_pem()).expect("a file");
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The options of a server with the first certificate.
    pub fn of_server(&self) -> String {
        format!("cert={}&key={}", self.file("cert.pem"), self.file("key.pem"))
    }

    /// The option of a client that trusts the first certificate.
    pub fn ca(&self) -> String {
        format!("ca={}", self.file("cert.pem"))
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a relay does with the bytes of a connection's server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Does {
    /// Sends FIN to the client instead of what follows this many bytes, and reads on.
    CutAfter(u64),
    /// Changes a bit of the byte with this offset.
    Flip(u64),
    /// Passes on each byte separately, in both directions.
    Trickle,
}

/// A relay in front of a server. Its threads end with their connections.
pub struct Relay {
    pub address: SocketAddr,
    done: Arc<AtomicU64>,
}

impl Relay {
    pub fn start(server: SocketAddr, does: Does) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let done = Arc::new(AtomicU64::new(0));
        let count = done.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                let server = TcpStream::connect(server).expect("the server listens");
                client.set_nodelay(true).expect("a socket");
                server.set_nodelay(true).expect("a socket");
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let piece = if does == Does::Trickle { 1 } else { usize::MAX };
                thread::spawn(move || pass(from, to, piece));
                let count = count.clone();
                thread::spawn(move || alter(server, client, does, &count));
            }
        });
        Relay { address, done }
    }

    /// How often it did what it is for.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }
}

/// Passes everything on, in pieces. An error means that an end has closed.
fn pass(mut from: TcpStream, mut to: TcpStream, piece: usize) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        for part in bytes[..count].chunks(piece.min(count)) {
            if to.write_all(part).is_err() {
                return;
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn alter(mut from: TcpStream, mut to: TcpStream, does: Does, done: &AtomicU64) {
    let mut bytes = [0; 16 << 10];
    let mut offset = 0;
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let part = &mut bytes[..count];
        let within = |at: u64| at.checked_sub(offset).filter(|at| *at < count as u64);
        match does {
            Does::CutAfter(at) if at < offset => {}
            Does::CutAfter(at) if let Some(at) = within(at) => {
                done.fetch_add(1, Relaxed);
                let _ = to.write_all(&part[..at as usize]);
                let _ = to.shutdown(Shutdown::Write);
            }
            Does::Flip(at) if let Some(at) = within(at) => {
                done.fetch_add(1, Relaxed);
                part[at as usize] ^= 4;
                let _ = to.write_all(part);
            }
            Does::Trickle => {
                done.fetch_add(1, Relaxed);
                part.iter().for_each(|byte| drop(to.write_all(&[*byte])));
            }
            _ => drop(to.write_all(part)),
        }
        offset += count as u64;
    }
    let _ = to.shutdown(Shutdown::Write);
}
