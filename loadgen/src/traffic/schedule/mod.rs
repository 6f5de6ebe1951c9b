//! When requests of an open loop are sent. Pure arithmetic without a clock or I/O, so it can be
//! tested in virtual time. `dispatch` assigns them to connections.
//!
//! The rate over time is a [`Profile`]. It maps a *position*, the number of requests due so far, to
//! a time. The constant schedule of a run has the positions 0, 1, 2 and so on, each of which
//! belongs to one thread or connection (a [`Lane`]). However many lanes share the rate, together
//! they form one evenly spaced schedule, and no two send at the same time. A Poisson schedule moves
//! from position to position by exponentially distributed steps, which gives a Poisson process of
//! the profile's rate (time-rescaling theorem). The processes of the lanes are independent, and
//! their sum is again a Poisson process.
//!
//! A schedule is computed step by step and takes a few words of memory, whatever its length.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::str::FromStr;
use std::time::Duration;

use crate::traffic::payload::Stream;
use crate::traffic::rate::Rate;
use crate::units;

/// Positions are counted in such small parts of a request that a rate in its units times nanoseconds
/// is exactly a position.
const REQUEST: u128 = NANOS_PER_SECOND as u128 * Rate::PER_SECOND as u128;
/// Stages of `--stages`. More are an error of a script.
const STAGES_MAX: usize = 1_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A part of a run that has its own rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage {
    pub length: Duration,
    /// The rate at the start and at the end. In between it changes linearly.
    pub from: Rate,
    pub to: Rate,
}

/// The grammar of `--stages`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stages(pub Vec<Stage>);

impl FromStr for Stages {
    type Err = String;

    fn from_str(text: &str) -> Result<Stages, String> {
        let stages: Vec<_> = text.split(',').map(parse_stage).collect::<Result<_, _>>()?;
        if stages.len() > STAGES_MAX {
            return Err(format!("{} stages; at most {STAGES_MAX}", stages.len()));
        }
        match stages.iter().all(|stage| stage.from == Rate::ZERO && stage.to == Rate::ZERO) {
            true => Err("no stage has a rate".into()),
            false => Ok(Stages(stages)),
        }
    }
}

fn parse_stage(text: &str) -> Result<Stage, String> {
    let help = "a stage is TIME:RATE or TIME:RATE-RATE: 10s:1k, 20s:1k-5k";
    let (length, rates) = text.split_once(':').ok_or_else(|| format!("'{text}': {help}"))?;
    let (from, to) = rates.split_once('-').unwrap_or((rates, rates));
    Ok(Stage { length: units::duration(length)?, from: from.parse()?, to: to.parse()? })
}

/// The rate over the time since the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Without gaps. The last one has no end.
    segments: Vec<Segment>,
    /// Nothing is due at this position and after it.
    end: u128,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    begin_ns: u64,
    begin: u128,
    length_ns: u64,
    /// In the units of a rate.
    from: u64,
    to: u64,
}

impl Profile {
    /// The stages in order, after a `warmup` at the initial rate of the first one. After the last
    /// stage its final rate continues.
    pub fn new(warmup: Duration, stages: &[Stage]) -> Profile {
        let mut profile =
            Profile { segments: Vec::with_capacity(stages.len() + 2), end: u128::MAX };
        let (first, last) = (stages[0].from.units(), stages[stages.len() - 1].to.units());
        profile.push(warmup.as_nanos() as u64, first, first);
        for stage in stages {
            profile.push(stage.length.as_nanos() as u64, stage.from.units(), stage.to.units());
        }
        profile.push(u64::MAX, last, last);
        profile
    }

    /// The stages that the profile was made from.
    pub fn stages(&self) -> impl Iterator<Item = Stage> {
        let stages = self.segments.iter().skip(1).take(self.segments.len() - 2);
        stages.map(|&Segment { length_ns, from, to, .. }| Stage {
            length: Duration::from_nanos(length_ns),
            from: Rate::of_units(from),
            to: Rate::of_units(to),
        })
    }

