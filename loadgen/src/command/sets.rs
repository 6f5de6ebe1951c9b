//! `loadgen compare FILE... --against FILE...`: the results in some files compared with those in
//! others, with intervals.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::command::compare::{CompareArgs, CompareFormat};
use crate::error::{Exit, Failure};
use crate::report::difference::{Values, figures, judge, metrics, short};
use crate::report::ending::{EndState, Objectives};
use crate::report::print;
use crate::report::saved::{Part, SavedResult};
use crate::report::schema::{
    ComparisonSummary, ComparisonType, FigureDifference, PROGRAM_VERSION, SCHEMA_VERSION,
};
use crate::stats::difference::{CONFIDENCE, SET_MAX, SET_MIN};
use crate::stats::fail_if::FailIf;
use crate::units::time_us;

/// Reads the files, and writes the comparison to stdout.
///
/// # Errors
/// A file cannot be read, a file is given twice, or the figures are not of the same kind.
pub fn run(args: &CompareArgs, first: &[PathBuf], second: &[PathBuf]) -> Result<Exit, Failure> {
    let read = |files: &[PathBuf]| -> Result<Vec<Part>, Failure> {
        files.iter().map(|path| Part::read(path)).collect()
    };
    let mut sets = [read(first)?, read(second)?];
    check(&sets, args.anyway)?;
    let (summary, exit) = compare(&mut sets, &args.fail_if);
    let mut page = args.page()?;
    match args.output_format {
        CompareFormat::Text => print(&render(&summary))?,
        CompareFormat::Json => {
            let text = serde_json::to_string_pretty(&summary).expect("it has a JSON form");
            print(&format!("{text}\n"))?;
        }
    }
    if let Some(page) = &mut page {
        let comparison = ("comparison".into(), SavedResult::Comparison(Box::new(summary)));
        page.write_results(std::iter::once(comparison).chain(args.results()?).collect())?;
    }
    Ok(exit)
}

fn check(sets: &[Vec<Part>; 2], anyway: bool) -> Result<(), Failure> {
    for set in sets {
        if set.len() > SET_MAX {
            let text = format!("{} files in a set, but at most {SET_MAX}", set.len());
            return Err(Failure::Usage(text));
        }
        for (nth, part) in set.iter().enumerate() {
            if let Some(same) = set[..nth].iter().find(|other| part.is_the_result_of(other)) {
                let text =
                    format!("{} and {} are the same result: give it once", same.name, part.name);
                return Err(Failure::Setup(text));
            }
        }
    }
    let first = &sets[0][0];
    for other in sets.iter().flatten().filter(|_| !anyway) {
        let differing = first.differing_kind(other);
        if !differing.is_empty() {
            return Err(Failure::Setup(format!(
                "{} and {} are not of the same kind: {}; --anyway compares them nevertheless",
                first.name,
                other.name,
                differing.join(", ")
            )));
        }
    }
    Ok(())
}

fn compare(sets: &mut [Vec<Part>; 2], conditions: &[FailIf]) -> (ComparisonSummary, Exit) {
    let time_note = Part::of_same_time(sets.iter_mut().flatten());
    let metrics = metrics(conditions);
    let [first, second] = sets.each_ref().map(|set| {
        let mut values = Values::new(&metrics);
        set.iter().for_each(|part| values.add(&part.latency, part.rate));
        values
    });
    let judged = judge(conditions, None, |metric| first.set_against(&second, metric));
    let mut state = EndState::worst(sets.iter().flatten().map(|part| part.state));
    if !conditions.is_empty() {
        // That a file met its own objectives says nothing about a difference.
        let of_files = state.objectives.max(Objectives::NotGiven);
        state.objectives = of_files.max(Objectives::of_conditions(&judged));
    }
    let exit = state.exit();
    let mut settings_differ: Vec<String> = Vec::new();
    for text in sets.iter().flatten().flat_map(|part| sets[0][0].differing_settings(part)) {
        if !settings_differ.contains(&text) {
            settings_differ.push(text);
        }
    }
    let names = |set: &[Part]| set.iter().map(|part| part.name.clone()).collect();
    let summary = ComparisonSummary {
        r#type: ComparisonType::Comparison,
        schema_version: SCHEMA_VERSION,
        loadgen_version: PROGRAM_VERSION.into(),
        first: names(&sets[0]),
        second: names(&sets[1]),
        settings_differ,
        time_note,
        confidence_ratio: CONFIDENCE,
        figures: figures(&first, &second, |metric| first.set_against(&second, metric)),
        conditions: judged,
        verdict: state.verdict,
        exit_code: exit as u8,
    };
    (summary, exit)
}

