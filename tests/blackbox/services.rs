//! The services and their addresses: several in one daemon, their options, and their ready lines
//! and log lines. The tests build frames by hand, from `docs/services.md`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::harness::{Client, Daemon, GUARD, eventually, run_to_end};

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect_timeout(&address, GUARD).expect("connecting");
    client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    client
}

/// Sends `bytes` and FIN. Returns everything received until FIN.
fn talk(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = connect(address);
    client.write_all(bytes).expect("sending");
    client.shutdown(Shutdown::Write).expect("closing this side");
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).expect("receiving to the end");
    reply
}

fn frame(payload: &[u8], length: fn(u32) -> [u8; 4]) -> Vec<u8> {
    [&length(payload.len() as u32)[..], payload].concat()
}

#[test]
fn several_services_run_in_one_daemon_each_as_its_ready_line_says() {
    let daemon = Daemon::start(&[
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "framed://127.0.0.1:0",
        "--listen",
        "framed://127.0.0.1:0?order=big&max-frame=1Mi",
        "--listen",
        r"message://127.0.0.1:0?delimiter=\r\n&after=keep",
        "--listen",
        "discard://127.0.0.1:0",
        "--listen",
        "chargen://127.0.0.1:0",
        "--listen",
        "timed://127.0.0.1:0?delay=1ms",
    ]);
    let ports: Vec<u16> = daemon.addresses().iter().map(SocketAddr::port).collect();
    let expected = [
        format!("tcp://127.0.0.1:{}", ports[0]),
        format!("framed://127.0.0.1:{}", ports[1]),
        format!("framed://127.0.0.1:{}?order=big", ports[2]),
        format!("message://127.0.0.1:{}?delimiter=%0D%0A&after=keep", ports[3]),
        format!("discard://127.0.0.1:{}", ports[4]),
        format!("chargen://127.0.0.1:{}", ports[5]),
        format!("timed://127.0.0.1:{}?delay=1ms", ports[6]),
    ];
    assert_eq!(daemon.targets(), expected);

    let [echo, little, big, lines, discard, chargen, timed] =
        daemon.addresses().try_into().expect("one address for each --listen");
    let mut client = Client::connect(echo);
    client.ping(10_000);
    client.close();
    let hello = frame(b"hello", u32::to_le_bytes);
    assert_eq!(talk(little, &[&hello[..], &hello[..7]].concat()), hello);
    let hello = frame(&[1; 100_000], u32::to_be_bytes);
    assert!(talk(big, &hello) == hello);
    assert_eq!(talk(lines, b"one\r\ntwo\r\n"), b"one\r\ntwo\r\n");
    assert_eq!(talk(discard, &[7; 100_000]), b"");
    let mut line = [0; 74];
    connect(chargen).read_exact(&mut line).expect("a line");
    assert!(line.starts_with(b" !\"#$%&'()*+,-./0123") && line.ends_with(b"abcdefg\r\n"));
    let request = frame(&[&[7; 32][..], b"hello"].concat(), u32::to_le_bytes);
    let reply = talk(timed, &request);
    assert_eq!((&reply[..4], &reply[36..]), (&request[..4], &b"hello"[..]));
    let number = |at| u64::from_le_bytes(reply[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!(
        number(4),
        echopool::builtin::timed::clock_id(),
        "the same clock as of this process"
    );
    assert!(number(12) <= number(20) && number(20) + 1_000_000 <= number(28), "{reply:?}");
    daemon.finish();
}

#[test]
fn flags_set_the_defaults_of_options_and_the_ready_line_shows_them() {
    let flags = ["--order", "big", "--max-frame", "9", "--listen", "framed://127.0.0.1:0"];
    let more = ["--listen", "framed://127.0.0.1:0?order=little"];
    let daemon = Daemon::start(&[&flags[..], &more].concat());
    let [big, little] = daemon.addresses().try_into().expect("two");
    assert!(daemon.targets()[0].ends_with("?order=big&max-frame=9"), "{:?}", daemon.targets());
    assert!(daemon.targets()[1].ends_with("?max-frame=9"), "{:?}", daemon.targets());
    let good = frame(&[1; 9], u32::to_be_bytes);
    assert_eq!(talk(big, &[&good[..], &10u32.to_be_bytes()].concat()), good);
    let good = frame(&[1; 9], u32::to_le_bytes);
    assert_eq!(talk(little, &[&good[..], &u32::MAX.to_le_bytes()].concat()), good);
    eventually("both reasons", || {
        let stats = daemon.stats();
        ["message-too-long", "protocol-error"].iter().all(|&reason| stats.get(reason) == Some(&1))
    });
    daemon.finish();
}

#[test]
fn messages_are_logged_escaped_and_cut_unless_turned_off() {
    let flags = ["--listen", "message://127.0.0.1:0?show=20", "--listen"];
    let daemon = Daemon::start(&[&flags[..], &["message://127.0.0.1:0?show=0"]].concat());
    let [shows, hides] = daemon.addresses().try_into().expect("two");
    let message = b"a bell: \x07, and more than twenty<EOF>";
    assert_eq!(talk(shows, message), message);
    assert_eq!(talk(hides, b"a secret<EOF>"), b"a secret<EOF>");
    let wanted = format!(r#"bytes={} shown=20 text="a bell: \x07, and more ""#, message.len());
    eventually("the message is shown", || daemon.lines_with(&wanted).len() == 1);
    assert_eq!(daemon.lines_with("secret").len(), 0);
    daemon.finish();

    let quiet = Daemon::start(&["--log", "warn", "--listen", "message://127.0.0.1:0"]);
    assert_eq!(talk(quiet.address(), message), message);
    assert_eq!(quiet.lines_with("bell").len(), 0);
    quiet.finish();
}

#[test]
fn a_drain_ends_clients_in_the_middle_of_a_message_and_an_endless_stream() {
    let services =
        ["framed://127.0.0.1:0", "--listen", "message://127.0.0.1:0", "--listen"].as_slice();
    let daemon = Daemon::start(&[&["--listen"], services, &["chargen://127.0.0.1:0"]].concat());
    let mut clients: Vec<TcpStream> = daemon.addresses().iter().map(|to| connect(*to)).collect();
    for client in &mut clients {
        client.write_all(b"\x40\0\0\0begin").expect("sending");
    }
    eventually("all bytes are received", || daemon.stat("receives") == 3);
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || client.read_to_end(&mut Vec::new()).expect("FIN"))
        })
        .collect();
    daemon.finish();
    let received: Vec<usize> = readers.into_iter().map(|one| one.join().expect("read")).collect();
    assert!(received[..2] == [0, 0] && received[2] > 0, "{received:?}");
}