    /// Ends the schedule after the first `requests` of the measured period, whichever lanes they
    /// belong to. `lanes`: all lanes of the run, at their first request.
    ///
    /// Takes less time than the run: of random arrivals, each is computed once.
    pub fn end_after(&mut self, requests: u64, lanes: Vec<Arrivals>) {
        let warmup = self.segments[0].end();
        let is_const = lanes.iter().all(|lane| lane.spacing == Spacing::Const);
        self.end = match is_const {
            true => warmup.next_multiple_of(REQUEST) + u128::from(requests) * REQUEST,
            false => position_after(requests, warmup, lanes),
        };
    }

    /// When the request after the last one would be due at the earliest, in nanoseconds from the
    /// start; `None` if the schedule has no end, or never comes so far.
    pub fn end_ns(&self) -> Option<u64> {
        let nth = self.segments.partition_point(|segment| segment.end() < self.end);
        self.segments.get(nth).map(|segment| segment.time_of(self.end))
    }

    /// The rate at this time from the start (with a warm-up: its start), in requests per second.
    pub fn rate_at(&self, since: Duration) -> f64 {
        let nanos = since.as_nanos() as u64;
        let nth = self.segments.partition_point(|segment| segment.begin_ns <= nanos);
        let Segment { begin_ns, length_ns, from, to, .. } = self.segments[nth.saturating_sub(1)];
        let share = (nanos - begin_ns) as f64 / length_ns as f64;
        let units = from as f64 + (to as f64 - from as f64) * share;
        units / Rate::PER_SECOND as f64
    }

    fn push(&mut self, length_ns: u64, from: u64, to: u64) {
        let (begin_ns, begin) = match self.segments.last() {
            None => (0, 0),
            Some(last) => (last.begin_ns.saturating_add(last.length_ns), last.end()),
        };
        self.segments.push(Segment { begin_ns, begin, length_ns, from, to });
    }

    /// Nanoseconds from the start to the time at which this many (parts of) requests are due;
    /// [`u64::MAX`] if that never happens. Exact and rounded down where the rate is constant.
    fn time_of(&self, position: u128) -> u64 {
        if position >= self.end {
            return u64::MAX;
        }
        let nth = self.segments.partition_point(|segment| segment.end() <= position);
        self.segments.get(nth).map_or(u64::MAX, |segment| segment.time_of(position))
    }
}

/// The position of the request that follows the first `requests` from `begin` on.
fn position_after(requests: u64, begin: u128, mut lanes: Vec<Arrivals>) -> u128 {
    // Almost certainly there are fewer before this position; there, each lane is counted alone.
    let margin = 8 * requests.isqrt() + 8;
    let near = begin + u128::from(requests.saturating_sub(margin)) * REQUEST;
    let mut left = requests;
    for lane in &mut lanes {
        lane.skip_to(begin);
        let counted = lane.skip_to(near.max(begin));
        left = left.checked_sub(counted).expect("a Poisson process within eight deviations");
    }
    // The rest in order.
    let of_lane = |(nth, lane): (usize, &Arrivals)| Reverse((lane.position, nth));
    let mut order: BinaryHeap<_> = lanes.iter().enumerate().map(of_lane).collect();
    loop {
        let mut first = order.peek_mut().expect("a run has a lane");
        let Reverse((position, nth)) = *first;
        if left == 0 {
            return position;
        }
        left -= 1;
        lanes[nth].skip_one();
        *first = Reverse((lanes[nth].position, nth));
    }
}

impl Segment {
    fn end(&self) -> u128 {
        let twice = u128::from(self.from) + u128::from(self.to);
        self.begin + twice * u128::from(self.length_ns) / 2
    }

    fn time_of(&self, position: u128) -> u64 {
        let done = position - self.begin;
        let within = if self.from == self.to {
            u64::try_from(done / u128::from(self.from)).unwrap_or(u64::MAX)
        } else {
            // The root of the quadratic in the form that does not lose digits.
            let (from, to) = (self.from as f64, self.to as f64);
            let curve = 2.0 * (to - from) / self.length_ns as f64;
            let done = done as f64;
            let root = (from * from + curve * done).max(0.0).sqrt();
            ((2.0 * done / (from + root)) as u64).min(self.length_ns)
        };
        self.begin_ns.saturating_add(within)
    }
}

/// How requests follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Spacing {
    /// At equal intervals.
    #[default]
    Const,
    /// Like the requests of many independent users: a Poisson process.
    Poisson,
}

