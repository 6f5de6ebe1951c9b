//! The [`Service`] trait, which decides what happens to the bytes of connections, and what its
//! methods take and return.
//!
//! A service does no I/O. A worker calls it when something has happened to one of the worker's
//! connections. The service reads the input, puts leases on the output, and returns what is to
//! happen next. It must not block: while it runs, its worker serves no other connection.

use crate::base::time::Time;
use crate::buffer::Lease;
use crate::config::MESSAGE_LEASES_MAX;
use crate::error::{CloseReason, Errno};
use crate::shared::receipt::SendError;

pub(crate) mod messenger;

mod connection;
mod datagram;
mod factory;
mod messages;
#[cfg(test)]
mod tests;
mod turn;

pub use connection::{Connection, Message};
pub use datagram::{Arrival, DatagramService};
pub use factory::{
    SESSION_BYTES_MAX, ServiceFactory, ServicePlan, WorkerContext, assert_session_fits,
};
pub use messenger::To;
pub use turn::Turn;

pub use crate::base::handshake::{Handshake, HandshakeError};
pub use crate::base::key::ConnectionId;
pub use crate::engine::ConnectTo;
pub use crate::net::sockopt::TcpInfo;
pub use crate::shared::directory::Directory;
pub use crate::shared::mailbox::Parcels;

pub(crate) use connection::{Attention, Surroundings};
pub(crate) use turn::Requests;

/// What a service wants to happen to the connection after a call.
///
/// Output that the service has put on the connection is sent in every case except [`Answer::Close`]
/// and [`Answer::CloseFor`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Answer {
    /// Send the output, if there is any. Then continue reading.
    Continue,
    /// Send the output. Start no read before this time, at which [`Service::timer`] is called. A
    /// receive that is in progress is still delivered. This sets the connection's timer. To set it
    /// without a pause in reading, see [`Connection::set_timer`].
    ///
    /// With [`Connection::now`], the call comes in the next turn of the worker's loop, after others
    /// have had theirs. A service returns this if it has done enough in one call and leaves the
    /// rest of the input for later.
    WaitUntil(Time),
    /// Send the output, then FIN, and continue reading. [`Service::peer_closed`] is called when the
    /// peer has closed its side too. Then the connection is closed, whatever the service returns.
    /// Output that is added after this is not sent.
    HalfClose,
    /// Send the output, then close. A client that reads to the end receives all of the output.
    CloseAfterSend,
    /// Close at once. Unsent output is lost.
    Close,
    /// Like [`Answer::CloseAfterSend`], with the reason to log and count.
    CloseAfterSendFor(CloseReason),
    /// Like [`Answer::Close`], with the reason to log and count.
    CloseFor(CloseReason),
}

