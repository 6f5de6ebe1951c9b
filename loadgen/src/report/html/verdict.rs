//! How reliable a result is, in plain sentences, and why.

use crate::error::Exit;
use crate::plan::calibration::Calibration;
use crate::report::Verdict;
use crate::report::difference::short;
use crate::report::ending::{EndState, Ending, Objectives};
use crate::report::saved::SavedResult;
use crate::report::schema::{
    AbSummary, ComparisonSummary, MergedSummary, RunSummary, SearchSummary, SearchVerdict,
};
use crate::units::{counted, counted_of, was};

/// How the page shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    Good,
    Warn,
    Bad,
}

impl Tone {
    /// Its class in the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
        }
    }

    fn new(exit_code: u8, is_valid: bool) -> Tone {
        match exit_code {
            0 if is_valid => Tone::Good,
            3 | 99 => Tone::Bad,
            _ => Tone::Warn,
        }
    }
}

/// A verdict for people.
pub struct Sentence {
    pub tone: Tone,
    /// One or a few sentences.
    pub text: String,
    /// What it rests on.
    pub reasons: Vec<String>,
    pub exit_code: u8,
}

impl Sentence {
    /// The verdict on a result.
    pub fn of(result: &SavedResult) -> Sentence {
        match result {
            SavedResult::Run(run) => of_run(run),
            SavedResult::Search(search) => of_search(search),
            SavedResult::Merged(merged) => of_merged(merged),
            SavedResult::Ab(ab) => of_ab(ab),
            SavedResult::Comparison(comparison) => of_comparison(comparison),
            SavedResult::Calibration(found) => of_calibration(found),
            SavedResult::Link(link) => super::link::sentence(link),
        }
    }
}

fn of_run(run: &RunSummary) -> Sentence {
    let state = EndState::of_saved(run);
    let mut text = word(run.verdict, run.config.open_loop).to_string();
    text += match state.ending {
        Ending::Whole => "",
        Ending::Aborted => " The run was ended early, because it could not pass any more.",
        Ending::PartInterrupted | Ending::Interrupted => {
            " The run was ended early by a signal or a key."
        }
    };
    text += objectives(state.objectives);
    let reasons = reasons(&run.verdict_text);
    let tone = Tone::new(run.exit_code, run.verdict == Verdict::Valid);
    Sentence { tone, text, reasons, exit_code: run.exit_code }
}

fn of_search(search: &SearchSummary) -> Sentence {
    let objective = &search.objective;
    let mut text = match (search.rate_per_second, search.is_lower_bound) {
        (Some(rate), false) => format!("The highest rate with {objective} is {rate}/s."),
        (Some(rate), true) => format!("The highest rate with {objective} is at least {rate}/s."),
        (None, _) => format!("No rate with {objective} was found."),
    };
    text += match search.verdict {
        SearchVerdict::NotKept => "",
        SearchVerdict::Interrupted => " The search was ended early by a signal or a key.",
        SearchVerdict::RunFailed => " A run failed, which ended the search.",
        SearchVerdict::Run(Verdict::Valid) => "",
        SearchVerdict::Run(Verdict::GeneratorLimited) => {
            " The load generator itself was too late for a higher one."
        }
        SearchVerdict::Run(verdict) => {
            return Sentence {
                text: format!("{text} The search ended with this run: {}", word(verdict, true)),
                ..of_reasons(search)
            };
        }
    };
    Sentence { text, ..of_reasons(search) }
}

fn of_reasons(search: &SearchSummary) -> Sentence {
    let mut reasons = match (&search.best, search.verdict) {
        (Some(best), SearchVerdict::Run(Verdict::Valid | Verdict::GeneratorLimited)) => {
            reasons(&best.verdict_text)
        }
        _ => vec![search.verdict_text.clone()],
    };
    reasons.insert(0, {
        let runs = search.steps.len() as u64;
        format!("{} {} made", counted(runs, "run"), was(runs))
    });
    if let (Some(rate), Some(why)) = (search.not_kept_rate_per_second, &search.not_kept_reason) {
        reasons.insert(0, format!("{rate}/s was not kept: {why}"));
    }
    let is_valid = search.verdict == SearchVerdict::Run(Verdict::Valid);
    let tone = Tone::new(search.exit_code, is_valid);
    Sentence { tone, text: String::new(), reasons, exit_code: search.exit_code }
}

