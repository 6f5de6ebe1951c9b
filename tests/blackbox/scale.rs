//! Ten thousand clients at once, driven by the epoll client of these tests.

use std::time::Duration;

use crate::harness::{Client, Daemon, Fate, Fleet, alone, eventually, many_clients, meanwhile};

/// All clients are accepted and served, no streams are mixed up, and every file is closed.
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
    eventually("all files are closed", || daemon.open_files() == files);
    eventually("none is counted", || daemon.stat("connections") == 0);
    assert_eq!(daemon.stat("accepted"), clients as u64);
    daemon.finish();
}

/// Failure mode 2: all clients connect at once. None is refused or times out, on one or two
/// workers.
#[test]
fn a_burst_of_ten_thousand_connects_is_accepted() {
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

/// Each client sends 64 KiB at once. Every byte is echoed, and resident memory stays below the sum
/// that is printed at start.
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

/// Clients connect and leave: no file, no context and no permit is lost (failure mode 18).
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
    eventually("all files are closed", || daemon.open_files() == files);
    assert_eq!(daemon.stat("accepted"), ROUNDS * 500);
    eventually("none is counted", || daemon.stat("connections") == 0);
    daemon.finish();
}

/// Each of four workers serves clients. How evenly is a figure, not a test.
#[test]
fn every_worker_serves() {
    const WORKERS: usize = 4;
    // Each worker wakes up so often, but one that stands still for a while handles several rounds at
    // once.
    const WAKE_UPS: u64 = 10;
    const ROUNDS_MAX: usize = 1_000;
    let daemon = Daemon::start(&["--workers", "4"]);
    let mut fleet = Fleet::connect(daemon.address(), 400);
    let before = daemon.wake_ups();
    let mut after = before.clone();
    let all_serve = (0..ROUNDS_MAX).any(|_| {
        fleet.echo(100);
        after = daemon.wake_ups();
        let woken = |thread: &String| after[thread] - before.get(thread).unwrap_or(&0);
        after.keys().filter(|thread| woken(thread) >= WAKE_UPS).count() >= WORKERS
    });
    assert!(all_serve, "fewer busy threads: {before:?}, then {after:?}");
    drop(fleet);
    daemon.finish();
}

#[test]
fn busy_polling_workers_never_sleep_and_still_handle_timers_and_signals() {
    let flags = ["--workers", "2", "--busy-poll", "--idle-timeout", "3s", "--log", "debug"];
    let daemon = Daemon::start(&flags);
    let _quiet = Client::connect(daemon.address());
    let mut client = Client::connect(daemon.address());
    let before: u64 = daemon.wake_ups().values().sum();
    for _ in 0..500 {
        client.ping(100);
    }
    let after: u64 = daemon.wake_ups().values().sum();
    // A worker that sleeps does so between any two echoes.
    assert!(after - before < 250, "{} wake-ups", after - before);
    // Timers and signals still work.
    let idle: Vec<_> = daemon.wait_closed(2).into_iter().map(|closed| closed.reason).collect();
    assert_eq!(idle, ["idle-timeout", "idle-timeout"]);
    daemon.finish();
}
