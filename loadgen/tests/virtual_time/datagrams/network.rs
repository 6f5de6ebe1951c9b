//! A network between the sockets of the generator and one server, in its own time: it loses, doubles,
//! delays, reorders and damages datagrams as it is drawn, and keeps a log of all that it did and of
//! all that the generator did. The server is an echo, or a reflector of STAMP.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};

use echopool::error::Errno;
use echopool::internals::stamp::Reflection;
use echopool::internals::{ClockError, Sent as Taken};
use echopool::time::Time;
use fastrand::Rng;
use loadgen::exec::datagram::{Net, Waited};
use loadgen::traffic::datagram::BATCH;

use super::draw::{Drawn, Faults};
use super::marks::{Mark, Marks};

/// Virtual time zero on the clock of the day.
const EPOCH_NS: u64 = 1_700_000_000_000_000_000;
/// No run takes as long.
const LONGEST_NS: u64 = 300_000_000_000;
/// What a look costs a thread that never sleeps.
const LOOK_NS: u64 = 20_000;

/// A datagram that the generator has given to a socket.
pub struct Sent {
    pub at: u64,
    pub bytes: Vec<u8>,
    /// Whether it reaches the server twice.
    doubled: bool,
}

/// What the reflector has said in a reply.
#[derive(Clone, Copy)]
pub struct Reflected {
    pub number: u64,
    pub received: u64,
    pub replied: u64,
}

/// What is wrong with a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    None,
    /// Its bytes differ, it is too long, or it has the number of another datagram.
    Corrupted,
    /// It is shorter, and its number can be read.
    Truncated,
}

/// A datagram that arrives at a socket.
#[derive(Clone)]
pub struct Reply {
    /// The number of the datagram that it seems to be a reply to, if it has one.
    pub claims: Option<usize>,
    pub damage: Damage,
    pub bytes: Vec<u8>,
    pub arrived: u64,
    pub reflected: Option<Reflected>,
}

/// What the generator did, and when.
pub enum Event {
    /// It sent the next datagram of a socket.
    Sent {
        socket: usize,
    },
    /// It found nothing at any socket at this time, or later.
    Empty {
        at: u64,
    },
    Read {
        socket: usize,
        reply: Reply,
        at: u64,
    },
}

enum Arrival {
    AtServer {
        number: usize,
    },
    AtSocket(Reply),
    /// A report of the network that there is no server.
    Unreachable,
}

pub struct Network {
    pub drawn: Drawn,
    rng: Rng,
    pub now: u64,
    /// By time, and in their order: socket and what arrives.
    under_way: BTreeMap<(u64, u64), (usize, Arrival)>,
    serial: u64,
    /// For each socket: what lies in it, and whether it has an error to report.
    queues: Vec<VecDeque<Reply>>,
    errors: Vec<bool>,
    ready: Vec<usize>,
    incoming: Vec<Reply>,
    outgoing: Vec<Vec<u8>>,
    queued: Vec<(usize, usize)>,
    /// For each socket: all datagrams in their order, and the numbers of those that reached the
    /// server, in the order of their arrival.
    pub sent: Vec<Vec<Sent>>,
    pub receptions: Vec<Vec<usize>>,
    pub log: Vec<Event>,
    /// Datagrams that the kernel refused, and errors that it reported.
    pub refused: u64,
    pub reported: u64,
    pub open_failed: u64,
    pub marks: Marks,
}

impl Network {
    pub fn new(drawn: Drawn, seed: u64) -> Network {
        Network {
            drawn,
            rng: Rng::with_seed(seed),
            now: 1_000_000_000,
            under_way: BTreeMap::new(),
            serial: 0,
            queues: Vec::new(),
            errors: Vec::new(),
            ready: Vec::new(),
            incoming: Vec::new(),
            outgoing: vec![vec![0; 2_048]; BATCH],
            queued: Vec::new(),
            sent: Vec::new(),
            receptions: Vec::new(),
            log: Vec::new(),
            refused: 0,
            reported: 0,
            open_failed: 0,
            marks: Marks::default(),
        }
    }

    /// Whether anything has arrived that was not read.
    pub fn has_unread(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
    }

