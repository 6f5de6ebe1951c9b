//! The blocking form: each call waits for its operation.

use std::net::SocketAddr;
use std::time::Duration;

use super::error::{Error, Failed};
use super::handle::{Client, ClientLoop, LoopLimits};
use super::options::Options;
use super::pending::Pending;

/// How long a call waits if nothing else is said: as long as the server does for a client that does
/// not read.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client whose calls wait for what they do.
///
/// ```
/// use std::net::{Ipv4Addr, SocketAddr};
/// use std::time::Duration;
/// use echopool::{Config, Server};
/// use echopool::builtin::Echo;
///
/// # let config = Config::new().listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
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
    // Dropped first: the loop ends when its clients have.
    client: Client,
    _own_loop: Option<ClientLoop>,
    address: SocketAddr,
    timeout: Duration,
}

impl Blocking {
    /// Connects to `[service://]host:port[?options]`, on a loop of its own: two threads.
    ///
    /// # Errors
    /// The target is not understood, nobody answers there, or the loop cannot be started.
    pub fn connect(target: &str) -> Result<Blocking, Error> {
        Blocking::connect_with(target, Options::new(), TIMEOUT)
    }

    /// The same with options. `timeout` is for connecting and for each further call that has none
    /// of its own.
    ///
    /// # Errors
    /// As [`connect`](Blocking::connect).
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

    /// The same on a loop that others use too.
    ///
    /// # Errors
    /// As [`connect`](Blocking::connect), and [`Error::TooManyClients`].
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

    /// The address that the first connection was made to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The client, for operations that do not wait.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends: with a framing a message, without one these bytes. Comes back when the kernel has
    /// all.
    ///
    /// # Errors
    /// The connection is lost, or the peer does not read.
    pub fn send(&mut self, data: &[u8]) -> Result<(), Failed> {
        self.wait(self.client.send(data.to_vec())).map(drop)
    }

    /// Receives some bytes: see [`Client::receive`].
    ///
    /// # Errors
    /// The connection is at its end; or nothing has come in time, and nothing is lost.
    pub fn receive(&mut self) -> Result<Vec<u8>, Failed> {
        self.wait(self.client.receive(Vec::new()))
    }

    /// Receives the next message: see [`Client::receive_message`].
    ///
    /// # Errors
    /// As [`receive`](Blocking::receive), and a message that may not be.
    pub fn receive_message(&mut self) -> Result<Vec<u8>, Failed> {
        self.wait(self.client.receive_message(Vec::new()))
    }

    /// Receives until the peer closes its side, `max` bytes at most.
    ///
    /// # Errors
    /// As [`receive`](Blocking::receive), and more bytes than that.
    pub fn receive_to_end(&mut self, max: usize) -> Result<Vec<u8>, Failed> {
        self.wait(self.client.receive_to_end(Vec::new(), max))
    }

    /// Sends a request and waits for the reply: see [`Client::send_receive`].
    ///
    /// # Errors
    /// There is no reply by then, or the connection is lost.
    pub fn send_receive(&mut self, request: &[u8], timeout: Duration) -> Result<Vec<u8>, Failed> {
        self.client.send_receive(request.to_vec(), timeout).wait()
    }

    /// Closes the sending side: the peer reads to the end.
    ///
    /// # Errors
    /// The connection is lost already.
    pub fn half_close(&mut self) -> Result<(), Failed> {
        self.wait(self.client.half_close())
    }

    /// Closes the connection when all is sent, and waits for the peer to do the same, for the
    /// linger time at most.
    ///
    /// # Errors
    /// None but the end of the loop.
    pub fn disconnect(self) -> Result<(), Failed> {
        self.client.disconnect().wait()
    }

    /// Waits for the operation as long as is allowed, and cancels it then: nothing is lost.
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
