//! The admin address: what a server does, over HTTP, for monitoring and for people, and what they may
//! change.
//!
//! It has a thread of its own. That thread reads the counters that the workers write anyway, and asks
//! the workers for the rest through their inboxes. No worker ever waits for it. What waits for a
//! worker runs on a further thread, which ends when it has nothing to do.
//!
//! * `http`: the connections, and their limits.
//! * `pages`: which path has which page.
//! * `metrics`: the page for Prometheus.
//! * `api`, `status`, `clients`: the same and more as JSON.
//! * `page`: the page at `/`, for people; `uplot` draws its charts.
//! * `control`: what changes something; `access`: who may do that.
//! * `health`: whether the workers' loops turn, and whether new clients are welcome.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use tokio::runtime;
use tokio::sync::{oneshot, watch};

use crate::base::endpoint::{Endpoint, Transport};
use crate::buffer::room;
use crate::builtin::url::Spec;
use crate::error::StartError;
use crate::net::bind::{self, Bound, ListenOn, Listening, Offer, SocketFile};
use crate::server::ServerHandle;
use crate::server::view::View;
use health::LastLook;
use http::{AdminPhase, AdminSocket};

pub use access::{Token, TokenError};
pub use control::Operations;
use control::Turns;

mod access;
mod api;
mod clients;
mod control;
mod health;
mod http;
mod metrics;
mod page;
mod pages;
mod status;
#[cfg(test)]
mod tests;
pub(crate) mod uplot;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// Stack size of the thread, in bytes.
const STACK_BYTES: usize = 1 << 20;

/// Memory for the connections and for a page of 10,000 clients, in bytes.
const MEMORY_BYTES: u64 = 16 << 20;

/// Threads for requests that wait, at most. They end when there is none for [`BESIDE_TIME`].
const BESIDE_MAX: usize = 4;
const BESIDE_TIME: Duration = Duration::from_secs(10);

/// The log target of what is done through the admin address.
const LOG: &str = "echopool::admin";

/// The bound admin address of a server that has not started yet.
#[derive(Debug)]
pub struct AdminListener {
    bound: Vec<Bound>,
    endpoints: Vec<Endpoint>,
    addresses: Vec<SocketAddr>,
    targets: Vec<Spec>,
    token: Option<Token>,
    hosts: Vec<String>,
    /// The listening sockets, for a process that takes them over.
    offers: Vec<Offer>,
    phase: AdminPhase,
}

/// A running admin address. Dropping it closes it.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{SocketAddr, TcpStream};
/// use echopool::admin::{Admin, AdminListener};
/// use echopool::{Config, Server, builtin::Echo};
///
/// let any_port: SocketAddr = "127.0.0.1:0".parse().unwrap();
/// let listener = AdminListener::bind(&[any_port])?;
/// let config = Config::new().listen("127.0.0.1:0").reserve_files(Admin::FILES);
/// let server = Server::start(config.max_connections(100), Echo)?;
/// let admin = listener.serve(&server)?;
///
/// let mut client = TcpStream::connect(admin.addresses()[0])?;
/// client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
/// let mut page = String::new();
/// client.read_to_string(&mut page)?;
/// assert!(page.contains("\nechopool_connections_accepted_total{worker=\"0\"} 0\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Admin {
    endpoints: Vec<Endpoint>,
    addresses: Vec<SocketAddr>,
    state: Arc<AdminState>,
    offers: Mutex<Vec<Offer>>,
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "only the daemon is replaced"))]
    phase: watch::Sender<AdminPhase>,
    /// `None` once it is closed.
    running: Mutex<Option<Running>>,
}

/// What ends an admin address when its parts are dropped in this order.
struct Running {
    /// The files of Unix sockets, which are removed before the sockets are closed, so that nobody
    /// finds one that nobody serves.
    files: Vec<Arc<SocketFile>>,
    /// Dropped to end the thread.
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What the pages show.
struct AdminState {
    server: View,
    /// The service of each listener by its number, if it is one of those built in.
    targets: Mutex<Vec<Option<Spec>>>,
    /// What a request must have to change something; `None` if nothing can be changed.
    token: Option<Token>,
    /// The names, besides `localhost`, by which this address may be called.
    hosts: Vec<String>,
    /// What the program can be asked for.
    operations: Mutex<Option<Arc<dyn Operations>>>,
    started: SystemTime,
    /// Whether [`Admin::withdraw`] was called.
    is_withdrawn: AtomicBool,
    loaded: Mutex<Loaded>,
    upgrades: Mutex<Upgrades>,
    last_look: LastLook,
    /// Lists of clients are made one at a time, because each takes memory for all of them.
    lists: Turns,
    changes: Turns,
    /// Nothing holds up a drain.
    endings: Turns,
}

/// How often the program was replaced by an upgrade since its first process started, and how often
/// an upgrade has failed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[cfg_attr(feature = "daemon", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Upgrades {
    pub(crate) done: u64,
    pub(crate) failed: u64,
}

