//! What stderr shows during a run: the live view if it is a terminal, otherwise one line per second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::ProgressForm;
use crate::plan::Plan;
use crate::stats::interval::Interval;
use crate::stats::records;
use crate::stats::tally::Snapshot;
use crate::units::{metric, time_text};
#[cfg(feature = "live")]
use crate::view::live::LiveView;
use crate::view::{terminal, words};

/// Interval between redraws of the view.
#[cfg(feature = "live")]
const VIEW_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between lines while connections are established and closed.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The stage of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunStage {
    Connecting,
    /// Time since the start of the measured period; zero during the warm-up.
    Measuring(Duration),
    Finishing,
}

/// Shows the progress of a run. Dropping it removes the view.
pub struct Progress {
    plan: Arc<Plan>,
    form: Rendering,
    shown: Instant,
}

enum Rendering {
    #[cfg(feature = "live")]
    View(LiveView),
    Lines,
    None,
}

impl Progress {
    /// `keys`: whether `q` ends the run.
    #[cfg_attr(not(feature = "live"), expect(unused_variables))]
    pub fn new(plan: Arc<Plan>, form: ProgressForm, keys: bool) -> Progress {
        let form = match form {
            ProgressForm::None => Rendering::None,
            #[cfg(feature = "live")]
            ProgressForm::Auto if terminal::can_redraw() => {
                LiveView::start(plan.clone(), keys).map_or(Rendering::Lines, Rendering::View)
            }
            ProgressForm::Auto | ProgressForm::Lines => Rendering::Lines,
        };
        Progress { plan, form, shown: Instant::now() }
    }

    /// Shows the state of the run if an update is due.
    pub fn update(&mut self, stage: RunStage, counts: &Snapshot) {
        let interval = match &self.form {
            #[cfg(feature = "live")]
            Rendering::View(_) => VIEW_INTERVAL,
            Rendering::Lines => LINE_INTERVAL,
            Rendering::None => return,
        };
        if self.shown.elapsed() < interval {
            return;
        }
        self.shown = Instant::now();
        #[cfg(feature = "live")]
        self.without_view_if(|view| !view.update(stage, counts));
        match &self.form {
            #[cfg(feature = "live")]
            Rendering::View(_) => {}
            // Each second has its own line.
            Rendering::Lines if !matches!(stage, RunStage::Measuring(since) if !since.is_zero()) => {
                terminal::message(line(&self.plan, stage, counts, Vec::new()));
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
        #[cfg(feature = "live")]
        self.without_view_if(|view| !view.second(second));
        match &self.form {
            #[cfg(feature = "live")]
            Rendering::View(_) => {}
            Rendering::Lines => {
                let stage = RunStage::Measuring(second.start + second.length);
                let figures = figures(second);
                terminal::message(line(&self.plan, stage, &second.counts, figures));
            }
            Rendering::None => {}
        }
    }
}

#[cfg(feature = "live")]
impl Progress {
    /// Goes on with lines if the view has ended, by a panic.
    fn without_view_if(&mut self, has_ended: impl FnOnce(&LiveView) -> bool) {
        if let Rendering::View(view) = &self.form
            && has_ended(view)
        {
            self.form = Rendering::Lines;
        }
    }
}

/// Progress, connections, the figures of a second, and errors.
fn line(plan: &Plan, stage: RunStage, counts: &Snapshot, figures: Vec<String>) -> String {
    let connections = words::connections(plan, counts);
    let how_far = words::stage(plan, stage, counts);
    let mut words = match stage {
        RunStage::Measuring(_) if !how_far.starts_with("warming") => vec![how_far, connections],
        _ => vec![format!("{how_far}: {connections}")],
    };
    words.extend(figures);
    words.push(words::errors(counts));
    words.extend(words::behind(stage, counts));
    words.join(", ")
}

/// Its rate and latencies.
fn figures(second: &Interval) -> Vec<String> {
    let mut words = vec![format!("{}/s", metric(second.rate()))];
    let values = &second.latency;
    if !values.is_empty() {
        let at = |percentile| records::percentile(values, percentile);
        let times = [("p50", at(50.0)), ("p99", at(99.0)), ("max", values.max())];
        let text = |(name, nanos)| format!("{name} {}", time_text(Duration::from_nanos(nanos)));
        words.extend(times.map(text));
    }
    words
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::RunArgs;
    use crate::plan::machine::Machine;
    use crate::stats::records::latency_histogram;
    use clap::Parser;

    pub fn plan(flags: &str) -> Plan {
        let machine = Machine {
            open_files_max: 1 << 20,
            open_files_now: 4,
            ports: 1..=60_000,
            processors: 2,
            backlog_max: None,
        };
        let args = RunArgs::parse_from(format!("loadgen {flags}").split_whitespace());
        Plan::new(&args.run, &machine, &[], 1).expect("possible")
    }

    pub fn counts() -> Snapshot {
        let mut counts = Snapshot::default();
        (counts.open, counts.connect_failed, counts.lost, counts.mismatches) = (9_990, 7, 2, 1);
        counts.replies = 5;
        counts
    }

    /// A second with latencies of 1 us to so many.
    pub fn second(number: u64, replies: u64) -> Interval {
        let mut latency = latency_histogram();
        (1..=replies).for_each(|micros| latency.record(micros * 1000).expect("in bounds"));
        Interval {
            number,
            start: Duration::from_secs(number),
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
        let shown = |flags, stage| line(&plan(flags), stage, &counts(), Vec::new());
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
        let plan = plan("-R 1k");
        let late = |millis| Snapshot { behind: Duration::from_millis(millis), ..counts() };
        let shown = |stage, counts: &Snapshot| line(&plan, stage, counts, Vec::new());
        assert!(!shown(SINCE, &late(10)).contains("behind"), "that is not worth saying");
        let words = shown(SINCE, &late(1_200));
        assert!(words.ends_with("10 errors, 1.20s behind its schedule"), "{words}");
        let finishing = shown(RunStage::Finishing, &late(1_200));
        assert!(!finishing.contains("behind"), "{finishing}");
    }

    #[test]
    #[cfg(feature = "live")]
    fn after_a_panic_of_the_view_there_are_lines() {
        let progress = || Progress {
            plan: Arc::new(plan("")),
            form: Rendering::View(LiveView::ended()),
            shown: Instant::now() - VIEW_INTERVAL,
        };
        let mut by_second = progress();
        by_second.second(&second(0, 5));
        assert!(matches!(by_second.form, Rendering::Lines));
        let mut by_update = progress();
        by_update.update(SINCE, &counts());
        assert!(matches!(by_update.form, Rendering::Lines));
    }

    #[test]
    fn a_second_has_its_rate_and_its_latencies() {
        let line = |replies| line(&plan(""), SINCE, &counts(), figures(&second(0, replies)));
        assert_eq!(
            line(1000),
            "measuring: 1.5s of 10s, 9990 of 10000 connections, 1.00k/s, p50 500.22us, \
             p99 990.21us, max 1.00ms, 10 errors"
        );
        let none = line(0);
        assert!(none.contains("connections, 0.00/s, 10 errors"), "no reply, no latency: {none}");
    }
}
