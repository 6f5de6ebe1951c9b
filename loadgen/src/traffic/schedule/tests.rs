//! Schedules in virtual time.

use super::*;

const SECOND: u64 = NANOS_PER_SECOND;

fn profile(text: &str) -> Profile {
    let Stages(stages) = text.parse().expect("stages");
    Profile::new(Duration::ZERO, &stages)
}

fn lane(thread: u64, threads: u64, connections_all: u64) -> Lane {
    let until = |thread: u64| connections_all * thread / threads;
    Lane::of_thread(thread, threads, until(thread + 1) - until(thread), connections_all)
}

/// The times of all lanes before `end_ns`.
fn times(profile: &Profile, spacing: Spacing, lanes: &[Lane], seed: u64, end_ns: u64) -> Vec<u64> {
    let mut times = Vec::new();
    for (number, lane) in lanes.iter().enumerate() {
        let mut arrivals = Arrivals::new(profile, spacing, *lane, seed, number as u64);
        while arrivals.next_ns() < end_ns {
            times.push(arrivals.next_ns());
            arrivals.advance(profile);
        }
    }
    times.sort_unstable();
    times
}

fn all_threads(threads: u64, connections: u64) -> Vec<Lane> {
    (0..threads).map(|thread| lane(thread, threads, connections)).collect()
}

fn all_connections(threads: u64, connections: u64) -> Vec<Lane> {
    let each = |lane: Lane| (0..lane.connections).map(move |nth| lane.of_connection(nth));
    all_threads(threads, connections).into_iter().flat_map(each).collect()
}

#[test]
fn a_constant_schedule_is_exact_and_evenly_spaced_whoever_shares_it() {
    for (threads, connections) in [(1, 1), (2, 2), (3, 10), (7, 1000), (64, 100), (4, 4)] {
        for rate in [1, 3, 7, 999, 10_000] {
            let profile = profile(&format!("1h:{rate}"));
            let end = if rate < 10 { 100 * SECOND } else { 2 * SECOND };
            let expected: Vec<u64> =
                (0..rate * end / SECOND).map(|nth| nth * SECOND / rate).collect();
            let shared =
                times(&profile, Spacing::Const, &all_threads(threads, connections), 1, end);
            assert_eq!(shared, expected, "{threads} threads, {connections} connections, {rate}/s");
            let strict =
                times(&profile, Spacing::Const, &all_connections(threads, connections), 1, end);
            assert_eq!(strict, expected, "strict, {connections} connections, {rate}/s");
        }
    }
}

#[test]
fn a_connection_of_its_own_schedule_has_its_part_of_the_rate() {
    let profile = profile("1h:1000");
    for lane in all_connections(3, 10) {
        let times = times(&profile, Spacing::Const, &[lane], 1, 10 * SECOND);
        assert_eq!(times.len(), 1000);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == SECOND / 100));
    }
}

#[test]
fn threads_take_turns() {
    let profile = profile("1h:1000");
    for lane in all_threads(4, 1000) {
        let times = times(&profile, Spacing::Const, &[lane], 1, SECOND);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 4 * SECOND / 1000));
    }
}

#[test]
fn a_rate_below_the_number_of_threads_is_kept() {
    let profile = profile("1h:2");
    let lanes = all_threads(64, 1000);
    assert_eq!(times(&profile, Spacing::Const, &lanes, 1, 100 * SECOND).len(), 200);
    let poisson = times(&profile, Spacing::Poisson, &lanes, 1, 1000 * SECOND).len();
    assert!((1_700..2_300).contains(&poisson), "{poisson}, and 6 deviations are 268");
}

#[test]
fn a_rate_below_one_per_second_is_exact() {
    let lanes = all_threads(2, 5);
    for (rate, interval) in [("0.2", 5 * SECOND), ("6/m", 10 * SECOND), ("1/h", 3_600 * SECOND)] {
        let profile = profile(&format!("1h:{rate}"));
        let times = times(&profile, Spacing::Const, &lanes, 1, 100 * interval);
        assert_eq!(times, (0..100).map(|nth| nth * interval).collect::<Vec<_>>(), "{rate}");
    }
    let profile = profile("1h:0.2");
    let poisson = times(&profile, Spacing::Poisson, &lanes, 1, 5_000 * SECOND).len();
    assert!((800..1_200).contains(&poisson), "{poisson}, and 6 deviations are 190");
    let Stages(stages) = "10s:0.5-6/m".parse().expect("a ramp");
    let profile = Profile::new(Duration::ZERO, &stages);
    assert_eq!(times_of(&profile, 10 * SECOND), 3);
}

