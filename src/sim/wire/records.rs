//! Peers of a listener with the stand-in for TLS: a handshake, records in any pieces, and each way in
//! which they can go wrong. Written from the description of the records, and not with the server's
//! own code.

use std::collections::VecDeque;

use super::super::marks::Mark;
use crate::worker::layer::tls::stand_in::{
    ALERT, BODY_MAX, CLOSE_NOTIFY, DATA, FINISHED, HEAD, HELLO,
};

/// How a peer goes wrong, if it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sim) enum Sort {
    /// It does all that it should.
    Right,
    /// Its first bytes are no record.
    NotARecord,
    /// FIN in the middle of the handshake.
    CutShort,
    /// It stops in the middle of the handshake.
    Stalls,
    /// A record of data is not authentic.
    Forged,
    /// A record is longer than allowed.
    TooLong,
    /// FIN without close_notify, at the end of a record or within one.
    Truncates,
}

/// Where the handshake stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    /// Within its first record.
    InHello,
    /// Before its second.
    BeforeFinished,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
enum PeerStage {
    Begun,
    SaidHello,
    Open,
    /// It has ended its stream, or gone wrong.
    Ended,
}

/// What a peer does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sim) enum Next {
    /// It sends what is ready, and nothing else.
    Send,
    /// It may send bytes of the service.
    Speak,
    Wait,
    /// It sends FIN.
    End,
}

/// The records of a peer.
pub(in crate::sim) struct Records {
    pub(in crate::sim) sort: Sort,
    stop: Stop,
    stage: PeerStage,
    key: u8,
    /// Bytes of records to send.
    ready: VecDeque<u8>,
    /// Bytes of the service in them.
    payload: u64,
    /// In how many pieces records were sent, at least.
    pub(in crate::sim) pieces: usize,
    /// How many bytes of the last record are kept back, if the peer sends FIN within it.
    kept_back: usize,
    said: u8,
    heard: u8,
    part: Vec<u8>,
    pub(in crate::sim) heard_hello: bool,
    pub(in crate::sim) heard_ticket: bool,
    pub(in crate::sim) heard_close: bool,
    pub(in crate::sim) heard_alert: bool,
    pub(in crate::sim) said_close: bool,
    /// Whether a wrong record was sent, or a part of it.
    pub(in crate::sim) went_wrong: bool,
}

impl Records {
    pub(in crate::sim) fn draw(rng: &mut fastrand::Rng, silent: bool) -> Records {
        let sort = match rng.u8(0..16) {
            _ if silent => Sort::Stalls,
            0 => Sort::NotARecord,
            1 => Sort::CutShort,
            2 => Sort::Stalls,
            3 => Sort::Forged,
            4 => Sort::TooLong,
            5 | 6 => Sort::Truncates,
            _ => Sort::Right,
        };
        Records {
            sort,
            stop: if rng.bool() { Stop::InHello } else { Stop::BeforeFinished },
            stage: PeerStage::Begun,
            key: rng.u8(0..=200),
            ready: VecDeque::new(),
            payload: 0,
            pieces: 0,
            kept_back: 0,
            said: 0,
            heard: 0,
            part: Vec::new(),
            heard_hello: false,
            heard_ticket: false,
            heard_close: false,
            heard_alert: false,
            said_close: false,
            went_wrong: false,
        }
    }

    /// Whether the service must never see the peer.
    pub(in crate::sim) fn is_refused(&self) -> bool {
        matches!(self.sort, Sort::NotARecord | Sort::CutShort | Sort::Stalls)
    }

    /// Whether the handshake is over for this side.
    pub(in crate::sim) fn is_open(&self) -> bool {
        self.stage >= PeerStage::Open && !self.is_refused()
    }

    /// What it shows that the server closed the connection before a service had seen it.
    pub(in crate::sim) fn mark(&self, waited: bool) -> Option<Mark> {
        match self.sort {
            Sort::NotARecord if self.heard_alert => Some(Mark::RecordsRefused),
            Sort::CutShort if self.stage == PeerStage::Ended => Some(Mark::RecordsCutShort),
            Sort::Stalls if waited && self.stage == PeerStage::SaidHello => {
                Some(Mark::RecordsStalled)
            }
            _ => None,
        }
    }

