//! One connection's conversation: what it has sent, what has come back, and whether that is right.
//! Pure: no I/O, no clock, no buffers. `client` joins it to the engine.

use echopool::service::ConnectionId;

use crate::payload::Stream;

/// Bytes of a mismatch that are kept for the report.
pub const EXCERPT: usize = 16;

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Not established: not begun, being connected, or failed.
    #[default]
    Absent,
    /// Established.
    Open,
    /// Everything has come back and we have begun to close.
    Closing,
    /// Being closed, or closed by the other side, before it was finished.
    Lost(Loss),
    /// Closed.
    Closed,
}

/// Why a connection ended before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// A byte differed from what was sent. Counted as a mismatch, not as an error of the network.
    Mismatch,
    /// A reply did not come in time.
    TimedOut,
    /// The other side closed while it owed replies or the run went on.
    ClosedByPeer,
    /// Reset.
    Reset,
    /// The kernel gave up on the other side.
    PeerLost,
    /// Another error of a system call, or an end that has no better name.
    Failed,
}

/// The first byte of a connection that was not as it had been sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// The connection's number, from 0.
    pub connection: u64,
    /// Position in the connection's stream.
    pub stream_offset: u64,
    /// What was sent there; empty if nothing had been sent yet.
    pub expected: Vec<u8>,
    /// What came back instead; empty if it came after the last reply, when nobody looked at it.
    pub actual: Vec<u8>,
}

/// The conversation of one connection.
#[derive(Debug)]
pub struct Flow {
    pub id: Option<ConnectionId>,
    pub state: State,
    pub stream: Stream,
    /// Requests begun: their time is running.
    pub begun: u64,
    /// Requests whose reply is complete.
    pub completed: u64,
    /// Bytes put on the connection's output.
    pub put: u64,
    /// Bytes received and found right.
    pub received: u64,
    /// Bytes put on the output since it was last known to be empty.
    pub unsent: u64,
    /// Leases put on the output since then.
    pub held: usize,
    /// Whether it waits for a lease.
    pub starved: bool,
}

impl Flow {
    pub fn new(stream: Stream) -> Flow {
        Flow {
            id: None,
            state: State::Absent,
            stream,
            begun: 0,
            completed: 0,
            put: 0,
            received: 0,
            unsent: 0,
            held: 0,
            starved: false,
        }
    }

    /// Requests without a complete reply.
    pub fn outstanding(&self) -> u64 {
        self.begun - self.completed
    }

    /// Bytes of begun requests that have not been put on the output.
    pub fn unput(&self, size: u64) -> u64 {
        self.begun * size - self.put
    }

    /// Checks what has come back where it lies.
    ///
    /// # Errors
    /// A byte differs from the one sent, or none had been sent in its place.
    #[inline]
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Box<Mismatch>> {
        let owed = usize::try_from(self.put - self.received).unwrap_or(usize::MAX);
        let due = &bytes[..bytes.len().min(owed)];
        match self.stream.first_difference(self.received, due) {
            Some(at) => Err(self.mismatch(at, due.len(), bytes)),
            None if due.len() < bytes.len() => Err(self.mismatch(due.len(), due.len(), bytes)),
            None => {
                self.received += bytes.len() as u64;
                Ok(())
            }
        }
    }

    /// Counts one reply if another one is complete.
    #[inline]
    pub fn complete_one(&mut self, size: u64) -> bool {
        let complete = self.received - self.completed * size >= size;
        self.completed += u64::from(complete);
        complete
    }

    #[cold]
    fn mismatch(&self, at: usize, due: usize, bytes: &[u8]) -> Box<Mismatch> {
        let stream_offset = self.received + at as u64;
        let mut expected = vec![0; EXCERPT.min(due - at)];
        self.stream.fill(stream_offset, &mut expected);
        let actual = bytes[at..bytes.len().min(at + EXCERPT)].to_vec();
        Box::new(Mismatch { connection: 0, stream_offset, expected, actual })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64;

    /// A flow that has sent `requests`, and the bytes it sent.
    fn sent(requests: u64) -> (Flow, Vec<u8>) {
        let mut flow = Flow::new(Stream::new(1, 1));
        flow.begun = requests;
        let mut bytes = vec![0; flow.unput(SIZE) as usize];
        flow.stream.fill(0, &mut bytes);
        flow.put = bytes.len() as u64;
        (flow, bytes)
    }

    #[test]
    fn replies_split_or_merged_anywhere_are_counted_once_each() {
        for split in 0..=3 * SIZE as usize {
            let (mut flow, bytes) = sent(3);
            let mut completed = 0;
            for part in [&bytes[..split], &bytes[split..]] {
                flow.receive(part).expect("what was sent");
                while flow.complete_one(SIZE) {
                    completed += 1;
                }
                assert_eq!(completed, flow.received / SIZE, "split {split}");
            }
            assert_eq!((completed, flow.outstanding()), (3, 0), "split {split}");
        }
    }

    #[test]
    fn a_wrong_byte_is_reported_with_its_place_in_the_stream() {
        let (mut flow, mut bytes) = sent(2);
        flow.receive(&bytes[..70]).expect("what was sent");
        let right = bytes.clone();
        bytes[100] ^= 0x20;
        let mismatch = flow.receive(&bytes[70..]).expect_err("a wrong byte");
        assert_eq!(mismatch.stream_offset, 100);
        assert_eq!(mismatch.expected, right[100..116]);
        assert_eq!(mismatch.actual, bytes[100..116]);
        assert_eq!(flow.received, 70, "nothing behind it is counted");
    }

    #[test]
    fn bytes_that_were_never_sent_are_a_mismatch() {
        let (mut flow, mut bytes) = sent(1);
        bytes.push(b'!');
        let mismatch = flow.receive(&bytes).expect_err("a byte too many");
        assert_eq!((mismatch.stream_offset, mismatch.actual.as_slice()), (SIZE, &b"!"[..]));
        assert!(mismatch.expected.is_empty());
    }

    #[test]
    fn the_next_requests_bytes_cannot_come_before_they_are_put_on_the_output() {
        let (mut flow, bytes) = sent(2);
        flow.put = SIZE;
        assert_eq!(flow.receive(&bytes).expect_err("too early").stream_offset, SIZE);
    }
}
