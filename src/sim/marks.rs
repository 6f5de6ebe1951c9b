//! The seams of the world, and marks, which count what happened under each. A batch of seeds in
//! which a mark stays at zero has not tested what it claims to test.

use crate::error::CloseReason;

/// The interface below which the real code is replaced by the simulated world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seam {
    /// Under `Sys`: the real readiness engine runs in it.
    Readiness,
    /// Under `Engine`: completions, as io_uring delivers them.
    Completion,
    /// Under either, with the client library on top and simulated servers at the other end.
    Client,
    /// Under the sockets for datagrams: the threads that serve them run in it.
    Datagram,
}

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident($seams:expr),)*) => {
        /// Something that can happen in the simulated world.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Mark { $($(#[$doc])* $name,)* }

        impl Mark {
            /// All marks.
            pub const ALL: &[Mark] = &[$(Mark::$name,)*];

            /// The name of the mark.
            pub fn name(self) -> &'static str {
                match self { $(Mark::$name => stringify!($name),)* }
            }

            /// The seams on which it can happen: readiness (bit 0), completions (bit 1), clients
            /// (bit 2), datagrams (bit 3).
            fn seams(self) -> u8 {
                match self { $(Mark::$name => $seams,)* }
            }
        }
    };
}

/// Only where the real readiness engine runs.
const READINESS: u8 = 0b01;
/// Only where the simulation produces completions itself.
const COMPLETION: u8 = 0b10;
const BOTH: u8 = 0b11;
/// Only with the client library.
const CLIENT: u8 = 0b100;
const ALL: u8 = 0b111;
/// Only with datagrams.
const DATAGRAM: u8 = 0b1000;

