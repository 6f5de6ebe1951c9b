//! What a caller holds: the loop ([`ClientLoop`]) and its clients ([`Client`]).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::completer::{Completer, Outcome};
use super::driver::Driver;
use super::error::{Error, Failed};
use super::ops::{Ended, Kind, Op};
use super::options::Options;
use super::pending::{Pending, Ticket, value};
use super::resolve;
use super::submission::{Clock, Command, Submission};
use super::target::Target;
use crate::base::time::Time;
use crate::config::{self, BUFFER_SIZE, BUFFER_SIZE_MAX, BUFFER_SIZE_MIN, LINGER, SEND_TIMEOUT};
use crate::protocol::framing::Framing;
use crate::shared::mailbox::Mailboxes;
use crate::worker::Setup;
use crate::worker::launch::{self, ClientLimits, SystemWorker};

/// Clients at most: what a process may have open files for, with those that linger.
pub const CLIENTS_MAX: u32 = 1 << 20;

/// Operations at most: their numbers and those of their commands have room in 32 bits.
pub const OPERATIONS_MAX: u32 = 1 << 24;

/// Room for a receive when the buffer that it is given has none: one of the loop's own buffers.
const RECEIVE_BYTES: usize = BUFFER_SIZE;

/// Room that a reply is given before it begins to come; it grows as bytes come, not as a length
/// promises.
const REPLY_BYTES_AT_FIRST: usize = 64 << 10;

/// How much later than its round a connect gives up: the round knows more of what happened.
const CONNECT_GRACE: Duration = Duration::from_millis(50);

/// What a loop may use. All of it is made when the loop starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopLimits {
    /// Clients at once, 1 to [`CLIENTS_MAX`].
    pub clients: u32,
    /// Operations under way at once, over all clients, 1 to [`OPERATIONS_MAX`]. One more completes
    /// at once with [`Error::QueueFull`].
    pub operations: u32,
    /// Buffers. One client holds up to 4 while it sends, and up to 4 with what it was sent and has
    /// not asked for; one each where that is more than half of all. At least 4 for each client.
    pub buffers: u32,
    /// Bytes of a buffer, 256 to 1 MiB.
    pub buffer_size: usize,
    /// A peer that takes no byte for so long is given up; `None`: never.
    pub send_timeout: Option<Duration>,
    /// How long a connection that this side has closed waits for the other side to do the same.
    pub linger: Duration,
}

impl LoopLimits {
    /// For this many clients, with 4 operations and 4 buffers for each.
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
    /// For 1,024 clients.
    fn default() -> LoopLimits {
        LoopLimits::for_clients(1024)
    }
}

/// A thread that drives any number of clients, and others that look up names.
///
/// Dropped, it ends: what is under way completes with [`Error::LoopEnded`], what was put on a
/// connection goes out, and every connection is closed in order, for at most the linger time and a
/// second.
pub struct ClientLoop {
    pub(super) submission: Arc<Submission>,
    thread: Option<JoinHandle<()>>,
}

impl ClientLoop {
    /// Starts the threads. The soft limit of open files is raised to what so many clients need, as
    /// far as the hard limit allows; beyond that a connect fails with EMFILE.
    ///
    /// # Errors
    /// A limit is out of its range ([`io::ErrorKind::InvalidInput`]); or memory, a thread or what
    /// the event loop is made of could not be had.
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
        let mut started = ClientLoop { submission, thread: Some(thread) };
        match readies.recv() {
            Ok(Ok(())) => Ok(started),
            Ok(Err(error)) => {
                started.join();
                Err(error)
            }
            Err(_) => Err(io::Error::other("the loop ended before it was ready")),
        }
    }

    /// A client for a target: `[service://]host:port[?options]`, in the grammar of
    /// [`Spec`](crate::builtin::url::Spec). It is not connected yet.
    ///
    /// # Errors
    /// The target is not understood, or the loop has no room for another client.
    pub fn client(&self, target: &str, options: Options) -> Result<Client, Error> {
        let target = Target::parse(target)?;
        Client::new(&self.submission, target, options)
    }

    fn join(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // From a callback: it would wait for itself.
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl Drop for ClientLoop {
    fn drop(&mut self) {
        self.submission.push(Command::End);
        self.join();
    }
}

impl std::fmt::Debug for ClientLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientLoop")
    }
}

