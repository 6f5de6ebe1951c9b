//! Black-box tests of the built daemon: only its command line, its sockets, its signals and what
//! `/proc` shows of it. No code of the server is used here, and no client of the load generator.
//!
//! One module for each kind of promise; `harness` holds what they share. `docs/testing.md` says
//! how to run one test, what a skip means and how to see a test fail on purpose.

#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

mod connect;
mod drain;
mod echo;
mod harness;
mod limits;
mod scale;
mod seeds;
mod services;
mod startup;
