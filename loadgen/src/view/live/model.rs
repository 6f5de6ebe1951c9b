//! What the live view knows of the run: its last seconds one by one, and the sum of all.

use std::collections::VecDeque;
use std::sync::Arc;

use echopool::time::Time;
use hdrhistogram::Histogram;

use crate::plan::Plan;
use crate::report::{Report, Verdict};
use crate::stats::cpu::ThreadUse;
use crate::stats::interval::Interval;
use crate::stats::records::{self, Records};
use crate::stats::tally::Snapshot;
use crate::view::progress::RunStage;

/// Seconds that the charts show, at most: ten minutes.
pub const HISTORY: usize = 600;

/// All that is drawn.
pub struct Model {
    /// Of a run that goes on.
    report: Report,
    /// Whether `q` ends the run.
    pub keys: bool,
    pub stage: RunStage,
    pub counts: Snapshot,
    pub seconds: VecDeque<Second>,
    /// The whole run so far; `None` before the first second is over.
    pub so_far: Option<SoFar>,
    /// The verdict if the run ended now, once a request was sent and a second is over.
    pub verdict: Option<(Verdict, String)>,
    /// The last message that the view hides.
    pub message: Option<String>,
    /// The latencies so far that are recorded at all, and how often.
    latencies: Vec<(u64, u64)>,
    /// Connects that had failed when the first request was sent.
    failed_before: Option<u64>,
    /// What the threads of clients had used then.
    used_before: Vec<ThreadUse>,
}

/// A second, or the last part of one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Second {
    /// Seconds since the measured period began.
    pub end: f64,
    pub rate: f64,
    /// The rate that the schedule asks for. `None` in a closed loop.
    pub wanted: Option<f64>,
    pub bytes_rate: f64,
    /// `None` without a reply.
    pub latency: Option<Latency>,
}

/// Nanoseconds at p50, p90, p99 and the maximum.
pub type Latency = [u64; 4];
/// Their names.
pub const LATENCY_NAMES: [&str; 4] = ["p50", "p90", "p99", "max"];

