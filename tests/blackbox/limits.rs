//! Limits: no free descriptors, permits or buffers, and clients that stall or idle. Other clients
//! are still served, and each connection is closed for the right reason.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    Client, Daemon, Fate, Fleet, GUARD, alone, eventually, meanwhile, trace_accepts,
};

/// How long a look for bytes waits.
const TICK: Duration = Duration::from_millis(1);

/// Turns time-outs off, so that they do not disturb the test of another limit.
const NO_TIMEOUTS: [&str; 4] = ["--idle-timeout", "off", "--send-timeout", "off"];

fn flags<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&NO_TIMEOUTS[..], more].concat()
}

/// Failure mode 1. Without free descriptors, the daemon keeps serving its clients, calls accept at
/// most 20 times per second, and accepts the next client when one leaves.
#[test]
fn without_free_files_the_daemon_waits_without_spinning_and_recovers() {
    const CLIENTS: usize = 200;
    let daemon = Daemon::start(&flags(&["--workers", "1", "--log", "info"]));
    daemon.limit_files(64);
    let mut fleet = Fleet::connect(daemon.address(), CLIENTS);
    fleet.aim(100);
    eventually("an accept fails", || {
        fleet.drive_for(Duration::from_millis(10));
        daemon.stat("accept_errors") > 0
    });
    let (mut served, mut quiet) = (0, 0);
    eventually("nobody else is served", || {
        fleet.drive_for(Duration::from_millis(10));
        let before = std::mem::replace(&mut served, fleet.served(100));
        quiet = if served == before && daemon.is_asleep() { quiet + 1 } else { 0 };
        quiet >= 20
    });
    assert!(served > 0 && served < 64, "{served} clients served with 64 files");

    watch_while_out_of_files(&daemon);
    fleet.drive_for(Duration::from_millis(100));
    assert_eq!(fleet.served(100), served, "a client was served although no file was free");

    let mut left = CLIENTS;
    while fleet.served(100) < fleet.len() {
        assert!(fleet.drop_one_served(100), "none served, {} waiting", fleet.len());
        left -= 1;
        let want = served.min(left);
        eventually(&format!("{want} of {left} served"), || {
            fleet.drive_for(Duration::from_millis(1));
            fleet.served(100) >= want
        });
    }
    assert_eq!(fleet.count(Fate::Up), fleet.len(), "clients lost: {:?}", fleet.fates());
    assert!(fleet.len() < CLIENTS, "no client had to wait");
    drop(fleet);
    daemon.finish();
}

/// Checks accept calls, processor time and warnings while clients wait and no file is free.
fn watch_while_out_of_files(daemon: &Daemon) {
    const WATCH: Duration = Duration::from_secs(3);
    const CALLS_PER_SECOND: f64 = 20.0;
    let (errors, warnings) = (daemon.stat("accept_errors"), daemon.lines_with("WARN").len());
    let (ticks, start) = (daemon.cpu_ticks(), Instant::now());
    let traced = trace_accepts(daemon.pid(), WATCH);
    if traced.is_none() {
        std::thread::sleep(WATCH);
    }
    let (ticks, seconds) = (daemon.cpu_ticks() - ticks, start.elapsed().as_secs_f64());
    let errors = daemon.stat("accept_errors") - errors;
    let warnings = daemon.lines_with("WARN").len() - warnings;

    assert!(errors > 0, "no accept failed: the limit was never reached");
    assert!(errors as f64 <= CALLS_PER_SECOND * seconds, "{errors} failures in {seconds} s");
    if let Some(traced) = traced {
        let (calls, seconds) = (traced.calls.len(), traced.time.as_secs_f64());
        let failed = traced.calls.iter().filter(|call| call.contains("EMFILE")).count();
        assert!(failed > 0, "strace saw no EMFILE: {:?}", traced.calls);
        assert!(calls as f64 <= CALLS_PER_SECOND * seconds, "{calls} accepts in {seconds} s");
    }
    // A loop that spins uses about 100 ticks a second.
    assert!((ticks as f64) < 20.0 * seconds, "{ticks} ticks of 10 ms in {seconds} s");
    assert!(warnings as f64 <= seconds + 2.0, "{warnings} warnings in {seconds} s");
    let all = daemon.lines_with("WARN");
    assert!(!all.is_empty(), "no warning that files ran out:\n{}", daemon.tail());
}

