//! The pages of a server in this process, over real sockets.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::builtin::Echo;
use crate::config::Config;
use crate::service::{Answer, Connection, Service, ServiceFactory};
use crate::shared::counters::{MetricKind, ROWS, TIMES};
use crate::shared::histogram::bounds_nanos;

const GUARD: Duration = Duration::from_secs(60);
const TOKEN: &str = "a-token-of-the-tests";

/// An echo server with an admin address.
fn start() -> (ServerHandle, Admin) {
    start_with(Echo)
}

fn start_with(service: impl ServiceFactory) -> (ServerHandle, Admin) {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = AdminListener::bind(&[any_port]).unwrap().token(Token::new(TOKEN).unwrap());
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
    ask(admin, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
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
        assert_eq!(name.ends_with("_total"), row.kind == MetricKind::Counter, "{name}");
        assert_eq!(name.contains("_bytes"), row.unit == "bytes", "{name}");
        assert!(row.help().ends_with('.') && !row.help().contains(['\n', '\\']), "{name}");
    }
    for times in TIMES {
        let name = times.metric;
        assert!(name.starts_with("echopool_") && name.ends_with("_seconds"), "{name}");
        assert!(times.help().ends_with('.') && !times.help().contains(['\n', '\\']), "{name}");
    }
    let names = ROWS.iter().map(|row| row.metric).chain(TIMES.iter().map(|times| times.metric));
    assert_eq!(names.collect::<HashSet<_>>().len(), ROWS.len() + TIMES.len());
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

/// The sum over both workers of the series with this name, and with this bound if it is a bucket.
fn of_both(page: &str, name: &str, bound: Option<&str>) -> f64 {
    let le = bound.map_or(String::new(), |bound| format!(",le=\"{bound}\""));
    (0..2).map(|worker| value(page, &format!("{name}{{worker=\"{worker}\"{le}}}"))).sum()
}

/// A bound, as it is written, and a time that is longer.
const BOUND: &str = "0.016777216";
const LONGER: Duration = Duration::from_millis(20);

#[test]
fn a_histogram_has_all_bounds_in_order_and_counts_what_is_not_longer() {
    let (_server, admin) = start();
    poll(|| {
        let (_, page) = get(&admin, "/metrics");
        let names = TIMES.iter().map(|times| times.metric);
        for name in names.clone() {
            assert!(page.contains(&format!("# TYPE {name} histogram\n")), "{name}");
            for worker in 0..2 {
                let begin = format!("{name}_bucket{{worker=\"{worker}\",le=\"");
                let lines = page.lines().filter_map(|line| line.strip_prefix(&begin));
                let buckets: Vec<(f64, u64)> = lines
                    .map(|line| {
                        let (bound, count) = line.split_once("\"} ").unwrap();
                        (bound.parse().unwrap(), count.parse().unwrap())
                    })
                    .collect();
                let seconds = bounds_nanos().map(|nanos| Duration::from_nanos(nanos).as_secs_f64());
                let bounds = seconds.chain([f64::INFINITY]).collect::<Vec<_>>();
                assert_eq!(buckets.iter().map(|one| one.0).collect::<Vec<_>>(), bounds);
                assert!(buckets.is_sorted_by_key(|one| one.1), "{buckets:?}");
                let count = value(&page, &format!("{name}_count{{worker=\"{worker}\"}}"));
                assert_eq!(buckets.last().unwrap().1 as f64, count);
            }
        }
        // Workers have turned, if only to start.
        let turns = of_both(&page, "echopool_turn_seconds_count", None);
        let _ = get(&admin, "/healthz");
        (turns >= 2.0).then_some(())
    });
}

#[test]
fn turns_are_timed_to_their_ends_once_there_is_an_admin_address() {
    let lock = Arc::new(Mutex::new(()));
    let of_service = lock.clone();
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = Config::new().listen(any_port).workers(2).max_connections(10).buffers(64);
    let factory = move || Blocking(of_service.clone());
    let server = crate::Server::start(config.reserve_files(Admin::FILES), factory).unwrap();
    let mut client = connect(server.local_endpoints()[0].socket_addr().unwrap());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let counters = server.view();
    let turns = || counters.counters().iter().map(|of| of.turn_time.read().count()).sum::<u64>();
    assert_eq!(turns(), 0, "nobody wants to know");

    let admin = AdminListener::bind(&[any_port]).unwrap().serve(&server).unwrap();
    let held = lock.lock().unwrap();
    client.write_all(b"x").unwrap();
    poll(|| Some(()).filter(|()| server.stats().total().receives == 2));
    std::thread::sleep(LONGER);
    drop(held);
    client.read_exact(&mut [0]).unwrap();
    // The turn ends some time after the reply.
    let page = poll(|| {
        let (_, page) = get(&admin, "/metrics");
        let longer = of_both(&page, "echopool_turn_seconds_count", None)
            - of_both(&page, "echopool_turn_seconds_bucket", Some(BOUND));
        (longer >= 1.0).then_some(page)
    });
    assert!(of_both(&page, "echopool_turn_seconds_sum", None) >= LONGER.as_secs_f64());
}

#[test]
fn the_time_to_the_first_bytes_counts_once_for_each_client_that_sends() {
    let (server, admin) = start();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    let (mut late, _silent) = (connect(address), connect(address));
    poll(|| Some(()).filter(|()| server.clients().len() == 2));
    let name = |part: &str| format!("echopool_first_byte_seconds_{part}");
    std::thread::sleep(LONGER);
    for _ in 0..3 {
        late.write_all(b"x").unwrap();
        late.read_exact(&mut [0]).unwrap();
    }
    let (_, page) = get(&admin, "/metrics");
    assert_eq!(of_both(&page, &name("count"), None), 1.0, "one of two has sent");
    assert_eq!(of_both(&page, &name("bucket"), Some(BOUND)), 0.0, "and late");
    assert!(of_both(&page, &name("sum"), None) >= LONGER.as_secs_f64());
}

#[test]
fn a_hub_that_has_passed_on_messages_has_counted_the_time_that_it_took() {
    let (server, admin) = start_with(crate::builtin::HubOptions::default());
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    let mut clients = [connect(address), connect(address), connect(address)];
    poll(|| Some(()).filter(|()| server.clients().len() == clients.len()));
    let name = |part: &str| format!("echopool_hub_delivery_seconds_{part}");
    let (_, page) = get(&admin, "/metrics");
    assert_eq!(of_both(&page, &name("count"), None), 0.0, "a client that joins is no message");
    let message = request_to_all(b"to all of them");
    clients[0].write_all(&message).unwrap();
    let page = poll(|| {
        let (_, page) = get(&admin, "/metrics");
        (of_both(&page, &name("count"), None) >= 1.0).then_some(page)
    });
    assert!(of_both(&page, &name("sum"), None) > 0.0, "up to the end of a turn");
}

/// The frame of a client of a hub that sends a message to all.
fn request_to_all(payload: &[u8]) -> Vec<u8> {
    use crate::protocol::framing::ByteOrder;
    use crate::protocol::hub::{Request, request_head};
    let head = request_head(Request::Broadcast, payload.len(), ByteOrder::Little);
    [head.bytes(), payload].concat()
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
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (head, body) = ask(&admin, &request);
        let status = head.split(' ').nth(1).unwrap().parse::<u16>().unwrap();
        assert!(head.contains("cache-control: no-store"), "{head}");
        (status, body.is_empty(), head)
    };
    assert!(matches!(status("GET", "/metrics"), (200, false, _)));
    assert!(matches!(status("HEAD", "/metrics"), (200, true, _)));
    assert!(matches!(status("GET", "/"), (200, false, _)));
    assert!(matches!(status("GET", "/x"), (404, false, _)));
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
        "listener": 0,
        "endpoint": server.local_endpoints()[0].to_string(),
        "service": null,
        "target": null,
        "accepting": true,
        "connections": 0,
    }]});
    assert_eq!(serde_json::from_str::<serde_json::Value>(&page).unwrap(), expected);
}

