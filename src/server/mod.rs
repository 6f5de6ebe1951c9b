//! Starting, draining and stopping a server: the threads, and what is said to them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::endpoint::Endpoint;
use crate::base::key::ConnectionId;
use crate::buffer::{Pool, Reserve};
use crate::config::{Config, Limits, MemorySum, Sizes, WORKER_STACK_BYTES};
use crate::engine::sys::{Listening, monotonic_now};
use crate::error::StartError;
use crate::net::bind::{self, Bound};
use crate::service::{Service, ServiceFactory, ServicePlan};
use crate::shared::counters::{Counters, Stats};
use crate::shared::directory::{ClientInfo, Directory};
use crate::shared::mailbox::{Command, Mailboxes};
use crate::shared::permits::Permits;
use crate::shared::receipt::SendError;
use crate::worker::launch::{self, SystemWorker};
use crate::worker::{Rules, Setup};
use messaging::{Broadcast, Clients};

pub mod messaging;

/// A server: workers on threads of their own, each with its own listener for each endpoint.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{Ipv6Addr, SocketAddr, TcpStream};
/// use std::time::Duration;
/// use echopool::{Config, Drained, Server};
/// use echopool::builtin::Echo;
///
/// let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
/// let config = Config::new().listen(anywhere).workers(2).max_connections(100);
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

/// A running server. Dropping it stops the server.
pub struct ServerHandle {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    endpoints: Vec<Endpoint>,
    limits: Limits,
    memory: MemorySum,
}

/// What the handle and the threads share.
struct Shared {
    mailboxes: Arc<Mailboxes>,
    clients: Clients,
    counters: Vec<Arc<Counters>>,
    ended: Mutex<Ended>,
    all_ended: Condvar,
}

/// The workers that have ended.
#[derive(Default)]
struct Ended {
    workers: usize,
    cut: u64,
    failed: bool,
}

/// How a server ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Drained {
    /// Every connection was finished.
    Clean,
    /// The deadline came first, or the server was stopped: this many connections were closed at
    /// once.
    Cut(u64),
    /// A worker ended by itself, because of an error that the log tells; the others were stopped.
    Failed,
}

impl Server {
    /// Starts the workers, and returns when all of them listen. `factory` makes a service for each
    /// worker, on the worker's thread: see [`ServiceFactory`] for the three ways to write one. The
    /// shortest is a closure, as in `Server::start(config, || MyService)`.
    ///
    /// Everything that the server will ever allocate on its workers' threads is allocated here. The
    /// soft limit of open files is raised as far as needed.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left running then.
    pub fn start<F>(config: Config, factory: F) -> Result<ServerHandle, StartError>
    where
        F: ServiceFactory,
    {
        let limits = config.check()?;
        factory.check(&limits).map_err(StartError::Service)?;
        limits.raise_open_files(config.endpoints().len())?;
        let plan = factory.plan(&limits);
        let memory = limits.memory(&sizes(&limits, &plan));
        let bound =
            bind::bind_all(config.endpoints(), limits.workers, limits.backlog, limits.share_port)?;
        let endpoints = bound.iter().map(|one| one.endpoint.clone()).collect();
        let (shared, threads) = start_workers(&limits, bound, plan)?;
        Ok(ServerHandle { shared, threads, endpoints, limits, memory })
    }
}

fn sizes<S: Service>(limits: &Limits, plan: &ServicePlan<S>) -> Sizes {
    let tables = plan.bytes_each() + limits.reference_bytes(plan.references_each());
    Sizes {
        context_bytes: SystemWorker::<S>::BYTES_PER_SLOT,
        slot_bytes: launch::ENGINE_BYTES_PER_SLOT,
        worker_bytes: SystemWorker::<S>::FIXED_BYTES,
        service_bytes: tables * limits.workers as u64,
        directory_bytes: Directory::BYTES_PER_SLOT,
    }
}

/// What every worker is made of.
#[derive(Clone)]
struct Parts {
    limits: Limits,
    reserve: Arc<Reserve>,
    permits: Arc<Permits>,
    shared: Arc<Shared>,
}

