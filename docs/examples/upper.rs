//! A service of your own: it sends each line back in capitals, when the line is complete.
//!
//! ```text
//! cargo run --example upper -- 127.0.0.1:7777
//! ```

use echopool::framing::{Framing, Scan};
use echopool::service::{Answer, Connection};
use echopool::{CloseReason, Config, Server, Service};

/// Each worker has one of these, and calls it for its own connections only. It needs no locks.
pub struct Upper {
    lines: Framing,
}

impl Upper {
    /// For lines of at most `max` bytes.
    pub fn with_lines_of(max: u32) -> Upper {
        Upper { lines: Framing::lines(max) }
    }
}

impl Service for Upper {
    /// How far the search for the end of the line has come on one connection.
    type Session = Scan;

    fn data(&mut self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
        loop {
            match connection.take_messages(&self.lines, scan) {
                Ok(Some(mut lines)) => {
                    while let Some(mut lease) = lines.pop_front() {
                        lease.filled_mut().make_ascii_uppercase();
                        connection.output.push_back(lease);
                    }
                }
                // No line is complete. The beginning of one stays in the input.
                Ok(None) => return Answer::Continue,
                Err(_) => return Answer::CloseAfterSendFor(CloseReason::MessageTooLong),
            }
        }
    }
}

#[allow(dead_code)] // The test that runs this file starts a server of its own.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7777".to_owned());
    let config = Config::new().listen(address).max_connections(1000);
    let server = Server::start(config, || Upper::with_lines_of(1000))?;
    println!("listening on {}", server.local_endpoints()[0]);
    server.wait();
    Ok(())
}
