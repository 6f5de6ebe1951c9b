//! Frames on a terminal that is not there: each value is another one, so that a value under a wrong
//! name is seen.

use std::sync::Arc;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::Color;

use super::draw::{Look, draw};
use super::model::{HISTORY, Model};
use crate::report::Verdict;
use crate::stats::cpu::ThreadUse;
use crate::stats::tally::Snapshot;
use crate::view::progress::RunStage;
use crate::view::progress::tests::{plan, second};

const PLAIN: Look = Look { utf8: false, colours: true };
const FULL: Look = Look { utf8: true, colours: true };

fn measuring(model: &mut Model, millis: u64, counts: Snapshot) {
    model.now(RunStage::Measuring(Duration::from_millis(millis)), &counts);
}

fn counts() -> Snapshot {
    Snapshot { open: 93, replies: 5, ..Snapshot::default() }
}

/// Two seconds of a run of ten, with 1000 and 500 replies.
fn model(flags: &str) -> Model {
    let mut model = Model::new(Arc::new(plan(&format!("-c 100 -d 10s {flags}"))), true);
    measuring(&mut model, 1, counts());
    for (number, replies) in [(0, 1000), (1, 500)] {
        let mut second = second(number, replies);
        second.bytes = (number + 1) * 1024 * 100;
        model.second(&second);
    }
    // The test has no threads of clients.
    let used = ThreadUse { running: Duration::from_millis(200), ..ThreadUse::default() };
    model.set_thread_uses(vec![used]);
    measuring(&mut model, 2500, counts());
    model
}

fn frame(model: &Model, (columns, rows): (u16, u16), look: Look) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("no I/O");
    terminal.draw(|frame| draw(frame, model, look)).expect("no I/O");
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width);
    let rows = buffer.content.chunks(width);
    let text = |row: &[Cell]| row.iter().map(|cell| cell.symbol()).collect();
    rows.map(text).map(|line: String| line.trim_end().to_string()).collect()
}

fn shown(model: &Model, size: (u16, u16)) -> String {
    lines(&frame(model, size, PLAIN)).join("\n")
}