    /// Whether the thread got no processor for a while.
    pub fn has_paused(&self) -> bool {
        [Mark::Paused, Mark::StoppedAfterALook].iter().any(|mark| self.marks.of(*mark) > 0)
    }

    fn faults(&self) -> Faults {
        self.drawn.faults
    }

    /// Draws a fault with this probability in thousandths, and marks it.
    fn fault(&mut self, per_mille: u32, mark: Mark) -> bool {
        let is_drawn = per_mille > 0 && self.rng.u32(0..1_000) < per_mille;
        if is_drawn {
            self.marks.add(mark);
        }
        is_drawn
    }

    fn schedule(&mut self, at: u64, socket: usize, arrival: Arrival) {
        self.serial += 1;
        self.under_way.insert((at.max(self.now), self.serial), (socket, arrival));
    }

    /// The time that one direction takes.
    fn delay(&mut self) -> u64 {
        self.drawn.delay_ns + self.rng.u64(0..=self.drawn.jitter_ns)
    }

    /// A socket has been given its next datagram.
    fn given(&mut self, socket: usize, bytes: Vec<u8>) {
        self.sent[socket].push(Sent { at: self.now, bytes, doubled: false });
        self.log.push(Event::Sent { socket });
    }

    fn depart(&mut self, socket: usize, bytes: Vec<u8>) {
        let number = self.sent[socket].len();
        self.given(socket, bytes);
        let faults = self.faults();
        if self.fault(faults.lost[0], Mark::LostThere) {
            return;
        }
        if self.fault(faults.unreachable, Mark::Unreachable) {
            let at = self.now + self.delay();
            return self.schedule(at, socket, Arrival::Unreachable);
        }
        let doubled = self.fault(faults.doubled[0], Mark::DoubledThere);
        self.sent[socket][number].doubled = doubled;
        for _ in 0..1 + u32::from(doubled) {
            let mut at = self.now + self.delay();
            if self.fault(faults.slow[0], Mark::SlowThere) {
                at += self.rng.u64(0..=self.drawn.timeout_ns / 3);
            }
            self.schedule(at, socket, Arrival::AtServer { number });
        }
    }

    fn serve(&mut self, socket: usize, number: usize) {
        let mut bytes = self.sent[socket][number].bytes.clone();
        let (nth, received) = (self.receptions[socket].len() as u64, self.now);
        self.receptions[socket].push(number);
        let replied = received + self.rng.u64(0..=self.drawn.residence_ns);
        let reflected = self.drawn.is_stamp.then(|| {
            let number = if self.drawn.is_stateful { nth } else { number as u64 };
            let reflection = Reflection {
                number: number as u32,
                hop_limit: 64,
                received_unix_ns: self.reflector_ns(received),
                sent_unix_ns: self.reflector_ns(replied),
                error: self.drawn.reflector_error,
            };
            reflection.write(&mut bytes);
            Reflected { number, received, replied }
        });
        let faults = self.faults();
        if self.fault(faults.lost[1], Mark::LostBack) {
            return;
        }
        // The reflector's numbers would not tell a packet that is doubled in both directions.
        let was_doubled = self.sent[socket][number].doubled;
        let doubled = !was_doubled && self.fault(faults.doubled[1], Mark::DoubledBack);
        for _ in 0..1 + u32::from(doubled) {
            let arrived = self.arrival(socket, number, replied);
            let reply = Reply {
                claims: Some(number),
                damage: Damage::None,
                bytes: bytes.clone(),
                arrived,
                reflected,
            };
            let reply = self.damage(socket, reply);
            self.schedule(arrived, socket, Arrival::AtSocket(reply));
        }
    }

    /// When a reply arrives.
    fn arrival(&mut self, socket: usize, number: usize, replied: u64) -> u64 {
        let (faults, timeout) = (self.faults(), self.drawn.timeout_ns);
        let usual = replied + self.delay();
        let limit = self.sent[socket][number].at + timeout;
        if self.fault(faults.late, Mark::Late) {
            return usual.max(limit) + self.rng.u64(1..=3 * timeout);
        }
        if self.fault(faults.slow[1], Mark::SlowBack) {
            return usual.max(limit - self.rng.u64(0..=timeout / 2));
        }
        if self.fault(faults.slow[1] / 8, Mark::JustInTime) {
            return usual.max(limit);
        }
        usual
    }

