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
//! * A send completes when the kernel has all of it, once. Only a reply proves that the peer has read
//!   it.
//! * If the connection is lost before the kernel has a whole message, the message is reported with
//!   the number of bytes that went out, or kept and sent again whole, as [`Unsent`] says. It is never
//!   dropped silently.
//! * A `send_receive` that has begun is never repeated. It completes with its reply or an error.
//! * Operations take their places in line when they are begun, and belong to the connection that
//!   they meet there: the present one or, behind a [`Client::disconnect`], the next.
//! * Bytes that nobody asked for are kept, up to 4 buffers; then the peer is not read from. If the
//!   connection ends they can still be received; the error that it ended with comes behind them. A
//!   `send_receive` never takes its reply from what an earlier connection left: it drops that.
//! * While unrequested bytes are waiting, the end of the connection is not seen.
//! * No callback runs on the stack of another.
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
