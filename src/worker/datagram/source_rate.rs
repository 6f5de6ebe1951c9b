//! How many datagrams of each source are served per second: a table of fixed size, shared by the
//! threads of an endpoint without locks.
//!
//! Each source has the time at which its allowance is whole again (the theoretical arrival time of
//! the generic cell rate algorithm, ITU-T I.371). A datagram moves that time by one interval, and is
//! refused if it would be too far ahead. A source whose time has passed is as good as one that was
//! never seen, so its place is free, and nothing needs to be removed.
//!
//! If all places of a source's set are taken, the source is refused. Otherwise a flood of forged
//! sources could push a source out of the table, whose allowance would then start again.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::time::Time;

/// Sets of places. A hash selects the set.
const SETS: usize = 4096;
/// Places in a set.
const WAYS: usize = 8;

/// Bits of a place that hold the time, in nanoseconds. The others hold a part of the source's hash.
/// The time wraps around every five hours. A place that was left then can look as if its time were
/// ahead, for as long as a burst and [`SKEW_NS`] take. A place that was never used has 0 and never
/// does.
const TIME_BITS: u32 = 44;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

const SECOND_NS: u64 = 1_000_000_000;

/// A source may be ahead of its rate by the datagrams of this time, and at least by one.
const BURST_NS: u64 = SECOND_NS / 10;

/// How much a thread's time may be behind that of another one. Each reads it once for a batch.
const SKEW_NS: u64 = SECOND_NS;

/// The rates of the sources of one endpoint.
pub(crate) struct SourceRates<H = RandomState> {
    hasher: H,
    /// Nanoseconds between two datagrams of a source.
    interval: u64,
    /// How far ahead the time of a source may be, in nanoseconds.
    ahead_max: u64,
    places: Box<[AtomicU64]>,
}

impl SourceRates {
    /// Memory of a table, in bytes.
    pub(crate) const BYTES: u64 = (SETS * WAYS * size_of::<AtomicU64>()) as u64;

    /// Allows each source `per_second` datagrams, 1 to 1,000,000.
    pub(crate) fn new(per_second: u32) -> SourceRates {
        SourceRates::with_hasher(per_second, RandomState::new())
    }
}

impl<H: BuildHasher> SourceRates<H> {
    /// The same, with another hasher.
    pub(crate) fn with_hasher(per_second: u32, hasher: H) -> SourceRates<H> {
        let interval = SECOND_NS / u64::from(per_second);
        let places = (0..SETS * WAYS).map(|_| AtomicU64::new(0)).collect();
        let ahead_max = BURST_NS.max(interval);
        SourceRates { hasher, interval, ahead_max, places }
    }

    /// Whether a datagram of this source may be served now.
    pub(crate) fn take(&self, source: IpAddr, now: Time) -> bool {
        let hash = self.hasher.hash_one(network(source));
        let now = now.as_nanos() & TIME_MASK;
        let tag = hash >> TIME_BITS;
        let set = &self.places[(hash as usize % SETS) * WAYS..][..WAYS];
        // Another thread may take the same place at the same time. Each failed attempt is a
        // datagram of another thread that was served.
        loop {
            let mut free = None;
            let mut own = None;
            for place in set {
                let value = place.load(Ordering::Relaxed);
                let ahead = self.ahead(value, now);
                if ahead > 0 && value >> TIME_BITS == tag {
                    own = Some((place, value, ahead));
                    break;
                }
                if ahead == 0 && free.is_none() {
                    free = Some((place, value, 0));
                }
            }
            let Some((place, value, ahead)) = own.or(free) else { return false };
            let after = ahead + self.interval;
            if after > self.ahead_max {
                return false;
            }
            let new = tag << TIME_BITS | (now + after) & TIME_MASK;
            let order = Ordering::Relaxed;
            if place.compare_exchange_weak(value, new, order, order).is_ok() {
                return true;
            }
        }
    }

