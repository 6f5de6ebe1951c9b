//! For tests: the real kernel, with one chosen call that fails, or a process that is stopped for a
//! while.

use std::cell::{Cell, RefCell};
use std::io::{IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use super::{Kernel, Listening, Readiness, Sys};
use crate::base::endpoint::{Endpoint, Peer};
use crate::base::time::Time;
use crate::error::Errno;

/// A system call that can fail on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Wait,
    Register,
    Accept,
    Recv,
    Send,
    Shutdown,
}

/// Which call fails, when, and how. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    pub(crate) error: Errno,
    /// The number of calls of this kind that succeed before one fails.
    pub(crate) after: u64,
    pub(crate) calls: Arc<AtomicU64>,
    pub(crate) fired: Arc<AtomicU64>,
}

impl Fault {
    pub(crate) fn new(call: Call, error: Errno, after: u64) -> Fault {
        Fault { call, error, after, calls: Arc::default(), fired: Arc::default() }
    }

    fn check(&self, call: Call) -> Result<(), Errno> {
        if call == self.call && self.calls.fetch_add(1, Ordering::SeqCst) == self.after {
            self.fired.fetch_add(1, Ordering::SeqCst);
            return Err(self.error);
        }
        Ok(())
    }
}

/// What happens while the process stands still.
type Happens = Box<dyn FnOnce()>;

pub(crate) struct Faulty {
    pub(crate) kernel: Kernel,
    pub(crate) fault: Fault,
    /// The time for which the process stood still, so far.
    pub(crate) still: Rc<Cell<Duration>>,
    /// What happens after the next wait has ended, and before its end is known: the process is
    /// stopped.
    pub(crate) stop: Rc<RefCell<Option<Happens>>>,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Faulty {
        let kernel = Kernel::new().unwrap();
        Faulty { kernel, fault, still: Rc::default(), stop: Rc::default() }
    }
}

impl Sys for Faulty {
    type Socket = <Kernel as Sys>::Socket;

    fn now(&self) -> Time {
        self.kernel.now() + self.still.get()
    }

    fn waker(&self) -> Waker {
        self.kernel.waker()
    }

    fn wait(&mut self, deadline: Option<Time>, ready: &mut Vec<Readiness>) -> Result<bool, Errno> {
        self.fault.check(Call::Wait)?;
        let all = self.kernel.wait(deadline.map(|at| at.saturating_sub(self.still.get())), ready);
        if let Some(happens) = self.stop.take() {
            happens();
        }
        all
    }

    fn register(&mut self, socket: &Self::Socket, token: u64) -> Result<(), Errno> {
        self.fault.check(Call::Register)?;
        self.kernel.register(socket, token)
    }

    fn accept(
        &mut self,
        listener: &Listening<Self::Socket>,
    ) -> Result<(Self::Socket, Peer), Errno> {
        self.fault.check(Call::Accept)?;
        self.kernel.accept(listener)
    }

    fn backlog(&self, listener: &Listening<Self::Socket>) -> u32 {
        self.kernel.backlog(listener)
    }

    fn connect(
        &mut self,
        target: &Endpoint,
        source: Option<IpAddr>,
    ) -> Result<Self::Socket, Errno> {
        self.kernel.connect(target, source)
    }

    fn connect_error(&mut self, socket: &Self::Socket) -> Result<(), Errno> {
        self.kernel.connect_error(socket)
    }

    fn recv(
        &mut self,
        socket: &Self::Socket,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Result<usize, Errno> {
        self.fault.check(Call::Recv)?;
        self.kernel.recv(socket, buffers)
    }

    fn peek(&mut self, socket: &Self::Socket) -> Result<usize, Errno> {
        self.fault.check(Call::Recv)?;
        self.kernel.peek(socket)
    }

    fn send(&mut self, socket: &Self::Socket, buffers: &[IoSlice<'_>]) -> Result<usize, Errno> {
        self.fault.check(Call::Send)?;
        self.kernel.send(socket, buffers)
    }

    fn unacknowledged(&self, socket: &Self::Socket) -> Option<u32> {
        self.kernel.unacknowledged(socket)
    }

    fn unread(&self, socket: &Self::Socket) -> Option<u32> {
        self.kernel.unread(socket)
    }

    fn reset(&mut self, socket: Self::Socket) {
        self.kernel.reset(socket);
    }

    fn shutdown(&mut self, socket: &Self::Socket) -> Result<(), Errno> {
        self.fault.check(Call::Shutdown)?;
        self.kernel.shutdown(socket)
    }
}