/// Sends a POST with the token. Returns the status and the body.
fn post(admin: &Admin, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let (head, body) = ask(admin, &request);
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

fn json(admin: &Admin, path: &str) -> serde_json::Value {
    let (status, body) = status_of(admin, path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn the_clients_are_those_of_the_server_with_what_their_workers_know() {
    let (server, admin) = start();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    let mut clients: Vec<TcpStream> = (0..4).map(|_| connect(address)).collect();
    for (client, bytes) in clients.iter_mut().zip([10, 40, 20, 30]) {
        client.write_all(&vec![1; bytes]).unwrap();
        client.read_exact(&mut vec![0; bytes]).unwrap();
    }
    let peers = |query: &str| -> Vec<String> {
        let page = json(&admin, &format!("/api/v1/clients?{query}"));
        let clients = page["clients"].as_array().unwrap();
        clients.iter().map(|client| client["peer"].as_str().unwrap().to_owned()).collect()
    };
    let of = |order: [usize; 4]| order.map(|at| clients[at].local_addr().unwrap().to_string());
    poll(|| Some(()).filter(|()| peers("").len() == 4));
    assert_eq!(peers("sort=bytes_sent"), of([0, 2, 3, 1]));
    assert_eq!(peers("sort=bytes_received&order=desc"), of([1, 3, 2, 0]));
    assert_eq!(peers("sort=age_ns&order=desc").len(), 4);
    assert_eq!(peers("sort=bytes_sent&offset=1&limit=2"), of([0, 2, 3, 1])[1..3]);
    assert_eq!(peers("offset=4"), [""; 0]);
    let one = &of([2, 2, 2, 2])[0];
    assert_eq!(peers(&format!("filter={one}")), std::slice::from_ref(one));
    assert_eq!(peers("filter=nobody"), [""; 0]);
    let page = json(&admin, &format!("/api/v1/clients?filter={one}"));
    assert_eq!((&page["total"], &page["matched"]), (&4.into(), &1.into()));
    let client = &page["clients"][0];
    let known = server.clients();
    let known = known.iter().find(|known| known.peer.to_string() == *one).unwrap();
    assert_eq!(client["id"], known.id.to_string());
    assert_eq!((&client["bytes_received"], &client["bytes_sent"]), (&20.into(), &20.into()));
    assert_eq!((&client["output_bytes"], &client["state"]), (&0.into(), &"open".into()));
    assert_eq!(client["endpoint"], format!("tcp://{address}"));
    for wrong in ["limit=10001", "limit=x", "sort=colour", "order=up", "x=1"] {
        assert_eq!(status_of(&admin, &format!("/api/v1/clients?{wrong}")).0, 400, "{wrong}");
    }
    let long = "x".repeat(257);
    assert_eq!(status_of(&admin, &format!("/api/v1/clients?filter={long}")).0, 400);
}

#[test]
fn a_client_that_does_not_read_has_output_that_waits() {
    let (server, admin) = start();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    let client = connect(address);
    let mut sending = client.try_clone().unwrap();
    sending.set_nonblocking(true).unwrap();
    let waiting = poll(|| {
        while sending.write(&[7; 16384]).is_ok() {}
        let page = json(&admin, "/api/v1/clients");
        let client = page["clients"].get(0)?;
        (client["state"] == "sending").then(|| client["output_bytes"].as_u64().unwrap())
    });
    assert!(waiting > 0, "{waiting}");
    drop((server, client));
}

#[test]
fn a_client_is_disconnected_and_messages_reach_one_or_all_of_a_listener() {
    let (server, admin) = start();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    let mut clients: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    poll(|| Some(()).filter(|()| server.clients().len() == 3));
    let id_of = |client: &TcpStream| {
        let at = client.local_addr().unwrap();
        let known = server.clients();
        known.iter().find(|known| known.peer.socket_addr() == Some(at)).unwrap().id
    };
    let id = id_of(&clients[1]);
    let sent = post(&admin, &format!("/api/v1/message?to={id}"), "for one");
    assert_eq!(sent, (200, r#"{"queued":1,"refused":0}"#.to_owned()));
    let sent = post(&admin, "/api/v1/message?listener=0", "to all");
    assert_eq!(sent, (200, r#"{"queued":3,"refused":0}"#.to_owned()));
    for (at, expected) in [(0, "to all"), (1, "for oneto all"), (2, "to all")] {
        let mut text = vec![0; expected.len()];
        clients[at].read_exact(&mut text).unwrap();
        assert_eq!(text, expected.as_bytes());
    }
    for wrong in ["", "?to=1&listener=0", "?to=x", "?listener=-1", "?to=1&x=1"] {
        assert_eq!(post(&admin, &format!("/api/v1/message{wrong}"), "x").0, 400, "{wrong}");
    }
    assert_eq!(post(&admin, "/api/v1/message?listener=1", "x").0, 404);
    assert_eq!(post(&admin, "/api/v1/message?to=12345", "x").0, 404);
    assert_eq!(post(&admin, "/api/v1/message?listener=0", &"x".repeat(16385)).0, 413);

    let gone = post(&admin, &format!("/api/v1/clients/{id}/disconnect"), "");
    assert_eq!(gone, (200, format!(r#"{{"disconnected":"{id}"}}"#)));
    assert_eq!(clients[1].read(&mut [0]).unwrap(), 0);
    drop(clients.remove(1));
    let closed = || server.stats().total().closed(crate::CloseReason::Disconnected);
    poll(|| Some(()).filter(|()| closed() == 1));
    assert_eq!(post(&admin, &format!("/api/v1/clients/{id}/disconnect"), "").0, 404);
    assert_eq!(post(&admin, "/api/v1/clients/x/disconnect", "").0, 400);
}

#[test]
fn a_listener_is_stopped_and_started_and_a_stopped_one_makes_the_server_not_ready() {
    let (server, admin) = start();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    let mut before = connect(address);
    before.write_all(b"x").unwrap();
    before.read_exact(&mut [0]).unwrap();
    let stopped = post(&admin, "/api/v1/listeners/0/stop", "");
    assert_eq!(stopped, (200, r#"{"listener":0,"accepting":false}"#.to_owned()));
    let not_ready = "not ready: accepting is stopped at a listener\n".to_owned();
    assert_eq!(status_of(&admin, "/readyz"), (503, not_ready));
    assert_eq!(json(&admin, "/api/v1/listeners")["listeners"][0]["accepting"], false);
    let mut late: Vec<_> = (0..5).map(|_| connect(address)).collect();
    before.write_all(b"y").unwrap();
    before.read_exact(&mut [0]).unwrap();
    assert_eq!(server.stats().total().accepted, 1);
    assert_eq!(post(&admin, "/api/v1/listeners/0/stop", "").0, 200, "a second time");
    assert_eq!(post(&admin, "/api/v1/listeners/0/start", "").0, 200);
    for client in &mut late {
        client.write_all(b"z").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(status_of(&admin, "/readyz").0, 200);
    let page = json(&admin, "/api/v1/listeners");
    assert_eq!(page["listeners"][0]["connections"], 6);
    for wrong in ["1/stop", "1/start"] {
        assert_eq!(post(&admin, &format!("/api/v1/listeners/{wrong}"), "").0, 404, "{wrong}");
    }
    assert_eq!(post(&admin, "/api/v1/listeners/x/stop", "").0, 400);
}

/// Counts what it is asked for.
#[derive(Default)]
struct Asked(Mutex<(u32, u32)>);

impl Operations for Asked {
    fn drain(&self) {
        self.0.lock().unwrap().0 += 1;
    }

    fn reload(&self) -> Result<String, String> {
        let mut asked = self.0.lock().unwrap();
        asked.1 += 1;
        if asked.1 == 1 { Ok("this has changed".into()) } else { Err("this is wrong".into()) }
    }
}

#[test]
fn the_program_is_asked_for_a_drain_and_a_reload_once_it_has_said_how() {
    let (_server, admin) = start();
    assert_eq!(post(&admin, "/api/v1/drain", "").0, 501);
    assert_eq!(post(&admin, "/api/v1/reload", "").0, 501);
    let asked = Arc::<Asked>::default();
    admin.set_operations(Some(asked.clone()));
    assert_eq!(post(&admin, "/api/v1/drain", ""), (202, r#"{"draining":true}"#.to_owned()));
    let reloaded = r#"{"applied":true,"text":"this has changed"}"#.to_owned();
    assert_eq!(post(&admin, "/api/v1/reload", ""), (200, reloaded));
    let refused = r#"{"applied":false,"text":"this is wrong"}"#.to_owned();
    assert_eq!(post(&admin, "/api/v1/reload", ""), (422, refused));
    assert_eq!(*asked.0.lock().unwrap(), (1, 2));
}

#[test]
fn what_changes_something_needs_post_the_token_and_the_same_origin() {
    let (server, admin) = start();
    let at = admin.addresses()[0];
    let mut client = connect(server.local_endpoints()[0].socket_addr().unwrap());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let paths = [
        format!("/api/v1/clients/{}/disconnect", server.clients()[0].id),
        "/api/v1/listeners/0/stop".to_owned(),
        "/api/v1/listeners/0/start".to_owned(),
        "/api/v1/message?listener=0".to_owned(),
        "/api/v1/drain".to_owned(),
        "/api/v1/reload".to_owned(),
    ];
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let with = |fields: &str| format!("{right}{fields}\r\n");
    let refusals = [
        ("POST", "localhost", String::new(), 401),
        ("POST", "localhost", format!("Authorization: Basic {TOKEN}\r\n"), 401),
        ("POST", "localhost", format!("Authorization: Bearer {TOKEN}x\r\n"), 403),
        ("POST", "localhost", "Authorization: Bearer x\r\n".to_owned(), 403),
        ("POST", "evil.example", right.clone(), 421),
        ("POST", "localhost", with("Origin: http://evil.example"), 403),
        ("POST", "localhost", with("Origin: null"), 403),
        ("POST", "localhost", with("Sec-Fetch-Site: cross-site"), 403),
        ("POST", "localhost", with("Sec-Fetch-Site: same-site"), 403),
        ("GET", "localhost", right.clone(), 405),
        ("PUT", "localhost", right.clone(), 405),
        ("OPTIONS", "localhost", with("Origin: http://evil.example"), 405),
    ];
    for path in &paths {
        for (method, host, fields, expected) in &refusals {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n"
            );
            let (head, _) = ask(&admin, &request);
            assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{request}: {head}");
            assert!(!head.contains("access-control"), "{head}");
            assert_eq!(head.contains("www-authenticate: Bearer"), *expected == 401, "{head}");
        }
    }
    for host in
        ["evil.example", "evil.example:80", "localhost.evil.example", "", "x\r\nHost: localhost"]
    {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert!(ask(&admin, &request).0.starts_with("HTTP/1.1 421 "), "{host:?}");
    }
    let absolute =
        "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(ask(&admin, absolute).0.starts_with("HTTP/1.1 421 "));
    // Nothing has changed.
    assert!(json(&admin, "/api/v1/listeners")["listeners"][0]["accepting"] == true);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let same = format!("Origin: http://{at}\r\nSec-Fetch-Site: same-origin");
    let request = format!(
        "POST /api/v1/listeners/0/start HTTP/1.1\r\nHost: {at}\r\n{}Connection: close\r\n\r\n",
        with(&same)
    );
    assert!(ask(&admin, &request).0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn without_a_token_everything_is_read_only() {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = AdminListener::bind(&[any_port]).unwrap().allow_host("metrics.example");
    let config = Config::new().listen(any_port).workers(1).max_connections(10);
    let server = crate::Server::start(config, Echo).unwrap();
    let admin = listener.serve(&server).unwrap();
    assert_eq!(post(&admin, "/api/v1/listeners/0/stop", "").0, 403);
    assert_eq!(json(&admin, "/api/v1/status")["controllable"], false);
    let request = "GET /readyz HTTP/1.1\r\nHost: Metrics.Example:80\r\nConnection: close\r\n\r\n";
    assert!(ask(&admin, request).0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn events_are_the_status_once_per_second() {
    let (server, admin) = start();
    let mut events = connect(admin.addresses()[0]);
    events.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    let mut client = None;
    while text.matches("\"accepted\":1").count() < 2 {
        let mut piece = [0; 4096];
        let count = events.read(&mut piece).unwrap();
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        if client.is_none() && text.contains("\"accepted\":0") {
            client = Some(connect(server.local_endpoints()[0].socket_addr().unwrap()));
        }
    }
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    assert!(text.contains("retry:"), "{text}");
}

/// A worker that is blocked holds up the pages that need it, and no other.
#[test]
fn a_blocked_worker_delays_its_clients_page_and_nothing_else() {
    let lock = Arc::new(Mutex::new(()));
    let of_service = lock.clone();
    let (server, admin) = start_with(move || Blocking(of_service.clone()));
    let held = lock.lock().unwrap();
    let mut client = connect(server.local_endpoints()[0].socket_addr().unwrap());
    client.write_all(b"x").unwrap();
    poll(|| Some(()).filter(|()| server.stats().total().receives == 1));
    std::thread::scope(|scope| {
        let page = scope.spawn(|| json(&admin, "/api/v1/clients"));
        assert_eq!(status_of(&admin, "/metrics").0, 200);
        assert_eq!(status_of(&admin, "/api/v1/status").0, 200);
        let page = page.join().unwrap();
        assert_eq!(page["matched"], 1);
        assert_eq!(page["clients"][0]["state"], serde_json::Value::Null, "it did not say in time");
    });
    drop(held);
    client.read_exact(&mut [0]).unwrap();
    poll(|| {
        let page = json(&admin, "/api/v1/clients");
        (page["clients"][0]["bytes_sent"] == 1).then_some(())
    });
}
