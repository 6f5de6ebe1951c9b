//! What is seen while a run goes on: one changing line on stderr if that is a terminal, otherwise a
//! plain line each second.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::control::Snapshot;
use crate::plan::Plan;

const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
const PLAIN_INTERVAL: Duration = Duration::from_secs(1);

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Connecting,
    /// Since when, and how many replies.
    Measuring(Duration),
    Finishing,
}

/// The progress line.
pub struct Progress {
    plan: Arc<Plan>,
    /// `None` if stderr is not a terminal.
    bar: Option<ProgressBar>,
    shown: Instant,
    replies_shown: u64,
}

impl Progress {
    pub fn new(plan: Arc<Plan>) -> Progress {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        Progress { plan, bar, shown: Instant::now(), replies_shown: 0 }
    }

    /// Shows where the run is, if it is time for that.
    pub fn update(&mut self, stage: Stage, counts: &Snapshot) {
        let interval = if self.bar.is_some() { TERMINAL_INTERVAL } else { PLAIN_INTERVAL };
        let since = self.shown.elapsed();
        if since < interval {
            return;
        }
        let rate = (counts.replies - self.replies_shown) as f64 / since.as_secs_f64();
        let line = line(&self.plan, stage, counts, rate);
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => eprintln!("{line}"),
        }
        self.shown = Instant::now();
        self.replies_shown = counts.replies;
    }

    /// Takes the line away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(plan: &Plan, stage: Stage, counts: &Snapshot, rate: f64) -> String {
    let up = counts.open;
    let errors = counts.connect_failed + counts.lost + counts.mismatches;
    match stage {
        Stage::Connecting => {
            format!("connecting: {up} of {} connections up, {errors} errors", plan.connections)
        }
        Stage::Measuring(since) => {
            let of = match (plan.duration, plan.requests) {
                (Some(duration), _) => format!(" of {duration:?}"),
                (None, Some(requests)) => format!(", {} of {requests} replies", counts.replies),
                (None, None) => String::new(),
            };
            let since = since.as_secs_f64();
            format!("measuring: {since:.1}s{of}, {up} up, {rate:.0} replies/s, {errors} errors")
        }
        Stage::Finishing => format!("finishing: {up} up, {errors} errors"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use crate::limits::Machine;
    use clap::Parser;

    #[test]
    fn the_line_says_how_many_how_fast_and_what_went_wrong() {
        let machine = Machine {
            open_files_max: 1 << 20,
            open_files_now: 4,
            ports: 1..=60_000,
            processors: 2,
        };
        let plan = Plan::new(&Args::parse_from(["loadgen"]), &machine, None, 1).expect("possible");
        let counts =
            Snapshot { open: 9_990, connect_failed: 7, lost: 2, mismatches: 1, replies: 5 };
        let shown = |stage| line(&plan, stage, &counts, 1234.4);
        assert_eq!(shown(Stage::Connecting), "connecting: 9990 of 10000 connections up, 10 errors");
        assert_eq!(
            shown(Stage::Measuring(Duration::from_millis(1500))),
            "measuring: 1.5s of 10s, 9990 up, 1234 replies/s, 10 errors"
        );
        assert_eq!(shown(Stage::Finishing), "finishing: 9990 up, 10 errors");
    }
}