fn of_merged(merged: &MergedSummary) -> Sentence {
    let mut text = format!("{} runs, and of their verdicts the worst: ", merged.runs);
    text += word(merged.verdict, merged.config.open_loop);
    text += match merged.objectives.as_str() {
        "met" => objectives(Objectives::Met),
        "undecided" => objectives(Objectives::Undecided),
        "missed" => objectives(Objectives::Missed),
        _ => "",
    };
    let mut reasons = vec![merged.verdict.word().to_string()];
    for (count, how) in [
        (merged.runs_interrupted, "by a signal or a key"),
        (merged.runs_aborted, "because they could not pass any more"),
    ] {
        if count > 0 {
            let (count, runs) = (count as u64, merged.runs as u64);
            let of_all = counted_of(count, runs, "run");
            reasons.push(format!("{of_all} {} ended early {how}", was(count)));
        }
    }
    let exit_code = merged.exit_code;
    let tone = Tone::new(exit_code, merged.verdict == Verdict::Valid);
    Sentence { tone, text, reasons, exit_code }
}

fn of_ab(ab: &AbSummary) -> Sentence {
    let open_loop = ab.targets.iter().any(|target| target.config.open_loop);
    let mut text = word(ab.verdict, open_loop).to_string();
    if ab.interrupted {
        text += " It was ended early by a signal or a key.";
    }
    text += objectives(Objectives::of_conditions(&ab.conditions));
    let count = counted_of(ab.rounds, ab.rounds_asked, "round");
    let each = ab.targets.iter().map(|target| format!("{}: {}", target.name, target.verdict_text));
    let conditions = ab.conditions.iter().map(ToString::to_string);
    let reasons = std::iter::once(count).chain(conditions).chain(each).collect();
    let tone = Tone::new(ab.exit_code, ab.verdict == Verdict::Valid);
    Sentence { tone, text, reasons, exit_code: ab.exit_code }
}

fn of_comparison(comparison: &ComparisonSummary) -> Sentence {
    let ComparisonSummary { verdict, conditions, exit_code, .. } = comparison;
    let mut text = "Of the verdicts of all files the worst: ".to_string();
    text += word(*verdict, false);
    text += objectives(Objectives::of_conditions(conditions));
    let short = short("second - first", &comparison.figures);
    let conditions = conditions.iter().map(ToString::to_string);
    let differing = match comparison.settings_differ.join(", ") {
        settings if settings.is_empty() => None,
        settings => Some(format!("settings differ: {settings}")),
    };
    let time = Some(&comparison.time_note).filter(|note| !note.is_empty()).cloned();
    Sentence {
        tone: Tone::new(*exit_code, *verdict == Verdict::Valid),
        text,
        reasons: std::iter::once(short).chain(conditions).chain(differing).chain(time).collect(),
        exit_code: *exit_code,
    }
}

fn of_calibration(found: &Calibration) -> Sentence {
    let closed = found.closed_loop.requests_per_second;
    let text = match &found.open_loop {
        Some(open) => format!(
            "The generator's ceiling on this machine is {:.0}/s in an open loop, and {closed:.0}/s \
             in a closed loop.",
            open.requests_per_second
        ),
        None => format!(
            "The generator's ceiling on this machine is {closed:.0}/s in a closed loop; in an open \
             loop it kept no rate."
        ),
    };
    let verified = format!("{} bytes were verified, and none differed", found.bytes_verified);
    let mut reasons = vec![verified];
    if !found.generator.optimized {
        reasons.push("loadgen was built without optimisation".into());
    }
    Sentence { tone: Tone::Good, text, reasons, exit_code: Exit::Ok as u8 }
}

/// A verdict as a sentence.
fn word(verdict: Verdict, open_loop: bool) -> &'static str {
    match verdict {
        Verdict::Valid if open_loop => {
            "Valid: every reply was verified, no connection was lost, and the load generator kept \
             its schedule."
        }
        Verdict::Valid => "Valid: every reply was verified, and no connection was lost.",
        Verdict::GeneratorLimited => {
            "Limited by the load generator: it was too late itself, and its lag is part of these \
             latencies."
        }
        Verdict::NotDelivered => "Not valid: clients did not receive every message.",
        Verdict::UnderConnected => "Not valid: there were fewer connections than asked for.",
        Verdict::ConnectionsLost => "Not valid: connections were lost, or replies are missing.",
        Verdict::NothingServed => "Not valid: no connection had a reply.",
        Verdict::Differed => "Failed: bytes came back that differ from what was sent.",
    }
}

pub(super) fn objectives(state: Objectives) -> &'static str {
    match state {
        Objectives::NotGiven => "",
        Objectives::Met => " Every objective is met.",
        Objectives::Undecided => " An objective is undecided.",
        Objectives::Missed => " An objective is missed.",
        Objectives::ConditionUndecided => " A condition is not decided with these rounds.",
        Objectives::ConditionHolds => " A condition is exceeded.",
    }
}

/// The notes in a verdict's text: `word (note; note)`.
fn reasons(text: &str) -> Vec<String> {
    let notes = text.split_once(" (").and_then(|(_, notes)| notes.strip_suffix(')'));
    notes.unwrap_or(text).split("; ").map(str::to_string).collect()
}
