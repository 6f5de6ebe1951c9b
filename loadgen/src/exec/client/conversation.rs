//! The conversation of one connection: what it sent, what it received, and whether that is right.
//! Pure: no I/O, no clock, no buffers. `client` connects it to the engine.

use echopool::service::ConnectionId;

use crate::stats::loss::{Loss, Mismatch};
use crate::traffic::message::Message;
use crate::traffic::payload::Stream;
use crate::traffic::wire::Wire;

/// Bytes of a mismatch in the report.
pub const EXCERPT: usize = 16;

/// State of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConnectionState {
    /// Not established: not begun, connecting, or failed.
    #[default]
    Absent,
    /// Established.
    Open,
    /// All replies have arrived and the client has begun to close.
    Closing,
    /// Being closed, or closed by the peer, before it was finished.
    Lost(Loss),
    /// Closed.
    Closed,
}

/// The conversation of one connection.
#[derive(Debug)]
pub struct Conversation {
    pub id: Option<ConnectionId>,
    pub state: ConnectionState,
    pub stream: Stream,
    /// Requests begun; their time is running.
    pub begun: u64,
    /// Requests whose reply is complete.
    pub completed: u64,
    /// Bytes of all requests begun.
    pub begun_bytes: u64,
    /// Bytes put on the connection's output.
    pub put: u64,
    /// The request that the next byte of output belongs to, and the offset of its first byte.
    out_number: u64,
    out_begin: u64,
    /// Bytes received and verified.
    pub received: u64,
    /// Bytes of all complete replies.
    completed_bytes: u64,
    /// Bytes put on the output since it was last known to be empty.
    pub unsent: u64,
    /// Leases put on the output since then.
    pub held: usize,
    /// Whether it waits for a lease.
    pub starved: bool,
}

// Two cache lines. With many connections, a reply waits for these cache misses.
const _: () = assert!(size_of::<Conversation>() <= 128);

impl Conversation {
    pub fn new(stream: Stream) -> Conversation {
        Conversation {
            id: None,
            state: ConnectionState::Absent,
            stream,
            begun: 0,
            completed: 0,
            begun_bytes: 0,
            put: 0,
            out_number: 0,
            out_begin: 0,
            received: 0,
            completed_bytes: 0,
            unsent: 0,
            held: 0,
            starved: false,
        }
    }

    /// Becomes the conversation of a new connection that replaces one.
    pub fn renew(&mut self, stream: Stream) {
        // It is still in the queue of starved connections.
        *self = Conversation { starved: self.starved, ..Conversation::new(stream) };
    }

    /// Requests without a complete reply.
    #[inline]
    pub fn outstanding(&self) -> u64 {
        self.begun - self.completed
    }

    /// Whether the first byte of the oldest outstanding request has been put on the output.
    #[inline]
    pub fn oldest_is_sent(&self) -> bool {
        self.put > self.completed_bytes
    }

    /// Begins a request: its bytes must be put on the output.
    #[inline]
    pub fn begin(&mut self, wire: &Wire) {
        self.begun_bytes = wire.message(self.stream, self.begun, self.begun_bytes).end();
        self.begun += 1;
    }

    /// Bytes of begun requests that have not been put on the output.
    #[inline]
    pub fn unput(&self) -> u64 {
        self.begun_bytes - self.put
    }

    /// Writes the next bytes of begun requests into `out`. Calls `started` with the number of each
    /// request whose first byte is among them.
    #[inline]
    pub fn fill(&mut self, wire: &Wire, mut out: &mut [u8], mut started: impl FnMut(u64)) {
        self.unsent += out.len() as u64;
        while !out.is_empty() {
            let message = wire.message(self.stream, self.out_number, self.out_begin);
            let within = self.put - message.begin;
            if within == 0 {
                started(message.number);
            }
            let len = (message.len - within).min(out.len() as u64);
            let (here, rest) = out.split_at_mut(len as usize);
            wire.fill(self.stream, message, within, here);
            self.put += len;
            if self.put == message.end() {
                (self.out_number, self.out_begin) = (message.number + 1, message.end());
            }
            out = rest;
        }
    }

    /// Verifies received bytes in place.
    ///
    /// # Errors
    /// A byte differs from the one sent, or no byte was sent at its position.
    #[inline]
    pub fn receive(&mut self, wire: &Wire, bytes: &[u8]) -> Result<(), Box<Mismatch>> {
        let owed = usize::try_from(self.put - self.received).unwrap_or(usize::MAX);
        let due = &bytes[..bytes.len().min(owed)];
        let reply = self.next_reply(wire);
        match wire.first_difference(self.stream, reply, self.received, due) {
            Some(at) => Err(self.mismatch(wire, at, due.len(), bytes)),
            None if due.len() < bytes.len() => {
                Err(self.mismatch(wire, due.len(), due.len(), bytes))
            }
            None => {
                self.received += bytes.len() as u64;
                Ok(())
            }
        }
    }

