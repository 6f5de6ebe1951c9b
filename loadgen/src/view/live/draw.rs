//! The layout of the live view for each size of the terminal, and its panels.

use std::time::Duration;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, LineGauge, Paragraph, Wrap};

use super::chart;
use super::model::{LATENCY_NAMES, Latency, Model, Second};
use crate::report::{self, Verdict};
use crate::units::{binary, counted, metric, time_text};
use crate::view::progress::RunStage;
use crate::view::words;

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub utf8: bool,
    pub colours: bool,
}

/// From this size on there are all panels; from the smaller one there is a chart.
const ALL_FROM: (u16, u16) = (72, 20);
const CHART_FROM: (u16, u16) = (32, 12);
/// Rows of the table of numbers, with its heading.
const NUMBERS_ROWS: u16 = 9;
/// Columns of it and of connections and errors below it.
const NUMBERS_COLUMNS: u16 = 45;
/// Rows of a chart, at least.
const CHART_ROWS: u16 = 6;
/// Columns between panels that are side by side.
const GAP: u16 = 2;
/// Columns of a latency, and of the names of the numbers.
const TIME_COLUMNS: usize = 10;
const NAME_COLUMNS: usize = 12;
/// Columns of a share in the distribution.
const SHARE_COLUMNS: usize = 8;
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws a frame.
pub fn draw(frame: &mut Frame, model: &Model, look: Look) {
    let whole = frame.area();
    let fits = |(columns, rows)| whole.width >= columns && whole.height >= rows;
    if fits(ALL_FROM) {
        all_panels(frame, model, look);
    } else if fits(CHART_FROM) {
        one_column(frame, model, look);
    } else {
        lines_only(frame, model, look);
    }
    simplify(frame.buffer_mut(), look);
}

/// Two charts above, distribution and numbers below.
fn all_panels(frame: &mut Frame, model: &Model, look: Look) {
    let mut rest = frame.area();
    title(frame, top(&mut rest, 1), model);
    gauge(frame, top(&mut rest, 1), model, look);
    let foot = bottom(&mut rest, 3);
    verdict(frame, foot, model);
    let charts = (rest.height / 2).min(rest.height - NUMBERS_ROWS);
    let [left, right] = side_by_side(top(&mut rest, charts), 0);
    chart::rate(frame, left, &model.seconds, look);
    chart::latency(frame, right, &model.seconds, look);
    let [left, right] = side_by_side(rest, NUMBERS_COLUMNS);
    distribution(frame, left, model, look);
    numbers(frame, right, model);
}

/// The latencies, if there is room also the rate, and the numbers in lines.
fn one_column(frame: &mut Frame, model: &Model, look: Look) {
    let mut rest = frame.area();
    title(frame, top(&mut rest, 1), model);
    gauge(frame, top(&mut rest, 1), model, look);
    let foot = bottom(&mut rest, 2);
    verdict(frame, foot, model);
    let below = bottom(&mut rest, 3);
    frame.render_widget(Paragraph::new(short_lines(model)), below);
    if rest.height >= 2 * CHART_ROWS {
        let half = rest.height / 2;
        let above = top(&mut rest, half);
        chart::rate(frame, above, &model.seconds, look);
    }
    chart::latency(frame, rest, &model.seconds, look);
}

/// The most important first.
fn lines_only(frame: &mut Frame, model: &Model, look: Look) {
    let mut rest = frame.area();
    gauge(frame, top(&mut rest, 1), model, look);
    let lines = short_lines(model);
    let here = top(&mut rest, lines.len() as u16);
    frame.render_widget(Paragraph::new(lines), here);
    verdict(frame, rest, model);
}

/// Takes rows from the top, or from the bottom.
fn top(rest: &mut Rect, rows: u16) -> Rect {
    let height = rows.min(rest.height);
    let taken = Rect { height, ..*rest };
    *rest = Rect { y: rest.y + height, height: rest.height - height, ..*rest };
    taken
}

fn bottom(rest: &mut Rect, rows: u16) -> Rect {
    let height = rows.min(rest.height);
    rest.height -= height;
    Rect { y: rest.y + rest.height, height, ..*rest }
}

