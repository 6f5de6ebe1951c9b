//! Starts, drains and stops a server: its threads, and the commands to them.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, ptr};

use crate::base::endpoint::Endpoint;
#[cfg(feature = "daemon")]
use crate::base::endpoint::Peer;
use crate::base::key::ConnectionId;
use crate::buffer::{Pool, Reserve, room};
use crate::config::{Config, Limits, MemorySum, Sizes, WORKER_STACK_BYTES};
use crate::engine::sys::{Listening, monotonic_now};
use crate::error::StartError;
use crate::net::bind::{self, Bound, Offer};
use crate::service::{Service, ServiceFactory, ServicePlan, assert_session_fits};
use crate::shared::addresses::Addresses;
use crate::shared::counters::{Counters, Stats};
use crate::shared::directory::{ClientInfo, Directory};
#[cfg(feature = "daemon")]
use crate::shared::mailbox::WorkerCommand;
use crate::shared::mailbox::{EndOrder, Mailboxes, WorkerTimes};
#[cfg(feature = "daemon")]
use crate::shared::moved::{self, Moved, Successor};
#[cfg(feature = "daemon")]
use crate::shared::permits::Permit;
use crate::shared::permits::Permits;
use crate::shared::receipt::SendError;
#[cfg(feature = "tls")]
use crate::tls::{TlsError, server::Acceptor};
use crate::worker::launch::{self, SystemWorker};
use crate::worker::layer::{ByListener, Layer, Plain};
use crate::worker::{Rules, Setup};
use datagrams::{DatagramThreads, Datagrams};
use listening::Places;
#[cfg(feature = "daemon")]
pub(crate) use listening::{Patience, Prepared};
use messaging::{Broadcast, ClientAccess};

mod datagrams;
mod listening;
pub mod messaging;
#[cfg(feature = "admin")]
pub(crate) mod view;

/// A server: workers on their own threads, each with its own listener for each endpoint.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::TcpStream;
/// use std::time::Duration;
/// use echopool::{Config, Drained, Server};
/// use echopool::builtin::Echo;
///
/// let config = Config::new().listen("127.0.0.1:0").workers(2).max_connections(100);
/// let server = Server::start(config, Echo)?;
///
/// let address = server.local_endpoints()[0].socket_addr().unwrap();
/// let mut client = TcpStream::connect(address)?;
/// client.write_all(b"hello")?;
/// let mut reply = [0; 5];
/// client.read_exact(&mut reply)?;
/// assert_eq!(&reply, b"hello");
/// drop(client);
///
/// assert_eq!(server.drain(Duration::from_secs(10)), Drained::Clean);
/// assert_eq!(server.stats().total().bytes_sent, 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server;

/// A running server. Dropping it stops the server and waits until it has ended.
///
/// It can be used from any thread, including by the server's own services. On a worker's thread,
/// calls that would wait for a worker return [`SendError::OnWorkerThread`] or
/// [`Drained::OnWorkerThread`].
pub struct ServerHandle {
    shared: Arc<ServerState>,
    threads: Vec<JoinHandle<()>>,
    endpoints: Vec<Endpoint>,
    /// The most connections that the memory is for.
    connections_max: u32,
    memory: MemorySum,
    /// The listeners with TLS, by their numbers.
    #[cfg(feature = "tls")]
    acceptors: Vec<(usize, Arc<Acceptor>)>,
}

/// What the handle and the worker threads share.
struct ServerState {
    mailboxes: Arc<Mailboxes>,
    clients: ClientAccess,
    counters: Vec<Arc<Counters>>,
    permits: Arc<Permits>,
    datagrams: DatagramThreads,
    /// The listening sockets, for a process that takes them over. Empty once the server ends, so that
    /// they are closed then.
    offers: Mutex<Vec<Offer>>,
    /// Where the listeners are.
    #[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin address"))]
    places: Places,
    /// The current limits.
    limits: Mutex<Limits>,
    ended: Mutex<Ended>,
    all_ended: Condvar,
}

/// The threads that have ended.
#[derive(Default)]
struct Ended {
    threads: usize,
    cut: u64,
    failed: bool,
}

