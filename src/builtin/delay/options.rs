//! The options of the delay service: how its law is written.
//!
//! ```text
//! fixed=TIME | uniform=TIME-TIME | bimodal=TIME:WEIGHT,TIME:WEIGHT | exp=TIME   one of them
//! queue=1|0  stall=TIME/TIME  size=SIZE  depth=COUNT  hold=SIZE  seed=NUMBER    any of them
//! ```
//!
//! `dist=exp&mean=TIME` is another way to write `exp=TIME`.

use std::time::Duration;

use super::law::{Distribution, Law, Stall};
use crate::base::units;
use crate::builtin::option::{About, Allowed, Options, Row, Value, row, time_text, utf8};

/// Upper limit of each time: longer ones are time-outs, and sums of this are far from overflowing.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// Upper limit of a weight: it takes more requests than are ever sent to see a finer share than one
/// in a million.
const WEIGHT_MAX: u32 = 1_000_000;

/// Default of the requests of one connection that may wait. A single server that is busy for 80 % of
/// the time has a longer queue for 6 requests in ten million. Each request takes 12 bytes, for each
/// connection that there may be, on each worker.
const DEPTH: u32 = 64;

/// Upper limit of the requests that may wait: what a receive of 64 KiB brings of one byte each.
const DEPTH_MAX: u32 = 65_536;

/// Default of the bytes of one connection that may wait: four full receives.
const HOLD: u32 = 256 << 10;

/// Upper limit of the bytes that may wait: no client is worth more memory.
const HOLD_MAX: u32 = 1 << 30;

/// Default seed. It is fixed, so that a run can be repeated.
const SEED: u64 = 1;

/// The mean of `dist=exp` without `mean`.
const MEAN: Duration = Duration::from_millis(1);

/// The options of which one says how long a request takes.
const LAWS: [&str; 5] = ["fixed", "uniform", "bimodal", "exp", "dist"];

/// Options of the delay service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DelayOptions {
    /// By how much replies are late: `fixed`, `uniform`, `bimodal` or `exp`, with `queue` and
    /// `stall`. Each time is at most an hour. Default: not at all.
    pub law: Law,
    /// Start of the random numbers; each worker adds its own number to it. Default: 1.
    pub seed: u64,
    /// Bytes of a request, at most `hold`; 0, the default: what one receive brings is one request.
    pub size: u32,
    /// Requests of one connection that may wait for their time, 1 to 65,536. While there are so
    /// many the connection is not read. Default: 64.
    pub depth: u32,
    /// Bytes of one connection that may wait, 1 to 1 GiB. While there are so many the connection is
    /// not read, so that there can be more by one receive. Default: 256 KiB.
    pub hold: u32,
}

impl Default for DelayOptions {
    fn default() -> DelayOptions {
        DelayOptions { law: Law::default(), seed: SEED, size: 0, depth: DEPTH, hold: HOLD }
    }
}

impl Options for DelayOptions {
    const OPTIONS: &'static [Row<DelayOptions>] = &[
        row("fixed", "TIME", AT_MOST_1H, "every request takes this time", |o| &mut o.law.delay),
        row(
            "uniform",
            "TIME-TIME",
            AT_MOST_1H,
            "any time from the first to the second, all equally likely",
            |o| &mut o.law.delay,
        ),
        row(
            "bimodal",
            "TIME:WEIGHT,TIME:WEIGHT",
            Allowed::Described("times at most 1h, weights 1 to 1000000"),
            "one of two times, chosen by weight",
            |o| &mut o.law.delay,
        ),
        row("exp", "TIME", MEANS, "exponentially distributed with this mean", |o| &mut o.law.delay),
        row(
            "dist",
            "exp",
            Allowed::Described("exp"),
            "another way to write exp, together with mean",
            |o| &mut o.law.delay,
        ),
        row("mean", "TIME", MEANS, "the mean of dist=exp", |o: &mut DelayOptions| &mut o.law.delay)
            .unset("1ms"),
        row(
            "queue",
            "1|0",
            Allowed::Words(&["1", "0"]),
            "1: all requests queue for one server; 0: each request is delayed by itself",
            |o| &mut o.law.queue,
        ),
        row(
            "stall",
            "TIME/TIME",
            Allowed::Described("more than 0, the first less than the second, at most 1h"),
            "no reply leaves for the first time, once in every second time",
            |o| &mut o.law.stall,
        ),
        row(
            "size",
            "SIZE",
            Allowed::Size(0, HOLD_MAX),
            "bytes of a request; 0: what one receive brings is one request",
            |o| &mut o.size,
        ),
        row(
            "depth",
            "COUNT",
            Allowed::Count(1, DEPTH_MAX),
            "requests of one connection that may wait",
            |o| &mut o.depth,
        ),
        row(
            "hold",
            "SIZE",
            Allowed::Size(1, HOLD_MAX),
            "bytes of one connection that may wait",
            |o| &mut o.hold,
        ),
        row("seed", "NUMBER", Allowed::Number, "start of the random numbers", |o| &mut o.seed),
    ];

    /// `--queue` is the hub's.
    const FLAGS: bool = false;

    fn check_together(&self, given: &[&str]) -> Result<(), String> {
        let laws: Vec<&str> = LAWS.into_iter().filter(|name| given.contains(name)).collect();
        if let [one, other, ..] = laws[..] {
            return Err(format!("{one} and {other}: give one of them"));
        }
        if given.contains(&"mean") && !given.contains(&"dist") {
            return Err("mean goes with dist=exp; any other law has its times as its value".into());
        }
        let DelayOptions { size, hold, .. } = *self;
        match size <= hold {
            true => Ok(()),
            false => Err(format!(
                "size is {size}, but at most {hold} bytes of a connection wait: raise hold"
            )),
        }
    }
}

