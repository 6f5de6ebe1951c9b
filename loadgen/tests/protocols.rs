//! Whole runs against a local server with each service: exact counts, sizes around the ends of
//! buffers, the largest and the smallest messages. No times are asserted.

mod common;

use common::loadgen;
use serde_json::Value;

#[track_caller]
fn run(flags: &str) -> Value {
    let json = loadgen(&format!("{flags} --output-format json")).expect(0).json();
    assert_eq!(json["verdict"], "valid", "{flags}");
    assert_eq!(json["bytes_verified"].as_u64(), json["bytes_read"].as_u64(), "{flags}");
    json
}

/// Asserts that exactly the requested number of requests had replies, of `len` bytes each on the
/// wire.
#[track_caller]
fn assert_exact(flags: &str, requests: u64, len: u64) {
    let json = run(&format!("{flags} -n {requests}"));
    assert_eq!(json["requests_begun"], requests, "{flags}");
    assert_eq!((&json["replies"], &json["latency"]["count"]), (&requests.into(), &requests.into()));
    assert_eq!(json["bytes_verified"], requests * len, "{flags}");
}

#[test]
fn frames_come_back_in_either_order_and_as_many_as_asked_for() {
    assert_exact("framed:// -c 7 -t 3 -l 100", 1_003, 104);
    assert_exact("framed://?order=big -c 7 -t 2 -l 100 -p 5", 1_003, 104);
    assert_exact("framed:// -c 7 -t 2 -l 1", 500, 5);
}

#[test]
fn frames_of_sizes_around_the_ends_of_buffers() {
    for size in [4_091, 4_092, 4_093, 16_379, 16_380, 16_381, 16_384, 32_764, 65_532, 65_537] {
        assert_exact(&format!("framed:// -c 3 -t 1 -l {size} -p 2"), 30, size + 4);
    }
}

#[test]
fn frames_of_many_sizes() {
    let json = run("framed://?order=big -c 5 -n 2k -l uniform:1-40k -p 3");
    assert_eq!((&json["replies"], &json["requests_begun"]), (&2_000.into(), &2_000.into()));
}

#[test]
fn frames_as_large_as_the_server_takes() {
    assert_exact("framed:// -c 4 -t 2 -l 1m", 24, (1 << 20) + 4);
    assert_exact("framed://?max-frame=3m -c 4 -l 3m", 8, (3 << 20) + 4);
    loadgen("framed:// -c 4 -l 2m").expect(2).complains("max-frame=SIZE");
}

#[test]
fn frames_at_a_rate() {
    let ended = loadgen("framed:// -c 5 -R 500 -n 250 --output-format json");
    // A busy machine may prevent the generator from keeping its schedule, which is not a fault of
    // the protocol.
    assert!([Some(0), Some(4)].contains(&ended.code), "{}", ended.stderr);
    let json = ended.json();
    assert_eq!((&json["replies"], &json["requests_begun"]), (&250.into(), &250.into()));
    assert_eq!((&json["bytes_verified"], &json["latency"]["count"]), (&17_000.into(), &250.into()));
}

#[test]
fn timed_frames_come_back_and_each_reply_is_split_into_its_parts() {
    assert_exact("timed:// -c 7 -t 3 -l 100", 1_003, 136);
    assert_exact("timed://?order=big -c 7 -t 2 -l 1 -p 5", 1_003, 37);
    for size in [16_346, 16_347, 16_348, 16_349, 16_384, 32_700, 65_537] {
        assert_exact(&format!("timed:// -c 3 -t 1 -l {size} -p 3"), 30, size + 36);
    }
    assert_exact("timed:// -c 4 -t 2 -l 1048544", 24, (1 << 20) + 4);
    loadgen("timed:// -c 4 -l 1m").expect(2).complains("max-frame=SIZE");
    let json = run("timed://?delay=1ms -c 5 -t 2 -n 500 -l uniform:1-20k -p 3");
    let parts = &json["parts"];
    for key in ["generator_lag", "network", "server_wait", "server_service", "generator_read"] {
        assert_eq!(parts[key]["count"], 500, "{key}");
    }
    assert_eq!((&parts["shares"]["requests"], &parts["times_cut"]), (&500.into(), &0.into()));
    assert!(parts["server_service"]["min_ns"].as_u64() >= Some(999_000), "{parts}");
    let ways = &parts["one_way"];
    assert_eq!((&ways["there"]["count"], &ways["contradictions"]), (&500.into(), &0.into()));
    let tcp = &json["tcp"];
    assert_eq!(tcp["connections"], 5, "each connection was asked at its end");
    assert!(
        tcp["rtt_min_ns"].as_u64() > Some(0) && tcp["congestion_window_min"].as_u64() > Some(0)
    );
}

#[test]
fn messages_over_connections_that_are_kept() {
    assert_exact("message://?after=keep -c 7 -t 3 -l 100", 1_003, 105);
    assert_exact("message://?after=keep&delimiter=%5Cn -c 7 -t 2 -l 100 -p 5", 1_003, 101);
    assert_exact("message://?after=keep&delimiter=A -c 3 -l 1", 500, 2);
    for size in [4_090, 4_091, 4_092, 16_378, 16_379, 16_380, 65_531] {
        assert_exact(&format!("message://?after=keep -c 3 -t 1 -l {size}"), 30, size + 5);
    }
    loadgen("message:// -c 4 -l 64k").expect(2).complains("max-message=SIZE");
}

