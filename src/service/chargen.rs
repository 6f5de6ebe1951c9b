//! The character generator (RFC 864): a stream of lines without end, as fast as the client reads.

use std::time::Duration;

use super::{Answer, Connection, Service};

/// Characters of a line, without its CR LF.
const LINE_CHARACTERS: usize = 72;

/// The printing characters of ASCII, from the space to the tilde; each line begins one further.
const FIRST: u8 = b' ';
const CHARACTERS: usize = 95;

const LINE_BYTES: usize = LINE_CHARACTERS + 2;

/// After as many lines as there are characters the stream is where it began.
const PATTERN: [u8; LINE_BYTES * CHARACTERS] = pattern();

/// Buffers that are filled ahead of the client: what one system call sends at best. One if buffers
/// are getting few.
const LEASES_AHEAD: usize = 4;

/// When no buffer was free, when the next is asked for.
const RETRY: Duration = Duration::from_millis(10);

const fn pattern() -> [u8; LINE_BYTES * CHARACTERS] {
    let mut bytes = [0; LINE_BYTES * CHARACTERS];
    let mut line = 0;
    while line < CHARACTERS {
        let mut column = 0;
        while column < LINE_CHARACTERS {
            bytes[line * LINE_BYTES + column] = FIRST + ((line + column) % CHARACTERS) as u8;
            column += 1;
        }
        bytes[line * LINE_BYTES + LINE_CHARACTERS] = b'\r';
        bytes[line * LINE_BYTES + LINE_CHARACTERS + 1] = b'\n';
        line += 1;
    }
    bytes
}

/// Sends lines of 72 characters, each of the 95 printing characters in turn, and throws away what
/// it receives.
///
/// It ends with the connection. That a client closes its sending side is not the end: it may go on
/// reading, as with inetd's. One that has closed altogether answers the next bytes with a reset, so
/// that its connection ends with [`CloseReason::Reset`](crate::CloseReason::Reset).
#[derive(Clone, Copy, Debug, Default)]
pub struct Chargen;

impl Chargen {
    /// Fills buffers ahead of the client. `next` is the place in the pattern.
    fn fill(connection: &mut Connection<'_>, next: &mut Position) -> Answer {
        let ahead = if connection.pool.is_plentiful() { LEASES_AHEAD } else { 1 };
        while connection.output.leases() < ahead {
            let Some(mut lease) = connection.take_lease() else { break };
            while !lease.spare_mut().is_empty() {
                let copied = lease.extend_from_slice(&PATTERN[usize::from(next.0)..]);
                next.0 = ((usize::from(next.0) + copied) % PATTERN.len()) as u16;
            }
            connection.output.push_back(lease);
        }
        match connection.output.is_empty() {
            true => Answer::WaitUntil(connection.now() + RETRY),
            false => Answer::Continue,
        }
    }
}

/// Where in the pattern a connection is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position(u16);

const _: () = assert!(PATTERN.len() <= u16::MAX as usize);

impl Service for Chargen {
    type Session = Position;

    /// What the client sends is thrown away while it is sent to.
    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    fn open(&mut self, connection: &mut Connection<'_>, next: &mut Position) -> Answer {
        Chargen::fill(connection, next)
    }

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut Position) -> Answer {
        connection.input.consume(connection.input.len());
        Answer::Continue
    }

    fn sent(&mut self, connection: &mut Connection<'_>, next: &mut Position) -> Answer {
        Chargen::fill(connection, next)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, next: &mut Position) -> Answer {
        Chargen::fill(connection, next)
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, _: &mut Position) -> Answer {
        Answer::Continue
    }
}

#[cfg(test)]
mod tests;
