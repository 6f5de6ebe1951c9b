//! The byte layer of TLS: a session of rustls between a connection's socket and its service.
//!
//! The connection is open when the handshake is done, on either side. close_notify is the end of the peer's stream,
//! as FIN is without TLS, and a FIN without it means that the stream was cut. When the service ends
//! its output, close_notify precedes FIN.
//!
//! Output is encrypted at most [`AHEAD`] bytes before the kernel takes it, so that the bound of a
//! service's output bounds the output. Input is decrypted as it arrives, because the worker receives
//! nothing while output waits.

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

#[cfg(test)]
mod tests;

/// How many bytes of records may wait for the kernel before more output is encrypted. This is a
/// connection's share of a turn, and the most that rustls encrypts at once.
const AHEAD: usize = 64 << 10;

/// The layer of a listener with TLS, or of connections that this side starts.
#[derive(Clone)]
pub(crate) struct Tls {
    side: Side,
    /// How long a handshake may take.
    handshake_timeout: Duration,
}

/// What begins the sessions.
#[derive(Clone)]
enum Side {
    Server(Arc<Acceptor>),
    /// The session for a connection with this tag.
    Client(Arc<Begin>),
}

type Begin = dyn Fn(u64) -> Option<Box<Session>> + Send + Sync;

/// What the layer keeps for one connection.
pub(crate) struct Held {
    /// `None` if it could not be made.
    session: Option<Box<Session>>,
    /// Records that have arrived and were not decrypted, because there was no buffer for those
    /// before them.
    received: Chain,
    /// Records to send.
    wire: Chain,
    /// Bytes that were put into `wire` and not sent yet.
    unsent: usize,
    /// The service's bytes in these, at most.
    of_service: usize,
    stage: Stage,
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
enum Stage {
    Open,
    /// The service adds nothing more.
    Finishing,
    /// close_notify or a fatal alert is the last record.
    Last,
}

impl Tls {
    pub(crate) fn new(acceptor: Arc<Acceptor>, handshake_timeout: Duration) -> Tls {
        Tls { side: Side::Server(acceptor), handshake_timeout }
    }

    /// The layer of connections that this side starts. `begin` makes the session for a tag. The
    /// time-out of a connect includes the handshake.
    pub(crate) fn connecting(
        begin: impl Fn(u64) -> Option<Box<Session>> + Send + Sync + 'static,
    ) -> Tls {
        Tls { side: Side::Client(Arc::new(begin)), handshake_timeout: Duration::MAX }
    }

    /// What a listener's sessions begin with.
    pub(crate) fn acceptor(&self) -> Option<&Arc<Acceptor>> {
        match &self.side {
            Side::Server(acceptor) => Some(acceptor),
            Side::Client(_) => None,
        }
    }
}

impl Held {
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
    fn failed(&mut self, error: &Error) -> CloseReason {
        let reason = match self.is_handshaking() {
            true => CloseReason::TlsHandshake,
            false => CloseReason::TlsAlert,
        };
        log::debug!("{reason}: {error}");
        if reason == CloseReason::TlsHandshake {
            self.handshake_failed(session::reason(error));
        }
        self.stage = Stage::Last;
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
                Stage::Last => return drop(output.take()),
                _ if self.unsent >= AHEAD => return,
                _ if !output.is_empty() => {
                    let taken = session.send(output.first_slice());
                    output.consume(taken);
                    self.of_service += taken;
                }
                Stage::Open => return,
                Stage::Finishing => {
                    session.close();
                    self.stage = Stage::Last;
                }
            }
        }
    }
}

impl Layer for Tls {
    type State = Held;

    fn state(&self, tag: u64, _: Peer, pool: &Pool) -> Held {
        let (session, client) = match &self.side {
            Side::Server(acceptor) => (acceptor.session(), None),
            Side::Client(begin) => {
                (begin(tag), Some(ClientHandshake { began: Time::ZERO, ended: None }))
            }
        };
        Held {
            session,
            client: client.map(Box::new),
            received: Chain::new(pool),
            wire: Chain::new(pool),
            unsent: 0,
            of_service: 0,
            stage: Stage::Open,
            heard: false,
            peer_closed: false,
            starves_to_receive: false,
            starves_to_send: false,
        }
    }

    fn bytes_each(&self) -> usize {
        Session::BYTES
    }

    fn begin(&mut self, held: &mut Held, _: &Pool) -> Result<(), CloseReason> {
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

    fn handshake(&self, held: &Held) -> Option<Result<Handshake, HandshakeError>> {
        held.client.as_ref()?.ended
    }

    fn peer(&self, held: &Held, at: Peer) -> Option<Peer> {
        (!held.is_handshaking()).then_some(at)
    }

    fn opening_timeout(&self, _: &Held) -> Duration {
        self.handshake_timeout
    }

    fn decide(&mut self, held: &mut Held, _: &mut Chain, _: &Pool) -> Result<usize, CloseReason> {
        held.handshake_failed(HandshakeError::TimedOut);
        Err(CloseReason::TlsHandshake)
    }

    fn received(
        &mut self,
        held: &mut Held,
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

    fn has_ended(&self, held: &Held) -> bool {
        held.peer_closed && !held.starves_to_receive
    }

    fn ended(&mut self, held: &mut Held, _: &mut Chain, _: &Pool) -> Result<usize, CloseReason> {
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
        held: &'a mut Held,
        output: &'a mut Chain,
        pool: &Pool,
    ) -> &'a mut Chain {
        held.encrypt(output, pool);
        &mut held.wire
    }

    /// While records are sent in part, it is not known how many of the service's bytes are in that
    /// part. At most as many as there are bytes left are not sent.
    fn sent(&mut self, held: &mut Held, wire_bytes: usize) -> usize {
        held.unsent -= wire_bytes;
        let left = held.of_service.min(held.unsent);
        let sent = held.of_service - left;
        held.of_service = left;
        sent
    }

    fn finish(&mut self, held: &mut Held) {
        if held.stage == Stage::Open {
            held.stage = Stage::Finishing;
        }
    }

    fn forget_input(&mut self, held: &mut Held) {
        drop(held.received.take());
        held.starves_to_receive = false;
    }

    fn starves(&self, held: &Held) -> bool {
        held.starves_to_receive || held.starves_to_send
    }
}