    /// A reply as it may be after the way back.
    fn damage(&mut self, socket: usize, mut reply: Reply) -> Reply {
        let faults = self.faults();
        if self.fault(faults.corrupted, Mark::Corrupted) {
            reply.damage = Damage::Corrupted;
            match self.drawn.is_stamp {
                true => self.corrupt_reflection(&mut reply),
                false => self.corrupt_echo(socket, &mut reply),
            }
        } else if self.fault(faults.truncated, Mark::Truncated) {
            self.truncate(&mut reply);
        } else if self.fault(faults.longer, Mark::Longer) {
            reply.bytes.push(0);
            if !self.drawn.is_stamp {
                reply.damage = Damage::Corrupted;
            }
        }
        reply
    }

    /// A bit of the tag, of the number, or of the payload.
    fn corrupt_echo(&mut self, socket: usize, reply: &mut Reply) {
        let length = reply.bytes.len();
        match self.rng.u8(0..4) {
            0 => {
                reply.bytes[self.rng.usize(0..4)] ^= 1 << self.rng.u8(0..8);
                reply.claims = None;
            }
            // A number that there is none of.
            1 => {
                reply.bytes[self.rng.usize(8..12)] ^= 1 << self.rng.u8(0..8);
                reply.claims = None;
            }
            // The number of another datagram, if there is one whose bytes are others.
            2 if length >= 20 && self.sent[socket].len() > 1 => {
                let other = self.rng.usize(0..self.sent[socket].len());
                if Some(other) == reply.claims {
                    reply.bytes[length - 1] ^= 1;
                } else {
                    reply.bytes[4..12].copy_from_slice(&(other as u64).to_le_bytes());
                    reply.claims = Some(other);
                    self.marks.add(Mark::OtherNumber);
                }
            }
            _ if length > 12 => {
                reply.bytes[self.rng.usize(12..length)] ^= 1 << self.rng.u8(0..8);
            }
            _ => {
                reply.bytes[0] ^= 1;
                reply.claims = None;
            }
        }
    }

    /// A bit of what the reflector has copied, or its error estimate, which must not be zero.
    fn corrupt_reflection(&mut self, reply: &mut Reply) {
        match self.rng.u8(0..3) {
            0 => {
                reply.bytes[24] ^= 0x80;
                reply.claims = None;
            }
            1 => reply.bytes[13] = 0,
            _ => reply.bytes[self.rng.usize(28..38)] ^= 1 << self.rng.u8(0..8),
        }
    }

    fn truncate(&mut self, reply: &mut Reply) {
        let length = reply.bytes.len();
        // What must be there for a number.
        let least = if self.drawn.is_stamp { 41 } else { 12 };
        let keeps_number = length > least && self.rng.u8(0..4) > 0;
        let cut =
            if keeps_number { self.rng.usize(least..length) } else { self.rng.usize(0..least) };
        reply.bytes.truncate(cut);
        match (keeps_number, self.drawn.is_stamp) {
            (false, _) => {
                reply.claims = None;
                reply.damage = Damage::Corrupted;
            }
            (true, false) => reply.damage = Damage::Truncated,
            // Some reflectors reply in another length.
            (true, true) => {}
        }
    }

    /// The reflector's clock at this time.
    fn reflector_ns(&self, at: u64) -> u64 {
        (EPOCH_NS + at).wrapping_add_signed(self.drawn.reflector_ahead_ns)
    }

    /// Everything until this time happens.
    fn advance(&mut self, until: u64) {
        assert!(until < LONGEST_NS, "the run does not end");
        while let Some(entry) = self.under_way.first_entry()
            && entry.key().0 <= until
        {
            let ((at, _), (socket, arrival)) = entry.remove_entry();
            self.now = at;
            match arrival {
                Arrival::AtServer { number } => self.serve(socket, number),
                Arrival::AtSocket(reply) => self.queues[socket].push_back(reply),
                Arrival::Unreachable => self.errors[socket] = true,
            }
        }
        self.now = until;
    }

