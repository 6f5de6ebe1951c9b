//! The measured period second by second, in bounded memory: if there are too many seconds, two are
//! merged into one.

use std::time::Duration;

/// Seconds in an hour. A longer run has longer steps.
const STEPS_MAX: usize = 3_600;

/// What happened in one step, in one thread or in all.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Second {
    /// Threads that contribute to it.
    pub threads: u32,
    /// Its length, summed over the threads, in nanoseconds.
    pub span_ns: u64,
    /// Requests sent.
    pub sent: u64,
    /// Complete replies.
    pub replies: u64,
    /// Outstanding requests, integrated over time: requests times nanoseconds.
    pub outstanding_ns: u64,
    /// The sum of the times from send to reply, over those replies.
    pub service_ns: u64,
    /// Time of all threads on a processor, and waiting for one.
    pub running_ns: u64,
    pub waiting_ns: u64,
    /// Time in which threads polled and found nothing.
    pub polling_ns: u64,
}

impl Second {
    /// Its length in wall-clock time.
    pub fn length(&self) -> Duration {
        Duration::from_nanos(self.span_ns / u64::from(self.threads.max(1)))
    }

    /// Outstanding requests on average, as counted: Little's L.
    pub fn outstanding_mean(&self) -> f64 {
        self.outstanding_ns as f64 / (self.length().as_nanos() as f64).max(1.0)
    }

    /// The same computed from the replies: their rate times their mean service time. By Little's
    /// law both are equal, except for the requests that extend into the next second.
    pub fn outstanding_expected(&self) -> f64 {
        self.service_ns as f64 / (self.length().as_nanos() as f64).max(1.0)
    }

    /// Adds the same time of another thread.
    fn beside(self, other: Second) -> Second {
        Second { threads: self.threads + other.threads, ..self.sum(other) }
    }

    /// Adds the time that follows.
    fn then(self, other: Second) -> Second {
        Second { threads: self.threads.max(other.threads), ..self.sum(other) }
    }

    fn sum(self, other: Second) -> Second {
        Second {
            threads: 0,
            span_ns: self.span_ns + other.span_ns,
            sent: self.sent + other.sent,
            replies: self.replies + other.replies,
            outstanding_ns: self.outstanding_ns + other.outstanding_ns,
            service_ns: self.service_ns + other.service_ns,
            running_ns: self.running_ns + other.running_ns,
            waiting_ns: self.waiting_ns + other.waiting_ns,
            polling_ns: self.polling_ns + other.polling_ns,
        }
    }
}

/// All steps of a run, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Series {
    step: Duration,
    steps: Vec<Second>,
}

impl Default for Series {
    fn default() -> Series {
        Series { step: Duration::from_secs(1), steps: Vec::with_capacity(STEPS_MAX) }
    }
}

impl Series {
    /// Its memory in bytes, at most.
    pub const BYTES: u64 = (STEPS_MAX * size_of::<Second>()) as u64;

    /// The length of a step; the last one may be shorter.
    pub fn step(&self) -> Duration {
        self.step
    }

    pub fn steps(&self) -> &[Second] {
        &self.steps
    }

    /// Adds the next step. The step after it may have another [length](Series::step).
    pub fn push(&mut self, second: Second) {
        if self.steps.len() == STEPS_MAX {
            self.coarsen();
        }
        self.steps.push(second);
    }

    /// Adds the series of another thread that began at the same time.
    pub fn merge(&mut self, mut other: Series) {
        while self.step < other.step {
            self.coarsen();
        }
        while other.step < self.step {
            other.coarsen();
        }
        if self.steps.len() < other.steps.len() {
            self.steps.resize(other.steps.len(), Second::default());
        }
        for (to, from) in self.steps.iter_mut().zip(other.steps) {
            *to = to.beside(from);
        }
    }

    fn coarsen(&mut self) {
        let pairs = self.steps.len().div_ceil(2);
        for nth in 0..pairs {
            let first = self.steps[2 * nth];
            let second = self.steps.get(2 * nth + 1);
            self.steps[nth] = second.map_or(first, |second| first.then(*second));
        }
        self.steps.truncate(pairs);
        self.step *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(replies: u64) -> Second {
        let span_ns = 1_000_000_000;
        let service_ns = replies * 2_000_000;
        Second {
            threads: 1,
            span_ns,
            replies,
            service_ns,
            outstanding_ns: service_ns,
            ..Second::default()
        }
    }

    #[test]
    fn littles_law_holds_for_what_is_consistent() {
        let mut both = Series::default();
        both.push(second(1_000));
        let mut other = Series::default();
        other.push(second(3_000));
        both.merge(other);
        let [sum] = both.steps() else { panic!("one step") };
        assert_eq!((sum.length(), sum.replies), (Duration::from_secs(1), 4_000));
        assert_eq!((sum.outstanding_mean(), sum.outstanding_expected()), (8.0, 8.0));
    }

    #[test]
    fn a_long_run_has_coarser_steps_and_loses_nothing() {
        let mut series = Series::default();
        let mut pushed = 0;
        while pushed < 10_000 {
            let step = series.step().as_secs();
            (0..step).for_each(|_| pushed += 1);
            let span_ns = step * 1_000_000_000;
            series.push(Second { span_ns, ..second(step) });
        }
        assert!(series.steps().len() <= STEPS_MAX);
        assert_eq!(series.steps().iter().map(|step| step.replies).sum::<u64>(), pushed);
        assert_eq!(series.step(), Duration::from_secs(4));

        let mut short = Series::default();
        short.push(second(5));
        short.merge(series.clone());
        assert_eq!((short.step(), short.steps().len()), (series.step(), series.steps().len()));
        assert_eq!(short.steps()[0].replies, series.steps()[0].replies + 5);
    }

    #[test]
    fn each_figure_of_a_second_is_added_to_its_own() {
        let of = |first: u64| Second {
            threads: first as u32,
            span_ns: first + 1,
            sent: first + 2,
            replies: first + 3,
            outstanding_ns: first + 4,
            service_ns: first + 5,
            running_ns: first + 6,
            waiting_ns: first + 7,
            polling_ns: first + 8,
        };
        let sum = |threads| Second {
            threads,
            span_ns: 112,
            sent: 114,
            replies: 116,
            outstanding_ns: 118,
            service_ns: 120,
            running_ns: 122,
            waiting_ns: 124,
            polling_ns: 126,
        };
        assert_eq!(of(10).beside(of(100)), sum(110));
        assert_eq!(of(10).then(of(100)), sum(100));
    }

    #[test]
    fn a_series_with_shorter_steps_is_added_to_one_with_longer_ones() {
        let mut long = Series::default();
        (0..=STEPS_MAX).for_each(|_| long.push(second(1)));
        let mut short = Series::default();
        (0..4).for_each(|_| short.push(second(10)));
        long.merge(short);
        let replies: Vec<_> = long.steps()[..3].iter().map(|step| step.replies).collect();
        assert_eq!((long.step(), replies), (Duration::from_secs(2), vec![22, 22, 2]));
    }
}
