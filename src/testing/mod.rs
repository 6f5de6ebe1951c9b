//! Testing a service without sockets. A [`Rig`] runs it on a worker in memory, and the test
//! controls the bytes, the clock and the buffers.
//!
//! The worker and its engine are those of a real server; only the system calls below them are
//! replaced. So a test observes what clients observe: waiting for buffers, timers, graceful close.
//!
//! ```
//! use std::time::Duration;
//! use echopool::service::{Answer, Connection, Service};
//! use echopool::testing::Rig;
//!
//! /// Sends everything back. Says `?` when a client has been silent for a second.
//! struct Nudge;
//!
//! impl Service for Nudge {
//!     type Session = ();
//!
//!     fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
//!         connection.output.append(connection.input);
//!         connection.set_timer(connection.now() + Duration::from_secs(1));
//!         Answer::Continue
//!     }
//!
//!     fn timer(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
//!         connection.send(b"?");
//!         Answer::Continue
//!     }
//! }
//!
//! let mut rig = Rig::new(|| Nudge);
//! let client = rig.connect();
//! rig.send(client, b"hello");
//! assert_eq!(rig.received(client), b"hello");
//!
//! rig.advance(Duration::from_millis(999));
//! assert_eq!(rig.received(client), b"");
//! rig.advance(Duration::from_millis(2));
//! assert_eq!(rig.received(client), b"?");
//!
//! // No buffer is free, so the bytes wait. They come back when there is one.
//! rig.take_buffers();
//! rig.send(client, b"again");
//! assert_eq!(rig.received(client), b"");
//! rig.give_buffers();
//! assert_eq!(rig.received(client), b"again");
//!
//! rig.finish(client);
//! assert!(rig.is_closed(client));
//! ```

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Wake;
use std::time::Duration;

use crate::base::key::ConnectionId;
use crate::base::time::Time;
use crate::buffer::{Lease, Pool, Reserve};
use crate::config::Limits;
use crate::engine::MioEngine;
use crate::engine::sys::Listening;
use crate::server::messaging::ClientAccess;
use crate::service::{Service, ServiceFactory};
use crate::shared::counters::{Counters, Counts, Stats};
use crate::shared::directory::Directory;
use crate::shared::mailbox::{EndOrder, Mailboxes};
use crate::shared::permits::Permits;
use crate::shared::receipt::SendError;
use crate::worker::{Rules, Setup, Worker};

mod memory;
#[cfg(test)]
mod tests;

use memory::{Client, Machine, Memory};

/// Maximum number of clients of a rig.
const CONNECTIONS_MAX: u32 = 64;

/// Number of turns without progress of time after which the service is considered to spin.
const TURNS_MAX: usize = 100_000;

/// A service on a worker in memory. Clients are numbered from 0, in the order in which they
/// connect.
///
/// Each method returns when the worker has nothing left to do at the current time. Nothing runs
/// concurrently with the test, so the same calls always have the same results.
pub struct Rig<S: Service> {
    machine: Rc<RefCell<Machine>>,
    worker: Worker<MioEngine<Memory>, S>,
    woken: Arc<Woken>,
    pool: Pool,
    /// Buffers that the test has taken.
    taken: Vec<Lease>,
    counters: Arc<Counters>,
    clients: ClientAccess,
}

