//! How a run, a search, a comparison, or several runs taken together have ended, and the exit code:
//! one table. `docs/loadgen.md` repeats it, and `tests/ends.rs` makes each of its rows happen.

use super::Verdict;
use super::schema::{MergedSummary, ObjectiveResult, RunSummary};
use crate::error::{Exit, Failure};

/// What the exit code depends on, if there is a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndState {
    pub verdict: Verdict,
    pub ending: Ending,
    pub objectives: Objectives,
}

/// Whether it ended before its time, the worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ending {
    Whole,
    /// By `--abort-on-fail`.
    Aborted,
    /// A run in a file was ended by a signal or a key.
    PartInterrupted,
    /// By a signal or a key.
    Interrupted,
}

/// Whether the objectives are met, the worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Objectives {
    Met,
    /// There are none.
    NotGiven,
    /// A condition of a comparison is not decided by its rounds or runs.
    ConditionUndecided,
    Undecided,
    /// One was missed by the whole run, or by the second that ended it.
    Missed,
    /// A condition of a comparison holds.
    ConditionHolds,
}

/// With a result or without.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    Failure(&'a Failure),
    State(EndState),
}

/// A row of the table.
pub struct Row {
    /// As it stands in the documentation.
    pub when: &'static str,
    pub exit: Exit,
    applies: fn(&End<'_>) -> bool,
}

/// The first row that applies determines the exit code.
pub const TABLE: [Row; 16] = [
    row("the command line asks for something impossible", Exit::Usage, |end| {
        matches!(end, End::Failure(Failure::Usage(_)))
    }),
    row("the set-up or the run failed, or a result could not be written", Exit::Failed, |end| {
        matches!(end, End::Failure(Failure::Setup(_)))
    }),
    row("`echo-differed`", Exit::Differed, |end| end.has(Verdict::Differed)),
    row("ended early by a signal or `q`", Exit::Interrupted, |end| {
        matches!(end, End::Failure(Failure::Interrupted))
            || end.is(|state| state.ending == Ending::Interrupted)
    }),
    row("`nothing-served`", Exit::NotValid, |end| end.has(Verdict::NothingServed)),
    row("`connections-lost`", Exit::NotValid, |end| end.has(Verdict::ConnectionsLost)),
    row("`under-connected`", Exit::NotValid, |end| end.has(Verdict::UnderConnected)),
    row("`not-delivered`", Exit::NotValid, |end| end.has(Verdict::NotDelivered)),
    row("`merge`, `compare`: a run was ended early by a signal or `q`", Exit::NotValid, |end| {
        end.is(|state| state.ending == Ending::PartInterrupted)
    }),
    row("`generator-limited`, and every `--slo` is met nevertheless", Exit::Ok, |end| {
        let met =
            |state: &EndState| state.ending == Ending::Whole && state.objectives == Objectives::Met;
        end.has(Verdict::GeneratorLimited) && end.is(met)
    }),
    row("`generator-limited`, otherwise", Exit::NotValid, |end| end.has(Verdict::GeneratorLimited)),
    row("`valid`, an objective was missed", Exit::SloMissed, |end| {
        end.is(|state| state.objectives == Objectives::Missed)
    }),
    row("`valid`, an objective is undecided, or the run was aborted", Exit::NotValid, |end| {
        end.is(|state| state.objectives == Objectives::Undecided || state.ending == Ending::Aborted)
    }),
    row("`ab`, `compare`: `valid`, a `--fail-if` is exceeded", Exit::SloMissed, |end| {
        end.is(|state| state.objectives == Objectives::ConditionHolds)
    }),
    row("`ab`, `compare`: `valid`, a `--fail-if` is not decided", Exit::NotDecided, |end| {
        end.is(|state| state.objectives == Objectives::ConditionUndecided)
    }),
    row("`valid`", Exit::Ok, |end| end.has(Verdict::Valid)),
];

const fn row(when: &'static str, exit: Exit, applies: fn(&End<'_>) -> bool) -> Row {
    Row { when, exit, applies }
}

impl End<'_> {
    /// The row of the table.
    ///
    /// # Panics
    /// Never: the table has a row for each.
    pub fn row(&self) -> &'static Row {
        TABLE.iter().find(|row| (row.applies)(self)).expect("there is a row for each end")
    }

    fn is(&self, holds: impl Fn(&EndState) -> bool) -> bool {
        matches!(self, End::State(state) if holds(state))
    }

    fn has(&self, verdict: Verdict) -> bool {
        self.is(|state| state.verdict == verdict)
    }
}

impl EndState {
    pub fn exit(self) -> Exit {
        End::State(self).row().exit
    }

    /// The state of a run from a file.
    pub fn of_saved(run: &RunSummary) -> EndState {
        let ending = match run {
            _ if run.interrupted => Ending::PartInterrupted,
            _ if run.aborted.is_some() => Ending::Aborted,
            _ => Ending::Whole,
        };
        // A second that ended a run has missed an objective that the whole run may have met.
        let missed_by_second = run.exit_code == Exit::SloMissed as u8;
        let each = run.objectives.iter().map(Objectives::of_result);
        let objectives =
            if missed_by_second { Objectives::Missed } else { Objectives::of_all(each) };
        EndState { verdict: run.verdict, ending, objectives }
    }

    /// The state of several runs that were added up, from a file.
    pub fn of_merged(merged: &MergedSummary) -> EndState {
        let ending = match merged {
            _ if merged.runs_interrupted > 0 => Ending::PartInterrupted,
            _ if merged.runs_aborted > 0 => Ending::Aborted,
            _ => Ending::Whole,
        };
        let objectives = Objectives::ALL.into_iter().find(|one| one.word() == merged.objectives);
        // Files of earlier versions do not say it.
        let objectives = objectives.unwrap_or(Objectives::NotGiven);
        EndState { verdict: merged.verdict, ending, objectives }
    }

