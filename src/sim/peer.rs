//! The clients at the other end of the simulated connections: what they send, whether they read,
//! how they leave. Each checks what comes back: it must be a prefix of what it sent, byte for byte.

use std::time::Duration;

use super::marks::Mark;
use super::world::{EndpointId, Happening, World, address_of, canary};
use crate::error::Errno;
use crate::time::Time;

/// How a peer behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Manner {
    /// Sends and reads as much as it can.
    Fast,
    /// One byte at a time, each way.
    OneByte,
    /// Long pauses.
    Slow,
    /// Sends everything before it reads anything, as far as there is room.
    Pipelined,
    /// Closes its side after the last byte, and reads to the end.
    HalfClosing,
    /// Sends urgent bytes among the others.
    Urgent,
    /// Leaves with a reset at some point.
    Resetting,
    /// Sends and never reads, until it gives up.
    NeverReading,
    /// Connects and says nothing.
    Silent,
}

impl Manner {
    pub(super) const ALL: [Manner; 9] = [
        Manner::Fast,
        Manner::OneByte,
        Manner::Slow,
        Manner::Pipelined,
        Manner::HalfClosing,
        Manner::Urgent,
        Manner::Resetting,
        Manner::NeverReading,
        Manner::Silent,
    ];

    fn done(self) -> Mark {
        match self {
            Manner::Fast => Mark::FastDone,
            Manner::OneByte => Mark::OneByteDone,
            Manner::Slow => Mark::SlowDone,
            Manner::Pipelined => Mark::PipelinedDone,
            Manner::HalfClosing => Mark::HalfClosedDone,
            Manner::Urgent => Mark::UrgentDone,
            Manner::Resetting => Mark::PeerReset,
            Manner::NeverReading => Mark::NeverReadGaveUp,
            Manner::Silent => Mark::SilentDone,
        }
    }

    /// Whether it wants everything back.
    fn is_honest(self) -> bool {
        !matches!(self, Manner::Resetting | Manner::NeverReading | Manner::Silent)
    }
}

/// How a peer's connection ended, as the peer saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The other side closed with FIN.
    Fin,
    /// It was reset.
    Reset,
    /// It was refused.
    Refused,
    /// The peer left by its own choice.
    Left,
}

/// A simulated client.
pub(super) struct Peer {
    pub(super) number: usize,
    pub(super) manner: Manner,
    endpoint: EndpointId,
    /// Bytes that it wants to send.
    total: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    shut: bool,
    pub(super) end: Option<End>,
    begun: bool,
    gave_up: bool,
    /// When a byte last moved, either way.
    moved_at: Time,
    /// It gave up when nothing had moved for long.
    stuck: bool,
    /// Turns in which nothing moved: it looks less and less often.
    idle_turns: u32,
    /// When it leaves of its own accord at the latest: rude ones have a time, honest ones patience.
    leaves_at: Time,
}

/// The longest that a rude peer stays.
const RUDE_FOR: Duration = Duration::from_secs(8);

/// Nothing that heals takes longer than this to move a byte again.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(20);

impl Peer {
    pub(super) fn new(world: &mut World, number: usize, manner: Manner, total: u64) -> Peer {
        let stay = Duration::from_nanos(world.rng.u64(0..RUDE_FOR.as_nanos() as u64));
        Peer {
            number,
            manner,
            endpoint: usize::MAX,
            total,
            sent: 0,
            received: 0,
            shut: false,
            end: None,
            begun: false,
            gave_up: false,
            moved_at: world.now,
            stuck: false,
            idle_turns: 0,
            leaves_at: world.now + stay,
        }
    }

    /// Whether it got everything back that it wanted to.
    pub(super) fn is_satisfied(&self) -> bool {
        !self.manner.is_honest() || (self.sent == self.total && self.received == self.total)
    }

    /// Whether it has had its reasons to stop reading before the end.
    pub(super) fn reads_to_the_end(&self) -> bool {
        self.manner.is_honest()
    }

    /// Whether it lost patience.
    pub(super) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// Loses patience, if it has not left.
    pub(super) fn give_up(&mut self, world: &mut World) {
        if self.end.is_none() {
            self.gave_up = true;
            self.stuck = self.manner.is_honest() && self.moved_at + STUCK_AFTER < world.now;
            if self.begun {
                world.close(self.endpoint);
            }
            self.ends(world, End::Left);
        }
    }

    /// Whether it has sent or received something since then.
    pub(super) fn moved_since(&self, time: Time) -> bool {
        self.moved_at >= time
    }

    /// Whether nothing moved for long before it gave up.
    pub(super) fn was_stuck(&self) -> bool {
        self.stuck
    }