/// Whether the worker was woken since it last looked.
#[derive(Default)]
pub(crate) struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl<S: Service> Rig<S> {
    /// Creates a rig with 64 buffers of 1024 bytes.
    ///
    /// # Panics
    /// The service cannot work with these limits.
    pub fn new(factory: impl ServiceFactory<Service = S>) -> Rig<S> {
        Rig::with_buffers(factory, 64, 1024)
    }

    /// Creates a rig with this number of buffers of this size, in bytes. Both may be below the
    /// minimum of a server.
    ///
    /// # Panics
    /// The service cannot work with these limits.
    pub fn with_buffers(
        factory: impl ServiceFactory<Service = S>,
        buffers: u32,
        buffer_size: usize,
    ) -> Rig<S> {
        let limits = Limits::bare(CONNECTIONS_MAX, buffer_size, buffers);
        factory.check(&limits).unwrap_or_else(|error| panic!("{error}"));
        Rig::unchecked(factory, &limits)
    }

    /// Creates a rig with any limits, including those that the service refuses.
    pub(crate) fn unchecked(factory: impl ServiceFactory<Service = S>, limits: &Limits) -> Rig<S> {
        let plan = factory.plan(limits);
        let reserve = Reserve::new(limits.buffer_size, limits.buffers).expect("some memory");
        let pool = Pool::with_references(reserve.clone(), 0, plan.references_each());
        let slots = limits.max_connections as usize;
        let mailboxes = Arc::new(Mailboxes::new(1));
        let permits = Permits::new(limits.max_connections.into(), mailboxes.clone());
        let clients = ClientAccess {
            mailboxes: mailboxes.clone(),
            directory: Directory::new(1, slots),
            reserve,
            next: AtomicU64::new(0),
        };
        let counters = Arc::<Counters>::default();
        let setup = Setup {
            index: 0,
            connections_max: slots,
            listeners: 1,
            rules: Rules::of(limits),
            pool: pool.clone(),
            permits: Some(permits.clone()),
            mailboxes,
            counters: counters.clone(),
            directory: Some(clients.directory.clone()),
        };
        let (machine, woken) = (Rc::<RefCell<Machine>>::default(), Arc::<Woken>::default());
        let sys = Memory { machine: machine.clone(), waker: woken.clone().into() };
        let listener = Listening::tcp(sys.listener());
        let engine = MioEngine::new(sys, slots, pool.clone(), Some(permits), vec![listener]);
        let engine = engine.expect("the machine watches every socket");
        let mut worker = Worker::new(engine, setup, |context| plan.make(context));
        worker.begin();
        let mut rig = Rig { machine, worker, woken, pool, taken: Vec::new(), counters, clients };
        rig.run();
        rig
    }

    /// Connects a client. Returns its number.
    ///
    /// # Panics
    /// If 64 clients are connected.
    pub fn connect(&mut self) -> usize {
        self.connect_with(None)
    }

    /// Connects a client that reads only this many bytes, until [`read_on`](Rig::read_on). Returns
    /// its number.
    ///
    /// # Panics
    /// If 64 clients are connected.
    pub fn connect_reading(&mut self, bytes: usize) -> usize {
        self.connect_with(Some(bytes))
    }

    fn connect_with(&mut self, room: Option<usize>) -> usize {
        let number = self.machine.borrow_mut().connect();
        self.client(number).room = room;
        self.run();
        assert!(self.machine.borrow().backlog.is_empty(), "no more clients than 64 at once");
        number
    }

    /// Sends these bytes from a client. They arrive at once.
    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        self.machine.borrow_mut().arrive(client, bytes);
        self.run();
    }

    /// Takes the bytes that a client has received since the last call.
    pub fn received(&mut self, client: usize) -> Vec<u8> {
        std::mem::take(&mut self.client(client).received)
    }

    /// Closes a client's sending side. The client still reads.
    pub fn finish(&mut self, client: usize) {
        self.machine.borrow_mut().finish(client, false);
        self.run();
    }

    /// Resets a client's connection from the client's side.
    pub fn reset(&mut self, client: usize) {
        self.machine.borrow_mut().finish(client, true);
        self.run();
    }

    /// Limits a client to reading this many more bytes, until [`read_on`](Rig::read_on). Bytes that
    /// the service sends beyond that wait on the output.
    pub fn stop_reading_after(&mut self, client: usize, bytes: usize) {
        self.client(client).room = Some(bytes);
        self.machine.borrow_mut().report(client);
        self.run();
    }

    /// Removes the limit on what a client reads.
    pub fn read_on(&mut self, client: usize) {
        self.client(client).room = None;
        self.machine.borrow_mut().report(client);
        self.run();
    }

    /// Whether the server has closed its sending side, so that the client receives no more bytes.
    pub fn has_ended(&self, client: usize) -> bool {
        self.machine.borrow().clients[client].ended
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&self, client: usize) -> bool {
        self.machine.borrow().clients[client].closed
    }

    /// The id of a client's connection, or `None` if it is closed.
    pub fn id(&self, client: usize) -> Option<ConnectionId> {
        let address = Client::address(client).into();
        let clients = self.clients.directory.list();
        clients.iter().find(|info| info.peer == address).map(|info| info.id)
    }

    /// The current time, as in [`Connection::now`](crate::service::Connection::now). A rig starts
    /// at 1 s.
    pub fn now(&self) -> Time {
        self.machine.borrow().now
    }

    /// Advances the clock. All timers that become due fire, each at its time.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now() + time;
        while !self.worker.is_finished()
            && let Some(due) = self.worker.deadline().filter(|due| *due <= end)
        {
            let now = self.now().max(due);
            self.machine.borrow_mut().now = now;
            self.run();
        }
        self.machine.borrow_mut().now = end;
        self.run();
    }

    /// Takes all free buffers, so that the service and the next receives find none. Returns how
    /// many buffers were free.
    pub fn take_buffers(&mut self) -> usize {
        self.take_buffers_but(0)
    }

    /// Takes all free buffers except `left`. Returns how many it took.
    pub fn take_buffers_but(&mut self, left: usize) -> usize {
        let before = self.taken.len();
        while self.pool.available() > left {
            self.taken.extend(self.pool.lease());
        }
        self.taken.len() - before
    }

    /// Returns the buffers that were taken.
    pub fn give_buffers(&mut self) {
        self.taken.clear();
        self.woken.0.store(true, Ordering::Release);
        self.run();
    }

    /// Number of buffers that connections and the service hold. 0 if all of them have been
    /// returned.
    pub fn buffers_held(&self) -> usize {
        self.pool.held() - self.taken.len()
    }

    /// Sends a message to a client as another thread would with
    /// [`ServerHandle::send_to`](crate::ServerHandle::send_to).
    ///
    /// # Errors
    /// As [`ServerHandle::send_to`](crate::ServerHandle::send_to).
    pub fn send_to(&mut self, client: usize, bytes: &[u8]) -> Result<(), SendError> {
        let id = self.id(client).ok_or(SendError::Gone)?;
        let answers = self.clients.begin_send_to(id, bytes)?;
        self.run();
        let tally = answers.so_far();
        if tally.queued == 1 { Ok(()) } else { Err(tally.why.unwrap_or(SendError::Gone)) }
    }

    /// Starts a drain, which closes the connections that are left after `deadline`.
    pub fn drain(&mut self, deadline: Duration) {
        let deadline = self.now() + deadline;
        self.clients.mailboxes.order_end(0, EndOrder::Drain { deadline });
        self.run();
    }

    /// The counters, with how many connections were closed for each reason.
    pub fn counts(&self) -> Counts {
        Stats::read(std::iter::once(&*self.counters)).total()
    }

    fn client(&self, number: usize) -> RefMut<'_, Client> {
        RefMut::map(self.machine.borrow_mut(), |machine| &mut machine.clients[number])
    }

    /// Runs turns of the worker's loop until there is no more work at the current time.
    fn run(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.worker.is_finished() || !self.wants_turn() {
                return;
            }
            self.worker.turn().expect("waiting does not fail");
        }
        panic!("the service spins at {:?}", self.now());
    }

    fn wants_turn(&self) -> bool {
        self.woken.0.swap(false, Ordering::AcqRel)
            || !self.machine.borrow().edges.is_empty()
            || self.worker.engine().has_cancelled()
            || self.worker.deadline().is_some_and(|deadline| deadline <= self.now())
    }
}
