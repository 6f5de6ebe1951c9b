//! What the replies of a STAMP reflector show about each direction, and about the time in the
//! reflector itself.

use echopool::internals::ClockError;
use echopool::internals::stamp::{ErrorEstimate, Format, Reflection};
use hdrhistogram::Histogram;

use super::datagram::Jitter;
use super::records::{histogram_bytes, latency_histogram};

/// A newer packet's number of the reflector is at most this far behind its highest one, however much
/// the network reorders.
const REORDERED_MAX: u64 = 1_000;

/// Added to the difference of two clocks, which can be negative, where only its changes count.
const BIAS: i64 = 1 << 62;

/// The four times of a packet and its reply, in nanoseconds since 1970. The first and the last are
/// those of this machine's clock, the others those of the reflector's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StampTimes {
    pub sent: u64,
    pub received: u64,
    pub replied: u64,
    pub returned: u64,
}

impl StampTimes {
    /// The time in the reflector.
    fn residence(&self) -> u64 {
        self.replied.saturating_sub(self.received)
    }

    /// The round trip without the time in the reflector. Each difference is one of a single clock.
    fn round_trip(&self) -> u64 {
        self.returned.saturating_sub(self.sent).saturating_sub(self.residence())
    }

    /// How much later it was received than sent, if both clocks agree.
    fn there(&self) -> i64 {
        self.received.wrapping_sub(self.sent) as i64
    }

    /// The same for the reply.
    fn back(&self) -> i64 {
        self.returned.wrapping_sub(self.replied) as i64
    }
}

/// What a socket counts of its replies.
#[derive(Clone, Copy, Default, Debug)]
pub struct Session {
    /// The number after the highest one that the reflector gave to a reply.
    reflected_to: u64,
    /// Replies with different numbers of the reflector.
    received: u64,
    /// The number after that of the latest packet with a reply.
    answered_to: u64,
    doubled_there: u64,
    doubled_back: u64,
    /// Number 0 has come back.
    has_begun: bool,
    /// The reflector has forgotten the session, and began again with number 0.
    began_anew: bool,
    /// The differences of the last reply, in each direction.
    last: Option<[i64; 2]>,
    jitter: [Jitter; 2],
}

impl Session {
    /// A reply to packet `number`, to which the reflector gave the number `reflected`. `earlier`: that
    /// of an earlier reply to the same packet.
    pub fn reply(&mut self, number: u64, reflected: u64, earlier: Option<u64>) {
        let is_newest = number >= self.answered_to;
        let fell_back = reflected + REORDERED_MAX < self.reflected_to;
        self.began_anew |= is_newest && (fell_back || self.has_begun && reflected == 0);
        self.has_begun |= reflected == 0;
        self.answered_to = self.answered_to.max(number + 1);
        self.reflected_to = self.reflected_to.max(reflected + 1);
        if earlier == Some(reflected) {
            self.doubled_back += 1;
            return;
        }
        self.received += 1;
        self.doubled_there += u64::from(earlier.is_some());
    }

    /// The number of the reflector that has these last 32 bits, and is the nearest to its highest.
    pub fn reflected(&self, number: u32) -> u64 {
        let ahead = number.wrapping_sub(self.reflected_to as u32) as i32;
        self.reflected_to.saturating_add_signed(ahead.into())
    }
}

/// Losses by direction.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Directions {
    /// Packets that the reflector did not receive, and replies that did not come back.
    pub lost: [u64; 2],
    /// Packets after the last one with a reply: they may have been lost in either direction.
    pub lost_unknown: u64,
    /// Packets that the reflector received twice, and replies that came back twice.
    pub doubled: [u64; 2],
}

