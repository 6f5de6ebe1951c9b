//! The flags of the load, one run each, and the account of every request: an offered request is
//! completed, timed out, unanswered or never sent, whatever the server does. No times are asserted.

mod common;

use std::collections::HashSet;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use common::server::{EchoServer, Fault};
use common::{Ended, Running, loadgen, program, start, until};
use rustix::process::Signal;
use serde_json::Value;

/// The counts of a report that add up.
struct Account {
    offered: u64,
    completed: u64,
    timed_out: u64,
    unanswered: u64,
    never_sent: u64,
}

#[track_caller]
fn account(json: &Value) -> Account {
    let count = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("{key} in {json}"));
    let account = Account {
        offered: count("requests_offered"),
        completed: count("requests_completed"),
        timed_out: count("requests_timed_out"),
        unanswered: count("requests_unanswered"),
        never_sent: count("requests_never_sent"),
    };
    let Account { offered, completed, timed_out, unanswered, never_sent } = account;
    assert_eq!(offered, completed + timed_out + unanswered + never_sent, "{json}");
    assert_eq!(
        offered,
        json["latency"]["count"].as_u64().unwrap(),
        "each request is in the distribution"
    );
    assert_eq!(offered - never_sent, json["service_time"]["count"].as_u64().unwrap());
    assert_eq!(completed, count("replies") + count("replies_late"));
    account
}

/// A run of an open loop against a correct server. How well the schedule was kept depends on the
/// machine and is not asserted.
#[track_caller]
fn kept(flags: &str) -> Value {
    let ended = run(flags);
    let json = ended.json();
    let verdict = json["verdict"].as_str().expect("a word");
    let expected = if verdict == "generator-limited" { 4 } else { 0 };
    assert!(["valid", "generator-limited"].contains(&verdict), "{json}");
    assert_eq!(ended.code, Some(expected));
    json
}

#[track_caller]
fn run(flags: &str) -> Ended {
    loadgen(&format!("{flags} --output-format json"))
}

#[test]
fn an_open_loop_offers_exactly_its_rate() {
    for flags in ["", "-q 2k", "-t 3 -c 7", "-c 500", "-c 2 -p 50", "--strict", "-t 2 -c 3"] {
        let rate = if flags == "-q 2k" { "" } else { "-R 2k" };
        let server = EchoServer::start(Fault::None);
        let json = kept(&format!("{} {rate} -d 500ms {flags}", server.address));
        let account = account(&json);
        assert_eq!(account.offered, 1_000, "{flags}");
        assert_eq!(account.timed_out + account.unanswered, 0, "{flags}");
        assert_eq!(server.bytes(), 64 * account.completed, "{flags}");
        assert_eq!(json["send_lag"]["count"], json["requests_begun"], "{flags}");
        assert_eq!(json["config"]["rate_per_second"], 2_000);
    }
}

#[test]
fn a_thread_that_polls_busily_never_sleeps_and_is_not_called_busy_for_it() {
    let server = EchoServer::start(Fault::None);
    let begun = Instant::now();
    let json = kept(&format!("{} -R 1k -c 20 -t 1 -d 1s --busy-poll", server.address));
    let whole_run = begun.elapsed().as_nanos() as u64;
    assert_eq!((account(&json).offered, &json["config"]["busy_poll"]), (1_000, &true.into()));
    let thread = &json["generator_threads"][0];
    let of = |key: &str| thread[key].as_u64().expect("a number");
    // A thread that sleeps does so between any two of the thousand requests.
    assert!(of("switches_voluntary") < 500, "{thread}");
    let (running, waiting, polling) = (of("running_ns"), of("waiting_ns"), of("polling_ns"));
    // Not compared with running and waiting, because time that a virtual machine does not get is
    // neither.
    assert!(polling > 0 && polling <= whole_run, "{whole_run}: {thread}");
    let busy = (running + waiting - polling.saturating_sub(waiting).min(running + waiting)) as f64;
    let ratio = json["generator_busy_ratio"].as_f64().expect("a number");
    let elapsed = json["elapsed_ns"].as_f64().expect("a number");
    // A thread that gets no processor ends its part of the run, and looks at its clock, late. So its
    // share is of a time between the measured one and that of the whole run.
    let shares = [whole_run as f64, elapsed].map(|time| (busy / time).min(1.0));
    assert!(shares[0] - 0.001 < ratio && ratio < shares[1] + 0.001, "{shares:?} {ratio} {thread}");

    let json = kept(&format!("{} -R 1k -c 20 -t 1 -d 1s", server.address));
    assert_eq!(json["generator_threads"][0]["polling_ns"], 0);
    assert_eq!(json["config"]["busy_poll"], false);
}

