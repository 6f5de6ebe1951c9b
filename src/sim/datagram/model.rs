//! What a thread must do with a batch: how it counts each datagram, and which replies it sends,
//! byte for byte. Written from `docs/transports.md` and the RFCs.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::draw::{Draw, Serves};
use super::packets::{self, Said};
use super::socket::{Outgoing, Room};
use super::world::Datagram;
use crate::base::time::Time;
use crate::engine::sys::ClockError;
use crate::shared::counters::Counters;
use crate::sim::marks::{Mark, Marks};

/// Places of a set, in both tables.
const WAYS: usize = 8;
/// A session of STAMP is over after this time without a packet.
const SESSION_NS: u64 = 60_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// One turn of a thread.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) receives: u32,
    pub(super) interrupted: u32,
    pub(super) sends: u32,
    pub(super) sends_interrupted: u32,
    /// The receive failed.
    pub(super) has_failed: bool,
    pub(super) paused: Duration,
    /// What was received, unless nobody will read it because the process was stopped.
    pub(super) batch: Vec<Datagram>,
    /// The time that the thread has read.
    pub(super) now: Option<Time>,
    /// The wall clock, each time it was read.
    pub(super) wall: VecDeque<u64>,
    /// The error of the wall clock, each time it was read.
    pub(super) errors: VecDeque<ClockError>,
    /// The replies, once they are known, and how many of them have been sent or refused.
    pub(super) replies: Option<Vec<Reply>>,
    pub(super) done: usize,
    /// How many replies each message must have that is still to be sent.
    pub(super) messages: VecDeque<usize>,
    /// Messages that the system has sent, and those that it has refused as one.
    pub(super) joined: usize,
    pub(super) split: u32,
}

/// A reply that is expected.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) datagram: Outgoing,
    /// The packet of STAMP has this error estimate.
    error: Option<ClockError>,
    /// The length of the request.
    most: usize,
}

impl Reply {
    /// Whether this is what is sent.
    pub(super) fn is(&self, sent: &Outgoing) -> bool {
        let mut sent = sent.clone();
        assert!(sent.bytes.len() <= self.most, "a reply is longer than its datagram");
        if let Some(error) = self.error
            && sent.bytes.len() >= 14
        {
            let estimate = [sent.bytes[12], sent.bytes[13]];
            assert!(packets::says(estimate, error), "{estimate:?} is not {error:?}");
            sent.bytes[12..14].fill(0);
        }
        sent == self.datagram
    }
}

/// The counters of a thread, as they must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) receives: u64,
    pub(super) sends: u64,
    pub(super) received: u64,
    pub(super) bytes_received: u64,
    pub(super) sent: u64,
    pub(super) bytes_sent: u64,
    pub(super) unsent: u64,
    pub(super) dropped: u64,
    pub(super) truncated: u64,
    pub(super) refused: u64,
    pub(super) limited: u64,
}

impl Counts {
    pub(super) fn of(counters: &Counters) -> Counts {
        Counts {
            receives: counters.receives.get(),
            sends: counters.sends.get(),
            received: counters.datagrams_received.get(),
            bytes_received: counters.bytes_received.get(),
            sent: counters.datagrams_sent.get(),
            bytes_sent: counters.bytes_sent.get(),
            unsent: counters.datagrams_unsent.get(),
            dropped: counters.datagrams_dropped.get(),
            truncated: counters.datagrams_truncated.get(),
            refused: counters.datagrams_refused.get(),
            limited: counters.datagrams_limited.get(),
        }
    }
}

/// What a thread must have counted, and the state of its service.
pub(super) struct Model {
    serves: Serves,
    pub(super) counts: Counts,
    /// Datagrams to which the service has no reply.
    pub(super) unanswered: u64,
    /// The socket's count of dropped datagrams when it was last seen.
    pub(super) dropped: u32,
    /// Replies of the character generator.
    lines: u64,
    /// When the last packet of each session came, and the number of its next reply.
    sessions: HashMap<(SocketAddr, Option<IpAddr>, u16), (u64, u32)>,
    /// The error of the wall clock as the service knows it, and since when.
    error: Option<(ClockError, u64)>,
    /// The lengths of the first receive, which all others must have.
    pub(super) rooms: Vec<Room>,
    /// Batches that leave one by one after a message was refused, and the receive from which on the
    /// next message is tried.
    pause: u64,
    joins_from: u64,
}

