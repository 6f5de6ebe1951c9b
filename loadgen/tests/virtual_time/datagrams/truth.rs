//! What a run must count, from the log of the network alone.

use std::collections::BTreeMap;

use echopool::internals::stamp::ErrorEstimate;
use echopool::time::Time;
use hdrhistogram::Histogram;
use loadgen::plan::Plan;
use loadgen::stats::datagram::DatagramRecords;
use loadgen::stats::records::{Records, latency_histogram};
use loadgen::traffic::datagram::remembered;

use super::marks::{Mark, Marks};
use super::network::{Damage, Event, Network, Reply};

/// The end that a datagram has had so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    None,
    Answered,
    Damaged,
    Lost,
    /// It was lost, and then its reply came.
    Late,
}

/// A socket.
#[derive(Default)]
struct Socket {
    ends: Vec<End>,
    /// The number after that of the latest datagram with a reply in time.
    answered_to: usize,
    answered: u64,
    recorded: u64,
    /// The times of the way there and back, in the order of the replies.
    transits: Vec<u64>,
    /// Right replies of a reflector that were read: packet, and the reflector's number.
    reflections: Vec<(usize, u64)>,
    /// Times of the replies that count: there and back, by both clocks.
    differences: Vec<[i64; 2]>,
    has_forgotten: bool,
}

/// What a run must have.
pub struct Truth<'a> {
    network: &'a Network,
    plan: &'a Plan,
    record_from: u64,
    end: u64,
    /// The intended time of each datagram of each socket.
    intended: Vec<Vec<u64>>,
    sockets: Vec<Socket>,
    looked_at: u64,
    counts: DatagramRecords,
    answered: Histogram<u64>,
    service: Histogram<u64>,
    /// The ages of datagrams whose reply was damaged, from the intended time.
    damaged: Histogram<u64>,
    replies: u64,
    replies_late: u64,
    bytes: u64,
    bytes_verified: u64,
    mismatches: u64,
    first_mismatches: Vec<(usize, Option<usize>, Vec<u8>)>,
    round_trip: Histogram<u64>,
    residence: Histogram<u64>,
    pub marks: Marks,
}

