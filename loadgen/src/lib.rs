//! `loadgen`: drives thousands of verified clients against a TCP echo server.
//!
//! The program is [`main`]; everything else is public so that tests, and a simulated kernel, can
//! drive its parts. It is no interface for others.
//!
//! * `args`, `units`: the command line
//! * `limits`, `plan`: what the machine allows, and the run that is made of it
//! * `run`: a run from begin to end; `own_server`: the server it drives if it is given none
//! * `client`: the clients of one thread; `flow`: one connection's conversation; `wire`: where
//!   requests lie on the wire; `protocol`: how they are written; `payload`: their bytes; `control`: what the threads share
//! * `outcome`, `cpu`: what is recorded; `report`: what is made of it; `progress`: what is seen
//!   meanwhile
//! * `failure`: why there is no report, and the exit codes

// Public for the tests' sake: whoever reads them reads the files.
#![allow(missing_docs)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub mod args;
pub mod client;
pub mod control;
pub mod cpu;
pub mod failure;
pub mod flow;
pub mod limits;
pub mod outcome;
pub mod own_server;
pub mod payload;
pub mod plan;
pub mod progress;
pub mod protocol;
pub mod report;
pub mod run;
pub mod units;
pub mod wire;

/// The program, from its arguments to its exit code.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let mut words = words.peekable();
    let program = words.next();
    if words.peek().is_some_and(|word| word == own_server::COMMAND) {
        return own_server::serve(std::iter::once("echopool".into()).chain(words.skip(1)));
    }
    match run::run(&args::Args::parse_from(program.into_iter().chain(words))) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("loadgen: {failure}");
            failure.exit().into()
        }
    }
}