/// Fewer replies leave one by one (`docs/transports.md`).
const RUN_MIN: usize = 4;
/// What a message can have (udp(7)).
const SEGMENTS_MAX: usize = 64;
const MESSAGE_BYTES_MAX: usize = 65_507;

/// What the sources of a process may send.
pub(super) struct Allowances {
    per_second: Option<u32>,
    /// When the allowance of each source is whole again, in nanoseconds.
    whole_at: HashMap<Network, u64>,
    /// When each source was first served, and how often it was.
    served: HashMap<Network, (u64, u64)>,
}

/// What counts as one source.
type Network = (bool, u128);

fn network(source: IpAddr) -> Network {
    match source.to_canonical() {
        IpAddr::V4(ip) => (true, u32::from(ip).into()),
        IpAddr::V6(ip) => (false, u128::from(ip) >> 64),
    }
}

impl Allowances {
    pub(super) fn new(per_second: Option<u32>) -> Allowances {
        Allowances { per_second, whole_at: HashMap::new(), served: HashMap::new() }
    }

    /// Whether a datagram of this source must be served at this time.
    fn take(&mut self, source: IpAddr, now: Time, has_one_set: bool, marks: &mut Marks) -> bool {
        let Some(per_second) = self.per_second.map(u64::from) else { return true };
        let (now, network) = (now.as_nanos(), network(source));
        let interval = SECOND_NS / per_second;
        // A tenth of a second in advance, and at least one datagram.
        let burst = interval.max(SECOND_NS / 10);
        let whole_at = self.whole_at.get(&network).copied().unwrap_or(0);
        if whole_at <= now && has_one_set {
            let others = self.whole_at.values().filter(|at| **at > now).count();
            if others >= WAYS {
                marks.hit(Mark::DatagramTableFull);
                return false;
            }
        }
        let after = whole_at.max(now) + interval;
        if after - now > burst {
            return false;
        }
        self.whole_at.insert(network, after);
        let (since, served) = self.served.entry(network).or_insert((now, 0));
        *served += 1;
        // The rate itself, whatever the way to it. Threads read the time up to a second apart.
        let span = now.saturating_sub(*since) + SECOND_NS;
        let most = (span + burst) / interval + 1;
        assert!(*served <= most, "{source} has {served} replies in {span} ns");
        true
    }
}

impl Model {
    pub(super) fn new(serves: Serves) -> Model {
        Model {
            serves,
            counts: Counts::default(),
            unanswered: 0,
            dropped: 0,
            lines: 0,
            sessions: HashMap::new(),
            error: None,
            rooms: Vec::new(),
            pause: 0,
            joins_from: 0,
        }
    }

    /// How many replies each message must have.
    pub(super) fn messages(
        &self,
        replies: &[Reply],
        draw: &Draw,
        marks: &mut Marks,
    ) -> VecDeque<usize> {
        let mut messages = VecDeque::new();
        let may_join = draw.knows_segments && self.counts.receives >= self.joins_from;
        let mut rest = replies;
        while !rest.is_empty() {
            let run = run(rest);
            if run > 1 && !may_join {
                let known = draw.knows_segments;
                marks.hit(if known { Mark::DatagramPaused } else { Mark::DatagramNoSegments });
            }
            let count = if may_join { run } else { 1 };
            messages.push_back(count);
            rest = &rest[count..];
        }
        messages
    }