impl<'a> Truth<'a> {
    /// `schedules`: the intended times of an open loop in their order, of all sockets or of each one;
    /// none in a closed loop.
    pub fn new(
        network: &'a Network,
        plan: &'a Plan,
        began: Time,
        schedules: &[Vec<u64>],
    ) -> Truth<'a> {
        let record_from = began.as_nanos();
        let length = plan.duration.map(|duration| duration.as_nanos() as u64);
        let count = network.sent.len();
        let mut truth = Truth {
            network,
            plan,
            record_from,
            end: length.map_or(u64::MAX, |length| record_from + length),
            intended: vec![Vec::new(); count],
            sockets: (0..count).map(|_| Socket::default()).collect(),
            looked_at: 0,
            counts: DatagramRecords::default(),
            answered: latency_histogram(),
            service: latency_histogram(),
            damaged: latency_histogram(),
            replies: 0,
            replies_late: 0,
            bytes: 0,
            bytes_verified: 0,
            mismatches: 0,
            first_mismatches: Vec::new(),
            round_trip: latency_histogram(),
            residence: latency_histogram(),
            marks: network.marks,
        };
        truth.follow(schedules);
        truth
    }

    fn follow(&mut self, schedules: &[Vec<u64>]) {
        let mut nth = 0;
        for event in &self.network.log {
            match event {
                Event::Empty { at } => self.looked_at = self.looked_at.max(*at),
                Event::Sent { socket } => {
                    let number = self.sockets[*socket].ends.len();
                    let at = self.network.sent[*socket][number].at;
                    let intended = match schedules {
                        [] => at,
                        [shared] => shared[nth],
                        each => each[*socket][number],
                    };
                    self.sent(*socket, at, intended);
                    nth += 1;
                }
                Event::Read { socket, reply, at } => self.read(*socket, reply, *at),
            }
        }
        for socket in &mut self.sockets {
            for end in socket.ends.iter_mut().filter(|end| **end == End::None) {
                *end = End::Lost;
                self.counts.lost += 1;
                self.marks.add(Mark::Overdue);
            }
            let mut jitter = None;
            for pair in socket.transits.windows(2) {
                // RFC 3550, appendix A.8.
                let so_far = jitter.unwrap_or(0);
                jitter = Some(so_far + pair[0].abs_diff(pair[1]) - ((so_far + 8) >> 4));
            }
            if let Some(jitter) = jitter.map(|jitter| jitter >> 4) {
                self.counts.jitter_sum_ns += jitter;
                self.counts.jitter_max_ns = self.counts.jitter_max_ns.max(jitter);
                self.counts.jitter_sockets += 1;
            }
        }
        self.counts.errors = self.network.refused + self.network.reported;
    }

    fn sent(&mut self, socket: usize, at: u64, intended: u64) {
        assert!(intended <= at, "nothing is sent before its time");
        self.sockets[socket].ends.push(End::None);
        self.intended[socket].push(intended);
        self.counts.sent += 1;
        if intended < self.record_from {
            self.marks.add(Mark::WarmUp);
        } else if intended < at {
            self.marks.add(Mark::Delayed);
        }
    }

    fn read(&mut self, index: usize, reply: &Reply, at: u64) {
        let Some(number) = reply.claims else {
            self.marks.add(Mark::NoNumber);
            return self.corrupted(index, None, reply);
        };
        let next = self.sockets[index].ends.len();
        let is_forgotten = (number as u64 + remembered(self.plan.pipeline)) < next as u64;
        if is_forgotten {
            return self.forgotten(index, number, reply);
        }
        let sent = &self.network.sent[index][number];
        let timeout = self.network.drawn.timeout_ns;
        let is_overdue = self.looked_at > sent.at + timeout;
        if self.sockets[index].ends[number] == End::None {
            self.assert_in_time(sent.at, reply, at, is_overdue);
            if is_overdue {
                self.sockets[index].ends[number] = End::Lost;
                self.counts.lost += 1;
                self.marks.add(Mark::Overdue);
            }
        }
        let end = self.sockets[index].ends[number];
        let becomes = match (reply.damage, end) {
            (Damage::None, End::None) => {
                self.answered(index, number, at);
                End::Answered
            }
            (Damage::None, End::Lost) => {
                self.counts.late += 1;
                self.marks.add(Mark::AnsweredLate);
                End::Late
            }
            (Damage::None, end) => {
                self.counts.duplicated += 1;
                self.marks.add(Mark::AnsweredTwice);
                end
            }
            (damage, end) => {
                match damage {
                    Damage::Truncated => self.truncated(),
                    _ => self.corrupted(index, Some(number), reply),
                }
                if end == End::None {
                    self.damaged(index, number, at);
                    End::Damaged
                } else {
                    end
                }
            }
        };
        self.sockets[index].ends[number] = becomes;
        if reply.damage == Damage::None {
            self.reflected(index, number, reply, at, end == End::None);
        }
    }

    /// A reply whose datagram is no longer remembered. Whether it has had one is not known.
    fn forgotten(&mut self, index: usize, number: usize, reply: &Reply) {
        self.sockets[index].has_forgotten = true;
        self.marks.add(Mark::Forgotten);
        // What a packet of STAMP had in it is forgotten too.
        let damage = if self.network.drawn.is_stamp { Damage::None } else { reply.damage };
        if damage != Damage::None {
            self.marks.add(Mark::ForgottenAndDamaged);
        }
        match damage {
            Damage::None => self.counts.late += 1,
            Damage::Truncated => self.truncated(),
            Damage::Corrupted => self.corrupted(index, Some(number), reply),
        }
    }

    /// That a reply came in time is what the network says. Between two looks the generator cannot know
    /// it; the looks follow each other by an eighth of the time-out, if it is not paused.
    fn assert_in_time(&mut self, sent: u64, reply: &Reply, read: u64, is_overdue: bool) {
        let (timeout, arrived) = (self.network.drawn.timeout_ns, reply.arrived);
        if read > arrived {
            self.marks.add(Mark::ReadAfterAPause);
        }
        if arrived <= sent + timeout {
            assert!(!is_overdue, "it came in time, whenever it is read");
        }
        let never_paused = !self.network.has_paused();
        if never_paused && arrived > sent + timeout + self.interval() {
            assert!(is_overdue, "it was late");
        }
    }

    /// Between two searches for what is overdue, at most, in nanoseconds.
    fn interval(&self) -> u64 {
        (self.network.drawn.timeout_ns / 8).clamp(1_000_000, 100_000_000) + 1_000
    }

    fn answered(&mut self, index: usize, number: usize, at: u64) {
        let sent = &self.network.sent[index][number];
        let intended = self.intended[index][number];
        let socket = &mut self.sockets[index];
        self.marks.add(Mark::Answered);
        socket.answered += 1;
        if number < socket.answered_to {
            self.counts.out_of_order += 1;
            self.marks.add(Mark::OutOfOrder);
        }
        socket.answered_to = socket.answered_to.max(number + 1);
        socket.transits.push(at - sent.at);
        let in_period = (self.record_from..self.end).contains(&at);
        self.bytes_verified += sent.bytes.len() as u64;
        if in_period {
            self.bytes += sent.bytes.len() as u64;
        }
        if intended < self.record_from {
            return;
        }
        socket.recorded += 1;
        self.answered.saturating_record(at - intended);
        self.service.saturating_record(at - sent.at);
        match in_period {
            true => self.replies += 1,
            false => {
                self.replies_late += 1;
                self.marks.add(Mark::AfterThePeriod);
            }
        }
    }

    fn damaged(&mut self, index: usize, number: usize, at: u64) {
        let intended = self.intended[index][number];
        if intended >= self.record_from {
            self.damaged.saturating_record(at - intended);
        }
    }

    fn truncated(&mut self) {
        self.counts.truncated += 1;
        self.marks.add(Mark::ReplyTruncated);
    }

    fn corrupted(&mut self, index: usize, number: Option<usize>, reply: &Reply) {
        self.counts.corrupted += 1;
        self.mismatches += 1;
        self.marks.add(Mark::ReplyCorrupted);
        self.first_mismatches.push((index, number, reply.bytes.clone()));
    }

    /// A right reply of a reflector.
    fn reflected(&mut self, index: usize, number: usize, reply: &Reply, at: u64, is_first: bool) {
        let Some(reflected) = reply.reflected else { return };
        let socket = &mut self.sockets[index];
        socket.reflections.push((number, reflected.number));
        if !is_first || self.intended[index][number] < self.record_from {
            return;
        }
        let sent = self.network.sent[index][number].at;
        let returned = if self.network.drawn.kernel_times { reply.arrived } else { at };
        let residence = reflected.replied - reflected.received;
        self.residence.saturating_record(residence);
        self.round_trip.saturating_record(returned - sent - residence);
        let ahead = self.network.drawn.reflector_ahead_ns;
        let there = (reflected.received - sent) as i64 + ahead;
        let back = (returned - reflected.replied) as i64 - ahead;
        socket.differences.push([there, back]);
    }

    /// Compares what a run has counted with this.
    #[track_caller]
    pub fn compare(&mut self, records: &Records, schedules: &[Vec<u64>]) {
        let counts = records.datagrams.expect("a run over UDP");
        assert_eq!(counts, self.counts);
        self.compare_requests(records, schedules);
        self.compare_times(records);
        self.compare_mismatches(records);
        self.compare_sockets(records);
        match self.network.drawn.is_stamp {
            true => self.compare_stamp(records),
            false => assert!(records.stamp.is_none()),
        }
    }

    fn recorded(&self, of: impl Fn(End) -> bool) -> u64 {
        let each = self.sockets.iter().zip(&self.intended).flat_map(|(socket, intended)| {
            socket.ends.iter().zip(intended).filter(|(_, at)| **at >= self.record_from)
        });
        each.filter(|(end, _)| of(**end)).count() as u64
    }

    fn compare_requests(&mut self, records: &Records, schedules: &[Vec<u64>]) {
        let sent = |nth: usize| match schedules.len() {
            1 => self.counts.sent as usize,
            // One that was not opened has a schedule too.
            _ => self.sockets.get(nth).map_or(0, |socket| socket.ends.len()),
        };
        let unsent = schedules.iter().enumerate().flat_map(|(nth, one)| &one[sent(nth)..]);
        let never_sent = unsent.filter(|at| **at >= self.record_from).count() as u64;
        if never_sent > 0 {
            self.marks.add(Mark::NeverSent);
        }
        let requests = self.recorded(|_| true);
        let seen = [
            records.requests,
            records.warmup_requests,
            records.offered,
            records.never_sent,
            records.replies,
            records.replies_late,
            records.timed_out,
            records.unanswered,
            records.bytes,
            records.bytes_verified,
            records.mismatches,
        ];
        let expected = [
            requests,
            self.counts.sent - requests,
            requests + never_sent,
            never_sent,
            self.replies,
            self.replies_late,
            self.recorded(|end| matches!(end, End::Lost | End::Late)),
            self.damaged.len(),
            self.bytes,
            self.bytes_verified,
            self.mismatches,
        ];
        assert_eq!(seen, expected, "requests, warm-up, offered, never sent, replies, late, ...");
    }

    fn compare_times(&self, records: &Records) {
        let without = |all: &Histogram<u64>, part: &Histogram<u64>| {
            let mut rest = all.clone();
            rest.subtract(part).expect("the part is in it");
            rest
        };
        let answered = without(&records.latency, &records.unfinished);
        assert!(answered == self.answered, "the latencies are those of the network");
        // What is left are ages of datagrams that were lost, or never sent.
        let ages = without(&records.unfinished, &self.damaged);
        assert_eq!(ages.len(), records.timed_out + records.never_sent);
        let service = without(&records.service_time, &self.service);
        assert_eq!(service.len(), records.timed_out + records.unanswered);
        let mut lag = latency_histogram();
        for (sent, intended) in self.network.sent.iter().zip(&self.intended) {
            let recorded = sent.iter().zip(intended).filter(|(_, at)| **at >= self.record_from);
            recorded.for_each(|(sent, at)| lag.saturating_record(sent.at - at));
        }
        match self.plan.open_loop {
            Some(_) => assert!(records.send_lag == lag, "the lags"),
            None => assert!(records.send_lag.is_empty()),
        }
        let is_exact = !self.network.has_paused() && self.plan.open_loop.is_none();
        if is_exact && records.timed_out > 0 {
            let timeout = self.network.drawn.timeout_ns;
            let longest = timeout + 2 * self.interval();
            assert!(ages.min() + ages.min() / 1_000 >= timeout, "{} is no time-out", ages.min());
            assert!(ages.max() <= longest + longest / 500, "{} is found late", ages.max());
        }
    }

    /// The place of each socket among those of the plan: one that was not opened has none.
    fn place(&self, records: &Records, index: usize) -> Option<u64> {
        records.connect_errors.is_empty().then_some(index as u64)
    }

    fn compare_mismatches(&self, records: &Records) {
        for (seen, (index, number, bytes)) in
            records.first_mismatches.iter().zip(&self.first_mismatches)
        {
            if let Some(place) = self.place(records, *index) {
                assert_eq!(seen.connection, place);
            }
            assert_eq!(seen.request, number.unwrap_or(0) as u64);
            let at = seen.request_offset as usize;
            let end = bytes.len().min(at + 16);
            assert_eq!(seen.actual, bytes[at.min(end)..end], "what came from byte {at} on");
            let Some(number) = number else { continue };
            let sent = &self.network.sent[*index][*number].bytes;
            // A reflector copies the first 14 bytes to byte 24.
            let expected = match self.network.drawn.is_stamp {
                true => at.checked_sub(24).map_or(&[][..], |from| &sent[from..14]),
                false => &sent[at.min(sent.len())..sent.len().min(at + 16)],
            };
            assert_eq!(seen.expected, expected, "what was to come from byte {at} on");
            if let (Some(came), Some(sent)) = (seen.actual.first(), seen.expected.first()) {
                assert_ne!(came, sent, "byte {at} differs");
            }
        }
    }

    fn compare_sockets(&self, records: &Records) {
        let replies: Vec<u64> = self.sockets.iter().map(|socket| socket.answered).collect();
        assert_eq!(records.replies_each, replies);
        assert_eq!(records.established, self.sockets.len() as u64);
        let mut errors = BTreeMap::new();
        if self.network.open_failed > 0 {
            errors.insert(24, self.network.open_failed);
        }
        assert_eq!(records.connect_errors, errors);
        if self.network.open_failed > 0 {
            return;
        }
        for (nth, target) in records.targets.iter().enumerate() {
            let own = self.sockets.iter().skip(nth).step_by(records.targets.len());
            let (mut served, mut completed) = (0, 0);
            for socket in own {
                served += u64::from(socket.answered > 0);
                completed += socket.recorded;
            }
            assert_eq!((target.served, target.completed), (served, completed), "target {nth}");
        }
    }

    fn compare_stamp(&mut self, records: &Records) {
        let stamp = records.stamp.as_ref().expect("a run against a reflector");
        let drawn = &self.network.drawn;
        assert!(stamp.round_trip == self.round_trip, "without the time in the reflector");
        assert!(stamp.residence == self.residence);
        let mut negative = 0;
        let mut sums = ([0; 2], [0; 2], 0);
        for direction in 0..2 {
            let (mut delay, mut variation) = (latency_histogram(), latency_histogram());
            sums.2 = 0;
            for socket in &self.sockets {
                let of = || socket.differences.iter().map(|both| both[direction]);
                of().for_each(|one| delay.saturating_record(one.max(0) as u64));
                negative += of().filter(|one| *one < 0).count() as u64;
                let mut jitter = None;
                for (one, next) in of().zip(of().skip(1)) {
                    variation.saturating_record(one.abs_diff(next));
                    let so_far = jitter.unwrap_or(0);
                    jitter = Some(so_far + one.abs_diff(next) - ((so_far + 8) >> 4));
                }
                if let Some(jitter) = jitter.map(|jitter| jitter >> 4) {
                    sums.0[direction] += jitter;
                    sums.1[direction] = sums.1[direction].max(jitter);
                    sums.2 += 1;
                }
            }
            assert!(stamp.delay[direction] == delay, "delay in direction {direction}");
            assert!(stamp.variation[direction] == variation, "its variation");
        }
        assert_eq!((stamp.jitter_sum, stamp.jitter_max, stamp.jitter_sockets), sums);
        assert_eq!(stamp.negative, negative);
        if negative > 0 {
            self.marks.add(Mark::DelayBelowZero);
        }
        let replies = !self.round_trip.is_empty();
        let admitted = ErrorEstimate::decode(drawn.reflector_error.encode()).expect("an error");
        let own = drawn.own_error;
        let largest = own.error_ns + if replies { admitted.error_ns } else { 0 };
        assert_eq!(stamp.error_ns, largest);
        assert_eq!(stamp.own_synchronized, own.is_synchronized);
        assert_eq!(stamp.reflector_synchronized, !replies || admitted.is_synchronized);
        assert_eq!(stamp.is_utc, !replies || admitted.format == Default::default());
        if stamp.disagreement().is_some() {
            self.marks.add(Mark::ClocksDiffer);
        }
        self.compare_directions(records);
    }

    fn compare_directions(&mut self, records: &Records) {
        let stamp = records.stamp.as_ref().expect("a run against a reflector");
        if self.sockets.iter().any(|socket| socket.has_forgotten) {
            return;
        }
        let differs = |socket: &Socket| socket.reflections.iter().any(|(a, b)| *a as u64 != *b);
        assert_eq!(stamp.has_own_numbers, self.sockets.iter().any(differs));
        let mut seen = stamp.directions;
        if !self.network.drawn.is_stateful {
            return;
        }
        assert!(!stamp.numbers_began_anew);
        let mut doubt = false;
        let (mut lost, mut unknown, mut doubled) = ([0; 2], 0, [0; 2]);
        for (index, socket) in self.sockets.iter().enumerate() {
            let of = Directions::new(socket, &self.network.receptions[index]);
            doubt |= of.is_doubtful();
            // What cannot be known from the numbers: packets that overtook the last ones, and
            // doubled ones of which one reply was lost.
            lost[0] += (of.lost[0] + of.behind).saturating_sub(of.ahead + of.unseen);
            lost[1] += of.lost[1];
            unknown += socket.ends.len() as u64 - of.packets;
            doubled[0] += of.doubled[0];
            doubled[1] += of.doubled[1];
        }
        assert_eq!((seen.lost, seen.lost_unknown, seen.doubled), (lost, unknown, doubled));
        self.marks.add(match doubt {
            true => Mark::DirectionsWithADoubt,
            false => Mark::ExactDirections,
        });
        if !doubt && std::mem::take(&mut seen.lost) > [0; 2] {
            self.marks.add(Mark::LostInADirection);
        }
    }
}