/// The configuration that runs.
#[derive(Clone, Copy)]
struct Loaded {
    /// How often a configuration was applied, with the start.
    generation: u64,
    /// Whether the last one that was read was applied.
    is_successful: bool,
    /// When one was applied last.
    at: SystemTime,
}

impl AdminListener {
    /// Binds these addresses and listens. With port 0, all of them get the same free port. Whoever
    /// can reach an address can read the pages.
    ///
    /// # Errors
    /// There is no address, or one of them cannot be listened on.
    pub fn bind(addresses: &[SocketAddr]) -> Result<AdminListener, StartError> {
        let endpoints: Vec<_> = addresses.iter().map(|address| (*address).into()).collect();
        AdminListener::bind_endpoints(&endpoints)
    }

    /// The same for Unix sockets, too. Whoever may write to the file of one can read the pages.
    ///
    /// # Errors
    /// As [`bind`](AdminListener::bind).
    pub fn bind_endpoints(on: &[ListenOn]) -> Result<AdminListener, StartError> {
        let bound = bind::bind_names(on, &[on.len()], 1, BACKLOG, false)?;
        let endpoints: Vec<Endpoint> = bound.iter().map(|one| one.endpoint).collect();
        let addresses = endpoints.iter().filter_map(Endpoint::socket_addr).collect();
        let (targets, hosts, offers) = (Vec::new(), Vec::new(), Vec::new());
        let (token, phase) = (None, AdminPhase::Serves);
        Ok(AdminListener { bound, endpoints, addresses, targets, token, hosts, offers, phase })
    }

    /// Lets another process take over the listening sockets, which then are open twice.
    ///
    /// # Errors
    /// The process is out of open files.
    #[cfg(feature = "daemon")]
    pub(crate) fn replaceable(mut self, on: &[ListenOn]) -> io::Result<AdminListener> {
        let offer = |one: &Bound| one.offer(on[one.number()].endpoint).transpose();
        self.offers = self.bound.iter().filter_map(offer).collect::<io::Result<_>>()?;
        Ok(self)
    }

    /// Lets the address accept nothing before [`Admin::begin_accepting`].
    #[cfg(feature = "daemon")]
    pub(crate) fn stopped(mut self) -> AdminListener {
        self.phase = AdminPhase::Waits;
        self
    }

    /// Lets requests with this token change something: disconnect clients, send messages, stop and
    /// start listeners, and what [`Admin::set_operations`] adds. By default nothing can be changed.
    pub fn token(mut self, token: Token) -> AdminListener {
        self.token = Some(token);
        self
    }

    /// Allows requests that call this address by a name. By default it can be called by an IP address
    /// and as `localhost`; other requests are refused, because a page of another site may have made its
    /// own name resolve to this address.
    pub fn allow_host(mut self, name: &str) -> AdminListener {
        self.hosts.push(name.to_owned());
        self
    }

    /// Sets the built-in services of the server's listeners, in the order of
    /// [`ServerHandle::local_endpoints`], which `/api/v1/listeners` then shows. By default it shows
    /// the endpoints alone.
    pub fn targets(mut self, targets: Vec<Spec>) -> AdminListener {
        self.targets = targets;
        self
    }

