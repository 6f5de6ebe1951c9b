//! An echo server whose own threads send messages to all clients of its second listener, for
//! `scripts/figures floods`. It prints both addresses, then reads commands from its standard input: `on` and `off` begin
//! and end the messages. It replies with the number of messages since the last command.

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use echopool::service::{Answer, Connection, Message, Service};
use echopool::{Config, SendError, Server};

const THREADS: usize = 4;

/// Echo. A message reaches the clients of the second listener, and those of the first are served
/// without one, so that what they receive can be verified.
struct Flooded;

impl Service for Flooded {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
        connection.output.append(connection.input);
        Answer::Continue
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        (): &mut (),
        message: &mut Message<'_>,
    ) -> Answer {
        if connection.tag() == 1 && !connection.forward(message) {
            message.refuse(SendError::QueueFull);
        }
        Answer::Continue
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config::new().listen(anywhere).listen(anywhere).workers(1).max_connections(2_000);
    let server = Server::start(config, || Flooded)?;
    for endpoint in server.local_endpoints() {
        println!("broadcasts listening on {endpoint}");
    }
    let (on, ended, sent) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    if !on.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(1));
                    } else if server.broadcast(b"to all clients").is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            println!("{}", sent.swap(0, Ordering::Relaxed));
            on.store(line == "on", Ordering::Relaxed);
        }
        ended.store(true, Ordering::Relaxed);
    });
    Ok(())
}