#[test]
fn messages_over_connections_that_the_server_closes() {
    assert_exact("message:// -c 7 -t 3 -l 100", 1_003, 105);
    assert_exact("message:// -c 3 -l 1", 100, 6);
    assert_exact("message:// -c 2 -l 65531", 50, 65_536);
    let json = run("message:// -c 4 -t 1 -n 40 -l 100");
    assert_eq!(json["connections"]["established"], 4);
    // Each reply ends a connection. Those begun after the last reply are closed unused.
    let anew = json["reconnects"].as_u64().expect("a number");
    assert!((36..=40).contains(&anew), "{anew}");
    assert_eq!(json["errors"], serde_json::json!({}));
}

/// Asserts that each client that reads received each message.
#[track_caller]
fn assert_delivered(flags: &str, messages: u64, readers: u64) -> Value {
    let json = run(&format!("hub:// {flags} -n {messages}"));
    let size = json["config"]["size_bytes"].as_u64().expect("a number");
    let hub = &json["hub"];
    assert_eq!((&json["requests_begun"], &json["replies"]), (&messages.into(), &messages.into()));
    assert_eq!(hub["deliveries"], messages * readers, "{flags}");
    assert_eq!((&hub["deliveries_dropped"], &hub["deliveries_missing"]), (&0.into(), &0.into()));
    assert_eq!(json["latency"]["count"], messages * readers, "{flags}");
    assert_eq!(json["bytes_verified"], messages * readers * size, "{flags}");
    assert_eq!(json["connections"]["served"], readers, "{flags}");
    json
}

#[test]
fn each_client_of_a_hub_gets_each_message() {
    assert_delivered("-c 30 -t 2 -l 100", 200, 30);
    assert_delivered("-c 1 -t 1 -l 12", 50, 1);
    assert_delivered("-c 20 -t 3 --senders 20 -p 4", 400, 20);
}

#[test]
fn hub_messages_of_sizes_up_to_a_buffer() {
    for size in [12, 13, 4_077, 4_078, 4_079, 4_091, 8_192, 16_000] {
        assert_delivered(&format!("-c 4 -t 2 -l {size} -p 3"), 30, 4);
    }
    loadgen("hub:// -c 4 -l 16001").expect(2).complains("max-message");
}

#[test]
fn a_hub_with_other_options() {
    let json = run("hub://?order=big&notices=off -c 10 -n 50");
    let hub = &json["hub"];
    assert_eq!((&hub["deliveries"], &hub["notices_joined"]), (&500.into(), &0.into()));
    assert_eq!(hub["notices_left"], 0);
}

#[test]
fn members_that_never_read_do_not_keep_the_others_from_their_messages() {
    // 32 MB per client: more than the kernel's buffers and the hub's queue hold.
    let json = assert_delivered("-c 6 -t 2 --never-read 2 -l 16000 -p 8", 2_000, 4);
    assert_eq!(json["hub"]["never_read"], 2);
    assert_eq!(json["connections"]["established"], 6);
}

#[test]
fn a_hub_at_a_rate() {
    let flags = "hub:// -c 10 --senders 3 -R 300 -n 100 --output-format json";
    let ended = loadgen(flags);
    // A busy machine may prevent the generator from keeping its schedule, which is not a fault of
    // the hub.
    assert!([Some(0), Some(4)].contains(&ended.code), "{}", ended.stderr);
    let json = ended.json();
    assert_eq!((&json["replies"], &json["hub"]["deliveries"]), (&100.into(), &1_000.into()));
}

/// Clients on a thread without a sender wait for the next message, however late it is due.
#[test]
fn a_hub_at_a_rate_below_one_per_time_out_delivers_all_in_time() {
    let flags = "hub:// -c 4 -t 2 -R 0.5 -n 2 --timeout 1500ms --output-format json";
    // How well the schedule is kept depends on the machine.
    let json = loadgen(flags).json();
    let deliveries = ["deliveries", "deliveries_late"].map(|key| json["hub"][key].clone());
    assert_eq!(deliveries, [Value::from(8), Value::from(0)], "{json}");
    assert_eq!(json["elapsed_ns"], 4_000_000_000u64);
}

/// Deliveries have no service time.
#[test]
fn a_hub_at_a_rate_shows_only_the_times_that_it_has() {
    let shown = loadgen("hub:// -c 5 -R 300 -n 30 -U --details").stdout;
    assert!(shown.contains("\n  Send lag: ") && shown.contains("\n  Own lag: "), "{shown}");
    assert!(!shown.contains("Service time") && !shown.contains("service time"), "{shown}");
}

#[test]
fn flags_that_a_server_that_closes_cannot_have() {
    for flag in ["-p 2", "--lifetime 5", "--strict -R 5"] {
        loadgen(&format!("message:// {flag}")).expect(2).complains("after=keep");
    }
}

#[test]
fn flags_of_a_hub_are_for_a_hub() {
    for flag in ["--senders 2", "--never-read 1", "--allow-drops"] {
        loadgen(&format!("framed:// {flag}")).expect(2).complains("needs a hub");
    }
    let wrong = [
        ("-l 11", "at least 12"),
        ("-l 17k", "max-message"),
        ("-l uniform:20-30", "one size"),
        ("--lifetime 5", "does not work with a hub"),
        ("--warmup 1s", "does not work with a hub"),
        ("--with idle:5", "--never-read"),
        ("-c 5 --senders 3 --never-read 3", "more than -c 5"),
    ];
    for (flags, reason) in wrong {
        loadgen(&format!("hub:// {flags}")).expect(2).complains(reason);
    }
}

#[test]
fn services_that_send_nothing_back_are_refused() {
    for target in ["discard://127.0.0.1:9", "chargen://"] {
        loadgen(target).expect(2).complains("returns nothing");
    }
}
