//! Why there is no report, and the exit codes.

use std::fmt;
use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    /// An echo differed from what was sent.
    Differed = 3,
    /// The measurement is not what was asked for.
    NotValid = 4,
    /// The rounds or runs of a comparison do not decide its conditions.
    NotDecided = 5,
    /// An objective was missed, or a condition of a comparison holds.
    SloMissed = 99,
    /// Ended early by a signal or a key. The report is written.
    Interrupted = 130,
}

impl Exit {
    /// Every exit code, in ascending order.
    pub const ALL: [Exit; 8] = [
        Exit::Ok,
        Exit::Failed,
        Exit::Usage,
        Exit::Differed,
        Exit::NotValid,
        Exit::NotDecided,
        Exit::SloMissed,
        Exit::Interrupted,
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why there is no report.
#[derive(PartialEq, Eq, Debug)]
pub enum Failure {
    /// The command line asks for something impossible.
    Usage(String),
    /// The set-up or the run failed.
    Setup(String),
    /// A signal came before the run.
    Interrupted,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) | Failure::Setup(text) => f.write_str(text),
            Failure::Interrupted => f.write_str("interrupted before the run"),
        }
    }
}
