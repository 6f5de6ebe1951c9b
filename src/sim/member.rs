//! A member of the simulated hub: what it requests, and what it receives. Each message contains its
//! sender, its number and its receiver, which identify it and show the order.

use std::collections::HashMap;

use super::external_message::read_external;
use crate::builtin::url::HubOptions;
use crate::error::CloseReason;
use crate::protocol::framing::ByteOrder;

/// Shortest message in bytes: sender, number and receiver.
pub(super) const PAYLOAD_MIN: usize = 11;

/// The options of the hub in this seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HubDraw {
    pub(super) options: HubOptions,
    pub(super) order: ByteOrder,
    pub(super) max_message: usize,
    pub(super) closes_slow: bool,
    pub(super) notices: bool,
}

/// A request of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    List,
    /// A message with this number, to one member or to all.
    Message {
        number: u16,
        to: Option<u64>,
    },
}

/// A message that a member received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Heard {
    pub(super) from: u64,
    pub(super) peer: usize,
    pub(super) number: u16,
}

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    hub: HubDraw,
    number: usize,
    part: Vec<u8>,
    pub(super) id: Option<u64>,
    /// Members that it believes connected, and members that it knows have left.
    pub(super) there: Vec<u64>,
    gone: Vec<u64>,
    /// The member list of which a part has arrived.
    list: Option<Vec<u64>>,
    pub(super) lists: usize,
    pub(super) heard: Vec<Heard>,
    pub(super) external: Vec<u64>,
    pub(super) dropped: u64,
    pub(super) not_sent: Vec<(u8, u64)>,
    /// The last number received from each sender.
    last: HashMap<usize, u16>,
    /// Number of requests that it still wants to make.
    pub(super) wishes: usize,
    next: u16,
}

impl Member {
    pub(super) fn new(hub: HubDraw, number: usize, wishes: usize) -> Member {
        Member {
            hub,
            number,
            part: Vec::new(),
            id: None,
            there: Vec::new(),
            gone: Vec::new(),
            list: None,
            lists: 0,
            heard: Vec::new(),
            external: Vec::new(),
            dropped: 0,
            not_sent: Vec::new(),
            last: HashMap::new(),
            wishes,
            next: 0,
        }
    }

    /// Appends the next request to `said`.
    pub(super) fn ask(&mut self, rng: &mut fastrand::Rng, said: &mut Vec<u8>) -> Asked {
        self.wishes -= 1;
        let kind = rng.u8(0..8);
        if kind == 0 {
            self.request(said, 1, None, &[]);
            return Asked::List;
        }
        let to = (kind < 4).then(|| self.someone(rng));
        let number = self.next;
        self.next += 1;
        let most = if rng.u8(0..4) == 0 { self.hub.max_message } else { PAYLOAD_MIN + 4 };
        let len = rng.usize(PAYLOAD_MIN..=most.min(self.hub.max_message));
        let payload = payload(self.number, number, to, len);
        self.request(said, if to.is_some() { 2 } else { 3 }, to, &payload);
        Asked::Message { number, to }
    }

    /// Picks the id of a member that is connected, has left, or never existed.
    fn someone(&self, rng: &mut fastrand::Rng) -> u64 {
        let of = match rng.u8(0..8) {
            0 => return rng.u64(..),
            1 => &self.gone,
            _ => &self.there,
        };
        rng.choice(of).copied().or(self.id).unwrap_or(7)
    }

    fn request(&self, said: &mut Vec<u8>, kind: u8, id: Option<u64>, payload: &[u8]) {
        let fields = id.map_or(0, |_| 8);
        said.extend(self.length((1 + fields + payload.len()) as i32));
        said.push(kind);
        if let Some(id) = id {
            said.extend(match self.hub.order {
                ByteOrder::Little => id.to_le_bytes(),
                ByteOrder::Big => id.to_be_bytes(),
            });
        }
        said.extend(payload);
    }

    fn length(&self, len: i32) -> [u8; 4] {
        match self.hub.order {
            ByteOrder::Little => len.to_le_bytes(),
            ByteOrder::Big => len.to_be_bytes(),
        }
    }

    /// Appends a request that breaks the protocol. Returns the reason for which the hub closes.
    pub(super) fn misspeak(&self, rng: &mut fastrand::Rng, said: &mut Vec<u8>) -> CloseReason {
        let long = self.hub.max_message + 1 + rng.usize(0..100);
        match rng.u8(0..7) {
            0 => self.request(said, rng.u8(4..=255), None, b"whatever"),
            1 => said.extend(self.length(0)),
            2 => self.request(said, 1, None, b"x"),
            3 => self.request(said, 2, None, b"short"),
            4 => said.extend(self.length(-(rng.i32(1..1000)))),
            5 => {
                self.request(said, 3, None, &vec![1; long]);
                return CloseReason::MessageTooLong;
            }
            _ => {
                self.request(said, 2, Some(7), &vec![1; long]);
                return CloseReason::MessageTooLong;
            }
        }
        CloseReason::ProtocolError
    }