/// The positions of a run that belong to a thread or to a connection.
///
/// A cycle has one position for each connection of the run. Threads take turns in it, so a thread
/// with more connections has a larger share of the rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lane {
    /// The number of its first connection in the order of the thread, and the number of its
    /// connections.
    first: u64,
    connections: u64,
    thread: u64,
    threads: u64,
    connections_all: u64,
    /// Threads before this one that have one connection more than the others.
    larger_before: u64,
}

impl Lane {
    /// The part of thread number `thread`, which has `connections` of all.
    pub fn of_thread(thread: u64, threads: u64, connections: u64, connections_all: u64) -> Lane {
        let count = |thread: u64| {
            connections_all * (thread + 1) / threads - connections_all * thread / threads
        };
        debug_assert_eq!(count(thread), connections);
        let larger = |thread: &u64| count(*thread) > connections_all / threads;
        let larger_before = (0..thread).filter(larger).count() as u64;
        Lane { first: 0, connections, thread, threads, connections_all, larger_before }
    }

    /// The part of one connection of the thread.
    pub fn of_connection(self, nth: u64) -> Lane {
        Lane { first: nth, connections: 1, ..self }
    }

    /// The position of the lane's `nth` request among those of all lanes.
    fn position(&self, nth: u64) -> u64 {
        let (cycle, local) = (nth / self.connections, nth % self.connections + self.first);
        let each = self.connections_all / self.threads;
        let place = match local < each {
            true => self.thread + local * self.threads,
            false => each * self.threads + self.larger_before,
        };
        cycle * self.connections_all + place
    }

    /// The number of requests of all lanes for each request of this one.
    fn one_of(&self) -> f64 {
        self.connections_all as f64 / self.connections as f64
    }
}

/// The requests of one lane, in the order of their times.
#[derive(Clone, Debug)]
pub struct Arrivals {
    lane: Lane,
    spacing: Spacing,
    random: Stream,
    taken: u64,
    position: u128,
    next_ns: u64,
}

impl Arrivals {
    /// `seed` and `number` seed the random numbers; `number` differs for each lane.
    pub fn new(
        profile: &Profile,
        spacing: Spacing,
        lane: Lane,
        seed: u64,
        number: u64,
    ) -> Arrivals {
        let random = Stream::new(seed ^ ARRIVALS_SALT, number);
        let mut arrivals = Arrivals { lane, spacing, random, taken: 0, position: 0, next_ns: 0 };
        arrivals.find_next(profile);
        arrivals
    }

    /// When the next request is to be sent, in nanoseconds from the start; [`u64::MAX`] if there is
    /// none.
    #[inline]
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Advances to the next request.
    #[inline]
    pub fn advance(&mut self, profile: &Profile) {
        self.taken += 1;
        self.find_next(profile);
    }

    fn find_next(&mut self, profile: &Profile) {
        self.find_position();
        self.next_ns = profile.time_of(self.position);
    }

    /// Advances without computing the time.
    fn skip_one(&mut self) {
        self.taken += 1;
        self.find_position();
    }

    /// Advances to the first request at this position or after it. Returns how many were skipped.
    fn skip_to(&mut self, position: u128) -> u64 {
        let before = self.taken;
        while self.position < position {
            self.skip_one();
        }
        self.taken - before
    }

    fn find_position(&mut self) {
        self.position = match self.spacing {
            Spacing::Const => u128::from(self.lane.position(self.taken)) * REQUEST,
            Spacing::Poisson => {
                let step = exponential(self.random.draw(self.taken)) * self.lane.one_of();
                self.position + (step * REQUEST as f64) as u128
            }
        };
    }
}

/// Makes arrivals and payload independent.
const ARRIVALS_SALT: u64 = 0x6172_7269_7661_6c73;

/// An exponentially distributed number with mean 1, by inversion of a uniform one: 53 bits of it,
/// above 0 and at most 1.
fn exponential(random: u64) -> f64 {
    let unit = ((random >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -unit.ln()
}

/// The sum of the stages' lengths.
pub fn length(stages: &[Stage]) -> Duration {
    stages.iter().map(|stage| stage.length).sum()
}

/// A stage with a constant rate and no end.
pub fn steady(rate: Rate) -> Stage {
    Stage { length: Duration::from_nanos(NANOS_PER_SECOND), from: rate, to: rate }
}

#[cfg(test)]
mod tests;