#[test]
fn a_rate_below_the_number_of_threads_is_kept() {
    let json = kept("-R 4 -t 4 -c 8 -d 1s");
    assert_eq!(account(&json).offered, 4);
    assert_eq!(json["connections"]["served"], 4);
}

/// A connection that owes a reply does not pass its requests to others; without a schedule per
/// connection, the other nine would share them. On a slow machine some of theirs are not sent
/// either.
#[test]
fn a_strict_schedule_gives_each_connection_as_many() {
    let json = kept("-R 1k -c 10 -t 3 -d 1s --strict");
    assert_at_most_100_each(&json);

    // The first request of each connection is due at the start, so it is sent on any machine.
    let server = EchoServer::start(Fault::Stall { connection: 0, offset: 0 });
    let flags = "-R 1k -c 10 -t 1 -d 1s --strict --timeout 2s";
    let json = run(&format!("{} {flags}", server.address)).expect(4).json();
    assert_eq!(server.fired(), 1);
    assert_at_most_100_each(&json);
    assert_eq!(json["connections"]["replies_min"], 0, "{json}");
    assert!(account(&json).never_sent >= 99, "{json}");
}

/// Of a thousand requests offered to ten connections.
#[track_caller]
fn assert_at_most_100_each(json: &Value) {
    let Account { offered, completed, .. } = account(json);
    assert_eq!(offered, 1_000);
    let replies = |key: &str| json["connections"][key].as_u64().expect("a number");
    assert!(replies("replies_max") <= 100, "{json}");
    assert!(replies("replies_min") + (offered - completed) >= 100, "{json}");
}

#[test]
fn poisson_arrivals_repeat_with_their_seed() {
    for strict in ["", "--strict"] {
        let flags = format!("-R 2k -c 20 -d 500ms --arrivals poisson --seed 5 {strict}");
        let offered = account(&kept(&flags)).offered;
        assert_eq!(offered, account(&kept(&flags)).offered, "{strict}");
        // Six standard deviations are 190.
        assert!((810..1_190).contains(&offered), "{offered}");
    }
}

#[test]
fn a_number_of_requests_ends_an_open_loop_exactly() {
    let server = EchoServer::start(Fault::None);
    let json = kept(&format!("{} -R 5k -n 1003 -c 7 -t 3", server.address));
    let account = account(&json);
    assert_eq!((account.offered, account.completed, account.never_sent), (1_003, 1_003, 0));
    assert_eq!(server.bytes(), 1_003 * 64);
}

#[test]
fn numbers_near_the_largest_are_errors_and_do_not_wrap() {
    for number in ["18446744073709551615", "18446744073709551600", "18446744073708m"] {
        loadgen(&format!("-c {number} -n 1")).expect(2).complains("at most 4294967296");
        loadgen(&format!("hub:// -c 5 --senders {number} -n 1")).expect(2).complains("at most");
        loadgen(&format!("hub:// -c 5 --never-read {number} -n 1")).expect(2).complains("at most");
        loadgen(&format!("-c 5 -t {number} -n 1")).expect(2).complains("at most 1024");
        loadgen(&format!("-c 5 -p {number} -n 1")).expect(2).complains("at most 65536");
    }
    loadgen("-c 18446744073709551616 -n 1").expect(2).complains("too large");
}

/// A connection whose lifetime is over before it could send anything sends one request.
#[test]
fn the_shortest_lifetime_has_one_request_for_each_connection() {
    for rate in ["", "-R 1k", "-R 1k --strict"] {
        let server = EchoServer::start(Fault::None);
        let json = run(&format!("{} --lifetime 1ns -n 20 -c 2 -t 1 {rate}", server.address)).json();
        let account = account(&json);
        assert_eq!((account.offered, account.completed), (20, 20), "{rate}: {json}");
        assert!(json["reconnects"].as_u64().unwrap() >= 17, "{rate}: {json}");
    }
}

