//! `--search`: the highest rate that meets an objective, against servers of known capacity. Upper
//! bounds of the rate are asserted, never the speed of this machine.

mod common;

use std::time::Duration;

use common::forms::{TestFile, assert_valid, count, schema};
use common::server::{EchoServer, Fault};
use common::{Ended, loadgen, own_port, program, start, until};
use rustix::process::Signal;

/// Each request waits this long, so one connection completes at most 200 per second.
const SLOW: Fault = Fault::Slow { wait: Duration::from_millis(5) };

/// Repeats the search as long as the machine limited it and not the server. `is_so`: whether the
/// result is as expected.
#[track_caller]
fn search_until(flags: &str, mut is_so: impl FnMut(&Ended) -> bool) -> Ended {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        let ended = loadgen(flags);
        if is_so(&ended) {
            return ended;
        }
    }
    panic!("{TRIES} searches, and each of them disturbed: {flags}");
}

/// At 20 per second a step has the smallest allowed number of requests. If one of the last of them
/// is late on a busy machine it is never sent, and possibly no rate is kept.
#[test]
fn no_more_is_found_than_the_server_can_take() {
    let server = EchoServer::start(SLOW);
    let flags = format!("{} -c 1 -R 50 -d 500ms -w 1ms --search p99:1s", server.address);
    let ended = search_until(&format!("{flags} --output-format json"), |ended| {
        let json = ended.json();
        assert_valid(&schema("search"), &json);
        let steps = json["steps"].as_array().expect("runs");
        let is_found = steps.iter().any(|step| step["kept"] == true);
        assert_eq!(json["rate_per_second"].is_null(), !is_found, "{json}");
        is_found
    });
    assert!(!ended.stderr.contains("loadgen: valid"), "all is well: {}", ended.stderr);
    let json = ended.json();
    assert!(server.fired() > 0);
    assert_eq!(json["objective"], "p99<1s");
    // In half a second it completes 100 requests, and all must be sent.
    let rate = count(&json["rate_per_second"]);
    assert!((1..=210).contains(&rate), "{json}");
    let steps = json["steps"].as_array().expect("runs");
    let of = |kept: bool| steps.iter().filter(move |step| step["kept"] == kept);
    assert!(of(true).any(|step| step["rate_per_second"] == rate), "{json}");
    assert!(of(false).any(|step| step["rate_per_second"] == json["not_kept_rate_per_second"]));
    assert!(count(&json["not_kept_rate_per_second"]) > rate);
    assert_eq!(json["best"]["config"]["rate_per_second"], rate);
    assert!(count(&json["best"]["latency"]["p99_ns"]) < 1_000_000_000);
}

/// If the generator was late in the last run, nothing is known of the server; the result says so,
/// and the search is repeated. With such slow replies it would have to be late by 50 ms; and there
/// is a connection per request, so that none waits for another's reply.
#[test]
fn a_limit_that_no_rate_keeps_is_missed() {
    let server = EchoServer::start(Fault::Slow { wait: Duration::from_millis(200) });
    let flags = format!("{} -c 24 -R 68 -d 300ms -w 1ms --search p50:150ms", server.address);
    let is_missed = |ended: &Ended| {
        assert!([Some(4), Some(99)].contains(&ended.code), "{}", ended.stdout);
        ended.code == Some(99)
    };
    let ended = search_until(&flags, |ended| {
        ended.complains("searching: 68/s: ");
        is_missed(ended)
    });
    ended.says("\nHighest rate: no rate keeps p50<150ms; not 34/s: p50<150ms missed (");
    ended.says("\nVerdict: not-kept (");
    assert!(!ended.stderr.contains("loadgen: not-kept"), "the report says it: {}", ended.stderr);
    let ended = search_until(&format!("{flags} --output-format json"), |ended| {
        assert_valid(&schema("search"), &ended.json());
        assert!(ended.json()["best"].is_null() && ended.json()["rate_per_second"].is_null());
        is_missed(ended)
    });
    assert_eq!(ended.json()["verdict"], "not-kept");
}

#[test]
fn a_byte_that_differs_ends_the_search() {
    // The first request of each connection is due at the start, so it is sent on any machine.
    let server = EchoServer::start(Fault::Corrupt { connection: 1, offset: 7 });
    let flags = format!("{} -c 2 -R 100 -d 300ms -w 1ms --search p99:10s", server.address);
    let ended = loadgen(&format!("{flags} --output-format json")).expect(3);
    assert_eq!(server.fired(), 1);
    assert_valid(&schema("search"), &ended.json());
    assert_eq!(ended.json()["verdict"], "echo-differed");
}

