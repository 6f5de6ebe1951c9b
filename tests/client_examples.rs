//! Runs the client examples of the documentation against servers in this process, and checks that
//! they do what the page says. Each example is compiled into this test.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use echopool::builtin::Echo;
use echopool::builtin::hub::protocol::Request;
use echopool::builtin::url::{HubOptions, MessageOptions};
use echopool::client::{ClientLoop, Error, LoopLimits, State};
use echopool::service::ServiceFactory;
use echopool::{Config, Server, ServerHandle};

/// In a folder that is a link to `docs/examples`.
mod examples {
    pub mod callbacks;
    pub mod hub_client;
    pub mod reconnect_and_push;
    pub mod send_receive;
    pub mod until_delimiter;
}

use examples::{callbacks, hub_client, reconnect_and_push, send_receive, until_delimiter};

/// Longer than any step takes, so that a hang fails the test.
const GUARD: Duration = Duration::from_secs(60);

fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn address(server: &ServerHandle) -> SocketAddr {
    server.local_endpoints()[0].socket_addr().expect("a TCP address")
}

/// Starts a server of one worker with this service. Returns it with its address.
fn serve(factory: impl ServiceFactory) -> (ServerHandle, SocketAddr) {
    let config = Config::new().listen(anywhere()).workers(1).max_connections(100);
    let server = Server::start(config, factory).expect("a server");
    let address = address(&server);
    (server, address)
}

#[test]
fn send_receive_exchanges_a_message() {
    let (_server, address) = serve(Echo);
    let reply = send_receive::send_receive(&address.to_string(), "Hello World");
    assert_eq!(reply.as_deref(), Ok("Hello World"));
    let by_name = send_receive::send_receive(&format!("localhost:{}", address.port()), "by name");
    assert_eq!(by_name.as_deref(), Ok("by name"));
}

#[test]
fn until_delimiter_ends_messages_with_eof() {
    let (_server, address) = serve(MessageOptions::default());
    let answer = until_delimiter::ask(&format!("message://{address}"), "This is a test");
    assert_eq!(answer.as_deref(), Ok("This is a test"));
}

#[test]
fn callbacks_receive_until_the_server_closes() {
    let (_server, address) = serve(Echo);
    let response = callbacks::exchange(&address.to_string(), "This is a test<EOF>");
    assert_eq!(response.as_deref(), Ok(&b"This is a test<EOF>"[..]));
    let nobody = std::net::TcpListener::bind(anywhere()).unwrap().local_addr().unwrap();
    assert!(matches!(callbacks::exchange(&nobody.to_string(), ""), Err(Error::Refused(_))));
}

#[test]
fn reconnect_and_push_reconnects_and_receives_a_message_sent_to_its_id() {
    let address = std::net::TcpListener::bind(anywhere()).unwrap().local_addr().unwrap();
    let clients = ClientLoop::start(LoopLimits::for_clients(1)).unwrap();
    let (client, states) =
        reconnect_and_push::client(&clients, &format!("framed://{address}")).unwrap();
    let connected = client.connect(GUARD);
    let reply = client.send_receive(b"hello".to_vec(), GUARD);
    let waits = |state: State| matches!(state, State::Waiting { .. });
    while !waits(states.recv_timeout(GUARD).unwrap()) {}
    let server = reconnect_and_push::serve(address).unwrap();
    connected.wait_timeout(GUARD).expect("in time").expect("a connection");
    let reply = reply.wait_timeout(GUARD).expect("in time").expect("a reply");
    assert_eq!(reply, b"hello");
    greeted(&server, &client);
    // The server ends and is started again. The client reconnects by itself.
    drop(server);
    while !waits(states.recv_timeout(GUARD).unwrap()) {}
    let server = reconnect_and_push::serve(address).unwrap();
    greeted(&server, &client);
}

fn greeted(server: &ServerHandle, client: &echopool::Client) {
    let begun = Instant::now();
    while server.clients().is_empty() {
        assert!(begun.elapsed() < GUARD, "no client");
    }
    reconnect_and_push::greet(server).unwrap();
    let message = client.receive_message(Vec::new()).wait_timeout(GUARD).unwrap().unwrap();
    let id = server.clients()[0].id;
    assert_eq!(String::from_utf8(message).unwrap(), format!("you are {id}"));
}

#[test]
fn hub_client_sends_to_all_and_to_one() {
    let (_server, address) = serve(HubOptions::default());
    let target = format!("hub://{address}");
    let mut first = hub_client::Member::join(&target).unwrap();
    let mut second = hub_client::Member::join(&target).unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(first.hear().unwrap(), format!("{} joined", second.id));
    second.ask(Request::Broadcast, b"hello").unwrap();
    for member in [&mut first, &mut second] {
        let id = member.id;
        let heard = member.hear().unwrap();
        assert!(heard.ends_with(" to all: hello"), "{id}: {heard}");
    }
    first.ask(Request::Send { to: second.id }, b"for you").unwrap();
    assert_eq!(second.hear().unwrap(), format!("{} to you: for you", first.id));
    first.ask(Request::List, b"").unwrap();
    assert_eq!(first.hear().unwrap(), "there are 2");
    let gone = second.id;
    drop(second);
    assert_eq!(first.hear().unwrap(), format!("{gone} left"));
    first.ask(Request::Send { to: gone }, b"too late").unwrap();
    assert_eq!(first.hear().unwrap(), format!("{gone} does not get it"));
}
