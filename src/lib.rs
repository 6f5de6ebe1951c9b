//! A buffer-pooled TCP echo server, and the library that it is built on: a counterpart of .NET's
//! `SocketAsyncEventArgs` servers.
//!
//! All contexts and buffers are allocated at start and reused for every accept, receive and send.
//! After the start, nothing on the data path allocates. 10,000 idle clients hold no buffer at all.
//!
//! ```
//! use std::time::Duration;
//! use echopool::{Config, Server, builtin::Echo};
//!
//! // IPv4 clients can connect to [::] too. Port 0 takes a free port.
//! let config = Config::new().listen("[::]:0").max_connections(1000);
//! let server = Server::start(config, Echo)?;
//! println!("listening on {}", server.local_endpoints()[0]);
//! server.drain(Duration::from_secs(10));
//! # Ok::<(), echopool::StartError>(())
//! ```
//!
//! # Guide
//!
//! To write a server, implement [`Service`]. A [factory](service::ServiceFactory) makes one service
//! for each worker thread. The services that come with the crate are in [`builtin`];
//! [`builtin::OfListener`] runs a different one on each listener. The other end is a
//! [`client::Blocking`] client, or many [`Client`]s on a [`ClientLoop`].
//!
//! ## Sharing state between workers
//!
//! A service is used by one thread, so its own fields need no locks. State that all workers share
//! goes into an [`Arc`](std::sync::Arc) that the factory clones. Prefer atomics and short locks,
//! because a service that waits for a lock stops all clients of its worker.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use echopool::service::{Answer, Connection, Service};
//! use echopool::testing::Rig;
//!
//! /// Tells each client which visitor it is.
//! struct Visitors(Arc<AtomicU64>);
//!
//! impl Service for Visitors {
//!     type Session = ();
//!
//!     fn open(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
//!         let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
//!         connection.send(format!("visitor {number}\n").as_bytes());
//!         Answer::CloseAfterSend
//!     }
//!
//!     fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
//!         connection.input.consume(connection.input.len());
//!         Answer::Continue
//!     }
//! }
//!
//! let count = Arc::new(AtomicU64::new(0));
//! let for_workers = count.clone();
//! // The same closure goes to Server::start.
//! let mut rig = Rig::new(move || Visitors(for_workers.clone()));
//! let (_, second) = (rig.connect(), rig.connect());
//! assert_eq!(rig.received(second), b"visitor 2\n");
//! assert_eq!(count.load(Ordering::Relaxed), 2);
//! ```
//!
//! ## Bounding output
//!
//! A client that does not read must not fill the memory. By default a connection is not read while it
//! has unsent output, so the output of a service that only replies to requests is bounded. A service
//! that sends without a request, or is [full duplex](Service::full_duplex), must limit its output
//! itself: check [`Connection::output`](service::Connection::output), and continue in
//! [`Service::sent`] when all of it is sent.
//!
//! ```
//! use echopool::service::{Answer, Connection, Service};
//! use echopool::testing::Rig;
//!
//! /// Counts up, as fast as the client reads.
//! struct Counter;
//!
//! impl Counter {
//!     fn fill(&mut self, connection: &mut Connection<'_>, next: &mut u64) -> Answer {
//!         // At most two buffers wait for the client. `send` returns false if no buffer is free.
//!         // The service is then called again when one is.
//!         while connection.output.leases() < 2 && connection.send(format!("{next}\n").as_bytes()) {
//!             *next += 1;
//!         }
//!         Answer::Continue
//!     }
//! }
//!
//! impl Service for Counter {
//!     type Session = u64;
//!
//!     fn open(&mut self, connection: &mut Connection<'_>, next: &mut u64) -> Answer {
//!         self.fill(connection, next)
//!     }
//!
//!     fn sent(&mut self, connection: &mut Connection<'_>, next: &mut u64) -> Answer {
//!         self.fill(connection, next)
//!     }
//!
//!     fn buffer_available(&mut self, connection: &mut Connection<'_>, next: &mut u64) -> Answer {
//!         self.fill(connection, next)
//!     }
//!
//!     fn data(&mut self, connection: &mut Connection<'_>, _: &mut u64) -> Answer {
//!         connection.input.consume(connection.input.len());
//!         Answer::Continue
//!     }
//! }
//!
//! let mut rig = Rig::new(|| Counter);
//! let client = rig.connect_reading(100);
//! assert!(rig.received(client).starts_with(b"0\n1\n2\n"));
//! assert!(rig.buffers_held() <= 2, "the client reads no more, and the service writes no more");
//! ```
//!
//! ## Signals without the daemon
//!
//! The library handles no signals. A program can handle them on a thread of its own and call its
//! [`ServerHandle`] there. This example uses the crate `signal-hook`:
//!
//! ```
//! use std::time::Duration;
//! use echopool::{Config, Drained, Server, builtin::Echo};
//! use signal_hook::{consts::SIGTERM, iterator::Signals};
//!
//! // Before the server starts, so that no signal is lost.
//! let mut signals = Signals::new([SIGTERM])?;
//! let server = Server::start(Config::new().listen("127.0.0.1:0").max_connections(100), Echo)?;
//! # signal_hook::low_level::raise(SIGTERM)?;
//! for _signal in signals.forever() {
//!     // Clients get the data they are owed, within ten seconds.
//!     assert_eq!(server.drain(Duration::from_secs(10)), Drained::Clean);
//!     break;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## Testing a service without sockets
//!
//! A [`testing::Rig`] runs a service on a worker in memory. The test sends bytes, moves the clock,
//! takes buffers away and controls what clients read. The same calls always have the same results.
//! The examples above are such tests.
//!
//! ```
//! use echopool::builtin::Echo;
//! use echopool::testing::Rig;
//!
//! let mut rig = Rig::new(Echo);
//! let client = rig.connect();
//! rig.send(client, b"hello");
//! assert_eq!(rig.received(client), b"hello");
//! rig.finish(client);
//! assert!(rig.is_closed(client));
//! assert_eq!(rig.buffers_held(), 0);
//! ```
//!
//! # From SocketAsyncEventArgs to here
//!
//! | .NET | here | what is different |
//! | --- | --- | --- |
//! | a pool of `SocketAsyncEventArgs` | a table of preallocated connection contexts, one for each client | an event for a closed connection is recognised by the generation in its key, and dropped |
//! | `BufferManager`: one array, a slice for each context | one arena; a [`buffer::Lease`] is taken when bytes arrive and returned when they are sent | an idle client holds no buffer; a lease cannot leak, because dropping it returns its buffer |
//! | `SetBuffer(offset, BytesTransferred)` | the lease carries its own range | the next receive can always use the whole buffer |
//! | `ReceiveAsync` returns false: completed already | completions are handled in a loop, with a budget for each client | no recursion, so no stack overflow; a fast client cannot starve the others |
//! | `UserToken` | [`Service::Session`], in the context | preallocated; the sample makes one for each client |
//! | `UserToken.ProcessData` | [`Service::data`] | may hold input back, wait, close after sending |
//! | the `Semaphore` of clients, waited on in the accept callback | [`Config::max_connections`]: a permit is taken before accept | no thread blocks; the kernel's backlog holds the rest |
//! | `Listen`, `StartAccept` | [`Server::start`], with one listener for each worker thread | |
//! | `Stop` | [`ServerHandle::drain`]: every byte that was read goes back first; [`ServerHandle::stop`] | closing a socket with unread input would reset it |
//! | `SocketError` in each callback | [`CloseReason`], one word, the same in logs, counters and documents | |
//! | `Interlocked` count of connected clients | [`ServerHandle::stats`] | |
//! | a list of client sockets, to send to one of them or to all | [`ServerHandle::clients`], [`send_to`](ServerHandle::send_to), [`broadcast`](ServerHandle::broadcast), [`disconnect`](ServerHandle::disconnect), from any thread | ids are never reused; a slow client has a bounded queue |
//! | `ConnectAsync`, `connectDone`, `sendDone`, `receiveDone` | [`client::Pending`]: wait for it, or set a callback | each operation completes exactly once |
//!
//! # How it works
//!
//! One thread is one worker, with its own listener, contexts, buffers, timers and counters; nothing
//! on the data path is shared. `docs/architecture.md` in the repository has the picture.
//!
//! # Features
//!
//! `daemon` (default): the command line, logging to stderr and signals of the `echopool` program.
//! Without it the library depends on none of them. It enables `admin` and `tls`.
//!
//! `admin`: the module `admin`, which shows what a server does over HTTP: metrics for Prometheus,
//! JSON, and pages for the probes of an orchestrator.
//!
//! `tls`: TLS for servers and clients, with rustls.
//!
//! `internals` and `sim` are for the programs and tests of the repository. Their additions are not
//! part of the public interface.

#[cfg(feature = "admin")]
pub mod admin;
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
// The simulated world runs the layer of TLS.
#[cfg(all(test, not(feature = "tls")))]
compile_error!("the tests need the feature tls: add --features tls");
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
#[cfg(feature = "tls")]
pub use protocol::tls;
pub use server::messaging::Broadcast;
pub use server::{Drained, Server, ServerHandle};
pub use service::Service;
pub use shared::counters::{self as stats, Counts, Stats};
pub use shared::directory::ClientInfo;
pub use shared::receipt::SendError;
