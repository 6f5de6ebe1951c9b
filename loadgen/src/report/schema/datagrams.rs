//! Results of several runs over UDP, added up.

use super::{DatagramCounts, Distribution, StampDirection, StampSummary};

impl DatagramCounts {
    /// Both together. The mean of the jitter is that over the sockets of both.
    pub fn plus(&self, other: &DatagramCounts) -> DatagramCounts {
        let (sent, lost) = (self.sent + other.sent, self.lost + other.lost);
        let jitters =
            [(self.jitter_ns, self.jitter_sockets), (other.jitter_ns, other.jitter_sockets)];
        DatagramCounts {
            sent,
            lost,
            lost_ratio: lost as f64 / sent.max(1) as f64,
            late: self.late + other.late,
            duplicated: self.duplicated + other.duplicated,
            out_of_order: self.out_of_order + other.out_of_order,
            corrupted: self.corrupted + other.corrupted,
            truncated: self.truncated + other.truncated,
            socket_errors: self.socket_errors + other.socket_errors,
            jitter_ns: mean(jitters),
            jitter_max_ns: self.jitter_max_ns.max(other.jitter_max_ns),
            jitter_sockets: self.jitter_sockets + other.jitter_sockets,
        }
    }
}

impl StampSummary {
    /// Both together. What one of them does not know, such as the losses by direction, or the delays
    /// because its clocks do not agree, is not known of both.
    ///
    /// # Errors
    /// A histogram is missing or malformed.
    pub fn plus(&self, other: &StampSummary) -> Result<StampSummary, String> {
        let sockets = [self.jitter_sockets, other.jitter_sockets];
        // Clocks that nothing was measured with contradict nothing.
        let known = [self, other].map(|one| one.clocks_agree || one.is_empty());
        let clocks_agree = known == [true; 2] && (self.clocks_agree || other.clocks_agree);
        let reasons = [self, other].into_iter().filter(|one| !one.is_empty());
        let reason = reasons.chain([self]).find_map(|one| one.clocks_reason.clone());
        Ok(StampSummary {
            round_trip: self.round_trip.plus(&other.round_trip)?,
            residence: self.residence.plus(&other.residence)?,
            there: self.there.plus(&other.there, sockets, clocks_agree)?,
            back: self.back.plus(&other.back, sockets, clocks_agree)?,
            lost_unknown: sum(self.lost_unknown, other.lost_unknown),
            clocks_agree,
            clocks_reason: reason.filter(|_| !clocks_agree),
            clock_error_ns: self.clock_error_ns.max(other.clock_error_ns),
            jitter_sockets: self.jitter_sockets + other.jitter_sockets,
        })
    }

    /// Whether there was no reply.
    fn is_empty(&self) -> bool {
        self.round_trip.percentiles.count == 0
    }

    /// The distributions that are known, each with its keys.
    pub fn by_name(&self) -> Vec<(&'static str, &Distribution)> {
        let known = [
            ("round_trip", &self.round_trip),
            ("residence", &self.residence),
            ("there_variation", &self.there.variation),
            ("back_variation", &self.back.variation),
        ];
        let delays = [("there_delay", &self.there.delay), ("back_delay", &self.back.delay)];
        let delays = delays.into_iter().filter_map(|(key, delay)| Some((key, delay.as_ref()?)));
        let all = known.into_iter().chain(delays);
        all.filter(|(_, distribution)| distribution.percentiles.count > 0).collect()
    }
}

impl StampDirection {
    fn plus(
        &self,
        other: &StampDirection,
        sockets: [u64; 2],
        clocks_agree: bool,
    ) -> Result<StampDirection, String> {
        let delay = match (&self.delay, &other.delay) {
            (Some(one), Some(other)) => Some(one.plus(other)?),
            // The other one had no reply, if the clocks agree all the same.
            (one, other) => one.as_ref().or(other.as_ref()).cloned(),
        };
        let jitters = [(self.jitter_ns, sockets[0]), (other.jitter_ns, sockets[1])];
        Ok(StampDirection {
            lost: sum(self.lost, other.lost),
            duplicated: sum(self.duplicated, other.duplicated),
            delay: delay.filter(|_| clocks_agree),
            variation: self.variation.plus(&other.variation)?,
            jitter_ns: mean(jitters),
            jitter_max_ns: self.jitter_max_ns.max(other.jitter_max_ns),
        })
    }
}

/// `None` unless both are known.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    Some(one? + other?)
}

/// The mean of means, each with the number of its values.
fn mean(means: [(u64, u64); 2]) -> u64 {
    let count: u64 = means.iter().map(|(_, count)| count).sum();
    let sum: u64 = means.iter().map(|(mean, count)| mean * count).sum();
    sum / count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::distinct::stamp_report;
    use crate::report::schema::RunSummary;

    fn stamp(nth: u64) -> StampSummary {
        RunSummary::new(&stamp_report(nth)).stamp.expect("it was against a reflector")
    }

    #[test]
    fn clocks_disagree_for_the_reason_of_the_run_that_has_replies() {
        let agrees = stamp(0);
        assert!(agrees.clocks_agree && agrees.clocks_reason.is_none());
        let because = |why: &str, one: StampSummary| StampSummary {
            clocks_agree: false,
            clocks_reason: Some(why.into()),
            ..one
        };
        let disagrees = because("theirs", stamp(1));
        let mut silent = because("no reply", stamp(1));
        silent.round_trip.percentiles.count = 0;
        for (one, other, reason) in [
            (&agrees, &disagrees, Some("theirs")),
            (&disagrees, &agrees, Some("theirs")),
            (&silent, &disagrees, Some("theirs")),
            (&disagrees, &silent, Some("theirs")),
            (&silent, &silent, Some("no reply")),
            (&agrees, &silent, None),
            (&silent, &agrees, None),
        ] {
            let sum = one.plus(other).expect("well-formed histograms");
            assert_eq!(sum.clocks_reason.as_deref(), reason);
            assert_eq!(sum.clocks_agree, reason.is_none());
        }
    }

    #[test]
    fn distributions_without_a_value_have_no_name() {
        let mut stamp = stamp(0);
        let names = |stamp: &StampSummary| -> Vec<&str> {
            stamp.by_name().into_iter().map(|(name, _)| name).collect()
        };
        let all = ["round_trip", "residence", "there_variation", "back_variation"];
        assert_eq!(names(&stamp), [&all[..], &["there_delay", "back_delay"]].concat());
        stamp.residence.percentiles.count = 0;
        stamp.there.delay = None;
        assert_eq!(
            names(&stamp),
            ["round_trip", "there_variation", "back_variation", "back_delay"]
        );
    }
}
