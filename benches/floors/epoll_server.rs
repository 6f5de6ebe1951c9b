//! The floor: the smallest edge-triggered epoll echo loop that loses no byte. One thread and one
//! buffer. Registers both interests once, reads until a read is short, and sends immediately.
//!
//! It lacks what echopool has: limits, time-outs, fairness, lingering close, counters, logging,
//! fixed memory. It shows the cost of the system calls alone.

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

/// An epoll echo server on its own thread.
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
    /// Bytes that the kernel has not accepted yet. While there are any, nothing is read.
    unsent: Vec<u8>,
    /// FIN was reported: read to the end, because there may be no further event.
    peer_closed: bool,
}

/// Whether to keep the connection.
#[derive(PartialEq)]
enum Fate {
    Keep,
    Close,
}

struct EchoLoop {
    epoll: OwnedFd,
    listener: Arc<OwnedFd>,
    /// Indexed by descriptor. A late event for a closed one makes its successor at most read
    /// EAGAIN.
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

    /// Accepts all waiting connections. Returns false if the listener was stopped.
    fn accept(&mut self) -> io::Result<bool> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            // With the peer's address, like a server that logs its clients.
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
            // Read even after a write event, because input may have been left unread.
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
    /// Sends what is left of earlier echoes. Returns true if nothing is left.
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

    /// Echoes until a read is short (the socket is drained) or a write is short.
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
                // The kernel will report a write event when there is room.
                self.unsent.extend_from_slice(&buffer[sent..read]);
                return Ok(Fate::Keep);
            }
            if read < buffer.len() && !self.peer_closed {
                return Ok(Fate::Keep);
            }
        }
    }
}

/// Returns the number of bytes sent, or 0 if the kernel accepts none now.
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