/// The row that has this name, from the name on.
fn row<'a>(shown: &'a str, name: &str) -> &'a str {
    let line = shown.lines().rev().find(|line| line.contains(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{shown}"));
    &line[line.find(name).expect("it is there")..]
}

#[test]
fn each_number_stands_under_its_name() {
    let mut model = model("");
    let counts = Snapshot { connect_failed: 4, lost: 2, mismatches: 1, ..counts() };
    measuring(&mut model, 2500, counts);
    let shown = shown(&model, (80, 24));
    let wide = |name: &str, last, so_far| format!("{name:12}{last:>12}{so_far:>12}");
    for (name, last, so_far) in [
        ("Requests/sec", "500.00", "750.00"),
        ("Transfer/sec", "200.00KB", "150.00KB"),
        ("p50   ", "250.11us", "375.04us"),
        ("p90   ", "450.05us", "850.43us"),
        ("p99   ", "495.10us", "985.09us"),
        ("max   ", "500.22us", "1.00ms"),
    ] {
        assert_eq!(row(&shown, name), wide(name.trim_end(), last, so_far), "\n{shown}");
    }
    assert_eq!(row(&shown, "Connections "), "Connections  100 asked, 93 open, 2 lost");
    assert_eq!(row(&shown, "Errors "), "Errors       4 connects, 2 lost, 1 differed");
    let first = shown.lines().next().expect("a line");
    let local = "Running 10s test @ tcp://127.0.0.1:0, 1 thread, 100 connections, closed loop";
    assert_eq!(first, local);
    let second = shown.lines().nth(1).expect("a line");
    assert!(second.starts_with("measuring: 2.5s of 10s (q ends) ==="), "{second}");
    let (done, all) = (second.matches('=').count(), second.matches(['=', '-']).count());
    assert_eq!((done, all), (12, 48), "a quarter of {second}");
}

#[test]
fn the_distribution_has_every_request_so_far() {
    let shown = shown(&model(""), (80, 24));
    let begin = shown.lines().position(|line| line.starts_with("Latency Dist"));
    let rows = shown.lines().skip(begin.expect("it is there") + 1).map_while(|row| row.get(..33));
    let left: Vec<_> = rows.take_while(|row| row.ends_with('%')).collect();
    assert!(left.len() >= 8, "{shown}");
    let share = |row: &&str| row[20..32].trim_start_matches(['#', ' ']).parse::<f64>();
    let shares: Vec<_> = left.iter().map(|row| share(row).expect("a share")).collect();
    let sum = shares.iter().sum::<f64>();
    assert!((sum - 100.0).abs() < 0.1, "{sum}: {shares:?}\n{shown}");
    // From 1 us to 1 ms, with more requests in each step.
    assert!(shares.is_sorted(), "{shares:?}");
    assert_eq!(&left[left.len() - 1][..16], "<   1.00ms #####");
}

/// The colours in a column of a chart, from top to bottom, each once.
fn colours(buffer: &Buffer, column: u16, rows: std::ops::Range<u16>) -> Vec<Color> {
    let mut colours: Vec<_> = rows.map(|row| buffer[(column, row)].fg).collect();
    colours.retain(|colour| *colour != Color::Reset);
    colours.dedup();
    colours
}

#[test]
fn the_charts_have_the_values_of_each_second_in_order() {
    let mut model = Model::new(Arc::new(plan("-c 100 -d 60s -R 400")), true);
    measuring(&mut model, 1, counts());
    for number in 0..20 {
        // One latency in ten is ten times as long, one in a hundred a hundred times, one more.
        let mut second = second(number, 0);
        for (micros, count) in [(100, 890), (1_000, 95), (10_000, 14), (100_000, 1)] {
            second.latency.record_n(micros * 1_000, count).expect("in bounds");
        }
        second.replies = 1_000;
        model.second(&second);
    }
    measuring(&mut model, 20_100, counts());
    let buffer = frame(&model, (100, 40), PLAIN);
    let text = lines(&buffer);
    let charts = 3..17;
    let latency = colours(&buffer, 90, charts.clone());
    assert_eq!(latency, [Color::Red, Color::Magenta, Color::Cyan, Color::Green], "{text:#?}");
    assert_eq!(colours(&buffer, 40, charts), [Color::Cyan, Color::Magenta], "1000 above 400");
    let all = text.join("\n");
    assert!(text[2].contains("Requests/sec wanted answered"), "{all}");
    assert!(text[2].contains("Latency p50 p90 p99 max"), "{all}");
    for label in [" 1.00k|", "500.00|", "  0.00|", "200.00ms|", "100.00us|", "1s   ", " 20s"] {
        assert!(all.contains(label), "no {label:?} in\n{all}");
    }
    assert!(text[0].ends_with("open loop"), "{all}");
}

#[test]
fn a_stage_of_the_schedule_is_wanted_in_its_seconds() {
    let mut model = Model::new(Arc::new(plan("-c 9 --stages 2s:100,2s:100-300 -w 1s")), true);
    for number in 0..4 {
        model.second(&second(number, 1));
    }
    let wanted: Vec<_> = model.seconds.iter().map(|second| second.wanted).collect();
    assert_eq!(wanted, [100.0, 100.0, 150.0, 250.0].map(Some));
    let mut closed = Model::new(Arc::new(plan("-c 9")), true);
    closed.second(&second(0, 1));
    assert_eq!(closed.seconds[0].wanted, None);
}

fn verdict(model: &mut Model, counts: Snapshot) -> (Verdict, String) {
    model.now(model.stage, &counts);
    model.verdict.clone().expect("a second is over")
}

#[test]
fn the_verdict_so_far_is_that_of_the_report() {
    let found = |flags, counts| verdict(&mut model(flags), counts);
    let (verdict_so_far, text) = found("", counts());
    assert_eq!(verdict_so_far, Verdict::Valid);
    assert_eq!(text, "valid: the generator had time to spare");
    let (_, text) = found("", Snapshot { mismatches: 3, lost: 2, ..counts() });
    assert_eq!(text, "echo-differed: on 3 of 100 connections");
    let (_, text) = found("", Snapshot { lost: 2, ..counts() });
    assert_eq!(text, "connections-lost: 2 of 100 connections lost");
    let (_, text) = found("--slo p99<1us --slo errors<1", counts());
    assert_eq!(text, "valid: the generator had time to spare; p99<1us missed (985.09us)");
    let mut waiting = model("");
    let used = ThreadUse { waiting: Duration::from_millis(500), ..ThreadUse::default() };
    waiting.set_thread_uses(vec![used]);
    let (_, text) = verdict(&mut waiting, counts());
    assert!(text.starts_with("valid: the generator waited for a processor 25 %"), "{text}");
    waiting.set_thread_uses(Vec::new());
    assert_eq!(verdict(&mut waiting, counts()).1, "valid", "what is not known is not said");
}

#[test]
fn connects_that_failed_are_told_from_those_that_failed_later() {
    let mut model = Model::new(Arc::new(plan("-c 100 -d 10s")), true);
    let failed = |connect_failed| Snapshot { connect_failed, ..counts() };
    model.now(RunStage::Connecting, &failed(2));
    assert_eq!(model.verdict, None);
    measuring(&mut model, 1, failed(7));
    model.second(&second(0, 10));
    let text = verdict(&mut model, failed(7)).1;
    assert_eq!(text, "under-connected: 93 of 100 connections");
    let text = verdict(&mut model, failed(9)).1;
    assert!(text.ends_with("; 2 connects failed in place of connections that had ended"), "{text}");
}

#[test]
fn whose_fault_late_requests_are_is_left_to_the_report() {
    let late = |micros: u64, waiting| {
        let flags = "-c 100 -R 1k --slo p99<1us";
        let mut model = Model::new(Arc::new(plan(flags)), true);
        measuring(&mut model, 1, counts());
        let mut second = second(0, 1000);
        second.send_lag.record_n(micros * 1000, 1000).expect("in bounds");
        model.second(&second);
        model.set_thread_uses(vec![ThreadUse { waiting, ..ThreadUse::default() }]);
        verdict(&mut model, counts())
    };
    let (found, text) = late(50, Duration::ZERO);
    assert_eq!(found, Verdict::Valid);
    assert!(text.contains("99 % of the latencies include at most 50.02us of its own"), "{text}");
    let (found, text) = late(900, Duration::ZERO);
    assert_eq!(found, Verdict::GeneratorLimited);
    let expected = "undecided: requests are sent late (send lag p99 900.09us); the report tells \
                    by whose fault";
    assert_eq!(text, expected);
    // Here it is known, and what it makes of the objective is said too.
    let (found, text) = late(900, Duration::from_millis(990));
    assert_eq!(found, Verdict::GeneratorLimited);
    let expected = "generator-limited: a thread was 99 % busy; p99<1us undecided (990.21us; loadgen \
                    itself was late)";
    assert_eq!(text, expected);
}

#[test]
fn a_server_that_does_not_answer_is_nothing_served() {
    let mut model = Model::new(Arc::new(plan("-c 100")), true);
    measuring(&mut model, 1, counts());
    model.second(&second(0, 0));
    let text = verdict(&mut model, counts()).1;
    assert!(text.starts_with("nothing-served: 100 connections, none had a complete"), "{text}");
    assert!(shown(&model, (80, 24)).contains("Verdict so far: nothing-served: 100"));
}

#[test]
fn a_small_terminal_has_the_most_important_lines() {
    let mut model = model("");
    model.message = Some("server: out of files".into());
    let medium = shown(&model, (60, 15));
    for text in [
        "Running 10s test",
        "measuring: 2.5s of 10s",
        "Latency p50 p90 p99 max",
        "500.00/s, p50 250.11us, p99 495.10us, max 500.22us",
        "Connections  100 asked, 93 open, 0 lost",
        "Errors       0",
        "Verdict so far: valid: the generator had time to spare",
        "server: out of files",
    ] {
        assert!(medium.contains(text), "no {text} in\n{medium}");
    }
    assert!(!medium.contains("Requests/sec"), "{medium}");
    assert!(shown(&model, (60, 30)).contains("Requests/sec"), "there is room");
    let small = shown(&model, (40, 6));
    let lines: Vec<_> = small.lines().collect();
    assert!(lines[0].starts_with("measuring: 2.5s of 10s (q ends) ="), "{small}");
    assert!(lines[1].starts_with("500.00/s, p50 250.11us"), "{small}");
    assert!(lines[4].starts_with("Verdict so far: valid"), "{small}");
    assert_eq!(shown(&model, (9, 1)), "measuring");
}

#[test]
fn no_size_is_too_small_or_too_large_and_ascii_is_ascii() {
    let without = Model::new(Arc::new(plan("-c 100 -R 1k")), false);
    let mut with = model("-R 1k");
    with.message = Some("Überlauf".into());
    for columns in 1..=200 {
        for rows in 1..=60 {
            // Every look at some sizes, and every size with some look.
            let utf8 = (columns + rows) % 2 == 0;
            let look = Look { utf8, colours: columns % 2 == 0 };
            let model = if (columns + rows) % 7 == 0 { &without } else { &with };
            let buffer = frame(model, (columns, rows), look);
            let cells = &buffer.content;
            assert!(utf8 || cells.iter().all(|cell| cell.symbol().is_ascii()));
            let plain = |cell: &Cell| cell.fg == Color::Reset;
            assert!(look.colours || cells.iter().all(plain), "{columns} x {rows}");
        }
    }
}

#[test]
fn with_utf8_and_colours_there_are_both() {
    let buffer = frame(&model(""), (80, 24), FULL);
    let text = lines(&buffer).join("\n");
    assert!(text.contains('━') && text.contains('█') && text.contains('│'), "{text}");
    assert!(text.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "braille: {text}");
    // The terminal's own colours, which suit its background.
    let own = |colour| {
        matches!(colour, Color::Reset | Color::Red | Color::Green | Color::Cyan | Color::Magenta)
    };
    assert!(buffer.content.iter().all(|cell| own(cell.fg) && cell.bg == Color::Reset));
}

#[test]
fn of_a_long_run_the_last_ten_minutes_are_shown() {
    let mut model = Model::new(Arc::new(plan("-c 100 -d 1h")), true);
    (0..HISTORY as u64 + 5).for_each(|number| model.second(&second(number, 3)));
    assert_eq!(model.seconds.len(), HISTORY);
    let shown = shown(&model, (80, 24));
    assert!(shown.contains("|6s   ") || shown.contains(" 6s  "), "{shown}");
    assert!(shown.contains("605s"), "{shown}");
}
