//! The service of a seed, and the scripts of its peers: bytes that are known in advance, sometimes
//! malformed, and the reply that the server must send.
//!
//! Written from the descriptions of the protocols, without the server's own framing, so that both
//! do not share the same bugs.

use super::member::{Asked, HubDraw, PAYLOAD_MIN};
use super::world::canary;
use crate::builtin::url::{After, FramedOptions, HubOptions, MessageOptions, ServiceOptions, Slow};
use crate::error::CloseReason;
use crate::protocol::framing::{ByteOrder, Delimiter};

/// The service of a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Served {
    Echo,
    Discard,
    Chargen,
    Framed(FramedOptions),
    Message(MessageOptions),
    Hub(HubDraw),
}

/// The longest header of version 1 of the PROXY protocol, in bytes. No other beginning is as long.
const LONGEST_LINE: usize = 107;

/// Common delimiters, and some that overlap with themselves.
const DELIMITERS: [&[u8]; 5] = [b"<EOF>", b"\n", b"aab", b"abab", b"\r\n"];

impl Served {
    /// Draws a service. Echo is frequent because it exercises most of the worker.
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Served {
        let max = |rng: &mut fastrand::Rng| rng.choice([1, 5, 40, 300, 2000]).expect("some");
        match rng.u8(0..20) {
            10..=13 => Served::Hub(draw_hub(rng)),
            0 => Served::Discard,
            1 => Served::Chargen,
            2..=5 => {
                let order = if rng.bool() { ByteOrder::Little } else { ByteOrder::Big };
                Served::Framed(FramedOptions { order, max_frame: max(rng) })
            }
            6..=9 => {
                let delimiter = rng.choice(DELIMITERS).expect("some");
                Served::Message(MessageOptions {
                    delimiter: Delimiter::new(delimiter).expect("1 to 16 bytes"),
                    after: if rng.u8(0..3) == 0 { After::Close } else { After::Keep },
                    max_message: max(rng).max(delimiter.len() as u32),
                    show: rng.u32(0..100),
                })
            }
            _ => Served::Echo,
        }
    }

    /// The options for the server.
    pub(super) fn options(self) -> ServiceOptions {
        match self {
            Served::Echo => ServiceOptions::Echo,
            Served::Discard => ServiceOptions::Discard,
            Served::Chargen => ServiceOptions::Chargen,
            Served::Framed(options) => ServiceOptions::Framed(options),
            Served::Message(options) => ServiceOptions::Message(options),
            Served::Hub(hub) => ServiceOptions::Hub(hub.options),
        }
    }

    /// Whether it keeps incomplete messages in the input.
    pub(super) fn keeps_input(self) -> bool {
        matches!(self, Served::Framed(_) | Served::Message(_) | Served::Hub(_))
    }

    /// Whether it is a hub, where one client affects others.
    pub(super) fn is_hub(self) -> bool {
        matches!(self, Served::Hub(_))
    }

    /// Draws the number of buffers and their size in bytes, such that the service can work.
    pub(super) fn pool(self, rng: &mut fastrand::Rng) -> (u32, usize) {
        let few = rng.bool();
        if let Served::Hub(hub) = self {
            // A hub needs at least eight buffers, and each message must fit into one.
            let size = hub.max_message + OVERHEAD;
            return (if few { rng.u32(8..=12) } else { rng.u32(13..=64) }, size);
        }
        let buffers = if few { rng.u32(1..=3) } else { rng.u32(4..=64) };
        (buffers, rng.choice([1, 3, 16, 64, 256]).expect("some"))
    }

    /// Length in bytes of the longest message on the wire.
    pub(super) fn wire_max(self) -> usize {
        match self {
            Served::Framed(options) => 4 + options.max_frame as usize,
            Served::Message(options) => options.max_message as usize,
            _ => 0,
        }
    }

    /// Length of the first message in `bytes`, if it is complete.
    pub(super) fn first_message(self, bytes: &[u8]) -> Option<usize> {
        let len = match self {
            Served::Framed(options) => {
                let prefix: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
                4 + match options.order {
                    ByteOrder::Little => u32::from_le_bytes(prefix) as usize,
                    ByteOrder::Big => u32::from_be_bytes(prefix) as usize,
                }
            }
            Served::Message(options) => {
                let delimiter = options.delimiter.bytes();
                let begin = bytes.windows(delimiter.len()).position(|bytes| bytes == delimiter)?;
                begin + delimiter.len()
            }
            _ => return None,
        };
        (bytes.len() >= len).then_some(len)
    }