/// The connection limit is shared by all workers: no client waits in the backlog of one worker
/// while another has room.
#[test]
fn at_the_limit_the_rest_wait_and_each_is_served_as_one_leaves() {
    const LIMIT: usize = 10;
    const CLIENTS: usize = 30;
    for workers in ["1", "4"] {
        let flags = flags(&["--max-connections", "10", "--workers", workers, "--log", "debug"]);
        let daemon = Daemon::start(&flags);
        let mut fleet = Fleet::connect(daemon.address(), CLIENTS);
        fleet.aim(1_000);
        while fleet.len() > LIMIT {
            let want = LIMIT;
            eventually(&format!("{want} of {} served by {workers} workers", fleet.len()), || {
                fleet.drive_for(Duration::from_millis(1));
                fleet.served(1_000) >= want
            });
            fleet.drive_for(Duration::from_millis(20));
            assert_eq!(fleet.served(1_000), LIMIT, "served at once, {workers} workers");
            assert!(fleet.drop_one_served(1_000));
        }
        fleet.drive("the last ones");
        // Its line comes after all lines of these clients.
        assert!(daemon.stat("waits_for_slot") > 0, "no client had to wait");
        let most = daemon.lines_with(" connect id=");
        let most = most.iter().map(|line| crate::harness::named_values(line)["connections"]).max();
        assert_eq!(most, Some(LIMIT as u64), "the highest number of connections in the log");
        drop(fleet);
        daemon.wait_closed(CLIENTS);
        daemon.finish();
    }
}

/// The workers and listeners share the count of each address. Who is over the limit is reset, and
/// everybody else is served.
#[test]
fn one_address_takes_no_more_places_than_its_limit() {
    const MOST: usize = 5;
    const CLIENTS: usize = 20;
    let greedy = IpAddr::from([127, 0, 0, 2]);
    for workers in ["1", "4"] {
        let daemon = Daemon::start(&flags(&[
            "--max-connections",
            "20",
            "--max-connections-per-address",
            "5",
            "--workers",
            workers,
            "--log",
            "debug",
            "--listen",
            "127.0.0.1:0",
            "--listen",
            "127.0.0.1:0",
        ]));
        let connect = |number: usize| Client::connect_from(greedy, daemon.addresses()[number % 2]);
        let mut clients: Vec<_> = (0..CLIENTS).filter_map(|number| connect(number).ok()).collect();
        let refused = |count| {
            eventually(&format!("{count} are refused"), || {
                let totals = daemon.stats();
                totals.get("address-limit").copied().unwrap_or(0) == count
            });
        };
        refused((CLIENTS - MOST) as u64);
        eventually("the rest are reset", || {
            clients.iter().filter(|client| !client.readable_within(TICK)).count() == MOST
        });
        let mut idle: Vec<_> =
            clients.extract_if(.., |client| !client.readable_within(TICK)).collect();
        assert_eq!(idle.len(), MOST, "{workers} workers");
        for mut client in clients {
            // The look above has taken the error, and the end is what remains of it.
            assert_eq!(client.receive(1).unwrap_or(0), 0);
        }
        for client in &mut idle {
            client.ping(1_000);
        }
        let mut honest: Vec<_> = (0..MOST).map(|_| Client::connect(daemon.address())).collect();
        honest.iter_mut().for_each(|client| client.ping(1_000));

        // A place that comes free is the address's own.
        idle.pop().expect("there are five").close();
        daemon.wait_closed(1);
        let mut next = connect(0).expect("a place came free");
        next.ping(1_000);
        let error = connect(1).and_then(|mut over| over.receive(1));
        let error = error.expect_err("a reset, not FIN");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        refused((CLIENTS - MOST + 1) as u64);

        let totals = daemon.stats();
        assert_eq!(totals["connections"], 2 * MOST as u64);
        assert_eq!(totals["accepted"] - totals["closed"], totals["connections"]);
        let told = daemon.wait_lines(CLIENTS - MOST + 1, " refuse peer=127.0.0.2:").len();
        assert_eq!(told, CLIENTS - MOST + 1, "a line at level debug for each");
        let warned = daemon.lines_with("refused a connection of 127.0.0.2:").len();
        assert!((1..told).contains(&warned), "{warned} warnings:\n{}", daemon.tail());
        for client in idle.into_iter().chain(honest).chain([next]) {
            client.close();
        }
        daemon.finish();
    }
}

