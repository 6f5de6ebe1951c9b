//! Runs over TLS: every service, both versions, resumption, client certificates, and each way in
//! which a handshake or a connection can fail. Peers that are not ours are in `proxies.rs`.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use common::loadgen;
use common::server::{EchoServer, Fault};
use common::tls::{Certificates, Does, Relay};
use echopool::builtin::OfListener;
use echopool::builtin::url::{ServiceOptions, Spec};
use echopool::{CloseReason, Config, ServerHandle};
use serde_json::Value;

/// A server whose listeners have these certificates.
struct Served {
    server: ServerHandle,
    certificates: Certificates,
}

impl Served {
    fn at(urls: &[&str]) -> Served {
        let certificates = Certificates::new();
        let options = certificates.of_server();
        Served::with(urls, certificates, &options)
    }

    fn with(urls: &[&str], certificates: Certificates, options: &str) -> Served {
        let mut config = Config::new().workers(2).max_connections(1_000);
        let mut services = Vec::new();
        for url in urls {
            let mark = if url.contains('?') { '&' } else { '?' };
            let mut spec: Spec = format!("{url}{mark}{options}").parse().expect("a URL");
            services.push(std::mem::replace(&mut spec.service, ServiceOptions::Echo));
            config = config.listen(spec.to_string().as_str());
        }
        let server = OfListener::new(services).start(config).expect("a server");
        Served { server, certificates }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_endpoints()[0].socket_addr().expect("a TCP address")
    }

    /// The URL of a client that trusts the server.
    fn url(&self, scheme: &str, listener: usize) -> String {
        let address = self.server.local_endpoints()[listener].address();
        format!("{scheme}://{address}?{}", self.certificates.ca())
    }
}

/// A run in which every connection is served and every byte is right.
#[track_caller]
fn run(flags: &str) -> Value {
    let json = loadgen(&format!("{flags} --output-format json")).expect(0).json();
    let connections = &json["connections"];
    assert_eq!(connections["served"], connections["asked"], "{flags}");
    assert_eq!((&connections["lost"], &json["mismatched_connections"]), (&0.into(), &0.into()));
    json
}

fn number(json: &Value, pointer: &str) -> u64 {
    json.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}: {json}"))
}

/// A run in which no connection is made. Returns what it says, and its exit code is 1.
#[track_caller]
fn refused(flags: &str) -> String {
    let ended = loadgen(&format!("{flags} --timeout 5s --output-format json")).expect(1);
    ended.complains("no connection to ");
    ended.stderr
}

#[test]
fn every_service_runs_over_tls() {
    let name = format!("@loadgen-tls-{}", std::process::id());
    let served = Served::at(&[
        "tls://127.0.0.1:0",
        "delay+tls://127.0.0.1:0?fixed=1ms",
        "framed+tls://127.0.0.1:0?order=big",
        "message+tls://127.0.0.1:0?after=keep",
        "message+tls://127.0.0.1:0?after=close",
        "hub+tls://127.0.0.1:0",
        &format!("unix+tls://{name}-echo"),
        &format!("framed+unix+tls://{name}-framed"),
        &format!("hub+unix+tls://{name}-hub"),
    ]);
    for (nth, (scheme, more)) in [
        ("tls", "-d 500ms -l uniform:1-40k -p 3"),
        ("delay+tls", "-n 300"),
        ("framed+tls", "-n 1000 -l uniform:1-40k -p 3"),
        ("message+tls", "-n 500 -l uniform:1-16k -p 3"),
        ("message+tls", "-n 300"),
        ("hub+tls", "-d 300ms --senders 3"),
        ("unix+tls", "-n 2000 -l uniform:1-40k -p 3"),
        ("framed+unix+tls", "-n 1000 -l 5000"),
        ("hub+unix+tls", "-d 300ms"),
    ]
    .into_iter()
    .enumerate()
    {
        let option = match nth {
            1 => "&fixed=1ms",
            2 => "&order=big",
            3 => "&after=keep",
            4 => "&after=close",
            _ => "",
        };
        let url = served.url(scheme, nth);
        // Of two threads, one may send all of a number of requests before the other begins.
        let threads = if more.contains("-n ") { 1 } else { 2 };
        let flags = format!("-c 20 -t {threads} {more}");
        let json = run(&format!("{url}{option}&sni=localhost {flags}"));
        let tls = &json["tls"];
        let done = number(tls, "/handshakes_full") + number(tls, "/handshakes_resumed");
        assert_eq!(done, 20 + number(&json, "/reconnects"), "{url}");
        assert_eq!(tls["verified"], true);
        assert_eq!(tls["sessions"][0]["version"], "1.3", "{tls}");
        assert_eq!(tls["sessions"][0]["count"], done, "{tls}");
        assert_eq!(number(tls, "/handshake_full/count"), number(tls, "/handshakes_full"));
        let target = json["target"].as_str().expect("text");
        assert!(target.starts_with(&format!("{scheme}://")), "{target}");
    }
}

