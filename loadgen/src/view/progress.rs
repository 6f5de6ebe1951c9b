//! What stderr shows during a run: a view of a few lines that is redrawn in place if stderr is a
//! terminal, otherwise one line per second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::ProgressForm;
use crate::plan::Plan;
use crate::stats::interval::Interval;
use crate::stats::records;
use crate::stats::tally::BEHIND;
use crate::stats::tally::Snapshot;
use crate::units::{metric, time_text};
use crate::view::terminal;

/// Interval between redraws of the view.
const VIEW_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between lines while connections are established and closed.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Seconds whose rate is kept: more than the columns of any terminal.
const HISTORY: usize = 512;
/// From zero to the highest rate.
type Bars = [char; 8];
const BARS: Bars = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same for a locale without UTF-8.
const BARS_ASCII: Bars = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// The stage of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunStage {
    Connecting,
    /// Time since the start of the measured period; zero during the warm-up.
    Measuring(Duration),
    Finishing,
}

/// Shows the progress of a run.
pub struct Progress {
    state: ViewState,
    form: Rendering,
    shown: Instant,
}

enum Rendering {
    View(ProgressBar),
    Lines,
    None,
}

/// The content, whatever its rendering.
struct ViewState {
    plan: Arc<Plan>,
    /// Whether a key ends the run.
    keys: bool,
    bars: &'static Bars,
    last: Option<LastSecond>,
    /// The rates of the last seconds.
    rates: VecDeque<f64>,
}

#[derive(Clone, Copy)]
struct LastSecond {
    rate: f64,
    /// Median, 99th percentile and maximum; `None` if there was no reply.
    latency: Option<[Duration; 3]>,
}

impl Progress {
    /// `keys`: whether `q` ends the run.
    pub fn new(plan: Arc<Plan>, form: ProgressForm, keys: bool) -> Progress {
        let form = match form {
            ProgressForm::None => Rendering::None,
            ProgressForm::Auto if terminal::can_redraw() => Rendering::View(view()),
            ProgressForm::Auto | ProgressForm::Lines => Rendering::Lines,
        };
        let bars = if terminal::has_utf8() { &BARS } else { &BARS_ASCII };
        let rates = VecDeque::with_capacity(HISTORY);
        let state = ViewState { plan, keys, bars, last: None, rates };
        Progress { state, form, shown: Instant::now() }
    }

    /// Shows the state of the run if an update is due.
    pub fn update(&mut self, stage: RunStage, counts: &Snapshot) {
        let interval = match &self.form {
            Rendering::View(_) => VIEW_INTERVAL,
            Rendering::Lines => LINE_INTERVAL,
            Rendering::None => return,
        };
        if self.shown.elapsed() < interval {
            return;
        }
        self.shown = Instant::now();
        match &self.form {
            Rendering::View(bar) => {
                bar.set_message(self.state.view(stage, counts, terminal::columns()))
            }
            // Each second has its own line.
            Rendering::Lines if !matches!(stage, RunStage::Measuring(since) if !since.is_zero()) => {
                terminal::message(ViewState::join(&self.state.line(stage, counts)));
            }
            Rendering::Lines | Rendering::None => {}
        }
    }

    /// Shows a second that has ended. An interval of length zero has what arrived after the last
    /// second; it is not shown.
    pub fn second(&mut self, second: &Interval) {
        if second.length.is_zero() {
            return;
        }
        self.state.remember(second);
        if let Rendering::Lines = self.form {
            let stage = RunStage::Measuring(second.start + second.length);
            let mut words = self.state.line(stage, &second.counts);
            words.splice(2..2, self.state.last_second());
            terminal::message(ViewState::join(&words));
        }
    }

    /// Removes the view.
    pub fn finish(self) {
        if let Rendering::View(bar) = self.form {
            bar.finish_and_clear();
        }
    }
}

fn view() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}").expect("the template is valid");
    ProgressBar::new_spinner().with_style(style)
}

