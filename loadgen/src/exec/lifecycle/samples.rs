//! What a thread samples of itself while it measures: its rate, and its use of the processor.

use std::time::Duration;

use echopool::time::Time;

use super::Lifecycle;
use crate::stats::cpu::ThreadUse;

/// The length of a sample of the rate.
const SAMPLE: Duration = Duration::from_millis(100);

/// The samples of the measured period. Before it, when the run warms up, there are none.
#[derive(Default)]
pub struct Samples {
    /// The present one, and the replies before it.
    began: Option<Time>,
    replies: u64,
    /// What the thread had used before the first.
    used_before: ThreadUse,
}

impl Samples {
    #[inline]
    pub fn have_begun(&self) -> bool {
        self.began.is_some()
    }

    /// When the present one is over.
    #[inline]
    pub fn next(&self) -> Option<Time> {
        self.began.map(|began| began + SAMPLE)
    }

    /// What the thread had used before the measured period.
    pub fn used_before(&self) -> ThreadUse {
        self.used_before
    }
}

impl Lifecycle {
    /// Begins the samples when the warm-up is over. Answers whether that is just now.
    #[inline]
    pub fn begin_samples(&mut self, now: Time) -> bool {
        if self.samples.have_begun() || now < self.period.record_from {
            return false;
        }
        self.samples.began = Some(self.period.record_from);
        self.samples.used_before = ThreadUse::now();
        self.stalls.take_longest();
        true
    }

    /// Takes a sample if it is time. Answers whether it was.
    #[inline]
    pub fn sample(&mut self, now: Time) -> bool {
        let Some(span) = self.samples.began.map(|began| now - began) else { return false };
        if span < SAMPLE {
            return false;
        }
        self.records.rate(self.records.replies - self.samples.replies, span);
        self.samples.began = Some(now);
        self.samples.replies = self.records.replies;
        true
    }

    /// The period has ended. One that was too short for a sample is one.
    pub(super) fn end_samples(&mut self) {
        if self.samples.have_begun() {
            self.records.thread_uses.push(ThreadUse::now().since(self.samples.used_before));
        }
        if self.records.rates.is_empty() {
            self.records.rate(self.records.replies, self.records.elapsed());
        }
    }
}
