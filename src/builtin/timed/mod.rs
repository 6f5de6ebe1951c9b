//! The timed echo: a framed echo whose replies carry when the request was received, taken up and
//! sent back. A client can tell from them where the time of a round trip went.
//!
//! The times are written over the first bytes of the frame, in the buffer in which they arrived. So
//! a reply is as long as its request, nothing is copied, and an echo needs no further buffer. A
//! buffer in which frames end and another one begins is split by copying its shorter part, because
//! a shared buffer cannot be written to.
//!
//! With a delay, each connection is a queue with one server: a request is taken up when the one
//! before it has been sent back. The time received is in the header of each request that waits, so
//! there is no table of them.

use std::time::Duration;

use super::delay::agenda::Agenda;
use super::message_echo::{check_room, refuse};
use super::option::{About, Allowed, ORDERS, Options, Value, declare, options};
use crate::base::time::Time;
use crate::buffer::Chain;
use crate::config::{LEASES_PER_CONNECTION_MAX, Limits, MESSAGE_LEASES_MAX};
use crate::error::{CloseReason, SettingError};
use crate::protocol::framing::{ByteOrder, FRAME_BYTES_MAX, Framing, LENGTH_BYTES, length};
use crate::service::{
    Answer, Connection, ConnectionId, Message, Service, ServiceFactory, ServicePlan, Turn,
    WorkerContext,
};
use crate::shared::receipt::SendError;

mod header;
#[cfg(test)]
mod tests;

use header::encode;
pub use header::{TIMES_BYTES, Times, clock_id};

/// Positions in a frame.
const RECEIVED_AT: usize = LENGTH_BYTES + 8;
const TAKEN_UP_AT: usize = LENGTH_BYTES + 16;
const SENT_AT: usize = LENGTH_BYTES + 24;

options! {
    /// Options of the timed echo.
    #[derive(Copy)]
    pub struct TimedOptions {
        /// Byte order of the length and of the times. Default: little endian.
        pub order: ByteOrder = ByteOrder::Little,
            "order" = "ORDER", Words(ORDERS), "byte order of numbers, here also of the times";
        /// Maximum size of a frame without its length, with the times, in bytes: 32 to
        /// 2,147,483,647. Default: 1 MiB.
        pub max_frame: u32 = 1 << 20,
            "max-frame" = "SIZE", Size(TIMES_BYTES as u32, FRAME_BYTES_MAX),
            "longest frame, without its length";
        /// How long the service works on each request, at most an hour. The requests of a
        /// connection follow each other. Default: 0.
        pub delay: Duration = Duration::ZERO,
            "delay" = "TIME", Described("0 to 1h"), "time that the service takes for a request";
    }
    impl {
        fn has_flags(&self) -> bool {
            false
        }
    }
}

impl TimedOptions {
    /// How the stream is divided into frames.
    pub fn framing(&self) -> Framing {
        Framing::Length { order: self.order, max: self.max_frame }
    }
}

/// Sends each complete frame back with [`Times`] in place of its first [`TIMES_BYTES`] bytes, in
/// the buffers it arrived in. Frames that arrive together are sent back together.
///
/// A frame without room for the times is refused with
/// [`ProtocolError`](crate::CloseReason::ProtocolError). Otherwise frames are refused and incomplete
/// ones treated as by [`Framed`](super::Framed).
#[derive(Debug)]
pub struct Timed {
    options: TimedOptions,
    clock: u64,
    /// When connections with a delay are due, and their ids.
    agenda: Agenda,
    ids: Vec<u64>,
    /// Maximum number of bytes per receive.
    receive_max: usize,
}

/// The session state of a connection.
#[derive(Default)]
pub struct TimedSession {
    /// Bytes at the front of the input that are complete frames and have their time received.
    whole: u32,
    /// When the service is done with the first of them. Zero: it has not taken it up.
    due: Time,
    /// The peer has closed its sending side.
    ended: bool,
    /// The server is draining.
    drains: bool,
}

impl Timed {
    fn new(options: TimedOptions, worker: &WorkerContext) -> Timed {
        let slots = if options.delay.is_zero() { 0 } else { worker.connections_max() };
        Timed {
            options,
            clock: clock_id(),
            agenda: Agenda::new(slots),
            ids: vec![0; slots],
            receive_max: usize::from(LEASES_PER_CONNECTION_MAX) * worker.buffer_size(),
        }
    }