#[test]
fn with_a_server_of_its_own_it_writes_to_a_file_and_is_silent_if_told_so() {
    let file = TestFile::new("search.json");
    // At this rate no request is ever 1 h late, so the search ends by itself only when a rate is
    // too high for this machine, or at the highest possible rate.
    let flags = "-c 2 -t 1 -R 5m -d 50ms -w 1ms --search p99:1ms --progress none";
    let ended = loadgen(&format!("{flags} --output-format json -o {file}"));
    assert!(ended.stdout.is_empty() && !ended.stderr.contains("searching"), "{}", ended.stderr);
    let json = serde_json::from_str(&file.read()).expect("JSON");
    assert_valid(&schema("search"), &json);
    assert_eq!(Some(i64::from(ended.code.expect("an exit"))), json["exit_code"].as_i64());
    assert_eq!(json["steps"][0]["kept"], false, "five million a second over two connections");
}

#[test]
fn every_protocol_can_be_searched() {
    for service in ["framed://", "message://?after=keep", "message://", "hub://"] {
        let flags = format!("{service} -c 2 -t 1 -R 5m -d 50ms --search p99:1ms --progress none");
        let json = loadgen(&format!("{flags} --output-format json")).json();
        assert_valid(&schema("search"), &json);
        assert_eq!(json["steps"][0]["kept"], false, "{service}");
    }
}

#[test]
fn an_interrupted_search_tells_what_it_found_until_then() {
    let server = EchoServer::start(Fault::None);
    // A connection for each request of the first two rates, 30 in all, so that all of them are
    // sent: they are kept, and the third rate is tried.
    let flags = format!("{} -c 20 -R 50 -d 200ms -w 1ms --search p99:10s", server.address);
    let run = start(program(&format!("{flags} --output-format json")));
    until("a few rates have been tried", || (server.bytes() > 3_000).then_some(()));
    run.signal(Signal::INT);
    let ended = run.wait().expect(130);
    assert_valid(&schema("search"), &ended.json());
    assert_eq!(ended.json()["verdict"], "interrupted");
    assert_eq!(ended.json()["is_lower_bound"], true);
}

#[test]
fn a_server_that_dies_takes_nothing_along_that_was_found_before() {
    let server = EchoServer::start_at(own_port(), Fault::None);
    let file = TestFile::new("dies.json");
    std::fs::write(&file.0, "an earlier result").expect("the file can be written");
    // A connection for each request of the first two rates, 30 in all.
    let flags = format!("{} -c 20 -R 50 -d 200ms -w 1ms --search p99:10s", server.address);
    let run = start(program(&format!("{flags} --output-format json -o {file}")));
    until("a few rates have been tried", || (server.bytes() > 3_000).then_some(()));
    assert_eq!(file.read(), "an earlier result", "until there is another one");
    server.die();
    let ended = run.wait().expect(4);
    let json = serde_json::from_str(&file.read()).expect("JSON");
    assert_valid(&schema("search"), &json);
    assert_eq!(json["exit_code"], 4, "{json}");
    assert_eq!(json["is_lower_bound"], true);
    assert!(count(&json["rate_per_second"]) >= 50 && json["best"].is_object(), "{json}");
    match json["verdict"].as_str() {
        Some("run-failed") => ended
            .complains("loadgen: run-failed (at ")
            .complains("no connection to tcp://127.0.0.1:"),
        // It died when some connections of a run were established and others were not.
        verdict => {
            assert_eq!(verdict, Some("under-connected"), "{json}");
            ended.complains("loadgen: under-connected (at ")
        }
    };
}

#[test]
fn a_search_that_cannot_begin_leaves_the_earlier_result() {
    let server = EchoServer::start_at(own_port(), Fault::None);
    server.die();
    let file = TestFile::new("cannot-begin.json");
    std::fs::write(&file.0, "an earlier result").expect("the file can be written");
    let sources = "--source-ip 127.0.0.0/8";
    let flags = format!("{} -c 2 --search p99:1s -o {file} {sources}", server.address);
    let ended = loadgen(&flags).expect(1);
    ended.complains("no connection to").complains("source addresses are used; there are ");
    assert_eq!(file.read(), "an earlier result");
    let ended = loadgen(&format!("{flags} --output-format quiet")).expect(1);
    assert!(!ended.stderr.contains("source addresses are used"), "{}", ended.stderr);
}

#[test]
fn what_is_of_a_single_run_is_refused() {
    for flags in [
        "-n 100",
        "--hdr-log x.hlog",
        "--hgrm x.hgrm",
        "--abort-on-fail",
        "--output-format csv",
        "--output-format ndjson",
    ] {
        let ended = loadgen(&format!("--search p99:1ms {flags}")).expect(2);
        ended.complains("applies to a single run");
    }
    loadgen("--search p99:1ms --stages 1s:1k").expect(2);
    loadgen("--search p99").expect(2).complains("p99:1ms");
    loadgen("--search p99:1ms -R 2").expect(2).complains("fewer than 10 requests in 3s");
}
