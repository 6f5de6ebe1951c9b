//! The textbook floor: one blocking thread per connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with, recv, send};

use super::socket;

/// Stack size in bytes of a connection's thread, small enough for a thousand threads.
const STACK_BYTES: usize = 64 * 1024;

/// A server with one thread per connection.
pub struct ThreadServer {
    address: SocketAddr,
    listener: Arc<OwnedFd>,
    acceptor: JoinHandle<io::Result<()>>,
}

impl ThreadServer {
    pub fn start(listen: SocketAddr, buffer_size: usize) -> io::Result<ThreadServer> {
        let (listener, address) = socket::listen(listen, SocketFlags::empty())?;
        let listener = Arc::new(listener);
        let accepting = listener.clone();
        let acceptor = std::thread::spawn(move || accept(&accepting, buffer_size));
        Ok(ThreadServer { address, listener, acceptor })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until the process is killed.
    pub fn wait(self) -> io::Result<()> {
        self.acceptor.join().expect("the acceptor panicked")
    }

    /// Stops accepting, and returns when all clients have closed.
    pub fn stop(self) -> io::Result<()> {
        socket::stop_listening(&self.listener);
        self.wait()
    }
}

fn accept(listener: &OwnedFd, buffer_size: usize) -> io::Result<()> {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let socket = match acceptfrom_with(listener, SocketFlags::CLOEXEC) {
            Ok((socket, _peer)) => socket,
            Err(Errno::INVAL) => break,
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(error) => return Err(error.into()),
        };
        threads.retain(|thread| !thread.is_finished());
        let body = move || echo(&socket, &mut vec![0; buffer_size]);
        threads.push(Builder::new().stack_size(STACK_BYTES).spawn(body)?);
    }
    for thread in threads {
        thread.join().expect("a connection's thread panicked");
    }
    Ok(())
}

/// Sends everything back until the peer closes or the connection fails.
fn echo(socket: &OwnedFd, buffer: &mut [u8]) {
    loop {
        let read = match recv(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => return,
            Ok((read, _)) => read,
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        let mut unsent = &buffer[..read];
        while !unsent.is_empty() {
            match send(socket, unsent, SendFlags::NOSIGNAL) {
                Ok(sent) => unsent = &unsent[sent..],
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}
