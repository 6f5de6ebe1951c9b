//! The floor: the smallest edge-triggered epoll echo loop that loses no byte. One thread, one
//! buffer, both interests registered once; read until short, send at once.
//!
//! What it leaves out is what echopool has: limits, time-outs, fairness, lingering close, counters,
//! logging, fixed memory. It is the cost of the system calls alone.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with, recv, send};

use super::socket;

/// Events taken with one `epoll_wait`.
const EVENTS_MAX: usize = 1024;

/// An epoll echo server on a thread of its own.
pub struct EpollServer {
    address: SocketAddr,
    listener: Arc<OwnedFd>,
    thread: JoinHandle<io::Result<()>>,
}

impl EpollServer {
    pub fn start(listen: SocketAddr, buffer_size: usize) -> io::Result<EpollServer> {
        let (listener, address) = socket::listen(listen, SocketFlags::NONBLOCK)?;
        let listener = Arc::new(listener);
        let mut echo = EchoLoop::new(listener.clone(), buffer_size)?;
        let thread = std::thread::spawn(move || echo.run());
        Ok(EpollServer { address, listener, thread })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until the process is killed.
    pub fn wait(self) -> io::Result<()> {
        self.thread.join().expect("the echo loop panicked")
    }

    pub fn stop(self) -> io::Result<()> {
        socket::stop_listening(&self.listener);
        self.wait()
    }
}

struct Connection {
    socket: OwnedFd,
    /// What the kernel did not take yet. While there is any, nothing is read.
    unsent: Vec<u8>,
    /// FIN was announced: read to the end, since no further event may come.
    peer_closed: bool,
}

/// Whether the connection is to be kept.
#[derive(PartialEq)]
enum Fate {
    Keep,
    Close,
}

struct EchoLoop {
    epoll: OwnedFd,
    listener: Arc<OwnedFd>,
    /// By file descriptor. A late event for a closed one at worst makes its successor read EAGAIN.
    connections: Vec<Option<Connection>>,
    buffer: Box<[u8]>,
}

impl EchoLoop {
    fn new(listener: Arc<OwnedFd>, buffer_size: usize) -> io::Result<EchoLoop> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        add(&epoll, listener.as_fd(), EventFlags::IN | EventFlags::ET)?;
        let buffer = vec![0; buffer_size].into_boxed_slice();
        Ok(EchoLoop { epoll, listener, connections: Vec::new(), buffer })
    }

    fn run(&mut self) -> io::Result<()> {
        let listener_fd = self.listener.as_raw_fd() as usize;
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            for event in events.drain(..) {
                let fd = event.data.u64() as usize;
                if fd != listener_fd {
                    self.serve(fd, event.flags);
                } else if !self.accept()? {
                    return Ok(());
                }
            }
        }
    }

    /// Accepts all that wait. Answers false when the listener has been stopped.
    fn accept(&mut self) -> io::Result<bool> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            // With the peer's address, as a server that can name its clients asks for it.
            let socket = match acceptfrom_with(&self.listener, flags) {
                Ok((socket, _peer)) => socket,
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INVAL) => return Ok(false),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error.into()),
            };
            let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            add(&self.epoll, socket.as_fd(), interest)?;
            let fd = socket.as_raw_fd() as usize;
            if self.connections.len() <= fd {
                self.connections.resize_with(fd + 1, || None);
            }
            self.connections[fd] =
                Some(Connection { socket, unsent: Vec::new(), peer_closed: false });
        }
    }

    fn serve(&mut self, fd: usize, flags: EventFlags) {
        let Some(connection) = self.connections[fd].as_mut() else { return };
        connection.peer_closed |= flags.contains(EventFlags::RDHUP);
        let fate = match connection.send_unsent() {
            // An event for writing alone says nothing of input, but input may have been left.
            Ok(true) => connection.echo(&mut self.buffer),
            Ok(false) => Ok(Fate::Keep),
            Err(error) => Err(error),
        };
        if !matches!(fate, Ok(Fate::Keep)) {
            self.connections[fd] = None;
        }
    }
}

impl Connection {
    /// Sends what is left of earlier echoes. Answers whether nothing is left.
    fn send_unsent(&mut self) -> Result<bool, Errno> {
        while !self.unsent.is_empty() {
            let sent = send_some(&self.socket, &self.unsent)?;
            if sent == 0 {
                return Ok(false);
            }
            self.unsent.drain(..sent);
        }
        Ok(true)
    }

    /// Sends back what can be read: until a read is short (the socket is drained) or a write is.
    fn echo(&mut self, buffer: &mut [u8]) -> Result<Fate, Errno> {
        loop {
            let read = match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Ok(Fate::Close),
                Ok((read, _)) => read,
                Err(Errno::AGAIN) => return Ok(Fate::Keep),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            let sent = send_some(&self.socket, &buffer[..read])?;
            if sent < read {
                // The kernel remembers that there was no room: an event for writing will come.
                self.unsent.extend_from_slice(&buffer[sent..read]);
                return Ok(Fate::Keep);
            }
            if read < buffer.len() && !self.peer_closed {
                return Ok(Fate::Keep);
            }
        }
    }
}

/// Bytes sent; 0 when the kernel takes none now.
fn send_some(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            result => return result,
        }
    }
}

fn add(epoll: &OwnedFd, socket: impl AsFd, interest: EventFlags) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd() as u64;
    Ok(epoll::add(epoll, socket, EventData::new_u64(fd), interest)?)
}