    /// Takes the received bytes.
    ///
    /// # Errors
    /// If a hub must not send them.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.part.extend(bytes);
        while let Some(prefix) = self.part.first_chunk::<4>() {
            let len = match self.hub.order {
                ByteOrder::Little => u32::from_le_bytes(*prefix),
                ByteOrder::Big => u32::from_be_bytes(*prefix),
            } as usize;
            if len == 0 || len > self.hub.max_message + 10 {
                return Err(format!("a frame of {len} bytes"));
            }
            if self.part.len() < 4 + len {
                break;
            }
            let rest = self.part.split_off(4 + len);
            let frame = std::mem::replace(&mut self.part, rest);
            self.hear_frame(&frame[4..]).map_err(|wrong| format!("{wrong}: {frame:x?}"))?;
        }
        Ok(())
    }

    /// Checks the end of the stream. With `whole` it ended with FIN, so no frame may be incomplete.
    pub(super) fn end(&self, whole: bool) -> Result<(), String> {
        let half = whole && !self.part.is_empty();
        if half { Err(format!("half a frame: {:x?}", self.part)) } else { Ok(()) }
    }

    fn number_in(&self, bytes: &[u8]) -> Result<u64, String> {
        let bytes: [u8; 8] = bytes.try_into().map_err(|_| "fields of a wrong length")?;
        Ok(match self.hub.order {
            ByteOrder::Little => u64::from_le_bytes(bytes),
            ByteOrder::Big => u64::from_be_bytes(bytes),
        })
    }

    fn hear_frame(&mut self, frame: &[u8]) -> Result<(), String> {
        let (kind, fields) = (frame[0], &frame[1..]);
        if (kind == 128) != self.id.is_none() {
            return Err("WELCOME must be the first frame and occur once".into());
        }
        match kind {
            128 => {
                let id = self.number_in(fields)?;
                self.id = Some(id);
                self.there.push(id);
            }
            129 => self.hear_list(fields)?,
            130 => self.hear_message(fields)?,
            131 => {
                let id = self.number_in(fields)?;
                if self.id == Some(id) || self.gone.contains(&id) || !self.hub.notices {
                    return Err(format!("{id} came"));
                }
                self.list.iter_mut().for_each(|list| list.push(id));
                if !self.there.contains(&id) {
                    self.there.push(id);
                }
            }
            132 => {
                let id = self.number_in(fields)?;
                if self.id == Some(id) || self.gone.contains(&id) || !self.hub.notices {
                    return Err(format!("{id} left"));
                }
                self.list.iter_mut().for_each(|list| list.retain(|&other| other != id));
                self.there.retain(|&other| other != id);
                self.gone.push(id);
            }
            133 => {
                let (&reason, id) = fields.split_first().ok_or("no reason")?;
                let id = self.number_in(id)?;
                if !(1..=2).contains(&reason) {
                    return Err("NOT_SENT with an unknown reason".into());
                }
                self.not_sent.push((reason, id));
            }
            134 => {
                let count = self.number_in(fields)?;
                if count == 0 || self.hub.closes_slow {
                    return Err("DROPPED".into());
                }
                self.dropped += count;
            }
            _ => return Err("an unknown frame".into()),
        }
        Ok(())
    }

    fn hear_list(&mut self, fields: &[u8]) -> Result<(), String> {
        let (&more, ids) = fields.split_first().ok_or("no list")?;
        if more > 1 || ids.len() % 8 != 0 {
            return Err("a malformed list".into());
        }
        let mut list = self.list.take().unwrap_or_default();
        for id in ids.chunks(8) {
            let id = self.number_in(id)?;
            // JOINED may have arrived between two frames of the list.
            if !list.contains(&id) {
                list.push(id);
            }
        }
        if more == 1 {
            self.list = Some(list);
            return Ok(());
        }
        if !list.iter().any(|&id| Some(id) == self.id) {
            return Err("a list without the member itself".into());
        }
        self.there = list;
        self.lists += 1;
        Ok(())
    }

    fn hear_message(&mut self, fields: &[u8]) -> Result<(), String> {
        let (&to_all, rest) = fields.split_first().ok_or("no message")?;
        let from = self.number_in(rest.get(..8).ok_or("no sender")?)?;
        let payload = &rest[8..];
        if from == 0 {
            self.external.push(read_external(payload).ok_or("a message that was never sent")?);
            return Ok(());
        }
        if self.hub.notices && self.gone.contains(&from) {
            return Err("a message from a member that has left".into());
        }
        let broken = "a message that was never sent";
        let head = payload.first_chunk::<3>().ok_or(broken)?;
        let (peer, number) = (usize::from(head[0]), u16::from_le_bytes([head[1], head[2]]));
        let to = if to_all == 0 { self.id } else { None };
        if self::payload(peer, number, to, payload.len()) != payload {
            return Err(broken.into());
        }
        if self.last.get(&peer).is_some_and(|&last| last >= number) {
            return Err("a message twice, or out of order".into());
        }
        self.last.insert(peer, number);
        self.heard.push(Heard { from, peer, number });
        Ok(())
    }
}

/// The payload of a message.
fn payload(peer: usize, number: u16, to: Option<u64>, len: usize) -> Vec<u8> {
    let [low, high] = number.to_le_bytes();
    let mut bytes = vec![peer as u8, low, high];
    bytes.extend(to.unwrap_or(0).to_le_bytes());
    bytes.extend((PAYLOAD_MIN..len).map(|at| (peer * 17 + usize::from(number) * 5 + at) as u8));
    bytes
}