    /// The worst of each, over several runs.
    ///
    /// # Panics
    /// There are no runs.
    pub fn worst(states: impl Iterator<Item = EndState>) -> EndState {
        let worst = states.reduce(|one, other| EndState {
            verdict: one.verdict.max(other.verdict),
            ending: one.ending.max(other.ending),
            objectives: one.objectives.max(other.objectives),
        });
        worst.expect("there is a run")
    }
}

impl Objectives {
    /// Each of them, the worst last.
    pub const ALL: [Objectives; 6] = [
        Objectives::Met,
        Objectives::NotGiven,
        Objectives::ConditionUndecided,
        Objectives::Undecided,
        Objectives::Missed,
        Objectives::ConditionHolds,
    ];

    /// The worst of all; that there are none if there are none.
    pub fn of_all(each: impl Iterator<Item = Objectives>) -> Objectives {
        each.max().unwrap_or(Objectives::NotGiven)
    }

    /// The result of one.
    pub fn of_result(result: &ObjectiveResult) -> Objectives {
        match result {
            _ if result.met => Objectives::Met,
            _ if result.undecided => Objectives::Undecided,
            _ => Objectives::Missed,
        }
    }

    /// The word for it in text.
    pub fn word(self) -> &'static str {
        match self {
            Objectives::Met => "met",
            Objectives::NotGiven => "none",
            Objectives::Undecided => "undecided",
            Objectives::Missed => "missed",
            Objectives::ConditionUndecided => "condition not decided",
            Objectives::ConditionHolds => "condition exceeded",
        }
    }
}

impl Ending {
    /// The word for it in text.
    pub fn word(self) -> &'static str {
        match self {
            Ending::Whole => "whole",
            Ending::Aborted => "aborted",
            Ending::PartInterrupted | Ending::Interrupted => "interrupted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_met_undecided_or_missed() {
        let result = |met, undecided| ObjectiveResult {
            objective: String::new(),
            limit_ns: None,
            limit: None,
            measured_ns: None,
            measured: None,
            met,
            undecided,
        };
        assert_eq!(Objectives::of_result(&result(true, false)), Objectives::Met);
        assert_eq!(Objectives::of_result(&result(false, true)), Objectives::Undecided);
        assert_eq!(Objectives::of_result(&result(false, false)), Objectives::Missed);
    }

    /// Each combination has a row, and each row is the first for a combination.
    #[test]
    fn no_end_is_missing_and_no_row_is_without_an_end() {
        let mut states = Vec::new();
        for verdict in Verdict::ALL {
            for ending in
                [Ending::Whole, Ending::Aborted, Ending::PartInterrupted, Ending::Interrupted]
            {
                for objectives in Objectives::ALL {
                    states.push(EndState { verdict, ending, objectives });
                }
            }
        }
        let failures =
            [Failure::Usage(String::new()), Failure::Setup(String::new()), Failure::Interrupted];
        let ends = states.iter().map(|state| End::State(*state));
        let ends = ends.chain(failures.iter().map(End::Failure));
        let mut used: Vec<&str> = ends.map(|end| end.row().when).collect();
        used.sort_unstable();
        used.dedup();
        let mut all = TABLE.map(|row| row.when);
        all.sort_unstable();
        assert_eq!(used, all);
        for state in states {
            let clean = state.verdict == Verdict::Valid
                && state.ending == Ending::Whole
                && state.objectives <= Objectives::NotGiven;
            let late = state.verdict == Verdict::GeneratorLimited
                && state.ending == Ending::Whole
                && state.objectives == Objectives::Met;
            assert_eq!(state.exit() == Exit::Ok, clean || late, "{state:?}");
        }
    }

    #[test]
    fn several_runs_are_as_good_as_the_worst_in_each_respect() {
        let state = |verdict, ending, objectives| EndState { verdict, ending, objectives };
        let worst = EndState::worst(
            [
                state(Verdict::GeneratorLimited, Ending::Whole, Objectives::NotGiven),
                state(Verdict::ConnectionsLost, Ending::Whole, Objectives::Met),
                state(Verdict::UnderConnected, Ending::Aborted, Objectives::Missed),
            ]
            .into_iter(),
        );
        let expected = state(Verdict::ConnectionsLost, Ending::Aborted, Objectives::Missed);
        assert_eq!((worst, worst.exit()), (expected, Exit::NotValid));
    }

    #[test]
    fn a_sum_of_runs_is_read_with_the_state_that_it_has() {
        let read = |interrupted, aborted, objectives: &str| {
            EndState::of_merged(&MergedSummary {
                runs_interrupted: interrupted,
                runs_aborted: aborted,
                objectives: objectives.into(),
                verdict: Verdict::NotDelivered,
                ..crate::command::merge::tests::merged()
            })
        };
        for (interrupted, aborted, ending) in [
            (0, 0, Ending::Whole),
            (1, 0, Ending::PartInterrupted),
            (2, 3, Ending::PartInterrupted),
            (0, 1, Ending::Aborted),
        ] {
            let state =
                EndState { verdict: Verdict::NotDelivered, ending, objectives: Objectives::Met };
            assert_eq!(read(interrupted, aborted, Objectives::Met.word()), state);
        }
        for objectives in Objectives::ALL {
            assert_eq!(read(0, 0, objectives.word()).objectives, objectives);
        }
        assert_eq!(read(0, 0, "").objectives, Objectives::NotGiven, "an earlier version");
    }
}