/// The server closes each connection after four requests, when it has answered them.
#[test]
fn a_connection_that_the_server_closed_is_begun_anew_if_asked_for() {
    const FOUR: Fault = Fault::CloseEach { after: 4 * 64 };
    for rate in ["", "-R 200", "-R 200 --strict"] {
        let server = EchoServer::start(FOUR);
        // An open loop is so slow, and lasts so long, that a generator that stands still catches up
        // before the end. Until then it sends at once, like a closed loop.
        let requests = if rate.is_empty() { 120 } else { 300 };
        let flags = format!("{} -c 3 -t 1 -n {requests} --reconnect {rate}", server.address);
        let ended = run(&flags);
        let json = ended.json();
        let account = account(&json);
        // A request that was sent as the server closed has no reply: in a closed loop, which sends
        // at once, nearly always.
        let lost = account.unanswered;
        assert_eq!(account.completed, requests - lost - account.never_sent, "{json}");
        let closes = json["server_closes"].as_u64().expect("a count");
        assert_eq!(json["connections"]["lost"], lost, "{json}");
        assert!(4 * (3 + closes + lost) >= account.completed, "{rate}: {json}");
        assert!(rate.is_empty() || closes > 0, "{rate}: {json}");
        let anew = json["reconnects"].as_u64().expect("a count");
        assert!(anew + 3 >= closes + lost && anew <= closes + lost, "{rate}: {json}");
        let accepted = || server.peers().len() as u64;
        until("the server has accepted all", || (accepted() >= 3 + anew).then_some(()));
        assert_eq!(accepted(), 3 + anew, "{rate}: {json}");
        assert_eq!(json["config"]["reconnect"], true);
    }
    let server = EchoServer::start(FOUR);
    let text = loadgen(&format!("{} -c 1 -n 4 --reconnect --details", server.address)).expect(0);
    text.says("\n  Reopened: ").says(" closed by the server with no reply outstanding\n");
    let server = EchoServer::start(FOUR);
    let json = run(&format!("{} -c 3 -t 1 -n 120", server.address)).expect(4).json();
    assert_eq!((&json["reconnects"], &json["server_closes"]), (&0.into(), &0.into()));
    // Closed with a request unread, it is a reset.
    let ends: u64 = ["closed-by-peer", "reset"]
        .iter()
        .map(|end| json["errors"].get(end).map_or(0, |count| count.as_u64().expect("a count")))
        .sum();
    assert_eq!((ends, server.peers().len()), (3, 3), "{json}");
    loadgen("hub:// -c 3 -n 5 --reconnect").expect(2).complains("--reconnect");
}

#[test]
fn a_connection_begun_anew_is_verified_from_its_first_byte() {
    for flags in ["--reconnect", "--lifetime 1", "--lifetime 1 -R 1k"] {
        let server = EchoServer::start(Fault::ReplayFirst { after: 64 });
        // With this seed the first bytes of two lives differ. With one in 256 they are equal.
        let flags = format!("{flags} --seed 1");
        let json = run(&format!("{} -c 1 -n 30 {flags}", server.address)).expect(3).json();
        let mismatch = &json["first_mismatches"][0];
        assert_eq!((&mismatch["connection"], &mismatch["stream_offset"]), (&0.into(), &0.into()));
        assert_eq!(
            (&json["replies"], &json["reconnects"]),
            (&1.into(), &1.into()),
            "{flags}: {json}"
        );
    }
}

#[test]
fn rates_below_one_per_second_are_kept() {
    for (rate, per_second) in [("0.5", 0.5f64), ("90/m", 1.5), ("3600/h", 1.0)] {
        let json = kept(&format!("-R {rate} -d 1s -c 2"));
        let expected = per_second.ceil() as u64;
        assert_eq!(account(&json).offered, expected, "{rate}");
        assert_eq!(json["config"]["rate_per_second"].as_f64(), Some(per_second), "{rate}");
    }
    let json = kept("--stages 500ms:4,500ms:0.5 -c 2");
    assert_eq!(account(&json).offered, 3, "the third is due when the second stage begins");
    assert_eq!(json["config"]["stages"][1]["to_per_second"], 0.5);
    loadgen("-R 0 -c 1").expect(2).complains("more than zero");
    loadgen("-R 5/d -c 1").expect(2).complains("6/m, 90/h");
}

#[test]
fn stages_offer_what_each_of_them_says() {
    let json = kept("-c 10 --stages 300ms:1k,200ms:0,300ms:1k-3k");
    assert_eq!(account(&json).offered, 900);
    assert_eq!(json["config"]["duration_ns"], 800_000_000);
}

#[test]
fn a_server_that_never_answers_owes_everything() {
    for rate in ["", "-R 400", "-R 400 --strict", "-R 400 -p 4"] {
        let server = EchoServer::start(Fault::Mute);
        // Long enough for the second connection in a place, also on a busy machine.
        let flags = format!("{} -c 5 -t 2 -d 1500ms --timeout 300ms {rate}", server.address);
        let json = run(&flags).expect(4).json();
        let account = account(&json);
        assert!(server.fired() > 0);
        assert_eq!(account.completed, 0, "{rate}");
        assert!(account.timed_out >= 5, "{rate}: at least the first of each connection");
        // In an open loop, other connections replace those that were given up, until the end.
        assert!(rate.is_empty() || account.offered == 600, "{rate}: {}", account.offered);
        let anew = json["reconnects"].as_u64().unwrap();
        assert_eq!(anew > 0, !rate.is_empty(), "{rate}: {anew}");
        assert!(rate.is_empty() || account.never_sent > 0, "{rate}");
        assert_eq!(json["verdict"], "nothing-served");
        // A request that was given up is in the distribution with its age.
        assert!(json["latency"]["max_ns"].as_u64().unwrap() >= 300_000_000);
    }
}