/// How a server ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Drained {
    /// Every connection was finished: all of its output was sent, unless the client itself reset
    /// the connection.
    Clean,
    /// This many connections were cut. The deadline passed or the server was stopped, which closed
    /// them at once; or they were shed during the drain, or lost output for another reason, such as
    /// the send time-out. [`Counts::closed`](crate::Counts::closed) has the reasons.
    Cut(u64),
    /// A worker ended because of an error, which is in the log. The others were stopped.
    Failed,
    /// The server has not ended. The call was made on one of its worker threads, which cannot wait
    /// for their own end. The drain or stop has begun nevertheless.
    OnWorkerThread,
}

thread_local! {
    /// The data that the worker on this thread shares with its server; null on other threads.
    static WORKER_OF: Cell<*const ServerState> = const { Cell::new(ptr::null()) };
}

impl Server {
    /// Starts the workers, and returns when all of them listen. `factory` makes a service for each
    /// worker, on the worker's thread. [`ServiceFactory`] describes the three ways to write one.
    /// The shortest is a closure, as in `Server::start(config, || MyService)`.
    ///
    /// All memory that the server will ever use on its workers' threads is allocated here. The soft
    /// limit of open files is raised as far as needed.
    ///
    /// # Errors
    /// See [`StartError`]. After an error nothing is left running.
    pub fn start<F>(config: Config, factory: F) -> Result<ServerHandle, StartError>
    where
        F: ServiceFactory,
    {
        match ByListener::of(&config)? {
            None => Server::start_with(config, factory, Plain),
            #[cfg(feature = "tls")]
            Some(layers) => {
                let acceptors: Vec<_> =
                    layers.acceptors().map(|(at, acceptor)| (at, acceptor.clone())).collect();
                let mut server = Server::start_with(config, factory, layers)?;
                server.acceptors = acceptors;
                Ok(server)
            }
            #[cfg(not(feature = "tls"))]
            Some(layers) => Server::start_with(config, factory, layers),
        }
    }

    /// Starts workers with this byte layer. Each gets a clone.
    fn start_with<F, L>(config: Config, factory: F, layer: L) -> Result<ServerHandle, StartError>
    where
        F: ServiceFactory,
        L: Layer + Clone + Send,
    {
        let Planned { limits, plan, datagrams, sizes, memory } =
            Planned::new(&config, factory, &layer)?;
        limits.raise_open_files(config.listen.len())?;
        let datagrams = datagrams.bind(&config, &limits)?;
        let bound = bind::bind_names(
            &config.listen,
            &config.names,
            limits.workers,
            limits.backlog,
            limits.share_port,
        )?;
        let endpoints = endpoints(&config, &bound, &datagrams);
        let offers = offers(&config, &bound, &datagrams)?;
        let mailboxes = Arc::new(Mailboxes::new(limits.workers));
        if config.starts_stopped {
            (0..config.listen.len()).for_each(|number| mailboxes.set_accepting(number, false));
        }
        let sockets = (bound, datagrams, offers, Places::new(&endpoints));
        let started = start_workers(&limits, &sizes, sockets, mailboxes, plan, layer);
        let (shared, threads) = started.map_err(|error| with_sum(error, &memory))?;
        if !config.starts_stopped {
            shared.datagrams.stopper.begin();
        }
        let connections_max = limits.max_connections;
        Ok(ServerHandle {
            shared,
            threads,
            endpoints,
            connections_max,
            memory,
            #[cfg(feature = "tls")]
            acceptors: Vec::new(),
        })
    }

    /// The limits and the memory of a server that [`start`](Server::start) would start. Checks
    /// everything that can be checked without opening, binding or allocating anything.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn check<F>(config: &Config, factory: F) -> Result<(Limits, MemorySum), StartError>
    where
        F: ServiceFactory,
    {
        let planned = match ByListener::of(config)? {
            None => Planned::new(config, factory, &Plain),
            Some(layers) => Planned::new(config, factory, &layers),
        }?;
        Ok((planned.limits, planned.memory))
    }
}

/// What a server will be made of.
struct Planned<S: Service> {
    limits: Limits,
    plan: ServicePlan<S>,
    datagrams: Datagrams,
    sizes: Sizes,
    memory: MemorySum,
}

impl<S: Service> Planned<S> {
    fn new<F: ServiceFactory<Service = S>, L: Layer>(
        config: &Config,
        factory: F,
        layer: &L,
    ) -> Result<Planned<S>, StartError> {
        const { assert_session_fits::<S::Session>() };
        let limits = config.check()?;
        factory.check(&limits).map_err(StartError::Service)?;
        let datagrams = Datagrams::new(config, &limits, &factory)?;
        let plan = factory.plan(&limits);
        let mut sizes = sizes(&limits, &plan, layer);
        datagrams.add_to(&mut sizes);
        let memory = limits.memory(&sizes);
        Ok(Planned { limits, plan, datagrams, sizes, memory })
    }
}