/// Many more clients than the limit, in waves, on four workers: each is served.
#[test]
fn two_thousand_clients_take_turns_at_a_limit_of_fifty() {
    let _alone = alone();
    let daemon = Daemon::start(&flags(&["--max-connections", "50", "--workers", "4"]));
    let all_are_there = Barrier::new(100);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                for round in 0..20 {
                    let mut client = Client::connect(daemon.address());
                    if round == 0 {
                        all_are_there.wait();
                    }
                    client.ping(500);
                    client.close();
                }
            });
        }
    });
    assert!(daemon.stat("accepted") >= 2_000);
    assert!(daemon.stat("waits_for_slot") > 0, "no client had to wait");
    daemon.finish();
}

/// Failure modes 5 and 6: a thousand clients send and never read. Memory stays constant and below
/// the printed sum, and an honest client is served in every second.
#[test]
fn clients_that_never_read_affect_neither_memory_nor_other_clients() {
    const STALLED: usize = 1_000;
    let _alone = alone();
    let daemon = Daemon::start(&flags(&["--workers", "2", "--max-connections", "1200"]));
    let sum = daemon.memory_sum();
    let mut honest = Client::connect(daemon.address());
    let mut stalled = Fleet::connect(daemon.address(), STALLED);
    let sent = stalled.fill_until_stuck();
    assert!(sent > STALLED as u64 * 100_000, "the clients sent only {sent} bytes");
    let mut resident = Vec::new();
    for second in 0..4 {
        let (start, mut rounds) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(1) || rounds == 0 {
            honest.ping(1_000);
            rounds += 1;
        }
        stalled.fill();
        resident.push(daemon.rss_bytes());
        assert!(resident[second] <= sum, "{} bytes resident, printed sum {sum}", resident[second]);
    }
    let (first, last) = (resident[0], resident[3]);
    assert!(last <= first + (1 << 20), "resident memory grows: {resident:?}");
    println!("resident: {resident:?}, printed sum: {sum}");
    honest.close();
    drop(stalled);
    eventually("all clients are gone", || daemon.stat("connections") == 0);
    daemon.finish();
}

/// Failure mode 11: eight buffers, all held by clients that never read.
#[test]
fn with_every_buffer_held_the_stalled_are_shed_and_an_honest_client_is_served() {
    const STALLED: usize = 30;
    let pool = ["--workers", "1", "--buffers", "8", "--shed-after", "100ms", "--log", "debug"];
    let daemon = Daemon::start(&flags(&pool));
    let mut stalled = Fleet::connect(daemon.address(), STALLED);
    let mut honest = Client::connect(daemon.address());
    // Repeated, because each shed client makes room for the next one to stall.
    let mut rounds = 0;
    eventually("several are shed", || {
        stalled.fill();
        honest.ping(3_000);
        rounds += 1;
        daemon.closed().iter().filter(|closed| closed.reason == "shed").count() >= 5
    });
    println!("{rounds} rounds of the honest client");
    let local = honest.local();
    honest.close();
    let waits = daemon.stat("waits_for_buffer");
    assert!(waits > 0, "no connection ever waited for a buffer");
    let shed: Vec<_> = daemon.closed().into_iter().filter(|it| it.reason == "shed").collect();
    assert!(shed.iter().all(|it| it.peer != local), "the honest client was shed");
    drop(stalled);
    daemon.wait_closed(STALLED + 1);
    daemon.finish();
}

/// Without waiters no client is shed, however long it stalls.
#[test]
fn no_client_is_shed_while_buffers_are_free() {
    let pool = ["--buffers", "1000", "--shed-after", "100ms", "--log", "debug"];
    let daemon = Daemon::start(&flags(&pool));
    let mut stalled = Fleet::connect(daemon.address(), 5);
    assert!(stalled.fill_until_stuck() > 0);
    let mut honest = Client::connect(daemon.address());
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        honest.ping(1_000);
    }
    assert!(daemon.closed().is_empty(), "{:?}", daemon.closed());
}