fn start_workers<S: Service>(
    limits: &Limits,
    bound: Vec<Bound>,
    plan: ServicePlan<S>,
) -> Result<(Arc<Shared>, Vec<JoinHandle<()>>), StartError> {
    let resource = |what| move |error| StartError::Resource { what, error };
    let workers = limits.workers;
    let mailboxes = Arc::new(Mailboxes::new(workers));
    let reserve = Reserve::new(limits.buffer_size, limits.buffers)
        .map_err(resource("the buffers (ask for fewer: --buffers, --memory)"))?;
    let clients = Clients {
        mailboxes: mailboxes.clone(),
        directory: Directory::new(workers, limits.max_connections as usize),
        reserve: reserve.clone(),
        next: AtomicU64::new(0),
    };
    let parts = Parts {
        limits: limits.clone(),
        reserve,
        permits: Permits::new(u64::from(limits.max_connections), mailboxes.clone()),
        shared: Arc::new(Shared {
            mailboxes,
            clients,
            counters: (0..workers).map(|_| Arc::default()).collect(),
            ended: Mutex::default(),
            all_ended: Condvar::new(),
        }),
    };
    let (ready, readies) = mpsc::channel();
    let mut running =
        Running { shared: parts.shared.clone(), threads: Vec::with_capacity(workers) };
    for (index, listeners) in transpose(bound, workers).into_iter().enumerate() {
        let (parts, plan, ready) = (parts.clone(), plan.clone(), ready.clone());
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .stack_size(WORKER_STACK_BYTES)
            .spawn(move || work(parts, index, listeners, plan, &ready))
            .map_err(resource("a worker thread"))?;
        running.threads.push(thread);
    }
    drop(ready);
    for _ in 0..workers {
        // A worker that panics on its way drops its end without a word.
        let gone = || Err(io::Error::other("a worker ended before it was ready"));
        readies.recv().unwrap_or_else(|_| gone()).map_err(resource("a worker"))?;
    }
    Ok((parts.shared, std::mem::take(&mut running.threads)))
}

/// Stops what has been started if the start is given up half-way.
struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.shared.tell_all(|| Command::Stop);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// From the sockets of each endpoint to those of each worker.
fn transpose(bound: Vec<Bound>, workers: usize) -> Vec<Vec<Listening<OwnedFd>>> {
    let mut of_worker: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for one in bound {
        for (sockets, socket) in of_worker.iter_mut().zip(one.into_listening()) {
            sockets.push(socket);
        }
    }
    of_worker
}

/// The life of a worker's thread.
fn work<S: Service>(
    parts: Parts,
    index: usize,
    listeners: Vec<Listening<OwnedFd>>,
    plan: ServicePlan<S>,
    ready: &mpsc::Sender<io::Result<()>>,
) {
    let shared = parts.shared.clone();
    let mut end = End { shared: &shared, cut: 0, failed: true };
    // Made on its own thread, because nothing of a worker may leave it.
    match make_worker(parts, index, listeners, plan) {
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

fn make_worker<S: Service>(
    parts: Parts,
    index: usize,
    listeners: Vec<Listening<OwnedFd>>,
    plan: ServicePlan<S>,
) -> io::Result<SystemWorker<S>> {
    let Parts { limits, reserve, permits, shared } = parts;
    let connections_max = limits.max_connections as usize;
    let references = plan.references_each();
    let pool = Pool::try_with_references(reserve, index, references).map_err(lists_refused)?;
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
    launch::make_worker(setup, listeners, limits.busy_poll, |worker| plan.make(worker))
}

/// What to ask for instead where there is no memory for a worker's lists of buffers.
fn lists_refused(error: io::Error) -> io::Error {
    let remedy = "ask for fewer connections (--max-connections), for fewer buffers (--buffers) or, \
                  with a hub, for shorter queues (--queue)";
    io::Error::new(error.kind(), format!("{error}: {remedy}"))
}

/// Reports the end of a worker, also of one that panics.
struct End<'a> {
    shared: &'a Shared,
    cut: u64,
    failed: bool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if self.failed {
            // A server with a worker less would leave the clients of its listener waiting.
            self.shared.tell_all(|| Command::Stop);
        }
        let mut ended = self.shared.ended();
        ended.workers += 1;
        ended.cut += self.cut;
        ended.failed |= self.failed;
        drop(ended);
        self.shared.all_ended.notify_all();
    }
}

