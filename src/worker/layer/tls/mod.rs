//! The byte layer of TLS: a session of rustls between a connection's socket and its service.
//!
//! The connection is open when the handshake is done, on either side. close_notify is the end of
//! the peer's stream, as FIN is without TLS, and a FIN without it means that the stream may be
//! truncated. When the service ends its output, close_notify precedes FIN.
//!
//! Output is encrypted at most [`AHEAD`](Records::AHEAD) bytes before the kernel takes it, so that the bound of a
//! service's output bounds the output. Input is decrypted as it arrives, because the worker receives
//! nothing while output waits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Layer;
use crate::base::endpoint::Peer;
use crate::base::handshake::{Handshake, HandshakeError};
use crate::base::time::Time;
use crate::buffer::{Chain, Pool};
use crate::engine::sys::monotonic_now;
use crate::error::CloseReason;
use crate::tls::server::Acceptor;
use crate::tls::session::{self, Error, Session};

#[cfg(any(test, feature = "sim"))]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;

/// What the layer needs of a session. The simulated world has one that stands in for rustls.
pub(crate) trait Records: Sized + 'static {
    /// What begins the sessions of a listener.
    type Acceptor;
    type Error: fmt::Display;

    /// How many bytes of records may wait for the kernel before more output is encrypted.
    const AHEAD: usize;
    /// Memory of a session, in bytes at most.
    const BYTES: usize;

    /// Begins the session of a new client. `None` if it cannot be made.
    fn accept(acceptor: &Self::Acceptor) -> Option<Box<Self>>;

    /// See the methods of [`Session`].
    fn is_handshaking(&self) -> bool;
    fn handshake(&self) -> Handshake;
    fn receive(&mut self, wire: &mut Chain) -> Result<bool, Self::Error>;
    fn plaintext(&mut self, input: &mut Chain, pool: &Pool) -> bool;
    fn send(&mut self, plaintext: &[u8]) -> usize;
    fn has_records(&self) -> bool;
    fn records(&mut self, wire: &mut Chain, pool: &Pool) -> bool;
    fn close(&mut self);

    /// What an error in the handshake means to a client.
    fn reason(error: &Self::Error) -> HandshakeError;
}

impl Records for Session {
    type Acceptor = Acceptor;
    type Error = Error;

    /// A connection's share of a turn, and the most that rustls encrypts at once.
    const AHEAD: usize = 64 << 10;
    const BYTES: usize = Session::BYTES;

    fn accept(acceptor: &Acceptor) -> Option<Box<Session>> {
        acceptor.session()
    }

    #[inline]
    fn is_handshaking(&self) -> bool {
        Session::is_handshaking(self)
    }

    fn handshake(&self) -> Handshake {
        Session::handshake(self)
    }

    #[inline]
    fn receive(&mut self, wire: &mut Chain) -> Result<bool, Error> {
        Session::receive(self, wire)
    }

    #[inline]
    fn plaintext(&mut self, input: &mut Chain, pool: &Pool) -> bool {
        Session::plaintext(self, input, pool)
    }

    #[inline]
    fn send(&mut self, plaintext: &[u8]) -> usize {
        Session::send(self, plaintext)
    }

    #[inline]
    fn has_records(&self) -> bool {
        Session::has_records(self)
    }

    #[inline]
    fn records(&mut self, wire: &mut Chain, pool: &Pool) -> bool {
        Session::records(self, wire, pool)
    }

    fn close(&mut self) {
        Session::close(self);
    }

    fn reason(error: &Error) -> HandshakeError {
        session::reason(error)
    }
}

/// The layer of a listener with TLS, or of connections that this side starts.
pub(crate) struct Tls<S: Records = Session> {
    side: Side<S>,
    /// How long a handshake may take.
    handshake_timeout: Duration,
}

/// What begins the sessions.
enum Side<S: Records> {
    Server(Arc<S::Acceptor>),
    /// The session for a connection with this tag.
    Client(Arc<Begin<S>>),
}

type Begin<S> = dyn Fn(u64) -> Option<Box<S>> + Send + Sync;

impl<S: Records> Clone for Tls<S> {
    fn clone(&self) -> Tls<S> {
        let side = match &self.side {
            Side::Server(acceptor) => Side::Server(acceptor.clone()),
            Side::Client(begin) => Side::Client(begin.clone()),
        };
        Tls { side, handshake_timeout: self.handshake_timeout }
    }
}