/// Longer than a busy machine keeps a thread from running, so only the stall exceeds it.
const STALL_TIMEOUT: &str = "2s";

/// Requests lost with connections that timed out, one each: at most one is outstanding per
/// connection, and one that is given up in the turn in which it was begun is not sent.
#[track_caller]
fn lost_with_connections(account: &Account, json: &Value) -> u64 {
    let lost = json["errors"]["timed-out"].as_u64().expect("a count");
    assert_eq!(account.timed_out + account.unanswered + account.never_sent, lost, "{json}");
    assert!(account.timed_out >= 1, "{json}");
    lost
}

/// A run with a number of requests ends when each of them has ended, however long that takes.
#[test]
fn a_connection_that_stalls_times_out_and_the_others_go_on() {
    // The first request of each connection is due at the start, so it is sent on any machine.
    let server = EchoServer::start(Fault::Stall { connection: 1, offset: 0 });
    let flags = format!("-c 4 -t 1 -R 1k -n 700 --timeout {STALL_TIMEOUT}");
    let json = run(&format!("{} {flags}", server.address)).expect(4).json();
    let account = account(&json);
    assert_eq!((server.fired(), account.offered), (1, 700));
    assert_eq!(lost_with_connections(&account, &json), 1, "{json}");
    assert_eq!(json["connections"]["lost"], 1);
}

/// With one connection, nothing would be sent after the stall unless it was replaced.
#[test]
fn a_connection_that_timed_out_is_begun_anew_in_an_open_loop() {
    for strict in ["", "--strict"] {
        let server = EchoServer::start(Fault::Stall { connection: 0, offset: 640 });
        let flags = format!("-c 1 -R 1k -n 300 --timeout {STALL_TIMEOUT} {strict}");
        let json = run(&format!("{} {flags}", server.address)).expect(4).json();
        let account = account(&json);
        assert_eq!((server.fired(), account.offered), (1, 300));
        assert_eq!(lost_with_connections(&account, &json), 1, "{strict}: {json}");
        assert_eq!((&json["reconnects"], &json["connections"]["lost"]), (&1.into(), &1.into()));
        assert_eq!((server.peers().len(), &json["verdict"]), (2, &"connections-lost".into()));
    }
    let server = EchoServer::start(Fault::Stall { connection: 0, offset: 640 });
    let flags = format!("-c 1 -n 100 --timeout {STALL_TIMEOUT}");
    let json = run(&format!("{} {flags}", server.address)).expect(4).json();
    assert_eq!((server.fired(), server.peers().len()), (1, 1), "a closed loop has lost it");
    assert_eq!(json["reconnects"], 0);
}

#[test]
fn connections_are_spread_over_all_targets() {
    let servers: Vec<_> = (0..3).map(|_| EchoServer::start(Fault::None)).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address.to_string()).collect();
    let flags = format!("{} -c 8 -t 2 -n 800 -R 10k --with reset:3", addresses.join(" "));
    let json = kept(&flags);
    assert_eq!(account(&json).completed, 800);
    let expected: Vec<_> = addresses.iter().map(|address| format!("tcp://{address}")).collect();
    assert_eq!(json["targets"], serde_json::json!(expected));
    assert_eq!(json["target"], expected.join(","));
    let mut completed = 0;
    for (nth, (server, connections)) in servers.iter().zip([3, 3, 2]).enumerate() {
        // Those of the reset clients arrive too.
        until("all are accepted", || (server.peers().len() > connections).then_some(()));
        let count = |key: &str| json["per_target"][nth][key].as_u64().expect("a count");
        assert_eq!(count("connections_established"), connections as u64, "{json}");
        assert_eq!(count("connections_served"), connections as u64, "{json}");
        assert!(server.bytes() >= 64 * count("requests_completed"), "{}: {json}", server.bytes());
        completed += count("requests_completed");
    }
    assert_eq!(completed, 800);
    let ended = loadgen(&format!("{} -c 2 -n 2", addresses.join(" "))).expect(0);
    ended.says(&format!("test @ {}\n", expected.join(", ")));
    ended.complains(&format!("connections to {}, ", expected.join(", ")));
}

#[test]
fn a_connection_that_is_reset_leaves_its_requests_unanswered() {
    let server = EchoServer::start(Fault::Reset { connection: 1, offset: 64 });
    let flags = "-c 4 -t 1 -R 1k -n 400 -p 3";
    let json = run(&format!("{} {flags}", server.address)).expect(4).json();
    let account = account(&json);
    assert_eq!((server.fired(), account.offered, account.timed_out), (1, 400, 0));
    assert!((1..=3).contains(&account.unanswered), "{}", account.unanswered);
}

