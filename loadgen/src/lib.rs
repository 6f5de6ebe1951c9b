//! `loadgen` drives thousands of verified clients against a TCP echo server.
//!
//! The program is [`main`]. Everything else is public so that tests, and a simulated kernel, can
//! drive its parts; it is not an interface for other crates.
//!
//! Each module imports only from those above it in this list:
//!
//! * `error`: why there is no report, and the exit codes; `units`: parsing and formatting of
//!   quantities; `files`: files are replaced by whole new ones
//! * `traffic`: which bytes are sent, and when
//! * `stats`: counters, histograms and timings
//! * `cli`: the flags and the grammar of their values
//! * `plan`: a feasible run, made from the flags and the limits of the machine
//! * `exec`: the threads that drive the connections
//! * `report`: text and JSON made from the records
//! * `view`: what the terminal shows during a run, and the keys
//! * `command`: run, search, ab, calibrate, compare, link, merge and report

// Public only for tests, whose authors read the source.
#![allow(missing_docs)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

#[cfg(feature = "link")]
use command::link;
use command::{ab, calibrate, compare, manual, merge, report as report_command, run, search};
use error::{Exit, Failure};
use exec::local_server;
use report::ending::End;
use view::terminal;

pub mod cli;
pub mod command;
pub mod error;
pub mod exec;
pub mod files;
pub mod plan;
pub mod report;
pub mod stats;
pub mod traffic;
pub mod units;
pub mod view;

/// The program, from its arguments to its exit code.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let mut words = words.peekable();
    let program = words.next();
    if words.peek().is_some_and(|word| word == local_server::COMMAND) {
        return local_server::serve(std::iter::once("echopool".into()).chain(words.skip(1)));
    }
    #[cfg(feature = "link")]
    if words.peek().is_some_and(|word| word == link::namespace::COMMAND) {
        return link::namespace::become_command(&words.skip(1).collect::<Vec<_>>());
    }
    #[cfg(feature = "link")]
    if words.peek().is_some_and(|word| word == "link") {
        return link::run(&link::LinkArgs::parse_from(words)).unwrap_or_else(failed);
    }
    // None of these words can be a target, because a target has a port.
    let ended = match words.peek().and_then(|word| word.to_str()) {
        Some("ab") => ab::run(&ab::AbArgs::parse_from(words)),
        Some("calibrate") => calibrate::run(&calibrate::CalibrateArgs::parse_from(words)),
        Some("compare") => compare::run(&compare::CompareArgs::parse_from(words)),
        Some("report") => report_command::run(&report_command::ReportArgs::parse_from(words)),
        Some("__manual") => manual::run(words),
        Some("merge") => merge::run(&merge::MergeArgs::parse_from(words)),
        _ => {
            let args = cli::RunArgs::parse_from(program.into_iter().chain(words));
            run::of_launcher(args).and_then(|args| match &args.run.load.search {
                Some(objective) => search::run(&args, objective),
                None => run::run(&args),
            })
        }
    };
    ended.map_or_else(failed, Exit::into)
}

fn failed(failure: Failure) -> ExitCode {
    terminal::message(format_args!("loadgen: {failure}"));
    End::Failure(&failure).row().exit.into()
}
