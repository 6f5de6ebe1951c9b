//! One client of a hub: what it has received, and whether that is right. Pure: no I/O, no clock.
//!
//! Each client must receive each message of each sender once, in the sender's order, with the right
//! bytes and under the sender's id. The hub may drop messages for a slow client, but it must report
//! their number before the next message.

use echopool::service::ConnectionId;
use echopool::time::Time;

use super::senders::SharedSenders;
use crate::exec::client::conversation::{ConnectionState, EXCERPT};
use crate::stats::loss::Mismatch;
use crate::traffic::hub_frames::{
    FramePart, Frames, MessageHead, STAMP_BYTES, Stamp, message_head,
};

/// One client.
#[derive(Debug)]
pub struct Member {
    pub connection: Option<ConnectionId>,
    pub state: ConnectionState,
    /// `false`: it never reads and is not checked.
    pub reads: bool,
    pub opened: Time,
    /// Buffers on its output.
    pub held: usize,
    /// The id that the hub assigned; 0 before that.
    pub id: u64,
    /// Its index among all senders.
    pub sender: Option<u32>,
    /// Its index among the senders of its thread.
    pub sender_nth: usize,
    /// In an open loop: the intended time of a message that the schedule assigned to it, and the
    /// time since which it has room.
    pub offered: Option<Time>,
    pub room_since: Time,
    frames: Frames,
    /// Bytes of the connection's input up to the end of the last correct frame.
    offset: u64,
    /// Bytes of the current frame received so far.
    within: u64,
    /// The message whose payload is being received.
    current: Option<Stamp>,
    /// Messages received.
    pub received: u64,
    /// Received messages that it sent itself.
    pub own_received: u64,
    /// Messages that the hub reported as dropped.
    pub dropped: u64,
    /// Dropped messages whose position in a sender's order is known.
    skipped: u64,
    /// A sender may continue from here although its own messages have not all come back, because
    /// drops were reported.
    pub released: u64,
    pub joined: u64,
    pub left: u64,
    /// Whether it has sent its farewell, and whether the farewell has come back.
    pub farewell_sent: bool,
    pub farewell_came: bool,
    /// Farewells that the hub dropped and has not yet reported with NOT_SENT.
    farewells_dropped: u64,
    /// Lists of clients received in place of notices.
    pub lists: u64,
}

/// Events of a member that others need to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// It has received its id.
    Welcome,
    /// A message is complete.
    Delivered(Stamp),
    /// The hub reported this many drops.
    Dropped(u64),
}

impl Member {
    pub fn new(shared: &SharedSenders, sender: Option<u32>) -> Member {
        Member {
            connection: None,
            state: ConnectionState::Absent,
            reads: true,
            opened: Time::ZERO,
            held: 0,
            id: 0,
            sender,
            sender_nth: 0,
            offered: None,
            room_since: Time::ZERO,
            frames: Frames::new(shared.order),
            offset: 0,
            within: 0,
            current: None,
            received: 0,
            own_received: 0,
            dropped: 0,
            skipped: 0,
            released: 0,
            joined: 0,
            left: 0,
            farewell_sent: false,
            farewell_came: false,
            farewells_dropped: 0,
            lists: 0,
        }
    }

    /// Messages that this client neither received nor can receive any more. `begun`: messages of
    /// all senders.
    #[inline]
    pub fn missing(&self, begun: u64) -> u64 {
        begun.saturating_sub(self.received + self.dropped)
    }

    /// Verifies received bytes. `next`: the number of the expected message of each sender.
    ///
    /// # Errors
    /// The bytes violate the protocol, or a message is wrong.
    #[inline]
    pub fn receive(
        &mut self,
        shared: &SharedSenders,
        next: &mut [u64],
        mut bytes: &[u8],
        mut news: impl FnMut(News),
    ) -> Result<(), Box<Mismatch>> {
        loop {
            let before = bytes.len();
            let part = self.frames.next(&mut bytes);
            self.within += (before - bytes.len()) as u64;
            let checked = match part {
                Ok(None) => return Ok(()),
                Ok(Some(part)) => self.check(shared, next, part, &mut news),
                Err(note) => Err(self.wrong_head(shared, next, note)),
            };
            checked?;
        }
    }

