//! The state of a client: the stage of its connection, its queues and its options.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::endpoint::Endpoint;
use crate::base::time::Time;
use crate::client::error::Error;
use crate::client::ops::{Fifo, NONE};
use crate::client::options::{OnState, Reconnect, Unsent};
use crate::client::target::Target;
use crate::error::Errno;
use crate::protocol::framing::Framing;
use crate::service::{ConnectionId, HandshakeError};

/// The stage of a client's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ConnectionStage {
    Idle,
    /// The name is being looked up.
    Resolving,
    Connecting,
    Open(ConnectionId),
    /// Either side has started to close it.
    Closing,
    /// Waiting for the next attempt, at this time.
    BackOff(Time),
}

/// The operations that wait for one connection, in the order in which they were started.
pub(super) struct Queues {
    /// Operations to send.
    pub(super) waiting: Fifo,
    /// Operations that receive.
    pub(super) receiving: Fifo,
    /// A half-close is or was in the queue of sends, so no send may follow.
    pub(super) fin: bool,
}

impl Queues {
    const EMPTY: Queues = Queues { waiting: Fifo::EMPTY, receiving: Fifo::EMPTY, fin: false };
}

/// The state of one connection, reset when it ends.
#[derive(Default)]
pub(super) struct Stream {
    /// Number of bytes put on its output, and number of those that the kernel has accepted.
    pub(super) put: u64,
    pub(super) sent: u64,
    pub(super) paused: bool,
    pub(super) opened_at: Time,
    pub(super) got_bytes: bool,
    /// The error for which this side is to reset it.
    pub(super) abort: Option<Error>,
    /// The error that it ends with, if it differs from what the engine will report.
    pub(super) why: Option<Error>,
    /// The start of the next message is unknown, so received bytes are useless.
    pub(super) out_of_sync: bool,
    /// The connection has ended, so bytes on its output will not be sent.
    pub(super) gone: bool,
}

/// Received bytes that belong to no operation: returned by an operation that ended early, or left
/// by a connection that has ended.
///
/// The bytes of each connection stay apart, because no operation may receive bytes of two.
#[derive(Default)]
pub(super) struct Stash {
    /// The bytes of connections that have ended, the oldest first, each with the error that ended
    /// the connection, which is reported after them.
    ended: VecDeque<(Bytes, Error)>,
    /// The bytes of the present connection.
    present: Bytes,
}

/// Number of ended connections whose bytes are kept. A client that never receives does not collect
/// more, however often it reconnects.
const ENDED_MAX: usize = 4;

#[derive(Default)]
struct Bytes {
    all: Vec<u8>,
    /// Index of the first byte that has not been taken.
    from: usize,
}

impl Bytes {
    fn rest(&self) -> &[u8] {
        &self.all[self.from..]
    }
}

impl Stash {
    /// The next bytes. All are of one connection.
    pub(super) fn bytes(&self) -> &[u8] {
        self.ended.front().map_or(&self.present, |(bytes, _)| bytes).rest()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// The error that ended the connection of the next bytes. `None` while it is open.
    pub(super) fn end(&self) -> Option<&Error> {
        self.ended.front().map(|(_, why)| why)
    }

    fn first(&mut self) -> &mut Bytes {
        self.ended.front_mut().map_or(&mut self.present, |(bytes, _)| bytes)
    }

    pub(super) fn consume(&mut self, count: usize) {
        let first = self.first();
        first.from += count;
        if first.rest().is_empty() {
            *first = Bytes::default();
        }
    }

    /// Adds bytes of the present connection.
    pub(super) fn push_back(&mut self, bytes: &[u8]) {
        self.present.all.extend_from_slice(bytes);
    }

    /// Puts back the bytes that were taken last.
    pub(super) fn give_back(&mut self, mut bytes: Vec<u8>) {
        let first = self.first();
        if let Some(from) = first.from.checked_sub(bytes.len()) {
            first.all[from..first.from].copy_from_slice(&bytes);
            first.from = from;
        } else {
            bytes.extend_from_slice(first.rest());
            *first = Bytes { all: bytes, from: 0 };
        }
    }

    /// Notes that the present connection has ended.
    pub(super) fn seal(&mut self, why: &Error) {
        let bytes = std::mem::take(&mut self.present);
        if bytes.rest().is_empty() {
            return;
        }
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back((bytes, why.clone()));
    }

    /// Discards what is left of the first connection that has ended, and its end.
    pub(super) fn pop_ended(&mut self) {
        self.ended.pop_front();
    }

    /// Discards what is left of all connections that have ended.
    pub(super) fn clear_ended(&mut self) {
        self.ended.clear();
    }

    pub(super) fn clear(&mut self) {
        *self = Stash::default();
    }
}

/// An attempt to connect to one address.
pub(super) struct ConnectAttempt {
    pub(super) address: Endpoint,
    /// Its connection, while the attempt is in progress.
    pub(super) id: Option<ConnectionId>,
    /// Its error, if it has failed.
    pub(super) error: Option<Errno>,
    /// The error of its TLS handshake, if that is what has failed.
    pub(super) handshake: Option<HandshakeError>,
}

/// A client.
pub(super) struct ClientSlot {
    pub(super) in_use: bool,
    pub(super) dropped: bool,
    pub(super) stage: ConnectionStage,
    pub(super) target: Option<Box<Target>>,
    pub(super) framing: Option<Framing>,
    pub(super) connect_timeout: Duration,
    pub(super) reconnect: Option<Reconnect>,
    pub(super) unsent: Unsent,
    pub(super) on_state: Option<OnState>,