    fn push(&mut self, kind: u8, body: &[u8]) {
        self.ready.push_back(kind);
        self.ready.extend((body.len() as u16).to_be_bytes());
        self.ready.extend(body);
    }

    /// Adds a transformed record. `wrong` makes it one that is not authentic.
    fn seal(&mut self, kind: u8, plain: &[u8], wrong: bool) {
        let number = self.said;
        self.said = number.wrapping_add(1);
        let sum = plain.iter().fold(number, |sum, byte| sum.wrapping_add(*byte));
        let mut body = plain.to_vec();
        body.push(sum ^ u8::from(wrong));
        for (at, byte) in body.iter_mut().enumerate() {
            *byte ^= self.key ^ 0x35 ^ number.wrapping_mul(29) ^ (at as u8).wrapping_mul(3);
        }
        self.push(kind, &body);
    }

    /// What comes next. `all_said`: the service's bytes are all sent.
    pub(in crate::sim) fn next(&mut self, rng: &mut fastrand::Rng, all_said: bool) -> Next {
        if self.ready.len() > self.kept_back {
            return Next::Send;
        }
        match (self.stage, self.sort) {
            (PeerStage::Begun, Sort::NotARecord) => {
                self.stage = PeerStage::Ended;
                self.push(rng.u8(6..), &[7; 20]);
            }
            (PeerStage::Begun, _) => {
                self.stage = PeerStage::SaidHello;
                let mut body = vec![self.key];
                body.extend((0..rng.u8(0..60)).map(|_| rng.u8(..)));
                self.push(HELLO, &body);
                let stops = matches!(self.sort, Sort::CutShort | Sort::Stalls);
                if stops && self.stop == Stop::InHello {
                    self.kept_back = rng.usize(1..self.ready.len());
                }
            }
            (PeerStage::SaidHello, Sort::CutShort)
                if self.stop == Stop::InHello || self.heard_hello =>
            {
                self.stage = PeerStage::Ended;
                return Next::End;
            }
            (PeerStage::SaidHello, Sort::Stalls) => return Next::Wait,
            (PeerStage::SaidHello, _) if !self.heard_hello => return Next::Wait,
            (PeerStage::SaidHello, _) => {
                self.stage = PeerStage::Open;
                self.seal(FINISHED, b"finished", false);
            }
            (PeerStage::Open, sort) => return self.next_when_open(rng, sort, all_said),
            (PeerStage::Ended, _) => return Next::Wait,
        }
        Next::Send
    }

    fn next_when_open(&mut self, rng: &mut fastrand::Rng, sort: Sort, all_said: bool) -> Next {
        match sort {
            Sort::Forged if all_said || rng.u8(0..8) == 0 => self.seal(DATA, b"forged", true),
            Sort::TooLong if all_said || rng.u8(0..8) == 0 => {
                self.push(DATA, &[0; BODY_MAX + 1]);
            }
            Sort::Truncates if all_said => {
                self.stage = PeerStage::Ended;
                if rng.bool() {
                    self.seal(DATA, b"half", false);
                    self.kept_back = rng.usize(1..self.ready.len());
                    return Next::Send;
                }
                return Next::End;
            }
            _ => return Next::Speak,
        }
        self.stage = PeerStage::Ended;
        Next::Send
    }

    /// Whether it sends FIN now, behind half a record.
    pub(in crate::sim) fn ends_within_a_record(&self) -> bool {
        self.sort == Sort::Truncates
            && self.stage == PeerStage::Ended
            && self.kept_back > 0
            && self.ready.len() == self.kept_back
    }

    /// Puts bytes of the service into a record.
    pub(in crate::sim) fn speak(&mut self, bytes: &[u8]) {
        self.seal(DATA, bytes, false);
        self.payload = bytes.len() as u64;
    }

    /// Ends its stream.
    pub(in crate::sim) fn close(&mut self) {
        if self.stage == PeerStage::Open {
            self.stage = PeerStage::Ended;
            self.seal(CLOSE_NOTIFY, &[], false);
            self.said_close = true;
        }
    }

