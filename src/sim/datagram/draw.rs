//! What a seed draws for datagrams: the server, the sources, and the rates of faults.

use std::time::Duration;

/// The families that the server's sockets serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
    /// Sockets of IPv6 that also get datagrams of IPv4.
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Serves {
    Echo,
    Discard,
    Chargen,
    Stamp {
        stateful: bool,
    },
    /// A service of the world, which replies with less or more than it was given, with nothing, and
    /// panics.
    Rude,
}

/// How the first process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Upgrade {
    No,
    /// Another process takes its sockets over.
    TakesOver,
    /// Another process has its sockets, and is stopped before it begins.
    Fails,
}

/// How often each fault happens, in events per million.
#[derive(Clone, Copy, Debug)]
pub(super) struct DatagramFaultRates {
    /// Lost on the way.
    pub(super) lost: u32,
    pub(super) doubled: u32,
    /// Damaged on the way. The kernel finds a wrong checksum.
    pub(super) corrupted: u32,
    /// A receive returns fewer than there are.
    pub(super) partial_receive: u32,
    pub(super) receive_error: u32,
    pub(super) receive_interrupted: u32,
    /// The kernel does not say who has sent a datagram.
    pub(super) nameless: u32,
    pub(super) partial_send: u32,
    pub(super) send_error: u32,
    pub(super) send_full: u32,
    pub(super) send_interrupted: u32,
    /// A message of several replies cannot leave as one.
    pub(super) segments_refused: u32,
    /// The machine stands still.
    pub(super) suspended: u32,
    /// The wall clock is set.
    pub(super) clock_set: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Draw {
    pub(super) family: Family,
    /// The port of the server.
    pub(super) port: u16,
    /// Sockets, with a thread for each.
    pub(super) threads: usize,
    pub(super) longest: usize,
    pub(super) busy_poll: bool,
    /// Datagrams per second of each source.
    pub(super) rate: Option<u32>,
    pub(super) serves: Serves,
    /// All sources fall into one set of the tables, and all sessions.
    pub(super) has_one_set: bool,
    /// How far a thread's time may be behind.
    pub(super) behind_max: Duration,
    /// Datagrams that a socket's receive buffer has room for.
    pub(super) room: usize,
    /// How many the sockets have dropped before.
    pub(super) dropped_before: u32,
    pub(super) rates: DatagramFaultRates,
    /// Longest time on the way. With 0, nothing is reordered.
    pub(super) delay_max: Duration,
    pub(super) sources: usize,
    /// Datagrams that all sources send together, in bursts.
    pub(super) datagrams: usize,
    pub(super) burst_max: usize,
    /// Longest pause of a source between two bursts.
    pub(super) pause_max: Duration,
    /// The datagrams of a burst have one length, except the last one.
    pub(super) has_one_length: bool,
    /// The system knows messages of several replies.
    pub(super) knows_segments: bool,
    /// The longest segment that it can send.
    pub(super) mtu: Option<u16>,
    pub(super) upgrade: Upgrade,
    /// When the server is stopped. `None`: when nothing is left to do.
    pub(super) stops_after: Option<Duration>,
    /// The time of the clock that is never set, at the start.
    pub(super) begun_ns: u64,
}

/// Where the times of `source_rate` wrap around.
const WRAP_NS: u64 = 1 << 44;

impl Draw {
    /// `own`: for what was added later, so that the seeds from before are what they were, as far as
    /// that goes.
    pub(super) fn new(rng: &mut fastrand::Rng, own: &mut fastrand::Rng) -> Draw {
        let one_of = |rng: &mut fastrand::Rng, count| rng.u32(0..count) == 0;
        let serves = match rng.u8(0..10) {
            0..4 => Serves::Echo,
            4 => Serves::Discard,
            5 => Serves::Chargen,
            6 => Serves::Stamp { stateful: false },
            7 | 8 => Serves::Stamp { stateful: true },
            _ => Serves::Rude,
        };
        let longest = *rng.choice(&[1, 44, 100, 100, 1_472, 1_472, 65_507, 65_527]).expect("some");
        let has_one_set = one_of(rng, 4);
        let threads = rng.usize(1..=3);
        let ms = |rng: &mut fastrand::Rng, of: &[u64]| {
            Duration::from_millis(*rng.choice(of).expect("there are some"))
        };
        let begun_ns = match rng.bool() {
            true => 1_000_000_000,
            false => rng.u64(1..4) * WRAP_NS - rng.u64(1..3_000_000_000),
        };
        Draw {
            family: *rng.choice(&[Family::V4, Family::V6, Family::Both]).expect("some"),
            port: *rng.choice(&[7, 7_777]).expect("some"),
            threads,
            longest,
            busy_poll: one_of(rng, 4),
            rate: rng.bool().then(|| *rng.choice(&[1, 10, 100, 1_000, 1_000_000]).expect("some")),
            serves,
            has_one_set,
            // With both, a place that one thread finds free another one finds taken.
            behind_max: match !has_one_set && one_of(rng, 3) {
                true => Duration::from_millis(rng.u64(1..=1_000)),
                false => Duration::ZERO,
            },
            room: *rng.choice(&[1, 5, 70, 300]).expect("some"),
            dropped_before: *rng.choice(&[0, 0, 9, u32::MAX - 3]).expect("some"),
            rates: DatagramFaultRates::new(rng, own),
            delay_max: ms(rng, &[0, 1, 20, 500]),
            sources: *rng.choice(&[1, 3, 12, 40]).expect("some"),
            datagrams: match longest {
                10_001.. => rng.usize(1..=60),
                // So many that messages are tried again after a pause.
                ..=100 if one_of(own, 8) => rng.usize(1_000..=4_000),
                _ => rng.usize(1..=400),
            },
            burst_max: *rng.choice(&[1, 5, 100]).expect("some"),
            pause_max: ms(rng, &[1, 50, 1_000, 90_000]),
            has_one_length: !one_of(own, 4),
            knows_segments: !one_of(own, 4),
            mtu: one_of(own, 3).then(|| *own.choice(&[1, 50, 100, 1_472]).expect("some")),
            upgrade: match rng.u8(0..8) {
                0 | 1 => Upgrade::TakesOver,
                2 => Upgrade::Fails,
                _ => Upgrade::No,
            },
            stops_after: rng.bool().then(|| Duration::from_micros(rng.u64(0..3_000_000))),
            begun_ns,
        }
    }
}

impl DatagramFaultRates {
    /// Most of them are zero: too many faults at once hide bugs.
    fn new(rng: &mut fastrand::Rng, own: &mut fastrand::Rng) -> DatagramFaultRates {
        let draw = |rng: &mut fastrand::Rng, in_how_many: u32, most: u32| {
            if rng.u32(0..in_how_many) == 0 { rng.u32(1..=most) } else { 0 }
        };
        let mut rate = |in_how_many, most| draw(rng, in_how_many, most);
        DatagramFaultRates {
            lost: rate(3, 300_000),
            doubled: rate(3, 300_000),
            corrupted: rate(4, 200_000),
            partial_receive: rate(3, 500_000),
            receive_error: rate(4, 200_000),
            receive_interrupted: rate(4, 300_000),
            nameless: rate(8, 100_000),
            partial_send: rate(3, 700_000),
            send_error: rate(3, 300_000),
            send_full: rate(5, 200_000),
            send_interrupted: rate(4, 300_000),
            segments_refused: draw(own, 2, 1_000_000),
            suspended: rate(4, 100_000),
            clock_set: rate(4, 100_000),
        }
    }
}
