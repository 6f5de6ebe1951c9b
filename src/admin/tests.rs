//! The pages of a server in this process, over real sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::builtin::Echo;
use crate::config::Config;
use crate::service::{Answer, Connection, Service, ServiceFactory};
use crate::shared::counters::{Kind, ROWS};

const GUARD: Duration = Duration::from_secs(60);

/// An echo server with an admin address.
fn start() -> (ServerHandle, Admin) {
    start_with(Echo)
}

fn start_with(service: impl ServiceFactory) -> (ServerHandle, Admin) {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = AdminListener::bind(&[any_port]).unwrap();
    let config = Config::new().listen(any_port).workers(2).max_connections(10).buffers(64);
    let server = crate::Server::start(config.reserve_files(Admin::FILES), service).unwrap();
    let admin = listener.serve(&server).unwrap();
    (server, admin)
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    client
}

/// Calls `again` until it returns a value.
fn poll<T>(mut again: impl FnMut() -> Option<T>) -> T {
    let begin = std::time::Instant::now();
    loop {
        if let Some(value) = again() {
            return value;
        }
        assert!(begin.elapsed() < GUARD);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a request and returns the head and the body of the reply.
fn ask(admin: &Admin, request: &str) -> (String, String) {
    let mut client = connect(admin.addresses()[0]);
    client.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

fn get(admin: &Admin, path: &str) -> (String, String) {
    ask(admin, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

/// The value of the series with this name and these labels, as they are written.
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {page}")).parse().unwrap()
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    for row in ROWS {
        let name = row.metric;
        assert!(name.starts_with("echopool_"), "{name}");
        assert_eq!(name.ends_with("_total"), row.kind == Kind::Counter, "{name}");
        assert_eq!(name.contains("_bytes"), row.unit == "bytes", "{name}");
        assert!(row.help().ends_with('.') && !row.help().contains(['\n', '\\']), "{name}");
    }
    let names: std::collections::HashSet<_> = ROWS.iter().map(|row| row.metric).collect();
    assert_eq!(names.len(), ROWS.len());
}

#[test]
fn the_documented_metrics_are_those_of_the_table() {
    let documented = include_str!("../../docs/operations.md");
    let table = metrics::documentation();
    assert!(documented.contains(&table), "docs/operations.md needs this table:\n{table}");
}

#[test]
fn the_metrics_show_the_counters_of_each_worker_and_the_limits() {
    let (server, admin) = start();
    let mut client = connect(server.local_endpoints()[0].socket_addr().unwrap());
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    poll(|| Some(()).filter(|()| server.stats().total().closed_total() == 1));
    let (head, page) = get(&admin, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    for row in ROWS {
        let kind = row.kind.word();
        let head = format!("# HELP {0} {1}\n# TYPE {0} {kind}\n", row.metric, {
            row.help().replace('`', "")
        });
        assert!(page.contains(&head), "{head} in {page}");
        if !row.by_reason {
            for (worker, counts) in server.stats().workers().iter().enumerate() {
                let series = format!("{}{{worker=\"{worker}\"}}", row.metric);
                assert_eq!(value(&page, &series), (row.value)(counts) as f64, "{series}");
            }
        }
    }
    let total = |name| (0..2).map(|n| value(&page, &format!("{name}{{worker=\"{n}\"}}"))).sum();
    let sums: [f64; 3] = [
        total("echopool_connections_accepted_total"),
        total("echopool_received_bytes_total"),
        total("echopool_sent_bytes_total"),
    ];
    assert_eq!(sums, [1.0, 5.0, 5.0]);
    let closed = "echopool_connections_closed_total";
    assert_eq!(value(&page, &format!("{closed}{{reason=\"peer-closed\"}}")), 1.0);
    assert_eq!(value(&page, &format!("{closed}{{reason=\"reset\"}}")), 0.0);
    assert_eq!(value(&page, "echopool_buffers"), 64.0);
    assert_eq!(value(&page, "echopool_connections_max"), 10.0);
    assert_eq!(value(&page, "echopool_buffer_size_bytes"), 16384.0);
    assert_eq!(value(&page, "echopool_memory_bytes{part=\"buffers\"}"), 64.0 * 16384.0);
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
        - value(&page, "echopool_start_time_seconds");
    assert!((0.0..600.0).contains(&age), "{age}");
    assert!(page.contains(&format!(
        "\nechopool_build_info{{version=\"{}\"}} 1\n",
        env!("CARGO_PKG_VERSION")
    )));
}

#[test]
fn a_dropped_admin_address_is_closed() {
    let (server, admin) = start();
    let address = admin.addresses()[0];
    let mut kept = connect(address);
    drop(admin);
    assert_eq!(kept.read(&mut [0]).unwrap_or(0), 0, "also an idle connection");
    assert!(TcpStream::connect(address).is_err());
    drop(server);
}

#[test]
fn only_get_and_head_of_a_page_are_accepted() {
    let (_server, admin) = start();
    let status = |method: &str, path: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let (head, body) = ask(&admin, &request);
        let status = head.split(' ').nth(1).unwrap().parse::<u16>().unwrap();
        assert!(head.contains("cache-control: no-store"), "{head}");
        (status, body.is_empty(), head)
    };
    assert!(matches!(status("GET", "/metrics"), (200, false, _)));
    assert!(matches!(status("HEAD", "/metrics"), (200, true, _)));
    assert!(matches!(status("GET", "/"), (404, false, _)));
    assert!(matches!(status("HEAD", "/metrics/"), (404, true, _)));
    for (method, path) in [("POST", "/metrics"), ("DELETE", "/metrics"), ("PUT", "/nothing")] {
        let (status, _, head) = status(method, path);
        assert_eq!(status, 405, "{method} {path}");
        assert!(head.contains("\r\nallow: GET,HEAD"), "{head}");
    }
}

/// Echo that blocks its worker while a lock is held.
struct Blocking(Arc<Mutex<()>>);

impl Service for Blocking {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        drop(self.0.lock().unwrap());
        Echo.data(connection, session)
    }
}

fn status_of(admin: &Admin, path: &str) -> (u16, String) {
    let (head, body) = get(admin, path);
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

#[test]
fn a_worker_whose_loop_does_not_turn_is_named_and_is_healthy_again_when_it_does() {
    let lock = Arc::new(Mutex::new(()));
    let of_service = lock.clone();
    let (server, admin) = start_with(move || Blocking(of_service.clone()));
    assert_eq!(status_of(&admin, "/healthz"), (200, "ok\n".to_owned()));
    let held = lock.lock().unwrap();
    let mut client = connect(server.local_endpoints()[0].socket_addr().unwrap());
    client.write_all(b"x").unwrap();
    // The kernel chooses the worker.
    let worker = poll(|| server.stats().workers().iter().position(|counts| counts.receives == 1));
    let expected = format!("worker {worker} has not turned for 2s\n");
    // A result is used again for a moment.
    let reply = poll(|| Some(status_of(&admin, "/healthz")).filter(|reply| reply.0 != 200));
    assert_eq!(reply, (503, expected));
    // The other pages do not wait for the workers.
    assert_eq!(status_of(&admin, "/metrics").0, 200);
    assert_eq!(status_of(&admin, "/readyz"), (200, "ready\n".to_owned()));
    drop(held);
    client.read_exact(&mut [0]).unwrap();
    poll(|| Some(()).filter(|()| status_of(&admin, "/healthz").0 == 200));
}

#[test]
fn a_server_that_is_about_to_drain_or_drains_is_healthy_and_not_ready() {
    let (server, admin) = start();
    // It holds up the drain.
    let mut client = connect(server.local_endpoints()[0].socket_addr().unwrap());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    assert_eq!(status_of(&admin, "/readyz").0, 200);
    assert!(get(&admin, "/metrics").1.contains("\nechopool_ready 1\n"));
    admin.withdraw();
    assert_eq!(status_of(&admin, "/readyz"), (503, "not ready: it is about to drain\n".into()));
    assert!(get(&admin, "/metrics").1.contains("\nechopool_ready 0\n"));
    drop(client);

    let (server, admin) = start();
    let mut client = connect(server.local_endpoints()[0].socket_addr().unwrap());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    server.begin_drain(GUARD);
    assert_eq!(status_of(&admin, "/readyz"), (503, "not ready: it drains or stops\n".into()));
    assert_eq!(status_of(&admin, "/healthz").0, 200);
    drop(client);
    assert_eq!(server.wait(), crate::Drained::Clean);
    assert_eq!(status_of(&admin, "/healthz").0, 200, "workers that have ended do not stall");
    assert_eq!(status_of(&admin, "/readyz").0, 503);
}

/// `UPDATE=1 cargo test --lib admin` rewrites the file.
#[test]
fn the_committed_schema_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin.schema.json");
    let generated = serde_json::to_string_pretty(&api::schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(path).expect("the schema is there");
    assert!(
        committed == generated,
        "docs/admin.schema.json is out of date; this rewrites it: UPDATE=1 cargo test --lib admin"
    );
}

#[test]
fn the_listeners_of_a_program_without_built_in_services_are_endpoints_alone() {
    let (server, admin) = start();
    let (head, page) = get(&admin, "/api/v1/listeners");
    assert!(head.contains("content-type: application/json"), "{head}");
    let expected = serde_json::json!({ "listeners": [{
        "endpoint": server.local_endpoints()[0].to_string(),
        "service": null,
        "target": null,
    }]});
    assert_eq!(serde_json::from_str::<serde_json::Value>(&page).unwrap(), expected);
}
