//! The law by which replies are delayed: how long a request takes, whether requests queue for one
//! server, and when no reply leaves. Pure: it takes arrival times and random numbers, and reads no
//! clock.
//!
//! The purpose of the service is that the behaviour of a law can be calculated. The mean and the
//! variance of the delay alone, where `m` is its mean:
//!
//! | law | mean | variance |
//! | --- | --- | --- |
//! | fixed | m | 0 |
//! | uniform from a to b | (a + b) / 2 | (b - a)² / 12 |
//! | bimodal: a with weight v, b with weight w | (v a + w b) / (v + w) | v w (b - a)² / (v + w)² |
//! | exponential | m | m² |
//!
//! With one server and Poisson arrivals at rate λ, the time that a request with an exponential
//! delay spends there is exponential too, with mean m / (1 - λ m) (M/M/1; Kleinrock, "Queueing
//! Systems", volume 1, 1975, section 3.2).

use std::time::Duration;

use fastrand::Rng;

use crate::base::time::Time;

/// How long each request takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Distribution {
    /// The same delay for all.
    Fixed(Duration),
    /// Uniform from the first to the second, both included, in whole nanoseconds.
    Uniform(Duration, Duration),
    /// One of two delays, chosen by weight.
    Bimodal([(Duration, u32); 2]),
    /// Exponential with this mean.
    Exponential(Duration),
}

/// Periodic times in which no reply leaves.
///
/// The `n`-th stall lasts from `n * every` to `n * every + lasts` on the monotonic clock. So the
/// phase is the same for all workers, and known to any process that can read that clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stall {
    /// How long each stall lasts. More than 0 and less than `every`.
    pub lasts: Duration,
    /// From the start of one stall to the start of the next.
    pub every: Duration,
}

/// When the reply to a request leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Law {
    /// How long a request takes.
    pub delay: Distribution,
    /// Whether all requests queue for one server: a request starts when the one before it is done.
    /// Otherwise each request is delayed independently.
    pub queue: bool,
    /// A reply that would leave during a stall leaves at its end.
    pub stall: Option<Stall>,
}

impl Default for Law {
    /// No delay.
    fn default() -> Law {
        Law { delay: Distribution::Fixed(Duration::ZERO), queue: false, stall: None }
    }
}

impl Distribution {
    /// Draws a delay.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Duration {
        match *self {
            Distribution::Fixed(delay) => delay,
            Distribution::Uniform(min, max) => {
                Duration::from_nanos(rng.u64(nanos(min)..=nanos(max)))
            }
            Distribution::Bimodal([(one, weight), (other, rest)]) => {
                let is_one = rng.u64(0..u64::from(weight) + u64::from(rest)) < u64::from(weight);
                if is_one { one } else { other }
            }
            // By inversion, from (0, 1], where the logarithm is finite.
            Distribution::Exponential(mean) => mean.mul_f64(-(1.0 - rng.f64()).ln()),
        }
    }

    /// Returns the longest delay, or `None` if there is no limit.
    pub fn longest(&self) -> Option<Duration> {
        match *self {
            Distribution::Fixed(delay) => Some(delay),
            Distribution::Uniform(_, max) => Some(max),
            Distribution::Bimodal([(one, _), (other, _)]) => Some(one.max(other)),
            Distribution::Exponential(_) => None,
        }
    }
}

impl Stall {
    /// Returns `time`, or the end of the stall that it lies in.
    pub fn over(&self, time: Time) -> Time {
        let since_begin = time.as_nanos() % nanos(self.every);
        match nanos(self.lasts).checked_sub(since_begin) {
            Some(left) => time + Duration::from_nanos(left),
            None => time,
        }
    }
}

impl Law {
    /// Returns when a request departs that arrives now and takes `delay`. `last` is the departure
    /// of the request before it, which matters only with a queue (Lindley's recursion).
    pub fn departure(&self, arrival: Time, delay: Duration, last: Time) -> Time {
        let begin = if self.queue { arrival.max(last) } else { arrival };
        let done = begin + delay;
        self.stall.map_or(done, |stall| stall.over(done))
    }

    /// Returns the longest time that a request takes, or `None` if there is no limit.
    pub fn longest(&self) -> Option<Duration> {
        let stall = self.stall.map_or(Duration::ZERO, |stall| stall.lasts);
        self.delay.longest().filter(|_| !self.queue).map(|delay| delay + stall)
    }
}

