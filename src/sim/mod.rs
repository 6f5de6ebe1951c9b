//! A simulated world for the real code: sockets, backlogs, ports and time from one seed, with peers
//! and faults worse than any real ones. No thread, no real clock, no real I/O.
//!
//! * `world`: the simulated kernel: connections between endpoints, listeners, readiness, time.
//! * `sys`: the world as a `Sys`, so that the real readiness engine runs in it.
//! * `engine`: the world as an `Engine`, whose completions arrive late and in any order.
//! * `protocol`: the service of a seed, what peers send to it, and what it must reply.
//! * `peer`: the clients at the other end, polite and rude.
//! * `reader`: checks what a peer receives.
//! * `wire`: what peers add around their bytes when the server has a byte layer.
//! * `member`: what a member of a hub sends and receives.
//! * `messages`: messages from services to clients.
//! * `external`: another thread that sends messages to clients.
//! * `external_message`: the bytes of these messages.
//! * `service`: the server's services under observation, and a client on the engine.
//! * `audit`: checks that members of a hub received what was addressed to them.
//! * `line`: the channel through which connections move from one process to the next.
//! * `seat`: creates the engines in the world.
//! * `run`: one seed: what is drawn, what runs when, what is checked.
//! * `ideal`: another world, without faults, for services that measure.
//! * `clock`: the time of the world, for code that reads a clock.
//! * `client`: the client library against simulated servers.
//! * `datagram`: the server's threads for datagrams, on simulated sockets.
//! * `report`: the result of a seed.
//! * `marks`: the seams, and counts of what happened, so that a fault that never fires is noticed.
//!
//! `docs/testing.md` explains how to run it and how to read its traces.

mod audit;
mod client;
pub(crate) mod clock;
mod datagram;
pub(crate) mod engine;
mod external;
mod external_message;
pub(crate) mod ideal;
mod line;
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
