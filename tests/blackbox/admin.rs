//! The admin address, seen by an HTTP client: metrics with known values, refusals, and clients that
//! are many, slow or rude while echoes go on.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Client, Daemon, GUARD, eventually, named_values, run_to_end};

const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

pub fn connect(to: SocketAddr) -> TcpStream {
    let client = TcpStream::connect_timeout(&to, GUARD).expect("connecting");
    client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    client.set_write_timeout(Some(GUARD)).expect("setting a time-out");
    client
}

/// Sends a request and reads to the end. Returns what came, up to a reset.
pub fn converse(to: SocketAddr, request: &[u8]) -> String {
    let mut client = connect(to);
    // The reply may come before the request is sent.
    let _ = client.write_all(request);
    let mut reply = Vec::new();
    let _ = client.read_to_end(&mut reply);
    String::from_utf8(reply).expect("text")
}

/// The status of a path, and its page.
pub fn get(daemon: &Daemon, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let reply = converse(daemon.admin(), request.as_bytes());
    let (head, page) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{reply:?}"));
    (status(head), page.to_owned())
}

pub fn status(reply: &str) -> u16 {
    let status = reply.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    status.unwrap_or_else(|| panic!("no status: {reply:?}"))
}

/// A metric: the sum of its values whose labels contain `labels`.
pub fn metric(page: &str, name: &str, labels: &str) -> f64 {
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (of, given) = series.split_once('{').unwrap_or((series, ""));
        (of == name && given.contains(labels)).then(|| value.parse::<f64>().expect("a number"))
    };
    let values: Vec<f64> = page.lines().filter_map(value).collect();
    assert!(!values.is_empty(), "no {name} with {labels:?} in {page}");
    values.iter().sum()
}

#[test]
fn the_metrics_of_a_known_run_have_its_values() {
    let flags = ["--workers", "2", "--buffers", "200", "--max-connections", "50", "--linger", "0s"];
    let flags =
        [&flags[..], &ADMIN, &["--listen", "127.0.0.1:0", "--listen", "discard://127.0.0.1:0"]];
    let daemon = Daemon::start(&flags.concat());
    let metrics = || {
        let (status, page) = get(&daemon, "/metrics");
        assert_eq!(status, 200);
        page
    };
    let accepted = "echopool_connections_accepted_total";
    assert_eq!(metric(&metrics(), accepted, ""), 0.0);

    let mut discarded = connect(daemon.addresses()[1]);
    discarded.write_all(&[0; 7_000]).expect("sending");
    let mut open: Vec<Client> = (0..5).map(|_| Client::connect(daemon.address())).collect();
    for (client, bytes) in open.iter_mut().zip([10, 20, 40, 80, 160]) {
        client.ping(bytes);
    }
    (0..3).for_each(|_| Client::connect(daemon.address()).close());
    Client::connect(daemon.address()).reset();
    let closed = "echopool_connections_closed_total";
    eventually("four are closed, and all bytes received", || {
        let page = metrics();
        metric(&page, closed, "") == 4.0
            && metric(&page, "echopool_received_bytes_total", "") == 7_310.0
    });
    let page = metrics();
    for (name, labels, value) in [
        (accepted, "", 10.0),
        ("echopool_connections", "", 6.0),
        (closed, "reason=\"peer-closed\"", 3.0),
        (closed, "reason=\"reset\"", 1.0),
        (closed, "reason=\"drained\"", 0.0),
        ("echopool_sent_bytes_total", "", 310.0),
        ("echopool_wire_received_bytes_total", "", 7_310.0),
        ("echopool_sends_total", "", 5.0),
        // All but the four that have sent nothing.
        ("echopool_first_byte_seconds_count", "", 6.0),
        ("echopool_first_byte_seconds_bucket", "le=\"+Inf\"", 6.0),
        ("echopool_hub_delivery_seconds_count", "", 0.0),
        ("echopool_buffers_held", "", 0.0),
        ("echopool_buffers", "", 200.0),
        ("echopool_connections_max", "", 50.0),
        ("echopool_buffer_size_bytes", "", 16384.0),
        ("echopool_memory_bytes", "", daemon.memory_sum() as f64),
        ("echopool_build_info", "version=\"", 1.0),
    ] {
        // The log shows the sum in units of 0.1 MiB.
        let tolerance = if name == "echopool_memory_bytes" { 60_000.0 } else { 0.0 };
        let shown = metric(&page, name, labels);
        assert!((shown - value).abs() <= tolerance, "{name}{{{labels}}} is {shown}, not {value}");
    }
    let stats = daemon.stats();
    for worker in ["worker=\"0\"", "worker=\"1\""] {
        assert!(page.contains(&format!("{accepted}{{{worker}}} ")), "each worker has its own");
    }
    for (name, in_the_log) in [
        (accepted, "accepted"),
        ("echopool_receives_total", "receives"),
        ("echopool_received_bytes_total", "bytes_received"),
    ] {
        assert_eq!(metric(&page, name, ""), stats[in_the_log] as f64, "{name}");
    }
    drop((discarded, open));
    daemon.finish();
}

