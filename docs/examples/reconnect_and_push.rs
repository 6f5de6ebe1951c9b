//! Frames with a length of 4 bytes; a client that tries to connect until the server is there, and
//! again when the connection is lost; and a server that sends to one client by its id. The
//! "Asynchronous Socket" notes on C# do the same.
//!
//! ```text
//! cargo run --example reconnect_and_push
//! ```

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use echopool::builtin::url::FramedOptions;
use echopool::client::{Client, ClientLoop, LoopLimits, Options, Reconnect, State, Unsent};
use echopool::{Config, Server, ServerHandle};

type Failure = Box<dyn std::error::Error>;

/// A client that connects again after each failure, and keeps what it could not send.
pub fn client(clients: &ClientLoop, target: &str) -> Result<(Client, Receiver<State>), Failure> {
    let (tell, states) = channel();
    let options = Options::new()
        .reconnect(Reconnect::between(Duration::from_millis(100), Duration::from_secs(1)))
        .unsent(Unsent::Keep)
        .on_state(move |state| drop(tell.send(state.clone())));
    Ok((clients.client(target, options)?, states))
}

/// A server for frames.
pub fn serve(address: SocketAddr) -> Result<ServerHandle, Failure> {
    let config = Config::new().listen(address).workers(1).max_connections(1000);
    Ok(Server::start(config, FramedOptions::default())?)
}

/// Sends a message to each client of the server, by its id.
pub fn greet(server: &ServerHandle) -> Result<(), Failure> {
    for client in server.clients() {
        let text = format!("you are {}", client.id);
        // The service adds the length.
        server.send_to(client.id, text.as_bytes())?;
    }
    Ok(())
}

#[allow(dead_code)] // The test that runs this file calls what is above.
fn main() -> Result<(), Failure> {
    let address: SocketAddr = "127.0.0.1:7777".parse()?;
    let clients = ClientLoop::start(LoopLimits::for_clients(1))?;
    let (client, states) = client(&clients, &format!("framed://{address}"))?;
    // Nobody listens yet: both wait.
    let connected = client.connect(Duration::MAX);
    let reply = client.send_receive(b"hello".to_vec(), Duration::from_secs(10));
    let server = serve(address)?;
    println!("connected to {}", connected.wait()?);
    println!("{}", String::from_utf8_lossy(&reply.wait()?));
    greet(&server)?;
    println!("{}", String::from_utf8_lossy(&client.receive_message(Vec::new()).wait()?));
    println!("{:?}", states.try_iter().collect::<Vec<_>>());
    Ok(())
}