#[test]
fn either_version_can_be_chosen_and_is_shown() {
    let served = Served::at(&["tls://127.0.0.1:0"]);
    let url = served.url("tls", 0);
    for (option, version, suite) in
        [("tls-max=1.2", "1.2", "TLS_ECDHE_ECDSA_WITH_"), ("tls-min=1.3", "1.3", "TLS13_")]
    {
        let json = run(&format!("{url}&{option} -c 3 -t 1 -n 300 -l uniform:1-40k"));
        let sessions = &json["tls"]["sessions"];
        assert_eq!((&sessions[0]["version"], &sessions[1]), (&version.into(), &Value::Null));
        assert!(sessions[0]["cipher_suite"].as_str().expect("text").starts_with(suite));
        let service = json["config"]["service"].as_str().expect("text");
        assert!(
            service == format!("tls://?{}&{option}", served.certificates.ca())
                || service.contains(option),
            "{service}"
        );
        let text = loadgen(&format!("{url}&{option} -c 3 -n 300 --details")).expect(0);
        text.says(&format!("Handshakes: 3 with TLS {version} {suite}"));
        text.says("Full handshakes: 3: p50 ");
    }
}

#[test]
fn sessions_are_resumed_unless_the_target_says_otherwise() {
    let served = Served::at(&["tls://127.0.0.1:0"]);
    let url = served.url("tls", 0);
    for version in ["1.2", "1.3"] {
        let flags = "-c 1 -n 50 --lifetime 1";
        let json = run(&format!("{url}&tls-max={version} {flags}"));
        let tls = &json["tls"];
        assert_eq!(number(tls, "/handshakes_full"), 1, "the first one: {tls}");
        assert!(number(tls, "/handshakes_resumed") >= 49, "{tls}");
        assert_eq!(
            number(tls, "/handshake_resumed/count"),
            number(tls, "/handshakes_resumed"),
            "{tls}"
        );
        assert!(tls["resumed_ratio"].as_f64() > Some(0.97), "{tls}");
        assert!(tls["handshakes_per_second"].as_f64() > Some(1.0), "{tls}");
        let json = run(&format!("{url}&tls-max={version}&resume=off {flags}"));
        assert_eq!(number(&json["tls"], "/handshakes_resumed"), 0);
        assert!(number(&json["tls"], "/handshakes_full") >= 50);
    }
}

#[test]
fn the_time_of_a_connect_includes_its_handshake() {
    let served = Served::at(&["tls://127.0.0.1:0"]);
    let json = run(&format!("{} -c 5 -t 1 -n 50", served.url("tls", 0)));
    let handshake = number(&json, "/tls/handshake_full/min_ns");
    assert!(number(&json, "/connect_latency/min_ns") >= handshake, "{json}");
}

#[test]
fn a_certificate_that_cannot_be_trusted_is_refused_with_the_remedy() {
    let served = Served::at(&["tls://127.0.0.1:0"]);
    served.certificates.certify("other.pem", "other.key", &["localhost", "127.0.0.1"]);
    let address = served.address();
    let other = format!("tls://{address}?ca={}", served.certificates.file("other.pem"));
    for (url, part) in [
        (format!("tls://{address}"), "name the authority with ca=FILE"),
        (other, "name the authority with ca=FILE"),
        (format!("{}&sni=else.test", served.url("tls", 0)), "give it with sni=NAME"),
    ] {
        let text = refused(&format!("{url} -c 4 -d 1s"));
        assert!(text.contains(part) && text.contains("4 of 4 attempts"), "{url}: {text}");
    }
    let insecure = format!("tls://{address}?insecure=on -c 4 -t 1 -n 100");
    assert_eq!(run(&insecure)["tls"]["verified"], false);
    loadgen(&insecure).expect(0).says("Certificates: not verified (insecure=on)");
}

