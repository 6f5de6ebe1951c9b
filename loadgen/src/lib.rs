//! `loadgen`: drives thousands of verified clients against a TCP echo server.
//!
//! The program is [`main`]; everything else is public so that tests, and a simulated kernel, can
//! drive its parts. It is no interface for others.
//!
//! * `args`, `units`, `target`: the command line
//! * `limits`, `sources`, `plan`: what the machine allows, and the run that is made of it
//! * `run`: a run from begin to end; `own_server`: the server it drives if it is given none
//! * `schedule`, `dispatch`: when requests are sent in an open loop, and by which connection
//! * `wire`, `protocol`, `sizes`, `payload`: what a request is; `flow`: one connection's
//!   conversation
//! * `client`: the clients of one thread; `hub`: those of a hub; `rude`: those that are not
//!   measured
//! * `course`: what a thread of measured clients goes through, whatever they do; `control`: what
//!   the threads share
//! * `outcome`, `seconds`, `cpu`: what is recorded; `intervals`: each second's part of it while the
//!   run goes on
//! * `verdict`: whether the generator kept up; `slo`: what the figures must be
//! * `search`: the highest rate that meets an objective
//! * `calibrate`: what the generator can do at most on this machine; `calibration`: the file of it
//! * `report`: what is made of it; `progress`, `terminal`: what is seen meanwhile, and the keys
//! * `failure`: why there is no report, and the exit codes

// Public for the tests' sake: whoever reads them reads the files.
#![allow(missing_docs)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub mod args;
pub mod calibrate;
pub mod calibration;
pub mod client;
pub mod control;
pub mod course;
pub mod cpu;
pub mod dispatch;
pub mod failure;
pub mod flow;
pub mod hub;
pub mod intervals;
pub mod limits;
pub mod outcome;
pub mod own_server;
pub mod payload;
pub mod plan;
pub mod progress;
pub mod protocol;
pub mod report;
pub mod rude;
pub mod run;
pub mod schedule;
pub mod search;
pub mod seconds;
pub mod sizes;
pub mod slo;
pub mod sources;
pub mod target;
pub mod terminal;
pub mod units;
pub mod verdict;
pub mod wire;

/// The program, from its arguments to its exit code.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let mut words = words.peekable();
    let program = words.next();
    if words.peek().is_some_and(|word| word == own_server::COMMAND) {
        return own_server::serve(std::iter::once("echopool".into()).chain(words.skip(1)));
    }
    // None of them can be a target, which has a port.
    let ended = match words.peek().and_then(|word| word.to_str()) {
        Some("calibrate") => calibrate::run(&calibrate::Args::parse_from(words)),
        Some("compare") => report::compare::run(&report::compare::Args::parse_from(words)),
        Some("merge") => report::merge::run(&report::merge::Args::parse_from(words)),
        _ => run::run(&args::Args::parse_from(program.into_iter().chain(words))),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            terminal::say(format_args!("loadgen: {failure}"));
            failure.exit().into()
        }
    }
}
