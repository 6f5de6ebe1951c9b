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
    /// use echopool::framing::{Framing, Scan};
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
    /// let lines = Lines(Framing::lines(1000));
    /// ```
    ///
    /// A service that replies to a message may find no buffer for the reply. It then puts the
    /// message back: see [`put_back`](Connection::put_back).
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

    /// Puts bytes that were taken from the front of the input back to its front, for example a
    /// message to which there is no buffer to reply. If [`send`](Connection::send) has returned
    /// false, the service is called again when there is one, and finds the message in its place.
    ///
    /// The scan of the input must be that of its front: it is after
    /// [`take_message`](Connection::take_message). After [`take_messages`](Connection::take_messages),
    /// set it to `Scan::default()`.
    ///
    /// # Panics
    /// If the bytes are in buffers of another worker.
    ///
    /// ```
    /// use echopool::CloseReason;
    /// use echopool::framing::{Framing, Scan};
    /// use echopool::service::{Answer, Connection, Service};
    /// use echopool::testing::Rig;
    ///
    /// /// Replies to each line with its length.
    /// struct Lengths(Framing);
    ///
    /// impl Service for Lengths {
    ///     type Session = Scan;
    ///
    ///     fn data(&mut self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
    ///         loop {
    ///             let line = match connection.take_message(&self.0, scan) {
    ///                 Ok(Some(line)) => line,
    ///                 Ok(None) => return Answer::Continue,
    ///                 Err(_) => return Answer::CloseAfterSendFor(CloseReason::MessageTooLong),
    ///             };
    ///             let reply = format!("{}\n", line.to_vec().trim_ascii_end().len());
    ///             if !connection.send(reply.as_bytes()) {
    ///                 // Nothing has been done for this line yet. It is, when there is a buffer.
    ///                 connection.put_back(line);
    ///                 return Answer::Continue;
    ///             }
    ///         }
    ///     }
    /// }
    ///
    /// let mut rig = Rig::new(|| Lengths(Framing::lines(1000)));
    /// let client = rig.connect();
    /// rig.send(client, b"one\nthree\n");
    /// assert_eq!(rig.received(client), b"3\n5\n");
    /// ```
    pub fn put_back(&mut self, mut taken: Chain) {
        taken.append(self.input);
        *self.input = taken;
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
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::error::CloseReason;
    use crate::protocol::framing::Delimiter;
    use crate::service::{Answer, Service};
    use crate::testing::Rig;

    fn lines(max: u32) -> Framing {
        Framing::Delimiter { delimiter: Delimiter::new(b"\r\n").unwrap(), max }
    }

    /// Sends back what it takes in angle brackets, one message at a time or all at once.
    #[derive(Clone, Copy)]
    struct Brackets {
        all: bool,
        framing: Framing,
    }

    impl Brackets {
        fn take(
            &self,
            connection: &mut Connection<'_>,
            scan: &mut Scan,
        ) -> Result<Option<Chain>, FrameError> {
            match self.all {
                true => connection.take_messages(&self.framing, scan),
                false => connection.take_message(&self.framing, scan),
            }
        }
    }

    impl Service for Brackets {
        type Session = Scan;

        fn data(&mut self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
            loop {
                match self.take(connection, scan) {
                    Ok(Some(mut taken)) => {
                        assert!(connection.send(b"<"));
                        connection.output.append(&mut taken);
                        assert!(connection.send(b">"));
                    }
                    Ok(None) => return Answer::Continue,
                    Err(_) => {
                        assert!(self.take(connection, scan).is_err(), "it is still there");
                        return Answer::CloseAfterSend;
                    }
                }
            }
        }
    }

    fn rig(all: bool, max: u32, buffers: u32) -> Rig<Brackets> {
        let service = Brackets { all, framing: lines(max) };
        Rig::with_buffers(move || service, buffers, 16)
    }

    #[test]
    fn messages_are_taken_one_by_one_or_together_wherever_the_stream_is_split() {
        let stream = b"one\r\n\r\nthree and four\r\rx\r\nno end\r";
        for first in 0..stream.len() {
            let mut rig = rig(false, 100, 64);
            for second in first..stream.len() {
                let client = rig.connect();
                for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                    rig.send(client, part);
                }
                let expected = b"<one\r\n><\r\n><three and four\r\rx\r\n>";
                assert_eq!(rig.received(client), expected, "{first} {second}");
                assert!(rig.buffers_held() > 0, "the rest is in the input");
                rig.send(client, b"\n");
                assert_eq!(rig.received(client), b"<no end\r\n>", "{first} {second}");
                rig.finish(client);
                assert_eq!((rig.is_closed(client), rig.buffers_held()), (true, 0));
            }
        }
        let mut rig = rig(true, 100, 64);
        let client = rig.connect();
        // After a receive that fills its buffers, the next one takes twice as many.
        for len in [16, 32] {
            rig.send(client, &[&[b'x'; 32][..len - 2], b"\r\n"].concat());
            assert_eq!(rig.received(client).len(), len + 2);
        }
        rig.send(client, stream);
        assert_eq!(rig.received(client), b"<one\r\n\r\nthree and four\r\rx\r\n>");
        rig.send(client, b"\n");
        assert_eq!(rig.received(client), b"<no end\r\n>");
    }

    /// A line for whose reply there is no buffer is put back, and replied to before the next.
    #[test]
    fn a_message_that_is_put_back_is_the_next_again_and_none_is_lost() {
        /// Replies with a count and the whole line, in a buffer of its own.
        struct Replies(u8);
        impl Service for Replies {
            type Session = Scan;

            fn data(&mut self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
                while let Some(line) = connection.take_message(&lines(100), scan).unwrap() {
                    let reply = [&[b'0' + self.0; 16][..], &line.to_vec()].concat();
                    if !connection.send(&reply) {
                        connection.put_back(line);
                        break;
                    }
                    self.0 += 1;
                }
                Answer::Continue
            }
        }
        let mut rig = Rig::with_buffers(|| Replies(0), 8, 16);
        let client = rig.connect();
        rig.take_buffers_but(2);
        rig.send(client, b"one\r\ntwo\r\n");
        assert_eq!(rig.received(client), b"", "a reply takes two buffers");
        assert_eq!(rig.counts().waits_for_buffer, 1);
        rig.give_buffers();
        let expected = b"0000000000000000one\r\n1111111111111111two\r\n";
        let received = rig.received(client);
        assert_eq!(received, expected, "{}", received.escape_ascii());
        rig.finish(client);
        assert_eq!((rig.is_closed(client), rig.buffers_held()), (true, 0));
    }

    /// A line that stays in the input because there is no buffer is not joined with the next one.
    #[test]
    fn a_message_that_could_not_be_taken_is_not_joined_with_the_next() {
        for all in [false, true] {
            let mut rig = rig(all, 100, 8);
            let client = rig.connect();
            // No line is complete, and the search has advanced.
            rig.send(client, b"a line of 15:\r");
            assert_eq!(rig.take_buffers_but(1), 6);
            // This goes into the last buffer. Cutting off a line needs another one.
            rig.send(client, b"\ntwo\r\nth");
            assert_eq!(rig.received(client), b"");
            assert_eq!((rig.counts().waits_for_buffer, rig.buffers_held()), (1, 2));
            rig.give_buffers();
            let expected: &[u8] = match all {
                true => b"<a line of 15:\r\ntwo\r\n>",
                false => b"<a line of 15:\r\n><two\r\n>",
            };
            let received = rig.received(client);
            assert_eq!(received, expected, "{}", received.escape_ascii());
            rig.send(client, b"ree\r\n");
            assert_eq!(rig.received(client), b"<three\r\n>");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_behind_those_before_it_and_again() {
        for all in [false, true] {
            let mut rig = rig(all, 10, 64);
            for cut in 0..20 {
                let client = rig.connect();
                let stream = b"12345678\r\n123456789\r\n";
                rig.send(client, &stream[..cut]);
                rig.send(client, &stream[cut..]);
                assert_eq!(rig.received(client), b"<12345678\r\n>", "cut at {cut}");
                assert!(rig.has_ended(client));
                rig.finish(client);
                assert_eq!(rig.counts().closed(CloseReason::Service), cut as u64 + 1);
            }
        }
    }

    #[test]
    fn a_scan_of_bytes_that_are_gone_is_refused() {
        /// Sends the text of the panic.
        struct Wrong;
        impl Service for Wrong {
            type Session = Scan;

            fn data(&mut self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
                let take = || connection.take_message(&lines(100), scan);
                match catch_unwind(AssertUnwindSafe(take)) {
                    Ok(taken) => assert!(matches!(taken, Ok(None))),
                    Err(panic) => {
                        let text = panic.downcast_ref::<&str>().expect("a literal");
                        assert!(connection.send(text.as_bytes()));
                    }
                }
                connection.input.consume(connection.input.len());
                Answer::Continue
            }
        }
        let mut rig = Rig::with_buffers(|| Wrong, 16, 16);
        let client = rig.connect();
        rig.send(client, b"half a line");
        assert_eq!(rig.received(client), b"");
        rig.send(client, b"more");
        let text = String::from_utf8(rig.received(client)).unwrap();
        assert!(text.contains("taken off the input"), "{text}");
    }
}