/// What the server does with its clients' bytes.
///
/// Each worker has its own service, which a [`ServiceFactory`] makes on the worker's thread. The
/// service is called and dropped on that thread, so it needs no locks. It is dropped when the
/// worker ends, which returns the buffers that it holds.
///
/// A panic in a call about a connection closes that connection with [`CloseReason::ServicePanic`]
/// and affects no other. A panic in [`turn`](Service::turn), or in the `Default` or `Drop` of a
/// session, ends the server.
///
/// ```
/// use echopool::service::{Answer, Connection, Service};
/// use echopool::{Config, Server};
///
/// /// Sends back what it receives, in upper case.
/// struct Upper;
///
/// impl Service for Upper {
///     type Session = ();
///
///     fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
///         while let Some(mut lease) = connection.input.pop_front() {
///             lease.filled_mut().make_ascii_uppercase();
///             connection.output.push_back(lease);
///         }
///         Answer::Continue
///     }
/// }
///
/// let config = Config::new().listen("127.0.0.1:0").max_connections(100);
/// let server = Server::start(config, || Upper)?;
/// # Ok::<(), echopool::StartError>(())
/// ```
pub trait Service: 'static {
    /// What the service remembers of one connection. It is stored in the connection's preallocated
    /// context, so it has at most [`SESSION_BYTES_MAX`] bytes. A larger one does not compile; see
    /// [`assert_session_fits`]. Keep larger state in tables inside the service, and allocate them
    /// when the service is made.
    type Session: Default;

    /// Whether the clock is read before each call instead of once per turn of the loop. Reading it
    /// costs about 25 ns per call. Turn it on for a service that measures time.
    const FRESH_CLOCK: bool = false;

    /// Like [`FRESH_CLOCK`](Service::FRESH_CLOCK), for the connections with this
    /// [tag](Connection::tag) only. If each listener has its own service, only those that
    /// measure time pay for it.
    fn fresh_clock(&self, _tag: u64) -> bool {
        Self::FRESH_CLOCK
    }

    /// Whether [`sent`](Service::sent) is called. Turning it off saves about 30 instructions per
    /// echo.
    const HEARS_SENT: bool = true;

    /// Whether the service of another process can continue a connection that has neither input nor
    /// output, from a new session and [`open`](Service::open). Then an upgrade of the daemon hands the
    /// connection over at such a moment, without a call of [`closed`](Service::closed). `tag` is
    /// [`Connection::tag`].
    fn can_move(&self, _tag: u64, _session: &Self::Session) -> bool {
        false
    }

    /// What the service of another process needs to continue a connection that has no input, and
    /// `unsent` bytes of output that the kernel has not taken. The output is not handed over: the
    /// service that gets the number must make these bytes again. `None` if the connection stays for
    /// now. Overrides [`can_move`](Service::can_move), which is for services that need no number.
    ///
    /// If the peer has closed its sending side, [`peer_closed`](Service::peer_closed) is called there
    /// again.
    fn continuation(&self, tag: u64, session: &Self::Session, unsent: usize) -> Option<u64> {
        (unsent == 0 && self.can_move(tag, session)).then_some(0)
    }

    /// The session with which [`open`](Service::open) is called for a connection of another process,
    /// whose service has returned this [`continuation`](Service::continuation).
    fn resumed(&self, _tag: u64, _continuation: u64) -> Self::Session {
        Self::Session::default()
    }

    /// Whether a connection is read while it has unsent output. `false` bounds the server's memory:
    /// a client that does not read is not read from. A client that pipelines may need `true`; the
    /// service must then limit its output itself. `tag` is [`Connection::tag`].
    fn full_duplex(&self, _tag: u64) -> bool {
        false
    }

    /// The most bytes that the service leaves in the input of a connection, for example the length
    /// of a message that it must see whole. It matters only if it is more than the few buffers that
    /// each connection may fill. A connection with more input is closed with
    /// [`CloseReason::InputLimit`].
    fn input_max(&self, _tag: u64) -> usize {
        0
    }

    /// A connection is established.
    fn open(&mut self, _connection: &mut Connection<'_>, _session: &mut Self::Session) -> Answer {
        Answer::Continue
    }

    /// Bytes have arrived in [`Connection::input`].
    fn data(&mut self, connection: &mut Connection<'_>, session: &mut Self::Session) -> Answer;

    /// All output has been passed to the kernel.
    fn sent(&mut self, _connection: &mut Connection<'_>, _session: &mut Self::Session) -> Answer {
        Answer::Continue
    }

    /// The peer has closed its sending side; no more bytes will arrive. A service that has more to
    /// send returns [`Answer::Continue`], which keeps the sending side open.
    fn peer_closed(
        &mut self,
        _connection: &mut Connection<'_>,
        _session: &mut Self::Session,
    ) -> Answer {
        Answer::CloseAfterSend
    }

    /// A buffer is free, and the connection has [waited](Connection::wait_for_buffer) for one. The
    /// next [`take_lease`](Connection::take_lease) returns it.
    ///
    /// The default implementation calls [`data`](Service::data) if there is input, and
    /// [`sent`](Service::sent) otherwise. This is enough for a service that leaves its input in
    /// place when it finds no buffer. The call is also made if the service has meanwhile got its
    /// buffer in another call.
    fn buffer_available(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut Self::Session,
    ) -> Answer {
        match connection.input.is_empty() {
            true => self.sent(connection, session),
            false => self.data(connection, session),
        }
    }

    /// The server drains: every connection should finish. A service that still owes the client data
    /// returns [`Answer::WaitUntil`] with a later time, before which nothing more is read, and
    /// closes once that data is sent. Connections that are left at the drain's deadline are closed
    /// at once.
    fn draining(
        &mut self,
        _connection: &mut Connection<'_>,
        _session: &mut Self::Session,
    ) -> Answer {
        Answer::CloseAfterSend
    }

    /// The time set by [`Connection::set_timer`] or [`Answer::WaitUntil`] has come, or
    /// [`Turn::wake`] was called for this connection.
    fn timer(&mut self, _connection: &mut Connection<'_>, _session: &mut Self::Session) -> Answer {
        Answer::Continue
    }

    /// A message for this connection has arrived, from another connection
    /// ([`Connection::send_message`]) or another thread
    /// ([`ServerHandle::send_to`](crate::ServerHandle::send_to)).
    ///
    /// The default implementation puts its bytes on the output. It refuses the message if the
    /// output already has 16 buffers or if no buffer is free.
    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        _: &mut Self::Session,
        message: &mut Message<'_>,
    ) -> Answer {
        put_on_output(connection, message);
        Answer::Continue
    }

    /// The connection will be closed once its output is sent, because of a drain, a time-out, or
    /// what the service returned. This is the last call that can add output. After it, only
    /// [`closed`](Service::closed) is called for the connection.
    ///
    /// A service that has lost something that it owed the client returns the reason. The connection
    /// is then reset at once, so that the client does not take what it got for everything.
    fn finishing(
        &mut self,
        _connection: &mut Connection<'_>,
        _session: &mut Self::Session,
    ) -> Option<CloseReason> {
        None
    }

    /// The connection is about to be closed at once and its input discarded. This is the last call
    /// that can read the input.
    fn cut_off(&mut self, _connection: &mut Connection<'_>, _session: &mut Self::Session) {}

    /// A buffer has arrived that the service of this listener, given by its index, has
    /// [sent](Parcels::send) on another worker.
    fn parcel(&mut self, _listener: usize, _lease: Lease, _now: Time) {}

    /// The connection is closed; nothing can be sent on `connection`. This is the last call for it.
    fn closed(
        &mut self,
        _connection: &mut Connection<'_>,
        _session: &mut Self::Session,
        _reason: CloseReason,
    ) {
    }

    /// A connect that was requested with [`Turn::connect`] is in progress, and the connection has
    /// this id. [`Turn::close`] gives it up.
    fn connecting(&mut self, _tag: u64, _id: ConnectionId) {}

    /// A connection requested with [`Turn::connect`] was not established. `tag` is the one passed
    /// to `connect`.
    fn connect_failed(&mut self, _tag: u64, _error: Errno, _now: Time) {}

    /// The TLS handshake of a connect that was requested with [`Turn::connect`] has ended. If it
    /// has failed, the connect has, and there is no other call for it. Otherwise
    /// [`open`](Service::open) follows.
    ///
    /// The default implementation passes a failure on to
    /// [`connect_failed`](Service::connect_failed), as [`Errno::PROTO`].
    fn handshake(&mut self, tag: u64, result: Result<Handshake, HandshakeError>, now: Time) {
        if result.is_err() {
            self.connect_failed(tag, Errno::PROTO, now);
        }
    }

    /// Called once in each turn of the worker's loop. A client service starts its connections here.
    /// Returns the latest time for the next call; if nothing else happens, the call is made then.
    fn turn(&mut self, _turn: &mut Turn<'_>) -> Option<Time> {
        None
    }
}

/// Puts the bytes of a message on the output, unless the output has too many buffers already or no
/// buffer is free. Then it refuses the message. Returns whether they are there.
pub(crate) fn put_on_output(connection: &mut Connection<'_>, message: &mut Message<'_>) -> bool {
    let is_there = connection.output.leases() < MESSAGE_LEASES_MAX && connection.forward(message);
    if !is_there {
        message.refuse(SendError::QueueFull);
    }
    is_there
}
