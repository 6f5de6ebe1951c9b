//! A world without faults, for services that measure: a server and its clients, each on a worker
//! with the real readiness engine, connected by a network of one fixed latency, in virtual time.
//! Only the network and the waits of services take time, so a client measures exactly what the
//! services do, to the nanosecond.
//!
//! The seed decides the order of events at the same instant. The same seed gives the same run.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::clock::set_now;
use super::seat::{Seat, SeatParts, wants_turn};
use super::sys::{SimSys, Woken};
use super::world::{FaultRates, Handle, HandleTarget, SharedWorld, World};
use crate::base::time::Time;
use crate::buffer::{Pool, Reserve};
use crate::config::Limits;
use crate::engine::MioEngine;
use crate::engine::sys::Listening;
use crate::service::{Service, ServiceFactory, WorkerContext};
use crate::shared::directory::Directory;
use crate::shared::mailbox::Mailboxes;
use crate::shared::permits::Permits;
use crate::worker::launch::ClientLimits;
use crate::worker::{Setup, Worker};

/// The network between the clients and the server.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Time from a send to the arrival at the other side, and from a connect to its completion.
    pub latency: Duration,
    /// Capacity of a socket's receive buffer in bytes, including bytes in transit to it.
    pub window: usize,
    /// Seed for the order of events at the same instant.
    pub seed: u64,
}

/// A time in which a client's worker does not run, as if its process was stopped.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// The client, by its index.
    pub client: usize,
    /// Its beginning and end, counted from the start of the run.
    pub from: Duration,
    pub until: Duration,
}

/// Most turns of the workers between two steps of the clock. With more, a service spins.
const TURNS_AT_ONCE_MAX: u64 = 10_000_000;

/// Runs clients against a server, each with its limits, until every client service has called
/// [`Turn::stop`](crate::service::Turn::stop). Then stops the server and returns the services.
///
/// # Errors
/// If memory could not be allocated.
///
/// # Panics
/// If a service spins, or if all of them wait for something that never happens.
pub fn simulate<F: ServiceFactory, C: Service>(
    network: Network,
    server: (ClientLimits, F),
    clients: Vec<(ClientLimits, C)>,
) -> io::Result<(F::Service, Vec<C>)> {
    simulate_with_pauses(network, server, clients, &[])
}

/// The same with pauses of the clients' workers.
///
/// # Errors
/// If memory could not be allocated.
///
/// # Panics
/// As [`simulate`].
pub fn simulate_with_pauses<F: ServiceFactory, C: Service>(
    network: Network,
    server: (ClientLimits, F),
    clients: Vec<(ClientLimits, C)>,
    pauses: &[Pause],
) -> io::Result<(F::Service, Vec<C>)> {
    let world = Rc::new(RefCell::new(quiet_world(network, 1 + clients.len())));
    let listener = world.borrow_mut().listen();
    let mut server = Seated::server(&world, server, listener)?;
    let clients = clients.into_iter().zip(1..);
    let mut clients: Vec<_> = clients
        .map(|(client, index)| Seated::client(&world, index, client))
        .collect::<io::Result<_>>()?;
    let start = world.borrow().now;
    let paused_until = |client: usize, now: Time| {
        let of_client = pauses.iter().filter(|pause| pause.client == client);
        let mut current =
            of_client.filter(|pause| (pause.from..pause.until).contains(&(now - start)));
        current.next().map(|pause| start + pause.until)
    };
    set_now(start);
    server.worker.begin();
    clients.iter_mut().for_each(|client| client.worker.begin());
    let mut turns = 0;
    while clients.iter().any(|client| !client.worker.is_finished()) {
        let happened = handle_due_events(&world);
        let (mut ran, now) = (server.turn(&world), world.borrow().now);
        for (index, client) in clients.iter_mut().enumerate() {
            ran |= paused_until(index, now).is_none() && client.turn(&world);
        }
        turns += 1;
        if !happened && !ran {
            let deadlines = clients.iter().enumerate().filter_map(|(index, client)| {
                paused_until(index, now).or_else(|| client.deadline())
            });
            let next = deadlines.chain(server.deadline()).chain(world.borrow().next()).min();
            world.borrow_mut().now =
                next.expect("all services wait for something that never happens");
            set_now(world.borrow().now);
            turns = 0;
        }
        assert!(turns < TURNS_AT_ONCE_MAX, "a service spins at {:?}", world.borrow().now);
    }
    let clients = clients.into_iter().map(Seated::into_service).collect();
    Ok((server.into_service(), clients))
}

fn quiet_world(network: Network, workers: usize) -> World {
    let rates = FaultRates::none(network.latency, network.window);
    let mut world = World::new(network.seed, rates, workers, false);
    world.delay_is_fixed = true;
    world
}

/// Runs the events that are due. Returns whether there were any.
fn handle_due_events(world: &SharedWorld) -> bool {
    let mut world = world.borrow_mut();
    let mut any = false;
    while let Some(event) = world.pop() {
        world.handle_event(event);
        any = true;
    }
    any
}

/// A worker with its engine in the world.
struct Seated<S: Service> {
    worker: Worker<MioEngine<SimSys>, S>,
    woken: Arc<Woken>,
}

