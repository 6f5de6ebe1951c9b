//! Runs the server examples of the documentation and checks that they do what their page says. Each
//! example is compiled into this test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use echopool::{CloseReason, Config, Drained, Server};

/// In a folder that is a link to `docs/examples`.
mod examples {
    pub mod chat;
    pub mod upper;
}

use examples::{chat, upper};

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    client
}

#[test]
fn a_custom_service_returns_lines_in_upper_case() {
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

/// A guest of the chat room.
struct Guest(BufReader<TcpStream>);

impl Guest {
    fn enter(address: SocketAddr, name: &str) -> Guest {
        let mut guest = Guest(BufReader::new(connect(address)));
        guest.say(name);
        guest
    }

    fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    fn hears(&mut self, line: &str) {
        assert_eq!(self.next_line(), line);
    }

    /// The same for a guest who has just come. It also hears that those before it came, if this was
    /// still on its way to its worker.
    fn hears_first(&mut self, line: &str, before: &[&str]) {
        let mut heard = self.next_line();
        for line in before {
            if heard == *line {
                heard = self.next_line();
            }
        }
        assert_eq!(heard, line);
    }

    fn next_line(&mut self) -> String {
        let mut heard = String::new();
        self.0.read_line(&mut heard).unwrap();
        heard.trim_end().to_owned()
    }
}

#[test]
fn guests_of_the_chat_room_hear_each_other_come_speak_and_go() {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = Config::new().listen(anywhere).workers(2).max_connections(10);
    let server = Server::start(config, || chat::Chat).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    // A client that has not sent its name receives nothing. Several, so that each worker has some.
    let nameless: Vec<_> = (0..3).map(|_| connect(address)).collect();
    let mut ann = Guest::enter(address, "Ann");
    // Wait until she has joined, because no guest is there to see it.
    while server.clients().iter().all(|client| client.group == 0) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut bob = Guest::enter(address, "Bob");
    ann.hears("* Bob has joined");
    let mut cleo = Guest::enter(address, "Cleo the Twenty-Third");
    ann.hears("* Cleo the Twenty- has joined");
    bob.hears_first("* Cleo the Twenty- has joined", &["* Ann has joined"]);
    for number in 0..50 {
        ann.say(&format!("line {number}"));
    }
    cleo.hears_first("Ann: line 0", &["* Ann has joined", "* Bob has joined"]);
    bob.hears("Ann: line 0");
    for number in 1..50 {
        bob.hears(&format!("Ann: line {number}"));
        cleo.hears(&format!("Ann: line {number}"));
    }
    bob.say("hello");
    for guest in [&mut ann, &mut cleo] {
        guest.hears("Bob: hello");
    }
    drop(bob);
    ann.hears("* Bob has left");
    cleo.hears("* Bob has left");
    cleo.say(&"x".repeat(1000));
    ann.hears("* Cleo the Twenty- has left");
    assert_eq!(cleo.0.read_line(&mut String::new()).unwrap(), 0, "too long");
    drop((ann, cleo));
    for mut client in nameless {
        client.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "");
    }
    assert_eq!(server.drain(Duration::from_secs(60)), Drained::Clean);
    let total = server.stats().total();
    assert_eq!((total.messages_dropped, total.buffers_held), (0, 0), "{total:?}");
}
