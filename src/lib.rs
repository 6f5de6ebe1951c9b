//! A buffer-pooled TCP echo server, and the server library that it is built on: the analogue of
//! .NET's `SocketAsyncEventArgs` servers.
//!
//! Operation contexts and buffers are made once, at start, and used again for every accept, receive
//! and send. After start nothing on the path of a client's bytes allocates, and 10,000 idle clients
//! hold no buffer at all.
//!
//! ```
//! use std::net::{Ipv6Addr, SocketAddr};
//! use std::time::Duration;
//! use echopool::{Config, Server};
//! use echopool::builtin::Echo;
//!
//! // Dual-stack: IPv4 clients are welcome on [::] too.
//! let config = Config::new().listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
//! let server = Server::start(config.max_connections(1000), Echo)?;
//! println!("listening on {}", server.local_endpoints()[0]);
//! server.drain(Duration::from_secs(10));
//! # Ok::<(), echopool::StartError>(())
//! ```
//!
//! A server of your own is a [`Service`]: see the example there. Those that come along are in
//! [`service`]; [`service::OfListener`] gives each listener its own. The other end is a
//! [`client::Blocking`] client, or many [`Client`]s on a [`ClientLoop`].
//!
//! # From SocketAsyncEventArgs to here
//!
//! | .NET | here | what is different |
//! | --- | --- | --- |
//! | a pool of `SocketAsyncEventArgs` | a table of preallocated connection contexts, one for each client | an event for a client that is gone is recognised by the generation in its key, and dropped |
//! | `BufferManager`: one array, a slice for each context | one arena; a [`buffer::Lease`] is taken when bytes arrive and goes back when they are sent | an idle client holds no buffer; a lease cannot be lost, because dropping it gives it back |
//! | `SetBuffer(offset, BytesTransferred)` | the lease carries its own range | the next receive always has the whole buffer |
//! | `ReceiveAsync` returns false: completed already | completions are handled in a loop, with a budget for each client | no recursion, so no stack overflow; a fast client cannot starve the others |
//! | `UserToken` | [`Service::Session`], in the context | preallocated; the sample makes one for each client |
//! | `UserToken.ProcessData` | [`Service::data`] | may hold input back, wait, close after sending |
//! | the `Semaphore` of clients, waited on in the accept callback | [`Config::max_connections`]: a permit is taken before accept | no thread blocks; the kernel's backlog holds the rest |
//! | `Listen`, `StartAccept` | [`Server::start`], with one listener for each worker thread | |
//! | `Stop` | [`ServerHandle::drain`]: every byte that was read goes back first; [`ServerHandle::stop`] | closing a socket with unread input would reset it |
//! | `SocketError` in each callback | [`CloseReason`], one word, the same in logs, counters and documents | |
//! | `Interlocked` count of connected clients | [`ServerHandle::stats`] | |
//! | a list of client sockets, to send to one of them or to all | [`ServerHandle::clients`], [`send_to`](ServerHandle::send_to), [`broadcast`](ServerHandle::broadcast), [`disconnect`](ServerHandle::disconnect), from any thread | an id is never given to another client; a slow one has a bounded queue |
//! | `ConnectAsync`, `connectDone`, `sendDone`, `receiveDone` | [`client::Pending`]: wait for it, or give it a callback | each operation completes exactly once |
//!
//! # How it works
//!
//! One thread is one worker, with its own listener, contexts, buffers, timers and counters; nothing
//! on the data path is shared. `docs/architecture.md` in the repository has the picture.
//!
//! # Features
//!
//! `daemon` (default): the command line, logging to stderr and signals of the `echopool` program.
//! Without it the library depends on none of them.
//!
//! `internals` and `sim` are for the programs and tests of the repository. What they add is no part of
//! the public interface.

mod base;
pub mod buffer;
pub mod builtin;
pub mod client;
pub mod config;
#[cfg(feature = "daemon")]
pub mod daemon;
mod engine;
pub mod error;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod net;
mod protocol;
pub mod server;
pub mod service;
mod shared;
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub mod sim;
pub mod testing;
mod worker;

pub use base::endpoint::{self, Endpoint, Peer};
pub use base::time;
#[doc(hidden)]
pub use base::units;
pub use client::{Client, ClientLoop};
pub use config::Config;
pub use error::{CloseReason, StartError};
pub use protocol::framing;
pub use server::messaging::Broadcast;
pub use server::{Drained, Server, ServerHandle};
pub use service::Service;
pub use shared::counters::{self as stats, Counts, Stats};
pub use shared::directory::ClientInfo;
pub use shared::receipt::SendError;
