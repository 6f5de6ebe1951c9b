//! What has happened at least once. A batch of seeds in which a mark stays at zero has not tested
//! what it claims to.

use crate::error::CloseReason;

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident($seams:expr),)*) => {
        /// Something that can happen in the simulated world.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Mark { $($(#[$doc])* $name,)* }

        impl Mark {
            /// All marks.
            pub const ALL: &[Mark] = &[$(Mark::$name,)*];

            /// The name of the mark.
            pub fn name(self) -> &'static str {
                match self { $(Mark::$name => stringify!($name),)* }
            }

            /// Whether it can happen under readiness (bit 0) and under completions (bit 1).
            fn seams(self) -> u8 {
                match self { $(Mark::$name => $seams,)* }
            }
        }
    };
}

/// Only where the real readiness engine runs.
const READINESS: u8 = 0b01;
/// Only where the simulation makes completions itself.
const COMPLETION: u8 = 0b10;
const BOTH: u8 = 0b11;

marks! {
    /// A send took less than it was given.
    ShortSend(BOTH),
    /// A send found no room.
    SendBlocked(READINESS),
    /// Readiness was told later than it began.
    LateReadiness(READINESS),
    /// Readiness was told without a cause.
    SpuriousReadiness(READINESS),
    /// One wait told of a socket twice.
    DuplicateEvent(READINESS),
    /// An event came for a socket that had been closed in the same batch.
    StaleEvent(READINESS),
    /// Fewer sockets were told of than were ready.
    PartialBatch(READINESS),
    /// Bytes and FIN arrived at once.
    DataWithFin(BOTH),
    /// An urgent byte arrived.
    Urgent(BOTH),
    /// A receive stopped at the mark of an urgent byte.
    StoppedAtMark(BOTH),
    /// A completion overtook one that was due before.
    Reordered(COMPLETION),
    /// A receive completed without a buffer though one was free.
    LateBuffer(COMPLETION),
    /// An operation that was cancelled had completed before.
    CancelRace(COMPLETION),
    /// An operation was cancelled.
    Cancelled(COMPLETION),
    /// accept: ECONNABORTED.
    AcceptAborted(BOTH),
    /// accept: EPROTO.
    AcceptProto(BOTH),
    /// accept: EMFILE, drawn by lot.
    AcceptMfile(BOTH),
    /// accept: ENFILE.
    AcceptNfile(BOTH),
    /// accept: ENOBUFS.
    AcceptNobufs(BOTH),
    /// accept: ENOMEM.
    AcceptNomem(BOTH),
    /// accept: EPERM.
    AcceptPerm(BOTH),
    /// accept: ENETDOWN.
    AcceptNetdown(BOTH),
    /// accept: ENOPROTOOPT.
    AcceptNoprotoopt(BOTH),
    /// accept: EHOSTDOWN.
    AcceptHostdown(BOTH),
    /// accept: ENONET.
    AcceptNonet(BOTH),
    /// accept: EHOSTUNREACH.
    AcceptHostunreach(BOTH),
    /// accept: EOPNOTSUPP.
    AcceptOpnotsupp(BOTH),
    /// accept: ENETUNREACH.
    AcceptNetunreach(BOTH),
    /// accept: ETIMEDOUT.
    AcceptTimedout(BOTH),
    /// accept: EMFILE because the limit was reached.
    DescriptorsUsedUp(BOTH),
    /// Registering a socket: ENOMEM.
    RegisterNomem(READINESS),
    /// Registering a socket: ENOSPC.
    RegisterNospc(READINESS),
    /// recv: ECONNRESET, drawn by lot.
    RecvReset(BOTH),
    /// recv: ETIMEDOUT.
    RecvTimedOut(BOTH),
    /// recv: ENOMEM.
    RecvNomem(BOTH),
    /// recv: EHOSTUNREACH.
    RecvHostunreach(BOTH),
    /// send: EPIPE, drawn by lot.
    SendPipe(BOTH),
    /// send: ECONNRESET.
    SendReset(BOTH),
    /// send: ENOBUFS.
    SendNobufs(BOTH),
    /// send: ENOMEM.
    SendNomem(BOTH),
    /// send: ETIMEDOUT.
    SendTimedout(BOTH),
    /// send: ENETUNREACH.
    SendNetunreach(BOTH),
    /// shutdown: ENOTCONN.
    ShutdownNotconn(BOTH),
    /// connect: refused.
    ConnectRefused(BOTH),
    /// connect: EADDRNOTAVAIL, at once.
    ConnectAddrnotavail(BOTH),
    /// connect: EMFILE, at once.
    ConnectMfile(BOTH),
    /// connect: ENETUNREACH, at once.
    ConnectNetunreach(BOTH),
    /// connect: ENOBUFS, at once.
    ConnectNobufs(BOTH),
    /// connect: no answer until its deadline.
    ConnectTimedOut(BOTH),
    /// A backlog was full, and the connect was tried again.
    BacklogFull(BOTH),
    /// A listener was closed with clients in its backlog.
    BacklogReset(BOTH),
    /// A slot was used again.
    SlotReused(BOTH),
    /// A connection waited for a buffer.
    PoolEmpty(BOTH),
    /// A client waited because of the limit of connections.
    NoPermit(BOTH),
    /// A buffer went from one worker to another.
    BufferMoved(BOTH),
    /// Accepting paused.
    AcceptPaused(BOTH),
    /// The process was suspended for a while.
    TimeSuspended(BOTH),
    /// A service panicked.
    ServicePanicked(BOTH),
    /// A service waited for a time.
    ServiceWaited(BOTH),
    /// A service held input back.
    ServiceHeld(BOTH),
    /// A connection was shed that held input.
    HolderShed(BOTH),
    /// A peer of the discarding service was rid of all its bytes.
    DiscardDone(BOTH),
    /// A peer got what it wanted of the character generator.
    ChargenDone(BOTH),
    /// A peer of the framed echo got everything back.
    FramedDone(BOTH),
    /// A peer with delimited messages got all of them back.
    MessageDone(BOTH),
    /// A peer got its one message back, and was to be closed.
    MessageClosed(BOTH),
    /// Half a message, then FIN.
    HalfThenFin(BOTH),
    /// Half a message, then a reset.
    HalfThenReset(BOTH),
    /// Half a message, then nothing for a while.
    HalfThenSilence(BOTH),
    /// A message was longer than all buffers together.
    MessageBeyondPool(BOTH),
    /// A member of a hub had asked for all that it wanted.
    MemberDone(BOTH),
    /// A member that stayed heard everything that there was for it.
    MemberHeardAll(BOTH),
    /// A member heard a message of another worker's member.
    HeardFromAfar(BOTH),
    /// A member heard a message for it alone.
    HeardAlone(BOTH),
    /// A member was told that messages for it were dropped, and as many were missing.
    HeardDropped(BOTH),
    /// A member was told that its message was not sent: its receiver was gone.
    NotSentGone(BOTH),
    /// A member was told that its message was not sent: its receiver's queue was full.
    NotSentFull(BOTH),
    /// A member was told who is there, without having asked.
    ListUnasked(BOTH),
    /// A message from outside was taken for one client.
    OutsideSent(BOTH),
    /// A message from outside was taken for all.
    OutsideBroadcast(BOTH),
    /// Somebody outside had a client disconnected.
    OutsideDisconnected(BOTH),
    /// A message or a request from outside came too late: its client was gone.
    OutsideGone(BOTH),
    /// A message from outside was refused: too much was waiting.
    OutsideQueueFull(BOTH),
    /// A message from outside was longer than a buffer.
    OutsideTooLong(BOTH),
    /// A client that stayed got what somebody outside had sent it.
    OutsideArrived(BOTH),
    /// A worker's inbox was full.
    InboxFull(BOTH),
    /// A service named a connection that was gone.
    StaleId(BOTH),
    /// A drain began with clients connected.
    DrainUnderLoad(BOTH),
    /// A server was stopped with clients connected.
    StopUnderLoad(BOTH),
    /// A drain's deadline cut connections.
    DrainCut(BOTH),
    /// A client on the engine got everything back.
    EngineClientDone(BOTH),
    /// A peer that sends and reads as fast as it can got everything back.
    FastDone(BOTH),
    /// A peer that moves one byte at a time did.
    OneByteDone(BOTH),
    /// A slow peer did.
    SlowDone(BOTH),
    /// A peer that sends everything before it reads did.
    PipelinedDone(BOTH),
    /// A peer that closes its side and then reads to the end did.
    HalfClosedDone(BOTH),
    /// A peer that sends urgent bytes did.
    UrgentDone(BOTH),
    /// A peer reset its connection.
    PeerReset(BOTH),
    /// A peer that never reads gave up.
    NeverReadGaveUp(BOTH),
    /// A peer connected and said nothing.
    SilentDone(BOTH),
    /// A peer came again after it had finished.
    Reconnected(BOTH),
    /// Closed: the peer closed.
    ClosedPeerClosed(BOTH),
    /// Closed: reset.
    ClosedReset(BOTH),
    /// Closed: peer lost.
    ClosedPeerLost(BOTH),
    /// Closed: failed.
    ClosedFailed(BOTH),
    /// Closed: idle.
    ClosedIdleTimeout(BOTH),
    /// Closed: send time-out.
    ClosedSendTimeout(BOTH),
    /// Closed: shed.
    ClosedShed(BOTH),
    /// Closed: the service.
    ClosedService(BOTH),
    /// Closed: input limit.
    ClosedInputLimit(BOTH),
    /// Closed: message too long.
    ClosedMessageTooLong(BOTH),
    /// Closed: protocol error.
    ClosedProtocolError(BOTH),
    /// Closed: slow reader.
    ClosedSlowReader(BOTH),
    /// Closed: disconnected from outside.
    ClosedDisconnected(BOTH),
    /// Closed: the service panicked.
    ClosedServicePanic(BOTH),
    /// Closed: drained.
    ClosedDrained(BOTH),
    /// Closed: stopped.
    ClosedStopped(BOTH),
}