impl Shared {
    fn ended(&self) -> MutexGuard<'_, Ended> {
        // It is only counted in there: a thread that panicked has left it whole.
        self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in 0..self.counters.len() {
            let mut command = command();
            // An inbox that is full is being emptied, unless its worker has ended.
            while let Err(back) = self.mailboxes.send(worker, command) {
                if self.ended().workers == self.counters.len() {
                    return;
                }
                command = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl ServerHandle {
    /// Where the server listens, with the real ports, in the order of
    /// [`Config::listen`](crate::Config::listen).
    pub fn local_endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The limits, with what was derived from the machine.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the server's memory comes to.
    pub fn memory(&self) -> &MemorySum {
        &self.memory
    }

    /// The counters now. Also after the end.
    pub fn stats(&self) -> Stats {
        Stats::read(self.shared.counters.iter().map(|counters| &**counters))
    }

    /// The clients that are connected now, those of all listeners.
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.shared.clients.directory.list()
    }

    /// Sends `bytes`, at most as many as a buffer holds, to one client, and comes back when they
    /// are queued behind what it is sent already: as they are, or as a message of the listener's
    /// service where that has messages. It waits for the client's worker, so it is not for the
    /// calls of a service.
    ///
    /// # Errors
    /// The client is gone; too much is queued for it already; the message is too long.
    ///
    /// ```
    /// use std::io::Read;
    /// use std::net::{Ipv6Addr, SocketAddr, TcpStream};
    /// use echopool::{Config, SendError, Server};
    /// use echopool::builtin::Echo;
    ///
    /// let config = Config::new().listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
    /// let server = Server::start(config.workers(2).max_connections(10), Echo)?;
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
        self.shared.clients.send_to(id, bytes, || self.has_ended())
    }

    /// Sends `bytes` to all clients, as [`send_to`](ServerHandle::send_to) does to one, and says
    /// how many get them.
    ///
    /// # Errors
    /// The message is too long, or the workers have no room for it: nobody gets it then.
    pub fn broadcast(&self, bytes: &[u8]) -> Result<Broadcast, SendError> {
        self.shared.clients.broadcast(bytes, || self.has_ended())
    }

    /// Closes a client's connection when what is queued for it is sent.
    ///
    /// # Errors
    /// The client is gone already; or its worker has too much to do: try again.
    pub fn disconnect(&self, id: ConnectionId) -> Result<(), SendError> {
        self.shared.clients.disconnect(id, || self.has_ended())
    }

    fn has_ended(&self) -> bool {
        self.shared.ended().workers == self.shared.counters.len()
    }

    /// Begins a drain and comes back at once: accept what waits, close the listeners, send what has
    /// been read and then FIN on each connection, and read on until the client's FIN or for
    /// [`Config::linger`](crate::Config::linger). What is left after `deadline` is closed at once.
    ///
    /// What a client has got back then is an exact prefix of what it sent, and every byte that was
    /// read before the drain is part of it.
    pub fn begin_drain(&self, deadline: Duration) {
        let deadline = monotonic_now() + deadline;
        self.shared.tell_all(|| Command::Drain { deadline });
    }

    /// Drains, and waits for the end.
    pub fn drain(&self, deadline: Duration) -> Drained {
        self.begin_drain(deadline);
        self.wait()
    }

    /// Closes everything at once, and waits for the end.
    pub fn stop(&self) -> Drained {
        self.shared.tell_all(|| Command::Stop);
        self.wait()
    }

    /// Waits until the server has ended, by a drain or stop begun elsewhere.
    pub fn wait(&self) -> Drained {
        let workers = self.shared.counters.len();
        let running = |ended: &mut Ended| ended.workers < workers;
        let ended = self.shared.ended();
        let ended = self
            .shared
            .all_ended
            .wait_while(ended, running)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match *ended {
            Ended { failed: true, .. } => Drained::Failed,
            Ended { cut: 0, .. } => Drained::Clean,
            Ended { cut, .. } => Drained::Cut(cut),
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