    /// Serves the pages of `server` on a new thread.
    ///
    /// # Errors
    /// The system refuses memory, a file or the thread.
    pub fn serve(self, server: &ServerHandle) -> io::Result<Admin> {
        room::check(((1 + BESIDE_MAX) * STACK_BYTES) as u64 + MEMORY_BYTES)?;
        let now = SystemTime::now();
        let state = Arc::new(AdminState {
            server: server.view(),
            targets: Mutex::new(self.targets.into_iter().map(Some).collect()),
            token: self.token,
            hosts: self.hosts,
            operations: Mutex::default(),
            started: now,
            is_withdrawn: AtomicBool::new(false),
            upgrades: Mutex::default(),
            loaded: Mutex::new(Loaded { generation: 1, is_successful: true, at: now }),
            last_look: LastLook::default(),
            lists: Turns::new(1),
            changes: Turns::new(2),
            endings: Turns::new(1),
        });
        state.server.counters().iter().for_each(|counters| counters.time_turns());
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BESIDE_MAX)
            .thread_keep_alive(BESIDE_TIME)
            .thread_name("admin-beside")
            .thread_stack_size(STACK_BYTES)
            .build()?;
        let mut files = Vec::new();
        let listeners = {
            let _on = runtime.enter();
            let sockets = self.bound.into_iter().flat_map(Bound::into_listening);
            let listener = |one: Listening<OwnedFd>| {
                files.extend(one.file);
                Ok(match one.transport {
                    Transport::Tcp => {
                        AdminSocket::Tcp(tokio::net::TcpListener::from_std(one.socket.into())?)
                    }
                    Transport::Unix => {
                        AdminSocket::Unix(tokio::net::UnixListener::from_std(one.socket.into())?)
                    }
                })
            };
            sockets.map(listener).collect::<io::Result<Vec<_>>>()?
        };
        let (end, ended) = oneshot::channel::<()>();
        let (phase, phases) = watch::channel(self.phase);
        let pages = pages::router(state.clone());
        let thread = thread::Builder::new()
            .name("admin".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                runtime.block_on(http::serve(listeners, pages, phases, ended));
                // Without waiting for requests that wait for a worker.
                runtime.shutdown_background();
            })?;
        let (endpoints, addresses) = (self.endpoints, self.addresses);
        let running = Mutex::new(Some(Running { files, end, thread }));
        Ok(Admin { endpoints, addresses, state, offers: Mutex::new(self.offers), phase, running })
    }
}

impl Admin {
    /// The most open files that an admin address with one or two listening sockets uses: see
    /// [`Config::reserve_files`](crate::Config::reserve_files).
    pub const FILES: u32 = http::CONNECTIONS_MAX as u32 + 8;

    /// Where it listens, with the actual ports.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The TCP addresses of [`endpoints`](Admin::endpoints).
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Sets what the program can be asked for: a drain, a reload and an upgrade. With `None`, as by
    /// default, such requests are refused.
    pub fn set_operations(&self, operations: Option<Arc<dyn Operations>>) {
        *self.state.operations() = operations;
    }

    /// Sets the services of the listeners by their numbers, also of those that were removed.
    #[cfg(feature = "daemon")]
    pub(crate) fn set_targets(&self, targets: Vec<Option<Spec>>) {
        *self.state.targets() = targets;
    }

    /// The listening sockets, for a process that takes them over.
    #[cfg(feature = "daemon")]
    pub(crate) fn offers(&self) -> Vec<Offer> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Leaves the address to another process that has taken over the sockets of `taken`. Replies that
    /// are being sent are sent to their ends.
    #[cfg(feature = "daemon")]
    pub(crate) fn leave(&self, taken: &[Offer]) {
        taken.iter().for_each(Offer::is_taken);
        self.offers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let _ = self.phase.send(AdminPhase::Leaves);
    }

    /// Starts to accept at an address that was [`stopped`](AdminListener::stopped).
    #[cfg(feature = "daemon")]
    pub(crate) fn begin_accepting(&self) {
        let _ = self.phase.send(AdminPhase::Serves);
    }

    /// Sets the counts that `/metrics` shows.
    #[cfg(feature = "daemon")]
    pub(crate) fn set_upgrades(&self, upgrades: Upgrades) {
        *self.state.upgrades() = upgrades;
    }

    /// Closes the address, as dropping it does.
    pub fn close(&self) {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { files, end, thread }) = running {
            drop(files);
            drop(end);
            let _ = thread.join();
        }
        *self.state.operations() = None;
    }

    /// Records that the program has read its configuration again, and whether it has applied it.
    pub fn reloaded(&self, is_successful: bool) {
        let mut loaded = self.state.loaded();
        *loaded = match is_successful {
            true => {
                Loaded { generation: loaded.generation + 1, is_successful, at: SystemTime::now() }
            }
            false => Loaded { is_successful, ..*loaded },
        };
    }

    /// From now on `/readyz` returns 503. Call it some time before the server drains, so that a load
    /// balancer sends no further clients. A drain or stop does the same by itself.
    pub fn withdraw(&self) {
        self.state.is_withdrawn.store(true, Ordering::Relaxed);
    }
}

impl AdminState {
    fn operations(&self) -> MutexGuard<'_, Option<Arc<dyn Operations>>> {
        // Each change is a single assignment.
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn targets(&self) -> MutexGuard<'_, Vec<Option<Spec>>> {
        // Each change is a single assignment.
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the service of the listener with this number.
    fn of_target<T>(&self, listener: usize, known: impl FnOnce(&Spec) -> T) -> Option<T> {
        self.targets().get(listener)?.as_ref().map(known)
    }

    fn upgrades(&self) -> MutexGuard<'_, Upgrades> {
        // Each change is a single assignment.
        self.upgrades.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        // Each change is a single assignment.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.close();
    }
}