fn render(summary: &ComparisonSummary) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{}", text.trim_end()).expect("a string");
    for (name, files) in [("First", &summary.first), ("Second", &summary.second)] {
        line(format!("{name}: {}", files.join(" ")));
    }
    line(format!("{:<14}{:>16}{:>16}", "Median", "first", "second"));
    for FigureDifference { figure, first, second, .. } in &summary.figures {
        let text = |value: f64| match figure.as_str() {
            "rate" => format!("{value:.2}"),
            _ => time_us(value / 1e3),
        };
        line(format!("{figure:<14}{:>16}{:>16}", text(*first), text(*second)));
    }
    line(format!(
        "Second against first, median of the differences between files ({} % interval)",
        CONFIDENCE * 100.0
    ));
    summary.figures.iter().for_each(|figure| line(format!("  {}", figure.line())));
    line(short("Second - first", &summary.figures));
    if summary.figures.iter().any(|figure| figure.ratio_low.is_none()) {
        line(format!("An interval needs at least {SET_MIN} files of each"));
    }
    if !summary.settings_differ.is_empty() {
        line(format!("Settings differ: {}", summary.settings_differ.join(", ")));
    }
    if !summary.time_note.is_empty() {
        line(summary.time_note.clone());
    }
    summary.conditions.iter().for_each(|condition| line(format!("Fail if: {condition}")));
    line(format!("Verdict: {}", summary.verdict.word()));
    out
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::report::distinct::spread;
    use crate::report::ending::Ending;
    use crate::report::saved::tests::{part, part_of_merged};
    use crate::report::schema::{Distribution, MergedSummary};
    use crate::report::tests::report;
    use crate::report::{Report, Verdict};

    /// The comparison of two valid runs that are equal.
    pub fn summary() -> ComparisonSummary {
        compare(&mut ["a", "b"].map(|name| vec![part(name, &report())]), &[]).0
    }

    /// A run whose latencies are around this many microseconds.
    fn run_of(micros: u64) -> Report {
        let mut report = report();
        report.records.latency.reset();
        report.records.latency.record_n(micros * 1_000, 1_000).expect("in bounds");
        report
    }

    fn set(name: &str, micros: impl Iterator<Item = u64>) -> Vec<Part> {
        micros.map(|micros| part(&format!("{name}{micros}"), &run_of(micros))).collect()
    }

    fn conditions(texts: &[&str]) -> Vec<FailIf> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    #[test]
    fn five_of_each_decide_and_fewer_do_not() {
        let of = |count: u64, text: &str| {
            let mut sets = [set("a", 100..100 + count), set("b", (200..200 + count).rev())];
            compare(&mut sets, &conditions(&[text]))
        };
        let (summary, exit) = of(5, "p50>+50us");
        assert_eq!((exit, summary.exit_code), (Exit::SloMissed, 99));
        let p50 = &summary.figures[0];
        assert!(
            (95_000..105_000).contains(&p50.difference_low_ns.expect("an interval")),
            "{p50:?}"
        );
        assert!((99_000..101_000).contains(&p50.difference_ns.expect("a difference")), "{p50:?}");
        assert_eq!(of(5, "p99>3x").1, Exit::Ok);
        assert_eq!(of(5, "p50>+100us").1, Exit::NotDecided);
        let (summary, exit) = of(4, "p50>+50us");
        assert_eq!((exit, summary.conditions[0].more_needed), (Exit::NotDecided, Some(1)));
        let text = render(&summary);
        assert!(text.contains("An interval needs at least 5 files of each\n"), "{text}");
        assert!(text.contains("; about 1 more files of each decide it if"), "{text}");
        assert!(text.contains("\nSecond - first: p50 +100."), "{text}");
        assert!(text.contains("\nSecond: b203 b202 b201 b200\n"), "{text}");
        assert!(text.contains("\nrate                   1000.00         1000.00\n"), "{text}");
        let (one, exit) = of(1, "p50>+50us");
        assert_eq!((exit, one.figures.len()), (Exit::NotDecided, 5));
    }

    /// The whole, and the figures of the time in which all measured, if there are any.
    fn of_shards(name: &str, together: Option<u64>) -> Part {
        let mut shards = crate::report::shards::tests::two_shards();
        shards.latency_together = together.map(|unit| Distribution::new(&spread(unit)));
        shards.requests_per_second_together = together.map(|unit| unit as f64);
        part_of_merged(name, MergedSummary { shards: Some(shards), ..merged() })
    }

    fn merged() -> MergedSummary {
        crate::command::merge::tests::merged()
    }

    /// A file of an earlier version beside one of this version.
    #[test]
    fn shards_are_compared_by_the_figures_of_the_same_time() {
        let compared = |first: Part, second: Part| {
            let mut sets = [vec![first], vec![second]];
            let (summary, _) = compare(&mut sets, &[]);
            let figure = |name: &str| {
                let found = summary.figures.iter().find(|figure| figure.figure == name);
                found.map(|figure| [figure.first, figure.second]).expect(name)
            };
            let text = render(&summary);
            assert!(text.contains(&summary.time_note), "{text}");
            (figure("p99"), figure("rate"), summary.time_note)
        };
        let p99 = |values: &Distribution| values.percentiles.p99_ns.expect("values") as f64;
        let cut = |unit| p99(&Distribution::new(&spread(unit)));
        let (whole, sum) = (p99(&merged().latency), merged().requests_per_second_sum);
        let both = compared(of_shards("a", Some(3_000)), of_shards("b", Some(7_000)));
        assert_eq!(both, ([cut(3_000), cut(7_000)], [3_000.0, 7_000.0], String::new()));
        for (first, second) in [(Some(3_000), None), (None, Some(3_000))] {
            let (latencies, rates, note) = compared(of_shards("a", first), of_shards("b", second));
            assert_eq!((latencies, rates), ([whole; 2], [sum; 2]), "of the whole shards");
            let without = if first.is_none() { "a" } else { "b" };
            let expected = format!(
                "Latencies and rates are those of whole shards: {without} does not have those of \
                 the time in which all measured"
            );
            assert_eq!(note, expected);
        }
        let neither = compared(of_shards("a", None), of_shards("b", None));
        assert_eq!(neither, ([whole; 2], [sum; 2], String::new()));
        // A run, or repetitions, have no other time.
        let repeated = part_of_merged("b", merged());
        let mean = merged().requests_per_second_mean;
        let beside = compared(of_shards("a", Some(3_000)), repeated);
        assert_eq!(beside, ([cut(3_000), whole], [3_000.0, mean], String::new()));
    }

    /// A late generator can hide a difference, whatever objectives were met.
    #[test]
    fn the_worst_file_counts_beside_the_conditions() {
        let mut sets = [set("a", 100..105), set("b", 200..205)];
        let exit = |sets: &mut [Vec<Part>; 2], texts: &[&str]| compare(sets, &conditions(texts)).1;
        assert_eq!(exit(&mut sets, &[]), Exit::Ok);
        sets[1][2].state.verdict = Verdict::GeneratorLimited;
        for part in sets.iter_mut().flatten() {
            part.state.objectives = Objectives::Met;
        }
        assert_eq!(exit(&mut sets, &[]), Exit::Ok);
        assert_eq!(exit(&mut sets, &["p50>3x"]), Exit::NotValid);
        sets[1][2].state.verdict = Verdict::Differed;
        assert_eq!(exit(&mut sets, &["p50>1x"]), Exit::Differed);
        sets[1][2].state.verdict = Verdict::Valid;
        sets[0][0].state.ending = Ending::PartInterrupted;
        assert_eq!(exit(&mut sets, &["p50>1x"]), Exit::NotValid);
    }

    #[test]
    fn a_file_given_twice_and_other_kinds_are_refused() {
        let twice = [set("a", [100, 100].into_iter()), set("b", 200..201)];
        let error = check(&twice, false).expect_err("refused").to_string();
        assert_eq!(error, "a100 and a100 are the same result: give it once");
        let mut framed = run_of(200);
        let plan = std::sync::Arc::make_mut(&mut framed.plan);
        plan.service = crate::report::tests::plan("framed://127.0.0.1:7 -c 2").service;
        let mut kinds = [set("a", 100..101), vec![part("b", &framed)]];
        let error = check(&kinds, false).expect_err("refused").to_string();
        assert!(error.starts_with("a100 and b are not of the same kind: service ("), "{error}");
        assert_eq!(check(&kinds, true), Ok(()));
        let (summary, _) = compare(&mut kinds, &[]);
        assert!(summary.settings_differ[1].starts_with("service ("), "{summary:?}");
    }
}
