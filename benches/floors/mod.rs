//! The floors that echopool is measured against, and the bare client that drives all of them alike.
//!
//! * `epoll_server`: the smallest correct edge-triggered epoll echo loop.
//! * `thread_server`: a blocking thread for each connection.
//! * `client`: a closed-loop (or paced) client that checks every byte.
//! * `sleeper`: a thread that sleeps until a time, and how late it wakes up.
//! * `stream`: the bytes that a connection sends, known from its number and the offset.
//! * `socket`: listening, connecting and the limit of open files; `cpus`: pinning threads.
//!
//! Plain Rust over system calls, with nothing in common with echopool but the kernel. Shared by
//! `cargo bench` (in one process) and the `floor` binary (which `scripts/figures` pins to cores).

#![allow(dead_code, reason = "each of the programs that share this uses a part of it")]

pub mod client;
pub mod cpus;
pub mod epoll_server;
pub mod sleeper;
pub mod socket;
pub mod stream;
pub mod thread_server;