    fn pause(&self, world: &mut World) -> Duration {
        let most: u64 = match self.manner {
            Manner::Slow => 200_000,
            Manner::OneByte => 500,
            _ => 3_000,
        };
        let most = most.max(most.saturating_mul(1 << self.idle_turns.min(20)).min(100_000));
        Duration::from_micros(world.rng.u64(1..=most))
    }

    /// One turn of the peer; it asks for the next one itself.
    ///
    /// # Panics
    /// If a byte comes back that is not the one that was sent.
    pub(super) fn act(&mut self, world: &mut World) {
        if self.end.is_some() {
            return;
        }
        if !self.begun {
            self.begun = true;
            self.endpoint = world.connect(address_of(self.number), false);
            let (number, manner, total) = (self.number, self.manner, self.total);
            world.tell(30, number, total, || {
                format!("peer {number} ({manner:?}) connects, to send {total} bytes")
            });
        }
        match world.connect_outcome(self.endpoint) {
            None => self.idle_turns += 1,
            Some(Err(_)) => return self.ends(world, End::Refused),
            Some(Ok(())) => {
                let before = (self.sent, self.received);
                self.exchange(world);
                let moved = before != (self.sent, self.received);
                if moved {
                    self.moved_at = world.now;
                }
                self.idle_turns = if moved { 0 } else { self.idle_turns + 1 };
            }
        }
        if self.end.is_none() {
            let pause = self.pause(world);
            world.at(world.now + pause, Happening::Peer(self.number));
        }
    }

    fn exchange(&mut self, world: &mut World) {
        if self.reads(world) {
            self.read(world);
        }
        if self.end.is_none() && !self.shut {
            self.write(world);
        }
        if self.end.is_none() {
            self.leave_if_done(world);
        }
    }

    fn reads(&self, world: &mut World) -> bool {
        match self.manner {
            Manner::NeverReading => false,
            Manner::Pipelined => self.sent == self.total || world.rng.u8(0..8) == 0,
            _ => true,
        }
    }

    fn read(&mut self, world: &mut World) {
        let most = match self.manner {
            Manner::OneByte => 1,
            _ => world.rng.usize(1..=4096),
        };
        match world.recv(self.endpoint, most) {
            Ok(bytes) if bytes.is_empty() => self.fin_came(world),
            Ok(bytes) => {
                for byte in bytes {
                    let expected = canary(self.number, self.received);
                    assert_eq!(
                        byte, expected,
                        "peer {}: the byte at {} is not what was sent there",
                        self.number, self.received
                    );
                    self.received += 1;
                }
                assert!(self.received <= self.sent, "peer {}: more than was sent", self.number);
            }
            Err(Errno::AGAIN) => {}
            Err(_) => self.ends(world, End::Reset),
        }
    }

    fn fin_came(&mut self, world: &mut World) {
        self.ends(world, End::Fin);
        world.close(self.endpoint);
    }

    fn write(&mut self, world: &mut World) {
        let left = (self.total - self.sent) as usize;
        let most = match self.manner {
            Manner::OneByte => 1,
            Manner::Silent => 0,
            _ => world.rng.usize(1..=512),
        };
        let count = left.min(most);
        if count == 0 {
            return;
        }
        let bytes: Vec<u8> =
            (0..count as u64).map(|at| canary(self.number, self.sent + at)).collect();
        let urgent = self.manner == Manner::Urgent && world.rng.bool();
        match world.send(self.endpoint, &bytes, urgent) {
            Ok(count) => self.sent += count as u64,
            Err(Errno::AGAIN) => {}
            Err(_) => self.ends(world, End::Reset),
        }
    }

    fn leave_if_done(&mut self, world: &mut World) {
        match self.manner {
            Manner::HalfClosing if self.sent == self.total && !self.shut => {
                self.shut = true;
                let _ = world.shutdown(self.endpoint);
            }
            // Stays for the FIN.
            Manner::HalfClosing => {}
            Manner::Resetting if self.sent == self.total || world.rng.u8(0..16) == 0 => {
                world.abort(self.endpoint);
                self.ends(world, End::Left);
            }
            Manner::Resetting => {}
            Manner::NeverReading | Manner::Silent if world.now >= self.leaves_at => {
                world.close(self.endpoint);
                self.ends(world, End::Left);
            }
            Manner::NeverReading | Manner::Silent => {}
            _ if self.is_satisfied() => {
                world.close(self.endpoint);
                self.ends(world, End::Left);
            }
            _ => {}
        }
    }

    fn ends(&mut self, world: &mut World, end: End) {
        self.end = Some(end);
        let (number, sent, received) = (self.number, self.sent, self.received);
        world.tell(31, number, received, || {
            format!("peer {number} ends: {end:?}, sent {sent}, received {received}")
        });
        if self.is_satisfied() && end != End::Refused {
            world.mark(self.manner.done());
        }
    }
}