/// Does not overflow: the law's times are at most an hour.
fn nanos(span: Duration) -> u64 {
    span.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SEEDS: std::ops::Range<u64> = 0..20;
    const DRAWS: usize = 10_000;

    fn ms(count: u64) -> Time {
        Time::ZERO + MS * count as u32
    }

    /// Draws in milliseconds, sorted.
    fn sample(of: Distribution, seed: u64) -> Vec<f64> {
        let mut rng = Rng::with_seed(seed);
        let draw = |_| of.draw(&mut rng).as_nanos() as f64 / 1e6;
        let mut sample: Vec<f64> = (0..DRAWS).map(draw).collect();
        sample.sort_by(f64::total_cmp);
        sample
    }

    /// Checks that the mean of a large sample is within 4 standard errors of theory. This fails for
    /// 1 sample in 16,000.
    fn assert_mean(of: Distribution, mean: f64, variance: f64) {
        for seed in SEEDS {
            let sample = sample(of, seed);
            let seen = sample.iter().sum::<f64>() / DRAWS as f64;
            let error = 4.0 * (variance / DRAWS as f64).sqrt() + 1e-9;
            assert!((seen - mean).abs() <= error, "{of:?}, seed {seed}: {seen}, not {mean}");
        }
    }

    /// Returns the Kolmogorov-Smirnov statistic: the largest distance between the sample's
    /// distribution function and theory's. It exceeds 1.628 / sqrt(n) for 1 sample in 100 (Smirnov,
    /// 1948).
    fn distance(sample: &[f64], theory: impl Fn(f64) -> f64) -> f64 {
        let count = sample.len() as f64;
        let at = |(rank, &x): (usize, &f64)| {
            let (below, expected) = (rank as f64 / count, theory(x));
            (expected - below).abs().max((below + 1.0 / count - expected).abs())
        };
        sample.iter().enumerate().map(at).fold(0.0, f64::max)
    }

    fn assert_distributed(of: Distribution, theory: impl Fn(f64) -> f64) {
        for seed in SEEDS {
            let distance = distance(&sample(of, seed), &theory);
            let limit = 1.628 / (DRAWS as f64).sqrt();
            assert!(distance < limit, "{of:?}, seed {seed}: {distance} of {limit}");
        }
    }

    #[test]
    fn means_are_those_of_theory() {
        assert_mean(Distribution::Fixed(7 * MS), 7.0, 0.0);
        assert_mean(Distribution::Uniform(MS, 5 * MS), 3.0, 16.0 / 12.0);
        assert_mean(Distribution::Exponential(2 * MS), 2.0, 4.0);
        let bimodal = Distribution::Bimodal([(MS, 90), (20 * MS, 10)]);
        assert_mean(bimodal, 2.9, 0.9 * 0.1 * 19.0 * 19.0);
    }

    #[test]
    fn uniform_and_exponential_draws_pass_kolmogorov_smirnov_at_1_percent() {
        assert_distributed(Distribution::Uniform(MS, 5 * MS), |x| {
            ((x - 1.0) / 4.0).clamp(0.0, 1.0)
        });
        assert_distributed(Distribution::Exponential(2 * MS), |x| 1.0 - (-x / 2.0).exp());
    }

    #[test]
    fn a_sample_of_another_law_fails_kolmogorov_smirnov() {
        let uniform = sample(Distribution::Uniform(MS, 5 * MS), 1);
        let limit = 1.628 / (DRAWS as f64).sqrt();
        assert!(distance(&uniform, |x| ((x - 1.0) / 4.1).clamp(0.0, 1.0)) > limit);
        let exponential = sample(Distribution::Exponential(2 * MS), 1);
        assert!(distance(&exponential, |x| 1.0 - (-x / 2.2).exp()) > limit);
    }

    #[test]
    fn quantiles_are_those_of_theory() {
        for seed in SEEDS {
            let sample = sample(Distribution::Exponential(MS), seed);
            // Within 4 standard errors of a quantile: sqrt(p / (1 - p) / n) for mean 1.
            for p in [0.5, 0.9, 0.99] {
                let (seen, theory) = (sample[(p * DRAWS as f64) as usize], -f64::ln(1.0 - p));
                let error = 4.0 * (p / (1.0 - p) / DRAWS as f64).sqrt();
                assert!((seen - theory).abs() < error, "seed {seed}, {p}: {seen}, not {theory}");
            }
        }
    }

    #[test]
    fn draws_stay_within_their_law_and_reach_its_ends() {
        let (one, other) = (Duration::from_nanos(3), Duration::from_nanos(5));
        let draws = |of: Distribution| {
            let mut rng = Rng::with_seed(1);
            let mut draws: Vec<u128> = (0..1000).map(|_| of.draw(&mut rng).as_nanos()).collect();
            draws.sort_unstable();
            draws.dedup();
            draws
        };
        assert_eq!(draws(Distribution::Uniform(one, other)), [3, 4, 5]);
        assert_eq!(draws(Distribution::Uniform(one, one)), [3]);
        assert_eq!(draws(Distribution::Bimodal([(one, 1), (other, 1)])), [3, 5]);
        assert_eq!(draws(Distribution::Bimodal([(one, 0), (other, 1)])), [5]);
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let of = Distribution::Exponential(MS);
        assert_eq!(sample(of, 7), sample(of, 7));
        assert_ne!(sample(of, 7), sample(of, 8));
    }

    #[test]
    fn what_would_leave_in_a_stall_leaves_at_its_end() {
        let stall = Stall { lasts: 100 * MS, every: 1000 * MS };
        for (at, leaves) in
            [(0, 100), (99, 100), (100, 100), (101, 101), (999, 999), (1000, 1100), (5099, 5100)]
        {
            assert_eq!(stall.over(ms(at)), ms(leaves), "{at} ms");
        }
        let last = Time::from_nanos(99_999_999);
        assert_eq!(stall.over(last), ms(100));
        let law = Law { stall: Some(stall), delay: Distribution::Fixed(MS), queue: false };
        assert_eq!(law.departure(ms(998), MS, Time::ZERO), ms(999));
        assert_eq!(
            law.departure(ms(999), MS, Time::ZERO),
            ms(1100),
            "it would leave during the stall"
        );
        assert_eq!(
            law.departure(ms(50), 200 * MS, Time::ZERO),
            ms(250),
            "it may run during a stall"
        );
    }

    /// Arrivals and delays with the results of Lindley's recursion, calculated by hand.
    #[test]
    fn with_a_queue_a_request_begins_when_the_one_before_it_is_done() {
        let law = Law { queue: true, ..Law::default() };
        let alone = Law::default();
        let mut last = Time::ZERO;
        for (arrival, delay, departure) in
            [(0, 3, 3), (1, 2, 5), (2, 4, 9), (10, 1, 11), (11, 1, 12), (11, 5, 17), (12, 0, 17)]
        {
            let (arrival, delay) = (ms(arrival), MS * delay);
            last = law.departure(arrival, delay, last);
            assert_eq!(last, ms(departure), "arrived at {arrival:?}");
            assert_eq!(alone.departure(arrival, delay, last), arrival + delay);
        }
    }

    /// Compares M/M/1 at 50 % load: the mean time of a million requests is within 2 % of theory,
    /// for a fixed seed.
    #[test]
    fn one_server_with_exponential_delays_is_m_m_1() {
        const COUNT: u32 = 1_000_000;
        let law = Law { delay: Distribution::Exponential(MS), queue: true, stall: None };
        let gap = Distribution::Exponential(2 * MS);
        let mut rng = Rng::with_seed(3);
        let (mut arrival, mut last, mut total) = (Time::ZERO, Time::ZERO, Duration::ZERO);
        for _ in 0..COUNT {
            arrival = arrival + gap.draw(&mut rng);
            last = law.departure(arrival, law.delay.draw(&mut rng), last);
            total += last - arrival;
        }
        let mean_ms = total.as_secs_f64() * 1e3 / f64::from(COUNT);
        assert!((mean_ms / 2.0 - 1.0).abs() < 0.02, "{mean_ms} ms, and theory says 2");
    }

    #[test]
    fn a_stall_holds_the_server_too() {
        let stall = Some(Stall { lasts: 10 * MS, every: 100 * MS });
        let law = Law { queue: true, stall, ..Law::default() };
        let first = law.departure(ms(99), 2 * MS, Time::ZERO);
        assert_eq!(first, ms(110));
        assert_eq!(law.departure(ms(99), 2 * MS, first), ms(112));
    }

    #[test]
    fn the_longest_delay_is_known_where_there_is_one() {
        let law = |delay| Law { delay, ..Law::default() };
        assert_eq!(law(Distribution::Fixed(MS)).longest(), Some(MS));
        let bimodal = Distribution::Bimodal([(20 * MS, 1), (MS, 1)]);
        assert_eq!(law(bimodal).longest(), Some(20 * MS));
        assert_eq!(law(Distribution::Exponential(MS)).longest(), None);
        let stall = Some(Stall { lasts: 2 * MS, every: 9 * MS });
        let uniform = law(Distribution::Uniform(MS, 5 * MS));
        assert_eq!(Law { stall, ..uniform }.longest(), Some(7 * MS));
        assert_eq!(Law { queue: true, ..uniform }.longest(), None);
    }
}