marks! {
    /// A send accepted only part of its bytes.
    ShortSend(ALL),
    /// A send found the socket's buffer full.
    SendBlocked(READINESS | CLIENT),
    /// Readiness was reported late.
    LateReadiness(READINESS | CLIENT),
    /// Readiness was reported without a cause.
    SpuriousReadiness(READINESS | CLIENT),
    /// One wait reported a socket twice.
    DuplicateEvent(READINESS | CLIENT),
    /// An event arrived for a socket that was closed earlier in the same batch.
    StaleEvent(READINESS | CLIENT),
    /// A wait reported fewer sockets than were ready, or none, as if a signal had interrupted it.
    PartialBatch(READINESS | CLIENT),
    /// Bytes and FIN arrived at once.
    DataWithFin(ALL),
    /// An urgent byte arrived.
    Urgent(BOTH),
    /// A receive stopped at the mark of an urgent byte.
    StoppedAtMark(BOTH),
    /// A completion overtook one that was due before.
    Reordered(COMPLETION | CLIENT),
    /// A receive completed without a buffer although one was free.
    LateBuffer(COMPLETION | CLIENT),
    /// An operation completed before its cancel took effect.
    CancelRace(COMPLETION | CLIENT),
    /// An operation was cancelled.
    Cancelled(COMPLETION | CLIENT),
    /// accept: ECONNABORTED.
    AcceptAborted(BOTH),
    /// accept: EPROTO.
    AcceptProto(BOTH),
    /// accept: EMFILE, injected.
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
    /// recv: ECONNRESET, injected.
    RecvReset(ALL),
    /// recv: ETIMEDOUT.
    RecvTimedOut(ALL),
    /// recv: ENOMEM.
    RecvNomem(ALL),
    /// recv: EHOSTUNREACH.
    RecvHostunreach(ALL),
    /// send: EPIPE, injected.
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
    /// connect: EADDRNOTAVAIL, immediately.
    ConnectAddrnotavail(ALL),
    /// connect: EMFILE, immediately.
    ConnectMfile(ALL),
    /// connect: ENETUNREACH, immediately.
    ConnectNetunreach(ALL),
    /// connect: ENOBUFS, immediately.
    ConnectNobufs(ALL),
    /// connect: no reply before its deadline.
    ConnectTimedOut(BOTH),
    /// A backlog was full, and the connect was retried.
    BacklogFull(ALL),
    /// A listener was closed with clients in its backlog.
    BacklogReset(ALL),
    /// A slot was reused.
    SlotReused(BOTH),
    /// A connection waited for a buffer.
    PoolEmpty(BOTH),
    /// A client waited because the connection limit was reached.
    NoPermit(BOTH),
    /// A buffer went from one worker to another.
    BufferMoved(BOTH),
    /// Accepting paused.
    AcceptPaused(BOTH),
    /// The process was suspended for a while.
    TimeSuspended(ALL),
    /// Something arrived at a connection while the process was suspended.
    ArrivedWhileSuspended(ALL),
    /// A service panicked.
    ServicePanicked(BOTH),
    /// A service waited for a timer.
    ServiceWaited(BOTH),
    /// A service held input back.
    ServiceHeld(BOTH),
    /// A connection that held input was shed.
    HolderShed(BOTH),
    /// A peer of the discard service sent all its bytes.
    DiscardDone(BOTH),
    /// A peer of the character generator received as much as it wanted.
    ChargenDone(BOTH),
    /// A peer of the framed echo got everything back.
    FramedDone(BOTH),
    /// A peer with delimited messages got all of them back.
    MessageDone(BOTH),
    /// A peer received its one message back from a service that then closes.
    MessageClosed(BOTH),
    /// Half a message, then FIN.
    HalfThenFin(BOTH),
    /// Half a message, then a reset.
    HalfThenReset(BOTH),
    /// Half a message, then nothing for a while.
    HalfThenSilence(BOTH),
    /// A message was longer than all buffers together.
    MessageBeyondPool(BOTH),
    /// A member of a hub sent all its requests.
    MemberDone(BOTH),
    /// A member that stayed received everything addressed to it.
    MemberHeardAll(BOTH),
    /// A member received a message from a member on another worker.
    HeardFromAfar(BOTH),
    /// A member received a message addressed to it alone.
    HeardAlone(BOTH),
    /// A member was told how many of its messages were dropped, and exactly as many were missing.
    HeardDropped(BOTH),
    /// A member was told that its message was not sent: its receiver was gone.
    NotSentGone(BOTH),
    /// A member was told that its message was not sent: its receiver's queue was full.
    NotSentFull(BOTH),
    /// A member received a member list without asking for it.
    ListUnasked(BOTH),
    /// An external message to one client was accepted.
    ExternalSent(BOTH),
    /// An external message to all clients was accepted.
    ExternalBroadcast(BOTH),
    /// An external thread disconnected a client.
    ExternalDisconnected(BOTH),
    /// An external message or request came too late: its client was gone.
    ExternalGone(BOTH),
    /// An external message was refused: the queue was full.
    ExternalQueueFull(BOTH),
    /// An external message was longer than a buffer.
    ExternalTooLong(BOTH),
    /// A client that stayed received an external message.
    ExternalArrived(BOTH),
    /// An external thread sent to all clients while a worker was in its turn.
    ExternalMeanwhile(BOTH),
    /// A turn ended before all messages that had arrived were delivered.
    DeliveryInterrupted(BOTH),
    /// A service's message to clients was accepted.
    MessageSent(BOTH),
    /// A service's message arrived on another worker.
    MessageCrossed(BOTH),
    /// A service's message to a group arrived.
    MessageToGroup(BOTH),
    /// A service sent a message in a turn of its own.
    MessageOfTurn(BOTH),
    /// A client that stayed received a service's message.
    MessageReceived(BOTH),
    /// A service's message had no room on its way.
    MessageRefused(BOTH),
    /// A service's message was refused where it arrived.
    MessageNotTaken(BOTH),
    /// A service's message was longer than a buffer has room for.
    MessageTooLong(BOTH),
    /// A service's message came too late: its client was gone.
    MessageGone(BOTH),
    /// A byte layer opened a connection.
    LayerOpened(BOTH),
    /// A byte layer opened a connection after it had held back a part of the header.
    LayerHeldBack(BOTH),
    /// A byte layer refused a header with a reply of its own.
    LayerRefused(BOTH),
    /// FIN came in the middle of a header.
    LayerCutShort(BOTH),
    /// The server closed the connection before the layer had replied.
    LayerNeverOpened(BOTH),
    /// The layer's last byte arrived after the service's last byte.
    LayerFarewell(BOTH),
    /// A connection was named by a header of the PROXY protocol, version 1.
    ProxyV1(BOTH),
    /// A connection was named by a header of version 2.
    ProxyV2(BOTH),
    /// A connection was named by a header that is longer than all buffers.
    ProxyLong(BOTH),
    /// A header that names no client left the address of the socket.
    ProxyUnnamed(BOTH),
    /// A connection was opened without a header, where one is optional.
    ProxyAbsent(BOTH),
    /// Bytes that begin like a header were the service's, where one is optional.
    ProxyLookedAlike(BOTH),
    /// A connection that is not from a proxy was served, where a header is optional.
    ProxyStrangerServed(BOTH),
    /// A header arrived in several pieces.
    ProxyCut(BOTH),
    /// A header arrived one byte at a time.
    ProxyOneByOne(BOTH),
    /// The end of a header arrived together with the service's first bytes.
    ProxyTogether(BOTH),
    /// A connection was opened at the deadline, where a header is optional.
    ProxyOpenedLate(BOTH),
    /// A header was not complete when the server stopped to wait for it, so it was the service's.
    ProxyUnintroduced(BOTH),
    /// A connection without the required header was closed.
    ProxyMissing(BOTH),
    /// A connection that is not from a proxy was closed, where a header is required.
    ProxyStranger(BOTH),
    /// A line of version 1 that is too long closed its connection.
    ProxyTooLong(BOTH),
    /// A wrong header closed its connection.
    ProxyWrong(BOTH),
    /// FIN in the middle of a header closed its connection.
    ProxyCutShort(BOTH),
    /// A header that stops was closed at its deadline.
    ProxyStalled(BOTH),
    /// The rest of a header came when its connection had been closed.
    ProxyTooLate(BOTH),
    /// A connection ended before the first byte of its header.
    ProxyEmpty(BOTH),
    /// A connection was shed while it was in its header.
    ProxyShed(BOTH),
    /// Closed: proxy header.
    ClosedProxyHeader(BOTH),
    /// A handshake of the stand-in for TLS was done in pieces.
    RecordsCut(BOTH),
    /// A reply of the handshake was longer than a buffer.
    RecordsLong(BOTH),
    /// A peer ended its stream with close_notify, and got all of its reply and close_notify.
    RecordsClosed(BOTH),
    /// The same, without FIN of the peer before that.
    RecordsHalfClosed(BOTH),
    /// The layer found no buffer.
    RecordsStarved(BOTH),
    /// Bytes that are no record were answered with an alert.
    RecordsRefused(BOTH),
    /// FIN in the middle of a handshake closed its connection.
    RecordsCutShort(BOTH),
    /// A handshake that stops was closed at its deadline.
    RecordsStalled(BOTH),
    /// A drain began in the middle of a handshake.
    RecordsDrained(BOTH),
    /// A record that is not authentic was answered with an alert.
    RecordsForged(BOTH),
    /// A record that is too long was answered with an alert.
    RecordsTooLong(BOTH),
    /// FIN came without close_notify.
    RecordsTruncated(BOTH),
    /// FIN came within a record.
    RecordsTruncatedWithin(BOTH),
    /// Closed: TLS handshake.
    ClosedTlsHandshake(BOTH),
    /// Closed: TLS alert.
    ClosedTlsAlert(BOTH),
    /// Closed: TLS truncated.
    ClosedTlsTruncated(BOTH),
    /// A worker's inbox was full.
    InboxFull(BOTH),
    /// A service used the id of a connection that was gone.
    StaleId(BOTH),
    /// A drain started with clients connected.
    DrainUnderLoad(BOTH),
    /// A server was stopped with clients connected.
    StopUnderLoad(BOTH),
    /// A drain cut connections.
    DrainCut(BOTH),
    /// A drain or stop reset a peer that waited for the rest of its reply.
    OutputLostAtEnd(BOTH),
    /// A client on the engine received everything back.
    EngineClientDone(BOTH),
    /// A peer that sends and reads as fast as it can received everything back.
    FastDone(BOTH),
    /// A peer that moves one byte at a time received everything back.
    OneByteDone(BOTH),
    /// A slow peer received everything back.
    SlowDone(BOTH),
    /// A peer that sends everything before it reads received everything back.
    PipelinedDone(BOTH),
    /// A peer that closes its side and then reads to the end received everything back.
    HalfClosedDone(BOTH),
    /// A peer that sends urgent bytes received everything back.
    UrgentDone(BOTH),
    /// A peer reset its connection.
    PeerReset(BOTH),
    /// A peer that never reads gave up.
    NeverReadGaveUp(BOTH),
    /// A peer connected and sent nothing.
    SilentDone(BOTH),
    /// A peer reconnected after it had finished.
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
    /// Closed: by the service.
    ClosedService(BOTH),
    /// Closed: input limit.
    ClosedInputLimit(BOTH),
    /// Closed: message too long.
    ClosedMessageTooLong(BOTH),
    /// Closed: protocol error.
    ClosedProtocolError(BOTH),
    /// Closed: slow reader.
    ClosedSlowReader(BOTH),
    /// Closed: disconnected by an external thread.
    ClosedDisconnected(BOTH),
    /// Closed: the service panicked.
    ClosedServicePanic(BOTH),
    /// Closed: drained.
    ClosedDrained(BOTH),
    /// Closed: stopped.
    ClosedStopped(BOTH),
    /// A process took over from another one.
    Upgraded(BOTH),
    /// A second upgrade followed the first.
    UpgradedTwice(BOTH),
    /// A new process ended before it was told to begin.
    HeirGoneBeforeGo(BOTH),
    /// A new process ended after it had begun, before the old one knew.
    HeirGoneAfterGo(BOTH),
    /// A process that had taken over was killed.
    HeirKilled(BOTH),
    /// A process that had taken over was told to end, while the one before served its connections.
    HeirDrained(BOTH),
    /// A connection ended with the process that it was on its way to, or had moved to.
    LostWithHeir(BOTH),
    /// A connection moved to another process.
    Moved(BOTH),
    /// A connection moved a second time.
    MovedTwice(BOTH),
    /// One of the character generator moved in the middle of its stream.
    MovedGenerating(BOTH),
    /// A connection moved, and bytes waited for its new process.
    MovedWithInput(BOTH),
    /// A connection stayed, because it owed something or was owed something.
    StayedOwing(BOTH),
    /// Such a connection moved later.
    MovedLater(BOTH),
    /// The new process had no place for a connection.
    MoveRefused(BOTH),
    /// Connections were offered, and not all descriptors came.
    BatchShort(BOTH),
    /// The new process had places for connections, and did not hear that they are its own.
    LineBroken(BOTH),
    /// Connections were offered through a line that was closed: by a fault, with the new process, or
    /// because that was replaced itself.
    LineClosed(BOTH),
    /// A process that ends was offered connections.
    OfferedToEnding(BOTH),
    /// The inbox of the worker that gets a connection was full.
    MoveWaited(BOTH),
    /// Two processes were ended while connections moved.
    EndedWhileMoving(BOTH),
    /// The daemon was ended before the new process had begun.
    EndedBeforeGo(BOTH),
    /// A connect went to an address that never replies.
    ConnectUnanswered(CLIENT),
    /// A connect completed late.
    ConnectLate(CLIENT),
    /// A name was looked up.
    NameFound(CLIENT),
    /// A name could not be looked up.
    NameUnknown(CLIENT),
    /// A server sent bytes that are no message.
    GarbageSaid(CLIENT),
    /// A server reset a connection.
    ServerReset(CLIENT),
    /// A server closed its side and continued to read.
    ServerHalfClosed(CLIENT),
    /// The loop had no room for another client.
    TooManyClients(CLIENT),
    /// A client was dropped.
    ClientDropped(CLIENT),
    /// A client started to connect.
    ClientConnecting(CLIENT),
    /// A client was connected.
    ClientConnected(CLIENT),
    /// A client waited for its next connect attempt.
    ClientWaited(CLIENT),
    /// A client was disconnected.
    ClientClosed(CLIENT),
    /// A client gave up because a connection ended or could not be made.
    ClientGaveUp(CLIENT),
    /// Connect: done.
    ConnectDone(CLIENT),
    /// Send: done.
    SendDone(CLIENT),
    /// A request received its reply.
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
    /// An operation failed: the name has no address.
    FailedResolve(CLIENT),
    /// An operation failed: refused.
    FailedRefused(CLIENT),
    /// An operation failed: connect time-out.
    FailedConnectTimedOut(CLIENT),
    /// An operation failed: unreachable.
    FailedUnreachable(CLIENT),
    /// An operation failed: its deadline passed.
    FailedTimedOut(CLIENT),
    /// An operation failed: send time-out.
    FailedSendTimedOut(CLIENT),
    /// An operation failed: the peer had closed.
    FailedClosedByPeer(CLIENT),
    /// A connection was reset when a part of the awaited bytes had arrived.
    ResetInReceive(CLIENT),
    /// A connection was reset when a part of a message had been sent.
    ResetInSend(CLIENT),
    /// An operation failed: reset.
    FailedReset(CLIENT),
    /// An operation failed: a frame was too large.
    FailedFrameTooLarge(CLIENT),
    /// An operation failed: longer than its buffer.
    FailedTooLong(CLIENT),
    /// A receive was cancelled.
    CancelledReceive(CLIENT),
    /// An operation was cancelled when a part had been sent.
    CancelledInSend(CLIENT),
    /// A connect was cancelled.
    CancelledConnect(CLIENT),
    /// A request was cancelled after it had been sent.
    CancelledAfterSend(CLIENT),
    /// An operation was cancelled before anything was sent.
    CancelledBeforeSend(CLIENT),
    /// An operation failed: not connected.
    FailedNotConnected(CLIENT),
    /// A connect failed: already connected.
    FailedAlreadyConnected(CLIENT),
    /// An operation failed: the sending side was closed.
    FailedHalfClosed(CLIENT),
    /// An operation failed: too many in flight.
    FailedQueueFull(CLIENT),
    /// An operation failed: the loop had ended.
    FailedLoopEnded(CLIENT),
    /// An operation failed: another error of the connection.
    FailedOtherwise(CLIENT),
    /// A callback tried to wait for an operation, which was refused.
    WaitRefused(CLIENT),
    /// A callback started an operation.
    BegunInCallback(CLIENT),
    /// The loop was ended with operations in flight.
    LoopEndedUnderLoad(CLIENT),
    /// A datagram was lost on the way.
    DatagramLost(DATAGRAM),
    /// A datagram was doubled on the way.
    DatagramDoubled(DATAGRAM),
    /// A datagram overtook one that was sent before.
    DatagramReordered(DATAGRAM),
    /// A datagram came with a wrong checksum, and the kernel dropped it.
    DatagramCorrupted(DATAGRAM),
    /// A datagram found the receive buffer full.
    DatagramOverflow(DATAGRAM),
    /// A socket's count of dropped datagrams began at 0 again.
    DatagramDropsWrapped(DATAGRAM),
    /// A datagram had waited since before its thread began, and datagrams were dropped after it.
    DatagramFromBefore(DATAGRAM),
    /// Datagrams were left in a socket that was closed.
    DatagramUnread(DATAGRAM),
    /// A batch had several datagrams.
    DatagramBatch(DATAGRAM),
    /// A batch had one datagram.
    DatagramBatchOfOne(DATAGRAM),
    /// A batch had as many datagrams as fit.
    DatagramBatchFull(DATAGRAM),
    /// A thread that polls found nothing.
    DatagramNothing(DATAGRAM),
    /// recvmmsg: EINTR.
    DatagramReceiveInterrupted(DATAGRAM),
    /// recvmmsg: another error.
    DatagramReceiveError(DATAGRAM),
    /// A receive returned because the socket was shut down.
    DatagramShutDown(DATAGRAM),
    /// The same, and another process had done that.
    DatagramShutByOther(DATAGRAM),
    /// A datagram without bytes was served.
    DatagramEmpty(DATAGRAM),
    /// A datagram of 65,507 bytes or more was served.
    DatagramLargest(DATAGRAM),
    /// Another datagram was served.
    DatagramServed(DATAGRAM),
    /// A datagram was longer than the longest that is answered.
    DatagramTruncated(DATAGRAM),
    /// A datagram was refused: the kernel did not say who sent it.
    DatagramNameless(DATAGRAM),
    /// A datagram was refused: it was sent to a broadcast or multicast address.
    DatagramToMany(DATAGRAM),
    /// A datagram was refused: it came from a system port.
    DatagramSystemPort(DATAGRAM),
    /// A datagram was refused: it came from the port of NFS.
    DatagramNfsPort(DATAGRAM),
    /// A datagram was refused: it came from the port of the server.
    DatagramOwnPort(DATAGRAM),
    /// A datagram was above the rate of its source.
    DatagramLimited(DATAGRAM),
    /// A source found no place in the table of rates.
    DatagramTableFull(DATAGRAM),
    /// A service had no reply.
    DatagramUnanswered(DATAGRAM),
    /// A service panicked.
    DatagramServicePanic(DATAGRAM),
    /// A service wanted to reply with more bytes than it was given.
    DatagramTooLongReply(DATAGRAM),
    /// A session of STAMP began.
    DatagramSession(DATAGRAM),
    /// A session of STAMP began anew, because nothing had come for long.
    DatagramSessionOver(DATAGRAM),
    /// A session of STAMP found no place in the table.
    DatagramSessionsFull(DATAGRAM),
    /// The wall clock was set back.
    DatagramClockBack(DATAGRAM),
    /// A service read the error of the wall clock.
    DatagramClockError(DATAGRAM),
    /// The kernel's time of a datagram was later than that of its reply.
    DatagramFromLater(DATAGRAM),
    /// sendmmsg took only some of the datagrams.
    DatagramPartialSend(DATAGRAM),
    /// sendmmsg: EINTR.
    DatagramSendInterrupted(DATAGRAM),
    /// sendmmsg: EAGAIN.
    DatagramSendFull(DATAGRAM),
    /// sendmmsg: ENOBUFS.
    DatagramSendNobufs(DATAGRAM),
    /// sendmmsg: ECONNREFUSED.
    DatagramSendConnrefused(DATAGRAM),
    /// sendmmsg: EMSGSIZE.
    DatagramSendMsgsize(DATAGRAM),
    /// sendmmsg: EPERM.
    DatagramSendPerm(DATAGRAM),
    /// sendmmsg: ENETUNREACH.
    DatagramSendNetunreach(DATAGRAM),
    /// sendmmsg: EINVAL.
    DatagramSendInval(DATAGRAM),
    /// Replies of one length left as one message.
    DatagramJoined(DATAGRAM),
    /// Replies left as one message, and the last one was shorter.
    DatagramJoinedShorter(DATAGRAM),
    /// A message of several replies was refused, and so was each of them.
    DatagramJoinedLost(DATAGRAM),
    /// A segment was longer than the path allows: EMSGSIZE for the message.
    DatagramSegmentTooLong(DATAGRAM),
    /// A message of several replies: EIO.
    DatagramSegmentsIo(DATAGRAM),
    /// A message of several replies: EINVAL.
    DatagramSegmentsInval(DATAGRAM),
    /// A message of several replies: ENOBUFS.
    DatagramSegmentsNobufs(DATAGRAM),
    /// A message of several replies: ENOMEM.
    DatagramSegmentsNomem(DATAGRAM),
    /// Replies left one by one, because the system does not know segments.
    DatagramNoSegments(DATAGRAM),
    /// Replies left one by one, because a message had been refused.
    DatagramPaused(DATAGRAM),
    /// A message was refused after the pause, too.
    DatagramRefusedAgain(DATAGRAM),
    /// A message left after a pause.
    DatagramJoinedAgain(DATAGRAM),
    /// The machine stood still.
    DatagramSuspended(DATAGRAM),
    /// A process was stopped between two calls.
    DatagramStopped(DATAGRAM),
    /// A process was stopped while a thread waited in a receive.
    DatagramStoppedInReceive(DATAGRAM),
    /// A process left its sockets to another one between two calls.
    DatagramLeft(DATAGRAM),
    /// A process left its sockets while a thread waited in a receive.
    DatagramLeftInReceive(DATAGRAM),
    /// A process was told to end while a thread sent.
    DatagramToldInSend(DATAGRAM),
    /// A process received what another one had left in its sockets.
    DatagramTakenOver(DATAGRAM),
    /// A process was stopped before it began to receive.
    DatagramNeverBegun(DATAGRAM),
}

