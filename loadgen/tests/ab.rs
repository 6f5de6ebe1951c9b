//! Targets against each other, from outside. The only times that are asserted are those that a
//! server waits on purpose, and they are far above what a busy machine adds.

mod common;

use std::time::Duration;

use common::forms::{TestFile, assert_valid, count, schema};
use common::server::{EchoServer, Fault};
use common::{Ended, loadgen, program, start, until};
use rustix::process::Signal;
use serde_json::Value;

/// Rounds that are as short as they can be, and as few as an interval needs.
const SHORT: &str = "--rounds 8 --slice 50ms -w 1ms -c 3 -t 1 --progress none";

fn json(flags: &str, code: i32) -> Value {
    let json = loadgen(&format!("ab {flags} --output-format json")).expect(code).json();
    assert_valid(&schema("ab"), &json);
    assert_eq!(json["exit_code"], code);
    json
}

#[test]
fn each_target_has_its_slices_and_all_requests_are_accounted_for() {
    for together in ["", "--together"] {
        let servers = [EchoServer::start(Fault::None), EchoServer::start(Fault::None)];
        let [a, b] = servers.each_ref().map(|server| server.address);
        let json = json(&format!("{a} {b} {a} {SHORT} {together}"), 0);
        assert_eq!(
            (count(&json["rounds"]), &json["together"]),
            (8, &(!together.is_empty()).into())
        );
        let targets = json["targets"].as_array().expect("a list");
        let names: Vec<_> = targets.iter().map(|target| target["name"].clone()).collect();
        assert_eq!(names, ["A", "B", "C"]);
        for target in targets {
            assert_eq!(count(&target["connections_established"]), 8 * 3, "in each slice anew");
            let ended = ["replies", "replies_late", "requests_timed_out", "requests_unanswered"];
            let ended: u64 = ended.iter().map(|key| count(&target[key])).sum();
            assert_eq!(count(&target["requests_offered"]), ended, "{target}");
            assert_eq!(count(&target["latency"]["count"]), ended, "{target}");
            assert_eq!(count(&target["elapsed_ns"]), 8 * 50_000_000);
            assert_eq!(target["verdict"], "valid");
        }
        // The first server has two of the targets.
        assert_eq!([0, 1].map(|nth| servers[nth].peers().len()), [2 * 8 * 3, 8 * 3]);
        let verified = |nth: usize| count(&targets[nth]["bytes_verified"]);
        assert_eq!(servers[0].bytes(), verified(0) + verified(2));
        assert_eq!(servers[1].bytes(), verified(1));
        let slices = json["slices"].as_array().expect("a list");
        assert_eq!(slices.len(), 8 * 3);
        for (round, three) in slices.chunks(3).enumerate() {
            let mut names: Vec<_> = three.iter().map(|slice| slice["name"].as_str()).collect();
            names.sort();
            assert_eq!(names, [Some("A"), Some("B"), Some("C")]);
            let places = [0, 1, 2].map(|nth| count(&three[nth]["place"]));
            assert_eq!((count(&three[0]["round"]), places), (round as u64 + 1, [1, 2, 3]));
        }
        let replies = |of: &dyn Fn(&Value) -> bool| -> u64 {
            slices.iter().filter(|slice| of(slice)).map(|slice| count(&slice["replies"])).sum()
        };
        assert_eq!(replies(&|slice| slice["name"] == "B"), count(&targets[1]["replies"]));
        let compared = json["comparisons"].as_array().expect("a list");
        let compared: Vec<_> =
            compared.iter().map(|one| (one["name"].clone(), one["against"].clone())).collect();
        assert_eq!(compared, [("B".into(), "A".into()), ("C".into(), "A".into())]);
    }
}

