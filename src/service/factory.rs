//! How a server gets its services. A [`ServiceFactory`] checks the limits before anything is
//! started, and makes one service for each worker, on that worker's thread.

use std::sync::Arc;

use super::{DatagramService, Service};
use crate::buffer::Pool;
use crate::config::Limits;
use crate::error::SettingError;
use crate::shared::counters::Counters;
use crate::shared::directory::Directory;
use crate::shared::mailbox::{Mailboxes, Parcels};

/// Makes the services of a server.
///
/// [`Server::start`](crate::Server::start) calls [`check`](ServiceFactory::check) and
/// [`plan`](ServiceFactory::plan) once each, on the thread that starts the server. It then makes
/// one service for each worker, on the worker's thread, where the service stays until the worker
/// ends. A service therefore need not be `Clone` or `Send`.
///
/// There are three ways to write a factory:
///
/// * A closure without parameters, for a service that needs nothing to be made.
/// * A [`ServicePlan`], for a service that needs its [`WorkerContext`].
/// * An implementation of this trait, for a service that has to see the server's limits first. The
///   options of the services that come with this crate are such factories.
///
/// ```
/// use echopool::service::{Answer, Connection, Service, ServicePlan};
/// use echopool::{Config, Server};
///
/// /// Counts the bytes of each slot, and throws them away.
/// struct Meter {
///     bytes: Vec<u64>,
/// }
///
/// impl Service for Meter {
///     type Session = ();
///
///     fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
///         connection.input.consume(connection.input.len());
///         Answer::Continue
///     }
/// }
///
/// let config = Config::new().listen("127.0.0.1:0").workers(2).max_connections(100);
/// let meter = ServicePlan::new(|worker| Meter { bytes: vec![0; worker.connections_max()] });
/// let server = Server::start(config, meter.memory_bytes(100 * 8))?;
/// # Ok::<(), echopool::StartError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make services",
    note = "to start a service of type `S`, give a closure that makes it: `|| S`"
)]
pub trait ServiceFactory {
    /// The service that this factory makes.
    type Service: Service;

    /// Checks that the service can work with these limits. Has no side effects.
    ///
    /// # Errors
    /// The service cannot work with them. The server does not start.
    fn check(&self, _limits: &Limits) -> Result<(), SettingError> {
        Ok(())
    }

    /// Makes the service of the datagrams that one thread receives at this listener, a number in the
    /// order of [`Config::listen`](crate::Config::listen). Called for each thread of each listener
    /// over UDP. Default: `None`, the server does not start with such a listener.
    fn datagrams(&self, _listener: usize) -> Option<Box<dyn DatagramService + Send>> {
        None
    }

    /// Returns what the services of a server with these limits need, and how each is made. State
    /// that the services of all workers share is made here.
    fn plan(self, limits: &Limits) -> ServicePlan<Self::Service>;
}

/// The maximum size of a [`Service::Session`], in bytes.
pub const SESSION_BYTES_MAX: usize = 64;

/// Fails to compile if a session has more than [`SESSION_BYTES_MAX`] bytes.
///
/// Everything that uses a service calls this, so `cargo build` fails if a session is too large.
/// `cargo check` does not, because it does not evaluate constants in generic code. A constant
/// beside the service makes it fail too:
///
/// ```
/// # use echopool::service::assert_session_fits;
/// struct MySession([u8; 64]);
///
/// const _: () = assert_session_fits::<MySession>();
/// ```
///
/// ```compile_fail,E0080
/// # use echopool::service::assert_session_fits;
/// struct MySession([u8; 65]);
///
/// const _: () = assert_session_fits::<MySession>();
/// ```
pub const fn assert_session_fits<Session>() {
    assert!(
        size_of::<Session>() <= SESSION_BYTES_MAX,
        "a Session is at most 64 bytes: keep larger state in the service's own tables"
    );
}

/// A closure for a service that needs nothing to be made, as in `Server::start(config, || Echo)`.
impl<F, S> ServiceFactory for F
where
    F: Fn() -> S + Send + Sync + 'static,
    S: Service,
{
    type Service = S;

    fn plan(self, _: &Limits) -> ServicePlan<S> {
        ServicePlan::new(move |_| self())
    }
}

/// How the services of one server are made, and what they need.
pub struct ServicePlan<S> {
    make: Arc<dyn Fn(&WorkerContext) -> S + Send + Sync>,
    memory_bytes: u64,
    references: usize,
}

