//! Runs the examples of the documentation: each is compiled into this test, and does what its page
//! says.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use echopool::{CloseReason, Config, Drained, Server};

#[path = "../docs/examples/upper.rs"]
mod upper;

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    client
}

#[test]
fn a_service_of_ones_own_sends_lines_back_in_capitals() {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = Config::new().listen(anywhere).workers(2).max_connections(10);
    let server = Server::start(config, || upper::Upper::with_lines_of(1000)).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();

    let mut client = connect(address);
    for part in ["He", "llo\nthe", "re\n", "\n\n1 2 3\nno end"] {
        client.write_all(part.as_bytes()).unwrap();
    }
    let mut reply = vec![0; "Hello\nthere\n\n\n1 2 3\n".len()];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(reply, b"HELLO\nTHERE\n\n\n1 2 3\n");
    client.write_all(b" yet\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "NO END YET\n");

    let mut endless = connect(address);
    endless.write_all(b"short\n").unwrap();
    endless.write_all(&[b'x'; 2000]).unwrap();
    let mut reply = String::new();
    endless.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "SHORT\n");
    drop((client, endless));
    assert_eq!(server.drain(Duration::from_secs(60)), Drained::Clean);
    assert_eq!(server.stats().total().closed(CloseReason::MessageTooLong), 1);
}