    /// Whether it can end its stream now.
    pub(in crate::sim) fn can_close(&self) -> bool {
        self.stage == PeerStage::Open && self.ready.is_empty()
    }

    pub(in crate::sim) fn is_all_sent(&self) -> bool {
        self.ready.is_empty()
    }

    /// The next bytes to send, at most so many.
    pub(in crate::sim) fn part(&self, most: usize) -> Vec<u8> {
        let count = (self.ready.len() - self.kept_back).min(most);
        self.ready.iter().take(count).copied().collect()
    }

    /// Bytes were sent. Returns how many of the service have been sent with them.
    pub(in crate::sim) fn has_sent(&mut self, count: usize) -> u64 {
        self.ready.drain(..count);
        self.pieces += usize::from(!self.ready.is_empty());
        let is_wrong = matches!(self.sort, Sort::Forged | Sort::TooLong | Sort::NotARecord);
        self.went_wrong |= is_wrong && self.stage == PeerStage::Ended && count > 0;
        if self.ready.is_empty() { std::mem::take(&mut self.payload) } else { 0 }
    }

    /// Takes bytes from the wire. Returns those that the service sent.
    ///
    /// # Errors
    /// If the layer must not send them.
    pub(in crate::sim) fn hear(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        self.part.extend(bytes);
        let mut of_service = Vec::new();
        while let Some(&[kind, high, low]) = self.part.first_chunk::<HEAD>() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let Some(body) = self.part.get(HEAD..HEAD + length).map(<[u8]>::to_vec) else { break };
            self.part.drain(..HEAD + length);
            if self.heard_close || self.heard_alert {
                return Err(format!("a record of type {kind} behind the last one"));
            }
            match kind {
                HELLO if !self.heard_hello => self.hears_hello(&body)?,
                ALERT => self.heard_alert = true,
                FINISHED if !self.heard_ticket => {
                    self.heard_ticket = self.open(&body)? == b"ticket";
                }
                DATA if self.heard_ticket => of_service.extend(self.open(&body)?),
                CLOSE_NOTIFY if self.heard_ticket => {
                    self.open(&body)?;
                    self.heard_close = true;
                }
                _ => return Err(format!("a record of type {kind}, which must not come now")),
            }
        }
        Ok(of_service)
    }

    fn hears_hello(&mut self, body: &[u8]) -> Result<(), String> {
        let expected = (0..40 + self.key).map(|at| at ^ self.key);
        self.heard_hello = body.iter().copied().eq(expected);
        if self.heard_hello { Ok(()) } else { Err("a wrong reply to its first record".into()) }
    }

    fn open(&mut self, body: &[u8]) -> Result<Vec<u8>, String> {
        let number = self.heard;
        self.heard = number.wrapping_add(1);
        let mut plain = body.to_vec();
        for (at, byte) in plain.iter_mut().enumerate() {
            *byte ^= self.key ^ 0xC2 ^ number.wrapping_mul(29) ^ (at as u8).wrapping_mul(3);
        }
        let last = plain.pop();
        let sum = plain.iter().fold(number, |sum, byte| sum.wrapping_add(*byte));
        if last == Some(sum) { Ok(plain) } else { Err("a record that is not authentic".into()) }
    }

    /// Whether it stops before the server has anything to reply to.
    pub(in crate::sim) fn is_silent_before_reply(&self) -> bool {
        self.sort == Sort::Stalls && self.stop == Stop::InHello
    }

    /// The length of the server's first record.
    pub(in crate::sim) fn hello(&self) -> usize {
        HEAD + 40 + usize::from(self.key)
    }

    /// Whether it has begun the handshake, and the server has not ended it.
    pub(in crate::sim) fn is_in_handshake(&self) -> bool {
        self.stage >= PeerStage::SaidHello && !self.heard_ticket && !self.heard_alert
    }

    /// Whether the last record that came was whole.
    pub(in crate::sim) fn is_whole(&self) -> bool {
        self.part.is_empty()
    }
}