/// The measurements of one thread or of all threads. Times are in nanoseconds.
pub struct StampRecords {
    /// From the packet's departure to the reply's return, without the time in the reflector.
    pub round_trip: Histogram<u64>,
    /// From the packet's arrival at the reflector to the reply's departure.
    pub residence: Histogram<u64>,
    /// The delay in each direction, as the two clocks say.
    pub delay: [Histogram<u64>; 2],
    /// How much the delays of two replies that follow each other differ, in each direction.
    pub variation: [Histogram<u64>; 2],
    /// Of the sockets' jitter in each direction: the sum, and the largest.
    pub jitter_sum: [u64; 2],
    pub jitter_max: [u64; 2],
    /// Sockets with a jitter.
    pub jitter_sockets: u64,
    /// Counted from the reflector's own numbers.
    pub directions: Directions,
    /// Whether a reply had another number than its packet. A stateless reflector gives none.
    pub has_own_numbers: bool,
    /// Whether the reflector has forgotten a session and numbered its replies from 0 again, so that
    /// `directions` mean nothing.
    pub numbers_began_anew: bool,
    /// Whether this machine's clock is synchronized, and whether all replies said so of theirs.
    pub own_synchronized: bool,
    pub reflector_synchronized: bool,
    /// Whether all replies had times of NTP, which are those of UTC.
    pub is_utc: bool,
    /// The largest error that both clocks together admit.
    pub error_ns: u64,
    /// Delays below zero: proof that the clocks do not agree.
    pub negative: u64,
}

impl StampRecords {
    /// Empty records of a thread whose clock has this error.
    pub fn new(clock: ClockError) -> StampRecords {
        StampRecords {
            round_trip: latency_histogram(),
            residence: latency_histogram(),
            delay: [latency_histogram(), latency_histogram()],
            variation: [latency_histogram(), latency_histogram()],
            jitter_sum: [0; 2],
            jitter_max: [0; 2],
            jitter_sockets: 0,
            directions: Directions::default(),
            has_own_numbers: false,
            numbers_began_anew: false,
            own_synchronized: clock.is_synchronized,
            reflector_synchronized: true,
            is_utc: true,
            error_ns: clock.error_ns,
            negative: 0,
        }
    }

    /// Memory of the histograms, in bytes.
    pub fn bytes() -> u64 {
        6 * histogram_bytes(&latency_histogram())
    }

    /// Records the times of a reply. `own`: the error of this machine's clock, in nanoseconds.
    pub fn reply(
        &mut self,
        session: &mut Session,
        times: &StampTimes,
        error: &ErrorEstimate,
        own: u64,
    ) {
        self.round_trip.saturating_record(times.round_trip());
        self.residence.saturating_record(times.residence());
        self.reflector_synchronized &= error.is_synchronized;
        self.is_utc &= error.format == Format::Ntp;
        self.error_ns = self.error_ns.max(error.error_ns.saturating_add(own));
        let differences = [times.there(), times.back()];
        let last = session.last.replace(differences);
        for (direction, difference) in differences.into_iter().enumerate() {
            self.negative += u64::from(difference < 0);
            self.delay[direction].saturating_record(difference.max(0) as u64);
            session.jitter[direction].reply(difference.wrapping_add(BIAS) as u64);
            if let Some(last) = last {
                let variation = difference.abs_diff(last[direction]);
                self.variation[direction].saturating_record(variation);
            }
        }
    }

