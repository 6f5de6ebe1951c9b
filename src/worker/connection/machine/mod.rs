//! A state machine that decides which operation a connection needs next. It takes events, returns
//! actions, and does no I/O.
//!
//! A connection has a receiving side ([`Rx`]), a sending side ([`Tx`]) and a [`Phase`]:
//!
//! ```text
//!            Finish                FIN sent               FIN came
//!   Open --------------> Finishing ---------> Lingering -----------> Closing ------> Closed
//!     \                      |   \_ FIN had come already ______________^ ^
//!      \_____________________|_________________|_____> Aborting _________/
//!                    Abort, or a system call failed    (cancel, wait for what is in flight)
//! ```
//!
//! Open may also have sent FIN, after a half-close. The connection is then only read, and it
//! finishes when the peer's FIN has come too.
//!
//! Finishing sends the remaining output, then FIN. Lingering reads and discards input until the
//! peer's FIN, because closing a socket with unread input resets the connection and destroys sent
//! data. Closing is entered only when no operation is in flight. It is a reset if output was lost:
//! FIN would tell the peer that it has everything.

/// The stage of the connection's life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    Open,
    Finishing,
    Lingering,
    Aborting,
    Closing,
    Closed,
}

/// The receiving side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Rx {
    /// Nothing is being received.
    Idle,
    /// A Recv is in flight.
    Receiving,
    /// In the queue for a buffer.
    AwaitingBuffer,
    /// The peer has closed its side.
    Ended,
}

/// The sending side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Tx {
    /// A Connect is in flight.
    Connecting,
    /// Nothing is being sent.
    Idle,
    /// A Send is in flight.
    Sending,
    /// A Shutdown is in flight.
    ShuttingDown,
    /// FIN has been sent.
    Shut,
}

/// A Cancel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Cancel {
    No,
    InFlight,
    Done,
}

/// Something that happened to the connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Event {
    /// Connect completed.
    Connected,
    /// Recv completed with bytes.
    Received,
    /// Recv completed with the end of the stream.
    Ended,
    /// Recv completed without a buffer.
    NoBuffer,
    /// The service has found no buffer. No Recv is started before `BufferCame`.
    WantBuffer,
    /// The connection's turn for a buffer has come.
    BufferCame,
    /// Send completed, partly or completely.
    Sent,
    /// Shutdown completed.
    ShutDown,
    /// An operation of the receiving side failed.
    RecvFailed,
    /// An operation of the sending side failed.
    SendFailed,
    /// Recv was cancelled.
    RecvCancelled,
    /// Connect, Send or Shutdown was cancelled.
    SendCancelled,
    /// Cancel completed.
    CancelDone,
    /// Close completed.
    Closed,
    /// Stop reading until `Unpause`.
    Pause,
    /// Continue reading.
    Unpause,
    /// Send the remaining output, then FIN, and continue reading.
    HalfClose,
    /// Send the remaining output, then close.
    Finish,
    /// Close at once.
    Abort,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Recv,
    /// Receive, and throw away what comes.
    Discard,
    Send,
    Shutdown,
    Cancel,
    Close,
    /// Close with RST: output was lost, and FIN would tell the peer that none was.
    Reset,
    /// Do nothing until the next event.
    Rest,
}

/// The state of a connection, in a few bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Machine {
    phase: Phase,
    rx: Rx,
    tx: Tx,
    cancel: Cancel,
    paused: bool,
    full_duplex: bool,
    /// Send FIN after the output, and continue reading.
    half_close: bool,
    /// Output was not sent and never will be.
    lost_output: bool,
}

impl Machine {
    /// The state of an established connection. `full_duplex`: whether it is read while a send is
    /// pending.
    pub(crate) fn accepted(full_duplex: bool) -> Machine {
        Machine {
            phase: Phase::Open,
            rx: Rx::Idle,
            tx: Tx::Idle,
            cancel: Cancel::No,
            paused: false,
            full_duplex,
            half_close: false,
            lost_output: false,
        }
    }

    /// The state of a connection for which a Connect is in flight.
    pub(crate) fn connecting(full_duplex: bool) -> Machine {
        Machine { tx: Tx::Connecting, ..Machine::accepted(full_duplex) }
    }

    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    #[inline]
    pub(crate) fn is_connecting(&self) -> bool {
        self.tx == Tx::Connecting
    }

