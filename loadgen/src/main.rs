//! `loadgen`: drives thousands of verified clients against a TCP echo server.
//!
//! * `args`, `units`: the command line
//! * `limits`, `plan`: what the machine allows, and the run that is made of it
//! * `run`: a run from begin to end; `own_server`: the server it drives if it is given none
//! * `client`: the clients of one thread; `flow`: one connection's conversation; `payload`: its
//!   bytes; `control`: what the threads share
//! * `outcome`, `cpu`: what is recorded; `report`: what is made of it; `progress`: what is seen
//!   meanwhile
//! * `failure`: why there is no report, and the exit codes

mod args;
mod client;
mod control;
mod cpu;
mod failure;
mod flow;
mod limits;
mod outcome;
mod own_server;
mod payload;
mod plan;
mod progress;
mod report;
mod run;
mod seconds;
mod units;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if words.nth(1).is_some_and(|word| word == own_server::COMMAND) {
        return own_server::serve(std::iter::once("echopool".into()).chain(words));
    }
    match run::run(&args::Args::parse()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("loadgen: {failure}");
            failure.exit().into()
        }
    }
}