impl<S: Service> Seated<S> {
    fn server(
        world: &SharedWorld,
        (limits, factory): (ClientLimits, impl ServiceFactory<Service = S>),
        at: usize,
    ) -> io::Result<Self> {
        let connections_max = limits.connections_max as u32;
        let plan = factory.plan(&Limits::bare(connections_max, limits.buffer_size, limits.buffers));
        let reserve = Reserve::new(limits.buffer_size, limits.buffers)?;
        let mailboxes = Arc::new(Mailboxes::new(1));
        let permits = Permits::new(limits.connections_max as u64, mailboxes.clone());
        let listeners = vec![Handle { world: world.clone(), what: HandleTarget::Listener(at) }];
        let setup = Setup {
            listeners: 1,
            permits: Some(permits),
            directory: Some(Directory::new(1, limits.connections_max)),
            pool: Pool::with_references(reserve, 0, plan.references_each()),
            ..limits.setup(mailboxes)?
        };
        Ok(Seated::new(world, 0, setup, listeners, |worker| plan.make(worker)))
    }

    fn client(
        world: &SharedWorld,
        index: usize,
        (limits, service): (ClientLimits, S),
    ) -> io::Result<Self> {
        let setup = limits.setup(Arc::new(Mailboxes::new(1)))?;
        Ok(Seated::new(world, index, setup, Vec::new(), |_| service))
    }

    fn new(
        world: &SharedWorld,
        index: usize,
        setup: Setup,
        at: Vec<Handle>,
        make: impl FnOnce(&WorkerContext) -> S,
    ) -> Self {
        let woken = Arc::new(Woken::default());
        let engine = MioEngine::seat(SeatParts {
            world: world.clone(),
            worker: index,
            woken: woken.clone(),
            slots: setup.connections_max,
            pool: setup.pool.clone(),
            permits: setup.permits.clone(),
            listeners: at.into_iter().map(Listening::tcp).collect(),
        });
        Seated { worker: Worker::new(engine, setup, make), woken }
    }

    /// Runs a turn if the worker wants one. Returns whether it did.
    fn turn(&mut self, world: &SharedWorld) -> bool {
        let now = world.borrow().now;
        let wants = !self.worker.is_finished() && wants_turn(&self.worker, &self.woken, now);
        if wants {
            self.worker.turn().expect("waits in the world do not fail");
        }
        wants
    }

    /// When the worker wants its next turn.
    fn deadline(&self) -> Option<Time> {
        self.worker.deadline().filter(|_| !self.worker.is_finished())
    }

    fn into_service(self) -> S {
        self.worker.end(|service| service).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::Echo;
    use crate::error::Errno;
    use crate::service::{Answer, ConnectTo, Connection, Turn};
    use crate::sim::clock::now;

    const LATENCY: Duration = Duration::from_micros(30);

    /// Sends a byte when the last one has come back, and records when each arrived.
    #[derive(Default)]
    struct Pinger {
        begun: bool,
        left: usize,
        seen: Vec<(Time, Time)>,
    }

    impl Pinger {
        fn ping(&mut self, connection: &mut Connection<'_>) -> Answer {
            if self.left == 0 {
                return Answer::CloseAfterSend;
            }
            self.left -= 1;
            assert!(connection.send(b"!"), "a free buffer");
            Answer::Continue
        }
    }

    impl Service for Pinger {
        type Session = ();

        fn open(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
            self.ping(connection)
        }

        fn data(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
            connection.input.consume(connection.input.len());
            self.seen.push((connection.now(), now()));
            self.ping(connection)
        }

        fn connect_failed(&mut self, _: u64, error: Errno, _: Time) {
            panic!("{error:?}");
        }

        fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
            if !std::mem::replace(&mut self.begun, true) {
                let target = std::net::SocketAddr::from(([127, 0, 0, 1], 7)).into();
                turn.connect(ConnectTo { target, source: None, tag: 0, deadline: Time::MAX });
            } else if turn.open() == 0 {
                turn.stop();
            }
            None
        }
    }

    fn pings(clients: usize, seed: u64) -> Vec<Vec<(Time, Time)>> {
        let limits = ClientLimits {
            connections_max: 4,
            buffers: 8,
            buffer_size: 16,
            leases_per_connection_max: 1,
            linger: Duration::from_secs(1),
            busy_poll: false,
        };
        let network = Network { latency: LATENCY, window: 64, seed };
        let pinger = || (limits, Pinger { left: 10, ..Pinger::default() });
        let clients = (0..clients).map(|_| pinger()).collect();
        let (_, clients) = simulate(network, (limits, Echo), clients).unwrap();
        clients.into_iter().map(|client| client.seen).collect()
    }

    #[test]
    fn a_round_trip_takes_twice_the_latency_and_nothing_else_takes_time() {
        for seen in pings(3, 1) {
            assert_eq!(seen.len(), 10);
            let steps: Vec<_> = seen.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
            assert_eq!(steps, [LATENCY * 2; 9]);
            assert!(seen.iter().all(|(engine, clock)| engine == clock), "one clock");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        assert_eq!(pings(3, 7), pings(3, 7));
    }
}