/// Two halves, or a right part with at least so many columns.
fn side_by_side(area: Rect, right_min: u16) -> [Rect; 2] {
    let right = (area.width / 2).max(right_min).min(area.width);
    let left = Rect { width: area.width.saturating_sub(right + GAP), ..area };
    [left, Rect { x: area.x + area.width - right, width: right, ..area }]
}

/// What is run, in the words of the report.
fn title(frame: &mut Frame, area: Rect, model: &Model) {
    let plan = model.plan();
    let loop_text = match plan.open_loop {
        None => "closed loop",
        Some(_) => "open loop",
    };
    let text = format!(
        "{}, {}, {}, {loop_text}",
        report::running(plan),
        counted(plan.threads as u64, "thread"),
        counted(plan.connections, "connection")
    );
    frame.render_widget(Line::styled(text, BOLD), area);
}

/// The stage, and how much of the run is done.
fn gauge(frame: &mut Frame, area: Rect, model: &Model, look: Look) {
    let (plan, stage) = (model.plan(), model.stage);
    let done = match (stage, plan.duration, plan.own_requests()) {
        (RunStage::Connecting, ..) => model.counts.open as f64 / plan.connections.max(1) as f64,
        (RunStage::Measuring(since), Some(duration), _) => {
            since.as_secs_f64() / duration.as_secs_f64()
        }
        (RunStage::Measuring(_), None, Some(requests)) => {
            model.counts.replies as f64 / requests as f64
        }
        (RunStage::Measuring(_), None, None) => 0.0,
        (RunStage::Finishing, ..) => 1.0,
    };
    let mut label = words::stage(plan, stage, &model.counts);
    if model.keys {
        label += " (q ends)";
    }
    let [filled, unfilled] = if look.utf8 { ["━", "─"] } else { ["=", "-"] };
    let gauge = LineGauge::default()
        .ratio(if done.is_finite() { done.clamp(0.0, 1.0) } else { 0.0 })
        .label(label)
        .filled_symbol(filled)
        .unfilled_symbol(unfilled)
        .filled_style(Style::new().fg(Color::Cyan));
    frame.render_widget(gauge, area);
}

/// How many requests had which latency, of all so far.
fn distribution(frame: &mut Frame, area: Rect, model: &Model, look: Look) {
    let block = Block::new().borders(Borders::TOP).title("Latency Distribution");
    let inner = block.inner(area);
    let steps = model.distribution(inner.height.into());
    let all: u64 = steps.iter().map(|step| step.1).sum();
    let most = steps.iter().map(|step| step.1).max().unwrap_or_default().max(1);
    let room = usize::from(inner.width).saturating_sub(1 + TIME_COLUMNS + SHARE_COLUMNS);
    let [sign, bar] = if look.utf8 { ["≤", "█"] } else { ["<", "#"] };
    let line = |(end, count): (u64, u64)| {
        // What there was at all can be seen.
        let length = (count * room as u64).div_ceil(most) as usize;
        let share = count as f64 * 100.0 / all.max(1) as f64;
        Line::from(vec![
            Span::raw(format!("{sign}{:>1$} ", time(end), TIME_COLUMNS - 1)),
            Span::styled(bar.repeat(length), Color::Cyan),
            Span::raw(" ".repeat(room - length)),
            Span::raw(format!("{share:>0$.2}%", SHARE_COLUMNS - 1)),
        ])
    };
    let lines: Vec<_> = steps.into_iter().map(line).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// The last second beside the whole run, connections and errors.
fn numbers(frame: &mut Frame, area: Rect, model: &Model) {
    let heading = format!("{:NAME_COLUMNS$}{:>12}{:>12}", "", "Last second", "So far");
    let block = Block::new().borders(Borders::TOP).title(heading);
    let (last, so_far) = (model.seconds.back(), model.so_far.as_ref());
    let row = |name: &str, last: Option<String>, so_far: Option<String>| {
        let [last, so_far] = [last, so_far].map(Option::unwrap_or_default);
        Line::raw(format!("{name:NAME_COLUMNS$}{last:>12}{so_far:>12}"))
    };
    let bytes = |rate: f64| format!("{}B", binary(rate));
    let mut lines = vec![
        row("Requests/sec", last.map(|one| metric(one.rate)), so_far.map(|all| metric(all.rate))),
        row(
            "Transfer/sec",
            last.map(|one| bytes(one.bytes_rate)),
            so_far.map(|all| bytes(all.bytes_rate)),
        ),
    ];
    let latencies = [last.and_then(|one| one.latency), so_far.and_then(|all| all.latency)];
    for (nth, (name, colour)) in LATENCY_NAMES.into_iter().zip(chart::LATENCY_COLOURS).enumerate() {
        let [last, so_far] = latencies.map(|one| one.map(|of: Latency| time(of[nth])));
        lines.push(row(name, last, so_far).style(Style::new().fg(colour)));
    }
    lines.push(connections(model));
    lines.push(errors(model));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn connections(model: &Model) -> Line<'static> {
    let (counts, plan) = (&model.counts, model.plan());
    let text =
        format!("{} asked, {} open, {} lost", plan.connections_asked, counts.open, counts.lost);
    named("Connections", text, counts.lost > 0 || plan.connections < plan.connections_asked)
}

/// Of what they consist. Lost connections are among them.
fn errors(model: &Model) -> Line<'static> {
    let counts = &model.counts;
    let (failed, lost, differed) = (counts.connect_failed, counts.lost, counts.mismatches);
    let text = match counts.errors() {
        0 => "0".to_string(),
        _ => format!("{failed} connects, {lost} lost, {differed} differed"),
    };
    named("Errors", text, counts.errors() > 0)
}