/// What the layer keeps for one connection.
pub(crate) struct TlsState<S = Session> {
    /// `None` if it could not be made.
    session: Option<Box<S>>,
    /// Records that have arrived and were not decrypted, because there was no buffer for those
    /// before them.
    received: Chain,
    /// Records to send.
    wire: Chain,
    /// Bytes that were put into `wire` and not sent yet.
    unsent: usize,
    /// The service's bytes in these and in the session, at most.
    of_service: usize,
    /// The service's bytes that the session took last. It takes more only when its records are in
    /// `wire`, so it keeps no more than these.
    taken_last: usize,
    stage: OutputStage,
    /// Whether any byte has arrived.
    heard: bool,
    /// The peer has sent close_notify.
    peer_closed: bool,
    starves_to_receive: bool,
    starves_to_send: bool,
    /// Only of a connection that this side has started.
    client: Option<Box<ClientHandshake>>,
}

/// The handshake of a client.
struct ClientHandshake {
    began: Time,
    /// `None` until it has ended.
    ended: Option<Result<Handshake, HandshakeError>>,
}

/// How far the output is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputStage {
    Open,
    /// The service adds nothing more.
    Finishing,
    /// close_notify or a fatal alert is the last record.
    Last,
}

impl<S: Records> Tls<S> {
    pub(crate) fn new(acceptor: Arc<S::Acceptor>, handshake_timeout: Duration) -> Tls<S> {
        Tls { side: Side::Server(acceptor), handshake_timeout }
    }

    /// The layer of connections that this side starts. `begin` makes the session for a tag. The
    /// time-out of a connect includes the handshake.
    pub(crate) fn connecting(
        begin: impl Fn(u64) -> Option<Box<S>> + Send + Sync + 'static,
    ) -> Tls<S> {
        Tls { side: Side::Client(Arc::new(begin)), handshake_timeout: Duration::MAX }
    }

    /// What a listener's sessions begin with.
    pub(crate) fn acceptor(&self) -> Option<&Arc<S::Acceptor>> {
        match &self.side {
            Side::Server(acceptor) => Some(acceptor),
            Side::Client(_) => None,
        }
    }
}

