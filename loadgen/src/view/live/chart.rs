//! Charts over the last seconds: their axes, and the lines in them.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{HorizontalAlignment, Rect};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Borders, Chart, Dataset, GraphType};

use super::draw::Look;
use super::model::{LATENCY_NAMES, Second, span};
use crate::units::{metric, time_text};

/// Colours that a light and a dark background show. The percentiles in their order.
pub const LATENCY_COLOURS: [Color; 4] = [Color::Green, Color::Cyan, Color::Magenta, Color::Red];
const RATE_COLOUR: Color = Color::Cyan;
const WANTED_COLOUR: Color = Color::Magenta;
/// From this height on there is a label in the middle.
const MIDDLE_FROM: u16 = 8;

/// The rate of each second, from zero, and the one that the schedule asks for.
pub fn rate(frame: &mut Frame, area: Rect, seconds: &VecDeque<Second>, look: Look) {
    let points = |of: fn(&Second) -> Option<f64>| {
        seconds.iter().filter_map(|second| Some((second.end, of(second)?))).collect::<Vec<_>>()
    };
    let (rates, wanted) = (points(|second| Some(second.rate)), points(|second| second.wanted));
    let highest = rates.iter().chain(&wanted).map(|point| point.1).fold(0.0, f64::max);
    let top = if highest > 0.0 { rounded_up(highest) } else { 1.0 };
    let mut title = vec![Span::raw("Requests/sec")];
    if !wanted.is_empty() {
        title.push(Span::styled(" wanted", WANTED_COLOUR));
        title.push(Span::styled(" answered", RATE_COLOUR));
    }
    let labels = [0.0, top / 2.0, top].map(metric);
    let lines = [line(&wanted, WANTED_COLOUR, look), line(&rates, RATE_COLOUR, look)];
    render(frame, area, title, lines.into(), ([0.0, top], labels), span(seconds));
}

/// The percentiles of each second, on a logarithmic axis.
pub fn latency(frame: &mut Frame, area: Rect, seconds: &VecDeque<Second>, look: Look) {
    let points = [0, 1, 2, 3].map(|nth: usize| {
        let of = |second: &Second| Some((second.end, (second.latency?[nth].max(1) as f64).log10()));
        seconds.iter().filter_map(of).collect::<Vec<_>>()
    });
    let all = || points.iter().flatten().map(|point| point.1);
    let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
    let bounds = match low <= high {
        true => [rounded_down(10f64.powf(low)).log10(), rounded_up(10f64.powf(high)).log10()],
        false => [3.0, 6.0],
    };
    let bounds = [bounds[0], bounds[1].max(bounds[0] + 0.1)];
    let mut title = vec![Span::raw("Latency")];
    for (name, colour) in LATENCY_NAMES.into_iter().zip(LATENCY_COLOURS) {
        title.push(Span::styled(format!(" {name}"), colour));
    }
    let of_nanos = |log: f64| time_text(Duration::from_nanos(10f64.powf(log).round() as u64));
    let labels = [bounds[0], (bounds[0] + bounds[1]) / 2.0, bounds[1]].map(of_nanos);
    // The median last, so that it is seen where lines meet.
    let lines = (0..4).rev().map(|nth| line(&points[nth], LATENCY_COLOURS[nth], look));
    render(frame, area, title, lines.collect(), (bounds, labels), span(seconds));
}

fn line<'a>(points: &'a [(f64, f64)], colour: Color, look: Look) -> Dataset<'a> {
    let marker = if look.utf8 { Marker::Braille } else { Marker::Custom('*') };
    let style = Style::new().fg(colour);
    Dataset::default().data(points).marker(marker).graph_type(GraphType::Line).style(style)
}

fn render(
    frame: &mut Frame,
    area: Rect,
    title: Vec<Span>,
    lines: Vec<Dataset>,
    (bounds, [low, middle, high]): ([f64; 2], [String; 3]),
    times: [f64; 2],
) {
    let labels = match area.height >= MIDDLE_FROM {
        true => vec![low, middle, high],
        false => vec![low, high],
    };
    let y = Axis::default().bounds(bounds).labels(labels);
    let x = Axis::default()
        .bounds(times)
        .labels(times.map(|seconds| format!("{seconds:.0}s")))
        .labels_alignment(HorizontalAlignment::Right);
    let block = Block::new().borders(Borders::TOP).title(Line::from(title));
    let chart = Chart::new(lines).legend_position(None);
    frame.render_widget(
        chart.block(block).x_axis(x).y_axis(y.labels_alignment(HorizontalAlignment::Right)),
        area,
    );
}

/// To 1, 2 or 5 times a power of ten.
fn rounded_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    // What is a step but for the last digits of a logarithm is that step.
    let enough = |factor: &f64| factor * power >= value * (1.0 - 1e-9);
    factors.into_iter().find(enough).unwrap_or(10.0) * power
}

fn rounded_down(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let factors = [5.0, 2.0, 1.0];
    let small_enough = |factor: &f64| factor * power <= value * (1.0 + 1e-9);
    factors.into_iter().find(small_enough).unwrap_or(1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_values() {
        let both = |value| (rounded_down(value), rounded_up(value));
        assert_eq!(both(13_440.0), (10_000.0, 20_000.0));
        assert_eq!(both(20_000.0), (20_000.0, 20_000.0));
        assert_eq!(both(50_001.0), (50_000.0, 100_000.0));
        assert_eq!(both(1.0), (1.0, 1.0));
        assert_eq!(both(999.0), (500.0, 1_000.0));
    }
}
