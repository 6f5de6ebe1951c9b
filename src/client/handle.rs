//! The handles that a caller holds: the loop ([`ClientLoop`]) and its clients ([`Client`]).

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::completer::{Completer, Outcome};
use super::driver::Driver;
#[cfg(feature = "tls")]
use super::driver::slot_of_tag;
use super::error::{Error, Failed};
use super::ops::{Ended, Op, OpKind};
use super::options::Options;
use super::pending::{Pending, Ticket, value};
use super::resolve;
use super::submission::{Clock, LoopCommand, Submission};
use super::target::Target;
#[cfg(feature = "tls")]
use super::tls::{Connectors, Server};
use crate::base::endpoint::Endpoint;
use crate::base::time::Time;
use crate::config::{self, BUFFER_SIZE, BUFFER_SIZE_MAX, BUFFER_SIZE_MIN, LINGER, SEND_TIMEOUT};
use crate::protocol::framing::Framing;
use crate::shared::mailbox::Mailboxes;
use crate::worker::Setup;
use crate::worker::launch::{self, ClientLimits, SystemWorker};
#[cfg(feature = "tls")]
use crate::worker::layer::ByListener;
#[cfg(not(feature = "tls"))]
use crate::worker::layer::Plain;

/// Maximum number of clients. Each may need two open files, one of them for a lingering connection.
pub const CLIENTS_MAX: u32 = 1 << 20;

/// Maximum number of operations. The numbers of operations and of their commands fit into 32 bits.
pub const OPERATIONS_MAX: u32 = 1 << 24;

/// Capacity reserved for a receive whose buffer has none: the default size of a loop buffer.
const RECEIVE_BYTES: usize = BUFFER_SIZE;

/// Capacity reserved for a reply before any of it arrives. The `Vec` then grows as bytes arrive,
/// not to the length that a header announces.
const REPLY_BYTES_INITIAL: usize = 64 << 10;

/// A connect times out this much after its round, because the round's error is more specific.
const CONNECT_GRACE: Duration = Duration::from_millis(50);

/// Resource limits of a loop. Everything is allocated when the loop starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopLimits {
    /// Number of clients, 1 to [`CLIENTS_MAX`].
    pub clients: u32,
    /// Number of operations in progress over all clients, 1 to [`OPERATIONS_MAX`]. One more
    /// completes at once with [`Error::QueueFull`].
    pub operations: u32,
    /// Number of buffers, at least 4 per client. A client holds up to 4 while it sends, and up to 4
    /// for received bytes that no operation has requested. When more than half of all buffers are
    /// in use, it holds one for each.
    pub buffers: u32,
    /// Size of a buffer in bytes, 256 to 1 MiB.
    pub buffer_size: usize,
    /// Longest time for which the peer may accept no byte before the connection is closed. `None`
    /// disables the time-out.
    pub send_timeout: Option<Duration>,
    /// How long a connection that this side has closed waits for the peer to close its side.
    /// [`Duration::MAX`] means no limit. The end of the loop waits at most 10 s in any case.
    pub linger: Duration,
}

impl LoopLimits {
    /// Limits for this many clients, with 4 operations and 4 buffers each.
    pub fn for_clients(clients: u32) -> LoopLimits {
        let four_each = clients.saturating_mul(4);
        LoopLimits {
            clients,
            operations: four_each.clamp(64, OPERATIONS_MAX),
            buffers: four_each.max(64),
            buffer_size: BUFFER_SIZE,
            send_timeout: Some(SEND_TIMEOUT),
            linger: LINGER,
        }
    }

    fn check(&self) -> Result<(), String> {
        let ranged = |name, value: u64, min: u64, max: u64| match (min..=max).contains(&value) {
            true => Ok(()),
            false => Err(format!("{name} is {value}, but must be from {min} to {max}")),
        };
        ranged("LoopLimits::clients", self.clients.into(), 1, CLIENTS_MAX.into())?;
        ranged("LoopLimits::operations", self.operations.into(), 1, OPERATIONS_MAX.into())?;
        let buffers = (u64::from(self.clients) * 4, 1 << 24);
        ranged("LoopLimits::buffers", self.buffers.into(), buffers.0, buffers.1)?;
        let (min, max) = (BUFFER_SIZE_MIN as u64, BUFFER_SIZE_MAX as u64);
        ranged("LoopLimits::buffer_size", self.buffer_size as u64, min, max)
    }
}

impl Default for LoopLimits {
    /// Limits for 1,024 clients.
    fn default() -> LoopLimits {
        LoopLimits::for_clients(1024)
    }
}

