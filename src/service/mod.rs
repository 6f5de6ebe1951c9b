//! What is done with the bytes: the [`Service`] trait, the view of a connection that its calls get,
//! and what they return.
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
mod factory;
mod messages;
#[cfg(test)]
mod tests;
mod turn;

pub use connection::{Connection, Message};
pub use factory::{
    SESSION_BYTES_MAX, ServiceFactory, ServicePlan, WorkerContext, assert_session_fits,
};
pub use messenger::To;
pub use turn::Turn;

pub use crate::base::key::ConnectionId;
pub use crate::engine::ConnectTo;
pub use crate::shared::directory::Directory;
pub use crate::shared::mailbox::Parcels;

pub(crate) use connection::Attention;
pub(crate) use turn::Requests;

/// What a service wants to happen to the connection after a call.
///
/// Output that the service has put on the connection is sent in every case but [`Answer::Close`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Answer {
    /// Send the output, if there is any; then read on.
    Continue,
    /// Send the output and do not begin to read before this time; then [`Service::timer`] is called.
    /// A receive that is under way is still handed in. This sets the connection's timer; to set it
    /// without a pause in reading, see [`Connection::set_timer`].
    WaitUntil(Time),
    /// Send the output, then FIN, and read on: [`Service::peer_closed`] comes when the peer has
    /// closed its side too. What is put on the output after this is not sent.
    HalfClose,
    /// Send the output, then close: no byte of the output is lost to a client that reads to the
    /// end.
    CloseAfterSend,
    /// Close at once; what has not been sent is lost.
    Close,
    /// As [`Answer::CloseAfterSend`], and this is the reason that is logged and counted.
    CloseAfterSendFor(CloseReason),
    /// As [`Answer::Close`], and this is the reason that is logged and counted.
    CloseFor(CloseReason),
}

