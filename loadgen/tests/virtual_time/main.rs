//! The load generator's figures against what can be calculated, in virtual time: its clients run
//! unchanged, with their schedule, accounting and histograms, against servers whose law is known,
//! in a simulated world where nothing else takes time. Whatever differs from theory is the
//! generator's fault.
//!
//! * `world`: one run, and what is the same in all of them
//! * `schedule`: each kind of load, sent to the nanosecond; the same run twice
//! * `stall`, `delays`, `queue`, `overload`: servers that are late by a law
//! * `wrong`: servers that send other bytes than they got
//!
//! Each check has a small form for every run of the tests, and one with millions of requests for
//! `cargo test --release -p loadgen --test virtual_time`. `docs/measuring.md` has the figures; they
//! are printed with `-- --nocapture`.

mod delays;
mod overload;
mod queue;
mod schedule;
mod stall;
mod world;
mod wrong;
