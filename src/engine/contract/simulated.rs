//! The simulated kernel as a testbed, at both seams. Seed 0 is a world without delays. Other seeds
//! draw how long segments are in transit and how unreliably readiness is reported.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Parts, Testbed};
use crate::base::time::Time;
use crate::engine::sys::Listening;
use crate::engine::{MioEngine, Sink};
use crate::error::Errno;
use crate::sim::engine::SimEngine;
use crate::sim::seat::{Seat, SeatParts};
use crate::sim::sys::{SimSys, Woken};
use crate::sim::world::{EndpointId, FaultRates, Handle, HandleTarget, SharedWorld, World};

pub(super) type Readiness = InWorld<MioEngine<SimSys>>;
pub(super) type Completions = InWorld<SimEngine>;

pub(super) struct InWorld<E> {
    world: SharedWorld,
    peers: Cell<u16>,
    engine: PhantomData<E>,
}

pub(super) struct Peer {
    end: EndpointId,
    address: SocketAddr,
}

/// Faults that an engine must hide. Other tests cover faults that it may report.
fn rates(seed: u64, window: usize) -> FaultRates {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut rate = |most: u32| if seed > 0 && rng.bool() { rng.u32(1..=most) } else { 0 };
    FaultRates {
        late_readiness: rate(300_000),
        spurious: rate(200_000),
        duplicate: rate(300_000),
        partial_batch: rate(500_000),
        ..FaultRates::none(Duration::from_micros(rate(2_000).into()), window)
    }
}

impl<E> InWorld<E> {
    /// Processes the events that are due.
    fn handle_due_events(&self) {
        let mut world = self.world.borrow_mut();
        while let Some(event) = world.pop() {
            world.handle_event(event);
        }
    }

    /// Advances time to the next event, or to `limit`.
    fn let_time_pass(&self, limit: Option<Time>) {
        let mut world = self.world.borrow_mut();
        let next = world.next().into_iter().chain(limit).min();
        let next = next.expect("a wait without an end");
        world.now = world.now.max(next);
    }
}

impl<E: Seat> Testbed for InWorld<E> {
    type Engine = E;
    type Peer = Peer;

    const SEEDS: u64 = 16;
    const MANY: usize = 2_000;
    const EXACT_TIME: bool = true;

    fn set(seed: u64, parts: Parts) -> (InWorld<E>, E) {
        let rates = rates(seed, parts.window);
        let world = Rc::new(RefCell::new(World::new(seed, rates, 1, false)));
        let listener = HandleTarget::Listener(world.borrow_mut().listen());
        let engine = E::seat(SeatParts {
            world: world.clone(),
            worker: 0,
            woken: Arc::new(Woken::default()),
            slots: parts.slots,
            pool: parts.pool,
            permits: Some(parts.permits),
            listeners: vec![Listening::tcp(Handle { world: world.clone(), what: listener })],
        });
        (InWorld { world, peers: Cell::new(0), engine: PhantomData }, engine)
    }

    fn poll(&mut self, engine: &mut E, deadline: Option<Time>, sink: &mut impl Sink<E>) {
        loop {
            self.handle_due_events();
            let now = self.world.borrow().now;
            if engine.is_ready() || deadline.is_some_and(|deadline| deadline <= now) {
                break;
            }
            self.let_time_pass(deadline);
        }
        engine.poll(deadline, sink).unwrap();
    }

    fn listener(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 7))
    }

    fn connect(&mut self) -> Peer {
        let number = self.peers.replace(self.peers.get() + 1);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 10_000 + number));
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), address.port()));
        let end = self.world.borrow_mut().connect(mapped, false);
        loop {
            self.handle_due_events();
            let outcome = self.world.borrow().connect_outcome(end);
            if let Some(outcome) = outcome {
                break outcome.unwrap();
            }
            self.let_time_pass(None);
        }
        Peer { end, address }
    }

    fn address(&self, peer: &Peer) -> SocketAddr {
        peer.address
    }

    fn write(&mut self, peer: &mut Peer, bytes: &[u8]) -> usize {
        match self.world.borrow_mut().send(peer.end, bytes, false) {
            Err(Errno::AGAIN) => 0,
            sent => sent.unwrap(),
        }
    }

    fn write_urgent(&mut self, peer: &mut Peer, byte: u8) {
        assert_eq!(self.world.borrow_mut().send(peer.end, &[byte], true), Ok(1));
    }

    fn write_and_shutdown(&mut self, peer: &mut Peer, bytes: &[u8]) {
        if !bytes.is_empty() {
            assert_eq!(self.write(peer, bytes), bytes.len());
        }
        self.shutdown(peer);
    }

    fn shutdown(&mut self, peer: &mut Peer) {
        self.world.borrow_mut().shutdown(peer.end).unwrap();
    }

    fn read(&mut self, peer: &mut Peer, room: &mut [u8]) -> Option<Result<usize, Errno>> {
        match self.world.borrow_mut().recv(peer.end, room.len()) {
            Err(Errno::AGAIN) => None,
            Err(error) => Some(Err(error)),
            Ok(bytes) => {
                room[..bytes.len()].copy_from_slice(&bytes);
                Some(Ok(bytes.len()))
            }
        }
    }

    fn reset(&mut self, peer: Peer) {
        self.world.borrow_mut().abort(peer.end);
    }

    fn close(&mut self, peer: Peer) {
        self.world.borrow_mut().close(peer.end);
    }
}