#[test]
fn a_thread_without_connections_still_offers_its_part() {
    for strict in ["", "--strict"] {
        // The first request is due at the start, so it is sent on any machine.
        let server = EchoServer::start(Fault::Close { connection: 0, offset: 0 });
        let flags = format!("-c 2 -t 2 -R 1k -d 700ms {strict}");
        let json = run(&format!("{} {flags}", server.address)).expect(4).json();
        let account = account(&json);
        assert_eq!((server.fired(), account.offered), (1, 700), "{strict}");
        assert!(account.never_sent > 0, "{json}");
    }
}

#[test]
fn more_than_the_server_can_take_adds_up_exactly() {
    for strict in ["", "--strict"] {
        let wait = Duration::from_millis(20);
        let server = EchoServer::start(Fault::Slow { wait });
        let flags = format!("{} -c 4 -R 1k -d 1s {strict}", server.address);
        let json = kept(&flags);
        let account = account(&json);
        assert_eq!((account.offered, account.timed_out + account.unanswered), (1_000, 0));
        // Four connections with at most fifty requests per second each.
        assert!(account.completed <= 204, "{}", account.completed);
        assert!(account.never_sent >= 796, "{}", account.never_sent);
        // Requests that waited for a connection are late because of the server, not because of the
        // generator.
        let lag = |which: &str| json[which]["p50_ns"].as_u64().unwrap();
        assert!(lag("send_lag") > lag("own_lag"), "{json}");
        // The time that they waited is part of their latency, not of the service time.
        assert!(json["latency"]["p50_ns"].as_u64().unwrap() > lag("service_time"), "{json}");
    }
}

#[test]
fn latency_counts_from_the_intended_time() {
    let server = EchoServer::start(Fault::Slow { wait: Duration::from_millis(5) });
    let json = kept(&format!("{} -c 1 -R 1k -n 100", server.address));
    let Account { offered, completed, .. } = account(&json);
    assert_eq!((offered, completed), (100, 100));
    // The last one is due after 99 ms, and the server completes it after 500 ms at the earliest,
    // because it sleeps that long.
    let least = 400_000_000;
    assert!(json["latency"]["max_ns"].as_u64().unwrap() >= least, "{json}");
    assert!(json["send_lag"]["max_ns"].as_u64().unwrap() >= least - 5_000_000, "{json}");
    // A closed loop sends the next request when it has the last reply, so it does not show the
    // delay.
    let server = EchoServer::start(Fault::Slow { wait: Duration::from_millis(5) });
    let json = run(&format!("{} -c 1 -n 100", server.address)).expect(0).json();
    assert_eq!((&json["latency"]["count"], &json["send_lag"]["count"]), (&100.into(), &0.into()));
    assert!(json["latency"]["p50_ns"].as_u64().unwrap() >= 5_000_000);
}

#[test]
fn what_was_sent_shortly_before_a_connection_timed_out_is_unanswered() {
    let server = EchoServer::start(Fault::Mute);
    let flags = "-c 1 -R 50 -p 200 -d 3s --timeout 2s";
    let json = run(&format!("{} {flags}", server.address)).expect(4).json();
    let account = account(&json);
    assert!(server.fired() > 0);
    assert!(account.timed_out > 0 && account.unanswered > 0, "{json}");
    // A request that was begun in the turn in which its connection is closed is never sent.
    let begun = json["requests_begun"].as_u64().unwrap();
    let sent = account.timed_out + account.unanswered;
    assert!((sent..=sent + account.never_sent).contains(&begun), "{json}");
    assert_eq!(account.offered, 150);
}

#[test]
fn a_generator_that_cannot_keep_its_schedule_says_so() {
    // Repeated in case that the server is later than the generator.
    const TRIES: usize = 20;
    let run = || loadgen("-c 100 -p 100 -t 1 -R 10m -d 500ms");
    let mut runs = std::iter::repeat_with(run).take(TRIES);
    let ended = runs.find(|ended| ended.code == Some(4)).expect("one that was too late");
    ended.says("Verdict: generator-limited: ").says("Offered: 5000000 requests: ");
}

/// How long the generator is stopped, at least.
const STOPPED: Duration = Duration::from_millis(500);

fn stop_for_a_while(run: &Running) {
    run.signal(Signal::STOP);
    thread::sleep(STOPPED);
    run.signal(Signal::CONT);
}