    /// Number of rounds over all clients that have used the slot. It identifies obsolete attempts.
    pub(super) epoch: u32,
    /// Generation of the client in this slot.
    pub(super) client: u32,
    /// A look-up is in progress, perhaps since an earlier round.
    pub(super) resolving: bool,
    /// Addresses from a look-up that completed after its round.
    pub(super) found: Option<Vec<Endpoint>>,
    /// The addresses of this round, and the attempts made so far.
    pub(super) addresses: Vec<Endpoint>,
    pub(super) attempts: Vec<ConnectAttempt>,
    /// Number of addresses that the next round moves to the end of its list, because rounds that
    /// failed tried them and had no time for the others.
    pub(super) tried_earlier: usize,
    /// When the next address is tried even though no attempt has failed.
    pub(super) race_at: Time,
    pub(super) round_deadline: Time,
    /// Number of failed rounds in a row.
    pub(super) failures: u32,
    /// Number of the attempt since the client was last connected for a while.
    pub(super) attempt: u32,
    pub(super) last_failure: Option<Error>,

    /// The operation that waits for a connection, and those that wait for its end.
    pub(super) connect: u32,
    pub(super) disconnect: Fifo,
    /// A disconnect has been started. Later operations are for the next connection.
    pub(super) disconnecting: bool,
    /// Operations for the present connection or, if there is none, the next.
    pub(super) present: Queues,
    /// Operations for the connection after one that is ending.
    pub(super) next: Queues,
    /// Sends that are on the output and that the kernel has not accepted completely.
    pub(super) in_flight: Fifo,
    pub(super) stream: Stream,
    pub(super) stash: Stash,
    /// Whether it is in the queue of clients to wake.
    pub(super) dirty: bool,
    /// Why there is no connection.
    pub(super) ended: Error,
}

/// The connection that a new operation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Present,
    Next,
    /// There is no connection, and none will be made.
    Nowhere,
}

impl ClientSlot {
    pub(super) fn new() -> ClientSlot {
        ClientSlot {
            in_use: false,
            dropped: false,
            stage: ConnectionStage::Idle,
            target: None,
            framing: None,
            connect_timeout: Duration::ZERO,
            reconnect: None,
            unsent: Unsent::Report,
            on_state: None,
            epoch: 0,
            client: 0,
            resolving: false,
            found: None,
            addresses: Vec::new(),
            attempts: Vec::new(),
            tried_earlier: 0,
            race_at: Time::MAX,
            round_deadline: Time::ZERO,
            failures: 0,
            attempt: 0,
            last_failure: None,
            connect: NONE,
            disconnect: Fifo::EMPTY,
            disconnecting: false,
            present: Queues::EMPTY,
            next: Queues::EMPTY,
            in_flight: Fifo::EMPTY,
            stream: Stream::default(),
            stash: Stash::default(),
            dirty: false,
            ended: Error::NotConnected,
        }
    }

    /// Whether the client is connecting, or waiting to connect.
    pub(super) fn is_trying(&self) -> bool {
        matches!(
            self.stage,
            ConnectionStage::Resolving | ConnectionStage::Connecting | ConnectionStage::BackOff(_)
        )
    }

    /// The connection that an operation started now is for.
    pub(super) fn place(&self) -> Place {
        let connects_again =
            self.connect != NONE || (self.reconnect.is_some() && !self.disconnecting);
        match self.stage {
            ConnectionStage::Open(_) if !self.disconnecting => Place::Present,
            _ if self.is_trying() => Place::Present,
            ConnectionStage::Open(_) | ConnectionStage::Closing if connects_again => Place::Next,
            _ => Place::Nowhere,
        }
    }

    pub(super) fn queues(&mut self, next: bool) -> &mut Queues {
        if next { &mut self.next } else { &mut self.present }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_each_connection_stay_apart_and_only_the_last_are_kept() {
        let mut stash = Stash::default();
        for nth in 0..=ENDED_MAX as u8 {
            stash.push_back(&[nth, nth]);
            stash.seal(&Error::ClosedByPeer);
        }
        stash.seal(&Error::Failed);
        stash.push_back(b"present");
        for nth in 1..=ENDED_MAX as u8 {
            assert_eq!((stash.bytes(), stash.end()), (&[nth, nth][..], Some(&Error::ClosedByPeer)));
            stash.consume(1);
            assert_eq!(stash.bytes(), [nth]);
            stash.give_back(vec![nth]);
            assert_eq!(stash.bytes(), [nth, nth]);
            stash.consume(2);
            assert_eq!((stash.bytes(), stash.end()), (&[][..], Some(&Error::ClosedByPeer)));
            stash.pop_ended();
        }
        assert_eq!((stash.bytes(), stash.end()), (&b"present"[..], None));
    }
}