#[test]
fn clients_that_sent_while_the_daemon_was_stopped_are_not_idle() {
    // Longer than this thread may stand still before it stops the daemon.
    let daemon = Daemon::start(&["--workers", "1", "--idle-timeout", "3s"]);
    let mut clients: Vec<_> = (0..50).map(|_| Client::connect(daemon.address())).collect();
    clients.iter_mut().for_each(|client| client.ping(1));
    daemon.stop();
    clients.iter_mut().for_each(|client| client.send(5));
    thread::sleep(Duration::from_millis(3_500));
    daemon.signal(Signal::CONT);
    clients.iter_mut().for_each(|client| client.expect(5));
    drop(clients);
    daemon.finish();
}

/// Number of tries of a test that must run again before half of a time-out has passed.
const TRIES: u32 = 10;

#[test]
fn an_idle_client_is_closed_for_idleness_and_a_busy_one_is_not() {
    let is_staged = (0..TRIES).any(|_| idle_and_busy_clients());
    assert!(is_staged, "in each try this test did not run for half of the time-out");
}

/// Returns false if the busy client itself did not run for so long that it may look idle.
fn idle_and_busy_clients() -> bool {
    const PAUSE_MAX: Duration = Duration::from_secs(1);
    let daemon = Daemon::start(&["--idle-timeout", "2s", "--log", "debug"]);
    let mut silent = Client::connect(daemon.address());
    let mut was_busy = Client::connect(daemon.address());
    was_busy.ping(1_000);
    let start = Instant::now();
    let (mut last, mut busy) = (start, Client::connect(daemon.address()));
    // Watch the busy client for longer than the idle time-out.
    while start.elapsed() < Duration::from_secs(5)
        || ![&silent, &was_busy].iter().all(|idle| idle.readable_within(TICK))
    {
        let begun = Instant::now();
        assert!(begun - start < GUARD, "the idle clients are not closed");
        let result = busy.try_send_without_waiting(10).map_err(Into::into);
        let result = result.and_then(|_| busy.receive(10));
        if last.elapsed() > PAUSE_MAX {
            return false;
        }
        last = begun;
        assert_ne!(result.expect("sending and receiving"), 0, "the busy client got FIN");
        thread::sleep(Duration::from_millis(10));
    }
    // Its last bytes, if they came in two pieces.
    busy.expect(busy.in_transit());
    let busy_at = busy.local();
    busy.close();
    if last.elapsed() > PAUSE_MAX {
        return false;
    }
    silent.expect_fin();
    was_busy.expect_fin();
    let idle = [silent.local(), was_busy.local()];
    drop((silent, was_busy));
    for closed in daemon.wait_closed(3) {
        let reason = if idle.contains(&closed.peer) { "idle-timeout" } else { "peer-closed" };
        assert_eq!(closed.reason, reason, "{closed:?}, the busy one is {busy_at}");
    }
    daemon.finish();
    true
}

/// Receiving alone and sending alone each count as activity, for several idle time-outs.
#[test]
fn clients_that_only_listen_or_only_send_are_not_idle() {
    let is_staged = (0..TRIES).any(|_| clients_that_only_listen_or_only_send());
    assert!(is_staged, "in each try this test did not run for half of the time-out");
}

/// Returns false if the active clients themselves did not run for so long that they may look idle.
fn clients_that_only_listen_or_only_send() -> bool {
    const PAUSE_MAX: Duration = Duration::from_millis(500);
    let flags = ["--idle-timeout", "1s", "--log", "debug", "--listen", "discard://127.0.0.1:0"];
    // Without a linger, a connection that is closed for idleness has its line at once.
    let more = ["--listen", "hub://127.0.0.1:0", "--linger", "0s"];
    let daemon = Daemon::start(&[&flags[..], &more].concat());
    let connect = |at: usize| TcpStream::connect(daemon.addresses()[at]).expect("connecting");
    let mut last = Instant::now();
    // A member that only receives what another sends, and a client that never receives anything.
    let (mut listener, mut member, mut talker) = (connect(1), connect(1), connect(0));
    listener.set_read_timeout(Some(GUARD)).expect("setting a time-out");
    let active = [&listener, &member, &talker].map(|one| one.local_addr().expect("its address"));
    for idle in 1..=3 {
        // Closed for idleness: the time-out has passed once more.
        let _idle = connect(0);
        let start = Instant::now();
        let mut closed = Vec::new();
        while closed.len() < idle {
            let begun = Instant::now();
            assert!(begun - start < GUARD, "the idle client is not closed");
            let result = member.write_all(b"\x06\0\0\0\x03hello");
            let result = result.and_then(|()| talker.write_all(b"x"));
            let result = result.and_then(|()| listener.read(&mut [0; 4096]));
            closed = daemon.closed();
            if last.elapsed() > PAUSE_MAX {
                return false;
            }
            last = begun;
            assert_ne!(result.expect("sending and receiving"), 0, "FIN: {closed:?}");
            thread::sleep(Duration::from_millis(10));
        }
        for closed in closed {
            assert!(!active.contains(&closed.peer), "{closed:?}");
            assert_eq!(closed.reason, "idle-timeout");
        }
    }
    drop((listener, member, talker));
    daemon.wait_closed(6);
    daemon.finish();
    true
}