/// The parts of each target stand side by side, and only if there are any.
#[test]
fn targets_whose_replies_carry_times_have_their_parts() {
    let flags = "timed:// timed://?delay=20ms --rounds 2 --slice 200ms -c 2 -t 1";
    let json = json(flags, 0);
    for (target, least) in json["targets"].as_array().expect("a list").iter().zip([0, 20_000_000]) {
        let parts = &target["parts"];
        assert_eq!(parts["shares"]["requests"], parts["server_service"]["count"]);
        assert!(count(&parts["shares"]["requests"]) > 0, "{parts}");
        assert!(count(&parts["server_service"]["min_ns"]) >= least, "{parts}");
    }
    let text = loadgen(&format!("ab {flags}")).expect(0);
    text.says("\nServing p50 ").says("\nNetwork p99 ").says("\nWaiting p50 ");
    let server = EchoServer::start(Fault::None);
    let text = loadgen(&format!("ab {0} {0} --rounds 2 --slice 100ms -c 2", server.address));
    assert!(!text.expect(0).stdout.contains("Serving"));
}

/// Replies that take 100 ms more than others.
fn slow() -> EchoServer {
    EchoServer::start(Fault::Slow { wait: Duration::from_millis(100) })
}

#[test]
fn a_slower_target_is_found_and_conditions_decide_by_the_interval() {
    let (fast, slow) = (EchoServer::start(Fault::None), slow());
    let flags = format!("{} {} --rounds 12 --slice 150ms -w 1ms -c 2", fast.address, slow.address);
    let conditions =
        "--fail-if p50>+10ms --fail-if p50>+10s --fail-if rate<0.5x --fail-if p99<+1ms";
    let json = json(&format!("{flags} {conditions}"), 99);
    let p50 = &json["comparisons"][0]["figures"][0];
    assert!(p50["difference_low_ns"].as_i64().expect("a number") > 10_000_000, "{p50}");
    assert!(p50["ratio_low"].as_f64().expect("a number") > 1.0, "{p50}");
    let result = |key: &str| {
        let each = json["conditions"].as_array().expect("a list").iter();
        each.map(|one| one[key].as_bool().expect("it is")).collect::<Vec<_>>()
    };
    assert_eq!(result("exceeded"), [true, false, true, false], "{json}");
    assert_eq!(result("undecided"), [false; 4], "{json}");
    // The other way round it is faster.
    let flags =
        format!("ab {} {} --rounds 12 --slice 150ms -w 1ms -c 2", slow.address, fast.address);
    let ended = loadgen(&format!("{flags} --fail-if p50>+1us")).expect(0);
    ended.says("\nB - A: p50 -").says("Fail if: B: p50>+1us kept (-").says("faster\n");
}

#[test]
fn rounds_that_decide_nothing_have_an_exit_code_of_their_own() {
    let server = EchoServer::start(Fault::None);
    let flags = format!("ab {0} {0} -c 2 --slice 50ms --rounds 3", server.address);
    let ended = loadgen(&format!("{flags} --fail-if p50>1.2x")).expect(5);
    ended.says("p50>1.2x not decided (").says(" more rounds decide it");
    ended.says("An interval needs at least 8 rounds").says("too few for an interval");
    loadgen(&flags).expect(0);
    let quiet = loadgen(&format!("{flags} --fail-if p50>1.2x --output-format quiet")).expect(5);
    assert_eq!(quiet.stdout, "");
    quiet.complains("loadgen: valid (3 rounds); B: p50>1.2x not decided");
}

#[test]
fn a_target_that_does_wrong_ends_it_and_is_named() {
    let good = EchoServer::start(Fault::None);
    for (fault, code, verdict) in [
        (Fault::Corrupt { connection: 4, offset: 10 }, 3, "echo-differed"),
        (Fault::Close { connection: 4, offset: 10 }, 4, "connections-lost"),
    ] {
        let bad = EchoServer::start(fault);
        let flags = format!("{} {} --rounds 30 --slice 20ms", good.address, bad.address);
        let json = json(&format!("{flags} -c 3"), code);
        assert_eq!((&json["verdict"], count(&json["rounds"])), (&verdict.into(), 2), "{json}");
        assert_eq!(json["targets"][0]["verdict"], "valid");
        let text = json["verdict_text"].as_str().expect("text");
        assert!(text.starts_with(&format!("B: {verdict} (")), "{text}");
        assert!(text.ends_with(", in round 2"), "{text}");
    }
    let ended = loadgen(&format!("ab {} 127.0.0.1:1 {SHORT}", good.address)).expect(1);
    ended.complains("no connection to tcp://127.0.0.1:1 could be established");
}

