//! One direction of the link: the fate of each packet, and when it leaves. There is no clock and
//! no socket here, so what happens depends only on the seed and on the times given.
//!
//! A packet that is not lost waits for the line, is on it for its bytes at the rate, and then
//! travels for its delay. The n-th packet has the same fate in every run with the same seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::rules::Rules;

/// Packets under way, at most. More are dropped, so that memory is bounded without a rate too.
const UNDER_WAY_MAX: usize = 200_000;

/// What happened to the packets of one direction. Each packet that came in, and each copy, is in
/// one of `delivered`, `lost`, `dropped`, `refused` and those that are still under way.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub delivered: u64,
    pub bytes_delivered: u64,
    pub lost: u64,
    /// Dropped because the queue was full.
    pub dropped: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Packets that were sent without their delay.
    pub sent_ahead: u64,
    /// Packets delivered after one that came in later (RFC 4737), without copies.
    pub reordered: u64,
    /// Packets that the kernel at the other end did not take.
    pub refused: u64,
}

/// One direction of the link. Times are since its start.
pub struct Direction {
    rules: Rules,
    rng: fastrand::Rng,
    /// When the line is free.
    line_free: Duration,
    /// When each packet that waits for the line will be on it.
    waiting: VecDeque<Duration>,
    under_way: BinaryHeap<Reverse<Packet>>,
    latest_due: Duration,
    /// The number of the latest packet that was delivered.
    newest: u64,
    pub counts: Counts,
}

/// A packet under way, ordered by the time when it leaves.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Packet {
    pub due: Duration,
    /// Of those that came in, from 1.
    number: u64,
    is_copy: bool,
    pub bytes: Vec<u8>,
}

impl Direction {
    /// Both directions of a link, whose packets have fates of their own. Generators with seeds in a
    /// row would not do: their draws are correlated, and delays there and back with them.
    pub fn both(rules: [Rules; 2], seed: u64) -> [Direction; 2] {
        let mut seeds = fastrand::Rng::with_seed(seed);
        rules.map(|rules| Direction::new(rules, seeds.fork()))
    }

    fn new(rules: Rules, rng: fastrand::Rng) -> Direction {
        Direction {
            rules,
            rng,
            line_free: Duration::ZERO,
            waiting: VecDeque::new(),
            under_way: BinaryHeap::new(),
            latest_due: Duration::ZERO,
            newest: 0,
            counts: Counts::default(),
        }
    }

    /// A packet has come in.
    pub fn enter(&mut self, now: Duration, bytes: &[u8]) {
        let Rules { delay, jitter, loss, duplicate, reorder, .. } = self.rules;
        // As many draws for each packet, so that the fate of one does not depend on others.
        let [lost, doubled, ahead, shift] = [(); 4].map(|()| self.rng.f64());
        self.counts.packets_in += 1;
        self.counts.bytes_in += bytes.len() as u64;
        if lost < loss {
            self.counts.lost += 1;
            return;
        }
        let Some(sent) = self.send(now, bytes.len()) else {
            self.counts.dropped += 1;
            return;
        };
        let mut due = sent + (delay + jitter.mul_f64(2.0 * shift)).saturating_sub(jitter);
        if ahead < reorder {
            self.counts.sent_ahead += 1;
            due = sent;
        } else if self.rules.in_order {
            due = due.max(self.latest_due);
            self.latest_due = due;
        }
        let packet = |is_copy| {
            Reverse(Packet { due, number: self.counts.packets_in, is_copy, bytes: bytes.into() })
        };
        self.under_way.push(packet(false));
        if doubled < duplicate {
            self.under_way.push(packet(true));
            self.counts.duplicated += 1;
        }
    }

    /// Puts a packet on the line, and returns when it will have been sent; `None` if there is no
    /// room for it.
    fn send(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        if self.under_way.len() >= UNDER_WAY_MAX {
            return None;
        }
        let Some(rate) = self.rules.rate else { return Some(now) };
        while self.waiting.front().is_some_and(|on_line| *on_line <= now) {
            self.waiting.pop_front();
        }
        if self.waiting.len() >= self.rules.limit {
            return None;
        }
        let on_line = self.line_free.max(now);
        self.waiting.push_back(on_line);
        self.line_free = on_line + Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        Some(self.line_free)
    }

