//! A client of a server that reads until `<EOF>`, sends the whole message back, and closes. The
//! server is that of "Using an Asynchronous Server Socket".
//!
//! ```text
//! echopool --listen message://7777
//! cargo run --example until_delimiter -- message://localhost:7777 "This is a test"
//! ```

use std::time::Duration;

use echopool::client::{Blocking, Error};

/// Sends a message and returns the reply. The target says what the framing is: the client appends
/// the delimiter to the message and removes it from the reply, however the stream is split.
pub fn ask(target: &str, message: &str) -> Result<String, Error> {
    let mut client = Blocking::connect(target)?;
    let answer = client.send_receive(message.as_bytes(), Duration::from_secs(10))?;
    // The server closes after a message, and sends nothing after it.
    client.receive_to_end(0)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[allow(dead_code)] // The test that runs this file calls what is above.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let target = args.next().unwrap_or_else(|| "message://localhost:7777".to_owned());
    let message = args.next().unwrap_or_else(|| "This is a test".to_owned());
    println!("{}", ask(&target, &message)?);
    Ok(())
}