impl ViewState {
    fn remember(&mut self, second: &Interval) {
        let values = &second.latency;
        let latency = (!values.is_empty()).then(|| {
            let at = |percentile| records::percentile(values, percentile);
            [at(50.0), at(99.0), values.max()].map(Duration::from_nanos)
        });
        self.last = Some(LastSecond { rate: second.rate(), latency });
        if self.rates.len() == HISTORY {
            self.rates.pop_front();
        }
        self.rates.push_back(second.rate());
    }

    fn join(words: &[String]) -> String {
        words.join(", ")
    }

    /// Progress, connections and errors.
    fn line(&self, stage: RunStage, counts: &Snapshot) -> Vec<String> {
        let errors = match counts.errors() {
            1 => "1 error".to_string(),
            errors => format!("{errors} errors"),
        };
        let (up, all) = (counts.open, self.plan.connections);
        let connections = format!("{up} of {all} connections");
        match stage {
            RunStage::Connecting => vec![format!("connecting: {connections}"), errors],
            RunStage::Measuring(Duration::ZERO) if !self.plan.warmup.is_zero() => {
                vec![format!("warming up: {connections}"), errors]
            }
            RunStage::Measuring(since) => {
                let mut words = vec![self.how_far(since, counts), connections, errors];
                words.extend(behind(counts));
                words
            }
            RunStage::Finishing => vec![format!("finishing: {connections}"), errors],
        }
    }

    fn how_far(&self, since: Duration, counts: &Snapshot) -> String {
        let since = since.as_secs_f64();
        match (self.plan.duration, self.plan.requests) {
            (Some(duration), _) => format!("measuring: {since:.1}s of {duration:?}"),
            (None, Some(requests)) => {
                format!("measuring: {since:.1}s, {} of {requests} replies", counts.replies)
            }
            (None, None) => format!("measuring: {since:.1}s"),
        }
    }

    fn last_second(&self) -> Vec<String> {
        let Some(last) = self.last else { return Vec::new() };
        let mut words = vec![format!("{}/s", metric(last.rate))];
        if let Some([median, p99, max]) = last.latency.map(|times| times.map(time_text)) {
            words.extend([format!("p50 {median}"), format!("p99 {p99}"), format!("max {max}")]);
        }
        words
    }

    /// The view: lines that are shorter than the terminal is wide. The last column stays free,
    /// because some terminals wrap when it is written.
    fn view(&self, stage: RunStage, counts: &Snapshot, columns: usize) -> String {
        let room = columns.saturating_sub(1);
        let mut first = Self::join(&self.line(stage, counts));
        // The second line shows that it measures.
        first = first.strip_prefix("measuring: ").map(str::to_string).unwrap_or(first);
        if self.keys {
            first += " (q ends)";
        }
        let mut lines = vec![first];
        if self.last.is_some() {
            lines.push(Self::join(&self.last_second()));
            lines.push(sparkline(self.bars, &self.rates, room));
        }
        let cut = |line: &String| line.chars().take(room).collect::<String>();
        lines.iter().map(cut).collect::<Vec<_>>().join("\n")
    }
}

/// Says that an open loop is behind its schedule, for whatever reason: the server or the generator
/// cannot sustain the rate, or there are too few connections.
fn behind(counts: &Snapshot) -> Option<String> {
    let late = counts.behind;
    (late > BEHIND).then(|| format!("{} behind its schedule", time_text(late)))
}

