//! What a service sees of a connection: its input and output, its timer, its messages.

use std::cell::Cell;
use std::ops::Range;

use super::messenger::Messenger;
use super::{ConnectionId, To};
use crate::base::endpoint::Peer;
use crate::base::time::Time;
use crate::buffer::{Chain, Lease, Pool, Shared};
use crate::net::sockopt::TcpInfo;
use crate::shared::directory::{ClientInfo, ClientValue, GROUP, USER_DATA};
use crate::shared::receipt::SendError;

#[cfg(doc)]
use super::{Answer, Service, Turn};

/// The number of leases in the output from which on messages are copied instead of shared. Each
/// shared part takes a place of its own, while copies of small messages share a buffer.
const FORWARDED_PARTS_MAX: usize = 4;

/// What the worker can be asked during a call.
pub(crate) trait Surroundings {
    fn read_clock(&self) -> Time;

    fn tcp_info(&self) -> Option<TcpInfo> {
        None
    }
}

/// A clock that stands still.
impl Surroundings for Time {
    fn read_clock(&self) -> Time {
        *self
    }
}

/// A connection as its service sees it during one call.
pub struct Connection<'a> {
    pub(crate) id: ConnectionId,
    pub(crate) peer: Peer,
    pub(crate) tag: u64,
    pub(crate) discarded: u64,
    pub(crate) sent: u64,
    pub(crate) now: Time,
    pub(crate) around: &'a dyn Surroundings,
    pub(crate) pool: &'a Pool,
    pub(crate) messenger: &'a Messenger,
    pub(crate) attention: &'a Attention,
    pub(crate) timer: &'a mut Time,
    /// Bytes received and not yet consumed, oldest first. Bytes that a service leaves here are
    /// kept, and are there again, before those that arrive later.
    pub input: &'a mut Chain,
    /// Bytes to send. They are sent in order, after those added earlier.
    pub output: &'a mut Chain,
}

