//! The system calls of a machine in memory: one listener, its clients, and a clock that the test
//! moves. It is below the same engine that servers use.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use crate::base::endpoint::{Endpoint, Peer};
use crate::base::time::Time;
use crate::engine::sys::{Listening, Readiness, Sys};
use crate::error::Errno;

/// The first client's port.
const FIRST_PORT: u16 = 50_000;

/// What a test and the system calls share.
pub(super) struct Machine {
    pub(super) now: Time,
    pub(super) clients: Vec<Client>,
    /// Clients that are not yet accepted.
    pub(super) backlog: VecDeque<usize>,
    /// The listener's token.
    listener: u64,
    /// Edges that the next wait reports.
    pub(super) edges: Vec<Readiness>,
}

impl Default for Machine {
    fn default() -> Machine {
        // Not 0, which stands for a time long ago.
        let now = Time::ZERO + Duration::from_secs(1);
        let (clients, backlog, edges) = Default::default();
        Machine { now, clients, backlog, listener: 0, edges }
    }
}

/// One client, and the server's socket for it.
#[derive(Default)]
pub(super) struct Client {
    /// The server's token for the connection, once it is accepted.
    token: Option<u64>,
    /// Bytes in transit to the server.
    arriving: VecDeque<u8>,
    /// No more bytes will arrive.
    finished: bool,
    /// The client has reset the connection.
    reset: bool,
    /// Bytes that the client still reads before the server has to wait. `None` means no limit.
    pub(super) room: Option<usize>,
    /// Bytes from the server that the test has not taken yet.
    pub(super) received: Vec<u8>,
    /// Whether the server has ended its stream.
    pub(super) ended: bool,
    /// The server has closed its socket.
    pub(super) closed: bool,
}

impl Client {
    /// The address that the client appears to have.
    pub(super) fn address(number: usize) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_PORT + number as u16))
    }

    fn readiness(&self) -> Option<Readiness> {
        let over = self.finished || self.reset;
        let readable = !self.arriving.is_empty() || over;
        Some(Readiness { token: self.token?, readable, writable: true, read_on: over })
    }
}

impl Machine {
    /// Connects a client. Returns its number.
    pub(super) fn connect(&mut self) -> usize {
        self.clients.push(Client::default());
        self.backlog.push_back(self.clients.len() - 1);
        let token = self.listener;
        self.edges.push(Readiness { token, readable: true, writable: false, read_on: false });
        self.clients.len() - 1
    }

    /// Makes bytes of a client arrive.
    pub(super) fn arrive(&mut self, number: usize, bytes: &[u8]) {
        self.clients[number].arriving.extend(bytes);
        self.report(number);
    }

    /// Closes a client's sending side, or resets its connection.
    pub(super) fn finish(&mut self, number: usize, reset: bool) {
        let client = &mut self.clients[number];
        (client.finished, client.reset) = (true, reset);
        self.report(number);
    }

    /// Reports a change of a client to the server.
    pub(super) fn report(&mut self, number: usize) {
        let client = &self.clients[number];
        let readiness = client.readiness().filter(|_| !client.closed);
        self.edges.extend(readiness);
    }
}

/// The system calls.
pub(super) struct Memory {
    pub(super) machine: Rc<RefCell<Machine>>,
    pub(super) waker: Waker,
}

/// A socket of the server.
pub(super) struct Socket {
    machine: Rc<RefCell<Machine>>,
    /// The client. `None` for the listener.
    client: Option<usize>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({:?})", self.client)
    }
}

impl Memory {
    /// The socket that accepts the clients.
    pub(super) fn listener(&self) -> Socket {
        Socket { machine: self.machine.clone(), client: None }
    }

    /// Calls `with` with the client of a connection.
    fn client<T>(&self, socket: &Socket, with: impl FnOnce(&mut Client) -> T) -> T {
        let number = socket.client.expect("a connection, and not the listener");
        with(&mut self.machine.borrow_mut().clients[number])
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(number) = self.client {
            let client = &mut self.machine.borrow_mut().clients[number];
            (client.ended, client.closed) = (true, true);
        }
    }
}

impl Sys for Memory {
    type Socket = Socket;

    fn now(&self) -> Time {
        self.machine.borrow().now
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Never waits: the test runs a turn when there is work.
    fn wait(&mut self, _: Option<Time>, ready: &mut Vec<Readiness>) -> Result<bool, Errno> {
        ready.append(&mut self.machine.borrow_mut().edges);
        Ok(true)
    }

    fn register(&mut self, socket: &Socket, token: u64) -> Result<(), Errno> {
        let mut machine = self.machine.borrow_mut();
        match socket.client {
            None => machine.listener = token,
            Some(number) => {
                machine.clients[number].token = Some(token);
                machine.report(number);
            }
        }
        Ok(())
    }

    fn accept(&mut self, _: &Listening<Socket>) -> Result<(Socket, Peer), Errno> {
        let number = self.machine.borrow_mut().backlog.pop_front().ok_or(Errno::AGAIN)?;
        let socket = Socket { machine: self.machine.clone(), client: Some(number) };
        Ok((socket, Client::address(number).into()))
    }

    fn backlog(&self, _: &Listening<Socket>) -> u32 {
        self.machine.borrow().backlog.len() as u32
    }

    fn connect(&mut self, _: &Endpoint, _: Option<IpAddr>) -> Result<Socket, Errno> {
        Err(Errno::NETUNREACH)
    }

    fn connect_error(&mut self, _: &Socket) -> Result<(), Errno> {
        Err(Errno::NETUNREACH)
    }

    fn recv(&mut self, socket: &Socket, buffers: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        self.client(socket, |client| {
            let mut take = |buffer: &mut IoSliceMut<'_>| {
                let count = buffer.len().min(client.arriving.len());
                client.arriving.read_exact(&mut buffer[..count]).expect("so many are there");
                count
            };
            match buffers.iter_mut().map(&mut take).sum() {
                0 if client.reset => Err(Errno::CONNRESET),
                0 if !client.finished => Err(Errno::AGAIN),
                count => Ok(count),
            }
        })
    }

    fn peek(&mut self, socket: &Socket) -> Result<usize, Errno> {
        self.client(socket, |client| match client.arriving.len() {
            0 if client.reset => Err(Errno::CONNRESET),
            0 if !client.finished => Err(Errno::AGAIN),
            count => Ok(count.min(1)),
        })
    }

    fn send(&mut self, socket: &Socket, buffers: &[IoSlice<'_>]) -> Result<usize, Errno> {
        self.client(socket, |client| {
            let offered: usize = buffers.iter().map(|buffer| buffer.len()).sum();
            let taken = client.room.unwrap_or(offered).min(offered);
            if client.reset {
                return Err(Errno::PIPE);
            } else if taken == 0 {
                return Err(Errno::AGAIN);
            }
            let end = client.received.len() + taken;
            buffers.iter().for_each(|buffer| client.received.extend_from_slice(buffer));
            client.received.truncate(end);
            client.room = client.room.map(|room| room - taken);
            Ok(taken)
        })
    }

    fn shutdown(&mut self, socket: &Socket) -> Result<(), Errno> {
        self.client(socket, |client| client.ended = true);
        Ok(())
    }

    fn reset(&mut self, socket: Socket) {
        drop(socket);
    }
}