const AT_MOST_1H: Allowed = Allowed::Described("at most 1h");
const MEANS: Allowed = Allowed::Described("more than 0, at most 1h");

/// A distribution is written by the option that has its name.
impl Value for Distribution {
    fn read(&mut self, about: &About, text: &[u8]) -> Result<(), String> {
        let text = utf8(text)?;
        *self = match about.name {
            "fixed" => Distribution::Fixed(time(text)?),
            "uniform" => uniform(text)?,
            "bimodal" => bimodal(text)?,
            "dist" => dist(text, *self)?,
            _ => Distribution::Exponential(mean(text)?),
        };
        Ok(())
    }

    fn write(&self, about: &About) -> Option<Vec<u8>> {
        let (name, text) = match *self {
            Distribution::Fixed(delay) => ("fixed", time_text(delay)),
            Distribution::Uniform(min, max) => {
                ("uniform", format!("{}-{}", time_text(min), time_text(max)))
            }
            Distribution::Bimodal(modes) => {
                let texts = modes.map(|(at, weight)| format!("{}:{weight}", time_text(at)));
                ("bimodal", texts.join(","))
            }
            Distribution::Exponential(mean) => ("exp", time_text(mean)),
        };
        (name == about.name).then(|| text.into())
    }
}

impl Value for Option<Stall> {
    fn read(&mut self, _: &About, text: &[u8]) -> Result<(), String> {
        let text = utf8(text)?;
        let help = || format!("'{text}' must be how long and how often: 100ms/1s, the first less");
        let (lasts, every) = text.split_once('/').ok_or_else(help)?;
        let stall = Stall { lasts: time(lasts)?, every: time(every)? };
        let is_right = !stall.lasts.is_zero() && stall.lasts < stall.every;
        *self = Some(is_right.then_some(stall).ok_or_else(help)?);
        Ok(())
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        let text = |stall: &Stall| [stall.lasts, stall.every].map(time_text).join("/");
        self.as_ref().map(|stall| text(stall).into())
    }
}

fn time(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        time if time > TIME_MAX => Err(format!("{text} is more than an hour")),
        time => Ok(time),
    }
}

/// A mean is not 0: what is calculated from it divides by it.
fn mean(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("a mean is more than 0; for no delay write fixed=0s".into()),
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
        let weight = weight.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
        let weight = weight.ok_or_else(|| {
            format!("a weight is a whole number from 1 to {WEIGHT_MAX}: 1ms:90,20ms:10")
        })?;
        Ok::<_, String>((time(at)?, weight))
    };
    let (one, other) = text.split_once(',').ok_or_else(help)?;
    Ok(Distribution::Bimodal([mode(one)?, mode(other)?]))
}

/// The mean may have come before.
fn dist(text: &str, before: Distribution) -> Result<Distribution, String> {
    match (text, before) {
        ("exp", Distribution::Exponential(_)) => Ok(before),
        ("exp", _) => Ok(Distribution::Exponential(MEAN)),
        ("fixed", _) => Err("write fixed=TIME instead: fixed=1ms".into()),
        ("uniform", _) => Err("write uniform=TIME-TIME instead: uniform=1ms-5ms".into()),
        ("bimodal", _) => {
            Err("write bimodal=TIME:WEIGHT,TIME:WEIGHT instead: bimodal=1ms:90,20ms:10".into())
        }
        _ => Err(format!("'{text}' must be exp; other laws are fixed=, uniform= and bimodal=")),
    }
}
