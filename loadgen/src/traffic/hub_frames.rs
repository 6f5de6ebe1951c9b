//! The hub's wire protocol from the client's side: the frames that clients write, and a parser for
//! the frames that they read, however the bytes are split. Pure. `member` interprets the frames.
//!
//! The payload of each broadcast begins with a [stamp](Stamp): its sender's number and the number
//! of the message.

use echopool::framing::{ByteOrder, LENGTH_BYTES, encode};

/// Size of a stamp, and so of the shortest broadcast, in bytes.
pub const STAMP_BYTES: usize = 12;
/// Bytes of a broadcast in addition to its payload.
pub const BROADCAST_BYTES: usize = LENGTH_BYTES + 1;
/// The longest payload for a hub that does not state its limit (max-message): what fits into a
/// default buffer of echopool together with the header.
pub const PAYLOAD_MAX: u64 = 16_000;

const SEND: u8 = 2;
const BROADCAST: u8 = 3;
const WELCOME: u8 = 128;
const CLIENTS: u8 = 129;
const MESSAGE: u8 = 130;
const JOINED: u8 = 131;
const LEFT: u8 = 132;
const NOT_SENT: u8 = 133;
const DROPPED: u8 = 134;

/// Bytes of a frame up to and including its type.
const TYPE_END: usize = LENGTH_BYTES + 1;
/// Bytes of a message up to its payload, and up to the end of the stamp in it.
const PAYLOAD_BEGIN: usize = TYPE_END + 1 + 8;
const HEAD_MAX: usize = PAYLOAD_BEGIN + STAMP_BYTES;

/// The beginning of each payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The sender's number, from 0.
    pub sender: u32,
    /// The number of the sender's message, from 0.
    pub number: u64,
}

impl Stamp {
    /// The stamp of the message that a client sends to itself when it has received everything.
    pub const FAREWELL: Stamp = Stamp { sender: u32::MAX, number: 0 };

    pub fn bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..4].copy_from_slice(&self.sender.to_le_bytes());
        bytes[4..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    fn parse(bytes: [u8; STAMP_BYTES]) -> Stamp {
        let [a, b, c, d, number @ ..] = bytes;
        Stamp { sender: u32::from_le_bytes([a, b, c, d]), number: u64::from_le_bytes(number) }
    }
}

/// The header of a broadcast whose payload has `len` bytes.
pub fn broadcast_head(len: u64, order: ByteOrder) -> [u8; BROADCAST_BYTES] {
    let mut head = [BROADCAST; BROADCAST_BYTES];
    head[..LENGTH_BYTES].copy_from_slice(&encode(1 + len as u32, order));
    head
}

/// A complete farewell for the client with this id, which sends it to itself.
pub fn farewell(id: u64, order: ByteOrder) -> [u8; TYPE_END + 8 + STAMP_BYTES] {
    let mut frame = [SEND; TYPE_END + 8 + STAMP_BYTES];
    let len = (frame.len() - LENGTH_BYTES) as u32;
    frame[..LENGTH_BYTES].copy_from_slice(&encode(len, order));
    frame[TYPE_END..TYPE_END + 8].copy_from_slice(&long_bytes(id, order));
    frame[TYPE_END + 8..].copy_from_slice(&Stamp::FAREWELL.bytes());
    frame
}

/// The beginning of a message as the hub writes it, up to the end of its stamp.
pub fn message_head(
    len: u64,
    to_all: bool,
    from: u64,
    stamp: Stamp,
    order: ByteOrder,
) -> [u8; HEAD_MAX] {
    let mut head = [MESSAGE; HEAD_MAX];
    let frame = (PAYLOAD_BEGIN - LENGTH_BYTES) as u32 + len as u32;
    head[..LENGTH_BYTES].copy_from_slice(&encode(frame, order));
    head[TYPE_END] = to_all.into();
    head[TYPE_END + 1..PAYLOAD_BEGIN].copy_from_slice(&long_bytes(from, order));
    head[PAYLOAD_BEGIN..].copy_from_slice(&stamp.bytes());
    head
}

fn long_bytes(number: u64, order: ByteOrder) -> [u8; 8] {
    match order {
        ByteOrder::Little => number.to_le_bytes(),
        ByteOrder::Big => number.to_be_bytes(),
    }
}

/// A frame, or the next part of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FramePart<'a> {
    Welcome(u64),
    Joined(u64),
    Left(u64),
    NotSent {
        reason: u8,
        id: u64,
    },
    Dropped(u64),
    /// The start of a list of clients, which a hub sends unasked if it had no room for notices. The
    /// ids are skipped.
    Clients,
    /// The start of a message, including its stamp.
    Message(MessageHead),
    /// Bytes of a payload; the first of them is at `at`.
    Payload {
        at: u64,
        bytes: &'a [u8],
    },
    /// The message is complete.
    End,
}

/// What is known of a message before the rest of its payload arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageHead {
    pub to_all: bool,
    pub from: u64,
    /// Bytes of the payload.
    pub len: u64,
    pub stamp: Stamp,
}

