//! The world as a [`Sys`]: edge-triggered readiness and errnos for the real readiness engine.

use std::io::{IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use super::marks::Mark;
use super::world::{Edge, EndpointId, Handle, HandleTarget, SharedWorld, Watch, World};
use crate::base::endpoint::{Endpoint, Peer};
use crate::base::key::Key;
use crate::base::time::Time;
use crate::engine::sys::{Listening, Readiness, Sys};
use crate::error::Errno;
use crate::shared::moved::{Passed, Passing};

/// The system calls of one worker.
pub(crate) struct SimSys {
    world: SharedWorld,
    worker: usize,
    woken: Arc<Woken>,
    /// Tokens that the last wait reported twice or without a cause.
    extra: Vec<u64>,
}

/// Whether a worker has been woken since its last wait.
#[derive(Default)]
pub(crate) struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Woken {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The endpoint of a handle.
pub(super) fn endpoint(handle: &Handle) -> EndpointId {
    match handle.what {
        HandleTarget::Endpoint(id) => id,
        HandleTarget::Listener(_) => panic!("a listener in place of a connection"),
    }
}

/// The connection that has come from another process.
pub(super) fn received(world: &SharedWorld, passed: Passed) -> Option<Handle> {
    let Passed::Simulated(token) = passed else { return None };
    let what = world.borrow_mut().receive_descriptor(&token);
    Some(Handle { world: Rc::clone(world), what })
}

/// With probability `rate` in a million, draws one of `errors`.
pub(super) fn draw(world: &mut World, rate: u32, errors: &[(Errno, Mark)]) -> Result<(), Errno> {
    if !world.chance(rate) {
        return Ok(());
    }
    let (error, mark) = errors[world.rng.usize(0..errors.len())];
    world.mark(mark);
    Err(error)
}

pub(super) const RECV_ERRORS: [(Errno, Mark); 4] = [
    (Errno::CONNRESET, Mark::RecvReset),
    (Errno::TIMEDOUT, Mark::RecvTimedOut),
    (Errno::NOMEM, Mark::RecvNomem),
    (Errno::HOSTUNREACH, Mark::RecvHostunreach),
];

/// Errors that socket, bind and connect return immediately.
pub(super) const CONNECT_ERRORS: [(Errno, Mark); 4] = [
    (Errno::ADDRNOTAVAIL, Mark::ConnectAddrnotavail),
    (Errno::MFILE, Mark::ConnectMfile),
    (Errno::NETUNREACH, Mark::ConnectNetunreach),
    (Errno::NOBUFS, Mark::ConnectNobufs),
];

pub(super) const SEND_ERRORS: [(Errno, Mark); 6] = [
    (Errno::PIPE, Mark::SendPipe),
    (Errno::CONNRESET, Mark::SendReset),
    (Errno::NOBUFS, Mark::SendNobufs),
    (Errno::NOMEM, Mark::SendNomem),
    (Errno::TIMEDOUT, Mark::SendTimedout),
    (Errno::NETUNREACH, Mark::SendNetunreach),
];

impl SimSys {
    pub(super) fn new(world: SharedWorld, worker: usize, woken: Arc<Woken>) -> SimSys {
        SimSys { world, worker, woken, extra: Vec::new() }
    }

    /// Whether a wait would report anything.
    pub(super) fn is_ready(&self) -> bool {
        self.woken.is_set() || self.world.borrow().is_ready(self.worker)
    }

    /// Injects faults: an event reported twice, without a cause, or later. Returns whether all
    /// events are reported.
    fn worsen(&mut self, world: &mut World, ready: &mut Vec<(u64, Edge)>) -> bool {
        let partial = !ready.is_empty() && world.chance(world.rates.partial_batch);
        if partial {
            world.mark(Mark::PartialBatch);
            let kept = world.rng.usize(0..ready.len());
            for (token, edge) in ready.drain(kept..) {
                world.put_back(self.worker, token, edge);
            }
        }
        if !ready.is_empty() && world.chance(world.rates.duplicate) {
            world.mark(Mark::DuplicateEvent);
            let again = ready[world.rng.usize(0..ready.len())];
            self.extra.push(again.0);
            ready.push(again);
        }
        if world.chance(world.rates.spurious)
            && let Some(token) = world.any_watched(self.worker)
        {
            world.mark(Mark::SpuriousReadiness);
            self.extra.push(token);
            ready.push((token, Edge { readable: true, writable: true, ..Edge::default() }));
        }
        !partial
    }
}

impl Sys for SimSys {
    type Socket = Handle;

    fn now(&self) -> Time {
        self.world.borrow().now
    }

    fn waker(&self) -> Waker {
        Waker::from(self.woken.clone())
    }

    /// Never blocks: time advances when no worker has anything to do.
    fn wait(&mut self, _: Option<Time>, ready: &mut Vec<Readiness>) -> Result<bool, Errno> {
        self.woken.clear();
        let shared = Rc::clone(&self.world);
        let mut world = shared.borrow_mut();
        if world.take_interrupt(self.worker) {
            return Ok(false);
        }
        for token in std::mem::take(&mut self.extra) {
            if Key::from_bits(token).listener_index().is_none()
                && !world.is_watched(self.worker, token)
            {
                world.mark(Mark::StaleEvent);
            }
        }
        let mut taken = world.take_ready(self.worker);
        let all = self.worsen(&mut world, &mut taken);
        for (token, edge) in taken {
            let key = Key::from_bits(token);
            world.trace(10, self.worker, token, || {
                format!(
                    "worker {} is told: {key:?}{}{}{}",
                    self.worker,
                    if edge.readable { " readable" } else { "" },
                    if edge.writable { " writable" } else { "" },
                    if edge.read_on { " read-on" } else { "" },
                )
            });
            ready.push(Readiness {
                token,
                readable: edge.readable,
                writable: edge.writable,
                read_on: edge.read_on,
            });
        }
        Ok(all)
    }

    fn register(&mut self, socket: &Handle, token: u64) -> Result<(), Errno> {
        let mut world = self.world.borrow_mut();
        if let HandleTarget::Endpoint(_) = socket.what {
            let errors = [(Errno::NOMEM, Mark::RegisterNomem), (Errno::NOSPC, Mark::RegisterNospc)];
            let rate = world.rates.register_error;
            draw(&mut world, rate, &errors)?;
        }
        world.watch(socket.what, Watch { worker: self.worker, token });
        Ok(())
    }

    fn accept(&mut self, listener: &Listening<Handle>) -> Result<(Handle, Peer), Errno> {
        let HandleTarget::Listener(id) = listener.socket.what else {
            panic!("accept on a connection")
        };
        let (far, address) = self.world.borrow_mut().accept(id)?;
        let handle = Handle { world: Rc::clone(&self.world), what: HandleTarget::Endpoint(far) };
        Ok((handle, address.into()))
    }

    fn backlog(&self, listener: &Listening<Handle>) -> u32 {
        let HandleTarget::Listener(id) = listener.socket.what else {
            panic!("backlog of a connection")
        };
        if listener.kept.get() { 0 } else { self.world.borrow().waiting(id) as u32 }
    }

    fn connect(&mut self, target: &Endpoint, _: Option<IpAddr>) -> Result<Handle, Errno> {
        let mut world = self.world.borrow_mut();
        let rate = world.rates.connect_error;
        draw(&mut world, rate, &CONNECT_ERRORS)?;
        let target = target.socket_addr().expect("the simulated network has TCP only");
        let near = world.connect(target, true);
        Ok(Handle { world: Rc::clone(&self.world), what: HandleTarget::Endpoint(near) })
    }

    fn connect_error(&mut self, socket: &Handle) -> Result<(), Errno> {
        let outcome = self.world.borrow().connect_outcome(endpoint(socket));
        outcome.expect("called after the connect has completed")
    }

    fn recv(&mut self, socket: &Handle, buffers: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        let mut world = self.world.borrow_mut();
        let id = endpoint(socket);
        let rate = world.rates.recv_error;
        draw(&mut world, rate, &RECV_ERRORS).inspect_err(|_| world.fail(id))?;
        let room = buffers.iter().map(|buffer| buffer.len()).sum();
        let bytes = world.recv(id, room)?;
        world.trace(11, id, bytes.len() as u64, || format!("recv {id}: {} of {room}", bytes.len()));
        let mut rest = &bytes[..];
        for buffer in buffers {
            let here = rest.len().min(buffer.len());
            buffer[..here].copy_from_slice(&rest[..here]);
            rest = &rest[here..];
        }
        Ok(bytes.len())
    }

    fn peek(&mut self, socket: &Handle) -> Result<usize, Errno> {
        self.world.borrow_mut().peek(endpoint(socket))
    }

    fn send(&mut self, socket: &Handle, buffers: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let mut world = self.world.borrow_mut();
        let id = endpoint(socket);
        let rate = world.rates.send_error;
        draw(&mut world, rate, &SEND_ERRORS).inspect_err(|_| world.fail(id))?;
        let mut bytes = Vec::with_capacity(buffers.iter().map(|buffer| buffer.len()).sum());
        buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
        let sent = world.send(id, &bytes, false);
        match sent {
            Ok(count) if count < bytes.len() => world.mark(Mark::ShortSend),
            Err(Errno::AGAIN) => world.mark(Mark::SendBlocked),
            _ => {}
        }
        let told = sent.map_or_else(|error| u64::MAX - error.raw_os_error() as u64, |c| c as u64);
        world.trace(12, id, told, || format!("send {id}: {sent:?} of {}", bytes.len()));
        sent
    }

    fn unacknowledged(&self, socket: &Handle) -> Option<u32> {
        Some(self.world.borrow().unacknowledged(endpoint(socket)))
    }

    fn unread(&self, socket: &Handle) -> Option<u32> {
        Some(self.world.borrow().unread(endpoint(socket)))
    }

    fn reset(&mut self, socket: Handle) {
        let id = endpoint(&socket);
        self.world.borrow_mut().abort(id);
    }

    fn close_shared(&mut self, socket: Handle) {
        self.forget(&socket);
    }

    fn forget(&mut self, socket: &Handle) -> bool {
        self.world.borrow_mut().forget(socket.what, self.worker);
        true
    }

    fn descriptor(socket: &Handle) -> Option<Passing<'_>> {
        Some(Passing::Simulated(socket.world.borrow_mut().send_descriptor(endpoint(socket))))
    }

    fn of_descriptor(&self, passed: Passed) -> Option<Handle> {
        received(&self.world, passed)
    }

    fn shutdown(&mut self, socket: &Handle) -> Result<(), Errno> {
        let mut world = self.world.borrow_mut();
        let rate = world.rates.shutdown_error;
        let id = endpoint(socket);
        draw(&mut world, rate, &[(Errno::NOTCONN, Mark::ShutdownNotconn)])
            .inspect_err(|_| world.fail(id))?;
        world.trace(13, id, 0, || format!("shutdown {id}"));
        world.shutdown(id)
    }
}
