//! The character generator (RFC 864): an endless stream of lines, sent as fast as the client reads.

use crate::config::Limits;
use crate::service::{
    Answer, Arrival, Connection, DatagramService, Message, Service, ServiceFactory, ServicePlan,
    put_on_output,
};

/// Characters per line, without CR LF.
const LINE_CHARACTERS: usize = 72;

/// The printable characters of ASCII, from the space to the tilde. Each line starts one character
/// later than the line before it.
const FIRST: u8 = b' ';
const CHARACTERS: usize = 95;

const LINE_BYTES: usize = LINE_CHARACTERS + 2;

/// One period of the stream. It repeats after as many lines as there are characters.
const PATTERN: [u8; LINE_BYTES * CHARACTERS] = pattern();

/// Buffers that are filled ahead of the client, as many as one system call can send. Only one is
/// filled if few buffers are free.
const LEASES_AHEAD: usize = 4;

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

/// Sends lines of 72 characters, which cycle through the 95 printable characters. Discards what it
/// receives.
///
/// The stream ends with the connection. A client that closes its sending side can continue to read,
/// as with the service of inetd. If a client has closed its socket, its system replies to the next
/// bytes with a reset, and the connection ends with
/// [`CloseReason::Reset`](crate::CloseReason::Reset).
///
/// A client keeps its buffer while no other connection waits for one. Otherwise it goes to the end
/// of the queue after each buffer, so all clients are served even if there are fewer buffers than
/// clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chargen;

/// Fills buffers ahead of the client.
fn fill(connection: &mut Connection<'_>, position: &mut Position) -> Answer {
    while connection.output.is_empty()
        || (connection.output.leases() < LEASES_AHEAD && connection.buffers_are_plentiful())
    {
        let Some(mut lease) = connection.take_lease() else { break };
        while !lease.spare_mut().is_empty() {
            let copied = lease.extend_from_slice(&PATTERN[usize::from(position.next)..]);
            position.next = ((usize::from(position.next) + copied) % PATTERN.len()) as u16;
        }
        connection.output.push_back(lease);
    }
    Answer::Continue
}

/// A connection's position in the pattern.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    /// Where the bytes begin that follow the output.
    next: u16,
    /// The output may have a message in it, which is not of the pattern.
    has_message: bool,
}

const _: () = assert!(PATTERN.len() <= u16::MAX as usize);

impl Service for Chargen {
    type Session = Position;

    /// Input is discarded while output is sent.
    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    /// The position of the first byte that was not sent: what follows is made again from there.
    fn continuation(&self, _: u64, position: &Position, unsent: usize) -> Option<u64> {
        let back = PATTERN.len() - unsent % PATTERN.len();
        let from = (usize::from(position.next) + back) % PATTERN.len();
        (!position.has_message).then_some(from as u64)
    }

    fn resumed(&self, _: u64, continuation: u64) -> Position {
        Position { next: (continuation % PATTERN.len() as u64) as u16, has_message: false }
    }

    fn open(&mut self, connection: &mut Connection<'_>, position: &mut Position) -> Answer {
        fill(connection, position)
    }

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut Position) -> Answer {
        connection.input.consume(connection.input.len());
        Answer::Continue
    }

    fn sent(&mut self, connection: &mut Connection<'_>, position: &mut Position) -> Answer {
        position.has_message = false;
        fill(connection, position)
    }

    fn buffer_available(
        &mut self,
        connection: &mut Connection<'_>,
        position: &mut Position,
    ) -> Answer {
        fill(connection, position)
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        position: &mut Position,
        message: &mut Message<'_>,
    ) -> Answer {
        position.has_message |= put_on_output(connection, message);
        Answer::Continue
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, _: &mut Position) -> Answer {
        Answer::Continue
    }
}

/// The most characters of a datagram (RFC 864).
const DATAGRAM_CHARACTERS_MAX: usize = 512;

/// The generator over datagrams. RFC 864 has a random number of characters in each reply, from 0 to
/// 512. Here it is as many as the datagram has, at most 512: with more, anyone could direct more
/// bytes at a victim than he sends. Each reply starts with the line after that of the last reply.
struct Lines {
    /// The line that the next reply starts with.
    next: usize,
}

impl DatagramService for Lines {
    fn reply(&mut self, datagram: &mut [u8], _: Arrival<'_>) -> Option<usize> {
        let length = datagram.len().min(DATAGRAM_CHARACTERS_MAX);
        let lines = PATTERN[self.next * LINE_BYTES..].iter().chain(&PATTERN);
        datagram[..length].iter_mut().zip(lines).for_each(|(to, from)| *to = *from);
        self.next = (self.next + 1) % CHARACTERS;
        Some(length)
    }
}

impl ServiceFactory for Chargen {
    type Service = Chargen;

    fn datagrams(&self, _: usize) -> Option<Box<dyn DatagramService + Send>> {
        Some(Box::new(Lines { next: 0 }))
    }

    fn plan(self, _: &Limits) -> ServicePlan<Chargen> {
        ServicePlan::new(|_| Chargen)
    }
}

#[cfg(test)]
mod tests;