fn sizes<S: Service, L: Layer>(limits: &Limits, plan: &ServicePlan<S>, layer: &L) -> Sizes {
    let tables = plan.bytes_each() + limits.reference_bytes(plan.references_each());
    Sizes {
        context_bytes: SystemWorker::<S, L>::BYTES_PER_SLOT,
        slot_bytes: launch::ENGINE_BYTES_PER_SLOT,
        worker_bytes: SystemWorker::<S, L>::FIXED_BYTES,
        service_bytes: tables * limits.workers as u64,
        directory_bytes: Directory::BYTES_PER_SLOT,
        address_bytes: match limits.max_connections_per_address {
            Some(_) => Addresses::bytes(limits.max_connections),
            None => 0,
        },
        session_bytes: layer.bytes_each(),
        ..Sizes::default()
    }
}

/// Where a server listens, in the order of its configuration.
fn endpoints(config: &Config, bound: &[Bound], datagrams: &Datagrams) -> Vec<Endpoint> {
    let mut bound = bound.iter().map(|one| one.endpoint);
    let mut datagrams = datagrams.endpoints();
    let next = |on: &bind::ListenOn| match on.endpoint.is_datagram() {
        true => datagrams.next(),
        false => bound.next(),
    };
    config.listen.iter().filter_map(next).collect()
}

/// The listening sockets for a process that takes them over, if there may be one.
fn offers(
    config: &Config,
    bound: &[Bound],
    datagrams: &Datagrams,
) -> Result<Vec<Offer>, StartError> {
    if !config.is_replaceable {
        return Ok(Vec::new());
    }
    let offer = |one: &Bound| one.offer(config.listen[one.number()].endpoint).transpose();
    let streams = bound.iter().filter_map(offer);
    let offers = streams.chain(datagrams.offers(&config.listen).map(Ok)).collect::<io::Result<_>>();
    offers.map_err(|error| StartError::Resource { what: "copies of the listening sockets", error })
}

/// The parts of every worker.
#[derive(Clone)]
struct Parts {
    limits: Limits,
    reserve: Arc<Reserve>,
    permits: Arc<Permits>,
    shared: Arc<ServerState>,
}

/// Adds the sum of the memory to the error if the system refused some of it.
fn with_sum(error: StartError, memory: &MemorySum) -> StartError {
    match error {
        StartError::Resource { error, .. } if error.kind() == io::ErrorKind::OutOfMemory => {
            let (needed, parts) = (memory.total(), memory.in_a_line());
            StartError::Memory { needed, parts, error }
        }
        other => other,
    }
}

fn start_workers<S: Service, L: Layer + Clone + Send>(
    limits: &Limits,
    sizes: &Sizes,
    (bound, datagrams, offers, places): (Vec<Bound>, Datagrams, Vec<Offer>, Places),
    mailboxes: Arc<Mailboxes>,
    plan: ServicePlan<S>,
    layer: L,
) -> Result<(Arc<ServerState>, Vec<JoinHandle<()>>), StartError> {
    let resource = |what| move |error| StartError::Resource { what, error };
    let workers = limits.workers;
    let reserve =
        Reserve::new(limits.buffer_size, limits.buffers).map_err(resource("the buffers"))?;
    room::check(limits.shared_tables_bytes(sizes))
        .map_err(resource("the tables that the workers share"))?;
    let clients = ClientAccess {
        mailboxes: mailboxes.clone(),
        directory: Directory::new(workers, limits.max_connections as usize),
        reserve: reserve.clone(),
        next: AtomicU64::new(0),
    };
    let connections_max = limits.max_connections;
    let addresses = limits
        .max_connections_per_address
        .map(|most| Addresses::new(most, connections_max))
        .transpose()
        .map_err(resource("the counts of addresses"))?;
    let permits = Permits::with_addresses(connections_max.into(), mailboxes.clone(), addresses);
    let parts = Parts {
        limits: limits.clone(),
        reserve,
        permits: permits.clone(),
        shared: Arc::new(ServerState {
            mailboxes,
            clients,
            counters: (0..workers).map(|_| Arc::default()).collect(),
            permits,
            datagrams: datagrams.threads(),
            offers: Mutex::new(offers),
            places,
            limits: Mutex::new(limits.clone()),
            ended: Mutex::default(),
            all_ended: Condvar::new(),
        }),
    };
    let mut running =
        Running { shared: parts.shared.clone(), threads: Vec::with_capacity(workers) };
    for (index, listeners) in transpose(bound, workers).into_iter().enumerate() {
        let (parts, plan, layer) = (parts.clone(), plan.clone(), layer.clone());
        let (ready, readies) = mpsc::channel();
        // Beside the stack, the thread needs one for signals.
        room::check(WORKER_STACK_BYTES as u64).map_err(resource("a worker's stack"))?;
        let thread = thread::Builder::new()
            .name(format!("worker-{index}"))
            .stack_size(WORKER_STACK_BYTES)
            .spawn(move || work(parts, index, listeners, plan, layer, &ready))
            .map_err(resource("a worker thread"))?;
        running.threads.push(thread);
        // One after the other, so that none takes the memory that another has just checked. A
        // worker that panics while starting drops its sender.
        let gone = || Err(io::Error::other("a worker ended before it was ready"));
        readies.recv().unwrap_or_else(|_| gone()).map_err(resource("a worker"))?;
    }
    let started = datagrams.start(limits, sizes, &mut running);
    started.map_err(resource("the threads for datagrams"))?;
    Ok((parts.shared, std::mem::take(&mut running.threads)))
}

