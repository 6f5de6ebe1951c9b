//! For tests: system calls that return results from a script, and count how often they are called.
//!
//! It does not behave like a kernel by itself. Each test sets the results that a kernel would
//! return. A call for which the script has no result fails the test, because it is one call too
//! many.

use std::collections::{HashMap, VecDeque};
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use super::{Listening, Readiness, Sys};
use crate::base::endpoint::{Endpoint, Peer};
use crate::base::time::Time;
use crate::error::Errno;

/// A socket is a number.
pub(crate) type Socket = u32;

#[derive(Default)]
pub(crate) struct Scripted {
    /// What the next waits report.
    pub(crate) waits: VecDeque<Vec<Readiness>>,
    /// The results of the next receives of a socket. An empty string is the end of the stream.
    pub(crate) receives: HashMap<Socket, VecDeque<Result<&'static [u8], Errno>>>,
    /// The number of bytes that the next sends of a socket accept.
    pub(crate) sends: HashMap<Socket, VecDeque<Result<usize, Errno>>>,
    /// The results of the next accepts.
    pub(crate) accepts: VecDeque<Result<Socket, Errno>>,
    /// The results of the next connects, as they begin. Without one they succeed.
    pub(crate) connects: VecDeque<Result<Socket, Errno>>,
    /// The results of the next connects, as they end.
    pub(crate) connect_errors: VecDeque<Result<(), Errno>>,
    /// The bytes that were sent.
    pub(crate) sent: HashMap<Socket, Vec<u8>>,
    pub(crate) registered: Vec<(Socket, u64)>,
    pub(crate) shut: Vec<Socket>,
    pub(crate) closed: Vec<Socket>,
    pub(crate) deadlines: Vec<Option<Time>>,
}

impl Sys for Scripted {
    type Socket = Socket;

    fn now(&self) -> Time {
        Time::from_nanos(1)
    }

    fn waker(&self) -> Waker {
        Waker::noop().clone()
    }

    fn wait(&mut self, deadline: Option<Time>, ready: &mut Vec<Readiness>) -> Result<bool, Errno> {
        self.deadlines.push(deadline);
        ready.extend(self.waits.pop_front().expect("a wait too many"));
        Ok(true)
    }

    fn register(&mut self, socket: &Socket, token: u64) -> Result<(), Errno> {
        self.registered.push((*socket, token));
        Ok(())
    }

    fn accept(&mut self, _: &Listening<Socket>) -> Result<(Socket, Peer), Errno> {
        let socket = self.accepts.pop_front().expect("an accept too many")?;
        Ok((socket, SocketAddr::from(([127, 0, 0, 1], 9)).into()))
    }

    fn backlog(&self, _: &Listening<Socket>) -> u32 {
        self.accepts.len() as u32
    }

    fn connect(&mut self, _: &Endpoint, _: Option<IpAddr>) -> Result<Socket, Errno> {
        self.connects.pop_front().unwrap_or(Ok(100))
    }

    fn connect_error(&mut self, _: &Socket) -> Result<(), Errno> {
        self.connect_errors.pop_front().expect("a check of a connect too many")
    }

    fn recv(&mut self, socket: &Socket, buffers: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        let answers = self.receives.entry(*socket).or_default();
        let mut bytes = answers.pop_front().expect("a receive too many")?;
        let count = bytes.len();
        for buffer in buffers {
            let here = bytes.len().min(buffer.len());
            buffer[..here].copy_from_slice(&bytes[..here]);
            bytes = &bytes[here..];
        }
        assert!(bytes.is_empty(), "the script has more than there is room for");
        Ok(count)
    }

    fn peek(&mut self, socket: &Socket) -> Result<usize, Errno> {
        let answers = self.receives.entry(*socket).or_default();
        match answers.front().expect("a look too many") {
            Ok(bytes) => Ok(bytes.len().min(1)),
            Err(_) => answers.pop_front().expect("it is there").map(<[u8]>::len),
        }
    }

    fn send(&mut self, socket: &Socket, buffers: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let answers = self.sends.entry(*socket).or_default();
        let most = answers.pop_front().expect("a send too many")?;
        let all: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        let taken = most.min(all.len());
        self.sent.entry(*socket).or_default().extend_from_slice(&all[..taken]);
        Ok(taken)
    }

    fn shutdown(&mut self, socket: &Socket) -> Result<(), Errno> {
        self.shut.push(*socket);
        Ok(())
    }

    fn reset(&mut self, socket: Socket) {
        self.closed.push(socket);
    }

    fn close(&mut self, socket: Socket) {
        self.closed.push(socket);
    }
}
