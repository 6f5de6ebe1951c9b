use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::thread;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    command().debug_assert();
}

#[test]
fn an_address_has_the_forms_of_the_ready_line_and_of_the_flag() {
    let tcp = |text: &str| At::Tcp(text.to_owned());
    for (text, expected) in [
        ("9000", tcp("127.0.0.1:9000")),
        (":9000", tcp("127.0.0.1:9000")),
        ("localhost:9000", tcp("localhost:9000")),
        ("http://127.0.0.1:9000", tcp("127.0.0.1:9000")),
        ("http://[::1]:9000/", tcp("[::1]:9000")),
        ("unix:///run/echopool/admin", At::Unix("/run/echopool/admin".into())),
        ("/run/echopool/admin", At::Unix("/run/echopool/admin".into())),
    ] {
        assert_eq!(At::parse(text), Ok(expected.clone()), "{text}");
        assert_eq!(At::parse(&expected.to_string()), Ok(expected), "{text}");
    }
    for wrong in [
        "",
        "x",
        "localhost",
        "::1:9000",
        "99999",
        "unix://x",
        "http://x:9/metrics",
        "[::1:9",
        "::1]:9",
    ] {
        assert!(At::parse(wrong).unwrap_err().contains("write 9000"), "{wrong}");
    }
}

#[test]
fn a_worker_that_does_not_turn_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("bound").to_string();
    let daemon = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a request");
        let lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
        let head: Vec<String> =
            lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let reply = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n\r\nworkers: 1";
        stream.write_all(reply).expect("it reads");
        head
    });
    let cli = Cli::parse_from(["echopool ctl", "--admin", &at, "health"]);
    let failed = carry_out(&cli).map(|text| panic!("{text}")).unwrap_err();
    assert_eq!((failed.code, &failed.text[..]), (FAILED, "503: workers: 1"));
    let head = daemon.join().expect("it ends");
    assert_eq!(head[0], "GET /healthz HTTP/1.1");
}