/// Stops what has been started if the start fails halfway.
struct Running {
    shared: Arc<ServerState>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.shared.order_end(EndOrder::Stop);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Converts the sockets per endpoint into sockets per worker. If there are more sockets than workers,
/// some workers have several of an endpoint.
fn transpose(bound: Vec<Bound>, workers: usize) -> Vec<Vec<Listening<OwnedFd>>> {
    let mut of_worker: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for one in bound {
        for (at, socket) in one.into_listening().enumerate() {
            of_worker[at % workers].push(socket);
        }
    }
    of_worker
}

/// Runs a worker on its thread, from start to end.
fn work<S: Service, L: Layer>(
    parts: Parts,
    index: usize,
    listeners: Vec<Listening<OwnedFd>>,
    plan: ServicePlan<S>,
    layer: L,
    ready: &mpsc::Sender<io::Result<()>>,
) {
    let shared = parts.shared.clone();
    WORKER_OF.set(Arc::as_ptr(&shared));
    let mut end = ThreadEnd { shared: &shared, worker: Some(index), cut: 0, failed: true };
    // Made on the worker's own thread, because nothing of a worker may leave it.
    match make_worker(parts, index, listeners, plan, layer) {
        Ok(worker) => {
            let _ = ready.send(Ok(()));
            match worker.run(drop) {
                Ok((_, cut)) => (end.cut, end.failed) = (cut, false),
                Err(error) => log::error!("worker {index} cannot wait for events: {error}"),
            }
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    }
}

fn make_worker<S: Service, L: Layer>(
    parts: Parts,
    index: usize,
    listeners: Vec<Listening<OwnedFd>>,
    plan: ServicePlan<S>,
    layer: L,
) -> io::Result<SystemWorker<S, L>> {
    let Parts { limits, reserve, permits, shared } = parts;
    let connections_max = limits.max_connections as usize;
    let pool = Pool::try_with_references(reserve, index, plan.references_each())?;
    let setup = Setup {
        index,
        connections_max,
        listeners: listeners.len(),
        rules: Rules::of(&limits),
        pool,
        permits: Some(permits),
        mailboxes: shared.mailboxes.clone(),
        counters: shared.counters[index].clone(),
        directory: Some(shared.clients.directory.clone()),
    };
    let service_bytes = plan.bytes_each();
    let busy_poll = limits.busy_poll;
    launch::make_worker(setup, listeners, busy_poll, service_bytes, |on| plan.make(on), layer)
}

/// Reports the end of a thread, even of one that panics.
struct ThreadEnd<'a> {
    shared: &'a Arc<ServerState>,
    /// The number of the worker, if it is one.
    worker: Option<usize>,
    cut: u64,
    failed: bool,
}

impl Drop for ThreadEnd<'_> {
    fn drop(&mut self) {
        if self.failed {
            if let Some(worker) = self.worker {
                // No thread empties this inbox any more.
                self.shared.mailboxes.close(worker);
            }
            // With a worker missing, the clients of its listener would wait for ever.
            self.shared.order_end(EndOrder::Stop);
        }
        let mut ended = self.shared.ended();
        ended.threads += 1;
        ended.cut += self.cut;
        ended.failed |= self.failed;
        drop(ended);
        self.shared.all_ended.notify_all();
    }
}