#[test]
fn a_client_that_reads_nothing_is_closed_by_the_send_timeout_and_an_idle_one_is_not() {
    let flags = ["--send-timeout", "1s", "--idle-timeout", "off", "--log", "debug"];
    let daemon = Daemon::start(&flags);
    let idle = Client::connect(daemon.address());
    let mut stalled = Client::connect_with_small_window(daemon.address(), 16 * 1024);
    let mut sent = 0;
    eventually("it is closed", || {
        // Keep sending, because a slow server may have room again after the path seemed full. An
        // error means that the connection was closed, as expected.
        sent += stalled.try_send_without_waiting(1 << 20).unwrap_or(0);
        !daemon.closed().is_empty()
    });
    assert!(sent > 100_000, "only {sent} bytes were sent");
    let closed = daemon.closed();
    assert_eq!(closed.len(), 1, "{closed:?}");
    assert_eq!((closed[0].peer, &closed[0].reason[..]), (stalled.local(), "send-timeout"));
    idle.close();
    let closed = daemon.wait_closed(2);
    assert_eq!(closed[1].reason, "peer-closed");
    daemon.finish();
}

/// A client that reads slowly is not stalled, however long it takes.
#[test]
fn a_client_that_reads_slowly_is_not_closed() {
    let flags = ["--send-timeout", "2s", "--idle-timeout", "off", "--log", "debug"];
    let daemon = Daemon::start(&flags);
    let is_staged = (0..TRIES).any(|_| {
        let before = daemon.closed().len();
        let taken =
            take_little_at_a_time(Client::connect_with_small_window(daemon.address(), 16 * 1024));
        let closed = daemon.wait_closed(before + 1);
        assert!(!taken || closed[before].reason == "peer-closed", "{closed:?}");
        taken
    });
    assert!(is_staged, "in each try this test did not run for half of the time-out");
    daemon.finish();
}