    /// Offset of the payload in a message.
    pub(super) fn payload_at(self) -> usize {
        if matches!(self, Served::Framed(_)) { 4 } else { 0 }
    }
}

/// Bytes of a buffer that the hub needs beside a message.
const OVERHEAD: usize = 28;

fn draw_hub(rng: &mut fastrand::Rng) -> HubDraw {
    let big = rng.bool();
    let order = if big { ByteOrder::Big } else { ByteOrder::Little };
    let max_message = rng.choice([PAYLOAD_MIN + 1, 36, 228]).expect("some");
    let (closes_slow, notices) = (rng.u8(0..3) == 0, rng.u8(0..4) != 0);
    let slow = if closes_slow { Slow::Close } else { Slow::Drop };
    // The shortest queue in half of the seeds, so that it overflows.
    let shortest = 2 * (max_message + OVERHEAD) as u32;
    let queue = if rng.bool() { shortest } else { HubOptions::default().queue };
    let options = HubOptions { order, slow, notices, queue, max_message: None };
    HubDraw { options, order, max_message, closes_slow, notices }
}

/// How a script breaks the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flaw {
    /// The last message is not complete.
    Half,
    /// A message is longer than allowed.
    TooLong,
    /// A length is negative.
    Negative,
}

/// What a peer sends, and what it must receive.
#[derive(Debug)]
pub(super) struct Script {
    /// The bytes that it sends.
    pub(super) said: Vec<u8>,
    /// Bytes sent and bytes of reply due after them: one pair for each message, in order.
    steps: Vec<(usize, usize)>,
    /// FIN ends the last message.
    ends_with_fin: bool,
    /// After how many received bytes the server closes the connection, and why.
    pub(super) closes: Option<(usize, CloseReason)>,
    pub(super) flaw: Option<Flaw>,
    /// Requests to a hub, each with the offset in `said` at which it ends.
    pub(super) asked: Vec<(usize, Asked)>,
    served: Served,
}

impl Script {
    /// Draws what peer number `peer` sends: about `total` bytes.
    pub(super) fn draw(
        served: Served,
        rng: &mut fastrand::Rng,
        peer: usize,
        total: usize,
    ) -> Script {
        let mut script = Script {
            said: Vec::with_capacity(total),
            steps: Vec::new(),
            ends_with_fin: false,
            closes: None,
            flaw: None,
            asked: Vec::new(),
            served,
        };
        match served {
            Served::Echo | Served::Discard | Served::Chargen => {
                script.said.extend((0..total as u64).map(|at| canary(peer, at)));
            }
            Served::Framed(options) => script.frames(options, rng, peer, total),
            Served::Message(options) => script.messages(options, rng, peer, total),
            // A member draws its requests while it runs.
            Served::Hub(_) => {}
        }
        script
    }

    /// Whether any bytes are as good as others.
    pub(super) fn takes_any_bytes(&self) -> bool {
        matches!(self.served, Served::Echo | Served::Discard)
    }

    /// How many of its first bytes may be the beginning of a header of the PROXY protocol, at most.
    pub(super) fn undecided_max(&self) -> usize {
        match self.said.first() {
            Some(b'P' | b'\r') => LONGEST_LINE,
            _ => 0,
        }
    }

    /// Puts bytes before all others.
    pub(super) fn begin_with(&mut self, bytes: &[u8]) {
        self.said.splice(0..0, bytes.iter().copied());
    }

    fn frames(
        &mut self,
        options: FramedOptions,
        rng: &mut fastrand::Rng,
        peer: usize,
        total: usize,
    ) {
        while self.said.len() < total {
            let most =
                if rng.u8(0..4) == 0 { options.max_frame } else { options.max_frame.min(20) };
            let len = if rng.u8(0..8) == 0 { most } else { rng.u32(0..=most) };
            self.frame(len as i32, options.order, peer, len as usize);
            self.steps.push((self.said.len(), self.said.len()));
        }
        if total == 0 {
            return;
        }
        let begin = self.said.len();
        let flaw = match rng.u8(0..8) {
            0 => Flaw::Half,
            1 => Flaw::TooLong,
            2 => Flaw::Negative,
            _ => return,
        };
        self.flaw = Some(flaw);
        let rest = rng.usize(0..20);
        match flaw {
            Flaw::Half => {
                let len = rng.u32(1..=options.max_frame);
                self.frame(len as i32, options.order, peer, len as usize);
                let cut = rng.usize(begin + 1..self.said.len());
                self.said.truncate(cut);
            }
            Flaw::TooLong => {
                let above = rng.choice([1, 2, 1000, i32::MAX as u32 - options.max_frame]);
                let len = options.max_frame + above.expect("some");
                self.frame(len as i32, options.order, peer, rest);
                self.closes = Some((begin + 4, CloseReason::MessageTooLong));
            }
            Flaw::Negative => {
                let len = rng.choice([-1, i32::MIN, -256]).expect("some");
                self.frame(len, options.order, peer, rest);
                self.closes = Some((begin + 4, CloseReason::ProtocolError));
            }
        }
    }

