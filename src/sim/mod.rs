//! A simulated world for the real code: sockets, backlogs, ports and time from one seed, with peers
//! and faults worse than any real ones. No thread, no real clock, no real I/O.
//!
//! * `world`: the simulated kernel: connections between endpoints, listeners, readiness, time.
//! * `sys`: the world as `Sys`, so that the real readiness engine runs in it.
//! * `engine`: the world as `Engine`: completions, late, in any order.
//! * `protocol`: what is served in a seed, and what is said to it and owed for it.
//! * `peer`: the clients at the other end, polite and otherwise; `ear`: what they hear.
//! * `wire`: what peers put around it where the server has a byte layer.
//! * `member`: what a member of a hub says and hears.
//! * `messages`: messages from services to clients.
//! * `outside`: another thread, with messages for clients.
//! * `service`: the server's services, watched; and a client on the engine.
//! * `audit`: whether members of a hub heard what they had to.
//! * `run`: one seed: what is drawn, who runs when, what is checked.
//! * `measured`: another world, without faults, for services that measure.
//! * `client`: the client library against simulated servers.
//! * `marks`: counts what happened, so that a fault that never fires is noticed.
//!
//! `docs/testing.md` explains how to run it and how to read its traces.

mod audit;
mod client;
pub(crate) mod clock;
pub(crate) mod engine;
mod external;
mod external_message;
pub(crate) mod ideal;
mod marks;
mod member;
mod messages;
mod peer;
mod protocol;
mod reader;
mod report;
mod run;
pub(crate) mod seat;
mod service;
pub(crate) mod sys;
#[cfg(test)]
mod tests;
mod wire;
pub(crate) mod world;

pub use marks::{Mark, Marks, Seam};
pub use report::Report;
pub use run::run;