impl Mark {
    /// Whether it can happen on this seam.
    pub fn belongs_to(self, completions: bool) -> bool {
        let bit = if completions { COMPLETION } else { READINESS };
        self.seams() & bit != 0
    }

    pub(super) fn closed(reason: CloseReason) -> Mark {
        match reason {
            CloseReason::PeerClosed => Mark::ClosedPeerClosed,
            CloseReason::Reset => Mark::ClosedReset,
            CloseReason::PeerLost => Mark::ClosedPeerLost,
            CloseReason::Failed => Mark::ClosedFailed,
            CloseReason::IdleTimeout => Mark::ClosedIdleTimeout,
            CloseReason::SendTimeout => Mark::ClosedSendTimeout,
            CloseReason::Shed => Mark::ClosedShed,
            CloseReason::Service => Mark::ClosedService,
            CloseReason::InputLimit => Mark::ClosedInputLimit,
            CloseReason::ServicePanic => Mark::ClosedServicePanic,
            CloseReason::Drained => Mark::ClosedDrained,
            CloseReason::Stopped => Mark::ClosedStopped,
            CloseReason::MessageTooLong => Mark::ClosedMessageTooLong,
            CloseReason::ProtocolError => Mark::ClosedProtocolError,
            CloseReason::SlowReader => Mark::ClosedSlowReader,
            CloseReason::Disconnected => Mark::ClosedDisconnected,
        }
    }
}

/// How often each mark was hit.
#[derive(Clone, Debug)]
pub struct Marks {
    counts: Vec<u64>,
}

impl Default for Marks {
    fn default() -> Marks {
        Marks { counts: vec![0; Mark::ALL.len()] }
    }
}

impl Marks {
    pub(super) fn hit(&mut self, mark: Mark) {
        self.counts[mark as usize] += 1;
    }

    /// How often a mark was hit.
    pub fn count(&self, mark: Mark) -> u64 {
        self.counts[mark as usize]
    }

    /// Adds the counts of another batch.
    pub fn add(&mut self, other: &Marks) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// Adds one for each mark that the other batch has hit: in how many seeds it fired.
    pub fn add_fired(&mut self, other: &Marks) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += u64::from(*theirs > 0);
        }
    }
}