    /// Adds what a socket has counted, after it has sent `sent` packets.
    pub fn end(&mut self, session: &Session, sent: u64) {
        let Session { reflected_to, received, answered_to, doubled_there, doubled_back, .. } =
            *session;
        let reflected = reflected_to.saturating_sub(doubled_there);
        self.numbers_began_anew |= session.began_anew;
        let directions = &mut self.directions;
        directions.lost[0] += answered_to.saturating_sub(reflected);
        directions.lost[1] += reflected_to.saturating_sub(received);
        directions.lost_unknown += sent - answered_to;
        directions.doubled[0] += doubled_there;
        directions.doubled[1] += doubled_back;
        if let [Some(there), Some(back)] = session.jitter.map(|jitter| jitter.nanos()) {
            self.jitter_sockets += 1;
            for (direction, jitter) in [there, back].into_iter().enumerate() {
                self.jitter_sum[direction] += jitter;
                self.jitter_max[direction] = self.jitter_max[direction].max(jitter);
            }
        }
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, other: &StampRecords) {
        let histograms = |of: &mut Histogram<u64>, other: &Histogram<u64>| {
            of.add(other).expect("the bounds are equal");
        };
        histograms(&mut self.round_trip, &other.round_trip);
        histograms(&mut self.residence, &other.residence);
        let (own, others) = (&mut self.directions, &other.directions);
        own.lost_unknown += others.lost_unknown;
        for at in 0..2 {
            histograms(&mut self.delay[at], &other.delay[at]);
            histograms(&mut self.variation[at], &other.variation[at]);
            self.jitter_sum[at] += other.jitter_sum[at];
            self.jitter_max[at] = self.jitter_max[at].max(other.jitter_max[at]);
            own.lost[at] += others.lost[at];
            own.doubled[at] += others.doubled[at];
        }
        self.jitter_sockets += other.jitter_sockets;
        self.has_own_numbers |= other.has_own_numbers;
        self.numbers_began_anew |= other.numbers_began_anew;
        self.own_synchronized &= other.own_synchronized;
        self.reflector_synchronized &= other.reflector_synchronized;
        self.is_utc &= other.is_utc;
        self.error_ns = self.error_ns.max(other.error_ns);
        self.negative += other.negative;
    }

    /// The mean over the sockets of the jitter in a direction.
    pub fn jitter(&self, direction: usize) -> u64 {
        self.jitter_sum[direction] / self.jitter_sockets.max(1)
    }

    /// Why the delays of a direction mean nothing. `None`: the clocks agree.
    pub fn disagreement(&self) -> Option<&'static str> {
        match self {
            _ if self.round_trip.is_empty() => Some("there was no reply"),
            _ if !self.own_synchronized => Some("this machine's clock is not synchronized"),
            _ if !self.reflector_synchronized => Some("the reflector's clock is not synchronized"),
            _ if !self.is_utc => Some("the reflector's times are those of PTP, and not UTC"),
            _ if self.negative > 0 => Some("some delays are negative"),
            _ => None,
        }
    }
}

