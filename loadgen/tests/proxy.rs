//! Runs whose connections begin with a header of the PROXY protocol, against a server that requires
//! it: whom the server takes the clients for.

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::loadgen;
use echopool::service::{Answer, Connection, Service};
use echopool::{CloseReason, Config, Server, ServerHandle};
use serde_json::Value;

/// Echoes, and records the peers of its connections.
#[derive(Clone, Default)]
struct Recording(Arc<Mutex<BTreeSet<SocketAddr>>>);

impl Service for Recording {
    type Session = ();

    fn open(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
        let peer = connection.peer().socket_addr().expect("the client of the header");
        self.0.lock().expect("no panic").insert(peer);
        Answer::Continue
    }

    fn data(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
        connection.output.append(connection.input);
        Answer::Continue
    }
}

impl Recording {
    fn peers(&self) -> BTreeSet<SocketAddr> {
        self.0.lock().expect("no panic").clone()
    }
}

/// A server of this listener. Returns its URL too.
fn serve(config: Config, listen: &str) -> (ServerHandle, Recording, String) {
    let recording = Recording::default();
    let service = recording.clone();
    let config = config.listen(listen).workers(2).max_connections(2_000);
    let server = Server::start(config, move || service.clone()).expect("a server");
    let url = server.local_endpoints()[0].to_string();
    (server, recording, url)
}

fn addresses(all: impl IntoIterator<Item = String>) -> BTreeSet<SocketAddr> {
    all.into_iter().map(|text| text.parse().expect("an address")).collect()
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

#[test]
fn the_server_sees_a_client_of_its_own_for_each_connection() {
    for version in ["v1", "v2"] {
        let (server, recording, url) = serve(Config::new(), "127.0.0.1:0?proxy=require");
        let json = run(&format!("{url} -c 600 -d 500ms -t 2 --proxy-protocol {version}"));
        assert_eq!(json["config"]["proxy_protocol"], version);
        assert_eq!(json["config"]["proxy_source"], Value::Null);
        let expected = (1..=600).map(|nth| format!("198.18.{}.{}:1024", nth / 256, nth % 256));
        assert_eq!(recording.peers(), addresses(expected), "{version}");
        // The service gets what the report counts, and nothing of the headers.
        server.drain(Duration::from_secs(10));
        let total = server.stats().total();
        let sent = json["requests_completed"].as_u64().expect("a count") * 64;
        assert!(total.bytes_received >= sent, "{total:?}");
        assert_eq!(total.bytes_received % 64, 0, "{total:?}");
        assert!(total.wire_bytes_received >= total.bytes_received + 600 * 28, "{total:?}");
    }
}

#[test]
fn the_clients_have_the_addresses_that_were_given() {
    let (_server, recording, url) = serve(Config::new(), "127.0.0.1:0?proxy=require");
    let json =
        run(&format!("{url} -c 6 -n 60 -t 1 --proxy-protocol v2 --proxy-source 10.1.2.0/30"));
    assert_eq!(json["config"]["proxy_source"], "10.1.2.1-10.1.2.2");
    let expected =
        [1024, 1025, 1026].map(|port| [1, 2].map(|host| format!("10.1.2.{host}:{port}")));
    assert_eq!(recording.peers(), addresses(expected.into_iter().flatten()));
}

#[test]
fn rude_clients_are_numbered_after_the_measured_ones() {
    let (_server, recording, url) = serve(Config::new(), "127.0.0.1:0?proxy=require");
    run(&format!("{url} -c 2 -d 500ms --with idle:2 --proxy-protocol v2"));
    let expected = (1..=4).map(|nth| format!("198.18.0.{nth}:1024"));
    assert_eq!(recording.peers(), addresses(expected));
}

#[test]
fn an_ipv6_target_has_ipv6_clients_and_a_unix_socket_ipv4_ones() {
    let (_server, recording, url) = serve(Config::new(), "[::1]:0?proxy=require");
    run(&format!("{url} -c 3 -t 1 -n 30 --proxy-protocol v1"));
    let expected = (1..=3).map(|nth| format!("[2001:db8::{nth}]:1024"));
    assert_eq!(recording.peers(), addresses(expected));
    let name = format!("unix://@loadgen-proxy-{}", std::process::id());
    let (_server, recording, url) = serve(Config::new(), &format!("{name}?proxy=require"));
    run(&format!("{url} -c 3 -t 1 -n 30 --proxy-protocol v2"));
    let expected = (1..=3).map(|nth| format!("198.18.0.{nth}:1024"));
    assert_eq!(recording.peers(), addresses(expected));
}

#[test]
fn a_connection_that_is_begun_anew_keeps_its_client() {
    let (server, recording, url) = serve(Config::new(), "127.0.0.1:0?proxy=require");
    let json = run(&format!("{url} -c 4 -t 1 -n 400 --lifetime 10 --proxy-protocol v2 -p 4"));
    assert!(json["reconnects"].as_u64() > Some(10), "{json}");
    assert!(server.stats().total().accepted > 10);
    let expected = (1..=4).map(|nth| format!("198.18.0.{nth}:1024"));
    assert_eq!(recording.peers(), addresses(expected));
}

#[test]
fn the_limit_of_an_address_counts_the_clients_that_are_pretended() {
    let limited = || Config::new().max_connections_per_address(Some(1));
    let (_server, _, url) = serve(limited(), "127.0.0.1:0?proxy=require");
    run(&format!("{url} -c 50 -t 1 -n 500 --proxy-protocol v2"));
    let (server, recording, url) = serve(limited(), "127.0.0.1:0?proxy=require");
    let flags = "-c 5 -d 500ms --proxy-protocol v2 --proxy-source 10.1.2.3 --output-format json";
    let json = loadgen(&format!("{url} {flags}")).expect(4).json();
    assert_eq!(json["connections"]["served"], 1, "{json}");
    assert_eq!(recording.peers().len(), 1);
    assert_eq!(server.stats().total().closed(CloseReason::AddressLimit), 4);
}

#[test]
fn the_own_server_requires_headers_and_rude_clients_and_hubs_send_them() {
    let json = run("-c 20 -t 1 -n 200 --proxy-protocol v1 --with idle:5,half-close:2");
    assert_eq!(json["config"]["own_server"], true);
    assert_eq!(json["config"]["proxy_protocol"], "v1");
    run("framed:// -c 20 -t 1 -n 200 -l 5000 --proxy-protocol v2");
    run("hub:// -c 20 -d 500ms --proxy-protocol v2");
}

#[test]
fn a_run_without_headers_is_not_served_where_they_are_required() {
    let (server, recording, url) = serve(Config::new(), "127.0.0.1:0?proxy=require");
    let json = loadgen(&format!("{url} -c 2 -d 300ms --output-format json")).expect(4).json();
    assert_eq!(json["connections"]["served"], 0, "{json}");
    assert_eq!(recording.peers().len(), 0);
    assert_eq!(server.stats().total().closed(CloseReason::ProxyHeader), 2);
    let refused = loadgen("127.0.0.1:7 --proxy-protocol v3").expect(2);
    refused.complains("use v1 or v2");
    let refused = loadgen("127.0.0.1:7 --proxy-source 10.0.0.0/8").expect(2);
    refused.complains("--proxy-protocol");
}