impl Connection<'_> {
    /// The connection's id: unique among all connections of the process and never reused.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The other end of the connection. For an accepted connection, an IPv4-mapped address is shown
    /// as IPv4.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// For an accepted connection, the index of its listener in
    /// [`Config::listen`](crate::Config::listen). For a connection that this side started, the tag
    /// that was passed to [`Turn::connect`].
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// The time of the current turn of the worker's loop. For a service with
    /// [`Service::fresh_clock`], the time just before the call.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Reads the clock, which takes about 25 ns. The time has the origin of [`now`](Connection::now)
    /// and is not before it. In the calls that end a connection ([`Service::finishing`],
    /// [`Service::cut_off`], [`Service::closed`]) it is the time of the turn.
    pub fn read_clock(&self) -> Time {
        self.around.read_clock()
    }

    /// The statistics of TCP for this connection, which take a system call. `None` if it is not
    /// TCP, if the system does not report them (only Linux does), and in the calls that end a
    /// connection.
    pub fn tcp_info(&self) -> Option<TcpInfo> {
        self.around.tcp_info()
    }

    /// Sets the connection's timer: [`Service::timer`] is called at that time, or up to 2 ms later
    /// on a machine that is not overloaded. Reading continues meanwhile. A time in the past is due
    /// at once; [`Time::MAX`] turns the timer off.
    ///
    /// A connection has one timer. This replaces the time set earlier, here or by
    /// [`Answer::WaitUntil`], whose pause then lasts until the new time. A timer fires once, and
    /// not after the connection has begun to close.
    ///
    /// ```
    /// use std::time::Duration;
    /// use echopool::service::{Answer, Connection, Service};
    ///
    /// /// Sends a line to each client once a second, whatever the client sends.
    /// #[derive(Clone)]
    /// struct Heartbeat;
    ///
    /// impl Service for Heartbeat {
    ///     type Session = ();
    ///
    ///     fn open(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
    ///         connection.set_timer(connection.now() + Duration::from_secs(1));
    ///         Answer::Continue
    ///     }
    ///
    ///     fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
    ///         connection.input.consume(connection.input.len());
    ///         Answer::Continue
    ///     }
    ///
    ///     fn timer(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
    ///         if connection.output.is_empty() {
    ///             connection.send(b"still here\n");
    ///         }
    ///         connection.set_timer(connection.now() + Duration::from_secs(1));
    ///         Answer::Continue
    ///     }
    /// }
    /// ```
    pub fn set_timer(&mut self, at: Time) {
        *self.timer = at;
        self.attention.insert(Attention::SET_TIMER);
    }

    /// Bytes that arrived after this side had begun to close, and were discarded. The number is
    /// final in [`Service::closed`].
    pub fn bytes_discarded(&self) -> u64 {
        self.discarded
    }

    /// Bytes of the output that the kernel has accepted.
    pub fn bytes_sent(&self) -> u64 {
        self.sent
    }

    /// The worker's buffers, for chains that the service keeps itself.
    pub fn pool(&self) -> &Pool {
        self.pool
    }

    /// Takes an empty buffer from the worker's pool. Returns `None` if none is free, or if other
    /// connections have waited longer for one. The connection then [waits] for a buffer.
    ///
    /// [waits]: Connection::wait_for_buffer
    pub fn take_lease(&self) -> Option<Lease> {
        let lease = self.pool.lease_in_turn();
        if lease.is_none() {
            self.wait_for_buffer();
        }
        lease
    }

    /// Whether more than half of all buffers are free and no connection waits for one. A service
    /// may then take several for one connection.
    pub fn buffers_are_plentiful(&self) -> bool {
        self.pool.is_plentiful() && self.pool.reserve().board().claiming() == 0
    }

    /// Takes the first `count` bytes out of the input, as [`Chain::split_to`] does. If that needs a
    /// buffer and none is free, returns `None`, and the connection [waits] for one.
    ///
    /// # Panics
    /// If the input has fewer than `count` bytes.
    ///
    /// [waits]: Connection::wait_for_buffer
    pub fn take_input(&mut self, count: usize) -> Option<Chain> {
        let taken = self.input.split_to(count);
        if taken.is_none() {
            self.wait_for_buffer();
        }
        taken
    }

    /// Waits for a buffer. [`Service::buffer_available`] is called once, when a buffer is free and
    /// it is this connection's turn (first come, first served). Until then nothing more is
    /// received. A receive that is in progress is still delivered.
    ///
    /// [`take_lease`](Connection::take_lease) and [`send`](Connection::send) call this when they
    /// find no buffer. Calling it while the connection waits has no effect.
    pub fn wait_for_buffer(&self) {
        self.attention.insert(Attention::WANTS_BUFFER);
    }

    /// Sends a message to other clients of the server, on any worker, without waiting. Each
    /// recipient gets it as a call of [`Service::message`], soon after this call. The messages of
    /// this connection arrive in the order in which they were sent.
    ///
    /// A message travels in a buffer. At most a few buffers are in transit from each worker to each
    /// other one. A message that finds no room is refused, and so is one for a client that has too
    /// much queued. Both are counted in
    /// [`Counts::messages_dropped`](crate::Counts::messages_dropped).
    ///
    /// # Errors
    /// In each case no client gets the message.
    /// * [`SendError::QueueFull`]: the recipients' workers have not caught up, or no buffer is
    ///   free.
    /// * [`SendError::TooLong`]: the message is longer than a buffer less 37 bytes.
    /// * [`SendError::Gone`]: the recipient of [`To::Client`] is not connected.
    pub fn send_message(&self, to: To, bytes: &[u8]) -> Result<(), SendError> {
        self.send_message_parts(to, &[bytes])
    }

    /// Sends a message that consists of `parts`, as [`send_message`](Connection::send_message)
    /// does.
    ///
    /// # Errors
    /// As [`send_message`](Connection::send_message).
    pub fn send_message_parts(&self, to: To, parts: &[&[u8]]) -> Result<(), SendError> {
        self.messenger.send(Some(self.id), to, parts)
    }

    /// Puts the bytes of a message on the output, as [`send`](Connection::send) does. A message that
    /// does not fit into the output's last buffer need not be copied for each of its recipients: if
    /// the service has places for parts of [shared](crate::buffer::Shared) buffers, and the output
    /// has fewer than 4 buffers, the output refers to the one buffer in which the message came to
    /// the worker.
    pub fn forward(&mut self, message: &Message<'_>) -> bool {
        if let Some((buffer, place)) = &message.shared
            && self.output.leases() < FORWARDED_PARTS_MAX
            && self.output.room_behind() < place.len()
            && self.output.push_shared(buffer, place.clone())
        {
            return true;
        }
        self.send(message.bytes)
    }

    /// Stores a number with this client, which [`ClientInfo::user_data`] shows. The service decides
    /// what it means.
    ///
    /// For a connection that this side started, this and [`set_group`](Connection::set_group) do
    /// nothing, because it is not in the list of clients.
    pub fn set_user_data(&mut self, number: u64) {
        self.set_value(USER_DATA, number);
    }

    /// Puts this client into a group, for [`To::Group`]. A client is in one group at a time, and at
    /// first in group 0.
    pub fn set_group(&mut self, group: u64) {
        self.set_value(GROUP, group);
    }

    fn set_value(&self, value: ClientValue, to: u64) {
        // Once the connection is closed, another may have its place.
        if let Some(directory) = self.messenger.directory()
            && directory.has(self.id)
        {
            directory.set_value(self.id, value, to);
        }
    }

    /// The clients of the server, of all listeners, including this one. Allocates nothing. Clients
    /// that connect or disconnect meanwhile may be missing.
    pub fn clients(&self) -> impl Iterator<Item = ClientInfo> + use<'_> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let (place, client) = self.messenger.directory()?.next(from)?;
            from = place + 1;
            Some(client)
        })
    }

    /// Appends a copy of `bytes` to the output. Many small replies share a buffer. If that takes
    /// more buffers than are free, returns false and appends nothing; the connection
    /// [waits](Connection::wait_for_buffer) for a buffer.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.send_parts(&[bytes])
    }

    /// Appends copies of all `parts` to the output, in order, like [`send`](Connection::send): all
    /// of them or none.
    pub fn send_parts(&mut self, parts: &[&[u8]]) -> bool {
        // First copy what does not fit into the output's last buffer: there may be too few free
        // buffers.
        let mut skip = self.output.room_behind();
        let mut rest = Chain::new(self.pool);
        for part in parts {
            let (_, mut bytes) = part.split_at(skip.min(part.len()));
            skip -= part.len() - bytes.len();
            while !bytes.is_empty() {
                let count = bytes.len().min(rest.room_behind());
                if count > 0 {
                    rest.extend_last(&bytes[..count]);
                    bytes = &bytes[count..];
                } else {
                    let Some(mut lease) = self.take_lease() else { return false };
                    bytes = &bytes[lease.extend_from_slice(bytes)..];
                    rest.push_back(lease);
                }
            }
        }
        for part in parts {
            let count = part.len().min(self.output.room_behind());
            self.output.extend_last(&part[..count]);
        }
        self.output.append(&mut rest);
        true
    }
}

