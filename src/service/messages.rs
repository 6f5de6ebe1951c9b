//! Takes whole messages out of a connection's input. [`framing`](crate::protocol::framing) decides
//! where messages end.

use super::Connection;
use crate::buffer::Chain;
use crate::protocol::framing::{FrameError, Framing, Scan};

impl Connection<'_> {
    /// Takes the first message out of the input, including its length or delimiter. Returns `None`
    /// if the message is not complete, or if there is no free buffer to split it off with. It then
    /// stays in the input, and the service is called again.
    ///
    /// Keep `scan` in the session. It stores how far the end of the message has been searched for,
    /// so that no byte is searched twice. It belongs to the input: a service that takes its
    /// messages with these methods must not take anything else out of the input.
    ///
    /// # Errors
    /// The message is too long, or its length is negative. It is refused as soon as that is known,
    /// and stays in the input.
    ///
    /// # Panics
    /// If bytes that were searched have been taken out of the input in another way.
    ///
    /// ```
    /// use echopool::CloseReason;
    /// use echopool::framing::{Delimiter, Framing, Scan};
    /// use echopool::service::{Answer, Connection, Service};
    ///
    /// /// Sends each line back, unless it is empty.
    /// struct Lines(Framing);
    ///
    /// impl Service for Lines {
    ///     type Session = Scan;
    ///
    ///     fn data(&mut self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
    ///         loop {
    ///             match connection.take_message(&self.0, scan) {
    ///                 Ok(Some(line)) if line.len() == 1 => {}
    ///                 Ok(Some(mut line)) => connection.output.append(&mut line),
    ///                 Ok(None) => return Answer::Continue,
    ///                 Err(_) => return Answer::CloseAfterSendFor(CloseReason::MessageTooLong),
    ///             }
    ///         }
    ///     }
    /// }
    ///
    /// let delimiter = Delimiter::new(b"\n").expect("1 to 16 bytes");
    /// let lines = Lines(Framing::Delimiter { delimiter, max: 1000 });
    /// ```
    pub fn take_message(
        &mut self,
        framing: &Framing,
        scan: &mut Scan,
    ) -> Result<Option<Chain>, FrameError> {
        let mut search = *scan;
        match framing.first(self.input, &mut search)? {
            Some(len) => Ok(self.take_found(len, scan, Scan::default())),
            None => {
                *scan = search;
                Ok(None)
            }
        }
    }

    /// Takes all complete messages out of the input at once, as one chain. Otherwise like
    /// [`take_message`](Connection::take_message): returns `None` if there is no complete message
    /// or no free buffer. If a message is not allowed, the messages before it are returned, and the
    /// next call returns the error.
    ///
    /// # Errors
    /// The first message in the input is not allowed.
    ///
    /// # Panics
    /// As [`take_message`](Connection::take_message).
    pub fn take_messages(
        &mut self,
        framing: &Framing,
        scan: &mut Scan,
    ) -> Result<Option<Chain>, FrameError> {
        let mut search = *scan;
        match framing.all(self.input, &mut search, |_| {}) {
            (0, None) => {
                *scan = search;
                Ok(None)
            }
            (0, Some(error)) => Err(error),
            (len, None) => Ok(self.take_found(len, scan, search)),
            (len, Some(_)) => Ok(self.take_found(len, scan, Scan::default())),
        }
    }

    /// Takes `len` bytes and sets `scan` to `after`, or changes neither.
    fn take_found(&mut self, len: usize, scan: &mut Scan, after: Scan) -> Option<Chain> {
        let found = self.take_input(len)?;
        *scan = after;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::testing::Rig;
    use crate::protocol::framing::Delimiter;
    use crate::service::{Answer, Service};

    fn lines(max: u32) -> Framing {
        Framing::Delimiter { delimiter: Delimiter::new(b"\r\n").unwrap(), max }
    }

    /// Sends back what it takes in angle brackets, one message at a time or all at once.
    #[derive(Clone, Copy)]
    struct Brackets {
        all: bool,
        framing: Framing,
    }

    impl Service for Brackets {
        type Session = Scan;

        fn data(&mut self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
            loop {
                let taken = match self.all {
                    true => connection.take_messages(&self.framing, scan),
                    false => connection.take_message(&self.framing, scan),
                };
                match taken {
                    Ok(Some(mut taken)) => {
                        assert!(connection.send(b"<"));
                        connection.output.append(&mut taken);
                        assert!(connection.send(b">"));
                    }
                    Ok(None) => return Answer::Continue,
                    Err(_) => return Answer::CloseAfterSend,
                }
            }
        }
    }

    fn rig(all: bool, max: u32, buffers: u32) -> Rig<Brackets> {
        let service = Brackets { all, framing: lines(max) };
        Rig::new(move || service, 16, buffers)
    }

    #[test]
    fn messages_are_taken_one_by_one_or_together_wherever_the_stream_is_split() {
        let stream = b"one\r\n\r\nthree and four\r\rx\r\nno end\r";
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let mut rig = rig(false, 100, 64);
                for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                    assert_eq!(rig.receive(part), Answer::Continue);
                }
                let expected = b"<one\r\n><\r\n><three and four\r\rx\r\n>";
                assert_eq!(rig.replies, expected, "{first} {second}");
                assert_eq!(rig.input.len(), 7);
            }
        }
        let mut rig = rig(true, 100, 64);
        assert_eq!(rig.receive(stream), Answer::Continue);
        assert_eq!(rig.replies, b"<one\r\n\r\nthree and four\r\rx\r\n>");
        assert_eq!(rig.receive(b"\n"), Answer::Continue);
        assert!(rig.replies.ends_with(b"<no end\r\n>"));
    }

    /// A line that stays in the input because there is no buffer is not joined with the next one.
    #[test]
    fn a_message_that_could_not_be_taken_is_not_joined_with_the_next() {
        for all in [false, true] {
            let mut rig = rig(all, 100, 8);
            // No line is complete, and the search has advanced.
            assert_eq!(rig.receive(b"one\r"), Answer::Continue);
            let taken: Vec<_> = std::iter::from_fn(|| rig.pool.lease()).collect();
            assert_eq!(taken.len(), 7);
            // This fits into the buffer that is there. Splitting a line off takes another one.
            rig.receive_into_last(b"\ntwo\r\nth");
            assert_eq!(rig.call_data(), Answer::Continue);
            assert_eq!(rig.call_data(), Answer::Continue);
            assert!(rig.replies.is_empty() && rig.input.len() == 12);
            assert!(rig.waits_for_buffer());
            drop(taken);
            assert_eq!(rig.call_data(), Answer::Continue);
            let expected: &[u8] = if all { b"<one\r\ntwo\r\n>" } else { b"<one\r\n><two\r\n>" };
            assert_eq!(rig.replies, expected, "{}", rig.replies.escape_ascii());
            assert_eq!(rig.receive(b"ree\r\n"), Answer::Continue);
            assert!(rig.replies.ends_with(b"<three\r\n>"));
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_behind_those_before_it_and_again() {
        for all in [false, true] {
            for cut in 0..20 {
                let mut rig = rig(all, 10, 64);
                let stream = b"12345678\r\n123456789\r\n";
                let first = rig.receive(&stream[..cut]);
                let answers = [first, rig.receive(&stream[cut..])];
                assert_eq!(answers[1], Answer::CloseAfterSend);
                assert_eq!(rig.replies, b"<12345678\r\n>", "cut at {cut}");
                assert_eq!(rig.call_data(), Answer::CloseAfterSend, "it is still there");
            }
        }
    }

    #[test]
    #[should_panic(expected = "taken off the input")]
    fn a_scan_of_bytes_that_are_gone_is_refused() {
        struct Wrong;
        impl Service for Wrong {
            type Session = Scan;

            fn data(&mut self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
                let taken = connection.take_message(&lines(100), scan);
                assert!(matches!(taken, Ok(None)));
                connection.input.consume(connection.input.len());
                Answer::Continue
            }
        }
        let mut rig = Rig::new(|| Wrong, 16, 4);
        rig.receive(b"half a line");
        rig.receive(b"more");
    }
}