#[test]
fn failed_handshakes_are_errors_with_a_name_and_the_others_go_on() {
    let served = Served::at(&["tls://127.0.0.1:0"]);
    let strangers = Served::at(&["tls://127.0.0.1:0"]);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let ca = served.certificates.ca();
    let at = |address| format!("tls://{address}?{ca}");
    let targets = [
        at(served.address()),
        at(strangers.address()),
        at(EchoServer::start(Fault::None).address),
        at(silent.local_addr().expect("it is bound")),
    ];
    let flags = format!("{} -c 8 -d 500ms --timeout 3s", targets.join(" "));
    let ended = loadgen(&format!("{flags} --output-format json")).expect(4);
    let json = ended.json();
    assert_eq!(json["verdict"], "under-connected", "{json}");
    let errors = json["errors"].as_object().expect("an object");
    let expected = [("tls-unknown-ca", 2), ("tls-not-tls", 2), ("tls-handshake-timed-out", 2)];
    for (name, count) in expected {
        assert_eq!(errors.get(name), Some(&count.into()), "{errors:?}");
    }
    assert_eq!((errors.len(), number(&json, "/connections/served")), (3, 2), "{errors:?}");
    let text = loadgen(&flags).expect(4);
    text.says("Failed handshakes: 2: no known authority has signed the server's certificate");
    text.says("tls-unknown-ca 2").says("connect 6");
    assert_eq!(strangers.server.stats().total().closed(CloseReason::TlsAlert), 0);
    assert!(strangers.server.stats().total().closed(CloseReason::TlsHandshake) >= 2);
}

#[test]
fn a_server_that_stops_in_the_handshake_is_given_up_at_the_time_out() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("it is bound");
    let flags = format!("tls://{address}?insecure=on -c 3 -d 5s --timeout 700ms");
    let begun = Instant::now();
    loadgen(&flags).expect(1).complains("the TLS handshake took too long");
    let took = begun.elapsed();
    assert!((Duration::from_millis(700)..Duration::from_secs(5)).contains(&took), "{took:?}");
    // The same if it has sent a part of its first record.
    thread::spawn(move || {
        let mut kept = Vec::new();
        for client in silent.incoming() {
            let mut client = client.expect("a connection");
            let _ = client.write_all(&[22, 3, 3, 0, 200, 2]);
            kept.push(client);
        }
    });
    loadgen(&flags).expect(1).complains("the TLS handshake took too long");
}

#[test]
fn a_server_that_closes_or_sends_something_else_is_told_apart() {
    let answering = |answer: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.expect("a connection");
                let _ = client.read(&mut [0; 4096]);
                let _ = client.write_all(answer);
            }
        });
        format!("tls://{address}?insecure=on -c 2 -d 1s")
    };
    for (answer, part) in [
        (&b""[..], "the server closed the connection in the TLS handshake"),
        (b"220 mail.test ESMTP\r\n", "the server does not speak TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server does not speak TLS"),
        (&[21, 3, 3, 0, 2, 2, 40], "the server has rejected the TLS handshake (HandshakeFailure)"),
    ] {
        let text = refused(&answering(answer));
        assert!(text.contains(part), "{answer:?}: {text}");
    }
}

#[test]
fn a_client_certificate_is_shown_if_the_server_wants_one() {
    let certificates = Certificates::new();
    certificates.certify("client.pem", "client.key", &["client"]);
    let options =
        format!("{}&client-ca={}", certificates.of_server(), certificates.file("client.pem"));
    let served = Served::with(&["tls://127.0.0.1:0"], certificates, &options);
    let file = |name| served.certificates.file(name);
    let url = served.url("tls", 0);
    let with = format!("{url}&cert={}&key={}", file("client.pem"), file("client.key"));
    for version in ["1.2", "1.3"] {
        run(&format!("{with}&tls-max={version} -c 4 -t 1 -n 100"));
    }
    let without = refused(&format!("{url}&tls-max=1.2 -c 2 -d 1s"));
    assert!(without.contains("whether it requires a certificate (cert=, key=)"), "{without}");
    // In TLS 1.3 the client learns of it after its own handshake.
    let json = loadgen(&format!("{url} -c 2 -d 1s --output-format json")).expect(4).json();
    assert_eq!(json["errors"]["tls-alert"], 2, "{json}");
}

#[test]
fn a_stream_that_is_cut_is_told_from_one_that_has_ended() {
    let served = Served::at(&["tls://127.0.0.1:0"]);
    let relay = Relay::start(served.address(), Does::CutAfter(20_000));
    let url = format!("tls://{}?{}", relay.address, served.certificates.ca());
    let json = loadgen(&format!("{url} -c 3 -d 10s -l 500 --output-format json")).expect(4).json();
    assert_eq!(json["errors"]["tls-truncated"], 3, "{json}");
    assert_eq!((relay.done(), &json["mismatched_connections"]), (3, &0.into()));
}