    /// The size of the frame at this place of a stream, with its length, or `None` if it is
    /// incomplete.
    ///
    /// # Errors
    /// It is refused.
    #[inline]
    fn frame_at(&self, stream: &Chain, at: usize) -> Result<Option<usize>, Answer> {
        let mut prefix = [0; LENGTH_BYTES];
        if !stream.read_at(at, &mut prefix) {
            return Ok(None);
        }
        let TimedOptions { order, max_frame, .. } = self.options;
        let len = length(prefix, order, max_frame).map_err(refuse)?;
        if len < TIMES_BYTES {
            return Err(Answer::CloseAfterSendFor(CloseReason::ProtocolError));
        }
        let whole = LENGTH_BYTES + len;
        Ok((stream.len() - at >= whole).then_some(whole))
    }

    /// The size of the frame at this place, which is complete and has been checked.
    fn checked_frame_at(&self, stream: &Chain, at: usize) -> usize {
        let frame = self.frame_at(stream, at);
        frame.ok().flatten().expect("a frame that was found complete before")
    }

    fn write(&self, stream: &mut Chain, at: usize, number: u64) {
        stream.write_at(at, &encode(number, self.options.order));
    }

    /// Receives, takes up and sends back what can be, and returns what the connection does next.
    fn serve(&mut self, connection: &mut Connection<'_>, session: &mut TimedSession) -> Answer {
        let refused = self.receive(connection, session);
        match self.options.delay.is_zero() {
            true => self.send_all(connection, session),
            false => self.send_due(connection, session),
        }
        if session.whole > 0 {
            // The agenda wakes it, or a buffer.
            let is_full = connection.input.len() >= self.options.framing().wire_max();
            let stops = is_full || refused.is_some() || session.drains;
            let delays = !self.options.delay.is_zero();
            return if delays && stops { Answer::WaitUntil(Time::MAX) } else { Answer::Continue };
        }
        match refused {
            Some(answer) => answer,
            None if session.ended => Answer::CloseAfterSendFor(CloseReason::PeerClosed),
            None if session.drains => Answer::CloseAfterSendFor(CloseReason::Drained),
            None => Answer::Continue,
        }
    }

    /// Writes the time received into the frames that are complete now. Returns whether the next one
    /// is refused.
    fn receive(
        &self,
        connection: &mut Connection<'_>,
        session: &mut TimedSession,
    ) -> Option<Answer> {
        loop {
            let at = session.whole as usize;
            match self.frame_at(connection.input, at) {
                Ok(Some(len)) => {
                    self.write(connection.input, at + LENGTH_BYTES, self.clock);
                    let received = connection.now().as_nanos();
                    self.write(connection.input, at + RECEIVED_AT, received);
                    session.whole += len as u32;
                }
                Ok(None) => return None,
                Err(answer) => return Some(answer),
            }
        }
    }

    /// Takes up and sends back all complete frames. If that needs a buffer and none is free, the
    /// connection waits for one.
    fn send_all(&self, connection: &mut Connection<'_>, session: &mut TimedSession) {
        let whole = session.whole as usize;
        let taken_up = connection.read_clock().as_nanos();
        if whole == 0 {
            return;
        }
        let Some(mut frames) = connection.take_input(whole) else { return };
        session.whole = 0;
        let sent = connection.read_clock().as_nanos();
        let mut at = 0;
        while at < whole {
            self.write(&mut frames, at + TAKEN_UP_AT, taken_up);
            self.write(&mut frames, at + SENT_AT, sent);
            at += self.checked_frame_at(&frames, at);
        }
        connection.output.append(&mut frames);
    }

    /// Sends the frames back whose delay is over, and takes up those behind them.
    fn send_due(&mut self, connection: &mut Connection<'_>, session: &mut TimedSession) {
        let slot = connection.id().slot();
        self.agenda.clear(slot);
        while session.whole > 0 {
            let now = connection.read_clock();
            if session.due == Time::ZERO {
                self.write(connection.input, TAKEN_UP_AT, now.as_nanos());
                session.due = now + self.options.delay;
            }
            if now < session.due {
                return self.agenda.set(slot, session.due);
            }
            let len = self.checked_frame_at(connection.input, 0);
            let Some(mut frame) = connection.take_input(len) else { return };
            session.whole -= len as u32;
            session.due = Time::ZERO;
            self.write(&mut frame, SENT_AT, connection.read_clock().as_nanos());
            connection.output.append(&mut frame);
        }
    }
}