/// What the server does with its clients' bytes.
///
/// Each worker has a service of its own, which a [`ServiceFactory`] makes on the worker's thread. The
/// service is called and dropped on that thread, so it needs no locks. It is dropped when the worker
/// ends, which gives back the buffers that it keeps.
///
/// A panic in a call that is about a connection closes that connection with
/// [`CloseReason::ServicePanic`], and nothing else. A panic in [`turn`](Service::turn), or in the
/// `Default` or `Drop` of a session, ends the server.
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
/// let anywhere: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
/// let config = Config::new().listen(anywhere).max_connections(100);
/// let server = Server::start(config, || Upper)?;
/// # Ok::<(), echopool::StartError>(())
/// ```
pub trait Service: 'static {
    /// What the service remembers of one connection. It lives in the connection's preallocated
    /// context, so it is at most [`SESSION_BYTES_MAX`] bytes. A larger one does not compile; see
    /// [`assert_session_fits`]. Keep larger state in tables of the service's own, and allocate them
    /// when the service is made.
    type Session: Default;

    /// Whether the clock is read before each call rather than once for each turn of the loop. It
    /// costs some 25 ns a call; a service that measures time wants it.
    const FRESH_CLOCK: bool = false;

    /// The same for the connections with this [tag](Connection::tag) alone, so that a service for
    /// each listener costs only those that measure time.
    fn fresh_clock(&self, _tag: u64) -> bool {
        Self::FRESH_CLOCK
    }

    /// Whether [`sent`](Service::sent) is called. Turning it off saves about 30 instructions per echo.
    const HEARS_SENT: bool = true;

    /// Whether a connection is read while it has unsent output. `false` keeps a server's memory
    /// bounded: a client that does not read is not read from. A client that pipelines may need
    /// `true`; then the service must limit its output itself. `tag` is [`Connection::tag`].
    fn full_duplex(&self, _tag: u64) -> bool {
        false
    }

    /// The most bytes that the service leaves in the input of a connection, where that is more than
    /// the few buffers that each connection may fill: the length of a message that it has to see
    /// whole, for example. A connection with more is closed with
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

    /// All output has been handed to the kernel.
    fn sent(&mut self, _connection: &mut Connection<'_>, _session: &mut Self::Session) -> Answer {
        Answer::Continue
    }

    /// The peer has closed its sending side; nothing more will arrive. [`Answer::Continue`] keeps
    /// the sending side open for a service that has more to say.
    fn peer_closed(
        &mut self,
        _connection: &mut Connection<'_>,
        _session: &mut Self::Session,
    ) -> Answer {
        Answer::CloseAfterSend
    }

    /// A buffer is free, and the connection has [waited](Connection::wait_for_buffer) for one. The
    /// next [`take_lease`](Connection::take_lease) finds it.
    ///
    /// By default calls [`data`](Service::data) if there is input, and [`sent`](Service::sent)
    /// otherwise. So a service that leaves its input in place when it finds no buffer needs nothing
    /// else. The call also comes if the service has got what it wanted meanwhile, in another call.
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

    /// The server drains: every connection is to finish. A service that still owes the client
    /// something answers [`Answer::WaitUntil`] a later time (nothing more is read until then) and
    /// closes when that is sent; the deadline of the drain cuts what is left.
    fn draining(
        &mut self,
        _connection: &mut Connection<'_>,
        _session: &mut Self::Session,
    ) -> Answer {
        Answer::CloseAfterSend
    }

    /// The time has come that [`Connection::set_timer`] or [`Answer::WaitUntil`] has set, or
    /// [`Turn::wake`] was called for this connection.
    fn timer(&mut self, _connection: &mut Connection<'_>, _session: &mut Self::Session) -> Answer {
        Answer::Continue
    }

    /// A message for this connection has come, from another connection
    /// ([`Connection::send_message`]) or another thread
    /// ([`ServerHandle::send_to`](crate::ServerHandle::send_to)).
    ///
    /// By default puts its bytes on the output, and refuses it if that has 16 buffers already or no
    /// buffer is free.
    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        _: &mut Self::Session,
        message: &mut Message<'_>,
    ) -> Answer {
        if connection.output.leases() >= MESSAGE_LEASES_MAX || !connection.forward(message) {
            message.refuse(SendError::QueueFull);
        }
        Answer::Continue
    }

    /// The connection will be closed when its output is sent: because of a drain, of a time-out, or
    /// of what the service returned. This is the last call that can put something on the output.
    /// Only [`closed`](Service::closed) is called for the connection after this.
    fn finishing(&mut self, _connection: &mut Connection<'_>, _session: &mut Self::Session) {}

    /// The connection is about to be closed at once, and its input to be given up: the last chance to
    /// look at it.
    fn cut_off(&mut self, _connection: &mut Connection<'_>, _session: &mut Self::Session) {}

    /// A buffer has come that the service of this listener, by its index, has
    /// [sent](Parcels::send) on another worker.
    fn parcel(&mut self, _listener: usize, _lease: Lease, _now: Time) {}

    /// The connection is gone; `connection` can no longer be sent to. The last call for it.
    fn closed(
        &mut self,
        _connection: &mut Connection<'_>,
        _session: &mut Self::Session,
        _reason: CloseReason,
    ) {
    }

    /// A connection that was asked for with [`Turn::connect`] is being made, and has this id:
    /// [`Turn::close`] gives it up.
    fn connecting(&mut self, _tag: u64, _id: ConnectionId) {}

    /// A connection begun with [`Turn::connect`] was not established. `tag` is the one it was begun
    /// with.
    fn connect_failed(&mut self, _tag: u64, _error: Errno, _now: Time) {}

    /// Called once in each turn of the worker's loop. A client service begins its connections here.
    /// Returns when it wants to be called again at the latest, if nothing happens before.
    fn turn(&mut self, _turn: &mut Turn<'_>) -> Option<Time> {
        None
    }
}
