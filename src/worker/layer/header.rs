//! A byte layer for tests, which does everything that a [`Layer`] may do.
//!
//! A client begins with a header of [`HEADER_LEN`] bytes: [`MAGIC`], its number (16 bits,
//! big-endian), a key and flags. From then on it is known by that number instead of the address of
//! its socket. The layer replies with [`WELCOME`]. After that, all bytes of both directions are
//! combined with the key by XOR. If the flags ask for it, [`FAREWELL`] is the last byte before FIN.
//! The reply to a header that does not begin with [`MAGIC`] is [`REFUSAL`] and FIN.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::Layer;
use crate::base::endpoint::Peer;
use crate::buffer::{Chain, Pool};
use crate::error::CloseReason;

pub(crate) const MAGIC: u8 = 0xA5;
pub(crate) const HEADER_LEN: usize = 5;
/// The flag that asks for [`FAREWELL`].
pub(crate) const WANTS_FAREWELL: u8 = 1;
pub(crate) const WELCOME: &[u8] = &[0x5A, b'O', b'K'];
pub(crate) const REFUSAL: &[u8] = &[0x15, b'N', b'O'];
pub(crate) const FAREWELL: u8 = 0xEE;

/// Makes the header of a client.
pub(crate) fn header(number: u16, key: u8, flags: u8) -> [u8; HEADER_LEN] {
    let [high, low] = number.to_be_bytes();
    [MAGIC, high, low, key, flags]
}

/// The peer that a client with this number is known as.
pub(crate) fn peer(number: u16) -> Peer {
    let ip = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number);
    SocketAddr::new(ip.into(), 1).into()
}

/// The layer.
#[derive(Clone)]
pub(crate) struct Header {
    /// How long a client may take to send its header.
    pub(crate) timeout: Duration,
}

/// What the layer keeps for one connection.
pub(crate) struct HeaderState {
    client: Option<Client>,
    welcomed: bool,
    /// Bytes received and not passed on.
    input: Chain,
    /// Bytes to send.
    wire: Chain,
    /// The layer's own bytes that precede the service's in `wire`.
    own: usize,
    /// The service's bytes in `wire` or in flight.
    of_service: usize,
    finishing: bool,
    said_farewell: bool,
    starves_to_receive: bool,
    starves_to_send: bool,
}

/// The contents of a header.
#[derive(Clone, Copy)]
struct Client {
    number: u16,
    key: u8,
    flags: u8,
}

impl HeaderState {
    /// Appends bytes of the layer to those to send. Returns whether there was room.
    fn put(&mut self, bytes: &[u8], pool: &Pool) -> bool {
        if self.wire.extend_last(bytes) {
            return true;
        }
        let Some(mut lease) = pool.lease_in_turn() else { return false };
        if lease.extend_from_slice(bytes) < bytes.len() {
            panic!("a buffer holds {} bytes", bytes.len());
        }
        self.wire.push_back(lease);
        true
    }

    /// Reads the header if it is complete. Returns the client, or `None` if more bytes are needed.
    fn read_header(&mut self, pool: &Pool) -> Result<Option<Client>, CloseReason> {
        let mut bytes = [0; HEADER_LEN];
        let count = self.input.peek(&mut bytes);
        if count > 0 && bytes[0] != MAGIC {
            // If there is no buffer, the client only sees the FIN.
            let _ = self.put(REFUSAL, pool);
            return Err(CloseReason::ProtocolError);
        }
        if count < HEADER_LEN {
            return Ok(None);
        }
        self.input.consume(HEADER_LEN);
        let [_, high, low, key, flags] = bytes;
        Ok(Some(Client { number: u16::from_be_bytes([high, low]), key, flags }))
    }

