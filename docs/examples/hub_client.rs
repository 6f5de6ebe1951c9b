//! A client of a hub: it gets its id, lists who is there, and sends to all and to one. The client of
//! "Asynchronous Socket Programming in C#" does the same, with a window.
//!
//! ```text
//! echopool --listen hub://7777
//! cargo run --example hub_client -- hub://localhost:7777
//! ```

use std::time::Duration;

use echopool::builtin::hub::protocol::{Event, Request, event, request_head};
use echopool::client::{Blocking, Error, Options};
use echopool::framing::{ByteOrder, LENGTH_BYTES};

const ORDER: ByteOrder = ByteOrder::Little;

/// A client of a hub, with the id that the hub gave it.
pub struct Member {
    client: Blocking,
    /// Its own id.
    pub id: u64,
}

impl Member {
    /// Connects and waits for the id.
    pub fn join(target: &str) -> Result<Member, Error> {
        let timeout = Duration::from_secs(10);
        let mut client = Blocking::connect_with(target, Options::new(), timeout)?;
        let frame = client.receive_message()?;
        match event(&frame, ORDER) {
            Some(Event::Welcome(id)) => Ok(Member { client, id }),
            _ => Err(Error::Target(format!("{target} is no hub"))),
        }
    }

    /// Sends a request.
    pub fn ask(&mut self, request: Request, payload: &[u8]) -> Result<(), Error> {
        let head = request_head(request, payload.len(), ORDER);
        // The client writes the length itself, because it knows the framing of a hub.
        let frame = [&head.bytes()[LENGTH_BYTES..], payload].concat();
        Ok(self.client.send(&frame)?)
    }

    /// Waits for the next frame of the hub, and shows it as a line.
    pub fn hear(&mut self) -> Result<String, Error> {
        let frame = self.client.receive_message()?;
        Ok(match event(&frame, ORDER) {
            Some(Event::Message { to_all, from, payload }) => {
                let to = if to_all { "all" } else { "you" };
                format!("{from} to {to}: {}", String::from_utf8_lossy(payload))
            }
            Some(Event::Clients { ids, .. }) => format!("there are {}", ids.iter().count()),
            Some(Event::Joined(id)) => format!("{id} joined"),
            Some(Event::Left(id)) => format!("{id} left"),
            Some(Event::NotSent { id, .. }) => format!("{id} does not get it"),
            other => format!("{other:?}"),
        })
    }
}

#[allow(dead_code)] // The test that runs this file calls what is above.
fn main() -> Result<(), Error> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "hub://localhost:7777".to_owned());
    let mut member = Member::join(&target)?;
    println!("I am {}", member.id);
    member.ask(Request::List, b"")?;
    member.ask(Request::Broadcast, b"hello, everybody")?;
    for _ in 0..2 {
        println!("{}", member.hear()?);
    }
    Ok(())
}