/// The last rates as bars, from zero to the highest of them.
fn sparkline(bars: &Bars, rates: &VecDeque<f64>, columns: usize) -> String {
    let shown = || rates.iter().skip(rates.len().saturating_sub(columns));
    let highest = shown().copied().fold(0.0, f64::max);
    let bar = |rate: &f64| match highest > 0.0 {
        true => bars[((rate / highest * bars.len() as f64) as usize).min(bars.len() - 1)],
        false => bars[0],
    };
    shown().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunArgs;
    use crate::plan::machine::Machine;
    use crate::stats::records::latency_histogram;
    use clap::Parser;

    fn state(flags: &str) -> ViewState {
        let machine = Machine {
            open_files_max: 1 << 20,
            open_files_now: 4,
            ports: 1..=60_000,
            processors: 2,
            backlog_max: None,
        };
        let args = RunArgs::parse_from(format!("loadgen {flags}").split_whitespace());
        let plan = Arc::new(Plan::new(&args.run, &machine, &[], 1).expect("possible"));
        ViewState { plan, keys: true, bars: &BARS, last: None, rates: VecDeque::new() }
    }

    fn counts() -> Snapshot {
        let mut counts = Snapshot::default();
        (counts.open, counts.connect_failed, counts.lost, counts.mismatches) = (9_990, 7, 2, 1);
        counts.replies = 5;
        counts
    }

    fn second(replies: u64) -> Interval {
        let mut latency = latency_histogram();
        (1..=replies).for_each(|micros| latency.record(micros * 1000).expect("in bounds"));
        Interval {
            number: 0,
            start: Duration::ZERO,
            length: Duration::from_secs(1),
            latency,
            send_lag: latency_histogram(),
            replies,
            replies_late: 0,
            bytes: 0,
            counts: counts(),
            errors: 0,
        }
    }

    const SINCE: RunStage = RunStage::Measuring(Duration::from_millis(1500));

    #[test]
    fn the_line_says_how_far_how_many_and_what_went_wrong() {
        let shown = |flags, stage| ViewState::join(&state(flags).line(stage, &counts()));
        let connections = "9990 of 10000 connections, 10 errors";
        assert_eq!(shown("", RunStage::Connecting), format!("connecting: {connections}"));
        let warm = RunStage::Measuring(Duration::ZERO);
        assert_eq!(shown("-w 1s", warm), format!("warming up: {connections}"));
        assert_eq!(shown("", SINCE), format!("measuring: 1.5s of 10s, {connections}"));
        assert_eq!(shown("-n 9", SINCE), format!("measuring: 1.5s, 5 of 9 replies, {connections}"));
        assert_eq!(shown("", RunStage::Finishing), format!("finishing: {connections}"));
    }

    #[test]
    fn an_open_loop_that_is_behind_says_by_how_much() {
        let state = state("-R 1k");
        let late = |millis| Snapshot { behind: Duration::from_millis(millis), ..counts() };
        let shown = |counts: &Snapshot| state.view(SINCE, counts, 80);
        assert!(!shown(&late(10)).contains("behind"), "that is not worth saying");
        let first = shown(&late(1_200));
        assert!(first.contains("10 errors, 1.20s behind its schedule"), "{first}");
        let finishing = state.view(RunStage::Finishing, &late(1_200), 80);
        assert!(!finishing.contains("behind"), "{finishing}");
    }

    #[test]
    fn the_view_has_the_last_second_and_the_rates_before_it() {
        let mut state = state("");
        assert_eq!(state.view(SINCE, &counts(), 80).lines().count(), 1);
        for replies in [0, 500, 1000] {
            state.remember(&second(replies));
        }
        let view = state.view(SINCE, &counts(), 80);
        let lines: Vec<_> = view.lines().collect();
        assert!(lines[0].ends_with("10 errors (q ends)"), "{view}");
        assert_eq!(lines[1], "1.00k/s, p50 500.22us, p99 990.21us, max 1.00ms");
        assert_eq!(lines[2], "▁▅█");
        state.bars = &BARS_ASCII;
        assert!(state.view(SINCE, &counts(), 80).ends_with("\n_=#"), "every level is ASCII");
        state.remember(&second(0));
        let view = state.view(SINCE, &counts(), 80);
        assert_eq!(view.lines().nth(1), Some("0.00/s"), "without a reply there is no latency");
    }

    #[test]
    fn no_line_is_as_wide_as_the_terminal() {
        let mut state = state("");
        (0..2 * HISTORY).for_each(|_| state.remember(&second(3)));
        assert_eq!(state.rates.len(), HISTORY);
        for columns in [1, 2, 20, 40, 300] {
            let view = state.view(SINCE, &counts(), columns);
            let widest = view.lines().map(|line| line.chars().count()).max();
            assert!(widest.is_none_or(|widest| widest < columns), "{columns}: {view}");
        }
    }
}
