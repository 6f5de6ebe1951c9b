//! Words that the live view and the plain lines have in common.

use crate::plan::Plan;
use crate::stats::tally::{BEHIND, Snapshot};
use crate::units::{counted, counted_of, time_text};
use crate::view::progress::RunStage;

/// The stage of the run, and how far it is.
pub fn stage(plan: &Plan, stage: RunStage, counts: &Snapshot) -> String {
    match stage {
        RunStage::Connecting => "connecting".into(),
        RunStage::Measuring(since) if since.is_zero() && !plan.warmup.is_zero() => {
            "warming up".into()
        }
        RunStage::Measuring(since) => {
            let since = since.as_secs_f64();
            match (plan.duration, plan.own_requests()) {
                (Some(duration), _) => format!("measuring: {since:.1}s of {duration:?}"),
                (None, Some(requests)) => {
                    let replies = counted_of(counts.replies, requests, "reply");
                    format!("measuring: {since:.1}s, {replies}")
                }
                (None, None) => format!("measuring: {since:.1}s"),
            }
        }
        RunStage::Finishing => "finishing".into(),
    }
}

/// Open connections of those asked for.
pub fn connections(plan: &Plan, counts: &Snapshot) -> String {
    counted_of(counts.open, plan.connections, "connection")
}

/// How many errors there were.
pub fn errors(counts: &Snapshot) -> String {
    counted(counts.errors(), "error")
}

/// Says that an open loop is behind its schedule, for whatever reason: the server or the generator
/// cannot sustain the rate, or there are too few connections.
pub fn behind(stage: RunStage, counts: &Snapshot) -> Option<String> {
    let late = counts.behind;
    let is_measuring = matches!(stage, RunStage::Measuring(since) if !since.is_zero());
    (is_measuring && late > BEHIND).then(|| format!("{} behind its schedule", time_text(late)))
}
