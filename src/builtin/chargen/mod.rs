//! The character generator (RFC 864): a stream of lines without end, as fast as the client reads.

use std::time::Duration;

use crate::base::time::Time;
use crate::config::Limits;
use crate::error::CloseReason;
use crate::service::{
    Answer, Connection, Service, ServiceFactory, ServicePlan, Turn, WorkerContext,
};

mod waiting;

use waiting::Waiting;

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

/// How long a client that waits for a buffer is not asked for if nobody wakes it, which somebody
/// does. Only a guard.
const PAUSE: Duration = Duration::from_secs(1);

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
/// that its connection ends with [`CloseReason::Reset`].
///
/// A client that has been sent a buffer keeps it as long as nobody else waits for one; otherwise it
/// goes to the end of a queue. So all are served where there are fewer buffers than clients.
pub struct Chargen {
    /// The clients of this worker that wait.
    waiting: Waiting,
}

impl Chargen {
    fn new(worker: &WorkerContext) -> Chargen {
        Chargen { waiting: Waiting::new(worker) }
    }

    /// Fills buffers ahead of the client, unless others wait for one. `next` is the place in the
    /// pattern.
    fn go_on(&mut self, connection: &mut Connection<'_>, next: &mut Position) -> Answer {
        match self.waiting.anybody() {
            true => self.wait(connection),
            false => self.fill(connection, next),
        }
    }

    fn fill(&mut self, connection: &mut Connection<'_>, next: &mut Position) -> Answer {
        let few = self.waiting.anybody() || !connection.pool.is_plentiful();
        let ahead = if few { 1 } else { LEASES_AHEAD };
        while connection.output.leases() < ahead {
            let Some(mut lease) = connection.take_lease() else { break };
            while !lease.spare_mut().is_empty() {
                let copied = lease.extend_from_slice(&PATTERN[usize::from(next.0)..]);
                next.0 = ((usize::from(next.0) + copied) % PATTERN.len()) as u16;
            }
            connection.output.push_back(lease);
        }
        match connection.output.is_empty() {
            true => self.wait(connection),
            false => Answer::Continue,
        }
    }

    fn wait(&mut self, connection: &Connection<'_>) -> Answer {
        self.waiting.push(connection.id());
        Answer::WaitUntil(connection.now() + PAUSE)
    }
}

/// Where in the pattern a connection is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position(u16);

const _: () = assert!(PATTERN.len() <= u16::MAX as usize);

/// The character generator's factory. It has no options.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChargenOptions;

impl ServiceFactory for ChargenOptions {
    type Service = Chargen;

    fn plan(self, limits: &Limits) -> ServicePlan<Chargen> {
        let slots = u64::from(limits.max_connections);
        ServicePlan::new(Chargen::new).memory_bytes(slots * Waiting::BYTES_PER_SLOT as u64)
    }
}

impl Service for Chargen {
    type Session = Position;

    /// What the client sends is thrown away while it is sent to.
    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    fn open(&mut self, connection: &mut Connection<'_>, next: &mut Position) -> Answer {
        self.go_on(connection, next)
    }

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut Position) -> Answer {
        connection.input.consume(connection.input.len());
        Answer::Continue
    }

    fn sent(&mut self, connection: &mut Connection<'_>, next: &mut Position) -> Answer {
        self.go_on(connection, next)
    }

    fn timer(&mut self, connection: &mut Connection<'_>, next: &mut Position) -> Answer {
        match self.waiting.contains(connection.id()) {
            // It is the pause that has ended: its turn has not come.
            true => self.wait(connection),
            false => self.fill(connection, next),
        }
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, _: &mut Position) -> Answer {
        Answer::Continue
    }

    /// Nobody is to be shed for who may linger yet, and gets nothing any more.
    fn finishing(&mut self, connection: &mut Connection<'_>, _: &mut Position) {
        self.waiting.remove(connection.id());
    }

    fn closed(&mut self, connection: &mut Connection<'_>, _: &mut Position, _: CloseReason) {
        self.waiting.remove(connection.id());
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        self.waiting.turn(turn)
    }
}

#[cfg(test)]
mod tests;
