//! The live view on a real terminal: what is on it meanwhile, as a terminal emulator shows it, and
//! that the terminal is left as it was, however the run ends. No times are asserted.
#![cfg(feature = "live")]

mod common;

use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser as _;

use common::forms::TestFile;
use common::start;
use loadgen::cli::RunArgs;
use loadgen::plan::Plan;
use loadgen::plan::machine::Machine;
use loadgen::stats::tally::Snapshot;
use loadgen::view::live::LiveView;
use loadgen::view::progress::RunStage;
use loadgen::view::terminal::Keys;
use serde_json::Value;
use vt100::{Color, Parser, Screen};

/// The view shows it when the first second is over.
const MEASURING: &str = "valid";

/// What was left on a terminal by a run in which these steps were done.
struct Left {
    json: Value,
    size: (u16, u16),
}

/// Runs the program on a terminal; `steps`: see `terminal.py`. `None` without Python.
fn on_terminal(size: (u16, u16), wait_for: &str, steps: &str, flags: &str) -> Option<Left> {
    on_terminal_with(&[("LC_ALL", "C.UTF-8")], size, wait_for, steps, flags)
}

/// The same with these variables.
fn on_terminal_with(
    variables: &[(&str, &str)],
    size: (u16, u16),
    wait_for: &str,
    steps: &str,
    flags: &str,
) -> Option<Left> {
    let python = Command::new("python3").arg("--version").output().is_ok();
    if !python {
        assert!(std::env::var_os("CI").is_none(), "would be skipped, but this is CI: no python3");
        return None;
    }
    let program = Path::new(env!("CARGO_BIN_EXE_loadgen"));
    Some(left_by(program, variables, size, [wait_for, steps], flags))
}

fn left_by(
    program: &Path,
    variables: &[(&str, &str)],
    size: (u16, u16),
    steps: [&str; 2],
    flags: &str,
) -> Left {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/terminal.py"));
    let (columns, rows) = size;
    command.arg(format!("{columns}x{rows}")).args(steps).arg(program);
    command.args(flags.split_whitespace()).env_remove("NO_COLOR");
    command.envs(variables.iter().copied());
    Left { json: start(command).wait().expect(0).json(), size }
}

impl Left {
    fn shown(&self) -> &str {
        self.json["shown"].as_str().expect("text")
    }

    /// The terminal after the first `count` bytes.
    fn after(&self, count: usize) -> Parser {
        let (columns, rows) = self.size;
        let [rows, columns] = [rows, columns].map(|size| NonZero::new(size).expect("a size"));
        let mut parser = Parser::new(rows, columns, 1_000);
        let text = self.json["bytes"].as_str().expect("text");
        let bytes: Vec<u8> = text.chars().take(count).map(|byte| byte as u8).collect();
        parser.process(&bytes);
        parser
    }

    fn at_end(&self) -> Parser {
        self.after(usize::MAX)
    }

    /// When a step was begun.
    fn before_step(&self, nth: usize) -> Parser {
        self.after(count(&self.json["steps"][nth]["begin"]))
    }

    fn modes(&self, when: &str) -> String {
        self.json[format!("modes_{when}")].to_string()
    }

    /// The terminal is as it was before the program.
    fn assert_restored(&self, what: &str) {
        assert_eq!(self.json["same_settings"], true, "{what}");
        assert_eq!((self.modes("before"), self.modes("after")), (modes(true), modes(true)));
        let end = self.at_end();
        assert!(!end.screen().alternate_screen() && !end.screen().hide_cursor(), "{what}");
    }
}

fn modes(is_usual: bool) -> String {
    format!("[{is_usual},{is_usual}]")
}

fn count(value: &Value) -> usize {
    value.as_u64().expect("a count") as usize
}

fn assert_view(screen: &Screen, texts: &[&str]) {
    assert!(screen.alternate_screen() && screen.hide_cursor());
    let contents = screen.contents();
    for text in texts {
        assert!(contents.contains(text), "no {text:?} in\n{contents}");
    }
}