fn times_of(profile: &Profile, end_ns: u64) -> usize {
    times(profile, Spacing::Const, &all_threads(1, 1), 1, end_ns).len()
}

#[test]
fn stages_follow_each_other_without_a_gap() {
    let profile = profile("2s:1k,1s:0,3s:5k");
    let times = times(&profile, Spacing::Const, &all_threads(3, 9), 1, 7 * SECOND);
    let within = |from: u64, to: u64| {
        times.iter().filter(|time| (from * SECOND..to * SECOND).contains(*time)).count()
    };
    assert_eq!((within(0, 2), within(2, 3), within(3, 6)), (2_000, 0, 15_000));
    assert_eq!(within(6, 7), 5_000, "the last rate goes on");
    assert_eq!(times[2_000], 3 * SECOND);
}

#[test]
fn a_ramp_has_the_rate_that_it_should_at_each_time() {
    for (text, half) in [("10s:0-1000", 1_250), ("10s:1000-0", 3_750), ("10s:500-500", 2_500)] {
        let times = times(&profile(text), Spacing::Const, &all_threads(2, 4), 1, 10 * SECOND);
        assert_eq!(times.len(), 5_000, "{text}");
        let in_first_half = times.iter().filter(|time| **time < 5 * SECOND).count();
        assert!(in_first_half.abs_diff(half) <= 1, "{text}: {in_first_half}");
    }
}

#[test]
fn the_rate_at_a_time_is_that_of_its_stage() {
    let profile = profile("10s:100,10s:100-300,10s:300-0");
    let at = |seconds: f64| profile.rate_at(Duration::from_secs_f64(seconds)).round();
    assert_eq!([0.0, 9.9, 10.0, 15.0, 19.99].map(at), [100.0, 100.0, 100.0, 200.0, 300.0]);
    assert_eq!([25.0, 30.0, 1e6].map(at), [150.0, 0.0, 0.0]);
}

#[test]
fn a_schedule_that_ends_at_rate_zero_has_no_next() {
    let times = times(&profile("1s:100,1s:0"), Spacing::Const, &all_threads(1, 1), 1, u64::MAX);
    assert_eq!(times.len(), 100);
}

#[test]
fn warm_up_goes_at_the_first_rate() {
    let Stages(stages) = "1s:100,1s:1k".parse().unwrap();
    let profile = Profile::new(Duration::from_secs(2), &stages);
    let times = times(&profile, Spacing::Const, &all_threads(2, 2), 1, 4 * SECOND);
    let before = |seconds| times.iter().filter(|time| **time < seconds * SECOND).count();
    assert_eq!((before(2), before(3), before(4)), (200, 300, 1_300));
}

/// The largest distance between the distribution of the gaps and the exponential one.
fn kolmogorov_smirnov(times: &[u64], rate: f64) -> f64 {
    let mut gaps: Vec<f64> =
        times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 * rate / SECOND as f64).collect();
    gaps.sort_unstable_by(f64::total_cmp);
    let count = gaps.len() as f64;
    let distance = |(nth, gap): (usize, &f64)| {
        let expected = 1.0 - (-gap).exp();
        let (below, above) = (nth as f64 / count, (nth + 1) as f64 / count);
        (expected - below).abs().max((above - expected).abs())
    };
    gaps.iter().enumerate().map(distance).fold(0.0, f64::max)
}

/// The critical distance at 1 %.
fn critical(count: usize) -> f64 {
    1.628 / (count as f64).sqrt()
}

#[test]
fn poisson_schedules_of_20_seeds_pass_kolmogorov_smirnov() {
    let profile = profile("1h:10k");
    for seed in 0..20 {
        for lanes in [all_threads(1, 100), all_threads(4, 100), all_connections(2, 100)] {
            let times = times(&profile, Spacing::Poisson, &lanes, seed, 2 * SECOND);
            let distance = kolmogorov_smirnov(&times, 10_000.0);
            let critical = critical(times.len() - 1);
            assert!(distance < critical, "seed {seed}, {} lanes: {distance}", lanes.len());
        }
    }
}