    /// Moves the service's output to the bytes to send.
    fn seal(&mut self, output: &mut Chain, key: u8, pool: &Pool) {
        while !output.is_empty() {
            let lease = output.pop_own().or_else(|| {
                let mut copy = pool.lease_in_turn()?;
                let copied = copy.extend_from_slice(output.first_slice());
                output.consume(copied);
                Some(copy)
            });
            let Some(mut lease) = lease else {
                self.starves_to_send = true;
                return;
            };
            lease.filled_mut().iter_mut().for_each(|byte| *byte ^= key);
            self.of_service += lease.len();
            self.wire.push_back(lease);
        }
        self.starves_to_send = false;
    }
}

impl Layer for Header {
    type State = HeaderState;

    fn state(&self, _: u64, _: Peer, pool: &Pool) -> HeaderState {
        HeaderState {
            client: None,
            welcomed: false,
            input: Chain::new(pool),
            wire: Chain::new(pool),
            own: 0,
            of_service: 0,
            finishing: false,
            said_farewell: false,
            starves_to_receive: false,
            starves_to_send: false,
        }
    }

    fn begin(&mut self, _: &mut HeaderState, _: &Pool) -> Result<(), CloseReason> {
        Ok(())
    }

    fn peer(&self, held: &HeaderState, _: Peer) -> Option<Peer> {
        held.client.filter(|_| held.welcomed).map(|client| peer(client.number))
    }

    fn names_peer(&self, _: u64, _: Peer) -> bool {
        true
    }

    fn opening_timeout(&self, _: &HeaderState) -> Duration {
        self.timeout
    }

    fn decide(
        &mut self,
        _: &mut HeaderState,
        _: &mut Chain,
        _: &Pool,
    ) -> Result<usize, CloseReason> {
        Err(CloseReason::IdleTimeout)
    }

    fn received(
        &mut self,
        held: &mut HeaderState,
        input: &mut Chain,
        wire: &mut Chain,
        pool: &Pool,
    ) -> Result<usize, CloseReason> {
        held.input.absorb(wire);
        if held.client.is_none() {
            held.client = held.read_header(pool)?;
        }
        let Some(client) = held.client else { return Ok(0) };
        if !held.welcomed {
            held.welcomed = held.put(WELCOME, pool);
            held.starves_to_receive = !held.welcomed;
            if !held.welcomed {
                return Ok(0);
            }
            held.own = WELCOME.len();
        }
        let bytes = held.input.len();
        while let Some(mut lease) = held.input.pop_front() {
            lease.filled_mut().iter_mut().for_each(|byte| *byte ^= client.key);
            input.absorb(&mut Chain::from(lease));
        }
        Ok(bytes)
    }

    fn ended(
        &mut self,
        held: &mut HeaderState,
        _: &mut Chain,
        _: &Pool,
    ) -> Result<usize, CloseReason> {
        let in_the_middle = held.client.is_none() && !held.input.is_empty();
        if in_the_middle { Err(CloseReason::ProtocolError) } else { Ok(0) }
    }

    fn outgoing<'a>(
        &mut self,
        held: &'a mut HeaderState,
        output: &'a mut Chain,
        pool: &Pool,
    ) -> &'a mut Chain {
        if let Some(client) = held.client.filter(|_| held.welcomed) {
            held.seal(output, client.key, pool);
            let last = held.finishing && output.is_empty() && !held.said_farewell;
            if last && client.flags & WANTS_FAREWELL != 0 {
                held.said_farewell = held.put(&[FAREWELL], pool);
                held.starves_to_send = !held.said_farewell;
            }
        }
        &mut held.wire
    }

    fn sent(&mut self, held: &mut HeaderState, wire_bytes: usize) -> usize {
        let own = held.own.min(wire_bytes);
        held.own -= own;
        let of_service = held.of_service.min(wire_bytes - own);
        held.of_service -= of_service;
        of_service
    }

    fn finish(&mut self, held: &mut HeaderState) {
        held.finishing = true;
    }

    fn forget_input(&mut self, held: &mut HeaderState) {
        drop(held.input.take());
        held.starves_to_receive = false;
    }

    fn starves(&self, held: &HeaderState) -> bool {
        held.starves_to_receive || held.starves_to_send
    }
}