    /// The reply that contains the byte at this offset, which is not before the last complete
    /// reply.
    fn reply_at(&self, wire: &Wire, offset: u64) -> Message {
        let mut reply = self.next_reply(wire);
        while reply.end() <= offset {
            reply = wire.after(self.stream, reply);
        }
        reply
    }

    /// The first reply that is not complete.
    #[inline]
    pub fn next_reply(&self, wire: &Wire) -> Message {
        wire.message(self.stream, self.completed, self.completed_bytes)
    }

    /// Counts one more reply if it is complete.
    #[inline]
    pub fn complete_one(&mut self, wire: &Wire) -> bool {
        let reply = self.next_reply(wire);
        let complete = self.received >= reply.end();
        if complete {
            self.completed += 1;
            self.completed_bytes = reply.end();
        }
        complete
    }

    /// Bytes arrived when no reply was outstanding. They were not inspected.
    #[cold]
    pub fn surplus(&self, wire: &Wire) -> Mismatch {
        *self.mismatch(wire, 0, 0, &[])
    }

    /// The times in front of a reply are not in order.
    #[cold]
    pub fn wrong_times(&self, reply: Message, header: &[u8]) -> Box<Mismatch> {
        Box::new(Mismatch {
            connection: 0,
            stream_offset: reply.begin,
            request: reply.number,
            request_offset: 0,
            expected: Vec::new(),
            actual: header.to_vec(),
            note: Some("the times of the server are not in order".into()),
        })
    }

    #[cold]
    fn mismatch(&self, wire: &Wire, at: usize, due: usize, bytes: &[u8]) -> Box<Mismatch> {
        let stream_offset = self.received + at as u64;
        let reply = self.reply_at(wire, stream_offset);
        let request_offset = stream_offset - reply.begin;
        // Up to the end of that reply, which is enough to identify the bytes.
        let shown = (due - at).min(EXCERPT).min((reply.len - request_offset) as usize);
        let mut expected = vec![0; shown];
        wire.fill(self.stream, reply, request_offset, &mut expected);
        let actual = bytes[at..bytes.len().min(at + EXCERPT)].to_vec();
        let request = reply.number;
        Box::new(Mismatch {
            connection: 0,
            stream_offset,
            request,
            request_offset,
            expected,
            actual,
            note: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::traffic::wire::Protocol;

    const SIZE: u64 = 64;

    fn wire() -> Wire {
        Wire::new(Protocol::Echo, crate::traffic::sizes::Sizes::Fixed(SIZE))
    }

    /// A conversation that has sent `requests`, and the bytes it sent.
    fn sent(requests: u64) -> (Conversation, Vec<u8>) {
        let mut conversation = Conversation::new(Stream::new(1, 1));
        (0..requests).for_each(|_| conversation.begin(&wire()));
        let mut bytes = vec![0; conversation.unput() as usize];
        let mut started = Vec::new();
        conversation.fill(&wire(), &mut bytes, |number| started.push(number));
        assert_eq!(started, (0..requests).collect::<Vec<_>>());
        (conversation, bytes)
    }

    #[test]
    fn replies_split_or_merged_anywhere_are_counted_once_each() {
        for split in 0..=3 * SIZE as usize {
            let (mut conversation, bytes) = sent(3);
            let mut completed = 0;
            for part in [&bytes[..split], &bytes[split..]] {
                conversation.receive(&wire(), part).expect("what was sent");
                while conversation.complete_one(&wire()) {
                    completed += 1;
                }
                assert_eq!(completed, conversation.received / SIZE, "split {split}");
            }
            assert_eq!((completed, conversation.outstanding()), (3, 0), "split {split}");
        }
    }

    #[test]
    fn a_wrong_byte_is_reported_with_its_place_in_the_stream() {
        let (mut conversation, mut bytes) = sent(2);
        conversation.receive(&wire(), &bytes[..70]).expect("what was sent");
        let right = bytes.clone();
        bytes[100] ^= 0x20;
        let mismatch = conversation.receive(&wire(), &bytes[70..]).expect_err("a wrong byte");
        assert_eq!(mismatch.stream_offset, 100);
        assert_eq!(mismatch.expected, right[100..116]);
        assert_eq!(mismatch.actual, bytes[100..116]);
        assert_eq!((mismatch.request, mismatch.request_offset), (1, 36));
        assert_eq!(conversation.received, 70, "nothing behind it is counted");
    }

    #[test]
    fn bytes_that_were_never_sent_are_a_mismatch() {
        let (mut conversation, mut bytes) = sent(1);
        bytes.push(b'!');
        let mismatch = conversation.receive(&wire(), &bytes).expect_err("a byte too many");
        assert_eq!((mismatch.stream_offset, mismatch.actual.as_slice()), (SIZE, &b"!"[..]));
        assert!(mismatch.expected.is_empty());
    }

    #[test]
    fn the_next_requests_bytes_cannot_come_before_they_are_put_on_the_output() {
        let (mut conversation, bytes) = sent(2);
        conversation.put = SIZE;
        assert_eq!(
            conversation.receive(&wire(), &bytes).expect_err("too early").stream_offset,
            SIZE
        );
    }
}