#[test]
fn the_kolmogorov_smirnov_test_finds_what_is_not_poisson() {
    let constant = times(&profile("1h:10k"), Spacing::Const, &all_threads(1, 1), 1, 2 * SECOND);
    assert!(kolmogorov_smirnov(&constant, 10_000.0) > critical(constant.len()));
    let slower = times(&profile("1h:9500"), Spacing::Poisson, &all_threads(1, 1), 1, 2 * SECOND);
    assert!(kolmogorov_smirnov(&slower, 10_000.0) > critical(slower.len()));
}

#[test]
fn poisson_counts_have_the_variance_of_their_mean() {
    let profile = profile("1h:1k");
    let times = times(&profile, Spacing::Poisson, &all_threads(3, 30), 7, 1000 * SECOND);
    let mut counts = vec![0.0f64; 1000];
    times.iter().for_each(|time| counts[(time / SECOND) as usize] += 1.0);
    let mean = counts.iter().sum::<f64>() / 1000.0;
    let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 999.0;
    assert!((994.0..1006.0).contains(&mean), "{mean}");
    // The relative deviation of a variance of 1000 values is 4.5 %.
    assert!((0.8..1.2).contains(&(variance / mean)), "{variance}");
}

#[test]
fn the_same_seed_is_the_same_schedule() {
    let profile = profile("1h:1k");
    let with = |seed| times(&profile, Spacing::Poisson, &all_threads(2, 2), seed, SECOND);
    assert_eq!(with(3), with(3));
    assert_ne!(with(3), with(4));
}

#[test]
fn stages_that_cannot_be_are_refused_with_the_reason() {
    for (text, reason) in [
        ("10s", "TIME:RATE"),
        ("10:1k", "unit"),
        ("10s:many", "'many' is not a rate"),
        ("10s:0", "no stage has a rate"),
        ("1s:1k,", "TIME:RATE"),
        ("1s:20m", "at most"),
    ] {
        let error = text.parse::<Stages>().expect_err(text);
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn no_more_stages_are_taken_than_there_may_be() {
    let stages = |count| vec!["1s:1"; count].join(",").parse::<Stages>();
    assert_eq!(stages(STAGES_MAX).map(|stages| stages.0.len()), Ok(STAGES_MAX));
    assert_eq!(stages(STAGES_MAX + 1), Err("1001 stages; at most 1000".into()));
}

/// The number of random arrivals in a time deviates from its mean by the mean's root. So counts far
/// from the mean are among these.
#[test]
fn random_arrivals_end_after_exactly_as_many_whatever_the_seed() {
    let requests = 10_000;
    for seed in 0..60 {
        let mut profile = profile("1h:10k");
        let lane =
            |number| Arrivals::new(&profile, Spacing::Poisson, lane(number, 2, 2), seed, number);
        let lanes: Vec<_> = (0..2).map(lane).collect();
        profile.end_after(requests, lanes);
        let all = times(&profile, Spacing::Poisson, &all_threads(2, 2), seed, u64::MAX);
        assert_eq!(all.len() as u64, requests, "seed {seed}");
    }
}

/// Zero has no logarithm.
#[test]
fn exponential_numbers_are_finite_for_every_random_number() {
    let largest = exponential(0);
    assert!((largest - 54.0 * 2f64.ln()).abs() < 1e-9, "{largest}");
    let smallest = exponential(u64::MAX);
    assert!((0.0..1e-15).contains(&smallest), "{smallest}");
}

#[test]
fn a_profile_knows_the_stages_that_it_was_made_from() {
    for text in ["1s:7", "2s:10-20,3s:5,1m:5-0.5"] {
        let Stages(stages) = text.parse().expect("stages");
        for warmup in [Duration::ZERO, Duration::from_secs(1)] {
            let found: Vec<Stage> = Profile::new(warmup, &stages).stages().collect();
            assert_eq!(found, stages, "{text}");
        }
    }
}
