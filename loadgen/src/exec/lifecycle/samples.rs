//! Samples of a thread during the measured period: its rate, and its use of the processor.

use std::time::Duration;

use echopool::time::Time;

use super::Lifecycle;
use crate::stats::cpu::ThreadUse;

/// Length of a sample of the rate.
const SAMPLE: Duration = Duration::from_millis(100);

/// The samples of the measured period. There are none during the warm-up.
#[derive(Default)]
pub struct Samples {
    /// The start of the current sample, and the replies before it.
    began: Option<Time>,
    replies: u64,
    /// What the thread had used before the first sample.
    used_before: ThreadUse,
}

impl Samples {
    #[inline]
    pub fn have_begun(&self) -> bool {
        self.began.is_some()
    }

    /// When the current sample ends.
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
    /// Begins sampling when the warm-up is over. Returns whether it has just begun.
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

    /// Takes a sample if it is due. Returns whether it was.
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

    /// Ends sampling with the period. A period shorter than a sample is one sample.
    pub(super) fn end_samples(&mut self) {
        if self.samples.have_begun() {
            self.records.thread_uses.push(ThreadUse::now().since(self.samples.used_before));
        }
        if self.records.rates.is_empty() {
            self.records.rate(self.records.replies, self.records.elapsed());
        }
    }
}
