//! The options of the delay service: how a law is written.
//!
//! ```text
//! fixed=TIME | uniform=TIME-TIME | bimodal=TIME:WEIGHT,TIME:WEIGHT | exp=TIME   one of them
//! queue=0|1  stall=TIME/TIME  size=SIZE  depth=COUNT  hold=SIZE  seed=NUMBER    any of them
//! ```
//!
//! `dist=exp&mean=TIME` is another way to write `exp=TIME`.

use std::time::Duration;

use super::value::size;
use crate::base::units;
use crate::builtin::delay::{Distribution, Law, Stall};
use crate::config::{
    DELAY_DEPTH, DELAY_DEPTH_MAX, DELAY_HOLD_BYTES, DELAY_HOLD_BYTES_MAX, DELAY_MAX, DELAY_SEED,
    DELAY_WEIGHT_MAX,
};

/// The names of the options.
pub(super) const NAMES: &[&str] = &[
    "fixed", "uniform", "bimodal", "exp", "dist", "mean", "queue", "stall", "size", "depth",
    "hold", "seed",
];

/// Those of which one says how long a request takes.
const DISTRIBUTIONS: [&str; 5] = ["fixed", "uniform", "bimodal", "exp", "dist"];

/// The mean where `dist=exp` stands alone.
const MEAN: Duration = Duration::from_millis(1);

/// Options of the delay service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DelayOptions {
    /// By how much replies are late: `fixed`, `uniform`, `bimodal` or `exp`, with `queue` and
    /// `stall`. Each time is at most an hour. Default: not at all.
    pub law: Law,
    /// `seed=NUMBER`: where the random numbers begin; each worker adds its own number to it.
    /// Default: 1.
    pub seed: u64,
    /// `size=SIZE`: bytes of a request, at most those of `hold`; 0, the default: what one receive
    /// brings is one request.
    pub size: u32,
    /// `depth=COUNT`: requests of one connection that may wait for their time, 1 to 65,536; it is
    /// not read while there are so many. Default: 64.
    pub depth: u32,
    /// `hold=SIZE`: bytes of one connection that may wait, 1 to 1 GiB; it is not read while there
    /// are so many, so that there can be more by one receive. Default: 256 KiB.
    pub hold: u32,
}

impl Default for DelayOptions {
    fn default() -> DelayOptions {
        DelayOptions {
            law: Law::default(),
            seed: DELAY_SEED,
            size: 0,
            depth: DELAY_DEPTH,
            hold: DELAY_HOLD_BYTES,
        }
    }
}

impl DelayOptions {
    /// Sets an option. `None` if there is none of this name.
    pub(super) fn try_set(&mut self, name: &str, text: &str) -> Option<Result<(), String>> {
        let delay = &mut self.law.delay;
        Some(match name {
            "fixed" => time(text).map(|time| *delay = Distribution::Fixed(time)),
            "uniform" => uniform(text).map(|uniform| *delay = uniform),
            "bimodal" => bimodal(text).map(|bimodal| *delay = bimodal),
            "exp" | "mean" => mean(text).map(|mean| *delay = Distribution::Exponential(mean)),
            "dist" => dist(text).map(|()| {
                // The mean may have come before.
                if !matches!(delay, Distribution::Exponential(_)) {
                    *delay = Distribution::Exponential(MEAN);
                }
            }),
            "queue" => queue(text).map(|queue| self.law.queue = queue),
            "stall" => stall(text).map(|stall| self.law.stall = Some(stall)),
            "size" => size(text, 0, DELAY_HOLD_BYTES_MAX).map(|size| self.size = size),
            "hold" => size(text, 1, DELAY_HOLD_BYTES_MAX).map(|hold| self.hold = hold),
            "depth" => depth(text).map(|depth| self.depth = depth),
            "seed" => seed(text).map(|seed| self.seed = seed),
            _ => return None,
        })
    }

    /// Checks what goes together, and the ranges, which options that were not parsed may have
    /// missed.
    pub(crate) fn check(&self) -> Result<(), String> {
        let DelayOptions { law, size, depth, hold, .. } = *self;
        if size > hold {
            return Err(format!(
                "size is {size}, but at most hold, which is {hold}, bytes of a connection wait: \
                 raise hold"
            ));
        }
        let spans = match law.delay {
            Distribution::Fixed(delay) | Distribution::Exponential(delay) => [delay, delay],
            Distribution::Uniform(min, max) => [min, max],
            Distribution::Bimodal([(one, _), (other, _)]) => [one, other],
        };
        let is_right = match law.delay {
            Distribution::Uniform(min, max) => min <= max,
            Distribution::Bimodal([(_, one), (_, other)]) => u64::from(one) + u64::from(other) > 0,
            Distribution::Fixed(_) | Distribution::Exponential(_) => true,
        };
        let stall_is_right = law.stall.is_none_or(|Stall { lasts, every }| {
            !lasts.is_zero() && lasts < every && every <= DELAY_MAX
        });
        let in_range = spans.iter().all(|span| *span <= DELAY_MAX)
            && (1..=DELAY_DEPTH_MAX).contains(&depth)
            && (1..=DELAY_HOLD_BYTES_MAX).contains(&hold);
        match is_right && stall_is_right && in_range {
            true => Ok(()),
            false => Err(format!("a value of {self:?} is out of its range")),
        }
    }