    fn find(&mut self) -> usize {
        let has = |socket: &usize| !self.queues[*socket].is_empty() || self.errors[*socket];
        self.ready = (0..self.queues.len()).filter(has).collect();
        self.ready.len()
    }

    /// With this probability in thousandths, the thread gets no processor for a while. Returns whether
    /// it is so.
    fn pause(&mut self, per_mille: u32, mark: Mark) -> bool {
        let is_paused = self.fault(per_mille, mark);
        if is_paused {
            let until = self.now + self.rng.u64(0..=3 * self.drawn.timeout_ns);
            self.advance(until);
        }
        is_paused
    }
}

impl Net for &mut Network {
    fn now(&self) -> Time {
        Time::from_nanos(self.now)
    }

    fn unix_now_ns(&self) -> u64 {
        EPOCH_NS + self.now
    }

    fn clock_error(&self) -> ClockError {
        self.drawn.own_error
    }

    fn open(&mut self, _: SocketAddr, _: Option<IpAddr>, is_timed: bool) -> io::Result<()> {
        assert_eq!(is_timed, self.drawn.is_stamp);
        let faults = self.faults();
        // One is there in any case.
        if !self.queues.is_empty() && self.fault(faults.not_opened, Mark::NotOpened) {
            self.open_failed += 1;
            return Err(io::Error::from_raw_os_error(24));
        }
        self.queues.push(VecDeque::new());
        self.errors.push(false);
        self.sent.push(Vec::new());
        self.receptions.push(Vec::new());
        Ok(())
    }

    fn look(&mut self) -> io::Result<usize> {
        let found = self.find();
        if found == 0 {
            self.log.push(Event::Empty { at: self.now });
            if self.drawn.busy_poll {
                self.advance(self.now + LOOK_NS);
            }
        }
        Ok(found)
    }

    fn wait(&mut self, until: Time) -> io::Result<Waited> {
        let until = until.as_nanos();
        while self.find() == 0 && self.now < until {
            let next = self.under_way.first_key_value().map_or(until, |((at, _), _)| *at);
            self.advance(next.min(until));
        }
        let paused = self.faults().paused;
        self.pause(paused, Mark::Paused);
        let found = self.find();
        if found > 0 {
            return Ok(Waited::Found(found));
        }
        // When its time was over, as a timer tells.
        self.log.push(Event::Empty { at: until });
        let stopped = self.faults().stopped;
        if self.pause(stopped, Mark::StoppedAfterALook) && self.find() > 0 {
            self.marks.add(Mark::CameAfterALook);
        }
        Ok(Waited::Nothing(Time::from_nanos(until)))
    }

    fn ready(&self, nth: usize) -> usize {
        self.ready[nth]
    }

    fn receive(&mut self, socket: usize) -> Result<usize, Errno> {
        if std::mem::take(&mut self.errors[socket]) {
            self.reported += 1;
            return Err(Errno::CONNREFUSED);
        }
        let count = self.queues[socket].len().min(BATCH);
        if count == 0 {
            return Err(Errno::AGAIN);
        }
        self.incoming = self.queues[socket].drain(..count).collect();
        let at = self.now;
        for reply in &self.incoming {
            self.log.push(Event::Read { socket, reply: reply.clone(), at });
        }
        Ok(count)
    }

    fn datagram(&self, at: usize) -> &[u8] {
        &self.incoming[at].bytes
    }

    fn arrived_unix_ns(&self, at: usize) -> Option<u64> {
        self.drawn.kernel_times.then_some(EPOCH_NS + self.incoming[at].arrived)
    }

    fn buffer_mut(&mut self, at: usize) -> &mut [u8] {
        &mut self.outgoing[at]
    }

    fn push(&mut self, at: usize, length: usize) {
        self.queued.push((at, length));
    }

    fn send(&mut self, socket: usize) -> Taken {
        let mut taken = Taken::default();
        for (at, length) in std::mem::take(&mut self.queued) {
            let bytes = self.outgoing[at][..length].to_vec();
            let faults = self.faults();
            if self.fault(faults.refused, Mark::Refused) {
                taken.refused += 1;
                self.given(socket, bytes);
                continue;
            }
            self.depart(socket, bytes);
        }
        self.refused += taken.refused;
        taken
    }
}
