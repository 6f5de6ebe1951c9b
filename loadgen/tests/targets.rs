//! Several targets in one run: connections are spread over them, and the report says of each what
//! became of its own. No times are asserted.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::forms::{TestFile, assert_valid, count, schema};
use common::loadgen;
use common::server::{EchoServer, Fault};
use hdrhistogram::Histogram;
use loadgen::report::hdr;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// A port that nobody listens on, and that nobody else gets as long as this is there.
struct Refusing {
    _socket: Socket,
    address: SocketAddr,
}

impl Refusing {
    fn new() -> Refusing {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("a free port");
        let address = socket.local_addr().expect("it is bound").as_socket().expect("TCP");
        Refusing { _socket: socket, address }
    }
}

/// The counts of a target in the order in which the report has them.
fn counts(json: &Value) -> Vec<[u64; 6]> {
    let keys = [
        "connections_asked",
        "connections_established",
        "connections_served",
        "connections_lost",
        "mismatched_connections",
        "requests_completed",
    ];
    let targets = json["per_target"].as_array().expect("a list");
    targets.iter().map(|target| keys.map(|key| count(&target[key]))).collect()
}

fn latency(distribution: &Value) -> Histogram<u64> {
    hdr::decode(distribution["histogram_v2_deflate_base64"].as_str().expect("text")).expect("one")
}

/// A run whose counts and latencies of all targets add up to those of the whole.
#[track_caller]
fn run(flags: &str, code: i32) -> Value {
    let json = loadgen(&format!("{flags} --output-format json")).expect(code).json();
    assert_valid(&schema("summary"), &json);
    let sum = |nth: usize| counts(&json).iter().map(|target| target[nth]).sum::<u64>();
    let connections = &json["connections"];
    assert_eq!(sum(0), count(&connections["asked"]));
    assert_eq!(sum(1), count(&connections["established"]));
    assert_eq!(sum(2), count(&connections["served"]));
    assert_eq!(sum(3), count(&connections["lost"]));
    assert_eq!(sum(4), count(&json["mismatched_connections"]));
    assert_eq!(sum(5), count(&json["requests_completed"]));
    let targets = json["per_target"].as_array().expect("a list");
    if let [first, others @ ..] = targets.as_slice()
        && !others.is_empty()
    {
        let mut all = latency(&first["latency"]);
        others.iter().for_each(|other| all.add(latency(&other["latency"])).expect("bounds"));
        assert!(all == latency(&json["latency"]), "the latencies of all targets are the whole");
    } else {
        assert_eq!(targets[0]["latency"], Value::Null);
    }
    json
}

#[test]
fn a_target_that_refuses_is_told_from_one_that_serves() {
    let (server, refusing) = (EchoServer::start(Fault::None), Refusing::new());
    let targets = format!("{} {} -c 7", server.address, refusing.address);
    // Each connection has a reply, however short the period is.
    let json = run(&format!("{targets} -t 2 -d 300ms"), 4);
    assert_eq!(counts(&json), [[4, 4, 4, 0, 0, server.bytes() / 64], [3, 0, 0, 0, 0, 0]]);
    assert_eq!(json["errors"], json!({ "connect-refused": 3 }));
    assert_eq!(json["verdict"], "under-connected");
    let names = ["per_target", "targets"].map(|key| json[key].as_array().expect("a list").clone());
    let named: Vec<_> = names[0].iter().map(|target| target["target"].clone()).collect();
    assert_eq!(named, names[1], "in the same order");

    let text = loadgen(&format!("{targets} -t 1 -n 500 --details")).expect(4);
    text.says(&format!(
        "Connections: 7 asked, 4 established, 4 served, 0 lost\n  \
         tcp://{}: 3 asked, 0 established, 0 served, 0 lost, 0 differed, 0 requests completed\n",
        refusing.address
    ));
    text.says(&format!(
        "\nConnections\n    tcp://{}: 4 asked, 4 established, 4 served, 0 lost, 0 differed, \
         500 requests completed, ",
        server.address
    ));
    let alone = loadgen(&format!("{} -c 2 -n 10 --details", server.address)).expect(0);
    assert!(!alone.stdout.contains("requests completed"), "{}", alone.stdout);
}