/// A thread that drives any number of clients, and helper threads for name look-ups.
///
/// Dropping it ends the loop. Operations in progress complete with [`Error::LoopEnded`]. Each
/// connection sends what is on its output and closes gracefully. The drop waits for that, at most
/// [`LoopLimits::linger`] and one second, and never longer than 10 seconds. Connections that are
/// then still open are reset.
pub struct ClientLoop {
    pub(super) submission: Arc<Submission>,
    thread: Option<JoinHandle<()>>,
    #[cfg(feature = "tls")]
    connectors: Connectors,
}

impl ClientLoop {
    /// Starts the threads. Raises the soft limit of open files to what this many clients need, up
    /// to the hard limit. Beyond that, a connect fails with EMFILE.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if a limit is out of range, or the system's error if
    /// memory, a thread or the event loop cannot be created.
    pub fn start(limits: LoopLimits) -> io::Result<ClientLoop> {
        let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
        limits.check().map_err(invalid)?;
        raise_open_files(limits.clients);
        let mailboxes = Arc::new(Mailboxes::new(1));
        let submission =
            Submission::new(limits.clients, limits.operations, mailboxes.clone(), Clock::SYSTEM);
        let resolver = resolve::start(submission.clone(), limits.clients as usize)?;
        let (ready, readies) = sync_channel(1);
        let for_thread = submission.clone();
        let thread = thread::Builder::new()
            .name("clients".into())
            .spawn(move || run(limits, for_thread, mailboxes, resolver, &ready))?;
        let mut started = ClientLoop {
            submission,
            thread: Some(thread),
            #[cfg(feature = "tls")]
            connectors: Connectors::default(),
        };
        match readies.recv() {
            Ok(Ok(())) => Ok(started),
            Ok(Err(error)) => {
                started.join();
                Err(error)
            }
            Err(_) => Err(io::Error::other("the loop ended before it was ready")),
        }
    }

    /// Creates a client for a target: `[service://]host:port[?options]`, in the grammar of
    /// [`Spec`](crate::builtin::url::Spec). It is not connected yet.
    ///
    /// Over TLS, the files that the target names, or the authorities that the system trusts, are
    /// read here, for the first of several clients with the same options of TLS.
    ///
    /// # Errors
    /// Returns [`Error::Target`] if the target is invalid or such a file cannot be used, and
    /// [`Error::TooManyClients`] if the loop has no room for another client.
    pub fn client(&self, target: &str, options: Options) -> Result<Client, Error> {
        let target = Target::parse(target)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &target.tls {
            let at = format!("{}:{} {:?}", target.host, target.port, target.literal);
            let server = self.connectors.server(tls, &target.host, at)?;
            return Client::with_server(&self.submission, target, options, Some(server));
        }
        Client::new(&self.submission, target, options)
    }

    fn join(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // In a callback, the thread would wait for itself.
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl Drop for ClientLoop {
    fn drop(&mut self) {
        self.submission.push(LoopCommand::End);
        self.join();
    }
}

impl std::fmt::Debug for ClientLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientLoop")
    }
}

/// Each client needs one file, and one more for the lingering connection after it has reconnected.
fn raise_open_files(clients: u32) {
    let needed = config::open_files::fixed(1, 0) + u64::from(clients) * 2;
    // The request is capped at the hard limit. If it fails anyway, connects report EMFILE.
    let _ = config::open_files::raise_soft_limit(needed.min(config::open_files::hard_limit()));
}