impl Model {
    pub fn new(plan: Arc<Plan>, keys: bool) -> Model {
        Model {
            report: Report::so_far(plan, Records::default()),
            keys,
            stage: RunStage::Connecting,
            counts: Snapshot::default(),
            seconds: VecDeque::with_capacity(HISTORY),
            so_far: None,
            verdict: None,
            message: None,
            latencies: Vec::new(),
            failed_before: None,
            used_before: Vec::new(),
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.report.plan
    }

    /// Takes the state of the run.
    pub fn now(&mut self, stage: RunStage, counts: &Snapshot) {
        (self.stage, self.counts) = (stage, *counts);
        // Zero is the warm-up.
        if self.failed_before.is_none() && matches!(stage, RunStage::Measuring(_)) {
            self.failed_before = Some(counts.connect_failed);
        }
        if self.used_before.is_empty() && matches!(stage, RunStage::Measuring(at) if !at.is_zero())
        {
            self.used_before = ThreadUse::times_of_clients();
        }
        self.verdict = self.judge();
    }

    /// Adds a second.
    pub fn second(&mut self, second: &Interval) {
        let length = second.length.as_secs_f64();
        if self.seconds.len() == HISTORY {
            self.seconds.pop_front();
        }
        self.seconds.push_back(Second {
            end: (second.start + second.length).as_secs_f64(),
            rate: second.rate(),
            wanted: self.wanted(second),
            bytes_rate: if length > 0.0 { second.bytes as f64 / length } else { 0.0 },
            latency: latency(&second.latency),
        });
        let records = &mut self.report.records;
        records.latency.add(&second.latency).expect("the bounds are equal");
        records.send_lag.add(&second.send_lag).expect("the bounds are equal");
        records.own_lag.add(&second.send_lag).expect("the bounds are equal");
        records.replies += second.replies;
        records.replies_late += second.replies_late;
        records.bytes += second.bytes;
        records.ended = Time::from_nanos((second.start + second.length).as_nanos() as u64);
        let now = ThreadUse::times_of_clients();
        if now.len() == self.used_before.len() {
            let both = now.iter().zip(&self.used_before);
            // The first redraw, at which they were first asked, came a little after the begin.
            let whole = self.report.records.elapsed();
            self.set_thread_uses(
                both.map(|(now, before)| now.since(*before).over(whole)).collect(),
            );
        }
        let report = &self.report;
        self.so_far = Some(SoFar {
            rate: report.requests_per_second(),
            bytes_rate: report.bytes_per_second(),
            latency: latency(&report.records.latency),
        });
        self.latencies = recorded(&report.records.latency);
    }

    /// What each thread of clients has used in the measured period so far.
    pub fn set_thread_uses(&mut self, uses: Vec<ThreadUse>) {
        self.report.records.thread_uses = uses;
    }

    /// The rate of the schedule in the middle of a second. With a hub, broadcasts are scheduled and
    /// their copies are counted.
    fn wanted(&self, second: &Interval) -> Option<f64> {
        let plan = self.plan();
        let open_loop = plan.open_loop.as_ref().filter(|_| plan.hub.is_none())?;
        let middle = plan.warmup + second.start + second.length / 2;
        Some(open_loop.profile.rate_at(middle) / plan.shard.count as f64)
    }

    /// The latencies so far, in this many steps of equal ratio: up to which latency each is, and how
    /// many it has.
    pub fn distribution(&self, steps: usize) -> Vec<(u64, u64)> {
        distribution(&self.latencies, steps)
    }

    fn judge(&mut self) -> Option<(Verdict, String)> {
        let begun = self.failed_before?;
        let counts = self.counts;
        let is_open = self.plan().open_loop.is_some();
        let connections = self.plan().connections;
        let records = &mut self.report.records;
        let sent = if is_open { records.send_lag.len() } else { 1 };
        if self.seconds.is_empty() || sent + records.replies == 0 {
            return None;
        }
        records.requests = sent;
        records.established = connections.saturating_sub(begun);
        records.reconnects_failed = counts.connect_failed.saturating_sub(begun);
        records.losses.failed = counts.lost;
        records.mismatches = counts.mismatches;
        records.replies_each.clear();
        records.replies_each.push(records.replies);
        Some((self.report.verdict(), self.report.verdict_so_far()))
    }
}

/// Figures of the whole run so far.
pub struct SoFar {
    pub rate: f64,
    pub bytes_rate: f64,
    pub latency: Option<Latency>,
}

fn latency(values: &Histogram<u64>) -> Option<Latency> {
    let at = |percentile| records::percentile(values, percentile);
    (!values.is_empty()).then(|| [at(50.0), at(90.0), at(99.0), values.max()])
}

fn recorded(values: &Histogram<u64>) -> Vec<(u64, u64)> {
    let steps = values.iter_recorded();
    steps.map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

fn distribution(values: &[(u64, u64)], steps: usize) -> Vec<(u64, u64)> {
    let ([(low, _), ..], [.., (high, _)], 1..) = (values, values, steps) else {
        return Vec::new();
    };
    let ratio = *high as f64 / *low as f64;
    let end = |nth: usize| (*low as f64 * ratio.powf((nth + 1) as f64 / steps as f64)) as u64;
    let mut all: Vec<_> = (0..steps).map(|nth| (end(nth), 0)).collect();
    // Rounding must not leave the maximum out.
    all[steps - 1].0 = *high;
    let mut nth = 0;
    for (value, count) in values {
        while nth + 1 < steps && *value > all[nth].0 {
            nth += 1;
        }
        all[nth].1 += count;
    }
    all
}

/// How long the seconds of the charts are before now.
pub fn span(seconds: &VecDeque<Second>) -> [f64; 2] {
    let end = seconds.back().map_or(1.0, |second| second.end);
    let begin = match seconds.front() {
        Some(first) if first.end < end => first.end,
        _ => 0.0,
    };
    [begin, end.max(begin + 1e-3)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::records::latency_histogram;

    #[test]
    fn each_latency_is_in_one_step_and_no_step_is_missing() {
        let values = [(1_000, 7), (1_001, 7), (3_000, 7), (10_000, 7), (99_000, 7), (100_000, 8)];
        for steps in 1..40 {
            let all = distribution(&values, steps);
            assert_eq!(all.len(), steps);
            assert_eq!(all.iter().map(|step| step.1).sum::<u64>(), 43, "{all:?}");
            assert!(all.is_sorted_by(|one, next| one.0 < next.0), "{all:?}");
            assert_eq!(all[steps - 1].0, 100_000);
        }
        assert_eq!(distribution(&values, 2), [(10_000, 28), (100_000, 15)]);
        assert_eq!((distribution(&[], 3), distribution(&values, 0)), (vec![], vec![]));
        assert_eq!(distribution(&[(5, 2)], 3).iter().map(|step| step.1).sum::<u64>(), 2);
        let mut histogram = latency_histogram();
        (1..=500).for_each(|value| histogram.record_n(value, 3).expect("in bounds"));
        assert_eq!(recorded(&histogram).len(), 500);
        assert_eq!(recorded(&histogram)[499], (500, 3));
    }
}