/// What happened to the packets of one socket, up to the last one with a reply.
struct Directions {
    packets: u64,
    lost: [u64; 2],
    doubled: [u64; 2],
    /// Packets that reached the reflector after the last of its numbers that came back; those after
    /// the last packet with a reply that reached it before; and second copies of a packet of which
    /// not both replies came back.
    behind: u64,
    ahead: u64,
    unseen: u64,
}

impl Directions {
    /// `receptions`: the packets in the order in which they reached the reflector.
    fn new(socket: &Socket, receptions: &[usize]) -> Directions {
        let packets = socket.reflections.iter().map(|(packet, _)| packet + 1).max().unwrap_or(0);
        let numbers = socket.reflections.iter().map(|(_, number)| number + 1).max().unwrap_or(0);
        let numbers = numbers as usize;
        let mut came = vec![0u64; receptions.len()];
        socket.reflections.iter().for_each(|(_, number)| came[*number as usize] += 1);
        let mut of = Directions {
            packets: packets as u64,
            lost: [packets as u64, 0],
            doubled: [0; 2],
            behind: 0,
            ahead: 0,
            unseen: 0,
        };
        let mut first = BTreeMap::new();
        for (number, packet) in receptions.iter().enumerate() {
            let is_known = number < numbers;
            let earlier = first.insert(*packet, number);
            if *packet < packets && earlier.is_none() {
                of.lost[0] -= 1;
                of.behind += u64::from(!is_known);
            } else if earlier.is_none() {
                of.ahead += u64::from(is_known);
            } else if is_known {
                let both_came = came[number] > 0 && earlier.is_some_and(|one| came[one] > 0);
                of.doubled[0] += u64::from(both_came);
                of.unseen += u64::from(!both_came);
            }
            if is_known {
                of.lost[1] += u64::from(came[number] == 0);
                of.doubled[1] += came[number].saturating_sub(1);
            }
        }
        of
    }

    fn is_doubtful(&self) -> bool {
        self.behind + self.ahead + self.unseen > 0
    }
}