/// The times of a reply.
pub fn times(reflection: &Reflection, sent: u64, returned: u64) -> StampTimes {
    let Reflection { received_unix_ns: received, sent_unix_ns: replied, .. } = *reflection;
    StampTimes { sent, received, replied, returned }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: ClockError = ClockError { is_synchronized: true, error_ns: 1_000 };
    const ERROR: ErrorEstimate =
        ErrorEstimate { is_synchronized: true, format: Format::Ntp, error_ns: 2_000 };

    fn at(there: i64, residence: u64, back: u64) -> StampTimes {
        let sent = 1_000_000_000;
        let received = sent + 1_000_000 + there as u64;
        let replied = received + residence;
        // The reflector's clock is a millisecond ahead.
        StampTimes { sent, received, replied, returned: replied + back - 1_000_000 }
    }

    #[test]
    fn the_time_in_the_reflector_is_not_of_the_round_trip() {
        let mut records = StampRecords::new(CLOCK);
        let mut session = Session::default();
        for (there, residence, back) in [(300, 5_000, 400), (500, 7_000, 400), (500, 10, 100)] {
            records.reply(&mut session, &at(there, residence, back), &ERROR, 1_000);
        }
        let values = |histogram: &Histogram<u64>| (histogram.min(), histogram.max());
        assert_eq!(values(&records.round_trip), (600, 900));
        assert_eq!(records.residence.min(), 10);
        // The offset of the clocks is not in the variation.
        assert_eq!(values(&records.variation[0]), (0, 200));
        assert_eq!(values(&records.variation[1]), (0, 300));
        assert_eq!((records.variation[0].len(), records.error_ns), (2, 3_000));
        assert_eq!(records.negative, 3, "each reply returned before it was sent");
        assert_eq!(records.disagreement(), Some("some delays are negative"));
        records.end(&session, 3);
        // A sixteenth of 200, which decays once, and a sixteenth of 300.
        assert_eq!([records.jitter(0), records.jitter(1)], [11, 18]);
    }

    /// As if the clocks were a little apart: the delay is below zero, and then above.
    #[test]
    fn jitter_does_not_depend_on_the_offset_of_the_clocks() {
        let mut records = StampRecords::new(CLOCK);
        let mut session = Session::default();
        for received in [900, 1_700] {
            let times = StampTimes { sent: 1_000, received, replied: 2_000, returned: 2_000 };
            records.reply(&mut session, &times, &ERROR, 0);
        }
        records.end(&session, 2);
        assert_eq!([records.jitter(0), records.jitter(1)], [800 / 16, 0]);
    }

    #[test]
    fn the_memory_is_that_of_the_histograms() {
        let StampRecords { round_trip, residence, delay, variation, .. } = StampRecords::new(CLOCK);
        let all = [round_trip, residence].into_iter().chain(delay).chain(variation);
        let bytes = all.map(|histogram| histogram_bytes(&histogram));
        assert_eq!(StampRecords::bytes(), bytes.sum::<u64>());
    }

    #[test]
    fn each_number_of_another_thread_is_added_by_itself() {
        let of = |jitter_sum, jitter_sockets, negative| {
            let mut records = StampRecords::new(CLOCK);
            (records.jitter_sum, records.jitter_max) = (jitter_sum, jitter_sum);
            (records.jitter_sockets, records.negative) = (jitter_sockets, negative);
            records
        };
        let mut sum = of([100, 300], 1, 5);
        sum.merge(&of([700, 900], 3, 6));
        assert_eq!((sum.jitter_sum, sum.jitter_max), ([800, 1_200], [700, 900]));
        assert_eq!((sum.jitter_sockets, sum.negative), (4, 11));
        assert_eq!([sum.jitter(0), sum.jitter(1)], [200, 300]);
    }

    /// What one thread has seen holds for all: a clock that does not agree, or a number that tells
    /// that the reflector has its own.
    #[test]
    fn what_one_thread_has_seen_holds_for_all() {
        type Seen = (fn(&mut StampRecords), fn(&StampRecords) -> bool);
        let seen: [Seen; 5] = [
            (|records| records.has_own_numbers = true, |sum| sum.has_own_numbers),
            (|records| records.numbers_began_anew = true, |sum| sum.numbers_began_anew),
            (|records| records.own_synchronized = false, |sum| !sum.own_synchronized),
            (|records| records.reflector_synchronized = false, |sum| !sum.reflector_synchronized),
            (|records| records.is_utc = false, |sum| !sum.is_utc),
        ];
        for (nth, (see, is_seen)) in seen.into_iter().enumerate() {
            let (neither, mut one) = (StampRecords::new(CLOCK), StampRecords::new(CLOCK));
            see(&mut one);
            let merged = |first: &StampRecords, second: &StampRecords| {
                let mut sum = StampRecords::new(CLOCK);
                sum.merge(first);
                sum.merge(second);
                is_seen(&sum)
            };
            let all = [(&neither, &neither), (&neither, &one), (&one, &neither)];
            assert_eq!(all.map(|(a, b)| merged(a, b)), [false, true, true], "{nth}");
        }
    }

    #[test]
    fn a_socket_has_a_jitter_after_two_replies_and_a_delay_of_zero_is_not_below_it() {
        let mut records = StampRecords::new(CLOCK);
        let times = StampTimes { sent: 100, received: 100, replied: 400, returned: 400 };
        for replies in [1, 2] {
            let mut session = Session::default();
            for _ in 0..replies {
                records.reply(&mut session, &times, &ERROR, 0);
            }
            records.end(&session, replies);
            assert_eq!(records.jitter_sockets, replies - 1);
        }
        assert_eq!((records.negative, records.disagreement()), (0, None));
    }

    #[test]
    fn delays_count_if_the_clocks_agree() {
        let one = |clock, error| {
            let mut records = StampRecords::new(clock);
            let times = StampTimes { sent: 100, received: 300, replied: 400, returned: 450 };
            records.reply(&mut Session::default(), &times, &error, 0);
            assert_eq!(records.delay.each_ref().map(|delay| delay.max()), [200, 50]);
            records.disagreement()
        };
        let off = ClockError { is_synchronized: false, ..CLOCK };
        assert_eq!(one(CLOCK, ERROR), None);
        assert!(one(off, ERROR).is_some_and(|why| why.starts_with("this machine")));
        let not = ErrorEstimate { is_synchronized: false, ..ERROR };
        assert!(one(CLOCK, not).is_some_and(|why| why.starts_with("the reflector's clock")));
        let ptp = ErrorEstimate { format: Format::Ptp, ..ERROR };
        assert!(one(CLOCK, ptp).is_some_and(|why| why.contains("PTP")));
        assert!(StampRecords::new(CLOCK).disagreement().is_some());
    }

    #[test]
    fn each_loss_and_each_double_has_its_direction() {
        let mut session = Session::default();
        // 0 comes back. 1 is lost there. The reply to 2 is lost. 3 is doubled there, 4 on the way
        // back. 5 and 6 swap, and nothing is known of 7 and 8.
        for (number, reflected, earlier) in [
            (0, 0, None),
            (3, 2, None),
            (3, 3, Some(2)),
            (4, 4, None),
            (4, 4, Some(4)),
            (6, 5, None),
            (5, 6, None),
        ] {
            session.reply(number, reflected, earlier);
        }
        let mut records = StampRecords::new(CLOCK);
        records.end(&session, 9);
        let expected = Directions { lost: [1, 1], lost_unknown: 2, doubled: [1, 1] };
        assert_eq!(records.directions, expected);
        let mut sum = StampRecords::new(CLOCK);
        sum.merge(&records);
        sum.merge(&records);
        let twice = Directions { lost: [2, 2], lost_unknown: 4, doubled: [2, 2] };
        assert_eq!(sum.directions, twice);
    }

    #[test]
    fn a_reflector_that_has_forgotten_the_session_is_noticed() {
        let began_anew = |replies: &[(u64, u32)]| {
            let mut session = Session::default();
            for &(number, reflected) in replies {
                session.reply(number, session.reflected(reflected), None);
            }
            let mut records = StampRecords::new(CLOCK);
            records.end(&session, 10_000);
            let mut sum = StampRecords::new(CLOCK);
            sum.merge(&records);
            sum.numbers_began_anew
        };
        assert!(began_anew(&[(0, 0), (1, 1), (2, 0)]));
        assert!(began_anew(&[(0, 0), (5_000, 4_000), (5_001, 0)]));
        assert!(began_anew(&[(9, 5), (5_000, 4_000), (5_009, 7)]), "the first replies were lost");
        // Doubled, late, or overtaken by as much as can be.
        assert!(!began_anew(&[(0, 0), (0, 0), (1, 1), (0, 0), (2, 2)]));
        assert!(!began_anew(&[(1, 0), (0, 1), (2, 2)]));
        assert!(!began_anew(&[(1, 1), (2, 2), (5, 0), (6, 3)]));
        assert!(!began_anew(&[(4_000, 4_000), (4_001, 3_001), (9, 9)]));
    }

    #[test]
    fn numbers_of_the_reflector_go_on_after_32_bits() {
        let mut session = Session::default();
        assert_eq!(session.reflected(3), 3);
        session.reply(0, u64::from(u32::MAX) - 1, None);
        assert_eq!(session.reflected(1), (1 << 32) + 1);
        assert_eq!(session.reflected(u32::MAX - 5), u64::from(u32::MAX) - 5);
    }
}