impl Mark {
    /// Whether it can happen on this seam.
    pub fn belongs_to(self, seam: Seam) -> bool {
        let bit = match seam {
            Seam::Readiness => READINESS,
            Seam::Completion => COMPLETION,
            Seam::Client => CLIENT,
            Seam::Datagram => DATAGRAM,
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
            CloseReason::AddressLimit => unreachable!("the world sets no limit per address"),
            CloseReason::ProxyHeader | CloseReason::TlsHandshake => {
                unreachable!("its service never knew the connection")
            }
            CloseReason::TlsAlert => Mark::ClosedTlsAlert,
            CloseReason::TlsTruncated => Mark::ClosedTlsTruncated,
            CloseReason::Drained => Mark::ClosedDrained,
            CloseReason::Stopped => Mark::ClosedStopped,
            CloseReason::MessageTooLong => Mark::ClosedMessageTooLong,
            CloseReason::ProtocolError => Mark::ClosedProtocolError,
            CloseReason::SlowReader => Mark::ClosedSlowReader,
            CloseReason::Disconnected => Mark::ClosedDisconnected,
        }
    }
}

/// Hit count of each mark.
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

    /// Adds one for each mark that `other` hit at least once: the number of seeds in which it
    /// fired.
    pub fn add_fired(&mut self, other: &Marks) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += u64::from(*theirs > 0);
        }
    }
}