#[test]
fn a_changed_byte_is_never_accepted() {
    let served = Served::at(&["tls://127.0.0.1:0"]);
    let relay = Relay::start(served.address(), Does::Flip(20_000));
    let url = format!("tls://{}?{}", relay.address, served.certificates.ca());
    let json = loadgen(&format!("{url} -c 3 -d 10s -l 500 --output-format json")).expect(4).json();
    assert_eq!(json["errors"]["tls-alert"], 3, "{json}");
    assert_eq!((relay.done(), &json["mismatched_connections"]), (3, &0.into()));
    let relay = Relay::start(served.address(), Does::Flip(100));
    let url = format!("tls://{}?{}", relay.address, served.certificates.ca());
    refused(&format!("{url} -c 3 -d 1s"));
}

#[test]
fn records_may_arrive_byte_by_byte() {
    let served = Served::at(&["tls://127.0.0.1:0"]);
    let relay = Relay::start(served.address(), Does::Trickle);
    let url = format!("tls://{}?{}", relay.address, served.certificates.ca());
    for version in ["1.2", "1.3"] {
        run(&format!("{url}&tls-max={version} -c 2 -t 1 -n 12 -l uniform:1-2k -p 2"));
    }
    assert!(relay.done() > 0);
}

#[test]
fn proxy_headers_come_before_the_handshake() {
    let served = Served::at(&["tls://127.0.0.1:0?proxy=require"]);
    let url = served.url("tls", 0);
    for version in ["v1", "v2"] {
        run(&format!("{url} -c 20 -t 1 -n 1000 -l uniform:1-20k -p 2 --proxy-protocol {version}"));
    }
    assert_eq!(served.server.stats().total().closed(CloseReason::ProxyHeader), 0);
}

#[test]
fn rude_clients_and_lifetimes_are_possible() {
    let served = Served::at(&["tls://127.0.0.1:0"]);
    let url = served.url("tls", 0);
    let rude = "--with idle:2,slow-reader:2,half-close:2,reset:2,trickle:2";
    let json = run(&format!("{url} -c 10 -d 1s -l uniform:1-20k {rude} --lifetime 100ms"));
    assert!(number(&json, "/reconnects") > 0, "{json}");
    for rude in json["rude_clients"].as_array().expect("a list") {
        assert!(number(rude, "/established") >= 2, "{rude}");
        assert_eq!(rude["connect_failed"], 0, "{rude}");
    }
}

#[test]
fn comparisons_and_searches_run_over_tls() {
    let served = Served::at(&["tls://127.0.0.1:0"]);
    let url = served.url("tls", 0);
    let ab = format!("ab {url} {url}&tls-max=1.2 -c 4 -d 1s --rounds 2 --output-format json");
    let json = loadgen(&ab).expect(0).json();
    assert_eq!(json["type"], "ab", "{json}");
    let search = format!("{url} -c 4 --search p99:1s -d 200ms --output-format json");
    assert_eq!(loadgen(&search).json()["type"], "search");
    let files = ["", "&tls-max=1.2"].map(|option| {
        let file = served.certificates.file(&format!("{}.json", option.len()));
        let run = loadgen(&format!("{url}{option} -c 2 -n 100 --output-format json")).expect(0);
        std::fs::write(&file, run.stdout).expect("a file");
        file
    });
    let [first, second] = &files;
    loadgen(&format!("merge {first} {second}")).expect(1).complains("not the same run: target (");
    let differ = loadgen(&format!("compare {first} {second}")).expect(1);
    differ.complains("not of the same kind: service (").complains("tls-max=1.2");
    loadgen(&format!("report {first} --to html")).expect(0).says("Full handshakes");
}

#[test]
fn wrong_options_are_refused_with_the_remedy() {
    let certificates = Certificates::new();
    let file = |name| certificates.file(name);
    for (query, code, part) in [
        ("client-ca=a.pem".into(), 2, "a client takes ca=FILE"),
        ("cert=a.pem".into(), 2, "cert=FILE needs key=FILE"),
        ("tls-min=1.3&tls-max=1.2".into(), 2, "tls-max is older than tls-min"),
        ("ca=a.pem&insecure=on".into(), 2, "insecure=on trusts any certificate"),
        ("sni=a..b".into(), 2, "not a name that a certificate can have"),
        (format!("ca={}", file("none.pem")), 1, "none.pem: no such file"),
        (format!("ca={}", file("key.pem")), 1, "it has no certificate"),
        (format!("cert={}&key={}", file("cert.pem"), file("none")), 1, "none: no such file"),
    ] {
        let ended = loadgen(&format!("tls://localhost:1?{query}")).expect(code);
        ended.complains(part);
    }
    loadgen("tls://").expect(2).complains("does not speak TLS: give an address");
    loadgen("localhost:1 tls://localhost:2").expect(2).complains("differ in TLS");
}
