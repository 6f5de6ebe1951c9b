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
use crate::builtin::option::{
    About, Allowed, Options, Value, declare, options, time, time_text, utf8,
};

/// Maximum weight. A share finer than one in a million would take more requests to observe than are
/// ever sent.
const WEIGHT_MAX: u32 = 1_000_000;

/// Maximum number of waiting requests: a receive of 64 KiB with requests of one byte.
const DEPTH_MAX: u32 = 65_536;

/// Maximum number of waiting bytes. No client is worth more memory.
const HOLD_MAX: u32 = 1 << 30;

/// The mean of `dist=exp` without `mean`.
const MEAN: Duration = Duration::from_millis(1);

/// The options for the distribution. At most one of them may be given.
const LAWS: [&str; 5] = ["fixed", "uniform", "bimodal", "exp", "dist"];

options! {
    /// Options of the delay service.
    #[derive(Copy)]
    pub struct DelayOptions {
        /// By how much replies are delayed: `fixed`, `uniform`, `bimodal` or `exp`, with `queue`
        /// and `stall`. Each time is at most an hour. Default: no delay.
        pub law: Law = Law::default();
        /// Bytes per request, at most `hold`. With 0, the default, each receive is one request.
        pub size: u32 = 0, "size" = "SIZE", Size(0, HOLD_MAX),
            "bytes per request; 0: each receive is one request";
        /// Maximum number of waiting requests per connection, 1 to 65,536. A connection at the
        /// limit is not read. Default: 64.
        //
        // A single server with 80 % load has a longer queue for 6 in 10 million requests. Each
        // request takes 12 bytes, multiplied by the maximum number of connections, on each worker.
        pub depth: u32 = 64, "depth" = "COUNT", Count(1, DEPTH_MAX),
            "requests of one connection that may wait";
        /// Maximum number of waiting bytes per connection, 1 to 1 GiB. A connection at the limit is
        /// not read, so the limit can be exceeded by one receive. Default: 256 KiB.
        //
        // The default is four full receives.
        pub hold: u32 = 256 << 10, "hold" = "SIZE", Size(1, HOLD_MAX),
            "bytes of one connection that may wait";
        /// Seed of the random numbers. Each worker, and each seed, has its own. Default: 1.
        //
        // The default is fixed so that a run can be repeated.
        pub seed: u64 = 1, "seed" = "NUMBER",
            Described("any whole number below 2^64"), "seed of the random numbers";
    }
    parts {
        law.delay: "fixed" = "TIME", Described("at most 1h"), "every request takes this time";
        law.delay: "uniform" = "TIME-TIME", Described("at most 1h"),
            "any time from the first to the second, all equally likely";
        law.delay: "bimodal" = "TIME:WEIGHT,TIME:WEIGHT",
            Described("times at most 1h, weights 1 to 1000000"),
            "one of two times, chosen by weight";
        law.delay: "exp" = "TIME", Described("more than 0, at most 1h"),
            "exponentially distributed with this mean";
        law.delay: "dist" = "exp", Described("exp"), "another way to write exp, together with mean";
        law.delay: "mean" = "TIME", Described("more than 0, at most 1h"), "the mean of dist=exp",
            "1ms";
        law.queue: "queue" = "1|0", Words(&["1", "0"]),
            "1: all requests queue for one server; 0: each request is delayed by itself";
        law.stall: "stall" = "TIME/TIME",
            Described("more than 0, the first less than the second, at most 1h"),
            "no reply leaves during a stall: its length, and the time from start to start";
    }
    impl {
        /// `--queue` is a flag of the hub.
        fn has_flags(&self) -> bool {
            false
        }

        fn check_together(&self, given: &[&str]) -> Result<(), String> {
            let laws = LAWS.into_iter().filter(|name| given.contains(name)).collect::<Vec<_>>();
            if let [one, other, ..] = laws[..] {
                return Err(format!("{one} and {other}: give one of them"));
            }
            if given.contains(&"mean") && !given.contains(&"dist") {
                return Err("mean is only allowed with dist=exp; write exp=TIME".into());
            }
            let DelayOptions { size, hold, .. } = *self;
            if size <= hold {
                return Ok(());
            }
            Err(format!("size is {size}, but hold allows {hold} bytes to wait: raise hold"))
        }
    }
}

/// A distribution is written by the option of the same name.
impl Value for Distribution {
    fn read(&self, about: &About, text: &[u8]) -> Result<Distribution, String> {
        let text = utf8(text)?;
        match about.name {
            "fixed" => time(text).map(Distribution::Fixed),
            "uniform" => uniform(text),
            "bimodal" => bimodal(text),
            "dist" => dist(text, *self),
            _ => mean(text).map(Distribution::Exponential),
        }
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
    fn read(&self, _: &About, text: &[u8]) -> Result<Option<Stall>, String> {
        let text = utf8(text)?;
        let help = || format!("'{text}' must be length/interval, with the length less: 100ms/1s");
        let (lasts, every) = text.split_once('/').ok_or_else(help)?;
        let (lasts, every) = (time(lasts)?, time(every)?);
        let is_right = !lasts.is_zero() && lasts < every;
        if is_right { Ok(Some(Stall { lasts, every })) } else { Err(help()) }
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        let text = |stall: &Stall| [stall.lasts, stall.every].map(time_text).join("/");
        self.as_ref().map(|stall| text(stall).into())
    }
}

/// A mean must not be 0, because calculations divide by it.
fn mean(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("a mean must be more than 0; for no delay write fixed=0s".into()),
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

/// Keeps a mean that was given before.
fn dist(text: &str, before: Distribution) -> Result<Distribution, String> {
    match (text, before) {
        ("exp", Distribution::Exponential(_)) => Ok(before),
        ("exp", _) => Ok(Distribution::Exponential(MEAN)),
        ("fixed" | "uniform" | "bimodal", _) => Err(format!("write {text}=TIME... instead")),
        _ => Err(format!("'{text}' must be exp; other laws are fixed=, uniform= and bimodal=")),
    }
}