    /// The options that are not the default ones, as they are read.
    pub(super) fn written(&self) -> Vec<(&'static str, String)> {
        let DelayOptions { law, seed, size, depth, hold } = *self;
        let usual = DelayOptions::default();
        let delay = (law.delay != usual.law.delay).then(|| law_words(law.delay));
        let stall = law.stall.map(|Stall { lasts, every }| {
            ("stall", format!("{}/{}", time_word(lasts), time_word(every)))
        });
        let differs = |differs: bool, name, word: String| differs.then_some((name, word));
        [
            delay,
            differs(law.queue, "queue", "1".to_owned()),
            stall,
            differs(size != usual.size, "size", size.to_string()),
            differs(depth != usual.depth, "depth", depth.to_string()),
            differs(hold != usual.hold, "hold", hold.to_string()),
            differs(seed != usual.seed, "seed", seed.to_string()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Checks which options stand beside each other.
pub(super) fn check_given(given: &[&str]) -> Result<(), String> {
    let laws: Vec<&str> = DISTRIBUTIONS.into_iter().filter(|name| given.contains(name)).collect();
    if let [one, other, ..] = laws[..] {
        return Err(format!("{one} and {other}: one of them says how late replies are"));
    }
    match given.contains(&"mean") && !given.contains(&"dist") {
        true => Err("mean goes with dist=exp; for any other law, its times are its value".into()),
        false => Ok(()),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        time if time > DELAY_MAX => Err(format!("{text} is more than an hour")),
        time => Ok(time),
    }
}

/// A mean is not 0: what follows from it would be divided by it.
fn mean(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("a mean is more than 0; without delay it is fixed=0s".into()),
        mean => Ok(mean),
    }
}

fn uniform(text: &str) -> Result<Distribution, String> {
    let help = || format!("'{text}' must be the shortest and the longest time: 1ms-5ms");
    let (min, max) = text.split_once('-').ok_or_else(help)?;
    let (min, max) = (time(min)?, time(max)?);
    if min <= max { Ok(Distribution::Uniform(min, max)) } else { Err(help()) }
}

fn bimodal(text: &str) -> Result<Distribution, String> {
    let help = || format!("'{text}' must be two times with their weights: 1ms:90,20ms:10");
    let mode = |text: &str| {
        let (at, weight) = text.split_once(':').ok_or_else(help)?;
        let weight = weight.parse().ok().filter(|weight| (1..=DELAY_WEIGHT_MAX).contains(weight));
        let weight = weight.ok_or_else(|| {
            format!("a weight is a whole number from 1 to {DELAY_WEIGHT_MAX}: 1ms:90,20ms:10")
        })?;
        Ok::<_, String>((time(at)?, weight))
    };
    let (one, other) = text.split_once(',').ok_or_else(help)?;
    Ok(Distribution::Bimodal([mode(one)?, mode(other)?]))
}

fn dist(text: &str) -> Result<(), String> {
    match text {
        "exp" => Ok(()),
        "fixed" => Err("write fixed=TIME (1ms) in its place".into()),
        "uniform" => Err("write uniform=TIME-TIME (1ms-5ms) in its place".into()),
        "bimodal" => {
            Err("write bimodal=TIME:WEIGHT,TIME:WEIGHT (1ms:90,20ms:10) in its place".into())
        }
        _ => Err(format!("'{text}' must be exp; other laws are fixed=, uniform= and bimodal=")),
    }
}

fn stall(text: &str) -> Result<Stall, String> {
    let help = || format!("'{text}' must be how long and how often: 100ms/1s, the first shorter");
    let (lasts, every) = text.split_once('/').ok_or_else(help)?;
    let stall = Stall { lasts: time(lasts)?, every: time(every)? };
    let is_right = !stall.lasts.is_zero() && stall.lasts < stall.every;
    if is_right { Ok(stall) } else { Err(help()) }
}

fn queue(text: &str) -> Result<bool, String> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(format!("'{text}' must be 0 (each is delayed by itself) or 1 (one server)")),
    }
}

fn depth(text: &str) -> Result<u32, String> {
    let depth = units::parse_count(text)?;
    let in_range = u32::try_from(depth).ok().filter(|count| (1..=DELAY_DEPTH_MAX).contains(count));
    in_range.ok_or_else(|| format!("{text} must be from 1 to {DELAY_DEPTH_MAX}"))
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("'{text}' must be a whole number below 2^64"))
}

/// The option of a law, and its value.
fn law_words(delay: Distribution) -> (&'static str, String) {
    match delay {
        Distribution::Fixed(delay) => ("fixed", time_word(delay)),
        Distribution::Uniform(min, max) => {
            ("uniform", format!("{}-{}", time_word(min), time_word(max)))
        }
        Distribution::Bimodal(modes) => {
            let words = modes.map(|(at, weight)| format!("{}:{weight}", time_word(at)));
            ("bimodal", words.join(","))
        }
        Distribution::Exponential(mean) => ("exp", time_word(mean)),
    }
}

/// As [`units::parse_duration`] reads it.
fn time_word(time: Duration) -> String {
    let nanos = time.as_nanos();
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
    let whole = units.iter().find(|(unit, _)| nanos.is_multiple_of(*unit));
    let (unit, name) = whole.expect("all are whole nanoseconds");
    format!("{}{name}", nanos / unit)
}
