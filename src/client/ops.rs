//! The loop's operations: a table that is allocated once, and queues linked through it that do not
//! allocate.

use super::completer::{Completer, Outcome};
use super::error::Error;
use crate::base::endpoint::Endpoint;
use crate::base::time::Time;
use crate::protocol::framing::{Framing, LENGTH_BYTES, Prefix, length};

/// The number that stands for no operation.
pub(super) const NONE: u32 = u32::MAX;

/// The kind of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OpKind {
    Connect,
    Send,
    SendReceive,
    /// Receives bytes, up to the capacity of the buffer.
    Receive,
    Message,
    /// Receives everything until the end of the stream, at most `max` bytes.
    ToEnd {
        max: usize,
    },
    HalfClose,
    Disconnect,
}

impl OpKind {
    pub(super) fn sends(self) -> bool {
        matches!(self, OpKind::Send | OpKind::SendReceive)
    }

    pub(super) fn receives(self) -> bool {
        !matches!(self, OpKind::Connect | OpKind::Send | OpKind::HalfClose | OpKind::Disconnect)
    }

    /// The result of an operation whose connection ends with `error`. For [`OpKind::ToEnd`], the
    /// peer's close is success.
    pub(super) fn result_at_end(self, error: Error) -> Result<(), Error> {
        match self {
            OpKind::ToEnd { .. } if error == Error::ClosedByPeer => Ok(()),
            _ => Err(error),
        }
    }
}

/// One operation.
pub(crate) struct Op {
    pub(super) id: u64,
    pub(super) slot: u32,
    pub(super) kind: OpKind,
    pub(super) completer: Completer,
    /// The data to send.
    pub(super) request: Vec<u8>,
    /// The data received, without the length header.
    pub(super) reply: Vec<u8>,
    /// Maximum length of the reply. Used by [`OpKind::Receive`].
    pub(super) reply_max: usize,
    /// The length header of the message that is being received.
    pub(super) header: [u8; LENGTH_BYTES],
    pub(super) header_len: usize,
    pub(super) deadline: Time,
    /// How many times the deadline was postponed.
    pub(super) postponed: u8,
    /// Number of its bytes, framing included, that have been put on the connection's output.
    pub(super) put: usize,
    /// Position in the connection's stream after the last byte put so far.
    pub(super) end: u64,
    /// The queue of the sending side that the operation is in.
    pub(super) lane: Lane,
    /// Whether everything it waits for has been received.
    pub(super) done: bool,
    /// Whether it is in the queue of receives.
    pub(super) receives: bool,
    /// Whether it is for the connection after the one that is ending.
    pub(super) next: bool,
    /// The result, from the end of the operation until the caller is notified.
    pub(super) ended: Option<Ended>,
    /// The operations before it and behind it in its queues, indexed by [`OpLink`].
    before: [u32; 2],
    behind: [u32; 2],
}

/// The result of an operation that has ended.
pub(super) struct Ended {
    pub(super) result: Result<(), Error>,
    pub(super) bytes_sent: usize,
    /// The peer's address, for a connect.
    pub(super) address: Option<Endpoint>,
}

/// A queue of the sending side: waiting to be put on the output, or on the output and not yet
/// accepted by the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    None,
    Waiting,
    InFlight,
}

/// What an operation took from a slice of the stream.
pub(super) struct Taken {
    pub(super) bytes: usize,
    pub(super) done: bool,
}

impl Op {
    pub(super) fn new(id: u64, slot: u32, kind: OpKind, completer: Completer) -> Op {
        Op {
            id,
            slot,
            kind,
            completer,
            request: Vec::new(),
            reply: Vec::new(),
            reply_max: 0,
            header: [0; LENGTH_BYTES],
            header_len: 0,
            deadline: Time::MAX,
            postponed: 0,
            put: 0,
            end: 0,
            lane: Lane::None,
            done: false,
            receives: false,
            next: false,
            ended: None,
            before: [NONE; 2],
            behind: [NONE; 2],
        }
    }

    /// Whether received bytes may belong to it. A request of which no byte has been sent cannot
    /// have a reply.
    pub(super) fn has_started(&self) -> bool {
        self.kind != OpKind::SendReceive || self.lane != Lane::Waiting || self.put > 0
    }