/// A stopped generator sends nothing, and what it sends afterwards waits for connections that it
/// keeps busy itself. So the generator was late, not the server.
#[test]
fn a_generator_that_was_stopped_for_a_while_says_so() {
    for flags in ["-c 2", "-c 3 --strict", "-c 2 -p 4"] {
        let server = EchoServer::start(Fault::None);
        let flags = format!("{} -t 1 -R 200 -n 400 {flags} --output-format json", server.address);
        let run = start(program(&flags));
        until("the first request is there", || (server.bytes() > 0).then_some(()));
        stop_for_a_while(&run);
        let json = run.wait().expect(4).json();
        assert_eq!(json["verdict"], "generator-limited", "{flags}");
        assert_eq!(account(&json).completed, 400, "{flags}");
        // All requests due in half a second of two are late by the rest of that time, not only the
        // first one of each connection: of a quarter of the requests, a tenth by 300 ms. The stop
        // is noticed 50 ms late if every connection was busy.
        let own_lag_p90 = json["own_lag"]["p90_ns"].as_u64().expect("nanoseconds");
        assert!(own_lag_p90 > 100_000_000, "{flags}: {json}");
    }
}

/// A closed loop has no schedule that would show it.
#[test]
fn a_closed_loop_that_was_stopped_for_a_while_says_how_long() {
    let server = EchoServer::start(Fault::None);
    let flags = format!("{} -t 1 -d 10m -c 2 --output-format json", server.address);
    let run = start(program(&flags));
    until("requests are answered", || (server.bytes() > 10_000).then_some(()));
    stop_for_a_while(&run);
    let before = server.bytes();
    until("it has gone on", || (server.bytes() > before + 10_000).then_some(()));
    run.signal(Signal::INT);
    let json = run.wait().expect(130).json();
    // For 50 ms of that it may have been asleep on purpose.
    assert!(json["longest_pause_ns"].as_u64().expect("a time") > 400_000_000, "{json}");
}

#[test]
fn an_interrupted_open_loop_still_adds_up() {
    let server = EchoServer::start(Fault::None);
    let flags = format!("{} -c 5 -R 1k -d 10m --output-format json", server.address);
    let run = start(program(&flags));
    until("requests are answered", || (server.bytes() > 10_000).then_some(()));
    run.signal(Signal::INT);
    let json = run.wait().expect(130).json();
    assert!(account(&json).completed > 150);
}

#[test]
fn warm_up_is_sent_and_not_recorded() {
    for rate in ["", "-R 2k"] {
        let server = EchoServer::start(Fault::None);
        let json = kept(&format!("{} -c 4 -w 500ms -n 300 {rate}", server.address));
        assert_eq!(account(&json).offered, 300, "{rate}");
        let warmup = json["requests_warmup"].as_u64().unwrap();
        assert!(warmup > 0, "{rate}");
        assert!(rate.is_empty() || warmup == 1_000, "{warmup}");
        assert_eq!(server.bytes(), (300 + warmup) * 64, "{rate}");
        assert_eq!(json["bytes_verified"], server.bytes(), "{rate}");
    }
}

#[test]
fn sizes_of_a_distribution_come_back_whole() {
    for sizes in ["uniform:1-5000", "list:1:5,100:3,70k:1"] {
        for load in ["-n 500 -c 3", "-n 500 -c 3 -p 7", "-n 500 -R 5k -c 3 -p 2"] {
            let server = EchoServer::start(Fault::None);
            let json = kept(&format!("{} -l {sizes} {load}", server.address));
            assert_eq!(account(&json).completed, 500, "{sizes} {load}");
            assert_eq!(json["bytes_verified"], server.bytes(), "{sizes} {load}");
            assert!(server.bytes() > 100_000);
        }
    }
}

#[test]
fn a_wrong_byte_among_sizes_is_found_where_it_is() {
    let server = EchoServer::start(Fault::Corrupt { connection: 1, offset: 2_345 });
    // Each connection has requests of its own, however late the other one is.
    let flags = "-c 2 -t 1 -R 20k --strict -n 5000 -l uniform:10-300";
    let ended = loadgen(&format!("{} {flags}", server.address)).expect(3);
    assert_eq!(server.fired(), 1);
    ended.says("connection 1, stream offset 2345 (request ");
}

#[test]
fn connections_are_begun_anew_at_the_end_of_their_lifetime() {
    for load in ["-n 1k", "-n 1k -p 4", "-R 2k -n 1k"] {
        let server = EchoServer::start(Fault::None);
        let json = kept(&format!("{} -c 5 --lifetime 10 {load}", server.address));
        assert_eq!(account(&json).completed, 1_000, "{load}");
        // At least a hundred connections, except those that begin together.
        assert!(begun_anew(&server, &json) >= 95, "{load}: {json}");
        assert_eq!(json["connections"]["lost"], 0, "{load}");
    }
}

