//! A session that stands in for that of rustls in the simulated world: records with a length, a
//! handshake, transformed bytes, alerts, and close_notify. It needs no random numbers, keys or
//! clock, so the layer around it can be tested with everything that may happen to records.
//!
//! A record is its type, the length of its body (16 bits, big-endian) and the body. The client's
//! first record is HELLO with a key, to which the server replies with a longer HELLO. The client's
//! second is FINISHED. All later bodies are combined by XOR with a key stream that depends on the
//! direction and the number of the record, and end with a byte that must be right.

use std::collections::VecDeque;
use std::fmt;

use super::Records;
use crate::base::handshake::{Handshake, HandshakeError};
use crate::buffer::{Chain, Pool};

pub(crate) const HELLO: u8 = 1;
pub(crate) const FINISHED: u8 = 2;
pub(crate) const DATA: u8 = 3;
pub(crate) const CLOSE_NOTIFY: u8 = 4;
pub(crate) const ALERT: u8 = 5;
/// The type and the length.
pub(crate) const HEAD: usize = 3;
/// The longest body.
pub(crate) const BODY_MAX: usize = 600;
/// The most bytes of the service in a record of the server.
const PIECE: usize = 100;
/// The most bytes that are taken from the wire at once.
const READ: usize = 48;

/// What begins sessions: nothing is needed.
pub(crate) struct Acceptor;

