//! What has happened at least once. A batch of seeds in which a mark stays at zero has not tested
//! what it claims to.

use super::run::Seam;
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

            /// Whether it can happen under readiness (bit 0), under completions (bit 1) and to
            /// clients (bit 2).
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
/// Only with the client library.
const CLIENT: u8 = 0b100;
const ALL: u8 = 0b111;

marks! {
    /// A send took less than it was given.
    ShortSend(ALL),
    /// A send found no room.
    SendBlocked(READINESS | CLIENT),
    /// Readiness was told later than it began.
    LateReadiness(READINESS | CLIENT),
    /// Readiness was told without a cause.
    SpuriousReadiness(READINESS | CLIENT),
    /// One wait told of a socket twice.
    DuplicateEvent(READINESS | CLIENT),
    /// An event came for a socket that had been closed in the same batch.
    StaleEvent(READINESS | CLIENT),
    /// Fewer sockets were told of than were ready.
    PartialBatch(READINESS | CLIENT),
    /// Bytes and FIN arrived at once.
    DataWithFin(ALL),
    /// An urgent byte arrived.
    Urgent(BOTH),
    /// A receive stopped at the mark of an urgent byte.
    StoppedAtMark(BOTH),
    /// A completion overtook one that was due before.
    Reordered(COMPLETION | CLIENT),
    /// A receive completed without a buffer though one was free.
    LateBuffer(COMPLETION | CLIENT),
    /// An operation that was cancelled had completed before.
    CancelRace(COMPLETION | CLIENT),
    /// An operation was cancelled.
    Cancelled(COMPLETION | CLIENT),
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
    RegisterNomem(READINESS | CLIENT),
    /// Registering a socket: ENOSPC.
    RegisterNospc(READINESS | CLIENT),
    /// recv: ECONNRESET, drawn by lot.
    RecvReset(ALL),
    /// recv: ETIMEDOUT.
    RecvTimedOut(ALL),
    /// recv: ENOMEM.
    RecvNomem(ALL),
    /// recv: EHOSTUNREACH.
    RecvHostunreach(ALL),
    /// send: EPIPE, drawn by lot.
    SendPipe(ALL),
    /// send: ECONNRESET.
    SendReset(ALL),
    /// send: ENOBUFS.
    SendNobufs(ALL),
    /// send: ENOMEM.
    SendNomem(ALL),
    /// send: ETIMEDOUT.
    SendTimedout(ALL),
    /// send: ENETUNREACH.
    SendNetunreach(ALL),
    /// shutdown: ENOTCONN.
    ShutdownNotconn(ALL),
    /// connect: refused.
    ConnectRefused(ALL),
    /// connect: EADDRNOTAVAIL, at once.
    ConnectAddrnotavail(ALL),
    /// connect: EMFILE, at once.
    ConnectMfile(ALL),
    /// connect: ENETUNREACH, at once.
    ConnectNetunreach(ALL),
    /// connect: ENOBUFS, at once.
    ConnectNobufs(ALL),
    /// connect: no answer until its deadline.
    ConnectTimedOut(BOTH),
    /// A backlog was full, and the connect was tried again.
    BacklogFull(ALL),
    /// A listener was closed with clients in its backlog.
    BacklogReset(ALL),
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
    /// A byte layer opened a connection.
    LayerOpened(BOTH),
    /// It did when it had held back a part of the header.
    LayerHeldBack(BOTH),
    /// It refused a header, in its own words.
    LayerRefused(BOTH),
    /// FIN came in the middle of a header.
    LayerCutShort(BOTH),
    /// The server gave up before the layer had answered.
    LayerNeverOpened(BOTH),
    /// The layer's last byte came behind the service's.
    LayerFarewell(BOTH),
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
    /// A connect went to an address that never answers.
    ConnectUnanswered(CLIENT),
    /// A connect was answered late.
    ConnectLate(CLIENT),
    /// A name was looked up.
    NameFound(CLIENT),
    /// A name could not be looked up.
    NameUnknown(CLIENT),
    /// A server said what is no message.
    GarbageSaid(CLIENT),
    /// A server reset a connection.
    ServerReset(CLIENT),
    /// A server closed its side and read on.
    ServerHalfClosed(CLIENT),
    /// The loop had no room for another client.
    TooManyClients(CLIENT),
    /// A client was dropped.
    ClientDropped(CLIENT),
    /// A client began to connect.
    ClientConnecting(CLIENT),
    /// A client was connected.
    ClientConnected(CLIENT),
    /// A client waited for its next attempt.
    ClientWaited(CLIENT),
    /// A client was disconnected.
    ClientClosed(CLIENT),
    /// A client came to rest because a connection ended or was not made.
    ClientGaveUp(CLIENT),
    /// Connect: done.
    ConnectDone(CLIENT),
    /// Send: done.
    SendDone(CLIENT),
    /// A request had its reply.
    RequestDone(CLIENT),
    /// Receive: done.
    ReceiveDone(CLIENT),
    /// A message was received.
    ReceiveMessageDone(CLIENT),
    /// Everything was received to the end.
    ReceiveToEndDone(CLIENT),
    /// Half-close: done.
    HalfCloseDone(CLIENT),
    /// Disconnect: done.
    DisconnectDone(CLIENT),
    /// An operation failed: no address.
    FailedResolve(CLIENT),
    /// An operation failed: refused.
    FailedRefused(CLIENT),
    /// An operation failed: no connection in time.
    FailedConnectTimedOut(CLIENT),
    /// An operation failed: unreachable.
    FailedUnreachable(CLIENT),
    /// An operation failed: its time was up.
    FailedTimedOut(CLIENT),
    /// An operation failed: send time-out.
    FailedSendTimedOut(CLIENT),
    /// An operation failed: the peer had closed.
    FailedClosedByPeer(CLIENT),
    /// A connection was reset when a part of what was awaited had come.
    ResetInReceive(CLIENT),
    /// A connection was reset when a part of a message was sent.
    ResetInSend(CLIENT),
    /// An operation failed: reset.
    FailedReset(CLIENT),
    /// An operation failed: no message.
    FailedFrameTooLarge(CLIENT),
    /// An operation failed: more than there was room for.
    FailedTooLong(CLIENT),
    /// A receive was cancelled.
    CancelledReceive(CLIENT),
    /// An operation was cancelled when a part was sent.
    CancelledInSend(CLIENT),
    /// A connect was cancelled.
    CancelledConnect(CLIENT),
    /// A request was cancelled when it was sent.
    CancelledAfterSend(CLIENT),
    /// An operation was cancelled before anything was sent.
    CancelledBeforeSend(CLIENT),
    /// An operation failed: not connected.
    FailedNotConnected(CLIENT),
    /// A connect failed: connected already.
    FailedAlreadyConnected(CLIENT),
    /// An operation failed: the sending side was closed.
    FailedHalfClosed(CLIENT),
    /// An operation failed: too many at once.
    FailedQueueFull(CLIENT),
    /// An operation failed: the loop had ended.
    FailedLoopEnded(CLIENT),
    /// An operation failed: another error of the connection.
    FailedOtherwise(CLIENT),
    /// A callback waited for an operation, which was refused.
    WaitRefused(CLIENT),
    /// A callback began an operation.
    BegunInCallback(CLIENT),
    /// The loop was ended with operations under way.
    LoopEndedUnderLoad(CLIENT),
}

impl Mark {
    /// Whether it can happen on this seam.
    pub fn belongs_to(self, seam: Seam) -> bool {
        let bit = match seam {
            Seam::Readiness => READINESS,
            Seam::Completion => COMPLETION,
            Seam::Client => CLIENT,
        };
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