#[test]
fn the_seed_repeats_the_order() {
    let server = EchoServer::start(Fault::None);
    let order = |seed: u32| {
        let flags = format!("ab {0} {0} {0} -c 1 --slice 5ms --rounds 12", server.address);
        // In slices so short there may be no request.
        let json = loadgen(&format!("{flags} --seed {seed} --output-format json")).json();
        let slices = json["slices"].as_array().expect("a list").clone();
        slices
            .iter()
            .map(|slice| slice["name"].as_str().expect("text").to_string())
            .collect::<String>()
    };
    let first = order(5);
    assert_eq!(first, order(5));
    assert_ne!(first, order(6));
}

#[test]
fn rows_are_written_round_by_round() {
    let server = EchoServer::start(Fault::None);
    let flags = format!("ab {0} {0} {SHORT}", server.address);
    let lines = |form: &str| {
        let text = loadgen(&format!("{flags} --output-format {form}")).expect(0).stdout;
        text.lines().map(str::to_string).collect::<Vec<_>>()
    };
    let csv = lines("csv");
    assert_eq!(csv.len(), 1 + 2 * 8);
    assert!(csv[0].starts_with("round,name,place,replies,requests_per_second,latency_min_ns,"));
    let columns = csv[0].split(',').count();
    assert!(csv.iter().all(|row| row.split(',').count() == columns), "{csv:#?}");
    let json: Vec<Value> =
        lines("ndjson").iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (whole, slices) = json.split_last().expect("lines");
    assert_valid(&schema("ab"), whole);
    slices.iter().for_each(|slice| assert_valid(&schema("slice"), slice));
    assert_eq!(whole["slices"].as_array().expect("a list"), slices);
}

#[test]
fn the_result_is_shown_as_a_page_and_read_again() {
    let server = EchoServer::start(Fault::None);
    let [saved, page] = ["ab.json", "ab.html"].map(TestFile::new);
    let flags = format!("ab {0} {0} {SHORT} -R 200 --fail-if p50>1000x", server.address);
    let made = loadgen(&format!("{flags} --output-format json -o {saved} --html {page}"));
    assert!(matches!(made.code, Some(0 | 4)), "it may have been late: {}", made.stderr);
    let again = loadgen(&format!("report {saved} --to html")).expect(0).stdout;
    let page = page.read();
    for part in ["Latency of each target", "Median latency in each round", "B against A, median of"]
    {
        assert!(again.contains(part) && page.contains(part), "no {part:?}");
    }
    for command in ["compare", "merge"] {
        loadgen(&format!("{command} {saved} {saved}")).expect(1).complains("of loadgen ab");
    }
}

#[test]
fn a_signal_ends_it_with_what_there_is() {
    let server = EchoServer::start(Fault::None);
    let flags = format!("ab {0} {0} -c 2 --rounds 1000 --slice 20ms", server.address);
    let run = start(program(&format!("{flags} --output-format json --progress none")));
    // Two rounds of two slices.
    until("rounds are made", || (server.peers().len() > 8).then_some(()));
    run.signal(Signal::INT);
    let ended: Ended = run.wait().expect(130);
    let json = ended.json();
    assert_valid(&schema("ab"), &json);
    let (made, asked) = (count(&json["rounds"]), count(&json["rounds_asked"]));
    assert!((2..1000).contains(&made) && asked == 1000, "{made} of {asked}");
    assert_eq!((&json["interrupted"], &json["verdict"]), (&true.into(), &"valid".into()));
}

