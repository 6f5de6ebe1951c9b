//! What a run is worth: the verdict, the exit code, and the forms of the report.
//!
//! * here: what a report is made of
//! * `verdict`: what is said of the run, with its reason; `figures`: what is read off its records
//! * `outputs`: where results go; `text`, `json`, `rows`, `hdr`: their forms; `load`, `targets`,
//!   `hub`: parts of them
//! * `saved`: reports read back; `compare`, `merge`: what is made of them; `search`: what several
//!   runs have found

mod figures;
mod hdr;
mod hub;
mod json;
mod load_text;
pub mod outputs;
mod rows;
pub mod saved;
pub mod schema;
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
pub use verdict::Verdict;

use crate::error::Failure;
use crate::plan::Plan;
use crate::plan::calibration::Standing;
use crate::stats::records::Records;
use crate::stats::slo::Outcome;

/// All that a run has brought.
pub struct Report {
    pub plan: Arc<Plan>,
    pub records: Records,
    /// When the measured period began, if it did.
    pub began_at: Option<SystemTime>,
    /// Ended by a signal or a key.
    pub interrupted: bool,
    /// Ended because it could not pass any more.
    pub aborted: Option<Abort>,
    /// Processors that the server of our own has used, on average.
    pub server_cores: Option<f64>,
    /// What is known of the ceiling.
    pub calibration: Standing,
}

/// Why a run that could not pass any more was ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Abort {
    /// This second, counted from 1, missed an objective.
    Missed(u64, Outcome),
    /// So many connections failed or were lost, or had a byte that differed.
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

/// Writes to stdout what is no report of a run.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::Setup(format!("cannot write to stdout: {error}")))
}
