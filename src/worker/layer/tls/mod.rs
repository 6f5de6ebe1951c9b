//! The byte layer of TLS: a session of rustls between a connection's socket and its service.
//!
//! The connection is open when the handshake is done. close_notify is the end of the peer's stream,
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
use crate::buffer::{Chain, Pool};
use crate::error::CloseReason;
use crate::tls::server::Acceptor;
use crate::tls::session::{Error, Session};

#[cfg(test)]
mod tests;

/// How many bytes of records may wait for the kernel before more output is encrypted. This is a
/// connection's share of a turn, and the most that rustls encrypts at once.
const AHEAD: usize = 64 << 10;

/// The layer of a listener with TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: Arc<Acceptor>,
    /// How long a handshake may take.
    handshake_timeout: Duration,
}

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
        Tls { acceptor, handshake_timeout }
    }

    pub(crate) fn acceptor(&self) -> &Arc<Acceptor> {
        &self.acceptor
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
        self.stage = Stage::Last;
        reason
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

    fn state(&self, _: u64, _: Peer, pool: &Pool) -> Held {
        Held {
            session: self.acceptor.session(),
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
        if held.session.is_none() { Err(CloseReason::TlsHandshake) } else { Ok(()) }
    }

    fn peer(&self, held: &Held, at: Peer) -> Option<Peer> {
        (!held.is_handshaking()).then_some(at)
    }

    fn opening_timeout(&self, _: &Held) -> Duration {
        self.handshake_timeout
    }

    fn decide(&mut self, _: &mut Held, _: &mut Chain, _: &Pool) -> Result<usize, CloseReason> {
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
        Ok(input.len() - before)
    }

    fn has_ended(&self, held: &Held) -> bool {
        held.peer_closed && !held.starves_to_receive
    }

    fn ended(&mut self, held: &mut Held, _: &mut Chain, _: &Pool) -> Result<usize, CloseReason> {
        match held.is_handshaking() {
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