/// A file for each client, and for those of them that have connected again one that lingers.
fn raise_open_files(clients: u32) {
    let needed = config::open_files::fixed(1, 0) + u64::from(clients) * 2;
    // It was limited to what is possible; where it fails all the same, connects tell.
    let _ = config::open_files::raise_soft_limit(needed.min(config::open_files::hard_limit()));
}

/// Whatever ends the thread: nobody is left waiting.
struct EndOnDrop(Arc<Submission>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The life of the loop's thread.
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
    let driver = Driver::new(submission, resolver, clients, operations, linger, random);
    match make_worker(limits, mailboxes, driver) {
        Ok(worker) => {
            let _ = ready.send(Ok(()));
            if let Err(error) = worker.run(drop) {
                log::error!("a client loop cannot wait for events: {error}");
            }
        }
        Err(error) => drop(ready.send(Err(error))),
    }
}

fn make_worker(
    limits: LoopLimits,
    mailboxes: Arc<Mailboxes>,
    driver: Driver,
) -> io::Result<SystemWorker<Driver>> {
    let setup = setup(limits, mailboxes)?;
    launch::make_worker(setup, Vec::new(), false, |_| driver)
}

/// What a loop's worker is made of, beside its engine.
pub(crate) fn setup(limits: LoopLimits, mailboxes: Arc<Mailboxes>) -> io::Result<Setup> {
    let client_limits = ClientLimits {
        // Beside those that are open, those that linger.
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

/// One client of a loop. Its operations may be begun from any thread; those that send go out in the
/// order in which they were begun, and those that receive get what comes in theirs.
///
/// An operation that is begun while the client connects, or waits to connect again, waits too. One
/// that is begun when it does neither fails with [`Error::NotConnected`], or with what the last
/// connection ended with: about a millisecond later, so that callers who try again and again leave
/// the loop its time. [`Failed::is_final`] tells that trying again is of no use.
///
/// Dropped, its operations are cancelled, and the connection is closed in order: what was put on it
/// goes out.
pub struct Client {
    submission: Arc<Submission>,
    slot: u32,
    framing: Option<Framing>,
}

impl Client {
    pub(crate) fn new(
        submission: &Arc<Submission>,
        target: Target,
        mut options: Options,
    ) -> Result<Client, Error> {
        let slot = submission.take_slot().ok_or(Error::TooManyClients)?;
        let framing = target.framing.or(options.framing);
        options.framing = framing;
        let (target, options) = (Box::new(target), Box::new(options));
        submission.push(Command::New { slot, target, options });
        Ok(Client { submission: submission.clone(), slot, framing })
    }

    /// How the stream is cut into messages, if it is.
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// Connects, and completes with the address that answered. The name is looked up on a helper
    /// thread. Its addresses are raced as in RFC 8305, IPv6 and IPv4 in turns: the next one is tried
    /// when one has failed, or after 250 ms without an answer. With [`Options::reconnect`] it is tried again and again, until `timeout`; when it
    /// fails no further attempt is made.
    pub fn connect(&self, timeout: Duration) -> Pending<SocketAddr> {
        let deadline = self.submission.now() + timeout.saturating_add(CONNECT_GRACE);
        self.begin(Kind::Connect, |op| op.deadline = deadline, |o| value(o, |o| o.address))
    }

    /// Sends: with a framing a message, whose payload this is; without one these bytes. Completes,
    /// with the same `Vec`, when the kernel has all of it.
    pub fn send(&self, data: Vec<u8>) -> Pending<Vec<u8>> {
        let too_long = self.framing.and_then(|framing| framing.around(data.len()).err());
        if let Some(error) = too_long {
            let failed = Err(Error::FrameTooLarge(error));
            return self.at_once(failed, data, |o| value(o, |o| Some(o.request)));
        }
        self.begin(Kind::Send, |op| op.request = data, |o| value(o, |o| Some(o.request)))
    }

    /// Receives some bytes, at least one, and at most as many as `buffer` has capacity for (16 KiB
    /// are made if it has none). What was in it is dropped; it comes back with the bytes. With a
    /// framing these are the bytes on the wire, lengths and delimiters included.
    pub fn receive(&self, mut buffer: Vec<u8>) -> Pending<Vec<u8>> {
        buffer.clear();
        if buffer.capacity() == 0 {
            buffer.reserve(RECEIVE_BYTES);
        }
        let fill = |op: &mut Op| {
            op.reply_max = buffer.capacity();
            op.reply = buffer;
        };
        self.begin(Kind::Receive, fill, |o| value(o, |o| Some(o.reply)))
    }

    /// Receives the next message: its payload, in `buffer`, which grows if it has to. What was in
    /// it is dropped.
    pub fn receive_message(&self, mut buffer: Vec<u8>) -> Pending<Vec<u8>> {
        buffer.clear();
        if self.framing.is_none() {
            let failed = Err(Error::NoFraming);
            return self.at_once(failed, buffer, |o| value(o, |o| Some(o.reply)));
        }
        self.begin(Kind::Message, |op| op.reply = buffer, |o| value(o, |o| Some(o.reply)))
    }

    /// Receives everything until the peer closes its side, `max` bytes at most, into `buffer`,
    /// which grows if it has to. What was in it is dropped.
    pub fn receive_to_end(&self, mut buffer: Vec<u8>, max: usize) -> Pending<Vec<u8>> {
        buffer.clear();
        let kind = Kind::ToEnd { max };
        self.begin(kind, |op| op.reply = buffer, |o| value(o, |o| Some(o.reply)))
    }

    /// Sends a request and receives the reply to it: with a framing a message each, without one as
    /// many bytes as were sent. Several may be under way: replies belong to requests in order.
    /// A payload that contains the delimiter of the framing is several messages to the peer, and
    /// only the first reply is that of this request.
    ///
    /// A request that is not answered by `timeout` completes with [`Error::TimedOut`], and the
    /// connection is reset, with all that is under way on it: the late reply would be taken for
    /// that of the next request. It is never sent a second time.
    pub fn send_receive(&self, request: Vec<u8>, timeout: Duration) -> Pending<Vec<u8>> {
        let too_long = self.framing.and_then(|framing| framing.around(request.len()).err());
        if let Some(error) = too_long {
            let failed = Err(Error::FrameTooLarge(error));
            return self.at_once(failed, request, |o| value(o, |o| Some(o.reply)));
        }
        let deadline = self.submission.now() + timeout;
        let fill = |op: &mut Op| {
            op.reply.reserve(request.len().min(REPLY_BYTES_AT_FIRST));
            op.deadline = deadline;
            op.request = request;
        };
        self.begin(Kind::SendReceive, fill, |o| value(o, |o| Some(o.reply)))
    }

    /// Closes the sending side, behind all that was begun before: the peer reads to the end.
    /// Receiving goes on.
    pub fn half_close(&self) -> Pending<()> {
        self.begin(Kind::HalfClose, |_| (), |o| value(o, |_| Some(())))
    }

    /// Closes the connection, behind all sends that were begun before, and makes no further one.
    /// Completes when the peer has closed its side too, or the linger time has passed. What is not
    /// received by then is thrown away, and receives complete with [`Error::Cancelled`].
    pub fn disconnect(&self) -> Pending<()> {
        self.begin(Kind::Disconnect, |_| (), |o| value(o, |_| Some(())))
    }

    fn begin<T: 'static>(
        &self,
        kind: Kind,
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
        self.submission.push(Command::Submit { index, op: Box::new(op) });
        let ticket = Ticket { submission: self.submission.clone(), index, id };
        Pending::new(cell, Some(ticket), convert)
    }

    /// An operation that is over before it began.
    fn at_once<T: 'static>(
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
        self.submission.push(Command::Dropped { slot: self.slot });
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.slot)
    }
}