impl ServerState {
    fn ended(&self) -> MutexGuard<'_, Ended> {
        // The lock only guards counts, which are valid even after a panic.
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        // Each change of the limits is a single assignment.
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offers(&self) -> MutexGuard<'_, Vec<Offer>> {
        // Each change is a single call.
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats::read(self.counters.iter().map(|counters| &**counters));
        for (worker, counters) in &self.datagrams.counters {
            stats.add(*worker, counters);
        }
        stats
    }

    fn has_ended(&self) -> bool {
        self.ended().threads == self.threads()
    }

    /// How many clients of a listener are connected now.
    #[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin address"))]
    fn clients_of(&self, listener: usize) -> u64 {
        let directory = &self.clients.directory;
        let workers = 0..self.counters.len();
        workers.map(|worker| directory.count(worker, Some(listener))).sum()
    }

    /// How many threads the server has.
    fn threads(&self) -> usize {
        self.counters.len() + self.datagrams.counters.len()
    }

    /// Whether the caller is one of the workers.
    fn is_on_worker_thread(&self) -> bool {
        ptr::eq(WORKER_OF.get(), self)
    }

    fn wait(&self) -> Drained {
        if self.is_on_worker_thread() {
            return Drained::OnWorkerThread;
        }
        let threads = self.threads();
        let running = |ended: &mut Ended| ended.threads < threads;
        let ended = self.all_ended.wait_while(self.ended(), running);
        match *ended.unwrap_or_else(PoisonError::into_inner) {
            Ended { failed: true, .. } => Drained::Failed,
            Ended { cut: 0, .. } => Drained::Clean,
            Ended { cut, .. } => Drained::Cut(cut),
        }
    }

    /// Orders each worker to end, without waiting. No more datagrams are received.
    fn order_end(&self, order: EndOrder) {
        self.offers().clear();
        self.datagrams.stopper.stop();
        (0..self.counters.len()).for_each(|worker| self.mailboxes.order_end(worker, order));
        // Of a listener that was added meanwhile.
        self.offers().clear();
    }
}

/// Continues connections of another process. It does not keep the server running.
#[cfg(feature = "daemon")]
#[derive(Clone)]
pub(crate) struct Taker(Arc<ServerState>);

#[cfg(feature = "daemon")]
impl Taker {
    /// A place for a connection of this peer, if there is one.
    pub(crate) fn place(&self, peer: Peer) -> Option<Permit> {
        moved::place(&self.0.mailboxes, &self.0.permits, peer)
    }

    /// Continues a connection, on the worker with this number or, if there are fewer, another one.
    pub(crate) fn go_on_with(&self, worker: usize, moved: Moved) {
        let worker = worker % self.0.counters.len();
        let mut command = WorkerCommand::GoOnWith(Box::new(moved));
        while let Err(full) = self.0.mailboxes.send(worker, command) {
            command = full;
            thread::sleep(Duration::from_micros(200));
        }
    }
}

impl ServerHandle {
    /// The endpoints that the server was started with, with the actual ports, in the order of
    /// [`Config::listen`](crate::Config::listen).
    pub fn local_endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The current limits, including those derived from the machine.
    pub fn limits(&self) -> Limits {
        self.shared.limits().clone()
    }

    /// The most connections that [`reconfigure`](ServerHandle::reconfigure) can allow: as many as
    /// at start, when the memory for them was allocated.
    pub fn connections_max(&self) -> u32 {
        self.connections_max
    }