    /// The messages of a batch have left, or not.
    pub(super) fn have_left(&mut self, turn: &Turn, marks: &mut Marks) {
        if turn.split > 0 {
            if self.pause > 0 {
                marks.hit(Mark::DatagramRefusedAgain);
            }
            self.pause = (2 * self.pause).clamp(16, 65_536);
            self.joins_from = self.counts.receives + self.pause + 1;
        } else if turn.joined > 0 {
            if self.pause > 0 {
                marks.hit(Mark::DatagramJoinedAgain);
            }
            self.pause = 0;
        }
    }

    /// The replies to a batch. Counts what gets none.
    pub(super) fn replies(
        &mut self,
        turn: &mut Turn,
        draw: &Draw,
        allowances: &mut Allowances,
        marks: &mut Marks,
    ) -> Vec<Reply> {
        let mut replies = Vec::new();
        let now = turn.now;
        for datagram in std::mem::take(&mut turn.batch) {
            let length = datagram.bytes.len();
            self.counts.received += 1;
            self.counts.bytes_received += length.min(draw.longest) as u64;
            if datagram.dropped != 0 {
                self.sees_dropped(datagram.dropped, marks);
            }
            if length > draw.longest {
                self.counts.truncated += 1;
                marks.hit(Mark::DatagramTruncated);
                continue;
            }
            if let Some(mark) = refusal(&datagram, draw.port) {
                self.counts.refused += 1;
                marks.hit(mark);
                continue;
            }
            let source = datagram.source.ip();
            let may = draw.rate.is_none() || {
                let now = now.expect("a thread with a limit reads the time of a batch");
                allowances.take(source, now, draw.has_one_set, marks)
            };
            if !may {
                self.counts.limited += 1;
                marks.hit(Mark::DatagramLimited);
                continue;
            }
            marks.hit(match length {
                0 => Mark::DatagramEmpty,
                65_507.. => Mark::DatagramLargest,
                _ => Mark::DatagramServed,
            });
            match self.reply(&datagram, turn, draw, marks) {
                Some((bytes, error)) => {
                    let (to, from) = (datagram.source, Some(datagram.local));
                    let datagram = Outgoing { to, from, bytes };
                    replies.push(Reply { datagram, error, most: length });
                }
                None => {
                    self.unanswered += 1;
                    marks.hit(Mark::DatagramUnanswered);
                }
            }
        }
        replies
    }

    /// The socket's count of dropped datagrams, with a datagram or at the end.
    pub(super) fn sees_dropped(&mut self, dropped: u32, marks: &mut Marks) {
        let more = i64::from(dropped.wrapping_sub(self.dropped) as i32);
        if dropped < self.dropped && more > 0 {
            marks.hit(Mark::DatagramDropsWrapped);
        }
        if more < 0 {
            marks.hit(Mark::DatagramFromBefore);
            return;
        }
        self.counts.dropped += more as u64;
        self.dropped = dropped;
    }

    /// The reply of the service to a datagram.
    fn reply(
        &mut self,
        datagram: &Datagram,
        turn: &mut Turn,
        draw: &Draw,
        marks: &mut Marks,
    ) -> Option<(Vec<u8>, Option<ClockError>)> {
        let bytes = &*datagram.bytes;
        match self.serves {
            Serves::Echo => Some((bytes.to_vec(), None)),
            Serves::Discard => None,
            Serves::Chargen => {
                self.lines += 1;
                Some((packets::characters(self.lines - 1, bytes.len()), None))
            }
            Serves::Rude => rude_length(bytes, marks).map(|length| (bytes[..length].into(), None)),
            Serves::Stamp { stateful } => {
                let session = packets::session(bytes)?;
                let now = turn.wall.pop_front().expect("a reflector reads the clock for a packet");
                let number = match stateful {
                    true => self.next_number(datagram, session, now, draw.has_one_set, marks)?,
                    false => packets::number(bytes),
                };
                let received_ns = datagram.unix_ns.unwrap_or(now);
                if received_ns > now {
                    marks.hit(Mark::DatagramFromLater);
                }
                let said = Said {
                    number,
                    hop_limit: datagram.hop_limit.unwrap_or(0),
                    received_ns: received_ns.min(now),
                    sent_ns: now,
                };
                let error = self.error(now, turn);
                Some((packets::reflected(bytes, &said), Some(error)))
            }
        }
    }