    fn frame(&mut self, announced: i32, order: ByteOrder, peer: usize, len: usize) {
        self.said.extend(match order {
            ByteOrder::Little => announced.to_le_bytes(),
            ByteOrder::Big => announced.to_be_bytes(),
        });
        let at = self.said.len() as u64;
        self.said.extend((at..at + len as u64).map(|at| canary(peer, at)));
    }

    fn messages(
        &mut self,
        options: MessageOptions,
        rng: &mut fastrand::Rng,
        peer: usize,
        total: usize,
    ) {
        let (delimiter, max) = (options.delimiter, options.max_message as usize);
        // Some bytes are taken from the delimiter, so that partial delimiters are frequent.
        let text = |said: &mut Vec<u8>, rng: &mut fastrand::Rng, len: usize| {
            for _ in 0..len {
                let like = rng.u8(0..3) == 0;
                let own = *rng.choice(delimiter.bytes()).expect("some");
                said.push(if like { own } else { canary(peer, said.len() as u64) });
            }
        };
        while self.said.len() < total {
            let most = if rng.u8(0..4) == 0 { max } else { max.min(30) } - delimiter.bytes().len();
            let len = if rng.u8(0..8) == 0 { most } else { rng.usize(0..=most) };
            text(&mut self.said, rng, len);
            self.said.extend(delimiter.bytes());
        }
        if total > 0 {
            match rng.u8(0..8) {
                0 => {
                    let len = rng.usize(1..=max.min(40));
                    text(&mut self.said, rng, len);
                }
                1 => text(&mut self.said, rng, max + 10),
                _ => {}
            }
        }
        self.ends_with_fin = true;
        self.find_messages(options);
    }

    /// Finds the messages. Random bytes may form delimiters in unintended places.
    fn find_messages(&mut self, options: MessageOptions) {
        let (max, mut begin) = (options.max_message as usize, 0);
        while begin < self.said.len() {
            let len = self.served.first_message(&self.said[begin..]);
            match len.filter(|&len| len <= max) {
                Some(len) => {
                    begin += len;
                    self.steps.push((begin, begin));
                    if options.after == After::Close {
                        self.closes = Some((begin, CloseReason::Service));
                        return;
                    }
                }
                None if self.said.len() - begin >= max => {
                    self.flaw = Some(Flaw::TooLong);
                    self.closes = Some((begin + max, CloseReason::MessageTooLong));
                    return;
                }
                None => {
                    self.flaw = Some(Flaw::Half);
                    return;
                }
            }
        }
    }

    /// Length in bytes of the reply that is due after `said` bytes, and after FIN if `fin` is set.
    /// 0 for chargen, whose output never ends.
    pub(super) fn owed(&self, said: usize, fin: bool) -> usize {
        match self.served {
            Served::Echo => said,
            Served::Discard | Served::Chargen | Served::Hub(_) => 0,
            _ if fin && self.ends_with_fin && self.closes.is_none_or(|(at, _)| said < at) => said,
            _ => {
                let complete = self.steps.partition_point(|&(at, _)| at <= said);
                complete.checked_sub(1).map_or(0, |last| self.steps[last].1)
            }
        }
    }

    /// Length in bytes of the longest message.
    pub(super) fn longest(&self) -> usize {
        let begins = std::iter::once(0).chain(self.steps.iter().map(|&(end, _)| end));
        self.steps.iter().zip(begins).map(|(&(end, _), begin)| end - begin).max().unwrap_or(0)
    }

    /// Whether `byte` is the right one at offset `at` of the reply.
    pub(super) fn is_owed(&self, at: usize, byte: u8) -> bool {
        match self.served {
            Served::Chargen => byte == generated(at),
            _ => self.said.get(at) == Some(&byte),
        }
    }

    pub(super) fn served(&self) -> Served {
        self.served
    }
}

/// RFC 864: lines of 72 of the 95 printable characters, each line shifted by one, and CR LF.
fn generated(at: usize) -> u8 {
    match (at / 74, at % 74) {
        (_, 72) => b'\r',
        (_, 73) => b'\n',
        (line, column) => 32 + ((line + column) % 95) as u8,
    }
}