#[test]
fn other_paths_and_methods_are_refused() {
    let daemon = Daemon::start(&ADMIN);
    for path in ["//", "/metrics/", "/metrics/x", "/favicon.ico", "/%00", "/../metrics"] {
        assert_eq!(get(&daemon, path).0, 404, "{path}");
    }
    assert_eq!(get(&daemon, "/metrics?x=1").0, 200);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        for path in ["/metrics", "/none"] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let reply = converse(daemon.admin(), request.as_bytes());
            assert_eq!(status(&reply), 405, "{method} {path}");
        }
    }
    for rude in ["x", "GET / HTTP/9.9\r\n\r\n", "\r\n\r\n\0\r\n", "GET /metrics\r\n\r\n"] {
        let mut client = connect(daemon.admin());
        client.write_all(rude.as_bytes()).expect("sending");
        client.shutdown(Shutdown::Write).expect("half-closing");
        let mut reply = String::new();
        let _ = client.read_to_string(&mut reply);
        assert!(reply.is_empty() || status(&reply) == 400, "{rude:?}: {reply}");
    }
    daemon.finish();
}

#[test]
fn requests_that_are_too_large_are_refused() {
    let daemon = Daemon::start(&ADMIN);
    let field = |bytes| format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    assert_eq!(status(&converse(daemon.admin(), field(20_000).as_bytes())), 431);
    let fields = "X: y\r\n".repeat(65);
    let many = format!("GET /metrics HTTP/1.1\r\n{fields}\r\n");
    assert_eq!(status(&converse(daemon.admin(), many.as_bytes())), 431);
    let body = b"GET /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n";
    let body = [&body[..], &[b'x'; 1 << 20]].concat();
    assert_eq!(status(&converse(daemon.admin(), &body)), 200, "a body is not read");
    assert_eq!(get(&daemon, "/metrics").0, 200);
    daemon.finish();
}

#[test]
fn a_slow_request_is_ended_and_echoes_and_other_requests_go_on() {
    let daemon = Daemon::start(&ADMIN);
    let mut slow = connect(daemon.admin());
    slow.write_all(b"GET /metrics HT").expect("sending");
    let mut silent = connect(daemon.admin());
    let mut client = Client::connect(daemon.address());
    for _ in 0..100 {
        client.ping(1_000);
        assert_eq!(get(&daemon, "/metrics").0, 200);
    }
    for mut ended in [slow, silent.try_clone().expect("a duplicate")] {
        let mut reply = Vec::new();
        let _ = ended.read_to_end(&mut reply);
        assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 408"), "{reply:?}");
    }
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
    client.close();
    daemon.finish();
}

