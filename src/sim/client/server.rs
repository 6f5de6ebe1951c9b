//! The server end of a client's connection: it reads, replies or sends on its own, and ends the
//! connection in one of several ways.

use std::collections::VecDeque;
use std::time::Duration;

use super::caller::Caller;
use crate::base::time::Time;
use crate::protocol::framing::Framing;
use crate::sim::marks::Mark;
use crate::sim::world::{EndpointId, World};

/// What a server replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    /// The bytes that it received.
    Echo,
    /// Nothing.
    Nothing,
    /// Unsolicited messages.
    Talk,
    /// Bytes that form no message.
    Garbage,
}

/// How a server ends the connection. The number is the bytes that it reads first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaves {
    /// After its client has closed.
    Last,
    /// Never: it keeps its side open.
    Never,
    /// With a reset.
    Reset(usize),
    /// With FIN, and it continues to read.
    HalfClose(usize),
    /// With close, which resets the connection if bytes are unread.
    Close(usize),
}

/// One connection of the simulated servers.
pub(super) struct Server {
    end: EndpointId,
    pub(super) caller: usize,
    framing: Option<Framing>,
    reply: Reply,
    leaves: Leaves,
    /// Reads nothing until the faults end.
    deaf: bool,
    pace: Duration,
    chunk: usize,
    /// Bytes received, and bytes sent as far as the kernel accepted them.
    pub(super) heard: Vec<u8>,
    pub(super) said: Vec<u8>,
    to_say: VecDeque<u8>,
    /// Number of unsolicited messages left to send.
    talk: usize,
    pub(super) fin_heard: bool,
    fin_sent: bool,
    pub(super) closed: bool,
}

impl Server {
    pub(super) fn draw(world: &mut World, end: EndpointId, caller: usize, of: &Caller) -> Server {
        let rng = &mut world.rng;
        let talks = !of.manners.requests_only;
        let reply = match rng.u8(0..10) {
            0 => Reply::Nothing,
            1..=3 if talks => Reply::Talk,
            4 if talks && of.manners.framing.is_some() => Reply::Garbage,
            _ => Reply::Echo,
        };
        let at = rng.usize(0..600);
        let leaves = match rng.u8(0..12) {
            0 | 1 => Leaves::Reset(at),
            2 | 3 => Leaves::HalfClose(at),
            4 | 5 => Leaves::Close(at),
            6 => Leaves::Never,
            _ => Leaves::Last,
        };
        world.trace(61, end, caller as u64, || format!("serves {end}: {reply:?}, {leaves:?}"));
        let rng = &mut world.rng;
        Server {
            end,
            caller,
            framing: of.manners.framing,
            reply,
            leaves,
            deaf: rng.u8(0..10) == 0,
            pace: Duration::from_micros(*rng.choice(&[100, 5_000, 400_000]).expect("some")),
            chunk: *rng.choice(&[1, 10, 100_000]).expect("some"),
            heard: Vec::new(),
            said: Vec::new(),
            to_say: VecDeque::new(),
            talk: rng.usize(1..20),
            fin_heard: false,
            fin_sent: false,
            closed: false,
        }
    }

    /// Reads and writes a little. Returns the longest pause, or `None` when the connection has
    /// ended.
    pub(super) fn act(&mut self, world: &mut World, healed: bool) -> Option<Duration> {
        if healed {
            (self.deaf, self.chunk, self.pace) = (false, 100_000, Duration::from_millis(1));
        }
        if !self.closed && !self.deaf {
            self.read(world);
        }
        if !self.closed {
            self.write(world);
        }
        if !self.closed {
            self.leave(world, healed);
        }
        (!self.closed).then_some(self.pace)
    }

    fn read(&mut self, world: &mut World) {
        match world.recv(self.end, self.chunk) {
            Ok(bytes) if bytes.is_empty() => self.fin_heard = true,
            Ok(bytes) => {
                if self.reply == Reply::Echo && !self.fin_sent {
                    self.to_say.extend(&bytes);
                }
                self.heard.extend(bytes);
            }
            Err(crate::error::Errno::AGAIN) => {}
            Err(_) => self.close(world),
        }
    }

    fn write(&mut self, world: &mut World) {
        if self.to_say.is_empty() && self.talk > 0 && !self.fin_sent {
            match self.reply {
                Reply::Talk => self.say_something(world),
                Reply::Garbage => {
                    self.talk = 0;
                    self.to_say.extend([0xFF; 40]);
                    world.mark(Mark::GarbageSaid);
                }
                Reply::Echo | Reply::Nothing => {}
            }
        }
        let count = self.chunk.min(self.to_say.len());
        if count == 0 {
            return;
        }
        let bytes: Vec<u8> = self.to_say.iter().take(count).copied().collect();
        match world.send(self.end, &bytes, false) {
            Ok(sent) => self.said.extend(self.to_say.drain(..sent)),
            Err(crate::error::Errno::AGAIN) => {}
            Err(_) => self.close(world),
        }
    }

    fn say_something(&mut self, world: &mut World) {
        self.talk -= 1;
        let payload: Vec<u8> = (0..world.rng.usize(1..60)).map(|_| world.rng.u8(0..128)).collect();
        self.to_say.extend(wire(self.framing, &payload));
    }

    fn leave(&mut self, world: &mut World, healed: bool) {
        let reached = |at: usize| !healed && self.heard.len() >= at;
        match self.leaves {
            Leaves::Reset(at) if reached(at) => {
                self.closed = true;
                world.mark(Mark::ServerReset);
                world.abort(self.end);
            }
            Leaves::Close(at) if reached(at) => self.close(world),
            Leaves::HalfClose(at) if reached(at) && !self.fin_sent => {
                world.mark(Mark::ServerHalfClosed);
                self.shut(world);
            }
            Leaves::Never => {}
            _ if self.fin_heard && self.to_say.is_empty() => self.close(world),
            _ => {}
        }
    }

    fn shut(&mut self, world: &mut World) {
        self.fin_sent = true;
        self.to_say.clear();
        // The connection may already be reset.
        let _ = world.shutdown(self.end);
    }

    fn close(&mut self, world: &mut World) {
        self.closed = true;
        world.close(self.end);
    }

    /// Number of its bytes that the client's engine has received.
    pub(super) fn taken_by_client(&self, world: &World) -> usize {
        world.taken_by_other(self.end) as usize
    }

    /// Since when there has been something that the client's engine has not received, or had not
    /// when it closed the connection in this turn. `None` once a send has failed with the reset of
    /// this server: the client then ends the connection, whatever had come before the reset.
    pub(super) fn unseen_by_client(&self, world: &World) -> Option<Time> {
        if world.other_knows_of_reset(self.end) {
            return None;
        }
        let (_, unseen) = world.unseen_by_other(self.end);
        unseen.input.filter(|_| unseen.closed_at.is_none_or(|at| at == world.now))
    }
}

/// A payload in the form that it has on the wire.
pub(super) fn wire(framing: Option<Framing>, payload: &[u8]) -> Vec<u8> {
    match framing {
        None => payload.to_vec(),
        Some(framing) => {
            let (before, after) = framing.around(payload.len()).expect("a short message");
            [before.bytes(), payload, after].concat()
        }
    }
}