/// A message to a connection, from another client or from another thread.
#[derive(Debug)]
pub struct Message<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) number: u64,
    pub(crate) from: Option<ConnectionId>,
    pub(crate) to_all: bool,
    /// The buffer that all recipients on a worker share, and the range of the bytes in it.
    pub(crate) shared: Option<(&'a Shared, Range<usize>)>,
    pub(crate) refused: Option<SendError>,
}

impl Message<'_> {
    /// The bytes to send; at most the size of a buffer.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The message's number. A broadcast reaches each connection with the same number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The connection in whose call the service sent it. `None` if it is from another thread or
    /// from [`Turn::send_message`].
    pub fn from(&self) -> Option<ConnectionId> {
        self.from
    }

    /// Whether it may have several recipients.
    pub fn is_broadcast(&self) -> bool {
        self.to_all
    }

    /// Refuses the message with this error. A sender on another thread gets the error. The refusal
    /// is counted in any case.
    pub fn refuse(&mut self, why: SendError) {
        self.refused = Some(why);
    }
}

/// What a worker has to handle after it has called a service for a connection: a few bits, which
/// one test covers.
#[derive(Clone, Default)]
pub(crate) struct Attention(Cell<u8>);

impl Attention {
    /// The service has left input unconsumed; the connection is in the queue of those that hold
    /// input.
    pub(crate) const HOLDS: u8 = 1;
    /// The service has found no buffer in this call.
    pub(crate) const WANTS_BUFFER: u8 = 2;
    /// The service waits for a buffer; the connection is in the queue for buffers.
    pub(crate) const WAITS: u8 = 4;
    /// The service has set the connection's timer in this call.
    pub(crate) const SET_TIMER: u8 = 8;
    /// The service has not received any bytes yet. It is of interest when they come.
    pub(crate) const FIRST_BYTE: u8 = 16;
    /// What is of interest when the service has received bytes.
    pub(crate) const AFTER_BYTES: u8 = u8::MAX;
    /// What is of interest after every other call.
    pub(crate) const AFTER_CALL: u8 = !Attention::FIRST_BYTE;

    /// Whether any of these bits is set.
    #[inline]
    pub(crate) fn any(&self, of: u8) -> bool {
        self.0.get() & of != 0
    }

    pub(crate) fn has(&self, bit: u8) -> bool {
        self.0.get() & bit != 0
    }

    pub(crate) fn insert(&self, bit: u8) {
        self.0.set(self.0.get() | bit);
    }

    /// Returns whether the bit was set.
    pub(crate) fn remove(&self, bit: u8) -> bool {
        let before = self.0.replace(self.0.get() & !bit);
        before & bit != 0
    }
}
