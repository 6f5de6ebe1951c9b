//! Operations as the loop has them: a table that is made once, and queues through it that allocate
//! nothing.

use super::completer::{Completer, Outcome};
use super::error::Error;
use crate::base::time::Time;
use crate::protocol::framing::{Framing, LENGTH_BYTES, Prefix, length};
use std::net::SocketAddr;

/// No operation.
pub(super) const NONE: u32 = u32::MAX;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Connect,
    Send,
    SendReceive,
    /// Some bytes, as many as the buffer has room for.
    Receive,
    Message,
    /// Everything until the end, at most so many bytes.
    ToEnd {
        max: usize,
    },
    HalfClose,
    Disconnect,
}

impl Kind {
    pub(super) fn sends(self) -> bool {
        matches!(self, Kind::Send | Kind::SendReceive)
    }

    pub(super) fn receives(self) -> bool {
        !matches!(self, Kind::Connect | Kind::Send | Kind::HalfClose | Kind::Disconnect)
    }

    /// What the end of a connection is for an operation: for one kind it is what was waited for.
    pub(super) fn result_at_end(self, error: Error) -> Result<(), Error> {
        match self {
            Kind::ToEnd { .. } if error == Error::ClosedByPeer => Ok(()),
            _ => Err(error),
        }
    }
}

/// An operation.
pub(crate) struct Op {
    pub(super) id: u64,
    pub(super) slot: u32,
    pub(super) kind: Kind,
    pub(super) completer: Completer,
    /// What is to be sent.
    pub(super) request: Vec<u8>,
    /// What has come, without the length in front of it.
    pub(super) reply: Vec<u8>,
    /// How much there is room for: with [`Kind::Receive`].
    pub(super) reply_max: usize,
    /// The length in front of the message that is being received.
    pub(super) header: [u8; LENGTH_BYTES],
    pub(super) header_len: usize,
    pub(super) deadline: Time,
    /// Bytes of it, framing included, that are on the connection's output or have been.
    pub(super) put: usize,
    /// Where in the connection's stream it ends; known when it has been put completely.
    pub(super) end: u64,
    /// Whether it is in the queue of those that are to be sent, or have been and are not yet with
    /// the kernel.
    pub(super) lane: Lane,
    /// Whether all that it waits for has come.
    pub(super) done: bool,
    /// Whether it is in the queue of those that receive.
    pub(super) receives: bool,
    /// Whether it waits for the connection after the one that is ending.
    pub(super) next: bool,
    /// How it ended, until that is told.
    pub(super) ended: Option<Ended>,
    /// Its neighbours in the queues that it is in: before it and behind it, by [`Link`].
    before: [u32; 2],
    behind: [u32; 2],
}

/// How an operation ended.
pub(super) struct Ended {
    pub(super) result: Result<(), Error>,
    pub(super) bytes_sent: usize,
    /// Of a connect.
    pub(super) address: Option<SocketAddr>,
}

/// Which queue of the sending side an operation is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    None,
    Waiting,
    InFlight,
}

/// What a slice of the stream has brought for an operation.
pub(super) struct Taken {
    pub(super) bytes: usize,
    pub(super) done: bool,
}

impl Op {
    pub(super) fn new(id: u64, slot: u32, kind: Kind, completer: Completer) -> Op {
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

    /// Whether a byte that comes may be for it: a request that is not out at all has no reply.
    pub(super) fn has_begun(&self) -> bool {
        self.kind != Kind::SendReceive || self.lane != Lane::Waiting || self.put > 0
    }

    /// Whether it only receives, and its caller has asked for its end: it is to get nothing more.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.kind.receives() && !self.kind.sends() && self.completer.is_cancelled()
    }

    /// Bytes of the message on the wire.
    pub(super) fn wire_len(&self, framing: Option<Framing>) -> usize {
        let (before, after) = frame_parts(&framing, self.request.len());
        before.map_or(0, |before| before.bytes().len()) + self.request.len() + after.len()
    }

    /// Copies the message's next bytes on the wire. Returns how many.
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