    /// Whether it is a plain receive that the caller has cancelled. It must not take any more
    /// bytes.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.kind.receives() && !self.kind.sends() && self.completer.is_cancelled()
    }

    /// Length of the message on the wire, in bytes.
    pub(super) fn wire_len(&self, framing: Option<Framing>) -> usize {
        let (before, after) = frame_parts(&framing, self.request.len());
        before.map_or(0, |before| before.bytes().len()) + self.request.len() + after.len()
    }

    /// Copies the next bytes of the message as sent on the wire. Returns their number.
    pub(super) fn fill(&self, framing: Option<Framing>, mut into: &mut [u8]) -> usize {
        let (before, after) = frame_parts(&framing, self.request.len());
        let before = before.as_ref().map_or(&[][..], Prefix::bytes);
        let (mut skip, mut copied) = (self.put, 0);
        for part in [before, &self.request, after] {
            let rest = part.get(skip..).unwrap_or(&[]);
            skip = skip.saturating_sub(part.len());
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            into = &mut into[count..];
            copied += count;
        }
        copied
    }

    /// Takes the bytes that belong to the operation from the front of the stream.
    pub(super) fn take(&mut self, framing: Option<Framing>, bytes: &[u8]) -> Result<Taken, Error> {
        match self.kind {
            OpKind::Receive => {
                let done = |op: &Op| op.reply.len() == op.reply_max;
                Ok(self.take_up_to(self.reply_max, bytes, done))
            }
            OpKind::ToEnd { max } => {
                if self.reply.len() + bytes.len() > max {
                    return Err(Error::TooLong(max));
                }
                Ok(self.take_up_to(max, bytes, |_| false))
            }
            _ => match framing {
                None => {
                    let len = self.request.len();
                    Ok(self.take_up_to(len, bytes, |op| op.reply.len() == len))
                }
                Some(Framing::Length { order, max }) => {
                    let missing = LENGTH_BYTES - self.header_len;
                    let count = missing.min(bytes.len());
                    self.header[self.header_len..][..count].copy_from_slice(&bytes[..count]);
                    self.header_len += count;
                    if self.header_len < LENGTH_BYTES {
                        return Ok(Taken { bytes: count, done: false });
                    }
                    let len = length(self.header, order, max).map_err(Error::FrameTooLarge)?;
                    let taken = self.take_up_to(len, &bytes[count..], |op| op.reply.len() == len);
                    Ok(Taken { bytes: count + taken.bytes, ..taken })
                }
                Some(Framing::Delimiter { delimiter, max }) => {
                    self.take_delimited(delimiter.bytes(), max as usize, bytes)
                }
            },
        }
    }

    fn take_up_to(&mut self, len: usize, bytes: &[u8], done: impl Fn(&Op) -> bool) -> Taken {
        let count = len.saturating_sub(self.reply.len()).min(bytes.len());
        self.reply.extend_from_slice(&bytes[..count]);
        Taken { bytes: count, done: done(self) }
    }

    /// Leaves the delimiter in the reply until the operation completes.
    fn take_delimited(
        &mut self,
        delimiter: &[u8],
        max: usize,
        bytes: &[u8],
    ) -> Result<Taken, Error> {
        let before = self.reply.len();
        let count = (max - before.min(max)).min(bytes.len());
        self.reply.extend_from_slice(&bytes[..count]);
        let from = before.saturating_sub(delimiter.len() - 1);
        let found = self.reply[from..].windows(delimiter.len()).position(|w| w == delimiter);
        if let Some(at) = found {
            let end = from + at + delimiter.len();
            self.reply.truncate(end);
            return Ok(Taken { bytes: end - before, done: true });
        }
        if self.reply.len() >= max {
            let (len, max) = (self.reply.len() as u32, max as u32);
            return Err(Error::FrameTooLarge(crate::protocol::framing::FrameError::TooLong {
                len,
                max,
            }));
        }
        Ok(Taken { bytes: count, done: false })
    }

    /// Removes the bytes received so far and returns them as they were on the wire, for the next
    /// receive.
    pub(super) fn take_wire_reply(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.reply);
        if self.header_len > 0 {
            bytes.splice(0..0, self.header[..self.header_len].iter().copied());
            self.header_len = 0;
        }
        bytes
    }

    /// Notifies the caller of the result.
    pub(super) fn complete(self, at_rest: bool) {
        let Op { completer, request, reply, ended, .. } = self;
        let Some(Ended { result, bytes_sent, address }) = ended else { return };
        completer.complete(Outcome { result, request, reply, bytes_sent, address, at_rest });
    }
}

/// The framing before and after a payload. The length was checked when the operation was started.
fn frame_parts(framing: &Option<Framing>, len: usize) -> (Option<Prefix>, &[u8]) {
    match framing.as_ref().map(|framing| framing.around(len)) {
        Some(Ok((before, after))) => (Some(before), after),
        _ => (None, &[]),
    }
}

/// A FIFO queue of operations, linked through the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fifo {
    pub(super) first: u32,
    last: u32,
}

impl Fifo {
    pub(super) const EMPTY: Fifo = Fifo { first: NONE, last: NONE };

    pub(super) fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

/// Selects which of an operation's two links a queue uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OpLink {
    Sent,
    Received,
}

/// All operations of the loop, indexed by number.
pub(super) struct Ops(Vec<Option<Op>>);

impl Ops {
    pub(super) fn new(count: usize) -> Ops {
        Ops((0..count).map(|_| None).collect())
    }

    pub(super) fn insert(&mut self, index: u32, op: Op) {
        let old = self.0[index as usize].replace(op);
        assert!(old.is_none(), "two operations with the same number");
    }

