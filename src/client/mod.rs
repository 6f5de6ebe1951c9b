//! The client library: many clients on one event loop, built on the same engine as the server.
//!
//! Every operation is asynchronous and completes exactly once, with a value or a typed error.
//! Starting one returns a [`Pending`], which you can wait for, give a callback, or cancel.
//! [`Blocking`] is a blocking client on top of it.
//!
//! ```
//! use std::time::Duration;
//! use echopool::client::{ClientLoop, LoopLimits, Options};
//! use echopool::{Config, Server};
//! use echopool::builtin::Echo;
//!
//! # let config = Config::new().listen("127.0.0.1:0");
//! # let server = Server::start(config.workers(1).max_connections(10), Echo)?;
//! # let target = server.local_endpoints()[0].to_string();
//! let clients = ClientLoop::start(LoopLimits::for_clients(100))?;
//! let client = clients.client(&target, Options::new())?;
//! client.connect(Duration::from_secs(10)).wait()?;
//!
//! // Two requests in flight; replies arrive in order.
//! let replies = [&b"one"[..], b"two"]
//!     .map(|request| client.send_receive(request.to_vec(), Duration::from_secs(10)));
//! let [one, two] = replies.map(|reply| reply.wait().expect("an echo"));
//! assert_eq!((&one[..], &two[..]), (&b"one"[..], &b"two"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Guarantees
//!
//! * A send completes once, when the kernel has accepted all of it. Only a reply proves that the
//!   peer has read it.
//! * If the connection is lost before the kernel has accepted a whole message, the client either
//!   reports the number of bytes sent, or keeps the message and sends all of it again. [`Unsent`]
//!   selects which. A message is never dropped silently.
//! * A `send_receive` that has started is never repeated. It completes with its reply or an error.
//! * Operations are queued in the order in which they are started. Each belongs to the connection
//!   that is current at its place in the queue: the present one, or the next one if a
//!   [`Client::disconnect`] is ahead of it.
//! * Bytes that no operation has requested are kept, up to 4 buffers. Then the client stops reading
//!   from the peer. If the connection ends, these bytes can still be received; the error that the
//!   connection ended with follows them. So no operation receives bytes of two connections. The
//!   bytes of the last 4 connections that ended are kept. A `send_receive` never takes its reply
//!   from bytes of an earlier connection: it discards them.
//! * While unrequested bytes are waiting, the client does not notice the end of the connection.
//! * No callback runs on the stack of another.
//!
//! # Allocations
//!
//! Tables, queues and buffers are allocated when the loop starts. On the caller's thread, each
//! operation makes two small allocations, and a callback one more. On the loop's thread, while a
//! connection is open, bytes are copied between the loop's buffers and the caller's `Vec`, which
//! moves with the operation. This allocates only if a reply outgrows its `Vec`, so pass
//! `receive_message` and `receive_to_end` a `Vec` with enough capacity. Connecting, name look-ups,
//! errors, state callbacks and cancelled receives make a few allocations.
//!
//! * `handle`: the types that callers hold; `blocking`: the blocking client
//! * `pending`: the caller's half of an operation; `completer`: the loop's half; `ops`: the table
//!   of operations
//! * `driver`: the service that runs the clients on the loop
//! * `submission`: the queue from callers to the loop; `resolve`: name look-ups
//! * `tls`: the servers of clients with TLS

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
#[cfg(feature = "tls")]
mod tls;

pub use blocking::Blocking;
#[cfg(feature = "daemon")]
pub(crate) use error::with_remedy;
pub use error::{Attempt, Attempts, Error, Failed};
pub use handle::{CLIENTS_MAX, Client, ClientLoop, LoopLimits, OPERATIONS_MAX};
pub use options::{CONNECT_TIMEOUT, Options, Reconnect, State, Unsent};
pub use pending::{Canceller, Pending};
