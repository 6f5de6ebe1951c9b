//! The load generator's figures against calculated ones, in virtual time: its clients run
//! unchanged, with their schedule, accounting and histograms, against servers with a known
//! distribution of delays, in a simulated world in which nothing else takes time. Any deviation
//! from theory is an error of the generator.
//!
//! * `world`: one run, and what all of them share
//! * `schedule`: each kind of load, sent to the nanosecond; the same run twice
//! * `omission`: stalls and pauses at any time leave no request out, however the run is limited
//! * `stall`, `delays`, `queue`, `overload`: servers with known delays
//! * `parts`: where the time went
//! * `wrong`: servers that send wrong bytes
//! * `ab`: a server compared with itself and with a slower one
//! * `datagrams`: over UDP and against STAMP reflectors, in a network that loses, doubles, delays,
//!   reorders and damages datagrams
//!
//! Each check has a small form for every run of the tests, and one with millions of requests for
//! `cargo test --release -p loadgen --test virtual_time`. `docs/measuring.md` has the figures; `--
//! --nocapture` prints them.

mod ab;
mod capacity;
mod datagrams;
mod delays;
mod omission;
mod overload;
mod parts;
mod queue;
mod schedule;
mod stall;
mod world;
mod wrong;