    pub(super) fn remove(&mut self, index: u32) -> Op {
        self.0[index as usize].take().expect("an operation that is there")
    }

    pub(super) fn get(&self, index: u32) -> Option<&Op> {
        self.0.get(index as usize)?.as_ref()
    }

    pub(super) fn at(&mut self, index: u32) -> &mut Op {
        self.0[index as usize].as_mut().expect("an operation that is there")
    }

    pub(super) fn push_back(&mut self, fifo: &mut Fifo, link: OpLink, index: u32) {
        let link = link as usize;
        let last = std::mem::replace(&mut fifo.last, index);
        let op = self.at(index);
        (op.before[link], op.behind[link]) = (last, NONE);
        match last {
            NONE => fifo.first = index,
            last => self.at(last).behind[link] = index,
        }
    }

    pub(super) fn pop_front(&mut self, fifo: &mut Fifo, link: OpLink) -> Option<u32> {
        let first = fifo.first;
        if first == NONE {
            return None;
        }
        self.unlink(fifo, link, first);
        Some(first)
    }

    /// Removes an operation from any place in the queue.
    pub(super) fn unlink(&mut self, fifo: &mut Fifo, link: OpLink, index: u32) {
        let link = link as usize;
        let op = self.at(index);
        let (before, behind) = (op.before[link], op.behind[link]);
        (op.before[link], op.behind[link]) = (NONE, NONE);
        match before {
            NONE => {
                assert_eq!(fifo.first, index, "an operation that is in the queue");
                fifo.first = behind;
            }
            before => self.at(before).behind[link] = behind,
        }
        match behind {
            NONE => fifo.last = before,
            behind => self.at(behind).before[link] = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::framing::{ByteOrder, Delimiter};

    fn op(kind: OpKind) -> Op {
        let (completer, _) = Completer::new(std::thread::current().id());
        Op::new(1, 0, kind, completer)
    }

    fn framings() -> [Framing; 2] {
        let delimiter = Delimiter::new(b"<EOF>").unwrap();
        [
            Framing::Length { order: ByteOrder::Big, max: 100 },
            Framing::Delimiter { delimiter, max: 100 },
        ]
    }

    fn wire(framing: Framing, payload: &[u8]) -> Vec<u8> {
        let (before, after) = framing.around(payload.len()).unwrap();
        [before.bytes(), payload, after].concat()
    }

    #[test]
    fn a_message_is_taken_and_no_byte_more_wherever_the_stream_is_cut() {
        for framing in framings() {
            for payload in [&b""[..], b"x", b"<<EO<EOF", &[7; 90]] {
                let message = wire(framing, payload);
                let stream = [&message[..], b"next"].concat();
                for cut in 0..=message.len() {
                    let mut op = op(OpKind::Message);
                    let (mut at, mut done) = (0, false);
                    for end in [cut, (cut + 3).min(stream.len()), stream.len()] {
                        if !done {
                            let taken = op.take(Some(framing), &stream[at..end]).unwrap();
                            (at, done) = (at + taken.bytes, taken.done);
                        }
                    }
                    assert_eq!((at, done), (message.len(), true), "{framing:?}, cut at {cut}");
                    // Put back into wire format, it equals the bytes taken.
                    assert_eq!(op.take_wire_reply(), message);
                }
            }
        }
    }

    #[test]
    fn a_request_is_filled_in_pieces_of_any_size() {
        for framing in framings().map(Some).into_iter().chain([None]) {
            let payload: Vec<u8> = (0..60).collect();
            let whole = framing.map_or(payload.clone(), |framing| wire(framing, &payload));
            for size in 1..=whole.len() {
                let mut op = op(OpKind::Send);
                op.request = payload.clone();
                assert_eq!(op.wire_len(framing), whole.len());
                let mut sent = Vec::new();
                let mut piece = vec![0; size];
                while op.put < whole.len() {
                    let count = op.fill(framing, &mut piece);
                    assert!(count > 0);
                    op.put += count;
                    sent.extend_from_slice(&piece[..count]);
                }
                assert_eq!(sent, whole);
            }
        }
    }

    #[test]
    fn queues_keep_their_order_whatever_is_taken_out() {
        let mut ops = Ops::new(5);
        (0..5).for_each(|index| ops.insert(index, op(OpKind::Send)));
        for out in 0..5 {
            let mut fifo = Fifo::EMPTY;
            (0..5).for_each(|index| ops.push_back(&mut fifo, OpLink::Sent, index));
            ops.unlink(&mut fifo, OpLink::Sent, out);
            ops.push_back(&mut fifo, OpLink::Sent, out);
            let left: Vec<_> =
                std::iter::from_fn(|| ops.pop_front(&mut fifo, OpLink::Sent)).collect();
            let expected: Vec<_> = (0..5).filter(|&index| index != out).chain([out]).collect();
            assert_eq!(left, expected);
            assert!(fifo.is_empty());
        }
    }
}
