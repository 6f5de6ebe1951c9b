//! Black-box tests of the built daemon. They use only its command line, its sockets, its signals
//! and
//! `/proc`, with no code of the server and no client of the load generator.
//!
//! One module for each group of guarantees, and `harness` for what they share. `docs/testing.md`
//! explains how to run one test, what a skip means and how to make a test fail on purpose.

#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

mod admin;
mod config;
mod connect;
mod control;
mod ctl;
mod drain;
mod echo;
mod flags;
mod harness;
mod inherited;
mod limits;
mod listeners;
mod logging;
mod manual;
mod memory;
mod numbers;
mod peers;
mod proxy;
mod sandbox;
mod scale;
mod seeds;
mod services;
mod stamp;
mod startup;
mod systemd;
mod tls;
mod udp;
mod unix;
mod upgrade;
mod user;