/// Servers of its own, each with a service of its own.
#[test]
fn services_are_measured_against_each_other() {
    let slices = "--rounds 12 --slice 150ms -c 3 -t 1 --progress none --fail-if p50>+1ms";
    let flags = format!("echo:// delay://?fixed=20ms {slices}");
    let json = json(&flags, 99);
    let names =
        [0, 1].map(|nth| json["targets"][nth]["target"].as_str().expect("text").to_string());
    assert!(names[0].starts_with("tcp://127.0.0.1:"), "{names:?}");
    assert!(names[1].starts_with("delay://127.0.0.1:"), "{names:?}");
    loadgen("ab hub:// hub:// -c 3 --rounds 8 --slice 50ms").expect(0);
}

/// What stands behind `p50` in the answer of a comparison.
fn difference(line: &str) -> Option<&str> {
    line.strip_prefix("Second - first: p50 ")?.split(',').next()
}

/// Five files of a fast server and five of a slow one, whose intervals decide; two of them do not.
#[test]
fn files_are_compared_with_files() {
    let servers = [EchoServer::start(Fault::None), slow()];
    let sets = [0, 1].map(|set| {
        [0, 1, 2, 3, 4].map(|nth| {
            let file = TestFile::new(&format!("set-{set}-{nth}.json"));
            let flags =
                format!("{} -c 2 -n 4 --output-format json -o {file}", servers[set].address);
            loadgen(&flags).expect(0);
            file
        })
    });
    let names =
        |files: &[TestFile]| files.iter().map(|file| format!(" {file}")).collect::<String>();
    let [fast, slow] = sets.each_ref().map(|files| names(files));
    let page = TestFile::new("sets.html");
    let flags = format!("compare{fast} --against{slow} --fail-if p50>+1ms --fail-if p50>+1h");
    let json = loadgen(&format!("{flags} --output-format json --html {page}")).expect(99).json();
    assert_valid(&schema("comparison"), &json);
    let text = loadgen(&flags).expect(99).stdout;
    let answer = format!("p50 {}", text.lines().find_map(difference).expect("a line"));
    assert!(page.read().contains("<h1>10 results</h1>"), "the comparison is none of them");
    for text in
        ["Second against first, median", "A condition is exceeded.", &answer, "Exit code 99"]
    {
        assert!(page.read().contains(text), "no {text}");
    }
    assert!(sets.iter().flatten().all(|file| page.read().contains(&file.to_string())));
    let p50 = &json["figures"][0];
    assert!(p50["difference_low_ns"].as_i64().expect("a number") > 1_000_000, "{p50}");
    assert_eq!([0, 1].map(|nth| &json["conditions"][nth]["exceeded"]), [true, false]);
    assert!(json["settings_differ"][0].as_str().expect("text").starts_with("target ("), "{json}");
    loadgen(&format!("compare{slow} --against{fast} --fail-if p50>+1us")).expect(0);
    let [one, other] = [&sets[0][0], &sets[1][0]];
    let two = loadgen(&format!("compare {one} {other} --fail-if p50>+1ms")).expect(5);
    two.says("not decided (").says("; about 4 more files of each decide it");
    loadgen(&format!("compare{fast}")).expect(2).complains("after --against");

    // A comparison that was saved has a page too, without its files; and two runs have one.
    let saved = TestFile::new("sets.json");
    std::fs::write(&saved.0, json.to_string()).expect("it can be written");
    let text = loadgen(&format!("report {saved} --to html")).expect(0).stdout;
    assert!(text.contains("Second against first, median") && text.contains(&answer));
    loadgen(&format!("compare {one} {other} --html {page}")).expect(0);
    assert!(page.read().contains(&one.to_string()) && page.read().contains("Latency"));
    loadgen(&format!("compare {one} {other} --html {one}")).expect(2).complains("give two names");

    // Several runs that were added up are one result.
    let merged = TestFile::new("set-merged.json");
    let sum = loadgen(&format!("merge{fast}")).expect(0).stdout;
    std::fs::write(&merged.0, sum).expect("it can be written");
    let text = loadgen(&format!("compare {merged} {other}")).expect(0);
    text.says("\nSecond - first: p50 +").says("An interval needs at least 5 files of each");
}