impl<S: Records> TlsState<S> {
    fn is_handshaking(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.is_handshaking())
    }

    /// Decrypts what has arrived, as far as there are free buffers.
    fn decrypt(&mut self, input: &mut Chain, pool: &Pool) -> Result<(), CloseReason> {
        let Some(session) = &mut self.session else { return Err(CloseReason::TlsHandshake) };
        loop {
            self.starves_to_receive = !session.plaintext(input, pool);
            if self.starves_to_receive {
                return Ok(());
            }
            if self.peer_closed {
                // What follows close_notify is ignored.
                drop(self.received.take());
            }
            if self.received.is_empty() {
                return Ok(());
            }
            match session.receive(&mut self.received) {
                Ok(closed) => self.peer_closed = closed,
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    /// The session has failed. Its alert is the last record. Returns the reason to close.
    #[cold]
    fn failed(&mut self, error: &S::Error) -> CloseReason {
        let reason = match self.is_handshaking() {
            true => CloseReason::TlsHandshake,
            false => CloseReason::TlsAlert,
        };
        log::debug!("{reason}: {error}");
        if reason == CloseReason::TlsHandshake {
            self.handshake_failed(S::reason(error));
        }
        self.stage = OutputStage::Last;
        reason
    }

    /// Records the first reason why a client's handshake has failed.
    fn handshake_failed(&mut self, error: HandshakeError) {
        if let Some(client) = &mut self.client {
            client.ended.get_or_insert(Err(error));
        }
    }

    /// Records that a client's handshake is done, if it is.
    fn look_at_handshake(&mut self) {
        if let (Some(client), Some(session)) = (&mut self.client, &self.session)
            && client.ended.is_none()
            && !session.is_handshaking()
        {
            let time = monotonic_now() - client.began;
            client.ended = Some(Ok(Handshake { time, ..session.handshake() }));
        }
    }

    /// Encrypts output, as far as there are free buffers and the kernel keeps up.
    fn encrypt(&mut self, output: &mut Chain, pool: &Pool) {
        let Some(session) = &mut self.session else { return };
        loop {
            let before = self.wire.len();
            self.starves_to_send = session.has_records() && !session.records(&mut self.wire, pool);
            self.unsent += self.wire.len() - before;
            if self.starves_to_send {
                return;
            }
            match self.stage {
                _ if session.is_handshaking() => return,
                // The peer has been told that nothing follows.
                OutputStage::Last => return drop(output.take()),
                _ if self.unsent >= S::AHEAD => return,
                _ if !output.is_empty() => {
                    let taken = session.send(output.first_slice());
                    output.consume(taken);
                    self.of_service += taken;
                    self.taken_last = taken;
                }
                OutputStage::Open => return,
                OutputStage::Finishing => {
                    session.close();
                    self.stage = OutputStage::Last;
                }
            }
        }
    }
}

impl<S: Records> Layer for Tls<S> {
    type State = TlsState<S>;

    fn state(&self, tag: u64, _: Peer, pool: &Pool) -> TlsState<S> {
        let (session, client) = match &self.side {
            Side::Server(acceptor) => (S::accept(acceptor), None),
            Side::Client(begin) => {
                (begin(tag), Some(ClientHandshake { began: Time::ZERO, ended: None }))
            }
        };
        TlsState {
            session,
            client: client.map(Box::new),
            received: Chain::new(pool),
            wire: Chain::new(pool),
            unsent: 0,
            of_service: 0,
            taken_last: 0,
            stage: OutputStage::Open,
            heard: false,
            peer_closed: false,
            starves_to_receive: false,
            starves_to_send: false,
        }
    }

    fn bytes_each(&self) -> usize {
        S::BYTES
    }

    fn begin(&mut self, held: &mut TlsState<S>, _: &Pool) -> Result<(), CloseReason> {
        if let Some(client) = &mut held.client {
            client.began = monotonic_now();
        }
        match held.session {
            Some(_) => Ok(()),
            None => {
                held.handshake_failed(HandshakeError::Failed);
                Err(CloseReason::TlsHandshake)
            }
        }
    }

    fn handshake(&self, held: &TlsState<S>) -> Option<Result<Handshake, HandshakeError>> {
        held.client.as_ref()?.ended
    }

    fn peer(&self, held: &TlsState<S>, at: Peer) -> Option<Peer> {
        (!held.is_handshaking()).then_some(at)
    }

    fn opening_timeout(&self, _: &TlsState<S>) -> Duration {
        self.handshake_timeout
    }

    fn decide(
        &mut self,
        held: &mut TlsState<S>,
        _: &mut Chain,
        _: &Pool,
    ) -> Result<usize, CloseReason> {
        held.handshake_failed(HandshakeError::TimedOut);
        Err(CloseReason::TlsHandshake)
    }

    fn received(
        &mut self,
        held: &mut TlsState<S>,
        input: &mut Chain,
        wire: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason> {
        held.heard |= !wire.is_empty();
        held.received.absorb(wire);
        let before = input.len();
        held.decrypt(input, pool)?;
        held.look_at_handshake();
        Ok(input.len() - before)
    }

    fn has_ended(&self, held: &TlsState<S>) -> bool {
        held.peer_closed && !held.starves_to_receive
    }

    fn ended(
        &mut self,
        held: &mut TlsState<S>,
        _: &mut Chain,
        _: &Pool,
    ) -> Result<usize, CloseReason> {
        let handshaking = held.is_handshaking();
        if handshaking {
            held.handshake_failed(HandshakeError::Closed);
        }
        match handshaking {
            _ if held.peer_closed || !held.heard => Ok(0),
            true => Err(CloseReason::TlsHandshake),
            false => Err(CloseReason::TlsTruncated),
        }
    }

    #[inline]
    fn outgoing<'a>(
        &mut self,
        held: &'a mut TlsState<S>,
        output: &'a mut Chain,
        pool: &Pool,
    ) -> &'a mut Chain {
        held.encrypt(output, pool);
        &mut held.wire
    }

    /// While records are sent in part, it is not known how many of the service's bytes are in that
    /// part. At most as many as there are bytes left are not sent, and those that the session still
    /// keeps for want of a buffer.
    fn sent(&mut self, held: &mut TlsState<S>, wire_bytes: usize) -> usize {
        held.unsent -= wire_bytes;
        let keeps = held.session.as_ref().is_some_and(|session| session.has_records());
        let kept = if keeps { held.taken_last } else { 0 };
        let left = held.of_service.min(held.unsent + kept);
        let sent = held.of_service - left;
        held.of_service = left;
        sent
    }

    fn finish(&mut self, held: &mut TlsState<S>) {
        if held.stage == OutputStage::Open {
            held.stage = OutputStage::Finishing;
        }
    }

    fn forget_input(&mut self, held: &mut TlsState<S>) {
        drop(held.received.take());
        held.starves_to_receive = false;
    }

    fn starves(&self, held: &TlsState<S>) -> bool {
        held.starves_to_receive || held.starves_to_send
    }

    fn keeps_output(&self, held: &TlsState<S>) -> bool {
        held.starves_to_send
    }
}