    /// Whether the socket is connected, and this side has not begun to close.
    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open && !self.is_connecting()
    }

    /// Whether FIN has been sent.
    pub(crate) fn is_shut(&self) -> bool {
        self.tx == Tx::Shut
    }

    /// Whether FIN follows the output that is there, or was sent. Output that is added now is not
    /// sent.
    pub(crate) fn half_closes(&self) -> bool {
        self.half_close || self.is_shut()
    }

    /// Whether receiving waits for a buffer.
    pub(crate) fn awaits_buffer(&self) -> bool {
        self.rx == Rx::AwaitingBuffer
    }

    #[inline]
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether received bytes go to the service. Otherwise they are discarded.
    #[inline]
    pub(crate) fn delivers(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether the connection is open, and nothing but a Recv and a Send is in flight. The peer may
    /// have closed its side.
    #[cold]
    pub(crate) fn is_interruptible(&self) -> bool {
        let (rx, tx) = (self.rx, self.tx);
        let is_open = *self == Machine { rx, tx, ..Machine::accepted(self.full_duplex) };
        is_open && rx != Rx::AwaitingBuffer && matches!(tx, Tx::Idle | Tx::Sending)
    }

    /// The engine has forgotten the Recv in flight, if there was one.
    #[cold]
    pub(crate) fn forget_recv(&mut self) {
        if self.rx == Rx::Receiving {
            self.rx = Rx::Idle;
        }
    }

    /// Whether a Send is in flight.
    pub(crate) fn is_sending(&self) -> bool {
        self.tx == Tx::Sending
    }

    /// Whether output is still to be sent.
    pub(crate) fn sends(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Finishing)
    }

    /// Whether the connection ended, or ends, without sending all of its output.
    pub(crate) fn has_lost_output(&self) -> bool {
        self.lost_output
    }

    /// Output is lost that the connection was not given yet.
    pub(crate) fn lose_output(&mut self) {
        self.lost_output = true;
    }

    fn is_in_flight(&self) -> bool {
        self.rx == Rx::Receiving
            || matches!(self.tx, Tx::Connecting | Tx::Sending | Tx::ShuttingDown)
            || self.cancel == Cancel::InFlight
    }

    /// Whether the event can happen in this state.
    pub(crate) fn allows(&self, event: Event) -> bool {
        match event {
            Event::Connected => self.tx == Tx::Connecting,
            Event::Received | Event::Ended | Event::NoBuffer | Event::RecvFailed => {
                self.rx == Rx::Receiving
            }
            Event::BufferCame => self.rx == Rx::AwaitingBuffer,
            Event::Sent => self.tx == Tx::Sending,
            Event::ShutDown => self.tx == Tx::ShuttingDown,
            Event::SendFailed => {
                matches!(self.tx, Tx::Connecting | Tx::Sending | Tx::ShuttingDown)
            }
            Event::RecvCancelled => self.rx == Rx::Receiving && self.cancel == Cancel::InFlight,
            Event::SendCancelled => {
                matches!(self.tx, Tx::Connecting | Tx::Sending | Tx::ShuttingDown)
                    && self.cancel == Cancel::InFlight
            }
            // A Cancel completes last.
            Event::CancelDone => {
                self.cancel == Cancel::InFlight
                    && self.rx != Rx::Receiving
                    && !matches!(self.tx, Tx::Connecting | Tx::Sending | Tx::ShuttingDown)
            }
            Event::Closed => self.phase == Phase::Closing,
            Event::WantBuffer | Event::Pause | Event::Unpause | Event::HalfClose => {
                self.phase == Phase::Open
            }
            Event::Finish | Event::Abort => self.phase != Phase::Closed,
        }
    }

    /// Applies an event.
    ///
    /// # Panics
    /// If the event cannot happen in this state: the engine or the worker has broken its contract.
    #[inline]
    pub(crate) fn apply(&mut self, event: Event) {
        if !self.allows(event) {
            self.refuse(event);
        }
        match event {
            Event::Connected | Event::Sent => self.tx = Tx::Idle,
            Event::SendCancelled => {
                self.lost_output |= self.tx == Tx::Sending;
                self.tx = Tx::Idle;
            }
            Event::Received | Event::RecvCancelled | Event::BufferCame => self.rx = Rx::Idle,
            Event::Ended => self.rx = Rx::Ended,
            Event::NoBuffer => self.rx = Rx::AwaitingBuffer,
            Event::WantBuffer if self.rx == Rx::Idle => self.rx = Rx::AwaitingBuffer,
            // A receive in flight is still delivered.
            Event::WantBuffer => {}
            Event::ShutDown => self.tx = Tx::Shut,
            Event::RecvFailed => {
                self.rx = Rx::Idle;
                self.abort();
            }
            Event::SendFailed => {
                self.lost_output |= self.tx == Tx::Sending;
                self.tx = Tx::Idle;
                self.abort();
            }
            Event::CancelDone => self.cancel = Cancel::Done,
            Event::Closed => self.phase = Phase::Closed,
            Event::Pause => self.paused = true,
            Event::Unpause => self.paused = false,
            Event::HalfClose => self.half_close = true,
            Event::Finish if self.tx == Tx::Connecting => self.abort(),
            Event::Finish if self.phase == Phase::Open => {
                self.phase = Phase::Finishing;
                self.paused = false;
            }
            Event::Finish => {}
            Event::Abort => self.abort(),
        }
    }

    /// A function of its own that takes `self` by value: fields that only the message needs are not
    /// written for each event.
    #[cold]
    fn refuse(self, event: Event) -> ! {
        panic!("{event:?} in {self:?}");
    }

    fn abort(&mut self) {
        if matches!(self.phase, Phase::Open | Phase::Finishing | Phase::Lingering) {
            self.phase = Phase::Aborting;
            self.paused = false;
        }
    }

    /// What [`next`](Machine::next) would return.
    #[cold]
    pub(crate) fn peek(mut self, output: bool) -> Action {
        self.next(output)
    }

    /// Returns what to do now, and records that it has begun. `output`: whether there is something
    /// to send.
    ///
    /// Call this until it returns [`Action::Rest`]. After a pending [`Action::Recv`] or
    /// [`Action::Discard`] it would return [`Action::Rest`], so the call can be left out.
    #[inline(always)]
    pub(crate) fn next(&mut self, output: bool) -> Action {
        // Separate from the other phases, so that no byte has to pass a jump table.
        if self.phase == Phase::Open {
            return self.next_open(output);
        }
        self.next_ending(output)
    }

    #[cold]
    fn next_ending(&mut self, output: bool) -> Action {
        match self.phase {
            Phase::Open => unreachable!("it is not ending"),
            Phase::Finishing => self.next_finishing(output),
            Phase::Lingering => self.next_lingering(),
            Phase::Aborting => self.next_aborting(output),
            Phase::Closing | Phase::Closed => Action::Rest,
        }
    }

    #[inline]
    fn next_open(&mut self, output: bool) -> Action {
        if self.tx != Tx::Idle {
            return self.next_receive_only();
        }
        if output {
            self.tx = Tx::Sending;
            return Action::Send;
        }
        if self.half_close {
            self.tx = Tx::ShuttingDown;
            return Action::Shutdown;
        }
        self.receive()
    }

    /// The sending side is busy or shut. A function of its own, like those of the other phases.
    #[inline(never)]
    fn next_receive_only(&mut self) -> Action {
        match self.tx {
            // Nothing can be sent or received any more, whatever the service wants.
            Tx::Shut if self.rx == Rx::Ended && !self.paused => {
                self.phase = Phase::Finishing;
                self.next_finishing(false)
            }
            Tx::Idle | Tx::Shut => self.receive(),
            Tx::Sending if self.full_duplex => self.receive(),
            // No read while a send is pending: the server does not read from a client that does not
            // read.
            Tx::Sending | Tx::Connecting | Tx::ShuttingDown => Action::Rest,
        }
    }

    #[inline]
    fn receive(&mut self) -> Action {
        if self.rx != Rx::Idle || self.paused {
            return Action::Rest;
        }
        self.rx = Rx::Receiving;
        Action::Recv
    }

    fn next_finishing(&mut self, output: bool) -> Action {
        match self.tx {
            Tx::Idle if output => {
                self.tx = Tx::Sending;
                Action::Send
            }
            // No more unread input can arrive, so closing sends FIN and not RST.
            Tx::Idle if self.rx == Rx::Ended => self.close(),
            Tx::Idle => {
                self.tx = Tx::ShuttingDown;
                Action::Shutdown
            }
            Tx::Shut => {
                self.phase = Phase::Lingering;
                self.next_lingering()
            }
            Tx::Connecting | Tx::Sending | Tx::ShuttingDown => Action::Rest,
        }
    }

    fn next_lingering(&mut self) -> Action {
        match self.rx {
            Rx::Ended => self.close(),
            Rx::Idle => {
                self.rx = Rx::Receiving;
                Action::Discard
            }
            Rx::Receiving | Rx::AwaitingBuffer => Action::Rest,
        }
    }

    fn next_aborting(&mut self, output: bool) -> Action {
        if !self.is_in_flight() {
            self.lost_output |= output;
            let close = self.close();
            return if self.lost_output { Action::Reset } else { close };
        }
        if self.cancel == Cancel::No {
            self.cancel = Cancel::InFlight;
            return Action::Cancel;
        }
        Action::Rest
    }

    fn close(&mut self) -> Action {
        assert!(!self.is_in_flight(), "closing with an operation in flight: {self:?}");
        self.phase = Phase::Closing;
        Action::Close
    }
}

#[cfg(test)]
mod tests;