    #[inline]
    fn check(
        &mut self,
        shared: &SharedSenders,
        next: &mut [u64],
        part: FramePart<'_>,
        news: &mut impl FnMut(News),
    ) -> Result<(), Box<Mismatch>> {
        match part {
            FramePart::Message(head) => self.begin_message(shared, next, head),
            FramePart::Payload { at, bytes } => self.check_payload(shared, at, bytes),
            FramePart::End => {
                self.end_message(next, news);
                Ok(())
            }
            notice => match self.notice(shared, notice, news) {
                Ok(()) => {
                    self.end_frame();
                    Ok(())
                }
                Err(note) => Err(self.wrong_notice(note)),
            },
        }
    }

    #[inline]
    fn begin_message(
        &mut self,
        shared: &SharedSenders,
        next: &mut [u64],
        head: MessageHead,
    ) -> Result<(), Box<Mismatch>> {
        let stamp = head.stamp;
        let wrong = |note| Err(note);
        let checked = if self.id == 0 {
            wrong("a message before the WELCOME")
        } else if stamp == Stamp::FAREWELL {
            self.check_farewell(head)
        } else {
            self.check_broadcast(shared, next, head)
        };
        self.current = Some(stamp);
        checked.map_err(|note| self.wrong_head(shared, next, note))
    }