    /// Changes the limits of connections and the time-outs of the running server to those of
    /// `config`: [`max_connections`](Config::max_connections) (if it is set),
    /// [`max_connections_per_address`](Config::max_connections_per_address),
    /// [`idle_timeout`](Config::idle_timeout), [`send_timeout`](Config::send_timeout),
    /// [`shed_after`](Config::shed_after) and [`linger`](Config::linger). Does not look at other
    /// settings.
    ///
    /// Connections above a lower limit stay. A time-out also applies to the connections that there
    /// are, `linger` to those that are closed from now on.
    ///
    /// # Errors
    /// A value is out of its range, `max_connections` is above
    /// [`connections_max`](ServerHandle::connections_max), or there is a limit per address and was
    /// none at start. Then nothing is changed.
    ///
    /// ```
    /// use std::net::{Ipv6Addr, SocketAddr};
    /// use std::time::Duration;
    /// use echopool::{Config, Server, builtin::Echo};
    ///
    /// let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    /// let server = Server::start(Config::new().listen(anywhere).max_connections(100), Echo)?;
    /// let minute = Some(Duration::from_secs(60));
    /// server.reconfigure(&Config::new().max_connections(10).idle_timeout(minute))?;
    /// assert_eq!(server.limits().max_connections, 10);
    /// assert!(server.reconfigure(&Config::new().max_connections(101)).is_err());
    /// # Ok::<(), echopool::StartError>(())
    /// ```
    pub fn reconfigure(&self, config: &Config) -> Result<(), StartError> {
        let mut limits = self.shared.limits();
        let changed = config.change(&limits, self.connections_max)?;
        let permits = &self.shared.permits;
        if !permits.set_limit_per_address(changed.max_connections_per_address) {
            return Err(StartError::Fixed { field: "max_connections_per_address" });
        }
        permits.set_limit(changed.max_connections.into());
        self.shared.mailboxes.set_times(WorkerTimes {
            idle_timeout: changed.idle_timeout,
            send_timeout: changed.send_timeout,
            shed_after: changed.shed_after,
            linger: changed.linger,
        });
        *limits = changed;
        Ok(())
    }

    /// The sum of the server's memory.
    pub fn memory(&self) -> &MemorySum {
        &self.memory
    }

    /// Reads the certificates and keys of the listeners with TLS again. Connections that are
    /// accepted from now on use them; the others are unchanged. Returns the result for each of
    /// these listeners that has not been removed. One whose files cannot be used keeps what it has.
    #[cfg(feature = "tls")]
    pub fn reload_certificates(&self) -> Vec<(Endpoint, Result<(), TlsError>)> {
        let is_open = |(at, _): &&(usize, Arc<Acceptor>)| self.shared.places.is_open(*at);
        let reload =
            |(at, acceptor): &(usize, Arc<Acceptor>)| (self.endpoints[*at], acceptor.reload());
        self.acceptors.iter().filter(is_open).map(reload).collect()
    }

