//! The floors that echopool is measured against, and the bare client that drives all servers.
//!
//! * `epoll_server`: the smallest correct edge-triggered epoll echo loop.
//! * `thread_server`: one blocking thread per connection.
//! * `udp_server`: a loop of recvmmsg and sendmmsg.
//! * `tls_server`: the epoll loop with a rustls session for each connection.
//! * `client`: a closed-loop (or paced) client that checks every byte.
//! * `sleeper`: measures how late a sleeping thread wakes up.
//! * `stream`: the bytes that a connection sends, known from its number and the offset.
//! * `socket`: listening, connecting and the limit of open files; `cpus`: pinning threads.
//!
//! Plain Rust over system calls (and rustls), without any code of echopool. Used by `cargo bench` (in one
//! process) and by the `floor` binary (which `scripts/figures` pins to cores).

#![allow(dead_code, reason = "each program that includes this uses a part of it")]

pub mod client;
pub mod cpus;
pub mod epoll_server;
pub mod sleeper;
pub mod socket;
pub mod stream;
pub mod thread_server;
#[cfg(feature = "tls")]
pub mod tls_server;
#[cfg(target_os = "linux")]
pub mod udp_server;
