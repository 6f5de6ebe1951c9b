//! Connect, send, and receive until the server closes. The callback of each operation begins the
//! next, as in "Using an Asynchronous Client Socket". No thread waits for the network. The result
//! comes through a channel, so the thread that began could do something else meanwhile.
//!
//! ```text
//! cargo run --example callbacks -- localhost:7777
//! ```

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use echopool::client::{ClientLoop, Error, LoopLimits, Options};

/// Bytes that are received at most, so that a server that never closes does not fill the memory.
const RECEIVE_MAX: usize = 1 << 20;

/// Sends a message and returns all bytes that come back.
pub fn exchange(target: &str, message: &str) -> Result<Vec<u8>, Error> {
    let clients = ClientLoop::start(LoopLimits::for_clients(1)).map_err(|_| Error::LoopEnded)?;
    let client = Arc::new(clients.client(target, Options::new())?);
    let (receive_done, done) = channel();
    let (message, next) = (message.as_bytes().to_vec(), client.clone());
    client.connect(Duration::from_secs(10)).on_complete(move |connected| {
        if let Err(failed) = connected {
            let _ = receive_done.send(Err(failed.error));
            return;
        }
        let last = next.clone();
        next.send(message).on_complete(move |sent| {
            if let Err(failed) = sent {
                let _ = receive_done.send(Err(failed.error));
                return;
            }
            // An echo server closes when its client has.
            last.half_close().on_complete(drop);
            last.receive_to_end(Vec::new(), RECEIVE_MAX).on_complete(move |received| {
                let _ = receive_done.send(received.map_err(|failed| failed.error));
            });
        });
    });
    done.recv().map_err(|_| Error::LoopEnded)?
}

#[allow(dead_code)] // The test that runs this file calls what is above.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "localhost:7777".to_owned());
    let response = exchange(&target, "This is a test<EOF>")?;
    println!("{}", String::from_utf8_lossy(&response));
    Ok(())
}