fn named(name: &str, text: String, is_wrong: bool) -> Line<'static> {
    let style = if is_wrong { BOLD.fg(Color::Red) } else { Style::new() };
    Line::from(vec![Span::raw(format!("{name:NAME_COLUMNS$} ")), Span::styled(text, style)])
}

/// What the table has, for a terminal without room for it.
fn short_lines(model: &Model) -> Vec<Line<'static>> {
    let latencies = |[p50, _, p99, max]: Latency| {
        format!(", p50 {}, p99 {}, max {}", time(p50), time(p99), time(max))
    };
    let figures = |second: &Second| {
        let latency = second.latency.map(latencies).unwrap_or_default();
        Line::raw(format!("{}/s{latency}", metric(second.rate)))
    };
    vec![model.seconds.back().map(figures).unwrap_or_default(), connections(model), errors(model)]
}

/// The verdict so far, what it does not know, and the last message.
fn verdict(frame: &mut Frame, area: Rect, model: &Model) {
    let mut lines = Vec::new();
    if let Some((verdict, text)) = &model.verdict {
        let colour = match verdict {
            Verdict::Valid => Color::Green,
            _ => Color::Red,
        };
        let (word, rest) = text.split_at(text.find([':', ';']).unwrap_or(text.len()));
        lines.push(Line::from(vec![
            Span::raw("Verdict so far: "),
            Span::styled(word.to_string(), BOLD.fg(colour)),
            Span::raw(rest.to_string()),
        ]));
    }
    let behind = words::behind(model.stage, &model.counts);
    lines.extend(behind.map(|text| Line::styled(text, BOLD.fg(Color::Red))));
    lines.extend(model.message.clone().map(Line::raw));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), area);
}

fn time(nanos: u64) -> String {
    time_text(Duration::from_nanos(nanos))
}

/// Takes away what the terminal cannot show, or its user does not want to see.
fn simplify(buffer: &mut Buffer, look: Look) {
    for cell in &mut buffer.content {
        if !look.colours {
            cell.set_fg(Color::Reset).set_bg(Color::Reset);
        }
        if !look.utf8 && !cell.symbol().is_ascii() {
            let plain = match cell.symbol() {
                "│" => "|",
                "─" => "-",
                "└" => "+",
                _ => "?",
            };
            cell.set_symbol(plain);
        }
    }
}