#[test]
fn a_hub_welcomes_its_clients_beside_other_services() {
    let flags = ["--listen", "127.0.0.1:0", "--listen", "hub://127.0.0.1:0?order=big&notices=off"];
    let daemon = Daemon::start(&flags);
    assert!(daemon.targets()[1].ends_with("?order=big&notices=off"), "{:?}", daemon.targets());
    let mut clients = [connect(daemon.addresses()[1]), connect(daemon.addresses()[1])];
    for client in &mut clients {
        let mut welcome = [0; 13];
        client.read_exact(&mut welcome).expect("a welcome");
        assert_eq!(welcome[..5], [0, 0, 0, 9, 128]);
    }
    clients[0].write_all(&frame(b"\x03to all", u32::to_be_bytes)).expect("sending");
    for client in &mut clients {
        let mut message = [0; 4 + 10 + 6];
        client.read_exact(&mut message).expect("a message");
        assert_eq!(message[..6], [0, 0, 0, 16, 130, 1]);
        assert!(message.ends_with(b"to all"));
    }
    drop(clients);
    let mut echo = Client::connect(daemon.address());
    echo.ping(1000);
    echo.close();
    daemon.finish();
}

#[test]
fn an_invalid_listener_is_refused_with_the_remedy() {
    for (listen, parts) in [
        ("gopher://127.0.0.1:0", &["gopher", "echo, discard, chargen, framed, message, hub"][..]),
        ("framed://127.0.0.1:0?delimiter=x", &["delimiter", "order, max-frame"]),
        ("discard://127.0.0.1:0?order=big", &["discard takes none"]),
        ("message://127.0.0.1:0?after=lunch", &["close or keep"]),
        ("framed://127.0.0.1:0?max-frame=100Mi", &["--buffers", "--memory", "--max-frame"]),
        ("message://127.0.0.1:0?max-message=100Mi", &["--buffers", "--max-message"]),
        ("hub://127.0.0.1:0?max-message=17Ki", &["max-message", "16384"]),
    ] {
        let (code, stdout, stderr) =
            run_to_end("true", &["--workers", "1", "--buffers", "100", "--listen", listen]);
        assert_eq!((code, &stdout[..]), (Some(2), ""), "{listen}: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{listen}: does not say {part}: {stderr}");
        }
    }
}
