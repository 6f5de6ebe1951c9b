//! Ten thousand clients at once, driven by an epoll client of these tests' own.

use std::time::Duration;

use crate::harness::{Client, Daemon, Fate, Fleet, alone, eventually, many_clients, meanwhile};

/// All are accepted and served, none is mixed up, and every file is given back.
#[test]
fn ten_thousand_clients_at_once_are_served_twice_and_leave_nothing_behind() {
    let _alone = alone();
    let clients = many_clients();
    let daemon = Daemon::start(&["--max-connections", &(clients + 10).to_string()]);
    let files = daemon.open_files();
    let mut fleet = Fleet::connect(daemon.address(), clients);
    fleet.echo(64);
    assert_eq!(daemon.stat("connections"), clients as u64);
    fleet.echo(1_000);
    assert_eq!(fleet.served(1_064), clients);
    assert!(daemon.open_files() >= files + clients, "the files of {clients} connections");
    drop(fleet);
    eventually("all files are given back", || daemon.open_files() == files);
    assert_eq!(daemon.stat("connections"), 0);
    assert_eq!(daemon.stat("accepted"), clients as u64);
    daemon.finish();
}

/// Failure mode 2: every connect at once, none refused, none timed out, on one and two workers.
#[test]
fn a_burst_of_ten_thousand_connects_is_taken_whole() {
    let _alone = alone();
    let clients = many_clients();
    for workers in ["1", "2"] {
        let most = (clients + 10).to_string();
        let daemon = Daemon::start(&["--max-connections", &most, "--workers", workers]);
        let mut fleet = Fleet::begin(daemon.address(), clients);
        fleet.drive("connecting in a burst");
        assert_eq!(fleet.count(Fate::Up), clients, "{:?}", fleet.fates());
        eventually("all are accepted", || daemon.stat("accepted") == clients as u64);
        fleet.echo(1);
        drop(fleet);
        daemon.finish();
    }
}

/// Everyone sends 64 KiB at once: every byte comes back, and resident memory stays under the sum
/// that was printed at start.
#[test]
fn a_burst_of_64_kib_from_each_stays_within_the_memory_sum() {
    let _alone = alone();
    let clients = many_clients();
    let daemon = Daemon::start(&["--max-connections", &(clients + 10).to_string()]);
    let sum = daemon.memory_sum();
    let mut fleet = Fleet::connect(daemon.address(), clients);
    let mut most = 0;
    let watch = || {
        most = daemon.rss_bytes().max(most);
        std::thread::sleep(Duration::from_millis(20));
    };
    meanwhile(watch, || fleet.echo(64 * 1024));
    println!("resident: {most} at most, printed sum: {sum}");
    assert!(most > 0 && most <= sum, "{most} bytes resident, the printed sum is {sum}");
    assert_eq!(fleet.received(), clients as u64 * 64 * 1024);
    drop(fleet);
    daemon.finish();
}

/// Clients that come and go: no file, no context and no permit is lost (failure mode 18).
#[test]
fn churn_leaks_nothing() {
    const ROUNDS: u64 = 20;
    let _alone = alone();
    let daemon = Daemon::start(&["--max-connections", "600", "--workers", "2"]);
    let files = daemon.open_files();
    for round in 0..ROUNDS {
        let mut fleet = Fleet::connect(daemon.address(), 500);
        fleet.echo(1 + round * 100);
        drop(fleet);
    }
    eventually("all files are given back", || daemon.open_files() == files);
    assert_eq!(daemon.stat("accepted"), ROUNDS * 500);
    assert_eq!(daemon.stat("connections"), 0);
    daemon.finish();
}

/// How evenly they serve is a figure; that each of four workers serves is a test.
#[test]
fn every_worker_serves() {
    const WORKERS: usize = 4;
    const ROUNDS: u64 = 50;
    let daemon = Daemon::start(&["--workers", "4"]);
    let mut fleet = Fleet::connect(daemon.address(), 400);
    let before = daemon.wake_ups();
    for _ in 0..ROUNDS {
        fleet.echo(100);
    }
    let after = daemon.wake_ups();
    let woken = |thread: &String| after[thread] - before.get(thread).unwrap_or(&0);
    let busy = after.keys().filter(|thread| woken(thread) >= ROUNDS / 5).count();
    assert!(busy >= WORKERS, "{busy} busy threads: {before:?}, then {after:?}");
    drop(fleet);
    daemon.finish();
}

#[test]
fn workers_that_poll_busily_never_sleep_and_do_all_that_others_do() {
    let flags = ["--workers", "2", "--busy-poll", "--idle-timeout", "3s", "--log", "debug"];
    let daemon = Daemon::start(&flags);
    let _quiet = Client::connect(daemon.address());
    let mut client = Client::connect(daemon.address());
    let before: u64 = daemon.wake_ups().values().sum();
    for _ in 0..500 {
        client.ping(100);
    }
    let after: u64 = daemon.wake_ups().values().sum();
    // One that sleeps does so between any two of them.
    assert!(after - before < 250, "{} wake-ups", after - before);
    // Timers and signals reach it as well.
    let idle: Vec<_> = daemon.wait_closed(2).into_iter().map(|closed| closed.reason).collect();
    assert_eq!(idle, ["idle-timeout", "idle-timeout"]);
    daemon.finish();
}