impl<S: 'static> ServicePlan<S> {
    /// A plan for services that `make` returns. It is called once for each worker, on the worker's
    /// thread, before the worker accepts connections. Services allocate their memory here, because
    /// a worker should not allocate while it serves. If `make` panics, the server does not start.
    pub fn new(make: impl Fn(&WorkerContext) -> S + Send + Sync + 'static) -> ServicePlan<S> {
        ServicePlan { make: Arc::new(make), memory_bytes: 0, references: 0 }
    }

    /// Sets how many bytes each service allocates when it is made, for the [sum of
    /// memory](crate::ServerHandle::memory). Default: 0.
    pub fn memory_bytes(mut self, each: u64) -> ServicePlan<S> {
        self.memory_bytes = each;
        self
    }

    /// Sets how many parts of [shared](crate::buffer::Shared) buffers may be in chains at once, per
    /// worker. Default: 0.
    pub fn references(mut self, each: usize) -> ServicePlan<S> {
        self.references = each;
        self
    }

    /// A plan with the same needs, for services that wrap those of this plan.
    pub fn map<T: 'static>(self, wrap: impl Fn(S) -> T + Send + Sync + 'static) -> ServicePlan<T> {
        let ServicePlan { make, memory_bytes, references } = self;
        ServicePlan { make: Arc::new(move |worker| wrap(make(worker))), memory_bytes, references }
    }

    /// Makes the service of one worker.
    pub(crate) fn make(&self, worker: &WorkerContext) -> S {
        (self.make)(worker)
    }

    /// Bytes that each service allocates.
    pub(crate) fn bytes_each(&self) -> u64 {
        self.memory_bytes
    }

    /// Places for parts of shared buffers in chains that each service needs.
    pub(crate) fn references_each(&self) -> usize {
        self.references
    }
}

impl<S: Service> ServiceFactory for ServicePlan<S> {
    type Service = S;

    fn plan(self, _: &Limits) -> ServicePlan<S> {
        self
    }
}

/// Another handle to the same plan. What the services share is shared across both handles.
impl<S> Clone for ServicePlan<S> {
    fn clone(&self) -> ServicePlan<S> {
        ServicePlan { make: self.make.clone(), ..*self }
    }
}

/// The worker that a service is made for.
#[derive(Clone)]
pub struct WorkerContext {
    pub(crate) listener: usize,
    /// Whether the service serves only that listener.
    pub(crate) of_one_listener: bool,
    pub(crate) worker: usize,
    pub(crate) connections_max: usize,
    pub(crate) pool: Pool,
    pub(crate) counters: Arc<Counters>,
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) directory: Option<Arc<Directory>>,
}

impl WorkerContext {
    /// The number of this worker, from 0.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// How many workers the server has.
    pub fn workers(&self) -> usize {
        self.mailboxes.workers()
    }

    /// The most connections that this worker can have at once. The
    /// [slots](super::ConnectionId) of its connections are below this number.
    pub fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// The size of a buffer in bytes.
    pub fn buffer_size(&self) -> usize {
        self.pool.buffer_size()
    }

    /// The index of the listener that the service is for, if each listener has its own service;
    /// otherwise 0.
    pub fn listener(&self) -> usize {
        self.listener
    }

    /// The only worker of a server, with this pool and number of connections.
    #[cfg(test)]
    pub(crate) fn alone(pool: Pool, connections_max: usize) -> WorkerContext {
        WorkerContext {
            listener: 0,
            of_one_listener: false,
            worker: 0,
            connections_max,
            pool,
            counters: Arc::default(),
            mailboxes: Arc::new(Mailboxes::new(1)),
            directory: None,
        }
    }

    /// The same worker, for the service of one listener.
    pub(crate) fn of_listener(&self, listener: usize) -> WorkerContext {
        WorkerContext { listener, of_one_listener: true, ..self.clone() }
    }

    /// The index of the only listener whose clients the service has; `None` if it has the clients
    /// of all listeners.
    pub fn only_listener(&self) -> Option<usize> {
        self.of_one_listener.then_some(self.listener)
    }

    /// This worker's buffers, for leases that belong to no connection. They stay on its thread.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Sends buffers to the services of the other workers.
    pub fn parcels(&self) -> Parcels {
        Parcels::new(self.listener, &self.pool, &self.mailboxes)
    }

    /// Counts messages that a client did not get because it reads too slowly, in
    /// [`Counts::messages_dropped`](crate::Counts::messages_dropped).
    pub fn count_dropped_messages(&self, count: u64) {
        self.counters.messages_dropped.add(count);
    }

    /// Whether the worker times its turns, and wants to be told what [`Turn::delivers`] tells it.
    ///
    /// [`Turn::delivers`]: super::Turn::delivers
    pub(crate) fn times_turns(&self) -> bool {
        self.counters.times_turns()
    }

    /// All clients of the server; `None` where connections are started and not accepted.
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        self.directory.as_ref()
    }
}
