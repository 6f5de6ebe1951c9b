//! The evaluation of a run: verdict, exit code, and the forms of the report.
//!
//! * here: what a report is made from
//! * `verdict`: the verdict with its reason; `ending`: the table of exit codes; `validity`: whether the generator kept up; `figures`:
//!   values computed from the records
//! * `difference`: figures of targets or files compared with each other
//! * `outputs`: where results go; `text`, `json`, `rows`, `hdr`: their forms; `load_text`,
//!   `targets`, `hub`, `datagram`, `stamp`, `parts`: parts of the text, made of what is in `line`
//! * `schema`: the types of all JSON objects; `saved`: results read from files; `shards`: those of
//!   one run; and `table`: those as
//!   comma-separated values

mod datagram;
pub mod difference;
#[cfg(test)]
pub mod distinct;
pub mod ending;
mod figures;
pub mod hdr;
pub mod html;
mod hub;
mod json;
mod line;
mod load_text;
pub mod outputs;
pub mod parts;
mod rows;
pub mod saved;
pub mod schema;
pub mod shards;
mod stamp;
pub mod table;
pub mod targets;
#[cfg(test)]
pub mod tests;
mod text;
pub mod validity;
mod verdict;

use std::fmt;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

pub use outputs::Outputs;
pub use rows::Rows;
pub use text::running;
pub use verdict::Verdict;

use crate::error::Failure;
use crate::plan::Plan;
use crate::plan::calibration::{MachineName, Standing};
use crate::stats::records::Records;
use crate::stats::slo::Outcome;
use schema::SecondSummary;

/// All results of a run.
pub struct Report {
    pub plan: Arc<Plan>,
    pub records: Records,
    /// When the measured period began; `None` if it did not.
    pub began_at: Option<SystemTime>,
    /// How the clock of this machine stands to that of shard 0; `None` unless there was a barrier.
    pub clock: Option<schema::ClockComparison>,
    /// Ended by a signal or a key.
    pub interrupted: bool,
    /// Ended because it could not pass any more.
    pub aborted: Option<Abort>,
    /// Processors that the local server used, on average.
    pub server_cores: Option<f64>,
    /// Whether the run can be compared with a calibration.
    pub calibration: Standing,
    /// Each second of the measured period; longer intervals in a run of more than an hour.
    pub intervals: Vec<SecondSummary>,
    /// The words of the command line.
    pub command: Vec<String>,
    /// The machine that this is; `None` in tests.
    pub machine: Option<MachineName>,
}

impl Report {
    /// A report on a run that goes on, from the records so far.
    pub fn so_far(plan: Arc<Plan>, records: Records) -> Report {
        Report {
            plan,
            records,
            began_at: None,
            clock: None,
            interrupted: false,
            aborted: None,
            server_cores: None,
            calibration: Standing::None,
            intervals: Vec::new(),
            command: Vec::new(),
            machine: None,
        }
    }
}

/// Why a run that could not pass was ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Abort {
    /// This second, counted from 1, missed an objective.
    Missed(u64, Outcome),
    /// This many connections failed, were lost, or had a byte that differed.
    Errors(u64),
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Abort::Missed(second, outcome) => write!(f, "second {second}: {outcome}"),
            Abort::Errors(1) => f.write_str("one connection failed, was lost or differed"),
            Abort::Errors(count) => write!(f, "{count} connections failed, were lost or differed"),
        }
    }
}

/// Writes text to stdout that is not the report of a run.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::Setup(format!("cannot write to stdout: {error}")))
}