/// The server's side of a connection.
pub(crate) struct Session {
    stage: HandshakeStage,
    key: u8,
    /// What has arrived of a record.
    part: Vec<u8>,
    plaintext: VecDeque<u8>,
    records: VecDeque<u8>,
    received: u8,
    sent: u8,
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HandshakeStage {
    AwaitsHello,
    AwaitsFinished,
    Open,
}

/// What is wrong with a record.
#[derive(Debug)]
pub(crate) struct Wrong(&'static str);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A byte of the key stream.
fn stream(key: u8, from_client: bool, number: u8, at: usize) -> u8 {
    let direction = if from_client { 0x35 } else { 0xC2 };
    key ^ direction ^ number.wrapping_mul(29) ^ (at as u8).wrapping_mul(3)
}

impl Session {
    fn push(&mut self, kind: u8, body: &[u8]) {
        self.records.push_back(kind);
        self.records.extend((body.len() as u16).to_be_bytes());
        self.records.extend(body);
    }

    /// Adds a transformed record.
    fn seal(&mut self, kind: u8, plain: &[u8]) {
        let number = self.sent;
        self.sent = number.wrapping_add(1);
        let last = plain.iter().fold(number, |sum, byte| sum.wrapping_add(*byte));
        let body = plain.iter().chain([&last]).enumerate();
        let body = body.map(|(at, byte)| byte ^ stream(self.key, false, number, at));
        let body: Vec<u8> = body.collect();
        self.push(kind, &body);
    }

    /// What the body of a transformed record is.
    fn open(&mut self, body: &[u8]) -> Result<Vec<u8>, Wrong> {
        let number = self.received;
        self.received = number.wrapping_add(1);
        let plain = body.iter().enumerate();
        let plain = plain.map(|(at, byte)| byte ^ stream(self.key, true, number, at));
        let mut plain: Vec<u8> = plain.collect();
        let last = plain.pop().ok_or(Wrong("an empty record"))?;
        let sum = plain.iter().fold(number, |sum, byte| sum.wrapping_add(*byte));
        if sum == last { Ok(plain) } else { Err(Wrong("a record that is not authentic")) }
    }

    fn record(&mut self, kind: u8, body: &[u8]) -> Result<(), Wrong> {
        match (self.stage, kind) {
            (HandshakeStage::AwaitsHello, HELLO) => {
                self.key = *body.first().ok_or(Wrong("no key"))?;
                self.stage = HandshakeStage::AwaitsFinished;
                // Longer than most buffers.
                let hello: Vec<u8> = (0..40 + self.key).map(|at| at ^ self.key).collect();
                self.push(HELLO, &hello);
            }
            (HandshakeStage::AwaitsFinished, FINISHED) => {
                self.open(body)?;
                self.stage = HandshakeStage::Open;
                // As with tickets, the server sends something of its own first.
                self.seal(FINISHED, b"ticket");
            }
            (HandshakeStage::Open, DATA) => {
                let plain = self.open(body)?;
                self.plaintext.extend(plain);
            }
            (HandshakeStage::Open, CLOSE_NOTIFY) => {
                self.open(body)?;
                self.closed = true;
            }
            _ => return Err(Wrong("a record that must not come now")),
        }
        Ok(())
    }

    fn process(&mut self) -> Result<(), Wrong> {
        while !self.closed {
            let Some(&[kind, high, low]) = self.part.first_chunk::<HEAD>() else { break };
            let length = usize::from(u16::from_be_bytes([high, low]));
            if !(HELLO..=ALERT).contains(&kind) || length > BODY_MAX {
                return Err(Wrong("not a record"));
            }
            let Some(body) = self.part.get(HEAD..HEAD + length).map(<[u8]>::to_vec) else { break };
            self.part.drain(..HEAD + length);
            self.record(kind, &body)?;
        }
        Ok(())
    }
}

impl Records for Session {
    type Acceptor = Acceptor;
    type Error = Wrong;

    const AHEAD: usize = 400;
    const BYTES: usize = 2 << 10;

    fn accept(_: &Acceptor) -> Option<Box<Session>> {
        Some(Box::new(Session {
            stage: HandshakeStage::AwaitsHello,
            key: 0,
            part: Vec::new(),
            plaintext: VecDeque::new(),
            records: VecDeque::new(),
            received: 0,
            sent: 0,
            closed: false,
        }))
    }

    fn is_handshaking(&self) -> bool {
        self.stage != HandshakeStage::Open
    }

    fn handshake(&self) -> Handshake {
        unreachable!("only clients ask for it")
    }

    fn receive(&mut self, wire: &mut Chain) -> Result<bool, Wrong> {
        assert!(self.plaintext.is_empty(), "no records while there is plaintext");
        let mut bytes = [0; READ];
        let count = wire.peek(&mut bytes);
        assert!(count > 0, "at least one byte");
        wire.consume(count);
        self.part.extend(&bytes[..count]);
        match self.process() {
            Ok(()) => Ok(self.closed),
            Err(wrong) => {
                self.push(ALERT, &[]);
                Err(wrong)
            }
        }
    }

    fn plaintext(&mut self, input: &mut Chain, pool: &Pool) -> bool {
        put(&mut self.plaintext, input, pool)
    }

    fn send(&mut self, plaintext: &[u8]) -> usize {
        let count = plaintext.len().min(PIECE);
        self.seal(DATA, &plaintext[..count]);
        count
    }

    fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    fn records(&mut self, wire: &mut Chain, pool: &Pool) -> bool {
        put(&mut self.records, wire, pool)
    }

    fn close(&mut self) {
        self.seal(CLOSE_NOTIFY, &[]);
    }

    fn reason(_: &Wrong) -> HandshakeError {
        HandshakeError::Failed
    }
}

/// Moves bytes to a chain, as far as there are free buffers. Returns whether that was all.
fn put(bytes: &mut VecDeque<u8>, chain: &mut Chain, pool: &Pool) -> bool {
    while !bytes.is_empty() {
        let (front, _) = bytes.as_slices();
        let behind = chain.room_behind().min(front.len());
        let count = match behind {
            0 => {
                let Some(mut lease) = pool.lease_in_turn() else { return false };
                let count = lease.extend_from_slice(front);
                chain.push_back(lease);
                count
            }
            _ => {
                chain.extend_last(&front[..behind]);
                behind
            }
        };
        bytes.drain(..count);
    }
    true
}