impl ServiceFactory for TimedOptions {
    type Service = Timed;

    fn check(&self, limits: &Limits) -> Result<(), SettingError> {
        let wrong = |text: String| SettingError::new("timed", format_args!("{self:?}"), text);
        self.checked(&[]).map_err(wrong)?;
        check_room(limits, self.framing().wire_max(), "max_frame", self.max_frame)?;
        match limits.idle_timeout {
            Some(idle) if idle <= self.delay => {
                let text = format!(
                    "replies take {:?}, but connections are closed when idle for {idle:?}: raise \
                     `idle_timeout`, or turn it off",
                    self.delay
                );
                Err(SettingError::new("idle_timeout", format_args!("{idle:?}"), text))
            }
            _ => Ok(()),
        }
    }

    fn plan(self, limits: &Limits) -> ServicePlan<Timed> {
        let each = (Agenda::BYTES_PER_SLOT + size_of::<u64>()) as u64;
        let slots = if self.delay.is_zero() { 0 } else { u64::from(limits.max_connections) };
        ServicePlan::new(move |worker| Timed::new(self, worker)).memory_bytes(slots * each)
    }
}

impl Service for Timed {
    type Session = TimedSession;
    const HEARS_SENT: bool = false;

    /// An incomplete frame, plus one receive.
    fn input_max(&self, _: u64) -> usize {
        self.options.framing().wire_max() + self.receive_max
    }

    fn open(&mut self, connection: &mut Connection<'_>, _: &mut TimedSession) -> Answer {
        if let Some(id) = self.ids.get_mut(connection.id().slot() as usize) {
            *id = connection.id().to_bits();
        }
        Answer::Continue
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, session: &mut TimedSession) -> Answer {
        // The common case: the input is exactly one frame.
        let is_one = |whole| whole == connection.input.len();
        if session.whole == 0
            && self.options.delay.is_zero()
            && self.frame_at(connection.input, 0).is_ok_and(|frame| frame.is_some_and(is_one))
        {
            let (received, taken_up) = (connection.now(), connection.read_clock());
            let times =
                Times { clock: self.clock, received, taken_up, sent: connection.read_clock() };
            connection.input.write_at(LENGTH_BYTES, &times.encode(self.options.order));
            connection.output.append(connection.input);
            return Answer::Continue;
        }
        self.serve(connection, session)
    }

    fn peer_closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut TimedSession,
    ) -> Answer {
        session.ended = true;
        self.serve(connection, session)
    }

    fn draining(&mut self, connection: &mut Connection<'_>, session: &mut TimedSession) -> Answer {
        session.drains = true;
        self.serve(connection, session)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut TimedSession) -> Answer {
        self.serve(connection, session)
    }

    fn buffer_available(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut TimedSession,
    ) -> Answer {
        self.serve(connection, session)
    }

    /// The message is a frame whose times are all zero.
    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        _: &mut TimedSession,
        message: &mut Message<'_>,
    ) -> Answer {
        let times = Times::default().encode(self.options.order);
        let len = TIMES_BYTES + message.bytes().len();
        let why = match self.options.framing().around(len) {
            Err(_) => SendError::TooLong,
            Ok((before, _))
                if connection.output.leases() < MESSAGE_LEASES_MAX
                    && connection.send_parts(&[before.bytes(), &times, message.bytes()]) =>
            {
                return Answer::Continue;
            }
            Ok(_) => SendError::QueueFull,
        };
        message.refuse(why);
        Answer::Continue
    }

    fn closed(&mut self, connection: &mut Connection<'_>, _: &mut TimedSession, _: CloseReason) {
        if !self.ids.is_empty() {
            self.agenda.clear(connection.id().slot());
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        while turn.wakes_left() > 0
            && let Some(slot) = self.agenda.pop(turn.now())
        {
            turn.wake(ConnectionId::from_bits(self.ids[slot as usize]));
        }
        self.agenda.next()
    }
}