/// Completes all operations however the thread ends, so no caller waits forever.
struct EndOnDrop(Arc<Submission>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The main function of the loop's thread.
fn run(
    limits: LoopLimits,
    submission: Arc<Submission>,
    mailboxes: Arc<Mailboxes>,
    resolver: SyncSender<resolve::Question>,
    ready: &SyncSender<io::Result<()>>,
) {
    let _end = EndOnDrop(submission.clone());
    let LoopLimits { clients, operations, linger, .. } = limits;
    submission.mark_loop_thread();
    let random = fastrand::Rng::new();
    let layer = layer(&submission);
    let driver = Driver::new(submission, resolver, clients, operations, linger, random);
    match make_worker(limits, mailboxes, driver, layer) {
        Ok(worker) => {
            let _ = ready.send(Ok(()));
            if let Err(error) = worker.run(drop) {
                log::error!("a client loop cannot wait for events: {error}");
            }
        }
        Err(error) => drop(ready.send(Err(error))),
    }
}

/// The byte layer of the clients' connections.
#[cfg(feature = "tls")]
type ClientLayer = ByListener;
#[cfg(not(feature = "tls"))]
type ClientLayer = Plain;

#[cfg(feature = "tls")]
fn layer(submission: &Arc<Submission>) -> ClientLayer {
    let (uses, begins) = (submission.clone(), submission.clone());
    let uses = move |tag| uses.servers.has(slot_of_tag(tag));
    ByListener::of_clients(uses, move |tag| begins.servers.session(slot_of_tag(tag)))
}

#[cfg(not(feature = "tls"))]
fn layer(_: &Arc<Submission>) -> ClientLayer {
    Plain
}

fn make_worker(
    limits: LoopLimits,
    mailboxes: Arc<Mailboxes>,
    driver: Driver,
    layer: ClientLayer,
) -> io::Result<SystemWorker<Driver, ClientLayer>> {
    let setup = setup(limits, mailboxes)?;
    launch::make_worker(setup, Vec::new(), false, 0, |_| driver, layer)
}

/// Everything that a loop's worker needs, except its engine.
pub(crate) fn setup(limits: LoopLimits, mailboxes: Arc<Mailboxes>) -> io::Result<Setup> {
    let client_limits = ClientLimits {
        // Open connections and lingering ones.
        connections_max: limits.clients as usize * 2,
        buffers: limits.buffers,
        buffer_size: limits.buffer_size,
        leases_per_connection_max: config::LEASES_PER_CONNECTION_MAX,
        linger: limits.linger,
        busy_poll: false,
    };
    let mut setup = client_limits.setup(mailboxes)?;
    setup.rules.send_timeout = limits.send_timeout;
    Ok(setup)
}

/// One client of a loop. Any thread may start operations. Sends go out in the order in which they
/// were started, and receives get bytes in the order in which they were started.
///
/// An operation that is started while the client connects, or waits to reconnect, waits too.
/// Otherwise it fails with [`Error::NotConnected`], or with the error that ended the last
/// connection. It fails about a millisecond later, so that callers that retry in a tight loop do
/// not occupy the loop's thread. [`Failed::is_final`] returns whether a retry is useless.
///
/// Dropping a client cancels its operations and closes the connection gracefully: what is on its
/// output is sent.
pub struct Client {
    submission: Arc<Submission>,
    slot: u32,
    framing: Option<Framing>,
}

impl Client {
    pub(crate) fn new(
        submission: &Arc<Submission>,
        target: Target,
        options: Options,
    ) -> Result<Client, Error> {
        #[cfg(feature = "tls")]
        return Client::with_server(submission, target, options, None);
        #[cfg(not(feature = "tls"))]
        Client::in_slot(submission, target, options, submission.take_slot())
    }

    /// A client that uses TLS if there is a server.
    #[cfg(feature = "tls")]
    fn with_server(
        submission: &Arc<Submission>,
        target: Target,
        options: Options,
        server: Option<Server>,
    ) -> Result<Client, Error> {
        let slot = submission.take_slot();
        if let Some(slot) = slot {
            submission.servers.set(slot, server);
        }
        Client::in_slot(submission, target, options, slot)
    }

    fn in_slot(
        submission: &Arc<Submission>,
        target: Target,
        mut options: Options,
        slot: Option<u32>,
    ) -> Result<Client, Error> {
        let slot = slot.ok_or(Error::TooManyClients)?;
        let framing = target.framing.or(options.framing);
        options.framing = framing;
        let (target, options) = (Box::new(target), Box::new(options));
        submission.push(LoopCommand::New { slot, target, options });
        Ok(Client { submission: submission.clone(), slot, framing })
    }

    /// The framing that splits the stream into messages, if there is one.
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// Connects, and returns the address that it connected to. A helper thread looks up the name.
    /// The addresses are raced as in RFC 8305, IPv6 and IPv4 alternating: the next address is tried
    /// when one has failed, or after 250 ms without a reply, or earlier if the time left does not
    /// suffice for all addresses. With [`Options::reconnect`], the client retries until `timeout`.
    /// After this operation has failed, the client makes no further attempt.
    pub fn connect(&self, timeout: Duration) -> Pending<Endpoint> {
        let deadline = self.submission.now() + timeout.saturating_add(CONNECT_GRACE);
        self.start_op(OpKind::Connect, |op| op.deadline = deadline, |o| value(o, |o| o.address))
    }

    /// Sends a message with this payload, or plain bytes if there is no framing. Returns the same
    /// `Vec` when the kernel has accepted all of it.
    pub fn send(&self, data: Vec<u8>) -> Pending<Vec<u8>> {
        let too_long = self.framing.and_then(|framing| framing.around(data.len()).err());
        if let Some(error) = too_long {
            let failed = Err(Error::FrameTooLarge(error));
            return self.completed(failed, data, |o| value(o, |o| Some(o.request)));
        }
        self.start_op(OpKind::Send, |op| op.request = data, |o| value(o, |o| Some(o.request)))
    }

    /// Receives at least one byte, and at most as many as `buffer` has capacity for (16 KiB are
    /// allocated if it has none). Discards the content of `buffer`, and returns it with the bytes
    /// received. With a framing, these are the bytes on the wire, including lengths and delimiters.
    pub fn receive(&self, mut buffer: Vec<u8>) -> Pending<Vec<u8>> {
        buffer.clear();
        if buffer.capacity() == 0 {
            buffer.reserve(RECEIVE_BYTES);
        }
        let fill = |op: &mut Op| {
            op.reply_max = buffer.capacity();
            op.reply = buffer;
        };
        self.start_op(OpKind::Receive, fill, |o| value(o, |o| Some(o.reply)))
    }

    /// Receives the next message and returns its payload in `buffer`, which grows if necessary.
    /// Discards the previous content of `buffer`.
    pub fn receive_message(&self, mut buffer: Vec<u8>) -> Pending<Vec<u8>> {
        buffer.clear();
        if self.framing.is_none() {
            let failed = Err(Error::NoFraming);
            return self.completed(failed, buffer, |o| value(o, |o| Some(o.reply)));
        }
        self.start_op(OpKind::Message, |op| op.reply = buffer, |o| value(o, |o| Some(o.reply)))
    }

    /// Receives everything until the peer closes its side, at most `max` bytes, into `buffer`,
    /// which grows if necessary. Discards the previous content of `buffer`.
    pub fn receive_to_end(&self, mut buffer: Vec<u8>, max: usize) -> Pending<Vec<u8>> {
        buffer.clear();
        let kind = OpKind::ToEnd { max };
        self.start_op(kind, |op| op.reply = buffer, |o| value(o, |o| Some(o.reply)))
    }

    /// Sends a request and receives its reply: a message each with a framing, otherwise as many
    /// bytes as were sent. Several requests may be in flight; replies match requests in order. If
    /// the payload contains the framing's delimiter, it is several messages to the peer, and only
    /// the first reply belongs to this request.
    ///
    /// If there is no reply within `timeout`, the operation completes with [`Error::TimedOut`] and
    /// the connection is reset, which fails all other operations on it. Otherwise the late reply
    /// would be taken for that of the next request. The request is never sent a second time.
    pub fn send_receive(&self, request: Vec<u8>, timeout: Duration) -> Pending<Vec<u8>> {
        let too_long = self.framing.and_then(|framing| framing.around(request.len()).err());
        if let Some(error) = too_long {
            let failed = Err(Error::FrameTooLarge(error));
            return self.completed(failed, request, |o| value(o, |o| Some(o.reply)));
        }
        let deadline = self.submission.now() + timeout;
        let fill = |op: &mut Op| {
            op.reply.reserve(request.len().min(REPLY_BYTES_INITIAL));
            op.deadline = deadline;
            op.request = request;
        };
        self.start_op(OpKind::SendReceive, fill, |o| value(o, |o| Some(o.reply)))
    }

    /// Closes the sending side after all operations that were started before. The peer then reads
    /// to the end of the stream. Receiving continues.
    pub fn half_close(&self) -> Pending<()> {
        self.start_op(OpKind::HalfClose, |_| (), |o| value(o, |_| Some(())))
    }

    /// Closes the connection after all sends that were started before, and does not reconnect.
    /// Completes when the peer has closed its side too, or the linger time has passed. Bytes not
    /// received by then are discarded, and receives complete with [`Error::Cancelled`].
    pub fn disconnect(&self) -> Pending<()> {
        self.start_op(OpKind::Disconnect, |_| (), |o| value(o, |_| Some(())))
    }

    fn start_op<T: 'static>(
        &self,
        kind: OpKind,
        fill: impl FnOnce(&mut Op),
        convert: fn(Outcome) -> Result<T, Failed>,
    ) -> Pending<T> {
        let (completer, cell) = Completer::new(self.submission.loop_thread());
        let number = self.submission.take_op();
        let mut op = Op::new(number.map_or(0, |(_, id)| id), self.slot, kind, completer);
        op.deadline = Time::MAX;
        fill(&mut op);
        let Some((index, id)) = number.filter(|_| !self.submission.has_ended()) else {
            let ended = self.submission.has_ended();
            let error = if ended { Error::LoopEnded } else { Error::QueueFull };
            op.ended = Some(Ended { result: Err(error), bytes_sent: 0, address: None });
            op.complete(false);
            return Pending::new(cell, None, convert);
        };
        self.submission.push(LoopCommand::Submit { index, op: Box::new(op) });
        let ticket = Ticket { submission: self.submission.clone(), index, id };
        Pending::new(cell, Some(ticket), convert)
    }

    /// Creates an operation that is already complete.
    fn completed<T: 'static>(
        &self,
        result: Result<(), Error>,
        request: Vec<u8>,
        convert: fn(Outcome) -> Result<T, Failed>,
    ) -> Pending<T> {
        let (completer, cell) = Completer::new(self.submission.loop_thread());
        completer.complete(Outcome { request, ..Outcome::new(result) });
        Pending::new(cell, None, convert)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.submission.push(LoopCommand::Dropped { slot: self.slot });
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.slot)
    }
}