    /// When the next packet leaves.
    pub fn next_due(&self) -> Option<Duration> {
        self.under_way.peek().map(|Reverse(packet)| packet.due)
    }

    /// The next packet that is due.
    pub fn leave(&mut self, now: Duration) -> Option<Packet> {
        if self.next_due()? > now {
            return None;
        }
        self.under_way.pop().map(|Reverse(packet)| packet)
    }

    /// The packet was handed over, or refused.
    pub fn handed_over(&mut self, packet: &Packet, is_taken: bool) {
        if !is_taken {
            self.counts.refused += 1;
            return;
        }
        self.counts.delivered += 1;
        self.counts.bytes_delivered += packet.bytes.len() as u64;
        self.counts.reordered += u64::from(packet.number < self.newest && !packet.is_copy);
        self.newest = self.newest.max(packet.number);
    }

    /// Packets that have not left.
    pub fn under_way(&self) -> u64 {
        self.under_way.len() as u64
    }

    pub fn assert_balanced(&self) {
        let Counts { packets_in, duplicated, delivered, lost, dropped, refused, .. } = self.counts;
        let ends = delivered + lost + dropped + refused + self.under_way();
        assert_eq!(packets_in + duplicated, ends, "{:?}", self.counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        rate: None,
        limit: 1_000,
        in_order: false,
    };

    fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// Sends a packet every so often; when each left, by its number, in the order of leaving.
    fn run(rules: Rules, seed: u64, packets: u64, every: Duration) -> (Direction, Vec<(u64, u64)>) {
        let mut direction = Direction::new(rules, fastrand::Rng::with_seed(seed));
        let mut left = Vec::new();
        let mut drain = |direction: &mut Direction, now| {
            while let Some(packet) = direction.leave(now) {
                direction.handed_over(&packet, true);
                left.push((packet.number, packet.due.as_nanos() as u64));
            }
        };
        for number in 0..packets {
            let now = every * number as u32;
            drain(&mut direction, now);
            direction.enter(now, &[0; 1_000]);
        }
        drain(&mut direction, Duration::MAX);
        direction.assert_balanced();
        (direction, left)
    }

    #[test]
    fn a_packet_leaves_after_its_delay() {
        let (direction, left) = run(Rules { delay: us(10_000), ..RULES }, 1, 100, us(1));
        let expected: Vec<_> = (1..=100).map(|n| (n, 10_000_000 + (n - 1) * 1_000)).collect();
        assert_eq!(left, expected);
        assert_eq!((direction.counts.delivered, direction.counts.reordered), (100, 0));
        assert_eq!(direction.counts.bytes_delivered, 100_000);
    }

    #[test]
    fn a_delay_with_jitter_is_evenly_distributed() {
        let rules = Rules { delay: us(10_000), jitter: us(1_000), ..RULES };
        let (_, left) = run(rules, 1, 100_000, us(3_000));
        let mut delays: Vec<_> = left.iter().map(|(n, due)| due - (n - 1) * 3_000_000).collect();
        delays.sort_unstable();
        for percent in 0..=100usize {
            let at = delays[percent * (delays.len() - 1) / 100] as f64;
            let expected = 9_000_000.0 + 20_000.0 * percent as f64;
            assert!((at - expected).abs() < 15_000.0, "p{percent}: {at}");
        }
        let short = Rules { delay: us(10), jitter: us(1_000), ..RULES };
        assert!(run(short, 1, 1_000, us(1)).1.iter().any(|(n, due)| *due == (n - 1) * 1_000));
    }

    #[test]
    fn jitter_reorders_unless_it_must_not() {
        let rules = Rules { delay: us(10_000), jitter: us(1_000), ..RULES };
        let (direction, left) = run(rules, 1, 10_000, us(100));
        // Those that come after one with a higher number.
        let mut newest = 0;
        let mut late = 0;
        for (number, _) in &left {
            late += u64::from(*number < newest);
            newest = newest.max(*number);
        }
        assert!(late > 5_000, "{late}");
        assert_eq!(direction.counts.reordered, late);
        let (direction, left) = run(Rules { in_order: true, ..rules }, 1, 10_000, us(100));
        assert!(left.is_sorted() && direction.counts.reordered == 0);
        assert!(left.is_sorted_by_key(|(_, due)| *due));
    }

    #[test]
    fn packets_are_lost_doubled_and_sent_ahead_as_often_as_asked_for() {
        let rules = Rules { delay: us(950), loss: 0.01, duplicate: 0.02, reorder: 0.03, ..RULES };
        let (direction, left) = run(rules, 7, 100_000, us(100));
        let Counts { lost, duplicated, sent_ahead, reordered, delivered, .. } = direction.counts;
        // Within four standard deviations.
        assert!(lost.abs_diff(1_000) < 130, "{lost}");
        assert!(duplicated.abs_diff(1_980) < 180, "{duplicated}");
        assert!(sent_ahead.abs_diff(2_970) < 220, "{sent_ahead}");
        assert_eq!(delivered, 100_000 - lost + duplicated);
        // Each overtakes the nine before it, of which some are lost and some were ahead too.
        assert!((7 * sent_ahead..9 * sent_ahead).contains(&reordered), "{reordered}");
        assert_eq!(left.len() as u64, delivered);
        let copies = left.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
        assert_eq!(copies, duplicated, "each is right behind its packet");
    }

    #[test]
    fn a_rate_spreads_packets_and_a_full_queue_drops_them() {
        // 8000 bits at 8 Mbit/s: one per millisecond.
        let rules = Rules { rate: Some(8_000_000), delay: us(500), limit: 10, ..RULES };
        let (direction, left) = run(rules, 1, 100, Duration::ZERO);
        // One is on the line, and ten wait.
        assert_eq!((direction.counts.dropped, direction.counts.delivered), (89, 11));
        let times: Vec<_> = left.iter().map(|(_, due)| due / 1_000).collect();
        assert_eq!(times, (1..=11).map(|ms| ms * 1_000 + 500).collect::<Vec<_>>());
        // Twice the rate: after the queue is full, one of two is dropped.
        let (direction, left) = run(rules, 1, 1_000, us(500));
        assert!(direction.counts.dropped.abs_diff(490) < 3, "{:?}", direction.counts);
        assert!(left.windows(2).all(|pair| pair[1].1 - pair[0].1 == 1_000_000), "{left:?}");
    }

    /// If they are, the sum of both delays is that of two independent ones, whose percentiles are known.
    #[test]
    fn delays_there_and_back_are_independent() {
        const PACKETS: usize = 20_000;
        let rules = Rules { delay: us(10_000), jitter: us(1_000), ..RULES };
        for seed in 1..=8 {
            let delays = Direction::both([rules; 2], seed).map(|mut direction| {
                let mut delays = vec![Duration::ZERO; PACKETS];
                (0..PACKETS).for_each(|_| direction.enter(Duration::ZERO, &[0]));
                while let Some(packet) = direction.leave(Duration::MAX) {
                    delays[packet.number as usize - 1] = packet.due;
                }
                delays
            });
            let mut sums: Vec<_> =
                delays[0].iter().zip(&delays[1]).map(|(there, back)| *there + *back).collect();
            sums.sort_unstable();
            for (part, known) in [(100, 18_283), (10, 18_894), (2, 20_000)] {
                for (at, known) in
                    [(PACKETS / part, known), (PACKETS - PACKETS / part, 40_000 - known)]
                {
                    let apart = sums[at].abs_diff(us(known));
                    assert!(apart < us(50), "seed {seed}: {apart:?} from {known} us");
                }
            }
        }
    }

    #[test]
    fn the_same_seed_has_the_same_fates_whenever_packets_come() {
        let rules = Rules { delay: us(500), loss: 0.1, duplicate: 0.1, ..RULES };
        let numbers = |seed, every| {
            let (_, left) = run(rules, seed, 1_000, every);
            left.iter().map(|(number, _)| *number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(5, us(1)), numbers(5, us(10_000)));
        assert_ne!(numbers(5, us(1)), numbers(6, us(1)));
    }

    #[test]
    fn memory_is_bounded_without_a_rate() {
        let mut direction =
            Direction::new(Rules { delay: us(1_000_000), ..RULES }, fastrand::Rng::with_seed(1));
        (0..UNDER_WAY_MAX + 5).for_each(|_| direction.enter(Duration::ZERO, &[0]));
        assert_eq!((direction.counts.dropped, direction.under_way()), (5, UNDER_WAY_MAX as u64));
        direction.assert_balanced();
    }
}
