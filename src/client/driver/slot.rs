//! What is kept of a client: its connection's stage, its queues, its options. Who changes it is in
//! `mod.rs` and its other files.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::time::Time;
use crate::client::error::{Attempt, Error};
use crate::client::ops::{Fifo, NONE};
use crate::client::options::{OnState, Reconnect, Unsent};
use crate::client::target::Target;
use crate::protocol::framing::Framing;
use crate::service::ConnectionId;

/// How far a client's connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Idle,
    /// The name is being looked up, at most until then.
    Resolving(Time),
    Connecting,
    Open(ConnectionId),
    /// Either side has begun to close it.
    Closing,
    /// The next attempt is made then.
    BackOff(Time),
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

    /// Counts attempts to connect, over all clients that ever had the slot: what belongs to an
    /// earlier one is recognised.
    pub(super) epoch: u32,
    /// A name is being looked up for this slot, perhaps for an earlier attempt.
    pub(super) resolving: bool,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) next_address: usize,
    pub(super) attempts: Vec<Attempt>,
    pub(super) round_deadline: Time,
    /// Which attempt this is since the client was last connected.
    pub(super) attempt: u32,
    pub(super) last_failure: Option<Error>,
    pub(super) opened_at: Time,
    pub(super) got_bytes: bool,

    /// The operation that waits for a connection, and the first of those that wait for its end.
    pub(super) connect: u32,
    pub(super) disconnect: Fifo,
    /// To be sent; put on the output and not yet with the kernel; to receive.
    pub(super) waiting: Fifo,
    pub(super) flying: Fifo,
    pub(super) receiving: Fifo,
    /// Bytes put on the present connection's output, and how many of them the kernel has.
    pub(super) put: u64,
    pub(super) sent: u64,
    pub(super) half_closed: bool,
    pub(super) paused: bool,
    /// In the queue of those that are to be woken.
    pub(super) dirty: bool,
    /// Why this side is to reset the connection.
    pub(super) abort: Option<Error>,
    /// Why the connection ends, where it is not what the engine will say.
    pub(super) why: Option<Error>,
    /// What was received for an operation that ended before it had all: the begin of the rest.
    pub(super) stash: Vec<u8>,
    /// The stash is of a connection that is gone, for this reason.
    pub(super) stash_end: Option<Error>,
    /// Why there is no connection.
    pub(super) ended: Error,
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
            resolving: false,
            addresses: Vec::new(),
            next_address: 0,
            attempts: Vec::new(),
            round_deadline: Time::ZERO,
            attempt: 0,
            last_failure: None,
            opened_at: Time::ZERO,
            got_bytes: false,
            connect: NONE,
            disconnect: Fifo::EMPTY,
            waiting: Fifo::EMPTY,
            flying: Fifo::EMPTY,
            receiving: Fifo::EMPTY,
            put: 0,
            sent: 0,
            half_closed: false,
            paused: false,
            dirty: false,
            abort: None,
            why: None,
            stash: Vec::new(),
            stash_end: None,
            ended: Error::NotConnected,
        }
    }

    /// Whether a connection is being made, or will be.
    pub(super) fn is_trying(&self) -> bool {
        matches!(self.stage, Stage::Resolving(_) | Stage::Connecting | Stage::BackOff(_))
    }
}