#[test]
fn on_a_terminal_there_is_a_view_and_q_ends_it_with_a_report() {
    let Some(left) = on_terminal((80, 24), MEASURING, "q", "-c 5 -d 10m") else { return };
    assert_eq!(left.json["code"], 130);
    assert_eq!(left.json["steps"][0]["modes"].to_string(), modes(false));
    let view = left.before_step(0);
    let expected = [
        "Running 10m test @ tcp://127.0.0.1:",
        "s of 600s (q ends) ",
        "Latency p50 p90 p99 max",
        "Latency Distribution",
        "Last second",
        "Connections  5 asked, 5 open, 0 lost",
        "Errors       0",
        "Verdict so far: valid",
    ];
    assert_view(view.screen(), &expected);
    left.assert_restored("q");
    // The view is gone. What was there before is there again, and the report follows it.
    let mut end = left.at_end();
    end.screen_mut().set_scrollback(usize::MAX);
    let all = end.screen().contents();
    assert!(all.starts_with("loadgen: 5 connections to "), "{all}");
    assert!(!all.contains("Verdict so far") && !all.contains("Last second"), "{all}");
    let (_, report) = left.shown().rsplit_once("Running 10m").expect("a report");
    assert!(!report.contains('\u{1b}'), "{report}");
    assert!(report.contains("Verdict: valid: interrupted: "), "{report}");
}

#[test]
fn the_terminal_comes_back_however_the_run_ends() {
    // Ctrl-C; Ctrl-\, which is not handled; two signals, the second of which does not wait.
    // A hang-up, and signals that nobody sends to a program but by mistake.
    let keys = [("\u{3}", 130), ("\u{1c}", -3), ("kill:15", 130), ("kill:2,15", 130)];
    let signals = [1, 10, 12, 14, 26, 27].map(|number| (format!("kill:{number}"), -number));
    let signals = signals.iter().map(|(keys, code)| (keys.as_str(), *code));
    for (keys, code) in keys.into_iter().chain(signals) {
        let Some(left) = on_terminal((40, 24), MEASURING, keys, "-c 5 -d 10m -p 2") else { return };
        assert_eq!(left.json["code"], code, "{keys:?}: {:#}", left.json);
        assert_eq!(left.json["steps"][0]["modes"].to_string(), modes(false), "{keys:?}");
        assert!(left.before_step(0).screen().alternate_screen(), "{keys:?}");
        left.assert_restored(keys);
    }
}

#[test]
fn a_run_that_ends_by_itself_or_is_aborted_leaves_its_report() {
    let flags = ["-c 5 -d 1200ms", "-c 5 -d 10m --slo max<1ns --abort-on-fail", "-c 5 -n 2000"];
    for (flags, code) in flags.into_iter().zip([0, 99, 0]) {
        let Some(left) = on_terminal((80, 24), MEASURING, "", flags) else { return };
        assert_eq!(left.json["code"], code, "{flags}");
        assert!(left.at_end().screen().contents().contains("Verdict: valid"), "{flags}");
        left.assert_restored(flags);
    }
}

#[test]
fn a_stopped_job_leaves_the_terminal_and_draws_anew_when_it_continues() {
    let Some(left) = on_terminal((80, 24), MEASURING, "stop|stop|q", "-c 5 -d 10m") else { return };
    assert_eq!(left.json["code"], 130);
    for nth in 0..2 {
        let step = &left.json["steps"][nth];
        assert_view(left.before_step(nth).screen(), &["Verdict so far: valid"]);
        assert_eq!(step["modes_stopped"].to_string(), modes(true));
        let stopped = left.after(count(&step["stopped"]));
        assert!(!stopped.screen().alternate_screen() && !stopped.screen().hide_cursor());
        let contents = stopped.screen().contents();
        assert!(contents.starts_with("loadgen: 5 connections to "), "{contents}");
    }
    let whole = ["Running 10m test", "Latency Distribution", "Verdict so far: valid"];
    assert_view(left.before_step(2).screen(), &whole);
    assert_eq!(left.json["steps"][2]["modes"].to_string(), modes(false));
    left.assert_restored("stop");
}

#[test]
fn a_terminal_of_another_size_gets_another_view() {
    let steps = "size:120x40|q";
    let Some(left) = on_terminal((40, 8), MEASURING, steps, "-c 5 -d 10m") else { return };
    let small = left.before_step(0);
    assert_view(small.screen(), &["Verdict so far: valid"]);
    assert!(!small.screen().contents().contains("Latency Distribution"));
    let begin = count(&left.json["steps"][0]["begin"]);
    let mut parser = left.after(begin);
    let [rows, columns] = [40, 120].map(|size| NonZero::new(size).expect("a size"));
    parser.screen_mut().set_size(rows, columns);
    let end = count(&left.json["steps"][1]["begin"]);
    let bytes = left.json["bytes"].as_str().expect("text").chars().skip(begin).take(end - begin);
    parser.process(&bytes.map(|byte| byte as u8).collect::<Vec<_>>());
    assert_view(parser.screen(), &["Latency Distribution", "Last second", "Requests/sec"]);
    left.assert_restored("size");
}