#[test]
fn a_thousand_connections_are_held_in_bounds_and_echoes_and_requests_go_on() {
    const MANY: usize = 1_000;
    // The daemon takes as many clients as the limit of open files allows, beside the admin address.
    let mut daemon =
        Daemon::start_under("ulimit -n 300", &[&ADMIN[..], &["--workers", "1"]].concat());
    let limits = daemon.wait_lines(1, "limits: ").pop().expect("the limits");
    let clients = named_values(&limits)["max_connections"];
    let before = daemon.open_files();
    let mut client = Client::connect(daemon.address());
    client.ping(100);
    let mut kept = Vec::with_capacity(MANY);
    for number in 0..MANY {
        let mut one = connect(daemon.admin());
        if number % 2 == 0 {
            // It may have been closed already.
            let _ = one.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
        }
        kept.push(one);
        if number % 10 == 0 {
            client.ping(1_000);
            assert_eq!(get(&daemon, "/metrics").0, 200, "a new request is served");
        }
    }
    eventually("at most 64 are left", || daemon.open_files() <= before + 1 + 64);
    kept.iter().for_each(|one| one.set_nonblocking(true).expect("setting it"));
    let has_ended = |mut one: &TcpStream| {
        let read = one.read(&mut [0]);
        !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    // Some may still wait to be accepted.
    eventually("all but 64 have ended", || {
        kept.iter().filter(|one| has_ended(one)).count() >= MANY - 64
    });
    let more: Vec<_> = (1..clients).map(|_| Client::connect(daemon.address())).collect();
    eventually("every client has its place", || daemon.stat("accepted") == clients);
    assert_eq!(daemon.stat("accept_pauses"), 0);
    client.ping(1_000);
    drop((client, kept, more));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
}

#[test]
fn an_admin_address_that_is_in_use_or_wrong_is_refused_with_the_remedy() {
    let first = Daemon::start(&ADMIN);
    let taken = first.admin().to_string();
    let listener = first.address().to_string();
    for at in [&taken, &listener] {
        let (code, out, err) = run_to_end("true", &["--listen", "127.0.0.1:0", "--admin", at]);
        assert_eq!((code, &out[..]), (Some(1), ""), "{err}");
        assert!(err.contains(&format!("{at} (--admin)")) && err.contains("in use"), "{err}");
        assert!(err.contains("another port"), "names no remedy: {err}");
    }
    for wrong in ["", "x", "70000", "unix:/run/x", "http://127.0.0.1:9", "1.2.3.4", "::1:9"] {
        let (code, out, err) = run_to_end("true", &[&format!("--admin={wrong}")]);
        assert_eq!((code, &out[..]), (Some(2), ""), "{wrong}: {err}");
        assert!(err.contains("--admin") && err.contains("write 9000"), "{wrong}: {err}");
    }
    let (code, _, err) = run_to_end("true", &["--admin", "nobody.invalid:9"]);
    assert!(code == Some(1) && err.contains("nobody.invalid"), "{err}");
    assert_eq!(get(&first, "/metrics").0, 200);
    first.finish();
}

#[test]
fn a_port_alone_is_of_the_loopback_interface() {
    for port in ["0", ":0"] {
        let daemon = Daemon::start(&["--admin", port]);
        assert!(daemon.admin().is_ipv4() && daemon.admin().ip().is_loopback());
        assert_eq!(get(&daemon, "/metrics").0, 200);
        daemon.finish();
    }
    let daemon = Daemon::start(&["--admin", "0.0.0.0:0"]);
    assert!(daemon.admin().ip().is_unspecified());
    daemon.finish();
}

#[test]
fn a_daemon_is_ready_until_a_signal_and_its_listeners_close_after_the_drain_delay() {
    let drain = ["--drain-delay", "1s", "--drain-timeout", "600s", "--linger", "600s"];
    let mut daemon = Daemon::start(&[&ADMIN[..], &drain].concat());
    assert_eq!(get(&daemon, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(&daemon, "/readyz"), (200, "ready\n".to_owned()));
    let mut kept = Client::connect(daemon.address());
    kept.ping(100);
    daemon.signal(Signal::TERM);
    eventually("it is not ready", || get(&daemon, "/readyz").0 == 503);
    assert_eq!(get(&daemon, "/healthz").0, 200);
    eventually("the drain begins", || daemon.lines_with("] draining, ").len() == 1);
    kept.expect_fin();
    // The other worker may close its listener a little later.
    eventually("it listens no more", || daemon.listeners_on(daemon.address().port()) == 0);
    assert_eq!(get(&daemon, "/readyz").0, 503);
    drop(kept);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    let order = ["SIGTERM: no longer ready", "] draining, ", "ended, every connection finished"];
    let log = daemon.log();
    let places = order.map(|text| log.find(text).unwrap_or_else(|| panic!("no {text}: {log}")));
    assert!(places.is_sorted(), "{log}");
}

#[test]
fn a_drain_delay_goes_on_serving_and_a_second_signal_ends_it_at_once() {
    let mut daemon = Daemon::start(&[&ADMIN[..], &["--drain-delay", "1h"]].concat());
    let mut client = Client::connect(daemon.address());
    client.ping(100);
    daemon.signal(Signal::TERM);
    eventually("it is not ready", || get(&daemon, "/readyz").0 == 503);
    let mut late = Client::connect(daemon.address());
    client.ping(100);
    late.ping(100);
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    assert_eq!(daemon.lines_with("ended with connections_cut=2").len(), 1, "{}", daemon.tail());
}

#[test]
fn a_daemon_that_drains_is_not_ready_and_is_healthy() {
    let drain = ["--drain-timeout", "600s", "--linger", "600s"];
    let mut daemon = Daemon::start(&[&ADMIN[..], &drain].concat());
    let mut client = Client::connect(daemon.address());
    client.ping(100);
    daemon.signal(Signal::TERM);
    client.expect_fin();
    assert_eq!(get(&daemon, "/readyz").0, 503);
    assert_eq!(metric(&get(&daemon, "/metrics").1, "echopool_ready", ""), 0.0);
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
}

/// A connection that is kept, because the daemon has no descriptor for a further one.
#[test]
fn a_daemon_whose_accepting_is_paused_is_not_ready_until_it_accepts_again() {
    let daemon = Daemon::start(&ADMIN);
    let mut admin = connect(daemon.admin());
    let mut status = || {
        admin.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sending");
        let mut reply = String::new();
        while !reply.ends_with("\r\n\r\nready\n") && !reply.ends_with("ran out\n") {
            let mut piece = [0; 1024];
            let count = admin.read(&mut piece).expect("the reply");
            assert_ne!(count, 0, "closed after {reply:?}");
            reply.push_str(std::str::from_utf8(&piece[..count]).expect("text"));
        }
        self::status(&reply)
    };
    assert_eq!(status(), 200);
    let soft = daemon.limit_files(daemon.open_files() as u64);
    let mut client = Client::connect(daemon.address());
    eventually("accepting is paused", || status() == 503);
    assert!(daemon.stat("listeners_paused") > 0);
    daemon.limit_files(soft);
    client.ping(100);
    eventually("it accepts again", || status() == 200);
    assert_eq!(daemon.stat("listeners_paused"), 0);
    client.close();
    daemon.finish();
}

/// The committed schema for one page. An object must have no key that it does not describe.
pub fn schema(page: &str) -> jsonschema::Validator {
    fn close(schema: &mut Value) {
        match schema {
            Value::Object(object) => {
                if object.contains_key("properties") {
                    object.insert("additionalProperties".into(), false.into());
                }
                object.values_mut().for_each(close);
            }
            Value::Array(values) => values.iter_mut().for_each(close),
            _ => {}
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin.schema.json");
    let text = std::fs::read_to_string(path).expect("the schema is there");
    let mut schema: Value = serde_json::from_str(&text).expect("it is JSON");
    close(&mut schema);
    let object = schema.as_object_mut().expect("an object");
    let reference = format!("#/$defs/{page}");
    let any = object.remove("oneOf").expect("one of several").to_string();
    assert!(any.contains(&reference), "{reference} in {any}");
    object.insert("$ref".into(), reference.into());
    jsonschema::validator_for(&schema).expect("it is a schema")
}

#[test]
fn the_json_of_a_known_run_has_its_values_and_conforms_to_the_schema() {
    let flags = ["--workers", "2", "--max-connections", "50", "--idle-timeout", "1h"];
    let listen = ["--listen", "127.0.0.1:0", "--listen", "framed://127.0.0.1:0?order=big"];
    let buffers = ["--buffers", "700", "--buffer-size", "4096", "--send-timeout", "off"];
    let daemon = Daemon::start(&[&flags[..], &listen, &buffers, &ADMIN].concat());
    let page = |name: &str| -> Value {
        let (status, text) = get(&daemon, &format!("/api/v1/{name}"));
        assert_eq!(status, 200, "{text}");
        let value = serde_json::from_str(&text).expect("it is JSON");
        let schema = schema(name);
        let errors: Vec<_> = schema.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?}\n{value:#}");
        value
    };
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    (0..2).for_each(|_| Client::connect(daemon.address()).close());
    Client::connect(daemon.address()).reset();
    eventually("three are closed", || page("closes")["total"] == 3);

    let config = page("config");
    assert_eq!(config["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(config["memory"]["parts"][0]["name"], "buffers");
    assert_eq!(config["memory"]["parts"][0]["bytes"], 700 * 4096);
    let limits = json!({
        "workers": 2, "max_connections": 50, "max_connections_per_address": null,
        "buffers": 700, "buffer_size_bytes": 4096, "leases_per_connection": 4, "backlog": 4096,
        "idle_timeout_ns": 3_600_000_000_000_u64, "send_timeout_ns": null,
        "shed_after_ns": 1_000_000_000, "linger_ns": 2_000_000_000,
        "share_port": false, "busy_poll": false,
    });
    assert_eq!(config["limits"], limits);

    let [echo, framed] = daemon.targets() else { panic!("two listeners") };
    let (first, second) = (daemon.addresses()[0], daemon.addresses()[1]);
    let listeners = json!({ "listeners": [
        { "listener": 0, "endpoint": format!("tcp://{first}"), "service": "echo", "target": echo,
          "accepting": true, "connections": 1 },
        { "listener": 1, "endpoint": format!("tcp://{second}"), "service": "framed",
          "target": framed, "accepting": true, "connections": 0 },
    ]});
    assert_eq!(page("listeners"), listeners);

    let clients = page("clients");
    assert_eq!(
        (&clients["total"], &clients["clients"][0]["bytes_sent"]),
        (&json!(1), &json!(1_000))
    );
    let now = page("status");
    assert_eq!((&now["not_ready"], &now["controllable"]), (&Value::Null, &json!(false)));
    assert_eq!((&now["buffers"], &now["total"]["connections"]), (&json!(700), &json!(1)));

    let workers = page("workers");
    let total = &workers["total"];
    let expected = [("accepted", 4), ("connections", 1), ("closed", 3), ("bytes_sent", 1_000)];
    for (name, value) in expected {
        assert_eq!(total[name], value, "{name}");
        let each = workers["workers"].as_array().expect("an array").iter();
        let sum: u64 = each.map(|worker| worker["counts"][name].as_u64().expect("a count")).sum();
        assert_eq!(sum, value, "{name} of the workers");
    }
    assert_eq!(workers["workers"][1]["worker"], 1);

    let closes = page("closes");
    for reason in closes["reasons"].as_array().expect("an array") {
        let expected = match reason["reason"].as_str().expect("a reason") {
            "peer-closed" => 2,
            "reset" => 1,
            _ => 0,
        };
        assert_eq!(reason["connections"], expected, "{reason}");
    }
    for path in ["/api/v1", "/api/v1/", "/api/v1/none", "/api/v2/config"] {
        assert_eq!(get(&daemon, path).0, 404, "{path}");
    }
    let post = b"POST /api/v1/config HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&converse(daemon.admin(), post)), 405);
    client.close();
    daemon.finish();
}