/// Reads for longer than the time-out of two seconds. The kernel reports room to the server only
/// when a third of its buffer, more than a megabyte, is free, which also takes longer. Returns
/// false if the client itself did not run for so long that it may look stalled.
fn take_little_at_a_time(mut client: Client) -> bool {
    const TOTAL: u64 = 6 << 20;
    // Bytes that are read with pauses, which takes more than five seconds.
    const SLOWLY: u64 = 2 << 20;
    const PAUSE_MAX: Duration = Duration::from_secs(1);
    let (mut sent, mut last) = (0, Instant::now());
    while client.received() < TOTAL {
        let result = client.try_send_without_waiting(TOTAL - sent).map_err(Into::into);
        let result = result.and_then(|taken| {
            sent += taken;
            let count = (sent - client.received()).min(2 * 1024);
            client.receive(count as usize)
        });
        if last.elapsed() > PAUSE_MAX {
            return false;
        }
        last = Instant::now();
        assert_ne!(result.expect("sending and receiving"), 0, "FIN after {}", client.received());
        if client.received() < SLOWLY {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    client.close();
    true
}

/// Failure mode 12: two thousand clients that trickle single bytes do not keep others out.
#[test]
fn while_two_thousand_trickle_new_clients_are_served() {
    const TRICKLERS: usize = 2_000;
    let _alone = alone();
    let daemon = Daemon::start(&flags(&["--workers", "2", "--buffers", "64"]));
    let mut fleet = Fleet::connect(daemon.address(), TRICKLERS);
    let mut clients = 0;
    for _ in 0..20 {
        fleet.echo(1);
        for _ in 0..5 {
            let mut client = Client::connect(daemon.address());
            client.ping(2_000);
            client.close();
            clients += 1;
        }
    }
    assert_eq!(clients, 100);
    assert_eq!(fleet.received(), 20 * TRICKLERS as u64);
    drop(fleet);
    daemon.finish();
}

/// Each holds one buffer, wherever its frames are cut. So with a few buffers more than clients
/// nobody ever waits for one.
#[test]
fn clients_that_trickle_frames_hold_one_buffer_each() {
    const TRICKLERS: usize = 50;
    let listeners = ["--listen", "framed://127.0.0.1:0?max-frame=1k", "--listen", "127.0.0.1:0"];
    let limits = ["--workers", "1", "--buffers", "60", "--log", "info"];
    let daemon = Daemon::start(&flags(&[&listeners[..], &limits].concat()));
    let [framed, echo] = *daemon.addresses() else { panic!("{:?}", daemon.addresses()) };
    let mut clients: Vec<TcpStream> = (0..TRICKLERS)
        .map(|_| {
            let client = TcpStream::connect(framed).expect("connecting");
            client.set_read_timeout(Some(GUARD)).expect("setting a time-out");
            client.set_nodelay(true).expect("setting no delay");
            client
        })
        .collect();
    // Always the end of a frame and the beginning of the next one, then a piece of that.
    let frames = [3, 0, 0, 0, b'a', b'b', b'c'].repeat(100);
    let mut at = 0;
    for count in [5, 7, 2, 5, 7, 2, 7, 3].into_iter().cycle() {
        let end = frames.len().min(at + count);
        clients.iter_mut().for_each(|client| client.write_all(&frames[at..end]).expect("sending"));
        let (before, after) = (at / 7 * 7, end / 7 * 7);
        for client in &mut clients {
            let mut reply = vec![0; after - before];
            client.read_exact(&mut reply).expect("a reply");
            assert_eq!(reply, frames[before..after]);
        }
        Client::connect(echo).ping(1_000);
        at = end;
        if at == frames.len() {
            break;
        }
    }
    assert_eq!(daemon.stat("waits_for_buffer"), 0);
    drop(clients);
    daemon.finish();
}

/// Failure mode 10: beside one client that streams as fast as it can, 99 others receive every
/// reply. How fast is a figure, not a test.
#[test]
fn beside_a_hot_connection_all_quiet_ones_are_served() {
    const ROUNDS: u64 = 20;
    let daemon = Daemon::start(&flags(&["--workers", "1"]));
    let mut quiet = Fleet::connect(daemon.address(), 99);
    let mut hot = Fleet::connect(daemon.address(), 1);
    hot.set_window(4 << 20);
    hot.set_endless();
    let (moved, mut rounds) = (AtomicU64::new(0), 0);
    let stream = || {
        hot.drive_for(Duration::from_millis(5));
        moved.store(hot.received(), Ordering::Relaxed);
    };
    // Continue until the hot client has streamed: on a busy machine it may have to wait for a
    // processor.
    let has_streamed = || moved.load(Ordering::Relaxed) > 1 << 20;
    meanwhile(stream, || {
        eventually("the hot client streams", || {
            quiet.echo(64);
            rounds += 1;
            rounds >= ROUNDS && has_streamed()
        });
    });
    assert_eq!(quiet.served(64 * rounds), 99);
    drop((quiet, hot));
    daemon.finish();
}

/// Bytes of the frame with which a hub welcomes a member: its length, its type, and the member's id.
const WELCOME_BYTES: usize = 4 + 1 + 8;

/// A frame to a hub.
fn hub_frame(kind: u8, fields: &[u8]) -> Vec<u8> {
    [&(fields.len() as u32 + 1).to_le_bytes()[..], &[kind], fields].concat()
}

/// Stalled clients that hold all buffers or wait for one, ten for each buffer, and an honest
/// client behind them. If each of them took a second, it would wait for longer than its time-out.
#[test]
fn any_number_of_stalled_clients_keeps_nobody_waiting() {
    const BUFFERS: usize = 16;
    let part_of = |head: &[u8]| [head, &[1; 60_000]].concat();
    let frame = 65_536_u32.to_le_bytes();
    // Of a message to all members.
    let part_of_message = hub_frame(3, &[1; 16_000])[..15_000].to_vec();
    // What a stalled client sends and another one asks, and the lengths of the greeting and of the
    // reply.
    let cases = [
        ("tcp", vec![1; 1 << 20], b"echo".to_vec(), 0, 4),
        ("framed", part_of(&frame), [&4_u32.to_le_bytes()[..], b"echo"].concat(), 0, 8),
        ("timed", part_of(&frame), [&32_u32.to_le_bytes()[..], &[0; 32]].concat(), 0, 36),
        ("message", part_of(b""), b"echo<EOF>".to_vec(), 0, 9),
        ("hub", part_of_message, hub_frame(3, b"echo"), WELCOME_BYTES, 18),
    ];
    for (service, stalled_with, request, greeting, reply) in cases {
        for workers in ["1", "2"] {
            let options = match service {
                "framed" | "timed" => "?max-frame=65536",
                "message" => "?after=keep",
                "hub" => "?notices=off",
                _ => "",
            };
            let url = format!("{service}://127.0.0.1:0{options}");
            let buffers = BUFFERS.to_string();
            let daemon = Daemon::start(&flags(&[
                "--listen",
                &url,
                "--workers",
                workers,
                "--buffers",
                &buffers,
                "--shed-after",
                "100ms",
            ]));
            let connect =
                || TcpStream::connect_timeout(&daemon.address(), GUARD).expect("connecting");
            let stalled: Vec<TcpStream> = (0..10 * BUFFERS).map(|_| connect()).collect();
            let send = |mut client: &TcpStream| client.write(&stalled_with);
            for client in &stalled {
                client.set_nonblocking(true).expect("setting an option");
                send(client).expect("sending");
            }
            eventually("one waits for a buffer", || {
                if service == "tcp" {
                    // Until it cannot be sent back any more.
                    stalled.iter().for_each(|client| drop(send(client)));
                }
                daemon.stat("waits_for_buffer") > 0
            });
            let mut honest = connect();
            honest.set_read_timeout(Some(GUARD)).expect("setting a time-out");
            honest.read_exact(&mut vec![0; greeting]).expect("a greeting in time");
            for _ in 0..3 {
                honest.write_all(&request).expect("sending");
                honest.read_exact(&mut vec![0; reply]).expect("a reply in time");
            }
            drop((honest, stalled));
            daemon.finish();
        }
    }
}

/// Members of a hub of which none reads, and each sends to the next one: their queues and the messages
/// that find no room hold all buffers. Another member is welcomed, and gets its own messages.
#[test]
fn members_that_do_not_read_keep_no_other_member_waiting() {
    const BUFFERS: usize = 16;
    for workers in ["1", "2"] {
        let buffers = BUFFERS.to_string();
        let hub = ["--listen", "hub://127.0.0.1:0?notices=off", "--shed-after", "100ms"];
        let limits = ["--workers", workers, "--buffers", &buffers];
        let daemon = Daemon::start(&flags(&[&hub[..], &limits].concat()));
        let join = |window: usize| {
            let member = Client::connect_with_small_window(daemon.address(), window);
            let mut member = member.into_stream();
            let mut welcome = [0; WELCOME_BYTES];
            member.read_exact(&mut welcome).expect("a welcome in time");
            (member, welcome[5..].to_vec())
        };
        let (members, ids): (Vec<_>, Vec<_>) = (0..10 * BUFFERS).map(|_| join(2048)).unzip();
        let to = |id: &[u8], text: &[u8]| hub_frame(2, &[id, text].concat());
        let messages = ids.iter().cycle().skip(1).map(|id| to(id, &[1; 16_000]));
        let mut rest: Vec<_> = members
            .iter()
            .zip(messages)
            .map(|(member, message)| {
                member.set_nonblocking(true).expect("setting an option");
                (member, message, 0)
            })
            .collect();
        eventually("many have waited for a buffer", || {
            for (member, message, at) in &mut rest {
                // As much as it takes: the system's buffers of 160 clients hold a lot.
                for _ in 0..64 {
                    let Ok(sent) = member.write(&message[*at..]) else { break };
                    *at = (*at + sent) % message.len();
                }
            }
            daemon.stat("waits_for_buffer") >= BUFFERS as u64
        });
        let (mut honest, id) = join(1 << 20);
        for _ in 0..3 {
            honest.write_all(&to(&id, b"hello")).expect("sending");
            // The length, the type, whether it is for all, from whom it is, and the text.
            let mut message = [0; 4 + 1 + 1 + 8 + 5];
            honest.read_exact(&mut message).expect("a message in time");
            assert!(message.ends_with(b"hello"), "{message:?}");
        }
        drop((honest, members));
        daemon.finish();
    }
}
