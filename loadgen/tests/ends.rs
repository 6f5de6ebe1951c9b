//! How runs end: each way has its verdict and its exit code.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use common::{loadgen, until};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Echoes until the client closes. With `messages`, closes after each message, which ends with a
/// line feed.
fn serve(mut stream: TcpStream, messages: bool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        stream.write_all(&buffer[..count])?;
        if count == 0 || messages && buffer[..count].contains(&b'\n') {
            return Ok(());
        }
    }
}

/// A server that accepts this many connections, and then calls `then` with its listener.
fn accepts(
    count: usize,
    messages: bool,
    then: impl FnOnce(TcpListener) + Send + 'static,
) -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).and_then(|()| socket.listen(0)).expect("a free port");
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let mut streams = Vec::new();
        for _ in 0..count {
            streams.push(listener.accept().expect("a connection").0);
        }
        then(listener);
        for stream in streams {
            // An error means that the client has closed.
            thread::spawn(move || drop(serve(stream, messages)));
        }
    });
    address
}

fn count(json: &Value, key: &str) -> u64 {
    json[key].as_u64().unwrap_or_else(|| panic!("{key} in {json}"))
}

/// Connections of later lives that are refused are not the run that was asked for, whatever the
/// service and the loop.
#[test]
fn a_server_that_accepts_nothing_more_is_not_what_was_asked_for() {
    for (scheme, flags) in [
        ("message", ""),
        ("message", "-R 100"),
        ("tcp", "-R 100 --lifetime 3"),
        ("tcp", "-R 100 --lifetime 3 --strict"),
        ("tcp", "--lifetime 100"),
        ("framed", "-R 100 --lifetime 3"),
    ] {
        let address = accepts(2, scheme == "message", drop);
        let target = match scheme {
            "message" => format!("message://{address}?delimiter=%0a"),
            _ => format!("{scheme}://{address}"),
        };
        let run = format!("{target} -c 2 -t 1 -d 700ms {flags} --output-format json");
        let json = loadgen(&run).expect(4).json();
        assert_eq!(json["verdict"], "under-connected", "{run}: {json}");
        assert!(count(&json, "reconnects_failed") > 0, "{json}");
        assert_eq!(count(&json, "reconnects_failed"), count(&json["errors"], "connect-refused"));
        let text = json["verdict_text"].as_str().expect("a text");
        assert!(text.contains("connects failed in place of"), "{text}");
        let never_sent = text.contains("requests were never sent");
        assert_eq!(never_sent, flags.contains("-R"), "{text}");
    }
}

/// A connect that never ends is waited for, like a reply, and judged by its time-out.
#[test]
fn a_connect_that_is_in_progress_at_the_end_is_judged_too() {
    let (fill, filled) = std::sync::mpsc::channel();
    let address = accepts(1, false, move |listener| {
        // The kernel holds one or two connections that are not accepted, and drops the others.
        let address = listener.local_addr().expect("it is bound");
        let hold = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            // It is in progress.
            let _ = socket.connect(&address.into());
            socket
        };
        let held: Vec<Socket> = (0..4).map(hold).collect();
        thread::sleep(Duration::from_millis(50));
        fill.send((listener, held)).expect("the test waits");
    });
    let run = format!("{address} -c 1 -R 100 -d 500ms --timeout 1s --lifetime 5");
    let json = loadgen(&format!("{run} --output-format json")).expect(4).json();
    until("the queue was full", || filled.try_recv().ok());
    assert_eq!(
        (&json["verdict"], count(&json, "reconnects_failed")),
        (&"under-connected".into(), 1)
    );
    assert_eq!(count(&json["errors"], "connect-timed-out"), 1, "{json}");
}
