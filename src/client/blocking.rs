//! The blocking client: each call waits for its operation.

use std::time::Duration;

use super::error::{Error, Failed};
use super::handle::{Client, ClientLoop, LoopLimits};
use super::options::Options;
use super::pending::Pending;
use crate::base::endpoint::Endpoint;

/// Default time-out of a call. It equals the server's time-out for a client that does not read.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client whose calls block until they complete.
///
/// ```
/// use std::time::Duration;
/// use echopool::{Config, Server};
/// use echopool::builtin::Echo;
///
/// # let config = Config::new().listen("127.0.0.1:0");
/// # let server = Server::start(config.workers(1).max_connections(10), Echo)?;
/// # let address = server.local_endpoints()[0].to_string();
/// let mut client = echopool::client::Blocking::connect(&address)?;
/// let reply = client.send_receive(b"Hello World", Duration::from_secs(10))?;
/// assert_eq!(reply, b"Hello World");
/// client.disconnect()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Blocking {
    // Dropped first: the client must be gone before its loop ends.
    client: Client,
    _own_loop: Option<ClientLoop>,
    address: Endpoint,
    timeout: Duration,
}

impl Blocking {
    /// Connects to `[service://]host:port[?options]`, on a loop of its own, which takes two
    /// threads.
    ///
    /// # Errors
    /// Returns an error if the target is invalid, no server accepts there, or the loop cannot be
    /// started.
    pub fn connect(target: &str) -> Result<Blocking, Error> {
        Blocking::connect_with(target, Options::new(), TIMEOUT)
    }

    /// Connects with options. `timeout` applies to connecting, and to each later call that takes no
    /// time-out itself.
    ///
    /// # Errors
    /// The same as for [`connect`](Blocking::connect).
    pub fn connect_with(
        target: &str,
        options: Options,
        timeout: Duration,
    ) -> Result<Blocking, Error> {
        let own_loop =
            ClientLoop::start(LoopLimits::for_clients(1)).map_err(|e| Error::cannot_start(&e))?;
        let client = own_loop.client(target, options)?;
        Blocking::over(client, Some(own_loop), timeout)
    }

    /// Connects on a loop that is shared with other clients.
    ///
    /// # Errors
    /// The same as for [`connect`](Blocking::connect), and [`Error::TooManyClients`].
    pub fn connect_on(
        shared_loop: &ClientLoop,
        target: &str,
        options: Options,
        timeout: Duration,
    ) -> Result<Blocking, Error> {
        Blocking::over(shared_loop.client(target, options)?, None, timeout)
    }

    fn over(
        client: Client,
        own_loop: Option<ClientLoop>,
        timeout: Duration,
    ) -> Result<Blocking, Error> {
        let address = client.connect(timeout).wait()?;
        Ok(Blocking { client, _own_loop: own_loop, address, timeout })
    }

    /// The address of the first connection.
    pub fn address(&self) -> &Endpoint {
        &self.address
    }

    /// The underlying client, for operations that do not block.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a message, or plain bytes if there is no framing. Returns when the kernel has accepted
    /// all of it.
    ///
    /// # Errors
    /// Returns an error if the connection is lost or the peer does not read.
    pub fn send(&mut self, data: &[u8]) -> Result<(), Failed> {
        self.wait(self.client.send(data.to_vec())).map(drop)
    }

    /// Receives at least one byte: see [`Client::receive`].
    ///
    /// # Errors
    /// Returns an error if the connection has ended, or if no byte arrives in time. No bytes are
    /// lost.
    pub fn receive(&mut self) -> Result<Vec<u8>, Failed> {
        self.wait(self.client.receive(Vec::new()))
    }

    /// Receives the next message: see [`Client::receive_message`].
    ///
    /// # Errors
    /// The same as for [`receive`](Blocking::receive), and an error if the message is invalid or
    /// too long.
    pub fn receive_message(&mut self) -> Result<Vec<u8>, Failed> {
        self.wait(self.client.receive_message(Vec::new()))
    }

    /// Receives until the peer closes its side, at most `max` bytes.
    ///
    /// # Errors
    /// The same as for [`receive`](Blocking::receive), and [`Error::TooLong`] if there are more
    /// bytes.
    pub fn receive_to_end(&mut self, max: usize) -> Result<Vec<u8>, Failed> {
        self.wait(self.client.receive_to_end(Vec::new(), max))
    }

    /// Sends a request and waits for the reply: see [`Client::send_receive`].
    ///
    /// # Errors
    /// Returns an error if no reply arrives within `timeout`, or the connection is lost.
    pub fn send_receive(&mut self, request: &[u8], timeout: Duration) -> Result<Vec<u8>, Failed> {
        self.client.send_receive(request.to_vec(), timeout).wait()
    }

    /// Closes the sending side. The peer then reads to the end of the stream.
    ///
    /// # Errors
    /// Returns an error if the connection is already lost.
    pub fn half_close(&mut self) -> Result<(), Failed> {
        self.wait(self.client.half_close())
    }

    /// Closes the connection after everything is sent, and waits for the peer to close its side, at
    /// most for the linger time.
    ///
    /// # Errors
    /// Fails only if the loop has ended.
    pub fn disconnect(self) -> Result<(), Failed> {
        self.client.disconnect().wait()
    }

    /// Waits until the time-out and then cancels the operation, which loses no received bytes.
    fn wait<T: 'static>(&self, pending: Pending<T>) -> Result<T, Failed> {
        match pending.wait_timeout(self.timeout) {
            Ok(result) => result,
            Err(late) => {
                late.cancel();
                late.wait().map_err(|failed| match failed.error {
                    Error::Cancelled => Failed { error: Error::TimedOut, ..failed },
                    _ => failed,
                })
            }
        }
    }
}
