//! The client side of the simulated byte layer, [`header`](crate::worker::layer::header): what a
//! peer adds to the bytes that it sends, and removes from the bytes that it receives.

use super::super::marks::Mark;
use super::super::world::World;
use crate::worker::layer::header::{
    FAREWELL, HEADER_LEN, MAGIC, REFUSAL, WANTS_FAREWELL, WELCOME, header,
};

/// Peer number of the address that all these peers connect from. The header has the real number.
pub(in crate::sim) const GATEWAY: usize = 0xFFFF;

/// Chosen so that no service byte is encoded as [`FAREWELL`] where the stream may end.
const KEY: u8 = FAREWELL ^ 0xF5;

/// How a header is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sim) enum Flaw {
    /// It is not a header.
    Wrong,
    /// The peer sends FIN in the middle of it.
    Half,
}

pub(in crate::sim) struct Header {
    header: Vec<u8>,
    said: usize,
    pieces: u32,
    pub(in crate::sim) flaw: Option<Flaw>,
    wants_farewell: bool,
    /// The part of the layer's reply that has arrived.
    answer: Vec<u8>,
    /// The last byte received, which may be the farewell.
    last: Option<u8>,
}

impl Header {
    pub(in crate::sim) fn draw(
        rng: &mut fastrand::Rng,
        number: usize,
        wants_farewell: bool,
    ) -> Header {
        let flags = if wants_farewell { WANTS_FAREWELL } else { 0 };
        let mut header = header(number as u16, KEY, flags).to_vec();
        let flaw = match rng.u8(0..12) {
            0 => Some(Flaw::Wrong),
            1 => Some(Flaw::Half),
            _ => None,
        };
        match flaw {
            Some(Flaw::Wrong) => header[0] = MAGIC ^ rng.u8(1..),
            Some(Flaw::Half) => header.truncate(rng.usize(1..HEADER_LEN)),
            None => {}
        }
        Header { header, said: 0, pieces: 0, flaw, wants_farewell, answer: Vec::new(), last: None }
    }

    /// The part of the header that is not sent yet.
    pub(in crate::sim) fn header_rest(&self) -> &[u8] {
        &self.header[self.said..]
    }

    pub(in crate::sim) fn header_sent(&mut self, count: usize) {
        self.said += count;
        self.pieces += 1;
    }

    /// Encodes bytes for the wire. Decoding is the same operation.
    pub(in crate::sim) fn sealed(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().map(|byte| byte ^ KEY).collect()
    }

    /// Takes bytes from the wire. Returns those that the service sent.
    ///
    /// # Errors
    /// If the layer must not send them.
    pub(in crate::sim) fn hear(
        &mut self,
        world: &mut World,
        bytes: &[u8],
    ) -> Result<Vec<u8>, String> {
        let expected = match self.flaw {
            Some(Flaw::Wrong) => REFUSAL,
            Some(Flaw::Half) => &[],
            None if self.header_rest().is_empty() => WELCOME,
            None => &[],
        };
        let missing = expected.len().saturating_sub(self.answer.len());
        let (answer, rest) = bytes.split_at(bytes.len().min(missing));
        self.answer.extend(answer);
        if !expected.starts_with(&self.answer) || (!rest.is_empty() && expected != WELCOME) {
            return Err(format!("the layer sent {:x?} and {rest:x?}", self.answer));
        }
        if !answer.is_empty() && self.answer.len() == expected.len() {
            world.mark(if expected == WELCOME { Mark::LayerOpened } else { Mark::LayerRefused });
            if expected == WELCOME && self.pieces > 1 {
                world.mark(Mark::LayerHeldBack);
            }
        }
        let mut of_service: Vec<u8> = self.last.take().into_iter().chain(rest.to_vec()).collect();
        if self.wants_farewell {
            self.last = of_service.pop();
        }
        Ok(self.sealed(&of_service))
    }

    /// Handles FIN. Returns the last byte of the service, if it was held back.
    pub(in crate::sim) fn fin_came(&mut self, world: &mut World) -> Vec<u8> {
        match self.last.take() {
            Some(FAREWELL) => world.mark(Mark::LayerFarewell),
            Some(byte) => return vec![byte ^ KEY],
            None if self.answer.is_empty() => world.mark(match self.flaw {
                Some(Flaw::Half) if self.header_rest().is_empty() => Mark::LayerCutShort,
                _ => Mark::LayerNeverOpened,
            }),
            None => {}
        }
        Vec::new()
    }
}