    /// The current counters. Can also be called after the end.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// The clients that are connected now, of all listeners.
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.shared.clients.directory.list()
    }

    /// Sends `bytes`, at most the size of a buffer, to one client. Returns when they are queued
    /// after its pending output. They are sent unchanged, or as a message if the
    /// listener's service has messages. This waits for the client's worker, so a service cannot
    /// call it.
    ///
    /// # Errors
    /// The client is gone; too much is queued for it; the message is too long; or the caller is a
    /// worker of this server.
    ///
    /// ```
    /// use std::io::Read;
    /// use std::net::TcpStream;
    /// use echopool::{Config, SendError, Server};
    /// use echopool::builtin::Echo;
    ///
    /// let config = Config::new().listen("127.0.0.1:0").workers(2).max_connections(10);
    /// let server = Server::start(config, Echo)?;
    /// let mut client = TcpStream::connect(server.local_endpoints()[0].socket_addr().unwrap())?;
    ///
    /// # while server.clients().is_empty() { std::thread::yield_now() }
    /// let id = server.clients()[0].id;
    /// server.send_to(id, b"hello")?;
    /// let mut text = [0; 5];
    /// client.read_exact(&mut text)?;
    /// assert_eq!(&text, b"hello");
    ///
    /// server.disconnect(id)?;
    /// assert_eq!(client.read(&mut text)?, 0, "the connection is closed in order");
    /// # drop(client);
    /// # while !server.clients().is_empty() { std::thread::yield_now() }
    /// assert_eq!(server.send_to(id, b"too late"), Err(SendError::Gone));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_to(&self, id: ConnectionId, bytes: &[u8]) -> Result<(), SendError> {
        self.may_wait()?;
        self.shared.clients.send_to(id, bytes, || self.shared.has_ended())
    }

    /// Sends `bytes` to all clients, as [`send_to`](ServerHandle::send_to) does to one. Returns how
    /// many get them.
    ///
    /// # Errors
    /// The message is too long; the workers have no room for it; or the caller is a worker of this
    /// server. In each case no client gets the message.
    pub fn broadcast(&self, bytes: &[u8]) -> Result<Broadcast, SendError> {
        self.may_wait()?;
        self.shared.clients.broadcast(bytes, || self.shared.has_ended())
    }

    /// Closes a client's connection once the output queued for it is sent.
    ///
    /// # Errors
    /// The client is gone; its worker is too busy, so try again; or the caller is a worker of this
    /// server.
    pub fn disconnect(&self, id: ConnectionId) -> Result<(), SendError> {
        self.may_wait()?;
        self.shared.clients.disconnect(id, || self.shared.has_ended())
    }

    /// Fails on a worker's thread, which would wait for itself.
    fn may_wait(&self) -> Result<(), SendError> {
        match self.shared.is_on_worker_thread() {
            true => Err(SendError::OnWorkerThread),
            false => Ok(()),
        }
    }

    /// The listening sockets, for a process that takes them over. Empty unless the configuration says
    /// that there may be one, and once the server ends.
    #[cfg(feature = "daemon")]
    pub(crate) fn offers(&self) -> Vec<Offer> {
        self.shared.offers().clone()
    }

    /// Leaves the listeners to another process that has taken over those of `taken`, and ends when
    /// the connections have ended. First accepts what waits at the other listeners, and then offers
    /// the connections to the successors, one for each worker. Waits until no more datagrams are
    /// received, which takes milliseconds.
    #[cfg(feature = "daemon")]
    pub(crate) fn retire(&self, taken: &[Offer], successors: Vec<Box<dyn Successor>>) {
        taken.iter().for_each(Offer::is_taken);
        self.shared.offers().clear();
        self.shared.datagrams.stopper.leave();
        self.shared.mailboxes.retire(successors);
    }

    /// Continues connections of another process.
    #[cfg(feature = "daemon")]
    pub(crate) fn taker(&self) -> Taker {
        Taker(self.shared.clone())
    }

    /// Whether another process has taken over.
    #[cfg(feature = "daemon")]
    pub(crate) fn is_retired(&self) -> bool {
        self.shared.mailboxes.retires()
    }

    /// The listeners that were told to stop accepting, by their numbers.
    #[cfg(feature = "daemon")]
    pub(crate) fn stopped(&self) -> Vec<usize> {
        self.shared.mailboxes.stopped().iter().copied().collect()
    }

    /// Starts each listener of a server that was started without accepting, except these. Datagrams are
    /// received from now on.
    #[cfg(feature = "daemon")]
    pub(crate) fn begin_accepting(&self, except: &[usize]) {
        let all = 0..self.endpoints.len();
        let started = all.filter(|number| !except.contains(number));
        started.for_each(|number| self.shared.mailboxes.set_accepting(number, true));
        self.shared.datagrams.stopper.begin();
    }

    /// Begins a drain and returns at once. No more datagrams are received. The server accepts the
    /// connections that wait, closes the listeners, sends what it has read and then FIN on each
    /// connection, and continues to read until the client's FIN, at most for
    /// [`Config::linger`](crate::Config::linger). Connections that are left after `deadline` are
    /// closed at once.
    ///
    /// The bytes that a client has received back by then are an exact prefix of those that it sent,
    /// and include every byte that was read before the drain.
    pub fn begin_drain(&self, deadline: Duration) {
        let deadline = monotonic_now() + deadline;
        self.shared.order_end(EndOrder::Drain { deadline });
    }

    /// Drains, and waits until the server has ended. A service uses
    /// [`begin_drain`](ServerHandle::begin_drain) instead, because its worker cannot wait for
    /// itself.
    pub fn drain(&self, deadline: Duration) -> Drained {
        self.begin_drain(deadline);
        self.wait()
    }

    /// Closes everything at once, and waits until the server has ended unless the caller is one of
    /// its workers.
    pub fn stop(&self) -> Drained {
        self.shared.order_end(EndOrder::Stop);
        self.wait()
    }

    /// Waits until the server has ended after a drain or stop that began elsewhere. Returns
    /// [`Drained::OnWorkerThread`] at once if the caller is a worker of this server.
    pub fn wait(&self) -> Drained {
        self.shared.wait()
    }
}

/// Stops the server and waits for its threads, except on one of these threads.
impl Drop for ServerHandle {
    fn drop(&mut self) {
        if self.stop() == Drained::OnWorkerThread {
            return;
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