#[test]
fn a_target_that_loses_or_corrupts_is_the_one_that_is_said_to() {
    for (fault, code, lost, differed) in [
        (Fault::Reset { connection: 1, offset: 10 }, 4, 1, 0),
        (Fault::Close { connection: 1, offset: 10 }, 4, 1, 0),
        (Fault::Corrupt { connection: 1, offset: 10 }, 3, 0, 1),
    ] {
        let (good, bad) = (EchoServer::start(Fault::None), EchoServer::start(fault));
        let flags = format!("{} {} -c 6 -t 1 -n 300", good.address, bad.address);
        let [first, second] = counts(&run(&flags, code))[..] else { panic!("two targets") };
        assert_eq!(bad.fired(), 1, "{fault:?}");
        assert_eq!(first[..5], [3, 3, 3, 0, 0], "{fault:?}");
        // It had no reply before that.
        assert_eq!(second[..5], [3, 3, 2, lost, differed], "{fault:?}");
        assert_eq!(good.bytes(), 64 * first[5], "{fault:?}");
    }
}

#[test]
fn requests_count_for_the_target_that_completed_them() {
    let wait = Duration::from_millis(20);
    let (fast, slow) = (EchoServer::start(Fault::None), EchoServer::start(Fault::Slow { wait }));
    let flags = format!("{} {} -c 2 -t 1 -n 300", fast.address, slow.address);
    let json = run(&flags, 0);
    let [first, second] = counts(&json)[..] else { panic!("two targets") };
    assert!(slow.fired() > 0);
    assert_eq!((first[5], second[5]), (fast.bytes() / 64, slow.fired()));
    let latency = |nth: usize| &json["per_target"][nth]["latency"];
    assert_eq!([0, 1].map(|nth| count(&latency(nth)["count"])), [first[5], second[5]]);
    assert!(count(&latency(1)["min_ns"]) >= wait.as_nanos() as u64, "{json}");
    assert!(count(&latency(0)["min_ns"]) < wait.as_nanos() as u64, "{json}");
    let text = loadgen(&format!("{flags} --details")).expect(0).stdout;
    let lines = text.lines().filter(|line| line.contains(" completed, latency p50 "));
    assert_eq!(lines.count(), 2, "{text}");
}

#[test]
fn connections_that_follow_on_others_count_for_their_target() {
    let servers = [EchoServer::start(Fault::None), EchoServer::start(Fault::None)];
    let [first, second] = servers.each_ref().map(|server| server.address);
    let json = run(&format!("{first} {second} -c 5 -t 1 -n 1k --lifetime 10"), 0);
    assert!(count(&json["reconnects"]) > 50);
    for (target, (server, connections)) in counts(&json).iter().zip(servers.iter().zip([3, 2])) {
        let requests = server.bytes() / 64;
        assert_eq!(*target, [connections, connections, connections, 0, 0, requests]);
    }
}

/// A hub is one target. Those that never read are established, and served nothing.
#[test]
fn a_hubs_messages_are_completed_by_their_senders() {
    let json = run("hub:// -c 5 -t 1 --senders 2 --never-read 1 -n 60", 0);
    assert_eq!(counts(&json), [[5, 5, 4, 0, 0, 60]]);
    assert_eq!(json["hub"]["deliveries"], 4 * 60);
}

#[test]
fn targets_are_merged_and_compared() {
    let servers = [EchoServer::start(Fault::None), EchoServer::start(Fault::None)];
    let [first, second] = servers.each_ref().map(|server| server.address);
    let files = ["a", "b"].map(|name| TestFile::new(&format!("targets-{name}.json")));
    for file in &files {
        let flags = format!("{first} {second} -c 4 -t 1 -n 400 --output-format json -o {file}");
        loadgen(&flags).expect(0);
    }
    let merged = loadgen(&format!("merge {} {}", files[0], files[1])).expect(0).json();
    assert_valid(&schema("merged"), &merged);
    let bytes = servers.each_ref().map(|server| server.bytes() / 64);
    assert_eq!(counts(&merged), bytes.map(|requests| [4, 4, 4, 0, 0, requests]));
    let compared = loadgen(&format!("compare {} {}", files[0], files[0])).expect(0);
    compared.says("\nTarget 1 ").says("\nTarget 2 ");

    // What an earlier version wrote says nothing of targets.
    let mut old: Value = serde_json::from_str(&files[1].read()).expect("JSON");
    old.as_object_mut().expect("an object").remove("per_target");
    std::fs::write(&files[1].0, old.to_string()).expect("it can be written");
    let merged = loadgen(&format!("merge {} {}", files[0], files[1])).expect(0).json();
    assert_valid(&schema("merged"), &merged);
    assert_eq!(merged["per_target"], Value::Null);
    let compared = loadgen(&format!("compare {} {}", files[0], files[1])).expect(0);
    assert!(!compared.stdout.contains("Target 1"), "{}", compared.stdout);
}