    /// Takes of the stream what belongs to the operation.
    pub(super) fn take(&mut self, framing: Option<Framing>, bytes: &[u8]) -> Result<Taken, Error> {
        match self.kind {
            Kind::Receive => {
                let done = |op: &Op| op.reply.len() == op.reply_max;
                Ok(self.take_up_to(self.reply_max, bytes, done))
            }
            Kind::ToEnd { max } => {
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

    /// The delimiter stays in the reply until the operation is complete.
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

    /// What has come, as it was on the wire: the begin of what the next receive gets.
    pub(super) fn take_wire_reply(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.reply);
        if self.header_len > 0 {
            bytes.splice(0..0, self.header[..self.header_len].iter().copied());
            self.header_len = 0;
        }
        bytes
    }

    /// Tells the caller how it ended.
    pub(super) fn complete(self, at_rest: bool) {
        let Op { completer, request, reply, ended, .. } = self;
        let Some(Ended { result, bytes_sent, address }) = ended else { return };
        completer.complete(Outcome { result, request, reply, bytes_sent, address, at_rest });
    }
}

/// What is around a payload. That it fits was checked when the operation was begun.
fn frame_parts(framing: &Option<Framing>, len: usize) -> (Option<Prefix>, &[u8]) {
    match framing.as_ref().map(|framing| framing.around(len)) {
        Some(Ok((before, after))) => (Some(before), after),
        _ => (None, &[]),
    }
}

/// A queue of operations, oldest first, linked through them.
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

/// Which of an operation's two links a queue goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Sent,
    Received,
}

/// All operations of the loop, by their numbers.
pub(super) struct Ops(Vec<Option<Op>>);

impl Ops {
    pub(super) fn new(count: usize) -> Ops {
        Ops((0..count).map(|_| None).collect())
    }

    pub(super) fn insert(&mut self, index: u32, op: Op) {
        let old = self.0[index as usize].replace(op);
        assert!(old.is_none(), "two operations with one number");
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

    pub(super) fn push_back(&mut self, fifo: &mut Fifo, link: Link, index: u32) {
        let link = link as usize;
        let last = std::mem::replace(&mut fifo.last, index);
        let op = self.at(index);
        (op.before[link], op.behind[link]) = (last, NONE);
        match last {
            NONE => fifo.first = index,
            last => self.at(last).behind[link] = index,
        }
    }

    pub(super) fn pop_front(&mut self, fifo: &mut Fifo, link: Link) -> Option<u32> {
        let first = fifo.first;
        if first == NONE {
            return None;
        }
        self.unlink(fifo, link, first);
        Some(first)
    }

    /// Takes an operation out of wherever it stands in the queue.
    pub(super) fn unlink(&mut self, fifo: &mut Fifo, link: Link, index: u32) {
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

    fn op(kind: Kind) -> Op {
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
                    let mut op = op(Kind::Message);
                    let (mut at, mut done) = (0, false);
                    for end in [cut, (cut + 3).min(stream.len()), stream.len()] {
                        if !done {
                            let taken = op.take(Some(framing), &stream[at..end]).unwrap();
                            (at, done) = (at + taken.bytes, taken.done);
                        }
                    }
                    assert_eq!((at, done), (message.len(), true), "{framing:?}, cut at {cut}");
                    // As on the wire, it is what was taken.
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
                let mut op = op(Kind::Send);
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
        (0..5).for_each(|index| ops.insert(index, op(Kind::Send)));
        for out in 0..5 {
            let mut fifo = Fifo::EMPTY;
            (0..5).for_each(|index| ops.push_back(&mut fifo, Link::Sent, index));
            ops.unlink(&mut fifo, Link::Sent, out);
            ops.push_back(&mut fifo, Link::Sent, out);
            let left: Vec<_> =
                std::iter::from_fn(|| ops.pop_front(&mut fifo, Link::Sent)).collect();
            let expected: Vec<_> = (0..5).filter(|&index| index != out).chain([out]).collect();
            assert_eq!(left, expected);
            assert!(fifo.is_empty());
        }
    }
}