    #[inline]
    fn check_broadcast(
        &mut self,
        shared: &SharedSenders,
        next: &mut [u64],
        MessageHead { to_all, from, len, stamp }: MessageHead,
    ) -> Result<(), &'static str> {
        let Some(sender) = shared.senders.get(stamp.sender as usize) else {
            return Err("a message of a client that does not send");
        };
        let due = &mut next[stamp.sender as usize];
        if !to_all {
            return Err("a broadcast marked as a message to one client");
        }
        if from != sender.id() {
            return Err("a message under the id of another client");
        }
        if len != shared.size {
            return Err("a message with a wrong length");
        }
        if stamp.number >= sender.begun() {
            return Err("a message that was never sent");
        }
        if stamp.number < *due {
            return Err("a message that arrived before, or out of order");
        }
        let missing = stamp.number - *due;
        if missing > self.dropped - self.skipped {
            return Err("a message is missing before this one");
        }
        self.skipped += missing;
        *due = stamp.number;
        Ok(())
    }

    fn check_farewell(&self, head: MessageHead) -> Result<(), &'static str> {
        let MessageHead { to_all, from, len, .. } = head;
        if !self.farewell_sent || self.farewell_came {
            return Err("a message to itself that it did not send");
        }
        match !to_all && from == self.id && len == STAMP_BYTES as u64 {
            true => Ok(()),
            false => Err("the message to itself came back changed"),
        }
    }

    #[inline]
    fn check_payload(
        &self,
        shared: &SharedSenders,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), Box<Mismatch>> {
        let stamp = self.current.expect("a message has begun");
        match shared.first_difference(stamp, at, bytes) {
            None => Ok(()),
            Some(differs) => Err(self.wrong_payload(shared, stamp, at, bytes, differs)),
        }
    }

    #[inline]
    fn end_message(&mut self, next: &mut [u64], news: &mut impl FnMut(News)) {
        let stamp = self.current.take().expect("a message has begun");
        if stamp == Stamp::FAREWELL {
            self.farewell_came = true;
        } else {
            next[stamp.sender as usize] += 1;
            self.received += 1;
            news(News::Delivered(stamp));
        }
        self.end_frame();
    }

    fn end_frame(&mut self) {
        self.offset += self.within;
        self.within = 0;
    }

    #[cold]
    fn notice(
        &mut self,
        shared: &SharedSenders,
        part: FramePart<'_>,
        news: &mut impl FnMut(News),
    ) -> Result<(), &'static str> {
        let first = self.id == 0;
        match part {
            FramePart::Welcome(_) if !first => return Err("a second WELCOME"),
            FramePart::Welcome(0) => return Err("a WELCOME with the id 0"),
            FramePart::Welcome(id) if !shared.is_new(id) => {
                return Err("a WELCOME with the id of another client");
            }
            FramePart::Welcome(id) => {
                self.id = id;
                if let Some(sender) = self.sender {
                    shared.senders[sender as usize].set_id(id);
                }
                news(News::Welcome);
            }
            _ if first => return Err("another frame before the WELCOME"),
            FramePart::Joined(id) | FramePart::Left(id) if id == 0 || id == self.id => {
                return Err("a notice about no client, or about the client itself");
            }
            FramePart::Joined(_) => self.joined += 1,
            FramePart::Left(_) => self.left += 1,
            FramePart::Dropped(0) => return Err("DROPPED with a count of 0"),
            FramePart::Dropped(count) => self.drop_messages(shared, count, news)?,
            FramePart::Clients => self.lists += 1,
            FramePart::NotSent { reason: 2, id } if id == self.id && self.farewells_dropped > 0 => {
                self.farewells_dropped -= 1;
            }
            _ => return Err("NOT_SENT, although the client is connected and has read everything"),
        }
        Ok(())
    }

    fn drop_messages(
        &mut self,
        shared: &SharedSenders,
        count: u64,
        news: &mut impl FnMut(News),
    ) -> Result<(), &'static str> {
        let most = shared.begun() - (self.received + self.dropped);
        // The farewell may be among them. It is sent again.
        let farewell = u64::from(self.farewell_sent && !self.farewell_came && count > most);
        if count - farewell > most {
            return Err("more messages dropped than were sent");
        }
        self.farewell_sent &= farewell == 0;
        self.farewells_dropped += farewell;
        let count = count - farewell;
        self.dropped += count;
        if let Some(sender) = self.sender {
            self.released = shared.senders[sender as usize].begun();
        }
        news(News::Dropped(count));
        Ok(())
    }

    #[cold]
    fn wrong_notice(&self, note: &'static str) -> Box<Mismatch> {
        self.mismatch(note, 0, LENGTH_AND_TYPE, Vec::new(), excerpt(self.frames.head()))
    }

    /// A mismatch that shows the received header beside the expected one.
    #[cold]
    fn wrong_head(
        &self,
        shared: &SharedSenders,
        next: &[u64],
        note: &'static str,
    ) -> Box<Mismatch> {
        let head = self.frames.head();
        let sender = self.current.map_or(0, |stamp| stamp.sender as usize);
        let sender = if sender < next.len() { sender } else { 0 };
        let stamp = Stamp { sender: sender as u32, number: next[sender] };
        let id = shared.senders[sender].id();
        let due = message_head(shared.size, true, id, stamp, shared.order);
        let at = head.iter().zip(&due).position(|(actual, due)| actual != due).unwrap_or(0);
        let (due, actual) = (excerpt(&due[at..]), excerpt(&head[at..]));
        self.mismatch(note, stamp.number, at as u64, due, actual)
    }

    #[cold]
    fn wrong_payload(
        &self,
        shared: &SharedSenders,
        stamp: Stamp,
        at: u64,
        bytes: &[u8],
        differs: usize,
    ) -> Box<Mismatch> {
        let actual = excerpt(&bytes[differs..]);
        let mut due = vec![0; actual.len()];
        shared.fill(stamp, at + differs as u64, &mut due);
        // `within` is after these bytes.
        let in_frame = self.within - (bytes.len() - differs) as u64;
        self.mismatch("bytes that differ from those sent", stamp.number, in_frame, due, actual)
    }

    #[cold]
    fn mismatch(
        &self,
        note: &str,
        request: u64,
        request_offset: u64,
        expected: Vec<u8>,
        actual: Vec<u8>,
    ) -> Box<Mismatch> {
        Box::new(Mismatch {
            connection: 0,
            stream_offset: self.offset + request_offset,
            request,
            request_offset,
            expected,
            actual,
            note: Some(note.to_string()),
        })
    }
}

/// Offset of a notice's number.
const LENGTH_AND_TYPE: u64 = 5;

fn excerpt(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().min(EXCERPT)].to_vec()
}
