//! The client side: many clients on one loop, on the same engine as the server.
//!
//! Everything is a completion: an operation is begun, and it completes exactly once, with a value
//! or with an error that has a type. A [`Pending`] is waited for, given a callback, or cancelled.
//! [`Blocking`] is the form that waits.
//!
//! ```
//! use std::net::{Ipv4Addr, SocketAddr};
//! use std::time::Duration;
//! use echopool::client::{ClientLoop, LoopLimits, Options};
//! use echopool::{Config, Server};
//! use echopool::builtin::Echo;
//!
//! # let config = Config::new().listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
//! # let server = Server::start(config.workers(1).max_connections(10), Echo)?;
//! # let target = server.local_endpoints()[0].to_string();
//! let clients = ClientLoop::start(LoopLimits::for_clients(100))?;
//! let client = clients.client(&target, Options::new())?;
//! client.connect(Duration::from_secs(10)).wait()?;
//!
//! // Two requests under way at once; replies come in order.
//! let replies = [&b"one"[..], b"two"]
//!     .map(|request| client.send_receive(request.to_vec(), Duration::from_secs(10)));
//! let [one, two] = replies.map(|reply| reply.wait().expect("an echo"));
//! assert_eq!((&one[..], &two[..]), (&b"one"[..], &b"two"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! * A send that completed was handed to the kernel whole, once. That the peer has read it only a
//!   reply can say.
//! * A message that was not handed over whole when the connection was lost is reported, with how
//!   many bytes went out, or kept and sent again whole, as [`Unsent`] says. It is never dropped in
//!   silence.
//! * A `send_receive` that has begun is never repeated by itself. It completes with its reply, or
//!   with an error.
//! * What is received and not asked for is kept: up to 4 buffers, then the peer is not read from.
//!   If the connection ends it can still be received, and then comes the error that it ended with.
//!   (A reply is never looked for in what an earlier connection left; that is dropped then.)
//! * While more is there than was asked for, the end of the connection is not seen.
//!
//! # What allocates
//!
//! Tables, queues and buffers are made when the loop starts. On the caller's thread each operation
//! takes two small allocations, and a callback its own. On the loop's thread, with the connection
//! up, bytes are copied between the loop's buffers and the caller's `Vec`, which travels with the
//! operation. That allocates only where a reply outgrows its `Vec`: give `receive_message` and
//! `receive_to_end` a `Vec` with room. Connecting, looking up names, errors, state callbacks and
//! cancelled receives allocate a little.
//!
//! * `handle`: what callers hold; `blocking`: the form that waits
//! * `pending`: an operation under way; `completer`: the loop's end of it; `ops`: its table
//! * `driver`: the clients as a service of the loop
//! * `submission`: the queue between callers and loop; `resolve`: looking up names

mod blocking;
mod completer;
pub(crate) mod driver;
mod error;
pub(crate) mod handle;
mod ops;
mod options;
mod pending;
pub(crate) mod resolve;
pub(crate) mod submission;
pub(crate) mod target;
#[cfg(test)]
mod tests;

pub use blocking::Blocking;
#[cfg(feature = "daemon")]
pub(crate) use error::with_remedy;
pub use error::{Attempt, Attempts, Error, Failed};
pub use handle::{CLIENTS_MAX, Client, ClientLoop, LoopLimits, OPERATIONS_MAX};
pub use options::{CONNECT_TIMEOUT, Options, Reconnect, State, Unsent};
pub use pending::{Canceller, Pending};
