//! What is kept of a client: its connection's stage, its queues, its options. Who changes it is in
//! `mod.rs` and its other files.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::time::Time;
use crate::client::error::Error;
use crate::client::ops::{Fifo, NONE};
use crate::client::options::{OnState, Reconnect, Unsent};
use crate::client::target::Target;
use crate::error::Errno;
use crate::protocol::framing::Framing;
use crate::service::ConnectionId;

/// How far a client's connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Idle,
    /// The name is being looked up.
    Resolving,
    Connecting,
    Open(ConnectionId),
    /// Either side has begun to close it.
    Closing,
    /// The next attempt is made then.
    BackOff(Time),
}

/// The operations that wait for one connection, in the order in which they were begun.
pub(super) struct Queues {
    /// To be sent.
    pub(super) waiting: Fifo,
    /// To receive.
    pub(super) receiving: Fifo,
    /// A half-close is among those to be sent, or was: nothing can be sent behind it.
    pub(super) fin: bool,
}

impl Queues {
    const EMPTY: Queues = Queues { waiting: Fifo::EMPTY, receiving: Fifo::EMPTY, fin: false };
}

/// What belongs to one connection, and is forgotten with it.
#[derive(Default)]
pub(super) struct Stream {
    /// Bytes put on its output, and how many of them the kernel has.
    pub(super) put: u64,
    pub(super) sent: u64,
    pub(super) paused: bool,
    pub(super) opened_at: Time,
    pub(super) got_bytes: bool,
    /// Why this side is to reset it.
    pub(super) abort: Option<Error>,
    /// Why it ends, where it is not what the engine will say.
    pub(super) why: Option<Error>,
    /// Where its next message begins is not known: what comes now is of no use.
    pub(super) unframed: bool,
    /// It is gone: what is on its output goes out no more.
    pub(super) gone: bool,
}

/// Bytes that were received and belong to no operation: given back by one that ended before it had
/// all, or left by a connection that is gone.
#[derive(Default)]
pub(super) struct Stash {
    bytes: Vec<u8>,
    /// The first of them that has not been taken.
    from: usize,
    /// The connection that they came on is gone, for this reason, which comes behind them.
    pub(super) end: Option<Error>,
}

impl Stash {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.from += count;
        if self.is_empty() {
            (self.bytes, self.from) = (Vec::new(), 0);
        }
    }

    pub(super) fn push_back(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Puts back what was taken last.
    pub(super) fn give_back(&mut self, mut bytes: Vec<u8>) {
        if let Some(from) = self.from.checked_sub(bytes.len()) {
            self.bytes[from..self.from].copy_from_slice(&bytes);
            self.from = from;
        } else {
            bytes.extend_from_slice(self.bytes());
            (self.bytes, self.from) = (bytes, 0);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Stash::default();
    }
}

/// An attempt to connect to one address.
pub(super) struct ConnectAttempt {
    pub(super) address: SocketAddr,
    /// As a connection, while it is under way.
    pub(super) id: Option<ConnectionId>,
    /// What came of it, if it failed.
    pub(super) error: Option<Errno>,
}

/// A client.
pub(super) struct Slot {
    pub(super) in_use: bool,
    pub(super) dropped: bool,
    pub(super) stage: Stage,
    pub(super) target: Option<Box<Target>>,
    pub(super) framing: Option<Framing>,
    pub(super) connect_timeout: Duration,
    pub(super) reconnect: Option<Reconnect>,
    pub(super) unsent: Unsent,
    pub(super) on_state: Option<OnState>,

    /// Counts rounds of attempts, over all clients that ever had the slot: what belongs to an
    /// earlier one is recognised.
    pub(super) epoch: u32,
    /// Counts the clients that had the slot.
    pub(super) client: u32,
    /// The name is being looked up, perhaps since an earlier round.
    pub(super) resolving: bool,
    /// What a look-up found after its round.
    pub(super) found: Option<Vec<SocketAddr>>,
    /// The addresses of this round, and what became of those that were tried.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) attempts: Vec<ConnectAttempt>,
    /// Number of addresses that the next round moves to the end of its list, because rounds that
    /// failed tried them and had no time for the others.
    pub(super) tried_earlier: usize,
    /// When the next address is tried, though none has failed.
    pub(super) race_at: Time,
    pub(super) round_deadline: Time,
    /// Rounds in a row that failed.
    pub(super) failures: u32,
    /// Which attempt this is since the client was last connected for a while.
    pub(super) attempt: u32,
    pub(super) last_failure: Option<Error>,

    /// The operation that waits for a connection, and those that wait for its end.
    pub(super) connect: u32,
    pub(super) disconnect: Fifo,
    /// A disconnect has been begun: what is begun after it is for the next connection.
    pub(super) disconnecting: bool,
    /// For the present connection or, while there is none, the next.
    pub(super) present: Queues,
    /// For the one after a connection that is ending.
    pub(super) next: Queues,
    /// Put on the output and not yet with the kernel.
    pub(super) in_flight: Fifo,
    pub(super) stream: Stream,
    pub(super) stash: Stash,
    /// In the queue of those that are to be woken.
    pub(super) dirty: bool,
    /// Why there is no connection.
    pub(super) ended: Error,
}

/// Which connection an operation is for that is begun now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Present,
    Next,
    /// There is none, and none will be made.
    Nowhere,
}

impl Slot {
    pub(super) fn new() -> Slot {
        Slot {
            in_use: false,
            dropped: false,
            stage: Stage::Idle,
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

    /// Whether a connection is being made, or will be.
    pub(super) fn is_trying(&self) -> bool {
        matches!(self.stage, Stage::Resolving | Stage::Connecting | Stage::BackOff(_))
    }

    /// Which connection an operation is for that is begun now.
    pub(super) fn place(&self) -> Place {
        let connects_again =
            self.connect != NONE || (self.reconnect.is_some() && !self.disconnecting);
        match self.stage {
            Stage::Open(_) if !self.disconnecting => Place::Present,
            _ if self.is_trying() => Place::Present,
            Stage::Open(_) | Stage::Closing if connects_again => Place::Next,
            _ => Place::Nowhere,
        }
    }

    pub(super) fn queues(&mut self, next: bool) -> &mut Queues {
        if next { &mut self.next } else { &mut self.present }
    }
}