    /// How far the time in a place is ahead of now, in nanoseconds. 0 if it has passed.
    fn ahead(&self, value: u64, now: u64) -> u64 {
        let ahead = (value & TIME_MASK).wrapping_sub(now) & TIME_MASK;
        if value != 0 && ahead <= self.ahead_max + SKEW_NS { ahead } else { 0 }
    }
}

/// What counts as one source: an IPv4 address, or the /64 network of an IPv6 address, because a host
/// usually has all of it.
fn network(source: IpAddr) -> u128 {
    match source.to_canonical() {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => u128::from(ip) >> 64 << 64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn at(ms: u64) -> Time {
        // Where the times in the table wrap around.
        Time::from_nanos(7 * (TIME_MASK + 1) - 500_000_000 + ms * 1_000_000)
    }

    fn ip(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    /// How many of 1,000 datagrams at this time are served.
    fn served(rates: &SourceRates, source: IpAddr, now: Time) -> usize {
        (0..1_000).filter(|_| rates.take(source, now)).count()
    }

    #[test]
    fn a_source_has_its_rate_and_a_burst_of_a_tenth_of_a_second() {
        let rates = SourceRates::new(100);
        assert_eq!(served(&rates, ip(1), at(0)), 10);
        assert_eq!(served(&rates, ip(2), at(0)), 10, "each source has its own");
        assert_eq!(served(&rates, ip(1), at(9)), 0);
        assert_eq!(served(&rates, ip(1), at(10)), 1);
        assert_eq!(served(&rates, ip(1), at(60)), 5);
        // Across the wrap of the times, and after any pause.
        let in_order = (0..=1_000).map(|ms| at(60 + ms));
        assert_eq!(in_order.filter(|&now| rates.take(ip(1), now)).count(), 100);
        assert_eq!(served(&rates, ip(1), at(10_000_000)), 10);
    }

    #[test]
    fn the_slowest_rate_serves_one_and_the_fastest_a_burst() {
        let rates = SourceRates::new(1);
        let seconds = [0, 999, 1_000, 1_500, 2_000].map(|ms| rates.take(ip(1), at(ms)));
        assert_eq!(seconds, [true, false, true, false, true]);
        let rates = SourceRates::new(1_000_000);
        assert_eq!((0..200_000).filter(|_| rates.take(ip(1), at(0))).count(), 100_000);
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let rates = SourceRates::new(10);
        let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap().into();
        assert!(rates.take(v6("2001:db8::1"), at(0)));
        assert!(!rates.take(v6("2001:db8::2"), at(0)));
        assert!(rates.take(v6("2001:db8:0:1::1"), at(0)));
        assert!(rates.take(v6("::ffff:192.0.2.1"), at(0)));
        assert!(!rates.take("192.0.2.1".parse().unwrap(), at(0)), "the same in both forms");
    }

    /// A flood of other sources does not give back the allowance of a source.
    #[test]
    fn a_full_table_refuses_who_is_not_in_it() {
        let rates = SourceRates::new(10);
        assert_eq!(served(&rates, ip(0), at(0)), 1);
        let served_others = (1..=1_000_000).filter(|&one| rates.take(ip(one), at(0))).count();
        assert!((SETS * WAYS * 9 / 10..SETS * WAYS).contains(&served_others), "{served_others}");
        assert_eq!(served(&rates, ip(0), at(0)), 0);
        assert!(rates.take(ip(2_000_000), at(101)), "all places are free again");
    }

    /// A source at its limit is not given a new allowance by a thread that is still in an earlier
    /// batch.
    #[test]
    fn a_thread_whose_time_is_behind_sees_what_others_served() {
        let rates = SourceRates::new(100);
        assert_eq!(served(&rates, ip(1), at(1_000)), 10);
        for behind in [1, 10, 500, 1_000] {
            assert_eq!(served(&rates, ip(1), at(1_000 - behind)), 0, "{behind} ms behind");
        }
        assert_eq!(served(&rates, ip(1), at(1_010)), 1);
    }

    #[test]
    fn threads_together_serve_the_rate() {
        let rates = SourceRates::new(100_000);
        let count = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..10_000).filter(|_| rates.take(ip(1), at(0))).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(count, 10_000);
    }
}