#[test]
fn without_utf8_in_the_locale_all_that_is_shown_is_ascii() {
    let locale = [("LC_ALL", "C")];
    let run = |flags| on_terminal_with(&locale, (100, 30), MEASURING, "q", flags);
    let Some(left) = run("-c 5 -d 10m") else { return };
    let view = left.before_step(0);
    assert_view(view.screen(), &["(q ends) ---", "#", "*", "|"]);
    let shown = left.shown();
    assert!(shown.is_ascii(), "{shown}");
}

#[test]
fn there_are_colours_unless_no_color_is_set() {
    for (value, has_colours) in [("", true), ("1", false)] {
        let variables = [("NO_COLOR", value), ("LC_ALL", "C.UTF-8")];
        let run = |flags| on_terminal_with(&variables, (80, 24), MEASURING, "q", flags);
        let Some(left) = run("-c 5 -d 10m") else { return };
        let view = left.before_step(0);
        let cells = (0..24).flat_map(|row| (0..80).map(move |column| (row, column)));
        let mut cells = cells.filter_map(|(row, column)| view.screen().cell(row, column));
        let coloured = cells.any(|cell| cell.fgcolor() != Color::Default);
        assert_eq!(coloured, has_colours, "NO_COLOR={value:?}");
        // The word after "Verdict so far: " stands out all the same.
        let contents = view.screen().contents();
        let row = contents.lines().position(|line| line.starts_with("Verdict so far"));
        let word = view.screen().cell(row.expect("a verdict") as u16, 16).expect("a cell");
        assert!(word.bold() && word.contents() == "v", "NO_COLOR={value:?}");
    }
}

#[test]
fn rows_on_a_terminal_stay_there() {
    let Some(left) = on_terminal((100, 24), MEASURING, "", "-c 5 -d 2100ms --output-format csv")
    else {
        return;
    };
    let shown = left.shown();
    assert!(shown.contains("\n1,0,1000000000,") && shown.contains("\n2,1000000000,"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "nothing is drawn over\n{shown}");
}

/// Whoever reads the pipe may write to the same terminal.
#[test]
fn rows_through_a_pipe_are_not_drawn_over() {
    if Command::new("python3").arg("--version").output().is_err() {
        return;
    }
    let script = TestFile::new("rows-through-a-pipe.sh");
    let program = env!("CARGO_BIN_EXE_loadgen");
    let line = format!("'{program}' -c 5 -d 2100ms --output-format csv | cat\n");
    std::fs::write(&script.0, line).expect("written");
    let sh = Path::new("/bin/sh");
    let left = left_by(sh, &[], (100, 24), [MEASURING, ""], &script.to_string());
    let shown = left.shown();
    assert!(shown.contains("\n1,0,1000000000,") && shown.contains("\n2,1000000000,"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "nothing is drawn over\n{shown}");
}

/// Set in the process that panics.
const PANICS: &str = "LOADGEN_TEST_PANICS";

#[test]
fn a_panic_restores_the_terminal_before_its_message() {
    if std::env::var_os(PANICS).is_some() {
        panic_under_a_view();
    }
    let python = Command::new("python3").arg("--version").output().is_ok();
    if !python {
        return;
    }
    // This test again, on a terminal.
    let itself = std::env::current_exe().expect("it has a path");
    let variables = [(PANICS, "1"), ("LC_ALL", "C.UTF-8"), ("RUST_BACKTRACE", "0")];
    let flags = "--exact a_panic_restores_the_terminal_before_its_message --nocapture";
    let left = left_by(&itself, &variables, (80, 24), ["warming", "q"], flags);
    assert_view(left.before_step(0).screen(), &["warming up"]);
    let end = left.at_end();
    let contents = end.screen().contents();
    assert!(contents.contains("panicked at") && contents.contains("on purpose"), "{contents}");
    left.assert_restored("panic");
}

fn panic_under_a_view() {
    let args = RunArgs::parse_from(["loadgen", "-c", "5", "-w", "1s"]);
    let plan = Plan::new(&args.run, &Machine::read(), &[], 1).expect("possible");
    let mut keys = Keys::open().expect("a terminal");
    let view = LiveView::start(Arc::new(plan), true).expect("a thread");
    view.update(RunStage::Measuring(Duration::ZERO), &Snapshot::default());
    // It is typed when the view is shown.
    while !keys.quit() {
        thread::yield_now();
    }
    // Neither is dropped.
    std::mem::forget((view, keys));
    panic!("on purpose");
}
