//! A client that connects, sends a message, receives the same number of bytes, and disconnects. The
//! `SocketClient` of "How To Use the SocketAsyncEventArgs Class" does the same.
//!
//! ```text
//! cargo run --example send_receive -- localhost:7777 "Hello World"
//! ```

use std::time::Duration;

use echopool::client::{Blocking, Error};

/// Sends one message and returns the reply.
pub fn send_receive(target: &str, message: &str) -> Result<String, Error> {
    let mut client = Blocking::connect(target)?;
    let reply = client.send_receive(message.as_bytes(), Duration::from_secs(10))?;
    client.disconnect()?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

#[allow(dead_code)] // The test that runs this file calls what is above.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let target = args.next().unwrap_or_else(|| "localhost:7777".to_owned());
    let message = args.next().unwrap_or_else(|| "Hello World".to_owned());
    println!("{}", send_receive(&target, &message)?);
    Ok(())
}