#[test]
fn connections_are_begun_anew_when_their_time_is_over() {
    const LIVES: usize = 100;
    for load in ["-R 1k", ""] {
        let server = EchoServer::start(Fault::None);
        let flags = format!("{} -c 5 --lifetime 50ms -d 10m {load}", server.address);
        let run = start(program(&format!("{flags} --output-format json")));
        until("many have had their time", || (server.peers().len() > LIVES).then_some(()));
        run.signal(Signal::INT);
        let json = run.wait().expect(130).json();
        // An interrupted run may leave the last reply of each connection, and no earlier one.
        let account = account(&json);
        assert!(account.timed_out == 0 && account.unanswered <= 5, "{load}: {json}");
        assert!(begun_anew(&server, &json) as usize > LIVES - 10, "{load}: {json}");
    }
}

/// How many connections replaced one of five. Asserts that the server accepted as many and that
/// none was lost.
#[track_caller]
fn begun_anew(server: &EchoServer, json: &Value) -> u64 {
    let reconnects = json["reconnects"].as_u64().unwrap();
    let accepted = || server.peers().len() as u64;
    until("the server has accepted all", || (accepted() >= 5 + reconnects).then_some(()));
    // At the end, one that nobody waits for may be in progress in each place.
    assert!(accepted() <= 10 + reconnects, "{}: {json}", accepted());
    assert_eq!(json["connect_latency"]["count"], 5 + reconnects, "{json}");
    assert_eq!(json["connections"]["established"], 5, "{json}");
    assert_eq!(json["errors"], serde_json::json!({}), "{json}");
    reconnects
}

#[test]
fn a_network_of_source_addresses_is_used_in_order() {
    let server = EchoServer::start(Fault::None);
    let all = format!("{} -c 6 -n 12 --source-ip 127.0.3.0/29", server.address);
    let ended = loadgen(&all).expect(0);
    assert!(!ended.stderr.contains("source addresses are used"), "all are: {}", ended.stderr);
    until("all are accepted", || (server.peers().len() >= 6).then_some(()));
    let from: HashSet<_> = server.peers().into_iter().map(|peer| peer.to_string()).collect();
    let expected = (1..=6).map(|last| format!("127.0.3.{last}")).collect();
    assert_eq!(from, expected);
    let many = "-c 2 -n 2 --source-ip 127.0.0.0/8";
    let ended = loadgen(many).expect(0);
    ended.complains("the first 1024 source addresses are used; there are ");
    assert_eq!(loadgen(&format!("{many} --output-format quiet")).expect(0).stderr, "");
}

#[test]
fn rude_clients_do_what_they_say_and_are_kept_apart() {
    let with = "idle:20,slow-reader:2,half-close:3,reset:3,trickle:4";
    let begun = Instant::now();
    let json = kept(&format!("-c 5 -R 500 -d 1s --with {with}"));
    let whole_run = begun.elapsed();
    assert_eq!(account(&json).offered, 500, "theirs are not counted");
    let of = |kind: &str| {
        let kinds = json["rude_clients"].as_array().expect("a list");
        kinds.iter().find(|count| count["kind"] == kind).expect(kind).clone()
    };
    for (kind, asked) in
        [("idle", 20), ("slow-reader", 2), ("half-close", 3), ("reset", 3), ("trickle", 4)]
    {
        let count = of(kind);
        let number = |key: &str| count[key].as_u64().expect(key);
        assert_eq!((number("asked"), number("connect_failed")), (asked, 0), "{count}");
        assert!(number("established") >= asked, "{count}");
        assert_eq!(number("closed_by_server") + number("reset_by_server"), 0, "{count}");
        assert!(number("finished") > 0, "{count}");
    }
    assert_eq!((&of("idle")["bytes_sent"], &of("idle")["finished"]), (&0.into(), &20.into()));
    let bytes = |kind: &str, key: &str| of(kind)[key].as_u64().unwrap();
    assert!(bytes("half-close", "established") > 3, "again and again");
    assert_eq!(bytes("reset", "bytes_received"), 0);
    // Each reads at most a buffer of 4 KiB per 100 ms, and sends what there is room for.
    let reads_max = 2 * (whole_run.as_millis() as u64 / 100 + 2);
    assert!(bytes("slow-reader", "bytes_received") <= reads_max * (4 << 10), "{json}");
    assert!(bytes("slow-reader", "bytes_sent") > bytes("slow-reader", "bytes_received"), "{json}");
    assert!(bytes("trickle", "bytes_received") >= 4);
    assert_eq!(json["connections"]["established"], 5);
}