/// Splits what one client reads into frames.
#[derive(Debug)]
pub struct Frames {
    order: ByteOrder,
    head: [u8; HEAD_MAX],
    /// Bytes of the header received so far.
    have: u8,
    /// Remaining bytes of a message's payload, and the position in it.
    at: u32,
    left: u32,
    in_payload: bool,
    /// Remaining bytes of a list.
    skip: u32,
}

impl Frames {
    pub fn new(order: ByteOrder) -> Frames {
        Frames { order, head: [0; HEAD_MAX], have: 0, at: 0, left: 0, in_payload: false, skip: 0 }
    }

    /// The header of the current frame, as far as it was received.
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.have)]
    }

    /// Takes the next part from the start of `bytes`. Returns `None` if more bytes are needed.
    ///
    /// # Errors
    /// What is wrong with the frame. Its header can still be read with [`head`](Self::head).
    #[inline]
    pub fn next<'a>(
        &mut self,
        bytes: &mut &'a [u8],
    ) -> Result<Option<FramePart<'a>>, &'static str> {
        if self.in_payload {
            return Ok(self.payload(bytes));
        }
        if self.skip > 0 {
            let count = bytes.len().min(self.skip as usize);
            *bytes = &bytes[count..];
            self.skip -= count as u32;
        }
        if !self.complete(TYPE_END, bytes) {
            return Ok(None);
        }
        let len = self.frame_len()?;
        let kind = self.head[LENGTH_BYTES];
        let head_len = match kind {
            WELCOME | JOINED | LEFT | DROPPED => TYPE_END + 8,
            NOT_SENT => TYPE_END + 1 + 8,
            CLIENTS => TYPE_END + 1,
            MESSAGE => HEAD_MAX,
            _ => return Err("a frame of an unexpected type"),
        };
        let due = head_len - LENGTH_BYTES;
        match kind {
            MESSAGE if (len as usize) < due => return Err("a message that loadgen did not send"),
            MESSAGE => {}
            CLIENTS if len % 8 != 2 => return Err("a list that does not end with an id"),
            CLIENTS => {}
            _ if len as usize != due => return Err("a frame with a wrong length"),
            _ => {}
        }
        if !self.complete(head_len, bytes) {
            return Ok(None);
        }
        self.whole_head(kind, len).map(Some)
    }

    #[inline]
    fn whole_head<'a>(&mut self, kind: u8, len: u32) -> Result<FramePart<'a>, &'static str> {
        let part = match kind {
            MESSAGE => {
                self.in_payload = true;
                self.at = STAMP_BYTES as u32;
                self.left = len - (HEAD_MAX - LENGTH_BYTES) as u32;
                return self.message();
            }
            NOT_SENT => {
                FramePart::NotSent { reason: self.head[TYPE_END], id: self.long_at(TYPE_END + 1) }
            }
            CLIENTS if self.head[TYPE_END] > 1 => {
                return Err("a list with an invalid last-part flag");
            }
            CLIENTS => {
                self.skip = len - 2;
                FramePart::Clients
            }
            WELCOME => FramePart::Welcome(self.long_at(TYPE_END)),
            JOINED => FramePart::Joined(self.long_at(TYPE_END)),
            LEFT => FramePart::Left(self.long_at(TYPE_END)),
            _ => FramePart::Dropped(self.long_at(TYPE_END)),
        };
        self.have = 0;
        Ok(part)
    }

    #[inline]
    fn message<'a>(&self) -> Result<FramePart<'a>, &'static str> {
        let to_all = match self.head[TYPE_END] {
            0 => false,
            1 => true,
            _ => return Err("a message with an invalid recipient flag"),
        };
        let mut stamp = [0; STAMP_BYTES];
        stamp.copy_from_slice(&self.head[PAYLOAD_BEGIN..]);
        Ok(FramePart::Message(MessageHead {
            to_all,
            from: self.long_at(TYPE_END + 1),
            len: STAMP_BYTES as u64 + u64::from(self.left),
            stamp: Stamp::parse(stamp),
        }))
    }

    #[inline]
    fn payload<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<FramePart<'a>> {
        if self.left == 0 {
            self.in_payload = false;
            self.have = 0;
            return Some(FramePart::End);
        }
        let (part, rest) = bytes.split_at(bytes.len().min(self.left as usize));
        if part.is_empty() {
            return None;
        }
        let at = u64::from(self.at);
        self.at += part.len() as u32;
        self.left -= part.len() as u32;
        *bytes = rest;
        Some(FramePart::Payload { at, bytes: part })
    }

    /// Takes bytes until the header has `len` bytes. Returns whether it has.
    #[inline]
    fn complete(&mut self, len: usize, bytes: &mut &[u8]) -> bool {
        let have = usize::from(self.have);
        let (part, rest) = bytes.split_at(bytes.len().min(len.saturating_sub(have)));
        self.head[have..have + part.len()].copy_from_slice(part);
        self.have += part.len() as u8;
        *bytes = rest;
        usize::from(self.have) >= len
    }

    #[inline]
    fn frame_len(&self) -> Result<u32, &'static str> {
        let [a, b, c, d, ..] = self.head;
        let len = match self.order {
            ByteOrder::Little => i32::from_le_bytes([a, b, c, d]),
            ByteOrder::Big => i32::from_be_bytes([a, b, c, d]),
        };
        match u32::try_from(len) {
            Ok(len) if len > 0 => Ok(len),
            _ => Err("a frame without a type, or with a negative length"),
        }
    }

    #[inline]
    fn long_at(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.head[at..at + 8]);
        match self.order {
            ByteOrder::Little => u64::from_le_bytes(bytes),
            ByteOrder::Big => u64::from_be_bytes(bytes),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A frame of the hub that carries one number.
    pub fn notice(kind: u8, number: u64, order: ByteOrder) -> Vec<u8> {
        [&encode(9, order)[..], &[kind], &long_bytes(number, order)].concat()
    }

    pub fn welcome(id: u64, order: ByteOrder) -> Vec<u8> {
        notice(WELCOME, id, order)
    }

    pub fn joined(id: u64, order: ByteOrder) -> Vec<u8> {
        notice(JOINED, id, order)
    }

    pub fn dropped(count: u64, order: ByteOrder) -> Vec<u8> {
        notice(DROPPED, count, order)
    }

    /// The parts into which a stream of all frames is split when it arrives in these pieces;
    /// payloads are joined.
    fn cut(order: ByteOrder, parts: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
        let mut frames = Frames::new(order);
        let (mut seen, mut payload) = (Vec::new(), Vec::new());
        for mut bytes in parts.iter().copied() {
            while let Some(part) = frames.next(&mut bytes).expect("well formed") {
                match part {
                    FramePart::Payload { at, bytes } => {
                        assert_eq!(at as usize, STAMP_BYTES + payload.len());
                        payload.extend_from_slice(bytes);
                    }
                    other => seen.push(format!("{other:?}")),
                }
            }
            assert!(bytes.is_empty());
        }
        (seen, payload)
    }

    #[test]
    fn frames_are_the_same_wherever_the_stream_is_split() {
        let stamp = Stamp { sender: 3, number: 1 << 40 };
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let mut stream = welcome(7, order);
            stream.extend(joined(8, order));
            stream.extend(message_head(20, true, 9, stamp, order));
            stream.extend(*b"payload!");
            stream.extend(message_head(12, false, 7, Stamp::FAREWELL, order));
            stream.extend([&encode(10, order)[..], &[NOT_SENT, 2], &long_bytes(5, order)].concat());
            stream.extend([&encode(18, order)[..], &[CLIENTS, 1], &[WELCOME; 16]].concat());
            stream.extend([&encode(2, order)[..], &[CLIENTS, 0]].concat());
            stream.extend(dropped(6, order));
            stream.extend(notice(LEFT, 8, order));
            let head = MessageHead { to_all: true, from: 9, len: 20, stamp };
            let farewell = MessageHead { to_all: false, from: 7, len: 12, stamp: Stamp::FAREWELL };
            let due = [
                FramePart::Welcome(7),
                FramePart::Joined(8),
                FramePart::Message(head),
                FramePart::End,
                FramePart::Message(farewell),
                FramePart::End,
                FramePart::NotSent { reason: 2, id: 5 },
                FramePart::Clients,
                FramePart::Clients,
                FramePart::Dropped(6),
                FramePart::Left(8),
            ]
            .map(|part| format!("{part:?}"));
            for split in 0..=stream.len() {
                let (seen, payload) = cut(order, &[&stream[..split], &stream[split..]]);
                assert_eq!((&seen[..], &payload[..]), (&due[..], &b"payload!"[..]), "{split}");
            }
            let single: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(cut(order, &single).0, due);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let order = ByteOrder::Little;
        let frame = |len: u32, kind: u8| [&encode(len, order)[..], &[kind; 40]].concat();
        for bytes in [
            frame(0, WELCOME),
            frame(u32::MAX, WELCOME),
            frame(8, WELCOME),
            frame(10, LEFT),
            frame(9, NOT_SENT),
            frame(21, MESSAGE),
            frame(30, MESSAGE),
            frame(3, CLIENTS),
            frame(2, CLIENTS),
            frame(2, 127),
            frame(2, 1),
        ] {
            let mut rest = &bytes[..];
            assert!(Frames::new(order).next(&mut rest).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn what_clients_write_is_what_the_hub_reads() {
        let order = ByteOrder::Big;
        assert_eq!(broadcast_head(0x102, order), [0, 0, 1, 3, 3]);
        let frame = farewell(0x0102, order);
        assert_eq!(frame[..5], [0, 0, 0, 21, 2]);
        assert_eq!(frame[5..13], [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(frame[13..17], [255; 4]);
    }
}