    /// The error of the clock, which the service must not have read more than a second ago.
    fn error(&mut self, now: u64, turn: &mut Turn) -> ClockError {
        match self.error {
            Some((error, at)) if now.abs_diff(at) < SECOND_NS => error,
            _ => {
                let error = turn.errors.pop_front().expect("the error of the clock is read again");
                self.error = Some((error, now));
                error
            }
        }
    }

    /// The number of the next reply of a session. `None`: there is no place for it.
    fn next_number(
        &mut self,
        datagram: &Datagram,
        session: u16,
        now: u64,
        has_one_set: bool,
        marks: &mut Marks,
    ) -> Option<u32> {
        let key = (datagram.source, Some(datagram.local), session);
        let is_live = |at: u64| now.abs_diff(at) < SESSION_NS;
        let known = self.sessions.get(&key).copied();
        let number = match known {
            Some((at, next)) if is_live(at) => next,
            _ => {
                let live = self.sessions.values().filter(|(at, _)| is_live(*at)).count();
                if has_one_set && live >= WAYS {
                    marks.hit(Mark::DatagramSessionsFull);
                    return None;
                }
                let is_new = known.is_none();
                marks.hit(if is_new { Mark::DatagramSession } else { Mark::DatagramSessionOver });
                0
            }
        };
        self.sessions.insert(key, (now, number + 1));
        Some(number)
    }
}

/// How many of these replies must leave as one message: those to one peer from one address that have
/// one length, and one more that is shorter.
fn run(replies: &[Reply]) -> usize {
    let first = &replies[0].datagram;
    let length = |reply: &Reply| reply.datagram.bytes.len();
    let has_its_way =
        |reply: &&Reply| (reply.datagram.to, reply.datagram.from) == (first.to, first.from);
    let way = replies.iter().take_while(has_its_way);
    let alike = way.clone().take_while(|reply| length(reply) == first.bytes.len()).count();
    let has_shorter =
        way.clone().nth(alike).is_some_and(|one| (1..first.bytes.len()).contains(&length(one)));
    let whole = alike + usize::from(has_shorter);
    let mut bytes = 0;
    let fits = |reply: &&Reply| {
        bytes += length(reply);
        bytes <= MESSAGE_BYTES_MAX
    };
    let count = replies[..whole].iter().take(SEGMENTS_MAX).take_while(fits).count();
    let is_run = count >= RUN_MIN && !first.bytes.is_empty();
    if is_run { count } else { 1 }
}

/// Why a datagram is refused (`docs/transports.md`).
fn refusal(datagram: &Datagram, own_port: u16) -> Option<Mark> {
    let port = datagram.source.port();
    match port {
        _ if !datagram.has_name => Some(Mark::DatagramNameless),
        _ if datagram.group.is_some() => Some(Mark::DatagramToMany),
        0..=1023 => Some(Mark::DatagramSystemPort),
        2049 => Some(Mark::DatagramNfsPort),
        _ if port == own_port => Some(Mark::DatagramOwnPort),
        _ => None,
    }
}

/// What the rude service does with a datagram, by its first byte.
pub(super) fn rude(bytes: &[u8]) -> Option<usize> {
    match bytes.first()? % 8 {
        0 => panic!("a service that panics"),
        1 => None,
        2 => Some(0),
        3 => Some(bytes.len() / 2),
        4 => Some(bytes.len() + 1),
        5 => Some(usize::MAX),
        _ => Some(bytes.len()),
    }
}

/// What must become of that.
fn rude_length(bytes: &[u8], marks: &mut Marks) -> Option<usize> {
    match bytes.first()? % 8 {
        0 => {
            marks.hit(Mark::DatagramServicePanic);
            None
        }
        4 | 5 => {
            marks.hit(Mark::DatagramTooLongReply);
            Some(bytes.len())
        }
        _ => rude(bytes),
    }
}
