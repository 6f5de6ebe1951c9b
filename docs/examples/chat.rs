//! A chat room: a client's first line is its name, and each further line goes to everybody else.
//! `cargo run --example chat -- 127.0.0.1:7777`, then `nc 127.0.0.1 7777` as often as you like.

use echopool::framing::{Framing, Scan};
use echopool::service::{Answer, Connection, To};
use echopool::{CloseReason, Config, Server, Service};

const LINE_MAX: usize = 400;
const ROOM: u64 = 1; // The group of those who have a name.

/// A client's name and its length, which is 0 as long as it has none.
type Guest = ([u8; 16], usize);

/// One room for all clients of the server.
pub struct Chat;

impl Service for Chat {
    type Session = Guest;

    fn data(&mut self, connection: &mut Connection<'_>, guest: &mut Guest) -> Answer {
        let lines = Framing::lines(LINE_MAX as u32);
        loop {
            let line = match connection.take_message(&lines, &mut Scan::default()) {
                Ok(Some(line)) => line,
                Ok(None) => return Answer::Continue,
                Err(_) => return Answer::CloseAfterSendFor(CloseReason::MessageTooLong),
            };
            let (mut bytes, (name, len)) = ([0; LINE_MAX], &mut *guest);
            line.peek(&mut bytes);
            let text = bytes[..line.len()].trim_ascii();
            let parts: [&[u8]; 4] = if *len == 0 {
                *len = text.len().min(name.len());
                name[..*len].copy_from_slice(&text[..*len]);
                connection.set_group(ROOM);
                [b"* ", &name[..*len], b" has joined", b"\n"]
            } else {
                [&name[..*len], b": ", text, b"\n"]
            };
            if connection.send_message_parts(To::GroupBut(ROOM, connection.id()), &parts).is_err() {
                connection.send(b"* Nobody has got this line: try again later.\n");
            }
        }
    }

    fn closed(&mut self, connection: &mut Connection<'_>, guest: &mut Guest, _: CloseReason) {
        let parts = [b"* ", &guest.0[..guest.1], b" has left\n"];
        let _ = connection.send_message_parts(To::GroupBut(ROOM, connection.id()), &parts);
    }
}

#[allow(dead_code)] // The tests that run this file start servers of their own.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).expect("an address, such as 127.0.0.1:7777");
    Server::start(Config::new().listen(&*address).max_connections(1000), || Chat)?.wait();
    Ok(())
}
