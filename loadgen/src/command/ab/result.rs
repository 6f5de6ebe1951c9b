//! What the rounds show: each target in all of them together, the differences, and how it ended.

use std::sync::Arc;

use super::Rounds;
use crate::error::Exit;
use crate::plan::Plan;
use crate::report::difference::{FIGURES, Values, judge, metrics};
use crate::report::ending::{EndState, Ending, Objectives};
use crate::report::schema::{ConditionResult, SliceSummary};
use crate::report::{Report, Verdict};
use crate::stats::fail_if::{FailIf, by_text};
use crate::stats::slo::Metric;
use crate::units::{counted, counted_of};

/// A target's part of a round.
pub struct Slice {
    /// Its place in the order of the round, from 0.
    pub place: usize,
    pub report: Report,
}

/// One of the targets.
pub struct Side {
    /// A for the first one, B for the second.
    pub name: String,
    pub plan: Arc<Plan>,
    /// All slices together; `None` before the first one.
    pub whole: Option<Report>,
    /// The worst of the verdicts of its slices, with its reason. That the generator was late is
    /// judged for all slices together.
    worst: Option<(Verdict, String)>,
    /// For each metric, its value in each round.
    pub values: Values,
}

impl Side {
    fn add(&mut self, round: u64, report: Report) {
        let verdict = match report.verdict() {
            Verdict::GeneratorLimited => Verdict::Valid,
            // Its requests of the warm-up were still outstanding. If that is so in all slices, the
            // whole has the verdict.
            Verdict::NothingServed if report.records.offered == 0 => Verdict::Valid,
            verdict => verdict,
        };
        if verdict > self.worst() {
            let text = format!("{}, in round {round}", report.verdict_text());
            self.worst = Some((verdict, text));
        }
        match &mut self.whole {
            Some(whole) => whole.records.append(report.records),
            None => self.whole = Some(report),
        }
    }

    /// The worst verdict of a slice.
    fn worst(&self) -> Verdict {
        self.worst.as_ref().map_or(Verdict::Valid, |(verdict, _)| *verdict)
    }

    /// The worst of its slices, or whether the generator was late, or nothing measured, in all of
    /// them together.
    pub fn verdict(&self) -> Verdict {
        self.worst().max(self.whole.as_ref().map_or(Verdict::Valid, Report::verdict))
    }

    /// The verdict with its reason, in one line.
    pub fn verdict_text(&self) -> String {
        match (&self.worst, &self.whole) {
            (Some((_, text)), _) => text.clone(),
            (None, Some(whole)) => whole.verdict_text(),
            (None, None) => Verdict::Valid.word().into(),
        }
    }
}

/// The state of a comparison of targets.
pub struct Contest {
    pub rounds: Rounds,
    pub sides: Vec<Side>,
    /// All slices, in the order in which they were made.
    pub slices: Vec<SliceSummary>,
    pub conditions: Vec<FailIf>,
    pub interrupted: bool,
    /// Rounds that compare nothing, because no request was measured in one of their slices.
    pub left_out: u64,
    made: u64,
}

impl Contest {
    /// Before the first round.
    pub fn new<'a>(
        rounds: Rounds,
        plans: impl Iterator<Item = &'a Plan>,
        conditions: Vec<FailIf>,
    ) -> Contest {
        let metrics = metrics(&conditions);
        let side = |(name, plan): (char, &Plan)| Side {
            name: name.to_string(),
            plan: Arc::new(plan.clone()),
            whole: None,
            worst: None,
            values: Values::new(&metrics),
        };
        Contest {
            rounds,
            sides: ('A'..='Z').zip(plans).map(side).collect(),
            slices: Vec::new(),
            conditions,
            interrupted: false,
            left_out: 0,
            made: 0,
        }
    }

    /// Rounds in which every target had its slice.
    pub fn rounds_made(&self) -> u64 {
        self.made
    }

    /// Adds a round: the slices in the order of the targets. Returns them in the order in which they
    /// were made.
    pub fn add(&mut self, slices: Vec<Slice>) -> Vec<SliceSummary> {
        self.made += 1;
        let round = self.made;
        let mut made: Vec<_> = self
            .sides
            .iter()
            .zip(&slices)
            .map(|(side, slice)| SliceSummary::new(round, &side.name, slice.place, &slice.report))
            .collect();
        made.sort_by_key(|slice| slice.place);
        self.slices.extend(made.iter().cloned());
        // A round without a request to one of the targets compares nothing.
        let served = slices.iter().all(|slice| !slice.report.records.latency.is_empty());
        self.left_out += u64::from(!served);
        for (side, slice) in self.sides.iter_mut().zip(slices) {
            if served {
                let rate = slice.report.requests_per_second();
                side.values.add(&slice.report.records.latency, rate);
            }
            side.add(round, slice.report);
        }
        made
    }

    /// Whether further rounds are pointless: one of the targets did not do what was asked for.
    pub fn is_broken(&self) -> bool {
        self.sides.iter().any(|side| side.worst() > Verdict::Valid)
    }

    /// The first target, with which the others are compared, and the others.
    pub fn against(&self) -> (&Side, &[Side]) {
        self.sides.split_first().expect("there are targets")
    }

    /// Each condition for each target after the first one.
    pub fn judged(&self) -> Vec<ConditionResult> {
        let (first, others) = self.against();
        let of = |side: &Side| {
            let name = Some(side.name.as_str());
            judge(&self.conditions, name, |metric: Metric| {
                first.values.paired_with(&side.values, metric)
            })
        };
        others.iter().flat_map(of).collect()
    }

    /// The worst of the targets.
    pub fn verdict(&self) -> Verdict {
        self.sides.iter().map(Side::verdict).max().unwrap_or(Verdict::Valid)
    }

    /// The verdict with its reason, in one line.
    pub fn verdict_text(&self) -> String {
        let worst = self.sides.iter().max_by_key(|side| side.verdict());
        let worst = worst.filter(|side| side.verdict() > Verdict::Valid);
        let mut text = match worst {
            Some(side) => format!("{}: {}", side.name, side.verdict_text()),
            None => format!("{} ({})", Verdict::Valid.word(), counted(self.made, "round")),
        };
        if self.interrupted {
            let of_all = counted_of(self.made, self.rounds.count, "round");
            text += &format!("; interrupted after {of_all}");
        }
        text
    }

    /// The verdict, and the conditions that are not kept.
    pub fn result_text(&self) -> String {
        let conditions = self.judged();
        let not_kept = conditions.iter().filter(|one| one.exceeded || one.undecided);
        not_kept.fold(self.verdict_text(), |text, condition| format!("{text}; {condition}"))
    }

    /// What the exit code depends on.
    pub fn state(&self) -> EndState {
        let ending = if self.interrupted { Ending::Interrupted } else { Ending::Whole };
        EndState {
            verdict: self.verdict(),
            ending,
            objectives: Objectives::of_conditions(&self.judged()),
        }
    }

    /// How the program ends.
    pub fn exit(&self) -> Exit {
        self.state().exit()
    }

    /// The progress in one line: the rounds so far, and the difference of the last target.
    pub fn progress_text(&self) -> String {
        let (first, others) = self.against();
        let last = others.last().expect("at least two");
        let found = first.values.paired_with(&last.values, FIGURES[0]);
        let found = found.map_or(String::new(), |found| {
            let by = by_text(&found.by);
            format!(", {} - {}: p50 {by}", last.name, first.name)
        });
        format!("round {} of {}{found}", self.made, self.rounds.count)
    }
}