#[test]
fn half_closed_clients_have_their_whole_reply() {
    let server = EchoServer::start(Fault::None);
    let json = kept(&format!("{} -c 2 -R 100 -d 1s --with half-close:2", server.address));
    let count = &json["rude_clients"][0];
    let number = |key: &str| count[key].as_u64().expect(key);
    assert!(number("finished") > 2, "{count}");
    // The last ones may be cut off by the end of the run.
    assert!(number("bytes_received") + 2 * 4096 >= number("bytes_sent"), "{count}");
}

#[test]
fn the_seconds_add_up_to_the_whole() {
    let server = EchoServer::start(Fault::None);
    let json = kept(&format!("{} -c 10 -t 2 -R 1k -d 2500ms", server.address));
    let seconds = json["seconds"].as_array().expect("a list");
    // If a thread does not run when a second ends, that second becomes longer.
    assert!((1..=4).contains(&seconds.len()), "{}", seconds.len());
    let sum = |key: &str| seconds.iter().map(|second| second[key].as_u64().unwrap()).sum::<u64>();
    // On each connection, the first request may be sent before the first second is counted, and the
    // last one after the end of the last second; the same holds for replies.
    let Account { offered, never_sent, .. } = account(&json);
    let sent = offered - never_sent;
    assert_eq!(offered, 2_500);
    assert!((sent.saturating_sub(20)..=sent).contains(&sum("sent")), "{sent}: {}", sum("sent"));
    let replies = json["replies"].as_u64().unwrap();
    assert!(sum("replies").abs_diff(replies) <= 20, "{replies}: {}", sum("replies"));
    assert_eq!(json["generator_threads"].as_array().unwrap().len(), 2);
    assert!(json["fairness_jain"].as_f64().unwrap() > 0.9);
}

#[test]
fn flags_that_do_not_go_together_are_usage_errors() {
    for (flags, reason) in [
        ("--strict", "set a rate with -R"),
        ("--arrivals poisson", "set a rate with -R"),
        ("-R 1k --stages 1s:1k", "cannot be used with"),
        ("-R 0", "more than zero"),
        ("-R 1g", "not a rate"),
        ("--stages 10s", "TIME:RATE"),
        ("--lifetime never", "number of requests"),
        ("--with sleepy:3", "not a kind of rude client"),
        ("--source-ip 10.0.0.0/40", "/32"),
        ("-l uniform:5", "two sizes"),
        ("-w 5", "unit"),
        ("127.0.0.1:1-2000", "2000 target ports, but at most 1024"),
        ("127.0.0.1:9-8", "wrong order"),
    ] {
        loadgen(flags).expect(2).complains(reason);
    }
}

#[test]
fn connects_that_a_full_backlog_turned_away_are_told_with_the_remedy() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    // The same socket again, with a backlog of two.
    rustix::net::listen(&listener, 1).expect("it listens already");
    let address = listener.local_addr().expect("it is bound");
    // The kernel may accept a connect and then drop its last packet; bytes sent then arrive after a
    // few retransmissions. Each connection has its own schedule, so that none takes the requests of
    // another.
    let flags = format!("{address} -c 20 -R 20 --strict -d 2s --timeout 100s");
    let run = start(program(&flags));
    until("a connect is tried again", || is_connecting_again(address.port()).then_some(()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            thread::spawn(move || {
                let mut back = stream.try_clone().expect("another descriptor");
                // An error means that the client has closed.
                let _ = std::io::copy(&mut stream, &mut back);
            });
        }
    });
    let ended = run.wait();
    ended.says("Connects that took a second or more: ").says("--connect-rate");
    ended.says("20 established, 20 served, 0 lost");
}

/// Whether a client has repeated its first packet to this port of 127.0.0.1, which happens after
/// one second.
fn is_connecting_again(port: u16) -> bool {
    const SYN_SENT: &str = "02";
    let peer = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of sockets");
    table.lines().skip(1).any(|line| {
        // Number, local and remote address, state, queues, timer, retransmissions.
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[2] == peer && fields[3] == SYN_SENT && fields[6] != "00000000"
    })
}

/// Millions of requests that were never sent take seconds to count. Meanwhile the last replies would
/// lie in their sockets. Repeated in case that the machine is too busy.
#[test]
fn the_last_replies_do_not_wait_until_what_was_never_sent_is_counted() {
    let is_read_at_once = || {
        let server = EchoServer::start(Fault::Slow { wait: Duration::from_millis(50) });
        let json = run(&format!("{} -c 4 -t 1 -R 10m -d 400ms", server.address)).json();
        assert!(account(&json).never_sent > 3_000_000, "{json}");
        json["service_time"]["max_ns"].as_u64().expect("a time") < 1_000_000_000
    };
    assert!((0..5).any(|_| is_read_at_once()));
}
